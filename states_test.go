package polargate

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// saying is Customers of a Polar that answers with a customer's state whose lists are
// as given, each with its name: `"active_meters":null`.
func saying(t *testing.T, lists *atomic.Pointer[string], change ...func(*CustomersConfig)) *Customers {
	t.Helper()
	return stating(t, func(external string) *http.Response {
		body := fmt.Sprintf(`{"id":%q,"external_id":%q,"organization_id":%q,%s}`, benchCustomer, external, testOrganization, *lists.Load())
		return &http.Response{
			StatusCode: 200, Body: io.NopCloser(strings.NewReader(body)),
			Header: http.Header{"Date": {time.Now().UTC().Format(http.TimeFormat)}, "Content-Type": {"application/json"}},
		}
	}, change...)
}

// In each of the lists something is wrong or right; what must come out is a status for
// each of three requirements: of a feature, a product and a meter.
func TestADecisionNeedsOnlyTheListsThatItLooksInto(t *testing.T) {
	t.Parallel()
	const (
		benefits      = `"granted_benefits":[{"benefit_id":"` + proID + `"}]`
		subscriptions = `"active_subscriptions":[{"product_id":"` + planID + `","status":"active"}]`
		meters        = `"active_meters":[{"meter_id":"` + callsID + `","balance":5}]`
	)
	for name, c := range map[string]struct {
		lists                   []string
		feature, product, meter int
	}{
		"all well":                      {[]string{benefits, subscriptions, meters}, 200, 200, 200},
		"meters null":                   {[]string{benefits, subscriptions, `"active_meters":null`}, 200, 200, 402},
		"subscriptions null":            {[]string{benefits, `"active_subscriptions":null`, meters}, 200, 402, 200},
		"benefits null":                 {[]string{`"granted_benefits":null`, subscriptions, meters}, 402, 200, 200},
		"all null":                      {[]string{`"granted_benefits":null`, `"active_subscriptions":null`, `"active_meters":null`}, 402, 402, 402},
		"meters missing":                {[]string{benefits, subscriptions}, 200, 200, 503},
		"subscriptions missing":         {[]string{benefits, meters}, 200, 503, 200},
		"benefits missing":              {[]string{subscriptions, meters}, 503, 200, 200},
		"meters text":                   {[]string{benefits, subscriptions, `"active_meters":"none"`}, 200, 200, 503},
		"subscriptions an object":       {[]string{benefits, `"active_subscriptions":{"items":[]}`, meters}, 200, 503, 200},
		"benefits a number":             {[]string{`"granted_benefits":1`, subscriptions, meters}, 503, 200, 200},
		"only benefits":                 {[]string{benefits}, 200, 503, 503},
		"only meters":                   {[]string{meters}, 503, 503, 200},
		"none at all":                   {[]string{`"name":"a customer and no state"`}, 503, 503, 503},
		"strange members beside":        {[]string{`"granted_benefits":[7,null,{"benefit_id":[]},{"benefit_id":"` + proID + `","benefit_metadata":7}]`, `"active_subscriptions":["x",{"product_id":"` + planID + `","status":{}}]`, `"active_meters":[[],{"meter_id":"` + callsID + `","balance":5,"credited_units":"many"}]`}, 200, 200, 200},
		"strange members and no others": {[]string{`"granted_benefits":[7]`, `"active_subscriptions":["x"]`, `"active_meters":[[]]`}, 402, 402, 402},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				var lists atomic.Pointer[string]
				text := strings.Join(c.lists, ",")
				lists.Store(&text)
				customers := saying(t, &lists)
				status := func(need ...Requirement) int {
					_, refusal := customers.Decide(t.Context(), ExternalID("usr_1"), need...)
					if refusal == nil {
						return 200
					}
					return refusal.Status
				}
				for range 2 { // by the answer, and out of the cache
					assert.Equal(t, c.feature, status(Feature("pro")), "feature")
					assert.Equal(t, c.feature, status(Benefit(proID)), "benefit")
					assert.Equal(t, c.product, status(Product(planID)), "product")
					assert.Equal(t, c.meter, status(Meter(callsID, 5)), "meter")
					assert.Equal(t, max(c.feature, c.product), status(Feature("pro"), Product(planID)), "feature and product")
					assert.Equal(t, min(c.feature, c.product), status(Any(Product(planID), Feature("pro"))), "feature or product")
				}
			})
		})
	}
}

func TestAListThatCannotBeReadLeavesWhatWasKnownForTheGracePeriod(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		well := `"granted_benefits":[{"benefit_id":"` + proID + `"}],"active_subscriptions":[{"product_id":"` + planID + `"}],"active_meters":[{"meter_id":"` + callsID + `","balance":5}]`
		broken := `"granted_benefits":[],"active_subscriptions":"none","active_meters":7`
		var lists atomic.Pointer[string]
		lists.Store(&well)
		customers := saying(t, &lists, func(c *CustomersConfig) { c.GracePeriod = time.Hour })
		ref := ExternalID("usr_1")
		_, ok, err := customers.Spend(t.Context(), ref, callsID, 2)
		require.NoError(t, err)
		require.True(t, ok)

		lists.Store(&broken)
		for range 5 {
			time.Sleep(10 * time.Minute)
			e, err := customers.Refresh(t.Context(), ref)
			require.NoError(t, err)
			assert.False(t, e.Has("pro"), "that list can be read, and says so")
			assert.True(t, e.Subscribed(planID))
			m, ok := e.Meter(callsID)
			assert.True(t, ok)
			assert.InDelta(t, 3, m.Balance, 0, "what was spent is not given back")
		}
		time.Sleep(10 * time.Minute)
		e, err := customers.Refresh(t.Context(), ref)
		require.NoError(t, err)
		assert.False(t, e.Subscribed(planID), "the state that it is of is an hour old")
		_, refusal := customers.Decide(t.Context(), ref, Product(planID))
		require.NotNil(t, refusal)
		assert.Equal(t, 503, refusal.Status)
		require.ErrorContains(t, refusal.Err, "active_subscriptions")
		_, ok, err = customers.Spend(t.Context(), ref, callsID, 1)
		assert.False(t, ok)
		require.ErrorIs(t, err, ErrUnreachable, "nobody can say what is left")
	})
}
