// Package rights is what a customer, or the holder of a license key, has, as Polar said it:
// features, benefits, products, subscriptions and meters. It reads Polar's states and keeps
// them small, because a server has one for each customer in memory. It asks nobody, and it
// doesn't know how long an answer counts.
package rights

import (
	"fmt"
	"hash/maphash"
	"slices"
	"strings"
	"time"

	"github.com/polargate/polargate/internal/clock"
	"github.com/polargate/polargate/internal/intern"
	"github.com/polargate/polargate/internal/ledger"
	"github.com/polargate/polargate/internal/wire"
)

// State is what Polar said of one customer or license key. It is immutable once others have
// seen it. The zero value and nil belong to no customer and allow nothing.
type State struct {
	// What each decision reads stands first, so that it is in one place in memory.
	external string // "" where not known
	common   *plan
	own      *particulars
	known    bool
	perSeat  bool // a benefit is granted more than once, as for each seat of a team
	// unread are the lists that could not be read, and borrowed those of them that come
	// from an earlier state.
	unread, borrowed Lists
	customer         wire.UUID   // zero where not known
	amounts          *[]amounts  // of the plan's meters, in their order; nil if there are none
	at               clock.Polar // when Polar said so
	// subscriptions are those that make the plan's products, by id; the first knows the next.
	subscriptions *subscription
}

// Format prints Polar's id of the customer, whatever the verb: an external id may be an
// e-mail address.
func (s *State) Format(f fmt.State, _ rune) {
	fmt.Fprintf(f, "rights.State{Customer:%s}", s.CustomerID())
}

// Lists are those of a customer's state.
type Lists uint8

// The lists, by their names in Polar's state: granted_benefits, active_subscriptions and
// active_meters.
const (
	ListOfBenefits Lists = 1 << iota
	ListOfSubscriptions
	ListOfMeters
	allLists = ListOfBenefits | ListOfSubscriptions | ListOfMeters
)

// Names are the names of the lists in Polar's state.
func (l Lists) Names() (names []string) {
	for i, name := range []string{"granted_benefits", "active_subscriptions", "active_meters"} {
		if l&(1<<i) != 0 {
			names = append(names, name)
		}
	}
	return names
}

// Of is a customer with these ids who has nothing yet. known is that Polar has the customer.
func Of(customer wire.UUID, external string, known bool, at clock.Polar) *State {
	return &State{customer: customer, external: external, known: known, at: at}
}

// A License is a license key that Polar granted.
type License interface{ Facts() LicenseFacts }

// LicenseFacts are what counts of a license key here.
type LicenseFacts struct {
	ID, Customer string    // Polar's ids
	Ends         time.Time // zero if it doesn't
	Answered     time.Time // when Polar said so
}

// OfLicense is what a license key allows, by the benefit that it came with.
func OfLicense(l License, external string, benefit Benefit, features map[string][]string) *State {
	is := l.Facts()
	customer, _ := wire.ParseUUID(is.Customer)
	s := &State{customer: customer, external: external, known: true, own: &particulars{holder: &holder{license: l}}, at: clock.PolarTime(is.Answered)}
	s.set(Parts{}.unlocking([]Benefit{benefit}, features))
	return s
}

// Refused is what a license key allows that was refused for a reason.
func Refused(reason string, at clock.Polar) *State {
	return &State{own: &particulars{holder: &holder{refused: reason}}, at: at}
}

// Known reports whether Polar has such a customer or license key.
func (s *State) Known() bool { return s != nil && s.known }

// Customer is Polar's id of the customer; zero where it isn't known.
func (s *State) Customer() wire.UUID {
	if s == nil {
		return wire.UUID{}
	}
	return s.customer
}

// WithCustomer is a copy that belongs to a customer.
func (s *State) WithCustomer(id wire.UUID) *State {
	next := *s
	next.customer = id
	return &next
}

// CustomerID is Polar's id of the customer; "" if not known.
func (s *State) CustomerID() string {
	switch license := s.License(); {
	case license != nil:
		return wire.NormalUUID(license.Facts().Customer)
	case s == nil || s.customer == wire.UUID{}:
		return ""
	}
	return s.customer.String()
}

// Account is the customer whose meters these are; zero for a license key's.
func (s *State) Account() wire.UUID {
	if s.License() != nil {
		return wire.UUID{}
	}
	return s.customer
}

// External is the program's own id of the customer; "" if Polar has none.
func (s *State) External() string {
	if s == nil {
		return ""
	}
	return s.external
}

// At is when Polar said so.
func (s *State) At() clock.Polar { return s.at }

// SetAt changes when Polar said so, before anybody else has seen the state.
func (s *State) SetAt(at clock.Polar) { s.at = at }

// License is the license key that the state is about; nil if it is a customer's, or refused.
func (s *State) License() License {
	if h := s.particulars().holder; h != nil {
		return h.license
	}
	return nil
}

// Refusal is why the license key was refused; "" if it wasn't.
func (s *State) Refusal() string {
	if h := s.particulars().holder; h != nil {
		return h.refused
	}
	return ""
}

// IsPlain reports whether a state has nothing but its plan: neither license keys nor
// properties, and no license key refused.
func (s *State) IsPlain() bool { return s.own == nil }

// WithBeside is a copy of s, which may be nil, that carries what a program says beside Polar.
// Beside gives a pointer to it.
func WithBeside[T any](s *State, beside T) *State {
	both := &struct {
		state State
		own   particulars
		given T
	}{own: *s.particulars(), given: beside}
	if s != nil {
		both.state = *s
	}
	both.state.own, both.own.beside = &both.own, &both.given
	return &both.state
}

// Beside is what WithBeside was given; nil if it wasn't.
func (s *State) Beside() any { return s.particulars().beside }

// PerSeat reports whether a benefit is granted more than once, as for each seat of a team.
func (s *State) PerSeat() bool { return s.perSeat }

// Unread are the lists that could not be read.
func (s *State) Unread() Lists { return s.unread }

// Missing are the lists of which nothing is known: not even by an earlier state.
func (s *State) Missing() Lists { return s.unread &^ s.borrowed }

// AllowsTheSame reports whether two states grant the same, whatever is left on meters.
func (s *State) AllowsTheSame(other *State) bool {
	return s.known == other.known && s.Refusal() == other.Refusal() && s.CustomerID() == other.CustomerID() &&
		slices.Equal(s.Grants(), other.Grants()) && slices.Equal(s.plan().products, other.plan().products)
}

// HasAny reports whether the customer has a benefit, whether its license key counts or not, a
// product or a meter.
func (s *State) HasAny() bool {
	return s.known && (len(s.Grants()) > 0 || len(s.plan().products) > 0 || len(s.plan().meters) > 0)
}

// Has reports whether a feature is unlocked.
func (s *State) Has(feature string) bool {
	features := s.plan().features
	if len(features) <= 16 {
		return slices.Contains(features, feature) // is quicker in so few
	}
	_, ok := slices.BinarySearch(features, feature)
	return ok
}

// Features are the unlocked features, sorted. The slice is the caller's own.
func (s *State) Features() []string { return slices.Clone(s.plan().features) }

// Benefit is a benefit that counts, by its id in any form.
func (s *State) Benefit(id string) (Benefit, bool) {
	for i, b := range s.plan().benefits {
		if sameID(b.id.Value(), id) {
			return s.benefit(i), true
		}
	}
	return Benefit{}, false
}

// benefit is one by its place in the plan.
func (s *State) benefit(i int) Benefit {
	b := s.plan().benefits[i]
	if own := s.particulars().properties; own != nil && own[i] != "" {
		b.properties = own[i]
	}
	return b
}

// HasBenefits reports whether a benefit counts.
func (s *State) HasBenefits() bool { return len(s.plan().benefits) > 0 }

// Benefits are those that count, sorted by id. The slice is the caller's own.
func (s *State) Benefits() []Benefit {
	benefits := slices.Clone(s.plan().benefits)
	for i := range benefits {
		benefits[i] = s.benefit(i)
	}
	return benefits
}

// Subscribed reports whether a subscription to a product counts.
func (s *State) Subscribed(product string) bool {
	return slices.ContainsFunc(s.plan().products, func(p text) bool { return sameID(p.Value(), product) })
}

// Products are those with a subscription that counts, sorted. The slice is the caller's own.
func (s *State) Products() []string {
	var ids []string
	for _, p := range s.plan().products {
		ids = append(ids, p.Value())
	}
	return ids
}

// Subscriptions are those that count, sorted by id. The slice is the caller's own.
func (s *State) Subscriptions() []Subscription {
	var all []Subscription
	if s == nil {
		return nil
	}
	for is := s.subscriptions; is != nil; is = is.about.Value().next {
		all = append(all, is.public())
	}
	return all
}

// NextEnd is when the first of the subscriptions ends for good, by Polar's clock; 0 if none
// does. One that Polar still gives after its end hasn't ended.
func (s *State) NextEnd() (next clock.Polar) {
	for is := s.subscriptions; is != nil; {
		about := is.about.Value()
		if about.end > s.at && (next == 0 || about.end < next) {
			next = about.end
		}
		is = about.next
	}
	return next
}

// EndedBy is s without the subscriptions that have ended by then.
func (s *State) EndedBy(then clock.Polar) *State {
	if end := s.NextEnd(); end == 0 || then < end {
		return s
	}
	next, have := *s, s.parts()
	have.Subscriptions = slices.DeleteFunc(have.Subscriptions, func(is Subscription) bool {
		end := PolarTime(is.EndsAt)
		return end > s.at && end <= then
	})
	have.products = nil
	for _, is := range have.Subscriptions {
		have.products = append(have.products, textFrom(is.ProductID))
	}
	next.set(have)
	return &next
}

// Meter is how a meter stands, by its id in any form.
func (s *State) Meter(id string) (Meter, bool) {
	for i, meter := range s.plan().meters {
		if sameID(meter.Value(), id) {
			return s.meter(i), true
		}
	}
	return Meter{}, false
}

// meter is how one stands, by its place in the plan.
func (s *State) meter(i int) Meter {
	a := (*s.amounts)[i]
	return Meter{s.plan().meters[i], a.consumed, a.credited, a.balance, a.counted}
}

// Meters are all meters of the customer, sorted by id. The slice is the caller's own.
func (s *State) Meters() []Meter {
	var meters []Meter
	for i := range s.plan().meters {
		meters = append(meters, s.meter(i))
	}
	return meters
}

// place is that of a meter; -1 if there is none of that id.
func (s *State) place(id string) int {
	return slices.IndexFunc(s.plan().meters, func(meter text) bool { return meter.Value() == id })
}

// OwnMeterID is the id of a meter in memory that stays, also if the customer doesn't have it.
func (s *State) OwnMeterID(id string) string {
	if i := s.place(id); i >= 0 {
		return s.plan().meters[i].Value()
	}
	return strings.Clone(id)
}

// countsAfter is how long after an event Polar counts it at the earliest, unless it is in a
// hurry because of others before it.
const countsAfter = 15 * time.Second

// Count is what Polar counted of a meter; false if the customer doesn't have it. If Polar
// didn't say when, it was told of everything in it as long before the state as it takes to
// count.
func (s *State) Count(meter string) (ledger.Count, bool) {
	i := s.place(meter)
	if i < 0 {
		return ledger.Count{}, false
	}
	a := (*s.amounts)[i]
	if a.counted == 0 {
		a.counted = s.at.Before(countsAfter)
	}
	return ledger.Count{Consumed: ledger.Of(a.consumed), Balance: ledger.Of(a.balance), At: a.counted}, true
}

// WithBalances is a copy with what is left on meters by a book.
func (s *State) WithBalances(book *ledger.Book) *State {
	next := *s
	var all []amounts
	if s.amounts != nil {
		all = slices.Clone(*s.amounts)
		next.amounts = &all
	}
	book.Balances(func(meter string, left ledger.Units) {
		if i := s.place(meter); i >= 0 {
			all[i].balance = left.Float()
		}
	})
	return &next
}

// Completed is s, with what couldn't be read in it taken from an earlier state of the same
// customer that is no older than that.
func (s *State) Completed(earlier *State, noOlder time.Duration) *State {
	if s.unread == 0 || earlier == nil || !earlier.known || earlier.customer != s.customer {
		return s
	}
	since := earlier.at
	if earlier.borrowed != 0 {
		since = min(since, earlier.particulars().since)
	}
	borrow := s.unread &^ earlier.Missing()
	if borrow == 0 || s.at.Sub(since) >= noOlder {
		return s
	}
	next := *s
	next.borrowed = borrow
	have, had := s.parts(), earlier.parts()
	if borrow&ListOfBenefits != 0 {
		have.Benefits, have.features = had.Benefits, had.features
	}
	if borrow&ListOfSubscriptions != 0 {
		had = earlier.EndedBy(s.at).parts()
		have.products, have.Subscriptions = had.products, had.Subscriptions
	}
	if borrow&ListOfMeters != 0 {
		have.Meters = had.Meters
	}
	next.set(have)
	next.note(func(own *particulars) {
		own.since = since
		if borrow&ListOfBenefits != 0 {
			own.keys = earlier.keys()
		}
	})
	return &next
}

// ForMember is s, the state of a buyer, with the benefits of a member instead of the buyer's.
func (s *State) ForMember(own *State, features map[string][]string) *State {
	all := *s
	all.known = own.known
	counting := slices.DeleteFunc(own.Benefits(), func(b Benefit) bool {
		return s.unread&ListOfBenefits == 0 && !slices.ContainsFunc(s.Grants(), func(g Benefit) bool { return g.id == b.id })
	})
	all.unread, all.borrowed = s.unread&^ListOfBenefits, s.borrowed&^ListOfBenefits
	all.set(s.parts().unlocking(counting, features))
	all.note(func(of *particulars) { of.keys = own.keys() })
	return &all
}

// WithoutGrant is s, of which only grants are known, without one of them.
func (s *State) WithoutGrant(gone Benefit, features map[string][]string) *State {
	left := slices.DeleteFunc(s.Grants(), func(b Benefit) bool {
		return b.id == gone.id && b.LicenseKeyID() == gone.LicenseKeyID()
	})
	next := Of(s.customer, s.external, true, s.at)
	next.Grant(Parts{Benefits: left}, features)
	return next
}

// Grant gives s, which nobody else has seen yet, what a customer has.
func (s *State) Grant(have Parts, features map[string][]string) {
	if keys := keyedGrantsOf(have.Benefits, features); keys != nil {
		s.note(func(own *particulars) { own.keys = keys })
	}
	grants := len(have.Benefits)
	s.set(have.unlocking(have.Benefits, features))
	s.perSeat = grants > len(s.plan().benefits)
}

// plan is what customers of the same plan have in common. It is immutable and kept once
// for all of them: a customer with ten benefits takes no more memory than one with two.
type plan struct {
	features []string  // sorted; the strings are the configuration's
	benefits []Benefit // by id, without the properties that are a customer's own
	products []text    // sorted
	meters   []text    // sorted
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

// plan is what s has in common with others; never nil.
func (s *State) plan() *plan {
	if s == nil || s.common == nil {
		return &noPlan
	}
	return s.common
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
	// holder is set if the state is about a license key.
	holder *holder
	// beside is what a program says beside Polar; nil in what is cached.
	beside any
}

// holder is what is known of whoever has a license key.
type holder struct {
	license License // nil if it was refused
	refused string  // why; "" if it was granted
}

var noParticulars particulars

// particulars are what s has beside its plan; never nil.
func (s *State) particulars() *particulars {
	if s == nil || s.own == nil {
		return &noParticulars
	}
	return s.own
}

// note changes the particulars of s before anybody else has seen it.
func (s *State) note(change func(*particulars)) {
	own := *s.particulars()
	change(&own)
	s.own = &own
}
