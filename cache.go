package polargate

import (
	"context"
	"errors"
	"hash/maphash"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/polargate/polargate/internal/clock"
	"github.com/polargate/polargate/internal/flight"
	"github.com/polargate/polargate/internal/keyring"
	"github.com/polargate/polargate/internal/ledger"
	"github.com/polargate/polargate/internal/lookup"
	"github.com/polargate/polargate/internal/pace"
	"github.com/polargate/polargate/internal/transport"
	"github.com/polargate/polargate/internal/watch"
)

// entitlementCache keeps what Polar said of customers and license keys. Those that Polar
// knows are kept in a 2Q cache, in which a crowd that comes once does not push out those
// who come often; unknown ones are kept apart, and briefly.
type entitlementCache struct {
	freshFor, staleFor, graceFor time.Duration
	unknownFor, timeout          time.Duration
	// ask asks Polar. An *Error that is a denial of a key, or an unknown
	// customer, comes as Entitlements; an error means that Polar could not say.
	ask func(context.Context, cacheKey) (*Entitlements, error)
	// unseen bounds the questions about customers and keys that were never seen, so that
	// requests are left for those that were.
	unseen [keyKinds]pace.Unseen
	// spare reports whether a question may be asked now that so many others are about
	// to be asked beside, and never waits.
	spare    func(others int64) bool
	optional atomic.Int64 // questions under way that could wait
	short    atomic.Int64 // a clock.Local: until then customers count as turned away for lack of requests
	panicked func(*flight.PanicError)
	// heard is called, with the lock held, when an event tells something new of a customer.
	heard func(customer uuid)
	// replicas are the others that share what Polar said; nil if there are none.
	replicas *replicas
	// gaps counts how often something that other replicas said may have been missed, and
	// distrusted is that not everything in memory has been checked since.
	gaps       atomic.Uint32
	distrusted atomic.Bool

	known   knownEntries
	unknown *lru.Cache[cacheKey, *entry]
	flights flight.Group
	// keys has the license keys that customers' benefits come with; nil counts all.
	keys *keyring.Ring
	// licenses are the keys, at most a few, under which a license key of an id was
	// asked about: rotation leaves more than one.
	licenses *lru.Cache[uuid, []string]
	behind   sync.WaitGroup // refreshes that nobody waits for
	life     context.Context
	end      context.CancelFunc
	start    time.Time
	outages  [keyKinds]atomic.Pointer[outage]

	ahead   atomic.Int64                            // how far Polar's clock is ahead of this computer's, as last seen
	mu      sync.Mutex                              // guards changes of what is cached, not look-ups; never held across I/O
	waiting map[cacheKey]map[chan struct{}]struct{} // who waits for news of whom; guarded by mu
	books   map[uuid]*ledger.Book                   // of customers, who may have been evicted; guarded by mu
	counted func(customer uuid, meter string)       // is told that Polar has counted; nil unless replicas share accounts
	sweepAt int                                     // how many books there are when they are looked through; guarded by mu
	counts  counters
	// watches are the streams of those who are watched.
	watches *watch.Group[cacheKey, stream]
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

type keyKind uint8

const (
	byPolarID keyKind = iota
	byExternalID
	byLicenseKey
	// byMember names a member of a customer. Nothing is cached by it: see members.go.
	byMember
	keyKinds
)

// entry is what is cached of one customer or key. A customer is the one in its answer, which
// never becomes another's. What it serves is one immutable answer,
// which is read without a lock and swapped under the lock of the cache; the other fields
// that are not atomic are guarded by that lock.
type entry struct {
	answer     atomic.Pointer[answer]
	refreshing atomic.Bool
	hopeUntil  clock.Seconds // until then an answer that grants nothing new is doubted too
	doubts     uint8         // how many answers in a row refused the same; see settlePause
	checked    uint16        // which of the gaps it was checked after
	// event is the time of the last event that was applied, and answered that of the last
	// answer. told is when the event came, and asked when the question was asked that was
	// answered last.
	event, answered clock.Polar
	told, asked     clock.Local
}

// answer is what an entry serves, and for how long. It is immutable. What each look-up
// reads stands first, so that it is in one place in memory.
type answer struct {
	// freshUntil: served without asking. staleUntil: served, and asked about in the
	// background. graceUntil: served while Polar cannot be asked.
	freshUntil             clock.Local
	value                  Entitlements
	staleUntil, graceUntil clock.Local
	// doubtAt: a refusal by this answer has Polar asked again from then on. memoryUntil:
	// served without asking while others are turned away.
	doubtAt, memoryUntil clock.Local
	// rare is nil in most.
	rare *rarities
}

// rarities are what few answers have.
type rarities struct {
	// limits are set if rights end with license keys.
	limits *limits
	// failure is that of the last question, if that had no answer.
	failure *failure
	// book has what was spent of the customer's meters; nil if nothing was.
	book *ledger.Book
}

var noRarities rarities

// more is what few answers have; never nil.
func (a *answer) more() *rarities {
	if a.rare == nil {
		return &noRarities
	}
	return a.rare
}

// note changes what few answers have, before anybody else has seen this one.
func (a *answer) note(change func(*rarities)) {
	next := *a.more()
	change(&next)
	a.rare = &next
}

// limits are how long an answer would count but for the license keys in it; when the license
// key expires that it is about; and when the first of the subscriptions in it ends.
type limits struct{ freshUntil, staleUntil, expires, end clock.Local }

// failure is a question without an answer, and when the next is due.
type failure struct {
	outage
	retryAt clock.Local
}

// value is what an entry serves; nil if it is new.
func (e *entry) value() *Entitlements {
	if a := e.answer.Load(); a != nil {
		return &a.value
	}
	return nil
}

// change swaps the answer of an entry for a copy with a change. mu is held.
func (c *entitlementCache) change(e *entry, change func(*answer)) *Entitlements {
	next := *e.answer.Load()
	change(&next)
	c.known.swap(e, &next)
	return &next.value
}

// before reports whether an event from that time is older than what is cached. An
// answer may have been read a while before it was dated.
func (e *entry) before(when clock.Polar) bool {
	return when < e.event || when < e.answered.Before(readTime)
}

// factAt is when what is cached was so, in an order that all replicas agree on: that of the
// answer, or of the event that came after it. mu is held.
func (e *entry) factAt() clock.Polar {
	if e.told > e.asked {
		return max(e.answered, eventAt(e.event, e.answered))
	}
	return e.answered
}

// eventAt is the time of an event as replicas tell each other: after that of an answer which
// it replaces, and in the order of the events.
func eventAt(event, answered clock.Polar) clock.Polar {
	if since := answered.Before(readTime); event >= since {
		const squeeze = 1_000_000 // the five seconds before the answer into five microseconds
		return max(event, answered+1+(event-since)/squeeze)
	}
	return event
}

// outdates reports whether what is cached is younger than an answer to a question that was
// asked then: an event came since, or the answer to a later question.
func (e *entry) outdates(value *Entitlements, asked clock.Local) bool {
	return e.told > asked && e.event > value.at.Before(readTime) || e.asked > asked && e.answered >= value.at
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
	hits                           lookup.Counter
	served                         [cacheSources]atomic.Int64 // but hits
	negative, upstream, failures   atomic.Int64
	unseenTurnedAway, panics       atomic.Int64
	events, eventsOld, eventsTwice atomic.Int64
	eventsRefused, eventsUnknown   atomic.Int64
	eventsFailed                   atomic.Int64
	unidentified, unpaid           atomic.Int64
	undecided, failedOpen          atomic.Int64
}

const (
	// retryStale is how long a failure to refresh is believed while there is an
	// answer to serve, spread by half to either side.
	retryStale = 5 * time.Second
	// outageMemory is how long the same is believed of all of that kind.
	outageMemory = time.Second
	// outageLasts is how long after a try was due an outage counts as under way.
	outageLasts = time.Minute
	// readTime is how long an answer may take at Polar, between what it says and
	// its date.
	readTime = 5 * time.Second
	// touchEvery is how often it is noted that an entry is in use. It costs much more than
	// a look-up, and who is to go is not decided by seconds.
	touchEvery = time.Minute
	// firstPause is how long a refusal is believed at first. Each answer after it that
	// says the same is believed twice as long as the one before, up to UnknownFor: a
	// purchase is in Polar's state seconds after the checkout, at times minutes.
	firstPause = 2 * time.Second
	// mostDoubts keeps the doubled pause from overflowing.
	mostDoubts = 30
	// hopeLasts is how long after a question in any case its benefits may be late.
	hopeLasts = 5 * time.Minute
	// shortLasts is how long after a customer was turned away for lack of requests those
	// who can be served from memory yield theirs.
	shortLasts = 10 * time.Second
	// yieldsFor is the age up to which answers yield, where StaleFor is less.
	yieldsFor = time.Hour
	// watchSpread spreads the re-checks of those who began to be watched together.
	watchSpread = 5 * time.Second
	// watchAgain is the pause before a re-check that brought nothing is done again, and
	// watchUnknown where there is nothing in memory.
	watchAgain, watchUnknown = 5 * time.Second, 30 * time.Second
	// longAgo is how much time there was before the cache, by its clock: what other replicas
	// know may be older than this process, and 0 means never.
	longAgo = 10 * 365 * 24 * time.Hour
	// unknownShare of the size of the cache is the room for unknown customers and keys.
	unknownShare = 4
)

func newEntitlementCache(size int) (*entitlementCache, error) {
	c := &entitlementCache{start: time.Now().Add(-longAgo), books: map[uuid]*ledger.Book{}}
	var err error
	if c.known, err = newKnownEntries(size); err != nil {
		return nil, err
	}
	if c.unknown, err = lru.New[cacheKey, *entry](max(size/unknownShare, 1)); err != nil {
		return nil, err
	}
	if c.licenses, err = lru.New[uuid, []string](size); err != nil {
		return nil, err
	}
	c.life, c.end = context.WithCancel(context.Background())
	c.watches = watch.New(c.recheckWatched, c.nextWatch)
	return c, nil
}

func (c *entitlementCache) now() clock.Local { return clock.Since(c.start) }

// polarNow is the time by Polar's clock, as far as it is known from its last answer: up to a
// second early, since those are dated by whole seconds.
func (c *entitlementCache) polarNow() clock.Polar {
	return clock.PolarTime(time.Now()) + clock.Polar(c.ahead.Load())
}

// noteTime notes the time of an answer that Polar has just given.
func (c *entitlementCache) noteTime(at clock.Polar) {
	if at != 0 {
		c.ahead.Store(int64(at.Sub(clock.PolarTime(time.Now()))))
	}
}

// find is the entry of a customer or key that Polar knows, and what it serves, with what is
// left on meters by now.
func (c *entitlementCache) find(key cacheKey) (*entry, *answer) {
	e, a := c.known.find(key)
	if e == nil {
		return nil, nil
	}
	return e, c.balanced(e, a)
}

// hit is the answer for a key if there is one that is fresh: the hot path.
func (c *entitlementCache) hit(key cacheKey) (*Entitlements, bool) {
	now := c.now()
	a := c.known.use(key, now)
	if a == nil || now >= a.freshUntil || c.distrusted.Load() || a.more().book.Changed() {
		return nil, false
	}
	c.counts.hits.Add()
	return &a.value, true
}

// lookup is the answer for a key: from memory if it is young enough, otherwise from
// Polar, and if Polar cannot be asked, from memory during grace.
func (c *entitlementCache) lookup(ctx context.Context, key cacheKey) (*Entitlements, error) {
	now := c.now()
	if c.distrusted.Load() {
		c.replicas.checkFirst(key)
	}
	c.known.use(key, now)
	e, a := c.find(key)
	switch {
	case e == nil:
		return c.lookupUnknown(ctx, key, now)
	case now < a.freshUntil:
		c.counts.hits.Add()
		return &a.value, nil
	case now < a.staleUntil:
		c.refreshBehind(key, e, now, unlessFresh)
		c.counts.served[cacheStale].Add(1)
		return c.serving(e, now), nil
	}
	if now < a.memoryUntil && now < c.shortUntil() && !a.value.awaitsKeys(now) {
		c.counts.served[cacheGrace].Add(1)
		return c.serving(e, now), nil
	}
	if now < a.graceUntil && c.inOutage(key.kind, a, now) {
		c.refreshBehind(key, e, now, unlessFresh)
		c.counts.served[cacheGrace].Add(1)
		return c.serving(e, now), nil
	}
	if a.more().failure != nil && now < a.more().failure.until {
		return c.staleOnError(key, a.more().failure.err)
	}
	return c.renew(ctx, key, unlessFresh)
}

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

// recheck is the answer for a customer whom the last one, which is in memory, does not
// let in: that one, or a new one if it is time to doubt it. What could be spent by
// asking waits: requests that others lack, and units that Polar may not have counted yet.
func (c *entitlementCache) recheck(ctx context.Context, key cacheKey, last *Entitlements) *Entitlements {
	now := c.now()
	e, a := c.known.find(key)
	if e == nil || now < a.doubtAt || c.hasSpent(e) {
		return last
	}
	if c.inOutage(key.kind, a, now) {
		c.refreshBehind(key, e, now, unlessCertain)
		return last
	}
	done, ok := c.mayAsk(now)
	if !ok {
		return last
	}
	defer done()
	value, err := c.fetch(ctx, key, unlessCertain)
	if err != nil {
		c.notePanic(key, err)
		return last
	}
	return value
}

func (c *entitlementCache) hasSpent(e *entry) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	book := e.answer.Load().more().book
	return book != nil && book.SpentLately()
}

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

// renew is the answer for a key from Polar, or if Polar cannot be asked, from memory
// during grace.
func (c *entitlementCache) renew(ctx context.Context, key cacheKey, when urgency) (*Entitlements, error) {
	value, err := c.fetch(ctx, key, when)
	if err == nil {
		c.counts.served[cacheMiss].Add(1)
		return value, nil
	}
	if e, ok := errors.AsType[*Error](err); ok && !e.unasked && c.entryOf(key) == nil {
		return c.recall(ctx, key, err)
	}
	return c.staleOnError(key, err)
}

// staleOnError is the answer for a key after a question that failed with err: from memory
// during grace.
func (c *entitlementCache) staleOnError(key cacheKey, err error) (*Entitlements, error) {
	now := c.now()
	e, a := c.find(key)
	if e == nil {
		if u, ok := c.unknown.Peek(key); ok && now < u.answer.Load().graceUntil {
			c.counts.negative.Add(1)
			return u.value(), nil
		}
		c.turnedAway(key.kind, err, now)
		return nil, err
	}
	if a.more().limits != nil && now >= a.more().limits.expires {
		return refusedKey(ErrExpired), nil // that is certain without Polar
	}
	if now < a.graceUntil {
		c.counts.served[cacheGrace].Add(1)
		return c.serving(e, now), nil
	}
	c.turnedAway(key.kind, err, now)
	return nil, err
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

// lookupUnknown is lookup for a customer or key that was never seen, or was not known.
func (c *entitlementCache) lookupUnknown(ctx context.Context, key cacheKey, now clock.Local) (*Entitlements, error) {
	failure := c.outageOf(key.kind, now)
	if e, ok := c.unknown.Get(key); ok {
		a := e.answer.Load()
		yields := now < a.graceUntil && (failure != nil || now < c.shortUntil())
		if yields || now < a.freshUntil {
			c.counts.negative.Add(1)
			return &a.value, nil
		}
	}
	if failure != nil {
		return c.recall(ctx, key, failure)
	}
	return c.renew(ctx, key, unlessFresh)
}

// recall is the answer for a customer or key that is not in memory while Polar cannot be
// asked: what other replicas know of it.
func (c *entitlementCache) recall(ctx context.Context, key cacheKey, failure error) (*Entitlements, error) {
	if c.replicas != nil {
		c.replicas.recall(ctx, key)
	}
	return c.staleOnError(key, failure)
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

// entryOf is the entry of a customer or key, whether known or not; nil if there is none.
func (c *entitlementCache) entryOf(key cacheKey) *entry {
	if e, _ := c.known.find(key); e != nil {
		return e
	}
	e, _ := c.unknown.Peek(key)
	return e
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
func (c *entitlementCache) refresh(key cacheKey, when urgency) (*Entitlements, error) {
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
func (c *entitlementCache) question(key cacheKey, when urgency, began clock.Local, l leave) (*Entitlements, error) {
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
	c.noteTime(value.at)
	served, n := c.store(key, value, asked)
	served = c.withKeysLookedUp(key, served, began)
	switch {
	case c.replicas == nil:
	case value.unread != 0: // it is of no use to others
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
func (c *entitlementCache) youngerThan(key cacheKey, at clock.Polar) *Entitlements {
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
	if a == nil || a.value.particulars().license == nil {
		return ""
	}
	return a.value.particulars().license.ID
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

// store keeps an answer to a question that was asked then, and gives what is to be
// served: that answer, or what is younger, by an event that came since or the answer to a
// later question about the customer's other id. n is what to tell other replicas.
func (c *entitlementCache) store(key cacheKey, value *Entitlements, asked clock.Local) (served *Entitlements, n news) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n = news{value: value, key: key, at: value.at}
	e, _ := c.known.find(key)
	if e != nil && e.outdates(value, asked) {
		return e.value(), n
	}
	claims := false // the external id in the answer
	switch {
	case key.kind == byLicenseKey:
	case value.known:
		if of := c.known.byID(value.customer); of != e {
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
	c.set(e, value.completed(e.value(), c.graceFor), 0)
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

// formerID is the external id that a customer has until a value is set; "" if it does not
// change. mu is held.
func (e *entry) formerID(value *Entitlements) string {
	if last := e.value(); last != nil && last.external != value.external {
		return last.external
	}
	return ""
}

// newEntry is an entry for a customer or key that is not known yet, and what has it found
// once it has an answer. mu is held.
func (c *entitlementCache) newEntry(key cacheKey, value *Entitlements) (e *entry, add func()) {
	switch {
	case !value.known:
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
	c.unknown.Remove(cacheKey{byPolarID, e.value().customer.String()})
}

// claim has an entry found by the external id in its answer too, if customers can be asked
// about by that. mu is held.
func (c *entitlementCache) claim(e *entry) {
	if id := ExternalID(e.value().external); id.check() == nil {
		c.known.addAlias(e)
		c.unknown.Remove(id.key)
	}
}

// mayClaim reports whether the external id in an answer about a customer, whose entry is e,
// is theirs: not if Polar said otherwise after the answer was asked for. mu is held.
func (c *entitlementCache) mayClaim(value *Entitlements, e *entry, asked clock.Local) bool {
	if u, ok := c.unknown.Peek(ExternalID(value.external).key); ok && u.asked > asked {
		return false
	}
	other := c.known.byExternalID(value.external)
	return other == nil || other == e || other.asked <= asked && other.event <= value.at
}

// listen has a channel told of each event about a customer, until stop is called.
func (c *entitlementCache) listen(key cacheKey, news chan struct{}) (stop func()) {
	key = key.own()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.waiting == nil {
		c.waiting = map[cacheKey]map[chan struct{}]struct{}{}
	}
	if c.waiting[key] == nil {
		c.waiting[key] = map[chan struct{}]struct{}{}
	}
	c.waiting[key][news] = struct{}{}
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if delete(c.waiting[key], news); len(c.waiting[key]) == 0 {
			delete(c.waiting, key)
		}
	}
}

// announce tells those who wait for news of a customer. mu is held.
func (c *entitlementCache) announce(customer *Entitlements) {
	c.noteChanged(customer)
	for _, key := range customer.ids() {
		for news := range c.waiting[key] {
			select {
			case news <- struct{}{}:
			default: // has not taken the last news yet
			}
		}
	}
}

// noteChanged has those who watch a customer look again.
func (c *entitlementCache) noteChanged(customer *Entitlements, other ...cacheKey) {
	if c.watches.Any() {
		ids := customer.ids()
		c.watches.Changed(append(other, ids[:]...)...)
	}
}

// ids are those by which a customer may be asked about.
func (e *Entitlements) ids() [2]cacheKey {
	return [2]cacheKey{{byPolarID, e.customer.String()}, {byExternalID, e.external}}
}

// askable are those ids by which customers can be asked about.
func (e *Entitlements) askable() (keys []cacheKey) {
	for _, key := range e.ids() {
		if (CustomerRef{key}).check() == nil {
			keys = append(keys, key)
		}
	}
	return keys
}

// latest is what is in memory about a customer, and whether it can be served without a
// question: it is fresh, or stale at most. It is nil if there is nothing.
func (c *entitlementCache) latest(key cacheKey) (value *Entitlements, certain bool) {
	e := c.entryOf(key)
	if e == nil {
		return nil, false
	}
	a := c.balanced(e, e.answer.Load())
	return &a.value, c.now() < max(a.freshUntil, a.staleUntil)
}

// askedSince reports whether Polar answered a question about a customer from then or later.
func (c *entitlementCache) askedSince(key cacheKey, then clock.Local) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.entryOf(key)
	return e != nil && e.asked >= then
}

// askedBefore reports whether what is cached answers a question from before then,
// and no question has just failed.
func (c *entitlementCache) askedBefore(key cacheKey, then clock.Local) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.entryOf(key)
	return e != nil && e.asked < then && e.answer.Load().more().failure == nil
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
func (c *entitlementCache) set(e *entry, value *Entitlements, age time.Duration) {
	now := c.now()
	last := e.value()
	if last != nil && !value.known && value.customer == (uuid{}) && value.own == nil {
		gone := *value // Polar has no such customer any more, and does not repeat the id
		gone.customer = last.customer
		value = &gone
	}
	value = c.observe(value)
	nothingNew := last != nil && last.allowsTheSame(value)
	pause := c.settlePause(e, nothingNew)
	fresh, stale, grace := c.freshFor, c.staleFor, c.graceFor
	switch {
	case !value.Known():
		// Who has just bought is in a hurry. Where Polar cannot be asked, who was
		// refused goes on being refused for as long as that may be believed.
		fresh, stale, grace = min(fresh, pause), 0, min(fresh, c.unknownFor)
	case value.unread != 0, nothingNew && now.Seconds() < e.hopeUntil:
		fresh = min(fresh, pause)
	}
	expires, end := clock.Never, clock.Never
	if next := value.nextEnd(); next != 0 { // Polar is asked then
		left := next.Sub(value.at)
		fresh, stale, end = min(fresh, left), min(stale, left), now.After(left-age)
	}
	if l := value.particulars().license; l != nil && !l.EndsAt().IsZero() {
		left := l.EndsAt().Sub(l.answeredAt)
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
	if book := c.books[value.account()]; book != nil {
		a.note(func(r *rarities) { r.book = book })
	}
	if expires != clock.Never || end != clock.Never || value.keys() != nil {
		a.note(func(r *rarities) { r.limits = &limits{a.freshUntil, a.staleUntil, expires, end} })
		c.compose(&a, now)
	}
	if last != nil && last.external != value.external {
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
	value           *Entitlements
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
func (c *entitlementCache) applyEvent(value *Entitlements, age time.Duration) bool {
	n := news{value: value, event: true, doubtful: age > readTime}
	applied := c.apply(&n, age)
	if applied && c.replicas != nil && value.unread == 0 {
		c.replicas.publish(n)
	}
	return applied
}

// adopt takes in what another replica told, of that age, if it is younger than what is known.
func (c *entitlementCache) adopt(n news, age time.Duration) {
	if n.key.kind != byLicenseKey && (n.value.known || n.event) {
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
func (c *entitlementCache) licensesGone(customer *Entitlements) []uuid {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.known.byID(customer.customer)
	if e == nil {
		return nil
	}
	have := customer.licenseKeyIDs()
	return slices.DeleteFunc(e.value().licenseKeyIDs(), func(id uuid) bool { return slices.Contains(have, id) })
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
			return e.before(value.at)
		case n.event:
			return value.at <= e.event || e.before(value.at)
		case n.at == value.at && e.told > asked && e.event > value.at.Before(readTime):
			return true // whoever got the answer had not heard of the event
		}
		return n.at <= e.factAt()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.now()
	e := c.known.byID(value.customer)
	if e != nil && n.shared && older(e) {
		return false // as most are: one's own hints come too
	}
	defer func() {
		c.announce(value)
		c.watches.Changed(cacheKey{byExternalID, n.former})
	}()
	if n.event && c.heard != nil {
		c.heard(value.customer)
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
	ids := value.ids()
	if e == nil && overtaken(ids[0]) {
		outdated = true
	}
	claims := true // the external id
	switch holder := c.known.byExternalID(value.external); {
	case holder == e && e != nil:
	case holder == nil:
		if overtaken(ids[1]) {
			outdated, claims = outdated || !n.shared, false
		}
	case !value.known: // it was theirs
		claims = false
	case older(holder):
		if !n.shared {
			c.noteOlderEvent(holder, value.at, now)
		}
		claims = false
	}
	switch {
	case e == nil && outdated:
		return false
	case e != nil && older(e):
		c.noteOlderEvent(e, value.at, now)
		return false
	}
	n.doubtful = n.doubtful || outdated
	isNew := e == nil
	if isNew {
		e = &entry{}
	}
	if !n.shared {
		n.at = eventAt(value.at, e.answered)
	}
	n.former = e.formerID(value)
	if n.event {
		e.event, e.told = value.at, max(now, e.asked+1)
	} else {
		e.answered, e.asked = n.at, max(asked, e.told)
	}
	c.set(e, value.completed(e.value(), c.graceFor), age)
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
	if n.doubtful || value.unread != 0 {
		c.expire(e)
	}
	return !outdated
}

// concerns reports whether news is about a customer who is in memory, or waited for.
func (c *entitlementCache) concerns(n news) bool {
	keys := []cacheKey{n.key}
	if n.value.known || n.event {
		ids := n.value.ids()
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

// polarKey is the key of a customer by Polar's id.
func (e *entry) polarKey() cacheKey { return cacheKey{byPolarID, e.value().customer.String()} }

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
func (c *entitlementCache) invalidate(customer *Entitlements) {
	c.mu.Lock()
	defer c.mu.Unlock()
	defer c.announce(customer)
	ids := customer.ids()
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

// observe has a customer's book take in what Polar counted, and gives the value with what is
// left by that. mu is held.
func (c *entitlementCache) observe(value *Entitlements) *Entitlements {
	book := c.books[value.account()]
	if book == nil {
		return value
	}
	now, newest := c.polarNow(), true
	if value.unread&listOfMeters == 0 {
		for _, meter := range book.Meters() {
			i := value.meter(meter)
			if i >= 0 && !book.Observe(meter, value.count(i), now) {
				newest = false // it came out of a cache of Polar's
			}
			if i >= 0 && c.counted != nil {
				c.counted(value.account(), meter)
			}
		}
		book.Answered()
	}
	if newest && book.Retire(now) {
		delete(c.books, value.account())
		return value
	}
	book.Shown()
	return value.withBalances(book)
}

// account is the customer whose meters are in these entitlements; zero for a license key's.
func (e *Entitlements) account() uuid {
	if e.particulars().license != nil {
		return uuid{}
	}
	return e.customer
}

// balanced is what an entry serves, with what is left on meters by now.
func (c *entitlementCache) balanced(e *entry, a *answer) *answer {
	if !a.more().book.Changed() {
		return a
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.change(e, func(a *answer) {
		if a.more().book != nil {
			a.more().book.Shown()
			a.value = *a.value.withBalances(a.more().book)
		}
	})
	return e.answer.Load()
}

// hold reserves units of a customer's meter, if at least floor is left then. The book is the
// one that it is in. last is what the caller has just seen, which counts for a customer who
// was evicted since.
func (c *entitlementCache) hold(key cacheKey, last *Entitlements, meter string, units, floor ledger.Units) (book *ledger.Book, held bool) {
	now := c.polarNow()
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
		book = c.openBook(key, last, meter)
	}
}

// fewBooks is how many books are kept without looking whether they are needed.
const fewBooks = 1000

// openBook is the book of a customer, with an account of a meter.
func (c *entitlementCache) openBook(key cacheKey, last *Entitlements, meter string) *ledger.Book {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, a := c.known.find(key)
	if a != nil {
		last = &a.value
	}
	return c.bookFor(last.customer, e, last, meter)
}

// bookFor is the book of a customer who has that entry, if any, with an account of a meter as
// last says. mu is held.
func (c *entitlementCache) bookFor(id uuid, e *entry, last *Entitlements, meter string) *ledger.Book {
	var count ledger.Count
	i := last.meter(meter)
	if i >= 0 {
		count, meter = last.count(i), last.plan().meters[i].Value() // the same text, in memory that stays
	} else {
		meter = strings.Clone(meter)
	}
	book := c.books[id]
	if book == nil || !book.Open(meter, count, i >= 0) {
		c.sweepBooks()
		book = &ledger.Book{}
		book.Open(meter, count, i >= 0)
		c.books[id] = book
	}
	if e != nil && e.answer.Load().more().book != book {
		c.change(e, func(a *answer) { a.note(func(r *rarities) { r.book = book }) })
	}
	return book
}

// restore changes a customer's account of a meter. Polar may not have been asked about the
// customer yet.
func (c *entitlementCache) restore(customer, meter string, change func(*ledger.Account)) {
	id, ok := parseUUID(customer)
	if !ok {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.known.byID(id)
	var last *Entitlements
	if e != nil {
		last = e.value()
	}
	c.bookFor(id, e, last, meter).Do(meter, change)
}

// bookOf is the book of a customer by Polar's id; nil if there is none.
func (c *entitlementCache) bookOf(id uuid) *ledger.Book {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.books[id]
}

// eachBook goes through the books of all customers.
func (c *entitlementCache) eachBook(see func(uuid, *ledger.Book)) {
	c.mu.Lock()
	books := maps.Clone(c.books)
	c.mu.Unlock()
	for id, book := range books {
		see(id, book)
	}
}

// sweepBooks drops books of customers who owe nothing any more. mu is held.
func (c *entitlementCache) sweepBooks() {
	if len(c.books) < max(c.sweepAt, fewBooks) {
		return
	}
	now := c.polarNow()
	for id, book := range c.books {
		if e := c.known.byID(id); e == nil && book.Retire(now) {
			delete(c.books, id)
		}
	}
	c.sweepAt = 2 * len(c.books)
}

// stream is somebody who watches a customer or license key.
type stream struct {
	// tell gets what is known now, or why nobody can say.
	tell  func(*Entitlements, error)
	until clock.Local // how long the last answer may be served while nobody can say
}

// watch adds a stream that began with value; leave takes it away again, and may be called
// more than once.
func (c *entitlementCache) watch(key cacheKey, s *stream, value *Entitlements) (leave func()) {
	_, a := c.known.find(key)
	if a != nil {
		s.until = a.graceUntil
	}
	leave, ok := c.watches.Join(key, s)
	_, now := c.known.find(key)
	switch {
	case !ok:
		s.tell(nil, flight.ErrClosed)
	case a == nil, a != now, &a.value != value:
		c.watches.Changed(key) // there was news since
	}
	return leave
}

// recheckWatched tells the streams of a customer or license key what is known now.
func (c *entitlementCache) recheckWatched(key cacheKey, streams []*stream) {
	value, err := c.lookup(c.life, key)
	c.notePanic(key, err)
	if c.life.Err() != nil {
		return // close tells them
	}
	_, a := c.known.find(key)
	now := c.now()
	for _, s := range streams {
		if a != nil {
			s.until = a.graceUntil
		}
		if err == nil || now >= s.until { // else it was evicted, and nobody can say
			s.tell(value, err)
		}
	}
}

// nextWatch is when to look again at somebody who is watched: when what is in memory is no
// longer fresh, which is at a known end at the latest.
func (c *entitlementCache) nextWatch(key cacheKey) time.Duration {
	e := c.entryOf(key)
	if e == nil { // evicted, or nobody could say
		return watchUnknown/2 + rand.N(watchUnknown)
	}
	a, now := e.answer.Load(), c.now()
	switch left := a.freshUntil.Sub(now); {
	case left <= 0: // asked about in the background, or nobody can be asked
		again := watchAgain/2 + rand.N(watchAgain)
		if a.more().limits != nil && a.more().limits.end > now {
			again = min(again, a.more().limits.end.Sub(now))
		}
		return again
	case a.more().limits != nil: // it ends then, and not a moment later
		return left
	default:
		return left + rand.N(watchSpread)
	}
}

// close ends all that is under way.
func (c *entitlementCache) close() {
	c.mu.Lock()
	c.end()
	c.mu.Unlock()
	c.flights.Close()
	c.behind.Wait()
	for _, s := range c.watches.Close() {
		s.tell(nil, flight.ErrClosed)
	}
}

// compose makes of an answer what it is as far as license keys let it, for as long as
// nothing changes about them. mu is held.
func (c *entitlementCache) compose(a *answer, now clock.Local) {
	if a.more().limits == nil {
		return
	}
	for now >= a.more().limits.end {
		at, next := a.value.nextEnd(), *a.more().limits
		a.value = *a.value.endedBy(at)
		if next.end = clock.Never; a.value.nextEnd() != 0 {
			next.end = a.more().limits.end.After(a.value.nextEnd().Sub(at))
		}
		a.note(func(r *rarities) { r.limits = &next })
	}
	a.value = *c.composeKeys(&a.value, now)
	a.freshUntil, a.staleUntil = a.more().limits.freshUntil, a.more().limits.staleUntil
	if k := a.value.keys(); k != nil && c.keys != nil {
		a.freshUntil, a.staleUntil = min(a.freshUntil, k.due, k.flips), min(a.staleUntil, k.flips)
		if k.urgent {
			a.staleUntil = min(a.staleUntil, k.due)
		}
	}
}

// serving is what an entry serves, less what has ended by itself.
func (c *entitlementCache) serving(e *entry, now clock.Local) *Entitlements {
	a := e.answer.Load()
	if a.more().limits == nil || now < a.more().limits.end && (a.value.keys() == nil || now < a.value.keys().flips) {
		return &a.value
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.change(e, func(a *answer) { c.compose(a, now) })
}

// stateOf is a customer's state if it is fresh, and only license keys are to be asked about.
func (c *entitlementCache) stateOf(key cacheKey) (*Entitlements, bool) {
	_, a := c.known.find(key)
	if a == nil || c.keys == nil || a.value.keys() == nil || c.now() >= a.more().limits.freshUntil {
		return nil, false
	}
	return &a.value, true
}

// withKeysLookedUp is a value after the license keys that are due in it, or were asked
// about before then, have been asked about.
func (c *entitlementCache) withKeysLookedUp(key cacheKey, value *Entitlements, before clock.Local) *Entitlements {
	if c.keys == nil || value.keys() == nil {
		return value
	}
	ctx, cancel := context.WithTimeout(c.life, c.timeout)
	defer cancel()
	c.lookUpKeys(ctx, value, before)
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.now()
	if e, _ := c.known.find(key); e != nil {
		return c.change(e, func(a *answer) {
			a.doubtAt = max(a.doubtAt, now.After(c.pauseOf(e))) // for what the keys say is of now
			c.compose(a, now)
		})
	}
	return c.composeKeys(value, now) // it was evicted meanwhile
}

// answeredBefore reports whether anything is cached about the license key of an id that Polar
// said before then.
func (c *entitlementCache) answeredBefore(id uuid, then clock.Polar) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	texts, _ := c.licenses.Peek(id)
	for _, text := range texts {
		if e := c.entryOf(cacheKey{byLicenseKey, text}); e != nil && e.answered < then {
			return true
		}
	}
	return c.keys.AnsweredBefore(id, then)
}

// noteLicense keeps under which key a license key was asked about. mu is held.
func (c *entitlementCache) noteLicense(key cacheKey, value *Entitlements) {
	license := value.particulars().license
	if key.kind != byLicenseKey || license == nil {
		return
	}
	id, _ := parseUUID(license.ID)
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
func (c *entitlementCache) dropLicenses(customer *Entitlements, ids []uuid, every bool, revoked clock.Polar) {
	c.mu.Lock()
	defer c.mu.Unlock()
	holder := c.known.byID(customer.customer)
	if holder != nil && every {
		ids = append(ids, holder.value().licenseKeyIDs()...)
	}
	if len(ids) == 0 {
		return
	}
	if c.keys != nil {
		c.keys.Drop(ringIDs(ids), revoked)
	}
	if holder != nil {
		c.change(holder, func(a *answer) { c.compose(a, c.now()) })
		c.noteChanged(holder.value())
	}
	for _, id := range ids {
		texts, _ := c.licenses.Peek(id)
		for _, text := range texts {
			key := cacheKey{byLicenseKey, text}
			c.unknown.Remove(key)
			e, a := c.known.find(key)
			if e == nil {
				continue
			}
			e.told = c.now()
			c.expire(e)
			c.watches.Changed(key)
			if revoked > a.value.at {
				c.change(e, func(a *answer) { a.graceUntil = 0 })
			}
		}
	}
}

// knownEntries finds the customers and license keys that Polar knows. A customer has one
// entry, which is found by Polar's id and by the program's own. License keys are kept
// apart, so that a crowd of keys evicts no customer. find takes no lock; everything else
// is done with the lock of the cache held.
type knownEntries struct {
	customers *lookup.Cache[entry]
	// aliases finds what customers are served by the external id in it, without a look at
	// their entries, which lie elsewhere in memory. Not every answer is in it, for an id is
	// one customer's at a time.
	aliases  *lookup.Table[answer]
	licenses *lookup.Cache[licenseEntry]
}

// licenseEntry is the entry of a license key.
type licenseEntry struct {
	entry
	key string
}

var indexSeed = maphash.MakeSeed()

func hashOf(text string) uint64 { return maphash.String(indexSeed, text) }

func hashOfID(id uuid) uint64 { return maphash.Bytes(indexSeed, id[:]) }

func newKnownEntries(size int) (k knownEntries, err error) {
	if k.customers, err = lookup.NewCache(size, func(e *entry) uint64 { return hashOfID(e.value().customer) }); err != nil {
		return k, err
	}
	k.aliases = lookup.NewTable(func(a *answer) uint64 { return hashOf(a.value.external) })
	k.licenses, err = lookup.NewCache(size, func(e *licenseEntry) uint64 { return hashOf(e.key) })
	return k, err
}

// find is the entry under a key and what it serves; nil if there is none.
func (k *knownEntries) find(key cacheKey) (*entry, *answer) {
	var e *entry
	switch key.kind {
	case byExternalID:
		e = k.byExternalID(key.id)
	case byPolarID:
		if id, ok := parseUUID(key.id); ok {
			e = k.byID(id)
		}
	case byLicenseKey:
		if license := k.license(key.id); license != nil {
			e = &license.entry
		}
	}
	if e == nil {
		return nil, nil
	}
	return e, e.answer.Load()
}

// use is what is served under a key; nil if there is nothing. Now and then the 2Q cache is
// told that it is in use.
func (k *knownEntries) use(key cacheKey, now clock.Local) *answer {
	period := lookup.Period(1 + now/clock.Local(touchEvery))
	switch key.kind {
	case byExternalID:
		return k.aliases.Use(hashOf(key.id), period,
			func(a *answer) bool { return a.value.external == key.id },
			func(a *answer) bool {
				e := k.byID(a.value.customer)
				return e != nil && k.customers.Touch(e)
			})
	case byPolarID:
		if id, ok := parseUUID(key.id); ok {
			if e := k.customers.Use(hashOfID(id), period, func(e *entry) bool { return e.value().customer == id }, k.customers.Touch); e != nil {
				return e.answer.Load()
			}
		}
	case byLicenseKey:
		if e := k.licenses.Use(hashOf(key.id), period, func(e *licenseEntry) bool { return e.key == key.id }, k.licenses.Touch); e != nil {
			return e.answer.Load()
		}
	}
	return nil
}

// swap has an entry serve another answer. If it is found by an external id, the new answer
// must have the same.
func (k *knownEntries) swap(e *entry, next *answer) {
	last := e.answer.Swap(next)
	if last != nil && last.value.external != "" {
		k.aliases.Replace(hashOf(last.value.external), last, next)
	}
}

func (k *knownEntries) byID(id uuid) *entry {
	return k.customers.Find(hashOfID(id), func(e *entry) bool { return e.value().customer == id })
}

func (k *knownEntries) byExternalID(id string) *entry {
	a := k.aliases.Find(hashOf(id), func(a *answer) bool { return a.value.external == id })
	if a == nil {
		return nil
	}
	return k.byID(a.value.customer)
}

func (k *knownEntries) license(key string) *licenseEntry {
	return k.licenses.Find(hashOf(key), func(e *licenseEntry) bool { return e.key == key })
}

// addCustomer makes the entry of a customer who has none. It is found from now on by
// Polar's id, so that it must have an answer.
func (k *knownEntries) addCustomer(e *entry) {
	k.customers.Add(e, func(e *entry) { k.dropAlias(e) })
}

func (k *knownEntries) addLicense(e *licenseEntry) {
	k.licenses.Add(e, func(*licenseEntry) {})
}

// dropAlias has an entry found by Polar's id alone.
func (k *knownEntries) dropAlias(e *entry) {
	if a := e.answer.Load(); a.value.external != "" {
		k.aliases.Remove(hashOf(a.value.external), a)
	}
}

// addAlias has an entry found by the external id in its answer, and no other by that.
func (k *knownEntries) addAlias(e *entry) {
	a := e.answer.Load()
	switch other := k.byExternalID(a.value.external); other {
	case e:
		return
	case nil:
	default:
		k.dropAlias(other)
	}
	k.aliases.Insert(a)
}

func (k *knownEntries) len() int { return k.customers.Len() + k.licenses.Len() }

// own is the key in memory that nobody else writes to.
func (k cacheKey) own() cacheKey { return cacheKey{k.kind, strings.Clone(k.id)} }
