package storetest_test

import (
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/polargate/polargate"
	"github.com/polargate/polargate/internal/testprogram"
	"github.com/polargate/polargate/storetest"
)

func TestMain(m *testing.M) {
	testprogram.Overlap() // the rules wait for what ends by itself
	os.Exit(m.Run())
}

func TestStoresKeepTheirContract(t *testing.T) {
	t.Parallel()
	t.Run("FileStore", func(t *testing.T) {
		t.Parallel()
		storetest.Store(t, func(t *testing.T) polargate.Store {
			return polargate.FileStore(filepath.Join(t.TempDir(), "made", "when", "needed"))
		})
	})
	t.Run("MemoryStore", func(t *testing.T) {
		t.Parallel()
		storetest.Store(t, func(*testing.T) polargate.Store { return &polargate.MemoryStore{} })
	})
}

func TestWhatIsSharedInMemoryKeepsTheContract(t *testing.T) {
	t.Parallel()
	storetest.Shared(t, func(*testing.T) polargate.Shared { return polargate.SharedInMemory() })
}

func TestWhatIsSharedInAFileKeepsTheContract(t *testing.T) {
	t.Parallel()
	var paths sync.Map // of each Shared
	open := func(path string) polargate.Shared {
		s := polargate.SharedFile(path)
		paths.Store(s, path)
		return s
	}
	path := func(s polargate.Shared) string {
		p, _ := paths.Load(s)
		return p.(string)
	}
	storetest.Shared(t,
		func(t *testing.T) polargate.Shared {
			return open(filepath.Join(t.TempDir(), "made", "customers.state"))
		},
		storetest.Replica(func(_ *testing.T, of polargate.Shared) polargate.Shared { return open(path(of)) }),
		storetest.Spoil(func(t *testing.T, of polargate.Shared, _ string) {
			f, err := os.OpenFile(path(of), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if _, err := f.WriteString("another program's line\n"); err != nil {
				t.Fatal(err)
			}
		}),
	)
}

func TestAFileWithoutAPathIsAnErrorOfEveryCall(t *testing.T) {
	t.Parallel()
	s := polargate.SharedFile("")
	if _, err := s.Get(t.Context(), "k"); err == nil {
		t.Fatal("it was read")
	}
	if _, err := s.Put(t.Context(), "", polargate.SharedRecord{Key: "k"}); err == nil {
		t.Fatal("it was written")
	}
}

func TestAFileThatIsAwayFailsAtOnceAndWorksAgainWhenItIsBack(t *testing.T) {
	t.Parallel()
	must := func(err error) {
		if err != nil {
			t.Fatal(err)
		}
	}
	file := filepath.Join(t.TempDir(), "customers.state")
	s := polargate.SharedFile(file)
	at := polargate.NewFactTime(time.Now())
	_, err := s.Put(t.Context(), "", polargate.SharedRecord{Key: "k", At: at, Data: []byte("x"), TTL: time.Hour})
	must(err)
	listening := make(chan error, 1)
	go func() { listening <- s.Listen(t.Context(), func([]string, bool) {}) }()
	must(os.Rename(file, file+".saved"))
	must(os.Mkdir(file, 0o700))
	if _, err := s.Get(t.Context(), "k"); err == nil {
		t.Fatal("a folder was read")
	}
	if _, err := s.Put(t.Context(), "", polargate.SharedRecord{Key: "k", At: at, TTL: time.Hour}); err == nil {
		t.Fatal("a folder was written")
	}
	if err := <-listening; err == nil {
		t.Fatal("listening ended without an error")
	}
	must(os.Remove(file))
	must(os.Rename(file+".saved", file))
	records, err := s.Get(t.Context(), "k")
	must(err)
	if len(records) != 1 || string(records[0].Data) != "x" {
		t.Fatalf("%+v", records)
	}
}
