package lease

import (
	"crypto/ed25519"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// With each of these keys somebody without a private key can make signatures that
// crypto/ed25519 takes. So they are never pinned.
func TestKeysForWhichAnybodyCanSignAreNotPinned(t *testing.T) {
	t.Parallel()
	var points []ed25519.PublicKey
	for _, text := range smallOrder {
		y := []byte(text)
		signed := append([]byte(nil), y...)
		signed[31] |= 0x80
		points = append(points, y, signed)
	}
	forgeable := 0
	for _, key := range points {
		_, err := NewKeys(key)
		require.Error(t, err)
		_, err = ParsePublicKey(FormatPublicKey(key))
		require.Error(t, err)
	message:
		for n := range byte(64) {
			for _, point := range points {
				if ed25519.Verify(key, []byte{n}, append(append([]byte(nil), point...), make([]byte, 32)...)) {
					forgeable++
					break message
				}
			}
		}
	}
	assert.GreaterOrEqual(t, forgeable, 8, "the list is of keys that matter")
}

func TestKeysThatCannotBePinnedAreRefused(t *testing.T) {
	t.Parallel()
	first := vectorKey("first").Public().(ed25519.PublicKey)
	_, err := NewKeys(first[:31])
	require.Error(t, err)
	_, err = NewKeys(nil)
	require.Error(t, err)
	_, err = NewKeys(first, first)
	require.NoError(t, err, "twice does no harm")
	_, err = NewKeys(make([]ed25519.PublicKey, 9)...)
	require.ErrorContains(t, err, "more than 8")
	keys, err := NewKeys()
	require.NoError(t, err)
	text, err := Sign(vectorKey("first"), usual())
	require.NoError(t, err)
	_, err = keys.Verify(text)
	require.ErrorIs(t, err, ErrUnknownSigner)
	_, err = Keys{}.Verify(text)
	assert.ErrorIs(t, err, ErrUnknownSigner)
}

func TestPinnedKeysCannotBeChangedAfterwards(t *testing.T) {
	t.Parallel()
	given := append(ed25519.PublicKey(nil), vectorKey("first").Public().(ed25519.PublicKey)...)
	keys, err := NewKeys(given)
	require.NoError(t, err)
	copy(given, vectorKey("stranger").Public().(ed25519.PublicKey))
	text, err := Sign(vectorKey("first"), usual())
	require.NoError(t, err)
	_, err = keys.Verify(text)
	require.NoError(t, err)
}

func TestAPublicKeyIsReadAsItIsShown(t *testing.T) {
	t.Parallel()
	first := vectorKey("first").Public().(ed25519.PublicKey)
	text := FormatPublicKey(first)
	for _, good := range []string{text, "  " + text + "\n"} {
		key, err := ParsePublicKey(good)
		require.NoError(t, err)
		assert.Equal(t, first, key)
		assert.Equal(t, first, MustParsePublicKey(good))
	}
	for _, bad := range []string{
		"", text + "=", text[:42], text + "A", text[:20] + "\n" + text[20:], strings.Repeat("A", 43),
		hex.EncodeToString(first), "-----BEGIN PUBLIC KEY-----", strings.Repeat("+", 43),
	} {
		_, err := ParsePublicKey(bad)
		assert.Error(t, err, bad)
		assert.Panics(t, func() { MustParsePublicKey(bad) })
	}
}

func TestAPrivateKeyIsReadFromAllThatPeopleKeepItIn(t *testing.T) {
	t.Parallel()
	key := vectorKey("first")
	text, err := FormatPrivateKey(key)
	require.NoError(t, err)
	der, err := x509.MarshalPKCS8PrivateKey(key)
	require.NoError(t, err)
	line := base64.StdEncoding.EncodeToString(der)
	for name, good := range map[string]string{
		"a file":                    text,
		"a file of Windows":         strings.ReplaceAll(text, "\n", "\r\n"),
		"space around it":           "\n  " + text + "\n\n",
		"a variable with \\n in it": strings.ReplaceAll(text, "\n", `\n`),
		"the base64 alone":          line,
		"the base64 with an end":    line + "\n",
	} {
		parsed, err := ParsePrivateKey(good)
		require.NoError(t, err, name)
		assert.Equal(t, key, parsed, name)
	}
	for name, bad := range map[string]string{
		"nothing":             "",
		"a public key":        FormatPublicKey(key.Public().(ed25519.PublicKey)),
		"a name of a file":    "/etc/lease.key",
		"two keys":            text + text,
		"something behind":    text + "x",
		"another PEM":         string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})),
		"an encrypted key":    string(pem.EncodeToMemory(&pem.Block{Type: "ENCRYPTED PRIVATE KEY", Bytes: der})),
		"a broken one":        strings.Replace(text, "MC4C", "MC5C", 1),
		"half of it":          text[:60],
		"the seed alone":      base64.StdEncoding.EncodeToString(key.Seed()),
		"a key of an openssh": "-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----\n",
	} {
		_, err := ParsePrivateKey(bad)
		require.Error(t, err, name)
		if len(bad) > 10 {
			assert.NotContains(t, err.Error(), bad[:10], name)
		}
		assert.ErrorContains(t, err, "polargate-keygen", name)
	}
	_, err = FormatPrivateKey(key[:40])
	assert.Error(t, err)
}

func TestAKeyThatOpenSSLMadeSigns(t *testing.T) {
	t.Parallel()
	out, err := exec.Command("openssl", "genpkey", "-algorithm", "ed25519").Output()
	if err != nil {
		t.Skipf("openssl is not installed, or knows no Ed25519: %v", err)
	}
	key, err := ParsePrivateKey(string(out))
	require.NoError(t, err)
	text, err := Sign(key, usual())
	require.NoError(t, err)
	keys, err := NewKeys(key.Public().(ed25519.PublicKey))
	require.NoError(t, err)
	_, err = keys.Verify(text)
	assert.NoError(t, err)
}
