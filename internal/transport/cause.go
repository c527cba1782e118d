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
	op, ok := errors.AsType[*net.OpError](err)
	byProxy := ok && (op.Op == "proxyconnect" || strings.HasPrefix(op.Op, "socks"))
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
		return Canceled
	case badSetting:
		return ProxySetting
	case refusedByProxy && refusal.status == http.StatusProxyAuthRequired:
		return ProxyLogin
	case refusedByProxy, byProxy:
		return ProxyFailed
	case isInvalid && invalid.Reason == x509.Expired:
		return Clock
	case isInvalid, unverified, unknown, otherHost, notTLS, errors.Is(err, http.ErrSchemeMismatch):
		return Intercepted
	case TimedOut(err):
		return Timeout
	case noName:
		return Name
	case op != nil && op.Op == "dial" && strings.Contains(err.Error(), "refused"): // a word that all systems use
		return Refused
	}
	return Unknown
}

// TimedOut reports whether a request ended because its time was over, or because its caller
// gave up.
func TimedOut(err error) bool {
	t, ok := errors.AsType[interface {
		error
		Timeout() bool
	}](err)
	return errors.Is(err, context.Canceled) || ok && t.Timeout()
}

// Trace records whether a request got a connection. A transport that doesn't report it
// leaves the record empty.
type Trace struct{ wanted, got atomic.Bool }

// Watch returns a context for the request.
func (t *Trace) Watch(ctx context.Context) context.Context {
	return httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GetConn: func(string) { t.wanted.Store(true) },
		GotConn: func(httptrace.GotConnInfo) { t.got.Store(true) },
	})
}

// NeverSent reports whether a failed request certainly didn't reach the server: no
// connection was opened, the name wasn't found, or TLS failed.
func (t *Trace) NeverSent(err error) bool {
	op, ok := errors.AsType[*net.OpError](err)
	return t.wanted.Load() && !t.got.Load() ||
		ok && (op.Op == "dial" || op.Op == "proxyconnect") || is[*net.DNSError](err) || is[*tls.CertificateVerificationError](err) || is[tls.RecordHeaderError](err) ||
		is[*proxySettingError](err) || is[*proxyRefusal](err)
}

func is[E error](err error) bool {
	_, ok := errors.AsType[E](err)
	return ok
}
