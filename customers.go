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
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/polargate/polargate/internal/logs"
	"github.com/polargate/polargate/internal/memory"
	"github.com/polargate/polargate/internal/pace"
	"github.com/polargate/polargate/internal/replicas"
	"github.com/polargate/polargate/internal/rights"
	"github.com/polargate/polargate/internal/tally"
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
	// Features maps the ids of benefits to the features that each unlocks. AnyBenefit in the
	// place of an id stands for every benefit of the organization: its features are unlocked
	// for customers with any benefit at all, beside those of the benefit itself. For license
	// keys, Features is also the list of benefits whose keys are accepted; AnyBenefit, or an
	// empty map, accepts every key of the organization.
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
	// and of package rpcgate, for an audit log or traces: once for a request or a call, with
	// what is held for it, and again if Watch ends it or a later message of it is refused. It
	// is called after the decision and before the handler, with the context of the caller, so
	// it must be quick, and safe for use by many goroutines. A panic in it is caught and
	// logged. nil costs nothing. For figures alone, see Decisions.
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
	key memory.Key
}

// ExternalID names a customer by the id that your program gave to Polar. Ids are compared
// exactly, including case.
func ExternalID(id string) CustomerRef {
	return CustomerRef{memory.Key{Kind: memory.ByExternalID, ID: id}}
}

// CustomerID names a customer by Polar's id: a UUID of version 4.
func CustomerID(id string) CustomerRef {
	return CustomerRef{memory.Key{Kind: memory.ByPolarID, ID: normalUUID(id)}}
}

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
	return CustomerRef{memory.Key{Kind: memory.ByMember, ID: string('0'+rune(customer.key.Kind)) + customer.key.ID + "\x00" + externalMemberID}}
}

// member splits the name of a member into that of the buyer and the member's own external
// id. For a customer it is the customer and "".
func (r CustomerRef) member() (buyer memory.Key, member string) {
	if r.key.Kind != memory.ByMember || r.key.ID == "" {
		return r.key, ""
	}
	id, member, _ := strings.Cut(r.key.ID[1:], "\x00")
	return memory.Key{Kind: memory.Kind(r.key.ID[0] - '0'), ID: id}, member
}

// ExternalID is the id of your program by which the customer is named; "" for one that is
// named otherwise, also for a Member.
func (r CustomerRef) ExternalID() string {
	if r.key.Kind != memory.ByExternalID {
		return ""
	}
	return r.key.ID
}

// CustomerID is Polar's id by which the customer is named; "" for one that is named
// otherwise, also for a Member.
func (r CustomerRef) CustomerID() string {
	if r.key.Kind != memory.ByPolarID {
		return ""
	}
	return r.key.ID
}

// IsZero reports whether the reference names nobody.
func (r CustomerRef) IsZero() bool { return r.key.ID == "" }

// Format prints which kind of id it is, and Polar's own id. Your program's id may be an
// e-mail address, and package fmt would print it for an unexported field.
func (r CustomerRef) Format(f fmt.State, _ rune) {
	if r.key.Kind == memory.ByPolarID {
		fmt.Fprintf(f, "polargate.CustomerID(%s)", r.key.ID)
		return
	}
	if r.key.Kind == memory.ByMember {
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
	if r.key.Kind == memory.ByPolarID {
		return r.key.ID == id
	}
	return r.key.ID == external
}

// check refuses ids that Polar can't be asked about.
func (r CustomerRef) check() error {
	if r == (CustomerRef{}) {
		return &InputError{"customer", "is empty: make one with ExternalID or CustomerID"}
	}
	if r.key.Kind == memory.ByMember {
		buyer, member := r.member()
		switch {
		case buyer.Kind > memory.ByExternalID:
			return &InputError{"customer", "is a member of a member: name the buyer with ExternalID or CustomerID"}
		case len(member) > maxMemberID || strings.ContainsRune(member, 0) || !utf8.ValidString(member):
			return &InputError{"external member id", "is longer than 500 bytes, or isn't text"}
		}
		return (CustomerRef{buyer}).check()
	}
	if what, why := r.key.Problem(); why != "" {
		return &InputError{what, why}
	}
	return nil
}

const maxMemberID = 500

// Customers answers what customers may use, from a cache in front of Polar's customer
// state, and what license keys allow. All methods are safe for use by many goroutines. A
// program needs only one. NewCustomers makes it; the zero value can't be used.
type Customers struct {
	config CustomersConfig
	client *Client
	cache  *memory.Cache
	counts customersCounts
	tally  atomic.Pointer[tally.Tally] // of decisions; nil until somebody wants to know
	// replicas are nil unless they share what they know.
	replicas *replicas.Replicas

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

// customersCounts are read by Stats, beside those of the cache.
type customersCounts struct {
	panics                          atomic.Int64
	events, eventsOld, eventsTwice  atomic.Int64
	eventsRefused, eventsUnknown    atomic.Int64
	eventsFailed                    atomic.Int64
	unidentified, unpaid, undecided atomic.Int64
	failedOpen                      atomic.Int64
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
	if c.cache, err = newCache(config.CacheSize); err != nil {
		return nil, err
	}
	c.cache.FreshFor, c.cache.StaleFor, c.cache.GraceFor = config.FreshFor, config.StaleFor, config.GracePeriod
	c.cache.UnknownFor, c.cache.Timeout = config.UnknownFor, config.Timeout
	c.cache.Flights.Keep = config.Timeout // the answer is of use to whoever comes next
	c.cache.Ask, c.cache.Panicked = c.ask, c.logPanic
	if err := c.bindKeys(); err != nil {
		return nil, err
	}
	c.budget = client.pace.(*pace.Budget) // there is a token
	c.cache.Spare = c.budget.Spare
	customers, keys := c.budget.UnseenCustomers(), c.budget.UnseenKeys()
	c.cache.Unseen = [memory.Kinds]pace.Unseen{customers, customers, keys}
	c.warming.turn = make(chan struct{}, 1)
	if err := c.startMembers(); err != nil {
		return nil, err
	}
	if err := c.join(c.budget); err != nil {
		return nil, err
	}
	if err := c.openUsage(); err != nil {
		c.cache.Close()
		if r := c.replicas; r != nil {
			r.Link.Close()
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

func onceAMinute() rate.Sometimes { return rate.Sometimes{First: 1, Interval: time.Minute} }

// Format prints that it is Customers and nothing else, whatever the verb.
func (c *Customers) Format(f fmt.State, _ rune) {
	fmt.Fprintf(f, "polargate.Customers{App:%s}", c.config.App)
}

// LogValue logs what Format prints.
func (c *Customers) LogValue() slog.Value { return slog.StringValue(fmt.Sprint(c)) }

// Close ends background refreshes and waits for them, and sends usage events that wait, for
// at most CustomersConfig.Timeout, and for as long again if units have to be noted in a Shared
// that is away. What is cached is still served, also by Refresh and Reserve,
// but no event of a Commit is sent any more: close the server first. Everything else fails with
// ErrClosed, and Polar is asked to send its webhooks again. Close can be called again, and always
// returns nil.
func (c *Customers) Close() error {
	c.stopSweeps()
	c.cache.Close()
	c.usage.close(c.config.Timeout)
	c.members.close()
	if r := c.replicas; r != nil {
		r.Link.Close()
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

func (c *Customers) look(ctx context.Context, key memory.Key) (*Entitlements, error) {
	if ctx == nil {
		return nil, errNilContext
	}
	// The common case first: a cached customer's id has passed the checks.
	if value, ok := c.cache.Hit(key); ok {
		return (*Entitlements)(value), nil
	}
	if key.Kind == memory.ByMember {
		value, err := c.lookMember(ctx, key)
		return (*Entitlements)(value), err
	}
	if key.Kind != memory.ByLicenseKey {
		if err := (CustomerRef{key}).check(); err != nil {
			return nil, err
		}
	}
	value, err := c.cache.Lookup(ctx, key)
	return (*Entitlements)(value), c.callError(err)
}

// decideAgain reports whether a customer meets requirements, given a cached answer. A
// refusal isn't believed for as long as a grant, because Polar's state may be from before
// a purchase. The benefit of a license key never changes.
func (c *Customers) decideAgain(ctx context.Context, key memory.Key, value *Entitlements, requirements []Requirement) (*Entitlements, *Refusal) {
	have := c.overlaid(ctx, CustomerRef{key}, value)
	if _, unmet := have.Unmet(requirements...); unmet && value.Known() && value.license() == nil {
		if newer := (*Entitlements)(c.recheck(ctx, key, value.state())); newer != value {
			have = c.overlaid(ctx, CustomerRef{key}, newer)
		}
	}
	return c.decide(have, nil, requirements)
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
	began := c.cache.Now()
	value, err := c.renew(ctx, customer.key)
	if err == nil && c.cache.AskedBefore(customer.key, began) { // that was an older question
		if newer, err := c.renew(ctx, customer.key); err == nil {
			value = newer
		}
	}
	err = c.callError(err)
	return c.overlaidAnyway(ctx, customer, (*Entitlements)(value), err), err
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
	// Route.FailOpen or Route.Fallback. Calls that package rpcgate gates are counted alike, by
	// the Status of their Refusal.
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
	n, of := &c.cache.Counts, &c.members.cache.Counts
	s := CustomersStats{
		Fresh: n.Hits.Load(), Stale: n.Served[memory.Stale].Load(), Grace: n.Served[memory.Grace].Load(),
		Fetched: n.Served[memory.Miss].Load(), Unknown: n.Negative.Load(),
		Requests: n.Upstream.Load() + of.Upstream.Load(), Failures: n.Failures.Load() + of.Failures.Load(),
		TurnedAway: n.UnseenTurnedAway.Load() + of.UnseenTurnedAway.Load(),
		Events:     c.counts.events.Load(), Outdated: c.counts.eventsOld.Load(), Repeated: c.counts.eventsTwice.Load(),
		Refused: c.counts.eventsRefused.Load(), Ignored: c.counts.eventsUnknown.Load(), Failed: c.counts.eventsFailed.Load(),
		Unidentified: c.counts.unidentified.Load(), Unpaid: c.counts.unpaid.Load(), Undecided: c.counts.undecided.Load(), FailedOpen: c.counts.failedOpen.Load(),
		Panics: c.counts.panics.Load(), Cached: c.cache.Size() + c.members.cache.Size(), CachedUnknown: c.cache.UnknownSize(),
	}
	c.organization.Lock()
	s.Held = len(c.organization.held)
	c.organization.Unlock()
	c.misconfigured.Lock()
	s.Misconfigured = cmp.Or(c.misconfigured.customers, c.misconfigured.keys, c.misconfigured.scope, c.misconfigured.lists, c.misconfigured.members, c.misconfigured.usage)
	c.misconfigured.Unlock()
	s.Warm = c.warmStats()
	s.Usage = c.usage.stats()
	if r := c.replicas; r != nil {
		l := r.Link.Stats()
		s.Shared = SharedStats{Away: l.Away, Replicas: l.Replicas, Waiting: l.Waiting, Lost: l.Lost, Unreadable: l.Unreadable, LastHint: l.LastHint}
	}
	s.Pause = c.client.pace.PauseLeft()
	return s
}

// shortestWait and longestWait bound the pause between two requests of Await.
const (
	shortestWait = time.Second
	longestWait  = 10 * time.Second
)

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
			c.counts.panics.Add(1)
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
