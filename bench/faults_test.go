package bench

import (
	"context"
	"errors"
	"net/http"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/polargate/polargate"
	"github.com/polargate/polargate/polartest"
	"github.com/polarsource/polar-go/models/apierrors"
)

// TestFaultsAsClientsReportThem plays each fault to both clients while the key is good:
// a fault that unlocks or locks is the client's mistake. A program that uses polar-go
// has the types of its errors to go by, of which ResourceNotFound says that there is
// no such key.
func TestFaultsAsClientsReportThem(t *testing.T) {
	faults := []struct {
		name   string
		effect polartest.Effect
	}{
		{"the login page of a Wi-Fi, as a page", polartest.LoginPage(http.StatusOK)},
		{"the same, as a redirect", polartest.LoginPage(http.StatusFound)},
		{"a proxy that wants a password", polartest.ProxyPage(http.StatusProxyAuthRequired)},
		{"a proxy's own 404 page", polartest.ProxyPage(http.StatusNotFound)},
		{"a path that Polar's router does not know", polartest.RouterNotFound()},
		{"Polar's error 500", polartest.ServerError(http.StatusInternalServerError)},
		{"a load balancer's error 503", polartest.ServerError(http.StatusServiceUnavailable)},
		{"the rate limit", polartest.RateLimited("60")},
		{"JSON of another service", polartest.Body(http.StatusOK, "application/json", `{"status":"ok"}`)},
		{"another service's 404 in JSON", polartest.Body(http.StatusNotFound, "application/json", `{"message":"no such route"}`)},
		{"another key's answer", polartest.Rewrite(func(status int, _ http.Header, body []byte) (int, []byte) {
			return status, []byte(strings.ReplaceAll(string(body), "POLAR-", "OTHER-"))
		})},
		{"a new word for the status", polartest.Rewrite(func(status int, _ http.Header, body []byte) (int, []byte) {
			return status, []byte(strings.ReplaceAll(string(body), `"granted"`, `"on_hold"`))
		})},
		{"a body that is cut short", polartest.Truncated()},
		{"a body of noise", polartest.Garbage()},
		{"a body without an end", polartest.Huge()},
		{"a connection that is reset", polartest.Reset()},
		{"a connection that the server closes as it is used", polartest.Close()},
		{"an answer that is lost on the way", polartest.AnswerLost()},
		{"no answer at all", polartest.Hang()},
	}
	for _, fault := range faults {
		var row []string
		for _, name := range []string{"polargate", "polar-go"} {
			synctest.Test(t, func(t *testing.T) {
				polar := polartest.New(polartest.Config{})
				key := polar.AddKey(polartest.LicenseKey{LimitActivations: polartest.Limit(1)})
				token := polar.AddToken(polartest.Token{})
				polar.Inject(polartest.Fault{Effect: fault.effect})
				ask := validations(t, polar.URL(), polar.OrganizationID(), token, key.Key, polar.Transport())[name]
				// No program waits for an answer for ever.
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				began := time.Now()
				err := ask(ctx)
				verdict := verdictOf(err)
				if waited := time.Since(began); waited > time.Second {
					verdict += ", after " + spoken(waited.Round(time.Second))
				}
				if name == "polargate" && fault.name != "a new word for the status" {
					if err == nil || strings.HasPrefix(verdict, "locked") {
						t.Errorf("%s: %s", fault.name, verdict)
					}
				}
				if err != nil && strings.Contains(err.Error(), key.Key) {
					verdict += "; the error repeats the key"
				}
				row = append(row, verdict)
			})
		}
		tell("faults", fault.name, row...)
	}
}

// verdictOf is what a program that goes by an error would do.
func verdictOf(err error) string {
	if err == nil {
		return "unlocked"
	}
	if errors.Is(err, errNotGranted) {
		return "locked: not granted"
	}
	if e, ok := errors.AsType[*polargate.Error](err); ok {
		if e.Reason.Denial() {
			return "locked: " + string(e.Reason)
		}
		return "nobody could say: " + string(e.Reason)
	}
	if _, ok := errors.AsType[*apierrors.ResourceNotFound](err); ok {
		return "locked: ResourceNotFound"
	}
	for errors.Unwrap(err) != nil {
		err = errors.Unwrap(err)
	}
	kind := reflect.TypeOf(err).String()
	if kind == "*errors.errorString" || kind == "*fmt.wrapError" {
		return "an error of no type"
	}
	return "an error: " + kind
}
