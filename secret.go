package polargate

import (
	"fmt"
	"io"
	"log/slog"
	"strconv"
	"unicode"
	"unicode/utf8"
	"unique"

	"github.com/polargate/polargate/internal/paste"
)

// masked holds a text that must not be printed by accident, together with what is printed
// instead. The text is behind a pointer, so that even fmt's look into unexported fields
// of a caller's struct finds an address. Values are comparable: equal texts of the same
// kind are ==.
type masked struct {
	text  unique.Handle[string]
	shown unique.Handle[string]
}

func mask(text, shown string) masked {
	return masked{unique.Make(text), unique.Make(shown)}
}

// Reveal returns the text itself. Nothing else does.
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

// Key is a license key that no log, error, %v or JSON shows. It prints as "****-" and its
// last six characters, as Polar itself displays keys, or as "****" if it is shorter than
// 16 characters. Reveal returns the text. The zero value is no key. Keys compare with ==.
type Key struct{ masked }

// maxKeyLen bounds a license key, in bytes. Polar's own have 36 characters and a prefix;
// Polar also accepts custom keys, without a limit of its own.
const maxKeyLen = 512

// ParseKey reads a license key as a person pasted it from a mail or a chat. It removes
// what came along: spaces, quotes, angle brackets, asterisks, line breaks and a full stop
// around the key, a label such as "License key:" before it, and invisible characters
// within it, such as soft hyphens. Typographic dashes, spaces and full-width letters
// become plain ones. A key that Polar made, of a prefix and a UUID, is put together again
// if it was broken into lines; another key only at a dash. Letters keep their case, which
// matters to Polar.
//
// Anything that could be part of a key stays. If that isn't certain, and for an empty
// key, a key over 512 bytes, or bytes that aren't text, the error is an *InputError that
// says what is in the way, and where. It doesn't repeat the key. Find it by errors.As.
func ParseKey(pasted string) (Key, error) {
	if len(pasted) > 1<<20 {
		return Key{}, errKeyTooLong
	}
	text, problem := paste.Clean(pasted)
	switch {
	case problem.Kind != "":
		return Key{}, problemOfKey(problem)
	case text == "":
		return Key{}, problemOfKey(paste.Problem{Kind: "empty"})
	case len(text) > maxKeyLen:
		return Key{}, errKeyTooLong
	}
	return newKey(text), nil
}

var (
	errKeyTooLong = problemOfKey(paste.Problem{Kind: paste.TooLong})
	errKeyNoText  = problemOfKey(paste.Problem{Kind: "characters"})
)

// keyError is an *InputError about a license key that a person entered. It can be said in
// their language.
type keyError struct {
	*InputError
	problem paste.Problem
}

func problemOfKey(p paste.Problem) *keyError {
	e := &keyError{problem: p}
	e.InputError = &InputError{fieldKey, e.text(nil)}
	return e
}

func (e *keyError) Unwrap() error { return e.InputError }

// text is what is wrong with the key.
func (e *keyError) text(l *Language) string {
	where := phraseKeyAfter
	if e.problem.After == 1 {
		where = phraseKeyAfterOne
	}
	place := l.text(where, "{n}", strconv.Itoa(e.problem.After))
	char := fmt.Sprintf("%c (%U)", e.problem.Char, e.problem.Char)
	if unicode.IsControl(e.problem.Char) {
		char = fmt.Sprintf("%U", e.problem.Char)
	}
	return l.text(phraseKey+Phrase(e.problem.Kind), "{place}", place, "{char}", char)
}

func (e *keyError) message(l *Language) string {
	return l.text(phraseKeyInput, "{field}", e.Field, "{problem}", e.text(l))
}

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

// UnmarshalText accepts the text as it is. Writing a Key gives its masked form, so a key that
// was written can't be read back.
func (k *Key) UnmarshalText(text []byte) error {
	*k = newKey(string(text))
	return nil
}

// Email is an e-mail address that prints as "****". Reveal gives the text.
type Email struct{ masked }

// UnmarshalText accepts the text as it is; see Key.UnmarshalText.
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
