package polargate

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/polargate/polargate/internal/clock"
	"github.com/polargate/polargate/internal/flight"
	"github.com/polargate/polargate/internal/logs"
	"github.com/polargate/polargate/internal/pace"
	"golang.org/x/time/rate"
)

// CustomersConfig configures Customers. Only AccessToken is required.
type CustomersConfig struct {
	// AccessToken is an organization access token with the scope customers:read; for
	// benefits of the type license_keys, license_keys:read as well, without which these
	// count also when their key has expired or was disabled; and license_keys:write for
	// keys that requests come with. It never leaves the server.
	AccessToken string
	// OrganizationID is the organization of the token. Empty means that it is learnt
	// from the first customer's state that Polar answers; if a license key is asked
	// about before that, by one more request. Webhooks of another organization have no
	// effect, and those that come before it is known have it only then.
	OrganizationID string
	// Features maps the ids of benefits to the features that each unlocks. For
	// license keys, it is also the list of benefits whose keys are accepted;
	// empty accepts every key of the organization.
	Features map[string][]string

	// BaseURL and Server say where Polar is; see ClientConfig.
	BaseURL string
	Server  Server
	// HTTPClient sends the requests; see ClientConfig.
	HTTPClient *http.Client
	// App and Version name the program in the User-Agent; may be empty.
	App, Version string
	// RequestsPerMinute bounds the requests to Polar; see ClientConfig. Half of
	// them are kept for customers and keys that were seen before, as long as they
	// have a use for them; license keys that were never seen share a quarter.
	RequestsPerMinute int

	// FreshFor is the age up to which an answer is served without asking. 0
	// means 5 minutes. With webhooks it can be long, except for license keys: no
	// webhook tells that one was disabled, rotated, or given another expiry.
	FreshFor time.Duration
	// StaleFor is the age up to which an answer is served at once while a newer
	// one is fetched behind. 0 means 1 hour; negative means never. Without
	// webhooks a cancellation goes unnoticed for FreshFor by those who come
	// often, and for the first request of those who come back within StaleFor.
	StaleFor time.Duration
	// GracePeriod is the age up to which an answer is served when Polar cannot
	// be reached. 0 means 3 days; negative means never.
	GracePeriod time.Duration
	// UnknownFor is the longest for which a refusal is believed: that a customer or key
	// is not known, that a customer has no benefits, or lacks what is required. At first
	// it is 2 seconds, and each time that nothing has changed twice as long. 0 means 30
	// seconds.
	UnknownFor time.Duration
	// Timeout bounds a question to Polar. 0 means 5 seconds.
	Timeout time.Duration
	// CacheSize is how many customers are kept, and how many license keys, and a quarter
	// of that for unknown ones; a few percent more may be found for a while. 0 means
	// 10,000; the least is 4. A customer takes about 400 bytes and the length of the
	// external id, however many benefits they have.
	CacheSize int

	// UpgradeURL is where customers find more, for refusals: a problem report
	// names it, and a browser is sent there, unless that is the page it asked for. It
	// is a web address or a path; one that begins with "?" or "#" is of the page that
	// was asked for, as in a link. May be empty.
	UpgradeURL string
	// Refuse answers the requests that are not let in, instead of WriteRefusal.
	Refuse func(http.ResponseWriter, *http.Request, Refusal)
	// Logger gets warnings, never with a key or a token; nil means none.
	Logger *slog.Logger
}

// Format prints a configuration without its secrets, whatever the verb. Package fmt
// does not call it for a field that is not exported: a struct with a configuration in
// such a field needs a Format of its own if it is printed.
func (c CustomersConfig) Format(f fmt.State, _ rune) {
	fmt.Fprintf(f, "polargate.CustomersConfig{App:%s Version:%s}", c.App, c.Version)
}

// LogValue logs a configuration without its secrets.
func (c CustomersConfig) LogValue() slog.Value { return slog.StringValue(fmt.Sprint(c)) }

func (c CustomersConfig) withDefaults() CustomersConfig {
	or := func(d *time.Duration, otherwise time.Duration) {
		if *d == 0 {
			*d = otherwise
		}
	}
	or(&c.FreshFor, 5*time.Minute)
	or(&c.StaleFor, time.Hour)
	or(&c.GracePeriod, 3*24*time.Hour)
	or(&c.UnknownFor, 30*time.Second)
	or(&c.Timeout, 5*time.Second)
	if c.CacheSize == 0 {
		c.CacheSize = 10_000
	}
	c.Logger = logs.Recovering(c.Logger)
	if c.Refuse == nil {
		c.Refuse = WriteRefusal
	}
	c.Features = normalFeatures(c.Features)
	c.UpgradeURL = strings.Clone(c.UpgradeURL)
	return c
}

func (c CustomersConfig) validate() error {
	if c.AccessToken == "" {
		return &InputError{"AccessToken", "is missing: make an organization access token in Polar, with the scope customers:read"}
	}
	if err := checkFeatures(c.Features); err != nil {
		return err
	}
	for name, d := range map[string]time.Duration{"FreshFor": c.FreshFor, "UnknownFor": c.UnknownFor, "Timeout": c.Timeout} {
		if d < 0 {
			return &InputError{name, "is negative: give a duration, or 0 for the default"}
		}
	}
	if c.CacheSize < 4 {
		return &InputError{"CacheSize", "must be at least 4, or 0 for 10,000"}
	}
	return checkUpgradeURL(c.UpgradeURL)
}

// checkUpgradeURL refuses what a browser cannot be sent to from every page.
func checkUpgradeURL(address string) error {
	u, err := url.Parse(address)
	switch {
	case address == "":
		return nil
	case err == nil && u.Scheme == "" && strings.ContainsRune("/?#", rune(address[0])):
		return nil
	case err == nil && (u.Scheme == "https" || u.Scheme == "http") && u.Host != "":
		return nil
	}
	return &InputError{"UpgradeURL", `is neither a web address, such as "https://example.com/plans", nor a path on this server, such as "/plans"`}
}

// CustomerRef names a customer, by either of two ids. Make one with ExternalID or
// CustomerID; the zero value is nobody.
type CustomerRef struct {
	key cacheKey
}

// ExternalID names a customer by the id that the program itself gave to Polar.
// It is compared exactly, capitals and all.
func ExternalID(id string) CustomerRef { return CustomerRef{cacheKey{byExternalID, id}} }

// CustomerID names a customer by Polar's id: a UUID of version 4.
func CustomerID(id string) CustomerRef { return CustomerRef{cacheKey{byPolarID, normalUUID(id)}} }

// IsZero reports whether nobody is named.
func (r CustomerRef) IsZero() bool { return r.key.id == "" }

// Format prints which kind of id it is, and Polar's own id. The program's may be
// an e-mail address, and package fmt prints it for a field that is not exported.
func (r CustomerRef) Format(f fmt.State, _ rune) {
	if r.key.kind == byPolarID {
		fmt.Fprintf(f, "polargate.CustomerID(%s)", r.key.id)
		return
	}
	fmt.Fprint(f, "polargate.ExternalID(****)")
}

// LogValue logs what Format prints.
func (r CustomerRef) LogValue() slog.Value { return slog.StringValue(fmt.Sprint(r)) }

// is reports whether a customer with these ids is the one that is named.
func (r CustomerRef) is(id, external string) bool {
	if r.key.kind == byPolarID {
		return r.key.id == id
	}
	return r.key.id == external
}

// check refuses ids that cannot be asked about. An external id with a slash is
// not reachable at Polar, however it is escaped; dots alone are eaten on the way.
func (r CustomerRef) check() error {
	id := r.key.id
	if r == (CustomerRef{}) {
		return &InputError{"customer", "is nobody: make one with ExternalID or CustomerID"}
	}
	if r.key.kind == byPolarID {
		if _, ok := canonicalUUID4(id); !ok {
			return &InputError{"customer id", "is not a UUID of version 4: pass it as Polar gave it, or use ExternalID for an id of your own"}
		}
		return nil
	}
	switch {
	case id == "":
		return &InputError{"external id", "is empty"}
	case len(id) > maxExternalID:
		return &InputError{"external id", "is longer than 2,000 bytes"}
	case id == "." || id == ".." || strings.ContainsAny(id, "/\x00") || !utf8.ValidString(id):
		return &InputError{"external id", "holds a slash or a NUL, or is only dots, or no text: Polar cannot be asked about it. Give the customer another id, or use CustomerID"}
	}
	return nil
}

const maxExternalID = 2000

// path is where Polar tells a customer's state.
func (r CustomerRef) path() string {
	if r.key.kind == byPolarID {
		return "/v1/customers/" + r.key.id + "/state"
	}
	return "/v1/customers/external/" + url.PathEscape(r.key.id) + "/state"
}

// Customers answers what customers may use, from a cache in front of Polar's
// customer state, and what license keys allow. All methods are safe for use by
// many goroutines. One for a program is enough. NewCustomers makes one; the zero value
// cannot be used.
type Customers struct {
	config CustomersConfig
	client *Client
	cache  *entitlementCache

	learning     sync.Mutex // held while the organization is found out
	organization struct {
		sync.Mutex
		id     string
		held   []notice // events that came before it was known
		asking bool     // on behalf of one of them
	}
	misconfigured struct {
		sync.Mutex
		customers, keys, scope error
	}
	seen seenEvents
	// These log what each of many requests may meet.
	badIDs, halfRead, overBudget, unresolvable rate.Sometimes
	seldom                                     logs.Seldom
}

// NewCustomers makes Customers, without asking Polar. A configuration that cannot
// work is an *InputError. A token that Polar does not accept is found at the
// first use, and reported by it and by Stats.
func NewCustomers(config CustomersConfig) (*Customers, error) {
	config = config.withDefaults()
	if err := config.validate(); err != nil {
		return nil, err
	}
	client, err := newClient(ClientConfig{
		OrganizationID:    config.OrganizationID,
		AccessToken:       config.AccessToken,
		App:               config.App,
		Version:           config.Version,
		Server:            config.Server,
		BaseURL:           config.BaseURL,
		HTTPClient:        config.HTTPClient,
		RequestsPerMinute: config.RequestsPerMinute,
		Logger:            config.Logger,
	})
	if err != nil {
		return nil, err
	}
	config.AccessToken = "" // it is in the client now, and in nothing that is printed
	c := &Customers{config: config, client: client, seen: newSeenEvents(), badIDs: onceAMinute(), halfRead: onceAMinute(), overBudget: onceAMinute(), unresolvable: onceAMinute()}
	c.organization.id = client.organizationID
	if c.cache, err = newEntitlementCache(config.CacheSize); err != nil {
		return nil, err
	}
	c.cache.freshFor, c.cache.staleFor, c.cache.graceFor = config.FreshFor, config.StaleFor, config.GracePeriod
	c.cache.unknownFor, c.cache.timeout = config.UnknownFor, config.Timeout
	c.cache.flights.Keep = config.Timeout // the answer is of use to whoever comes next
	c.cache.ask, c.cache.panicked = c.ask, c.logPanic
	if err := c.bindKeys(); err != nil {
		return nil, err
	}
	budget := client.pace.(*pace.Budget) // there is a token
	c.cache.spare = budget.Spare
	customers, keys := budget.UnseenCustomers(), budget.UnseenKeys()
	c.cache.unseen = [keyKinds]pace.Unseen{customers, customers, keys}
	return c, nil
}

func onceAMinute() rate.Sometimes { return rate.Sometimes{First: 1, Interval: time.Minute} }

// Format prints that it is Customers, and nothing of them, whatever the verb.
func (c *Customers) Format(f fmt.State, _ rune) {
	fmt.Fprintf(f, "polargate.Customers{App:%s}", c.config.App)
}

// LogValue logs what Format prints.
func (c *Customers) LogValue() slog.Value { return slog.StringValue(fmt.Sprint(c)) }

// Close ends refreshes under way and waits for them. What is cached is served
// still, also by Refresh; whatever else fails with ErrClosed. Close can be called
// again, and always returns nil.
func (c *Customers) Close() error {
	c.cache.close()
	c.client.Close()
	return nil
}

// Entitlements is what a customer may use. A customer that Polar does not know is
// not an error: their Entitlements are empty, and Known says so. A benefit of the type
// license_keys is among them only while its license key is granted and has not expired.
// If one was never seen and cannot be asked about, that is an error; Decide and Route need
// it only where it matters.
//
// An answer comes from memory if it is younger than FreshFor, or than StaleFor,
// in which case a newer one is fetched behind the caller's back. Else Polar is
// asked, once for all who ask at the same time; ctx bounds how long the caller
// waits for it. When nobody can say, an answer younger than GracePeriod is served,
// and while that lasts at once; without one the error is an *Error:
// ErrUnreachable, ErrRateLimited, ErrMisconfigured for a token that Polar refuses,
// or ErrClosed. An id that cannot be asked about is an *InputError.
//
// A list in Polar's answer that is null counts as empty. One that is missing or no list
// is taken from the answer before it, if that is younger than GracePeriod. Without one,
// unreadable benefits are an error, while unreadable subscriptions and meters leave
// Products and Meters empty; Decide and Route do not refuse anybody for those.
func (c *Customers) Entitlements(ctx context.Context, customer CustomerRef) (*Entitlements, error) {
	value, err := c.look(ctx, customer.key)
	if err == nil && value.known && len(value.plan().benefits) == 0 {
		value = c.cache.recheck(ctx, customer.key, value)
	}
	return withBenefits(value, err)
}

// withBenefits makes an error of entitlements whose benefits could not be read: who
// looks for a feature there would take it for refused.
func withBenefits(value *Entitlements, err error) (*Entitlements, error) {
	if err == nil && value.missing()&listOfBenefits != 0 {
		return nil, listOfBenefits.unreadable()
	}
	if err == nil && value.undecidedKeys() != nil {
		return nil, value.undecidedKeys()
	}
	return value, err
}

func (c *Customers) look(ctx context.Context, key cacheKey) (*Entitlements, error) {
	if ctx == nil {
		return nil, errNilContext
	}
	// The common case first: whoever is in the cache has passed the checks.
	if value, ok := c.cache.hit(key); ok {
		return value, nil
	}
	if key.kind != byLicenseKey {
		if err := (CustomerRef{key}).check(); err != nil {
			return nil, err
		}
	}
	value, err := c.cache.lookup(ctx, key)
	return value, c.callError(err)
}

// decideAgain tells whether a customer meets requirements, by an answer out of look. One that
// refuses is not believed for as long as one that grants: Polar's state may be from
// before a purchase. The benefit of a license key never changes.
func (c *Customers) decideAgain(ctx context.Context, key cacheKey, value *Entitlements, requirements []Requirement) (*Entitlements, *Refusal) {
	if _, unmet := value.Unmet(requirements...); unmet && value.known && value.particulars().license == nil {
		value = c.cache.recheck(ctx, key, value)
	}
	return c.decide(value, nil, requirements)
}

// Refresh asks Polar now, however fresh the last answer is, and is Entitlements
// otherwise: when nobody can say, an older answer is served, as its CheckedAt
// shows. What was just bought may not be in the answer yet: on the page that a customer
// comes back to from a purchase, use Await.
func (c *Customers) Refresh(ctx context.Context, customer CustomerRef) (*Entitlements, error) {
	if ctx == nil {
		return nil, errNilContext
	}
	if err := customer.check(); err != nil {
		return nil, err
	}
	began := c.cache.now()
	value, err := c.cache.renew(ctx, customer.key, inAnyCase)
	if err == nil && c.cache.askedBefore(customer.key, began) { // that was an older question
		if newer, err := c.cache.renew(ctx, customer.key, inAnyCase); err == nil {
			value = newer
		}
	}
	return value, c.callError(err)
}

// Spend takes units off a meter in memory, so that requests that come faster than
// Polar counts cannot use more than Polar last said was left. It does not tell
// Polar: the program sends its usage events as ever. It is false if the balance
// does not allow it; then nothing was taken. giveBack undoes it, once, unless
// Polar has been asked since and said a new balance; it is never nil. A customer has one
// balance here, by whichever id you name them.
//
// Polar is taken to know of the units when it is next asked, or tells of the customer
// by a webhook: send the usage event before, or soon after. For work that takes longer
// there is Route.Spend, whose units stay taken off until the handler ends.
func (c *Customers) Spend(ctx context.Context, customer CustomerRef, meterID string, units float64) (giveBack func(), ok bool, err error) {
	nothing := func() {}
	if !(units > 0) || units > 1e15 {
		return nothing, false, &InputError{"units", "must be more than 0"}
	}
	value, err := c.Entitlements(ctx, customer)
	if err != nil {
		return nothing, false, err
	}
	if rest, end := c.cache.spend(customer.key, value, debit{normalUUID(meterID), units}, false); rest != nil {
		return func() { end(true) }, true, nil
	}
	if value.missing()&listOfMeters != 0 {
		return nothing, false, listOfMeters.unreadable()
	}
	return nothing, false, nil
}

// secret is the id if it is not to be repeated in an error. One of few letters, such as
// a row's number, tells nobody anything, and would be found in every second word.
func (r CustomerRef) secret() string {
	if len(r.key.id) < 6 {
		return ""
	}
	return r.key.id
}

// customerState asks Polar for a customer's state. A customer that Polar does not
// know is nobody, and no error.
//
// If the organization is not known, learn is told which the answer names.
func (c *Client) customerState(ctx context.Context, r CustomerRef, organizationID string, features map[string][]string, learn func(organization string)) (*Entitlements, error) {
	var value *Entitlements
	err := c.exchange(ctx, exchange{op: opState, path: r.path(), secret: r.secret(), repeatable: true}, func(body []byte, at time.Time) (err error) {
		value, err = readState(body, at, r, organizationID, features)
		if err == nil && organizationID == "" {
			var organization string
			f, _ := object(body) // as it has just been read
			f.text("organization_id", &organization)
			learn(organization)
		}
		return err
	})
	if isNotFound(err) {
		at := c.now()
		if e, ok := errors.AsType[*Error](err); ok && !e.date.IsZero() {
			at = e.date
		}
		return &Entitlements{at: clock.PolarTime(at)}, nil
	}
	return value, err
}

// organizationOfKeys is the organization that the access token's license keys
// are of; empty if there are none.
func (c *Client) organizationOfKeys(ctx context.Context) (string, error) {
	var organization string
	err := c.exchange(ctx, exchange{op: opList, path: "/v1/license-keys/?limit=1", repeatable: true}, func(body []byte, _ time.Time) error {
		f, err := object(body)
		if err != nil {
			return err
		}
		items, err := f.list("items")
		if err != nil || len(items) == 0 {
			return err
		}
		items[0].text("organization_id", &organization)
		if _, ok := canonicalUUID4(organization); !ok {
			return errors.New("a license key without an organization")
		}
		return nil
	})
	return organization, err
}

const opEntitlements = "entitlements"

// callError dresses an error that did not come from Polar.
func (c *Customers) callError(err error) error {
	var panicked *flight.PanicError
	switch {
	case err == nil:
		return nil
	case errors.Is(err, flight.ErrClosed), c.cache.life.Err() != nil:
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
	c.cache.counts.panics.Add(1)
	c.config.Logger.Error("polargate: a panic was caught; please report it", "op", opEntitlements, "panic", fmt.Sprint(p.Value), "stack", string(p.Stack))
}

// ask is the cache's way to Polar.
func (c *Customers) ask(ctx context.Context, key cacheKey) (*Entitlements, error) {
	var value *Entitlements
	var err error
	if key.kind == byLicenseKey {
		value, err = c.askLicense(ctx, key.id)
	} else {
		value, err = c.client.customerState(ctx, CustomerRef{key}, c.organizationID(), c.config.Features, c.learn)
	}
	if err == nil && value.unread != 0 {
		c.halfRead.Do(func() {
			c.config.Logger.Warn("polargate: a customer's state could be read in part only; this is said once a minute", "error", value.unread.unreadable())
		})
	}
	e, ok := errors.AsType[*Error](err)
	switch {
	case err == nil, tokenRefused(err):
		c.noteMisconfigured(key.kind, err)
	case ok && e.unasked:
		c.overBudget.Do(func() {
			c.config.Logger.Warn("polargate: there are more questions than RequestsPerMinute allows; this is said once a minute", "error", err)
		})
	default:
		c.config.Logger.Warn("polargate: Polar could not say what a customer may use", "error", err)
	}
	return value, err
}

// tokenRefused reports whether Polar refuses the access token. A question that it
// does not take (422) may be about one customer's strange id alone.
func tokenRefused(err error) bool {
	e, ok := errors.AsType[*Error](err)
	return ok && e.Reason == ErrMisconfigured && e.StatusCode != http.StatusUnprocessableEntity
}

// noteMisconfigured keeps, for Stats, that Polar refuses the token, or with nil that
// it does not, and says it in the log when it begins. Customers and keys need scopes
// of their own.
func (c *Customers) noteMisconfigured(kind keyKind, err error) {
	m := &c.misconfigured
	m.Lock()
	defer m.Unlock()
	noted, of := &m.customers, "customers"
	if kind == byLicenseKey {
		noted, of = &m.keys, "license keys"
	}
	if err != nil && *noted == nil {
		c.config.Logger.Error("polargate: Polar refuses the access token; answers come from the cache while it lasts", "for", of, "error", err)
	}
	*noted = err
}

func (c *Customers) askLicense(ctx context.Context, key string) (*Entitlements, error) {
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
	case err == nil && len(c.config.Features) > 0 && !hasFeatures(c.config.Features, license.BenefitID):
		return refusedKey(ErrWrongBenefit), nil
	case err == nil:
		return ofLicense(license, c.config.Features), nil
	case isDenial(err) && errors.As(err, &e):
		return refusedKey(e.Reason), nil
	}
	return nil, err
}

func hasFeatures(features map[string][]string, benefitID string) bool {
	_, ok := features[normalUUID(benefitID)]
	return ok
}

func (c *Customers) organizationID() string {
	c.organization.Lock()
	defer c.organization.Unlock()
	return c.organization.id
}

// learnOrganization is the organization of the access token. Polar does not tell
// it, but each of its customers and license keys does. It is empty if there is no key.
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

// CustomersStats are counts since NewCustomers, for a program's metrics, and the
// state of the cache.
type CustomersStats struct {
	// Fresh, Stale and Grace are answers from memory, by their age; Fetched
	// those that waited for Polar; Unknown those from memory about customers
	// and keys that are not known or are refused.
	Fresh, Stale, Grace, Fetched, Unknown int64
	// Requests are questions that were sent to Polar, retries not counted, and Failures
	// those of them that nobody answered. TurnedAway were not sent, for lack of requests
	// in the budget: most are about customers and keys that had not been seen before.
	Requests, Failures, TurnedAway int64
	// Events are webhook events that were taken in; Outdated came after a
	// younger one, Repeated were seen before, Refused had no valid signature, could
	// not be read or were of another organization, and Ignored were of types that are of no interest.
	Events, Outdated, Repeated, Refused, Ignored int64
	// Held are events that wait until the organization is known; see
	// CustomersConfig.OrganizationID.
	Held int
	// Unidentified, Unpaid and Undecided are requests that a Route did not let in:
	// with 400 or 401, with 402, and with 503. FailedOpen are those that passed
	// because of Route.FailOpen.
	Unidentified, Unpaid, Undecided, FailedOpen int64
	// Panics were caught.
	Panics int64
	// Cached are the customers and keys in memory, and CachedUnknown the unknown ones.
	Cached, CachedUnknown int
	// Misconfigured is why Polar refuses the access token, since its last
	// answer, or that it lacks a scope; nil if it does not.
	Misconfigured error
	// Pause is how long Polar asked not to be asked.
	Pause time.Duration
}

// Stats gives the counts as they are now.
func (c *Customers) Stats() CustomersStats {
	n := &c.cache.counts
	s := CustomersStats{
		Fresh: n.hits.Load(), Stale: n.served[cacheStale].Load(), Grace: n.served[cacheGrace].Load(),
		Fetched: n.served[cacheMiss].Load(), Unknown: n.negative.Load(),
		Requests: n.upstream.Load(), Failures: n.failures.Load(), TurnedAway: n.unseenTurnedAway.Load(),
		Events: n.events.Load(), Outdated: n.eventsOld.Load(), Repeated: n.eventsTwice.Load(),
		Refused: n.eventsRefused.Load(), Ignored: n.eventsUnknown.Load(),
		Unidentified: n.unidentified.Load(), Unpaid: n.unpaid.Load(), Undecided: n.undecided.Load(), FailedOpen: n.failedOpen.Load(),
		Panics: n.panics.Load(), Cached: c.cache.known.len(), CachedUnknown: c.cache.unknown.Len(),
	}
	c.organization.Lock()
	s.Held = len(c.organization.held)
	c.organization.Unlock()
	c.misconfigured.Lock()
	s.Misconfigured = cmp.Or(c.misconfigured.customers, c.misconfigured.keys, c.misconfigured.scope)
	c.misconfigured.Unlock()
	s.Pause = c.client.pace.PauseLeft()
	return s
}

// normalFeatures is a copy of a map of features with ids in their usual form and
// the features of each in order, once.
func normalFeatures(given map[string][]string) map[string][]string {
	features := make(map[string][]string, len(given))
	for id, names := range given {
		id = normalUUID(id)
		names = append(features[id], names...)
		for i := range names {
			names[i] = strings.Clone(names[i])
		}
		slices.Sort(names)
		features[id] = slices.Compact(names)
	}
	return features
}

func checkFeatures(features map[string][]string) error {
	for id, names := range features {
		if _, ok := canonicalUUID4(id); !ok {
			return &InputError{"Features", "has a key that is not a UUID of version 4: use the benefits' ids as Polar shows them"}
		}
		if slices.Contains(names, "") {
			return &InputError{"Features", "has a feature without a name"}
		}
	}
	return nil
}
