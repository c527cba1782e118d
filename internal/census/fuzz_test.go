package census

import (
	"testing"

	"github.com/polargate/polargate/internal/fact"
	"github.com/stretchr/testify/require"
)

// FuzzPage reads pages of Polar's lists, and tells other replicas of them.
func FuzzPage(f *testing.F) {
	const organization = "34f57e13-8bcb-4481-85b2-a4b55c4ba0b9"
	customer := `"customer":{"id":"8d8a7abc-87f9-4fe4-8680-86d3a0c05924","external_id":"usr","organization_id":"` + organization + `"}`
	for _, items := range []string{
		``, `{"id":"b0000000-0000-4000-8000-000000000001","granted_at":"2026-11-22T12:00:00Z","benefit_id":"pro","benefit":{"type":"custom","metadata":{"a":1}},` + customer + `}`,
		`{"id":"b0000000-0000-4000-8000-000000000002","started_at":"2026-11-22T12:00:00Z","product_id":"p","status":"trialing","trial_end":"2026-12-22T12:00:00Z",` + customer + `}`,
		`{"id":"b0000000-0000-4000-8000-000000000003","created_at":"2026-11-22T12:00:00Z","meter_id":"m","consumed_units":1.7e308,"credited_units":-1.7e308,` + customer + `}`,
		`null`, `{"customer":null}`,
	} {
		f.Add([]byte(`{"items":[`+items+`],"pagination":{"total_count":1,"max_page":1}}`), uint8(0))
		f.Add([]byte(`{"items":[`+items+`],"pagination":{"total_count":1,"max_page":1}}`), uint8(1))
		f.Add([]byte(`{"items":[`+items+`],"pagination":{"total_count":1,"max_page":1}}`), uint8(2))
	}
	f.Add([]byte(`{"items":[],"pagination":{"total_count":-1,"max_page":1e9}}`), uint8(0))
	f.Fuzz(func(t *testing.T, body []byte, which uint8) {
		list := &Lists[int(which)%len(Lists)]
		page, _, broken, err := list.Page(body, organization)
		if broken != nil || err != nil {
			return
		}
		require.GreaterOrEqual(t, page.Size, 0)
		require.GreaterOrEqual(t, page.Last, 0)
		told := FactOf(page, 1, 5)
		again, err := fact.ParsePage(told.Bytes())
		require.NoError(t, err, "what one replica tells, another reads")
		require.Len(t, again.Rows, len(page.Rows))
		for i, row := range page.Rows {
			require.NotZero(t, row.ID)
			require.NotZero(t, row.Owner)
			other := again.Rows[i]
			require.Equal(t, row.ID, other.ID)
			have := fact.PartsOf(other.Benefits, other.Products, other.Subscriptions, other.Meters)
			require.Equal(t, told.Rows[i].Benefits, fact.BenefitsOf(have.Benefits), "nothing is lost on the way")
			require.Equal(t, told.Rows[i].Meters, fact.MetersOf(have.Meters))
			require.Equal(t, told.Rows[i].Subscriptions, fact.SubscriptionsOf(have.Subscriptions))
		}
	})
}
