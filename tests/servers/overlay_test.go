package servers

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"

	"github.com/polargate/polargate"
	"github.com/polargate/polargate/polartest"
	"github.com/polargate/polargate/tests/internal/kit"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// giving has customers get these features beside what Polar says.
func giving(given map[polargate.CustomerRef][]polargate.Overlay) func(*polargate.CustomersConfig) {
	return func(c *polargate.CustomersConfig) {
		c.Overlay = func(_ context.Context, customer polargate.CustomerRef, _ *polargate.Entitlements) []polargate.Overlay {
			return given[customer]
		}
	}
}

var (
	staff   = polargate.ExternalID("usr_staff")
	beta    = polargate.Overlay{Feature: "beta", Why: "beta"}
	forever = map[polargate.CustomerRef][]polargate.Overlay{paying: {beta}, staff: {beta, {Feature: "pro", Why: "staff"}}}
)

// shown writes the features of whoever is let in, in order.
var shown = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
	e, ok := polargate.FromContext(r.Context())
	fmt.Fprint(w, ok, e.Known(), e.Features())
})

func TestAnOverlayGivesAFeatureBesideWhatPolarSays(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := kit.NewShop(t)
		customers := s.Open(giving(forever))
		s.Polar.AddCustomer(polartest.Customer{ExternalID: "usr_other"})
		for _, user := range []string{kit.Paying, "usr_staff", "usr_other"} {
			h := customers.Middleware(always(user), polargate.Feature("beta"))(shown)
			for range 2 { // from Polar, and from memory
				w := get(h, "/")
				switch user {
				case kit.Paying:
					assert.Equal(t, "true true [beta export pro]", w.Body.String())
				case "usr_staff":
					assert.Equal(t, "true false [beta pro]", w.Body.String(), "Polar doesn't know them")
				default:
					assert.Equal(t, http.StatusPaymentRequired, w.Code)
				}
			}
		}
		have, err := customers.Entitlements(t.Context(), paying)
		require.NoError(t, err)
		assert.Equal(t, []polargate.Overlay{beta}, have.Overlays())
		assert.True(t, have.Has("beta"))
		text, err := json.Marshal(have)
		require.NoError(t, err)
		assert.Contains(t, string(text), `"features":["beta","export","pro"],"overlays":[{"feature":"beta","why":"beta"}]`)
	})
}

func TestAnUnknownCustomerIsLetInByWhatAnOverlayGivesAndNothingElse(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		customers := kit.NewShop(t).Open(giving(forever))
		for _, one := range []struct {
			letsIn   bool
			required polargate.Requirement
		}{
			{true, polargate.Feature("beta")},
			{true, polargate.Any(polargate.Feature("pro"), polargate.Benefit(kit.TeaBenefit))},
			{false, polargate.All(polargate.Feature("pro"), polargate.Benefit(kit.TeaBenefit))},
			{false, polargate.Benefit(kit.ProBenefit)},
			{false, polargate.Meter(kit.CallsMeter, -5)},
			{false, polargate.All()},
			{false, polargate.Any(polargate.All(), polargate.Feature("beta"))},
			{false, polargate.All(polargate.Feature("beta"), polargate.Meter(kit.CallsMeter, 1))},
		} {
			_, refusal := customers.Decide(t.Context(), staff, one.required)
			assert.Equal(t, one.letsIn, refusal == nil, "%v", one.required)
		}
		_, refusal := customers.Decide(t.Context(), staff)
		require.NotNil(t, refusal, "without a requirement, a customer has to be known")
		assert.Equal(t, http.StatusPaymentRequired, refusal.Status)
	})
}

func TestAnOverlayCountsWhilePolarCannotBeReachedAndNothingIsCached(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := kit.NewShop(t)
		s.Polar.SetOffline(true)
		customers := s.Open(giving(forever))
		have, refusal := customers.Decide(t.Context(), staff, polargate.Feature("pro"))
		require.Nil(t, refusal)
		assert.False(t, have.Known())
		_, refusal = customers.Decide(t.Context(), staff, polargate.Feature("export"))
		require.NotNil(t, refusal)
		assert.Equal(t, http.StatusServiceUnavailable, refusal.Status, "what Polar would say isn't known")
		have, err := customers.Entitlements(t.Context(), staff)
		require.ErrorIs(t, err, polargate.ErrUnreachable)
		assert.Equal(t, []string{"beta", "pro"}, have.Features())
		have, err = customers.Entitlements(t.Context(), polargate.ExternalID("usr_other"))
		require.ErrorIs(t, err, polargate.ErrUnreachable)
		assert.Nil(t, have)
		_, err = customers.Await(t.Context(), staff, polargate.Feature("pro"))
		require.NoError(t, err, "nor does Await wait for Polar")
		_, refusal = customers.Decide(t.Context(), polargate.ExternalID("a/b"), polargate.Feature("pro"))
		assert.Equal(t, http.StatusBadRequest, refusal.Status)

		require.NoError(t, customers.Close())
		_, refusal = customers.Decide(t.Context(), staff, polargate.Feature("pro"))
		require.NotNil(t, refusal)
		assert.ErrorIs(t, refusal, polargate.ErrClosed)
	})
}

func TestAnOverlayThatHasEndedGivesNothing(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		until := time.Now().Add(time.Hour)
		customers := kit.NewShop(t).Open(giving(map[polargate.CustomerRef][]polargate.Overlay{
			paying: {{Feature: "trial", Until: until, Why: "trial"}, {}, beta},
		}))
		h := customers.Middleware(always(kit.Paying), polargate.Feature("trial"))(shown)
		assert.Equal(t, "true true [beta export pro trial]", get(h, "/").Body.String())
		time.Sleep(time.Hour)
		assert.Equal(t, http.StatusPaymentRequired, get(h, "/").Code)
		have, err := customers.Entitlements(t.Context(), paying)
		require.NoError(t, err)
		assert.Equal(t, []polargate.Overlay{beta}, have.Overlays())
	})
}

func TestAStreamEndsToTheSecondWhenItsOverlayDoes(t *testing.T) {
	for _, name := range []string{"a known customer", "an unknown customer", "Polar is away"} {
		t.Run(name, func(t *testing.T) {
			kit.Bubbled(t, func(t *testing.T) {
				s := kit.NewShop(t)
				until := time.Now().Add(3*time.Minute + 7*time.Second) // sooner than FreshFor
				given := []polargate.Overlay{{Feature: "trial", Until: until}}
				customers := s.Open(giving(map[polargate.CustomerRef][]polargate.Overlay{paying: given, staff: given}))
				who := paying
				if name != "a known customer" {
					who = staff
				}
				s.Polar.SetOffline(name == "Polar is away")
				watched, stop := customers.Watch(t.Context(), who, polargate.Feature("trial"))
				defer stop()
				stays, stop := customers.Watch(t.Context(), paying, polargate.Any(polargate.Feature("trial"), polargate.Feature("pro")))
				defer stop()
				left, cancel := context.WithCancel(t.Context())
				gone, stop := customers.Watch(left, who, polargate.Feature("trial"))
				defer stop()
				cancel()
				time.Sleep(time.Until(until) - time.Second)
				goesOn(t, watched)
				_, refusal := ended(t, watched)
				assert.WithinDuration(t, until, time.Now(), time.Second)
				assert.Equal(t, name != "Polar is away", refusal.Status == http.StatusPaymentRequired)
				if name != "Polar is away" {
					time.Sleep(time.Hour)
					goesOn(t, stays)
				}
				assert.Equal(t, context.Canceled, context.Cause(gone))
			})
		})
	}
}

func TestChangesTellsThatAnOverlayHasEnded(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		until := time.Now().Add(time.Hour)
		customers := kit.NewShop(t).Open(giving(map[polargate.CustomerRef][]polargate.Overlay{paying: {{Feature: "trial", Until: until}}}))
		var seen []bool
		for have, err := range customers.Changes(t.Context(), paying) {
			require.NoError(t, err)
			if seen = append(seen, have.Has("trial")); len(seen) == 2 {
				break
			}
		}
		assert.Equal(t, []bool{true, false}, seen)
		assert.WithinDuration(t, until, time.Now(), time.Second)
	})
}

func TestAwaitTakesAnOverlayForAPurchase(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := kit.NewShop(t)
		begins := time.Now().Add(20 * time.Second)
		customers := s.Open(func(c *polargate.CustomersConfig) {
			c.Overlay = func(context.Context, polargate.CustomerRef, *polargate.Entitlements) []polargate.Overlay {
				if time.Now().Before(begins) {
					return nil
				}
				return []polargate.Overlay{beta}
			}
		})
		have, err := customers.Await(t.Context(), staff, polargate.Feature("beta"))
		require.NoError(t, err)
		assert.True(t, have.Has("beta"))
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		_, err = customers.Await(ctx, staff, polargate.Feature("beta"), polargate.Feature("export"))
		missing, ok := errors.AsType[*polargate.MissingError](err)
		require.True(t, ok)
		assert.Equal(t, polargate.Feature("export"), missing.Required)
	})
}

func TestAnOverlayIsForTheMemberWhoIsNamed(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		amy, bob := polargate.Member(paying, "amy"), polargate.Member(paying, "bob")
		customers := kit.NewShop(t).Open(giving(map[polargate.CustomerRef][]polargate.Overlay{amy: {beta}}))
		_, refusal := customers.Decide(t.Context(), amy, polargate.Feature("beta"))
		assert.Nil(t, refusal)
		_, refusal = customers.Decide(t.Context(), bob, polargate.Feature("beta"))
		assert.NotNil(t, refusal)
		have, err := customers.Await(t.Context(), amy, polargate.Feature("beta"))
		require.NoError(t, err)
		assert.Equal(t, []polargate.Overlay{beta}, have.Overlays())
		assert.Empty(t, amy.ExternalID()+amy.CustomerID())
	})
}

func TestAnOverlayGivesNoUnits(t *testing.T) {
	for _, offline := range []bool{false, true} {
		t.Run(fmt.Sprint(offline), func(t *testing.T) {
			kit.Bubbled(t, func(t *testing.T) {
				s := kit.NewShop(t)
				s.Polar.SetOffline(offline)
				customers := s.Open(giving(forever))
				_, refusal := customers.Reserve(t.Context(), staff, kit.CallsMeter, 5, polargate.Feature("pro"))
				require.NotNil(t, refusal)
				want := http.StatusPaymentRequired
				if offline {
					want = http.StatusServiceUnavailable
				}
				assert.Equal(t, want, refusal.Status)

				r, refusal := customers.Reserve(t.Context(), staff, kit.CallsMeter, 5, polargate.Any(polargate.Feature("pro"), polargate.Meter(kit.CallsMeter, 5)))
				require.Nil(t, refusal, "those who don't need the meter aren't charged")
				require.NoError(t, r.Commit(t.Context(), 5, polargate.Usage{Name: "calls"}))
				assert.Zero(t, customers.Stats().Usage.Waiting)
				if !offline {
					r, refusal = customers.Reserve(t.Context(), paying, kit.CallsMeter, 5, polargate.Feature("beta"))
					require.Nil(t, refusal)
					r.Release()
				}
			})
		})
	}
}

func TestAnOverlayIsAskedAboutTheCustomerOfALicenseKeyAndLetsInNoRefusedKey(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := kit.NewShop(t)
		key := s.Polar.AddKey(polartest.LicenseKey{BenefitID: kit.ProBenefit, ExpiresAt: time.Now().Add(time.Hour)})
		asked := ""
		customers := s.Open(func(c *polargate.CustomersConfig) {
			c.Overlay = func(_ context.Context, customer polargate.CustomerRef, have *polargate.Entitlements) []polargate.Overlay {
				asked = customer.CustomerID()
				assert.Empty(t, customer.ExternalID())
				assert.True(t, have.Known())
				return []polargate.Overlay{beta}
			}
		})
		have, refusal := customers.DecideLicense(t.Context(), key.Key, polargate.Feature("beta"))
		require.Nil(t, refusal)
		assert.Equal(t, asked, have.CustomerID())
		time.Sleep(time.Hour)
		_, refusal = customers.DecideLicense(t.Context(), key.Key, polargate.Feature("beta"))
		require.NotNil(t, refusal)
		assert.Equal(t, polargate.ErrExpired, refusal.Reason)
		_, refusal = customers.DecideLicense(t.Context(), "0A1B2C3D-4E5F-4071-8293-A4B5C6D7E8F9", polargate.Feature("beta"))
		require.NotNil(t, refusal)
		assert.Equal(t, http.StatusUnauthorized, refusal.Status)
	})
}

func TestAnOverlayThatPanicsGivesNothingAndTakesNobodyDown(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := kit.NewShop(t)
		customers := s.Open(func(c *polargate.CustomersConfig) {
			c.Overlay = func(context.Context, polargate.CustomerRef, *polargate.Entitlements) []polargate.Overlay {
				panic("no table")
			}
		})
		h := customers.Middleware(always(kit.Paying), polargate.Feature("pro"))(shown)
		assert.Equal(t, http.StatusOK, get(h, "/").Code)
		assert.Positive(t, customers.Stats().Panics)
		assert.Contains(t, s.Log.String(), "no table")
	})
}

func TestAnOverlaySeesTheContextOfTheRequest(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		type role struct{}
		customers := kit.NewShop(t).Open(func(c *polargate.CustomersConfig) {
			c.Overlay = func(ctx context.Context, _ polargate.CustomerRef, _ *polargate.Entitlements) []polargate.Overlay {
				if ctx.Value(role{}) == "staff" {
					return []polargate.Overlay{beta}
				}
				return nil
			}
		})
		h := customers.Route(polargate.Route{Customer: always(kit.Paying), Require: []polargate.Requirement{polargate.Feature("beta")}, Watch: true})(
			http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				time.Sleep(time.Hour) // which is looked at again meanwhile
				assert.NoError(t, r.Context().Err())
			}))
		assert.Equal(t, http.StatusPaymentRequired, get(h, "/").Code)
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r.WithContext(context.WithValue(t.Context(), role{}, "staff")))
		assert.Equal(t, http.StatusOK, w.Code)
	})
}

func TestFallbackKeepsAFeatureOpenWhilePolarCannotBeReached(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := kit.NewShop(t)
		customers := s.Open(giving(forever))
		route := func(fallback []string, failOpen bool, required ...polargate.Requirement) http.Handler {
			return customers.Route(polargate.Route{Customer: byHeader, Require: required, Fallback: fallback, FailOpen: failOpen})(shown)
		}
		read, both := polargate.Feature("read"), []polargate.Requirement{polargate.Feature("read"), polargate.Feature("beta")}
		h := route([]string{"read"}, false, read)
		assert.Equal(t, http.StatusPaymentRequired, get(h, "/", "X-User", "usr_1").Code, "Polar can be reached")

		s.Polar.SetOffline(true)
		assert.Equal(t, "true false [read]", get(h, "/", "X-User", "usr_2").Body.String())
		assert.Equal(t, "true false [read]", get(route([]string{"read"}, true, read), "/", "X-User", "usr_2").Body.String())
		assert.Equal(t, http.StatusServiceUnavailable, get(route([]string{"read"}, false, polargate.Feature("pro")), "/", "X-User", "usr_2").Code)
		assert.Equal(t, "false false []", get(route([]string{"read"}, true, polargate.Feature("pro")), "/", "X-User", "usr_2").Body.String())
		assert.Equal(t, http.StatusServiceUnavailable, get(route([]string{"read"}, false), "/", "X-User", "usr_2").Code, "it gives a feature, and doesn't know a customer")
		assert.Equal(t, "true false [beta pro read]", get(route([]string{"read"}, false, both...), "/", "X-User", "usr_staff").Body.String())
		assert.Equal(t, http.StatusServiceUnavailable, get(route([]string{"read"}, false, both...), "/", "X-User", "usr_2").Code)
		assert.Equal(t, http.StatusUnauthorized, get(h, "/").Code, "nobody is signed in")
		assert.Equal(t, int64(4), customers.Stats().FailedOpen)
		assert.Panics(t, func() { route([]string{""}, false, read) })
	})
}

func TestFallbackChargesNothingAndItsStreamsGoOn(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := kit.NewShop(t)
		s.Polar.SetOffline(true)
		customers := s.Open()
		h := customers.Route(polargate.Route{
			Customer: byHeader, Require: []polargate.Requirement{polargate.Feature("read")}, Fallback: []string{"read"},
			Spend: polargate.Cost{MeterID: kit.CallsMeter, Units: 1}, Watch: true,
		})(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			have, _ := polargate.FromContext(r.Context())
			assert.Equal(t, []polargate.Overlay{{Feature: "read", Why: "fallback"}}, have.Overlays())
			_, charged := polargate.ReservationFromContext(r.Context())
			assert.False(t, charged)
			time.Sleep(24 * time.Hour)
			synctest.Wait()
			assert.NoError(t, r.Context().Err())
			s.Polar.SetOffline(false)
			<-r.Context().Done()
		}))
		get(h, "/", "X-User", "usr_2")
	})
}
