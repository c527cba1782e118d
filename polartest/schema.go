package polartest

import (
	"fmt"
	"math"
	"math/big"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// problem is one entry of a 422's detail.
type problem struct {
	kind    string
	loc     []any
	message string
	input   any
	ctx     *object
}

func (p problem) object() *object {
	o := newObject("type", p.kind, "loc", p.loc, "msg", p.message, "input", p.input)
	if p.ctx != nil {
		o.set("ctx", p.ctx)
	}
	return o
}

// form reads the fields of one request, in the order in which Polar's schema has them, and collects
// what is wrong with them.
type form struct {
	fields   *object
	place    string // "body", "path" or "query"
	problems []problem
}

func (f *form) complain(name, kind, message string, input any, ctx *object) {
	f.problems = append(f.problems, problem{kind, []any{f.place, name}, message, input, ctx})
}

// required gives the value of a field that has to be there, null or not.
func (f *form) required(name string) (any, bool) {
	v, ok := f.fields.get(name)
	if !ok {
		f.complain(name, "missing", "Field required", f.fields, nil)
	}
	return v, ok
}

// textProblem is what is wrong with any string that Polar reads; kind is empty if nothing is.
func textProblem(s string) (kind, message string, ctx *object) {
	switch {
	case !utf8.ValidString(s):
		return "string_unicode", "Input should be a valid string, unable to parse raw data as a unicode string", nil
	case strings.ContainsRune(s, 0):
		return "value_error", "Value error, This value contains invalid characters", newObject("error", newObject())
	}
	return "", "", nil
}

func (f *form) text(name string) string {
	v, ok := f.required(name)
	if !ok {
		return ""
	}
	s, ok := v.(string)
	if !ok {
		f.complain(name, "string_type", "Input should be a valid string", v, nil)
		return ""
	}
	if kind, message, ctx := textProblem(s); kind != "" {
		f.complain(name, kind, message, s, ctx)
	}
	return s
}

func (f *form) uuid(name string) string {
	v, ok := f.required(name)
	if !ok {
		return ""
	}
	return f.readUUID(name, v)
}

// uuidOrNull gives "" for null and for a field that is not there.
func (f *form) uuidOrNull(name string) string {
	v, ok := f.fields.get(name)
	if !ok || v == nil {
		return ""
	}
	return f.readUUID(name, v)
}

func (f *form) readUUID(name string, v any) string {
	s, ok := v.(string)
	if !ok {
		f.complain(name, "uuid_type", "UUID input should be a string, bytes or UUID object", v, nil)
		return ""
	}
	id, problem := parseUUID(s)
	switch {
	case problem != "":
		f.complain(name, "uuid_parsing", "Input should be a valid UUID, "+problem, v, newObject("error", problem))
	case !isVersion4(id):
		f.complain(name, "uuid_version", "UUID version 4 expected", v, newObject("expected_version", 4))
	default:
		return id
	}
	return ""
}

var wholeNumber = regexp.MustCompile(`^\s*([+-]?)([0-9]+(?:_[0-9]+)*)(?:\.0+)?\s*$`)

// readInteger takes what Polar takes for an integer: 2, 2.0, "2" and true.
func readInteger(v any) (n *big.Int, kind, message string) {
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
		if len(digits) > longestNumber {
			return nil, "int_parsing_size", "Unable to parse input string as an integer, exceeded maximum size"
		}
		n, _ := new(big.Int).SetString(m[1]+digits, 10)
		return n, "", ""
	}
	return nil, "int_type", "Input should be a valid integer"
}

// bound is a limit of an integer field. They are looked at in the order given.
type bound struct {
	kind  string // "le", "ge" or "gt"
	value int64
}

func (f *form) integer(name string, v any, bounds ...bound) *big.Int {
	n, kind, message := readInteger(v)
	if kind != "" {
		f.complain(name, kind, message, v, nil)
		return nil
	}
	for _, b := range bounds {
		order := n.Cmp(big.NewInt(b.value))
		ctx := newObject(b.kind, b.value)
		switch {
		case b.kind == "le" && order > 0:
			f.complain(name, "less_than_equal", fmt.Sprintf("Input should be less than or equal to %d", b.value), v, ctx)
		case b.kind == "ge" && order < 0:
			f.complain(name, "greater_than_equal", fmt.Sprintf("Input should be greater than or equal to %d", b.value), v, ctx)
		case b.kind == "gt" && order <= 0:
			f.complain(name, "greater_than", fmt.Sprintf("Input should be greater than %d", b.value), v, ctx)
		default:
			continue
		}
		return nil
	}
	return n
}

// Limits of conditions and meta.
const (
	mostEntries  = 50
	longestName  = 40
	longestValue = 500
)

// entries reads conditions or meta. A field that is not there is empty; null is wrong.
func (f *form) entries(name string) *object {
	v, ok := f.fields.get(name)
	if !ok {
		return newObject()
	}
	o, ok := v.(*object)
	if !ok {
		f.complain(name, "dict_type", "Input should be a valid dictionary", v, nil)
		return nil
	}
	if len(o.names) > mostEntries {
		f.complain(name, "too_long",
			fmt.Sprintf("Dictionary should have at most %d items after validation, not %d", mostEntries, len(o.names)),
			v, newObject("field_type", "Dictionary", "max_length", mostEntries, "actual_length", len(o.names)))
		return nil
	}
	for _, entry := range o.names {
		at := func(what string) []any { return []any{f.place, name, entry, what} }
		if kind, message, ctx := sizedText(entry, longestName); kind != "" {
			f.problems = append(f.problems, problem{kind, at("[key]"), message, entry, ctx})
		}
		switch value := o.values[entry].(type) {
		case bool, int64, *big.Int, float64:
		case string:
			kind, message, ctx := sizedText(value, longestValue)
			if kind == "" {
				continue
			}
			// Polar names every type that the value could have been
			f.problems = append(f.problems,
				problem{kind, at("constrained-str"), message, value, ctx},
				problem{"int_parsing", at("int"), "Input should be a valid integer, unable to parse string as an integer", value, nil},
				problem{"float_parsing", at("float"), "Input should be a valid number, unable to parse string as a number", value, nil},
				problem{"bool_parsing", at("bool"), "Input should be a valid boolean, unable to interpret input", value, nil})
		default:
			f.problems = append(f.problems,
				problem{"string_type", at("constrained-str"), "Input should be a valid string", value, nil},
				problem{"int_type", at("int"), "Input should be a valid integer", value, nil},
				problem{"float_type", at("float"), "Input should be a valid number", value, nil},
				problem{"bool_type", at("bool"), "Input should be a valid boolean", value, nil})
		}
	}
	return o
}

func sizedText(s string, most int) (kind, message string, ctx *object) {
	if kind, message, ctx := textProblem(s); kind != "" {
		return kind, message, ctx
	}
	switch n := codePoints(s); {
	case n < 1:
		return "string_too_short", "String should have at least 1 character", newObject("min_length", 1)
	case n > most:
		return "string_too_long", fmt.Sprintf("String should have at most %d characters", most), newObject("max_length", most)
	}
	return "", "", nil
}

// status reads the status of a license key; "" if it is not one.
func (f *form) status(name string, v any) string {
	s, ok := v.(string)
	if !ok || !slices.Contains(statuses, s) {
		p := unlikeStatus(v)
		f.complain(name, p.kind, p.message, v, p.ctx)
		return ""
	}
	return s
}

func unlikeStatus(v any) problem {
	const expected = "'granted', 'revoked' or 'disabled'"
	return problem{"enum", nil, "Input should be " + expected, v, newObject("expected", expected)}
}

var (
	dateTime = regexp.MustCompile(`^(\d{4}-\d{2}-\d{2})[Tt _](\d{2}:\d{2})(:\d{2})?(?:[.,](\d{1,9}))?\s*([Zz]|[+-]\d{2}:?\d{2})?$`)
	dateOnly = regexp.MustCompile(`^\d{4}-\d{2}-\d{2}$`)
)

// instant reads expires_at. echo is how Polar repeats it in the answer to this one request: with the
// zone that was sent, or without any.
func (f *form) instant(name string, v any) (at time.Time, echo string) {
	var seconds float64
	switch v := v.(type) {
	case string:
		at, echo, why := parseInstant(v)
		if why != "" {
			f.complain(name, "datetime_from_date_parsing", "Input should be a valid datetime or date, "+why, v, newObject("error", why))
		}
		return at, echo
	case int64:
		seconds = float64(v)
	case float64:
		seconds = v
	default:
		f.complain(name, "datetime_type", "Input should be a valid datetime", v, nil)
		return time.Time{}, ""
	}
	if math.Abs(seconds) > 2e10 { // so big a number is in milliseconds
		seconds /= 1000
	}
	if !(math.Abs(seconds) < 253402300800) {
		const why = "dates after 9999 are not supported as unix timestamps"
		f.complain(name, "datetime_parsing", "Input should be a valid datetime, "+why, v, newObject("error", why))
		return time.Time{}, ""
	}
	at = time.UnixMicro(int64(math.Round(seconds * 1e6))).UTC()
	return at, printTime(at)
}

func parseInstant(s string) (at time.Time, echo, why string) {
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

// pageNumber reads page or limit from the query.
func (f *form) pageNumber(name string, fallback int64) *big.Int {
	v, ok := f.fields.get(name)
	if !ok {
		return big.NewInt(fallback)
	}
	return f.integer(name, v, bound{"gt", 0})
}

// equalConditions compares as Python does: 1, 1.0 and true are equal, "1" is not.
func equalConditions(a, b map[string]any) bool {
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
	m, n := exactNumber(a), exactNumber(b)
	if m == nil || n == nil { // not finite
		f, ok := a.(float64)
		g, also := b.(float64)
		return ok && also && f == g
	}
	return m.Cmp(n) == 0
}

func exactNumber(v any) *big.Rat {
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

// printTime writes a time as Polar does: six digits of fraction or none.
func printTime(t time.Time) string {
	t = t.UTC().Truncate(time.Microsecond)
	if t.Nanosecond() == 0 {
		return t.Format("2006-01-02T15:04:05Z")
	}
	return t.Format("2006-01-02T15:04:05.000000Z")
}

func printTimeOrNull(t time.Time) any {
	if t.IsZero() {
		return nil
	}
	return printTime(t)
}
