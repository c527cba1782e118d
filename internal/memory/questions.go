package memory

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync/atomic"

	"github.com/polargate/polargate/internal/clock"
	"github.com/polargate/polargate/internal/flight"
	"github.com/polargate/polargate/internal/rights"
	"github.com/polargate/polargate/internal/transport"
)

// inOutage reports whether a question had no answer a moment ago, about this customer or
// another: who can be served from memory does not wait for the next try, which may take
// as long to fail.
func (c *Cache) inOutage(kind Kind, a *answer, now clock.Local) bool {
	if a.more().failure != nil && now < a.more().failure.retryAt.After(outageLasts) {
		return true
	}
	return c.outageOf(kind, now) != nil
}

// Urgency is which answer that is there by now is as good as a new one.
type Urgency int

const (
	UnlessFresh   Urgency = iota // one that is fresh
	unlessCertain                // one that a refusal can be believed by
	InAnyCase                    // none
)

// mayAsk reports whether a question can be asked that could wait: not while customers
// are turned away, nor if that keeps others waiting. done is to be called after it.
func (c *Cache) mayAsk(now clock.Local) (done func(), ok bool) {
	if now < c.ShortUntil() {
		return nil, false
	}
	if others := c.optional.Add(1) - 1; !c.Spare(others) {
		c.optional.Add(-1)
		return nil, false
	}
	return func() { c.optional.Add(-1) }, true
}

// NoteShort has those who can be served from memory yield for a while.
func (c *Cache) NoteShort(now clock.Local) { c.short.Store(int64(now.After(ShortLasts))) }

func (c *Cache) ShortUntil() clock.Local { return clock.Local(c.short.Load()) }

// outageOf is the failure that is believed of all questions of a kind; nil if none.
func (c *Cache) outageOf(kind Kind, now clock.Local) error {
	if o := c.outages[kind].Load(); o != nil && now < o.until {
		return o.err
	}
	return nil
}

// notePanic notes a panic on the way to Polar that no caller is told of.
func (c *Cache) notePanic(key Key, err error) {
	if panicked, ok := errors.AsType[*flight.PanicError](err); ok {
		c.failed(key, err)
		c.Panicked(panicked)
	}
}

// turnedAway has those who can be served from memory yield, if it is for lack of
// requests that a customer gets no answer. Not for a key: anybody can make those up.
func (c *Cache) turnedAway(kind Kind, err error, now clock.Local) {
	if c.Judge(err).Unasked && kind != ByLicenseKey {
		c.NoteShort(now)
		if c.Others != nil {
			c.Others.TellShort(now)
		}
	}
}

// outage is a failure that is believed for a moment, of one customer or of all: who
// cannot be served from memory does not wait for a server that has just not answered.
// Kinds have their own, for a token may be good for one and not for another.
type outage struct {
	until clock.Local
	err   error
}

// Fetch asks Polar, once for all who want to know at the same time. Each caller
// waits on a context of its own. The work, which may go on after them, has the key in
// memory of its own.
func (c *Cache) Fetch(ctx context.Context, key Key, when Urgency) (*rights.State, error) {
	key = key.Own()
	return flight.Do(ctx, &c.Flights, string('0'+rune(key.Kind))+key.ID, func(context.Context) (*rights.State, error) {
		if value, ok := c.current(key, when); ok {
			return value, nil // it came between this caller's look and its turn
		}
		return c.refresh(key, when)
	})
}

// current is the answer for a key that needs no question, also that it is not known.
func (c *Cache) current(key Key, when Urgency) (*rights.State, bool) {
	e := c.entryOf(key)
	if e == nil || when == InAnyCase {
		return nil, false
	}
	a, now := c.balanced(e, e.answer.Load()), c.Now()
	if now >= a.freshUntil || when == unlessCertain && now >= a.doubtAt {
		return nil, false
	}
	return &a.value, true
}

// Leave is what a replica has before it asks Polar.
type Leave struct {
	// Unit is the request, if it was taken from the budget of all replicas already.
	Unit *Unit
	// Behind: what is in memory by now can be served, and Polar is asked in the background.
	Behind bool
	// End ends the claim to ask, for want of an answer; nil if there is no claim.
	End func()
}

// Unit is a request that was taken from the budget of all replicas ahead of time.
type Unit struct{ used atomic.Bool }

type unitKey struct{}

// TakeUnit reports whether a question's request was taken from the budget of all replicas
// already. It is true once.
func TakeUnit(ctx context.Context) bool {
	taken, ok := ctx.Value(unitKey{}).(*Unit)
	return ok && taken.used.CompareAndSwap(false, true)
}

func (l Leave) giveUp() {
	if l.End != nil {
		l.End()
	}
}

// refresh asks the other replicas, and then Polar, and keeps the answer.
func (c *Cache) refresh(key Key, when Urgency) (*rights.State, error) {
	began := c.Now()
	if when != InAnyCase {
		began = 0
	}
	if value, ok := c.stateOf(key); ok && when == UnlessFresh {
		return c.withKeysLookedUp(key, value, 0), nil
	}
	if c.Others == nil {
		return c.question(key, when, began, Leave{})
	}
	ctx, cancel := context.WithTimeout(c.Life, c.Timeout)
	defer cancel()
	l, enough, err := c.Others.Seek(ctx, key, when)
	e := c.entryOf(key)
	switch {
	case err != nil:
		c.Count(err)
		c.failed(key, err)
		return nil, err
	case enough && e != nil:
		return c.withKeysLookedUp(key, e.value(), began), nil
	case l.Behind && e != nil && e.refreshing.CompareAndSwap(false, true):
		c.GoBehind(func() {
			defer e.refreshing.Store(false)
			_, _ = c.question(key, when, began, l)
		})
		return c.serving(e, c.Now()), nil
	}
	return c.question(key, when, began, l)
}

// question asks Polar and keeps the answer.
func (c *Cache) question(key Key, when Urgency, began clock.Local, l Leave) (*rights.State, error) {
	if e, _ := c.known.find(key); e == nil && l.Unit == nil { // else all replicas together allow it
		end, ok := c.Unseen[key.Kind].Begin()
		if !ok {
			l.giveUp()
			return nil, c.turnAway(key.Kind)
		}
		defer end()
	}
	ctx, cancel := context.WithTimeout(c.Life, c.Timeout)
	defer cancel()
	if l.Unit != nil {
		ctx = context.WithValue(ctx, unitKey{}, l.Unit)
	}
	asked := c.begin(key, when)
	value, err := c.Ask(ctx, key)
	c.Count(err)
	if err != nil {
		l.giveUp()
		c.failed(key, err)
		return nil, err
	}
	c.outages[key.Kind].Store(nil)
	c.NoteTime(value.At())
	served, n := c.Store(key, value, asked)
	served = c.withKeysLookedUp(key, served, began)
	switch {
	case c.Others == nil:
	case value.Unread() != 0: // it is of no use to others
		l.giveUp()
	default:
		c.Others.Publish(n)
		if younger := c.youngerThan(key, n.At); younger != nil { // which another replica was told
			return younger, nil
		}
	}
	return served, nil
}

// youngerThan is what is cached under a key if that is younger; nil if it is not.
func (c *Cache) youngerThan(key Key, at clock.Polar) *rights.State {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e, a := c.known.find(key); e != nil && e.factAt() > at {
		return &a.value
	}
	return nil
}

// IsFresh reports whether what is cached under a key needs no question, but for the license
// keys that benefits come with.
func (c *Cache) IsFresh(key Key) bool {
	if _, ok := c.stateOf(key); ok {
		return true
	}
	_, ok := c.current(key, UnlessFresh)
	return ok
}

// LicenseOf is the id of the license key that is cached under a key; "" if there is none.
func (c *Cache) LicenseOf(key Key) string {
	if key.Kind != ByLicenseKey {
		return ""
	}
	_, a := c.known.find(key)
	if a == nil || a.value.License() == nil {
		return ""
	}
	return a.value.License().Facts().ID
}

// Count counts a question by how it ended. One that was not sent is none, and no
// failure of Polar's.
func (c *Cache) Count(err error) {
	is := c.Judge(err)
	switch {
	case is.Unasked:
		c.Counts.UnseenTurnedAway.Add(1)
		return
	case is.HeldBack, err != nil && c.Life.Err() != nil:
		return
	case err != nil:
		c.Counts.Failures.Add(1)
	}
	c.Counts.Upstream.Add(1)
}

// turnAway is the answer about a customer or key that was never seen and is not asked about.
func (c *Cache) turnAway(kind Kind) error {
	c.Counts.UnseenTurnedAway.Add(1)
	if now := c.Now(); c.noAnswerLately(kind, now) {
		return c.outages[kind].Load().err
	}
	return c.TooMany()
}

// noAnswerLately reports whether a question of a kind failed a while ago, and none had an
// answer since.
func (c *Cache) noAnswerLately(kind Kind, now clock.Local) bool {
	o := c.outages[kind].Load()
	return o != nil && now < o.until.After(outageLasts)
}

// begin gives the time at which a question begins, and notes it. One in any case is
// asked by who expects something new: its answer is not believed for long.
func (c *Cache) begin(key Key, when Urgency) (asked clock.Local) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.Now()
	if e := c.entryOf(key); e != nil && when == InAnyCase {
		e.doubts, e.hopeUntil = 0, now.After(hopeLasts).Seconds()
	}
	return now
}

// refreshBehind asks Polar without anybody waiting, unless others need the request.
func (c *Cache) refreshBehind(key Key, e *entry, now clock.Local, when Urgency) {
	last := e.answer.Load().more().failure
	if last != nil && now < last.retryAt || !e.refreshing.CompareAndSwap(false, true) {
		return
	}
	done, ok := c.mayAsk(now)
	if !ok {
		e.refreshing.Store(false)
		return
	}
	key = key.Own()
	c.GoBehind(func() {
		defer e.refreshing.Store(false)
		defer done()
		_, err := c.Fetch(c.Life, key, when)
		c.notePanic(key, err)
	})
}

// GoBehind does something that nobody waits for but close, unless it is over.
func (c *Cache) GoBehind(do func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.Life.Err() == nil {
		c.behind.Go(do)
	}
}

// failed puts off the next question about a customer or key for which there is an answer
// to serve meanwhile.
func (c *Cache) failed(key Key, err error) {
	if _, dead := errors.AsType[*transport.DeadConnection](err); dead {
		return // the next question goes over another connection
	}
	now := c.Now()
	lately := outage{now.After(OutageMemory), err}
	is := c.Judge(err)
	if is.Everybodys {
		c.outages[key.Kind].Store(&lately)
	}
	pause := max(RetryStale/2+rand.N(RetryStale), is.RetryAfter)
	c.mu.Lock()
	defer c.mu.Unlock()
	if e, _ := c.known.find(key); e != nil {
		c.change(e, func(a *answer) { a.note(func(r *rarities) { r.failure = &failure{lately, now.After(pause)} }) })
	}
}

// NotBefore is from when a record has to be to be as good as an answer, and whether the
// customer is in memory.
func (c *Cache) NotBefore(key Key, when Urgency) (at clock.Polar, seen bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.PolarNow()
	at = now.Before(c.FreshFor)
	e := c.entryOf(key)
	if e != nil {
		at = max(at, e.factAt()+1)
		if when == unlessCertain {
			at = max(at, now.Before(c.pauseOf(e)))
		}
	}
	if when == InAnyCase {
		at = now
	}
	known, _ := c.known.find(key)
	return max(at, 0), known != nil
}

// ServesMeanwhile reports whether what is in memory under a key can be served while Polar is
// asked.
func (c *Cache) ServesMeanwhile(key Key) bool {
	_, a := c.known.find(key)
	now := c.Now()
	return a != nil && (now < a.staleUntil || now < a.graceUntil && c.noAnswerLately(key.Kind, now))
}

// BeginUnseen bounds a question about somebody who was never seen. ok is false if too many are
// under way.
func (c *Cache) BeginUnseen(kind Kind) (end func(), ok bool) {
	return c.Unseen[kind].Begin()
}
