package polargate

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"hash/maphash"
	"log/slog"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
	"unique"

	"github.com/polargate/polargate/internal/clock"
	"github.com/polargate/polargate/internal/intern"
	"github.com/polargate/polargate/internal/ledger"
	"github.com/polargate/polargate/internal/wire"
)

const opEntitlements = "entitlements" // what was done, in an *Error

// Entitlements are what one customer, or the holder of one license key, may use, as Polar
// last said. They are immutable. Their methods do no I/O, and allocate nothing except to
// return a list, a map or CustomerID. The zero value and nil belong to no customer and
// allow nothing.
type Entitlements struct {
	// What each decision reads stands first, so that it is in one place in memory.
	external string // "" where not known
	common   *plan
	own      *particulars
	known    bool
	perSeat  bool // a benefit is granted more than once, as for each seat of a team
	// unread are the lists that could not be read, and borrowed those of them that come
	// from an earlier state.
	unread, borrowed lists
	customer         wire.UUID   // zero where not known
	amounts          []amounts   // of the plan's meters, in their order
	at               clock.Polar // when Polar said so
	// subscriptions are those that make the plan's products, by id; the first knows the next.
	subscriptions *subscription
}

// lists are those of a customer's state.
type lists uint8

const (
	listOfBenefits lists = 1 << iota
	listOfSubscriptions
	listOfMeters
	allLists = listOfBenefits | listOfSubscriptions | listOfMeters
)

// allowsTheSame reports whether two answers grant the same, whatever is left on meters.
func (e *Entitlements) allowsTheSame(other *Entitlements) bool {
	return e.known == other.known && e.Refused() == other.Refused() && e.CustomerID() == other.CustomerID() &&
		slices.Equal(e.grants(), other.grants()) && slices.Equal(e.plan().products, other.plan().products)
}

// saysTheSame reports whether two answers say the same to a program.
func (e *Entitlements) saysTheSame(other *Entitlements) bool {
	return e.allowsTheSame(other) && e.sameOverlays(other) && slices.Equal(e.Meters(), other.Meters()) &&
		slices.Equal(e.Subscriptions(), other.Subscriptions())
}

// missing are the lists of which nothing is known: not even by an earlier state.
func (e *Entitlements) missing() lists { return e.unread &^ e.borrowed }

// GrantedBenefit is a benefit that a customer has now.
type GrantedBenefit struct {
	id         text
	about      unique.Handle[aboutBenefit]
	properties string
}

// aboutBenefit is what a benefit says to all customers who have it.
type aboutBenefit struct{ kind, metadata string }

func newBenefit(id, kind, metadata, properties string) GrantedBenefit {
	return GrantedBenefit{unique.Make(normalUUID(id)), unique.Make(aboutBenefit{kind, metadata}), properties}
}

// of is empty for the zero value, which what is not found consists of.
func (b GrantedBenefit) of() aboutBenefit {
	if b.about == (unique.Handle[aboutBenefit]{}) {
		return aboutBenefit{}
	}
	return b.about.Value()
}

// ID is the benefit's id.
func (b GrantedBenefit) ID() string { return textOf(b.id) }

// Type is Polar's word for the kind of benefit: "custom", "license_keys", "feature_flag"
// and others, including kinds that this version doesn't know.
func (b GrantedBenefit) Type() string { return b.of().kind }

// Metadata is what the vendor wrote on the benefit in Polar: a new map at each call;
// numbers are json.Number.
func (b GrantedBenefit) Metadata() map[string]any { return readMap(b.of().metadata) }

// MeterBalance is the state of a customer's meter.
type MeterBalance struct {
	id text
	// Consumed and Credited are units in the current period. Balance is what is left:
	// Credited minus Consumed by Polar's count, which can be negative, minus what was
	// spent here since; see Customers.Spend.
	Consumed, Credited, Balance float64
	counted                     clock.Polar // when Polar counted; 0 if it didn't say
}

// ID is the meter's id.
func (m MeterBalance) ID() string { return textOf(m.id) }

// Subscription is an active or trialing subscription of a customer. A time that Polar does not
// give is the zero time.
type Subscription struct {
	// ID and ProductID are Polar's ids of the subscription and of what was bought.
	ID        string `json:"id,omitempty"`
	ProductID string `json:"product_id"`
	// Status is Polar's word: "active", "trialing", or one that this version doesn't know.
	Status string `json:"status,omitempty"`
	// TrialEnd is when the trial ends, or ended. The subscription is then paid for, and its
	// status changes; if the payment fails, Polar says so.
	TrialEnd time.Time `json:"trial_end,omitzero"`
	// CurrentPeriodEnd is when it is renewed, unless it ends.
	CurrentPeriodEnd time.Time `json:"current_period_end,omitzero"`
	// CancelAtPeriodEnd is that the customer has canceled. The subscription runs until
	// EndsAt.
	CancelAtPeriodEnd bool `json:"cancel_at_period_end"`
	// EndsAt is when it ends for good; the zero time if it is renewed. Polar decides: one
	// that it still gives after that time hasn't ended.
	EndsAt time.Time `json:"ends_at,omitzero"`
}

// subscription is a Subscription as it is kept: with what few have apart, since most
// customers have one that is renewed.
type subscription struct {
	id    wire.UUID
	paid  clock.Polar // when the current period ends; 0 where Polar gave no time
	about unique.Handle[aboutSubscription]
}

// aboutSubscription is what many customers' subscriptions have in common: trial and end are
// 0 where Polar gave no time, and next is nil for the last of a customer's subscriptions.
type aboutSubscription struct {
	product    text
	status     string
	canceled   bool
	trial, end clock.Polar
	next       *subscription
}

// subscriptionsOf keeps subscriptions in this order; nil if there are none.
func subscriptionsOf(all []Subscription) (first *subscription) {
	for _, s := range slices.Backward(all) {
		id, _ := wire.ParseUUID(s.ID)
		about := aboutSubscription{textFrom(s.ProductID), strings.Clone(s.Status), s.CancelAtPeriodEnd, polarTime(s.TrialEnd), polarTime(s.EndsAt), first}
		first = &subscription{id, polarTime(s.CurrentPeriodEnd), unique.Make(about)}
	}
	return first
}

func (s *subscription) public() Subscription {
	about, id := s.about.Value(), ""
	if s.id != (wire.UUID{}) {
		id = s.id.String()
	}
	return Subscription{id, textOf(about.product), about.status, timeOf(about.trial), timeOf(s.paid), about.canceled, timeOf(about.end)}
}

// polarTime is 0 for the zero time, and timeOf the other way round.
func polarTime(t time.Time) clock.Polar {
	if t.IsZero() {
		return 0
	}
	return clock.PolarTime(t)
}

func timeOf(t clock.Polar) time.Time {
	if t == 0 {
		return time.Time{}
	}
	return t.Time()
}

// Known reports whether Polar has such a customer or license key. An unknown one has no
// entitlements.
func (e *Entitlements) Known() bool { return e != nil && e.known }

// CustomerID is Polar's id of the customer; "" if not known.
func (e *Entitlements) CustomerID() string {
	switch license := e.particulars().license; {
	case license != nil:
		return normalUUID(license.CustomerID)
	case e == nil || e.customer == wire.UUID{}:
		return ""
	}
	return e.customer.String()
}

// ExternalID is your program's id of the customer; "" if Polar has none.
func (e *Entitlements) ExternalID() string {
	if e == nil {
		return ""
	}
	return e.external
}

// CheckedAt is when Polar said so, by its clock: to the second for an answer, exact for
// an event. It is zero for an unknown customer.
func (e *Entitlements) CheckedAt() time.Time {
	if e == nil || !e.known {
		return time.Time{}
	}
	return e.at.Time()
}

// Has reports whether a feature is unlocked, as CustomersConfig.Features and
// CustomersConfig.Overlay say.
func (e *Entitlements) Has(feature string) bool {
	features := e.plan().features
	if len(features) <= 16 {
		return slices.Contains(features, feature) || e.overlays(feature) // is quicker in so few
	}
	_, ok := slices.BinarySearch(features, feature)
	return ok || e.overlays(feature)
}

// Features are the unlocked features, sorted. The slice is the caller's own.
func (e *Entitlements) Features() []string {
	features := slices.Clone(e.plan().features)
	if over := e.particulars().over; over != nil {
		for _, o := range over.given {
			features = append(features, o.Feature)
		}
		slices.Sort(features)
		features = slices.Compact(features)
	}
	return features
}

// Benefit returns a benefit that is granted now. A benefit that comes with a license key
// is included only while the key counts. The case of the id doesn't matter, here and
// wherever an id of Polar's is asked for.
func (e *Entitlements) Benefit(id string) (GrantedBenefit, bool) {
	for i, b := range e.plan().benefits {
		if sameID(b.id.Value(), id) {
			return e.benefit(i), true
		}
	}
	return GrantedBenefit{}, false
}

// benefit is one by its place in the plan.
func (e *Entitlements) benefit(i int) GrantedBenefit {
	b := e.plan().benefits[i]
	if own := e.particulars().properties; own != nil && own[i] != "" {
		b.properties = own[i]
	}
	return b
}

// sameID compares an id in its usual form with one that was asked for, whose case doesn't
// matter.
func sameID(id, asked string) bool {
	return id == asked || len(id) == len(asked) && strings.EqualFold(id, asked) && normalUUID(asked) == id
}

// Benefits are the benefits that are granted now, sorted by id. The slice is the caller's
// own.
func (e *Entitlements) Benefits() []GrantedBenefit {
	benefits := slices.Clone(e.plan().benefits)
	for i := range benefits {
		benefits[i] = e.benefit(i)
	}
	return benefits
}

// Subscribed reports whether a subscription to a product is active or trialing. A
// subscription that is past due is neither, while its benefits may still be granted: gate
// on features and benefits first.
func (e *Entitlements) Subscribed(productID string) bool {
	return slices.ContainsFunc(e.plan().products, func(p text) bool { return sameID(p.Value(), productID) })
}

// Products are the products with an active or trialing subscription, sorted. The slice is
// the caller's own.
func (e *Entitlements) Products() []string {
	var ids []string
	for _, p := range e.plan().products {
		ids = append(ids, p.Value())
	}
	return ids
}

// Subscriptions are the active and trialing subscriptions, sorted by id. One that was
// canceled is among them until its EndsAt, also while Polar can't be reached.
// A benefit isn't known to end then, because Polar doesn't say which subscription or order it
// comes with. The slice is the caller's own.
//
// Source: active_subscriptions of Polar's customer state.
func (e *Entitlements) Subscriptions() []Subscription {
	var all []Subscription
	if e == nil {
		return nil
	}
	for s := e.subscriptions; s != nil; s = s.about.Value().next {
		all = append(all, s.public())
	}
	return all
}

// nextEnd is when the first of the subscriptions ends for good, by Polar's clock; 0 if none
// does. One that Polar still gives after its end hasn't ended.
func (e *Entitlements) nextEnd() (next clock.Polar) {
	for s := e.subscriptions; s != nil; {
		about := s.about.Value()
		if about.end > e.at && (next == 0 || about.end < next) {
			next = about.end
		}
		s = about.next
	}
	return next
}

// endedBy is e without the subscriptions that have ended by then.
func (e *Entitlements) endedBy(then clock.Polar) *Entitlements {
	if end := e.nextEnd(); end == 0 || then < end {
		return e
	}
	next, have := *e, e.rights()
	have.subscriptions = slices.DeleteFunc(have.subscriptions, func(s Subscription) bool {
		end := polarTime(s.EndsAt)
		return end > e.at && end <= then
	})
	have.products = nil
	for _, s := range have.subscriptions {
		have.products = append(have.products, textFrom(s.ProductID))
	}
	next.setRights(have)
	return &next
}

// Meter returns the state of a meter.
func (e *Entitlements) Meter(id string) (MeterBalance, bool) {
	for i, meter := range e.plan().meters {
		if sameID(meter.Value(), id) {
			return e.balance(i), true
		}
	}
	return MeterBalance{}, false
}

// balance is that of a meter by its place in the plan.
func (e *Entitlements) balance(i int) MeterBalance {
	a := e.amounts[i]
	return MeterBalance{e.plan().meters[i], a.consumed, a.credited, a.balance, a.counted}
}

// Meters are all meters of the customer, sorted by id. The slice is the caller's own.
func (e *Entitlements) Meters() []MeterBalance {
	var meters []MeterBalance
	for i := range e.plan().meters {
		meters = append(meters, e.balance(i))
	}
	return meters
}

// License returns a copy of the license key that these entitlements come from, if a
// LicenseMiddleware found them.
func (e *Entitlements) License() (LicenseKey, bool) {
	license := e.particulars().license
	if license == nil {
		return LicenseKey{}, false
	}
	return license.clone(), true
}

// Meets reports whether a requirement is met.
func (e *Entitlements) Meets(r Requirement) bool { return e.meets(&r, 0) }

// meets is Meets, where anything that could be in these lists counts as present.
func (e *Entitlements) meets(r *Requirement, supposed lists) bool {
	switch r.kind {
	case needsFeature:
		return supposed&listOfBenefits != 0 || e.Has(r.id)
	case needsBenefit:
		_, ok := e.Benefit(r.id)
		return supposed&listOfBenefits != 0 || ok
	case needsProduct:
		return supposed&listOfSubscriptions != 0 || e.Subscribed(r.id)
	case needsMeter:
		m, ok := e.Meter(r.id)
		ok = ok || r.least < 0 && e.Known() // the first use makes the meter
		return supposed&listOfMeters != 0 || ok && m.Balance >= r.least
	case needsAll:
		for i := range r.of {
			if !e.meets(&r.of[i], supposed) {
				return false
			}
		}
		return true
	case needsAny:
		for i := range r.of {
			if e.meets(&r.of[i], supposed) {
				return true
			}
		}
	}
	return false
}

// undecided is why it can't be decided whether requirements are met: a list on which that
// depends couldn't be read. It is nil if they are met, and if they are unmet whatever is
// in that list.
func (e *Entitlements) undecided(requirements []Requirement) error {
	missing, openKey := e.missing(), e.undecidedKeys()
	if missing == 0 && openKey == nil {
		return nil
	}
	met, supposed := true, e.supposingKeys()
	for i := range requirements {
		if !supposed.meets(&requirements[i], missing) {
			return nil
		}
		met = met && e.Meets(requirements[i])
	}
	switch {
	case met:
		return nil
	case openKey != nil:
		return openKey
	}
	return missing.unreadable()
}

// unreadable is the error for lists that couldn't be read.
func (l lists) unreadable() error {
	var names []string
	for i, name := range []string{"granted_benefits", "active_subscriptions", "active_meters"} {
		if l&(1<<i) != 0 {
			names = append(names, name)
		}
	}
	return &Error{Op: opEntitlements, Reason: ErrUnreachable, Detail: "Polar's answer holds no list that can be read in " + strings.Join(names, " and ")}
}

// completed is e, with what couldn't be read in it taken from an earlier state of the
// same customer that is no older than that.
func (e *Entitlements) completed(earlier *Entitlements, noOlder time.Duration) *Entitlements {
	if e.unread == 0 || earlier == nil || !earlier.known || earlier.customer != e.customer {
		return e
	}
	since := earlier.at
	if earlier.borrowed != 0 {
		since = min(since, earlier.particulars().since)
	}
	borrow := e.unread &^ earlier.missing()
	if borrow == 0 || e.at.Sub(since) >= noOlder {
		return e
	}
	next := *e
	next.borrowed = borrow
	have, had := e.rights(), earlier.rights()
	if borrow&listOfBenefits != 0 {
		have.benefits, have.features = had.benefits, had.features
	}
	if borrow&listOfSubscriptions != 0 {
		had = earlier.endedBy(e.at).rights()
		have.products, have.subscriptions = had.products, had.subscriptions
	}
	if borrow&listOfMeters != 0 {
		have.meters = had.meters
	}
	next.setRights(have)
	next.note(func(own *particulars) {
		own.since = since
		if borrow&listOfBenefits != 0 {
			own.keys = earlier.keys()
		}
	})
	return &next
}

// Unmet returns the first of the requirements that is not met, and false if all are. Of
// an All, it is the first part that is not met.
func (e *Entitlements) Unmet(requirements ...Requirement) (Requirement, bool) {
	for _, r := range requirements {
		if e.Meets(r) {
			continue
		}
		if r.kind == needsAll {
			return e.Unmet(r.of...)
		}
		return r, true
	}
	return Requirement{}, false
}

// Refused is why the license key was refused, if a LicenseMiddleware found it; empty if
// it was granted.
func (e *Entitlements) Refused() Reason { return e.particulars().refused }

// meter is the place of a meter; -1 if there is none of that id.
func (e *Entitlements) meter(id string) int {
	return slices.IndexFunc(e.plan().meters, func(meter text) bool { return meter.Value() == id })
}

// Format prints Polar's id of the customer, whatever the verb: an external id may be an
// e-mail address. This also holds for a copy made by dereferencing.
func (e Entitlements) Format(f fmt.State, _ rune) {
	fmt.Fprintf(f, "polargate.Entitlements{Customer:%s}", e.CustomerID())
}

// LogValue logs what Format prints.
func (e *Entitlements) LogValue() slog.Value { return slog.StringValue(fmt.Sprint(e)) }

// MarshalJSON writes what a person who looks after customers wants to see: ids of Polar's,
// features and overlays, benefits, subscriptions, meters, and the license key by its id and masked form.
// The external id and the properties of benefits are left out, because they may be e-mail
// addresses, and JSON ends up in logs.
func (e Entitlements) MarshalJSON() ([]byte, error) {
	type benefit struct {
		ID         string          `json:"id"`
		Type       string          `json:"type"`
		Metadata   json.RawMessage `json:"metadata,omitempty"`
		LicenseKey string          `json:"license_key_id,omitempty"`
	}
	type overlay struct {
		Feature string    `json:"feature"`
		Until   time.Time `json:"until,omitzero"`
		Why     string    `json:"why,omitempty"`
	}
	type meter struct {
		ID       string  `json:"id"`
		Consumed float64 `json:"consumed"`
		Credited float64 `json:"credited"`
		Balance  float64 `json:"balance"`
	}
	type licenseKey struct {
		ID         string    `json:"id"`
		DisplayKey string    `json:"display_key"`
		Benefit    string    `json:"benefit_id"`
		Status     KeyStatus `json:"status"`
		Usage      int64     `json:"usage"`
		LimitUsage *int64    `json:"limit_usage"`
		ExpiresAt  time.Time `json:"expires_at,omitzero"`
	}
	view := struct {
		Known         bool           `json:"known"`
		Customer      string         `json:"customer_id,omitempty"`
		CheckedAt     time.Time      `json:"checked_at,omitzero"`
		Features      []string       `json:"features"`
		Overlays      []overlay      `json:"overlays,omitempty"`
		Benefits      []benefit      `json:"benefits"`
		Subscriptions []Subscription `json:"subscriptions"`
		Meters        []meter        `json:"meters"`
		LicenseKey    *licenseKey    `json:"license_key,omitempty"`
		Refused       Reason         `json:"refused,omitempty"`
	}{
		Known: e.known, Customer: e.CustomerID(), CheckedAt: e.CheckedAt(),
		Features: append([]string{}, e.Features()...), Benefits: []benefit{},
		Subscriptions: append([]Subscription{}, e.Subscriptions()...), Meters: []meter{}, Refused: e.Refused(),
	}
	for _, o := range e.Overlays() {
		view.Overlays = append(view.Overlays, overlay(o))
	}
	for _, b := range e.Benefits() {
		metadata := json.RawMessage(b.of().metadata)
		if !json.Valid(metadata) {
			metadata = nil
		}
		view.Benefits = append(view.Benefits, benefit{b.ID(), b.Type(), metadata, b.LicenseKeyID()})
	}
	for _, m := range e.Meters() {
		view.Meters = append(view.Meters, meter{m.ID(), m.Consumed, m.Credited, m.Balance})
	}
	if l := e.particulars().license; l != nil {
		view.LicenseKey = &licenseKey{l.ID, l.DisplayKey, l.BenefitID, l.Status, l.Usage, l.LimitUsage, l.ExpiresAt}
	}
	return json.Marshal(view)
}

// plan is what customers of the same plan have in common. It is immutable and kept once
// for all of them: a customer with ten benefits takes no more memory than one with two.
type plan struct {
	features []string         // sorted; the strings are the configuration's
	benefits []GrantedBenefit // by id, without the properties that are a customer's own
	products []text           // sorted
	meters   []text           // sorted
}

var (
	plans    intern.Pool[plan]
	planSeed = maphash.MakeSeed()
	noPlan   plan
)

// shared is the plan that equals p, kept once.
func (p plan) shared() *plan {
	var h maphash.Hash
	h.SetSeed(planSeed)
	for _, feature := range p.features {
		maphash.WriteComparable(&h, feature)
	}
	for _, b := range p.benefits {
		maphash.WriteComparable(&h, b)
	}
	for _, ids := range [][]text{p.products, p.meters} {
		maphash.WriteComparable(&h, len(ids))
		for _, id := range ids {
			maphash.WriteComparable(&h, id)
		}
	}
	return plans.Share(h.Sum64(), &p, func(a, b *plan) bool {
		return slices.Equal(a.features, b.features) && slices.Equal(a.benefits, b.benefits) &&
			slices.Equal(a.products, b.products) && slices.Equal(a.meters, b.meters)
	})
}

// amounts are one customer's numbers for one meter of a plan, as of when Polar counted.
type amounts struct {
	consumed, credited, balance float64
	counted                     clock.Polar
}

// particulars are what few customers have in addition to their plan. They are immutable.
type particulars struct {
	// properties are those of the plan's benefits that are the customer's own, in the
	// order of the benefits; "" if they are in the plan. nil if there are none.
	properties []string
	// keys are the grants, if some come with a license key; the plan has those of them
	// that count.
	keys *keyedGrants
	// since is the time of the oldest list that was borrowed from an earlier state.
	since clock.Polar
	// license is the license key that these entitlements come from, and refused why it
	// was refused; "" if granted.
	license *LicenseKey
	refused Reason
	// over is what the program gives beside; nil in what is cached.
	over *overlaid
}

var noParticulars particulars

// rights are what makes a plan, and what of it is a customer's own, before it is sorted.
type rights struct {
	features []string
	benefits []GrantedBenefit
	products []text
	meters   []MeterBalance
	// subscriptions are those of the products.
	subscriptions []Subscription
}

// rights are those of e, in memory of their own.
func (e *Entitlements) rights() rights {
	return rights{
		slices.Clone(e.plan().features), e.Benefits(), slices.Clone(e.plan().products), e.Meters(),
		e.Subscriptions(),
	}
}

// unlocking are rights with other benefits, and the features that these unlock.
func (r rights) unlocking(benefits []GrantedBenefit, features map[string][]string) rights {
	r.benefits, r.features = benefits, nil
	for _, b := range benefits {
		r.features = append(r.features, features[b.ID()]...)
	}
	return r
}

// setRights makes these the rights of e. It sorts what came in no fixed order, drops
// duplicates, and keeps no more memory than that takes. Of several grants of a benefit,
// the same one stays whatever their order was.
func (e *Entitlements) setRights(r rights) {
	slices.Sort(r.features)
	slices.SortStableFunc(r.benefits, func(a, b GrantedBenefit) int {
		return cmp.Or(byText(a.id, b.id), strings.Compare(a.properties, b.properties))
	})
	slices.SortFunc(r.products, byText)
	slices.SortStableFunc(r.meters, func(a, b MeterBalance) int { return byText(a.id, b.id) })
	p := plan{
		features: slices.Clone(slices.Compact(r.features)),
		benefits: slices.Clone(slices.CompactFunc(r.benefits, func(a, b GrantedBenefit) bool { return a.id == b.id })),
		products: slices.Clone(slices.Compact(r.products)),
	}
	own := make([]string, len(p.benefits))
	for i := range p.benefits {
		if b := &p.benefits[i]; b.personal() {
			own[i], b.properties = b.properties, ""
		}
	}
	if !slices.ContainsFunc(own, func(properties string) bool { return properties != "" }) {
		own = nil
	}
	r.meters = slices.CompactFunc(r.meters, func(a, b MeterBalance) bool { return a.id == b.id })
	e.amounts = nil
	if len(r.meters) > 0 {
		p.meters, e.amounts = make([]text, len(r.meters)), make([]amounts, len(r.meters))
	}
	for i, m := range r.meters {
		p.meters[i], e.amounts[i] = m.id, amounts{m.Consumed, m.Credited, m.Balance, m.counted}
	}
	e.common = p.shared()
	slices.SortStableFunc(r.subscriptions, func(a, b Subscription) int { return strings.Compare(a.ID, b.ID) })
	e.subscriptions = subscriptionsOf(r.subscriptions)
	if own != nil || e.particulars().properties != nil {
		e.note(func(of *particulars) { of.properties = own })
	}
}

// personal reports whether the properties of a grant are specific to its customer. Those
// of other types of benefit are the same for all who have it.
func (b GrantedBenefit) personal() bool {
	switch b.Type() {
	case "custom", "feature_flag", "meter_credit", "downloadables":
		return false
	}
	return len(b.properties) > len("{}")
}

// plan is what e has in common with others; never nil.
func (e *Entitlements) plan() *plan {
	if e == nil || e.common == nil {
		return &noPlan
	}
	return e.common
}

// particulars are what e has beside its plan; never nil.
func (e *Entitlements) particulars() *particulars {
	if e == nil || e.own == nil {
		return &noParticulars
	}
	return e.own
}

// note changes the particulars of e before anybody else has seen it.
func (e *Entitlements) note(change func(*particulars)) {
	own := *e.particulars()
	change(&own)
	e.own = &own
}

// refusedKey is what a refused license key allows.
func refusedKey(reason Reason) *Entitlements {
	return &Entitlements{own: &particulars{refused: reason}}
}

// text is a string that many customers have in common, kept once.
type text = unique.Handle[string]

// textOf is "" for the zero value, which what is not found consists of.
func textOf(t text) string {
	if t == (text{}) {
		return ""
	}
	return t.Value()
}

// textFrom is an id of Polar's in its usual form.
func textFrom(id string) text { return unique.Make(normalUUID(id)) }

func byText(a, b text) int { return strings.Compare(a.Value(), b.Value()) }

// Requirement is something that a route requires of a customer. Make one with Feature,
// Benefit, Product, Meter, All or Any. The zero value is never met.
type Requirement struct {
	kind  requirementKind
	id    string
	least float64
	of    []Requirement
}

type requirementKind int

const (
	needsFeature requirementKind = iota + 1
	needsBenefit
	needsProduct
	needsMeter
	needsAll
	needsAny
)

// Feature is met if a granted benefit unlocks the feature.
func Feature(name string) Requirement { return Requirement{kind: needsFeature, id: name} }

// Benefit is met if the benefit with that id is granted.
func Benefit(id string) Requirement { return Requirement{kind: needsBenefit, id: normalUUID(id)} }

// Product is met by an active or trialing subscription to the product with that id; see
// Entitlements.Subscribed.
func Product(id string) Requirement { return Requirement{kind: needsProduct, id: normalUUID(id)} }

// Meter is met if the meter with that id has a balance of at least so many units. Less than
// 0 allows customers to overdraw, also those who have never used the meter.
func Meter(id string, least float64) Requirement {
	return Requirement{kind: needsMeter, id: normalUUID(id), least: least}
}

// All is met if every one of the requirements is; without any, always.
func All(of ...Requirement) Requirement {
	return Requirement{kind: needsAll, of: slices.Clone(of)}
}

// Any is met if at least one of the requirements is; without any, never.
func Any(of ...Requirement) Requirement {
	return Requirement{kind: needsAny, of: slices.Clone(of)}
}

// ownRequirements are requirements in memory that nobody else writes to.
func ownRequirements(of []Requirement) []Requirement {
	own := slices.Clone(of)
	for i := range own {
		own[i].id, own[i].of = strings.Clone(own[i].id), ownRequirements(own[i].of)
	}
	return own
}

// without is what is left of a requirement if the balance of a meter counts for nothing.
// If the requirement doesn't name the meter, it is the zero value, which is never met.
func (r Requirement) without(meter string) Requirement {
	if !r.names(meter) {
		return Requirement{}
	}
	return r.discounting(meter)
}

func (r Requirement) names(meter string) bool {
	return r.kind == needsMeter && r.id == meter || slices.ContainsFunc(r.of, func(part Requirement) bool { return part.names(meter) })
}

// discounting is r with the requirements of a meter replaced by what is never met.
func (r Requirement) discounting(meter string) Requirement {
	if r.kind == needsMeter && r.id == meter {
		return Requirement{}
	}
	parts := slices.Clone(r.of)
	for i := range parts {
		parts[i] = parts[i].discounting(meter)
	}
	r.of = parts
	return r
}

// supposing is r, decided as far as it is about a meter, which is supposed to have a balance.
func (r Requirement) supposing(meter string, balance float64) Requirement {
	if r.kind == needsMeter && r.id == meter {
		if balance >= r.least {
			return All()
		}
		return Requirement{}
	}
	parts := slices.Clone(r.of)
	for i := range parts {
		parts[i] = parts[i].supposing(meter, balance)
	}
	r.of = parts
	return r
}

// Validate reports a mistake because of which nobody could ever meet a requirement, as an
// *InputError: a feature without a name, or an id that can't be Polar's. The zero value,
// and Any without requirements, are never met on purpose. Route panics with what Validate
// reports; call it first if ids come from a configuration.
func (r Requirement) Validate() error {
	switch r.kind {
	case needsFeature:
		if r.id == "" {
			return &InputError{"Feature", "needs a name"}
		}
	case needsBenefit, needsProduct, needsMeter:
		if _, ok := canonicalUUID4(r.id); !ok {
			name := map[requirementKind]string{needsBenefit: "Benefit", needsProduct: "Product", needsMeter: "Meter"}[r.kind]
			return &InputError{name, "needs an id that is a UUID of version 4: give it as Polar shows it"}
		}
		if math.IsNaN(r.least) {
			return &InputError{"Meter", "needs an amount that is a number"}
		}
	}
	for _, part := range r.of {
		if err := part.Validate(); err != nil {
			return err
		}
	}
	return nil
}

// MeterID is the meter's id of a requirement that Meter made, and empty for any other.
func (r Requirement) MeterID() string {
	if r.kind != needsMeter {
		return ""
	}
	return r.id
}

// String describes the requirement: "feature export", "benefit <id>", "product <id>",
// "meter <id> of at least 5", "feature a and feature b", "one of feature a, …".
func (r Requirement) String() string {
	if len(r.of) == 0 && r.kind == needsAll {
		return "nothing"
	}
	var parts []string
	for _, part := range r.of {
		parts = append(parts, part.String())
	}
	switch r.kind {
	case needsFeature:
		return "feature " + r.id
	case needsBenefit:
		return "benefit " + r.id
	case needsProduct:
		return "product " + r.id
	case needsMeter:
		return "meter " + r.id + " of at least " + strconv.FormatFloat(r.least, 'f', -1, 64)
	case needsAll:
		return strings.Join(parts, " and ")
	case needsAny:
		if len(parts) == 0 {
			break
		}
		return "one of " + strings.Join(parts, ", ")
	}
	return "nothing that can be met"
}

// readState reads the state of the customer who was asked about, as Polar writes it, and
// reduces it to what gates need. Only the customer's id and one of the lists must be
// present. A list that is missing or has another type is recorded as unread: it matters
// only to decisions that need it. Anything else that is missing, unknown or of another
// type is left out, and spoils nothing else.
func readState(body []byte, at time.Time, asked CustomerRef, organizationID string, features map[string][]string) (*Entitlements, error) {
	e, err := readEvent(body, organizationID, features)
	switch {
	case err != nil:
		return nil, err
	case !asked.is(e.CustomerID(), e.external):
		return nil, errForeignState
	}
	e.at = clock.PolarTime(at)
	return e, nil
}

// readDeleted reads which customer was deleted.
func readDeleted(body []byte, organizationID string) (*Entitlements, error) {
	f, err := wire.Object(body)
	if err != nil {
		return nil, err
	}
	e, err := readCustomer(f, organizationID)
	if err != nil {
		return nil, err
	}
	return e.deleted(f), nil
}

// deleted turns a customer into one that no longer exists. Polar then keeps the external
// id in the metadata.
func (e *Entitlements) deleted(f wire.Fields) *Entitlements {
	e.known, e.unread = false, 0
	if e.external == "" {
		var metadata wire.Fields
		wire.Optional(f, "metadata", &metadata)
		metadata.Text("__external_id", &e.external)
	}
	return e
}

// readCustomer reads which customer it is, and nothing of what they have.
func readCustomer(f wire.Fields, organizationID string) (*Entitlements, error) {
	e := &Entitlements{known: true}
	var id, organization string
	f.Text("id", &id)
	f.Text("external_id", &e.external)
	f.Text("organization_id", &organization)
	var ok bool
	if e.customer, ok = wire.ParseUUID(id); !ok {
		return nil, errors.New("no customer: the id is missing")
	}
	if organizationID != "" && organization != "" && !wire.SameUUID(organization, organizationID) {
		return nil, errForeignState
	}
	return e, nil
}

// readEvent reads the state of whichever customer it belongs to.
func readEvent(body []byte, organizationID string, features map[string][]string) (*Entitlements, error) {
	f, err := wire.Object(body)
	if err != nil {
		return nil, err
	}
	e, err := readCustomer(f, organizationID)
	if err != nil {
		return nil, err
	}
	read := func(name string, as lists) []wire.Fields {
		all, err := f.List(name)
		if err != nil {
			e.unread |= as
		}
		return all
	}
	grants := read("granted_benefits", listOfBenefits)
	subscriptions := read("active_subscriptions", listOfSubscriptions)
	meters := read("active_meters", listOfMeters)
	if e.unread == allLists {
		// Another object with a customer's id: refused, rather than taken for a customer
		// who has nothing.
		return nil, errors.New("no customer state: none of its lists can be read")
	}
	var deleted time.Time
	f.Time("deleted_at", &deleted)
	if !deleted.IsZero() {
		return e.deleted(f), nil
	}
	var have rights
	for _, g := range grants {
		var benefit, kind string
		g.Text("benefit_id", &benefit)
		g.Text("benefit_type", &kind)
		if benefit == "" {
			continue
		}
		have.benefits = append(have.benefits, newBenefit(benefit, kind, wire.Compact(g["benefit_metadata"]), wire.Compact(g["properties"])))
	}
	for _, s := range subscriptions {
		have.subscription(s)
	}
	for _, m := range meters {
		have.meter(m)
	}
	e.grant(have, features)
	return e, nil
}

// subscription reads a subscription, and adds the product of one that gives a right.
func (r *rights) subscription(s wire.Fields) {
	var is Subscription
	s.Text("id", &is.ID)
	is.ID = normalUUID(is.ID)
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
	r.products = append(r.products, textFrom(is.ProductID))
	r.subscriptions = append(r.subscriptions, is)
}

// meter reads how a meter of a customer stands, and adds it.
func (r *rights) meter(m wire.Fields) {
	var meter string
	var b MeterBalance
	m.Text("meter_id", &meter)
	wire.Optional(m, "consumed_units", &b.Consumed)
	wire.Optional(m, "credited_units", &b.Credited)
	b.Balance = max(-math.MaxFloat64, min(b.Credited-b.Consumed, math.MaxFloat64)) // never infinite
	wire.Optional(m, "balance", &b.Balance)
	b.Balance = ledger.Round(b.Balance)
	b.counted = countedAt(m)
	if meter == "" {
		return
	}
	b.id = textFrom(meter)
	r.meters = append(r.meters, b)
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

// grant gives e, which nobody else has seen yet, what a customer has.
func (e *Entitlements) grant(have rights, features map[string][]string) {
	if keys := keyedGrantsOf(have.benefits, features); keys != nil {
		e.own = &particulars{keys: keys}
	}
	grants := len(have.benefits)
	e.setRights(have.unlocking(have.benefits, features))
	e.perSeat = grants > len(e.plan().benefits)
}

var errForeignState = errors.New("the answer is about another customer or organization")

// noRight are the statuses of a subscription that grants nothing. Polar lists none of
// these among the active ones; an unknown status is taken as active.
var noRight = []string{"past_due", "unpaid", "canceled", "incomplete", "incomplete_expired", "paused", "revoked"}

// ofLicense is what a license key allows.
func ofLicense(l *LicenseKey, features map[string][]string) *Entitlements {
	customer, _ := wire.ParseUUID(l.CustomerID)
	e := &Entitlements{customer: customer, external: l.Customer.ExternalID, known: true, own: &particulars{license: l}, at: clock.PolarTime(l.answeredAt)}
	properties, _ := json.Marshal(map[string]string{"license_key_id": l.ID, "display_key": l.DisplayKey}) // it is all text
	e.setRights(rights{}.unlocking([]GrantedBenefit{newBenefit(l.BenefitID, licenseKeys, "{}", string(properties))}, features))
	return e
}

// hasFeatures reports whether a map of features names a benefit.
func hasFeatures(features map[string][]string, benefitID string) bool {
	_, ok := features[normalUUID(benefitID)]
	return ok
}

// countsAfter is how long after an event Polar counts it at the earliest, unless it is in a
// hurry because of others before it.
const countsAfter = 15 * time.Second

// count is what Polar counted of a meter, by its place. If Polar didn't say when, it was told
// of everything in it as long before the state as it takes to count.
func (e *Entitlements) count(i int) ledger.Count {
	a := e.amounts[i]
	if a.counted == 0 {
		a.counted = e.at.Before(countsAfter)
	}
	return ledger.Count{Consumed: ledger.Of(a.consumed), Balance: ledger.Of(a.balance), At: a.counted}
}

// withBalances is a copy with what is left on meters by a book.
func (e *Entitlements) withBalances(book *ledger.Book) *Entitlements {
	next := *e
	next.amounts = slices.Clone(e.amounts)
	book.Balances(func(meter string, left ledger.Units) {
		if i := e.meter(meter); i >= 0 {
			next.amounts[i].balance = left.Float()
		}
	})
	return &next
}
