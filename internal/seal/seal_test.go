package seal_test

import (
	"crypto/hmac"
	"crypto/sha256"
	"strings"
	"testing"

	"github.com/polargate/polargate/internal/seal"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestASealOpensWithItsOwnKeyFormatAndBindingOnly(t *testing.T) {
	t.Parallel()
	key, err := seal.Key([]byte("secret"), "test")
	require.NoError(t, err)
	other, err := seal.Key([]byte("secret"), "test 2")
	require.NoError(t, err)
	sealed, err := seal.Seal(key, "TST1", "bound", []byte("plain"))
	require.NoError(t, err)
	assert.NotContains(t, string(sealed), "plain")
	plain, err := seal.Open(key, "TST1", "bound", sealed)
	require.NoError(t, err)
	assert.Equal(t, "plain", string(plain))
	again, err := seal.Seal(key, "TST1", "bound", []byte("plain"))
	require.NoError(t, err)
	assert.NotEqual(t, sealed, again, "each seal has a nonce of its own")

	for name, open := range map[string]func() ([]byte, error){
		"under another key":     func() ([]byte, error) { return seal.Open(other, "TST1", "bound", sealed) },
		"as another format":     func() ([]byte, error) { return seal.Open(key, "TST2", "bound", sealed) },
		"bound to another text": func() ([]byte, error) { return seal.Open(key, "TST1", "", sealed) },
		"cut short":             func() ([]byte, error) { return seal.Open(key, "TST1", "bound", sealed[:len(sealed)-1]) },
		"empty":                 func() ([]byte, error) { return seal.Open(key, "TST1", "bound", nil) },
	} {
		plain, err := open()
		require.ErrorIs(t, err, seal.ErrBroken, name)
		assert.Nil(t, plain, name)
	}
	_, err = seal.Seal([]byte("short"), "TST1", "", nil)
	require.Error(t, err)
	_, err = seal.Open([]byte("short"), "TST1", "", sealed)
	require.Error(t, err)
}

func TestAFilledUpKeyMakesTheSameCodes(t *testing.T) {
	t.Parallel()
	code := func(key []byte) []byte {
		mac := hmac.New(sha256.New, key)
		mac.Write([]byte("text"))
		return mac.Sum(nil)
	}
	for _, length := range []int{0, 1, 13, 14, 63, 64, 65, 200} {
		key := []byte(strings.Repeat("k", length))
		assert.Equal(t, code(key), code(seal.MACKey(key)), "%d bytes", length)
		assert.GreaterOrEqual(t, len(seal.MACKey(key)), sha256.BlockSize)
	}
}
