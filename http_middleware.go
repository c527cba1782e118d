package polargate

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/polargate/polargate/internal/clock"
	"github.com/polargate/polargate/internal/door"
	"github.com/polargate/polargate/internal/incontext"
	"github.com/polargate/polargate/internal/ledger"
	"github.com/polargate/polargate/internal/memory"
	"github.com/polargate/polargate/internal/rights"
	"github.com/polargate/polargate/internal/writers"
)

// Route says which customers may use a route of an HTTP server, and how others are
// refused. Exactly one of Customer, LicenseKey and their forms with an error must be set.
type Route struct {
	// Customer names the customer who sent a request, from a session or a token that your
	// program has verified: whoever can choose the id is that customer. The zero
	// CustomerRef means that nobody is signed in.
	Customer func(*http.Request) CustomerRef
	// LicenseKey returns the license key that came with a request, for example in a
	// header; "" means none. Don't put keys into addresses, which are logged.
	LicenseKey func(*http.Request) string
	// CustomerOrError and LicenseKeyOrError are Customer and LicenseKey for programs that
	// can fail to find out, for example because the session store is down. An error is
	// answered 503, not 401, because signing in again wouldn't help, and never opens a
	// route that fails open. It is logged at most once a minute, and only by its types,
	// because its text may contain a session or an address; Refusal.Err wraps it. If
	// nobody is signed in, that is no error: return the zero CustomerRef, or "".
	CustomerOrError   func(*http.Request) (CustomerRef, error)
	LicenseKeyOrError func(*http.Request) (string, error)
	// Require is what the customer or key must have: all of it. Empty means that any
	// known customer, or any granted key, will do. Route keeps a copy.
	Require []Requirement
	// Spend is taken off a meter before the handler runs, and given back if the handler
	// panics or answers with a status of 500 or more; see Customers.Reserve. Otherwise it
	// stays taken off until Polar has counted it. The Entitlements in the request's context
	// already reflect it. Requests of every method spend, including HEAD, which a mux sends
	// to a pattern for GET; CORS preflights don't. The zero value spends nothing. Spend needs
	// Customer or CustomerOrError.
	//
	// Customers who are let in by something other than the meter aren't charged: if
	// Require names the meter, and is met without any Meter requirement of it, nothing is
	// taken off. So Any(Feature("unlimited"), Meter(id, 1)) costs customers with the
	// feature nothing, whatever their balance, and all others what Spend says. If Require
	// doesn't name the meter, everybody is charged.
	Spend Cost
	// FailOpen lets requests pass, without Entitlements in their context, if Polar can't
	// be reached and nothing is cached. False answers 503. Some requests get 503 anyway,
	// because their sender could bring it about: requests that were canceled, requests
	// for which CustomerOrError failed, license keys that were turned away for lack of
	// budget (see CustomersStats.TurnedAway), and license keys about which something in
	// front of Polar answered, such as a firewall. Customers over the request budget
	// pass.
	FailOpen bool
	// Fallback are features that everybody has on this route if Polar can't be reached and
	// nothing is cached: where FailOpen would open. Requests that meet Require with them,
	// and with CustomersConfig.Overlay, pass, are charged nothing, and have Entitlements in
	// their context with these features alone. Others get 503, or pass with FailOpen.
	Fallback []string
	// Watch is for routes whose handler runs for long, such as streams and WebSockets: the
	// request's context ends, with a *Refusal as its cause, when the customer or key no
	// longer meets Require, as with Customers.Watch. The handler has half a second for
	// its last words; then the connection is ended, also a hijacked one. With FailOpen, it
	// goes on while Polar can't be reached. False decides once, before the handler runs.
	Watch bool
	// Name is what a Decision calls the route. Empty means the pattern of the request, if a
	// mux around the route has set it.
	Name string
	// UpgradeURL and Refuse replace those of the configuration; empty and nil keep them.
	UpgradeURL string
	Refuse     func(http.ResponseWriter, *http.Request, Refusal)
}

// Cost is an amount of a meter.
type Cost struct {
	// MeterID is the meter's id.
	MeterID string
	// Units must be more than 0, unless UnitsOf is set.
	Units float64
	// UnitsOf returns what a request costs, if that differs; 0 is nothing. An *InputError is
	// answered 400, and any other error 503, because what can't be priced can't be sold. A
	// handler that learns only later what its work costs commits that; see
	// ReservationFromContext.
	UnitsOf func(*http.Request) (float64, error)
	// Usage is the event that tells Polar, once the handler has ended; see RunUsage. Without
	// a Name none is sent: then your program tells Polar itself.
	Usage Usage
}

// Middleware lets a request through to a handler if its customer meets the requirements,
// and puts the customer's Entitlements into the request's context. resolve is
// Route.Customer.
//
//	pro := customers.Middleware(signedIn, polargate.Feature("export"))
//	mux.Handle("GET /export", pro(handler))
func (c *Customers) Middleware(resolve func(*http.Request) CustomerRef, requirements ...Requirement) func(http.Handler) http.Handler {
	return c.Route(Route{Customer: resolve, Require: requirements})
}

// LicenseMiddleware lets a request through if it has a license key in a header, for
// example "X-License-Key", that is granted and meets the requirements. The key is
// validated without an activation; at Polar, that counts as one validation and nothing
// else.
//
// In the header "Authorization", the key follows "Bearer ", and 401 asks for that. Every
// answer says by Vary that it depends on the header. Whether an answer may be stored on
// the way is up to the handler.
func (c *Customers) LicenseMiddleware(header string, requirements ...Requirement) func(http.Handler) http.Handler {
	if header == "" {
		panic("polargate: LicenseMiddleware needs the name of a header")
	}
	header = strings.Clone(header)
	bearer := strings.EqualFold(header, "Authorization")
	gate := c.Route(Route{
		LicenseKey: func(r *http.Request) string {
			sent := r.Header.Get(header)
			if scheme, key, ok := strings.Cut(sent, " "); bearer && ok && strings.EqualFold(scheme, "Bearer") {
				return key
			}
			return sent
		},
		Require: requirements,
		Refuse: func(w http.ResponseWriter, r *http.Request, refusal Refusal) {
			if bearer && refusal.Status == http.StatusUnauthorized {
				w.Header().Set("WWW-Authenticate", "Bearer")
			}
			c.config.Refuse(w, r, refusal)
		},
	})
	return func(next http.Handler) http.Handler {
		gated := gate(next)
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Add("Vary", header)
			gated.ServeHTTP(w, r)
		})
	}
}

// Route is Middleware with every option.
//
// A browser's CORS preflight is neither refused nor charged, because it comes before the
// request, without anything that says who sends it. It reaches the handler without
// Entitlements, and only the status and the CORS headers of the handler's answer are
// sent. Put CORS middleware outside a Route, so that pages of other origins can read
// refusals too.
//
// Route panics if not exactly one of Customer, LicenseKey and their forms with an error
// is set, or if an id, a feature, a cost or an UpgradeURL can't be right: these are
// mistakes in the program, and its first start shows them. A feature that no benefit in
// CustomersConfig.Features unlocks is logged.
func (c *Customers) Route(route Route) func(http.Handler) http.Handler {
	route.normalize()
	all, spends := All(route.Require...), route.Spend.MeterID != "" || route.Spend.Units != 0 || route.Spend.UnitsOf != nil
	err := all.Validate()
	if spends {
		if route.CustomerOrError == nil || route.Spend.UnitsOf == nil && !isAmount(route.Spend.Units) {
			panic("polargate: Route.Spend needs Customer, and Units that are more than 0 and at most 1e15")
		}
		err = cmp.Or(err, Meter(route.Spend.MeterID, route.Spend.Units).Validate(), route.Spend.Usage.check())
	}
	if slices.Contains(route.Fallback, "") {
		err = cmp.Or[error](err, &InputError{"Fallback", "has a feature without a name"})
	}
	if err = cmp.Or(err, checkUpgradeURL(route.UpgradeURL)); err != nil {
		panic("polargate: a mistake in a Route: " + strings.TrimPrefix(err.Error(), "polargate: "))
	}
	route.Require, route.Fallback = ownRequirements(route.Require), slices.Clone(route.Fallback)
	route.Spend.MeterID, route.UpgradeURL = strings.Clone(route.Spend.MeterID), strings.Clone(route.UpgradeURL)
	route.Spend.Usage.Metadata = maps.Clone(route.Spend.Usage.Metadata)
	c.warnOfLockedFeatures(route.Require)
	if route.UpgradeURL == "" {
		route.UpgradeURL = c.config.UpgradeURL
	}
	if route.Refuse == nil {
		route.Refuse = c.config.Refuse
	}
	d := &doorway{c: c, route: route, site: &site{feature: featuresIn(route.Require)}, all: All(route.Require...), spends: spends}
	d.free = d.all.without(normalUUID(route.Spend.MeterID))
	return func(next http.Handler) http.Handler {
		if calls, ok := next.(*door.Procedure); ok {
			named := *d
			named.site = &site{feature: d.site.feature, name: route.Name}
			calls.Door = &named
			return next
		}
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { d.serve(w, r, next) })
	}
}

// doorway decides by a Route: about requests, and about the calls of package rpcgate.
type doorway struct {
	c         *Customers
	route     Route
	site      *site
	all, free Requirement // what is required, and what lets in without a charge
	spends    bool
}

// serve serves a request that is let in.
func (d *doorway) serve(w http.ResponseWriter, r *http.Request, next http.Handler) {
	c, route := d.c, &d.route
	if r.Method == http.MethodOptions && writers.IsPreflight(r) {
		writers.ServePreflight(w, r, next)
		return
	}
	var customer CustomerRef
	var key string
	var err error
	if route.CustomerOrError != nil {
		customer, err = route.CustomerOrError(r)
	} else {
		key, err = route.LicenseKeyOrError(r)
	}
	var q question
	listened := c.listened()
	if listened {
		q.route, q.site = cmp.Or(route.Name, r.Pattern), d.site
	}
	if err != nil {
		c.refuse(w, r, route, &q, c.unresolved(r, err))
		return
	}
	value, refusal, opens := d.decide(r.Context(), &q, customer, key)
	if refusal != nil && !opens {
		c.refuse(w, r, route, &q, *refusal)
		return
	}
	charged := !opens && d.charges(value)
	if listened && !charged {
		c.tell(r.Context(), &q, route.Require, value, refusal, opens)
	}
	switch {
	case route.Watch:
		c.serveWatched(w, r, next, route, &q, value, charged)
	case charged:
		c.serveSpending(w, r, next, route, &q, value)
	default:
		serve(w, r, next, value)
	}
}

// decide decides about a customer, or about a license key. If it opens, value is what
// everybody has meanwhile, and nil if the route fails open.
func (d *doorway) decide(ctx context.Context, q *question, customer CustomerRef, key string) (value *Entitlements, refusal *Refusal, opens bool) {
	c, route := d.c, &d.route
	if route.CustomerOrError != nil {
		q.key, q.seen = customer.key, inMemory
		hit, ok := c.cache.Hit(customer.key)
		switch known := (*Entitlements)(hit); {
		case ok && c.config.Overlay == nil && known.Known() && known.meets(&d.all, 0): // the common case, in few steps
			return known, nil, false
		case ok:
			value, refusal = c.decideAgain(ctx, customer.key, known, route.Require)
		default:
			q.seen = c.asked(customer.key).seen
			value, refusal = c.decideFor(ctx, customer, route.Require)
		}
	} else {
		q.key = licenseCacheKey(key)
		q.seen = c.asked(q.key).seen
		value, refusal = c.decideKey(ctx, q.key, route.Require)
	}
	if refusal != nil && route.opensFor(ctx, refusal) {
		value = c.fallenBack(ctx, route, customer) // if nil, nor is it that of a Route around it
		opens = value != nil || route.FailOpen
	}
	if opens {
		c.counts.failedOpen.Add(1)
	}
	return value, refusal, opens
}

// charges reports whether who is let in by value pays what the route spends.
func (d *doorway) charges(value *Entitlements) bool {
	return d.spends && value != nil && !value.Meets(d.free)
}

// ask begins a question about a call of package rpcgate.
func (d *doorway) ask(procedure string) question { return question{route: procedure, site: d.site} }

// Admit decides about a call of package rpcgate that is neither watched nor charged, as about a
// request. Without a Refusal and without Entitlements, it failed open.
func (d *doorway) Admit(ctx context.Context, procedure string, customer CustomerRef, key string) (*Entitlements, *Refusal) {
	q := d.ask(procedure)
	value, refusal, opens := d.decide(ctx, &q, customer, key)
	if refusal != nil && !opens {
		d.c.countRefusal(refusal.Status)
	}
	if d.c.listened() {
		d.c.tell(ctx, &q, d.route.Require, value, refusal, opens)
	}
	if opens {
		refusal = nil
	}
	return value, refusal
}

// Refuse counts, and tells of, a call about which the program couldn't find out who calls.
func (d *doorway) Refuse(ctx context.Context, procedure string, refusal *Refusal) {
	q := d.ask(procedure)
	d.c.countRefusal(refusal.Status)
	d.c.tell(ctx, &q, d.route.Require, nil, refusal, false)
}

// Enter is Admit for a call that is watched or charged. If there is no Refusal, what it
// returns is a *visit, of which the program is told by Hold or Tell.
func (d *doorway) Enter(ctx context.Context, procedure string, customer CustomerRef, key string) (any, *Entitlements, *Refusal) {
	v := &visit{doorway: d, q: d.ask(procedure), customer: customer}
	value, refusal, opens := d.decide(ctx, &v.q, customer, key)
	if refusal != nil && !opens {
		v.Tell(ctx, refusal)
		return nil, nil, refusal
	}
	v.value, v.opened = value, refusal
	return v, value, nil
}

// visit is a call of package rpcgate that was let in.
type visit struct {
	*doorway
	q        question
	customer CustomerRef
	value    *Entitlements // nil if it failed open
	opened   *Refusal      // why nobody could say; nil if it didn't open
	told     atomic.Bool
}

// Tell tells of the call, once, and of each refusal.
func (v *visit) Tell(ctx context.Context, refusal *Refusal) { v.tell(ctx, v.q, refusal) }

func (v *visit) tell(ctx context.Context, q question, refusal *Refusal) {
	if refusal != nil {
		v.c.countRefusal(refusal.Status)
	}
	if told := v.told.Swap(true); refusal != nil || !told {
		v.c.tell(ctx, &q, v.route.Require, v.value, cmp.Or(refusal, v.opened), refusal == nil && v.opened != nil)
	}
}

// Watch is Customers.Watch for the call.
func (v *visit) Watch(ctx context.Context) (watched context.Context, stop context.CancelFunc) {
	return v.c.watch(ctx, &v.q, v.value, nil, v.route.Require, v.c.staysOpen(ctx, &v.route, v.customer))
}

// Hold takes units off for the call, or for one of its messages. The Reservation is nil if
// nobody can say, and the call goes on all the same. Of the first units, the program is told
// with the call; of others only if they are refused.
func (v *visit) Hold(ctx context.Context, units float64) (*Reservation, *Entitlements, *Refusal) {
	q, value, refusal := v.q, v.value, (*Refusal)(nil)
	if v.opened == nil && v.told.Load() { // what the customer has may have changed
		q.seen = v.c.asked(v.customer.key).seen
		value, refusal = v.c.decideFor(ctx, v.customer, v.route.Require)
	}
	var r *Reservation
	switch cost := ledger.Cost(units); {
	case v.opened != nil, refusal != nil:
	case !(units > 0) || units > mostUnits:
		refusal = v.c.refusal(Refusal{Status: http.StatusBadRequest, Err: &InputError{"units", "must be more than 0"}})
	case !v.charges(value):
		r = &Reservation{customers: v.c, of: value}
	default:
		if r, refusal = v.c.reserve(ctx, v.q.key, value, v.route.Spend.MeterID, cost, v.route.Require); refusal == nil {
			q.holds(r)
			value = r.rest()
		}
	}
	if refusal != nil && v.route.FailOpen && v.route.opensFor(ctx, refusal) {
		v.c.counts.failedOpen.Add(1)
		if !v.told.Swap(true) {
			v.c.tell(ctx, &q, v.route.Require, nil, refusal, true)
		}
		return nil, nil, nil
	}
	v.tell(ctx, q, refusal)
	return r, value, refusal
}

// normalize leaves the one form of resolver that can do everything. It panics if there
// isn't exactly one.
func (route *Route) normalize() {
	given := 0
	for _, is := range []bool{route.Customer != nil, route.CustomerOrError != nil, route.LicenseKey != nil, route.LicenseKeyOrError != nil} {
		if is {
			given++
		}
	}
	if given != 1 {
		panic("polargate: a Route needs exactly one of Customer, CustomerOrError, LicenseKey and LicenseKeyOrError")
	}
	if customer := route.Customer; customer != nil {
		route.CustomerOrError = func(r *http.Request) (CustomerRef, error) { return customer(r), nil }
	}
	if key := route.LicenseKey; key != nil {
		route.LicenseKeyOrError = func(r *http.Request) (string, error) { return key(r), nil }
	}
}

// unresolved is the refusal of a request for which the program couldn't find out who sent
// it.
func (c *Customers) unresolved(r *http.Request, err error) Refusal {
	err = &resolverError{err}
	if r.Context().Err() == nil { // else it failed because the caller has gone
		c.unresolvable.Do(func() {
			c.config.Logger.Error("polargate: a request was answered 503 (logged once a minute)", "error", err)
		})
	}
	return Refusal{Status: http.StatusServiceUnavailable, RetryAfter: time.Second, Err: err}
}

// resolverError is an error of a program's resolver. It prints without its text, which
// may contain what came with the request.
type resolverError struct{ err error }

func (e *resolverError) Error() string {
	var types []string
	for err := e.err; err != nil && len(types) < 10; err = errors.Unwrap(err) {
		types = append(types, fmt.Sprintf("%T", err))
	}
	return "polargate: the program couldn't find out who sent a request, or what it costs: its CustomerOrError, LicenseKeyOrError or UnitsOf returned an error of the type " +
		strings.Join(types, " with ") + ". Check the session store; Refusal.Err has the error for your own log"
}

func (e *resolverError) Unwrap() error { return e.err }

// Format prints the same whatever the verb.
func (e *resolverError) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, e.Error()) }

// warnOfLockedFeatures logs which features of a route nobody can have.
func (c *Customers) warnOfLockedFeatures(required []Requirement) {
	for _, r := range required {
		if r.kind == needsFeature && !c.unlocks(r.id) {
			c.config.Logger.Warn("polargate: a route requires a feature that no benefit in CustomersConfig.Features unlocks, so nobody can have it", "feature", r.id)
		}
		c.warnOfLockedFeatures(r.of)
	}
}

func (c *Customers) unlocks(feature string) bool {
	for _, features := range c.config.Features {
		if slices.Contains(features, feature) {
			return true
		}
	}
	return false
}

// opensFor reports whether a route that fails open does so for a request. It doesn't for a request
// that was canceled before the answer came, nor for a license key that wasn't looked up
// for lack of budget or was refused by something in front of Polar: whoever sends the
// request can bring all of these about.
func (route *Route) opensFor(ctx context.Context, refusal *Refusal) bool {
	if refusal.Status != http.StatusServiceUnavailable || ctx.Err() != nil {
		return false
	}
	e, ok := errors.AsType[*Error](refusal.Err)
	return route.LicenseKeyOrError == nil || !ok || e.Reason == ErrClosed || ofEverybody(e)
}

// fallenBack is what a customer has on a route while Polar can't be asked, if that meets the
// requirements; nil if not. The zero CustomerRef stands for the holder of a license key.
func (c *Customers) fallenBack(ctx context.Context, route *Route, customer CustomerRef) *Entitlements {
	if len(route.Fallback) == 0 {
		return nil
	}
	var given []Overlay
	if c.config.Overlay != nil && customer.key.Kind != memory.ByLicenseKey {
		given = append(given, c.overlay(ctx, customer, nil)...)
	}
	for _, feature := range route.Fallback {
		given = append(given, Overlay{Feature: feature, Why: fallback})
	}
	if value := (*Entitlements)(nil).over(given, nil); value.permits(route.Require) {
		return value
	}
	return nil
}

// staysOpen reports whether a route opens, so that what it has let in goes on, while nobody can say.
func (c *Customers) staysOpen(ctx context.Context, route *Route, customer CustomerRef) bool {
	return route.FailOpen || c.fallenBack(ctx, route, customer) != nil
}

// countRefusal counts a request or a call that isn't let in.
func (c *Customers) countRefusal(status int) {
	switch n := &c.counts; status {
	case http.StatusPaymentRequired:
		n.unpaid.Add(1)
	case http.StatusServiceUnavailable:
		n.undecided.Add(1)
	default:
		n.unidentified.Add(1)
	}
}

func (c *Customers) refuse(w http.ResponseWriter, r *http.Request, route *Route, q *question, refusal Refusal) {
	c.countRefusal(refusal.Status)
	c.tell(r.Context(), q, route.Require, nil, &refusal, false)
	refusal.UpgradeURL = route.UpgradeURL
	w.Header().Set("Cache-Control", "no-store") // also where the program refuses in its own way
	route.Refuse(w, r, refusal)
}

// serve runs a handler with Entitlements in its request's context. The context comes from
// context.WithValue, because adaptors to other servers copy the values of such contexts
// and skip any other kind.
func serve(w http.ResponseWriter, r *http.Request, next http.Handler, value *Entitlements) {
	ctx := context.WithValue(r.Context(), incontext.Entitlements{}, value)
	inner := r.WithContext(ctx)
	defer bringBack(r, inner, ctx)
	next.ServeHTTP(w, inner)
}

// bringBack makes the outer request what it would be if the handler had received it and
// not a copy: the server removes the files of its MultipartForm, and middleware further
// out reads its Pattern, its path values and whatever else was set. Only the added
// context stays behind, unless the handler replaced it.
func bringBack(outer, inner *http.Request, added context.Context) {
	if inner.Context() == added {
		inner = inner.WithContext(outer.Context())
	}
	*outer = *inner
}

// serveSpending takes the cost of a route off the meter while the handler runs.
func (c *Customers) serveSpending(w http.ResponseWriter, r *http.Request, next http.Handler, route *Route, q *question, value *Entitlements) {
	cost, err := route.Spend.price(r)
	if err != nil {
		c.refuse(w, r, route, q, c.unpriced(r, err))
		return
	}
	if !cost.Positive() {
		c.tell(r.Context(), q, route.Require, value, nil, false)
		serve(w, r, next, value)
		return
	}
	reserved, refusal := c.reserve(r.Context(), q.key, value, route.Spend.MeterID, cost, route.Require)
	if e, ok := errors.AsType[*Error](refusal.err()); ok && e.Op == opUsage && route.FailOpen && route.opensFor(r.Context(), refusal) {
		c.counts.failedOpen.Add(1)
		c.tell(r.Context(), q, route.Require, nil, refusal, true)
		serve(w, r, next, nil)
		return
	}
	if refusal != nil {
		c.refuse(w, r, route, q, *refusal)
		return
	}
	q.holds(reserved)
	c.tell(r.Context(), q, route.Require, value, nil, false)
	watched := &writers.Status{ResponseWriter: w}
	served := false
	defer func() {
		switch {
		case !served || watched.Sent >= 500:
			reserved.Release()
		case route.Spend.Usage.Name == "":
			reserved.spend()
		default:
			err := reserved.Commit(context.WithoutCancel(r.Context()), cost.Float(), route.Spend.Usage)
			if err != nil && err != errSettled {
				c.seldom.Warn(c.config.Logger, "commit", "polargate: the usage of a request couldn't be stored", "error", err)
			}
		}
	}()
	inner := r.WithContext(context.WithValue(r.Context(), incontext.Reservation{}, reserved))
	defer bringBack(r, inner, inner.Context())
	serve(watched, inner, next, reserved.rest())
	served = true
}

// price is what a request costs.
func (c *Cost) price(r *http.Request) (ledger.Units, error) {
	if c.UnitsOf == nil {
		return ledger.Cost(c.Units), nil
	}
	units, err := c.UnitsOf(r)
	if err == nil && (math.IsNaN(units) || units < 0 || units > mostUnits) {
		err = fmt.Errorf("polargate: Cost.UnitsOf returned %v, which is no amount", units)
	}
	return ledger.Cost(units), err
}

// unpriced is the refusal of a request for which the program couldn't tell what it costs.
func (c *Customers) unpriced(r *http.Request, err error) Refusal {
	if input, ok := errors.AsType[*InputError](err); ok {
		return Refusal{Status: http.StatusBadRequest, Err: input}
	}
	return c.unresolved(r, err)
}

// FromContext returns the Entitlements of the customer whose request a Route let through, or
// whose call an interceptor of package rpcgate did. ok is false outside of these, and if the
// route failed open. In the test of a handler, polartest.Entitlements makes the context.
func FromContext(ctx context.Context) (e *Entitlements, ok bool) {
	switch value := ctx.Value(incontext.Entitlements{}).(type) {
	case *Entitlements:
		e = value
	case *incontext.State:
		e = value.Read(readTestState).(*Entitlements)
	}
	return e, e != nil
}

// readTestState makes entitlements of what package polartest has put into a context.
func readTestState(s *incontext.State) any {
	e, err := rights.ReadState(s.JSON, "", s.Features)
	if err != nil {
		panic("polargate: package polartest made a state that can't be read: " + err.Error())
	}
	e.SetAt(clock.PolarTime(s.At))
	return (*Entitlements)(e)
}

// Decide reports whether a customer meets requirements, for servers that don't speak
// HTTP. If so, the Refusal is nil.
func (c *Customers) Decide(ctx context.Context, customer CustomerRef, requirements ...Requirement) (*Entitlements, *Refusal) {
	if !c.listened() {
		return c.decideFor(ctx, customer, requirements)
	}
	q := c.asked(customer.key)
	value, refusal := c.decideFor(ctx, customer, requirements)
	c.tell(ctx, &q, requirements, value, refusal, false)
	return value, refusal
}

// decideFor is Decide, of which nobody is told.
func (c *Customers) decideFor(ctx context.Context, customer CustomerRef, requirements []Requirement) (*Entitlements, *Refusal) {
	if customer.IsZero() {
		return nil, c.refusal(Refusal{Status: http.StatusUnauthorized})
	}
	value, err := c.look(ctx, customer.key)
	return c.decideCustomer(ctx, customer.key, value, err, requirements)
}

// decideCustomer decides by what a look-up said of a customer.
func (c *Customers) decideCustomer(ctx context.Context, key memory.Key, value *Entitlements, err error, requirements []Requirement) (*Entitlements, *Refusal) {
	if err == nil {
		if c.config.Overlay == nil && value.Known() && value.meetsAll(requirements) { // the common case, in few steps
			return value, nil
		}
		return c.decideAgain(ctx, key, value, requirements)
	}
	if have := c.overlaidAnyway(ctx, CustomerRef{key}, nil, err); have.permits(requirements) {
		return have, nil
	}
	return c.decide(nil, err, requirements)
}

// DecideLicense is Decide for a license key. The key is cleaned as by ParseKey.
func (c *Customers) DecideLicense(ctx context.Context, licenseKey string, requirements ...Requirement) (*Entitlements, *Refusal) {
	key := licenseCacheKey(licenseKey)
	q := c.asked(key)
	value, refusal := c.decideKey(ctx, key, requirements)
	c.tell(ctx, &q, requirements, value, refusal, false)
	return value, refusal
}

// decideKey is DecideLicense, of which nobody is told. Without an id, what a person typed is
// no license key.
func (c *Customers) decideKey(ctx context.Context, key memory.Key, requirements []Requirement) (*Entitlements, *Refusal) {
	if key.ID == "" {
		return nil, c.refusal(Refusal{Status: http.StatusUnauthorized, Reason: ErrUnknownKey})
	}
	value, err := c.look(ctx, key)
	return c.decideLicense(ctx, value, err, requirements)
}

// decideLicense decides by what a look-up said of a license key.
func (c *Customers) decideLicense(ctx context.Context, value *Entitlements, err error, requirements []Requirement) (*Entitlements, *Refusal) {
	switch {
	case err != nil:
	case value.Refused() == ErrUnknownKey:
		return nil, c.refusal(Refusal{Status: http.StatusUnauthorized, Reason: ErrUnknownKey})
	case value.Refused() == "":
		value = c.overlaid(ctx, CustomerID(value.CustomerID()), value)
	}
	return c.decide(value, err, requirements)
}

// Reserve holds units of a customer's meter, so that nobody else can use them. When the work
// is done, Commit says how many were used, which may be more than were held; Release gives
// them back. A hold survives every new state of the customer.
//
//	r, refusal := customers.Reserve(ctx, customer, meterID, 500)
//	if refusal != nil {
//		return refusal
//	}
//	defer r.Release() // has no effect after Commit
//	used, err := complete(ctx, prompt)
//	…
//	err = r.Commit(ctx, used, polargate.Usage{Name: "tokens"})
//
// Without requirements, the customer needs that many units. Requirements work as in a Route:
// Meter(id, -100) allows the balance to fall to -100, and customers who meet them without
// the meter aren't charged. The Refusal is nil if the units are held.
func (c *Customers) Reserve(ctx context.Context, customer CustomerRef, meterID string, units float64, requirements ...Requirement) (*Reservation, *Refusal) {
	if !isAmount(units) {
		return nil, c.refusal(Refusal{Status: http.StatusBadRequest, Err: errNoAmount})
	}
	q := c.asked(customer.key)
	r, value, refusal := c.reserveFor(ctx, customer, meterID, ledger.Cost(units), requirements)
	q.holds(r)
	c.tell(ctx, &q, requirements, value, refusal, false)
	return r, refusal
}

// reserveFor is Reserve, of which nobody is told. value is what the customer has.
func (c *Customers) reserveFor(ctx context.Context, customer CustomerRef, meterID string, units ledger.Units, requirements []Requirement) (r *Reservation, value *Entitlements, refusal *Refusal) {
	if value = c.reservable(ctx, customer.key, requirements); value == nil {
		if value, refusal = c.decideFor(ctx, customer, requirements); refusal != nil {
			return nil, nil, refusal
		}
	}
	if len(requirements) > 0 && value.Meets(All(requirements...).without(normalUUID(meterID))) {
		return &Reservation{customers: c, of: value}, value, nil
	}
	r, refusal = c.reserve(ctx, customer.key, value, meterID, units, requirements)
	return r, value, refusal
}

// reservable is what a customer has if that is fresh in memory and there is nothing to
// decide but the balance, which is the book's matter. Otherwise it is nil.
func (c *Customers) reservable(ctx context.Context, key memory.Key, requirements []Requirement) *Entitlements {
	if ctx == nil || len(requirements) > 0 {
		return nil
	}
	return (*Entitlements)(c.cache.Settled(key))
}

// reserve holds units of a customer's meter. value is what the caller has decided by, and
// requirements are those that it meets.
func (c *Customers) reserve(ctx context.Context, key memory.Key, value *Entitlements, meterID string, units ledger.Units, requirements []Requirement) (*Reservation, *Refusal) {
	if !value.Known() { // let in by an overlay, which gives no units
		if over := value.overlaid(); over != nil && over.failure != nil {
			_, refusal := c.decide(nil, over.failure, nil)
			return nil, refusal
		}
		return nil, c.refusal(Refusal{Status: http.StatusPaymentRequired, Required: Meter(strings.Clone(meterID), units.Float()), Entitlements: value})
	}
	meter := usualUUID(meterID)
	r, err := c.holdUnits(ctx, key, value, meter, units, requirements)
	if err == nil && r == nil {
		// A purchase may be newer than what is known, as with any refusal.
		if newer := (*Entitlements)(c.cache.Recheck(ctx, key, value.state())); newer != value && newer.Known() {
			value = c.overlaid(ctx, CustomerRef{key}, newer)
			r, err = c.holdUnits(ctx, key, value, meter, units, requirements)
		}
	}
	if err != nil {
		_, refusal := c.decide(nil, err, nil)
		return nil, refusal
	}
	if r == nil {
		return nil, c.refusal(Refusal{Status: http.StatusPaymentRequired, Required: Meter(strings.Clone(meterID), units.Float()), Entitlements: value})
	}
	return r, nil
}
