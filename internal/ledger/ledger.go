// Package ledger keeps what a customer has spent of a meter until Polar has counted it.
//
// It promises that what is left is never more than what Polar counted last, less what was
// spent and Polar can't have counted by then, less what is held: whatever states come in
// between, late or twice, and whoever else uses the meter. It does no I/O, and doesn't know
// when usage is reported: the caller says so, and what the time is by Polar's clock.
package ledger

import (
	"encoding/json"
	"slices"
	"time"

	"github.com/polargate/polargate/internal/clock"
)

const (
	// Cap is how long after usage was reported Polar has counted it for certain: at the
	// latest 180 minutes after the customer's first event, and a state may come out of a
	// cache of Polar's that is an hour old.
	Cap = 4 * time.Hour
	// Lost is how long after usage it counts as lost that Polar was told of it: a replica that
	// ended while the store was away may have known.
	Lost = 3 * 24 * time.Hour
	// mostLots bounds the memory and the stored size of an account.
	mostLots = 128
)

// Count is what Polar says of a customer's meter.
type Count struct {
	Consumed Units `json:"consumed"`
	Balance  Units `json:"balance"`
	// At is when Polar counted: all usage that it had been told of by then is in it.
	At clock.Polar `json:"at"`
}

// Lot is what was spent in one second, or in several that follow one another.
type Lot struct {
	From int64 `json:"from"` // Unix time in seconds, by Polar's clock
	To   int64 `json:"to"`
	// Untold is what Polar has not been told of, and Told the rest of what it hasn't
	// counted. By is when it had been told of all of that.
	Untold Units       `json:"untold"`
	Told   Units       `json:"told"`
	By     clock.Polar `json:"by"`
}

// Hold is what one holder has reserved. Until is when that ends by itself; 0 means never.
type Hold struct {
	Holder string      `json:"holder"`
	Units  Units       `json:"units"`
	Until  clock.Polar `json:"until"`
	// Step is the last change of this holder that is in the account.
	Step uint64 `json:"step"`
}

// Account is one customer's meter. The zero value is one that Polar has never counted, with
// a balance of 0. An Account is not safe for use by several goroutines.
type Account struct {
	Base    Count  `json:"base"`
	Counted bool   `json:"counted"` // Base is Polar's
	Lots    []Lot  `json:"lots"`    // oldest first
	Holds   []Hold `json:"holds"`

	spent, held Units // the sums of Lots and Holds
}

// Read reads an account that was written as JSON.
func Read(data []byte) (*Account, error) {
	var a Account
	if err := json.Unmarshal(data, &a); err != nil {
		return nil, err
	}
	a.tidy()
	a.holdLess(func(Hold) bool { return false })
	return &a, nil
}

// Left is what can still be reserved or spent. It is below zero if more was spent than there
// was.
func (a *Account) Left() Units { return a.Base.Balance.Minus(a.spent).Minus(a.held) }

// Owes reports whether anything was spent that Polar hasn't counted, or is held.
func (a *Account) Owes() bool { return len(a.Lots) > 0 || a.held.Positive() }

// Hold reserves units, if at least floor is left afterwards.
func (a *Account) Hold(holder string, units, floor Units) bool {
	if a.Left().Minus(units).Less(floor) {
		return false
	}
	h := a.HoldOf(holder)
	h.Units, a.held = h.Units.Plus(units), a.held.Plus(units)
	return true
}

// HoldOf is what a holder has reserved. It is valid until the next change of the account.
func (a *Account) HoldOf(holder string) *Hold {
	i := slices.IndexFunc(a.Holds, func(h Hold) bool { return h.Holder == holder })
	if i < 0 {
		i = len(a.Holds)
		a.Holds = append(a.Holds, Hold{Holder: holder})
	}
	return &a.Holds[i]
}

// Release ends a reservation.
func (a *Account) Release(holder string, units Units) {
	h := a.HoldOf(holder)
	units = least(units, h.Units)
	h.Units, a.held = h.Units.Minus(units), a.held.Minus(units)
}

// Spend notes that units were used. told says that Polar knows, or soon will; otherwise Told
// says so later. It doesn't ask what is left: what was used was used.
func (a *Account) Spend(units Units, at clock.Polar, told bool) {
	if !units.Positive() {
		return
	}
	lot := a.lot(second(at))
	a.spent = a.spent.Plus(units)
	if told {
		lot.Told, lot.By = lot.Told.Plus(units), max(lot.By, at)
	} else {
		lot.Untold = lot.Untold.Plus(units)
	}
	if len(a.Lots) > mostLots {
		a.merge()
	}
}

// Told notes that Polar was told, by that time, of units that were used at another.
func (a *Account) Told(units Units, at, by clock.Polar) {
	i := a.find(second(at))
	if i < 0 {
		return
	}
	lot := &a.Lots[i]
	units = least(units, lot.Untold)
	lot.Untold, lot.Told, lot.By = lot.Untold.Minus(units), lot.Told.Plus(units), max(lot.By, by)
}

// Undo takes back units that were used at a time, as far as Polar hasn't counted them.
func (a *Account) Undo(units Units, at clock.Polar) {
	i := a.find(second(at))
	if i < 0 {
		return
	}
	lot := &a.Lots[i]
	lot.Told = lot.Told.Minus(least(units, lot.Told))
	a.tidy()
}

// Restore adds what was spent by a process that ended, unless Polar has counted it by now.
func (a *Account) Restore(lots []Lot) {
	for _, restored := range lots {
		if a.Counted && restored.By <= a.Base.At {
			continue
		}
		lot := a.lot(restored.From)
		lot.To, lot.By = max(lot.To, restored.To), max(lot.By, restored.By)
		lot.Told, lot.Untold = lot.Told.Plus(restored.Told), lot.Untold.Plus(restored.Untold)
	}
	a.tidy()
}

// Observe takes in what Polar counted. What was spent is forgotten, oldest first, as
// Consumed grows by it, if Polar had been told of it when it counted: growth before that is
// somebody else's use of the meter. If Consumed fell, a period has begun, or usage was taken
// back: then Polar has counted all that it was told of. A count that is older than the last
// changes nothing.
func (a *Account) Observe(c Count) {
	switch {
	case a.Counted && c.At < a.Base.At:
		return
	case !a.Counted, c.Consumed.Less(a.Base.Consumed):
		for i := range a.Lots {
			if lot := &a.Lots[i]; lot.By <= c.At {
				lot.Told = Units{}
			}
		}
	default:
		grown := c.Consumed.Minus(a.Base.Consumed)
		for i := range a.Lots {
			if lot := &a.Lots[i]; lot.By <= c.At {
				counted := least(grown, lot.Told)
				lot.Told, grown = lot.Told.Minus(counted), grown.Minus(counted)
			}
		}
	}
	a.Base, a.Counted = c, true
	a.tidy()
}

// Expire forgets what Polar has counted for certain by now, and holds that have ended.
func (a *Account) Expire(now clock.Polar) {
	for i := range a.Lots {
		lot := &a.Lots[i]
		if now.Sub(lot.By) > Cap {
			lot.Told = Units{}
		}
		if second(now)-lot.To > int64(Lost/time.Second) {
			lot.Untold = Units{}
		}
	}
	for i := range a.Holds {
		if h := &a.Holds[i]; h.Until != 0 && h.Until <= now {
			h.Units = Units{}
		}
	}
	// A holder is remembered for as long as it may ask whether its last step is stored.
	a.holdLess(func(h Hold) bool { return h.Until != 0 && now.Sub(h.Until) > Cap })
	a.tidy()
}

// setHold makes a hold one of so many units.
func (a *Account) setHold(h *Hold, units Units) {
	h.Units, a.held = units, a.held.Minus(h.Units).Plus(units)
}

// holdLess drops holds.
func (a *Account) holdLess(drop func(Hold) bool) {
	a.Holds, a.held = slices.DeleteFunc(a.Holds, drop), Units{}
	for i := range a.Holds {
		a.held = a.held.Plus(a.Holds[i].Units)
	}
}

// Clone is a copy that shares nothing with a.
func (a *Account) Clone() *Account {
	b := *a
	b.Lots, b.Holds = slices.Clone(a.Lots), slices.Clone(a.Holds)
	return &b
}

func second(at clock.Polar) int64 { return int64(at) / int64(time.Second) }

// lot is the lot of a second, which is made if there is none.
func (a *Account) lot(second int64) *Lot {
	i := len(a.Lots)
	for i > 0 && a.Lots[i-1].From > second {
		i--
	}
	if i > 0 && a.Lots[i-1].To >= second {
		return &a.Lots[i-1]
	}
	a.Lots = slices.Insert(a.Lots, i, Lot{From: second, To: second})
	return &a.Lots[i]
}

// find is the place of the lot that a second is in; -1 if there is none any more.
func (a *Account) find(second int64) int {
	for i := len(a.Lots) - 1; i >= 0; i-- {
		if lot := a.Lots[i]; lot.From <= second && second <= lot.To {
			return i
		}
	}
	return -1
}

// merge halves the number of lots.
func (a *Account) merge() {
	merged := a.Lots[:0]
	for i := 0; i < len(a.Lots); i += 2 {
		lot := a.Lots[i]
		if i+1 < len(a.Lots) {
			next := a.Lots[i+1]
			lot.To, lot.By = next.To, max(lot.By, next.By)
			lot.Untold, lot.Told = lot.Untold.Plus(next.Untold), lot.Told.Plus(next.Told)
		}
		merged = append(merged, lot)
	}
	a.Lots = merged
}

// tidy drops lots in which nothing is left.
func (a *Account) tidy() {
	a.Lots = slices.DeleteFunc(a.Lots, func(lot Lot) bool { return lot.Untold == Units{} && lot.Told == Units{} })
	a.spent = Units{}
	for i := range a.Lots {
		a.spent = a.spent.Plus(a.Lots[i].Untold).Plus(a.Lots[i].Told)
	}
}
