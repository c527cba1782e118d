package leases

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/polargate/polargate"
	"github.com/polargate/polargate/lease"
	"github.com/polargate/polargate/lease/issuer"
	"github.com/polargate/polargate/tests/internal/kit"
)

const licenseServer = "https://licenses.example.com/lease"

// vendor is a World whose vendor has a license server. Its Gates reach that, and Polar, by
// the same transport.
type vendor struct {
	*kit.World
	server *issuer.Issuer
	config issuer.Config
	log    bytes.Buffer

	mu     sync.Mutex
	answer func(r *http.Request, real func() *http.Response) (*http.Response, error) // nil: as it is
	asked  int
}

func public(private ed25519.PrivateKey) ed25519.PublicKey {
	return private.Public().(ed25519.PublicKey)
}

func privateKey(seed byte) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{seed}, ed25519.SeedSize))
}

func newVendor(t *testing.T, change func(*issuer.Config)) *vendor {
	t.Helper()
	v := &vendor{World: kit.NewWorld(t)}
	client, err := polargate.NewClient(polargate.ClientConfig{
		OrganizationID: v.Polar.OrganizationID(), AccessToken: v.Polar.AddToken(tokenOfVendor), HTTPClient: v.Polar.Client(), RequestsPerMinute: 60_000,
	})
	require.NoError(t, err)
	v.config = issuer.Config{Client: client, Key: privateKey(1), PerAddress: 100_000, Features: map[string][]string{v.Key.BenefitID: {"print"}}}
	if change != nil {
		change(&v.config)
	}
	v.restart()
	polar := v.Config.HTTPClient.Transport
	v.Config.HTTPClient = &http.Client{Transport: kit.RoundTripper(func(r *http.Request) (*http.Response, error) {
		if r.URL.Host == "licenses.example.com" {
			return v.serve(r)
		}
		return polar.RoundTrip(r)
	})}
	v.Config.LeaseKeys = []ed25519.PublicKey{public(privateKey(1)), public(privateKey(2))}
	v.Config.LeaseURL = licenseServer
	v.Config.Logger = slog.New(slog.NewTextHandler(&v.log, nil))
	return v
}

// restart starts the license server, with its configuration as it is now.
func (v *vendor) restart() {
	v.T.Helper()
	if v.config.Store == nil {
		v.config.Store = &polargate.MemoryStore{}
	}
	server, err := issuer.New(v.config)
	require.NoError(v.T, err)
	v.server = server
}

func (v *vendor) serve(r *http.Request) (*http.Response, error) {
	v.mu.Lock()
	answer := v.answer
	v.asked++
	v.mu.Unlock()
	real := func() *http.Response {
		w := httptest.NewRecorder()
		v.server.Handler().ServeHTTP(w, r)
		return w.Result()
	}
	if answer != nil {
		return answer(r, real)
	}
	return real(), nil
}

// says makes the license server say something else; nil lets it speak for itself.
func (v *vendor) says(answer func(r *http.Request, real func() *http.Response) (*http.Response, error)) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.answer = answer
}

func (v *vendor) questions() int {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.asked
}

// away is a license server that can't be reached.
func away(*http.Request, func() *http.Response) (*http.Response, error) {
	return nil, &net.OpError{Op: "dial", Net: "tcp", Err: errors.New("connection refused")}
}

// lost is a connection that breaks before the answer comes.
func lost(_ *http.Request, real func() *http.Response) (*http.Response, error) {
	_ = real()
	return nil, io.ErrUnexpectedEOF
}

// always is an answer of something that isn't the license server.
func always(status int, contentType, body string) func(*http.Request, func() *http.Response) (*http.Response, error) {
	return func(*http.Request, func() *http.Response) (*http.Response, error) {
		w := httptest.NewRecorder()
		w.Header().Set("Content-Type", contentType)
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
		return w.Result(), nil
	}
}

// withoutNetwork is the configuration of a computer that has none.
func (v *vendor) withoutNetwork(c *polargate.Config) {
	c.LeaseURL = ""
	c.HTTPClient = &http.Client{Transport: kit.RoundTripper(func(r *http.Request) (*http.Response, error) {
		v.T.Errorf("a request left a computer without a network: %s", r.URL)
		return nil, io.ErrUnexpectedEOF
	})}
}

// page is what the vendor's page answers to a request, with the license key.
func (v *vendor) page(request string) string {
	v.T.Helper()
	text, err := v.tryPage(request)
	require.NoError(v.T, err)
	return text
}

func (v *vendor) tryPage(request string) (string, error) {
	v.T.Helper()
	text, err := lease.Unarmor([]byte(request), lease.KindRequest)
	require.NoError(v.T, err)
	asked, err := lease.ParseRequest(text)
	require.NoError(v.T, err)
	require.True(v.T, asked.Key.IsZero(), "a request in a file has no license key in it")
	asked.Key = lease.NewSecret(v.Key.Key)
	return v.server.Issue(context.WithoutCancel(v.T.Context()), asked)
}

// loaded is a computer without a network, activated by a file.
func (v *vendor) loaded(change ...func(*polargate.Config)) *polargate.Gate {
	v.T.Helper()
	gate := v.Open(append([]func(*polargate.Config){v.withoutNetwork}, change...)...)
	v.load(gate)
	return gate
}

// load gets a file for a computer, and loads it.
func (v *vendor) load(gate *polargate.Gate) string {
	v.T.Helper()
	request, err := gate.OfflineRequest()
	require.NoError(v.T, err)
	file := v.page(request)
	status, err := gate.ActivateFile([]byte(lease.Armor(file)))
	require.NoError(v.T, err)
	require.Equal(v.T, polargate.Active, status.State)
	return file
}
