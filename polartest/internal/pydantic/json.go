// Package pydantic reads and writes JSON, and checks values, as the Python server of Polar does.
// It promises the same values, texts, error messages and positions as in the recordings. It
// knows nothing of licenses and customers.
package pydantic

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/big"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// How Python reads JSON shows in Polar's answers: numbers with and without a fraction differ, big
// integers are exact, NaN is accepted, positions of errors count characters, and of two equal names
// the last one wins. encoding/json differs in each of these.
//
// Values are nil, bool, int64, *big.Int, float64, string, []any and *Object. A string can have lone
// surrogates, in the three bytes that UTF-8 forbids for them; utf8.ValidString recognizes them.

// Object is a JSON object that keeps the order of its names.
type Object struct {
	Names  []string
	Values map[string]any
}

// NewObject makes an object of names and values in turn.
func NewObject(pairs ...any) *Object {
	o := &Object{Values: make(map[string]any, len(pairs)/2)}
	for i := 0; i+1 < len(pairs); i += 2 {
		o.Set(pairs[i].(string), pairs[i+1])
	}
	return o
}

// Set adds a member, or replaces its value, and returns the object.
func (o *Object) Set(name string, value any) *Object {
	if _, there := o.Values[name]; !there {
		o.Names = append(o.Names, name)
	}
	o.Values[name] = value
	return o
}

// Get returns the value of a member.
func (o *Object) Get(name string) (any, bool) {
	v, ok := o.Values[name]
	return v, ok
}

// Plain is the object as a map, with big integers as json.Number.
func (o *Object) Plain() map[string]any {
	m := make(map[string]any, len(o.Names))
	for _, name := range o.Names {
		v := o.Values[name]
		if n, ok := v.(*big.Int); ok {
			v = json.Number(n.String())
		}
		m[name] = v
	}
	return m
}

// ErrUnreadable is the error for a body that is no text, or that Python refuses for its size. Polar
// answers it with 400, not 422.
var ErrUnreadable = errors.New("unreadable body")

// SyntaxError is an error with its position in characters.
type SyntaxError struct {
	Position int
	Message  string
}

func (e *SyntaxError) Error() string { return fmt.Sprintf("%s at %d", e.Message, e.Position) }

const (
	deepestJSON   = 990  // nesting that Python still reads
	LongestNumber = 4300 // digits that Python still turns into an integer
)

type jsonReader struct {
	text  string
	at    int
	depth int
}

// Read reads a whole body.
func Read(body []byte) (any, error) {
	text := strings.TrimPrefix(string(body), "\ufeff")
	if !validButForSurrogates(text) {
		return nil, ErrUnreadable
	}
	r := &jsonReader{text: text}
	r.space()
	v, err := r.value()
	if err != nil {
		return nil, err
	}
	r.space()
	if r.at != len(r.text) {
		return nil, r.fail("Extra data", r.at)
	}
	return v, nil
}

func validButForSurrogates(s string) bool {
	for len(s) > 0 {
		r, n := utf8.DecodeRuneInString(s)
		if r == utf8.RuneError && n <= 1 {
			if !surrogateAt(s) {
				return false
			}
			n = 3
		}
		s = s[n:]
	}
	return true
}

func surrogateAt(s string) bool {
	return len(s) >= 3 && s[0] == 0xED && s[1] >= 0xA0 && s[1] <= 0xBF && s[2] >= 0x80 && s[2] <= 0xBF
}

// CodePoints counts characters as Python does: a lone surrogate is one.
func CodePoints(s string) int {
	n := 0
	for len(s) > 0 {
		_, size := utf8.DecodeRuneInString(s)
		if size == 1 && surrogateAt(s) {
			size = 3
		}
		s = s[size:]
		n++
	}
	return n
}

func (r *jsonReader) fail(message string, at int) error {
	return &SyntaxError{Position: CodePoints(r.text[:at]), Message: message}
}

func (r *jsonReader) peek() byte {
	if r.at < len(r.text) {
		return r.text[r.at]
	}
	return 0
}

func (r *jsonReader) space() {
	for r.at < len(r.text) && strings.IndexByte(" \t\n\r", r.text[r.at]) >= 0 {
		r.at++
	}
}

func (r *jsonReader) value() (any, error) {
	if r.depth++; r.depth > deepestJSON {
		return nil, ErrUnreadable
	}
	defer func() { r.depth-- }()
	rest := r.text[r.at:]
	switch c := r.peek(); {
	case c == '{':
		return r.object()
	case c == '[':
		return r.array()
	case c == '"':
		return r.string()
	case c == '-' || c >= '0' && c <= '9':
		if strings.HasPrefix(rest, "-Infinity") {
			r.at += len("-Infinity")
			return math.Inf(-1), nil
		}
		return r.number()
	}
	for _, word := range []struct {
		text  string
		value any
	}{{"null", nil}, {"true", true}, {"false", false}, {"NaN", math.NaN()}, {"Infinity", math.Inf(1)}} {
		if strings.HasPrefix(rest, word.text) {
			r.at += len(word.text)
			return word.value, nil
		}
	}
	return nil, r.fail("Expecting value", r.at)
}

func (r *jsonReader) object() (any, error) {
	o := NewObject()
	r.at++
	r.space()
	if r.peek() == '}' {
		r.at++
		return o, nil
	}
	for {
		if r.peek() != '"' {
			return nil, r.fail("Expecting property name enclosed in double quotes", r.at)
		}
		name, err := r.string()
		if err != nil {
			return nil, err
		}
		r.space()
		if r.peek() != ':' {
			return nil, r.fail("Expecting ':' delimiter", r.at)
		}
		r.at++
		r.space()
		v, err := r.value()
		if err != nil {
			return nil, err
		}
		o.Set(name, v)
		done, err := r.next('}', "object")
		if done || err != nil {
			return o, err
		}
	}
}

func (r *jsonReader) array() (any, error) {
	list := []any{}
	r.at++
	r.space()
	if r.peek() == ']' {
		r.at++
		return list, nil
	}
	for {
		v, err := r.value()
		if err != nil {
			return nil, err
		}
		list = append(list, v)
		done, err := r.next(']', "array")
		if done || err != nil {
			return list, err
		}
	}
}

// next reads what is between two members, or the end of the container.
func (r *jsonReader) next(end byte, container string) (done bool, err error) {
	r.space()
	switch r.peek() {
	case end:
		r.at++
		return true, nil
	case ',':
		comma := r.at
		r.at++
		r.space()
		if r.peek() == end {
			return false, r.fail("Illegal trailing comma before end of "+container, comma)
		}
		return false, nil
	}
	return false, r.fail("Expecting ',' delimiter", r.at)
}

func (r *jsonReader) string() (string, error) {
	begin := r.at
	r.at++
	var b strings.Builder
	for {
		start := r.at
		for r.at < len(r.text) && r.text[r.at] != '"' && r.text[r.at] != '\\' && r.text[r.at] >= ' ' {
			r.at++
		}
		b.WriteString(r.text[start:r.at])
		if r.at >= len(r.text) {
			return "", r.fail("Unterminated string starting at", begin)
		}
		switch r.text[r.at] {
		case '"':
			r.at++
			return b.String(), nil
		case '\\':
			if err := r.escape(&b, begin); err != nil {
				return "", err
			}
		default:
			return "", r.fail("Invalid control character at", r.at)
		}
	}
}

func (r *jsonReader) escape(b *strings.Builder, begin int) error {
	at := r.at
	if at+1 >= len(r.text) {
		return r.fail("Unterminated string starting at", begin)
	}
	c := r.text[at+1]
	r.at += 2
	if c != 'u' {
		i := strings.IndexByte(`"\/bfnrt`, c)
		if i < 0 {
			return r.fail(`Invalid \escape: `, at)
		}
		b.WriteByte("\"\\/\b\f\n\r\t"[i])
		return nil
	}
	high, ok := r.hex4()
	if !ok {
		return r.fail(`Invalid \uXXXX escape`, at+1)
	}
	if high >= 0xD800 && high < 0xDC00 && strings.HasPrefix(r.text[r.at:], `\u`) {
		back := r.at
		r.at += 2
		if low, ok := r.hex4(); ok && low >= 0xDC00 && low < 0xE000 {
			b.WriteRune((high-0xD800)<<10 + (low - 0xDC00) + 0x10000)
			return nil
		}
		r.at = back
	}
	if high >= 0xD800 && high < 0xE000 {
		b.Write([]byte{0xE0 | byte(high>>12), 0x80 | byte(high>>6)&0x3F, 0x80 | byte(high)&0x3F})
		return nil
	}
	b.WriteRune(high)
	return nil
}

func (r *jsonReader) hex4() (rune, bool) {
	if r.at+4 > len(r.text) {
		return 0, false
	}
	n, err := strconv.ParseUint(r.text[r.at:r.at+4], 16, 32)
	if err != nil {
		return 0, false
	}
	r.at += 4
	return rune(n), true
}

func (r *jsonReader) number() (any, error) {
	start := r.at
	digits := func() int {
		from := r.at
		for r.at < len(r.text) && r.text[r.at] >= '0' && r.text[r.at] <= '9' {
			r.at++
		}
		return r.at - from
	}
	if r.peek() == '-' {
		r.at++
	}
	if r.peek() == '0' {
		r.at++
	} else if digits() == 0 {
		r.at = start
		return nil, r.fail("Expecting value", start)
	}
	whole := true
	if mark := r.at; r.peek() == '.' {
		r.at++
		if digits() == 0 {
			r.at = mark
		} else {
			whole = false
		}
	}
	if mark := r.at; r.peek() == 'e' || r.peek() == 'E' {
		r.at++
		if c := r.peek(); c == '+' || c == '-' {
			r.at++
		}
		if digits() == 0 {
			r.at = mark
		} else {
			whole = false
		}
	}
	text := r.text[start:r.at]
	if !whole {
		f, _ := strconv.ParseFloat(text, 64) // too big is infinite, in Python as well
		return f, nil
	}
	if n, err := strconv.ParseInt(text, 10, 64); err == nil {
		return n, nil
	}
	if len(strings.TrimPrefix(text, "-")) > LongestNumber {
		return nil, ErrUnreadable
	}
	n, _ := new(big.Int).SetString(text, 10)
	return n, nil
}

// ErrUnprintable is the error for a value that Polar can't write as JSON: it answers 500.
var ErrUnprintable = errors.New("value cannot be written as JSON")

// Print writes a value as Polar does. Maps are in the order of Polar's database.
func Print(v any) ([]byte, error) { return appendJSON(nil, v) }

func appendJSON(b []byte, v any) ([]byte, error) {
	switch v := v.(type) {
	case nil:
		return append(b, "null"...), nil
	case bool:
		return strconv.AppendBool(b, v), nil
	case int:
		return strconv.AppendInt(b, int64(v), 10), nil
	case int64:
		return strconv.AppendInt(b, v, 10), nil
	case *big.Int:
		return v.Append(b, 10), nil
	case json.Number:
		return append(b, v...), nil
	case float64:
		return appendFloat(b, v)
	case string:
		return appendString(b, v)
	case []any:
		b = append(b, '[')
		var err error
		for i, e := range v {
			if i > 0 {
				b = append(b, ',')
			}
			if b, err = appendJSON(b, e); err != nil {
				return nil, err
			}
		}
		return append(b, ']'), nil
	case map[string]any:
		o := NewObject()
		for _, name := range SortedNames(v) {
			o.Set(name, v[name])
		}
		return appendJSON(b, o)
	case *Object:
		b = append(b, '{')
		var err error
		for i, name := range v.Names {
			if i > 0 {
				b = append(b, ',')
			}
			if b, err = appendString(b, name); err != nil {
				return nil, err
			}
			b = append(b, ':')
			if b, err = appendJSON(b, v.Values[name]); err != nil {
				return nil, err
			}
		}
		return append(b, '}'), nil
	}
	panic(fmt.Sprintf("no JSON for a %T", v))
}

// SortedNames are the names in the order of PostgreSQL's jsonb: short names first.
func SortedNames(m map[string]any) []string {
	names := make([]string, 0, len(m))
	for name := range m {
		names = append(names, name)
	}
	slices.SortFunc(names, func(a, b string) int {
		if len(a) != len(b) {
			return len(a) - len(b)
		}
		return strings.Compare(a, b)
	})
	return names
}

// appendFloat writes a float with a fraction or an exponent, always, as Python does.
func appendFloat(b []byte, f float64) ([]byte, error) {
	if math.IsNaN(f) || math.IsInf(f, 0) {
		return nil, ErrUnprintable
	}
	format := byte('f')
	if a := math.Abs(f); a != 0 && (a < 1e-4 || a >= 1e16) {
		format = 'e'
	}
	start := len(b)
	b = strconv.AppendFloat(b, f, format, -1, 64)
	if format == 'f' && !bytes.ContainsRune(b[start:], '.') {
		b = append(b, ".0"...)
	}
	return b, nil
}

func appendString(b []byte, s string) ([]byte, error) {
	if !utf8.ValidString(s) {
		return nil, ErrUnprintable
	}
	b = append(b, '"')
	for i := range len(s) {
		switch c := s[i]; {
		case c == '"' || c == '\\':
			b = append(b, '\\', c)
		case c >= ' ':
			b = append(b, c)
		case strings.IndexByte("\b\f\n\r\t", c) >= 0:
			b = append(b, '\\', "bfnrt"[strings.IndexByte("\b\f\n\r\t", c)])
		default:
			b = fmt.Appendf(b, `\u%04x`, c)
		}
	}
	return append(b, '"'), nil
}
