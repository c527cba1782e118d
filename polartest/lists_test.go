package polartest_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/polargate/polargate/polartest"
)

// asked is a Polar with a token, and what it answers as JSON.
type asked struct {
	t     *testing.T
	p     *polartest.Polar
	token string
}

func polarWith(t *testing.T, config polartest.Config) *asked {
	t.Helper()
	p := polartest.New(config)
	return &asked{t, p, p.AddToken(polartest.Token{})}
}

func (a *asked) send(method, path, body string) (int, map[string]any) {
	a.t.Helper()
	return a.as(a.token, method, path, body)
}

func (a *asked) as(token, method, path, body string) (int, map[string]any) {
	a.t.Helper()
	response, text := ask(a.t, a.p.Client(), method, path, token, body)
	var answer map[string]any
	if text != "" {
		require.NoError(a.t, json.Unmarshal([]byte(text), &answer), text)
	}
	return response.StatusCode, answer
}

func (a *asked) total(path string) int {
	a.t.Helper()
	status, answer := a.send("GET", path, "")
	require.Equal(a.t, http.StatusOK, status, "%s: %v", path, answer)
	return int(answer["pagination"].(map[string]any)["total_count"].(float64))
}

func TestListsAreFilteredByWhatTheyAreAskedAndByTheOrganizationOfTheToken(t *testing.T) {
	t.Parallel()
	a := polarWith(t, polartest.Config{Unlimited: true})
	p := a.p
	const tea, coffee = "6a1c7e0e-58a5-4c1e-8a7a-2d4f3b1c9d01", "6a1c7e0e-58a5-4c1e-8a7a-2d4f3b1c9d02"
	product := p.AddProduct(polartest.Product{Benefits: []string{tea}})
	for _, b := range []string{tea, coffee} {
		p.AddBenefit(polartest.CatalogBenefit{ID: b})
	}
	meter := p.AddMeter(polartest.CatalogMeter{EventName: "call"})
	one := p.AddCustomer(polartest.Customer{ExternalID: "usr_1", Email: "ada@example.com", Name: "Ada"})
	p.AddCustomer(polartest.Customer{ExternalID: "usr_2", Email: "bob@example.com"})
	subscription := p.Subscribe("usr_1", polartest.Subscription{ProductID: product.ID})
	p.Subscribe("usr_2", polartest.Subscription{ProductID: product.ID, Status: "past_due"})
	p.GrantBenefit("usr_1", polartest.Benefit{BenefitID: coffee})
	p.RevokeBenefit("usr_1", coffee)
	p.CreditMeter("usr_1", meter.ID, 5)
	p.AddKey(polartest.LicenseKey{BenefitID: tea, CustomerID: one.ID})
	p.AddKey(polartest.LicenseKey{BenefitID: coffee, Status: "revoked"})
	elsewhere := p.AddCustomer(polartest.Customer{OrganizationID: otherOrg, ExternalID: "usr_1", Email: "ada@example.com"})
	p.GrantBenefit(elsewhere.ID, polartest.Benefit{BenefitID: tea})
	p.Subscribe(elsewhere.ID, polartest.Subscription{})
	p.CreditMeter(elsewhere.ID, meter.ID, 5)

	for path, want := range map[string]int{
		"/v1/benefit-grants/":                             3,
		"/v1/benefit-grants/?is_granted=true":             2,
		"/v1/benefit-grants/?is_granted=false":            1,
		"/v1/benefit-grants/?customer_id=" + one.ID:       2,
		"/v1/benefit-grants/?external_customer_id=usr_2":  1,
		"/v1/benefit-grants/?organization_id=" + otherOrg: 0,
		"/v1/benefits/":                                                      2,
		"/v1/benefits/" + tea + "/grants":                                    2,
		"/v1/benefits/" + tea + "/grants?customer_id=" + one.ID:              1,
		"/v1/benefits/" + coffee + "/grants?is_granted=true":                 0,
		"/v1/subscriptions/":                                                 2,
		"/v1/subscriptions/?active=true":                                     1,
		"/v1/subscriptions/?status=past_due":                                 1,
		"/v1/subscriptions/?external_customer_id=usr_1":                      1,
		"/v1/subscriptions/?product_id=" + product.ID:                        2,
		"/v1/customers/":                                                     2,
		"/v1/customers/?email=ADA@example.com":                               1,
		"/v1/customers/?query=bob":                                           1,
		"/v1/customers/?query=carl":                                          0,
		"/v1/customer-meters/":                                               1,
		"/v1/customer-meters/?external_customer_id=usr_2":                    0,
		"/v1/customer-meters/?meter_id=" + meter.ID:                          1,
		"/v1/license-keys/?benefit_id=" + tea:                                1,
		"/v1/license-keys/?status=granted&status=revoked":                    2,
		"/v1/license-keys/?customer_id=" + one.ID + "&status=revoked":        1, // customer_id is ignored
		"/v1/products/":                                                      1,
		"/v1/products/?benefit_id=" + coffee:                                 0,
		"/v1/meters/":                                                        1,
		"/v1/members/?customer_id=" + one.ID:                                 1,
		"/v1/members/":                                                       2,
		"/v1/webhooks/endpoints":                                             0,
		"/v1/webhooks/deliveries?endpoint_id=" + one.ID + "&succeeded=false": 0,
	} {
		assert.Equal(t, want, a.total(path), path)
	}
	for path, kind := range map[string]string{
		"/v1/benefit-grants/?is_granted=maybe":   "bool_parsing",
		"/v1/benefit-grants/?customer_id=usr_1":  "uuid_type",
		"/v1/license-keys/?status=paused":        "enum",
		"/v1/subscriptions/?limit=0":             "greater_than",
		"/v1/customer-meters/?page=x":            "int_parsing",
		"/v1/benefits/usr_1":                     "uuid_parsing",
		"/v1/benefits/usr_1/grants?is_granted=5": "uuid_parsing",
	} {
		status, answer := a.send("GET", path, "")
		assert.Equal(t, 422, status, path)
		assert.Equal(t, kind, answer["detail"].([]any)[0].(map[string]any)["type"], path)
	}
	status, answer := a.send("GET", "/v1/subscriptions/"+subscription.ID, "")
	assert.Equal(t, 200, status)
	assert.Equal(t, "usr_1", answer["customer"].(map[string]any)["external_id"])
	status, _ = a.send("GET", "/v1/customers/"+elsewhere.ID, "")
	assert.Equal(t, 404, status)
}

func TestAListHasAtMostAHundredAPageAndNothingBehindItsEnd(t *testing.T) {
	t.Parallel()
	a := polarWith(t, polartest.Config{Unlimited: true})
	for i := range 250 {
		a.p.AddCustomer(polartest.Customer{ExternalID: fmt.Sprintf("usr_%d", i)})
		a.p.GrantBenefit(fmt.Sprintf("usr_%d", i), polartest.Benefit{})
	}
	seen := map[string]bool{}
	for page, want := range []int{1: 100, 2: 100, 3: 50, 4: 0} {
		if page == 0 {
			continue
		}
		_, answer := a.send("GET", fmt.Sprintf("/v1/benefit-grants/?limit=1000&page=%d", page), "")
		items := answer["items"].([]any)
		assert.Len(t, items, want)
		for _, item := range items {
			seen[item.(map[string]any)["customer"].(map[string]any)["external_id"].(string)] = true
		}
		assert.InDelta(t, 3, answer["pagination"].(map[string]any)["max_page"], 0)
	}
	assert.Len(t, seen, 250)
}

func TestAListComesInTheOrderThatItIsAskedFor(t *testing.T) {
	t.Parallel()
	a := polarWith(t, polartest.Config{})
	began := a.p.Now().Add(-time.Hour)
	for i, granted := range []int{2, 0, 1} {
		at := began.Add(time.Duration(i) * time.Minute)
		a.p.AddCustomer(polartest.Customer{
			ID: fmt.Sprintf("0000000%d-0000-4000-8000-000000000000", i), ExternalID: fmt.Sprint(i), Email: fmt.Sprintf("%d@example.com", granted),
			Benefits:      []polartest.Benefit{{CreatedAt: at, GrantedAt: began.Add(time.Duration(granted) * time.Minute)}},
			Subscriptions: []polartest.Subscription{{ProductID: "8c499570-3242-437e-a9f5-6fee6cff7593", StartedAt: began.Add(time.Duration(granted) * time.Minute)}},
			Meters:        []polartest.Meter{{MeterID: "aaf2bfea-ac4f-40eb-99ad-de858ccdfd97", CreatedAt: at, ModifiedAt: began.Add(time.Duration(granted) * time.Minute)}},
		})
	}
	for path, want := range map[string]string{
		"/v1/benefit-grants/":                                       "210", // the newest first
		"/v1/benefit-grants/?sorting=created_at":                    "012",
		"/v1/benefit-grants/?sorting=granted_at":                    "120",
		"/v1/benefit-grants/?sorting=-granted_at":                   "021",
		"/v1/subscriptions/?sorting=started_at":                     "120",
		"/v1/customer-meters/?sorting=created_at":                   "012",
		"/v1/customer-meters/?sorting=-created_at":                  "210",
		"/v1/customer-meters/?sorting=modified_at":                  "120",
		"/v1/customer-meters/?sorting=-customer_id":                 "210",
		"/v1/customer-meters/?sorting=meter_id&sorting=-created_at": "210",
		"/v1/subscriptions/?sorting=customer":                       "120",
		"/v1/subscriptions/?sorting=product&sorting=-started_at":    "021",
		"/v1/benefit-grants/?sorting=revoked_at&limit=1":            "2",
	} {
		status, answer := a.send("GET", path, "")
		require.Equal(t, http.StatusOK, status, path)
		got := ""
		for _, item := range answer["items"].([]any) {
			got += item.(map[string]any)["customer"].(map[string]any)["external_id"].(string)
		}
		assert.Equal(t, want, got, path)
	}
	status, _ := a.send("GET", "/v1/benefit-grants/?sorting=started_at", "")
	assert.Equal(t, http.StatusUnprocessableEntity, status)
}

func TestMetersCountWhenTheLastEventIsFifteenSecondsOldOrTheFirstThreeHours(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		a := polarWith(t, polartest.Config{Unlimited: true})
		r := &receiver{}
		a.p.AddEndpoint(polartest.Endpoint{Handler: r})
		meter := a.p.AddMeter(polartest.CatalogMeter{
			Filter: map[string]any{"conjunction": "and", "clauses": []any{
				map[string]any{"property": "name", "operator": "eq", "value": "call"},
				map[string]any{"conjunction": "or", "clauses": []any{
					map[string]any{"property": "plan", "operator": "eq", "value": "pro"},
					map[string]any{"property": "units", "operator": "gte", "value": 10},
				}},
			}},
			Aggregation: map[string]any{"func": "sum", "property": "units"},
		})
		a.p.AddCustomer(polartest.Customer{ExternalID: "usr_1"})
		a.p.CreditMeter("usr_1", meter.ID, 100)
		settle(t, a.p)
		before := len(r.seen())
		event := func(metadata string) {
			t.Helper()
			status, answer := a.send("POST", "/v1/events/ingest", `{"events":[{"name":"call","external_customer_id":"usr_1","metadata":`+metadata+`}]}`)
			require.Equal(t, 200, status, "%v", answer)
		}
		consumed := func() float64 {
			c, _ := a.p.Customer("usr_1")
			return c.Meters[0].ConsumedUnits
		}
		event(`{"plan":"pro","units":3}`)
		time.Sleep(10 * time.Second)
		event(`{"plan":"free","units":12}`)
		event(`{"plan":"free","units":2}`) // fits neither
		time.Sleep(14 * time.Second)
		assert.Zero(t, consumed(), "the last one is 14 seconds old")
		time.Sleep(2 * time.Second)
		synctest.Wait()
		settle(t, a.p)
		assert.InDelta(t, 15, consumed(), 0)
		assert.Equal(t, []string{"customer.state_changed"}, r.types()[before:], "and it is told")

		began := time.Now()
		for consumed() == 15 { //nolint:testifylint // whole numbers
			event(`{"plan":"pro","units":1}`)
			time.Sleep(10 * time.Second)
		}
		assert.InDelta(t, (180 * time.Minute).Seconds(), time.Since(began).Seconds(), 20)
		for _, u := range a.p.Events()[:3] {
			assert.True(t, u.Counted)
		}
	})
}

func TestMetersAggregateAsTheyAreDefined(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]float64{"count": 4, "sum": 9, "max": 4, "min": 1, "avg": 2.25, "unique": 3} {
		a := polarWith(t, polartest.Config{})
		a.p.AddMeter(polartest.CatalogMeter{EventName: "call", Aggregation: map[string]any{"func": name, "property": "units"}})
		a.p.AddCustomer(polartest.Customer{ExternalID: "usr_1"})
		for range 2 { // in two batches, which are one to the meter
			status, answer := a.send("POST", "/v1/events/ingest", `{"events":[`+
				`{"name":"call","external_customer_id":"usr_1","metadata":{"units":2}},{"name":"other","external_customer_id":"usr_1","metadata":{"units":50}}]}`)
			require.Equal(t, 200, status, "%v", answer)
			a.p.Advance(20 * time.Second)
		}
		a.send("POST", "/v1/events/ingest", `{"events":[{"name":"call","external_customer_id":"usr_1","metadata":{"units":4}},`+
			`{"name":"call","external_customer_id":"usr_1","metadata":{"units":1}}]}`)
		a.p.Advance(20 * time.Second)
		c, _ := a.p.Customer("usr_1")
		assert.InDelta(t, want, c.Meters[0].ConsumedUnits, 1e-9, name)
	}
}

func TestUsageOfAnExternalIdThatNobodyHasYetIsCountedOnceSomebodyHas(t *testing.T) {
	t.Parallel()
	a := polarWith(t, polartest.Config{})
	meter := a.p.AddMeter(polartest.CatalogMeter{EventName: "call"})
	a.send("POST", "/v1/events/ingest", `{"events":[{"name":"call","external_customer_id":"usr_new"}]}`)
	a.p.Advance(time.Minute)
	a.p.AddCustomer(polartest.Customer{ExternalID: "usr_new"})
	a.p.Advance(time.Second)
	c, _ := a.p.Customer("usr_new")
	require.Len(t, c.Meters, 1)
	assert.Equal(t, meter.ID, c.Meters[0].MeterID)
	status, answer := a.send("POST", "/v1/events/ingest", `{"events":[{"name":"call","external_customer_id":"usr_new"},{"name":"call"}]}`)
	assert.Equal(t, 422, status, "%v", answer)
	assert.Len(t, a.p.Events(), 1, "one bad event fails the batch")
}
