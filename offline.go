package polargate

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/polargate/polargate/internal/pace"
	"github.com/polargate/polargate/internal/seal"
)

// state is what a Gate keeps in its Store: who holds which seat, and, sealed
// once more, what Polar said of it last. The outer seal opens with what the
// program itself knows, so that a seat can be given back from wherever the file
// ends up; the verdict opens on this machine only.
type state struct {
	// InstallationID is random, made at the first start, and tells the
	// activations of this folder from those of all others.
	InstallationID string `json:"installation_id"`
	// Owner is the fingerprint of the machine that stored this: the state is kept
	// per machine, and a copy of it is of no use to another one, neither to go on
	// with nor to give anything back. Empty in states of earlier builds.
	Owner string `json:"owner,omitempty"`
	// Left: the license was removed here on purpose. A state without a seat is
	// stored for that, and never taken away: one that is missing was lost.
	Left bool  `json:"left,omitempty"`
	Seat *seat `json:"seat,omitempty"`
	// Intent is an activation that was begun: written before the request
	// leaves, taken away with its answer. One that is found is in doubt.
	Intent *intent `json:"intent,omitempty"`
	// Outbox holds seats that are to be given back when Polar can be reached.
	Outbox []seat `json:"outbox,omitempty"`
	// OutboxRetry is when to try that again of one's own accord.
	OutboxRetry time.Time `json:"outbox_retry,omitzero"`
	// Verdict is sealed; see openVerdict.
	Verdict []byte `json:"verdict,omitempty"`
}

// seat is an activation, or a key that has none.
type seat struct {
	Key          string `json:"key"`
	ActivationID string `json:"activation_id,omitempty"`
	// Machine is the fingerprint under which the seat was taken.
	Machine string `json:"machine,omitempty"`
	// Label is the computer's name under which the seat was taken. It is no
	// identity: see usedToBeHere.
	Label string `json:"label,omitempty"`
	// Conditions are the bytes that were sent when the seat was taken: Polar
	// compares them as a whole and never tells them again.
	Conditions json.RawMessage `json:"conditions,omitempty"`
	State      seatState       `json:"-"` // stored as one of the members of storedSeat
}

// seatState is what is known of a seat at Polar. It is one of these at a time.
type seatState int

const (
	activated    seatState = iota // Polar counts it, for all that is known here
	seatless                      // the key has no activations, and ActivationID is empty
	reactivating                  // released, to be activated again on this machine
	released                      // found to be released at Polar
	// unreleasable, in the outbox: the key is not known any more, so the seat can
	// only be released or taken up under the key that replaced it.
	unreleasable
)

// storedSeat is a seat as it is stored, in the words of the first version.
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

func (s *seat) same(t *seat) bool {
	return s != nil && t != nil && s.Key == t.Key && s.ActivationID == t.ActivationID &&
		s.Machine == t.Machine && s.State == t.State
}

// held reports whether Polar counts the seat, for all that is known here.
func (s *seat) held() bool {
	return s.ActivationID != "" && (s.State == activated || s.State == unreleasable)
}

// is is the seat in another state.
func (s seat) is(state seatState) *seat {
	s.State = state
	return &s
}

// reactivatingOn is the seat, released, to be activated again on a machine.
func (s seat) reactivatingOn(machine string) *seat {
	s.Machine, s.State = machine, reactivating
	return &s
}

// waiting reports whether there are seats to be given back.
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

type intent struct {
	AttemptID string    `json:"attempt_id"`
	Key       string    `json:"key"`
	At        time.Time `json:"at"`
}

// verdict is what Polar said of the seat last. All times are UTC by this
// machine's clock; only ExpiresAt is by Polar's.
type verdict struct {
	// Refused is the denial; "" means granted.
	Refused Reason `json:"refused,omitempty"`
	// Serial counts the answers about the seat: the clock does not tell which
	// of two came later, for it can be set.
	Serial    uint64    `json:"serial,omitempty"`
	CheckedAt time.Time `json:"checked_at"`
	BenefitID string    `json:"benefit_id,omitempty"`
	ExpiresAt time.Time `json:"expires_at,omitzero"`
	// Skew is how far Polar's clock was ahead of ours, when that was more than
	// maxSkew, and how far ours was found behind since; negative if Polar's was behind. The way of an answer counts as lag, so that a
	// slow one can put off the expiry, by a timeout at most.
	Skew time.Duration `json:"skew,omitempty"`
	// Usage and LimitUsage count uses; LimitUsage is nil for no limit.
	Usage      int64  `json:"usage,omitempty"`
	LimitUsage *int64 `json:"limit_usage,omitempty"`
	// Seats: the key has activations, and is to be used with one.
	Seats bool `json:"seats,omitempty"`
	// HighWater is the latest time seen here since. A clock behind it was ahead then, or
	// has been set back; see follow.
	HighWater time.Time `json:"mark"`
	// LastFailure is why Polar gave no answer when it was asked after CheckedAt, if it
	// was, and NextTry when to ask again.
	LastFailure Reason    `json:"vain,omitempty"`
	NextTry     time.Time `json:"retry_at,omitzero"`
	// Cause says of ErrUnreachable what kept Polar from being reached.
	Cause Phrase `json:"cause,omitempty"`
}

// replaced reports whether v is another answer than w was.
func (v *verdict) replaced(w *verdict) bool {
	return v != nil && (w == nil || !v.answered().Equal(w.answered()) || v.Refused != w.Refused)
}

// since reports whether v is what came of a question that was asked after w was
// stored.
func (v *verdict) since(w *verdict) bool {
	return v != nil && (v.replaced(w) || !v.NextTry.IsZero() && !v.NextTry.Equal(w.NextTry))
}

// answered is when the verdict came by Polar's clock, as far as that was told.
func (v *verdict) answered() time.Time { return v.CheckedAt.Add(v.Skew) }

// newer reports whether v is at least as recent as w.
func (v *verdict) newer(w *verdict) bool {
	if v == nil {
		return false
	}
	if v.Serial != w.Serial {
		return v.Serial > w.Serial
	}
	a, b := v.answered(), w.answered()
	return a.After(b) || a.Equal(b) && v.latest().Sub(v.CheckedAt) >= w.latest().Sub(w.CheckedAt)
}

// follow is the verdict by a clock that shows a time before the mark. Either it was
// ahead when it was looked at last, or it has been set back since, which cannot be
// told apart. So all times move along with the clock, and what has passed since the
// verdict has passed: the clock buys no time, and costs none. That is for a day, as
// a wrong date or a second system with another idea of the time zone makes it, or for
// as much as Polar said that the clock was ahead. Further back, or before Polar's own
// time of the verdict, the clock is not believed, and the verdict stays as it is.
func (v *verdict) follow(now time.Time) *verdict {
	back := v.latest().Sub(now)
	known := clockSlack - v.Skew // what of it Polar's clock explains
	switch {
	case v.Refused != "", back <= clockSlack, back > max(clockJump, known),
		now.Before(v.answered().Add(-clockSlack)), v.Skew > v.Skew+back:
		return v
	}
	moved := *v
	moved.CheckedAt, moved.HighWater, moved.Skew = v.CheckedAt.Add(-back), now, v.Skew+back
	moved.NextTry = time.Time{} // how long ago that was is not known
	return &moved
}

// latest is the mark, which is never before the verdict.
func (v *verdict) latest() time.Time {
	if v.HighWater.Before(v.CheckedAt) {
		return v.CheckedAt
	}
	return v.HighWater
}

// backingOff reports whether Polar was asked in vain a moment ago, by a clock that
// was not set back since.
func (v *verdict) backingOff(now time.Time) bool {
	return !now.Before(v.HighWater) && pace.Within(v.NextTry.Sub(now), maxPause) > 0
}

const (
	// clockSlack is how far a clock may be behind the mark without alarm: a
	// correction over the network or a time zone set by hand.
	clockSlack = time.Hour
	// clockJump is how far a clock may be behind the mark, or have been ahead, and
	// still be followed: a day, and what summer time and the slack add.
	clockJump = 26 * time.Hour
	// maxSkew is a difference to Polar's clock that is of no interest.
	maxSkew = 2 * time.Second
	// refusalFresh is how long a denial is believed without asking again: no
	// longer than keeps a script that calls a locked program in a loop within
	// Polar's limit, for who has just renewed is in a hurry.
	refusalFresh = time.Second
	// vainFresh is how long an outage is believed while grace lasts.
	vainFresh = 30 * time.Second
	// renewPause is the same while the last answer is fresh still: short runs
	// of a program are not to be held up by a network that hangs.
	renewPause = 10 * time.Minute
	// outboxPause is how long a seat that could not be given back waits for the
	// next try: nobody is kept from anything by it.
	outboxPause = time.Minute
)

// validity is what a verdict comes to at some moment.
type validity struct {
	state      State
	reason     Reason
	freshUntil time.Time // no need to ask before
	graceUntil time.Time // no access after, unless Polar answers
	// changes is when this ends by itself; zero if it does not.
	changes time.Time
}

// evaluate is the whole of the offline rules: a verdict, the clock, and the two
// periods decide. It does no I/O. grace counts from the last granted verdict;
// negative is none.
func evaluate(v *verdict, now time.Time, fresh, grace time.Duration) validity {
	mark := v.latest()
	// A clock that is set back must not buy time.
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
		s.freshUntil = earlier(s.freshUntil, clock) // Polar is to be asked, whatever the clock says
	}
	return s
}

// nextVerdict is what an outcome makes of the last verdict. nil means that there
// is nothing to keep.
func nextVerdict(last *verdict, license *LicenseKey, err error, now time.Time, fresh time.Duration) *verdict {
	var e *Error
	serial := uint64(1)
	if last != nil {
		serial = last.Serial + 1
	}
	switch {
	case license != nil:
		v := &verdict{Serial: serial, CheckedAt: now, BenefitID: license.BenefitID, ExpiresAt: license.ExpiresAt, Usage: license.Usage, LimitUsage: license.LimitUsage, Seats: license.seats() > 0, HighWater: now}
		if skew := license.answeredAt.Sub(now); skew.Abs() > maxSkew {
			v.Skew = skew
		}
		return v
	case isDenial(err) && errors.As(err, &e):
		v := &verdict{Serial: serial, Refused: e.Reason, CheckedAt: now, HighWater: now}
		if last != nil {
			v.BenefitID, v.ExpiresAt, v.Skew = last.BenefitID, last.ExpiresAt, last.Skew
			v.Usage, v.LimitUsage = last.Usage, last.LimitUsage
		}
		return v
	case last == nil:
		return nil
	}
	v := *last
	if now.After(v.HighWater) {
		v.HighWater = now
	}
	v.LastFailure, v.Cause = ErrUnreachable, ""
	pause := vainFresh
	if now.Before(v.CheckedAt.Add(fresh)) {
		pause = renewPause
	}
	if errors.As(err, &e) {
		v.LastFailure, v.Cause, pause = e.Reason, e.cause(), max(pause, e.RetryAfter)
	}
	v.NextTry = now.Add(min(pause, fresh))
	return &v
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// What is stored is JSON, sealed by package seal: a state with a key that comes from the
// organization, the app and the program's Secret, and the verdict in it with one that
// needs the machine, too. It keeps the file from being read and edited by hand; it is no
// protection from a person who takes the program apart.
const (
	stateMagic   = "PGS1"
	verdictMagic = "PGV1"
	indexMagic   = "PGI1"
	// maxPlain leaves room for the seal within maxState. A state takes 2 KiB,
	// and 300 bytes for each seat that waits to be given back.
	maxPlain = maxState - 1024
)

// sealer holds the key of the outer seal, or why there is none.
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
	if st.InstallationID == "" || st.Seat != nil && st.Seat.Key == "" {
		return nil, seal.ErrBroken
	}
	return &st, nil
}

// The list of machines says nothing secret, but whatever is in the Store is sealed.
func (s sealer) sealIndex(tags []string) ([]byte, error) {
	return sealJSON(s.key, indexMagic, "", tags)
}

func (s sealer) openIndex(data []byte) ([]string, error) {
	var tags []string
	if err := openJSON(s.key, indexMagic, "", data, &tags); err != nil {
		return nil, err
	}
	for _, tag := range tags {
		if !isTag(tag) {
			return nil, seal.ErrBroken
		}
	}
	return tags, nil
}

// isTag reports whether a text can be part of the name of a state.
func isTag(tag string) bool {
	return tag != "" && len(tag) <= 16 && strings.Trim(tag, "0123456789abcdefghijklmnopqrstuvwxyz") == ""
}

// The verdict is bound to the machine by its key, and to the seat by the data
// that the seal covers: it cannot be put beside another seat.
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

// openJSON fails with seal.ErrBroken for everything that this program has not sealed.
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
