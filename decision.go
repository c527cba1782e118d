package polargate

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net/http"
	"net/url"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/polargate/polargate/internal/clock"
	"github.com/polargate/polargate/internal/incontext"
	"github.com/polargate/polargate/internal/memory"
	"github.com/polargate/polargate/internal/refusalpage"
	"github.com/polargate/polargate/internal/tally"
)

// Decision is what was decided about a customer or a license key; see
// CustomersConfig.OnDecision. It prints, and is written as JSON, without anything that is
// personal: no license key, no e-mail address, no external id.
type Decision struct {
	// At is when it was decided.
	At time.Time
	// Route is Route.Name, or else the pattern of the request, or the procedure of a call
	// that package rpcgate gates; empty outside of these.
	Route string
	// Customer is who was decided about, as they were named; for a license key, the
	// customer whose key it is. It is nobody if nobody was named or the key is unknown.
	// LicenseKeyID is Polar's id of the key that came with a request; no secret.
	Customer     CustomerRef
	LicenseKeyID string
	// Requirements are what was required: all of it. It must not be changed.
	Requirements []Requirement
	// Outcome is what was decided. Status is that of the Refusal; 0 if there was none.
	Outcome Outcome
	Status  int
	// Unmet is what was missing, and Reason why; see Refusal.
	Unmet  Requirement
	Reason Reason
	// Source is where the answer came from by which it was decided: FromMemory, FromStale,
	// FromGrace, FromNetwork, FromOverlay or FromFallback; empty if there was none.
	Source Source
	// MeterID and Units are what is held for it while the work is done; empty and 0 if
	// nothing is charged.
	MeterID string
	Units   float64

	feature string
}

// Outcome is how a Decision went.
type Outcome string

// The outcomes. CustomersStats counts all but Allowed under the same names.
const (
	// Allowed: the requirements are met.
	Allowed Outcome = "allowed"
	// FailedOpen: nobody could say, and the Route, or the rule of package rpcgate, has FailOpen
	// or a Fallback.
	FailedOpen Outcome = "failed_open"
	// Unidentified: nobody is signed in, or the id or the license key is unknown (400, 401).
	Unidentified Outcome = "unidentified"
	// Unpaid: something required is missing (402).
	Unpaid Outcome = "unpaid"
	// Undecided: nobody could say (503).
	Undecided Outcome = "undecided"
)

// Where the answer of a Decision came from, beside FromMemory, which is then fresh, and
// FromNetwork, which is Polar or another replica.
const (
	FromStale    Source = "stale"    // memory, older than FreshFor
	FromGrace    Source = "grace"    // memory, older than StaleFor, while Polar can't be asked
	FromOverlay  Source = "overlay"  // CustomersConfig.Overlay gave what Polar's answer lacks
	FromFallback Source = "fallback" // Route.Fallback, or that of a rule of package rpcgate
)

// Feature names the features that were required, sorted and with commas between them; ""
// if none was.
func (d Decision) Feature() string {
	if d.feature != "" {
		return d.feature
	}
	return featuresIn(d.Requirements)
}

// featuresIn names the features in requirements.
func featuresIn(required []Requirement) string {
	if len(required) == 1 && required[0].kind == needsFeature {
		return required[0].id
	}
	var names []string
	var add func([]Requirement)
	add = func(of []Requirement) {
		for i := range of {
			if of[i].kind == needsFeature {
				names = append(names, of[i].id)
			}
			add(of[i].of)
		}
	}
	add(required)
	slices.Sort(names)
	return strings.Join(slices.Compact(names), ",")
}

// plain is a Decision without what is personal.
type plain struct {
	At           time.Time `json:"at,omitzero"`
	Route        string    `json:"route,omitempty"`
	CustomerID   string    `json:"customer_id,omitempty"`
	LicenseKeyID string    `json:"license_key_id,omitempty"`
	Requirements string    `json:"requirements"`
	Outcome      Outcome   `json:"outcome"`
	Status       int       `json:"status,omitempty"`
	Unmet        string    `json:"unmet,omitempty"`
	Reason       Reason    `json:"reason,omitempty"`
	Source       Source    `json:"source,omitempty"`
	MeterID      string    `json:"meter_id,omitempty"`
	Units        float64   `json:"units,omitempty"`
}

func (d Decision) plain() plain {
	p := plain{d.At, d.Route, d.Customer.CustomerID(), d.LicenseKeyID, All(d.Requirements...).String(), d.Outcome, d.Status, "", d.Reason, d.Source, d.MeterID, d.Units}
	if d.Unmet.kind != 0 {
		p.Unmet = d.Unmet.String()
	}
	return p
}

// MarshalJSON writes what an audit log may keep. Customer.ExternalID is left out, because it
// may be an e-mail address.
func (d Decision) MarshalJSON() ([]byte, error) { return json.Marshal(d.plain()) }

// Format prints the same in one line, whatever the verb.
func (d Decision) Format(f fmt.State, _ rune) {
	p := d.plain()
	fmt.Fprintf(f, "polargate.Decision{Route:%q Customer:%v Requirements:%q Outcome:%s Status:%d Unmet:%q Reason:%s Source:%s MeterID:%s Units:%v}",
		p.Route, d.Customer, p.Requirements, p.Outcome, p.Status, p.Unmet, p.Reason, p.Source, p.MeterID, p.Units)
}

// LogValue logs what MarshalJSON writes.
func (d Decision) LogValue() slog.Value {
	p := d.plain()
	attrs := []slog.Attr{slog.String("outcome", string(p.Outcome)), slog.String("requirements", p.Requirements)}
	for _, a := range []slog.Attr{
		slog.String("route", p.Route), slog.String("customer_id", p.CustomerID), slog.String("license_key_id", p.LicenseKeyID),
		slog.String("unmet", p.Unmet), slog.String("reason", string(p.Reason)), slog.String("source", string(p.Source)), slog.String("meter_id", p.MeterID),
	} {
		if a.Value.String() != "" {
			attrs = append(attrs, a)
		}
	}
	if p.Units != 0 {
		attrs = append(attrs, slog.Float64("units", p.Units))
	}
	return slog.GroupValue(attrs...)
}

// DecisionCount is how many decisions were alike, as far as a figure can tell.
type DecisionCount struct {
	// Route, Outcome, Source and Reason are those of a Decision, and Feature is what it
	// names. For a call that package rpcgate gates, Route is the name of its rule, so that no
	// client can add to the names: the procedure, or the service, or "default".
	Route, Feature string
	Outcome        Outcome
	Source         Source
	Reason         Reason
	// Count is how many there were since Decisions was called first.
	Count int64
}

// Decisions counts what OnDecision would be told of, for a program's metrics; see package
// metrics. Counting begins with the first call, and costs a request a few nanoseconds. There
// are at most about a thousand combinations: what comes after them is counted under the
// Route "other".
func (c *Customers) Decisions() []DecisionCount {
	if c.tally.Load() == nil {
		c.tally.CompareAndSwap(nil, tally.New())
	}
	var all []DecisionCount
	for _, s := range c.tally.Load().All() {
		all = append(all, DecisionCount{s.Route, s.Feature, Outcome(s.Outcome), Source(s.Source), Reason(s.Reason), s.Count.Load()})
	}
	return all
}

// listened reports whether anybody is to hear of decisions.
func (c *Customers) listened() bool { return c.config.OnDecision != nil || c.tally.Load() != nil }

// question is what is decided about, as far as anybody is to hear of it.
type question struct {
	key   memory.Key
	route string
	site  *site // nil outside of routes
	seen  glance
	meter string // of what is held
	units float64
}

// holds notes what is held; r may be nil.
func (q *question) holds(r *Reservation) {
	if r != nil && r.book != nil {
		q.meter, q.units = r.meter, r.units.Float()
	}
}

// site is a Route, as far as anybody is to hear of its decisions.
type site struct {
	feature string
	name    string // by which it is counted; empty for the route of a question
	// usual counts the usual outcome, under the name that the route had last.
	usual atomic.Pointer[tally.Series]
}

// passed counts a customer who was in memory and has what is required.
func (s *site) passed(in *tally.Tally, route string) {
	usual := s.usual.Load()
	if usual == nil || usual.Route != route {
		usual = in.Of(tally.Labels{Route: route, Feature: s.feature, Outcome: string(Allowed), Source: string(FromMemory)})
		s.usual.Store(usual)
	}
	usual.Count.Add()
}

// glance is what was in memory before a question was asked.
type glance struct {
	found, fresh, stale bool
	at                  clock.Polar
}

// inMemory is the glance of what was found fresh.
var inMemory = glance{found: true, fresh: true}

// source is where an answer came from, given what was in memory before.
func (g glance) source(value *Entitlements, required []Requirement) Source {
	if over := value.overlaid(); over != nil {
		switch {
		case slices.ContainsFunc(over.given, func(o Overlay) bool { return o.Why == fallback }) && over.under == nil && over.failure == nil:
			return FromFallback
		case over.under == nil, value.byOverlay(required):
			return FromOverlay
		}
		value = over.under
	}
	if value == nil {
		return ""
	}
	at := value.state().At()
	switch {
	case g == inMemory, at == 0, g.found && g.fresh && g.at == at:
		return FromMemory
	case !g.found, g.at != at:
		return FromNetwork
	case g.stale:
		return FromStale
	}
	return FromGrace
}

// asked begins a question, unless nobody wants to hear of it.
func (c *Customers) asked(key memory.Key) (q question) {
	if !c.listened() {
		return q
	}
	q.key = key
	if key.Kind == memory.ByMember {
		key = CustomerRef{key}.payer()
	}
	q.seen.found, q.seen.fresh, q.seen.stale, q.seen.at = c.cache.Glance(key)
	return q
}

// tell tells the program what was decided. value is what the customer has if they were let
// in; it is nil if a route opened for them.
func (c *Customers) tell(ctx context.Context, q *question, required []Requirement, value *Entitlements, refusal *Refusal, opened bool) {
	counts, hook := c.tally.Load(), c.config.OnDecision
	switch {
	case counts == nil && hook == nil:
		return
	case hook == nil && refusal == nil && q.site != nil && q.seen == inMemory && c.config.Overlay == nil:
		q.site.passed(counts, cmp.Or(q.site.name, q.route))
		return
	}
	if ctx == nil {
		ctx = context.Background()
	}
	d := Decision{Route: q.route, Requirements: required, Outcome: Allowed, MeterID: q.meter, Units: q.units}
	counted := d.Route
	if q.site != nil {
		d.feature, counted = q.site.feature, cmp.Or(q.site.name, d.Route)
	} else if called, ok := ctx.Value(incontext.Call{}).(*incontext.Called); ok { // by the handler of a call
		d.Route, counted = called.Procedure, called.Rule
	}
	if refusal != nil {
		d.Status, d.Unmet, d.Reason = refusal.Status, refusal.Required, refusal.Reason
		switch {
		case opened:
			d.Outcome = FailedOpen
		case refusal.Status == http.StatusPaymentRequired:
			d.Outcome = Unpaid
		case refusal.Status == http.StatusServiceUnavailable:
			d.Outcome = Undecided
		default:
			d.Outcome = Unidentified
		}
		if !opened {
			value = refusal.Entitlements
		}
	}
	d.Source = q.seen.source(value, required)
	if counts != nil {
		counts.Of(tally.Labels{Route: counted, Feature: d.Feature(), Outcome: string(d.Outcome), Source: string(d.Source), Reason: string(d.Reason)}).Count.Add()
	}
	if hook == nil {
		return
	}
	d.At = time.Now()
	switch {
	case q.key.Kind == memory.ByLicenseKey:
		d.Customer = CustomerID(value.CustomerID())
		if license := value.license(); license != nil {
			d.LicenseKeyID = license.ID
		}
	case q.key.Kind == memory.ByExternalID && value != nil && value.ExternalID() == q.key.ID:
		d.Customer = CustomerRef{memory.Key{Kind: memory.ByExternalID, ID: value.ExternalID()}} // in memory that stays
	default:
		d.Customer = CustomerRef{q.key.Own()}
	}
	defer c.caughtOnDecision()
	hook(ctx, d)
}

// caughtOnDecision keeps a panic in OnDecision from taking the program down.
func (c *Customers) caughtOnDecision() {
	if p := recover(); p != nil {
		c.counts.panics.Add(1)
		c.seldom.Warn(c.config.Logger, "on decision", "polargate: CustomersConfig.OnDecision panicked", "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
	}
}

// Refusal is why a request isn't let in.
type Refusal struct {
	// Status is the HTTP status: 400 for an id, or what decides the cost, that can't be
	// right, 401 if nobody is signed in or the license key is unknown, 402 if something required is missing, and
	// 503 if Polar can't be reached and nothing is cached.
	Status int
	// Required is the first unmet requirement, with 402. It is the zero Requirement if
	// the license key itself is refused, or if the customer is unknown and nothing else
	// was required.
	Required Requirement
	// Reason is why a license key was refused, or why Polar gave no answer; empty if your
	// program couldn't find out who sent the request.
	Reason Reason
	// RetryAfter is how long to wait, with 503; at least a second.
	RetryAfter time.Duration
	// UpgradeURL is where customers find your plans; may be empty.
	UpgradeURL string
	// Entitlements are those of the customer who was refused, with 402; Known is false
	// for an unknown customer. They are nil with any other Status.
	Entitlements *Entitlements
	// Err is what went wrong, with 400 and 503.
	Err error
}

// Error says why somebody isn't let in, without naming them. It makes a *Refusal the cause
// of a context that Watch has ended. Don't assign the *Refusal of Decide to an error: one
// that is nil would be an error that isn't.
func (r *Refusal) Error() string {
	return "polargate: refused with " + strconv.Itoa(r.Status) + ": " + strings.TrimSuffix(r.Detail(), ".")
}

// Unwrap returns Err.
func (r *Refusal) Unwrap() error { return r.Err }

// err is what went wrong; nil if nobody was refused for that.
func (r *Refusal) err() error {
	if r == nil {
		return nil
	}
	return r.Err
}

// refusal adds what the configuration says about every refusal.
func (c *Customers) refusal(r Refusal) *Refusal {
	r.UpgradeURL = c.config.UpgradeURL
	return &r
}

// decide turns an answer into a decision.
func (c *Customers) decide(value *Entitlements, err error, requirements []Requirement) (*Entitlements, *Refusal) {
	if err == nil {
		err = value.undecided(requirements)
	}
	if err == nil {
		required, unmet := value.Unmet(requirements...)
		if !unmet && (value.Known() || value.byOverlay(requirements)) {
			return value, nil
		}
		if value.Refused() != "" {
			required = Requirement{} // it is the key itself
		}
		return nil, c.refusal(Refusal{Status: http.StatusPaymentRequired, Required: required, Reason: value.Refused(), Entitlements: value})
	}
	if input, ok := errors.AsType[*InputError](err); ok {
		c.badIDs.Do(func() {
			c.config.Logger.Warn("polargate: a request came with an invalid customer id (logged once a minute)", "error", input)
		})
		return nil, c.refusal(Refusal{Status: http.StatusBadRequest, Err: input})
	}
	refusal := c.refusal(Refusal{Status: http.StatusServiceUnavailable, Reason: ErrUnreachable, RetryAfter: time.Second, Err: err})
	if e, ok := errors.AsType[*Error](err); ok {
		refusal.Reason, refusal.RetryAfter = e.Reason, max(e.RetryAfter, time.Second)
	}
	return nil, refusal
}

// WriteRefusal answers a request that isn't let in. By its Accept header, the answer is a
// problem report (RFC 9457) as JSON, or a small page for people. With 402, a browser that
// opens a page is redirected by 303 to the UpgradeURL, if there is one and it isn't the
// page that was requested. Scripts in the background, recognized by Sec-Fetch-Mode or the
// headers that htmx, Turbo, Inertia and jQuery send, are answered in place. The answer
// must not be stored by caches. A Status that is no refusal is written as 503.
func WriteRefusal(w http.ResponseWriter, r *http.Request, refusal Refusal) {
	if refusal.Status < 400 || refusal.Status > 599 {
		refusal.Status = http.StatusServiceUnavailable // one made by hand that does not say
	}
	h := w.Header()
	h.Set("Cache-Control", "no-store")
	h.Add("Vary", "Accept")
	h.Del("Content-Length") // of what would have been sent
	page, plans := refusalpage.PrefersPage(r), refusalpage.Plans(r, refusal.UpgradeURL)
	if refusal.Status == http.StatusPaymentRequired && plans != nil && page && refusalpage.Navigates(r) {
		h.Set("Location", plans.String()) // the browser resolves a relative address
		w.WriteHeader(http.StatusSeeOther)
		return
	}
	if refusal.RetryAfter > 0 {
		h.Set("Retry-After", strconv.Itoa(int(math.Ceil(refusal.RetryAfter.Seconds()))))
	}
	h.Set("X-Content-Type-Options", "nosniff")
	kind, body := "application/problem+json", ""
	if page {
		kind, body = "text/html; charset=utf-8", refusal.page(plans)
		if h.Get("Content-Security-Policy") == "" {
			h.Set("Content-Security-Policy", refusalpage.Policy)
		}
	} else {
		body = refusal.report()
	}
	h.Set("Content-Type", kind)
	w.WriteHeader(refusal.Status)
	if r.Method != http.MethodHead {
		_, _ = io.WriteString(w, body)
	}
}

// page is a refusal for a person.
func (r Refusal) page(plans *url.URL) string {
	if r.Status != http.StatusPaymentRequired {
		plans = nil
	}
	heading, text := r.words()
	return refusalpage.Page(heading, text, plans)
}

// words are a heading and a sentence for a person. They don't mention anything that only the
// program knows, such as features and ids.
func (r Refusal) words() (heading, text string) {
	switch {
	case r.Status == http.StatusBadRequest && r.aboutCost():
		return "This can't be done", "What you sent isn't valid. Change it, then try again."
	case r.Status == http.StatusBadRequest:
		return "We can't find your account", "Your account ID isn't valid. Sign out and in again. If that doesn't help, contact support."
	case r.Status == http.StatusUnauthorized && r.Reason == ErrUnknownKey:
		return "License key needed", "Your license key is missing or unknown. Check it, then try again."
	case r.Status == http.StatusUnauthorized:
		return "Please sign in", "Sign in, then open this page again."
	case r.Status == http.StatusServiceUnavailable:
		return "Please try again", "We can't check what your plan includes right now. Try again " + soon(r.RetryAfter) + "."
	case r.Status != http.StatusPaymentRequired:
		return http.StatusText(r.Status), r.Detail()
	case english[Phrase(r.Reason)] != "":
		return "Your license doesn't cover this", upperFirst(english[Phrase(r.Reason)]) + "."
	case r.Required.kind == needsMeter:
		return "Limit reached", "You don't have enough usage left for this."
	case r.Entitlements.Known():
		return "Upgrade to continue", "Your plan doesn't include this."
	}
	return "Upgrade to continue", "You need a subscription or purchase to continue."
}

// soon says when to try again.
func soon(d time.Duration) string {
	if d > 30*24*time.Hour {
		return "later"
	}
	return "in " + inWords(d)
}

// report is a refusal as a problem report.
func (r Refusal) report() string {
	problem := struct {
		Type       string `json:"type"`
		Title      string `json:"title"`
		Status     int    `json:"status"`
		Detail     string `json:"detail"`
		Reason     string `json:"reason,omitempty"`
		Required   string `json:"required,omitempty"`
		UpgradeURL string `json:"upgrade_url,omitempty"`
	}{"about:blank", http.StatusText(r.Status), r.Status, r.Detail(), string(r.Reason), "", ""}
	if r.Required.kind != 0 {
		problem.Required = r.Required.String()
	}
	if r.Status == http.StatusPaymentRequired {
		problem.UpgradeURL = r.UpgradeURL
	}
	body, err := json.Marshal(problem)
	if err != nil {
		body = []byte("{}") // it is all text and numbers
	}
	return string(body) + "\n"
}

// LogValue logs a refusal without anything that names the customer.
func (r Refusal) LogValue() slog.Value {
	required := ""
	if r.Required.kind != 0 {
		required = r.Required.String()
	}
	return slog.GroupValue(slog.Int("status", r.Status), slog.String("reason", string(r.Reason)), slog.String("required", required))
}

// aboutCost reports whether a 400 is for what the request costs, and not for the customer's id.
func (r Refusal) aboutCost() bool {
	input, ok := errors.AsType[*InputError](r.Err)
	return ok && !slices.Contains([]string{"customer", "customer id", "external id", "external member id"}, input.Field)
}

// Detail is a sentence for whoever sent the request. It is the detail of a problem report.
func (r Refusal) Detail() string {
	switch {
	case r.Status == http.StatusBadRequest && r.aboutCost():
		return "The request isn't valid, so we can't tell what it costs."
	case r.Status == http.StatusBadRequest:
		return "The customer id isn't valid."
	case r.Status == http.StatusUnauthorized && r.Reason == ErrUnknownKey:
		return "The license key is missing or unknown. Send a valid one."
	case r.Status == http.StatusUnauthorized:
		return "You aren't signed in. Sign in first."
	case r.Status == http.StatusServiceUnavailable:
		return "We can't check what you may use right now. Try again shortly."
	case r.Reason != "":
		return upperFirst(english[Phrase(r.Reason)]) + "."
	case r.Required.kind != 0:
		return "This needs " + r.Required.String() + "."
	}
	return "This needs a subscription or purchase."
}
