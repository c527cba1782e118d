package polargate

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"os"
	"runtime"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/polargate/polargate/internal/logs"
	"github.com/polargate/polargate/internal/machine"
)

// Config configures a Gate. Only OrganizationID is required.
type Config struct {
	// OrganizationID is the vendor's organization: a UUID of version 4, from
	// its settings in Polar. Build it into the program: a user who could
	// choose it would bring keys from an organization of their own.
	OrganizationID string
	// App names the program: its state folder, its User-Agent and what Polar
	// shows of its activations. Letters, digits, spaces, dots, dashes and
	// underscores, at most 64, and no name of a device of Windows, such as "con"
	// or "aux.v1". Empty means "polargate-app". Choose it once: a program under
	// another name does not find its license again.
	App string
	// Version of the program, for the User-Agent and the activation's meta; may
	// be empty.
	Version string
	// Features maps the ids of the benefits that this program accepts to the
	// features that each unlocks. A key of any other benefit is refused as
	// ErrWrongBenefit. Empty accepts every benefit of the organization and
	// unlocks no feature.
	Features map[string][]string

	// BaseURL and Server say where Polar is; see ClientConfig. Empty means
	// Production.
	BaseURL string
	Server  Server
	// HTTPClient sends the requests; see ClientConfig. nil means one that
	// honours the proxy variables of the environment.
	HTTPClient *http.Client
	// Store keeps the state. nil means a FileStore in the user's folder for
	// settings: the folder <App>/license in os.UserConfigDir. In it is a file
	// license-<hash>-<hash>.sealed for each computer that uses it, since such a
	// folder can be shared, and license-<hash>.index, which says for which.
	Store Store
	// Fingerprint stands for this machine: 1 to 500 characters. Empty means a
	// hash of the system's machine id, or of a random id kept in the Store
	// where the system has none. The state is kept under it: a program that
	// comes to have another one reports ErrOtherMachine until Move or Activate
	// is called.
	Fingerprint string
	// Conditions are what an activation is bound to; see ActivateRequest. nil
	// means {"fingerprint": Fingerprint}; empty but not nil binds it to
	// nothing. They count when a seat is taken: one taken under other
	// conditions goes on with those.
	Conditions map[string]any
	// Label is what the customer sees in the list of their activations. Empty
	// means the computer's name. It is no identity; but Activate takes a stored
	// license of another machine that has the same label for that of this
	// computer before its system was set up anew, and moves it.
	Label string

	// FreshFor is how long a granted answer counts without asking again. 0
	// means 24 hours; it must not be negative.
	FreshFor time.Duration
	// GracePeriod is how long the last granted answer counts while Polar cannot
	// be reached. 0 means 14 days; negative means none beyond FreshFor.
	GracePeriod time.Duration
	// CheckTimeout bounds how long Check waits for Polar. 0 means 5 seconds; it
	// must not be negative.
	CheckTimeout time.Duration
	// Secret makes the state harder to forge for somebody who knows how this
	// library seals it. May be empty. A change of it loses all stored licenses.
	Secret string
	// AllowKeysWithoutSeats accepts keys whose benefit has no activation limit
	// in Polar. Such a key works on any number of computers. False refuses
	// them with ErrActivationsUnsupported.
	AllowKeysWithoutSeats bool
	// Ephemeral is for where nothing lasts, such as build jobs and containers.
	// Empty means that the license is kept in the Store, and that an Activate
	// that cannot write there fails before it asks for a seat. ReleaseOnClose
	// and ValidateOnly do without the Store, whatever it is.
	Ephemeral Ephemeral
	// WaitForTurn is for many installations behind one address, such as a fleet of
	// build jobs or a classroom: Polar takes 3 requests a second from an address, and
	// shuts out one that sends more for a minute. For so long in all, Activate and
	// ActivateWait wait for their turn when an activation is held up by that limit, or
	// by a pause that Polar asked for, if ctx lasts as long. Only what was not carried
	// out is sent again. The first Activate of a Gate then also begins a moment later,
	// drawn by lot from up to 5 seconds, and a quarter of WaitForTurn at most, so that
	// jobs that start together do not ask together. 0 means no wait: Activate fails at
	// once with ErrRateLimited, whose RetryAfter says when to come again. It must not
	// be negative.
	WaitForTurn time.Duration
	// ReleaseTimeout bounds how long Close may take to give back the activation of an
	// Ephemeral Gate while Polar's limit on requests is in the way. Other troubles,
	// such as a network that is away, have 5 seconds of that. 0 means 5 minutes, or
	// WaitForTurn if that is longer; it must not be negative. A system that kills a
	// program soon after asking it to end, as containers do after 10 seconds, needs
	// less.
	ReleaseTimeout time.Duration
	// Language is what Status.Message is written in; nil means English.
	Language *Language
	// Logger gets warnings, for instance of a state that cannot be saved, and
	// never a key. nil means none are written.
	Logger *slog.Logger
	// OnChange is called when the state, the reason, the features or one of
	// the flags Unsaved and InDoubt is another than before, with the Status
	// before and after: one call at a time and in order, from a goroutine of
	// the Gate, often after the call that caused the change has returned. It
	// may call the Gate. It is not called for the Status at Open, nor for
	// Close. A panic in it is logged and goes no further. nil means nobody is
	// told.
	OnChange func(before, after Status)

	// Clock tells the time, for tests of what happens as time passes or a clock is set.
	// Licenses are judged by it; pauses and timeouts are not. nil means the computer's
	// clock.
	Clock func() time.Time

	machine func() machine.Machine // for tests of other computers; nil means machine.This
}

// Format prints a configuration without its secrets, whatever the verb.
func (c Config) Format(f fmt.State, _ rune) {
	fmt.Fprintf(f, "polargate.Config{OrganizationID:%s App:%s Version:%s}", c.OrganizationID, c.App, c.Version)
}

// LogValue logs a configuration without its secrets.
func (c Config) LogValue() slog.Value { return slog.StringValue(fmt.Sprint(c)) }

const (
	defaultApp          = "polargate-app"
	defaultFreshFor     = 24 * time.Hour
	defaultGracePeriod  = 14 * 24 * time.Hour
	defaultCheckTimeout = 5 * time.Second
	// defaultReleaseTimeout outlasts several of Polar's blocks of a minute: a small
	// fleet that ends together may run into a second one.
	defaultReleaseTimeout = 5 * time.Minute
)

// withDefaults is a copy in which zero values are replaced, and which later
// changes of the caller's maps do not reach.
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
	if c.Label == "" {
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
	c.Conditions = maps.Clone(c.Conditions)
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

// namesDevice reports whether Windows takes the name of an app for a device, in which
// nothing can be stored. What is behind the first dot does not matter there, nor do
// spaces before it, and the digits ¹²³ are as good as 123. Source: Microsoft, "Naming
// Files, Paths, and Namespaces".
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

// validate rejects what cannot work. The rest is checked by NewClient.
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
	if c.CheckTimeout < 0 {
		return &InputError{"CheckTimeout", "is negative: give a duration, or 0 for 5 seconds"}
	}
	if c.WaitForTurn < 0 {
		return &InputError{"WaitForTurn", "is negative: give a duration, or 0 for no wait"}
	}
	if c.ReleaseTimeout < 0 {
		return &InputError{"ReleaseTimeout", "is negative: give a duration, or 0 for 5 minutes"}
	}
	if c.Fingerprint != "" {
		if err := checkMap("Fingerprint", map[string]any{"Fingerprint": c.Fingerprint}); err != nil {
			return err
		}
	}
	return checkMap("Conditions", c.Conditions)
}

// takesSeats reports whether a key is to have a seat here if it can.
func (c Config) takesSeats() bool { return c.Ephemeral != ValidateOnly }

// allowsSeatless reports whether a license without a seat may count.
func (c Config) allowsSeatless() bool { return c.AllowKeysWithoutSeats || !c.takesSeats() }

// conditions are those that an activation made now is bound to, as the bytes
// that will be stored and sent.
func (c Config) conditions(fingerprint string) json.RawMessage {
	m := c.Conditions
	if m == nil {
		m = map[string]any{"fingerprint": fingerprint}
	}
	raw, err := json.Marshal(m)
	if err != nil {
		panic(err) // checked by validate
	}
	return raw
}
