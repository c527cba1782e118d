package storetest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/polargate/polargate"
)

// Store runs what every polargate.Store must do. open gives an empty store to each
// subtest. A store whose Lock answers errors.ErrUnsupported is held to the rest.
func Store(t *testing.T, open func(t *testing.T) polargate.Store) {
	for _, rule := range []struct {
		name  string
		locks bool
		test  func(*testing.T, polargate.Store)
	}{
		{"what was never saved is not stored", false, storeNothing},
		{"what was saved last is loaded", false, storeLast},
		{"names are kept apart", false, storeNames},
		{"a caller's bytes stay the caller's", false, storeBytes},
		{"a reader sees the old data or the new, whole", false, storeWhole},
		{"saving needs no lock and a lock stores nothing", true, storeUnlocked},
		{"locks of other names are free", true, storeOtherLocks},
		{"a lock can be taken again when it was released", true, storeLockAgain},
		{"a wait for a lock ends with its context", true, storeLockContext},
		{"a lock lets one goroutine in at a time", true, storeLockOne},
		{"no update under the lock is lost", true, storeLockUpdate},
	} {
		t.Run(rule.name, func(t *testing.T) {
			t.Parallel()
			s := open(t)
			if rule.locks {
				unlock, err := s.Lock(bounded(t), "try")
				if errors.Is(err, errors.ErrUnsupported) {
					t.Skip("this store has no locks")
				}
				noError(t, err)
				unlock()
			}
			rule.test(t, s)
		})
	}
}

func save(t *testing.T, s polargate.Store, name string, data []byte) {
	t.Helper()
	noError(t, s.Save(bounded(t), name, data))
}

func loads(t *testing.T, s polargate.Store, name string, want []byte) {
	t.Helper()
	got, err := s.Load(bounded(t), name)
	noError(t, err)
	if !bytes.Equal(want, got) {
		t.Fatalf("%s: %d bytes were saved, %d others loaded", name, len(want), len(got))
	}
}

func notStored(t *testing.T, s polargate.Store, name string) {
	t.Helper()
	if data, err := s.Load(bounded(t), name); !errors.Is(err, polargate.ErrNotStored) || len(data) != 0 {
		t.Fatalf("%s is not stored: %q, %v", name, data, err)
	}
}

func lock(t *testing.T, s polargate.Store, name string) (unlock func()) {
	t.Helper()
	unlock, err := s.Lock(bounded(t), name)
	noError(t, err)
	return unlock
}

func storeNothing(t *testing.T, s polargate.Store) {
	notStored(t, s, "a.sealed")
	save(t, s, "a.sealed", []byte("x"))
	notStored(t, s, "b.sealed")
}

func storeLast(t *testing.T, s polargate.Store) {
	for _, data := range [][]byte{[]byte("one"), bytes.Repeat([]byte{0, 255}, 5000), []byte("shorter"), {}} {
		save(t, s, "a.sealed", data)
		loads(t, s, "a.sealed", data)
	}
}

func storeNames(t *testing.T, s polargate.Store) {
	names := []string{"a", "a.sealed", "a.sealed.corrupt", "a-1", "b", "license-0123456789ab.sealed", "license-0123456789ab.sealed.check"}
	for _, name := range names {
		save(t, s, name, []byte("data of "+name))
	}
	for _, name := range names {
		loads(t, s, name, []byte("data of "+name))
	}
}

func storeBytes(t *testing.T, s polargate.Store) {
	data := []byte("as saved")
	save(t, s, "a", data)
	copy(data, "changed!")
	got, err := s.Load(bounded(t), "a")
	noError(t, err)
	if string(got) != "as saved" {
		t.Fatal("what was saved is the caller's memory still")
	}
	copy(got, "changed!")
	loads(t, s, "a", []byte("as saved"))
}

func storeUnlocked(t *testing.T, s polargate.Store) {
	defer lock(t, s, "a")()
	notStored(t, s, "a")
	save(t, s, "a", []byte("x"))
	loads(t, s, "a", []byte("x"))
}

func storeOtherLocks(t *testing.T, s polargate.Store) {
	defer lock(t, s, "a")()
	lock(t, s, "a.check")()
}

func storeLockAgain(t *testing.T, s polargate.Store) {
	for range 20 {
		lock(t, s, "a")()
	}
}

func storeLockContext(t *testing.T, s polargate.Store) {
	unlock := lock(t, s, "a")
	ctx, cancel := context.WithTimeout(bounded(t), 50*time.Millisecond)
	defer cancel()
	if got, err := s.Lock(ctx, "a"); !errors.Is(err, context.DeadlineExceeded) || got != nil {
		t.Fatalf("the wait ended with %v", err)
	}
	cancelled, cancel := context.WithCancel(bounded(t))
	cancel()
	if _, err := s.Lock(cancelled, "a"); !errors.Is(err, context.Canceled) {
		t.Fatalf("the wait ended with %v", err)
	}
	unlock()
	lock(t, s, "a")() // a caller that gave up does not keep it from others
}

func storeLockOne(t *testing.T, s polargate.Store) {
	var inside, entered atomic.Int32
	var others sync.WaitGroup
	for range 8 {
		others.Go(func() {
			for range 10 {
				unlock, err := s.Lock(bounded(t), "a")
				if err != nil {
					t.Errorf("lock: %v", err)
					return
				}
				if inside.Add(1) != 1 {
					t.Error("two are inside")
				}
				entered.Add(1)
				runtime.Gosched()
				inside.Add(-1)
				unlock()
			}
		})
	}
	others.Wait()
	if entered.Load() != 80 {
		t.Errorf("%d of 80 were inside", entered.Load())
	}
}

func storeWhole(t *testing.T, s polargate.Store) {
	ctx := bounded(t)
	save(t, s, "a", whole(0, 0))
	writing, stop := context.WithCancel(ctx)
	defer stop()
	var readers, writers sync.WaitGroup
	var reads atomic.Int32
	for range 4 {
		readers.Go(func() {
			for writing.Err() == nil || reads.Load() < 100 {
				data, err := s.Load(ctx, "a")
				if err == nil {
					_, err = readWhole(data)
				}
				if err != nil {
					t.Errorf("load: %v", err)
					return
				}
				reads.Add(1)
				if runtime.GOOS == "windows" {
					// A file that is open all the time is never replaced there.
					time.Sleep(5 * time.Millisecond)
				}
			}
		})
	}
	for writer := range 2 {
		writers.Go(func() {
			for i := range 40 {
				if err := s.Save(ctx, "a", whole(uint64(writer*40+i), (i*7919)%60_000)); err != nil {
					t.Errorf("save: %v", err)
					return
				}
			}
		})
	}
	writers.Wait()
	stop()
	readers.Wait()
	data, err := s.Load(ctx, "a")
	noError(t, err)
	number, err := readWhole(data)
	noError(t, err)
	if number != 39 && number != 79 {
		t.Fatalf("the last save of a writer is what stays, not number %d", number)
	}
}

func storeLockUpdate(t *testing.T, s polargate.Store) {
	ctx := bounded(t)
	var others sync.WaitGroup
	for range 4 {
		others.Go(func() {
			for range 10 {
				if err := countUnderLock(ctx, s, "a"); err != nil {
					t.Errorf("update: %v", err)
					return
				}
			}
		})
	}
	others.Wait()
	data, err := s.Load(ctx, "a")
	noError(t, err)
	number, err := readWhole(data)
	noError(t, err)
	if number != 40 {
		t.Fatalf("counted to %d instead of 40", number)
	}
}

// countUnderLock adds one to the number that is stored.
func countUnderLock(ctx context.Context, s polargate.Store, name string) error {
	unlock, err := s.Lock(ctx, name)
	if err != nil {
		return err
	}
	defer unlock()
	var number uint64
	data, err := s.Load(ctx, name)
	switch {
	case err == nil:
		if number, err = readWhole(data); err != nil {
			return err
		}
	case !errors.Is(err, polargate.ErrNotStored):
		return err
	}
	return s.Save(ctx, name, whole(number+1, int(number)))
}

// whole makes data that tells on its own whether all of it is there: a number, bytes
// that follow from it, as many as size says, and a sum over both.
func whole(number uint64, size int) []byte {
	data := binary.BigEndian.AppendUint64(nil, number)
	data = append(data, bytes.Repeat([]byte{byte(number)}, size)...)
	sum := sha256.Sum256(data)
	return append(data, sum[:]...)
}

func readWhole(data []byte) (number uint64, err error) {
	if len(data) < 8+sha256.Size {
		return 0, fmt.Errorf("only %d bytes", len(data))
	}
	body, sum := data[:len(data)-sha256.Size], data[len(data)-sha256.Size:]
	if want := sha256.Sum256(body); !bytes.Equal(want[:], sum) {
		return 0, fmt.Errorf("%d bytes that do not belong together", len(data))
	}
	return binary.BigEndian.Uint64(body), nil
}
