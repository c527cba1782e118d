package polargate

import (
	"fmt"
	"io"
	"log/slog"
	"unicode/utf8"
	"unique"

	"github.com/polargate/polargate/internal/paste"
)

// masked holds a text that must not be printed by accident, together with what
// is printed in its place. The text sits behind a pointer, so that even fmt's
// look into unexported fields of a caller's struct meets an address. Values are
// comparable: equal texts of the same kind are ==.
type masked struct {
	text  unique.Handle[string]
	shown unique.Handle[string]
}

func mask(text, shown string) masked {
	return masked{unique.Make(text), unique.Make(shown)}
}

// Reveal is the one way to the text itself.
func (m masked) Reveal() string {
	if m.IsZero() {
		return ""
	}
	return m.text.Value()
}

// IsZero reports whether there is no text.
func (m masked) IsZero() bool { return m == masked{} }

// String is the masked form.
func (m masked) String() string {
	if m.IsZero() {
		return ""
	}
	return m.shown.Value()
}

// Format prints the masked form for every verb.
func (m masked) Format(f fmt.State, verb rune) {
	if verb == 'q' {
		fmt.Fprintf(f, "%q", m.String())
		return
	}
	_, _ = io.WriteString(f, m.String())
}

// MarshalText writes the masked form, for JSON and the like.
func (m masked) MarshalText() ([]byte, error) { return []byte(m.String()), nil }

// LogValue logs the masked form.
func (m masked) LogValue() slog.Value { return slog.StringValue(m.String()) }

// Key is a license key that no log, error, %v or JSON shows: it prints as
// "****-" and its last six characters, as Polar itself displays keys, or as
// "****" alone when it is shorter than 16 characters. Reveal gives the text.
// The zero value is no key. Keys compare with ==.
type Key struct{ masked }

// maxKeyLen bounds a license key, in bytes. Polar's own are 36 characters and a
// prefix; it takes custom ones too, and sets no limit of its own.
const maxKeyLen = 512

// ParseKey takes a license key as a person pasted it, out of a mail or a chat: what came
// along is dropped, and what typography did to it is undone. That is spaces, quotes,
// angle brackets, asterisks of emphasis, line breaks and a full stop around it, a label
// such as "License key:" before it, and within it characters that cannot be seen, soft
// hyphens among them; dashes, spaces and full-width letters of other kinds become the
// plain ones. A key that Polar made, of a prefix and a UUID, is also put together again
// when it was broken into lines; another only at a dash. Letters keep their case, which
// counts at Polar.
//
// What could be part of a key is never dropped: where that is not certain, and for an
// empty key, one over 512 bytes and one that is no text, the error is an *InputError that
// says what is in the way, and where. It does not repeat the key.
func ParseKey(pasted string) (Key, error) {
	if len(pasted) > 1<<20 {
		return Key{}, errKeyTooLong
	}
	text, problem := paste.Clean(pasted)
	switch {
	case problem != "":
		return Key{}, &InputError{fieldKey, problem}
	case text == "":
		return Key{}, &InputError{fieldKey, "is empty: paste it from your purchase email or the customer portal"}
	case len(text) > maxKeyLen:
		return Key{}, errKeyTooLong
	}
	return newKey(text), nil
}

var (
	errKeyTooLong = &InputError{fieldKey, paste.TooLong}
	errKeyNoText  = &InputError{fieldKey, "has characters that no key has: copy only the key from your purchase email"}
)

func newKey(text string) Key {
	if text == "" {
		return Key{}
	}
	shown := "****"
	if n := utf8.RuneCountInString(text); n >= 16 {
		tail := text
		for range n - 6 {
			_, size := utf8.DecodeRuneInString(tail)
			tail = tail[size:]
		}
		shown = "****-" + tail
	}
	return Key{mask(text, shown)}
}

// UnmarshalText takes the text as it is. Writing a Key gives its masked form,
// so what was read does not come back from what was written.
func (k *Key) UnmarshalText(text []byte) error {
	*k = newKey(string(text))
	return nil
}

// Email is an e-mail address that prints as "****". Reveal gives the text.
type Email struct{ masked }

// UnmarshalText takes the text as it is; see Key.UnmarshalText.
func (e *Email) UnmarshalText(text []byte) error {
	*e = newEmail(string(text))
	return nil
}

func newEmail(text string) Email {
	if text == "" {
		return Email{}
	}
	return Email{mask(text, "****")}
}
