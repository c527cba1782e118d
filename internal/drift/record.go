package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
)

// recorder asks Polar, and writes what was said.
type recorder struct {
	base, token, folder string
	out                 io.Writer
	pause               time.Duration
	http                http.Client
	secrets             []string // each with what is written instead, in turn
	seen                map[string]bool
}

// exchange is the form of the files in polartest/testdata/golden.
type exchange struct {
	Name     string   `json:"name"`
	Request  request  `json:"request"`
	Response response `json:"response"`
	State    string   `json:"state"`
}

type request struct {
	Method  string            `json:"method"`
	Path    string            `json:"path"`
	Headers map[string]string `json:"headers"`
	Body    any               `json:"body"`
}

type response struct {
	Status  int               `json:"status"`
	Headers map[string]string `json:"headers"`
	Body    any               `json:"body"`
}

const (
	syntheticToken = "polar_oat_synthetic_full"
	unknownID      = "00000000-0000-4000-8000-000000000000"
	// sandboxPause is between requests: the sandbox takes 100 a minute.
	sandboxPause = 700 * time.Millisecond
)

// kept are the headers that answers are recorded with.
var kept = []string{"Content-Type", "Cache-Control", "Polar-Version", "Www-Authenticate", "Retry-After", "Allow", "Location"}

// record makes all requests.
func (r *recorder) record(ctx context.Context) error {
	if r.token == "" {
		return errors.New("POLAR_ACCESS_TOKEN is empty: give it an access token of an organization in the sandbox")
	}
	if strings.Contains(r.base, "://api.polar.sh") {
		return errors.New("this is the production server: record an organization in the sandbox")
	}
	r.base = strings.TrimSuffix(r.base, "/")
	r.http.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	r.seen = map[string]bool{}
	if err := os.MkdirAll(r.folder, 0o755); err != nil {
		return err
	}
	get := func(name, path string) (map[string]any, error) { return r.ask(ctx, name, http.MethodGet, path, nil) }

	keys, err := get("keys.list_limit1", "/v1/license-keys/?limit=1")
	if err != nil {
		return err
	}
	if _, err := get("keys.get_unknown", "/v1/license-keys/"+unknownID); err != nil {
		return err
	}
	if _, err := get("keys.get_malformed", "/v1/license-keys/x"); err != nil {
		return err
	}
	if key := first(keys); key != nil {
		id, text, organization := textOf(key, "id"), textOf(key, "key"), textOf(key, "organization_id")
		whole, err := get("keys.get_ok", "/v1/license-keys/"+id)
		if err != nil {
			return err
		}
		if all, _ := whole["activations"].([]any); len(all) > 0 {
			one, _ := all[0].(map[string]any)
			if _, err := get("keys.get_activation", "/v1/license-keys/"+id+"/activations/"+textOf(one, "id")); err != nil {
				return err
			}
		}
		for _, one := range []struct {
			name string
			body map[string]any
		}{
			{"validate.ok", map[string]any{"key": text, "organization_id": organization}},
			{"validate.unknown_key", map[string]any{"key": "NO-SUCH-KEY", "organization_id": organization}},
			{"validate.no_key", map[string]any{"organization_id": organization}},
			{"validate.wrong_benefit", map[string]any{"key": text, "organization_id": organization, "benefit_id": unknownID}},
		} {
			if _, err := r.ask(ctx, one.name, http.MethodPost, "/v1/license-keys/validate", one.body); err != nil {
				return err
			}
		}
	}
	customers, err := get("customers.list_limit1", "/v1/customers/?limit=1")
	if err != nil {
		return err
	}
	if customer := first(customers); customer != nil {
		if _, err := get("state.by_id", "/v1/customers/"+textOf(customer, "id")+"/state"); err != nil {
			return err
		}
		if _, err := r.ask(ctx, "customer_sessions.by_id", http.MethodPost, "/v1/customer-sessions/", map[string]any{"customer_id": textOf(customer, "id")}); err != nil {
			return err
		}
	}
	for _, one := range [][2]string{
		{"state.unknown", "/v1/customers/" + unknownID + "/state"},
		{"grants.list_limit1", "/v1/benefit-grants/?limit=1"},
		{"subscriptions.list_limit1", "/v1/subscriptions/?limit=1"},
		{"meters.list_limit1", "/v1/customer-meters/?limit=1"},
		{"members.list_limit1", "/v1/members/?limit=1"},
		{"server.no_such_path", "/v1/no-such-path"},
	} {
		if _, err := get(one[0], one[1]); err != nil {
			return err
		}
	}
	return nil
}

// ask makes a request and writes the exchange.
func (r *recorder) ask(ctx context.Context, name, method, path string, body map[string]any) (map[string]any, error) {
	var sent io.Reader
	var asked any // null, without a body
	if body != nil {
		data, err := json.Marshal(body)
		if err != nil {
			return nil, err
		}
		sent, asked = bytes.NewReader(data), body
	}
	req, err := http.NewRequestWithContext(ctx, method, r.base+path, sent)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Authorization", "Bearer "+r.token)
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	answer, err := r.http.Do(req)
	if err != nil {
		return nil, errors.New(r.clean(err.Error()))
	}
	defer answer.Body.Close()
	data, err := io.ReadAll(io.LimitReader(answer.Body, 16<<20))
	if err != nil {
		return nil, errors.New(r.clean(err.Error()))
	}
	var said any
	if json.Unmarshal(data, &said) != nil {
		said = string(data)
	}
	r.learn(said)
	e := exchange{Name: name,
		Request:  request{method, path, map[string]string{"Authorization": "Bearer " + syntheticToken}, asked},
		Response: response{answer.StatusCode, map[string]string{}, said}}
	for _, header := range kept {
		if v := answer.Header.Get(header); v != "" {
			e.Response.Headers[strings.ToLower(header)] = v
		}
	}
	var text bytes.Buffer
	write := json.NewEncoder(&text)
	write.SetEscapeHTML(false)
	write.SetIndent("", " ")
	if err := write.Encode(e); err != nil {
		return nil, err
	}
	folder, file, _ := strings.Cut(name, ".")
	if err := os.MkdirAll(filepath.Join(r.folder, folder), 0o755); err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(r.folder, folder, file+".json"), []byte(r.clean(text.String())), 0o644); err != nil {
		return nil, err
	}
	fmt.Fprintf(r.out, "%d %s\n", answer.StatusCode, name)
	select {
	case <-time.After(r.pause):
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	object, _ := said.(map[string]any)
	return object, nil
}

// secret are the fields that hold what is replaced, with what stands for it.
var secret = map[string]string{"key": "ACME-00000000-0000-4000-8000-%012d", "token": "polar_cst_synthetic%036d", "display_key": "****-%06d", "email": "someone%d@example.com", "name": "Someone %d", "billing_name": "Someone %d"}

// learn notes what of an answer is to be replaced, here and in all that follows.
func (r *recorder) learn(v any) {
	switch v := v.(type) {
	case map[string]any:
		for _, name := range slices.Sorted(maps.Keys(v)) {
			value := v[name]
			text, isText := value.(string)
			form := secret[name]
			if isText && form != "" && len(text) > 3 && !r.seen[text] {
				r.seen[text] = true
				r.secrets = append(r.secrets, text, fmt.Sprintf(form, len(r.seen)))
			}
			r.learn(value)
		}
	case []any:
		for _, one := range v {
			r.learn(one)
		}
	}
}

// inAddress is what the address of a portal or a picture tells of a person.
var inAddress = regexp.MustCompile(`(email=)[^&"\\]*|(gravatar\.com/avatar/)[0-9a-f]+`)

// clean replaces every secret.
func (r *recorder) clean(text string) string {
	for i := 0; i < len(r.secrets); i += 2 {
		text = strings.ReplaceAll(text, r.secrets[i], r.secrets[i+1])
	}
	text = inAddress.ReplaceAllString(text, "${1}${2}0")
	return strings.ReplaceAll(text, r.token, syntheticToken)
}

// first is the first entry of a list; nil if there is none.
func first(list map[string]any) map[string]any {
	items, _ := list["items"].([]any)
	if len(items) == 0 {
		return nil
	}
	one, _ := items[0].(map[string]any)
	return one
}

func textOf(of map[string]any, name string) string {
	text, _ := of[name].(string)
	return text
}
