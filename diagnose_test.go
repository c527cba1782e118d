package polargate

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/polargate/polargate/internal/machine"
	"github.com/polargate/polargate/internal/testprogram"
	"github.com/polargate/polargate/internal/transport"
	"github.com/polargate/polargate/polartest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestADiagnosisSaysHowTheComputerIsIdentified(t *testing.T) {
	t.Parallel()
	for want, id := range map[string]string{"machine id": "3d1219c7c4c5404aaa1f6d2a48adfda4", "random": ""} {
		m := machine.Machine{}
		if id != "" {
			m.IDs = []string{id}
		}
		polar := polartest.New(polartest.Config{})
		gate := openGate(t, polar, func(c *Config) { c.machine = func() machine.Machine { return m } })
		d := gate.Diagnose(t.Context())
		assert.Equal(t, want, d.Fingerprint)
		assert.Contains(t, d.String(), "fingerprint  "+want)
		if id != "" {
			assert.NotContains(t, d.String(), id)
		}
		gate = openGate(t, polar, func(c *Config) { c.Fingerprint = "the computer of the tests" })
		d = gate.Diagnose(t.Context())
		assert.Equal(t, "set by the program", d.Fingerprint)
		assert.NotContains(t, d.String(), "the computer of the tests")
	}
}

func TestALookAtAFolderLeavesItAsItWas(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	for _, s := range []FileStore{FileStore(folder), FileStore(filepath.Join(folder, "one")), FileStore(filepath.Join(folder, "one", "two", "three"))} {
		_, err := s.folder().tryWriting()
		require.NoError(t, err)
		entries, err := os.ReadDir(folder)
		require.NoError(t, err)
		assert.Empty(t, entries, "%s", strings.TrimPrefix(string(s), folder))
	}
	kept := FileStore(filepath.Join(folder, "kept"))
	require.NoError(t, os.Mkdir(string(kept), 0o700))
	_, err := kept.folder().tryWriting()
	require.NoError(t, err)
	assert.DirExists(t, string(kept), "and what was there stays")
	file := filepath.Join(folder, "file")
	require.NoError(t, os.WriteFile(file, []byte("x"), 0o600))
	for _, s := range []FileStore{FileStore(filepath.Join(file, "license")), FileStore(file)} {
		_, err := s.folder().tryWriting()
		require.Error(t, err)
	}
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	assert.Equal(t, "x", string(text))
}

func TestTheLibrarysOwnConnectionsPingAndDoNotIdleForLong(t *testing.T) {
	t.Parallel()
	for name, given := range map[string]*http.Client{"without a client": nil, "with one that has no transport": {Timeout: time.Minute}} {
		c, err := NewClient(ClientConfig{OrganizationID: testOrganization, HTTPClient: given})
		require.NoError(t, err, name)
		require.NotNil(t, c.own, name)
		t1 := c.own.Template
		assert.Equal(t, transport.IdleTime, t1.IdleConnTimeout)
		require.NotNil(t, t1.HTTP2)
		assert.Equal(t, transport.PingAfter, t1.HTTP2.SendPingTimeout)
		assert.Equal(t, transport.PingTime, t1.HTTP2.PingTimeout)
		if given != nil {
			assert.Nil(t, given.Transport, "the caller's is not changed")
		}
	}
	theirs := &http.Transport{}
	c, err := NewClient(ClientConfig{OrganizationID: testOrganization, HTTPClient: &http.Client{Transport: theirs}})
	require.NoError(t, err)
	assert.Nil(t, c.own)
	assert.Nil(t, theirs.HTTP2, "a transport that was given is left as it is")
	assert.Same(t, theirs, c.http.Transport.(unled).RoundTripper)
	assert.GreaterOrEqual(t, transport.PingAfter+transport.PingTime, attemptTimeout, "no answer that would still be waited for is lost to a ping")
}

func TestAProgramGoesThroughAProxyWhoseVariableHasWhiteSpace(t *testing.T) {
	t.Parallel()
	asked := make(chan string, 1)
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case asked <- r.URL.String():
		default:
		}
		w.WriteHeader(http.StatusProxyAuthRequired)
	}))
	defer proxy.Close()
	cmd := testprogram.Command(t, "asks-by-proxy")
	// The capitals come last: on Windows, a name in either case is the same variable.
	cmd.Env = append(cmd.Env, "http_proxy=", "no_proxy=", "NO_PROXY=", "REQUEST_METHOD=", "HTTP_PROXY= "+strings.Replace(proxy.URL, "http://", "http://me:s3cret@", 1)+" ")
	said, err := cmd.Output()
	require.NoError(t, err)
	select {
	case address := <-asked:
		assert.Contains(t, address, "http://polar.invalid/")
	default:
		t.Errorf("the proxy was not asked: %s", said)
	}
	assert.Contains(t, string(said), "proxy")
	assert.NotContains(t, string(said), "s3cret")
}

func processAsksByProxy([]string) error {
	client, err := NewClient(ClientConfig{OrganizationID: testOrganization, BaseURL: "http://polar.invalid"})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	_, err = client.Validate(ctx, ValidateRequest{Key: newKey("A-KEY-THAT-IS-NONE")})
	fmt.Println(err, Message(err))
	return nil
}

// trusts has a transport trust a test's server.
func trusts(t *testing.T, l *transport.Transport, server *httptest.Server) {
	t.Helper()
	pool := x509.NewCertPool()
	pool.AddCert(server.Certificate())
	l.Template.TLSClientConfig = &tls.Config{RootCAs: pool}
	l.Renew()
}

func TestMessagesNameWhatKeepsTheLicenseServerFromBeingReached(t *testing.T) {
	t.Parallel()
	polar := polartest.New(polartest.Config{})
	key := polar.AddKey(polartest.LicenseKey{LimitActivations: polartest.Limit(1)})
	serverOf := func(t *testing.T, h http.Handler) *httptest.Server {
		s := httptest.NewUnstartedServer(h)
		s.Config.ErrorLog = log.New(io.Discard, "", 0)
		s.StartTLS()
		t.Cleanup(s.Close)
		return s
	}
	proxied := func(l *transport.Transport, address string, environ map[string]string) {
		env := map[string]string{"HTTPS_PROXY": address, "HTTP_PROXY": address}
		for name, value := range environ {
			env[name] = value
		}
		l.Template.Proxy = transport.Proxy(func(name string) string { return env[name] })
		l.Renew()
	}
	for name, test := range map[string]struct {
		prepare func(t *testing.T, l *transport.Transport) (url string)
		cause   Phrase
		says    []string
	}{
		"a clock years behind": {func(t *testing.T, l *transport.Transport) string {
			s := serverOf(t, polar)
			trusts(t, l, s)
			l.Template.TLSClientConfig.Time = func() time.Time { return time.Unix(-1e9, 0) }
			l.Renew()
			return s.URL
		}, causeClock, []string{english["unreachable.clock.do"]}},
		"a clock a century ahead": {func(t *testing.T, l *transport.Transport) string {
			s := serverOf(t, polar)
			trusts(t, l, s)
			l.Template.TLSClientConfig.Time = func() time.Time { return time.Now().AddDate(100, 0, 0) }
			l.Renew()
			return s.URL
		}, causeClock, []string{english["unreachable.clock.do"]}},
		"an authority that is not known": {func(t *testing.T, _ *transport.Transport) string { return serverOf(t, polar).URL }, causeIntercepted, []string{"proxy", "ecurity software"}},
		"a certificate of another name": {func(t *testing.T, l *transport.Transport) string {
			s := serverOf(t, polar)
			trusts(t, l, s)
			l.Template.TLSClientConfig.ServerName = "api.polar.sh"
			l.Renew()
			return s.URL
		}, causeIntercepted, []string{"proxy", "ecurity software"}},
		"no TLS at all": {func(t *testing.T, _ *transport.Transport) string {
			s := httptest.NewServer(polar)
			t.Cleanup(s.Close)
			return strings.Replace(s.URL, "http:", "https:", 1)
		}, causeIntercepted, []string{"asks you to log in"}},
		"nothing at the address": {func(t *testing.T, _ *transport.Transport) string {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			require.NoError(t, err)
			defer l.Close()
			return "https://" + l.Addr().String()
		}, causeRefused, []string{"refused", "firewall"}},
		"a name that does not exist": {func(_ *testing.T, l *transport.Transport) string {
			l.Template.DialContext = func(context.Context, string, string) (net.Conn, error) {
				return nil, &net.OpError{Op: "dial", Err: &net.DNSError{Err: "no such host", Name: "polar.invalid", IsNotFound: true}}
			}
			l.Renew()
			return "https://polar.invalid"
		}, causeName, []string{"address wasn't found", "internet connection"}},
		"silence": {func(t *testing.T, l *transport.Transport) string {
			l.Template.DialContext = func(context.Context, string, string) (net.Conn, error) {
				here, there := net.Pipe()
				go func() { _, _ = io.Copy(io.Discard, there) }()
				return here, nil
			}
			l.Renew()
			return "http://" + rand.Text() + ".example" // its permits rest by a clock that begins anew in each run
		}, causeTimeout, []string{"in time", "firewall"}},
		"a proxy that is not there": {func(t *testing.T, l *transport.Transport) string {
			closed, err := net.Listen("tcp", "127.0.0.1:0")
			require.NoError(t, err)
			defer closed.Close()
			proxied(l, " http://me:s3cret@"+closed.Addr().String(), nil)
			return "https://polar.example"
		}, causeProxy, []string{"proxy settings"}},
		"a proxy that wants a password": {func(t *testing.T, l *transport.Transport) string {
			s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusProxyAuthRequired) }))
			t.Cleanup(s.Close)
			proxied(l, " "+s.URL, nil)
			return "https://polar.example"
		}, causeProxyLogin, []string{"proxy", "password"}},
		"the same without TLS": {func(t *testing.T, l *transport.Transport) string {
			s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusProxyAuthRequired) }))
			t.Cleanup(s.Close)
			proxied(l, " "+s.URL, nil)
			return "http://polar.example"
		}, causeProxyLogin, []string{"proxy", "password"}},
		"a proxy that does not let through": {func(t *testing.T, l *transport.Transport) string {
			s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusForbidden) }))
			t.Cleanup(s.Close)
			proxied(l, " "+s.URL, nil)
			return "https://polar.example"
		}, causeProxy, []string{"proxy"}},
		"a proxy variable that is nonsense": {func(_ *testing.T, l *transport.Transport) string {
			proxied(l, "http://me:s3cret@proxy.example:port", nil)
			return "https://polar.example"
		}, causeProxySetting, []string{"HTTPS_PROXY"}},
		"a login page": {func(t *testing.T, _ *transport.Transport) string {
			s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", "text/html")
				_, _ = io.WriteString(w, "<html>")
			}))
			t.Cleanup(s.Close)
			return s.URL
		}, causePage, []string{"asks you to log in"}},
	} {
		says := func(t *testing.T) {
			l := transport.New()
			t.Cleanup(l.CloseIdleConnections)
			url := test.prepare(t, l)
			store := &MemoryStore{}
			config := Config{
				OrganizationID: polar.OrganizationID(), BaseURL: polar.URL(), HTTPClient: polar.Client(), Store: store,
				Fingerprint: "here", Features: withExport(key), App: strings.ReplaceAll(name, " ", "-"),
			}
			gate, err := Open(config)
			require.NoError(t, err)
			defer gate.Close()
			require.NoError(t, gate.save(t.Context(), record{
				state:   state{InstallationID: "i", Seat: &seat{Key: key.Key, ActivationID: "22222222-0000-4000-8000-000000000009", Machine: "here"}},
				verdict: &verdict{CheckedAt: time.Now().Add(-48 * time.Hour), HighWater: time.Now(), BenefitID: key.BenefitID},
			}, FromDisk))
			config.BaseURL, config.HTTPClient = url, &http.Client{Transport: l}
			away, err := Open(config)
			require.NoError(t, err)
			defer away.Close()
			status, err := away.Check(t.Context())
			require.NoError(t, err)
			require.Equal(t, Grace, status.State)
			_, failure := away.Refresh(t.Context())
			require.ErrorIs(t, failure, ErrUnreachable)
			e := failure.(*Error)
			assert.Equal(t, test.cause, e.cause(), "%v", failure)
			assert.False(t, e.sent && test.cause != causeTimeout && test.cause != causePage, "nothing can have been sent")
			next, err := Open(config)
			require.NoError(t, err)
			defer next.Close()
			report := away.Diagnose(t.Context())
			for what, text := range map[string]string{"the status": status.Message, "in the next run": next.Status().Message, "the error": Message(failure), "the report": report.String()} {
				says := test.says
				if test.cause == causeName && text == status.Message {
					says = []string{"Working offline."} // which is what it means, nearly always
				}
				for _, words := range says {
					assert.Contains(t, text, words, what)
				}
				assert.NotContains(t, text, "s3cret", what)
			}
			assert.NotContains(t, failure.Error(), "s3cret")
			assert.NotEmpty(t, report.Problems)
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if test.cause == causeTimeout {
				synctest.Test(t, says)
			} else {
				says(t)
			}
		})
	}
}

func TestTheMessageAfterGraceBehindAProxySaysMoreThanToGoOnline(t *testing.T) {
	t.Parallel()
	s := Status{State: Locked, Reason: ErrGraceEnded, cause: causeClock}
	assert.Contains(t, s.message(nil, ErrUnreachable, false), english["unreachable.clock.do"])
	s.cause = causeTimeout
	assert.Contains(t, s.message(nil, ErrUnreachable, false), english["grace_ended.do"])
}
