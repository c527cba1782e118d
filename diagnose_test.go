package polargate

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/polargate/polargate/internal/machine"
	"github.com/polargate/polargate/polartest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestADiagnosisSaysHowTheComputerIsIdentified(t *testing.T) {
	t.Parallel()
	for want, id := range map[string]string{"machine id": "3d1219c7c4c5404aaa1f6d2a48adfda4", "random": ""} {
		m := machine.Machine{}
		if id != "" {
			m.IDs = []string{id}
		}
		polar := polartest.New(polartest.Config{})
		gate := openGate(t, polar, func(c *Config) { c.machine = func() machine.Machine { return m } })
		d := gate.Diagnose(t.Context())
		assert.Equal(t, want, d.Fingerprint)
		assert.Contains(t, d.String(), "fingerprint  "+want)
		if id != "" {
			assert.NotContains(t, d.String(), id)
		}
		gate = openGate(t, polar, func(c *Config) { c.Fingerprint = "the computer of the tests" })
		d = gate.Diagnose(t.Context())
		assert.Equal(t, "set by the program", d.Fingerprint)
		assert.NotContains(t, d.String(), "the computer of the tests")
	}
}

func TestALookAtAFolderLeavesItAsItWas(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	for _, s := range []FileStore{FileStore(folder), FileStore(filepath.Join(folder, "one")), FileStore(filepath.Join(folder, "one", "two", "three"))} {
		_, err := s.folder().tryWriting()
		require.NoError(t, err)
		entries, err := os.ReadDir(folder)
		require.NoError(t, err)
		assert.Empty(t, entries, "%s", strings.TrimPrefix(string(s), folder))
	}
	kept := FileStore(filepath.Join(folder, "kept"))
	require.NoError(t, os.Mkdir(string(kept), 0o700))
	_, err := kept.folder().tryWriting()
	require.NoError(t, err)
	assert.DirExists(t, string(kept), "and what was there stays")
	file := filepath.Join(folder, "file")
	require.NoError(t, os.WriteFile(file, []byte("x"), 0o600))
	for _, s := range []FileStore{FileStore(filepath.Join(file, "license")), FileStore(file)} {
		_, err := s.folder().tryWriting()
		require.Error(t, err)
	}
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	assert.Equal(t, "x", string(text))
}
