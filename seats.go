package polargate

import (
	"context"
	crand "crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/polargate/polargate/internal/flight"
	"github.com/polargate/polargate/internal/pace"
)

// Activate activates a license key on this computer, or continues to use the activation
// that it has: one activation, however often and from however many processes it is
// called. The key is cleaned as by ParseKey.
//
// The Status is that of the license in use afterwards, not of what went wrong: show
// Message(err). A license that was in use before is given up, and its activation ends,
// only once the new key has been accepted; any failure leaves it unchanged. After
// ErrActivationInDoubt, Polar may count an activation that isn't known here. The attempt
// is recorded, and Activate can be called again. A *StoreError means that no new
// activation is in use: if there is no place to store one, none is requested, and one
// that couldn't be stored is deactivated again.
//
// ctx bounds how long the caller waits. A request that was sent by then is finished in
// the background, and its outcome stored. Polar has 10 seconds to answer an activation,
// and 15 for each validation of an existing one. If Polar's limit on requests is in the
// way, the error is ErrRateLimited, unless Config.WaitForTurn says to wait.
func (g *Gate) Activate(ctx context.Context, licenseKey string) (Status, error) {
	status, err := g.activateInTurn(ctx, licenseKey, &turns{left: g.config.WaitForTurn})
	return status, g.ofEntered(licenseKey, err)
}

// activateInTurn is Activate, repeated while Polar's limit on requests is in the way, for
// as long as t allows.
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

// inTurn calls do, which may activate, again while Polar's limit on requests is in the
// way, for as long as t allows.
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
			limit = min(limit, time.Until(deadline)-time.Second) // a later try would have no time left
		}
		wait, ok := t.next(err, limit)
		if !ok {
			return err
		}
		g.config.Logger.Info("polargate: an activation waits for its turn, because Polar's request limit is reached", "wait", wait.Round(time.Second))
		if err := g.waitInLine(ctx, wait, err); err != nil {
			return err
		}
	}
}

// waitInLine waits. If ctx or the Gate ends first, it returns an error. why is the failure
// that it waits for the end of.
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

// turns is how long a call may still wait for its turn, and how many tries have failed.
type turns struct {
	left   time.Duration
	failed int
}

// firstSpread spreads the first tries of programs that start together. Programs that wait
// for the end of the same pause are spread over a quarter of it, and over twice as long
// after each failed try, up to lastSpread: of those that try at once, Polar lets three
// through.
const (
	firstSpread = 5 * time.Second
	lastSpread  = 40 * time.Second
)

// next is how long to wait after a failure before the next try. ok is false after other
// failures than ErrRateLimited, or if the wait would be longer than limit. Only
// ErrRateLimited certainly had no effect: Polar wasn't asked, or answered 429.
func (t *turns) next(err error, limit time.Duration) (wait time.Duration, ok bool) {
	e, _ := errors.AsType[*Error](err)
	if e == nil || e.Reason != ErrRateLimited || e.RetryAfter <= 0 || e.RetryAfter > limit {
		return 0, false
	}
	spread := max(e.RetryAfter/4, time.Second) // a short pause is not made a long one
	if t.failed > 0 {
		spread = max(spread, firstSpread<<min(t.failed, 10))
	}
	spread = min(spread, lastSpread)
	t.failed++
	wait = min(e.RetryAfter+rand.N(spread), limit)
	t.left -= wait
	return wait, true
}

// ofEntered has an error about a key that was just entered say that the current license,
// with another key, is unchanged. It doesn't after a call that the caller gave up, which may
// still change the license.
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
		own := *e // other callers may have the same error
		own.kept = true
		return &own
	case *keyError, *StoreError:
		return &keptError{err}
	}
	return err
}

// purchaseLag is how long Polar may not know a key after its purchase. Users report 30
// seconds to 2 minutes, because the grant is made in the background.
const purchaseLag = 150 * time.Second

// ActivateWait is Activate for a key that was just bought: while Polar doesn't know the
// key, it tries again, for two and a half minutes at most or until ctx ends. Show the
// user that it is waiting. Config.WaitForTurn bounds the additional wait for a turn.
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
		// A little time is left for the last try.
		left := time.Until(end) - 2*time.Second
		if !errors.Is(err, ErrUnknownKey) || left < time.Second || !pace.Sleep(ctx, min(pause, left)) {
			return status, g.ofEntered(licenseKey, err)
		}
	}
}

// Ensure has this computer use a license key that somebody configured: in an environment
// variable, or by device management. Call it at the start, in place of Check.
//
// If the license here has this key, Ensure is Check: it asks Polar only if that is due, and
// works offline. A key that Polar has replaced since counts as this key once the new one was
// activated here. If there is no license, or one with another key, Ensure activates the key,
// as Activate does. If that can't be decided now, because Polar can't be reached, a license
// with another key stays in use, and the next Ensure tries again.
//
// Ensure doesn't activate a computer again that was deactivated in the customer portal or by
// the vendor: the error is ErrSeatReleased, and Activate does it. An activation that is in
// doubt is tried again after an hour, so that a program that is restarted again and again
// uses one more in an hour at most; until then the error is ErrInDoubt.
//
// The error is nil if the program may run, except that a refusal of the key is always
// returned. The Status is that of the license in use.
func (g *Gate) Ensure(ctx context.Context, licenseKey string) (Status, error) {
	if err := g.enter(ctx); err != nil {
		return g.Status(), err
	}
	key, err := ParseKey(licenseKey)
	if err != nil {
		return g.Status(), err
	}
	rec := g.reload(ctx)
	switch i := rec.state.Intent; {
	case rec.state.Seat.has(key):
		return g.Check(ctx)
	case i != nil && i.Key == key.Reveal() && g.now().Sub(i.At).Abs() < doubtRests:
		err = g.callError(opActivate, &Error{Op: opActivate, Reason: ErrInDoubt, situation: inDoubtHere})
	default:
		_, err = g.Activate(ctx, key.Reveal())
	}
	status := g.Status()
	if e, ok := errors.AsType[*Error](err); ok && status.OK() && e.Reason.provesNothing() && e.Reason != ErrClosed {
		return g.Check(ctx) // the license in use may be due
	}
	return status, err
}

// doubtRests is how long Ensure doesn't repeat an activation that is in doubt.
const doubtRests = time.Hour

// activate gets an activation for a key, and then releases those that it replaced.
func (g *Gate) activate(ctx context.Context, key Key, by consent) error {
	return g.withSeat(ctx, func(ctx context.Context, rec record) error { return g.attempt(ctx, rec, key, by) })
}

// consent is whose activations an attempt may move here.
type consent int

const (
	unasked consent = iota // none: a check only finishes what was begun here
	asked                  // the user entered the key: the one that this computer had before its system was reinstalled
	moving                 // the user asked for it: that of another computer
)

// withSeat lets f change the activation with the lock held, and then releases those that
// it replaced.
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
	ctx, cancel := context.WithTimeout(g.drainCtx, g.budget.all)
	defer cancel()
	_ = g.flushHere(ctx, g.holding()) // what fails is tried again later
	return nil
}

// attempt is one try to get an activation for a key, with the lock held. Each step stores
// what it is about to do, so that a program that is killed finds at its next start what
// was begun:
//
//	step     what it does                                    found after a kill
//	reuse    uses an earlier activation                      nothing was begun
//	vacate   releases the activation of another computer     it is reactivating, or in the outbox
//	begin    stores that Polar is about to be asked          an intent: it is in doubt
//	clear    releases activations that are in the way        the same, and one that is reactivating
//	post     asks Polar for the activation                   the same
//	commit   stores the activation                           the activation
//	abandon  removes the intent                              the record before
type attempt struct {
	g    *Gate
	key  Key
	rec  record  // after the last step
	last *intent // an earlier attempt that is in doubt
}

// attempt gets an activation for a key.
func (g *Gate) attempt(ctx context.Context, rec record, key Key, by consent) error {
	a := &attempt{g: g, key: key, rec: rec, last: rec.state.Intent}
	if done, err := a.reuse(ctx); done || err != nil {
		return err
	}
	if err := a.vacate(ctx, by); err != nil {
		return err
	}
	if err := a.begin(ctx); err != nil {
		return err
	}
	defer g.attempting("")
	if err := a.clear(ctx); err != nil {
		return a.abandon(ctx, err)
	}
	// From here on the caller may leave; the request is finished.
	hard, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	defer context.AfterFunc(g.drainCtx, cancel)()
	given, license, err := a.post(ctx, hard)
	if err != nil {
		return a.abandon(ctx, err)
	}
	return a.commit(hard, given, license)
}

// happens applies an event to the record, without storing it, and reports whether it
// changed something.
func (a *attempt) happens(e recordEvent) (changed bool) {
	next, effects := a.rec.next(e, a.g.now(), a.g.rules(a.rec))
	a.rec = next
	return len(effects) > 0
}

// reuse uses an earlier activation, if there is one for the key, and reports done then. If
// it reports neither that nor an error, a new activation is needed.
func (a *attempt) reuse(ctx context.Context) (done bool, err error) {
	g := a.g
	for _, c := range candidates(a.rec, a.key, g.fingerprint(&a.rec.state)) {
		license, err := g.askInTime(ctx, &c.seat, a.key)
		if e, ok := errors.AsType[*Error](err); ok {
			e.Op = opActivate
		}
		found := judged{c, judge(c, license, err, g.rules(a.rec)), license, err}
		changed := a.happens(found)
		switch found.finding {
		case foundGood:
			next := *c.seat.is(activated)
			next.Label = g.label(&a.rec.state)
			next.rename(a.key.Reveal())
			return true, g.settleSeat(ctx, a.rec, &next, license, false)
		case foundElsewhere, foundReleased:
			return false, nil
		case foundReleasedHere, foundAnother:
			continue
		}
		if changed {
			// Polar's answer about the current license is kept, whatever becomes of the key.
			if saveErr := g.save(ctx, a.rec, FromNetwork); saveErr != nil {
				g.config.Logger.Warn("polargate: the license state was not saved", "error", saveErr)
				g.adoptRefusal(a.rec, a.last)
			}
		}
		return false, found.problem()
	}
	return false, nil
}

// vacate releases the activation of another computer, if consent allows it, so that this
// one can be activated. It stores that first; a vacating that breaks off is finished later.
// If the activation can't be released, the record is as before.
func (a *attempt) vacate(ctx context.Context, by consent) error {
	if by == unasked || by != moving && a.rec.state.Seat != nil {
		return nil
	}
	others := a.rec.others
	if by == asked {
		others = slices.DeleteFunc(slices.Clone(others), func(s seat) bool { return !a.g.usedToBeHere(s) })
	}
	other, err := a.g.elsewhere(ctx, others, a.key)
	if err != nil || other == nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	// From here on the caller may leave; what was begun is finished.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*questionTime)
	defer cancel()
	defer context.AfterFunc(a.g.drainCtx, cancel)()
	before := a.rec
	a.happens(vacating{*other})
	if err := a.g.saveOrFallBack(ctx, a.rec, FromDisk); err != nil {
		return a.undo(ctx, before, err)
	}
	if err := a.g.free(ctx, other); err != nil {
		return a.undo(ctx, before, err)
	}
	a.happens(cleared{*other})
	return nil
}

// undo goes back to the record before a step that failed, and says why it failed.
func (a *attempt) undo(ctx context.Context, before record, why error) error {
	ctx, cancel := a.g.lastMoment(ctx)
	defer cancel()
	a.rec = before
	if err := a.g.save(ctx, a.rec, FromDisk); err != nil {
		a.g.config.Logger.Warn("polargate: the license state was not saved", "error", err)
	}
	return why
}

// begin stores that Polar is about to be asked for an activation.
func (a *attempt) begin(ctx context.Context) error {
	a.happens(begun{intent{AttemptID: crand.Text(), Key: a.key.Reveal(), At: a.g.now()}})
	a.g.attempting(a.rec.state.Intent.AttemptID)
	err := a.g.saveOrFallBack(ctx, a.rec, FromDisk)
	if err != nil {
		a.g.adoptRefusal(a.rec, a.last)
		a.g.withdraw(ctx, a.rec, a.last)
		a.g.attempting("")
	}
	return err
}

// clear releases activations of this key that are in the way of a new one, because the key
// may allow only one: that of the license, if it is another computer's, and those in the
// outbox.
func (a *attempt) clear(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if s := a.rec.state.Seat; s != nil && s.Key == a.key.Reveal() && s.held() {
		if err := a.g.free(ctx, s); err != nil {
			return err
		}
		a.happens(cleared{*s})
	}
	for _, s := range a.rec.state.Outbox {
		if s.Key == a.key.Reveal() && a.g.free(ctx, &s) == nil {
			a.happens(cleared{s})
		}
	}
	return nil
}

// abandon ends an attempt without an activation, and says why. A doubt stays.
func (a *attempt) abandon(ctx context.Context, why error) error {
	if errors.Is(why, ErrInDoubt) {
		a.g.config.Logger.Info("polargate: an activation is in doubt", "attempt", a.rec.state.Intent.AttemptID)
		a.happens(doubted{})
	} else {
		a.happens(abandoned{a.last})
	}
	ctx, cancel := a.g.lastMoment(ctx)
	defer cancel()
	if err := a.g.save(ctx, a.rec, FromDisk); err != nil {
		a.g.config.Logger.Warn("polargate: the license state was not saved", "error", err)
	}
	return why
}

// commit stores an activation that Polar has given.
func (a *attempt) commit(ctx context.Context, given *seat, license *LicenseKey) error {
	a.happens(abandoned{a.last}) // the intent has come true
	return a.g.settleSeat(ctx, a.rec, given, license, true)
}

// adoptRefusal keeps in memory what Polar said about the current license, when it couldn't
// be stored.
func (g *Gate) adoptRefusal(rec record, last *intent) {
	if known := g.holding(); rec.verdict != nil && rec.verdict.Refused != "" && !known.verdict.newer(rec.verdict) {
		rec, _ = rec.next(abandoned{last}, g.now(), g.rules(rec))
		g.adopt(rec, FromNetwork)
	}
}

// withdraw removes an intent that was stored although storing it failed, as when the disk
// fails after it wrote the file. Polar wasn't asked, so nothing is in doubt.
func (g *Gate) withdraw(ctx context.Context, rec record, last *intent) {
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
	rec, _ = rec.next(abandoned{last}, g.now(), g.rules(rec))
	_ = g.save(ctx, rec, FromDisk)
}

// lastMoment is time for what must be stored although the caller has left.
func (g *Gate) lastMoment(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), g.budget.storing)
}

// settleSeat makes an activation the license, and stores it. If it can't be stored and
// Polar has just given it (taken), it is released again.
func (g *Gate) settleSeat(ctx context.Context, rec record, s *seat, license *LicenseKey, taken bool) error {
	next, _ := rec.next(settled{s, license}, g.now(), g.rules(rec))
	err := g.saveOrFallBack(ctx, next, FromNetwork)
	if err != nil && taken && s.held() && g.rollbackActivation(ctx, s) {
		// The Store may have stored it all the same.
		ctx, cancel := g.lastMoment(ctx)
		defer cancel()
		_ = g.save(ctx, rec, FromDisk)
	}
	return err
}

// saveOrFallBack is save for the steps of an activation: if the Store can't be written, it
// switches to memory, if the program wants that.
func (g *Gate) saveOrFallBack(ctx context.Context, rec record, source Source) error {
	err := g.save(ctx, rec, source)
	if err != nil && g.useMemory(ctx, err) {
		err = g.save(ctx, rec, source)
	}
	return err
}

// post asks Polar for the activation. One that Polar gives but that is of no use here is
// released, now or later.
func (a *attempt) post(ctx, hard context.Context) (*seat, *LicenseKey, error) {
	given, license, err := a.ask(ctx, hard)
	if given != nil && err == nil && !a.g.accepts(license.BenefitID) {
		err = &Error{Op: opActivate, Reason: ErrWrongBenefit}
	}
	if err == nil || errors.Is(err, ErrInDoubt) {
		return given, license, err
	}
	refused := turnedDown{err: err}
	if given != nil && given.held() && !a.g.rollbackActivation(hard, given) {
		refused.left = given
	}
	earlier := a.last != nil && a.last.Key == a.key.Reveal()
	if e, ok := errors.AsType[*Error](err); ok && e.Reason == ErrActivationLimit {
		switch {
		case earlier:
			e.situation = limitEarlier
		case a.rec.trouble == ErrUnreadableState:
			e.situation = limitUnreadable
		}
	}
	a.happens(refused)
	return nil, nil, err
}

// ask sends the request. An activation may come with an error: Polar gave it, but refuses
// the key.
func (a *attempt) ask(ctx, hard context.Context) (*seat, *LicenseKey, error) {
	g, rec, key := a.g, a.rec, a.key
	if g.config.hasLeaseServer() {
		return a.askLease(ctx, hard)
	}
	machine := g.fingerprint(&rec.state)
	without := func() (*seat, *LicenseKey, error) {
		ctx, cancel := context.WithTimeout(ctx, questionTime)
		defer cancel()
		license, err := g.client.Validate(ctx, ValidateRequest{Key: key})
		return &seat{Key: key.Reveal(), Machine: machine, Label: g.label(&rec.state), State: seatless}, license, err
	}
	if !g.config.takesSeats() {
		return without()
	}
	taken := &seat{Key: key.Reveal(), Machine: machine, Label: g.label(&rec.state), Conditions: g.config.conditions(machine)}
	meta := maps.Clone(g.config.Meta)
	if meta == nil {
		meta = map[string]any{}
	}
	meta[metaInstallation], meta[metaFingerprint], meta[metaAttempt] = rec.state.InstallationID, machine, rec.state.Intent.AttemptID
	meta[metaApp], meta[metaOS] = g.config.App, runtime.GOOS+"/"+runtime.GOARCH
	if version := shorten(cleanText(g.config.Version), 100); version != "" {
		meta[metaVersion] = version
	}
	activation, err := g.client.activate(ctx, hard, ActivateRequest{Key: key, Label: taken.Label, Conditions: taken.conditions(), Meta: meta})
	if errors.Is(err, ErrActivationsUnsupported) && g.config.AllowKeysWithoutSeats {
		return without()
	}
	if activation == nil {
		return nil, nil, err
	}
	taken.ActivationID = activation.ID
	return taken, activation.LicenseKey, err
}

// questionTime bounds a question to Polar while the lock is held, which others wait for. It
// allows for one request that hangs, and one more try.
const questionTime = attemptTimeout + 5*time.Second

// askInTime is ask with the lock held.
func (g *Gate) askInTime(ctx context.Context, s *seat, key Key) (*LicenseKey, error) {
	ctx, cancel := context.WithTimeout(ctx, questionTime)
	defer cancel()
	return g.ask(ctx, s, key, 0)
}

// free releases an activation. If Polar doesn't know it, it was released before, or Polar
// has rotated its key and counts it under the new one: then the error is ErrUnknownKey.
func (g *Gate) free(ctx context.Context, s *seat) error {
	if s.Lease != nil && g.config.hasLeaseServer() {
		if known, err := g.sendReceipt(ctx, s); known {
			return err
		}
	}
	key := newKey(s.Key)
	if key.IsZero() || s.ActivationID == "" {
		return nil // the place of a pool ends by itself, and a receipt that isn't known ends nothing
	}
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

// rollbackActivation releases an activation that was just given and isn't kept, and reports
// whether it is released.
func (g *Gate) rollbackActivation(ctx context.Context, s *seat) bool {
	var err error
	if s.Lease != nil {
		err = g.free(ctx, s)
	} else {
		err = g.client.Deactivate(ctx, newKey(s.Key), s.ActivationID)
	}
	if err == nil || errors.Is(err, ErrSeatReleased) {
		return true
	}
	g.config.Logger.Error("polargate: an activation couldn't be deactivated", "activation", s.ActivationID, "error", err)
	return false
}

// Deactivate ends the activation of this computer and forgets the license key. Access
// ends once that is stored, which needs no network. A *StoreError means that it couldn't
// be stored, and nothing has changed. ErrUnreadableState means that nothing could be
// read, so there was no activation to end. Any other error, except ErrClosed, means that
// the license was removed from this computer, but Polar still counts the activation.
// Check tries again at most once a minute, and so do Refresh, Activate and Deactivate, in
// this run of the program or the next. ErrUnknownKey then means that the key was replaced
// at Polar, so that only the vendor, the customer portal, or activating the new key here
// can end the activation. Without a license, Deactivate only finishes pending
// deactivations.
//
// ctx bounds how long the caller waits for Polar.
func (g *Gate) Deactivate(ctx context.Context) error {
	if err := g.enter(ctx); err != nil {
		return err
	}
	// The first part is local, and is done even if ctx has ended, so that an error means
	// the same at any time.
	_, err := flight.Do(context.WithoutCancel(ctx), &g.flights, "forget", func(ctx context.Context) (struct{}, error) {
		was, _, err := g.change(ctx, removed{})
		unreadable := was.state.Seat == nil && was.trouble == ErrUnreadableState
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

// flushReleases releases the activations in the outbox. It holds the lock, so that none of
// them is used again meanwhile.
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
	// A request that was sent is finished.
	hard, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	defer context.AfterFunc(g.drainCtx, cancel)()
	return g.flushHere(hard, rec)
}

// flushHere is flushReleases with the lock held.
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
	rec, _ = rec.next(flushed{left, failed != nil}, g.now(), g.rules(rec))
	ctx, cancel := g.lastMoment(ctx)
	defer cancel()
	if err := g.save(ctx, rec, g.sourceNow()); err != nil {
		// Those that were released are tried again later, and found to be released.
		g.config.Logger.Warn("polargate: the license state was not saved", "error", err)
	}
	return failed
}

// Move moves the license of another computer to this one, without entering its key: the
// other computer's activation is ended, and this computer is activated. Use it if the
// Status has the reason ErrOtherMachine, which means that the stored license was
// activated on another computer: a disk was moved, a backup restored, or a system
// reinstalled. Nothing moves unless Move or Activate is called; until then, a copy, for
// example of a disk image, leaves the original alone. If several computers share a Store,
// Move moves the license of the one that was activated last.
//
// At its next check, the other computer finds that it was deactivated, reports
// ErrSeatReleased, and doesn't take the activation back.
//
// Errors are those of Activate, and any failure before the other activation ends leaves
// both computers unchanged. If a move is interrupted later, because the program was
// killed or Polar couldn't be reached, a later Check finishes it. If this computer has a
// license of its own, there is nothing to move. If there is no license at all, the error
// is ErrNoLicense.
func (g *Gate) Move(ctx context.Context) (Status, error) {
	if err := g.enter(ctx); err != nil {
		return g.Status(), err
	}
	err := g.inTurn(ctx, &turns{left: g.config.WaitForTurn}, func() error {
		_, err := flight.Do(ctx, &g.flights, opMove, func(ctx context.Context) (struct{}, error) {
			return struct{}{}, g.withSeat(ctx, g.move)
		})
		return g.callError(opMove, err)
	})
	status := g.Status()
	if err == nil {
		err = statusError(status, nil)
	}
	return status, err
}

// move is Move with the lock held.
func (g *Gate) move(ctx context.Context, rec record) error {
	if s := rec.state.Seat; s != nil {
		switch {
		case s.State == reactivating:
			return g.attempt(ctx, rec, newKey(s.Key), unasked) // finishes it
		case s.State != released && (rec.verdict == nil || rec.verdict.Refused != ErrSeatReleased):
			return nil
		}
	}
	if len(rec.others) == 0 {
		rec.others, _ = g.others(ctx, nil) // load reads them only if there is no license here
	}
	if len(rec.others) == 0 {
		if rec.state.Seat != nil {
			return nil // it is released, as the Status says
		}
		reason := rec.trouble
		if reason == "" {
			reason = ErrNoLicense
		}
		return &Error{Op: opMove, Reason: reason}
	}
	if rec.others[0].byFile() {
		return &Error{Op: opMove, Reason: ErrOtherMachine, situation: fileElsewhere}
	}
	return g.attempt(ctx, rec, newKey(rec.others[0].Key), moving)
}

// usedToBeHere guesses whether the activation of another computer is that of this computer
// before its system was reinstalled: the name of the computer is the same. Computers that
// share a profile have different names. A guess is enough when the user has just entered
// the key, because a wrong one costs a click; nothing is ever moved unasked.
func (g *Gate) usedToBeHere(s seat) bool {
	rec := g.holding()
	return s.Label == "" || s.Label == g.label(&rec.state)
}

// label is what customers see of this computer: Config.Label, or a neutral word and what
// tells it from the customer's other computers.
func (g *Gate) label(st *state) string {
	if g.config.Label != "" {
		return g.config.Label
	}
	short := sha256.Sum256([]byte("polargate label " + g.fingerprint(st)))
	return "Computer " + strings.ToUpper(hex.EncodeToString(short[:3]))
}

// elsewhere finds, among the activations of other computers, one that Polar still counts
// for this key, which may be newer than the activation's. It returns nil if there is none.
func (g *Gate) elsewhere(ctx context.Context, others []seat, key Key) (*seat, error) {
	for _, s := range others[:min(len(others), maxCandidates)] {
		if !s.held() || s.byFile() {
			continue // a key without activations, or an activation without a key
		}
		_, err := g.askInTime(ctx, &s, key)
		switch {
		case err == nil:
			s.Key = key.Reveal()
			return &s, nil
		case errors.Is(err, ErrSeatReleased), errors.Is(err, ErrConditionsMismatch):
		default:
			return nil, err
		}
	}
	return nil, nil
}

// Consume counts n uses, from 1 to 2147483647, of the license key and returns how many
// are left; Unlimited if the key has no limit. Counting can't be undone and is never
// repeated: if the answer was lost, the error is ErrInDoubt, and the uses may have been
// counted. ErrUsageExceeded means that nothing was counted, and leaves the license
// unchanged. If the license is locked and Polar can't be reached, the Reason is that of
// the Status, and errors.Is finds both.
func (g *Gate) Consume(ctx context.Context, n int64) (remaining int64, err error) {
	if err := g.enter(ctx); err != nil {
		return 0, err
	}
	if n < 1 || n > math.MaxInt32 {
		return 0, &InputError{"n", fmt.Sprintf("must be between 1 and %d", math.MaxInt32)}
	}
	// Close waits for a request that is under way, for a while.
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
		// Nothing was counted. Another process may have changed the activation.
		if now := g.reload(ctx); now.state.Seat != nil && !now.state.Seat.same(rec.state.Seat) {
			rec = now
			license, err = g.count(ctx, rec, n)
		}
	}
	return license.remaining(), g.ofLocked(inDoubt(err))
}

// ofLocked turns an error that proves nothing into that of a locked license, which is the
// more useful one. Uses that may have been counted stay in doubt.
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

// count is Consume for that record.
func (g *Gate) count(ctx context.Context, rec record, n int64) (*LicenseKey, error) {
	switch {
	case rec.trouble != "":
		return nil, &Error{Op: opConsume, Reason: rec.trouble, store: rec.unread}
	case rec.elsewhere():
		return nil, &Error{Op: opConsume, Reason: ErrOtherMachine}
	case rec.state.Seat == nil:
		return nil, &Error{Op: opConsume, Reason: ErrNoLicense}
	case rec.state.Seat.byFile():
		return nil, &Error{Op: opConsume, Reason: ErrUnreachable, situation: usesByFile}
	case !rec.unconfirmed() && rec.verdict.Refused == "" && !g.accepts(rec.verdict.BenefitID):
		return nil, &Error{Op: opConsume, Reason: ErrWrongBenefit}
	}
	asked := g.now()
	license, err := g.ask(ctx, rec.state.Seat, newKey(rec.state.Seat.Key), n)
	if e, ok := errors.AsType[*Error](err); ok {
		e.Op = opConsume
	}
	// A caller who left early tells nothing about Polar.
	if license != nil || isDenial(err) || ctx.Err() == nil && !errors.Is(err, ErrUsageExceeded) {
		g.settle(ctx, rec, license, err, asked)
	}
	if err == nil && !g.accepts(license.BenefitID) {
		return nil, &Error{Op: opConsume, Reason: ErrWrongBenefit}
	}
	return license, err
}

// remaining is how many uses are left; l may be nil.
func (l *LicenseKey) remaining() int64 {
	if l == nil {
		return 0
	}
	return l.Remaining()
}
