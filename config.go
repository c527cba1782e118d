package polargate

import (
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"math"
	"net/http"
	"net/url"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/polargate/polargate/internal/logs"
	"github.com/polargate/polargate/internal/machine"
	"github.com/polargate/polargate/internal/rights"
)

// Config configures a Gate. Only OrganizationID is required.
type Config struct {
	// OrganizationID is the vendor's organization: a UUID of version 4, from its settings
	// in Polar. Build it into the program: a user who could choose it would bring keys
	// from an organization of their own.
	OrganizationID string
	// App names the program: its state folder, its User-Agent, and what Polar shows of
	// its activations. At most 64 letters, digits, spaces, dots, dashes and underscores,
	// and not the name of a Windows device such as "con" or "aux.v1". Empty means
	// "polargate-app". Choose it once: under another name, a program doesn't find its
	// license again.
	App string
	// Name is for a program with several license keys: of plug-ins, or of the users of one
	// installation. Each name has a license and an activation of its own, in the same Store.
	// At most 200 bytes of text without control characters. Empty means the program's only, or
	// main, license. See Licenses.
	Name string
	// Version of the program, for the User-Agent and the activation's meta. May be empty.
	Version string
	// Features maps the ids of the benefits that this program accepts to the features
	// that each unlocks. A key of any other benefit is refused with ErrWrongBenefit.
	// AnyBenefit in the place of an id accepts every benefit of the organization, and its
	// features are unlocked beside those of the benefit itself. Empty accepts every benefit
	// and unlocks no feature.
	Features map[string][]string

	// BaseURL and Server say where Polar is; see ClientConfig. Empty means Production.
	BaseURL string
	Server  Server
	// HTTPClient sends the requests; see ClientConfig. nil means a client that honors the
	// proxy variables of the environment.
	HTTPClient *http.Client
	// Store keeps the state. nil means a FileStore in the folder <App>/license of
	// os.UserConfigDir, and on Windows of %LocalAppData%; what earlier versions stored in
	// %AppData% is found. It has one file license-<hash>-<hash>.sealed for each computer
	// that uses the folder, because such a folder can be shared, and
	// license-<hash>.index, which lists them. A service without a home uses license in its
	// STATE_DIRECTORY. SystemStore keeps one license for all users of a computer.
	Store Store
	// Fingerprint identifies this computer: 1 to 500 characters. Empty means a hash of
	// the system's machine id, or of a random id kept in the Store if the system has
	// none. The state is stored under it: if it changes, the program reports
	// ErrOtherMachine until Move or Activate is called.
	Fingerprint string
	// Conditions are what an activation is bound to; see ActivateRequest. nil means
	// {"fingerprint": Fingerprint}; empty but not nil binds it to nothing. They matter
	// when a key is activated: an activation made under other conditions keeps those.
	Conditions map[string]any
	// Label is what customers see in the list of their activations. Empty means the
	// computer's name. It is no identity, with one exception: if a stored license of
	// another computer has the same label, Activate takes it for this computer's own,
	// from before the system was reinstalled, and moves it.
	//
	// The computer's name helps customers to tell their computers apart. It is sent to
	// Polar, so say so where you say what your program sends.
	Label string
	// NeutralLabel sends a neutral word and a short id, such as "Computer 3F9A0C", if Label
	// is empty, instead of the computer's name.
	NeutralLabel bool
	// Meta is stored with an activation at Polar for the vendor to read, beside what the
	// Gate itself stores there: "installation", a random id of this installation;
	// "fingerprint", the hash that identifies the computer; "attempt", a random id of the
	// call of Activate; "app", "version", and "os", such as "linux/amd64". Those names can't
	// be used, and there is room for 44 more. Values are as in Conditions. A license server
	// doesn't pass Meta on.
	Meta map[string]any

	// LeaseKeys are the public keys that leases are checked with: usually two, the one in use
	// and its successor; see package lease. With them, ActivateFile activates a computer
	// without a network. A program can take as many features from a lease as it names,
	// beside those of Features.
	LeaseKeys []ed25519.PublicKey
	// LeaseURL is the vendor's license server, which package lease/issuer makes. With it,
	// keys are activated and renewed there instead of at Polar's public endpoints: Polar's
	// limit of 3 requests a second from an address doesn't apply, and only a signed lease
	// counts. The times of a lease replace FreshFor and GracePeriod, and Conditions are
	// the fingerprint. If the server can't be reached, the lease counts until it ends. A
	// license that was activated at Polar before is taken over; that needs the server
	// once. Consume still asks Polar. Empty means no license server.
	LeaseURL string
	// Released is when this version of the program was released. Fallback needs it, and so do
	// leases that cover some months of updates.
	Released time.Time

	// Trial lets the program run for a while without a license key. The zero value means
	// no trial.
	Trial Trial

	// Fallback lets a license that lapsed keep the version of the program that it covered.
	// The zero value means no fallback.
	Fallback Fallback

	// RemindBefore is how long before the end of a license or a trial a program reminds of it:
	// 14*24*time.Hour is two weeks. Then, once on each day, Status.Reminder is set in the run
	// of the program whose Check or Run comes first, OnChange is called, and the message says
	// so; later runs on that day don't repeat it. It stays set in that run. An end that isn't
	// known, such as that of a subscription that renews, isn't reminded of. 0 means no
	// reminders; it must not be negative.
	RemindBefore time.Duration

	// FreshFor is how long a granted answer counts without asking again. 0 means 24
	// hours; it must not be negative.
	FreshFor time.Duration
	// GracePeriod is how long the last granted answer counts if Polar can't be reached. 0
	// means 14 days; negative means not beyond FreshFor; UnlimitedGrace has no end.
	GracePeriod time.Duration
	// CheckTimeout bounds how long Check waits for Polar. 0 means 5 seconds; it must not
	// be negative.
	CheckTimeout time.Duration
	// Secret makes the state harder to forge for people who know how this library seals
	// it. May be empty. Changing it loses all stored licenses.
	Secret string
	// AllowKeysWithoutSeats accepts keys whose benefit has no activation limit in Polar.
	// Such a key works on any number of computers. False refuses them with
	// ErrActivationsUnsupported.
	AllowKeysWithoutSeats bool
	// Ephemeral is for places where nothing is kept, such as build jobs and containers.
	// Empty means that the license is kept in the Store, and that Activate fails before
	// it asks Polar if it can't write there. ReleaseOnClose and ValidateOnly don't use
	// the Store at all.
	Ephemeral Ephemeral
	// WaitForTurn is for many computers behind one address, such as a fleet of build jobs
	// or a classroom. Polar accepts 3 requests a second from an address, and blocks one
	// that sends more for a minute. If that limit, or a pause that Polar asked for, holds
	// up an activation, Activate and ActivateWait wait for their turn for this long in
	// all, if ctx lasts as long. Only requests that had no effect are sent again. The
	// first Activate of a Gate also starts at a random moment within 5 seconds, or a
	// quarter of WaitForTurn if that is less, so that jobs that start together don't ask
	// together. 0 means no wait: Activate fails at once with ErrRateLimited, whose
	// RetryAfter says when to try again. It must not be negative.
	WaitForTurn time.Duration
	// ReleaseTimeout bounds how long Close may take to deactivate an Ephemeral Gate while
	// Polar's limit on requests is in the way. Other failures, such as a lost network,
	// have 5 seconds of that. 0 means 5 minutes, or WaitForTurn if that is longer; it
	// must not be negative. Set it lower if your system kills a program soon after asking
	// it to end; containers often do after 10 seconds.
	ReleaseTimeout time.Duration
	// Links are the vendor's pages that a Status.Action leads to. Each may be empty.
	Links Links
	// Language is what Status.Message is written in. nil means English.
	Language *Language
	// Logger gets warnings, for example about a state that can't be saved, and never a
	// key. nil means that nothing is logged.
	Logger *slog.Logger
	// OnChange is called when the state, the reason, the features, or one of the flags
	// Unsaved and InDoubt has changed, and once a day for a Reminder, with the Status before
	// and after. Calls come one at a time and in order, from a goroutine of the Gate, often
	// after the call that caused the change has returned. OnChange may call the Gate. It isn't
	// called for the Status at Open, nor for Close. A panic in it is logged and goes no
	// further. nil means no calls.
	OnChange func(before, after Status)

	// Clock tells the time. Tests use it to let time pass or to set a clock. Licenses are
	// judged by it; pauses and timeouts are not. nil means the computer's clock.
	Clock func() time.Time

	machine func() machine.Machine // for tests of other computers; nil means machine.This
}

// Trial is a trial without a license key. It needs no network. It begins at the first Check
// (or Refresh, or under Run) that finds no license, and is stored then; if it can't be stored,
// it doesn't begin. It lasts for Days, in which Status.State is InTrial, and ends earlier once
// a license is activated, or an import is granted (see Gate.Import). Each computer has one: after it, or after a license, there is no
// other. A clock that is set back doesn't prolong it. Somebody who deletes the state, for
// example by reinstalling their system, gets another one.
//
// With a license server (LeaseURL), that gives the trial, counts it for each computer, and signs
// it: see issuer.Config.Trial. It needs the server once, also says how long the trial lasts, and
// may unlock more features; Days only says that there is one.
type Trial struct {
	// Days is how long the trial lasts, in days of 24 hours: at most 3653. 0 means no trial.
	// A version of the program with another number changes the trials that have begun.
	Days int
	// Features are what the trial unlocks. Empty means none: the program may run, and that
	// is all.
	Features []string
}

// Fallback is what a license that lapsed is still worth: customers keep the versions that were
// released while they paid. A license lapses when its key expires, or when its subscription
// ends. It was covered until then, as far as Polar told this program: until the key's expiry, or
// until the subscription's end or the last time that Polar granted it. If this version was
// released by then, Status.State is Perpetual from then on, also offline; otherwise the license
// is locked with ErrNotCovered, in words that say what it covers. A license that Polar takes
// back in another way, such as a key that was replaced or disabled before its end, doesn't lapse.
//
// Polar tells the end of a subscription from a refund only in version 2027-01 of its API; before,
// a key without an expiry that Polar revokes counts as lapsed. Set After to longer than you give
// refunds or free trials for, or delete the key in Polar.
type Fallback struct {
	// Released is when this version of the program was released. Zero means
	// Config.Released; one of them is needed.
	Released time.Time
	// Features are those that such a license keeps, of those that it unlocked. Empty means
	// all of them.
	Features []string
	// After is how long a license must have been granted before it has a fallback: from when
	// its key was made to Polar's last grant. 0 means no minimum; it must not be negative.
	// A lease doesn't say when a key was made, so it must be 0 with a license server.
	After time.Duration
}

// AnyBenefit stands for any benefit of the organization in Config.Features and
// CustomersConfig.Features.
const AnyBenefit = rights.AnyBenefit

// UnlimitedGrace is a Config.GracePeriod without an end: a license that was granted once works
// offline until it expires, so a cancellation counts only once Polar can be reached.
const UnlimitedGrace time.Duration = math.MaxInt64

// Links are pages of the vendor, as absolute addresses that begin with https:, http: or
// mailto:.
type Links struct {
	// Buy sells a license, and Renew renews one that has ended.
	Buy, Renew string
	// Portal is where customers deactivate their other computers. Set it only if they can:
	// in Polar, the benefit must allow customers to manage activations. Messages name the
	// portal only if it is set.
	Portal string
	// Support answers questions.
	Support string
}

// check rejects what isn't an address.
func (l Links) check() error {
	for _, link := range []struct{ field, at string }{
		{"Links.Buy", l.Buy}, {"Links.Renew", l.Renew}, {"Links.Portal", l.Portal}, {"Links.Support", l.Support},
	} {
		u, err := url.Parse(link.at)
		web := err == nil && (u.Scheme == "https" || u.Scheme == "http") && u.Hostname() != ""
		if link.at != "" && !web && (err != nil || u.Scheme != "mailto" || u.Opaque == "") {
			return &InputError{link.field, "is not an address: give something like https://example.com/buy or mailto:support@example.com"}
		}
	}
	return nil
}

// Ephemeral says how a Gate uses activations where nothing is kept: in a build job, in a
// container, on a read-only system.
type Ephemeral string

const (
	// ReleaseOnClose keeps everything in memory: Activate activates, and Close
	// deactivates. A process that is killed, or ends without Close, leaves its activation
	// in use: call Close on SIGTERM too, and see Config.ReleaseTimeout for how long it
	// may take. For many jobs behind one address, set Config.WaitForTurn.
	ReleaseOnClose Ephemeral = "release_on_close"
	// ValidateOnly keeps everything in memory and uses no activation: Activate only asks
	// whether the key is granted. Any number of computers can use a key that way,
	// whatever its activation limit: for example in a program that knows by other means
	// that it runs in a build job.
	ValidateOnly Ephemeral = "validate_only"
	// IfUnwritable is ReleaseOnClose, but only if Activate finds that the Store can't be
	// written. Status.Unsaved then says so, and the license is stored after all if that
	// becomes possible before the Gate is closed.
	IfUnwritable Ephemeral = "if_unwritable"
)

// Format prints a configuration without its secrets, whatever the verb.
func (c Config) Format(f fmt.State, _ rune) {
	fmt.Fprintf(f, "polargate.Config{OrganizationID:%s App:%s Version:%s}", c.OrganizationID, c.App, c.Version)
}

// LogValue logs a configuration without its secrets.
func (c Config) LogValue() slog.Value { return slog.StringValue(fmt.Sprint(c)) }

const (
	// maxTrial is the longest trial, in days.
	maxTrial = 3653

	defaultApp          = "polargate-app"
	defaultFreshFor     = 24 * time.Hour
	defaultGracePeriod  = 14 * 24 * time.Hour
	defaultCheckTimeout = 5 * time.Second
	// defaultReleaseTimeout is longer than several of Polar's blocks of a minute: a small
	// fleet that ends at the same time may be blocked more than once.
	defaultReleaseTimeout = 5 * time.Minute
)

// withDefaults returns a copy with zero values replaced. Later changes of the caller's maps
// don't affect it.
func (c Config) withDefaults() Config {
	c.Language = c.Language.copied()
	if c.App == "" {
		c.App = defaultApp
	}
	if c.FreshFor == 0 {
		c.FreshFor = defaultFreshFor
	}
	if c.GracePeriod == 0 {
		c.GracePeriod = defaultGracePeriod
	}
	if c.CheckTimeout == 0 {
		c.CheckTimeout = defaultCheckTimeout
	}
	if c.ReleaseTimeout == 0 {
		c.ReleaseTimeout = max(defaultReleaseTimeout, c.WaitForTurn)
	}
	if clock := c.Clock; clock != nil {
		c.Clock = func() time.Time { return calendar(clock()) }
	} else {
		c.Clock = wallClock
	}
	if c.machine == nil {
		c.machine = machine.This
	}
	c.Logger = logs.Recovering(c.Logger)
	if c.Label == "" && !c.NeutralLabel {
		c.Label, _ = os.Hostname()
		if c.Label == "" {
			c.Label = c.App + " on " + runtime.GOOS
		}
	}
	switch {
	case c.Ephemeral == ReleaseOnClose, c.Ephemeral == ValidateOnly:
		c.Store = &MemoryStore{}
	case c.Store == nil:
		c.Store = defaultStore(c.App)
	}
	c.Features = normalFeatures(c.Features)
	c.Conditions, c.Meta = maps.Clone(c.Conditions), maps.Clone(c.Meta)
	c.LeaseKeys = slices.Clone(c.LeaseKeys)
	c.Trial.Features = slices.Clone(c.Trial.Features)
	slices.Sort(c.Trial.Features)
	c.Trial.Features = slices.Compact(c.Trial.Features)
	c.Fallback.Features = slices.Clone(c.Fallback.Features)
	if c.hasFallback() && c.Fallback.Released.IsZero() {
		c.Fallback.Released = c.Released
	}
	if c.Released.IsZero() {
		c.Released = c.Fallback.Released
	}
	return c
}

// namesFolder reports whether the name of an app can be that of a folder on every
// system.
func namesFolder(app string) bool {
	for i, r := range app {
		inside := r == ' ' || r == '.'
		if !unicode.IsLetter(r) && !unicode.IsNumber(r) && r != '_' && r != '-' && (!inside || i == 0) {
			return false
		}
	}
	return app != "" && len(app) <= 64 && !strings.HasSuffix(app, ".") && !strings.HasSuffix(app, " ")
}

// namesDevice reports whether the name of an app is that of a Windows device, in which nothing
// can be stored. Windows ignores what follows the first dot and the spaces before it, and
// takes the digits ¹²³ for 123. Source: Microsoft, "Naming Files, Paths, and Namespaces".
func namesDevice(app string) bool {
	name, _, _ := strings.Cut(app, ".")
	name = strings.ToUpper(strings.TrimRight(name, " "))
	switch name {
	case "CON", "PRN", "AUX", "NUL":
		return true
	}
	number, ok := strings.CutPrefix(name, "COM")
	if !ok {
		number, ok = strings.CutPrefix(name, "LPT")
	}
	return ok && utf8.RuneCountInString(number) == 1 && strings.Contains("123456789¹²³", number)
}

// validate rejects a configuration that can't work. NewClient checks the rest.
func (c Config) validate() error {
	if !namesFolder(c.App) {
		return &InputError{"App", "must be 1 to 64 letters, digits, spaces, dots, dashes and underscores, beginning with a letter or digit: it names a folder"}
	}
	if namesDevice(c.App) {
		return &InputError{"App", "is the name of a device on Windows, where no folder can have it: choose another, for all systems alike"}
	}
	if err := checkFeatures(c.Features); err != nil {
		return err
	}
	if c.Language.hasUnknownPhrase() {
		return &InputError{"Language", "translates a phrase that doesn't exist: the names are those of Phrases()"}
	}
	switch c.Ephemeral {
	case "", ReleaseOnClose, ValidateOnly, IfUnwritable:
	default:
		return &InputError{"Ephemeral", "is none of ReleaseOnClose, ValidateOnly and IfUnwritable: leave it empty for a license that is kept"}
	}
	if c.FreshFor < 0 {
		return &InputError{"FreshFor", "is negative: give a duration, or 0 for 24 hours"}
	}
	if c.RemindBefore < 0 {
		return &InputError{"RemindBefore", "is negative: give a duration, or 0 for no reminders"}
	}
	if c.CheckTimeout < 0 {
		return &InputError{"CheckTimeout", "is negative: give a duration, or 0 for 5 seconds"}
	}
	if c.WaitForTurn < 0 {
		return &InputError{"WaitForTurn", "is negative: give a duration, or 0 for no wait"}
	}
	if c.ReleaseTimeout < 0 {
		return &InputError{"ReleaseTimeout", "is negative: give a duration, or 0 for 5 minutes"}
	}
	if err := c.checkName(); err != nil {
		return err
	}
	if err := c.checkLeases(); err != nil {
		return err
	}
	if err := c.Links.check(); err != nil {
		return err
	}
	if err := c.checkTrial(); err != nil {
		return err
	}
	if err := c.checkFallback(); err != nil {
		return err
	}
	if c.Fingerprint != "" {
		if err := checkMap("Fingerprint", map[string]any{"Fingerprint": c.Fingerprint}); err != nil {
			return err
		}
	}
	if err := c.checkMeta(); err != nil {
		return err
	}
	return checkMap("Conditions", c.Conditions)
}

// What a Gate says of itself in an activation's meta.
const (
	metaInstallation = "installation"
	metaFingerprint  = "fingerprint"
	metaAttempt      = "attempt"
	metaApp          = "app"
	metaOS           = "os"
	metaVersion      = "version"

	maxMeta = 44 // Polar takes 50
)

// checkMeta rejects what Polar would refuse, or a Gate says itself.
func (c Config) checkMeta() error {
	for _, own := range []string{metaInstallation, metaFingerprint, metaAttempt, metaApp, metaOS, metaVersion} {
		if _, taken := c.Meta[own]; taken {
			return &InputError{"Meta", "has a value for " + own + ", which the Gate sets itself: choose another name"}
		}
	}
	if len(c.Meta) > maxMeta {
		return &InputError{"Meta", fmt.Sprintf("has %d entries: there is room for %d", len(c.Meta), maxMeta)}
	}
	return checkMap("Meta", c.Meta)
}

// checkName rejects a name that can't be kept or shown.
func (c Config) checkName() error {
	switch {
	case len(c.Name) > maxName || !utf8.ValidString(c.Name) || strings.ContainsFunc(c.Name, unicode.IsControl):
		return &InputError{"Name", fmt.Sprintf("must be text of at most %d bytes without control characters", maxName)}
	case c.Name != "" && c.Trial.Days > 0:
		return &InputError{"Trial", "is for the program, so it can't go with a Name: each name would bring another one"}
	}
	return nil
}

const maxName = 200

// checkTrial rejects a trial that can't work.
func (c Config) checkTrial() error {
	switch {
	case c.Trial.Days < 0 || c.Trial.Days > maxTrial:
		return &InputError{"Trial", fmt.Sprintf("must last between 1 and %d days, or 0 for no trial", maxTrial)}
	case slices.Contains(c.Trial.Features, ""):
		return &InputError{"Trial", "has a feature without a name"}
	case c.Trial.Days > 0 && (c.Ephemeral == ReleaseOnClose || c.Ephemeral == ValidateOnly):
		return &InputError{"Trial", "would begin again at each start of an Ephemeral Gate: leave one of the two empty"}
	}
	return nil
}

// hasFallback reports whether a license that lapsed may count.
func (c *Config) hasFallback() bool {
	return !c.Fallback.Released.IsZero() || len(c.Fallback.Features) > 0 || c.Fallback.After != 0
}

// checkFallback rejects a fallback that can't work.
func (c Config) checkFallback() error {
	switch {
	case !c.hasFallback():
	case c.Fallback.Released.IsZero():
		return &InputError{"Fallback", "needs to know when this version of the program was released: set Released"}
	case !c.Fallback.Released.Equal(c.Released):
		return &InputError{"Fallback", "has another Released than the Config: leave one of the two empty"}
	case c.Fallback.After < 0:
		return &InputError{"Fallback", "has a negative After: give a duration, or 0 for no minimum"}
	case c.Fallback.After > 0 && c.hasLeaseServer():
		return &InputError{"Fallback", "has an After, but leases don't say when a key was made: leave it 0"}
	case slices.Contains(c.Fallback.Features, ""):
		return &InputError{"Fallback", "has a feature without a name"}
	}
	return nil
}

// takesSeats reports whether a key is activated here if it can be.
func (c Config) takesSeats() bool { return c.Ephemeral != ValidateOnly }

// allowsSeatless reports whether a license without an activation may count.
func (c Config) allowsSeatless() bool { return c.AllowKeysWithoutSeats || !c.takesSeats() }

// conditions are those of an activation that is made now, as the bytes that are stored and
// sent.
func (c Config) conditions(fingerprint string) json.RawMessage {
	m := c.Conditions
	if m == nil {
		m = map[string]any{"fingerprint": fingerprint}
	}
	raw, err := json.Marshal(m)
	if err != nil {
		panic(err) // validate has checked them
	}
	return raw
}

// accepts reports whether keys of a benefit are for this program.
func (c *Config) accepts(benefitID string) bool {
	_, ok := c.featuresOf(benefitID)
	return ok || len(c.Features) == 0
}

// featuresOf are the features of a benefit. ok is false if Features has none for it.
func (c *Config) featuresOf(benefitID string) (features []string, ok bool) {
	return rights.FeaturesOf(c.Features, usualUUID(benefitID))
}

// hasLeaseServer reports whether licenses come from the vendor's license server.
func (c *Config) hasLeaseServer() bool { return c.LeaseURL != "" }

var errBadLeaseKeys = &InputError{"LeaseKeys", "has what is no public key, or more than 8: give what polargate-keygen shows"}

var errBadLeaseURL = &InputError{"LeaseURL", "is not the address of a license server: give something like https://licenses.example.com/lease"}

// checkLeases rejects what cannot work.
func (c Config) checkLeases() error {
	if len(c.LeaseKeys) == 0 && c.hasLeaseServer() {
		return &InputError{"LeaseKeys", "is missing: give the public key of the license server, as polargate-keygen shows it"}
	}
	if !c.hasLeaseServer() {
		return nil
	}
	u, err := url.Parse(c.LeaseURL)
	if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Hostname() == "" || u.User != nil || u.Fragment != "" {
		return errBadLeaseURL
	}
	if c.Ephemeral == ValidateOnly {
		return &InputError{"Ephemeral", "is ValidateOnly, but a license server gives no license without an activation: use ReleaseOnClose"}
	}
	return nil
}
