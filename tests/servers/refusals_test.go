package servers

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/polargate/polargate"
	"github.com/polargate/polargate/polartest"
	"github.com/polargate/polargate/tests/internal/kit"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const buyer = "usr_buyer"

// beforeTheWorker are what Polar says of a buyer between the checkout and the grant.
func beforeTheWorker() map[string]func(s *kit.Shop) {
	customer := func(benefits ...polartest.Benefit) func(s *kit.Shop) {
		return func(s *kit.Shop) { s.Polar.AddCustomer(polartest.Customer{ExternalID: buyer, Benefits: benefits}) }
	}
	return map[string]func(s *kit.Shop){
		"not known yet": func(*kit.Shop) {},
		"nothing":       customer(),
		"a subscription without its benefits": func(s *kit.Shop) {
			customer()(s)
			s.Polar.Subscribe(buyer, polartest.Subscription{})
		},
		"only what they had before": customer(polartest.Benefit{BenefitID: kit.TeaBenefit}),
	}
}

// work grants what was bought.
func work(s *kit.Shop) {
	if _, ok := s.Polar.Customer(buyer); !ok {
		s.Polar.AddCustomer(polartest.Customer{ExternalID: buyer})
	}
	s.Polar.GrantBenefit(buyer, polartest.Benefit{BenefitID: kit.ProBenefit})
}

// ways are those in which a program finds out whether the buyer has pro.
func ways(t *testing.T, customers *polargate.Customers) map[string]func() bool {
	t.Helper()
	ref := polargate.ExternalID(buyer)
	gate := customers.Middleware(func(*http.Request) polargate.CustomerRef { return ref }, polargate.Feature("pro"))
	route := gate(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	return map[string]func() bool{
		"Entitlements": func() bool {
			e, err := customers.Entitlements(t.Context(), ref)
			require.NoError(t, err)
			return e.Has("pro")
		},
		"Decide": func() bool {
			_, refusal := customers.Decide(t.Context(), ref, polargate.Feature("pro"))
			return refusal == nil
		},
		"Middleware": func() bool {
			w := httptest.NewRecorder()
			route.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/", nil))
			return w.Code == 200
		},
	}
}

func TestABuyerIsLetInSecondsAfterTheGrantThoughPolarWasAskedBefore(t *testing.T) {
	for state, bought := range beforeTheWorker() {
		for way := range ways(t, kit.NewShop(t).Open()) {
			for _, delay := range []time.Duration{time.Second, 5 * time.Second, 20 * time.Second, 3 * time.Minute} {
				t.Run(fmt.Sprint(state, ", ", way, ", ", delay), func(t *testing.T) {
					kit.Bubbled(t, func(t *testing.T) {
						s := kit.NewShop(t)
						customers := s.Open()
						has := ways(t, customers)[way]
						bought(s)
						if way == "Entitlements" {
							has() // they were here before the checkout
						}
						_, err := customers.Refresh(t.Context(), polargate.ExternalID(buyer))
						require.NoError(t, err)
						for range int(delay / time.Second) {
							assert.False(t, has())
							time.Sleep(time.Second)
						}
						work(s)
						refused := 0
						for ; !has(); refused++ {
							time.Sleep(time.Second)
							synctest.Wait()
							require.Less(t, refused, 60)
						}
						assert.LessOrEqual(t, refused, min(int(delay/time.Second)+3, 30), "no longer than it took until then, or UnknownFor")
						assert.LessOrEqual(t, s.Asked(), 4+5+int(delay/(30*time.Second)))
					})
				})
			}
		}
	}
}

func TestACustomerWhoIsRefusedRepeatedlyCostsFewRequests(t *testing.T) {
	for state, bought := range beforeTheWorker() {
		t.Run(state, func(t *testing.T) {
			kit.Bubbled(t, func(t *testing.T) {
				s := kit.NewShop(t)
				customers := s.Open()
				bought(s)
				decide := ways(t, customers)["Decide"]
				for range 600 {
					assert.False(t, decide())
					time.Sleep(time.Second)
				}
				assert.LessOrEqual(t, s.Asked(), 5+20, "two a minute, and some at first")
			})
		})
	}
}

func TestARefusalIsNotDoubtedWhilePolarIsAway(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := kit.NewShop(t)
		s.Polar.AddCustomer(polartest.Customer{ExternalID: buyer})
		customers := s.Open()
		decide := ways(t, customers)["Decide"]
		assert.False(t, decide())
		s.Polar.Inject(polartest.Fault{Effect: polartest.Hang()})
		at := time.Now()
		for range 240 {
			time.Sleep(time.Second)
			_, refusal := customers.Decide(t.Context(), polargate.ExternalID(buyer), polargate.Feature("pro"))
			require.NotNil(t, refusal)
			assert.Equal(t, 402, refusal.Status, "what Polar said last counts for FreshFor")
		}
		assert.LessOrEqual(t, time.Since(at), 4*time.Minute+5*time.Second, "one waited for Polar")
		s.Polar.ClearFaults()
		work(s)
		// A question may still hang, for 5 seconds, and the next one waits up to 7.5 more.
		time.Sleep(13 * time.Second)
		decide() // Polar is asked behind it, for a while after an outage
		synctest.Wait()
		assert.True(t, decide())
	})
}

// Polar counts usage late: asking again would give back what was spent.
func TestARefusalForUnitsThatWereSpentHereIsNotDoubted(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := kit.NewShop(t)
		customers := s.Warmed()
		_, ok, err := customers.Spend(t.Context(), polargate.ExternalID(kit.Paying), kit.CallsMeter, 100)
		require.NoError(t, err)
		require.True(t, ok)
		for range 60 {
			time.Sleep(4 * time.Second)
			_, refusal := customers.Decide(t.Context(), polargate.ExternalID(kit.Paying), polargate.Meter(kit.CallsMeter, 1))
			require.NotNil(t, refusal)
			assert.Equal(t, 402, refusal.Status)
		}
		assert.Equal(t, 1, s.Asked())
	})
}

func TestAwaitReturnsOnceTheRequirementsAreMet(t *testing.T) {
	for state, bought := range beforeTheWorker() {
		for name, c := range map[string]struct {
			delay, atMost time.Duration
			webhook       bool
		}{
			"at once": {0, 0, false}, "before long": {3500 * time.Millisecond, 4 * time.Second, false},
			"late": {100 * time.Second, 10 * time.Second, false}, "told by a webhook": {25*time.Second + time.Millisecond, 0, true},
		} {
			t.Run(state+", "+name, func(t *testing.T) {
				kit.Bubbled(t, func(t *testing.T) {
					s := kit.NewShop(t)
					customers := s.Open()
					if c.webhook {
						received(t, s, customers)
					}
					bought(s)
					has := ways(t, customers)["Decide"]
					has() // what they had before the checkout is in memory
					time.Sleep(time.Second)
					granted := time.Now().Add(c.delay)
					time.AfterFunc(c.delay, func() { work(s) })
					if c.delay == 0 {
						synctest.Wait()
					}
					ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
					defer cancel()
					asked := s.Asked()
					e, err := customers.Await(ctx, polargate.ExternalID(buyer), polargate.Feature("pro"), polargate.Benefit(kit.ProBenefit))
					require.NoError(t, err)
					assert.True(t, e.Has("pro"))
					assert.LessOrEqual(t, time.Since(granted), c.atMost)
					assert.LessOrEqual(t, s.Asked()-asked, 6+int(c.delay/(10*time.Second)))
					assert.True(t, has())
					asked = s.Asked()
					_, err = customers.Await(ctx, polargate.ExternalID(buyer), polargate.Feature("pro"))
					require.NoError(t, err)
					assert.Equal(t, asked, s.Asked(), "what is in memory needs no question")
				})
			})
		}
	}
}

func TestAwaitReportsWhatIsMissingWhenItsContextEnds(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := kit.NewShop(t)
		s.Polar.AddCustomer(polartest.Customer{ExternalID: buyer, Benefits: []polartest.Benefit{{BenefitID: kit.TeaBenefit}}})
		customers := s.Open()
		await := func(ref polargate.CustomerRef, need ...polargate.Requirement) (*polargate.Entitlements, *polargate.MissingError) {
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			at := time.Now()
			e, err := customers.Await(ctx, ref, need...)
			assert.Equal(t, 20*time.Second, time.Since(at))
			require.ErrorIs(t, err, context.DeadlineExceeded)
			var missing *polargate.MissingError
			require.ErrorAs(t, err, &missing)
			assert.NotContains(t, err.Error(), buyer)
			kit.Says(t, polargate.Message(err), "missing")
			return e, missing
		}
		e, missing := await(polargate.ExternalID(buyer), polargate.Benefit(kit.TeaBenefit), polargate.All(polargate.Feature("pro"), polargate.Product(kit.ProBenefit)))
		assert.True(t, e.Known())
		assert.Equal(t, "feature pro", missing.Required.String())
		require.ErrorContains(t, missing, "the customer doesn't have feature pro yet")

		e, missing = await(polargate.ExternalID("usr_new"))
		assert.False(t, e.Known())
		assert.Zero(t, missing.Required)
		require.ErrorContains(t, missing, "Polar doesn't know the customer yet")

		s.Polar.SetOffline(true)
		_, missing = await(polargate.ExternalID(buyer), polargate.Feature("pro"))
		require.ErrorIs(t, missing, polargate.ErrUnreachable, "it was not Polar that said so last")
		e, err := customers.Await(t.Context(), polargate.ExternalID(buyer), polargate.Benefit(kit.TeaBenefit))
		require.NoError(t, err, "what Polar said before the outage counts")
		assert.True(t, e.Known())
		time.Sleep(2 * time.Hour)
		_, err = customers.Await(t.Context(), polargate.ExternalID(buyer), polargate.Benefit(kit.TeaBenefit))
		require.NoError(t, err, "in the grace period too")
	})
}

func TestAwaitDoesNotWaitForTheImpossible(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := kit.NewShop(t)
		customers := s.Open()
		ref, pro := polargate.ExternalID(buyer), polargate.Feature("pro")
		var noContext context.Context
		var input *polargate.InputError
		_, err := customers.Await(noContext, ref, pro)
		require.ErrorAs(t, err, &input)
		_, err = customers.Await(t.Context(), polargate.CustomerRef{}, pro)
		require.ErrorAs(t, err, &input)
		_, err = customers.Await(t.Context(), ref, polargate.Any(polargate.Benefit("pro"), pro))
		require.ErrorAs(t, err, &input)
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		_, err = customers.Await(ended, ref, pro)
		require.ErrorIs(t, err, context.Canceled)

		s.Config.AccessToken = "polar_oat_of_nobody"
		_, err = s.Open().Await(t.Context(), ref, pro)
		require.ErrorIs(t, err, polargate.ErrMisconfigured)

		time.AfterFunc(5*time.Second, func() { _ = customers.Close() })
		_, err = customers.Await(t.Context(), ref, pro)
		require.ErrorIs(t, err, polargate.ErrClosed)
	})
}

func TestCallersWhoAwaitOneCustomerShareTheRequests(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := kit.NewShop(t)
		customers := s.Open()
		s.Polar.AddCustomer(polartest.Customer{ExternalID: buyer})
		time.AfterFunc(90*time.Second, func() { work(s) })
		var group sync.WaitGroup
		for i := range 50 { // tabs that a buyer opens one after the other
			group.Go(func() {
				time.Sleep(time.Duration(i) * 37 * time.Millisecond)
				_, err := customers.Await(t.Context(), polargate.ExternalID(buyer), polargate.Feature("pro"))
				assert.NoError(t, err)
			})
		}
		group.Wait()
		assert.LessOrEqual(t, s.Asked(), 50+40, "one for each who comes, and then together")
	})
}

// After a deploy everyone is new. All of them come every few seconds, those who were
// served too, whose answers are not fresh for long.
func TestAfterADeployNewCustomersDoNotWaitForRefreshesOfServedOnes(t *testing.T) {
	for name, ages := range map[string][2]time.Duration{
		"the defaults": {}, "fresh for a minute": {time.Minute, 0}, "fresh and stale for a minute": {time.Minute, time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			kit.Bubbled(t, func(t *testing.T) {
				const every = 10 * time.Second
				people := max(1500, kit.Flood(3000)) // more than Polar answers while the first are fresh
				s := kit.NewShop(t)
				for i := range people {
					s.Add(fmt.Sprint("usr_", i))
				}
				customers := s.Open(func(c *polargate.CustomersConfig) { c.FreshFor, c.StaleFor = ages[0], ages[1] })
				start, served := time.Now(), make([]bool, people)
				left, last := people, time.Duration(0)
				for tick := 0; left > 0 && time.Since(start) < time.Hour; tick++ {
					for i := tick % 100; i < people; i += 100 { // a hundredth of them at a time
						e, err := customers.Entitlements(t.Context(), polargate.ExternalID(fmt.Sprint("usr_", i)))
						if err != nil {
							require.ErrorIs(t, err, polargate.ErrRateLimited)
							require.False(t, served[i], "who was served is served again")
							continue
						}
						require.True(t, e.Has("pro"))
						if !served[i] {
							served[i], left, last = true, left-1, time.Since(start)
						}
					}
					time.Sleep(every / 100)
				}
				assert.Zero(t, left)
				assert.LessOrEqual(t, last, time.Duration(people)*time.Minute/240+every, "240 a minute, and a last round")
				stats := customers.Stats()
				assert.Zero(t, stats.Failures, "Polar answered all that it was asked")
				assert.NotZero(t, stats.TurnedAway)
				assert.EqualValues(t, s.Asked(), stats.Requests)
				assert.NotContains(t, s.Log.String(), "could not say")

				asked := s.Asked()
				time.Sleep(time.Minute)
				for i := range 100 {
					_, err := customers.Entitlements(t.Context(), polargate.ExternalID(fmt.Sprint("usr_", i)))
					require.NoError(t, err)
				}
				synctest.Wait()
				assert.Greater(t, s.Asked(), asked, "they are refreshed once nobody is turned away")
			})
		})
	}
}

// A crowd must not keep a cancellation from being noticed for ever.
func TestACustomerWhoseRefreshYieldsIsRefreshedAfterAnHour(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := kit.NewShop(t)
		customers := s.Warmed(func(c *polargate.CustomersConfig) { c.StaleFor = time.Minute })
		s.Polar.RevokeBenefit(kit.Paying, kit.ProBenefit)
		stranger, start := 0, time.Now()
		for time.Since(start) < 59*time.Minute {
			for range 60 {
				stranger++
				_, _ = customers.Entitlements(t.Context(), polargate.ExternalID(fmt.Sprint("nobody_", stranger)))
			}
			time.Sleep(5 * time.Second)
		}
		s.Has(customers, kit.Paying, true)
		time.Sleep(time.Minute + time.Second)
		s.Has(customers, kit.Paying, false)
	})
}

func TestMadeUpKeysDoNotMakeCustomersYield(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := kit.NewShop(t)
		customers := s.Warmed()
		time.Sleep(6 * time.Minute)
		for i := range 200 {
			_, _ = customers.DecideLicense(t.Context(), fmt.Sprintf("MADE-UP-KEY-%06d", i))
		}
		require.NotZero(t, customers.Stats().TurnedAway)
		time.Sleep(time.Second)
		s.Polar.RevokeBenefit(kit.Paying, kit.ProBenefit)
		s.Has(customers, kit.Paying, true)
		synctest.Wait()
		s.Has(customers, kit.Paying, false)
	})
}

func TestARequestThatWasNeverSentIsNoFailureOfPolar(t *testing.T) {
	for name, prevent := range map[string]func(s *kit.Shop, customers *polargate.Customers){
		"the budget is spent": func(_ *kit.Shop, customers *polargate.Customers) {
			for i := range 100 {
				_, _ = customers.Entitlements(context.Background(), polargate.ExternalID(fmt.Sprint("nobody_", i)))
			}
		},
		"Polar asked for a pause": func(s *kit.Shop, customers *polargate.Customers) {
			s.Polar.Inject(polartest.Fault{Times: 1, Effect: polartest.RateLimited("60")})
			_, err := customers.Refresh(context.Background(), polargate.ExternalID("usr_first"))
			require.Error(s.T, err)
		},
	} {
		t.Run(name, func(t *testing.T) {
			kit.Bubbled(t, func(t *testing.T) {
				s := kit.NewShop(t)
				customers := s.Warmed(func(c *polargate.CustomersConfig) { c.RequestsPerMinute, c.Timeout = 12, time.Second })
				prevent(s, customers)
				time.Sleep(2 * time.Hour)
				prevent(s, customers)
				before, log := customers.Stats(), len(s.Log.String())
				for range 10 {
					s.Has(customers, kit.Paying, true)
					_, err := customers.Refresh(t.Context(), polargate.ExternalID(kit.Paying))
					require.NoError(t, err)
				}
				after := customers.Stats()
				assert.Equal(t, before.Failures, after.Failures)
				assert.EqualValues(t, s.Asked(), after.Requests)
				if strings.HasPrefix(name, "the budget") {
					assert.NotContains(t, s.Log.String()[log:], "could not say")
				}
			})
		})
	}
}
