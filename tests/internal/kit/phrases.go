package kit

import (
	"strings"
	"testing"

	"github.com/polargate/polargate"
	"github.com/stretchr/testify/assert"
)

// Says asserts that a text for a person has one of the library's phrases, by its name. The
// phrase may begin with a capital letter there. What the phrases say is in
// testdata/messages.txt.
func Says(t *testing.T, text, phrase string) {
	t.Helper()
	english, known := polargate.Phrases()[polargate.Phrase(phrase)]
	if assert.True(t, known, "there is no phrase %q", phrase) {
		assert.Contains(t, strings.ToLower(text), strings.ToLower(strings.TrimSuffix(english, ".")))
	}
}
