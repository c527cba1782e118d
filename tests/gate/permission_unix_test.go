//go:build unix

package gate

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/polargate/polargate"
	"github.com/polargate/polargate/internal/testprogram"
	"github.com/polargate/polargate/polartest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// nobody is a user without rights: not the one who runs the tests.
const nobody = 65534

// told is what a program says that looks at its license and then activates a key.
type told struct {
	State            polargate.State
	Reason           polargate.Reason
	Message          string
	CheckMessage     string
	NoPermission     bool // by the error of Check
	ActivateMessage  string
	ActivateRefused  bool // for lack of permission
	Activated        bool
	Owner, Lock      string
	Problems         []string
	Report           string
	PaceShared       bool
	ConsumeForbidden bool
}

func init() { programs["tell-of-license"] = programTellsOfLicense }

// programTellsOfLicense is a program with its license in the folder args[2]; Polar is at
// args[0], its organization args[1], and the key that is activated args[3].
func programTellsOfLicense(args []string) error {
	gate, err := polargate.Open(polargate.Config{BaseURL: args[0], OrganizationID: args[1], App: "inkwell", Store: polargate.FileStore(args[2]), Fingerprint: "the machine of the tests"})
	if err != nil {
		return err
	}
	defer gate.Close()
	ctx := context.Background()
	status, err := gate.Check(ctx)
	t := told{State: status.State, Reason: status.Reason, Message: status.Message, CheckMessage: polargate.Message(err), NoPermission: errors.Is(err, polargate.ErrNoPermission)}
	report := gate.Diagnose(ctx)
	t.Owner, t.Lock, t.Problems, t.PaceShared, t.Report = report.StoreOwner, report.StoreLock, report.Problems, report.PaceShared, report.String()
	_, err = gate.Consume(ctx, 1)
	t.ConsumeForbidden = errors.Is(err, polargate.ErrNoPermission)
	_, err = gate.Activate(ctx, args[3])
	t.ActivateMessage, t.ActivateRefused, t.Activated = polargate.Message(err), errors.Is(err, polargate.ErrNoPermission), err == nil
	return json.NewEncoder(os.Stdout).Encode(t)
}

// home is the home of a user who is not the superuser, in which the license is, and a
// Polar for the programs that are run there.
type home struct {
	t      *testing.T
	polar  *polartest.Polar
	url    string
	key    polartest.LicenseKey
	binary string
	path   string
	folder string // of the license
	user   int
}

// newHome is a home of nobody if the tests are run by the superuser, or else the
// user's own.
func newHome(t *testing.T) *home {
	t.Helper()
	polar := polartest.New(polartest.Config{Unlimited: true})
	server, err := polar.Start()
	require.NoError(t, err)
	t.Cleanup(func() { _ = server.Close() })
	path := t.TempDir()
	require.NoError(t, os.Chmod(filepath.Dir(path), 0o755)) // for the others
	h := &home{t: t, polar: polar, url: server.URL, path: path, folder: filepath.Join(path, ".config", "inkwell", "license"), user: os.Geteuid()}
	h.key = polar.AddKey(polartest.LicenseKey{LimitActivations: polartest.Limit(2)})
	self, err := os.Executable()
	require.NoError(t, err)
	h.binary = self
	if h.user == 0 {
		h.user = nobody
		require.NoError(t, os.Chown(path, nobody, nobody))
		// The folder that go test builds in is not for everybody.
		bin := t.TempDir()
		require.NoError(t, os.Chmod(bin, 0o755))
		h.binary = filepath.Join(bin, "program")
		if os.Link(self, h.binary) != nil {
			copyFile(t, self, h.binary)
		}
	}
	return h
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	in, err := os.Open(from)
	require.NoError(t, err)
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY, 0o755)
	require.NoError(t, err)
	_, err = io.Copy(out, in)
	require.NoError(t, errors.Join(err, out.Close()))
}

func onlyForTheSuperuser(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only the superuser can leave files of the superuser's in another home")
	}
}

// run runs the program, as the superuser with another user's home or as that user.
func (h *home) run(asRoot bool) told {
	h.t.Helper()
	cmd := exec.Command(h.binary, h.url, h.polar.OrganizationID(), h.folder, h.key.Key)
	cmd.Env = []string{testprogram.Variable + "=tell-of-license", "HOME=" + h.path, "XDG_CACHE_HOME=" + filepath.Join(h.path, ".cache"), "USER=jane", "PATH=" + os.Getenv("PATH")}
	cmd.Stderr = os.Stderr
	cmd.Dir = "/"
	if os.Geteuid() == 0 && !asRoot {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	}
	out, err := cmd.Output()
	require.NoError(h.t, err)
	var said told
	require.NoError(h.t, json.Unmarshal(out, &said), string(out))
	assert.NotContains(h.t, string(out), h.key.Key)
	return said
}

// owners are the users whose files and folders there are in the home, with one path of
// each.
func (h *home) owners() map[int]string {
	h.t.Helper()
	found := map[int]string{}
	require.NoError(h.t, filepath.WalkDir(h.path, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err == nil {
			found[int(info.Sys().(*syscall.Stat_t).Uid)] = path
		}
		return err
	}))
	return found
}

// file is the path of the license file or of another one whose name ends so.
func (h *home) file(end string) string {
	h.t.Helper()
	found, err := filepath.Glob(filepath.Join(h.folder, "license-*"+end))
	require.NoError(h.t, err)
	require.NotEmpty(h.t, found, end)
	return found[0]
}

func TestARunAsTheSuperuserLeavesNothingThatLocksTheUserOut(t *testing.T) {
	t.Parallel()
	onlyForTheSuperuser(t)
	h := newHome(t)
	require.True(t, h.run(true).Activated, "with sudo, say, and HOME kept")
	require.Contains(t, h.owners(), nobody)
	assert.Len(t, h.owners(), 1, "files, folders, locks and permits belong to whose home it is: %v", h.owners())

	said := h.run(false)
	assert.Equal(t, polargate.Active, said.State)
	assert.True(t, said.Activated, said.ActivateMessage)
	assert.True(t, said.PaceShared)
	assert.Equal(t, "this user", said.Owner)
	assert.Equal(t, "free", said.Lock)
	assert.Equal(t, 1, h.polar.Seats(h.key.ID))

	require.NoError(t, os.WriteFile(h.file(".sealed"), []byte("garbage"), 0o600))
	h.run(true)
	assert.FileExists(t, h.file(".corrupt"))
	assert.Len(t, h.owners(), 1, "what is kept aside, too: %v", h.owners())
}

func TestAFileOfTheSuperuserComesBackToTheUserAtTheNextRunOfTheSuperuser(t *testing.T) {
	t.Parallel()
	onlyForTheSuperuser(t)
	h := newHome(t)
	require.True(t, h.run(false).Activated)
	require.NoError(t, os.Chown(h.file(".sealed"), 0, 0))
	h.run(true)
	said := h.run(false)
	assert.Equal(t, polargate.Active, said.State, said.Message)
}

func TestAFileKeepsItsOwnerWhenTheSuperuserReplacesIt(t *testing.T) {
	t.Parallel()
	onlyForTheSuperuser(t)
	s := polargate.FileStore(t.TempDir())
	require.NoError(t, s.Save(t.Context(), "a", []byte("1")))
	require.NoError(t, os.Chown(filepath.Join(string(s), "a"), nobody, nobody-1))
	require.NoError(t, s.Save(t.Context(), "a", []byte("2")))
	info, err := os.Stat(filepath.Join(string(s), "a"))
	require.NoError(t, err)
	assert.EqualValues(t, nobody, info.Sys().(*syscall.Stat_t).Uid)
	assert.EqualValues(t, nobody-1, info.Sys().(*syscall.Stat_t).Gid)
	assert.Equal(t, fs.FileMode(0o600), info.Mode())
}

func TestALinkInAUsersFolderGivesThemNothingOfTheSuperusers(t *testing.T) {
	t.Parallel()
	onlyForTheSuperuser(t)
	secret := filepath.Join(t.TempDir(), "secret")
	require.NoError(t, os.WriteFile(secret, []byte("of the superuser"), 0o600))
	folder := t.TempDir()
	require.NoError(t, os.Chown(folder, nobody, nobody))
	for _, name := range []string{"a", "a.lock", "b"} {
		require.NoError(t, os.Symlink(secret, filepath.Join(folder, name)))
	}
	require.NoError(t, os.Symlink(filepath.Dir(secret), filepath.Join(folder, "elsewhere")))
	s := polargate.FileStore(folder)
	_, err := s.Lock(t.Context(), "a")
	require.Error(t, err)
	require.NoError(t, s.Save(t.Context(), "a", []byte("x")), "the link itself is replaced")
	require.NoError(t, polargate.FileStore(filepath.Join(folder, "elsewhere")).Save(t.Context(), "c", []byte("x")))
	for _, path := range []string{secret, filepath.Dir(secret), filepath.Join(filepath.Dir(secret), "c")} {
		info, err := os.Stat(path)
		require.NoError(t, err)
		assert.Zero(t, info.Sys().(*syscall.Stat_t).Uid, path)
	}
	text, err := os.ReadFile(secret)
	require.NoError(t, err)
	assert.Equal(t, "of the superuser", string(text))
}

func TestAUserIsToldWhoseTheLicenseFileIsAndWhatToDo(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		strike func(*testing.T, *home) (path string)
		seen   bool // the stored license itself can be read
	}{
		"everything is the superuser's": {strike: func(t *testing.T, h *home) string {
			chown(t, h.folder, 0)
			return h.folder
		}},
		"the file alone": {strike: func(t *testing.T, h *home) string {
			require.NoError(t, os.Chown(h.file(".sealed"), 0, 0))
			return h.file(".sealed")
		}},
		"the lock alone": {seen: true, strike: func(t *testing.T, h *home) string {
			require.NoError(t, os.Chown(h.file(".sealed.lock"), 0, 0))
			return h.file(".sealed.lock")
		}},
		"the folder above": {strike: func(t *testing.T, h *home) string {
			chown(t, filepath.Dir(h.folder), 0)
			return filepath.Dir(h.folder)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			onlyForTheSuperuser(t)
			h := newHome(t)
			require.True(t, h.run(false).Activated)
			path := test.strike(t, h)
			said := h.run(false)
			repair := h.folder
			if len(path) < len(repair) {
				repair = path
			}
			words := []string{said.ActivateMessage}
			if !test.seen {
				words = append(words, said.Message, said.CheckMessage)
				assert.Equal(t, polargate.ErrNoPermission, said.Reason)
				assert.Equal(t, polargate.Unlicensed, said.State)
				assert.True(t, said.NoPermission)
				assert.True(t, said.ConsumeForbidden)
			} else {
				assert.Equal(t, polargate.Active, said.State)
			}
			assert.True(t, said.ActivateRefused)
			for _, text := range words {
				assert.Contains(t, text, path+", which belongs to the administrator (root)")
				assert.Contains(t, text, "sudo chown -R $USER "+repair)
				for _, wrong := range []string{"damage", "kept aside", "disk", "enter the license key"} {
					assert.NotContains(t, text, wrong)
				}
			}
			if !test.seen {
				assert.Equal(t, "root", said.Owner)
			} else {
				assert.Equal(t, "not permitted", said.Lock)
			}
			assert.Contains(t, strings.Join(said.Problems, "\n"), "which belongs to the administrator (root)")
			assert.NotContains(t, said.Report, h.path, "a report does not name the home")
			assert.Equal(t, 1, h.polar.Seats(h.key.ID))

			chown(t, filepath.Dir(h.folder), nobody) // as the words say
			said = h.run(false)
			assert.Equal(t, polargate.Active, said.State)
			assert.True(t, said.Activated)
			assert.Empty(t, said.Problems)
		})
	}
}

func chown(t *testing.T, folder string, user int) {
	t.Helper()
	require.NoError(t, filepath.WalkDir(folder, func(path string, _ fs.DirEntry, err error) error {
		return errors.Join(err, os.Chown(path, user, user))
	}))
}

func TestPermitFilesOfTheSuperuserDoNotStopOtherUsers(t *testing.T) {
	t.Parallel()
	onlyForTheSuperuser(t)
	for name, strike := range map[string]func(*testing.T, string){
		"all of the cache folder": func(t *testing.T, cache string) { chown(t, cache, 0) },
		"the files alone": func(t *testing.T, cache string) {
			require.NoError(t, filepath.WalkDir(cache, func(path string, d fs.DirEntry, err error) error {
				if err == nil && !d.IsDir() {
					err = os.Chown(path, 0, 0)
				}
				return err
			}))
		},
		"the records alone": func(t *testing.T, cache string) {
			found, err := filepath.Glob(filepath.Join(cache, "polargate", "*", "*", "[123]"))
			require.NoError(t, err)
			require.NotEmpty(t, found)
			for _, path := range found {
				require.NoError(t, os.Chown(path, 0, 0))
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHome(t)
			require.True(t, h.run(false).Activated)
			strike(t, filepath.Join(h.path, ".cache"))
			h.key = h.polar.AddKey(polartest.LicenseKey{LimitActivations: polartest.Limit(1)})
			said := h.run(false)
			assert.True(t, said.Activated, said.ActivateMessage)
			assert.False(t, said.PaceShared, "and the report says that pacing is not shared")
		})
	}
}

// The same for who cannot be the superuser: what may not be opened for other reasons.
func TestAFileThatMayNotBeOpenedDoesNotCountAsDamaged(t *testing.T) {
	t.Parallel()
	for name, strike := range map[string]func(*testing.T, *home) string{
		"a file without rights": func(t *testing.T, h *home) string {
			require.NoError(t, os.Chmod(h.file(".sealed"), 0))
			return h.file(".sealed")
		},
		"a folder without rights": func(t *testing.T, h *home) string {
			require.NoError(t, os.Chmod(h.folder, 0))
			t.Cleanup(func() { _ = os.Chmod(h.folder, 0o700) })
			return h.folder
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHome(t)
			require.True(t, h.run(false).Activated)
			path := strike(t, h)
			said := h.run(false)
			assert.Equal(t, polargate.ErrNoPermission, said.Reason)
			assert.Contains(t, said.Message, "isn't allowed to use "+path+". Give your user account access")
			assert.True(t, said.ActivateRefused)
			assert.Equal(t, said.Message, said.ActivateMessage)
			assert.NotContains(t, said.Message, "sudo", "it is theirs")
			assert.NotContains(t, said.Message, "damage")
		})
	}
	t.Run("a folder that cannot be written", func(t *testing.T) {
		t.Parallel()
		h := newHome(t)
		require.True(t, h.run(false).Activated)
		require.NoError(t, os.Chmod(h.folder, 0o500))
		t.Cleanup(func() { _ = os.Chmod(h.folder, 0o700) })
		h.key = h.polar.AddKey(polartest.LicenseKey{LimitActivations: polartest.Limit(1)})
		said := h.run(false)
		assert.Equal(t, polargate.Active, said.State)
		assert.True(t, said.ActivateRefused)
		assert.Contains(t, said.ActivateMessage, "isn't allowed to use "+h.folder)
		assert.Zero(t, h.polar.Seats(h.key.ID))
	})
	t.Run("a file that is only for reading is replaced all the same", func(t *testing.T) {
		t.Parallel()
		h := newHome(t)
		require.True(t, h.run(false).Activated)
		require.NoError(t, os.Chmod(h.file(".sealed"), 0o400))
		require.NoError(t, os.Chmod(h.file(".sealed.lock"), 0o400))
		h.key = h.polar.AddKey(polartest.LicenseKey{LimitActivations: polartest.Limit(1)})
		said := h.run(false)
		assert.Equal(t, polargate.Active, said.State)
		assert.True(t, said.Activated, said.ActivateMessage)
	})
}
