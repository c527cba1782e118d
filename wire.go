package polargate

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/polargate/polargate/internal/redact"
	"github.com/polargate/polargate/internal/rights"
	"github.com/polargate/polargate/internal/wire"
)

// wireRequest is the body of the three license key endpoints. It has a key in the clear, so it
// is marshalled and dropped, never kept or printed.
type wireRequest struct {
	Key            string         `json:"key"`
	OrganizationID string         `json:"organization_id"`
	ActivationID   string         `json:"activation_id,omitempty"`
	BenefitID      string         `json:"benefit_id,omitempty"`
	CustomerID     string         `json:"customer_id,omitempty"`
	IncrementUsage int64          `json:"increment_usage,omitempty"`
	Label          *string        `json:"label,omitempty"` // required on activate, even empty
	Conditions     map[string]any `json:"conditions,omitempty"`
	Meta           map[string]any `json:"meta,omitempty"`
}

// canonicalUUID4 is the usual form of an id of Polar's; see package wire.
func canonicalUUID4(s string) (string, bool) { return wire.CanonicalUUID4(s) }

// normalUUID is the usual form of an id, or the id itself if it isn't a UUID.
func normalUUID(s string) string { return wire.NormalUUID(s) }

// usualUUID is normalUUID, in the caller's memory if that has the usual form.
func usualUUID(s string) string { return wire.UsualUUID(s) }

// checkMap checks conditions and meta against Polar's limits, so that a developer finds a
// mistake before a customer gets a 422.
func checkMap(field string, m map[string]any) error {
	bad := func(format string, args ...any) error {
		return &InputError{field, fmt.Sprintf(format, args...)}
	}
	if len(m) > 50 {
		return bad("has %d entries; Polar takes at most 50", len(m))
	}
	for name, value := range m {
		if n := utf8.RuneCountInString(name); n < 1 || n > 40 || !utf8.ValidString(name) || strings.ContainsRune(name, 0) {
			return bad("has a name of %d characters or with a NUL; Polar takes 1 to 40 characters", n)
		}
		switch v := value.(type) {
		case string:
			if n := utf8.RuneCountInString(v); n < 1 || n > 500 || !utf8.ValidString(v) || strings.ContainsRune(v, 0) {
				return bad("%q is a text of %d characters or with a NUL; Polar takes 1 to 500 characters", name, n)
			}
		case json.RawMessage:
			// A stored condition, which was checked when it was first sent.
			if !json.Valid(v) {
				return bad("%q is not JSON", name)
			}
		case bool, int, int8, int16, int32, int64, uint, uint8, uint16, uint32, uint64, float32, float64, json.Number:
			if _, err := json.Marshal(v); err != nil {
				return bad("%q is not a finite number", name)
			}
		default:
			return bad("%q is a %T; Polar takes text, numbers and true or false", name, value)
		}
	}
	return nil
}

// refusal is Polar's refusal of a request, in one of the shapes that Polar uses. OAuth's
// description and the router's bare detail have this shape, too; their empty fields tell them
// apart.
type refusal struct {
	Error  string
	Detail string
	// Faults are the parts of a 422: where and what, without the echoed input.
	Faults []string
	// Places are those in a list that was sent of what all the faults are about.
	Places []int
}

func parseRefusal(body []byte) (refusal, bool) {
	f, err := wire.Object(bytes.TrimSpace(body))
	if err != nil {
		return refusal{}, false
	}
	var r refusal
	f.Text("error", &r.Error)
	f.Text("detail", &r.Detail)
	if r.Detail == "" {
		f.Text("error_description", &r.Detail)
	}
	var faults []struct {
		Loc []any  `json:"loc"`
		Msg string `json:"msg"`
	}
	wire.Optional(f, "detail", &faults)
	for _, fault := range faults {
		if len(fault.Loc) < 3 { // "body", the name of the list, the place
			continue
		}
		if place, ok := fault.Loc[2].(float64); ok && place >= 0 && place < 1e6 && !slices.Contains(r.Places, int(place)) {
			r.Places = append(r.Places, int(place))
		}
	}
	for _, fault := range faults[:min(len(faults), 5)] {
		var where []string
		for _, step := range fault.Loc {
			where = append(where, fmt.Sprint(step))
		}
		r.Faults = append(r.Faults, strings.Join(where, ".")+": "+fault.Msg)
	}
	return r, true
}

// cleanText makes a text one line, without invisible characters.
func cleanText(s string) string {
	return strings.TrimSpace(strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, s))
}

// shorten cuts a text to n characters. The last one is then an ellipsis.
func shorten(s string, n int) string {
	if utf8.RuneCountInString(s) <= n {
		return s
	}
	return string([]rune(s)[:n-1]) + "…"
}

// cleanDetail makes a text from the network suitable for an error: one line, printable, short,
// and redacted.
func cleanDetail(s string, secrets ...string) string {
	return shorten(cleanText(redact.Text(s, secrets...)), 200)
}

// normalFeatures is a copy of a map of features with ids in their usual form, and the
// features of each sorted and without duplicates. Each benefit has those of any benefit, too.
func normalFeatures(given map[string][]string) map[string][]string {
	features := make(map[string][]string, len(given))
	for id, names := range given {
		id = normalUUID(id)
		names = append(features[id], names...)
		for i := range names {
			names[i] = strings.Clone(names[i])
		}
		features[id] = names
	}
	ofAny := features[rights.AnyBenefit]
	for id, names := range features {
		names = append(slices.Clip(names), ofAny...)
		slices.Sort(names)
		features[id] = slices.Compact(names)
	}
	return features
}

func checkFeatures(features map[string][]string) error {
	for id, names := range features {
		if _, ok := canonicalUUID4(id); !ok && id != rights.AnyBenefit {
			return &InputError{"Features", "has a key that is not a UUID of version 4: use the benefits' ids as Polar shows them, or AnyBenefit"}
		}
		if slices.Contains(names, "") {
			return &InputError{"Features", "has a feature without a name"}
		}
	}
	return nil
}
