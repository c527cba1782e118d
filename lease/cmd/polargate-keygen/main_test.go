package main

import (
	"bytes"
	"crypto/ed25519"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/polargate/polargate/lease"
)

// keygen runs the command with these variables in its environment.
func keygen(env map[string]string, args ...string) (code int, stdout, stderr string) {
	var out, errs bytes.Buffer
	code = run(args, &out, &errs, func(name string) (string, bool) { v, ok := env[name]; return v, ok })
	return code, out.String(), errs.String()
}

var shownKey = regexp.MustCompile(`lease\.MustParsePublicKey\("([A-Za-z0-9_-]{43})"\)`)

func TestAKeyThatWasMadeSignsLeasesForTheProgramThatHasItsPublicPart(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "lease.key")
	code, made, stderr := keygen(nil, "new", path)
	require.Zero(t, code, stderr)
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	private, err := lease.ParsePrivateKey(string(text))
	require.NoError(t, err)
	m := shownKey.FindStringSubmatch(made)
	require.NotNil(t, m, made)
	public := lease.MustParsePublicKey(m[1])
	assert.Contains(t, made, lease.KeyID(public))

	keys, err := lease.NewKeys(public)
	require.NoError(t, err)
	signed, err := lease.Sign(private, lease.Claims{ID: "L1", OrganizationID: "o", Fingerprint: "f", Issued: time.Now(), Trial: true})
	require.NoError(t, err)
	_, err = keys.Verify(signed)
	require.NoError(t, err)

	code, shown, stderr := keygen(nil, "show", path)
	require.Zero(t, code)
	assert.Empty(t, stderr)
	assert.True(t, strings.HasSuffix(made, shown))
	code, fromEnv, _ := keygen(map[string]string{"LEASE_KEY": string(text)}, "show", "-env", "LEASE_KEY")
	require.Zero(t, code)
	assert.Equal(t, shown, fromEnv)
}

func TestAPrivateKeyIsForItsOwnerAlone(t *testing.T) {
	t.Parallel()
	if runtime.GOOS == "windows" {
		t.Skip("files have no such modes there")
	}
	path := filepath.Join(t.TempDir(), "lease.key")
	code, _, _ := keygen(nil, "new", path)
	require.Zero(t, code)
	info, err := os.Stat(path)
	require.NoError(t, err)
	assert.Equal(t, os.FileMode(0o600), info.Mode().Perm())

	require.NoError(t, os.Chmod(path, 0o644))
	code, _, stderr := keygen(nil, "show", path)
	assert.Zero(t, code)
	assert.Contains(t, stderr, "chmod 600")
}

func TestAKeyIsNeverOverwritten(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "lease.key")
	code, _, _ := keygen(nil, "new", path)
	require.Zero(t, code)
	before, err := os.ReadFile(path)
	require.NoError(t, err)
	code, stdout, stderr := keygen(nil, "new", path)
	assert.Equal(t, 1, code)
	assert.Empty(t, stdout)
	assert.Contains(t, stderr, "give another name")
	after, err := os.ReadFile(path)
	require.NoError(t, err)
	assert.Equal(t, before, after)
}

func TestAPrivateKeyOnStandardOutputIsAloneThere(t *testing.T) {
	t.Parallel()
	code, stdout, stderr := keygen(nil, "new", "-")
	require.Zero(t, code)
	private, err := lease.ParsePrivateKey(stdout)
	require.NoError(t, err)
	assert.Contains(t, stderr, lease.FormatPublicKey(private.Public().(ed25519.PublicKey)))
	again, _, _ := keygen(nil, "new", "-")
	require.Zero(t, again)
	_, other, _ := keygen(nil, "new", "-")
	assert.NotEqual(t, stdout, other)
}

func TestWhatIsNoKeyIsSaidToBeNoneAndNotRepeated(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "secret.txt")
	require.NoError(t, os.WriteFile(path, []byte("hunter2"), 0o600))
	long := filepath.Join(t.TempDir(), "long.txt")
	require.NoError(t, os.WriteFile(long, make([]byte, 1<<16+1), 0o600))
	for name, args := range map[string][]string{
		"a file with something else":     {"show", path},
		"a long file":                    {"show", long},
		"no file":                        {"show", path + ".not"},
		"a folder":                       {"show", filepath.Dir(path)},
		"a variable with something else": {"show", "-env", "PASSWORD"},
		"no variable":                    {"show", "-env", "NOTHING"},
		"a file in no folder":            {"new", filepath.Join(path, "lease.key")},
	} {
		code, stdout, stderr := keygen(map[string]string{"PASSWORD": "hunter2"}, args...)
		assert.Equal(t, 1, code, name)
		assert.Empty(t, stdout, name)
		assert.True(t, strings.HasPrefix(stderr, "polargate-keygen: "), "%s: %s", name, stderr)
		assert.NotContains(t, stderr, "hunter2", name)
	}
}

func TestWrongUseIsAnsweredWithTheUsage(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{
		{}, {"new"}, {"show"}, {"new", "a", "b"}, {"new", "-env", "A"}, {"show", "-env", "A", "b"}, {"make", "x"}, {"show", "-x"}, {"show", "-env"},
	} {
		code, stdout, stderr := keygen(nil, args...)
		assert.Equal(t, 64, code, args)
		assert.Empty(t, stdout, args)
		assert.Contains(t, stderr, "Usage:", args)
	}
	for _, args := range [][]string{{"help"}, {"-h"}, {"--help"}, {"new", "-h"}} {
		code, stdout, _ := keygen(nil, args...)
		assert.Zero(t, code, args)
		assert.Contains(t, stdout, "Usage:", args)
	}
}
