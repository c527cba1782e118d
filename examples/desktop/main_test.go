package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/polargate/polargate"
	"github.com/polargate/polargate/internal/testprogram"
	"github.com/polargate/polargate/polartest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

var binary string // the program that the tests start

func TestMain(m *testing.M) {
	folder, err := os.MkdirTemp("", "desktop-")
	if err != nil {
		panic(err)
	}
	binary = filepath.Join(folder, "desktop")
	if runtime.GOOS == "windows" {
		binary += ".exe"
	}
	// Before the home is another one, which has no build cache.
	out, err := exec.Command("go", "build", "-o", binary, ".").CombinedOutput()
	if err != nil {
		panic(string(out))
	}
	for _, home := range []string{"HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "LocalAppData", "AppData"} {
		_ = os.Setenv(home, folder) // the programs keep to themselves
	}
	testprogram.Overlap()
	code := m.Run()
	_ = os.RemoveAll(folder)
	os.Exit(code)
}

// installation is one computer's program and what it is set to.
type installation struct {
	t      *testing.T
	polar  *polartest.Polar
	server *polartest.Server
	key    polartest.LicenseKey
	env    map[string]string
}

func install(t *testing.T, key polartest.LicenseKey) *installation {
	t.Helper()
	polar := polartest.New(polartest.Config{OnBreach: func(r polartest.Request, what string) {
		t.Errorf("%s %s: %s", r.Method, r.Path, what)
	}})
	server, err := polar.Start()
	require.NoError(t, err)
	t.Cleanup(func() { _ = server.Close() })
	added := polar.AddKey(key)
	return &installation{t, polar, server, added, map[string]string{
		"POLAR_ORGANIZATION_ID": polar.OrganizationID(),
		"POLAR_API_URL":         server.URL,
		"POLARGATE_DIR":         filepath.Join(t.TempDir(), "state"),
		"POLARGATE_FEATURES":    added.BenefitID + "=export, sync;",
		// Where the programs of a user keep to Polar's limit together.
		"XDG_CACHE_HOME": t.TempDir(),
	}}
}

type result struct {
	code           int
	stdout, stderr string
}

func (i *installation) command(args ...string) (*exec.Cmd, *bytes.Buffer, *bytes.Buffer) {
	cmd := exec.Command(binary, args...)
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, "POLAR") && !strings.HasPrefix(strings.ToUpper(v), "HTTP_PROXY=") {
			cmd.Env = append(cmd.Env, v)
		}
	}
	for name, value := range i.env {
		cmd.Env = append(cmd.Env, name+"="+value)
	}
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	return cmd, &stdout, &stderr
}

func (i *installation) run(args ...string) result {
	i.t.Helper()
	cmd, stdout, stderr := i.command(args...)
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		i.t.Fatal(err)
	}
	r := result{cmd.ProcessState.ExitCode(), stdout.String(), stderr.String()}
	if i.key.Key != "" {
		assert.NotContains(i.t, r.stdout+r.stderr, i.key.Key, "a key was printed")
	}
	return r
}

func (i *installation) expect(code int, args ...string) result {
	i.t.Helper()
	r := i.run(args...)
	require.Equal(i.t, code, r.code, "%s\nstdout: %s\nstderr: %s", append(args, "tour")[0], r.stdout, r.stderr)
	if code != exitOK {
		assert.NotEmpty(i.t, r.stderr, "a failure says why")
	}
	return r
}

func (i *installation) status(code int, args ...string) map[string]any {
	i.t.Helper()
	r := i.expect(code, append([]string{"status", "--json"}, args...)...)
	var status map[string]any
	require.NoError(i.t, json.Unmarshal([]byte(r.stdout), &status), r.stdout)
	return status
}

func TestTheTourTellsTheLifeOfALicenseAndEndsByItself(t *testing.T) {
	t.Parallel()
	i := &installation{t: t, env: map[string]string{}}
	r := i.expect(exitOK)
	for _, words := range []string{"unlicensed", "active", "grace", "locked", "****-", "left: 7 of 10", "activations at Polar: 0"} {
		assert.Contains(t, r.stdout, words)
	}
	assert.Empty(t, r.stderr)
}

func TestALicenseOfAnotherComputerIsMovedByOneCommandAndNotBefore(t *testing.T) {
	t.Parallel()
	i := install(t, polartest.LicenseKey{LimitActivations: polartest.Limit(1)})
	assert.Equal(t, "no_license", i.status(exitUnlicensed)["reason"])
	i.expect(exitUnlicensed, "move")
	elsewhere, err := polargate.Open(polargate.Config{
		OrganizationID: i.polar.OrganizationID(), App: "polargate-desktop-example", BaseURL: i.server.URL,
		Fingerprint: "another computer", Store: polargate.FileStore(i.env["POLARGATE_DIR"]),
	})
	require.NoError(t, err)
	defer elsewhere.Close()
	_, err = elsewhere.Activate(t.Context(), i.key.Key)
	require.NoError(t, err)

	for _, args := range [][]string{{}, {"--refresh"}} {
		status := i.status(exitLocked, args...)
		assert.Equal(t, "locked", status["state"])
		assert.Equal(t, "other_machine", status["reason"])
		assert.Contains(t, status["message"], polargate.Phrases()["other_machine.do"])
	}
	assert.Equal(t, 1, i.polar.Count("/activate"))
	i.polar.Advance(time.Minute)
	assert.Contains(t, i.expect(exitOK, "move").stdout, "export, sync")
	assert.Equal(t, 1, i.polar.Seats(i.key.ID))
	assert.Equal(t, "active", i.status(exitOK)["state"])
	i.expect(exitOK, "move", "--json")
	assert.Equal(t, 2, i.polar.Count("/activate"))
	i.polar.Advance(time.Minute)
	_, err = elsewhere.Refresh(t.Context())
	require.ErrorIs(t, err, polargate.ErrSeatReleased)
}

func TestALicenseIsActivatedUsedAndDeactivatedByTheCommandLine(t *testing.T) {
	t.Parallel()
	i := install(t, polartest.LicenseKey{LimitActivations: polartest.Limit(1), LimitUsage: polartest.Limit(10)})

	status := i.status(exitUnlicensed)
	assert.Equal(t, "unlicensed", status["state"])
	assert.Equal(t, "no_license", status["reason"])
	i.expect(exitUnlicensed, "use", "1")

	i.expect(exitOK, "activate", "  \""+i.key.Key+"\"\n")
	i.expect(exitOK, "activate", i.key.Key)
	assert.Equal(t, 1, i.polar.Seats(i.key.ID))

	asked := len(i.polar.Requests())
	status = i.status(exitOK)
	assert.Equal(t, "active", status["state"])
	assert.Empty(t, status["reason"])
	assert.Equal(t, "disk", status["source"])
	assert.Equal(t, []any{"export", "sync"}, status["features"])
	assert.Equal(t, i.key.BenefitID, status["benefit_id"])
	assert.Equal(t, "****-"+i.key.Key[len(i.key.Key)-6:], status["key"])
	assert.Nil(t, status["expires_at"])
	for _, field := range []string{"checked_at", "fresh_until", "grace_until"} {
		_, err := time.Parse(time.RFC3339, status[field].(string))
		require.NoError(t, err, field)
	}
	assert.InDelta(t, 0, status["usage"], 0)
	assert.InDelta(t, 10, status["limit_usage"], 0)
	assert.Len(t, status, 18)
	assert.Len(t, i.polar.Requests(), asked, "a fresh answer on disk asks nobody")
	assert.Equal(t, "network", i.status(exitOK, "--refresh")["source"])

	assert.Contains(t, i.expect(exitOK, "use", "4").stdout, "6 uses left")
	assert.Contains(t, i.expect(exitLocked, "use", "7").stderr, polargate.Phrases()["usage_exceeded.do"])
	assert.Equal(t, "active", i.status(exitOK)["state"], "a use too many refuses the one call")

	assert.Contains(t, i.expect(exitOK, "deactivate").stdout, "This computer is deactivated.")
	assert.Zero(t, i.polar.Seats(i.key.ID))
	assert.Contains(t, i.expect(exitOK, "deactivate").stdout, "no license")
	assert.Contains(t, i.expect(exitOK, "--help").stdout, "activate KEY")
	assert.Contains(t, i.expect(exitOK, "activate", "--help").stdout, "desktop activate")
	i.expect(exitUnlicensed, "status")
}

func TestARefusedKeyLocksAndComesBack(t *testing.T) {
	t.Parallel()
	i := install(t, polartest.LicenseKey{LimitActivations: polartest.Limit(3)})
	i.expect(exitOK, "activate", i.key.Key)
	i.polar.Revoke(i.key.ID)
	status := i.status(exitLocked, "--refresh")
	assert.Equal(t, "locked", status["state"])
	assert.Equal(t, "inactive", status["reason"])
	assert.Equal(t, []any{}, status["features"])
	i.polar.SetOffline(true)
	i.expect(exitLocked, "status")
	i.polar.SetOffline(false)
	i.polar.Grant(i.key.ID)
	i.expect(exitOK, "status", "--refresh")
}

func TestARefusedLicenseStaysLockedWithoutANetworkAndBothAreSaid(t *testing.T) {
	t.Parallel()
	i := install(t, polartest.LicenseKey{LimitActivations: polartest.Limit(3)})
	i.expect(exitOK, "activate", i.key.Key)
	i.polar.Revoke(i.key.ID)
	i.expect(exitLocked, "status", "--refresh")
	i.polar.SetOffline(true)
	r := i.expect(exitLocked, "status", "--refresh")
	assert.Contains(t, r.stderr, polargate.Phrases()["inactive.do"])
	assert.Contains(t, r.stderr, polargate.Phrases()["unreachable.do"])
	assert.NotContains(t, r.stdout, polargate.Phrases()["inactive.do"], "it is said once")
	o := i.object(exitLocked, "status", "--refresh", "--json")
	assert.Equal(t, "locked", o["state"])
	assert.Equal(t, "inactive", o["reason"])
	assert.Equal(t, "inactive", reason(o, "error"))
	assert.Equal(t, "unreachable", reason(o, "warning"))
	i.polar.SetOffline(false)
	o = i.object(exitLocked, "status", "--refresh", "--json")
	assert.NotContains(t, o, "warning", "it was asked")

	// Without a license that is the fact, whatever else goes wrong.
	i.polar.SetOffline(true)
	i.expect(exitNotNow, "deactivate")
	o = i.object(exitUnlicensed, "status", "--refresh", "--json")
	assert.Equal(t, "no_license", reason(o, "error"))
	assert.Equal(t, "unreachable", reason(o, "warning"))
}

func TestAnErrorAboutAnEnteredKeyIsToldFromTheLicenseInUse(t *testing.T) {
	t.Parallel()
	i := install(t, polartest.LicenseKey{LimitActivations: polartest.Limit(3)})
	i.expect(exitOK, "activate", i.key.Key)
	for key, says := range map[string]string{
		"ACME-NO-SUCH-KEY": polargate.Phrases()["unknown_key.entered.do"],
		i.polar.AddKey(polartest.LicenseKey{LimitActivations: polartest.Limit(1)}).Key: polargate.Phrases()["wrong_benefit.entered.do"],
	} {
		r := i.expect(exitLocked, "activate", key)
		assert.Contains(t, r.stderr, says)
		assert.Contains(t, r.stderr, polargate.Phrases()["note_kept"])
	}
	assert.Contains(t, i.expect(exitUsage, "activate", "").stderr, polargate.Phrases()["note_kept"])
	i.polar.SetOffline(true)
	o := i.object(exitNotNow, "activate", "ACME-OTHER-KEY", "--json")
	assert.Equal(t, "active", o["state"])
	assert.Equal(t, "unreachable", reason(o, "error"))
	i.expect(exitOK, "status")
}

func TestALicenseThatAnotherProgramKeepsLockedIsBusy(t *testing.T) {
	t.Parallel()
	busy := &polargate.StoreError{Op: "lock", Err: context.DeadlineExceeded}
	assert.Equal(t, exitNotNow, exitCode(busy))
	assert.Equal(t, "busy", problemOf(busy).Reason)
	assert.Contains(t, problemOf(busy).Message, polargate.Phrases()["busy.do"])
	denied := &polargate.StoreError{Op: "load", Err: fs.ErrPermission}
	assert.Equal(t, exitNotNow, exitCode(denied))
	assert.Equal(t, "no_permission", problemOf(denied).Reason)
	unread := &polargate.Error{Op: "check", Reason: polargate.ErrNoPermission}
	assert.Equal(t, exitUnlicensed, exitCode(unread), "as its state says")
}

func TestKeysThatCannotBeActivatedSayWhy(t *testing.T) {
	t.Parallel()
	i := install(t, polartest.LicenseKey{LimitActivations: polartest.Limit(1)})
	assert.Contains(t, i.expect(exitLocked, "activate", "ACME-NO-SUCH-KEY").stderr, polargate.Phrases()["unknown_key.do"])
	i.expect(exitUsage, "activate", "")
	i.expect(exitUsage, "activate", strings.Repeat("x", 600))
	i.polar.Update(i.key.ID, func(k *polartest.LicenseKey) {
		k.Activations = append(k.Activations, polartest.Activation{Label: "elsewhere"})
	})
	assert.Contains(t, i.expect(exitLocked, "activate", i.key.Key).stderr, polargate.Phrases()["activation_limit.do"])
	other := i.polar.AddKey(polartest.LicenseKey{LimitActivations: polartest.Limit(1)})
	assert.Contains(t, i.expect(exitLocked, "activate", other.Key).stderr, polargate.Phrases()["wrong_benefit.do"])
	assert.Zero(t, i.polar.Seats(other.ID))
	i.expect(exitUnlicensed, "status")
}

func TestWithoutANetworkALicenseLastsAndNothingElseIsDecided(t *testing.T) {
	t.Parallel()
	i := install(t, polartest.LicenseKey{LimitActivations: polartest.Limit(1)})
	i.polar.SetOffline(true)
	i.expect(exitNotNow, "activate", i.key.Key)
	i.expect(exitUnlicensed, "status")
	i.polar.SetOffline(false)
	i.expect(exitOK, "activate", i.key.Key)
	i.polar.SetOffline(true)
	assert.Contains(t, i.expect(exitOK, "status", "--refresh").stderr, polargate.Phrases()["unreachable.do"], "a check that failed says so")
	r := i.expect(exitNotNow, "deactivate")
	assert.Contains(t, r.stdout, "when you start the program again")
	i.expect(exitUnlicensed, "status")
	assert.Equal(t, 1, i.polar.Seats(i.key.ID))
	i.polar.SetOffline(false)
	i.expect(exitOK, "deactivate")
	assert.Zero(t, i.polar.Seats(i.key.ID), "the seat is given back later")
}

func TestEightProcessesAtOnceUseOneActivation(t *testing.T) {
	t.Parallel()
	i := install(t, polartest.LicenseKey{LimitActivations: polartest.Limit(5)})
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() { assert.Zero(t, i.run("activate", i.key.Key).code) })
	}
	group.Wait()
	assert.Equal(t, 1, i.polar.Seats(i.key.ID))
	assert.Equal(t, 1, i.polar.Count("/activate"))
}

func TestAProcessKilledWhileActivatingLeavesAStateThatWorks(t *testing.T) {
	t.Parallel()
	i := install(t, polartest.LicenseKey{LimitActivations: polartest.Limit(2)})
	i.polar.Inject(polartest.Fault{Path: "/activate", Times: 1, Effect: polartest.Delay(time.Minute)})
	cmd, _, _ := i.command("activate", i.key.Key)
	require.NoError(t, cmd.Start())
	require.Eventually(t, func() bool { return i.polar.Seats(i.key.ID) == 1 }, time.Minute, 10*time.Millisecond)
	require.NoError(t, cmd.Process.Kill())
	_ = cmd.Wait()
	i.expect(exitUnlicensed, "status")
	i.expect(exitOK, "activate", i.key.Key)
	assert.Equal(t, "active", i.status(exitOK)["state"])
	assert.Equal(t, 2, i.polar.Seats(i.key.ID), "the first seat was given and never told")
}

func TestWrongCallsAreUsageErrors(t *testing.T) {
	t.Parallel()
	i := install(t, polartest.LicenseKey{LimitActivations: polartest.Limit(1)})
	for _, args := range [][]string{
		{}, {"dance"}, {"activate"}, {"activate", "a", "b"}, {"status", "--loud"}, {"status", "now"},
		{"use"}, {"use", "many"}, {"use", "0"}, {"use", "-1"}, {"use", "99999999999"}, {"deactivate", "please"}, {"move", "please"},
	} {
		r := i.run(args...)
		if len(args) > 1 && args[0] == "use" && r.code == exitUnlicensed {
			continue // no license comes first
		}
		assert.Equal(t, exitUsage, r.code, "%v", args)
		assert.NotEmpty(t, r.stderr)
		assert.Empty(t, r.stdout)
	}
	// Who forgets the word "activate" does not see the key again.
	i.expect(exitUsage, i.key.Key)
	for name, value := range map[string]string{
		"POLAR_ORGANIZATION_ID": "not-a-uuid",
		"POLAR_API_URL":         "ftp://example.test",
		"POLARGATE_FEATURES":    "nonsense",
	} {
		before := i.env[name]
		i.env[name] = value
		i.expect(exitUsage, "status")
		i.env[name] = before
	}
	i.env["POLARGATE_FEATURES"] = "not-a-uuid=export"
	i.expect(exitUsage, "status")
	delete(i.env, "POLAR_ORGANIZATION_ID")
	i.expect(exitUsage, "status")
	assert.Empty(t, i.polar.Requests())
}

func TestAnUnwritableFolderFailsTheActivationBeforePolarIsAsked(t *testing.T) {
	t.Parallel()
	i := install(t, polartest.LicenseKey{LimitActivations: polartest.Limit(1)})
	// A file where the folder should be keeps even an administrator out.
	blocked := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(blocked, nil, 0o600))
	i.env["POLARGATE_DIR"] = filepath.Join(blocked, "state")
	r := i.expect(exitNotNow, "activate", i.key.Key)
	assert.Contains(t, r.stderr, "writable")
	assert.Empty(t, i.polar.Requests())
	i.expect(exitUnlicensed, "status")
}

func TestTheDoctorsReportCanBePastedIntoAMail(t *testing.T) {
	t.Parallel()
	i := install(t, polartest.LicenseKey{LimitActivations: polartest.Limit(1)})
	home := filepath.Join(t.TempDir(), "jane.doe")
	i.env["HOME"], i.env["USER"], i.env["USERPROFILE"] = home, "jane.doe", home
	i.env["POLARGATE_DIR"] = filepath.Join(home, "state")
	i.expect(exitOK, "activate", i.key.Key)
	r := i.expect(exitOK, "doctor")
	for _, want := range []string{"as Polar does", "proxy        none", "clock", "machine id", "active", "problems     none found", "state", i.server.URL} {
		if want == "machine id" && strings.Contains(r.stdout, "random") {
			continue // a machine without one
		}
		assert.Contains(t, r.stdout, want)
	}
	assert.Contains(t, r.stdout, "****-"+i.key.Key[len(i.key.Key)-6:], "by its end, support finds the key")
	for _, secret := range []string{i.key.Key, i.key.Key[len(i.key.Key)-8:], "jane", home} {
		assert.NotContains(t, r.stdout+r.stderr, secret)
	}

	i.polar.SetOffline(true)
	i.env["HTTP_PROXY"], i.env["http_proxy"] = "http://jane:secret@127.0.0.1:1", "http://jane:secret@127.0.0.1:1"
	r = i.expect(exitNotNow, "doctor", "--json")
	var report map[string]any
	require.NoError(t, json.Unmarshal([]byte(r.stdout), &report))
	assert.Equal(t, false, report["reached"])
	assert.NotEmpty(t, report["problems"])
	assert.NotContains(t, r.stdout, "secret")
	i.expect(exitUsage, "doctor", "now")
}

func TestTheProxyOfTheEnvironmentIsHonoured(t *testing.T) {
	t.Parallel()
	i := install(t, polartest.LicenseKey{LimitActivations: polartest.Limit(1)})
	var through []string
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		through = append(through, r.URL.Host)
		i.polar.ServeHTTP(w, r)
	}))
	defer proxy.Close()
	i.env["POLAR_API_URL"] = "http://polar.example"
	i.env["HTTP_PROXY"] = proxy.URL
	i.expect(exitOK, "activate", i.key.Key)
	assert.Equal(t, []string{"polar.example"}, through)
}

func TestALoginPageOnTheWayDecidesNothing(t *testing.T) {
	t.Parallel()
	i := install(t, polartest.LicenseKey{LimitActivations: polartest.Limit(1)})
	i.expect(exitOK, "activate", i.key.Key)
	for _, effect := range []polartest.Effect{polartest.LoginPage(200), polartest.LoginPage(302), polartest.LoginPage(511)} {
		i.polar.ClearFaults()
		i.polar.Inject(polartest.Fault{Effect: effect})
		assert.Equal(t, "active", i.status(exitOK, "--refresh")["state"])
	}
}

// A port that nobody listens on refuses at once, as a computer without a
// network does.
func TestARefusedConnectionIsNotNow(t *testing.T) {
	t.Parallel()
	i := install(t, polartest.LicenseKey{LimitActivations: polartest.Limit(1)})
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	i.env["POLAR_API_URL"] = "http://" + listener.Addr().String()
	require.NoError(t, listener.Close())
	began := time.Now()
	r := i.expect(exitNotNow, "activate", i.key.Key)
	assert.Contains(t, r.stderr, polargate.Phrases()["unreachable.refused.do"])
	assert.Less(t, time.Since(began), 2*time.Minute)
}

func TestABenefitThatUnlocksNothingStillKeepsOthersOut(t *testing.T) {
	t.Parallel()
	i := install(t, polartest.LicenseKey{LimitActivations: polartest.Limit(1)})
	i.env["POLARGATE_FEATURES"] = i.key.BenefitID + "="
	other := i.polar.AddKey(polartest.LicenseKey{LimitActivations: polartest.Limit(1)})
	i.expect(exitLocked, "activate", other.Key)
	i.expect(exitOK, "activate", i.key.Key)
	assert.Equal(t, []any{}, i.status(exitOK)["features"])
}
