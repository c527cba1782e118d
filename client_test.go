package polargate

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
	"weak"

	"github.com/polargate/polargate/internal/pace"
	"github.com/polargate/polargate/internal/wire"
	"github.com/polargate/polargate/polartest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/time/rate"
)

// seen records what a client sent, and answers by a handler.
type seen struct {
	mu       sync.Mutex
	requests []*http.Request
	bodies   []string
	answer   func(n int, r *http.Request) (*http.Response, error)
}

func (s *seen) RoundTrip(r *http.Request) (*http.Response, error) {
	body, _ := io.ReadAll(r.Body)
	s.mu.Lock()
	s.requests = append(s.requests, r)
	s.bodies = append(s.bodies, string(body))
	n := len(s.requests)
	s.mu.Unlock()
	return s.answer(n, r)
}

func (s *seen) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.requests)
}

func response(status int, body string) *http.Response {
	return &http.Response{StatusCode: status, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(body))}
}

const testOrganization = "34f57e13-8bcb-4481-85b2-a4b55c4ba0b9"

func seenClient(t *testing.T, s *seen, config ClientConfig) *Client {
	t.Helper()
	config.OrganizationID = testOrganization
	config.BaseURL = polartest.New(polartest.Config{}).URL()
	config.HTTPClient = &http.Client{Transport: s}
	client, err := NewClient(config)
	require.NoError(t, err)
	return client
}

func TestARequestNamesTheProgramAndNoPolarVersion(t *testing.T) {
	t.Parallel()
	s := &seen{answer: func(int, *http.Request) (*http.Response, error) {
		return response(404, `{"error":"ResourceNotFound","detail":"Not found"}`), nil
	}}
	client := seenClient(t, s, ClientConfig{App: "ink well", Version: "1.4.2"})
	_, err := client.Validate(t.Context(), ValidateRequest{Key: newKey("ACME-KEY"), Conditions: map[string]any{"n": 1}})
	require.ErrorIs(t, err, ErrUnknownKey)
	require.Equal(t, 1, s.count())
	r := s.requests[0]
	assert.Equal(t, http.MethodPost, r.Method)
	assert.Equal(t, "/v1/customer-portal/license-keys/validate", r.URL.Path)
	assert.Empty(t, r.URL.RawQuery, "no key in a URL")
	assert.Equal(t, int64(len(s.bodies[0])), r.ContentLength)
	assert.Empty(t, r.TransferEncoding)
	assert.Regexp(t, `^ink-well/1\.4\.2 polargate(/\S+)? \([a-z0-9]+; [a-z0-9]+\)$`, r.Header.Get("User-Agent"))
	assert.Equal(t, "application/json", r.Header.Get("Content-Type"))
	assert.Empty(t, r.Header.Get("Authorization"))
	assert.Empty(t, r.Header.Get("Polar-Version"), "a version that Polar drops one day would be a 404 for ever")
	assert.JSONEq(t, `{"key":"ACME-KEY","organization_id":"`+testOrganization+`","conditions":{"n":1}}`, s.bodies[0],
		"what is not asked is left out: null is a 422 for maps")
}

func TestWithATokenTheServersEndpointsAreAsked(t *testing.T) {
	t.Parallel()
	polar := polartest.New(polartest.Config{})
	key := polar.AddKey(polartest.LicenseKey{LimitActivations: polartest.Limit(1)})
	client, err := NewClient(ClientConfig{
		OrganizationID: polar.OrganizationID(), BaseURL: polar.URL(), HTTPClient: polar.Client(),
		AccessToken: polar.AddToken(polartest.Token{}),
	})
	require.NoError(t, err)
	k := newKey(key.Key)
	a, err := client.Activate(t.Context(), ActivateRequest{Key: k, Label: "server"})
	require.NoError(t, err)
	license, err := client.Validate(t.Context(), ValidateRequest{Key: k, ActivationID: a.ID})
	require.NoError(t, err)
	require.NotNil(t, license.Activation)
	assert.Equal(t, "server", license.Activation.Label)
	require.NoError(t, client.Deactivate(t.Context(), k, a.ID))
	require.ErrorIs(t, client.Deactivate(t.Context(), k, a.ID), ErrSeatReleased)
	for _, r := range polar.Requests() {
		assert.True(t, strings.HasPrefix(r.Path, "/v1/license-keys/"), r.Path)
	}
	// Far more than 3 a second: the pace is that of tokens.
	for range 20 {
		_, err := client.Validate(t.Context(), ValidateRequest{Key: k})
		require.NoError(t, err)
	}
}

func TestACallersClientIsNeitherChangedNorLedAstray(t *testing.T) {
	t.Parallel()
	var elsewhere int
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { elsewhere++ }))
	defer other.Close()
	redirecting := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, other.URL, http.StatusTemporaryRedirect)
	}))
	defer redirecting.Close()
	given := &http.Client{Timeout: 7 * time.Second}
	client, err := NewClient(ClientConfig{OrganizationID: testOrganization, BaseURL: redirecting.URL + "/", HTTPClient: given})
	require.NoError(t, err)
	_, err = client.Validate(t.Context(), ValidateRequest{Key: newKey("ACME-KEY")})
	require.ErrorIs(t, err, ErrUnreachable)
	assert.Zero(t, elsewhere, "a redirect would carry the key away")
	assert.Nil(t, given.CheckRedirect)
	assert.Nil(t, given.Transport)
	assert.Equal(t, 7*time.Second, client.http.Timeout)
}

func TestAnAnswerIsReadUpToItsLimitOnly(t *testing.T) {
	t.Parallel()
	for _, extra := range []int{0, 1} {
		polar := polartest.New(polartest.Config{})
		key := polar.AddKey(polartest.LicenseKey{})
		polar.Inject(polartest.Fault{Effect: polartest.Rewrite(func(status int, _ http.Header, body []byte) (int, []byte) {
			// White space is still JSON.
			return status, append(body, bytes.Repeat([]byte(" "), maxAnswer+extra-len(body))...)
		})})
		client := testClient(t, polar, polar.Transport())
		_, err := client.Validate(t.Context(), ValidateRequest{Key: newKey(key.Key)})
		if extra == 0 {
			require.NoError(t, err)
		} else {
			require.ErrorIs(t, err, ErrUnreachable)
			require.ErrorIs(t, err, errTooLong)
		}
	}
}

// spaces is a body of white space that counts how much of it was read.
type spaces struct{ left, read int }

func (s *spaces) Read(p []byte) (int, error) {
	n := min(len(p), s.left)
	if n == 0 {
		return 0, io.EOF
	}
	s.left, s.read = s.left-n, s.read+n
	return copy(p, bytes.Repeat([]byte(" "), n)), nil
}

func TestAnEndlessAnswerIsNotReadToItsEnd(t *testing.T) {
	t.Parallel()
	body := &spaces{left: 8 * maxAnswer}
	client := seenClient(t, &seen{answer: func(int, *http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: 200, Header: http.Header{}, Body: io.NopCloser(body)}, nil
	}}, ClientConfig{})
	_, err := client.Validate(t.Context(), ValidateRequest{Key: newKey("ACME-KEY")})
	require.ErrorIs(t, err, errTooLong)
	assert.LessOrEqual(t, body.read, maxAnswer+1)
}

func TestAClockThatIsWrongDoesNotMakeAGrantedKeyLookExpired(t *testing.T) {
	t.Parallel()
	polar := polartest.New(polartest.Config{})
	key := polar.AddKey(polartest.LicenseKey{ExpiresAt: time.Now().Add(time.Hour)})
	client := testClient(t, polar, polar.Transport())
	client.now = func() time.Time { return time.Now().AddDate(3, 0, 0) }
	license, err := client.Validate(t.Context(), ValidateRequest{Key: newKey(key.Key)})
	require.NoError(t, err)
	assert.WithinDuration(t, time.Now(), license.answeredAt, time.Minute)
}

func TestOurOwnTransportHonoursTheProxyOfTheEnvironment(t *testing.T) {
	t.Parallel()
	client, err := NewClient(ClientConfig{OrganizationID: testOrganization})
	require.NoError(t, err)
	defer client.Close()
	require.NotNil(t, client.own)
	assert.NotNil(t, client.own.Template.Proxy)
	assert.NotSame(t, http.DefaultTransport, client.own.Template)
}

func TestATransportThatGivesNothingIsAnOutage(t *testing.T) {
	t.Parallel()
	client := seenClient(t, &seen{answer: func(int, *http.Request) (*http.Response, error) { return nil, nil }}, ClientConfig{})
	_, err := client.Activate(t.Context(), ActivateRequest{Key: newKey("ACME-KEY")})
	require.ErrorIs(t, err, ErrInDoubt)
}

func TestATransportThatPanicsIsAnOutage(t *testing.T) {
	t.Parallel()
	client := seenClient(t, &seen{answer: func(int, *http.Request) (*http.Response, error) { panic("transport") }}, ClientConfig{})
	_, err := client.Validate(t.Context(), ValidateRequest{Key: newKey("ACME-KEY")})
	require.ErrorIs(t, err, ErrUnreachable)
	_, err = client.Activate(t.Context(), ActivateRequest{Key: newKey("ACME-KEY")})
	require.ErrorIs(t, err, ErrInDoubt, "it may have been sent before")
}

func TestAKeyThatIsNoTextIsNotSent(t *testing.T) {
	t.Parallel()
	s := &seen{}
	var key Key
	require.NoError(t, key.UnmarshalText([]byte("ACME-\xff\xfe")))
	_, err := seenClient(t, s, ClientConfig{}).Validate(t.Context(), ValidateRequest{Key: key})
	var input *InputError
	require.ErrorAs(t, err, &input)
	assert.Zero(t, s.count())
}

func TestARetryThatOurOwnPaceForbidsDoesNotHideWhyTheFirstTryFailed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &seen{answer: func(int, *http.Request) (*http.Response, error) { return response(503, ""), nil }}
		client := seenClient(t, s, ClientConfig{})
		for range permits - 1 {
			done, err := client.pace.Wait(t.Context())
			require.NoError(t, err)
			done(pace.Answered)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 900*time.Millisecond)
		defer cancel()
		_, err := client.Validate(ctx, ValidateRequest{Key: newKey("ACME-KEY")})
		require.ErrorIs(t, err, ErrUnreachable)
		require.NotErrorIs(t, err, ErrRateLimited)
		assert.Equal(t, 1, s.count(), "the next permit would come too late")
	})
}

// What decision 004 promises of Polar's public endpoints: three permits, and how long each
// rests after an answer, and after none.
const (
	permits  = 3
	rest     = 1050 * time.Millisecond
	lostRest = 5 * time.Second
)

// jitterTransport delays each request on its way there and back by up to max.
type jitterTransport struct {
	to  http.RoundTripper
	max time.Duration
	mu  *sync.Mutex
	rng *rand.Rand
}

func withJitter(to http.RoundTripper, longest time.Duration, seed uint64) jitterTransport {
	return jitterTransport{to, longest, &sync.Mutex{}, rand.New(rand.NewPCG(seed, seed))}
}

func (j jitterTransport) delay() time.Duration {
	if j.max == 0 {
		return 0
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	return time.Duration(j.rng.Int64N(int64(j.max)))
}

func (j jitterTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	time.Sleep(j.delay())
	resp, err := j.to.RoundTrip(r)
	time.Sleep(j.delay())
	return resp, err
}

func testClient(t *testing.T, polar *polartest.Polar, transport http.RoundTripper) *Client {
	t.Helper()
	client, err := NewClient(ClientConfig{
		OrganizationID: polar.OrganizationID(),
		BaseURL:        polar.URL(),
		HTTPClient:     &http.Client{Transport: transport},
	})
	require.NoError(t, err)
	return client
}

func countStatus(polar *polartest.Polar, status int) int {
	n := 0
	for _, r := range polar.Requests() {
		if r.Status == status {
			n++
		}
	}
	return n
}

func TestPacedRequestsAreNeverRefusedWhateverTheNetworkDelays(t *testing.T) {
	t.Parallel()
	for name, longest := range map[string]time.Duration{
		"no delay":       0,
		"a fast network": 50 * time.Millisecond,
		"a slow one":     800 * time.Millisecond,
		"a wild one":     4 * time.Second,
	} {
		for seed := range uint64(5) {
			synctest.Test(t, func(t *testing.T) {
				polar := polartest.New(polartest.Config{})
				key := polar.AddKey(polartest.LicenseKey{})
				k, err := ParseKey(key.Key)
				require.NoError(t, err)
				// Two clients: the limit counts the address, not the client.
				clients := []*Client{
					testClient(t, polar, withJitter(polar.Transport(), longest, seed)),
					testClient(t, polar, withJitter(polar.Transport(), longest, seed+100)),
				}
				const calls = 60
				began := time.Now()
				var group sync.WaitGroup
				for i := range calls {
					group.Go(func() {
						_, err := clients[i%2].Validate(context.Background(), ValidateRequest{Key: k})
						assert.NoError(t, err, name)
					})
				}
				group.Wait()
				assert.Equal(t, calls, countStatus(polar, 200), name)
				assert.Zero(t, countStatus(polar, 429), name)
				if longest == 0 {
					// 60 calls by three permits in turn: 19 rests, and no more.
					assert.Equal(t, 19*rest, time.Since(began))
				}
			})
		}
	}
}

// bucketTransport paces with a token bucket, the obvious way.
type bucketTransport struct {
	to      http.RoundTripper
	limiter *rate.Limiter
}

func (b bucketTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	if err := b.limiter.Wait(r.Context()); err != nil {
		return nil, err
	}
	return b.to.RoundTrip(r)
}

func TestATokenBucketOfThreeWouldBeBlockedWithinASecond(t *testing.T) {
	t.Parallel()
	for name, limiter := range map[string]*rate.Limiter{
		"rate 3 burst 3": rate.NewLimiter(3, 3),
		"rate 3 burst 1": rate.NewLimiter(3, 1),
	} {
		synctest.Test(t, func(t *testing.T) {
			polar := polartest.New(polartest.Config{})
			key := polar.AddKey(polartest.LicenseKey{})
			// Plain HTTP, since our own pace is what this is compared with.
			client := &http.Client{Transport: bucketTransport{withJitter(polar.Transport(), 200*time.Millisecond, 1), limiter}}
			began := time.Now()
			refused := atomic.Int64{}
			refused.Store(-1)
			var group sync.WaitGroup
			for range 12 {
				group.Go(func() {
					resp, err := client.Post(polar.URL()+"/v1/customer-portal/license-keys/validate", "application/json",
						jsonBody(t, map[string]any{"key": key.Key, "organization_id": polar.OrganizationID()}))
					if assert.NoError(t, err) {
						resp.Body.Close()
						if resp.StatusCode == 429 {
							refused.CompareAndSwap(-1, int64(time.Since(began)))
						}
					}
				})
			}
			group.Wait()
			assert.NotZero(t, countStatus(polar, 429), name)
			if name == "rate 3 burst 3" {
				assert.Less(t, time.Duration(refused.Load()), time.Second, name)
			}
		})
	}
}

func TestAfterA429NoRequestIsSentBeforeThePauseIsOver(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		polar := polartest.New(polartest.Config{})
		key := polar.AddKey(polartest.LicenseKey{})
		k, err := ParseKey(key.Key)
		require.NoError(t, err)
		client, other := testClient(t, polar, polar.Transport()), testClient(t, polar, polar.Transport())
		polar.Inject(polartest.Fault{Times: 1, Effect: polartest.RateLimited("42")})

		_, err = client.Validate(context.Background(), ValidateRequest{Key: k})
		var failed *Error
		require.ErrorAs(t, err, &failed)
		assert.Equal(t, ErrRateLimited, failed.Reason)
		assert.Equal(t, 42*time.Second, failed.RetryAfter)
		assert.Contains(t, err.Error(), "Try again in 45 seconds")
		assert.Equal(t, 1, polar.Count("/validate"), "a 429 is not retried")

		time.Sleep(41 * time.Second)
		before := time.Now()
		_, err = other.Validate(context.Background(), ValidateRequest{Key: k})
		require.ErrorAs(t, err, &failed)
		assert.Equal(t, ErrRateLimited, failed.Reason)
		assert.Equal(t, time.Second, failed.RetryAfter)
		assert.Equal(t, before, time.Now(), "the pause is reported, not slept through")
		assert.Equal(t, 1, polar.Count("/validate"))

		time.Sleep(time.Second)
		_, err = other.Validate(context.Background(), ValidateRequest{Key: k})
		require.NoError(t, err)
	})
}

func TestRetryAfterIsReadInBothFormsAndCapped(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	for header, want := range map[string]time.Duration{
		"":                              time.Minute,
		"3":                             3 * time.Second,
		" 60 ":                          time.Minute,
		"0":                             time.Second,
		"-5":                            defaultPause,
		"soon":                          defaultPause,
		"999999999":                     maxPause,
		"99999999999999999999":          defaultPause,
		"Sun, 22 Nov 2026 12:01:30 GMT": 90 * time.Second,
		"Sun, 22 Nov 2020 12:01:30 GMT": time.Second,
		"Sun, 22 Nov 2099 12:01:30 GMT": maxPause,
	} {
		assert.Equal(t, want, retryAfter(header, now), "%q", header)
	}
}

func TestAPermitWhoseRequestTimedOutRestsLonger(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		polar := polartest.New(polartest.Config{})
		key := polar.AddKey(polartest.LicenseKey{})
		k, err := ParseKey(key.Key)
		require.NoError(t, err)
		client := testClient(t, polar, polar.Transport())
		polar.Inject(polartest.Fault{Effect: polartest.Hang()})
		for range permits {
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			_, err := client.Validate(ctx, ValidateRequest{Key: k})
			require.ErrorIs(t, err, ErrUnreachable)
			require.ErrorIs(t, err, context.DeadlineExceeded)
			cancel()
		}
		polar.ClearFaults()
		// The first of the three was lost two seconds ago.
		began := time.Now()
		_, err = client.Validate(context.Background(), ValidateRequest{Key: k})
		require.NoError(t, err)
		assert.Equal(t, lostRest-2*time.Second, time.Since(began))
	})
}

func TestACallThatWasCancelledBeforeTakesNothingOfTheBudget(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		client, err := NewClient(tokenConfig())
		require.NoError(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		for range 20 {
			_, err := client.customerState(ctx, ExternalID("usr_1"), testOrganization, nil, nil)
			require.ErrorIs(t, err, context.Canceled)
		}
		assert.Equal(t, 60, atOnce(t, client.pace), "the whole burst of 300 a minute")
	})
}

// atOnce takes all requests that may go now, and counts them.
func atOnce(t *testing.T, pacer pace.Pacer) (n int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	for {
		if _, err := pacer.Wait(ctx); err != nil {
			return n
		}
		n++
	}
}

func TestOurOwnPaceIsNeverReportedAsAnOutage(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		token  string
		err    error
		wait   time.Duration
		detail string
		cause  error
	}{
		"a permit after the deadline":    {"", &pace.LateError{Limit: "the limit", For: time.Second}, time.Second, "the limit allows the next one only after the caller's deadline", context.DeadlineExceeded},
		"a call that ends before it":     {"", &pace.StoppedError{Limit: "the limit", For: time.Second, Err: context.Canceled}, 0, "while waiting for the limit", context.Canceled},
		"a pause":                        {"", &pace.PausedError{For: time.Minute}, time.Minute, "waiting out a pause that Polar asked for", nil},
		"a budget after the deadline":    {"polar_oat_x", &pace.LateError{Limit: "the limit", For: time.Second}, time.Second, "the limit allows the next one only after the caller's deadline", context.DeadlineExceeded},
		"a call that ends before that":   {"polar_oat_x", &pace.StoppedError{Limit: "the limit", For: time.Second, Err: context.Canceled}, time.Second, "while waiting for the limit", context.Canceled},
		"a pause that a token was asked": {"polar_oat_x", &pace.PausedError{For: time.Minute}, time.Minute, "waiting out a pause that Polar asked for", nil},
	} {
		config := tokenConfig()
		config.AccessToken = c.token
		client, err := NewClient(config)
		require.NoError(t, err)
		failed := client.notItsTurn(opValidate, c.err)
		require.ErrorIs(t, failed, ErrRateLimited, name)
		require.NotErrorIs(t, failed, ErrUnreachable, name)
		assert.Equal(t, opValidate, failed.Op, name)
		assert.Equal(t, c.wait, failed.RetryAfter, name)
		assert.Equal(t, c.detail, failed.Detail, name)
		assert.Equal(t, c.cause, failed.Err, name)
		assert.Equal(t, c.token != "" && c.cause != nil, failed.unasked, name)
		assert.Equal(t, c.cause == nil, failed.heldBack, name)
	}
}

func TestTheSandboxIsAskedLessOften(t *testing.T) {
	t.Parallel()
	assert.Equal(t, 100, defaultPerMinute(Sandbox, ""))
	assert.Equal(t, 300, defaultPerMinute(Production, ""))
	assert.Equal(t, 300, defaultPerMinute("", ""))
	assert.Equal(t, 300, defaultPerMinute(Sandbox, "https://polar.example.com"), "a server of one's own")
}

func TestAClosedClientKeepsNothingOfItsTokensBudget(t *testing.T) {
	t.Parallel()
	var budgets []weak.Pointer[pace.Budget]
	synctest.Test(t, func(t *testing.T) {
		for i := range 100 {
			client, err := NewClient(tokenConfig())
			require.NoError(t, err)
			budgets = append(budgets, weak.Make(client.pace.(*pace.Budget)))
			if i%2 == 0 { // has asked
				_, err := client.pace.Wait(t.Context())
				require.NoError(t, err)
			}
			client.Close()
		}
		time.Sleep(time.Minute) // and as good as new again
	})
	assert.Eventually(t, func() bool {
		runtime.GC()
		return !slices.ContainsFunc(budgets, func(b weak.Pointer[pace.Budget]) bool { return b.Value() != nil })
	}, time.Minute, time.Millisecond)
}

// tokenConfig is a client with a token that no other test has.
func tokenConfig() ClientConfig {
	return ClientConfig{OrganizationID: testOrganization, AccessToken: fmt.Sprintf("polar_oat_%d", rand.Uint64()), BaseURL: "http://polar.test"}
}

func TestALimitIsKeptWhileAnotherClientHasItsToken(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		config := tokenConfig()
		open := func() *Client {
			client, err := NewClient(config)
			require.NoError(t, err)
			return client
		}
		one, other := open(), open()
		one.pace.PauseFor(10 * time.Minute)
		one.Close()
		runtime.GC()
		assert.Same(t, one.pace, other.pace)
		_, err := open().pace.Wait(t.Context())
		var paused *pace.PausedError
		require.ErrorAs(t, err, &paused, "the pause is everybody's")
		other.Close()
	})
}

func TestClosingAClientDoesNotResetTheRequestBudget(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		spend   func(t *testing.T, client *Client)
		refusal any
	}{
		"of requests": {func(t *testing.T, client *Client) {
			assert.Equal(t, 60, atOnce(t, client.pace))
		}, new(*pace.LateError)},
		"during a pause": {func(_ *testing.T, client *Client) { client.pace.PauseFor(2 * time.Minute) }, new(*pace.PausedError)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				config := tokenConfig()
				client, err := NewClient(config)
				require.NoError(t, err)
				c.spend(t, client)
				client.Close()
				client = nil
				for range 3 {
					runtime.GC()
				}
				client, err = NewClient(config)
				require.NoError(t, err)
				ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
				defer cancel()
				_, err = client.pace.Wait(ctx)
				require.ErrorAs(t, err, c.refusal)
			})
		})
	}
}

func FuzzRetryAfter(f *testing.F) {
	for _, seed := range []string{
		"", "0", "1", "60", " 7 ", "-1", "+5", "1.5", "1e3", "4294967295", "4294967296", "99999999999999999999", "０", "60s", "\x00",
		"Sun, 22 Nov 2026 12:00:40 GMT", "Sunday, 22-Nov-26 12:00:40 GMT", "Sun Nov 22 12:00:40 2026", "Sun, 22 Nov 1926 12:00:40 GMT", "Fri, 31 Dec 9999 23:59:59 GMT", "Sun, 22 Nov 2026 12:00:40 CET",
	} {
		f.Add(seed, int64(0))
		f.Add(seed, int64(1)<<62)
	}
	f.Fuzz(func(t *testing.T, header string, nanos int64) {
		d := retryAfter(header, time.Unix(0, nanos).UTC())
		require.GreaterOrEqual(t, d, time.Second, "a pause that is none would be asked in at once")
		require.LessOrEqual(t, d, maxPause, "nobody is silenced for days")
		require.Equal(t, d, pace.Within(d, maxPause), "the pause is believed")
	})
}

func FuzzDate(f *testing.F) {
	for _, seed := range []string{
		"", "Sun, 22 Nov 2026 12:00:00 GMT", "Sun, 22 Nov 2026 12:00:00 +0100", "Sun, 22 Nov 2026 25:00:00 GMT", "Mon, 01 Jan 0001 00:00:00 GMT",
		"Fri, 31 Dec 9999 23:59:59 GMT", "Sunday, 22-Nov-26 12:00:00 GMT", "Sun Nov 22 12:00:00 2026", "2026-11-22T12:00:00Z", "0", "\xff",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, date string) {
		otherwise := time.Date(2026, 11, 22, 9, 0, 0, 0, time.UTC)
		at := serverTime(&http.Response{Header: http.Header{"Date": {date}}}, otherwise)
		require.Equal(t, time.UTC, at.Location())
		// Whatever clock answers, a grant by it can be kept, and opens again.
		license := &LicenseKey{Status: KeyGranted, BenefitID: "b", ExpiresAt: otherwise.Add(time.Hour), answeredAt: at}
		v := nextVerdict(nil, license, nil, otherwise, time.Hour)
		s := newSealer("o", "a", "")
		sealed, err := s.sealVerdict(v, &seat{Key: "k"}, "f")
		require.NoError(t, err)
		again, err := s.openVerdict(sealed, &seat{Key: "k"}, "f")
		require.NoError(t, err)
		require.Equal(t, v, again)
		got := evaluate(again, otherwise, time.Hour, 24*time.Hour)
		require.NotEqual(t, ErrClockSetBack, got.reason, "a foreign clock sets no mark here")
	})
}

// unpaced lets every request go at once.
type unpaced struct{}

func (unpaced) Wait(context.Context) (func(pace.Outcome), error) {
	return func(pace.Outcome) {}, nil
}

func (unpaced) PauseFor(time.Duration) {}

func (unpaced) PauseLeft() time.Duration { return 0 }

// oneAnswer is a transport that needs no network.
type oneAnswer func() *http.Response

func (a oneAnswer) RoundTrip(*http.Request) (*http.Response, error) { return a(), nil }

func isUUID4(id string) bool {
	_, ok := wire.CanonicalUUID4(id)
	return ok
}

// FuzzAnswers gives a client whole answers: status, two headers and body.
func FuzzAnswers(f *testing.F) {
	const key, id = "INKWELL-SECRET", "11111111-2222-4333-8444-555555555555"
	license := `{"id":"a","key":"` + key + `","organization_id":"` + testOrganization + `","benefit_id":"b","status":"granted"}`
	for _, seed := range []struct {
		status                   int
		header, retryAfter, body string
	}{
		{200, "application/json", "", license},
		{200, "application/json", "", `{"id":"` + id + `","license_key":` + license + `}`},
		{200, "text/html", "", "<html>"},
		{204, "", "", ""},
		{404, "application/json", "", `{"error":"ResourceNotFound","detail":"Not found"}`},
		{404, "application/json", "", `{"detail":"Not Found"}`},
		{403, "application/json", "", `{"error":"NotPermitted","detail":"License key activation limit already reached"}`},
		{401, "application/json", "", `{"error":"invalid_token","error_description":"` + key + `"}`},
		{422, "application/json", "", `{"error":"RequestValidationError","detail":[{"loc":["body"],"msg":"` + key + `"}]}`},
		{429, "application/json", "60", ""}, {302, "text/html", "", ""}, {511, "text/html", "", "login"}, {500, "", "", "Internal Server Error"},
	} {
		f.Add(seed.status, seed.header, seed.retryAfter, []byte(seed.body))
	}
	f.Fuzz(func(t *testing.T, status int, contentType, retry string, body []byte) {
		answers := 0
		client, err := NewClient(ClientConfig{OrganizationID: testOrganization, HTTPClient: &http.Client{Transport: oneAnswer(func() *http.Response {
			answers++
			return &http.Response{
				StatusCode: status, ProtoMajor: 1, ProtoMinor: 1,
				Header: http.Header{"Content-Type": {contentType}, "Retry-After": {retry}},
				Body:   io.NopCloser(bytes.NewReader(body)),
			}
		})}})
		require.NoError(t, err)
		client.pace = unpaced{}
		// Too little time to wait for another try.
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		for op, call := range map[string]func() (any, error){
			opValidate: func() (any, error) {
				l, err := client.validate(ctx, ValidateRequest{Key: newKey(key)})
				return l, err
			},
			opActivate: func() (any, error) {
				a, err := client.Activate(ctx, ActivateRequest{Key: newKey(key)})
				return a, err
			},
			opDeactivate: func() (any, error) { return nil, client.Deactivate(ctx, newKey(key), id) },
		} {
			got, err := call()
			if err != nil {
				var e *Error
				require.ErrorAs(t, err, &e)
				require.Equal(t, op, e.Op)
				require.NotEmpty(t, e.Reason)
				require.NotContains(t, err.Error(), key)
				require.NotContains(t, Message(err), key)
				if e.Reason.Denial() && status != 200 {
					require.Contains(t, []int{400, 403, 404}, status)
				}
				if e.Reason.Denial() {
					require.True(t, json.Valid(body), "a denial is in Polar's shape")
				}
				continue
			}
			if op == opDeactivate {
				require.Equal(t, 204, status)
				continue
			}
			require.Equal(t, 200, status)
			var license *LicenseKey
			switch got := got.(type) {
			case *LicenseKey:
				license = got
			case *Activation:
				require.True(t, isUUID4(got.ID))
				license = got.LicenseKey
			}
			require.Equal(t, key, license.Key.Reveal(), "a grant is of the key that was asked about")
			require.True(t, wire.SameUUID(license.OrganizationID, testOrganization))
			require.Equal(t, KeyGranted, license.Status)
		}
		require.LessOrEqual(t, answers, 5, "only a validation is repeated")
	})
}

// brokenOff is a body that ends with its context, in the middle of an answer.
type brokenOff struct {
	io.Reader
	ctx context.Context
	end func() error
}

func (b *brokenOff) Read(p []byte) (int, error) {
	if n, _ := b.Reader.Read(p); n > 0 {
		return n, nil
	}
	<-b.ctx.Done()
	return 0, b.end()
}

func (b *brokenOff) Close() error { return nil }

// Over HTTP/1.1, net/http 1.26 reports the cause with which a context ended in place of its error; and the
// body of an answer over TLS can end as if it were complete.
func TestACallThatItsCallerEndedWithACauseIsNotAnOutage(t *testing.T) {
	t.Parallel()
	partly := func(r *http.Request, end func() error) (*http.Response, error) {
		return &http.Response{StatusCode: 200, Header: http.Header{"Content-Type": {"application/json"}}, Body: &brokenOff{strings.NewReader(`{"id":"`), r.Context(), end}}, nil
	}
	for when, trip := range map[string]roundTripper{
		"before the answer": func(r *http.Request) (*http.Response, error) {
			<-r.Context().Done()
			return nil, context.Cause(r.Context())
		},
		"within the answer": func(r *http.Request) (*http.Response, error) {
			return partly(r, func() error { return context.Cause(r.Context()) })
		},
		"within the answer, which seems complete": func(r *http.Request) (*http.Response, error) {
			return partly(r, func() error { return io.EOF })
		},
	} {
		t.Run(when, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				client, err := NewClient(ClientConfig{OrganizationID: testOrganization, HTTPClient: &http.Client{Transport: trip}})
				require.NoError(t, err)
				client.pace = unpaced{}
				mine := errors.New("the window was closed")

				ctx, cancel := context.WithCancelCause(t.Context())
				time.AfterFunc(time.Second, func() { cancel(mine) })
				_, err = client.Validate(ctx, ValidateRequest{Key: newKey(pastedKey)})
				require.ErrorIs(t, err, context.Canceled)
				assert.Equal(t, "Cancelled. It may still complete in the background.", Message(err))
				assert.NotContains(t, err.Error(), mine.Error())

				late, stop := context.WithTimeoutCause(t.Context(), time.Second, mine)
				defer stop()
				_, err = client.Validate(late, ValidateRequest{Key: newKey(pastedKey)})
				require.ErrorIs(t, err, context.DeadlineExceeded)
				assert.Contains(t, Message(err), "didn't answer in time")
			})
		})
	}
}
