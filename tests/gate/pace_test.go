package gate

import (
	"context"
	"errors"
	"fmt"
	"os"
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

func init() { programs["refresh"] = programThatRefreshes }

// programThatRefreshes says how it went on standard output.
func programThatRefreshes(args []string) error {
	gate, err := aProgram(args)
	if err != nil {
		return err
	}
	defer gate.Close()
	_, err = gate.Refresh(context.Background())
	var e *polargate.Error
	if errors.As(err, &e) {
		fmt.Print(string(e.Reason), " ", e.RetryAfter.Round(time.Second))
		return nil
	}
	return err
}

func TestProgramsStartedAtOnceKeepToPolarsLimitAndNoneIsRefused(t *testing.T) {
	t.Parallel()
	polar, server, key := realPolar(t)
	cache := t.TempDir()
	var group sync.WaitGroup
	const programs = 8
	for range programs {
		// Each has a state folder of its own, as different programs do.
		cmd := testprogram.WithHome(testprogram.Command(t, "activate", server.URL, polar.OrganizationID(), t.TempDir(), key.Key), cache)
		group.Go(func() { assert.NoError(t, cmd.Run()) })
	}
	group.Wait()
	assert.Equal(t, programs, polar.Seats(key.ID))

	requests := polar.Requests()
	require.NotEmpty(t, requests)
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
		require.NoError(t, testprogram.WithHome(testprogram.Command(t, "activate", server.URL, polar.OrganizationID(), state, key.Key), cache).Run())
	}
	polar.Inject(polartest.Fault{Path: "/validate", Times: 1, Effect: polartest.RateLimited("40")})
	refresh := func(state string) string {
		cmd := testprogram.WithHome(testprogram.Command(t, "refresh", server.URL, polar.OrganizationID(), state), cache)
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
	cmd := testprogram.WithHome(testprogram.Command(t, "activate", server.URL, polar.OrganizationID(), t.TempDir(), key.Key), file)
	require.NoError(t, cmd.Run())
	assert.Equal(t, 1, polar.Seats(key.ID))
}
