package storetest_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/polargate/polargate"
	"github.com/polargate/polargate/storetest"
)

// mine stands for a Shared of your own. Here it is the one in a file.
type mine struct {
	polargate.Shared
	path string
}

func openMine(path string) mine { return mine{polargate.SharedFile(path), path} }

// A test of a Shared of your own calls the suite, and tells it what else can be done to
// the store.
func ExampleShared() {
	_ = func(t *testing.T) { // func TestMySharedKeepsItsContract
		storetest.Shared(t,
			func(t *testing.T) polargate.Shared { return openMine(filepath.Join(t.TempDir(), "customers.state")) },
			storetest.Replica(func(_ *testing.T, of polargate.Shared) polargate.Shared { return openMine(of.(mine).path) }),
			storetest.Cut(func(t *testing.T, of polargate.Shared) (mend func()) {
				t.Skip("a store on the network ends the connections of this one here, and refuses new ones")
				return nil
			}),
			storetest.Spoil(func(t *testing.T, of polargate.Shared, _ string) {
				if err := os.WriteFile(of.(mine).path, []byte("something else"), 0o600); err != nil {
					t.Fatal(err)
				}
			}),
		)
	}
}

// A test of a Store of your own calls the suite.
func ExampleStore() {
	_ = func(t *testing.T) { // func TestMyStoreKeepsItsContract
		storetest.Store(t, func(*testing.T) polargate.Store { return &polargate.MemoryStore{} })
	}
}
