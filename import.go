package polargate

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"

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
	if err := checkMap("Conditions", a.Conditions); err != nil {
		return g.Status(), err
	}
	s := &seat{Key: key.Reveal(), ActivationID: id, Label: g.config.Label}
	if a.Conditions != nil {
		if s.Conditions, err = json.Marshal(a.Conditions); err != nil {
			return g.Status(), &InputError{"Conditions", "can't be written as JSON"}
		}
	}
	_, err = flight.Do(ctx, &g.flights, "import "+id+" "+key.Reveal()+" "+string(s.Conditions), func(ctx context.Context) (struct{}, error) {
		return struct{}{}, g.withSeat(ctx, func(ctx context.Context, rec record) error {
			s.Machine = g.fingerprint(&rec.state)
			license, err := g.ask(ctx, s, key, 0)
			if e, ok := err.(*Error); ok {
				e.Op = opImport
			}
			if err == nil && !g.accepts(license.BenefitID) {
				err = &Error{Op: opImport, Reason: ErrWrongBenefit}
			}
			if err != nil {
				return err
			}
			return g.settleSeat(ctx, rec, s, license, false)
		})
	})
	return g.Status(), g.callError(opImport, err)
}
