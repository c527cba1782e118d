package servers

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/polargate/polargate"
	"github.com/polargate/polargate/polartest"
	"github.com/polargate/polargate/tests/internal/kit"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const (
	soldProduct = "8c499570-3242-437e-a9f5-6fee6cff7593"
	alsoSold    = "dc11a5a5-71b1-4b1e-ab30-63dff05cab1f"
	laterID     = "f0f77b3c-e5b1-4d22-aa47-10b15fa6689d"
)

// subscribe gives the paying customer a subscription that ends after some time, or is
// renewed if that is 0.
func subscribe(s *kit.Shop, product string, endsIn time.Duration) polartest.Subscription {
	is := polartest.Subscription{ProductID: product}
	if endsIn != 0 {
		is.CancelAtPeriodEnd, is.EndsAt = true, s.Polar.Now().Add(endsIn)
	}
	return s.Polar.Subscribe(kit.Paying, is)
}

func isSubscribed(t *testing.T, customers *polargate.Customers, product string, want bool) {
	t.Helper()
	e, err := customers.Entitlements(t.Context(), paying)
	require.NoError(t, err)
	assert.Equal(t, want, e.Subscribed(product))
	assert.Equal(t, want, e.Meets(polargate.Product(product)))
}

func TestSubscriptionsAreAsPolarSays(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := kit.NewShop(t)
		now := s.Polar.Now()
		trial := s.Polar.Subscribe(kit.Paying, polartest.Subscription{
			ID: laterID, ProductID: alsoSold, Status: "trialing", CurrentPeriodEnd: now.Add(720 * time.Hour), TrialEnd: now.Add(336 * time.Hour),
		})
		ending := s.Polar.Subscribe(kit.Paying, polartest.Subscription{
			ID: "e0f77b3c-e5b1-4d22-aa47-10b15fa6689d", ProductID: soldProduct, CurrentPeriodEnd: now.Add(48 * time.Hour), CancelAtPeriodEnd: true, EndsAt: now.Add(48 * time.Hour),
		})
		s.Polar.Subscribe(kit.Paying, polartest.Subscription{Status: "past_due"})
		customers := s.Open()
		e, err := customers.Entitlements(t.Context(), paying)
		require.NoError(t, err)
		assert.Equal(t, []polargate.Subscription{
			{ID: ending.ID, ProductID: soldProduct, Status: "active", CurrentPeriodEnd: now.Add(48 * time.Hour), CancelAtPeriodEnd: true, EndsAt: now.Add(48 * time.Hour)},
			{ID: trial.ID, ProductID: alsoSold, Status: "trialing", TrialEnd: now.Add(336 * time.Hour), CurrentPeriodEnd: now.Add(720 * time.Hour)},
		}, e.Subscriptions())
		assert.Equal(t, []string{soldProduct, alsoSold}, e.Products())
		var nobody *polargate.Entitlements
		assert.Empty(t, nobody.Subscriptions())
	})
}

func TestASubscriptionThatWasCanceledEndsWhenPolarSaidAlsoWhilePolarIsAway(t *testing.T) {
	for name, openAgain := range map[string]func(s *kit.Shop, shared polargate.Shared, customers *polargate.Customers) *polargate.Customers{
		"in memory": func(_ *kit.Shop, _ polargate.Shared, c *polargate.Customers) *polargate.Customers { return c },
		"on another replica, by the store": func(s *kit.Shop, shared polargate.Shared, _ *polargate.Customers) *polargate.Customers {
			return kit.Replica(s, shared)
		},
	} {
		t.Run(name, func(t *testing.T) {
			kit.Bubbled(t, func(t *testing.T) {
				s := kit.NewShop(t)
				const endsIn = 10*time.Hour + 90*time.Second
				subscribe(s, soldProduct, endsIn)
				subscribe(s, alsoSold, 0)
				began := time.Now()
				shared := polargate.SharedInMemory()
				customers := kit.Replica(s, shared)
				isSubscribed(t, customers, soldProduct, true)
				s.Polar.SetOffline(true)
				time.Sleep(time.Hour)
				customers = openAgain(s, shared, customers)
				time.Sleep(endsIn - time.Since(began) - time.Second)
				isSubscribed(t, customers, soldProduct, true)
				time.Sleep(2 * time.Second)
				isSubscribed(t, customers, soldProduct, false)
				isSubscribed(t, customers, alsoSold, true)
				s.Has(customers, kit.Paying, true) // Polar doesn't say which benefit comes with which subscription
				e, err := customers.Entitlements(t.Context(), paying)
				require.NoError(t, err)
				assert.Len(t, e.Subscriptions(), 1)
			})
		})
	}
}

func TestPolarIsAskedAtOnceWhenASubscriptionEnds(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := kit.NewShop(t)
		is := subscribe(s, soldProduct, time.Hour+time.Minute)
		customers := s.Open(func(c *polargate.CustomersConfig) {
			c.FreshFor, c.StaleFor, c.SweepAfter = 24*time.Hour, 48*time.Hour, -1
		})
		isSubscribed(t, customers, soldProduct, true)
		asked := s.Asked()
		time.Sleep(time.Hour)
		isSubscribed(t, customers, soldProduct, true)
		assert.Equal(t, asked, s.Asked())
		// The customer has changed their mind, and no webhook told.
		s.Polar.RestoreSubscription(kit.Paying, is.ID)
		time.Sleep(time.Minute)
		isSubscribed(t, customers, soldProduct, true)
		assert.Equal(t, asked+1, s.Asked())
	})
}

func TestAReplicaThatFindsAnOlderRecordOfASubscriptionThatHasEndedAsksPolar(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := kit.NewShop(t)
		is := subscribe(s, soldProduct, 2*time.Minute)
		shared := polargate.SharedInMemory()
		isSubscribed(t, kit.Replica(s, shared), soldProduct, true)
		s.Polar.RestoreSubscription(kit.Paying, is.ID) // and no webhook told
		time.Sleep(3 * time.Minute)
		asked := s.Asked()
		isSubscribed(t, kit.Replica(s, shared), soldProduct, true)
		assert.Equal(t, asked+1, s.Asked())
	})
}

func TestAProductStaysWhileOneOfItsSubscriptionsDoes(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := kit.NewShop(t)
		for _, endsIn := range []time.Duration{time.Hour, 3 * time.Hour, 2 * time.Hour} {
			subscribe(s, soldProduct, endsIn)
		}
		customers := s.Open()
		isSubscribed(t, customers, soldProduct, true)
		s.Polar.SetOffline(true)
		time.Sleep(30 * time.Minute)
		for _, left := range []int{3, 2, 1, 0} {
			e, err := customers.Entitlements(t.Context(), paying)
			require.NoError(t, err)
			assert.Len(t, e.Subscriptions(), left)
			assert.Equal(t, left > 0, e.Subscribed(soldProduct))
			time.Sleep(time.Hour)
		}
	})
}

func TestASubscriptionThatPolarStillGivesAfterItsEndHasNotEnded(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := kit.NewShop(t)
		subscribe(s, soldProduct, time.Hour)
		customers := s.Open()
		isSubscribed(t, customers, soldProduct, true)
		time.Sleep(time.Hour + time.Second)
		isSubscribed(t, customers, soldProduct, true)
		asked := s.Asked()
		isSubscribed(t, customers, soldProduct, true)
		assert.Equal(t, asked, s.Asked(), "the answer is fresh")
		s.Polar.SetOffline(true)
		time.Sleep(time.Hour)
		isSubscribed(t, customers, soldProduct, true)
	})
}

func TestTheEndOfATrialAndOfAPeriodEndsNothing(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := kit.NewShop(t)
		now := s.Polar.Now()
		s.Polar.Subscribe(kit.Paying, polartest.Subscription{ProductID: soldProduct, Status: "trialing", TrialEnd: now.Add(time.Hour), CurrentPeriodEnd: now.Add(time.Hour)})
		customers := s.Open()
		isSubscribed(t, customers, soldProduct, true)
		s.Polar.SetOffline(true)
		time.Sleep(2 * time.Hour) // whether it was paid, only Polar can say
		isSubscribed(t, customers, soldProduct, true)
	})
}

func TestAWebhookThatASubscriptionGoesOnTakesItsEndAway(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := kit.NewShop(t)
		is := subscribe(s, soldProduct, time.Hour)
		customers := s.Open(func(c *polargate.CustomersConfig) { c.WebhookSecrets = []string{kit.HookSecret} })
		kit.Receiving(s, customers)
		isSubscribed(t, customers, soldProduct, true)
		s.Polar.RestoreSubscription(kit.Paying, is.ID)
		kit.Settled(s)
		s.Polar.SetOffline(true)
		time.Sleep(2 * time.Hour)
		isSubscribed(t, customers, soldProduct, true)
	})
}

func TestASubscriptionThatWasReadFromListsEndsToo(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := kit.NewShop(t)
		subscribe(s, soldProduct, time.Hour)
		customers := s.Open()
		_, err := customers.Warm(t.Context())
		require.NoError(t, err)
		s.Polar.SetOffline(true)
		isSubscribed(t, customers, soldProduct, true)
		time.Sleep(time.Hour + time.Second)
		isSubscribed(t, customers, soldProduct, false)
	})
}

func TestAStreamEndsWithItsSubscriptionAlsoWhilePolarIsAway(t *testing.T) {
	for name, away := range map[string]bool{"Polar answers": false, "Polar is away": true} {
		t.Run(name, func(t *testing.T) {
			kit.Bubbled(t, func(t *testing.T) {
				s := kit.NewShop(t)
				is := subscribe(s, soldProduct, 2*time.Hour)
				customers := s.Open()
				watched, stop := customers.Watch(t.Context(), paying, polargate.Product(soldProduct))
				defer stop()
				goesOn(t, watched)
				s.Polar.SetOffline(away)
				// A moment earlier: at the same time, the question could come first.
				time.AfterFunc(2*time.Hour-time.Second, func() { s.Polar.CancelSubscription(kit.Paying, is.ID) })
				took, refusal := ended(t, watched)
				assert.Equal(t, http.StatusPaymentRequired, refusal.Status)
				assert.InDelta(t, 2*time.Hour, took, float64(6*time.Second))
			})
		})
	}
}

func TestWhatIsSpentOfAMeterStaysSpentWhenASubscriptionEnds(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := kit.NewShop(t)
		subscribe(s, soldProduct, time.Hour)
		customers := s.Open()
		before, err := customers.Entitlements(t.Context(), paying)
		require.NoError(t, err)
		m, ok := before.Meter(kit.CallsMeter)
		require.True(t, ok)
		s.Polar.SetOffline(true)
		_, ok, err = customers.Spend(t.Context(), paying, kit.CallsMeter, 2)
		require.NoError(t, err)
		require.True(t, ok)
		time.Sleep(time.Hour + time.Second)
		isSubscribed(t, customers, soldProduct, false)
		after, err := customers.Entitlements(t.Context(), paying)
		require.NoError(t, err)
		left, _ := after.Meter(kit.CallsMeter)
		assert.InDelta(t, m.Balance-2, left.Balance, 0)
	})
}

func TestEntitlementsAsJSONTellNothingPersonal(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := kit.NewShop(t)
		const mail = "ada@example.com"
		s.Polar.AddCustomer(polartest.Customer{
			ExternalID: mail, Email: mail,
			Benefits: []polartest.Benefit{
				{BenefitID: kit.ProBenefit, Metadata: map[string]any{"tier": "gold"}},
				{Type: "github_repository", Properties: map[string]any{"account_id": "4711-personal"}},
			},
		})
		key := s.Polar.AddKey(polartest.LicenseKey{BenefitID: kit.ProBenefit})
		customers := s.Open()
		e, err := customers.Entitlements(t.Context(), polargate.ExternalID(mail))
		require.NoError(t, err)
		license, refusal := customers.DecideLicense(t.Context(), key.Key)
		require.Nil(t, refusal)
		for _, value := range []any{e, *e, license, *license} {
			text, err := json.Marshal(value)
			require.NoError(t, err)
			for _, secret := range []string{mail, key.Key, "4711-personal"} {
				assert.NotContains(t, string(text), secret)
			}
		}
		var view struct {
			Known    bool
			Features []string
			Benefits []struct{ Metadata map[string]any }
			Customer string `json:"customer_id"`
			License  struct {
				Display string `json:"display_key"`
			} `json:"license_key"`
		}
		text, err := json.Marshal(e)
		require.NoError(t, err)
		require.NoError(t, json.Unmarshal(text, &view))
		assert.True(t, view.Known)
		assert.Equal(t, []string{"export", "pro"}, view.Features)
		assert.Equal(t, e.CustomerID(), view.Customer)
		assert.Contains(t, string(text), `"tier":"gold"`)
		text, err = json.Marshal(license)
		require.NoError(t, err)
		require.NoError(t, json.Unmarshal(text, &view))
		assert.Equal(t, "****-"+key.Key[len(key.Key)-6:], view.License.Display)
	})
}

func TestAdministratorsSeeACustomerAndNobodyElseDoes(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := kit.NewShop(t)
		subscribe(s, soldProduct, 0)
		customers := s.Open()
		assert.Panics(t, func() { customers.AdminHandler(nil) })
		admin := customers.AdminHandler(func(r *http.Request) bool { return r.Header.Get("Authorization") == "Bearer support" })
		ask := func(method, target, token string) *httptest.ResponseRecorder {
			r := httptest.NewRequest(method, target, nil)
			r.Header.Set("Authorization", "Bearer "+token)
			w := httptest.NewRecorder()
			admin.ServeHTTP(w, r)
			assert.Equal(t, "no-store", w.Header().Get("Cache-Control"), target)
			return w
		}
		asked := s.Asked()
		w := ask("GET", "/?external_id="+kit.Paying, "guess")
		assert.Equal(t, http.StatusForbidden, w.Code)
		assert.Empty(t, w.Body.String())
		assert.Equal(t, asked, s.Asked())

		w = ask("GET", "/?external_id="+kit.Paying, "support")
		assert.Equal(t, http.StatusOK, w.Code)
		assert.Equal(t, "application/json", w.Header().Get("Content-Type"))
		e, err := customers.Entitlements(t.Context(), paying)
		require.NoError(t, err)
		text, err := json.Marshal(e)
		require.NoError(t, err)
		assert.JSONEq(t, string(text), w.Body.String())
		assert.Equal(t, w.Body.String(), ask("GET", "/?customer_id="+strings.ToUpper(e.CustomerID()), "support").Body.String())
		assert.Empty(t, ask("HEAD", "/?external_id="+kit.Paying, "support").Body.String())

		w = ask("GET", "/?external_id=nobody", "support")
		assert.Equal(t, http.StatusOK, w.Code)
		assert.Contains(t, w.Body.String(), `"known":false`)
		for _, wrong := range []string{"/?customer_id=x", "/?external_id=", "/?external_id=a/b"} {
			assert.Equal(t, http.StatusBadRequest, ask("GET", wrong, "support").Code, wrong)
		}
		assert.Equal(t, http.StatusMethodNotAllowed, ask("POST", "/?external_id="+kit.Paying, "support").Code)

		w = ask("GET", "/", "support")
		var stats struct {
			Requests      int
			Misconfigured *string
			Usage         struct{ Failing *string }
		}
		require.NoError(t, json.Unmarshal(w.Body.Bytes(), &stats))
		assert.Equal(t, int(customers.Stats().Requests), stats.Requests)
		assert.Equal(t, "", *stats.Misconfigured)
		assert.Equal(t, "", *stats.Usage.Failing)

		s.Polar.SetOffline(true)
		synctest.Wait()
		assert.Equal(t, http.StatusServiceUnavailable, ask("GET", "/?external_id=usr_cold", "support").Code)
	})
}
