package memory

import (
	"context"
	"slices"

	"github.com/polargate/polargate/internal/clock"
	"github.com/polargate/polargate/internal/rights"
	"github.com/polargate/polargate/internal/wire"
)

// compose makes of an answer what it is as far as license keys let it, for as long as
// nothing changes about them. mu is held.
func (c *Cache) compose(a *answer, now clock.Local) {
	if a.more().limits == nil {
		return
	}
	for now >= a.more().limits.end {
		at, next := a.value.NextEnd(), *a.more().limits
		a.value = *a.value.EndedBy(at)
		if next.end = clock.Never; a.value.NextEnd() != 0 {
			next.end = a.more().limits.end.After(a.value.NextEnd().Sub(at))
		}
		a.note(func(r *rarities) { r.limits = &next })
	}
	a.value = *c.composeKeys(&a.value, now)
	a.freshUntil, a.staleUntil = a.more().limits.freshUntil, a.more().limits.staleUntil
	if due, flips, urgent, ok := a.value.KeysChange(); ok && c.Keys != nil {
		a.freshUntil, a.staleUntil = min(a.freshUntil, due, flips), min(a.staleUntil, flips)
		if urgent {
			a.staleUntil = min(a.staleUntil, due)
		}
	}
}

// serving is what an entry serves, less what has ended by itself.
func (c *Cache) serving(e *entry, now clock.Local) *rights.State {
	a := e.answer.Load()
	_, flips, _, keyed := a.value.KeysChange()
	if a.more().limits == nil || now < a.more().limits.end && (!keyed || now < flips) {
		return &a.value
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.change(e, func(a *answer) { c.compose(a, now) })
}

// composeKeys is a value with those benefits alone whose license keys count.
func (c *Cache) composeKeys(value *rights.State, now clock.Local) *rights.State {
	return value.ByKeys(c.Keys, now, c.NotLooked)
}

// stateOf is a customer's state if it is fresh, and only license keys are to be asked about.
func (c *Cache) stateOf(key Key) (*rights.State, bool) {
	_, a := c.known.find(key)
	if a == nil || c.Keys == nil || !a.value.HasKeys() || c.Now() >= a.more().limits.freshUntil {
		return nil, false
	}
	return &a.value, true
}

// withKeysLookedUp is a value after the license keys that are due in it, or were asked
// about before then, have been asked about.
func (c *Cache) withKeysLookedUp(key Key, value *rights.State, before clock.Local) *rights.State {
	if c.Keys == nil || !value.HasKeys() {
		return value
	}
	ctx, cancel := context.WithTimeout(c.Life, c.Timeout)
	defer cancel()
	c.lookUpKeys(ctx, value, before)
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.Now()
	if e, _ := c.known.find(key); e != nil {
		return c.change(e, func(a *answer) {
			a.doubtAt = max(a.doubtAt, now.After(c.pauseOf(e))) // for what the keys say is of now
			c.compose(a, now)
		})
	}
	return c.composeKeys(value, now) // it was evicted meanwhile
}

// AnsweredBefore reports whether anything is cached about the license key of an id that Polar
// said before then.
func (c *Cache) AnsweredBefore(id wire.UUID, then clock.Polar) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	texts, _ := c.licenses.Peek(id)
	for _, text := range texts {
		if e := c.entryOf(Key{ByLicenseKey, text}); e != nil && e.answered < then {
			return true
		}
	}
	return c.Keys.AnsweredBefore(id, then)
}

// noteLicense keeps under which key a license key was asked about. mu is held.
func (c *Cache) noteLicense(key Key, value *rights.State) {
	license := value.License()
	if key.Kind != ByLicenseKey || license == nil {
		return
	}
	id, _ := wire.ParseUUID(license.Facts().ID)
	had, _ := c.licenses.Peek(id)
	if !slices.Contains(had, key.ID) {
		const few = 4
		had = append([]string{key.ID}, had[:min(len(had), few-1)]...)
	}
	c.licenses.Add(id, had)
}

// DropLicenses has license keys asked about of which an event told, wherever they are
// cached: by themselves, and as what a customer's benefits come with. With every, all that
// the customer's benefits came with are among them. revoked is when their grant was, by
// Polar's clock; 0 if it was not. What was known before then does not outlast an outage.
func (c *Cache) DropLicenses(customer *rights.State, ids []wire.UUID, every bool, revoked clock.Polar) {
	c.mu.Lock()
	defer c.mu.Unlock()
	holder := c.known.byID(customer.Customer())
	if holder != nil && every {
		ids = append(ids, holder.value().LicenseKeyIDs()...)
	}
	if len(ids) == 0 {
		return
	}
	if c.Keys != nil {
		c.Keys.Drop(ids, revoked)
	}
	if holder != nil {
		c.change(holder, func(a *answer) { c.compose(a, c.Now()) })
		c.NoteChanged(holder.value())
	}
	for _, id := range ids {
		texts, _ := c.licenses.Peek(id)
		for _, text := range texts {
			key := Key{ByLicenseKey, text}
			c.unknown.Remove(key)
			e, a := c.known.find(key)
			if e == nil {
				continue
			}
			e.told = c.Now()
			c.expire(e)
			c.watches.Changed(key)
			if revoked > a.value.At() {
				c.change(e, func(a *answer) { a.graceUntil = 0 })
			}
		}
	}
}

// lookUpKeys asks Polar about the license keys of a value that are due, or were asked about
// before then.
func (c *Cache) lookUpKeys(ctx context.Context, value *rights.State, before clock.Local) {
	var ids []wire.UUID
	var benefits []string
	value.KeyedGrants(func(b rights.Benefit, key wire.UUID) {
		benefit := ""
		if _, ok := wire.ParseUUID(b.ID()); ok { // others have no list of keys
			benefit = b.ID()
		}
		ids, benefits = append(ids, key), append(benefits, benefit)
	})
	c.Keys.LookUp(ctx, ids, benefits, before)
}
