package ledger

import (
	"context"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/polargate/polargate/internal/clock"
)

// Joint is an account that several replicas keep together, in a store that swaps values.
// Nobody reserves what another has reserved. The holds of a replica that died end by
// themselves. While the store is away nothing can be reserved, and what is spent is kept
// until it can be stored.
//
// Changes of one replica that come at the same time are stored together. All methods are
// safe for use by many goroutines. The fields must not be changed after the first use.
type Joint struct {
	// Load reads the value, and Swap replaces it if it still has that version; see
	// polargate.Shared. Each of them returns soon, also while the store is away.
	Load func(ctx context.Context) (Stored, error)
	Swap func(ctx context.Context, version string, data []byte) (now Stored, swapped bool, err error)
	// Holder names the replica.
	Holder string
	// Base is what Polar counted last, as far as this replica knows; false if nothing.
	Base func() (Count, bool)
	// Seen is told how the account stands.
	Seen func(*Account)
	// Now is the time by Polar's clock.
	Now func() clock.Polar
	// Life ends what is done behind the caller's back.
	Life context.Context

	mu      sync.Mutex
	queue   []*change
	failed  []*change // of the step that may be stored or not
	working bool
	step    uint64
	held    Units  // by reservations of this replica
	excess  bool   // more than that may be held in the store
	recent  []step // what was stored lately, and can still be lost; oldest first
	at      Stored
	last    *Account // as of at, or as it was last seen
	timer   *time.Timer
	due     time.Time // when the timer runs out
}

// Stored is a value in the store.
type Stored struct {
	Version string
	Data    []byte
}

const (
	// HoldFor is when the holds of a replica that died end.
	HoldFor = time.Minute
	// jointPatience is how long a change waits for others who change the account.
	jointPatience = 2 * time.Second
	// jointRetry is when what could not be stored is tried again.
	jointRetry = time.Second
	// drainRetry is the same while somebody waits for it.
	drainRetry = 100 * time.Millisecond
	// safeAfter is how long a change can still be lost after it was stored, because the server
	// fails before it has copied it, and mostRecent bounds the memory for such changes.
	safeAfter  = 30 * time.Second
	mostRecent = 1024
)

// step is a change that was stored, with the number of the step that had it.
type step struct {
	number uint64
	at     time.Time
	apply  func(*Account) bool
}

// ErrBusy means that others changed the account all the time.
var ErrBusy = errors.New("too many replicas change the balance of this customer at the same time")

// change is one change of the account.
type change struct {
	// apply changes the account, and reports whether it did. It may be called several
	// times, each time for another account.
	apply func(*Account) bool
	// lasting is stored later if it can't be stored now.
	lasting bool
	units   Units // that it holds, if granted
	granted bool
	frees   Units // that it ends the hold of
	left    bool  // nobody waits for it any more
	done    chan error
}

// Hold reserves units, if at least floor is left then. An error means that it couldn't be
// decided.
func (j *Joint) Hold(ctx context.Context, units, floor Units) (bool, error) {
	c := &change{units: units, done: make(chan error, 1)}
	c.apply = func(a *Account) bool {
		c.granted = a.Hold(j.Holder, units, floor)
		return c.granted
	}
	j.add(c)
	select {
	case err := <-c.done:
		return err == nil && c.granted, err
	case <-ctx.Done():
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	select {
	case err := <-c.done: // at the last moment
		return err == nil && c.granted, err
	default:
		c.left = true
		return false, ctx.Err()
	}
}

// Settle ends a reservation of units, of which used were used; see Account.Spend. It doesn't
// wait.
func (j *Joint) Settle(units, used Units, at clock.Polar, told bool) {
	j.later(units, func(a *Account) { a.Spend(used, at, told) })
}

// Change changes what was spent. It doesn't wait.
func (j *Joint) Change(apply func(*Account)) { j.later(Units{}, apply) }

func (j *Joint) later(frees Units, apply func(*Account)) {
	j.add(&change{lasting: true, frees: frees, done: make(chan error, 1), apply: func(a *Account) bool {
		apply(a)
		return true
	}})
}

// Look has the account looked at anew, such as when Polar has counted. It doesn't wait.
func (j *Joint) Look() { j.add(nothing()) }

func nothing() *change {
	return &change{done: make(chan error, 1), apply: func(*Account) bool { return false }}
}

// Idle reports whether nothing is held, nor waits to be stored.
func (j *Joint) Idle() bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return !j.working && len(j.queue)+len(j.failed) == 0 && !j.held.Positive() && !j.excess
}

// Wait returns when what was changed is stored, or failed to be.
func (j *Joint) Wait(ctx context.Context) {
	c := nothing()
	j.add(c)
	select {
	case <-c.done:
	case <-ctx.Done():
	}
}

// Drain returns when nothing is left that has to be stored, or ctx ends.
func (j *Joint) Drain(ctx context.Context) {
	for j.Wait(ctx); j.owes() && ctx.Err() == nil; j.Wait(ctx) {
		timer := time.NewTimer(drainRetry)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
		}
	}
}

// owes reports whether there is something that has to be stored.
func (j *Joint) owes() bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return len(j.failed) > 0 || slices.ContainsFunc(j.queue, func(c *change) bool { return c.lasting })
}

// Recheck has the account looked at anew, if the store may have lost what this replica has
// stored lately. It doesn't wait.
func (j *Joint) Recheck() {
	j.mu.Lock()
	j.forget()
	recent := len(j.recent)
	j.mu.Unlock()
	if recent > 0 {
		j.Look()
	}
}

// forget drops what can't be lost any more. mu is held.
func (j *Joint) forget() {
	keep := slices.IndexFunc(j.recent, func(s step) bool { return time.Since(s.at) < safeAfter })
	if keep < 0 {
		keep = len(j.recent)
	}
	j.recent = slices.Delete(j.recent, 0, max(keep, len(j.recent)-mostRecent))
}

// restore applies again what was stored after that step, and reports whether there was
// anything: the store has lost it, since the account says that it has no later step.
func (j *Joint) restore(a *Account, after uint64) (lost bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, s := range j.recent {
		if s.number > after {
			s.apply(a)
			lost = true
		}
	}
	return lost
}

func (j *Joint) add(c *change) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.queue = append(j.queue, c)
	if !j.working {
		j.working = true
		go j.work()
	}
}

// work stores changes until there are none, or the store is away.
func (j *Joint) work() {
	for {
		j.mu.Lock()
		if len(j.queue) == 0 {
			j.working = false
			j.mu.Unlock()
			return
		}
		batch, again := j.queue, j.failed
		j.queue = nil
		j.mu.Unlock()
		tried := false
		var err error
		if len(again) > 0 {
			err = j.store(again, true) // by itself, since it may be stored already
		}
		if err == nil {
			j.mu.Lock()
			j.failed = nil
			j.step++
			j.mu.Unlock()
			tried = true
			err = j.store(batch, false)
		}
		if !j.finish(batch, tried, err) {
			return
		}
	}
}

// finish tells who waits, and reports whether to go on. What lasts is kept if it failed.
func (j *Joint) finish(batch []*change, tried bool, err error) (goOn bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	var rest []*change
	tell := func(changes []*change) {
		for _, c := range changes {
			if err != nil && c.lasting {
				rest = append(rest, c)
				continue
			}
			switch {
			case err != nil:
				j.excess = j.excess || tried && c.units.Positive() // it may be stored
			case c.left && c.granted:
				j.held, j.excess = j.held.Minus(c.units), true
			}
			c.done <- err
		}
	}
	tell(batch)
	if err != nil {
		if tried {
			j.failed, rest = rest, nil // this step is settled before the next
		}
		came := j.queue // nobody waits for a store that is away
		j.queue = nil
		tell(came)
		j.queue = append(j.queue, rest...)
		j.working = false
	}
	switch {
	case j.excess, err != nil && (len(j.failed)+len(j.queue) > 0 || j.held.Positive()):
		j.renewIn(jointRetry/2 + rand.N(jointRetry)) // for a hold that isn't renewed ends
	case j.held.Positive():
		j.renewIn(HoldFor / 3)
	}
	return err == nil
}

// renewIn renews after a while, or earlier if that was planned already. mu is held.
func (j *Joint) renewIn(wait time.Duration) {
	due := time.Now().Add(wait)
	switch {
	case j.Life.Err() != nil:
	case j.timer == nil:
		j.timer, j.due = time.AfterFunc(wait, j.renew), due
	case due.Before(j.due):
		j.timer.Reset(wait)
		j.due = due
	}
}

// renew stores what waits, and that this replica lives.
func (j *Joint) renew() {
	j.mu.Lock()
	j.timer = nil
	j.mu.Unlock()
	if j.Life.Err() == nil {
		j.add(&change{done: make(chan error, 1), apply: func(*Account) bool { return true }})
	}
}

// store applies changes to the account in the store. again says that they may be in it.
func (j *Joint) store(batch []*change, again bool) error {
	j.mu.Lock()
	at, last, step := j.at, j.last, j.step
	j.mu.Unlock()
	fresh := false
	for end := time.Now().Add(jointPatience); ; {
		if last == nil || again && !fresh {
			var err error
			if at, err = j.Load(j.Life); err != nil {
				return err
			}
			fresh = true
			last = j.read(at, last)
		}
		a := last.Clone()
		a.Expire(j.Now())
		if base, ok := j.Base(); ok && (!a.Counted || a.Base.At < base.At) {
			a.Observe(base)
		}
		held := j.holds(batch)
		own := a.HoldOf(j.Holder)
		stored := again && own.Step >= step
		changed := stored || own.Units != held // such as by a hold that nobody waited for
		a.setHold(own, held)
		changed = j.restore(a, own.Step) || changed
		if !stored {
			changed = a.applied(batch) || changed
		}
		own = a.HoldOf(j.Holder)
		own.Step, own.Until = step, j.Now()+clock.Polar(HoldFor)
		if !changed && !fresh {
			last = nil // it is refused by what is remembered: look again
			continue
		}
		if !changed {
			j.keep(at, a, batch, step)
			return nil
		}
		data, err := json.Marshal(a)
		if err != nil {
			return err
		}
		now, swapped, err := j.Swap(j.Life, at.Version, data)
		switch {
		case err != nil:
			return err
		case swapped:
			j.keep(now, a, batch, step)
			return nil
		case time.Now().After(end):
			return ErrBusy
		}
		at, last, fresh = now, j.read(now, last), true
	}
}

// applied applies changes, and reports whether there were any. What was used comes before what
// is to be held: the holds of that have ended already.
func (a *Account) applied(batch []*change) (changed bool) {
	for _, lasting := range []bool{true, false} {
		for _, c := range batch {
			if c.lasting == lasting {
				changed = c.apply(a) || changed
			}
		}
	}
	return changed
}

// read is the account that a value has. Where there is none, what this replica has seen last
// is the best that there is.
func (j *Joint) read(at Stored, last *Account) *Account {
	if a, err := Read(at.Data); err == nil && len(at.Data) > 0 {
		return a
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	switch {
	case last != nil:
		return last
	case j.last != nil:
		return j.last
	}
	return &Account{}
}

// keep notes how the account stands, with what was granted.
func (j *Joint) keep(at Stored, a *Account, batch []*change, number uint64) {
	j.mu.Lock()
	j.at, j.last, j.excess = at, a, false
	j.forget()
	for _, c := range batch {
		if c.lasting {
			j.recent = append(j.recent, step{number, time.Now(), c.apply})
		}
		j.held = j.held.Minus(least(c.frees, j.held))
		if c.granted {
			j.held = j.held.Plus(c.units)
		}
	}
	j.mu.Unlock()
	j.Seen(a.Clone())
}

// holds is what reservations of this replica hold, less what changes free.
func (j *Joint) holds(batch []*change) Units {
	j.mu.Lock()
	defer j.mu.Unlock()
	held := j.held
	for _, c := range batch {
		held = held.Minus(least(c.frees, held))
	}
	return held
}
