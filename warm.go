package polargate

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/polargate/polargate/internal/census"
	"github.com/polargate/polargate/internal/clock"
	"github.com/polargate/polargate/internal/keyring"
	"github.com/polargate/polargate/internal/listing"
	"github.com/polargate/polargate/internal/pace"
	"github.com/polargate/polargate/internal/relay"
	"github.com/polargate/polargate/internal/replicas"
	"github.com/polargate/polargate/internal/rights"
	"github.com/polargate/polargate/internal/wire"
)

// This file fills the cache from Polar's lists: 100 entries a request, while a question is about
// one customer. Package listing explains why the result is complete although the lists change
// meanwhile. A customer for whom this can't be shown is left out. Polar is asked about them when
// they come, and about everybody who is in none of the lists.

const (
	// listRetry is the first pause after a page that failed, and listRetryMost the longest.
	listRetry, listRetryMost = time.Second, 30 * time.Second
	// turnPoll is how often others look whether the replica that reads the lists goes on.
	turnPoll = time.Second
	// progressEvery is how often the log says how far a walk has come.
	progressEvery = 30 * time.Second
)

// warming is what Customers have for reading Polar's lists.
type warming struct {
	turn   chan struct{} // has room for who reads them
	wanted atomic.Int64  // calls of Warm
	ended  atomic.Int64  // walks that came to their end

	lastEvent atomic.Int64 // a clock.Local, of a webhook or the end of a sweep
	swept     atomic.Int64 // how many answers were served fresh before the last sweep

	mu    sync.Mutex
	sweep *time.Timer  // nil without sweeps
	walk  *census.Walk // the last one, unless it came to its end
	said  clock.Local
	stats WarmStats
}

// WarmStats is the progress of Warm, or of a sweep of the same kind.
type WarmStats struct {
	// Running: lists are being read now.
	Running bool
	// Pages have been read of TotalPages, by the last walk through the lists, or the one
	// under way. TotalPages changes with the lists.
	Pages, TotalPages int
	// Customers are those whom the last walk that came to its end left in the cache, with
	// what it read or with something younger. LeftOut had changes while it read, so that
	// Polar is asked about them when they come, and NoRoom did not fit into CacheSize.
	Customers, LeftOut, NoRoom int
	// Walks came to their end, the last one at EndedAt.
	Walks   int64
	EndedAt time.Time
}

// Warm fills the cache from Polar's lists: benefit grants, subscriptions and meters, 100
// entries a request, where a question is about one customer. Call it beside a server that
// has started with an empty cache:
//
//	go customers.Warm(ctx)
//
// It returns how many customers are in the cache by it, when all lists have been read. Until
// then nothing of them is used, since a customer's grants may lie on several pages. A customer
// who changes while the lists are read is left out, and an answer or webhook of meanwhile
// stays. Customers who are in none of the lists are not in the cache and not refused: Polar
// is asked about them when they come. The same goes for a customer whom the lists would refuse.
//
// Among replicas that share a store, one reads the lists for all, and puts what it read into
// the store. Another one goes on where it stopped if it dies. If the lists were read within
// FreshFor, by whichever replica, Warm returns at once: customers are then found in the store
// when they come, by one look-up each, so a new replica needs no time to get warm. n is how
// many customers the replica that read the lists has in its cache.
//
// Customers who come meanwhile are asked about first. Warm takes the requests that nobody
// else wants, and a quarter of RequestsPerMinute when all are wanted. While more customers
// come than can be asked about one by one, it takes all but the quarter of unseen customers,
// since it serves them sooner. A failure of Polar and a pause that it asked for are waited out.
//
// When ctx ends, the error is that of ctx in an *Error, and the next call goes on with what
// was read in the last 10 minutes. A call beside another one waits for it, and returns
// the same. ErrMisconfigured is a token that may not read the lists: it needs the scopes
// benefits:read, subscriptions:read and customer_meters:read beside customers:read. Polar is
// then asked about customers one by one, as without Warm. ErrUnreachable is a list that
// cannot be read, and ErrClosed that Close was called.
func (c *Customers) Warm(ctx context.Context) (n int, err error) {
	if ctx == nil {
		return 0, errNilContext
	}
	c.warming.wanted.Add(1)
	defer c.warming.wanted.Add(-1)
	n, err = c.readLists(ctx, c.config.FreshFor)
	return n, c.callError(err)
}

// readLists reads Polar's lists into the cache, once for all who want that at the same time.
// Among replicas one does it, unless one has within a time.
func (c *Customers) readLists(ctx context.Context, recent time.Duration) (n int, err error) {
	w := &c.warming
	ended := w.ended.Load()
	select {
	case w.turn <- struct{}{}:
	case <-ctx.Done():
		return 0, ctx.Err()
	case <-c.cache.Life.Done():
		return 0, c.cache.Life.Err()
	}
	defer func() { <-w.turn }()
	if w.ended.Load() != ended { // while this call waited
		return c.warmStats().Customers, nil
	}
	ctx, cancel := context.WithCancel(replicas.Unwaited(ctx))
	defer cancel()
	defer context.AfterFunc(c.cache.Life, cancel)()
	r := c.replicas
	if r == nil {
		return c.walkLists(ctx, nil)
	}
	called := r.PolarNow()
	for {
		turn, err := r.Lists.Take(ctx, census.Report{Began: r.PolarNow()}.Bytes())
		switch {
		case ctx.Err() != nil:
			return 0, ctx.Err()
		case err != nil: // the store is away
			return c.walkLists(ctx, nil)
		case turn != nil:
			defer turn.End()
			if last := r.LastWalk(ctx); last.Ended != 0 && (last.Ended >= called || r.PolarNow().Sub(last.Ended) < recent) {
				c.noteWalk(last)
				return last.Customers, nil
			}
			return c.walkLists(ctx, turn)
		}
		if !pace.Sleep(ctx, turnPoll) {
			<-ctx.Done() // its deadline is before that
			return 0, ctx.Err()
		}
	}
}

// walkLists reads Polar's lists into the cache, and into those of others, if it is this
// replica's turn to do so.
func (c *Customers) walkLists(ctx context.Context, turn *relay.Turn) (n int, err error) {
	turns, end := c.budget.Background()
	defer end()
	r := &listReader{c, turns, c.beginWalk(ctx, turn), turn}
	defer c.endWalk()
	if err := r.readAll(ctx); err != nil {
		return 0, err
	}
	found := r.walk.Customers(c.config.Features)
	n = c.takeListed(r.walk, found)
	err = r.readKeys(ctx, found)
	if replicas := c.replicas; replicas != nil {
		all := replicas.PublishListed(found, func(id wire.UUID) bool { return c.isLeftOut(r.walk, id) })
		if turn != nil && all { // else others would look for them in vain
			replicas.FinishWalk(ctx, turn, c.walkReport())
		}
	}
	return n, err
}

// walkReport is what came of the last walk of this replica.
func (c *Customers) walkReport() census.Report {
	s := c.warmStats()
	return census.Report{Customers: s.Customers, LeftOut: s.LeftOut, NoRoom: s.NoRoom}
}

// noteWalk keeps what came of a walk of another replica.
func (c *Customers) noteWalk(last census.Report) {
	c.warming.mu.Lock()
	defer c.warming.mu.Unlock()
	s := &c.warming.stats
	s.Customers, s.LeftOut, s.NoRoom, s.EndedAt = last.Customers, last.LeftOut, last.NoRoom, last.Ended.Time()
}

// beginWalk is the walk that was broken off a short while ago, by this replica or another
// one, or a new one.
func (c *Customers) beginWalk(ctx context.Context, turn *relay.Turn) *census.Walk {
	w := &c.warming
	w.mu.Lock()
	now := c.cache.Now()
	old := w.walk != nil && now <= w.walk.ReadLast.After(census.Kept)
	if turn != nil {
		old = old && w.walk.Work == turn.Work()
	}
	if !old {
		w.walk = c.newWalk(now)
		w.stats.Pages, w.stats.TotalPages = 0, 0
	}
	walk := w.walk
	w.stats.Running, w.said = true, now
	w.mu.Unlock()
	if turn != nil {
		walk.Relay(ctx, turn, c.cache)
		if !old {
			for i := range walk.Lists {
				walk.Lists[i].Replay(ctx, turn, i, c.cache, func() { c.noteProgress(walk, &walk.Lists[i]) })
			}
		}
	}
	c.config.Logger.Info("polargate: reading Polar's lists of customers", "pages_read", c.warmStats().Pages)
	return walk
}

func (c *Customers) newWalk(now clock.Local) *census.Walk {
	walk := &census.Walk{Began: now, ReadLast: now, LeftOut: map[wire.UUID]bool{}}
	for i := range walk.Lists {
		l := &walk.Lists[i]
		l.Walk = listing.New(func(ctx context.Context, number int) (listing.Page[census.Entry], error) {
			if told := l.Told; told != nil {
				return l.ReadTold(c.cache, number, told)
			}
			asked := c.cache.Now()
			page, at, err := c.client.customersOf(ctx, &census.Lists[i], number, c.organizationID(), c.learn)
			if err == nil {
				l.Times = append(l.Times, census.PageTime{Asked: asked, At: at})
				if l.Note != nil {
					l.Note(census.FactOf(page, number, at))
				}
			}
			if e, ok := errors.AsType[*Error](err); !ok || !e.unasked { // what was not sent, nobody was turned away for
				c.cache.Count(err)
			}
			return page, err
		})
	}
	return walk
}

func (c *Customers) endWalk() {
	c.warming.mu.Lock()
	defer c.warming.mu.Unlock()
	c.warming.stats.Running = false
}

func (c *Customers) warmStats() WarmStats {
	c.warming.mu.Lock()
	defer c.warming.mu.Unlock()
	return c.warming.stats
}

// listReader reads lists with the requests that others leave.
type listReader struct {
	*Customers
	turns pace.Background
	walk  *census.Walk
	turn  *relay.Turn // among replicas
}

// readAll reads the lists beside each other. The first error that is not to be waited out
// ends all of them.
func (r *listReader) readAll(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var group sync.WaitGroup
	for i := range r.walk.Lists {
		l := &r.walk.Lists[i]
		group.Go(func() {
			err := r.repeat(ctx, func() (done bool, err error) {
				if done, err = l.Step(ctx, len(l.Times)); err == nil {
					r.noteProgress(r.walk, l)
				}
				return done, err
			})
			if err != nil {
				cancel(err)
			}
		})
	}
	group.Wait()
	err := context.Cause(ctx)
	if err == nil {
		r.noteLists(nil)
	}
	if errors.Is(err, listing.ErrMissed) || errors.Is(err, listing.ErrOrder) { // the next begins anew
		r.warming.mu.Lock()
		r.warming.walk = nil
		r.warming.mu.Unlock()
		if r.turn != nil {
			r.turn.Abandon(ctx)
		}
	}
	return err
}

// repeat reads pages until do reports that there are no more. Each waits for its turn, and
// one that failed is read again after a pause, if that may help.
func (r *listReader) repeat(ctx context.Context, do func() (done bool, err error)) error {
	urgent := func() bool { return r.warming.wanted.Load() > 0 && r.cache.Now() < r.cache.ShortUntil() }
	for pause := listRetry; ; {
		if err := r.turns.Wait(ctx, urgent); err != nil {
			return err
		}
		done, err := do()
		switch {
		case err == nil && done:
			return nil
		case err == nil:
			pause = listRetry
			continue
		case ctx.Err() != nil:
			return ctx.Err()
		}
		e, ok := errors.AsType[*Error](err)
		if !ok || e.Reason != ErrUnreachable && e.Reason != ErrRateLimited {
			r.noteLists(err)
			return listError(err)
		}
		r.seldom.Warn(r.config.Logger, "lists", "polargate: a page of Polar's lists of customers could not be read, and will be tried again", "error", err)
		if !pace.Sleep(ctx, max(pace.Jitter(pause), e.RetryAfter)) {
			<-ctx.Done() // its deadline is before that
			return ctx.Err()
		}
		pause = min(2*pause, listRetryMost)
	}
}

// listError makes an error of a list that cannot be read one that tells what happens now.
func listError(err error) error {
	if _, ok := errors.AsType[*Error](err); ok {
		return err
	}
	return &Error{Op: opLists, Reason: ErrUnreachable, Err: err, Detail: inSentence(err) + "; Polar is asked about customers one by one"}
}

// noteLists keeps, for Stats, that the token may not read the lists, or with nil that it
// may, and says it in the log when it begins.
func (c *Customers) noteLists(err error) {
	if err != nil && !tokenRefused(err) {
		return
	}
	m := &c.misconfigured
	m.Lock()
	defer m.Unlock()
	if err != nil && m.lists == nil {
		c.config.Logger.Error("polargate: the access token may not read Polar's lists of customers, so that Polar is asked about them one by one", "error", err)
	}
	m.lists = err
}

// noteProgress keeps how far a walk has come, after a page of one of its lists.
func (c *Customers) noteProgress(walk *census.Walk, l *census.One) {
	w := &c.warming
	w.mu.Lock()
	defer w.mu.Unlock()
	now := c.cache.Now()
	walk.ReadLast = now
	l.Count, l.Total = l.Pages()
	w.stats.Pages, w.stats.TotalPages = 0, 0
	for i := range walk.Lists {
		w.stats.Pages += walk.Lists[i].Count
		w.stats.TotalPages += walk.Lists[i].Total
	}
	if now >= w.said.After(progressEvery) {
		w.said = now
		c.config.Logger.Info("polargate: reading Polar's lists of customers", "pages_read", w.stats.Pages, "pages", w.stats.TotalPages)
	}
}

// takeListed takes what the lists say into the cache, and notes that a walk has ended. It
// returns how many customers are in the cache by it.
func (c *Customers) takeListed(walk *census.Walk, found map[wire.UUID]census.Customer) (n int) {
	leftOut, noRoom := 0, 0
	for _, one := range found {
		switch {
		case one.Changed || c.isLeftOut(walk, one.State.Customer()):
			leftOut++
		case c.cache.StoreListed(one.State, one.Asked, c.config.CacheSize):
			n++
		default:
			noRoom++
		}
	}
	c.cache.ExpireUnlisted(walk.Began, func(id wire.UUID) bool {
		one, ok := found[id]
		return ok && !one.Changed && !c.isLeftOut(walk, id)
	})
	w := &c.warming
	w.mu.Lock()
	defer w.mu.Unlock()
	w.walk = nil
	w.stats.Customers, w.stats.LeftOut, w.stats.NoRoom = n, leftOut, noRoom
	w.stats.Walks++
	w.stats.EndedAt = c.client.now()
	w.ended.Add(1)
	c.config.Logger.Info("polargate: Polar's lists of customers are in the cache", "customers", n, "changed_meanwhile", leftOut,
		"without_room", noRoom, "pages_read", w.stats.Pages, "seconds", int(c.cache.Now().Sub(walk.Began).Seconds()))
	if noRoom > 0 {
		c.config.Logger.Warn("polargate: more customers have something than CacheSize has room for", "without_room", noRoom)
	}
	return n
}

// leaveOut keeps a walk that is under way from telling what a customer has.
func (c *Customers) leaveOut(id wire.UUID) {
	c.warming.mu.Lock()
	defer c.warming.mu.Unlock()
	if walk := c.warming.walk; walk != nil {
		walk.LeftOut[id] = true
	}
}

func (c *Customers) isLeftOut(walk *census.Walk, id wire.UUID) bool {
	c.warming.mu.Lock()
	defer c.warming.mu.Unlock()
	return walk.LeftOut[id]
}

// readKeys reads the license keys that come with benefits of many of these customers.
func (r *listReader) readKeys(ctx context.Context, found map[wire.UUID]census.Customer) error {
	ring := r.cache.Keys
	count := map[string]int{}
	for _, one := range found {
		if one.Changed {
			continue
		}
		one.State.KeyedGrants(func(b rights.Benefit, key wire.UUID) {
			if key != (wire.UUID{}) {
				count[b.ID()]++
			}
		})
	}
	for benefit, n := range count {
		if n <= keyring.Few || !isID(benefit) {
			continue
		}
		number := 0
		err := r.repeat(ctx, func() (done bool, err error) {
			last, err := ring.ReadListed(ctx, benefit, number+1)
			if lacksScope(err) {
				return true, nil // that is said elsewhere, and keys count without
			}
			if err == nil {
				number++
			}
			return err == nil && number >= last, err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// customersOf reads a page of a list. If the organization is not known, learn is told which
// the list names.
func (c *Client) customersOf(ctx context.Context, list *census.List, number int, organizationID string, learn func(organization string)) (page listing.Page[census.Entry], at clock.Polar, err error) {
	var broken error
	path := fmt.Sprintf("%s&limit=100&page=%d", list.Path, number)
	err = c.exchange(ctx, exchange{op: opLists, path: path, repeatable: true, most: longestList}, func(body []byte, when time.Time) error {
		page, at, broken = listing.Page[census.Entry]{}, clock.PolarTime(when), nil
		organization := ""
		page, organization, broken, err = list.Page(body, organizationID)
		if err == nil && broken == nil && organizationID == "" && organization != "" {
			learn(organization)
		}
		return err
	})
	if err == nil {
		err = broken
	}
	return page, at, err
}

// startSweeps has the lists read whenever webhooks have been silent for SweepAfter, if
// answers are believed for longer than that.
func (c *Customers) startSweeps() {
	w := &c.warming
	w.mu.Lock()
	defer w.mu.Unlock()
	if c.config.SweepAfter > 0 && c.config.FreshFor > c.config.SweepAfter {
		w.sweep = time.AfterFunc(c.config.SweepAfter, c.sweepIfSilent)
	}
}

// sweepIn has sweepIfSilent called, once.
func (c *Customers) sweepIn(d time.Duration) {
	c.warming.mu.Lock()
	defer c.warming.mu.Unlock()
	c.warming.sweep.Reset(d)
}

func (c *Customers) stopSweeps() {
	c.warming.mu.Lock()
	defer c.warming.mu.Unlock()
	if c.warming.sweep != nil {
		c.warming.sweep.Stop()
	}
}

// sweepIfSilent reads the lists if there has been no webhook for long, and customers come.
func (c *Customers) sweepIfSilent() {
	w := &c.warming
	if left := clock.Local(w.lastEvent.Load()).After(c.config.SweepAfter).Sub(c.cache.Now()); left > 0 {
		c.sweepIn(left)
		return
	}
	hits := c.cache.Counts.Hits.Load()
	if w.swept.Swap(hits) == hits {
		c.sweepIn(c.config.SweepAfter) // nothing in memory was of use since the last one
		return
	}
	c.cache.GoBehind(func() {
		ctx, cancel := context.WithTimeout(c.cache.Life, c.config.SweepAfter)
		defer cancel()
		if _, err := c.readLists(ctx, c.config.SweepAfter); err != nil && c.cache.Life.Err() == nil {
			c.seldom.Warn(c.config.Logger, "sweep", "polargate: webhooks are silent, and Polar's lists of customers could not be read in their place", "error", err)
		}
		w.lastEvent.Store(int64(c.cache.Now()))
		c.sweepIn(c.config.SweepAfter)
	})
}
