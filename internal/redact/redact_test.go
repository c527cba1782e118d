package redact

import (
	"net/url"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

var (
	userPattern    = regexp.MustCompile(`([a-zA-Z][a-zA-Z0-9+.-]*://)[^"'<>]*@`)
	addressPattern = regexp.MustCompile(`[^\s@"'<>(),;:/]+(@|%40)[^\s@"'<>(),;:/]+`)
)

// redactByPatterns says in patterns what Text does by hand.
func redactByPatterns(s, secret string) string {
	if secret != "" {
		for _, form := range []string{secret, url.QueryEscape(secret), url.PathEscape(secret)} {
			s = regexp.MustCompile("(?i)"+regexp.QuoteMeta(form)).ReplaceAllLiteralString(s, "****")
		}
	}
	return addressPattern.ReplaceAllLiteralString(userPattern.ReplaceAllString(s, "$1****@"), "****")
}

var redactions = map[string]string{
	"":                                    "",
	"nothing of interest":                 "nothing of interest",
	"ada@example.com":                     "****",
	"<ada@example.com>, (bob@b.example):": "<****>, (****):",
	"ada%40example.com and %40 alone":     "**** and %40 alone",
	"%40%40 x%40%40 %40x%40y":             "%40%40 **** ****",
	"a@b@c":                               "****@c",
	"@a a@ a@@b":                          "@a a@ a@@b",
	"http://ada:secret@proxy.example:80/": "http://****:80/",
	"http://a/b@c/d@e":                    "http://****",
	"'http://a'b@c":                       "'http://a'****",
	"://a@b 1://a:b@c x1://a:b@c":         "://**** 1://a:**** x1://****",
	"the key inkwell-SECRET-1 was wrong":  "the key **** was wrong",
	"INKWELL-SECRET-INKWELL-SECRET-1":     "INKWELL-SECRET-****",
	"Ä@Ö.example":                         "****",
	"\xff@\xfe":                           "****",
}

func TestSecretsThatATextEchoesAreRemoved(t *testing.T) {
	t.Parallel()
	const secret = "Inkwell-Secret-1"
	for text, want := range redactions {
		assert.Equal(t, redactByPatterns(text, secret), Text(text, secret), "%q: by patterns", text)
		assert.Equal(t, want, Text(text, secret), "%q", text)
	}
	assert.Equal(t, "**** ****", Text("A B/Ç+D a+b%2f%c3%a7%2BD", "A B/ç+d"), "in any case and escaping")
}

// FuzzRedact compares what Text does with patterns.
func FuzzRedact(f *testing.F) {
	for text := range redactions {
		f.Add(text, "Inkwell-Secret-1")
	}
	f.Add("K\u212ak", "kK")
	f.Add("https://a:b@c://d@e%40f", "d")
	f.Fuzz(func(t *testing.T, text, secret string) {
		if strings.ToValidUTF8(secret, "") != secret {
			return // no key and no token is that
		}
		text = string([]rune(text)) // what is no letter is replaced by what stands for that
		require.Equal(t, redactByPatterns(text, secret), Text(text, secret))
	})
}
