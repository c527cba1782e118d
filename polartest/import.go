package polartest

import (
	"cmp"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/polargate/polargate/polartest/internal/pydantic"
)

// Import adds everything that a piece of Polar's JSON describes: answers of its API, lists of them, and
// bodies of webhooks, or an array of any of these. So a test can start from what a real organization
// has. It knows organizations, products, benefits, meters, customers and their state,
// members, subscriptions, grants, license keys with activations, seats, sessions and webhook endpoints,
// wherever they are in the JSON. It updates what is here already, and leaves what the JSON does not
// mention. A customer's state is complete, so what it does not list has ended. Import sends no webhooks.
// The error says what can't be read, or what this Polar can't have; a part may have been imported then.
func (p *Polar) Import(data []byte) (err error) {
	v, err := pydantic.Read(data)
	if err != nil {
		return fmt.Errorf("polartest: Import: this is no JSON: %w", err)
	}
	in := importing{}
	in.walk(v, "")
	p.mu.Lock()
	defer p.mu.Unlock()
	p.quiet = true
	defer func() {
		p.quiet = false
		if r := recover(); r != nil {
			text, ours := r.(string)
			if !ours {
				panic(r)
			}
			if err = in.err; err == nil { // or else that is the reason
				err = fmt.Errorf("polartest: Import: %s", strings.TrimPrefix(text, "polartest: "))
			}
		}
	}()
	in.apply(p)
	return in.err
}

// importing is what was found in a piece of JSON.
type importing struct {
	organizations, products, benefits, meters        []fields
	customers, members, keys, activations            []fields
	subscriptions, grants, balances, seats, sessions []fields
	endpoints                                        []fields
	organizationID                                   string // any that is mentioned
	err                                              error
}

// fields are the fields of an object, and the customer in whom it was found.
type fields struct {
	*object
	within string
	in     *importing
}

func (f fields) has(names ...string) bool {
	for _, name := range names {
		if _, ok := f.Get(name); !ok {
			return false
		}
	}
	return true
}

func (f fields) fail(name string, v any, want string) {
	if f.in.err == nil {
		f.in.err = fmt.Errorf("polartest: Import: %q is %v, and not %s", name, v, want)
	}
}

// read sets a variable to a field, if that is there. null is the zero value.
func read[T any](f fields, name string, into *T) {
	v, ok := f.Get(name)
	if !ok {
		return
	}
	var zero T
	*into = zero
	if v == nil {
		return
	}
	if got, ok := v.(T); ok {
		*into = got
		return
	}
	f.fail(name, v, fmt.Sprintf("a %T", zero))
}

func (f fields) text(name string) (s string) {
	read(f, name, &s)
	return s
}

func (f fields) when(name string, into *time.Time) {
	if !f.has(name) {
		return
	}
	s := f.text(name)
	*into = time.Time{}
	if s == "" {
		return
	}
	at, err := time.Parse(time.RFC3339Nano, s)
	if err != nil {
		f.fail(name, s, "a time")
	}
	*into = at
}

func (f fields) limit(name string, into **int64) {
	v, ok := f.Get(name)
	if !ok {
		return
	}
	*into = nil
	if v != nil {
		var n int64
		read(f, name, &n)
		*into = &n
	}
}

func (f fields) decimal(name string, into *float64) {
	v, ok := f.Get(name)
	if !ok {
		return
	}
	n, isNumber := asFloat(v)
	if !isNumber {
		f.fail(name, v, "a number")
	}
	*into = n
}

func (f fields) tree(name string, into *map[string]any) {
	var o *object
	if read(f, name, &o); o != nil {
		*into = plainTree(o).(map[string]any)
	}
}

func (f fields) child(name string) (fields, bool) {
	v, _ := f.Get(name)
	o, ok := v.(*object)
	return fields{o, f.within, f.in}, ok
}

// walk finds what there is, by the names that only that has.
func (in *importing) walk(v any, within string) {
	if list, ok := v.([]any); ok {
		for _, one := range list {
			in.walk(one, within)
		}
		return
	}
	o, ok := v.(*object)
	if !ok {
		return
	}
	f := fields{o, within, in}
	put := func(list *[]fields) { *list = append(*list, f) }
	in.organizationID = cmp.Or(in.organizationID, f.anyText("organization_id"))
	switch {
	case f.has("slug", "feature_settings"):
		put(&in.organizations)
	case f.has("prices", "is_recurring"):
		put(&in.products)
	case f.has("selectable", "deletable"):
		put(&in.benefits)
	case f.has("aggregation", "filter"):
		put(&in.meters)
	case f.has("granted_at", "benefit_id"):
		put(&in.grants)
	case f.has("seat_metadata"):
		put(&in.seats)
	case f.has("role", "customer_id", "email", "id"):
		put(&in.members)
	case f.has("key", "display_key"):
		put(&in.keys)
	case f.has("license_key_id", "label"):
		put(&in.activations)
	case f.has("customer_portal_url", "token"):
		put(&in.sessions)
	case f.has("secret", "events", "url"):
		put(&in.endpoints)
	case f.has("product_id", "current_period_start"):
		put(&in.subscriptions)
	case f.has("meter_id", "consumed_units", "balance"):
		put(&in.balances)
	case f.has("email_verified", "id"):
		put(&in.customers)
		within = f.text("id")
	}
	for _, name := range o.Names {
		in.walk(o.Values[name], within)
	}
}

func (f fields) anyText(name string) string {
	v, _ := f.Get(name)
	s, _ := v.(string)
	return s
}

// apply goes from what others need to what needs others.
func (in *importing) apply(p *Polar) {
	for _, f := range in.organizations {
		o := *p.organization(f.text("id"))
		read(f, "name", &o.Name)
		read(f, "slug", &o.Slug)
		f.when("created_at", &o.CreatedAt)
		if settings, ok := f.child("feature_settings"); ok {
			read(settings, "member_model_enabled", &o.MemberModel)
		}
		p.addOrganization(o)
	}
	for _, f := range in.meters {
		m := CatalogMeter{ID: f.text("id")}
		f.own(&m.OrganizationID, &m.CreatedAt, &m.ModifiedAt)
		read(f, "name", &m.Name)
		f.tree("filter", &m.Filter)
		f.tree("aggregation", &m.Aggregation)
		p.addMeter(m)
	}
	for _, f := range in.benefits {
		in.benefit(p, f)
	}
	for _, f := range in.products {
		in.product(p, f)
	}
	for _, f := range in.customers {
		in.customer(p, f)
	}
	for _, f := range in.members {
		a := p.customersByID[f.text("customer_id")]
		if a == nil {
			continue // of a customer of whom nothing else is known
		}
		m := Member{ID: f.text("id")}
		if old := p.member(m.ID); old != nil {
			m = *old
		}
		read(f, "email", &m.Email)
		read(f, "name", &m.Name)
		read(f, "external_id", &m.ExternalID)
		read(f, "role", &m.Role)
		f.when("created_at", &m.CreatedAt)
		f.when("modified_at", &m.ModifiedAt)
		if m.Role == owner {
			p.members = slices.DeleteFunc(p.members, func(old *Member) bool {
				return old.CustomerID == a.ID && old.Role == owner && old.ID != m.ID
			})
		}
		p.addMember(a, m, p.now())
	}
	for _, f := range in.keys {
		in.key(p, f)
	}
	for _, f := range in.activations {
		in.activation(p, f)
	}
	for _, f := range slices.Concat(in.subscriptions, in.balances, in.grants) {
		in.belonging(p, f)
	}
	for _, f := range in.customers {
		in.whole(p, f)
	}
	for _, f := range in.seats {
		in.seat(p, f)
	}
	for _, f := range in.sessions {
		in.session(p, f)
	}
	for _, f := range in.endpoints {
		in.endpoint(p, f)
	}
}

// own reads what most things have.
func (f fields) own(organizationID *string, created, modified *time.Time) {
	read(f, "organization_id", organizationID)
	f.when("created_at", created)
	f.when("modified_at", modified)
}

func (in *importing) benefit(p *Polar, f fields) {
	b := CatalogBenefit{ID: f.text("id")}
	if old := p.benefit(b.ID); old != nil {
		b = old.clone()
	}
	f.own(&b.OrganizationID, &b.CreatedAt, &b.ModifiedAt)
	read(f, "type", &b.Type)
	read(f, "description", &b.Description)
	f.tree("metadata", &b.Metadata)
	f.tree("properties", &b.Properties)
	if f.has("visibility") {
		b.Private = f.text("visibility") == "private"
	}
	p.addBenefit(b)
}

func (in *importing) product(p *Polar, f fields) {
	d := Product{ID: f.text("id")}
	old := p.product(d.ID)
	if old != nil {
		d = old.clone()
	}
	f.own(&d.OrganizationID, &d.CreatedAt, &d.ModifiedAt)
	read(f, "name", &d.Name)
	read(f, "description", &d.Description)
	read(f, "recurring_interval", &d.RecurringInterval)
	f.tree("metadata", &d.Metadata)
	var prices, benefits []any
	read(f, "prices", &prices)
	read(f, "benefits", &benefits)
	d.Prices = nil
	for _, v := range prices {
		o, _ := v.(*object)
		one := fields{o, "", in}
		price := Price{ID: one.text("id"), AmountType: one.text("amount_type"), Currency: one.text("price_currency")}
		read(one, "price_amount", &price.Amount)
		read(one, "price_per_seat", &price.Amount)
		one.when("created_at", &price.CreatedAt)
		one.when("modified_at", &price.ModifiedAt)
		d.Prices = append(d.Prices, price)
	}
	if f.has("metadata") || old == nil { // customers are not told of all benefits
		d.Benefits = nil
		for _, v := range benefits {
			o, _ := v.(*object)
			d.Benefits = append(d.Benefits, fields{o, "", in}.text("id"))
		}
	}
	p.addProduct(d)
}

func (in *importing) customer(p *Polar, f fields) {
	a := p.customersByID[f.text("id")]
	next := Customer{ID: f.text("id"), OrganizationID: in.organizationID}
	if a != nil {
		next = a.clone()
	}
	f.own(&next.OrganizationID, &next.CreatedAt, &next.ModifiedAt)
	f.when("deleted_at", &next.DeletedAt)
	read(f, "external_id", &next.ExternalID)
	read(f, "email", &next.Email)
	read(f, "name", &next.Name)
	read(f, "type", &next.Type)
	f.tree("metadata", &next.Metadata)
	if a == nil {
		p.addCustomer("Import", next, Member{})
		return
	}
	p.change("Import", a, next)
}

func (in *importing) key(p *Polar, f fields) {
	known := p.byID[f.text("id")]
	k := LicenseKey{ID: f.text("id")}
	if known != nil {
		k = known.clone()
	}
	f.own(&k.OrganizationID, &k.CreatedAt, &k.ModifiedAt)
	read(f, "key", &k.Key)
	read(f, "customer_id", &k.CustomerID)
	read(f, "benefit_id", &k.BenefitID)
	read(f, "status", &k.Status)
	f.limit("limit_activations", &k.LimitActivations)
	f.limit("limit_usage", &k.LimitUsage)
	read(f, "usage", &k.Usage)
	read(f, "validations", &k.Validations)
	f.when("last_validated_at", &k.LastValidatedAt)
	f.when("expires_at", &k.ExpiresAt)
	if b := p.benefit(k.BenefitID); b != nil {
		k.Prefix, _ = b.Properties["prefix"].(string)
	}
	if known == nil {
		p.addKey(k)
		return
	}
	k.settle(p.now())
	p.replace(known, k)
}

func (in *importing) activation(p *Polar, f fields) {
	k := p.byID[f.text("license_key_id")]
	if k == nil {
		return
	}
	a := Activation{ID: f.text("id"), Label: f.text("label"), Conditions: map[string]any{}, Meta: map[string]any{}}
	f.tree("meta", &a.Meta)
	f.when("created_at", &a.CreatedAt)
	put(&k.Activations, a, func(old Activation) bool { return old.ID == a.ID })
	slices.SortStableFunc(k.Activations, func(a, b Activation) int { return a.CreatedAt.Compare(b.CreatedAt) })
}

// belonging imports what a customer has: a subscription, a meter or a grant.
func (in *importing) belonging(p *Polar, f fields) {
	id := f.within
	if f.has("customer_id") {
		id = f.text("customer_id")
	}
	a := p.customersByID[id]
	if a == nil {
		return
	}
	next := a.clone()
	switch {
	case f.has("benefit_id"):
		next.Benefits = f.grant(p, next.Benefits)
	case f.has("meter_id"):
		m := Meter{ID: f.text("id"), MeterID: f.text("meter_id")}
		f.decimal("consumed_units", &m.ConsumedUnits)
		read(f, "credited_units", &m.CreditedUnits)
		f.when("created_at", &m.CreatedAt)
		f.when("modified_at", &m.ModifiedAt)
		put(&next.Meters, m, func(old Meter) bool { return old.ID == m.ID })
	default:
		next.Subscriptions = f.subscription(next.Subscriptions)
	}
	p.change("Import", a, next)
}

// whole ends what the state of a customer does not list, and brings the rest into its order.
func (in *importing) whole(p *Polar, f fields) {
	if !f.has("active_subscriptions", "granted_benefits", "active_meters") {
		return
	}
	listed := func(name string) func(id string) int {
		var list []any
		read(f, name, &list)
		return func(id string) int {
			return slices.IndexFunc(list, func(v any) bool {
				o, _ := v.(*object)
				return o != nil && fields{o, "", in}.anyText("id") == id
			})
		}
	}
	// what is not listed comes last
	after := func(a, b int) int { return cmp.Compare(uint(a), uint(b)) }
	a := p.customersByID[f.text("id")]
	next := a.clone()
	at := listed("active_subscriptions")
	for i := range next.Subscriptions {
		if s := &next.Subscriptions[i]; at(s.ID) < 0 && s.shown() {
			s.Status = canceled
		}
	}
	slices.SortStableFunc(next.Subscriptions, func(a, b Subscription) int { return after(at(a.ID), at(b.ID)) })
	at = listed("granted_benefits")
	for i := range next.Benefits {
		next.Benefits[i].Revoked = at(next.Benefits[i].ID) < 0
	}
	slices.SortStableFunc(next.Benefits, func(a, b Benefit) int { return after(at(a.ID), at(b.ID)) })
	at = listed("active_meters")
	next.Meters = slices.DeleteFunc(next.Meters, func(m Meter) bool { return at(m.ID) < 0 })
	slices.SortStableFunc(next.Meters, func(a, b Meter) int { return after(at(a.ID), at(b.ID)) })
	p.change("Import", a, next)
}

func (f fields) grant(p *Polar, all []Benefit) []Benefit {
	b := Benefit{ID: f.text("id")}
	i := slices.IndexFunc(all, func(old Benefit) bool { return old.ID == b.ID })
	if i >= 0 {
		b = all[i]
	}
	read(f, "benefit_id", &b.BenefitID)
	read(f, "benefit_type", &b.Type)
	f.tree("benefit_metadata", &b.Metadata)
	f.tree("properties", &b.Properties)
	f.tree("previous_properties", &b.PreviousProperties)
	if of, ok := f.child("benefit"); ok {
		read(of, "type", &b.Type)
		of.tree("metadata", &b.Metadata)
	}
	read(f, "subscription_id", &b.SubscriptionID)
	read(f, "order_id", &b.OrderID)
	read(f, "member_id", &b.MemberID)
	read(f, "is_revoked", &b.Revoked)
	f.when("granted_at", &b.GrantedAt)
	f.when("revoked_at", &b.RevokedAt)
	f.when("created_at", &b.CreatedAt)
	f.when("modified_at", &b.ModifiedAt)
	if id, ok := b.Properties["license_key_id"].(string); ok && p.byID[id] != nil {
		b.LicenseKeyID = id
	}
	if i >= 0 {
		all[i] = b
		return all
	}
	return append(all, b)
}

func (f fields) subscription(all []Subscription) []Subscription {
	s := Subscription{ID: f.text("id")}
	i := slices.IndexFunc(all, func(old Subscription) bool { return old.ID == s.ID })
	if i >= 0 {
		s = all[i]
	}
	read(f, "product_id", &s.ProductID)
	read(f, "price_id", &s.PriceID)
	read(f, "discount_id", &s.DiscountID)
	read(f, "status", &s.Status)
	read(f, "amount", &s.Amount)
	read(f, "currency", &s.Currency)
	read(f, "recurring_interval", &s.RecurringInterval)
	read(f, "cancel_at_period_end", &s.CancelAtPeriodEnd)
	read(f, "pause_at_period_end", &s.PauseAtPeriodEnd)
	read(f, "customer_cancellation_reason", &s.CancellationReason)
	read(f, "customer_cancellation_comment", &s.CancellationComment)
	f.limit("seats", &s.Seats)
	f.tree("metadata", &s.Metadata)
	f.tree("custom_field_data", &s.CustomFieldData)
	for name, into := range map[string]*time.Time{
		"created_at": &s.CreatedAt, "modified_at": &s.ModifiedAt, "current_period_start": &s.CurrentPeriodStart,
		"current_period_end": &s.CurrentPeriodEnd, "trial_start": &s.TrialStart, "trial_end": &s.TrialEnd,
		"canceled_at": &s.CanceledAt, "started_at": &s.StartedAt, "ends_at": &s.EndsAt, "ended_at": &s.EndedAt,
		"past_due_at": &s.PastDueAt, "paused_at": &s.PausedAt, "resumes_at": &s.ResumesAt,
	} {
		f.when(name, into)
	}
	var meters []any
	read(f, "meters", &meters)
	s.Meters = nil
	for _, v := range meters {
		o, _ := v.(*object)
		one := fields{o, "", f.in}
		m := SubscriptionMeter{ID: one.text("id"), MeterID: one.text("meter_id")}
		one.decimal("consumed_units", &m.ConsumedUnits)
		read(one, "credited_units", &m.CreditedUnits)
		read(one, "amount", &m.Amount)
		one.when("created_at", &m.CreatedAt)
		one.when("modified_at", &m.ModifiedAt)
		s.Meters = append(s.Meters, m)
	}
	if i >= 0 {
		all[i] = s
		return all
	}
	return append(all, s)
}

func (in *importing) seat(p *Polar, f fields) {
	s := CustomerSeat{ID: f.text("id")}
	for _, old := range p.seats {
		if old.ID == s.ID {
			s = old.clone()
		}
	}
	read(f, "subscription_id", &s.SubscriptionID)
	if a, _ := p.subscription(s.SubscriptionID); a == nil {
		return // of a subscription of which nothing else is known
	}
	read(f, "status", &s.Status)
	s.CustomerID, s.MemberID = cmp.Or(f.text("customer_id"), s.CustomerID), cmp.Or(f.text("member_id"), s.MemberID)
	if m, ok := f.child("member"); ok {
		s.MemberID = m.text("id")
	}
	s.Email = cmp.Or(f.text("customer_email"), s.Email)
	f.tree("seat_metadata", &s.Metadata)
	f.when("invitation_token_expires_at", &s.InvitationExpiresAt)
	f.when("claimed_at", &s.ClaimedAt)
	f.when("revoked_at", &s.RevokedAt)
	f.when("created_at", &s.CreatedAt)
	f.when("modified_at", &s.ModifiedAt)
	p.addSeat(s)
}

func (in *importing) session(p *Polar, f fields) {
	s := Session{ID: f.text("id"), Token: f.text("token"), CustomerID: f.text("customer_id"), ReturnURL: f.text("return_url")}
	if p.customersByID[s.CustomerID] == nil {
		return
	}
	f.when("created_at", &s.CreatedAt)
	f.when("expires_at", &s.ExpiresAt)
	if u, err := url.Parse(f.text("customer_portal_url")); err == nil && strings.HasPrefix(s.Token, "polar_mst_") {
		for _, m := range p.members {
			if m.CustomerID == s.CustomerID && strings.EqualFold(m.Email, u.Query().Get("email")) {
				s.MemberID = m.ID
			}
		}
	}
	p.addSession(s, p.now())
}

func (in *importing) endpoint(p *Polar, f fields) {
	e := Endpoint{ID: f.text("id"), URL: f.text("url"), Secrets: []Secret{{Text: f.text("secret"), Raw: true}}}
	f.own(&e.OrganizationID, &e.CreatedAt, &e.ModifiedAt)
	var events []any
	read(f, "events", &events)
	for _, v := range events {
		s, _ := v.(string)
		e.Events = append(e.Events, s)
	}
	enabled := true
	read(f, "enabled", &enabled)
	e.Disabled = !enabled
	e.settle(p.config.OrganizationID, p.now())
	put(&p.webhooks.endpoints, &endpoint{Endpoint: e}, func(old *endpoint) bool { return old.ID == e.ID })
}
