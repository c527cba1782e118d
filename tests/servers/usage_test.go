package servers

import (
	"bytes"
	"encoding/json"
	"math/rand/v2"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/polargate/polargate"
	"github.com/polargate/polargate/polartest"
	"github.com/polargate/polargate/tests/internal/kit"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// metered is a shop whose meter sums the units of events named "call".
func metered(t *testing.T, change ...func(*polartest.Config)) *kit.Shop {
	t.Helper()
	s := kit.NewShop(t, change...)
	s.Polar.AddMeter(polartest.CatalogMeter{
		ID: kit.CallsMeter, Name: "Calls",
		Filter:      map[string]any{"conjunction": "and", "clauses": []any{map[string]any{"property": "name", "operator": "eq", "value": "call"}}},
		Aggregation: map[string]any{"func": "sum", "property": "units"},
	})
	return s
}

// report sends a usage event of the paying customer, as a program does that sends its own.
func report(s *kit.Shop, units float64) {
	s.T.Helper()
	body, err := json.Marshal(map[string]any{"events": []any{map[string]any{
		"name": "call", "external_customer_id": kit.Paying, "metadata": map[string]any{"units": units},
	}}})
	require.NoError(s.T, err)
	r, err := http.NewRequestWithContext(s.T.Context(), http.MethodPost, s.Polar.URL()+"/v1/events/ingest", bytes.NewReader(body))
	require.NoError(s.T, err)
	r.Header.Set("Authorization", "Bearer "+s.Config.AccessToken)
	r.Header.Set("Content-Type", "application/json")
	w, err := s.Polar.Client().Do(r)
	require.NoError(s.T, err)
	defer w.Body.Close()
	require.Equal(s.T, 200, w.StatusCode)
}

// Polar counts late. Whatever states come meanwhile, by answers and by webhooks, nobody gets
// more than there is, and what is left is what Polar says once it has counted.
func TestSpendingAgreesWithAModelWhateverComesInBetween(t *testing.T) {
	t.Parallel()
	for seed := range uint64(40) {
		synctest.Test(t, func(t *testing.T) {
			rnd := rand.New(rand.NewPCG(seed, 3))
			s := metered(t)
			customers := s.Warmed(func(c *polargate.CustomersConfig) { c.FreshFor, c.RequestsPerMinute = 10*time.Second, 1e6 })
			if seed%2 == 0 {
				received(t, s, customers)
			}
			ref := polargate.ExternalID(kit.Paying)
			credited, spent, gone := 100.0, 0.0, 0.0 // gone is what others used
			var untold []float64
			for step := range 150 {
				switch n := rnd.IntN(12); {
				case n < 5:
					units := float64(1+rnd.IntN(70)) / 10
					giveBack, ok, err := customers.Spend(t.Context(), ref, kit.CallsMeter, units)
					require.NoError(t, err)
					if ok && rnd.IntN(5) == 0 {
						giveBack()
						giveBack()
					} else if ok {
						spent += units
						untold = append(untold, units)
					}
				case n < 9:
					for _, units := range untold {
						report(s, units)
					}
					untold = nil
				case n == 9 && rnd.IntN(4) == 0:
					s.Polar.CreditMeter(kit.Paying, kit.CallsMeter, 10)
					credited += 10
				case n == 10:
					_, err := customers.Refresh(t.Context(), ref)
					require.NoError(t, err)
				}
				require.LessOrEqual(t, spent+gone, credited+1e-9, "seed %d, step %d: more was served than there is", seed, step)
				time.Sleep(time.Duration(rnd.IntN(9000)) * time.Millisecond)
			}
			for _, units := range untold {
				report(s, units)
			}
			time.Sleep(5 * time.Hour)
			require.NoError(t, s.Polar.WaitForDeliveries(t.Context()))
			_, err := customers.Refresh(t.Context(), ref)
			require.NoError(t, err)
			assert.InDelta(t, credited-spent-gone, balanceOf(t, customers), 1e-6, "seed %d", seed)
		})
	}
}
