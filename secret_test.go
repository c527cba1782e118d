package polargate

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/gob"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"strings"
	"testing"
	"text/template"
	"unicode"
	"unicode/utf8"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const (
	pastedKey     = "INKWELL-8c4f7a52-93d1-4b0E-a6e2-5f1d7c90TAIL42"
	pastedAddress = "ada.lovelace@example.com"
)

func TestEverythingAroundAPastedKeyIsRemoved(t *testing.T) {
	t.Parallel()
	for name, pasted := range map[string]string{
		"nothing came along":                    pastedKey,
		"spaces around":                         "  " + pastedKey + "   ",
		"a tab and a line break":                "\t" + pastedKey + "\n",
		"a Windows line break":                  pastedKey + "\r\n",
		"a vertical tab and a form feed":        "\v\f" + pastedKey + "\f\v",
		"a next-line character":                 pastedKey + "\u0085",
		"line and paragraph separators":         "\u2028" + pastedKey + "\u2029",
		"no-break spaces":                       "\u00a0" + pastedKey + "\u202f",
		"an ideographic space":                  "\u3000" + pastedKey + "\u3000",
		"an em space and a figure space":        "\u2003" + pastedKey + "\u2007",
		"straight quotes":                       `"` + pastedKey + `"`,
		"apostrophes":                           "'" + pastedKey + "'",
		"back ticks of a chat":                  "`" + pastedKey + "`",
		"a code fence of a chat":                "```\n" + pastedKey + "\n```",
		"English curly quotes":                  "“" + pastedKey + "”",
		"English single quotes":                 "‘" + pastedKey + "’",
		"German quotes":                         "„" + pastedKey + "“",
		"German single quotes":                  "‚" + pastedKey + "‘",
		"French quotes with narrow spaces":      "«\u202f" + pastedKey + "\u202f»",
		"Swiss single quotes":                   "‹" + pastedKey + "›",
		"Danish quotes, turned":                 "»" + pastedKey + "«",
		"Swedish quotes":                        "”" + pastedKey + "”",
		"reversed high quotes":                  "‟" + pastedKey + "‛",
		"Japanese corner brackets":              "「" + pastedKey + "」",
		"Japanese white corner brackets":        "『" + pastedKey + "』",
		"half-width corner brackets":            "｢" + pastedKey + "｣",
		"Chinese vertical corner brackets":      "﹁" + pastedKey + "﹂",
		"Chinese double prime quotes":           "〝" + pastedKey + "〞",
		"full-width quotation marks":            "＂" + pastedKey + "＂",
		"full-width apostrophes":                "＇" + pastedKey + "＇",
		"a byte order mark":                     "\ufeff" + pastedKey,
		"zero-width spaces":                     "\u200b" + pastedKey + "\u200b",
		"zero-width joiners":                    "\u200d" + pastedKey + "\u200c",
		"word joiners":                          "\u2060" + pastedKey + "\u2060",
		"soft hyphens":                          "\u00ad" + pastedKey + "\u00ad",
		"marks of right-to-left writing":        "\u200f\u202b" + pastedKey + "\u202c\u200e",
		"isolates of right-to-left writing":     "\u2067" + pastedKey + "\u2069",
		"a Mongolian vowel separator":           "\u180e" + pastedKey,
		"tag characters":                        pastedKey + "\U000e0001",
		"all of it, in layers":                  "\ufeff \"“\u200b« '" + pastedKey + "' »\u200b”\" \r\n",
		"quotes with an invisible one outside":  "\u200b\"" + pastedKey + "\"\u200b",
		"half a mebibyte of spaces on one side": strings.Repeat(" ", 1<<19) + pastedKey,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			key, err := ParseKey(pasted)
			require.NoError(t, err)
			assert.Equal(t, pastedKey, key.Reveal())
		})
	}
}

func TestEveryQuotationMarkAndInvisibleCharacterIsTakenOffAKey(t *testing.T) {
	t.Parallel()
	var stayed []string
	for r := range rune(unicode.MaxRune + 1) {
		if !unicode.Is(unicode.Quotation_Mark, r) && !unicode.IsSpace(r) && !unicode.Is(unicode.Cf, r) {
			continue
		}
		if key, err := ParseKey(string(r) + pastedKey + string(r)); err != nil || key.Reveal() != pastedKey {
			stayed = append(stayed, fmt.Sprintf("%U", r))
		}
	}
	assert.Empty(t, stayed)
}

// polarKey has the form of the keys that Polar makes.
const polarKey = "ACME-8224EB8D-5310-4D2C-B21D-72338A766D45"

func TestTextThatCannotBePartOfAPastedKeyIsRemoved(t *testing.T) {
	t.Parallel()
	each := func(r string) func(string) string {
		return func(key string) string { return strings.ReplaceAll(key, "-", r) }
	}
	around := func(left, right string) func(string) string {
		return func(key string) string { return left + key + right }
	}
	within := func(s string) func(string) string {
		return func(key string) string { return key[:7] + s + key[7:20] + s + key[20:] }
	}
	wide := func(key string) string {
		return strings.Map(func(r rune) rune { return r - '!' + 0xff01 }, key)
	}
	for name, paste := range map[string]func(string) string{
		"soft hyphens":                          within("\u00ad"),
		"soft hyphens before dashes":            each("\u00ad-"),
		"zero-width spaces":                     within("\u200b"),
		"zero-width joiners":                    within("\u200d"),
		"zero-width non-joiners":                within("\u200c"),
		"word joiners":                          within("\u2060"),
		"byte order marks":                      within("\ufeff"),
		"marks of writing direction":            within("\u200e\u200f"),
		"isolates":                              within("\u2066\u2069"),
		"a combining grapheme joiner":           within("\u034f"),
		"a Hangul filler":                       within("\u3164"),
		"a variation selector":                  within("\ufe0e"),
		"no-break hyphens":                      each("\u2011"),
		"hyphens of Unicode":                    each("\u2010"),
		"figure dashes":                         each("\u2012"),
		"en dashes":                             each("–"),
		"em dashes":                             each("—"),
		"horizontal bars":                       each("―"),
		"minus signs":                           each("\u2212"),
		"hyphen bullets":                        each("\u2043"),
		"small hyphens":                         each("\ufe63"),
		"full-width dashes":                     each("－"),
		"long vowels of a Japanese keyboard":    each("ー"),
		"no-break hyphens between word joiners": each("\u2060\u2011\u2060"),
		"full-width letters":                    wide,
		"a label":                               around("License key: ", ""),
		"a label of another English":            around("Your Inkwell licence key : ", ""),
		"a label of a settings file":            around("LICENSE_KEY=", ""),
		"a label of a shell":                    around(`export INKWELL_LICENSE_KEY="`, `"`),
		"a short label":                         around("Key=", ""),
		"a label without a space":               around("Key:", ""),
		"a label with a dash in it":             around("License-Key: ", ""),
		"a label in JSON":                       around(`"license_key": "`, `",`),
		"a label without a colon":               around("License key ", ""),
		"a label and a dash":                    around("License key – ", ""),
		"a short sentence":                      around("Your license key is ", "."),
		"a label in German":                     around("Ihr Lizenzschlüssel: ", ""),
		"a label in French":                     around("Clé de licence : ", ""),
		"a label in Spanish":                    around("Clave de licencia: ", ""),
		"a label in Italian":                    around("Codice di licenza: ", ""),
		"a label in Portuguese":                 around("Chave de licença: ", ""),
		"a label in Polish":                     around("Klucz licencyjny: ", ""),
		"a label in Russian":                    around("Лицензионный ключ: ", ""),
		"a label in Japanese":                   around("ライセンスキー：", ""),
		"a label in Chinese":                    around("许可证密钥：", ""),
		"a label on its own line":               around("License key:\r\n", "\r\n"),
		"a label without a colon on its line":   around("Your license key\n\n", ""),
		"a label in bold":                       around("**License key:** ", ""),
		"a label in bold, its colon not":        around("**License key**: `", "`"),
		"a full stop":                           around("", "."),
		"a full stop and a space":               around("", ". "),
		"a comma":                               around("", ","),
		"a semicolon":                           around("", ";"),
		"an ideographic full stop":              around("", "。"),
		"angle brackets":                        around("<", ">"),
		"angle brackets and a full stop":        around("<", ">."),
		"angle brackets around quotes":          around(`<"`, `">`),
		"asterisks":                             around("**", "**"),
		"one asterisk":                          around("*", "*"),
		"asterisks around a label":              around("**License key: ", "**"),
		"asterisks and back ticks":              around("**`", "`**"),
		"an element of HTML":                    around("<b>", "</b>"),
		"elements of HTML":                      around(`<p class="key"><code>`, "</code></p>"),
		"a bullet":                              around("• ", ""),
		"a list's dash":                         around("- ", ""),
		"a mail that is quoted":                 around("> ", ""),
		"a paste into a terminal":               around("\x1b[200~", "\x1b[201~"),
		"all of it":                             func(key string) string { return "\ufeff> **License key:** <`" + each("\u2060\u2011")(key) + "`>.\r\n" },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, want := range []string{pastedKey, polarKey, polarKey[len("ACME-"):], "ACME-TEST-ACTIVATE-000012"} {
				pasted := paste(want)
				require.NotEqual(t, want, pasted)
				key, err := ParseKey(pasted)
				require.NoError(t, err)
				assert.Equal(t, want, key.Reveal())
			}
		})
	}
}

func TestAKeyThatPolarMadeIsFoundWhateverIsAroundIt(t *testing.T) {
	t.Parallel()
	for name, pasted := range map[string]string{
		"a line that ends at a dash":             "ACME-8224EB8D-5310-\n4D2C-B21D-72338A766D45",
		"a line that ends before a dash":         "ACME-8224EB8D-5310\r\n-4D2C-B21D-72338A766D45",
		"a line that ends anywhere":              "ACME-8224EB8D-5310-4D2C-B21D-7233\r\n8A766D45\r\n",
		"lines that are indented":                "  ACME-8224EB8D-5310\n  -4D2C-B21D-72338\n  A766D45",
		"lines of a mail that is quoted":         "> ACME-8224EB8D-5310-4D\n> 2C-B21D-72338A766D45",
		"a line of an old Macintosh":             "ACME-8224EB8D-5310-4D2C\r-B21D-72338A766D45",
		"a separator of lines":                   "ACME-8224EB8D-5310-4D2C-\u2028B21D-72338A766D45",
		"a soft break of quoted-printable":       "ACME-8224EB8D-5310-4D2=\r\nC-B21D-72338A766D45",
		"a break after the prefix":               "ACME-\n8224EB8D-5310-4D2C-B21D-72338A766D45",
		"spaces within":                          "ACME - 8224EB8D - 5310 - 4D2C - B21D - 72338A766D45",
		"no-break spaces within":                 "ACME-8224EB8D-\u00a05310-4D2C-B21D-72338\u202fA766D45",
		"soft hyphens in place of dashes":        strings.ReplaceAll(polarKey, "-", "\u00ad"),
		"round brackets":                         "(ACME-8224EB8D-5310-4D2C-B21D-72338A766D45)",
		"an exclamation mark":                    "ACME-8224EB8D-5310-4D2C-B21D-72338A766D45!",
		"JSON":                                   `{"license_key": "ACME-8224EB8D-5310-4D2C-B21D-72338A766D45"}`,
		"a sentence":                             "Dear Ada, your license key is ACME-8224EB8D-5310-4D2C-B21D-72338A766D45. Keep it safe!",
		"a label that is not known":              "Inkwell Pro: ACME-8224EB8D-5310-4D2C-B21D-72338A766D45",
		"lines behind it":                        "ACME-8224EB8D-5310-4D2C-B21D-72338A766D45\nbought in May",
		"a line before it that ends in a colon":  "Dear Ada,\nhere you are:\nACME-8224EB8D-5310-4D2C-B21D-72338A766D45\n-- \nInkwell",
		"itself a second time":                   "ACME-8224EB8D-5310-4D2C-B21D-72338A766D45\nACME-8224EB8D-5310-4D2C-B21D-72338A766D45",
		"the Unicode of a Windows program":       "\xff\xfe" + utf16Of("ACME-8224EB8D-5310-4D2C-B21D-72338A766D45\r\n"),
		"a label before a broken line":           "License key: ACME-8224EB8D-5310-\n4D2C-B21D-72338A766D45.",
		"no-break hyphens, and broken at one":    "ACME\u20118224EB8D\u20115310\u2011\n4D2C\u2011B21D\u201172338A766D45",
		"a broken line with a soft hyphen in it": "ACME-8224EB8D-5310-4D\u00ad\n2C-B21D-72338A766D45",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			key, err := ParseKey(pasted)
			require.NoError(t, err)
			assert.Equal(t, polarKey, key.Reveal())
		})
	}
	for name, c := range map[string]struct{ pasted, want string }{
		"a prefix of two words":                        {"License key: ACME PRO-8224EB8D-5310-4D2C-B21D-72338A766D45.", "ACME PRO-8224EB8D-5310-4D2C-B21D-72338A766D45"},
		"a prefix of two words in a sentence":          {"Hello Ada, it is ACME PRO-8224EB8D-5310-4D2C-B21D-72338A766D45, enjoy", "ACME PRO-8224EB8D-5310-4D2C-B21D-72338A766D45"},
		"a prefix with a dash of its own":              {"ACME – PRO-8224EB8D-5310-4D2C-B21D-72338A766D45", "ACME – PRO-8224EB8D-5310-4D2C-B21D-72338A766D45"},
		"a prefix with a dash that the mail made":      {"ACME–PRO–8224EB8D–5310–4D2C–B21D–72338A766D45", "ACME-PRO-8224EB8D-5310-4D2C-B21D-72338A766D45"},
		"a prefix of another script":                   {"КЛЮЧ\u20118224EB8D\u20115310\u20114D2C\u2011B21D\u201172338A766D45", "КЛЮЧ-8224EB8D-5310-4D2C-B21D-72338A766D45"},
		"a prefix that is broken at a dash":            {"ACME-\nPRO-8224EB8D-5310-4D2C-B21D-72338A766D45", "ACME-PRO-8224EB8D-5310-4D2C-B21D-72338A766D45"},
		"a prefix in brackets":                         {"(BETA)-8224EB8D-5310-4D2C-B21D-72338A766D45", "(BETA)-8224EB8D-5310-4D2C-B21D-72338A766D45"},
		"small letters, which another key may have":    {"Acme Pro-8224eb8d-5310-4d2c-b21d-72338a766d45", "Acme Pro-8224eb8d-5310-4d2c-b21d-72338a766d45"},
		"no prefix, in a sentence":                     {"Use 8224EB8D-5310-4D2C-B21D-72338A766D45.", "8224EB8D-5310-4D2C-B21D-72338A766D45"},
		"a UUID that is a part of another kind of key": {"ACME-8224EB8D-5310-4D2C-B21D-72338A766D45-2", "ACME-8224EB8D-5310-4D2C-B21D-72338A766D45-2"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			key, err := ParseKey(c.pasted)
			require.NoError(t, err)
			assert.Equal(t, c.want, key.Reveal())
		})
	}
}

// utf16Of is a text of ASCII as Windows programs write it.
func utf16Of(text string) string {
	var b strings.Builder
	for _, c := range []byte(text) {
		b.Write([]byte{c, 0})
	}
	return b.String()
}

func TestUncertainPartsOfAPastedKeyAreNamedWithTheirPlace(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ pasted, problem string }{
		"a line break that may be anything":     {"SECRET-ONE\r\nSECRET-TWO", "a line break after 10 characters"},
		"a line before the key":                 {"SECRET\nACME-8224EB8D-5310-4D2C-B21D-72338A766D45", "a line break after 6 characters"},
		"a signature behind the key":            {"SECRET-ONE\n-- \nAda", "a line break after 10 characters"},
		"a tab":                                 {"License key: SECRET\tONE", "a tab after 6 characters"},
		"a control character":                   {"SECRET-\x1eONE", "a control character (U+001E) after 7 characters"},
		"two keys":                              {polarKey + "\n" + strings.Replace(polarKey, "8", "9", 1), "more than one key"},
		"words behind the key":                  {polarKey + " (3 computers)", "followed by something else after 41 characters"},
		"a colon behind what is no known label": {"Inkwell Pro: SECRET-ONE", "a colon after 11 characters"},
		"a space behind a dash":                 {"License key: SECRET- ONE", "a space after 7 characters"},
		"a no-break space before a dash":        {"SECRET\u00a0\u2011ONE", "a space after 6 characters"},
		"the masked form":                       {"****-SECRET", "behind asterisks"},
		"the masked form with a label":          {"License key: ****-SECRET", "behind asterisks"},
		"a Cyrillic letter":                     {"SECRET-8224EВ8D", "В (U+0412) after 12 characters"},
		"a Greek letter, behind a character that cannot be seen": {"SE\u00adCRET-ΟNE", "Ο (U+039F) after 7 characters"},
		"a byte of another encoding":                             {"SECRET\xa0ONE", "bytes that are no text after 6 characters"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			key, err := ParseKey(c.pasted)
			assert.True(t, key.IsZero())
			var input *InputError
			require.ErrorAs(t, err, &input)
			assert.Contains(t, input.Problem, c.problem)
			for _, part := range []string{"SECRET", "8224EB8D", "ONE"} {
				assert.NotContains(t, err.Error()+Message(err), part)
			}
		})
	}
}

func TestTextInsideAKeyStaysUnchanged(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{
		"capitals and small letters":         "AbCdEfGh-IjKl",
		"one letter":                         "A",
		"spaces inside":                      "ACME SPACE KEY",
		"two spaces inside":                  "ACME  KEY",
		"quotes inside":                      `ACME"KEY'1`,
		"dashes around":                      "-ACME-",
		"a dash of another script":           "ключ\u05be鍵",
		"an en dash between such letters":    "ключ–鍵",
		"a joiner within a picture":          "ACME-\U0001f468\u200d\U0001f469-1",
		"a colon inside":                     "ACME:1",
		"a dash between words":               "ACME - KEY",
		"an equals sign inside":              "ACME=1",
		"a word that is one of labels":       "KEY 1",
		"a full stop after several words":    "ACME INC.",
		"asterisks inside":                   "AC**ME",
		"brackets around":                    "(ACME)",
		"full stops around":                  ".ACME.",
		"letters of other scripts":           "ключ-鍵-🔑-ÉÈ",
		"letters that are not composed":      "E\u0301-1",
		"the replacement character, as sent": "ACME-\ufffd-1",
		"512 bytes":                          strings.Repeat("k", 512),
		"512 bytes of two-byte letters":      strings.Repeat("é", 256),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			key, err := ParseKey(text)
			require.NoError(t, err)
			assert.Equal(t, text, key.Reveal())

			key, err = ParseKey(" “" + text + "”\n")
			require.NoError(t, err)
			assert.Equal(t, text, key.Reveal())
		})
	}
}

func TestTextThatCannotBeAKeyIsRefusedWithoutRepeatingIt(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ pasted, problem string }{
		"nothing":                         {"", "is empty"},
		"only spaces":                     {" \t\r\n\u3000", "is empty"},
		"only quotes":                     {`"”“'`, "is empty"},
		"only invisible characters":       {"\ufeff\u200b\u2060", "is empty"},
		"513 bytes":                       {strings.Repeat("k", 513), "too long"},
		"513 bytes, of fewer characters":  {strings.Repeat("é", 256) + "k", "too long"},
		"a whole mail":                    {strings.Repeat("Dear Ada, ", 1000), "too long"},
		"more than a mebibyte":            {strings.Repeat(" ", 1<<20) + pastedKey, "too long"},
		"a line break inside":             {"SECRET-ONE\nSECRET-TWO", "belong in a key"},
		"a tab inside":                    {"SECRET-ONE\tSECRET-TWO", "belong in a key"},
		"a NUL inside":                    {"SECRET-ONE\x00SECRET-TWO", "belong in a key"},
		"an escape sequence inside":       {"SECRET\x1b[31m-ONE", "belong in a key"},
		"a delete character inside":       {"SECRET\x7f-ONE", "belong in a key"},
		"a control character of Latin-1":  {"SECRET\u0080-ONE", "belong in a key"},
		"bytes that are not UTF-8":        {"SECRET-\xff\xfe-ONE", "belong in a key"},
		"bytes that are not UTF-8 at end": {"SECRET-ONE\xc3", "belong in a key"},
		"UTF-16":                          {"S\x00E\x00C\x00R\x00E\x00T\x00", "belong in a key"},
		"half a surrogate pair":           {"SECRET-\xed\xa0\x80-ONE", "belong in a key"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			key, err := ParseKey(c.pasted)
			assert.True(t, key.IsZero())
			var input *InputError
			require.ErrorAs(t, err, &input)
			assert.Equal(t, "license key", input.Field)
			assert.Contains(t, input.Problem, c.problem)
			assert.NotContains(t, err.Error(), "SECRET")
		})
	}
}

func TestAKeyShowsItsLastSixCharactersOrNone(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ text, shown string }{
		"no key":                             {"", ""},
		"one letter":                         {"A", "****"},
		"15 characters":                      {"123456789012345", "****"},
		"16 characters":                      {"1234567890123456", "****-123456"},
		"15 characters of two bytes":         {strings.Repeat("é", 15), "****"},
		"16 characters of four bytes":        {strings.Repeat("🔑", 16), "****-" + strings.Repeat("🔑", 6)},
		"a usual one":                        {pastedKey, "****-TAIL42"},
		"a tail that begins inside a letter": {strings.Repeat("a", 12) + "é12345", "****-é12345"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			key := newKey(c.text)
			assert.Equal(t, c.shown, key.String())
			assert.Equal(t, c.text, key.Reveal())
			assert.Equal(t, c.text == "", key.IsZero())
			assert.Equal(t, c.shown, fmt.Sprint(key))
			assert.Equal(t, `"`+c.shown+`"`, fmt.Sprintf("%q", key))
		})
	}
	assert.Equal(t, "****", newEmail(pastedAddress).String())
	assert.Equal(t, "****", newEmail(strings.Repeat("a", 80)+"@example.com").String())
	assert.Empty(t, newEmail("").String())
	assert.Empty(t, Email{}.Reveal())
	assert.Equal(t, pastedAddress, newEmail(pastedAddress).Reveal())
}

// leaks are the forms in which a secret could come through a formatter.
func leaks(secret string) []string {
	var decimal []string
	for _, b := range []byte(secret)[:8] {
		decimal = append(decimal, fmt.Sprint(b))
	}
	return []string{
		secret[:8],
		fmt.Sprintf("%x", secret[:8]),
		fmt.Sprintf("%X", secret[:8]),
		strings.Join(decimal, " "),
		strings.Join(decimal, ", "),
		base64.StdEncoding.EncodeToString([]byte(secret))[:10],
	}
}

func assertNoSecret(t *testing.T, got string, how string) {
	t.Helper()
	for _, secret := range []string{pastedKey, pastedAddress} {
		for _, form := range leaks(secret) {
			if at := strings.Index(got, form); at >= 0 {
				t.Errorf("%s gives the secret away: …%.80s…", how, got[max(0, at-20):])
			}
		}
	}
}

// Programs hold a key in ways of their own, in fields exported and not.
type (
	openHolder struct {
		Key     Key
		Email   Email
		Pointer *Key
		Any     any
		Map     map[string]Key
		Keyed   map[Key]Email
		Slice   []Key
		Array   [1]Email
		Nested  struct{ Key Key }
	}
	closedHolder struct {
		key     Key
		email   Email
		pointer *Key
		any     any
		mapped  map[string]Key
		keyed   map[Key]Email
		slice   []Key
		array   [1]Email
		nested  struct{ key Key }
	}
	embeddingHolder struct {
		Key
		Name string
	}
	errorHolder struct{ key Key }
)

func (e errorHolder) Error() string { return fmt.Sprintf("failed: %+v", e.key) }

func holders() map[string]any {
	key, email := newKey(pastedKey), newEmail(pastedAddress)
	pointer := &key
	open := openHolder{
		key, email, pointer, key, map[string]Key{"k": key}, map[Key]Email{key: email},
		[]Key{key}, [1]Email{email}, struct{ Key Key }{key},
	}
	closed := closedHolder{
		key, email, pointer, key, map[string]Key{"k": key}, map[Key]Email{key: email},
		[]Key{key}, [1]Email{email}, struct{ key Key }{key},
	}
	license := LicenseKey{Key: key, Customer: Customer{Email: email}}
	return map[string]any{
		"a key":                       key,
		"an address":                  email,
		"a pointer":                   pointer,
		"a pointer to a pointer":      &pointer,
		"a slice":                     []Key{key, key},
		"a slice of pointers":         []*Key{pointer},
		"an array":                    [2]Email{email, email},
		"a map":                       map[string]Key{"key": key},
		"a map keyed by it":           map[Key]Email{key: email},
		"a slice of any":              []any{key, email, pointer},
		"exported fields":             open,
		"a pointer to them":           &open,
		"unexported fields":           closed,
		"a pointer to those":          &closed,
		"a slice of those":            []closedHolder{closed},
		"a map of those":              map[string]closedHolder{"closed": closed},
		"an embedded key":             embeddingHolder{Key: key, Name: "n"},
		"an error that holds it":      errorHolder{key},
		"an error that wraps that":    fmt.Errorf("wrapped: %w", errorHolder{key}),
		"joined errors":               errors.Join(errorHolder{key}, errorHolder{key}),
		"a license key":               license,
		"a pointer to a license key":  &license,
		"an activation":               &Activation{LicenseKey: &license},
		"a status":                    Status{State: Active, Key: key},
		"a question":                  ValidateRequest{Key: key},
		"a wish for a seat":           &ActivateRequest{Key: key},
		"a channel's worth of a func": func() Key { return key },
	}
}

func TestNoVerbOfFmtShowsASecret(t *testing.T) {
	t.Parallel()
	for name, v := range holders() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for verb := 'A'; verb <= 'z'; verb++ {
				if !unicode.IsLetter(verb) {
					continue
				}
				for _, flags := range []string{"", "+", "#", "+#", " ", "-", "0", "60", "-60", ".60", "60.60"} {
					format := "%" + flags + string(verb)
					assertNoSecret(t, fmt.Sprintf(format, v), format)
				}
			}
			assertNoSecret(t, fmt.Sprint(v), "Sprint")
			assertNoSecret(t, fmt.Sprintln("x", v), "Sprintln")
			assertNoSecret(t, fmt.Sprintf("%d", []any{v}), "a list in a wrong verb")
			for how, format := range map[string]string{
				"a broken format": "%!", "an argument too many": "no verb", "a secret for a width": "%[1]*[1]d", "an index": "%[1]d%[3]d",
			} {
				assertNoSecret(t, fmt.Sprintf(format, v), how)
			}

			var out bytes.Buffer
			log.New(&out, "", 0).Printf("%v and %s", v, v)
			assertNoSecret(t, out.String(), "package log")

			out.Reset()
			_ = template.Must(template.New("").Parse("{{.}} {{printf \"%s\" .}}")).Execute(&out, v)
			assertNoSecret(t, out.String(), "a template")
		})
	}
}

func TestWhoIsInvitedToASeatIsNotPrinted(t *testing.T) {
	t.Parallel()
	r := AssignSeatRequest{SubscriptionID: "a subscription", Email: pastedAddress, Customer: ExternalID(pastedAddress), ExternalMemberID: pastedAddress}
	for _, format := range []string{"%v", "%+v", "%#v", "%s", "%x"} {
		assert.Equal(t, "polargate.AssignSeatRequest{SubscriptionID:a subscription}", fmt.Sprintf(format, r), format)
		assertNoSecret(t, fmt.Sprintf(format, []any{&r}), format)
	}
	var out bytes.Buffer
	slog.New(slog.NewJSONHandler(&out, nil)).Info("assigning", "seat", r)
	assertNoSecret(t, out.String(), "slog")
}

func TestEveryDirectVerbPrintsTheMaskedForm(t *testing.T) {
	t.Parallel()
	key := newKey(pastedKey)
	for _, format := range []string{"%v", "%+v", "%#v", "%s", "%d", "%x", "%X", "%t", "%c", "%U", "%e", "%b", "%o", "%O", "%60v"} {
		assert.Equal(t, "****-TAIL42", fmt.Sprintf(format, key), format)
		assert.Equal(t, "****-TAIL42", fmt.Sprintf(format, &key), format)
		assert.Equal(t, "****", fmt.Sprintf(format, newEmail(pastedAddress)), format)
	}
	assert.Equal(t, "{****-TAIL42}", fmt.Sprintf("%v", struct{ Key Key }{key}))
	assert.Equal(t, "map[a:****-TAIL42]", fmt.Sprint(map[string]Key{"a": key}))
	var none *Key
	assert.NotPanics(t, func() { _ = fmt.Sprint(none) })
}

func TestNoEncodingShowsASecret(t *testing.T) {
	t.Parallel()
	for name, v := range holders() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			data, _ := json.Marshal(v)
			assertNoSecret(t, string(data), "JSON")
			data, _ = xml.Marshal(v)
			assertNoSecret(t, string(data), "XML")
			var out bytes.Buffer
			_ = gob.NewEncoder(&out).Encode(v)
			assertNoSecret(t, out.String(), "gob")
		})
	}
	key := newKey(pastedKey)
	data, err := json.Marshal(map[string]any{"key": key, "pointer": &key, "email": newEmail(pastedAddress), "none": Key{}, "keyed": map[Key]int{key: 1}})
	require.NoError(t, err)
	assert.JSONEq(t, `{"key":"****-TAIL42","pointer":"****-TAIL42","email":"****","none":"","keyed":{"****-TAIL42":1}}`, string(data))

	data, err = json.Marshal(struct {
		Key Key `json:"key,omitzero"`
	}{})
	require.NoError(t, err)
	assert.JSONEq(t, `{}`, string(data))
}

// plainHandler prints values as they are, without LogValue. Such handlers exist: charmbracelet/log
// 1.0.0 is one.
type plainHandler struct{ to *bytes.Buffer }

func (h plainHandler) Enabled(context.Context, slog.Level) bool { return true }
func (h plainHandler) WithGroup(string) slog.Handler            { return h }

func (h plainHandler) Handle(_ context.Context, r slog.Record) error {
	fmt.Fprintln(h.to, r.Message)
	r.Attrs(func(a slog.Attr) bool { h.print(a); return true })
	return nil
}

func (h plainHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	for _, a := range attrs {
		h.print(a)
	}
	return h
}

func (h plainHandler) print(a slog.Attr) { fmt.Fprintf(h.to, "%v %+v\n", a.Value.Any(), a.Value.Any()) }

func TestNoLogShowsASecret(t *testing.T) {
	t.Parallel()
	for name, v := range holders() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var text, asJSON, plain bytes.Buffer
			for _, h := range []slog.Handler{slog.NewTextHandler(&text, nil), slog.NewJSONHandler(&asJSON, nil), plainHandler{&plain}} {
				l := slog.New(h)
				l.Info("message", "v", v)
				l.With("v", v).WithGroup("group").Info("message", slog.Group("inner", "v", v), slog.Any("list", []any{v}))
			}
			assertNoSecret(t, text.String(), "slog's text")
			assertNoSecret(t, asJSON.String(), "slog's JSON")
			assertNoSecret(t, plain.String(), "a handler that doesn't call LogValue")
			assert.Contains(t, plain.String(), "message")
		})
	}
	var out bytes.Buffer
	slog.New(slog.NewJSONHandler(&out, nil)).Info("m", "key", newKey(pastedKey), "email", newEmail(pastedAddress))
	assert.Contains(t, out.String(), `"key":"****-TAIL42","email":"****"`)
}

// A Gate keeps keys that it has to give back, and the Secret of its Config.
func TestAGateThatIsPrintedShowsNoSecret(t *testing.T) {
	t.Parallel()
	gate, err := Open(Config{
		OrganizationID: testOrganization,
		Secret:         pastedAddress,
		Store:          &MemoryStore{},
	})
	require.NoError(t, err)
	defer func() { _ = gate.Close() }()
	gate.adopt(record{state: state{
		InstallationID: "here",
		Seat:           &seat{Key: pastedKey},
		Outbox:         []seat{{Key: pastedKey}},
		Intent:         &intent{Key: pastedKey},
	}}, FromDisk)
	for _, format := range []string{"%v", "%+v", "%#v", "%s", "%x", "%q"} {
		assertNoSecret(t, fmt.Sprintf(format, gate), format)
	}
	for _, format := range []string{"%v", "%+v", "%#v", "%s", "%x", "%q"} {
		assertNoSecret(t, fmt.Sprintf(format, gate.config), format+" of the Config")
		assertNoSecret(t, fmt.Sprintf(format, &gate.config), format+" of a pointer to the Config")
	}
	var out bytes.Buffer
	slog.New(slog.NewTextHandler(&out, nil)).Info("m", "gate", gate, "config", gate.config)
	assertNoSecret(t, out.String(), "slog")
}

func TestKeysCompareByTheirText(t *testing.T) {
	t.Parallel()
	parsed, err := ParseKey(" " + pastedKey + "\n")
	require.NoError(t, err)
	var read Key
	require.NoError(t, json.Unmarshal([]byte(`"`+pastedKey+`"`), &read))
	assert.True(t, parsed == read)
	assert.True(t, parsed == newKey(strings.Clone(pastedKey)))
	assert.Equal(t, 1, map[Key]int{parsed: 1}[read])

	assert.False(t, parsed == newKey(strings.ToLower(pastedKey)), "case counts")
	// The masks are equal here, the keys are not.
	a, b := newKey("0000000000-same42"), newKey("1111111111-same42")
	assert.Equal(t, a.String(), b.String())
	assert.False(t, a == b)
	assert.False(t, newKey("short-1") == newKey("short-2"))

	assert.True(t, newKey("") == Key{})
	assert.True(t, newEmail(pastedAddress) == newEmail(strings.Clone(pastedAddress)))
	assert.False(t, newEmail(pastedAddress) == newEmail("other@example.com"))
	assert.Equal(t, Key{}.String(), Email{}.String())
}

func TestUnmarshallingTakesTheTextAsItIs(t *testing.T) {
	t.Parallel()
	var v struct {
		Key   Key
		Email Email
	}
	require.NoError(t, json.Unmarshal([]byte(`{"Key":" ACME SPACE KEY ","Email":"ada.lovelace@example.com"}`), &v))
	assert.Equal(t, " ACME SPACE KEY ", v.Key.Reveal())
	assert.Equal(t, pastedAddress, v.Email.Reveal())
	require.NoError(t, json.Unmarshal([]byte(`{"Key":"","Email":""}`), &v))
	assert.True(t, v.Key.IsZero())
	assert.True(t, v.Email.IsZero())
	assert.Error(t, json.Unmarshal([]byte(`{"Key":5}`), &v))
}

func FuzzParseKey(f *testing.F) {
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
		key, err := ParseKey(pasted)
		if err != nil {
			var input *InputError
			require.ErrorAs(t, err, &input)
			require.True(t, key.IsZero())
			return
		}
		text := key.Reveal()
		require.NotEmpty(t, text)
		require.LessOrEqual(t, len(text), maxKeyLen)
		require.True(t, utf8.ValidString(text))
		first, _ := utf8.DecodeRuneInString(text)
		last, _ := utf8.DecodeLastRuneInString(text)
		for _, r := range []rune{first, last} {
			require.False(t, unicode.IsSpace(r) || unicode.Is(unicode.Cf, r) || r == '"' || r == '\'', "%U is left at an end", r)
		}
		require.False(t, strings.ContainsFunc(text, unicode.IsControl))

		again, err := ParseKey(text)
		require.NoError(t, err)
		require.True(t, again == key, "parsing is idempotent")
		quoted, err := ParseKey(" \"" + text + "\" ")
		require.NoError(t, err)
		require.True(t, quoted == key)

		if utf8.RuneCountInString(text) < 16 {
			require.Equal(t, "****", key.String())
			return
		}
		holder := struct {
			Key    Key
			hidden Key
		}{key, key}
		asJSON, err := json.Marshal(holder)
		require.NoError(t, err)
		var log bytes.Buffer
		slog.New(slog.NewJSONHandler(&log, nil)).Info("", "key", key, "holder", holder)
		shown := []string{key.String(), string(asJSON), log.String()}
		for _, format := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
			shown = append(shown, fmt.Sprintf(format, holder))
		}
		for _, s := range shown {
			require.NotContains(t, s, text)
		}
	})
}
