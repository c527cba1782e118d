package polartest

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/polargate/polargate/polartest/internal/pydantic"
)

// Event is what [Polar.Emit] sends.
type Event struct {
	// Type is Polar's: "subscription.cycled", "customer.state_changed" and so on.
	Type string
	// Subject is the ID of what the event is about, as it is here: of a customer, a subscription, a
	// grant, a seat, a member, or a benefit of the catalog, by the type.
	Subject string
	// Data, if not empty, is the data of the event instead: JSON, for types of which this Polar knows
	// nothing.
	Data []byte
	// ID is the webhook-id. Empty: a new one for each endpoint.
	ID string
	// At is the timestamp of the event. Zero: now, by this Polar's clock.
	At time.Time
}

// Emit sends an event to the endpoints that want its type, as if it had just happened, and returns the
// IDs of the deliveries. What a change here brings about is sent without it: this is for what only
// Polar does by itself, and for events that are to be exactly so. It panics if there is no such subject.
func (p *Polar) Emit(e Event) (ids []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if e.At.IsZero() {
		e.At = p.now()
	}
	organizationID, a, data := p.subject(&e)
	if data == nil {
		panic(fmt.Sprintf("polartest: Emit: there is nothing with the id %q that an event of the type %q could tell of", e.Subject, e.Type))
	}
	return p.emitTo(e.Type, organizationID, a, data, e)
}

// subject finds what an event is about.
func (p *Polar) subject(e *Event) (organizationID string, a *account, data func() *object) {
	id := strings.ToLower(e.Subject)
	if len(e.Data) > 0 {
		v, err := pydantic.Read(e.Data)
		o, isObject := v.(*object)
		if err != nil || !isObject {
			panic("polartest: Emit: Event.Data is no JSON object")
		}
		return p.config.OrganizationID, nil, func() *object { return o }
	}
	kind, _, _ := strings.Cut(e.Type, ".")
	switch kind {
	case "customer":
		if a = p.findCustomer(e.Subject); a == nil {
			return
		}
		return a.OrganizationID, a, func() *object {
			if e.Type == stateChanged {
				return p.describeState(&a.Customer)
			}
			return a.describe()
		}
	case "subscription":
		var s *Subscription
		if a, s = p.subscription(id); a == nil {
			return
		}
		return a.OrganizationID, a, func() *object { return p.describeSubscription(a, s) }
	case "benefit_grant":
		for _, a := range p.customers {
			if i := slices.IndexFunc(a.Benefits, func(b Benefit) bool { return b.ID == id }); i >= 0 {
				return a.OrganizationID, a, func() *object { return p.describeGrantEvent(grant{a, &a.Benefits[i]}, nil) }
			}
		}
	case "customer_seat":
		for _, s := range p.seats {
			if s.ID == id {
				a, _ = p.subscription(s.SubscriptionID)
				return a.OrganizationID, a, func() *object { return p.describeSeat(s, true) }
			}
		}
	case "member":
		if m := p.member(id); m != nil {
			a = p.customersByID[m.CustomerID]
			return a.OrganizationID, a, m.describe
		}
	case "benefit":
		if b := p.benefit(id); b != nil {
			return b.OrganizationID, nil, b.describe
		}
	}
	return
}

// emitTo makes an event for each endpoint of the organization that wants it.
func (p *Polar) emitTo(kind, organizationID string, a *account, data func() *object, event Event) (ids []string) {
	if p.quiet {
		return nil
	}
	event.Type = kind
	for _, e := range p.webhooks.endpoints {
		if !e.wants(kind, organizationID) {
			continue
		}
		var state *object
		told := data()
		if kind == stateChanged {
			state = told
		}
		ids = append(ids, p.send(event, e, a, state, told))
	}
	return ids
}

// endpointTypes are the types of events that an endpoint made by request may ask for, and those that
// this package sends by itself.
var endpointTypes = []string{
	"checkout.created", "checkout.updated", "checkout.expired",
	"customer.created", "customer.updated", "customer.deleted", "customer.state_changed",
	"customer_seat.assigned", "customer_seat.claimed", "customer_seat.revoked",
	"member.created", "member.updated", "member.deleted",
	"order.created", "order.updated", "order.paid", "order.refunded",
	"subscription.created", "subscription.updated", "subscription.active", "subscription.canceled",
	"subscription.uncanceled", "subscription.cycled", "subscription.revoked", "subscription.past_due",
	"subscription.paused", "subscription.resumed",
	"refund.created", "refund.updated", "product.created", "product.updated",
	"benefit.created", "benefit.updated",
	"benefit_grant.created", "benefit_grant.cycled", "benefit_grant.updated", "benefit_grant.revoked",
	"organization.updated",
}

func (e *endpoint) describe() *object {
	events := []any{}
	for _, name := range e.Events {
		events = append(events, name)
	}
	return newObject(
		"created_at", pydantic.PrintTimeOrNull(e.CreatedAt),
		"modified_at", pydantic.PrintTimeOrNull(e.ModifiedAt),
		"id", e.ID,
		"url", e.URL,
		"name", nil,
		"format", "raw",
		"secret", e.Secrets[0].Text,
		"organization_id", e.OrganizationID,
		"events", events,
		"enabled", !e.Disabled)
}

func (p *Polar) listEndpoints(c *call) *answer {
	f := c.queryForm()
	organizations := f.uuids(c, "organization_id")
	return answerPage(f, func() []*endpoint {
		var found []*endpoint
		for _, e := range p.webhooks.endpoints {
			if e.OrganizationID == c.token.OrganizationID && organizations.passes(e.OrganizationID) {
				found = append(found, e)
			}
		}
		slices.SortStableFunc(found, func(a, b *endpoint) int { return b.CreatedAt.Compare(a.CreatedAt) })
		return found
	}, (*endpoint).describe)
}

// addressedEndpoint is the endpoint of the path.
func (p *Polar) addressedEndpoint(c *call) (*endpoint, *answer) {
	f := c.pathForm("id")
	id := f.uuid("id")
	if len(f.problems) > 0 {
		return nil, unprocessable(f.problems)
	}
	e := p.endpoint(id)
	if e == nil || e.OrganizationID != c.token.OrganizationID {
		return nil, notFound("Not found")
	}
	return e, nil
}

func (p *Polar) getEndpoint(c *call) *answer {
	e, refusal := p.addressedEndpoint(c)
	if refusal != nil {
		return refusal
	}
	return ok(e.describe())
}

// webhookURL reads where webhooks go. Polar takes https only.
func (f *form) webhookURL(name string) string {
	s := f.text(name)
	if len(f.problems) > 0 {
		return s
	}
	u, err := url.Parse(s)
	switch {
	case err != nil || u.Host == "":
		const why = "relative URL without a base"
		f.complain(name, "url_parsing", "Input should be a valid URL, "+why, s, newObject("error", why))
	case u.Scheme != "https":
		f.complain(name, "url_scheme", "URL scheme should be 'https'", s, newObject("expected_schemes", "'https'"))
	}
	return s
}

func (f *form) eventTypes(name string) (types []string) {
	v, ok := f.required(name)
	if !ok {
		return nil
	}
	list, ok := v.([]any)
	if !ok {
		f.complain(name, "list_type", "Input should be a valid list", v, nil)
		return nil
	}
	for i, one := range list {
		s, _ := one.(string)
		if !slices.Contains(endpointTypes, s) {
			expected := "'" + strings.Join(endpointTypes[:len(endpointTypes)-1], "', '") + "' or '" + endpointTypes[len(endpointTypes)-1] + "'"
			f.problems = append(f.problems, newProblem("enum", []any{f.place, name, i}, "Input should be "+expected, one, newObject("expected", expected)))
			continue
		}
		types = append(types, s)
	}
	return types
}

func (p *Polar) createEndpoint(c *call) *answer {
	f, refusal := c.form()
	if refusal != nil {
		return refusal
	}
	address := f.webhookURL("url")
	if format := f.text("format"); len(f.problems) == 0 && !slices.Contains([]string{"raw", "discord", "slack"}, format) {
		const expected = "'raw', 'discord' or 'slack'"
		f.complain("format", "enum", "Input should be "+expected, format, newObject("expected", expected))
	}
	types := f.eventTypes("events")
	if len(f.problems) > 0 {
		return unprocessable(f.problems)
	}
	e := Endpoint{ID: newUUID(), OrganizationID: c.token.OrganizationID, URL: address, Events: types, CreatedAt: c.at}
	e.settle(c.token.OrganizationID, c.at)
	made := &endpoint{Endpoint: e}
	p.webhooks.endpoints = append(p.webhooks.endpoints, made)
	return jsonAnswer(http.StatusCreated, made.describe())
}

func (p *Polar) patchEndpoint(c *call) *answer {
	e, refusal := p.addressedEndpoint(c)
	if refusal != nil {
		return refusal
	}
	f, refusal := c.form()
	if refusal != nil {
		return refusal
	}
	next := e.Endpoint.clone()
	if v, sent := f.fields.Get("url"); sent && v != nil {
		next.URL = f.webhookURL("url")
	}
	if v, sent := f.fields.Get("events"); sent && v != nil {
		next.Events = f.eventTypes("events")
	}
	if v, sent := f.fields.Get("enabled"); sent && v != nil {
		next.Disabled = v != true
	}
	if len(f.problems) > 0 {
		return unprocessable(f.problems)
	}
	next.ModifiedAt = c.at
	e.Endpoint = next
	if e.Disabled {
		p.skip(e)
	}
	return ok(e.describe())
}

func (p *Polar) resetSecret(c *call) *answer {
	e, refusal := p.addressedEndpoint(c)
	if refusal != nil {
		return refusal
	}
	e.Secrets, e.ModifiedAt = []Secret{{}}, c.at
	e.Secrets[0].settle()
	return ok(e.describe())
}

func (p *Polar) removeEndpoint(c *call) *answer {
	e, refusal := p.addressedEndpoint(c)
	if refusal != nil {
		return refusal
	}
	e.Disabled = true
	p.skip(e)
	p.webhooks.endpoints = slices.DeleteFunc(p.webhooks.endpoints, func(other *endpoint) bool { return other == e })
	return &answer{status: http.StatusNoContent, header: jsonHeader()}
}

// attempted is an attempt with the event that it was to deliver.
type attempted struct {
	*event
	Attempt
}

func (p *Polar) listDeliveries(c *call) *answer {
	f := c.queryForm()
	endpoints := f.uuids(c, "endpoint_id")
	types := f.texts(c, "event_type")
	succeeded := f.flag("succeeded")
	return answerPage(f, func() []attempted {
		var found []attempted
		for _, ev := range p.webhooks.events {
			if ev.endpoint.OrganizationID != c.token.OrganizationID || !endpoints.passes(ev.EndpointID) || !types.passes(ev.Type) {
				continue
			}
			for _, a := range ev.Attempts {
				if succeeded == nil || *succeeded == a.succeeded() {
					found = append(found, attempted{ev, a})
				}
			}
		}
		slices.SortStableFunc(found, func(a, b attempted) int { return b.Attempt.At.Compare(a.Attempt.At) })
		return found
	}, attempted.describe)
}

func (a *Attempt) succeeded() bool { return a.Err == nil && a.Status >= 200 && a.Status < 300 }

func (a attempted) describe() *object {
	var code, last, written, said any
	if a.Attempt.Status != 0 {
		code = a.Attempt.Status
	}
	if a.Err != nil {
		said = a.Err.Error()
	}
	latest := a.Attempts[len(a.Attempts)-1]
	if latest.Status != 0 {
		last = latest.Status
	}
	written = pydantic.PrintTime(latest.At)
	var outcome any
	switch a.event.Status {
	case delivered:
		outcome = true
	case failed:
		outcome = false
	}
	return newObject(
		"created_at", pydantic.PrintTime(a.Attempt.At),
		"modified_at", nil,
		"id", a.Attempt.ID,
		"succeeded", a.succeeded(),
		"http_code", code,
		"response", said,
		"webhook_event", newObject(
			"created_at", pydantic.PrintTime(a.event.At),
			"modified_at", written,
			"id", a.event.ID,
			"last_http_code", last,
			"succeeded", outcome,
			"skipped", a.event.Status == skipped,
			"payload", string(a.Body),
			"type", a.Type,
			"is_archived", false))
}

// redeliver sends an event once more, under its ID, with the body that it had.
func (p *Polar) redeliver(c *call) *answer {
	f := c.pathForm("id")
	id := f.uuid("id")
	if len(f.problems) > 0 {
		return unprocessable(f.problems)
	}
	for _, ev := range p.webhooks.events {
		if ev.ID != id || ev.endpoint.OrganizationID != c.token.OrganizationID {
			continue
		}
		if ev.Status != pending {
			p.enqueue(ev)
		}
		return &answer{status: http.StatusAccepted, header: jsonHeader(), body: []byte("null")}
	}
	return notFound("Not found")
}
