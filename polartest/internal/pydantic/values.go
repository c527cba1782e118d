package pydantic

import (
	"fmt"
	"math"
	"math/big"
	"regexp"
	"strings"
	"time"
	"unicode/utf8"
)

// Problem is one entry of a 422's detail.
type Problem struct {
	Kind    string
	Loc     []any
	Message string
	Input   any
	Ctx     *Object
}

// Object is the entry as JSON.
func (p Problem) Object() *Object {
	o := NewObject("type", p.Kind, "loc", p.Loc, "msg", p.Message, "input", p.Input)
	if p.Ctx != nil {
		o.Set("ctx", p.Ctx)
	}
	return o
}

// Text says what is wrong with a string; kind is empty if nothing is.
func Text(s string) (kind, message string, ctx *Object) {
	switch {
	case !utf8.ValidString(s):
		return "string_unicode", "Input should be a valid string, unable to parse raw data as a unicode string", nil
	case strings.ContainsRune(s, 0):
		return "value_error", "Value error, This value contains invalid characters", NewObject("error", NewObject())
	}
	return "", "", nil
}

var wholeNumber = regexp.MustCompile(`^\s*([+-]?)([0-9]+(?:_[0-9]+)*)(?:\.0+)?\s*$`)

// Integer reads what Polar accepts as an integer: 2, 2.0, "2" and true.
func Integer(v any) (n *big.Int, kind, message string) {
	switch v := v.(type) {
	case int64:
		return big.NewInt(v), "", ""
	case *big.Int:
		return v, "", ""
	case bool:
		if v {
			return big.NewInt(1), "", ""
		}
		return big.NewInt(0), "", ""
	case float64:
		if math.IsInf(v, 0) || math.IsNaN(v) {
			return nil, "finite_number", "Input should be a finite number"
		}
		if v != math.Trunc(v) {
			return nil, "int_from_float", "Input should be a valid integer, got a number with a fractional part"
		}
		n, _ := big.NewFloat(v).Int(nil)
		return n, "", ""
	case string:
		m := wholeNumber.FindStringSubmatch(v)
		if m == nil {
			return nil, "int_parsing", "Input should be a valid integer, unable to parse string as an integer"
		}
		digits := strings.ReplaceAll(m[2], "_", "")
		if len(digits) > LongestNumber {
			return nil, "int_parsing_size", "Unable to parse input string as an integer, exceeded maximum size"
		}
		n, _ := new(big.Int).SetString(m[1]+digits, 10)
		return n, "", ""
	}
	return nil, "int_type", "Input should be a valid integer"
}

// SizedText is Text for a string of 1 to most characters.
func SizedText(s string, most int) (kind, message string, ctx *Object) {
	if kind, message, ctx := Text(s); kind != "" {
		return kind, message, ctx
	}
	switch n := CodePoints(s); {
	case n < 1:
		return "string_too_short", "String should have at least 1 character", NewObject("min_length", 1)
	case n > most:
		return "string_too_long", fmt.Sprintf("String should have at most %d characters", most), NewObject("max_length", most)
	}
	return "", "", nil
}

var (
	dateTime = regexp.MustCompile(`^(\d{4}-\d{2}-\d{2})[Tt _](\d{2}:\d{2})(:\d{2})?(?:[.,](\d{1,9}))?\s*([Zz]|[+-]\d{2}:?\d{2})?$`)
	dateOnly = regexp.MustCompile(`^\d{4}-\d{2}-\d{2}$`)
)

// Instant reads a time. echo is how Polar repeats it in its answer to the request: with the zone that
// was sent, or without one. why says what is wrong with it.
func Instant(s string) (at time.Time, echo, why string) {
	if dateOnly.MatchString(s) {
		at, err := time.Parse(time.DateOnly, s)
		if err != nil {
			return time.Time{}, "", "day value is outside expected range"
		}
		return at, s + "T00:00:00", ""
	}
	if len(s) < len(time.DateOnly) {
		return time.Time{}, "", "input is too short"
	}
	m := dateTime.FindStringSubmatch(s)
	if m == nil {
		return time.Time{}, "", "unexpected extra characters at the end of the input"
	}
	seconds, micros, zone := m[3], (m[4] + "000000")[:6], strings.ToUpper(m[5])
	if seconds == "" {
		seconds = ":00"
	}
	local := m[1] + "T" + m[2] + seconds
	if strings.Trim(micros, "0") != "" {
		local += "." + micros
	}
	offset := zone
	switch {
	case zone == "":
		offset = "Z" // Polar's database counts in UTC
	case len(zone) == len("+0000"):
		zone = zone[:3] + ":" + zone[3:]
		offset = zone
	}
	at, err := time.Parse(time.RFC3339Nano, local+offset)
	if err != nil {
		return time.Time{}, "", "value is outside expected range"
	}
	if zone == "+00:00" || zone == "-00:00" {
		zone = "Z"
	}
	return at.UTC(), local + zone, ""
}

// Dashed is the UUID of 32 hexadecimal digits.
func Dashed(digits string) string {
	return digits[:8] + "-" + digits[8:12] + "-" + digits[12:16] + "-" + digits[16:20] + "-" + digits[20:]
}

// UUID reads the four spellings that Polar accepts (plain, dashed, in braces, as a URN; either
// case) into the usual one. problem says what is wrong, in Polar's words, and is empty if nothing is.
func UUID(s string) (id, problem string) {
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
		case r >= utf8.RuneSelf || !IsHexDigit(byte(r)):
			return "", fmt.Sprintf("invalid character: found `%c` at %d", r, i)
		}
	}
	switch {
	case dashes == 0 && len(inner) == 32 && plain:
		return Dashed(strings.ToLower(inner)), ""
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

// IsHexDigit reports whether c is a hexadecimal digit.
func IsHexDigit(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'f' || c >= 'A' && c <= 'F'
}

// IsVersion4 reports whether a UUID as UUID returns it is of version 4.
func IsVersion4(id string) bool { return id[14] == '4' }

// EqualConditions compares as Python does: 1, 1.0 and true are equal, "1" is not.
func EqualConditions(a, b map[string]any) bool {
	if len(a) != len(b) {
		return false
	}
	for name, v := range a {
		w, ok := b[name]
		if !ok || !equalValues(v, w) {
			return false
		}
	}
	return true
}

func equalValues(a, b any) bool {
	s, aText := a.(string)
	t, bText := b.(string)
	if aText || bText {
		return aText && bText && s == t
	}
	m, n := ExactNumber(a), ExactNumber(b)
	if m == nil || n == nil { // not finite
		f, ok := a.(float64)
		g, also := b.(float64)
		return ok && also && f == g
	}
	return m.Cmp(n) == 0
}

// ExactNumber is the value of a number or a boolean, or nil if it is not finite.
func ExactNumber(v any) *big.Rat {
	switch v := v.(type) {
	case bool:
		if v {
			return big.NewRat(1, 1)
		}
		return new(big.Rat)
	case int64:
		return new(big.Rat).SetInt64(v)
	case float64:
		return new(big.Rat).SetFloat64(v)
	default:
		n, ok := new(big.Rat).SetString(fmt.Sprint(v))
		if !ok {
			return nil
		}
		return n
	}
}

// PrintTime writes a time as Polar does, with six digits of a fraction or none.
func PrintTime(t time.Time) string {
	t = t.UTC().Truncate(time.Microsecond)
	if t.Nanosecond() == 0 {
		return t.Format("2006-01-02T15:04:05Z")
	}
	return t.Format("2006-01-02T15:04:05.000000Z")
}

// PrintTimeOrNull is PrintTime, or nil for the zero time.
func PrintTimeOrNull(t time.Time) any {
	if t.IsZero() {
		return nil
	}
	return PrintTime(t)
}
