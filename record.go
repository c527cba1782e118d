package polargate

import (
	"errors"
	"slices"
	"time"
)

// A license is seen in four ways, each made of the one before:
//
//	record    what is stored, opened: the activation, the outbox, the intent, the verdict
//	verdict   what Polar said last about the activation, and when
//	validity  what a verdict is worth at a moment: fresh, in grace or locked, and until when
//	snapshot  the validity, published: the features for Has, and the Status
//
// A record changes only by next, and is then saved and published as a whole. Everything in
// this file is pure; record_io.go reads and writes records.

// record is the stored state, opened. It is a value: nothing that it points to is changed.
type record struct {
	state   state
	verdict *verdict // nil if there is none, or if it can't be opened on this computer
	trouble Reason   // why something that should be there is missing
	// others are the activations of other computers, if this one has none.
	others []seat
	// tried is the trial of another computer whose state is beside this one's, if this one
	// has no license: a copy brings no new trial. nil if there is none.
	tried *trial
	// stored: the record was read or saved under this computer's name.
	stored bool
	// missing: the record was stored, and has disappeared. Deactivate stores that it
	// removed a license, so a state that has disappeared was lost, and is written again.
	missing bool
	// unread is why the Store couldn't be read; nil if it could. What the Store holds
	// isn't known then, and must not be overwritten.
	unread error
}

// rules are what an event's outcome depends on besides the record.
type rules struct {
	fresh   time.Duration // FreshFor
	here    string        // this computer's fingerprint
	accepts func(benefitID string) bool
	// leaseServer: there is a license server, so that a lease can be given back to it.
	leaseServer bool
}

// effect is what is to be done about an event.
type effect int

const (
	storing   effect = iota // store the record
	releasing               // deactivate, at Polar, what waits in the outbox
)

// recordEvent is something that happened to a record. The events are listed below, each
// with what it changes.
type recordEvent interface {
	// apply changes rec and reports true, or leaves it as it is and reports false.
	apply(rec *record, now time.Time, r rules) (changed bool)
}

// next returns the record after an event, and what to do about it: nothing if the event
// changes nothing. It does no I/O, and doesn't change the record that it is called on.
func (rec record) next(e recordEvent, now time.Time, r rules) (record, []effect) {
	after := rec
	after.state.Outbox = slices.Clone(rec.state.Outbox)
	switch {
	case e == nil || !e.apply(&after, now, r):
		return rec, nil
	case after.state.waiting():
		return after, []effect{storing, releasing}
	}
	return after, []effect{storing}
}

// The events that bring an answer of Polar or a time.

// answered: Polar was asked about an activation whose verdict then was after. license or
// err is the outcome. It becomes the verdict, unless the license is another by now, or an
// answer to a later question is here already.
type answered struct {
	of        *seat
	after     *verdict
	asked, at time.Time
	license   *LicenseKey
	err       error
}

func (e answered) apply(rec *record, _ time.Time, r rules) bool {
	if rec.trouble != "" || !rec.state.Seat.same(e.of) {
		return false
	}
	if rec.verdict.replaced(e.after) && rec.verdict.CheckedAt.After(e.asked) {
		return false
	}
	if e.license != nil && e.license.proof == nil && rec.verdict.proven() {
		v := *rec.verdict // Polar counted uses; the rest of the lease's verdict stays
		v.Serial, v.Usage, v.LimitUsage = v.Serial+1, e.license.Usage, e.license.LimitUsage
		rec.verdict = &v
		return true
	}
	return rec.answer(e.license, e.err, e.at, r)
}

// timeSeen: the clock was read. A later time than before is noted.
type timeSeen struct{ at time.Time }

func (e timeSeen) apply(rec *record, _ time.Time, _ rules) bool { return rec.noteTime(e.at) }

// clockFollowed: the clock was set back, and the verdict in memory has followed it. The
// time is noted, and the verdict stored.
type clockFollowed struct{ at time.Time }

func (e clockFollowed) apply(rec *record, _ time.Time, _ rules) bool {
	rec.noteTime(e.at) // the stored verdict may be another one by now
	return rec.verdict != nil
}

// trialStarted: the first check found no license.
type trialStarted struct{}

func (trialStarted) apply(rec *record, now time.Time, _ rules) bool {
	if !rec.mayTry() {
		return false
	}
	begin := &trial{Began: now, HighWater: now}
	if rec.tried != nil {
		begin = rec.tried.seen(now)
	}
	rec.state.Trial = begin
	return true
}

// trialLeased: the license server gave a trial to this computer, or refused one.
type trialLeased struct{ trial *trial }

func (e trialLeased) apply(rec *record, _ time.Time, _ rules) bool {
	if !rec.wantsTrialLease() {
		return false
	}
	rec.state.Trial = e.trial
	return true
}

// trialSeen: the clock was read during a trial.
type trialSeen struct{ at time.Time }

func (e trialSeen) apply(rec *record, _ time.Time, _ rules) bool {
	if !rec.trying() {
		return false
	}
	rec.state.Trial = rec.state.Trial.seen(e.at)
	return true
}

// reminded: a program reminds of the end of the license or trial, once a day.
type reminded struct{ at time.Time }

func (e reminded) apply(rec *record, _ time.Time, _ rules) bool {
	if sameDay(rec.state.Reminded, e.at) {
		return false
	}
	rec.state.Reminded = e.at
	return true
}

// unsaved: the Store failed earlier. A license that is only in memory is stored.
type unsaved struct{}

func (unsaved) apply(rec *record, _ time.Time, _ rules) bool { return rec.state.Seat != nil }

// The events of an activation, in the order of its steps; see attempt.

// judged: Polar was asked about an earlier activation, with the key to activate. What the
// answer says about that activation is kept, whatever becomes of the key.
type judged struct {
	candidate
	finding finding
	license *LicenseKey
	err     error
}

func (e judged) apply(rec *record, now time.Time, r rules) bool {
	st := &rec.state
	switch e.finding {
	case foundElsewhere:
		// It is released under the new key, and then this computer is activated.
		s := e.seat
		s.Key, s.State = e.key, activated
		if e.current {
			st.Seat = &s
		} else {
			st.Outbox[e.index] = s
		}
	case foundReleasedHere:
		st.Seat = e.seat.is(released)
		rec.answer(nil, e.err, now, r)
	case foundReleased:
		st.Outbox = slices.DeleteFunc(st.Outbox, func(o seat) bool { return o.same(&e.seat) })
	case foundForeign, foundRefused:
		if !e.same || !e.current {
			return false
		}
		rec.answer(e.license, e.err, now, r)
	default:
		return false
	}
	return true
}

// vacating: the activation of another computer is about to be released. It waits in the
// outbox, and becomes the license to activate here if there is no better one.
type vacating struct{ other seat }

func (e vacating) apply(rec *record, _ time.Time, r rules) bool {
	st := &rec.state
	st.Outbox = append(st.Outbox, e.other)
	if s := st.Seat; s == nil || !s.held() || rec.verdict != nil && rec.verdict.Refused == ErrSeatReleased {
		st.Seat, st.Verdict, st.Left = e.other.reactivatingOn(r.here), nil, false
		rec.verdict, rec.trouble = nil, ErrOtherMachine
	}
	return true
}

// begun: Polar is about to be asked for an activation. The intent is kept until the answer
// is known.
type begun struct{ intent intent }

func (e begun) apply(rec *record, _ time.Time, _ rules) bool {
	rec.state.Intent = &e.intent
	return true
}

// cleared: an activation that was in the way was released. If it was the license, it is to
// be activated again; otherwise it leaves the outbox.
type cleared struct{ was seat }

func (e cleared) apply(rec *record, _ time.Time, r rules) bool {
	st := &rec.state
	if s := st.Seat; s != nil && s.same(&e.was) {
		st.Seat = s.reactivatingOn(r.here)
		rec.verdict, rec.trouble = nil, ErrOtherMachine
	} else {
		st.Outbox = slices.DeleteFunc(st.Outbox, func(o seat) bool { return o.same(&e.was) })
	}
	return true
}

// turnedDown: Polar gave no activation, or one that is of no use here. If the useless one
// couldn't be released, it is left, and waits in the outbox. A license that was being
// moved here is refused.
type turnedDown struct {
	err  error
	left *seat
}

func (e turnedDown) apply(rec *record, now time.Time, r rules) bool {
	st := &rec.state
	if e.left != nil {
		st.Outbox = append(st.Outbox, *e.left)
	}
	if s := st.Seat; s != nil && s.State == reactivating && isDenial(e.err) {
		rec.verdict, rec.trouble = nextVerdict(rec.verdict, nil, e.err, now, r.fresh), ""
	}
	return true
}

// doubted: Polar may have given an activation, but no answer came. The intent stays. A
// license that was being moved here counts as released: trying again unasked could cost
// one more activation each time.
type doubted struct{}

func (doubted) apply(rec *record, now time.Time, _ rules) bool {
	if s := rec.state.Seat; s != nil && s.State == reactivating {
		rec.state.Seat = s.is(released)
		rec.verdict, rec.trouble = &verdict{Refused: ErrSeatReleased, CheckedAt: now, HighWater: now}, ""
	}
	return true
}

// abandoned: the intent is over, and certainly had no effect. An earlier doubt is left as
// it was.
type abandoned struct{ earlier *intent }

func (e abandoned) apply(rec *record, _ time.Time, _ rules) bool {
	rec.state.Intent = e.earlier
	return true
}

// settled: this activation is the license from now on. The one before it is released, and
// a doubt about the same key is resolved.
type settled struct {
	seat    *seat
	license *LicenseKey
}

func (e settled) apply(rec *record, now time.Time, r rules) bool {
	st := &rec.state
	mine := func(o seat) bool { return o.activates(e.seat) }
	st.Outbox = slices.DeleteFunc(st.Outbox, mine)
	if old := st.Seat; old != nil && old.held() && !mine(*old) {
		st.Outbox = append(st.Outbox, *old)
	}
	if st.Intent != nil && st.Intent.Key == e.seat.Key {
		st.Intent = nil
	}
	st.Seat, st.Left, st.Request, rec.trouble = e.seat, false, nil, ""
	st.Trial = st.Trial.over()
	rec.answer(e.license, nil, now, r)
	return true
}

// imported: another program's activation is this computer's from now on, although Polar
// couldn't be asked about it. provisional is what counts until Polar answers; nil for
// nothing. A trial goes on until Polar grants the activation.
type imported struct {
	seat        *seat
	provisional *verdict
}

func (e imported) apply(rec *record, _ time.Time, _ rules) bool {
	if !rec.takesImports() {
		return false
	}
	rec.state.Seat, rec.state.Left = e.seat, false
	rec.verdict, rec.trouble = e.provisional, ""
	return true
}

// The events of an activation's end.

// removed: the license was deactivated on purpose. Its activation waits in the outbox, until
// it is released, or for good if only a receipt can end it. Its lease can't be put back.
type removed struct{}

func (removed) apply(rec *record, _ time.Time, r rules) bool {
	st := &rec.state
	s := st.Seat
	if s == nil && !rec.elsewhere() {
		return false
	}
	st.Left = true
	if s != nil && s.held() {
		out := *s
		if s.byFile() && !r.leaseServer {
			out.State = unreleasable
		}
		st.Outbox = append(st.Outbox, out)
	}
	if s != nil && s.Lease != nil {
		st.Newest, st.Request = st.Newest.Add(time.Second), nil
	}
	if s != nil {
		st.Seat, rec.verdict, rec.trouble = nil, nil, ""
	}
	return true
}

// requested: a request for a license file was made. It is kept until it is answered, so that
// asking again gives the same request.
type requested struct{ request offlineRequest }

func (e requested) apply(rec *record, _ time.Time, _ rules) bool {
	if now := rec.state.Request; now != nil && now.LeaseID == e.request.LeaseID {
		return false
	}
	rec.state.Request = &e.request
	return true
}

// flushed: the activations in the outbox were released, except those that are left.
type flushed struct {
	left   []seat
	failed bool
}

func (e flushed) apply(rec *record, now time.Time, _ rules) bool {
	rec.state.Outbox, rec.state.OutboxRetry = capped(e.left), time.Time{}
	if e.failed {
		rec.state.OutboxRetry = now.Add(outboxPause)
	}
	return true
}

// maxOutbox bounds how many activations wait to be released. The oldest, which has been
// tried most often, is given up first.
const maxOutbox = 32

func capped(seats []seat) []seat {
	return seats[max(0, len(seats)-maxOutbox):]
}

// answer makes the outcome of a question the verdict, and reports whether there was one. A
// grant ends a trial. It notes which lease is the newest; after a refusal, that lease can't be
// put back.
func (rec *record) answer(license *LicenseKey, err error, now time.Time, r rules) bool {
	st, was := &rec.state, rec.verdict
	next := nextVerdict(was, license, err, now, r.fresh)
	if next == nil {
		return false
	}
	rec.verdict = next
	if license != nil && r.accepts(license.BenefitID) {
		st.Trial = st.Trial.over()
	}
	switch {
	case license != nil && license.proof != nil:
		if st.Seat != nil {
			st.Seat = st.Seat.leased(license)
		}
		if license.proof.Issued.After(st.Newest) {
			st.Newest = license.proof.Issued
		}
	case isDenial(err) && was.proven():
		st.Newest = st.Newest.Add(time.Second)
	}
	return true
}

// Questions about a record.

// noteTime raises the latest time seen, and reports whether now is later.
func (rec *record) noteTime(now time.Time) bool {
	if rec.verdict == nil || !now.After(rec.verdict.HighWater) {
		return false
	}
	v := *rec.verdict
	v.HighWater = now
	rec.verdict = &v
	return true
}

// worthKeeping reports whether there is anything to lose.
func (rec *record) worthKeeping() bool {
	return rec.state.Seat != nil || len(rec.state.Outbox) > 0 || rec.state.Intent != nil || rec.state.Trial != nil
}

// mayTry reports whether a trial may begin: there was never a license here, nor a trial.
func (rec *record) mayTry() bool {
	return rec.state.Seat == nil && !rec.state.Left && rec.state.Trial == nil && rec.trouble == "" && rec.unread == nil && len(rec.others) == 0
}

// wantsTrialLease reports whether a trial may begin by a lease: there is none yet, or one of
// before the license server.
func (rec *record) wantsTrialLease() bool {
	t := rec.state.Trial
	return rec.mayTry() && (rec.tried == nil || !rec.tried.Over) || rec.trying() && rec.state.Seat == nil && t.proof == nil && !t.Refused
}

// trying reports whether a trial began, and no license was granted since.
func (rec *record) trying() bool {
	return rec.state.Trial != nil && !rec.state.Trial.Over
}

// unconfirmed reports whether Polar hasn't answered yet about the activation.
func (rec *record) unconfirmed() bool {
	return rec.state.Seat != nil && (rec.verdict == nil || rec.verdict.Provisional)
}

// takesImports reports whether an activation that Polar couldn't be asked about can become
// the license: it must not replace one that Polar counts, or that is being moved here.
func (rec *record) takesImports() bool {
	s := rec.state.Seat
	return s == nil || !s.held() && s.State != reactivating
}

// untouched reports whether there has been no license here yet. A trial is none.
func (rec *record) untouched() bool {
	if rec.trying() {
		before := *rec
		before.state.Trial = nil
		rec = &before
	}
	return !rec.worthKeeping() && !rec.state.Left && rec.trouble == "" && rec.unread == nil
}

// elsewhere reports whether the only license is that of another computer.
func (rec *record) elsewhere() bool {
	return rec.state.Seat == nil && !rec.state.Left && rec.trouble == "" && len(rec.others) > 0
}

// doubtLasts is how long a doubt is reported. By then, the user or the vendor has resolved it.
const doubtLasts = 30 * 24 * time.Hour

// inDoubt reports whether an activation was begun whose outcome isn't known. The attempt
// that is under way is not in doubt yet.
func (rec *record) inDoubt(now time.Time, underWay string) bool {
	i := rec.state.Intent
	return i != nil && i.AttemptID != underWay && now.Sub(i.At).Abs() < doubtLasts
}

// validity is what a record is worth at a moment, to a program of that configuration.
func (rec *record) validity(now time.Time, c *Config, underWay string) validity {
	tried, ok := rec.state.Trial.validity(now, c)
	switch {
	case rec.state.Seat != nil:
		s := rec.ofSeat(now, c)
		if s.state == Locked && tried.state == InTrial {
			tried.freshUntil = s.freshUntil
			return tried
		}
		return s
	case tried.state == InTrial:
		return tried
	case rec.trouble != "":
		return validity{state: Unlicensed, reason: rec.trouble}
	case rec.inDoubt(now, underWay):
		return validity{state: Unlicensed, reason: ErrInDoubt}
	case rec.elsewhere():
		return validity{state: Locked, reason: ErrOtherMachine}
	case ok:
		return tried
	}
	return validity{state: Unlicensed, reason: ErrNoLicense}
}

// ofSeat is the validity of a record with an activation, without regard to a trial.
func (rec *record) ofSeat(now time.Time, c *Config) validity {
	switch {
	case rec.verdict == nil && rec.trouble != "":
		return validity{state: Locked, reason: rec.trouble}
	case rec.verdict == nil && rec.state.Seat.byFile():
		return validity{state: Locked, reason: ErrBadLease}
	case rec.verdict == nil:
		return validity{state: Locked, reason: ErrUnreachable}
	case rec.verdict.Refused == "" && rec.state.Seat.State == seatless && rec.verdict.Seats && c.takesSeats():
		return refusedHere(rec.verdict, now, c.FreshFor, ErrSeatReleased)
	case rec.verdict.Refused == "" && rec.state.Seat.State == seatless && !c.allowsSeatless():
		return validity{state: Locked, reason: ErrActivationsUnsupported}
	case rec.verdict.Refused == "" && !c.accepts(rec.verdict.BenefitID) && !rec.verdict.trial() && !rec.verdict.Provisional:
		return refusedHere(rec.verdict, now, c.FreshFor, ErrWrongBenefit)
	case rec.verdict.proven():
		return leaseValidity(rec.verdict, now, rec.state.Newest, c)
	case rec.verdict.Refused == "" && c.hasLeaseServer():
		return validity{state: Locked, reason: ErrUnreachable} // Polar's word of before: a lease is needed now
	}
	return c.fallBack(rec.verdict, evaluate(rec.verdict, now, c.FreshFor, c.GracePeriod), now)
}

// refusedHere is the validity of a license that Polar grants and this program refuses.
func refusedHere(v *verdict, now time.Time, fresh time.Duration, why Reason) validity {
	s := validity{state: Locked, reason: why}
	if !now.Before(v.CheckedAt) {
		s.freshUntil = evaluate(v, now, min(fresh, refusalFresh), -1).freshUntil
	}
	return s
}

// candidate is an earlier activation that may serve a key.
type candidate struct {
	seat    seat
	key     string // the key to activate
	same    bool   // the activation has that key
	current bool   // it is the license; otherwise it is in the outbox, at index
	index   int
}

// maxCandidates bounds how many questions one Activate asks. More than one candidate is
// rare.
const maxCandidates = 3

// candidates are the earlier activations that a key may use, the likeliest first: that of
// the license, and those that wait to be released, which are as good as new ones. Their
// key may be another one, since Polar keeps activations when it rotates a key. Two kinds
// are left out: a key without activations, which may have got some since, and what was
// activated on another computer under this key, which can only be in the way.
func candidates(rec record, key Key, here string) []candidate {
	var all []candidate
	consider := func(s seat, current bool, index int) {
		c := candidate{seat: s, key: key.Reveal(), same: s.Key == key.Reveal(), current: current, index: index}
		switch {
		case !s.held() && s.State != released, c.same && s.Machine != here:
		case c.same:
			all = slices.Insert(all, 0, c)
		default:
			all = append(all, c)
		}
	}
	if s := rec.state.Seat; s != nil {
		consider(*s, true, 0)
	}
	for i, s := range rec.state.Outbox {
		consider(s, false, i)
	}
	return all[:min(len(all), maxCandidates)]
}

// finding is what an answer means for a candidate.
type finding int

const (
	foundGood         finding = iota // it is valid, and used
	foundForeign                     // the key is of a benefit that this program doesn't accept
	foundElsewhere                   // it is of this license, but of another computer
	foundReleasedHere                // it was the license, and is released: the others are looked at
	foundReleased                    // it is released: a new one is due
	foundAnother                     // it is not of this key, or not under these conditions
	foundOnlyThis                    // it is refused, and whether the key is good isn't known
	foundRefused                     // the key is refused
	foundUnclear                     // Polar gave no answer
)

// judge is what Polar's answer means for a candidate.
func judge(c candidate, license *LicenseKey, err error, r rules) finding {
	e, _ := errors.AsType[*Error](err)
	switch {
	case err == nil && !r.accepts(license.BenefitID):
		return foundForeign
	case err == nil && c.seat.Machine != r.here:
		return foundElsewhere
	case err == nil:
		return foundGood
	case errors.Is(err, ErrSeatReleased) && c.same && c.current:
		return foundReleasedHere
	case errors.Is(err, ErrSeatReleased) && c.same:
		return foundReleased
	case errors.Is(err, ErrSeatReleased), errors.Is(err, ErrConditionsMismatch):
		return foundAnother
	case e != nil && e.Reason == ErrDenied && !c.same && e.Err != nil:
		return foundOnlyThis
	case isDenial(err):
		return foundRefused
	}
	return foundUnclear
}

// problem is why the key can't be activated.
func (e judged) problem() error {
	if failure, ok := errors.AsType[*Error](e.err); ok && e.finding == foundOnlyThis {
		return failure.Err
	}
	if e.finding == foundForeign {
		return &Error{Op: opActivate, Reason: ErrWrongBenefit}
	}
	return e.err
}
