package polargate

import "time"

// The rules of a trial. Everything in this file is pure. A trial is part of the record, and
// begins by an event of record.go.

// trial is a trial that began here, or on a computer whose state was copied here. It counts
// time that has passed, and not dates: a clock that is set back gains nothing, however far.
type trial struct {
	// Began is when it began, by the clock of now: it moves back with the clock; see seen.
	Began time.Time `json:"began"`
	// HighWater is the latest time seen since.
	HighWater time.Time `json:"mark"`
	// Over: a license was activated, which ends a trial for good.
	Over bool `json:"over,omitempty"`
}

// trialDay is a day of a trial.
const trialDay = 24 * time.Hour

// ends is when a trial of so many days ends.
func (t *trial) ends(days int) time.Time { return t.Began.Add(time.Duration(days) * trialDay) }

// seen is the trial after the clock showed a time. If the clock was set back by more than
// clockSlack, its begin moves back as well: what has passed stays passed. It returns t itself if
// nothing has changed.
func (t *trial) seen(now time.Time) *trial {
	moved := *t
	switch back := t.HighWater.Sub(now); {
	case back > clockSlack:
		moved.Began, moved.HighWater = t.Began.Add(-back), now
	case back < 0:
		moved.HighWater = now
	default:
		return t
	}
	return &moved
}

// noted reports whether the trial after a look at the clock has to be stored: the clock was set
// back, an hour has passed, or the trial has ended.
func (t *trial) noted(after *trial, days int) bool {
	end := t.ends(days)
	return after.HighWater.Before(t.HighWater) || after.HighWater.Sub(t.HighWater) >= clockSlack ||
		t.HighWater.Before(end) && !after.HighWater.Before(after.ends(days))
}

// further is the one of two trials of this computer of which more has passed. Either may be nil.
func (t *trial) further(u *trial) *trial {
	switch {
	case t == nil || u == nil:
		if t == nil {
			return u
		}
	case t.Over != u.Over:
		if u.Over {
			return u
		}
	case u.HighWater.Sub(u.Began) > t.HighWater.Sub(t.Began):
		return u
	}
	return t
}

// over is the trial after a license was activated; nil if there was none.
func (t *trial) over() *trial {
	if t == nil {
		return nil
	}
	ended := *t
	ended.Over = true
	return &ended
}

// validity is what the trial is worth at a moment. ok is false if there is none.
func (t *trial) validity(now time.Time, c *Config) (s validity, ok bool) {
	if t == nil || t.Over || c.Trial.Days == 0 {
		return validity{}, false
	}
	end := t.ends(c.Trial.Days)
	if now.Before(t.HighWater) {
		now = t.HighWater
	}
	if now.Before(end) {
		return validity{state: InTrial, trialUntil: end, changes: end}, true
	}
	return validity{state: Unlicensed, reason: ErrTrialEnded, trialUntil: end}, true
}
