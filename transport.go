package polargate

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"os"
	"reflect"
	"strings"
	"sync/atomic"
	"time"
	"unicode"
)

const (
	// idleTime is how long a connection is kept for the next request. Proxies and
	// address translators forget one after a minute or more, without a word.
	idleTime = 30 * time.Second
	// pingAfter is how long an HTTP/2 connection may be silent before it has to
	// answer a ping, and pingTime how long that may take. Together they are no
	// shorter than attemptTimeout: a bad network must not cost an answer that
	// would still have come.
	pingAfter = 5 * time.Second
	pingTime  = 5 * time.Second
)

// lines is the transport of a client that was given none: net/http's, except that
// a connection over which a request has timed out is not used again. Something in
// between may have forgotten it, and HTTP/2 would send everything else over it.
type lines struct {
	template *http.Transport // never used itself
	current  atomic.Pointer[http.Transport]
}

func newLines() *lines {
	t := &http.Transport{Proxy: http.ProxyFromEnvironment, ForceAttemptHTTP2: true}
	if byDefault, ok := http.DefaultTransport.(*http.Transport); ok {
		t = byDefault.Clone()
	}
	if t.TLSNextProto["h2"] != nil {
		// Set up by another package, whose connections all clones would share.
		t.TLSNextProto, t.ForceAttemptHTTP2 = nil, true
	}
	t.MaxIdleConnsPerHost = 3 // as many as may be in flight
	t.IdleConnTimeout = idleTime
	var h2 http.HTTP2Config
	if t.HTTP2 != nil {
		h2 = *t.HTTP2
	}
	h2.SendPingTimeout = cmp.Or(h2.SendPingTimeout, pingAfter)
	h2.PingTimeout = cmp.Or(h2.PingTimeout, pingTime)
	t.HTTP2 = &h2
	if isProxyFromEnvironment(t.Proxy) {
		t.Proxy = environmentProxy(os.Getenv)
	}
	if t.OnProxyConnectResponse == nil {
		t.OnProxyConnectResponse = func(_ context.Context, _ *url.URL, _ *http.Request, resp *http.Response) error {
			if resp.StatusCode != http.StatusOK {
				return &proxyRefusal{resp.StatusCode}
			}
			return nil
		}
	}
	l := &lines{template: t}
	l.current.Store(t.Clone())
	return l
}

func (l *lines) RoundTrip(r *http.Request) (*http.Response, error) {
	t := l.current.Load()
	var used, before atomic.Bool
	trace := &httptrace.ClientTrace{GotConn: func(c httptrace.GotConnInfo) { used.Store(true); before.Store(c.Reused) }}
	resp, err := t.RoundTrip(r.WithContext(httptrace.WithClientTrace(r.Context(), trace)))
	failed := func(err error) error {
		if !used.Load() || !timedOut(err) {
			return err
		}
		l.leave(t)
		if before.Load() {
			return &deadLine{err}
		}
		return err
	}
	if err != nil {
		return resp, failed(err)
	}
	resp.Body = &watchedBody{resp.Body, failed}
	return resp, nil
}

// leave has later requests use new connections. Those under way go on.
func (l *lines) leave(t *http.Transport) {
	if l.current.Load() == t && l.current.CompareAndSwap(t, l.template.Clone()) {
		t.CloseIdleConnections()
	}
}

func (l *lines) CloseIdleConnections() { l.current.Load().CloseIdleConnections() }

type watchedBody struct {
	io.ReadCloser
	failed func(error) error
}

func (b *watchedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil && err != io.EOF {
		err = b.failed(err)
	}
	return n, err
}

// deadLine is a request that timed out over a connection that was there before, and
// is used no more. That is as likely to be the connection's fault as Polar's.
type deadLine struct{ error }

func (d *deadLine) Unwrap() error { return d.error }
func (d *deadLine) Timeout() bool { return timedOut(d.error) }

// proxyRefusal is a proxy that does not connect.
type proxyRefusal struct{ status int }

func (p *proxyRefusal) Error() string {
	return fmt.Sprintf("the proxy answers %d %s", p.status, http.StatusText(p.status))
}

// proxySettingError is a variable that names a proxy in a way that cannot be read.
// Its value may hold a password.
type proxySettingError struct{ variable string }

func (p *proxySettingError) Error() string {
	return "the variable " + p.variable + " does not name a proxy, such as http://proxy.example:3128"
}

func isProxyFromEnvironment(proxy func(*http.Request) (*url.URL, error)) bool {
	return proxy != nil && reflect.ValueOf(proxy).Pointer() == reflect.ValueOf(http.ProxyFromEnvironment).Pointer()
}

// environmentProxy is http.ProxyFromEnvironment, which takes a variable that it
// cannot read for none. Here white space and quotation marks around one do not
// count, and one that still cannot be read is an error: a program that goes around
// the proxy in silence reaches nothing and says nothing.
func environmentProxy(environ func(string) string) func(*http.Request) (*url.URL, error) {
	settings := map[string]proxySetting{
		"http":  readProxySetting(environ, "HTTP_PROXY", "http_proxy"),
		"https": readProxySetting(environ, "HTTPS_PROXY", "https_proxy"),
	}
	if environ("REQUEST_METHOD") != "" {
		delete(settings, "http") // what a web server's client chooses in CGI
	}
	if !settings["http"].odd && !settings["https"].odd {
		return http.ProxyFromEnvironment
	}
	except := cmp.Or(environ("NO_PROXY"), environ("no_proxy"))
	return func(r *http.Request) (*url.URL, error) {
		s := settings[r.URL.Scheme]
		switch {
		case !s.odd:
			return http.ProxyFromEnvironment(r)
		case s.address == nil && s.err == nil, goesDirect(r.URL, except):
			return nil, nil
		}
		return s.address, s.err
	}
}

// proxySetting is what a variable says.
type proxySetting struct {
	odd     bool // net/http does not read it so
	address *url.URL
	err     error
}

func readProxySetting(environ func(string) string, names ...string) (s proxySetting) {
	for _, name := range names {
		value := environ(name)
		if value == "" {
			continue
		}
		text := strings.TrimFunc(value, func(r rune) bool {
			return unicode.IsSpace(r) || unicode.IsControl(r) || unicode.In(r, unicode.Quotation_Mark, unicode.Cf)
		})
		if text == "" {
			s.odd = true
			continue
		}
		address, err := parseProxy(text)
		if err != nil {
			return proxySetting{odd: true, err: &proxySettingError{name}}
		}
		return proxySetting{odd: s.odd || text != value, address: address}
	}
	return s
}

// parseProxy reads the address of a proxy, with or without a scheme.
func parseProxy(text string) (*url.URL, error) {
	if !strings.Contains(text, "://") {
		text = "http://" + text
	}
	u, err := url.Parse(text)
	if err == nil && u.Hostname() == "" {
		err = errors.New("no host")
	}
	return u, err
}

// goesDirect reports whether NO_PROXY excepts a server, as net/http reads it.
func goesDirect(u *url.URL, except string) bool {
	host, port := strings.TrimSuffix(strings.ToLower(u.Hostname()), "."), u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[u.Scheme]
	}
	ip := net.ParseIP(host)
	if host == "localhost" || ip != nil && ip.IsLoopback() {
		return true
	}
	for part := range strings.SplitSeq(strings.ToLower(except), ",") {
		part = strings.TrimSpace(part)
		if part == "*" {
			return true
		}
		if _, network, err := net.ParseCIDR(part); err == nil {
			if ip != nil && network.Contains(ip) {
				return true
			}
			continue
		}
		if h, p, err := net.SplitHostPort(part); err == nil {
			if p != port {
				continue
			}
			part = h
		}
		part = strings.TrimPrefix(part, "*")
		switch other := net.ParseIP(part); {
		case part == "":
		case other != nil:
			if ip != nil && other.Equal(ip) {
				return true
			}
		case host == part, strings.HasSuffix(host, "."+strings.TrimPrefix(part, ".")):
			return true
		}
	}
	return false
}

// trouble is why a request got no answer; "" if that isn't known.
func trouble(err error) Phrase {
	var op *net.OpError
	byProxy := errors.As(err, &op) && (op.Op == "proxyconnect" || strings.HasPrefix(op.Op, "socks"))
	_, badSetting := errors.AsType[*proxySettingError](err)
	refusal, refusedByProxy := errors.AsType[*proxyRefusal](err)
	invalid, isInvalid := errors.AsType[x509.CertificateInvalidError](err)
	_, unverified := errors.AsType[*tls.CertificateVerificationError](err)
	_, unknown := errors.AsType[x509.UnknownAuthorityError](err)
	_, otherHost := errors.AsType[x509.HostnameError](err)
	_, notTLS := errors.AsType[tls.RecordHeaderError](err)
	_, noName := errors.AsType[*net.DNSError](err)
	switch {
	case errors.Is(err, context.Canceled):
		return callEnded
	case badSetting:
		return causeProxySetting
	case refusedByProxy && refusal.status == http.StatusProxyAuthRequired:
		return causeProxyLogin
	case refusedByProxy, byProxy:
		return causeProxy
	case isInvalid && invalid.Reason == x509.Expired:
		return causeClock
	case isInvalid, unverified, unknown, otherHost, notTLS, errors.Is(err, http.ErrSchemeMismatch):
		return causeIntercepted
	case timedOut(err):
		return causeTimeout
	case noName:
		return causeName
	case op != nil && op.Op == "dial" && strings.Contains(err.Error(), "refused"): // in the words of every system
		return causeRefused
	}
	return ""
}
