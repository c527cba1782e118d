package polargate

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/polargate/polargate/internal/clock"
	"github.com/polargate/polargate/internal/flight"
	"github.com/polargate/polargate/internal/pace"
)

// replicas connects the cache with those of other replicas, through a Shared. Memory stays
// the first level: the store is asked before Polar is, and told what Polar said. Whatever
// fails here leaves the cache as it is without other replicas.
//
// A record holds a customer's state as Polar told it, under the name of each id that the
// customer is asked about by, so that either is one round trip.
type replicas struct {
	link     *sharedLink
	cache    *entitlementCache
	features map[string][]string
	budget   *pace.Budget // of this replica alone
	limit    int          // of all replicas, a minute
	ahead    atomic.Int64 // how far Polar's clock is ahead of this computer's, as last seen
	flights  flight.Group

	checking sync.Mutex // held while everything in memory is checked
}

// sharedPace has requests wait for the budget of all replicas as well as for this one's.
type sharedPace struct {
	*pace.Budget
	r *replicas
}

// Wait waits for a request of both budgets. While the store is away, this replica has its
// share of the limit.
func (p *sharedPace) Wait(ctx context.Context) (done func(pace.Outcome), err error) {
	if done, err = p.Budget.Wait(ctx); err != nil {
		return nil, err
	}
	if taken, ok := ctx.Value(unitKey{}).(*unit); ok && taken.used.CompareAndSwap(false, true) {
		return done, nil
	}
	for {
		turn, err := p.r.link.take(ctx, 1, 0)
		p.r.settleShare(err)
		switch deadline, ok := ctx.Deadline(); {
		case err != nil || turn.Taken:
			return done, nil
		case turn.Paused:
			return nil, &pace.PausedError{For: turn.Wait}
		case ok && time.Until(deadline) <= turn.Wait:
			return nil, &pace.LateError{Limit: sharedLimit, For: turn.Wait}
		}
		if !pace.Sleep(ctx, max(turn.Wait, time.Millisecond)) {
			return nil, &pace.StoppedError{Limit: sharedLimit, For: turn.Wait, Err: ctx.Err()}
		}
	}
}

const sharedLimit = "the limit on requests a minute of all replicas"

// PauseFor lets no replica send a request for d.
func (p *sharedPace) PauseFor(d time.Duration) {
	p.Budget.PauseFor(d)
	p.r.link.goBehind(func() { _ = p.r.link.pause(p.r.link.life, d) })
}

// settleShare gives this replica the whole limit while the store counts requests, and its
// share while the store is away.
func (r *replicas) settleShare(err error) {
	limit := r.limit
	if err != nil {
		limit = r.link.share(limit)
	}
	r.budget.SetPerMinute(limit)
}

// factVersion is that of the form of a sharedState; another is not read.
const factVersion = 1

// customerFact is what a record says, as JSON.
type customerFact struct {
	Version int `json:"v"`
	// Event says that a webhook told it, and Doubtful that Polar is to be asked all the
	// same, because the webhook was late or could not be read wholly.
	Event    bool `json:"event,omitempty"`
	Doubtful bool `json:"doubtful,omitempty"`
	// At is Polar's time. That of the record may be a little later, for the order.
	At clock.Polar `json:"at"`
	// Known is whether Polar has such a customer. One that it does not have is named by
	// the id that was asked about.
	Known    bool          `json:"known"`
	Customer string        `json:"customer,omitempty"`
	External string        `json:"external,omitempty"`
	Benefits []factBenefit `json:"benefits,omitempty"`
	Products []string      `json:"products,omitempty"`
	Meters   []factMeter   `json:"meters,omitempty"`
	Keys     []factKey     `json:"keys,omitempty"`
}

type factBenefit struct {
	ID         string `json:"id"`
	Type       string `json:"type,omitempty"`
	Metadata   string `json:"metadata,omitempty"`
	Properties string `json:"properties,omitempty"`
}

type factMeter struct {
	ID       string  `json:"id"`
	Consumed float64 `json:"consumed"`
	Credited float64 `json:"credited"`
	Balance  float64 `json:"balance"`
}

// factOf writes what Polar said.
func (r *replicas) factOf(n news) []byte {
	v := n.value
	f := customerFact{Version: factVersion, Event: n.event, Doubtful: n.doubtful, At: v.at, Known: v.known, External: v.external}
	if v.keys() != nil {
		f.Keys = r.cache.keys.facts(v.licenseKeyIDs(), r.polarNow())
	}
	if v.customer != (uuid{}) {
		f.Customer = v.customer.String()
	}
	switch {
	case v.known || n.event:
	case n.key.kind == byPolarID:
		f.Customer = n.key.id
	default:
		f.External = n.key.id
	}
	for _, g := range v.grants() {
		f.Benefits = append(f.Benefits, factBenefit{g.ID(), g.Type(), g.of().metadata, g.properties})
	}
	f.Products = v.Products()
	for _, m := range v.Meters() {
		f.Meters = append(f.Meters, factMeter{m.ID(), m.Consumed, m.Credited, m.Balance})
	}
	data, err := json.Marshal(f)
	if err != nil {
		panic(err) // it is all texts and numbers
	}
	return data
}

var errNoFact = errors.New("no fact about a customer of this version")

// read reads a fact, and what it says of license keys.
func (r *replicas) read(fact sharedFact) (n news, keys []factKey, err error) {
	var f customerFact
	if err := json.Unmarshal(fact.Data, &f); err != nil || f.Version != factVersion {
		return n, nil, errNoFact
	}
	v := &Entitlements{known: f.Known, external: f.External, at: f.At}
	n = news{value: v, at: clock.PolarTime(fact.At), event: f.Event, doubtful: f.Doubtful, shared: true}
	if f.Customer != "" {
		var ok bool
		if v.customer, ok = parseUUID(f.Customer); !ok {
			return n, nil, errNoFact
		}
	}
	if !f.Known && !f.Event {
		n.key = cacheKey{byExternalID, f.External}
		if f.Customer != "" {
			n.key = cacheKey{byPolarID, f.Customer}
		}
		v.customer, v.external = uuid{}, ""
		return n, nil, nil
	}
	if v.customer == (uuid{}) {
		return n, nil, errNoFact
	}
	var have rights
	for _, b := range f.Benefits {
		have.benefits = append(have.benefits, newBenefit(b.ID, b.Type, b.Metadata, b.Properties))
	}
	if keys := keyedGrantsOf(have.benefits, r.features); keys != nil {
		v.own = &particulars{keys: keys}
	}
	have = have.unlocking(have.benefits, r.features)
	for _, id := range f.Products {
		have.products = append(have.products, textFrom(id))
	}
	for _, m := range f.Meters {
		have.meters = append(have.meters, MeterBalance{textFrom(m.ID), m.Consumed, m.Credited, m.Balance})
	}
	v.setRights(have)
	return n, f.Keys, nil
}

// name is what the record of a customer is called.
func (r *replicas) name(key cacheKey) sharedName {
	if key.kind == byPolarID {
		return r.link.name("customer", key.id)
	}
	return r.link.name("external id", key.id)
}

// polarNow is the time by Polar's clock, as far as it is known from its last answer.
func (r *replicas) polarNow() clock.Polar {
	return clock.PolarTime(time.Now()) + clock.Polar(r.ahead.Load())
}

// adopt has the cache take in a record that was read, if it says something younger.
func (r *replicas) adopt(fact sharedFact) {
	n, keys, err := r.read(fact)
	if err != nil {
		r.link.cannotRead("a record", err)
		return
	}
	if len(keys) > 0 {
		r.cache.keys.learn(keys, r.polarNow())
	}
	r.cache.adopt(n, max(0, r.polarNow().Sub(n.value.at)))
}

// publish puts what Polar said of a customer, under all their ids, which ends the claim to
// ask.
func (r *replicas) publish(n news) {
	if n.value.known && !n.event {
		r.ahead.Store(int64(n.value.at.Sub(clock.PolarTime(time.Now()))))
	}
	at, brief := n.at.Time(), max(r.cache.unknownFor, time.Millisecond)
	var facts []sharedFact
	if n.value.known || n.event {
		data, ttl := r.factOf(n), max(r.cache.freshFor, r.cache.staleFor, r.cache.graceFor, brief)
		for _, key := range n.value.askable() {
			facts = append(facts, sharedFact{r.name(key), at, data, ttl})
		}
	} else {
		facts = append(facts, sharedFact{r.name(n.key), at, r.factOf(n), brief})
	}
	if n.former != "" {
		gone := news{value: &Entitlements{at: n.value.at}, key: cacheKey{byExternalID, n.former}}
		facts = append(facts, sharedFact{r.name(gone.key), at, r.factOf(gone), brief})
	}
	younger, _ := r.link.put(r.link.life, facts...)
	for _, fact := range younger {
		other, _, err := r.read(fact)
		if err == nil && n.event && !other.event && n.value.at >= other.value.at.Before(readTime) {
			// An answer of just before the event came, which replaces it; see eventAt.
			if at := eventAt(n.value.at, other.at); at > n.at {
				n.at = at
				r.publish(n)
			}
			return
		}
		r.adopt(fact)
	}
}

// seek looks for what other replicas know of a customer, which the cache takes in, and asks
// for leave to ask Polar. enough is that there is no need to. An error means that there is
// no leave, for lack of requests.
func (r *replicas) seek(ctx context.Context, key cacheKey, when urgency) (l leave, enough bool, err error) {
	notBefore, seen := r.notBefore(key, when)
	keep := 0
	if !seen { // others may be waiting who are not new
		keep = r.limit / 2
	}
	name := r.name(key)
	ask, err := r.link.lookup(ctx, name, notBefore.Time(), keep)
	r.settleShare(err)
	if err != nil {
		return l, false, nil // this replica goes on alone
	}
	if ask.Known {
		r.adopt(ask.Fact)
	}
	if ask.Found {
		return l, true, nil
	}
	if !ask.Claimed && !ask.Busy && ask.Known && keep > 0 && !ask.Turn.Paused {
		if turn, err := r.link.take(ctx, 1, 0); err == nil && turn.Taken {
			ask.Busy, ask.Claimed = false, true // without a claim, which does no harm
		}
	}
	switch {
	case ask.Claimed:
		l.unit = &unit{}
		l.end = func() { _ = r.link.release(r.link.life, name) }
	case ask.Busy: // whoever asks has not got an answer in time
	default:
		e := &Error{Op: opEntitlements, Reason: ErrRateLimited, RetryAfter: max(ask.Turn.Wait, time.Second), Detail: sharedLimit + " is used up", unasked: true}
		if ask.Turn.Paused {
			e.Detail, e.heldBack, e.unasked = "waiting out a pause that Polar asked for", true, false
		}
		return l, false, e
	}
	_, a := r.cache.known.find(key)
	l.behind = ask.Known && when == unlessFresh && a != nil && r.cache.now() < a.staleUntil && ask.Claimed
	return l, false, nil
}

// notBefore is from when a record has to be to be as good as an answer, and whether the
// customer is in memory.
func (r *replicas) notBefore(key cacheKey, when urgency) (at clock.Polar, seen bool) {
	c := r.cache
	c.mu.Lock()
	defer c.mu.Unlock()
	now := r.polarNow()
	at = now.Before(c.freshFor)
	e := c.entryOf(key)
	if e != nil {
		at = max(at, e.factAt()+1)
		if when == unlessCertain {
			at = max(at, now.Before(c.pauseOf(e)))
		}
	}
	if when == inAnyCase {
		at = now
	}
	known, _ := c.known.find(key)
	return max(at, 0), known != nil
}

// checkOne is check for an entry that was not checked since the last gap.
func (r *replicas) checkOne(e *entry) {
	gap := r.cache.gaps.Load()
	r.check(r.link.life, e.polarKey())
	r.cache.noteChecked(gap, e.polarKey())
}

// recall has the cache take in what other replicas know of a customer, while Polar cannot
// be asked.
func (r *replicas) recall(ctx context.Context, key cacheKey) {
	key = key.own()
	_, _ = flight.Do(ctx, &r.flights, string('0'+rune(key.kind))+key.id, func(context.Context) (struct{}, error) {
		r.check(r.link.life, key)
		return struct{}{}, nil
	})
}

// check has the cache take in what there is about some customers, and reports whether
// that could be read.
func (r *replicas) check(ctx context.Context, keys ...cacheKey) bool {
	names := make([]sharedName, len(keys))
	for i, key := range keys {
		names[i] = r.name(key)
	}
	facts, err := r.link.get(ctx, names...)
	for _, fact := range facts {
		r.adopt(fact)
	}
	return err == nil
}

// heard takes in what other replicas told of.
func (r *replicas) heard(keys []string, gap bool) {
	if gap {
		r.cache.distrustAll()
		r.link.goBehind(r.checkAll)
	}
	if len(keys) == 0 {
		return
	}
	names := make([]sharedName, len(keys))
	for i, key := range keys {
		names[i] = sharedName{key: key}
	}
	facts, _ := r.link.get(r.link.life, names...)
	for _, fact := range facts {
		if n, _, err := r.read(fact); err == nil && r.cache.concerns(n) {
			r.adopt(fact)
		}
	}
}

// checkAll checks everything in memory after a gap. Until that is done, nothing is trusted
// as fresh that has not been checked.
func (r *replicas) checkAll() {
	r.checking.Lock()
	defer r.checking.Unlock()
	gap := r.cache.gaps.Load()
	for keys := range slices.Chunk(r.cache.unchecked(), linkBatch) {
		if !r.check(r.link.life, keys...) {
			break // the store is away again, and another gap follows when it is back
		}
		r.cache.noteChecked(gap, keys...)
	}
	r.cache.trust(gap)
}

// firstTime reports whether no replica has applied a webhook of that id.
func (r *replicas) firstTime(id string) bool {
	state, err := r.link.load(r.link.life, r.link.name("webhook", id))
	return err != nil || state.Version == "" || len(state.Data) == 0
}

// noteApplied notes that a webhook was applied.
func (r *replicas) noteApplied(id string, within time.Duration) {
	_, _, _ = r.link.swap(r.link.life, r.link.name("webhook", id), "", []byte{1}, within)
}
