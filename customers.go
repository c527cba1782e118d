package polargate

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/polargate/polargate/internal/clock"
	"github.com/polargate/polargate/internal/flight"
	"github.com/polargate/polargate/internal/logs"
	"github.com/polargate/polargate/internal/pace"
	"github.com/polargate/polargate/internal/relay"
	"github.com/polargate/polargate/internal/rights"
	"github.com/polargate/polargate/internal/wire"
	"golang.org/x/time/rate"
)

// CustomersConfig configures Customers. Only AccessToken is required.
type CustomersConfig struct {
	// AccessToken is an organization access token with the scope customers:read. Benefits
	// of the type license_keys also need license_keys:read; without it they count even if
	// their key has expired or was disabled. License keys that requests bring need
	// license_keys:write, and members (see Member) need benefits:read. The token never
	// leaves the server.
	AccessToken string
	// OrganizationID is the organization of the token. Empty means that it is learned
	// from the first customer's state that Polar answers, or by one more request if a
	// license key is asked about before. Webhooks of another organization have no effect,
	// and webhooks that arrive before it is known take effect only then.
	OrganizationID string
	// Features maps the ids of benefits to the features that each unlocks. For license
	// keys, it is also the list of benefits whose keys are accepted; empty accepts every
	// key of the organization.
	Features map[string][]string

	// BaseURL and Server say where Polar is; see ClientConfig.
	BaseURL string
	Server  Server
	// HTTPClient sends the requests; see ClientConfig.
	HTTPClient *http.Client
	// App and Version name the program in the User-Agent; may be empty.
	App, Version string
	// RequestsPerMinute bounds the requests to Polar; see ClientConfig. Half of them are
	// reserved for customers and keys that were seen before, as long as they need them.
	// License keys that were never seen share a quarter.
	RequestsPerMinute int

	// FreshFor is the age up to which an answer is served without asking. 0 means 5
	// minutes. With webhooks it can be long, except for license keys: no webhook says
	// that a key was disabled or rotated, or that its expiry changed.
	FreshFor time.Duration
	// StaleFor is the age up to which an answer is served at once while a newer one is
	// fetched in the background. 0 means 1 hour; negative means never. Without webhooks,
	// a cancellation goes unnoticed for FreshFor if requests keep coming, and for one
	// request if the customer returns within StaleFor.
	StaleFor time.Duration
	// GracePeriod is the age up to which an answer is served if Polar can't be reached. 0
	// means 3 days; negative means never.
	GracePeriod time.Duration
	// UnknownFor is how long a refusal is believed at most: that a customer or key is
	// unknown, that a customer has no benefits, or lacks what is required. A refusal is
	// first believed for 2 seconds, and twice as long each time Polar confirms it. 0
	// means 30 seconds.
	UnknownFor time.Duration
	// SweepAfter is how long webhooks may be silent before Polar's lists are read instead,
	// as by Warm: an endpoint that Polar has switched off is silent too. 0 means 1 hour;
	// negative means never. It has no effect unless FreshFor is longer, because otherwise
	// Polar is asked sooner about each customer who comes.
	SweepAfter time.Duration
	// Timeout bounds a request to Polar. 0 means 5 seconds.
	Timeout time.Duration
	// CacheSize is how many customers are cached, and how many license keys, and a
	// quarter of that for unknown ones. A few percent more may be found for a while. 0
	// means 10,000; the minimum is 4. A customer takes about 360 bytes plus the length of
	// the external id, however many benefits they have.
	CacheSize int

	// Shared is where several replicas, or processes, keep what they know together: a
	// customer is asked about by one of them, a webhook to one is known to all, all keep
	// to one RequestsPerMinute, and customers outlast a restart. SharedFile is for one
	// computer, and the module polargateredis for several. While the store is away each
	// replica goes on by itself. A license key that comes with a request is shared without
	// the key, and without what is personal: another replica knows the ids, the status, the
	// usage and the times of it. Organizations need a store, or a prefix in it, of their own,
	// unless OrganizationID is set. nil shares nothing.
	Shared Shared
	// Secret seals what is in Shared, so that nobody who can write there can let anybody
	// in, and nobody who can read there learns who bought what. All replicas have the
	// same. Empty keeps apart only what is damaged or another program's.
	//
	// OtherSecret is read as well. To replace a secret, deploy the new one as OtherSecret
	// everywhere, then swap the two, then leave the old one out.
	Secret, OtherSecret string
	// UsageFolder is where usage events of Reservation.Commit are stored until Polar has
	// them, for this user alone: they outlast a process that is killed, and the next one that
	// uses the folder sends them. Several processes of one computer can share it. After a
	// power failure the last second may be missing. The folder is made if there is none.
	// Empty keeps events in memory, up to about 50 MB, and they end with the process.
	UsageFolder string
	// WebhookSecrets are the signing secrets of the webhook endpoint, for Apply, and for
	// a WebhookHandler that is given none.
	WebhookSecrets []string

	// Overlay returns features that your program gives a customer beside what Polar says:
	// to staff, in a beta, as a favor. It counts in Decide, Route, Reserve, Watch, Await and
	// Entitlements; see Entitlements.Overlays. It also counts for customers whom Polar doesn't
	// know, and while Polar can't be reached, but not for a license key that Polar refuses.
	//
	// customer is whom the caller named, or for a license key, the customer whose key it is.
	// have is what Polar says, or nil if Polar can't be reached and nothing is cached. ctx is
	// the caller's: for a Route, that of the request.
	//
	// It is called at each decision, so it must be quick, safe for use by many goroutines,
	// and do no I/O: read a table in memory. A panic in it is caught and logged, and counts as
	// no overlay. It must not keep customer, and the slice must not change afterwards. nil
	// gives nothing.
	Overlay func(ctx context.Context, customer CustomerRef, have *Entitlements) []Overlay

	// OnDecision is told of each decision of Route, Decide, DecideLicense, Reserve and Watch,
	// for an audit log, metrics (see package metrics) or traces, and of a stream that Watch ends. It
	// is called after the decision and before the handler, with the context of the caller, so
	// it must be quick, and safe for use by many goroutines. A panic in it is caught and
	// logged. nil costs nothing.
	OnDecision func(context.Context, Decision)

	// UpgradeURL is where customers find your plans. A problem report names it, and a
	// browser is redirected there, unless it is the page that was requested. It is a web
	// address or a path; one that begins with "?" or "#" is relative to the page that was
	// requested, as in a link. May be empty.
	UpgradeURL string
	// Refuse answers requests that are not let in, instead of WriteRefusal.
	Refuse func(http.ResponseWriter, *http.Request, Refusal)
	// Logger gets warnings, and the progress of Warm, never with a key or a token. nil
	// means that nothing is logged.
	Logger *slog.Logger
}

// Format prints a configuration without its secrets, whatever the verb. Package fmt
// doesn't call it for an unexported field: a struct with a configuration in such a field
// needs a Format of its own if it is printed.
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
	or(&c.SweepAfter, time.Hour)
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
	if c.Secret == "" && c.OtherSecret != "" {
		return &InputError{"OtherSecret", "is set without Secret: give the secret that replicas use now as Secret"}
	}
	return checkUpgradeURL(c.UpgradeURL)
}

// checkUpgradeURL refuses an address to which a browser can't be redirected from every
// page.
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
// CustomerID; the zero value names nobody.
type CustomerRef struct {
	key cacheKey
}

// ExternalID names a customer by the id that your program gave to Polar. Ids are compared
// exactly, including case.
func ExternalID(id string) CustomerRef { return CustomerRef{cacheKey{byExternalID, id}} }

// CustomerID names a customer by Polar's id: a UUID of version 4.
func CustomerID(id string) CustomerRef { return CustomerRef{cacheKey{byPolarID, normalUUID(id)}} }

// Member names a member of a customer, such as the holder of a seat, by the external id
// that the member has in Polar. customer is the buyer. Organizations that were made through
// Polar's API have members; in others a seat holder is a customer of their own, named with
// ExternalID or CustomerID.
//
// What a member has is what Polar's list of the customer's benefits says of them, beside the
// customer's meters and subscriptions, which all members share. The access token needs the
// scope benefits:read for that.
func Member(customer CustomerRef, externalMemberID string) CustomerRef {
	if customer.IsZero() || externalMemberID == "" {
		return CustomerRef{} // nobody
	}
	return CustomerRef{cacheKey{byMember, string('0'+rune(customer.key.kind)) + customer.key.id + "\x00" + externalMemberID}}
}

// member splits the name of a member into that of the buyer and the member's own external
// id. For a customer it is the customer and "".
func (r CustomerRef) member() (buyer cacheKey, member string) {
	if r.key.kind != byMember || r.key.id == "" {
		return r.key, ""
	}
	id, member, _ := strings.Cut(r.key.id[1:], "\x00")
	return cacheKey{keyKind(r.key.id[0] - '0'), id}, member
}

// ExternalID is the id of your program by which the customer is named; "" for one that is
// named otherwise, also for a Member.
func (r CustomerRef) ExternalID() string {
	if r.key.kind != byExternalID {
		return ""
	}
	return r.key.id
}

// CustomerID is Polar's id by which the customer is named; "" for one that is named
// otherwise, also for a Member.
func (r CustomerRef) CustomerID() string {
	if r.key.kind != byPolarID {
		return ""
	}
	return r.key.id
}

// IsZero reports whether the reference names nobody.
func (r CustomerRef) IsZero() bool { return r.key.id == "" }

// Format prints which kind of id it is, and Polar's own id. Your program's id may be an
// e-mail address, and package fmt would print it for an unexported field.
func (r CustomerRef) Format(f fmt.State, _ rune) {
	if r.key.kind == byPolarID {
		fmt.Fprintf(f, "polargate.CustomerID(%s)", r.key.id)
		return
	}
	if r.key.kind == byMember {
		buyer, _ := r.member()
		fmt.Fprintf(f, "polargate.Member(%v, ****)", CustomerRef{buyer})
		return
	}
	fmt.Fprint(f, "polargate.ExternalID(****)")
}

// LogValue logs what Format prints.
func (r CustomerRef) LogValue() slog.Value { return slog.StringValue(fmt.Sprint(r)) }

// is reports whether a customer with these ids is the one named.
func (r CustomerRef) is(id, external string) bool {
	if r.key.kind == byPolarID {
		return r.key.id == id
	}
	return r.key.id == external
}

// check refuses ids that Polar can't be asked about. Polar can't be reached with an
// external id that has a slash, however it is escaped; an id of dots alone is lost on the
// way.
func (r CustomerRef) check() error {
	id := r.key.id
	if r == (CustomerRef{}) {
		return &InputError{"customer", "is empty: make one with ExternalID or CustomerID"}
	}
	if r.key.kind == byMember {
		buyer, member := r.member()
		switch {
		case buyer.kind > byExternalID:
			return &InputError{"customer", "is a member of a member: name the buyer with ExternalID or CustomerID"}
		case len(member) > maxMemberID || strings.ContainsRune(member, 0) || !utf8.ValidString(member):
			return &InputError{"external member id", "is longer than 500 bytes, or isn't text"}
		}
		return (CustomerRef{buyer}).check()
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
		return &InputError{"external id", "has a slash or a NUL, is only dots, or isn't text, and Polar can't be asked about it: give the customer another id, or use CustomerID"}
	}
	return nil
}

const (
	maxExternalID = 2000
	maxMemberID   = 500
)

// path is the endpoint of a customer's state.
func (r CustomerRef) path() string {
	if r.key.kind == byPolarID {
		return "/v1/customers/" + r.key.id + "/state"
	}
	return "/v1/customers/external/" + url.PathEscape(r.key.id) + "/state"
}

// Customers answers what customers may use, from a cache in front of Polar's customer
// state, and what license keys allow. All methods are safe for use by many goroutines. A
// program needs only one. NewCustomers makes it; the zero value can't be used.
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
		customers, keys, scope, lists, members, usage error
	}
	members  members
	handlers eventHandlers
	warming  warming
	usage    usageEvents
	budget   *pace.Budget
	seen     seenEvents
	// These log what each of many requests may meet.
	badIDs, halfRead, overBudget, unresolvable rate.Sometimes
	seldom                                     logs.Seldom
}

// NewCustomers makes Customers, without asking Polar. A configuration that can't work is
// an *InputError. A token that Polar rejects is found at the first use, which reports it,
// and so does Stats.
func NewCustomers(config CustomersConfig) (*Customers, error) {
	config = config.withDefaults()
	if err := config.validate(); err != nil {
		return nil, err
	}
	client, err := newTokenClient(ClientConfig{
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
	c.budget = client.pace.(*pace.Budget) // there is a token
	c.cache.spare = c.budget.Spare
	customers, keys := c.budget.UnseenCustomers(), c.budget.UnseenKeys()
	c.cache.unseen = [keyKinds]pace.Unseen{customers, customers, keys}
	c.warming.turn = make(chan struct{}, 1)
	if err := c.startMembers(); err != nil {
		return nil, err
	}
	if err := c.join(c.budget); err != nil {
		return nil, err
	}
	if err := c.openUsage(); err != nil {
		c.cache.close()
		if r := c.cache.replicas; r != nil {
			r.link.close()
		}
		return nil, err
	}
	c.startSweeps()
	return c, nil
}

// Client is the low-level client of these Customers. Its requests count in the same budget,
// also in that of all replicas; see CustomersConfig.Shared. Validating, activating and
// deactivating license keys needs CustomersConfig.OrganizationID.
func (c *Customers) Client() *Client { return c.client }

// join connects the cache with those of other replicas, if there is a Shared.
func (c *Customers) join(budget *pace.Budget) error {
	config := &c.config
	if config.Shared == nil {
		return nil
	}
	limit := cmp.Or(config.RequestsPerMinute, defaultPerMinute(config.Server, config.BaseURL))
	r := &replicas{
		cache: c.cache, features: config.Features, budget: budget, limit: limit, turns: make(chan struct{}, 1),
		organization: c.organizationID, learn: c.learn,
		eventHeard: func() { c.warming.lastEvent.Store(int64(c.cache.now())) },
	}
	r.listsRead = r.afterWalk
	link := sharedLinkConfig{
		Store:    config.Shared,
		Purpose:  "customers of " + c.client.base + " " + c.client.organizationID,
		Secrets:  []string{config.Secret},
		ClaimFor: max(claimFor, 2*config.Timeout),
		Logger:   config.Logger,
	}
	if config.OtherSecret != "" {
		link.Secrets = append(link.Secrets, config.OtherSecret)
	}
	config.Secret, config.OtherSecret = "", "" // they are in the link now
	var err error
	if r.link, err = newSharedLink(link); err != nil {
		return err
	}
	r.link.config.Budget = SharedBudget{Name: r.link.openName("budget", "requests").key, Limit: limit, Window: time.Minute}
	c.cache.replicas, c.client.pace = r, &sharedPace{budget, r}
	r.lists = relay.Relay{Values: relayValues{r.link}, Name: "lists", Holder: r.link.config.Holder, Lasts: turnLasts, Kept: listsKept}
	r.link.listen(r.heard)
	r.link.goBehind(r.sweep)
	return nil
}

func onceAMinute() rate.Sometimes { return rate.Sometimes{First: 1, Interval: time.Minute} }

// Format prints that it is Customers and nothing else, whatever the verb.
func (c *Customers) Format(f fmt.State, _ rune) {
	fmt.Fprintf(f, "polargate.Customers{App:%s}", c.config.App)
}

// LogValue logs what Format prints.
func (c *Customers) LogValue() slog.Value { return slog.StringValue(fmt.Sprint(c)) }

// Close ends background refreshes and waits for them, and sends usage events that wait, for
// at most CustomersConfig.Timeout. What is cached is still served,
// also by Refresh; everything else fails with ErrClosed. Close can be called again, and
// always returns nil.
func (c *Customers) Close() error {
	c.stopSweeps()
	c.cache.close()
	c.usage.close(c.config.Timeout)
	c.members.close()
	if r := c.cache.replicas; r != nil {
		r.link.close()
	}
	c.client.Close()
	return nil
}

// Entitlements returns what a customer may use. An unknown customer is not an error: the
// Entitlements are empty, and Known says so. A benefit of the type license_keys is
// included only while its license key is granted and hasn't expired. If such a key was
// never seen and can't be looked up, that is an error; Decide and Route need it only if
// it matters.
//
// An answer comes from memory if it is younger than FreshFor. If it is younger than
// StaleFor, it also comes from memory, while a newer one is fetched in the background.
// Otherwise Polar is asked, once for all callers who wait; ctx bounds how long the caller
// waits. If Polar can't be reached, an answer younger than GracePeriod is served, and,
// while the outage lasts, at once. Without such an answer, the error is an *Error:
// ErrUnreachable, ErrRateLimited, ErrMisconfigured if Polar rejects the token, or
// ErrClosed. An id that Polar can't be asked about is an *InputError. With an error, the
// Entitlements have what CustomersConfig.Overlay gives, or are nil.
//
// If a list in Polar's answer is null, it counts as empty. If it is missing or isn't a
// list, it is taken from the previous answer, provided that is younger than GracePeriod.
// Otherwise, unreadable benefits are an error, while unreadable subscriptions and meters
// leave Products and Meters empty; Decide and Route don't refuse anybody because of
// those.
func (c *Customers) Entitlements(ctx context.Context, customer CustomerRef) (*Entitlements, error) {
	value, err := c.look(ctx, customer.key)
	if err == nil && value.Known() && !value.state().HasBenefits() {
		value = (*Entitlements)(c.recheck(ctx, customer.key, value.state()))
	}
	value, err = withBenefits(value, err)
	return c.overlaidAnyway(ctx, customer, value, err), err
}

// withBenefits turns entitlements with unreadable benefits into an error: a caller who
// looks for a feature there would take it for refused.
func withBenefits(value *Entitlements, err error) (*Entitlements, error) {
	if err == nil && value.state().Missing()&rights.ListOfBenefits != 0 {
		return nil, unreadable(rights.ListOfBenefits)
	}
	if err == nil && value.state().UndecidedKeys() != nil {
		return nil, value.state().UndecidedKeys()
	}
	return value, err
}

func (c *Customers) look(ctx context.Context, key cacheKey) (*Entitlements, error) {
	if ctx == nil {
		return nil, errNilContext
	}
	// The common case first: a cached customer's id has passed the checks.
	if value, ok := c.cache.hit(key); ok {
		return (*Entitlements)(value), nil
	}
	if key.kind == byMember {
		value, err := c.lookMember(ctx, key)
		return (*Entitlements)(value), err
	}
	if key.kind != byLicenseKey {
		if err := (CustomerRef{key}).check(); err != nil {
			return nil, err
		}
	}
	value, err := c.cache.lookup(ctx, key)
	return (*Entitlements)(value), c.callError(err)
}

// decideAgain reports whether a customer meets requirements, given a cached answer. A
// refusal isn't believed for as long as a grant, because Polar's state may be from before
// a purchase. The benefit of a license key never changes.
func (c *Customers) decideAgain(ctx context.Context, key cacheKey, value *Entitlements, requirements []Requirement) (*Entitlements, *Refusal) {
	have := c.overlaid(ctx, CustomerRef{key}, value)
	if _, unmet := have.Unmet(requirements...); unmet && value.Known() && value.license() == nil {
		if newer := (*Entitlements)(c.recheck(ctx, key, value.state())); newer != value {
			have = c.overlaid(ctx, CustomerRef{key}, newer)
		}
	}
	return c.decide(have, nil, requirements)
}

// overlaid is what Polar says of a customer, nil if nothing, with what the program gives
// beside it. If that is nothing, it is value itself.
func (c *Customers) overlaid(ctx context.Context, customer CustomerRef, value *Entitlements) *Entitlements {
	if c.config.Overlay == nil {
		return value
	}
	if given := c.overlay(ctx, customer, value); len(given) > 0 {
		return value.over(given, nil)
	}
	return value
}

// overlaidAnyway is overlaid for an answer that may be an error: then it is what the program
// gives alone, if it is for lack of an answer; otherwise value.
func (c *Customers) overlaidAnyway(ctx context.Context, customer CustomerRef, value *Entitlements, err error) *Entitlements {
	if err == nil || c.config.Overlay == nil {
		return c.overlaid(ctx, customer, value)
	}
	if e, ok := errors.AsType[*Error](err); !ok || e.Reason == ErrClosed {
		return value
	}
	if given := c.overlay(ctx, customer, nil); len(given) > 0 {
		return (*Entitlements)(nil).over(given, err)
	}
	return value
}

// overlay asks the program what it gives a customer now.
func (c *Customers) overlay(ctx context.Context, customer CustomerRef, have *Entitlements) (given []Overlay) {
	defer func() {
		if p := recover(); p != nil {
			c.cache.counts.panics.Add(1)
			c.seldom.Warn(c.config.Logger, "overlay", "polargate: CustomersConfig.Overlay panicked, so that it gave nothing", "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
			given = nil
		}
	}()
	if ctx == nil || customer.IsZero() {
		return nil
	}
	given = c.config.Overlay(ctx, customer, have)
	var now time.Time
	for i := range given {
		if now.IsZero() && !given[i].Until.IsZero() {
			now = time.Now()
		}
		if !given[i].counts(now) {
			return counting(given, now)
		}
	}
	return given
}

// Refresh asks Polar now, however fresh the last answer is. Otherwise it is like
// Entitlements: if Polar can't be reached, an older answer is served, as its CheckedAt
// shows. A purchase that was just made may not be in the answer yet: on the page that
// customers return to from the checkout, use Await.
func (c *Customers) Refresh(ctx context.Context, customer CustomerRef) (*Entitlements, error) {
	if ctx == nil {
		return nil, errNilContext
	}
	if err := customer.check(); err != nil {
		return nil, err
	}
	began := c.cache.now()
	value, err := c.renew(ctx, customer.key)
	if err == nil && c.cache.askedBefore(customer.key, began) { // that was an older question
		if newer, err := c.renew(ctx, customer.key); err == nil {
			value = newer
		}
	}
	err = c.callError(err)
	return c.overlaidAnyway(ctx, customer, (*Entitlements)(value), err), err
}

// secret is the id, if an error must not repeat it. An id of few letters, such as a row's
// number, tells nobody anything, and would be found in every second word.
func (r CustomerRef) secret() string {
	if len(r.key.id) < 6 {
		return ""
	}
	return r.key.id
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

// callError wraps an error that didn't come from Polar.
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
func (c *Customers) ask(ctx context.Context, key cacheKey) (*rights.State, error) {
	var value *rights.State
	var err error
	if key.kind == byLicenseKey {
		value, err = c.askLicense(ctx, key.id)
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
		c.noteMisconfigured(key.kind, err)
	case ok && e.unasked:
		c.overBudget.Do(func() {
			c.config.Logger.Warn("polargate: more requests to Polar are needed than RequestsPerMinute allows (logged once a minute)", "error", err)
		})
	default:
		c.config.Logger.Warn("polargate: Polar gave no answer about a customer", "error", err)
	}
	return value, err
}

// tokenRefused reports whether Polar rejects the access token. A request that it calls
// malformed (422) may be about one customer's strange id alone.
func tokenRefused(err error) bool {
	e, ok := errors.AsType[*Error](err)
	return ok && e.Reason == ErrMisconfigured && e.StatusCode != http.StatusUnprocessableEntity
}

// noteMisconfigured records for Stats that Polar rejects the token, or, with nil, that it
// doesn't, and logs it when it begins. Customers and keys need separate scopes.
func (c *Customers) noteMisconfigured(kind keyKind, err error) {
	m := &c.misconfigured
	m.Lock()
	defer m.Unlock()
	noted, of := &m.customers, "customers"
	if kind == byLicenseKey {
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
	case err == nil && len(c.config.Features) > 0 && !hasFeatures(c.config.Features, license.BenefitID):
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

// CustomersStats are counts since NewCustomers, for a program's metrics, and the
// state of the cache.
type CustomersStats struct {
	// Fresh, Stale and Grace are answers from memory, by age. Fetched are those that
	// waited for Polar. Unknown are those from memory about customers and keys that are
	// unknown or refused.
	Fresh, Stale, Grace, Fetched, Unknown int64
	// Requests were sent to Polar, not counting retries, and Failures are those of them
	// without an answer that counts. TurnedAway weren't sent, for lack of budget: most
	// are about customers and keys that had never been seen.
	Requests, Failures, TurnedAway int64
	// Events are webhook events that were applied. Outdated arrived after a younger one,
	// Repeated had been seen before, Refused had no valid signature, were unreadable or
	// belonged to another organization, and Ignored were of other types.
	Events, Outdated, Repeated, Refused, Ignored int64
	// Failed are events for which a function given to On failed, counted each time.
	Failed int64
	// Held are events that wait until the organization is known; see
	// CustomersConfig.OrganizationID.
	Held int
	// Unidentified, Unpaid and Undecided are requests that a Route refused: with 400 or
	// 401, with 402, and with 503. FailedOpen are those that passed because of
	// Route.FailOpen or Route.Fallback.
	Unidentified, Unpaid, Undecided, FailedOpen int64
	// Panics is how many panics were caught.
	Panics int64
	// Cached is how many customers, members and keys are in memory, and CachedUnknown how many
	// unknown ones.
	Cached, CachedUnknown int
	// Warm is the progress of Warm, and of sweeps; see CustomersConfig.SweepAfter.
	Warm WarmStats
	// Usage tells how the events of Reservation.Commit are doing.
	Usage UsageStats
	// Misconfigured is why Polar rejected the access token at its last answer, or that
	// the token lacks a scope; nil if neither.
	Misconfigured error
	// Shared is how CustomersConfig.Shared is doing.
	Shared SharedStats
	// Pause is how much longer Polar asked for no requests.
	Pause time.Duration
}

// SharedStats tell how a Shared is doing, as one replica sees it. They are zero without one.
type SharedStats struct {
	// Away is since when the store has been failing; the zero time if it is not.
	Away time.Time
	// Replicas is how many there were, this one included, when that was last known.
	Replicas int
	// Waiting is how many records wait for the store to be back, and Lost how many could
	// not be shared at all.
	Waiting int
	Lost    int64
	// Unreadable is what was in the store and could not be read: damaged, another
	// program's, or sealed with another secret.
	Unreadable int64
	// LastHint is when another replica, or this one, last told of a change.
	LastHint time.Time
}

// Stats returns the current counts.
func (c *Customers) Stats() CustomersStats {
	n, of := &c.cache.counts, &c.members.cache.counts
	s := CustomersStats{
		Fresh: n.hits.Load(), Stale: n.served[cacheStale].Load(), Grace: n.served[cacheGrace].Load(),
		Fetched: n.served[cacheMiss].Load(), Unknown: n.negative.Load(),
		Requests: n.upstream.Load() + of.upstream.Load(), Failures: n.failures.Load() + of.failures.Load(),
		TurnedAway: n.unseenTurnedAway.Load() + of.unseenTurnedAway.Load(),
		Events:     n.events.Load(), Outdated: n.eventsOld.Load(), Repeated: n.eventsTwice.Load(),
		Refused: n.eventsRefused.Load(), Ignored: n.eventsUnknown.Load(), Failed: n.eventsFailed.Load(),
		Unidentified: n.unidentified.Load(), Unpaid: n.unpaid.Load(), Undecided: n.undecided.Load(), FailedOpen: n.failedOpen.Load(),
		Panics: n.panics.Load(), Cached: c.cache.known.len() + c.members.cache.known.len(), CachedUnknown: c.cache.unknown.Len(),
	}
	c.organization.Lock()
	s.Held = len(c.organization.held)
	c.organization.Unlock()
	c.misconfigured.Lock()
	s.Misconfigured = cmp.Or(c.misconfigured.customers, c.misconfigured.keys, c.misconfigured.scope, c.misconfigured.lists, c.misconfigured.members, c.misconfigured.usage)
	c.misconfigured.Unlock()
	s.Warm = c.warmStats()
	s.Usage = c.usage.stats()
	if r := c.cache.replicas; r != nil {
		l := r.link.stats()
		s.Shared = SharedStats{Away: l.Away, Replicas: l.Replicas, Waiting: l.Waiting, Lost: l.Lost, Unreadable: l.Unreadable, LastHint: l.LastHint}
	}
	s.Pause = c.client.pace.PauseLeft()
	return s
}

// normalFeatures is a copy of a map of features with ids in their usual form, and the
// features of each sorted and without duplicates.
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

// shortestWait and longestWait bound the pause between two requests of Await.
const (
	shortestWait = time.Second
	longestWait  = 10 * time.Second
)

// Await waits until a customer has what is required, and then returns their Entitlements.
// Use it on the page that customers return to from the checkout: Polar grants what they
// bought in the background, seconds after the payment and sometimes minutes.
//
//	ctx, cancel := context.WithTimeout(r.Context(), 15*time.Second)
//	defer cancel()
//	have, err := customers.Await(ctx, customer, polargate.Feature("export"))
//
// If what is in memory meets the requirements, as in Decide, Await returns at once.
// Otherwise it asks Polar now, again after 1 second, and then with pauses that double up
// to 10 seconds, within the request budget. All callers who wait for the same customer
// share the requests. A webhook about the customer ends a pause at once. Without
// requirements, Await waits until Polar knows the customer.
//
// If ctx ends first, the error is a *MissingError that says what the customer still
// lacks, and the Entitlements are the last that Polar reported, or nil if there were
// none. Give ctx a deadline: without one, Await waits for as long as it takes. A
// requirement that no customer can ever meet, and an id that Polar can't be asked about, are
// an *InputError at once. ErrMisconfigured and ErrClosed are returned at once too.
func (c *Customers) Await(ctx context.Context, customer CustomerRef, requirements ...Requirement) (*Entitlements, error) {
	if ctx == nil {
		return nil, errNilContext
	}
	if err := customer.check(); err != nil {
		return nil, err
	}
	if err := All(requirements...).Validate(); err != nil {
		return nil, err
	}
	key := customer.key
	if key.kind == byMember {
		return c.awaitMember(ctx, customer, requirements)
	}
	news := make(chan struct{}, 1)
	defer c.cache.listen(key, news)()

	latest, sure := c.cache.latest(key)
	value := (*Entitlements)(latest)
	pause := shortestWait
	over := func(value *Entitlements) *Entitlements { return c.overlaid(ctx, customer, value) }
	var failed error // why the last question had no answer
	for due := true; ; {
		if have := over(value); have.permits(requirements) && (sure || over(nil).permits(requirements)) {
			return have, nil
		}
		wait := pause
		if due || !c.cache.askedSince(key, c.cache.now().After(-pause/4)) { // otherwise another caller just did
			var answer *rights.State
			answer, failed = c.cache.fetch(ctx, key, inAnyCase)
			switch e, _ := errors.AsType[*Error](failed); {
			case failed == nil:
				value = (*Entitlements)(answer)
			case ctx.Err() != nil:
			case e == nil || tokenRefused(failed) || c.cache.life.Err() != nil:
				return value, c.callError(failed)
			default:
				wait = max(wait, e.RetryAfter)
				if old, err := c.cache.staleOnError(key, failed); err == nil {
					if have := over((*Entitlements)(old)); have.permits(requirements) {
						return have, nil
					}
				}
			}
			if have := over(value); failed == nil && have.permits(requirements) {
				return have, nil
			}
		}
		pause = min(2*pause, longestWait)
		told := false
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-news:
			told, pause = true, shortestWait // more of the purchase may follow
		case <-c.cache.life.Done():
			timer.Stop()
			return value, c.callError(flight.ErrClosed)
		case <-ctx.Done():
			timer.Stop()
			have := over(value)
			return have, have.lacking(requirements, ctx.Err(), failed)
		}
		timer.Stop()
		if newer, known := c.cache.latest(key); newer != nil {
			value, sure = (*Entitlements)(newer), known
		}
		due = told && !sure // something changed, but it isn't known what
	}
}

// permits reports whether these are the entitlements of a customer who meets all
// requirements, and is known, or meets them by an overlay.
func (e *Entitlements) permits(requirements []Requirement) bool {
	_, unmet := e.Unmet(requirements...)
	return !unmet && (e.Known() || e.byOverlay(requirements))
}

// lacking is the error of a wait that has ended.
func (e *Entitlements) lacking(requirements []Requirement, ended, failed error) error {
	missing := &MissingError{Err: ended}
	missing.Required, _ = e.Unmet(requirements...)
	if failure, ok := errors.AsType[*Error](failed); ok {
		missing.Err = errors.Join(ended, failure)
	}
	return missing
}

// MissingError says what a customer still lacked when Await gave up waiting.
type MissingError struct {
	// Required is the first unmet requirement. It is the zero Requirement if there was
	// none and Polar didn't know the customer.
	Required Requirement
	// Err is why the wait ended: context.DeadlineExceeded or context.Canceled, joined
	// with an *Error if the last request to Polar failed.
	Err error
}

// Error tells a developer what is missing and what to do. For a person, see Message.
func (e *MissingError) Error() string {
	what := "Polar doesn't know the customer yet"
	if e.Required.kind != 0 {
		what = "the customer doesn't have " + e.Required.String() + " yet"
	}
	return "polargate: await: " + what + " (" + e.Err.Error() + "). Polar grants a purchase seconds to minutes after the payment: show a page that reloads, and check that the product has the benefit."
}

func (e *MissingError) message(l *Language) string { return l.text(phraseMissing) }

// Unwrap returns why the wait ended, for errors.Is and errors.As.
func (e *MissingError) Unwrap() error { return e.Err }
