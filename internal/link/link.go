// Package link is a store that replicas share, as a server uses it. It bounds every call, and
// makes none while the store is away. It seals what it writes, and stores again what the store
// may have lost. It doesn't know what a record says.
package link

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

// Link is a store as Customers use it. It bounds every call, and makes none while the
// store is away. It seals records. It puts records again when the store is back: those that
// it could not put, and those that a server may have lost. It listens again whenever
// listening ends.
//
// If a method returns an error, the caller goes on as if there were no store.
type Link struct {
	Config  Config
	boxes   []*envelope.Box // the first seals, all open
	open    *envelope.Box   // makes names that do not depend on the secrets
	breaker breaker.Breaker
	kept    resend.List

	Life context.Context
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

// Config configures a Link.
type Config struct {
	Store Store
	// Mistake reports whether an error of the store is a mistake of the caller.
	Mistake func(error) bool
	// Purpose is what the records are about, such as an organization's id.
	Purpose string
	// Secrets seal the records. The first one seals what is written; each of them opens
	// what is read. Without any, the secret is one that everybody knows.
	Secrets []string
	// Budget is what requests are taken from.
	Budget Budget
	// ClaimFor is how long the claim of a replica lasts that has died. 0 means 10 seconds.
	ClaimFor time.Duration
	// Bound is how long a call waits for the store. 0 means 300 milliseconds.
	Bound  time.Duration
	Logger *slog.Logger
	// Holder names the replica. Empty means a random name, which is best.
	Holder string
}

const (
	// bound is how long a call waits for the store by default.
	bound = 300 * time.Millisecond
	// maxPause is the longest pause after the store has failed.
	maxPause = 2 * time.Second
	// ClaimFor outlasts a request to Polar with one retry.
	ClaimFor = 10 * time.Second
	// pollClaim is how often to look for a record that another replica has claimed, in
	// case no hint comes.
	pollClaim = 200 * time.Millisecond
	// safeAfter is how long a record can still be lost after it was put, because the server
	// fails before it has copied it.
	safeAfter = 30 * time.Second
	// maxKept bounds the memory for records that are to be put again, in bytes.
	maxKept = 32 << 20
	// beatEvery is how often a replica says that it is there, and beatLasts how long that
	// counts.
	beatEvery = 10 * time.Second
	beatLasts = 35 * time.Second
	// mergeEvery is the pause before records that could not be put are tried again.
	mergeEvery = 500 * time.Millisecond
	// Batch is how many records are read by one call at most, and PutBatch how many are
	// put: few enough for a slow disk.
	Batch, PutBatch = 500, 100
)

// Name is the name of a record or a value in the store: that by the first secret, and
// those by the others.
type Name struct {
	Key  string
	also []string
}

// Fact is an opened record.
type Fact struct {
	Name Name // only its key, in one that was read
	At   time.Time
	Data []byte
	TTL  time.Duration
}

// New makes a link. Nothing is sent before its first use; close ends it.
func New(config Config) (*Link, error) {
	if config.ClaimFor == 0 {
		config.ClaimFor = ClaimFor
	}
	if config.Bound == 0 {
		config.Bound = bound
	}
	if config.Holder == "" {
		config.Holder = rand.Text()
	}
	if len(config.Secrets) == 0 {
		config.Secrets = []string{""}
	}
	config.Logger = logs.Recovering(config.Logger)
	l := &Link{
		Config:  config,
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
	l.Life, l.end = context.WithCancel(context.Background())
	l.breaker = breaker.Breaker{Bound: config.Bound, MaxPause: maxPause, Fault: l.isFault, Back: l.back}
	l.replicas.Store(1)
	return l, nil
}

// Close ends listening, and waits for what is under way.
func (l *Link) Close() {
	l.end()
	l.work.Wait()
}

// GoBehind starts work in the background, which close waits for.
func (l *Link) GoBehind(do func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.Life.Err() == nil {
		l.work.Go(do)
	}
}

// isFault reports whether an error shows that the store is failing. A mistake of the caller
// doesn't show that.
func (l *Link) isFault(err error) bool {
	if l.Config.Mistake != nil && l.Config.Mistake(err) {
		return false
	}
	if l.awayLogged.CompareAndSwap(false, true) {
		l.Config.Logger.Warn("polargate: the shared store is away; this replica goes on with its memory and Polar until it is back", "error", err)
	}
	return true
}

// back is called when the store works again.
func (l *Link) back() {
	if l.awayLogged.CompareAndSwap(true, false) {
		l.Config.Logger.Info("polargate: the shared store is back")
	}
	l.spread(nil, true)
}

// doCall makes a call to the store.
func doCall[T any](ctx context.Context, l *Link, call func(context.Context) (T, error)) (T, error) {
	if err := l.Life.Err(); err != nil {
		var none T
		return none, err
	}
	return breaker.Do(ctx, &l.breaker, call)
}

// Name is the name of what has that kind and id.
func (l *Link) Name(kind, id string) Name {
	name := Name{Key: l.boxes[0].Name(kind, id)}
	for _, box := range l.boxes[1:] {
		name.also = append(name.also, box.Name(kind, id))
	}
	return name
}

// OpenName is a name that doesn't depend on the secrets. It is for what isn't secret, and
// needs the same name on all replicas while secrets are replaced.
func (l *Link) OpenName(kind, id string) Name {
	return Name{Key: l.open.Name(kind, id)}
}

// IsAway reports whether the store is failing.
func (l *Link) IsAway() bool { return !l.breaker.Away().IsZero() }

// AwayFor is for how long the store has been failing.
func (l *Link) AwayFor() time.Duration {
	since := l.breaker.Away()
	if since.IsZero() {
		return 0
	}
	return time.Since(since)
}

// Hint tells all replicas that something under this name is new.
func (l *Link) Hint(ctx context.Context, name Name) {
	_, _ = doCall(ctx, l, func(ctx context.Context) (struct{}, error) {
		return struct{}{}, l.Config.Store.Hint(ctx, name.Key)
	})
}

// openRecord opens a record. If that fails, the record is counted and removed. Otherwise its
// time could keep younger records from being stored.
func (l *Link) openRecord(r Record) (Fact, bool) {
	if r.Key == "" {
		return Fact{}, false
	}
	err := envelope.ErrUnreadable
	for _, box := range l.boxes {
		data, failure := box.Open(r.Key, string(r.At), r.Data)
		if failure == nil {
			return Fact{Name: Name{Key: r.Key}, At: r.At.Time(), Data: data}, true
		}
		err = failure
	}
	l.CannotRead("a record", err)
	if errors.Is(err, envelope.ErrUnreadable) {
		l.GoBehind(func() {
			_, _ = doCall(l.Life, l, func(ctx context.Context) (struct{}, error) {
				return struct{}{}, l.Config.Store.Discard(ctx, r)
			})
		})
	}
	return Fact{}, false
}

func (l *Link) CannotRead(what string, err error) {
	l.unreadable.Add(1)
	l.unreadableLog.Do(func() {
		l.Config.Logger.Warn("polargate: the shared store holds something that cannot be read; it is ignored and counted. Is another program using the same keys, or another secret?", "what", what, "error", err)
	})
}

// Ask is the result of a look-up.
type Ask struct {
	Fact  Fact // if Known, also when it is older than asked
	Known bool
	Found bool // Fact is young enough
	// Claimed: the caller is to ask Polar. Its unit of the budget is taken.
	Claimed bool
	// Busy: another replica asks, and did not get its answer in time.
	Busy bool
	Turn Turn // why the budget refused, if nothing else is set
}

// Lookup looks for a record that is young enough. If there is none, it takes the claim to ask
// Polar, in the same round trip. If another replica has the claim, lookup waits for its record
// until ctx or the claim ends.
func (l *Link) Lookup(ctx context.Context, name Name, notBefore time.Time, keep int) (Ask, error) {
	news := make(chan struct{}, 1)
	defer l.await(name.Key, news)()
	budget := l.Config.Budget
	budget.Keep = keep
	q := Lookup{
		Key: name.Key, Also: name.also,
		Holder: l.Config.Holder, ClaimFor: l.Config.ClaimFor, Budget: budget,
	}
	if !notBefore.IsZero() {
		q.NotBefore = NewTime(notBefore)
	}
	for began := time.Now(); ; {
		answer, err := doCall(ctx, l, func(ctx context.Context) (Answer, error) {
			return l.Config.Store.Lookup(ctx, q)
		})
		if err != nil {
			return Ask{}, err
		}
		ask := Ask{Claimed: answer.Claimed, Busy: answer.Busy, Turn: answer.Turn}
		ask.Fact, ask.Known = l.openRecord(answer.Record)
		if answer.Found && !ask.Known {
			// Garbage, which is being removed. Whoever asks Polar now does no harm.
			q.NotBefore = Latest
			if time.Since(began) > l.Config.ClaimFor {
				return ask, nil
			}
			continue
		}
		ask.Found = answer.Found
		if !answer.Busy || time.Since(began) > l.Config.ClaimFor {
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

// await sends to a channel when a hint about a key comes, until stop is called.
func (l *Link) await(key string, news chan struct{}) (stop func()) {
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

// Get reads the youngest readable record under each name. The result is keyed by the name
// that the first secret gives.
func (l *Link) Get(ctx context.Context, names ...Name) (facts map[string]Fact, err error) {
	facts = make(map[string]Fact, len(names))
	first := map[string]string{}
	var keys []string
	for _, name := range names {
		for _, key := range append([]string{name.Key}, name.also...) {
			first[key] = name.Key
			keys = append(keys, key)
		}
	}
	for len(keys) > 0 {
		part := keys[:min(len(keys), Batch)]
		keys = keys[len(part):]
		records, err := doCall(ctx, l, func(ctx context.Context) ([]Record, error) {
			return l.Config.Store.Get(ctx, part...)
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

// Put seals facts, stores them, and ends this replica's claims on them. It returns the facts
// in the store that are younger. Facts that can't be put now are put when the store is back.
func (l *Link) Put(ctx context.Context, facts ...Fact) (younger []Fact, err error) {
	records := make([]Record, 0, len(facts))
	for _, fact := range facts {
		at := NewTime(fact.At)
		data, err := l.boxes[0].Seal(fact.Name.Key, string(at), fact.Data)
		if err != nil { // it stays this replica's own, and others may ask for it
			l.lost.Add(1)
			l.tooLarge.Do(func() {
				l.Config.Logger.Warn("polargate: what is known of a customer is too large to be shared: each replica asks Polar for it", "bytes", len(fact.Data), "most", envelope.MaxPlain, "error", err)
			})
			l.GoBehind(func() { _ = l.Release(l.Life, fact.Name) })
			continue
		}
		records = append(records, Record{Key: fact.Name.Key, At: at, Data: data, TTL: fact.TTL})
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

// send puts records in small batches.
func (l *Link) send(ctx context.Context, records []Record) (younger []Record, err error) {
	for len(records) > 0 {
		part := records[:min(len(records), PutBatch)]
		records = records[len(part):]
		stayed, err := doCall(ctx, l, func(ctx context.Context) ([]Record, error) {
			return l.Config.Store.Put(ctx, l.Config.Holder, part...)
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
func resendable(records []Record) []resend.Record {
	all := make([]resend.Record, len(records))
	for i, r := range records {
		all[i] = resend.Record{Key: r.Key, At: string(r.At), Data: r.Data, TTL: r.TTL}
	}
	return all
}

// merge puts all kept records again until that works. It tells listeners about records in the
// store that are younger.
func (l *Link) merge() {
	l.mu.Lock()
	l.again = true
	if l.merging {
		l.mu.Unlock()
		return
	}
	l.merging = true
	l.mu.Unlock()
	l.GoBehind(func() {
		for {
			l.mu.Lock()
			if !l.again || l.Life.Err() != nil {
				l.merging = false
				l.mu.Unlock()
				return
			}
			l.again = false
			l.mu.Unlock()
			var records []Record
			for _, r := range l.kept.All() {
				records = append(records, Record{Key: r.Key, At: Time(r.At), Data: r.Data, TTL: r.TTL})
			}
			younger, err := l.send(l.Life, records)
			if err != nil && len(records) > 0 {
				pace.Sleep(l.Life, mergeEvery/2+mathrand.N(mergeEvery))
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

// Release ends this replica's claims, because it got no answer from Polar.
func (l *Link) Release(ctx context.Context, names ...Name) error {
	keys := make([]string, len(names))
	for i, name := range names {
		keys[i] = name.Key
	}
	_, err := doCall(ctx, l, func(ctx context.Context) (struct{}, error) {
		return struct{}{}, l.Config.Store.Release(ctx, l.Config.Holder, keys...)
	})
	return err
}

// Take takes units of the budget, if at least keep are left for others.
func (l *Link) Take(ctx context.Context, units, keep int) (Turn, error) {
	budget := l.Config.Budget
	budget.Units, budget.Keep = units, keep
	return doCall(ctx, l, func(ctx context.Context) (Turn, error) {
		return l.Config.Store.Take(ctx, budget)
	})
}

// Pause makes all replicas wait, because Polar asked for it.
func (l *Link) Pause(ctx context.Context, d time.Duration) error {
	_, err := doCall(ctx, l, func(ctx context.Context) (struct{}, error) {
		return struct{}{}, l.Config.Store.Pause(ctx, l.Config.Budget.Name, min(d, pace.MaxPause))
	})
	return err
}

// Share is this replica's part of n while the store is away: an equal part for each replica
// that was there last.
func (l *Link) Share(n int) int {
	return max(n/int(max(l.replicas.Load(), 1)), 1)
}

// State is an opened value.
type State struct {
	Version string
	Data    []byte
}

// openValue opens a value. One that can't be opened counts as none, but its version is kept:
// the next Swap has to name it.
func (l *Link) openValue(key string, v Value) State {
	if v.Version == "" {
		return State{}
	}
	for _, box := range l.boxes {
		if data, err := box.Open("value "+key, "", v.Data); err == nil {
			return State{v.Version, data}
		}
	}
	l.CannotRead("a value", envelope.ErrUnreadable)
	return State{Version: v.Version}
}

// Load reads a value. Its name is the one by the first secret, so values start again when
// the secret is replaced.
func (l *Link) Load(ctx context.Context, name Name) (State, error) {
	value, err := doCall(ctx, l, func(ctx context.Context) (Value, error) {
		return l.Config.Store.Load(ctx, name.Key)
	})
	return l.openValue(name.Key, value), err
}

// Swap replaces a value if it still has that version. It returns the value that is there
// afterwards.
func (l *Link) Swap(ctx context.Context, name Name, version string, data []byte, ttl time.Duration) (now State, swapped bool, err error) {
	sealed := []byte(nil)
	if len(data) > 0 {
		if sealed, err = l.boxes[0].Seal("value "+name.Key, "", data); err != nil {
			return State{}, false, err
		}
	}
	type outcome struct {
		value   Value
		swapped bool
	}
	o, err := doCall(ctx, l, func(ctx context.Context) (o outcome, err error) {
		o.value, o.swapped, err = l.Config.Store.Swap(ctx, name.Key, version, sealed, ttl)
		return o, err
	})
	if err != nil {
		return State{}, false, err
	}
	if o.swapped {
		return State{o.value.Version, data}, true, nil
	}
	return l.openValue(name.Key, o.value), false, nil
}

// Listen calls heard with the keys of records that changed, and with gaps, until close. There
// is a gap after the store was away, too. It must not be called after close.
func (l *Link) Listen(heard func(keys []string, gap bool)) {
	l.mu.Lock()
	l.heard = append(l.heard, heard)
	first := len(l.heard) == 1
	l.mu.Unlock()
	if !first {
		return
	}
	l.GoBehind(func() {
		for l.Life.Err() == nil {
			began := time.Now()
			err := l.listenOnce()
			if l.Life.Err() != nil {
				return
			}
			l.isFault(err)
			if time.Since(began) < maxPause {
				pace.Sleep(l.Life, maxPause/4+mathrand.N(maxPause/2))
			}
		}
	})
	l.GoBehind(func() {
		for {
			l.beat()
			if !pace.Sleep(l.Life, beatEvery*9/10+mathrand.N(beatEvery/5)) {
				return
			}
		}
	})
}

func (l *Link) listenOnce() (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = &breaker.PanicError{Value: p}
		}
	}()
	return l.Config.Store.Listen(l.Life, l.spread)
}

func (l *Link) beat() {
	n, err := doCall(l.Life, l, func(ctx context.Context) (int, error) {
		return l.Config.Store.Beat(ctx, l.Config.Holder, beatLasts)
	})
	if err == nil {
		l.replicas.Store(int64(n))
	}
}

// spread passes on what the store told.
func (l *Link) spread(keys []string, gap bool) {
	if gap {
		l.merge()
		if !l.IsAway() && l.awayLogged.CompareAndSwap(true, false) { // only listening had failed
			l.Config.Logger.Info("polargate: the shared store is back")
		}
	}
	l.tell(keys, gap)
}

func (l *Link) tell(keys []string, gap bool) {
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

// Stats tell how the store is doing.
type Stats struct {
	// Away is since when the store has been failing; zero if it is not.
	Away time.Time
	// Unreadable counts what was in the store and could not be read. Lost counts records
	// that other replicas never get: they are too large, or there was no room to keep them
	// until the store is back.
	Unreadable, Lost int64
	// Waiting is how many records wait for the store to be back.
	Waiting int
	// Replicas is the last known number of replicas.
	Replicas int
	// LastHint is when the store last told of a change, or of a gap.
	LastHint time.Time
}

func (l *Link) Stats() Stats {
	s := Stats{
		Away: l.breaker.Away(), Unreadable: l.unreadable.Load(), Lost: l.lost.Load(), Replicas: int(l.replicas.Load()), Waiting: l.kept.Unsent(),
	}
	if store, ok := l.Config.Store.(interface{ Unreadable() int64 }); ok {
		s.Unreadable += store.Unreadable()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	s.LastHint = l.lastOne
	return s
}
