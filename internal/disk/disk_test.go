package disk

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

var (
	errHeld   = errors.New("somebody holds it")
	errDenied = errors.New("denied")
	both      = []patience{{[]error{errHeld}, long}, {[]error{errDenied}, brief}}
)

func TestAFileThatOthersKeepOpeningIsTriedOftenForTwoSeconds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		start, last, tries := time.Now(), time.Time{}, 0
		pauses := map[time.Duration]bool{}
		err := patiently(both, func() error {
			if tries++; tries > 1 {
				pause := time.Since(last)
				pauses[pause] = true
				assert.GreaterOrEqual(t, pause, 2*time.Millisecond)
				assert.Less(t, pause, 10*time.Millisecond)
			}
			last = time.Now()
			return errHeld
		})
		require.ErrorIs(t, err, errHeld)
		assert.InDelta(t, 2*time.Second, time.Since(start), float64(10*time.Millisecond))
		assert.Greater(t, tries, 200)
		assert.Greater(t, len(pauses), tries/2, "no rhythm that another's could match")
	})
}

func TestWhatCanBeARefusalForGoodIsWaitedForOnlyBriefly(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		require.ErrorIs(t, patiently(both, func() error { return errDenied }), errDenied)
		assert.InDelta(t, 250*time.Millisecond, time.Since(start), float64(10*time.Millisecond))
		start = time.Now()
		require.ErrorIs(t, patiently(both, func() error { return os.ErrNotExist }), os.ErrNotExist)
		require.NoError(t, patiently(both, func() error { return nil }))
		assert.Zero(t, time.Since(start))
	})
}

func TestAFileIsReplacedWhileOthersReadIt(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	from, to := filepath.Join(folder, "new"), filepath.Join(folder, "it")
	require.NoError(t, os.WriteFile(from, []byte("new"), 0o600))
	require.NoError(t, os.WriteFile(to, []byte("old"), 0o600))
	reader, err := Open(to)
	require.NoError(t, err)
	start := time.Now()
	if err := Rename(from, to); err != nil {
		t.Logf("this file system can't: %v", err)
		require.Greater(t, time.Since(start), long)
		require.NoError(t, reader.Close())
		require.NoError(t, Rename(from, to))
	}
	_ = reader.Close()
	data, err := os.ReadFile(to)
	require.NoError(t, err)
	assert.Equal(t, "new", string(data))
}

func TestAFolderIsNeverReplacedByAFile(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	from, to := filepath.Join(folder, "new"), filepath.Join(folder, "it")
	require.NoError(t, os.WriteFile(from, nil, 0o600))
	require.NoError(t, os.Mkdir(to, 0o700))
	require.Error(t, Rename(from, to))
	assert.FileExists(t, from)
	assert.DirExists(t, to)
}

func TestAFileWithTheAttributeReadOnlyIsReplacedAndOpenedForWriting(t *testing.T) {
	t.Parallel()
	if runtime.GOOS != "windows" {
		t.Skip("only Windows protects a file from its owner by an attribute")
	}
	folder := t.TempDir()
	from, to := filepath.Join(folder, "new"), filepath.Join(folder, "it")
	require.NoError(t, os.WriteFile(from, []byte("new"), 0o600))
	require.NoError(t, os.WriteFile(to, []byte("old"), 0o600))
	require.NoError(t, os.Chmod(to, 0o400))
	f, err := OpenFile(to, os.O_RDWR|os.O_CREATE, 0o600)
	require.NoError(t, err)
	require.NoError(t, f.Close())
	require.NoError(t, os.Chmod(to, 0o400))
	require.NoError(t, Rename(from, to))
	data, err := os.ReadFile(to)
	require.NoError(t, err)
	assert.Equal(t, "new", string(data))
}
