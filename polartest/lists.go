package polartest

import (
	"fmt"
	"math"
	"math/big"
	"slices"
	"strings"
)

// largestPage is what Polar cuts a larger limit down to, without a word.
const largestPage = 100

// answerPage reads page and limit, after the filters that f has read already, and answers with that
// part of what find finds.
func answerPage[T any](f *form, find func() []T, describe func(T) *object) *answer {
	page, limit := f.pageNumber("page", 1), f.pageNumber("limit", 10)
	if len(f.problems) > 0 {
		return unprocessable(f.problems)
	}
	if !page.IsInt64() || page.Int64() > math.MaxInt64/largestPage {
		return serverError() // beyond what the database takes for an offset
	}
	size := int64(largestPage)
	if limit.Cmp(big.NewInt(size)) < 0 {
		size = limit.Int64()
	}
	found := find()
	total := int64(len(found))
	from := min((page.Int64()-1)*size, total)
	items := []any{}
	for _, one := range found[from:min(from+size, total)] {
		items = append(items, describe(one))
	}
	return ok(newObject("items", items,
		"pagination", newObject("total_count", total, "max_page", (total+size-1)/size)))
}

// filter is a parameter of a list that may be given several times. Without values all pass.
type filter []string

func (f filter) passes(value string) bool { return len(f) == 0 || slices.Contains(f, value) }

// uuids reads a filter of identifiers.
func (f *form) uuids(c *call, name string) filter {
	return f.several(c, name, "uuid", (*form).readUUID, func(v any) problem {
		return newProblem("uuid_type", nil, "UUID input should be a string, bytes or UUID object", v, nil)
	})
}

// several reads a parameter that may be given once or several times. Polar's schema says so with a
// union of one value and a list, and a 422 complains about both.
func (f *form) several(c *call, name, kind string, read func(*form, string, any) string, alone func(any) problem) filter {
	var out filter
	inner := &form{fields: newObject(), place: f.place}
	var list []any
	var problems []problem
	for i, v := range c.query()[name] {
		list = append(list, v)
		inner.problems = nil
		out = append(out, read(inner, name, v))
		for _, p := range inner.problems {
			p.Loc = []any{f.place, name, fmt.Sprintf("json-or-python[json=list[%s],python=chain[is-instance[Sequence],function-wrap[sequence_validator()]]]", kind), i}
			problems = append(problems, p)
		}
	}
	if len(problems) > 0 {
		first := alone(list)
		first.Loc = []any{f.place, name, kind}
		f.problems = append(append(f.problems, first), problems...)
	}
	return out
}

// texts reads a filter of free text.
func (f *form) texts(c *call, name string) filter { return filter(c.query()[name]) }

// flag reads a boolean of the query; nil if it is not there.
func (f *form) flag(name string) *bool {
	v, ok := f.fields.Get(name)
	if !ok {
		return nil
	}
	switch v {
	case "true", "True", "TRUE", "t", "T", "1", "yes", "Yes", "YES", "y", "Y", "on", "On", "ON":
		return new(true)
	case "false", "False", "FALSE", "f", "F", "0", "no", "No", "NO", "n", "N", "off", "Off", "OFF":
		return new(false)
	}
	f.complain(name, "bool_parsing", "Input should be a valid boolean, unable to interpret input", v, nil)
	return nil
}

// orders are the orders in which a list can be had, by name.
type orders[T any] map[string]func(a, b T) int

// sorting reads the order of a list, and gives what brings it into that order. Without one it stays
// as it is.
func sorting[T any](f *form, c *call, by orders[T]) func([]T) []T {
	var steps []func(a, b T) int
	for _, name := range c.query()["sorting"] {
		column, descending := strings.CutPrefix(name, "-")
		order := by[column]
		if order == nil {
			f.complain("sorting", "enum", "Input should be a valid sorting criterion", name, nil)
			continue
		}
		if descending {
			steps = append(steps, func(a, b T) int { return order(b, a) })
			continue
		}
		steps = append(steps, order)
	}
	return func(list []T) []T {
		slices.SortStableFunc(list, func(a, b T) int {
			for _, order := range steps {
				if n := order(a, b); n != 0 {
					return n
				}
			}
			return 0
		})
		return list
	}
}
