package servers

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/polargate/polargate"
	"github.com/polargate/polargate/internal/transport"
	"github.com/polargate/polargate/polartest"
	"github.com/polargate/polargate/tests/internal/kit"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// forgetful is a proxy in front of a server. It can forget the connections that are open:
// their bytes vanish without an error. New connections work.
type forgetful struct {
	net.Listener
	server string

	mu    sync.Mutex
	conns []*halfDead
}

// halfDead is one connection to a proxy and the one that it made.
type halfDead struct {
	mu      sync.Mutex
	forgot  bool
	in, out net.Conn
}

func newForgetful(t *testing.T, server string) *forgetful {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	f := &forgetful{Listener: l, server: server}
	t.Cleanup(func() {
		_ = l.Close()
		f.mu.Lock()
		defer f.mu.Unlock()
		for _, c := range f.conns {
			_, _ = c.in.Close(), c.out.Close()
		}
	})
	go func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", server)
			if err != nil {
				_ = in.Close()
				continue
			}
			c := &halfDead{in: in, out: out}
			f.mu.Lock()
			f.conns = append(f.conns, c)
			f.mu.Unlock()
			go c.carry(in, out)
			go c.carry(out, in)
		}
	}()
	return f
}

func (c *halfDead) carry(from, to net.Conn) {
	buffer := make([]byte, 32<<10)
	for {
		n, err := from.Read(buffer)
		c.mu.Lock()
		forgot := c.forgot
		c.mu.Unlock()
		switch {
		case forgot && err == nil:
			continue
		case forgot:
			return
		}
		if _, werr := to.Write(buffer[:n]); err != nil || werr != nil {
			_, _ = from.Close(), to.Close()
			return
		}
	}
}

// forget has the proxy swallow what comes over the connections that are open now.
func (f *forgetful) forget() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range f.conns {
		c.mu.Lock()
		c.forgot = true
		c.mu.Unlock()
	}
}

// behindForgetful is a Polar over TLS behind such a proxy, its address, and a client that
// trusts it and has the library's own transport.
func behindForgetful(t *testing.T, polar *polartest.Polar, h2 bool) (f *forgetful, url string, client *http.Client) {
	t.Helper()
	server := httptest.NewUnstartedServer(polar)
	server.EnableHTTP2 = h2
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.StartTLS()
	t.Cleanup(server.Close)
	f = newForgetful(t, server.Listener.Addr().String())
	pool := x509.NewCertPool()
	pool.AddCert(server.Certificate())
	own := transport.New()
	own.Template.TLSClientConfig = &tls.Config{RootCAs: pool}
	own.Renew()
	t.Cleanup(own.CloseIdleConnections)
	return f, "https://" + f.Addr().String(), &http.Client{Transport: own}
}

var protocols = map[string]bool{"HTTP/1.1": false, "HTTP/2": true}

// inTime asks again if there was no answer in time, since a new connection can take long on a
// busy computer. Over a dead connection no try is answered.
func inTime[T any](ask func() (T, error)) (T, error) {
	for range 4 {
		if answer, err := ask(); !errors.Is(err, polargate.ErrUnreachable) {
			return answer, err
		}
		time.Sleep(time.Second)
	}
	return ask()
}

func TestACustomerIsRefusedByADeadConnectionOnceAndNotOnAndOn(t *testing.T) {
	t.Parallel()
	for name, h2 := range protocols {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			polar := polartest.New(polartest.Config{})
			export := "22222222-0000-4000-8000-000000000001"
			for _, id := range []string{"ann", "bob", "cid", "dan"} {
				polar.AddCustomer(polartest.Customer{ExternalID: id, Benefits: []polartest.Benefit{{BenefitID: export}}})
			}
			proxy, url, client := behindForgetful(t, polar, h2)
			customers, err := polargate.NewCustomers(polargate.CustomersConfig{
				AccessToken: polar.AddToken(polartest.Token{}), BaseURL: url, HTTPClient: client, OrganizationID: polar.OrganizationID(),
				Features: map[string][]string{export: {"export"}},
				Timeout:  3 * time.Second, FreshFor: time.Nanosecond, StaleFor: -1,
			})
			require.NoError(t, err)
			defer customers.Close()
			ent, err := customers.Entitlements(t.Context(), polargate.ExternalID("ann"))
			require.NoError(t, err)
			require.True(t, ent.Has("export"))
			polar.RevokeBenefit("ann", export)

			proxy.forget()
			_, err = customers.Entitlements(t.Context(), polargate.ExternalID("bob"))
			require.ErrorIs(t, err, polargate.ErrUnreachable, "the first one finds out")
			for _, id := range []string{"bob", "cid", "dan"} {
				ent, err := inTime(func() (*polargate.Entitlements, error) {
					return customers.Entitlements(t.Context(), polargate.ExternalID(id))
				})
				require.NoError(t, err, "new connections work")
				assert.True(t, ent.Has("export"))
			}
			ent, err = inTime(func() (*polargate.Entitlements, error) {
				return customers.Entitlements(t.Context(), polargate.ExternalID("ann"))
			})
			require.NoError(t, err)
			assert.False(t, ent.Has("export"), "what was revoked is noticed")
		})
	}
}

func TestAProgramAsksAgainOverANewConnectionAfterATimeout(t *testing.T) {
	t.Parallel()
	for name, h2 := range protocols {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			polar := polartest.New(polartest.Config{})
			key := polar.AddKey(polartest.LicenseKey{LimitActivations: polartest.Limit(1)})
			proxy, url, client := behindForgetful(t, polar, h2)
			gate, err := polargate.Open(polargate.Config{
				OrganizationID: polar.OrganizationID(), BaseURL: url, HTTPClient: client, Store: &polargate.MemoryStore{}, Fingerprint: "here",
				Features: map[string][]string{key.BenefitID: {"export"}}, CheckTimeout: 5 * time.Second,
			})
			require.NoError(t, err)
			defer gate.Close()
			asks, err := polargate.NewClient(polargate.ClientConfig{OrganizationID: polar.OrganizationID(), BaseURL: url, HTTPClient: client})
			require.NoError(t, err)
			entered, err := polargate.ParseKey(key.Key)
			require.NoError(t, err)
			_, err = gate.Activate(t.Context(), key.Key)
			require.NoError(t, err)

			proxy.forget()
			brief, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
			defer cancel()
			_, err = asks.Validate(brief, polargate.ValidateRequest{Key: entered})
			require.ErrorIs(t, err, polargate.ErrUnreachable)
			kit.Says(t, polargate.Message(err), "unreachable.timeout")
			polar.Revoke(key.ID)
			_, err = inTime(func() (polargate.Status, error) { return gate.Refresh(t.Context()) })
			require.ErrorIs(t, err, polargate.ErrInactive, "the next question is answered")
			assert.False(t, gate.Has("export"))
		})
	}
}
