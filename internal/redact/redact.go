// Package redact takes secrets, e-mail addresses and what URLs say of their users out of
// a text that came from elsewhere. It finds a secret that it is told, in whatever case
// and usual escaping; it does not guess what else might be one.
package redact

import (
	"net/url"
	"strconv"
	"strings"
	"unicode"
)

// Text takes out of a text from the network what it may echo: the secrets, in
// whatever case and escaping, and anything that looks like an e-mail address.
//
// It is written by hand, since package regexp would be a tenth of a megabyte in
// every program, and be compiled at every start; its tests compare the two.
func Text(s string, secrets ...string) string {
	for _, secret := range secrets {
		if secret == "" {
			continue
		}
		quoted := strconv.Quote(secret)
		for _, form := range []string{secret, url.QueryEscape(secret), url.PathEscape(secret), quoted[1 : len(quoted)-1]} {
			s = withoutSecret(s, form)
		}
	}
	return withoutAddresses(withoutUsers(s))
}

const mask = "****"

// withoutSecret leaves out a secret in whatever case. It reads the text once (by
// Knuth, Morris and Pratt), since who sends it can make it long and repetitive.
func withoutSecret(s, secret string) string {
	want, text := []rune(secret), []rune(s)
	for i, r := range want {
		want[i] = caseless(r)
	}
	// after[n] is how much of the secret the end of its first n letters is again.
	after := make([]int, len(want)+1)
	for n, known := 1, 0; n < len(want); n++ {
		for known > 0 && want[n] != want[known] {
			known = after[known]
		}
		if want[n] == want[known] {
			known++
		}
		after[n+1] = known
	}
	var b strings.Builder
	written, known := 0, 0
	for i, r := range text {
		r = caseless(r)
		for known > 0 && r != want[known] {
			known = after[known]
		}
		if r == want[known] {
			known++
		}
		if known == len(want) {
			b.WriteString(string(text[written:i+1-known]) + mask)
			written, known = i+1, 0
		}
	}
	if written == 0 {
		return s
	}
	return b.String() + string(text[written:])
}

// caseless is one letter for all that differ in case alone.
func caseless(r rune) rune {
	least := r
	for f := unicode.SimpleFold(r); f != r; f = unicode.SimpleFold(f) {
		least = min(least, f)
	}
	return least
}

// withoutUsers leaves out what a URL says of a user before its host, password
// included: all between "scheme://" and the last "@" before a quote or bracket.
func withoutUsers(s string) string {
	var b strings.Builder
	for s != "" {
		end := strings.IndexAny(s, `"'<>`) + 1
		if end == 0 {
			end = len(s)
		}
		part := s[:end]
		if last := strings.LastIndexByte(part, '@'); last >= 0 {
			if user := userBegins(part[:last]); user >= 0 {
				b.WriteString(part[:user] + mask)
				part = part[last:]
			}
		}
		b.WriteString(part)
		s = s[end:]
	}
	return b.String()
}

// userBegins is where the first "scheme://" of a text ends; -1 if it has none.
func userBegins(s string) int {
	for at := 0; ; {
		i := strings.Index(s[at:], "://")
		if i < 0 {
			return -1
		}
		at += i
		if endsInScheme(s[:at]) {
			return at + len("://")
		}
		at += len("://")
	}
}

// endsInScheme reports whether a text ends in the name of a scheme, which begins
// with a letter.
func endsInScheme(s string) bool {
	for i := len(s) - 1; i >= 0; i-- {
		switch c := s[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z':
			return true
		case '0' <= c && c <= '9', c == '+', c == '.', c == '-':
		default:
			return false
		}
	}
	return false
}

// besideAddresses is what no e-mail address contains, in the middle of which it
// has an "@", which an address may have in it, too, as "%40".
const besideAddresses = " \t\n\f\r@\"'<>(),;:/"

func withoutAddresses(s string) string {
	var b strings.Builder
	for s != "" {
		word := nextWord(s)
		if word == 0 {
			b.WriteByte(s[0])
			s = s[1:]
			continue
		}
		switch host := s[word:]; {
		case len(host) > 1 && host[0] == '@' && nextWord(host[1:]) > 0:
			b.WriteString(mask)
			s = host[1+nextWord(host[1:]):]
		case holdsEscapedAt(s[:word]):
			b.WriteString(mask)
			s = host
		default:
			b.WriteString(s[:word])
			s = host
		}
	}
	return b.String()
}

// nextWord is how many bytes s has before one that no address contains.
func nextWord(s string) int {
	if i := strings.IndexAny(s, besideAddresses); i >= 0 {
		return i
	}
	return len(s)
}

// holdsEscapedAt reports whether there is a "%40" with something on either side.
func holdsEscapedAt(word string) bool {
	i := strings.Index(word[1:], "%40")
	return i >= 0 && 1+i+len("%40") < len(word)
}
