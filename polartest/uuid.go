package polartest

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"strings"
	"unicode/utf8"
)

// newUUID makes a random UUID of version 4.
func newUUID() string {
	var b [16]byte
	rand.Read(b[:])
	b[6] = b[6]&0x0f | 0x40
	b[8] = b[8]&0x3f | 0x80
	return dashed(hex.EncodeToString(b[:]))
}

// dashed puts the dashes into 32 hexadecimal digits.
func dashed(digits string) string {
	return digits[:8] + "-" + digits[8:12] + "-" + digits[12:16] + "-" + digits[16:20] + "-" + digits[20:]
}

// parseUUID reads the four spellings that Polar takes (plain, dashed, in braces, as a URN; either
// case) into the usual one. problem says what is wrong, in Polar's words, and is empty if nothing is.
func parseUUID(s string) (id, problem string) {
	inner, plain := s, true
	switch {
	case len(s) >= 2 && s[0] == '{' && s[len(s)-1] == '}':
		inner, plain = s[1:len(s)-1], false
	case strings.HasPrefix(s, "urn:uuid:"):
		inner, plain = s[len("urn:uuid:"):], false
	}
	dashes := 0
	for i, r := range inner {
		switch {
		case r == '-':
			dashes++
		case r >= utf8.RuneSelf || !isHexDigit(byte(r)):
			return "", fmt.Sprintf("invalid character: found `%c` at %d", r, i)
		}
	}
	switch {
	case dashes == 0 && len(inner) == 32 && plain:
		return dashed(strings.ToLower(inner)), ""
	case dashes == 0:
		return "", fmt.Sprintf("invalid length: found %d", len(inner))
	case dashes != 4:
		return "", fmt.Sprintf("invalid group count: found %d", dashes+1)
	}
	for i, group := range strings.Split(inner, "-") {
		if len(group) != [...]int{8, 4, 4, 4, 12}[i] {
			return "", fmt.Sprintf("invalid group length in group %d: found %d", i, len(group))
		}
	}
	return strings.ToLower(inner), ""
}

func isHexDigit(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'f' || c >= 'A' && c <= 'F'
}

// isVersion4 reports whether a UUID as parseUUID returns it is of version 4.
func isVersion4(id string) bool { return id[14] == '4' }

// mustUUID4 is for identifiers that a test chose itself: Polar takes nothing but UUIDs of version 4
// in requests, so that any other would show up later, as a 422 that is hard to understand.
func mustUUID4(what, s string) string {
	id, problem := parseUUID(s)
	if problem != "" || !isVersion4(id) {
		panic(fmt.Sprintf("polartest: %s %q is not a UUID of version 4, and Polar takes no other", what, s))
	}
	return id
}
