// Package wire reads Polar's JSON one member at a time, so that a member of another type than
// expected spoils nothing else, and Polar's ids. It doesn't know what an answer means.
package wire

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// Fields are the members of a JSON object. They are read one by one, so that the others can
// still be read if one has another type than expected.
type Fields map[string]json.RawMessage

func Object(data []byte) (Fields, error) {
	var f Fields
	if err := json.Unmarshal(data, &f); err != nil {
		return nil, err
	}
	if f == nil {
		return nil, errors.New("not a JSON object")
	}
	return f, nil
}

// Optional reads a member into to, and leaves to as it is if any of that fails.
func Optional[T any](f Fields, name string, to *T) {
	var v T
	if raw, ok := f[name]; ok && string(raw) != "null" && json.Unmarshal(raw, &v) == nil {
		*to = v
	}
}

func (f Fields) Text(name string, to *string) { Optional(f, name, to) }

// List reads a list of objects; null is an empty one. An entry that is no object is left out.
// A member that is missing or not a list is an error.
func (f Fields) List(name string) ([]Fields, error) {
	var entries []json.RawMessage
	if err := json.Unmarshal(f[name], &entries); err != nil {
		return nil, fmt.Errorf("field %q is missing or no list", name)
	}
	var all []Fields
	for _, entry := range entries {
		if one, err := Object(entry); err == nil {
			all = append(all, one)
		}
	}
	return all, nil
}

// Compact is JSON without white space; "{}" if it isn't JSON.
func Compact(raw json.RawMessage) string {
	var b bytes.Buffer
	if json.Compact(&b, raw) != nil || b.Len() == 0 {
		return "{}"
	}
	return b.String()
}

func (f Fields) Time(name string, to *time.Time) {
	if raw, ok := f[name]; ok {
		*to, _ = ParseTime(raw)
	}
}

// ParseTime reads Polar's times: RFC 3339, and also the same without a zone, which means UTC, and
// a bare date, because Polar's answer to a PATCH repeats what was sent.
func ParseTime(raw json.RawMessage) (time.Time, error) {
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
