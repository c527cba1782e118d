// Package redact removes secrets, e-mail addresses and the user part of URLs from a text that
// came from elsewhere. It finds the secrets that it is given, in upper and lower case and in
// the usual escaped forms. It doesn't guess what else may be secret.
package redact

import (
	"net/url"
	"strconv"
	"strings"
	"unicode"
)

// Text removes from a text what a server may have repeated: the secrets, and everything that
// looks like an e-mail address.
//
// It is written by hand, because package regexp would add a tenth of a megabyte to every
// program, and compile its expressions at every start. The tests compare the two.
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

// withoutSecret removes a secret in upper and lower case. It reads the text once (by Knuth,
// Morris and Pratt), because the sender can make it long and repetitive.
func withoutSecret(s, secret string) string {
	want, text := []rune(secret), []rune(s)
	for i, r := range want {
		want[i] = caseless(r)
	}
	// after[n] is how many of the secret's first letters its first n letters end in.
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

// caseless is the same letter for all that differ only in case.
func caseless(r rune) rune {
	least := r
	for f := unicode.SimpleFold(r); f != r; f = unicode.SimpleFold(f) {
		least = min(least, f)
	}
	return least
}

// withoutUsers removes the user and the password from URLs: all between "scheme://" and the
// last "@" before a quote or bracket.
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

// besideAddresses are the characters that no e-mail address contains. In its middle, an
// address has an "@", or "%40" if it is escaped.
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
