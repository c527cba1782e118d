package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/polargate/polargate/polartest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestProgramsInCAndPythonReadTheStatus(t *testing.T) {
	t.Parallel()
	i := install(t, polartest.LicenseKey{LimitActivations: polartest.Limit(1)})
	asks := map[string][]string{}
	if python, err := exec.LookPath("python3"); err == nil {
		asks["Python"] = []string{python, filepath.Join("testdata", "licensed.py"), binary}
	} else {
		t.Log("Python isn't tried: install python3")
	}
	if cc, err := exec.LookPath("cc"); err == nil {
		program := filepath.Join(t.TempDir(), "licensed")
		out, err := exec.Command(cc, "-Wall", "-Werror", "-o", program, filepath.Join("testdata", "licensed.c")).CombinedOutput()
		require.NoError(t, err, "%s", out)
		asks["C"] = []string{program, binary}
	} else {
		t.Log("C isn't tried: install a C compiler, such as gcc")
	}
	said := func(args []string) (string, bool) {
		cmd := exec.Command(args[0], args[1:]...)
		cmd.Env = os.Environ()
		for name, value := range i.env {
			cmd.Env = append(cmd.Env, name+"="+value)
		}
		out, err := cmd.CombinedOutput()
		return strings.TrimSpace(string(out)), err == nil
	}
	for language, args := range asks {
		out, ok := said(args)
		assert.False(t, ok, "%s: %s", language, out)
		assert.NotEqual(t, "export is unlocked", out)
	}
	i.expect(exitOK, "activate", i.key.Key)
	for language, args := range asks {
		out, ok := said(args)
		assert.True(t, ok, "%s: %s", language, out)
		assert.Equal(t, "export is unlocked", out, language)
	}
}
