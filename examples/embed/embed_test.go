//go:build embed

package main

import (
	"encoding/json"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/polargate/polargate/polartest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// sold is a Polar with a key of ten uses, and what a program is told of it.
func sold(t *testing.T) (polar *polartest.Polar, config string, key polartest.LicenseKey) {
	t.Helper()
	polar = polartest.New(polartest.Config{OnBreach: func(r polartest.Request, what string) {
		t.Errorf("%s %s: %s", r.Method, r.Path, what)
	}})
	server, err := polar.Start()
	require.NoError(t, err)
	t.Cleanup(func() { _ = server.Close() })
	key = polar.AddKey(polartest.LicenseKey{LimitActivations: polartest.Limit(1), LimitUsage: polartest.Limit(10)})
	text, err := json.Marshal(map[string]any{
		"organization_id": polar.OrganizationID(), "app": "inkwell", "version": "1.4.2", "base_url": server.URL,
		"features": map[string][]string{key.BenefitID: {"export"}}, "folder": filepath.Join(t.TempDir(), "license"), "background": true,
	})
	require.NoError(t, err)
	return polar, string(text), key
}

// built is the shared library, in a folder that ends with the test.
func built(t *testing.T) string {
	t.Helper()
	if runtime.GOOS != "linux" {
		t.Skip("the command lines here are those of Linux")
	}
	library := filepath.Join(t.TempDir(), "libpolargate.so")
	runs(t, "go", "build", "-tags", "embed", "-buildmode=c-shared", "-o", library, ".")
	return library
}

func runs(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	require.NoError(t, err, "%s", out)
	return string(out)
}

func TestProgramsInOtherLanguagesUseALicense(t *testing.T) {
	library := built(t)
	t.Run("in C", func(t *testing.T) {
		cc, err := exec.LookPath("gcc")
		if err != nil {
			t.Skip("gcc is missing: apt-get install gcc")
		}
		folder := filepath.Dir(library)
		program := filepath.Join(folder, "inkwell")
		runs(t, cc, "-std=c11", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Werror", "-I.", "-o", program, "c/inkwell.c", "-L"+folder, "-lpolargate", "-Wl,-rpath,"+folder, "-lpthread")
		polar, config, key := sold(t)
		out := runs(t, program, config, key.Key)
		assert.NotContains(t, out, key.Key)
		lines := strings.Split(strings.TrimSpace(out), "\n")
		want := []string{
			"open: 0", "check before: 3 ", "wrong key: 2 ", "activate: 0", "threads: 1", "other feature: 0", "consume: 0", "left: 7",
			"forked: 0", "deactivate: 0", "close: 0", "close again: 65", "after close: 65",
		}
		require.Len(t, lines, len(want), out)
		for i, line := range lines {
			assert.True(t, strings.HasPrefix(line, want[i]), "%s: %s", want[i], line)
		}
		assert.Zero(t, polar.Seats(key.ID))
		assert.Equal(t, 2, polar.Count("/activate"), "with the wrong key and with the right one")
	})
	t.Run("in Python", func(t *testing.T) {
		python, err := exec.LookPath("python3")
		if err != nil {
			t.Skip("python3 is missing: apt-get install python3")
		}
		polar, config, key := sold(t)
		out := runs(t, python, "python/inkwell.py", library, config, key.Key)
		assert.NotContains(t, out, key.Key)
		for _, want := range []string{
			"before: unlicensed\n", "wrong key: 2 ", "threads: True\n", "other feature: False\n", "left: 6\n", "forked: 0\n", "after: unlicensed\n", "closed: None\n",
		} {
			assert.Contains(t, out, want)
		}
		assert.Zero(t, polar.Seats(key.ID))
	})
}

func TestAConfigurationThatIsNotUnderstoodIsRefused(t *testing.T) {
	t.Parallel()
	for _, text := range []string{``, `null x`, `[]`, `{"organisation_id":"x"}`, `{} {}`, `{"app":1}`} {
		_, err := readConfig(text)
		require.Error(t, err, text)
	}
	c, err := readConfig(`{"organization_id":"x","features":{"b":["f"]},"background":true}`)
	require.NoError(t, err)
	assert.Equal(t, config{OrganizationID: "x", Features: map[string][]string{"b": {"f"}}, Background: true}, c)
}
