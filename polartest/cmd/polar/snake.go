package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"time"
	"unicode"
)

// The Go types of polartest have no JSON of their own. Here they have: the names of their fields in
// snake case, and what is empty is left out. Maps, which are metadata and settings, stay as they are.

// snakeName makes ExternalID external_id.
func snakeName(name string) string {
	var b strings.Builder
	runes := []rune(name)
	for i, r := range runes {
		if unicode.IsUpper(r) {
			begins := i+1 < len(runes) && unicode.IsLower(runes[i+1]) && string(runes[i:]) != "Ds" // the end of IDs
			if i > 0 && (unicode.IsLower(runes[i-1]) || begins) {
				b.WriteByte('_')
			}
			r = unicode.ToLower(r)
		}
		b.WriteRune(r)
	}
	return b.String()
}

// member is a field with a name, in order.
type member struct {
	name  string
	value any
}

type members []member

func (m members) MarshalJSON() ([]byte, error) {
	var b bytes.Buffer
	b.WriteByte('{')
	for i, one := range m {
		if i > 0 {
			b.WriteByte(',')
		}
		value, err := json.Marshal(one.value)
		if err != nil {
			return nil, err
		}
		fmt.Fprintf(&b, "%q:%s", one.name, value)
	}
	b.WriteByte('}')
	return b.Bytes(), nil
}

// snake makes of a value what is to be written.
func snake(v any) any {
	return snakeValue(reflect.ValueOf(v))
}

func snakeValue(v reflect.Value) any {
	switch {
	case !v.IsValid():
		return nil
	case v.Type() == reflect.TypeFor[time.Time]():
		return v.Interface()
	case v.Type() == reflect.TypeFor[[]byte](): // the body of a webhook
		return string(v.Bytes())
	}
	if err, ok := v.Interface().(error); ok {
		return err.Error()
	}
	switch v.Kind() {
	case reflect.Pointer, reflect.Interface:
		if v.IsNil() {
			return nil
		}
		return snakeValue(v.Elem())
	case reflect.Slice:
		list := make([]any, 0, v.Len())
		for i := range v.Len() {
			list = append(list, snakeValue(v.Index(i)))
		}
		return list
	case reflect.Struct:
		var out members
		for i := range v.NumField() {
			f := v.Type().Field(i)
			if !f.IsExported() || v.Field(i).IsZero() || f.Type.Kind() == reflect.Interface && f.Type != reflect.TypeFor[error]() {
				continue
			}
			out = append(out, member{snakeName(f.Name), snakeValue(v.Field(i))})
		}
		return out
	}
	return v.Interface()
}

// unmarshal reads JSON with names in snake case into a value. A name that the type does not have is an
// error: it is most likely misspelt.
func unmarshal(data []byte, into any) error {
	renamed, err := camel(data, reflect.TypeOf(into).Elem(), "")
	if err != nil {
		return err
	}
	var sent map[string]json.RawMessage
	if err := json.Unmarshal(renamed, &sent); err != nil {
		return err
	}
	for name := range sent { // lists and maps are replaced, not merged
		if f := reflect.ValueOf(into).Elem().FieldByName(name); f.Kind() == reflect.Slice || f.Kind() == reflect.Map {
			f.SetZero()
		}
	}
	d := json.NewDecoder(bytes.NewReader(renamed))
	d.UseNumber() // 5 stays an integer in metadata
	return d.Decode(into)
}

// camel renames the fields of a type, and of the types in it.
func camel(data json.RawMessage, t reflect.Type, at string) (json.RawMessage, error) {
	switch {
	case t.Kind() == reflect.Pointer:
		return camel(data, t.Elem(), at)
	case t.Kind() == reflect.Slice && t.Elem().Kind() == reflect.Struct:
		var list []json.RawMessage
		if err := json.Unmarshal(data, &list); err != nil {
			return nil, fmt.Errorf("%s is no list", at)
		}
		for i := range list {
			var err error
			if list[i], err = camel(list[i], t.Elem(), fmt.Sprintf("%s[%d]", at, i)); err != nil {
				return nil, err
			}
		}
		return json.Marshal(list)
	case t.Kind() != reflect.Struct || t == reflect.TypeFor[time.Time]():
		return data, nil
	}
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(data, &fields); err != nil {
		if at == "" {
			at = "the body"
		}
		return nil, fmt.Errorf("%s is no JSON object", at)
	}
	out := make(map[string]json.RawMessage, len(fields))
	known := map[string]reflect.StructField{}
	for i := range t.NumField() {
		if f := t.Field(i); f.IsExported() && f.Type.Kind() != reflect.Interface {
			known[snakeName(f.Name)] = f
		}
	}
	for name, value := range fields {
		f, ok := known[name]
		if !ok {
			return nil, fmt.Errorf("there is no field %q%s", name, within(at))
		}
		renamed, err := camel(value, f.Type, name)
		if err != nil {
			return nil, err
		}
		out[f.Name] = renamed
	}
	return json.Marshal(out)
}

func within(at string) string {
	if at == "" {
		return ""
	}
	return " in " + at
}
