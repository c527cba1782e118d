package polartest

import (
	"cmp"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/polargate/polargate/polartest/internal/pydantic"
)

// Customer is a customer as Polar's database has it. Fields of a customer that are not here are
// false or null in every answer: email_verified, the billing address, the tax id, the locale, the
// payment method and first_user_event_at.
type Customer struct {
	// ID is a UUID of version 4. OrganizationID: see [Config].
	ID, OrganizationID string
	// ExternalID is what the program's own database calls the customer, unique in the organization
	// and case-sensitive. Empty: null.
	ExternalID string
	// Email is unique in the organization, whatever the case. Empty: null, as teams can have it;
	// AddCustomer and UpdateCustomer give an individual an example, for Polar has none without.
	Email string
	// Name. Empty: null.
	Name string
	// Type is "individual", which is also what empty means, or "team".
	Type     string
	Metadata map[string]any // strings, numbers and booleans
	// CreatedAt is now, if zero. A zero ModifiedAt is null; it is of the fields here only, and what
	// happens to subscriptions, benefits and meters does not move it.
	CreatedAt, ModifiedAt time.Time
	// DeletedAt is when the customer was deleted. Deleted customers are unknown to every request, and
	// their external ID and email are free for others. Zero: not deleted.
	DeletedAt time.Time
	// Subscriptions, Benefits and Meters appear in the customer's state in the order in which they
	// stand here. Polar itself promises no order of the first two.
	Subscriptions []Subscription
	Benefits      []Benefit
	Meters        []Meter
}

// Statuses of a subscription. The state of a customer shows what has one of the first two.
const (
	active   = "active"
	trialing = "trialing"
	canceled = "canceled"
)

var subscriptionStatuses = []string{
	active, trialing, "past_due", canceled, "unpaid", "paused", "incomplete", "incomplete_expired",
}

// Subscription is a subscription of a customer. Times that are zero are null, but for those that say
// otherwise.
type Subscription struct {
	// ID, ProductID, PriceID: UUIDs of version 4. Empty: random. DiscountID, too, but empty is null.
	ID, ProductID, PriceID, DiscountID string
	// Status is Polar's: "active", which is also what empty means, or "trialing", and the state shows
	// the subscription; or "past_due", "canceled", "unpaid", "paused", "incomplete" or
	// "incomplete_expired", and it does not.
	Status string
	// Amount is in the smallest unit of the currency: cents. Currency is "usd" if empty.
	Amount   int64
	Currency string
	// RecurringInterval is "day", "week", "month" or "year". Empty: "month".
	RecurringInterval string
	// CurrentPeriodStart is now, if zero, and CurrentPeriodEnd a month after it. TrialStart and
	// TrialEnd of a subscription that is trialing are the same, if zero. StartedAt is the start of
	// the period, if zero.
	CurrentPeriodStart, CurrentPeriodEnd, TrialStart, TrialEnd, StartedAt time.Time
	// CancelAtPeriodEnd is a subscription that was canceled and still runs, until EndsAt.
	CancelAtPeriodEnd  bool
	CanceledAt, EndsAt time.Time
	// PauseAtPeriodEnd is a subscription that pauses then, until ResumesAt. The others are when it
	// became past due, was paused, and ended.
	PauseAtPeriodEnd                        bool
	PastDueAt, PausedAt, ResumesAt, EndedAt time.Time
	// Seats is how many a subscription to a price by seats has. Nil: it has none.
	Seats *int64
	// CancellationReason and CancellationComment are what the customer said. Empty: null.
	CancellationReason, CancellationComment string

	Metadata              map[string]any // strings, numbers and booleans
	CustomFieldData       map[string]any // anything that JSON can say
	Meters                []SubscriptionMeter
	CreatedAt, ModifiedAt time.Time // CreatedAt is now, if zero
}

// SubscriptionMeter is a meter as a subscription has it: with the units of this billing period only.
type SubscriptionMeter struct {
	ID, MeterID           string // UUIDs of version 4; empty: random
	ConsumedUnits         float64
	CreditedUnits         int64
	Amount                int64     // due for this period so far, in cents
	CreatedAt, ModifiedAt time.Time // CreatedAt is now, if zero
}

// Benefit is a benefit that was granted to a customer: a grant, in Polar's words.
type Benefit struct {
	// ID is the grant's own. BenefitID is what programs ask for. UUIDs of version 4; empty: random.
	ID, BenefitID string
	// Type is "custom", which is also what empty means, "discord", "github_repository",
	// "downloadables", "license_keys", "meter_credit", "feature_flag", "slack_shared_channel", or
	// anything else, since Polar will think of more.
	Type string
	// Metadata is the benefit's own: strings, numbers and booleans. Properties are the grant's, by
	// type: anything that JSON can say.
	Metadata, Properties map[string]any
	// SubscriptionID is the subscription that the benefit came with and ends with. Empty: none.
	SubscriptionID string
	// LicenseKeyID is the license key that was granted, which must be there already. BenefitID and
	// Type are then the key's, if empty; Properties tell its id and display_key as they are now; and
	// to revoke the grant revokes the key, as at Polar. Empty: none.
	LicenseKeyID string
	// OrderID is the order that the benefit was bought with, and MemberID the member whom it is for.
	// Empty: null.
	OrderID, MemberID string
	// Revoked grants do not appear in the state. RevokedAt is then when that happened; zero: now.
	Revoked   bool
	RevokedAt time.Time
	// PreviousProperties are the earlier Properties that [Polar.Emit] sends. Webhooks of changes
	// that happen here have them anyway.
	PreviousProperties map[string]any
	// GrantedAt and CreatedAt are now, if zero. A zero ModifiedAt is null.
	GrantedAt, CreatedAt, ModifiedAt time.Time
}

// Meter is what a customer has used and has left of a meter.
type Meter struct {
	ID, MeterID           string // UUIDs of version 4; empty: random
	ConsumedUnits         float64
	CreditedUnits         int64
	CreatedAt, ModifiedAt time.Time // CreatedAt is now, if zero
}

// Balance is what is left: credited less consumed. It can be negative.
func (m Meter) Balance() float64 { return float64(m.CreditedUnits) - m.ConsumedUnits }

// account is a customer that was added, and the state of it that Polar last put into its cache.
type account struct {
	Customer
	owner   Member // what the first member is to be, as far as it is known beforehand
	change  int    // counts the changes
	shown   *object
	shownAt time.Time
	shownOf int // the change that shown is of
}

// customerName is what a customer is found by: the same external ID, or email, can exist in two
// organizations.
type customerName struct{ organizationID, text string }

func (c *Customer) byExternalID() customerName { return customerName{c.OrganizationID, c.ExternalID} }

func (c *Customer) byEmail() customerName {
	return customerName{c.OrganizationID, strings.ToLower(c.Email)}
}

// AddCustomer adds a customer and returns it with everything filled in that was empty. License keys
// with its ID for CustomerID tell of this customer from then on. It panics if an identifier is not a
// UUID of version 4, or if the organization has a customer of that ID, external ID or email already.
func (p *Polar) AddCustomer(customer Customer) Customer {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.addCustomer("AddCustomer", customer, Member{}).clone()
}

// addCustomer adds a customer together with the member who owns it.
func (p *Polar) addCustomer(method string, customer Customer, owner Member) *account {
	a := &account{owner: owner}
	p.change(method, a, customer)
	p.customers = append(p.customers, a)
	return a
}

// Customer gives a copy of the customer with that ID or external ID.
func (p *Polar) Customer(idOrExternalID string) (Customer, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	a := p.findCustomer(idOrExternalID)
	if a == nil {
		return Customer{}, false
	}
	return a.clone(), true
}

// UpdateCustomer edits a customer as the dashboard could, and more: change gets a copy and its result
// takes effect in one step, with one set of webhooks. It must not call the Polar. False: no such
// customer.
func (p *Polar) UpdateCustomer(idOrExternalID string, change func(*Customer)) bool {
	_, ok := p.updateCustomer("UpdateCustomer", idOrExternalID, change)
	return ok
}

// DeleteCustomer deletes a customer: subscriptions are canceled and benefits revoked. It panics if
// there is no such customer.
func (p *Polar) DeleteCustomer(idOrExternalID string) {
	now := p.now()
	p.mustUpdateCustomer("DeleteCustomer", idOrExternalID, func(c *Customer) {
		p.deleteCustomer(c, now)
	})
}

// GrantBenefit grants a benefit and returns the grant. A grant of the same benefit that the customer
// has already is granted again, with the fields of benefit that are not empty. It panics if there is
// no such customer.
func (p *Polar) GrantBenefit(idOrExternalID string, benefit Benefit) Benefit {
	now := p.now()
	at := 0
	c := p.mustUpdateCustomer("GrantBenefit", idOrExternalID, func(c *Customer) {
		at = slices.IndexFunc(c.Benefits, func(b Benefit) bool {
			switch {
			case benefit.SubscriptionID != "" && !is(b.SubscriptionID, benefit.SubscriptionID):
				return false
			case benefit.LicenseKeyID != "":
				return is(b.LicenseKeyID, benefit.LicenseKeyID)
			}
			return is(b.BenefitID, benefit.BenefitID) || is(b.ID, benefit.ID)
		})
		if at < 0 {
			at = len(c.Benefits)
			c.Benefits = append(c.Benefits, benefit)
			return
		}
		b := &c.Benefits[at]
		if b.Revoked {
			b.Revoked, b.GrantedAt = false, now
		}
		b.Type = cmp.Or(benefit.Type, b.Type)
		if benefit.Metadata != nil {
			b.Metadata = benefit.Metadata
		}
		if benefit.Properties != nil {
			b.Properties = benefit.Properties
		}
		if !benefit.GrantedAt.IsZero() {
			b.GrantedAt = benefit.GrantedAt
		}
	})
	return c.Benefits[at]
}

// RevokeBenefit revokes all grants of a benefit, or the one grant of that ID. It panics if there is
// no such customer, or no such grant.
func (p *Polar) RevokeBenefit(idOrExternalID, benefitID string) {
	p.mustUpdateCustomer("RevokeBenefit", idOrExternalID, func(c *Customer) {
		found := false
		for i := range c.Benefits {
			if b := &c.Benefits[i]; is(b.BenefitID, benefitID) || is(b.ID, benefitID) {
				b.Revoked, found = true, true
			}
		}
		if !found {
			panic(fmt.Sprintf("polartest: RevokeBenefit: the customer has no benefit %q", benefitID))
		}
	})
}

// Subscribe adds a subscription together with the benefits that come with it, and returns it. Without
// benefits they are those of the product, if that is in the catalog; of a product that is sold by seats
// they go to those who claim one. It panics if there is no such customer.
func (p *Polar) Subscribe(idOrExternalID string, subscription Subscription, benefits ...Benefit) Subscription {
	at := 0
	c := p.mustUpdateCustomer("Subscribe", idOrExternalID, func(c *Customer) {
		at = len(c.Subscriptions)
		subscription.ID = cmp.Or(subscription.ID, newUUID())
		if d := p.product(strings.ToLower(subscription.ProductID)); d != nil {
			d.complete(&subscription)
		}
		c.Subscriptions = append(c.Subscriptions, subscription)
		for _, b := range benefits {
			b.SubscriptionID = subscription.ID
			c.Benefits = append(c.Benefits, b)
		}
		if len(benefits) == 0 {
			p.fulfil(c, &c.Subscriptions[at], "")
		}
	})
	return c.Subscriptions[at]
}

// CancelSubscription ends a subscription now, named by its own ID or its product's, and revokes the
// benefits that came with it. One that is to run until the end of its period takes UpdateCustomer and
// CancelAtPeriodEnd. It panics if there is no such customer, or no such subscription.
func (p *Polar) CancelSubscription(idOrExternalID, subscriptionID string) {
	now := p.now()
	p.mustUpdateCustomer("CancelSubscription", idOrExternalID, func(c *Customer) {
		s := c.subscription("CancelSubscription", subscriptionID)
		s.cancel(now)
		p.revokeOf(c, func(b *Benefit) bool { return b.SubscriptionID == s.ID })
	})
}

// RestoreSubscription makes a subscription active again, however it ended or is about to, and grants
// the benefits that came with it. It panics if there is no such customer, or no such subscription.
func (p *Polar) RestoreSubscription(idOrExternalID, subscriptionID string) {
	now := p.now()
	p.mustUpdateCustomer("RestoreSubscription", idOrExternalID, func(c *Customer) {
		s := c.subscription("RestoreSubscription", subscriptionID)
		s.Status, s.CancelAtPeriodEnd = active, false
		s.CanceledAt, s.EndsAt, s.EndedAt = time.Time{}, time.Time{}, time.Time{}
		for i := range c.Benefits {
			if b := &c.Benefits[i]; b.SubscriptionID == s.ID && b.Revoked {
				b.Revoked, b.GrantedAt = false, now
				if of := p.benefit(b.BenefitID); of != nil && of.Type == "meter_credit" {
					credit(c, b, of, 1, now)
				}
			}
		}
	})
}

// DebitMeter adds to the units that a customer has consumed, also for the active subscriptions that
// meter the same, and returns the customer's meter, which it makes if there is none. It panics if
// there is no such customer.
func (p *Polar) DebitMeter(idOrExternalID, meterID string, units float64) Meter {
	return p.meter("DebitMeter", idOrExternalID, meterID, units, 0)
}

// CreditMeter adds to the units that a customer may consume. Otherwise it is like DebitMeter.
func (p *Polar) CreditMeter(idOrExternalID, meterID string, units int64) Meter {
	return p.meter("CreditMeter", idOrExternalID, meterID, 0, units)
}

func (p *Polar) meter(method, idOrExternalID, meterID string, consumed float64, credited int64) Meter {
	at := 0
	c := p.mustUpdateCustomer(method, idOrExternalID, func(c *Customer) { at = c.book(meterID, consumed, credited) })
	return c.Meters[at]
}

// is compares identifiers as a test may have written them. An empty one is none.
func is(id, asked string) bool { return asked != "" && strings.EqualFold(id, asked) }

// shown says whether the state of the customer has the subscription.
func (s *Subscription) shown() bool { return s.Status == active || s.Status == trialing }

func (s *Subscription) cancel(now time.Time) {
	s.Status = canceled
	s.CanceledAt, s.EndsAt, s.EndedAt = now, now, now
	s.CancelAtPeriodEnd = false
}

func (c *Customer) subscription(method, id string) *Subscription {
	for i := range c.Subscriptions {
		if s := &c.Subscriptions[i]; is(s.ID, id) || is(s.ProductID, id) {
			return s
		}
	}
	panic(fmt.Sprintf("polartest: %s: the customer has no subscription with the id or product %q", method, id))
}

// findCustomer takes an ID, or an external ID of the organization that this Polar started with, or of
// any other. Deleted customers are found by ID only.
func (p *Polar) findCustomer(idOrExternalID string) *account {
	if a := p.customersByID[strings.ToLower(idOrExternalID)]; a != nil {
		return a
	}
	if a := p.customersByExternalID[customerName{p.config.OrganizationID, idOrExternalID}]; a != nil {
		return a
	}
	for _, a := range p.customers {
		if a.ExternalID == idOrExternalID && idOrExternalID != "" && a.DeletedAt.IsZero() {
			return a
		}
	}
	return nil
}

func (p *Polar) updateCustomer(method, idOrExternalID string, change func(*Customer)) (Customer, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	a := p.findCustomer(idOrExternalID)
	if a == nil {
		return Customer{}, false
	}
	next := a.clone()
	change(&next)
	p.change(method, a, next)
	return a.clone(), true
}

func (p *Polar) mustUpdateCustomer(method, idOrExternalID string, change func(*Customer)) Customer {
	c, ok := p.updateCustomer(method, idOrExternalID, change)
	if !ok {
		panic(fmt.Sprintf("polartest: %s: there is no customer with the id or external id %q", method, idOrExternalID))
	}
	return c
}

// change is the one way in which a customer comes to be another one: it settles what a test wrote,
// keeps the customer findable, carries over to license keys, and tells the webhooks. It runs with the
// mutex held, and panics before anything has changed.
func (p *Polar) change(method string, a *account, next Customer) {
	now := p.now()
	before := a.Customer
	next = next.clone()
	p.settleCustomer(&next, now)
	p.mustBeUnique(method, a, &next)
	if before.ID != "" && !p.quiet {
		next.stamp(&before, now)
	}
	if reflect.DeepEqual(before, next) {
		return
	}
	if _, err := pydantic.Print(p.describeState(&next)); err != nil {
		panic("polartest: " + method + ": the customer has text or a number that JSON cannot say")
	}

	p.index(a, false)
	a.Customer = next
	a.change++
	p.index(a, true)
	p.changeKeys(a, &before, now)

	kinds := []string{stateChanged}
	switch {
	case before.ID == "" && a.DeletedAt.IsZero():
		kinds = []string{"customer.created", stateChanged}
	case before.ID == "": // added as one that was deleted long ago
		kinds = nil
	case before.DeletedAt.IsZero() && !a.DeletedAt.IsZero():
		kinds = []string{"customer.deleted", stateChanged}
	case !reflect.DeepEqual(before.alone(), a.alone()) && a.DeletedAt.IsZero():
		kinds = []string{"customer.updated", stateChanged}
	}
	if before.ID == "" {
		p.show(a, a.change, p.describeState(&a.Customer), now)
	}
	if len(kinds) > 0 {
		p.changeMembers(a, &before, now)
	}
	for _, kind := range kinds {
		if kind == stateChanged {
			p.emitSubscriptions(a, &before, now)
			p.emitGrants(a, &before, now)
		}
		p.emit(kind, a, now)
	}
	p.leaveEnded(a, &before, now)
}

// index makes a customer findable, or not any more.
func (p *Polar) index(a *account, findable bool) {
	if a.ID == "" {
		return // not added yet
	}
	delete(p.customersByID, a.ID)
	if findable {
		p.customersByID[a.ID] = a
	}
	if !a.DeletedAt.IsZero() {
		return
	}
	set := func(names map[customerName]*account, name customerName) {
		delete(names, name)
		if findable && name.text != "" {
			names[name] = a
		}
	}
	set(p.customersByExternalID, a.byExternalID())
	set(p.customersByEmail, a.byEmail())
}

// alone is the customer without what belongs to it.
func (c *Customer) alone() Customer {
	own := *c
	own.Subscriptions, own.Benefits, own.Meters = nil, nil, nil
	return own
}

// changeKeys brings the license keys in line with the customer: whom they tell of, and whether they
// are granted.
func (p *Polar) changeKeys(a *account, before *Customer, now time.Time) {
	for _, k := range p.keys {
		if k.CustomerID == a.ID {
			p.tellBuyer(k)
		}
	}
	for i := range a.Benefits {
		b := &a.Benefits[i]
		k := p.byID[b.LicenseKeyID]
		old := slices.IndexFunc(before.Benefits, func(old Benefit) bool { return old.ID == b.ID })
		if k == nil || p.quiet || b.Revoked == (old >= 0 && before.Benefits[old].Revoked) {
			continue
		}
		switch {
		case b.Revoked && k.Status != revoked:
			k.Status, k.ModifiedAt = revoked, now
		case !b.Revoked && k.Status == revoked:
			k.Status, k.ModifiedAt = granted, now
		}
	}
}

// mustBeUnique panics if another customer has what can be had only once.
func (p *Polar) mustBeUnique(method string, a *account, next *Customer) {
	if other := p.customersByID[next.ID]; other != nil && other != a {
		panic("polartest: " + method + ": another customer has the id " + next.ID)
	}
	if !next.DeletedAt.IsZero() {
		return
	}
	if other := p.customersByExternalID[next.byExternalID()]; other != nil && other != a {
		panic(fmt.Sprintf("polartest: %s: another customer of the organization has the external id %q", method, next.ExternalID))
	}
	if other := p.customersByEmail[next.byEmail()]; other != nil && other != a {
		panic(fmt.Sprintf("polartest: %s: another customer of the organization has the email %q", method, next.Email))
	}
}

// settleCustomer makes a customer that a test wrote by hand one that Polar could have.
func (p *Polar) settleCustomer(c *Customer, now time.Time) {
	fill := func(what string, id *string) {
		if *id == "" {
			*id = newUUID()
		}
		*id = mustUUID4(what, *id)
	}
	seen := map[string]bool{}
	once := func(what, id string) {
		if seen[id] {
			panic(fmt.Sprintf("polartest: a customer has the %s %s twice", what, id))
		}
		seen[id] = true
	}
	fill("Customer.ID", &c.ID)
	c.OrganizationID = mustUUID4("Customer.OrganizationID", cmp.Or(c.OrganizationID, p.config.OrganizationID))
	if c.Type = cmp.Or(c.Type, "individual"); c.Type != "individual" && c.Type != "team" {
		panic(fmt.Sprintf("polartest: the type %q of a customer is neither individual nor team", c.Type))
	}
	if c.Email == "" && c.Type == "individual" {
		c.Email = "customer-" + c.ID[:8] + "@example.com"
	}
	for what, text := range map[string]string{"ExternalID": c.ExternalID, "Email": c.Email, "Name": c.Name} {
		if !utf8.ValidString(text) || strings.ContainsRune(text, 0) {
			panic(fmt.Sprintf("polartest: Customer.%s %q is not text that a database takes", what, text))
		}
	}
	c.Metadata = settled(c.Metadata)
	settleTimes(now, &c.CreatedAt)
	settleTimes(time.Time{}, &c.ModifiedAt, &c.DeletedAt)

	for i := range c.Subscriptions {
		s := &c.Subscriptions[i]
		fill("Subscription.ID", &s.ID)
		once("subscription", s.ID)
		fill("Subscription.ProductID", &s.ProductID)
		fill("Subscription.PriceID", &s.PriceID)
		if s.DiscountID != "" {
			fill("Subscription.DiscountID", &s.DiscountID)
		}
		s.Status = cmp.Or(s.Status, active)
		if !slices.Contains(subscriptionStatuses, s.Status) {
			panic(fmt.Sprintf("polartest: status %q of a subscription is not one of %s", s.Status, strings.Join(subscriptionStatuses, ", ")))
		}
		s.Currency = cmp.Or(s.Currency, "usd")
		s.RecurringInterval = cmp.Or(s.RecurringInterval, "month")
		settleTimes(now, &s.CreatedAt, &s.CurrentPeriodStart)
		settleTimes(s.CurrentPeriodStart.AddDate(0, 1, 0), &s.CurrentPeriodEnd)
		settleTimes(s.CurrentPeriodStart, &s.StartedAt)
		if s.Status == trialing {
			settleTimes(s.CurrentPeriodStart, &s.TrialStart)
			settleTimes(s.CurrentPeriodEnd, &s.TrialEnd)
		}
		settleTimes(time.Time{}, &s.TrialStart, &s.TrialEnd, &s.CanceledAt, &s.EndsAt, &s.ModifiedAt,
			&s.PastDueAt, &s.PausedAt, &s.ResumesAt, &s.EndedAt)
		s.Metadata = settled(s.Metadata)
		s.CustomFieldData = settledTree("CustomFieldData", s.CustomFieldData)
		for i := range s.Meters {
			m := &s.Meters[i]
			fill("SubscriptionMeter.ID", &m.ID)
			once("meter of a subscription", m.ID)
			fill("SubscriptionMeter.MeterID", &m.MeterID)
			settleTimes(now, &m.CreatedAt)
			settleTimes(time.Time{}, &m.ModifiedAt)
		}
	}
	for i := range c.Benefits {
		b := &c.Benefits[i]
		if b.LicenseKeyID != "" {
			fill("Benefit.LicenseKeyID", &b.LicenseKeyID)
			k := p.byID[b.LicenseKeyID]
			if k == nil {
				panic("polartest: there is no license key with the id " + b.LicenseKeyID + " to grant: AddKey comes first")
			}
			b.BenefitID = cmp.Or(b.BenefitID, k.BenefitID)
			b.Type = cmp.Or(b.Type, "license_keys")
		}
		fill("Benefit.ID", &b.ID)
		once("grant", b.ID)
		fill("Benefit.BenefitID", &b.BenefitID)
		if b.SubscriptionID != "" {
			fill("Benefit.SubscriptionID", &b.SubscriptionID)
		}
		if b.OrderID != "" {
			fill("Benefit.OrderID", &b.OrderID)
		}
		if b.MemberID != "" {
			fill("Benefit.MemberID", &b.MemberID)
		}
		if of := p.benefit(b.BenefitID); of != nil {
			b.Type = cmp.Or(b.Type, of.Type)
			if b.Metadata == nil {
				b.Metadata = of.Metadata
			}
		}
		b.Type = cmp.Or(b.Type, "custom")
		b.Metadata = settled(b.Metadata)
		b.Properties = settledTree("Properties", b.Properties)
		if b.PreviousProperties != nil {
			b.PreviousProperties = settledTree("PreviousProperties", b.PreviousProperties)
		}
		if b.Revoked {
			settleTimes(now, &b.RevokedAt)
		} else {
			b.RevokedAt = time.Time{}
		}
		settleTimes(now, &b.GrantedAt, &b.CreatedAt)
		settleTimes(time.Time{}, &b.ModifiedAt)
	}
	for i := range c.Meters {
		m := &c.Meters[i]
		fill("Meter.ID", &m.ID)
		once("meter", m.ID)
		fill("Meter.MeterID", &m.MeterID)
		settleTimes(now, &m.CreatedAt)
		settleTimes(time.Time{}, &m.ModifiedAt)
	}
}

// settleTimes brings times down to what the database keeps, in UTC. A zero one becomes fallback.
func settleTimes(fallback time.Time, times ...*time.Time) {
	for _, t := range times {
		if t.IsZero() {
			*t = fallback
		}
		*t = t.Round(0).UTC().Truncate(time.Microsecond)
	}
}

// settledTree is settled for maps that may hold anything that JSON can say.
func settledTree(name string, m map[string]any) map[string]any {
	out := make(map[string]any, len(m))
	for entry, value := range m {
		out[entry] = settledValue(name+"."+entry, value)
	}
	return out
}

func settledValue(name string, value any) any {
	v := reflect.ValueOf(value)
	switch {
	case !v.IsValid():
		return nil
	case v.Kind() == reflect.Slice || v.Kind() == reflect.Array:
		list := make([]any, 0, v.Len())
		for i := range v.Len() {
			list = append(list, settledValue(fmt.Sprintf("%s[%d]", name, i), v.Index(i).Interface()))
		}
		return list
	case v.Kind() == reflect.Map && v.Type().Key().Kind() == reflect.String:
		out := make(map[string]any, v.Len())
		for _, key := range v.MapKeys() {
			out[key.String()] = settledValue(name+"."+key.String(), v.MapIndex(key).Interface())
		}
		return out
	}
	scalar, ok := settledScalar(name, value)
	if !ok {
		panic(fmt.Sprintf("polartest: %q is a %T, which JSON cannot say", name, value))
	}
	return scalar
}

// stamp sets the time of modification of what is not as it was, unless the test has set it itself.
// What belongs to something has a time of its own.
func (c *Customer) stamp(before *Customer, now time.Time) {
	own, old := c.alone(), before.alone()
	stamp(&c.ModifiedAt, old.ModifiedAt, reflect.DeepEqual(own, old), now)
	for i := range c.Subscriptions {
		s := &c.Subscriptions[i]
		for _, old := range before.Subscriptions {
			if old.ID != s.ID {
				continue
			}
			own := *s
			own.Meters = old.Meters
			stamp(&s.ModifiedAt, old.ModifiedAt, reflect.DeepEqual(own, old), now)
			for i := range s.Meters {
				for _, old := range old.Meters {
					if m := &s.Meters[i]; m.ID == old.ID {
						stamp(&m.ModifiedAt, old.ModifiedAt, *m == old, now)
					}
				}
			}
		}
	}
	for i := range c.Benefits {
		for _, old := range before.Benefits {
			if b := &c.Benefits[i]; b.ID == old.ID {
				stamp(&b.ModifiedAt, old.ModifiedAt, reflect.DeepEqual(*b, old), now)
			}
		}
	}
	for i := range c.Meters {
		for _, old := range before.Meters {
			if m := &c.Meters[i]; m.ID == old.ID {
				stamp(&m.ModifiedAt, old.ModifiedAt, *m == old, now)
			}
		}
	}
}

func stamp(modified *time.Time, old time.Time, same bool, now time.Time) {
	if !same && modified.Equal(old) {
		*modified = now
	}
}

func (c *Customer) clone() Customer {
	d := *c
	d.Metadata = cloneTree(c.Metadata)
	d.Subscriptions = slices.Clone(c.Subscriptions)
	for i := range d.Subscriptions {
		s := &d.Subscriptions[i]
		s.Metadata, s.CustomFieldData = cloneTree(s.Metadata), cloneTree(s.CustomFieldData)
		s.Meters = slices.Clone(s.Meters)
		if s.Seats != nil {
			s.Seats = new(*s.Seats)
		}
	}
	d.Benefits = slices.Clone(c.Benefits)
	for i := range d.Benefits {
		b := &d.Benefits[i]
		b.Metadata, b.Properties, b.PreviousProperties = cloneTree(b.Metadata), cloneTree(b.Properties), cloneTree(b.PreviousProperties)
	}
	d.Meters = slices.Clone(c.Meters)
	return d
}

// cloneTree copies a map and all maps and lists in it, as far as they have been settled.
func cloneTree(m map[string]any) map[string]any {
	if m == nil {
		return nil
	}
	out := make(map[string]any, len(m))
	for name, value := range m {
		out[name] = cloneValue(value)
	}
	return out
}

func cloneValue(value any) any {
	switch v := value.(type) {
	case map[string]any:
		return cloneTree(v)
	case []any:
		list := slices.Clone(v)
		for i := range list {
			list[i] = cloneValue(list[i])
		}
		return list
	}
	return value
}
