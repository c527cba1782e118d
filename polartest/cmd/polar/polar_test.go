package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"

	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/polargate/polargate/polartest"
)

// started is a polar that runs, as its output describes it.
type started struct {
	t   *testing.T
	env map[string]string
	end func() error
}

func start(t *testing.T, args ...string) *started {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	read, write := io.Pipe()
	ended := make(chan error, 1)
	go func() {
		err := run(ctx, args, write, io.Discard)
		ended <- err
		_ = write.CloseWithError(err)
	}()
	s := &started{t: t, env: map[string]string{}, end: func() error { cancel(); return <-ended }}
	lines := bufio.NewScanner(read)
	for len(s.env) < 5 && lines.Scan() {
		name, value, _ := strings.Cut(lines.Text(), "=")
		s.env[name] = value
	}
	require.NoError(t, lines.Err())
	require.Len(t, s.env, 5)
	t.Cleanup(cancel)
	return s
}

func (s *started) send(base, token, method, path, body string) (int, string) {
	s.t.Helper()
	r, err := http.NewRequestWithContext(s.t.Context(), method, base+path, strings.NewReader(body))
	require.NoError(s.t, err)
	r.Header.Set("Authorization", "Bearer "+token)
	r.Header.Set("Content-Type", "application/json")
	transport := &http.Transport{DisableKeepAlives: true}
	response, err := transport.RoundTrip(r)
	if err != nil {
		return 0, err.Error()
	}
	defer func() { _ = response.Body.Close() }()
	data, err := io.ReadAll(response.Body)
	require.NoError(s.t, err)
	return response.StatusCode, string(data)
}

// control sends to the control API what has to work.
func (s *started) control(method, path, body string) map[string]any {
	s.t.Helper()
	status, text := s.send(s.env["POLAR_CONTROL_URL"], s.env["POLAR_CONTROL_TOKEN"], method, path, body)
	require.Less(s.t, status, 300, "%s %s: %s", method, path, text)
	var answer map[string]any
	if strings.HasPrefix(text, "{") {
		require.NoError(s.t, json.Unmarshal([]byte(text), &answer))
	}
	return answer
}

func (s *started) refused(method, path, body string) (int, string) {
	s.t.Helper()
	status, text := s.send(s.env["POLAR_CONTROL_URL"], s.env["POLAR_CONTROL_TOKEN"], method, path, body)
	var answer struct{ Error string }
	require.NoError(s.t, json.Unmarshal([]byte(text), &answer), text)
	return status, answer.Error
}

func (s *started) ask(method, path, body string) (int, string) {
	s.t.Helper()
	return s.send(s.env["POLAR_API_URL"], s.env["POLAR_ACCESS_TOKEN"], method, path, body)
}

func TestAProgramOfAnotherLanguageAsksAPolarThatATestControls(t *testing.T) {
	t.Parallel()
	s := start(t, "-unlimited")
	const benefit, product = "6a1c7e0e-58a5-4c1e-8a7a-2d4f3b1c9d01", "6a1c7e0e-58a5-4c1e-8a7a-2d4f3b1c9d02"
	const meter = "6a1c7e0e-58a5-4c1e-8a7a-2d4f3b1c9d03"
	s.control("POST", "/benefits", `{"id":"`+benefit+`","type":"feature_flag","metadata":{"feature":"export","limit":5}}`)
	s.control("POST", "/products", `{"id":"`+product+`","benefits":["`+benefit+`"]}`)
	customer := s.control("POST", "/customers", `{"external_id":"usr_1"}`)
	subscription := s.control("POST", "/customers/usr_1/subscriptions", `{"product_id":"`+product+`"}`)
	status, state := s.ask("GET", "/v1/customers/external/usr_1/state", "")
	assert.Equal(t, 200, status)
	assert.Contains(t, state, `"benefit_metadata":{"limit":5,"feature":"export"}`, "an integer stays one")
	assert.Contains(t, state, `"id":"`+customer["id"].(string)+`"`)

	s.control("DELETE", "/customers/usr_1/subscriptions/"+subscription["id"].(string), "")
	_, state = s.ask("GET", "/v1/customers/external/usr_1/state", "")
	assert.Contains(t, state, `"granted_benefits":[]`)
	s.control("POST", "/customers/usr_1/subscriptions/"+subscription["id"].(string)+"/restore", "")
	s.control("POST", "/customers/usr_1/grants", `{"type":"custom","metadata":{"plan":"gold"}}`)
	_, state = s.ask("GET", "/v1/customers/external/usr_1/state", "")
	assert.Contains(t, state, benefit)
	assert.Contains(t, state, `"plan":"gold"`)
	s.control("DELETE", "/customers/usr_1/grants/"+benefit, "")
	s.control("PATCH", "/customers/usr_1", `{"name":"Ada"}`)
	_, state = s.ask("GET", "/v1/customers/external/usr_1/state", "")
	assert.Contains(t, state, `"name":"Ada"`)
	assert.NotContains(t, state, benefit)
	_, list := s.ask("GET", "/v1/benefit-grants/?is_granted=true&limit=1", "")
	assert.Contains(t, list, `"total_count":1`)

	s.control("POST", "/meters", `{"id":"`+meter+`","event_name":"api.call"}`)
	s.control("POST", "/customers/usr_1/meters/"+meter, `{"credit":100}`)
	_, answer := s.ask("POST", "/v1/events/ingest", `{"events":[{"name":"api.call","external_customer_id":"usr_1"}]}`)
	assert.JSONEq(t, `{"inserted":1,"duplicates":0}`, answer)
	s.control("POST", "/clock", `{"advance":"15s"}`)
	_, state = s.ask("GET", "/v1/customers/external/usr_1/state", "")
	assert.Contains(t, state, `"balance":99.0`)

	key := s.control("POST", "/license-keys", `{"key":"ACME-0001","prefix":"ACME","limit_activations":2}`)
	rotated := s.control("POST", "/license-keys/ACME-0001/rotate", "")
	assert.Equal(t, key["id"], rotated["id"])
	assert.NotEqual(t, "ACME-0001", rotated["key"])
	s.control("PATCH", "/license-keys/"+key["id"].(string), `{"limit_activations":3}`)
	assert.InDelta(t, 3, s.control("GET", "/license-keys/"+key["id"].(string), "")["limit_activations"], 0)
	s.control("POST", "/license-keys/"+key["id"].(string)+"/revoke", "")
	assert.Equal(t, "revoked", s.control("GET", "/license-keys/"+key["id"].(string), "")["status"])

	s.control("DELETE", "/requests", "")
	s.control("POST", "/faults", `{"path":"/state","times":1,"effect":"rate_limited","retry_after":"30"}`)
	status, _ = s.ask("GET", "/v1/customers/external/usr_1/state", "")
	assert.Equal(t, 429, status)
	s.control("PUT", "/offline", `{"offline":true}`)
	status, _ = s.ask("GET", "/v1/customers/external/usr_1/state", "")
	assert.Zero(t, status)
	s.control("PUT", "/offline", `{"offline":false}`)
	status, _ = s.ask("GET", "/v1/customers/external/usr_1/state", "")
	assert.Equal(t, 200, status)
	assert.InDelta(t, 2, s.control("GET", "/requests/count?path=/state", "")["count"], 0)
	s.control("DELETE", "/customers/usr_1", "")
	status, _ = s.ask("GET", "/v1/customers/external/usr_1/state", "")
	assert.Equal(t, 404, status)
}

func TestWebhooksAreHeldReleasedAndSentByHand(t *testing.T) {
	t.Parallel()
	s := start(t)
	var got atomic.Pointer[[]string]
	got.Store(new([]string))
	receiver := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		var event struct{ Type string }
		_ = json.NewDecoder(r.Body).Decode(&event)
		got.Store(new(append(slices.Clone(*got.Load()), event.Type)))
	}))
	t.Cleanup(receiver.Close)
	endpoint := s.control("POST", "/endpoints", `{"url":"`+receiver.URL+`","events":["customer.created","customer.updated","order.paid"]}`)
	s.control("POST", "/deliveries/hold", "")
	s.control("POST", "/customers", `{"external_id":"usr_1"}`)
	s.control("PATCH", "/customers/usr_1", `{"name":"Ada"}`)
	_, text := s.send(s.env["POLAR_CONTROL_URL"], s.env["POLAR_CONTROL_TOKEN"], "GET", "/deliveries", "")
	var deliveries []struct{ ID, Type, Status, Body string }
	require.NoError(t, json.Unmarshal([]byte(text), &deliveries))
	require.Len(t, deliveries, 2)
	assert.Equal(t, "held", deliveries[0].Status)
	assert.Contains(t, deliveries[0].Body, `"external_id":"usr_1"`)
	s.control("POST", "/deliveries/release", `{"ids":["`+deliveries[1].ID+`","`+deliveries[0].ID+`"]}`)
	s.control("POST", "/deliveries/wait", "")
	assert.Equal(t, []string{"customer.updated", "customer.created"}, *got.Load())
	s.control("POST", "/deliveries/release", "")
	s.control("POST", "/events", `{"type":"order.paid","data":{"id":"1"}}`)
	s.control("POST", "/deliveries/wait", `{"timeout":"1m"}`)
	assert.Equal(t, "order.paid", (*got.Load())[2])
	answer := s.control("POST", "/endpoints/"+endpoint["id"].(string)+"/send", `{"body":"{\"type\":\"by.hand\"}"}`)
	assert.InDelta(t, 200, answer["status"], 0)
	assert.Equal(t, "by.hand", (*got.Load())[3])
	s.control("PATCH", "/endpoints/"+endpoint["id"].(string), `{"disabled":true}`)
	assert.Equal(t, true, s.control("GET", "/endpoints/"+endpoint["id"].(string), "")["disabled"])
}

func TestWhatCannotBeDoneIsRefusedWithTheReason(t *testing.T) {
	t.Parallel()
	s := start(t)
	for _, test := range []struct {
		method, path, body string
		status             int
		want               string
	}{
		{"POST", "/customers", `{"external":"usr_1"}`, 400, `there is no field "external"`},
		{"POST", "/customers", `[]`, 400, "the body is no JSON object"},
		{"POST", "/customers", `{"id":"1"}`, 400, "not a UUID of version 4"},
		{"POST", "/customers", `{"benefits":[{"benefit":"1"}]}`, 400, `there is no field "benefit" in benefits[0]`},
		{"GET", "/customers/nobody", "", 404, `there is no customer "nobody"`},
		{"PATCH", "/customers/nobody", "{}", 404, "nobody"},
		{"DELETE", "/customers/nobody", "", 400, "there is no customer"},
		{"POST", "/license-keys/NONE/rotate", "", 404, "there is no license key"},
		{"POST", "/clock", `{"advance":"soon"}`, 400, "invalid duration"},
		{"POST", "/faults", `{"effect":"flood"}`, 400, "there are login_page"},
		{"POST", "/faults", `{"effect":"server_error"}`, 400, "needs a status"},
		{"POST", "/import", `{`, 400, "no JSON"},
		{"POST", "/events", `{"type":"subscription.cycled","subject":"1"}`, 400, "there is nothing with the id"},
		{"GET", "/nothing", "", 404, "there is no path"},
	} {
		status, text := s.refused(test.method, test.path, test.body)
		assert.Equal(t, test.status, status, "%s %s %s: %s", test.method, test.path, test.body, text)
		assert.Contains(t, text, test.want)
	}
	status, text := s.send(s.env["POLAR_CONTROL_URL"], s.env["POLAR_ACCESS_TOKEN"], "GET", "/", "")
	assert.Equal(t, 401, status, "an access token controls nothing: %s", text)
	paths, _ := s.control("GET", "/", "")["paths"].([]any)
	assert.Greater(t, len(paths), 40)
}

func TestOnlyLoopbackAddressesAreListenedOn(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{
		{"-address", "0.0.0.0:0"}, {"-control", ":0"}, {"-address", "192.0.2.1:80"}, {"-organization", "acme"}, {"-import", "none.json"},
	} {
		assert.Error(t, run(t.Context(), args, io.Discard, io.Discard), "%s", args)
	}
	require.ErrorIs(t, run(t.Context(), []string{"now"}, io.Discard, io.Discard), errUsage)
	require.ErrorIs(t, run(t.Context(), []string{"-help"}, io.Discard, io.Discard), flag.ErrHelp)
	s := start(t, "-token", "polar_oat_mine", "-control-token", "ours", "-members")
	assert.Equal(t, "polar_oat_mine", s.env["POLAR_ACCESS_TOKEN"])
	assert.Equal(t, "ours", s.env["POLAR_CONTROL_TOKEN"])
	require.NoError(t, s.end())
	status, _ := s.ask("GET", "/v1/customers/", "")
	assert.Zero(t, status, "it has ended")
}

func TestNamesInSnakeCaseLeadBackToTheFields(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]string{
		"ExternalID": "external_id", "ID": "id", "IDs": "ids", "URL": "url", "LicenseKeyID": "license_key_id",
		"NoAPIAccess": "no_api_access", "CreatedAt": "created_at", "LimitActivations": "limit_activations",
	} {
		assert.Equal(t, want, snakeName(name))
	}
	k := polartest.New(polartest.Config{}).AddKey(polartest.LicenseKey{LimitUsage: polartest.Limit(7), Activations: []polartest.Activation{{Label: "laptop"}}})
	data, err := json.Marshal(snake(k))
	require.NoError(t, err)
	var back polartest.LicenseKey
	require.NoError(t, unmarshal(data, &back))
	again, err := json.Marshal(snake(back))
	require.NoError(t, err)
	assert.JSONEq(t, string(data), string(again))
}

var script = regexp.MustCompile("(?s)```sh\n(.*?)```")

func TestTheScriptOfTheReadmeRunsWithCurl(t *testing.T) {
	t.Parallel()
	for _, tool := range []string{"sh", "curl"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skip("the script needs " + tool + ", which is not here")
		}
	}
	readme, err := os.ReadFile("README.md")
	require.NoError(t, err)
	m := script.FindSubmatch(readme)
	require.NotNil(t, m)
	folder := t.TempDir()
	build := exec.CommandContext(t.Context(), "go", "build", "-o", filepath.Join(folder, "polar"), ".")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	// what is started in the background ends with the script
	shell := exec.CommandContext(ctx, "sh", "-eu", "-c", "trap 'kill $! 2>/dev/null' EXIT\n"+string(m[1]))
	shell.Dir = folder
	shell.Env = append(os.Environ(), "PATH="+folder+string(os.PathListSeparator)+os.Getenv("PATH"))
	var out, errs bytes.Buffer
	shell.Stdout, shell.Stderr = &out, &errs
	require.NoError(t, shell.Run(), "%s\n%s", out.String(), errs.String())
	assert.Empty(t, errs.String())
	for _, want := range []string{`"benefit_id":"6a1c7e0e-58a5-4c1e-8a7a-2d4f3b1c9d01"`, `{"inserted":1,"duplicates":0}`, `"status": "held"`, `"count": 2`} {
		assert.Contains(t, out.String(), want)
	}
	assert.NotContains(t, out.String(), `"error"`)
}
