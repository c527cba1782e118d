package wire

import (
	"encoding/hex"
	"strings"
)

// CanonicalUUID4 returns the usual form, in lower case and with dashes, of a UUID of version 4.
// Polar accepts no other version as an id.
func CanonicalUUID4(s string) (string, bool) {
	plain := strings.ToLower(strings.ReplaceAll(s, "-", ""))
	if len(plain) != 32 || len(s) != 32 && len(s) != 36 {
		return "", false
	}
	if _, err := hex.DecodeString(plain); err != nil {
		return "", false
	}
	if plain[12] != '4' || !strings.ContainsRune("89ab", rune(plain[16])) {
		return "", false
	}
	id := plain[:8] + "-" + plain[8:12] + "-" + plain[12:16] + "-" + plain[16:20] + "-" + plain[20:]
	if len(s) == 36 && !strings.EqualFold(s, id) {
		return "", false
	}
	return id, true
}

// UUID is a UUID of version 4 in 16 bytes; the zero value is none.
type UUID [16]byte

// ParseUUID reads what CanonicalUUID4 accepts. It allocates nothing for the usual form.
func ParseUUID(s string) (id UUID, ok bool) {
	if len(s) == 36 {
		ok = true
		for i, at := 0, 0; i < len(id) && ok; i, at = i+1, at+2 {
			if i == 4 || i == 6 || i == 8 || i == 10 {
				ok = s[at] == '-'
				at++
			}
			high, low := hexDigit(s[at]), hexDigit(s[at+1])
			ok = ok && high|low < 16
			id[i] = high<<4 | low
		}
		if ok && id[6]>>4 == 4 && id[8]>>6 == 2 {
			return id, true
		}
	}
	s, ok = CanonicalUUID4(s)
	if !ok {
		return UUID{}, false
	}
	return ParseUUID(s)
}

// hexDigit is the value of a digit, or more than 15.
func hexDigit(c byte) byte {
	switch {
	case '0' <= c && c <= '9':
		return c - '0'
	case 'a' <= c && c <= 'f':
		return c - 'a' + 10
	}
	return 0xff
}

// String is the usual form.
func (id UUID) String() string {
	var text [36]byte
	for i, at := 0, 0; i < len(id); i, at = i+1, at+2 {
		if i == 4 || i == 6 || i == 8 || i == 10 {
			text[at] = '-'
			at++
		}
		hex.Encode(text[at:], id[i:i+1])
	}
	return string(text[:])
}

// NormalUUID is the usual form of an id, or the id itself if it isn't a UUID.
func NormalUUID(s string) string {
	if id, ok := CanonicalUUID4(s); ok {
		return id
	}
	return s
}

// UsualUUID is NormalUUID, in the caller's memory if that has the usual form.
func UsualUUID(s string) string {
	if _, ok := ParseUUID(s); ok && len(s) == 36 && !strings.ContainsAny(s, "ABCDEF") {
		return s
	}
	return NormalUUID(s)
}

func SameUUID(a, b string) bool { return NormalUUID(a) == NormalUUID(b) }
