package memory

import (
	"slices"
	"time"

	"github.com/polargate/polargate/internal/clock"
	"github.com/polargate/polargate/internal/rights"
	"github.com/polargate/polargate/internal/wire"
)

// Store keeps an answer to a question that was asked then, and gives what is to be
// served: that answer, or what is younger, by an event that came since or the answer to a
// later question about the customer's other id. n is what to tell other replicas.
func (c *Cache) Store(key Key, value *rights.State, asked clock.Local) (served *rights.State, n News) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n = News{Value: value, Key: key, At: value.At()}
	e, _ := c.known.find(key)
	if e != nil && e.outdates(value, asked) {
		return e.value(), n
	}
	claims := false // the external id in the answer
	switch {
	case key.Kind == ByLicenseKey:
	case value.Known():
		if of := c.known.byID(value.Customer()); of != e {
			if of != nil && of.outdates(value, asked) {
				return of.value(), n
			}
			e = of // the external id has moved to another customer, if it was cached
		}
		claims = key.Kind == ByExternalID || c.mayClaim(value, e, asked)
	case e != nil && key.Kind == ByExternalID:
		c.known.dropAlias(e) // the customer may have another external id now
		e = nil
	}
	add := func() {}
	if e == nil {
		e, add = c.newEntry(key, value)
	}
	if e.told <= asked { // the question was asked after the event, however Polar dates the answer
		n.At = max(n.At, e.factAt()+1)
	}
	n.Former = e.formerID(value)
	e.answered, e.asked = n.At, asked
	defer c.NoteChanged(value, key, Key{ByExternalID, n.Former})
	c.set(e, value.Completed(e.value(), c.GraceFor), 0)
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
func (c *Cache) newEntry(key Key, value *rights.State) (e *entry, add func()) {
	switch {
	case !value.Known():
		if e, ok := c.unknown.Peek(key); ok {
			return e, func() {}
		}
		e := &entry{}
		return e, func() { c.unknown.Add(key, e) }
	case key.Kind == ByLicenseKey:
		license := &licenseEntry{key: key.ID}
		return &license.entry, func() {
			c.known.addLicense(license)
			c.unknown.Remove(key)
		}
	}
	e = &entry{}
	return e, func() { c.addCustomer(e) }
}

// addCustomer has a new entry found by Polar's id. mu is held.
func (c *Cache) addCustomer(e *entry) {
	c.known.addCustomer(e)
	c.unknown.Remove(Key{ByPolarID, e.value().Customer().String()})
}

// claim has an entry found by the external id in its answer too, if customers can be asked
// about by that. mu is held.
func (c *Cache) claim(e *entry) {
	if id := (Key{ByExternalID, e.value().External()}); id.askable() {
		c.known.addAlias(e)
		c.unknown.Remove(id)
	}
}

// mayClaim reports whether the external id in an answer about a customer, whose entry is e,
// is theirs: not if Polar said otherwise after the answer was asked for. mu is held.
func (c *Cache) mayClaim(value *rights.State, e *entry, asked clock.Local) bool {
	if u, ok := c.unknown.Peek(Key{ByExternalID, value.External()}); ok && u.asked > asked {
		return false
	}
	other := c.known.byExternalID(value.External())
	return other == nil || other == e || other.asked <= asked && other.event <= value.At()
}

// Revise changes what is cached under a key, unless that is younger than the change.
func (c *Cache) Revise(key Key, at clock.Polar, change func(*rights.State) *rights.State) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, a := c.known.find(key)
	if e == nil || a.value.At() > at {
		return
	}
	c.change(e, func(a *answer) {
		a.value = *change(&a.value)
		c.compose(a, c.Now())
	})
}

// Outdate has the next request about a customer ask.
func (c *Cache) Outdate(key Key) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e := c.entryOf(key); e != nil {
		c.expire(e)
	}
}

// expire has the next request ask. mu is held.
func (c *Cache) expire(e *entry) {
	c.change(e, func(a *answer) {
		a.freshUntil, a.staleUntil, a.memoryUntil = 0, 0, 0
		if a.more().limits != nil {
			a.note(func(r *rarities) { r.limits = &limits{expires: r.limits.expires, end: r.limits.end} })
		}
	})
}

// set makes a value of that age the one that an entry serves, from now on. mu is held.
func (c *Cache) set(e *entry, value *rights.State, age time.Duration) {
	now := c.Now()
	last := e.value()
	if last != nil && !value.Known() && value.Customer() == (wire.UUID{}) && value.IsPlain() {
		value = value.WithCustomer(last.Customer()) // Polar has no such customer any more, and does not repeat the id
	}
	value = c.observe(value)
	nothingNew := last != nil && last.AllowsTheSame(value)
	pause := c.settlePause(e, nothingNew)
	fresh, stale, grace := c.FreshFor, c.StaleFor, c.GraceFor
	switch {
	case !value.Known():
		// Who has just bought is in a hurry. Where Polar cannot be asked, who was
		// refused goes on being refused for as long as that may be believed.
		fresh, stale, grace = min(fresh, pause), 0, min(fresh, c.UnknownFor)
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
func (c *Cache) settlePause(e *entry, nothingNew bool) time.Duration {
	if !nothingNew {
		e.doubts = 0
	}
	e.doubts = min(e.doubts+1, mostDoubts)
	return c.pauseOf(e)
}

// pauseOf is how long a refusal by what an entry serves is believed. mu is held.
func (c *Cache) pauseOf(e *entry) time.Duration {
	return min(FirstPause<<(max(e.doubts, 1)-1), c.UnknownFor)
}

// News is what Polar said of a customer, as replicas tell each other. Of a customer that
// Polar does not have, key is the id that was asked about. event is that a webhook told it,
// and doubtful that Polar is to be asked all the same.
type News struct {
	Value           *rights.State
	Key             Key
	At              clock.Polar // in the order that all replicas agree on
	Event, Doubtful bool
	Shared          bool   // it came from another replica
	Listed          bool   // Polar's lists tell it
	Former          string // the external id that the customer had before, if it has changed
}

// ApplyEvent takes in what an event of that age says of a customer, tells the other
// replicas, and reports whether it did: not when what is known of them is younger. Where the
// event cannot be trusted to be the last word, the next request asks: it may be late, or the
// younger answer come out of a cache of Polar's that did not know of it yet.
func (c *Cache) ApplyEvent(value *rights.State, age time.Duration) bool {
	n := News{Value: value, Event: true, Doubtful: age > ReadTime}
	applied := c.apply(&n, age)
	if applied && c.Others != nil && value.Unread() == 0 {
		c.Others.Publish(n)
	}
	return applied
}

// Adopt takes in what another replica told, of that age, if it is younger than what is known.
func (c *Cache) Adopt(n News, age time.Duration) {
	if n.Key.Kind != ByLicenseKey && (n.Value.Known() || n.Event) {
		gone := c.licensesGone(n.Value)
		if c.apply(&n, age) {
			c.DropLicenses(n.Value, gone, false, 0)
		}
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if e := c.entryOf(n.Key); e != nil && n.At <= e.factAt() {
		return
	}
	e, _ := c.known.find(n.Key)
	if e != nil && n.Key.Kind == ByExternalID {
		c.known.dropAlias(e)
		e = nil
	}
	add := func() {}
	if e == nil {
		e, add = c.newEntry(n.Key, n.Value)
	}
	e.answered, e.asked = n.At, max(c.Now().After(-age), e.told)
	defer c.watches.Changed(n.Key)
	c.set(e, n.Value, age)
	c.doubtSooner(e, age)
	add()
	c.noteLicense(n.Key, n.Value)
}

// doubt has a refusal doubted at once. mu is held.
func (c *Cache) doubt(e *entry) { c.change(e, func(a *answer) { a.doubtAt = 0 }) }

// licensesGone are the license keys that came with what a customer had, and don't come with
// what they have.
func (c *Cache) licensesGone(customer *rights.State) []wire.UUID {
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
func (c *Cache) doubtSooner(e *entry, age time.Duration) {
	c.change(e, func(a *answer) { a.doubtAt = a.doubtAt.After(-age) })
}

// apply takes in an event, or what another replica told, and completes it for the others.
func (c *Cache) apply(n *News, age time.Duration) (applied bool) {
	value, asked := n.Value, c.Now().After(-age)
	older := func(e *entry) bool {
		switch {
		case !n.Shared:
			return e.before(value.At())
		case n.Event:
			return value.At() <= e.event || e.before(value.At())
		case n.At == value.At() && e.told > asked && e.event > value.At().Before(ReadTime):
			return true // whoever got the answer had not heard of the event
		}
		return n.At <= e.factAt()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.Now()
	e := c.known.byID(value.Customer())
	if e != nil && n.Shared && older(e) {
		return false // as most are: one's own hints come too
	}
	defer func() {
		c.announce(value)
		c.watches.Changed(Key{ByExternalID, n.Former})
	}()
	if n.Event && c.Heard != nil {
		c.Heard(value.Customer())
	}
	outdated := e != nil && older(e)
	overtaken := func(key Key) bool { // by the answer that there is no such customer
		u, ok := c.unknown.Peek(key)
		if !ok || !older(u) {
			return false
		}
		if !n.Shared {
			c.unknown.Remove(key)
		}
		return true
	}
	ids := IDsOf(value)
	if e == nil && overtaken(ids[0]) {
		outdated = true
	}
	claims := true // the external id
	switch holder := c.known.byExternalID(value.External()); {
	case holder == e && e != nil:
	case holder == nil:
		if overtaken(ids[1]) {
			outdated, claims = outdated || !n.Shared, false
		}
	case !value.Known(): // it was theirs
		claims = false
	case older(holder):
		if !n.Shared {
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
	n.Doubtful = n.Doubtful || outdated
	isNew := e == nil
	if isNew {
		e = &entry{}
	}
	if !n.Shared {
		n.At = EventAt(value.At(), e.answered)
	}
	n.Former = e.formerID(value)
	if n.Event {
		e.event, e.told = value.At(), max(now, e.asked+1)
	} else {
		e.answered, e.asked = n.At, max(asked, e.told)
	}
	c.set(e, value.Completed(e.value(), c.GraceFor), age)
	if n.Shared {
		c.doubtSooner(e, age)
	}
	if n.Listed {
		c.doubt(e)
	}
	if isNew {
		c.addCustomer(e)
	}
	if claims {
		c.claim(e)
	}
	if n.Doubtful || value.Unread() != 0 {
		c.expire(e)
	}
	return !outdated
}

// Concerns reports whether news is about a customer who is in memory, or waited for.
func (c *Cache) Concerns(n News) bool {
	keys := []Key{n.Key}
	if n.Value.Known() || n.Event {
		ids := IDsOf(n.Value)
		keys = ids[:]
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.ContainsFunc(keys, func(key Key) bool { return c.entryOf(key) != nil || c.waiting[key] != nil || c.watches.Has(key) })
}

// DistrustAll has nothing in memory be fresh until it is checked.
func (c *Cache) DistrustAll() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.gaps.Add(1)
	c.distrusted.Store(true)
}

// Gap is how many gaps there were.
func (c *Cache) Gap() uint32 { return c.gaps.Load() }

// Trust ends that, unless there was another gap since.
func (c *Cache) Trust(gap uint32) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.gaps.Load() == gap {
		c.distrusted.Store(false)
	}
}

// IsChecked reports whether what is cached under a key was checked since the last gap.
func (c *Cache) IsChecked(key Key) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.entryOf(key)
	return e == nil || e.checked == uint16(c.gaps.Load())
}

// Unchecked are the customers and license keys that were not checked since the last gap.
func (c *Cache) Unchecked() (keys []Key) {
	return slices.DeleteFunc(c.All(), c.IsChecked)
}

// All are the customers and license keys that are cached, unknown ones too.
func (c *Cache) All() (keys []Key) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.known.customers.Each(func(e *entry) { keys = append(keys, e.polarKey()) })
	c.known.licenses.Each(func(e *licenseEntry) { keys = append(keys, Key{ByLicenseKey, e.key}) })
	return append(keys, c.unknown.Keys()...)
}

// NoteChecked notes that entries were checked after a gap.
func (c *Cache) NoteChecked(gap uint32, keys ...Key) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, key := range keys {
		if e := c.entryOf(key); e != nil {
			e.checked = uint16(gap)
		}
	}
}

// Invalidate has the next request of a customer ask, by either id. If there are other
// replicas Polar is asked at once, so that they hear what comes of it.
func (c *Cache) Invalidate(customer *rights.State) {
	c.mu.Lock()
	defer c.mu.Unlock()
	defer c.announce(customer)
	ids := IDsOf(customer)
	for _, key := range ids {
		if e, _ := c.known.find(key); e != nil {
			e.told = c.Now()
			c.expire(e)
		}
		c.unknown.Remove(key)
	}
	if c.Others != nil && c.Life.Err() == nil {
		c.behind.Go(func() {
			_, err := c.Fetch(c.Life, ids[0], InAnyCase)
			c.notePanic(ids[0], err)
		})
	}
}

// noteOlderEvent notes an event that is older than the answer: the next request asks,
// unless a younger event said what was to be said. mu is held.
func (c *Cache) noteOlderEvent(e *entry, at clock.Polar, now clock.Local) {
	if at > e.event {
		e.told = now
		c.expire(e)
	}
}

// StoreListed keeps a state out of lists of which the first page was asked for then, and
// reports whether the customer is in the cache now, with that or with something younger.
// There may be no room: nobody else is evicted for it.
func (c *Cache) StoreListed(value *rights.State, asked clock.Local, size int) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.known.byID(value.Customer())
	switch {
	case e == nil:
		if u, ok := c.unknown.Peek(IDsOf(value)[0]); ok && u.asked > asked {
			return true // deleted meanwhile
		}
		if c.known.customers.Len() >= size {
			return false
		}
	case e.told > asked, e.asked > asked, e.event > value.At():
		return true
	}
	claims := c.mayClaim(value, e, asked)
	add := func() {}
	if e == nil {
		e, add = c.newEntry(IDsOf(value)[0], value)
	}
	e.answered, e.asked = value.At(), asked
	c.set(e, value, c.Now().Sub(asked))
	// What is not in a list that changes may be in it again: a refusal is doubted at once.
	c.doubt(e)
	add()
	if claims {
		c.claim(e)
	}
	return true
}

// ExpireUnlisted has Polar asked about customers who had something before then, and of whom
// the lists say nothing now.
func (c *Cache) ExpireUnlisted(then clock.Local, isListed func(wire.UUID) bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.known.customers.Each(func(e *entry) {
		value := e.value()
		if value.HasAny() && e.asked < then && e.told < then && !isListed(value.Customer()) {
			c.expire(e)
		}
	})
}
