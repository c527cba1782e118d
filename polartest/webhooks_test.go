package polartest_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/polargate/polargate/polartest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// webhook is what a receiver reads of a body.
type webhook struct {
	Type      string          `json:"type"`
	Timestamp time.Time       `json:"timestamp"`
	Data      json.RawMessage `json:"data"`
}

// arrival is a request as it came to a receiver.
type arrival struct {
	at     time.Time
	header http.Header
	raw    []byte
	webhook
}

// receiver writes down what arrives and answers with the status it was told.
type receiver struct {
	mu       sync.Mutex
	arrivals []arrival
	answer   func(n int, w http.ResponseWriter, r *http.Request) // n counts from 1; nil: 200
}

func (r *receiver) ServeHTTP(w http.ResponseWriter, request *http.Request) {
	a := arrival{at: time.Now(), header: request.Header.Clone()}
	a.raw, _ = io.ReadAll(request.Body)
	_ = json.Unmarshal(a.raw, &a.webhook) // some are no JSON on purpose
	r.mu.Lock()
	r.arrivals = append(r.arrivals, a)
	n, answer := len(r.arrivals), r.answer
	r.mu.Unlock()
	if answer != nil {
		answer(n, w, request)
	}
}

func (r *receiver) seen() []arrival {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]arrival{}, r.arrivals...)
}

func (r *receiver) types() []string {
	types := []string{}
	for _, a := range r.seen() {
		types = append(types, a.Type)
	}
	return types
}

// does answers every request so.
func (r *receiver) does(answer func(n int, w http.ResponseWriter, r *http.Request)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.answer = answer
}

func says(status int) func(int, http.ResponseWriter, *http.Request) {
	return func(_ int, w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) }
}

func settle(t *testing.T, p *polartest.Polar) {
	t.Helper()
	require.NoError(t, p.WaitForDeliveries(t.Context()))
}

// hmacSHA256 is RFC 2104 to the letter, so that nothing of what is under test checks itself.
func hmacSHA256(key, message []byte) []byte {
	if len(key) > sha256.BlockSize {
		sum := sha256.Sum256(key)
		key = sum[:]
	}
	inner, outer := bytes.Repeat([]byte{0x36}, sha256.BlockSize), bytes.Repeat([]byte{0x5c}, sha256.BlockSize)
	for i, b := range key {
		inner[i] ^= b
		outer[i] ^= b
	}
	sum := sha256.Sum256(append(inner, message...))
	sum = sha256.Sum256(append(outer, sum[:]...))
	return sum[:]
}

var errUnsigned = errors.New("no signature matches")

// verify is written from the specification of Standard Webhooks and Polar's two ways to a key.
func verify(header http.Header, body []byte, now time.Time, key []byte) error {
	id, timestamp, signatures := header.Get("Webhook-Id"), header.Get("Webhook-Timestamp"), header.Get("Webhook-Signature")
	if id == "" || timestamp == "" || signatures == "" {
		return errors.New("a header is missing")
	}
	seconds, err := strconv.ParseInt(timestamp, 10, 64)
	if err != nil {
		return err
	}
	if d := now.Sub(time.Unix(seconds, 0)).Abs(); d > 5*time.Minute {
		return fmt.Errorf("%s old or early", d)
	}
	want := hmacSHA256(key, []byte(id+"."+timestamp+"."+string(body)))
	for signature := range strings.SplitSeq(signatures, " ") {
		version, encoded, _ := strings.Cut(signature, ",")
		got, err := base64.StdEncoding.DecodeString(encoded)
		if version == "v1" && err == nil && subtle.ConstantTimeCompare(got, want) == 1 {
			return nil
		}
	}
	return errUnsigned
}

func wholeText(s polartest.Secret) []byte { return []byte(s.Text) }

func afterPrefix(t *testing.T, s polartest.Secret) []byte {
	t.Helper()
	rest, ok := strings.CutPrefix(s.Text, "whsec_")
	require.True(t, ok)
	key, err := base64.StdEncoding.DecodeString(rest)
	require.NoError(t, err)
	return key
}

func TestEveryChangeOfACustomerSendsItsWholeState(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 5, 1, 0, 0, 0, 123_000, time.UTC)
	p := polartest.New(polartest.Config{Unlimited: true, Now: func() time.Time { return now }})
	var r receiver
	e := p.AddEndpoint(polartest.Endpoint{Handler: &r})
	k := p.AddKey(polartest.LicenseKey{})
	c := p.AddCustomer(polartest.Customer{ID: k.CustomerID, ExternalID: "usr_1"})
	subscription := p.Subscribe(c.ID, polartest.Subscription{Meters: []polartest.SubscriptionMeter{{MeterID: meterA}}}, polartest.Benefit{BenefitID: benefitB})
	for _, change := range []struct {
		name   string
		change func()
		types  []string
	}{
		{"a benefit is granted", func() { p.GrantBenefit(c.ID, polartest.Benefit{BenefitID: benefitA}) }, []string{"customer.state_changed"}},
		{"and revoked", func() { p.RevokeBenefit(c.ID, benefitA) }, []string{"customer.state_changed"}},
		{"a key is granted", func() { p.GrantBenefit(c.ID, polartest.Benefit{LicenseKeyID: k.ID}) }, []string{"customer.state_changed"}},
		{"a subscription ends", func() { p.CancelSubscription(c.ID, subscription.ID) }, []string{"customer.state_changed"}},
		{"and comes back", func() { p.RestoreSubscription(c.ID, subscription.ID) }, []string{"customer.state_changed"}},
		{"a meter is debited", func() { p.DebitMeter(c.ID, meterA, 2.5) }, []string{"customer.state_changed"}},
		{"and credited", func() { p.CreditMeter(c.ID, meterA, 10) }, []string{"customer.state_changed"}},
		{"the name changes", func() { p.UpdateCustomer(c.ID, func(c *polartest.Customer) { c.Name = "Ada" }) },
			[]string{"customer.updated", "customer.state_changed"}},
		{"nothing changes", func() { p.UpdateCustomer(c.ID, func(*polartest.Customer) {}) }, []string{}},
		{"a hidden subscription changes", func() { p.Subscribe(c.ID, polartest.Subscription{Status: "incomplete"}) }, []string{"customer.state_changed"}},
	} {
		settle(t, p)
		before := len(r.seen())
		p.Advance(time.Second)
		change.change()
		settle(t, p)
		arrived := r.seen()[before:]
		require.Equal(t, change.types, r.types()[before:], change.name)
		for _, a := range arrived {
			assert.Equal(t, p.Now(), a.Timestamp)
			assert.Regexp(t, `^\{"type":"customer\.[a-z_]+","timestamp":"[0-9T:-]+(\.\d{6})?Z","data":\{"id":"`+c.ID+`","created_at":"`, string(a.raw))
			if a.Type == "customer.state_changed" {
				_, state := stateOf(t, p, c.ID)
				assert.Equal(t, state, string(a.Data), "%s: the webhook says what the endpoint of state does", change.name)
			} else {
				assert.NotContains(t, string(a.Data), "active_subscriptions")
				assert.True(t, bytes.HasSuffix(a.Data, []byte(`?d=404"}`)), "%s", a.Data)
			}
		}
	}
	assert.Equal(t, []string{"customer.created", "customer.state_changed", "customer.state_changed"}, r.types()[:3])

	before := len(r.seen())
	p.DeleteCustomer(c.ID)
	p.DeleteCustomer(c.ID)
	settle(t, p)
	assert.Equal(t, []string{"customer.deleted", "customer.state_changed"}, r.types()[before:])
	var gone customerState
	require.NoError(t, json.Unmarshal(r.seen()[before+1].Data, &gone))
	assert.NotNil(t, gone.DeletedAt)
	assert.Nil(t, gone.ExternalID, "others can have the external ID now; who is gone is told by Polar's own")
	assert.Equal(t, c.ID, gone.ID)
	assert.Empty(t, gone.Benefits)
	assert.Empty(t, gone.Subscriptions)
	assert.Contains(t, string(r.seen()[before].Data), `"metadata":{},"external_id":null`)

	for i, d := range p.Deliveries() {
		a := r.seen()[i]
		assert.Equal(t, "delivered", d.Status)
		assert.Equal(t, e.ID, d.EndpointID)
		assert.Equal(t, c.ID, d.CustomerID)
		assert.Equal(t, a.Type, d.Type)
		assert.Equal(t, a.raw, d.Body)
		assert.True(t, d.At.Equal(a.Timestamp))
		assert.Equal(t, a.header.Get("Webhook-Id"), d.ID)
		require.Len(t, d.Attempts, 1)
		assert.Equal(t, 200, d.Attempts[0].Status)
		assert.Equal(t, []string{"polar.sh webhooks", "application/json", strconv.FormatInt(d.Attempts[0].At.Unix(), 10)},
			[]string{a.header.Get("User-Agent"), a.header.Get("Content-Type"), a.header.Get("Webhook-Timestamp")})
	}
}

func TestSignaturesAreThoseOfTheSpecificationWithEitherKey(t *testing.T) {
	t.Parallel()
	p := unlimited()
	var r receiver
	p.AddCustomer(polartest.Customer{ExternalID: "usr_1"})
	raw, standard := polartest.Secret{Raw: true}, polartest.Secret{}
	for name, test := range map[string]struct {
		secrets    []polartest.Secret
		signatures int
	}{
		"none given":        {nil, 1},
		"made before":       {[]polartest.Secret{raw}, 1},
		"made later":        {[]polartest.Secret{standard}, 1},
		"own text":          {[]polartest.Secret{{Text: "open sesame, it rains", Raw: true}}, 1},
		"longer than block": {[]polartest.Secret{{Text: strings.Repeat("long", 40), Raw: true}}, 1},
		"no prefix":         {[]polartest.Secret{{Text: "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"}}, 1},
		"two at once":       {[]polartest.Secret{raw, standard}, 2},
	} {
		e := p.AddEndpoint(polartest.Endpoint{Handler: &r, Secrets: test.secrets})
		p.DebitMeter("usr_1", meterA, 1)
		settle(t, p)
		a := r.seen()[len(r.seen())-1]
		assert.Len(t, strings.Fields(a.header.Get("Webhook-Signature")), test.signatures, name)
		require.NotEmpty(t, e.Secrets, name)
		for _, s := range e.Secrets {
			key := wholeText(s)
			if !s.Raw {
				s.Text = "whsec_" + strings.TrimPrefix(s.Text, "whsec_")
				key = afterPrefix(t, s)
			}
			require.NoError(t, verify(a.header, a.raw, time.Now(), key), name)
			require.ErrorIs(t, verify(a.header, append(a.raw, ' '), time.Now(), key), errUnsigned, name)
		}
		require.ErrorIs(t, verify(a.header, a.raw, time.Now(), []byte("another")), errUnsigned, name)
		p.UpdateEndpoint(e.ID, func(e *polartest.Endpoint) { e.Disabled = true })
	}

	// the example of the libraries of Standard Webhooks
	e := p.AddEndpoint(polartest.Endpoint{Handler: &r, Secrets: []polartest.Secret{{Text: "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"}}})
	_, err := p.Send(e.ID, polartest.Message{
		ID: "msg_p5jXN8AQM9LWM0D4loKWxJek", Timestamp: time.Unix(1614265330, 0), Body: []byte(`{"test": 2432232314}`),
	})
	require.NoError(t, err)
	a := r.seen()[len(r.seen())-1]
	assert.Equal(t, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=", a.header.Get("Webhook-Signature"))
	assert.Equal(t, "1614265330", a.header.Get("Webhook-Timestamp"))
}

func TestADeliveryIsTriedTenTimesWithPausesThatDouble(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := unlimited()
		r := receiver{answer: says(500)}
		e := p.AddEndpoint(polartest.Endpoint{Handler: &r, Events: []string{"customer.created"}})
		p.AddCustomer(polartest.Customer{})
		settle(t, p)
		var pauses []time.Duration
		var previous time.Time
		for _, a := range r.seen() {
			if !previous.IsZero() {
				pauses = append(pauses, a.at.Sub(previous))
			}
			previous = a.at
			require.NoError(t, verify(a.header, a.raw, a.at, afterPrefix(t, e.Secrets[0])))
			assert.Equal(t, r.seen()[0].header.Get("Webhook-Id"), a.header.Get("Webhook-Id"), "the event stays the same")
			assert.Equal(t, r.seen()[0].raw, a.raw)
			assert.Equal(t, strconv.FormatInt(a.at.Unix(), 10), a.header.Get("Webhook-Timestamp"), "the attempt does not")
		}
		assert.Equal(t, []time.Duration{
			4 * time.Second, 8 * time.Second, 16 * time.Second, 32 * time.Second, 64 * time.Second,
			128 * time.Second, 256 * time.Second, 512 * time.Second, 1024 * time.Second,
		}, pauses)
		d := p.Deliveries()[0]
		assert.Equal(t, "failed", d.Status)
		assert.Len(t, d.Attempts, 10)
		after, _ := p.Endpoint(e.ID)
		assert.Equal(t, 1, after.Failures)
		assert.False(t, after.Disabled)
	})
}

func TestAnyAnswerExceptA2xxInTimeIsAFailedDelivery(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := unlimited()
		var r receiver
		p.AddEndpoint(polartest.Endpoint{Handler: &r, Events: []string{"customer.state_changed"}})
		c := p.AddCustomer(polartest.Customer{})
		settle(t, p)
		p.UpdateCustomer(c.ID, func(c *polartest.Customer) { c.Name = "other" })
		settle(t, p)
		for name, test := range map[string]struct {
			answer func(n int, w http.ResponseWriter, r *http.Request)
			status int
			err    string
			took   time.Duration
		}{
			"200 without a word":   {nil, 200, "", 0},
			"202":                  {says(202), 202, "", 0},
			"204":                  {says(204), 204, "", 0},
			"a body and no status": {func(_ int, w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("ok")) }, 200, "", 0},
			"a redirect": {func(_ int, w http.ResponseWriter, r *http.Request) {
				http.Redirect(w, r, "/elsewhere", http.StatusPermanentRedirect)
			}, 308, "", 0},
			"403": {says(403), 403, "", 0},
			"503": {says(503), 503, "", 0},
			"early hints only": {func(_ int, w http.ResponseWriter, _ *http.Request) {
				w.WriteHeader(103)
				w.WriteHeader(500)
				w.WriteHeader(200)
			}, 500, "", 0},
			"a panic":        {func(int, http.ResponseWriter, *http.Request) { panic("out of cheese") }, 0, "panicked: out of cheese", 0},
			"a sudden end":   {func(int, http.ResponseWriter, *http.Request) { runtime.Goexit() }, 0, "ended without an answer", 0},
			"just in time":   {func(int, http.ResponseWriter, *http.Request) { time.Sleep(10*time.Second - 1) }, 200, "", 10*time.Second - 1},
			"a bit too late": {func(int, http.ResponseWriter, *http.Request) { time.Sleep(10*time.Second + 1) }, 0, "deadline exceeded", 10 * time.Second},
			"never, until Polar hangs up": {func(_ int, _ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, 0,
				"deadline exceeded", 10 * time.Second},
		} {
			first := len(r.seen()) + 1
			r.does(func(n int, w http.ResponseWriter, request *http.Request) {
				if n == first && test.answer != nil {
					test.answer(n, w, request)
				}
			})
			start := time.Now()
			p.DebitMeter(c.ID, meterA, 1)
			settle(t, p)
			deliveries := p.Deliveries()
			d := deliveries[len(deliveries)-1]
			assert.Equal(t, "delivered", d.Status, "%s: at the second attempt, if not the first", name)
			assert.Equal(t, test.status, d.Attempts[0].Status, name)
			took := test.took
			if good := test.err == "" && test.status < 300; good {
				assert.Len(t, d.Attempts, 1, name)
			} else {
				assert.Len(t, d.Attempts, 2, name)
				took += 4 * time.Second
			}
			if test.err == "" {
				require.NoError(t, d.Attempts[0].Err, name)
			} else {
				require.ErrorContains(t, d.Attempts[0].Err, test.err, name)
			}
			assert.Equal(t, took, time.Since(start), name)
		}
	})
}

func TestFirstAttemptsKeepTheirOrderAndRepeatsOvertake(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := unlimited()
		r := receiver{answer: func(n int, w http.ResponseWriter, _ *http.Request) {
			time.Sleep(3 * time.Second)
			if n == 1 {
				w.WriteHeader(502)
			}
		}}
		p.AddEndpoint(polartest.Endpoint{Handler: &r, Events: []string{"customer.state_changed"}})
		c := p.AddCustomer(polartest.Customer{})
		for range 2 {
			time.Sleep(time.Second)
			p.DebitMeter(c.ID, meterA, 1)
		}
		settle(t, p)
		var consumed []string
		var stamps []int64
		for _, a := range r.seen() {
			var s customerState
			require.NoError(t, json.Unmarshal(a.Data, &s))
			units := "none"
			if len(s.Meters) > 0 {
				units = s.Meters[0].ConsumedUnits.String()
			}
			consumed = append(consumed, units)
			stamps = append(stamps, a.Timestamp.Unix()-r.seen()[0].Timestamp.Unix())
		}
		assert.Equal(t, []string{"none", "1.0", "2.0", "none"}, consumed, "the old state comes last, in a new attempt")
		assert.Equal(t, []int64{0, 1, 2, 0}, stamps, "and only the timestamp in the body tells")
	})
}

func TestHeldDeliveriesGoOutInTheOrderInWhichTheyAreReleased(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := unlimited()
		var r receiver
		e := p.AddEndpoint(polartest.Endpoint{Handler: &r, Events: []string{"customer.state_changed"}})
		p.HoldDeliveries()
		c := p.AddCustomer(polartest.Customer{})
		for range 4 {
			p.DebitMeter(c.ID, meterA, 1)
		}
		settle(t, p) // held ones are not waited for
		assert.Empty(t, r.seen())
		var ids []string
		for _, d := range p.Deliveries() {
			assert.Equal(t, "held", d.Status)
			ids = append(ids, d.ID)
		}
		require.Len(t, ids, 5)
		arrived := func() []int {
			order := []int{}
			for _, a := range r.seen() {
				for i, id := range ids {
					if id == a.header.Get("Webhook-Id") {
						order = append(order, i)
					}
				}
			}
			return order
		}
		p.ReleaseDeliveries(ids[3], ids[1])
		settle(t, p)
		assert.Equal(t, []int{3, 1}, arrived())

		r.does(says(500))
		p.ReleaseDeliveries(ids[2])
		time.Sleep(time.Second)
		assert.Equal(t, []int{3, 1, 2}, arrived())
		r.does(nil)
		settle(t, p)
		assert.Equal(t, []int{3, 1, 2, 2}, arrived(), "one that is released is repeated as usual")
		assert.Panics(t, func() { p.ReleaseDeliveries(ids[2]) })

		p.ReleaseDeliveries()
		settle(t, p)
		assert.Equal(t, []int{3, 1, 2, 2, 0, 4}, arrived())

		r.does(says(500))
		p.DebitMeter(c.ID, meterA, 1)
		synctest.Wait()
		p.HoldDeliveries()
		r.does(nil)
		settle(t, p)
		last := func() polartest.Delivery { d := p.Deliveries(); return d[len(d)-1] }
		assert.Equal(t, "held", last().Status, "a repeat is held as well")
		p.DebitMeter(c.ID, meterA, 1)
		p.UpdateEndpoint(e.ID, func(e *polartest.Endpoint) { e.Disabled = true })
		assert.Equal(t, "skipped", last().Status)
		p.ReleaseDeliveries()
		settle(t, p)
		assert.Equal(t, "skipped", last().Status)
	})
}

func TestSendShowsAReceiverWhatItMustRefuse(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := unlimited()
		ids := map[string]bool{}
		secret := polartest.Secret{Text: "whsec_" + base64.StdEncoding.EncodeToString([]byte("a key of the receiver's"))}
		// a receiver as it should be
		handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 1<<20))
			var event struct {
				Type string `json:"type"`
				Data struct {
					OrganizationID string `json:"organization_id"`
				} `json:"data"`
			}
			switch id := r.Header.Get("Webhook-Id"); {
			case err != nil:
				w.WriteHeader(413)
			case verify(r.Header, body, time.Now(), afterPrefix(t, secret)) != nil:
				w.WriteHeader(401)
			case ids[id]:
				w.WriteHeader(208)
			case json.Unmarshal(body, &event) != nil:
				w.WriteHeader(400)
			case event.Type != "customer.state_changed":
				w.WriteHeader(202)
			case event.Data.OrganizationID != p.OrganizationID():
				w.WriteHeader(403)
			default:
				ids[id] = true
			}
		})
		e := p.AddEndpoint(polartest.Endpoint{Handler: handler, Secrets: []polartest.Secret{secret}, Events: []string{"customer.state_changed"}})
		p.AddCustomer(polartest.Customer{})
		settle(t, p)
		d := p.Deliveries()[0]
		other := func(old, with string) []byte { return bytes.ReplaceAll(d.Body, []byte(old), []byte(with)) }
		at := d.Attempts[0].At
		for name, test := range map[string]struct {
			message polartest.Message
			status  int
		}{
			"the same as new":            {polartest.Message{Body: d.Body}, 200},
			"once more":                  {polartest.Message{ID: d.ID, Body: d.Body}, 208},
			"once more, byte for byte":   {polartest.Message{ID: d.ID, Body: d.Body, Timestamp: at}, 208},
			"signed by somebody else":    {polartest.Message{Body: d.Body, Secrets: []polartest.Secret{{}}}, 401},
			"signed by both":             {polartest.Message{Body: d.Body, Secrets: []polartest.Secret{{}, secret}}, 200},
			"the other derivation":       {polartest.Message{Body: d.Body, Secrets: []polartest.Secret{{Text: secret.Text, Raw: true}}}, 401},
			"a signature of nothing":     {polartest.Message{Body: d.Body, Header: http.Header{"Webhook-Signature": {"v1,"}}}, 401},
			"no signature":               {polartest.Message{Body: d.Body, Header: http.Header{"webhook-signature": nil}}, 401},
			"no id":                      {polartest.Message{Body: d.Body, Header: http.Header{"Webhook-Id": {}}}, 401},
			"six minutes old":            {polartest.Message{Body: d.Body, Timestamp: at.Add(-6 * time.Minute)}, 401},
			"six minutes early":          {polartest.Message{Body: d.Body, Timestamp: at.Add(6 * time.Minute)}, 401},
			"a time that is none":        {polartest.Message{Body: d.Body, Header: http.Header{"Webhook-Timestamp": {"today"}}}, 401},
			"an unknown type":            {polartest.Message{Body: other("customer.state_changed", "customer.promoted")}, 202},
			"another organization":       {polartest.Message{Body: other(p.OrganizationID(), benefitA)}, 403},
			"no JSON":                    {polartest.Message{Body: []byte("\x1f\x8b\x08{]")}, 400},
			"no body":                    {polartest.Message{}, 400},
			"more than anybody can read": {polartest.Message{Body: bytes.Repeat([]byte("A"), 8<<20)}, 413},
		} {
			status, err := p.Send(e.ID, test.message)
			require.NoError(t, err, name)
			assert.Equal(t, test.status, status, name)
		}
		assert.Len(t, p.Deliveries(), 1, "none of this is an event")
		assert.PanicsWithValue(t, `polartest: Send: there is no endpoint with the id "x"`, func() { _, _ = p.Send("x", polartest.Message{}) })
	})
}

func TestAdvanceBringsRepeatsForward(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		now := time.Date(2026, 5, 1, 0, 0, 0, 0, time.UTC)
		p := polartest.New(polartest.Config{Unlimited: true, Now: func() time.Time { return now }}) // a clock that stands still
		r := receiver{answer: says(500)}
		p.AddEndpoint(polartest.Endpoint{Handler: &r, Events: []string{"customer.created"}})
		p.AddCustomer(polartest.Customer{})
		attempts := func() int {
			time.Sleep(time.Hour) // is nothing to this Polar
			return len(r.seen())
		}
		assert.Equal(t, 1, attempts())
		p.Advance(4*time.Second - 1)
		p.Advance(-time.Hour)
		p.Advance(time.Hour)
		assert.Equal(t, 1, attempts())
		p.Advance(1)
		assert.Equal(t, 2, attempts())
		r.does(nil)
		p.Advance(time.Hour)
		settle(t, p)
		d := p.Deliveries()[0]
		assert.Equal(t, "delivered", d.Status)
		require.Len(t, d.Attempts, 3)
		assert.Equal(t, time.Hour, d.Attempts[2].At.Sub(d.Attempts[1].At))
	})
}

func TestAStateThatLagsBehindIsTheOldOneForAnHourAtMost(t *testing.T) {
	t.Parallel()
	p := polartest.New(polartest.Config{Unlimited: true, EventuallyConsistent: true})
	c := p.AddCustomer(polartest.Customer{})
	benefits := func() []string {
		state, _ := stateOf(t, p, c.ID)
		return state.benefits()
	}
	assert.Empty(t, benefits())
	p.GrantBenefit(c.ID, polartest.Benefit{BenefitID: benefitA})
	assert.Empty(t, benefits(), "nothing went out")
	p.Advance(59 * time.Minute)
	assert.Empty(t, benefits())
	p.Advance(time.Minute)
	assert.Equal(t, []string{benefitA}, benefits())
	p.RevokeBenefit(c.ID, benefitA)
	assert.Equal(t, []string{benefitA}, benefits())

	p.AddEndpoint(polartest.Endpoint{Handler: http.NotFoundHandler()})
	p.HoldDeliveries()
	p.GrantBenefit(c.ID, polartest.Benefit{BenefitID: benefitB})
	assert.Equal(t, []string{benefitA}, benefits(), "what is held is not out")
	p.RevokeBenefit(c.ID, benefitB)
	assert.Equal(t, []string{benefitA}, benefits())
	require.Len(t, p.Deliveries(), 2)
	seen := func(id string, want ...string) {
		t.Helper()
		p.ReleaseDeliveries(id)
		require.Eventually(t, func() bool {
			for _, d := range p.Deliveries() {
				if d.ID == id {
					return len(d.Attempts) > 0
				}
			}
			return false
		}, 30*time.Second, time.Millisecond)
		assert.Equal(t, append([]string{}, want...), benefits())
	}
	first, second := p.Deliveries()[0].ID, p.Deliveries()[1].ID
	seen(second) // an answer of 404 is no matter: it went out
	seen(first)  // what is older does not come back
	p.DeleteCustomer(c.ID)
	response, _ := ask(t, p.Client(), "GET", "/v1/customers/"+c.ID+"/state", p.AddToken(polartest.Token{}), "")
	assert.Equal(t, 404, response.StatusCode, "that somebody is gone is known at once")
}

func TestWaitingForDeliveriesEndsWithTheContext(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := unlimited()
		r := receiver{answer: says(500)}
		p.AddEndpoint(polartest.Endpoint{Handler: &r})
		require.NoError(t, p.WaitForDeliveries(t.Context()), "there is nothing to wait for")
		p.AddCustomer(polartest.Customer{})
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Second)
		defer cancel()
		require.ErrorIs(t, p.WaitForDeliveries(ctx), context.DeadlineExceeded)
		assert.Len(t, p.Deliveries()[0].Attempts, 4)
		// the bubble ends here with deliveries pending, and is content
	})
}

func TestAReceiverMayAskPolarAndChangeThings(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := unlimited()
		var c polartest.Customer
		r := receiver{answer: func(n int, _ http.ResponseWriter, _ *http.Request) {
			if n <= 5 {
				state, _ := stateOf(t, p, c.ID)
				p.UpdateCustomer(c.ID, func(c *polartest.Customer) { c.Metadata = map[string]any{"webhooks": n} })
				assert.Equal(t, c.ID, state.ID)
			}
		}}
		c = p.AddCustomer(polartest.Customer{})
		p.AddEndpoint(polartest.Endpoint{Handler: &r, Events: []string{"customer.state_changed"}})
		p.GrantBenefit(c.ID, polartest.Benefit{})
		settle(t, p)
		assert.Len(t, r.seen(), 6)
	})
}

func TestOfflineNoWebhookArrives(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := unlimited()
		var r receiver
		e := p.AddEndpoint(polartest.Endpoint{Handler: &r, Events: []string{"customer.created"}})
		p.SetOffline(true)
		p.AddCustomer(polartest.Customer{})
		synctest.Wait()
		_, err := p.Send(e.ID, polartest.Message{})
		require.ErrorIs(t, err, syscall.ENETUNREACH)
		p.SetOffline(false)
		settle(t, p)
		d := p.Deliveries()[0]
		require.Len(t, d.Attempts, 2)
		require.ErrorIs(t, d.Attempts[0].Err, syscall.ENETUNREACH)
		assert.Equal(t, 200, d.Attempts[1].Status)
		assert.Len(t, r.seen(), 1)
	})
}

func TestWebhooksGoOverTheNetworkToAURL(t *testing.T) {
	t.Parallel()
	p := unlimited()
	var r receiver
	mux := http.NewServeMux()
	mux.Handle("POST /webhooks/polar", &r)
	mux.HandleFunc("POST /moved", func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "/webhooks/polar", http.StatusTemporaryRedirect)
	})
	mux.HandleFunc("POST /abort", func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	e := p.AddEndpoint(polartest.Endpoint{URL: server.URL + "/webhooks/polar"})
	p.AddCustomer(polartest.Customer{Name: "Ünï"})
	settle(t, p)
	assert.Equal(t, []string{"customer.created", "customer.state_changed"}, r.types())
	for _, a := range r.seen() {
		require.NoError(t, verify(a.header, a.raw, time.Now(), afterPrefix(t, e.Secrets[0])))
	}
	send := func(url string) (int, error) {
		return p.Send(p.AddEndpoint(polartest.Endpoint{URL: url, Disabled: true}).ID, polartest.Message{Body: []byte("{}")})
	}
	status, err := send(server.URL + "/moved")
	require.NoError(t, err)
	assert.Equal(t, 307, status)
	assert.Len(t, r.seen(), 2, "a redirect is not followed")
	_, err = send(server.URL + "/abort")
	require.Error(t, err)
	server.Close()
	_, err = send(server.URL)
	require.Error(t, err)

	// in process, the same mux sees the same address
	inProcess := p.AddEndpoint(polartest.Endpoint{Handler: mux, URL: "https://shop.example/webhooks/polar"})
	status, err = p.Send(inProcess.ID, polartest.Message{Body: []byte("{}")})
	require.NoError(t, err)
	assert.Equal(t, 200, status)
	assert.Len(t, r.seen(), 3)
	byDefault := p.AddEndpoint(polartest.Endpoint{Handler: mux})
	status, err = p.Send(byDefault.ID, polartest.Message{})
	require.NoError(t, err)
	assert.Equal(t, 200, status)
}

func TestManyChangesAtOnceAreAllDelivered(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 5, 1, 0, 0, 0, 0, time.UTC)
	p := polartest.New(polartest.Config{Unlimited: true, Now: func() time.Time { return now }})
	var one, two receiver
	p.AddEndpoint(polartest.Endpoint{Handler: &one})
	p.AddEndpoint(polartest.Endpoint{Handler: &two, Events: []string{"customer.state_changed"}})
	var group sync.WaitGroup
	for i := range 20 {
		group.Go(func() {
			c := p.AddCustomer(polartest.Customer{ExternalID: fmt.Sprint("usr_", i)})
			for range 5 {
				p.DebitMeter(c.ID, meterA, 1)
			}
			p.Advance(time.Second)
			p.Deliveries()
			p.DeleteCustomer(c.ID)
		})
	}
	group.Wait()
	settle(t, p)
	assert.Len(t, one.seen(), 20*(2+5+2))
	assert.Len(t, two.seen(), 20*(1+5+1))
	previous := time.Time{}
	for _, a := range one.seen() {
		assert.False(t, a.Timestamp.Before(previous), "in the order in which things happened")
		previous = a.Timestamp
	}
}
