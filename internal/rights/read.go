package rights

import (
	"errors"
	"math"
	"slices"
	"time"

	"github.com/polargate/polargate/internal/clock"
	"github.com/polargate/polargate/internal/ledger"
	"github.com/polargate/polargate/internal/wire"
)

// ErrForeign is an answer about another customer or organization than was asked about.
var ErrForeign = errors.New("the answer is about another customer or organization")

// ReadDeleted reads which customer was deleted.
func ReadDeleted(body []byte, organizationID string) (*State, error) {
	f, err := wire.Object(body)
	if err != nil {
		return nil, err
	}
	s, err := ReadCustomer(f, organizationID)
	if err != nil {
		return nil, err
	}
	return s.deleted(f), nil
}

// deleted turns a customer into one that no longer exists. Polar then keeps the external
// id in the metadata.
func (s *State) deleted(f wire.Fields) *State {
	s.known, s.unread = false, 0
	if s.external == "" {
		var metadata wire.Fields
		wire.Optional(f, "metadata", &metadata)
		metadata.Text("__external_id", &s.external)
	}
	return s
}

// ReadCustomer reads which customer it is, and nothing of what they have.
func ReadCustomer(f wire.Fields, organizationID string) (*State, error) {
	s := &State{known: true}
	var id, organization string
	f.Text("id", &id)
	f.Text("external_id", &s.external)
	f.Text("organization_id", &organization)
	var ok bool
	if s.customer, ok = wire.ParseUUID(id); !ok {
		return nil, errors.New("no customer: the id is missing")
	}
	if organizationID != "" && organization != "" && !wire.SameUUID(organization, organizationID) {
		return nil, ErrForeign
	}
	return s, nil
}

// ReadState reads the state of whichever customer it belongs to, as Polar writes it, and
// reduces it to what gates need. Only the customer's id and one of the lists must be present.
// A list that is missing or has another type is recorded as unread: it matters only to
// decisions that need it. Anything else that is missing, unknown or of another type is left
// out, and spoils nothing else.
func ReadState(body []byte, organizationID string, features map[string][]string) (*State, error) {
	f, err := wire.Object(body)
	if err != nil {
		return nil, err
	}
	s, err := ReadCustomer(f, organizationID)
	if err != nil {
		return nil, err
	}
	read := func(name string, as Lists) []wire.Fields {
		all, err := f.List(name)
		if err != nil {
			s.unread |= as
		}
		return all
	}
	grants := read("granted_benefits", ListOfBenefits)
	subscriptions := read("active_subscriptions", ListOfSubscriptions)
	meters := read("active_meters", ListOfMeters)
	if s.unread == allLists {
		// Another object with a customer's id: refused, rather than taken for a customer
		// who has nothing.
		return nil, errors.New("no customer state: none of its lists can be read")
	}
	var deleted time.Time
	f.Time("deleted_at", &deleted)
	if !deleted.IsZero() {
		return s.deleted(f), nil
	}
	var have Parts
	for _, g := range grants {
		var benefit, kind string
		g.Text("benefit_id", &benefit)
		g.Text("benefit_type", &kind)
		if benefit == "" {
			continue
		}
		have.Benefits = append(have.Benefits, NewBenefit(benefit, kind, wire.Compact(g["benefit_metadata"]), wire.Compact(g["properties"])))
	}
	for _, is := range subscriptions {
		have.ReadSubscription(is)
	}
	for _, m := range meters {
		have.ReadMeter(m)
	}
	s.Grant(have, features)
	return s, nil
}

// ReadSubscription reads a subscription, and adds the product of one that gives a right.
func (p *Parts) ReadSubscription(s wire.Fields) {
	var is Subscription
	s.Text("id", &is.ID)
	is.ID = wire.NormalUUID(is.ID)
	s.Text("product_id", &is.ProductID)
	s.Text("status", &is.Status)
	if is.ProductID == "" || slices.Contains(noRight, is.Status) {
		return
	}
	s.Time("trial_end", &is.TrialEnd)
	s.Time("current_period_end", &is.CurrentPeriodEnd)
	s.Time("ends_at", &is.EndsAt)
	wire.Optional(s, "cancel_at_period_end", &is.CancelAtPeriodEnd)
	if is.CancelAtPeriodEnd && is.EndsAt.IsZero() {
		is.EndsAt = is.CurrentPeriodEnd
	}
	p.products = append(p.products, textFrom(is.ProductID))
	p.Subscriptions = append(p.Subscriptions, is)
}

// ReadMeter reads how a meter of a customer stands, and adds it.
func (p *Parts) ReadMeter(m wire.Fields) {
	var meter string
	var b Meter
	m.Text("meter_id", &meter)
	wire.Optional(m, "consumed_units", &b.Consumed)
	wire.Optional(m, "credited_units", &b.Credited)
	b.Balance = max(-math.MaxFloat64, min(b.Credited-b.Consumed, math.MaxFloat64)) // never infinite
	wire.Optional(m, "balance", &b.Balance)
	b.Balance = ledger.Round(b.Balance)
	b.Counted = countedAt(m)
	if meter == "" {
		return
	}
	b.id = textFrom(meter)
	p.Meters = append(p.Meters, b)
}

// countedAt is when Polar counted a meter: it changes nothing else about one.
func countedAt(m wire.Fields) clock.Polar {
	var created, modified time.Time
	m.Time("created_at", &created)
	m.Time("modified_at", &modified)
	if modified.IsZero() {
		modified = created
	}
	if modified.IsZero() {
		return 0
	}
	return clock.PolarTime(modified)
}

// noRight are the statuses of a subscription that grants nothing. Polar lists none of
// these among the active ones; an unknown status is taken as active.
var noRight = []string{"past_due", "unpaid", "canceled", "incomplete", "incomplete_expired", "paused", "revoked"}

// ReadGrant reads a grant as Polar lists it, and adds its benefit.
func (p *Parts) ReadGrant(g wire.Fields) {
	var benefit wire.Fields
	var id, kind string
	wire.Optional(g, "benefit", &benefit)
	g.Text("benefit_id", &id)
	benefit.Text("type", &kind)
	if id != "" {
		p.Benefits = append(p.Benefits, NewBenefit(id, kind, wire.Compact(benefit["metadata"]), wire.Compact(g["properties"])))
	}
}
