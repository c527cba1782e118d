//go:build unix

package pace

import (
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// nobody is a user who does not run the tests.
const nobody = 65534

func TestPermitsThatTheSuperuserMakesBelongToWhoseFolderItIs(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("only the superuser can make files of others")
	}
	home := t.TempDir()
	require.NoError(t, os.Chown(home, nobody, nobody))
	f := folder(filepath.Join(home, ".cache", "polargate", "pace"))
	for range f.Permits {
		done, err := f.Take(t.Context())
		require.NoError(t, err)
		defer done(0)
	}
	f.Pause(time.Second)
	require.NoError(t, f.Usable())
	found := 0
	require.NoError(t, filepath.WalkDir(home, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err == nil {
			found++
			assert.EqualValues(t, nobody, info.Sys().(*syscall.Stat_t).Uid, path)
		}
		return err
	}))
	assert.Equal(t, 12, found, "four folders, three permits of two files, a pause and a trial")
}

func TestARecordIsNotWrittenThroughALinkByTheSuperuser(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("others harm themselves alone")
	}
	secret := filepath.Join(t.TempDir(), "secret")
	require.NoError(t, os.WriteFile(secret, []byte("kept"), 0o600))
	f := folder(t.TempDir())
	for _, name := range []string{"1", "pause"} {
		require.NoError(t, os.Symlink(secret, filepath.Join(f.Path, name)))
	}
	_, err := f.Take(t.Context())
	require.Error(t, err, "nothing is shared here, then")
	require.Error(t, f.Usable())
	f.Pause(time.Minute)
	text, err := os.ReadFile(secret)
	require.NoError(t, err)
	assert.Equal(t, "kept", string(text))
}
