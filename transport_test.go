package polargate

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/polargate/polargate/internal/testprogram"
	"github.com/polargate/polargate/polartest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// forgetful is a proxy in front of a server that can forget the connections that
// are open: their bytes vanish, and nobody is told. New connections work.
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

// behindForgetful is a Polar over TLS behind such a proxy, its address, and what a
// client needs to trust it.
func behindForgetful(t *testing.T, polar *polartest.Polar, h2 bool) (f *forgetful, url string, trust func(*Client)) {
	t.Helper()
	server := httptest.NewUnstartedServer(polar)
	server.EnableHTTP2 = h2
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.StartTLS()
	t.Cleanup(server.Close)
	f = newForgetful(t, server.Listener.Addr().String())
	return f, "https://" + f.Addr().String(), func(c *Client) {
		l := c.http.Transport.(unled).RoundTripper.(*lines)
		trusts(t, l, server)
	}
}

// trusts has a transport trust a test's server.
func trusts(t *testing.T, l *lines, server *httptest.Server) {
	t.Helper()
	pool := x509.NewCertPool()
	pool.AddCert(server.Certificate())
	l.template.TLSClientConfig = &tls.Config{RootCAs: pool}
	l.current.Store(l.template.Clone())
}

var protocols = map[string]bool{"HTTP/1.1": false, "HTTP/2": true}

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
			proxy, url, trust := behindForgetful(t, polar, h2)
			customers, err := NewCustomers(CustomersConfig{
				AccessToken: polar.AddToken(polartest.Token{}), BaseURL: url, OrganizationID: polar.OrganizationID(),
				Features: map[string][]string{export: {"export"}},
				Timeout:  400 * time.Millisecond, FreshFor: time.Nanosecond, StaleFor: -1,
			})
			require.NoError(t, err)
			defer customers.Close()
			trust(customers.client)
			ent, err := customers.Entitlements(t.Context(), ExternalID("ann"))
			require.NoError(t, err)
			require.True(t, ent.Has("export"))
			polar.RevokeBenefit("ann", export)

			proxy.forget()
			_, err = customers.Entitlements(t.Context(), ExternalID("bob"))
			require.ErrorIs(t, err, ErrUnreachable, "the first one finds out")
			for _, id := range []string{"bob", "cid", "dan"} {
				ent, err := customers.Entitlements(t.Context(), ExternalID(id))
				require.NoError(t, err, "new connections work")
				assert.True(t, ent.Has("export"))
			}
			ent, err = customers.Entitlements(t.Context(), ExternalID("ann"))
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
			proxy, url, trust := behindForgetful(t, polar, h2)
			gate, err := Open(Config{
				OrganizationID: polar.OrganizationID(), BaseURL: url, Store: &MemoryStore{}, Fingerprint: "here",
				Features: withExport(key), CheckTimeout: 5 * time.Second,
			})
			require.NoError(t, err)
			defer gate.Close()
			trust(gate.client)
			_, err = gate.Activate(t.Context(), key.Key)
			require.NoError(t, err)

			proxy.forget()
			brief, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
			defer cancel()
			_, err = gate.client.Validate(brief, ValidateRequest{Key: newKey(key.Key)})
			require.ErrorIs(t, err, ErrUnreachable)
			assert.Contains(t, Message(err), "in time")
			polar.Revoke(key.ID)
			_, err = gate.Refresh(t.Context())
			require.ErrorIs(t, err, ErrInactive, "the next question is answered")
			assert.False(t, gate.Has("export"))
		})
	}
}

func TestRequestsUnderWayOverAConnectionThatIsLeftAreNotCutShort(t *testing.T) {
	t.Parallel()
	arrived, answer := make(chan struct{}, 2), make(chan struct{})
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/warm" {
			return
		}
		arrived <- struct{}{}
		select {
		case <-answer:
			_, _ = io.WriteString(w, "late")
		case <-r.Context().Done():
		}
	}))
	server.EnableHTTP2 = true
	server.StartTLS()
	defer server.Close()
	l := newLines()
	defer l.CloseIdleConnections()
	trusts(t, l, server)
	client := &http.Client{Transport: l}
	get := func(ctx context.Context, path string) (string, error) {
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, server.URL+path, nil)
		require.NoError(t, err)
		resp, err := client.Do(r)
		if err != nil {
			return "", err
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		return string(body), err
	}
	_, err := get(t.Context(), "/warm")
	require.NoError(t, err)
	type result struct {
		body string
		err  error
	}
	patient := make(chan result, 1)
	go func() {
		body, err := get(t.Context(), "/patient")
		patient <- result{body, err}
	}()
	<-arrived
	ctx, cancel := context.WithCancel(t.Context())
	gone := make(chan error, 1)
	go func() { _, err := get(ctx, "/impatient"); gone <- err }()
	<-arrived
	before := l.current.Load()
	cancel()
	require.Error(t, <-gone)
	assert.NotSame(t, before, l.current.Load())
	close(answer)
	got := <-patient
	require.NoError(t, got.err)
	assert.Equal(t, "late", got.body)
}

func TestTheLibrarysOwnConnectionsPingAndDoNotIdleForLong(t *testing.T) {
	t.Parallel()
	for name, given := range map[string]*http.Client{"without a client": nil, "with one that has no transport": {Timeout: time.Minute}} {
		c, err := NewClient(ClientConfig{OrganizationID: testOrganization, HTTPClient: given})
		require.NoError(t, err, name)
		require.NotNil(t, c.own, name)
		t1 := c.own.current.Load()
		assert.Equal(t, idleTime, t1.IdleConnTimeout)
		require.NotNil(t, t1.HTTP2)
		assert.Equal(t, pingAfter, t1.HTTP2.SendPingTimeout)
		assert.Equal(t, pingTime, t1.HTTP2.PingTimeout)
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
	assert.GreaterOrEqual(t, pingAfter+pingTime, attemptTimeout, "no answer that would still be waited for is lost to a ping")
}

func TestAProxyVariableWithWhiteSpaceOrQuotesStillNamesItsProxy(t *testing.T) {
	t.Parallel()
	const good = "http://proxy.example:3128"
	for name, test := range map[string]struct {
		env     map[string]string
		address string // that is asked
		want    string // proxy; "" is none
		broken  string // the variable that an error names
	}{
		"none":                        {nil, "https://api.polar.sh", "", ""},
		"white space around it":       {map[string]string{"HTTPS_PROXY": " " + good + " "}, "https://api.polar.sh", good, ""},
		"in lower case":               {map[string]string{"https_proxy": "\t" + good + "\r\n"}, "https://api.polar.sh", good, ""},
		"no scheme":                   {map[string]string{"HTTPS_PROXY": " proxy.example:3128"}, "https://api.polar.sh", good, ""},
		"quotes, as Windows sets it":  {map[string]string{"HTTPS_PROXY": `"` + good + `"`}, "https://api.polar.sh", good, ""},
		"a space that does not break": {map[string]string{"HTTPS_PROXY": "\u00a0" + good + "\ufeff"}, "https://api.polar.sh", good, ""},
		"a password is kept":          {map[string]string{"HTTPS_PROXY": " http://me:s3cret@proxy.example:3128 "}, "https://api.polar.sh", "http://me:s3cret@proxy.example:3128", ""},
		"only white space":            {map[string]string{"HTTPS_PROXY": "  "}, "https://api.polar.sh", "", ""},
		"the first is only space":     {map[string]string{"HTTPS_PROXY": " ", "https_proxy": good}, "https://api.polar.sh", good, ""},
		"for the other scheme":        {map[string]string{"HTTP_PROXY": " " + good}, "https://api.polar.sh", "", ""},
		"plain HTTP":                  {map[string]string{"HTTP_PROXY": " " + good}, "http://api.polar.sh", good, ""},
		"plain HTTP in CGI":           {map[string]string{"HTTP_PROXY": " " + good, "REQUEST_METHOD": "GET"}, "http://api.polar.sh", "", ""},
		"a server of this computer":   {map[string]string{"HTTPS_PROXY": " " + good}, "https://127.0.0.1:8443", "", ""},
		"and by name":                 {map[string]string{"HTTPS_PROXY": " " + good}, "https://localhost:8443", "", ""},
		"an exception":                {map[string]string{"HTTPS_PROXY": " " + good, "NO_PROXY": "other.example, polar.sh"}, "https://api.polar.sh", "", ""},
		"an exception of subdomains":  {map[string]string{"HTTPS_PROXY": " " + good, "no_proxy": ".POLAR.sh"}, "https://api.polar.sh", "", ""},
		"an exception by star":        {map[string]string{"HTTPS_PROXY": " " + good, "NO_PROXY": "*.polar.sh"}, "https://api.polar.sh", "", ""},
		"an exception of everything":  {map[string]string{"HTTPS_PROXY": " " + good, "NO_PROXY": " * "}, "https://api.polar.sh", "", ""},
		"an exception of a network":   {map[string]string{"HTTPS_PROXY": " " + good, "NO_PROXY": "10.0.0.0/8"}, "https://10.1.2.3", "", ""},
		"an exception of its port":    {map[string]string{"HTTPS_PROXY": " " + good, "NO_PROXY": "api.polar.sh:443"}, "https://api.polar.sh", "", ""},
		"an exception of another":     {map[string]string{"HTTPS_PROXY": " " + good, "NO_PROXY": "api.polar.sh:8443,olar.sh,10.0.0.0/8,10.1.2.3"}, "https://api.polar.sh", good, ""},
		"a port that is none":         {map[string]string{"HTTPS_PROXY": "http://me:s3cret@proxy.example:port"}, "https://api.polar.sh", "", "HTTPS_PROXY"},
		"white space inside":          {map[string]string{"https_proxy": "http://me:s3cret@proxy example:3128"}, "https://api.polar.sh", "", "https_proxy"},
		"nothing but a scheme":        {map[string]string{"HTTPS_PROXY": " http:// "}, "https://api.polar.sh", "", "HTTPS_PROXY"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, err := http.NewRequest(http.MethodPost, test.address, nil)
			require.NoError(t, err)
			proxy, err := environmentProxy(func(name string) string { return test.env[name] })(r)
			if test.broken != "" {
				require.ErrorContains(t, err, test.broken)
				assert.NotContains(t, err.Error(), "s3cret")
				return
			}
			require.NoError(t, err)
			if test.want == "" {
				assert.Nil(t, proxy)
				return
			}
			require.NotNil(t, proxy)
			assert.Equal(t, test.want, proxy.String())
		})
	}
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
	cmd.Env = append(cmd.Env, "HTTP_PROXY= "+strings.Replace(proxy.URL, "http://", "http://me:s3cret@", 1)+" ", "http_proxy=", "NO_PROXY=", "no_proxy=", "REQUEST_METHOD=")
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
	proxied := func(l *lines, address string, environ map[string]string) {
		env := map[string]string{"HTTPS_PROXY": address, "HTTP_PROXY": address}
		for name, value := range environ {
			env[name] = value
		}
		l.template.Proxy = environmentProxy(func(name string) string { return env[name] })
		l.current.Store(l.template.Clone())
	}
	for name, test := range map[string]struct {
		prepare func(t *testing.T, l *lines) (url string)
		cause   Phrase
		says    []string
	}{
		"a clock years behind": {func(t *testing.T, l *lines) string {
			s := serverOf(t, polar)
			trusts(t, l, s)
			l.template.TLSClientConfig.Time = func() time.Time { return time.Unix(-1e9, 0) }
			l.current.Store(l.template.Clone())
			return s.URL
		}, causeClock, []string{english["unreachable.clock.do"]}},
		"a clock a century ahead": {func(t *testing.T, l *lines) string {
			s := serverOf(t, polar)
			trusts(t, l, s)
			l.template.TLSClientConfig.Time = func() time.Time { return time.Now().AddDate(100, 0, 0) }
			l.current.Store(l.template.Clone())
			return s.URL
		}, causeClock, []string{english["unreachable.clock.do"]}},
		"an authority that is not known": {func(t *testing.T, _ *lines) string { return serverOf(t, polar).URL }, causeIntercepted, []string{"proxy", "ecurity software"}},
		"a certificate of another name": {func(t *testing.T, l *lines) string {
			s := serverOf(t, polar)
			trusts(t, l, s)
			l.template.TLSClientConfig.ServerName = "api.polar.sh"
			l.current.Store(l.template.Clone())
			return s.URL
		}, causeIntercepted, []string{"proxy", "ecurity software"}},
		"no TLS at all": {func(t *testing.T, _ *lines) string {
			s := httptest.NewServer(polar)
			t.Cleanup(s.Close)
			return strings.Replace(s.URL, "http:", "https:", 1)
		}, causeIntercepted, []string{"asks you to log in"}},
		"nobody at the address": {func(t *testing.T, _ *lines) string {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			require.NoError(t, err)
			defer l.Close()
			return "https://" + l.Addr().String()
		}, causeRefused, []string{"refused", "firewall"}},
		"a name that does not exist": {func(_ *testing.T, l *lines) string {
			l.template.DialContext = func(context.Context, string, string) (net.Conn, error) {
				return nil, &net.OpError{Op: "dial", Err: &net.DNSError{Err: "no such host", Name: "polar.invalid", IsNotFound: true}}
			}
			l.current.Store(l.template.Clone())
			return "https://polar.invalid"
		}, causeName, []string{"address wasn't found", "internet connection"}},
		"silence": {func(t *testing.T, _ *lines) string {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			require.NoError(t, err)
			t.Cleanup(func() { _ = l.Close() })
			return "http://" + l.Addr().String()
		}, causeTimeout, []string{"in time", "firewall"}},
		"a proxy that is not there": {func(t *testing.T, l *lines) string {
			nobody, err := net.Listen("tcp", "127.0.0.1:0")
			require.NoError(t, err)
			defer nobody.Close()
			proxied(l, " http://me:s3cret@"+nobody.Addr().String(), nil)
			return "https://polar.example"
		}, causeProxy, []string{"proxy settings"}},
		"a proxy that wants a password": {func(t *testing.T, l *lines) string {
			s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusProxyAuthRequired) }))
			t.Cleanup(s.Close)
			proxied(l, " "+s.URL, nil)
			return "https://polar.example"
		}, causeProxyLogin, []string{"proxy", "password"}},
		"the same without TLS": {func(t *testing.T, l *lines) string {
			s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusProxyAuthRequired) }))
			t.Cleanup(s.Close)
			proxied(l, " "+s.URL, nil)
			return "http://polar.example"
		}, causeProxyLogin, []string{"proxy", "password"}},
		"a proxy that does not let through": {func(t *testing.T, l *lines) string {
			s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusForbidden) }))
			t.Cleanup(s.Close)
			proxied(l, " "+s.URL, nil)
			return "https://polar.example"
		}, causeProxy, []string{"proxy"}},
		"a proxy variable that is nonsense": {func(_ *testing.T, l *lines) string {
			proxied(l, "http://me:s3cret@proxy.example:port", nil)
			return "https://polar.example"
		}, causeProxySetting, []string{"HTTPS_PROXY"}},
		"a login page": {func(t *testing.T, _ *lines) string {
			s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", "text/html")
				_, _ = io.WriteString(w, "<html>")
			}))
			t.Cleanup(s.Close)
			return s.URL
		}, causePage, []string{"asks you to log in"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newLines()
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
			config.BaseURL, config.HTTPClient, config.CheckTimeout = url, &http.Client{Transport: l}, 3*time.Second
			if test.cause == causeTimeout {
				config.CheckTimeout = 2 * time.Second // a tenth of it is left for storing what came of it
			}
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
