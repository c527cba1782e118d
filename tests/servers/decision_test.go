package servers

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
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

// heard are the decisions that OnDecision was told of.
type heard struct {
	mu  sync.Mutex
	all []polargate.Decision
}

func (h *heard) hear(c *polargate.CustomersConfig) {
	c.OnDecision = func(_ context.Context, d polargate.Decision) {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.all = append(h.all, d)
	}
}

// only is the one decision that was heard of since.
func (h *heard) only(t *testing.T) polargate.Decision {
	t.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	require.Len(t, h.all, 1)
	d := h.all[0]
	h.all = nil
	return d
}

func TestEachRequestIsOneDecisionWithItsOutcomeAndWhereTheAnswerCameFrom(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := kit.NewShop(t)
		var h heard
		customers := s.Open(h.hear, func(c *polargate.CustomersConfig) {
			c.Overlay = func(_ context.Context, customer polargate.CustomerRef, _ *polargate.Entitlements) []polargate.Overlay {
				return forever[customer]
			}
		})
		route := customers.Route(polargate.Route{
			Name: "export", Customer: byHeader, Require: []polargate.Requirement{polargate.Any(polargate.Feature("pro"), polargate.Feature("export"))},
		})(shown)
		failing := customers.Route(polargate.Route{CustomerOrError: func(*http.Request) (polargate.CustomerRef, error) {
			return polargate.CustomerRef{}, fmt.Errorf("no sessions")
		}})(shown)
		open := customers.Route(polargate.Route{Customer: byHeader, FailOpen: true})(shown)
		fallback := customers.Route(polargate.Route{Customer: byHeader, Require: []polargate.Requirement{polargate.Feature("read")}, Fallback: []string{"read"}})(shown)
		mux := http.NewServeMux()
		mux.Handle("GET /open", open)
		after := func(d time.Duration) { time.Sleep(d); synctest.Wait() }
		for _, step := range []struct {
			what    string
			do      func()
			h       http.Handler
			path    string
			user    string
			outcome polargate.Outcome
			status  int
			source  polargate.Source
			route   string
		}{
			{"asked", nil, route, "/", kit.Paying, polargate.Allowed, 0, polargate.FromNetwork, "export"},
			{"in memory", nil, route, "/", kit.Paying, polargate.Allowed, 0, polargate.FromMemory, "export"},
			{"an overlay", nil, route, "/", "usr_staff", polargate.Allowed, 0, polargate.FromOverlay, "export"},
			{"unknown", nil, route, "/", "usr_1", polargate.Unpaid, 402, polargate.FromNetwork, "export"},
			{"unknown again", nil, route, "/", "usr_1", polargate.Unpaid, 402, polargate.FromMemory, "export"},
			{"nobody", nil, route, "/", "", polargate.Unidentified, 401, "", "export"},
			{"a bad id", nil, route, "/", "a/b", polargate.Unidentified, 400, "", "export"},
			{"no sessions", nil, failing, "/", "", polargate.Undecided, 503, "", ""},
			{"stale", func() { after(6 * time.Minute) }, route, "/", kit.Paying, polargate.Allowed, 0, polargate.FromStale, "export"},
			{"grace", func() { s.Polar.SetOffline(true); after(2 * time.Hour) }, route, "/", kit.Paying, polargate.Allowed, 0, polargate.FromGrace, "export"},
			{"an outage", nil, route, "/", "usr_2", polargate.Undecided, 503, "", "export"},
			{"it opens", nil, mux, "/open", "usr_2", polargate.FailedOpen, 503, "", "GET /open"},
			{"it falls back", nil, fallback, "/", "usr_2", polargate.FailedOpen, 503, polargate.FromFallback, ""},
			{"an overlay in an outage", nil, route, "/", "usr_staff", polargate.Allowed, 0, polargate.FromOverlay, "export"},
		} {
			if step.do != nil {
				step.do()
			}
			get(step.h, step.path, "X-User", step.user)
			d := h.only(t)
			assert.Equal(t, step.outcome, d.Outcome, step.what)
			assert.Equal(t, step.status, d.Status, step.what)
			assert.Equal(t, step.source, d.Source, step.what)
			assert.Equal(t, step.route, d.Route, step.what)
			assert.Equal(t, step.user, d.Customer.ExternalID(), step.what)
			assert.WithinDuration(t, time.Now(), d.At, time.Second)
			if step.route == "export" {
				assert.Equal(t, "export,pro", d.Feature())
			}
			if step.status == 402 {
				assert.Equal(t, d.Requirements[0], d.Unmet)
			}
		}
	})
}

func TestDecisionsAboutLicenseKeysUnitsAndStreamsAreToldOfToo(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := kit.NewShop(t)
		var h heard
		key := s.Polar.AddKey(polartest.LicenseKey{BenefitID: kit.ProBenefit, ExpiresAt: time.Now().Add(time.Hour)})
		customers := s.Open(h.hear)
		_, refusal := customers.DecideLicense(t.Context(), key.Key, polargate.Feature("pro"))
		require.Nil(t, refusal)
		d := h.only(t)
		assert.Equal(t, key.ID, d.LicenseKeyID)
		assert.Equal(t, key.CustomerID, d.Customer.CustomerID())
		assert.Equal(t, polargate.FromNetwork, d.Source)
		gated := customers.LicenseMiddleware("X-License-Key", polargate.Feature("pro"))(shown)
		get(gated, "/", "X-License-Key", key.Key)
		assert.Equal(t, polargate.FromMemory, h.only(t).Source)
		get(gated, "/", "X-License-Key", "no key")
		d = h.only(t)
		assert.Equal(t, polargate.Unidentified, d.Outcome)
		assert.Equal(t, polargate.ErrUnknownKey, d.Reason)
		assert.True(t, d.Customer.IsZero())

		_, refusal = customers.Reserve(t.Context(), paying, kit.CallsMeter, 60)
		require.Nil(t, refusal)
		assert.Equal(t, polargate.Allowed, h.only(t).Outcome)
		_, refusal = customers.Reserve(t.Context(), paying, kit.CallsMeter, 60)
		require.NotNil(t, refusal)
		d = h.only(t)
		assert.Equal(t, polargate.Meter(kit.CallsMeter, 60), d.Unmet)
		assert.Empty(t, d.Feature())
		spending := customers.Route(polargate.Route{Name: "calls", Customer: always(kit.Paying), Spend: polargate.Cost{MeterID: kit.CallsMeter, Units: 30}, Watch: true})(shown)
		get(spending, "/")
		assert.Equal(t, polargate.Allowed, h.only(t).Outcome)
		get(spending, "/")
		assert.Equal(t, polargate.Unpaid, h.only(t).Outcome)

		watched, stop := customers.WatchLicense(t.Context(), key.Key, polargate.Feature("pro"))
		defer stop()
		h.only(t)
		ended(t, watched)
		synctest.Wait()
		d = h.only(t)
		assert.Equal(t, polargate.ErrExpired, d.Reason)
		assert.Equal(t, "pro", d.Feature())
	})
}

func TestARequestThatSpendsIsOneDecisionWithWhatIsHeldForIt(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := kit.NewShop(t)
		var h heard
		customers := s.Open(h.hear)
		unlimited := polargate.Any(polargate.Feature("pro"), polargate.Meter(kit.CallsMeter, 1))
		route := func(r polargate.Route) http.Handler {
			r.Customer = byHeader
			r.Spend.MeterID = kit.CallsMeter
			if r.Spend.Units == 0 {
				r.Spend.UnitsOf = func(r *http.Request) (float64, error) {
					if r.URL.Path == "/bad" {
						return 0, &polargate.InputError{}
					}
					return float64(len(r.URL.Path) - 1), nil
				}
			}
			return customers.Route(r)(shown)
		}
		fixed, each := route(polargate.Route{Spend: polargate.Cost{Units: 30}}), route(polargate.Route{})
		watched := route(polargate.Route{Spend: polargate.Cost{Units: 2}, Watch: true})
		free := route(polargate.Route{Require: []polargate.Requirement{unlimited}})
		opens := route(polargate.Route{FailOpen: true})
		falls := route(polargate.Route{Require: []polargate.Requirement{polargate.Feature("pro")}, Fallback: []string{"pro"}})
		for _, step := range []struct {
			what, path, user string
			h                http.Handler
			outcome          polargate.Outcome
			units            float64
		}{
			{"a fixed price", "/", kit.Paying, fixed, polargate.Allowed, 30},
			{"a price of its own", "/seven77", kit.Paying, each, polargate.Allowed, 7},
			{"nothing", "/", kit.Paying, each, polargate.Allowed, 0},
			{"no price", "/bad", kit.Paying, each, polargate.Unidentified, 0},
			{"more than there is", "/", kit.Paying, route(polargate.Route{Spend: polargate.Cost{Units: 1000}}), polargate.Unpaid, 0},
			{"a stream", "/", kit.Paying, watched, polargate.Allowed, 2},
			{"the feature instead", "/seven77", kit.Paying, free, polargate.Allowed, 0},
			{"nobody", "/", "", fixed, polargate.Unidentified, 0},
			{"an outage", "/seven77", "usr_2", each, polargate.Undecided, 0},
			{"it opens", "/seven77", "usr_2", opens, polargate.FailedOpen, 0},
			{"it falls back", "/seven77", "usr_2", falls, polargate.FailedOpen, 0},
		} {
			s.Polar.SetOffline(step.user == "usr_2")
			get(step.h, step.path, "X-User", step.user)
			d := h.only(t)
			assert.Equal(t, step.outcome, d.Outcome, step.what)
			assert.InDelta(t, step.units, d.Units, 0, step.what)
			if step.units == 0 {
				assert.Empty(t, d.MeterID, step.what)
				continue
			}
			assert.Equal(t, kit.CallsMeter, d.MeterID, step.what)
			text, err := json.Marshal(d)
			require.NoError(t, err)
			for _, printed := range []string{string(text), fmt.Sprint(d), d.LogValue().String()} {
				assert.Contains(t, printed, kit.CallsMeter)
				assert.Contains(t, printed, fmt.Sprint(step.units))
			}
		}
		s.Polar.SetOffline(false)
		_, refusal := customers.Reserve(t.Context(), paying, kit.CallsMeter, 5)
		require.Nil(t, refusal)
		assert.InDelta(t, 5, h.only(t).Units, 0)
		_, refusal = customers.Reserve(t.Context(), paying, kit.CallsMeter, 5, unlimited)
		require.Nil(t, refusal)
		assert.Zero(t, h.only(t).Units, "it costs nothing")
	})
}

// count is a figure about decisions that need pro.
func count(route string, outcome polargate.Outcome, source polargate.Source, reason polargate.Reason, n int64) polargate.DecisionCount {
	return polargate.DecisionCount{Route: route, Feature: "pro", Outcome: outcome, Source: source, Reason: reason, Count: n}
}

func TestDecisionsAreCountedByRouteFeatureOutcomeSourceAndReason(t *testing.T) {
	for name, change := range map[string]func(*polargate.CustomersConfig){
		"alone":             func(*polargate.CustomersConfig) {},
		"beside OnDecision": (&heard{}).hear,
		"with an Overlay":   giving(forever),
	} {
		t.Run(name, func(t *testing.T) {
			kit.Bubbled(t, func(t *testing.T) {
				s := kit.NewShop(t)
				customers := s.Open(change)
				required := []polargate.Requirement{polargate.Feature("pro")}
				named := customers.Route(polargate.Route{Name: "named", Customer: byHeader, Require: required})(shown)
				mux, byPattern := http.NewServeMux(), customers.Route(polargate.Route{Customer: byHeader, Require: required})(shown)
				mux.Handle("GET /a", byPattern)
				mux.Handle("GET /b", byPattern)
				get(named, "/", "X-User", kit.Paying)
				assert.Empty(t, customers.Decisions(), "it begins with the first call")
				for range 3 {
					get(named, "/", "X-User", kit.Paying)
					get(mux, "/a", "X-User", kit.Paying)
					get(mux, "/b", "X-User", kit.Paying)
				}
				get(named, "/", "X-User", "usr_1")
				customers.Decide(t.Context(), paying, polargate.Feature("pro"))
				s.Polar.SetOffline(true)
				get(named, "/", "X-User", "usr_2")
				assert.Equal(t, []polargate.DecisionCount{
					count("", polargate.Allowed, polargate.FromMemory, "", 1),
					count("GET /a", polargate.Allowed, polargate.FromMemory, "", 3),
					count("GET /b", polargate.Allowed, polargate.FromMemory, "", 3),
					count("named", polargate.Allowed, polargate.FromMemory, "", 3),
					count("named", polargate.Undecided, "", polargate.ErrUnreachable, 1),
					count("named", polargate.Unpaid, polargate.FromNetwork, "", 1),
				}, customers.Decisions())
			})
		})
	}
}

func TestADecisionPrintsNothingThatIsPersonal(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := kit.NewShop(t)
		var h heard
		const mail = "ada@example.com"
		s.Add(mail)
		customers := s.Open(h.hear)
		_, refusal := customers.Decide(t.Context(), polargate.ExternalID(mail), polargate.Feature("pro"), polargate.Benefit(kit.TeaBenefit))
		require.NotNil(t, refusal)
		d := h.only(t)
		assert.Equal(t, mail, d.Customer.ExternalID(), "the program itself can ask")
		text, err := json.Marshal(d)
		require.NoError(t, err)
		assert.JSONEq(t, `{"at":"2000-01-01T00:00:00Z","requirements":"feature pro and benefit `+kit.TeaBenefit+`","outcome":"unpaid","status":402,"unmet":"benefit `+kit.TeaBenefit+`","source":"network"}`, string(text))
		for _, printed := range []string{string(text), fmt.Sprint(d), fmt.Sprintf("%+v %#v %s", d, d, d), d.LogValue().String(), fmt.Sprintf("%+v", struct{ d polargate.Decision }{d}.d)} {
			assert.NotContains(t, printed, "ada")
			assert.Contains(t, printed, "unpaid")
		}
	})
}

func TestAnOnDecisionThatPanicsTakesNobodyDown(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := kit.NewShop(t)
		customers := s.Open(func(c *polargate.CustomersConfig) {
			c.OnDecision = func(context.Context, polargate.Decision) { panic("the disk is full") }
		})
		assert.Equal(t, http.StatusOK, get(customers.Middleware(always(kit.Paying))(shown), "/").Code)
		assert.Equal(t, int64(1), customers.Stats().Panics)
		assert.Contains(t, s.Log.String(), "the disk is full")
	})
}
