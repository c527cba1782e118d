package polargate

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/polargate/polargate/internal/clock"
	"github.com/polargate/polargate/internal/keyring"
	"github.com/polargate/polargate/internal/wire"
)

// What is here keeps a benefit of the type license_keys from outliving its license key.
// Polar leaves the grant in the customer's state when the key expires or is disabled, and
// sends no webhook (seen running, 2026-11-28), so the key itself is asked about.

const licenseKeys = "license_keys" // the type of benefit

// lacksScope reports whether an error says that the token may not read license keys.
func lacksScope(err error) bool {
	e, ok := errors.AsType[*Error](err)
	return ok && e.Reason == ErrMisconfigured && e.StatusCode == http.StatusForbidden
}

// keyedGrants are the grants of a customer some of which come with a license key. They are
// immutable, as the Entitlements are that have them.
type keyedGrants struct {
	all      []GrantedBenefit // as Polar's state has them: of a benefit there may be several
	ids      []wire.UUID      // of the license keys; zero where there is none, or none is named
	features map[string][]string

	// due is when a key is to be asked about, and flips when what counts changes by
	// itself, both by the clock of the cache. urgent is that nothing can be served
	// until due keys were asked about.
	due, flips clock.Local
	urgent     bool
	// open are the grants of which nobody could say whether they count, and why is that.
	open []GrantedBenefit
	why  error
}

// keyedGrantsOf notes which of the grants of a state come with a license key; nil if none.
func keyedGrantsOf(grants []GrantedBenefit, features map[string][]string) *keyedGrants {
	var ids []wire.UUID
	for i, g := range grants {
		id, ok := wire.ParseUUID(g.LicenseKeyID())
		if !ok || g.Type() != licenseKeys {
			continue // another id cannot be asked about: Polar's word counts
		}
		if ids == nil {
			ids = make([]wire.UUID, len(grants))
		}
		ids[i] = id
	}
	if ids == nil {
		return nil
	}
	return &keyedGrants{all: slices.Clone(grants), ids: ids, features: features, flips: clock.Never}
}

// keys are the grants of e, if some come with a license key; nil if none.
func (e *Entitlements) keys() *keyedGrants { return e.particulars().keys }

// licenseKeyIDs are those of the license keys that the grants come with.
func (e *Entitlements) licenseKeyIDs() []wire.UUID {
	if e.keys() == nil {
		return nil
	}
	return slices.DeleteFunc(slices.Clone(e.keys().ids), func(id wire.UUID) bool { return id == wire.UUID{} })
}

// grants are the benefits as Polar's state has them, in order, whether their license
// keys count or not.
func (e *Entitlements) grants() []GrantedBenefit {
	if e.keys() == nil {
		return e.Benefits()
	}
	all := slices.Clone(e.keys().all)
	slices.SortFunc(all, func(a, b GrantedBenefit) int {
		return cmp.Or(strings.Compare(a.ID(), b.ID()), strings.Compare(a.LicenseKeyID(), b.LicenseKeyID()))
	})
	return all
}

// awaitsKeys reports whether nothing can be served before license keys were asked about.
func (e *Entitlements) awaitsKeys(now clock.Local) bool {
	keys := e.keys()
	return keys != nil && keys.urgent && now >= keys.due
}

// undecidedKeys is why it is not known of some license key whether it counts; nil if
// it is known of all.
func (e *Entitlements) undecidedKeys() error {
	keys := e.keys()
	if keys == nil || len(keys.open) == 0 {
		return nil
	}
	return keys.why
}

// supposingKeys is e if the license keys of which nothing is known counted.
func (e *Entitlements) supposingKeys() *Entitlements {
	if e.undecidedKeys() == nil {
		return e
	}
	next := *e
	next.setRights(e.rights().unlocking(slices.Concat(e.Benefits(), e.keys().open), e.keys().features))
	return &next
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

// ringIDs are ids as package keyring has them.
func ringIDs(ids []wire.UUID) []keyring.ID {
	all := make([]keyring.ID, len(ids))
	for i, id := range ids {
		all[i] = id
	}
	return all
}

// composeKeys is a value with those benefits alone whose license keys count.
func (c *entitlementCache) composeKeys(value *Entitlements, now clock.Local) *Entitlements {
	if c.keys == nil || value.keys() == nil {
		return value
	}
	next, keys := *value, *value.keys()
	keys.due, keys.flips, keys.urgent, keys.open, keys.why = clock.Never, clock.Never, false, nil, nil
	counting := make([]GrantedBenefit, 0, len(keys.all))
	standings := c.keys.Standings(ringIDs(keys.ids), now)
	for i, g := range keys.all {
		if keys.ids[i] == (wire.UUID{}) {
			counting = append(counting, g)
			continue
		}
		s := standings[i]
		keys.due, keys.flips = min(keys.due, s.Due), min(keys.flips, s.Flips)
		switch {
		case s.Open:
			keys.open = append(keys.open, g)
			keys.why = s.Why
		case s.Counts:
			counting = append(counting, g)
		}
		keys.urgent = keys.urgent || s.Urgent
	}
	if keys.open != nil && keys.why == nil {
		keys.why = &Error{Op: opKey, Reason: ErrUnreachable, Detail: "a license key of the customer has not been looked up yet"}
	}
	next.setRights(value.rights().unlocking(counting, keys.features))
	next.note(func(own *particulars) { own.keys = &keys })
	return &next
}

// lookUpKeys asks Polar about the license keys of a value that are due, or were asked about
// before then.
func (c *entitlementCache) lookUpKeys(ctx context.Context, value *Entitlements, before clock.Local) {
	benefits := make([]string, len(value.keys().all))
	for i, g := range value.keys().all {
		if isUUID(g.ID()) { // others have no list of keys
			benefits[i] = g.ID()
		}
	}
	c.keys.LookUp(ctx, ringIDs(value.keys().ids), benefits, before)
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

// Properties are what Polar keeps with the grant, which depends on the type: for
// "license_keys" the license_key_id and a masked display_key. Others may be personal, such
// as an account's id or an invited e-mail address. It is a new map at each call; numbers
// are json.Number. Source: granted_benefits[].properties of Polar's customer state.
func (b GrantedBenefit) Properties() map[string]any { return readMap(b.properties) }

// LicenseKeyID is the id of the license key that came with a benefit of the type
// "license_keys"; "" for others. It is no secret: the key itself is not told here.
func (b GrantedBenefit) LicenseKeyID() string {
	if !strings.Contains(b.properties, "license_key_id") {
		return ""
	}
	var id string
	f, _ := wire.Object([]byte(b.properties))
	f.Text("license_key_id", &id)
	return id
}

// Format prints a benefit by its id and type, whatever the verb: properties may be
// personal.
func (b GrantedBenefit) Format(f fmt.State, _ rune) {
	fmt.Fprintf(f, "polargate.GrantedBenefit{ID:%s Type:%s}", b.ID(), b.Type())
}

// LogValue logs what Format prints.
func (b GrantedBenefit) LogValue() slog.Value { return slog.StringValue(fmt.Sprint(b)) }

// readMap reads an object, as a map of its own.
func readMap(text string) map[string]any {
	m := map[string]any{}
	d := json.NewDecoder(strings.NewReader(text))
	d.UseNumber()
	if d.Decode(&m) != nil || m == nil {
		return map[string]any{}
	}
	return m
}
