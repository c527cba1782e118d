package polargate

import (
	"context"
	"errors"
	"math"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/polargate/polargate/internal/flight"
	"github.com/polargate/polargate/internal/pace"
)

// entitlementCache keeps what Polar said of customers and license keys. Who is
// known is kept in a 2Q cache, in which a crowd that comes once does not push out
// those who come often; who is not known is kept apart, and briefly.
type entitlementCache struct {
	fresh, stale, grace, negative time.Duration
	timeout                       time.Duration
	// ask asks Polar. An *Error that is a denial of a key, or an unknown
	// customer, comes as Entitlements; an error means that nobody could say.
	ask func(context.Context, cacheKey) (*Entitlements, error)
	// unseen bounds the requests about customers and keys who were never seen, so that
	// they leave requests for those who were.
	unseen [keyKinds]pace.Unseen
	// spare reports whether a question may be asked now that so many others are about
	// to be asked beside, and keeps nobody waiting.
	spare    func(others int64) bool
	optional atomic.Int64 // questions under way that could wait
	short    atomic.Int64 // until then customers count as turned away for lack of requests
	panicked func(*flight.PanicError)

	// Each kind of id has a cache of its own, so that a crowd of keys pushes out no
	// customer, and the ids that events name beside a program's own none either.
	known   [keyKinds]*lru.TwoQueueCache[string, *entry]
	unknown *lru.Cache[cacheKey, *entry]
	flights flight.Group
	// keys knows of the license keys that customers' benefits come with; nil counts all.
	keys *keyring
	// licenses are the keys, at most a few, under which a license key of an id was
	// asked about: rotation leaves more than one.
	licenses *lru.Cache[string, []string]
	behind   sync.WaitGroup // refreshes that nobody waits for
	life     context.Context
	end      context.CancelFunc
	start    time.Time
	outages  [keyKinds]atomic.Pointer[outage]

	storing sync.Mutex                              // guards changes of what is cached, not look-ups; never held across I/O
	waiting map[cacheKey]map[chan struct{}]struct{} // who waits for news of whom; guarded by storing
	counts  counters
}

// cacheKey names a customer or a license key. The kind is a field of its own, so
// that no text can be taken for another kind's.
//
// The text of one that a caller names is the caller's memory, which a server such as
// fasthttp uses again for the next request: whatever outlives the call gets a copy.
type cacheKey struct {
	kind keyKind
	id   string
}

// own is the key in memory that nobody else writes to.
func (k cacheKey) own() cacheKey { return cacheKey{k.kind, strings.Clone(k.id)} }

type keyKind uint8

const (
	byPolarID keyKind = iota
	byExternalID
	byLicenseKey
	keyKinds
)

// entry is what is cached of one customer or key. Times are nanoseconds since the
// cache was made.
type entry struct {
	key     cacheKey     // by which it is cached, in memory of the cache's own
	touchAt atomic.Int64 // when its next use is worth noting
	value   atomic.Pointer[Entitlements]
	// freshUntil: not asked about before. staleUntil: served before the answer
	// is there. graceUntil: served while nobody can say.
	freshUntil, staleUntil, graceUntil atomic.Int64
	// doubtAt: a refusal by this answer has Polar asked again from then on.
	// memoryUntil: served without asking while others are turned away.
	doubtAt, memoryUntil atomic.Int64
	retryAt              atomic.Int64 // after a failure
	failure              atomic.Pointer[outage]
	refreshing           atomic.Bool
	expires              atomic.Int64 // of a license key; 0 if it does not
	// event is the time of the last event that was taken in, and answered that of
	// the last answer, both by Polar's clock; told is when the event came, by
	// ours; asked is when the question was that was answered last, by ours.
	event, answered, told, asked int64
	// stateFresh and stateStale are freshUntil and staleUntil but for license keys.
	stateFresh, stateStale int64
	// question counts the questions and events, and base is that of them which said
	// what is served, less what was spent since; spent is that of each meter since
	// the last of them, and that of the requests under way. All of these are guarded
	// by storing.
	question, base int64
	pause          time.Duration // how long a refusal is believed
	hopeUntil      int64         // until then an answer that grants nothing new is doubted too
	spent          map[string]float64
	underWay       map[*debit]struct{}
}

// debit is an amount that was taken off a meter.
type debit struct {
	meter string
	units float64
}

// before reports whether an event from that time is older than what is cached. An
// answer may have been read a while before it was dated.
func (e *entry) before(when int64) bool {
	return when < e.event || when < e.answered-int64(readTime)
}

// source says where an answer came from.
type cacheSource int

const (
	cacheHit cacheSource = iota
	cacheStale
	cacheGrace
	cacheMiss
	cacheSources
)

// counters are read by Stats.
type counters struct {
	served                         [cacheSources]atomic.Int64
	negative, upstream, failures   atomic.Int64
	unseenTurnedAway, panics       atomic.Int64
	events, eventsOld, eventsTwice atomic.Int64
	eventsRefused, eventsUnknown   atomic.Int64
	unidentified, unpaid           atomic.Int64
	undecided, failedOpen          atomic.Int64
}

const (
	// retryStale is how long a failure to refresh is believed while there is an
	// answer to serve, spread by half to either side.
	retryStale = 5 * time.Second
	// outageMemory is how long the same is believed of everybody of that kind.
	outageMemory = time.Second
	// outageLasts is how long after a try was due an outage counts as under way.
	outageLasts = time.Minute
	// readTime is how long an answer may take at Polar, between what it says and
	// its date.
	readTime = 5 * time.Second
	// touchEvery is how often it is noted that an entry is in use: that takes a lock
	// which all look-ups share.
	touchEvery = time.Second
	// firstPause is how long a refusal is believed at first. Each answer after it that
	// says the same is believed twice as long as the one before, up to UnknownFor: a
	// purchase is in Polar's state seconds after the checkout, at times minutes.
	firstPause = 2 * time.Second
	// hopeLasts is how long after a question in any case its benefits may be late.
	hopeLasts = 5 * time.Minute
	// shortLasts is how long after somebody was turned away for lack of requests those
	// who can be served from memory yield theirs.
	shortLasts = 10 * time.Second
	// yieldsFor is the age up to which answers yield, where StaleFor is less.
	yieldsFor = time.Hour
	// unknownShare of the size of the cache is the room for who is not known.
	unknownShare = 4
)

func newEntitlementCache(size int) (*entitlementCache, error) {
	c := &entitlementCache{start: time.Now()}
	var err error
	for kind := range c.known {
		if c.known[kind], err = lru.New2Q[string, *entry](size); err != nil {
			return nil, err
		}
	}
	if c.unknown, err = lru.New[cacheKey, *entry](max(size/unknownShare, 1)); err != nil {
		return nil, err
	}
	if c.licenses, err = lru.New[string, []string](size); err != nil {
		return nil, err
	}
	c.life, c.end = context.WithCancel(context.Background())
	return c, nil
}

// now is monotonic: it reads one clock, and a server does not sleep.
func (c *entitlementCache) now() int64 { return int64(time.Since(c.start)) }

// find is the entry of somebody who is known. The cache's Get keeps the text it is
// given when it moves an entry to those who come often, so it is given the entry's own.
func (c *entitlementCache) find(key cacheKey, now int64) (*entry, bool) {
	e, ok := c.known[key.kind].Peek(key.id)
	if ok && now >= e.touchAt.Load() {
		e.touchAt.Store(now + int64(touchEvery))
		c.known[key.kind].Get(e.key.id)
	}
	return e, ok
}

// add makes the entry of somebody who is known from now on. storing is held.
func (c *entitlementCache) add(key cacheKey) *entry {
	e := &entry{key: key}
	c.known[key.kind].Add(key.id, e)
	c.unknown.Remove(key)
	return e
}

// hit is the answer for a key if there is one that is fresh: the hot path.
func (c *entitlementCache) hit(key cacheKey) (*Entitlements, bool) {
	now := c.now()
	e, ok := c.find(key, now)
	if !ok || now >= e.freshUntil.Load() {
		return nil, false
	}
	c.counts.served[cacheHit].Add(1)
	return e.value.Load(), true
}

// get is the answer for a key: from memory if it is young enough, else from
// Polar, and when nobody can say, from memory for as long as grace lasts.
func (c *entitlementCache) get(ctx context.Context, key cacheKey) (*Entitlements, error) {
	now := c.now()
	e, known := c.find(key, now)
	if !known {
		return c.meet(ctx, key, now)
	}
	switch {
	case now < e.freshUntil.Load():
		c.counts.served[cacheHit].Add(1)
		return e.value.Load(), nil
	case now < e.staleUntil.Load():
		c.refreshBehind(e, now, unlessFresh)
		c.counts.served[cacheStale].Add(1)
		return c.serving(e, now), nil
	}
	if now < e.memoryUntil.Load() && now < c.short.Load() && !e.value.Load().awaitsKeys(now) {
		c.counts.served[cacheGrace].Add(1)
		return c.serving(e, now), nil
	}
	if now < e.graceUntil.Load() && c.inOutage(key.kind, e, now) {
		c.refreshBehind(e, now, unlessFresh)
		c.counts.served[cacheGrace].Add(1)
		return c.serving(e, now), nil
	}
	if last := e.failure.Load(); last != nil && now < last.until {
		return c.remembered(key, last.err)
	}
	return c.renew(ctx, key, unlessFresh)
}

// inOutage reports whether Polar was asked in vain a moment ago, about somebody or
// about others: who can be served from memory does not wait for the next try, which
// may take as long to fail.
func (c *entitlementCache) inOutage(kind keyKind, e *entry, now int64) bool {
	if retry := e.retryAt.Load(); retry != 0 && now < retry+int64(outageLasts) {
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

// recheck is the answer for a customer whom the last one, which is in memory, does not
// let in: that one, or a new one if it is time to doubt it. What could be spent by
// asking waits: requests that others lack, and units that Polar may not have counted yet.
func (c *entitlementCache) recheck(ctx context.Context, key cacheKey, last *Entitlements) *Entitlements {
	now := c.now()
	e, ok := c.known[key.kind].Peek(key.id)
	if !ok || now < e.doubtAt.Load() || c.hasSpent(e) {
		return last
	}
	if c.inOutage(key.kind, e, now) {
		c.refreshBehind(e, now, unlessCertain)
		return last
	}
	done, ok := c.mayAsk(now)
	if !ok {
		return last
	}
	defer done()
	value, err := c.fetch(ctx, key, unlessCertain)
	if err != nil {
		c.mishap(key, err)
		return last
	}
	return value
}

// hasSpent reports whether units were spent since the last question.
func (c *entitlementCache) hasSpent(e *entry) bool {
	c.storing.Lock()
	defer c.storing.Unlock()
	for _, units := range e.spent {
		if units > 0 {
			return true
		}
	}
	return false
}

// mayAsk reports whether a question can be asked that could wait: not while customers
// are turned away, nor if that keeps others waiting. done is to be called after it.
func (c *entitlementCache) mayAsk(now int64) (done func(), ok bool) {
	if now < c.short.Load() {
		return nil, false
	}
	if others := c.optional.Add(1) - 1; !c.spare(others) {
		c.optional.Add(-1)
		return nil, false
	}
	return func() { c.optional.Add(-1) }, true
}

// outageOf is the failure that is believed of everybody of a kind; nil if none.
func (c *entitlementCache) outageOf(kind keyKind, now int64) error {
	if o := c.outages[kind].Load(); o != nil && now < o.until {
		return o.err
	}
	return nil
}

// mishap notes a panic on the way to Polar, which nobody is told of otherwise.
func (c *entitlementCache) mishap(key cacheKey, err error) {
	if panicked, ok := errors.AsType[*flight.PanicError](err); ok {
		c.failed(key, err)
		c.panicked(panicked)
	}
}

// renew is the answer for a key from Polar, or when nobody can say, from memory for
// as long as grace lasts.
func (c *entitlementCache) renew(ctx context.Context, key cacheKey, when urgency) (*Entitlements, error) {
	value, err := c.fetch(ctx, key, when)
	if err == nil {
		c.counts.served[cacheMiss].Add(1)
		return value, nil
	}
	return c.remembered(key, err)
}

// remembered is the answer for a key when nobody can say, for err: from memory for as
// long as grace lasts.
func (c *entitlementCache) remembered(key cacheKey, err error) (*Entitlements, error) {
	now := c.now()
	e, known := c.known[key.kind].Peek(key.id)
	if !known {
		if e, ok := c.unknown.Peek(key); ok && now < e.graceUntil.Load() {
			c.counts.negative.Add(1)
			return e.value.Load(), nil
		}
		c.turnedAway(key.kind, err, now)
		return nil, err
	}
	if end := e.expires.Load(); end != 0 && now >= end {
		return &Entitlements{refused: ErrExpired}, nil // that is sure without Polar
	}
	if now < e.graceUntil.Load() {
		c.counts.served[cacheGrace].Add(1)
		return c.serving(e, now), nil
	}
	c.turnedAway(key.kind, err, now)
	return nil, err
}

// turnedAway has those who can be served from memory yield, if it is for lack of
// requests that a customer gets no answer. Not for a key: anybody can make those up.
func (c *entitlementCache) turnedAway(kind keyKind, err error, now int64) {
	if e, ok := errors.AsType[*Error](err); ok && e.unasked && kind != byLicenseKey {
		c.short.Store(until(now, shortLasts))
	}
}

// meet is get for somebody who was never seen, or was not known.
func (c *entitlementCache) meet(ctx context.Context, key cacheKey, now int64) (*Entitlements, error) {
	failure := c.outageOf(key.kind, now)
	if e, ok := c.unknown.Get(key); ok {
		yields := now < e.graceUntil.Load() && (failure != nil || now < c.short.Load())
		if yields || now < e.freshUntil.Load() {
			c.counts.negative.Add(1)
			return e.value.Load(), nil
		}
	}
	if failure != nil {
		return nil, failure
	}
	return c.renew(ctx, key, unlessFresh)
}

// outage is a failure that is believed for a moment, of one or of everybody: who
// cannot be served from memory does not wait for a server that has just not answered.
// Kinds have their own, for a token may be good for one and not for another.
type outage struct {
	until int64
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
func (c *entitlementCache) fetch(ctx context.Context, key cacheKey, when urgency) (*Entitlements, error) {
	key = key.own()
	return flight.Do(ctx, &c.flights, string('0'+rune(key.kind))+key.id, func(context.Context) (*Entitlements, error) {
		if value, ok := c.current(key, when); ok {
			return value, nil // it came between this caller's look and its turn
		}
		return c.refresh(key, when)
	})
}

// current is the answer for a key that needs no question, also that it is not known.
func (c *entitlementCache) current(key cacheKey, when urgency) (*Entitlements, bool) {
	e, ok := c.cachedOf(key)
	now := c.now()
	if !ok || when == inAnyCase || now >= e.freshUntil.Load() || when == unlessCertain && now >= e.doubtAt.Load() {
		return nil, false
	}
	return e.value.Load(), true
}

// cachedOf is the entry of somebody, whether known or not.
func (c *entitlementCache) cachedOf(key cacheKey) (*entry, bool) {
	if e, ok := c.known[key.kind].Peek(key.id); ok {
		return e, true
	}
	return c.unknown.Peek(key)
}

// refresh asks Polar and keeps the answer.
func (c *entitlementCache) refresh(key cacheKey, when urgency) (*Entitlements, error) {
	began := c.now()
	if value, ok := c.stateOf(key); ok && when == unlessFresh {
		return c.withKeysLookedUp(key, value, 0), nil
	}
	if !c.known[key.kind].Contains(key.id) {
		end, ok := c.unseen[key.kind].Begin()
		if !ok {
			return nil, c.turnAway(key.kind)
		}
		defer end()
	}
	ctx, cancel := context.WithTimeout(c.life, c.timeout)
	defer cancel()
	asked := c.begin(key, when)
	value, err := c.ask(ctx, key)
	c.count(err)
	if err != nil {
		c.failed(key, err)
		return nil, err
	}
	c.outages[key.kind].Store(nil)
	value = c.keep(key, value, asked)
	if when != inAnyCase {
		began = 0
	}
	return c.withKeysLookedUp(key, value, began), nil
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

// turnAway is the answer to who was never seen and is not asked about.
func (c *entitlementCache) turnAway(kind keyKind) error {
	c.counts.unseenTurnedAway.Add(1)
	if o := c.outages[kind].Load(); o != nil && c.now() < o.until+int64(outageLasts) {
		return o.err // nobody got an answer since
	}
	return &Error{Op: opEntitlements, Reason: ErrRateLimited, RetryAfter: time.Second, Detail: "too many were asked about that were not seen before", unasked: true}
}

// begin gives the time at which a question begins, and notes it. One in any case is
// asked by who expects something new: its answer is not believed for long.
func (c *entitlementCache) begin(key cacheKey, when urgency) (asked int64) {
	c.storing.Lock()
	defer c.storing.Unlock()
	e, ok := c.cachedOf(key)
	if ok {
		e.forgetSpent()
	}
	now := c.now()
	if ok && when == inAnyCase {
		e.pause, e.hopeUntil = 0, until(now, hopeLasts)
	}
	return now
}

// forgetSpent is for what Polar could know of: what was spent by requests that have
// ended. storing is held.
func (e *entry) forgetSpent() {
	e.question++
	e.spent = nil
	for d := range e.underWay {
		e.takeOff(d)
	}
}

// takeOff has answers come less a debit, until Polar could know of it. storing is held.
func (e *entry) takeOff(d *debit) {
	if e.spent == nil {
		e.spent = map[string]float64{}
	}
	e.spent[d.meter] += d.units
}

// refreshBehind asks Polar without anybody waiting, unless others need the request.
func (c *entitlementCache) refreshBehind(e *entry, now int64, when urgency) {
	if now < e.retryAt.Load() || !e.refreshing.CompareAndSwap(false, true) {
		return
	}
	done, ok := c.mayAsk(now)
	if !ok {
		e.refreshing.Store(false)
		return
	}
	c.goBehind(func() {
		defer e.refreshing.Store(false)
		defer done()
		_, err := c.fetch(c.life, e.key, when)
		c.mishap(e.key, err)
	})
}

// goBehind does something that nobody waits for but close, unless it is over.
func (c *entitlementCache) goBehind(do func()) {
	c.storing.Lock()
	defer c.storing.Unlock()
	if c.life.Err() == nil {
		c.behind.Go(do)
	}
}

// failed puts off the next question about somebody for whom there is an answer
// to serve meanwhile.
func (c *entitlementCache) failed(key cacheKey, err error) {
	if _, dead := errors.AsType[*deadLine](err); dead {
		return // the next question goes over another connection
	}
	lately := &outage{c.now() + int64(outageMemory), err}
	if ofEverybody(err) {
		c.outages[key.kind].Store(lately)
	}
	e, ok := c.known[key.kind].Peek(key.id)
	if !ok {
		return
	}
	pause := retryStale/2 + rand.N(retryStale)
	if failure, ok := errors.AsType[*Error](err); ok {
		pause = max(pause, failure.RetryAfter)
	}
	e.failure.Store(lately)
	e.retryAt.Store(until(c.now(), pause))
}

// keep stores an answer to a question that was asked then, and gives what is to be
// served: that answer, or what an event told since, which is younger.
func (c *entitlementCache) keep(key cacheKey, value *Entitlements, asked int64) *Entitlements {
	c.storing.Lock()
	defer c.storing.Unlock()
	e, ok := c.known[key.kind].Peek(key.id)
	if ok && e.told > asked && e.event > value.at-int64(readTime) {
		return e.value.Load()
	}
	switch {
	case ok:
	case value.Known():
		e = c.add(key)
	default:
		if e, ok = c.unknown.Peek(key); !ok {
			e = &entry{key: key}
			c.unknown.Add(key, e)
		}
	}
	e.answered, e.asked = value.at, asked
	value = e.lessSpent(value.completed(e.value.Load(), c.grace))
	c.set(e, value, 0)
	if e.told > asked {
		e.outdate() // by an event of meanwhile, which this answer may not know of
	}
	c.noteLicense(e.key, value)
	return e.value.Load()
}

// hear has a channel told of each event about a customer, until stop is called.
func (c *entitlementCache) hear(key cacheKey, news chan struct{}) (stop func()) {
	key = key.own()
	c.storing.Lock()
	defer c.storing.Unlock()
	if c.waiting == nil {
		c.waiting = map[cacheKey]map[chan struct{}]struct{}{}
	}
	if c.waiting[key] == nil {
		c.waiting[key] = map[chan struct{}]struct{}{}
	}
	c.waiting[key][news] = struct{}{}
	return func() {
		c.storing.Lock()
		defer c.storing.Unlock()
		if delete(c.waiting[key], news); len(c.waiting[key]) == 0 {
			delete(c.waiting, key)
		}
	}
}

// spread tells those who wait for news of a customer. storing is held.
func (c *entitlementCache) spread(keys ...cacheKey) {
	for _, key := range keys {
		for news := range c.waiting[key] {
			select {
			case news <- struct{}{}:
			default: // has not taken the last news yet
			}
		}
	}
}

// latest is what is in memory about somebody, and whether it can be served without a
// question: it is fresh, or stale at most. It is nil if there is nothing.
func (c *entitlementCache) latest(key cacheKey) (value *Entitlements, sure bool) {
	e, ok := c.cachedOf(key)
	if !ok {
		return nil, false
	}
	return e.value.Load(), c.now() < max(e.freshUntil.Load(), e.staleUntil.Load())
}

// askedSince reports whether Polar answered a question about somebody from then or later.
func (c *entitlementCache) askedSince(key cacheKey, then int64) bool {
	c.storing.Lock()
	defer c.storing.Unlock()
	e, ok := c.cachedOf(key)
	return ok && e.asked >= then
}

// outdate has the next request ask.
func (e *entry) outdate() {
	e.freshUntil.Store(0)
	e.staleUntil.Store(0)
	e.stateFresh, e.stateStale = 0, 0
	e.memoryUntil.Store(0)
}

// askedBefore reports whether what is cached answers a question from before then,
// and nobody has just asked in vain.
func (c *entitlementCache) askedBefore(key cacheKey, then int64) bool {
	c.storing.Lock()
	defer c.storing.Unlock()
	e, ok := c.cachedOf(key)
	return ok && e.asked < then && e.failure.Load() == nil
}

// until is a time so much later, or the end of time.
func until(now int64, d time.Duration) int64 {
	if int64(d) > math.MaxInt64-now {
		return math.MaxInt64
	}
	return now + int64(d)
}

// set makes a value of that age the one that an entry serves, from now on. storing
// is held.
func (c *entitlementCache) set(e *entry, value *Entitlements, age time.Duration) {
	now := c.now()
	nothingNew := e.settlePause(value, c.negative)
	fresh, stale, grace := c.fresh, c.stale, c.grace
	switch {
	case !value.Known():
		// Who has just bought is in a hurry. Where Polar cannot be asked, who was
		// refused goes on being refused for as long as that may be believed.
		fresh, stale, grace = min(fresh, e.pause), 0, min(fresh, c.negative)
	case value.unread != 0, nothingNew && now < e.hopeUntil:
		fresh = min(fresh, e.pause)
	}
	e.expires.Store(0)
	if l := value.license; l != nil && !l.ExpiresAt.IsZero() {
		left := l.ExpiresAt.Sub(l.answeredAt)
		fresh, stale, grace = min(fresh, left), min(stale, left), min(grace, left)
		e.expires.Store(until(now, left))
	}
	e.base = e.question
	e.stateFresh, e.stateStale = until(now, fresh-age), until(now, max(fresh, stale)-age)
	c.compose(e, value, now)
	e.graceUntil.Store(until(now, max(fresh, stale, grace)-age))
	e.memoryUntil.Store(until(now, min(max(fresh, stale, yieldsFor), max(fresh, stale, grace))-age))
	e.doubtAt.Store(until(now, e.pause))
	e.failure.Store(nil)
	e.retryAt.Store(0)
}

// settlePause sets how long a refusal by a new value is believed, longer each time that
// there is nothing new in it, and reports whether that is so. storing is held.
func (e *entry) settlePause(value *Entitlements, most time.Duration) (nothingNew bool) {
	last := e.value.Load()
	nothingNew = last != nil && last.allowsTheSame(value)
	if nothingNew {
		e.pause *= 2
	} else {
		e.pause = 0
	}
	e.pause = min(max(e.pause, firstPause), most)
	return nothingNew
}

// tell takes in what an event of that age says of a customer, under both ids, and
// reports whether it did: not when what is known of them is younger. Where the event
// cannot be trusted to be the last word, the next request asks: it may be late, or the
// younger answer come out of a cache of Polar's that did not know of it yet.
func (c *entitlementCache) tell(value *Entitlements, age time.Duration) bool {
	c.storing.Lock()
	defer c.storing.Unlock()
	keys := []cacheKey{{byPolarID, value.customer}}
	if byOwnID := ExternalID(value.external); byOwnID.check() == nil {
		keys = append(keys, byOwnID.key) // others are refused when they are asked about
	}
	defer c.spread(keys...)
	free, outdated := keys[:0:0], false // free is what no other customer has by now
	for _, key := range keys {
		e, known := c.known[key.kind].Peek(key.id)
		if !known {
			if e, ok := c.unknown.Peek(key); ok && e.before(value.at) {
				c.unknown.Remove(key)
				outdated = true
			}
			free = append(free, key)
			continue
		}
		of := e.value.Load().customer
		switch other := of != "" && of != value.customer; {
		case other && !value.known:
		case other && e.before(value.at):
			e.heard(value.at, c.now())
		default:
			free = append(free, key)
			outdated = outdated || e.before(value.at)
		}
	}
	if last, ok := c.known[byPolarID].Peek(value.customer); ok && !outdated {
		// The program's id of a customer can change; who is known by Polar's id is
		// not found by the old one any more.
		if was := last.value.Load().external; was != value.external {
			if e, ok := c.known[byExternalID].Peek(was); ok && e.value.Load().customer == value.customer {
				c.known[byExternalID].Remove(was)
			}
		}
	}
	late := outdated || age > readTime
	for _, key := range free {
		e, known := c.known[key.kind].Peek(key.id)
		switch {
		case known && e.before(value.at):
			e.heard(value.at, c.now())
			continue
		case !known && outdated:
			continue
		case !known:
			e = c.add(key)
		}
		e.event, e.told = value.at, c.now()
		if !late { // else Polar may not have counted all of that by then
			e.forgetSpent()
		}
		c.set(e, e.lessSpent(value.completed(e.value.Load(), c.grace)), age)
		if late || value.unread != 0 {
			e.outdate()
		}
	}
	return !outdated
}

// distrust has the next request of a customer ask, by either id.
func (c *entitlementCache) distrust(customer *Entitlements) {
	c.storing.Lock()
	defer c.storing.Unlock()
	keys := []cacheKey{{byPolarID, customer.customer}, {byExternalID, customer.external}}
	defer c.spread(keys...)
	for _, key := range keys {
		if e, ok := c.known[key.kind].Peek(key.id); ok {
			e.told = c.now()
			e.outdate()
		}
		c.unknown.Remove(key)
	}
}

// heard notes an event that is older than the answer: the next request asks, unless
// a younger event said what was to be said. storing is held.
func (e *entry) heard(at, now int64) {
	if at > e.event {
		e.told = now
		e.outdate()
	}
}

// lessSpent is a value less what was spent since the question, and by requests under
// way. storing is held.
func (e *entry) lessSpent(value *Entitlements) *Entitlements {
	if value.borrowed&listOfMeters != 0 {
		return value // these are what was served until now, less all of that
	}
	for meter, units := range e.spent {
		if i := value.meter(meter); i >= 0 {
			value = value.withMeter(i, value.meters[i].Balance-units)
		}
	}
	return value
}

// spend takes units off a meter, if the balance allows: then rest is what is left,
// and end is to be called once the request is over, with whether they are given back.
// Until then a request that says when that is has them taken off each new answer too.
// Else rest is nil. last is what the caller has just seen, which counts for who was
// pushed out of the cache since, as if that had happened a moment later.
func (c *entitlementCache) spend(key cacheKey, last *Entitlements, cost debit, untilEnd bool) (rest *Entitlements, end func(back bool)) {
	c.storing.Lock()
	defer c.storing.Unlock()
	e, found := c.known[key.kind].Peek(key.id)
	value := last
	if found {
		value = e.value.Load()
	}
	i := value.meter(cost.meter)
	if i < 0 || value.meters[i].Balance < cost.units {
		return nil, nil
	}
	cost.meter = value.meters[i].id.Value() // the same text, in memory that stays
	rest = value.withMeter(i, value.meters[i].Balance-cost.units)
	if !found {
		return rest, func(bool) {}
	}
	e.value.Store(rest)
	e.takeOff(&cost)
	if untilEnd {
		if e.underWay == nil {
			e.underWay = map[*debit]struct{}{}
		}
		e.underWay[&cost] = struct{}{}
	}
	question := e.question
	var once sync.Once
	return rest, func(back bool) {
		once.Do(func() {
			c.storing.Lock()
			defer c.storing.Unlock()
			delete(e.underWay, &cost)
			if !back || !untilEnd && question < e.base {
				return // Polar has said anew what is left
			}
			if untilEnd || question == e.question {
				e.spent[cost.meter] -= cost.units
			}
			value := e.value.Load()
			if i := value.meter(cost.meter); i >= 0 {
				e.value.Store(value.withMeter(i, value.meters[i].Balance+cost.units))
			}
		})
	}
}

// close ends all that is under way.
func (c *entitlementCache) close() {
	c.storing.Lock()
	c.end()
	c.storing.Unlock()
	c.flights.Close()
	c.behind.Wait()
}

// cached is how many customers, by each of their ids, and keys are known.
func (c *entitlementCache) cached() int {
	n := 0
	for _, known := range c.known {
		n += known.Len()
	}
	return n
}

// compose makes a value the one that an entry serves, as far as license keys let it, for
// as long as nothing changes about them. storing is held.
func (c *entitlementCache) compose(e *entry, value *Entitlements, now int64) *Entitlements {
	value = c.keys.compose(value, now)
	fresh, stale := e.stateFresh, e.stateStale
	if k := value.keys; k != nil && c.keys != nil {
		fresh, stale = min(fresh, k.due, k.flips), min(stale, k.flips)
		if k.urgent {
			stale = min(stale, k.due)
		}
	}
	e.value.Store(value)
	e.freshUntil.Store(fresh)
	e.staleUntil.Store(stale)
	return value
}

// serving is what an entry serves, less what has ended by itself.
func (c *entitlementCache) serving(e *entry, now int64) *Entitlements {
	if value := e.value.Load(); value.keys == nil || now < value.keys.flips {
		return value
	}
	c.storing.Lock()
	defer c.storing.Unlock()
	return c.compose(e, e.value.Load(), now)
}

// stateOf is a customer's state if it is fresh, and only license keys are to be asked about.
func (c *entitlementCache) stateOf(key cacheKey) (*Entitlements, bool) {
	c.storing.Lock()
	defer c.storing.Unlock()
	e, ok := c.known[key.kind].Peek(key.id)
	if !ok || c.keys == nil || c.now() >= e.stateFresh || e.value.Load().keys == nil {
		return nil, false
	}
	return e.value.Load(), true
}

// withKeysLookedUp is a value after the license keys that are due in it, or were asked
// about before then, have been asked about.
func (c *entitlementCache) withKeysLookedUp(key cacheKey, value *Entitlements, before int64) *Entitlements {
	if c.keys == nil || value.keys == nil {
		return value
	}
	ctx, cancel := context.WithTimeout(c.life, c.timeout)
	defer cancel()
	c.keys.lookUp(ctx, value, before)
	c.storing.Lock()
	defer c.storing.Unlock()
	if e, ok := c.known[key.kind].Peek(key.id); ok {
		now := c.now()
		e.doubtAt.Store(max(e.doubtAt.Load(), until(now, e.pause))) // for what the keys say is of now
		return c.compose(e, e.value.Load(), now)
	}
	return c.keys.compose(value, c.now()) // it was pushed out meanwhile
}

// noteLicense keeps under which key a license key was asked about. storing is held.
func (c *entitlementCache) noteLicense(key cacheKey, value *Entitlements) {
	if key.kind != byLicenseKey || value.license == nil {
		return
	}
	id := normalUUID(value.license.ID)
	had, _ := c.licenses.Peek(id)
	if !slices.Contains(had, key.id) {
		const few = 4
		had = append([]string{key.id}, had[:min(len(had), few-1)]...)
	}
	c.licenses.Add(id, had)
}

// dropLicenses has license keys asked about of which an event told, wherever they are
// cached: by themselves, and as what a customer's benefits come with. With every, all that
// the customer's benefits came with are among them. revoked is when their grant was, by
// Polar's clock; 0 if it was not. What was known before then does not outlast an outage.
func (c *entitlementCache) dropLicenses(customer *Entitlements, ids []string, every bool, revoked int64) {
	c.storing.Lock()
	defer c.storing.Unlock()
	var holders []*entry
	for _, key := range []cacheKey{{byPolarID, customer.customer}, {byExternalID, customer.external}} {
		e, ok := c.known[key.kind].Peek(key.id)
		if !ok || e.value.Load().customer != customer.customer {
			continue
		}
		holders = append(holders, e)
		if every {
			ids = append(ids, e.value.Load().licenseKeyIDs()...)
		}
	}
	if len(ids) == 0 {
		return
	}
	if c.keys != nil {
		c.keys.drop(ids, revoked)
	}
	for _, e := range holders {
		c.compose(e, e.value.Load(), c.now())
	}
	for _, id := range ids {
		texts, _ := c.licenses.Peek(id)
		for _, text := range texts {
			c.unknown.Remove(cacheKey{byLicenseKey, text})
			e, ok := c.known[byLicenseKey].Peek(text)
			if !ok {
				continue
			}
			e.told = c.now()
			e.outdate()
			if revoked > e.value.Load().at {
				e.graceUntil.Store(0)
			}
		}
	}
}
