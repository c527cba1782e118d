package polargate

import (
	"bufio"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
	"unsafe"

	"github.com/polargate/polargate/internal/clock"
	"github.com/polargate/polargate/internal/keyring"
	"github.com/polargate/polargate/internal/pace"
	"github.com/polargate/polargate/internal/rights"
	"github.com/polargate/polargate/internal/seal"
	"github.com/polargate/polargate/internal/signed"
	"github.com/polargate/polargate/internal/wire"
	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const (
	oldSecret = "polar_whs_9aPq3nY7Zc1XkT5mR8wL2vB4dF6gH0jE"
	newSecret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw" // as in the specification's example
	proID     = "850cc3a4-3ed7-4be6-b198-127ec8d33bb9"
)

// offlineCustomers cannot reach Polar: what they know, they know from events.
func offlineCustomers(t *testing.T, change ...func(*CustomersConfig)) *Customers {
	t.Helper()
	config := CustomersConfig{
		AccessToken: "polar_oat_test_" + strconv.FormatUint(rand.Uint64(), 36), BaseURL: "http://polar.test",
		OrganizationID: testOrganization, Features: map[string][]string{proID: {"pro"}},
		HTTPClient: &http.Client{Transport: oneAnswer(func() *http.Response {
			return &http.Response{StatusCode: 503, Body: http.NoBody, Header: http.Header{}}
		})},
		Timeout: 200 * time.Millisecond,
	}
	for _, c := range change {
		c(&config)
	}
	customers, err := NewCustomers(config)
	require.NoError(t, err)
	t.Cleanup(func() { _ = customers.Close() })
	return customers
}

// event is a webhook of Polar's before it is signed.
type event struct {
	id, body string
	at       time.Time
}

func stateChanged(id string, at time.Time, external string, benefits ...string) event {
	var grants []string
	for _, b := range benefits {
		grants = append(grants, fmt.Sprintf(`{"benefit_id":%q,"benefit_type":"custom","benefit_metadata":{}}`, b))
	}
	return event{id, fmt.Sprintf(`{"type":"customer.state_changed","timestamp":%q,"data":{"id":%q,"external_id":%q,"organization_id":%q,"active_subscriptions":[],"active_meters":[],"granted_benefits":[%s]}}`,
		at.UTC().Format(time.RFC3339Nano), benchCustomer, external, testOrganization, strings.Join(grants, ",")), time.Now()}
}

// signedBy signs as the specification's own library does, with a key of bytes.
func (e event) signedBy(t *testing.T, key []byte) *http.Request {
	t.Helper()
	oracle, err := standardwebhooks.NewWebhookRaw(key)
	require.NoError(t, err)
	signature, err := oracle.Sign(e.id, e.at, []byte(e.body))
	require.NoError(t, err)
	r := httptest.NewRequest(http.MethodPost, "/webhooks/polar", strings.NewReader(e.body))
	r.Header.Set("Webhook-Id", e.id)
	r.Header.Set("Webhook-Timestamp", strconv.FormatInt(e.at.Unix(), 10))
	r.Header.Set("Webhook-Signature", signature)
	return r
}

func answerOf(h http.Handler, r *http.Request) int {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w.Code
}

func newKeyBytes(t *testing.T) []byte {
	t.Helper()
	key, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(newSecret, "whsec_"))
	require.NoError(t, err)
	return key
}

func TestWebhooksAreVerifiedWithAllKeysThatAreMadeOfASecret(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		secrets []string
		key     []byte
		want    int
	}{
		"the bytes of an older secret":                  {[]string{oldSecret}, []byte(oldSecret), 204},
		"the bytes of an older secret with the prefix":  {[]string{newSecret}, []byte(newSecret), 204},
		"the base64 in a newer secret":                  {[]string{newSecret}, newKeyBytes(t), 204},
		"the base64 of a secret without prefix":         {[]string{strings.TrimPrefix(newSecret, "whsec_")}, newKeyBytes(t), 204},
		"the same without its padding":                  {[]string{strings.TrimRight("MDEyMzQ1Njc4OWFiY2RlZg==", "=")}, []byte("0123456789abcdef"), 204},
		"the bytes of a secret without prefix":          {[]string{strings.TrimPrefix(newSecret, "whsec_")}, []byte(strings.TrimPrefix(newSecret, "whsec_")), 204},
		"a secret of one's own words":                   {[]string{"öffne dich"}, []byte("öffne dich"), 204},
		"the second of two secrets, while one replaces": {[]string{oldSecret, newSecret}, newKeyBytes(t), 204},
		"the first of two secrets":                      {[]string{oldSecret, newSecret}, []byte(oldSecret), 204},
		"another secret":                                {[]string{oldSecret}, []byte("another"), 401},
		"a secret cut short":                            {[]string{oldSecret}, []byte(oldSecret[:20]), 401},
		"no secret at all":                              {nil, []byte("x"), 401},
		"an empty secret is none":                       {[]string{""}, []byte{0}, 401},
		"white space alone is none":                     {[]string{" \r\n"}, []byte(" \r\n"), 401},
		"an older secret out of a file":                 {[]string{oldSecret + "\n"}, []byte(oldSecret), 204},
		"a newer secret out of a file":                  {[]string{" " + newSecret + "\r\n"}, newKeyBytes(t), 204},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			customers := offlineCustomers(t)
			h := customers.WebhookHandler(c.secrets...)
			assert.Equal(t, c.want, answerOf(h, stateChanged("evt_1", time.Now(), "usr_1", proID).signedBy(t, c.key)))
			e, err := customers.Entitlements(t.Context(), ExternalID("usr_1"))
			if c.want == 204 {
				require.NoError(t, err)
				assert.True(t, e.Has("pro"))
			} else {
				require.ErrorIs(t, err, ErrUnreachable)
			}
		})
	}
}

// The first is the example of the specification; all were made by Standard Webhooks' own
// library for Node.
func TestTheSignaturesOfStandardWebhooksAreVerified(t *testing.T) {
	t.Parallel()
	const id, sent, body = "msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330", `{"test": 2432232314}`
	for secret, signature := range map[string]string{
		newSecret:                               "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
		strings.TrimPrefix(newSecret, "whsec_"): "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
		"open sesame":                           "v1,IHfZRFSWyUcSWdJ9RhdSXqW1RvZWN1JoTqYHS7D9E/c=",
	} {
		assert.True(t, signed.By(signed.KeysOf(secret), id, sent, signature, []byte(body)), secret)
		assert.False(t, signed.By(signed.KeysOf(secret), id, sent, signature, []byte(body+" ")), secret)
		assert.False(t, signed.By(signed.KeysOf(secret+"x"), id, sent, signature, []byte(body)), secret)
	}
}

func TestEventsWithoutAValidSignatureAreRefused(t *testing.T) {
	t.Parallel()
	key := []byte(oldSecret)
	good := stateChanged("evt_1", time.Now(), "usr_1", proID)
	for name, spoil := range map[string]func(r *http.Request) *http.Request{
		"no headers": func(r *http.Request) *http.Request { r.Header = http.Header{}; return r },
		"no id":      func(r *http.Request) *http.Request { r.Header.Del("Webhook-Id"); return r },
		"another id": func(r *http.Request) *http.Request { r.Header.Set("Webhook-Id", "evt_2"); return r },
		"a very long id": func(r *http.Request) *http.Request {
			return event{strings.Repeat("e", 10_000), good.body, time.Now()}.signedBy(t, key)
		},
		"no time":             func(r *http.Request) *http.Request { r.Header.Del("Webhook-Timestamp"); return r },
		"a time that is none": func(r *http.Request) *http.Request { r.Header.Set("Webhook-Timestamp", "now"); return r },
		"another time": func(r *http.Request) *http.Request {
			r.Header.Set("Webhook-Timestamp", strconv.FormatInt(time.Now().Unix()+2, 10))
			return r
		},
		"signed six minutes ago": func(*http.Request) *http.Request {
			return event{"evt_1", good.body, time.Now().Add(-6 * time.Minute)}.signedBy(t, key)
		},
		"signed six minutes ahead": func(*http.Request) *http.Request {
			return event{"evt_1", good.body, time.Now().Add(6 * time.Minute)}.signedBy(t, key)
		},
		"no signature":              func(r *http.Request) *http.Request { r.Header.Del("Webhook-Signature"); return r },
		"a signature without words": func(r *http.Request) *http.Request { r.Header.Set("Webhook-Signature", "v1,"); return r },
		"a signature of version 2": func(r *http.Request) *http.Request {
			r.Header.Set("Webhook-Signature", strings.Replace(r.Header.Get("Webhook-Signature"), "v1,", "v2,", 1))
			return r
		},
		"a signature of nonsense": func(r *http.Request) *http.Request { r.Header.Set("Webhook-Signature", "v1,%%%"); return r },
		"half a signature": func(r *http.Request) *http.Request {
			s := r.Header.Get("Webhook-Signature")
			r.Header.Set("Webhook-Signature", s[:len(s)/2])
			return r
		},
		"the right one after ten thousand wrong ones": func(r *http.Request) *http.Request {
			r.Header.Set("Webhook-Signature", strings.Repeat("v1,AAAA ", 10_000)+r.Header.Get("Webhook-Signature"))
			return r
		},
		"another body": func(r *http.Request) *http.Request {
			other := httptest.NewRequest(http.MethodPost, "/", strings.NewReader(strings.Replace(good.body, "usr_1", "usr_2", 1)))
			other.Header = r.Header
			return other
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var log strings.Builder
			customers := offlineCustomers(t, func(c *CustomersConfig) { c.Logger = slog.New(slog.NewTextHandler(&log, nil)) })
			assert.Equal(t, 401, answerOf(customers.WebhookHandler(oldSecret), spoil(good.signedBy(t, key))))
			assert.EqualValues(t, 1, customers.Stats().Refused)
			assert.Zero(t, customers.Stats().Cached)
			assert.Contains(t, log.String(), "webhook was refused")
			assert.NotContains(t, log.String(), "usr_1")
			assert.NotContains(t, log.String(), oldSecret)
		})
	}
}

func TestABodyThatIsTooLongIsNotRead(t *testing.T) {
	t.Parallel()
	customers := offlineCustomers(t)
	long := event{"evt_1", `{"type":"` + strings.Repeat("x", maxEvent) + `"}`, time.Now()}
	assert.Equal(t, 413, answerOf(customers.WebhookHandler(oldSecret), long.signedBy(t, []byte(oldSecret))))
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	assert.Equal(t, 405, answerOf(customers.WebhookHandler(oldSecret), r))
}

// pipes is a network in memory, in which time can be that of a test.
type pipes struct {
	conns  chan net.Conn
	closed chan struct{}
	close  func()
}

func newPipes() *pipes {
	p := &pipes{conns: make(chan net.Conn), closed: make(chan struct{})}
	p.close = sync.OnceFunc(func() { close(p.closed) })
	return p
}

func (p *pipes) dial() net.Conn {
	ours, theirs := net.Pipe()
	p.conns <- theirs
	return ours
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error { p.close(); return nil }

func (p *pipes) Addr() net.Addr { return &net.UnixAddr{Name: "pipes", Net: "unix"} }

// unread is a body that fails a test which reads it.
type unread struct{ t *testing.T }

func (b unread) Read([]byte) (int, error) {
	b.t.Error("the body was read")
	return 0, io.EOF
}

func TestABodyWithoutASignatureIsNotEvenRead(t *testing.T) {
	t.Parallel()
	customers := offlineCustomers(t)
	for name, spoil := range map[string]func(http.Header){
		"no signature":           func(h http.Header) { h.Del("Webhook-Signature") },
		"no id":                  func(h http.Header) { h.Del("Webhook-Id") },
		"signed ten minutes ago": func(h http.Header) { h.Set("Webhook-Timestamp", strconv.FormatInt(time.Now().Unix()-600, 10)) },
	} {
		r := stateChanged("evt_1", time.Now(), "usr_1").signedBy(t, []byte(oldSecret))
		spoil(r.Header)
		r.Body = io.NopCloser(unread{t})
		assert.Equal(t, 401, answerOf(customers.WebhookHandler(oldSecret), r), name)
	}
	assert.EqualValues(t, 3, customers.Stats().Refused)
}

func TestABodyThatDripsInIsGivenUpAfterFiveSeconds(t *testing.T) {
	t.Parallel()
	for name, headers := range map[string]string{
		"with headers":    "Webhook-Id: evt_1\r\nWebhook-Signature: v1,AAAA\r\n",
		"without headers": "",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				customers := offlineCustomers(t)
				line := newPipes()
				server := &http.Server{Handler: customers.WebhookHandler(oldSecret)}
				go func() { _ = server.Serve(line) }()
				defer func() { _ = server.Close() }()
				conn := line.dial()
				began := time.Now()
				if headers != "" {
					headers += fmt.Sprintf("Webhook-Timestamp: %d\r\n", began.Unix())
				}
				_, err := fmt.Fprintf(conn, "POST / HTTP/1.1\r\nHost: x\r\n%sContent-Length: 1000\r\n\r\n", headers)
				require.NoError(t, err)
				var drip sync.WaitGroup
				drip.Go(func() {
					for err := error(nil); err == nil; _, err = conn.Write([]byte("x")) {
						time.Sleep(time.Second)
					}
				})
				// When the answer begins: since Go 1.27, a server closes half a second later.
				answer := bufio.NewReader(conn)
				_, err = answer.ReadString('\n')
				require.NoError(t, err)
				assert.Equal(t, 5*time.Second, time.Since(began))
				_, err = io.Copy(io.Discard, answer)
				require.NoError(t, err)
				drip.Wait()
			})
		})
	}
}

func TestASignedEventThatCannotBeReadHasPolarAsked(t *testing.T) {
	t.Parallel()
	for name, spoil := range map[string]func(body string) string{
		"a list that is none": func(body string) string {
			return strings.Replace(body, `"granted_benefits":[]`, `"granted_benefits":"all of them"`, 1)
		},
		"no time": func(body string) string { return strings.Replace(body, `"timestamp"`, `"when"`, 1) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				customers := stating(t, func(external string) *http.Response { return stateNow(external, 1, proID) }, func(c *CustomersConfig) { c.FreshFor = time.Hour })
				both := []CustomerRef{ExternalID("usr_1"), CustomerID(benchCustomer)}
				look := func() {
					for _, ref := range both {
						_, err := customers.Entitlements(t.Context(), ref)
						require.NoError(t, err)
					}
				}
				look()
				look()
				require.EqualValues(t, 1, customers.Stats().Requests, "once for both ids")
				time.Sleep(time.Minute)
				e := stateChanged("evt_1", time.Now(), "usr_1")
				e.body = spoil(e.body)
				require.Equal(t, 204, answerOf(customers.WebhookHandler(oldSecret), e.signedBy(t, []byte(oldSecret))))
				require.EqualValues(t, 1, customers.Stats().Refused)
				look()
				look()
				assert.EqualValues(t, 2, customers.Stats().Requests, "once more")
			})
		})
	}
}

func TestAnEventIsAppliedOnceAndNeverAfterANewerOne(t *testing.T) {
	t.Parallel()
	customers := offlineCustomers(t)
	h := customers.WebhookHandler(oldSecret)
	has := func(want bool) {
		t.Helper()
		for _, ref := range []CustomerRef{ExternalID("usr_1"), CustomerID(benchCustomer)} {
			e, err := customers.Entitlements(t.Context(), ref)
			require.NoError(t, err)
			assert.Equal(t, want, e.Has("pro"), "%v", ref)
		}
	}
	key, now := []byte(oldSecret), time.Now()
	bought := stateChanged("evt_bought", now.Add(-3*time.Second), "usr_1", proID)
	canceled := stateChanged("evt_canceled", now.Add(-2*time.Second), "usr_1")
	require.Equal(t, 204, answerOf(h, bought.signedBy(t, key)))
	has(true)
	require.Equal(t, 204, answerOf(h, canceled.signedBy(t, key)))
	has(false)
	require.Equal(t, 204, answerOf(h, bought.signedBy(t, key)), "a repeated one is acknowledged")
	has(false)
	late := stateChanged("evt_late", now.Add(-2500*time.Millisecond), "usr_1", proID)
	require.Equal(t, 204, answerOf(h, late.signedBy(t, key)), "and so is a late one")
	has(false)
	again := stateChanged("evt_again", now.Add(-time.Second), "usr_1", proID)
	require.Equal(t, 204, answerOf(h, again.signedBy(t, key)))
	has(true)
	stats := customers.Stats()
	assert.Equal(t, []int64{3, 1, 1, 0}, []int64{stats.Events, stats.Repeated, stats.Outdated, stats.Refused})
	assert.Zero(t, stats.Requests, "events have the last word among events")
}

func TestAnEventIsKnownAgainThoughItsHeadersWereInMemoryThatIsUsedAgain(t *testing.T) {
	t.Parallel()
	customers := offlineCustomers(t)
	h, key := customers.WebhookHandler(oldSecret), []byte(oldSecret)
	memory := make([]byte, 5) // of a server such as fasthttp
	for range 2 {
		copy(memory, "evt_1")
		r := stateChanged("evt_1", time.Now().Add(-time.Second), "usr_1", proID).signedBy(t, key)
		r.Header["Webhook-Id"] = []string{unsafe.String(&memory[0], len(memory))}
		require.Equal(t, 204, answerOf(h, r))
		copy(memory, "#####")
	}
	assert.EqualValues(t, 1, customers.Stats().Repeated)
}

func TestADeletedCustomerHasNothingAndDoesNotComeBackByALateEvent(t *testing.T) {
	t.Parallel()
	for name, data := range map[string]string{
		"with the program's id":            `{"id":%q,"external_id":"usr_1","organization_id":%q}`,
		"with the id where Polar moves it": `{"id":%q,"external_id":null,"organization_id":%q,"metadata":{"__external_id":"usr_1"}}`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			customers := offlineCustomers(t)
			h, key, now := customers.WebhookHandler(oldSecret), []byte(oldSecret), time.Now()
			require.Equal(t, 204, answerOf(h, stateChanged("evt_1", now.Add(-3*time.Second), "usr_1", proID).signedBy(t, key)))
			deleted := event{"evt_2", fmt.Sprintf(`{"type":"customer.deleted","timestamp":%q,"data":`+data+`}`, now.Add(-time.Second).UTC().Format(time.RFC3339Nano), benchCustomer, testOrganization), now}
			require.Equal(t, 204, answerOf(h, deleted.signedBy(t, key)))
			require.Equal(t, 204, answerOf(h, stateChanged("evt_3", now.Add(-2*time.Second), "usr_1", proID).signedBy(t, key)))
			for _, ref := range []CustomerRef{ExternalID("usr_1"), CustomerID(benchCustomer)} {
				e, err := customers.Entitlements(t.Context(), ref)
				require.NoError(t, err)
				assert.False(t, e.Known())
				assert.False(t, e.Has("pro"))
				open := customers.Middleware(func(*http.Request) CustomerRef { return ref })(http.NotFoundHandler())
				assert.Equal(t, http.StatusPaymentRequired, answerOf(open, httptest.NewRequest(http.MethodGet, "/", nil)), "nor is a route open that asks for nothing more")
			}
		})
	}
}

func TestADeletionThatNamesAnIdOfAnotherCustomerLeavesThemAlone(t *testing.T) {
	t.Parallel()
	customers := offlineCustomers(t)
	h, key, now := customers.WebhookHandler(oldSecret), []byte(oldSecret), time.Now()
	require.Equal(t, 204, answerOf(h, stateChanged("evt_1", now.Add(-3*time.Second), "usr_1", proID).signedBy(t, key)))
	const former = "11111111-2222-4333-8444-555555555555"
	deleted := event{"evt_2", fmt.Sprintf(`{"type":"customer.deleted","timestamp":%q,"data":{"id":%q,"external_id":"usr_1","organization_id":%q}}`, now.Add(-time.Second).UTC().Format(time.RFC3339Nano), former, testOrganization), now}
	require.Equal(t, 204, answerOf(h, deleted.signedBy(t, key)))
	e, err := customers.Entitlements(t.Context(), ExternalID("usr_1"))
	require.NoError(t, err)
	assert.True(t, e.Has("pro"))
	e, err = customers.Entitlements(t.Context(), CustomerID(former))
	require.NoError(t, err)
	assert.False(t, e.Known())
}

func TestACustomerWhoGetsAnotherIdIsNotFoundByTheOldOne(t *testing.T) {
	t.Parallel()
	customers := offlineCustomers(t)
	h, key, now := customers.WebhookHandler(oldSecret), []byte(oldSecret), time.Now()
	require.Equal(t, 204, answerOf(h, stateChanged("evt_1", now.Add(-2*time.Second), "usr_1", proID).signedBy(t, key)))
	require.Equal(t, 204, answerOf(h, stateChanged("evt_2", now.Add(-time.Second), "usr_2", proID).signedBy(t, key)))
	e, err := customers.Entitlements(t.Context(), ExternalID("usr_2"))
	require.NoError(t, err)
	assert.True(t, e.Has("pro"))
	_, err = customers.Entitlements(t.Context(), ExternalID("usr_1"))
	require.ErrorIs(t, err, ErrUnreachable, "nothing is known of it any more")
}

func TestSignedEventsThatMeanNothingHereAreAcknowledged(t *testing.T) {
	t.Parallel()
	now := time.Now().UTC().Format(time.RFC3339Nano)
	for name, c := range map[string]struct {
		body             string
		ignored, refused int64
	}{
		"a type that nobody knows yet":    {`{"type":"customer.promoted","timestamp":"` + now + `","data":{}}`, 1, 0},
		"an order":                        {`{"type":"order.created","data":[]}`, 1, 0},
		"no type":                         {`{}`, 1, 0},
		"null":                            {`null`, 0, 1},
		"no JSON":                         {`hello`, 0, 1},
		"a state without an id":           {`{"type":"customer.state_changed","timestamp":"` + now + `","data":{"granted_benefits":[],"active_subscriptions":[]}}`, 0, 1},
		"a state without its lists":       {`{"type":"customer.state_changed","timestamp":"` + now + `","data":{"id":"` + benchCustomer + `"}}`, 0, 1},
		"a state without a time":          {`{"type":"customer.state_changed","data":{"id":"` + benchCustomer + `","granted_benefits":[],"active_subscriptions":[]}}`, 0, 1},
		"a state of another organization": {`{"type":"customer.state_changed","timestamp":"` + now + `","data":{"id":"` + benchCustomer + `","organization_id":"549c44b7-2e67-4e0e-8a20-17e76c895830","granted_benefits":[],"active_subscriptions":[]}}`, 0, 1},
		"a state that is a list":          {`{"type":"customer.state_changed","timestamp":"` + now + `","data":[]}`, 0, 1},
		"the deletion of nobody":          {`{"type":"customer.deleted","timestamp":"` + now + `","data":{}}`, 0, 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			customers := offlineCustomers(t)
			assert.Equal(t, 204, answerOf(customers.WebhookHandler(oldSecret), event{"evt_1", c.body, time.Now()}.signedBy(t, []byte(oldSecret))))
			stats := customers.Stats()
			assert.Equal(t, []int64{c.ignored, c.refused, 0}, []int64{stats.Ignored, stats.Refused, stats.Events})
			assert.Zero(t, stats.Cached)
		})
	}
}

func TestARequestThatWasMadeWithoutABodyIsRefused(t *testing.T) {
	t.Parallel()
	r, err := http.NewRequest(http.MethodPost, "/", nil)
	require.NoError(t, err)
	require.Nil(t, r.Body)
	customers := offlineCustomers(t)
	assert.Equal(t, 400, answerOf(customers.WebhookHandler(oldSecret), r))
	assert.EqualValues(t, 1, customers.Stats().Refused)
}

// The clock here is a minute ahead, which webhooks tolerate.
func TestA404IsDatedByPolarsClock(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		customers := offlineCustomers(t, func(c *CustomersConfig) {
			c.Timeout = 5 * time.Second
			c.HTTPClient = &http.Client{Transport: oneAnswer(func() *http.Response {
				date := time.Now().UTC().Format(http.TimeFormat)
				time.Sleep(2 * time.Second)
				return &http.Response{StatusCode: 404, Header: http.Header{"Date": {date}, "Content-Type": {"application/json"}},
					Body: io.NopCloser(strings.NewReader(`{"error":"ResourceNotFound","detail":"Not found"}`))}
			})}
		})
		customers.client.now = func() time.Time { return time.Now().Add(time.Minute) }
		done := make(chan struct{})
		go func() {
			defer close(done)
			_, _ = customers.Entitlements(t.Context(), ExternalID("usr_1")) // a moment before they buy
		}()
		time.Sleep(time.Second)
		require.Equal(t, 204, answerOf(customers.WebhookHandler(oldSecret), stateChanged("evt_1", time.Now(), "usr_1", proID).signedBy(t, []byte(oldSecret))))
		<-done
		e, err := customers.Entitlements(t.Context(), ExternalID("usr_1"))
		require.NoError(t, err)
		assert.True(t, e.Has("pro"), "the event is younger")
	})
}

// stating is Customers of a Polar that says states as it is told to.
func stating(t *testing.T, says func(external string) *http.Response, change ...func(*CustomersConfig)) *Customers {
	t.Helper()
	return offlineCustomers(t, append([]func(*CustomersConfig){func(c *CustomersConfig) {
		c.Timeout = 5 * time.Second
		c.HTTPClient = &http.Client{Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
			return says(strings.Split(r.URL.Path, "/")[4]), nil
		})}
	}}, change...)...)
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// stateNow is Polar's answer about a customer who has so many units, and benefits.
func stateNow(external string, units int, benefits ...string) *http.Response {
	grants := make([]string, 0, len(benefits))
	for _, b := range benefits {
		grants = append(grants, fmt.Sprintf(`{"benefit_id":%q,"benefit_type":"custom","benefit_metadata":{}}`, b))
	}
	body := fmt.Sprintf(`{"id":%q,"external_id":%q,"organization_id":%q,"active_subscriptions":[],"active_meters":[{"meter_id":%q,"consumed_units":0,"credited_units":%d,"balance":%d}],"granted_benefits":[%s]}`,
		benchCustomer, external, testOrganization, someMeter, units, units, strings.Join(grants, ","))
	return &http.Response{
		StatusCode: 200, Body: io.NopCloser(strings.NewReader(body)),
		Header: http.Header{"Date": {time.Now().UTC().Format(http.TimeFormat)}, "Content-Type": {"application/json"}},
	}
}

const someMeter = "aaf2bfea-ac4f-40eb-99ad-de858ccdfd97"

// Polar's own cache does not know of the cancellation for a while.
func TestAnAnswerThatWasUnderWayDoesNotHideAnEvent(t *testing.T) {
	t.Parallel()
	for name, ahead := range map[string]bool{"that was taken in": false, "that an answer was ahead of": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				var delay atomic.Int64
				var cancelledThere atomic.Bool
				customers := stating(t, func(string) *http.Response {
					has := []string{proID}
					if cancelledThere.Load() {
						has = nil
					}
					time.Sleep(time.Duration(delay.Load()))
					return stateNow("usr_1", 1, has...)
				}, func(c *CustomersConfig) { c.FreshFor = time.Hour })
				refresh := func() { _, err := customers.Refresh(t.Context(), ExternalID("usr_1")); assert.NoError(t, err) }
				refresh()
				time.Sleep(time.Minute)
				cancelled := time.Now()
				time.Sleep(7 * time.Second)
				if ahead {
					refresh()
					time.Sleep(time.Second)
				}
				delay.Store(int64(2 * time.Second))
				var group sync.WaitGroup
				group.Go(refresh)
				time.Sleep(time.Second)
				require.Equal(t, 204, answerOf(customers.WebhookHandler(oldSecret), stateChanged("evt_1", cancelled, "usr_1").signedBy(t, []byte(oldSecret))))
				cancelledThere.Store(true)
				group.Wait()
				e, err := customers.Entitlements(t.Context(), ExternalID("usr_1"))
				require.NoError(t, err)
				assert.False(t, e.Has("pro"))
			})
		})
	}
}

func TestAnEventThatSaysItIsFromTheFutureShadowsNoLaterOne(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		customers := offlineCustomers(t)
		h, key := customers.WebhookHandler(oldSecret), []byte(oldSecret)
		early := stateChanged("evt_1", time.Now().Add(2*time.Hour), "usr_1", proID)
		early.at = time.Now()
		require.Equal(t, 204, answerOf(h, early.signedBy(t, key)))
		time.Sleep(time.Minute)
		require.Equal(t, 204, answerOf(h, stateChanged("evt_2", time.Now(), "usr_1").signedBy(t, key)))
		assert.EqualValues(t, 2, customers.Stats().Events)
		e, err := customers.Entitlements(t.Context(), ExternalID("usr_1"))
		require.NoError(t, err)
		assert.False(t, e.Has("pro"))
	})
}

// The answer that is ahead, out of a cache of Polar's, is of who had the id before.
func TestAnIdThatWentToAnotherCustomerIsAskedAbout(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		customers := stating(t, func(external string) *http.Response { return stateNow(external, 1, proID) }, func(c *CustomersConfig) { c.FreshFor = time.Hour })
		moved := time.Now()
		time.Sleep(10 * time.Second)
		look := func() { _, err := customers.Entitlements(t.Context(), ExternalID("usr_1")); require.NoError(t, err) }
		look()
		asked := customers.Stats().Requests
		event := stateChanged("evt_1", moved, "usr_1")
		event.body = strings.Replace(event.body, benchCustomer, "11111111-2222-4333-8444-555555555555", 1)
		require.Equal(t, 204, answerOf(customers.WebhookHandler(oldSecret), event.signedBy(t, []byte(oldSecret))))
		look()
		assert.Equal(t, asked+1, customers.Stats().Requests)
	})
}

func TestOurOwnLimitDoesNotCountAsAnOutage(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		customers := stating(t, func(external string) *http.Response { return stateNow(external, 1, proID) })
		_, err := customers.Entitlements(t.Context(), ExternalID("usr_1"))
		require.NoError(t, err)
		time.Sleep(2 * time.Hour)
		budget := customers.client.pace.(*pace.Budget)
		atOnce(t, budget)
		budget.SetPerMinute(6)
		_, err = customers.Entitlements(t.Context(), ExternalID("usr_2"))
		require.ErrorIs(t, err, ErrRateLimited)
		budget.SetPerMinute(30_000)
		time.Sleep(100 * time.Millisecond)
		e, err := customers.Entitlements(t.Context(), ExternalID("usr_1"))
		require.NoError(t, err)
		assert.Less(t, time.Since(e.CheckedAt()), time.Minute, "Polar is there, so an old answer does not do")
	})
}

func TestAnIdIsInNoErrorThatQuotesIt(t *testing.T) {
	t.Parallel()
	customers := offlineCustomers(t, func(c *CustomersConfig) {
		c.Timeout = 5 * time.Second
		c.HTTPClient = &http.Client{Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
			return nil, fmt.Errorf("no rule for %q", r.URL.Path)
		})}
	})
	_, err := customers.Entitlements(t.Context(), ExternalID(`o"brien of the street`))
	require.ErrorContains(t, err, "no rule for")
	assert.NotContains(t, err.Error(), "brien of the street")
}

func TestAnEventThatIsDeliveredManyTimesAtOnceIsAppliedOnce(t *testing.T) {
	t.Parallel()
	customers := offlineCustomers(t)
	h := customers.WebhookHandler(oldSecret)
	one := stateChanged("evt_1", time.Now(), "usr_1", proID)
	var group sync.WaitGroup
	for range 50 {
		r := one.signedBy(t, []byte(oldSecret))
		group.Go(func() { assert.Equal(t, 204, answerOf(h, r)) })
	}
	group.Wait()
	assert.EqualValues(t, 1, customers.Stats().Events)
	assert.EqualValues(t, 49, customers.Stats().Repeated)
}

// The oracle verifies what it is given by the specification: what it takes with a
// newer secret, we take, and what it refuses, we refuse.
func TestTheSpecificationsOwnLibraryAgrees(t *testing.T) {
	t.Parallel()
	oracle, err := standardwebhooks.NewWebhook(newSecret)
	require.NoError(t, err)
	customers := offlineCustomers(t)
	h := customers.WebhookHandler(newSecret)
	for i, age := range []time.Duration{0, time.Minute, 4 * time.Minute, -4 * time.Minute, 7 * time.Minute, -7 * time.Minute} {
		e := stateChanged(fmt.Sprintf("evt_%d", i), time.Now(), "usr_1", proID)
		e.at = time.Now().Add(-age)
		for _, key := range [][]byte{newKeyBytes(t), []byte("wrong")} {
			r := e.signedBy(t, key)
			want := 204
			if oracle.Verify([]byte(e.body), r.Header) != nil {
				want = 401
			}
			assert.Equal(t, want, answerOf(h, r), "aged %s", age)
		}
	}
}

func TestABodyThatAnEarlierHandlerHasReadIsNotBlamedOnTheSecret(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		spoil  func(r *http.Request)
		status int
		says   string
	}{
		"wholly":                       {func(r *http.Request) { _, _ = io.ReadAll(r.Body) }, 500, "read or changed by a handler before"},
		"in part":                      {func(r *http.Request) { _, _ = io.ReadFull(r.Body, make([]byte, 20)) }, 500, "read or changed by a handler before"},
		"and closed":                   {func(r *http.Request) { _, _ = io.ReadAll(r.Body); _ = r.Body.Close() }, 500, "read or changed by a handler before"},
		"and put another in its place": {func(r *http.Request) { r.Body = io.NopCloser(strings.NewReader(`{"type": "customer.created"}`)) }, 500, "read or changed by a handler before"},
		"and limited it":               {func(r *http.Request) { r.Body = http.MaxBytesReader(nil, r.Body, 10) }, 413, "longer than a handler before"},
		"and its length is not known":  {func(r *http.Request) { _, _ = io.ReadAll(r.Body); r.ContentLength = -1 }, 401, "a handler before this one has read it"},
		"and put it back": {func(r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			r.Body = io.NopCloser(strings.NewReader(string(body)))
		}, 204, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			log := &loggedText{}
			customers := offlineCustomers(t, func(c *CustomersConfig) { c.Logger = slog.New(slog.NewTextHandler(log, nil)) })
			handler := customers.WebhookHandler(oldSecret)
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				c.spoil(r)
				handler.ServeHTTP(w, r)
			}))
			defer server.Close()
			r := stateChanged("evt_1", time.Now(), "usr_1", proID).signedBy(t, []byte(oldSecret))
			sent, err := http.NewRequestWithContext(t.Context(), http.MethodPost, server.URL, r.Body)
			require.NoError(t, err)
			sent.Header, sent.ContentLength = r.Header, r.ContentLength
			answer, err := server.Client().Do(sent)
			require.NoError(t, err)
			require.NoError(t, answer.Body.Close())
			assert.Equal(t, c.status, answer.StatusCode)
			assert.Contains(t, log.String(), c.says)
			assert.NotContains(t, log.String(), "secret")
		})
	}
}

// loggedText is a log that many goroutines write.
type loggedText struct {
	mu   sync.Mutex
	text strings.Builder
}

func (r *loggedText) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.text.Write(p)
}

func (r *loggedText) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.text.String()
}

func TestTenThousandUnsignedPostsMakeOneLineAMinuteThatCountsTheOthers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		log := &loggedText{}
		customers := offlineCustomers(t, func(c *CustomersConfig) { c.Logger = slog.New(slog.NewTextHandler(log, nil)) })
		handler := customers.WebhookHandler(oldSecret)
		unsigned := func() {
			require.Equal(t, 401, answerOf(handler, httptest.NewRequest(http.MethodPost, "/", strings.NewReader("{}"))))
		}
		for range 10_000 {
			unsigned()
		}
		assert.Equal(t, 1, strings.Count(log.String(), "\n"))
		require.Equal(t, 401, answerOf(handler, stateChanged("evt_1", time.Now(), "usr_1").signedBy(t, []byte("another"))))
		assert.Equal(t, 2, strings.Count(log.String(), "\n"), "another fault is said beside it")
		assert.Contains(t, log.String(), "no signature fits")
		time.Sleep(time.Minute)
		unsigned()
		assert.Contains(t, log.String(), "suppressed=9999")
		assert.EqualValues(t, 10_002, customers.Stats().Refused, "each is counted")
	})
}

func TestSignedEventsThatCannotBeReadDoNotFillTheLog(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		log := &loggedText{}
		customers := offlineCustomers(t, func(c *CustomersConfig) { c.Logger = slog.New(slog.NewTextHandler(log, nil)) })
		handler := customers.WebhookHandler(oldSecret)
		for i := range 100 {
			e := stateChanged(fmt.Sprint("evt_", i), time.Now(), "usr_1")
			e.body = strings.Replace(e.body, `"timestamp"`, `"when"`, 1)
			require.Equal(t, 204, answerOf(handler, e.signedBy(t, []byte(oldSecret))))
		}
		assert.Equal(t, 1, strings.Count(log.String(), "\n"))
	})
}

// What Polar's own worker sent and signed, when it was recorded.
func TestRecordedEventsOfGrantsDropTheLicenseKeysThatTheyName(t *testing.T) {
	t.Parallel()
	for file, id := range map[string]string{
		"member_model_benefit_grant_created_1": "a596458c-f97a-4779-bcaa-7cbaa681a9d1",
		"benefit_grant_updated_2":              "2214c057-de61-462a-ade8-9cc5254a33a8",
		"member_model_benefit_grant_revoked_2": "07af883b-baa6-4c71-88bd-7bd8fd4d04be",
	} {
		t.Run(file, func(t *testing.T) {
			t.Parallel()
			data, err := os.ReadFile(filepath.Join("polartest", "testdata", "deliveries", file+".json"))
			require.NoError(t, err)
			var recorded struct {
				Secret   string
				Delivery struct {
					Headers map[string]string
					RawBody string `json:"raw_body"`
				}
			}
			require.NoError(t, json.Unmarshal(data, &recorded))
			h, body := recorded.Delivery.Headers, []byte(recorded.Delivery.RawBody)
			require.True(t, signed.By(signed.KeysOf(recorded.Secret), h["webhook-id"], h["webhook-timestamp"], h["webhook-signature"], body))
			var said struct {
				Data struct {
					Customer struct {
						OrganizationID string `json:"organization_id"`
					}
				}
			}
			require.NoError(t, json.Unmarshal(body, &said))
			customers := offlineCustomers(t, func(c *CustomersConfig) { c.OrganizationID = said.Data.Customer.OrganizationID })
			ring := customers.cache.Keys
			id, ok := wire.ParseUUID(id)
			require.True(t, ok)
			now := clock.PolarTime(time.Now())
			ring.Learn([]keyring.Fact{{ID: id, Granted: true, At: now}}, now)
			standing := func() keyring.Standing { return ring.Standings([]keyring.ID{id}, 0)[0] }
			require.True(t, standing().Counts && !standing().Urgent)
			customers.takeEvent(body, time.Now())
			assert.True(t, standing().Urgent, "it is to be asked about before it counts again")
			assert.EqualValues(t, 1, customers.Stats().Events)
		})
	}
}

// FuzzWebhookBody delivers bodies, signed as they should be and not.
func FuzzWebhookBody(f *testing.F) {
	const now = `"timestamp":"2026-11-22T12:00:00Z"`
	for _, state := range goldenStates(f) {
		f.Add([]byte(`{"type":"customer.state_changed",`+now+`,"data":`+string(state.Response.Body)+`}`), "evt_1")
		f.Add([]byte(`{"type":"customer.deleted",`+now+`,"data":`+string(state.Response.Body)+`}`), "evt_2")
	}
	f.Add([]byte(`{"type":"order.created","data":[]}`), "")
	f.Add([]byte(`{"type":"customer.state_changed","timestamp":"0000-01-01","data":`+string(stateWith(""))+`}`), "\n")
	f.Add([]byte(`null`), "é")
	f.Fuzz(func(t *testing.T, body []byte, id string) {
		customers := offlineCustomers(t, func(c *CustomersConfig) { c.AccessToken, c.CacheSize, c.OrganizationID = "polar_oat_fuzz", 8, "" })
		defer customers.Close()
		h := customers.WebhookHandler(oldSecret)
		e := event{id, string(body), time.Now()}
		require.Equal(t, 401, answerOf(h, e.signedBy(t, []byte("another"))))
		require.Zero(t, customers.Stats().Cached)
		r := e.signedBy(t, []byte(oldSecret))
		if id == "" || len(id) > signed.MaxEventID || len(body) > maxEvent {
			require.NotEqual(t, 204, answerOf(h, r))
			require.Zero(t, customers.Stats().Cached)
			return
		}
		require.Equal(t, 204, answerOf(h, r), "what is signed is acknowledged, whatever it says")
		stats := customers.Stats()
		require.EqualValues(t, 1, stats.Events+stats.Ignored+stats.Refused+int64(stats.Held)-1, "and counted once")
		require.Zero(t, stats.Cached, "and decides nothing while it is not known whose events count")
		if stats.Held == 1 {
			customers.learn(customers.organization.held[0].organization)
		}
		stats = customers.Stats()
		require.Zero(t, stats.Panics)
		again := e.signedBy(t, []byte(oldSecret))
		require.Equal(t, 204, answerOf(h, again))
		require.EqualValues(t, 1, customers.Stats().Repeated)
		require.LessOrEqual(t, stats.Cached, 1)
		require.Equal(t, stats.Events > 0, stats.Cached > 0, "only what was taken in is kept")
		require.Equal(t, stats.Cached, customers.Stats().Cached)
		if stats.Events == 0 {
			return
		}
		// Whoever it was: they are found by what the body says, and by nothing else.
		var said struct {
			Data json.RawMessage `json:"data"`
		}
		require.NoError(t, json.Unmarshal(body, &said))
		who, err := rights.ReadDeleted(said.Data, "")
		require.NoError(t, err)
		have, _ := customers.cache.Latest(CustomerID(who.CustomerID()).key)
		require.NotNil(t, have)
		require.Equal(t, who.CustomerID(), have.CustomerID())
		found, _ := customers.cache.Latest(ExternalID(have.External()).key)
		require.Equal(t, ExternalID(have.External()).check() == nil, found != nil)
	})
}

// signature is what Polar signs an event with.
func signature(key []byte, id, at, body string) string {
	mac := hmac.New(sha256.New, key)
	_, _ = mac.Write([]byte(id + "." + at + "." + body))
	return "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil))
}

// The codes of a short key are those of HMAC, which completes a key itself.
func TestAKeyCompletedByHandSignsTheSame(t *testing.T) {
	t.Parallel()
	for _, n := range []int{0, 1, 13, 14, 32, 63, 64, 65, 200} {
		key := []byte(strings.Repeat("k", n))
		assert.Equal(t, signature(key, "id", "1", "body"), signature(seal.MACKey(key), "id", "1", "body"))
		assert.Len(t, key, n, "the caller's is left as it was")
	}
}

// FuzzEvent reads the data of verified events of all types.
func FuzzEvent(f *testing.F) {
	for _, state := range goldenStates(f) {
		f.Add("customer.state_changed", []byte(state.Response.Body))
	}
	f.Add("subscription.past_due", []byte(`{"id":"s","product_id":"p","status":"past_due","ends_at":"9999-12-31T23:59:59Z","seats":1e3,"cancel_at_period_end":"yes"}`))
	f.Add("benefit_grant.revoked", []byte(`{"benefit_id":"b","is_granted":false,"benefit":{"type":"license_keys","metadata":[]},"properties":{"license_key_id":7},"member":{"external_id":"m"}}`))
	f.Add("customer_seat.assigned", []byte(`{"id":"s","status":"claimed","customer_email":"ada@example.com","claimed_at":"0000-01-01"}`))
	f.Add("\n", []byte(`null`))
	f.Fuzz(func(t *testing.T, kind string, data []byte) {
		e := Event{ID: "evt_1", Type: kind, Customer: CustomerID(proID), data: data, features: map[string][]string{proID: {"pro"}}}
		state, isState := e.Entitlements()
		sub, isSub := e.Subscription()
		grant, isGrant := e.Grant()
		seat, isSeat := e.Seat()
		n := 0
		for _, is := range []bool{isState, isSub, isGrant, isSeat} {
			if is {
				n++
			}
		}
		require.LessOrEqual(t, n, 1, "an event is of one kind")
		if n > 0 {
			require.True(t, json.Valid(data), "what is no JSON says nothing")
		}
		require.Equal(t, isSub, sub.ID != "")
		require.Equal(t, isSeat, seat.ID != "")
		if isGrant {
			require.NotEmpty(t, grant.Benefit.ID())
		}
		if isState {
			_, err := json.Marshal(state)
			require.NoError(t, err)
		}
		for _, verb := range []string{"%v", "%+v", "%#v", "%s"} {
			require.Equal(t, "polargate.Event{ID:evt_1 Type:"+kind+"}", fmt.Sprintf(verb, e), "nothing personal is printed")
		}
		own := e.Data()
		if len(own) > 0 {
			own[0]++
			require.NotEqual(t, own[0], e.Data()[0], "the slice is the caller's own")
		}
	})
}
