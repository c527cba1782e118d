package lease

import (
	"fmt"
	"io"
	"log/slog"
)

// A Secret is the license key in a Request, or the secret in a Receipt. No log, error, %v or
// JSON shows it: it prints as "****". Reveal gives the text. The zero value is none.
type Secret struct {
	text *string // a pointer, since package fmt doesn't follow it
}

// NewSecret keeps a text from being printed. An empty text is no secret.
func NewSecret(text string) Secret {
	if text == "" {
		return Secret{}
	}
	return Secret{&text}
}

// Reveal is the one way to the text itself.
func (s Secret) Reveal() string {
	if s.text == nil {
		return ""
	}
	return *s.text
}

// IsZero reports whether there is no text.
func (s Secret) IsZero() bool { return s.text == nil }

// String is the masked form.
func (s Secret) String() string {
	if s.IsZero() {
		return ""
	}
	return "****"
}

// Format prints the masked form for every verb.
func (s Secret) Format(f fmt.State, verb rune) {
	if verb == 'q' {
		fmt.Fprintf(f, "%q", s.String())
		return
	}
	_, _ = io.WriteString(f, s.String())
}

// MarshalText writes the masked form, for JSON and the like.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// LogValue logs the masked form.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }
