package polargate

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/polargate/polargate/internal/logs"
	"github.com/polargate/polargate/internal/pace"
	"github.com/polargate/polargate/internal/redact"
	"github.com/polargate/polargate/internal/transport"
)

// Server names one of Polar's two servers by its base URL.
type Server string

// Polar's servers. The zero value of a Server field means Production.
const (
	Production Server = "https://api.polar.sh"
	Sandbox    Server = "https://sandbox-api.polar.sh"
)

// ClientConfig configures a Client.
type ClientConfig struct {
	// OrganizationID is the organization that the keys belong to: a UUID of version 4,
	// from its settings in Polar. Required. Build it into the program: whoever can choose
	// it can bring keys of their own.
	OrganizationID string
	// AccessToken is an organization access token with the scopes license_keys:read and
	// license_keys:write. Calls about customers and seats name the scopes that they need.
	// Empty means the public endpoints, which need none. Never ship a token inside a
	// desktop program.
	AccessToken string
	// App and Version name the program in the User-Agent. Both may be empty.
	App, Version string
	// Server is Production or Sandbox; empty is Production.
	Server Server
	// BaseURL replaces Server, for your own proxy or a test: http or https, with no user,
	// query or fragment.
	BaseURL string
	// HTTPClient sends the requests. It is copied and never changed, and redirects aren't
	// followed whatever it says. If it is nil or has no Transport, the library uses its
	// own transport: a copy of http.DefaultTransport that honors the proxy variables of
	// the environment, pings HTTP/2 connections, keeps idle ones for 30 seconds, and
	// never reuses a connection on which a request timed out. Your own Transport is used
	// as it is: set its HTTP2.SendPingTimeout and IdleConnTimeout, or requests can go to
	// a dead HTTP/2 connection for many minutes.
	HTTPClient *http.Client
	// RequestsPerMinute bounds requests with an AccessToken. 0 means 300 for Production
	// or a BaseURL, and 100 for Sandbox. All clients of the program with the same token
	// share it, and the last number set counts. Requests without a token are always
	// limited to Polar's 3 a second.
	RequestsPerMinute int
	// Logger gets warnings; nil means that nothing is logged.
	Logger *slog.Logger
}

// Format prints a configuration without its secrets, whatever the verb.
func (c ClientConfig) Format(f fmt.State, _ rune) {
	fmt.Fprintf(f, "polargate.ClientConfig{OrganizationID:%s App:%s Version:%s}", c.OrganizationID, c.App, c.Version)
}

// LogValue logs a configuration without its secrets.
func (c ClientConfig) LogValue() slog.Value { return slog.StringValue(fmt.Sprint(c)) }

// Client calls Polar's license key endpoints and keeps no license. Most programs want a
// Gate, which is built on it. A Client is safe for use by many goroutines. NewClient
// makes one; the zero value can't be used.
type Client struct {
	organizationID string
	base           string // without a trailing slash
	prefix         string // of the license key endpoints
	token          masked
	userAgent      string
	http           *http.Client
	own            *transport.Transport // closed by Close; nil if the caller brought one
	pace           pace.Pacer
	log            *slog.Logger
	now            func() time.Time
}

// NewClient makes a Client. A configuration that can't work is an *InputError.
func NewClient(config ClientConfig) (*Client, error) {
	if config.OrganizationID == "" {
		return nil, errBadOrganization
	}
	return newTokenClient(config)
}

var errBadOrganization = &InputError{"OrganizationID", "is not a UUID of version 4: copy it from the organization's settings in Polar"}

// newTokenClient is NewClient, but accepts no organization too.
func newTokenClient(config ClientConfig) (*Client, error) {
	if config.AccessToken == "" {
		return newPublicClient(config)
	}
	c, err := newClient(config)
	if err == nil {
		c.prefix = "/v1/license-keys/"
		c.token = mask(config.AccessToken, "****")
		c.pace = pace.ForToken(c.base, config.AccessToken, config.RequestsPerMinute, defaultPerMinute(config.Server, config.BaseURL))
	}
	return c, err
}

// newPublicClient is a Client of the public endpoints, which need no token. A Gate uses no
// others, and so a program with a Gate doesn't link the budget of a token.
func newPublicClient(config ClientConfig) (*Client, error) {
	if config.OrganizationID == "" {
		return nil, errBadOrganization
	}
	c, err := newClient(config)
	if err == nil {
		c.pace = pace.ForAddress(c.base, attemptTimeout)
	}
	return c, err
}

// newClient is a Client without its pace.
func newClient(config ClientConfig) (*Client, error) {
	id, ok := canonicalUUID4(config.OrganizationID)
	if !ok && config.OrganizationID != "" {
		return nil, errBadOrganization
	}
	base, err := baseURL(config)
	if err != nil {
		return nil, err
	}
	if config.RequestsPerMinute < 0 {
		return nil, &InputError{"RequestsPerMinute", "is negative: give the requests allowed in a minute, or 0 for the default"}
	}
	if strings.ContainsFunc(config.AccessToken, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return nil, &InputError{"AccessToken", "has spaces, line breaks or other characters that no token has: copy it again from Polar"}
	}
	c := &Client{
		organizationID: id,
		base:           base,
		prefix:         "/v1/customer-portal/license-keys/",
		userAgent:      userAgent(config.App, config.Version),
		log:            logs.Recovering(config.Logger),
		now:            wallClock,
	}
	c.http, c.own = httpClient(config.HTTPClient)
	return c, nil
}

// defaultPerMinute is what Polar allows a token, according to its reference.
func defaultPerMinute(server Server, base string) int {
	if base == "" && server == Sandbox {
		return 100
	}
	return 300
}

// Format prints that it is a Client, and its organization, whatever the verb.
func (c *Client) Format(f fmt.State, _ rune) {
	fmt.Fprintf(f, "polargate.Client{OrganizationID:%s}", c.organizationID)
}

// LogValue logs what Format prints.
func (c *Client) LogValue() slog.Value { return slog.StringValue(fmt.Sprint(c)) }

// OrganizationID is the organization that the Client was made for, in lower case.
func (c *Client) OrganizationID() string { return c.organizationID }

// Close drops idle connections that the Client opened itself. Calls in progress aren't
// cut short, and calls after Close still work.
func (c *Client) Close() {
	if c.own != nil {
		c.own.CloseIdleConnections()
	}
}

// wallClock is the time by the computer's clock.
func wallClock() time.Time { return calendar(time.Now()) }

// calendar is a time as a calendar has it. The monotonic part is dropped: it stands
// still while a laptop sleeps, and cannot be stored.
func calendar(t time.Time) time.Time { return t.UTC().Round(0) }

func baseURL(config ClientConfig) (string, error) {
	if config.BaseURL == "" {
		switch config.Server {
		case "", Production:
			return string(Production), nil
		case Sandbox:
			return string(Sandbox), nil
		}
		return "", &InputError{"Server", "is neither Production nor Sandbox: use BaseURL for another address"}
	}
	u, err := url.Parse(config.BaseURL)
	bad := func(problem string) (string, error) { return "", &InputError{"BaseURL", problem} }
	switch {
	case err != nil:
		return bad("is not a URL: give something like https://api.polar.sh")
	case u.Scheme != "https" && u.Scheme != "http" || u.Hostname() == "" || u.Opaque != "":
		return bad("must begin with https:// or http:// and name a host")
	case u.User != nil:
		return bad("holds a user name or password: leave them out")
	case u.RawQuery != "" || u.ForceQuery || u.Fragment != "" || strings.HasSuffix(config.BaseURL, "#"):
		return bad("has a query or a fragment: leave them out")
	case strings.HasSuffix(strings.TrimRight(u.Path, "/"), "/v1"):
		return bad("ends in /v1: leave that out, it is added to every request")
	}
	return strings.TrimRight(u.String(), "/"), nil
}

// httpClient copies the caller's client, or makes one, and forbids redirects, which would
// send the key to another host.
func httpClient(given *http.Client) (*http.Client, *transport.Transport) {
	var c http.Client
	if given != nil {
		c = *given
	}
	var own *transport.Transport
	if c.Transport == nil {
		if _, ordinary := http.DefaultTransport.(*http.Transport); ordinary || given == nil {
			own = transport.New()
			c.Transport = own
		} else {
			c.Transport = http.DefaultTransport // the program has put one of its own there
		}
	}
	c.Transport = unled{c.Transport}
	c.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &c, own
}

// unled takes the address off every redirect. net/http reads it even if the redirect
// isn't followed, and repeats it in an error if it is malformed.
type unled struct{ http.RoundTripper }

func (u unled) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := u.RoundTripper.RoundTrip(r)
	if resp != nil && resp.StatusCode >= 300 && resp.StatusCode < 400 {
		resp.Header.Del("Location")
	}
	return resp, err
}

// userAgent names program, library and platform: "inkwell/1.4.2
// polargate/v0.1.0 (linux; amd64)".
func userAgent(app, version string) string {
	product := func(name, version string) string {
		token := func(s string) string {
			return strings.Map(func(r rune) rune {
				if r > ' ' && r <= '~' && !strings.ContainsRune(`()<>@,;:\"/[]?={}`, r) {
					return r
				}
				return '-'
			}, s[:min(len(s), 64)])
		}
		if version == "" {
			return token(name)
		}
		return token(name) + "/" + token(version)
	}
	agent := product("polargate", libraryVersion()) + " (" + runtime.GOOS + "; " + runtime.GOARCH + ")"
	if app != "" {
		agent = product(app, version) + " " + agent
	}
	return agent
}

// libraryVersion is the version of this module in the running program; "" if the build
// doesn't say.
var libraryVersion = sync.OnceValue(func() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return ""
	}
	const path = "github.com/polargate/polargate"
	for _, m := range append(info.Deps, &info.Main) {
		if m.Path == path && m.Version != "(devel)" {
			return m.Version
		}
	}
	return ""
})

func (c *Client) checkInput(ctx context.Context, key Key, conditions map[string]any) error {
	if ctx == nil {
		return errNilContext
	}
	if c.organizationID == "" {
		return errBadOrganization
	}
	if key.IsZero() {
		return &InputError{fieldKey, "is missing: make one from text with ParseKey"}
	}
	if len(key.Reveal()) > maxKeyLen {
		return errKeyTooLong
	}
	if !utf8.ValidString(key.Reveal()) {
		return errKeyNoText
	}
	return checkMap("conditions", conditions)
}

var errNilContext = &InputError{"ctx", "is nil: pass context.Background() if there is no other"}

const (
	opValidate   = "validate"
	opActivate   = "activate"
	opMove       = "move" // an activate, for the license of another machine
	opDeactivate = "deactivate"
	opConsume    = "consume" // a validate that counts
	opState      = "customer state"
	opKey        = "license key"
	opList       = "list of license keys"
	opLists      = "lists of customers"
	opImport     = "import" // a validate of another program's seat

	// maxAnswer bounds how much of an answer is read. A license key with its customer
	// takes about 2 KiB; metadata may make it more.
	maxAnswer = 1 << 20
	// longestList is how long a page of a list may be: an entry has its customer, benefit
	// or product with it, and all of them may have much metadata.
	longestList = 16 << 20
	// attemptTimeout bounds one request, so that a server that hangs leaves time for
	// another attempt within the caller's context.
	attemptTimeout = 10 * time.Second
	// attempts and firstBackoff suffice for a connection that was reset and a gateway
	// that restarts. A longer outage is what the grace period is for.
	attempts     = 3
	firstBackoff = 250 * time.Millisecond
)

// exchange is one call of an endpoint: a POST of a body, or a GET without one, unless
// method says otherwise.
type exchange struct {
	op, path string // path is below the base, or below c.prefix if it begins with no slash
	method   string
	key      Key
	secret   string // beside key and token, not to be repeated in an error
	session  masked // token of a customer's session, to be sent instead of the Client's
	body     any
	success  int // status; 0 means 200
	// refusals are what Polar's words for a refusal mean to this call, beside those that
	// license keys are refused with. If it isn't nil, any other word is ErrDenied.
	refusals   map[string]Reason
	repeatable bool // asking twice does no harm
	most       int  // how long an answer may be; 0 means maxAnswer
	// hard is the context of the request itself, if it must outlive the wait for its
	// turn; nil means the caller's.
	hard context.Context
}

func (x *exchange) longest() int { return cmp.Or(x.most, maxAnswer) }

// tokenFor is what a request is authorized with; "" if with nothing.
func (c *Client) tokenFor(x exchange) string {
	if !x.session.IsZero() {
		return x.session.Reveal()
	}
	return c.token.Reveal()
}

// exchange sends a request, again if that is allowed, and lets accept read the body of an
// answer with status 200 and the time at which Polar gave it. An error of accept other
// than an *Error means that the answer proves nothing.
func (c *Client) exchange(ctx context.Context, x exchange, accept func(body []byte, at time.Time) error) error {
	err := c.tries(ctx, x, accept)
	if e, ok := err.(*Error); ok && (!c.token.IsZero() || !x.session.IsZero()) {
		switch {
		case e.Reason == ErrMisconfigured && !x.session.IsZero() && e.StatusCode == http.StatusUnauthorized:
			e.situation = serverSession
		case e.Reason == ErrMisconfigured && e.StatusCode == http.StatusUnprocessableEntity:
			e.situation = serverField
		case e.Reason == ErrMisconfigured && x.op == opState:
			e.situation = serverState
		case e.Reason == ErrMisconfigured && x.op == opLists:
			e.situation = serverLists
		case e.Reason == ErrMisconfigured && e.scope != "":
			e.situation = serverScope
		case e.Reason == ErrMisconfigured:
			e.situation = serverKeys
		case e.Reason == ErrSeatReleased:
			e.situation = serverSeat
		case e.Reason == ErrUnreachable && e.situation == "":
			e.situation = serverUnreachable
		case e.Reason == ErrUnknownKey && x.key.IsZero():
			e.situation = serverKeyID
		case e.Reason == ErrDenied && x.key.IsZero():
			e.situation = serverRefused
		case e.Reason != ErrUnreachable:
			e.situation = ""
		}
	}
	return err
}

// tries is exchange with its retries.
func (c *Client) tries(ctx context.Context, x exchange, accept func(body []byte, at time.Time) error) error {
	var body []byte
	if x.body != nil {
		var err error
		if body, err = json.Marshal(x.body); err != nil {
			return &InputError{"conditions", "can't be written as JSON"}
		}
	}
	backoff := firstBackoff
	var last error
	for attempt := 1; ; attempt++ {
		err := c.attempt(ctx, x, body, accept)
		if err == nil {
			return nil
		}
		if e, ok := err.(*Error); ok && last != nil && e.Reason == ErrRateLimited && e.StatusCode == 0 {
			return last // our own pace forbids another try: that is not why it failed
		}
		last = err
		_, again := errors.AsType[*worthAnotherTry](err)
		if !again || !x.repeatable || attempt == attempts {
			return err
		}
		if !pace.Sleep(ctx, pace.Jitter(backoff)) {
			return err
		}
		backoff *= 4
	}
}

// worthAnotherTry marks the cause of a failure that may be over in a moment.
type worthAnotherTry struct{ error }

func (w *worthAnotherTry) Unwrap() error { return w.error }

func (c *Client) attempt(ctx context.Context, x exchange, body []byte, accept func(body []byte, at time.Time) error) (err error) {
	if err := ctx.Err(); err != nil {
		return &Error{Op: x.op, Reason: ErrUnreachable, situation: callEnded, Err: err}
	}
	done, err := c.pace.Wait(ctx)
	if err != nil {
		return c.notItsTurn(x.op, err)
	}
	outcome := pace.Lost
	defer func() { done(outcome) }()
	defer func() {
		if p := recover(); p != nil {
			c.log.Error("polargate: the transport panicked", "op", x.op, "panic", c.tidy(fmt.Errorf("%v", p), x), "stack", string(debug.Stack()))
			err = &Error{Op: x.op, Reason: ErrUnreachable, Err: c.tidy(fmt.Errorf("the transport panicked: %v", p), x), sent: true}
		}
	}()

	if err := ctx.Err(); err != nil {
		outcome = pace.Unsent
		return &Error{Op: x.op, Reason: ErrUnreachable, situation: callEnded, Err: err}
	}
	if x.hard != nil {
		ctx = x.hard
	}
	ctx, cancel := context.WithTimeout(ctx, attemptTimeout)
	defer cancel()
	var wire transport.Trace
	ctx = wire.Watch(ctx)
	req, err := c.request(ctx, x, body)
	if err != nil {
		return &InputError{"BaseURL", "does not make a URL"}
	}
	req.Header.Set("Accept", "application/json")
	req.Header.Set("User-Agent", c.userAgent)
	if token := c.tokenFor(x); token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := c.http.Do(req)
	if err = endOf(ctx, err); err != nil {
		sent := !wire.NeverSent(err)
		switch {
		case !sent:
			outcome = pace.Unsent
		case !transport.TimedOut(err):
			outcome = pace.Answered // broken off: on its way no longer
		}
		if !sent {
			// Without a network the failure is known at once: a start must not wait for
			// what won't change within a second.
			return &Error{Op: x.op, Reason: ErrUnreachable, Err: c.tidy(err, x), situation: causes[transport.CauseOf(err)]}
		}
		return &Error{Op: x.op, Reason: ErrUnreachable, Err: &worthAnotherTry{c.tidy(err, x)}, situation: causes[transport.CauseOf(err)], sent: true}
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, int64(x.longest())+1))
	if err == nil && ctx.Err() != nil && !json.Valid(answer) {
		// A connection that net/http closes can end like an answer that is complete.
		err = ctx.Err()
	}
	if err = endOf(ctx, err); err != nil {
		return &Error{Op: x.op, Reason: ErrUnreachable, StatusCode: resp.StatusCode, Detail: "the answer broke off", Err: &worthAnotherTry{c.tidy(err, x)}, situation: causes[transport.CauseOf(err)], sent: true}
	}
	outcome = pace.Answered
	err = c.classify(x, resp, answer, accept)
	if e, ok := errors.AsType[*Error](err); ok && e.Reason == ErrRateLimited {
		c.pace.PauseFor(e.RetryAfter)
	}
	return err
}

// endOf is err, or the context's own error in place of its cause: net/http reports the cause over
// HTTP/1.1, but not over HTTP/2.
func endOf(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); err != nil && cause != ctx.Err() && errors.Is(err, cause) {
		return ctx.Err()
	}
	return err
}

// notItsTurn is the error of a request that may not be sent yet, because of its pace. The
// library's own pace is never reported as an outage of Polar.
func (c *Client) notItsTurn(op string, err error) *Error {
	e := &Error{Op: op, Reason: ErrRateLimited, Detail: err.Error()}
	switch err := err.(type) {
	case *pace.PausedError:
		e.RetryAfter, e.heldBack = err.For, true
		return e
	case *pace.LateError:
		e.RetryAfter, e.Err = err.For, context.DeadlineExceeded
	case *pace.StoppedError:
		e.Err, e.situation = err.Err, callEnded
		if !c.token.IsZero() {
			e.RetryAfter = err.For // a server tells its caller
		}
	}
	e.unasked = !c.token.IsZero()
	return e
}

func (c *Client) request(ctx context.Context, x exchange, body []byte) (*http.Request, error) {
	address := c.base + x.path
	if !strings.HasPrefix(x.path, "/") {
		address = c.base + c.prefix + x.path
	}
	if x.body == nil {
		return http.NewRequestWithContext(ctx, cmp.Or(x.method, http.MethodGet), address, nil)
	}
	req, err := http.NewRequestWithContext(ctx, cmp.Or(x.method, http.MethodPost), address, bytes.NewReader(body))
	if err == nil {
		req.Header.Set("Content-Type", "application/json")
	}
	return req, err
}

// tidy takes the method and URL off a network error: they are the same for every call,
// and the shorter text reads better. An error that quotes a server that quotes a secret
// is replaced by its redacted text.
func (c *Client) tidy(err error, x exchange) error {
	if u, ok := errors.AsType[*url.Error](err); ok {
		err = u.Err
	}
	text := err.Error()
	clean := redact.Text(text, x.key.Reveal(), c.token.Reveal(), x.session.Reveal(), x.secret)
	switch {
	case clean == text:
		return err
	case errors.Is(err, context.DeadlineExceeded):
		return context.DeadlineExceeded
	case errors.Is(err, context.Canceled):
		return context.Canceled
	}
	return errors.New(clean)
}

func (c *Client) cleanDetail(text string, x exchange) string {
	return cleanDetail(text, x.key.Reveal(), c.token.Reveal(), x.session.Reveal(), x.secret)
}

// causes are the phrases for why a request got no answer.
var causes = map[transport.Cause]Phrase{
	transport.Canceled:     callEnded,
	transport.Timeout:      causeTimeout,
	transport.Name:         causeName,
	transport.Refused:      causeRefused,
	transport.Clock:        causeClock,
	transport.Intercepted:  causeIntercepted,
	transport.ProxyFailed:  causeProxy,
	transport.ProxyLogin:   causeProxyLogin,
	transport.ProxySetting: causeProxySetting,
}

var (
	errForeignAnswer = errors.New("the answer is about another license key or organization")
	errTooLong       = errors.New("the answer is too long to be Polar's")
)

// classify turns an answer into a verdict. Only Polar's own shapes are one; everything
// else proves nothing.
func (c *Client) classify(x exchange, resp *http.Response, body []byte, accept func(body []byte, at time.Time) error) error {
	status := resp.StatusCode
	unknown := func(cause error) *Error {
		// A client error was refused on the way. What failed on the server's side or came
		// garbled may have had its effect there.
		sent := status >= 500 && status != http.StatusNetworkAuthenticationRequired || status < 300
		e := &Error{Op: x.op, Reason: ErrUnreachable, StatusCode: status, Err: cause, sent: sent}
		switch {
		case status == http.StatusProxyAuthRequired:
			e.situation = causeProxyLogin
		case errors.Is(cause, errWebPage), errors.Is(cause, errRedirect), status == http.StatusNetworkAuthenticationRequired:
			e.situation = causePage
		}
		return e
	}
	if len(body) > x.longest() {
		return unknown(errTooLong)
	}
	switch {
	case status == http.StatusNoContent && accept == nil:
		return nil
	case status == cmp.Or(x.success, http.StatusOK) && accept != nil:
		err := accept(body, serverTime(resp, c.now()))
		if refused, ok := err.(*Error); ok {
			refused.Op, refused.Detail = x.op, c.cleanDetail(refused.Detail, x)
			return refused
		}
		if err != nil {
			return unknown(notPolar(resp, err))
		}
		return nil
	case status == http.StatusTooManyRequests:
		return &Error{Op: x.op, Reason: ErrRateLimited, StatusCode: status, RetryAfter: retryAfter(resp.Header.Get("Retry-After"), c.now())}
	case status >= 500 && status != http.StatusNetworkAuthenticationRequired: // a login takes longer than a moment
		cause := notPolar(resp, errServerFailed)
		failure := unknown(&worthAnotherTry{cause})
		if cause == errServerFailed { // and not the page of a proxy
			failure.situation = serverFailed
		}
		return failure
	}
	said, ok := parseRefusal(body)
	if !ok {
		return unknown(notPolar(resp, errors.New("not JSON")))
	}
	if reason := said.reason(status, x.refusals, x.op == opDeactivate || x.op == opActivation); reason != "" {
		detail := said.Detail
		if len(said.Faults) > 0 {
			detail = strings.Join(said.Faults, "; ")
		}
		refused := &Error{Op: x.op, Reason: reason, StatusCode: status, Code: said.code(), Detail: c.cleanDetail(detail, x), date: serverTime(resp, time.Time{}), places: &said.Places}
		if said.Error == lacksScopeCode {
			refused.scope = wantedScope(resp)
		}
		return refused
	}
	return unknown(notPolar(resp, errors.New("not in Polar's shape")))
}
