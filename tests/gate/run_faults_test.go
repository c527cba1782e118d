package gate

import (
	"context"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/polargate/polargate"
	"github.com/polargate/polargate/polartest"
	"github.com/polargate/polargate/tests/internal/kit"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestRunSurvivesAnOutageLongerThanGrace(t *testing.T) {
	t.Parallel()
	for name, effect := range map[string]polartest.Effect{"login pages": polartest.LoginPage(200), "server errors": polartest.ServerError(503)} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := kit.NewWorld(t)
				w.Config.FreshFor, w.Config.GracePeriod = 2*time.Hour, kit.Day
				gate := w.Activated()
				granted := time.Now()
				run(t, gate)
				w.Inject("", 0, effect)
				time.Sleep(kit.Day - time.Second)
				assert.True(t, gate.Has("export"))
				assert.Equal(t, granted.Add(kit.Day).UTC(), gate.Status().GraceUntil, "questions in vain do not stretch it")
				time.Sleep(2 * time.Second)
				assert.False(t, gate.Has("export"))
				assert.Equal(t, polargate.ErrGraceEnded, gate.Status().Reason)
				time.Sleep(6 * time.Hour)
				assert.False(t, gate.Has("export"))
				w.Polar.ClearFaults()
				within(t, 25*time.Minute, func() bool { return gate.Has("export") }, "Polar is back")
				assert.Equal(t, polargate.Active, gate.Status().State)
				assert.Equal(t, 1, w.Seats())
			})
		})
	}
}

func TestRunEndsAtOnce(t *testing.T) {
	t.Parallel()
	type ending struct {
		context.Context
		cancel context.CancelFunc
		gate   *polargate.Gate
	}
	for end, now := range map[string]func(ending){
		"when its context ends":      func(e ending) { e.cancel() },
		"when the gate is closed":    func(e ending) { _ = e.gate.Close() },
		"when both happen":           func(e ending) { e.cancel(); _ = e.gate.Close() },
		"when it is closed by three": func(e ending) { go e.gate.Close(); go e.gate.Close(); _ = e.gate.Close() },
	} {
		for name, prepare := range map[string]func(*testing.T, *kit.World, *kit.BrittleStore){
			"while it waits":    func(*testing.T, *kit.World, *kit.BrittleStore) {},
			"while Polar hangs": func(_ *testing.T, w *kit.World, _ *kit.BrittleStore) { w.Inject("", 0, polartest.Hang()) },
			"while Polar drips": func(_ *testing.T, w *kit.World, _ *kit.BrittleStore) {
				w.Inject("", 0, polartest.SlowDrip(time.Minute))
			},
			"while the Store hangs on reading": func(_ *testing.T, _ *kit.World, s *kit.BrittleStore) { s.Set(kit.Waits, nil, nil) },
			"while the Store hangs on locks":   func(_ *testing.T, _ *kit.World, s *kit.BrittleStore) { s.Set(nil, nil, kit.Waits) },
			"while another process has the lock": func(t *testing.T, _ *kit.World, s *kit.BrittleStore) {
				for name := range s.Contents() {
					unlock, err := s.MemoryStore.Lock(t.Context(), name)
					require.NoError(t, err)
					t.Cleanup(unlock)
				}
			},
			"while it backs off":         func(_ *testing.T, w *kit.World, _ *kit.BrittleStore) { w.Polar.SetOffline(true) },
			"while it waits for a grant": func(_ *testing.T, w *kit.World, _ *kit.BrittleStore) { w.Polar.Revoke(w.Key.ID) },
			"while Polar wants a pause":  func(_ *testing.T, w *kit.World, _ *kit.BrittleStore) { w.Inject("", 0, polartest.RateLimited("900")) },
		} {
			t.Run(end+" "+name, func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					w := kit.NewWorld(t)
					store := &kit.BrittleStore{}
					w.Config.Store, w.Config.FreshFor = store, time.Hour
					gate := w.Activated()
					time.Sleep(61 * time.Minute)
					prepare(t, w, store)
					ctx, cancel := context.WithCancel(t.Context())
					defer cancel()
					ended := make(chan error, 1)
					go func() { ended <- gate.Run(ctx) }()
					time.Sleep(700 * time.Millisecond)
					synctest.Wait()
					select {
					case err := <-ended:
						require.Fail(t, "it ended by itself", "%v", err)
					default:
					}
					began := time.Now()
					now(ending{ctx, cancel, gate})
					require.NoError(t, <-ended)
					atOnce := time.Second
					if strings.HasSuffix(name, "has the lock") {
						atOnce = 5 * time.Second // for an answer that came, and is to be stored
					}
					assert.Less(t, time.Since(began), atOnce)
				})
			})
		}
	}
	t.Run("at the deadline of its context", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			w := kit.NewWorld(t)
			gate := w.Activated()
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Hour)
			defer cancel()
			began := time.Now()
			require.NoError(t, gate.Run(ctx))
			assert.Equal(t, 30*time.Hour, time.Since(began))
			assert.True(t, gate.Has("export"), "the gate goes on")
			_, err := gate.Refresh(t.Context())
			require.NoError(t, err)
		})
	})
}

func TestRunThatCannotStartSaysSo(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := kit.NewWorld(t)
		m := metered(w)
		gate := w.Activated()
		var wrong *polargate.InputError
		var none context.Context
		require.ErrorAs(t, gate.Run(none), &wrong)
		require.NoError(t, gate.Close())
		before := m.count()
		require.ErrorIs(t, gate.Run(t.Context()), polargate.ErrClosed)
		require.ErrorIs(t, gate.Run(t.Context()), polargate.ErrClosed)
		assert.Equal(t, before, m.count())
	})
}

// A Store on a network gives up when its context ends, and that is no news about
// what it holds.
func TestRunThatIsEndedLeavesTheStatusAsItWas(t *testing.T) {
	t.Parallel()
	for name, license := range map[string]bool{"with a license": true, "without one": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := kit.NewWorld(t)
				store := &kit.BrittleStore{}
				store.Set(func(ctx context.Context, _ string) error { return ctx.Err() }, nil, nil)
				w.Config.Store = store
				log := &kit.Lines{}
				w.Config.Logger = log.Logger()
				gate := w.Open()
				if license {
					_, err := gate.Activate(t.Context(), w.Key.Key)
					require.NoError(t, err)
				}
				before := gate.Status()
				ctx, cancel := context.WithCancel(t.Context())
				cancel()
				require.NoError(t, gate.Run(ctx))
				after := gate.Status()
				assert.Equal(t, before.State, after.State)
				assert.Equal(t, before.Reason, after.Reason)
				assert.NotContains(t, log.String(), "level=WARN")
			})
		})
	}
}

func TestAStoreThatFailsNeitherStopsRunNorFloodsTheLog(t *testing.T) {
	t.Parallel()
	for name, break_ := range map[string]func(*kit.BrittleStore){
		"fails to load": func(s *kit.BrittleStore) { s.Set(kit.Fails, nil, nil) },
		"fails to save": func(s *kit.BrittleStore) { s.Set(nil, kit.Fails, nil) },
		"fails to lock": func(s *kit.BrittleStore) { s.Set(nil, nil, kit.Fails) },
		"fails at all":  func(s *kit.BrittleStore) { s.Set(kit.Fails, kit.Fails, kit.Fails) },
		"panics": func(s *kit.BrittleStore) {
			panics := func(context.Context, string) error { panic("the disk is on fire") }
			s.Set(panics, panics, panics)
		},
		"hangs on loading": func(s *kit.BrittleStore) { s.Set(kit.Waits, nil, nil) },
		"hangs on saving":  func(s *kit.BrittleStore) { s.Set(nil, kit.Waits, nil) },
		"hangs on locking": func(s *kit.BrittleStore) { s.Set(nil, nil, kit.Waits) },
		"hangs on all":     func(s *kit.BrittleStore) { s.Set(kit.Waits, kit.Waits, kit.Waits) },
		"is damaged": func(s *kit.BrittleStore) {
			for name := range s.Contents() {
				_ = s.MemoryStore.Save(context.Background(), name, []byte("damaged"))
			}
		},
		"is damaged and cannot be written": func(s *kit.BrittleStore) {
			for name := range s.Contents() {
				_ = s.MemoryStore.Save(context.Background(), name, []byte("damaged"))
			}
			s.Set(nil, kit.Fails, nil)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := kit.NewWorld(t)
				store := &kit.BrittleStore{}
				log := &kit.Lines{}
				w.Config.Store, w.Config.Logger, w.Config.FreshFor = store, log.Logger(), 5*time.Hour
				m := metered(w)
				gate := w.Activated()
				run(t, gate)
				time.Sleep(90 * time.Minute)
				break_(store)
				before := m.count()
				for range 10 {
					time.Sleep(time.Hour)
					require.Equal(t, polargate.Active, gate.Status().State, "it goes on from memory")
				}
				asked := m.count() - before
				assert.GreaterOrEqual(t, asked, 3, "asking")
				assert.LessOrEqual(t, asked, 5, "and not more often than else")
				assert.LessOrEqual(t, strings.Count(log.String(), "\n"), 12, "lines in ten hours")
				assert.NotContains(t, log.String(), w.Key.Key)

				w.Polar.Revoke(w.Key.ID)
				within(t, 190*time.Minute, func() bool { return !gate.Has("export") }, "a refusal counts all the same")
				before = m.count()
				time.Sleep(4 * time.Hour)
				assert.LessOrEqual(t, m.count()-before, 20)
				w.Polar.Grant(w.Key.ID)
				within(t, 95*time.Minute, func() bool { return gate.Has("export") }, "and a grant")
				assert.LessOrEqual(t, strings.Count(log.String(), "\n"), 50)

				store.Set(nil, nil, nil)
				time.Sleep(2 * time.Minute)
				assert.False(t, gate.Status().Unsaved)
				next := w.Open()
				assert.True(t, next.Has("export"))
				assert.Equal(t, gate.Status().CheckedAt, next.Status().CheckedAt, "and it is stored when that works again")
			})
		})
	}
}

func TestAPanicBelowTheLibraryDoesNotEndRun(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*kit.World, *kit.BrittleStore, func(func())){
		"in the transport": func(w *kit.World, _ *kit.BrittleStore, once func(func())) {
			next := w.Polar.Transport()
			w.Config.HTTPClient = &http.Client{Transport: kit.RoundTripper(func(r *http.Request) (*http.Response, error) {
				once(func() { panic("transport") })
				return next.RoundTrip(r)
			})}
		},
		"in the store": func(_ *kit.World, s *kit.BrittleStore, once func(func())) {
			s.Set(func(context.Context, string) error { once(func() { panic("store") }); return nil }, nil, nil)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := kit.NewWorld(t)
				require.NoError(t, w.Activated().Close())
				store := &kit.BrittleStore{MemoryStore: polargate.MemoryStore{}}
				w.Config.Store = store
				var mu sync.Mutex
				armed := false
				change(w, store, func(f func()) {
					mu.Lock()
					fire := armed
					armed = false
					mu.Unlock()
					if fire {
						f()
					}
				})
				gate := w.Activated()
				time.Sleep(25 * time.Hour)
				mu.Lock()
				armed = true
				mu.Unlock()
				ended := make(chan any, 1)
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				go func() {
					defer func() { ended <- recover() }()
					_ = gate.Run(ctx)
				}()
				time.Sleep(2 * time.Minute)
				select {
				case panicked := <-ended:
					require.Fail(t, "it ended", "%v", panicked)
				default:
				}
				assert.Equal(t, polargate.Active, gate.Status().State)
				cancel()
				assert.Nil(t, <-ended)
			})
		})
	}
}
