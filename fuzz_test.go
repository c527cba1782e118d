package polargate

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// The two headers that decide when to ask again and what time it is. Fuzz
// targets of bodies are beside the tests of their decoders.

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
		require.Equal(t, d, within(d, maxPause), "the pacer believes it")
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
		got := stand(again, otherwise, time.Hour, 24*time.Hour)
		require.NotEqual(t, ErrClockSetBack, got.reason, "a foreign clock sets no mark here")
	})
}

// unpaced lets every request go at once.
type unpaced struct{}

func (unpaced) start(context.Context) (func(outcome), error) { return func(outcome) {}, nil }

func (unpaced) pauseFor(time.Duration) {}

// oneAnswer is a transport that needs no network.
type oneAnswer func() *http.Response

func (a oneAnswer) RoundTrip(*http.Request) (*http.Response, error) { return a(), nil }

func isUUID4(id string) bool {
	_, ok := canonicalUUID4(id)
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
			require.True(t, sameUUID(license.OrganizationID, testOrganization))
			require.Equal(t, KeyGranted, license.Status)
		}
		require.LessOrEqual(t, answers, 5, "only a validation is repeated")
	})
}

// FuzzCustomerState reads states of customers: whatever comes is refused, or is of
// who was asked about and grants nothing that is not in it.
func FuzzCustomerState(f *testing.F) {
	for _, fields := range [][]string{
		nil, {"deleted_at", `"2026-01-01T00:00:00Z"`}, {"granted_benefits", "null"}, {"active_meters", `[{"meter_id":7,"balance":1e999}]`},
		{"external_id", "null"}, {"granted_benefits", `[{"benefit_id":"` + stateBenefit + `","benefit_metadata":"x"},null,3]`},
		{"metadata", `{"__external_id":"usr_1"}`},
	} {
		f.Add(stateWith(fields...))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		e, err := stateOfUser(body)
		if err != nil {
			require.Nil(t, e)
			return
		}
		require.Equal(t, "usr_1", e.ExternalID())
		require.True(t, isUUID4(e.CustomerID()))
		if !e.Known() {
			require.Empty(t, e.Features())
			require.Empty(t, e.Benefits())
		}
		if e.Has("pro") {
			_, ok := e.Benefit(stateBenefit)
			require.True(t, ok)
		}
		for _, b := range e.Benefits() {
			require.NotNil(t, b.Metadata())
			require.True(t, e.Meets(Benefit(b.ID())))
		}
		for _, m := range e.Meters() {
			require.False(t, math.IsNaN(m.Balance) || math.IsInf(m.Balance, 0))
			require.True(t, e.Meets(Meter(m.ID(), m.Balance)))
		}
		require.NotContains(t, fmt.Sprintf("%+v", *e), "usr_1")
	})
}

// FuzzWebhook gives a handler requests. What is not signed changes nothing; what is
// signed is answered, whatever is in it.
func FuzzWebhook(f *testing.F) {
	const secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
	event := `{"type":"customer.state_changed","timestamp":"2026-01-01T00:00:00Z","data":` + string(stateWith()) + `}`
	for _, seed := range []struct{ id, at, signature, body string }{
		{"evt_1", "", "", event},
		{"evt_1", "1", "v1,AAAA", event},
		{"evt_1", "", "v1,", `{"type":"customer.deleted","timestamp":"2026-01-01T00:00:00Z","data":{"id":"` + stateCustomer + `"}}`},
		{"", "-1", "v1a,x v1,====", "{}"},
		{"evt_1", "9999999999999999999999", strings.Repeat("v1,AAAA ", 100), "null"},
		{"evt_1", "", "", `{"type":"order.paid","data":[]}`},
	} {
		f.Add(seed.id, seed.at, seed.signature, []byte(seed.body), seed.at == "")
	}
	keys := webhookKeys(secret)
	f.Fuzz(func(t *testing.T, id, at, signature string, body []byte, sign bool) {
		customers, err := NewCustomers(CustomersConfig{AccessToken: "t", OrganizationID: testOrganization, Features: map[string][]string{stateBenefit: {"pro"}}})
		require.NoError(t, err)
		defer customers.Close()
		if sign {
			at = strconv.FormatInt(time.Now().Unix(), 10)
			mac := hmac.New(sha256.New, keys[len(keys)-1])
			mac.Write([]byte(id + "." + at + "."))
			mac.Write(body)
			signature += " v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil))
		}
		r := httptest.NewRequest(http.MethodPost, "/", bytes.NewReader(body))
		r.Header.Set("Webhook-Id", id)
		r.Header.Set("Webhook-Timestamp", at)
		r.Header.Set("Webhook-Signature", signature)
		w := httptest.NewRecorder()
		customers.WebhookHandler(secret).ServeHTTP(w, r)
		stats := customers.Stats()
		switch w.Code {
		case http.StatusNoContent:
			require.True(t, sign)
			require.True(t, stats.Events > 0 == (stats.Cached > 0))
		case http.StatusUnauthorized:
			require.Zero(t, stats.Cached)
			require.EqualValues(t, 1, stats.Refused)
		default:
			require.Greater(t, len(body), maxEvent)
		}
	})
}
