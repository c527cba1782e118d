package polargate

import (
	"cmp"
	"encoding/json"
	"errors"
	"slices"
	"time"

	"github.com/polargate/polargate/internal/machine"
	"github.com/polargate/polargate/internal/pace"
	"github.com/polargate/polargate/internal/seal"
	"github.com/polargate/polargate/lease"
)

// state is what a Gate keeps in its Store: the activation and, sealed once more, Polar's
// last verdict about it. The outer seal opens with what the program itself knows, so that
// the activation can be released from wherever the file ends up. The verdict opens on this
// computer only.
type state struct {
	// InstallationID is random, is made at the first start, and tells the activations of
	// this folder from all others.
	InstallationID string `json:"installation_id"`
	// Owner is the fingerprint of the computer that stored this. Each computer has a
	// state of its own: another one can neither use a copy of it nor release anything
	// with it. Empty in states of earlier builds.
	Owner string `json:"owner,omitempty"`
	// Left: the license was removed here on purpose. Such a state is stored without an
	// activation, and never deleted, so a state that is missing was lost.
	Left bool  `json:"left,omitempty"`
	Seat *seat `json:"seat,omitempty"`
	// Intent is an activation that was begun. It is written before the request is sent,
	// and removed with the answer. One that is found later is in doubt.
	Intent *intent `json:"intent,omitempty"`
	// Outbox holds the activations that are to be released when Polar can be reached.
	Outbox []seat `json:"outbox,omitempty"`
	// OutboxRetry is when a check tries that again.
	OutboxRetry time.Time `json:"outbox_retry,omitzero"`
	// Trial is the trial without a license; nil if none has begun.
	Trial *trial `json:"trial,omitempty"`
	// Reminded is when a program last reminded of the end of the license or trial.
	Reminded time.Time `json:"reminded,omitzero"`
	// Request is for a license file that has not come yet.
	Request *offlineRequest `json:"request,omitempty"`
	// Newest is when the newest lease was issued that counted here, and a second more if
	// that one is given up: older ones don't count any more.
	Newest time.Time `json:"newest,omitzero"`
	// Verdict is sealed; see openVerdict.
	Verdict []byte `json:"verdict,omitempty"`
}

// seat is an activation, or a license key that has no activations.
type seat struct {
	Key          string `json:"key"`
	ActivationID string `json:"activation_id,omitempty"`
	// Machine is the fingerprint of the computer that was activated.
	Machine string `json:"machine,omitempty"`
	// Label is the name that the computer had then. It doesn't identify the computer:
	// see usedToBeHere.
	Label string `json:"label,omitempty"`
	// Conditions are the bytes that were sent with the activation: Polar compares them as
	// a whole and never returns them.
	Conditions json.RawMessage `json:"conditions,omitempty"`
	// Former are the keys that the activation had before, the latest first: Polar replaced
	// them.
	Former []string `json:"former,omitempty"`
	// Lease is for an activation that came with a lease; nil for Polar's own.
	Lease *seatLease `json:"lease,omitempty"`
	State seatState  `json:"-"` // stored as one of the members of storedSeat
}

// seatState is what is known about an activation at Polar.
type seatState int

const (
	activated    seatState = iota // Polar counts it, as far as is known here
	seatless                      // the key has no activations, and ActivationID is empty
	reactivating                  // it was released, and is to be activated on this computer
	released                      // Polar said that it is released
	// unreleasable: it is in the outbox, but Polar doesn't know its key any more. Only the
	// key that replaced it can release or use the activation.
	unreleasable
)

// storedSeat is how a seat is stored: its state has the names that the first version gave it.
type storedSeat struct {
	seatFields
	Seatless bool `json:"seatless,omitempty"`
	Moving   bool `json:"moving,omitempty"`
	Gone     bool `json:"gone,omitempty"`
	Stranded bool `json:"stranded,omitempty"`
}

type seatFields seat

// MarshalJSON writes what UnmarshalJSON reads.
func (s seat) MarshalJSON() ([]byte, error) {
	return json.Marshal(storedSeat{seatFields(s), s.State == seatless, s.State == reactivating, s.State == released, s.State == unreleasable})
}

// UnmarshalJSON reads a seat of any version.
func (s *seat) UnmarshalJSON(data []byte) error {
	var stored storedSeat
	if err := json.Unmarshal(data, &stored); err != nil {
		return err
	}
	*s = seat(stored.seatFields)
	switch {
	case stored.Moving:
		s.State = reactivating
	case stored.Gone:
		s.State = released
	case stored.Stranded:
		s.State = unreleasable
	case stored.Seatless:
		s.State = seatless
	}
	return nil
}

// same reports whether both are the same activation of the same computer, in the same state.
func (s *seat) same(t *seat) bool {
	return s != nil && t != nil && s.Key == t.Key && s.ActivationID == t.ActivationID &&
		s.Machine == t.Machine && s.State == t.State
}

// held reports whether Polar counts the activation, as far as is known here.
func (s *seat) held() bool {
	return (s.ActivationID != "" || s.Lease != nil) && (s.State == activated || s.State == unreleasable)
}

// has reports whether a key is that of the activation, or was before Polar replaced it. It may
// be called on nil.
func (s *seat) has(key Key) bool {
	return s != nil && (s.Key == key.Reveal() || slices.Contains(s.Former, key.Reveal()))
}

// maxFormer bounds how many replaced keys an activation remembers.
const maxFormer = 4

// rename gives the activation the key that replaced its own. One from a license file had none.
func (s *seat) rename(key string) {
	if s.Key == key {
		return
	}
	if s.Key == "" {
		s.Key = key
		return
	}
	former := slices.DeleteFunc(append([]string{s.Key}, s.Former...), func(k string) bool { return k == key })
	s.Key, s.Former = key, former[:min(len(former), maxFormer)]
}

// is returns the seat in another state.
func (s seat) is(state seatState) *seat {
	s.State = state
	return &s
}

// reactivatingOn returns the seat as released, and to be activated on that computer.
func (s seat) reactivatingOn(machine string) *seat {
	s.Machine, s.State = machine, reactivating
	return &s
}

// waiting reports whether there are activations to release.
func (s *state) waiting() bool {
	return slices.ContainsFunc(s.Outbox, func(o seat) bool { return o.State != unreleasable })
}

// conditions reads the stored bytes, with numbers as they were written.
func (s *seat) conditions() map[string]any {
	var raw map[string]json.RawMessage
	if json.Unmarshal(s.Conditions, &raw) != nil {
		return nil
	}
	m := make(map[string]any, len(raw))
	for name, value := range raw {
		m[name] = value
	}
	return m
}

// intent is an activation that was begun.
// seatLease is what is kept of a lease beside its activation, so that the activation can be
// ended when the lease itself is gone.
type seatLease struct {
	ID           string `json:"id"`
	LicenseKeyID string `json:"license_key_id,omitempty"`
	// Fingerprint is what the vendor's server knows this computer by.
	Fingerprint string `json:"fingerprint"`
	// Secret is what a receipt shows; "" if it was lost with an earlier state.
	Secret string `json:"secret,omitempty"`
}

// offlineRequest is a request for a license file that was made and not answered yet.
type offlineRequest struct {
	ID     string    `json:"id"`
	Secret string    `json:"secret"`
	At     time.Time `json:"at"`
	// LeaseID is the lease that counted when it was made; "" for none.
	LeaseID string `json:"lease_id,omitempty"`
}

// leased is the activation that came with a lease; without one, it is as before.
func (s seat) leased(license *LicenseKey) *seat {
	if license == nil || license.proof == nil {
		return &s
	}
	p := license.proof
	s.ActivationID = p.ActivationID
	s.Lease = &seatLease{ID: p.ID, LicenseKeyID: p.LicenseKeyID, Fingerprint: p.Fingerprint, Secret: license.receiptSecret}
	return &s
}

// byFile reports whether the activation came in a file, so that no key of it is known.
func (s *seat) byFile() bool { return s != nil && s.Key == "" && s.Lease != nil }

// floats reports whether it is a place of a pool.
func (s *seat) floats() bool { return s != nil && s.Lease != nil && s.ActivationID == "" }

// activates reports whether s and t are the same activation, or place of a pool.
func (s *seat) activates(t *seat) bool {
	if s.ActivationID != "" || s.Lease == nil || t.Lease == nil {
		return s.ActivationID == t.ActivationID
	}
	return t.ActivationID == "" && s.Lease.LicenseKeyID == t.Lease.LicenseKeyID
}

type intent struct {
	AttemptID string    `json:"attempt_id"`
	Key       string    `json:"key"`
	At        time.Time `json:"at"`
}

// verdict is what Polar said last about an activation. All times are UTC by this
// computer's clock, except ExpiresAt, which is by Polar's.
type verdict struct {
	// Refused is the denial; "" means granted.
	Refused Reason `json:"refused,omitempty"`
	// Serial counts Polar's answers about the activation. It tells which of two answers is
	// the later one; the clock can't, since it can be set. Questions without an answer don't
	// count: they must not make an old answer look newer than one that another process got.
	Serial    uint64    `json:"serial,omitempty"`
	CheckedAt time.Time `json:"checked_at"`
	BenefitID string    `json:"benefit_id,omitempty"`
	// LicenseKeyID and CustomerID are Polar's; "" if it didn't say.
	LicenseKeyID string `json:"license_key_id,omitempty"`
	CustomerID   string `json:"customer_id,omitempty"`
	// Subscribed: the key came with a subscription.
	Subscribed bool      `json:"subscribed,omitempty"`
	ExpiresAt  time.Time `json:"expires_at,omitzero"`
	// Skew is how far Polar's clock was ahead of ours if that was more than maxSkew, plus
	// how far ours was set back since; negative if Polar's was behind. The time that an
	// answer takes to arrive counts as a lag, so a slow answer can delay the expiry, by a
	// timeout at most.
	Skew time.Duration `json:"skew,omitempty"`
	// Usage and LimitUsage count uses; LimitUsage is nil for no limit.
	Usage      int64  `json:"usage,omitempty"`
	LimitUsage *int64 `json:"limit_usage,omitempty"`
	// Seats: the key has activations, so it must be used with one.
	Seats bool `json:"seats,omitempty"`
	// SeatLimit is how many computers the key can be used on; 0 if that isn't known.
	SeatLimit int64 `json:"seat_limit,omitempty"`
	// HighWater is the latest time seen here since. A clock behind it was ahead then, or
	// has been set back; see follow.
	HighWater time.Time `json:"mark"`
	// Failures counts the questions since CheckedAt that Polar didn't answer. LastFailure
	// is why the last one had no answer, and NextTry when to ask again.
	Failures    int       `json:"failures,omitempty"`
	LastFailure Reason    `json:"vain,omitempty"`
	NextTry     time.Time `json:"retry_at,omitzero"`
	// Cause is why Polar couldn't be reached, if LastFailure is ErrUnreachable.
	Cause Phrase `json:"cause,omitempty"`
	// Provisional: Polar hasn't said anything yet. CheckedAt is when the program that made
	// the activation last verified it; see provisionalVerdict.
	Provisional bool `json:"provisional,omitempty"`
	// Grant is what is kept of Polar's last grant; nil if there was none, or if an earlier
	// build stored the verdict. See lastGrant.
	Grant *grant `json:"grant,omitempty"`
	// Lease is the text of the lease that shows the verdict, and proof what it says, once it
	// was found to be genuine; "" and nil if Polar itself gave the verdict.
	Lease string `json:"lease,omitempty"`
	proof *lease.Lease
}

// proven reports whether a lease shows the verdict.
func (v *verdict) proven() bool { return v != nil && v.Refused == "" && v.proof != nil }

// trial reports whether the lease was issued without a license key.
func (v *verdict) trial() bool { return v.proven() && v.proof.Trial }

// life is how long a lease lasts without its grace, which retries have to fit into; zero
// without a lease, or if it never expires.
func (v *verdict) life() time.Duration {
	if !v.proven() || v.proof.Expires.IsZero() {
		return 0
	}
	return v.proof.Expires.Sub(v.proof.Issued)
}

// replaced reports whether v is another answer than w was.
func (v *verdict) replaced(w *verdict) bool {
	return v != nil && (w == nil || !v.answered().Equal(w.answered()) || v.Refused != w.Refused)
}

// since reports whether Polar was asked again after w was stored, with or without an
// answer.
func (v *verdict) since(w *verdict) bool {
	return v != nil && (v.replaced(w) || v.Failures > w.Failures)
}

// answered is when the verdict came, by Polar's clock if the difference is known.
func (v *verdict) answered() time.Time { return v.CheckedAt.Add(v.Skew) }

// newer reports whether v is at least as recent as w. The later answer is; of two answers
// to questions that were asked at once, the one that Polar gave later; of one answer, the
// verdict that has seen the later time, and then the one that has seen more failures.
func (v *verdict) newer(w *verdict) bool {
	if v == nil || w == nil {
		return v != nil
	}
	byTime := v.answered().Compare(w.answered())
	byMark := cmp.Compare(v.latest().Sub(v.CheckedAt), w.latest().Sub(w.CheckedAt))
	return cmp.Or(cmp.Compare(v.Serial, w.Serial), byTime, byMark, cmp.Compare(v.Failures, w.Failures)) >= 0
}

// follow is the verdict after the clock showed a time before the mark. Either the clock was
// ahead earlier, or it was set back since; it can't be told which. So all times of the
// verdict move back with the clock, and the time that had passed since the verdict still
// counts as passed: the clock neither gains time nor loses any. The clock is followed for
// up to a day, which covers a wrong date and a second system that has another time zone,
// or for as much as Polar said that it was ahead. If it is further back, or before Polar's
// own time of the verdict, the clock isn't believed, and the verdict stays as it is.
func (v *verdict) follow(now time.Time) *verdict {
	back := v.latest().Sub(now)
	known := clockSlack - v.Skew // as much as Polar's clock explains
	switch {
	case v.Refused != "", v.waits(), back <= clockSlack, back > max(clockJump, known),
		now.Before(v.answered().Add(-clockSlack)), v.Skew > v.Skew+back:
		return v
	}
	moved := *v
	moved.CheckedAt, moved.HighWater, moved.Skew = v.CheckedAt.Add(-back), now, v.Skew+back
	moved.NextTry = time.Time{} // how long to wait isn't known any more
	return &moved
}

// latest is HighWater, or CheckedAt if that is later.
func (v *verdict) latest() time.Time {
	if v.HighWater.Before(v.CheckedAt) {
		return v.CheckedAt
	}
	return v.HighWater
}

// backingOff reports whether Polar gave no answer a moment ago, by a clock that wasn't set
// back since.
func (v *verdict) backingOff(now time.Time) bool {
	return !now.Before(v.HighWater) && pace.Within(v.NextTry.Sub(now), maxPause) > 0
}

const (
	// clockSlack is how far a clock may be behind the mark and still be believed: it may
	// have been corrected over the network, or its time zone set by hand.
	clockSlack = time.Hour
	// clockJump is how far a clock may be behind the mark, or have been ahead, and still
	// be followed: a day, plus summer time and clockSlack.
	clockJump = 26 * time.Hour
	// maxSkew is a difference to Polar's clock that doesn't matter.
	maxSkew = 2 * time.Second
	// refusalFresh is how long a denial counts without asking again. It is short, because
	// customers who have just renewed are in a hurry. It only keeps a script that calls a
	// locked program in a loop within Polar's limit.
	refusalFresh = time.Second
	// vainFresh is how long Polar isn't asked again after a failure during grace.
	vainFresh = 30 * time.Second
	// renewPause is the same while the last answer is still fresh: a network that hangs
	// must not hold up every short run of a program.
	renewPause = 10 * time.Minute
	// maxProvisional bounds how long an import counts without an answer, however long the
	// grace period is: what it says of itself may be made up.
	maxProvisional = 30 * 24 * time.Hour
	// outboxPause is how long an activation that couldn't be released waits for the next
	// try. Nothing else depends on it.
	outboxPause = time.Minute
)

// validity is what a verdict is worth at a moment.
type validity struct {
	state      State
	reason     Reason
	freshUntil time.Time // no need to ask before
	graceUntil time.Time // no access after, unless Polar answers
	trialUntil time.Time // when a trial ends, or ended
	covered    time.Time // until when the releases of the program are covered; zero if that doesn't matter
	// changes is when time alone changes this; zero if it doesn't.
	changes time.Time
}

// end is when a license that lets the program run ends, or a trial; zero if that isn't known.
func (s validity) end(v *verdict) time.Time {
	switch {
	case s.state == InTrial:
		return s.trialUntil
	case v != nil && (s.state == Active || s.state == Grace) && !v.ExpiresAt.IsZero():
		return v.ExpiresAt.Add(-v.Skew)
	}
	return time.Time{}
}

// remindsOf reports whether a program reminds of an end at a moment.
func (c *Config) remindsOf(end, now time.Time) bool {
	return !end.IsZero() && now.Before(end) && end.Sub(now) <= c.RemindBefore
}

// sameDay reports whether two moments are on the same day where the computer is.
func sameDay(a, b time.Time) bool {
	y, m, d := a.Local().Date()
	year, month, day := b.Local().Date()
	return y == year && m == month && d == day
}

// evaluate has all rules of working offline: the verdict, the clock, and the two periods
// decide. It does no I/O. grace counts from the last granted verdict; negative is none.
func evaluate(v *verdict, now time.Time, fresh, grace time.Duration) validity {
	if v.waits() {
		return validity{state: Locked, reason: cmp.Or(v.LastFailure, ErrUnreachable)}
	}
	mark := v.latest()
	// A clock that was set back must not gain time.
	if mark.Sub(now) > clockSlack {
		return validity{state: Locked, reason: ErrClockSetBack, changes: mark.Add(-clockSlack)}
	}
	if v.Refused != "" {
		s := validity{state: Locked, reason: v.Refused}
		if !now.Before(v.CheckedAt) {
			s.freshUntil = v.CheckedAt.Add(min(fresh, refusalFresh))
		}
		return s
	}
	if v.Provisional {
		fresh, grace = 0, min(grace, maxProvisional) // another program's word, which Polar has to confirm
	}
	clock := now
	if now.Before(mark) {
		now = mark
	}
	s := validity{
		freshUntil: v.CheckedAt.Add(fresh),
		graceUntil: v.CheckedAt.Add(max(fresh, grace)),
	}
	var expiry time.Time // by our clock
	if !v.ExpiresAt.IsZero() {
		expiry = v.ExpiresAt.Add(-v.Skew)
		s.freshUntil = earlier(s.freshUntil, expiry)
		s.graceUntil = earlier(s.graceUntil, expiry)
	}
	switch {
	case !expiry.IsZero() && !now.Before(expiry):
		s.state, s.reason = Locked, ErrExpired
	case now.Before(s.freshUntil):
		s.state, s.changes = Active, s.freshUntil
	case now.Before(s.graceUntil):
		s.state, s.reason, s.changes = Grace, v.LastFailure, s.graceUntil
		if s.reason == "" {
			s.reason = ErrUnreachable
		}
	default:
		s.state, s.reason = Locked, ErrGraceEnded
	}
	if s.state != Active {
		s.freshUntil = earlier(s.freshUntil, clock) // so that Polar is asked now, whatever the clock says
	}
	return s
}

// nextVerdict is the verdict after an outcome. nil means that there is nothing to keep.
func nextVerdict(last *verdict, license *LicenseKey, err error, now time.Time, fresh time.Duration) *verdict {
	e, isError := errors.AsType[*Error](err)
	serial := uint64(1)
	if last != nil {
		serial = last.Serial + 1
	}
	switch {
	case license != nil:
		v := &verdict{Serial: serial, CheckedAt: now, BenefitID: license.BenefitID, ExpiresAt: license.EndsAt(), Usage: license.Usage, LimitUsage: license.LimitUsage, Seats: license.seats() > 0, HighWater: now}
		v.LicenseKeyID, v.CustomerID, v.Subscribed = license.ID, license.CustomerID, license.Subscription != nil
		v.SeatLimit = license.seats()
		if skew := license.answeredAt.Sub(now); skew.Abs() > maxSkew {
			v.Skew = skew
		}
		if license.proof != nil {
			v.Lease, v.proof = license.proof.Text, license.proof
		}
		v.Grant = grantOf(license, v.answered())
		return v
	case isDenial(err):
		v := &verdict{Serial: serial, Refused: e.Reason, CheckedAt: now, HighWater: now}
		if last != nil {
			v.BenefitID, v.ExpiresAt, v.Skew = last.BenefitID, last.ExpiresAt, last.Skew
			v.Usage, v.LimitUsage, v.SeatLimit = last.Usage, last.LimitUsage, last.SeatLimit
			v.LicenseKeyID, v.CustomerID, v.Subscribed = last.LicenseKeyID, last.CustomerID, last.Subscribed
			v.Grant = last.lastGrant()
		}
		return v
	case last == nil:
		return nil
	}
	v := *last
	if now.After(v.HighWater) {
		v.HighWater = now
	}
	v.Failures, v.LastFailure, v.Cause = v.Failures+1, ErrUnreachable, ""
	pause := vainFresh
	if now.Before(v.CheckedAt.Add(fresh)) && !v.Provisional {
		pause = renewPause
	}
	if isError {
		v.LastFailure, v.Cause, pause = e.Reason, e.cause(), max(pause, e.RetryAfter)
	}
	if life := v.life(); life > 0 {
		pause = min(pause, life/8) // the place of a pool is lost with its lease
	}
	v.NextTry = now.Add(min(pause, fresh))
	return &v
}

// waitingVerdict is that of an import of which nothing counts until Polar answers. It tells
// when Polar was last asked, which matters while a trial goes on.
func waitingVerdict(failure error, now time.Time) *verdict {
	return nextVerdict(&verdict{HighWater: now, Provisional: true}, nil, failure, now, vainFresh)
}

// waits reports whether v is a waitingVerdict.
func (v *verdict) waits() bool { return v.Provisional && v.CheckedAt.IsZero() }

// provisionalVerdict is what an import counts until Polar answers: as if Polar had granted it
// when the program that made the activation last verified it, but never as a fresh answer. A
// time in the future counts as now if a clock may explain it. nil means that nothing counts.
func provisionalVerdict(verified time.Time, benefitID string, failure error, now time.Time) *verdict {
	if verified.IsZero() || verified.Sub(now) > clockSlack {
		return nil
	}
	v := &verdict{CheckedAt: earlier(calendar(verified), now), BenefitID: benefitID, HighWater: now, Provisional: true}
	return nextVerdict(v, nil, failure, now, vainFresh)
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// A state is stored as JSON, sealed by package seal. Its key comes from the organization, the
// app and the program's Secret; the key of the verdict inside needs the computer's
// fingerprint, too. This keeps the file from being read and edited by hand. It doesn't
// protect against someone who takes the program apart.
const (
	stateMagic   = "PGS1"
	verdictMagic = "PGV1"
	indexMagic   = "PGI1"
	namesMagic   = "PGN1"
	// maxPlain leaves room for the seal within maxState. A state takes 2 KiB, plus 300
	// bytes for each activation in the outbox.
	maxPlain = maxState - 1024
)

// sealer has the key of the outer seal, or the reason why there is none.
type sealer struct {
	key []byte
	err error
}

func newSealer(organizationID, app, secret string) sealer {
	key, err := seal.Key([]byte(organizationID+"\x00"+app+"\x00"+secret), "polargate state v1")
	return sealer{key, err}
}

func (s sealer) sealState(st *state) ([]byte, error) {
	if s.err != nil {
		return nil, s.err
	}
	return sealJSON(s.key, stateMagic, "", st)
}

func (s sealer) openState(data []byte) (*state, error) {
	if s.err != nil {
		return nil, s.err
	}
	var st state
	if err := openJSON(s.key, stateMagic, "", data, &st); err != nil {
		return nil, err
	}
	if st.InstallationID == "" || st.Seat != nil && st.Seat.Key == "" && st.Seat.Lease == nil {
		return nil, seal.ErrBroken
	}
	return &st, nil
}

// The list of computers holds nothing secret, but everything in the Store is sealed.
func (s sealer) sealIndex(tags []string) ([]byte, error) {
	return sealJSON(s.key, indexMagic, "", tags)
}

func (s sealer) openIndex(data []byte) ([]string, error) {
	var tags []string
	if err := openJSON(s.key, indexMagic, "", data, &tags); err != nil {
		return nil, err
	}
	for _, tag := range tags {
		if !machine.IsTag(tag) {
			return nil, seal.ErrBroken
		}
	}
	return tags, nil
}

// So is the list of the names of licenses.
func (s sealer) sealNames(names []string) ([]byte, error) {
	if s.err != nil {
		return nil, s.err
	}
	return sealJSON(s.key, namesMagic, "", names)
}

func (s sealer) openNames(data []byte) ([]string, error) {
	if s.err != nil {
		return nil, s.err
	}
	var names []string
	err := openJSON(s.key, namesMagic, "", data, &names)
	return names, err
}

// The key of a verdict binds it to the computer, and the data that the seal covers binds it
// to the activation: it can't be moved to another activation.
func (s sealer) sealVerdict(v *verdict, of *seat, fingerprint string) ([]byte, error) {
	key, err := s.verdictKey(fingerprint)
	if err != nil {
		return nil, err
	}
	return sealJSON(key, verdictMagic, of.Key+"\x00"+of.ActivationID, v)
}

func (s sealer) openVerdict(data []byte, of *seat, fingerprint string) (*verdict, error) {
	key, err := s.verdictKey(fingerprint)
	if err != nil {
		return nil, err
	}
	var v verdict
	if err := openJSON(key, verdictMagic, of.Key+"\x00"+of.ActivationID, data, &v); err != nil {
		return nil, err
	}
	return &v, nil
}

func (s sealer) verdictKey(fingerprint string) ([]byte, error) {
	if s.err != nil {
		return nil, s.err
	}
	return seal.Key(append(append([]byte{}, s.key...), fingerprint...), "polargate verdict v1")
}

func sealJSON(key []byte, magic, bound string, v any) ([]byte, error) {
	plain, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	if len(plain) > maxPlain {
		return nil, errors.New("the state has grown too long")
	}
	return seal.Seal(key, magic, bound, plain)
}

// openJSON fails with seal.ErrBroken if this program didn't seal the data.
func openJSON(key []byte, magic, bound string, data []byte, v any) error {
	if len(data) > maxState {
		return seal.ErrBroken
	}
	plain, err := seal.Open(key, magic, bound, data)
	if err != nil {
		return err
	}
	if json.Unmarshal(plain, v) != nil {
		return seal.ErrBroken
	}
	return nil
}
