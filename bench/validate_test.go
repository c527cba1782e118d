package bench

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/polargate/polargate"
	"github.com/polargate/polargate/polartest"
	polargo "github.com/polarsource/polar-go"
	"github.com/polarsource/polar-go/models/components"
)

// validations are the two clients, each asking whether a key is granted. Both use the
// endpoint that needs a token, since polargate paces the public one to Polar's limit.
func validations(tb testing.TB, url, organization, token, key string, through http.RoundTripper) map[string]func(context.Context) error {
	tb.Helper()
	client := func() *http.Client { return &http.Client{Transport: through} }
	ours, err := polargate.NewClient(polargate.ClientConfig{
		OrganizationID: organization, AccessToken: token, BaseURL: url, HTTPClient: client(), RequestsPerMinute: 1e9,
	})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(ours.Close)
	parsed, err := polargate.ParseKey(key)
	if err != nil {
		tb.Fatal(err)
	}
	theirs := polargo.New(polargo.WithServerURL(url), polargo.WithSecurity(token), polargo.WithClient(client()))
	return map[string]func(context.Context) error{
		"polargate": func(ctx context.Context) error {
			license, err := ours.Validate(ctx, polargate.ValidateRequest{Key: parsed})
			if err == nil && license.Status != polargate.KeyGranted {
				err = errNotGranted
			}
			return err
		},
		"polar-go": func(ctx context.Context) error {
			response, err := theirs.LicenseKeys.Validate(ctx, components.LicenseKeyValidate{Key: key, OrganizationID: organization})
			if err == nil && (response.ValidatedLicenseKey == nil || response.ValidatedLicenseKey.Status != components.LicenseKeyStatusGranted) {
				err = errNotGranted
			}
			return err
		},
	}
}

var errNotGranted = errors.New("the license key is not granted")

// BenchmarkValidate asks one server on loopback, which gives Polar's answer without
// thinking, so that what is measured is the client.
func BenchmarkValidate(b *testing.B) {
	polar := polartest.New(polartest.Config{})
	key := polar.AddKey(polartest.LicenseKey{LimitActivations: polartest.Limit(1)})
	token := polar.AddToken(polartest.Token{})
	recorded := httptest.NewRecorder()
	ask := httptest.NewRequest(http.MethodPost, "/v1/license-keys/validate", strings.NewReader(`{"key":"`+key.Key+`","organization_id":"`+polar.OrganizationID()+`"}`))
	ask.Header.Set("Content-Type", "application/json")
	ask.Header.Set("Authorization", "Bearer "+token)
	polar.ServeHTTP(recorded, ask)
	if recorded.Code != http.StatusOK {
		b.Fatal(recorded.Body)
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(recorded.Body.Bytes())
	}))
	b.Cleanup(server.Close)
	clients := validations(b, server.URL, polar.OrganizationID(), token, key.Key, server.Client().Transport)
	for _, name := range []string{"polargate", "polar-go"} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if err := clients[name](context.Background()); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
