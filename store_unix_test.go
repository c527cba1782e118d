//go:build unix

package polargate

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gofrs/flock"
	"github.com/polargate/polargate/polartest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// lockRefused is a file system on which a file can be opened and not be locked.
func lockRefused(err error) system {
	return system{(*os.File).Sync, func(*flock.Flock) (bool, error) { return false, err }}
}

// syncRefused is a file system that answers a sync so: of files, of folders, or both.
func syncRefused(ofFiles, ofFolders error) system {
	return system{func(f *os.File) error {
		info, err := f.Stat()
		if err != nil {
			return err
		}
		of := ofFiles
		if info.IsDir() {
			of = ofFolders
		}
		if of != nil {
			return &fs.PathError{Op: "sync", Path: f.Name(), Err: of}
		}
		return f.Sync()
	}, theSystem.tryLock}
}

func TestAFileSystemWithoutLocksDoesNotPreventAnActivation(t *testing.T) {
	t.Parallel()
	for _, errno := range []syscall.Errno{
		syscall.ENOLCK, syscall.EINVAL, syscall.ENOSYS, syscall.ENOTSUP, syscall.EOPNOTSUPP, syscall.ENOTTY, syscall.EPERM, syscall.EACCES,
	} {
		t.Run(errno.Error(), func(t *testing.T) {
			t.Parallel()
			polar := polartest.New(polartest.Config{})
			key := polar.AddKey(polartest.LicenseKey{LimitActivations: polartest.Limit(2)})
			store := folder{at: filepath.Join(t.TempDir(), "license"), sys: lockRefused(errno)}
			_, err := store.Lock(t.Context(), "a")
			require.ErrorIs(t, err, errors.ErrUnsupported)
			require.NotErrorIs(t, err, ErrNoPermission, "the file could be opened")

			// The Gates of one process keep each other out all the same.
			var clicks sync.WaitGroup
			for range 2 {
				gate := openGate(t, polar, func(c *Config) { c.Store = store })
				clicks.Go(func() {
					_, err := gate.Activate(t.Context(), key.Key)
					assert.NoError(t, err)
				})
			}
			clicks.Wait()
			assert.Equal(t, 1, polar.Seats(key.ID))
			gate := openGate(t, polar, func(c *Config) { c.Store = store })
			assert.Equal(t, Active, gate.Status().State, "it is stored")
			report := gate.Diagnose(t.Context())
			assert.Equal(t, "not supported", report.StoreLock)
			assert.Empty(t, report.Problems)
			require.NoError(t, gate.Deactivate(t.Context()))
		})
	}
}

// lockingStore is a program's own Store on such a file system.
type lockingStore struct {
	MemoryStore
	lock error
}

func (s *lockingStore) Lock(context.Context, string) (func(), error) { return nil, s.lock }

func TestAStoreOfTheProgramsOwnMayHandOnThatThereAreNoLocks(t *testing.T) {
	t.Parallel()
	for _, errno := range []syscall.Errno{syscall.ENOLCK, syscall.EINVAL, syscall.EOPNOTSUPP} {
		polar := polartest.New(polartest.Config{})
		key := polar.AddKey(polartest.LicenseKey{LimitActivations: polartest.Limit(2)})
		store := &lockingStore{lock: &fs.PathError{Op: "lock", Path: "/mnt/share/license", Err: errno}}
		_, err := openGate(t, polar, func(c *Config) { c.Store = store }).Activate(t.Context(), key.Key)
		require.NoError(t, err, errno)
	}
	for _, errno := range []syscall.Errno{syscall.EIO, syscall.EACCES, syscall.ESTALE, syscall.EROFS} {
		polar := polartest.New(polartest.Config{})
		key := polar.AddKey(polartest.LicenseKey{LimitActivations: polartest.Limit(2)})
		store := &lockingStore{lock: errno}
		_, err := openGate(t, polar, func(c *Config) { c.Store = store }).Activate(t.Context(), key.Key)
		var stored *StoreError
		require.ErrorAs(t, err, &stored, errno)
		assert.Equal(t, errno == syscall.EACCES, errors.Is(err, ErrNoPermission))
		assert.Zero(t, polar.Seats(key.ID))
	}
}

func TestALockThatFailsIsNotOneThatIsMissing(t *testing.T) {
	t.Parallel()
	for _, errno := range []syscall.Errno{syscall.EIO, syscall.EBADF, syscall.ESTALE} {
		_, err := folder{at: t.TempDir(), sys: lockRefused(errno)}.Lock(t.Context(), "a")
		require.ErrorIs(t, err, errno)
		require.NotErrorIs(t, err, errors.ErrUnsupported)
	}
	// The file of the lock, and not the lock.
	opening := &fs.PathError{Op: "open", Path: "a.lock", Err: syscall.EINVAL}
	_, err := folder{at: t.TempDir(), sys: lockRefused(opening)}.Lock(t.Context(), "a")
	require.NotErrorIs(t, err, errors.ErrUnsupported)
}

func TestAFileSystemThatCannotSyncDoesNotPreventAnActivationAndADiskThatFailsDoes(t *testing.T) {
	t.Parallel()
	type where struct {
		name   string
		system func(error) system
	}
	places := []where{
		{"of files", func(err error) system { return syncRefused(err, nil) }},
		{"of folders", func(err error) system { return syncRefused(nil, err) }},
		{"of both", func(err error) system { return syncRefused(err, err) }},
	}
	for _, test := range []struct {
		errno syscall.Errno
		fails bool
	}{
		{syscall.EINVAL, false}, {syscall.EOPNOTSUPP, false}, {syscall.ENOTSUP, false}, {syscall.ENOSYS, false}, {syscall.ENOTTY, false},
		{syscall.EIO, true}, {syscall.ENOSPC, true}, {syscall.EDQUOT, true},
	} {
		for _, at := range places {
			t.Run(test.errno.Error()+" "+at.name, func(t *testing.T) {
				t.Parallel()
				polar := polartest.New(polartest.Config{})
				key := polar.AddKey(polartest.LicenseKey{LimitActivations: polartest.Limit(2)})
				store := folder{at: filepath.Join(t.TempDir(), "license"), sys: at.system(test.errno)}
				gate := openGate(t, polar, func(c *Config) { c.Store = store })
				_, err := gate.Activate(t.Context(), key.Key)
				again := openGate(t, polar, func(c *Config) { c.Store = FileStore(store.at) })
				if !test.fails {
					require.NoError(t, err)
					assert.Equal(t, Active, again.Status().State)
					assert.Empty(t, gate.Diagnose(t.Context()).StoreProblem)
					return
				}
				require.ErrorIs(t, err, test.errno)
				assert.Zero(t, polar.Count("/activate"), "nothing was asked for")
				assert.Equal(t, Unlicensed, again.Status().State)
				assert.False(t, again.Status().InDoubt, "and so nothing is in doubt")
			})
		}
	}
}

func TestAnActivationThatTheDiskCannotStoreIsDeactivated(t *testing.T) {
	t.Parallel()
	polar := polartest.New(polartest.Config{})
	key := polar.AddKey(polartest.LicenseKey{LimitActivations: polartest.Limit(2)})
	store := folder{at: filepath.Join(t.TempDir(), "license"), sys: theSystem}
	store.sys.sync = func(f *os.File) error {
		if info, err := f.Stat(); err == nil && info.IsDir() && polar.Seats(key.ID) > 0 {
			return syscall.EIO
		}
		return f.Sync()
	}
	_, err := openGate(t, polar, func(c *Config) { c.Store = store }).Activate(t.Context(), key.Key)
	require.ErrorIs(t, err, syscall.EIO)
	assert.Zero(t, polar.Seats(key.ID))
	again := openGate(t, polar, func(c *Config) { c.Store = store })
	assert.Equal(t, Unlicensed, again.Status().State)
	_, err = again.Check(t.Context())
	require.ErrorIs(t, err, ErrNoLicense)
}

func TestALicenseThatAnotherCopyKeepsLockedIsBusyAndNotBroken(t *testing.T) {
	t.Parallel()
	busy := func(t *testing.T, err error) {
		t.Helper()
		require.ErrorIs(t, err, ErrBusy)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		assert.Contains(t, Message(err), english[Phrase(ErrBusy)][1:])
		assert.NotContains(t, Message(err), "folder")
		assert.NotContains(t, err.Error(), "writable")
	}
	t.Run("for longer than anything takes", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			polar := polartest.New(polartest.Config{})
			key := polar.AddKey(polartest.LicenseKey{LimitActivations: polartest.Limit(2)})
			store := &MemoryStore{}
			gate := openGate(t, polar, func(c *Config) { c.Store = store })
			unlock, err := store.Lock(t.Context(), gate.name)
			require.NoError(t, err)
			_, err = gate.Activate(t.Context(), key.Key)
			busy(t, err)
			var stored *StoreError
			require.ErrorAs(t, err, &stored)
			assert.Equal(t, "lock", stored.Op)
			busy(t, gate.Deactivate(t.Context()))
			assert.Zero(t, polar.Count("/activate"))
			unlock()
			_, err = gate.Activate(t.Context(), key.Key)
			require.NoError(t, err)
		})
	})
	t.Run("for longer than the caller waits", func(t *testing.T) {
		t.Parallel()
		folder := FileStore(t.TempDir())
		polar := polartest.New(polartest.Config{})
		key := polar.AddKey(polartest.LicenseKey{LimitActivations: polartest.Limit(2)})
		gate := openGate(t, polar, func(c *Config) { c.Store = folder })
		unlock, err := folder.Lock(t.Context(), gate.name)
		require.NoError(t, err)
		defer unlock()
		report := gate.Diagnose(t.Context())
		assert.Equal(t, "busy", report.StoreLock)
		assert.Empty(t, report.StoreProblem, "who is busy breaks nothing")
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		_, err = gate.Activate(ctx, key.Key)
		busy(t, err)
		ctx, cancel = context.WithCancel(t.Context())
		cancel()
		_, err = gate.Activate(ctx, key.Key)
		require.NotErrorIs(t, err, ErrBusy, "who gives up knows why")
	})
	t.Run("and another call of the same program says so", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			polar := polartest.New(polartest.Config{})
			key := polar.AddKey(polartest.LicenseKey{LimitActivations: polartest.Limit(2)})
			gate := openGate(t, polar, nil)
			gate.seatTurn <- struct{}{}
			_, err := gate.Activate(t.Context(), key.Key)
			require.ErrorIs(t, err, ErrBusy)
			assert.Equal(t, upperFirst(english["busy.here"])+". "+english["busy.here.do"], Message(err))
			<-gate.seatTurn
		})
	})
	t.Run("when an answer is to be saved", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			polar := polartest.New(polartest.Config{})
			key := polar.AddKey(polartest.LicenseKey{LimitActivations: polartest.Limit(2)})
			store := &MemoryStore{}
			gate := openGate(t, polar, func(c *Config) { c.Store = store })
			_, err := gate.Activate(t.Context(), key.Key)
			require.NoError(t, err)
			unlock, err := store.Lock(t.Context(), gate.name)
			require.NoError(t, err)
			defer unlock()
			status, err := gate.Refresh(t.Context())
			require.NoError(t, err)
			assert.True(t, status.Unsaved)
			assert.Contains(t, status.Message, "last check of your license: "+english[Phrase(ErrBusy)])
			assert.NotContains(t, status.Message, "folder")
		})
	})
}

func TestAFolderAtTheFilesPlaceIsNamedAndNotCalledDamage(t *testing.T) {
	t.Parallel()
	polar := polartest.New(polartest.Config{})
	key := polar.AddKey(polartest.LicenseKey{LimitActivations: polartest.Limit(2)})
	for _, end := range []string{"", ".lock"} {
		store := FileStore(t.TempDir())
		name := openGate(t, polar, func(c *Config) { c.Store = store }).name
		path := filepath.Join(string(store), name+end)
		require.NoError(t, os.Mkdir(path, 0o700))
		gate := openGate(t, polar, func(c *Config) { c.Store = store })
		_, err := gate.Activate(t.Context(), key.Key)
		want := "There's a folder where the license file should be: " + path + ". Move that folder away, then restart the program."
		require.Error(t, err)
		assert.Equal(t, want, Message(err))
		require.NotErrorIs(t, err, ErrNoPermission)
		if end == "" {
			assert.Equal(t, want, gate.Status().Message)
			assert.Equal(t, ErrUnreadableState, gate.Status().Reason)
		}
		assert.Contains(t, gate.Diagnose(t.Context()).Problems[0], "There's a folder where the license file should be")
		assert.Zero(t, polar.Seats(key.ID))
	}
}

func TestADiskThatCannotReadIsNotCalledADamagedFile(t *testing.T) {
	t.Parallel()
	polar := polartest.New(polartest.Config{})
	gate := openGate(t, polar, func(c *Config) { c.Store = unreadStore{&MemoryStore{}} })
	assert.Equal(t, ErrUnreadableState, gate.Status().Reason)
	assert.NotContains(t, gate.Status().Message, "damaged")
	assert.Contains(t, gate.Status().Message, english["unreadable_state.disk.do"])
	_, err := gate.Check(t.Context())
	require.ErrorIs(t, err, syscall.EIO)
	assert.Equal(t, gate.Status().Message, Message(err))
}

type unreadStore struct{ Store }

func (unreadStore) Load(context.Context, string) ([]byte, error) { return nil, syscall.EIO }
