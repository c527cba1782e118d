package polargate

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"math"
	"runtime"
	"slices"
	"time"

	"github.com/polargate/polargate/internal/flight"
)

// Activate takes a seat of a license key for this installation, or goes on with
// the seat that it has: one seat, however often and from however many processes
// it is called. The key is cleaned as by ParseKey.
//
// A license that was held before is given up, and its seat with it, only when
// the new key has been accepted; any failure leaves it as it was. After
// ErrActivationInDoubt Polar may have given a seat that nobody here knows of;
// the attempt is recorded, and Activate can be called again. A *StoreError
// means that nothing was asked for, since a seat could not have been kept.
//
// ctx bounds how long the caller waits. A request that has left by then is
// finished behind the caller's back, and its outcome stored.
func (g *Gate) Activate(ctx context.Context, licenseKey string) (Status, error) {
	if err := g.enter(ctx); err != nil {
		return g.Status(), err
	}
	key, err := ParseKey(licenseKey)
	if err != nil {
		return g.Status(), err
	}
	_, err = flight.Do(ctx, &g.flights, "activate "+key.Reveal(), func(ctx context.Context) (struct{}, error) {
		return struct{}{}, g.takeSeat(ctx, key)
	})
	return g.Status(), g.callError(opActivate, err)
}

// purchaseLag is how long a key can be unknown to Polar after it was bought:
// 30 s to 2 min are reported, since a worker makes the grant.
const purchaseLag = 150 * time.Second

// ActivateWait is Activate for a key that was bought a moment ago: for as long
// as Polar does not know the key, it tries again, for two and a half minutes at
// most or until ctx ends. Show the user that it is waiting.
func (g *Gate) ActivateWait(ctx context.Context, licenseKey string) (Status, error) {
	began := g.now()
	for pause := 5 * time.Second; ; pause = min(2*pause, 30*time.Second) {
		status, err := g.Activate(ctx, licenseKey)
		if !errors.Is(err, ErrUnknownKey) || g.now().Sub(began)+pause > purchaseLag || !sleep(ctx, pause) {
			return status, err
		}
	}
}

// takeSeat is Activate: the change of seats, and then the release of the one
// that was given up by it, if there was one.
func (g *Gate) takeSeat(ctx context.Context, key Key) error {
	if err := g.changeSeat(ctx, key); err != nil {
		return err
	}
	if len(g.holding().state.Outbox) > 0 {
		ctx, cancel := context.WithTimeout(g.patience, g.config.CheckTimeout)
		defer cancel()
		_ = g.drainOutbox(ctx) // or else later
	}
	return nil
}

// changeSeat gets a seat for a key, with nobody else on this machine at it.
func (g *Gate) changeSeat(ctx context.Context, key Key) error {
	unlock, err := g.lockSeat(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	h := g.reload(ctx)
	if h.unread != nil {
		return h.unread
	}

	fromOutbox := h.state.Seat == nil && g.recoverSeat(&h, key)
	gone := false
	if h.state.Seat != nil {
		var done bool
		done, gone, err = g.reuseSeat(ctx, &h, key, fromOutbox)
		if done || err != nil {
			return err
		}
		if fromOutbox {
			h.state.Seat, h.verdict = nil, nil // free already, so not to be given back either
		}
	}
	before := h.state.Intent
	h.state.Intent = &intent{AttemptID: rand.Text(), Key: key.Reveal(), At: g.now()}
	if err := g.save(ctx, h, FromDisk); err != nil {
		return err
	}
	nothingTaken := func(why error) error {
		h.state.Intent = before
		if err := g.save(context.WithoutCancel(ctx), h, FromDisk); err != nil {
			g.config.Logger.Warn("polargate: the license state was not saved", "error", err)
		}
		return why
	}
	if err := ctx.Err(); err != nil {
		return nothingTaken(err)
	}

	// From here on the caller may go, but the request is seen through.
	hard, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	defer context.AfterFunc(g.patience, cancel)()

	taken, license, err := g.post(ctx, hard, h, key)
	if err != nil {
		if errors.Is(err, ErrInDoubt) {
			g.config.Logger.Warn("polargate: an activation is in doubt", "attempt", h.state.Intent.AttemptID, "error", err)
			return err
		}
		if e, ok := errors.AsType[*Error](err); ok && e.Reason == ErrActivationLimit && before != nil && before.Key == key.Reveal() {
			e.Detail += "; the answer to an earlier attempt from this computer was lost, and it may hold one of them"
		}
		return nothingTaken(err)
	}
	if !g.accepts(license.BenefitID) {
		if taken.ActivationID != "" && !g.giveBack(hard, taken) {
			h.state.Outbox = append(h.state.Outbox, *taken)
		}
		return nothingTaken(&Error{Op: opActivate, Reason: ErrWrongBenefit})
	}
	if old := h.state.Seat; old != nil && old.ActivationID != "" && !gone {
		h.state.Outbox = append(h.state.Outbox, *old)
	}
	h.state.Seat, h.state.Intent, h.trouble = taken, nil, ""
	h.verdict = nextVerdict(nil, license, nil, g.now(), g.config.FreshFor)
	if err := g.save(hard, h, FromNetwork); err != nil {
		if taken.ActivationID != "" {
			g.giveBack(hard, taken)
		}
		return err
	}
	return nil
}

// post asks Polar for a seat.
func (g *Gate) post(ctx, hard context.Context, h held, key Key) (*seat, *LicenseKey, error) {
	fingerprint := g.fingerprint(&h.state)
	taken := &seat{Key: key.Reveal(), Conditions: g.config.conditions(fingerprint)}
	meta := map[string]any{
		"installation": h.state.InstallationID,
		"fingerprint":  fingerprint,
		"attempt":      h.state.Intent.AttemptID,
		"app":          g.config.App,
		"os":           runtime.GOOS + "/" + runtime.GOARCH,
	}
	if version := shorten(cleanText(g.config.Version), 100); version != "" {
		meta["version"] = version
	}
	activation, err := g.client.activate(ctx, hard, ActivateRequest{Key: key, Label: g.config.Label, Conditions: taken.conditions(), Meta: meta})
	if errors.Is(err, ErrActivationsUnsupported) && g.config.AllowKeysWithoutSeats {
		license, err := g.client.Validate(ctx, ValidateRequest{Key: key})
		return &seat{Key: key.Reveal()}, license, err
	}
	if err != nil {
		return nil, nil, err
	}
	taken.ActivationID = activation.ID
	return taken, activation.LicenseKey, nil
}

// recoverSeat takes a seat of this key that waits to be given back out of the
// outbox: it is as good as a new one.
func (g *Gate) recoverSeat(h *held, key Key) bool {
	i := slices.IndexFunc(h.state.Outbox, func(s seat) bool { return s.Key == key.Reveal() })
	if i < 0 {
		return false
	}
	s := h.state.Outbox[i]
	h.state.Seat = &s
	h.state.Outbox = slices.Delete(slices.Clone(h.state.Outbox), i, i+1)
	return true
}

// reuseSeat tries to go on with the seat at hand under key. done means that the
// license is settled. Neither done nor an error means that a new seat is due,
// and gone that the one at hand is no longer held at Polar.
func (g *Gate) reuseSeat(ctx context.Context, h *held, key Key, fromOutbox bool) (done, gone bool, err error) {
	old := h.state.Seat
	same := old.Key == key.Reveal()
	if h.trouble == ErrOtherMachine {
		// Taken elsewhere: the seat moves here, and is free before a new one is
		// asked for, so that a limit of one is no obstacle.
		return false, true, g.release(ctx, h)
	}
	if old.ActivationID == "" && !same {
		return false, true, nil
	}
	// With another key: Polar keeps activations when it rotates a key, so the
	// old seat may be the new key's too.
	license, err := g.ask(ctx, old, key, 0)
	switch {
	case err == nil && !g.accepts(license.BenefitID):
		return false, false, &Error{Op: opActivate, Reason: ErrWrongBenefit}
	case err == nil:
		h.state.Seat = &seat{Key: key.Reveal(), ActivationID: old.ActivationID, Conditions: old.Conditions}
		h.state.Intent = nil
		h.verdict, h.trouble = nextVerdict(h.verdict, license, nil, g.now(), g.config.FreshFor), ""
		return true, false, g.save(ctx, *h, FromNetwork)
	case errors.Is(err, ErrSeatReleased) && same:
		h.verdict = nextVerdict(h.verdict, nil, err, g.now(), g.config.FreshFor)
		return false, true, nil
	case errors.Is(err, ErrConditionsMismatch) && same:
		return false, true, g.release(ctx, h)
	case errors.Is(err, ErrSeatReleased), errors.Is(err, ErrConditionsMismatch):
		return false, false, nil
	case isDenial(err) && same && !fromOutbox:
		h.verdict = nextVerdict(h.verdict, nil, err, g.now(), g.config.FreshFor)
		if saveErr := g.save(ctx, *h, FromNetwork); saveErr != nil {
			g.config.Logger.Warn("polargate: the license state was not saved", "error", saveErr)
		}
	}
	if e, ok := errors.AsType[*Error](err); ok {
		e.Op = opActivate
	}
	return false, false, err
}

// release frees the seat at hand before another one is taken in its place. If
// that fails after all, the key is still known, and locked.
func (g *Gate) release(ctx context.Context, h *held) error {
	if old := h.state.Seat; old.ActivationID != "" {
		err := g.client.Deactivate(ctx, newKey(old.Key), old.ActivationID)
		if err != nil && !errors.Is(err, ErrSeatReleased) {
			return err
		}
	}
	h.verdict, h.trouble = &lastVerdict{Refused: ErrSeatReleased, CheckedAt: g.now(), Mark: g.now()}, ""
	return nil
}

// giveBack frees a seat that was taken and is not kept, and reports whether it
// is free.
func (g *Gate) giveBack(ctx context.Context, s *seat) bool {
	err := g.client.Deactivate(ctx, newKey(s.Key), s.ActivationID)
	if err == nil || errors.Is(err, ErrSeatReleased) {
		return true
	}
	g.config.Logger.Error("polargate: an activation could not be given back", "activation", s.ActivationID, "error", err)
	return false
}

// Deactivate gives the seat back and forgets the license key. Access ends at
// once, whether Polar can be reached or not. An error other than a *StoreError
// means that the seat itself could not be given back yet; that is stored, and
// tried again by later calls of Check, Activate and Deactivate, in this run of
// the program or the next. Without a license it has nothing to do but that.
func (g *Gate) Deactivate(ctx context.Context) error {
	if err := g.enter(ctx); err != nil {
		return err
	}
	_, err := flight.Do(ctx, &g.flights, "deactivate", func(ctx context.Context) (struct{}, error) {
		err := g.change(ctx, func(h *held) bool {
			if h.state.Seat == nil {
				return false
			}
			if h.state.Seat.ActivationID != "" {
				h.state.Outbox = append(h.state.Outbox, *h.state.Seat)
			}
			h.state.Seat, h.verdict, h.trouble = nil, nil, ""
			return true
		})
		if err != nil {
			return struct{}{}, err
		}
		hard, cancel := context.WithCancel(context.WithoutCancel(ctx))
		defer cancel()
		defer context.AfterFunc(g.patience, cancel)()
		return struct{}{}, g.drainOutbox(hard)
	})
	return g.callError(opDeactivate, err)
}

// drainOutbox gives back the seats that are waiting for it. It asks Polar
// without keeping others from the state, for giving back twice does no harm.
func (g *Gate) drainOutbox(ctx context.Context) error {
	var freed []seat
	var failed error
	for _, s := range g.load(ctx).state.Outbox {
		err := g.client.Deactivate(ctx, newKey(s.Key), s.ActivationID)
		if err != nil && !errors.Is(err, ErrSeatReleased) {
			failed = err
			break
		}
		freed = append(freed, s)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	err := g.change(ctx, func(h *held) bool {
		left := slices.DeleteFunc(slices.Clone(h.state.Outbox), func(s seat) bool {
			return slices.ContainsFunc(freed, func(f seat) bool { return f.same(&s) })
		})
		if len(left) == 0 && len(h.state.Outbox) == 0 {
			return false
		}
		h.state.Outbox, h.state.OutboxRetry = left, time.Time{}
		if len(left) > 0 {
			h.state.OutboxRetry = g.now().Add(outboxPause)
		}
		return true
	})
	if err != nil {
		// Those that were freed are tried again, and found to be free.
		g.config.Logger.Warn("polargate: the license state was not saved", "error", err)
	}
	return failed
}

// Consume counts n uses, from 1 to 2147483647, against the license key and
// returns how many are left; Unlimited if the key has no limit. Counting cannot
// be undone and is never repeated: when the answer was lost, the error is
// ErrInDoubt, and the uses may have been counted. ErrUsageExceeded means that
// nothing was counted, and leaves the license as it is.
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
	defer context.AfterFunc(g.patience, cancel)()
	h := g.holding()
	if h.state.Seat == nil {
		h = g.reload(ctx)
	}
	switch {
	case h.state.Seat == nil:
		return 0, &Error{Op: opConsume, Reason: ErrNoLicense}
	case h.trouble != "":
		return 0, &Error{Op: opConsume, Reason: h.trouble}
	}
	license, err := g.ask(ctx, h.state.Seat, newKey(h.state.Seat.Key), n)
	if e, ok := errors.AsType[*Error](err); ok {
		e.Op = opConsume
	}
	if !errors.Is(err, ErrUsageExceeded) {
		g.settle(ctx, h.state.Seat, license, err)
	}
	if err != nil {
		return 0, inDoubt(err)
	}
	if !g.accepts(license.BenefitID) {
		return 0, &Error{Op: opConsume, Reason: ErrWrongBenefit}
	}
	return license.Remaining(), nil
}
