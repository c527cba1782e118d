package lease

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"strings"
	"unicode"
)

// MaxText is the length, in bytes, of the longest lease, request or receipt that is
// read or made. A usual lease has about 600.
const MaxText = 2048

// A Kind of text.
type Kind int

// The kinds of text, and what they begin with.
const (
	// KindLease: what a vendor's server signs. "v1."
	KindLease Kind = iota
	// KindRequest: what a program asks that server with. "r1."
	KindRequest
	// KindReceipt: the proof that a computer was deactivated. "d1."
	KindReceipt
)

// kindFacts are what there is to know of a kind.
type kindFacts struct {
	begin, noun, label string
	proof              int // bytes of the third part: a signature, or a checksum
	// domain is what is signed in front of a payload, so that no signature fits
	// anything else that a key might sign.
	domain string
}

var kinds = [...]kindFacts{
	{"v1", "a lease", "POLARGATE LEASE", ed25519.SignatureSize, "polargate lease v1\x00"},
	{"r1", "an activation request", "POLARGATE ACTIVATION REQUEST", sha256.Size, "polargate request v1\x00"},
	{"d1", "a deactivation receipt", "POLARGATE DEACTIVATION RECEIPT", sha256.Size, "polargate receipt v1\x00"},
}

// message is what is signed.
func (k Kind) message(payload string) []byte { return []byte(kinds[k].domain + payload) }

// join makes a text of its parts.
func (k Kind) join(payload string, proof []byte) (string, error) {
	text := kinds[k].begin + "." + base64url([]byte(payload)) + "." + base64url(proof)
	if len(text) > MaxText {
		return "", malformed("longer than 2048 bytes: shorten features and names")
	}
	return text, nil
}

// split gives the parts of a text, of which nothing is believed yet.
func (k Kind) split(text string) (payload, proof []byte, err error) {
	if len(text) > MaxText {
		return nil, nil, malformed("longer than 2048 bytes")
	}
	parts := strings.Split(text, ".")
	if parts[0] != kinds[k].begin {
		return nil, nil, k.instead(parts[0])
	}
	if len(parts) == 3 {
		payload, proof = unbase64(parts[1]), unbase64(parts[2])
	}
	if payload == nil || len(proof) != kinds[k].proof {
		return nil, nil, malformed("not of three parts in base64url, or cut off")
	}
	return payload, proof, nil
}

// instead says what a text is that should be a k, by its beginning or its label.
func (k Kind) instead(begin string) error {
	for i := range kinds {
		if kinds[i].begin == begin || kinds[i].label == begin {
			return malformed("this is " + kinds[i].noun + ", and " + kinds[k].noun + " is needed here")
		}
	}
	if len(begin) > 1 && strings.TrimRight(begin, "0123456789") == kinds[k].begin[:1] {
		return &Error{ErrUnsupported, ""}
	}
	return malformed("it does not begin with " + kinds[k].begin)
}

func base64url(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// unbase64 reads unpadded base64url, in the one way in which the bytes can be
// written: the package for it passes over line breaks. nil means that it is none.
func unbase64(s string) []byte {
	b, err := base64.RawURLEncoding.Strict().DecodeString(s)
	if err != nil || strings.ContainsAny(s, "\r\n") {
		return nil
	}
	return b
}

const (
	armorBegin = "-----BEGIN "
	armorEnd   = "-----END "
	armorTail  = "-----"
	armorWidth = 64
	// maxArmored bounds what Unarmor looks at: a mail, not a mailbox.
	maxArmored = 256 << 10
)

// Armor puts a lease, a request or a receipt into lines of 64 characters between a
// first and a last line that say what it is, for files and e-mail. What is none of
// them comes back as it is.
func Armor(text string) string {
	begin, _, _ := strings.Cut(text, ".")
	for i := range kinds {
		if kinds[i].begin != begin {
			continue
		}
		armored := armorBegin + kinds[i].label + armorTail + "\n"
		for len(text) > 0 {
			n := min(armorWidth, len(text))
			armored += text[:n] + "\n"
			text = text[n:]
		}
		return armored + armorEnd + kinds[i].label + armorTail + "\n"
	}
	return text
}

// Unarmor finds the text of a kind in what a person saved or pasted: armored, with
// anything before and after it, quoted in a reply and wrapped anew; or bare, with
// white space anywhere. Files in UTF-16, as Windows writes them, are read too. It does
// not look into the text: that is for Verify and its like.
//
// An *Error with ErrMalformed says that there is none, or more than one.
func Unarmor(data []byte, kind Kind) (string, error) {
	all := string(data)
	if len(all) > maxArmored {
		return "", malformed("longer than 256 KiB")
	}
	if strings.HasPrefix(all, "\xff\xfe") || strings.HasPrefix(all, "\xfe\xff") {
		all = strings.ReplaceAll(all[2:], "\x00", "") // what matters is ASCII in every coding
	}
	var found, other string
	for i, block := range strings.Split(all, armorBegin) {
		label, body, ok := strings.Cut(block, armorTail)
		if i == 0 || !ok || !strings.HasPrefix(label, "POLARGATE ") {
			continue
		}
		if label != kinds[kind].label {
			other = label
			continue
		}
		body, _, ok = strings.Cut(body, armorEnd+label+armorTail)
		body = squeeze(body)
		if !ok || body == "" {
			return "", malformed("its last line is missing, or what should be above it")
		}
		if found != "" && found != body {
			return "", malformed("there is more than one: keep the one that is meant")
		}
		found = body
	}
	if found == "" && other != "" {
		return "", kind.instead(other)
	}
	if found == "" {
		found = squeeze(all)
	}
	if found == "" {
		return "", malformed("there is nothing in it")
	}
	return found, nil
}

// squeeze drops white space, the marks that replies put before lines, and invisible
// characters.
func squeeze(s string) string {
	return strings.Map(func(r rune) rune {
		if r == '>' || unicode.IsSpace(r) || unicode.Is(unicode.Cf, r) {
			return -1
		}
		return r
	}, s)
}
