package polartest

import (
	"cmp"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"math/big"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/polargate/polargate/polartest/internal/pydantic"
)

// Config is what a new [Polar] starts with. The zero value is a Polar with limits as in production,
// one organization and nothing in it.
type Config struct {
	// OrganizationID is the organization that keys and tokens belong to when they don't say. It must
	// be a UUID of version 4. Empty: a random one.
	OrganizationID string
	// Now is the clock, to which [Polar.Advance] adds. Nil: time.Now, which inside a testing/synctest
	// bubble is the bubble's.
	Now func() time.Time
	// Unlimited turns the rate limits off.
	Unlimited bool
	// Sandbox lowers the limit for requests with a token from 500 to 100 a minute.
	Sandbox bool
	// EventuallyConsistent makes the state of a customer lag behind, as Polar's cache can: after a
	// change the endpoints of state answer as before until the customer.state_changed of that change
	// goes out to an endpoint, or for an hour. False: they know of every change at once.
	EventuallyConsistent bool
	// MemberModel is that of the organization: see [Organization].
	MemberModel bool
	// Version is the version of the API in which requests are answered that name none: "2026-04",
	// "2026-10" or "2027-01", on a server that speaks all three, in the shapes of Polar's SDK 1.0.1.
	// Empty: the server that was recorded, whose version is 2026-04.
	Version string
	// OnBreach, if not nil, is called for each request that a good client never makes, with what was
	// wrong: a path or a method that does not exist, a redirect for a slash too many, a malformed
	// body (422), no Content-Length (411), too large a body (413), a Polar-Version header, a request
	// over the rate limit. It runs in the goroutine that serves the request, before the answer.
	OnBreach func(Request, string)
}

// Polar is one Polar with its own keys, tokens, clock and limits. Make it with [New]. It is a
// [net/http.Handler], and all its methods may be called from any goroutine.
type Polar struct {
	config Config
	url    string
	offset atomic.Int64 // what Advance added, in nanoseconds

	// mu guards all below. It is held for computing only, never while anything waits, so that a
	// goroutine in a synctest bubble never blocks on it for long.
	mu      sync.Mutex
	keys    []*LicenseKey // in the order in which they were added
	byID    map[string]*LicenseKey
	byKey   map[keyName]*LicenseKey
	tokens  map[string]Token
	limits  limiter
	faults  []*Fault
	offline bool
	records []*Request

	customers             []*account // in the order in which they were added
	customersByID         map[string]*account
	customersByExternalID map[customerName]*account // those that are not deleted
	customersByEmail      map[customerName]*account // the same, in lower case
	webhooks              webhooks

	quiet    bool // nothing that happens is sent, stamped or carried over to license keys
	catalog  catalog
	members  []*Member // in the order in which they were added
	seats    []*CustomerSeat
	sessions map[string]*Session // by token

	usage             []*Usage // in the order in which it was ingested
	usageByExternalID map[customerName]*Usage
	countedTo         int         // of usage, all before it are counted
	countTimer        *time.Timer // if not nil, some of it waits to be counted
}

// keyName is what a key is found by: the same string can exist in two organizations.
type keyName struct{ organizationID, key string }

// New makes a Polar. It panics if the organization's ID is not one that Polar could have.
func New(config Config) *Polar {
	if config.OrganizationID == "" {
		config.OrganizationID = newUUID()
	}
	config.OrganizationID = mustUUID4("Config.OrganizationID", config.OrganizationID)
	if config.Now == nil {
		config.Now = time.Now
	}
	p := &Polar{
		config: config,
		url:    "http://" + newUUID() + ".polar.test",
		byID:   make(map[string]*LicenseKey),
		byKey:  make(map[keyName]*LicenseKey),
		tokens: make(map[string]Token),

		customersByID:         make(map[string]*account),
		customersByExternalID: make(map[customerName]*account),
		customersByEmail:      make(map[customerName]*account),

		catalog:           catalog{organizations: make(map[string]*Organization)},
		sessions:          make(map[string]*Session),
		usageByExternalID: make(map[customerName]*Usage),
	}
	p.addOrganization(Organization{MemberModel: config.MemberModel})
	return p
}

// OrganizationID is the organization that this Polar started with.
func (p *Polar) OrganizationID() string { return p.config.OrganizationID }

// Now is this Polar's time, in UTC and without a monotonic part.
func (p *Polar) Now() time.Time {
	return p.config.Now().Add(time.Duration(p.offset.Load())).Round(0).UTC()
}

// now is the time as Polar's database keeps it.
func (p *Polar) now() time.Time { return p.Now().Truncate(time.Microsecond) }

// Advance moves this Polar's clock, and no other, by d; a negative d moves it back. Expiry, rate
// limits, VisibleFrom, what meters count, the repeats of webhooks and the Date header go with it. Waiting, as in [Delay]
// or for the answer to a webhook, does not.
func (p *Polar) Advance(d time.Duration) {
	p.offset.Add(int64(d))
	p.reschedule()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.scheduleCount()
}

// The three statuses of a license key.
const (
	granted  = "granted"
	revoked  = "revoked"
	disabled = "disabled"
)

var statuses = []string{granted, revoked, disabled}

// LicenseKey is a license key as Polar's database has it.
type LicenseKey struct {
	// ID, CustomerID, BenefitID: UUIDs of version 4. OrganizationID: see [Config].
	ID, Key, OrganizationID, CustomerID, BenefitID string
	// Status is "granted", "revoked" or "disabled".
	Status string
	// LimitActivations is how many activations the key may have; nil or 0: it supports none.
	// LimitUsage is how far Usage may go; nil: as far as it likes. [Limit] makes them.
	LimitActivations, LimitUsage *int64
	// Usage is what increment_usage adds to. Validations counts the validations that succeeded.
	Usage, Validations int64
	// Zero means null.
	LastValidatedAt, ExpiresAt, CreatedAt, ModifiedAt time.Time
	// Customer is who bought the key. It is the customer with the ID CustomerID, if the organization
	// has one by [Polar.AddCustomer], whatever stands here; otherwise what stands here, or, left zero
	// in AddKey, an example. ID and OrganizationID are the key's; what belongs to a customer, such as
	// subscriptions, is not told here.
	Customer Customer
	// Prefix is what a rotated key starts with. Empty: rotated keys are bare UUIDs.
	Prefix string
	// Deleted keys are unknown to every request.
	Deleted bool
	// VisibleFrom is when requests start to see the key: Polar grants a purchase some time after it
	// was paid. Zero: at once.
	VisibleFrom time.Time
	// Activations, oldest first, released ones included.
	Activations []Activation
}

// Activation is a seat of a license key.
type Activation struct {
	// ID is a UUID of version 4; empty: a random one. Label may be empty.
	ID, Label string
	// Conditions and Meta hold strings, booleans, int64, float64, and json.Number for integers
	// beyond 64 bits. AddKey and Update also take the other number types.
	Conditions, Meta map[string]any
	CreatedAt        time.Time
	// Released seats are unknown to requests and count for nothing.
	Released bool
}

// Limit makes a limit: polartest.Limit(3).
func Limit(n int64) *int64 { return new(n) }

// AddKey adds a license key and returns it with everything filled in that was empty: ID, Key
// (random, "POLAR-" and a UUID, or with the Prefix given), OrganizationID, BenefitID, CustomerID,
// Customer, Status (granted), the time of creation, and the same of activations. It panics if an
// identifier is not a UUID of version 4 or the organization has that key already.
func (p *Polar) AddKey(key LicenseKey) LicenseKey {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.addKey(key).clone()
}

func (p *Polar) addKey(key LicenseKey) *LicenseKey {
	k := key.clone()
	if k.ID == "" {
		k.ID = newUUID()
	}
	if k.Key == "" {
		k.Prefix = cmp.Or(k.Prefix, "POLAR")
		k.Key = randomKey(k.Prefix)
	}
	if k.BenefitID == "" {
		k.BenefitID = newUUID()
	}
	if k.CustomerID == "" {
		k.CustomerID = newUUID()
	}
	k.CustomerID = mustUUID4("LicenseKey.CustomerID", k.CustomerID)
	k.OrganizationID = cmp.Or(k.OrganizationID, p.config.OrganizationID)
	k.Status = cmp.Or(k.Status, granted)
	now := p.now()
	if k.CreatedAt.IsZero() {
		k.CreatedAt = now
	}
	if reflect.ValueOf(k.Customer).IsZero() {
		k.Customer = Customer{ExternalID: "usr_" + k.CustomerID[:8], Email: "customer@example.com", Name: "Example Customer"}
	}
	if k.Customer.CreatedAt.IsZero() {
		k.Customer.CreatedAt = k.CreatedAt
	}
	k.settle(now)

	p.tellBuyer(&k)
	if p.byID[k.ID] != nil || p.byKey[k.name()] != nil {
		panic("polartest: AddKey: the license key of id " + k.ID + " is there already, by id or by key")
	}
	p.keys = append(p.keys, &k)
	p.byID[k.ID] = &k
	p.byKey[k.name()] = &k
	return &k
}

func (k *LicenseKey) name() keyName { return keyName{k.OrganizationID, k.Key} }

// settle makes a key that a test wrote by hand one that Polar could have.
func (k *LicenseKey) settle(now time.Time) {
	k.ID = mustUUID4("LicenseKey.ID", k.ID)
	k.OrganizationID = mustUUID4("LicenseKey.OrganizationID", k.OrganizationID)
	k.BenefitID = mustUUID4("LicenseKey.BenefitID", k.BenefitID)
	k.CustomerID = mustUUID4("LicenseKey.CustomerID", k.CustomerID)
	if !slices.Contains(statuses, k.Status) {
		panic(fmt.Sprintf("polartest: status %q is not one of %s", k.Status, strings.Join(statuses, ", ")))
	}
	k.Customer = k.Customer.alone()
	k.Customer.ID, k.Customer.OrganizationID = k.CustomerID, k.OrganizationID
	k.Customer.Type = cmp.Or(k.Customer.Type, "individual")
	k.Customer.Metadata = settled(k.Customer.Metadata)
	for i := range k.Activations {
		a := &k.Activations[i]
		if a.ID == "" {
			a.ID = newUUID()
		}
		a.ID = mustUUID4("Activation.ID", a.ID)
		if a.CreatedAt.IsZero() {
			a.CreatedAt = now
		}
		a.Conditions, a.Meta = settled(a.Conditions), settled(a.Meta)
	}
}

// settled brings the values of a map down to the types that requests bring.
func settled(m map[string]any) map[string]any {
	out := make(map[string]any, len(m))
	for name, value := range m {
		scalar, ok := settledScalar(name, value)
		if !ok {
			panic(fmt.Sprintf("polartest: %q is a %T: conditions, meta and metadata hold strings, finite numbers and booleans", name, value))
		}
		out[name] = scalar
	}
	return out
}

func settledScalar(name string, value any) (scalar any, ok bool) {
	switch v := reflect.ValueOf(value); {
	case v.Kind() == reflect.Bool:
		return v.Bool(), true
	case v.CanInt():
		return v.Int(), true
	case v.CanUint() && v.Uint() <= math.MaxInt64:
		return int64(v.Uint()), true
	case v.CanUint():
		return json.Number(fmt.Sprint(v.Uint())), true
	case v.CanFloat() && !math.IsNaN(v.Float()) && !math.IsInf(v.Float(), 0):
		return v.Float(), true
	case v.IsValid() && v.Type() == reflect.TypeFor[json.Number]():
		n, err := pydantic.Read([]byte(v.String()))
		if err != nil {
			panic(fmt.Sprintf("polartest: %q: %s is not a number", name, v.String()))
		}
		if big, ok := n.(*big.Int); ok {
			n = json.Number(big.String())
		}
		return n, true
	case v.Kind() == reflect.String:
		return v.String(), true
	}
	return nil, false
}

func (k *LicenseKey) clone() LicenseKey {
	c := *k
	if c.LimitActivations != nil {
		c.LimitActivations = new(*c.LimitActivations)
	}
	if c.LimitUsage != nil {
		c.LimitUsage = new(*c.LimitUsage)
	}
	c.Customer.Metadata = maps.Clone(c.Customer.Metadata)
	c.Activations = slices.Clone(c.Activations)
	for i := range c.Activations {
		c.Activations[i].Conditions = maps.Clone(c.Activations[i].Conditions)
		c.Activations[i].Meta = maps.Clone(c.Activations[i].Meta)
	}
	return c
}

func randomKey(prefix string) string {
	key := strings.ToUpper(newUUID())
	if prefix != "" {
		key = prefix + "-" + key
	}
	return key
}

// find takes an id, or a key of the organization that this Polar started with, or of any other.
func (p *Polar) find(keyOrID string) *LicenseKey {
	if k := p.byID[strings.ToLower(keyOrID)]; k != nil {
		return k
	}
	if k := p.byKey[keyName{p.config.OrganizationID, keyOrID}]; k != nil {
		return k
	}
	for _, k := range p.keys {
		if k.Key == keyOrID {
			return k
		}
	}
	return nil
}

// LicenseKey gives a copy of the license key with that key string or that id.
func (p *Polar) LicenseKey(keyOrID string) (LicenseKey, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	k := p.find(keyOrID)
	if k == nil {
		return LicenseKey{}, false
	}
	return k.clone(), true
}

// Seats is how many live activations a key has; 0 for a key that is not there.
func (p *Polar) Seats(keyOrID string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	k := p.find(keyOrID)
	if k == nil {
		return 0
	}
	return k.seats()
}

func (k *LicenseKey) seats() int {
	n := 0
	for _, a := range k.Activations {
		if !a.Released {
			n++
		}
	}
	return n
}

// Update edits a license key as the dashboard could, and more: change gets a copy and its result
// takes effect in one step. It must not call the Polar. False: no such key.
func (p *Polar) Update(keyOrID string, change func(*LicenseKey)) bool {
	now := p.now()
	p.mu.Lock()
	defer p.mu.Unlock()
	k := p.find(keyOrID)
	if k == nil {
		return false
	}
	next := k.clone()
	change(&next)
	next.settle(now)
	p.tellBuyer(&next)
	if other := p.byKey[next.name()]; other != nil && other != k {
		panic("polartest: Update: another license key of the organization has that key")
	}
	if other := p.byID[next.ID]; other != nil && other != k {
		panic("polartest: Update: another license key has the id " + next.ID)
	}
	if next.ModifiedAt.Equal(k.ModifiedAt) && !reflect.DeepEqual(*k, next) {
		next.ModifiedAt = now
	}
	p.replace(k, next.clone())
	return true
}

// tellBuyer makes a key tell of its customer as the organization has it, if it does.
func (p *Polar) tellBuyer(k *LicenseKey) {
	if a := p.customersByID[k.CustomerID]; a != nil && a.OrganizationID == k.OrganizationID {
		k.Customer = a.alone()
		k.Customer.Metadata = maps.Clone(a.Metadata)
	}
}

// replace changes what k points to and keeps the key findable.
func (p *Polar) replace(k *LicenseKey, next LicenseKey) {
	delete(p.byID, k.ID)
	delete(p.byKey, k.name())
	*k = next
	p.byID[k.ID] = k
	p.byKey[k.name()] = k
}

// Revoke revokes a key, as the end of a subscription does. It panics if there is no such key.
func (p *Polar) Revoke(keyOrID string) {
	p.mustUpdate("Revoke", keyOrID, func(k *LicenseKey) { k.Status = revoked })
}

// Grant grants a key again: its activations work as before. It panics if there is no such key.
func (p *Polar) Grant(keyOrID string) {
	p.mustUpdate("Grant", keyOrID, func(k *LicenseKey) { k.Status = granted })
}

// Rotate gives a license key another key string and returns it. The old string is dead at once,
// activations stay. It panics if there is no such key, or if it is revoked: Polar refuses that.
func (p *Polar) Rotate(keyOrID string) (newKey string) {
	p.mustUpdate("Rotate", keyOrID, func(k *LicenseKey) {
		if k.Status == revoked {
			panic("polartest: Rotate: Polar does not rotate a revoked license key")
		}
		k.Key = randomKey(k.Prefix)
		newKey = k.Key
	})
	return newKey
}

func (p *Polar) mustUpdate(method, keyOrID string, change func(*LicenseKey)) {
	if !p.Update(keyOrID, change) {
		panic(fmt.Sprintf("polartest: %s: there is no license key with the key or id %q", method, keyOrID))
	}
}

// Token is an organization access token.
type Token struct {
	// Token is the secret. Empty: random, "polar_oat_" and letters.
	Token string
	// OrganizationID: see [Config].
	OrganizationID string
	// Scopes. Empty: all that the endpoints of this package ask for.
	Scopes []string
	// ExpiresAt is when the token stops to work. Zero: never.
	ExpiresAt time.Time
	// NoAPIAccess is a token of an organization without access to the API: refused like an unknown one.
	NoAPIAccess bool
}

// AddToken adds a token and returns its secret. Adding the same secret again replaces it.
func (p *Polar) AddToken(token Token) string {
	if token.Token == "" {
		token.Token = "polar_oat_" + rand.Text()
	}
	token.OrganizationID = mustUUID4("Token.OrganizationID", cmp.Or(token.OrganizationID, p.config.OrganizationID))
	token.Scopes = slices.Clone(token.Scopes)
	if len(token.Scopes) == 0 {
		token.Scopes = slices.Clone(allScopes)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.tokens[token.Token] = token
	return token.Token
}
