package gate

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/polargate/polargate"
	"github.com/polargate/polargate/internal/testprogram"
	"github.com/polargate/polargate/polartest"
	"github.com/polargate/polargate/tests/internal/kit"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// shares is what a program says that does something with the license of all users.
type shares struct {
	State   polargate.State
	Unsaved bool
	Status  string // its message
	Error   string // the message of the call's error
	Refused bool   // for lack of permission
	Store   string
	Problem []string
}

func init() { programs["share-license"] = programSharesLicense }

// programSharesLicense does args[2] with the license key args[3]. Polar is at args[0], its
// organization args[1].
func programSharesLicense(args []string) error {
	syscall.Umask(0o077)
	gate, err := polargate.Open(polargate.Config{BaseURL: args[0], OrganizationID: args[1], App: "inkwell", Store: polargate.SystemStore("inkwell"), Fingerprint: "the machine of the tests"})
	if err != nil {
		return err
	}
	defer gate.Close()
	ctx := context.Background()
	switch args[2] {
	case "check":
		_, err = gate.Check(ctx)
	case "refresh":
		_, err = gate.Refresh(ctx)
	case "activate":
		_, err = gate.Activate(ctx, args[3])
	case "deactivate":
		err = gate.Deactivate(ctx)
	}
	status, report := gate.Status(), gate.Diagnose(ctx)
	return json.NewEncoder(os.Stdout).Encode(shares{
		State: status.State, Unsaved: status.Unsaved, Status: status.Message, Error: polargate.Message(err),
		Refused: errors.Is(err, polargate.ErrNoPermission), Store: report.StoreOwner, Problem: report.Problems,
	})
}

func TestAllUsersOfAComputerShareOneLicenseThatTheAdministratorActivates(t *testing.T) {
	t.Parallel()
	onlyForTheSuperuser(t)
	h := newHome(t)
	state := t.TempDir()
	require.NoError(t, os.Chmod(state, 0o755))
	run := func(user uint32, what string) shares {
		t.Helper()
		cmd := exec.Command(h.binary, h.url, h.polar.OrganizationID(), what, h.key.Key)
		cmd.Env = []string{testprogram.Variable + "=share-license", "STATE_DIRECTORY=" + state, "HOME=" + h.path, "XDG_CACHE_HOME=" + filepath.Join(t.TempDir(), ".cache")}
		cmd.Stderr, cmd.Dir = os.Stderr, "/"
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: user, Gid: user}}
		out, err := cmd.Output()
		require.NoError(t, err)
		var said shares
		require.NoError(t, json.Unmarshal(out, &said), string(out))
		return said
	}
	said := run(nobody, "activate")
	assert.True(t, said.Refused)
	kit.Says(t, said.Error, "no_permission.shared.do")
	assert.Zero(t, h.polar.Seats(h.key.ID))

	assert.Equal(t, polargate.Active, run(0, "activate").State)
	for _, user := range []uint32{nobody, nobody - 1} {
		for _, what := range []string{"check", "refresh"} {
			said = run(user, what)
			assert.Equal(t, polargate.Active, said.State, "%s: %s", what, said.Status)
			assert.Empty(t, said.Error)
			assert.False(t, said.Unsaved, "the administrator saves it")
			assert.Equal(t, "root", said.Store)
			assert.Empty(t, said.Problem)
		}
	}
	said = run(nobody, "deactivate")
	assert.True(t, said.Refused)
	kit.Says(t, said.Error, "no_permission.shared.do")
	assert.Equal(t, polargate.Active, said.State)
	assert.Equal(t, 1, h.polar.Seats(h.key.ID), "one activation for all of them")

	require.NoError(t, filepath.WalkDir(filepath.Join(state, "license"), func(path string, d fs.DirEntry, err error) error {
		require.NoError(t, err)
		info, err := d.Info()
		require.NoError(t, err)
		assert.Zero(t, info.Mode().Perm()&0o022, "%s: %s: nobody else writes it", path, info.Mode())
		if filepath.Ext(path) == ".lock" {
			assert.Equal(t, fs.FileMode(0o600), info.Mode().Perm(), "who only reads can't keep others out")
		}
		return nil
	}))
	h.polar.Revoke(h.key.ID)
	said = run(nobody, "refresh")
	assert.Equal(t, polargate.Locked, said.State)
	assert.False(t, said.Unsaved)
	assert.NoError(t, errorOf(run(0, "deactivate")))
	assert.Equal(t, polargate.Unlicensed, run(nobody, "check").State)
	assert.Zero(t, h.polar.Seats(h.key.ID))
}

func errorOf(s shares) error {
	if s.Error != "" {
		return errors.New(s.Error)
	}
	return nil
}

func TestTheLicenseOfAllUsersIsWhereTheSystemKeepsSuchThings(t *testing.T) {
	for variable, want := range map[string]string{
		"":                         "/var/lib/inkwell/license",
		"/var/lib/private/inkwell": "/var/lib/private/inkwell/license",
		"/srv/a:/srv/b":            "/srv/a/license",
		"not/absolute":             "/var/lib/inkwell/license",
	} {
		t.Setenv("STATE_DIRECTORY", variable)
		polar := polartest.New(polartest.Config{})
		gate, err := polargate.Open(polargate.Config{OrganizationID: polar.OrganizationID(), BaseURL: polar.URL(), HTTPClient: polar.Client(), Store: polargate.SystemStore("inkwell")})
		require.NoError(t, err)
		assert.Equal(t, "the folder "+want, gate.Diagnose(t.Context()).Store)
		require.NoError(t, gate.Close())
	}
	for _, app := range []string{"", "../etc", "a/b", "con", "."} {
		assert.Error(t, polargate.SystemStore(app).Save(t.Context(), "a", nil), app)
	}
}

func TestAServiceWithoutAHomeUsesItsStateDirectoryOrIsToldWhatToSet(t *testing.T) {
	t.Setenv("HOME", "")
	t.Setenv("XDG_CONFIG_HOME", "")
	state := t.TempDir()
	for _, given := range []bool{false, true} {
		if given {
			t.Setenv("STATE_DIRECTORY", state)
		} else {
			t.Setenv("STATE_DIRECTORY", "")
		}
		w := kit.NewWorld(t)
		w.Config.Store = nil
		gate := w.Open()
		_, err := gate.Activate(t.Context(), w.Key.Key)
		if given {
			require.NoError(t, err)
			found, err := filepath.Glob(filepath.Join(state, "license", "license-*.sealed"))
			require.NoError(t, err)
			assert.Len(t, found, 1)
			continue
		}
		require.Error(t, err)
		kit.Says(t, polargate.Message(err), "unreadable_state.home.do")
		assert.Zero(t, w.Seats())
		assert.Contains(t, fmt.Sprint(gate.Diagnose(t.Context()).Problems), polargate.Phrases()["unreadable_state.home.do"])
	}
}
