package polargate

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/polargate/polargate/internal/wire"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A time that JSON cannot write would make a state that cannot be saved.
func TestATimeThatWasReadCanBeWrittenAgain(t *testing.T) {
	t.Parallel()
	for _, raw := range []string{
		`"9999-12-31T23:59:59-01:00"`, `"9999-12-31T23:59:59.999999-23:59"`, `"0000-01-01T00:00:00+01:00"`,
		`"0001-01-01T00:00:00Z"`, `"0000-01-01"`, `"9999-12-31"`,
	} {
		got, err := wire.ParseTime(json.RawMessage(raw))
		if err != nil {
			continue // as good: it proves nothing
		}
		_, err = json.Marshal(verdict{ExpiresAt: got})
		assert.NoErrorf(t, err, "%s was read as %v", raw, got)
		_, err = json.Marshal(Status{ExpiresAt: got})
		assert.NoErrorf(t, err, "%s was read as %v", raw, got)
	}
}

func TestConditionsAndMetaKeepToPolarsLimits(t *testing.T) {
	t.Parallel()
	const astral = "🔑" // one code point, four bytes, two UTF-16 units
	entries := func(n int) map[string]any {
		m := make(map[string]any, n)
		for i := range n {
			m[fmt.Sprint("k", i)] = i
		}
		return m
	}
	type word string
	one := func(v any) map[string]any { return map[string]any{"k": v} }
	named := func(name string) map[string]any { return map[string]any{name: "v"} }
	for name, c := range map[string]struct {
		m       map[string]any
		problem string
	}{
		"nil":                            {nil, ""},
		"empty":                          {map[string]any{}, ""},
		"50 entries":                     {entries(50), ""},
		"51 entries":                     {entries(51), "51 entries"},
		"a name of 40 letters":           {named(strings.Repeat("n", 40)), ""},
		"a name of 41 letters":           {named(strings.Repeat("n", 41)), "41 characters"},
		"a name of 40 astral ones":       {named(strings.Repeat(astral, 40)), ""},
		"a name of 41 astral ones":       {named(strings.Repeat(astral, 41)), "41 characters"},
		"an empty name":                  {named(""), "0 characters"},
		"a name of one space":            {named(" "), ""},
		"a name with a NUL":              {named("a\x00b"), "NUL"},
		"a name that is not UTF-8":       {named("a\xff"), "name"},
		"a text of 500 letters":          {one(strings.Repeat("v", 500)), ""},
		"a text of 501 letters":          {one(strings.Repeat("v", 501)), "501 characters"},
		"a text of 500 astral ones":      {one(strings.Repeat(astral, 500)), ""},
		"a text of 501 astral ones":      {one(strings.Repeat(astral, 501)), "501 characters"},
		"an empty text":                  {one(""), "0 characters"},
		"a text with a NUL":              {one("a\x00"), "NUL"},
		"a text that is not UTF-8":       {one("a\xc3"), `"k"`},
		"true and false":                 {map[string]any{"t": true, "f": false}, ""},
		"zero":                           {one(0), ""},
		"the smallest int64":             {one(int64(math.MinInt64)), ""},
		"the largest uint64":             {one(uint64(math.MaxUint64)), ""},
		"every kind of integer":          {map[string]any{"1": int8(1), "2": int16(1), "3": int32(1), "4": uint(1), "5": uint8(1), "6": uint16(1), "7": uint32(1)}, ""},
		"the largest float64":            {one(math.MaxFloat64), ""},
		"a float32":                      {one(float32(1.5)), ""},
		"not a number":                   {one(math.NaN()), "finite"},
		"infinity":                       {one(math.Inf(1)), "finite"},
		"minus infinity":                 {one(math.Inf(-1)), "finite"},
		"not a number of 32 bits":        {one(float32(math.NaN())), "finite"},
		"infinity of 32 bits":            {one(float32(math.Inf(-1))), "finite"},
		"a number of JSON":               {one(json.Number("12345678901234567890")), ""},
		"a number of JSON that is none":  {one(json.Number("12x")), "finite"},
		"nothing as a value":             {one(nil), "Polar takes text"},
		"a map as a value":               {one(map[string]any{"a": 1}), "Polar takes text"},
		"a list as a value":              {one([]string{"a"}), "Polar takes text"},
		"bytes as a value":               {one([]byte("a")), "Polar takes text"},
		"a pointer as a value":           {one(new(int)), "Polar takes text"},
		"a time as a value":              {one(time.Now()), "Polar takes text"},
		"a complex number as a value":    {one(complex(1, 1)), "Polar takes text"},
		"a text of another type":         {one(word("a")), "Polar takes text"},
		"one bad value among good ones":  {map[string]any{"a": "1", "b": nil, "c": 3}, `"b"`},
		"a stored condition as it is":    {one(json.RawMessage(`"stored"`)), ""},
		"an empty name among good names": {map[string]any{"a": "1", "": "2"}, "0 characters"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			err := checkMap("conditions", c.m)
			if c.problem == "" {
				require.NoError(t, err)
				_, err := json.Marshal(c.m)
				require.NoError(t, err, "what passes can be sent")
				return
			}
			var input *InputError
			require.ErrorAs(t, err, &input)
			assert.Equal(t, "conditions", input.Field)
			assert.Contains(t, input.Problem, c.problem)
			assert.True(t, utf8.ValidString(err.Error()))
			assert.NotContains(t, err.Error(), "vvvvv", "an input error never repeats the value")
		})
	}
}

// The rules above are those of a real server: what it took passes here, and what
// it refused does not.
func TestConditionsThatPolarTookPassAndOthersDoNot(t *testing.T) {
	t.Parallel()
	paths, err := filepath.Glob(filepath.FromSlash("polartest/testdata/golden/validate/condition*.json"))
	require.NoError(t, err)
	more, err := filepath.Glob(filepath.FromSlash("polartest/testdata/golden/activate/meta_*.json"))
	require.NoError(t, err)
	tried := 0
	for _, path := range append(paths, more...) {
		data, err := os.ReadFile(path)
		require.NoError(t, err)
		var exchange struct {
			Request  struct{ Body json.RawMessage }
			Response struct{ Status int }
		}
		require.NoError(t, json.Unmarshal(data, &exchange))
		body := exchange.Request.Body
		var raw struct {
			Text string `json:"$raw"`
		}
		if json.Unmarshal(body, &raw) == nil && raw.Text != "" {
			body = json.RawMessage(raw.Text)
		}
		var sent struct{ Conditions, Meta any }
		d := json.NewDecoder(bytes.NewReader(body))
		d.UseNumber()
		require.NoError(t, d.Decode(&sent), path)
		for _, v := range []any{sent.Conditions, sent.Meta} {
			m, isMap := v.(map[string]any)
			if !isMap {
				continue // a caller of ours cannot send it
			}
			tried++
			if exchange.Response.Status == 422 {
				assert.Error(t, checkMap("conditions", m), path)
			} else {
				assert.NoError(t, checkMap("conditions", m), path)
			}
		}
	}
	assert.Greater(t, tried, 15)
}

func TestARefusalIsReadInEachOfItsShapes(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		body string
		want refusal
	}{
		"Polar's own":                       {`{"error":"ResourceNotFound","detail":"Not found"}`, refusal{Error: "ResourceNotFound", Detail: "Not found"}},
		"the router's":                      {`{"detail":"Not Found"}`, refusal{Detail: "Not Found"}},
		"OAuth's":                           {`{"error":"invalid_token","error_description":"gone"}`, refusal{Error: "invalid_token", Detail: "gone"}},
		"detail before description":         {`{"error":"e","error_description":"b","detail":"a"}`, refusal{Error: "e", Detail: "a"}},
		"nothing in it":                     {`{}`, refusal{}},
		"white space around":                {"\n {\"error\":\"E\"} \r\n", refusal{Error: "E"}},
		"members of other types":            {`{"error":{"code":5},"detail":7}`, refusal{}},
		"members that are null":             {`{"error":null,"detail":null}`, refusal{}},
		"another spelling is another name":  {`{"Error":"ResourceNotFound","DETAIL":"Not found"}`, refusal{}},
		"a malformed field, without input":  {`{"error":"RequestValidationError","detail":[{"type":"t","loc":["body","conditions","k",0],"msg":"too long","input":"SECRET","ctx":{"v":"SECRET"}}]}`, refusal{Error: "RequestValidationError", Faults: []string{"body.conditions.k.0: too long"}}},
		"a malformed field without a place": {`{"detail":[{"msg":"bad"}]}`, refusal{Faults: []string{": bad"}}},
		"no malformed fields":               {`{"error":"RequestValidationError","detail":[]}`, refusal{Error: "RequestValidationError"}},
		"five faults of seven":              {`{"detail":[{"msg":"1"},{"msg":"2"},{"msg":"3"},{"msg":"4"},{"msg":"5"},{"msg":"6"},{"msg":"7"}]}`, refusal{Faults: []string{": 1", ": 2", ": 3", ": 4", ": 5"}}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, ok := parseRefusal([]byte(c.body))
			require.True(t, ok)
			assert.Equal(t, c.want, got)
		})
	}
	for name, body := range map[string]string{
		"nothing":         "",
		"null":            "null",
		"a list":          `[{"error":"ResourceNotFound"}]`,
		"a text":          `"ResourceNotFound"`,
		"a web page":      "<!doctype html><title>Login</title>",
		"half of it":      `{"error":"ResourceNotFound","detail":"Not`,
		"two of them":     `{"error":"ResourceNotFound"}{"error":"ResourceNotFound"}`,
		"text after it":   `{"error":"ResourceNotFound"} <!-- proxy -->`,
		"text before it":  `)]}',{"error":"ResourceNotFound"}`,
		"too deep to be":  strings.Repeat(`{"error":`, 20000),
		"a sea of braces": strings.Repeat("{", 1<<16),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, ok := parseRefusal([]byte(body))
			assert.False(t, ok)
			assert.Equal(t, refusal{}, got)
		})
	}
}

func TestADetailIsMadeFitForAnError(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		given   string
		secrets []string
		want    string
	}{
		"nothing":                              {"", nil, ""},
		"a plain text":                         {"License key has expired.", []string{pastedKey}, "License key has expired."},
		"line breaks":                          {"one\r\ntwo\nthree", nil, "one  two three"},
		"an escape sequence":                   {"\x1b[31mred\x1b[0m", nil, "[31mred [0m"},
		"marks of right-to-left writing":       {"a\u202eb", nil, "a b"},
		"a line separator":                     {"a\u2028b", nil, "a b"},
		"bytes that are not UTF-8":             {"a\xffb", nil, "a\ufffdb"},
		"spaces around":                        {"  \n a \t", nil, "a"},
		"other scripts":                        {"ключ 鍵 🔑", nil, "ключ 鍵 🔑"},
		"the key":                              {"no key " + pastedKey + " here", []string{pastedKey}, "no key **** here"},
		"the key, twice, and the token":        {pastedKey + pastedKey + " token", []string{pastedKey, "token"}, "******** ****"},
		"no secret to hide":                    {"a b", []string{"", ""}, "a b"},
		"200 characters":                       {strings.Repeat("é", 200), nil, strings.Repeat("é", 200)},
		"201 characters":                       {strings.Repeat("é", 201), nil, strings.Repeat("é", 199) + "…"},
		"a key across the cut":                 {strings.Repeat("x", 190) + pastedKey, []string{pastedKey}, strings.Repeat("x", 190) + "****"},
		"a key that is hidden before the cut":  {pastedKey + strings.Repeat("x", 300), []string{pastedKey}, "****" + strings.Repeat("x", 195) + "…"},
		"a key with a line break that is ours": {"k\ney", []string{"k\ney"}, "****"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			assert.Equal(t, c.want, cleanDetail(c.given, c.secrets...))
		})
	}
}

// member reads one member of a license key in the form of its JSON.
var licenseMembers = map[string]func(LicenseKey) any{
	"id":                func(l LicenseKey) any { return l.ID },
	"created_at":        func(l LicenseKey) any { return l.CreatedAt },
	"modified_at":       func(l LicenseKey) any { return l.ModifiedAt },
	"organization_id":   func(l LicenseKey) any { return l.OrganizationID },
	"customer_id":       func(l LicenseKey) any { return l.CustomerID },
	"benefit_id":        func(l LicenseKey) any { return l.BenefitID },
	"key":               func(l LicenseKey) any { return l.Key.Reveal() },
	"status":            func(l LicenseKey) any { return string(l.Status) },
	"limit_activations": func(l LicenseKey) any { return l.LimitActivations },
	"usage":             func(l LicenseKey) any { return l.Usage },
	"limit_usage":       func(l LicenseKey) any { return l.LimitUsage },
	"validations":       func(l LicenseKey) any { return l.Validations },
	"last_validated_at": func(l LicenseKey) any { return l.LastValidatedAt },
	"expires_at":        func(l LicenseKey) any { return l.ExpiresAt },
	"display_key": func(l LicenseKey) any {
		if utf8.RuneCountInString(l.Key.Reveal()) < 16 {
			return nil // another than Polar's; see the test of short keys
		}
		return l.DisplayKey
	},
}

var customerMembers = map[string]func(Customer) any{
	"id":                        func(c Customer) any { return c.ID },
	"created_at":                func(c Customer) any { return c.CreatedAt },
	"modified_at":               func(c Customer) any { return c.ModifiedAt },
	"metadata":                  func(c Customer) any { return c.Metadata },
	"external_id":               func(c Customer) any { return c.ExternalID },
	"email":                     func(c Customer) any { return c.Email.Reveal() },
	"email_verified":            func(c Customer) any { return c.EmailVerified },
	"type":                      func(c Customer) any { return c.Type },
	"name":                      func(c Customer) any { return c.Name },
	"billing_name":              func(c Customer) any { return c.BillingName },
	"tax_id":                    func(c Customer) any { return c.TaxID },
	"locale":                    func(c Customer) any { return c.Locale },
	"organization_id":           func(c Customer) any { return c.OrganizationID },
	"default_payment_method_id": func(c Customer) any { return c.DefaultPaymentMethodID },
	"deleted_at":                func(c Customer) any { return c.DeletedAt },
	"first_user_event_at":       func(c Customer) any { return c.FirstUserEventAt },
	"avatar_url":                func(c Customer) any { return c.AvatarURL },
}

var addressMembers = map[string]func(Address) any{
	"line1":       func(a Address) any { return a.Line1 },
	"line2":       func(a Address) any { return a.Line2 },
	"postal_code": func(a Address) any { return a.PostalCode },
	"city":        func(a Address) any { return a.City },
	"state":       func(a Address) any { return a.State },
	"country":     func(a Address) any { return a.Country },
}

var activationMembers = map[string]func(Activation) any{
	"id":             func(a Activation) any { return a.ID },
	"license_key_id": func(a Activation) any { return a.LicenseKeyID },
	"label":          func(a Activation) any { return a.Label },
	"meta":           func(a Activation) any { return a.Meta },
	"created_at":     func(a Activation) any { return a.CreatedAt },
	"modified_at":    func(a Activation) any { return a.ModifiedAt },
}

// assertMembers holds what was decoded against the JSON that it came from.
func assertMembers[T any](t *testing.T, members map[string]func(T) any, got T, raw map[string]any, path string) {
	t.Helper()
	for name, read := range members {
		want, ok := raw[name]
		if !assert.Truef(t, ok, "%s has no %s", path, name) {
			continue
		}
		have := read(got)
		switch have := have.(type) {
		case nil:
		case time.Time:
			if want == nil {
				assert.Truef(t, have.IsZero(), "%s of %s", name, path)
				continue
			}
			at, err := time.Parse(time.RFC3339Nano, fmt.Sprint(want))
			if err != nil {
				at, err = time.Parse("2006-01-02T15:04:05", fmt.Sprint(want))
			}
			require.NoError(t, err)
			assert.Truef(t, at.Equal(have), "%s of %s", name, path)
		case *int64:
			if want == nil {
				assert.Nilf(t, have, "%s of %s", name, path)
				continue
			}
			if assert.NotNilf(t, have, "%s of %s", name, path) {
				assert.InDeltaf(t, want, float64(*have), 0, "%s of %s", name, path)
			}
		case int64:
			assert.InDeltaf(t, want, float64(have), 0, "%s of %s", name, path)
		case string:
			if want == nil {
				want = ""
			}
			assert.Equalf(t, want, have, "%s of %s", name, path)
		case []string:
			if want == nil {
				assert.Emptyf(t, have, "%s of %s", name, path)
				continue
			}
			assert.Equalf(t, fmt.Sprint(want), fmt.Sprint(have), "%s of %s", name, path)
		default:
			assert.Equalf(t, want, have, "%s of %s", name, path)
		}
	}
}

func assertLicense(t *testing.T, raw map[string]any, path string) LicenseKey {
	t.Helper()
	data, err := json.Marshal(raw)
	require.NoError(t, err)
	var got LicenseKey
	require.NoError(t, json.Unmarshal(data, &got), path)
	assertMembers(t, licenseMembers, got, raw, path)
	for name := range raw {
		if licenseMembers[name] == nil {
			// Members that the published schema does not have, or that are
			// looked at below.
			assert.Containsf(t, []string{"customer", "activation", "user", "user_id", "activations", "price_id"}, name, "%s of %s is not read", name, path)
		}
	}
	customer, ok := raw["customer"].(map[string]any)
	require.True(t, ok, path)
	assertMembers(t, customerMembers, got.Customer, customer, path)
	assert.Len(t, customer, len(customerMembers)+1, path) // and billing_address
	if address, ok := customer["billing_address"].(map[string]any); ok {
		require.NotNil(t, got.Customer.BillingAddress)
		assertMembers(t, addressMembers, *got.Customer.BillingAddress, address, path)
	} else {
		assert.Nil(t, got.Customer.BillingAddress, path)
	}
	if activation, ok := raw["activation"].(map[string]any); ok {
		require.NotNil(t, got.Activation, path)
		assertMembers(t, activationMembers, *got.Activation, activation, path)
		assert.Nil(t, got.Activation.LicenseKey)
	} else {
		assert.Nil(t, got.Activation, path)
	}
	return got
}

func TestEveryRecordedLicenseKeyIsReadInFull(t *testing.T) {
	t.Parallel()
	paths, err := filepath.Glob(filepath.FromSlash("polartest/testdata/golden/*/*.json"))
	require.NoError(t, err)
	licenses, activations := 0, 0
	for _, path := range paths {
		data, err := os.ReadFile(path)
		require.NoError(t, err)
		var exchange struct {
			Response struct {
				Status int
				Body   any
			}
		}
		require.NoError(t, json.Unmarshal(data, &exchange), path)
		body, ok := exchange.Response.Body.(map[string]any)
		if exchange.Response.Status != 200 || !ok {
			continue
		}
		if items, ok := body["items"].([]any); ok {
			for _, item := range items {
				if license, ok := item.(map[string]any); ok && license["display_key"] != nil {
					licenses++
					assertLicense(t, license, path)
				}
			}
			continue
		}
		if nested, ok := body["license_key"].(map[string]any); ok {
			activations++
			data, err := json.Marshal(body)
			require.NoError(t, err)
			want := assertLicense(t, nested, path)
			got, err := parseActivation(data, want.Key, want.OrganizationID, time.Time{})
			require.NoError(t, err, path)
			assertMembers(t, activationMembers, *got, body, path)
			require.NotNil(t, got.LicenseKey)
			assert.Equal(t, want, *got.LicenseKey, path)
			continue
		}
		if body["benefit_id"] != nil && body["status"] != nil {
			licenses++
			assertLicense(t, body, path)
		}
	}
	assert.Greater(t, licenses, 50)
	assert.Greater(t, activations, 5)
}

// fullLicense has every member of the schema, none of them null: the recorded
// ones leave some unused.
const fullLicense = `{
	"id": "8d8a7abc-87f9-4fe4-8680-86d3a0c05924",
	"created_at": "2026-11-22T12:27:18.872359Z",
	"modified_at": "2026-11-22T12:35:18.794671Z",
	"organization_id": "34f57e13-8bcb-4481-85b2-a4b55c4ba0b9",
	"customer_id": "bb4a91e8-8712-4bc8-9e43-9b5406427b62",
	"customer": {
		"id": "bb4a91e8-8712-4bc8-9e43-9b5406427b62",
		"created_at": "2026-11-22T12:27:18.830022Z",
		"modified_at": "2026-11-22T12:27:19Z",
		"metadata": {"vip": true, "plan": "pro", "ratio": 1.5},
		"external_id": "usr_1",
		"email": "user@example.com",
		"email_verified": true,
		"type": "individual",
		"name": "Ada Example",
		"billing_name": "Ada Ltd",
		"billing_address": {"line1": "1 Road", "line2": "Floor 2", "postal_code": "12345", "city": "Town", "state": "ST", "country": "US"},
		"tax_id": ["911144442", "us_ein"],
		"locale": "en-GB",
		"organization_id": "34f57e13-8bcb-4481-85b2-a4b55c4ba0b9",
		"default_payment_method_id": "0c1f4b1e-8712-4bc8-9e43-9b5406427b62",
		"deleted_at": "2026-12-01T00:00:00Z",
		"first_user_event_at": "2026-11-23T00:00:00Z",
		"avatar_url": "https://example.com/a.png"
	},
	"benefit_id": "850cc3a4-3ed7-4be6-b198-127ec8d33bb9",
	"key": "ACME-TEST-OK-000001",
	"display_key": "****-000001",
	"status": "granted",
	"limit_activations": 5,
	"usage": 3,
	"limit_usage": 10,
	"validations": 7,
	"last_validated_at": "2026-11-22T12:35:18.793409Z",
	"expires_at": "2027-11-22T12:35:18.793409Z",
	"activation": {
		"id": "11111111-2222-4333-8444-555555555555",
		"license_key_id": "8d8a7abc-87f9-4fe4-8680-86d3a0c05924",
		"label": "laptop",
		"meta": {"os": "linux", "n": 1},
		"created_at": "2026-11-22T12:35:18Z",
		"modified_at": "2026-11-22T12:35:19Z"
	}
}`

var fullLicenseAt = time.Date(2026, 11, 22, 13, 0, 0, 0, time.UTC)

func TestALicenseKeyWithoutNullsIsReadInFull(t *testing.T) {
	t.Parallel()
	var raw map[string]any
	require.NoError(t, json.Unmarshal([]byte(fullLicense), &raw))
	got := assertLicense(t, raw, "the full license key")
	assert.Equal(t, int64(7), got.Remaining())
	assert.Equal(t, []string{"911144442", "us_ein"}, got.Customer.TaxID)

	granted, err := parseGranted([]byte(fullLicense), newKey("ACME-TEST-OK-000001"), testOrganization, fullLicenseAt)
	require.NoError(t, err)
	assert.Equal(t, fullLicenseAt, granted.answeredAt)
}

// altered is the full license key with one member replaced, or taken away.
func altered(t *testing.T, name, value string) []byte {
	t.Helper()
	var raw map[string]json.RawMessage
	require.NoError(t, json.Unmarshal([]byte(fullLicense), &raw))
	to := raw
	parent, child, nested := strings.Cut(name, ".")
	if nested {
		to = nil
		require.NoError(t, json.Unmarshal(raw[parent], &to))
		name = child
	}
	if value == "" {
		delete(to, name)
	} else {
		to[name] = json.RawMessage(value)
	}
	if nested {
		inner, err := json.Marshal(to)
		require.NoError(t, err)
		raw[parent] = inner
	}
	data, err := json.Marshal(raw)
	require.NoError(t, err)
	return data
}

var otherTypes = []string{`null`, `true`, `17`, `1.5`, `-1e300`, `"text"`, `[]`, `[1,"a",null]`, `{}`, `{"a":{"b":1}}`}

func TestAnAnswerWithoutItsFiveMembersProvesNothing(t *testing.T) {
	t.Parallel()
	key := newKey("ACME-TEST-OK-000001")
	for _, name := range []string{"id", "key", "organization_id", "benefit_id", "status"} {
		for _, value := range append([]string{"", `""`}, otherTypes...) {
			if value == `"text"` {
				continue
			}
			var l LicenseKey
			require.Errorf(t, json.Unmarshal(altered(t, name, value), &l), "%s is %s", name, value)
			_, err := parseGranted(altered(t, name, value), key, testOrganization, fullLicenseAt)
			require.Errorf(t, err, "%s is %s", name, value)
			_, refused := err.(*Error)
			require.Falsef(t, refused, "%s is %s: no verdict can come of it", name, value)
		}
	}
	for _, body := range []string{"", "null", "{}", "[]", `""`, "true", "0", "{", "<html>", fullLicense + "x", "[" + fullLicense + "]", `{"license_key":` + fullLicense + `}`} {
		_, err := parseGranted([]byte(body), key, testOrganization, fullLicenseAt)
		require.Error(t, err, body)
		_, refused := err.(*Error)
		require.False(t, refused, body)
	}
}

func TestAnExpiryThatCannotBeReadProvesNothing(t *testing.T) {
	t.Parallel()
	for _, value := range otherTypes {
		_, err := parseGranted(altered(t, "expires_at", value), newKey("ACME-TEST-OK-000001"), testOrganization, fullLicenseAt)
		if value == "null" {
			require.NoError(t, err)
			continue
		}
		require.Error(t, err, value)
		_, refused := err.(*Error)
		require.False(t, refused, value)
	}
	license, err := parseGranted(altered(t, "expires_at", ""), newKey("ACME-TEST-OK-000001"), testOrganization, fullLicenseAt)
	require.NoError(t, err)
	assert.True(t, license.ExpiresAt.IsZero())
}

// A program that was shipped years ago reads what Polar will write then: of all
// but the five members, one that is missing or has changed its type is zero, and
// the others are as they are.
func TestAMemberThatChangedItsTypeIsLeftZero(t *testing.T) {
	t.Parallel()
	key := newKey("ACME-TEST-OK-000001")
	full, err := parseGranted([]byte(fullLicense), key, testOrganization, fullLicenseAt)
	require.NoError(t, err)
	for name, c := range map[string]struct {
		suits string // the JSON types that this member takes
		clear func(*LicenseKey)
	}{
		"customer_id":              {"text", func(l *LicenseKey) { l.CustomerID = "" }},
		"limit_activations":        {"integer", func(l *LicenseKey) { l.LimitActivations = nil }},
		"usage":                    {"integer", func(l *LicenseKey) { l.Usage = 0 }},
		"limit_usage":              {"integer", func(l *LicenseKey) { l.LimitUsage = nil }},
		"validations":              {"integer", func(l *LicenseKey) { l.Validations = 0 }},
		"last_validated_at":        {"", func(l *LicenseKey) { l.LastValidatedAt = time.Time{} }},
		"created_at":               {"", func(l *LicenseKey) { l.CreatedAt = time.Time{} }},
		"modified_at":              {"", func(l *LicenseKey) { l.ModifiedAt = time.Time{} }},
		"display_key":              {"text", func(l *LicenseKey) { l.DisplayKey = "" }},
		"customer":                 {"object", func(l *LicenseKey) { l.Customer = Customer{} }},
		"activation":               {"object", func(l *LicenseKey) { l.Activation = nil }},
		"customer.id":              {"text", func(l *LicenseKey) { l.Customer.ID = "" }},
		"customer.email":           {"text", func(l *LicenseKey) { l.Customer.Email = Email{} }},
		"customer.email_verified":  {"bool", func(l *LicenseKey) { l.Customer.EmailVerified = false }},
		"customer.metadata":        {"object", func(l *LicenseKey) { l.Customer.Metadata = nil }},
		"customer.billing_address": {"object", func(l *LicenseKey) { l.Customer.BillingAddress = nil }},
		"customer.tax_id":          {"empty list", func(l *LicenseKey) { l.Customer.TaxID = nil }},
		"customer.deleted_at":      {"", func(l *LicenseKey) { l.Customer.DeletedAt = time.Time{} }},
		"activation.label":         {"text", func(l *LicenseKey) { l.Activation.Label = "" }},
		"activation.meta":          {"object", func(l *LicenseKey) { l.Activation.Meta = nil }},
		"activation.created_at":    {"", func(l *LicenseKey) { l.Activation.CreatedAt = time.Time{} }},
		"activation.license_key":   {"object", func(l *LicenseKey) { l.Activation.LicenseKey = nil }},
	} {
		for _, value := range append([]string{""}, otherTypes...) {
			suits := map[string]string{`true`: "bool", `17`: "integer", `"text"`: "text", `{}`: "object", `{"a":{"b":1}}`: "object", `[]`: "empty list"}[value]
			if suits != "" && suits == c.suits {
				continue
			}
			t.Run(name+" is "+value, func(t *testing.T) {
				t.Parallel()
				want := *full
				if a := full.Activation; a != nil {
					copied := *a
					want.Activation = &copied
				}
				c.clear(&want)
				got, err := parseGranted(altered(t, name, value), key, testOrganization, fullLicenseAt)
				require.NoError(t, err)
				assert.Equal(t, want, *got)
			})
		}
	}
}

func TestALimitThatCannotBeReadIsNoLimitOfZero(t *testing.T) {
	t.Parallel()
	for _, value := range []string{`"10"`, `10.5`, `{}`, `[]`, `true`, `1e30`} {
		var l LicenseKey
		require.NoError(t, json.Unmarshal(altered(t, "limit_usage", value), &l))
		assert.Equal(t, Unlimited, l.Remaining(), "limit_usage is %s", value)
	}
}

func TestAShortKeyIsNotShownAsPolarShowsIt(t *testing.T) {
	t.Parallel()
	for key, want := range map[string]string{
		"A":                "****",
		"123456789012345":  "****",
		"1234567890123456": "as Polar has it",
	} {
		var raw map[string]any
		require.NoError(t, json.Unmarshal([]byte(fullLicense), &raw))
		raw["key"], raw["display_key"] = key, "as Polar has it"
		data, err := json.Marshal(raw)
		require.NoError(t, err)
		var l LicenseKey
		require.NoError(t, json.Unmarshal(data, &l))
		assert.Equal(t, want, l.DisplayKey, "a key of %d characters", len(key))
	}
}

func TestUsesThatRemainAreNeverBelowZero(t *testing.T) {
	t.Parallel()
	limit := func(n int64) *int64 { return &n }
	for name, c := range map[string]struct {
		l    LicenseKey
		want int64
	}{
		"no limit":            {LicenseKey{Usage: 5}, Unlimited},
		"some left":           {LicenseKey{Usage: 3, LimitUsage: limit(10)}, 7},
		"none left":           {LicenseKey{Usage: 10, LimitUsage: limit(10)}, 0},
		"more used than left": {LicenseKey{Usage: 11, LimitUsage: limit(10)}, 0},
		"a limit of zero":     {LicenseKey{LimitUsage: limit(0)}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			assert.Equal(t, c.want, c.l.Remaining())
		})
	}
}

func FuzzLicenseKeyJSON(f *testing.F) {
	f.Add([]byte(fullLicense))
	f.Add([]byte(`{"id":"a","key":"k","organization_id":"o","benefit_id":"b","status":"granted"}`))
	f.Add([]byte(`{"id":"a","key":"k","organization_id":"o","benefit_id":"b","status":"revoked","expires_at":"2030-01-02"}`))
	f.Add([]byte(`{"id":"a","key":"k","organization_id":"o","benefit_id":"b","status":"granted","expires_at":"9999-12-31T23:59:59-01:00"}`))
	f.Add([]byte(`{"id":"a","key":"k","organization_id":"o","benefit_id":"b","status":"granted","usage":"x","limit_usage":1e9,"customer":[],"activation":7}`))
	f.Add([]byte(`{"id":"a","id":null,"key":"k","organization_id":"o","benefit_id":"b","status":"granted"}`))
	f.Add([]byte(`{"license_key":{"id":"a","key":"k"},"id":"11111111-2222-4333-8444-555555555555"}`))
	f.Add([]byte(`null`))
	f.Add([]byte(`{}`))
	f.Add([]byte("<html>"))
	f.Add([]byte(`{"id":"\ud800","key":"\ud800","organization_id":"\u0000","benefit_id":"b","status":"granted"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		_, _ = parseActivation(data, newKey("k"), "o", fullLicenseAt)
		var l LicenseKey
		if err := json.Unmarshal(data, &l); err != nil {
			_, err := parseGranted(data, newKey("k"), "o", fullLicenseAt)
			require.Error(t, err)
			_, refused := err.(*Error)
			require.False(t, refused, "no verdict without a license key")
			return
		}
		var plain map[string]any
		require.NoError(t, json.Unmarshal(data, &plain))
		for name, have := range map[string]string{
			"id": l.ID, "key": l.Key.Reveal(), "organization_id": l.OrganizationID, "benefit_id": l.BenefitID, "status": string(l.Status),
		} {
			require.NotEmpty(t, have, name)
			require.Equal(t, plain[name], have)
		}
		require.GreaterOrEqual(t, l.Remaining(), int64(0))

		granted, err := parseGranted(data, l.Key, l.OrganizationID, fullLicenseAt)
		if err == nil {
			require.Equal(t, KeyGranted, granted.Status)
			require.True(t, granted.ExpiresAt.IsZero() || fullLicenseAt.Before(granted.ExpiresAt))
			// What was granted can be kept, and told.
			_, err := newSealer("o", "a", "").sealVerdict(nextVerdict(nil, granted, nil, fullLicenseAt, time.Hour), &seat{Key: "k"}, "f")
			require.NoError(t, err)
			_, err = json.Marshal(Status{ExpiresAt: granted.ExpiresAt})
			require.NoError(t, err)
		} else {
			refused, ok := err.(*Error)
			require.True(t, ok)
			require.True(t, refused.Reason.Denial())
			require.True(t, l.Status != KeyGranted || !l.ExpiresAt.IsZero())
		}
		_, err = parseGranted(data, newKey(l.Key.Reveal()+"x"), l.OrganizationID, fullLicenseAt)
		require.ErrorIs(t, err, errForeignAnswer, "an answer about another key")
	})
}

func FuzzRefusal(f *testing.F) {
	for _, seed := range []string{
		`{"error":"ResourceNotFound","detail":"Not found"}`, `{"detail":"Not Found"}`, `{"error":"NotPermitted","detail":"License key activation limit already reached"}`,
		`{"error":"RequestValidationError","detail":[{"loc":["body","key"],"msg":"m","input":"INKWELL-SECRET"}]}`,
		`{"error":"invalid_token","error_description":"d"}`, `{"detail":[1,null,[],{"loc":[{"a":1},null,1e9]}]}`, `{"error":1,"detail":{}}`,
		"", "null", "<html>", "{", "[]", `{"detail":"\u0000\u202e\ud800"}`,
	} {
		f.Add([]byte(seed), 404)
		f.Add([]byte(seed), 403)
		f.Add([]byte(seed), 422)
	}
	f.Fuzz(func(t *testing.T, body []byte, status int) {
		said, ok := parseRefusal(body)
		if !ok {
			require.Equal(t, refusal{}, said)
			return
		}
		require.LessOrEqual(t, len(said.Faults), 5)
		for _, ofActivation := range []bool{false, true} {
			reason := said.reason(status, nil, ofActivation)
			if reason.Denial() {
				// Polar's word and the status that it comes with, both.
				require.Equal(t, map[string]int{"ResourceNotFound": 404, "NotPermitted": 403, "BadRequest": 400}[said.Error], status)
			}
			if status >= 500 || status == 429 {
				require.Empty(t, reason)
			}
		}
		clean := cleanDetail(said.Detail+strings.Join(said.Faults, "; "), "INKWELL-SECRET")
		require.LessOrEqual(t, utf8.RuneCountInString(clean), 200)
		require.NotContains(t, clean, "INKWELL-SECRET")
		require.False(t, strings.ContainsFunc(clean, func(r rune) bool { return !unicode.IsPrint(r) }))
		require.Equal(t, strings.TrimSpace(clean), clean)
	})
}
