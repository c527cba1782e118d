package cookbook

import (
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/polargate/polargate"
	"github.com/polargate/polargate/internal/testprogram"
	"github.com/polargate/polargate/licensepage"
	"github.com/polargate/polargate/polartest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestMain(m *testing.M) {
	if organization := os.Getenv("INKWELL_ORGANIZATION"); organization != "" { // the program, as a test starts it
		polarURL = os.Getenv("INKWELL_POLAR")
		os.Exit(Main(context.Background(), organization, polargate.FileStore(os.Getenv("INKWELL_STATE")), os.Args[1:], os.Stdout))
	}
	os.Exit(testprogram.Main(m, nil)) // with a home of its own
}

// config is that of a program on an embedded Polar, with a key of each edition.
func config(t *testing.T) (polargate.Config, *polartest.Polar, map[string]polartest.LicenseKey) {
	t.Helper()
	polar := polartest.New(polartest.Config{Unlimited: true})
	keys := map[string]polartest.LicenseKey{}
	for name, benefit := range map[string]string{"basic": basic, "pro": pro} {
		keys[name] = polar.AddKey(polartest.LicenseKey{BenefitID: benefit, LimitActivations: polartest.Limit(1)})
	}
	return polargate.Config{
		OrganizationID: polar.OrganizationID(), App: "inkwell", BaseURL: polar.URL(), HTTPClient: polar.Client(),
		Store: &polargate.MemoryStore{}, Features: Editions,
	}, polar, keys
}

func open(t *testing.T, c polargate.Config) *polargate.Gate {
	t.Helper()
	gate, err := polargate.Open(c)
	require.NoError(t, err)
	t.Cleanup(func() { _ = gate.Close() })
	return gate
}

func TestEditionsFollowTheKeyAndAnUpgradeReplacesIt(t *testing.T) {
	t.Parallel()
	c, polar, keys := config(t)
	gate := open(t, c)
	assert.Equal(t, "Free", Edition(gate.Status()))
	text, done := Upgrade(t.Context(), gate, keys["basic"].Key)
	assert.False(t, done)
	assert.Equal(t, "Licensed.", text)
	assert.Equal(t, "Basic", Edition(gate.Status()))

	text, done = Upgrade(t.Context(), gate, "MISTYPED")
	assert.False(t, done)
	assert.Contains(t, text, "Your current license is unchanged.")
	assert.Equal(t, "Basic", Edition(gate.Status()))

	_, done = Upgrade(t.Context(), gate, keys["pro"].Key)
	assert.True(t, done)
	assert.Equal(t, "Pro", Edition(gate.Status()))
	assert.Zero(t, polar.Seats(keys["basic"].ID), "Basic is deactivated")
}

func TestUpdatesAreOfferedToThoseWhoseLicenseCoversThem(t *testing.T) {
	t.Parallel()
	ended := time.Date(2030, 3, 1, 0, 0, 0, 0, time.UTC)
	before, after := Release{"1.4", ended.AddDate(0, 0, -1)}, Release{"2.0", ended.AddDate(0, 0, 1)}
	for state, want := range map[polargate.State][2]bool{
		polargate.Active: {true, false}, polargate.Grace: {true, false}, polargate.Perpetual: {true, false},
		polargate.Locked: {false, false}, polargate.Unlicensed: {false, false}, polargate.InTrial: {false, false},
	} {
		s := polargate.Status{State: state, ExpiresAt: ended, CoveredUntil: ended}
		assert.Equal(t, want, [2]bool{MayInstall(s, before), MayInstall(s, after)}, state)
	}
	assert.True(t, MayInstall(polargate.Status{State: polargate.Active}, after), "a license without an end")
}

func TestAServiceFindsItsKeyAndItsFolder(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("systemd is for Linux")
	}
	credentials, state := t.TempDir(), t.TempDir()
	c, polar, keys := config(t)
	t.Setenv("CREDENTIALS_DIRECTORY", credentials)
	t.Setenv("STATE_DIRECTORY", state)
	require.NoError(t, os.WriteFile(filepath.Join(credentials, "license-key"), []byte(keys["pro"].Key+"\n"), 0o600))
	key, err := ServiceKey()
	require.NoError(t, err)
	for range 2 { // it is started again, without a network
		gate, err := OpenService(c)
		require.NoError(t, err)
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- StartService(ctx, gate, key) }()
		require.Eventually(t, func() bool { return gate.Has("sync") }, time.Minute, time.Millisecond)
		stop()
		require.NoError(t, <-ended)
		require.NoError(t, gate.Close())
		polar.SetOffline(true)
	}
	assert.Equal(t, 1, polar.Seats(keys["pro"].ID))
	found, err := filepath.Glob(filepath.Join(state, "license", "*.sealed"))
	require.NoError(t, err)
	assert.Len(t, found, 1)
	unit, err := os.ReadFile("inkwell.service")
	require.NoError(t, err)
	assert.Contains(t, string(unit), "StateDirectory="+c.App)
	if verify, err := exec.LookPath("systemd-analyze"); err == nil {
		out, _ := exec.Command(verify, "verify", "--man=no", "inkwell.service").CombinedOutput()
		assert.NotContains(t, string(out), "Unknown", "%s", out)
	}
}

func TestAnUninstallerDeactivatesTheComputerOrSaysWhatRemains(t *testing.T) {
	t.Parallel()
	c, polar, keys := config(t)
	c.Links.Portal = "https://example.com/portal"
	gate := open(t, c)
	_, err := gate.Activate(t.Context(), keys["pro"].Key)
	require.NoError(t, err)
	polar.SetOffline(true)
	var out strings.Builder
	Uninstall(t.Context(), gate, &out)
	assert.Contains(t, out.String(), "https://example.com/portal")
	polar.SetOffline(false)
	out.Reset()
	Uninstall(t.Context(), gate, &out)
	assert.Empty(t, out.String())
	assert.Zero(t, polar.Seats(keys["pro"].ID))

	c, polar, keys = config(t)
	gate = open(t, c)
	_, err = gate.Activate(t.Context(), keys["pro"].Key)
	require.NoError(t, err)
	polar.SetOffline(true)
	Uninstall(t.Context(), gate, &out)
	assert.Contains(t, out.String(), "contact support")
}

func TestALinkReachesTheProgramThatRunsAndOnlyAsks(t *testing.T) {
	t.Parallel()
	c, polar, keys := config(t)
	page := licensepage.Handler(open(t, c), licensepage.Options{})
	folder, err := os.MkdirTemp("", "link") // the name of a socket must be short
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(folder) })
	socket := filepath.Join(folder, "s")
	link := "inkwell://activate?key=" + keys["pro"].Key
	assert.False(t, HandOver(socket, link), "no other program runs")

	ctx, stop := context.WithCancel(t.Context())
	asked, ended := make(chan error, 1), make(chan error, 1)
	go func() {
		ended <- Links(ctx, socket, func(link string) error {
			err := page.Ask(link)
			asked <- err
			return err
		})
	}()
	require.Eventually(t, func() bool { return HandOver(socket, link) }, time.Minute, time.Millisecond)
	require.NoError(t, <-asked)
	assert.Zero(t, polar.Seats(keys["pro"].ID))
	require.True(t, HandOver(socket, "inkwell://nonsense"))
	require.Error(t, <-asked)
	stop()
	require.NoError(t, <-ended)
}

func TestAKioskIsLicensedOnceItsNetworkIsThere(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c, polar, keys := config(t)
		var shown []string
		show := func(text string) { shown = append(shown, text) }
		gate, err := polargate.Open(KioskConfig(c, func(string) {}))
		require.NoError(t, err)
		defer gate.Close()
		polar.SetOffline(true)
		time.AfterFunc(150*time.Second, func() { polar.SetOffline(false) })
		ctx, stop := context.WithTimeout(t.Context(), time.Hour)
		defer stop()
		require.NoError(t, Kiosk(ctx, gate, keys["pro"].Key, show))
		require.NotEmpty(t, shown)
		assert.NotEmpty(t, shown[0])
		assert.Empty(t, shown[len(shown)-1])
		assert.True(t, gate.Has("sync"))
	})
	said := make(chan string, 9)
	change := KioskConfig(polargate.Config{}, func(text string) { said <- text }).OnChange
	change(polargate.Status{}, polargate.Status{State: polargate.Locked, Message: "Locked."})
	assert.Equal(t, "Locked.", <-said)
	change(polargate.Status{}, polargate.Status{State: polargate.Active, Message: "Licensed."})
	assert.Empty(t, <-said)
}

func TestABuildJobActivatesAndDeactivatesAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c, polar, keys := config(t)
		require.NoError(t, Job(t.Context(), c, keys["pro"].Key, func(context.Context) error {
			assert.Equal(t, 1, polar.Seats(keys["pro"].ID))
			return nil
		}))
		assert.Zero(t, polar.Seats(keys["pro"].ID))
		require.ErrorIs(t, Job(t.Context(), c, keys["pro"].Key, func(context.Context) error { return io.ErrUnexpectedEOF }), io.ErrUnexpectedEOF)
		assert.Zero(t, polar.Seats(keys["pro"].ID), "also if the work fails")
		assert.ErrorIs(t, Job(t.Context(), c, "MISTYPED", nil), polargate.ErrUnknownKey)
	})
}

// TestTheProgramThatYouShip starts the built program on a Polar of its own. Here the test binary
// stands for it.
func TestTheProgramThatYouShip(t *testing.T) {
	t.Parallel()
	polar := polartest.New(polartest.Config{})
	server, err := polar.Start()
	require.NoError(t, err)
	t.Cleanup(func() { _ = server.Close() })
	key := polar.AddKey(polartest.LicenseKey{LimitActivations: polartest.Limit(1)})
	state := t.TempDir()
	run := func(args ...string) (string, int) {
		program := exec.Command(os.Args[0], args...)
		program.Env = append(os.Environ(), "INKWELL_ORGANIZATION="+polar.OrganizationID(), "INKWELL_POLAR="+server.URL, "INKWELL_STATE="+state)
		out, _ := program.CombinedOutput()
		return string(out), program.ProcessState.ExitCode()
	}

	out, code := run()
	assert.Equal(t, 2, code, out)
	out, code = run("activate", key.Key)
	assert.Equal(t, 0, code, out)
	assert.Equal(t, 1, polar.Seats(key.ID))
	out, code = run()
	assert.Equal(t, 0, code, out)
	assert.NotContains(t, out, key.Key)

	polar.Revoke(key.ID)
	polar.SetOffline(true)
	out, code = run()
	assert.Equal(t, 0, code, "a fresh answer needs no network: %s", out)
}
