package servers

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
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

func TestAThousandRequestsForOneColdCustomerAskPolarOnce(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := kit.NewShop(t)
		s.Polar.Inject(polartest.Fault{Effect: polartest.Delay(time.Second)})
		customers := s.Open()
		var group sync.WaitGroup
		for range 1000 {
			group.Go(func() { s.Has(customers, kit.Paying, true) })
		}
		group.Wait()
		assert.Equal(t, 1, s.Asked())
		assert.EqualValues(t, 1, customers.Stats().Requests)
		assert.EqualValues(t, 1000, customers.Stats().Fetched)
	})
}

func TestAgesOfAnswersAreExact(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := kit.NewShop(t)
		customers := s.Warmed()
		s.Polar.SetOffline(true)
		wait := func(d time.Duration) { time.Sleep(d); synctest.Wait() }

		wait(5*time.Minute - 1)
		s.Has(customers, kit.Paying, true)
		assert.EqualValues(t, 1, customers.Stats().Fresh, "a nanosecond before FreshFor ends")
		assert.EqualValues(t, 1, customers.Stats().Requests)
		wait(1)
		s.Has(customers, kit.Paying, true)
		synctest.Wait()
		assert.EqualValues(t, 1, customers.Stats().Stale, "when FreshFor ends")
		assert.EqualValues(t, 2, customers.Stats().Requests)

		wait(55*time.Minute - 1)
		s.Has(customers, kit.Paying, true)
		synctest.Wait()
		assert.EqualValues(t, 2, customers.Stats().Stale, "a nanosecond before StaleFor ends")
		wait(1)
		s.Has(customers, kit.Paying, true)
		assert.EqualValues(t, 1, customers.Stats().Grace, "when StaleFor ends")
		assert.NotZero(t, customers.Stats().Failures)

		wait(71*time.Hour - 1)
		s.Has(customers, kit.Paying, true)
		wait(1)
		_, err := customers.Entitlements(t.Context(), polargate.ExternalID(kit.Paying))
		require.ErrorIs(t, err, polargate.ErrUnreachable, "when the grace period ends")

		s.Polar.SetOffline(false)
		wait(time.Second)
		s.Has(customers, kit.Paying, true)
	})
}

func TestAnHourWithoutPolarServesKnownCustomersOnly(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := kit.NewShop(t)
		customers := s.Warmed()
		time.Sleep(2 * time.Hour) // past both times
		for name, down := range map[string]polartest.Effect{
			"a server error": polartest.ServerError(503), "a reset": polartest.Reset(), "a page": polartest.ProxyPage(502),
			"a login": polartest.LoginPage(200), "no path": polartest.RouterNotFound(), "nonsense": polartest.Garbage(),
			"an empty object": polartest.Body(200, "application/json", `{}`), "null": polartest.Body(200, "application/json", `null`),
		} {
			s.Polar.ClearFaults()
			s.Polar.Inject(polartest.Fault{Effect: down})
			for range 12 {
				s.Has(customers, kit.Paying, true)
				_, err := customers.Entitlements(t.Context(), polargate.ExternalID("usr_new"))
				require.ErrorIs(t, err, polargate.ErrUnreachable, name)
				_, refusal := customers.Decide(t.Context(), polargate.ExternalID("usr_new"))
				require.NotNil(t, refusal)
				assert.Equal(t, 503, refusal.Status)
				assert.GreaterOrEqual(t, refusal.RetryAfter, time.Second)
				time.Sleep(37 * time.Second)
			}
		}
		assert.NotZero(t, customers.Stats().Grace)
		assert.NotZero(t, customers.Stats().Failures)
		assert.Contains(t, s.Log.String(), "gave no answer")
		assert.NotContains(t, s.Log.String(), kit.Paying)
	})
}

func TestAStaleAnswerIsServedAtOnceAndRefreshedOnce(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := kit.NewShop(t)
		customers := s.Warmed()
		s.Polar.Inject(polartest.Fault{Effect: polartest.Delay(2 * time.Second)})
		s.Polar.RevokeBenefit(kit.Paying, kit.ProBenefit)
		time.Sleep(6 * time.Minute)
		at := time.Now()
		var group sync.WaitGroup
		for range 100 {
			group.Go(func() { s.Has(customers, kit.Paying, true) })
		}
		group.Wait()
		assert.Zero(t, time.Since(at), "nobody waited")
		time.Sleep(3 * time.Second)
		s.Has(customers, kit.Paying, false)
		assert.Equal(t, 2, s.Asked())
		assert.EqualValues(t, 100, customers.Stats().Stale)
	})
}

func TestARefreshThatHangsIsBoundedByTheTimeoutAndByEachCallersContext(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := kit.NewShop(t)
		customers := s.Open()
		s.Polar.Inject(polartest.Fault{Effect: polartest.Hang()})
		at := time.Now()
		var group sync.WaitGroup
		group.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
			defer cancel()
			_, err := customers.Entitlements(ctx, polargate.ExternalID(kit.Paying))
			require.ErrorIs(t, err, context.DeadlineExceeded)
			require.ErrorIs(t, err, polargate.ErrUnreachable)
			assert.Equal(t, 300*time.Millisecond, time.Since(at))
		})
		group.Go(func() {
			_, err := customers.Entitlements(t.Context(), polargate.ExternalID(kit.Paying))
			require.ErrorIs(t, err, polargate.ErrUnreachable)
			assert.Equal(t, 5*time.Second, time.Since(at))
		})
		group.Wait()
		assert.EqualValues(t, 1, customers.Stats().Requests)
	})
}

func TestARequestDoesNotWaitOutARetryAfter(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := kit.NewShop(t)
		s.Add("usr_second")
		customers := s.Warmed()
		s.Polar.Inject(polartest.Fault{Times: 1, Effect: polartest.RateLimited("30")})
		time.Sleep(90 * time.Minute)
		at := time.Now()
		s.Has(customers, kit.Paying, true) // grace
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		_, err := customers.Entitlements(ctx, polargate.ExternalID("usr_second"))
		require.ErrorIs(t, err, polargate.ErrRateLimited)
		assert.Zero(t, time.Since(at), "neither the customer in grace nor the new one waited")
		assert.Equal(t, 30*time.Second, customers.Stats().Pause)
		before := s.Asked()
		time.Sleep(29 * time.Second)
		s.Has(customers, kit.Paying, true)
		_, err = customers.Entitlements(t.Context(), polargate.ExternalID("usr_second"))
		require.ErrorIs(t, err, polargate.ErrRateLimited)
		assert.Equal(t, before, s.Asked(), "Polar is left alone")
		time.Sleep(2 * time.Second)
		s.Has(customers, "usr_second", true)
		s.Has(customers, kit.Paying, true)
	})
}

func TestIdsOfDifferentKindsNeverMix(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := kit.NewShop(t)
		mine, ok := s.Polar.Customer(kit.Paying)
		require.True(t, ok)
		// A poor customer whose external id is the rich one's Polar id.
		s.Polar.AddCustomer(polartest.Customer{ExternalID: mine.ID})
		customers := s.Warmed()
		for range 2 {
			e, err := customers.Entitlements(t.Context(), polargate.CustomerID(strings.ToUpper(mine.ID)))
			require.NoError(t, err)
			assert.True(t, e.Has("pro"))
			s.Has(customers, mine.ID, false)
			for _, near := range []string{"USR_PAYING", kit.Paying + " ", " " + kit.Paying, kit.Paying + ";", "0" + kit.Paying, "1" + kit.Paying, kit.Paying + "%20", "external/" + kit.Paying, "usr%5Fpaying"} {
				e, err := customers.Entitlements(t.Context(), polargate.ExternalID(near))
				if err == nil {
					assert.False(t, e.Has("pro"), "%q", near)
				}
			}
		}
	})
}

func TestAnAnswerAboutAnotherCustomerIsNotBelieved(t *testing.T) {
	t.Parallel()
	const other = "549c44b7-2e67-4e0e-8a20-17e76c895830"
	for name, change := range map[string]func(customer polartest.Customer, organization string) (from, to string){
		"another external id":  func(c polartest.Customer, _ string) (string, string) { return `"` + kit.Paying + `"`, `"usr_else"` },
		"another capital":      func(c polartest.Customer, _ string) (string, string) { return `"` + kit.Paying + `"`, `"Usr_paying"` },
		"no external id":       func(c polartest.Customer, _ string) (string, string) { return `"` + kit.Paying + `"`, `null` },
		"another organization": func(_ polartest.Customer, o string) (string, string) { return o, other },
		"an id that is none":   func(c polartest.Customer, _ string) (string, string) { return `"` + c.ID + `"`, `"x"` },
	} {
		t.Run(name, func(t *testing.T) {
			kit.Bubbled(t, func(t *testing.T) {
				s := kit.NewShop(t)
				customer, _ := s.Polar.Customer(kit.Paying)
				from, to := change(customer, s.Polar.OrganizationID())
				s.Polar.Inject(polartest.Fault{Effect: polartest.Rewrite(func(status int, _ http.Header, body []byte) (int, []byte) {
					assert.Contains(t, string(body), from)
					return status, []byte(strings.ReplaceAll(string(body), from, to))
				})})
				customers := s.Open()
				_, err := customers.Entitlements(t.Context(), polargate.ExternalID(kit.Paying))
				require.ErrorIs(t, err, polargate.ErrUnreachable)
				assert.Zero(t, customers.Stats().Cached)
				assert.NotContains(t, err.Error(), kit.Paying)
			})
		})
	}
}

func TestAFloodOfUnknownIdsDoesNotEvictKnownCustomers(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := kit.NewShop(t)
		const known = 50
		customers := s.Open(func(c *polargate.CustomersConfig) {
			c.CacheSize, c.FreshFor, c.RequestsPerMinute = 128, time.Hour, 1_000_000
		})
		for i := range known {
			s.Add(fmt.Sprint("usr_", i))
			s.Has(customers, fmt.Sprint("usr_", i), true)
		}
		before, stranger := customers.Stats(), 0
		rounds := kit.Flood(40)
		for range rounds {
			for i := range known {
				s.Has(customers, fmt.Sprint("usr_", i), true)
				for range 20 {
					stranger++
					_, _ = customers.Entitlements(t.Context(), polargate.ExternalID(fmt.Sprint("nobody_", stranger)))
				}
			}
		}
		hits := float64(customers.Stats().Fresh-before.Fresh) / float64(rounds*known)
		assert.Greater(t, hits, 0.99)
		assert.LessOrEqual(t, customers.Stats().CachedUnknown, 32)
	})
}

func TestNewCustomersDoNotStarveRefreshesOfKnownOnes(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := kit.NewShop(t)
		customers := s.Warmed(func(c *polargate.CustomersConfig) { c.RequestsPerMinute, c.FreshFor = 60, 10*time.Second })
		stranger := 0
		for round := range 60 {
			for range 100 {
				stranger++
				_, err := customers.Entitlements(t.Context(), polargate.ExternalID(fmt.Sprint("nobody_", stranger)))
				if err != nil {
					require.ErrorIs(t, err, polargate.ErrRateLimited)
				}
			}
			time.Sleep(10 * time.Second)
			if round == 30 {
				s.Polar.RevokeBenefit(kit.Paying, kit.ProBenefit)
			}
			_, err := customers.Refresh(t.Context(), polargate.ExternalID(kit.Paying))
			require.NoError(t, err)
			s.Has(customers, kit.Paying, round < 30)
		}
		assert.NotZero(t, customers.Stats().TurnedAway)
		assert.LessOrEqual(t, s.Asked(), 11*60+12, "Polar is not asked more often than was allowed")
	})
}

func TestNewCustomersGetTheRequestsThatAreIdle(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := kit.NewShop(t)
		customers := s.Open()
		const perMinute = 240 // of 300, a fifth of which is kept for a burst
		for i := range 5 * perMinute {
			s.Add(fmt.Sprint("usr_", i))
			s.Has(customers, fmt.Sprint("usr_", i), true)
			time.Sleep(time.Minute / perMinute)
		}
		assert.Zero(t, customers.Stats().TurnedAway)
	})
}

func TestACrowdOfNewCustomersLeavesRequestsForKnownOnes(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := kit.NewShop(t)
		customers := s.Warmed(func(c *polargate.CustomersConfig) { c.FreshFor = 10 * time.Second })
		time.Sleep(time.Minute)
		s.Polar.Inject(polartest.Fault{Effect: polartest.Delay(100 * time.Millisecond)})
		var crowd sync.WaitGroup
		for i := range 1000 {
			crowd.Go(func() {
				_, err := customers.Entitlements(t.Context(), polargate.ExternalID(fmt.Sprint("nobody_", i)))
				if err != nil {
					assert.ErrorIs(t, err, polargate.ErrRateLimited)
				}
			})
		}
		time.Sleep(time.Millisecond)
		at := time.Now()
		for range 10 {
			_, err := customers.Refresh(t.Context(), polargate.ExternalID(kit.Paying))
			require.NoError(t, err)
		}
		assert.Equal(t, time.Second, time.Since(at), "ten answers, and nobody waited to ask")
		crowd.Wait()
		assert.GreaterOrEqual(t, customers.Stats().TurnedAway, int64(900))
	})
}

func TestAnUnknownCustomerIsRememberedBrieflyAndKnownAtOnceAfterAWebhook(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := kit.NewShop(t)
		customers := s.Open()
		s.Polar.AddEndpoint(polartest.Endpoint{Handler: customers.WebhookHandler("own words"), Secrets: []polartest.Secret{{Text: "own words", Raw: true}}})
		ref := polargate.ExternalID("usr_soon")
		for range 60 {
			e, err := customers.Entitlements(t.Context(), ref)
			require.NoError(t, err)
			assert.False(t, e.Known())
			time.Sleep(time.Second)
		}
		asked := s.Asked()
		assert.Equal(t, 5, asked, "at once and after 2, 6, 14 and 30 seconds")
		assert.EqualValues(t, 55, customers.Stats().Unknown)
		for range 10 {
			s.Has(customers, "usr_soon", false)
			time.Sleep(30 * time.Second)
		}
		assert.Equal(t, asked+10, s.Asked(), "UnknownFor is the longest")
		s.Has(customers, "usr_soon", false)
		asked = s.Asked()
		time.Sleep(time.Second)
		s.Add("usr_soon")
		require.NoError(t, s.Polar.WaitForDeliveries(t.Context()))
		s.Has(customers, "usr_soon", true)
		assert.Equal(t, asked, s.Asked())
		assert.Zero(t, customers.Stats().CachedUnknown, "nor are they unknown again when they are pushed out")
	})
}

func TestExternalIdsOfEveryKindReachTheirCustomer(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := kit.NewShop(t, func(c *polartest.Config) {
			c.OnBreach = func(r polartest.Request, what string) { t.Errorf("%s %s: %s", r.Method, r.Path, what) }
		})
		customers := s.Open(func(c *polargate.CustomersConfig) { c.RequestsPerMinute = 3000 })
		for _, id := range []string{
			"100%", "%41", "%2F", "a b", "a+b", "#1", "who?", "a?b=c", ";", "a;b", "a&b=c", `a\b`, "ключ", "日本", "e\u0301", "é",
			"...", "..a", "a..", "-", "~", "'", `"`, "<x>", "{}", "|", "^", "`", "state", "external", ada, "a:b", "@", "!$()*,",
			strings.Repeat("x", 2000),
		} {
			s.Add(id)
			e, err := customers.Entitlements(t.Context(), polargate.ExternalID(id))
			require.NoError(t, err, "%q", id)
			assert.True(t, e.Has("pro"), "%q", id)
			assert.Equal(t, id, e.ExternalID())
		}
		before := s.Asked()
		for _, id := range []string{"", ".", "..", "/", "a/b", "../x", "a\x00", "\xff", strings.Repeat("x", 3000), ada + "/"} {
			_, err := customers.Entitlements(t.Context(), polargate.ExternalID(id))
			_, isInput := errors.AsType[*polargate.InputError](err)
			require.True(t, isInput, "%q: %v", id, err)
			assert.NotContains(t, err.Error(), "ada")
			_, err = customers.Refresh(t.Context(), polargate.ExternalID(id))
			require.Error(t, err)
		}
		assert.Equal(t, before, s.Asked())
	})
}

const ada = "ada lovelace+x@example.com"

func TestAnIdIsInNoErrorAndNoLog(t *testing.T) {
	t.Parallel()
	for name, effect := range map[string]polartest.Effect{
		"an echo in a 422":     polartest.Body(422, "application/json", `{"error":"RequestValidationError","detail":[{"loc":["path","`+ada+`"],"msg":"bad `+ada+`"}]}`),
		"an echo in a 400":     polartest.Body(400, "application/json", `{"error":"BadRequest","detail":"what is `+ada+`"}`),
		"an echo in a 401":     polartest.Body(401, "application/json", `{"error":"invalid_token","error_description":"no `+ada+`"}`),
		"an echo in a 500":     polartest.Body(500, "text/plain", ada),
		"a reset":              polartest.Reset(),
		"a 200 of another":     polartest.Body(200, "application/json", `{"id":"`+ada+`"}`),
		"a redirect to itself": polartest.LoginPage(302),
		"a hang":               polartest.Hang(),
	} {
		t.Run(name, func(t *testing.T) {
			kit.Bubbled(t, func(t *testing.T) {
				s := kit.NewShop(t)
				s.Polar.Inject(polartest.Fault{Effect: effect})
				customers := s.Open()
				_, err := customers.Entitlements(t.Context(), polargate.ExternalID(ada))
				require.Error(t, err)
				_, refusal := customers.Decide(t.Context(), polargate.ExternalID(ada))
				require.NotNil(t, refusal)
				for _, text := range []string{err.Error(), fmt.Sprintf("%+v", err), fmt.Sprintf("%#v", refusal.Err), fmt.Sprintf("%+v", refusal), s.Log.String(), fmt.Sprintf("%+v", customers.Stats())} {
					for _, part := range []string{ada, "ada%20", "lovelace", s.Config.AccessToken} {
						assert.NotContains(t, text, part)
					}
				}
			})
		})
	}
	t.Run("no connection, in the words of net/http", func(t *testing.T) {
		t.Parallel()
		s := kit.NewShop(t)
		customers := s.Open(func(c *polargate.CustomersConfig) {
			c.HTTPClient = &http.Client{Transport: kit.RoundTripper(func(r *http.Request) (*http.Response, error) {
				return nil, fmt.Errorf("dial %s: %s", r.URL, ada)
			})}
			c.Timeout = 100 * time.Millisecond
		})
		_, err := customers.Entitlements(t.Context(), polargate.ExternalID(ada))
		require.Error(t, err)
		for _, text := range []string{err.Error(), s.Log.String()} {
			assert.NotContains(t, text, "lovelace")
		}
	})
}

func TestARefusedTokenIsReportedAtTheFirstUseAndInStatsUntilItWorks(t *testing.T) {
	t.Parallel()
	for name, token := range map[string]polartest.Token{
		"without the scope": {Token: "polar_oat_one", Scopes: []string{"license_keys:read"}},
		"expired":           {Token: "polar_oat_one", ExpiresAt: time.Date(1999, 1, 1, 0, 0, 0, 0, time.UTC)},
		"without the API":   {Token: "polar_oat_one", NoAPIAccess: true},
	} {
		t.Run(name, func(t *testing.T) {
			kit.Bubbled(t, func(t *testing.T) {
				s := kit.NewShop(t)
				s.Config.AccessToken = s.Polar.AddToken(polartest.Token{Token: "polar_oat_one"})
				customers := s.Warmed()
				require.NoError(t, customers.Stats().Misconfigured)
				s.Polar.AddToken(token)
				_, err := customers.Entitlements(t.Context(), polargate.ExternalID("usr_new"))
				require.ErrorIs(t, err, polargate.ErrMisconfigured)
				require.ErrorIs(t, customers.Stats().Misconfigured, polargate.ErrMisconfigured)
				assert.NotContains(t, err.Error(), "polar_oat_one")
				assert.Equal(t, 1, strings.Count(s.Log.String(), "rejects the access token"))
				time.Sleep(2 * time.Hour)
				s.Has(customers, kit.Paying, true)
				require.Error(t, customers.Stats().Misconfigured)
				s.Polar.AddToken(polartest.Token{Token: "polar_oat_one"})
				time.Sleep(time.Minute)
				s.Has(customers, "usr_new", false)
				require.NoError(t, customers.Stats().Misconfigured)
			})
		})
	}
}

// A route for license keys that the token has no scope for must not turn away the
// customers of the other routes.
func TestATokenWithoutTheScopeForKeysStillServesNewCustomers(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := kit.NewShop(t)
		s.Config.AccessToken = s.Polar.AddToken(polartest.Token{Scopes: []string{"customers:read"}})
		customers := s.Open()
		_, refusal := customers.DecideLicense(t.Context(), "SOME-KEY")
		require.NotNil(t, refusal)
		require.Equal(t, 503, refusal.Status)
		s.Has(customers, kit.Paying, true)
	})
}

func TestPanicsOfTheTransportAreContained(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := kit.NewShop(t)
		var broken atomic.Bool
		inner := s.Polar.Transport()
		customers := s.Warmed(func(c *polargate.CustomersConfig) {
			c.HTTPClient = &http.Client{Transport: kit.RoundTripper(func(r *http.Request) (*http.Response, error) {
				if broken.Load() {
					panic("the transport is on fire at " + r.URL.String())
				}
				return inner.RoundTrip(r)
			})}
		})
		broken.Store(true)
		_, err := customers.Entitlements(t.Context(), polargate.ExternalID("usr_new"))
		require.ErrorIs(t, err, polargate.ErrUnreachable)
		time.Sleep(10 * time.Minute)
		s.Has(customers, kit.Paying, true)
		synctest.Wait()
		time.Sleep(2 * time.Hour)
		s.Has(customers, kit.Paying, true)
		assert.NotContains(t, s.Log.String(), "usr_new")
		broken.Store(false)
		time.Sleep(time.Minute)
		s.Has(customers, "usr_new", false)
	})
}

func TestCloseLeavesNothingBehindAndStillServesTheCache(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := kit.NewShop(t)
		s.Add("usr_cold")
		customers := s.Warmed()
		s.Polar.Inject(polartest.Fault{Effect: polartest.Hang()})
		time.Sleep(10 * time.Minute)
		s.Has(customers, kit.Paying, true) // refreshed behind, which hangs
		cold := make(chan error, 1)
		go func() {
			_, err := customers.Entitlements(context.Background(), polargate.ExternalID("usr_cold"))
			cold <- err
		}()
		synctest.Wait()
		at := time.Now()
		var group sync.WaitGroup
		for range 3 {
			group.Go(func() { assert.NoError(t, customers.Close()) })
		}
		group.Wait()
		require.ErrorIs(t, <-cold, polargate.ErrClosed)
		s.Has(customers, kit.Paying, true)
		_, err := customers.Entitlements(context.Background(), polargate.ExternalID("usr_cold"))
		require.ErrorIs(t, err, polargate.ErrClosed)
		_, err = customers.Refresh(context.Background(), polargate.ExternalID("usr_cold"))
		require.ErrorIs(t, err, polargate.ErrClosed)
		_, _, err = customers.Spend(context.Background(), polargate.ExternalID("usr_cold"), kit.CallsMeter, 1)
		require.ErrorIs(t, err, polargate.ErrClosed)
		_, err = customers.PortalURL(context.Background(), polargate.ExternalID(kit.Paying), "")
		require.ErrorIs(t, err, polargate.ErrClosed)
		_, refusal := customers.DecideLicense(context.Background(), "SOME-KEY")
		require.NotNil(t, refusal)
		assert.Equal(t, polargate.ErrClosed, refusal.Reason)
		assert.Zero(t, time.Since(at))
		time.Sleep(2 * time.Hour)
		s.Has(customers, kit.Paying, true) // in grace
		// The bubble ends only when every goroutine in it has.
	})
}

func TestRefreshServesAnOlderAnswerIfPolarCannotBeReached(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := kit.NewShop(t)
		customers := s.Warmed()
		s.Polar.RevokeBenefit(kit.Paying, kit.ProBenefit)
		e, err := customers.Refresh(t.Context(), polargate.ExternalID(kit.Paying))
		require.NoError(t, err)
		assert.False(t, e.Has("pro"), "it asks, though what is cached is fresh")
		s.Polar.SetOffline(true)
		e, err = customers.Refresh(t.Context(), polargate.ExternalID(kit.Paying))
		require.NoError(t, err, "as Entitlements does")
		assert.True(t, e.Known())
	})
}

func TestCallersWhoGiveUpShareOneRequest(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := kit.NewShop(t)
		s.Polar.Inject(polartest.Fault{Times: 1, Effect: polartest.Delay(4 * time.Second)})
		customers := s.Open()
		for range 20 { // somebody who loads a page anew, or a proxy that tries again
			ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
			_, err := customers.Entitlements(ctx, polargate.ExternalID(kit.Paying))
			cancel()
			require.ErrorIs(t, err, context.DeadlineExceeded)
		}
		assert.Equal(t, 1, s.Asked())
		s.Has(customers, kit.Paying, true)
		assert.Equal(t, 1, s.Asked(), "who has more patience gets its answer")
	})
}

func TestARefreshIsNotAnsweredByAnOlderQuestion(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := kit.NewShop(t)
		s.Polar.RevokeBenefit(kit.Paying, kit.ProBenefit)
		customers := s.Open()
		s.Polar.Inject(polartest.Fault{Times: 1, Effect: polartest.Delay(3 * time.Second)})
		var group sync.WaitGroup
		group.Go(func() {
			e, err := customers.Entitlements(t.Context(), polargate.ExternalID(kit.Paying))
			assert.NoError(t, err)
			assert.False(t, e.Has("pro"))
		})
		time.Sleep(time.Second)
		s.Polar.GrantBenefit(kit.Paying, polartest.Benefit{BenefitID: kit.ProBenefit}) // they have just bought
		e, err := customers.Refresh(t.Context(), polargate.ExternalID(kit.Paying))
		require.NoError(t, err)
		assert.True(t, e.Has("pro"))
		group.Wait()
		assert.Equal(t, 2, s.Asked())
	})
}

func TestARefreshThatCannotAskAgainGivesTheAnswerThatItJoined(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := kit.NewShop(t)
		customers := s.Open(func(c *polargate.CustomersConfig) { c.RequestsPerMinute = 4 }) // one newcomer
		s.Polar.Inject(polartest.Fault{Times: 1, Effect: polartest.Delay(2 * time.Second)})
		var group sync.WaitGroup
		group.Go(func() { _, _ = customers.Entitlements(t.Context(), polargate.ExternalID("usr_new")) })
		time.Sleep(time.Second)
		e, err := customers.Refresh(t.Context(), polargate.ExternalID("usr_new"))
		require.NoError(t, err)
		assert.False(t, e.Known())
		group.Wait()
	})
}

func TestSettingsThatMeanForeverNeverEnd(t *testing.T) {
	for name, set := range map[string]func(*polargate.CustomersConfig){
		"fresh for ever": func(c *polargate.CustomersConfig) { c.FreshFor = math.MaxInt64 },
		"stale for ever": func(c *polargate.CustomersConfig) { c.StaleFor = math.MaxInt64 },
		"grace for ever": func(c *polargate.CustomersConfig) { c.GracePeriod = math.MaxInt64 },
	} {
		t.Run(name, func(t *testing.T) {
			kit.Bubbled(t, func(t *testing.T) {
				s := kit.NewShop(t)
				customers := s.Open(set)
				time.Sleep(time.Second) // the sum is longer than for ever
				s.Has(customers, kit.Paying, true)
				s.Polar.SetOffline(true)
				time.Sleep(10 * 365 * 24 * time.Hour)
				s.Has(customers, kit.Paying, true)
			})
		})
	}
}

func TestAnErrorAboutAShortIdCanBeRead(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := kit.NewShop(t)
		customers := s.Open()
		s.Polar.Inject(polartest.Fault{Effect: polartest.Hang()})
		_, err := customers.Entitlements(t.Context(), polargate.ExternalID("e"))
		require.ErrorIs(t, err, context.DeadlineExceeded)
		assert.Contains(t, err.Error(), "deadline exceeded")
		time.Sleep(time.Minute)
		s.Polar.SetOffline(true)
		_, err = customers.Entitlements(t.Context(), polargate.ExternalID("e"))
		assert.ErrorContains(t, err, "network is unreachable")
		time.Sleep(time.Minute)
		s.Polar.SetOffline(false)
		_, err = customers.Entitlements(t.Context(), polargate.ExternalID("exceeded"))
		require.ErrorIs(t, err, context.DeadlineExceeded, "also when the id is a word of it")
	})
}

func TestAShortAddressIsInNoError(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := kit.NewShop(t)
		s.Config.HTTPClient = &http.Client{Transport: kit.RoundTripper(func(r *http.Request) (*http.Response, error) {
			return nil, fmt.Errorf("no rule for %s", r.URL.Path)
		})}
		_, err := s.Open().Entitlements(t.Context(), polargate.ExternalID("a@b"))
		require.ErrorContains(t, err, "no rule for")
		assert.NotContains(t, err.Error(), "a@b")
	})
}

func TestOneRequestIsCountedOnce(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := kit.NewShop(t)
		customers := s.Warmed()
		handler := customers.Middleware(func(*http.Request) polargate.CustomerRef { return polargate.ExternalID(kit.Paying) }, polargate.Feature("gold"))(http.NotFoundHandler())
		before := customers.Stats().Fresh
		assert.Equal(t, 402, get(handler, "/").Code)
		assert.EqualValues(t, 1, customers.Stats().Fresh-before)
	})
}

// opening is a configuration in which any benefit unlocks one feature, and pro some more.
func opening(c *polargate.CustomersConfig) {
	c.Features = map[string][]string{polargate.AnyBenefit: {"open", "export"}, kit.ProBenefit: {"pro", "export"}}
}

func TestAnyBenefitUnlocksItsFeaturesForCustomersWhoHaveOne(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := kit.NewShop(t)
		s.Polar.AddCustomer(polartest.Customer{ExternalID: "usr_tea", Benefits: []polartest.Benefit{{BenefitID: kit.TeaBenefit}}})
		s.Polar.AddCustomer(polartest.Customer{ExternalID: "usr_free"})
		customers := s.Open(opening, func(c *polargate.CustomersConfig) { c.WebhookSecrets = []string{kit.HookSecret} })
		kit.Receiving(s, customers)
		for external, want := range map[string][]string{kit.Paying: {"export", "open", "pro"}, "usr_tea": {"export", "open"}, "usr_free": nil} {
			e, err := customers.Entitlements(t.Context(), polargate.ExternalID(external))
			require.NoError(t, err)
			assert.Equal(t, want, e.Features(), external)
			assert.Equal(t, want != nil, e.Has("open"), external)
			assert.Equal(t, external == kit.Paying, e.Has("pro"), external)
		}
		route := customers.Middleware(byHeader, polargate.Feature("open"))(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) }))
		assert.Equal(t, http.StatusTeapot, get(route, "/", "X-User", "usr_tea").Code)
		assert.NotContains(t, s.Log.String(), "nobody can have it")
		refused := get(route, "/", "X-User", "usr_free")
		assert.Equal(t, http.StatusPaymentRequired, refused.Code)
		assert.Equal(t, "feature open", problemIn(t, refused)["required"])
		page := get(route, "/", "X-User", "usr_free", "Accept", "text/html")
		assert.Equal(t, http.StatusPaymentRequired, page.Code)
		assert.Contains(t, page.Body.String(), "Your plan doesn&#39;t include this.")

		watched, stop := customers.Watch(t.Context(), polargate.ExternalID("usr_tea"), polargate.Feature("open"))
		defer stop()
		time.Sleep(time.Minute)
		goesOn(t, watched)
		s.Polar.RevokeBenefit("usr_tea", kit.TeaBenefit)
		took, refusal := ended(t, watched)
		assert.Less(t, took, time.Second)
		assert.Equal(t, http.StatusPaymentRequired, refusal.Status)
		s.Polar.GrantBenefit("usr_free", polartest.Benefit{BenefitID: kit.TeaBenefit})
		kit.Settled(s)
		assert.Equal(t, http.StatusTeapot, get(route, "/", "X-User", "usr_free").Code)
	})
}

func TestLicenseKeysOfAnyBenefitAreAcceptedOnEveryReplica(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s, key := sold(t, func(k *polartest.LicenseKey) { k.BenefitID = kit.TeaBenefit })
		shared := polargate.SharedInMemory()
		for _, customers := range append(kit.Fleet(s, 2, shared, opening), s.Open(opening)) {
			assert.Equal(t, "true "+key.ID+" [export open]", keyed(customers, secretKey, polargate.Feature("open")).Body.String())
			assert.Equal(t, http.StatusPaymentRequired, keyed(customers, secretKey, polargate.Feature("pro")).Code)
		}
		assert.Equal(t, 2, s.Asked(), "once by the two that share, and once by the other")
	})
}
