package polargate_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
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
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const (
	proBenefit = "850cc3a4-3ed7-4be6-b198-127ec8d33bb9"
	teaBenefit = "32234c6d-03fe-42a8-8a2f-d3d416d0b60a"
	callsMeter = "aaf2bfea-ac4f-40eb-99ad-de858ccdfd97"
	paying     = "usr_paying"
)

// shop is a Polar with one paying customer in it, and a server's Customers that
// ask it.
type shop struct {
	t     *testing.T
	polar *polartest.Polar
	// config is for the Customers that open makes; a test may change it before.
	config polargate.CustomersConfig
	log    *lockedText
}

// newShop makes a Polar, by default without limits, and a paying customer.
func newShop(t *testing.T, change ...func(*polartest.Config)) *shop {
	t.Helper()
	config := polartest.Config{Unlimited: true}
	for _, c := range change {
		c(&config)
	}
	polar := polartest.New(config)
	s := &shop{t: t, polar: polar, log: &lockedText{}}
	s.config = polargate.CustomersConfig{
		AccessToken:    polar.AddToken(polartest.Token{}),
		OrganizationID: polar.OrganizationID(),
		Features:       map[string][]string{proBenefit: {"pro", "export"}},
		BaseURL:        polar.URL(),
		HTTPClient:     polar.Client(),
		Logger:         slog.New(slog.NewTextHandler(s.log, nil)),
	}
	s.add(paying)
	return s
}

// add makes a customer who has pro and a hundred calls.
func (s *shop) add(external string) {
	s.polar.AddCustomer(polartest.Customer{
		ExternalID: external,
		Benefits:   []polartest.Benefit{{BenefitID: proBenefit}},
		Meters:     []polartest.Meter{{MeterID: callsMeter, CreditedUnits: 100}},
	})
}

func (s *shop) open(change ...func(*polargate.CustomersConfig)) *polargate.Customers {
	s.t.Helper()
	config := s.config
	for _, c := range change {
		c(&config)
	}
	customers, err := polargate.NewCustomers(config)
	require.NoError(s.t, err)
	s.t.Cleanup(func() { _ = customers.Close() })
	return customers
}

// asked is how many questions came to Polar.
func (s *shop) asked() int { return s.polar.Count("") }

// warmed is open, with the paying customer in the cache.
func (s *shop) warmed(change ...func(*polargate.CustomersConfig)) *polargate.Customers {
	s.t.Helper()
	customers := s.open(change...)
	s.has(customers, paying, true)
	return customers
}

// has asks whether a customer has pro, which must be answered.
func (s *shop) has(customers *polargate.Customers, external string, want bool) {
	s.t.Helper()
	e, err := customers.Entitlements(s.t.Context(), polargate.ExternalID(external))
	require.NoError(s.t, err)
	assert.Equal(s.t, want, e.Has("pro"))
}

// lockedText is a log that many goroutines write.
type lockedText struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *lockedText) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lockedText) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// bubbled runs a test where waiting takes no time.
func bubbled(t *testing.T, test func(t *testing.T)) {
	t.Helper()
	t.Parallel()
	synctest.Test(t, test)
}

func TestAThousandWhoAskAboutOneColdCustomerAskPolarOnce(t *testing.T) {
	bubbled(t, func(t *testing.T) {
		s := newShop(t)
		s.polar.Inject(polartest.Fault{Effect: polartest.Delay(time.Second)})
		customers := s.open()
		var group sync.WaitGroup
		for range 1000 {
			group.Go(func() { s.has(customers, paying, true) })
		}
		group.Wait()
		assert.Equal(t, 1, s.asked())
		assert.EqualValues(t, 1, customers.Stats().Requests)
		assert.EqualValues(t, 1000, customers.Stats().Fetched)
	})
}

func TestAgesOfAnswersAreExact(t *testing.T) {
	bubbled(t, func(t *testing.T) {
		s := newShop(t)
		customers := s.warmed()
		s.polar.SetOffline(true)
		wait := func(d time.Duration) { time.Sleep(d); synctest.Wait() }

		wait(5*time.Minute - 1)
		s.has(customers, paying, true)
		assert.EqualValues(t, 1, customers.Stats().Fresh, "a nanosecond before FreshFor ends")
		assert.EqualValues(t, 1, customers.Stats().Requests)
		wait(1)
		s.has(customers, paying, true)
		synctest.Wait()
		assert.EqualValues(t, 1, customers.Stats().Stale, "when FreshFor ends")
		assert.EqualValues(t, 2, customers.Stats().Requests)

		wait(55*time.Minute - 1)
		s.has(customers, paying, true)
		synctest.Wait()
		assert.EqualValues(t, 2, customers.Stats().Stale, "a nanosecond before StaleFor ends")
		wait(1)
		s.has(customers, paying, true)
		assert.EqualValues(t, 1, customers.Stats().Grace, "when StaleFor ends")
		assert.NotZero(t, customers.Stats().Failures)

		wait(71*time.Hour - 1)
		s.has(customers, paying, true)
		wait(1)
		_, err := customers.Entitlements(t.Context(), polargate.ExternalID(paying))
		require.ErrorIs(t, err, polargate.ErrUnreachable, "when the grace period ends")

		s.polar.SetOffline(false)
		wait(time.Second)
		s.has(customers, paying, true)
	})
}

func TestAnHourWithoutPolarServesThoseWhoAreKnownAndNobodyElse(t *testing.T) {
	bubbled(t, func(t *testing.T) {
		s := newShop(t)
		customers := s.warmed()
		time.Sleep(2 * time.Hour) // past both times
		for name, down := range map[string]polartest.Effect{
			"a server error": polartest.ServerError(503), "a reset": polartest.Reset(), "a page": polartest.ProxyPage(502),
			"a login": polartest.LoginPage(200), "no path": polartest.RouterNotFound(), "nonsense": polartest.Garbage(),
			"an empty object": polartest.Body(200, "application/json", `{}`), "null": polartest.Body(200, "application/json", `null`),
		} {
			s.polar.ClearFaults()
			s.polar.Inject(polartest.Fault{Effect: down})
			for range 12 {
				s.has(customers, paying, true)
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
		assert.Contains(t, s.log.String(), "could not say")
		assert.NotContains(t, s.log.String(), paying)
	})
}

func TestAStaleAnswerIsServedAtOnceAndRefreshedOnce(t *testing.T) {
	bubbled(t, func(t *testing.T) {
		s := newShop(t)
		customers := s.warmed()
		s.polar.Inject(polartest.Fault{Effect: polartest.Delay(2 * time.Second)})
		s.polar.RevokeBenefit(paying, proBenefit)
		time.Sleep(6 * time.Minute)
		at := time.Now()
		var group sync.WaitGroup
		for range 100 {
			group.Go(func() { s.has(customers, paying, true) })
		}
		group.Wait()
		assert.Zero(t, time.Since(at), "nobody waited")
		time.Sleep(3 * time.Second)
		s.has(customers, paying, false)
		assert.Equal(t, 2, s.asked())
		assert.EqualValues(t, 100, customers.Stats().Stale)
	})
}

func TestARefreshThatHangsIsBoundedByTheTimeoutAndByEachCallersContext(t *testing.T) {
	bubbled(t, func(t *testing.T) {
		s := newShop(t)
		customers := s.open()
		s.polar.Inject(polartest.Fault{Effect: polartest.Hang()})
		at := time.Now()
		var group sync.WaitGroup
		group.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
			defer cancel()
			_, err := customers.Entitlements(ctx, polargate.ExternalID(paying))
			require.ErrorIs(t, err, context.DeadlineExceeded)
			require.ErrorIs(t, err, polargate.ErrUnreachable)
			assert.Equal(t, 300*time.Millisecond, time.Since(at))
		})
		group.Go(func() {
			_, err := customers.Entitlements(t.Context(), polargate.ExternalID(paying))
			require.ErrorIs(t, err, polargate.ErrUnreachable)
			assert.Equal(t, 5*time.Second, time.Since(at))
		})
		group.Wait()
		assert.EqualValues(t, 1, customers.Stats().Requests)
	})
}

func TestNobodySleepsThroughARetryAfter(t *testing.T) {
	bubbled(t, func(t *testing.T) {
		s := newShop(t)
		s.add("usr_second")
		customers := s.warmed()
		s.polar.Inject(polartest.Fault{Times: 1, Effect: polartest.RateLimited("30")})
		time.Sleep(90 * time.Minute)
		at := time.Now()
		s.has(customers, paying, true) // grace
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		_, err := customers.Entitlements(ctx, polargate.ExternalID("usr_second"))
		require.ErrorIs(t, err, polargate.ErrRateLimited)
		assert.Zero(t, time.Since(at), "neither the customer in grace nor the new one waited")
		assert.Equal(t, 30*time.Second, customers.Stats().Pause)
		before := s.asked()
		time.Sleep(29 * time.Second)
		s.has(customers, paying, true)
		_, err = customers.Entitlements(t.Context(), polargate.ExternalID("usr_second"))
		require.ErrorIs(t, err, polargate.ErrRateLimited)
		assert.Equal(t, before, s.asked(), "Polar is left alone")
		time.Sleep(2 * time.Second)
		s.has(customers, "usr_second", true)
		s.has(customers, paying, true)
	})
}

func TestIdsOfDifferentKindsNeverMix(t *testing.T) {
	bubbled(t, func(t *testing.T) {
		s := newShop(t)
		mine, ok := s.polar.Customer(paying)
		require.True(t, ok)
		// A poor customer whose external id is the rich one's Polar id.
		s.polar.AddCustomer(polartest.Customer{ExternalID: mine.ID})
		customers := s.warmed()
		for range 2 {
			e, err := customers.Entitlements(t.Context(), polargate.CustomerID(strings.ToUpper(mine.ID)))
			require.NoError(t, err)
			assert.True(t, e.Has("pro"))
			s.has(customers, mine.ID, false)
			for _, near := range []string{"USR_PAYING", paying + " ", " " + paying, paying + ";", "0" + paying, "1" + paying, paying + "%20", "external/" + paying, "usr%5Fpaying"} {
				e, err := customers.Entitlements(t.Context(), polargate.ExternalID(near))
				if err == nil {
					assert.False(t, e.Has("pro"), "%q", near)
				}
			}
		}
	})
}

func TestAnAnswerAboutSomebodyElseIsNotBelieved(t *testing.T) {
	t.Parallel()
	const other = "549c44b7-2e67-4e0e-8a20-17e76c895830"
	for name, change := range map[string]func(customer polartest.Customer, organization string) (from, to string){
		"another external id":  func(c polartest.Customer, _ string) (string, string) { return `"` + paying + `"`, `"usr_else"` },
		"another capital":      func(c polartest.Customer, _ string) (string, string) { return `"` + paying + `"`, `"Usr_paying"` },
		"no external id":       func(c polartest.Customer, _ string) (string, string) { return `"` + paying + `"`, `null` },
		"another organization": func(_ polartest.Customer, o string) (string, string) { return o, other },
		"an id that is none":   func(c polartest.Customer, _ string) (string, string) { return `"` + c.ID + `"`, `"x"` },
	} {
		t.Run(name, func(t *testing.T) {
			bubbled(t, func(t *testing.T) {
				s := newShop(t)
				customer, _ := s.polar.Customer(paying)
				from, to := change(customer, s.polar.OrganizationID())
				s.polar.Inject(polartest.Fault{Effect: polartest.Rewrite(func(status int, _ http.Header, body []byte) (int, []byte) {
					assert.Contains(t, string(body), from)
					return status, []byte(strings.ReplaceAll(string(body), from, to))
				})})
				customers := s.open()
				_, err := customers.Entitlements(t.Context(), polargate.ExternalID(paying))
				require.ErrorIs(t, err, polargate.ErrUnreachable)
				assert.Zero(t, customers.Stats().Cached)
				assert.NotContains(t, err.Error(), paying)
			})
		})
	}
}

func TestAFloodOfUnknownIdsDoesNotPushOutThoseWhoAreKnown(t *testing.T) {
	bubbled(t, func(t *testing.T) {
		s := newShop(t)
		const known = 50
		customers := s.open(func(c *polargate.CustomersConfig) {
			c.CacheSize, c.FreshFor, c.RequestsPerMinute = 128, time.Hour, 1_000_000
		})
		for i := range known {
			s.add(fmt.Sprint("usr_", i))
			s.has(customers, fmt.Sprint("usr_", i), true)
		}
		before, stranger := customers.Stats(), 0
		const rounds = 40
		for range rounds {
			for i := range known {
				s.has(customers, fmt.Sprint("usr_", i), true)
				for range 20 {
					stranger++
					_, _ = customers.Entitlements(t.Context(), polargate.ExternalID(fmt.Sprint("nobody_", stranger)))
				}
			}
		}
		hits := float64(customers.Stats().Fresh-before.Fresh) / (rounds * known)
		assert.Greater(t, hits, 0.99)
		assert.LessOrEqual(t, customers.Stats().CachedUnknown, 32)
	})
}

func TestNewcomersDoNotStarveTheRefreshesOfThoseWhoAreKnown(t *testing.T) {
	bubbled(t, func(t *testing.T) {
		s := newShop(t)
		customers := s.warmed(func(c *polargate.CustomersConfig) { c.RequestsPerMinute, c.FreshFor = 60, 10*time.Second })
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
				s.polar.RevokeBenefit(paying, proBenefit)
			}
			_, err := customers.Refresh(t.Context(), polargate.ExternalID(paying))
			require.NoError(t, err)
			s.has(customers, paying, round < 30)
		}
		assert.NotZero(t, customers.Stats().TurnedAway)
		assert.LessOrEqual(t, s.asked(), 11*60+12, "Polar is not asked more often than was allowed")
	})
}

func TestNewcomersHaveTheRequestsThatNobodyElseWants(t *testing.T) {
	bubbled(t, func(t *testing.T) {
		s := newShop(t)
		customers := s.open()
		const perMinute = 240 // of 300, a fifth of which is kept for a burst
		for i := range 5 * perMinute {
			s.add(fmt.Sprint("usr_", i))
			s.has(customers, fmt.Sprint("usr_", i), true)
			time.Sleep(time.Minute / perMinute)
		}
		assert.Zero(t, customers.Stats().TurnedAway)
	})
}

func TestACrowdOfNewcomersLeavesRequestsForThoseWhoAreKnown(t *testing.T) {
	bubbled(t, func(t *testing.T) {
		s := newShop(t)
		customers := s.warmed(func(c *polargate.CustomersConfig) { c.FreshFor = 10 * time.Second })
		time.Sleep(time.Minute)
		s.polar.Inject(polartest.Fault{Effect: polartest.Delay(100 * time.Millisecond)})
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
			_, err := customers.Refresh(t.Context(), polargate.ExternalID(paying))
			require.NoError(t, err)
		}
		assert.Equal(t, time.Second, time.Since(at), "ten answers, and nobody waited to ask")
		crowd.Wait()
		assert.GreaterOrEqual(t, customers.Stats().TurnedAway, int64(900))
	})
}

func TestAnUnknownCustomerIsRememberedBrieflyAndKnownAtOnceAfterAWebhook(t *testing.T) {
	bubbled(t, func(t *testing.T) {
		s := newShop(t)
		customers := s.open()
		s.polar.AddEndpoint(polartest.Endpoint{Handler: customers.WebhookHandler("own words"), Secrets: []polartest.Secret{{Text: "own words", Raw: true}}})
		ref := polargate.ExternalID("usr_soon")
		for range 60 {
			e, err := customers.Entitlements(t.Context(), ref)
			require.NoError(t, err)
			assert.False(t, e.Known())
			time.Sleep(time.Second)
		}
		asked := s.asked()
		assert.Equal(t, 5, asked, "at once and after 2, 6, 14 and 30 seconds")
		assert.EqualValues(t, 55, customers.Stats().Unknown)
		for range 10 {
			s.has(customers, "usr_soon", false)
			time.Sleep(30 * time.Second)
		}
		assert.Equal(t, asked+10, s.asked(), "UnknownFor is the longest")
		s.has(customers, "usr_soon", false)
		asked = s.asked()
		time.Sleep(time.Second)
		s.add("usr_soon")
		require.NoError(t, s.polar.WaitForDeliveries(t.Context()))
		s.has(customers, "usr_soon", true)
		assert.Equal(t, asked, s.asked())
		assert.Zero(t, customers.Stats().CachedUnknown, "nor are they unknown again when they are pushed out")
	})
}

func TestExternalIdsOfEveryKindReachTheirCustomer(t *testing.T) {
	bubbled(t, func(t *testing.T) {
		s := newShop(t, func(c *polartest.Config) {
			c.OnBreach = func(r polartest.Request, what string) { t.Errorf("%s %s: %s", r.Method, r.Path, what) }
		})
		customers := s.open(func(c *polargate.CustomersConfig) { c.RequestsPerMinute = 3000 })
		for _, id := range []string{
			"100%", "%41", "%2F", "a b", "a+b", "#1", "who?", "a?b=c", ";", "a;b", "a&b=c", `a\b`, "ключ", "日本", "e\u0301", "é",
			"...", "..a", "a..", "-", "~", "'", `"`, "<x>", "{}", "|", "^", "`", "state", "external", ada, "a:b", "@", "!$()*,",
			strings.Repeat("x", 2000),
		} {
			s.add(id)
			e, err := customers.Entitlements(t.Context(), polargate.ExternalID(id))
			require.NoError(t, err, "%q", id)
			assert.True(t, e.Has("pro"), "%q", id)
			assert.Equal(t, id, e.ExternalID())
		}
		before := s.asked()
		for _, id := range []string{"", ".", "..", "/", "a/b", "../x", "a\x00", "\xff", strings.Repeat("x", 3000), ada + "/"} {
			_, err := customers.Entitlements(t.Context(), polargate.ExternalID(id))
			_, isInput := errors.AsType[*polargate.InputError](err)
			require.True(t, isInput, "%q: %v", id, err)
			assert.NotContains(t, err.Error(), "ada")
			_, err = customers.Refresh(t.Context(), polargate.ExternalID(id))
			require.Error(t, err)
		}
		assert.Equal(t, before, s.asked())
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
			bubbled(t, func(t *testing.T) {
				s := newShop(t)
				s.polar.Inject(polartest.Fault{Effect: effect})
				customers := s.open()
				_, err := customers.Entitlements(t.Context(), polargate.ExternalID(ada))
				require.Error(t, err)
				_, refusal := customers.Decide(t.Context(), polargate.ExternalID(ada))
				require.NotNil(t, refusal)
				for _, text := range []string{err.Error(), fmt.Sprintf("%+v", err), fmt.Sprintf("%#v", refusal.Err), fmt.Sprintf("%+v", refusal), s.log.String(), fmt.Sprintf("%+v", customers.Stats())} {
					for _, part := range []string{ada, "ada%20", "lovelace", s.config.AccessToken} {
						assert.NotContains(t, text, part)
					}
				}
			})
		})
	}
	t.Run("no connection, in the words of net/http", func(t *testing.T) {
		t.Parallel()
		s := newShop(t)
		customers := s.open(func(c *polargate.CustomersConfig) {
			c.HTTPClient = &http.Client{Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
				return nil, fmt.Errorf("dial %s: %s", r.URL, ada)
			})}
			c.Timeout = 100 * time.Millisecond
		})
		_, err := customers.Entitlements(t.Context(), polargate.ExternalID(ada))
		require.Error(t, err)
		for _, text := range []string{err.Error(), s.log.String()} {
			assert.NotContains(t, text, "lovelace")
		}
	})
}

func TestATokenThatPolarRefusesIsToldAtTheFirstUseAndInStatsUntilItWorks(t *testing.T) {
	t.Parallel()
	for name, token := range map[string]polartest.Token{
		"without the scope": {Token: "polar_oat_one", Scopes: []string{"license_keys:read"}},
		"expired":           {Token: "polar_oat_one", ExpiresAt: time.Date(1999, 1, 1, 0, 0, 0, 0, time.UTC)},
		"without the API":   {Token: "polar_oat_one", NoAPIAccess: true},
	} {
		t.Run(name, func(t *testing.T) {
			bubbled(t, func(t *testing.T) {
				s := newShop(t)
				s.config.AccessToken = s.polar.AddToken(polartest.Token{Token: "polar_oat_one"})
				customers := s.warmed()
				require.NoError(t, customers.Stats().Misconfigured)
				s.polar.AddToken(token)
				_, err := customers.Entitlements(t.Context(), polargate.ExternalID("usr_new"))
				require.ErrorIs(t, err, polargate.ErrMisconfigured)
				require.ErrorIs(t, customers.Stats().Misconfigured, polargate.ErrMisconfigured)
				assert.NotContains(t, err.Error(), "polar_oat_one")
				assert.Equal(t, 1, strings.Count(s.log.String(), "refuses the access token"))
				time.Sleep(2 * time.Hour)
				s.has(customers, paying, true)
				require.Error(t, customers.Stats().Misconfigured)
				s.polar.AddToken(polartest.Token{Token: "polar_oat_one"})
				time.Sleep(time.Minute)
				s.has(customers, "usr_new", false)
				require.NoError(t, customers.Stats().Misconfigured)
			})
		})
	}
}

// A route for license keys that the token has no scope for must not turn away the
// customers of the other routes.
func TestATokenWithoutTheScopeForKeysStillServesNewCustomers(t *testing.T) {
	bubbled(t, func(t *testing.T) {
		s := newShop(t)
		s.config.AccessToken = s.polar.AddToken(polartest.Token{Scopes: []string{"customers:read"}})
		customers := s.open()
		_, refusal := customers.DecideLicense(t.Context(), "SOME-KEY")
		require.NotNil(t, refusal)
		require.Equal(t, 503, refusal.Status)
		s.has(customers, paying, true)
	})
}

func TestPanicsOfTheTransportAreContained(t *testing.T) {
	bubbled(t, func(t *testing.T) {
		s := newShop(t)
		var broken atomic.Bool
		inner := s.polar.Transport()
		customers := s.warmed(func(c *polargate.CustomersConfig) {
			c.HTTPClient = &http.Client{Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
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
		s.has(customers, paying, true)
		synctest.Wait()
		time.Sleep(2 * time.Hour)
		s.has(customers, paying, true)
		assert.NotContains(t, s.log.String(), "usr_new")
		broken.Store(false)
		time.Sleep(time.Minute)
		s.has(customers, "usr_new", false)
	})
}

func TestCloseLeavesNothingBehindAndServesWhatIsCached(t *testing.T) {
	bubbled(t, func(t *testing.T) {
		s := newShop(t)
		s.add("usr_cold")
		customers := s.warmed()
		s.polar.Inject(polartest.Fault{Effect: polartest.Hang()})
		time.Sleep(10 * time.Minute)
		s.has(customers, paying, true) // refreshed behind, which hangs
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
		s.has(customers, paying, true)
		_, err := customers.Entitlements(context.Background(), polargate.ExternalID("usr_cold"))
		require.ErrorIs(t, err, polargate.ErrClosed)
		_, err = customers.Refresh(context.Background(), polargate.ExternalID("usr_cold"))
		require.ErrorIs(t, err, polargate.ErrClosed)
		_, _, err = customers.Spend(context.Background(), polargate.ExternalID("usr_cold"), callsMeter, 1)
		require.ErrorIs(t, err, polargate.ErrClosed)
		_, refusal := customers.DecideLicense(context.Background(), "SOME-KEY")
		require.NotNil(t, refusal)
		assert.Equal(t, polargate.ErrClosed, refusal.Reason)
		assert.Zero(t, time.Since(at))
		time.Sleep(2 * time.Hour)
		s.has(customers, paying, true) // in grace
		// The bubble ends only when every goroutine in it has.
	})
}

func TestRefreshServesWhatIsInGraceWhenNobodyCanSay(t *testing.T) {
	bubbled(t, func(t *testing.T) {
		s := newShop(t)
		customers := s.warmed()
		s.polar.RevokeBenefit(paying, proBenefit)
		e, err := customers.Refresh(t.Context(), polargate.ExternalID(paying))
		require.NoError(t, err)
		assert.False(t, e.Has("pro"), "it asks, though what is cached is fresh")
		s.polar.SetOffline(true)
		e, err = customers.Refresh(t.Context(), polargate.ExternalID(paying))
		require.NoError(t, err, "as Entitlements does")
		assert.True(t, e.Known())
	})
}

func TestCallersWhoGiveUpShareOneQuestion(t *testing.T) {
	bubbled(t, func(t *testing.T) {
		s := newShop(t)
		s.polar.Inject(polartest.Fault{Times: 1, Effect: polartest.Delay(4 * time.Second)})
		customers := s.open()
		for range 20 { // somebody who loads a page anew, or a proxy that tries again
			ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
			_, err := customers.Entitlements(ctx, polargate.ExternalID(paying))
			cancel()
			require.ErrorIs(t, err, context.DeadlineExceeded)
		}
		assert.Equal(t, 1, s.asked())
		s.has(customers, paying, true)
		assert.Equal(t, 1, s.asked(), "who has more patience gets its answer")
	})
}

func TestARefreshIsNotAnsweredByAnOlderQuestion(t *testing.T) {
	bubbled(t, func(t *testing.T) {
		s := newShop(t)
		s.polar.RevokeBenefit(paying, proBenefit)
		customers := s.open()
		s.polar.Inject(polartest.Fault{Times: 1, Effect: polartest.Delay(3 * time.Second)})
		var group sync.WaitGroup
		group.Go(func() {
			e, err := customers.Entitlements(t.Context(), polargate.ExternalID(paying))
			assert.NoError(t, err)
			assert.False(t, e.Has("pro"))
		})
		time.Sleep(time.Second)
		s.polar.GrantBenefit(paying, polartest.Benefit{BenefitID: proBenefit}) // they have just bought
		e, err := customers.Refresh(t.Context(), polargate.ExternalID(paying))
		require.NoError(t, err)
		assert.True(t, e.Has("pro"))
		group.Wait()
		assert.Equal(t, 2, s.asked())
	})
}

func TestARefreshThatCannotAskAgainGivesTheAnswerThatItJoined(t *testing.T) {
	bubbled(t, func(t *testing.T) {
		s := newShop(t)
		customers := s.open(func(c *polargate.CustomersConfig) { c.RequestsPerMinute = 4 }) // one newcomer
		s.polar.Inject(polartest.Fault{Times: 1, Effect: polartest.Delay(2 * time.Second)})
		var group sync.WaitGroup
		group.Go(func() { _, _ = customers.Entitlements(t.Context(), polargate.ExternalID("usr_new")) })
		time.Sleep(time.Second)
		e, err := customers.Refresh(t.Context(), polargate.ExternalID("usr_new"))
		require.NoError(t, err)
		assert.False(t, e.Known())
		group.Wait()
	})
}

func TestSettingsThatMeanForEverNeverEnd(t *testing.T) {
	for name, set := range map[string]func(*polargate.CustomersConfig){
		"fresh for ever": func(c *polargate.CustomersConfig) { c.FreshFor = math.MaxInt64 },
		"stale for ever": func(c *polargate.CustomersConfig) { c.StaleFor = math.MaxInt64 },
		"grace for ever": func(c *polargate.CustomersConfig) { c.GracePeriod = math.MaxInt64 },
	} {
		t.Run(name, func(t *testing.T) {
			bubbled(t, func(t *testing.T) {
				s := newShop(t)
				customers := s.open(set)
				time.Sleep(time.Second) // the sum is longer than for ever
				s.has(customers, paying, true)
				s.polar.SetOffline(true)
				time.Sleep(10 * 365 * 24 * time.Hour)
				s.has(customers, paying, true)
			})
		})
	}
}

func TestAnErrorAboutAShortIdCanBeRead(t *testing.T) {
	bubbled(t, func(t *testing.T) {
		s := newShop(t)
		customers := s.open()
		s.polar.Inject(polartest.Fault{Effect: polartest.Hang()})
		_, err := customers.Entitlements(t.Context(), polargate.ExternalID("e"))
		require.ErrorIs(t, err, context.DeadlineExceeded)
		assert.Contains(t, err.Error(), "deadline exceeded")
		time.Sleep(time.Minute)
		s.polar.SetOffline(true)
		_, err = customers.Entitlements(t.Context(), polargate.ExternalID("e"))
		assert.ErrorContains(t, err, "network is unreachable")
		time.Sleep(time.Minute)
		s.polar.SetOffline(false)
		_, err = customers.Entitlements(t.Context(), polargate.ExternalID("exceeded"))
		require.ErrorIs(t, err, context.DeadlineExceeded, "also when the id is a word of it")
	})
}

func TestAShortAddressIsInNoError(t *testing.T) {
	bubbled(t, func(t *testing.T) {
		s := newShop(t)
		s.config.HTTPClient = &http.Client{Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
			return nil, fmt.Errorf("no rule for %s", r.URL.Path)
		})}
		_, err := s.open().Entitlements(t.Context(), polargate.ExternalID("a@b"))
		require.ErrorContains(t, err, "no rule for")
		assert.NotContains(t, err.Error(), "a@b")
	})
}

func TestSpendingAtTheSameTimeNeverExceedsTheBalance(t *testing.T) {
	bubbled(t, func(t *testing.T) {
		s := newShop(t)
		customers := s.open()
		var taken atomic.Int64
		var group sync.WaitGroup
		for range 300 {
			group.Go(func() {
				_, ok, err := customers.Spend(t.Context(), polargate.ExternalID(paying), strings.ToUpper(callsMeter), 3)
				assert.NoError(t, err)
				if ok {
					taken.Add(3)
				}
			})
		}
		group.Wait()
		assert.EqualValues(t, 99, taken.Load())
		e, err := customers.Entitlements(t.Context(), polargate.ExternalID(paying))
		require.NoError(t, err)
		m, ok := e.Meter(callsMeter)
		require.True(t, ok)
		assert.InDelta(t, 1, m.Balance, 0)
		assert.False(t, e.Meets(polargate.Meter(callsMeter, 1.5)))
		// Polar says anew what is left.
		time.Sleep(time.Second)
		s.polar.DebitMeter(paying, callsMeter, 89.5)
		e, err = customers.Refresh(t.Context(), polargate.ExternalID(paying))
		require.NoError(t, err)
		m, _ = e.Meter(callsMeter)
		assert.InDelta(t, 10.5, m.Balance, 0)
	})
}

func TestSpendingIsGivenBackOnceAndNotAfterANewAnswer(t *testing.T) {
	bubbled(t, func(t *testing.T) {
		s := newShop(t)
		customers := s.open()
		ref := polargate.ExternalID(paying)
		balance := func() float64 {
			e, err := customers.Entitlements(t.Context(), ref)
			require.NoError(t, err)
			m, _ := e.Meter(callsMeter)
			return m.Balance
		}
		giveBack, ok, err := customers.Spend(t.Context(), ref, callsMeter, 0.25)
		require.NoError(t, err)
		require.True(t, ok)
		assert.InDelta(t, 99.75, balance(), 0)
		giveBack()
		giveBack()
		assert.InDelta(t, 100, balance(), 0)
		old, ok, err := customers.Spend(t.Context(), ref, callsMeter, 40)
		require.NoError(t, err)
		require.True(t, ok)
		s.polar.DebitMeter(paying, callsMeter, 90)
		_, err = customers.Refresh(t.Context(), ref)
		require.NoError(t, err)
		assert.InDelta(t, 10, balance(), 0)
		old()
		assert.InDelta(t, 10, balance(), 0, "Polar's new answer counts")
		for _, units := range []float64{0, -1, math.NaN(), math.Inf(1), math.Inf(-1), math.MaxFloat64} {
			none, ok, err := customers.Spend(t.Context(), ref, callsMeter, units)
			_, isInput := errors.AsType[*polargate.InputError](err)
			assert.True(t, isInput && !ok, "%v", units)
			none()
		}
		for _, meter := range []string{"", proBenefit, "x"} {
			none, ok, err := customers.Spend(t.Context(), ref, meter, 1)
			require.NoError(t, err)
			assert.False(t, ok)
			none()
		}
		none, ok, err := customers.Spend(t.Context(), ref, callsMeter, 10.000001)
		require.NoError(t, err)
		assert.False(t, ok)
		none()
		assert.InDelta(t, 10, balance(), 0)
	})
}

func TestWhatIsSpentWhilePolarIsAskedIsNotForgotten(t *testing.T) {
	bubbled(t, func(t *testing.T) {
		s := newShop(t)
		customers := s.warmed()
		ref := polargate.ExternalID(paying)
		spend := func(units float64) func() {
			giveBack, ok, err := customers.Spend(t.Context(), ref, callsMeter, units)
			require.NoError(t, err)
			require.True(t, ok)
			return giveBack
		}
		before := spend(10)
		time.Sleep(6 * time.Minute)
		s.polar.Inject(polartest.Fault{Times: 1, Effect: polartest.Delay(2 * time.Second)})
		s.has(customers, paying, true) // by a stale answer, and Polar is asked behind it
		time.Sleep(time.Second)
		given, kept, later := spend(20), spend(30), spend(7)
		given()
		assert.InDelta(t, 100-10-30-7, balanceOf(t, customers), 0)
		time.Sleep(2 * time.Second)
		assert.InDelta(t, 100-30-7, balanceOf(t, customers), 0, "Polar can have counted the first of them alone")
		kept()
		kept()
		assert.InDelta(t, 100-7, balanceOf(t, customers), 0, "it can still be given back")
		time.Sleep(6 * time.Minute)
		s.polar.SetOffline(true)
		s.has(customers, paying, true)
		synctest.Wait()
		later()
		assert.InDelta(t, 100, balanceOf(t, customers), 0, "also after another question, which nobody answered")
		s.polar.SetOffline(false)

		time.Sleep(6 * time.Minute)
		_, err := customers.Refresh(t.Context(), ref)
		require.NoError(t, err)
		assert.InDelta(t, 100, balanceOf(t, customers), 0, "a question that began later knows all of it")
		before()
		assert.InDelta(t, 100, balanceOf(t, customers), 0)
	})
}

func TestALateEventDoesNotGiveBackWhatWasSpent(t *testing.T) {
	bubbled(t, func(t *testing.T) {
		s := newShop(t)
		customers := s.warmed(func(c *polargate.CustomersConfig) { c.FreshFor = time.Hour })
		received(t, s, customers)
		time.Sleep(10 * time.Second)
		s.polar.HoldDeliveries()
		s.polar.GrantBenefit(paying, polartest.Benefit{BenefitID: teaBenefit}) // the event says that 100 are left
		time.Sleep(time.Second)
		late, spent := s.polar.Deliveries(), 0
		spendAll := func() {
			for {
				_, ok, err := customers.Spend(t.Context(), polargate.ExternalID(paying), callsMeter, 10)
				require.NoError(t, err)
				if !ok {
					return
				}
				s.polar.DebitMeter(paying, callsMeter, 10) // the program tells Polar
				spent += 10
			}
		}
		spendAll()
		require.Equal(t, 100, spent)
		time.Sleep(20 * time.Minute)
		s.polar.ReleaseDeliveries(late[len(late)-1].ID)
		require.NoError(t, s.polar.WaitForDeliveries(t.Context()))
		s.polar.SetOffline(true)
		spendAll()
		s.polar.SetOffline(false)
		time.Sleep(time.Minute)
		spendAll()
		assert.Equal(t, 100, spent)
		s.has(customers, paying, true)
	})
}

// received is a shop with an endpoint that leads to its Customers.
func received(t *testing.T, s *shop, customers *polargate.Customers) polartest.Endpoint {
	t.Helper()
	secret := polartest.Secret{Text: "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"}
	return s.polar.AddEndpoint(polartest.Endpoint{Handler: customers.WebhookHandler(secret.Text), Secrets: []polartest.Secret{secret}})
}

func TestACancellationBitesAtOnceOnBothIds(t *testing.T) {
	bubbled(t, func(t *testing.T) {
		s := newShop(t)
		subscribed := s.polar.Subscribe(paying, polartest.Subscription{}, polartest.Benefit{BenefitID: teaBenefit})
		customers := s.warmed()
		received(t, s, customers)
		customer, _ := s.polar.Customer(paying)
		both := []polargate.CustomerRef{polargate.ExternalID(paying), polargate.CustomerID(customer.ID)}
		check := func(want bool) {
			t.Helper()
			for _, ref := range both {
				e, err := customers.Entitlements(t.Context(), ref)
				require.NoError(t, err)
				assert.Equal(t, want, e.Meets(polargate.Benefit(teaBenefit)))
				assert.Equal(t, want, e.Subscribed(subscribed.ProductID))
			}
		}
		check(true)
		before := s.asked()
		time.Sleep(time.Second)
		s.polar.CancelSubscription(paying, subscribed.ID)
		require.NoError(t, s.polar.WaitForDeliveries(t.Context()))
		check(false)
		time.Sleep(time.Second)
		s.polar.RestoreSubscription(paying, subscribed.ID)
		require.NoError(t, s.polar.WaitForDeliveries(t.Context()))
		check(true)
		time.Sleep(time.Second)
		s.polar.DeleteCustomer(paying)
		require.NoError(t, s.polar.WaitForDeliveries(t.Context()))
		check(false)
		e, err := customers.Entitlements(t.Context(), both[0])
		require.NoError(t, err)
		assert.False(t, e.Known())
		assert.Equal(t, before, s.asked(), "all of that came by webhook")
	})
}

func TestDeliveriesOutOfOrderAndTwiceEndInTheYoungestState(t *testing.T) {
	bubbled(t, func(t *testing.T) {
		s := newShop(t)
		customers := s.warmed()
		endpoint := received(t, s, customers)
		s.polar.HoldDeliveries()
		for range 4 {
			time.Sleep(time.Second)
			s.polar.RevokeBenefit(paying, proBenefit)
			time.Sleep(time.Second)
			s.polar.GrantBenefit(paying, polartest.Benefit{BenefitID: proBenefit})
		}
		time.Sleep(time.Second)
		s.polar.RevokeBenefit(paying, proBenefit)
		all := s.polar.Deliveries()
		require.NotEmpty(t, all)
		for i := len(all) - 1; i >= 0; i-- {
			s.polar.ReleaseDeliveries(all[i].ID)
			require.NoError(t, s.polar.WaitForDeliveries(t.Context()))
			s.has(customers, paying, false)
		}
		for _, d := range all {
			for _, id := range []string{d.ID, "msg_other_" + d.ID} {
				status, err := s.polar.Send(endpoint.ID, polartest.Message{ID: id, Body: d.Body})
				require.NoError(t, err)
				assert.Equal(t, 204, status)
				s.has(customers, paying, false)
			}
		}
		stats := customers.Stats()
		assert.NotZero(t, stats.Outdated)
		assert.NotZero(t, stats.Repeated)
	})
}

func TestAFetchUnderWayWhenAWebhookArrivesDoesNotOverwriteIt(t *testing.T) {
	bubbled(t, func(t *testing.T) {
		s := newShop(t)
		customers := s.open()
		received(t, s, customers)
		// The true answer of now, which arrives in two seconds.
		s.polar.Inject(polartest.Fault{Times: 1, Effect: polartest.Delay(2 * time.Second)})
		done := make(chan struct{})
		go func() {
			defer close(done)
			e, err := customers.Entitlements(t.Context(), polargate.ExternalID(paying))
			assert.NoError(t, err)
			assert.False(t, e.Has("pro"), "who waited is told what is true by then")
		}()
		time.Sleep(time.Second)
		s.polar.RevokeBenefit(paying, proBenefit)
		require.NoError(t, s.polar.WaitForDeliveries(t.Context()))
		s.has(customers, paying, false)
		<-done
		s.has(customers, paying, false)
		assert.Equal(t, 1, s.asked())
	})
}

// A delivery that failed for hours comes with a new signature, and after a restart
// no younger event is remembered: only the answer that was fetched since is.
func TestAnEventFromBeforeTheLastAnswerDoesNotOverwriteIt(t *testing.T) {
	bubbled(t, func(t *testing.T) {
		s := newShop(t)
		customers := s.open()
		received(t, s, customers)
		s.polar.HoldDeliveries()
		s.polar.GrantBenefit(paying, polartest.Benefit{BenefitID: teaBenefit})
		old := s.polar.Deliveries()
		time.Sleep(3 * time.Hour)
		s.polar.RevokeBenefit(paying, proBenefit)
		s.polar.RevokeBenefit(paying, teaBenefit)
		s.has(customers, paying, false)
		for _, d := range old {
			s.polar.ReleaseDeliveries(d.ID)
		}
		require.NoError(t, s.polar.WaitForDeliveries(t.Context()))
		s.polar.SetOffline(true) // so that only what is remembered counts
		s.has(customers, paying, false)
	})
}

// After a restart nothing else is known of that customer.
func TestAnEventThatIsHoursOldIsNotFresh(t *testing.T) {
	bubbled(t, func(t *testing.T) {
		s := newShop(t)
		received(t, s, s.open())
		s.polar.HoldDeliveries()
		s.polar.GrantBenefit(paying, polartest.Benefit{BenefitID: teaBenefit})
		old := s.polar.Deliveries()
		time.Sleep(3 * time.Hour)
		s.polar.RevokeBenefit(paying, proBenefit)
		customers := s.open(func(c *polargate.CustomersConfig) { c.FreshFor = 24 * time.Hour })
		endpoint := received(t, s, customers)
		again := polartest.Message{ID: "msg_again", Body: old[len(old)-1].Body}
		status, err := s.polar.Send(endpoint.ID, again)
		require.NoError(t, err)
		require.Equal(t, 204, status)
		assert.EqualValues(t, 1, customers.Stats().Events)
		s.has(customers, paying, false)
		assert.Equal(t, 1, s.asked())
	})
}

func TestAnEventThatIsHoursOldStillHelpsInAnOutage(t *testing.T) {
	bubbled(t, func(t *testing.T) {
		s := newShop(t)
		received(t, s, s.open())
		s.polar.HoldDeliveries()
		s.polar.GrantBenefit(paying, polartest.Benefit{BenefitID: teaBenefit})
		old := s.polar.Deliveries()
		time.Sleep(3 * time.Hour)
		customers := s.open()
		_, err := s.polar.Send(received(t, s, customers).ID, polartest.Message{ID: "msg_again", Body: old[len(old)-1].Body})
		require.NoError(t, err)
		s.polar.SetOffline(true)
		time.Sleep(69*time.Hour - time.Second)
		s.has(customers, paying, true)
		time.Sleep(time.Second)
		_, err = customers.Entitlements(t.Context(), polargate.ExternalID(paying))
		require.ErrorIs(t, err, polargate.ErrUnreachable, "three days after the event")
	})
}

// behindOneID is a cache that is told of a revocation after Polar's own id of the
// customer was asked about, and before the program's id was.
func (s *shop) behindOneID(t *testing.T) *polargate.Customers {
	t.Helper()
	customers := s.warmed(func(c *polargate.CustomersConfig) { c.FreshFor = time.Hour })
	received(t, s, customers)
	customer, _ := s.polar.Customer(paying)
	time.Sleep(time.Minute)
	s.polar.HoldDeliveries()
	s.polar.RevokeBenefit(paying, proBenefit)
	time.Sleep(10 * time.Second)
	e, err := customers.Entitlements(t.Context(), polargate.CustomerID(customer.ID)) // a page for the staff
	require.NoError(t, err)
	require.False(t, e.Has("pro"))
	s.polar.ReleaseDeliveries()
	require.NoError(t, s.polar.WaitForDeliveries(t.Context()))
	return customers
}

func TestAnEventThatOneIdIsAheadOfHasTheOtherAsked(t *testing.T) {
	bubbled(t, func(t *testing.T) {
		s := newShop(t)
		customers := s.behindOneID(t)
		assert.EqualValues(t, 1, customers.Stats().Outdated)
		s.has(customers, paying, false)
		asked := s.asked()
		s.has(customers, paying, false)
		assert.Equal(t, asked, s.asked(), "once")
	})
}

func TestAnEventThatOneIdIsAheadOfIsNewsForTheOther(t *testing.T) {
	bubbled(t, func(t *testing.T) {
		s := newShop(t)
		customers := s.behindOneID(t)
		s.polar.SetOffline(true)
		s.has(customers, paying, false)
		time.Sleep(48 * time.Hour)
		s.has(customers, paying, false)
	})
}

func TestAnEventThatIsOlderThanA404HasPolarAsked(t *testing.T) {
	bubbled(t, func(t *testing.T) {
		s := newShop(t)
		customers := s.open(func(c *polargate.CustomersConfig) { c.FreshFor = time.Hour })
		received(t, s, customers)
		s.polar.HoldDeliveries()
		s.polar.GrantBenefit(paying, polartest.Benefit{BenefitID: teaBenefit})
		late := s.polar.Deliveries()
		time.Sleep(30 * time.Second)
		s.polar.DeleteCustomer(paying)
		time.Sleep(30 * time.Second)
		s.has(customers, paying, false)
		asked := s.asked()
		for _, d := range late {
			s.polar.ReleaseDeliveries(d.ID)
		}
		require.NoError(t, s.polar.WaitForDeliveries(t.Context()))
		s.polar.SetOffline(true)
		_, err := customers.Entitlements(t.Context(), polargate.ExternalID(paying))
		require.ErrorIs(t, err, polargate.ErrUnreachable, "the event decides nothing")
		time.Sleep(time.Second)
		s.polar.SetOffline(false)
		s.has(customers, paying, false)
		assert.Equal(t, asked+1, s.asked())
	})
}

// Polar answers out of a cache of its own for a while.
func TestAnEventThatCorrectsAnAnswerFromPolarsCacheIsNotLost(t *testing.T) {
	bubbled(t, func(t *testing.T) {
		s := newShop(t, func(c *polartest.Config) { c.EventuallyConsistent = true })
		customers := s.warmed(func(c *polargate.CustomersConfig) { c.FreshFor, c.StaleFor = time.Minute, -1 })
		received(t, s, customers)
		s.polar.HoldDeliveries()
		time.Sleep(time.Minute)
		s.polar.RevokeBenefit(paying, proBenefit)
		time.Sleep(8 * time.Second)
		s.has(customers, paying, true)
		time.Sleep(2 * time.Second)
		s.polar.ReleaseDeliveries()
		require.NoError(t, s.polar.WaitForDeliveries(t.Context()))
		s.has(customers, paying, false)
	})
}

func TestTheDeletionOfOneCustomerDoesNotReachAnotherWhoGotTheirId(t *testing.T) {
	bubbled(t, func(t *testing.T) {
		s := newShop(t)
		customers := s.warmed()
		received(t, s, customers)
		s.polar.HoldDeliveries()
		time.Sleep(time.Second)
		s.polar.DeleteCustomer(paying)
		late := s.polar.Deliveries()
		time.Sleep(time.Second)
		s.add(paying)
		for _, d := range s.polar.Deliveries()[len(late):] {
			s.polar.ReleaseDeliveries(d.ID)
		}
		require.NoError(t, s.polar.WaitForDeliveries(t.Context()))
		s.has(customers, paying, true)
		for _, d := range late {
			s.polar.ReleaseDeliveries(d.ID)
		}
		require.NoError(t, s.polar.WaitForDeliveries(t.Context()))
		s.has(customers, paying, true)
	})
}

// Only a deleted customer's id is in its metadata. Of one who lives, metadata are
// the vendor's, and nobody's id.
func TestMetadataOfALiveCustomerNameNobody(t *testing.T) {
	bubbled(t, func(t *testing.T) {
		s := newShop(t)
		customers := s.warmed()
		received(t, s, customers)
		time.Sleep(time.Second)
		s.polar.AddCustomer(polartest.Customer{Metadata: map[string]any{"__external_id": paying}})
		require.NoError(t, s.polar.WaitForDeliveries(t.Context()))
		s.has(customers, paying, true)
	})
}

func TestOneRequestIsCountedOnce(t *testing.T) {
	bubbled(t, func(t *testing.T) {
		s := newShop(t)
		customers := s.warmed()
		handler := customers.Middleware(func(*http.Request) polargate.CustomerRef { return polargate.ExternalID(paying) }, polargate.Feature("gold"))(http.NotFoundHandler())
		before := customers.Stats().Fresh
		assert.Equal(t, 402, get(handler, "/").Code)
		assert.EqualValues(t, 1, customers.Stats().Fresh-before)
	})
}
