package link

import (
	"context"
	"fmt"
	"math"
	"time"
)

// Store is what a link needs of a store. The root's Shared has the same methods, and says at
// length what each of them must do.
type Store interface {
	Lookup(ctx context.Context, q Lookup) (Answer, error)
	Get(ctx context.Context, keys ...string) ([]Record, error)
	Put(ctx context.Context, holder string, records ...Record) (younger []Record, err error)
	Discard(ctx context.Context, records ...Record) error
	Release(ctx context.Context, holder string, keys ...string) error
	Take(ctx context.Context, b Budget) (Turn, error)
	Pause(ctx context.Context, budget string, d time.Duration) error
	Beat(ctx context.Context, replica string, ttl time.Duration) (replicas int, err error)
	Load(ctx context.Context, key string) (Value, error)
	Swap(ctx context.Context, key, version string, data []byte, ttl time.Duration) (now Value, swapped bool, err error)
	Hint(ctx context.Context, keys ...string) error
	Listen(ctx context.Context, heard func(keys []string, gap bool)) error
}

// Time is a time by Polar's clock: nanoseconds since 1970 as 19 decimal digits, so that texts
// compare as their times do.
type Time string

// NewTime writes a time as a Time. Times before 1970, and the zero time, are all
// zeros, which is older than any fact; times after 2262 are its last moment.
func NewTime(t time.Time) Time {
	n := t.UnixNano()
	switch year := t.UTC().Year(); {
	case year < 1970:
		n = 0
	case year > 2261:
		n = math.MaxInt64
	}
	return Time(fmt.Sprintf("%019d", n))
}

// Time reads it; the zero time if it is not valid.
func (t Time) Time() time.Time {
	if !t.Valid() {
		return time.Time{}
	}
	var n uint64
	for _, digit := range []byte(t) {
		n = 10*n + uint64(digit-'0')
	}
	return time.Unix(0, int64(n)).UTC()
}

// Latest is the last moment of a Time.
const Latest = "9223372036854775807"

// Valid reports whether it is 19 digits, and no later than its last moment, as another
// program's number may be.
func (t Time) Valid() bool {
	if len(t) != len(Latest) || t > Latest {
		return false
	}
	for _, c := range []byte(t) {
		if c < '0' || c > '9' {
			return false
		}
	}
	return true
}

// Record is what is known about a customer or a license key, as of a time.
type Record struct {
	// Key tells nothing of whom the record is about.
	Key string
	// At is when Polar says that this was so.
	At Time
	// Data is sealed, and of no meaning to the store.
	Data []byte
	// TTL is for how long to keep it. It has no meaning in a record that was read.
	TTL time.Duration
}

// Lookup asks for a record, or for leave to ask Polar for it.
type Lookup struct {
	// Key is the record's, and the claim's.
	Key string
	// Also are further keys under which a record may be, as while a secret is replaced.
	Also []string
	// NotBefore is how old a record may be that is good enough; empty means that any is.
	NotBefore Time
	// Holder names the replica. ClaimFor is when its claim ends by itself: longer than a
	// request takes, for then another replica asks as well.
	Holder   string
	ClaimFor time.Duration
	// Budget is what the request is taken from; with a Limit of 0, from none. A Holder
	// that asks again while it holds the claim takes another unit.
	Budget Budget
}

// Answer is what a Lookup came to.
type Answer struct {
	// Record is the youngest there is, even if it is older than asked; without a key if
	// there is none.
	Record Record
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
	Turn Turn
}

// Budget bounds how many requests all replicas send.
type Budget struct {
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

// Turn is what a budget says.
type Turn struct {
	// Taken: the units are the caller's.
	Taken bool
	// Left is how many can still be taken in this moment, by who keeps none.
	Left int
	// Wait is how long it takes until it is worth asking again, if they were not taken;
	// Paused says that it is for a pause that Polar asked for.
	Wait   time.Duration
	Paused bool
}

// Value is a small value that replicas change in turn.
type Value struct {
	// Version is another with each change; empty if there is no value.
	Version string
	Data    []byte
}
