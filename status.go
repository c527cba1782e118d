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
	State State
	// Reason is empty when active.
	Reason Reason
	// Key prints masked. Key.Reveal gives the text, for instance to activate
	// it again.
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
	Source    Source
	// Unsaved: what is said here could not be stored, and is forgotten when the
	// program ends. The log says why.
	Unsaved bool
	// InDoubt: an activation was begun and its outcome is not known, since the
	// program was killed or the answer lost. It may have taken a seat. Also while
	// another process is at it, which is not to be told from the first.
	InDoubt bool
	// Message is for a person: what is the matter, and what to do.
	Message string
}

// OK reports whether the program may run: active, or in grace.
func (s Status) OK() bool { return s.State == Active || s.State == Grace }

// Has reports whether a feature was unlocked at the time of the snapshot.
func (s Status) Has(feature string) bool { return slices.Contains(s.Features, feature) }

// MarshalJSON writes every field, the key masked, times in UTC or null; unsaved
// and in_doubt only where they are true. It is for other programs to read; a Status is not made from it again.
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
		Source     Source     `json:"source"`
		Unsaved    bool       `json:"unsaved,omitempty"`
		InDoubt    bool       `json:"in_doubt,omitempty"`
		Message    string     `json:"message"`
	}{
		s.State, string(s.Reason), s.Key, features, s.BenefitID,
		when(s.CheckedAt), when(s.FreshUntil), when(s.GraceUntil), when(s.ExpiresAt), s.Source, s.Unsaved, s.InDoubt, s.Message,
	})
}

// message says in words what a Status means. asked is whether Polar was asked in
// vain since the last answer, and inMemory whether nothing of it is stored.
func (s Status) message(asked, inMemory bool) string {
	text := s.standing(asked)
	if s.InDoubt && s.Reason != ErrInDoubt {
		text += " An attempt to activate a license key was cut short, and may have taken an activation of it."
	}
	if s.Unsaved && !s.Key.IsZero() {
		what := "The last check could not be saved"
		if inMemory {
			what = "The license could not be saved, and ends with the program"
		}
		text += " " + what + ": check that the folder for settings can be written, and that the disk is not full."
	}
	return text
}

func (s Status) standing(asked bool) string {
	switch s.State {
	case Active:
		if !s.ExpiresAt.IsZero() {
			return "Licensed until " + day(s.ExpiresAt) + "."
		}
		return "Licensed."
	case Grace:
		if !asked {
			return "Licensed; a check with the license server is due. Without an answer the license lasts until " + day(s.GraceUntil) + "."
		}
		return "Licensed, but " + sentences[s.Reason].short + ". " + sentences[s.Reason].advice +
			" Without an answer the license lasts until " + day(s.GraceUntil) + "."
	}
	w := s.words()
	return upperFirst(w.short) + ". " + w.advice
}

// words are those of the reason, as they fit what a Status says.
func (s Status) words() words {
	if s.State == Unlicensed && s.Reason == ErrInDoubt {
		return words{"an activation was begun on this computer, and how it ended is not known", "Enter the license key again. If no activation of it is left then, release the lost one in the vendor's customer portal."}
	}
	if s.State == Locked && s.Reason == ErrUnknownKey {
		// Typing errors are out of the question for a key that was activated.
		return words{"this license key is no longer known", "If it was replaced, enter the new one; otherwise ask the vendor."}
	}
	return sentences[s.Reason]
}

func day(t time.Time) string { return t.Local().Format("2 January 2006 15:04") }

func upperFirst(s string) string {
	if s == "" || s[0] < 'a' || s[0] > 'z' {
		return s
	}
	return string(s[0]-'a'+'A') + s[1:]
}
