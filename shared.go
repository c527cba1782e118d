package polargate

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/polargate/polargate/internal/hints"
	"github.com/polargate/polargate/internal/sharedlog"
)

// A Shared is a cache of what Polar said, for the replicas of one program; see
// CustomersConfig.Shared. It may be emptied, or lose its last moments, at any time: then Polar
// is asked again. What it must never do is to mix things up. Each method that is called
// atomic takes effect as a whole, between all others, or not at all, whichever replica calls
// it.
//
// Times: what ends by itself ends by the store's clock, or by that of the one computer
// that all callers run on. Replicas' clocks may differ by minutes; nothing depends on
// them. Polar's times come as FactTime and are only compared with each other.
//
// Bounds that callers keep, so that an implementation need not check: a key, a name or
// a holder is 1 to 200 bytes of printable ASCII without spaces; Data is at most 64 KiB;
// one call has at most 1,000 keys or records; a duration is between a millisecond and a
// year. Keys of records, of values and names of budgets are apart: the same text names
// three different things.
//
// Errors: any error but that of ctx means that the store is away. It proves nothing: what
// was to be written may be written or not. An implementation returns soon after ctx
// ends, repeats nothing by itself, and does not wait for a lock that another replica may
// hold for longer. What it cannot read, for instance another program's data under its
// keys, it takes as absent and may overwrite; it never returns an error for that.
//
// All methods are safe for use by many goroutines. What they are given and what they
// return is not changed by either side afterwards.
type Shared interface {
	// Lookup is the one round trip for a customer who is not in memory. It finds the
	// youngest record under the keys. If that is missing or older than asked, it takes
	// the claim to ask Polar, and with it a unit of the budget: both or none. Atomic.
	Lookup(ctx context.Context, q SharedLookup) (SharedAnswer, error)

	// Get reads records without claiming anything. Those that there are come in the
	// order of the keys, those that are missing are left out. What another replica put
	// before, and was told so, is seen.
	Get(ctx context.Context, keys ...string) ([]SharedRecord, error)

	// Put stores records, each for its TTL, where nothing younger is stored, and ends
	// the claims of holder on their keys, where it has them. Atomic for each record, not
	// for all of them.
	//
	// Younger is decided by At and never by arrival; of the same At, by the bytes of
	// Data, so that all replicas agree in the end: the greater by bytes.Compare stays. A
	// record that is stored already is stored for another TTL, and nothing else changes.
	//
	// It returns the records that stay in place of those given, since they are
	// younger. The keys of records that changed are told to all who listen.
	Put(ctx context.Context, holder string, records ...SharedRecord) (younger []SharedRecord, err error)

	// Discard removes records that cannot be read, each if it is still the same, At and
	// Data. Nobody is told.
	Discard(ctx context.Context, records ...SharedRecord) error

	// Release ends the claims of holder on keys, where it has them, and leaves all
	// others as they are.
	Release(ctx context.Context, holder string, keys ...string) error

	// Take takes units of a budget, for requests to Polar that are about no record.
	// Atomic.
	Take(ctx context.Context, b SharedBudget) (SharedTurn, error)

	// Pause refuses units of a budget to everybody for a time, because Polar asked for
	// it. It never shortens a pause that is under way.
	Pause(ctx context.Context, budget string, d time.Duration) error

	// Beat notes that a replica is there for the next ttl, and counts those that are,
	// itself included.
	Beat(ctx context.Context, replica string, ttl time.Duration) (replicas int, err error)

	// Load reads a value; the zero SharedValue if there is none.
	Load(ctx context.Context, key string) (SharedValue, error)

	// Swap replaces a value, for ttl, if its version is the one given, where "" means
	// that there is none; without data it removes it. Atomic. It returns the value that is
	// there afterwards, and whether it was swapped: if not, that is another's, and the
	// caller can decide anew and try again. A version is never used twice.
	Swap(ctx context.Context, key, version string, data []byte, ttl time.Duration) (now SharedValue, swapped bool, err error)

	// Hint tells all who listen that something under these keys changed, without
	// changing anything. Put does so by itself.
	Hint(ctx context.Context, keys ...string) error

	// Listen calls heard with keys that changed, from its own goroutine or the
	// caller's, one call after the other, until ctx ends or it can listen no more, and
	// returns why. Hints may be lost or come twice, and one's own come too. A gap means that some may
	// have been missed, so that everything in memory is to be checked: it is told first
	// when listening begins, and again whenever a connection was lost meanwhile.
	//
	// A heard that takes its time slows nobody down. Keys are collected for it meanwhile,
	// each once, and if there are too many of them they become a gap; none is dropped.
	Listen(ctx context.Context, heard func(keys []string, gap bool)) error
}

// FactTime is a time by Polar's clock: nanoseconds since 1970 as 19 decimal digits, so
// that texts compare as their times do, in every language and store. A number of that
// size is not exact where numbers are floats, as in Redis' scripts.
type FactTime string

// NewFactTime writes a time as a FactTime. Times before 1970, and the zero time, are all
// zeros, which is older than any fact; times after 2262 are its last moment.
func NewFactTime(t time.Time) FactTime {
	n := t.UnixNano()
	switch year := t.UTC().Year(); {
	case year < 1970:
		n = 0
	case year > 2261:
		n = math.MaxInt64
	}
	return FactTime(fmt.Sprintf("%019d", n))
}

// Time reads it; the zero time if it is not valid.
func (t FactTime) Time() time.Time {
	if !t.Valid() {
		return time.Time{}
	}
	var n uint64
	for _, digit := range []byte(t) {
		n = 10*n + uint64(digit-'0')
	}
	return time.Unix(0, int64(n)).UTC()
}

// maxFactTime is the last moment of a FactTime.
const maxFactTime = "9223372036854775807"

// Valid reports whether it is 19 digits, and no later than its last moment, as another
// program's number may be.
func (t FactTime) Valid() bool {
	if len(t) != len(maxFactTime) || t > maxFactTime {
		return false
	}
	for _, c := range []byte(t) {
		if c < '0' || c > '9' {
			return false
		}
	}
	return true
}

// SharedRecord is what is known about a customer or a license key, as of a time.
type SharedRecord struct {
	// Key tells nothing of whom the record is about.
	Key string
	// At is when Polar says that this was so.
	At FactTime
	// Data is sealed, and of no meaning to the store.
	Data []byte
	// TTL is for how long to keep it. It has no meaning in a record that was read.
	TTL time.Duration
}

// SharedLookup asks for a record, or for leave to ask Polar for it.
type SharedLookup struct {
	// Key is the record's, and the claim's.
	Key string
	// Also are further keys under which a record may be, as while a secret is replaced.
	Also []string
	// NotBefore is how old a record may be that is good enough; empty means that any is.
	NotBefore FactTime
	// Holder names the replica. ClaimFor is when its claim ends by itself: longer than a
	// request takes, for then another replica asks as well.
	Holder   string
	ClaimFor time.Duration
	// Budget is what the request is taken from; with a Limit of 0, from none. A Holder
	// that asks again while it holds the claim takes another unit.
	Budget SharedBudget
}

// SharedAnswer is what a Lookup came to.
type SharedAnswer struct {
	// Record is the youngest there is, even if it is older than asked; without a key if
	// there is none.
	Record SharedRecord
	// Found: Record is good enough. Nothing was taken.
	Found bool
	// Claimed: the caller is to ask Polar, and to Put the answer or Release the claim.
	Claimed bool
	// Busy: another replica is asking, and its claim ends by itself after Wait. Nothing
	// was taken.
	Busy bool
	Wait time.Duration
	// Turn is what the budget says, if it was asked. Without any of Found, Claimed and
	// Busy, it is the budget that refused.
	Turn SharedTurn
}

// SharedBudget bounds how many requests all replicas send.
type SharedBudget struct {
	// Name names the budget. Those of one name share it, even if their Limits differ.
	Name string
	// Limit is how many units there are in any Window, wherever it begins. No more than
	// that are ever granted; up to a sixtieth of a window may pass before one that is
	// free again is granted. All who share a budget use the same Window.
	Limit  int
	Window time.Duration
	// Units is how many to take; 0 means 1.
	Units int
	// Keep is how many must be left afterwards, for requests that matter more.
	Keep int
}

// SharedTurn is what a budget says.
type SharedTurn struct {
	// Taken: the units are the caller's.
	Taken bool
	// Left is how many can still be taken in this moment, by who keeps none.
	Left int
	// Wait is how long it takes until it is worth asking again, if they were not taken;
	// Paused says that it is for a pause that Polar asked for.
	Wait   time.Duration
	Paused bool
}

// SharedValue is a small value that replicas change in turn.
type SharedValue struct {
	// Version is another with each change; empty if there is no value.
	Version string
	Data    []byte
}

// SharedFile is a Shared in the file of that path, for one computer: what is known
// outlasts a restart, and several processes share it. The file is made, for this user
// alone, when something is stored; beside it is path.lock, and while it is written anew
// a temporary file. An empty path is an error of every call.
//
// A process that is killed at any moment loses nothing that it was told is stored, and
// harms nothing that others stored. After a power failure the last moments may be
// missing. A file that was damaged is read as far as it can be; one that is something
// else is put aside as path.corrupt. The file grows to about twice what is in it.
//
// Files on network drives are not for this: use Redis where replicas run on several
// computers. Where the system has no file locks (js, wasip1, plan9) only one process can
// use the file.
func SharedFile(path string) Shared {
	s := &localShared{log: sharedlog.Open(path), pathless: path == ""}
	return s.connected()
}

// SharedInMemory is a Shared that ends with the process, for tests: replicas that are to
// share it get the same one.
func SharedInMemory() Shared {
	s := &localShared{log: sharedlog.InMemory()}
	return s.connected()
}

// localShared is a Shared on one computer.
type localShared struct {
	log      *sharedlog.Log
	pathless bool

	mu        sync.Mutex
	listeners map[*hints.Queue]struct{}
}

// Kinds of items in the log.
const (
	kindRecord = 'r' // Head is the time of the fact
	kindClaim  = 'c' // Head is the holder
	kindUnits  = 'u' // of a budget in one part of its window; Head is which part and how many
	kindPause  = 'p'
	kindBeat   = 'b'
	kindValue  = 'v' // Head is the version
	kindHint   = 'h'
)

const (
	// windowParts is into how many parts a budget's window is divided.
	windowParts = 60
	// clockBack is how far this computer's clock may be set back without a thing that
	// was begun since being taken for one of a clock that was wrong.
	clockBack = time.Second
	// hintPoll is how often other processes' changes are looked for.
	hintPoll = 20 * time.Millisecond
)

func (s *localShared) connected() *localShared {
	s.listeners = map[*hints.Queue]struct{}{}
	s.log.Changed = func(kind byte, key string) {
		if kind == kindRecord || kind == kindHint {
			s.tell(func(q *hints.Queue) { q.Add(key) })
		}
	}
	s.log.Missed = func() { s.tell((*hints.Queue).Gap) }
	return s
}

func (s *localShared) tell(what func(*hints.Queue)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for q := range s.listeners {
		what(q)
	}
}

// Unreadable is how many bytes of the file could not be read and were skipped.
func (s *localShared) Unreadable() int64 { return s.log.Unreadable() }

func (s *localShared) view(ctx context.Context, look func(*sharedlog.Tx)) error {
	if s.pathless {
		return &InputError{"SharedFile", "has an empty path: give the path of a file"}
	}
	return s.log.View(ctx, func(tx *sharedlog.Tx) error { look(tx); return nil })
}

func (s *localShared) update(ctx context.Context, change func(*sharedlog.Tx)) error {
	if s.pathless {
		return s.view(ctx, nil)
	}
	return s.log.Update(ctx, func(tx *sharedlog.Tx) error { change(tx); return nil })
}

func readRecord(tx *sharedlog.Tx, key string) (SharedRecord, bool) {
	item, ok := tx.Read(kindRecord, key)
	at := FactTime(item.Head)
	if !ok || !at.Valid() {
		return SharedRecord{}, false
	}
	return SharedRecord{Key: key, At: at, Data: item.Data}, true
}

// compareRecords orders the facts about one customer. It is negative if a is older.
func compareRecords(a, b SharedRecord) int {
	if order := strings.Compare(string(a.At), string(b.At)); order != 0 {
		return order
	}
	return bytes.Compare(a.Data, b.Data)
}

// lookup is what can be answered without taking anything.
func (q SharedLookup) answerFrom(tx *sharedlog.Tx) (a SharedAnswer) {
	for _, key := range append([]string{q.Key}, q.Also...) {
		if record, ok := readRecord(tx, key); ok && (a.Record.Key == "" || compareRecords(a.Record, record) < 0) {
			a.Record = record
		}
	}
	a.Found = a.Record.Key != "" && a.Record.At >= q.NotBefore
	return a
}

func (s *localShared) Lookup(ctx context.Context, q SharedLookup) (a SharedAnswer, err error) {
	// Most find what they look for, and keep nobody from writing.
	err = s.view(ctx, func(tx *sharedlog.Tx) { a = q.answerFrom(tx) })
	if err != nil || a.Found {
		return a, err
	}
	err = s.update(ctx, func(tx *sharedlog.Tx) {
		if a = q.answerFrom(tx); a.Found {
			return
		}
		if claim, ok := running(tx, kindClaim, q.Key); ok && claim.Head != q.Holder {
			a.Busy, a.Wait = true, time.Duration(claim.Until-tx.Now)
			return
		}
		if q.Budget.Limit > 0 {
			if a.Turn = take(tx, q.Budget); !a.Turn.Taken {
				return
			}
		}
		tx.Put(kindClaim, q.Key, lasting(tx, q.Holder, q.ClaimFor))
		a.Claimed = true
	})
	return a, err
}

func lasting(tx *sharedlog.Tx, head string, d time.Duration) sharedlog.Item {
	return sharedlog.Item{At: tx.Now, Until: tx.Now + int64(d), Head: head}
}

// running is an item that ends by itself, if it has not. One that begins in the future
// is of a clock that was set back since, and would not end for long.
func running(tx *sharedlog.Tx, kind byte, key string) (sharedlog.Item, bool) {
	item, ok := tx.Peek(kind, key)
	return item, ok && item.At <= tx.Now+int64(clockBack)
}

func (s *localShared) Get(ctx context.Context, keys ...string) (records []SharedRecord, err error) {
	err = s.view(ctx, func(tx *sharedlog.Tx) {
		for _, key := range keys {
			if record, ok := readRecord(tx, key); ok {
				records = append(records, record)
			}
		}
	})
	return records, err
}

func (s *localShared) Put(ctx context.Context, holder string, records ...SharedRecord) (younger []SharedRecord, err error) {
	err = s.update(ctx, func(tx *sharedlog.Tx) {
		for _, record := range records {
			stored, ok := readRecord(tx, record.Key)
			order := 1
			if ok {
				order = compareRecords(record, stored)
			}
			switch {
			case order > 0, order == 0 && endsLater(tx, record):
				item := lasting(tx, string(record.At), record.TTL)
				item.Data = record.Data
				tx.Put(kindRecord, record.Key, item)
			case order < 0:
				younger = append(younger, stored)
			}
			endClaim(tx, holder, record.Key)
		}
	})
	return younger, err
}

// endsLater reports whether it is worth storing a record again for the sake of its TTL:
// not for less than a sixteenth of it, so that what is put again and again costs nothing.
func endsLater(tx *sharedlog.Tx, record SharedRecord) bool {
	item, _ := tx.Peek(kindRecord, record.Key)
	return time.Duration(tx.Now-item.Until)+record.TTL > record.TTL/16
}

func endClaim(tx *sharedlog.Tx, holder, key string) {
	if claim, ok := tx.Peek(kindClaim, key); ok && claim.Head == holder {
		tx.Remove(kindClaim, key)
	}
}

func (s *localShared) Discard(ctx context.Context, records ...SharedRecord) error {
	return s.update(ctx, func(tx *sharedlog.Tx) {
		for _, record := range records {
			if stored, ok := readRecord(tx, record.Key); ok && compareRecords(stored, record) == 0 {
				tx.Remove(kindRecord, record.Key)
			}
		}
	})
}

func (s *localShared) Release(ctx context.Context, holder string, keys ...string) error {
	return s.update(ctx, func(tx *sharedlog.Tx) {
		for _, key := range keys {
			endClaim(tx, holder, key)
		}
	})
}

func (s *localShared) Take(ctx context.Context, b SharedBudget) (turn SharedTurn, err error) {
	err = s.update(ctx, func(tx *sharedlog.Tx) { turn = take(tx, b) })
	return turn, err
}

// take counts units by the part of the window in which they were taken, in a ring of
// one part more than a window has: any window lies within that many.
func take(tx *sharedlog.Tx, b SharedBudget) SharedTurn {
	if pause, ok := running(tx, kindPause, b.Name); ok {
		return SharedTurn{Wait: time.Duration(pause.Until - tx.Now), Paused: true}
	}
	units := max(b.Units, 1)
	length := max(int64(b.Window)/windowParts, 1)
	part := tx.Now / length
	slot := func(part int64) string { return b.Name + "/" + strconv.FormatInt(part%(windowParts+1), 10) }
	// Parts of the future are of a clock that was set back, and count for as long.
	counts, used := map[int64]int{}, 0
	for i := range int64(windowParts + 1) {
		item, ok := tx.Peek(kindUnits, slot(i))
		at, count, split := strings.Cut(item.Head, " ")
		if !ok || !split {
			continue
		}
		when, err1 := strconv.ParseInt(at, 10, 64)
		n, err2 := strconv.Atoi(count)
		if err1 == nil && err2 == nil && n > 0 && part-windowParts <= when && when <= part+windowParts {
			counts[when] = n
			used += n
		}
	}
	if free := b.Limit - used; free-units-b.Keep < 0 {
		turn := SharedTurn{Left: max(free, 0), Wait: b.Window}
		parts := make([]int64, 0, len(counts))
		for when := range counts {
			parts = append(parts, when)
		}
		slices.Sort(parts)
		for _, when := range parts {
			if free += counts[when]; free-units-b.Keep >= 0 {
				turn.Wait = time.Duration((when+windowParts+1)*length - tx.Now)
				break
			}
		}
		return turn
	}
	head := strconv.FormatInt(part, 10) + " " + strconv.Itoa(counts[part]+units)
	tx.Put(kindUnits, slot(part), lasting(tx, head, 3*b.Window))
	return SharedTurn{Taken: true, Left: b.Limit - used - units}
}

func (s *localShared) Pause(ctx context.Context, budget string, d time.Duration) error {
	return s.update(ctx, func(tx *sharedlog.Tx) {
		if pause, ok := running(tx, kindPause, budget); !ok || pause.Until < tx.Now+int64(d) {
			tx.Put(kindPause, budget, lasting(tx, "", d))
		}
	})
}

func (s *localShared) Beat(ctx context.Context, replica string, ttl time.Duration) (replicas int, err error) {
	err = s.update(ctx, func(tx *sharedlog.Tx) {
		tx.Put(kindBeat, replica, lasting(tx, "", ttl))
		replicas = 1
		tx.Each(kindBeat, func(name string, item sharedlog.Item) {
			if name != replica && item.At <= tx.Now+int64(clockBack) {
				replicas++
			}
		})
	})
	return replicas, err
}

func readValue(tx *sharedlog.Tx, key string) SharedValue {
	item, ok := tx.Read(kindValue, key)
	if !ok {
		return SharedValue{}
	}
	return SharedValue{Version: item.Head, Data: item.Data}
}

func (s *localShared) Load(ctx context.Context, key string) (value SharedValue, err error) {
	err = s.view(ctx, func(tx *sharedlog.Tx) { value = readValue(tx, key) })
	return value, err
}

func (s *localShared) Swap(ctx context.Context, key, version string, data []byte, ttl time.Duration) (now SharedValue, swapped bool, err error) {
	err = s.update(ctx, func(tx *sharedlog.Tx) {
		if now = readValue(tx, key); now.Version != version {
			return
		}
		swapped, now = true, SharedValue{}
		if len(data) == 0 {
			tx.Remove(kindValue, key)
			return
		}
		now = SharedValue{Version: rand.Text(), Data: data}
		item := lasting(tx, now.Version, ttl)
		item.Data = data
		tx.Put(kindValue, key, item)
	})
	if err != nil {
		return SharedValue{}, false, err
	}
	return now, swapped, nil
}

func (s *localShared) Hint(ctx context.Context, keys ...string) error {
	return s.update(ctx, func(tx *sharedlog.Tx) {
		for _, key := range keys {
			tx.Put(kindHint, key, lasting(tx, "", time.Second))
		}
	})
}

func (s *localShared) Listen(ctx context.Context, heard func(keys []string, gap bool)) error {
	q := hints.New()
	s.mu.Lock()
	s.listeners[q] = struct{}{}
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.listeners, q)
	}()
	if err := s.view(ctx, func(*sharedlog.Tx) {}); err != nil {
		return err
	}
	q.Gap()
	if s.log.IsMemory() {
		return q.Deliver(ctx, heard)
	}
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	go func() {
		tick := time.NewTicker(hintPoll)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				if err := s.log.Poll(ctx); err != nil {
					end(err)
					return
				}
			}
		}
	}()
	_ = q.Deliver(ctx, heard)
	return context.Cause(ctx)
}
