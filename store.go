package polargate

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/gofrs/flock"
)

// ErrNotStored is what Store.Load returns when nothing is stored by that name.
var ErrNotStored = errors.New("polargate: nothing stored by that name")

// A Store keeps a Gate's sealed state. What it is given is encrypted already,
// and small: a few KiB. Names consist of the characters a-z, 0-9, - and dot.
// All methods must be safe for use by many goroutines.
type Store interface {
	// Load returns what was saved last, or an error that is ErrNotStored.
	Load(ctx context.Context, name string) ([]byte, error)
	// Save replaces what is stored, as a whole or not at all, and returns when
	// a crash can no longer undo it.
	Save(ctx context.Context, name string, data []byte) error
	// Lock keeps others who share this store out of name until unlock is
	// called, waiting no longer than ctx allows. It does not affect Load and
	// Save. An error that is errors.ErrUnsupported means that this store
	// cannot be shared between processes; a Gate then does without.
	Lock(ctx context.Context, name string) (unlock func(), err error)
}

// maxState bounds what is read from a store.
const maxState = 1 << 20

// FileStore keeps the state in the folder of that path, which is made, for this
// user alone, when something is saved. The files in it have mode 0600.
type FileStore string

// Load reads a file.
func (s FileStore) Load(_ context.Context, name string) ([]byte, error) {
	var f *os.File
	err := patiently(func() (err error) { f, err = os.Open(s.path(name)); return err })
	if errors.Is(err, fs.ErrNotExist) {
		return nil, ErrNotStored
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxState+1))
	// One byte over the limit is enough to be recognised as nobody's state.
	return data, err
}

// Save writes a file beside the old one, syncs it, and puts it in its place.
func (s FileStore) Save(_ context.Context, name string, data []byte) (err error) {
	if err := os.MkdirAll(string(s), 0o700); err != nil {
		return err
	}
	s.sweep(name)
	// CreateTemp makes it with mode 0600.
	temp, err := os.CreateTemp(string(s), name+".*.tmp")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = temp.Close()
			_ = os.Remove(temp.Name())
		}
	}()
	if _, err := temp.Write(data); err != nil {
		return err
	}
	if err := temp.Sync(); err != nil {
		return err
	}
	if err := temp.Close(); err != nil {
		return err
	}
	if err := patiently(func() error { return os.Rename(temp.Name(), s.path(name)) }); err != nil {
		return err
	}
	s.syncFolder()
	return nil
}

// patiently does what Windows may refuse for a moment, while a virus scanner or
// an indexer holds a file open, again for up to a second.
func patiently(do func() error) error {
	err := do()
	for wait := 10 * time.Millisecond; runtime.GOOS == "windows" && err != nil && !errors.Is(err, fs.ErrNotExist) && wait < time.Second; wait *= 2 {
		time.Sleep(wait)
		err = do()
	}
	return err
}

// syncFolder makes a rename last. A failure is not reported: the new file is in
// place, and who was told otherwise would undo what goes with it. Some systems
// cannot sync folders at all, and their renames last by themselves.
func (s FileStore) syncFolder() {
	if runtime.GOOS == "windows" {
		return
	}
	if folder, err := os.Open(string(s)); err == nil {
		_ = folder.Sync()
		_ = folder.Close()
	}
}

// sweep removes what a crash left half-written. A file that is younger than an
// hour may be another process's at work.
func (s FileStore) sweep(name string) {
	entries, _ := os.ReadDir(string(s))
	for _, entry := range entries {
		if !strings.HasPrefix(entry.Name(), name+".") || !strings.HasSuffix(entry.Name(), ".tmp") {
			continue
		}
		if info, err := entry.Info(); err == nil && time.Since(info.ModTime()) > time.Hour {
			_ = os.Remove(s.path(entry.Name()))
		}
	}
}

// Lock takes the lock of a file of its own, name.lock, which stays in the
// folder: removing it would let two holders in. The system releases it when
// the process ends, however it ends.
func (s FileStore) Lock(ctx context.Context, name string) (func(), error) {
	if err := os.MkdirAll(string(s), 0o700); err != nil {
		return nil, err
	}
	lock := flock.New(s.path(name+".lock"), flock.SetPermissions(0o600))
	if _, err := lock.TryLockContext(ctx, 20*time.Millisecond); err != nil {
		_ = lock.Close()
		return nil, err
	}
	return func() { _ = lock.Close() }, nil
}

// tryWriting reports why nothing can be saved; nil if it can. It leaves nothing
// behind.
func (s FileStore) tryWriting() error {
	// What is made for it is taken away again, the innermost first.
	var made []string
	for folder := filepath.Clean(string(s)); ; folder = filepath.Dir(folder) {
		if _, err := os.Stat(folder); err == nil || folder == filepath.Dir(folder) {
			break
		}
		made = append(made, folder)
	}
	defer func() {
		for _, folder := range made {
			_ = os.Remove(folder)
		}
	}()
	if err := os.MkdirAll(string(s), 0o700); err != nil {
		return err
	}
	temp, err := os.CreateTemp(string(s), "try.*.tmp")
	if err != nil {
		return err
	}
	_, err = temp.Write(make([]byte, 4096))
	return errors.Join(err, temp.Sync(), temp.Close(), os.Remove(temp.Name()))
}

func (s FileStore) path(name string) string { return filepath.Join(string(s), name) }

// MemoryStore keeps the state for the life of the process, for tests and for
// programs that keep their state elsewhere. The zero value is empty and ready
// to use; it must not be copied.
type MemoryStore struct {
	mu    sync.Mutex
	data  map[string][]byte
	locks map[string]chan struct{}
}

// Load returns a copy of what was saved.
func (s *MemoryStore) Load(_ context.Context, name string) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	data, ok := s.data[name]
	if !ok {
		return nil, ErrNotStored
	}
	return slices.Clone(data), nil
}

// Save keeps a copy.
func (s *MemoryStore) Save(_ context.Context, name string, data []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.data == nil {
		s.data = make(map[string][]byte)
	}
	s.data[name] = slices.Clone(data)
	return nil
}

// Lock waits for its turn.
func (s *MemoryStore) Lock(ctx context.Context, name string) (func(), error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s.mu.Lock()
	lock, ok := s.locks[name]
	if !ok {
		lock = make(chan struct{}, 1)
		if s.locks == nil {
			s.locks = make(map[string]chan struct{})
		}
		s.locks[name] = lock
	}
	s.mu.Unlock()
	select {
	case lock <- struct{}{}:
		return func() { <-lock }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// noStore stands in where no folder for the state could be found. Nothing is
// stored in it, and saving says why.
type noStore struct{ err error }

func (s noStore) Load(context.Context, string) ([]byte, error) { return nil, ErrNotStored }

func (s noStore) Save(context.Context, string, []byte) error { return s.err }

func (s noStore) Lock(context.Context, string) (func(), error) { return nil, s.err }

// defaultStore is a folder of the program's own where the system wants such
// things: ~/.config on Linux, AppData on Windows, Library on macOS.
func defaultStore(app string) Store {
	folder, err := os.UserConfigDir()
	if err != nil {
		return noStore{fmt.Errorf("no folder for settings is known: %w", err)}
	}
	return FileStore(filepath.Join(folder, app, "license"))
}
