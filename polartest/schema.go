package polartest

import (
	"fmt"
	"math"
	"math/big"
	"slices"
	"time"

	"github.com/polargate/polargate/polartest/internal/pydantic"
)

type object = pydantic.Object

type problem = pydantic.Problem

func newProblem(kind string, loc []any, message string, input any, ctx *object) problem {
	return problem{Kind: kind, Loc: loc, Message: message, Input: input, Ctx: ctx}
}

func newObject(pairs ...any) *object { return pydantic.NewObject(pairs...) }

// form reads the fields of one request, in the order in which Polar's schema has them, and collects
// what is wrong with them.
type form struct {
	fields   *object
	place    string // "body", "path" or "query"
	problems []problem
}

func (f *form) complain(name, kind, message string, input any, ctx *object) {
	f.problems = append(f.problems, newProblem(kind, []any{f.place, name}, message, input, ctx))
}

// required gives the value of a field that has to be there, null or not.
func (f *form) required(name string) (any, bool) {
	v, ok := f.fields.Get(name)
	if !ok {
		f.complain(name, "missing", "Field required", f.fields, nil)
	}
	return v, ok
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
	if kind, message, ctx := pydantic.Text(s); kind != "" {
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
	v, ok := f.fields.Get(name)
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
	id, problem := pydantic.UUID(s)
	switch {
	case problem != "":
		f.complain(name, "uuid_parsing", "Input should be a valid UUID, "+problem, v, newObject("error", problem))
	case !pydantic.IsVersion4(id):
		f.complain(name, "uuid_version", "UUID version 4 expected", v, newObject("expected_version", 4))
	default:
		return id
	}
	return ""
}

// bound is a limit of an integer field. They are looked at in the order given.
type bound struct {
	kind  string // "le", "ge" or "gt"
	value int64
}

func (f *form) integer(name string, v any, bounds ...bound) *big.Int {
	n, kind, message := pydantic.Integer(v)
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
	v, ok := f.fields.Get(name)
	if !ok {
		return newObject()
	}
	o, ok := v.(*object)
	if !ok {
		f.complain(name, "dict_type", "Input should be a valid dictionary", v, nil)
		return nil
	}
	if len(o.Names) > mostEntries {
		f.complain(name, "too_long",
			fmt.Sprintf("Dictionary should have at most %d items after validation, not %d", mostEntries, len(o.Names)),
			v, newObject("field_type", "Dictionary", "max_length", mostEntries, "actual_length", len(o.Names)))
		return nil
	}
	for _, entry := range o.Names {
		at := func(what string) []any { return []any{f.place, name, entry, what} }
		if kind, message, ctx := pydantic.SizedText(entry, longestName); kind != "" {
			f.problems = append(f.problems, newProblem(kind, at("[key]"), message, entry, ctx))
		}
		switch value := o.Values[entry].(type) {
		case bool, int64, *big.Int, float64:
		case string:
			kind, message, ctx := pydantic.SizedText(value, longestValue)
			if kind == "" {
				continue
			}
			// Polar names every type that the value could have been
			f.problems = append(f.problems,
				newProblem(kind, at("constrained-str"), message, value, ctx),
				newProblem("int_parsing", at("int"), "Input should be a valid integer, unable to parse string as an integer", value, nil),
				newProblem("float_parsing", at("float"), "Input should be a valid number, unable to parse string as a number", value, nil),
				newProblem("bool_parsing", at("bool"), "Input should be a valid boolean, unable to interpret input", value, nil))
		default:
			f.problems = append(f.problems,
				newProblem("string_type", at("constrained-str"), "Input should be a valid string", value, nil),
				newProblem("int_type", at("int"), "Input should be a valid integer", value, nil),
				newProblem("float_type", at("float"), "Input should be a valid number", value, nil),
				newProblem("bool_type", at("bool"), "Input should be a valid boolean", value, nil))
		}
	}
	return o
}

// status reads the status of a license key; "" if it is not one.
func (f *form) status(name string, v any) string {
	s, ok := v.(string)
	if !ok || !slices.Contains(statuses, s) {
		p := unlikeStatus(v)
		f.complain(name, p.Kind, p.Message, v, p.Ctx)
		return ""
	}
	return s
}

func unlikeStatus(v any) problem {
	const expected = "'granted', 'revoked' or 'disabled'"
	return newProblem("enum", nil, "Input should be "+expected, v, newObject("expected", expected))
}

// instant reads expires_at. echo is how Polar repeats it in the answer to this one request: with the
// zone that was sent, or without any.
func (f *form) instant(name string, v any) (at time.Time, echo string) {
	var seconds float64
	switch v := v.(type) {
	case string:
		at, echo, why := pydantic.Instant(v)
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
	return at, pydantic.PrintTime(at)
}

// pageNumber reads page or limit from the query.
func (f *form) pageNumber(name string, fallback int64) *big.Int {
	v, ok := f.fields.Get(name)
	if !ok {
		return big.NewInt(fallback)
	}
	return f.integer(name, v, bound{"gt", 0})
}
