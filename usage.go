package polargate

import (
	"context"
	"net/http"
	"slices"
	"sync/atomic"

	"github.com/polargate/polargate/internal/ledger"
)

// reservation holds units of a customer's meter.
type reservation struct {
	customers *Customers
	of        *Entitlements // as they were when the units were held
	book      *ledger.Book
	meter     string
	units     ledger.Units
	settled   atomic.Bool
}

// reserve holds units of a customer's meter. value is what the caller has decided by, and
// requirements are those that it meets.
func (c *Customers) reserve(key cacheKey, value *Entitlements, meterID string, units ledger.Units, requirements []Requirement) (*reservation, *Refusal) {
	meter := normalUUID(meterID)
	if value.missing()&listOfMeters != 0 {
		_, refusal := c.decide(nil, listOfMeters.unreadable(), nil)
		return nil, refusal
	}
	floor := ledger.Of(value.overdraft(meter, requirements))
	book, held := c.cache.hold(CustomerRef{key}.payer(), value, meter, units, floor)
	if !held {
		return nil, c.refusal(Refusal{Status: http.StatusPaymentRequired, Required: Meter(meterID, units.Float()), Entitlements: value})
	}
	return &reservation{customers: c, of: value, book: book, meter: meter, units: units}, nil
}

// rest is what the customer has, less what is held.
func (r *reservation) rest() *Entitlements { return r.of.withBalances(r.book) }

// Release gives the units back, unless they were spent.
func (r *reservation) Release() { r.settle(ledger.Units{}) }

// spend has the units spent. Polar is taken to be told of them by the program.
func (r *reservation) spend() { r.settle(r.units) }

func (r *reservation) settle(used ledger.Units) {
	if r.settled.CompareAndSwap(false, true) {
		r.book.Settle(r.meter, r.units, used, r.customers.cache.polarNow(), true)
	}
}

// overdraft is how far below zero requirements let a meter go: 0 unless one of them says so.
func (e *Entitlements) overdraft(meter string, requirements []Requirement) float64 {
	limits := overdraftsOf(nil, meter, requirements)
	slices.Sort(limits)
	for _, least := range limits {
		if e.Meets(All(requirements...).supposing(meter, least)) {
			return least
		}
	}
	return 0
}

// overdraftsOf appends the limits below zero that requirements set for a meter.
func overdraftsOf(limits []float64, meter string, requirements []Requirement) []float64 {
	for i := range requirements {
		r := &requirements[i]
		if r.kind == needsMeter && r.id == meter && r.least < 0 {
			limits = append(limits, r.least)
		}
		limits = overdraftsOf(limits, meter, r.of)
	}
	return limits
}

// Spend takes units off a meter in memory, so that requests that come faster than Polar
// counts can't use more than there is. It doesn't tell Polar: your program sends its usage
// events, before or soon after. ok is false if the balance is too low; then nothing was
// taken. giveBack undoes it, once, as far as Polar hasn't counted the units yet; it is never
// nil. A customer has one balance here, by whichever id you name them.
//
// The units stay taken off until Polar has counted them, which it does 15 seconds after the
// customer's last event, and at the latest 180 minutes after the first. Units that Polar
// never counts come back after four hours.
func (c *Customers) Spend(ctx context.Context, customer CustomerRef, meterID string, units float64) (giveBack func(), ok bool, err error) {
	nothing := func() {}
	if !(units > 0) || units > mostUnits {
		return nothing, false, &InputError{"units", "must be more than 0"}
	}
	value, err := c.Entitlements(ctx, customer)
	if err != nil {
		return nothing, false, err
	}
	if value.missing()&listOfMeters != 0 {
		return nothing, false, listOfMeters.unreadable()
	}
	if !value.known {
		return nothing, false, nil
	}
	taken := ledger.Cost(units)
	meter := normalUUID(meterID)
	book, held := c.cache.hold(customer.payer(), value, meter, taken, ledger.Units{})
	if !held {
		return nothing, false, nil
	}
	at := c.cache.polarNow()
	book.Settle(meter, taken, taken, at, true)
	var undone atomic.Bool
	return func() {
		if undone.CompareAndSwap(false, true) {
			book.Do(meter, func(a *ledger.Account) { a.Undo(taken, at) })
		}
	}, true, nil
}

// mostUnits is the most that can be spent at once.
const mostUnits = 1e15
