// Package replicas is what a server does with a store that it shares with its replicas: it asks
// the store before it asks Polar, tells what Polar said, takes in what others tell, and takes
// requests from a budget that all have together. Whatever fails here leaves the server as it
// is without other replicas.
package replicas

import (
	"context"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/polargate/polargate/internal/census"
	"github.com/polargate/polargate/internal/clock"
	"github.com/polargate/polargate/internal/fact"
	"github.com/polargate/polargate/internal/flight"
	"github.com/polargate/polargate/internal/link"
	"github.com/polargate/polargate/internal/memory"
	"github.com/polargate/polargate/internal/pace"
	"github.com/polargate/polargate/internal/relay"
	"github.com/polargate/polargate/internal/rights"
)

// Replicas connects the cache with those of other replicas, through a store. Memory stays
// the first level: the store is asked before Polar is, and told what Polar said. Whatever
// fails here leaves the cache as it is without other replicas.
//
// A record holds a customer's state as Polar told it, under the name of each id that the
// customer is asked about by, so that either is one round trip; or Polar's answer about a
// license key that came with a request, under the name of the key. That an event told of a
// license key is a record under the name of its id.
type Replicas struct {
	Link     *link.Link
	Cache    *memory.Cache
	Features map[string][]string
	Budget   *pace.Budget // of this replica alone
	Limit    int          // of all replicas, a minute
	flights  flight.Group

	// Lists is whose turn it is to read Polar's lists.
	Lists relay.Relay
	// EventHeard is called when a replica has told of a webhook.
	EventHeard func()
	// Organization is the one of the access token, "" until it is known, and Learn is told
	// of it.
	Organization func() string
	Learn        func(string)

	// License is what others are told of the license key that a state is about; nil if it is
	// about none. StateOf is the state by what others told, of that time. Refused is the error
	// for a turn that the budget of all replicas refused, and WrongBenefit why a license key is
	// refused whose benefit this program doesn't accept.
	License      func(*rights.State) *fact.License
	StateOf      func(l *fact.License, key string, at clock.Polar) *rights.State
	Refused      func(link.Turn) error
	WrongBenefit string

	turns     chan struct{} // has room for whoever asks the store for a request
	checking  sync.Mutex    // held while everything in memory is checked
	saidShort atomic.Int64  // a clock.Local: when others were told that requests are short
}

// Start connects the replica with the store, and listens to the others.
func (r *Replicas) Start(settings link.Config) (err error) {
	if r.Link, err = link.New(settings); err != nil {
		return err
	}
	r.turns = make(chan struct{}, 1)
	r.Link.Config.Budget = link.Budget{Name: r.Link.OpenName("budget", "requests").Key, Limit: r.Limit, Window: time.Minute}
	r.Lists = relay.Relay{Values: relayValues{r.Link}, Name: "lists", Holder: r.Link.Config.Holder, Lasts: turnLasts, Kept: census.Kept}
	r.Link.Listen(r.heard)
	r.Link.GoBehind(r.sweep)
	return nil
}

func (r *Replicas) shortName() link.Name { return r.Link.OpenName("hint", "requests are short") }

// PolarNow is the time by Polar's clock.
func (r *Replicas) PolarNow() clock.Polar { return r.Cache.PolarNow() }

// Seek looks for what other replicas know of a customer or license key, which the cache takes
// in, and asks for leave to ask Polar. enough is that there is no need to. An error means that
// there is no leave, for lack of requests.
func (r *Replicas) Seek(ctx context.Context, key memory.Key, when memory.Urgency) (l memory.Leave, enough bool, err error) {
	c := r.Cache
	notBefore, seen := c.NotBefore(key, when)
	keep := 0
	if !seen { // others may be waiting who are not new
		keep = r.Limit / 2
		if key.Kind == memory.ByLicenseKey {
			if end, ok := c.BeginUnseen(key.Kind); !ok {
				keep = r.Limit // anybody can make up keys: only what others know is looked for
			} else {
				defer end()
			}
		}
	}
	name := r.name(key)
	var ask link.Ask
	for again := false; ; again = true {
		ask, err = r.Link.Lookup(ctx, name, notBefore.Time(), keep)
		r.noteTurn(ask.Turn, err)
		if err != nil {
			return l, false, nil // this replica goes on alone
		}
		if ask.Known {
			r.adopt(ask.Fact, key)
			r.checkDropped(ctx, key)
		}
		if !ask.Found {
			break
		}
		if c.IsFresh(key) {
			return l, true, nil
		}
		if again {
			return l, false, nil
		}
		// It is of another version, or Polar is to be asked all the same.
		notBefore = clock.PolarTime(ask.Fact.At) + 1
	}
	if !ask.Claimed && !ask.Busy && ask.Known && keep == r.Limit/2 && !ask.Turn.Paused {
		if turn, err := r.Link.Take(ctx, 1, 0); err == nil && turn.Taken {
			ask.Busy, ask.Claimed = false, true // without a claim, which does no harm
		}
	}
	switch {
	case ask.Claimed:
		l.Unit = &memory.Unit{}
		l.End = func() { _ = r.Link.Release(r.Link.Life, name) }
	case ask.Busy: // whoever asks has not got an answer in time
	case keep == r.Limit:
		return l, false, c.TooMany()
	default:
		return l, false, r.Refused(ask.Turn)
	}
	l.Behind = ask.Known && when == memory.UnlessFresh && ask.Claimed && c.ServesMeanwhile(key)
	return l, false, nil
}

// CheckFirst checks what is in memory under a key, if it was not checked since the last gap.
func (r *Replicas) CheckFirst(key memory.Key) {
	if r.Cache.IsChecked(key) {
		return
	}
	gap := r.Cache.Gap()
	r.once(context.Background(), "check ", key, func(key memory.Key) { r.check(r.Link.Life, key) })
	r.Cache.NoteChecked(gap, key)
}

// Recall has the cache take in what other replicas know of a customer or license key, while
// Polar cannot be asked. There is nothing else to serve, so it doesn't give up a store at
// once that has just failed, as one does that is busy.
func (r *Replicas) Recall(ctx context.Context, key memory.Key) {
	r.once(ctx, "recall ", key, func(key memory.Key) {
		patience, cancel := context.WithTimeout(r.Link.Life, recallPatience)
		defer cancel()
		for !r.check(patience, key) && r.Link.AwayFor() < recallGivesUp && pace.Sleep(patience, recallAgain) {
		}
	})
}

const (
	// recallPatience is how long a customer whom only the store can know waits for it, and
	// recallAgain the pause between two tries. A store that has been away for recallGivesUp
	// is not waited for.
	recallPatience, recallAgain, recallGivesUp = 2 * time.Second, 25 * time.Millisecond, 5 * time.Second
)

// once does something about a key once for all who want it at the same time.
func (r *Replicas) once(ctx context.Context, what string, key memory.Key, do func(memory.Key)) {
	key = key.Own()
	_, _ = flight.Do(ctx, &r.flights, what+string('0'+rune(key.Kind))+key.ID, func(context.Context) (struct{}, error) {
		do(key)
		return struct{}{}, nil
	})
}

// check has the cache take in what there is about some customers and license keys, and
// reports whether that could be read.
func (r *Replicas) check(ctx context.Context, keys ...memory.Key) bool {
	names, of := make([]link.Name, len(keys)), make(map[string]memory.Key, len(keys))
	for i, key := range keys {
		names[i] = r.name(key)
		of[names[i].Key] = key
	}
	facts, err := r.Link.Get(ctx, names...)
	for name, shared := range facts {
		r.adopt(shared, of[name])
	}
	return err == nil && r.checkDropped(ctx, keys...)
}

// checkDropped has license keys asked about again if an event told of them, and reports
// whether that could be read.
func (r *Replicas) checkDropped(ctx context.Context, keys ...memory.Key) bool {
	var names []link.Name
	for _, key := range keys {
		if id := r.Cache.LicenseOf(key); id != "" {
			names = append(names, r.droppedName(id))
		}
	}
	if len(names) == 0 {
		return true
	}
	facts, err := r.Link.Get(ctx, names...)
	for _, shared := range facts {
		r.adopt(shared, memory.Key{})
	}
	return err == nil
}

// heard takes in what other replicas told of.
func (r *Replicas) heard(keys []string, gap bool) {
	if gap {
		r.distrust()
	}
	var names []link.Name
	short, walked := r.shortName().Key, r.walkName().Key
	for _, key := range keys {
		switch key {
		case short:
			r.Cache.NoteShort(r.Cache.Now())
		case walked:
			r.Link.GoBehind(r.afterWalk)
		default:
			names = append(names, link.Name{Key: key})
		}
	}
	if len(names) == 0 {
		return
	}
	facts, err := r.Link.Get(r.Link.Life, names...)
	r.takeIfOfUse(slices.Collect(maps.Values(facts)))
	if err != nil && !r.Link.IsAway() { // otherwise there is a gap when it is back
		r.distrust()
	}
}

// takeIfOfUse takes in what is about customers in memory, or about those whom somebody waits
// for.
func (r *Replicas) takeIfOfUse(facts []link.Fact) {
	for _, shared := range facts {
		f, at, err := r.parse(shared)
		if err == nil && f.Customer != nil {
			if f.Customer.Event {
				r.EventHeard()
			}
			if n, err := r.newsOf(f, at); err == nil && !r.Cache.Concerns(n) {
				continue
			}
		}
		if err == nil {
			err = r.take(f, at, memory.Key{})
		}
		if err != nil {
			r.Link.CannotRead("a record", err)
		}
	}
}

// distrust has nothing in memory be fresh until it is checked, which begins now.
func (r *Replicas) distrust() {
	r.Cache.DistrustAll()
	r.Link.GoBehind(r.checkAll)
}

// checkAll checks everything in memory after a gap. Until that is done, nothing is trusted
// as fresh that has not been checked.
func (r *Replicas) checkAll() {
	r.checking.Lock()
	defer r.checking.Unlock()
	gap := r.Cache.Gap()
	for keys := range slices.Chunk(r.Cache.Unchecked(), link.Batch) {
		if !r.check(r.Link.Life, keys...) {
			break // the store is away again, and another gap follows when it is back
		}
		r.Cache.NoteChecked(gap, keys...)
	}
	r.Cache.Trust(gap)
}

// sweep compares everything in memory with the store now and then, in case that a hint was
// lost without a gap. What is fresh for less long is looked up in time anyway.
func (r *Replicas) sweep() {
	if r.Cache.FreshFor <= sweepEvery {
		return
	}
	for pace.Sleep(r.Link.Life, pace.Jitter(sweepEvery)) {
		for keys := range slices.Chunk(r.Cache.All(), link.Batch) {
			if !r.check(r.Link.Life, keys...) || !pace.Sleep(r.Link.Life, sweepRest) {
				break
			}
		}
	}
}

const (
	// sweepEvery is how long a hint that was lost without a trace can matter, about.
	sweepEvery = 5 * time.Minute
	// sweepRest is the pause after each batch, so that a sweep is no load.
	sweepRest = 50 * time.Millisecond
)

// FirstTime reports whether no replica has applied a webhook of that id.
func (r *Replicas) FirstTime(id string) bool {
	state, err := r.Link.Load(r.Link.Life, r.Link.Name("webhook", id))
	return err != nil || state.Version == "" || len(state.Data) == 0
}

// NoteApplied notes that a webhook was applied.
func (r *Replicas) NoteApplied(id string, within time.Duration) {
	_, _, _ = r.Link.Swap(r.Link.Life, r.Link.Name("webhook", id), "", []byte{1}, within)
}

// ClaimEvent has this replica alone call the functions of a webhook of that id, until done is
// called. ok is false if another replica is at it. While the store
// is away, each replica calls them for the deliveries that come to it.
func (r *Replicas) ClaimEvent(id string) (done func(), ok bool) {
	name := r.Link.Name("event", id)
	claim, swapped, err := r.Link.Swap(r.Link.Life, name, "", []byte{1}, eventClaim)
	if err != nil {
		return func() {}, true
	}
	return func() { _, _, _ = r.Link.Swap(r.Link.Life, name, claim.Version, nil, 0) }, swapped
}

// eventClaim is how long the claim to an event lasts if its replica dies: longer than its
// functions may take.
const eventClaim = 20 * time.Second
