package lease

import (
	mathrand "math/rand/v2"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestArmorHasLinesThatNoMailProgramWraps(t *testing.T) {
	t.Parallel()
	for _, text := range aText(t) {
		lines := strings.Split(strings.TrimSuffix(Armor(text), "\n"), "\n")
		for _, line := range lines {
			assert.LessOrEqual(t, len(line), 64)
			assert.NotEmpty(t, line)
		}
		assert.True(t, strings.HasPrefix(lines[0], "-----BEGIN POLARGATE "), lines[0])
		assert.Equal(t, strings.Replace(lines[0], "BEGIN", "END", 1), lines[len(lines)-1])
	}
	assert.Equal(t, "something else", Armor("something else"))
	assert.Empty(t, Armor(""))
}

// aText is one of each kind.
func aText(t testing.TB) map[Kind]string {
	lease, err := Sign(vectorKey("first"), usual())
	require.NoError(t, err)
	request, err := usualRequest().Encode()
	require.NoError(t, err)
	receipt, err := usualReceipt().Encode()
	require.NoError(t, err)
	return map[Kind]string{KindLease: lease, KindRequest: request, KindReceipt: receipt}
}

func TestTextsOfAnotherKindAreCalledByTheirName(t *testing.T) {
	t.Parallel()
	texts := aText(t)
	_, err := pinned(t, "first").Verify(texts[KindRequest])
	assert.ErrorContains(t, err, "this is an activation request, and a lease is needed here")
	_, err = ParseRequest(texts[KindLease])
	assert.ErrorContains(t, err, "this is a lease, and an activation request is needed here")
	_, err = ParseReceipt(texts[KindRequest])
	assert.ErrorContains(t, err, "this is an activation request, and a deactivation receipt is needed here")
	_, err = Unarmor([]byte(Armor(texts[KindReceipt])), KindLease)
	assert.ErrorContains(t, err, "this is a deactivation receipt, and a lease is needed here")
}

func TestWhatMailProgramsDoToATextIsUndone(t *testing.T) {
	t.Parallel()
	r := mathrand.New(mathrand.NewPCG(5, 6))
	harmless := []string{" ", "\n", "\r\n", "\t", "\u00a0", "\u200b", "\ufeff", "\u00ad", "\n> ", "\n>> ", "\u2028", "\u3000"}
	for kind, text := range aText(t) {
		for range 300 {
			bare, armored := text, Armor(text)
			for range r.IntN(20) {
				at := r.IntN(len(text) + 1)
				bare = insert(bare, at, harmless[r.IntN(len(harmless))])
				// Not into the first and the last line.
				begin := strings.Index(armored, "\n")
				end := strings.Index(armored, "-----END")
				armored = insert(armored, begin+r.IntN(end-begin), harmless[r.IntN(len(harmless))])
			}
			for _, data := range []string{bare, armored, "Hi,\n" + armored + "bye"} {
				found, err := Unarmor([]byte(data), kind)
				require.NoError(t, err, "%q", data)
				require.Equal(t, text, found, "%q", data)
			}
		}
	}
}

func insert(s string, at int, more string) string {
	for at > 0 && at < len(s) && s[at]&0xc0 == 0x80 { // not inside a character
		at--
	}
	return s[:at] + more + s[at:]
}

func TestUnarmorLooksAtAMailAndNotAtAMailbox(t *testing.T) {
	t.Parallel()
	text := aText(t)[KindLease]
	mail := strings.Repeat("a line of a long mail\n", 10000)
	found, err := Unarmor([]byte(mail+Armor(text)), KindLease)
	require.NoError(t, err)
	assert.Equal(t, text, found)
	_, err = Unarmor([]byte(mail+mail+Armor(text)), KindLease)
	assert.ErrorIs(t, err, ErrMalformed)
	_, err = Unarmor([]byte(strings.Repeat("-----BEGIN ", 20000)), KindLease)
	assert.NoError(t, err, "quick, and for Verify to refuse")
	_, err = Unarmor([]byte(strings.Repeat("-----BEGIN POLARGATE LEASE-----", 8000)), KindLease)
	assert.ErrorIs(t, err, ErrMalformed)
}

func FuzzUnarmor(f *testing.F) {
	var file armorFile
	readVectors(f, "armor.json", &file)
	for _, v := range file.Vectors {
		f.Add([]byte(v.Data))
	}
	for _, text := range aText(f) {
		f.Add([]byte(text))
		f.Add([]byte(Armor(text)))
		f.Add([]byte("\xff\xfe" + Armor(text)))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		found, err := Unarmor(data, KindLease)
		if err != nil {
			assert.ErrorIs(t, err, ErrMalformed)
			assert.Empty(t, found)
			return
		}
		assert.NotEmpty(t, found)
		assert.Equal(t, found, squeeze(found))
		again, err := Unarmor([]byte(found), KindLease)
		if err == nil { // it may look like armor of something by now
			assert.NotEmpty(t, again)
		}
	})
}
