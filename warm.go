package polargate

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/polargate/polargate/internal/clock"
	"github.com/polargate/polargate/internal/fact"
	"github.com/polargate/polargate/internal/keyring"
	"github.com/polargate/polargate/internal/link"
	"github.com/polargate/polargate/internal/listing"
	"github.com/polargate/polargate/internal/memory"
	"github.com/polargate/polargate/internal/pace"
	"github.com/polargate/polargate/internal/relay"
	"github.com/polargate/polargate/internal/rights"
	"github.com/polargate/polargate/internal/wire"
)

// What is here fills the cache from Polar's lists, 100 entries a request, where a question
// is about one customer. Package listing says why what it reads is complete although the
// lists change meanwhile. A customer for whom that cannot be said is left out: Polar is asked
// about them when they come, as about all who are in none of the lists.

const (
	// listsKept is how long pages that were read are of use to the next call of Warm.
	listsKept = 10 * time.Minute
	// listRetry is the first pause after a page that failed, and listRetryMost the longest.
	listRetry, listRetryMost = time.Second, 30 * time.Second
	// turnLasts is how long after the last sign of life of the replica that reads the lists
	// another one goes on, and turnPoll how often others look.
	turnLasts, turnPoll = 12 * time.Second, time.Second
	// progressEvery is how often the log says how far a walk has come.
	progressEvery = 30 * time.Second
)

// customerList is one of Polar's lists of what customers have.
type customerList struct {
	name string
	// path is that of the list, sorted by when its entries came into it, and cameAt the
	// field that has that time. What comes after the time in sorting keeps those of the same
	// time in one order, page after page. Source: Polar's server, which takes all of these.
	path, cameAt string
	read         func(entry wire.Fields, have *rights.Parts)
}

var customerLists = [...]customerList{
	{"benefit grants", "/v1/benefit-grants/?is_granted=true&sorting=granted_at&sorting=created_at", "granted_at", func(g wire.Fields, have *rights.Parts) { have.ReadGrant(g) }},
	// Subscriptions that can become active again are read too, so that none comes
	// back into the list at its old place.
	{"subscriptions", "/v1/subscriptions/?status=active&status=trialing&status=past_due&status=unpaid&status=paused&sorting=started_at&sorting=customer&sorting=product", "started_at",
		func(s wire.Fields, have *rights.Parts) { have.ReadSubscription(s) }},
	{"meters of customers", "/v1/customer-meters/?sorting=created_at&sorting=customer_id&sorting=meter_id", "created_at",
		func(m wire.Fields, have *rights.Parts) { have.ReadMeter(m) }},
}

// listed is an entry of a list.
type listed struct {
	external string
	deleted  bool // the customer
	have     rights.Parts
}

// listsWalk is how far Polar's lists have been read.
type listsWalk struct {
	work     string // what it is called among replicas; "" if it is this one's own
	began    clock.Local
	readLast clock.Local // when the last page came; guarded by warming.mu
	lists    [len(customerLists)]listWalk
	// leftOut are customers of whom something is new that could not be read; guarded by
	// warming.mu.
	leftOut map[wire.UUID]bool
}

// listWalk is how far one list has been read. One goroutine at a time works on it.
type listWalk struct {
	*listing.Walk[listed]
	pages []pageTime // those that were read
	// told is the next page if another replica has read it, and note tells of one that
	// this replica has read.
	told *fact.Page
	note func(fact.Page)
	// count and total are what Pages gives; guarded by warming.mu.
	count, total int
}

// pageTime is when a page was asked for, and when Polar answered.
type pageTime struct {
	asked clock.Local
	at    clock.Polar
}

// warming is what Customers have for reading Polar's lists.
type warming struct {
	turn   chan struct{} // has room for who reads them
	wanted atomic.Int64  // calls of Warm
	ended  atomic.Int64  // walks that came to their end

	lastEvent atomic.Int64 // a clock.Local, of a webhook or the end of a sweep
	swept     atomic.Int64 // how many answers were served fresh before the last sweep

	mu    sync.Mutex
	sweep *time.Timer // nil without sweeps
	walk  *listsWalk  // the last one, unless it came to its end
	said  clock.Local
	stats WarmStats
}

// WarmStats is how Warm, or a sweep of the same kind, gets on.
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
// is asked about them when they come. So it is about a customer whom the lists would refuse.
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
	ctx, cancel := context.WithCancel(context.WithValue(ctx, unwaited{}, true))
	defer cancel()
	defer context.AfterFunc(c.cache.Life, cancel)()
	r := c.replicas
	if r == nil {
		return c.walkLists(ctx, nil)
	}
	called := r.polarNow()
	for {
		turn, err := r.lists.Take(ctx, walkOf{Began: r.polarNow()}.bytes())
		switch {
		case ctx.Err() != nil:
			return 0, ctx.Err()
		case err != nil: // the store is away
			return c.walkLists(ctx, nil)
		case turn != nil:
			defer turn.End()
			if last := r.lastWalk(ctx); last.Ended != 0 && (last.Ended >= called || r.polarNow().Sub(last.Ended) < recent) {
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
	found := r.walk.customers(c.config.Features)
	n = c.takeListed(r.walk, found)
	err = r.readKeys(ctx, found)
	if replicas := c.replicas; replicas != nil {
		all := replicas.publishListed(found, func(id wire.UUID) bool { return c.isLeftOut(r.walk, id) })
		if turn != nil && all { // else others would look for them in vain
			replicas.finishWalk(ctx, turn, c.warmStats())
		}
	}
	return n, err
}

// noteWalk keeps what came of a walk of another replica.
func (c *Customers) noteWalk(last walkOf) {
	c.warming.mu.Lock()
	defer c.warming.mu.Unlock()
	s := &c.warming.stats
	s.Customers, s.LeftOut, s.NoRoom, s.EndedAt = last.Customers, last.LeftOut, last.NoRoom, last.Ended.Time()
}

// beginWalk is the walk that was broken off a short while ago, by this replica or another
// one, or a new one.
func (c *Customers) beginWalk(ctx context.Context, turn *relay.Turn) *listsWalk {
	w := &c.warming
	w.mu.Lock()
	now := c.cache.Now()
	old := w.walk != nil && now <= w.walk.readLast.After(listsKept)
	if turn != nil {
		old = old && w.walk.work == turn.Work()
	}
	if !old {
		w.walk = c.newWalk(now)
		w.stats.Pages, w.stats.TotalPages = 0, 0
	}
	walk := w.walk
	w.stats.Running, w.said = true, now
	w.mu.Unlock()
	if turn != nil {
		c.replicas.relayWalk(ctx, walk, turn)
		if !old {
			for i := range walk.lists {
				c.replicas.replay(ctx, turn, i, &walk.lists[i], func() { c.noteProgress(walk, &walk.lists[i]) })
			}
		}
	}
	c.config.Logger.Info("polargate: reading Polar's lists of customers", "pages_read", c.warmStats().Pages)
	return walk
}

func (c *Customers) newWalk(now clock.Local) *listsWalk {
	walk := &listsWalk{began: now, readLast: now, leftOut: map[wire.UUID]bool{}}
	for i := range walk.lists {
		l := &walk.lists[i]
		l.Walk = listing.New(func(ctx context.Context, number int) (listing.Page[listed], error) {
			if told := l.told; told != nil {
				return l.read(c.cache, number, told)
			}
			asked := c.cache.Now()
			page, at, err := c.client.customersOf(ctx, &customerLists[i], number, c.organizationID(), c.learn)
			if err == nil {
				l.pages = append(l.pages, pageTime{asked, at})
				if l.note != nil {
					l.note(pageFact(page, number, at))
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
	walk  *listsWalk
	turn  *relay.Turn // among replicas
}

// readAll reads the lists beside each other. The first error that is not to be waited out
// ends all of them.
func (r *listReader) readAll(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var group sync.WaitGroup
	for i := range r.walk.lists {
		l := &r.walk.lists[i]
		group.Go(func() {
			err := r.repeat(ctx, func() (done bool, err error) {
				if done, err = l.Step(ctx, len(l.pages)); err == nil {
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
func (c *Customers) noteProgress(walk *listsWalk, l *listWalk) {
	w := &c.warming
	w.mu.Lock()
	defer w.mu.Unlock()
	now := c.cache.Now()
	walk.readLast = now
	l.count, l.total = l.Pages()
	w.stats.Pages, w.stats.TotalPages = 0, 0
	for i := range walk.lists {
		w.stats.Pages += walk.lists[i].count
		w.stats.TotalPages += walk.lists[i].total
	}
	if now >= w.said.After(progressEvery) {
		w.said = now
		c.config.Logger.Info("polargate: reading Polar's lists of customers", "pages_read", w.stats.Pages, "pages", w.stats.TotalPages)
	}
}

// listedCustomer is a customer as the lists have them: their state, when the first page
// with it was asked for, or that they changed meanwhile.
type listedCustomer struct {
	state   *rights.State
	asked   clock.Local
	changed bool
}

// customers puts together what the lists say of each customer.
func (walk *listsWalk) customers(features map[string][]string) map[wire.UUID]listedCustomer {
	type gathered struct {
		listedCustomer
		have rights.Parts
	}
	all := map[wire.UUID]*gathered{}
	for i := range walk.lists {
		l := &walk.lists[i]
		for owner, o := range l.Owners() {
			page := l.pages[o.Since]
			g := all[owner]
			if g == nil {
				g = &gathered{listedCustomer: listedCustomer{
					state: rights.Of(owner, o.Rows[0].Value.external, true, page.at), asked: page.asked}}
				all[owner] = g
			}
			g.changed = g.changed || o.Changed
			g.asked = min(g.asked, page.asked)
			g.state.SetAt(min(g.state.At(), page.at))
			for _, row := range o.Rows {
				entry := row.Value
				g.changed = g.changed || entry.deleted || entry.external != g.state.External()
				g.have.Add(entry.have)
			}
		}
	}
	found := make(map[wire.UUID]listedCustomer, len(all))
	for id, g := range all {
		if !g.changed {
			g.state.Grant(g.have, features)
		}
		found[id] = g.listedCustomer
	}
	return found
}

// takeListed takes what the lists say into the cache, and notes that a walk has ended. It
// returns how many customers are in the cache by it.
func (c *Customers) takeListed(walk *listsWalk, found map[wire.UUID]listedCustomer) (n int) {
	leftOut, noRoom := 0, 0
	for _, one := range found {
		switch {
		case one.changed || c.isLeftOut(walk, one.state.Customer()):
			leftOut++
		case c.cache.StoreListed(one.state, one.asked, c.config.CacheSize):
			n++
		default:
			noRoom++
		}
	}
	c.cache.ExpireUnlisted(walk.began, func(id wire.UUID) bool {
		one, ok := found[id]
		return ok && !one.changed && !c.isLeftOut(walk, id)
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
		"without_room", noRoom, "pages_read", w.stats.Pages, "seconds", int(c.cache.Now().Sub(walk.began).Seconds()))
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
		walk.leftOut[id] = true
	}
}

func (c *Customers) isLeftOut(walk *listsWalk, id wire.UUID) bool {
	c.warming.mu.Lock()
	defer c.warming.mu.Unlock()
	return walk.leftOut[id]
}

// readKeys reads the license keys that come with benefits of many of these customers.
func (r *listReader) readKeys(ctx context.Context, found map[wire.UUID]listedCustomer) error {
	ring := r.cache.Keys
	count := map[string]int{}
	for _, one := range found {
		if one.changed {
			continue
		}
		one.state.KeyedGrants(func(b rights.Benefit, key wire.UUID) {
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
func (c *Client) customersOf(ctx context.Context, list *customerList, number int, organizationID string, learn func(organization string)) (page listing.Page[listed], at clock.Polar, err error) {
	var broken error
	path := fmt.Sprintf("%s&limit=100&page=%d", list.path, number)
	err = c.exchange(ctx, exchange{op: opLists, path: path, repeatable: true, most: longestList}, func(body []byte, when time.Time) error {
		f, err := wire.Object(body)
		if err != nil {
			return err
		}
		var entries []json.RawMessage
		var pages wire.Fields
		size, last := -1, -1
		wire.Optional(f, "pagination", &pages)
		wire.Optional(pages, "total_count", &size)
		wire.Optional(pages, "max_page", &last)
		if json.Unmarshal(f["items"], &entries) != nil || entries == nil || size < 0 || last < 0 {
			return errors.New("a list without its entries or pages")
		}
		page, at, broken = listing.Page[listed]{Last: last, Size: size}, clock.PolarTime(when), nil
		for _, entry := range entries {
			row, organization, err := list.row(entry, organizationID)
			if err != nil {
				broken = fmt.Errorf("an entry in Polar's list of %s cannot be read: %w", list.name, err)
				return nil
			}
			if organizationID == "" {
				learn(organization)
			}
			page.Rows = append(page.Rows, row)
		}
		return nil
	})
	if err == nil {
		err = broken
	}
	return page, at, err
}

// row reads an entry. Without its customer and time nothing in the list would be certain.
func (list *customerList) row(entry json.RawMessage, organizationID string) (row listing.Row[listed], organization string, err error) {
	f, err := wire.Object(entry)
	if err != nil {
		return row, "", err
	}
	var id string
	var came, deleted time.Time
	var customer wire.Fields
	f.Text("id", &id)
	f.Time(list.cameAt, &came)
	wire.Optional(f, "customer", &customer)
	of, err := rights.ReadCustomer(customer, organizationID)
	if err != nil {
		return row, "", err
	}
	entryID, ok := wire.ParseUUID(id)
	if !ok || came.IsZero() {
		return row, "", fmt.Errorf("id or %s is missing", list.cameAt)
	}
	customer.Text("organization_id", &organization)
	customer.Time("deleted_at", &deleted)
	row = listing.Row[listed]{ID: entryID, Owner: of.Customer(), Came: came.UnixNano()}
	row.Value.external, row.Value.deleted = of.External(), !deleted.IsZero()
	list.read(f, &row.Value.have)
	return row, organization, nil
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

// walkOf is a walk through Polar's lists as replicas tell each other. Times are Polar's.
type walkOf struct {
	Began                      clock.Polar
	Ended                      clock.Polar
	Holder                     string
	Customers, LeftOut, NoRoom int
}

func (w walkOf) bytes() []byte {
	data, _ := json.Marshal(w) // it is all numbers and text
	return data
}

// walkOfBytes is the zero walkOf if that cannot be read.
func walkOfBytes(data []byte) (w walkOf) {
	if json.Unmarshal(data, &w) != nil {
		return walkOf{}
	}
	return w
}

// lastWalk is the last walk that came to its end; zero if none is known.
func (r *replicas) lastWalk(ctx context.Context) walkOf {
	data, _ := r.lists.Result(ctx)
	return walkOfBytes(data)
}

// relayWalk connects a walk with those who go on if this replica dies.
func (r *replicas) relayWalk(ctx context.Context, walk *listsWalk, turn *relay.Turn) {
	walk.work = turn.Work()
	if began := walkOfBytes(turn.Began()).Began; began != 0 {
		walk.began = min(walk.began, r.cache.Now().After(-max(0, r.polarNow().Sub(began))))
	}
	for i := range walk.lists {
		l := &walk.lists[i]
		l.note = func(page fact.Page) {
			page.Asked = r.polarNow().Before(r.cache.Now().Sub(l.pages[len(l.pages)-1].asked))
			turn.Note(ctx, i, len(l.pages)-1, page.Bytes())
		}
	}
}

// replay has a walk take in the pages of a list that another replica has read.
func (r *replicas) replay(ctx context.Context, turn *relay.Turn, list int, l *listWalk, progress func()) {
	for done := false; !done; progress() {
		page, err := fact.ParsePage(turn.Step(ctx, list, len(l.pages)))
		if err != nil {
			return // there is none
		}
		page.Asked = min(page.Asked, r.polarNow())
		l.told = &page
		done, err = l.Step(ctx, len(l.pages))
		l.told = nil
		if err != nil {
			return
		}
	}
}

var errOtherPage = errors.New("another replica has read another page here")

// read takes in a page that another replica has read.
func (l *listWalk) read(c *memory.Cache, number int, told *fact.Page) (page listing.Page[listed], err error) {
	if told.Number != number {
		return page, errOtherPage
	}
	l.pages = append(l.pages, pageTime{c.Now().After(-c.PolarNow().Sub(told.Asked)), told.At})
	page = listing.Page[listed]{Last: told.Last, Size: told.Size}
	for _, row := range told.Rows {
		page.Rows = append(page.Rows, listing.Row[listed]{
			ID: row.ID, Owner: row.Owner, Came: row.Came,
			Value: listed{external: row.External, deleted: row.Deleted, have: partsOf(row.Benefits, row.Products, row.Subscriptions, row.Meters)},
		})
	}
	return page, nil
}

// pageFact is a page as other replicas are told of it.
func pageFact(page listing.Page[listed], number int, at clock.Polar) fact.Page {
	f := fact.Page{Number: number, Last: page.Last, Size: page.Size, At: at}
	for _, row := range page.Rows {
		f.Rows = append(f.Rows, fact.Row{
			ID: row.ID, Owner: row.Owner, Came: row.Came, External: row.Value.external, Deleted: row.Value.deleted,
			Benefits: benefitFacts(row.Value.have.Benefits), Products: row.Value.have.Products(), Meters: meterFacts(row.Value.have.Meters),
			Subscriptions: subscriptionFacts(row.Value.have.Subscriptions),
		})
	}
	return f
}

// publishListed tells other replicas what lists say of customers, and reports whether all of
// it is in the store. One that is slow, since so much comes at once, is waited for.
func (r *replicas) publishListed(found map[wire.UUID]listedCustomer, leftOut func(wire.UUID) bool) bool {
	var facts []link.Fact
	put := func() bool {
		for len(facts) > 0 {
			younger, err := r.link.Put(r.link.Life, facts...)
			r.takeIfOfUse(younger)
			if err == nil {
				facts = facts[:0]
			} else if r.link.AwayFor() > recallGivesUp || !pace.Sleep(r.link.Life, recallAgain) {
				return false
			}
		}
		return true
	}
	for id, one := range found {
		if one.changed || leftOut(id) {
			continue
		}
		facts = append(facts, r.factsOf(memory.News{Value: one.state, Key: memory.IDsOf(one.state)[0], At: one.state.At(), Listed: true})...)
		if len(facts) >= link.PutBatch && !put() {
			return false
		}
	}
	return put()
}

// finishWalk tells other replicas that the lists have been read.
func (r *replicas) finishWalk(ctx context.Context, turn *relay.Turn, s WarmStats) {
	w := walkOf{
		Began: walkOfBytes(turn.Began()).Began, Ended: r.polarNow(), Holder: r.link.Config.Holder,
		Customers: s.Customers, LeftOut: s.LeftOut, NoRoom: s.NoRoom,
	}
	ctx = context.WithoutCancel(ctx)
	turn.Finish(ctx, w.bytes(), r.lasts())
	r.link.Hint(ctx, r.walkName())
}

// afterWalk takes over what another replica read from Polar's lists, as far as it is about
// customers in memory. Those who had something before, and are in none of the lists, are
// asked about.
func (r *replicas) afterWalk() {
	last := r.lastWalk(r.link.Life)
	if last.Began == 0 || last.Holder == r.link.Config.Holder {
		return
	}
	for keys := range slices.Chunk(r.cache.All(), link.Batch) {
		if !r.check(r.link.Life, keys...) {
			return
		}
	}
	age := r.polarNow().Sub(last.Began) + clockFine
	r.cache.ExpireUnlisted(r.cache.Now().After(-age), func(wire.UUID) bool { return false })
}

// clockFine is how exactly Polar's time is known: answers are dated in whole seconds.
const clockFine = 2 * time.Second
