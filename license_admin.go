package polargate

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"math"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/polargate/polargate/internal/wire"
)

// What is here needs an organization access token: listing license keys, changing and
// replacing them. Validating, activating and deactivating stand in license.go and
// activation.go, since they also work without a token.

const (
	opKeys       = "list license keys"
	opUpdate     = "update license key"
	opRotate     = "rotate license key"
	opActivation = "activation of a license key"

	// keysOnPage is the most that Polar gives on a page.
	keysOnPage = 100
)

// KeyFilter chooses license keys. The zero value is all of the organization. Polar
// silently ignores a filter by customer, so there is none here: a customer's key ids are in
// their Entitlements (GrantedBenefit.LicenseKeyID), and in PortalKeys.
type KeyFilter struct {
	// BenefitIDs are the benefits whose keys are wanted; none means of any benefit.
	BenefitIDs []string
	// Statuses are the statuses that are wanted; none means any.
	Statuses []KeyStatus
}

func (f KeyFilter) query() (url.Values, error) {
	q := url.Values{}
	for _, id := range f.BenefitIDs {
		id, ok := canonicalUUID4(id)
		if !ok {
			return nil, &InputError{"BenefitIDs", "has an id that is not a UUID of version 4: pass it as Polar gave it"}
		}
		q.Add("benefit_id", id)
	}
	for _, status := range f.Statuses {
		switch status {
		case KeyGranted, KeyRevoked, KeyDisabled:
			q.Add("status", string(status))
		default:
			return nil, &InputError{"Statuses", "has a status that Polar doesn't have: use KeyGranted, KeyRevoked or KeyDisabled"}
		}
	}
	return q, nil
}

// LicenseKeys lists license keys of the organization, those made last first. It reads a
// page of 100 at a time, as the loop gets to it. The loop may change keys, also such that
// they no longer fit the filter: every key that fits from the first page to the last comes
// exactly once. Keys that are made meanwhile may be left out. An error comes last, with a
// nil key. Activations aren't listed; LicenseKey has them.
//
// The access token needs the scope license_keys:read.
func (c *Client) LicenseKeys(ctx context.Context, filter KeyFilter) iter.Seq2[*LicenseKey, error] {
	query, err := filter.query()
	if err == nil {
		err = c.checkAdmin(ctx)
	}
	return backwards(ctx, err, func(ctx context.Context, page int) ([]*LicenseKey, int, error) {
		return c.keysPage(ctx, exchange{op: opKeys, path: "/v1/license-keys/"}, query, page)
	}, func(l *LicenseKey) string { return l.ID })
}

// backwards goes through a list from its last page to its first, so that an entry which leaves
// the list moves none past the reader. Polar appends to its lists of license keys.
func backwards[T any](ctx context.Context, err error, read func(ctx context.Context, page int) ([]T, int, error), id func(T) string) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		var none T
		if err != nil {
			yield(none, err)
			return
		}
		seen := map[string]bool{}
		first, last, err := read(ctx, 1)
		for page := max(last, 1); page > 0; page-- {
			items := first
			if err == nil && last > 1 {
				items, _, err = read(ctx, page)
			}
			if err != nil {
				yield(none, err)
				return
			}
			for i := len(items) - 1; i >= 0; i-- {
				if one := items[i]; !seen[id(one)] {
					seen[id(one)] = true
					if !yield(one, nil) {
						return
					}
				}
			}
		}
	}
}

// keysPage reads a page of a list of license keys, and how many pages there are.
func (c *Client) keysPage(ctx context.Context, ask exchange, query url.Values, page int) (keys []*LicenseKey, last int, err error) {
	q := url.Values{"limit": {strconv.Itoa(keysOnPage)}, "page": {strconv.Itoa(page)}}
	for name, values := range query {
		q[name] = values
	}
	ask.path += "?" + q.Encode()
	ask.repeatable, ask.most = true, longestList
	err = c.exchange(ctx, ask, func(body []byte, at time.Time) error {
		items, pages, err := readPage(body)
		if err != nil {
			return err
		}
		keys, last = nil, pages
		for _, item := range items {
			l, err := c.ownKey(item, at)
			if err != nil {
				return err
			}
			keys = append(keys, l)
		}
		return nil
	})
	return keys, last, err
}

// readPage reads the entries of a page of a list, and how many pages there are.
func readPage(body []byte) (items []json.RawMessage, last int, err error) {
	f, err := wire.Object(body)
	if err != nil {
		return nil, 0, err
	}
	var pagination wire.Fields
	wire.Optional(f, "pagination", &pagination)
	wire.Optional(pagination, "max_page", &last)
	if err := json.Unmarshal(f["items"], &items); err != nil || items == nil || pagination == nil {
		return nil, 0, errors.New("a list without its items or its pages")
	}
	return items, last, nil
}

// ownKey reads a license key of this organization.
func (c *Client) ownKey(body []byte, at time.Time) (*LicenseKey, error) {
	var l LicenseKey
	if err := json.Unmarshal(body, &l); err != nil {
		return nil, err
	}
	if c.organizationID != "" && !wire.SameUUID(l.OrganizationID, c.organizationID) {
		return nil, errForeignAnswer
	}
	l.answeredAt = at
	return &l, nil
}

// LicenseKey returns a license key by its id, whatever its status, with its activations:
// those made last come first. Polar never tells the conditions of an activation.
// ErrUnknownKey means that the organization has no key with this id.
//
// The access token needs the scope license_keys:read.
func (c *Client) LicenseKey(ctx context.Context, id string) (*LicenseKey, error) {
	return c.oneKey(ctx, exchange{op: opKey, repeatable: true}, id, "")
}

// UpdateLicenseKey changes a license key and returns it as it is now. Polar tells nobody:
// it sends no webhook when a key is disabled or its expiry changes. Programs notice at
// their next check, and Customers within CustomersConfig.FreshFor.
//
// The access token needs the scope license_keys:write.
func (c *Client) UpdateLicenseKey(ctx context.Context, id string, update KeyUpdate) (*LicenseKey, error) {
	body, err := update.body()
	if err != nil {
		return nil, err
	}
	return c.oneKey(ctx, exchange{op: opUpdate, method: http.MethodPatch, body: body, repeatable: true}, id, "")
}

// RotateLicenseKey replaces the key of a license with a new one, and returns it. The old
// key ends at once. Activations stay, and so does the id of the license. A revoked license
// can't be rotated: ErrInactive. A rotation is never repeated: if its answer is lost, the
// error is ErrInDoubt, and LicenseKey tells which key counts.
//
// The access token needs the scope license_keys:write.
func (c *Client) RotateLicenseKey(ctx context.Context, id string) (*LicenseKey, error) {
	l, err := c.oneKey(ctx, exchange{op: opRotate, method: http.MethodPost, refusals: map[string]Reason{"RotateNotPermitted": ErrInactive}}, id, "/rotate")
	if e, ok := inDoubt(err).(*Error); ok && e.Reason == ErrInDoubt {
		e.situation = serverRotated
		err = e
	}
	return l, err
}

// oneKey makes a call about a license key that answers with the key.
func (c *Client) oneKey(ctx context.Context, ask exchange, id, below string) (*LicenseKey, error) {
	if ask.session.IsZero() {
		ask.path = "/v1/license-keys/"
		if err := c.checkAdmin(ctx); err != nil {
			return nil, err
		}
	}
	key, ok := canonicalUUID4(id)
	if !ok {
		return nil, errKeyID
	}
	ask.path, ask.most = ask.path+key+below, longestList // room for many activations
	var l *LicenseKey
	err := c.exchange(ctx, ask, func(body []byte, at time.Time) (err error) {
		if l, err = c.ownKey(body, at); err == nil && !wire.SameUUID(l.ID, key) {
			err = errForeignAnswer
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return l, nil
}

var errKeyID = &InputError{"id", "is not a UUID of version 4: pass LicenseKey.ID as Polar gave it, not the key itself"}

// LicenseKeyActivation returns one activation of a license key, with the key.
// ErrSeatReleased means that there is no such activation, or no such key.
//
// The access token needs the scope license_keys:read.
func (c *Client) LicenseKeyActivation(ctx context.Context, licenseKeyID, activationID string) (*Activation, error) {
	if err := c.checkAdmin(ctx); err != nil {
		return nil, err
	}
	key, ok := canonicalUUID4(licenseKeyID)
	if !ok {
		return nil, errKeyID
	}
	id, ok := canonicalUUID4(activationID)
	if !ok {
		return nil, errActivationID
	}
	var a Activation
	err := c.exchange(ctx, exchange{op: opActivation, path: "/v1/license-keys/" + key + "/activations/" + id, repeatable: true}, func(body []byte, _ time.Time) error {
		if err := json.Unmarshal(body, &a); err != nil {
			return err
		}
		if !wire.SameUUID(a.ID, id) || !wire.SameUUID(a.LicenseKeyID, key) {
			return errForeignAnswer
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return &a, nil
}

// checkAdmin refuses what needs an access token if there is none.
func (c *Client) checkAdmin(ctx context.Context) error {
	if ctx == nil {
		return errNilContext
	}
	if c.token.IsZero() {
		return &InputError{"AccessToken", "is missing: this call needs an organization access token, which must never be part of a program that you ship"}
	}
	return nil
}

// KeyUpdate says what to change about a license key. What is nil or empty stays as it is.
type KeyUpdate struct {
	// Status grants, disables or revokes the key. A key that was revoked can be granted
	// again, and keeps its activations.
	Status KeyStatus
	// Usage replaces what was used.
	Usage *int64
	// LimitActivations and LimitUsage replace the limits. A pointer to 0 takes the limit
	// away: then uses are unlimited, and the key can't be activated.
	LimitActivations, LimitUsage *int64
	// ExpiresAt replaces the expiry. A pointer to the zero time takes it away.
	ExpiresAt *time.Time
}

// body is the update as Polar takes it.
func (u KeyUpdate) body() (map[string]any, error) {
	body := map[string]any{}
	switch u.Status {
	case "":
	case KeyGranted, KeyRevoked, KeyDisabled:
		body["status"] = u.Status
	default:
		return nil, &InputError{"Status", "is none that Polar has: use KeyGranted, KeyRevoked or KeyDisabled"}
	}
	for _, n := range []struct {
		field, name string
		value       *int64
		limit       bool
	}{
		{"Usage", "usage", u.Usage, false},
		{"LimitActivations", "limit_activations", u.LimitActivations, true},
		{"LimitUsage", "limit_usage", u.LimitUsage, true},
	} {
		switch {
		case n.value == nil:
		case *n.value < 0 || *n.value > math.MaxInt32:
			return nil, &InputError{n.field, fmt.Sprintf("must be between 0 and %d", math.MaxInt32)}
		case n.limit && *n.value == 0:
			body[n.name] = nil
		default:
			body[n.name] = *n.value
		}
	}
	switch {
	case u.ExpiresAt == nil:
	case u.ExpiresAt.IsZero():
		body["expires_at"] = nil
	default:
		if year := u.ExpiresAt.UTC().Year(); year < 1 || year > 9999 {
			return nil, &InputError{"ExpiresAt", "is not between the years 1 and 9999"}
		}
		body["expires_at"] = u.ExpiresAt.UTC().Format("2006-01-02T15:04:05.999999Z07:00")
	}
	if len(body) == 0 {
		return nil, &InputError{"KeyUpdate", "changes nothing: set at least one field"}
	}
	return body, nil
}
