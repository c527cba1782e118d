package envelope

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// vector is a record of some version, as it was sealed once.
type vector struct {
	Secret  string `json:"secret"`
	Purpose string `json:"purpose"`
	Kind    string `json:"kind"`
	ID      string `json:"id"`
	At      string `json:"at"`
	Plain   string `json:"plain"`
	Name    string `json:"name"`
	Sealed  string `json:"sealed"` // hexadecimal
}

func vectors(t testing.TB) []vector {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("testdata", "v*.json"))
	require.NoError(t, err)
	require.NotEmpty(t, files)
	var all []vector
	for _, file := range files {
		data, err := os.ReadFile(file)
		require.NoError(t, err)
		var some []vector
		require.NoError(t, json.Unmarshal(data, &some))
		all = append(all, some...)
	}
	return all
}

// TestRecordsOfEveryVersionAreRead holds against files that are never written again. A
// new version gets a file of its own.
func TestRecordsOfEveryVersionAreRead(t *testing.T) {
	t.Parallel()
	for _, v := range vectors(t) {
		b, err := New(v.Secret, v.Purpose)
		require.NoError(t, err)
		require.Equal(t, v.Name, b.Name(v.Kind, v.ID))
		sealed, err := hex.DecodeString(v.Sealed)
		require.NoError(t, err)
		plain, err := b.Open(v.Name, v.At, sealed)
		require.NoError(t, err)
		require.Equal(t, v.Plain, string(plain))
		for i := range sealed {
			sealed[i] ^= 0x40
			_, err := b.Open(v.Name, v.At, sealed)
			require.ErrorIs(t, err, ErrUnreadable, "byte %d", i)
			sealed[i] ^= 0x40
		}
	}
}

func TestARecordOpensForItsSecretPurposeNameAndTimeOnly(t *testing.T) {
	t.Parallel()
	b, err := New("secret", "purpose")
	require.NoError(t, err)
	const at = "1764331200000000000"
	sealed, err := b.Seal("name", at, []byte("plain"))
	require.NoError(t, err)
	require.Len(t, sealed, len("plain")+Overhead)
	plain, err := b.Open("name", at, sealed)
	require.NoError(t, err)
	require.Equal(t, "plain", string(plain))
	again, err := b.Seal("name", at, []byte("plain"))
	require.NoError(t, err)
	require.NotEqual(t, sealed, again)

	for what, open := range map[string]func() ([]byte, error){
		"another name": func() ([]byte, error) { return b.Open("names", at, sealed) },
		"another time": func() ([]byte, error) { return b.Open("name", "1764331200000000001", sealed) },
		"another secret": func() ([]byte, error) {
			other, _ := New("secreT", "purpose")
			return other.Open("name", at, sealed)
		},
		"no secret": func() ([]byte, error) {
			other, _ := New("", "purpose")
			return other.Open("name", at, sealed)
		},
		"another purpose": func() ([]byte, error) {
			other, _ := New("secret", "purposes")
			return other.Open("name", at, sealed)
		},
		"nothing":   func() ([]byte, error) { return b.Open("name", at, nil) },
		"one byte":  func() ([]byte, error) { return b.Open("name", at, sealed[:1]) },
		"cut off":   func() ([]byte, error) { return b.Open("name", at, sealed[:len(sealed)-1]) },
		"too large": func() ([]byte, error) { return b.Open("name", at, append(sealed, make([]byte, MaxPlain)...)) },
	} {
		plain, err := open()
		require.ErrorIs(t, err, ErrUnreadable, what)
		require.Nil(t, plain, what)
	}
	later := bytes.Clone(sealed)
	later[0] = 2
	_, err = b.Open("name", at, later)
	require.ErrorIs(t, err, ErrVersion, "of a later build, which a younger replica can read")
	later[0] = 200
	_, err = b.Open("name", at, later)
	require.ErrorIs(t, err, ErrUnreadable)

	_, err = b.Seal("name", at, make([]byte, MaxPlain))
	require.NoError(t, err)
	_, err = b.Seal("name", at, make([]byte, MaxPlain+1))
	require.ErrorIs(t, err, ErrTooLarge)
}

func TestNamesOfKindsAndIdsCannotBeTakenForEachOther(t *testing.T) {
	t.Parallel()
	b, err := New("secret", "purpose")
	require.NoError(t, err)
	seen := map[string]bool{}
	for _, name := range []string{b.Name("a", "bc"), b.Name("ab", "c"), b.Name("", "abc"), b.Name("abc", ""), b.Name("a", "b\x00c")} {
		require.Len(t, name, 32)
		require.False(t, seen[name])
		seen[name] = true
	}
	require.Equal(t, b.Name("a", "bc"), b.Name("a", "bc"))
}

func FuzzOpeningTakesNothingThatWasNotSealed(f *testing.F) {
	b, err := New("secret", "purpose")
	require.NoError(f, err)
	real, err := b.Seal("name", "1764331200000000000", []byte("plain"))
	require.NoError(f, err)
	f.Add([]byte{}, "name", "")
	f.Add(real, "name", "1764331200000000001")
	for _, v := range vectors(f) {
		sealed, err := hex.DecodeString(v.Sealed)
		require.NoError(f, err)
		f.Add(sealed, v.Name, v.At)
	}
	f.Fuzz(func(t *testing.T, sealed []byte, name, at string) {
		plain, err := b.Open(name, at, sealed)
		if name == "name" && at == "1764331200000000000" && string(plain) == "plain" {
			return // what was sealed, in this process or in the one that made the seeds
		}
		require.Error(t, err)
		require.Nil(t, plain)
	})
}

func BenchmarkOpen(b *testing.B) {
	box, err := New("secret", "purpose")
	require.NoError(b, err)
	sealed, err := box.Seal("name", "1764331200000000000", make([]byte, 1000))
	require.NoError(b, err)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := box.Open("name", "1764331200000000000", sealed); err != nil {
			b.Fatal(err)
		}
	}
}
