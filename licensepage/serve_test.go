package licensepage

import (
	"context"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/polargate/polargate/polartest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestThePrintedAddressLetsInOneBrowserOnce(t *testing.T) {
	t.Parallel()
	inside := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := r.ParseForm(); err != nil {
			http.Error(w, "", http.StatusRequestEntityTooLarge)
			return
		}
		_, _ = w.Write([]byte("inside"))
	})
	d := newDoor(shown(&pretended{}), "127.0.0.1:1")
	guarded := d.guard(inside)
	ask := func(method, target, body string, headers ...string) *http.Response {
		r := httptest.NewRequest(method, target, strings.NewReader(body))
		if body != "" {
			r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		}
		for i := 0; i < len(headers); i += 2 {
			r.Header.Set(headers[i], headers[i+1])
		}
		w := httptest.NewRecorder()
		guarded.ServeHTTP(w, r)
		return w.Result()
	}
	link := d.link()
	for _, outside := range []string{"http://127.0.0.1:1/", "http://127.0.0.1:1/?token=", "http://127.0.0.1:1/?token=guess", "http://127.0.0.1:1/page.css", strings.Replace(link, "/?", "/state?", 1)} {
		assert.Equal(t, http.StatusForbidden, ask("GET", outside, "").StatusCode, outside)
	}
	assert.Equal(t, http.StatusForbidden, ask("POST", link, "").StatusCode)
	assert.Equal(t, http.StatusMisdirectedRequest, ask("GET", strings.Replace(link, "127.0.0.1:1", "evil.example:1", 1), "").StatusCode)

	first := ask("GET", link, "")
	require.Equal(t, http.StatusSeeOther, first.StatusCode)
	assert.Equal(t, "/", first.Header.Get("Location"), "the token leaves the address")
	require.Len(t, first.Cookies(), 1)
	cookie := first.Cookies()[0]
	assert.True(t, cookie.HttpOnly)
	assert.Equal(t, http.SameSiteStrictMode, cookie.SameSite)
	assert.NotContains(t, link, cookie.Value)
	assert.Equal(t, http.StatusForbidden, ask("GET", link, "").StatusCode, "it works once")

	mine := []string{"Cookie", cookie.Name + "=" + cookie.Value}
	in := ask("GET", "http://127.0.0.1:1/", "", mine...)
	assert.Equal(t, http.StatusOK, in.StatusCode)
	assert.Contains(t, in.Header.Get("Content-Security-Policy"), "default-src 'none'")
	assert.Equal(t, "no-store", in.Header.Get("Cache-Control"))
	assert.Equal(t, http.StatusSeeOther, ask("GET", link, "", mine...).StatusCode, "who is in may use the link again")
	assert.Equal(t, http.StatusOK, ask("POST", "http://127.0.0.1:1/activate", "key=x", mine...).StatusCode)
	for _, foreign := range [][]string{{"Sec-Fetch-Site", "cross-site"}, {"Sec-Fetch-Site", "same-site"}, {"Origin", "https://evil.example"}} {
		assert.Equal(t, http.StatusForbidden, ask("POST", "http://127.0.0.1:1/activate", "key=x", append(mine, foreign...)...).StatusCode, foreign)
	}
	assert.Equal(t, http.StatusMisdirectedRequest, ask("GET", "http://localhost:1/", "", mine...).StatusCode)
	assert.Equal(t, http.StatusForbidden, ask("GET", "http://127.0.0.1:1/", "", "Cookie", cookie.Name+"=guess").StatusCode)
	assert.Equal(t, http.StatusRequestEntityTooLarge, ask("POST", "http://127.0.0.1:1/activate", "key="+strings.Repeat("x", maxForm), mine...).StatusCode)
}

func TestFormsAreForPostsAndALinkOnlyAsks(t *testing.T) {
	t.Parallel()
	d := demoPage(t, polartest.LicenseKey{LimitActivations: polartest.Limit(1)}, polartest.LicenseKey{LimitActivations: polartest.Limit(1)})
	ask := func(method, target, body string, headers ...string) *httptest.ResponseRecorder {
		r := httptest.NewRequest(method, "http://localhost"+target, strings.NewReader(body))
		if body != "" {
			r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		}
		for i := 0; i < len(headers); i += 2 {
			r.Header.Set(headers[i], headers[i+1])
		}
		w := httptest.NewRecorder()
		d.page.ServeHTTP(w, r)
		return w
	}
	assert.Equal(t, http.StatusSeeOther, ask("POST", "/activate?key="+d.keys[0].Key, "").Code)
	assert.Zero(t, d.polar.Seats(d.keys[0].ID), "a key in an address is not taken")
	assert.Equal(t, http.StatusNotFound, ask("GET", "/page.html", "").Code)
	assert.Equal(t, http.StatusNotFound, ask("GET", "/activate/", "").Code)
	for _, name := range []string{"wait", "cancel", "answer", "again", "check", "move", "deactivate", "open"} {
		assert.Equal(t, http.StatusNotFound, ask("GET", "/"+name+"/", "").Code)
		assert.Equal(t, http.StatusMethodNotAllowed, ask("GET", "/"+name, "").Code, name)
	}

	question := func() string {
		page := ask("GET", "/", "").Body.String()
		assert.NotContains(t, page, d.keys[0].Key)
		found := regexp.MustCompile(`name="question" value="(\w+)"`).FindStringSubmatch(page)
		if found == nil {
			return ""
		}
		assert.Contains(t, page, "Activate this license key?")
		return found[1]
	}
	assert.Empty(t, question())
	for _, site := range []string{"cross-site", "same-site"} {
		assert.Equal(t, http.StatusForbidden, ask("GET", "/activate?key="+d.keys[0].Key, "", "Sec-Fetch-Site", site).Code)
		assert.Empty(t, question())
	}
	followed := ask("GET", "/activate?key="+d.keys[0].Key, "")
	assert.Equal(t, "./", followed.Header().Get("Location"), "the key leaves the address")
	first := question()
	assert.NotEmpty(t, first)
	ask("POST", "/answer", "say=no&question="+first)
	assert.Empty(t, question())
	assert.Zero(t, d.polar.Seats(d.keys[0].ID))

	// Another link comes while the user reads the question of the first.
	require.NoError(t, d.page.Ask("inkwell://activate?key="+d.keys[0].Key))
	first = question()
	require.NoError(t, d.page.Ask("inkwell:activate?key="+d.keys[1].Key))
	ask("POST", "/answer", "say=yes&question="+first)
	second := question()
	assert.NotEmpty(t, second, "the answer was for another question")
	assert.Equal(t, http.StatusForbidden, ask("POST", "/answer", "say=yes&question="+second, "Sec-Fetch-Site", "cross-site").Code)
	assert.Zero(t, d.polar.Seats(d.keys[0].ID)+d.polar.Seats(d.keys[1].ID))
	ask("POST", "/answer", "say=yes&question="+second)
	require.Eventually(t, func() bool { return d.gate.Status().OK() }, time.Minute, time.Millisecond)
	assert.Equal(t, 1, d.polar.Seats(d.keys[1].ID))
	assert.Empty(t, question())

	for _, link := range []string{"inkwell://activate", "inkwell://open?key=INKWELL-1", "%zz", "inkwell://activate?key=%00"} {
		require.Error(t, d.page.Ask(link), link)
		assert.Empty(t, question())
	}
	assert.Contains(t, ask("GET", "/", "").Body.String(), "The license key has")
}

func TestThePageIsOnlyCalledByNamesOfThisComputer(t *testing.T) {
	t.Parallel()
	p := shown(&pretended{}, func(o *Options) { o.Hosts = []string{"wails"} })
	for host, want := range map[string]int{
		"localhost": 200, "localhost:8080": 200, "127.0.0.1:1": 200, "[::1]:1": 200, "wails": 200, "WAILS:34": 200, "wails.localhost": 200, "localhost.": 200,
		"evil.example": 421, "localhost.evil.example": 421, "10.0.0.1": 421, "": 421, "127.0.0.1.evil.example:80": 421, "[::1": 200,
	} {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.Host = host
		w := httptest.NewRecorder()
		p.ServeHTTP(w, r)
		assert.Equal(t, want, w.Code, host)
		assert.Contains(t, w.Header().Get("Content-Security-Policy"), "default-src 'none'")
	}
}

func TestServeEndsWithAnActivationUnderWay(t *testing.T) {
	t.Parallel()
	p := shown(&pretended{waiting: make(chan struct{})})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	at := make(chan string, 1)
	go func() { ended <- p.Serve(ctx, nil, func(link string) { at <- link }) }()
	assert.Regexp(t, `^http://127\.0\.0\.1:\d+/\?token=\w+$`, <-at)
	p.start("INKWELL-0000-1111-0A1B2C", false)
	cancel()
	select {
	case err := <-ended:
		require.NoError(t, err)
	case <-time.After(time.Minute):
		t.Fatal("it does not end")
	}
}
