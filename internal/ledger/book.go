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
}

type entry struct {
	meter string
	*Account
}

// Changed reports whether what is left on a meter changed since Balances.
func (b *Book) Changed() bool { return b.changed.Load() }

// Has reports whether there is an account of a meter.
func (b *Book) Has(meter string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.find(meter) != nil
}

// Open makes the account of a meter, if there is none, with what Polar counted last; false
// as counted says that Polar has not counted it yet.
func (b *Book) Open(meter string, c Count, counted bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.find(meter) == nil {
		b.accounts = append(b.accounts, entry{meter, &Account{Base: c, Counted: counted}})
	}
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

// Replace puts another account in the place of a meter's, such as one that is kept elsewhere.
func (b *Book) Replace(meter string, a *Account) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for i := range b.accounts {
		if b.accounts[i].meter == meter {
			b.accounts[i].Account = a
			b.changed.Store(true)
		}
	}
}

// Hold reserves units of a meter; see Account.Hold.
func (b *Book) Hold(meter string, units, floor Units, now clock.Polar) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	a := b.find(meter)
	if a == nil {
		return false
	}
	held := a.Hold("", units, floor)
	if !held {
		a.Expire(now)
		held = a.Hold("", units, floor)
	}
	if held {
		b.noteSpent()
	}
	return held
}

// Settle ends a reservation of units, of which used were used; see Account.Spend.
func (b *Book) Settle(meter string, units, used Units, at clock.Polar, told bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if a := b.find(meter); a != nil {
		a.Release("", units)
		a.Spend(used, at, told)
		b.noteSpent()
	}
}

func (b *Book) noteSpent() {
	b.spent = true
	if !b.changed.Load() {
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

// Observe takes in what Polar counted of a meter, if there is an account; see
// Account.Observe.
func (b *Book) Observe(meter string, c Count, now clock.Polar) {
	b.Do(meter, func(a *Account) {
		a.Observe(c)
		a.Expire(now)
	})
}

// Balances tells what is left on each meter of which there is an account.
func (b *Book) Balances(tell func(meter string, left Units)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.changed.Store(false)
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

// Owes reports whether there is anything to keep the book for by now.
func (b *Book) Owes(now clock.Polar) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.ContainsFunc(b.accounts, func(e entry) bool {
		e.Expire(now)
		return e.Owes()
	})
}
