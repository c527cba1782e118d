package gate

import (
	"context"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/polargate/polargate"
	"github.com/polargate/polargate/polartest"
	"github.com/polargate/polargate/tests/internal/kit"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestManyChecksAskPolarOnce(t *testing.T) {
	t.Parallel()
	for name, wait := range map[string]time.Duration{"when stale": 25 * time.Hour, "when grace is over": 30 * kit.Day} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := kit.NewWorld(t)
				gate := w.Activated()
				time.Sleep(wait)
				w.Polar.ForgetRequests()
				w.Inject("", 0, polartest.Delay(300*time.Millisecond))
				var all sync.WaitGroup
				for range 200 {
					all.Go(func() {
						status, err := gate.Check(t.Context())
						assert.NoError(t, err)
						assert.Equal(t, polargate.Active, status.State)
					})
				}
				all.Wait()
				assert.Equal(t, 1, w.Polar.Count(""))
			})
		})
	}
	t.Run("when half of them give up", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			w := kit.NewWorld(t)
			gate := w.Activated()
			time.Sleep(25 * time.Hour)
			w.Polar.ForgetRequests()
			w.Inject("", 0, polartest.Delay(time.Second))
			var all sync.WaitGroup
			for i := range 200 {
				all.Go(func() {
					ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
					defer cancel()
					if i%2 == 0 {
						ctx, cancel = context.WithTimeout(t.Context(), time.Duration(i)*time.Millisecond)
						defer cancel()
					}
					began := time.Now()
					status, err := gate.Check(ctx)
					assert.NoError(t, err)
					if i%2 == 0 {
						assert.LessOrEqual(t, time.Since(began), time.Duration(i)*time.Millisecond)
						assert.Equal(t, polargate.Grace, status.State)
					} else {
						assert.Equal(t, polargate.Active, status.State, "one caller who leaves takes nobody's answer along")
					}
				})
			}
			all.Wait()
			assert.Equal(t, 1, w.Polar.Count(""))
		})
	})
	t.Run("of eight gates on one store, it is one each at most", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			w := kit.NewWorld(t)
			w.Activated()
			time.Sleep(25 * time.Hour)
			w.Polar.ForgetRequests()
			var all sync.WaitGroup
			for range 8 {
				gate := w.Open()
				for range 25 {
					all.Go(func() {
						_, err := gate.Check(t.Context())
						assert.NoError(t, err)
					})
				}
			}
			all.Wait()
			assert.LessOrEqual(t, w.Polar.Count(""), 8)
			assert.Positive(t, w.Polar.Count(""))
		})
	})
}

func TestUsesAreCountedExactlyByManyAtOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := kit.NewWorld(t, kit.Usage(20))
		w.Config.CheckTimeout = time.Minute
		gate := w.Activated()
		var all sync.WaitGroup
		var counted, refused atomic.Int64
		for range 30 {
			all.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
				defer cancel()
				_, err := gate.Consume(ctx, 1)
				if err == nil {
					counted.Add(1)
					return
				}
				refused.Add(1)
				assert.Equal(t, polargate.ErrUsageExceeded, kit.ReasonOf(err), "%v", err)
			})
		}
		all.Wait()
		assert.Equal(t, int64(20), counted.Load())
		assert.Equal(t, int64(10), refused.Load())
		assert.Equal(t, int64(20), w.Now().Usage)
		assert.Equal(t, polargate.Active, gate.Status().State)
	})
}

// storm calls everything at once, as often as it can within d of the clock.
func storm(t *testing.T, w *kit.World, gate *polargate.Gate, d time.Duration, until <-chan struct{}) *sync.WaitGroup {
	second := w.Polar.AddKey(polartest.LicenseKey{LimitActivations: polartest.Limit(5), BenefitID: w.Key.BenefitID})
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	var all sync.WaitGroup
	for _, call := range []func() error{
		func() error { _, err := gate.Check(ctx); return err },
		func() error { _, err := gate.Refresh(ctx); return err },
		func() error { _, err := gate.Activate(ctx, w.Key.Key); return err },
		func() error { _, err := gate.Activate(ctx, second.Key); return err },
		func() error { _, err := gate.Consume(ctx, 1); return err },
		func() error { return gate.Deactivate(ctx) },
		func() error { gate.Has("export"); _ = gate.Status().OK(); return nil },
		func() error { _, err := gate.Status().MarshalJSON(); return err },
	} {
		for range 4 {
			all.Go(func() {
				for ctx.Err() == nil {
					select {
					case <-until:
						return
					default:
					}
					if err := call(); err != nil {
						assert.NotEmpty(t, kit.ReasonOf(err), "%T: %v", err, err)
					}
					select {
					case <-until:
					case <-time.After(5 * time.Millisecond):
					}
				}
			})
		}
	}
	all.Go(func() {
		for i := 0; ctx.Err() == nil; i++ {
			select {
			case <-until:
				return
			case <-time.After(17 * time.Millisecond):
			}
			w.Polar.SetOffline(i%5 == 0)
			if i%3 == 0 {
				w.Inject("", 1, []polartest.Effect{polartest.AnswerLost(), polartest.Delay(time.Second), polartest.ServerError(503), polartest.LoginPage(200), polartest.Truncated()}[i/3%5])
			}
		}
	})
	return &all
}

func TestEverythingAtOnceLeavesOneLicenseOrNone(t *testing.T) {
	t.Parallel()
	for name, store := range map[string]func(*testing.T) polargate.Store{
		"in memory": func(*testing.T) polargate.Store { return &polargate.MemoryStore{} },
		"on disk":   func(t *testing.T) polargate.Store { return polargate.FileStore(t.TempDir()) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := kit.NewWorld(t, kit.Limit(1000), kit.Usage(1_000_000))
				w.Config.Store = store(t)
				var changes atomic.Int64
				w.Config.OnChange = func(_, _ polargate.Status) { changes.Add(1) }
				gate := w.Open()
				storm(t, w, gate, 10*time.Second, nil).Wait()
				w.Polar.SetOffline(false)
				w.Polar.ClearFaults()
				time.Sleep(10 * time.Minute)
				_, err := gate.Activate(t.Context(), w.Key.Key)
				require.NoError(t, err)
				require.NoError(t, gate.Deactivate(t.Context()))
				time.Sleep(time.Hour)
				_, err = gate.Check(t.Context())
				require.ErrorIs(t, err, polargate.ErrNoLicense)
				synctest.Wait()
				assert.Positive(t, changes.Load())
				assert.False(t, gate.Has("export"))
				taken, returned, lost := 0, 0, 0
				for _, r := range w.Polar.Requests() {
					switch {
					case r.Fault == "LoginPage": // which answers 200 and gives no seat
					case strings.HasSuffix(r.Path, kit.PathDeactivate) && r.Status == 204:
						returned++
					case strings.HasSuffix(r.Path, kit.PathActivate) && r.Status == 200:
						taken++
						if r.Fault == "AnswerLost" || r.Fault == "Truncated" {
							lost++
						}
					}
				}
				assert.Positive(t, taken)
				assert.LessOrEqual(t, taken-returned, lost, "all seats are given back but those whose answer was lost")
			})
		})
	}
}

func TestCloseInTheMiddleOfEverything(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := kit.NewWorld(t, kit.Limit(1000), kit.Usage(1_000_000))
		gate := w.Open()
		over := make(chan struct{})
		all := storm(t, w, gate, time.Hour, over)
		time.Sleep(2500 * time.Millisecond)
		began := time.Now()
		var closing sync.WaitGroup
		for range 5 {
			closing.Go(func() { assert.NoError(t, gate.Close()) })
		}
		closing.Wait()
		assert.LessOrEqual(t, time.Since(began), 6*time.Second)
		assert.False(t, gate.Has("export"))
		sent := w.Polar.Count("")
		time.Sleep(10 * time.Second)
		assert.Equal(t, sent, w.Polar.Count(""), "nothing is asked after Close")
		close(over)
		all.Wait()
	})
}

func TestCallsAfterCloseFailAtOnce(t *testing.T) {
	t.Parallel()
	for name, begin := range map[string]func(*kit.World) *polargate.Gate{
		"with a license":    func(w *kit.World) *polargate.Gate { return w.Activated() },
		"without a license": func(w *kit.World) *polargate.Gate { return w.Open() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := kit.NewWorld(t)
				gate := begin(w)
				licensed := gate.Has("export")
				require.NoError(t, gate.Close())
				require.NoError(t, gate.Close())
				w.Inject("", 0, polartest.Hang())
				sent := w.Polar.Count("")
				for name, call := range map[string]func() error{
					"Check":        func() error { _, err := gate.Check(t.Context()); return err },
					"Refresh":      func() error { _, err := gate.Refresh(t.Context()); return err },
					"Activate":     func() error { _, err := gate.Activate(t.Context(), w.Key.Key); return err },
					"ActivateWait": func() error { _, err := gate.ActivateWait(t.Context(), w.Key.Key); return err },
					"Consume":      func() error { _, err := gate.Consume(t.Context(), 1); return err },
					"Deactivate":   func() error { return gate.Deactivate(t.Context()) },
				} {
					began := time.Now()
					err := call()
					assert.ErrorIs(t, err, polargate.ErrClosed, name)
					assert.Equal(t, polargate.ErrClosed, kit.ReasonOf(err), name)
					assert.Zero(t, time.Since(began), name)
				}
				assert.False(t, gate.Has("export"))
				assert.Equal(t, sent, w.Polar.Count(""))
				assert.Equal(t, licensed, w.Open().Has("export"), "the license stays stored")
			})
		})
	}
}

func TestCallsUnderWayReturnWhenTheGateIsClosed(t *testing.T) {
	t.Parallel()
	for name, call := range map[string]func(context.Context, *polargate.Gate, string) error{
		"Check":   func(ctx context.Context, g *polargate.Gate, _ string) error { _, err := g.Check(ctx); return err },
		"Refresh": func(ctx context.Context, g *polargate.Gate, _ string) error { _, err := g.Refresh(ctx); return err },
		"Consume": func(ctx context.Context, g *polargate.Gate, _ string) error { _, err := g.Consume(ctx, 1); return err },
		"Activate": func(ctx context.Context, g *polargate.Gate, key string) error {
			_, err := g.Activate(ctx, key)
			return err
		},
		"ActivateWait": func(ctx context.Context, g *polargate.Gate, key string) error {
			_, err := g.ActivateWait(ctx, key)
			return err
		},
		"Deactivate": func(ctx context.Context, g *polargate.Gate, _ string) error { return g.Deactivate(ctx) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := kit.NewWorld(t)
				w.Config.CheckTimeout = time.Hour
				second := w.Polar.AddKey(polartest.LicenseKey{LimitActivations: polartest.Limit(1), BenefitID: w.Key.BenefitID})
				gate := w.Activated()
				time.Sleep(20 * kit.Day)
				w.Inject("", 0, polartest.Hang())
				returned := make(chan time.Time, 1)
				go func() {
					_ = call(t.Context(), gate, second.Key)
					returned <- time.Now()
				}()
				time.Sleep(time.Second)
				began := time.Now()
				require.NoError(t, gate.Close())
				assert.LessOrEqual(t, time.Since(began), 6*time.Second)
				select {
				case at := <-returned:
					assert.LessOrEqual(t, at.Sub(began), 6*time.Second)
				case <-time.After(10 * time.Minute):
					assert.Fail(t, "the call goes on after Close")
				}
			})
		})
	}
}

// TestNothingIsLeftRunning would find a goroutine of a Gate that outlives it:
// a bubble does not end before all its goroutines have.
func TestNothingIsLeftRunning(t *testing.T) {
	t.Parallel()
	for name, effect := range map[string]polartest.Effect{"by a good life": polartest.Delay(0), "by silence": polartest.Hang(), "by a byte a second": polartest.SlowDrip(time.Second), "by lost answers": polartest.AnswerLost(), "by 429": polartest.RateLimited("3600")} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := kit.NewWorld(t)
				w.Config.Store = polargate.FileStore(t.TempDir())
				w.Config.OnChange = func(_, _ polargate.Status) {}
				gate := w.Activated()
				w.Inject("", 0, effect)
				ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
				defer cancel()
				for range 5 {
					time.Sleep(13 * time.Hour)
					_, _ = gate.Check(ctx)
					_, _ = gate.Refresh(ctx)
					_, _ = gate.Consume(ctx, 1)
					_, _ = gate.Activate(ctx, w.Key.Key)
				}
				_ = gate.Deactivate(ctx)
				require.NoError(t, gate.Close())
				synctest.Wait()
				time.Sleep(6 * time.Second) // what Close did not wait for
				synctest.Wait()
				stacks := make([]byte, 1<<20)
				stacks = stacks[:runtime.Stack(stacks, true)]
				for stack := range strings.SplitSeq(string(stacks), "\n\n") {
					if inThisBubble(t, stack) && !strings.Contains(stack, "TestNothingIsLeftRunning") {
						assert.Fail(t, "still running", stack)
					}
				}
			})
		})
	}
}

var bubble = func(stack string) string {
	_, rest, ok := strings.Cut(strings.SplitN(stack, "\n", 2)[0], "synctest bubble ")
	if !ok {
		return ""
	}
	return strings.TrimRight(rest, "]:")
}

// inThisBubble tells whether a stack belongs to the caller's bubble, and to the
// library.
func inThisBubble(t *testing.T, stack string) bool {
	t.Helper()
	own := make([]byte, 4096)
	own = own[:runtime.Stack(own, false)]
	mine := bubble(string(own))
	require.NotEmpty(t, mine)
	return bubble(stack) == mine && strings.Contains(stack, "github.com/polargate/polargate.")
}

func TestARealClientLeavesNoConnectionsBehind(t *testing.T) {
	// Not parallel: it looks at all goroutines of the process.
	polar := polartest.New(polartest.Config{})
	key := polar.AddKey(polartest.LicenseKey{LimitActivations: polartest.Limit(1)})
	server, err := polar.Start()
	require.NoError(t, err)
	defer server.Close()
	running := func() int {
		stacks := make([]byte, 4<<20)
		stacks = stacks[:runtime.Stack(stacks, true)]
		n := 0
		for stack := range strings.SplitSeq(string(stacks), "\n\n") {
			if strings.Contains(stack, "net/http.(*persistConn)") || (strings.Contains(stack, "github.com/polargate/polargate.") && !strings.Contains(stack, "_test.")) {
				n++
			}
		}
		return n
	}
	before := running()
	for range 3 {
		gate, err := polargate.Open(polargate.Config{OrganizationID: polar.OrganizationID(), BaseURL: server.URL, Store: &polargate.MemoryStore{}, Fingerprint: kit.ThisMachine})
		require.NoError(t, err)
		_, err = gate.Activate(t.Context(), key.Key)
		require.NoError(t, err)
		require.NoError(t, gate.Deactivate(t.Context()))
		require.NoError(t, gate.Close())
	}
	assert.Eventually(t, func() bool { return running() <= before }, 5*time.Second, 20*time.Millisecond, "connections and goroutines end with the Gate")
}

func TestTheProgramsOwnClientIsNotChanged(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := kit.NewWorld(t)
		var idle atomic.Int64
		transport := &countingTransport{RoundTripper: w.Polar.Transport(), closed: &idle}
		own := &http.Client{Transport: transport, Timeout: time.Hour}
		w.Config.HTTPClient = own
		gate := w.Activated()
		_, err := gate.Refresh(t.Context())
		require.NoError(t, err)
		require.NoError(t, gate.Close())
		assert.Same(t, transport, own.Transport)
		assert.Equal(t, time.Hour, own.Timeout)
		assert.Nil(t, own.CheckRedirect)
		assert.Nil(t, own.Jar)
		assert.Zero(t, idle.Load(), "connections that others use are not closed under them")
	})
}

type countingTransport struct {
	http.RoundTripper
	closed *atomic.Int64
}

func (c *countingTransport) CloseIdleConnections() { c.closed.Add(1) }

func TestAPanicBelowTheLibraryDoesNotTakeTheProgramDown(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*kit.World){
		"in the transport": func(w *kit.World) {
			w.Config.HTTPClient = &http.Client{Transport: kit.RoundTripper(func(*http.Request) (*http.Response, error) { panic("transport") })}
		},
		"in the store": func(w *kit.World) {
			store := &kit.BrittleStore{}
			store.Set(nil, func(context.Context, string) error { panic("store") }, nil)
			w.Config.Store = store
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := kit.NewWorld(t)
				change(w)
				assert.NotPanics(t, func() {
					gate := w.Open()
					_, _ = gate.Activate(t.Context(), w.Key.Key)
					_, _ = gate.Refresh(t.Context())
					synctest.Wait()
					_ = gate.Close()
				})
			})
		})
	}
}
