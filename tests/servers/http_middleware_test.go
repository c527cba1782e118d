package servers

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/polargate/polargate"
	"github.com/polargate/polargate/polartest"
	"github.com/polargate/polargate/tests/internal/kit"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func get(h http.Handler, path string, headers ...string) *httptest.ResponseRecorder {
	return send(h, http.MethodGet, path, headers...)
}

func send(h http.Handler, method, path string, headers ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, path, nil)
	for i := 0; i+1 < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

// always is a program in which one customer is signed in, whoever asks.
func always(external string) func(*http.Request) polargate.CustomerRef {
	return func(*http.Request) polargate.CustomerRef { return polargate.ExternalID(external) }
}

// byHeader is a program that trusts a header, as only tests may.
func byHeader(r *http.Request) polargate.CustomerRef {
	return polargate.ExternalID(r.Header.Get("X-User"))
}

// whoever tells whose Entitlements came with a request.
var whoever = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
	e, ok := polargate.FromContext(r.Context())
	if !ok {
		fmt.Fprint(w, "nobody")
		return
	}
	fmt.Fprint(w, e.ExternalID())
})

// problemIn is a refusal's report, without the sentence for people, which must be
// there.
func problemIn(t *testing.T, w *httptest.ResponseRecorder) map[string]any {
	t.Helper()
	assert.Equal(t, "application/problem+json", w.Header().Get("Content-Type"))
	assert.Equal(t, "no-store", w.Header().Get("Cache-Control"))
	assert.Contains(t, w.Header().Values("Vary"), "Accept")
	var problem map[string]any
	require.NoError(t, json.Unmarshal(w.Body.Bytes(), &problem))
	detail, _ := problem["detail"].(string)
	assert.NotEmpty(t, detail)
	delete(problem, "detail")
	return problem
}

func TestARefusalIsAProblemReportOfExactlyTheseFields(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := kit.NewShop(t)
		s.Polar.Inject(polartest.Fault{Path: "/usr_unlucky/state", Effect: polartest.ServerError(500)})
		customers := s.Open(func(c *polargate.CustomersConfig) { c.UpgradeURL = "https://example.com/pricing" })
		for name, c := range map[string]struct {
			ref  polargate.CustomerRef
			need []polargate.Requirement
			want map[string]any
		}{
			"nobody":                       {polargate.CustomerRef{}, nil, map[string]any{"title": "Unauthorized", "status": 401.}},
			"an empty id":                  {polargate.ExternalID(""), nil, map[string]any{"title": "Unauthorized", "status": 401.}},
			"an id that cannot be":         {polargate.ExternalID(".."), nil, map[string]any{"title": "Bad Request", "status": 400.}},
			"no UUID":                      {polargate.CustomerID("7"), nil, map[string]any{"title": "Bad Request", "status": 400.}},
			"not known, nothing required":  {polargate.ExternalID("usr_none"), nil, map[string]any{"title": "Payment Required", "status": 402., "upgrade_url": "https://example.com/pricing"}},
			"not known, a feature":         {polargate.ExternalID("usr_none"), []polargate.Requirement{polargate.Feature("pro")}, map[string]any{"title": "Payment Required", "status": 402., "required": "feature pro", "upgrade_url": "https://example.com/pricing"}},
			"known, without the feature":   {polargate.ExternalID(kit.Paying), []polargate.Requirement{polargate.Feature("gold")}, map[string]any{"title": "Payment Required", "status": 402., "required": "feature gold", "upgrade_url": "https://example.com/pricing"}},
			"known, asked for nothing met": {polargate.ExternalID(kit.Paying), []polargate.Requirement{{}}, map[string]any{"title": "Payment Required", "status": 402., "upgrade_url": "https://example.com/pricing"}},
			"nobody can say":               {polargate.ExternalID("usr_unlucky"), nil, map[string]any{"title": "Service Unavailable", "status": 503., "reason": "unreachable"}},
		} {
			handler := customers.Middleware(func(*http.Request) polargate.CustomerRef { return c.ref }, c.need...)(http.NotFoundHandler())
			w := get(handler, "/")
			c.want["type"] = "about:blank"
			assert.Equal(t, c.want, problemIn(t, w), name)
			assert.EqualValues(t, c.want["status"], w.Code, name)
			assert.Equal(t, "nosniff", w.Header().Get("X-Content-Type-Options"), name)
			if w.Code == 503 {
				seconds, err := strconv.Atoi(w.Header().Get("Retry-After"))
				require.NoError(t, err, name)
				assert.GreaterOrEqual(t, seconds, 1, name)
			} else {
				assert.Empty(t, w.Header().Values("Retry-After"), name)
			}
			time.Sleep(2 * time.Second) // past what one failure says of others
		}
	})
}

func TestRetryAfterIsPolarsAndAtLeastASecond(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		for given, want := range map[time.Duration]string{1: "1", time.Second: "1", time.Second + 1: "2", 90 * time.Second: "90", 0: ""} {
			w := httptest.NewRecorder()
			polargate.WriteRefusal(w, httptest.NewRequest("GET", "/", nil), polargate.Refusal{Status: 503, RetryAfter: given})
			assert.Equal(t, want, w.Header().Get("Retry-After"), "%s", given)
		}
		s := kit.NewShop(t)
		s.Polar.Inject(polartest.Fault{Effect: polartest.RateLimited("30")})
		handler := s.Open().Middleware(always(kit.Paying))(whoever)
		w := get(handler, "/")
		assert.Equal(t, "30", w.Header().Get("Retry-After"))
		assert.Equal(t, "rate_limited", problemIn(t, w)["reason"])
		time.Sleep(29*time.Second + 500*time.Millisecond)
		assert.Equal(t, "1", get(handler, "/").Header().Get("Retry-After"), "half a second is rounded up")
	})
}

func TestTheFirstRequirementThatIsNotMetIsNamed(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := kit.NewShop(t)
		customers := s.Warmed()
		pro, gold, tea := polargate.Feature("pro"), polargate.Feature("gold"), polargate.Benefit(kit.TeaBenefit)
		for name, c := range map[string]struct {
			need []polargate.Requirement
			want string
		}{
			"the second of two":          {[]polargate.Requirement{pro, gold, tea}, "feature gold"},
			"the first of two":           {[]polargate.Requirement{tea, gold}, "benefit " + kit.TeaBenefit},
			"inside All":                 {[]polargate.Requirement{polargate.All(pro, gold)}, "feature gold"},
			"inside All inside All":      {[]polargate.Requirement{pro, polargate.All(pro, polargate.All(pro, tea), gold)}, "benefit " + kit.TeaBenefit},
			"all of Any":                 {[]polargate.Requirement{polargate.Any(gold, tea)}, "one of feature gold, benefit " + kit.TeaBenefit},
			"Any inside All":             {[]polargate.Requirement{polargate.All(pro, polargate.Any(gold, tea))}, "one of feature gold, benefit " + kit.TeaBenefit},
			"Any of All":                 {[]polargate.Requirement{polargate.Any(polargate.All(pro, gold))}, "one of feature pro and feature gold"},
			"a meter":                    {[]polargate.Requirement{polargate.Meter(kit.CallsMeter, 100.5)}, "meter " + kit.CallsMeter + " of at least 100.5"},
			"a meter that nobody has":    {[]polargate.Requirement{polargate.Meter(kit.TeaBenefit, 0)}, "meter " + kit.TeaBenefit + " of at least 0"},
			"a product, in capitals":     {[]polargate.Requirement{polargate.Product(strings.ToUpper(kit.TeaBenefit))}, "product " + kit.TeaBenefit},
			"a name that JSON must hide": {[]polargate.Requirement{polargate.Feature("\"<a>\n\xff")}, "feature \"<a>\n\ufffd"},
			"what never can be":          {[]polargate.Requirement{polargate.Any()}, "nothing that can be met"},
		} {
			w := get(customers.Middleware(always(kit.Paying), c.need...)(whoever), "/")
			assert.Equal(t, 402, w.Code, name)
			assert.Equal(t, c.want, problemIn(t, w)["required"], name)
		}
		for name, need := range map[string][]polargate.Requirement{
			"nothing": nil, "All of nothing": {polargate.All()}, "one of two": {polargate.Any(gold, pro)}, "exactly what is left": {polargate.Meter(kit.CallsMeter, 100)},
		} {
			assert.Equal(t, kit.Paying, get(customers.Middleware(always(kit.Paying), need...)(whoever), "/").Body.String(), name)
		}
	})
}

func TestOnlyABrowserThatOpensAPageIsRedirectedToTheUpgradePage(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := kit.NewShop(t)
		customers := s.Warmed()
		const browser = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"
		for name, c := range map[string]struct {
			method, accept, upgrade string
			ref                     polargate.CustomerRef
			want                    int
		}{
			"a browser":                        {"GET", browser, "/pricing", polargate.ExternalID(kit.Paying), 303},
			"a browser that asks for the head": {"HEAD", browser, "/pricing", polargate.ExternalID(kit.Paying), 303},
			"in capitals":                      {"GET", "TEXT/HTML", "https://example.com/", polargate.ExternalID(kit.Paying), 303},
			"a page rather than JSON":          {"GET", "text/html, application/json", "/pricing", polargate.ExternalID(kit.Paying), 303},
			"without an upgrade page":          {"GET", browser, "", polargate.ExternalID(kit.Paying), 402},
			"a form":                           {"POST", browser, "/pricing", polargate.ExternalID(kit.Paying), 402},
			"a change":                         {"DELETE", browser, "/pricing", polargate.ExternalID(kit.Paying), 402},
			"JSON":                             {"GET", "application/json", "/pricing", polargate.ExternalID(kit.Paying), 402},
			"JSON rather than a page":          {"GET", "application/json, text/html;q=0.5", "/pricing", polargate.ExternalID(kit.Paying), 402},
			"JSON rather, by weight":           {"GET", "text/html;q=0.1, application/json;q=0.2", "/pricing", polargate.ExternalID(kit.Paying), 402},
			"no page at all":                   {"GET", "text/html;q=0, application/json", "/pricing", polargate.ExternalID(kit.Paying), 402},
			"a page alone, but none":           {"GET", "text/html;q=0", "/pricing", polargate.ExternalID(kit.Paying), 402},
			"a page rather, by weight":         {"GET", "application/json;q=0.1, text/html ; charset=utf-8 ; Q=0.9", "/pricing", polargate.ExternalID(kit.Paying), 303},
			"a weight that is none":            {"GET", "text/html;q=NaN, application/json;q=x", "/pricing", polargate.ExternalID(kit.Paying), 402},
			"nonsense beside a page":           {"GET", ";,/,text/html;=,a/b;c, text/html", "/pricing", polargate.ExternalID(kit.Paying), 303},
			"a problem report":                 {"GET", "application/problem+json", "/pricing", polargate.ExternalID(kit.Paying), 402},
			"anything":                         {"GET", "*/*", "/pricing", polargate.ExternalID(kit.Paying), 402},
			"nothing said":                     {"GET", "", "/pricing", polargate.ExternalID(kit.Paying), 402},
			"nobody signed in":                 {"GET", browser, "/pricing", polargate.CustomerRef{}, 401},
			"an id that cannot be":             {"GET", browser, "/pricing", polargate.ExternalID("/"), 400},
		} {
			handler := customers.Route(polargate.Route{
				Customer:   func(*http.Request) polargate.CustomerRef { return c.ref },
				Require:    []polargate.Requirement{polargate.Feature("gold")},
				UpgradeURL: c.upgrade,
			})(whoever)
			w := send(handler, c.method, "/export?x=1", "Accept", c.accept)
			assert.Equal(t, c.want, w.Code, name)
			assert.Equal(t, "no-store", w.Header().Get("Cache-Control"), name)
			assert.Contains(t, w.Header().Values("Vary"), "Accept", name)
			if c.want == 303 {
				assert.Equal(t, c.upgrade, w.Header().Get("Location"), name)
			} else {
				assert.Empty(t, w.Header().Get("Location"), name)
			}
			if c.method == "HEAD" {
				assert.Zero(t, w.Body.Len(), name)
			}
			if c.want == 401 || c.want == 400 {
				assert.NotContains(t, w.Body.String(), "pricing", name)
			}
		}
		s.Polar.SetOffline(true)
		handler := customers.Route(polargate.Route{Customer: always("usr_new"), UpgradeURL: "/pricing"})(whoever)
		assert.Equal(t, 503, get(handler, "/", "Accept", browser).Code, "who may have paid is not told to pay")
	})
}

func TestARefusedHeadHasNoBody(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		handler := kit.NewShop(t).Open().Middleware(byHeader, polargate.Feature("gold"))(whoever)
		for user, want := range map[string]int{"": 401, "..": 400, kit.Paying: 402} {
			w := send(handler, http.MethodHead, "/", "X-User", user)
			assert.Equal(t, want, w.Code)
			assert.Zero(t, w.Body.Len())
			assert.Equal(t, "application/problem+json", w.Header().Get("Content-Type"))
		}
	})
}

func TestCacheHeadersSetBeforeARefusalAreKeptOrMadeStricter(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		gate := kit.NewShop(t).Open().Middleware(byHeader)(whoever)
		outer := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Vary", "Origin")
			w.Header().Set("Cache-Control", "public, max-age=600")
			gate.ServeHTTP(w, r)
		})
		w := get(outer, "/")
		assert.Equal(t, []string{"Origin", "Accept"}, w.Header().Values("Vary"))
		assert.Equal(t, []string{"no-store"}, w.Header().Values("Cache-Control"))
		w = get(outer, "/", "X-User", kit.Paying)
		assert.Equal(t, []string{"public, max-age=600"}, w.Header().Values("Cache-Control"), "who is let in gets the handler's answer, untouched")
	})
}

func TestAProgramsOwnRefusalReplacesOursPerRouteAndForAll(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := kit.NewShop(t)
		var told polargate.Refusal
		own := func(code int) func(http.ResponseWriter, *http.Request, polargate.Refusal) {
			return func(w http.ResponseWriter, _ *http.Request, refusal polargate.Refusal) {
				told = refusal
				w.WriteHeader(code)
			}
		}
		customers := s.Warmed(func(c *polargate.CustomersConfig) { c.Refuse, c.UpgradeURL = own(418), "/all" })
		gold := []polargate.Requirement{polargate.Feature("gold")}
		assert.Equal(t, 418, get(customers.Middleware(always(kit.Paying), gold...)(whoever), "/").Code)
		assert.Equal(t, "/all", told.UpgradeURL)
		assert.Equal(t, 402, told.Status)
		assert.Equal(t, "feature gold", told.Required.String())
		assert.Equal(t, kit.Paying, told.Entitlements.ExternalID())
		handler := customers.Route(polargate.Route{Customer: always(kit.Paying), Require: gold, Refuse: own(419), UpgradeURL: "/one"})(whoever)
		assert.Equal(t, 419, get(handler, "/").Code)
		assert.Equal(t, "/one", told.UpgradeURL)
		handler = customers.Route(polargate.Route{Customer: always(kit.Paying), Spend: polargate.Cost{MeterID: kit.CallsMeter, Units: 101}})(whoever)
		assert.Equal(t, 418, get(handler, "/").Code)
		assert.Equal(t, "meter "+kit.CallsMeter+" of at least 101", told.Required.String())
		assert.Equal(t, "/all", told.UpgradeURL, "also where units are missing")
		s.Polar.SetOffline(true)
		assert.Equal(t, 418, get(customers.Middleware(always("usr_new"))(whoever), "/").Code)
		require.ErrorIs(t, told.Err, polargate.ErrUnreachable)
		assert.Equal(t, polargate.ErrUnreachable, told.Reason)
		assert.Nil(t, told.Entitlements)
		assert.GreaterOrEqual(t, told.RetryAfter, time.Second)
	})
}

func TestDecideAgreesWithTheMiddleware(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := kit.NewShop(t)
		customers := s.Open(func(c *polargate.CustomersConfig) { c.UpgradeURL = "/pricing" })
		e, refusal := customers.Decide(t.Context(), polargate.ExternalID(kit.Paying), polargate.Feature("pro"))
		require.Nil(t, refusal)
		assert.Equal(t, kit.Paying, e.ExternalID())
		for _, c := range []struct {
			user string
			want int
		}{{"", 401}, {"..", 400}, {kit.Paying, 402}, {"usr_none", 402}} {
			e, refusal := customers.Decide(t.Context(), polargate.ExternalID(c.user), polargate.Feature("gold"))
			require.NotNil(t, refusal)
			assert.Nil(t, e)
			assert.Equal(t, c.want, refusal.Status)
			assert.Equal(t, "/pricing", refusal.UpgradeURL, "as the configuration says for refusals")
			w := httptest.NewRecorder()
			polargate.WriteRefusal(w, httptest.NewRequest("GET", "/", nil), *refusal)
			through := get(customers.Middleware(byHeader, polargate.Feature("gold"))(whoever), "/", "X-User", c.user)
			assert.Equal(t, through.Code, w.Code)
			assert.Equal(t, through.Body.String(), w.Body.String())
		}
	})
}

func TestOnlyARouteThatChoseToFailsOpenAndOnlyDuringAnOutage(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := kit.NewShop(t)
		customers := s.Warmed()
		open := customers.Route(polargate.Route{Customer: byHeader, Require: []polargate.Requirement{polargate.Feature("gold")}, FailOpen: true})(whoever)
		shut := customers.Route(polargate.Route{Customer: byHeader})(whoever)
		assert.Equal(t, 402, get(open, "/", "X-User", kit.Paying).Code, "Polar said no")
		assert.Equal(t, 402, get(open, "/", "X-User", "usr_none").Code)
		s.Polar.SetOffline(true)
		assert.Equal(t, 402, get(open, "/", "X-User", kit.Paying).Code, "what is cached still counts")
		assert.Equal(t, 401, get(open, "/").Code, "nobody stays nobody")
		assert.Equal(t, 400, get(open, "/", "X-User", "..").Code)
		w := get(open, "/", "X-User", "usr_new")
		assert.Equal(t, 200, w.Code)
		assert.Equal(t, "nobody", w.Body.String(), "without Entitlements")
		assert.Equal(t, 503, get(shut, "/", "X-User", "usr_new").Code)
		spending := customers.Route(polargate.Route{Customer: byHeader, FailOpen: true, Spend: polargate.Cost{MeterID: kit.CallsMeter, Units: 1}})(whoever)
		assert.Equal(t, "nobody", get(spending, "/", "X-User", "usr_new").Body.String())
		assert.Equal(t, kit.Paying, get(spending, "/", "X-User", kit.Paying).Body.String())
		assert.Equal(t, 401, get(customers.Route(polargate.Route{LicenseKey: func(*http.Request) string { return " " }, FailOpen: true})(whoever), "/").Code)
	})
}

// router is how gorilla/mux takes middleware, and chained how chi and alice do.
type (
	middleware func(http.Handler) http.Handler
	router     struct{ uses []middleware }
	chained    []func(http.Handler) http.Handler
)

func (r *router) Use(of ...middleware) { r.uses = append(r.uses, of...) }

func (r *router) Handler(h http.Handler) http.Handler {
	for _, m := range slices.Backward(r.uses) {
		h = m(h)
	}
	return h
}

func (c chained) Then(h http.Handler) http.Handler {
	for _, m := range slices.Backward(c) {
		h = m(h)
	}
	return h
}

func TestMiddlewareFitsRoutersThatAreNotImportedHere(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := kit.NewShop(t)
		s.Add("usr_other")
		customers := s.Open()
		type user struct{}
		signIn := func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), user{}, r.Header.Get("X-User"))))
			})
		}
		signedIn := func(r *http.Request) polargate.CustomerRef {
			id, _ := r.Context().Value(user{}).(string)
			return polargate.ExternalID(id)
		}
		pro := customers.Middleware(signedIn, polargate.Feature("pro"))
		export := customers.Middleware(signedIn, polargate.Feature("export"))
		gold := customers.Middleware(signedIn, polargate.Feature("gold"))
		var gorilla router
		gorilla.Use(signIn, pro)
		gorilla.Use(export)
		for name, handler := range map[string]http.Handler{
			"a router that is told to use it": gorilla.Handler(whoever),
			"a chain":                         chained{signIn, pro, export}.Then(whoever),
			"by hand":                         signIn(pro(export(whoever))),
		} {
			assert.Equal(t, kit.Paying, get(handler, "/", "X-User", kit.Paying).Body.String(), name)
			assert.Equal(t, "usr_other", get(handler, "/", "X-User", "usr_other").Body.String(), name)
			assert.Equal(t, 401, get(handler, "/").Code, name)
		}
		assert.Equal(t, 402, get(chained{signIn, pro, gold}.Then(whoever), "/", "X-User", kit.Paying).Code, "all of the chain must let pass")
		assert.Equal(t, 401, get(chained{pro, signIn}.Then(whoever), "/", "X-User", kit.Paying).Code, "in the wrong order nobody is signed in yet")
	})
}

func TestMiddlewareKeepsThePatternsOfAMux(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := kit.NewShop(t)
		customers := s.Open()
		byPath := customers.Middleware(func(r *http.Request) polargate.CustomerRef { return polargate.ExternalID(r.PathValue("user")) }, polargate.Feature("pro"))
		mux := http.NewServeMux()
		mux.Handle("GET /users/{user}/files/{rest...}", byPath(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprint(w, r.Pattern, " ", r.PathValue("rest"))
		})))
		mux.Handle("/static/", http.StripPrefix("/static", customers.Middleware(always(kit.Paying))(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprint(w, r.URL.Path)
		}))))
		assert.Equal(t, "GET /users/{user}/files/{rest...} a/b", get(mux, "/users/"+kit.Paying+"/files/a/b").Body.String())
		assert.Equal(t, 402, get(mux, "/users/usr_none/files/a").Code)
		assert.Equal(t, 405, send(mux, http.MethodPost, "/users/"+kit.Paying+"/files/a").Code)
		assert.Equal(t, "/a.css", get(mux, "/static/a.css").Body.String())
		// The whole mux behind one.
		assert.Equal(t, 401, get(customers.Middleware(byHeader)(mux), "/static/a.css").Code)
	})
}

func TestEntitlementsAreInTheContextOfTheRequestAlone(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		customers := kit.NewShop(t).Open()
		_, ok := polargate.FromContext(t.Context())
		assert.False(t, ok)
		outer := httptest.NewRequest(http.MethodGet, "/", nil)
		customers.Middleware(always(kit.Paying))(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			ctx, cancel := context.WithCancel(r.Context())
			defer cancel()
			e, ok := polargate.FromContext(ctx)
			assert.True(t, ok)
			assert.True(t, e.Has("export"))
		})).ServeHTTP(httptest.NewRecorder(), outer)
		_, ok = polargate.FromContext(outer.Context())
		assert.False(t, ok, "the request that came in is left as it was")
	})
}

func TestARouteThatCannotWorkPanicsWhenItIsMade(t *testing.T) {
	t.Parallel()
	customers := kit.NewShop(t).Open()
	key := func(*http.Request) string { return "" }
	for name, make := range map[string]func(){
		"neither":         func() { customers.Route(polargate.Route{}) },
		"both":            func() { customers.Route(polargate.Route{Customer: byHeader, LicenseKey: key}) },
		"nobody resolves": func() { customers.Middleware(nil) },
		"no header":       func() { customers.LicenseMiddleware("") },
		"a key that spends": func() {
			customers.Route(polargate.Route{LicenseKey: key, Spend: polargate.Cost{MeterID: kit.CallsMeter, Units: 1}})
		},
		"no units": func() {
			customers.Route(polargate.Route{Customer: byHeader, Spend: polargate.Cost{MeterID: kit.CallsMeter}})
		},
		"units below nothing": func() {
			customers.Route(polargate.Route{Customer: byHeader, Spend: polargate.Cost{MeterID: kit.CallsMeter, Units: -1}})
		},
		"units without end": func() {
			customers.Route(polargate.Route{Customer: byHeader, Spend: polargate.Cost{MeterID: kit.CallsMeter, Units: math.Inf(1)}})
		},
		"more units than can be": func() {
			customers.Route(polargate.Route{Customer: byHeader, Spend: polargate.Cost{MeterID: kit.CallsMeter, Units: 1e16}})
		},
		"a meter that cannot be": func() {
			customers.Route(polargate.Route{Customer: byHeader, Spend: polargate.Cost{MeterID: "calls", Units: 1}})
		},
		"a feature without a name": func() { customers.Middleware(byHeader, polargate.Feature("")) },
		"a benefit's name":         func() { customers.Middleware(byHeader, polargate.Benefit("Pro plan")) },
		"a product's id cut short": func() { customers.LicenseMiddleware("X-License-Key", polargate.Product(kit.ProBenefit[:35])) },
		"a mistake deep inside": func() {
			customers.Middleware(byHeader, polargate.Any(polargate.Feature("pro"), polargate.All(polargate.Meter("", 1))))
		},
		"an amount that is none": func() { customers.Middleware(byHeader, polargate.Meter(kit.CallsMeter, math.NaN())) },
		"a page that is nowhere": func() { customers.Route(polargate.Route{Customer: byHeader, UpgradeURL: "example.com/plans"}) },
	} {
		assert.Panics(t, make, name)
	}
	for _, need := range []polargate.Requirement{{}, polargate.Any(), polargate.All(), polargate.Benefit(strings.ToUpper(kit.ProBenefit)), polargate.Meter(kit.CallsMeter, 0)} {
		assert.NoError(t, need.Validate())
		assert.NotPanics(t, func() { customers.Middleware(byHeader, need) })
	}
}

func TestARouteKeepsItsOwnRequirements(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		customers := kit.NewShop(t).Open()
		needs := []polargate.Requirement{polargate.Feature("gold")}
		gold := customers.Route(polargate.Route{Customer: byHeader, Require: needs})(whoever)
		needs[0] = polargate.Feature("pro") // for the next route, in a program that saves on slices
		pro := customers.Middleware(byHeader, needs...)(whoever)
		for range 2 { // cold, then from memory
			assert.Equal(t, 402, get(gold, "/", "X-User", kit.Paying).Code)
			assert.Equal(t, 200, get(pro, "/", "X-User", kit.Paying).Code)
		}
		assert.Equal(t, "feature gold", problemIn(t, get(gold, "/", "X-User", kit.Paying))["required"])
	})
}

func TestAFeatureThatNothingUnlocksIsSaidInTheLog(t *testing.T) {
	t.Parallel()
	s := kit.NewShop(t)
	customers := s.Open()
	customers.Middleware(byHeader, polargate.Feature("pro"), polargate.Benefit(kit.TeaBenefit))
	assert.Empty(t, s.Log.String())
	customers.Middleware(byHeader, polargate.All(polargate.Feature("export"), polargate.Any(polargate.Feature("exprot"))))
	assert.Equal(t, 1, strings.Count(s.Log.String(), "\n"), s.Log)
	assert.Contains(t, s.Log.String(), "exprot")
}

func TestARouteThatFailsOpenShowsNoEntitlementsOfARouteAroundIt(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := kit.NewShop(t)
		customers := s.Warmed()
		s.Polar.SetOffline(true)
		outer := customers.Middleware(always(kit.Paying))
		inner := customers.Route(polargate.Route{Customer: always("usr_new"), FailOpen: true})
		w := get(outer(inner(whoever)), "/")
		assert.Equal(t, 200, w.Code)
		assert.Equal(t, "nobody", w.Body.String())
	})
}

func TestStatsCountRefusedRequests(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := kit.NewShop(t)
		customers := s.Warmed()
		pro := customers.Middleware(byHeader, polargate.Feature("pro"))(whoever)
		gold := customers.Middleware(byHeader, polargate.Feature("gold"))(whoever)
		dear := customers.Route(polargate.Route{Customer: byHeader, Spend: polargate.Cost{MeterID: kit.CallsMeter, Units: 1000}})(whoever)
		open := customers.Route(polargate.Route{Customer: byHeader, FailOpen: true})(whoever)
		get(pro, "/", "X-User", kit.Paying)
		get(pro, "/")
		get(pro, "/", "X-User", "..")
		get(gold, "/", "X-User", kit.Paying)
		get(dear, "/", "X-User", kit.Paying)
		get(gold, "/", "X-User", "usr_none")
		s.Polar.SetOffline(true)
		for range 4 {
			get(pro, "/", "X-User", "usr_new")
		}
		for range 5 {
			get(open, "/", "X-User", "usr_new")
		}
		stats := customers.Stats()
		assert.Equal(t, []int64{2, 3, 4, 5}, []int64{stats.Unidentified, stats.Unpaid, stats.Undecided, stats.FailedOpen})
	})
}

func TestARequestWithAnIdThatCannotBeOneIsLoggedAtMostOnceAMinute(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := kit.NewShop(t)
		gate := s.Open().Middleware(byHeader)(whoever)
		for range 59 {
			assert.Equal(t, 400, get(gate, "/", "X-User", "ada/lovelace").Code)
			time.Sleep(time.Second)
		}
		assert.Equal(t, 1, strings.Count(s.Log.String(), "\n"), s.Log)
		time.Sleep(time.Second)
		get(gate, "/", "X-User", "ada/lovelace")
		assert.Equal(t, 2, strings.Count(s.Log.String(), "\n"), s.Log)
		assert.Contains(t, s.Log.String(), "slash")
		assert.NotContains(t, s.Log.String(), "lovelace")
	})
}

func TestALoggedRefusalNamesTheRequirement(t *testing.T) {
	t.Parallel()
	assert.Contains(t, polargate.Refusal{Status: 402, Required: polargate.Feature("pro")}.LogValue().String(), "feature pro")
	assert.NotContains(t, polargate.Refusal{Status: 503}.LogValue().String(), "nothing")
}

func TestANilHandlerTakesNothing(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		customers := kit.NewShop(t).Warmed()
		assert.Panics(t, func() {
			get(customers.Route(polargate.Route{Customer: always(kit.Paying), Spend: polargate.Cost{MeterID: kit.CallsMeter, Units: 1}})(nil), "/")
		})
		assert.InDelta(t, 100, balanceOf(t, customers), 0)
	})
}

func TestACanceledRequestDoesNotAffectOthers(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := kit.NewShop(t)
		s.Polar.Inject(polartest.Fault{Times: 1, Effect: polartest.Delay(3 * time.Second)})
		customers := s.Open()
		var told polargate.Refusal
		impatient := customers.Route(polargate.Route{Customer: always(kit.Paying), Refuse: func(_ http.ResponseWriter, _ *http.Request, r polargate.Refusal) { told = r }})(whoever)
		patient := customers.Middleware(always(kit.Paying))(whoever)
		at := time.Now()
		var group sync.WaitGroup
		group.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			impatient.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/", nil).WithContext(ctx))
			assert.Equal(t, time.Second, time.Since(at))
			assert.Equal(t, 503, told.Status)
			require.ErrorIs(t, told.Err, context.DeadlineExceeded)
		})
		group.Go(func() { assert.Equal(t, kit.Paying, get(patient, "/").Body.String()) })
		group.Wait()
		assert.Equal(t, 1, s.Asked())
		gone, cancel := context.WithCancel(t.Context())
		cancel()
		w := httptest.NewRecorder()
		impatient.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/", nil).WithContext(gone))
		assert.Equal(t, kit.Paying, w.Body.String(), "what is cached needs no time")
	})
}

func TestAPanicOnTheWayToPolarIsA503(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := kit.NewShop(t)
		customers := s.Open(func(c *polargate.CustomersConfig) {
			c.HTTPClient = &http.Client{Transport: kit.RoundTripper(func(r *http.Request) (*http.Response, error) {
				body, _ := io.ReadAll(r.Body)
				panic("on fire at " + r.URL.String() + " with " + string(body))
			})}
		})
		for range 3 {
			assert.Equal(t, 503, get(customers.Middleware(always(kit.Paying))(whoever), "/").Code)
			assert.Equal(t, 503, get(customers.LicenseMiddleware("X-License-Key")(whoever), "/", "X-License-Key", secretKey).Code)
			time.Sleep(10 * time.Second)
		}
		for _, secret := range []string{secretKey, kit.Paying, s.Config.AccessToken} {
			assert.NotContains(t, s.Log.String(), secret)
		}
	})
}

// A caller who hangs up while Polar is asked must not have the handler run for it.
func TestARequestThatIsGivenUpDoesNotPassARouteThatFailsOpen(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s, _ := sold(t)
		s.Polar.Inject(polartest.Fault{Effect: polartest.Hang()})
		customers := s.Open()
		for name, route := range map[string]polargate.Route{
			"a made-up key":         {FailOpen: true, LicenseKey: func(*http.Request) string { return "MADE-UP" }},
			"a customer not cached": {FailOpen: true, Customer: always(kit.Paying), Spend: polargate.Cost{MeterID: kit.CallsMeter, Units: 1000}},
		} {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			w := httptest.NewRecorder()
			customers.Route(route)(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error(name, "is served") })).
				ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/", nil).WithContext(ctx))
			cancel()
			assert.Equal(t, 503, w.Code, name)
		}
	})
}

// failsOpen is a route of license keys that fails open.
func failsOpen(customers *polargate.Customers) http.Handler {
	return customers.Route(polargate.Route{LicenseKey: func(r *http.Request) string { return r.Header.Get("X-License-Key") }, FailOpen: true})(whoever)
}

func TestAServerThatIsBusyDoesNotOpenARouteThatFailsOpen(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s, _ := sold(t)
		customers := s.Open(func(c *polargate.CustomersConfig) { c.FreshFor = time.Minute })
		const crowd = 230 // whom to know takes nearly all of 240 a minute
		for i := range crowd {
			s.Add(fmt.Sprint("usr_", i))
		}
		stop := make(chan struct{})
		var visitors sync.WaitGroup
		visitors.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				case <-time.After(time.Second / crowd):
					_, _ = customers.Entitlements(t.Context(), polargate.ExternalID(fmt.Sprint("usr_", i%crowd)))
				}
			}
		})
		time.Sleep(5 * time.Minute)
		var opened atomic.Int64
		var made sync.WaitGroup
		for i := range 3000 {
			made.Go(func() {
				if get(failsOpen(customers), "/", "X-License-Key", fmt.Sprint("MADE-UP-", i)).Code == 200 {
					opened.Add(1)
				}
			})
			time.Sleep(50 * time.Millisecond)
		}
		made.Wait()
		close(stop)
		visitors.Wait()
		assert.Zero(t, opened.Load(), "Polar was there all the time")
	})
}

func TestASmallerLimitOfTheSameTokenBoundsNewCustomersToo(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s, _ := sold(t)
		customers := s.Warmed()
		_, err := polargate.NewClient(polargate.ClientConfig{
			OrganizationID: s.Polar.OrganizationID(), AccessToken: s.Config.AccessToken, BaseURL: s.Polar.URL(), HTTPClient: s.Polar.Client(), RequestsPerMinute: 60,
		})
		require.NoError(t, err)
		var group sync.WaitGroup
		for i := range 1200 {
			group.Go(func() {
				assert.NotEqual(t, 200, get(failsOpen(customers), "/", "X-License-Key", fmt.Sprint("MADE-UP-", i)).Code)
			})
			if i%100 == 99 {
				e, err := customers.Refresh(t.Context(), polargate.ExternalID(kit.Paying))
				require.NoError(t, err)
				assert.Less(t, time.Since(e.CheckedAt()), 10*time.Second, "half is left for those who are known")
			}
			time.Sleep(50 * time.Millisecond)
		}
		group.Wait()
	})
}

func TestAnOutageOpensARouteThatFailsOpenToEverybody(t *testing.T) {
	for _, perMinute := range []int{20, 100, 300} {
		t.Run(fmt.Sprint(perMinute, " a minute"), func(t *testing.T) {
			kit.Bubbled(t, func(t *testing.T) {
				s, _ := sold(t)
				customers := s.Open(func(c *polargate.CustomersConfig) { c.RequestsPerMinute = perMinute })
				s.Polar.SetOffline(true)
				for i := range 600 {
					require.Equal(t, 200, get(failsOpen(customers), "/", "X-License-Key", fmt.Sprint("NEW-", i)).Code, i)
					time.Sleep(100 * time.Millisecond)
				}
				s.Polar.SetOffline(false)
				time.Sleep(time.Minute)
				assert.Equal(t, 401, get(failsOpen(customers), "/", "X-License-Key", "MADE-UP-1").Code)
			})
		})
	}
}

func TestSpendingEventsAndRefreshesAtOnceLeaveEverybodyWithAnAnswer(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s, _ := sold(t)
		customers := s.Warmed(func(c *polargate.CustomersConfig) { c.CacheSize = 64 })
		received(t, s, customers)
		spend := customers.Route(polargate.Route{
			Customer: byHeader, Require: []polargate.Requirement{polargate.Meter(kit.CallsMeter, 0)}, Spend: polargate.Cost{MeterID: kit.CallsMeter, Units: 0.5},
		})(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			e, ok := polargate.FromContext(r.Context())
			m, has := e.Meter(kit.CallsMeter)
			assert.True(t, ok && has && m.Balance >= 0)
			_, _, _ = fmt.Sprint(e), e.Benefits(), e.Meters()
			if r.Header.Get("X-Fail") != "" {
				w.WriteHeader(500)
			}
		}))
		var group sync.WaitGroup
		for i := range 40 {
			group.Go(func() {
				for j := range 25 {
					fail := []string{"", "yes"}[(i+j)%2]
					assert.Contains(t, []int{200, 402, 500}, get(spend, "/", "X-User", kit.Paying, "X-Fail", fail).Code)
				}
			})
		}
		for range 4 {
			group.Go(func() {
				for range 20 {
					s.Polar.DebitMeter(kit.Paying, kit.CallsMeter, 1)
					time.Sleep(time.Second)
				}
			})
			group.Go(func() {
				for range 20 {
					_, err := customers.Refresh(t.Context(), polargate.ExternalID(kit.Paying))
					assert.NoError(t, err)
					giveBack, _, err := customers.Spend(t.Context(), polargate.ExternalID(kit.Paying), kit.CallsMeter, 0.5)
					assert.NoError(t, err)
					giveBack()
					assert.Equal(t, 200, keyed(customers, secretKey).Code)
					_ = customers.Stats()
					time.Sleep(700 * time.Millisecond)
				}
			})
		}
		group.Wait()
		require.NoError(t, s.Polar.WaitForDeliveries(t.Context()))
		forgotten(t, customers)
		assert.InDelta(t, 20, balanceOf(t, customers), 0, "what Polar said last counts")
		assert.Zero(t, customers.Stats().Panics)
	})
}

// What a route has decided on cannot be pushed out of the cache between that and
// the cost: a customer who paid is not told to pay.
func TestACustomerEvictedFromTheCacheIsNotAskedToPay(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := kit.NewShop(t)
		const many = 40
		customers := s.Open(func(c *polargate.CustomersConfig) { c.CacheSize, c.RequestsPerMinute = 4, 1_000_000 })
		for i := range many {
			s.Add(fmt.Sprint("usr_", i))
		}
		spend := customers.Route(polargate.Route{Customer: byHeader, Spend: polargate.Cost{MeterID: kit.CallsMeter, Units: 1}})(whoever)
		var group sync.WaitGroup
		for i := range many {
			group.Go(func() {
				for range 5 {
					assert.Equal(t, 200, get(spend, "/", "X-User", fmt.Sprint("usr_", i)).Code)
					_, ok, err := customers.Spend(t.Context(), polargate.ExternalID(fmt.Sprint("usr_", i)), kit.CallsMeter, 1)
					assert.NoError(t, err)
					assert.True(t, ok)
				}
			})
		}
		group.Wait()
	})
}

func TestARefusalMadeByHandIsWrittenWhateverIsInIt(t *testing.T) {
	t.Parallel()
	for name, refusal := range map[string]polargate.Refusal{
		"nothing":             {},
		"a word not known":    {Status: 402, Reason: "tomorrow"},
		"everything":          {Status: 402, Reason: polargate.ErrExpired, Required: polargate.All(polargate.Any(), polargate.Feature("x")), UpgradeURL: "%zz", RetryAfter: 1 << 62},
		"no time at all":      {Status: 503, RetryAfter: -1},
		"an error with words": {Status: 503, Err: errors.New("secret words")},
	} {
		w := httptest.NewRecorder()
		require.NotPanics(t, func() { polargate.WriteRefusal(w, httptest.NewRequest("GET", "/", nil), refusal) }, name)
		problemIn(t, w)
		assert.GreaterOrEqual(t, w.Code, 400, name)
		assert.NotContains(t, w.Body.String(), "secret words", name)
	}
}

func TestClosedCustomersServeTheCacheAndElse503(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		customers := kit.NewShop(t).Warmed()
		require.NoError(t, customers.Close())
		handler := customers.Middleware(byHeader)(whoever)
		assert.Equal(t, kit.Paying, get(handler, "/", "X-User", kit.Paying).Body.String())
		w := get(handler, "/", "X-User", "usr_new")
		assert.Equal(t, 503, w.Code)
		assert.Equal(t, "closed", problemIn(t, w)["reason"])
	})
}

func TestTheContextThatTheHandlerGetsIsStillTheRequests(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		type key struct{}
		customers := kit.NewShop(t).Warmed()
		ctx, cancel := context.WithCancelCause(context.WithValue(t.Context(), key{}, "from outside"))
		reason := errors.New("the client has gone")
		handler := customers.Middleware(byHeader)(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			inner, stop := context.WithCancel(r.Context())
			defer stop()
			assert.Equal(t, "from outside", inner.Value(key{}))
			assert.Nil(t, inner.Value(struct{ other int }{}))
			e, ok := polargate.FromContext(inner)
			assert.True(t, ok)
			assert.Equal(t, kit.Paying, e.ExternalID())
			assert.NotContains(t, fmt.Sprint(inner), kit.Paying, "who it is does not get into a log with it")
			cancel(reason)
			<-inner.Done()
			assert.Equal(t, reason, context.Cause(inner))
		}))
		r := httptest.NewRequestWithContext(ctx, http.MethodGet, "/", nil)
		r.Header.Set("X-User", kit.Paying)
		handler.ServeHTTP(httptest.NewRecorder(), r)
		require.ErrorIs(t, ctx.Err(), context.Canceled, "the handler has run")
	})
}
