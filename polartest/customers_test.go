package polartest_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/polargate/polargate/polartest"
)

const (
	benefitA = "11111111-2222-4333-8444-00000000000a"
	benefitB = "11111111-2222-4333-8444-00000000000b"
	meterA   = "11111111-2222-4333-8444-0000000000aa"
	productA = "11111111-2222-4333-8444-0000000000ff"
)

// customerState is what a program reads of an answer of the endpoints of state.
type customerState struct {
	ID         string     `json:"id"`
	ExternalID *string    `json:"external_id"`
	Email      *string    `json:"email"`
	Name       *string    `json:"name"`
	ModifiedAt *time.Time `json:"modified_at"`
	DeletedAt  *time.Time `json:"deleted_at"`

	Subscriptions []struct {
		ID         string     `json:"id"`
		Status     string     `json:"status"`
		CanceledAt *time.Time `json:"canceled_at"`
		ModifiedAt *time.Time `json:"modified_at"`
		Meters     []struct {
			ConsumedUnits json.Number `json:"consumed_units"`
			CreditedUnits json.Number `json:"credited_units"`
		} `json:"meters"`
	} `json:"active_subscriptions"`
	Benefits []struct {
		ID         string         `json:"id"`
		BenefitID  string         `json:"benefit_id"`
		Type       string         `json:"benefit_type"`
		Metadata   map[string]any `json:"benefit_metadata"`
		Properties map[string]any `json:"properties"`
		GrantedAt  time.Time      `json:"granted_at"`
		ModifiedAt *time.Time     `json:"modified_at"`
	} `json:"granted_benefits"`
	Meters []struct {
		MeterID       string      `json:"meter_id"`
		ConsumedUnits json.Number `json:"consumed_units"`
		CreditedUnits json.Number `json:"credited_units"`
		Balance       json.Number `json:"balance"`
	} `json:"active_meters"`
}

func (s *customerState) benefits() []string {
	ids := []string{}
	for _, b := range s.Benefits {
		ids = append(ids, b.BenefitID)
	}
	return ids
}

// stateOf asks for the state of a customer by ID.
func stateOf(t *testing.T, p *polartest.Polar, id string) (customerState, string) {
	t.Helper()
	response, body := ask(t, p.Client(), "GET", "/v1/customers/"+id+"/state", p.AddToken(polartest.Token{}), "")
	require.Equal(t, http.StatusOK, response.StatusCode, body)
	var s customerState
	require.NoError(t, json.Unmarshal([]byte(body), &s))
	return s, body
}

func TestAddCustomerFillsWhatIsEmptyAndGivesACopy(t *testing.T) {
	t.Parallel()
	p := unlimited()
	c := p.AddCustomer(polartest.Customer{
		ExternalID:    "usr_1",
		Metadata:      map[string]any{"n": 1, "f": float32(0.5)},
		Subscriptions: []polartest.Subscription{{Meters: []polartest.SubscriptionMeter{{}}, CustomFieldData: map[string]any{"team": nil}}},
		Benefits:      []polartest.Benefit{{Properties: map[string]any{"files": []string{"a", "b"}, "deep": map[string]int{"n": 1}}}},
		Meters:        []polartest.Meter{{CreditedUnits: 3}},
	})
	s, b, m := c.Subscriptions[0], c.Benefits[0], c.Meters[0]
	for _, id := range []string{c.ID, s.ID, s.ProductID, s.PriceID, s.Meters[0].ID, s.Meters[0].MeterID, b.ID, b.BenefitID, m.ID, m.MeterID} {
		assert.Regexp(t, `^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`, id)
	}
	assert.Equal(t, p.OrganizationID(), c.OrganizationID)
	assert.Equal(t, "individual", c.Type)
	assert.Contains(t, c.Email, "@example.com", "Polar has no individual without an email")
	assert.Empty(t, c.Name)
	assert.Equal(t, map[string]any{"n": int64(1), "f": 0.5}, c.Metadata)
	assert.Equal(t, []string{"active", "usd", "month"}, []string{s.Status, s.Currency, s.RecurringInterval})
	assert.Equal(t, s.CurrentPeriodStart.AddDate(0, 1, 0), s.CurrentPeriodEnd)
	assert.Equal(t, map[string]any{"files": []any{"a", "b"}, "deep": map[string]any{"n": int64(1)}}, b.Properties)
	assert.Equal(t, "custom", b.Type)
	assert.Zero(t, b.ModifiedAt)
	assert.InDelta(t, 3, m.Balance(), 0)

	c.Metadata["n"] = "changed"
	b.Properties["files"].([]any)[0] = "changed"
	c.Subscriptions[0].Meters[0].ConsumedUnits = 99
	again, ok := p.Customer("usr_1")
	require.True(t, ok)
	assert.Equal(t, int64(1), again.Metadata["n"])
	assert.Equal(t, []any{"a", "b"}, again.Benefits[0].Properties["files"])
	assert.Zero(t, again.Subscriptions[0].Meters[0].ConsumedUnits)
	byID, ok := p.Customer(strings.ToUpper(c.ID))
	require.True(t, ok)
	assert.Equal(t, again, byID)
	_, ok = p.Customer("usr_2")
	assert.False(t, ok)
	_, ok = p.Customer("")
	assert.False(t, ok)
	assert.False(t, p.UpdateCustomer("usr_2", func(*polartest.Customer) {}))

	team := p.AddCustomer(polartest.Customer{Type: "team"})
	state, body := stateOf(t, p, team.ID)
	assert.Nil(t, state.Email)
	assert.Nil(t, state.ExternalID)
	assert.Contains(t, body, `"avatar_url":null,"active_subscriptions":[],"granted_benefits":[],"active_meters":[]}`)
}

func TestABenefitIsGrantedRevokedAndGrantedAgain(t *testing.T) {
	t.Parallel()
	p := unlimited()
	c := p.AddCustomer(polartest.Customer{ExternalID: "usr_1"})
	grant := p.GrantBenefit("usr_1", polartest.Benefit{BenefitID: benefitA, Type: "feature_flag", Metadata: map[string]any{"tier": "gold"}})
	other := p.GrantBenefit(c.ID, polartest.Benefit{BenefitID: benefitB})
	state, _ := stateOf(t, p, c.ID)
	assert.Equal(t, []string{benefitA, benefitB}, state.benefits())
	assert.Equal(t, "feature_flag", state.Benefits[0].Type)
	assert.Equal(t, map[string]any{"tier": "gold"}, state.Benefits[0].Metadata)

	p.RevokeBenefit("usr_1", benefitA)
	state, _ = stateOf(t, p, c.ID)
	assert.Equal(t, []string{benefitB}, state.benefits())

	p.Advance(time.Minute)
	again := p.GrantBenefit("usr_1", polartest.Benefit{BenefitID: strings.ToUpper(benefitA)})
	assert.Equal(t, grant.ID, again.ID, "it is the same grant")
	assert.Equal(t, "gold", again.Metadata["tier"])
	assert.Greater(t, again.GrantedAt.Sub(grant.GrantedAt), time.Minute-time.Second)
	again = p.GrantBenefit("usr_1", polartest.Benefit{
		BenefitID: benefitA, Type: "flag", Metadata: map[string]any{"tier": "iron"}, Properties: map[string]any{"a": nil}, GrantedAt: grant.GrantedAt,
	})
	assert.Equal(t, polartest.Benefit{
		ID: grant.ID, BenefitID: benefitA, Type: "flag", Metadata: map[string]any{"tier": "iron"}, Properties: map[string]any{"a": nil},
		GrantedAt: grant.GrantedAt, CreatedAt: grant.CreatedAt, ModifiedAt: again.ModifiedAt,
	}, again, "what is given anew is new")
	assert.Len(t, again.ID, 36)
	elsewhere := p.GrantBenefit("usr_1", polartest.Benefit{BenefitID: benefitA, SubscriptionID: productA})
	assert.NotEqual(t, grant.ID, elsewhere.ID, "what comes with a subscription is a grant of its own")
	p.RevokeBenefit("usr_1", elsewhere.ID)
	p.RevokeBenefit("usr_1", other.ID)
	state, _ = stateOf(t, p, c.ID)
	assert.Equal(t, []string{benefitA}, state.benefits())
	assert.NotNil(t, state.Benefits[0].ModifiedAt)
}

func TestASubscriptionEndsAndComesBackTogetherWithItsGrants(t *testing.T) {
	t.Parallel()
	p := unlimited()
	c := p.AddCustomer(polartest.Customer{Benefits: []polartest.Benefit{{BenefitID: benefitB}}})
	s := p.Subscribe(c.ID, polartest.Subscription{ProductID: productA}, polartest.Benefit{BenefitID: benefitA})
	look := func(statuses, benefits []string) customerState {
		t.Helper()
		state, _ := stateOf(t, p, c.ID)
		got := []string{}
		for _, s := range state.Subscriptions {
			got = append(got, s.Status)
		}
		assert.Equal(t, statuses, got)
		assert.Equal(t, benefits, state.benefits())
		return state
	}
	look([]string{"active"}, []string{benefitB, benefitA})
	p.CancelSubscription(c.ID, productA)
	look([]string{}, []string{benefitB})
	p.RestoreSubscription(c.ID, s.ID)
	state := look([]string{"active"}, []string{benefitB, benefitA})
	assert.Nil(t, state.Subscriptions[0].CanceledAt)

	for status, shown := range map[string][]string{
		"trialing": {"trialing"}, "active": {"active"}, "past_due": {}, "unpaid": {}, "paused": {}, "incomplete": {},
	} {
		p.UpdateCustomer(c.ID, func(c *polartest.Customer) { c.Subscriptions[0].Status = status })
		look(shown, []string{benefitB, benefitA}) // the grants of what is past due stay
	}
	after, _ := p.Customer(c.ID)
	assert.Equal(t, s.ID, after.Benefits[1].SubscriptionID)
}

func TestMetersAreDebitedAndCredited(t *testing.T) {
	t.Parallel()
	p := unlimited()
	c := p.AddCustomer(polartest.Customer{Subscriptions: []polartest.Subscription{
		{Meters: []polartest.SubscriptionMeter{{MeterID: meterA}, {}}},
		{Status: "canceled", Meters: []polartest.SubscriptionMeter{{MeterID: meterA}}},
	}})
	m := p.DebitMeter(c.ID, meterA, 3)
	assert.InDelta(t, -3, m.Balance(), 0)
	m = p.CreditMeter(c.ID, meterA, 100)
	assert.InDelta(t, 97, m.Balance(), 0)
	m = p.DebitMeter(c.ID, meterA, 22.5)
	assert.InDelta(t, 74.5, m.Balance(), 0)
	state, body := stateOf(t, p, c.ID)
	require.Len(t, state.Meters, 1)
	assert.Contains(t, body, `"consumed_units":25.5,"credited_units":100,"balance":74.5}`)
	assert.EqualValues(t, "25.5", state.Subscriptions[0].Meters[0].ConsumedUnits)
	assert.EqualValues(t, "0.0", state.Subscriptions[0].Meters[1].ConsumedUnits, "a float has a fraction")
	assert.EqualValues(t, "0", state.Subscriptions[0].Meters[1].CreditedUnits, "an integer has none")
	after, _ := p.Customer(c.ID)
	assert.Zero(t, after.Subscriptions[1].Meters[0].ConsumedUnits, "a subscription that ended meters no more")

	var group sync.WaitGroup
	for range 50 {
		group.Go(func() { p.DebitMeter(c.ID, meterA, 0.5) })
		group.Go(func() { stateOf(t, p, c.ID) })
	}
	group.Wait()
	after, _ = p.Customer(c.ID)
	assert.InDelta(t, 49.5, after.Meters[0].Balance(), 0)
}

func TestOnlyChangedObjectsGetANewModifiedTime(t *testing.T) {
	t.Parallel()
	p := unlimited()
	c := p.AddCustomer(polartest.Customer{
		Subscriptions: []polartest.Subscription{{Meters: []polartest.SubscriptionMeter{{MeterID: meterA}}}, {}},
		Benefits:      []polartest.Benefit{{BenefitID: benefitA}, {BenefitID: benefitB}},
		Meters:        []polartest.Meter{{MeterID: meterA}, {}},
	})
	modified := func() string {
		c, _ := p.Customer(c.ID)
		var b strings.Builder
		for _, at := range []time.Time{
			c.ModifiedAt, c.Subscriptions[0].ModifiedAt, c.Subscriptions[0].Meters[0].ModifiedAt, c.Subscriptions[1].ModifiedAt,
			c.Benefits[0].ModifiedAt, c.Benefits[1].ModifiedAt, c.Meters[0].ModifiedAt, c.Meters[1].ModifiedAt,
		} {
			if at.IsZero() {
				b.WriteByte('-')
			} else {
				b.WriteByte('x')
			}
		}
		return b.String()
	}
	assert.Equal(t, "--------", modified())
	p.UpdateCustomer(c.ID, func(*polartest.Customer) {})
	assert.Equal(t, "--------", modified())
	p.DebitMeter(c.ID, meterA, 1)
	assert.Equal(t, "--x---x-", modified())
	p.RevokeBenefit(c.ID, benefitB)
	assert.Equal(t, "--x--xx-", modified())
	p.CancelSubscription(c.ID, c.Subscriptions[1].ID)
	assert.Equal(t, "--xx-xx-", modified())
	p.UpdateCustomer(c.ID, func(c *polartest.Customer) { c.Name = "Ada" })
	assert.Equal(t, "x-xx-xx-", modified())

	at := time.Date(2026, 1, 2, 3, 4, 5, 6789, time.FixedZone("", 3600))
	p.UpdateCustomer(c.ID, func(c *polartest.Customer) { c.Name, c.ModifiedAt = "Eve", at })
	after, _ := p.Customer(c.ID)
	assert.Equal(t, at.UTC().Truncate(time.Microsecond), after.ModifiedAt, "a time that the test sets stays")
}

func TestExternalIDsAreDecodedAsPolarDecodesThem(t *testing.T) {
	t.Parallel()
	p := unlimited()
	server, err := p.Start()
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, server.Close()) })
	token := p.AddToken(polartest.Token{})
	known := []string{
		"usr_1", "a b", "a+b", "a%2Fb", "a%b", "%", "%zz", "ünïcode-✓", "what?x=1", "a#b", "a;b=c", `a\b`, "ACME@example.com",
		"state", ".", "..", "external", "a//b", "a/b", "/", strings.Repeat("x", 8000),
	}
	ids := map[string]string{}
	for _, id := range known {
		ids[id] = p.AddCustomer(polartest.Customer{ExternalID: id}).ID
	}
	for _, over := range []string{"transport", "socket"} {
		client, base := &http.Client{Transport: p.Transport()}, "https://api.polar.sh"
		if over == "socket" {
			client, base = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}, server.URL
		}
		client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
		get := func(segment string) (reply, string) {
			return askAt(t, client, base, "GET", "/v1/customers/external/"+segment+"/state", token, "")
		}
		for _, id := range known {
			response, body := get(url.PathEscape(id))
			if strings.Contains(id, "/") {
				assert.Equal(t, 404, response.StatusCode, id)
				assert.JSONEq(t, `{"detail":"Not Found"}`, body, "the router: such an ID cannot be reached")
				continue
			}
			assert.Equal(t, 200, response.StatusCode, id)
			assert.Contains(t, body, ids[id])
		}
		for segment, want := range map[string]int{
			"USR_1": 404, "usr_1%20": 404, "usr_2": 404, strings.Repeat("x", 8001): 404, "%ff": 404, "usr%5F1": 200, "a%00b": 500,
		} {
			response, body := get(segment)
			assert.Equal(t, want, response.StatusCode, segment)
			if want == 404 {
				assert.JSONEq(t, `{"error":"ResourceNotFound","detail":"Not found"}`, body)
			}
		}
		response, _ := get("")
		assert.Equal(t, 404, response.StatusCode)
		response, body := askAt(t, client, base, "GET", "/v1/customers/external/a%20b/state/?x=1", token, "")
		assert.Equal(t, 307, response.StatusCode)
		assert.Equal(t, base+"/v1/customers/external/a%20b/state?x=1", response.Header.Get("Location"))
		assert.Empty(t, body)
	}
}

func TestAPathThatIsSentAsItIsIsDecodedLeniently(t *testing.T) {
	t.Parallel()
	p := unlimited()
	c := p.AddCustomer(polartest.Customer{ExternalID: "50%_off %zz%"})
	token := p.AddToken(polartest.Token{})
	for _, opaque := range []string{
		"/v1/customers/external/50%_off%20%zz%/state", "//api.polar.sh/v1/customers/external/50%25_off %zz%25/state",
	} {
		r := get("/")("https://api.polar.sh")
		r.URL.Opaque = opaque
		r.Header.Set("Authorization", "Bearer "+token)
		response, err := p.Client().Do(r)
		require.NoError(t, err)
		body, err := io.ReadAll(response.Body)
		require.NoError(t, err)
		require.NoError(t, response.Body.Close())
		assert.Contains(t, string(body), c.ID, opaque)
	}
	requests := p.Requests()
	assert.Equal(t, requests[0].Path, requests[1].Path)
}

func TestTheStateIsForTokensOfTheOrganizationThatMayReadCustomers(t *testing.T) {
	t.Parallel()
	p := unlimited()
	const elsewhere = "549c44b7-2e67-4e0e-8a20-17e76c895830"
	c := p.AddCustomer(polartest.Customer{ExternalID: "usr_1"})
	theirs := p.AddCustomer(polartest.Customer{ExternalID: "usr_1", OrganizationID: elsewhere})
	all := p.AddToken(polartest.Token{})
	read := p.AddToken(polartest.Token{Scopes: []string{"customers:read"}})
	write := p.AddToken(polartest.Token{Scopes: []string{"customers:write"}})
	keys := p.AddToken(polartest.Token{Scopes: []string{"license_keys:read", "license_keys:write"}})
	foreign := p.AddToken(polartest.Token{OrganizationID: elsewhere})
	expired := p.AddToken(polartest.Token{ExpiresAt: p.Now()})
	for _, test := range []struct {
		name, path, token string
		status            int
	}{
		{"every scope", c.ID, all, 200}, {"to read is enough", c.ID, read, 200}, {"so is to write", c.ID, write, 200},
		{"license keys are not customers", c.ID, keys, 403}, {"no token", c.ID, "", 401}, {"unknown token", c.ID, "polar_oat_no", 401},
		{"expired token", c.ID, expired, 401}, {"another organization's customer", c.ID, foreign, 404},
		{"its own", theirs.ID, foreign, 200}, {"ours from there", theirs.ID, all, 404},
		{"unknown", "11111111-2222-4333-8444-555555555555", all, 404},
		{"no UUID", "usr_1", all, 422}, {"a UUID of another version", "11111111-2222-1333-8444-555555555555", all, 422},
	} {
		response, body := ask(t, p.Client(), "GET", "/v1/customers/"+test.path+"/state", test.token, "")
		assert.Equal(t, test.status, response.StatusCode, "%s: %s", test.name, body)
	}
	_, body := ask(t, p.Client(), "GET", "/v1/customers/external/usr_1/state", foreign, "")
	assert.Contains(t, body, theirs.ID, "the same external ID is somebody else there")
	mine, _ := p.Customer("usr_1")
	assert.Equal(t, c.ID, mine.ID, "here, the organization that this Polar started with goes first")
	response, _ := ask(t, p.Client(), "POST", "/v1/customers/"+c.ID+"/state", all, "{}")
	assert.Equal(t, 405, response.StatusCode)
	response, _ = ask(t, p.Client(), "GET", "/v1/customers/external/usr_1", all, "")
	assert.Equal(t, 200, response.StatusCode)
}

func TestTheStateCountsAgainstTheLimitOfTheOrganization(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := polartest.New(polartest.Config{Sandbox: true})
		c := p.AddCustomer(polartest.Customer{})
		token := p.AddToken(polartest.Token{})
		get := func() reply {
			response, _ := ask(t, p.Client(), "GET", "/v1/customers/"+c.ID+"/state", token, "")
			return response
		}
		for range 100 {
			require.Equal(t, 200, get().StatusCode)
		}
		assert.Equal(t, "60", get().Header.Get("Retry-After"))
		time.Sleep(time.Minute)
		assert.Equal(t, 200, get().StatusCode)
	})
}

func TestADeletedCustomerIsUnknownAndFreesTheExternalID(t *testing.T) {
	t.Parallel()
	p := unlimited()
	token := p.AddToken(polartest.Token{})
	c := p.AddCustomer(polartest.Customer{ExternalID: "usr_1", Email: "ada@example.com", Benefits: []polartest.Benefit{{}}})
	p.Subscribe(c.ID, polartest.Subscription{Status: "past_due"})
	p.DeleteCustomer("usr_1")
	for _, path := range []string{c.ID, "external/usr_1"} {
		response, body := ask(t, p.Client(), "GET", "/v1/customers/"+path+"/state", token, "")
		assert.Equal(t, 404, response.StatusCode)
		assert.Equal(t, "Not found", detail(t, body))
	}
	_, ok := p.Customer("usr_1")
	assert.False(t, ok)
	gone, ok := p.Customer(c.ID)
	require.True(t, ok)
	assert.False(t, gone.DeletedAt.IsZero())
	assert.True(t, gone.Benefits[0].Revoked)
	assert.Equal(t, "canceled", gone.Subscriptions[0].Status)
	assert.Equal(t, "usr_1", gone.ExternalID)

	next := p.AddCustomer(polartest.Customer{ExternalID: "usr_1", Email: "ADA@example.com"})
	_, body := ask(t, p.Client(), "GET", "/v1/customers/external/usr_1/state", token, "")
	assert.Contains(t, body, next.ID)
}

func TestLicenseKeysTellOfTheirCustomerAndFollowTheirGrant(t *testing.T) {
	t.Parallel()
	p := unlimited()
	k := p.AddKey(polartest.LicenseKey{BenefitID: benefitA, Customer: polartest.Customer{Name: "Somebody", Benefits: []polartest.Benefit{{}}}})
	assert.Equal(t, k.CustomerID, k.Customer.ID)
	assert.Empty(t, k.Customer.Benefits)
	validate := func() (int, string) {
		current, _ := p.LicenseKey(k.ID)
		response, body := ask(t, p.Client(), "POST", portalPath+"validate", "", asking(current, ""))
		return response.StatusCode, body
	}
	_, body := validate()
	assert.Contains(t, body, `"name":"Somebody"`)

	c := p.AddCustomer(polartest.Customer{ID: k.CustomerID, Name: "Ada", ExternalID: "usr_1"})
	_, body = validate()
	assert.Contains(t, body, `"external_id":"usr_1"`)
	assert.Contains(t, body, `"name":"Ada"`)
	p.UpdateCustomer(c.ID, func(c *polartest.Customer) { c.Name = "Ada L." })
	p.Update(k.ID, func(k *polartest.LicenseKey) { k.Customer.Name = "Eve" })
	after, _ := p.LicenseKey(k.ID)
	assert.Equal(t, "Ada L.", after.Customer.Name)
	second := p.AddKey(polartest.LicenseKey{CustomerID: c.ID, Customer: polartest.Customer{Name: "Eve"}})
	assert.Equal(t, "Ada L.", second.Customer.Name)
	state, _ := stateOf(t, p, c.ID)
	assert.Empty(t, state.Benefits, "a key is no grant, unless the test says so")

	grant := p.GrantBenefit(c.ID, polartest.Benefit{LicenseKeyID: k.ID})
	assert.Equal(t, []string{"license_keys", benefitA}, []string{grant.Type, grant.BenefitID})
	p.GrantBenefit(c.ID, polartest.Benefit{LicenseKeyID: second.ID, BenefitID: benefitA})
	state, _ = stateOf(t, p, c.ID)
	require.Len(t, state.Benefits, 2, "two keys of one benefit are two grants")
	assert.Equal(t, map[string]any{"license_key_id": k.ID, "display_key": "****-" + k.Key[len(k.Key)-6:]}, state.Benefits[0].Properties)
	rotated := p.Rotate(k.ID)
	state, _ = stateOf(t, p, c.ID)
	assert.Equal(t, "****-"+rotated[len(rotated)-6:], state.Benefits[0].Properties["display_key"])

	status, _ := validate()
	assert.Equal(t, 200, status)
	p.RevokeBenefit(c.ID, grant.ID)
	status, body = validate()
	assert.Equal(t, 404, status)
	assert.Equal(t, "License key is no longer active.", detail(t, body))
	after, _ = p.LicenseKey(second.ID)
	assert.Equal(t, "granted", after.Status)
	p.GrantBenefit(c.ID, polartest.Benefit{LicenseKeyID: k.ID})
	status, _ = validate()
	assert.Equal(t, 200, status)
	p.DeleteCustomer(c.ID)
	status, _ = validate()
	assert.Equal(t, 404, status)
}

func TestMistakesWithCustomersPanicWithWordsThatHelp(t *testing.T) {
	t.Parallel()
	p := unlimited()
	c := p.AddCustomer(polartest.Customer{ExternalID: "one", Email: "one@example.com"})
	p.AddCustomer(polartest.Customer{ExternalID: "two"})
	before, _ := p.Customer("one")
	update := func(change func(*polartest.Customer)) func() { return func() { p.UpdateCustomer("one", change) } }
	for name, test := range map[string]struct {
		mistake func()
		words   string
	}{
		"an ID that is no UUID":      {func() { p.AddCustomer(polartest.Customer{ID: "usr_1"}) }, `Customer.ID "usr_1"`},
		"the same ID twice":          {func() { p.AddCustomer(polartest.Customer{ID: c.ID}) }, "another customer has the id"},
		"the same external ID twice": {func() { p.AddCustomer(polartest.Customer{ExternalID: "one"}) }, `the external id "one"`},
		"an external ID that is an email, twice": {func() {
			p.AddCustomer(polartest.Customer{ExternalID: "eve@example.com", Email: "eve@example.com"})
			p.AddCustomer(polartest.Customer{ExternalID: "eve@example.com"})
		}, `the external id "eve@example.com"`},
		"the same email twice":         {func() { p.AddCustomer(polartest.Customer{Email: "ONE@example.com"}) }, `the email "ONE@example.com"`},
		"somebody else's external ID":  {update(func(c *polartest.Customer) { c.ExternalID = "two" }), `UpdateCustomer: another customer`},
		"a type that does not exist":   {update(func(c *polartest.Customer) { c.Type = "company" }), `"company"`},
		"text that is none":            {update(func(c *polartest.Customer) { c.Name = "\xff" }), "Customer.Name"},
		"text that is none, deep down": {update(func(c *polartest.Customer) { c.Metadata = map[string]any{"a": "\xff"} }), "JSON cannot say"},
		"a status that does not exist": {func() { p.Subscribe("one", polartest.Subscription{Status: "cancelled"}) }, `"cancelled"`},
		"a property that is no JSON": {func() {
			p.GrantBenefit("one", polartest.Benefit{Properties: map[string]any{"a": []any{func() {}}}})
		}, `"Properties.a[0]" is a func()`},
		"a benefit that is no UUID":      {func() { p.GrantBenefit("one", polartest.Benefit{BenefitID: "pro"}) }, `Benefit.BenefitID "pro"`},
		"a license key that is not":      {func() { p.GrantBenefit("one", polartest.Benefit{LicenseKeyID: benefitA}) }, "AddKey comes first"},
		"a meter that is no UUID":        {func() { p.DebitMeter("one", "tokens", 1) }, `Meter.MeterID "tokens"`},
		"the same grant twice":           {update(func(c *polartest.Customer) { c.Benefits = []polartest.Benefit{{ID: benefitA}, {ID: benefitA}} }), "twice"},
		"revoking what is not granted":   {func() { p.RevokeBenefit("one", benefitA) }, "the customer has no benefit"},
		"canceling what is not there":    {func() { p.CancelSubscription("one", productA) }, "CancelSubscription: the customer has no subscription"},
		"deleting who is not there":      {func() { p.DeleteCustomer("three") }, `DeleteCustomer: there is no customer with the id or external id "three"`},
		"granting to who is not there":   {func() { p.GrantBenefit("three", polartest.Benefit{}) }, `"three"`},
		"an infinite number of units":    {func() { p.DebitMeter("one", meterA, 1e308); p.DebitMeter("one", meterA, 1e308) }, "a number that JSON cannot say"},
		"restoring what was never there": {func() { p.RestoreSubscription("one", "") }, "RestoreSubscription"},
	} {
		t.Run(name, func(t *testing.T) {
			defer func() { assert.Contains(t, fmt.Sprint(recover()), test.words) }()
			test.mistake()
		})
	}
	p.UpdateCustomer("one", func(c *polartest.Customer) { c.Meters = nil })
	after, _ := p.Customer("one")
	assert.Equal(t, before, after, "a change that panics changes nothing")
}
