package ledger

import (
	"slices"
	"sync"
	"sync/atomic"

	"github.com/polargate/polargate/internal/clock"
)

// Book has the accounts of one customer, by meter. All methods are safe for use by many
// goroutines.
type Book struct {
	changed atomic.Bool

	mu       sync.Mutex
	accounts []entry
	spent    bool
	retired  bool
}

// Outcome is what came of a wish to hold units.
type Outcome int

const (
	Held  Outcome = iota // they are held
	Short                // there are not so many left
	Gone                 // there is no account, or the book is retired: open it anew
)

type entry struct {
	meter string
	*Account
}

// Changed reports whether what is left on a meter changed since Balances. Nothing does where
// there is no book: b may be nil.
func (b *Book) Changed() bool { return b != nil && b.changed.Load() }

// Open makes the account of a meter, if there is none, with what Polar counted last; false
// as counted says that Polar has not counted it yet. It reports whether it could: not once
// the book is retired.
func (b *Book) Open(meter string, c Count, counted bool) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.retired {
		return false
	}
	if b.find(meter) == nil {
		b.accounts = append(b.accounts, entry{meter, &Account{Base: c, Counted: counted}})
	}
	return true
}

func (b *Book) find(meter string) *Account {
	for i := range b.accounts {
		if b.accounts[i].meter == meter {
			return b.accounts[i].Account
		}
	}
	return nil
}

// Do changes the account of a meter, if there is one.
func (b *Book) Do(meter string, change func(*Account)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if a := b.find(meter); a != nil {
		change(a)
		b.changed.Store(true)
	}
}

// Replace puts an account that is kept elsewhere in the place of a meter's. What Polar counted
// last stays known.
func (b *Book) Replace(meter string, a *Account) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for i := range b.accounts {
		if b.accounts[i].meter == meter {
			if old := b.accounts[i].Account; old.Counted && (!a.Counted || a.Base.At < old.Base.At) {
				a.Observe(old.Base)
			}
			b.accounts[i].Account = a
			b.changed.Store(true)
		}
	}
}

// Base is what Polar counted last of a meter; false if nothing.
func (b *Book) Base(meter string) (c Count, counted bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if a := b.find(meter); a != nil {
		return a.Base, a.Counted
	}
	return Count{}, false
}

// Hold reserves units of a meter; see Account.Hold.
func (b *Book) Hold(meter string, units, floor Units, now clock.Polar) Outcome {
	b.mu.Lock()
	defer b.mu.Unlock()
	a := b.find(meter)
	if a == nil || b.retired {
		return Gone
	}
	held := a.Hold("", units, floor)
	if !held {
		a.Expire(now)
		held = a.Hold("", units, floor)
	}
	if !held {
		return Short
	}
	b.spent = true
	b.changed.Store(true)
	return Held
}

// Settle ends a reservation of units, of which used were used; see Account.Spend.
func (b *Book) Settle(meter string, units, used Units, at clock.Polar, told bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	a := b.find(meter)
	if a == nil {
		return
	}
	before := a.Left()
	a.Release("", units)
	a.Spend(used, at, told)
	b.spent = true
	if a.Left() != before {
		b.changed.Store(true)
	}
}

// SpentLately reports whether anything was held or spent since Answered.
func (b *Book) SpentLately() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.spent
}

// Answered notes that Polar said anew what a customer has.
func (b *Book) Answered() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.spent = false
}

// Meters are those that there are accounts of.
func (b *Book) Meters() (meters []string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, e := range b.accounts {
		meters = append(meters, e.meter)
	}
	return meters
}

// Observe takes in what Polar counted of a meter, if there is an account, and reports whether
// that is not older than what it has; see Account.Observe.
func (b *Book) Observe(meter string, c Count, now clock.Polar) (current bool) {
	current = true
	b.Do(meter, func(a *Account) {
		a.Observe(c)
		a.Expire(now)
		current = a.Base == c
	})
	return current
}

// Shown notes that what is left is about to be shown to everybody, by Balances.
func (b *Book) Shown() { b.changed.Store(false) }

// Balances tells what is left on each meter of which there is an account.
func (b *Book) Balances(tell func(meter string, left Units)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, e := range b.accounts {
		tell(e.meter, e.Left())
	}
}

// Each gives copies of all accounts.
func (b *Book) Each(see func(meter string, a *Account)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, e := range b.accounts {
		see(e.meter, e.Clone())
	}
}

// Retire ends a book in which nothing is owed by now, and reports whether it did. From then on
// nothing can be held by it.
func (b *Book) Retire(now clock.Polar) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	owes := slices.ContainsFunc(b.accounts, func(e entry) bool {
		e.Expire(now)
		return e.Owes()
	})
	b.retired = b.retired || !owes
	return b.retired
}
