package gate

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"runtime/debug"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/polargate/polargate"
	"github.com/polargate/polargate/internal/testprogram"
	"github.com/polargate/polargate/polartest"
	"github.com/polargate/polargate/tests/internal/kit"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// minefield is a program in which every part that the library is given panics
// when it is told to.
type minefield struct {
	polargate.Store
	armed  atomic.Pointer[string]
	struck atomic.Int64
	polar  *polartest.Polar
	key    polartest.LicenseKey
	clock  wristwatch
	config polargate.Config
}

// parts are what a program hands to the library.
var parts = []string{"transport", "body", "load", "save", "lock", "unlock", "OnChange", "logger"}

func newMinefield() *minefield {
	m := &minefield{Store: &polargate.MemoryStore{}, polar: polartest.New(polartest.Config{})}
	m.key = m.polar.AddKey(polartest.LicenseKey{LimitActivations: polartest.Limit(99)})
	to := m.polar.Transport()
	m.config = polargate.Config{
		OrganizationID: m.polar.OrganizationID(), BaseURL: m.polar.URL(), Features: withExport(m.key), Fingerprint: "here",
		HTTPClient: &http.Client{Transport: kit.RoundTripper(func(r *http.Request) (*http.Response, error) {
			m.step("transport")
			resp, err := to.RoundTrip(r)
			if err == nil {
				resp.Body = &mine{resp.Body, m}
			}
			return resp, err
		})},
		Store:    m,
		Logger:   slog.New(m),
		OnChange: func(_, _ polargate.Status) { m.step("OnChange") },
		Clock:    m.clock.now,
	}
	return m
}

// mine is the body of an answer.
type mine struct {
	io.ReadCloser
	field *minefield
}

func (b *mine) Read(p []byte) (int, error) {
	b.field.step("body")
	return b.ReadCloser.Read(p)
}

// arm names the parts that panic, with " and " in between.
func (m *minefield) arm(parts string) { m.armed.Store(&parts) }

func (m *minefield) isArmed(part string) bool {
	armed := m.armed.Load()
	return armed != nil && slices.Contains(strings.Split(*armed, " and "), part)
}

func (m *minefield) step(part string) {
	if m.isArmed(part) {
		m.struck.Add(1)
		panic("the program's own " + part)
	}
}

func (m *minefield) Load(ctx context.Context, name string) ([]byte, error) {
	m.step("load")
	return m.Store.Load(ctx, name)
}

func (m *minefield) Save(ctx context.Context, name string, data []byte) error {
	m.step("save")
	if m.isArmed("logger") {
		return errors.New("something to be logged")
	}
	return m.Store.Save(ctx, name, data)
}

func (m *minefield) Lock(ctx context.Context, name string) (func(), error) {
	m.step("lock")
	unlock, err := m.Store.Lock(ctx, name)
	if err != nil {
		return nil, err
	}
	return func() { unlock(); m.step("unlock") }, nil
}

func (m *minefield) Enabled(context.Context, slog.Level) bool { return true }

func (m *minefield) Handle(context.Context, slog.Record) error { m.step("logger"); return nil }

func (m *minefield) WithAttrs([]slog.Attr) slog.Handler { return m }

func (m *minefield) WithGroup(string) slog.Handler { return m }

// programPanicsBehindTheBack is a program of which the part named by args[0]
// panics while the library is at work of its own accord. It ends well if that
// neither takes it down nor leaves the library unable to go on.
func programPanicsBehindTheBack(args []string) error {
	m := newMinefield()
	gate, err := polargate.Open(m.config)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 4*time.Second)
	defer cancel()
	if _, err := gate.Activate(ctx, m.key.Key); err != nil {
		return err
	}
	if _, err := gate.Check(ctx); err != nil {
		return err
	}
	m.clock.set(13 * time.Hour)
	if strings.Contains(args[0], "OnChange") {
		m.polar.Revoke(m.key.ID) // a change, to be told
	}
	m.arm(args[0])
	_, _ = gate.Check(ctx) // is answered from memory, and renewed behind the back
	for m.struck.Load() == 0 && ctx.Err() == nil {
		time.Sleep(time.Millisecond)
	}
	if m.struck.Load() == 0 {
		return errors.New("nothing panicked: the test is not what it was")
	}
	time.Sleep(20 * time.Millisecond) // a panic that nobody catches takes less
	m.arm("")
	if strings.Contains(args[0], "OnChange") {
		m.polar.Grant(m.key.ID)
	}
	if _, err := gate.Refresh(ctx); err != nil {
		return fmt.Errorf("afterwards: %w", err)
	}
	return gate.Close()
}

// A key that was not signed, a ping that failed, a map that was nil: the license
// library panicked, and the site that it was to protect was down for the night.
func TestAPanicAroundALicenseTakesNoProgramDown(t *testing.T) {
	t.Parallel()
	calls := map[string]func(context.Context, *minefield, *polargate.Gate) error{
		"Check":   func(ctx context.Context, _ *minefield, g *polargate.Gate) error { _, err := g.Check(ctx); return err },
		"Refresh": func(ctx context.Context, _ *minefield, g *polargate.Gate) error { _, err := g.Refresh(ctx); return err },
		"Consume": func(ctx context.Context, _ *minefield, g *polargate.Gate) error {
			_, err := g.Consume(ctx, 1)
			return err
		},
		"Activate": func(ctx context.Context, m *minefield, g *polargate.Gate) error {
			_, err := g.Activate(ctx, m.key.Key)
			return err
		},
		"Import": func(ctx context.Context, m *minefield, g *polargate.Gate) error {
			key, _ := m.polar.LicenseKey(m.key.ID)
			_, err := g.Import(ctx, polargate.ImportedActivation{Key: key.Key, ActivationID: key.Activations[0].ID, Conditions: key.Activations[0].Conditions})
			return err
		},
		"Deactivate": func(ctx context.Context, _ *minefield, g *polargate.Gate) error { return g.Deactivate(ctx) },
		"Diagnose":   func(ctx context.Context, _ *minefield, g *polargate.Gate) error { g.Diagnose(ctx); return nil },
		"Run": func(ctx context.Context, _ *minefield, g *polargate.Gate) error {
			ctx, cancel := context.WithTimeout(ctx, time.Minute)
			defer cancel()
			return g.Run(ctx)
		},
		"Close": func(_ context.Context, _ *minefield, g *polargate.Gate) error { return g.Close() },
		"Open": func(_ context.Context, m *minefield, _ *polargate.Gate) error {
			gate, err := polargate.Open(m.config)
			if err == nil {
				_ = gate.Close()
			}
			return err
		},
	}
	for _, part := range parts {
		for name, call := range calls {
			t.Run("in the "+part+", during "+name, func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					m := newMinefield()
					gate, err := polargate.Open(m.config)
					require.NoError(t, err)
					defer gate.Close()
					_, err = gate.Activate(t.Context(), m.key.Key)
					require.NoError(t, err)
					synctest.Wait()
					m.clock.set(25 * time.Hour)
					m.arm(part)
					survives(t, func() { _ = call(t.Context(), m, gate) })
					synctest.Wait()
					m.arm("")
					if name == "Close" {
						return
					}
					time.Sleep(10 * time.Second) // a request of which nothing is known rests for five
					began := time.Now()
					_, err = gate.Activate(t.Context(), m.key.Key)
					assert.NoError(t, err, "and goes on when the panics are over")
					assert.Less(t, time.Since(began), 10*time.Second)
					assert.True(t, gate.Has("export"))
				})
			})
		}
	}
	t.Run("by a store that cannot be compared", func(t *testing.T) {
		t.Parallel()
		for _, kind := range []polargate.Ephemeral{"", polargate.IfUnwritable} {
			survives(t, func() {
				gate, err := polargate.Open(polargate.Config{OrganizationID: anOrganization, BaseURL: "http://stores.test", Fingerprint: "here", Store: mapStore{}, Ephemeral: kind})
				require.NoError(t, err)
				_, err = gate.Check(t.Context())
				assert.ErrorIs(t, err, polargate.ErrNoLicense)
				require.NoError(t, gate.Close())
			})
		}
	})
	for _, part := range append(parts, "OnChange and logger") {
		t.Run("in the "+part+", behind the back", func(t *testing.T) {
			t.Parallel()
			cmd := testprogram.Command(t, "panics-behind-the-back", part)
			var said strings.Builder
			cmd.Stderr = &said
			assert.NoError(t, cmd.Run(), firstLines(said.String()))
		})
	}
}

// mapStore is a Store of a type whose values cannot be compared.
type mapStore map[string][]byte

func (s mapStore) Load(_ context.Context, name string) ([]byte, error) {
	if data, ok := s[name]; ok {
		return data, nil
	}
	return nil, polargate.ErrNotStored
}

func (s mapStore) Save(_ context.Context, name string, data []byte) error {
	s[name] = data
	return nil
}

func (s mapStore) Lock(context.Context, string) (func(), error) { return func() {}, nil }

// survives fails the test if do panics, in fewer words than assert.NotPanics.
func survives(t *testing.T, do func()) {
	t.Helper()
	defer func() {
		if p := recover(); p != nil {
			_, stack, _ := strings.Cut(string(debug.Stack()), "panic(")
			assert.Fail(t, fmt.Sprint("it panicked: ", p), firstLines(stack))
		}
	}()
	do()
}

func firstLines(s string) string {
	lines := strings.SplitAfterN(s, "\n", 19)
	return strings.Join(lines[:min(len(lines), 18)], "")
}
