package polargate

import (
	"context"
	"errors"
	"time"

	"github.com/polargate/polargate/internal/link"
	"github.com/polargate/polargate/internal/localstore"
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
func NewFactTime(t time.Time) FactTime { return FactTime(link.NewTime(t)) }

// Time reads it; the zero time if it is not valid.
func (t FactTime) Time() time.Time { return link.Time(t).Time() }

// Valid reports whether it is 19 digits, and no later than its last moment, as another
// program's number may be.
func (t FactTime) Valid() bool { return link.Time(t).Valid() }

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

// SharedAnswer is the result of a Lookup.
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
	// Left is how many can still be taken right now, by a caller whose Keep is 0.
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
	var refuse error
	if path == "" {
		refuse = &InputError{"SharedFile", "has an empty path: give the path of a file"}
	}
	return &localShared{localstore.Open(path, refuse)}
}

// SharedInMemory is a Shared that ends with the process, for tests: replicas that are to
// share it get the same one.
func SharedInMemory() Shared {
	return &localShared{localstore.InMemory()}
}

// sharedStore is a Shared for package link.
type sharedStore struct{ is Shared }

// storeOf is the store that a Shared is.
func storeOf(s Shared) link.Store {
	if local, ok := s.(*localShared); ok {
		return local.is
	}
	return sharedStore{s}
}

func toRecord(r SharedRecord) link.Record {
	return link.Record{Key: r.Key, At: link.Time(r.At), Data: r.Data, TTL: r.TTL}
}

func fromRecord(r link.Record) SharedRecord {
	return SharedRecord{Key: r.Key, At: FactTime(r.At), Data: r.Data, TTL: r.TTL}
}

// mapped are all of them after each was changed.
func mapped[A, B any](all []A, change func(A) B) []B {
	if all == nil {
		return nil
	}
	changed := make([]B, len(all))
	for i, one := range all {
		changed[i] = change(one)
	}
	return changed
}

func (s sharedStore) Lookup(ctx context.Context, q link.Lookup) (link.Answer, error) {
	a, err := s.is.Lookup(ctx, SharedLookup{
		Key: q.Key, Also: q.Also, NotBefore: FactTime(q.NotBefore), Holder: q.Holder, ClaimFor: q.ClaimFor, Budget: SharedBudget(q.Budget),
	})
	return link.Answer{Record: toRecord(a.Record), Found: a.Found, Claimed: a.Claimed, Busy: a.Busy, Wait: a.Wait, Turn: link.Turn(a.Turn)}, err
}

func (s sharedStore) Get(ctx context.Context, keys ...string) ([]link.Record, error) {
	records, err := s.is.Get(ctx, keys...)
	return mapped(records, toRecord), err
}

func (s sharedStore) Put(ctx context.Context, holder string, records ...link.Record) ([]link.Record, error) {
	younger, err := s.is.Put(ctx, holder, mapped(records, fromRecord)...)
	return mapped(younger, toRecord), err
}

func (s sharedStore) Discard(ctx context.Context, records ...link.Record) error {
	return s.is.Discard(ctx, mapped(records, fromRecord)...)
}

func (s sharedStore) Release(ctx context.Context, holder string, keys ...string) error {
	return s.is.Release(ctx, holder, keys...)
}

func (s sharedStore) Take(ctx context.Context, b link.Budget) (link.Turn, error) {
	turn, err := s.is.Take(ctx, SharedBudget(b))
	return link.Turn(turn), err
}

func (s sharedStore) Pause(ctx context.Context, budget string, d time.Duration) error {
	return s.is.Pause(ctx, budget, d)
}

func (s sharedStore) Beat(ctx context.Context, replica string, ttl time.Duration) (int, error) {
	return s.is.Beat(ctx, replica, ttl)
}

func (s sharedStore) Load(ctx context.Context, key string) (link.Value, error) {
	v, err := s.is.Load(ctx, key)
	return link.Value(v), err
}

func (s sharedStore) Swap(ctx context.Context, key, version string, data []byte, ttl time.Duration) (link.Value, bool, error) {
	v, swapped, err := s.is.Swap(ctx, key, version, data, ttl)
	return link.Value(v), swapped, err
}

func (s sharedStore) Hint(ctx context.Context, keys ...string) error { return s.is.Hint(ctx, keys...) }

func (s sharedStore) Listen(ctx context.Context, heard func(keys []string, gap bool)) error {
	return s.is.Listen(ctx, heard)
}

// Unreadable is what the store itself could not read, if it tells.
func (s sharedStore) Unreadable() int64 {
	if counts, ok := s.is.(interface{ Unreadable() int64 }); ok {
		return counts.Unreadable()
	}
	return 0
}

// localShared is a Shared on one computer.
type localShared struct{ is *localstore.Store }

func (s *localShared) Lookup(ctx context.Context, q SharedLookup) (SharedAnswer, error) {
	a, err := s.is.Lookup(ctx, link.Lookup{
		Key: q.Key, Also: q.Also, NotBefore: link.Time(q.NotBefore), Holder: q.Holder, ClaimFor: q.ClaimFor, Budget: link.Budget(q.Budget),
	})
	return SharedAnswer{Record: fromRecord(a.Record), Found: a.Found, Claimed: a.Claimed, Busy: a.Busy, Wait: a.Wait, Turn: SharedTurn(a.Turn)}, err
}

func (s *localShared) Get(ctx context.Context, keys ...string) ([]SharedRecord, error) {
	records, err := s.is.Get(ctx, keys...)
	return mapped(records, fromRecord), err
}

func (s *localShared) Put(ctx context.Context, holder string, records ...SharedRecord) ([]SharedRecord, error) {
	younger, err := s.is.Put(ctx, holder, mapped(records, toRecord)...)
	return mapped(younger, fromRecord), err
}

func (s *localShared) Discard(ctx context.Context, records ...SharedRecord) error {
	return s.is.Discard(ctx, mapped(records, toRecord)...)
}

func (s *localShared) Release(ctx context.Context, holder string, keys ...string) error {
	return s.is.Release(ctx, holder, keys...)
}

func (s *localShared) Take(ctx context.Context, b SharedBudget) (SharedTurn, error) {
	turn, err := s.is.Take(ctx, link.Budget(b))
	return SharedTurn(turn), err
}

func (s *localShared) Pause(ctx context.Context, budget string, d time.Duration) error {
	return s.is.Pause(ctx, budget, d)
}

func (s *localShared) Beat(ctx context.Context, replica string, ttl time.Duration) (int, error) {
	return s.is.Beat(ctx, replica, ttl)
}

func (s *localShared) Load(ctx context.Context, key string) (SharedValue, error) {
	v, err := s.is.Load(ctx, key)
	return SharedValue(v), err
}

func (s *localShared) Swap(ctx context.Context, key, version string, data []byte, ttl time.Duration) (SharedValue, bool, error) {
	v, swapped, err := s.is.Swap(ctx, key, version, data, ttl)
	return SharedValue(v), swapped, err
}

func (s *localShared) Hint(ctx context.Context, keys ...string) error { return s.is.Hint(ctx, keys...) }

func (s *localShared) Listen(ctx context.Context, heard func(keys []string, gap bool)) error {
	return s.is.Listen(ctx, heard)
}

// Unreadable is how many bytes of the file could not be read and were skipped.
func (s *localShared) Unreadable() int64 { return s.is.Unreadable() }

// isMistake reports whether an error of a Shared is about what it was asked.
func isMistake(err error) bool {
	_, mistake := errors.AsType[*InputError](err)
	return mistake
}
