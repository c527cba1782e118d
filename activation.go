package polargate

import (
	"context"
	"encoding/json"
	"errors"
	"time"
)

// Activation is a seat: one installation's hold on a license key. Source:
// schema LicenseKeyActivationRead.
type Activation struct {
	// ID is the activation's own, and LicenseKeyID that of its key; UUIDs.
	ID, LicenseKeyID string
	// Label is what the customer sees, and Meta what the program said of itself
	// when it took the seat. Both may be empty.
	Label string
	Meta  map[string]any
	// CreatedAt and ModifiedAt are by Polar's clock; zero if Polar does not say.
	CreatedAt, ModifiedAt time.Time
	// LicenseKey is the key that was activated; nil where Polar leaves it out,
	// as it does inside the answer of a validation.
	LicenseKey *LicenseKey
}

// ActivateRequest asks for a seat.
type ActivateRequest struct {
	// Key is the license key, from ParseKey. Required.
	Key Key
	// Label is what the customer sees in the list of their activations; may be
	// empty. Control characters become spaces, and it is cut to 255 characters.
	Label string
	// Conditions must be repeated exactly in every validation of the
	// activation; see ValidateRequest. Polar never returns them.
	Conditions map[string]any
	// Meta is kept with the activation for the vendor to read; the limits are
	// those of Conditions.
	Meta map[string]any
}

// Activate takes a seat. Polar never recognises a seat that it gave before:
// each success takes another one, so a request is sent once and never repeated.
// When it may have been carried out but no answer came, the error is
// ErrActivationInDoubt. In the case that Polar gives a seat of a key that it
// calls expired or inactive in the same answer, the Activation comes with the
// error, for the caller to give it back.
func (c *Client) Activate(ctx context.Context, r ActivateRequest) (*Activation, error) {
	return c.activate(ctx, ctx, r)
}

// activate waits for its turn under ctx, and sends under hard.
func (c *Client) activate(ctx, hard context.Context, r ActivateRequest) (*Activation, error) {
	if err := c.checkInput(ctx, r.Key, r.Conditions); err != nil {
		return nil, err
	}
	if err := checkMap("meta", r.Meta); err != nil {
		return nil, err
	}
	// A NUL would be refused, and the rest would not be seen in a list.
	label := shorten(cleanText(r.Label), 255)
	ask := exchange{
		op:   opActivate,
		path: "activate",
		hard: hard,
		key:  r.Key,
		body: &wireRequest{
			Key:            r.Key.Reveal(),
			OrganizationID: c.organizationID,
			Label:          &label,
			Conditions:     r.Conditions,
			Meta:           r.Meta,
		},
	}
	var activation *Activation
	err := c.exchange(ctx, ask, func(body []byte, at time.Time) (err error) {
		activation, err = parseActivation(body, r.Key, c.organizationID, at)
		return err
	})
	return activation, inDoubt(err)
}

// Deactivate gives a seat back. It works for revoked and expired keys too. A
// seat that was given back before, or a key or activation that Polar does not
// know, is ErrSeatReleased.
func (c *Client) Deactivate(ctx context.Context, key Key, activationID string) error {
	if err := c.checkInput(ctx, key, nil); err != nil {
		return err
	}
	id, ok := canonicalUUID4(activationID)
	if !ok {
		return &InputError{"activation id", "is not a UUID of version 4: pass it as Polar gave it"}
	}
	return c.exchange(ctx, exchange{
		op:   opDeactivate,
		path: "deactivate",
		key:  key,
		body: &wireRequest{Key: key.Reveal(), OrganizationID: c.organizationID, ActivationID: id},
	}, nil)
}

// parseActivation reads the answer to an activation. The license key is nested
// in it, and is held to the same rules as in a validation. If it is refused by
// them, there is an Activation all the same.
func parseActivation(body []byte, asked Key, organizationID string, at time.Time) (*Activation, error) {
	f, err := object(body)
	if err != nil {
		return nil, err
	}
	license, refused := parseGranted(f["license_key"], asked, organizationID, at)
	if _, ok := refused.(*Error); refused != nil && !ok {
		return nil, refused
	}
	var a Activation
	if err := json.Unmarshal(body, &a); err != nil {
		return nil, err
	}
	if _, ok := canonicalUUID4(a.ID); !ok {
		return nil, errors.New("no activation: its id is missing")
	}
	if license != nil {
		a.LicenseKey = license
	}
	return &a, refused
}

// UnmarshalJSON reads Polar's form; what is missing or of another type is left
// zero.
func (a *Activation) UnmarshalJSON(data []byte) error {
	f, err := object(data)
	if err != nil {
		return err
	}
	*a = Activation{}
	f.text("id", &a.ID)
	f.text("license_key_id", &a.LicenseKeyID)
	f.text("label", &a.Label)
	optional(f, "meta", &a.Meta)
	f.time("created_at", &a.CreatedAt)
	f.time("modified_at", &a.ModifiedAt)
	optional(f, "license_key", &a.LicenseKey)
	return nil
}

// inDoubt renames a failure after which the effect may have happened.
func inDoubt(err error) error {
	e, ok := err.(*Error)
	if !ok || e.Reason != ErrUnreachable || !e.sent {
		return err
	}
	doubt := *e
	doubt.Reason = ErrInDoubt
	switch {
	case e.Op == opConsume:
		doubt.situation = inDoubtUses
	case errors.Is(err, errWebPage):
		doubt.situation = inDoubtPage
	case e.situation != callEnded:
		doubt.situation = ""
	}
	return &doubt
}
