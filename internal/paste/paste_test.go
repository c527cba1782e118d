package paste

import (
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const (
	pastedKey = "ACME-KEY-1234567890-ABCDEF"
	polarKey  = "ACME-8224EB8D-5310-4D2C-B21D-72338A766D45"
)

func TestAKeyIsFoundAndUncertainPartsAreNamed(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		pasted, text string
		problem      Kind
	}{
		"a plain key":               {polarKey, polarKey, ""},
		"a key in a sentence":       {"Your license key is <" + polarKey + ">.", polarKey, ""},
		"nothing":                   {" \n", "", ""},
		"two keys":                  {polarKey + "\n" + strings.Replace(polarKey, "8", "9", 1), "", Two},
		"a key that was shortened":  {"****-0A1B2C", "", Masked},
		"far too much of something": {strings.Repeat("ä", 3000), "", TooLong},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			text, problem := Clean(c.pasted)
			assert.Equal(t, c.text, text)
			assert.Equal(t, c.problem, problem.Kind)
		})
	}
}

func FuzzClean(f *testing.F) {
	for _, seed := range []string{
		"", " ", pastedKey, "\ufeff\"" + pastedKey + "\"\r\n", "«\u00a0" + pastedKey + "\u00a0»", "A", " ACME SPACE KEY ",
		"ключ-鍵-🔑-1234567890", "\xff\xfe", "a\x00b", "`k`", "「key」", "''", "****-****-****-****", "123456789012345", "1234567890123456",
		"%s%d%!v(MISSING)%%", "<script>&\"quoted\"</script>", strings.Repeat("é", 256), strings.Repeat("k", 513), "\u0085k\u0085", "E\u0301\ufe0f",
		"License key: " + polarKey + ".", "**" + polarKey + "**", "<" + polarKey + ">", "Key=\n" + polarKey, strings.ReplaceAll(polarKey, "-", "\u2011"),
		"ACME-8224EB8D-5310-\r\n4D2C-B21D-72338A766D45", "ACME-8224EB8D-5310-4D2=\n2-B21D-72338A766D45", "Your key is ACME\u00ad-KEY, Ada", "(k)", "- k", "*k*", "a: b", "****-0A1B2C",
		"\xff\xfeA\x00", "ＡＣＭＥ－１", "ACME-В1АB", polarKey + " " + polarKey, "\x1b[200~k\x1b[201~", "key\nk-\n-l", "\U0001f468\u200d\U0001f469-\u2013-k",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, pasted string) {
		text, problem := Clean(pasted)
		if problem.Kind != "" {
			require.Empty(t, text)
			return
		}
		require.True(t, utf8.ValidString(text))
		require.False(t, strings.ContainsFunc(text, unicode.IsControl))
		rest := foldForms(strings.ReplaceAll(fromUTF16(pasted), "\u00ad", "-"))
		for _, r := range foldForms(text) {
			at := strings.IndexRune(rest, r)
			require.GreaterOrEqual(t, at, 0, "nothing is made up, and nothing changes places")
			rest = rest[at+utf8.RuneLen(r):]
		}
		again, problem := Clean(text)
		require.Empty(t, problem)
		require.Equal(t, text, again, "cleaning twice is cleaning once")
	})
}
