// Package transport is net/http's transport for a client that must notice a dead network
// soon, and tells why a request got no answer. It promises that a connection on which a
// request timed out isn't used again. It repeats nothing, and knows nothing of what the
// requests mean.
package transport

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"os"
	"sync/atomic"
	"time"
)

const (
	// IdleTime is how long a connection is kept for the next request. Proxies and address
	// translators drop an idle connection after a minute or more, without telling anybody.
	IdleTime = 30 * time.Second
	// PingAfter is how long an HTTP/2 connection may be silent before it has to answer a
	// ping, and PingTime how long that answer may take. Their sum should not be shorter
	// than the time that a request has: a bad network must not cost an answer that would
	// still have come.
	PingAfter = 5 * time.Second
	PingTime  = 5 * time.Second
)

// Transport is net/http's, except that a connection on which a request timed out is not
// used again: something in between may have dropped it, and HTTP/2 would send all other
// requests over it. Make one with New.
type Transport struct {
	// Template is what connections are made by. It sends nothing itself. After a change,
	// call Renew.
	Template *http.Transport

	current atomic.Pointer[http.Transport]
}

// New makes a Transport that has the settings of http.DefaultTransport, as far as the program
// left them as they were, and reads the environment's proxy variables by Proxy.
func New() *Transport {
	t := &http.Transport{Proxy: http.ProxyFromEnvironment, ForceAttemptHTTP2: true}
	if byDefault, ok := http.DefaultTransport.(*http.Transport); ok {
		t = byDefault.Clone()
	}
	if t.TLSNextProto["h2"] != nil {
		// Another package set this up, and all clones would share its connections.
		t.TLSNextProto, t.ForceAttemptHTTP2 = nil, true
	}
	t.MaxIdleConnsPerHost = 3 // as many as may be in flight
	t.IdleConnTimeout = IdleTime
	var h2 http.HTTP2Config
	if t.HTTP2 != nil {
		h2 = *t.HTTP2
	}
	h2.SendPingTimeout = cmp.Or(h2.SendPingTimeout, PingAfter)
	h2.PingTimeout = cmp.Or(h2.PingTimeout, PingTime)
	t.HTTP2 = &h2
	if isProxyFromEnvironment(t.Proxy) {
		t.Proxy = Proxy(os.Getenv)
	}
	if t.OnProxyConnectResponse == nil {
		t.OnProxyConnectResponse = func(_ context.Context, _ *url.URL, _ *http.Request, resp *http.Response) error {
			if resp.StatusCode != http.StatusOK {
				return &proxyRefusal{resp.StatusCode}
			}
			return nil
		}
	}
	own := &Transport{Template: t}
	own.Renew()
	return own
}

// Renew has later requests use new connections, with the settings that Template has now.
func (own *Transport) Renew() { own.current.Store(own.Template.Clone()) }

// RoundTrip sends a request.
func (own *Transport) RoundTrip(r *http.Request) (*http.Response, error) {
	t := own.current.Load()
	var used, before atomic.Bool
	ctx := traced(r.Context(), func() {}, func(c httptrace.GotConnInfo) { used.Store(true); before.Store(c.Reused) })
	resp, err := t.RoundTrip(r.WithContext(ctx))
	failed := func(err error) error {
		if !used.Load() || !TimedOut(err) {
			return err
		}
		own.leave(t)
		if before.Load() {
			return &DeadConnection{err}
		}
		return err
	}
	if err != nil {
		return resp, failed(err)
	}
	resp.Body = &watchedBody{resp.Body, failed}
	return resp, nil
}

// leave has later requests use new connections. Requests under way are not cut short.
func (own *Transport) leave(t *http.Transport) {
	if own.current.Load() == t && own.current.CompareAndSwap(t, own.Template.Clone()) {
		t.CloseIdleConnections()
	}
}

// CloseIdleConnections closes the connections that no request uses now.
func (own *Transport) CloseIdleConnections() { own.current.Load().CloseIdleConnections() }

// watchedBody notices when a connection fails in the middle of an answer.
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

// DeadConnection is the error of a request that timed out on a connection that had been
// used before. It isn't used any more. The connection may be to blame instead of the server.
type DeadConnection struct{ error }

// Unwrap returns the error of the request.
func (d *DeadConnection) Unwrap() error { return d.error }

// Timeout reports whether the time was over, as net.Error has it.
func (d *DeadConnection) Timeout() bool { return TimedOut(d.error) }

// proxyRefusal is the answer of a proxy that refuses to connect.
type proxyRefusal struct{ status int }

func (p *proxyRefusal) Error() string {
	return fmt.Sprintf("the proxy answers %d %s", p.status, http.StatusText(p.status))
}
