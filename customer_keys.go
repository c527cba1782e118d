package polargate

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/polargate/polargate/internal/clock"
	"github.com/polargate/polargate/internal/keyring"
	"github.com/polargate/polargate/internal/rights"
	"github.com/polargate/polargate/internal/wire"
)

// lacksScope reports whether an error says that the token may not read license keys.
func lacksScope(err error) bool {
	e, ok := errors.AsType[*Error](err)
	return ok && e.Reason == ErrMisconfigured && e.StatusCode == http.StatusForbidden
}

// licenseKey asks Polar about a license key by its id. One that it does not know is the
// zero answer, and no error.
func (c *Client) licenseKey(ctx context.Context, id wire.UUID, organizationID string) (keyring.Answer, error) {
	var key keyring.Answer
	err := c.exchange(ctx, exchange{op: opKey, path: "/v1/license-keys/" + id.String(), repeatable: true}, func(body []byte, at time.Time) (err error) {
		if key, err = readKey(body, organizationID, at); err == nil && key.ID != id {
			err = errForeignAnswer
		}
		return err
	})
	if isNotFound(err) {
		return keyring.Answer{}, nil
	}
	return key, err
}

// readKey reads of a license key whether it counts.
func readKey(body []byte, organizationID string, at time.Time) (keyring.Answer, error) {
	var l LicenseKey
	if err := json.Unmarshal(body, &l); err != nil {
		return keyring.Answer{}, err
	}
	id, ok := wire.ParseUUID(l.ID)
	if !ok || organizationID != "" && !wire.SameUUID(l.OrganizationID, organizationID) {
		return keyring.Answer{}, errForeignAnswer
	}
	key := keyring.Answer{ID: id, Granted: l.Status == KeyGranted, Expires: !l.ExpiresAt.IsZero(), At: clock.PolarTime(at)}
	if key.Expires {
		key.Left = l.ExpiresAt.Sub(at)
	}
	return key, nil
}

// keysOf reads a page of a benefit's license keys, without those that were revoked, of
// which there are more and more. Polar ignores a filter by customer, and has none by id.
func (c *Client) keysOf(ctx context.Context, benefit, organizationID string, page int) (keyring.Page, error) {
	var got keyring.Page
	path := fmt.Sprintf("/v1/license-keys/?benefit_id=%s&status=granted&status=disabled&limit=%d&page=%d", benefit, keysOnPage, page)
	err := c.exchange(ctx, exchange{op: opList, path: path, repeatable: true}, func(body []byte, at time.Time) error {
		f, err := wire.Object(body)
		if err != nil {
			return err
		}
		var items []json.RawMessage
		if err := json.Unmarshal(f["items"], &items); err != nil || items == nil {
			return errors.New("a list of license keys without its items")
		}
		got = keyring.Page{}
		for _, item := range items {
			if key, err := readKey(item, organizationID, at); err == nil { // others are asked about alone
				got.Keys = append(got.Keys, key)
			}
		}
		var pagination wire.Fields
		wire.Optional(f, "pagination", &pagination)
		wire.Optional(pagination, "max_page", &got.Last)
		return nil
	})
	return got, err
}

// judgeKeys says what an error of a question about license keys means.
func judgeKeys(err error) (f keyring.Failure) {
	e, ok := errors.AsType[*Error](err)
	if !ok {
		return f
	}
	// A page that is too long, or cannot be read: the next is no better.
	return keyring.Failure{Lacking: lacksScope(err), Unreadable: e.StatusCode == http.StatusOK, RetryAfter: e.RetryAfter}
}

func isUUID(id string) bool { _, ok := canonicalUUID4(id); return ok }

// lookUpKeys asks Polar about the license keys of a value that are due, or were asked about
// before then.
func (c *entitlementCache) lookUpKeys(ctx context.Context, value *rights.State, before clock.Local) {
	var ids []wire.UUID
	var benefits []string
	value.KeyedGrants(func(b rights.Benefit, key wire.UUID) {
		benefit := ""
		if isUUID(b.ID()) { // others have no list of keys
			benefit = b.ID()
		}
		ids, benefits = append(ids, key), append(benefits, benefit)
	})
	c.keys.LookUp(ctx, ids, benefits, before)
}

// bindKeys connects the keyring with Polar and with the cache.
func (c *Customers) bindKeys() error {
	cache := c.cache
	count := func(err error) {
		cache.count(err)
		if err != nil && !lacksScope(err) {
			c.seldom.Warn(c.config.Logger, "license key", "polargate: Polar could not say whether a customer's license key counts", "error", err)
		}
	}
	keys, err := keyring.New(c.config.CacheSize, keyring.Config{
		Fresh: cache.freshFor, Dead: min(cache.freshFor, cache.unknownFor), Last: max(cache.freshFor, cache.staleFor, cache.graceFor),
		Timeout: cache.timeout, RetryStale: retryStale, RetryOpen: outageMemory,
		Now: cache.now, Life: cache.life, Behind: cache.goBehind,
		One: func(ctx context.Context, id keyring.ID) (keyring.Answer, error) {
			key, err := c.client.licenseKey(ctx, id, c.organizationID())
			count(err)
			return key, err
		},
		Page: func(ctx context.Context, benefit string, page int) (keyring.Page, error) {
			got, err := c.client.keysOf(ctx, benefit, c.organizationID(), page)
			count(err)
			return got, err
		},
		Judge: judgeKeys, Answered: c.noteKeyScope,
	})
	if err != nil {
		return err
	}
	cache.keys = keys
	return nil
}

// noteKeyScope keeps, for Stats, that the token may not read license keys, or with nil
// that it may, and says it in the log when it begins.
func (c *Customers) noteKeyScope(err error) {
	m := &c.misconfigured
	m.Lock()
	defer m.Unlock()
	if err != nil && m.scope == nil {
		c.config.Logger.Error("polargate: the access token may not read license keys, so benefits count even if their key expired or was disabled: give the token the scope license_keys:read", "error", err)
	}
	m.scope = err
}
