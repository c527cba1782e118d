package polartest

import (
	"cmp"
	"net/http"
	"reflect"
	"slices"
	"time"

	"github.com/polargate/polargate/polartest/internal/pydantic"
)

// The endpoints of subscriptions, and what comes with a subscription.

// subscription finds a subscription and the customer whose it is.
func (p *Polar) subscription(id string) (*account, *Subscription) {
	for _, a := range p.customers {
		for i := range a.Subscriptions {
			if a.Subscriptions[i].ID == id {
				return a, &a.Subscriptions[i]
			}
		}
	}
	return nil, nil
}

// complete fills in the fields of a subscription that its product decides.
func (d *Product) complete(s *Subscription) {
	price := d.priceOf(s)
	s.PriceID = cmp.Or(s.PriceID, price.ID)
	s.Currency = cmp.Or(s.Currency, price.Currency)
	s.RecurringInterval = cmp.Or(s.RecurringInterval, d.RecurringInterval)
	if d.seatBased() && s.Seats == nil {
		s.Seats = new(int64(1))
	}
	s.Amount = cmp.Or(s.Amount, price.Amount*max(limitOf(s.Seats), 1))
}

// fulfil grants a buyer what the product of a subscription brings. Of one that is sold by seats that is
// nothing: its benefits go to those who claim a seat.
func (p *Polar) fulfil(c *Customer, s *Subscription, memberID string) {
	d := p.product(s.ProductID)
	if d == nil || d.seatBased() {
		return
	}
	if m := p.ownerOf(c.ID); m != nil && memberID == "" && p.organization(c.OrganizationID).MemberModel {
		memberID = m.ID
	}
	p.grantProduct(c, s, d, memberID)
}

// grantProduct grants the benefits of a product for a subscription: those that the same person had of
// it before come back as they were, license key and all.
func (p *Polar) grantProduct(c *Customer, s *Subscription, d *Product, memberID string) {
	now := p.now()
	for _, id := range d.Benefits {
		at := slices.IndexFunc(c.Benefits, func(b Benefit) bool {
			return b.BenefitID == id && b.SubscriptionID == s.ID && b.MemberID == memberID
		})
		if at < 0 {
			at = len(c.Benefits)
			c.Benefits = append(c.Benefits, Benefit{BenefitID: id, SubscriptionID: s.ID, MemberID: memberID, Revoked: true})
		}
		g := &c.Benefits[at]
		if !g.Revoked {
			continue
		}
		g.Revoked, g.RevokedAt, g.GrantedAt = false, time.Time{}, now
		of := p.benefit(id)
		switch {
		case of == nil:
		case of.Type == "license_keys" && g.LicenseKeyID == "":
			prefix, _ := of.Properties["prefix"].(string)
			k := LicenseKey{OrganizationID: c.OrganizationID, CustomerID: c.ID, BenefitID: id, Prefix: prefix}
			k.LimitActivations, k.LimitUsage = of.keyLimits()
			g.LicenseKeyID = p.addKey(k).ID
		case of.Type == "meter_credit":
			credit(c, g, of, 1, now)
		}
	}
}

// credit books what a grant of units brings to a meter, or with -1 takes it back.
func credit(c *Customer, g *Benefit, of *CatalogBenefit, sign int64, now time.Time) {
	meterID, _ := of.Properties["meter_id"].(string)
	units, _ := of.Properties["units"].(int64)
	if meterID == "" {
		return
	}
	at := slices.IndexFunc(c.Meters, func(m Meter) bool { return m.MeterID == meterID })
	if at < 0 {
		at = len(c.Meters)
		c.Meters = append(c.Meters, Meter{MeterID: meterID})
	}
	c.Meters[at].CreditedUnits += sign * units
	g.Properties = map[string]any{
		"last_credited_meter_id": meterID,
		"last_credited_units":    sign * units,
		"last_credited_at":       now.Format("2006-01-02T15:04:05.000000+00:00"),
	}
}

// revokeOf revokes the grants that fit, and takes back what they credited.
func (p *Polar) revokeOf(c *Customer, fits func(*Benefit) bool) {
	now := p.now()
	for i := range c.Benefits {
		g := &c.Benefits[i]
		if g.Revoked || !fits(g) {
			continue
		}
		g.Revoked = true
		if of := p.benefit(g.BenefitID); of != nil && of.Type == "meter_credit" && g.Properties["last_credited_units"] != nil {
			credit(c, g, of, -1, now)
		}
	}
}

// describeSubscription is a subscription as its own endpoints and webhooks tell it.
func (p *Polar) describeSubscription(a *account, s *Subscription) *object {
	d := p.productOf(a, s)
	return s.head(a).
		Set("metadata", s.Metadata).
		Set("custom_field_data", s.CustomFieldData).
		Set("customer", a.describe()).
		Set("user_id", a.ID).
		Set("user", newObject(
			"id", a.ID,
			"email", textOrNull(a.Email),
			"public_name", a.initial(),
			"avatar_url", a.avatar(),
			"github_username", nil)).
		Set("product", p.describeProduct(d)).
		Set("discount", nil).
		Set("price", d.describePrice(d.priceOf(s))).
		Set("prices", []any{d.describePrice(d.priceOf(s))}).
		Set("meters", s.describeMeters()).
		Set("pending_update", nil)
}

// describeSubscriptionForPortal is a subscription as the portal shows it.
func (p *Polar) describeSubscriptionForPortal(a *account, s *Subscription) *object {
	d := p.productOf(a, s)
	return s.head(a).
		Set("user_id", a.ID).
		Set("product", p.describeProductForPortal(d)).
		Set("price", d.describePrice(d.priceOf(s))).
		Set("prices", []any{d.describePrice(d.priceOf(s))}).
		Set("meters", s.describeMeters()).
		Set("pending_update", nil)
}

func (s *Subscription) head(a *account) *object {
	return newObject(
		"created_at", pydantic.PrintTimeOrNull(s.CreatedAt),
		"modified_at", pydantic.PrintTimeOrNull(s.ModifiedAt),
		"id", s.ID,
		"amount", s.Amount,
		"currency", s.Currency,
		"recurring_interval", s.RecurringInterval,
		"recurring_interval_count", 1,
		"status", s.Status,
		"current_period_start", pydantic.PrintTimeOrNull(s.CurrentPeriodStart),
		"current_period_end", pydantic.PrintTimeOrNull(s.CurrentPeriodEnd),
		"current_meter_period_start", nil,
		"current_meter_period_end", nil,
		"trial_start", pydantic.PrintTimeOrNull(s.TrialStart),
		"trial_end", pydantic.PrintTimeOrNull(s.TrialEnd),
		"cancel_at_period_end", s.CancelAtPeriodEnd,
		"canceled_at", pydantic.PrintTimeOrNull(s.CanceledAt),
		"started_at", pydantic.PrintTimeOrNull(s.StartedAt),
		"ends_at", pydantic.PrintTimeOrNull(s.EndsAt),
		"ended_at", pydantic.PrintTimeOrNull(s.EndedAt),
		"past_due_at", pydantic.PrintTimeOrNull(s.PastDueAt),
		"pause_at_period_end", s.PauseAtPeriodEnd,
		"paused_at", pydantic.PrintTimeOrNull(s.PausedAt),
		"resumes_at", pydantic.PrintTimeOrNull(s.ResumesAt),
		"customer_id", a.ID,
		"product_id", s.ProductID,
		"discount_id", textOrNull(s.DiscountID),
		"checkout_id", nil,
		"seats", limitOrNull(s.Seats),
		"units", nil,
		"customer_cancellation_reason", textOrNull(s.CancellationReason),
		"customer_cancellation_comment", textOrNull(s.CancellationComment),
		"price_id", s.PriceID)
}

// subscribed is a subscription with the customer whose it is.
type subscribed struct {
	*account
	*Subscription
}

func (p *Polar) describeSubscribed(s subscribed) *object {
	return p.describeSubscription(s.account, s.Subscription)
}

func (p *Polar) listSubscriptions(c *call) *answer {
	f := c.queryForm()
	organizations := f.uuids(c, "organization_id")
	products := f.uuids(c, "product_id")
	customers := f.uuids(c, "customer_id")
	externals := f.texts(c, "external_customer_id")
	wanted := f.texts(c, "status")
	isActive, ending := f.flag("active"), f.flag("cancel_at_period_end")
	sorted := sorting(f, c, orders[subscribed]{
		"started_at": func(a, b subscribed) int { return a.StartedAt.Compare(b.StartedAt) },
		"customer":   func(a, b subscribed) int { return cmp.Compare(a.Email, b.Email) },
		"product":    func(a, b subscribed) int { return cmp.Compare(a.ProductID, b.ProductID) },
	})
	return answerPage(f, func() []subscribed {
		var found []subscribed
		for _, a := range p.customers {
			if a.OrganizationID != c.token.OrganizationID || !organizations.passes(a.OrganizationID) ||
				!customers.passes(a.ID) || !externals.passes(a.ExternalID) {
				continue
			}
			for i := range a.Subscriptions {
				s := &a.Subscriptions[i]
				if products.passes(s.ProductID) && wanted.passes(s.Status) && (isActive == nil || *isActive == s.shown()) &&
					(ending == nil || *ending == s.CancelAtPeriodEnd) {
					found = append(found, subscribed{a, s})
				}
			}
		}
		slices.SortStableFunc(found, func(a, b subscribed) int { return b.StartedAt.Compare(a.StartedAt) })
		return sorted(found)
	}, p.describeSubscribed)
}

// addressedSubscription is the subscription of the path.
func (p *Polar) addressedSubscription(c *call) (*account, *Subscription, *answer) {
	f := c.pathForm("id")
	id := f.uuid("id")
	if len(f.problems) > 0 {
		return nil, nil, unprocessable(f.problems)
	}
	a, s := p.subscription(id)
	if a == nil || a.OrganizationID != c.token.OrganizationID {
		return nil, nil, notFound("Not found")
	}
	return a, s, nil
}

func (p *Polar) getSubscription(c *call) *answer {
	a, s, refusal := p.addressedSubscription(c)
	if refusal != nil {
		return refusal
	}
	return ok(p.describeSubscription(a, s))
}

// createSubscription is for products that cost nothing; Polar takes no money this way.
func (p *Polar) createSubscription(c *call) *answer {
	f, refusal := c.form()
	if refusal != nil {
		return refusal
	}
	productID := f.uuid("product_id")
	external, customerID := f.textOrNull("external_customer_id"), f.uuidOrNull("customer_id")
	metadata := newObject()
	if v, sent := f.fields.Get("metadata"); sent && v != nil {
		metadata = f.entries("metadata")
	}
	if len(f.problems) > 0 {
		return unprocessable(f.problems)
	}
	d := p.product(productID)
	if d == nil || d.OrganizationID != c.token.OrganizationID {
		return polarInvalid([]any{"body", "product_id"}, "Product does not exist.", productID)
	}
	if d.priceOf(&Subscription{}).Amount != 0 {
		return polarInvalid([]any{"body", "product_id"}, "Product is not free. The customer should go through a checkout to create a paid subscription.", productID)
	}
	a := p.ofToken(c, customerID)
	field, asked := "customer_id", customerID
	if external != "" {
		a = p.customersByExternalID[customerName{c.token.OrganizationID, external}]
		field, asked = "external_customer_id", external
	}
	if a == nil {
		return polarInvalid([]any{"body", field}, "Customer does not exist.", asked)
	}
	next := a.clone()
	s := Subscription{ID: newUUID(), ProductID: d.ID, Metadata: metadata.Plain()}
	d.complete(&s)
	next.Subscriptions = append(next.Subscriptions, s)
	p.fulfil(&next, &next.Subscriptions[len(next.Subscriptions)-1], "")
	p.change("createSubscription", a, next)
	return jsonAnswer(http.StatusCreated, p.describeSubscription(a, &a.Subscriptions[len(a.Subscriptions)-1]))
}

// patchSubscription moves a subscription to another product, or lets it end with its period, or not, or
// ends it now, or changes how many seats it has. Benefits that are not of the new product are revoked
// before those of it are granted, in one step here.
func (p *Polar) patchSubscription(c *call) *answer {
	a, s, refusal := p.addressedSubscription(c)
	if refusal != nil {
		return refusal
	}
	f, refusal := c.form()
	if refusal != nil {
		return refusal
	}
	productID := f.uuidOrNull("product_id")
	atEnd, ending := f.fields.Get("cancel_at_period_end")
	now, revoking := f.fields.Get("revoke")
	seats, seating := f.fields.Get("seats")
	d := p.product(productID)
	switch {
	case len(f.problems) > 0:
		return unprocessable(f.problems)
	case productID != "" && (d == nil || d.OrganizationID != a.OrganizationID):
		return polarInvalid([]any{"body", "product_id"}, "Product does not exist.", productID)
	case s.Status == canceled:
		return refuse(http.StatusForbidden, "AlreadyCanceledSubscription", "This subscription is already canceled or will be at the end of the period.")
	}
	next := a.clone()
	i := slices.IndexFunc(next.Subscriptions, func(one Subscription) bool { return one.ID == s.ID })
	n := &next.Subscriptions[i]
	switch {
	case d != nil:
		n.ProductID, n.PriceID, n.Amount = d.ID, "", 0
		d.complete(n)
		p.revokeOf(&next, func(b *Benefit) bool {
			return b.SubscriptionID == n.ID && !slices.Contains(d.Benefits, b.BenefitID)
		})
		p.fulfil(&next, n, "")
	case revoking && now == true:
		p.endSubscription(&next, n)
	case ending && atEnd == true:
		n.CancelAtPeriodEnd, n.CanceledAt, n.EndsAt = true, c.at, n.CurrentPeriodEnd
		n.CancellationReason = f.textOrNull("customer_cancellation_reason")
		n.CancellationComment = f.textOrNull("customer_cancellation_comment")
	case ending && atEnd == false:
		n.CancelAtPeriodEnd, n.CanceledAt, n.EndsAt = false, time.Time{}, time.Time{}
		n.CancellationReason, n.CancellationComment = "", ""
	case seating:
		v := f.integer("seats", seats, bound{"ge", 1})
		if v == nil {
			return unprocessable(f.problems)
		}
		n.Amount = n.Amount / max(limitOf(n.Seats), 1) * v.Int64()
		n.Seats = new(v.Int64())
	}
	p.change("patchSubscription", a, next)
	return ok(p.describeSubscription(p.subscription(s.ID)))
}

func (p *Polar) endSubscription(c *Customer, s *Subscription) {
	s.cancel(p.now())
	p.revokeOf(c, func(b *Benefit) bool { return b.SubscriptionID == s.ID })
}

// revokeSubscription ends a subscription now.
func (p *Polar) revokeSubscription(c *call) *answer {
	a, s, refusal := p.addressedSubscription(c)
	if refusal != nil {
		return refusal
	}
	if s.Status == canceled {
		return refuse(http.StatusForbidden, "AlreadyCanceledSubscription", "This subscription is already canceled or will be at the end of the period.")
	}
	next := a.clone()
	i := slices.IndexFunc(next.Subscriptions, func(one Subscription) bool { return one.ID == s.ID })
	p.endSubscription(&next, &next.Subscriptions[i])
	p.change("revokeSubscription", a, next)
	return ok(p.describeSubscription(p.subscription(s.ID)))
}

// emitSubscriptions makes the events of each subscription of a customer that came or changed, for each
// endpoint that names that type: first what happened, and then that something did.
func (p *Polar) emitSubscriptions(a *account, before *Customer, now time.Time) {
	for i := range a.Subscriptions {
		s := &a.Subscriptions[i]
		var old *Subscription
		if at := slices.IndexFunc(before.Subscriptions, func(one Subscription) bool { return one.ID == s.ID }); at >= 0 {
			old = &before.Subscriptions[at]
		}
		if old != nil && reflect.DeepEqual(*old, *s) {
			continue
		}
		for _, kind := range happened(old, s) {
			p.emitTo(kind, a.OrganizationID, a, func() *object { return p.describeSubscription(a, s) }, Event{At: now})
		}
	}
}

// happened are the types of the events of a subscription that changed.
func happened(old, s *Subscription) []string {
	var kinds []string
	add := func(names ...string) {
		for _, name := range names {
			kinds = append(kinds, "subscription."+name)
		}
	}
	was := Subscription{}
	if old != nil {
		was = *old
	} else {
		add("created")
	}
	switch {
	case s.Status == was.Status:
	case s.shown() && was.Status == "paused":
		add("resumed")
	case s.shown() && (old == nil || !was.shown()):
		add("active")
	case s.Status == "paused", s.Status == "past_due":
		add(s.Status)
	case s.Status == canceled && was.CancelAtPeriodEnd:
		add("revoked")
	case s.Status == canceled:
		add("canceled", "revoked")
	}
	switch {
	case s.Status == canceled:
	case s.CancelAtPeriodEnd && !was.CancelAtPeriodEnd:
		add("canceled")
	case !s.CancelAtPeriodEnd && was.CancelAtPeriodEnd:
		add("uncanceled")
	}
	if old != nil && old.CurrentPeriodStart.Before(s.CurrentPeriodStart) {
		add("cycled")
	}
	add("updated")
	return kinds
}
