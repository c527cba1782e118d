package polargate

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/polargate/polargate/internal/clock"
	"github.com/polargate/polargate/internal/pace"
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

// FuzzCustomerState reads bodies as the state of a customer.
func FuzzCustomerState(f *testing.F) {
	for _, state := range goldenStates(f) {
		f.Add([]byte(state.Response.Body))
	}
	f.Add(stateWith(`,"granted_benefits":[{"benefit_id":"` + proID + `","benefit_metadata":{"a":[1e999]}}],"active_meters":[{"meter_id":"x","balance":-0.0,"credited_units":1.7e308,"consumed_units":-1.7e308}]`))
	f.Add(stateWith(`,"active_meters":[{"meter_id":"x","credited_units":1.7e308,"consumed_units":-1.7e308}]`))
	f.Add(stateWith(`,"deleted_at":"2026-11-22","metadata":{"__external_id":"x"}`))
	f.Add(stateOf(benchCustomer, "\xff", 3))
	features := map[string][]string{proID: {"pro", "export"}}
	f.Fuzz(func(t *testing.T, body []byte) {
		at := time.Unix(1_800_000_000, 0)
		e, err := readEvent(body, "", features)
		_, errDeleted := readDeleted(body, "")
		if err != nil {
			require.Nil(t, e)
			return
		}
		require.NoError(t, errDeleted, "who can be read can be read as deleted")
		require.True(t, isUUID4(e.CustomerID()))
		again, err := readState(body, at, CustomerID(e.CustomerID()), "", features)
		require.NoError(t, err)
		e.at = clock.PolarTime(at)
		require.Equal(t, e, again)
		_, err = readState(body, at, CustomerID(teaID), "", features)
		require.True(t, err != nil || e.CustomerID() == teaID, "an answer about somebody else")
		if e.ExternalID() != "" {
			_, err = readState(body, at, ExternalID(e.ExternalID()+"x"), "", features)
			require.ErrorIs(t, err, errForeignState)
		}
		if !e.Known() {
			require.Empty(t, e.Features())
			require.Empty(t, e.Benefits())
			require.Empty(t, e.Products())
			require.Empty(t, e.Meters())
			return
		}
		require.Equal(t, e.Has("pro"), e.Meets(Benefit(proID)), "a feature comes with its benefit and not else")
		require.Equal(t, e.Has("pro"), e.Has("export"))
		var ids []string
		for _, b := range e.Benefits() {
			require.NotEmpty(t, b.ID())
			require.NotNil(t, b.Metadata())
			require.True(t, e.Meets(Benefit(b.ID())))
			ids = append(ids, b.ID())
		}
		require.True(t, sortedOnce(ids))
		ids = nil
		for _, m := range e.Meters() {
			require.NotEmpty(t, m.ID())
			require.False(t, math.IsNaN(m.Balance) || math.IsInf(m.Balance, 0))
			require.True(t, e.Meets(Meter(m.ID(), m.Balance)))
			ids = append(ids, m.ID())
		}
		require.True(t, sortedOnce(ids))
		require.True(t, sortedOnce(e.Products()))
		for _, p := range e.Products() {
			require.True(t, e.Meets(Product(p)))
		}
		require.Equal(t, "polargate.Entitlements{Customer:"+e.CustomerID()+"}", fmt.Sprintf("%+v", e))
	})
}

func sortedOnce(ids []string) bool {
	return slices.IsSorted(ids) && len(slices.Compact(slices.Clone(ids))) == len(ids)
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
		if id == "" || len(id) > maxEventID || len(body) > maxEvent {
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
		who, err := readDeleted(said.Data, "")
		require.NoError(t, err)
		found := customers.cache.entryOf(CustomerID(who.CustomerID()).key)
		require.NotNil(t, found)
		have := found.value()
		require.Equal(t, who.CustomerID(), have.CustomerID())
		found = customers.cache.entryOf(ExternalID(have.ExternalID()).key)
		require.Equal(t, ExternalID(have.ExternalID()).check() == nil, found != nil)
	})
}
