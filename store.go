package polargate

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/gofrs/flock"
	"github.com/polargate/polargate/internal/disk"
	"github.com/polargate/polargate/internal/owned"
)

// ErrNotStored is the error of Store.Load if nothing is stored under that name.
var ErrNotStored = errors.New("polargate: nothing stored by that name")

// A Store keeps a Gate's sealed state. The data is already encrypted and small: a few
// KiB. Names consist of the characters a-z, 0-9, - and dot. All methods must be safe for
// use by many goroutines.
type Store interface {
	// Load returns what was last saved, or an error that is ErrNotStored.
	Load(ctx context.Context, name string) ([]byte, error)
	// Save replaces what is stored, as a whole or not at all, and returns once a crash
	// can no longer undo it.
	Save(ctx context.Context, name string, data []byte) error
	// Lock keeps others who share this store out of name until unlock is called. It waits
	// no longer than ctx allows, and doesn't affect Load and Save. An error that is
	// errors.ErrUnsupported means that this store can't be shared between processes; a
	// Gate then works without.
	Lock(ctx context.Context, name string) (unlock func(), err error)
}

// maxState bounds what is read from a store.
const maxState = 1 << 20

// FileStore keeps the state in the folder with that path. The folder is created, for this
// user only, when something is saved. Its files have mode 0600. What the superuser
// creates in another user's folder belongs to that user. Windows has no modes: there, folder
// and files inherit who may open them, which in a user's profile are that user, the system and
// administrators. For a folder elsewhere, set that yourself.
//
// Errors about files that this user may not open are also ErrNoPermission. If a file
// system has no locks, like some network drives, Lock fails with errors.ErrUnsupported.
// If it can't be told to write at once, Save works anyway.
type FileStore string

// Load reads a file.
func (s FileStore) Load(ctx context.Context, name string) ([]byte, error) {
	return s.folder().Load(ctx, name)
}

// Save writes a file beside the old one, syncs it, and replaces the old one with it.
func (s FileStore) Save(ctx context.Context, name string, data []byte) error {
	return s.folder().Save(ctx, name, data)
}

// Lock locks a separate file, name.lock, which stays in the folder: removing it would let
// two holders in. The system releases it when the process ends, however it ends.
func (s FileStore) Lock(ctx context.Context, name string) (func(), error) {
	return s.folder().Lock(ctx, name)
}

func (s FileStore) folder() folder { return folder{at: string(s), sys: theSystem} }

// movedStore is a folder, with the one in which earlier versions kept the same. What is only
// there is read there until it is saved. It stays there, for a program that goes back to an
// earlier version.
type movedStore struct {
	folder

	earlier folder
	// here has the names that were found in the new folder. They are not looked for in
	// the other one any more, where they are older.
	here sync.Map
}

// storeIn is the folder of an app in a folder of the user's, which was in another one earlier;
// "" if there was none.
func storeIn(now, earlier, app string) Store {
	at := FileStore(filepath.Join(now, app, "license"))
	if earlier == "" || earlier == now {
		return at
	}
	return &movedStore{folder: at.folder(), earlier: FileStore(filepath.Join(earlier, app, "license")).folder()}
}

func (s *movedStore) Load(ctx context.Context, name string) ([]byte, error) {
	data, err := s.folder.Load(ctx, name)
	if !errors.Is(err, ErrNotStored) {
		s.here.Store(name, true)
		return data, err
	}
	if _, known := s.here.Load(name); known {
		return nil, err
	}
	return s.earlier.Load(ctx, name)
}

func (s *movedStore) Save(ctx context.Context, name string, data []byte) error {
	err := s.folder.Save(ctx, name, data)
	if err == nil {
		s.here.Store(name, true)
	}
	return err
}

// SystemStore keeps one license for all users of a computer, which uses one activation. Its
// folder is <app>/license in
//
//	/var/lib                        on Linux and the BSDs
//	/Library/Application Support    on macOS
//	%ProgramData%                   on Windows
//
// or license in the folder that systemd's StateDirectory= names, which a service finds in
// STATE_DIRECTORY. Give the setting the name of the app, and a service and its users find the
// same license.
//
// All users can read it; whoever may write to the folder, usually an administrator, can change
// it. For all others, Has, Status, Check and Run work, and keep Polar's answers in memory:
// Status.Unsaved stays false. What would change the license fails with ErrNoPermission, and
// the message says that an administrator can do it: Activate, Import, Move, Deactivate. So let
// the installer or a service activate, and let it call Check now and then.
//
// The license key in it is sealed with what the program knows. So any user of the computer who
// takes the program apart can read it.
func SystemStore(app string) Store {
	if !namesFolder(app) || namesDevice(app) {
		return noStore{errors.New("the name of the app can't be that of a folder")}
	}
	if at := stateDirectory(); at != "" {
		return folder{at: filepath.Join(at, "license"), sys: theSystem, shared: true}
	}
	root := "/var/lib"
	switch runtime.GOOS {
	case "windows":
		root = os.Getenv("ProgramData")
	case "darwin", "ios":
		root = "/Library/Application Support"
	}
	if root == "" {
		return noStore{noFolderError{errors.New("ProgramData isn't set")}}
	}
	return folder{at: filepath.Join(root, app, "license"), sys: theSystem, shared: true}
}

// stateDirectory is the first folder that systemd gave this service; "" for none.
func stateDirectory() string {
	first, _, _ := strings.Cut(os.Getenv("STATE_DIRECTORY"), ":")
	if runtime.GOOS != "linux" || !filepath.IsAbs(first) {
		return ""
	}
	return first
}

// folder is a FileStore, with the system calls that file systems refuse.
type folder struct {
	at  string
	sys system
	// shared: all users of the computer can read it.
	shared bool
}

// mkdir makes the folder if there is none, and those around it.
func (s folder) mkdir() error {
	if !s.shared {
		return owned.MkdirAll(s.at, 0o700)
	}
	_, absent := os.Lstat(s.at)
	_, absentApp := os.Lstat(filepath.Dir(s.at))
	err := owned.MkdirAll(s.at, 0o755)
	// What this user's mask took away is for the other users.
	if err == nil && absent != nil {
		err = owned.Permit(s.at, 0o755)
	}
	if err == nil && absentApp != nil {
		err = owned.Permit(filepath.Dir(s.at), 0o755)
	}
	return err
}

// share lets all users read a file, and those write it who could write the one at path, which
// it replaces.
func (s folder) share(f *os.File, path string) error {
	if !s.shared || runtime.GOOS == "windows" {
		return nil
	}
	mode := fs.FileMode(0o644)
	if info, err := os.Lstat(path); err == nil {
		mode |= info.Mode().Perm() & 0o060
	}
	return f.Chmod(mode)
}

func (s folder) folder() folder { return s }

// system is what not every file system can do.
type system struct {
	sync    func(*os.File) error
	tryLock func(*flock.Flock) (bool, error)
}

var theSystem = system{(*os.File).Sync, (*flock.Flock).TryLock}

func (s folder) Load(_ context.Context, name string) ([]byte, error) {
	f, err := disk.Open(s.path(name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, ErrNotStored
	}
	if err != nil {
		return nil, s.explain(name, err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxState+1))
	// One byte over the limit is enough to recognize that it is no state.
	return data, s.explain(name, err)
}

func (s folder) Save(_ context.Context, name string, data []byte) (err error) {
	defer func() { err = s.explainChange(name, err) }()
	if err := s.mkdir(); err != nil {
		return err
	}
	s.sweep(name)
	// CreateTemp creates it with mode 0600.
	temp, err := os.CreateTemp(s.at, name+".*.tmp")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = temp.Close()
			_ = os.Remove(temp.Name())
		}
	}()
	owned.Keep(temp, s.path(name))
	if err := s.share(temp, s.path(name)); err != nil {
		return err
	}
	if _, err := temp.Write(data); err != nil {
		return err
	}
	if err := s.sys.sync(temp); err != nil && !isAny(err, disk.NoSync) {
		return err
	}
	if err := temp.Close(); err != nil {
		return err
	}
	if err := disk.Rename(temp.Name(), s.path(name)); err != nil {
		return err
	}
	return s.syncFolder()
}

// syncFolder makes a rename last. Only a failing disk is an error: some systems can't
// sync folders at all, and their renames last by themselves.
func (s folder) syncFolder() error {
	if runtime.GOOS == "windows" {
		return nil
	}
	f, err := os.Open(s.at)
	if err != nil {
		return nil
	}
	defer f.Close()
	if err := s.sys.sync(f); isAny(err, disk.Failures) {
		return err
	}
	return nil
}

// sweep removes what a crash left half-written. A file younger than an hour may belong to
// another process at work.
func (s folder) sweep(name string) {
	entries, _ := os.ReadDir(s.at)
	for _, entry := range entries {
		if !strings.HasPrefix(entry.Name(), name+".") || !strings.HasSuffix(entry.Name(), ".tmp") {
			continue
		}
		if info, err := entry.Info(); err == nil && time.Since(info.ModTime()) > time.Hour {
			_ = os.Remove(s.path(entry.Name()))
		}
	}
}

// lockEvery is how often a held lock is tried again.
const lockEvery = 20 * time.Millisecond

func (s folder) Lock(ctx context.Context, name string) (func(), error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	name += ".lock"
	if err := s.mkdir(); err != nil {
		return nil, s.explainChange(name, err)
	}
	disk.Unprotect(s.path(name))
	if err := owned.Touch(s.path(name), 0o600); err != nil {
		return nil, s.explainChange(name, err)
	}
	lock := flock.New(s.path(name), flock.SetPermissions(0o600), flock.SetFlag(owned.LockFlag()))
	for {
		ok, err := s.lockOnce(lock)
		switch {
		case err != nil:
			_ = lock.Close()
			return nil, s.explainChange(name, err)
		case ok:
			return func() { _ = lock.Close() }, nil
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(lockEvery):
		}
	}
}

// lockOnce tries to take a lock. An error of the lock itself, not of its file, has no
// path.
func (s folder) lockOnce(lock *flock.Flock) (bool, error) {
	ok, err := s.sys.tryLock(lock)
	_, ofFile := errors.AsType[*fs.PathError](err)
	if err != nil && !ofFile && isAny(err, disk.ForbiddenLocks) {
		err = fmt.Errorf("%w: %w", errors.ErrUnsupported, noPath{err})
	}
	return ok, unsupportedLock(err)
}

// noPath is the text of an error alone: a forbidden lock is not a forbidden file.
type noPath struct{ err error }

func (e noPath) Error() string { return e.err.Error() }

// unsupportedLock turns an error into errors.ErrUnsupported, if it comes from a file
// system without locks.
func unsupportedLock(err error) error {
	if e, ok := errors.AsType[*fs.PathError](err); ok && e.Op == "open" {
		return err // of the file, and not of its lock
	}
	if err == nil || errors.Is(err, errors.ErrUnsupported) || !isAny(err, disk.NoLocks) {
		return err
	}
	return fmt.Errorf("%w: %w", errors.ErrUnsupported, err)
}

// placeError is a file of the store that can't be used, with what is known about it.
type placeError struct {
	// file is what is in the way: the file itself, or the folder in which it can't be
	// reached.
	file  string
	whose owned.Whose
	// isFolder: a folder is where a file should be.
	isFolder bool
	// repair is what the user would have to own; "" if that is not theirs to change.
	repair string
	// shared: all users may read the license, and this one may not change it.
	shared bool
	err    error
}

func (e *placeError) Error() string {
	switch {
	case e.isFolder:
		return inSentence(e.err) + " (a folder is where the file should be)"
	case e.whose != owned.Unknown:
		return inSentence(e.err) + " (" + e.file + " belongs to " + string(e.whose) + ")"
	}
	return e.err.Error()
}

func (e *placeError) Unwrap() error { return e.err }

func (e *placeError) ownWords(l *Language) (what, do string, ok bool) {
	if e.isFolder {
		return l.text(storeFolder, "{file}", e.file), l.text(storeFolder + ".do"), true
	}
	if e.shared {
		return l.text(noPermissionShared), l.text(noPermissionShared + ".do"), true
	}
	of := noPermissionFile
	switch e.whose {
	case owned.Root:
		of = noPermissionRoot
	case owned.Others:
		of = noPermissionOther
	}
	what, do = l.text(of, "{file}", e.file), l.text(Phrase(ErrNoPermission)+".do")
	if e.repair != "" {
		do = l.text(noPermissionRepair+".do", "{file}", forShell(e.repair))
	}
	return what, do, true
}

// forShell is a path as a command takes it.
func forShell(path string) string {
	plain := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("/._-+@", r)
	}
	if strings.IndexFunc(path, func(r rune) bool { return !plain(r) }) < 0 {
		return path
	}
	return "'" + strings.ReplaceAll(path, "'", `'\''`) + "'"
}

// Is: a placeError that is not permitted is ErrNoPermission.
func (e *placeError) Is(target error) bool {
	return target == ErrNoPermission && !e.isFolder
}

// explain finds out why a file can't be used, if that helps a person: it isn't theirs, or
// it is a folder.
func (s folder) explain(name string, err error) error {
	if err == nil || errors.Is(err, errors.ErrUnsupported) {
		return err
	}
	path := s.path(name)
	info, statErr := os.Lstat(path)
	if statErr == nil && info.IsDir() {
		return &placeError{file: path, isFolder: true, err: err}
	}
	if !errors.Is(err, fs.ErrPermission) {
		return err
	}
	e := &placeError{file: path, err: err}
	if failed, ok := errors.AsType[*fs.PathError](err); ok && filepath.Dir(failed.Path) == s.at && failed.Path != path {
		e.file = s.at // no file can be made in it
		info, statErr = os.Lstat(e.file)
	}
	// What is in a folder that may not be entered can't be seen.
	for ; statErr != nil && e.file != filepath.Dir(e.file); info, statErr = os.Lstat(e.file) {
		e.file = filepath.Dir(e.file)
	}
	if statErr == nil {
		e.whose = owned.Of(info)
	}
	if e.whose != owned.Own {
		e.repair = s.repair(e.file)
	}
	return e
}

// explainChange is explain for an error that kept something from being changed.
func (s folder) explainChange(name string, err error) error {
	err = s.explain(name, err)
	if e, ok := err.(*placeError); ok && s.shared && !e.isFolder {
		e.shared, e.repair = true, ""
	}
	return err
}

// onlyReads reports whether an error means that this user may read the license, which all
// users of the computer share, but not change it.
func onlyReads(err error) bool {
	e, ok := errors.AsType[*placeError](err)
	return ok && e.shared
}

// repair is what should become the user's own again: all of the store's folder, or what
// is around it, but nothing outside their home.
func (s folder) repair(file string) string {
	home, err := os.UserHomeDir()
	at, absErr := filepath.Abs(s.at)
	file, fileErr := filepath.Abs(file)
	if err != nil || absErr != nil || fileErr != nil {
		return ""
	}
	if filepath.Dir(file) == at {
		file = at
	}
	if below, err := filepath.Rel(home, file); err != nil || !filepath.IsLocal(below) || below == "." {
		return ""
	}
	return file
}

// look is what a diagnosis finds out about a folder.
type look struct {
	whose   owned.Whose // the file, or else the folder
	lock    lockState
	problem error
}

// lockState is the outcome of trying a lock.
type lockState string

const (
	lockFree        lockState = "free"
	lockBusy        lockState = "busy"
	lockUnsupported lockState = "not supported"
	lockForbidden   lockState = "not permitted"
)

// look opens the files with those names, the first of which is the one that is written,
// tries its lock, and tries to write. It leaves everything as it was, and doesn't wait.
func (s folder) look(name string, others ...string) look {
	var l look
	for path, tries := s.path(name), 0; ; path, tries = filepath.Dir(path), tries+1 {
		info, err := os.Lstat(path)
		if err == nil {
			l.whose = owned.Of(info)
		}
		if err == nil || tries > 0 && !errors.Is(err, fs.ErrPermission) || path == filepath.Dir(path) {
			break // there it is, or there is neither file nor folder
		}
	}
	var loadErr, lockErr error
	for _, name := range append([]string{name}, others...) {
		if _, err := s.Load(context.Background(), name); loadErr == nil && !errors.Is(err, ErrNotStored) {
			loadErr = err
		}
	}
	l.lock, lockErr = s.tryLock(name + ".lock")
	lockOfAny, writeErr := s.tryWriting()
	if l.lock == "" {
		l.lock = lockOfAny // there is no file to be locked yet
	}
	for _, err := range []error{loadErr, lockErr, writeErr} {
		if s.shared && err != loadErr && errors.Is(err, ErrNoPermission) {
			continue // as for most of its users
		}
		if l.problem == nil {
			l.problem = err
		}
	}
	return l
}

// tryLock tries the lock of an existing file.
func (s folder) tryLock(name string) (lockState, error) {
	path := s.path(name)
	switch info, err := os.Lstat(path); {
	case errors.Is(err, fs.ErrNotExist):
		return "", nil
	case err == nil && info.IsDir():
		return "", s.explain(name, &fs.PathError{Op: "lock", Path: path, Err: errors.New("is a folder")})
	}
	lock := flock.New(path, flock.SetFlag(owned.LockFlag()&^os.O_CREATE))
	defer lock.Close()
	switch ok, err := s.lockOnce(lock); {
	case ok:
		return lockFree, nil
	case err == nil:
		return lockBusy, nil
	case errors.Is(err, errors.ErrUnsupported):
		return lockUnsupported, nil
	case errors.Is(err, fs.ErrNotExist):
		return "", nil
	case errors.Is(err, fs.ErrPermission):
		return lockForbidden, s.explain(name, err)
	default:
		return "", s.explain(name, err)
	}
}

const tryName = "try"

// tryWriting reports why nothing can be saved, if so, and whether locks work. It leaves
// nothing behind.
func (s folder) tryWriting() (lockState, error) {
	// What is created for it is removed again, the innermost first.
	var made []string
	for folder := filepath.Clean(s.at); ; folder = filepath.Dir(folder) {
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
	if err := os.MkdirAll(s.at, 0o700); err != nil {
		return "", s.explain(tryName, err)
	}
	temp, err := os.CreateTemp(s.at, tryName+".*.tmp")
	if err != nil {
		return "", s.explain(tryName, err)
	}
	_, err = temp.Write(make([]byte, 4096))
	lock, _ := s.tryLock(filepath.Base(temp.Name()))
	syncErr := s.sys.sync(temp)
	if isAny(syncErr, disk.NoSync) {
		syncErr = nil
	}
	return lock, errors.Join(err, syncErr, temp.Close(), os.Remove(temp.Name()))
}

func (s folder) path(name string) string { return filepath.Join(s.at, name) }

// MemoryStore keeps the state for the life of the process, for tests and for programs
// that keep their state elsewhere. The zero value is empty and ready to use; it must not
// be copied.
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

// recoveringStore turns the panics of a program's own Store into errors, because some of the
// work here runs in goroutines in which the program can't recover. It also turns a file
// system's errors for missing locks into errors.ErrUnsupported.
type recoveringStore struct {
	of  Store
	log *slog.Logger

	mu   sync.Mutex
	last string // of what was logged
}

func (s *recoveringStore) caught(p any, err *error) {
	if p != nil {
		*err = fmt.Errorf("the store panicked: %v", p)
		s.mu.Lock()
		known := s.last == (*err).Error()
		s.last = (*err).Error()
		s.mu.Unlock()
		if !known {
			s.log.Error("polargate: the Store panicked", "panic", p, "stack", string(debug.Stack()))
		}
	}
}

func (s *recoveringStore) Load(ctx context.Context, name string) (data []byte, err error) {
	defer func() { s.caught(recover(), &err) }()
	return s.of.Load(ctx, name)
}

func (s *recoveringStore) Save(ctx context.Context, name string, data []byte) (err error) {
	defer func() { s.caught(recover(), &err) }()
	return s.of.Save(ctx, name, data)
}

func (s *recoveringStore) Lock(ctx context.Context, name string) (unlock func(), err error) {
	defer func() { s.caught(recover(), &err) }()
	release, err := s.of.Lock(ctx, name)
	if err != nil {
		return nil, unsupportedLock(err)
	}
	return func() {
		var err error
		defer func() { s.caught(recover(), &err) }()
		release()
	}, nil
}

// noStore takes the place of a folder if none could be found. Nothing is stored in it,
// and saving says why.
type noStore struct{ err error }

func (s noStore) Load(context.Context, string) ([]byte, error) { return nil, ErrNotStored }

func (s noStore) Save(context.Context, string, []byte) error { return s.err }

func (s noStore) Lock(context.Context, string) (func(), error) { return nil, s.err }

// noFolderError is why no folder could be found.
type noFolderError struct{ error }

func (e noFolderError) Unwrap() error { return e.error }

func (e noFolderError) ownWords(l *Language) (what, do string, ok bool) {
	return l.text(noFolder), l.text(noFolder + ".do"), true
}

// defaultStore is a folder of the program's own where the system wants such things:
// ~/.config on Linux, AppData\Local on Windows, Library on macOS. A service has no home, but
// perhaps a folder from systemd.
func defaultStore(app string) Store {
	settings, err := os.UserConfigDir()
	if local, localErr := os.UserCacheDir(); runtime.GOOS == "windows" && localErr == nil {
		// Settings roam there: they follow their user to other computers, a license doesn't.
		return storeIn(local, settings, app)
	}
	if err == nil {
		return storeIn(settings, settings, app)
	}
	if at := stateDirectory(); at != "" {
		return FileStore(filepath.Join(at, "license"))
	}
	return noStore{noFolderError{fmt.Errorf("no folder for settings is known: %w", err)}}
}
