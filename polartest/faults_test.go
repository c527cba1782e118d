package polartest_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/polargate/polargate/polartest"
)

// outcome is what a client sees of one request.
type outcome struct {
	response reply
	body     string
	err      error // of the request
	readErr  error // of reading the body
}

// attempt activates a key and never follows a redirect.
func attempt(ctx context.Context, t *testing.T, client *http.Client, base string, k polartest.LicenseKey) outcome {
	t.Helper()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, base+portalPath+"activate", strings.NewReader(asking(k, `,"label":"laptop"`)))
	require.NoError(t, err)
	r.Header.Set("Content-Type", "application/json")
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	response, err := client.Do(r)
	if err != nil {
		return outcome{err: err}
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(response.Body)
	return outcome{response: answered(response), body: string(body), readErr: err}
}

// isReset allows for Windows, whose sockets have an error number of their own.
func isReset(t *testing.T, over string, err error) {
	t.Helper()
	if over == "socket" && runtime.GOOS == "windows" {
		require.Error(t, err)
		return
	}
	require.ErrorIs(t, err, syscall.ECONNRESET)
}

func TestEachFaultLooksTheSameInProcessAndOverASocket(t *testing.T) {
	t.Parallel()
	says := func(status int, contentType, body string) func(*testing.T, string, outcome) {
		return func(t *testing.T, _ string, o outcome) {
			t.Helper()
			require.NoError(t, o.err)
			require.NoError(t, o.readErr)
			assert.Equal(t, status, o.response.StatusCode)
			assert.Equal(t, contentType, o.response.Header.Get("Content-Type"))
			assert.Contains(t, o.body, body)
			assert.NotEmpty(t, o.response.Header.Get("Date"))
		}
	}
	const (
		html  = "text/html; charset=utf-8"
		plain = "text/plain; charset=utf-8"
		js    = "application/json"
	)
	for name, test := range map[string]struct {
		effect polartest.Effect
		seats  int // taken at Polar
		status int // recorded
		check  func(*testing.T, string, outcome)
	}{
		"LoginPage 200": {polartest.LoginPage(200), 0, 200, says(200, html, "Wi-Fi")},
		"LoginPage 302": {polartest.LoginPage(302), 0, 302, func(t *testing.T, over string, o outcome) {
			says(302, html, "Wi-Fi")(t, over, o)
			assert.Equal(t, "http://login.wifi.example/login", o.response.Header.Get("Location"))
		}},
		"LoginPage 511": {polartest.LoginPage(511), 0, 511, says(511, html, "Wi-Fi")},
		"ProxyPage 403": {polartest.ProxyPage(403), 0, 403, says(403, html, "Forbidden")},
		"ProxyPage 404": {polartest.ProxyPage(404), 0, 404, says(404, html, "Not Found")},
		"ProxyPage 407": {polartest.ProxyPage(407), 0, 407, says(407, html, "Proxy")},
		"ProxyPage 502": {polartest.ProxyPage(502), 0, 502, says(502, html, "Bad Gateway")},
		"RouterNotFound": {polartest.RouterNotFound(), 0, 404, func(t *testing.T, over string, o outcome) {
			says(404, js, "")(t, over, o)
			assert.JSONEq(t, `{"detail":"Not Found"}`, o.body)
		}},
		"RateLimited": {polartest.RateLimited("17"), 0, 429, func(t *testing.T, over string, o outcome) {
			says(429, "", "")(t, over, o)
			assert.Equal(t, "17", o.response.Header.Get("Retry-After"))
			assert.NotContains(t, o.response.Header, "Content-Type")
			assert.Empty(t, o.body)
		}},
		"RateLimited without Retry-After": {polartest.RateLimited(""), 0, 429, func(t *testing.T, over string, o outcome) {
			says(429, "", "")(t, over, o)
			assert.NotContains(t, o.response.Header, "Retry-After")
		}},
		"ServerError 500": {polartest.ServerError(500), 0, 500, says(500, plain, "Internal Server Error")},
		"ServerError 503": {polartest.ServerError(503), 0, 503, says(503, plain, "Service Unavailable")},
		"SlowDrip":        {polartest.SlowDrip(time.Nanosecond), 1, 200, says(200, js, `"license_key_id"`)},
		"Delay":           {polartest.Delay(time.Millisecond), 1, 200, says(200, js, `"license_key_id"`)},
		"Reset":           {polartest.Reset(), 0, 0, func(t *testing.T, over string, o outcome) { isReset(t, over, o.err) }},
		"Close":           {polartest.Close(), 0, 0, func(t *testing.T, _ string, o outcome) { require.ErrorIs(t, o.err, io.EOF) }},
		"AnswerLost":      {polartest.AnswerLost(), 1, 200, func(t *testing.T, over string, o outcome) { isReset(t, over, o.err) }},
		"Truncated": {polartest.Truncated(), 1, 200, func(t *testing.T, _ string, o outcome) {
			require.NoError(t, o.err)
			require.ErrorIs(t, o.readErr, io.ErrUnexpectedEOF)
			assert.Len(t, o.body, int(o.response.ContentLength/2))
			assert.NotEmpty(t, o.body)
		}},
		"Garbage": {polartest.Garbage(), 0, 200, func(t *testing.T, over string, o outcome) {
			says(200, js, "")(t, over, o)
			assert.False(t, json.Valid([]byte(o.body)))
		}},
		"Huge": {polartest.Huge(), 0, 200, func(t *testing.T, over string, o outcome) {
			says(200, js, `{"id":"AAA`)(t, over, o)
			assert.EqualValues(t, -1, o.response.ContentLength)
			assert.Len(t, o.body, 32<<20)
		}},
		"Body {}": {polartest.Body(200, js, `{}`), 0, 200, says(200, js, `{}`)},
		"Body of no type": {polartest.Body(200, "", `<html>`), 0, 200, func(t *testing.T, over string, o outcome) {
			says(200, "", `<html>`)(t, over, o)
			assert.NotContains(t, o.response.Header, "Content-Type")
		}},
		"Rewrite": {polartest.Rewrite(func(status int, header http.Header, body []byte) (int, []byte) {
			header.Set("X-Changed", "yes")
			return status + 1, []byte(strings.ReplaceAll(string(body), "granted", "platinum"))
		}), 1, 201, func(t *testing.T, over string, o outcome) {
			says(201, js, `"status":"platinum"`)(t, over, o)
			assert.Equal(t, "yes", o.response.Header.Get("X-Changed"))
		}},
	} {
		for _, over := range []string{"transport", "socket"} {
			t.Run(name+" over "+over, func(t *testing.T) {
				t.Parallel()
				p := unlimited()
				k := p.AddKey(polartest.LicenseKey{LimitActivations: polartest.Limit(3)})
				client, base := p.Client(), "https://api.polar.sh"
				if over == "socket" {
					server, err := p.Start()
					require.NoError(t, err)
					defer func() { assert.NoError(t, server.Close()) }()
					client, base = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}, server.URL
				}
				p.Inject(polartest.Fault{Path: "/activate", Times: 1, Effect: test.effect})
				test.check(t, over, attempt(t.Context(), t, client, base, k))
				assert.Equal(t, test.seats, p.Seats(k.ID), "seats")
				requests := p.Requests()
				require.Len(t, requests, 1)
				assert.Equal(t, test.status, requests[0].Status)
				assert.True(t, strings.HasPrefix(name, requests[0].Fault) && requests[0].Fault != "", "the fault is recorded as %q", requests[0].Fault)

				after := attempt(t.Context(), t, client, base, k)
				require.NoError(t, after.err)
				assert.Equal(t, 200, after.response.StatusCode, "the fault is over")
				assert.Equal(t, test.seats+1, p.Seats(k.ID))
			})
		}
	}
}

func TestAHangEndsWhenTheClientGivesUpOrTheServerCloses(t *testing.T) {
	t.Parallel()
	p := unlimited()
	k := p.AddKey(polartest.LicenseKey{LimitActivations: polartest.Limit(3)})
	p.Inject(polartest.Fault{Effect: polartest.Hang()})
	server, err := p.Start()
	require.NoError(t, err)
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	hanging := func(ctx context.Context, n int) <-chan outcome {
		done := make(chan outcome, 1)
		go func() { done <- attempt(ctx, t, client, server.URL, k) }()
		require.Eventually(t, func() bool { return p.Count("/activate") == n }, 30*time.Second, time.Millisecond)
		return done
	}
	ctx, cancel := context.WithCancel(t.Context())
	first := hanging(ctx, 1)
	cancel()
	require.ErrorIs(t, (<-first).err, context.Canceled)

	second := hanging(t.Context(), 2)
	require.NoError(t, server.Close())
	require.Error(t, (<-second).err)
	assert.Zero(t, p.Seats(k.ID))
}

func TestWaitingIsOnTheClockOfTheSynctestBubble(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := unlimited()
		k := p.AddKey(polartest.LicenseKey{LimitActivations: polartest.Limit(9)})
		client := p.Client()
		once := func(e polartest.Effect) (outcome, time.Duration) {
			p.Inject(polartest.Fault{Times: 1, Effect: e})
			start := time.Now()
			o := attempt(t.Context(), t, client, "https://api.polar.sh", k)
			return o, time.Since(start)
		}

		o, took := once(polartest.Delay(7 * time.Second))
		require.NoError(t, o.err)
		assert.Equal(t, 7*time.Second, took)
		o, took = once(polartest.SlowDrip(10 * time.Millisecond))
		require.NoError(t, o.readErr)
		assert.Equal(t, time.Duration(len(o.body)+1)*10*time.Millisecond, took, "each byte, and the end")
		assert.Equal(t, 2, p.Seats(k.ID))

		client.Timeout = 5 * time.Second
		o, took = once(polartest.Hang())
		var timeout interface{ Timeout() bool }
		require.ErrorAs(t, o.err, &timeout)
		assert.True(t, timeout.Timeout())
		assert.Equal(t, 5*time.Second, took)
		o, took = once(polartest.Delay(time.Hour))
		require.ErrorIs(t, o.err, context.DeadlineExceeded)
		assert.Equal(t, 5*time.Second, took)
		assert.Equal(t, 3, p.Seats(k.ID), "a late answer has its effect at once")
		o, took = once(polartest.SlowDrip(time.Second))
		require.ErrorIs(t, o.readErr, context.DeadlineExceeded)
		assert.Equal(t, 5*time.Second, took)

		ctx, cancel := context.WithCancelCause(t.Context())
		why := errors.New("the window was closed")
		cancel(why)
		require.ErrorIs(t, attempt(ctx, t, client, "https://api.polar.sh", k).err, why)
		assert.Equal(t, 5, p.Count("/activate"), "a request that was given up before is never sent")
	})
}

func TestClosingABodyEndsAReadOfIt(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := unlimited()
		p.Inject(polartest.Fault{Effect: polartest.SlowDrip(time.Hour)})
		response, err := p.Client().Get("https://api.polar.sh/v1/license-keys/")
		require.NoError(t, err)
		done := make(chan error)
		start := time.Now()
		go func() {
			_, err := io.ReadAll(response.Body)
			done <- err
		}()
		synctest.Wait()
		require.NoError(t, response.Body.Close())
		require.Error(t, <-done)
		assert.Zero(t, time.Since(start))
	})
}

func TestOfflineNothingArrives(t *testing.T) {
	t.Parallel()
	p := unlimited()
	k := p.AddKey(polartest.LicenseKey{LimitActivations: polartest.Limit(3)})
	server, err := p.Start()
	require.NoError(t, err)
	defer func() { assert.NoError(t, server.Close()) }()
	socket := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	p.SetOffline(true)
	require.ErrorIs(t, attempt(t.Context(), t, p.Client(), "https://api.polar.sh", k).err, syscall.ENETUNREACH)
	isReset(t, "socket", attempt(t.Context(), t, socket, server.URL, k).err)
	assert.Empty(t, p.Requests())
	assert.Zero(t, p.Seats(k.ID))
	p.SetOffline(false)
	require.NoError(t, attempt(t.Context(), t, p.Client(), "https://api.polar.sh", k).err)
	require.NoError(t, attempt(t.Context(), t, socket, server.URL, k).err)
	assert.Equal(t, 2, p.Seats(k.ID))
}

func TestFaultsStrikeInOrderAndOnlyWhatTheyAreFor(t *testing.T) {
	t.Parallel()
	p := unlimited()
	status := func(path string) int {
		response, _ := ask(t, p.Client(), "POST", portalPath+path, "", "{}")
		return response.StatusCode
	}
	p.Inject(polartest.Fault{Path: "/validate", Skip: 1, Times: 2, Effect: polartest.ServerError(503)})
	p.Inject(polartest.Fault{Path: "/validate", Times: 1, Effect: polartest.ProxyPage(502)})
	p.Inject(polartest.Fault{Path: "/activate", Effect: polartest.ProxyPage(403)})
	assert.Equal(t, []int{502, 503, 503, 422, 403, 403, 422}, []int{
		status("validate"), status("validate"), status("validate"), status("validate"),
		status("activate"), status("activate"), status("deactivate"),
	})
	p.ClearFaults()
	assert.Equal(t, 422, status("activate"))
}

func TestRequestsThatFollowALoginPageAreRecorded(t *testing.T) {
	t.Parallel()
	p := unlimited()
	k := p.AddKey(polartest.LicenseKey{})
	p.Inject(polartest.Fault{Times: 1, Effect: polartest.LoginPage(307)})
	response, body := ask(t, p.Client(), "POST", portalPath+"validate", "", asking(k, ""))
	assert.Equal(t, 200, response.StatusCode)
	assert.Contains(t, body, "Wi-Fi")
	requests := p.Requests()
	require.Len(t, requests, 2)
	assert.Equal(t, "/login", requests[1].Path)
	assert.Contains(t, string(requests[1].Body), k.Key, "net/http sends the key on to the other host")
	assert.Equal(t, "LoginPage", requests[1].Fault)
}

func TestServeHTTPWorksWithARecorder(t *testing.T) {
	t.Parallel()
	p := unlimited()
	k := p.AddKey(polartest.LicenseKey{})
	serve := func() *httptest.ResponseRecorder {
		w := httptest.NewRecorder()
		p.ServeHTTP(w, post("validate", asking(k, ""))("http://polar.test"))
		return w
	}
	assert.Equal(t, 200, serve().Code)
	p.Inject(polartest.Fault{Effect: polartest.Reset()})
	assert.PanicsWithValue(t, http.ErrAbortHandler, func() { serve() })
}

func TestTheTransportRefusesWhatNetHTTPWould(t *testing.T) {
	t.Parallel()
	p := unlimited()
	r := post("validate", `{}`)("http://polar.test")
	r.ContentLength = 7
	_, err := p.Transport().RoundTrip(r)
	require.ErrorContains(t, err, "ContentLength=7 with Body length 2")
	r = post("validate", `{}`)("http://polar.test")
	r.URL.Host = ""
	_, err = p.Transport().RoundTrip(r)
	require.ErrorContains(t, err, "no host")
	r = post("validate", "")("http://polar.test")
	r.Body = io.NopCloser(io.MultiReader(strings.NewReader("{"), failing{}))
	_, err = p.Transport().RoundTrip(r)
	require.ErrorIs(t, err, errFailing)
	assert.Empty(t, p.Requests())
}

var errFailing = fmt.Errorf("the disk is gone")

type failing struct{}

func (failing) Read([]byte) (int, error) { return 0, errFailing }
