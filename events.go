package polargate

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"github.com/polargate/polargate/internal/memory"
	"github.com/polargate/polargate/internal/rights"
	"github.com/polargate/polargate/internal/wire"
)

// Event is one of Polar's webhooks, verified. What a gate uses of it is typed: see Entitlements,
// Subscription, Grant and Seat. Data has the rest.
type Event struct {
	// ID is the delivery's own, the same each time that Polar sends it.
	ID string
	// Type is Polar's word, such as "subscription.past_due".
	Type string
	// At is when it happened, by Polar's clock. Events can come in another order.
	At time.Time
	// Customer names whom it is about, by Polar's id; for a seat or a member, the buyer.
	// It names nobody if the event doesn't say.
	Customer CustomerRef

	data     json.RawMessage
	features map[string][]string
}

// Format prints the type and the id of an event, whatever the verb: its data is personal.
func (e Event) Format(f fmt.State, _ rune) {
	fmt.Fprintf(f, "polargate.Event{ID:%s Type:%s}", e.ID, e.Type)
}

// LogValue logs what Format prints.
func (e Event) LogValue() slog.Value { return slog.StringValue(fmt.Sprint(e)) }

// Data is the data of the event as Polar sent it: JSON, which may hold e-mail addresses and
// whatever else is personal. It is nil if there is none. The slice is the caller's own.
func (e Event) Data() json.RawMessage { return append(json.RawMessage(nil), e.data...) }

// Entitlements are what the customer has, by a customer.state_changed; ok is false for other
// types. Customers.Entitlements may know something younger, and license keys that have ended.
func (e Event) Entitlements() (have *Entitlements, ok bool) {
	if e.Type != "customer.state_changed" {
		return nil, false
	}
	s, err := rights.ReadState(e.data, "", e.features)
	return (*Entitlements)(s), err == nil
}

// SubscriptionEvent is a subscription as an event tells it.
type SubscriptionEvent struct {
	// ID is the subscription's own, and ProductID says what it is to.
	ID, ProductID string
	// Status is Polar's word: "active", "trialing", "past_due", "canceled", …
	Status string
	// CurrentPeriodStart and CurrentPeriodEnd are of the period that is paid for.
	CurrentPeriodStart, CurrentPeriodEnd time.Time
	// TrialEnd is zero without a trial. EndsAt is when a subscription ends that was
	// canceled, and EndedAt when it has.
	TrialEnd, EndsAt, EndedAt time.Time
	// CancelAtPeriodEnd: it was canceled, and runs until EndsAt.
	CancelAtPeriodEnd bool
	// Seats is how many were bought; 0 if it is not sold by seats.
	Seats int
}

// Subscription reads an event whose type begins with "subscription."; ok is false for other
// types.
func (e Event) Subscription() (s SubscriptionEvent, ok bool) {
	f, err := wire.Object(e.data)
	if err != nil || !strings.HasPrefix(e.Type, "subscription.") {
		return s, false
	}
	f.Text("id", &s.ID)
	f.Text("product_id", &s.ProductID)
	f.Text("status", &s.Status)
	f.Time("current_period_start", &s.CurrentPeriodStart)
	f.Time("current_period_end", &s.CurrentPeriodEnd)
	f.Time("trial_end", &s.TrialEnd)
	f.Time("ends_at", &s.EndsAt)
	f.Time("ended_at", &s.EndedAt)
	wire.Optional(f, "cancel_at_period_end", &s.CancelAtPeriodEnd)
	wire.Optional(f, "seats", &s.Seats)
	return s, s.ID != ""
}

// GrantEvent is the grant of a benefit as an event tells it.
type GrantEvent struct {
	// Benefit is what is granted, or was. A license key's id is in it.
	Benefit GrantedBenefit
	// Granted is false once it is revoked.
	Granted bool
	// Member names the holder of the seat that it came with; nobody if there is none, or
	// if they have no external id.
	Member CustomerRef
	// SubscriptionID or OrderID is what it was bought with.
	SubscriptionID, OrderID string
}

// Grant reads an event whose type begins with "benefit_grant."; ok is false for other types.
func (e Event) Grant() (g GrantEvent, ok bool) {
	f, err := wire.Object(e.data)
	if err != nil || !strings.HasPrefix(e.Type, grantEvents) {
		return g, false
	}
	var have rights.Parts
	have.ReadGrant(f)
	if len(have.Benefits) == 0 {
		return g, false
	}
	g.Benefit = GrantedBenefit{have.Benefits[0]}
	wire.Optional(f, "is_granted", &g.Granted)
	f.Text("subscription_id", &g.SubscriptionID)
	f.Text("order_id", &g.OrderID)
	var member wire.Fields
	var external string
	wire.Optional(f, "member", &member)
	member.Text("external_id", &external)
	g.Member = Member(e.Customer, external)
	return g, true
}

// Seat reads an event whose type begins with "customer_seat."; ok is false for other types.
func (e Event) Seat() (s Seat, ok bool) {
	if !strings.HasPrefix(e.Type, "customer_seat.") || json.Unmarshal(e.data, &s) != nil {
		return Seat{}, false
	}
	return s, s.ID != ""
}

// anyEvent is a type that stands for all.
const anyEvent = "*"

// eventHandlers are the functions given to On, and the events that they are at.
type eventHandlers struct {
	sync.RWMutex
	of       map[string][]func(context.Context, Event) error
	underWay map[string]bool // deliveries, by id
}

// On has a function called for each event of a type that comes to WebhookHandler or Apply,
// such as "subscription.past_due", "order.refunded", or "*" for all. Subscribe the endpoint
// to the type in Polar, and call On before events come. Several functions for a type are
// called one after the other.
//
// What the cache uses of the event is in it already. Events of other organizations never
// come. An event comes once: to one process, or with CustomersConfig.Shared to one replica.
// But if a function returns an error, or panics, the answer is 500, and Polar sends the event
// again, up to ten times within hours: then all functions of the type are called again, so
// each has to bear what it has done before. Apply returns the error. Events of one customer
// can come at the same time, and in another order than they happened.
//
// A function has 9 seconds, because Polar takes an endpoint that needs 10 for failed, and
// switches off one that fails ten times in a row. Its context ends then, and not when Polar
// hangs up. For work that takes longer, put the event into a queue of your own. While an
// event is under way, another delivery of it is answered 503.
//
// If CustomersConfig.OrganizationID is empty, events are answered 503 until it was learned.
func (c *Customers) On(eventType string, handle func(ctx context.Context, e Event) error) {
	if eventType == "" || handle == nil {
		panic("polargate: On needs the type of an event and a function")
	}
	h := &c.handlers
	h.Lock()
	defer h.Unlock()
	if h.of == nil {
		h.of, h.underWay = map[string][]func(context.Context, Event) error{}, map[string]bool{}
	}
	h.of[eventType] = append(h.of[eventType], handle)
}

// handlersOf are the functions for a type.
func (h *eventHandlers) handlersOf(eventType string) []func(context.Context, Event) error {
	h.RLock()
	defer h.RUnlock()
	all := h.of[eventType]
	return append(all[:len(all):len(all)], h.of[anyEvent]...)
}

// begin notes that a delivery is under way, and reports false if it is already.
func (h *eventHandlers) begin(id string) (end func(), ok bool) {
	h.Lock()
	defer h.Unlock()
	if h.underWay[id] {
		return nil, false
	}
	h.underWay[id] = true
	return func() {
		h.Lock()
		defer h.Unlock()
		delete(h.underWay, id)
	}, true
}

// handlerTime is how long the functions of an event have: a little less than Polar waits.
const handlerTime = 9 * time.Second

var (
	errUnderWay       = errors.New("polargate: this event is under way already: send it again later")
	errNoOrganization = errors.New("polargate: it isn't known yet whose events these are: set CustomersConfig.OrganizationID")
)

// readEventHead reads what an event is, and the organization that it belongs to; "" if it
// doesn't say.
func (c *Customers) readEventHead(id string, body []byte) (e Event, organization string) {
	e = Event{ID: id, features: c.config.Features}
	f, err := wire.Object(body)
	if err != nil {
		return e, ""
	}
	f.Text("type", &e.Type)
	f.Time("timestamp", &e.At)
	e.data = f["data"]
	data, err := wire.Object(e.data)
	if err != nil {
		return e, ""
	}
	part := func(name string) (of wire.Fields) {
		wire.Optional(data, name, &of)
		return of
	}
	for _, of := range []wire.Fields{data, part("customer"), part("product"), part("benefit")} {
		if of.Text("organization_id", &organization); organization != "" {
			break
		}
	}
	var customer string
	switch {
	case strings.HasPrefix(e.Type, "customer_seat."):
		part("member").Text("customer_id", &customer) // the buyer, whatever the seat says
	case strings.HasPrefix(e.Type, "customer."):
		data.Text("id", &customer)
	}
	if customer == "" {
		data.Text("customer_id", &customer)
	}
	if canonical, ok := canonicalUUID4(customer); ok {
		e.Customer = CustomerID(canonical)
	}
	organization, _ = canonicalUUID4(organization)
	return e, organization
}

// handle has the functions of an event called, after it was taken in by take. It is called
// once for a delivery that all goes well with.
func (c *Customers) handle(ctx context.Context, id, sent string, body []byte) (handled bool, err error) {
	e, organization := c.readEventHead(id, body)
	functions := c.handlers.handlersOf(e.Type)
	if len(functions) == 0 {
		return false, nil
	}
	if ours := c.knownOrganization(ctx, e); organization != "" && organization != ours {
		if ours == "" {
			return true, errNoOrganization
		}
		return false, nil // of another: taking it in says so
	}
	end, ok := c.handlers.begin(id)
	if !ok {
		return true, errUnderWay
	}
	defer end()
	if c.seen.Contains(id) {
		c.counts.eventsTwice.Add(1)
		return true, nil
	}
	if r := c.replicas; r != nil {
		done, ok := r.ClaimEvent(id)
		if !ok {
			return true, errUnderWay
		}
		defer done()
		if !r.FirstTime(id) {
			c.counts.eventsTwice.Add(1)
			return true, nil
		}
	}
	c.takeIn(sent, body)
	for _, function := range functions {
		if err = c.callHandler(ctx, function, e); err != nil {
			break
		}
	}
	if err != nil {
		c.counts.eventsFailed.Add(1)
		c.seldom.Warn(c.config.Logger, "event handler", "polargate: a function given to On failed, so Polar is asked to send the event again", "type", e.Type, "error", err)
		return true, err
	}
	c.noteSeen(id)
	return true, nil
}

// knownOrganization is the organization of the access token. If it isn't known, Polar is
// asked about the customer, whose state tells.
func (c *Customers) knownOrganization(ctx context.Context, e Event) string {
	if id := c.organizationID(); id != "" || e.Customer.IsZero() {
		return id
	}
	_, _ = c.cache.Fetch(ctx, e.Customer.key, memory.UnlessFresh) // what fails is logged there
	return c.organizationID()
}

// callHandler calls a function of the program's, and makes a panic an error.
func (c *Customers) callHandler(ctx context.Context, function func(context.Context, Event) error, e Event) (err error) {
	defer func() {
		if p := recover(); p != nil {
			c.counts.panics.Add(1)
			c.config.Logger.Error("polargate: a function given to On panicked", "type", e.Type, "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
			err = fmt.Errorf("polargate: the function given to On for %s panicked", e.Type)
		}
	}()
	return function(ctx, e)
}

// eventStatus is the status that answers a delivery.
func eventStatus(err error) int {
	switch {
	case err == nil:
		return http.StatusNoContent
	case errors.Is(err, errUnderWay), errors.Is(err, errNoOrganization), errors.Is(err, ErrClosed):
		return http.StatusServiceUnavailable
	}
	return http.StatusInternalServerError
}
