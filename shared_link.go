package polargate

import (
	"context"
	"crypto/rand"
	"errors"
	"log/slog"
	mathrand "math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/polargate/polargate/internal/breaker"
	"github.com/polargate/polargate/internal/envelope"
	"github.com/polargate/polargate/internal/logs"
	"github.com/polargate/polargate/internal/pace"
	"github.com/polargate/polargate/internal/resend"
)

// sharedLink is a Shared as Customers use it: every call is bounded, and left out while
// the store is away; records are sealed; what could not be put, or may have been lost
// with a server, is put again when the store is back; and listening begins anew whenever
// it ends.
//
// An error of any of its methods means that the caller goes on without the store, as
// without one.
type sharedLink struct {
	config  sharedLinkConfig
	boxes   []*envelope.Box // the first seals, all open
	open    *envelope.Box   // makes names that do not depend on the secrets
	breaker breaker.Breaker
	kept    resend.List

	life context.Context
	end  context.CancelFunc
	work sync.WaitGroup

	unreadable, lost atomic.Int64
	unreadableLog    sync.Once
	tooLarge         sync.Once
	awayLogged       atomic.Bool
	replicas         atomic.Int64

	mu      sync.Mutex
	merging bool
	again   bool                                  // merge once more
	waiting map[string]map[chan struct{}]struct{} // who waits for a record, by its key
	heard   []func(keys []string, gap bool)
	lastOne time.Time // when a hint or a gap came
}

// sharedLinkConfig configures a sharedLink.
type sharedLinkConfig struct {
	Store Shared
	// Purpose is what the records are about, such as an organization's id.
	Purpose string
	// Secrets seal the records: the first those that are written, all those that are
	// read. None is one secret that everybody knows.
	Secrets []string
	// Budget is what requests are taken from.
	Budget SharedBudget
	// ClaimFor is when the claim of a replica that died ends; 0 means 10 seconds.
	ClaimFor time.Duration
	// Bound is how long a call waits for the store at most; 0 means 300 milliseconds.
	Bound  time.Duration
	Logger *slog.Logger
	// Holder names the replica; empty means a name of its own, as it should be.
	Holder string
}

const (
	// linkBound is how long a call waits for the store, unless it is said otherwise.
	linkBound = 300 * time.Millisecond
	// linkMaxPause is how long a store that failed is left alone at most.
	linkMaxPause = 2 * time.Second
	// claimFor outlasts a request to Polar with one retry.
	claimFor = 10 * time.Second
	// pollClaim is how often a record is looked for that another replica asks for, if
	// no hint tells of it.
	pollClaim = 200 * time.Millisecond
	// safeAfter is how long after it was put a record may still be lost, with a server
	// that fails before it has told its replica.
	safeAfter = 30 * time.Second
	// maxKept bounds the memory for records that are to be put again, in bytes.
	maxKept = 32 << 20
	// beatEvery and beatLasts are how replicas are known to be there.
	beatEvery = 10 * time.Second
	beatLasts = 35 * time.Second
	// mergeEvery is how often it is tried to put what could not be put.
	mergeEvery = 500 * time.Millisecond
	// linkBatch is how many records are read by one call at most, and putBatch how many are
	// put: few enough for a slow disk.
	linkBatch, putBatch = 500, 100
)

// sharedName is what a thing is called in the store: by the first secret, and by the
// others.
type sharedName struct {
	key  string
	also []string
}

// sharedFact is a record, opened.
type sharedFact struct {
	Name sharedName // only its key, in one that was read
	At   time.Time
	Data []byte
	TTL  time.Duration
}

// newSharedLink makes a link. Nothing is sent before its first use; close ends it.
func newSharedLink(config sharedLinkConfig) (*sharedLink, error) {
	if config.ClaimFor == 0 {
		config.ClaimFor = claimFor
	}
	if config.Bound == 0 {
		config.Bound = linkBound
	}
	if config.Holder == "" {
		config.Holder = rand.Text()
	}
	if len(config.Secrets) == 0 {
		config.Secrets = []string{""}
	}
	config.Logger = logs.Recovering(config.Logger)
	l := &sharedLink{
		config:  config,
		kept:    resend.List{Bytes: maxKept, Records: maxKept / 1024, Safe: safeAfter},
		waiting: map[string]map[chan struct{}]struct{}{},
	}
	var err error
	if l.open, err = envelope.New("", config.Purpose); err != nil {
		return nil, err
	}
	for _, secret := range config.Secrets {
		box, err := envelope.New(secret, config.Purpose)
		if err != nil {
			return nil, err
		}
		l.boxes = append(l.boxes, box)
	}
	l.life, l.end = context.WithCancel(context.Background())
	l.breaker = breaker.Breaker{Bound: config.Bound, MaxPause: linkMaxPause, Fault: l.isFault, Back: l.back}
	l.replicas.Store(1)
	return l, nil
}

// close ends listening, and waits for what is under way.
func (l *sharedLink) close() {
	l.end()
	l.work.Wait()
}

// goBehind does something that nobody waits for but close.
func (l *sharedLink) goBehind(do func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.life.Err() == nil {
		l.work.Go(do)
	}
}

// isFault reports whether an error shows that the store is failing. A call that cannot
// be right proves nothing of it.
func (l *sharedLink) isFault(err error) bool {
	if _, wrong := errors.AsType[*InputError](err); wrong {
		return false
	}
	if l.awayLogged.CompareAndSwap(false, true) {
		l.config.Logger.Warn("polargate: the shared store is away; this replica goes on with its memory and Polar until it is back", "error", err)
	}
	return true
}

// back is called when the store works again.
func (l *sharedLink) back() {
	if l.awayLogged.CompareAndSwap(true, false) {
		l.config.Logger.Info("polargate: the shared store is back")
	}
	l.spread(nil, true)
}

// linkCall makes a call to the store.
func linkCall[T any](ctx context.Context, l *sharedLink, call func(context.Context) (T, error)) (T, error) {
	if err := l.life.Err(); err != nil {
		var none T
		return none, err
	}
	return breaker.Do(ctx, &l.breaker, call)
}

// name is what a thing of that kind and id is called in the store.
func (l *sharedLink) name(kind, id string) sharedName {
	name := sharedName{key: l.boxes[0].Name(kind, id)}
	for _, box := range l.boxes[1:] {
		name.also = append(name.also, box.Name(kind, id))
	}
	return name
}

// openName is a name that does not depend on the secrets, for what is no secret and must
// have one name while they are replaced.
func (l *sharedLink) openName(kind, id string) sharedName {
	return sharedName{key: l.open.Name(kind, id)}
}

// isAway reports whether the store is failing.
func (l *sharedLink) isAway() bool { return !l.breaker.Away().IsZero() }

// awayFor is for how long the store has been failing.
func (l *sharedLink) awayFor() time.Duration {
	since := l.breaker.Away()
	if since.IsZero() {
		return 0
	}
	return time.Since(since)
}

// hint tells all who listen of a name.
func (l *sharedLink) hint(ctx context.Context, name sharedName) {
	_, _ = linkCall(ctx, l, func(ctx context.Context) (struct{}, error) {
		return struct{}{}, l.config.Store.Hint(ctx, name.key)
	})
}

// openRecord reads a record. One that cannot be read is counted and removed, since it
// would be in the way of those that can for as long as its time says.
func (l *sharedLink) openRecord(r SharedRecord) (sharedFact, bool) {
	if r.Key == "" {
		return sharedFact{}, false
	}
	err := envelope.ErrUnreadable
	for _, box := range l.boxes {
		data, failure := box.Open(r.Key, string(r.At), r.Data)
		if failure == nil {
			return sharedFact{Name: sharedName{key: r.Key}, At: r.At.Time(), Data: data}, true
		}
		err = failure
	}
	l.cannotRead("a record", err)
	if errors.Is(err, envelope.ErrUnreadable) {
		l.goBehind(func() {
			_, _ = linkCall(l.life, l, func(ctx context.Context) (struct{}, error) {
				return struct{}{}, l.config.Store.Discard(ctx, r)
			})
		})
	}
	return sharedFact{}, false
}

func (l *sharedLink) cannotRead(what string, err error) {
	l.unreadable.Add(1)
	l.unreadableLog.Do(func() {
		l.config.Logger.Warn("polargate: the shared store holds something that cannot be read; it is ignored and counted. Is another program using the same keys, or another secret?", "what", what, "error", err)
	})
}

// sharedAsk is what a look-up came to.
type sharedAsk struct {
	Fact  sharedFact // if Known, also when it is older than asked
	Known bool
	Found bool // Fact is young enough
	// Claimed: the caller is to ask Polar. Its unit of the budget is taken.
	Claimed bool
	// Busy: another replica asks, and did not get its answer in time.
	Busy bool
	Turn SharedTurn // why the budget refused, if nothing else is set
}

// lookup looks for a record, and takes the claim to ask Polar if there is none that is
// young enough, in one round trip. While another replica has the claim it waits, until
// ctx ends or the claim does.
func (l *sharedLink) lookup(ctx context.Context, name sharedName, notBefore time.Time, keep int) (sharedAsk, error) {
	news := make(chan struct{}, 1)
	defer l.await(name.key, news)()
	budget := l.config.Budget
	budget.Keep = keep
	q := SharedLookup{
		Key: name.key, Also: name.also,
		Holder: l.config.Holder, ClaimFor: l.config.ClaimFor, Budget: budget,
	}
	if !notBefore.IsZero() {
		q.NotBefore = NewFactTime(notBefore)
	}
	for began := time.Now(); ; {
		answer, err := linkCall(ctx, l, func(ctx context.Context) (SharedAnswer, error) {
			return l.config.Store.Lookup(ctx, q)
		})
		if err != nil {
			return sharedAsk{}, err
		}
		ask := sharedAsk{Claimed: answer.Claimed, Busy: answer.Busy, Turn: answer.Turn}
		ask.Fact, ask.Known = l.openRecord(answer.Record)
		if answer.Found && !ask.Known {
			// Garbage, which is being removed. Whoever asks Polar now does no harm.
			q.NotBefore = FactTime(maxFactTime)
			if time.Since(began) > l.config.ClaimFor {
				return ask, nil
			}
			continue
		}
		ask.Found = answer.Found
		if !answer.Busy || time.Since(began) > l.config.ClaimFor {
			return ask, nil
		}
		pause := min(answer.Wait, pollClaim/2+mathrand.N(pollClaim))
		timer := time.NewTimer(max(pause, time.Millisecond))
		select {
		case <-news:
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return ask, nil
		}
		timer.Stop()
	}
}

// await has a channel told of hints about a key, until stop is called.
func (l *sharedLink) await(key string, news chan struct{}) (stop func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.waiting[key] == nil {
		l.waiting[key] = map[chan struct{}]struct{}{}
	}
	l.waiting[key][news] = struct{}{}
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		if delete(l.waiting[key], news); len(l.waiting[key]) == 0 {
			delete(l.waiting, key)
		}
	}
}

// get reads records, by all their names; of each thing the youngest that can be read.
func (l *sharedLink) get(ctx context.Context, names ...sharedName) (facts map[string]sharedFact, err error) {
	facts = make(map[string]sharedFact, len(names))
	first := map[string]string{}
	var keys []string
	for _, name := range names {
		for _, key := range append([]string{name.key}, name.also...) {
			first[key] = name.key
			keys = append(keys, key)
		}
	}
	for len(keys) > 0 {
		part := keys[:min(len(keys), linkBatch)]
		keys = keys[len(part):]
		records, err := linkCall(ctx, l, func(ctx context.Context) ([]SharedRecord, error) {
			return l.config.Store.Get(ctx, part...)
		})
		if err != nil {
			return facts, err
		}
		for _, record := range records {
			key := first[record.Key]
			if fact, ok := l.openRecord(record); ok && !fact.At.Before(facts[key].At) {
				facts[key] = fact
			}
		}
	}
	return facts, nil
}

// put seals facts and puts them, ends this replica's claims on them, and gives those that
// are younger instead. What cannot be put now is put when the store is back.
func (l *sharedLink) put(ctx context.Context, facts ...sharedFact) (younger []sharedFact, err error) {
	records := make([]SharedRecord, 0, len(facts))
	for _, fact := range facts {
		at := NewFactTime(fact.At)
		data, err := l.boxes[0].Seal(fact.Name.key, string(at), fact.Data)
		if err != nil { // it stays this replica's own, and others may ask for it
			l.lost.Add(1)
			l.tooLarge.Do(func() {
				l.config.Logger.Warn("polargate: what is known of a customer is too large to be shared: each replica asks Polar for it", "bytes", len(fact.Data), "most", envelope.MaxPlain, "error", err)
			})
			l.goBehind(func() { _ = l.release(l.life, fact.Name) })
			continue
		}
		records = append(records, SharedRecord{Key: fact.Name.key, At: at, Data: data, TTL: fact.TTL})
	}
	l.lost.Add(int64(l.kept.Add(resendable(records)...)))
	stayed, err := l.send(ctx, records)
	if err != nil {
		l.merge()
	}
	for _, record := range stayed {
		if fact, ok := l.openRecord(record); ok {
			younger = append(younger, fact)
		}
	}
	return younger, err
}

// send puts records that are kept.
func (l *sharedLink) send(ctx context.Context, records []SharedRecord) (younger []SharedRecord, err error) {
	for len(records) > 0 {
		part := records[:min(len(records), putBatch)]
		records = records[len(part):]
		stayed, err := linkCall(ctx, l, func(ctx context.Context) ([]SharedRecord, error) {
			return l.config.Store.Put(ctx, l.config.Holder, part...)
		})
		if err != nil {
			return younger, err
		}
		l.lost.Add(int64(l.kept.Sent(resendable(part)...)))
		younger = append(younger, stayed...)
	}
	return younger, nil
}

// resendable are records as package resend has them.
func resendable(records []SharedRecord) []resend.Record {
	all := make([]resend.Record, len(records))
	for i, r := range records {
		all[i] = resend.Record{Key: r.Key, At: string(r.At), Data: r.Data, TTL: r.TTL}
	}
	return all
}

// merge puts what is kept again, until it is put, and tells of what is younger in the
// store.
func (l *sharedLink) merge() {
	l.mu.Lock()
	l.again = true
	if l.merging {
		l.mu.Unlock()
		return
	}
	l.merging = true
	l.mu.Unlock()
	l.goBehind(func() {
		for {
			l.mu.Lock()
			if !l.again || l.life.Err() != nil {
				l.merging = false
				l.mu.Unlock()
				return
			}
			l.again = false
			l.mu.Unlock()
			var records []SharedRecord
			for _, r := range l.kept.All() {
				records = append(records, SharedRecord{Key: r.Key, At: FactTime(r.At), Data: r.Data, TTL: r.TTL})
			}
			younger, err := l.send(l.life, records)
			if err != nil && len(records) > 0 {
				pace.Sleep(l.life, mergeEvery/2+mathrand.N(mergeEvery))
				l.mu.Lock()
				l.again = true
				l.mu.Unlock()
				continue
			}
			var keys []string
			for _, record := range younger {
				keys = append(keys, record.Key)
			}
			if len(keys) > 0 {
				l.tell(keys, false)
			}
		}
	})
}

// release ends this replica's claims, for who got no answer.
func (l *sharedLink) release(ctx context.Context, names ...sharedName) error {
	keys := make([]string, len(names))
	for i, name := range names {
		keys[i] = name.key
	}
	_, err := linkCall(ctx, l, func(ctx context.Context) (struct{}, error) {
		return struct{}{}, l.config.Store.Release(ctx, l.config.Holder, keys...)
	})
	return err
}

// take takes units of the budget, and leaves as many for others.
func (l *sharedLink) take(ctx context.Context, units, keep int) (SharedTurn, error) {
	budget := l.config.Budget
	budget.Units, budget.Keep = units, keep
	return linkCall(ctx, l, func(ctx context.Context) (SharedTurn, error) {
		return l.config.Store.Take(ctx, budget)
	})
}

// pause has all replicas wait, because Polar asked for it.
func (l *sharedLink) pause(ctx context.Context, d time.Duration) error {
	_, err := linkCall(ctx, l, func(ctx context.Context) (struct{}, error) {
		return struct{}{}, l.config.Store.Pause(ctx, l.config.Budget.Name, min(d, maxPause))
	})
	return err
}

// share is this replica's part of n while the store is away: as if the replicas that
// were there last had the same.
func (l *sharedLink) share(n int) int {
	return max(n/int(max(l.replicas.Load(), 1)), 1)
}

// sharedState is a value, opened.
type sharedState struct {
	Version string
	Data    []byte
}

// openValue reads a value. One that cannot be read is as good as none, but for its
// version, which the next Swap has to name.
func (l *sharedLink) openValue(key string, v SharedValue) sharedState {
	if v.Version == "" {
		return sharedState{}
	}
	for _, box := range l.boxes {
		if data, err := box.Open("value "+key, "", v.Data); err == nil {
			return sharedState{v.Version, data}
		}
	}
	l.cannotRead("a value", envelope.ErrUnreadable)
	return sharedState{Version: v.Version}
}

// load reads a value. A value has one name, by the first secret: it is begun anew when
// the secret is replaced.
func (l *sharedLink) load(ctx context.Context, name sharedName) (sharedState, error) {
	value, err := linkCall(ctx, l, func(ctx context.Context) (SharedValue, error) {
		return l.config.Store.Load(ctx, name.key)
	})
	return l.openValue(name.key, value), err
}

// swap replaces a value if it is of that version still, and gives the one that is there.
func (l *sharedLink) swap(ctx context.Context, name sharedName, version string, data []byte, ttl time.Duration) (now sharedState, swapped bool, err error) {
	sealed := []byte(nil)
	if len(data) > 0 {
		if sealed, err = l.boxes[0].Seal("value "+name.key, "", data); err != nil {
			return sharedState{}, false, err
		}
	}
	type outcome struct {
		value   SharedValue
		swapped bool
	}
	o, err := linkCall(ctx, l, func(ctx context.Context) (o outcome, err error) {
		o.value, o.swapped, err = l.config.Store.Swap(ctx, name.key, version, sealed, ttl)
		return o, err
	})
	if err != nil {
		return sharedState{}, false, err
	}
	if o.swapped {
		return sharedState{o.value.Version, data}, true, nil
	}
	return l.openValue(name.key, o.value), false, nil
}

// listen has heard told of records that changed, and of gaps, also of the one after the
// store was away, until close. It must not be called after close.
func (l *sharedLink) listen(heard func(keys []string, gap bool)) {
	l.mu.Lock()
	l.heard = append(l.heard, heard)
	first := len(l.heard) == 1
	l.mu.Unlock()
	if !first {
		return
	}
	l.goBehind(func() {
		for l.life.Err() == nil {
			began := time.Now()
			err := l.listenOnce()
			if l.life.Err() != nil {
				return
			}
			l.isFault(err)
			if time.Since(began) < linkMaxPause {
				pace.Sleep(l.life, linkMaxPause/4+mathrand.N(linkMaxPause/2))
			}
		}
	})
	l.goBehind(func() {
		for {
			l.beat()
			if !pace.Sleep(l.life, beatEvery*9/10+mathrand.N(beatEvery/5)) {
				return
			}
		}
	})
}

func (l *sharedLink) listenOnce() (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = &breaker.PanicError{Value: p}
		}
	}()
	return l.config.Store.Listen(l.life, l.spread)
}

func (l *sharedLink) beat() {
	n, err := linkCall(l.life, l, func(ctx context.Context) (int, error) {
		return l.config.Store.Beat(ctx, l.config.Holder, beatLasts)
	})
	if err == nil {
		l.replicas.Store(int64(n))
	}
}

// spread hands on what was heard.
func (l *sharedLink) spread(keys []string, gap bool) {
	if gap {
		l.merge()
		if !l.isAway() && l.awayLogged.CompareAndSwap(true, false) { // only listening had failed
			l.config.Logger.Info("polargate: the shared store is back")
		}
	}
	l.tell(keys, gap)
}

func (l *sharedLink) tell(keys []string, gap bool) {
	l.mu.Lock()
	l.lastOne = time.Now()
	heard := l.heard
	if gap {
		for _, of := range l.waiting {
			wakeAll(of)
		}
	}
	for _, key := range keys {
		wakeAll(l.waiting[key])
	}
	l.mu.Unlock()
	for _, hear := range heard {
		hear(keys, gap)
	}
}

func wakeAll(waiting map[chan struct{}]struct{}) {
	for news := range waiting {
		select {
		case news <- struct{}{}:
		default:
		}
	}
}

// sharedLinkStats tell how the store is doing.
type sharedLinkStats struct {
	// Away is since when the store has been failing; zero if it is not.
	Away time.Time
	// Unreadable counts what was in the store and could not be read; Lost the records
	// that stay this replica's own: they are too large, or could not be put for so long
	// that they were given up.
	Unreadable, Lost int64
	// Waiting is how many records wait for the store to be back.
	Waiting int
	// Replicas is how many there were when that was last known.
	Replicas int
	// LastHint is when the store last told of a change, or of a gap.
	LastHint time.Time
}

func (l *sharedLink) stats() sharedLinkStats {
	s := sharedLinkStats{
		Away: l.breaker.Away(), Unreadable: l.unreadable.Load(), Lost: l.lost.Load(), Replicas: int(l.replicas.Load()), Waiting: l.kept.Unsent(),
	}
	if store, ok := l.config.Store.(interface{ Unreadable() int64 }); ok {
		s.Unreadable += store.Unreadable()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	s.LastHint = l.lastOne
	return s
}
