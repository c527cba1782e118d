package polartest_test

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/polargate/polargate/polartest"
)

func detail(t *testing.T, body string) string {
	t.Helper()
	var e struct {
		Detail string `json:"detail"`
	}
	require.NoError(t, json.Unmarshal([]byte(body), &e), body)
	return e.Detail
}

func unlimited() *polartest.Polar { return polartest.New(polartest.Config{Unlimited: true}) }

func TestAddKeyFillsWhatIsEmptyAndGivesACopy(t *testing.T) {
	t.Parallel()
	p := unlimited()
	k := p.AddKey(polartest.LicenseKey{
		LimitActivations: polartest.Limit(3),
		Activations:      []polartest.Activation{{Label: "laptop", Conditions: map[string]any{"n": 1, "f": float32(0.5), "s": "x", "b": true}}},
	})
	assert.Regexp(t, `^POLAR-[0-9A-F]{8}(-[0-9A-F]{4}){3}-[0-9A-F]{12}$`, k.Key)
	assert.Equal(t, p.OrganizationID(), k.OrganizationID)
	assert.Equal(t, "granted", k.Status)
	for _, id := range []string{k.ID, k.BenefitID, k.CustomerID, k.Activations[0].ID, k.OrganizationID} {
		assert.Regexp(t, `^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`, id)
	}
	assert.Equal(t, map[string]any{"n": int64(1), "f": 0.5, "s": "x", "b": true}, k.Activations[0].Conditions)
	assert.NotEmpty(t, k.Customer.Email)

	*k.LimitActivations = 99
	k.Activations[0].Conditions["n"] = "changed"
	k.Activations[0].Released = true
	again, ok := p.LicenseKey(k.Key)
	require.True(t, ok)
	assert.EqualValues(t, 3, *again.LimitActivations)
	assert.Equal(t, int64(1), again.Activations[0].Conditions["n"])
	assert.Equal(t, 1, p.Seats(k.ID))
	_, ok = p.LicenseKey("POLAR-NO")
	assert.False(t, ok)
	assert.Zero(t, p.Seats("POLAR-NO"))
	assert.False(t, p.Update("POLAR-NO", func(*polartest.LicenseKey) {}))
}

func TestMistakesOfATestPanicWithWordsThatHelp(t *testing.T) {
	t.Parallel()
	p := unlimited()
	k := p.AddKey(polartest.LicenseKey{Key: "ONE"})
	p.Revoke("ONE")
	for name, test := range map[string]struct {
		mistake func()
		words   string
	}{
		"an organization that is no UUID": {func() { polartest.New(polartest.Config{OrganizationID: "acme"}) }, `Config.OrganizationID "acme"`},
		"a UUID of another version": {func() {
			p.AddKey(polartest.LicenseKey{BenefitID: "11111111-2222-1333-8444-555555555555"})
		}, "LicenseKey.BenefitID"},
		"a status that does not exist": {func() { p.AddKey(polartest.LicenseKey{Status: "active"}) }, `"active"`},
		"the same key twice":           {func() { p.AddKey(polartest.LicenseKey{Key: "ONE"}) }, "there already"},
		"revoking what is not there":   {func() { p.Revoke("TWO") }, `Revoke: there is no license key with the key or id "TWO"`},
		"rotating a revoked key":       {func() { p.Rotate(k.ID) }, "does not rotate a revoked"},
		"a fault without effect":       {func() { p.Inject(polartest.Fault{Path: "/validate"}) }, "no effect"},
		"conditions that are not scalar": {func() {
			p.Update("ONE", func(k *polartest.LicenseKey) {
				k.Activations = []polartest.Activation{{Meta: map[string]any{"a": []int{1}}}}
			})
		}, `"a" is a []int`},
	} {
		t.Run(name, func(t *testing.T) {
			defer func() { assert.Contains(t, fmt.Sprint(recover()), test.words) }()
			test.mistake()
		})
	}
	assert.Equal(t, 0, p.Seats("ONE"), "a change that panics changes nothing")
}

func TestAKeyIsUnknownUntilItsPurchaseHasArrived(t *testing.T) {
	t.Parallel()
	p := unlimited()
	token := p.AddToken(polartest.Token{})
	k := p.AddKey(polartest.LicenseKey{LimitActivations: polartest.Limit(1), VisibleFrom: p.Now().Add(2 * time.Minute)})
	try := func(want int) {
		t.Helper()
		for _, path := range []string{"validate", "activate"} {
			response, body := ask(t, p.Client(), "POST", portalPath+path, "", asking(k, `,"label":"x"`))
			assert.Equal(t, want, response.StatusCode, path)
			if want == 404 {
				assert.Equal(t, "Not found", detail(t, body))
			}
		}
		response, _ := ask(t, p.Client(), "GET", "/v1/license-keys/"+k.ID, token, "")
		assert.Equal(t, want, response.StatusCode)
	}
	try(404)
	p.Advance(2*time.Minute + time.Second)
	try(200)
}

func TestAKeyExpiresAtTheVeryMoment(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 5, 1, 0, 0, 0, 0, time.UTC)
	p := polartest.New(polartest.Config{Unlimited: true, Now: func() time.Time { return now }})
	k := p.AddKey(polartest.LicenseKey{ExpiresAt: now.Add(time.Hour)})
	status := func() int {
		response, _ := ask(t, p.Client(), "POST", portalPath+"validate", "", asking(k, ""))
		return response.StatusCode
	}
	p.Advance(time.Hour - time.Microsecond)
	assert.Equal(t, 200, status())
	p.Advance(time.Microsecond)
	assert.Equal(t, 404, status())
	p.Advance(-time.Hour)
	assert.Equal(t, 200, status())
	p.Revoke(k.Key)
	assert.Equal(t, 404, status())
	p.Grant(k.ID)
	assert.Equal(t, 200, status())
	after, _ := p.LicenseKey(k.ID)
	assert.EqualValues(t, 3, after.Validations)
	assert.Equal(t, p.Now(), after.LastValidatedAt)
}

func TestAWholeChainOfChecksRunsInPolarsOrder(t *testing.T) {
	t.Parallel()
	p := unlimited()
	k := p.AddKey(polartest.LicenseKey{
		Status: "revoked", ExpiresAt: p.Now().Add(-time.Hour), LimitActivations: polartest.Limit(1), LimitUsage: polartest.Limit(1),
		Activations: []polartest.Activation{{Label: "seat", Conditions: map[string]any{"n": 1}, Released: true}},
	})
	const other = "11111111-2222-4333-8444-555555555555"
	conditions := `{"n":2}`
	benefit, customer := other, other
	validate := func() string {
		_, body := ask(t, p.Client(), "POST", portalPath+"validate", "", asking(k, fmt.Sprintf(
			`,"activation_id":%q,"conditions":%s,"benefit_id":%q,"customer_id":%q,"increment_usage":2`,
			k.Activations[0].ID, conditions, benefit, customer)))
		return detail(t, body)
	}
	update := func(change func(*polartest.LicenseKey)) { require.True(t, p.Update(k.ID, change)) }
	assert.Equal(t, "License key is no longer active.", validate())
	p.Grant(k.ID)
	assert.Equal(t, "License key has expired.", validate())
	update(func(k *polartest.LicenseKey) { k.ExpiresAt = time.Time{} })
	assert.Equal(t, "Not found", validate())
	update(func(k *polartest.LicenseKey) { k.Activations[0].Released = false })
	assert.Equal(t, "License key does not match required conditions", validate())
	conditions = `{"n":true}`
	assert.Equal(t, "License key does not match given benefit.", validate())
	benefit = k.BenefitID
	assert.Equal(t, "License key does not match given user.", validate())
	customer = k.CustomerID
	assert.Equal(t, "License key only has 1 more usages.", validate())
	update(func(k *polartest.LicenseKey) { k.LimitUsage = nil })
	assert.Empty(t, validate())
	after, _ := p.LicenseKey(k.ID)
	assert.EqualValues(t, 2, after.Usage)
	assert.EqualValues(t, 1, after.Validations, "refusals count nothing")
}

func TestConditionsAreComparedAsPythonCompares(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		stored any
		sent   string
		equal  bool
	}{
		{1, "1", true}, {1, "1.0", true}, {1, "true", true}, {0, "false", true}, {1, "1e0", true}, {1, `"1"`, false},
		{true, "1", true}, {true, `"true"`, false}, {1.5, "1.5", true}, {"a", `"a"`, true}, {"a", `"A"`, false},
		{int64(9007199254740993), "9007199254740993", true}, {int64(9007199254740993), "9007199254740992.0", false},
		{json.Number("123456789012345678901234567890"), "123456789012345678901234567890", true}, {1, "NaN", false}, {1, "1e999", false},
	} {
		p := unlimited()
		k := p.AddKey(polartest.LicenseKey{LimitActivations: polartest.Limit(1),
			Activations: []polartest.Activation{{Conditions: map[string]any{"v": test.stored}}}})
		response, body := ask(t, p.Client(), "POST", portalPath+"validate", "", asking(k,
			fmt.Sprintf(`,"activation_id":%q,"conditions":{"v":%s}`, k.Activations[0].ID, test.sent)))
		assert.Equal(t, test.equal, response.StatusCode == http.StatusOK, "%v and %s: %s", test.stored, test.sent, body)
	}
}

func TestLimitsHoldExactlyUnderParallelLoad(t *testing.T) {
	t.Parallel()
	p := unlimited()
	k := p.AddKey(polartest.LicenseKey{LimitActivations: polartest.Limit(7), LimitUsage: polartest.Limit(20)})
	server, err := p.Start()
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, server.Close()) })
	var mu sync.Mutex
	statuses := map[string]int{}
	var group sync.WaitGroup
	for i := range 60 {
		group.Go(func() {
			client, base := p.Client(), "http://any.host"
			if i%2 == 0 {
				client, base = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}, server.URL
			}
			activated, _ := askAt(t, client, base, "POST", portalPath+"activate", "", asking(k, `,"label":"x"`))
			counted, _ := askAt(t, client, base, "POST", portalPath+"validate", "", asking(k, `,"increment_usage":1`))
			mu.Lock()
			defer mu.Unlock()
			statuses[fmt.Sprint("activate ", activated.StatusCode)]++
			statuses[fmt.Sprint("validate ", counted.StatusCode)]++
		})
	}
	group.Wait()
	assert.Equal(t, map[string]int{"activate 200": 7, "activate 403": 53, "validate 200": 20, "validate 400": 40}, statuses)
	assert.Equal(t, 7, p.Seats(k.ID))
	after, _ := p.LicenseKey(k.ID)
	assert.EqualValues(t, 20, after.Usage)
	assert.EqualValues(t, 20, after.Validations)
	assert.Equal(t, 60, p.Count("/activate"))
	assert.Equal(t, 120, p.Count(""))
}

func TestRotationLeavesTheActivationsAndKillsTheOldKey(t *testing.T) {
	t.Parallel()
	p := unlimited()
	k := p.AddKey(polartest.LicenseKey{Prefix: "ACME", LimitActivations: polartest.Limit(1), Activations: []polartest.Activation{{Label: "seat"}}})
	assert.True(t, strings.HasPrefix(k.Key, "ACME-"))
	validate := func(key string) int {
		k := k
		k.Key = key
		response, _ := ask(t, p.Client(), "POST", portalPath+"validate", "", asking(k, fmt.Sprintf(`,"activation_id":%q`, k.Activations[0].ID)))
		return response.StatusCode
	}
	next := p.Rotate(k.Key)
	assert.NotEqual(t, k.Key, next)
	assert.True(t, strings.HasPrefix(next, "ACME-"))
	assert.Equal(t, 404, validate(k.Key))
	assert.Equal(t, 200, validate(next))
	assert.Equal(t, 1, p.Seats(next))
	_, old := p.LicenseKey(k.Key)
	assert.False(t, old)
}

func TestBreachesOfTheProtocolAreReported(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		request func(base string) *http.Request
		status  int
		words   string // empty: no breach
	}{
		"a good request":       {post("validate", `{"key":"x","organization_id":"11111111-2222-4333-8444-555555555555"}`), 404, ""},
		"no token":             {get("/v1/license-keys/"), 401, ""},
		"a path that is gone":  {get("/v2/license-keys/"), 404, "no such path"},
		"a doubled slash":      {get("//v1/license-keys/"), 404, "no such path"},
		"a wrong method":       {get("/v1/license-keys/11111111-2222-4333-8444-555555555555/rotate"), 405, "does not take GET"},
		"a slash too few":      {get("/v1/license-keys"), 307, "slash"},
		"a slash in an ID":     {get("/v1/customers/external/a%2Fb/state"), 404, "no such path"},
		"a slash too many":     {post("validate/", `{}`), 307, "slash"},
		"a field missing":      {post("validate", `{}`), 422, "Field required"},
		"no JSON":              {post("validate", `{`), 422, "JSON decode error"},
		"a compressed body":    {post("validate", compressed(`{}`)), 400, "cannot be read"},
		"an unmeasured body":   {chunked("activate", `{}`), 411, "chunks"},
		"a version":            {versioned("2026-04"), 401, "Polar-Version"},
		"an unknown version":   {versioned("2031-01"), 404, "no such path"},
		"what is not played":   {get("/v1/customers/external/usr_1"), 401, ""},
		"a body over 10 MiB":   {post("activate", strings.Repeat(" ", 10<<20+1)), 413, "too large"},
		"51 entries of meta":   {post("activate", `{"meta":{`+manyEntries(51)+`}}`), 422, "at most 50 items"},
		"a negative increment": {post("validate", `{"increment_usage":-1}`), 422, "greater than or equal to 0"},
		"half an increment":    {post("validate", `{"increment_usage":0.5}`), 422, "fractional part"},
	} {
		for _, over := range []string{"transport", "socket"} {
			t.Run(name+" over "+over, func(t *testing.T) {
				t.Parallel()
				var mu sync.Mutex
				var words []string
				p := polartest.New(polartest.Config{Unlimited: true, OnBreach: func(r polartest.Request, what string) {
					mu.Lock()
					defer mu.Unlock()
					words = append(words, what)
					assert.Equal(t, test.status, r.Status)
				}})
				client, base := p.Client(), "http://polar.test"
				if over == "socket" {
					server, err := p.Start()
					require.NoError(t, err)
					defer func() { assert.NoError(t, server.Close()) }()
					client, base = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}, server.URL
				}
				client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
				response, err := client.Do(test.request(base))
				require.NoError(t, err)
				require.NoError(t, response.Body.Close())
				assert.Equal(t, test.status, response.StatusCode)
				mu.Lock()
				defer mu.Unlock()
				if test.words == "" {
					assert.Empty(t, words)
					return
				}
				require.Len(t, words, 1)
				assert.Contains(t, words[0], test.words)
			})
		}
	}
}

func get(path string) func(string) *http.Request {
	return func(base string) *http.Request {
		r := httptest.NewRequest(http.MethodGet, base+path, http.NoBody)
		r.RequestURI = ""
		return r
	}
}

func post(path, body string) func(string) *http.Request {
	return func(base string) *http.Request {
		r := httptest.NewRequest(http.MethodPost, base+portalPath+path, strings.NewReader(body))
		r.RequestURI = ""
		r.Header.Set("Content-Type", "application/json")
		return r
	}
}

func chunked(path, body string) func(string) *http.Request {
	return func(base string) *http.Request {
		r := post(path, body)(base)
		r.Body, r.ContentLength = io.NopCloser(strings.NewReader(body)), -1
		return r
	}
}

func versioned(version string) func(string) *http.Request {
	return func(base string) *http.Request {
		r := get("/v1/license-keys/")(base)
		r.Header.Set("Polar-Version", version)
		return r
	}
}

func compressed(s string) string {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	_, _ = w.Write([]byte(s))
	_ = w.Close()
	return b.String()
}

func manyEntries(n int) string {
	var entries []string
	for i := range n {
		entries = append(entries, fmt.Sprintf(`"k%d":1`, i))
	}
	return strings.Join(entries, ",")
}

func TestRequestsAreRecordedAsTheyCame(t *testing.T) {
	t.Parallel()
	p := unlimited()
	k := p.AddKey(polartest.LicenseKey{})
	token := p.AddToken(polartest.Token{})
	ask(t, p.Client(), "POST", portalPath+"validate", "", asking(k, ""))
	p.Inject(polartest.Fault{Times: 1, Effect: polartest.ProxyPage(403)})
	ask(t, p.Client(), "GET", "/v1/license-keys/?limit=1", token, "")
	requests := p.Requests()
	require.Len(t, requests, 2)
	assert.Equal(t, "POST", requests[0].Method)
	assert.Equal(t, portalPath+"validate", requests[0].Path)
	assert.JSONEq(t, asking(k, ""), string(requests[0].Body))
	assert.Equal(t, 200, requests[0].Status)
	assert.Equal(t, "127.0.0.1", requests[0].Client)
	assert.Empty(t, requests[0].Fault)
	assert.Equal(t, "limit=1", requests[1].RawQuery)
	assert.Equal(t, "Bearer "+token, requests[1].Header.Get("Authorization"))
	assert.Equal(t, 403, requests[1].Status)
	assert.Equal(t, "ProxyPage", requests[1].Fault)
	requests[0].Body[0] = 'x'
	assert.JSONEq(t, asking(k, ""), string(p.Requests()[0].Body))
	p.ForgetRequests()
	assert.Empty(t, p.Requests())
	assert.Zero(t, p.Count(""))
}

func TestTokensStopWhenTheyExpireAndSeeTheirOwnOrganizationOnly(t *testing.T) {
	t.Parallel()
	p := unlimited()
	k := p.AddKey(polartest.LicenseKey{})
	short := p.AddToken(polartest.Token{ExpiresAt: p.Now().Add(time.Hour)})
	foreign := p.AddToken(polartest.Token{OrganizationID: "549c44b7-2e67-4e0e-8a20-17e76c895830"})
	status := func(token string) int {
		response, _ := ask(t, p.Client(), "GET", "/v1/license-keys/"+k.ID, token, "")
		return response.StatusCode
	}
	assert.Equal(t, 200, status(short))
	assert.Equal(t, 404, status(foreign))
	p.Advance(time.Hour)
	assert.Equal(t, 401, status(short))
}

func TestAPatchChangesModifiedAtOnlyIfItChangesAnything(t *testing.T) {
	t.Parallel()
	p := unlimited()
	token := p.AddToken(polartest.Token{})
	k := p.AddKey(polartest.LicenseKey{LimitActivations: polartest.Limit(5)})
	patch := func(body string) (polartest.LicenseKey, string) {
		response, text := ask(t, p.Client(), "PATCH", "/v1/license-keys/"+k.ID, token, body)
		require.Equal(t, 200, response.StatusCode, text)
		after, _ := p.LicenseKey(k.ID)
		return after, text
	}
	after, _ := patch(`{"limit_activations":5,"status":"granted","key":"ANOTHER"}`)
	assert.True(t, after.ModifiedAt.IsZero())
	assert.Equal(t, k.Key, after.Key)
	after, text := patch(`{"expires_at":"2030-01-02T03:04:05.5+02:00"}`)
	assert.Contains(t, text, `"expires_at":"2030-01-02T03:04:05.500000+02:00"`)
	assert.Equal(t, time.Date(2030, 1, 2, 1, 4, 5, 500_000_000, time.UTC), after.ExpiresAt)
	assert.False(t, after.ModifiedAt.IsZero())
	after, _ = patch(`{"expires_at":1893456000}`)
	assert.Equal(t, time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC), after.ExpiresAt)
}
