package polargate

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/polargate/polargate/internal/flight"
)

// ImportedActivation is an activation that another program made, for example an earlier
// version of this one that called Polar itself.
type ImportedActivation struct {
	// Key is the license key, as it was activated.
	Key string
	// ActivationID is the id that Polar gave the activation: a UUID of version 4.
	ActivationID string
	// Conditions are those that the activation was made with; nil for none. Polar
	// compares them as a whole, and never returns them.
	Conditions map[string]any
	// CheckedAt is when the other program last verified the license; zero if it doesn't
	// know. If Polar can't be reached, the license counts from then on for the rest of
	// Config.GracePeriod: see Gate.Import.
	CheckedAt time.Time
	// BenefitID is the benefit of the key, for its features until Polar answers. Empty means
	// the one of Config.Features, if there is only one; otherwise the features have to wait.
	BenefitID string
	// Label is what customers see of the activation. Export fills it in; Import doesn't need
	// it.
	Label string
}

// Format prints that it is an activation, without its key, whatever the verb.
func (a ImportedActivation) Format(f fmt.State, _ rune) {
	fmt.Fprintf(f, "polargate.ImportedActivation{ActivationID:%s}", a.ActivationID)
}

// LogValue logs what Format prints.
func (a ImportedActivation) LogValue() slog.Value { return slog.StringValue(fmt.Sprint(a)) }

// MarshalJSON writes what Format prints.
func (a ImportedActivation) MarshalJSON() ([]byte, error) { return json.Marshal(fmt.Sprint(a)) }

// Import adopts an activation that another program made, instead of using one more. It
// asks Polar whether the activation is valid. Only then does it replace the license in
// use, whose activation is given up; any failure leaves that license unchanged. From then
// on the activation belongs to this computer: it is validated with the conditions that it
// was made with, and Deactivate ends it. The other program should forget it.
//
// If Polar can't be asked, and there is no other license here, the activation is stored all
// the same, and the Status has its Key: the other program should forget it then, too.
// Check, Run and Activate ask Polar later, Activate uses it instead of one more, and
// Deactivate ends it. Until Polar answers, the license counts if CheckedAt says that it was
// verified less than GracePeriod ago: the Status is in Grace until GracePeriod after
// CheckedAt, but for 30 days at most. This happens once, on a computer that had no license of
// this program before. A CheckedAt in the future, and a program with a license server, have to
// wait for the answer. The activation is also stored if its conditions turn out to differ:
// then Activate with its key replaces it.
//
// A trial that has begun ends once Polar grants the activation. Until then it counts whenever
// the license doesn't, and lasts as long as it would have without the import. If Polar refuses
// the activation meanwhile, Refresh and Activate say why.
//
// Errors are those of Activate, except that nothing can be in doubt. After
// ErrSeatReleased and ErrConditionsMismatch, call Activate with the key.
func (g *Gate) Import(ctx context.Context, a ImportedActivation) (Status, error) {
	if err := g.enter(ctx); err != nil {
		return g.Status(), err
	}
	key, err := ParseKey(a.Key)
	if err != nil {
		return g.Status(), err
	}
	id, ok := canonicalUUID4(a.ActivationID)
	if !ok {
		return g.Status(), &InputError{"ActivationID", "is not a UUID of version 4: give the id that Polar answered when the key was activated"}
	}
	if _, ok := canonicalUUID4(a.BenefitID); !ok && a.BenefitID != "" {
		return g.Status(), &InputError{"BenefitID", "is not a UUID of version 4: give the id of the key's benefit, or leave it empty"}
	}
	if err := checkMap("Conditions", a.Conditions); err != nil {
		return g.Status(), err
	}
	s := seat{Key: key.Reveal(), ActivationID: id}
	if a.Conditions != nil {
		if s.Conditions, err = json.Marshal(a.Conditions); err != nil {
			return g.Status(), &InputError{"Conditions", "can't be written as JSON"}
		}
	}
	_, err = flight.Do(ctx, &g.flights, "import "+id+" "+key.Reveal()+" "+string(s.Conditions), func(ctx context.Context) (struct{}, error) {
		return struct{}{}, g.withSeat(ctx, func(ctx context.Context, rec record) error {
			s := s
			s.Machine, s.Label = g.fingerprint(&rec.state), g.label(&rec.state)
			return g.importHere(ctx, rec, &s, a)
		})
	})
	return g.Status(), g.callError(opImport, err)
}

// importHere is Import with the lock held.
func (g *Gate) importHere(ctx context.Context, rec record, s *seat, a ImportedActivation) error {
	asked := g.now()
	license, err := g.ask(ctx, s, newKey(s.Key), 0)
	if err == nil && g.accepts(license.BenefitID) {
		return g.settleSeat(ctx, rec, s, license, false)
	}
	outcome := answered{of: s, after: rec.verdict, asked: asked, at: g.now(), license: license, err: err}
	if e, ok := err.(*Error); ok {
		e.Op = opImport
	}
	if err == nil {
		err = &Error{Op: opImport, Reason: ErrWrongBenefit}
	}
	if !rec.state.Seat.same(s) {
		rec, ok := g.keepImport(rec, s, a, err)
		if !ok {
			return err
		}
		return g.storeImport(ctx, rec, err)
	}
	// It was stored before, when Polar couldn't be asked.
	if rec, effects := rec.next(outcome, outcome.at, g.rules(rec)); len(effects) > 0 {
		return g.storeImport(ctx, rec, err)
	}
	return err
}

// keepImport is the record with an activation that Polar hasn't confirmed. ok is false if it
// is not to be kept.
func (g *Gate) keepImport(rec record, s *seat, a ImportedActivation, why error) (next record, ok bool) {
	now := g.now()
	e := imported{seat: s}
	failure, _ := errors.AsType[*Error](why)
	switch {
	case failure == nil:
		return rec, false
	case failure.Reason == ErrConditionsMismatch:
		// Polar counts the activation: Activate can end it.
		e.provisional = nextVerdict(nil, nil, why, now, g.config.FreshFor)
	case !failure.Reason.provesNothing():
		return rec, false
	case rec.untouched() && !g.config.hasLeaseServer():
		benefit := a.BenefitID
		if len(g.config.Features) == 1 && benefit == "" {
			for id := range g.config.Features {
				if id != AnyBenefit {
					benefit = id
				}
			}
		}
		if benefit == "" || g.accepts(benefit) {
			e.provisional = provisionalVerdict(a.CheckedAt, benefit, why, now)
		}
	}
	if e.provisional == nil && rec.trying() {
		e.provisional = waitingVerdict(why, now)
	}
	next, effects := rec.next(e, now, g.rules(rec))
	return next, len(effects) > 0
}

// storeImport stores a record although the caller may have left, and says why Polar didn't
// confirm the import.
func (g *Gate) storeImport(ctx context.Context, rec record, why error) error {
	ctx, cancel := g.lastMoment(ctx)
	defer cancel()
	if err := g.saveOrFallBack(ctx, rec, FromDisk); err != nil {
		return err
	}
	return why
}

// Export is the reverse of Import: what another program needs to use this computer's
// activation, for example a later version of this one without this package. The key in it is
// not masked; the whole prints without it. Conditions are those that the activation was made
// with: Polar wants them in every validation. Nothing changes here: don't call Deactivate,
// which ends the activation. ErrNoLicense means that this computer has no activation with a
// key: none at all, or one that came in a license file. A key without activations has no
// ActivationID.
func (g *Gate) Export() (ImportedActivation, error) {
	if err := g.enter(context.Background()); err != nil {
		return ImportedActivation{}, err
	}
	rec := g.holding()
	s := rec.state.Seat
	if s == nil || s.Key == "" || s.State != activated && s.State != seatless {
		return ImportedActivation{}, &Error{Op: "export", Reason: ErrNoLicense}
	}
	a := ImportedActivation{Key: s.Key, ActivationID: s.ActivationID, Label: s.Label}
	if s.Conditions != nil {
		conditions := json.NewDecoder(bytes.NewReader(s.Conditions))
		conditions.UseNumber()
		if err := conditions.Decode(&a.Conditions); err != nil {
			return ImportedActivation{}, &Error{Op: "export", Reason: ErrUnreadableState, Err: err}
		}
	}
	if v := rec.verdict; v != nil {
		a.BenefitID = v.BenefitID
		if v.Refused == "" {
			a.CheckedAt = v.CheckedAt
		}
	}
	return a, nil
}
