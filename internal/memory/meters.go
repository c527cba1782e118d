package memory

import (
	"maps"

	"github.com/polargate/polargate/internal/ledger"
	"github.com/polargate/polargate/internal/rights"
	"github.com/polargate/polargate/internal/wire"
)

func (c *Cache) hasSpent(e *entry) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	book := e.answer.Load().more().book
	return book != nil && book.SpentLately()
}

// observe has a customer's book take in what Polar counted, and gives the value with what is
// left by that. mu is held.
func (c *Cache) observe(value *rights.State) *rights.State {
	book := c.books[value.Account()]
	if book == nil {
		return value
	}
	now, newest := c.PolarNow(), true
	if value.Unread()&rights.ListOfMeters == 0 {
		for _, meter := range book.Meters() {
			count, ok := value.Count(meter)
			if ok && !book.Observe(meter, count, now) {
				newest = false // it came out of a cache of Polar's
			}
			if ok && c.Counted != nil {
				c.Counted(value.Account(), meter)
			}
		}
		book.Answered()
	}
	if newest && book.Retire(now) {
		delete(c.books, value.Account())
		return value
	}
	book.Shown()
	return value.WithBalances(book)
}

// balanced is what an entry serves, with what is left on meters by now.
func (c *Cache) balanced(e *entry, a *answer) *answer {
	if !a.more().book.Changed() {
		return a
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.change(e, func(a *answer) {
		if a.more().book != nil {
			a.more().book.Shown()
			a.value = *a.value.WithBalances(a.more().book)
		}
	})
	return e.answer.Load()
}

// Hold reserves units of a customer's meter, if at least floor is left then. The book is the
// one that it is in. last is what the caller has just seen, which counts for a customer who
// was evicted since.
func (c *Cache) Hold(key Key, last *rights.State, meter string, units, floor ledger.Units) (book *ledger.Book, held bool) {
	now := c.PolarNow()
	if _, a := c.known.find(key); a != nil {
		book = a.more().book
	}
	for {
		outcome := ledger.Gone
		if book != nil {
			outcome = book.Hold(meter, units, floor, now)
		}
		if outcome != ledger.Gone {
			return book, outcome == ledger.Held
		}
		book = c.OpenBook(key, last, meter)
	}
}

// fewBooks is how many books are kept without looking whether they are needed.
const fewBooks = 1000

// OpenBook is the book of a customer, with an account of a meter.
func (c *Cache) OpenBook(key Key, last *rights.State, meter string) *ledger.Book {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, a := c.known.find(key)
	if a != nil {
		last = &a.value
	}
	return c.bookFor(last.Customer(), e, last, meter)
}

// bookFor is the book of a customer who has that entry, if any, with an account of a meter as
// last says. mu is held.
func (c *Cache) bookFor(id wire.UUID, e *entry, last *rights.State, meter string) *ledger.Book {
	count, has := last.Count(meter)
	meter = last.OwnMeterID(meter)
	book := c.books[id]
	if book == nil || !book.Open(meter, count, has) {
		c.sweepBooks()
		book = &ledger.Book{}
		book.Open(meter, count, has)
		c.books[id] = book
	}
	if e != nil && e.answer.Load().more().book != book {
		c.change(e, func(a *answer) { a.note(func(r *rarities) { r.book = book }) })
	}
	return book
}

// Restore changes a customer's account of a meter. Polar may not have been asked about the
// customer yet.
func (c *Cache) Restore(customer, meter string, change func(*ledger.Account)) {
	id, ok := wire.ParseUUID(customer)
	if !ok {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.known.byID(id)
	var last *rights.State
	if e != nil {
		last = e.value()
	}
	c.bookFor(id, e, last, meter).Do(meter, change)
}

// BookOf is the book of a customer by Polar's id; nil if there is none.
func (c *Cache) BookOf(id wire.UUID) *ledger.Book {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.books[id]
}

// EachBook goes through the books of all customers.
func (c *Cache) EachBook(see func(wire.UUID, *ledger.Book)) {
	c.mu.Lock()
	books := maps.Clone(c.books)
	c.mu.Unlock()
	for id, book := range books {
		see(id, book)
	}
}

// sweepBooks drops books of customers who owe nothing any more. mu is held.
func (c *Cache) sweepBooks() {
	if len(c.books) < max(c.sweepAt, fewBooks) {
		return
	}
	now := c.PolarNow()
	for id, book := range c.books {
		if e := c.known.byID(id); e == nil && book.Retire(now) {
			delete(c.books, id)
		}
	}
	c.sweepAt = 2 * len(c.books)
}
