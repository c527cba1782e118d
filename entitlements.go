package polargate

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/polargate/polargate/internal/clock"
	"github.com/polargate/polargate/internal/rights"
)

const opEntitlements = "entitlements" // what was done, in an *Error

// Entitlements are what one customer, or the holder of one license key, may use, as Polar
// last said. They are immutable. Their methods do no I/O, and allocate nothing except to
// return a list, a map or CustomerID. The zero value and nil belong to no customer and
// allow nothing.
type Entitlements rights.State

// state is e for the packages that know no Entitlements; its memory is the same.
func (e *Entitlements) state() *rights.State { return (*rights.State)(e) }

// saysTheSame reports whether two answers say the same to a program.
func (e *Entitlements) saysTheSame(other *Entitlements) bool {
	return e.state().AllowsTheSame(other.state()) && e.sameOverlays(other) && slices.Equal(e.Meters(), other.Meters()) &&
		slices.Equal(e.Subscriptions(), other.Subscriptions())
}

// GrantedBenefit is a benefit that a customer has now.
type GrantedBenefit struct{ is rights.Benefit }

// ID is the benefit's id.
func (b GrantedBenefit) ID() string { return b.is.ID() }

// Type is Polar's word for the kind of benefit: "custom", "license_keys", "feature_flag"
// and others, including kinds that this version doesn't know.
func (b GrantedBenefit) Type() string { return b.is.Type() }

// Metadata is what the vendor wrote on the benefit in Polar: a new map at each call;
// numbers are json.Number.
func (b GrantedBenefit) Metadata() map[string]any { return readMap(b.is.Metadata()) }

// Properties are what Polar keeps with the grant, which depends on the type: for
// "license_keys" the license_key_id and a masked display_key. Others may be personal, such
// as an account's id or an invited e-mail address. It is a new map at each call; numbers
// are json.Number. Source: granted_benefits[].properties of Polar's customer state.
func (b GrantedBenefit) Properties() map[string]any { return readMap(b.is.Properties()) }

// LicenseKeyID is the id of the license key that came with a benefit of the type
// "license_keys"; "" for others. It is no secret: the key itself is not told here.
func (b GrantedBenefit) LicenseKeyID() string { return b.is.LicenseKeyID() }

// Format prints a benefit by its id and type, whatever the verb: properties may be
// personal.
func (b GrantedBenefit) Format(f fmt.State, _ rune) {
	fmt.Fprintf(f, "polargate.GrantedBenefit{ID:%s Type:%s}", b.ID(), b.Type())
}

// LogValue logs what Format prints.
func (b GrantedBenefit) LogValue() slog.Value { return slog.StringValue(fmt.Sprint(b)) }

// readMap reads an object, as a map of its own.
func readMap(text string) map[string]any {
	m := map[string]any{}
	d := json.NewDecoder(strings.NewReader(text))
	d.UseNumber()
	if d.Decode(&m) != nil || m == nil {
		return map[string]any{}
	}
	return m
}

// MeterBalance is the state of a customer's meter.
type MeterBalance struct {
	id string
	// Consumed and Credited are units in the current period. Balance is what is left:
	// Credited minus Consumed by Polar's count, which can be negative, minus what was
	// spent here since; see Customers.Spend.
	Consumed, Credited, Balance float64
	counted                     clock.Polar // when Polar counted; 0 if it didn't say
}

func balanceOf(m rights.Meter) MeterBalance {
	return MeterBalance{m.ID(), m.Consumed, m.Credited, m.Balance, m.Counted}
}

// ID is the meter's id.
func (m MeterBalance) ID() string { return m.id }

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

// Known reports whether Polar has such a customer or license key. An unknown one has no
// entitlements.
func (e *Entitlements) Known() bool { return e.state().Known() }

// CustomerID is Polar's id of the customer; "" if not known.
func (e *Entitlements) CustomerID() string { return e.state().CustomerID() }

// ExternalID is your program's id of the customer; "" if Polar has none.
func (e *Entitlements) ExternalID() string { return e.state().External() }

// CheckedAt is when Polar said so, by its clock: to the second for an answer, exact for
// an event. It is zero for an unknown customer.
func (e *Entitlements) CheckedAt() time.Time {
	if !e.Known() {
		return time.Time{}
	}
	return e.state().At().Time()
}

// Has reports whether a feature is unlocked, as CustomersConfig.Features and
// CustomersConfig.Overlay say.
func (e *Entitlements) Has(feature string) bool { return e.state().Has(feature) || e.overlays(feature) }

// Features are the unlocked features, sorted. The slice is the caller's own.
func (e *Entitlements) Features() []string {
	features := e.state().Features()
	if over := e.overlaid(); over != nil {
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
	b, ok := e.state().Benefit(id)
	return GrantedBenefit{b}, ok
}

// Benefits are the benefits that are granted now, sorted by id. The slice is the caller's
// own.
func (e *Entitlements) Benefits() []GrantedBenefit {
	var benefits []GrantedBenefit
	for _, b := range e.state().Benefits() {
		benefits = append(benefits, GrantedBenefit{b})
	}
	return benefits
}

// Subscribed reports whether a subscription to a product is active or trialing. A
// subscription that is past due is neither, while its benefits may still be granted: gate
// on features and benefits first.
func (e *Entitlements) Subscribed(productID string) bool { return e.state().Subscribed(productID) }

// Products are the products with an active or trialing subscription, sorted. The slice is
// the caller's own.
func (e *Entitlements) Products() []string { return e.state().Products() }

// Subscriptions are the active and trialing subscriptions, sorted by id. One that was
// canceled is among them until its EndsAt, also while Polar can't be reached.
// A benefit isn't known to end then, because Polar doesn't say which subscription or order it
// comes with. The slice is the caller's own.
//
// Source: active_subscriptions of Polar's customer state.
func (e *Entitlements) Subscriptions() []Subscription {
	var all []Subscription
	for _, s := range e.state().Subscriptions() {
		all = append(all, Subscription(s))
	}
	return all
}

// Meter returns the state of a meter.
func (e *Entitlements) Meter(id string) (MeterBalance, bool) {
	m, ok := e.state().Meter(id)
	return balanceOf(m), ok
}

// Meters are all meters of the customer, sorted by id. The slice is the caller's own.
func (e *Entitlements) Meters() []MeterBalance {
	var meters []MeterBalance
	for _, m := range e.state().Meters() {
		meters = append(meters, balanceOf(m))
	}
	return meters
}

// License returns a copy of the license key that these entitlements come from, if a
// LicenseMiddleware found them.
func (e *Entitlements) License() (LicenseKey, bool) {
	license := e.license()
	if license == nil {
		return LicenseKey{}, false
	}
	return license.clone(), true
}

// license is the license key that e is about; nil if there is none.
func (e *Entitlements) license() *LicenseKey {
	held, _ := e.state().License().(*heldLicense)
	return (*LicenseKey)(held)
}

// heldLicense is a LicenseKey for package rights.
type heldLicense LicenseKey

// Facts are what counts of it there.
func (l *heldLicense) Facts() rights.LicenseFacts {
	return rights.LicenseFacts{ID: l.ID, Customer: l.CustomerID, Ends: (*LicenseKey)(l).EndsAt(), Answered: l.answeredAt}
}

// ofLicense is what a license key allows.
func ofLicense(l *LicenseKey, features map[string][]string) *rights.State {
	properties, _ := json.Marshal(map[string]string{"license_key_id": l.ID, "display_key": l.DisplayKey}) // it is all text
	benefit := rights.NewBenefit(l.BenefitID, rights.LicenseKeys, "{}", string(properties))
	return rights.OfLicense((*heldLicense)(l), l.Customer.ExternalID, benefit, features)
}

// refusedKey is what a refused license key allows.
func refusedKey(reason Reason) *rights.State { return rights.Refused(string(reason), 0) }

// Meets reports whether a requirement is met.
func (e *Entitlements) Meets(r Requirement) bool { return e.meets(&r, 0) }

// meets is Meets, where anything that could be in these lists counts as present.
func (e *Entitlements) meets(r *Requirement, supposed rights.Lists) bool {
	switch r.kind {
	case needsFeature:
		return supposed&rights.ListOfBenefits != 0 || e.Has(r.id)
	case needsBenefit:
		_, ok := e.Benefit(r.id)
		return supposed&rights.ListOfBenefits != 0 || ok
	case needsProduct:
		return supposed&rights.ListOfSubscriptions != 0 || e.Subscribed(r.id)
	case needsMeter:
		m, ok := e.Meter(r.id)
		ok = ok || r.least < 0 && e.Known() // the first use makes the meter
		return supposed&rights.ListOfMeters != 0 || ok && m.Balance >= r.least
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

// meetsAll reports whether all requirements are met.
func (e *Entitlements) meetsAll(requirements []Requirement) bool {
	for i := range requirements {
		if !e.meets(&requirements[i], 0) {
			return false
		}
	}
	return true
}

// undecided is why it can't be decided whether requirements are met: a list on which that
// depends couldn't be read. It is nil if they are met, and if they are unmet whatever is
// in that list.
func (e *Entitlements) undecided(requirements []Requirement) error {
	missing, openKey := e.state().Missing(), e.state().UndecidedKeys()
	if missing == 0 && openKey == nil {
		return nil
	}
	met, supposed := true, (*Entitlements)(e.state().SupposingKeys())
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
	return unreadable(missing)
}

// unreadable is the error for lists that couldn't be read.
func unreadable(lists rights.Lists) error {
	return &Error{Op: opEntitlements, Reason: ErrUnreachable, Detail: "Polar's answer holds no list that can be read in " + strings.Join(lists.Names(), " and ")}
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
func (e *Entitlements) Refused() Reason { return Reason(e.state().Refusal()) }

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
		Known: e.Known(), Customer: e.CustomerID(), CheckedAt: e.CheckedAt(),
		Features: append([]string{}, e.Features()...), Benefits: []benefit{},
		Subscriptions: append([]Subscription{}, e.Subscriptions()...), Meters: []meter{}, Refused: e.Refused(),
	}
	for _, o := range e.Overlays() {
		view.Overlays = append(view.Overlays, overlay(o))
	}
	for _, b := range e.Benefits() {
		metadata := json.RawMessage(b.is.Metadata())
		if !json.Valid(metadata) {
			metadata = nil
		}
		view.Benefits = append(view.Benefits, benefit{b.ID(), b.Type(), metadata, b.LicenseKeyID()})
	}
	for _, m := range e.Meters() {
		view.Meters = append(view.Meters, meter{m.ID(), m.Consumed, m.Credited, m.Balance})
	}
	if l := e.license(); l != nil {
		view.LicenseKey = &licenseKey{l.ID, l.DisplayKey, l.BenefitID, l.Status, l.Usage, l.LimitUsage, l.ExpiresAt}
	}
	return json.Marshal(view)
}

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

// permits reports whether these are the entitlements of a customer who meets all
// requirements, and is known, or meets them by an overlay.
func (e *Entitlements) permits(requirements []Requirement) bool {
	_, unmet := e.Unmet(requirements...)
	return !unmet && (e.Known() || e.byOverlay(requirements))
}

// lacking is the error of a wait that has ended.
func (e *Entitlements) lacking(requirements []Requirement, ended, failed error) error {
	missing := &MissingError{Err: ended}
	missing.Required, _ = e.Unmet(requirements...)
	if failure, ok := errors.AsType[*Error](failed); ok {
		missing.Err = errors.Join(ended, failure)
	}
	return missing
}

// MissingError says what a customer still lacked when Await gave up waiting.
type MissingError struct {
	// Required is the first unmet requirement. It is the zero Requirement if there was
	// none and Polar didn't know the customer.
	Required Requirement
	// Err is why the wait ended: context.DeadlineExceeded or context.Canceled, joined
	// with an *Error if the last request to Polar failed.
	Err error
}

// Error tells a developer what is missing and what to do. For a person, see Message.
func (e *MissingError) Error() string {
	what := "Polar doesn't know the customer yet"
	if e.Required.kind != 0 {
		what = "the customer doesn't have " + e.Required.String() + " yet"
	}
	return "polargate: await: " + what + " (" + inSentence(e.Err) + "). Polar grants a purchase seconds to minutes after the payment: show a page that reloads, and check that the product has the benefit."
}

func (e *MissingError) message(l *Language) string { return l.text(phraseMissing) }

// Unwrap returns why the wait ended, for errors.Is and errors.As.
func (e *MissingError) Unwrap() error { return e.Err }
