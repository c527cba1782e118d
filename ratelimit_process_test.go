package polargate

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/polargate/polargate/polartest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func init() {
	processes["activate"] = processActivates
	processes["refresh"] = processRefreshes
}

// aProgram is a Gate as a process of its own has it: args are the server, the
// organization and the state folder.
func aProgram(args []string) (*Gate, error) {
	return Open(Config{
		OrganizationID: args[1], App: "inkwell", BaseURL: args[0], Store: FileStore(args[2]),
		Fingerprint: args[2], CheckTimeout: 30 * time.Second,
	})
}

func processActivates(args []string) error {
	gate, err := aProgram(args)
	if err != nil {
		return err
	}
	defer gate.Close()
	_, err = gate.Activate(context.Background(), args[3])
	return err
}

// processRefreshes says how it went on standard output.
func processRefreshes(args []string) error {
	gate, err := aProgram(args)
	if err != nil {
		return err
	}
	defer gate.Close()
	_, err = gate.Refresh(context.Background())
	var e *Error
	if errors.As(err, &e) {
		fmt.Print(string(e.Reason), " ", e.RetryAfter.Round(time.Second))
		return nil
	}
	return err
}

// realPolar is a Polar behind a loopback address, with its limits, and a key of
// many seats.
func realPolar(t *testing.T) (*polartest.Polar, *polartest.Server, polartest.LicenseKey) {
	t.Helper()
	polar := polartest.New(polartest.Config{OnBreach: func(r polartest.Request, what string) {
		t.Errorf("%s %s: %s", r.Method, r.Path, what)
	}})
	server, err := polar.Start()
	require.NoError(t, err)
	t.Cleanup(func() { _ = server.Close() })
	return polar, server, polar.AddKey(polartest.LicenseKey{LimitActivations: polartest.Limit(100)})
}

// withCache gives a process a folder of its own for what programs share.
func withCache(cmd *exec.Cmd, folder string) *exec.Cmd {
	for _, name := range cacheVariables {
		cmd.Env = append(cmd.Env, name+"="+folder)
	}
	return cmd
}

func TestTwentyProgramsStartedAtOnceKeepToPolarsLimitAndNoneIsRefused(t *testing.T) {
	t.Parallel()
	polar, server, key := realPolar(t)
	cache := t.TempDir()
	var group sync.WaitGroup
	for range 20 {
		// Each has a state folder of its own, as different programs do.
		cmd := withCache(process(t, "activate", server.URL, polar.OrganizationID(), t.TempDir(), key.Key), cache)
		group.Go(func() { assert.NoError(t, cmd.Run()) })
	}
	group.Wait()
	assert.Equal(t, 20, polar.Seats(key.ID))

	requests := polar.Requests()
	most := 0
	for i, first := range requests {
		inSecond := 0
		for _, r := range requests[i:] {
			if r.At.Sub(first.At) < time.Second {
				inSecond++
			}
		}
		most = max(most, inSecond)
		assert.NotEqual(t, 429, first.Status)
	}
	t.Logf("%d requests in %s, at most %d within a second", len(requests), requests[len(requests)-1].At.Sub(requests[0].At).Round(time.Millisecond), most)
	assert.LessOrEqual(t, most, 3)
}

func TestAPauseThatOneProgramLearntIsKeptByAll(t *testing.T) {
	t.Parallel()
	polar, server, key := realPolar(t)
	cache, first, second := t.TempDir(), t.TempDir(), t.TempDir()
	for _, state := range []string{first, second} {
		require.NoError(t, withCache(process(t, "activate", server.URL, polar.OrganizationID(), state, key.Key), cache).Run())
	}
	polar.Inject(polartest.Fault{Path: "/validate", Times: 1, Effect: polartest.RateLimited("40")})
	refresh := func(state string) string {
		cmd := withCache(process(t, "refresh", server.URL, polar.OrganizationID(), state), cache)
		out, err := cmd.Output()
		require.NoError(t, err)
		return string(out)
	}
	assert.Equal(t, "rate_limited 40s", refresh(first))
	asked := polar.Count("")
	said := refresh(second)
	assert.True(t, strings.HasPrefix(said, "rate_limited "), said)
	assert.Equal(t, asked, polar.Count(""), "the other program did not ask")
	assert.Equal(t, "rate_limited", strings.Fields(refresh(first))[0])
	assert.Equal(t, asked, polar.Count(""), "nor did a new start of the first")
}

func TestWithoutACacheFolderAProgramPacesItselfAlone(t *testing.T) {
	t.Parallel()
	polar, server, key := realPolar(t)
	file := t.TempDir() + "/file"
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	cmd := withCache(process(t, "activate", server.URL, polar.OrganizationID(), t.TempDir(), key.Key), file)
	require.NoError(t, cmd.Run())
	assert.Equal(t, 1, polar.Seats(key.ID))
}
