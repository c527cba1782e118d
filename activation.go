package polargate

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/polargate/polargate/internal/wire"
)

// Activation is what Polar counts for a license key on one computer. Source: schema
// LicenseKeyActivationRead.
type Activation struct {
	// ID is the activation's own, and LicenseKeyID that of its key. Both are UUIDs.
	ID, LicenseKeyID string
	// Label is what the customer sees, and Meta what the program said about itself when
	// it activated. Both may be empty.
	Label string
	Meta  map[string]any
	// CreatedAt and ModifiedAt are by Polar's clock; zero if Polar doesn't say.
	CreatedAt, ModifiedAt time.Time
	// LicenseKey is the key that was activated; nil if Polar leaves it out, as in the
	// answer to a validation.
	LicenseKey *LicenseKey
}

// ActivateRequest is an activation of a license key.
type ActivateRequest struct {
	// Key is the license key, from ParseKey. Required.
	Key Key
	// Label is what the customer sees in the list of their activations; may be empty.
	// Control characters become spaces, and it is cut to 255 characters.
	Label string
	// Conditions must be repeated exactly in every validation of the activation; see
	// ValidateRequest. Polar never returns them.
	Conditions map[string]any
	// Meta is stored with the activation for the vendor to read. Its limits are those of
	// Conditions.
	Meta map[string]any
}

// Activate activates a license key. Polar doesn't recognize an activation that it gave
// before: each success uses another one, so a request is sent once and never repeated. If
// it may have had its effect but no answer came, the error is ErrActivationInDoubt. If
// Polar activates a key that it calls expired or inactive in the same answer, both the
// Activation and the error are returned, so that the caller can deactivate it.
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
	// Polar would refuse a NUL, and nobody sees the other control characters in a list.
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

// Deactivate ends an activation. It works for revoked and expired keys too. If the
// activation was deactivated before, or if Polar doesn't know the key or the activation,
// the error is ErrSeatReleased.
func (c *Client) Deactivate(ctx context.Context, key Key, activationID string) error {
	if err := c.checkInput(ctx, key, nil); err != nil {
		return err
	}
	id, ok := wire.CanonicalUUID4(activationID)
	if !ok {
		return errActivationID
	}
	return c.exchange(ctx, exchange{
		op:   opDeactivate,
		path: "deactivate",
		key:  key,
		body: &wireRequest{Key: key.Reveal(), OrganizationID: c.organizationID, ActivationID: id},
	}, nil)
}

var errActivationID = &InputError{"activation id", "is not a UUID of version 4: pass it as Polar gave it"}

// parseActivation reads the answer to an activation. The license key inside it follows
// the same rules as in a validation. If they refuse it, the Activation is returned
// anyway.
func parseActivation(body []byte, asked Key, organizationID string, at time.Time) (*Activation, error) {
	f, err := wire.Object(body)
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
	if _, ok := wire.CanonicalUUID4(a.ID); !ok {
		return nil, errors.New("no activation: its id is missing")
	}
	if license != nil {
		a.LicenseKey = license
	}
	return &a, refused
}

// UnmarshalJSON reads Polar's form. A field that is missing or has another type is left
// zero.
func (a *Activation) UnmarshalJSON(data []byte) error {
	f, err := wire.Object(data)
	if err != nil {
		return err
	}
	*a = Activation{}
	f.Text("id", &a.ID)
	f.Text("license_key_id", &a.LicenseKeyID)
	f.Text("label", &a.Label)
	wire.Optional(f, "meta", &a.Meta)
	f.Time("created_at", &a.CreatedAt)
	f.Time("modified_at", &a.ModifiedAt)
	wire.Optional(f, "license_key", &a.LicenseKey)
	return nil
}

// inDoubt changes a failure into ErrInDoubt if the request may have had its effect.
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
