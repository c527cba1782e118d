package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// surface is a published schema, reduced to what can be compared.
type surface struct {
	Version string `json:"version"`
	// Calls are the operations, by method and path.
	Calls map[string]call `json:"calls"`
	// Types are the named schemas.
	Types map[string]shape `json:"types"`
}

// call is an operation.
type call struct {
	Parameters map[string]string `json:"parameters,omitempty"` // by place and name: the type, "required …" first
	Body       string            `json:"body,omitempty"`       // its type
	Answers    map[string]string `json:"answers"`              // by status: the type
	Scopes     []string          `json:"scopes,omitempty"`     // any one of them suffices
}

// shape is a named schema: an object with fields, or a list of values.
type shape struct {
	Fields   map[string]string `json:"fields,omitempty"` // by name: the type
	Required []string          `json:"required,omitempty"`
	Values   []string          `json:"values,omitempty"`
}

// node is a schema within OpenAPI, as far as it is looked at.
type node struct {
	Ref        string          `json:"$ref"`
	Type       json.RawMessage `json:"type"`
	Format     string          `json:"format"`
	Enum       []any           `json:"enum"`
	Const      any             `json:"const"`
	AnyOf      []node          `json:"anyOf"`
	OneOf      []node          `json:"oneOf"`
	AllOf      []node          `json:"allOf"`
	Items      *node           `json:"items"`
	Properties map[string]node `json:"properties"`
	Required   []string        `json:"required"`
	Values     json.RawMessage `json:"additionalProperties"`
}

// readSchema reads OpenAPI.
func readSchema(data []byte) (surface, error) {
	type content map[string]struct {
		Schema node `json:"schema"`
	}
	var doc struct {
		Info struct {
			Version string `json:"version"`
		} `json:"info"`
		Paths      map[string]map[string]json.RawMessage `json:"paths"`
		Components struct {
			Schemas map[string]node `json:"schemas"`
		} `json:"components"`
	}
	if err := json.Unmarshal(data, &doc); err != nil {
		return surface{}, fmt.Errorf("the schema is no JSON of OpenAPI: %w", err)
	}
	if len(doc.Paths) == 0 || len(doc.Components.Schemas) == 0 {
		return surface{}, errors.New("the schema has no paths or no components: give the OpenAPI document that Polar publishes")
	}
	s := surface{Version: doc.Info.Version, Calls: map[string]call{}, Types: map[string]shape{}}
	for path, operations := range doc.Paths {
		for method, raw := range operations {
			var o struct {
				Parameters []struct {
					Name     string `json:"name"`
					In       string `json:"in"`
					Required bool   `json:"required"`
					Schema   node   `json:"schema"`
				} `json:"parameters"`
				RequestBody struct {
					Content content `json:"content"`
				} `json:"requestBody"`
				Responses map[string]struct {
					Content content `json:"content"`
				} `json:"responses"`
				Security []map[string][]string `json:"security"`
			}
			if !slices.Contains([]string{"get", "post", "patch", "put", "delete"}, method) {
				continue // what all operations of a path have in common
			}
			if err := json.Unmarshal(raw, &o); err != nil {
				return surface{}, fmt.Errorf("%s %s: %w", method, path, err)
			}
			c := call{Parameters: map[string]string{}, Answers: map[string]string{}}
			for _, p := range o.Parameters {
				kind := p.Schema.kind()
				if p.Required {
					kind = "required " + kind
				}
				c.Parameters[p.In+" "+p.Name] = kind
			}
			for _, body := range o.RequestBody.Content {
				c.Body = body.Schema.kind()
			}
			for status, r := range o.Responses {
				c.Answers[status] = ""
				for _, body := range r.Content {
					c.Answers[status] = body.Schema.kind()
				}
			}
			for _, alternative := range o.Security {
				for _, scopes := range alternative {
					c.Scopes = append(c.Scopes, scopes...)
				}
			}
			slices.Sort(c.Scopes)
			c.Scopes = slices.Compact(c.Scopes)
			s.Calls[strings.ToUpper(method)+" "+path] = c
		}
	}
	for name, n := range doc.Components.Schemas {
		one := shape{Required: slices.Sorted(slices.Values(n.Required))}
		for _, v := range n.Enum {
			one.Values = append(one.Values, fmt.Sprint(v))
		}
		slices.Sort(one.Values)
		if len(n.Properties) > 0 {
			one.Fields = map[string]string{}
			for field, p := range n.Properties {
				one.Fields[field] = p.kind()
			}
		} else if len(n.Enum) == 0 {
			one.Fields = map[string]string{"": n.kind()}
		}
		s.Types[name] = one
	}
	return s, nil
}

// kind is a type in a few words: "text", "time or null", "list of Seat", or the name of a
// schema.
func (n node) kind() string {
	var many []string
	for _, of := range slices.Concat(n.AnyOf, n.OneOf) {
		many = append(many, of.kind())
	}
	if len(many) > 0 {
		slices.Sort(many)
		return strings.Join(slices.Compact(many), " or ")
	}
	if n.Ref != "" {
		return n.Ref[strings.LastIndexByte(n.Ref, '/')+1:]
	}
	for _, of := range n.AllOf {
		many = append(many, of.kind())
	}
	if len(many) > 0 {
		return strings.Join(many, " and ")
	}
	var types []string
	var one string
	if json.Unmarshal(n.Type, &one) == nil && one != "" {
		types = []string{one}
	} else {
		_ = json.Unmarshal(n.Type, &types)
	}
	if n.Const != nil {
		return fmt.Sprintf("%q", n.Const)
	}
	for i, t := range types {
		switch {
		case t == "array" && n.Items != nil:
			types[i] = "list of " + n.Items.kind()
		case t == "array":
			types[i] = "list"
		case t == "string" && n.Format == "date-time":
			types[i] = "time"
		case t == "string":
			types[i] = "text"
		}
	}
	if len(types) == 0 {
		return "anything"
	}
	return strings.Join(types, " or ")
}

// names are the schemas that a type speaks of.
func names(kind string) []string {
	return strings.FieldsFunc(kind, func(r rune) bool { return r == ' ' })
}

// used is the part of a surface that this library calls: the calls, and all types that they
// lead to.
func (s surface) used() surface {
	u := surface{Version: s.Version, Calls: map[string]call{}, Types: map[string]shape{}}
	var follow func(kind string)
	follow = func(kind string) {
		for _, name := range names(kind) {
			one, ok := s.Types[name]
			if _, seen := u.Types[name]; !ok || seen {
				continue
			}
			u.Types[name] = one
			for _, field := range one.Fields {
				follow(field)
			}
		}
	}
	for name, c := range s.Calls {
		if !slices.Contains(calls, name) {
			continue
		}
		u.Calls[name] = c
		follow(c.Body)
		for _, answer := range c.Answers {
			follow(answer)
		}
		for _, p := range c.Parameters {
			follow(p)
		}
	}
	for _, name := range events {
		follow(name)
	}
	return u
}

// change is a difference.
type change struct {
	what   string
	breaks bool
}

func (c change) String() string {
	if c.breaks {
		return "BREAKS  " + c.what
	}
	return "differs " + c.what
}

// compare names what differs, in what is used: first what breaks something.
func compare(then, now surface) (changes []change) {
	note := func(breaks bool, format string, a ...any) {
		changes = append(changes, change{fmt.Sprintf(format, a...), breaks})
	}
	sent, answered := then.directions()
	for _, name := range slices.Sorted(maps.Keys(then.Calls)) {
		before, after := then.Calls[name], call{}
		var ok bool
		if after, ok = now.Calls[name]; !ok {
			note(true, "%s is gone", name)
			continue
		}
		for _, p := range both(before.Parameters, after.Parameters) {
			was, is := before.Parameters[p], after.Parameters[p]
			switch {
			case is == "":
				note(true, "%s: parameter %q is gone", name, p)
			case was == "":
				note(strings.HasPrefix(is, "required "), "%s: parameter %q is new: %s", name, p, is)
			case was != is:
				note(strings.HasPrefix(is, "required ") && !strings.HasPrefix(was, "required "), "%s: parameter %q was %s, and is %s", name, p, was, is)
			}
		}
		if before.Body != after.Body {
			note(true, "%s: the body was %s, and is %s", name, orNothing(before.Body), orNothing(after.Body))
		}
		for _, status := range both(before.Answers, after.Answers) {
			was, hadIt := before.Answers[status]
			is, hasIt := after.Answers[status]
			switch good := strings.HasPrefix(status, "2"); {
			case !hasIt:
				note(good, "%s: no answer %s any more", name, status)
			case !hadIt:
				note(good, "%s: answer %s is new: %s", name, status, orNothing(is))
			case was != is:
				note(good, "%s: answer %s was %s, and is %s", name, status, orNothing(was), orNothing(is))
			}
		}
		if !slices.Equal(before.Scopes, after.Scopes) {
			note(!slices.ContainsFunc(before.Scopes, func(s string) bool { return slices.Contains(after.Scopes, s) }),
				"%s: the scopes were %s, and are %s", name, strings.Join(before.Scopes, ", "), strings.Join(after.Scopes, ", "))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(then.Types)) {
		before := then.Types[name]
		after, ok := now.Types[name]
		if !ok {
			note(len(reads[name]) > 0, "%s is gone", name)
			continue
		}
		for _, field := range both(before.Fields, after.Fields) {
			was, is := before.Fields[field], after.Fields[field]
			read := answered[name] && slices.Contains(reads[name], field)
			full := strings.TrimSuffix(name+"."+field, ".")
			switch {
			case is == "":
				note(read, "%s is gone%s", full, because(read))
			case was == "":
				note(sent[name] && slices.Contains(after.Required, field), "%s is new: %s%s", full, is, played(answered[name] && slices.Contains(after.Required, field)))
			case was != is:
				note(read || sent[name], "%s was %s, and is %s%s", full, was, is, because(read))
			}
		}
		for _, field := range before.Required {
			_, stays := after.Fields[field]
			if stays && answered[name] && !slices.Contains(after.Required, field) {
				needed := slices.Contains(needs[name], field)
				note(needed, "%s can be left out now%s", name+"."+field, because(slices.Contains(reads[name], field)))
			}
		}
		for _, field := range after.Required {
			_, old := before.Fields[field]
			if old && sent[name] && !slices.Contains(before.Required, field) {
				note(true, "%s is required now", name+"."+field)
			}
		}
		for _, value := range before.Values {
			if !slices.Contains(after.Values, value) {
				note(sent[name], "%s no longer has %q", name, value)
			}
		}
		for _, value := range after.Values {
			if !slices.Contains(before.Values, value) {
				note(false, "%s has a new value: %q", name, value)
			}
		}
	}
	slices.SortStableFunc(changes, func(a, b change) int {
		switch {
		case a.breaks && !b.breaks:
			return -1
		case b.breaks && !a.breaks:
			return 1
		}
		return 0
	})
	return changes
}

func because(read bool) string {
	if read {
		return "; polargate reads it"
	}
	return ""
}

func played(required bool) string {
	if required {
		return "; polartest doesn't play it"
	}
	return ""
}

func orNothing(kind string) string {
	if kind == "" {
		return "nothing"
	}
	return kind
}

// both are the names in either map, sorted.
func both(a, b map[string]string) []string {
	all := slices.AppendSeq(slices.Collect(maps.Keys(a)), maps.Keys(b))
	slices.Sort(all)
	return slices.Compact(all)
}

// directions are the types that go to Polar, and those that come from there.
func (s surface) directions() (sent, answered map[string]bool) {
	sent, answered = map[string]bool{}, map[string]bool{}
	var follow func(to map[string]bool, kind string)
	follow = func(to map[string]bool, kind string) {
		for _, name := range names(kind) {
			if one, ok := s.Types[name]; ok && !to[name] {
				to[name] = true
				for _, field := range one.Fields {
					follow(to, field)
				}
			}
		}
	}
	for _, c := range s.Calls {
		follow(sent, c.Body)
		for _, answer := range c.Answers {
			follow(answered, answer)
		}
	}
	for _, name := range events {
		follow(answered, name)
	}
	return sent, answered
}
