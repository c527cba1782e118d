package polargate_test

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/polargate/polargate"
	"github.com/polargate/polargate/polartest"
	"github.com/stretchr/testify/require"
)

const (
	day         = 24 * time.Hour
	thisMachine = "the machine of the tests"

	pathValidate   = "/license-keys/validate"
	pathActivate   = "/license-keys/activate"
	pathDeactivate = "/license-keys/deactivate"
)

// world is a Polar with one key in it, and what a Gate needs to ask it.
type world struct {
	t     *testing.T
	polar *polartest.Polar
	key   polartest.LicenseKey
	// config is for the Gates that open makes; a test may change it in between.
	config polargate.Config
}

// newWorld makes a Polar that fails the test at a request that no good client
// makes, and in it a key with three seats. All Gates of a world share a store.
func newWorld(t *testing.T, change ...func(*polartest.LicenseKey)) *world {
	t.Helper()
	polar := polartest.New(polartest.Config{OnBreach: func(r polartest.Request, what string) {
		t.Errorf("%s %s: %s", r.Method, r.Path, what)
	}})
	wanted := polartest.LicenseKey{LimitActivations: polartest.Limit(3)}
	for _, c := range change {
		c(&wanted)
	}
	key := polar.AddKey(wanted)
	return &world{t: t, polar: polar, key: key, config: polargate.Config{
		OrganizationID: polar.OrganizationID(),
		App:            "inkwell",
		Version:        "1.4.2",
		Features:       map[string][]string{key.BenefitID: {"sync", "export"}},
		BaseURL:        polar.URL(),
		HTTPClient:     polar.Client(),
		Store:          &polargate.MemoryStore{},
		Fingerprint:    thisMachine,
	}}
}

// open starts the program: a Gate on the world's store, closed with the test.
func (w *world) open(change ...func(*polargate.Config)) *polargate.Gate {
	w.t.Helper()
	config := w.config
	for _, c := range change {
		c(&config)
	}
	gate, err := polargate.Open(config)
	require.NoError(w.t, err)
	w.t.Cleanup(func() { _ = gate.Close() })
	return gate
}

// activated is open with the world's key activated.
func (w *world) activated(change ...func(*polargate.Config)) *polargate.Gate {
	w.t.Helper()
	gate := w.open(change...)
	status, err := gate.Activate(w.t.Context(), w.key.Key)
	require.NoError(w.t, err)
	require.Equal(w.t, polargate.Active, status.State)
	return gate
}

// inject makes the next requests to path fail, all of them if times is 0.
func (w *world) inject(path string, times int, effect polartest.Effect) {
	w.polar.Inject(polartest.Fault{Path: path, Times: times, Effect: effect})
}

// now is what Polar knows of the world's key.
func (w *world) now() polartest.LicenseKey {
	w.t.Helper()
	key, ok := w.polar.LicenseKey(w.key.ID)
	require.True(w.t, ok)
	return key
}

// seats is how many seats of the world's key are taken.
func (w *world) seats() int { return w.polar.Seats(w.key.ID) }

// withoutSeats makes newWorld's key one that has no activations.
func withoutSeats(k *polartest.LicenseKey) { k.LimitActivations = nil }

// limit makes newWorld's key one of n seats.
func limit(n int64) func(*polartest.LicenseKey) {
	return func(k *polartest.LicenseKey) { k.LimitActivations = polartest.Limit(n) }
}

// usage makes newWorld's key one of n uses.
func usage(n int64) func(*polartest.LicenseKey) {
	return func(k *polartest.LicenseKey) { k.LimitUsage = polartest.Limit(n) }
}

// reasonOf is the Reason of an *Error, and "" of anything else.
func reasonOf(err error) polargate.Reason {
	var e *polargate.Error
	if errors.As(err, &e) {
		return e.Reason
	}
	return ""
}

// brittleStore is a store whose methods can be made to fail or wait.
type brittleStore struct {
	polargate.MemoryStore
	mu               sync.Mutex
	load, save, lock func(ctx context.Context, name string) error
	saved            map[string][]byte
}

func (s *brittleStore) set(load, save, lock func(ctx context.Context, name string) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.load, s.save, s.lock = load, save, lock
}

func (s *brittleStore) pick(of func() func(context.Context, string) error) func(context.Context, string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if f := of(); f != nil {
		return f
	}
	return func(context.Context, string) error { return nil }
}

func (s *brittleStore) Load(ctx context.Context, name string) ([]byte, error) {
	if err := s.pick(func() func(context.Context, string) error { return s.load })(ctx, name); err != nil {
		return nil, err
	}
	return s.MemoryStore.Load(ctx, name)
}

func (s *brittleStore) Save(ctx context.Context, name string, data []byte) error {
	if err := s.pick(func() func(context.Context, string) error { return s.save })(ctx, name); err != nil {
		return err
	}
	s.mu.Lock()
	if s.saved == nil {
		s.saved = map[string][]byte{}
	}
	s.saved[name] = bytes.Clone(data)
	s.mu.Unlock()
	return s.MemoryStore.Save(ctx, name, data)
}

func (s *brittleStore) Lock(ctx context.Context, name string) (func(), error) {
	if err := s.pick(func() func(context.Context, string) error { return s.lock })(ctx, name); err != nil {
		return nil, err
	}
	return s.MemoryStore.Lock(ctx, name)
}

// contents are the names and bytes that were saved.
func (s *brittleStore) contents() map[string][]byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := map[string][]byte{}
	for name, data := range s.saved {
		all[name] = bytes.Clone(data)
	}
	return all
}

var errDisk = errors.New("the disk is on fire")

func fails(context.Context, string) error { return errDisk }

// waits hangs for as long as its context lets it.
func waits(ctx context.Context, _ string) error {
	<-ctx.Done()
	return ctx.Err()
}

// roundTripper is a function as an http.RoundTripper.
type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// asks counts the requests to Polar whose path ends so and whose body has part.
func (w *world) asks(path, part string) int {
	n := 0
	for _, r := range w.polar.Requests() {
		if strings.HasSuffix(r.Path, path) && strings.Contains(string(r.Body), part) {
			n++
		}
	}
	return n
}
