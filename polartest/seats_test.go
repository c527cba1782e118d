package polartest_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/polargate/polargate/polartest"
)

// team is a buyer of three seats of a product with a license key and a flag.
type team struct {
	*asked
	key, flag    polartest.CatalogBenefit
	subscription polartest.Subscription
}

func buys(t *testing.T, members bool) *team {
	t.Helper()
	a := &team{asked: polarWith(t, polartest.Config{Unlimited: true, MemberModel: members})}
	a.key = a.p.AddBenefit(polartest.CatalogBenefit{Type: "license_keys", Properties: map[string]any{
		"prefix": "ACME", "limit_usage": 10, "activations": map[string]any{"limit": 3, "enable_customer_admin": true},
	}})
	a.flag = a.p.AddBenefit(polartest.CatalogBenefit{Type: "feature_flag", Private: true, Metadata: map[string]any{"feature": "export"}})
	product := a.p.AddProduct(polartest.Product{Name: "Team", Benefits: []string{a.key.ID, a.flag.ID},
		Prices: []polartest.Price{{AmountType: "seat_based", Amount: 1000}}})
	a.p.AddCustomer(polartest.Customer{ExternalID: "team-1", Type: "team"})
	a.subscription = a.p.Subscribe("team-1", polartest.Subscription{ProductID: product.ID, Seats: polartest.Limit(3)})
	return a
}

func (a *team) assign(more string) (int, map[string]any) {
	a.t.Helper()
	return a.send("POST", "/v1/customer-seats", fmt.Sprintf(`{"subscription_id":%q,%s}`, a.subscription.ID, more))
}

func (a *team) granted(externalID string) int {
	a.t.Helper()
	_, answer := a.send("GET", "/v1/customers/external/"+externalID+"/state", "")
	list, _ := answer["granted_benefits"].([]any)
	return len(list)
}

func TestWithMembersTheBuyerHoldsAGrantForEachClaimedSeat(t *testing.T) {
	t.Parallel()
	a := buys(t, true)
	assert.Zero(t, a.granted("team-1"), "nobody has claimed a seat")
	status, seat := a.assign(`"email":"one@example.com"`)
	require.Equal(t, 200, status, "%v", seat)
	assert.Equal(t, "pending", seat["status"])
	assert.Zero(t, a.granted("team-1"))

	token := a.p.CustomerSeats(a.subscription.ID)[0].InvitationToken
	status, info := a.as("", "GET", "/v1/customer-seats/claim/"+token, "")
	assert.Equal(t, 200, status)
	assert.Equal(t, "Team", info["product_name"])
	status, claimed := a.as("", "POST", "/v1/customer-seats/claim", `{"invitation_token":"`+token+`"}`)
	require.Equal(t, 200, status, "%v", claimed)
	assert.Equal(t, 2, a.granted("team-1"))
	status, again := a.as("", "POST", "/v1/customer-seats/claim", `{"invitation_token":"`+token+`"}`)
	assert.Equal(t, 400, status)
	assert.Equal(t, "InvalidInvitationToken", again["error"])

	session := claimed["customer_session_token"].(string)
	_, mine := a.as(session, "GET", "/v1/customer-portal/license-keys/", "")
	require.Len(t, mine["items"], 1, "the holder sees the key of the seat")
	key := mine["items"].([]any)[0].(map[string]any)
	_, buyers := a.send("GET", "/v1/customers/external/team-1", "")
	assert.Equal(t, buyers["id"], key["customer_id"], "and it names the buyer")
	_, portal := a.as(session, "GET", "/v1/customer-portal/benefit-grants/", "")
	assert.Len(t, portal["items"], 1, "a private benefit is not shown in the portal")
	member := seat["member_id"].(string)
	assert.Equal(t, 1, a.total("/v1/benefits/"+a.flag.ID+"/grants?is_granted=true&member_id="+member))

	status, _ = a.send("DELETE", "/v1/customer-seats/"+seat["id"].(string), "")
	assert.Equal(t, 200, status)
	assert.Zero(t, a.granted("team-1"))
	k, _ := a.p.LicenseKey(key["id"].(string))
	assert.Equal(t, "revoked", k.Status)
	_, _ = a.assign(`"email":"one@example.com","immediate_claim":true`)
	k, _ = a.p.LicenseKey(key["id"].(string))
	assert.Equal(t, "granted", k.Status, "the same person has the old key again")
	_, _ = a.send("DELETE", "/v1/customer-seats/"+seat["id"].(string), "")
	status, other := a.assign(`"email":"two@example.com","immediate_claim":true`)
	require.Equal(t, 200, status)
	assert.Equal(t, seat["id"], other["id"], "a seat that was left is given anew")
	k, _ = a.p.LicenseKey(key["id"].(string))
	assert.Equal(t, "revoked", k.Status, "another person has another key")
	assert.Equal(t, 1, a.total("/v1/license-keys/?status=granted"))
}

func TestWithoutMembersWhoHoldsASeatIsACustomerAndTheBuyerHasNoGrant(t *testing.T) {
	t.Parallel()
	a := buys(t, false)
	a.p.AddCustomer(polartest.Customer{ExternalID: "usr_6", Email: "six@example.com"})
	status, seat := a.assign(`"external_customer_id":"usr_6","immediate_claim":true`)
	require.Equal(t, 200, status, "%v", seat)
	assert.Zero(t, a.granted("team-1"))
	assert.Equal(t, 2, a.granted("usr_6"))
	_, invited := a.assign(`"email":"seven@example.com","immediate_claim":true`)
	_, holder := a.send("GET", "/v1/customers/"+invited["customer_id"].(string), "")
	assert.Nil(t, holder["external_id"])
	status, twice := a.assign(`"email":"SIX@example.com"`)
	assert.Equal(t, 400, status)
	assert.Equal(t, "SeatAlreadyAssigned", twice["error"])
	_, pending := a.assign(`"email":"eight@example.com"`)
	status, full := a.assign(`"email":"nine@example.com"`)
	assert.Equal(t, 400, status)
	assert.Equal(t, "SeatNotAvailable", full["error"])
	_, list := a.send("GET", "/v1/customer-seats?subscription_id="+a.subscription.ID, "")
	assert.Len(t, list["seats"], 3)
	assert.InDelta(t, 0, list["available_seats"], 0)

	before := a.p.CustomerSeats(a.subscription.ID)[2].InvitationToken
	status, _ = a.send("POST", "/v1/customer-seats/"+pending["id"].(string)+"/resend", "")
	assert.Equal(t, 200, status)
	assert.Equal(t, before, a.p.CustomerSeats(a.subscription.ID)[2].InvitationToken, "the same invitation is sent again")
	a.p.Advance(25 * time.Hour)
	status, _ = a.as("", "POST", "/v1/customer-seats/claim", `{"invitation_token":"`+a.p.CustomerSeats(a.subscription.ID)[2].InvitationToken+`"}`)
	assert.Equal(t, 400, status, "and ends after a day")

	a.p.CancelSubscription("team-1", a.subscription.ID)
	assert.Zero(t, a.granted("usr_6"), "the seats end with the subscription")
	for _, s := range a.p.CustomerSeats(a.subscription.ID) {
		assert.Equal(t, "revoked", s.Status)
	}
}

func TestASessionOpensThePortalForAnHourAndNothingElse(t *testing.T) {
	t.Parallel()
	a := polarWith(t, polartest.Config{})
	c := a.p.AddCustomer(polartest.Customer{ExternalID: "usr_1"})
	k := a.p.AddKey(polartest.LicenseKey{CustomerID: c.ID, Activations: []polartest.Activation{{Label: "laptop"}}})
	a.p.AddKey(polartest.LicenseKey{})
	status, session := a.send("POST", "/v1/customer-sessions/", `{"external_customer_id":"usr_1","return_url":"https://example.com/account"}`)
	require.Equal(t, 201, status, "%v", session)
	token := session["token"].(string)
	assert.Contains(t, session["customer_portal_url"], "https://polar.sh/example/portal?customer_session_token="+token)
	_, list := a.as(token, "GET", "/v1/customer-portal/license-keys/", "")
	assert.Len(t, list["items"], 1)
	_, one := a.as(token, "GET", "/v1/customer-portal/license-keys/"+k.ID, "")
	assert.Empty(t, one["activations"], "customers administrate activations only where the benefit says so")
	_, rotated := a.as(token, "POST", "/v1/customer-portal/license-keys/"+k.ID+"/rotate", "")
	assert.NotEqual(t, k.Key, rotated["key"])
	status, _ = a.as(token, "GET", "/v1/license-keys/", "")
	assert.Equal(t, 401, status)
	status, _ = a.send("GET", "/v1/customer-portal/license-keys/", "")
	assert.Equal(t, 401, status, "an organization has no portal")
	for range 4 {
		status, _ = a.as(token, "POST", "/v1/customer-portal/license-keys/validate", asking(k, ""))
	}
	assert.Equal(t, 429, status)
	status, _ = a.as(token, "GET", "/v1/customer-portal/license-keys/", "")
	assert.Equal(t, 429, status, "the customer is shut out of everything")
	status, _ = a.send("GET", "/v1/license-keys/", "")
	assert.Equal(t, 200, status, "and the organization is not")
	a.p.Advance(time.Hour)
	status, _ = a.as(token, "GET", "/v1/customer-portal/license-keys/", "")
	assert.Equal(t, 401, status)
	status, _ = a.send("POST", "/v1/customer-sessions/", `{"external_customer_id":"nobody"}`)
	assert.Equal(t, 422, status)
}

func TestAPlanChangeKeepsTheKeyAndANewSubscriptionHasANewOne(t *testing.T) {
	t.Parallel()
	a := polarWith(t, polartest.Config{Unlimited: true})
	var types []string
	a.p.AddEndpoint(polartest.Endpoint{
		Events: []string{"subscription.created", "subscription.active", "subscription.updated", "subscription.canceled",
			"subscription.uncanceled", "subscription.revoked"},
		Handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			var event struct{ Type string }
			_ = json.NewDecoder(r.Body).Decode(&event)
			types = append(types, event.Type[len("subscription."):])
		}),
	})
	meter := a.p.AddMeter(polartest.CatalogMeter{})
	key := a.p.AddBenefit(polartest.CatalogBenefit{Type: "license_keys", Properties: map[string]any{"prefix": "ACME", "activations": map[string]any{"limit": 3}}})
	credit := a.p.AddBenefit(polartest.CatalogBenefit{Type: "meter_credit", Properties: map[string]any{"meter_id": meter.ID, "units": 100}})
	basic := a.p.AddProduct(polartest.Product{Name: "Basic", Benefits: []string{key.ID}})
	pro := a.p.AddProduct(polartest.Product{Name: "Pro", Benefits: []string{key.ID, credit.ID}})
	a.p.AddCustomer(polartest.Customer{ExternalID: "usr_1"})
	subscribe := func(product string) string {
		t.Helper()
		status, s := a.send("POST", "/v1/subscriptions/", `{"product_id":"`+product+`","external_customer_id":"usr_1"}`)
		require.Equal(t, 201, status, "%v", s)
		return s["id"].(string)
	}
	has := func() (keys []string, credited int64) {
		c, _ := a.p.Customer("usr_1")
		for _, b := range c.Benefits {
			if b.LicenseKeyID != "" && !b.Revoked {
				keys = append(keys, b.LicenseKeyID)
			}
		}
		if len(c.Meters) > 0 {
			credited = c.Meters[0].CreditedUnits
		}
		return keys, credited
	}
	patch := func(id, body string) {
		t.Helper()
		status, answer := a.send("PATCH", "/v1/subscriptions/"+id, body)
		require.Equal(t, 200, status, "%v", answer)
	}
	first := subscribe(basic.ID)
	keys, _ := has()
	require.Len(t, keys, 1)
	patch(first, `{"product_id":"`+pro.ID+`"}`)
	same, credited := has()
	assert.Equal(t, keys, same)
	assert.EqualValues(t, 100, credited)
	patch(first, `{"product_id":"`+basic.ID+`"}`)
	_, credited = has()
	assert.Zero(t, credited, "a credit that is revoked is taken back")
	patch(first, `{"cancel_at_period_end":true}`)
	patch(first, `{"cancel_at_period_end":false}`)
	status, _ := a.send("DELETE", "/v1/subscriptions/"+first, "")
	assert.Equal(t, 200, status)
	none, _ := has()
	assert.Empty(t, none)
	subscribe(basic.ID)
	fresh, _ := has()
	require.Len(t, fresh, 1)
	assert.NotEqual(t, keys, fresh)
	old, _ := a.p.LicenseKey(keys[0])
	assert.Equal(t, "revoked", old.Status)
	require.NoError(t, a.p.WaitForDeliveries(context.Background()))
	assert.Equal(t, []string{"created", "active", "updated", "updated", "updated", "canceled", "updated", "uncanceled", "updated",
		"canceled", "revoked", "updated", "created", "active", "updated"}, types)
}

func TestEditingABenefitRewritesTheLimitsOfItsKeysAndRestartsTheirTerm(t *testing.T) {
	t.Parallel()
	a := polarWith(t, polartest.Config{})
	b := a.p.AddBenefit(polartest.CatalogBenefit{Type: "license_keys"})
	a.p.AddCustomer(polartest.Customer{ExternalID: "usr_1"})
	ordered := a.p.AddKey(polartest.LicenseKey{BenefitID: b.ID, LimitActivations: polartest.Limit(1), ExpiresAt: a.p.Now().Add(time.Hour)})
	subscribed := a.p.AddKey(polartest.LicenseKey{BenefitID: b.ID})
	a.p.GrantBenefit("usr_1", polartest.Benefit{LicenseKeyID: ordered.ID})
	a.p.GrantBenefit("usr_1", polartest.Benefit{LicenseKeyID: subscribed.ID, SubscriptionID: "6a1c7e0e-58a5-4c1e-8a7a-2d4f3b1c9d01"})
	status, answer := a.send("PATCH", "/v1/benefits/"+b.ID, `{"type":"license_keys","metadata":{"plan":"pro"},"properties":{"prefix":"ACME",`+
		`"expires":{"ttl":2,"timeframe":"year"},"activations":{"limit":5,"enable_customer_admin":false},"limit_usage":20}}`)
	require.Equal(t, 200, status, "%v", answer)
	for _, id := range []string{ordered.ID, subscribed.ID} {
		k, _ := a.p.LicenseKey(id)
		assert.EqualValues(t, 5, *k.LimitActivations)
		assert.EqualValues(t, 20, *k.LimitUsage)
		assert.Equal(t, id == ordered.ID, k.ExpiresAt.After(a.p.Now().AddDate(1, 11, 0)), "only a key that was bought at a time has a term")
	}
	c, _ := a.p.Customer("usr_1")
	assert.Equal(t, map[string]any{"plan": "pro"}, c.Benefits[0].Metadata)
}

func TestCustomersMembersAndEndpointsAreMadeAndChangedByRequest(t *testing.T) {
	t.Parallel()
	a := polarWith(t, polartest.Config{Unlimited: true})
	status, c := a.send("POST", "/v1/customers/", `{"email":"ada@example.com","name":"Ada","metadata":{"plan":"pro"},"owner":{"email":"owner@example.com","external_id":"o-1"}}`)
	require.Equal(t, 201, status, "%v", c)
	path := "/v1/customers/" + c["id"].(string)
	status, _ = a.send("PATCH", path, `{"external_id":"usr_1"}`)
	assert.Equal(t, 200, status)
	status, _ = a.send("PATCH", path, `{"external_id":"usr_2"}`)
	assert.Equal(t, 422, status, "an external id is set once")
	status, _ = a.send("POST", "/v1/customers/", `{"email":"ADA@example.com"}`)
	assert.Equal(t, 422, status)
	_, m := a.send("GET", "/v1/members/external/o-1?customer_id="+c["id"].(string), "")
	assert.Equal(t, "owner", m["role"])
	status, missing := a.send("GET", "/v1/members/external/o-1", "")
	assert.Equal(t, 422, status)
	assert.Equal(t, "PolarRequestValidationError", missing["error"])
	_, below := a.send("GET", "/v1/customers/external/usr_1/members/o-1", "")
	assert.Equal(t, m, below)
	_, below = a.send("GET", path+"/members/"+m["id"].(string), "")
	assert.Equal(t, m, below)
	status, below = a.send("POST", path+"/members", `{"email":"ops@example.com"}`)
	assert.Equal(t, 201, status)
	assert.Equal(t, 2, a.total("/v1/customers/external/usr_1/members"))
	status, _ = a.send("DELETE", path+"/members/"+below["id"].(string), "")
	assert.Equal(t, 204, status)
	_, m = a.send("POST", "/v1/members/", `{"customer_id":"`+c["id"].(string)+`","email":"dev@example.com","external_id":"dev-1"}`)
	status, m = a.send("PATCH", "/v1/members/"+m["id"].(string), `{"role":"billing_manager","name":"Dev"}`)
	assert.Equal(t, 200, status)
	assert.Equal(t, "billing_manager", m["role"])
	status, _ = a.send("DELETE", "/v1/members/"+m["id"].(string), "")
	assert.Equal(t, 204, status)
	status, _ = a.send("GET", "/v1/members/"+m["id"].(string), "")
	assert.Equal(t, 404, status)

	status, e := a.send("POST", "/v1/webhooks/endpoints", `{"url":"https://receiver.example/hook","format":"raw","events":["customer.updated"]}`)
	require.Equal(t, 201, status, "%v", e)
	endpoint := "/v1/webhooks/endpoints/" + e["id"].(string)
	_, changed := a.send("PATCH", endpoint, `{"enabled":false}`)
	assert.Equal(t, false, changed["enabled"])
	_, reset := a.send("PATCH", endpoint+"/secret", "")
	assert.NotEqual(t, e["secret"], reset["secret"])
	status, _ = a.send("POST", "/v1/webhooks/endpoints", `{"url":"https://receiver.example/hook","format":"raw","events":["customer.vanished"]}`)
	assert.Equal(t, 422, status)
	status, _ = a.send("DELETE", endpoint, "")
	assert.Equal(t, 204, status)
	status, _ = a.send("DELETE", "/v1/customers/external/usr_1", "")
	assert.Equal(t, 204, status)
	status, _ = a.send("GET", path, "")
	assert.Equal(t, 404, status)
}

func TestImportTakesOverAStateAsAWholeAndSendsNothing(t *testing.T) {
	t.Parallel()
	a := polarWith(t, polartest.Config{})
	a.p.AddEndpoint(polartest.Endpoint{Handler: http.NotFoundHandler()})
	state := func(benefits string) string {
		return `{"id":"0b4daf0b-30eb-4e0b-9ee4-a33a445b9fcf","organization_id":"` + a.p.OrganizationID() + `","external_id":"usr_1","email":"ada@example.com",` +
			`"email_verified":false,"active_subscriptions":[],"granted_benefits":[` + benefits + `],"active_meters":[]}`
	}
	const grant = `{"id":"d7c2bb3d-fb6f-476f-8f80-a12d6a142e9e","granted_at":"2026-11-28T16:18:55Z","benefit_id":"c0b7da83-9c32-4a89-8a45-494838e9ef56","benefit_type":"custom","benefit_metadata":{"plan":"pro"}}`
	require.NoError(t, a.p.Import([]byte(state(grant))))
	c, _ := a.p.Customer("usr_1")
	require.Len(t, c.Benefits, 1)
	assert.False(t, c.Benefits[0].Revoked)
	require.NoError(t, a.p.Import([]byte(state(""))))
	c, _ = a.p.Customer("usr_1")
	assert.True(t, c.Benefits[0].Revoked)
	require.NoError(t, a.p.Import([]byte("["+state(grant)+"]")))
	c, _ = a.p.Customer("usr_1")
	assert.False(t, c.Benefits[0].Revoked)
	assert.Empty(t, a.p.Deliveries())
	for name, data := range map[string]string{
		"no JSON":                 `{`,
		"credited_units":          `{"meter_id":"x","consumed_units":1,"balance":1,"id":"1","customer_id":"0b4daf0b-30eb-4e0b-9ee4-a33a445b9fcf","credited_units":"many"}`,
		"not a UUID of version 4": `{"id":"1","email_verified":false}`,
	} {
		require.ErrorContains(t, a.p.Import([]byte(data)), name)
	}
}
