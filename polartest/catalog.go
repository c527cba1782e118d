package polartest

import (
	"cmp"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/polargate/polargate/polartest/internal/pydantic"
)

// The catalog of an organization: what it sells, and what comes with that. A Polar answers without
// one, too, with examples in place of what was not added.

// Organization is an organization as its customers meet it.
type Organization struct {
	// ID is a UUID of version 4. Empty: see [Config].
	ID string
	// Name and Slug appear in the portal. Empty: "Example" and "example".
	Name, Slug string
	// MemberModel is Polar's member_model_enabled, which every organization made today has. With it,
	// grants belong to members of a customer: the state of a buyer of seats holds one grant for each
	// claimed seat, sessions are of members, and the holder of a seat is no customer. Without it, the
	// holder of a seat is a customer with grants of their own.
	MemberModel bool
	CreatedAt   time.Time // 2025-07-01, if zero
}

// CatalogBenefit is a benefit as an organization defines it; [Benefit] is one that a customer has.
type CatalogBenefit struct {
	// ID is a UUID of version 4; empty: a random one. OrganizationID: see [Config].
	ID, OrganizationID string
	// Type is as in [Benefit]. Empty: "custom".
	Type string
	// Description is what customers read. Empty: "Example benefit".
	Description string
	Metadata    map[string]any // strings, numbers and booleans
	// Properties are the settings, by type: prefix, expires, activations and limit_usage of
	// license_keys; meter_id, units and rollover of meter_credit; note of custom.
	Properties map[string]any
	// Private benefits do not appear in the portal. At Polar, feature flags are private by
	// default; here, only this field decides.
	Private               bool
	CreatedAt, ModifiedAt time.Time // CreatedAt is now, if zero
}

// Product is something that an organization sells by subscription, and the benefits that come with it.
type Product struct {
	// ID is a UUID of version 4; empty: a random one. OrganizationID: see [Config].
	ID, OrganizationID string
	Name               string // empty: "Example"
	Description        string // empty: null
	// RecurringInterval is "day", "week", "month" or "year". Empty: "month".
	RecurringInterval string
	Metadata          map[string]any // strings, numbers and booleans
	// Prices. None: one that costs nothing.
	Prices []Price
	// Benefits are IDs, in the order in which they are granted.
	Benefits              []string
	CreatedAt, ModifiedAt time.Time // CreatedAt is now, if zero
}

// Price is a price of a product.
type Price struct {
	ID string // a UUID of version 4; empty: a random one
	// AmountType is "fixed", which is also what empty means, or "seat_based": then a subscription has
	// seats, and its benefits go to those who claim one.
	AmountType string
	// Amount is in cents; with seats, for each of them.
	Amount                int64
	Currency              string    // empty: "usd"
	CreatedAt, ModifiedAt time.Time // CreatedAt is now, if zero
}

const seatBased = "seat_based"

// CatalogMeter is a meter as an organization has defined it; [Meter] is what a customer has of it.
// Events that fit its filter are counted by [Polar.Advance] or as time goes by.
type CatalogMeter struct {
	// ID is a UUID of version 4; empty: a random one. OrganizationID: see [Config].
	ID, OrganizationID string
	Name               string // empty: "Example"
	// EventName is the name of the events that count. Empty: see Filter.
	EventName string
	// Filter is Polar's filter of events, instead of EventName: conjunction and clauses.
	Filter map[string]any
	// Aggregation is what is counted: {"func": "count"}, which is also what nil means, or "sum", "max",
	// "min", "avg" and "unique" with the "property" of the metadata.
	Aggregation           map[string]any
	CreatedAt, ModifiedAt time.Time // CreatedAt is now, if zero
}

// catalog is guarded by the mutex of its Polar.
type catalog struct {
	organizations map[string]*Organization
	benefits      []*CatalogBenefit
	products      []*Product
	meters        []*CatalogMeter
}

// AddOrganization adds an organization, or describes the one that this Polar started with, and
// returns it with its empty fields filled in.
func (p *Polar) AddOrganization(o Organization) Organization {
	p.mu.Lock()
	defer p.mu.Unlock()
	return *p.addOrganization(o)
}

func (p *Polar) addOrganization(o Organization) *Organization {
	o.ID = mustUUID4("Organization.ID", cmp.Or(o.ID, p.config.OrganizationID))
	o.Name, o.Slug = cmp.Or(o.Name, "Example"), cmp.Or(o.Slug, "example")
	settleTimes(time.Date(2025, 7, 1, 0, 0, 0, 0, time.UTC), &o.CreatedAt)
	p.catalog.organizations[o.ID] = &o
	return &o
}

func (p *Polar) organization(id string) *Organization {
	if o := p.catalog.organizations[id]; o != nil {
		return o
	}
	return p.addOrganization(Organization{ID: id})
}

// AddBenefit adds a benefit to the catalog, or replaces the one of that ID, and returns it with
// everything filled in that was empty. It changes no grant.
func (p *Polar) AddBenefit(b CatalogBenefit) CatalogBenefit {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.addBenefit(b).clone()
}

func (p *Polar) addBenefit(b CatalogBenefit) *CatalogBenefit {
	b = b.clone()
	b.ID = mustUUID4("CatalogBenefit.ID", cmp.Or(b.ID, newUUID()))
	b.OrganizationID = mustUUID4("CatalogBenefit.OrganizationID", cmp.Or(b.OrganizationID, p.config.OrganizationID))
	b.Type, b.Description = cmp.Or(b.Type, "custom"), cmp.Or(b.Description, "Example benefit")
	b.Metadata = settled(b.Metadata)
	b.Properties = settledTree("Properties", b.Properties)
	for _, name := range map[string][]string{
		"license_keys": {"prefix", "expires", "activations", "limit_usage"},
		"custom":       {"note"},
	}[b.Type] {
		if _, ok := b.Properties[name]; !ok {
			b.Properties[name] = nil
		}
	}
	settleTimes(p.now(), &b.CreatedAt)
	settleTimes(time.Time{}, &b.ModifiedAt)
	put(&p.catalog.benefits, &b, func(old *CatalogBenefit) bool { return old.ID == b.ID })
	return &b
}

// put appends, or replaces what is the same.
func put[T any](list *[]T, one T, same func(T) bool) {
	if i := slices.IndexFunc(*list, same); i >= 0 {
		(*list)[i] = one
		return
	}
	*list = append(*list, one)
}

func (b *CatalogBenefit) clone() CatalogBenefit {
	c := *b
	c.Metadata, c.Properties = cloneTree(b.Metadata), cloneTree(b.Properties)
	return c
}

func (p *Polar) benefit(id string) *CatalogBenefit {
	for _, b := range p.catalog.benefits {
		if b.ID == id {
			return b
		}
	}
	return nil
}

// benefitOf is the benefit of a grant, or an example if it was not added.
func (p *Polar) benefitOf(organizationID string, g *Benefit) *CatalogBenefit {
	if b := p.benefit(g.BenefitID); b != nil {
		return b
	}
	return &CatalogBenefit{ID: g.BenefitID, OrganizationID: organizationID, Type: g.Type, Description: "Example benefit",
		Metadata: g.Metadata, CreatedAt: g.CreatedAt}
}

// AddProduct adds a product to the catalog, or replaces the one of that ID, and returns it with
// everything filled in that was empty. [Polar.Subscribe] to it grants its benefits.
func (p *Polar) AddProduct(product Product) Product {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.addProduct(product).clone()
}

func (p *Polar) addProduct(product Product) *Product {
	now := p.now()
	d := product.clone()
	d.ID = mustUUID4("Product.ID", cmp.Or(d.ID, newUUID()))
	d.OrganizationID = mustUUID4("Product.OrganizationID", cmp.Or(d.OrganizationID, p.config.OrganizationID))
	d.Name, d.RecurringInterval = cmp.Or(d.Name, "Example"), cmp.Or(d.RecurringInterval, "month")
	d.Metadata = settled(d.Metadata)
	settleTimes(now, &d.CreatedAt)
	settleTimes(time.Time{}, &d.ModifiedAt)
	if len(d.Prices) == 0 {
		d.Prices = []Price{{}}
	}
	for i := range d.Prices {
		price := &d.Prices[i]
		price.ID = mustUUID4("Price.ID", cmp.Or(price.ID, newUUID()))
		price.AmountType, price.Currency = cmp.Or(price.AmountType, "fixed"), cmp.Or(price.Currency, "usd")
		settleTimes(now, &price.CreatedAt)
		settleTimes(time.Time{}, &price.ModifiedAt)
	}
	for i, id := range d.Benefits {
		d.Benefits[i] = mustUUID4("Product.Benefits", id)
	}
	put(&p.catalog.products, &d, func(old *Product) bool { return old.ID == d.ID })
	return &d
}

func (d *Product) clone() Product {
	c := *d
	c.Metadata = cloneTree(d.Metadata)
	c.Prices, c.Benefits = slices.Clone(d.Prices), slices.Clone(d.Benefits)
	return c
}

func (d *Product) seatBased() bool {
	return slices.ContainsFunc(d.Prices, func(p Price) bool { return p.AmountType == seatBased })
}

func (p *Polar) product(id string) *Product {
	for _, d := range p.catalog.products {
		if d.ID == id {
			return d
		}
	}
	return nil
}

// productOf is the product of a subscription, or an example if it was not added.
func (p *Polar) productOf(a *account, s *Subscription) *Product {
	d := p.product(s.ProductID)
	if d == nil {
		price := Price{ID: s.PriceID, AmountType: "fixed", Currency: s.Currency, Amount: s.Amount, CreatedAt: s.CreatedAt}
		if s.Seats != nil {
			price.AmountType, price.Amount = seatBased, s.Amount/max(*s.Seats, 1)
		}
		d = &Product{ID: s.ProductID, OrganizationID: a.OrganizationID, Name: "Example",
			RecurringInterval: s.RecurringInterval, CreatedAt: s.CreatedAt, Prices: []Price{price}}
		for i := range a.Benefits {
			if b := &a.Benefits[i]; b.SubscriptionID == s.ID && !slices.Contains(d.Benefits, b.BenefitID) {
				d.Benefits = append(d.Benefits, b.BenefitID)
			}
		}
	}
	return d
}

// AddMeter adds a meter to the catalog, or replaces the one of that ID, and returns it with everything
// filled in that was empty.
func (p *Polar) AddMeter(m CatalogMeter) CatalogMeter {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.addMeter(m).clone()
}

func (p *Polar) addMeter(m CatalogMeter) *CatalogMeter {
	m = m.clone()
	m.ID = mustUUID4("CatalogMeter.ID", cmp.Or(m.ID, newUUID()))
	m.OrganizationID = mustUUID4("CatalogMeter.OrganizationID", cmp.Or(m.OrganizationID, p.config.OrganizationID))
	m.Name = cmp.Or(m.Name, "Example")
	if m.Filter == nil {
		m.Filter = map[string]any{"conjunction": "and", "clauses": []any{}}
		if m.EventName != "" {
			m.Filter["clauses"] = []any{map[string]any{"property": "name", "operator": "eq", "value": m.EventName}}
		}
	}
	if m.Aggregation == nil {
		m.Aggregation = map[string]any{"func": "count"}
	}
	m.Filter = settledTree("Filter", m.Filter)
	m.Aggregation = settledTree("Aggregation", m.Aggregation)
	if name, ok := m.Aggregation["func"].(string); !ok || !slices.Contains(aggregations, name) {
		panic(fmt.Sprintf("polartest: CatalogMeter.Aggregation has no func, or one that Polar does not have: %v", m.Aggregation["func"]))
	}
	settleTimes(p.now(), &m.CreatedAt)
	settleTimes(time.Time{}, &m.ModifiedAt)
	put(&p.catalog.meters, &m, func(old *CatalogMeter) bool { return old.ID == m.ID })
	return &m
}

func (m *CatalogMeter) clone() CatalogMeter {
	c := *m
	c.Filter, c.Aggregation = cloneTree(m.Filter), cloneTree(m.Aggregation)
	return c
}

// meterOf is a meter of the catalog, or an example if it was not added.
func (p *Polar) meterOf(organizationID string, m Meter) *CatalogMeter {
	for _, c := range p.catalog.meters {
		if c.ID == m.MeterID {
			return c
		}
	}
	return &CatalogMeter{ID: m.MeterID, OrganizationID: organizationID, Name: "Example", CreatedAt: m.CreatedAt,
		Filter:      map[string]any{"conjunction": "and", "clauses": []any{}},
		Aggregation: map[string]any{"func": "count"}}
}

// schemaOrder is the order in which Polar's schemas have the names that settings are made of. Names
// that are not here come last, as the database orders them.
var schemaOrder = []string{
	"prefix", "expires", "ttl", "timeframe", "activations", "limit", "enable_customer_admin", "limit_usage",
	"units", "rollover", "meter_id", "note", "guild_id", "role_id", "kick_member",
	"repository_owner", "repository_name", "permission", "archived", "files",
	"conjunction", "clauses", "property", "operator", "value", "func",
}

// ordered writes settings in the order of Polar's schemas.
func ordered(v any) any {
	switch v := v.(type) {
	case map[string]any:
		o := newObject()
		for _, name := range schemaOrder {
			if value, ok := v[name]; ok {
				o.Set(name, ordered(value))
			}
		}
		for _, name := range pydantic.SortedNames(v) {
			if _, there := o.Get(name); !there {
				o.Set(name, ordered(v[name]))
			}
		}
		return o
	case []any:
		list := make([]any, len(v))
		for i := range v {
			list[i] = ordered(v[i])
		}
		return list
	}
	return v
}

// slim has the fields of a benefit that every answer has.
func (b *CatalogBenefit) slim() *object {
	return newObject(
		"id", b.ID,
		"created_at", pydantic.PrintTimeOrNull(b.CreatedAt),
		"modified_at", pydantic.PrintTimeOrNull(b.ModifiedAt),
		"type", b.Type,
		"description", b.Description,
		"selectable", true,
		"deletable", true,
		"is_deleted", false,
		"organization_id", b.OrganizationID)
}

func (b *CatalogBenefit) describe() *object {
	visibility := "public"
	if b.Private {
		visibility = "private"
	}
	o := b.slim().
		Set("metadata", b.Metadata).
		Set("visibility", visibility).
		Set("properties", ordered(b.Properties))
	if b.Type == "custom" {
		o.Set("is_tax_applicable", true)
	}
	return o.Set("visibility_configurable", true)
}

// describeBenefitForPortal is a benefit as the portal shows it.
func (p *Polar) describeBenefitForPortal(b *CatalogBenefit) *object {
	return b.slim().
		Set("organization", p.organization(b.OrganizationID).describe()).
		Set("properties", ordered(b.Properties))
}

func (o *Organization) describe() *object {
	return newObject(
		"created_at", pydantic.PrintTime(o.CreatedAt),
		"modified_at", nil,
		"id", o.ID,
		"name", o.Name,
		"slug", o.Slug,
		"avatar_url", "https://example.com/avatar.png",
		"proration_behavior", "prorate",
		"allow_customer_updates", true,
		"bio", nil, "company", nil, "blog", nil, "location", nil, "twitter_username", nil,
		"pledge_minimum_amount", 0,
		"pledge_badge_show_amount", false,
		"default_upfront_split_to_contributors", nil,
		"email", nil,
		"website", nil,
		"socials", []any{},
		"status", "active",
		"details_submitted_at", nil,
		"feature_settings", newObject(
			"issue_funding_enabled", false,
			"seat_based_pricing_enabled", true,
			"unit_based_pricing_enabled", false,
			"wallets_enabled", false,
			"member_model_enabled", o.MemberModel,
			"checkout_localization_enabled", false,
			"overview_metrics", nil,
			"reset_proration_behavior_enabled", false,
			"off_session_charges_enabled", false,
			"meter_cycling_enabled", false,
			"slack_benefit_enabled", false,
			"preview_access_enabled", false,
			"disputes_enabled", false,
			"sso_enabled", false,
			"dispute_auto_accept_enabled", false,
			"compass_enabled", false,
			"merchant_migration_enabled", false),
		"subscription_settings", newObject(
			"allow_multiple_subscriptions", false,
			"proration_behavior", "prorate",
			"benefit_revocation_grace_period", 0,
			"prevent_trial_abuse", false,
			"allow_customer_updates", true),
		"customer_email_settings", newObject(
			"order_confirmation", true,
			"payment_method_expiration_reminder", true,
			"subscription_cancellation", true,
			"subscription_confirmation", true,
			"subscription_cycled", true,
			"subscription_cycled_after_trial", true,
			"subscription_past_due", true,
			"subscription_paused", true,
			"subscription_resumed", true,
			"subscription_renewal_reminder", true,
			"subscription_revoked", true,
			"subscription_trial_conversion_reminder", true,
			"subscription_uncanceled", true,
			"subscription_updated", true))
}

func (d *Product) slim() *object {
	return newObject(
		"id", d.ID,
		"created_at", pydantic.PrintTimeOrNull(d.CreatedAt),
		"modified_at", pydantic.PrintTimeOrNull(d.ModifiedAt),
		"trial_interval", nil,
		"trial_interval_count", nil,
		"name", d.Name,
		"description", textOrNull(d.Description),
		"visibility", "public",
		"recurring_interval", d.RecurringInterval,
		"recurring_interval_count", 1,
		"meter_interval", nil,
		"meter_interval_count", nil,
		"is_recurring", true,
		"is_archived", false,
		"organization_id", d.OrganizationID)
}

func (p *Polar) describeProduct(d *Product) *object {
	benefits := []any{}
	for _, id := range d.Benefits {
		benefits = append(benefits, p.benefitOf(d.OrganizationID, &Benefit{BenefitID: id, Type: "custom", Metadata: map[string]any{}, CreatedAt: d.CreatedAt}).describe())
	}
	return d.slim().
		Set("metadata", d.Metadata).
		Set("prices", d.describePrices()).
		Set("benefits", benefits).
		Set("medias", []any{}).
		Set("attached_custom_fields", []any{})
}

func (p *Polar) describeProductForPortal(d *Product) *object {
	benefits := []any{}
	for _, id := range d.Benefits {
		if b := p.benefit(id); b != nil && !b.Private {
			benefits = append(benefits, b.slim())
		}
	}
	o := p.organization(d.OrganizationID)
	return d.slim().
		Set("prices", d.describePrices()).
		Set("benefits", benefits).
		Set("medias", []any{}).
		Set("organization", o.describe().
			Set("customer_portal_settings", newObject(
				"usage", newObject("show", true),
				"subscription", newObject("update_seats", true, "update_plan", true),
				"customer", newObject("allow_email_change", false))).
			Set("organization_features", newObject(
				"member_model_enabled", o.MemberModel,
				"checkout_localization_enabled", false)))
}

func (d *Product) describePrices() []any {
	prices := []any{}
	for i := range d.Prices {
		prices = append(prices, d.describePrice(&d.Prices[i]))
	}
	return prices
}

func (d *Product) describePrice(p *Price) *object {
	o := newObject(
		"created_at", pydantic.PrintTimeOrNull(p.CreatedAt),
		"modified_at", pydantic.PrintTimeOrNull(p.ModifiedAt),
		"id", p.ID,
		"source", "catalog",
		"amount_type", p.AmountType,
		"price_currency", p.Currency,
		"tax_behavior", nil,
		"is_archived", false,
		"product_id", d.ID,
		"type", "recurring",
		"recurring_interval", d.RecurringInterval)
	if p.AmountType == seatBased {
		return o.Set("seat_tiers", newObject(
			"seat_tier_type", "volume",
			"tiers", []any{newObject("min_seats", 1, "max_seats", nil, "price_per_seat", p.Amount)},
			"minimum_seats", 1,
			"maximum_seats", nil)).
			Set("price_per_seat", p.Amount)
	}
	return o.Set("price_amount", p.Amount)
}

// priceOf is the price that a subscription pays, the first one if it names none.
func (d *Product) priceOf(s *Subscription) *Price {
	for i := range d.Prices {
		if d.Prices[i].ID == s.PriceID {
			return &d.Prices[i]
		}
	}
	return &d.Prices[0]
}

func (m *CatalogMeter) describe() *object {
	return newObject(
		"metadata", newObject(),
		"created_at", pydantic.PrintTimeOrNull(m.CreatedAt),
		"modified_at", pydantic.PrintTimeOrNull(m.ModifiedAt),
		"id", m.ID,
		"name", m.Name,
		"unit", "scalar",
		"custom_label", nil,
		"custom_multiplier", nil,
		"filter", ordered(m.Filter),
		"aggregation", ordered(m.Aggregation),
		"organization_id", m.OrganizationID,
		"archived_at", nil)
}

func (p *Polar) listBenefits(c *call) *answer {
	f := c.queryForm()
	organizations := f.uuids(c, "organization_id")
	types := f.texts(c, "type")
	return answerPage(f, func() []*CatalogBenefit {
		var found []*CatalogBenefit
		for _, b := range p.catalog.benefits {
			if b.OrganizationID == c.token.OrganizationID && organizations.passes(b.OrganizationID) && types.passes(b.Type) {
				found = append(found, b)
			}
		}
		slices.SortStableFunc(found, func(a, b *CatalogBenefit) int { return b.CreatedAt.Compare(a.CreatedAt) })
		return found
	}, (*CatalogBenefit).describe)
}

// addressedBenefit is the benefit of the path.
func (p *Polar) addressedBenefit(c *call, id string) *CatalogBenefit {
	if b := p.benefit(id); b != nil && b.OrganizationID == c.token.OrganizationID {
		return b
	}
	return nil
}

func (p *Polar) getBenefit(c *call) *answer {
	f := c.pathForm("id")
	id := f.uuid("id")
	if len(f.problems) > 0 {
		return unprocessable(f.problems)
	}
	b := p.addressedBenefit(c, id)
	if b == nil {
		return notFound("Not found")
	}
	return ok(b.describe())
}

// createBenefit makes a benefit as the program describes it.
func (p *Polar) createBenefit(c *call) *answer {
	f, refusal := c.form()
	if refusal != nil {
		return refusal
	}
	b := CatalogBenefit{
		OrganizationID: c.token.OrganizationID, Type: f.text("type"), Description: f.text("description"),
		Metadata: f.entries("metadata").Plain(), Properties: f.tree("properties"),
	}
	if len(f.problems) > 0 {
		return unprocessable(f.problems)
	}
	return jsonAnswer(http.StatusCreated, p.addBenefit(b).describe())
}

// patchBenefit changes a benefit. What it changes of license keys is done at once to all that are
// granted, and a term of validity starts again for those that have one.
func (p *Polar) patchBenefit(c *call) *answer {
	f := c.pathForm("id")
	id := f.uuid("id")
	body, refusal := c.form()
	if refusal != nil {
		return refusal
	}
	_ = body.text("type")
	var next CatalogBenefit
	b := p.addressedBenefit(c, id)
	if b != nil {
		next = b.clone()
	}
	if v, sent := body.fields.Get("metadata"); sent && v != nil {
		if m := body.entries("metadata"); m != nil {
			next.Metadata = m.Plain()
		}
	}
	if v, sent := body.fields.Get("description"); sent && v != nil {
		next.Description = body.text("description")
	}
	if v, sent := body.fields.Get("visibility"); sent {
		next.Private = v == "private"
	}
	v, settings := body.fields.Get("properties")
	if settings = settings && v != nil; settings {
		next.Properties = body.tree("properties")
	}
	if problems := slices.Concat(f.problems, body.problems); len(problems) > 0 {
		return unprocessable(problems)
	}
	if b == nil {
		return notFound("Not found")
	}
	next.ModifiedAt = c.at
	b = p.addBenefit(next)
	p.benefitChanged(b, settings, c.at)
	return ok(b.describe())
}

// benefitChanged carries a change of a benefit over to its grants and license keys.
func (p *Polar) benefitChanged(b *CatalogBenefit, settings bool, now time.Time) {
	p.emitTo("benefit.updated", b.OrganizationID, nil, b.describe, Event{At: now})
	for _, a := range p.customers {
		next := a.clone()
		changed := false
		for i := range next.Benefits {
			g := &next.Benefits[i]
			if g.BenefitID != b.ID {
				continue
			}
			changed = true
			g.Metadata = cloneTree(b.Metadata)
			if k := p.byID[g.LicenseKeyID]; settings && !g.Revoked && k != nil {
				k.LimitActivations, k.LimitUsage = b.keyLimits()
				if g.SubscriptionID == "" {
					k.ExpiresAt = b.keyExpiry(now)
				}
				k.ModifiedAt, g.GrantedAt = now, now
			}
		}
		if changed {
			p.change("benefitChanged", a, next)
		}
	}
}

// keyLimits are those of the license keys that a benefit grants.
func (b *CatalogBenefit) keyLimits() (activations, usage *int64) {
	number := func(v any) *int64 {
		if n, ok := v.(int64); ok {
			return &n
		}
		return nil
	}
	if m, ok := b.Properties["activations"].(map[string]any); ok {
		activations = number(m["limit"])
	}
	return activations, number(b.Properties["limit_usage"])
}

// keyExpiry is when a license key ends that is bought at a time, and not by subscription.
func (b *CatalogBenefit) keyExpiry(bought time.Time) time.Time {
	m, ok := b.Properties["expires"].(map[string]any)
	if !ok {
		return time.Time{}
	}
	n, _ := m["ttl"].(int64)
	switch m["timeframe"] {
	case "day":
		return bought.AddDate(0, 0, int(n))
	case "month":
		return bought.AddDate(0, int(n), 0)
	}
	return bought.AddDate(int(n), 0, 0)
}

// customersAdministrate says whether the customers see and end the activations of their keys.
func (b *CatalogBenefit) customersAdministrate() bool {
	m, _ := b.Properties["activations"].(map[string]any)
	return m["enable_customer_admin"] == true
}

func (p *Polar) listProducts(c *call) *answer {
	f := c.queryForm()
	organizations := f.uuids(c, "organization_id")
	ids := f.uuids(c, "id")
	benefits := f.uuids(c, "benefit_id")
	return answerPage(f, func() []*Product {
		var found []*Product
		for _, d := range p.catalog.products {
			has := len(benefits) == 0 || slices.ContainsFunc(d.Benefits, func(id string) bool { return benefits.passes(id) })
			if d.OrganizationID == c.token.OrganizationID && organizations.passes(d.OrganizationID) && ids.passes(d.ID) && has {
				found = append(found, d)
			}
		}
		slices.SortStableFunc(found, func(a, b *Product) int { return b.CreatedAt.Compare(a.CreatedAt) })
		return found
	}, p.describeProduct)
}

func (p *Polar) getProduct(c *call) *answer {
	f := c.pathForm("id")
	id := f.uuid("id")
	if len(f.problems) > 0 {
		return unprocessable(f.problems)
	}
	d := p.product(id)
	if d == nil || d.OrganizationID != c.token.OrganizationID {
		return notFound("Not found")
	}
	return ok(p.describeProduct(d))
}

func (p *Polar) listMeters(c *call) *answer {
	f := c.queryForm()
	organizations := f.uuids(c, "organization_id")
	return answerPage(f, func() []*CatalogMeter {
		var found []*CatalogMeter
		for _, m := range p.catalog.meters {
			if m.OrganizationID == c.token.OrganizationID && organizations.passes(m.OrganizationID) {
				found = append(found, m)
			}
		}
		slices.SortStableFunc(found, func(a, b *CatalogMeter) int { return cmp.Compare(a.Name, b.Name) })
		return found
	}, (*CatalogMeter).describe)
}

func (p *Polar) getMeter(c *call) *answer {
	f := c.pathForm("id")
	id := f.uuid("id")
	if len(f.problems) > 0 {
		return unprocessable(f.problems)
	}
	for _, m := range p.catalog.meters {
		if m.ID == id && m.OrganizationID == c.token.OrganizationID {
			return ok(m.describe())
		}
	}
	return notFound("Not found")
}

// tree reads an object of any depth. One that is not there is nil.
func (f *form) tree(name string) map[string]any {
	v, ok := f.fields.Get(name)
	if !ok || v == nil {
		return nil
	}
	o, ok := v.(*object)
	if !ok {
		f.complain(name, "dict_type", "Input should be a valid dictionary", v, nil)
		return nil
	}
	return plainTree(o).(map[string]any)
}

// plainTree is plainMap for all depths.
func plainTree(v any) any {
	switch v := v.(type) {
	case *object:
		m := v.Plain()
		for name, value := range m {
			m[name] = plainTree(value)
		}
		return m
	case []any:
		list := make([]any, len(v))
		for i := range v {
			list[i] = plainTree(v[i])
		}
		return list
	}
	return v
}
