// Package memory is what a server remembers of customers and license keys, and when it asks
// Polar again. It decides how long an answer counts, which of two answers is younger, who is
// asked about first when requests are short, and what is served while Polar can't be reached.
// It doesn't know how Polar is asked, nor what a customer has to have.
package memory

import (
	"context"
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

// Cache keeps what Polar said of customers and license keys. Customers that Polar has are kept
// in a 2Q cache, in which a crowd that comes once doesn't push out those who come often.
// Unknown ones are kept apart, and briefly.
//
// The exported fields are set before the first use, but for Keys and Counts.
type Cache struct {
	// An answer is served without a question for FreshFor, while a newer one is fetched for
	// StaleFor, and while Polar can't be asked for GraceFor. That a customer is unknown is
	// believed for UnknownFor. Timeout is how long a question may take.
	FreshFor, StaleFor, GraceFor time.Duration
	UnknownFor, Timeout          time.Duration
	// Ask asks Polar. A denial of a key, or an unknown customer, comes as a state; an error
	// means that Polar could not say.
	Ask func(context.Context, Key) (*rights.State, error)
	// Unseen bounds the questions about customers and keys that were never seen, so that
	// requests are left for those that were.
	Unseen [Kinds]pace.Unseen
	// Spare reports whether a question may be asked now that so many others are about
	// to be asked beside, and never waits.
	Spare func(others int64) bool
	// Panicked is told of panics that no caller is told of.
	Panicked func(*flight.PanicError)
	// Heard is called, with the lock held, when an event tells something new of a customer.
	Heard func(customer wire.UUID)
	// Counted is told that Polar has counted; nil unless replicas share accounts.
	Counted func(customer wire.UUID, meter string)
	// Others are the replicas that share what Polar said; nil if there are none.
	Others Others
	// Judge says what the error of a question means.
	Judge func(error) Failure
	// TooMany is the error for a question about somebody who was never seen, which is not
	// asked for lack of requests, and NotLooked that for a license key that has not been
	// looked up yet. Expired is why a license key is refused that has expired.
	TooMany, NotLooked func() error
	Expired            string
	// Keys has the license keys that customers' benefits come with; nil counts all.
	Keys *keyring.Ring
	// Flights are the questions under way. Life ends when the cache is closed, and Clock is
	// what its times are by.
	Flights flight.Group
	Life    context.Context
	Clock   clock.Coarse
	// Counts are for metrics.
	Counts counters

	known   knownEntries
	unknown *lru.Cache[Key, *entry]
	// licenses are the keys, at most a few, under which a license key of an id was
	// asked about: rotation leaves more than one.
	licenses *lru.Cache[wire.UUID, []string]
	// gaps counts how often something that other replicas said may have been missed, and
	// distrusted is that not everything in memory has been checked since.
	gaps       atomic.Uint32
	distrusted atomic.Bool
	optional   atomic.Int64   // questions under way that could wait
	short      atomic.Int64   // a clock.Local: until then customers count as turned away for lack of requests
	ahead      atomic.Int64   // how far Polar's clock is ahead of this computer's, as last seen
	behind     sync.WaitGroup // refreshes that nobody waits for
	end        context.CancelFunc
	outages    [Kinds]atomic.Pointer[outage]

	mu      sync.Mutex                         // guards changes of what is cached, not look-ups; never held across I/O
	waiting map[Key]map[chan struct{}]struct{} // who waits for news of whom; guarded by mu
	books   map[wire.UUID]*ledger.Book         // of customers, who may have been evicted; guarded by mu
	sweepAt int                                // how many books there are when they are looked through; guarded by mu
	// watches are the streams of those who are watched.
	watches *watch.Group[Key, Stream]
}

// Others are the replicas that share what Polar said.
type Others interface {
	// Seek looks for what they know of a customer or license key, which the cache takes in,
	// and asks for leave to ask Polar. enough is that there is no need to. An error means that
	// there is no leave, for lack of requests.
	Seek(ctx context.Context, key Key, when Urgency) (l Leave, enough bool, err error)
	// Publish tells them what Polar said.
	Publish(n News)
	// Recall has the cache take in what they know, while Polar cannot be asked.
	Recall(ctx context.Context, key Key)
	// CheckFirst checks what is in memory, if it was not checked since the last gap.
	CheckFirst(key Key)
	// TellShort tells them that customers are turned away for lack of requests.
	TellShort(now clock.Local)
}

// Failure is what the error of a question means. The zero value is a fault of the program.
type Failure struct {
	Answered   bool // it is about Polar, or the way to it
	Unasked    bool // the question was not sent, for lack of requests
	HeldBack   bool // nor was it sent, because of a pause that Polar asked for
	Everybodys bool // others would fail the same way
	RetryAfter time.Duration
}

// Source says where an answer came from.
type Source int

const (
	Hit Source = iota
	Stale
	Grace
	Miss
	sources
)

// counters are read by Stats.
type counters struct {
	Hits                         lookup.Counter
	Served                       [sources]atomic.Int64 // but hits
	Negative, Upstream, Failures atomic.Int64
	UnseenTurnedAway             atomic.Int64
}

const (
	// RetryStale is how long a failure to refresh is believed while there is an
	// answer to serve, spread by half to either side.
	RetryStale = 5 * time.Second
	// OutageMemory is how long the same is believed of all of that kind.
	OutageMemory = time.Second
	// outageLasts is how long after a try was due an outage counts as under way.
	outageLasts = time.Minute
	// ReadTime is how long an answer may take at Polar, between what it says and
	// its date.
	ReadTime = 5 * time.Second
	// touchEvery is how often it is noted that an entry is in use. It costs much more than
	// a look-up, and who is to go is not decided by seconds.
	touchEvery = time.Minute
	// exactFor is how long before the end of an answer's freshness look-ups read the exact
	// time. It is many ticks of the clock, should a busy computer be late with them.
	exactFor = time.Second
	// FirstPause is how long a refusal is believed at first. Each answer after it that
	// says the same is believed twice as long as the one before, up to UnknownFor: a
	// purchase is in Polar's state seconds after the checkout, at times minutes.
	FirstPause = 2 * time.Second
	// mostDoubts keeps the doubled pause from overflowing.
	mostDoubts = 30
	// hopeLasts is how long after a question in any case its benefits may be late.
	hopeLasts = 5 * time.Minute
	// ShortLasts is how long after a customer was turned away for lack of requests those
	// who can be served from memory yield theirs.
	ShortLasts = 10 * time.Second
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

func New(size int) (*Cache, error) {
	c := &Cache{Clock: clock.Coarse{Start: time.Now().Add(-longAgo)}, books: map[wire.UUID]*ledger.Book{}}
	var err error
	if c.known, err = newKnownEntries(size); err != nil {
		return nil, err
	}
	if c.unknown, err = lru.New[Key, *entry](max(size/unknownShare, 1)); err != nil {
		return nil, err
	}
	if c.licenses, err = lru.New[wire.UUID, []string](size); err != nil {
		return nil, err
	}
	c.Life, c.end = context.WithCancel(context.Background())
	c.watches = watch.New(c.recheckWatched, c.nextWatch)
	return c, nil
}

func (c *Cache) Now() clock.Local { return c.Clock.Exact() }

// PolarNow is the time by Polar's clock, as far as it is known from its last answer: up to a
// second early, since those are dated by whole seconds.
func (c *Cache) PolarNow() clock.Polar {
	return clock.PolarTime(time.Now()) + clock.Polar(c.ahead.Load())
}

// NoteTime notes the time of an answer that Polar has just given.
func (c *Cache) NoteTime(at clock.Polar) {
	if at != 0 {
		c.ahead.Store(int64(at.Sub(clock.PolarTime(time.Now()))))
	}
}

// NoteLater notes that it is that time at Polar, or later.
func (c *Cache) NoteLater(at clock.Polar) {
	if ahead := at.Sub(c.PolarNow()); ahead > 0 {
		c.ahead.Add(int64(ahead))
	}
}

// Size is how many customers and license keys are cached, and unknownSize how many unknown
// ones.
func (c *Cache) Size() int        { return c.known.len() }
func (c *Cache) UnknownSize() int { return c.unknown.Len() }

// find is the entry of a customer or key that Polar knows, and what it serves, with what is
// left on meters by now.
func (c *Cache) find(key Key) (*entry, *answer) {
	e, a := c.known.find(key)
	if e == nil {
		return nil, nil
	}
	return e, c.balanced(e, a)
}

// Hit is the answer for a key if there is one that is fresh: the hot path.
func (c *Cache) Hit(key Key) (*rights.State, bool) {
	now := c.Clock.Now()
	a := c.known.use(key, now)
	if a == nil || !c.isFreshAt(a, now) || c.distrusted.Load() || a.more().book.Changed() {
		return nil, false
	}
	c.Counts.Hits.Add()
	return &a.value, true
}

// isFreshAt reports whether an answer is fresh, by a time that may be a little late. Shortly before
// the answer is no longer fresh, the exact time decides.
func (c *Cache) isFreshAt(a *answer, now clock.Local) bool {
	return now.After(exactFor) < a.freshUntil || c.Now() < a.freshUntil
}

// Settled is what is known of a customer if that is fresh in all but the balance of meters;
// nil if it isn't.
func (c *Cache) Settled(key Key) *rights.State {
	if c.distrusted.Load() {
		return nil
	}
	_, a := c.known.find(key)
	if a == nil || c.Now() >= a.freshUntil || !a.value.Known() {
		return nil
	}
	c.Counts.Hits.Add()
	return &a.value
}

// Glance is what is in memory under a key, whether it would be served as fresh or as stale, and
// when Polar said it.
func (c *Cache) Glance(key Key) (found, fresh, stale bool, at clock.Polar) {
	e := c.entryOf(key)
	if e == nil {
		return false, false, false, 0
	}
	a, now := e.answer.Load(), c.Now()
	return true, now < a.freshUntil, now < a.staleUntil, a.value.At()
}

// Lookup is the answer for a key: from memory if it is young enough, otherwise from
// Polar, and if Polar cannot be asked, from memory during grace.
func (c *Cache) Lookup(ctx context.Context, key Key) (*rights.State, error) {
	now := c.Now()
	if c.distrusted.Load() {
		c.Others.CheckFirst(key)
	}
	c.known.use(key, now)
	e, a := c.find(key)
	switch {
	case e == nil:
		return c.lookupUnknown(ctx, key, now)
	case now < a.freshUntil:
		c.Counts.Hits.Add()
		return &a.value, nil
	case now < a.staleUntil:
		c.refreshBehind(key, e, now, UnlessFresh)
		c.Counts.Served[Stale].Add(1)
		return c.serving(e, now), nil
	}
	if now < a.memoryUntil && now < c.ShortUntil() && !a.value.AwaitsKeys(now) {
		c.Counts.Served[Grace].Add(1)
		return c.serving(e, now), nil
	}
	if now < a.graceUntil && c.inOutage(key.Kind, a, now) {
		c.refreshBehind(key, e, now, UnlessFresh)
		c.Counts.Served[Grace].Add(1)
		return c.serving(e, now), nil
	}
	if a.more().failure != nil && now < a.more().failure.until {
		return c.StaleOnError(key, a.more().failure.err)
	}
	return c.Renew(ctx, key, UnlessFresh)
}

// Recheck is the answer for a customer whom the last one, which is in memory, does not
// let in: that one, or a new one if it is time to doubt it. What could be spent by
// asking waits: requests that others lack, and units that Polar may not have counted yet.
func (c *Cache) Recheck(ctx context.Context, key Key, last *rights.State) *rights.State {
	now := c.Now()
	e, a := c.known.find(key)
	if e == nil || now < a.doubtAt || c.hasSpent(e) {
		return last
	}
	if c.inOutage(key.Kind, a, now) {
		c.refreshBehind(key, e, now, unlessCertain)
		return last
	}
	done, ok := c.mayAsk(now)
	if !ok {
		return last
	}
	defer done()
	value, err := c.Fetch(ctx, key, unlessCertain)
	if err != nil {
		c.notePanic(key, err)
		return last
	}
	return value
}

// Renew is the answer for a key from Polar, or if Polar cannot be asked, from memory
// during grace.
func (c *Cache) Renew(ctx context.Context, key Key, when Urgency) (*rights.State, error) {
	value, err := c.Fetch(ctx, key, when)
	if err == nil {
		c.Counts.Served[Miss].Add(1)
		return value, nil
	}
	if is := c.Judge(err); is.Answered && !is.Unasked && c.entryOf(key) == nil {
		return c.recall(ctx, key, err)
	}
	return c.StaleOnError(key, err)
}

// StaleOnError is the answer for a key after a question that failed with err: from memory
// during grace.
func (c *Cache) StaleOnError(key Key, err error) (*rights.State, error) {
	now := c.Now()
	e, a := c.find(key)
	if e == nil {
		if u, ok := c.unknown.Peek(key); ok && now < u.answer.Load().graceUntil {
			c.Counts.Negative.Add(1)
			return u.value(), nil
		}
		c.turnedAway(key.Kind, err, now)
		return nil, err
	}
	if a.more().limits != nil && now >= a.more().limits.expires {
		return rights.Refused(c.Expired, 0), nil // that is certain without Polar
	}
	if now < a.graceUntil {
		c.Counts.Served[Grace].Add(1)
		return c.serving(e, now), nil
	}
	c.turnedAway(key.Kind, err, now)
	return nil, err
}

// lookupUnknown is lookup for a customer or key that was never seen, or was not known.
func (c *Cache) lookupUnknown(ctx context.Context, key Key, now clock.Local) (*rights.State, error) {
	failure := c.outageOf(key.Kind, now)
	if e, ok := c.unknown.Get(key); ok {
		a := e.answer.Load()
		yields := now < a.graceUntil && (failure != nil || now < c.ShortUntil())
		if yields || now < a.freshUntil {
			c.Counts.Negative.Add(1)
			return &a.value, nil
		}
	}
	if failure != nil {
		return c.recall(ctx, key, failure)
	}
	return c.Renew(ctx, key, UnlessFresh)
}

// recall is the answer for a customer or key that is not in memory while Polar cannot be
// asked: what other replicas know of it.
func (c *Cache) recall(ctx context.Context, key Key, failure error) (*rights.State, error) {
	if c.Others != nil {
		c.Others.Recall(ctx, key)
	}
	return c.StaleOnError(key, failure)
}

// entryOf is the entry of a customer or key, whether known or not; nil if there is none.
func (c *Cache) entryOf(key Key) *entry {
	if e, _ := c.known.find(key); e != nil {
		return e
	}
	e, _ := c.unknown.Peek(key)
	return e
}

// Latest is what is in memory about a customer, and whether it can be served without a
// question: it is fresh, or stale at most. It is nil if there is nothing.
func (c *Cache) Latest(key Key) (value *rights.State, certain bool) {
	e := c.entryOf(key)
	if e == nil {
		return nil, false
	}
	a := c.balanced(e, e.answer.Load())
	return &a.value, c.Now() < max(a.freshUntil, a.staleUntil)
}

// AskedSince reports whether Polar answered a question about a customer from then or later.
func (c *Cache) AskedSince(key Key, then clock.Local) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.entryOf(key)
	return e != nil && e.asked >= then
}

// AskedBefore reports whether what is cached answers a question from before then,
// and no question has just failed.
func (c *Cache) AskedBefore(key Key, then clock.Local) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.entryOf(key)
	return e != nil && e.asked < then && e.answer.Load().more().failure == nil
}

// Close ends all that is under way.
func (c *Cache) Close() {
	c.mu.Lock()
	c.end()
	c.mu.Unlock()
	c.Flights.Close()
	c.behind.Wait()
	for _, s := range c.watches.Close() {
		s.Tell(nil, flight.ErrClosed)
	}
}
