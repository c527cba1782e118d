package polargate

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/polargate/polargate/internal/clock"
	"github.com/polargate/polargate/internal/flight"
	"github.com/polargate/polargate/internal/rights"
	"github.com/polargate/polargate/internal/transport"
)

// inOutage reports whether a question had no answer a moment ago, about this customer or
// another: who can be served from memory does not wait for the next try, which may take
// as long to fail.
func (c *entitlementCache) inOutage(kind keyKind, a *answer, now clock.Local) bool {
	if a.more().failure != nil && now < a.more().failure.retryAt.After(outageLasts) {
		return true
	}
	return c.outageOf(kind, now) != nil
}

// urgency is which answer that is there by now is as good as a new one.
type urgency int

const (
	unlessFresh   urgency = iota // one that is fresh
	unlessCertain                // one that a refusal can be believed by
	inAnyCase                    // none
)

// mayAsk reports whether a question can be asked that could wait: not while customers
// are turned away, nor if that keeps others waiting. done is to be called after it.
func (c *entitlementCache) mayAsk(now clock.Local) (done func(), ok bool) {
	if now < c.shortUntil() {
		return nil, false
	}
	if others := c.optional.Add(1) - 1; !c.spare(others) {
		c.optional.Add(-1)
		return nil, false
	}
	return func() { c.optional.Add(-1) }, true
}

func (c *entitlementCache) shortUntil() clock.Local { return clock.Local(c.short.Load()) }

// outageOf is the failure that is believed of all questions of a kind; nil if none.
func (c *entitlementCache) outageOf(kind keyKind, now clock.Local) error {
	if o := c.outages[kind].Load(); o != nil && now < o.until {
		return o.err
	}
	return nil
}

// notePanic notes a panic on the way to Polar that no caller is told of.
func (c *entitlementCache) notePanic(key cacheKey, err error) {
	if panicked, ok := errors.AsType[*flight.PanicError](err); ok {
		c.failed(key, err)
		c.panicked(panicked)
	}
}

// turnedAway has those who can be served from memory yield, if it is for lack of
// requests that a customer gets no answer. Not for a key: anybody can make those up.
func (c *entitlementCache) turnedAway(kind keyKind, err error, now clock.Local) {
	if e, ok := errors.AsType[*Error](err); ok && e.unasked && kind != byLicenseKey {
		c.short.Store(int64(now.After(shortLasts)))
		if c.replicas != nil {
			c.replicas.tellShort(now)
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

// ofEverybody reports whether others would fail the same way. What was said to one
// question may be about that one alone: nobody can shut out others by an id or a
// key that Polar, or a firewall before it, refuses; and what was not asked says nothing
// of Polar. An error of Polar's own (5xx) is taken for everybody's, for a second.
func ofEverybody(err error) bool {
	failure, ok := errors.AsType[*Error](err)
	switch {
	case !ok || failure.unasked:
		return false
	case failure.Reason == ErrMisconfigured:
		return tokenRefused(err)
	}
	_, brokeOff := errors.AsType[*worthAnotherTry](err)
	return brokeOff || failure.StatusCode == 0 || failure.StatusCode == http.StatusTooManyRequests || failure.StatusCode >= 500
}

// fetch asks Polar, once for all who want to know at the same time. Each caller
// waits on a context of its own. The work, which may go on after them, has the key in
// memory of its own.
func (c *entitlementCache) fetch(ctx context.Context, key cacheKey, when urgency) (*rights.State, error) {
	key = key.own()
	return flight.Do(ctx, &c.flights, string('0'+rune(key.kind))+key.id, func(context.Context) (*rights.State, error) {
		if value, ok := c.current(key, when); ok {
			return value, nil // it came between this caller's look and its turn
		}
		return c.refresh(key, when)
	})
}

// current is the answer for a key that needs no question, also that it is not known.
func (c *entitlementCache) current(key cacheKey, when urgency) (*rights.State, bool) {
	e := c.entryOf(key)
	if e == nil || when == inAnyCase {
		return nil, false
	}
	a, now := c.balanced(e, e.answer.Load()), c.now()
	if now >= a.freshUntil || when == unlessCertain && now >= a.doubtAt {
		return nil, false
	}
	return &a.value, true
}

// leave is what a replica has before it asks Polar.
type leave struct {
	// unit is the request, if it was taken from the budget of all replicas already.
	unit *unit
	// behind: what is in memory by now can be served, and Polar is asked in the background.
	behind bool
	// end ends the claim to ask, for want of an answer; nil if there is no claim.
	end func()
}

// unit is a request that was taken from the budget of all replicas ahead of time.
type unit struct{ used atomic.Bool }

type unitKey struct{}

func (l leave) giveUp() {
	if l.end != nil {
		l.end()
	}
}

// refresh asks the other replicas, and then Polar, and keeps the answer.
func (c *entitlementCache) refresh(key cacheKey, when urgency) (*rights.State, error) {
	began := c.now()
	if when != inAnyCase {
		began = 0
	}
	if value, ok := c.stateOf(key); ok && when == unlessFresh {
		return c.withKeysLookedUp(key, value, 0), nil
	}
	if c.replicas == nil {
		return c.question(key, when, began, leave{})
	}
	ctx, cancel := context.WithTimeout(c.life, c.timeout)
	defer cancel()
	l, enough, err := c.replicas.seek(ctx, key, when)
	e := c.entryOf(key)
	switch {
	case err != nil:
		c.count(err)
		c.failed(key, err)
		return nil, err
	case enough && e != nil:
		return c.withKeysLookedUp(key, e.value(), began), nil
	case l.behind && e != nil && e.refreshing.CompareAndSwap(false, true):
		c.goBehind(func() {
			defer e.refreshing.Store(false)
			_, _ = c.question(key, when, began, l)
		})
		return c.serving(e, c.now()), nil
	}
	return c.question(key, when, began, l)
}

// question asks Polar and keeps the answer.
func (c *entitlementCache) question(key cacheKey, when urgency, began clock.Local, l leave) (*rights.State, error) {
	if e, _ := c.known.find(key); e == nil && l.unit == nil { // else all replicas together allow it
		end, ok := c.unseen[key.kind].Begin()
		if !ok {
			l.giveUp()
			return nil, c.turnAway(key.kind)
		}
		defer end()
	}
	ctx, cancel := context.WithTimeout(c.life, c.timeout)
	defer cancel()
	if l.unit != nil {
		ctx = context.WithValue(ctx, unitKey{}, l.unit)
	}
	asked := c.begin(key, when)
	value, err := c.ask(ctx, key)
	c.count(err)
	if err != nil {
		l.giveUp()
		c.failed(key, err)
		return nil, err
	}
	c.outages[key.kind].Store(nil)
	c.noteTime(value.At())
	served, n := c.store(key, value, asked)
	served = c.withKeysLookedUp(key, served, began)
	switch {
	case c.replicas == nil:
	case value.Unread() != 0: // it is of no use to others
		l.giveUp()
	default:
		c.replicas.publish(n)
		if younger := c.youngerThan(key, n.at); younger != nil { // which another replica was told
			return younger, nil
		}
	}
	return served, nil
}

// youngerThan is what is cached under a key if that is younger; nil if it is not.
func (c *entitlementCache) youngerThan(key cacheKey, at clock.Polar) *rights.State {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e, a := c.known.find(key); e != nil && e.factAt() > at {
		return &a.value
	}
	return nil
}

// isFresh reports whether what is cached under a key needs no question, but for the license
// keys that benefits come with.
func (c *entitlementCache) isFresh(key cacheKey) bool {
	if _, ok := c.stateOf(key); ok {
		return true
	}
	_, ok := c.current(key, unlessFresh)
	return ok
}

// licenseOf is the id of the license key that is cached under a key; "" if there is none.
func (c *entitlementCache) licenseOf(key cacheKey) string {
	if key.kind != byLicenseKey {
		return ""
	}
	_, a := c.known.find(key)
	if a == nil || a.value.License() == nil {
		return ""
	}
	return a.value.License().Facts().ID
}

// count counts a question by how it ended. One that was not sent is none, and no
// failure of Polar's.
func (c *entitlementCache) count(err error) {
	e, ok := errors.AsType[*Error](err)
	switch {
	case ok && e.unasked:
		c.counts.unseenTurnedAway.Add(1)
		return
	case ok && e.heldBack, err != nil && c.life.Err() != nil:
		return
	case err != nil:
		c.counts.failures.Add(1)
	}
	c.counts.upstream.Add(1)
}

// turnAway is the answer about a customer or key that was never seen and is not asked about.
func (c *entitlementCache) turnAway(kind keyKind) error {
	c.counts.unseenTurnedAway.Add(1)
	if now := c.now(); c.noAnswerLately(kind, now) {
		return c.outages[kind].Load().err
	}
	return tooManyUnseen()
}

// noAnswerLately reports whether a question of a kind failed a while ago, and none had an
// answer since.
func (c *entitlementCache) noAnswerLately(kind keyKind, now clock.Local) bool {
	o := c.outages[kind].Load()
	return o != nil && now < o.until.After(outageLasts)
}

func tooManyUnseen() error {
	return &Error{Op: opEntitlements, Reason: ErrRateLimited, RetryAfter: time.Second, Detail: "too many were asked about that were not seen before", unasked: true}
}

// begin gives the time at which a question begins, and notes it. One in any case is
// asked by who expects something new: its answer is not believed for long.
func (c *entitlementCache) begin(key cacheKey, when urgency) (asked clock.Local) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.now()
	if e := c.entryOf(key); e != nil && when == inAnyCase {
		e.doubts, e.hopeUntil = 0, now.After(hopeLasts).Seconds()
	}
	return now
}

// refreshBehind asks Polar without anybody waiting, unless others need the request.
func (c *entitlementCache) refreshBehind(key cacheKey, e *entry, now clock.Local, when urgency) {
	last := e.answer.Load().more().failure
	if last != nil && now < last.retryAt || !e.refreshing.CompareAndSwap(false, true) {
		return
	}
	done, ok := c.mayAsk(now)
	if !ok {
		e.refreshing.Store(false)
		return
	}
	key = key.own()
	c.goBehind(func() {
		defer e.refreshing.Store(false)
		defer done()
		_, err := c.fetch(c.life, key, when)
		c.notePanic(key, err)
	})
}

// goBehind does something that nobody waits for but close, unless it is over.
func (c *entitlementCache) goBehind(do func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.life.Err() == nil {
		c.behind.Go(do)
	}
}

// failed puts off the next question about a customer or key for which there is an answer
// to serve meanwhile.
func (c *entitlementCache) failed(key cacheKey, err error) {
	if _, dead := errors.AsType[*transport.DeadConnection](err); dead {
		return // the next question goes over another connection
	}
	now := c.now()
	lately := outage{now.After(outageMemory), err}
	if ofEverybody(err) {
		c.outages[key.kind].Store(&lately)
	}
	pause := retryStale/2 + rand.N(retryStale)
	if failure, ok := errors.AsType[*Error](err); ok {
		pause = max(pause, failure.RetryAfter)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if e, _ := c.known.find(key); e != nil {
		c.change(e, func(a *answer) { a.note(func(r *rarities) { r.failure = &failure{lately, now.After(pause)} }) })
	}
}
