package polargate

import (
	"slices"
	"time"

	"github.com/polargate/polargate/internal/clock"
	"github.com/polargate/polargate/internal/rights"
	"github.com/polargate/polargate/internal/wire"
)

// store keeps an answer to a question that was asked then, and gives what is to be
// served: that answer, or what is younger, by an event that came since or the answer to a
// later question about the customer's other id. n is what to tell other replicas.
func (c *entitlementCache) store(key cacheKey, value *rights.State, asked clock.Local) (served *rights.State, n news) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n = news{value: value, key: key, at: value.At()}
	e, _ := c.known.find(key)
	if e != nil && e.outdates(value, asked) {
		return e.value(), n
	}
	claims := false // the external id in the answer
	switch {
	case key.kind == byLicenseKey:
	case value.Known():
		if of := c.known.byID(value.Customer()); of != e {
			if of != nil && of.outdates(value, asked) {
				return of.value(), n
			}
			e = of // the external id has moved to another customer, if it was cached
		}
		claims = key.kind == byExternalID || c.mayClaim(value, e, asked)
	case e != nil && key.kind == byExternalID:
		c.known.dropAlias(e) // the customer may have another external id now
		e = nil
	}
	add := func() {}
	if e == nil {
		e, add = c.newEntry(key, value)
	}
	if e.told <= asked { // the question was asked after the event, however Polar dates the answer
		n.at = max(n.at, e.factAt()+1)
	}
	n.former = e.formerID(value)
	e.answered, e.asked = n.at, asked
	defer c.noteChanged(value, key, cacheKey{byExternalID, n.former})
	c.set(e, value.Completed(e.value(), c.graceFor), 0)
	add()
	if claims {
		c.claim(e)
	}
	if e.told > asked {
		c.expire(e) // by an event of meanwhile, which this answer may not know of
	}
	c.noteLicense(key, value)
	return e.value(), n
}

// newEntry is an entry for a customer or key that is not known yet, and what has it found
// once it has an answer. mu is held.
func (c *entitlementCache) newEntry(key cacheKey, value *rights.State) (e *entry, add func()) {
	switch {
	case !value.Known():
		if e, ok := c.unknown.Peek(key); ok {
			return e, func() {}
		}
		e := &entry{}
		return e, func() { c.unknown.Add(key, e) }
	case key.kind == byLicenseKey:
		license := &licenseEntry{key: key.id}
		return &license.entry, func() {
			c.known.addLicense(license)
			c.unknown.Remove(key)
		}
	}
	e = &entry{}
	return e, func() { c.addCustomer(e) }
}

// addCustomer has a new entry found by Polar's id. mu is held.
func (c *entitlementCache) addCustomer(e *entry) {
	c.known.addCustomer(e)
	c.unknown.Remove(cacheKey{byPolarID, e.value().Customer().String()})
}

// claim has an entry found by the external id in its answer too, if customers can be asked
// about by that. mu is held.
func (c *entitlementCache) claim(e *entry) {
	if id := ExternalID(e.value().External()); id.check() == nil {
		c.known.addAlias(e)
		c.unknown.Remove(id.key)
	}
}

// mayClaim reports whether the external id in an answer about a customer, whose entry is e,
// is theirs: not if Polar said otherwise after the answer was asked for. mu is held.
func (c *entitlementCache) mayClaim(value *rights.State, e *entry, asked clock.Local) bool {
	if u, ok := c.unknown.Peek(ExternalID(value.External()).key); ok && u.asked > asked {
		return false
	}
	other := c.known.byExternalID(value.External())
	return other == nil || other == e || other.asked <= asked && other.event <= value.At()
}

// expire has the next request ask. mu is held.
func (c *entitlementCache) expire(e *entry) {
	c.change(e, func(a *answer) {
		a.freshUntil, a.staleUntil, a.memoryUntil = 0, 0, 0
		if a.more().limits != nil {
			a.note(func(r *rarities) { r.limits = &limits{expires: r.limits.expires, end: r.limits.end} })
		}
	})
}

// set makes a value of that age the one that an entry serves, from now on. mu is held.
func (c *entitlementCache) set(e *entry, value *rights.State, age time.Duration) {
	now := c.now()
	last := e.value()
	if last != nil && !value.Known() && value.Customer() == (wire.UUID{}) && value.IsPlain() {
		value = value.WithCustomer(last.Customer()) // Polar has no such customer any more, and does not repeat the id
	}
	value = c.observe(value)
	nothingNew := last != nil && last.AllowsTheSame(value)
	pause := c.settlePause(e, nothingNew)
	fresh, stale, grace := c.freshFor, c.staleFor, c.graceFor
	switch {
	case !value.Known():
		// Who has just bought is in a hurry. Where Polar cannot be asked, who was
		// refused goes on being refused for as long as that may be believed.
		fresh, stale, grace = min(fresh, pause), 0, min(fresh, c.unknownFor)
	case value.Unread() != 0, nothingNew && now.Seconds() < e.hopeUntil:
		fresh = min(fresh, pause)
	}
	expires, end := clock.Never, clock.Never
	if next := value.NextEnd(); next != 0 { // Polar is asked then
		left := next.Sub(value.At())
		fresh, stale, end = min(fresh, left), min(stale, left), now.After(left-age)
	}
	if l := value.License(); l != nil && !l.Facts().Ends.IsZero() {
		left := l.Facts().Ends.Sub(l.Facts().Answered)
		fresh, stale, grace = min(fresh, left), min(stale, left), min(grace, left)
		expires = now.After(left - age)
	}
	a := answer{
		value:       *value,
		freshUntil:  now.After(fresh - age),
		staleUntil:  now.After(max(fresh, stale) - age),
		graceUntil:  now.After(max(fresh, stale, grace) - age),
		memoryUntil: now.After(min(max(fresh, stale, yieldsFor), max(fresh, stale, grace)) - age),
		doubtAt:     now.After(pause),
	}
	if book := c.books[value.Account()]; book != nil {
		a.note(func(r *rarities) { r.book = book })
	}
	if expires != clock.Never || end != clock.Never || value.HasKeys() {
		a.note(func(r *rarities) { r.limits = &limits{a.freshUntil, a.staleUntil, expires, end} })
		c.compose(&a, now)
	}
	if last != nil && last.External() != value.External() {
		c.known.dropAlias(e)
	}
	c.known.swap(e, &a)
}

// settlePause is how long a refusal by a new value is believed, longer each time that
// there is nothing new in it. mu is held.
func (c *entitlementCache) settlePause(e *entry, nothingNew bool) time.Duration {
	if !nothingNew {
		e.doubts = 0
	}
	e.doubts = min(e.doubts+1, mostDoubts)
	return c.pauseOf(e)
}

// pauseOf is how long a refusal by what an entry serves is believed. mu is held.
func (c *entitlementCache) pauseOf(e *entry) time.Duration {
	return min(firstPause<<(max(e.doubts, 1)-1), c.unknownFor)
}

// news is what Polar said of a customer, as replicas tell each other. Of a customer that
// Polar does not have, key is the id that was asked about. event is that a webhook told it,
// and doubtful that Polar is to be asked all the same.
type news struct {
	value           *rights.State
	key             cacheKey
	at              clock.Polar // in the order that all replicas agree on
	event, doubtful bool
	shared          bool   // it came from another replica
	listed          bool   // Polar's lists tell it
	former          string // the external id that the customer had before, if it has changed
}

// applyEvent takes in what an event of that age says of a customer, tells the other
// replicas, and reports whether it did: not when what is known of them is younger. Where the
// event cannot be trusted to be the last word, the next request asks: it may be late, or the
// younger answer come out of a cache of Polar's that did not know of it yet.
func (c *entitlementCache) applyEvent(value *rights.State, age time.Duration) bool {
	n := news{value: value, event: true, doubtful: age > readTime}
	applied := c.apply(&n, age)
	if applied && c.replicas != nil && value.Unread() == 0 {
		c.replicas.publish(n)
	}
	return applied
}

// adopt takes in what another replica told, of that age, if it is younger than what is known.
func (c *entitlementCache) adopt(n news, age time.Duration) {
	if n.key.kind != byLicenseKey && (n.value.Known() || n.event) {
		gone := c.licensesGone(n.value)
		if c.apply(&n, age) {
			c.dropLicenses(n.value, gone, false, 0)
		}
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if e := c.entryOf(n.key); e != nil && n.at <= e.factAt() {
		return
	}
	e, _ := c.known.find(n.key)
	if e != nil && n.key.kind == byExternalID {
		c.known.dropAlias(e)
		e = nil
	}
	add := func() {}
	if e == nil {
		e, add = c.newEntry(n.key, n.value)
	}
	e.answered, e.asked = n.at, max(c.now().After(-age), e.told)
	defer c.watches.Changed(n.key)
	c.set(e, n.value, age)
	c.doubtSooner(e, age)
	add()
	c.noteLicense(n.key, n.value)
}

// doubt has a refusal doubted at once. mu is held.
func (c *entitlementCache) doubt(e *entry) { c.change(e, func(a *answer) { a.doubtAt = 0 }) }

// licensesGone are the license keys that came with what a customer had, and don't come with
// what they have.
func (c *entitlementCache) licensesGone(customer *rights.State) []wire.UUID {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.known.byID(customer.Customer())
	if e == nil {
		return nil
	}
	have := customer.LicenseKeyIDs()
	return slices.DeleteFunc(e.value().LicenseKeyIDs(), func(id wire.UUID) bool { return slices.Contains(have, id) })
}

// doubtSooner counts how long a refusal is believed from when Polar said it. mu is held.
func (c *entitlementCache) doubtSooner(e *entry, age time.Duration) {
	c.change(e, func(a *answer) { a.doubtAt = a.doubtAt.After(-age) })
}

// apply takes in an event, or what another replica told, and completes it for the others.
func (c *entitlementCache) apply(n *news, age time.Duration) (applied bool) {
	value, asked := n.value, c.now().After(-age)
	older := func(e *entry) bool {
		switch {
		case !n.shared:
			return e.before(value.At())
		case n.event:
			return value.At() <= e.event || e.before(value.At())
		case n.at == value.At() && e.told > asked && e.event > value.At().Before(readTime):
			return true // whoever got the answer had not heard of the event
		}
		return n.at <= e.factAt()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.now()
	e := c.known.byID(value.Customer())
	if e != nil && n.shared && older(e) {
		return false // as most are: one's own hints come too
	}
	defer func() {
		c.announce(value)
		c.watches.Changed(cacheKey{byExternalID, n.former})
	}()
	if n.event && c.heard != nil {
		c.heard(value.Customer())
	}
	outdated := e != nil && older(e)
	overtaken := func(key cacheKey) bool { // by the answer that there is no such customer
		u, ok := c.unknown.Peek(key)
		if !ok || !older(u) {
			return false
		}
		if !n.shared {
			c.unknown.Remove(key)
		}
		return true
	}
	ids := idsOf(value)
	if e == nil && overtaken(ids[0]) {
		outdated = true
	}
	claims := true // the external id
	switch holder := c.known.byExternalID(value.External()); {
	case holder == e && e != nil:
	case holder == nil:
		if overtaken(ids[1]) {
			outdated, claims = outdated || !n.shared, false
		}
	case !value.Known(): // it was theirs
		claims = false
	case older(holder):
		if !n.shared {
			c.noteOlderEvent(holder, value.At(), now)
		}
		claims = false
	}
	switch {
	case e == nil && outdated:
		return false
	case e != nil && older(e):
		c.noteOlderEvent(e, value.At(), now)
		return false
	}
	n.doubtful = n.doubtful || outdated
	isNew := e == nil
	if isNew {
		e = &entry{}
	}
	if !n.shared {
		n.at = eventAt(value.At(), e.answered)
	}
	n.former = e.formerID(value)
	if n.event {
		e.event, e.told = value.At(), max(now, e.asked+1)
	} else {
		e.answered, e.asked = n.at, max(asked, e.told)
	}
	c.set(e, value.Completed(e.value(), c.graceFor), age)
	if n.shared {
		c.doubtSooner(e, age)
	}
	if n.listed {
		c.doubt(e)
	}
	if isNew {
		c.addCustomer(e)
	}
	if claims {
		c.claim(e)
	}
	if n.doubtful || value.Unread() != 0 {
		c.expire(e)
	}
	return !outdated
}

// concerns reports whether news is about a customer who is in memory, or waited for.
func (c *entitlementCache) concerns(n news) bool {
	keys := []cacheKey{n.key}
	if n.value.Known() || n.event {
		ids := idsOf(n.value)
		keys = ids[:]
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.ContainsFunc(keys, func(key cacheKey) bool { return c.entryOf(key) != nil || c.waiting[key] != nil || c.watches.Has(key) })
}

// distrustAll has nothing in memory be fresh until it is checked.
func (c *entitlementCache) distrustAll() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.gaps.Add(1)
	c.distrusted.Store(true)
}

// trust ends that, unless there was another gap since.
func (c *entitlementCache) trust(gap uint32) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.gaps.Load() == gap {
		c.distrusted.Store(false)
	}
}

// isChecked reports whether what is cached under a key was checked since the last gap.
func (c *entitlementCache) isChecked(key cacheKey) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.entryOf(key)
	return e == nil || e.checked == uint16(c.gaps.Load())
}

// unchecked are the customers and license keys that were not checked since the last gap.
func (c *entitlementCache) unchecked() (keys []cacheKey) {
	return slices.DeleteFunc(c.all(), c.isChecked)
}

// all are the customers and license keys that are cached, unknown ones too.
func (c *entitlementCache) all() (keys []cacheKey) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.known.customers.Each(func(e *entry) { keys = append(keys, e.polarKey()) })
	c.known.licenses.Each(func(e *licenseEntry) { keys = append(keys, cacheKey{byLicenseKey, e.key}) })
	return append(keys, c.unknown.Keys()...)
}

// noteChecked notes that entries were checked after a gap.
func (c *entitlementCache) noteChecked(gap uint32, keys ...cacheKey) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, key := range keys {
		if e := c.entryOf(key); e != nil {
			e.checked = uint16(gap)
		}
	}
}

// invalidate has the next request of a customer ask, by either id. If there are other
// replicas Polar is asked at once, so that they hear what comes of it.
func (c *entitlementCache) invalidate(customer *rights.State) {
	c.mu.Lock()
	defer c.mu.Unlock()
	defer c.announce(customer)
	ids := idsOf(customer)
	for _, key := range ids {
		if e, _ := c.known.find(key); e != nil {
			e.told = c.now()
			c.expire(e)
		}
		c.unknown.Remove(key)
	}
	if c.replicas != nil && c.life.Err() == nil {
		c.behind.Go(func() {
			_, err := c.fetch(c.life, ids[0], inAnyCase)
			c.notePanic(ids[0], err)
		})
	}
}

// noteOlderEvent notes an event that is older than the answer: the next request asks,
// unless a younger event said what was to be said. mu is held.
func (c *entitlementCache) noteOlderEvent(e *entry, at clock.Polar, now clock.Local) {
	if at > e.event {
		e.told = now
		c.expire(e)
	}
}
