// Package kit has what the suites under tests share: a Polar with a license key in it and
// the Gates that ask it, a Polar with a customer in it and the Customers that ask it, and
// stores, transports and logs that misbehave or take notes. It uses the public API only.
package kit

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/polargate/polargate"
	"github.com/polargate/polargate/polartest"
	"github.com/stretchr/testify/require"
)

// Times, computers and paths that many tests name.
const (
	Day         = 24 * time.Hour
	ThisMachine = "the machine of the tests"

	PathValidate   = "/license-keys/validate"
	PathActivate   = "/license-keys/activate"
	PathDeactivate = "/license-keys/deactivate"
)

// World is a Polar with one license key in it, and what a Gate needs to ask it.
type World struct {
	T     *testing.T
	Polar *polartest.Polar
	Key   polartest.LicenseKey
	// Config is for the Gates that Open makes; a test may change it in between.
	Config polargate.Config
}

// NewWorld makes a Polar with a key for three activations. A request that no good client
// makes fails the test. All Gates of a World share a store.
func NewWorld(t *testing.T, change ...func(*polartest.LicenseKey)) *World {
	t.Helper()
	polar := polartest.New(polartest.Config{OnBreach: func(r polartest.Request, what string) {
		t.Errorf("%s %s: %s", r.Method, r.Path, what)
	}})
	wanted := polartest.LicenseKey{LimitActivations: polartest.Limit(3)}
	for _, c := range change {
		c(&wanted)
	}
	key := polar.AddKey(wanted)
	return &World{T: t, Polar: polar, Key: key, Config: polargate.Config{
		OrganizationID: polar.OrganizationID(),
		App:            "inkwell",
		Version:        "1.4.2",
		Features:       map[string][]string{key.BenefitID: {"sync", "export"}},
		BaseURL:        polar.URL(),
		HTTPClient:     polar.Client(),
		Store:          &polargate.MemoryStore{},
		Fingerprint:    ThisMachine,
	}}
}

// Open starts the program: a Gate on the World's store, closed with the test.
func (w *World) Open(change ...func(*polargate.Config)) *polargate.Gate {
	w.T.Helper()
	config := w.Config
	for _, c := range change {
		c(&config)
	}
	gate, err := polargate.Open(config)
	require.NoError(w.T, err)
	w.T.Cleanup(func() { _ = gate.Close() })
	return gate
}

// Activated is Open, with the World's key activated.
func (w *World) Activated(change ...func(*polargate.Config)) *polargate.Gate {
	w.T.Helper()
	gate := w.Open(change...)
	status, err := gate.Activate(w.T.Context(), w.Key.Key)
	require.NoError(w.T, err)
	require.Equal(w.T, polargate.Active, status.State)
	return gate
}

// Inject makes the next requests to path fail, or all of them if times is 0.
func (w *World) Inject(path string, times int, effect polartest.Effect) {
	w.Polar.Inject(polartest.Fault{Path: path, Times: times, Effect: effect})
}

// Now returns the World's key as Polar has it.
func (w *World) Now() polartest.LicenseKey {
	w.T.Helper()
	key, ok := w.Polar.LicenseKey(w.Key.ID)
	require.True(w.T, ok)
	return key
}

// Seats counts the activations of the World's key.
func (w *World) Seats() int { return w.Polar.Seats(w.Key.ID) }

// WithoutSeats makes NewWorld's key one without activations.
func WithoutSeats(k *polartest.LicenseKey) { k.LimitActivations = nil }

// Limit gives NewWorld's key n activations.
func Limit(n int64) func(*polartest.LicenseKey) {
	return func(k *polartest.LicenseKey) { k.LimitActivations = polartest.Limit(n) }
}

// Usage gives NewWorld's key n uses.
func Usage(n int64) func(*polartest.LicenseKey) {
	return func(k *polartest.LicenseKey) { k.LimitUsage = polartest.Limit(n) }
}

// ReasonOf returns the Reason of an *Error, and "" for any other error.
func ReasonOf(err error) polargate.Reason {
	var e *polargate.Error
	if errors.As(err, &e) {
		return e.Reason
	}
	return ""
}

// Asks counts the requests to Polar whose path ends in path and whose body contains part.
func (w *World) Asks(path, part string) int {
	n := 0
	for _, r := range w.Polar.Requests() {
		if strings.HasSuffix(r.Path, path) && strings.Contains(string(r.Body), part) {
			n++
		}
	}
	return n
}
