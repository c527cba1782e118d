// Package rpcgate decides which calls of an RPC server are let through: what Route of package
// polargate is for routes of HTTP, for procedures, unary and streaming.
//
// The modules polargategrpc, polargateconnect and polargateconnectv2 make interceptors of it:
// use one of them for gRPC and Connect. This package depends on neither, and is for servers
// that speak something else:
//
//	gate := rpcgate.New(customers, rpcgate.Config{Caller: caller, Rules: rules})
//	ctx, call, err := gate.Begin(ctx, rpcgate.CallInfo{Procedure: procedure})
//	if err != nil {
//		return err
//	}
//	defer call.Close()
//	err = call.Receive(message, receive) // for each message
//	…
//	return call.End(handle(ctx))
//
// # What applies to a call
//
// A [Rule] belongs to a procedure, such as "/reports.v1.Reports/Render", or to all of a
// service, "/reports.v1.Reports/"; the rule of the procedure goes before that of its service.
// Config.Open lists what anybody may call, such as [Health] and [Reflection]. Everything else
// follows Config.Default, and without one nobody may call it: a procedure that was added
// later isn't open by mistake.
//
// # Streams
//
// The context of a stream ends when the right to it does: see polargate.Customers.Watch for how soon.
// Its cause is the error of the refusal, and the stream ends with that error, unless its
// handler returns another one of its own. The handler has half a second for its last words. No goroutine
// waits for that.
package rpcgate

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/polargate/polargate"
	entrance "github.com/polargate/polargate/internal/door"
	"github.com/polargate/polargate/internal/incontext"
)

// Services that tell about a server, for Config.Open.
const (
	Health            = "/grpc.health.v1.Health/"
	Reflection        = "/grpc.reflection.v1.ServerReflection/"
	ReflectionV1Alpha = "/grpc.reflection.v1alpha.ServerReflection/"
)

// Rule says who may call a procedure, and what it costs.
type Rule struct {
	// Require is what the customer or key must have: all of it. Empty means that any known
	// customer, or any granted key, will do.
	Require []polargate.Requirement
	// Spend is taken off a meter. The zero value spends nothing. Spend needs customers: a
	// license key has no meter. As in a Route, customers who meet Require without the
	// meter aren't charged, if Require names the meter.
	Spend Cost
	// FailOpen lets calls pass, without Entitlements, if Polar can't be reached and nothing
	// is cached, and lets streams go on. False refuses them as unavailable. Calls with a
	// license key and calls that were canceled are refused anyway, because their sender
	// could bring it about.
	FailOpen bool
	// Fallback are features that everybody has for these calls if Polar can't be reached and
	// nothing is cached: where FailOpen would open. Calls that meet Require with them, and
	// with polargate.CustomersConfig.Overlay, pass, are charged nothing, and have Entitlements
	// with these features alone. Others are refused, or pass with FailOpen.
	Fallback []string
	// DecideOnce is for streams that are to go on when the right to them ends. Otherwise
	// their context ends with it.
	DecideOnce bool
}

// Cost is an amount of a meter. It is held while the handler works, committed when the work is
// done, and given back if the handler returns an error or panics. A handler that learns only
// later what its work costs commits that itself, with polargate.ReservationFromContext.
type Cost struct {
	// MeterID is the meter's id.
	MeterID string
	// Units is what a call costs, however many messages it has. It must be more than 0,
	// unless UnitsOf is set.
	Units float64
	// UnitsOf returns what a message costs that the client sends; 0 is nothing. In a stream,
	// its units are committed when the handler receives the next message, and an error
	// gives back those of the last one. An *InputError is answered as an invalid argument,
	// and any other error as unavailable, because what can't be priced can't be sold.
	UnitsOf func(ctx context.Context, message any) (float64, error)
	// Usage is the event that tells Polar; see polargate.Customers.RunUsage. Without a Name none
	// is sent: then your program tells Polar itself.
	Usage polargate.Usage
}

func (c *Cost) isZero() bool { return c.MeterID == "" && c.Units == 0 && c.UnitsOf == nil }

// Caller is who calls: a customer, or, with Config.ByLicenseKey, who has a license key.
type Caller struct {
	// Customer is the zero CustomerRef if nobody is signed in.
	Customer polargate.CustomerRef
	// LicenseKey is empty if none was sent.
	LicenseKey string
}

// Format prints how a caller is named, without the license key, whatever the verb.
func (c Caller) Format(f fmt.State, _ rune) {
	fmt.Fprintf(f, "rpcgate.Caller{Customer:%v LicenseKey:%t}", c.Customer, c.LicenseKey != "")
}

// LogValue logs what Format prints.
func (c Caller) LogValue() slog.Value { return slog.StringValue(fmt.Sprint(c)) }

// Config says what applies to which procedure.
type Config struct {
	// Caller returns who calls. It must not be nil. Whoever can choose the id of a customer is
	// that customer: take it from what your program has verified. An error means that your
	// program couldn't find out; the call is refused as unavailable, and the error is
	// logged by its types only.
	Caller func(ctx context.Context) (Caller, error)
	// ByLicenseKey says that callers are told apart by license keys.
	ByLicenseKey bool
	// Rules has the rules by procedure, "/package.Service/Method", or by service,
	// "/package.Service/".
	Rules map[string]Rule
	// Default is the rule of all other procedures. With nil, nobody may call them.
	Default *Rule
	// Open lists the procedures and services that anybody may call. Caller isn't asked, and
	// there are no Entitlements in their context.
	Open []string
	// Error makes an error of the RPC library of a refusal. Nil leaves the *Refusal.
	Error func(*polargate.Refusal) error
	// Canceled reports whether an error of a handler says only that its context ended, in
	// the RPC library's own words. Nil knows context.Canceled and refusals.
	Canceled func(error) bool
	// Logger gets what your program should mend. Nil means that nothing is logged.
	Logger *slog.Logger
}

// Gate lets calls through. Its methods are safe for use by many goroutines.
type Gate struct {
	customers *polargate.Customers
	config    Config
	rules     map[string]*rule
	otherwise *rule        // nil denies
	logged    atomic.Int64 // when something was logged last, of what a caller can bring about
}

// rule is a Rule with what decides by it.
type rule struct {
	Rule
	name   string // of the procedure or the service, by which calls are counted
	door   door
	spends bool
}

// otherwiseName is the name of Config.Default.
const otherwiseName = "default"

// door is what a polargate.Route does with requests, for calls.
type door interface {
	// Admit decides about a call, counts it, and tells the program. Without a Refusal and
	// without Entitlements, it failed open.
	Admit(ctx context.Context, procedure string, customer polargate.CustomerRef, licenseKey string) (*polargate.Entitlements, *polargate.Refusal)
	// Refuse counts, and tells of, a call about which nothing could be asked.
	Refuse(ctx context.Context, procedure string, refusal *polargate.Refusal)
	// Enter is Admit for a call of which there is more to tell, by the visit that it returns
	// unless it refuses.
	Enter(ctx context.Context, procedure string, customer polargate.CustomerRef, licenseKey string) (any, *polargate.Entitlements, *polargate.Refusal)
}

// visit is a call that was let in.
type visit interface {
	// Tell counts the call, and tells of it, once, and of each refusal.
	Tell(ctx context.Context, refusal *polargate.Refusal)
	// Watch is polargate.Customers.Watch.
	Watch(ctx context.Context) (context.Context, context.CancelFunc)
	// Hold holds units, and tells as Tell. The Reservation is nil if nobody can say, and the
	// rule opens.
	Hold(ctx context.Context, units float64) (*polargate.Reservation, *polargate.Entitlements, *polargate.Refusal)
}

// open stands for the rule of what anybody may call.
var open = &rule{}

// New makes a Gate. It panics if a name, an id, a feature or a cost can't be right: these are
// mistakes in the program, and its first start shows them.
func New(customers *polargate.Customers, config Config) *Gate {
	if customers == nil || config.Caller == nil {
		panic("rpcgate: New needs customers and Config.Caller")
	}
	if config.Error == nil {
		config.Error = func(refusal *polargate.Refusal) error { return refusal }
	}
	if config.Logger == nil {
		config.Logger = slog.New(slog.DiscardHandler)
	}
	g := &Gate{customers: customers, config: config, rules: map[string]*rule{}}
	for _, name := range config.Open {
		g.add(name, open)
	}
	for name, r := range config.Rules {
		g.add(name, g.own(name, r))
	}
	if config.Default != nil {
		g.otherwise = g.own(otherwiseName, *config.Default)
	}
	return g
}

// add adds the rule of a procedure or service.
func (g *Gate) add(name string, r *rule) {
	if service, _, ok := strings.Cut(strings.TrimPrefix(name, "/"), "/"); !strings.HasPrefix(name, "/") || !ok || service == "" || strings.Count(name, "/") != 2 {
		panic(fmt.Sprintf("rpcgate: %q is neither a procedure (/package.Service/Method) nor a service (/package.Service/)", name))
	}
	if g.rules[name] != nil {
		panic(fmt.Sprintf("rpcgate: %q is open, and has a rule or is open twice", name))
	}
	g.rules[name] = r
}

// own is a copy of a rule that can be right.
func (g *Gate) own(name string, of Rule) *rule {
	defer func() {
		if mistake := recover(); mistake != nil {
			panic(fmt.Sprintf("rpcgate: the rule of %q: %v", name, mistake))
		}
	}()
	r := &rule{Rule: of, name: name, spends: !of.Spend.isZero()}
	route := polargate.Route{Name: name, Require: of.Require} // which checks it, and logs features that nobody can have
	if g.config.ByLicenseKey {
		if r.spends {
			panic("Spend needs customers, and these are license keys")
		}
		route.LicenseKey = func(*http.Request) string { return "" }
	} else {
		route.Customer = func(*http.Request) polargate.CustomerRef { return polargate.CustomerRef{} }
		route.FailOpen, route.Fallback = of.FailOpen, of.Fallback
		route.Spend = polargate.Cost{MeterID: of.Spend.MeterID, Units: of.Spend.Units, Usage: of.Spend.Usage}
		if of.Spend.UnitsOf != nil {
			route.Spend.UnitsOf = func(*http.Request) (float64, error) { return 0, nil }
		}
	}
	var calls entrance.Procedure
	g.customers.Route(route)(&calls)
	r.door = calls.Door.(door)
	return r
}

// rule is what applies to a procedure; nil denies.
func (g *Gate) rule(procedure string) *rule {
	if r := g.rules[procedure]; r != nil {
		return r
	}
	if r := g.rules[procedure[:strings.LastIndexByte(procedure, '/')+1]]; r != nil {
		return r
	}
	return g.otherwise
}

// CallInfo says which call begins.
type CallInfo struct {
	// Procedure is its name: "/package.Service/Method".
	Procedure string
	// ClientStreams and ServerStreams say who sends any number of messages. In a unary call,
	// both send one.
	ClientStreams, ServerStreams bool
}

// Begin decides whether a call is let through. The context that it returns is for the
// handler: it has the Entitlements for polargate.FromContext and, if the call costs something,
// the Reservation for polargate.ReservationFromContext. An error is a refusal, made by
// Config.Error.
//
// The Call is nil if nothing has to be done after Begin; its methods can be called all the same.
func (g *Gate) Begin(ctx context.Context, info CallInfo) (context.Context, *Call, error) {
	procedure, streams := info.Procedure, info.ClientStreams || info.ServerStreams
	rule := g.rule(procedure)
	switch rule {
	case nil:
		g.seldom(ctx, "polargate: a call was refused, because no rule says who may call it; name it in Rules or Open (logged once a minute)", "procedure", procedure)
		return ctx, nil, g.config.Error(&polargate.Refusal{Status: http.StatusForbidden})
	case open:
		return ctx, nil, nil
	}
	inner := &callContext{Context: ctx, rule: rule, procedure: procedure}
	who, err := g.config.Caller(ctx)
	if err != nil {
		refusal := g.unresolved(ctx, err)
		rule.door.Refuse(inner, procedure, refusal)
		return ctx, nil, g.config.Error(refusal)
	}
	if watches := streams && !rule.DecideOnce; watches || rule.spends {
		call := &Call{gate: g, rule: rule, clientStreams: info.ClientStreams}
		call.ctx = &chargedContext{inner, call}
		if refusal := call.begin(&who, procedure, streams); refusal != nil {
			return ctx, nil, g.config.Error(refusal)
		}
		return call.ctx, call, nil
	}
	value, refusal := rule.door.Admit(inner, procedure, who.Customer, who.LicenseKey)
	if refusal != nil {
		return ctx, nil, g.config.Error(refusal)
	}
	inner.value = value
	return inner, nil, nil
}

// callContext is the context of a call. It has in one piece what decisions and handlers look
// for.
type callContext struct {
	context.Context
	rule      *rule
	procedure string
	value     *polargate.Entitlements
}

func (c *callContext) Value(key any) any {
	switch key.(type) {
	case incontext.Entitlements:
		return c.value
	case incontext.Call:
		return &incontext.Called{Procedure: c.procedure, Rule: c.rule.name}
	}
	return c.Context.Value(key)
}

// chargedContext is the context of a call with something to do after Begin, whose balances fall with
// each message.
type chargedContext struct {
	*callContext
	call *Call
}

func (c *chargedContext) Value(key any) any {
	switch key.(type) {
	case incontext.Entitlements:
		return c.call.entitlements()
	case incontext.Reservation:
		if c.rule.spends {
			return c.call.reservation()
		}
	}
	return c.callContext.Value(key)
}

// unresolved is the refusal of a call for which the program couldn't find out who calls, or
// what it costs.
func (g *Gate) unresolved(ctx context.Context, err error) *polargate.Refusal {
	err = &resolverError{err}
	g.seldom(ctx, "polargate: a call was refused as unavailable (logged once a minute)", "error", err)
	return &polargate.Refusal{Status: http.StatusServiceUnavailable, RetryAfter: time.Second, Err: err}
}

// seldom logs once a minute, unless it comes of a caller who has left.
func (g *Gate) seldom(ctx context.Context, message string, args ...any) {
	now, last := time.Now().UnixNano(), g.logged.Load()
	if ctx.Err() == nil && (last == 0 || now-last >= int64(time.Minute)) && g.logged.CompareAndSwap(last, now) {
		g.config.Logger.Error(message, args...)
	}
}

// price is what a message costs.
func (g *Gate) price(ctx context.Context, cost *Cost, message any) (float64, *polargate.Refusal) {
	units, err := cost.UnitsOf(ctx, message)
	if input, ok := errors.AsType[*polargate.InputError](err); ok {
		return 0, &polargate.Refusal{Status: http.StatusBadRequest, Err: input}
	}
	if err == nil && (math.IsNaN(units) || units < 0) {
		err = fmt.Errorf("rpcgate: Cost.UnitsOf returned %v, which is no amount", units)
	}
	if err != nil {
		return 0, g.unresolved(ctx, err)
	}
	return units, nil
}

// resolverError is an error of a program's own function. It prints without its text, which may
// contain what came with the call.
type resolverError struct{ err error }

func (e *resolverError) Error() string {
	var types []string
	for err := e.err; err != nil && len(types) < 10; err = errors.Unwrap(err) {
		types = append(types, fmt.Sprintf("%T", err))
	}
	return "rpcgate: the program couldn't find out who called, or what it costs: its function returned an error of the type " +
		strings.Join(types, " with ") + ". Check what it asks, such as the session store; Refusal.Err has the error for your own log"
}

func (e *resolverError) Unwrap() error { return e.err }

// Format prints the same whatever the verb.
func (e *resolverError) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, e.Error()) }
