package polargate_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/polargate/polargate"
	"github.com/polargate/polargate/polartest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func get(h http.Handler, headers ...string) *httptest.ResponseRecorder {
	return send(h, http.MethodGet, headers...)
}

func send(h http.Handler, method string, headers ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, "/", nil)
	for i := 0; i+1 < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

// byUser stands for a session.
func byUser(r *http.Request) polargate.CustomerRef {
	return polargate.ExternalID(r.Header.Get("X-User"))
}

var served = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "served") })

type problem struct {
	Type, Title, Detail, Reason, Required string
	Status                                int
	UpgradeURL                            string `json:"upgrade_url"`
}

func problemOf(t *testing.T, w *httptest.ResponseRecorder) problem {
	t.Helper()
	assert.Equal(t, "application/problem+json", w.Header().Get("Content-Type"))
	assert.Equal(t, "no-store", w.Header().Get("Cache-Control"))
	assert.Contains(t, w.Header().Values("Vary"), "Accept")
	var p problem
	d := json.NewDecoder(w.Body)
	d.DisallowUnknownFields()
	require.NoError(t, d.Decode(&p))
	assert.Equal(t, w.Code, p.Status)
	assert.Equal(t, http.StatusText(w.Code), p.Title)
	assert.Equal(t, "about:blank", p.Type)
	assert.Regexp(t, `^[A-Z].*\.$`, p.Detail)
	return p
}

func TestARefusalNamesTheFirstRequirementThatIsNotMet(t *testing.T) {
	bubbled(t, func(t *testing.T) {
		s := newShop(t)
		customers := s.warmed()
		pro, gold, calls := polargate.Feature("pro"), polargate.Feature("gold"), polargate.Meter(callsMeter, 50)
		for name, test := range map[string]struct {
			require []polargate.Requirement
			unmet   string // "" if all are met
		}{
			"none":                          {nil, ""},
			"a feature":                     {[]polargate.Requirement{pro}, ""},
			"another feature":               {[]polargate.Requirement{gold}, "feature gold"},
			"the second":                    {[]polargate.Requirement{pro, gold, polargate.Feature("silver")}, "feature gold"},
			"a benefit in capitals":         {[]polargate.Requirement{polargate.Benefit(strings.ToUpper(proBenefit))}, ""},
			"another benefit":               {[]polargate.Requirement{polargate.Benefit(teaBenefit)}, "benefit " + teaBenefit},
			"a product":                     {[]polargate.Requirement{polargate.Product(teaBenefit)}, "product " + teaBenefit},
			"a meter":                       {[]polargate.Requirement{calls}, ""},
			"all that is left of a meter":   {[]polargate.Requirement{polargate.Meter(callsMeter, 100)}, ""},
			"more than is left of a meter":  {[]polargate.Requirement{polargate.Meter(callsMeter, 100.5)}, "meter " + callsMeter + " of at least 100.5"},
			"a part of all":                 {[]polargate.Requirement{polargate.All(pro, calls, gold)}, "feature gold"},
			"all of nothing":                {[]polargate.Requirement{polargate.All()}, ""},
			"one of several":                {[]polargate.Requirement{polargate.Any(gold, pro)}, ""},
			"none of several":               {[]polargate.Requirement{polargate.Any(gold, polargate.Benefit(teaBenefit))}, "one of feature gold, benefit " + teaBenefit},
			"any of nothing":                {[]polargate.Requirement{polargate.Any()}, "one of "},
			"all within any":                {[]polargate.Requirement{polargate.Any(polargate.All(pro, gold), polargate.All(pro, calls))}, ""},
			"any within all":                {[]polargate.Requirement{polargate.All(pro, polargate.Any(gold))}, "one of feature gold"},
			"a requirement that was forgot": {[]polargate.Requirement{{}}, "nothing that can be met"},
		} {
			w := get(customers.Middleware(byUser, test.require...)(served), "X-User", paying)
			if test.unmet == "" {
				assert.Equal(t, 200, w.Code, name)
				continue
			}
			require.Equal(t, 402, w.Code, name)
			p := problemOf(t, w)
			if test.unmet != "nothing that can be met" {
				assert.Equal(t, test.unmet, p.Required, name)
			}
			assert.NotContains(t, p.Detail, paying)
		}
	})
}

func TestNobodyIsToldToSignInAndStrangersToBuy(t *testing.T) {
	bubbled(t, func(t *testing.T) {
		s := newShop(t)
		customers := s.open()
		anybody := customers.Middleware(byUser)(served)
		assert.Equal(t, "Nobody is signed in. Sign in first.", func() string {
			w := get(anybody)
			require.Equal(t, 401, w.Code)
			return problemOf(t, w).Detail
		}())
		assert.Zero(t, s.asked())
		w := get(anybody, "X-User", "usr_stranger")
		require.Equal(t, 402, w.Code, "no requirement but being a customer")
		assert.Empty(t, problemOf(t, w).Required)
		assert.Equal(t, 200, get(anybody, "X-User", paying).Code)
		w = get(anybody, "X-User", "a/b")
		require.Equal(t, 400, w.Code)
		assert.NotContains(t, w.Body.String(), "a/b")
	})
}

func TestABrowserIsSentToTheUpgradePageAndAProgramIsNot(t *testing.T) {
	bubbled(t, func(t *testing.T) {
		s := newShop(t)
		customers := s.open(func(c *polargate.CustomersConfig) { c.UpgradeURL = "https://example.com/pricing?from=app" })
		gold := customers.Middleware(byUser, polargate.Feature("gold"))(served)
		const chrome = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"
		for _, test := range []struct {
			method, accept string
			page           bool
		}{
			{"GET", chrome, true}, {"HEAD", chrome, true}, {"GET", "TEXT/HTML", true},
			{"POST", chrome, false}, {"PUT", chrome, false}, {"DELETE", chrome, false},
			{"GET", "", false}, {"GET", "*/*", false}, {"GET", "application/json", false},
			{"GET", "application/json, text/html;q=0.1", false}, {"GET", "application/problem+json, text/html", false},
		} {
			w := send(gold, test.method, "X-User", paying, "Accept", test.accept)
			if !test.page {
				require.Equal(t, 402, w.Code, test)
				assert.Equal(t, "https://example.com/pricing?from=app", problemOf(t, w).UpgradeURL)
				continue
			}
			require.Equal(t, 303, w.Code, test)
			assert.Equal(t, "https://example.com/pricing?from=app", w.Header().Get("Location"))
			assert.Equal(t, "no-store", w.Header().Get("Cache-Control"))
		}
		without := s.open().Middleware(byUser, polargate.Feature("gold"))(served)
		assert.Equal(t, 402, get(without, "X-User", paying, "Accept", chrome).Code, "without a page there is none to be sent to")
		assert.Equal(t, 401, get(gold, "Accept", chrome).Code, "who is not signed in is not sold anything")
		s.polar.SetOffline(true)
		assert.Equal(t, 503, get(gold, "Accept", chrome, "X-User", "usr_new").Code, "nor who cannot be checked")

		own := customers.Route(polargate.Route{Customer: byUser, Require: []polargate.Requirement{polargate.Feature("gold")}, UpgradeURL: "/gold"})(served)
		assert.Equal(t, "/gold", get(own, "X-User", paying, "Accept", chrome).Header().Get("Location"), "a route has its own")
	})
}

func TestAnAnswerToHeadHasNoBody(t *testing.T) {
	bubbled(t, func(t *testing.T) {
		customers := newShop(t).open()
		w := send(customers.Middleware(byUser)(served), http.MethodHead)
		assert.Equal(t, 401, w.Code)
		assert.Zero(t, w.Body.Len())
		assert.Equal(t, "application/problem+json", w.Header().Get("Content-Type"))
	})
}

func TestWhenNobodyCanSayARequestIsToldToComeBackUnlessItsRouteIsOpen(t *testing.T) {
	bubbled(t, func(t *testing.T) {
		s := newShop(t)
		customers := s.open()
		s.polar.SetOffline(true)
		w := get(customers.Middleware(byUser)(served), "X-User", paying)
		require.Equal(t, 503, w.Code)
		assert.Regexp(t, `^[1-9][0-9]*$`, w.Header().Get("Retry-After"))
		p := problemOf(t, w)
		assert.Equal(t, "unreachable", p.Reason)
		assert.Empty(t, p.UpgradeURL)

		var found bool
		open := customers.Route(polargate.Route{Customer: byUser, FailOpen: true, Require: []polargate.Requirement{polargate.Feature("gold")}})(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			_, found = polargate.FromContext(r.Context())
		}))
		assert.Equal(t, 200, get(open, "X-User", paying).Code)
		assert.False(t, found, "nothing is known of who was let in")
		assert.Equal(t, 401, get(open).Code, "it is not open for nobody")
		assert.Equal(t, 400, get(open, "X-User", "a/b").Code)

		s.polar.SetOffline(false)
		time.Sleep(2 * time.Second)
		s.polar.Inject(polartest.Fault{Effect: polartest.RateLimited("17")})
		w = get(customers.Middleware(byUser)(served), "X-User", paying)
		require.Equal(t, 503, w.Code)
		assert.Equal(t, "17", w.Header().Get("Retry-After"), "Polar said how long")
		s.polar.ClearFaults()
		time.Sleep(20 * time.Second)
		assert.Equal(t, 402, get(open, "X-User", paying).Code, "it is open only while nobody can say")
	})
}

func TestATokenThatIsRefusedTurnsNobodyIntoANonPayer(t *testing.T) {
	bubbled(t, func(t *testing.T) {
		s := newShop(t)
		customers := s.open(func(c *polargate.CustomersConfig) { c.AccessToken = "polar_oat_revoked" })
		w := get(customers.Middleware(byUser)(served), "X-User", paying)
		assert.Equal(t, 503, w.Code)
		assert.Equal(t, "misconfigured", problemOf(t, w).Reason)
		require.Error(t, customers.Stats().Misconfigured)
		assert.NotContains(t, s.log.String(), "polar_oat_revoked")
		assert.Contains(t, s.log.String(), "refuses the access token")
	})
}

func TestAProgramRefusesInWordsOfItsOwn(t *testing.T) {
	bubbled(t, func(t *testing.T) {
		s := newShop(t)
		var logged bytes.Buffer
		customers := s.open(func(c *polargate.CustomersConfig) {
			c.UpgradeURL = "/plans"
			c.Refuse = func(w http.ResponseWriter, _ *http.Request, r polargate.Refusal) {
				slog.New(slog.NewTextHandler(&logged, nil)).Info("refused", "refusal", r)
				http.Error(w, fmt.Sprintf("%s %s %s", r.Required, r.UpgradeURL, r.Entitlements.ExternalID()), http.StatusTeapot)
			}
		})
		w := get(customers.Middleware(byUser, polargate.Feature("gold"))(served), "X-User", paying)
		assert.Equal(t, 418, w.Code)
		assert.Equal(t, "feature gold /plans "+paying+"\n", w.Body.String())
		assert.Contains(t, logged.String(), "feature gold")
		assert.NotContains(t, logged.String(), paying)
		route := customers.Route(polargate.Route{Customer: byUser, Refuse: polargate.WriteRefusal})(served)
		assert.Equal(t, 401, get(route).Code, "a route has its own")
	})
}

func TestAHandlerFindsWhatTheCustomerHas(t *testing.T) {
	bubbled(t, func(t *testing.T) {
		s := newShop(t)
		customers := s.open()
		_, ok := polargate.FromContext(t.Context())
		assert.False(t, ok)
		var inner *polargate.Entitlements
		handler := customers.Middleware(byUser)(customers.Middleware(func(*http.Request) polargate.CustomerRef { return polargate.ExternalID("usr_other") })(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			inner, _ = polargate.FromContext(r.Context())
		})))
		s.add("usr_other")
		require.Equal(t, 200, get(handler, "X-User", paying).Code)
		assert.Equal(t, "usr_other", inner.ExternalID(), "the innermost route counts")
	})
}

func TestMistakesOfAProgramShowAtItsStart(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	customers := s.open()
	key := func(*http.Request) string { return "" }
	for name, route := range map[string]polargate.Route{
		"nobody to ask about":      {},
		"two to ask about":         {Customer: byUser, LicenseKey: key},
		"a cost of nothing":        {Customer: byUser, Spend: polargate.Cost{MeterID: callsMeter}},
		"a negative cost":          {Customer: byUser, Spend: polargate.Cost{MeterID: callsMeter, Units: -1}},
		"a cost for a license key": {LicenseKey: key, Spend: polargate.Cost{MeterID: callsMeter, Units: 1}},
	} {
		assert.Panics(t, func() { customers.Route(route) }, name)
	}
	assert.Panics(t, func() { customers.LicenseMiddleware("") })
	assert.Panics(t, func() { customers.Middleware(nil) })
}

func TestAPanicOfAHandlerIsTheHandlersOwn(t *testing.T) {
	bubbled(t, func(t *testing.T) {
		s := newShop(t)
		customers := s.warmed()
		broken := http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic("mine") })
		assert.PanicsWithValue(t, "mine", func() { get(customers.Middleware(byUser)(broken), "X-User", paying) })
		assert.PanicsWithValue(t, "who", func() {
			get(customers.Middleware(func(*http.Request) polargate.CustomerRef { panic("who") })(served))
		})
		assert.Equal(t, 200, get(customers.Middleware(byUser)(served), "X-User", paying).Code)
	})
}

func TestACallerWhoHasGoneIsNotWaitedFor(t *testing.T) {
	bubbled(t, func(t *testing.T) {
		s := newShop(t)
		customers := s.open()
		s.polar.Inject(polartest.Fault{Effect: polartest.Hang()})
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		began := time.Now()
		_, refusal := customers.Decide(ctx, polargate.ExternalID(paying))
		require.NotNil(t, refusal)
		assert.Equal(t, 503, refusal.Status)
		assert.Equal(t, 100*time.Millisecond, time.Since(began))
	})
}

// left is a meter's balance as a server sees it.
func left(t *testing.T, customers *polargate.Customers) float64 {
	t.Helper()
	e, err := customers.Entitlements(t.Context(), polargate.ExternalID(paying))
	require.NoError(t, err)
	m, ok := e.Meter(callsMeter)
	require.True(t, ok)
	return m.Balance
}

func TestTheCostOfARouteIsGivenBackWhenTheHandlerFails(t *testing.T) {
	bubbled(t, func(t *testing.T) {
		s := newShop(t)
		customers := s.warmed()
		for _, test := range []struct {
			name    string
			handler http.HandlerFunc
			taken   float64
		}{
			{"an answer", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "x") }, 10},
			{"no word at all", func(http.ResponseWriter, *http.Request) {}, 10},
			{"201", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(201) }, 10},
			{"404", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(404) }, 10},
			{"early hints and an answer", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(103); w.WriteHeader(200) }, 10},
			{"500", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) }, 0},
			{"503, and then something else", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(503); w.WriteHeader(200) }, 0},
			{"early hints and 502", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(103); w.WriteHeader(502) }, 0},
			{"a panic", func(http.ResponseWriter, *http.Request) { panic("mine") }, 0},
			{"a panic after an answer", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(200); panic(http.ErrAbortHandler) }, 0},
		} {
			before := left(t, customers)
			route := customers.Route(polargate.Route{Customer: byUser, Spend: polargate.Cost{MeterID: strings.ToUpper(callsMeter), Units: 10}})
			func() {
				defer func() { _ = recover() }()
				get(route(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					have, _ := polargate.FromContext(r.Context())
					m, _ := have.Meter(callsMeter)
					assert.InDelta(t, before-10, m.Balance, 0, "the handler sees what is left after it")
					test.handler(w, r)
				})), "X-User", paying)
			}()
			assert.InDelta(t, before-test.taken, left(t, customers), 0, test.name)
		}
	})
}

func TestARouteIsClosedWhenItsCostIsNotLeft(t *testing.T) {
	bubbled(t, func(t *testing.T) {
		s := newShop(t)
		customers := s.warmed()
		route := customers.Route(polargate.Route{Customer: byUser, Spend: polargate.Cost{MeterID: callsMeter, Units: 60}})(served)
		assert.Equal(t, 200, get(route, "X-User", paying).Code)
		w := get(route, "X-User", paying)
		require.Equal(t, 402, w.Code)
		assert.Equal(t, "meter "+callsMeter+" of at least 60", problemOf(t, w).Required)
		unknown := customers.Route(polargate.Route{Customer: byUser, Spend: polargate.Cost{MeterID: teaBenefit, Units: 1}})(served)
		assert.Equal(t, 402, get(unknown, "X-User", paying).Code, "a meter that the customer does not have")
	})
}

func TestAMeterIsNeverSpentTwiceByManyAtOnceWithWebhooksInBetween(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	customers := s.warmed()
	received(t, s, customers)
	var served atomic.Int64
	route := customers.Route(polargate.Route{Customer: byUser, Spend: polargate.Cost{MeterID: callsMeter, Units: 1}})(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { served.Add(1) }))
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			for range 20 {
				get(route, "X-User", paying)
			}
		})
	}
	all.Wait()
	assert.EqualValues(t, 100, served.Load(), "as many as Polar credited")
	all.Go(func() {
		for range 20 {
			s.polar.CreditMeter(paying, callsMeter, 1)
		}
	})
	for range 8 {
		all.Go(func() {
			for range 100 {
				get(route, "X-User", paying)
			}
		})
	}
	all.Wait()
	require.NoError(t, s.polar.WaitForDeliveries(t.Context()))
	assert.GreaterOrEqual(t, left(t, customers), 0.0)
	assert.LessOrEqual(t, left(t, customers), 120.0)
}

// A server that streams, upgrades or copies files has to find what the writer of
// net/http can do, through a route that spends.
func TestAHandlerOfASpendingRouteCanStreamAndUpgrade(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	customers := s.warmed()
	route := customers.Route(polargate.Route{Customer: byUser, Spend: polargate.Cost{MeterID: callsMeter, Units: 1}})
	mux := http.NewServeMux()
	next := make(chan struct{})
	mux.Handle("GET /stream", route(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "first\n")
		flusher, ok := w.(http.Flusher)
		assert.True(t, ok)
		flusher.Flush()
		<-next
		_, _ = io.WriteString(w, "second\n")
	})))
	mux.Handle("GET /upgrade", route(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		controller := http.NewResponseController(w)
		assert.NoError(t, controller.SetWriteDeadline(time.Now().Add(time.Minute)))
		conn, _, err := controller.Hijack()
		if !assert.NoError(t, err) {
			return
		}
		defer func() { _ = conn.Close() }()
		_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
	})))
	server := httptest.NewServer(mux)
	defer server.Close()
	ask := func(path string) *http.Response {
		r, err := http.NewRequest(http.MethodGet, server.URL+path, nil)
		require.NoError(t, err)
		r.Header.Set("X-User", paying)
		resp, err := server.Client().Do(r)
		require.NoError(t, err)
		return resp
	}
	resp := ask("/stream")
	defer resp.Body.Close()
	lines := bufio.NewReader(resp.Body)
	line, err := lines.ReadString('\n')
	require.NoError(t, err)
	assert.Equal(t, "first\n", line, "before the handler has ended")
	close(next)
	line, err = lines.ReadString('\n')
	require.NoError(t, err)
	assert.Equal(t, "second\n", line)
	upgraded := ask("/upgrade")
	defer upgraded.Body.Close()
	assert.Equal(t, 101, upgraded.StatusCode)
}

// keyed is a shop that sells an API by license key.
func keyed(t *testing.T) (*shop, *polargate.Customers, http.Handler) {
	t.Helper()
	s := newShop(t)
	customers := s.open()
	return s, customers, customers.LicenseMiddleware("X-License-Key", polargate.Feature("pro"))(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		have, _ := polargate.FromContext(r.Context())
		license, _ := have.License()
		fmt.Fprintf(w, "%v %s", license.Key, license.Status)
	}))
}

func TestALicenseKeyInAHeaderOpensASoldAPI(t *testing.T) {
	bubbled(t, func(t *testing.T) {
		s, customers, api := keyed(t)
		key := s.polar.AddKey(polartest.LicenseKey{BenefitID: proBenefit})
		for range 50 {
			w := get(api, "X-License-Key", " "+key.Key+" ")
			require.Equal(t, 200, w.Code)
			assert.Equal(t, "****-"+key.Key[len(key.Key)-6:]+" granted", w.Body.String())
		}
		assert.Equal(t, 1, s.polar.Count("/validate"), "it is asked about once")
		assert.EqualValues(t, 49, customers.Stats().Fresh)

		other := s.polar.AddKey(polartest.LicenseKey{BenefitID: teaBenefit})
		w := get(api, "X-License-Key", other.Key)
		require.Equal(t, 402, w.Code)
		assert.Equal(t, "wrong_benefit", problemOf(t, w).Reason)
		anybody := s.open(func(c *polargate.CustomersConfig) { c.Features = nil })
		assert.Equal(t, 200, get(anybody.LicenseMiddleware("X-License-Key")(served), "X-License-Key", other.Key).Code)
		w = get(anybody.LicenseMiddleware("X-License-Key", polargate.Feature("pro"))(served), "X-License-Key", other.Key)
		require.Equal(t, 402, w.Code)
		assert.Equal(t, "feature pro", problemOf(t, w).Required)
	})
}

func TestALicenseKeyThatIsNoneCostsPolarNothing(t *testing.T) {
	bubbled(t, func(t *testing.T) {
		s, _, api := keyed(t)
		s.polar.AddKey(polartest.LicenseKey{BenefitID: proBenefit})
		for _, none := range []string{"", " ", strings.Repeat("x", 100_000), "\x00", "a\xffb"} {
			w := get(api, "X-License-Key", none)
			require.Equal(t, 401, w.Code, "%.20q", none)
			assert.Equal(t, "unknown_key", problemOf(t, w).Reason)
		}
		assert.Zero(t, s.asked())
		for range 10 {
			assert.Equal(t, 401, get(api, "X-License-Key", "POLAR-GUESSED").Code)
		}
		assert.Equal(t, 1, s.polar.Count("/validate"), "a key that is not known is remembered")
		time.Sleep(31 * time.Second)
		s.polar.AddKey(polartest.LicenseKey{Key: "POLAR-GUESSED", BenefitID: proBenefit})
		assert.Equal(t, 200, get(api, "X-License-Key", "POLAR-GUESSED").Code, "but not for long")
	})
}

func TestWhoGuessesKeysShutsOutNobody(t *testing.T) {
	bubbled(t, func(t *testing.T) {
		s, customers, api := keyed(t)
		known := s.polar.AddKey(polartest.LicenseKey{BenefitID: proBenefit})
		require.Equal(t, 200, get(api, "X-License-Key", known.Key).Code)
		codes := map[int]int{}
		for i := range 2000 {
			codes[get(api, "X-License-Key", fmt.Sprint("POLAR-GUESS-", i)).Code]++
		}
		assert.Positive(t, codes[503], "they are turned away")
		assert.Less(t, s.polar.Count("/validate"), 100)
		assert.Positive(t, customers.Stats().TurnedAway)
		assert.Equal(t, 200, get(api, "X-License-Key", known.Key).Code)
		pro := customers.Middleware(byUser, polargate.Feature("pro"))(served)
		assert.Equal(t, 200, get(pro, "X-User", paying).Code, "customers that were never seen have a budget of their own")
		time.Sleep(2 * time.Hour) // past stale: it has to be asked about
		for i := range 2000 {
			get(api, "X-License-Key", fmt.Sprint("POLAR-AGAIN-", i))
		}
		assert.Equal(t, 200, get(api, "X-License-Key", known.Key).Code, "who was seen before is asked about first")
	})
}

func TestAKeyThatIsRefusedIsRefusedWithItsReasonAndNeverNamed(t *testing.T) {
	bubbled(t, func(t *testing.T) {
		s, customers, api := keyed(t)
		keys := map[string]polartest.LicenseKey{
			"expired":  s.polar.AddKey(polartest.LicenseKey{BenefitID: proBenefit, ExpiresAt: time.Now().Add(-time.Hour)}),
			"inactive": s.polar.AddKey(polartest.LicenseKey{BenefitID: proBenefit, Status: "revoked"}),
		}
		for reason, key := range keys {
			w := get(api, "X-License-Key", key.Key)
			assert.Equal(t, 402, w.Code, reason)
			body := w.Body.String()
			assert.Contains(t, body, `"reason":"`+reason+`"`)
			for _, where := range []string{body, fmt.Sprint(w.Header()), s.log.String(), fmt.Sprintf("%+v %#v", customers, customers)} {
				assert.NotContains(t, where, key.Key)
			}
			_, refusal := customers.DecideLicense(t.Context(), key.Key)
			require.NotNil(t, refusal)
			assert.Equal(t, reason, string(refusal.Reason))
			assert.NotContains(t, fmt.Sprintf("%v %+v %#v", refusal, *refusal, refusal), key.Key)
		}
	})
}

func TestALicenseKeyLastsThroughAnOutageButNotPastItsEnd(t *testing.T) {
	bubbled(t, func(t *testing.T) {
		s, _, api := keyed(t)
		lasting := s.polar.AddKey(polartest.LicenseKey{BenefitID: proBenefit})
		ending := s.polar.AddKey(polartest.LicenseKey{BenefitID: proBenefit, ExpiresAt: time.Now().Add(2 * time.Hour)})
		for _, key := range []string{lasting.Key, ending.Key} {
			require.Equal(t, 200, get(api, "X-License-Key", key).Code)
		}
		s.polar.SetOffline(true)
		time.Sleep(2*time.Hour - time.Second)
		for _, key := range []string{lasting.Key, ending.Key} {
			assert.Equal(t, 200, get(api, "X-License-Key", key).Code)
		}
		time.Sleep(2 * time.Second)
		assert.Equal(t, 200, get(api, "X-License-Key", lasting.Key).Code)
		w := get(api, "X-License-Key", ending.Key)
		require.Equal(t, 402, w.Code, "that is sure without Polar")
		assert.Equal(t, "expired", problemOf(t, w).Reason)
		time.Sleep(3 * 24 * time.Hour)
		assert.Equal(t, 503, get(api, "X-License-Key", lasting.Key).Code, "after the grace period nobody can say")
	})
}

func TestARefusalKeepsItsCauseForTheLog(t *testing.T) {
	bubbled(t, func(t *testing.T) {
		s := newShop(t)
		customers := s.open()
		s.polar.SetOffline(true)
		_, refusal := customers.Decide(t.Context(), polargate.ExternalID(paying))
		require.NotNil(t, refusal)
		require.ErrorIs(t, refusal.Err, polargate.ErrUnreachable)
		_, refusal = customers.Decide(t.Context(), polargate.CustomerID("not a uuid"))
		require.NotNil(t, refusal)
		var input *polargate.InputError
		require.ErrorAs(t, refusal.Err, &input)
		assert.Equal(t, 400, refusal.Status)
	})
}
