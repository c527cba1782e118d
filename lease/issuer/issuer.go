package issuer

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"github.com/polargate/polargate"
	"github.com/polargate/polargate/lease"
)

// Polar is what an Issuer asks. A polargate.Client with an access token is one.
type Polar interface {
	// Validate and the others are those of polargate.Client. LicenseKey gives a license
	// key by its id: a receipt does not have the key itself, and Polar wants it.
	Validate(ctx context.Context, r polargate.ValidateRequest) (*polargate.LicenseKey, error)
	Activate(ctx context.Context, r polargate.ActivateRequest) (*polargate.Activation, error)
	Deactivate(ctx context.Context, key polargate.Key, activationID string) error
	LicenseKey(ctx context.Context, id string) (*polargate.LicenseKey, error)
}

// Config configures an Issuer. Client and Key are required.
type Config struct {
	// Client asks Polar, with an access token that has the scopes license_keys:read and
	// license_keys:write.
	Client Polar
	// OrganizationID is the organization that leases are issued for, in lower case.
	// Empty means that of the polargate.Client.
	OrganizationID string
	// Key signs. Programs pin its public half; see package lease for how to change it.
	Key crypto.Signer
	// For is how long a lease lasts; programs renew at half of it. It is also how
	// long a license that Polar revoked can be used on a computer without a network,
	// together with Grace. 0 means 30 days; at least a minute.
	For time.Duration
	// Grace is how long a lease counts beyond For, for programs that cannot reach
	// this server. 0 means 7 days; negative means none.
	Grace time.Duration
	// Features maps the benefits that leases are issued for to the features that a
	// lease names, as in polargate.Config. Empty accepts every benefit and names none.
	Features map[string][]string
	// Trial answers requests without a license key with a trial, once for each computer. The
	// zero value answers none.
	Trial Trial
	// Pools makes benefits floating, by their ids.
	Pools map[string]Pool
	// Recheck is how long a floating lease is renewed without asking Polar again. 0
	// means 5 minutes.
	Recheck time.Duration
	// Store keeps what was issued: a polargate.FileStore, or one of your own. Several
	// servers can share one that can be locked. If neither Store nor Shared is set, it
	// is kept in memory: after a restart, computers find their activations again, but a
	// pool knows its holders only once they ask again, so up to twice as many
	// computers can use it until the earlier leases have ended. Whoever can write to it
	// can hand out places of pools.
	Store polargate.Store
	// Shared is another place for the same, for servers that share a polargate.Shared
	// already. A license key can have about 400 computers there. Set Store or Shared,
	// not both.
	Shared polargate.Shared
	// Claims may change what is about to be signed, for instance the newest version
	// covered, or refuse it by an error. It can make the lease shorter and not longer,
	// and cannot change whose it is. nil changes nothing.
	Claims func(ctx context.Context, about About, claims *lease.Claims) error
	// PerAddress is how many requests a minute the Handler takes from one address;
	// 0 means 1,200, since a school has one address and a thousand computers.
	PerAddress int
	// Address tells the address of who asks, for servers behind a proxy. nil means
	// the connection's.
	Address func(*http.Request) string
	// Logger gets an event for each lease that was issued, renewed, refused and
	// ended, never with a license key. nil means none.
	Logger *slog.Logger

	clock func() time.Time // for tests; nil means time.Now
}

// Format prints that it is a configuration, and its organization, whatever the verb: the
// signing key is in it. Package fmt doesn't call it for an unexported field: a struct with a
// configuration in such a field needs a Format of its own if it is printed.
func (c Config) Format(f fmt.State, _ rune) {
	fmt.Fprintf(f, "issuer.Config{OrganizationID:%q}", c.OrganizationID)
}

// LogValue logs what Format prints.
func (c Config) LogValue() slog.Value { return slog.StringValue(fmt.Sprint(c)) }

// About is what a lease is issued for.
type About struct {
	// LicenseKeyID, BenefitID, CustomerID and ExpiresAt are the license key's, as
	// Polar last gave them; ExpiresAt is zero if it never does.
	LicenseKeyID, BenefitID, CustomerID string
	ExpiresAt                           time.Time
	// App and Version are those of the program that asks, by its own word.
	App, Version string
}

const (
	defaultFor     = 30 * 24 * time.Hour
	defaultGrace   = 7 * 24 * time.Hour
	defaultRecheck = 5 * time.Minute
)

// An Issuer signs leases. New makes one. It is safe for use by many goroutines.
type Issuer struct {
	config    Config
	book      book
	computers keyedLocks   // by fingerprint
	rechecks  keyedLocks   // by the id of a license key
	vain      atomic.Int64 // when Polar last gave no answer to a recheck, in nanoseconds since 1970
	limits    limits
	newcomers *rate.Limiter
	trials    *rate.Limiter
}

// Format prints that it is an Issuer, and its organization, whatever the verb: the signing
// key is in it.
func (s *Issuer) Format(f fmt.State, _ rune) {
	fmt.Fprintf(f, "issuer.Issuer{OrganizationID:%q}", s.config.OrganizationID)
}

// LogValue logs what Format prints.
func (s *Issuer) LogValue() slog.Value { return slog.StringValue(fmt.Sprint(s)) }

// newcomersPerMinute is how many license keys that were never seen are asked about. Each
// takes three requests to Polar, which takes 300 a minute: keys that somebody makes up
// must not starve computers whose leases are due.
const newcomersPerMinute = 100

// New makes an Issuer. A configuration that cannot work is a *polargate.InputError.
func New(config Config) (*Issuer, error) {
	bad := func(field, problem string) (*Issuer, error) {
		return nil, &polargate.InputError{Field: field, Problem: problem}
	}
	switch {
	case config.Client == nil:
		return bad("Client", "is missing: give a polargate.Client with an access token")
	case config.OrganizationID == "" && organizationOf(config.Client) == "":
		return bad("OrganizationID", "is missing: copy it from the organization's settings in Polar")
	case config.Key == nil:
		return bad("Key", "is missing: make one with polargate-keygen")
	case config.For < 0 || config.For > 0 && config.For < time.Minute:
		return bad("For", "is less than a minute: give how long a lease lasts, or 0 for 30 days")
	case config.Recheck < 0:
		return bad("Recheck", "is negative: give a duration, or 0 for 5 minutes")
	case config.Trial.Days < 0 || config.Trial.Days > maxTrial:
		return bad("Trial", "must last between 1 and 3653 days, or 0 for no trials")
	case config.PerAddress < 0:
		return bad("PerAddress", "is negative: give requests a minute, or 0 for 1,200")
	case config.Store != nil && config.Shared != nil:
		return bad("Shared", "is set together with Store: choose one of them")
	}
	if config.OrganizationID == "" {
		config.OrganizationID = organizationOf(config.Client)
	}
	for _, pool := range config.Pools {
		if problem := pool.problem(); problem != "" {
			return bad("Pools", "has a pool that "+problem)
		}
	}
	config.Pools, config.Features = lowered(config.Pools), lowered(config.Features)
	if config.For == 0 {
		config.For = defaultFor
	}
	switch {
	case config.Grace == 0:
		config.Grace = defaultGrace
	case config.Grace < 0:
		config.Grace = 0
	}
	if config.Recheck == 0 {
		config.Recheck = defaultRecheck
	}
	if config.PerAddress == 0 {
		config.PerAddress = 1200
	}
	if config.Logger == nil {
		config.Logger = slog.New(slog.DiscardHandler)
	}
	if config.clock == nil {
		config.clock = time.Now
	}
	s := &Issuer{config: config, newcomers: rate.NewLimiter(newcomersPerMinute/60.0, newcomersPerMinute), trials: rate.NewLimiter(trialsPerMinute/60.0, trialsPerMinute)}
	switch {
	case config.Shared != nil:
		s.book = &sharedBook{shared: config.Shared}
	case config.Store != nil:
		s.book = &storeBook{store: config.Store}
	default:
		s.book = &storeBook{store: &polargate.MemoryStore{}}
	}
	// What could not be signed is found out at the start.
	if _, err := lease.Sign(config.Key, lease.Claims{ID: "try", OrganizationID: config.OrganizationID, Fingerprint: "try", Trial: true, Issued: config.clock()}); err != nil {
		if errors.Is(err, lease.ErrMalformed) {
			return bad("OrganizationID", "is none: copy it from the organization's settings in Polar")
		}
		return bad("Key", "does not sign: make one with polargate-keygen")
	}
	return s, nil
}

// organizationOf is the organization that a client was made for; "" if it doesn't say.
func organizationOf(client Polar) string {
	if c, ok := client.(interface{ OrganizationID() string }); ok {
		return c.OrganizationID()
	}
	return ""
}

// Reason tells why no lease was issued, or a receipt was not taken. Beside these,
// Polar's own refusals come with their polargate.Reason.
type Reason string

// Why an Issuer refuses.
const (
	// ErrBadRequest: the request cannot be read, or has no license key.
	ErrBadRequest Reason = "bad_request"
	// ErrWrongOrganization: it is for another vendor's server.
	ErrWrongOrganization Reason = "wrong_organization"
	// ErrPoolFull: every place of the pool is taken. Error.RetryAfter tells when the
	// next is free at the latest.
	ErrPoolFull Reason = "pool_full"
	// ErrRequestUsed: the activation for this request was given back. A new request
	// is needed.
	ErrRequestUsed Reason = "request_used"
	// ErrClockAhead: the program has seen a lease that this server's clock has not
	// come to yet.
	ErrClockAhead Reason = "clock_ahead"
	// ErrTrialEnded: this computer had its trial.
	ErrTrialEnded Reason = "trial_ended"
	// ErrNotProven: the receipt does not show the secret that was promised, or its
	// lease is not known here.
	ErrNotProven Reason = "not_proven"
	// ErrRefused: Config.Claims refused.
	ErrRefused Reason = "refused"
	// ErrUnavailable: Polar or the Store cannot be reached. Nothing is refused.
	ErrUnavailable Reason = "unavailable"
)

// Error is the reason as a sentence.
func (r Reason) Error() string {
	for _, w := range words {
		if w.reason == r {
			return "issuer: " + w.what
		}
	}
	return "issuer: " + string(r)
}

var words = []struct {
	reason Reason
	status int
	what   string
}{
	{ErrBadRequest, http.StatusBadRequest, "this is no request that can be answered. Make a new one"},
	{ErrWrongOrganization, http.StatusBadRequest, "this request is for another vendor"},
	{ErrPoolFull, http.StatusConflict, "this license is in use on as many computers as it allows. Close the program on one of them, or try again later"},
	{ErrRequestUsed, http.StatusConflict, "this computer was deactivated. Make a new request on it"},
	{ErrClockAhead, http.StatusConflict, "the computer has a license from the future. Try again later"},
	{ErrTrialEnded, http.StatusForbidden, "the trial of this computer has ended. Buy a license to keep using the program"},
	{ErrNotProven, http.StatusForbidden, "this receipt does not belong to a license that was issued here"},
	{ErrRefused, http.StatusForbidden, "the license does not allow this"},
	{ErrUnavailable, http.StatusServiceUnavailable, "the license server cannot be reached right now. Try again later"},
}

// Error is a lease that was not issued or not ended. It never carries a license key.
type Error struct {
	// Reason is what errors.Is matches, beside the cause. Empty when Polar refused:
	// then Err is a *polargate.Error with its reason.
	Reason Reason
	// RetryAfter is how long to wait before asking again; 0 when not known.
	RetryAfter time.Duration
	// Err is the cause; may be nil.
	Err error
}

// Error says what is the matter and what to do.
func (e *Error) Error() string {
	switch {
	case e.Reason == "":
		return "issuer: refused by Polar: " + e.Err.Error()
	case e.Err != nil:
		return e.Reason.Error() + ": " + e.Err.Error()
	}
	return e.Reason.Error()
}

// Unwrap gives the reason and the cause.
func (e *Error) Unwrap() []error {
	var all []error
	if e.Reason != "" {
		all = append(all, e.Reason)
	}
	if e.Err != nil {
		all = append(all, e.Err)
	}
	return all
}

// Issue answers a request with a lease: the first for a computer, or its next. The
// error is an *Error.
func (s *Issuer) Issue(ctx context.Context, q lease.Request) (string, error) {
	text, about, err := s.issue(ctx, q)
	log := s.config.Logger.With("lease_request", q.ID, "license_key_id", about.LicenseKeyID, "fingerprint", q.Fingerprint)
	if err != nil {
		log.WarnContext(ctx, "lease refused", "reason", reasonOf(err), "err", err)
		return "", err
	}
	return text, nil
}

func (s *Issuer) issue(ctx context.Context, q lease.Request) (text string, about About, err error) {
	about = About{App: q.App, Version: q.Version}
	if q.OrganizationID != s.config.OrganizationID {
		return "", about, &Error{Reason: ErrWrongOrganization}
	}
	if q.Key.IsZero() && s.config.Trial.Days > 0 {
		text, err = s.trial(ctx, q, about)
		return text, about, err
	}
	key, err := polargate.ParseKey(q.Key.Reveal())
	if err != nil {
		return "", about, &Error{Reason: ErrBadRequest, Err: err}
	}
	ctx, cancel := context.WithTimeout(ctx, issueTime)
	defer cancel()
	// One at a time for a computer, so that two requests use one activation.
	unlock, err := s.computers.lock(ctx, q.Fingerprint)
	if err != nil {
		return "", about, unavailable(err)
	}
	defer unlock()

	a, err := s.account(ctx, key)
	if err != nil {
		return "", about, err
	}
	about.LicenseKeyID, about.BenefitID = a.LicenseKeyID, a.BenefitID
	switch {
	case len(s.config.Features) > 0 && s.config.Features[a.BenefitID] == nil:
		return "", about, wrongBenefit()
	case a.used(q):
		return "", about, &Error{Reason: ErrRequestUsed}
	}
	if held := a.find(q.Fingerprint); held != nil && held.RequestID == q.ID && s.config.clock().Before(held.Expires) {
		return s.sign(ctx, a, q, about) // asked again: the answer may have been lost
	}
	asked := HeldLease{
		LeaseID: rand.Text(), RequestID: q.ID, Fingerprint: q.Fingerprint, Label: q.Label, ReceiptHash: q.ReceiptHash,
	}
	if !q.Newest.IsZero() {
		asked.Issued = q.Newest.Add(time.Second)
	}
	if asked.Issued.Sub(s.config.clock()) > lease.Skew {
		return "", about, &Error{Reason: ErrClockAhead}
	}
	pool, floating := s.config.Pools[a.BenefitID]
	if floating {
		asked.Pool = a.BenefitID
		a, err = s.float(ctx, key, a, pool, asked, q.Borrow)
	} else {
		a, err = s.seat(ctx, key, a, asked, q)
	}
	if err != nil {
		return "", about, err
	}
	return s.sign(ctx, a, q, about)
}

// issueTime bounds an answer: Polar and the Store may hang.
const issueTime = time.Minute

// account finds what is known of the license that a key is of. Keys are rotated,
// licenses stay.
func (s *Issuer) account(ctx context.Context, key polargate.Key) (account, error) {
	name := keyName(key)
	known, err := s.book.read(ctx, name)
	if err != nil {
		return account{}, unavailable(err)
	}
	if len(known) > 0 {
		if a, err := s.load(ctx, string(known)); err != nil || a.BenefitID != "" {
			return a, err
		}
	}
	turn := s.newcomers.Reserve()
	if wait := turn.Delay(); wait > 0 {
		turn.Cancel()
		return account{}, &Error{Reason: ErrUnavailable, RetryAfter: max(wait, time.Second), Err: errors.New("too many license keys that were never seen before")}
	}
	license, err := s.config.Client.Validate(ctx, polargate.ValidateRequest{Key: key})
	if err != nil {
		return account{}, refusal(err)
	}
	a, err := s.update(ctx, license.ID, func(a *account, _ time.Time) error { s.granted(a, license); return nil })
	if err != nil {
		return account{}, err
	}
	if err := s.book.change(ctx, name, func([]byte) ([]byte, error) { return []byte(license.ID), nil }); err != nil {
		return account{}, unavailable(err)
	}
	return a, nil
}

// keyName is the name under which the id of a license key is kept. It doesn't tell the key.
func keyName(key polargate.Key) string {
	sum := sha256.Sum256([]byte("polargate issuer key\x00" + key.Reveal()))
	return "key-" + hex.EncodeToString(sum[:16])
}

// granted notes what Polar said of a license key.
func (s *Issuer) granted(a *account, license *polargate.LicenseKey) {
	a.BenefitID, a.CustomerID, a.ExpiresAt = license.BenefitID, license.CustomerID, license.ExpiresAt
	a.Granted = s.config.clock().UTC().Round(0)
}

// float gives a computer a place of a pool.
func (s *Issuer) float(ctx context.Context, key polargate.Key, a account, pool Pool, asked HeldLease, borrow time.Duration) (account, error) {
	a, err := s.recheck(ctx, key, a)
	if err != nil {
		return a, err
	}
	return s.update(ctx, a.LicenseKeyID, func(a *account, now time.Time) error {
		if expired(a, now) {
			return &Error{Err: &polargate.Error{Op: "lease", Reason: polargate.ErrExpired}}
		}
		if free, err := a.place(now, pool, asked, borrow); err != nil {
			return &Error{Reason: ErrPoolFull, RetryAfter: free.Sub(now)}
		}
		return nil
	})
}

const (
	// recheckTime bounds a question to Polar that a heartbeat waits for, and vainPause is how
	// long none is asked after one without an answer: programs don't wait for long, and lose
	// their places if a heartbeat takes too long.
	recheckTime = 3 * time.Second
	vainPause   = 10 * time.Second
)

// recheck asks Polar about a license key of a pool if that is due, once for all who wait for
// it. Otherwise Polar's last answer counts, and for Grace also if Polar can't be reached.
func (s *Issuer) recheck(ctx context.Context, key polargate.Key, a account) (account, error) {
	if due, _ := s.recheckDue(a); !due {
		return a, nil
	}
	unlock, err := s.rechecks.lock(ctx, a.LicenseKeyID)
	if err != nil {
		return a, unavailable(err)
	}
	defer unlock()
	if a, err = s.load(ctx, a.LicenseKeyID); err != nil {
		return a, err
	}
	due, grace := s.recheckDue(a)
	if !due {
		return a, nil // somebody else has asked
	}
	asking := ctx
	if grace {
		var cancel context.CancelFunc
		asking, cancel = context.WithTimeout(ctx, recheckTime)
		defer cancel()
	}
	license, err := s.config.Client.Validate(asking, polargate.ValidateRequest{Key: key})
	switch {
	case denied(err):
		if _, err := s.update(ctx, a.LicenseKeyID, func(a *account, _ time.Time) error { a.Granted = time.Time{}; return nil }); err != nil {
			return a, err
		}
		return a, refusal(err)
	case err != nil && grace:
		s.vain.Store(time.Now().UnixNano())
		return a, nil
	case err != nil:
		return a, refusal(err)
	}
	return s.update(ctx, a.LicenseKeyID, func(a *account, _ time.Time) error { s.granted(a, license); return nil })
}

// recheckDue reports whether Polar is to be asked about a key of a pool, and whether its last
// answer counts if it doesn't say.
func (s *Issuer) recheckDue(a account) (due, grace bool) {
	since := s.config.clock().Sub(a.Granted)
	if a.Granted.IsZero() || since < 0 {
		return true, false
	}
	grace = since < s.config.Recheck+s.config.Grace
	inVain := time.Since(time.Unix(0, s.vain.Load())) < vainPause
	return since >= s.config.Recheck && !(grace && inVain), grace
}

// expired reports whether no lease could begin before the license key ends.
func expired(a *account, now time.Time) bool {
	return !a.ExpiresAt.IsZero() && a.ExpiresAt.Unix() <= now.Unix()+1
}

func wrongBenefit() error {
	return &Error{Err: &polargate.Error{Op: "lease", Reason: polargate.ErrWrongBenefit}}
}

// seat gives a computer a lease for its activation at Polar, and activates it if it has
// none.
func (s *Issuer) seat(ctx context.Context, key polargate.Key, a account, asked HeldLease, q lease.Request) (account, error) {
	var known string
	if held := a.find(q.Fingerprint); held != nil {
		known = held.ActivationID
	}
	license, err := s.validate(ctx, key, known, q)
	fresh := false
	switch {
	case known != "" && errors.Is(err, polargate.ErrSeatReleased), known == "":
		license, asked.ActivationID, fresh, err = s.activate(ctx, key, a.LicenseKeyID, q)
		if known != "" && errors.Is(err, polargate.ErrSeatReleased) {
			if _, err := s.update(ctx, a.LicenseKeyID, func(a *account, _ time.Time) error { a.release(q.Fingerprint, false); return nil }); err != nil {
				return a, err
			}
		}
		if err != nil {
			return a, refusal(err)
		}
	case err != nil:
		return a, refusal(err)
	default:
		asked.ActivationID = known
	}
	if len(s.config.Features) > 0 && license != nil && s.config.Features[license.BenefitID] == nil {
		if fresh {
			s.giveBack(ctx, key, asked.ActivationID)
		}
		return a, wrongBenefit()
	}
	spare := ""
	noted, err := s.update(ctx, a.LicenseKeyID, func(a *account, now time.Time) error {
		if license != nil {
			s.granted(a, license)
		}
		if expired(a, now) {
			return &Error{Err: &polargate.Error{Op: "lease", Reason: polargate.ErrExpired}}
		}
		asked := asked
		if other := a.find(q.Fingerprint); other != nil && other.ActivationID != known && other.ActivationID != asked.ActivationID {
			// Another server has activated this computer meanwhile.
			spare, asked.ActivationID = asked.ActivationID, other.ActivationID
		}
		asked.Expires = now.Add(s.config.For)
		asked.Ends = asked.Expires.Add(s.config.Grace)
		if !a.ExpiresAt.IsZero() {
			asked.Expires, asked.Ends = earlier(asked.Expires, a.ExpiresAt), earlier(asked.Ends, a.ExpiresAt)
		}
		a.hold(now, asked)
		return nil
	})
	switch {
	case err != nil && fresh:
		s.giveBack(ctx, key, asked.ActivationID)
	case err == nil && fresh && spare != "":
		s.giveBack(ctx, key, spare)
	}
	return noted, err
}

// validate asks Polar about the activation of a computer; nothing without one.
func (s *Issuer) validate(ctx context.Context, key polargate.Key, activationID string, q lease.Request) (*polargate.LicenseKey, error) {
	if activationID == "" {
		return nil, nil
	}
	return s.config.Client.Validate(ctx, polargate.ValidateRequest{Key: key, ActivationID: activationID, Conditions: conditionsOf(q)})
}

// conditionsOf are those that a polargate.Gate activates with, too.
func conditionsOf(q lease.Request) map[string]any {
	return map[string]any{"fingerprint": q.Fingerprint}
}

// activate gives a computer an activation. One that it has already is used: from before the
// program got its license from here, from a request whose answer was lost, or from another
// server. fresh tells that it is a new one.
func (s *Issuer) activate(ctx context.Context, key polargate.Key, licenseKeyID string, q lease.Request) (license *polargate.LicenseKey, id string, fresh bool, err error) {
	license, id, err = s.existing(ctx, key, licenseKeyID, q)
	if err != nil || id != "" {
		return license, id, false, err
	}
	if q.LeaseID != "" {
		// The computer was deactivated. Only a person may activate it again, and a
		// program that renews its lease is none.
		return nil, "", false, &polargate.Error{Op: "lease", Reason: polargate.ErrSeatReleased}
	}
	activation, err := s.config.Client.Activate(ctx, polargate.ActivateRequest{
		Key: key, Label: labelOf(q), Conditions: conditionsOf(q),
		Meta: map[string]any{"fingerprint": q.Fingerprint, "request": q.ID, "issuer": "polargate lease"},
	})
	if err == nil {
		return activation.LicenseKey, activation.ID, true, nil
	}
	if activation != nil { // given and refused in one answer
		s.giveBack(ctx, key, activation.ID)
		return nil, "", false, err
	}
	if errors.Is(err, polargate.ErrActivationLimit) || errors.Is(err, polargate.ErrInDoubt) {
		if license, id, again := s.existing(ctx, key, licenseKeyID, q); again == nil && id != "" {
			return license, id, false, nil
		}
	}
	return nil, "", false, err
}

// maxExisting is how many activations of one computer are tried.
const maxExisting = 3

// existing looks at Polar for an activation of the computer.
func (s *Issuer) existing(ctx context.Context, key polargate.Key, licenseKeyID string, q lease.Request) (*polargate.LicenseKey, string, error) {
	sold, err := s.config.Client.LicenseKey(ctx, licenseKeyID)
	if err != nil {
		return nil, "", err
	}
	tried := 0
	for _, activation := range sold.Activations {
		if activation.Meta["fingerprint"] != q.Fingerprint || tried == maxExisting {
			continue
		}
		tried++
		license, err := s.validate(ctx, key, activation.ID, q)
		switch {
		case err == nil:
			return license, activation.ID, nil
		case errors.Is(err, polargate.ErrSeatReleased), errors.Is(err, polargate.ErrConditionsMismatch):
		default:
			return nil, "", err
		}
	}
	return nil, "", nil
}

// giveBack frees an activation that nothing came of.
func (s *Issuer) giveBack(ctx context.Context, key polargate.Key, activationID string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	if err := s.config.Client.Deactivate(ctx, key, activationID); err != nil {
		s.config.Logger.ErrorContext(ctx, "an activation that nothing came of could not be given back", "activation_id", activationID, "err", err)
	}
}

func labelOf(q lease.Request) string {
	if q.Label != "" {
		return q.Label
	}
	return q.App
}

// sign makes the lease that the account has of a computer.
func (s *Issuer) sign(ctx context.Context, a account, q lease.Request, about About) (string, About, error) {
	id, held := a.LicenseKeyID, a.find(q.Fingerprint)
	about.LicenseKeyID, about.BenefitID, about.CustomerID, about.ExpiresAt = id, a.BenefitID, a.CustomerID, a.ExpiresAt
	claims := lease.Claims{
		ID: held.LeaseID, OrganizationID: s.config.OrganizationID, BenefitID: a.BenefitID, LicenseKeyID: id,
		ActivationID: held.ActivationID, Fingerprint: held.Fingerprint, Features: s.config.Features[a.BenefitID],
		Issued: held.Issued, Expires: held.Expires, Grace: held.Ends.Sub(held.Expires),
	}
	if held.Pool != "" {
		claims.Pool, claims.Holder = held.Pool, held.Label
	}
	if s.config.Claims != nil {
		if err := s.config.Claims(ctx, about, &claims); err != nil {
			return "", about, &Error{Reason: ErrRefused, Err: err}
		}
		// Whose it is, and how long its place is kept, is not for others to change.
		claims.ID, claims.OrganizationID, claims.LicenseKeyID, claims.ActivationID = held.LeaseID, s.config.OrganizationID, id, held.ActivationID
		claims.Fingerprint, claims.Issued, claims.Pool = held.Fingerprint, held.Issued, held.Pool
		if claims.Expires.IsZero() || claims.Ends().After(held.Ends) {
			claims.Expires, claims.Grace = held.Expires, held.Ends.Sub(held.Expires)
		}
	}
	text, err := lease.Sign(s.config.Key, claims)
	if err != nil {
		return "", about, unavailable(err)
	}
	what := "lease issued"
	if q.LeaseID != "" {
		what = "lease renewed"
	}
	s.config.Logger.InfoContext(ctx, what, "lease_request", q.ID, "lease_id", held.LeaseID, "license_key_id", id, "benefit_id", a.BenefitID,
		"activation_id", held.ActivationID, "fingerprint", held.Fingerprint, "pool", held.Pool, "borrowed", held.Borrowed,
		"issued", held.Issued, "expires", held.Expires)
	return text, about, nil
}

// Release ends a lease by the receipt of a computer that was deactivated. Doing it
// again is harmless. The error is an *Error.
func (s *Issuer) Release(ctx context.Context, d lease.Receipt) error {
	if d.OrganizationID != s.config.OrganizationID {
		return &Error{Reason: ErrWrongOrganization}
	}
	if d.LicenseKeyID == "" {
		return &Error{Reason: ErrNotProven}
	}
	a, err := s.load(ctx, d.LicenseKeyID)
	if err != nil {
		return err
	}
	for _, e := range a.Ended {
		if e.Fingerprint == d.Fingerprint && d.Proves(e.ReceiptHash) {
			return nil
		}
	}
	held := a.find(d.Fingerprint)
	if held == nil || !d.Proves(held.ReceiptHash) {
		s.config.Logger.WarnContext(ctx, "receipt refused", "receipt", d.ID, "license_key_id", d.LicenseKeyID, "fingerprint", d.Fingerprint)
		return &Error{Reason: ErrNotProven}
	}
	return s.end(ctx, d.LicenseKeyID, d.Fingerprint, true)
}

// Leases gives what was issued for a license key and not given back, floating ones
// only while they last.
func (s *Issuer) Leases(ctx context.Context, licenseKeyID string) ([]HeldLease, error) {
	a, err := s.load(ctx, licenseKeyID)
	if err != nil {
		return nil, err
	}
	a.sweep(a.now(s.config.clock()))
	return a.Held, nil
}

// End takes the place of a computer back: its activation at Polar, or its place in a
// pool. The lease that is out there counts until it ends. Ending what is not held is
// harmless. The error is an *Error.
func (s *Issuer) End(ctx context.Context, licenseKeyID, fingerprint string) error {
	return s.end(ctx, licenseKeyID, fingerprint, false)
}

// end is End. shown: a receipt has proven that the computer gave its lease back.
func (s *Issuer) end(ctx context.Context, licenseKeyID, fingerprint string, shown bool) error {
	ctx, cancel := context.WithTimeout(ctx, issueTime)
	defer cancel()
	unlock, err := s.computers.lock(ctx, fingerprint)
	if err != nil {
		return unavailable(err)
	}
	defer unlock()
	a, err := s.load(ctx, licenseKeyID)
	if err != nil {
		return err
	}
	held := a.find(fingerprint)
	if held == nil {
		return nil
	}
	if held.ActivationID != "" {
		license, err := s.config.Client.LicenseKey(ctx, licenseKeyID)
		if err == nil {
			err = s.config.Client.Deactivate(ctx, license.Key, held.ActivationID)
		}
		// What Polar does not know any more is given back already.
		if err != nil && !errors.Is(err, polargate.ErrUnknownKey) && !errors.Is(err, polargate.ErrSeatReleased) {
			return refusal(err)
		}
	}
	if _, err := s.update(ctx, licenseKeyID, func(a *account, _ time.Time) error { a.release(fingerprint, shown); return nil }); err != nil {
		return err
	}
	s.config.Logger.InfoContext(ctx, "lease ended", "lease_id", held.LeaseID, "license_key_id", licenseKeyID, "activation_id", held.ActivationID,
		"fingerprint", fingerprint, "pool", held.Pool)
	return nil
}

// load reads the account of a license key; an empty one if there is none.
func (s *Issuer) load(ctx context.Context, id string) (account, error) {
	data, err := s.book.read(ctx, accountName(id))
	if err != nil {
		return account{}, unavailable(err)
	}
	return readAccount(id, data)
}

// readAccount reads what is kept of a license key.
func readAccount(id string, data []byte) (account, error) {
	a := account{LicenseKeyID: id}
	if len(data) == 0 {
		return a, nil
	}
	if err := json.Unmarshal(data, &a); err != nil || a.LicenseKeyID != id {
		return a, unavailable(fmt.Errorf("what is stored of license key %s cannot be read", id))
	}
	return a, nil
}

// update changes the account of a license key, with nobody else at it. change may be
// called more than once.
func (s *Issuer) update(ctx context.Context, id string, change func(a *account, now time.Time) error) (account, error) {
	var a account
	err := s.book.change(ctx, accountName(id), func(data []byte) (_ []byte, err error) {
		if a, err = readAccount(id, data); err != nil {
			return nil, err
		}
		if err := change(&a, a.now(s.config.clock())); err != nil {
			return nil, err
		}
		return json.Marshal(a)
	})
	if err != nil {
		return a, unavailable(err)
	}
	return a, nil
}

// accountName is a name that every Store takes, whatever the id.
func accountName(id string) string {
	sum := sha256.Sum256([]byte(id))
	return "license-" + hex.EncodeToString(sum[:16])
}

func unavailable(err error) error {
	if e, ok := errors.AsType[*Error](err); ok {
		return e
	}
	return &Error{Reason: ErrUnavailable, Err: err}
}

// denied reports whether Polar itself refused.
func denied(err error) bool {
	e, ok := errors.AsType[*polargate.Error](err)
	return ok && e.Reason.Denial()
}

// refusal is what became of a question to Polar: its own refusal, or that nobody can
// say.
func refusal(err error) error {
	if err == nil {
		return nil
	}
	if denied(err) {
		return &Error{Err: err}
	}
	if _, ok := errors.AsType[*polargate.InputError](err); ok {
		return &Error{Reason: ErrBadRequest, Err: err}
	}
	unknown := &Error{Reason: ErrUnavailable, Err: err}
	if e, ok := errors.AsType[*polargate.Error](err); ok {
		unknown.RetryAfter = e.RetryAfter
	}
	return unknown
}

// reasonOf is the one word for an error.
func reasonOf(err error) string {
	if e, ok := errors.AsType[*Error](err); ok && e.Reason != "" {
		return string(e.Reason)
	}
	if e, ok := errors.AsType[*polargate.Error](err); ok {
		return string(e.Reason)
	}
	return string(ErrUnavailable)
}

// lowered is a map by ids, however they were written.
func lowered[V any](m map[string]V) map[string]V {
	lower := make(map[string]V, len(m))
	for id, v := range m {
		lower[strings.ToLower(id)] = v
	}
	return lower
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}
