package rights

import (
	"cmp"
	"slices"
	"strings"
	"time"
	"unique"

	"github.com/polargate/polargate/internal/clock"
	"github.com/polargate/polargate/internal/wire"
)

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
func textFrom(id string) text { return unique.Make(wire.NormalUUID(id)) }

func byText(a, b text) int { return strings.Compare(a.Value(), b.Value()) }

// sameID compares an id in its usual form with one that was asked for, whose case doesn't
// matter.
func sameID(id, asked string) bool {
	return id == asked || len(id) == len(asked) && strings.EqualFold(id, asked) && wire.NormalUUID(asked) == id
}

// PolarTime is 0 for the zero time, and TimeOf the other way round.
func PolarTime(t time.Time) clock.Polar {
	if t.IsZero() {
		return 0
	}
	return clock.PolarTime(t)
}

// TimeOf is the zero time for 0.
func TimeOf(t clock.Polar) time.Time {
	if t == 0 {
		return time.Time{}
	}
	return t.Time()
}

// Benefit is a benefit that was granted.
type Benefit struct {
	id         text
	about      unique.Handle[aboutBenefit]
	properties string
}

// aboutBenefit is what a benefit says to all customers who have it.
type aboutBenefit struct{ kind, metadata string }

// LicenseKeys is the type of a benefit that comes with a license key.
const LicenseKeys = "license_keys"

// NewBenefit is a benefit with metadata and properties as JSON.
func NewBenefit(id, kind, metadata, properties string) Benefit {
	return Benefit{unique.Make(wire.NormalUUID(id)), unique.Make(aboutBenefit{kind, metadata}), properties}
}

// of is empty for the zero value, which what is not found consists of.
func (b Benefit) of() aboutBenefit {
	if b.about == (unique.Handle[aboutBenefit]{}) {
		return aboutBenefit{}
	}
	return b.about.Value()
}

// ID is Polar's id.
func (b Benefit) ID() string { return textOf(b.id) }

// Type is Polar's word for the kind of benefit.
func (b Benefit) Type() string { return b.of().kind }

// Metadata is what the vendor wrote on the benefit, as JSON.
func (b Benefit) Metadata() string { return b.of().metadata }

// Properties are those of the grant, as JSON.
func (b Benefit) Properties() string { return b.properties }

// LicenseKeyID is the id of the license key that came with a benefit; "" if none did.
func (b Benefit) LicenseKeyID() string {
	if !strings.Contains(b.properties, "license_key_id") {
		return ""
	}
	var id string
	f, _ := wire.Object([]byte(b.properties))
	f.Text("license_key_id", &id)
	return id
}

// personal reports whether the properties of a grant are specific to its customer. Those
// of other types of benefit are the same for all who have it.
func (b Benefit) personal() bool {
	switch b.Type() {
	case "custom", "feature_flag", "meter_credit", "downloadables":
		return false
	}
	return len(b.properties) > len("{}")
}

// Meter is how a customer's meter stands.
type Meter struct {
	id                          text
	Consumed, Credited, Balance float64
	Counted                     clock.Polar // when Polar counted; 0 if it didn't say
}

// NewMeter is a meter that has an id of Polar's.
func NewMeter(id string, consumed, credited, balance float64, counted clock.Polar) Meter {
	return Meter{textFrom(id), consumed, credited, balance, counted}
}

// ID is Polar's id.
func (m Meter) ID() string { return textOf(m.id) }

// Subscription is a subscription that counts. A time that Polar does not give is the zero
// time.
type Subscription struct {
	ID, ProductID     string
	Status            string
	TrialEnd          time.Time
	CurrentPeriodEnd  time.Time
	CancelAtPeriodEnd bool
	EndsAt            time.Time
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
		about := aboutSubscription{textFrom(s.ProductID), strings.Clone(s.Status), s.CancelAtPeriodEnd, PolarTime(s.TrialEnd), PolarTime(s.EndsAt), first}
		first = &subscription{id, PolarTime(s.CurrentPeriodEnd), unique.Make(about)}
	}
	return first
}

func (s *subscription) public() Subscription {
	about, id := s.about.Value(), ""
	if s.id != (wire.UUID{}) {
		id = s.id.String()
	}
	return Subscription{id, textOf(about.product), about.status, TimeOf(about.trial), TimeOf(s.paid), about.canceled, TimeOf(about.end)}
}

// Parts are what makes a state, in any order.
type Parts struct {
	Benefits      []Benefit
	Meters        []Meter
	Subscriptions []Subscription // each adds its product
	features      []string
	products      []text
}

// Add adds other parts.
func (p *Parts) Add(other Parts) {
	p.Benefits = append(p.Benefits, other.Benefits...)
	p.Meters = append(p.Meters, other.Meters...)
	p.Subscriptions = append(p.Subscriptions, other.Subscriptions...)
	p.products = append(p.products, other.products...)
}

// AddProducts adds products whose subscriptions aren't known.
func (p *Parts) AddProducts(ids []string) {
	for _, id := range ids {
		p.products = append(p.products, textFrom(id))
	}
}

// Products are the ids of the products.
func (p *Parts) Products() (ids []string) {
	for _, t := range p.products {
		ids = append(ids, t.Value())
	}
	return ids
}

// parts are those of s, in memory of their own.
func (s *State) parts() Parts {
	return Parts{
		features: slices.Clone(s.plan().features), Benefits: s.Benefits(), products: slices.Clone(s.plan().products), Meters: s.Meters(),
		Subscriptions: s.Subscriptions(),
	}
}

// unlocking are parts with other benefits, and the features that these unlock.
func (p Parts) unlocking(benefits []Benefit, features map[string][]string) Parts {
	p.Benefits, p.features = benefits, nil
	for _, b := range benefits {
		of, _ := FeaturesOf(features, b.ID())
		p.features = append(p.features, of...)
	}
	return p
}

// AnyBenefit stands for the benefits that a map of features doesn't name.
const AnyBenefit = "*"

// FeaturesOf are those that a benefit unlocks; false if the map has nothing for it. Ids are in
// their usual form.
func FeaturesOf(features map[string][]string, benefit string) (of []string, ok bool) {
	if of, ok = features[benefit]; !ok {
		of, ok = features[AnyBenefit]
	}
	return of, ok
}

// set makes these the parts of s. It sorts what came in no fixed order, drops duplicates, and
// keeps no more memory than that takes. Of several grants of a benefit, the same one stays
// whatever their order was.
func (s *State) set(have Parts) {
	slices.Sort(have.features)
	slices.SortStableFunc(have.Benefits, func(a, b Benefit) int {
		return cmp.Or(byText(a.id, b.id), strings.Compare(a.properties, b.properties))
	})
	slices.SortFunc(have.products, byText)
	slices.SortStableFunc(have.Meters, func(a, b Meter) int { return byText(a.id, b.id) })
	p := plan{
		features: slices.Clone(slices.Compact(have.features)),
		benefits: slices.Clone(slices.CompactFunc(have.Benefits, func(a, b Benefit) bool { return a.id == b.id })),
		products: slices.Clone(slices.Compact(have.products)),
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
	have.Meters = slices.CompactFunc(have.Meters, func(a, b Meter) bool { return a.id == b.id })
	s.amounts = nil
	if len(have.Meters) > 0 {
		all := make([]amounts, len(have.Meters))
		p.meters, s.amounts = make([]text, len(have.Meters)), &all
	}
	for i, m := range have.Meters {
		p.meters[i], (*s.amounts)[i] = m.id, amounts{m.Consumed, m.Credited, m.Balance, m.Counted}
	}
	s.common = p.shared()
	slices.SortStableFunc(have.Subscriptions, func(a, b Subscription) int { return strings.Compare(a.ID, b.ID) })
	s.subscriptions = subscriptionsOf(have.Subscriptions)
	if own != nil || s.particulars().properties != nil {
		s.note(func(of *particulars) { of.properties = own })
	}
}
