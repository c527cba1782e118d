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

// Activate activates a license key on this computer, or continues to use the activation
// that it has: one activation, however often and from however many processes it is
// called. The key is cleaned as by ParseKey.
//
// The Status is that of the license in use afterwards, not of what went wrong: show
// Message(err). A license that was in use before is given up, and its activation ends,
// only once the new key has been accepted; any failure leaves it unchanged. After
// ErrActivationInDoubt, Polar may count an activation that nobody knows of. The attempt
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
		g.config.Logger.Info("polargate: an activation waits for its turn, because Polar's request limit is reached", "wait", wait.Round(time.Second))
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
		// The last try is made with a little time left for it.
		left := time.Until(end) - 2*time.Second
		if !errors.Is(err, ErrUnknownKey) || left < time.Second || !pace.Sleep(ctx, min(pause, left)) {
			return status, g.ofEntered(licenseKey, err)
		}
	}
}

// activate is Activate: the change of activations, and then the release of those that
// were given up by it.
func (g *Gate) activate(ctx context.Context, key Key, by consent) error {
	return g.withSeat(ctx, func(ctx context.Context, rec record) error { return g.attempt(ctx, rec, key, by) })
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
	ctx, cancel := context.WithTimeout(g.drainCtx, g.budget.all)
	defer cancel()
	_ = g.flushHere(ctx, g.holding()) // or else later
	return nil
}

// An attempt is one activation of a key on its way, with the activation locked. What
// is about to be done is stored before it is done, so that a program that is killed
// finds at its next start what it had begun:
//
//	step    what it does                             found after a kill
//	reuse   goes on with an activation of before      nothing was begun
//	vacate  releases the one of another computer      it is reactivating, or in the outbox
//	begin   stores that an activation is asked for    an intent: it is in doubt
//	clear   releases those in the way of a new one    the same, and one that is reactivating
//	post    asks Polar for the activation             the same
//	commit  stores the activation                     the activation
//	abandon takes the intent back                     what was there before
type attempt struct {
	g    *Gate
	key  Key
	rec  record  // as it stands after the last step
	last *intent // that was there before: an earlier doubt
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
	// From here on the caller may go, but the request is seen through.
	hard, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	defer context.AfterFunc(g.drainCtx, cancel)()
	given, license, err := a.post(ctx, hard)
	if err != nil {
		return a.abandon(ctx, err)
	}
	return a.commit(hard, given, license)
}

// happens takes an event into the record, without storing it, and reports whether it
// changed something.
func (a *attempt) happens(e recordEvent) (changed bool) {
	next, effects := a.rec.next(e, a.g.now(), a.g.rules(a.rec))
	a.rec = next
	return len(effects) > 0
}

// reuse goes on with an activation of before, if there is one for the key. done means
// that the license is settled; neither that nor an error means that a new one is due.
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
			next.Key, next.Label = a.key.Reveal(), g.config.Label
			return true, g.settleSeat(ctx, a.rec, &next, license, false)
		case foundElsewhere, foundReleased:
			return false, nil // a new one it is
		case foundReleasedHere, foundAnother:
			continue
		}
		if changed {
			// What Polar said of the activation at hand is kept, whatever comes of the key.
			if saveErr := g.save(ctx, a.rec, FromNetwork); saveErr != nil {
				g.config.Logger.Warn("polargate: the license state was not saved", "error", saveErr)
				g.adoptRefusal(a.rec, a.last)
			}
		}
		return false, found.problem()
	}
	return false, nil
}

// vacate releases the activation that another computer has, if consent allows it.
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
	return a.g.vacate(ctx, &a.rec, other)
}

// begin stores that an activation is about to be asked for.
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

// clear releases activations of this key that are in the way of a new one: with a
// limit of one there is no other order. That is so after a move to another computer,
// and for what waits in the outbox.
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

// abandon ends an attempt without an activation, and says why. An activation that is in
// doubt stays so.
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
	a.happens(abandoned{a.last}) // the intent is fulfilled
	return a.g.settleSeat(ctx, a.rec, given, license, true)
}

// adoptRefusal keeps in memory what Polar said of the activation at hand, where it
// could not be stored.
func (g *Gate) adoptRefusal(rec record, last *intent) {
	if rec.verdict != nil && rec.verdict != rec.loaded && rec.verdict.Refused != "" {
		rec.state.Intent = last
		g.adopt(rec, FromNetwork)
	}
}

// withdraw takes back an intent that is stored although storing it failed, as when the
// disk fails after it has the file: nothing was asked for, and nothing is in doubt.
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
	rec.state.Intent = last
	_ = g.save(ctx, rec, FromDisk)
}

// lastMoment is time for what must be stored although the caller has gone.
func (g *Gate) lastMoment(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), g.budget.storing)
}

// settleSeat makes a seat the one that is held, and stores it. One that was taken
// just now is released if it cannot be stored. A doubt about another key stays.
func (g *Gate) settleSeat(ctx context.Context, rec record, s *seat, license *LicenseKey, taken bool) error {
	next, _ := rec.next(settled{s, license}, g.now(), g.rules(rec))
	err := g.saveOrFallBack(ctx, next, FromNetwork)
	if err != nil && taken && s.ActivationID != "" && g.rollbackActivation(ctx, s) {
		// The Store may have stored it all the same.
		ctx, cancel := g.lastMoment(ctx)
		defer cancel()
		_ = g.save(ctx, rec, FromDisk)
	}
	return err
}

// saveOrFallBack is save for the steps of an activation: a Store that cannot be written
// is answered by going over to memory, if the program wants that.
func (g *Gate) saveOrFallBack(ctx context.Context, rec record, source Source) error {
	err := g.save(ctx, rec, source)
	if err != nil && g.useMemory(ctx, err) {
		err = g.save(ctx, rec, source)
	}
	return err
}

// post asks Polar for the activation, and sorts out one that is given and of no use: it
// is released, now or later.
func (a *attempt) post(ctx, hard context.Context) (*seat, *LicenseKey, error) {
	given, license, err := a.ask(ctx, hard)
	if given != nil && err == nil && !a.g.accepts(license.BenefitID) {
		err = &Error{Op: opActivate, Reason: ErrWrongBenefit}
	}
	if err == nil || errors.Is(err, ErrInDoubt) {
		return given, license, err
	}
	refused := turnedDown{err: err}
	if given != nil && given.ActivationID != "" && !a.g.rollbackActivation(hard, given) {
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

// ask is the request itself. An activation may come with an error: Polar gave it, and
// refuses the key all the same.
func (a *attempt) ask(ctx, hard context.Context) (*seat, *LicenseKey, error) {
	g, rec, key := a.g, a.rec, a.key
	machine := g.fingerprint(&rec.state)
	without := func() (*seat, *LicenseKey, error) {
		ctx, cancel := context.WithTimeout(ctx, questionTime)
		defer cancel()
		license, err := g.client.Validate(ctx, ValidateRequest{Key: key})
		return &seat{Key: key.Reveal(), Machine: machine, Label: g.config.Label, State: seatless}, license, err
	}
	if !g.config.takesSeats() {
		return without()
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
		return without()
	}
	if activation == nil {
		return nil, nil, err
	}
	taken.ActivationID = activation.ID
	return taken, activation.LicenseKey, err
}

// questionTime bounds a question to Polar while the seat is locked, which others
// wait for: one request that hangs, and another try.
const questionTime = attemptTimeout + 5*time.Second

func (g *Gate) askInTime(ctx context.Context, s *seat, key Key) (*LicenseKey, error) {
	ctx, cancel := context.WithTimeout(ctx, questionTime)
	defer cancel()
	return g.ask(ctx, s, key, 0)
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
	// The first part is local, and is done even for a caller in a hurry: what
	// the error means must not depend on when ctx ended.
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
	rec, _ = rec.next(flushed{left, failed != nil}, g.now(), g.rules(rec))
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
