package polargate

import (
	"slices"
	"time"

	"github.com/polargate/polargate/lease"
)

// What counts without a license that Polar grants: a trial before it, and a fallback after it.
// Everything in this file is pure. A trial is part of the record, and begins by an event of
// record.go. A fallback follows from the verdict.

// trial is a trial that began here, or on a computer whose state was copied here. It counts
// time that has passed, and not dates: a clock that is set back gains nothing, however far.
type trial struct {
	// Began is when it began, by the clock of now: it moves back with the clock; see seen.
	Began time.Time `json:"began"`
	// HighWater is the latest time seen since.
	HighWater time.Time `json:"mark"`
	// Over: a license was activated, which ends a trial for good.
	Over bool `json:"over,omitempty"`
	// Lease is the text of the license server's lease for the trial, and proof what it says,
	// once it was found to be genuine; "" and nil without one. Skew is how far the server's
	// clock was ahead of ours when it came, plus how far ours was set back since.
	Lease string        `json:"lease,omitempty"`
	Skew  time.Duration `json:"skew,omitempty"`
	proof *lease.Lease
	// Refused: the license server has no trial for this computer, or none any more.
	Refused bool `json:"refused,omitempty"`
}

// trialDay is a day of a trial.
const trialDay = 24 * time.Hour

// ends is when a trial ends: after so many days, or when its lease says so.
func (t *trial) ends(days int) time.Time {
	if t.proof == nil {
		return t.Began.Add(time.Duration(days) * trialDay)
	}
	return earlier(t.Began.Add(t.proof.Expires.Sub(t.proof.Issued)), t.proof.Expires.Add(-max(t.Skew, -clockJump)))
}

// leasedTrialOf is a trial that begins with a lease.
func leasedTrialOf(proof *lease.Lease, now time.Time) *trial {
	t := &trial{Began: now, HighWater: now, Lease: proof.Text, proof: proof}
	if skew := proof.Issued.Sub(now); skew.Abs() > maxSkew {
		t.Skew = skew
	}
	return t
}

// seen is the trial after the clock showed a time. If the clock was set back by more than
// clockSlack, its begin moves back as well: what has passed stays passed. It returns t itself if
// nothing has changed.
func (t *trial) seen(now time.Time) *trial {
	moved := *t
	switch back := t.HighWater.Sub(now); {
	case back > clockSlack:
		moved.Began, moved.HighWater, moved.Skew = t.Began.Add(-back), now, t.Skew+back
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
	case t.Lease != u.Lease: // a lease began after what had no lease
		if t.Lease == "" {
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
	switch {
	case t == nil || t.Over || c.Trial.Days == 0:
		return validity{}, false
	case t.Refused:
		return validity{state: Unlicensed, reason: ErrTrialEnded}, true
	case c.hasLeaseServer() && t.proof == nil:
		return validity{}, false // what isn't signed shows nothing
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

// trialFeatures are those of a trial, and of its lease.
func (c *Config) trialFeatures(t *trial) []string {
	if t == nil || t.proof == nil || len(t.proof.Features) == 0 {
		return c.Trial.Features
	}
	return slices.Compact(slices.Sorted(slices.Values(append(slices.Clone(c.Trial.Features), t.proof.Features...))))
}

// The rules of a fallback: which versions of the program a license that lapsed still covers.

// grant is what is kept of Polar's last grant, beside a refusal too. It says whether a license
// lapsed, or was taken back. Times are by Polar's clock.
type grant struct {
	At time.Time `json:"at"`
	// Made is when the license key was made; zero if not known.
	Made time.Time `json:"made,omitzero"`
	// Ends is when the license was to end; zero if no end was known. Dated says that it is the
	// license key's own expiry, and not the end of a subscription.
	Ends  time.Time `json:"ends,omitzero"`
	Dated bool      `json:"dated,omitempty"`
	// Paid is until when the subscription was paid, if Polar said so.
	Paid time.Time `json:"paid,omitzero"`
	// Ordered: the key came with an order, which is paid once. Unpaid: it came with a
	// subscription whose own trial wasn't over.
	Ordered bool `json:"ordered,omitempty"`
	Unpaid  bool `json:"unpaid,omitempty"`
	// Lease is the text of the last lease, and proof what it says, once it was found to be
	// genuine; "" and nil without one.
	Lease string `json:"lease,omitempty"`
	proof *lease.Lease
}

// grantOf is what is kept of a license that was granted at a time by Polar's clock.
func grantOf(license *LicenseKey, at time.Time) *grant {
	g := &grant{At: at, Made: license.CreatedAt, Ends: license.EndsAt(), Ordered: license.Order != nil}
	g.Dated = !license.ExpiresAt.IsZero() && g.Ends.Equal(license.ExpiresAt)
	if s := license.Subscription; s != nil {
		g.Paid, g.Unpaid = s.CurrentPeriodEnd, s.Status == "trialing"
	}
	return g
}

// lastGrant is what is known of Polar's last grant; nil if there was none.
func (v *verdict) lastGrant() *grant {
	switch {
	case v.Provisional:
		return nil // another program says so
	case v.Grant == nil && v.Refused == ErrExpired && !v.ExpiresAt.IsZero(): // an earlier build stored it
		return &grant{At: v.ExpiresAt, Ends: v.ExpiresAt, Dated: true}
	case v.Grant == nil && v.Refused != "":
		return nil
	case v.Grant == nil: // the same
		return &grant{At: v.answered(), Ends: v.ExpiresAt, Dated: !v.ExpiresAt.IsZero() && !v.Subscribed}
	case v.Refused != "" || !v.proven():
		return v.Grant
	}
	leased := *v.Grant
	leased.Lease, leased.proof = v.Lease, v.proof
	return &leased
}

// lapse is until when a license that lapsed was covered. ok is false if it didn't lapse: if it
// still counts, if that isn't known, or if it was taken back.
func (v *verdict) lapse(now time.Time) (covered time.Time, ok bool) {
	g := v.lastGrant()
	if g == nil || g.Unpaid {
		return time.Time{}, false
	}
	refused := v.answered()
	switch v.Refused {
	case "":
		// It ended by its own date, whatever Polar would say.
		if now.Before(v.latest()) {
			now = v.latest()
		}
		return g.Ends, !g.Ends.IsZero() && !now.Before(g.Ends.Add(-v.Skew))
	case ErrExpired:
		if g.Ends.IsZero() || g.Ends.After(refused) {
			return g.At, true
		}
		return g.Ends, true
	case ErrInactive:
	default:
		return time.Time{}, false
	}
	// Polar uses one word for the end of a subscription, a refund, and what the vendor
	// disabled. What was bought once, or ends on a date of its own, doesn't end that way.
	end := g.Ends
	if end.IsZero() {
		end = g.Paid
	}
	switch {
	case g.Ordered, g.Dated:
		return time.Time{}, false
	case end.IsZero():
		return g.At, true // when it was last seen to be paid
	case refused.Before(end.Add(-clockSlack)):
		return time.Time{}, false // in the middle of what was paid
	case end.Before(g.At):
		return g.At, true
	}
	return end, true
}

// fallBack is the validity s of a license, unless it lapsed and covers this version of the
// program for good, or lapsed and doesn't.
func (c *Config) fallBack(v *verdict, s validity, now time.Time) validity {
	if !c.hasFallback() || s.state != Locked || !c.accepts(v.BenefitID) {
		return s
	}
	covered, ok := v.lapse(now)
	g := v.lastGrant()
	if !ok || c.Fallback.After > 0 && (g.Made.IsZero() || g.At.Sub(g.Made) < c.Fallback.After) {
		return s
	}
	covers := true
	switch {
	case g.proof != nil:
		// The vendor's server has the last word on what it covers.
		if !g.proof.CoversReleased.IsZero() {
			covered = g.proof.CoversReleased
		}
		covers = g.proof.CoversVersion(c.Version)
	case c.hasLeaseServer():
		return s // what isn't signed shows nothing
	}
	next := validity{state: Perpetual, reason: v.Refused, freshUntil: s.freshUntil, covered: covered}
	if !covers || c.Fallback.Released.After(covered) {
		next.state, next.reason = Locked, ErrNotCovered
		return next
	}
	if v.Refused == "" {
		next.reason = ErrExpired
	} else if !now.Before(v.CheckedAt) {
		next.freshUntil = v.CheckedAt.Add(c.FreshFor)
	}
	return next
}

// fallbackFeatures are those that a license that lapsed keeps: no more than it had.
func (c *Config) fallbackFeatures(v *verdict) []string {
	had, _ := c.featuresOf(v.BenefitID)
	if g := v.lastGrant(); g != nil && g.proof != nil {
		had = slices.Sorted(slices.Values(append(slices.Clone(had), g.proof.Features...)))
		had = slices.Compact(had)
	}
	if len(c.Fallback.Features) == 0 {
		return had
	}
	var kept []string
	for _, feature := range had {
		if slices.Contains(c.Fallback.Features, feature) {
			kept = append(kept, feature)
		}
	}
	return kept
}
