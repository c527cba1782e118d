package polargate

import (
	"bytes"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/polargate/polargate/lease"
	"github.com/stretchr/testify/require"
)

// FuzzLeaseAnswers has whoever is between a program and its license server answer anything.
func FuzzLeaseAnswers(f *testing.F) {
	const key = "INKWELL-SECRET"
	private := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{7}, 32))
	public := private.Public().(ed25519.PublicKey)
	issued := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	text, err := lease.Sign(private, lease.Claims{
		ID: "L1", OrganizationID: testOrganization, Fingerprint: "here", Issued: issued, Expires: issued.Add(time.Hour), Trial: true,
	})
	require.NoError(f, err)
	var answer func() *http.Response
	gate, err := Open(Config{
		OrganizationID: testOrganization, App: "inkwell", Store: &MemoryStore{},
		LeaseURL: "https://leases.test", LeaseKeys: []ed25519.PublicKey{public},
		HTTPClient: &http.Client{Transport: oneAnswer(func() *http.Response { return answer() })},
	})
	require.NoError(f, err)
	f.Cleanup(func() { _ = gate.Close() })
	const report = "application/problem+json"
	f.Add(200, "text/plain; charset=utf-8", "", []byte(text))
	f.Add(200, "text/html", "", []byte("<html>"))
	f.Add(204, "", "", []byte{})
	f.Add(402, report, "", []byte(`{"reason":"expired","detail":"`+key+` has expired"}`))
	f.Add(403, report, "", []byte(`{"reason":"trial_ended"}`))
	f.Add(409, report, "9", []byte(`{"reason":"pool_full","detail":"\u202e\u0000"}`))
	f.Add(429, report, "-1", []byte(`{"reason":"rate_limited","detail":[]}`))
	f.Add(500, report, "99999999999999999999", []byte(`{"reason":"unknown_key"}`))
	f.Add(402, "application/json", "", []byte(`{"reason":"unknown_key"}`))
	f.Add(302, report+"; charset=\"", "", []byte(`{"Reason":"revoked","reason":7}`))
	f.Fuzz(func(t *testing.T, status int, media, retry string, body []byte) {
		answer = func() *http.Response {
			return &http.Response{
				StatusCode: status, ProtoMajor: 1, ProtoMinor: 1,
				Header: http.Header{"Content-Type": {media}, "Retry-After": {retry}}, Body: io.NopCloser(bytes.NewReader(body)),
			}
		}
		got, err := gate.postOnce(t.Context(), opValidate, "v1.request", newKey(key))
		if err == nil {
			require.Equal(t, 200, status)
			if read, err := gate.readLease(string(got), []string{"here"}); err == nil {
				require.Equal(t, text, string(got), "forged")
				require.Equal(t, "L1", read.ID)
			} else {
				var wrong *lease.Error
				require.ErrorAs(t, err, &wrong)
			}
			return
		}
		var e *Error
		require.True(t, errors.As(err, &e))
		require.NotEmpty(t, e.Reason)
		require.NotContains(t, err.Error(), key)
		require.NotContains(t, Message(err), key)
		switch {
		case e.Reason == ErrActivationLimit, e.Reason == ErrDenied:
			require.True(t, status < 500 && status != 429, "a server that fails refuses nothing")
		case e.Reason.Denial(), e.Reason == ErrTrialEnded:
			require.Contains(t, []int{402, 403}, status, "nothing ends by another answer")
			require.True(t, json.Valid(body), "only the issuer's problem report refuses")
		}
		if e.RetryAfter != 0 {
			require.GreaterOrEqual(t, e.RetryAfter, time.Second)
			require.LessOrEqual(t, e.RetryAfter, maxPause)
		}
	})
}
