package issuer

import (
	"errors"
	"slices"
	"time"

	"github.com/polargate/polargate/lease"
)

// A Pool lets a license key be used on so many computers at once.
type Pool struct {
	// Max is how many. Required.
	Max int
	// Heartbeat is how often a computer renews its lease, which lasts twice as long.
	// 0 means 5 minutes; at least a second.
	Heartbeat time.Duration
	// Borrow is the longest time for which a computer can take its place along,
	// for a trip without a network. 0 means that it cannot.
	Borrow time.Duration
}

const defaultHeartbeat = 5 * time.Minute

func (p Pool) heartbeat() time.Duration {
	if p.Heartbeat == 0 {
		return defaultHeartbeat
	}
	return p.Heartbeat
}

func (p Pool) problem() string {
	switch {
	case p.Max < 1:
		return "needs a Max of at least 1"
	case p.Heartbeat < 0 || p.Heartbeat > 0 && p.Heartbeat < time.Second:
		return "needs a Heartbeat of at least a second, or 0 for 5 minutes"
	case p.Borrow < 0:
		return "has a negative Borrow: give a duration, or 0 for none"
	}
	return ""
}

// account is what the Store keeps of a license key. Its methods are pure: they know
// no clock but what they are given, and ask nobody.
type account struct {
	LicenseKeyID string      `json:"license_key_id"`
	BenefitID    string      `json:"benefit_id"`
	CustomerID   string      `json:"customer_id,omitempty"`
	ExpiresAt    time.Time   `json:"expires_at,omitzero"` // of the key, as Polar last said
	Granted      time.Time   `json:"granted,omitzero"`    // when Polar last did; zero after a refusal
	Seen         time.Time   `json:"seen,omitzero"`       // the latest time by the issuer's clock
	Held         []HeldLease `json:"held,omitempty"`
	Ended        []ended     `json:"ended,omitempty"` // the last ones
}

// HeldLease is a lease that was issued, as the Store keeps it.
type HeldLease struct {
	// LeaseID is the ID of the newest lease, and RequestID that of its request.
	LeaseID   string `json:"lease_id"`
	RequestID string `json:"request_id"`
	// Fingerprint and Label name the computer. ActivationID is its activation at
	// Polar; empty in a pool.
	Fingerprint  string `json:"fingerprint"`
	Label        string `json:"label,omitempty"`
	ActivationID string `json:"activation_id,omitempty"`
	// Pool is the id of the benefit whose pool it is from; empty if it is of none.
	Pool string `json:"pool,omitempty"`
	// ReceiptHash is the promise of the request, which a receipt has to keep.
	ReceiptHash string `json:"receipt_hash"`
	// Issued, Expires and Ends are those of the newest lease.
	Issued  time.Time `json:"issued"`
	Expires time.Time `json:"expires,omitzero"`
	Ends    time.Time `json:"ends,omitzero"`
	// Borrowed tells that a place of a pool was taken along.
	Borrowed bool `json:"borrowed,omitempty"`
}

// ended is a lease that was given back. Its request cannot be used again, and its
// receipt does no harm twice.
type ended struct {
	RequestID   string    `json:"request_id"`
	Fingerprint string    `json:"fingerprint"`
	ReceiptHash string    `json:"receipt_hash"`
	Issued      time.Time `json:"issued"`
	// Shown: a receipt has shown the secret that ReceiptHash is of.
	Shown bool `json:"shown,omitempty"`
}

// maxEnded is enough for computers that change hands daily, and small.
const maxEnded = 200

// now is the time for this account, in whole seconds. It never goes back: a clock that
// was set back must not give a place away twice.
func (a *account) now(clock time.Time) time.Time {
	clock = time.Unix(clock.Unix(), 0).UTC()
	if clock.After(a.Seen) {
		a.Seen = clock
	}
	return a.Seen
}

// sweep takes the places of a pool back whose leases are over.
func (a *account) sweep(now time.Time) {
	a.Held = slices.DeleteFunc(a.Held, func(h HeldLease) bool { return h.Pool != "" && !now.Before(h.Ends) })
}

func (a *account) find(fingerprint string) *HeldLease {
	for i := range a.Held {
		if a.Held[i].Fingerprint == fingerprint {
			return &a.Held[i]
		}
	}
	return nil
}

// errPoolFull is what place answers when every place is taken.
var errPoolFull = errors.New("every place of the pool is taken")

// place gives a computer a place of a pool, or lets it keep the one that it has. If
// there is none, it says when the next is free at the latest.
func (a *account) place(now time.Time, pool Pool, asked HeldLease, borrow time.Duration) (free time.Time, err error) {
	a.sweep(now)
	lasts := 2 * pool.heartbeat()
	if borrow = min(borrow, pool.Borrow); borrow > lasts {
		lasts, asked.Borrowed = borrow, true
	}
	asked.Expires = now.Add(lasts)
	if old := a.find(asked.Fingerprint); old != nil && old.Pool != "" && old.Ends.After(asked.Expires) {
		// A place that was borrowed stays so until its lease ends or a receipt frees it:
		// that lease counts on the computer whatever is asked meanwhile.
		asked.Expires, asked.Borrowed = old.Ends, old.Borrowed
	}
	if !a.ExpiresAt.IsZero() && asked.Expires.After(a.ExpiresAt) {
		asked.Expires = a.ExpiresAt
	}
	asked.Ends = asked.Expires
	taken := 0
	for _, h := range a.Held {
		if h.Pool == "" || h.Fingerprint == asked.Fingerprint {
			continue
		}
		taken++
		if free.IsZero() || h.Ends.Before(free) {
			free = h.Ends
		}
	}
	if taken >= pool.Max {
		return free, errPoolFull
	}
	a.hold(now, asked)
	return time.Time{}, nil
}

// hold notes a lease as the newest of its computer, issued later than the last one.
func (a *account) hold(now time.Time, asked HeldLease) {
	asked.Issued = later(now, asked.Issued)
	if old := a.find(asked.Fingerprint); old != nil {
		if !old.Issued.Before(asked.Issued) && old.Pool == asked.Pool && old.ActivationID == asked.ActivationID && old.ReceiptHash == asked.ReceiptHash && old.Borrowed == asked.Borrowed {
			// Asked twice in a second: the same lease, or the time of issue would
			// run ahead of the clock.
			old.RequestID = asked.RequestID
			return
		}
		asked.Issued = later(asked.Issued, old.Issued.Add(time.Second))
		*old = asked
		return
	}
	for _, e := range a.Ended {
		if e.Fingerprint == asked.Fingerprint {
			asked.Issued = later(asked.Issued, e.Issued.Add(time.Second))
		}
	}
	a.Held = append(a.Held, asked)
}

// release forgets the lease of a computer. shown: a receipt has proven that it is given back.
func (a *account) release(fingerprint string, shown bool) {
	for _, h := range a.Held {
		if h.Fingerprint == fingerprint {
			a.Ended = append(a.Ended, ended{h.RequestID, h.Fingerprint, h.ReceiptHash, h.Issued, shown})
		}
	}
	a.Ended = a.Ended[max(0, len(a.Ended)-maxEnded):]
	a.Held = slices.DeleteFunc(a.Held, func(h HeldLease) bool { return h.Fingerprint == fingerprint })
}

// used reports whether a request belongs to an activation that was given back: it has its ID,
// or promises a secret that a receipt has shown.
func (a *account) used(q lease.Request) bool {
	return slices.ContainsFunc(a.Ended, func(e ended) bool {
		return e.RequestID == q.ID || e.Shown && q.LeaseID == "" && e.Fingerprint == q.Fingerprint && e.ReceiptHash == q.ReceiptHash
	})
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
