package lease

import (
	"encoding/json"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// Readers of JSON differ in what they take: names twice, names in another case,
// numbers that do not fit, text that is no text. A signature is worth nothing when
// two readers see two things in what was signed. So there is exactly one way to
// write a payload, that of encode, and what was read is written again and compared.

// A spec is the name of a claim, and what its value has to be.
type spec struct {
	name string
	form form
	max  int // of a text, in bytes
}

type form byte

const (
	optional form = iota
	required
	optionalID // of letters, digits, dashes and underscores
	requiredID
	optionalVersion
)

const (
	maxID       = 64
	maxWord     = 100
	maxMachine  = 500
	maxKey      = 512
	maxFeatures = 100
	// maxTime is the last second of the year 9999. A huge number that means "never"
	// is read by some as a time long past; never is an absent claim.
	maxTime = 253402300799
	// maxSpan is 10 years.
	maxSpan = 3653 * 24 * 60 * 60
)

// encode writes a payload: the claims that have a value, in the order of specs. It
// also says which of them is not as it has to be; "" if all are. values are *string,
// *Secret, *[]string, *bool, *time.Time and *time.Duration; the times are rounded
// down to seconds where they are.
func encode(specs []spec, values []any) (payload, problem string) {
	b := make([]byte, 0, 640)
	for i, s := range specs {
		start := len(b)
		b = append(append(append(b, `,"`...), s.name...), `":`...)
		empty := len(b)
		var texts []string
		var n int64
		list, fine := false, true
		switch v := values[i].(type) {
		case *string:
			texts = []string{*v}
		case *Secret:
			texts = []string{v.Reveal()}
		case *[]string:
			texts, list = *v, true
			fine = len(texts) <= maxFeatures
		case *bool:
			if *v {
				b = append(b, "true"...)
			}
		case *time.Time:
			if n = seconds(*v); n > 0 {
				*v = time.Unix(n, 0).UTC()
			}
			fine = (n > 0 || v.IsZero() && s.form == optional) && n <= maxTime
		case *time.Duration:
			n = int64(*v / time.Second)
			*v = time.Duration(n) * time.Second
			fine = 0 <= n && n <= maxSpan
		}
		if n > 0 {
			b = strconv.AppendInt(b, n, 10)
		}
		for j, text := range texts {
			fine = fine && s.fits(text) && (text != "" || !list)
			if list {
				b = append(b, "[,"[min(j, 1)])
			}
			if text != "" {
				b = append(b, '"')
				for k := range len(text) {
					if text[k] == '"' || text[k] == '\\' {
						b = append(b, '\\')
					}
					b = append(b, text[k])
				}
				b = append(b, '"')
			}
		}
		if list && len(texts) > 0 {
			b = append(b, ']')
		}
		if !fine {
			problem = "claim " + s.name + " is missing, too long or out of bounds"
		}
		if len(b) == empty {
			b = b[:start]
		}
	}
	return "{" + strings.TrimPrefix(string(b), ",") + "}", problem
}

// seconds is a time as payloads have it, absent as 0.
func seconds(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.Unix()
}

// fits reports whether a text is as it has to be. What is shown to people has no
// control characters and no line breaks.
func (s spec) fits(text string) bool {
	if text == "" {
		return s.form != required && s.form != requiredID
	}
	fine := len(text) <= s.max && utf8.ValidString(text) && (s.form != optionalVersion || parseVersion(text) != nil)
	for _, c := range text {
		letter := 'a' <= c|0x20 && c|0x20 <= 'z' && c < 0x80 || '0' <= c && c <= '9' || c == '-' || c == '_'
		if c < ' ' || 0x7f <= c && c < 0xa0 || c == 0x2028 || c == 0x2029 || !letter && (s.form == optionalID || s.form == requiredID) {
			return false
		}
	}
	return fine
}

// decode reads a payload. Values that are not in it stay zero.
func decode(payload []byte, specs []spec, values []any) error {
	var members map[string]json.RawMessage
	if json.Unmarshal(payload, &members) != nil {
		return malformed("the payload is no JSON object")
	}
	for i, s := range specs {
		member := members[s.name]
		if member == nil {
			continue
		}
		// What goes wrong here is noticed below: it is not written again as it was.
		var n int64
		text := strings.Trim(string(member), `"`)
		if member[0] != '"' {
			n, _ = strconv.ParseInt(text, 10, 64)
		} else if strings.Contains(text, `\`) {
			_ = json.Unmarshal(member, &text)
		}
		switch v := values[i].(type) {
		case *string:
			*v = text
		case *Secret:
			*v = NewSecret(text)
		case *[]string:
			_ = json.Unmarshal(member, v)
		case *bool:
			*v = text == "true"
		case *time.Time:
			*v = time.Unix(n, 0).UTC()
		case *time.Duration:
			*v = time.Duration(n) * time.Second
		}
	}
	again, problem := encode(specs, values)
	if problem != "" {
		return malformed(problem)
	}
	if again != string(payload) {
		return malformed("the payload is not written as it has to be")
	}
	return nil
}
