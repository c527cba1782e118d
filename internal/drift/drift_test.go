package main

import (
	"encoding/json"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/polargate/polargate/polartest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func then(t *testing.T) (s surface) {
	t.Helper()
	require.NoError(t, json.Unmarshal(baselineJSON, &s))
	return s
}

func TestWhatBreaksIsNamedBeforeWhatOnlyDiffers(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change func(*surface)
		want   string
	}{
		"nothing": {func(*surface) {}, ""},
		"a call that is gone": {func(s *surface) { delete(s.Calls, "GET /v1/license-keys/{id}") },
			"BREAKS  GET /v1/license-keys/{id} is gone"},
		"a field that is read and gone": {func(s *surface) { delete(s.Types["LicenseKeyRead"].Fields, "expires_at") },
			"BREAKS  LicenseKeyRead.expires_at is gone; polargate reads it"},
		"a field that isn't read and gone": {func(s *surface) { delete(s.Types["CustomerStateSubscription"].Fields, "amount") },
			"differs CustomerStateSubscription.amount is gone"},
		"a field of another type": {func(s *surface) { s.Types["CustomerStateMeter"].Fields["balance"] = "text" },
			"BREAKS  CustomerStateMeter.balance was number, and is text; polargate reads it"},
		"a new field": {func(s *surface) { s.Types["LicenseKeyRead"].Fields["member"] = "LicenseKeyMember or null" },
			"differs LicenseKeyRead.member is new: LicenseKeyMember or null"},
		"a new status": {func(s *surface) {
			one := s.Types["LicenseKeyStatus"]
			one.Values = append(slices.Clone(one.Values), "suspended")
			s.Types["LicenseKeyStatus"] = one
		}, `differs LicenseKeyStatus has a new value: "suspended"`},
		"a new field that must be sent": {func(s *surface) {
			one := s.Types["LicenseKeyValidate"]
			one.Fields["nonce"] = "text"
			one.Required = append(slices.Clone(one.Required), "nonce")
			s.Types["LicenseKeyValidate"] = one
		}, "BREAKS  LicenseKeyValidate.nonce is new: text"},
		"a field that an answer needs": {func(s *surface) {
			one := s.Types["ValidatedLicenseKey"]
			one.Required = slices.DeleteFunc(slices.Clone(one.Required), func(f string) bool { return f == "status" })
			s.Types["ValidatedLicenseKey"] = one
		}, "BREAKS  ValidatedLicenseKey.status can be left out now; polargate reads it"},
		"another answer": {func(s *surface) {
			one := s.Calls["POST /v1/customer-sessions/"]
			one.Answers = map[string]string{"200": "CustomerSession", "422": "HTTPValidationError"}
			s.Calls["POST /v1/customer-sessions/"] = one
		}, "BREAKS  POST /v1/customer-sessions/: answer 200 is new: CustomerSession\nBREAKS  POST /v1/customer-sessions/: no answer 201 any more"},
		"another scope": {func(s *surface) {
			one := s.Calls["GET /v1/customers/{id}/state"]
			one.Scopes = []string{"state:read"}
			s.Calls["GET /v1/customers/{id}/state"] = one
		}, "BREAKS  GET /v1/customers/{id}/state: the scopes were customers:read, customers:write, and are state:read"},
		"a parameter that is gone": {func(s *surface) { delete(s.Calls["GET /v1/license-keys/"].Parameters, "query status") },
			`BREAKS  GET /v1/license-keys/: parameter "query status" is gone`},
		"both kinds": {func(s *surface) {
			s.Types["Address"].Fields["altitude"] = "number"
			delete(s.Types["Pagination"].Fields, "max_page")
		}, "BREAKS  Pagination.max_page is gone; polargate reads it\ndiffers Address.altitude is new: number"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			now := then(t)
			c.change(&now)
			var lines []string
			for _, one := range compare(then(t), now) {
				lines = append(lines, one.String())
			}
			assert.Equal(t, c.want, strings.Join(lines, "\n"))
		})
	}
}

func TestASchemaIsReadAsPolarPublishesIt(t *testing.T) {
	t.Parallel()
	const schema = `{"openapi":"3.1.0","info":{"version":"2027-01"},"paths":{"/v1/license-keys/{id}":{
		"parameters":[],
		"get":{"parameters":[{"name":"id","in":"path","required":true,"schema":{"type":"string","format":"uuid4"}}],
			"security":[{"oat":["license_keys:read"]}],
			"responses":{"200":{"content":{"application/json":{"schema":{"$ref":"#/components/schemas/Key"}}}},"404":{}}},
		"patch":{"requestBody":{"content":{"application/json":{"schema":{"$ref":"#/components/schemas/Update"}}}},"responses":{}}}},
		"components":{"schemas":{
			"Key":{"type":"object","required":["id","at"],"properties":{"id":{"type":"string"},
				"at":{"anyOf":[{"type":"string","format":"date-time"},{"type":"null"}]},
				"status":{"$ref":"#/components/schemas/Status"},"all":{"type":"array","items":{"$ref":"#/components/schemas/Key"}},
				"kind":{"const":"x","type":"string"},"any":{}}},
			"Status":{"type":"string","enum":["b","a"]},
			"Update":{"oneOf":[{"$ref":"#/components/schemas/Key"},{"$ref":"#/components/schemas/Status"}]}}}}`
	s, err := readSchema([]byte(schema))
	require.NoError(t, err)
	assert.Equal(t, surface{
		Version: "2027-01",
		Calls: map[string]call{
			"GET /v1/license-keys/{id}": {Parameters: map[string]string{"path id": "required text"},
				Answers: map[string]string{"200": "Key", "404": ""}, Scopes: []string{"license_keys:read"}},
			"PATCH /v1/license-keys/{id}": {Parameters: map[string]string{}, Body: "Update", Answers: map[string]string{}},
		},
		Types: map[string]shape{
			"Key": {Required: []string{"at", "id"}, Fields: map[string]string{"id": "text", "at": "null or time", "status": "Status",
				"all": "list of Key", "kind": `"x"`, "any": "anything"}},
			"Status": {Values: []string{"a", "b"}},
			"Update": {Fields: map[string]string{"": "Key or Status"}},
		},
	}, s)
	for _, bad := range []string{``, `{}`, `[]`, `<html>`, `{"paths":{"/":{}},"components":{}}`} {
		_, err := readSchema([]byte(bad))
		assert.Error(t, err, bad)
	}
}

func TestTheCommandSaysWhetherSomethingBreaks(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "openapi.json")
	require.NoError(t, os.WriteFile(path, []byte(`{"paths":{"/":{"get":{}}},"components":{"schemas":{"X":{"type":"object"}}}}`), 0o600))
	var out, problems strings.Builder
	none := func(string) string { return "" }
	assert.Equal(t, 1, run(t.Context(), []string{"-schema", path}, &out, &problems, none))
	assert.Contains(t, out.String(), "POST /v1/license-keys/validate is gone")
	assert.Equal(t, 2, run(t.Context(), []string{"-schema", path + "x"}, &out, &problems, none))
	assert.Equal(t, 2, run(t.Context(), nil, &out, &problems, none))
	assert.Equal(t, 2, run(t.Context(), []string{"-record", t.TempDir()}, &out, &problems, none))
	assert.Contains(t, problems.String(), "POLAR_ACCESS_TOKEN")
	assert.Equal(t, 2, run(t.Context(), []string{"-record", t.TempDir(), "-base", "https://api.polar.sh"}, &out, &problems, func(string) string { return "x" }))
	assert.Contains(t, problems.String(), "production")
}

func TestWhatIsReadIsInTheSchemaAndInTheSource(t *testing.T) {
	t.Parallel()
	var source strings.Builder
	root := filepath.Join("..", "..")
	files, err := filepath.Glob(filepath.Join(root, "*.go"))
	require.NoError(t, err)
	rooms, err := filepath.Glob(filepath.Join(root, "internal", "*", "*.go"))
	require.NoError(t, err)
	rooms = slices.DeleteFunc(rooms, func(file string) bool { return filepath.Base(filepath.Dir(file)) == "drift" })
	for _, file := range append(files, rooms...) {
		if !strings.HasSuffix(file, "_test.go") {
			data, err := os.ReadFile(file)
			require.NoError(t, err)
			source.Write(data)
		}
	}
	s := then(t)
	events := []string{"EventsIngestResponse"} // read by nobody until events are sent
	for name, fields := range reads {
		one, ok := s.Types[name]
		if !assert.True(t, ok, name) {
			continue
		}
		for _, field := range fields {
			assert.Contains(t, one.Fields, field, name)
			if !slices.Contains(events, name) {
				assert.Contains(t, source.String(), `"`+field+`"`, "%s.%s isn't read", name, field)
			}
		}
	}
	for _, name := range calls {
		assert.Contains(t, s.Calls, name)
	}
}

func TestPolartestPlaysEveryCall(t *testing.T) {
	t.Parallel()
	p := polartest.New(polartest.Config{Unlimited: true})
	token := p.AddToken(polartest.Token{})
	for _, name := range calls {
		method, path, _ := strings.Cut(name, " ")
		for _, id := range []string{"{id}", "{external_id}", "{activation_id}"} {
			path = strings.ReplaceAll(path, id, unknownID)
		}
		r, err := http.NewRequest(method, p.URL()+path, nil)
		require.NoError(t, err)
		r.Header.Set("Authorization", "Bearer "+token)
		answer, err := p.Client().Do(r)
		require.NoError(t, err)
		var said struct{ Error, Detail any }
		_ = json.NewDecoder(answer.Body).Decode(&said)
		_ = answer.Body.Close()
		assert.NotEqual(t, 405, answer.StatusCode, name)
		assert.False(t, answer.StatusCode == 404 && said.Error == nil, "%s: there is no such path", name)
	}
}

func TestARecordingHasTheFormOfTheOthersAndNoSecrets(t *testing.T) {
	t.Parallel()
	p := polartest.New(polartest.Config{Unlimited: true})
	ada := p.AddCustomer(polartest.Customer{ExternalID: "usr_1", Email: "ada@corp.example", Name: "Ada Lovelace"})
	key := p.AddKey(polartest.LicenseKey{CustomerID: ada.ID, LimitActivations: polartest.Limit(2), Activations: []polartest.Activation{{Label: "laptop"}}})
	token := p.AddToken(polartest.Token{})
	server := httptest.NewServer(p)
	defer server.Close()
	folder := t.TempDir()
	var out strings.Builder
	r := recorder{base: server.URL + "/", token: token, folder: folder, out: &out}
	require.NoError(t, r.record(t.Context()))
	assert.Contains(t, out.String(), "200 validate.ok")
	assert.Contains(t, out.String(), "201 customer_sessions.by_id")

	golden, err := os.ReadFile(filepath.Join("..", "..", "polartest", "testdata", "golden", "keys", "get_ok.json"))
	require.NoError(t, err)
	n := 0
	require.NoError(t, filepath.WalkDir(folder, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		n++
		data, err := os.ReadFile(path)
		require.NoError(t, err)
		for _, secret := range []string{token, key.Key, "ada@", "ada%40", "Lovelace", server.URL} {
			assert.NotContains(t, string(data), secret, path)
		}
		withoutSynthetic := strings.NewReplacer("polar_cst_synthetic", "", "polar_oat_synthetic", "").Replace(string(data))
		assert.NotContains(t, withoutSynthetic, "polar_", path)
		assert.Equal(t, membersOf(t, golden, ""), membersOf(t, data, ""), path)
		assert.Equal(t, membersOf(t, golden, "request"), membersOf(t, data, "request"), path)
		assert.Equal(t, membersOf(t, golden, "response"), membersOf(t, data, "response"), path)
		return nil
	}))
	assert.Equal(t, 18, n)
	for _, asked := range p.Requests() {
		assert.True(t, asked.Method == http.MethodGet || strings.HasSuffix(asked.Path, "/validate") || asked.Path == "/v1/customer-sessions/", asked.Path)
	}
	recorded, err := os.ReadFile(filepath.Join(folder, "keys", "get_ok.json"))
	require.NoError(t, err)
	assert.Contains(t, string(recorded), `"label": "laptop"`)
}

// membersOf are the names in an object, or in one of its members.
func membersOf(t *testing.T, data []byte, of string) (names []string) {
	t.Helper()
	var all map[string]json.RawMessage
	require.NoError(t, json.Unmarshal(data, &all))
	if of != "" {
		require.NoError(t, json.Unmarshal(all[of], &all))
		for _, name := range []string{"name", "request", "response", "state"} {
			delete(all, name)
		}
	}
	for name := range all {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}
