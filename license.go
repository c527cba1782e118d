package polargate

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/polargate/polargate/internal/wire"
	"github.com/polargate/polargate/lease"
)

// LicenseKey is a license key as Polar describes it. Polar promises little about its
// fields for the years to come, so only ID, Key, OrganizationID, BenefitID and Status are
// relied on; any other may be zero. A zero time and a nil limit stand for Polar's null.
// Source: schemas LicenseKeyRead and ValidatedLicenseKey of Polar's published API,
// version 2026-04.
type LicenseKey struct {
	// ID is the license's own, and stays when its key is rotated. The others say what it
	// belongs to. All are UUIDs.
	ID, OrganizationID, CustomerID, BenefitID string
	// Key prints masked.
	Key Key
	// DisplayKey is Polar's own masked form. If a key is so short that Polar shows nearly
	// all of it, DisplayKey is "****".
	DisplayKey string
	Status     KeyStatus
	// LimitActivations is how many computers the key can be activated on; nil if it can't
	// be activated.
	LimitActivations *int64
	// Usage is the sum of all increments.
	Usage int64
	// LimitUsage is the most that Usage can reach; nil if there is no limit.
	LimitUsage *int64
	// Validations is how often the key has been validated.
	Validations     int64
	LastValidatedAt time.Time
	// ExpiresAt is when the key expires; zero if never. Keys that come with a
	// subscription don't expire; they are revoked when it ends. See EndsAt.
	ExpiresAt  time.Time
	CreatedAt  time.Time
	ModifiedAt time.Time
	Customer   Customer
	// Member is whom the key is for, if it came with a member's seat; nil if Polar doesn't
	// say, as before version 2026-10 of its API.
	Member *KeyMember
	// Subscription or Order is what the key was bought with; nil if Polar doesn't say.
	// Only a validation tells, from version 2027-01 of Polar's API on.
	Subscription *KeySubscription
	Order        *KeyOrder
	// Activation is the one that was asked about; nil if there was none.
	Activation *Activation
	// Activations are all that the key has, the newest first. Only Client.LicenseKey gives
	// them.
	Activations []Activation

	answeredAt time.Time // by Polar's clock
	// proof is the lease that says all this, and receiptSecret what proves its end; nil
	// and "" if Polar itself said it.
	proof         *lease.Lease
	receiptSecret string
}

// KeyMember is the member of a customer whom a license key is for. Source: schema
// LicenseKeyMember of Polar's SDK 1.0.1.
type KeyMember struct {
	// ID is Polar's, and ExternalID the program's own, which may be empty.
	ID, ExternalID string
	// Email prints masked.
	Email Email
}

// Format prints Polar's id of a member, whatever the verb.
func (m KeyMember) Format(f fmt.State, _ rune) { fmt.Fprintf(f, "polargate.KeyMember{ID:%s}", m.ID) }

// LogValue logs what Format prints.
func (m KeyMember) LogValue() slog.Value { return slog.StringValue(fmt.Sprint(m)) }

// KeySubscription is the subscription that a license key came with. Source: schema
// LicenseKeySubscription of Polar's SDK 1.0.1.
type KeySubscription struct {
	// ID is the subscription's own, and Status Polar's word: "active", "trialing", …
	ID, Status                           string
	CurrentPeriodStart, CurrentPeriodEnd time.Time
	// CancelAtPeriodEnd and EndsAt are set once the subscription is to end.
	CancelAtPeriodEnd bool
	EndsAt            time.Time
}

// KeyOrder is the order that a license key came with. Source: schema LicenseKeyOrder of
// Polar's SDK 1.0.1.
type KeyOrder struct {
	// ID is the order's own, and Status Polar's word: "paid", "refunded", …
	ID, Status string
	CreatedAt  time.Time
	Paid       bool
}

// EndsAt is when the key ends, as far as that is known: at ExpiresAt, or when its
// subscription ends, whichever is earlier. It is zero if neither is known to end. Polar
// decides: a key that it grants after its subscription's end hasn't ended.
func (l *LicenseKey) EndsAt() time.Time {
	s := l.Subscription
	if s == nil {
		return l.ExpiresAt
	}
	ends := s.EndsAt
	if ends.IsZero() && s.CancelAtPeriodEnd {
		ends = s.CurrentPeriodEnd
	}
	switch {
	case ends.IsZero() || !l.answeredAt.Before(ends), !l.ExpiresAt.IsZero() && l.ExpiresAt.Before(ends):
		return l.ExpiresAt
	}
	return ends
}

// LogValue logs a license key by its ids and its status.
func (l LicenseKey) LogValue() slog.Value {
	return slog.GroupValue(slog.String("id", l.ID), slog.String("status", string(l.Status)), slog.String("benefit", l.BenefitID), slog.String("customer", l.CustomerID))
}

// KeyStatus is Polar's word for the status of a key.
type KeyStatus string

// The statuses that Polar has today. More may come; only KeyGranted grants.
const (
	KeyGranted  KeyStatus = "granted"
	KeyRevoked  KeyStatus = "revoked"
	KeyDisabled KeyStatus = "disabled"
)

// clone is a copy that shares nothing that can be changed.
func (l *LicenseKey) clone() LicenseKey {
	c := *l
	c.LimitActivations, c.LimitUsage = clonePointer(l.LimitActivations), clonePointer(l.LimitUsage)
	c.Customer.BillingAddress = clonePointer(l.Customer.BillingAddress)
	c.Customer.TaxID = slices.Clone(l.Customer.TaxID)
	c.Customer.Metadata = cloneMap(l.Customer.Metadata)
	c.Member, c.Subscription, c.Order = clonePointer(l.Member), clonePointer(l.Subscription), clonePointer(l.Order)
	if c.Activation = clonePointer(l.Activation); c.Activation != nil {
		*c.Activation = c.Activation.clone()
	}
	c.Activations = slices.Clone(l.Activations)
	for i := range c.Activations {
		c.Activations[i] = c.Activations[i].clone()
	}
	return c
}

// clone is a copy that shares nothing that can be changed.
func (a *Activation) clone() Activation {
	c := *a
	c.Meta = cloneMap(a.Meta)
	if c.LicenseKey = clonePointer(a.LicenseKey); c.LicenseKey != nil {
		*c.LicenseKey = a.LicenseKey.clone()
	}
	return c
}

func clonePointer[T any](p *T) *T {
	if p == nil {
		return nil
	}
	c := *p
	return &c
}

// cloneMap copies what JSON can hold.
func cloneMap(m map[string]any) map[string]any {
	c := maps.Clone(m)
	for name, value := range c {
		c[name] = cloneJSON(value)
	}
	return c
}

func cloneJSON(value any) any {
	switch v := value.(type) {
	case map[string]any:
		return cloneMap(v)
	case []any:
		v = slices.Clone(v)
		for i := range v {
			v[i] = cloneJSON(v[i])
		}
		return v
	}
	return value
}

// Remaining is how many uses are left: never below 0, and Unlimited if there is no limit.
func (l *LicenseKey) Remaining() int64 {
	if l.LimitUsage == nil {
		return Unlimited
	}
	return max(0, *l.LimitUsage-l.Usage)
}

// seats is how many activations the key allows; 0 if it has none.
func (l *LicenseKey) seats() int64 {
	if l.LimitActivations == nil {
		return 0
	}
	return *l.LimitActivations
}

// Unlimited is what remains of a usage without a limit. It is greater than any number of
// uses.
const Unlimited int64 = math.MaxInt64

// Customer is the owner of a license key. Source: schema LicenseKeyCustomer.
type Customer struct {
	// ID is Polar's. Fields that Polar leaves out, now or in future, are zero.
	ID                     string
	OrganizationID         string
	ExternalID             string // the id in the vendor's own system; "" if none
	Email                  Email  // zero for teams
	EmailVerified          bool
	Type                   string // "individual" or "team" today
	Name                   string
	BillingName            string
	BillingAddress         *Address
	TaxID                  []string // number and format, as Polar pairs them
	Locale                 string
	DefaultPaymentMethodID string
	AvatarURL              string // may hold a hash of the e-mail address
	Metadata               map[string]any
	CreatedAt              time.Time
	ModifiedAt             time.Time
	DeletedAt              time.Time
	FirstUserEventAt       time.Time
}

// Format prints only Polar's id of a customer, whatever the verb. Other fields are
// personal, and an external id may be an e-mail address.
func (c Customer) Format(f fmt.State, _ rune) { fmt.Fprintf(f, "polargate.Customer{ID:%s}", c.ID) }

// LogValue logs what Format prints.
func (c Customer) LogValue() slog.Value { return slog.StringValue(fmt.Sprint(c)) }

// Address is a billing address. Source: schema Address.
type Address struct {
	// All except Country may be empty. Country is an ISO 3166-1 alpha-2 code.
	Line1, Line2, PostalCode, City, State, Country string
}

// ValidateRequest is a validation of a license key.
type ValidateRequest struct {
	// Key is the license key, from ParseKey. Required.
	Key Key
	// ActivationID also validates this activation; "" validates the key alone.
	ActivationID string
	// BenefitID and CustomerID, if set, must match the key.
	BenefitID  string
	CustomerID string
	// IncrementUsage adds to the key's usage if the key is granted, from 0 to 2147483647.
	// It is not idempotent, so such a request is never repeated.
	IncrementUsage int64
	// Conditions must equal those of the activation, as a whole map. Polar checks them
	// only together with an ActivationID. At most 50 entries; names have 1 to 40
	// characters; values are strings (1 to 500 characters), integers, floats or bools.
	Conditions map[string]any
}

// Validate asks Polar whether a license key is valid. It returns the key only if Polar
// granted it. Every other outcome is an *Error whose Reason says whether Polar refused
// (Reason.Denial) or gave no answer that counts.
//
// Polar answers "Not found" both for an unknown key and for an activation that no longer
// exists. With an ActivationID, a second request without it tells ErrSeatReleased from
// ErrUnknownKey. A request without IncrementUsage is tried up to three times within ctx
// if the network or a gateway fails. Each attempt takes up to 10 seconds, so a server
// should give ctx a deadline.
func (c *Client) Validate(ctx context.Context, r ValidateRequest) (*LicenseKey, error) {
	if err := c.checkInput(ctx, r.Key, r.Conditions); err != nil {
		return nil, err
	}
	if r.IncrementUsage < 0 || r.IncrementUsage > math.MaxInt32 {
		return nil, &InputError{"IncrementUsage", "must be between 0 and 2147483647"}
	}
	for field, id := range map[string]string{"ActivationID": r.ActivationID, "BenefitID": r.BenefitID, "CustomerID": r.CustomerID} {
		if _, ok := canonicalUUID4(id); id != "" && !ok {
			return nil, &InputError{field, "is not a UUID of version 4: pass it as Polar gave it"}
		}
	}
	license, err := c.validate(ctx, r)
	if r.ActivationID == "" || !isNotFound(err) {
		return license, err
	}
	// The key, or only its activation?
	alone := ValidateRequest{Key: r.Key}
	switch _, err2 := c.validate(ctx, alone); {
	case err2 == nil:
		return nil, &Error{Op: opValidate, Reason: ErrSeatReleased, StatusCode: err.(*Error).StatusCode}
	case isNotFound(err2):
		return nil, err
	default:
		// Certainly refused, but it isn't known why.
		return nil, &Error{Op: opValidate, Reason: ErrDenied, StatusCode: err.(*Error).StatusCode, Detail: "Not found", Err: err2}
	}
}

func isNotFound(err error) bool {
	e, ok := err.(*Error)
	return ok && e.Reason == ErrUnknownKey
}

// validate sends one validation, with its retries.
func (c *Client) validate(ctx context.Context, r ValidateRequest) (*LicenseKey, error) {
	return c.validateIn(ctx, c.organizationID, r)
}

// validateIn validates a key of an organization.
func (c *Client) validateIn(ctx context.Context, organizationID string, r ValidateRequest) (*LicenseKey, error) {
	ask := exchange{
		op:   opValidate,
		path: "validate",
		key:  r.Key,
		body: &wireRequest{
			Key:            r.Key.Reveal(),
			OrganizationID: organizationID,
			ActivationID:   r.ActivationID,
			BenefitID:      r.BenefitID,
			CustomerID:     r.CustomerID,
			IncrementUsage: r.IncrementUsage,
			Conditions:     r.Conditions,
		},
		repeatable: r.IncrementUsage == 0,
	}
	var license *LicenseKey
	err := c.exchange(ctx, ask, func(body []byte, at time.Time) (err error) {
		license, err = parseGranted(body, r.Key, organizationID, at)
		if err != nil {
			return err
		}
		if a := license.Activation; r.ActivationID != "" && a != nil {
			if id, ok := canonicalUUID4(a.ID); ok && !wire.SameUUID(id, r.ActivationID) {
				return errForeignAnswer
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return license, nil
}

// parseGranted reads a license key from an answer with status 200 and compares it with
// what was asked. A *Error is Polar's refusal; any other error means that the answer
// proves nothing.
func parseGranted(body []byte, asked Key, organizationID string, at time.Time) (*LicenseKey, error) {
	var l LicenseKey
	if err := json.Unmarshal(body, &l); err != nil {
		return nil, err
	}
	if l.Key != asked || !wire.SameUUID(l.OrganizationID, organizationID) {
		return nil, errForeignAnswer
	}
	if l.Status != KeyGranted {
		return nil, &Error{Op: opValidate, Reason: ErrInactive, StatusCode: 200, Detail: "status " + string(l.Status)}
	}
	if !l.ExpiresAt.IsZero() && !at.Before(l.ExpiresAt) {
		return nil, &Error{Op: opValidate, Reason: ErrExpired, StatusCode: 200}
	}
	l.answeredAt = at
	return &l, nil
}

// UnmarshalJSON reads Polar's form. The five fields that a verdict depends on must be
// present and be text, and an expiry, if present, must be readable. Any other field that
// is missing or has another type is left zero.
func (l *LicenseKey) UnmarshalJSON(data []byte) error {
	fields, err := wire.Object(data)
	if err != nil {
		return err
	}
	*l = LicenseKey{}
	var key, status string
	for _, f := range []struct {
		name string
		to   *string
	}{
		{"id", &l.ID},
		{"key", &key},
		{"organization_id", &l.OrganizationID},
		{"benefit_id", &l.BenefitID},
		{"status", &status},
	} {
		if err := json.Unmarshal(fields[f.name], f.to); err != nil || *f.to == "" {
			return fmt.Errorf("no license key: field %q is missing or no text", f.name)
		}
	}
	l.Key, l.Status = newKey(key), KeyStatus(status)
	if raw := fields["expires_at"]; len(raw) > 0 && string(raw) != "null" {
		if l.ExpiresAt, err = wire.ParseTime(raw); err != nil {
			return err
		}
	}
	fields.Text("customer_id", &l.CustomerID)
	fields.Text("display_key", &l.DisplayKey)
	if !strings.Contains(l.Key.String(), "-") {
		l.DisplayKey = l.Key.String()
	}
	wire.Optional(fields, "limit_activations", &l.LimitActivations)
	wire.Optional(fields, "usage", &l.Usage)
	wire.Optional(fields, "limit_usage", &l.LimitUsage)
	wire.Optional(fields, "validations", &l.Validations)
	fields.Time("last_validated_at", &l.LastValidatedAt)
	fields.Time("created_at", &l.CreatedAt)
	fields.Time("modified_at", &l.ModifiedAt)
	wire.Optional(fields, "customer", &l.Customer)
	wire.Optional(fields, "member", &l.Member)
	wire.Optional(fields, "subscription", &l.Subscription)
	wire.Optional(fields, "order", &l.Order)
	wire.Optional(fields, "activation", &l.Activation)
	wire.Optional(fields, "activations", &l.Activations)
	return nil
}

// UnmarshalJSON reads Polar's form. A field that is missing or has another type is left
// zero.
func (c *Customer) UnmarshalJSON(data []byte) error {
	fields, err := wire.Object(data)
	if err != nil {
		return err
	}
	*c = Customer{}
	var email string
	fields.Text("id", &c.ID)
	fields.Text("organization_id", &c.OrganizationID)
	fields.Text("external_id", &c.ExternalID)
	fields.Text("email", &email)
	c.Email = newEmail(email)
	wire.Optional(fields, "email_verified", &c.EmailVerified)
	fields.Text("type", &c.Type)
	fields.Text("name", &c.Name)
	fields.Text("billing_name", &c.BillingName)
	wire.Optional(fields, "billing_address", &c.BillingAddress)
	wire.Optional(fields, "tax_id", &c.TaxID)
	fields.Text("locale", &c.Locale)
	fields.Text("default_payment_method_id", &c.DefaultPaymentMethodID)
	fields.Text("avatar_url", &c.AvatarURL)
	wire.Optional(fields, "metadata", &c.Metadata)
	fields.Time("created_at", &c.CreatedAt)
	fields.Time("modified_at", &c.ModifiedAt)
	fields.Time("deleted_at", &c.DeletedAt)
	fields.Time("first_user_event_at", &c.FirstUserEventAt)
	return nil
}

// UnmarshalJSON reads Polar's form; see Customer.UnmarshalJSON.
func (m *KeyMember) UnmarshalJSON(data []byte) error {
	fields, err := wire.Object(data)
	if err != nil {
		return err
	}
	*m = KeyMember{}
	var email string
	fields.Text("id", &m.ID)
	fields.Text("external_id", &m.ExternalID)
	fields.Text("email", &email)
	m.Email = newEmail(email)
	return nil
}

// UnmarshalJSON reads Polar's form; see Customer.UnmarshalJSON.
func (s *KeySubscription) UnmarshalJSON(data []byte) error {
	fields, err := wire.Object(data)
	if err != nil {
		return err
	}
	*s = KeySubscription{}
	fields.Text("id", &s.ID)
	fields.Text("status", &s.Status)
	fields.Time("current_period_start", &s.CurrentPeriodStart)
	fields.Time("current_period_end", &s.CurrentPeriodEnd)
	wire.Optional(fields, "cancel_at_period_end", &s.CancelAtPeriodEnd)
	fields.Time("ends_at", &s.EndsAt)
	return nil
}

// UnmarshalJSON reads Polar's form; see Customer.UnmarshalJSON.
func (o *KeyOrder) UnmarshalJSON(data []byte) error {
	fields, err := wire.Object(data)
	if err != nil {
		return err
	}
	*o = KeyOrder{}
	fields.Text("id", &o.ID)
	fields.Text("status", &o.Status)
	fields.Time("created_at", &o.CreatedAt)
	wire.Optional(fields, "paid", &o.Paid)
	return nil
}

// UnmarshalJSON reads Polar's form; see Customer.UnmarshalJSON.
func (a *Address) UnmarshalJSON(data []byte) error {
	fields, err := wire.Object(data)
	if err != nil {
		return err
	}
	*a = Address{}
	fields.Text("line1", &a.Line1)
	fields.Text("line2", &a.Line2)
	fields.Text("postal_code", &a.PostalCode)
	fields.Text("city", &a.City)
	fields.Text("state", &a.State)
	fields.Text("country", &a.Country)
	return nil
}
