package main

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/polargate/polargate/polartest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// runWith runs the program with something in its standard input.
func (i *installation) runWith(input string, args ...string) result {
	i.t.Helper()
	cmd, stdout, stderr := i.command(args...)
	cmd.Stdin = strings.NewReader(input)
	_ = cmd.Run()
	return result{cmd.ProcessState.ExitCode(), stdout.String(), stderr.String()}
}

func TestAKeyIsReadFromAnotherProgram(t *testing.T) {
	t.Parallel()
	i := install(t, polartest.LicenseKey{LimitActivations: polartest.Limit(1)})
	for name, input := range map[string]string{"nothing": "", "an empty line": "\n", "far too much": strings.Repeat("x", 1<<20), "a NUL": "a\x00b\n"} {
		r := i.runWith(input, "activate")
		assert.Equal(t, exitUsage, r.code, name)
		assert.NotContains(t, r.stderr, "xxx", name)
	}
	assert.Empty(t, i.polar.Requests())
	r := i.runWith(i.key.Key+"\nand a second line", "activate")
	assert.Equal(t, exitOK, r.code, r.stderr)
	assert.NotContains(t, r.stdout+r.stderr, i.key.Key)
	assert.Contains(t, r.stdout, "active")
	assert.Equal(t, exitOK, i.runWith(i.key.Key, "activate", "-").code)
	assert.Equal(t, 1, i.polar.Seats(i.key.ID))
}

func TestEveryCommandAnswersInJSONAndNamesItsFailure(t *testing.T) {
	t.Parallel()
	i := install(t, polartest.LicenseKey{LimitActivations: polartest.Limit(1), LimitUsage: polartest.Limit(10)})
	ask := func(code int, args ...string) map[string]any {
		t.Helper()
		r := i.run(append(args, "--json")...)
		require.Equal(t, code, r.code, "%v: %s %s", args, r.stdout, r.stderr)
		var object map[string]any
		d := json.NewDecoder(strings.NewReader(r.stdout))
		require.NoError(t, d.Decode(&object), r.stdout)
		assert.False(t, d.More(), "one object")
		if code == exitOK {
			assert.NotContains(t, object, "error")
		}
		return object
	}
	reason := func(object map[string]any) string {
		failure, _ := object["error"].(map[string]any)
		assert.NotEmpty(t, failure["message"])
		text, _ := failure["reason"].(string)
		return text
	}
	assert.Equal(t, "no_license", reason(ask(exitUnlicensed, "status")))
	assert.Equal(t, "no_license", reason(i.json(exitUnlicensed, "use", "--json", "3")))
	assert.Equal(t, "unknown_key", reason(i.json(exitLocked, "activate", "--json", "INKWELL-TYPO")))
	assert.Equal(t, "active", i.json(exitOK, "activate", "--json", i.key.Key)["state"])
	used := i.json(exitOK, "use", "--json", "4")
	assert.InDelta(t, 6, used["remaining"], 0)
	assert.InDelta(t, 4, used["usage"], 0)
	assert.Equal(t, "usage_exceeded", reason(i.json(exitLocked, "use", "--json", "7")))
	assert.NotEmpty(t, ask(exitOK, "doctor")["answer"])
	i.polar.SetOffline(true)
	status := ask(exitOK, "status")
	assert.Equal(t, "active", status["state"])
	gone := i.json(exitNotNow, "deactivate", "--json")
	assert.Equal(t, "unlicensed", gone["state"])
	assert.Equal(t, true, gone["release_pending"])
	assert.NotEmpty(t, reason(gone))
}

// json runs a command that prints JSON.
func (i *installation) json(code int, args ...string) map[string]any {
	i.t.Helper()
	r := i.run(args...)
	require.Equal(i.t, code, r.code, "%s %s", r.stdout, r.stderr)
	var object map[string]any
	require.NoError(i.t, json.Unmarshal([]byte(r.stdout), &object), r.stdout)
	return object
}

func TestHelpIsForEachCommandAndForAll(t *testing.T) {
	t.Parallel()
	i := install(t, polartest.LicenseKey{})
	all := i.expect(exitOK, "--help")
	assert.Empty(t, all.stderr)
	for _, c := range commands() {
		assert.Contains(t, all.stdout, "desktop "+c.name)
		for _, args := range [][]string{{c.name, "--help"}, {c.name, "-h"}, {"help", c.name}} {
			r := i.expect(exitOK, args...)
			assert.Contains(t, r.stdout, "\n  desktop "+c.name, "an example to copy")
			assert.Empty(t, r.stderr)
		}
	}
	for _, wrong := range [][]string{{"status", "--typo-INKWELL"}, {"INKWELL-KEY"}, {"use"}, {"use", "many-INKWELL"}, {"deactivate", "INKWELL"}, {"activate", "INKWELL", "INKWELL"}, {"serve", "INKWELL"}} {
		r := i.expect(exitUsage, wrong...)
		assert.Contains(t, r.stderr, "usage:")
		assert.NotContains(t, r.stdout+r.stderr, "INKWELL", "it may be a key")
	}
}

func TestWithoutATerminalThereAreNoColoursAndNoProgress(t *testing.T) {
	t.Parallel()
	i := install(t, polartest.LicenseKey{LimitActivations: polartest.Limit(1), LimitUsage: polartest.Limit(10), ExpiresAt: time.Now().AddDate(0, 0, 21).Add(time.Hour)})
	i.polar.Inject(polartest.Fault{Path: "/activate", Times: 1, Effect: polartest.Delay(2500 * time.Millisecond)})
	r := i.expect(exitOK, "activate", i.key.Key)
	assert.Empty(t, r.stderr)
	r = i.expect(exitOK, "status")
	assert.NotContains(t, r.stdout, "\x1b")
	for _, line := range []string{"license:     active\n", "features:    export, sync\n", "uses:        0 of 10\n", "expires:     in 21 days, ", "computer:    " + hostname() + "\n"} {
		assert.Contains(t, r.stdout, line)
	}
}

func TestProgressIsShownAfterAMomentAndTakenAway(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	c := &console{err: &out, progresses: true}
	c.progress("At once", time.Time{})()
	assert.Empty(t, out.String())
	stop := c.progress("Activating", time.Now().Add(time.Minute))
	time.Sleep(1500 * time.Millisecond)
	stop()
	assert.Contains(t, out.String(), "Activating… for another 5")
	assert.True(t, strings.HasSuffix(out.String(), "\r\x1b[K"), "no trace is left")
}
