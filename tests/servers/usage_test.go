package servers

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
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

// calls is the usage of the meter of a metered shop.
var calls = polargate.Usage{Name: "call"}

// sending has usage events sent to Polar until the test ends.
func sending(t *testing.T, customers *polargate.Customers) {
	t.Helper()
	go func() { assert.NoError(t, customers.RunUsage(t.Context())) }()
}

// used commits units of the paying customer, and fails the test if that is refused.
func used(t *testing.T, customers *polargate.Customers, units float64) {
	t.Helper()
	r, refusal := customers.Reserve(t.Context(), polargate.ExternalID(kit.Paying), kit.CallsMeter, units)
	require.Nil(t, refusal)
	require.NoError(t, r.Commit(t.Context(), units, calls))
}

func refreshed(t *testing.T, customers *polargate.Customers) float64 {
	t.Helper()
	_, err := customers.Refresh(t.Context(), polargate.ExternalID(kit.Paying))
	require.NoError(t, err)
	return balanceOf(t, customers)
}

func TestAReservationHoldsUnitsUntilItIsCommittedOrReleased(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		customers := metered(t).Warmed()
		ref := polargate.ExternalID(kit.Paying)
		r, refusal := customers.Reserve(t.Context(), ref, kit.CallsMeter, 60)
		require.Nil(t, refusal)
		for range 3 {
			assert.InDelta(t, 40, refreshed(t, customers), 0, "a hold survives every new state")
			none, refusal := customers.Reserve(t.Context(), ref, kit.CallsMeter, 50)
			require.NotNil(t, refusal)
			assert.Equal(t, 402, refusal.Status)
			assert.Equal(t, polargate.Meter(kit.CallsMeter, 50).String(), refusal.Required.String())
			none.Release()
			require.Error(t, none.Commit(t.Context(), 1, calls), "nothing was reserved")
			time.Sleep(time.Minute)
		}
		r.Release()
		r.Release()
		assert.InDelta(t, 100, balanceOf(t, customers), 0)
		require.Error(t, r.Commit(t.Context(), 60, calls), "it was released before")
		less, _ := customers.Reserve(t.Context(), ref, kit.CallsMeter, 60)
		require.NoError(t, less.Commit(t.Context(), 0.5, calls))
		less.Release()
		assert.InDelta(t, 99.5, balanceOf(t, customers), 0)
		nothing, _ := customers.Reserve(t.Context(), ref, kit.CallsMeter, 60)
		require.NoError(t, nothing.Commit(t.Context(), 0, calls))
		assert.InDelta(t, 99.5, balanceOf(t, customers), 0)
		assert.Equal(t, 1, customers.Stats().Usage.Waiting)
	})
}

func TestWorkThatCostMoreThanWasHeldIsBookedAndTheNextIsRefused(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		customers := metered(t).Warmed()
		ref := polargate.ExternalID(kit.Paying)
		served := 0.0
		for range 20 {
			r, refusal := customers.Reserve(t.Context(), ref, kit.CallsMeter, 1)
			if refusal != nil {
				assert.Equal(t, 402, refusal.Status)
				continue
			}
			require.NoError(t, r.Commit(t.Context(), 30, calls))
			served += 30
		}
		assert.InDelta(t, 120, served, 0)
		assert.InDelta(t, -20, balanceOf(t, customers), 0)
	})
}

func TestAReservationNeedsACustomerAnAmountAndAName(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := metered(t)
		customers := s.Warmed()
		for name, c := range map[string]struct {
			ref    polargate.CustomerRef
			units  float64
			meter  string
			status int
		}{
			"nobody":              {polargate.CustomerRef{}, 1, kit.CallsMeter, 401},
			"an unknown customer": {polargate.ExternalID("usr_unknown"), 1, kit.CallsMeter, 402},
			"nothing":             {polargate.ExternalID(kit.Paying), 0, kit.CallsMeter, 400},
			"no number":           {polargate.ExternalID(kit.Paying), math.NaN(), kit.CallsMeter, 400},
			"too much":            {polargate.ExternalID(kit.Paying), 1e16, kit.CallsMeter, 400},
			"another meter":       {polargate.ExternalID(kit.Paying), 1, kit.TeaBenefit, 402},
			"no meter":            {polargate.ExternalID(kit.Paying), 1, "", 402},
		} {
			r, refusal := customers.Reserve(t.Context(), c.ref, c.meter, c.units)
			require.NotNil(t, refusal, name)
			assert.Equal(t, c.status, refusal.Status, name)
			assert.Nil(t, r)
		}
		r, _ := customers.Reserve(t.Context(), polargate.ExternalID(kit.Paying), kit.CallsMeter, 10)
		for name, wrong := range map[string]polargate.Usage{
			"a long name":     {Name: strings.Repeat("x", 129)},
			"a NUL":           {Name: "a\x00b"},
			"metadata":        {Name: "call", Metadata: map[string]any{"a": []int{1}}},
			"a long property": {Name: "call", Property: strings.Repeat("x", 41)},
		} {
			_, isInput := errors.AsType[*polargate.InputError](r.Commit(t.Context(), 1, wrong))
			assert.True(t, isInput, name)
		}
		for _, units := range []float64{-1, math.NaN(), math.Inf(1)} {
			require.Error(t, r.Commit(t.Context(), units, calls))
		}
		require.NoError(t, r.Commit(t.Context(), 1, calls), "after mistakes, nothing was done")
		s.Polar.SetOffline(true)
		_, refusal := customers.Reserve(t.Context(), polargate.ExternalID("usr_cold"), kit.CallsMeter, 1)
		require.NotNil(t, refusal)
		assert.Equal(t, 503, refusal.Status)
	})
}

func TestUsageIsSentInBatchesAndCountedOnce(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := metered(t)
		s.Polar.CreditMeter(kit.Paying, kit.CallsMeter, 2400)
		customers := s.Warmed()
		sending(t, customers)
		for range 2500 {
			used(t, customers, 0.7)
		}
		time.Sleep(10 * time.Second)
		assert.Len(t, s.Polar.Events(), 2500)
		assert.LessOrEqual(t, s.Polar.Count("/v1/events/ingest"), 4)
		e := s.Polar.Events()[0]
		assert.Equal(t, kit.Paying, e.ExternalCustomerID)
		assert.Equal(t, "call", e.Name)
		assert.True(t, strings.HasPrefix(e.ExternalID, "polargate-"))
		assert.InDelta(t, 2500-1750, refreshed(t, customers), 0, "Polar hasn't counted yet")
		time.Sleep(20 * time.Second)
		assert.InDelta(t, 2500-1750, refreshed(t, customers), 1e-6, "nothing is taken off twice")
		time.Sleep(5 * time.Hour)
		assert.InDelta(t, 2500-1750, refreshed(t, customers), 1e-6)
		assert.Equal(t, polargate.UsageStats{}, customers.Stats().Usage)
	})
}

// On a real server 340 units passed on 100 credits in 74 seconds.
func TestExactlyWhatThereIsIsSoldHoweverPolarLags(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := metered(t)
		customers := s.Warmed(func(c *polargate.CustomersConfig) { c.FreshFor = time.Second })
		received(t, s, customers)
		sending(t, customers)
		handler := customers.Route(polargate.Route{
			Customer: always(kit.Paying),
			Spend:    polargate.Cost{MeterID: kit.CallsMeter, Units: 1, Usage: calls},
		})(whoever)
		served := 0
		for range 3000 { // five minutes
			if get(handler, "/").Code == 200 {
				served++
			}
			if served%10 == 0 {
				s.Polar.UpdateCustomer(kit.Paying, func(c *polartest.Customer) { c.Name = fmt.Sprint(served) }) // a webhook
			}
			time.Sleep(100 * time.Millisecond)
		}
		assert.Equal(t, 100, served)
	})
}

func TestUsageIsNeverDatedAheadOfPolarsClock(t *testing.T) {
	for name, ahead := range map[string]time.Duration{
		"the same": 0, "Polar is behind": -10 * time.Minute, "a little": -300 * time.Millisecond, "Polar is ahead": 10 * time.Minute,
	} {
		t.Run(name, func(t *testing.T) {
			kit.Bubbled(t, func(t *testing.T) {
				s := metered(t)
				customers := s.Warmed()
				time.Sleep(700 * time.Millisecond)
				s.Polar.Advance(ahead) // or this computer's clock went the other way
				used(t, customers, 1)
				sending(t, customers)
				time.Sleep(time.Minute)
				used(t, customers, 1)
				time.Sleep(time.Minute)
				require.Len(t, s.Polar.Events(), 2)
				for _, e := range s.Polar.Events() {
					assert.False(t, e.Timestamp.After(e.At))
					assert.Less(t, e.At.Sub(e.Timestamp), 11*time.Minute)
				}
				assert.Zero(t, customers.Stats().Usage.Refused)
			})
		})
	}
}

func TestAnEventThatPolarRefusesIsKeptAsideAndTheOthersAreSent(t *testing.T) {
	folder := t.TempDir()
	kit.Bubbled(t, func(t *testing.T) {
		s := metered(t)
		gone := s.Polar.AddCustomer(polartest.Customer{Email: "gone@example.com", Meters: []polartest.Meter{{MeterID: kit.CallsMeter, CreditedUnits: 100}}})
		customers := s.Warmed(func(c *polargate.CustomersConfig) { c.UsageFolder = folder })
		for i := range 100 {
			used(t, customers, 1)
			if i%40 == 0 {
				r, refusal := customers.Reserve(t.Context(), polargate.CustomerID(gone.ID), kit.CallsMeter, 1)
				require.Nil(t, refusal)
				require.NoError(t, r.Commit(t.Context(), 1, calls))
			}
		}
		s.Polar.DeleteCustomer(gone.ID)
		sending(t, customers)
		time.Sleep(time.Minute)
		assert.Len(t, s.Polar.Events(), 100)
		assert.LessOrEqual(t, s.Polar.Count("/v1/events/ingest"), 5)
		stats := customers.Stats().Usage
		assert.EqualValues(t, 3, stats.Refused)
		assert.Zero(t, stats.Waiting)
		assert.Contains(t, s.Log.String(), "refused a usage event")
		assert.NotContains(t, s.Log.String(), "example.com")
		aside, err := os.ReadFile(filepath.Join(folder, "refused"))
		require.NoError(t, err)
		assert.Equal(t, 3, strings.Count(string(aside), gone.ID))
	})
}

func TestUsageWaitsForPolarAndIsSentOnce(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := metered(t)
		customers := s.Warmed()
		sending(t, customers)
		s.Polar.Inject(polartest.Fault{Path: "/v1/events/ingest", Times: 3, Effect: polartest.AnswerLost()})
		for range 50 {
			used(t, customers, 1)
		}
		time.Sleep(10 * time.Second)
		s.Polar.SetOffline(true)
		used(t, customers, 1)
		time.Sleep(2 * time.Hour)
		assert.Equal(t, 1, customers.Stats().Usage.Waiting)
		require.Error(t, customers.Stats().Usage.Failing)
		assert.Contains(t, s.Log.String(), "they are kept and sent again")
		s.Polar.SetOffline(false)
		time.Sleep(2 * time.Minute)
		assert.Len(t, s.Polar.Events(), 51, "however often they were sent")
		assert.Equal(t, polargate.UsageStats{}, customers.Stats().Usage)
		assert.InDelta(t, 49, refreshed(t, customers), 0)
	})
}

func TestCloseSendsWhatIsLeftWithinABound(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := metered(t)
		customers := s.Warmed()
		for range 30 {
			used(t, customers, 1)
		}
		require.NoError(t, customers.Close())
		require.NoError(t, customers.Close())
		assert.Len(t, s.Polar.Events(), 30)
		assert.ErrorIs(t, customers.RunUsage(t.Context()), polargate.ErrClosed)

		customers = s.Warmed()
		sending(t, customers)
		s.Polar.SetOffline(true)
		used(t, customers, 1)
		time.Sleep(time.Minute)
		began := time.Now()
		require.NoError(t, customers.Close())
		assert.LessOrEqual(t, time.Since(began), 6*time.Second)
		assert.Contains(t, s.Log.String(), "Polar wasn't told of")
	})
}

func TestUsageOutlastsARestart(t *testing.T) {
	folder := t.TempDir()
	kit.Bubbled(t, func(t *testing.T) {
		s := metered(t)
		in := func(c *polargate.CustomersConfig) { c.UsageFolder = folder }
		first := s.Warmed(in)
		sending(t, first)
		used(t, first, 40)
		time.Sleep(5 * time.Second)
		require.Len(t, s.Polar.Events(), 1)
		s.Polar.SetOffline(true)
		used(t, first, 20)
		require.NoError(t, first.Close())
		s.Polar.SetOffline(false)

		second := s.Open(in) // Polar has counted neither
		assert.Equal(t, 1, second.Stats().Usage.Waiting)
		assert.InDelta(t, 40, balanceOf(t, second), 0, "what was spent stays spent")
		_, refusal := second.Reserve(t.Context(), polargate.ExternalID(kit.Paying), kit.CallsMeter, 41)
		assert.NotNil(t, refusal)
		sending(t, second)
		time.Sleep(time.Minute)
		require.Len(t, s.Polar.Events(), 2)
		assert.InDelta(t, 40, refreshed(t, second), 0, "Polar has counted both, and nothing is taken off twice")
	})
}

func TestATokenThatMayNotSendEventsIsToldAndNothingIsLost(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := metered(t)
		customers := s.Warmed(func(c *polargate.CustomersConfig) {
			c.AccessToken = s.Polar.AddToken(polartest.Token{Scopes: []string{"customers:read"}})
		})
		sending(t, customers)
		used(t, customers, 1)
		time.Sleep(time.Hour)
		assert.ErrorIs(t, customers.Stats().Misconfigured, polargate.ErrMisconfigured)
		require.ErrorContains(t, customers.Stats().Usage.Failing, "events:write")
		assert.Equal(t, 1, customers.Stats().Usage.Waiting)
		assert.Less(t, s.Polar.Count("/v1/events/ingest"), 120)
	})
}

func TestARouteCanPriceEachRequest(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := metered(t)
		customers := s.Warmed()
		sending(t, customers)
		handler := customers.Route(polargate.Route{
			Customer: always(kit.Paying),
			Spend: polargate.Cost{MeterID: kit.CallsMeter, Usage: calls, UnitsOf: func(r *http.Request) (float64, error) {
				switch size := r.URL.Query().Get("size"); size {
				case "":
					return 0, &polargate.InputError{Field: "size", Problem: "is missing"}
				case "secret":
					return 0, errors.New("no price for " + size)
				default:
					return strconv.ParseFloat(size, 64)
				}
			}},
		})(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			switch reserved, ok := polargate.ReservationFromContext(r.Context()); r.URL.Query().Get("then") {
			case "release":
				reserved.Release() // a server that writes the error later
			case "commit":
				assert.NoError(t, reserved.Commit(r.Context(), 7, calls))
			case "":
				assert.Equal(t, r.URL.Query().Get("size") != "0", ok)
			}
		}))
		for path, want := range map[string]struct {
			status int
			spent  float64
		}{
			"/?size=0.7":               {200, 0.7},
			"/?size=0":                 {200, 0},
			"/?size=30&then=release":   {200, 0},
			"/?size=3&then=commit":     {200, 7},
			"/?size=101":               {402, 0},
			"/":                        {400, 0},
			"/?size=secret":            {503, 0},
			"/?size=-1":                {503, 0},
			"/?size=NaN":               {503, 0},
			"/?size=1e300":             {503, 0},
			"/?size=0.0000000000001":   {200, 1e-9},
			"/?size=20&then=something": {200, 20},
		} {
			before := balanceOf(t, customers)
			assert.Equal(t, want.status, get(handler, path).Code, path)
			assert.InDelta(t, want.spent, before-balanceOf(t, customers), 1e-12, path)
		}
		time.Sleep(time.Minute)
		assert.Len(t, s.Polar.Events(), 4)
		assert.NotContains(t, s.Log.String(), "secret")
		after := refreshed(t, customers)
		assert.InDelta(t, 100-0.7-7-20-1e-9, after, 1e-9)
		w := get(handler, "/", "Accept", "application/json")
		assert.Contains(t, w.Body.String(), `"detail":"The request isn't valid, so we can't tell what it costs."`, "whose sender's id is right")
		assert.NotContains(t, get(handler, "/", "Accept", "text/html").Body.String(), "account")
	})
}

func TestAMeterCanBeOverdrawnBeforeItsFirstUse(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := metered(t)
		s.Polar.AddCustomer(polartest.Customer{ExternalID: "usr_new", Benefits: []polartest.Benefit{{BenefitID: kit.ProBenefit}}})
		customers := s.Warmed()
		sending(t, customers)
		overdraft := polargate.Meter(kit.CallsMeter, -100)
		handler := customers.Route(polargate.Route{
			Customer: byHeader, Require: []polargate.Requirement{overdraft},
			Spend: polargate.Cost{MeterID: kit.CallsMeter, Units: 60, Usage: calls},
		})(whoever)
		assert.Equal(t, 200, get(handler, "/", "X-User", "usr_new").Code)
		assert.Equal(t, 402, get(handler, "/", "X-User", "usr_new").Code, "that would be 120")
		assert.Equal(t, 402, get(handler, "/", "X-User", "usr_unknown").Code)
		ref := polargate.ExternalID("usr_new")
		_, refusal := customers.Reserve(t.Context(), ref, kit.CallsMeter, 1)
		assert.NotNil(t, refusal, "without a requirement that allows it")
		r, refusal := customers.Reserve(t.Context(), ref, kit.CallsMeter, 40, overdraft)
		require.Nil(t, refusal)
		require.NoError(t, r.Commit(t.Context(), 40, calls))
		time.Sleep(time.Minute)
		e, err := customers.Refresh(t.Context(), ref)
		require.NoError(t, err)
		m, ok := e.Meter(kit.CallsMeter)
		assert.True(t, ok)
		assert.InDelta(t, -100, m.Balance, 0)
		_, refusal = customers.Reserve(t.Context(), ref, kit.CallsMeter, 1, overdraft)
		assert.NotNil(t, refusal)
		free, refusal := customers.Reserve(t.Context(), ref, kit.CallsMeter, 1, polargate.Any(polargate.Feature("pro"), overdraft))
		require.Nil(t, refusal, "who is let in by something else isn't charged")
		require.NoError(t, free.Commit(t.Context(), 1, calls))
		assert.Zero(t, customers.Stats().Usage.Waiting)
	})
}

func TestReservationsAtTheSameTimeNeverExceedTheBalance(t *testing.T) {
	t.Parallel()
	s := metered(t)
	customers := s.Warmed(func(c *polargate.CustomersConfig) { c.FreshFor = time.Hour })
	var served atomic.Int64
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			for range 100 {
				r, refusal := customers.Reserve(t.Context(), polargate.ExternalID(kit.Paying), kit.CallsMeter, 2)
				if refusal != nil {
					continue
				}
				if rand.IntN(4) == 0 {
					r.Release()
					continue
				}
				served.Add(1)
				assert.NoError(t, r.Commit(t.Context(), 1, calls))
			}
		})
		group.Go(func() {
			for range 8 { // as many as may be asked at once
				_, err := customers.Refresh(t.Context(), polargate.ExternalID(kit.Paying))
				assert.NoError(t, err)
			}
		})
	}
	group.Wait()
	assert.LessOrEqual(t, served.Load(), int64(100))
	assert.GreaterOrEqual(t, served.Load(), int64(90))
}

func TestReplicasReserveTogetherWhatThereIs(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := metered(t)
		all := kit.Fleet(s, 3, polargate.SharedInMemory())
		var sum atomic.Int64
		var group sync.WaitGroup
		for _, customers := range all {
			sending(t, customers)
			group.Go(func() { sum.Add(int64(served(t.Context(), customers, 200))) })
		}
		group.Wait()
		assert.EqualValues(t, 100, sum.Load())
		for range 3 {
			time.Sleep(30 * time.Second) // Polar counts meanwhile, and each replica hears of it
			for _, customers := range all {
				refreshed(t, customers)
				synctest.Wait()
				assert.InDelta(t, 0, balanceOf(t, customers), 0)
				assert.Zero(t, served(t.Context(), customers, 5))
			}
		}
		assert.Len(t, s.Polar.Events(), 100)
		s.Polar.CreditMeter(kit.Paying, kit.CallsMeter, 10)
		time.Sleep(10 * time.Minute)
		refreshed(t, all[0])
		assert.Equal(t, 10, served(t.Context(), all[0], 20)+served(t.Context(), all[1], 20), "nothing that Polar counted is taken off twice")
	})
}

// copying is a Shared whose primary fails before it has copied the last values.
type copying struct {
	polargate.Shared
	mu     sync.Mutex
	copied map[string][]byte // what was there when copying ended; nil while it goes on
}

func (c *copying) Swap(ctx context.Context, key, version string, data []byte, ttl time.Duration) (polargate.SharedValue, bool, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, has := c.copied[key]; c.copied != nil && !has {
		is, err := c.Shared.Load(ctx, key)
		if err != nil {
			return is, false, err
		}
		c.copied[key] = is.Data
	}
	return c.Shared.Swap(ctx, key, version, data, ttl)
}

// end has nothing copied any more, and fail has another server take over.
func (c *copying) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.copied = map[string][]byte{}
}

func (c *copying) fail(t *testing.T) {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	for key, data := range c.copied {
		is, err := c.Shared.Load(t.Context(), key)
		require.NoError(t, err)
		_, swapped, err := c.Shared.Swap(t.Context(), key, is.Version, data, time.Hour)
		require.NoError(t, err)
		require.True(t, swapped)
	}
	c.copied = nil
}

func TestWhatWasSoldBeforeAFailoverIsSoldOnce(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := metered(t)
		memory := &copying{Shared: polargate.SharedInMemory()}
		store := &kit.FaultyStore{Shared: memory}
		sold := kit.Replica(s, store)
		other := kit.Replica(s, memory)
		synctest.Wait()
		assert.Equal(t, 10, served(t.Context(), sold, 10))
		synctest.Wait()
		memory.end()
		assert.Equal(t, 30, served(t.Context(), sold, 30))
		synctest.Wait()
		store.SetAway(true)
		memory.fail(t)
		store.SetAway(false)
		time.Sleep(5 * time.Second) // it is connected again
		synctest.Wait()
		assert.Equal(t, 60, served(t.Context(), other, 200))
	})
}

func TestTheHoldsOfAReplicaThatEndedAreFreeAfterAMinute(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := metered(t)
		all := kit.Fleet(s, 2, polargate.SharedInMemory())
		ref := polargate.ExternalID(kit.Paying)
		_, refusal := all[0].Reserve(t.Context(), ref, kit.CallsMeter, 80)
		require.Nil(t, refusal)
		time.Sleep(10 * time.Minute)
		_, refusal = all[1].Reserve(t.Context(), ref, kit.CallsMeter, 21)
		require.NotNil(t, refusal, "it works on")
		require.NoError(t, all[0].Close())
		_, refusal = all[1].Reserve(t.Context(), ref, kit.CallsMeter, 21)
		require.NotNil(t, refusal)
		time.Sleep(time.Minute)
		r, refusal := all[1].Reserve(t.Context(), ref, kit.CallsMeter, 100)
		require.Nil(t, refusal)
		giveBack, ok, err := all[1].Spend(t.Context(), ref, kit.CallsMeter, 1)
		require.NoError(t, err)
		assert.False(t, ok)
		giveBack()
		r.Release()
		giveBack, ok, err = all[1].Spend(t.Context(), ref, kit.CallsMeter, 100)
		require.True(t, ok && err == nil)
		giveBack()
		giveBack()
		_, ok, _ = all[1].Spend(t.Context(), ref, kit.CallsMeter, 100)
		assert.True(t, ok)
	})
}

func TestWithoutTheStoreNothingIsReservedAndNothingSpentIsLost(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := metered(t)
		store := &kit.FaultyStore{Shared: polargate.SharedInMemory()}
		all := kit.Fleet(s, 2, store)
		ref := polargate.ExternalID(kit.Paying)
		r, refusal := all[0].Reserve(t.Context(), ref, kit.CallsMeter, 60)
		require.Nil(t, refusal)
		store.SetAway(true)
		began := time.Now()
		_, refusal = all[0].Reserve(t.Context(), ref, kit.CallsMeter, 1)
		require.NotNil(t, refusal)
		assert.Equal(t, 503, refusal.Status)
		assert.Less(t, time.Since(began), time.Second)
		require.NoError(t, r.Commit(t.Context(), 70, calls))
		spend := polargate.Cost{MeterID: kit.CallsMeter, Units: 1}
		assert.Equal(t, 503, get(all[0].Route(polargate.Route{Customer: always(kit.Paying), Spend: spend})(whoever), "/").Code)
		assert.Equal(t, 200, get(all[0].Route(polargate.Route{Customer: always(kit.Paying), Spend: spend, FailOpen: true})(whoever), "/").Code)
		time.Sleep(20 * time.Second)
		store.SetAway(false)
		time.Sleep(20 * time.Second)
		_, refusal = all[1].Reserve(t.Context(), ref, kit.CallsMeter, 31)
		require.NotNil(t, refusal)
		assert.Equal(t, 402, refusal.Status)
		_, refusal = all[1].Reserve(t.Context(), ref, kit.CallsMeter, 30)
		require.Nil(t, refusal)
	})
}

func TestANewPeriodBeginsWithItsCredits(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := metered(t)
		customers := s.Warmed()
		sending(t, customers)
		used(t, customers, 90)
		time.Sleep(time.Minute)
		assert.InDelta(t, 10, refreshed(t, customers), 0)
		s.Polar.UpdateCustomer(kit.Paying, func(c *polartest.Customer) { c.Meters[0].ConsumedUnits, c.Meters[0].CreditedUnits = 0, 110 })
		assert.InDelta(t, 110, refreshed(t, customers), 0, "with what was left rolled over")
		used(t, customers, 50)
		assert.InDelta(t, 60, refreshed(t, customers), 0)
		time.Sleep(5 * time.Hour)
		assert.InDelta(t, 60, refreshed(t, customers), 0)
	})
}

func TestAFolderThatCannotBeUsedIsAMistakeInTheConfiguration(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "a file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	s := kit.NewShop(t)
	s.Config.UsageFolder, s.Config.Shared = file, polargate.SharedInMemory()
	_, err := polargate.NewCustomers(s.Config)
	input, ok := errors.AsType[*polargate.InputError](err)
	require.True(t, ok)
	assert.Equal(t, "UsageFolder", input.Field)
}
