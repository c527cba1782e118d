package polargate

import (
	"context"
	"crypto/rand"
	"errors"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/polargate/polargate/internal/seal"
)

// A license is seen in four ways, each made of the one before:
//
//	record    what is stored, opened: the activation, the outbox, the intent, the verdict
//	verdict   what Polar said last of the activation, by which clock
//	validity  what a verdict is worth at a moment: fresh, in grace or locked, and until when
//	snapshot  the validity published: the features for Has, and the Status for everybody
//
// A record changes only by next, and is then saved and published as a whole.

// record is the stored state, opened.
type record struct {
	state   state
	verdict *verdict // nil if there is none, or if it can't be opened on this computer
	trouble Reason   // why something that should be there is missing
	// loaded is the verdict as it was read.
	loaded *verdict
	// others are the activations of other computers, if this one has none.
	others []seat
	// stored: the record was read or saved under this computer's name.
	stored bool
	// missing: it was stored, and has disappeared. Deactivate stores that it removed a
	// license, so a state that has disappeared was lost, and is written again.
	missing bool
	// unread is why the Store couldn't be read; nil if it could. What it holds isn't known
	// then, and must not be overwritten.
	unread error
}

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
	return rec.state.Seat != nil || len(rec.state.Outbox) > 0 || rec.state.Intent != nil
}

// elsewhere reports whether the only license is that of another computer.
func (rec *record) elsewhere() bool {
	return rec.state.Seat == nil && !rec.state.Left && rec.trouble == "" && len(rec.others) > 0
}

// rules are what next depends on besides the record.
type rules struct {
	fresh   time.Duration // FreshFor
	here    string        // this computer's fingerprint
	accepts func(benefitID string) bool
}

// recordEvent is something that happened to a record; see next.
type recordEvent any

// What Polar said, and what the clock shows.
type (
	// answered: Polar was asked about an activation, whose verdict then was after. License
	// or err is the outcome.
	answered struct {
		of        *seat
		after     *verdict
		asked, at time.Time
		license   *LicenseKey
		err       error
	}
	// timeSeen: the clock was looked at.
	timeSeen struct{ at time.Time }
	// clockFollowed: the clock was set back, and the verdict in memory has followed it.
	clockFollowed struct{ at time.Time }
	// unsaved: what is known is not stored yet.
	unsaved struct{}
)

// The steps of an activation, and of its end.
type (
	// judged: Polar was asked about an earlier activation, with the key to activate.
	judged struct {
		candidate
		finding finding
		license *LicenseKey
		err     error
	}
	// vacating: the activation of another computer is about to be released.
	vacating struct{ other seat }
	// begun: Polar is about to be asked for an activation.
	begun struct{ intent intent }
	// cleared: an activation that was in the way was released.
	cleared struct{ was seat }
	// turnedDown: Polar gave no activation, or a useless one. If that couldn't be released
	// again, it is left.
	turnedDown struct {
		err  error
		left *seat
	}
	// doubted: it isn't known whether Polar has given an activation.
	doubted struct{}
	// abandoned: the intent is over. An earlier doubt is left as it was.
	abandoned struct{ earlier *intent }
	// settled: this activation is the license from now on.
	settled struct {
		seat    *seat
		license *LicenseKey
	}
	// removed: the license was deactivated on purpose.
	removed struct{}
	// flushed: the activations that waited were released, except those that are left.
	flushed struct {
		left   []seat
		failed bool
	}
)

// effect is what is to be done about an event.
type effect int

const (
	storing   effect = iota // store the record
	releasing               // release an activation at Polar
)

// next returns the record after an event, and what to do about it: nothing if the event
// changes nothing. It does no I/O, and doesn't change the record that it is called on.
func (rec record) next(what recordEvent, now time.Time, r rules) (record, []effect) {
	was := rec
	st := &rec.state
	st.Outbox = slices.Clone(st.Outbox)
	switch e := what.(type) {
	case answered:
		if rec.trouble != "" || !st.Seat.same(e.of) || rec.verdict.replaced(e.after) && rec.verdict.CheckedAt.After(e.asked) {
			return was, nil // of another activation, or overtaken by a later answer
		}
		next := nextVerdict(rec.verdict, e.license, e.err, e.at, r.fresh)
		if next == nil {
			return was, nil
		}
		rec.verdict = next
	case timeSeen:
		if !rec.noteTime(e.at) {
			return was, nil
		}
	case clockFollowed:
		rec.noteTime(e.at) // what is stored may be another verdict by now
		if rec.verdict == nil {
			return was, nil
		}
	case unsaved:
		if st.Seat == nil {
			return was, nil
		}
	case judged:
		return rec.judged(e, now, r)
	case vacating:
		st.Outbox = append(st.Outbox, e.other)
		if s := st.Seat; s == nil || !s.held() || rec.verdict != nil && rec.verdict.Refused == ErrSeatReleased {
			st.Seat, st.Verdict, st.Left = e.other.reactivatingOn(r.here), nil, false
			rec.verdict, rec.trouble = nil, ErrOtherMachine
		}
	case begun:
		st.Intent = &e.intent
	case cleared:
		if s := st.Seat; s != nil && s.same(&e.was) {
			st.Seat = s.reactivatingOn(r.here)
			rec.verdict, rec.trouble = nil, ErrOtherMachine
		} else {
			st.Outbox = slices.DeleteFunc(st.Outbox, func(o seat) bool { return o.same(&e.was) })
		}
	case turnedDown:
		if e.left != nil {
			st.Outbox = append(st.Outbox, *e.left)
		}
		if s := st.Seat; s != nil && s.State == reactivating && isDenial(e.err) {
			rec.verdict, rec.trouble = nextVerdict(nil, nil, e.err, now, r.fresh), ""
		}
	case doubted:
		if s := st.Seat; s != nil && s.State == reactivating {
			// Not to be tried again unasked: each try may cost an activation.
			st.Seat = s.is(released)
			rec.verdict, rec.trouble = &verdict{Refused: ErrSeatReleased, CheckedAt: now, HighWater: now}, ""
		}
	case abandoned:
		st.Intent = e.earlier
	case settled:
		mine := func(o seat) bool { return o.ActivationID == e.seat.ActivationID }
		st.Outbox = slices.DeleteFunc(st.Outbox, mine)
		if old := st.Seat; old != nil && old.held() && !mine(*old) {
			st.Outbox = append(st.Outbox, *old)
		}
		if st.Intent != nil && st.Intent.Key == e.seat.Key {
			st.Intent = nil
		}
		st.Seat, st.Left, rec.trouble = e.seat, false, ""
		rec.verdict = nextVerdict(rec.verdict, e.license, nil, now, r.fresh)
	case removed:
		s := st.Seat
		if s == nil && !rec.elsewhere() {
			return was, nil
		}
		if s != nil && s.held() {
			st.Outbox = append(st.Outbox, *s)
		}
		st.Left = true
		if s != nil {
			st.Seat, rec.verdict, rec.trouble = nil, nil, ""
		}
	case flushed:
		st.Outbox, st.OutboxRetry = capped(e.left), time.Time{}
		if e.failed {
			st.OutboxRetry = now.Add(outboxPause)
		}
	default:
		return was, nil
	}
	return rec, rec.effects()
}

// effects is what to do about a record that has changed.
func (rec *record) effects() []effect {
	if rec.state.waiting() {
		return []effect{storing, releasing}
	}
	return []effect{storing}
}

// judged is next for the event of that name.
func (rec record) judged(e judged, now time.Time, r rules) (record, []effect) {
	st := &rec.state
	switch e.finding {
	case foundElsewhere:
		// It is to be released under the new key, and activated anew.
		s := e.seat
		s.Key, s.State = e.key, activated
		if e.current {
			st.Seat = &s
		} else {
			st.Outbox[e.index] = s
		}
	case foundReleasedHere:
		st.Seat = e.seat.is(released)
		rec.verdict = nextVerdict(rec.verdict, nil, e.err, now, r.fresh)
	case foundReleased:
		st.Outbox = slices.DeleteFunc(st.Outbox, func(o seat) bool { return o.same(&e.seat) })
	case foundForeign, foundRefused:
		if !e.same || !e.current {
			return rec, nil
		}
		rec.verdict = nextVerdict(rec.verdict, e.license, e.err, now, r.fresh)
	default:
		return rec, nil
	}
	return rec, rec.effects()
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

// candidate is an earlier activation that may be good for a key.
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

// candidates are the activations of before that an activation of a key may go on with,
// the likeliest first: the one at hand, and those that wait to be released, which are
// as good as new ones. The key may be another than theirs, since Polar keeps
// activations when it rotates a key. A key without activations is not among them: it
// may have got some since. And what was activated elsewhere under this key is in the
// way, at most.
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

// finding is what an answer makes of a candidate.
type finding int

const (
	foundGood         finding = iota // it is used
	foundForeign                     // the key is of a benefit that this program does not take
	foundElsewhere                   // it is of this license, but of another machine
	foundReleasedHere                // the one at hand is released: the others are looked at
	foundReleased                    // it is released: a new one is due
	foundAnother                     // it is not of this key, or not under these conditions
	foundOnlyThis                    // it is refused, and it is not known whether the key is good
	foundRefused                     // the key is refused
	foundUnclear                     // nobody can say
)

// judge is what Polar's answer about a candidate means.
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

// rules are those of this program, for a record.
func (g *Gate) rules(rec record) rules {
	return rules{fresh: g.config.FreshFor, here: g.fingerprint(&rec.state), accepts: g.accepts}
}

// load reads and opens the stored state. What cannot be read is kept aside and
// counts as absent, unless memory knows better: a disk that fails under a
// running program does not take its license, nor give back one that was refused.
func (g *Gate) load(ctx context.Context) record {
	// A Store that hangs leaves time to ask Polar.
	callers := ctx
	ctx, cancel := context.WithTimeout(ctx, g.budget.reading)
	defer cancel()
	known := g.holding()
	known.unread, known.loaded, known.missing = nil, known.verdict, false
	lost := func() record {
		switch {
		case known.state.Seat != nil:
			return known
		case errors.Is(known.unread, ErrNoPermission):
			return g.blank(ErrNoPermission)
		}
		return g.blank(ErrUnreadableState)
	}
	// closed is for a state that may be good, where the host's policy for
	// cryptography keeps it from being opened.
	closed := func(err error) record {
		g.complain("polargate: the license state cannot be opened", err)
		known.unread = &StoreError{"load", err}
		rec := lost()
		rec.unread = known.unread
		return rec
	}
	var strange *state // is under this machine's name, and not its own
	for i, name := range g.own {
		data, err := g.store.Load(ctx, name)
		switch {
		case errors.Is(err, ErrNotStored) && i == 0 && known.stored && known.worthKeeping():
			known.missing = true
			return known
		case errors.Is(err, ErrNotStored):
			continue
		case err != nil && callers.Err() != nil:
			// Nobody waits any more; it says nothing of the Store.
			known.unread = &StoreError{"load", err}
			return known
		case err != nil:
			g.complain("polargate: the license state cannot be read", err)
			known.unread = &StoreError{"load", err}
			rec := lost()
			rec.unread = known.unread
			return rec
		}
		st, err := g.seal.openState(data)
		if err != nil && !errors.Is(err, seal.ErrBroken) {
			return closed(err)
		}
		if err != nil {
			g.keepAside(ctx, name, data, err, known)
			return lost()
		}
		g.complain("", nil)
		said, ours, err := g.claim(st)
		if err != nil {
			return closed(err)
		}
		if !ours {
			if i == 0 {
				strange = st
			}
			continue
		}
		if s := known.state.Seat; i == 0 && st.Seat == nil && !st.Left && known.stored && s != nil && s.State != reactivating {
			// Nobody removed it: it was lost, and another process has begun anew.
			known.missing = true
			known.state.Outbox = slices.Clone(known.state.Outbox)
			for _, o := range st.Outbox {
				if !slices.ContainsFunc(known.state.Outbox, func(k seat) bool { return k.ActivationID == o.ActivationID }) {
					known.state.Outbox = append(known.state.Outbox, o)
				}
			}
			if st.Intent != nil {
				known.state.Intent = st.Intent
			}
			return known
		}
		rec := record{state: *st, verdict: said, stored: i == 0}
		if st.Seat != nil && st.Seat.State == reactivating && (said == nil || said.Refused == "") {
			rec.verdict, rec.trouble = nil, ErrOtherMachine
		}
		if rec.verdict != nil && known.state.Seat.same(st.Seat) && known.verdict.newer(rec.verdict) {
			rec.verdict = known.verdict // could not be saved when it came
		}
		rec.loaded = rec.verdict
		if st.Seat == nil && !st.Left {
			rec.others = g.others(ctx, nil)
		}
		return rec
	}
	rec := g.blank("")
	rec.others = g.others(ctx, strange)
	return rec
}

// keepAside saves what cannot be opened, once, for whoever can make something of it.
func (g *Gate) keepAside(ctx context.Context, name string, data []byte, why error, known record) {
	aside := name + ".corrupt"
	if known.trouble == ErrUnreadableState || !g.complain("polargate: the license state is unreadable and was kept aside as "+aside, why) {
		return // was seen to before
	}
	if err := g.store.Save(ctx, aside, data[:min(len(data), maxState)]); err != nil {
		g.config.Logger.Warn("polargate: the unreadable license state couldn't be set aside", "error", err)
	}
}

// complain logs a warning unless it was the last one, too: a program that looks every
// minute must not fill its log.
func (g *Gate) complain(text string, err error) (said bool) {
	line := text
	if err != nil {
		line += err.Error()
	}
	g.mu.Lock()
	known := g.complaint == line
	g.complaint = line
	g.mu.Unlock()
	if text != "" && !known {
		g.config.Logger.Warn(text, "error", err)
	}
	return !known
}

// blank is a record without a license. The installation keeps the id that it has in
// memory.
func (g *Gate) blank(trouble Reason) record {
	id := g.holding().state.InstallationID
	if id == "" {
		id = rand.Text()
	}
	return record{state: state{InstallationID: id}, trouble: trouble}
}

// save seals and stores a record, and takes it into memory. A verdict that can't be opened
// on this computer stays as it is. If a check has got an answer since the record was read,
// and couldn't store it because of the lock, that answer is stored, too.
func (g *Gate) save(ctx context.Context, rec record, source Source) error {
	known := g.holding()
	if known.verdict != nil && known.verdict != rec.loaded && known.state.Seat.same(rec.state.Seat) {
		if rec.verdict == rec.loaded || rec.verdict != nil && known.verdict.newer(rec.verdict) {
			rec.verdict, rec.trouble = known.verdict, known.trouble
		}
	}
	rec.state.Owner = g.fingerprint(&rec.state)
	switch {
	case rec.state.Seat == nil:
		rec.state.Verdict = nil
	case rec.verdict != nil:
		sealed, err := g.seal.sealVerdict(rec.verdict, rec.state.Seat, g.fingerprint(&rec.state))
		if err != nil {
			return &StoreError{"save", err}
		}
		rec.state.Verdict = sealed
	}
	data, err := g.seal.sealState(&rec.state)
	if err != nil {
		return &StoreError{"save", err}
	}
	err = g.store.Save(ctx, g.name, data)
	if !errors.Is(ctx.Err(), context.Canceled) {
		g.saved(err)
	}
	if err != nil {
		return &StoreError{"save", err}
	}
	rec.stored, rec.missing = true, false
	g.adopt(rec, source)
	if rec.state.Seat != nil {
		g.enlist(ctx)
	}
	return nil
}

// change loads the record, applies an event to it, and saves it if that changes something,
// with the lock held. was is the record that it found.
func (g *Gate) change(ctx context.Context, e recordEvent) (was record, effects []effect, err error) {
	unlock, err := g.lockSeat(ctx)
	if err != nil {
		return was, nil, err
	}
	defer unlock()
	// The others do not wait for a Store that hangs.
	ctx, cancel := context.WithTimeout(ctx, g.budget.all)
	defer cancel()
	was = g.reload(ctx)
	if was.unread != nil {
		return was, nil, was.unread
	}
	rec, effects := was.next(e, g.now(), g.rules(was))
	if len(effects) == 0 && !was.missing {
		return was, nil, nil
	}
	if was.missing {
		g.config.Logger.Warn("polargate: the license state was deleted from the Store and is written again")
	}
	return was, effects, g.save(ctx, rec, FromDisk)
}

// lockSeat keeps all others from changing the activation: in this Gate, in this process,
// and on this computer.
func (g *Gate) lockSeat(ctx context.Context) (unlock func(), err error) {
	patient, cancel := context.WithTimeout(ctx, lockPatience)
	defer cancel()
	select {
	case g.seatTurn <- struct{}{}:
	case <-patient.Done():
		return nil, lockError(ctx, errBusyHere)
	}
	g.lockWaits.Add(1)
	defer g.lockWaits.Add(-1)
	release, err := g.store.Lock(patient, g.name)
	if errors.Is(err, errors.ErrUnsupported) {
		release, err = g.lockHere(patient)
	}
	if err != nil {
		if patient.Err() != nil {
			g.lockedOut.Store(time.Now().UnixNano())
		}
		<-g.seatTurn
		return nil, lockError(ctx, err)
	}
	return func() { release(); <-g.seatTurn }, nil
}

// turnsHere are the locks of this process in folders whose file system has none: path
// and name to a chan of one place.
var turnsHere sync.Map

// lockHere keeps out the other Gates of this process with the same folder, if its file
// system has no locks.
func (g *Gate) lockHere(ctx context.Context) (unlock func(), err error) {
	store, ok := g.config.Store.(interface{ folder() folder })
	if !ok {
		return func() {}, nil
	}
	path := store.folder().path(g.name)
	if whole, err := filepath.Abs(path); err == nil {
		path = whole
	}
	known, _ := turnsHere.LoadOrStore(path, make(chan struct{}, 1))
	turn := known.(chan struct{})
	select {
	case turn <- struct{}{}:
		return func() { <-turn }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// isLockedOut reports whether a call waits for a lock that another process holds, or gave
// up waiting a moment ago.
func (g *Gate) isLockedOut() bool {
	return g.lockWaits.Load() > 0 || time.Since(time.Unix(0, g.lockedOut.Load())) < time.Second
}

// lockPatience is how long a change waits for another one on this computer. Even one that
// asks Polar several times takes less.
const lockPatience = time.Minute

// lockError is why there was no lock: the caller has gone, or another holds it for longer
// than the caller, or lockPatience, allows.
func lockError(ctx context.Context, err error) error {
	switch {
	case errors.Is(ctx.Err(), context.Canceled):
		return ctx.Err()
	case ctx.Err() != nil && errors.Is(err, errBusyHere):
		return &Error{Op: opLock, Reason: ErrBusy, Err: ctx.Err(), situation: busyHere}
	case ctx.Err() != nil:
		return &Error{Op: opLock, Reason: ErrBusy, Err: ctx.Err()}
	}
	return &StoreError{opLock, err}
}

func (g *Gate) holding() record {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.record
}

// adopt takes a record into memory.
func (g *Gate) adopt(rec record, source Source) {
	g.update(func() bool {
		g.adoptions++
		g.record, g.around.source = rec, source
		return true
	})
}

// reload takes what is stored into memory. If memory changed while the Store was read, what
// was read may be older, and the Store is read again.
func (g *Gate) reload(ctx context.Context) record {
	for {
		g.mu.Lock()
		before := g.adoptions
		g.mu.Unlock()
		rec := g.load(ctx)
		current := false
		g.update(func() bool {
			if current = g.adoptions == before; current {
				g.adoptions++
				g.record, g.around.source = rec, FromDisk
			}
			return current
		})
		if current {
			return rec
		}
	}
}

func (g *Gate) sourceNow() Source {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.around.source
}
