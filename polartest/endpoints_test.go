package polartest_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/polargate/polargate/polartest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestAnEndpointIsSwitchedOffAfterTenEventsInARowThatFailed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := unlimited()
		var r receiver
		e := p.AddEndpoint(polartest.Endpoint{Handler: &r})
		c := p.AddCustomer(polartest.Customer{})
		settle(t, p)
		r.does(says(500))
		change := func() { p.DebitMeter(c.ID, meterA, 1) }
		now := func() polartest.Endpoint {
			e, ok := p.Endpoint(e.ID)
			require.True(t, ok)
			return e
		}
		last := func() polartest.Delivery {
			d := p.Deliveries()
			return d[len(d)-1]
		}
		for i := range 9 {
			change()
			settle(t, p)
			assert.Equal(t, i+1, now().Failures)
		}
		r.does(nil)
		change()
		settle(t, p)
		assert.Zero(t, now().Failures, "one success ends the row")
		r.does(says(500))
		for range 9 {
			change()
		}
		settle(t, p)
		assert.False(t, now().Disabled)
		change()
		time.Sleep(time.Minute)
		change()
		change()
		settle(t, p)
		assert.True(t, now().Disabled)
		assert.Equal(t, 10, now().Failures)
		assert.Equal(t, "skipped", last().Status, "what is still on its way is forgotten")
		assert.Less(t, len(last().Attempts), 10)

		before := len(r.seen())
		created := len(p.Deliveries())
		change()
		settle(t, p)
		assert.Len(t, p.Deliveries(), created, "what happens meanwhile is lost")
		assert.Len(t, r.seen(), before)

		p.UpdateEndpoint(e.ID, func(e *polartest.Endpoint) { e.Disabled = false })
		change()
		settle(t, p)
		assert.True(t, now().Disabled, "one failure more, and it is off again")
		r.does(nil)
		p.UpdateEndpoint(e.ID, func(e *polartest.Endpoint) { e.Disabled = false })
		change()
		settle(t, p)
		assert.Equal(t, "delivered", last().Status)
		assert.Zero(t, now().Failures)
		assert.False(t, now().Disabled)
		assert.False(t, p.UpdateEndpoint(benefitA, func(*polartest.Endpoint) {}))
		_, ok := p.Endpoint(benefitA)
		assert.False(t, ok)
	})
}

func TestEndpointsGetOnlyTheirOrganizationsEventsAndTypes(t *testing.T) {
	t.Parallel()
	p := unlimited()
	const elsewhere = "549c44b7-2e67-4e0e-8a20-17e76c895830"
	var all, some, off, theirs receiver
	p.AddEndpoint(polartest.Endpoint{Handler: &all})
	p.AddEndpoint(polartest.Endpoint{Handler: &some, Events: []string{"customer.created", "customer.deleted"}})
	p.AddEndpoint(polartest.Endpoint{Handler: &off, Disabled: true})
	p.AddEndpoint(polartest.Endpoint{Handler: &theirs, OrganizationID: elsewhere})
	p.AddCustomer(polartest.Customer{ExternalID: "usr_1"})
	p.GrantBenefit("usr_1", polartest.Benefit{})
	p.DeleteCustomer("usr_1")
	p.AddCustomer(polartest.Customer{DeletedAt: p.Now()})
	settle(t, p)
	assert.Equal(t, []string{
		"customer.created", "customer.state_changed", "customer.state_changed", "customer.deleted", "customer.state_changed",
	}, all.types())
	assert.Equal(t, []string{"customer.created", "customer.deleted"}, some.types())
	assert.Empty(t, off.types())
	assert.Empty(t, theirs.types())
	p.AddCustomer(polartest.Customer{OrganizationID: elsewhere})
	settle(t, p)
	assert.Equal(t, []string{"customer.created", "customer.state_changed"}, theirs.types())
	assert.Len(t, all.types(), 5)
	assert.NotEqual(t, all.seen()[0].header.Get("Webhook-Id"), some.seen()[0].header.Get("Webhook-Id"), "each endpoint has its own")
}

func TestMistakesWithEndpointsPanicWithWordsThatHelp(t *testing.T) {
	t.Parallel()
	p := unlimited()
	e := p.AddEndpoint(polartest.Endpoint{Handler: http.NotFoundHandler(), Secrets: []polartest.Secret{{Text: "own", Raw: true}}})
	for name, test := range map[string]struct {
		endpoint polartest.Endpoint
		words    string
	}{
		"nowhere to go":        {polartest.Endpoint{}, "neither a URL nor a Handler"},
		"an address of no one": {polartest.Endpoint{URL: "/webhooks"}, `"/webhooks" is not a URL`},
		"an ID that is none":   {polartest.Endpoint{URL: "http://a.test", ID: "one"}, `Endpoint.ID "one"`},
		"the same twice":       {polartest.Endpoint{URL: "http://a.test", ID: e.ID}, "there already"},
		"a secret that is own text": {polartest.Endpoint{URL: "http://a.test",
			Secrets: []polartest.Secret{{Text: "whsec_not base64"}}}, "Raw takes any text"},
	} {
		t.Run(name, func(t *testing.T) {
			defer func() { assert.Contains(t, fmt.Sprint(recover()), test.words) }()
			p.AddEndpoint(test.endpoint)
		})
	}
	e.Secrets[0].Text = "changed"
	again, ok := p.Endpoint(e.ID)
	require.True(t, ok)
	assert.Equal(t, "own", again.Secrets[0].Text, "it was a copy")
}

// namesOf are the members of an object, in the order in which they stand, with those of the objects in
// it, but for what a benefit or a customer says for itself.
func namesOf(t *testing.T, raw []byte) []string {
	t.Helper()
	var names []string
	d := json.NewDecoder(bytes.NewReader(raw))
	_, err := d.Token()
	require.NoError(t, err)
	for d.More() {
		name, err := d.Token()
		require.NoError(t, err)
		var value json.RawMessage
		require.NoError(t, d.Decode(&value))
		names = append(names, name.(string))
		if value[0] == '{' && !slices.Contains([]string{"metadata", "properties", "previous_properties"}, name.(string)) {
			for _, inner := range namesOf(t, value) {
				names = append(names, name.(string)+"."+inner)
			}
		}
	}
	return names
}

func TestGrantsAreToldAsPolarTellsThemToEndpointsThatNameThem(t *testing.T) {
	t.Parallel()
	p := polartest.New(polartest.Config{Unlimited: true})
	var all, named receiver
	p.AddEndpoint(polartest.Endpoint{Handler: &all})
	p.AddEndpoint(polartest.Endpoint{Handler: &named, Events: []string{"benefit_grant.created", "benefit_grant.updated", "benefit_grant.revoked"}})
	c := p.AddCustomer(polartest.Customer{ExternalID: "usr_1"})
	k := p.AddKey(polartest.LicenseKey{CustomerID: c.ID})
	p.GrantBenefit(c.ID, polartest.Benefit{LicenseKeyID: k.ID})
	p.GrantBenefit(c.ID, polartest.Benefit{LicenseKeyID: k.ID, Metadata: map[string]any{"plan": "pro"}})
	p.RevokeBenefit(c.ID, k.BenefitID)
	p.GrantBenefit(c.ID, polartest.Benefit{LicenseKeyID: k.ID})
	p.UpdateCustomer(c.ID, func(c *polartest.Customer) { c.Name = "Ada" })
	settle(t, p)
	assert.Equal(t, []string{"benefit_grant.created", "benefit_grant.updated", "benefit_grant.revoked", "benefit_grant.created"}, named.types())
	assert.NotContains(t, strings.Join(all.types(), " "), "benefit_grant")
	for i, file := range []string{"member_model_benefit_grant_created_1", "benefit_grant_updated_2", "member_model_benefit_grant_revoked_2"} {
		var recorded struct {
			Delivery struct {
				RawBody string `json:"raw_body"`
			} `json:"delivery"`
		}
		readFile(t, "testdata/deliveries/"+file+".json", &recorded)
		withoutMember := slices.DeleteFunc(namesOf(t, []byte(recorded.Delivery.RawBody)), func(name string) bool { return strings.HasPrefix(name, "data.member.") })
		assert.Equal(t, withoutMember, namesOf(t, named.seen()[i].raw), file)
		assert.Contains(t, string(named.seen()[i].raw), `"properties":{"license_key_id":"`+k.ID+`","display_key":`)
	}
	assert.Contains(t, string(named.seen()[0].raw), `"previous_properties":{}`)
	assert.Contains(t, string(named.seen()[2].raw), `"is_granted":false,"revoked_at":"`)
	assert.Contains(t, string(named.seen()[2].raw), `"previous_properties":{"license_key_id":"`+k.ID+`"`)
}
