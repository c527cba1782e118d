package polargate

import (
	"context"
	"errors"
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
	"github.com/polargate/polargate/internal/rights"
	"github.com/polargate/polargate/internal/watch"
	"github.com/polargate/polargate/internal/wire"
)

// entitlementCache keeps what Polar said of customers and license keys. Those that Polar
// knows are kept in a 2Q cache, in which a crowd that comes once does not push out those
// who come often; unknown ones are kept apart, and briefly.
type entitlementCache struct {
	freshFor, staleFor, graceFor time.Duration
	unknownFor, timeout          time.Duration
	// ask asks Polar. An *Error that is a denial of a key, or an unknown
	// customer, comes as Entitlements; an error means that Polar could not say.
	ask func(context.Context, cacheKey) (*rights.State, error)
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
	heard func(customer wire.UUID)
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
	licenses *lru.Cache[wire.UUID, []string]
	behind   sync.WaitGroup // refreshes that nobody waits for
	life     context.Context
	end      context.CancelFunc
	start    time.Time
	outages  [keyKinds]atomic.Pointer[outage]

	ahead   atomic.Int64                            // how far Polar's clock is ahead of this computer's, as last seen
	mu      sync.Mutex                              // guards changes of what is cached, not look-ups; never held across I/O
	waiting map[cacheKey]map[chan struct{}]struct{} // who waits for news of whom; guarded by mu
	books   map[wire.UUID]*ledger.Book              // of customers, who may have been evicted; guarded by mu
	counted func(customer wire.UUID, meter string)  // is told that Polar has counted; nil unless replicas share accounts
	sweepAt int                                     // how many books there are when they are looked through; guarded by mu
	counts  counters
	// watches are the streams of those who are watched.
	watches *watch.Group[cacheKey, stream]
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
	c := &entitlementCache{start: time.Now().Add(-longAgo), books: map[wire.UUID]*ledger.Book{}}
	var err error
	if c.known, err = newKnownEntries(size); err != nil {
		return nil, err
	}
	if c.unknown, err = lru.New[cacheKey, *entry](max(size/unknownShare, 1)); err != nil {
		return nil, err
	}
	if c.licenses, err = lru.New[wire.UUID, []string](size); err != nil {
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
func (c *entitlementCache) hit(key cacheKey) (*rights.State, bool) {
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
func (c *entitlementCache) lookup(ctx context.Context, key cacheKey) (*rights.State, error) {
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
	if now < a.memoryUntil && now < c.shortUntil() && !a.value.AwaitsKeys(now) {
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

// recheck is the answer for a customer whom the last one, which is in memory, does not
// let in: that one, or a new one if it is time to doubt it. What could be spent by
// asking waits: requests that others lack, and units that Polar may not have counted yet.
func (c *entitlementCache) recheck(ctx context.Context, key cacheKey, last *rights.State) *rights.State {
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

// renew is the answer for a key from Polar, or if Polar cannot be asked, from memory
// during grace.
func (c *entitlementCache) renew(ctx context.Context, key cacheKey, when urgency) (*rights.State, error) {
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
func (c *entitlementCache) staleOnError(key cacheKey, err error) (*rights.State, error) {
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

// lookupUnknown is lookup for a customer or key that was never seen, or was not known.
func (c *entitlementCache) lookupUnknown(ctx context.Context, key cacheKey, now clock.Local) (*rights.State, error) {
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
func (c *entitlementCache) recall(ctx context.Context, key cacheKey, failure error) (*rights.State, error) {
	if c.replicas != nil {
		c.replicas.recall(ctx, key)
	}
	return c.staleOnError(key, failure)
}

// entryOf is the entry of a customer or key, whether known or not; nil if there is none.
func (c *entitlementCache) entryOf(key cacheKey) *entry {
	if e, _ := c.known.find(key); e != nil {
		return e
	}
	e, _ := c.unknown.Peek(key)
	return e
}

// latest is what is in memory about a customer, and whether it can be served without a
// question: it is fresh, or stale at most. It is nil if there is nothing.
func (c *entitlementCache) latest(key cacheKey) (value *rights.State, certain bool) {
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
