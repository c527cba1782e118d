package polargate

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/polargate/polargate/internal/clock"
	"github.com/polargate/polargate/internal/fact"
	"github.com/polargate/polargate/internal/flight"
	"github.com/polargate/polargate/internal/keyring"
	"github.com/polargate/polargate/internal/link"
	"github.com/polargate/polargate/internal/memory"
	"github.com/polargate/polargate/internal/pace"
	"github.com/polargate/polargate/internal/replicas"
	"github.com/polargate/polargate/internal/rights"
	"github.com/polargate/polargate/internal/wire"
)

// path is the endpoint of a customer's state.
func (r CustomerRef) path() string {
	if r.key.Kind == memory.ByPolarID {
		return "/v1/customers/" + r.key.ID + "/state"
	}
	return "/v1/customers/external/" + url.PathEscape(r.key.ID) + "/state"
}

// secret is the id, if an error must not repeat it. An id of few letters, such as a row's
// number, tells nobody anything, and would be found in every second word.
func (r CustomerRef) secret() string {
	if len(r.key.ID) < 6 {
		return ""
	}
	return r.key.ID
}

// customerState asks Polar for a customer's state. An unknown customer is not an error.
// If the organization is not known, learn gets the one that the answer names.
func (c *Client) customerState(ctx context.Context, r CustomerRef, organizationID string, features map[string][]string, learn func(organization string)) (*rights.State, error) {
	var value *rights.State
	err := c.exchange(ctx, exchange{op: opState, path: r.path(), secret: r.secret(), repeatable: true}, func(body []byte, at time.Time) (err error) {
		value, err = readState(body, at, r, organizationID, features)
		if err == nil && organizationID == "" {
			var organization string
			f, _ := wire.Object(body) // as it has just been read
			f.Text("organization_id", &organization)
			learn(organization)
		}
		return err
	})
	if isNotFound(err) {
		at := c.now()
		if e, ok := errors.AsType[*Error](err); ok && !e.date.IsZero() {
			at = e.date
		}
		return rights.Of(wire.UUID{}, "", false, clock.PolarTime(at)), nil
	}
	return value, err
}

// organizationOfKeys is the organization of the access token's license keys; empty if
// there are none.
func (c *Client) organizationOfKeys(ctx context.Context) (string, error) {
	var organization string
	err := c.exchange(ctx, exchange{op: opList, path: "/v1/license-keys/?limit=1", repeatable: true}, func(body []byte, _ time.Time) error {
		f, err := wire.Object(body)
		if err != nil {
			return err
		}
		items, err := f.List("items")
		if err != nil || len(items) == 0 {
			return err
		}
		items[0].Text("organization_id", &organization)
		if _, ok := canonicalUUID4(organization); !ok {
			return errors.New("a license key without an organization")
		}
		return nil
	})
	return organization, err
}

// closedError is ErrClosed once Customers are closed, and nil before.
func (c *Customers) closedError(op string) error {
	if c.cache.Life.Err() == nil {
		return nil
	}
	return &Error{Op: op, Reason: ErrClosed, situation: customersClosed}
}

// callError wraps an error that didn't come from Polar.
func (c *Customers) callError(err error) error {
	var panicked *flight.PanicError
	switch {
	case err == nil:
		return nil
	case errors.Is(err, flight.ErrClosed), c.cache.Life.Err() != nil:
		return &Error{Op: opEntitlements, Reason: ErrClosed, situation: customersClosed}
	case errors.As(err, &panicked):
		c.logPanic(panicked)
		return &Error{Op: opEntitlements, Reason: ErrUnreachable, Detail: "a fault in the program: see its log"}
	case err == context.Canceled, err == context.DeadlineExceeded:
		return &Error{Op: opEntitlements, Reason: ErrUnreachable, Err: err, situation: callEnded}
	}
	return err
}

func (c *Customers) logPanic(p *flight.PanicError) {
	c.counts.panics.Add(1)
	c.config.Logger.Error("polargate: a panic was caught; please report it", "op", opEntitlements, "panic", fmt.Sprint(p.Value), "stack", string(p.Stack))
}

// ask is the cache's way to Polar.
func (c *Customers) ask(ctx context.Context, key memory.Key) (*rights.State, error) {
	var value *rights.State
	var err error
	if key.Kind == memory.ByLicenseKey {
		value, err = c.askLicense(ctx, key.ID)
	} else {
		value, err = c.client.customerState(ctx, CustomerRef{key}, c.organizationID(), c.config.Features, c.learn)
		c.adviseOnSeats(value)
	}
	if err == nil && value.Unread() != 0 {
		c.halfRead.Do(func() {
			c.config.Logger.Warn("polargate: a customer's state could be read only in part (logged once a minute)", "error", unreadable(value.Unread()))
		})
	}
	e, ok := errors.AsType[*Error](err)
	switch {
	case err == nil, tokenRefused(err):
		c.noteMisconfigured(key.Kind, err)
	case ok && e.unasked:
		c.overBudget.Do(func() {
			c.config.Logger.Warn("polargate: more requests to Polar are needed than RequestsPerMinute allows (logged once a minute)", "error", err)
		})
	default:
		c.config.Logger.Warn("polargate: Polar gave no answer about a customer", "error", err)
	}
	return value, err
}

// ofEverybody reports whether others would fail the same way. What was said to one
// question may be about that one alone: nobody can shut out others by an id or a
// key that Polar, or a firewall before it, refuses; and what was not asked says nothing
// of Polar. An error of Polar's own (5xx) is taken for everybody's, for a second.
func ofEverybody(err error) bool {
	failure, ok := errors.AsType[*Error](err)
	switch {
	case !ok || failure.unasked:
		return false
	case failure.Reason == ErrMisconfigured:
		return tokenRefused(err)
	}
	_, brokeOff := errors.AsType[*worthAnotherTry](err)
	return brokeOff || failure.StatusCode == 0 || failure.StatusCode == http.StatusTooManyRequests || failure.StatusCode >= 500
}

// failureKindOf is what an error means for the cache.
func failureKindOf(err error) memory.Failure {
	if err == nil {
		return memory.Failure{}
	}
	is := memory.Failure{Everybodys: ofEverybody(err)}
	if e, ok := errors.AsType[*Error](err); ok {
		is.Answered, is.Unasked, is.HeldBack, is.RetryAfter = true, e.unasked, e.heldBack, e.RetryAfter
	}
	return is
}

func tooManyUnseen() error {
	return &Error{Op: opEntitlements, Reason: ErrRateLimited, RetryAfter: time.Second, Detail: "too many were asked about that were not seen before", unasked: true}
}

// notLookedUp is why it isn't known whether a license key counts.
func notLookedUp() error {
	return &Error{Op: opKey, Reason: ErrUnreachable, Detail: "a license key of the customer has not been looked up yet"}
}

// newCache is a cache that knows what errors mean.
func newCache(size int) (*memory.Cache, error) {
	c, err := memory.New(size)
	if err != nil {
		return nil, err
	}
	c.Judge, c.TooMany, c.NotLooked, c.Expired = failureKindOf, tooManyUnseen, notLookedUp, string(ErrExpired)
	return c, nil
}

// tokenRefused reports whether Polar rejects the access token. A request that it calls
// malformed (422) may be about one customer's strange id alone.
func tokenRefused(err error) bool {
	e, ok := errors.AsType[*Error](err)
	return ok && e.Reason == ErrMisconfigured && e.StatusCode != http.StatusUnprocessableEntity
}

// noteMisconfigured records for Stats that Polar rejects the token, or, with nil, that it
// doesn't, and logs it when it begins. Customers and keys need separate scopes.
func (c *Customers) noteMisconfigured(kind memory.Kind, err error) {
	m := &c.misconfigured
	m.Lock()
	defer m.Unlock()
	noted, of := &m.customers, "customers"
	if kind == memory.ByLicenseKey {
		noted, of = &m.keys, "license keys"
	}
	if err != nil && *noted == nil {
		c.config.Logger.Error("polargate: Polar rejects the access token; until it is replaced, answers come from the cache", "for", of, "error", err)
	}
	*noted = err
}

func (c *Customers) askLicense(ctx context.Context, key string) (*rights.State, error) {
	organization, err := c.learnOrganization(ctx)
	if err != nil {
		return nil, err
	}
	if organization == "" {
		return refusedKey(ErrUnknownKey), nil // there are no keys at all
	}
	license, err := c.client.validateIn(ctx, organization, ValidateRequest{Key: newKey(key)})
	var e *Error
	switch {
	case err == nil && !c.config.accepts(license.BenefitID):
		return refusedKey(ErrWrongBenefit), nil
	case err == nil:
		return ofLicense(license, c.config.Features), nil
	case isDenial(err) && errors.As(err, &e):
		return rights.Refused(string(e.Reason), rights.PolarTime(e.date)), nil
	}
	return nil, err
}

func (c *Customers) organizationID() string {
	c.organization.Lock()
	defer c.organization.Unlock()
	return c.organization.id
}

// learnOrganization is the organization of the access token. Polar doesn't report it, but
// each of its customers and license keys has it. It is empty if there is no key.
func (c *Customers) learnOrganization(ctx context.Context) (string, error) {
	c.learning.Lock()
	defer c.learning.Unlock()
	if id := c.organizationID(); id != "" {
		return id, nil
	}
	id, err := c.client.organizationOfKeys(ctx)
	if err != nil || id == "" {
		return "", err
	}
	c.learn(id)
	return c.organizationID(), nil
}

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

// isID reports whether a text can be an id of Polar's.
func isID(id string) bool { _, ok := canonicalUUID4(id); return ok }

// bindKeys connects the keyring with Polar and with the cache.
func (c *Customers) bindKeys() error {
	cache := c.cache
	count := func(err error) {
		cache.Count(err)
		if err != nil && !lacksScope(err) {
			c.seldom.Warn(c.config.Logger, "license key", "polargate: Polar could not say whether a customer's license key counts", "error", err)
		}
	}
	keys, err := keyring.New(c.config.CacheSize, keyring.Config{
		Fresh: cache.FreshFor, Dead: min(cache.FreshFor, cache.UnknownFor), Last: max(cache.FreshFor, cache.StaleFor, cache.GraceFor),
		Timeout: cache.Timeout, RetryStale: memory.RetryStale, RetryOpen: memory.OutageMemory,
		Now: cache.Now, Life: cache.Life, Behind: cache.GoBehind,
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
	cache.Keys = keys
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

// join connects the cache with those of other replicas, if there is a Shared.
func (c *Customers) join(budget *pace.Budget) error {
	config := &c.config
	if config.Shared == nil {
		return nil
	}
	limit := cmp.Or(config.RequestsPerMinute, defaultPerMinute(config.Server, config.BaseURL))
	r := &replicas.Replicas{
		Cache: c.cache, Features: config.Features, Budget: budget, Limit: limit,
		Organization: c.organizationID, Learn: c.learn,
		License: licenseFact, StateOf: c.stateOfLicenseFact, Refused: refusedTurn, WrongBenefit: string(ErrWrongBenefit),
		EventHeard: func() { c.warming.lastEvent.Store(int64(c.cache.Now())) },
	}
	settings := link.Config{
		Store:    storeOf(config.Shared),
		Mistake:  isMistake,
		Purpose:  "customers of " + c.client.base + " " + c.client.organizationID,
		Secrets:  []string{config.Secret},
		ClaimFor: max(link.ClaimFor, 2*config.Timeout),
		Logger:   config.Logger,
	}
	if config.OtherSecret != "" {
		settings.Secrets = append(settings.Secrets, config.OtherSecret)
	}
	config.Secret, config.OtherSecret = "", "" // they are in the link now
	if err := r.Start(settings); err != nil {
		return err
	}
	c.replicas, c.cache.Others, c.client.pace = r, r, &replicas.Pace{Budget: budget, R: r}
	return nil
}

// licenseFact is what other replicas are told of the license key that a state is about; nil if
// it is about none.
func licenseFact(s *rights.State) *fact.License {
	l := (*Entitlements)(s).license()
	if l == nil {
		return nil
	}
	told := &fact.License{
		ID: l.ID, Organization: l.OrganizationID, Benefit: l.BenefitID, Customer: l.CustomerID, External: l.Customer.ExternalID,
		Display: l.DisplayKey, Status: string(l.Status), LimitActivations: l.LimitActivations, Usage: l.Usage, LimitUsage: l.LimitUsage,
		Validations: l.Validations, LastValidated: rights.PolarTime(l.LastValidatedAt), Expires: rights.PolarTime(l.ExpiresAt),
		Created: rights.PolarTime(l.CreatedAt), Modified: rights.PolarTime(l.ModifiedAt),
	}
	if ends := l.EndsAt(); l.Subscription != nil && ends != l.ExpiresAt {
		told.Ends = rights.PolarTime(ends)
	}
	return told
}

// stateOfLicenseFact is what a license key allows by what another replica told of it.
func (c *Customers) stateOfLicenseFact(l *fact.License, key string, at clock.Polar) *rights.State {
	license := &LicenseKey{
		ID: l.ID, OrganizationID: l.Organization, BenefitID: l.Benefit, CustomerID: l.Customer,
		Key: newKey(key), DisplayKey: l.Display, Status: KeyStatus(l.Status),
		LimitActivations: l.LimitActivations, Usage: l.Usage, LimitUsage: l.LimitUsage,
		Validations: l.Validations, LastValidatedAt: rights.TimeOf(l.LastValidated), ExpiresAt: rights.TimeOf(l.Expires),
		CreatedAt: rights.TimeOf(l.Created), ModifiedAt: rights.TimeOf(l.Modified), answeredAt: at.Time(),
	}
	if l.Ends != 0 { // which is all that replicas need of it
		license.Subscription = &KeySubscription{EndsAt: rights.TimeOf(l.Ends)}
	}
	license.Customer.ID, license.Customer.OrganizationID, license.Customer.ExternalID = l.Customer, l.Organization, l.External
	if !c.config.accepts(l.Benefit) {
		return rights.Refused(string(ErrWrongBenefit), at)
	}
	return ofLicense(license, c.config.Features)
}

// refusedTurn is that the budget of all replicas has no request.
func refusedTurn(turn link.Turn) error {
	e := &Error{Op: opEntitlements, Reason: ErrRateLimited, RetryAfter: max(turn.Wait, time.Second), Detail: replicas.SharedLimit + " is used up", unasked: true}
	if turn.Paused {
		e.Detail, e.heldBack, e.unasked = "waiting out a pause that Polar asked for", true, false
	}
	return e
}

// readState reads the state of the customer who was asked about, as Polar writes it.
func readState(body []byte, at time.Time, asked CustomerRef, organizationID string, features map[string][]string) (*rights.State, error) {
	s, err := rights.ReadState(body, organizationID, features)
	switch {
	case err != nil:
		return nil, err
	case !asked.is(s.CustomerID(), s.External()):
		return nil, rights.ErrForeign
	}
	s.SetAt(clock.PolarTime(at))
	return s, nil
}

// accepts reports whether license keys of a benefit count.
func (c *CustomersConfig) accepts(benefitID string) bool {
	_, ok := rights.FeaturesOf(c.Features, normalUUID(benefitID))
	return ok || len(c.Features) == 0
}
