package polargate

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/polargate/polargate/internal/redact"
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

// fields are the members of a JSON object. They are read one by one, so that the others can
// still be read if one has another type than expected.
type fields map[string]json.RawMessage

func object(data []byte) (fields, error) {
	var f fields
	if err := json.Unmarshal(data, &f); err != nil {
		return nil, err
	}
	if f == nil {
		return nil, errors.New("not a JSON object")
	}
	return f, nil
}

// optional reads a member into to, and leaves to as it is if any of that fails.
func optional[T any](f fields, name string, to *T) {
	var v T
	if raw, ok := f[name]; ok && string(raw) != "null" && json.Unmarshal(raw, &v) == nil {
		*to = v
	}
}

func (f fields) text(name string, to *string) { optional(f, name, to) }

// list reads a list of objects; null is an empty one. An entry that is no object is left out.
// A member that is missing or not a list is an error.
func (f fields) list(name string) ([]fields, error) {
	var entries []json.RawMessage
	if err := json.Unmarshal(f[name], &entries); err != nil {
		return nil, fmt.Errorf("field %q is missing or no list", name)
	}
	var all []fields
	for _, entry := range entries {
		if one, err := object(entry); err == nil {
			all = append(all, one)
		}
	}
	return all, nil
}

// compact is JSON without white space; "{}" if it isn't JSON.
func compact(raw json.RawMessage) string {
	var b bytes.Buffer
	if json.Compact(&b, raw) != nil || b.Len() == 0 {
		return "{}"
	}
	return b.String()
}

func (f fields) time(name string, to *time.Time) {
	if raw, ok := f[name]; ok {
		*to, _ = parseTime(raw)
	}
}

// parseTime reads Polar's times: RFC 3339, and also the same without a zone, which means UTC, and
// a bare date, because Polar's answer to a PATCH repeats what was sent.
func parseTime(raw json.RawMessage) (time.Time, error) {
	var s string
	if err := json.Unmarshal(raw, &s); err != nil {
		return time.Time{}, errors.New("time is no text")
	}
	for _, layout := range []string{time.RFC3339, "2006-01-02T15:04:05", time.DateOnly} {
		t, err := time.Parse(layout, s)
		// In UTC, the year may be one that can't be written again.
		if t = t.UTC(); err == nil && t.Year() >= 0 && t.Year() <= 9999 {
			return t, nil
		}
	}
	return time.Time{}, errors.New("time is in no known form")
}

// canonicalUUID4 returns the usual form, in lower case and with dashes, of a UUID of version 4.
// Polar accepts no other version as an id.
func canonicalUUID4(s string) (string, bool) {
	plain := strings.ToLower(strings.ReplaceAll(s, "-", ""))
	if len(plain) != 32 || len(s) != 32 && len(s) != 36 {
		return "", false
	}
	if _, err := hex.DecodeString(plain); err != nil {
		return "", false
	}
	if plain[12] != '4' || !strings.ContainsRune("89ab", rune(plain[16])) {
		return "", false
	}
	id := plain[:8] + "-" + plain[8:12] + "-" + plain[12:16] + "-" + plain[16:20] + "-" + plain[20:]
	if len(s) == 36 && !strings.EqualFold(s, id) {
		return "", false
	}
	return id, true
}

// uuid is a UUID of version 4 in 16 bytes; the zero value is none.
type uuid [16]byte

// parseUUID reads what canonicalUUID4 accepts. It allocates nothing for the usual form.
func parseUUID(s string) (id uuid, ok bool) {
	if len(s) == 36 {
		ok = true
		for i, at := 0, 0; i < len(id) && ok; i, at = i+1, at+2 {
			if i == 4 || i == 6 || i == 8 || i == 10 {
				ok = s[at] == '-'
				at++
			}
			high, low := hexDigit(s[at]), hexDigit(s[at+1])
			ok = ok && high|low < 16
			id[i] = high<<4 | low
		}
		if ok && id[6]>>4 == 4 && id[8]>>6 == 2 {
			return id, true
		}
	}
	s, ok = canonicalUUID4(s)
	if !ok {
		return uuid{}, false
	}
	return parseUUID(s)
}

// hexDigit is the value of a digit, or more than 15.
func hexDigit(c byte) byte {
	switch {
	case '0' <= c && c <= '9':
		return c - '0'
	case 'a' <= c && c <= 'f':
		return c - 'a' + 10
	}
	return 0xff
}

// String is the usual form.
func (id uuid) String() string {
	var text [36]byte
	for i, at := 0, 0; i < len(id); i, at = i+1, at+2 {
		if i == 4 || i == 6 || i == 8 || i == 10 {
			text[at] = '-'
			at++
		}
		hex.Encode(text[at:], id[i:i+1])
	}
	return string(text[:])
}

// normalUUID is the usual form of an id, or the id itself if it isn't a UUID.
func normalUUID(s string) string {
	if id, ok := canonicalUUID4(s); ok {
		return id
	}
	return s
}

// usualUUID is normalUUID, in the caller's memory if that has the usual form.
func usualUUID(s string) string {
	if _, ok := parseUUID(s); ok && len(s) == 36 && !strings.ContainsAny(s, "ABCDEF") {
		return s
	}
	return normalUUID(s)
}

func sameUUID(a, b string) bool { return normalUUID(a) == normalUUID(b) }

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
	f, err := object(bytes.TrimSpace(body))
	if err != nil {
		return refusal{}, false
	}
	var r refusal
	f.text("error", &r.Error)
	f.text("detail", &r.Detail)
	if r.Detail == "" {
		f.text("error_description", &r.Detail)
	}
	var faults []struct {
		Loc []any  `json:"loc"`
		Msg string `json:"msg"`
	}
	optional(f, "detail", &faults)
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
