package polargate

import (
	"encoding/json"
	"slices"
	"time"
)

// State is where a license stands.
type State string

const (
	// Active: Polar granted it, recently enough.
	Active State = "active"
	// Grace: Polar cannot be reached; the last granted verdict still counts.
	Grace State = "grace"
	// Locked: refused by Polar, or grace ran out.
	Locked State = "locked"
	// Unlicensed: no license key has been activated here.
	Unlicensed State = "unlicensed"
)

// Source is where a Status came from.
type Source string

const (
	FromNetwork Source = "network" // Polar was asked for it
	FromDisk    Source = "disk"    // read from the Store
	FromMemory  Source = "memory"  // known since an earlier call
)

// Status is where a license stood at one moment. It is a snapshot: nothing
// changes it afterwards.
type Status struct {
	// State says whether the program may run: see OK.
	State State
	// Reason is empty when active.
	Reason Reason
	// Key prints masked. Key.Reveal gives the text, for instance to activate
	// it again. With ErrOtherMachine it is that of the other computer's license.
	Key Key
	// Features are those that are unlocked, in order; none unless OK.
	Features []string
	// BenefitID is the benefit that the key belongs to; "" when not known.
	BenefitID string
	// CheckedAt is when Polar last granted or refused; zero if never.
	CheckedAt time.Time
	// FreshUntil is until when Polar need not be asked again, and GraceUntil
	// until when the license lasts without an answer; zero when neither counts.
	FreshUntil, GraceUntil time.Time
	// ExpiresAt is the key's own end; zero if it has none.
	ExpiresAt time.Time
	// Usage is how many uses of the key were counted, and LimitUsage how many
	// there are in all, as Polar said last; Unlimited if there is no limit. Both
	// are 0 where nothing is known.
	Usage, LimitUsage int64
	Source            Source
	// Unsaved: what is said here could not be stored, and is forgotten when the
	// program ends. The log says why.
	Unsaved bool
	// InDoubt: an activation was begun and its outcome is not known, since the
	// program was killed or the answer lost. It may have taken a seat. Also while
	// another process is at it, which is not to be told from the first.
	InDoubt bool
	// ReleasePending: a seat that was given up is still taken at Polar, which could
	// not be reached then. It is given back when Polar can be: at a Check, by Run,
	// or at a later start.
	ReleasePending bool
	// Message is for a person: what is the matter, and what to do.
	Message string

	cause Phrase  // why Polar could not be reached when it was asked last; "" if not known
	say   phrases // replace those of the reason, where they are known better
	store error   // why the Store could not be read or, if Unsaved, written
}

// unread is why there is no license: the Store could not be read.
func (s Status) unread() error {
	if s.Reason == ErrNoPermission || s.Reason == ErrUnreadableState {
		return s.store
	}
	return nil
}

// OK reports whether the program may run: active, or in grace.
func (s Status) OK() bool { return s.State == Active || s.State == Grace }

// Has reports whether a feature was unlocked at the time of the snapshot.
func (s Status) Has(feature string) bool { return slices.Contains(s.Features, feature) }

// MarshalJSON writes every field, the key masked, times in UTC or null; usage
// only where there is a limit, and unsaved, in_doubt and release_pending only where
// they are true. It is for other programs to read; a Status is not made from it
// again.
func (s Status) MarshalJSON() ([]byte, error) {
	when := func(t time.Time) *time.Time {
		if t.IsZero() {
			return nil
		}
		t = t.UTC()
		return &t
	}
	features := s.Features
	if features == nil {
		features = []string{}
	}
	var usage, limit *int64
	if s.LimitUsage > 0 && s.LimitUsage != Unlimited {
		usage, limit = &s.Usage, &s.LimitUsage
	}
	return json.Marshal(struct {
		State      State      `json:"state"`
		Reason     string     `json:"reason"`
		Key        Key        `json:"key"`
		Features   []string   `json:"features"`
		BenefitID  string     `json:"benefit_id"`
		CheckedAt  *time.Time `json:"checked_at"`
		FreshUntil *time.Time `json:"fresh_until"`
		GraceUntil *time.Time `json:"grace_until"`
		ExpiresAt  *time.Time `json:"expires_at"`
		Usage      *int64     `json:"usage,omitempty"`
		LimitUsage *int64     `json:"limit_usage,omitempty"`
		Source     Source     `json:"source"`
		Unsaved    bool       `json:"unsaved,omitempty"`
		InDoubt    bool       `json:"in_doubt,omitempty"`
		Pending    bool       `json:"release_pending,omitempty"`
		Message    string     `json:"message"`
	}{
		s.State, string(s.Reason), s.Key, features, s.BenefitID,
		when(s.CheckedAt), when(s.FreshUntil), when(s.GraceUntil), when(s.ExpiresAt), usage, limit, s.Source, s.Unsaved, s.InDoubt, s.ReleasePending, s.Message,
	})
}
