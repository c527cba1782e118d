package servers

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/polargate/polargate"
	"github.com/polargate/polargate/tests/internal/kit"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const (
	browser = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8"
	turbo   = "text/html, application/xhtml+xml"
)

// pageIn is a refusal as a person sees it: its heading and all of it, which must be a
// page that loads nothing.
func pageIn(t *testing.T, w *httptest.ResponseRecorder) (heading, all string) {
	t.Helper()
	assert.Equal(t, "text/html; charset=utf-8", w.Header().Get("Content-Type"))
	assert.Equal(t, "no-store", w.Header().Get("Cache-Control"))
	assert.Equal(t, "nosniff", w.Header().Get("X-Content-Type-Options"))
	assert.Contains(t, w.Header().Values("Vary"), "Accept")
	assert.Contains(t, w.Header().Get("Content-Security-Policy"), "default-src 'none'")
	all = w.Body.String()
	for _, part := range []string{"<!doctype html>", `<html lang="en">`, `name="viewport"`, "<title>", "<main>"} {
		assert.Contains(t, all, part)
	}
	for _, part := range []string{"<script", " src=", "<link", "url("} {
		assert.NotContains(t, all, part)
	}
	_, heading, _ = strings.Cut(all, "<h1>")
	heading, _, ok := strings.Cut(heading, "</h1>")
	assert.True(t, ok)
	assert.Contains(t, all, "<title>"+heading+"</title>")
	return heading, all
}

func TestABrowserIsRefusedWithAPageInPlainWords(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s, key := sold(t)
		s.Polar.Revoke(key.ID)
		customers := s.Warmed()
		gold := polargate.Feature("gold")
		s.Add("usr_unlucky")
		for name, c := range map[string]struct {
			gate          http.Handler
			method        string
			status        int
			heading, text string
		}{
			"nobody is signed in":         {customers.Middleware(always(""))(whoever), "GET", 401, "Please sign in", "Sign in, then open this page again."},
			"nobody, who sends a form":    {customers.Middleware(always(""))(whoever), "POST", 401, "Please sign in", "Sign in"},
			"an id that cannot be":        {customers.Middleware(always(".."))(whoever), "GET", 400, "We can&#39;t find your account", "contact support"},
			"a plan without the feature":  {customers.Middleware(always(kit.Paying), gold)(whoever), "GET", 402, "Upgrade to continue", "Your plan doesn&#39;t include this."},
			"a form, without the feature": {customers.Middleware(always(kit.Paying), gold)(whoever), "POST", 402, "Upgrade to continue", "Your plan doesn&#39;t include this."},
			"an unknown customer":         {customers.Middleware(always("usr_none"))(whoever), "GET", 402, "Upgrade to continue", "You need a subscription or purchase to continue."},
			"units are missing":           {customers.Route(polargate.Route{Customer: always(kit.Paying), Spend: polargate.Cost{MeterID: kit.CallsMeter, Units: 1000}})(whoever), "GET", 402, "Limit reached", "You don&#39;t have enough usage left for this."},
			"no license key":              {customers.LicenseMiddleware("X-License-Key")(whoever), "GET", 401, "License key needed", "missing or unknown"},
			"a revoked license key":       {customers.Route(polargate.Route{LicenseKey: func(*http.Request) string { return secretKey }})(whoever), "GET", 402, "Your license doesn&#39;t cover this", "no longer active"},
			"Polar is away":               {away(t), "GET", 503, "Please try again", "Try again in a few seconds."},
			"sessions are away":           {customers.Route(polargate.Route{CustomerOrError: noSessions})(whoever), "GET", 503, "Please try again", "Try again in a few seconds."},
		} {
			w := send(c.gate, c.method, "/export", "Accept", browser, "Sec-Fetch-Mode", "navigate")
			assert.Equal(t, c.status, w.Code, name)
			heading, all := pageIn(t, w)
			assert.Equal(t, c.heading, heading, name)
			assert.Contains(t, all, c.text, name)
			assert.Equal(t, c.status == 503, w.Header().Get("Retry-After") != "", name)
			for _, internal := range []string{"gold", kit.CallsMeter, kit.Paying, secretKey, "polargate", "null"} {
				assert.NotContains(t, all, internal, name)
			}
			head := send(c.gate, http.MethodHead, "/export", "Accept", browser)
			assert.Equal(t, c.status, head.Code, name)
			assert.Equal(t, w.Header().Get("Content-Type"), head.Header().Get("Content-Type"), name)
			assert.Zero(t, head.Body.Len(), name)
			problemIn(t, send(c.gate, c.method, "/export"))
		}
	})
}

// away is a route whose Polar is not there.
func away(t *testing.T) http.Handler {
	t.Helper()
	s := kit.NewShop(t)
	s.Polar.SetOffline(true)
	return s.Open().Middleware(always(kit.Paying))(whoever)
}

var errNoSessions = errors.New("dial redis://app:hunter2hunter2@10.0.0.7: session 4f9a1c77b2 of ada@example.com")

func noSessions(*http.Request) (polargate.CustomerRef, error) {
	return polargate.ExternalID(kit.Paying), fmt.Errorf("sessions: %w", errNoSessions)
}

func TestARefusalPageSaysAWaitInWords(t *testing.T) {
	t.Parallel()
	for wait, want := range map[time.Duration]string{
		0: "in a few seconds", time.Second: "in a few seconds", 60 * time.Second: "in a minute", 91 * time.Second: "in 2 minutes", 40 * time.Minute: "in 40 minutes", time.Hour: "in an hour", 5 * time.Hour: "in 5 hours", 72 * time.Hour: "in 3 days", 1 << 62: "later",
	} {
		r := httptest.NewRequest("GET", "/", nil)
		r.Header.Set("Accept", browser)
		w := httptest.NewRecorder()
		polargate.WriteRefusal(w, r, polargate.Refusal{Status: 503, RetryAfter: wait})
		_, all := pageIn(t, w)
		assert.Contains(t, all, "Try again "+want+".")
	}
}

func TestAcceptDecidesBetweenAPageAndAReport(t *testing.T) {
	t.Parallel()
	for accept, page := range map[string]bool{
		browser: true, turbo: true, "text/html": true, "TEXT/HTML;charset=utf-8": true, "text/*": true, "text/html, */*": true, "*/*, text/html": true,
		"text/*;q=0.3, text/html;q=0.7, application/json;q=0.5": true, "text/html;q=0.1, application/*;q=0.05": true,
		"text/html, application/json": true, "text/html;q=0.5, application/json;q=0.4": true, "application/json;q=0, text/html;q=0.1": true, "*/*, application/json;q=0.9": true,
		"": false, "*/*": false, "application/json": false, "application/*": false, "application/problem+json, text/html": false,
		"application/json, text/plain, */*": false, "application/json, text/javascript, */*; q=0.01": false, "*/*, text/html;q=0.9": false,
		"text/*;q=0.9, text/html;q=0.2, application/json;q=0.5": false, "text/html;q=0": false, "text/html;q=0, */*": false, "text/html;q=0,*/*;q=0": false,
		"text/html;q=2, application/json;q=0.1": false, "text/html;q=NaN": false, "text/html;q=-1": false, "image/png": false, "text/plain": false, "text/html;q=0.001, application/json;q=0.002": false,
	} {
		r := httptest.NewRequest("GET", "/", nil)
		r.Header.Set("Accept", accept)
		w := httptest.NewRecorder()
		polargate.WriteRefusal(w, r, polargate.Refusal{Status: 401})
		assert.Equal(t, page, strings.HasPrefix(w.Header().Get("Content-Type"), "text/html"), accept)
	}
	for accept, page := range map[string]bool{"": true, "*/*": true, "application/json": false, "image/png": false, "*/*;q=0": false} {
		r := httptest.NewRequest("GET", "/", nil)
		r.Header.Set("Sec-Fetch-Mode", "navigate")
		if accept != "" {
			r.Header.Set("Accept", accept)
		}
		w := httptest.NewRecorder()
		polargate.WriteRefusal(w, r, polargate.Refusal{Status: 401})
		assert.Equal(t, page, strings.HasPrefix(w.Header().Get("Content-Type"), "text/html"), "a browser that shows what it gets: %q", accept)
	}
}

func TestOnlyANavigationIsSentToTheUpgradePage(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		customers := kit.NewShop(t).Warmed(func(c *polargate.CustomersConfig) { c.UpgradeURL = "https://example.org/plans?a=1&b=<2>" })
		gate := customers.Middleware(always(kit.Paying), polargate.Feature("gold"))(whoever)
		for name, c := range map[string]struct {
			method  string
			headers []string
			status  int
			page    bool
		}{
			"a link":                           {"GET", []string{"Accept", browser, "Sec-Fetch-Mode", "navigate", "Sec-Fetch-Dest", "document"}, 303, true},
			"an old browser":                   {"GET", []string{"Accept", browser}, 303, true},
			"an app that shows web pages":      {"GET", []string{"Accept", browser, "X-Requested-With", "com.example.shop"}, 303, true},
			"the head of a page":               {"HEAD", []string{"Accept", browser, "Sec-Fetch-Mode", "navigate"}, 303, true},
			"a browser without a preference":   {"GET", []string{"Accept", "*/*", "Sec-Fetch-Mode", "navigate"}, 303, true},
			"Turbo":                            {"GET", []string{"Accept", turbo, "Sec-Fetch-Mode", "cors"}, 402, true},
			"Turbo, an old browser":            {"GET", []string{"Accept", turbo, "X-Turbo-Request-Id", "7"}, 402, true},
			"a frame of Turbo, an old browser": {"GET", []string{"Accept", turbo, "Turbo-Frame", "menu"}, 402, true},
			"Inertia":                          {"GET", []string{"Accept", turbo, "Sec-Fetch-Mode", "cors", "X-Inertia", "true", "X-Requested-With", "XMLHttpRequest"}, 402, true},
			"Inertia, an old browser":          {"GET", []string{"Accept", turbo, "X-Inertia", "true"}, 402, true},
			"jQuery for HTML":                  {"GET", []string{"Accept", "text/html, */*; q=0.01", "Sec-Fetch-Mode", "cors"}, 402, true},
			"jQuery, an old browser":           {"GET", []string{"Accept", "text/html, */*; q=0.01", "X-Requested-With", "xmlhttprequest"}, 402, true},
			"jQuery for anything":              {"GET", []string{"Accept", "*/*", "X-Requested-With", "XMLHttpRequest"}, 402, false},
			"htmx":                             {"GET", []string{"Accept", "text/html", "HX-Request", "true"}, 402, true},
			"htmx, boosted":                    {"GET", []string{"Accept", "*/*", "Sec-Fetch-Mode", "cors", "HX-Request", "true", "HX-Boosted", "true"}, 402, false},
			"another origin's script":          {"GET", []string{"Accept", "text/html", "Origin", "https://example.net"}, 402, true},
			"fetch":                            {"GET", []string{"Accept", "*/*", "Sec-Fetch-Mode", "cors"}, 402, false},
			"fetch, within the origin":         {"GET", []string{"Accept", "text/html", "Sec-Fetch-Mode", "same-origin"}, 402, true},
			"a picture":                        {"GET", []string{"Accept", "image/avif,image/webp,*/*;q=0.8", "Sec-Fetch-Mode", "no-cors"}, 402, false},
			"a socket":                         {"GET", []string{"Sec-Fetch-Mode", "websocket", "Origin", "https://example.com"}, 402, false},
			"a form":                           {"POST", []string{"Accept", browser, "Sec-Fetch-Mode", "navigate"}, 402, true},
			"a program":                        {"GET", nil, 402, false},
			"a program for JSON":               {"GET", []string{"Accept", "application/json"}, 402, false},
		} {
			w := send(gate, c.method, "/export", c.headers...)
			assert.Equal(t, c.status, w.Code, name)
			assert.Equal(t, "no-store", w.Header().Get("Cache-Control"), name)
			switch {
			case c.status == 303:
				assert.Equal(t, "https://example.org/plans?a=1&b=<2>", w.Header().Get("Location"), name)
			case c.page:
				_, all := pageIn(t, w)
				assert.Contains(t, all, `<a href="https://example.org/plans?a=1&amp;b=&lt;2&gt;">See plans and pricing</a>`, name)
			default:
				assert.Equal(t, "https://example.org/plans?a=1&b=<2>", problemIn(t, w)["upgrade_url"], name)
			}
			if c.status != 303 {
				assert.Empty(t, w.Header().Get("Location"), name)
			}
		}
	})
}

func TestAnUpgradePageThatIsItselfGatedIsRefusedAndNotRedirectedForever(t *testing.T) {
	t.Parallel()
	customers := kit.NewShop(t).Warmed()
	for name, c := range map[string]struct {
		upgrade string // HOST is the server's
		prefix  string // that http.StripPrefix takes away
		ask     string
		follows int
		ends    string
	}{
		"the page itself":                  {"/plans", "", "/plans", 0, "/plans"},
		"another page":                     {"/plans", "", "/export", 1, "/plans"},
		"a section of it":                  {"/plans#pro", "", "/export", 1, "/plans"},
		"with a tracking parameter":        {"/plans", "", "/plans?utm_source=mail", 0, "/plans?utm_source=mail"},
		"with a slash at the end":          {"/plans/", "", "/plans", 0, "/plans"},
		"without the slash at the end":     {"/plans", "", "/plans/", 0, "/plans/"},
		"the start page":                   {"/#plans", "", "/", 0, "/"},
		"in other words":                   {"/pl%61ns/../plans", "", "/export", 1, "/plans"},
		"a page of a query":                {"/?page=plans", "", "/?page=export", 1, "/?page=plans"},
		"a page of a query and more":       {"/?page=plans", "", "/?lang=en&page=plans", 0, "/?lang=en&page=plans"},
		"a full address":                   {"http://HOST/plans", "", "/export", 1, "/plans"},
		"a full address in capitals":       {"http://CAPITALS/plans", "", "/plans", 0, "/plans"},
		"an address without a scheme":      {"//HOST/plans", "", "/export", 1, "/plans"},
		"under a prefix":                   {"/app/plans", "/app", "/app/export", 1, "/app/plans"},
		"under a prefix, itself":           {"/app/plans", "/app", "/app/plans", 0, "/app/plans"},
		"outside of the prefix":            {"/plans", "/app", "/app/plans", 1, "/plans"},
		"a section of every page":          {"#plans", "", "/export", 0, "/export"},
		"the same under a prefix":          {"#plans", "/app", "/app/a/export?x=1", 0, "/app/a/export?x=1"},
		"a query of every page":            {"?plans", "", "/a/export", 1, "/a/export?plans="},
		"the same under a prefix, further": {"?plans=1", "/app", "/app/a/export", 1, "/app/a/export?plans=1"},
		"a query that is there already":    {"?plans=1", "/app", "/app/export?plans=1&a=2", 0, "/app/export?plans=1&a=2"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var handler http.Handler
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { handler.ServeHTTP(w, r) }))
			defer server.Close()
			host := strings.TrimPrefix(server.URL, "http://")
			ask := server.URL
			if strings.Contains(c.upgrade, "CAPITALS") {
				_, port, _ := strings.Cut(host, ":")
				c.upgrade, ask = "http://LOCALHOST:"+port+"/plans", "http://localhost:"+port
			}
			gate := customers.Route(polargate.Route{
				Customer: always(kit.Paying), Require: []polargate.Requirement{polargate.Feature("gold")}, UpgradeURL: strings.Replace(c.upgrade, "//HOST", "//"+host, 1),
			})(whoever)
			handler = gate
			if c.prefix != "" {
				mux := http.NewServeMux()
				mux.Handle(c.prefix+"/", http.StripPrefix(c.prefix, gate))
				mux.Handle("/", gate)
				handler = mux
			}
			follows := 0
			client := &http.Client{Transport: server.Client().Transport, CheckRedirect: func(_ *http.Request, via []*http.Request) error {
				if follows = len(via); follows > 5 {
					return errors.New("for ever")
				}
				return nil
			}}
			r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, ask+c.ask, http.NoBody)
			require.NoError(t, err)
			r.Header.Set("Accept", browser)
			r.Header.Set("Sec-Fetch-Mode", "navigate")
			response, err := client.Do(r)
			require.NoError(t, err)
			defer func() { _ = response.Body.Close() }()
			assert.Equal(t, http.StatusPaymentRequired, response.StatusCode)
			assert.Equal(t, c.follows, follows)
			want, err := url.Parse(c.ends)
			require.NoError(t, err)
			assert.Equal(t, want.Path, response.Request.URL.Path)
			assert.Equal(t, want.Query(), response.Request.URL.Query())
			all, err := io.ReadAll(response.Body)
			require.NoError(t, err)
			assert.Contains(t, string(all), "Upgrade to continue")
			assert.NotContains(t, string(all), "<a ", "a link that leads nowhere else is none")
		})
	}
}

func TestAPageOfTheSamePathElsewhereIsNoLoop(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		customers := kit.NewShop(t).Warmed()
		ask := func(upgrade string, headers ...string) int {
			handler := customers.Route(polargate.Route{Customer: always(kit.Paying), Require: []polargate.Requirement{polargate.Feature("gold")}, UpgradeURL: upgrade})(whoever)
			return get(handler, "http://app.example.com/", append(headers, "Accept", browser)...).Code
		}
		assert.Equal(t, 303, ask("https://example.com/"))
		assert.Equal(t, 303, ask("https://app.example.com:8443/"))
		assert.Equal(t, 402, ask("https://app.example.com/"))
		assert.Equal(t, 402, ask("https://app.example.com:443/"))
		assert.Equal(t, 402, ask("https://shop.example.com/", "X-Forwarded-Host", "shop.example.com, proxy.internal"), "the name that a proxy was asked by")
	})
}

func TestAnAddressThatAPersonMustNotFollowIsNoLink(t *testing.T) {
	t.Parallel()
	for _, address := range []string{"javascript:alert(1)", "JavaScript:alert(1)", "data:text/html,hi", "%zz", "mailto:ada@example.com", "ftp://example.com/", "\x00"} {
		r := httptest.NewRequest("GET", "/", nil)
		r.Header.Set("Accept", browser)
		w := httptest.NewRecorder()
		polargate.WriteRefusal(w, r, polargate.Refusal{Status: 402, UpgradeURL: address})
		assert.Equal(t, 402, w.Code, address)
		_, all := pageIn(t, w)
		assert.NotContains(t, all, "<a ", address)
	}
	r := httptest.NewRequest("GET", "/", nil)
	r.Header.Set("Accept", turbo)
	r.Header.Set("Turbo-Frame", "menu")
	w := httptest.NewRecorder()
	polargate.WriteRefusal(w, r, polargate.Refusal{Status: 402, UpgradeURL: `https://example.com/"><script>alert(1)</script>`})
	pageIn(t, w)
}

func TestAPolicyOfTheProgramsOwnIsKeptOnARefusal(t *testing.T) {
	t.Parallel()
	r := httptest.NewRequest("GET", "/", nil)
	r.Header.Set("Accept", browser)
	w := httptest.NewRecorder()
	w.Header().Set("Content-Security-Policy", "frame-ancestors 'none'")
	w.Header().Set("Content-Length", "7")
	polargate.WriteRefusal(w, r, polargate.Refusal{Status: 401})
	assert.Equal(t, []string{"frame-ancestors 'none'"}, w.Header().Values("Content-Security-Policy"))
	assert.Empty(t, w.Header().Get("Content-Length"), "that of what would have been sent")
}

func TestARefusalInAProgramsOwnWayIsNotStoredEither(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		customers := kit.NewShop(t).Open()
		refuse := func(w http.ResponseWriter, _ *http.Request, _ polargate.Refusal) {
			http.Redirect(w, httptest.NewRequest("GET", "/", nil), "/login", http.StatusMovedPermanently)
		}
		w := get(customers.Route(polargate.Route{Customer: byHeader, Refuse: refuse})(whoever), "/")
		assert.Equal(t, 301, w.Code)
		assert.Equal(t, "no-store", w.Header().Get("Cache-Control"))
	})
}

func TestAResolverThatFailsIsAnswered503AndNotSignInFirst(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s, _ := sold(t)
		var told polargate.Refusal
		customers := s.Warmed()
		broken := func(*http.Request) (string, error) { return secretKey, errNoSessions }
		for name, route := range map[string]polargate.Route{
			"a customer":                      {CustomerOrError: noSessions},
			"a license key":                   {LicenseKeyOrError: broken},
			"a route that fails open":         {CustomerOrError: noSessions, FailOpen: true},
			"keys on a route that fails open": {LicenseKeyOrError: broken, FailOpen: true},
			"a route that costs":              {CustomerOrError: noSessions, Spend: polargate.Cost{MeterID: kit.CallsMeter, Units: 1}},
		} {
			before := customers.Stats()
			handler := customers.Route(route)(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error(name, "was let in") }))
			w := get(handler, "/")
			assert.Equal(t, 503, w.Code, name)
			assert.Equal(t, "1", w.Header().Get("Retry-After"), name)
			assert.Equal(t, map[string]any{"type": "about:blank", "title": "Service Unavailable", "status": 503.}, problemIn(t, w), name)
			assert.Equal(t, before.Undecided+1, customers.Stats().Undecided, name)
			route.Refuse = func(_ http.ResponseWriter, _ *http.Request, r polargate.Refusal) { told = r }
			get(customers.Route(route)(whoever), "/")
			require.ErrorIs(t, told.Err, errNoSessions, name)
			assert.Empty(t, told.Reason, name)
			text := w.Body.String() + fmt.Sprintf("%v %+v %#v %s", told, told, told, told.Err)
			for _, secret := range []string{"hunter2", "4f9a1c77b2", "ada@", secretKey} {
				assert.NotContains(t, text, secret, name)
			}
		}
		assert.InDelta(t, 100, balanceOf(t, customers), 0)
		log := s.Log.String()
		assert.Equal(t, 1, strings.Count(log, "\n"), "at most once a minute: %s", log)
		assert.Contains(t, log, "session")
		for _, secret := range []string{"hunter2", "4f9a1c77b2", "ada@", secretKey} {
			assert.NotContains(t, log, secret)
		}
		time.Sleep(time.Minute)
		get(customers.Route(polargate.Route{CustomerOrError: noSessions})(whoever), "/")
		assert.Equal(t, 2, strings.Count(s.Log.String(), "\n"))
		time.Sleep(time.Minute)
		gone, cancel := context.WithCancel(t.Context())
		cancel()
		customers.Route(polargate.Route{CustomerOrError: noSessions})(whoever).ServeHTTP(httptest.NewRecorder(), httptest.NewRequestWithContext(gone, "GET", "/", nil))
		assert.Equal(t, 2, strings.Count(s.Log.String(), "\n"), "callers who have gone are no failure")
	})
}

func TestAResolverThatCanFailAndDoesNotIsLikeOneThatCannot(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s, _ := sold(t)
		customers := s.Warmed()
		byCustomer := customers.Route(polargate.Route{
			CustomerOrError: func(r *http.Request) (polargate.CustomerRef, error) { return byHeader(r), nil },
			Require:         []polargate.Requirement{polargate.Feature("pro")}, Spend: polargate.Cost{MeterID: kit.CallsMeter, Units: 1},
		})(whoever)
		for user, want := range map[string]int{kit.Paying: 200, "usr_none": 402, "": 401, "..": 400} {
			assert.Equal(t, want, get(byCustomer, "/", "X-User", user).Code, user)
		}
		assert.InDelta(t, 99, balanceOf(t, customers), 0)
		byKey := customers.Route(polargate.Route{LicenseKeyOrError: func(r *http.Request) (string, error) { return r.Header.Get("X-License-Key"), nil }})(whoever)
		for key, want := range map[string]int{secretKey: 200, "MADE-UP": 401, "": 401} {
			assert.Equal(t, want, get(byKey, "/", "X-License-Key", key).Code)
		}
		key := func(*http.Request) string { return "" }
		for name, route := range map[string]polargate.Route{
			"both forms":           {Customer: byHeader, CustomerOrError: noSessions},
			"a customer and a key": {CustomerOrError: noSessions, LicenseKey: key},
			"both forms of keys":   {LicenseKey: key, LicenseKeyOrError: func(*http.Request) (string, error) { return "", nil }},
			"a key, and a cost":    {LicenseKeyOrError: func(*http.Request) (string, error) { return "", nil }, Spend: polargate.Cost{MeterID: kit.CallsMeter, Units: 1}},
		} {
			assert.Panics(t, func() { customers.Route(route) }, name)
		}
	})
}

// cors is a middleware that answers preflights of one origin, as those of others do.
func cors(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Add("Vary", "Origin")
		w.Header().Set("Access-Control-Allow-Origin", "https://app.example.com")
		if r.Method == http.MethodOptions && r.Header.Get("Access-Control-Request-Method") != "" {
			w.Header().Set("Access-Control-Allow-Methods", "PUT")
			w.WriteHeader(http.StatusNoContent)
			return
		}
		next.ServeHTTP(w, r)
	})
}

var preflight = []string{"Origin", "https://app.example.com", "Access-Control-Request-Method", "PUT", "Sec-Fetch-Mode", "cors"}

func TestAPreflightIsNeitherRefusedNorChargedNorAskedAbout(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := kit.NewShop(t)
		customers := s.Warmed()
		asked := s.Asked()
		nobody := func(*http.Request) polargate.CustomerRef {
			t.Error("a preflight is of nobody")
			return polargate.CustomerRef{}
		}
		for name, gate := range map[string]func(http.Handler) http.Handler{
			"customers":     customers.Middleware(nobody, polargate.Feature("gold")),
			"keys":          customers.LicenseMiddleware("X-License-Key"),
			"bearer tokens": customers.LicenseMiddleware("Authorization"),
			"a cost":        customers.Route(polargate.Route{Customer: nobody, Spend: polargate.Cost{MeterID: kit.CallsMeter, Units: 1000}}),
			"two routes": func(h http.Handler) http.Handler {
				return customers.Middleware(nobody)(customers.Middleware(nobody)(h))
			},
		} {
			w := send(gate(cors(whoever)), http.MethodOptions, "/export", preflight...)
			assert.Equal(t, 204, w.Code, name)
			assert.Equal(t, "https://app.example.com", w.Header().Get("Access-Control-Allow-Origin"), name)
			assert.Equal(t, "PUT", w.Header().Get("Access-Control-Allow-Methods"), name)
			assert.Contains(t, w.Header().Values("Vary"), "Origin", name)
			w = send(cors(gate(whoever)), http.MethodOptions, "/export", preflight...)
			assert.Equal(t, 204, w.Code, "%s, with CORS further out", name)
		}
		assert.InDelta(t, 100, balanceOf(t, customers), 0)
		assert.Equal(t, asked, s.Asked())
		assert.Zero(t, customers.Stats().Unpaid+customers.Stats().Unidentified)
	})
}

func TestARefusalCanBeReadByAPageOfAnotherOriginIfCORSIsFurtherOut(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		gate := kit.NewShop(t).Warmed().Middleware(byHeader, polargate.Feature("gold"))
		for user, want := range map[string]int{"": 401, kit.Paying: 402} {
			w := send(cors(gate(whoever)), http.MethodPut, "/", "X-User", user, "Origin", "https://app.example.com")
			assert.Equal(t, want, w.Code)
			assert.Equal(t, "https://app.example.com", w.Header().Get("Access-Control-Allow-Origin"))
			assert.Equal(t, []string{"Origin", "Accept"}, w.Header().Values("Vary"))
		}
	})
}

func TestAPreflightGivesNothingAwayThatIsBehindTheGate(t *testing.T) {
	t.Parallel()
	customers := kit.NewShop(t).Warmed()
	gate := customers.Middleware(always("usr_none"))
	handler := gate(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { // looks at no method
		_, ok := polargate.FromContext(r.Context())
		assert.False(t, ok)
		w.Header().Set("Set-Cookie", "export=secret")
		w.Header().Set("Content-Length", "6")
		w.Header().Set("Location", "https://files.example.com/?signature=secret")
		w.Header().Set("Access-Control-Allow-Origin", "*")
		w.WriteHeader(http.StatusEarlyHints)
		w.WriteHeader(http.StatusFound)
		w.WriteHeader(http.StatusOK)
		n, err := io.WriteString(w, "secret")
		assert.NoError(t, err)
		assert.Equal(t, 6, n)
		w.(http.Flusher).Flush()
		_, _, err = http.NewResponseController(w).Hijack()
		assert.Error(t, err)
	}))
	server := httptest.NewServer(handler)
	defer server.Close()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodOptions, server.URL, http.NoBody)
	require.NoError(t, err)
	for i := 0; i < len(preflight); i += 2 {
		r.Header.Set(preflight[i], preflight[i+1])
	}
	response, err := server.Client().Transport.RoundTrip(r)
	require.NoError(t, err)
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	assert.Empty(t, body)
	assert.NotContains(t, fmt.Sprint(response.Header), "secret")
	assert.Equal(t, "*", response.Header.Get("Access-Control-Allow-Origin"))

	silent := gate(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	assert.Equal(t, 200, send(silent, http.MethodOptions, "/", preflight...).Code)
	broken := gate(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic("on fire") }))
	assert.PanicsWithValue(t, "on fire", func() { send(broken, http.MethodOptions, "/", preflight...) })
}

func TestARequestThatOnlyLooksLikeAPreflightMustPassTheGate(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		customers := kit.NewShop(t).Warmed()
		handler := customers.Route(polargate.Route{Customer: byHeader, Spend: polargate.Cost{MeterID: kit.CallsMeter, Units: 1}})(whoever)
		for name, c := range map[string]struct {
			method  string
			headers []string
		}{
			"a plain OPTIONS":           {"OPTIONS", nil},
			"without an origin":         {"OPTIONS", []string{"Access-Control-Request-Method", "PUT"}},
			"without a method":          {"OPTIONS", []string{"Origin", "https://app.example.com"}},
			"another method":            {"POST", preflight},
			"with a session":            {"OPTIONS", append([]string{"Cookie", "session=1"}, preflight...)},
			"with a token":              {"OPTIONS", append([]string{"Authorization", "Bearer 1"}, preflight...)},
			"a method in small letters": {"options", preflight},
		} {
			assert.Equal(t, 401, send(handler, c.method, "/", c.headers...).Code, name)
			before := balanceOf(t, customers)
			assert.Equal(t, kit.Paying, send(handler, c.method, "/", append([]string{"X-User", kit.Paying}, c.headers...)...).Body.String(), name)
			assert.InDelta(t, before-1, balanceOf(t, customers), 0, name)
		}
		withBody := httptest.NewRequest(http.MethodOptions, "/", strings.NewReader("do it"))
		for i := 0; i < len(preflight); i += 2 {
			withBody.Header.Set(preflight[i], preflight[i+1])
		}
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, withBody)
		assert.Equal(t, 401, w.Code, "with a body")
	})
}
