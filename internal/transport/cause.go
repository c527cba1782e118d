package transport

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/http"
	"net/http/httptrace"
	"strings"
	"sync/atomic"
)

// Cause is why a request got no answer.
type Cause int

// The causes that can be told apart.
const (
	Unknown      Cause = iota
	Canceled           // the caller gave up
	Timeout            // no answer came in time
	Name               // the server's name wasn't found
	Refused            // nothing accepts connections at the server's address
	Clock              // a certificate seems not to be valid now: this computer's clock may be wrong
	Intercepted        // something else than the server answered
	ProxyFailed        // the proxy couldn't be reached, or refused to connect
	ProxyLogin         // the proxy wants a user and a password
	ProxySetting       // the environment's proxy variable can't be read
)

// CauseOf is why a request got no answer, by the error of the request.
func CauseOf(err error) Cause {
	p := partsOf(err)
	byProxy := p.op != nil && (p.op.Op == "proxyconnect" || strings.HasPrefix(p.op.Op, "socks"))
	switch {
	case errors.Is(err, context.Canceled):
		return Canceled
	case p.badSetting:
		return ProxySetting
	case p.refusal != nil && p.refusal.status == http.StatusProxyAuthRequired:
		return ProxyLogin
	case p.refusal != nil, byProxy:
		return ProxyFailed
	case p.invalid != nil && p.invalid.Reason == x509.Expired:
		return Clock
	case p.invalid != nil, p.unverified, p.foreign, p.notTLS, errors.Is(err, http.ErrSchemeMismatch):
		return Intercepted
	case TimedOut(err):
		return Timeout
	case p.noName:
		return Name
	case p.op != nil && p.op.Op == "dial" && strings.Contains(err.Error(), "refused"): // a word that all systems use
		return Refused
	}
	return Unknown
}

// parts are what the error of a request consists of: of each type the first.
type parts struct {
	op         *net.OpError
	refusal    *proxyRefusal
	invalid    *x509.CertificateInvalidError
	badSetting bool
	unverified bool // TLS doesn't accept the certificate
	foreign    bool // nor does x509: nobody known has signed it, or it is for another server
	notTLS     bool
	noName     bool // the server's name wasn't found
	timed      interface{ Timeout() bool }
}

// partsOf takes an error apart. It is one function, because errors.AsType is linked into a
// program once more for each type that it looks for.
func partsOf(err error) (p parts) {
	each(err, func(err error) {
		switch err := err.(type) {
		case *net.OpError:
			if p.op == nil {
				p.op = err
			}
		case *proxyRefusal:
			p.refusal = err
		case x509.CertificateInvalidError:
			if p.invalid == nil {
				p.invalid = &err
			}
		case *proxySettingError:
			p.badSetting = true
		case *tls.CertificateVerificationError:
			p.unverified = true
		case x509.UnknownAuthorityError, x509.HostnameError:
			p.foreign = true
		case tls.RecordHeaderError:
			p.notTLS = true
		case *net.DNSError:
			p.noName = true
		}
		if t, ok := err.(interface{ Timeout() bool }); ok && p.timed == nil {
			p.timed = t
		}
	})
	return p
}

// each calls with an error, and with all that it wraps.
func each(err error, see func(error)) {
	for err != nil {
		see(err)
		switch wraps := err.(type) {
		case interface{ Unwrap() error }:
			err = wraps.Unwrap()
		case interface{ Unwrap() []error }:
			for _, part := range wraps.Unwrap() {
				each(part, see)
			}
			return
		default:
			return
		}
	}
}

// TimedOut reports whether a request ended because its time was over, or because its caller
// gave up.
func TimedOut(err error) bool {
	timed := partsOf(err).timed
	return errors.Is(err, context.Canceled) || timed != nil && timed.Timeout()
}

// Trace records whether a request got a connection. A transport that doesn't report it
// leaves the record empty.
type Trace struct{ wanted, got atomic.Bool }

// Watch returns a context for the request.
func (t *Trace) Watch(ctx context.Context) context.Context {
	return traced(ctx, func() { t.wanted.Store(true) }, func(httptrace.GotConnInfo) { t.got.Store(true) })
}

// NeverSent reports whether a failed request certainly didn't reach the server: no
// connection was opened, the name wasn't found, or TLS failed.
func (t *Trace) NeverSent(err error) bool {
	p := partsOf(err)
	return t.wanted.Load() && !t.got.Load() ||
		p.op != nil && (p.op.Op == "dial" || p.op.Op == "proxyconnect") ||
		p.noName || p.unverified || p.notTLS || p.badSetting || p.refusal != nil
}

// traced is httptrace.WithClientTrace for two hooks. That one uses reflection, which would
// make every program larger by 30 kB. wanted is called when a request wants a connection, and
// got when it has one. A trace that is in ctx already goes on.
func traced(ctx context.Context, wanted func(), got func(httptrace.GotConnInfo)) context.Context {
	var trace httptrace.ClientTrace
	if old := httptrace.ContextClientTrace(ctx); old != nil {
		trace = *old
	}
	oldGet, oldGot := trace.GetConn, trace.GotConn
	trace.GetConn = func(address string) {
		wanted()
		if oldGet != nil {
			oldGet(address)
		}
	}
	trace.GotConn = func(c httptrace.GotConnInfo) {
		got(c)
		if oldGot != nil {
			oldGot(c)
		}
	}
	return context.WithValue(ctx, traceKey, &trace)
}

// traceKey is the key of a trace in a context, which package httptrace keeps to itself.
var traceKey = func() any {
	var asked keyCatcher
	httptrace.ContextClientTrace(&asked)
	return asked.key
}()

// keyCatcher is a context that keeps the key that it was asked for.
type keyCatcher struct {
	context.Context
	key any
}

// Value has nothing under any key.
func (k *keyCatcher) Value(key any) any {
	k.key = key
	return nil
}
