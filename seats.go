package polargate

import (
	"context"
	crand "crypto/rand"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"runtime"
	"slices"
	"time"

	"github.com/polargate/polargate/internal/flight"
	"github.com/polargate/polargate/internal/pace"
)

// Activate takes a seat of a license key for this installation, or goes on with
// the seat that it has: one seat, however often and from however many processes
// it is called. The key is cleaned as by ParseKey.
//
// The Status is of the license that is held afterwards, and not of what went
// wrong: show Message(err). A license that was held before is given up, and its seat with it, only when
// the new key has been accepted; any failure leaves it as it was. After
// ErrActivationInDoubt Polar may have given a seat that nobody here knows of;
// the attempt is recorded, and Activate can be called again. A *StoreError
// means that no seat is held that was not held before: without a place to keep
// it none is taken, and one that could not be stored is given back.
//
// ctx bounds how long the caller waits. A request that has left by then is
// finished behind the caller's back, and its outcome stored. Polar has 10
// seconds to answer an activation, and 15 for each question about a seat that is
// held. When Polar's limit on requests is in the way, the error is ErrRateLimited,
// unless Config.WaitForTurn says to wait.
func (g *Gate) Activate(ctx context.Context, licenseKey string) (Status, error) {
	status, err := g.activateInTurn(ctx, licenseKey, &turns{left: g.config.WaitForTurn})
	return status, g.ofEntered(licenseKey, err)
}

// activateInTurn is Activate, again whenever it was held up by the limit on requests
// for as long as t allows.
func (g *Gate) activateInTurn(ctx context.Context, licenseKey string, t *turns) (Status, error) {
	if err := g.enter(ctx); err != nil {
		return g.Status(), err
	}
	key, err := ParseKey(licenseKey)
	if err != nil {
		return g.Status(), err
	}
	err = g.inTurn(ctx, t, func() error {
		_, err := flight.Do(ctx, &g.flights, "activate "+key.Reveal(), func(ctx context.Context) (struct{}, error) {
			return struct{}{}, g.activate(ctx, key, asked)
		})
		return g.callError(opActivate, err)
	})
	return g.Status(), err
}

// inTurn does what takes a seat, again whenever it was held up by the limit on
// requests for as long as t allows.
func (g *Gate) inTurn(ctx context.Context, t *turns, do func() error) error {
	if g.config.WaitForTurn > 0 && !g.begun.Swap(true) {
		if err := g.waitInLine(ctx, rand.N(min(firstSpread, g.config.WaitForTurn/4)+1), nil); err != nil {
			return err
		}
	}
	for {
		err := do()
		limit := t.left
		if deadline, ok := ctx.Deadline(); ok {
			limit = min(limit, time.Until(deadline)-time.Second) // later it would have waited in vain
		}
		wait, ok := t.next(err, limit)
		if !ok {
			return err
		}
		g.config.Logger.Info("polargate: an activation waits for its turn, since Polar's limit on requests is reached", "wait", wait.Round(time.Second))
		if err := g.waitInLine(ctx, wait, err); err != nil {
			return err
		}
	}
}

// waitInLine waits, and says why it did not if ctx or the Gate ended. why is what it
// waits for.
func (g *Gate) waitInLine(ctx context.Context, wait time.Duration, why error) error {
	waiting, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(g.ctx, cancel)()
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-waiting.Done():
	}
	if g.ctx.Err() != nil {
		return &Error{Op: opActivate, Reason: ErrClosed}
	}
	of, ok := errors.AsType[*Error](why)
	if !ok {
		return g.callError(opActivate, ctx.Err())
	}
	e := *of
	e.RetryAfter, e.Err, e.situation = 0, ctx.Err(), callEnded
	return &e
}

// turns is how long may still be waited for a turn, and how often it was in vain.
type turns struct {
	left time.Duration
	vain int
}

// firstSpread is over how long those are spread who begin together. Who waits for the
// end of the same pause is spread over a quarter of it, and after each try in vain
// over twice as long, up to lastSpread: as many as are there at once would be shut
// out again, all but three.
const (
	firstSpread = 5 * time.Second
	lastSpread  = 40 * time.Second
)

// next is how long to wait after a failure before the next try. ok is false if it is
// another failure, or if that would take longer than limit. ErrRateLimited alone is
// certain to have had no effect: Polar was not asked, or has answered 429.
func (t *turns) next(err error, limit time.Duration) (wait time.Duration, ok bool) {
	e, _ := errors.AsType[*Error](err)
	if e == nil || e.Reason != ErrRateLimited || e.RetryAfter <= 0 || e.RetryAfter > limit {
		return 0, false
	}
	spread := max(e.RetryAfter/4, time.Second) // a short pause is not made a long one
	if t.vain > 0 {
		spread = max(spread, firstSpread<<min(t.vain, 10))
	}
	spread = min(spread, lastSpread)
	t.vain++
	wait = min(e.RetryAfter+rand.N(spread), limit)
	t.left -= wait
	return wait, true
}

// ofEntered makes an error that is about a key that was just entered tell it from the
// key of the license that is held, which stays as it is. A call that was given up may
// change it yet.
func (g *Gate) ofEntered(licenseKey string, err error) error {
	s := g.holding().state.Seat
	if err == nil || s == nil {
		return err
	}
	if key, parseErr := ParseKey(licenseKey); parseErr == nil && key.Reveal() == s.Key {
		return err
	}
	switch e := err.(type) {
	case *Error:
		if e.Reason == ErrClosed || e.situation == callEnded {
			return err
		}
		own := *e // others may have been given the same
		own.kept = true
		return &own
	case *InputError:
		if e.Field == fieldKey {
			return &keptError{err}
		}
	case *StoreError:
		return &keptError{err}
	}
	return err
}

// purchaseLag is how long a key can be unknown to Polar after it was bought:
// 30 s to 2 min are reported, since a worker makes the grant.
const purchaseLag = 150 * time.Second

// ActivateWait is Activate for a key that was bought a moment ago: for as long
// as Polar does not know the key, it tries again, for two and a half minutes at
// most or until ctx ends. Show the user that it is waiting. Config.WaitForTurn bounds
// what it waits for its turn in all, on top of that.
func (g *Gate) ActivateWait(ctx context.Context, licenseKey string) (Status, error) {
	if ctx == nil {
		return g.Status(), errNilContext
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(g.ctx, cancel)()
	end := time.Now().Add(purchaseLag)
	if deadline, ok := ctx.Deadline(); ok && deadline.Before(end) {
		end = deadline
	}
	turn := &turns{left: g.config.WaitForTurn}
	for pause := 5 * time.Second; ; pause = min(2*pause, 30*time.Second) {
		status, err := g.activateInTurn(ctx, licenseKey, turn)
		// The last try is made with a little time left for it.
		left := time.Until(end) - 2*time.Second
		if !errors.Is(err, ErrUnknownKey) || left < time.Second || !pace.Sleep(ctx, min(pause, left)) {
			return status, g.ofEntered(licenseKey, err)
		}
	}
}

// activate is Activate: the change of seats, and then the release of those that
// were given up by it.
func (g *Gate) activate(ctx context.Context, key Key, by consent) error {
	return g.withSeat(ctx, func(ctx context.Context, rec record) error { return g.changeSeat(ctx, rec, key, by) })
}

// consent is what a change of seats may do to the seats of other machines.
type consent int

const (
	unasked consent = iota // nothing: a check finishes what was begun here
	asked                  // somebody entered the key: move that of this computer before it was set up anew
	moving                 // somebody said so: move it
)

// withSeat lets f change the seat while nobody else on this machine can, and then
// gives back those that were given up by it.
func (g *Gate) withSeat(ctx context.Context, f func(context.Context, record) error) error {
	unlock, err := g.lockSeat(ctx)
	if err != nil && g.useMemory(ctx, err) {
		unlock, err = g.lockSeat(ctx)
	}
	if err != nil {
		return err
	}
	defer unlock()
	rec := g.reload(ctx)
	if rec.unread != nil {
		return rec.unread
	}
	if err := f(ctx, rec); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(g.drainCtx, g.config.CheckTimeout)
	defer cancel()
	_ = g.flushHere(ctx, g.holding()) // or else later
	return nil
}

// changeSeat gets a seat for a key. The seat is locked.
func (g *Gate) changeSeat(ctx context.Context, rec record, key Key, by consent) error {
	kept, err := g.reuseActivation(ctx, &rec, key)
	if kept || err != nil {
		return err
	}
	if by != unasked && (by == moving || rec.state.Seat == nil) {
		others := rec.others
		if by == asked {
			others = slices.DeleteFunc(slices.Clone(others), func(s seat) bool { return !g.usedToBeHere(s) })
		}
		other, err := g.elsewhere(ctx, others, key)
		if err != nil {
			return err
		}
		if other != nil {
			if err := g.vacate(ctx, &rec, other); err != nil {
				return err
			}
		}
	}
	before := rec.state.Intent
	rec.state.Intent = &intent{AttemptID: crand.Text(), Key: key.Reveal(), At: g.now()}
	g.attempting(rec.state.Intent.AttemptID)
	defer g.attempting("")
	err = g.save(ctx, rec, FromDisk)
	if err != nil && g.useMemory(ctx, err) {
		err = g.save(ctx, rec, FromDisk)
	}
	if err != nil {
		g.adoptRefusal(rec, before)
		g.withdraw(ctx, rec, before)
		return err
	}
	nothingTaken := func(why error) error {
		rec.state.Intent = before
		ctx, cancel := g.lastMoment(ctx)
		defer cancel()
		if err := g.save(ctx, rec, FromDisk); err != nil {
			g.config.Logger.Warn("polargate: the license state was not saved", "error", err)
		}
		return why
	}
	if err := ctx.Err(); err != nil {
		return nothingTaken(err)
	}
	if err := g.releaseConflicting(ctx, &rec, key); err != nil {
		return nothingTaken(err)
	}

	// From here on the caller may go, but the request is seen through.
	hard, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	defer context.AfterFunc(g.drainCtx, cancel)()

	taken, license, err := g.post(ctx, hard, rec, key)
	if taken != nil && err == nil && !g.accepts(license.BenefitID) {
		err = &Error{Op: opActivate, Reason: ErrWrongBenefit}
	}
	switch {
	case errors.Is(err, ErrInDoubt):
		g.config.Logger.Info("polargate: an activation is in doubt", "attempt", rec.state.Intent.AttemptID)
		if rec.state.Seat != nil && rec.state.Seat.State == reactivating {
			// Not to be tried again unasked: each try may cost a seat.
			rec.state.Seat = rec.state.Seat.is(released)
			rec.verdict, rec.trouble = &verdict{Refused: ErrSeatReleased, CheckedAt: g.now(), HighWater: g.now()}, ""
		}
		before = rec.state.Intent
		return nothingTaken(err)
	case err != nil:
		if taken != nil && taken.ActivationID != "" && !g.rollbackActivation(hard, taken) {
			rec.state.Outbox = append(rec.state.Outbox, *taken)
		}
		if s := rec.state.Seat; s != nil && s.State == reactivating && isDenial(err) {
			rec.verdict, rec.trouble = nextVerdict(nil, nil, err, g.now(), g.config.FreshFor), ""
		}
		if e, ok := errors.AsType[*Error](err); ok && e.Reason == ErrActivationLimit {
			switch {
			case before != nil && before.Key == key.Reveal():
				e.situation = limitEarlier
			case rec.trouble == ErrUnreadableState:
				e.situation = limitUnreadable
			}
		}
		return nothingTaken(err)
	}
	rec.state.Intent = before
	return g.settleSeat(hard, rec, taken, license, true)
}

// adoptRefusal keeps in memory what Polar said of the seat at hand, where it
// could not be stored.
func (g *Gate) adoptRefusal(rec record, before *intent) {
	if rec.verdict != nil && rec.verdict != rec.loaded && rec.verdict.Refused != "" {
		rec.state.Intent = before
		g.adopt(rec, FromNetwork)
	}
}

// withdraw takes back an intent that is stored although storing it failed, as when the
// disk fails after it has the file: nothing was asked for, and nothing is in doubt.
func (g *Gate) withdraw(ctx context.Context, rec record, before *intent) {
	ctx, cancel := g.lastMoment(ctx)
	defer cancel()
	data, err := g.store.Load(ctx, g.name)
	if err != nil {
		return
	}
	st, err := g.seal.openState(data)
	if err != nil || st.Intent == nil || st.Intent.AttemptID != rec.state.Intent.AttemptID {
		return
	}
	rec.state.Intent = before
	_ = g.save(ctx, rec, FromDisk)
}

// lastMoment is time for what must be stored although the caller has gone.
func (g *Gate) lastMoment(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), settleTime)
}

// settleSeat makes a seat the one that is held, and stores it. One that was taken
// just now is given back if it cannot be stored. A doubt about another key stays.
func (g *Gate) settleSeat(ctx context.Context, rec record, s *seat, license *LicenseKey, taken bool) error {
	is := func(o seat) bool { return o.ActivationID == s.ActivationID }
	last := rec
	old := rec.state.Seat
	rec.state.Outbox = slices.DeleteFunc(slices.Clone(rec.state.Outbox), is)
	if old != nil && old.held() && !is(*old) {
		rec.state.Outbox = append(rec.state.Outbox, *old)
	}
	if rec.state.Intent != nil && rec.state.Intent.Key == s.Key {
		rec.state.Intent = nil
	}
	rec.state.Seat, rec.state.Left, rec.trouble = s, false, ""
	rec.verdict = nextVerdict(rec.verdict, license, nil, g.now(), g.config.FreshFor)
	err := g.save(ctx, rec, FromNetwork)
	if err != nil && g.useMemory(ctx, err) {
		err = g.save(ctx, rec, FromNetwork)
	}
	if err != nil && taken && s.ActivationID != "" && g.rollbackActivation(ctx, s) {
		// The Store may have stored it all the same.
		ctx, cancel := g.lastMoment(ctx)
		defer cancel()
		_ = g.save(ctx, last, FromDisk)
	}
	return err
}

// post asks Polar for a seat. A seat may come with an error: Polar gave it, and
// refuses the key all the same.
func (g *Gate) post(ctx, hard context.Context, rec record, key Key) (*seat, *LicenseKey, error) {
	machine := g.fingerprint(&rec.state)
	seatless := func() (*seat, *LicenseKey, error) {
		ctx, cancel := context.WithTimeout(ctx, questionTime)
		defer cancel()
		license, err := g.client.Validate(ctx, ValidateRequest{Key: key})
		return &seat{Key: key.Reveal(), Machine: machine, Label: g.config.Label, State: seatless}, license, err
	}
	if !g.config.takesSeats() {
		return seatless()
	}
	taken := &seat{Key: key.Reveal(), Machine: machine, Label: g.config.Label, Conditions: g.config.conditions(machine)}
	meta := map[string]any{
		"installation": rec.state.InstallationID,
		"fingerprint":  machine,
		"attempt":      rec.state.Intent.AttemptID,
		"app":          g.config.App,
		"os":           runtime.GOOS + "/" + runtime.GOARCH,
	}
	if version := shorten(cleanText(g.config.Version), 100); version != "" {
		meta["version"] = version
	}
	activation, err := g.client.activate(ctx, hard, ActivateRequest{Key: key, Label: g.config.Label, Conditions: taken.conditions(), Meta: meta})
	if errors.Is(err, ErrActivationsUnsupported) && g.config.AllowKeysWithoutSeats {
		return seatless()
	}
	if activation == nil {
		return nil, nil, err
	}
	taken.ActivationID = activation.ID
	return taken, activation.LicenseKey, err
}

// reuseActivation tries to go on with a seat that this machine took before: the one at
// hand, or one that waits to be given back, which is as good as a new one. The
// key may be another than the seat's: Polar keeps activations when it rotates a
// key. kept means that the license is settled; neither that nor an error means
// that a new seat is due.
func (g *Gate) reuseActivation(ctx context.Context, rec *record, key Key) (kept bool, err error) {
	here := g.fingerprint(&rec.state)
	// Copies, so that what is in memory stays as it is.
	rec.state.Outbox = slices.Clone(rec.state.Outbox)
	if rec.state.Seat != nil {
		own := *rec.state.Seat
		rec.state.Seat = &own
	}
	var candidates []*seat
	consider := func(s *seat) {
		same := s.Key == key.Reveal()
		switch {
		case !s.held() && s.State != released, same && s.Machine != here:
			// A key without seats is not kept: it may have got some since. And
			// what was taken elsewhere under this key is in the way, at most.
		case same:
			candidates = slices.Insert(candidates, 0, s)
		default:
			candidates = append(candidates, s)
		}
	}
	if rec.state.Seat != nil {
		consider(rec.state.Seat)
	}
	for i := range rec.state.Outbox {
		consider(&rec.state.Outbox[i])
	}
	for _, s := range candidates[:min(len(candidates), maxCandidates)] {
		same := s.Key == key.Reveal()
		current := s == rec.state.Seat
		license, err := g.askInTime(ctx, s, key)
		e, _ := errors.AsType[*Error](err)
		if e != nil {
			e.Op = opActivate
		}
		switch {
		case err == nil && !g.accepts(license.BenefitID):
			if same && current {
				rec.verdict = nextVerdict(rec.verdict, license, nil, g.now(), g.config.FreshFor)
				if saveErr := g.save(ctx, *rec, FromNetwork); saveErr != nil {
					g.config.Logger.Warn("polargate: the license state was not saved", "error", saveErr)
				}
			}
			return false, &Error{Op: opActivate, Reason: ErrWrongBenefit}
		case err == nil && s.Machine != here:
			// The same license under a new key, taken on another machine: it
			// is to be given back under that key, and taken anew.
			s.Key, s.State = key.Reveal(), activated
			return false, nil
		case err == nil:
			next := *s
			next.Key, next.Label, next.State = key.Reveal(), g.config.Label, activated
			return true, g.settleSeat(ctx, *rec, &next, license, false)
		case errors.Is(err, ErrSeatReleased) && same && current:
			rec.state.Seat = s.is(released)
			rec.verdict = nextVerdict(rec.verdict, nil, err, g.now(), g.config.FreshFor)
		case errors.Is(err, ErrSeatReleased) && same:
			gone := *s
			rec.state.Outbox = slices.DeleteFunc(slices.Clone(rec.state.Outbox), func(o seat) bool { return o.same(&gone) })
			return false, nil // the slice has moved under the other candidates; a new seat it is
		case errors.Is(err, ErrSeatReleased), errors.Is(err, ErrConditionsMismatch):
			// Not this key's seat, or not under these conditions.
		case e != nil && e.Reason == ErrDenied && !same && e.Err != nil:
			return false, e.Err // refused with this seat, and nobody could say whether the key is good
		case isDenial(err) && same && current:
			rec.verdict = nextVerdict(rec.verdict, nil, err, g.now(), g.config.FreshFor)
			if saveErr := g.save(ctx, *rec, FromNetwork); saveErr != nil {
				g.config.Logger.Warn("polargate: the license state was not saved", "error", saveErr)
				g.adoptRefusal(*rec, rec.state.Intent)
			}
			return false, err
		default:
			return false, err
		}
	}
	return false, nil
}

// questionTime bounds a question to Polar while the seat is locked, which others
// wait for: one request that hangs, and another try.
const questionTime = attemptTimeout + 5*time.Second

func (g *Gate) askInTime(ctx context.Context, s *seat, key Key) (*LicenseKey, error) {
	ctx, cancel := context.WithTimeout(ctx, questionTime)
	defer cancel()
	return g.ask(ctx, s, key, 0)
}

// maxCandidates bounds the questions of one Activate. More than one seat to
// choose from is rare.
const maxCandidates = 3

// releaseConflicting frees seats of this key that are in the way of a new one: with a
// limit of one there is no other order. That is so after a move to another
// machine, and for what waits in the outbox.
func (g *Gate) releaseConflicting(ctx context.Context, rec *record, key Key) error {
	if s := rec.state.Seat; s != nil && s.Key == key.Reveal() && s.held() {
		if err := g.free(ctx, s); err != nil {
			return err
		}
		rec.state.Seat = s.reactivatingOn(g.fingerprint(&rec.state))
		rec.verdict, rec.trouble = nil, ErrOtherMachine
	}
	rec.state.Outbox = slices.DeleteFunc(slices.Clone(rec.state.Outbox), func(s seat) bool {
		return s.Key == key.Reveal() && g.free(ctx, &s) == nil
	})
	return nil
}

// free gives a seat back. A 404 can mean that it was free before, or that the
// key was rotated, and the seat is held under the new one: then the error is
// ErrUnknownKey.
func (g *Gate) free(ctx context.Context, s *seat) error {
	key := newKey(s.Key)
	err := g.client.Deactivate(ctx, key, s.ActivationID)
	if !errors.Is(err, ErrSeatReleased) {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, questionTime)
	defer cancel()
	_, err = g.client.Validate(ctx, ValidateRequest{Key: key})
	switch {
	case errors.Is(err, ErrUnknownKey):
		e := *err.(*Error)
		e.Op, e.situation = opDeactivate, unknownHeld
		return &e
	case err == nil, isDenial(err):
		return nil
	}
	return err
}

// rollbackActivation frees a seat that was taken and is not kept, and reports whether it
// is free.
func (g *Gate) rollbackActivation(ctx context.Context, s *seat) bool {
	err := g.client.Deactivate(ctx, newKey(s.Key), s.ActivationID)
	if err == nil || errors.Is(err, ErrSeatReleased) {
		return true
	}
	g.config.Logger.Error("polargate: an activation could not be given back", "activation", s.ActivationID, "error", err)
	return false
}

// Deactivate gives the seat back and forgets the license key. Access ends when
// that is stored, which needs no network. A *StoreError means that it could not
// be stored, and nothing has changed. ErrUnreadableState means that there was
// nothing that could be read, and so no seat to give back. Any other error, except
// ErrClosed, means that the license was removed here and the seat itself could not
// be given back yet; that is tried again by Check, at most once a minute, and by
// Refresh, Activate and Deactivate, in this run of the program or the next.
// ErrUnknownKey then says that the key was replaced at Polar, so that only the
// vendor, the customer portal, or activating the new key here can free the seat.
// Without a license, Deactivate has nothing to do but to give back what is waiting.
//
// ctx bounds how long the caller waits for Polar.
func (g *Gate) Deactivate(ctx context.Context) error {
	if err := g.enter(ctx); err != nil {
		return err
	}
	// The first part is local, and is done even for a caller in a hurry: what
	// the error means must not depend on when ctx ended.
	_, err := flight.Do(context.WithoutCancel(ctx), &g.flights, "forget", func(ctx context.Context) (struct{}, error) {
		unreadable := false
		err := g.change(ctx, func(rec *record) bool {
			s := rec.state.Seat
			if s == nil {
				unreadable = rec.trouble == ErrUnreadableState
				rec.state.Left = rec.elsewhere()
				return rec.state.Left
			}
			if s.held() {
				rec.state.Outbox = append(slices.Clone(rec.state.Outbox), *s)
			}
			rec.state.Seat, rec.state.Left, rec.verdict, rec.trouble = nil, true, nil, ""
			return true
		})
		if err == nil && unreadable {
			err = &Error{Op: opDeactivate, Reason: ErrUnreadableState, situation: unreadableSeat}
		}
		return struct{}{}, err
	})
	if rec := g.holding(); err == nil && rec.state.waiting() {
		_, err = flight.Do(ctx, &g.flights, "release", func(ctx context.Context) (struct{}, error) {
			return struct{}{}, g.flushReleases(ctx)
		})
	}
	return g.callError(opDeactivate, err)
}

// flushReleases gives back the seats that are waiting for it. Nobody else changes
// seats meanwhile: one that is about to be given back must not be taken up again.
func (g *Gate) flushReleases(ctx context.Context) error {
	unlock, err := g.lockSeat(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	rec := g.reload(ctx)
	if rec.unread != nil {
		return rec.unread
	}
	// A release that has left is seen through.
	hard, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	defer context.AfterFunc(g.drainCtx, cancel)()
	return g.flushHere(hard, rec)
}

// flushHere is flushReleases with the activation locked.
func (g *Gate) flushHere(ctx context.Context, rec record) error {
	if !rec.state.waiting() {
		return nil
	}
	var left []seat
	var failed error
	for i, s := range rec.state.Outbox {
		if s.State == unreleasable {
			left = append(left, s)
			continue
		}
		err := g.free(ctx, &s)
		if err == nil {
			continue
		}
		failed = err
		s.State = activated
		if errors.Is(err, ErrUnknownKey) {
			s.State = unreleasable
		}
		left = append(left, s)
		if errors.Is(err, ErrUnreachable) || errors.Is(err, ErrRateLimited) {
			left = append(left, rec.state.Outbox[i+1:]...)
			break
		}
	}
	rec.state.Outbox, rec.state.OutboxRetry = capped(left), time.Time{}
	if failed != nil {
		rec.state.OutboxRetry = g.now().Add(outboxPause)
	}
	ctx, cancel := g.lastMoment(ctx)
	defer cancel()
	if err := g.save(ctx, rec, g.sourceNow()); err != nil {
		// Those that were freed are tried again, and found to be free.
		g.config.Logger.Warn("polargate: the license state was not saved", "error", err)
	}
	return failed
}

// maxOutbox bounds the seats that wait to be given back. The oldest, which has
// been tried most often, is given up first.
const maxOutbox = 32

func capped(seats []seat) []seat {
	return seats[max(0, len(seats)-maxOutbox):]
}

// Consume counts n uses, from 1 to 2147483647, against the license key and
// returns how many are left; Unlimited if the key has no limit. Counting cannot
// be undone and is never repeated: when the answer was lost, the error is
// ErrInDoubt, and the uses may have been counted. ErrUsageExceeded means that
// nothing was counted, and leaves the license as it is. If the license is locked and
// Polar could not be asked, the Reason is that of the Status, and errors.Is finds both.
func (g *Gate) Consume(ctx context.Context, n int64) (remaining int64, err error) {
	if err := g.enter(ctx); err != nil {
		return 0, err
	}
	if n < 1 || n > math.MaxInt32 {
		return 0, &InputError{"n", fmt.Sprintf("must be between 1 and %d", math.MaxInt32)}
	}
	// Close waits for a count that is under way, for a while.
	if !g.begin() {
		return 0, &Error{Op: opConsume, Reason: ErrClosed}
	}
	defer g.background.Done()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(g.drainCtx, cancel)()

	rec := g.holding()
	if rec.state.Seat == nil {
		rec = g.reload(ctx)
	}
	license, err := g.count(ctx, rec, n)
	if errors.Is(err, ErrUnknownKey) || errors.Is(err, ErrSeatReleased) {
		// Nothing was counted. Another process may have changed the seat.
		if now := g.reload(ctx); now.state.Seat != nil && !now.state.Seat.same(rec.state.Seat) {
			rec = now
			license, err = g.count(ctx, rec, n)
		}
	}
	return license.remaining(), g.ofLocked(inDoubt(err))
}

// ofLocked makes of an error that proves nothing that of the license, if it is locked:
// of the two facts this one decides. What may have been counted stays in doubt.
func (g *Gate) ofLocked(err error) error {
	e, ok := err.(*Error)
	if s := g.Status(); ok && s.State == Locked && e.Reason.provesNothing() && e.Reason != ErrInDoubt && e.Reason != ErrClosed && e.situation != callEnded {
		if locked, ok := statusError(s, err).(*Error); ok && locked != e {
			locked.Op = e.Op
			return locked
		}
	}
	return err
}

// count is Consume for the seat at hand.
func (g *Gate) count(ctx context.Context, rec record, n int64) (*LicenseKey, error) {
	switch {
	case rec.trouble != "":
		return nil, &Error{Op: opConsume, Reason: rec.trouble, store: rec.unread}
	case rec.elsewhere():
		return nil, &Error{Op: opConsume, Reason: ErrOtherMachine}
	case rec.state.Seat == nil:
		return nil, &Error{Op: opConsume, Reason: ErrNoLicense}
	case rec.verdict != nil && rec.verdict.Refused == "" && !g.accepts(rec.verdict.BenefitID):
		return nil, &Error{Op: opConsume, Reason: ErrWrongBenefit}
	}
	asked := g.now()
	license, err := g.ask(ctx, rec.state.Seat, newKey(rec.state.Seat.Key), n)
	if e, ok := errors.AsType[*Error](err); ok {
		e.Op = opConsume
	}
	// A caller in a hurry says nothing of Polar.
	if license != nil || isDenial(err) || ctx.Err() == nil && !errors.Is(err, ErrUsageExceeded) {
		g.settle(ctx, rec, license, err, asked)
	}
	if err == nil && !g.accepts(license.BenefitID) {
		return nil, &Error{Op: opConsume, Reason: ErrWrongBenefit}
	}
	return license, err
}

// remaining is what is left of a license that may not be there.
func (l *LicenseKey) remaining() int64 {
	if l == nil {
		return 0
	}
	return l.Remaining()
}
