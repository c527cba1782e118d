package gate

import (
	"context"
	"errors"
	"net/http"
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

// run starts Gate.Run in the background. It ends with the test, or when stop is
// called, which waits for that.
func run(t *testing.T, gate *polargate.Gate) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	ended := make(chan error, 1)
	go func() { ended <- gate.Run(ctx) }()
	return func() {
		t.Helper()
		cancel()
		assert.NoError(t, <-ended)
	}
}

// within waits until it is so, looking every second or so, and fails if that
// takes longer than limit.
func within(t *testing.T, limit time.Duration, so func() bool, what string) {
	t.Helper()
	began := time.Now()
	for !so() {
		require.LessOrEqual(t, time.Since(began), limit, what)
		time.Sleep(max(time.Second, limit/300))
	}
}

// meter notes when requests leave, those that reach nobody as well.
type meter struct {
	http.RoundTripper
	mu sync.Mutex
	at []time.Time
}

func (m *meter) RoundTrip(r *http.Request) (*http.Response, error) {
	m.mu.Lock()
	m.at = append(m.at, time.Now())
	m.mu.Unlock()
	return m.RoundTripper.RoundTrip(r)
}

func (m *meter) count() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.at)
}

// since are the pauses between the requests from then on, the one that lasts
// still included.
func (m *meter) pauses(since time.Time) (all []time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	last := since
	for _, at := range m.at {
		if at.After(since) {
			all = append(all, at.Sub(last))
			last = at
		}
	}
	return append(all, time.Since(last))
}

// metered lets all further Gates of the world send through a meter.
func metered(w *kit.World) *meter {
	m := &meter{RoundTripper: w.Polar.Transport()}
	w.Config.HTTPClient = &http.Client{Transport: m}
	return m
}

// times are those of Polar's requests.
func times(w *kit.World) (all []time.Time) {
	for _, r := range w.Polar.Requests() {
		all = append(all, r.At)
	}
	return all
}

func TestRunKeepsALicenseFreshForAsLongAsTheProgramRuns(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := kit.NewWorld(t)
		gate := w.Activated()
		run(t, gate)
		w.Polar.ForgetRequests()
		last := time.Now()
		const days = 15
		for range days * 24 {
			time.Sleep(time.Hour)
			require.Equal(t, polargate.Active, gate.Status().State)
			require.True(t, gate.Has("export"))
		}
		var shortest, longest time.Duration
		for _, at := range times(w) {
			gap := at.Sub(last)
			last = at
			require.GreaterOrEqual(t, gap, 12*time.Hour, "not before half of the freshness")
			require.LessOrEqual(t, gap, 15*time.Hour, "and with time to spare")
			if shortest == 0 || gap < shortest {
				shortest = gap
			}
			longest = max(longest, gap)
		}
		assert.InDelta(t, days*24/13.2, w.Polar.Count(""), 5)
		assert.Greater(t, longest-shortest, time.Hour, "spread")
		assert.Zero(t, w.Polar.Count(kit.PathActivate))
		assert.Equal(t, 1, w.Seats())
	})
}

func TestRunOfManyProgramsDoesNotAskAtTheSameMoment(t *testing.T) {
	t.Parallel()
	for name, first := range map[string]func(*kit.World){
		"after an update that started them all": func(*kit.World) {},
		"after an outage that ended for them all": func(w *kit.World) {
			w.Polar.SetOffline(true)
			time.Sleep(4 * time.Hour)
			w.Polar.SetOffline(false)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				const programs = 6
				// Each has an address of its own, and does not wait for the others.
				var worlds []*kit.World
				for range programs {
					w := kit.NewWorld(t)
					w.Config.FreshFor = 5 * time.Hour
					run(t, w.Activated())
					worlds = append(worlds, w)
				}
				var all sync.WaitGroup
				for _, w := range worlds {
					all.Go(func() { first(w) })
				}
				all.Wait()
				var earliest, latest time.Time
				moments := map[time.Time]bool{}
				for _, w := range worlds {
					w.Polar.ForgetRequests()
				}
				time.Sleep(190 * time.Minute)
				for _, w := range worlds {
					require.NotZero(t, w.Polar.Count(""))
					at := times(w)[0]
					moments[at] = true
					if earliest.IsZero() || at.Before(earliest) {
						earliest = at
					}
					if at.After(latest) {
						latest = at
					}
				}
				assert.Len(t, moments, programs)
				assert.Greater(t, latest.Sub(earliest), time.Minute)
			})
		})
	}
}

func TestRunDoesNotAskPolarWhileTheLastAnswerIsFresh(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := kit.NewWorld(t)
		w.Activated()
		time.Sleep(11 * time.Hour)
		w.Polar.ForgetRequests()
		for range 20 {
			// Short runs, one after the other.
			gate := w.Open()
			stop := run(t, gate)
			time.Sleep(time.Minute)
			stop()
			require.NoError(t, gate.Close())
		}
		assert.Zero(t, w.Polar.Count(""))
	})
}

func TestRunWithoutALicenseDoesNotAskPolar(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := kit.NewWorld(t)
		m := metered(w)
		run(t, w.Open())
		time.Sleep(6 * time.Hour)
		assert.Zero(t, m.count())
	})
}

func TestRunFindsANetworkThatComesAfterTheStart(t *testing.T) {
	t.Parallel()
	for name, age := range map[string]time.Duration{"in grace": 2 * kit.Day, "locked, since grace is over": 20 * kit.Day} {
		for _, comes := range []time.Duration{time.Second, 4 * time.Second, 9 * time.Second, 16 * time.Second, 25 * time.Second, 40 * time.Second, 55 * time.Second} {
			t.Run(name+", after "+comes.String(), func(t *testing.T) {
				t.Parallel()
				// The pauses are drawn at random.
				for range 5 {
					synctest.Test(t, func(t *testing.T) {
						w := kit.NewWorld(t)
						require.NoError(t, w.Activated().Close())
						time.Sleep(age)
						w.Polar.SetOffline(true)
						gate := w.Open()
						run(t, gate)
						time.Sleep(comes)
						assert.NotEqual(t, polargate.Active, gate.Status().State)
						w.Polar.SetOffline(false)
						within(t, 11*time.Second, func() bool { return gate.Status().State == polargate.Active }, "about ten seconds after the network came")
					})
				}
			})
		}
	}
}

func TestRunDoesNotHammer(t *testing.T) {
	t.Parallel()
	type bound struct{ first, then int } // requests an hour
	// Pauses of a quarter of an hour after failures and of an hour after
	// refusals, and some more at the beginning.
	failing, refused := bound{40, 5}, bound{20, 2}
	times := func(b bound, n int) bound { return bound{b.first * n, b.then * n} }
	wholeDay := map[string]bool{"a network that is not there": true, "a server that fails": true, "a key that is revoked": true}
	update := func(change func(*polartest.LicenseKey)) func(*kit.World) {
		return func(w *kit.World) { w.Polar.Update(w.Key.ID, change) }
	}
	for name, test := range map[string]struct {
		happens func(*kit.World)
		most    bound
		// silence is how long it may be until the end is noticed; ends undoes it.
		silence time.Duration
		ends    func(*kit.World)
	}{
		"a network that is not there":  {func(w *kit.World) { w.Polar.SetOffline(true) }, failing, 25 * time.Minute, func(w *kit.World) { w.Polar.SetOffline(false) }},
		"a login page":                 {inject(polartest.LoginPage(200)), failing, 25 * time.Minute, clearFaults},
		"a server that fails":          {inject(polartest.ServerError(500)), times(failing, 3), 25 * time.Minute, clearFaults},
		"a server that hangs":          {inject(polartest.Hang()), times(failing, 2), 25 * time.Minute, clearFaults},
		"connections that are reset":   {inject(polartest.Reset()), times(failing, 3), 25 * time.Minute, clearFaults},
		"a route that is gone":         {inject(polartest.RouterNotFound()), failing, 25 * time.Minute, clearFaults},
		"a request that is called bad": {inject(polartest.Body(422, applicationJSON, `{"error":"RequestValidationError","detail":[]}`)), failing, 25 * time.Minute, clearFaults},
		"a pause asked for each time":  {inject(polartest.RateLimited("60")), failing, 25 * time.Minute, clearFaults},

		"a key that is revoked": {func(w *kit.World) { w.Polar.Revoke(w.Key.ID) }, refused, 95 * time.Minute, func(w *kit.World) { w.Polar.Grant(w.Key.ID) }},
		"a key that expired":    {func(w *kit.World) { expireAt(w, time.Now()) }, refused, 95 * time.Minute, func(w *kit.World) { expireAt(w, time.Time{}) }},
		"a key that is unknown": {update(func(k *polartest.LicenseKey) { k.Deleted = true }), times(refused, 2), 95 * time.Minute, update(func(k *polartest.LicenseKey) { k.Deleted = false })},
		"a seat that is gone":   {update(func(k *polartest.LicenseKey) { k.Activations[0].Released = true }), times(refused, 2), 95 * time.Minute, update(func(k *polartest.LicenseKey) { k.Activations[0].Released = false })},
		// Polar grants it, and this program does not take it.
		"a key of a benefit that is not this program's": {
			update(func(k *polartest.LicenseKey) { k.BenefitID = "6b43a9a5-8d86-4c5a-9c5e-3a1f9a0b7c11" }), refused, 95 * time.Minute, nil,
		},
		// Polar's clock is a little behind, so it grants what has expired here.
		"a key that expired by this clock only": {func(w *kit.World) {
			w.Polar.Advance(-4 * time.Minute)
			expireAt(w, time.Now())
		}, refused, 95 * time.Minute, func(w *kit.World) { expireAt(w, time.Time{}) }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := kit.NewWorld(t)
				m := metered(w)
				w.Config.FreshFor = time.Hour
				gate := w.Activated()
				time.Sleep(61 * time.Minute)
				test.happens(w)
				run(t, gate)
				began, before := time.Now(), m.count()
				time.Sleep(time.Hour)
				require.LessOrEqual(t, m.count()-before, test.most.first, "requests in the first hour")
				more := 4
				if wholeDay[name] {
					more = 23
				}
				time.Sleep(time.Duration(more) * time.Hour)
				assert.LessOrEqual(t, m.count()-before, test.most.first+more*test.most.then, "requests in all")
				for _, pause := range m.pauses(began) {
					assert.LessOrEqual(t, pause, test.silence, "and it does not give up")
				}
				if test.ends == nil {
					return
				}
				assert.NotEqual(t, polargate.Active, gate.Status().State)
				test.ends(w)
				within(t, test.silence, func() bool { return gate.Status().State == polargate.Active }, "and notices the end")
			})
		})
	}
}

func TestRunOfManyProcessesOnOneStoreDoesNotHammerTogether(t *testing.T) {
	t.Parallel()
	for name, effect := range map[string]polartest.Effect{
		"a server that fails":          polartest.ServerError(500),
		"a server that hangs":          polartest.Hang(),
		"a login page that takes time": polartest.Rewrite(func(int, http.Header, []byte) (int, []byte) { time.Sleep(time.Second); return 502, []byte("<html>") }),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				const processes, hours = 12, 2
				w := kit.NewWorld(t)
				m := metered(w)
				require.NoError(t, w.Activated().Close())
				time.Sleep(25 * time.Hour)
				w.Inject("", 0, effect)
				for range processes {
					run(t, w.Open())
				}
				before := m.count()
				time.Sleep(hours * time.Hour)
				// Each for itself would ask four times an hour, and some more at
				// the beginning, with three requests each time.
				assert.LessOrEqual(t, m.count()-before, processes*(hours*4+17)*3)
			})
		})
	}
}

func TestRunObeysAPauseThatPolarAsksFor(t *testing.T) {
	t.Parallel()
	for header, pause := range map[string]time.Duration{"20": 20 * time.Second, "300": 5 * time.Minute, "": time.Minute, "86400": 15 * time.Minute} {
		t.Run("of "+header, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := kit.NewWorld(t)
				m := metered(w)
				w.Config.FreshFor = time.Hour
				gate := w.Activated()
				time.Sleep(61 * time.Minute)
				w.Inject("", 1, polartest.RateLimited(header))
				began := time.Now()
				run(t, gate)
				synctest.Wait()
				before := m.count()
				time.Sleep(pause - time.Second)
				assert.Equal(t, before, m.count(), "nobody asks in that time")
				assert.Equal(t, polargate.ErrRateLimited, gate.Status().Reason)
				assert.True(t, gate.Has("export"))
				within(t, pause/2+15*time.Second, func() bool { return gate.Status().State == polargate.Active }, "and soon after")
				assert.Less(t, time.Since(began), 25*time.Minute)
			})
		})
	}
}

func TestRunNoticesChangesAtPolar(t *testing.T) {
	t.Parallel()
	t.Run("a key that was revoked, within a renewal", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			w := kit.NewWorld(t)
			gate := w.Activated()
			run(t, gate)
			w.Polar.Revoke(w.Key.ID)
			within(t, 15*time.Hour, func() bool { return !gate.Has("export") }, "revoked")
			assert.Equal(t, polargate.Locked, gate.Status().State)
			assert.Equal(t, polargate.ErrInactive, gate.Status().Reason)
			assert.Empty(t, gate.Status().Features)
		})
	})
	for name, locked := range map[string]time.Duration{"ten minutes": 10 * time.Minute, "half a day": 12 * time.Hour} {
		t.Run("a key that is granted again after "+name+", within an hour", func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := kit.NewWorld(t)
				gate := w.Activated()
				time.Sleep(25 * time.Hour)
				w.Polar.Revoke(w.Key.ID)
				run(t, gate)
				time.Sleep(locked)
				for range 4 {
					// Right after it was refused once more: the worst moment.
					asked := w.Polar.Count("")
					within(t, 2*time.Hour, func() bool { return w.Polar.Count("") > asked }, "asks again")
					require.False(t, gate.Has("export"))
					w.Polar.Grant(w.Key.ID)
					within(t, time.Hour+time.Minute, func() bool { return gate.Has("export") }, "granted again")
					w.Polar.Revoke(w.Key.ID)
					_, err := gate.Refresh(t.Context())
					require.ErrorIs(t, err, polargate.ErrInactive)
					time.Sleep(locked / 4)
				}
			})
		})
	}
	for name, at := range map[string]time.Duration{"extended": 30 * kit.Day, "removed": 0} {
		t.Run("an expiry that was "+name+", before it comes", func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := kit.NewWorld(t, func(k *polartest.LicenseKey) { k.ExpiresAt = time.Now().Add(kit.Day) })
				gate := w.Activated()
				run(t, gate)
				var until time.Time
				if at > 0 {
					until = time.Now().Add(at).UTC()
				}
				expireAt(w, until)
				for range 30 {
					time.Sleep(time.Hour)
					require.True(t, gate.Has("export"))
				}
				assert.Equal(t, until, gate.Status().ExpiresAt)
			})
		})
		t.Run("an expiry that was "+name+", after it came", func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := kit.NewWorld(t, func(k *polartest.LicenseKey) { k.ExpiresAt = time.Now().Add(3 * time.Hour) })
				gate := w.Activated()
				run(t, gate)
				time.Sleep(3*time.Hour - time.Second)
				assert.True(t, gate.Has("export"))
				time.Sleep(2 * time.Second)
				assert.False(t, gate.Has("export"))
				time.Sleep(20 * time.Minute)
				assert.Equal(t, polargate.ErrExpired, gate.Status().Reason)
				var until time.Time
				if at > 0 {
					until = time.Now().Add(at).UTC()
				}
				expireAt(w, until)
				within(t, time.Hour, func() bool { return gate.Has("export") }, "renewed")
				assert.Equal(t, until, gate.Status().ExpiresAt)
			})
		})
	}
}

func TestSeveralRunsOnOneStoreAskTogether(t *testing.T) {
	t.Parallel()
	for name, start := range map[string]func(*testing.T, *kit.World) []*polargate.Gate{
		"of one gate": func(t *testing.T, w *kit.World) []*polargate.Gate {
			gate := w.Open()
			run(t, gate)
			run(t, gate)
			return []*polargate.Gate{gate}
		},
		"of two gates": func(t *testing.T, w *kit.World) []*polargate.Gate {
			gates := []*polargate.Gate{w.Open(), w.Open()}
			run(t, gates[0])
			run(t, gates[1])
			return gates
		},
	} {
		for kind, store := range map[string]func(*testing.T) polargate.Store{
			"in memory": func(*testing.T) polargate.Store { return &polargate.MemoryStore{} },
			"on disk":   func(t *testing.T) polargate.Store { return polargate.FileStore(t.TempDir()) },
		} {
			t.Run(name+" "+kind, func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					w := kit.NewWorld(t)
					w.Config.Store, w.Config.FreshFor = store(t), 6*time.Hour
					require.NoError(t, w.Activated().Close())
					time.Sleep(7 * time.Hour)
					w.Polar.ForgetRequests()
					// An answer that takes its time, so that they would overlap.
					w.Inject("", 0, polartest.Delay(400*time.Millisecond))
					gates := start(t, w)
					time.Sleep(time.Minute)
					assert.Equal(t, 1, w.Polar.Count(""), "at the start")
					time.Sleep(10 * time.Hour)
					assert.LessOrEqual(t, w.Polar.Count("")-1, 3, "one question each time")
					assert.GreaterOrEqual(t, w.Polar.Count("")-1, 2)
					for _, gate := range gates {
						assert.Equal(t, polargate.Active, gate.Status().State)
					}
				})
			})
		}
	}
	t.Run("and a Check beside it", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			w := kit.NewWorld(t)
			require.NoError(t, w.Activated().Close())
			time.Sleep(25 * time.Hour)
			w.Polar.ForgetRequests()
			w.Inject("", 0, polartest.Delay(400*time.Millisecond))
			gate := w.Open()
			run(t, gate)
			status, err := gate.Check(t.Context())
			require.NoError(t, err)
			assert.Equal(t, polargate.Active, status.State)
			time.Sleep(time.Minute)
			assert.Equal(t, 1, w.Polar.Count(""))
		})
	})
}

func TestRunNoticesChangesByOtherProcessesWithinAMinute(t *testing.T) {
	t.Parallel()
	const soon = 65 * time.Second
	started := func(t *testing.T, licensed bool) (*kit.World, *polargate.Gate, *polargate.Gate) {
		w := kit.NewWorld(t)
		other := w.Open()
		if licensed {
			_, err := other.Activate(t.Context(), w.Key.Key)
			require.NoError(t, err)
		}
		gate := w.Open()
		run(t, gate)
		time.Sleep(10*time.Minute + 7*time.Second)
		return w, gate, other
	}
	t.Run("an activation", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			w, gate, other := started(t, false)
			_, err := other.Activate(t.Context(), w.Key.Key)
			require.NoError(t, err)
			w.Polar.ForgetRequests()
			within(t, soon, func() bool { return gate.Has("export") }, "activated")
			assert.Zero(t, w.Polar.Count(""), "without a question of its own")
		})
	})
	t.Run("a deactivation", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			_, gate, other := started(t, true)
			require.NoError(t, other.Deactivate(t.Context()))
			within(t, soon, func() bool { return !gate.Has("export") }, "deactivated")
			assert.Equal(t, polargate.Unlicensed, gate.Status().State)
			assert.Equal(t, polargate.ErrNoLicense, gate.Status().Reason)
			assert.True(t, gate.Status().Key.IsZero())
		})
	})
	t.Run("a refusal", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			w, gate, other := started(t, true)
			w.Polar.Revoke(w.Key.ID)
			_, err := other.Refresh(t.Context())
			require.ErrorIs(t, err, polargate.ErrInactive)
			within(t, soon, func() bool { return !gate.Has("export") }, "refused")
			assert.Equal(t, polargate.ErrInactive, gate.Status().Reason)
		})
	})
	t.Run("a grant after a refusal", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			w, gate, other := started(t, true)
			w.Polar.Revoke(w.Key.ID)
			_, err := gate.Refresh(t.Context())
			require.ErrorIs(t, err, polargate.ErrInactive)
			time.Sleep(6 * time.Hour)
			w.Polar.Grant(w.Key.ID)
			_, err = other.Refresh(t.Context())
			require.NoError(t, err)
			within(t, soon, func() bool { return gate.Has("export") }, "granted")
		})
	})
	t.Run("another key", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			w, gate, other := started(t, true)
			second := w.Polar.AddKey(polartest.LicenseKey{LimitActivations: polartest.Limit(1), BenefitID: w.Key.BenefitID})
			_, err := other.Activate(t.Context(), second.Key)
			require.NoError(t, err)
			within(t, soon, func() bool { return gate.Status().Key.Reveal() == second.Key }, "replaced")
			assert.Equal(t, polargate.Active, gate.Status().State)
		})
	})
	t.Run("an answer while this one cannot reach Polar", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			w := kit.NewWorld(t)
			other := w.Activated()
			time.Sleep(23 * time.Hour)
			// This process has a broken proxy, say.
			w.Config.HTTPClient = &http.Client{Transport: kit.RoundTripper(func(*http.Request) (*http.Response, error) { return nil, errors.New("no way out") })}
			gate := w.Open()
			run(t, gate)
			time.Sleep(3 * time.Hour)
			require.Equal(t, polargate.Grace, gate.Status().State)
			_, err := other.Refresh(t.Context())
			require.NoError(t, err)
			within(t, soon, func() bool { return gate.Status().State == polargate.Active }, "the other's answer")
		})
	})
}

func TestRunFinishesPendingDeactivations(t *testing.T) {
	t.Parallel()
	t.Run("of a license that was removed offline", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			w := kit.NewWorld(t)
			m := metered(w)
			gate := w.Activated()
			run(t, gate)
			w.Polar.SetOffline(true)
			require.Error(t, gate.Deactivate(t.Context()))
			before := m.count()
			time.Sleep(kit.Day)
			assert.LessOrEqual(t, m.count()-before, 140, "without hammering")
			assert.Equal(t, 1, w.Seats())
			w.Polar.SetOffline(false)
			within(t, 25*time.Minute, func() bool { return w.Seats() == 0 }, "the network is back")
			w.Polar.ForgetRequests()
			time.Sleep(kit.Day)
			assert.Zero(t, w.Polar.Count(""), "and that was it")
		})
	})
	t.Run("of a license that was removed by an earlier run of the program", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			w := kit.NewWorld(t)
			gate := w.Activated()
			w.Polar.SetOffline(true)
			require.Error(t, gate.Deactivate(t.Context()))
			require.NoError(t, gate.Close())
			w.Polar.SetOffline(false)
			run(t, w.Open())
			within(t, time.Minute, func() bool { return w.Seats() == 0 }, "at the start")
		})
	})
	t.Run("of a key that was replaced", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			w := kit.NewWorld(t, kit.Limit(1))
			second := w.Polar.AddKey(polartest.LicenseKey{LimitActivations: polartest.Limit(1), BenefitID: w.Key.BenefitID})
			gate := w.Activated()
			run(t, gate)
			w.Inject(kit.PathDeactivate, 0, polartest.ServerError(500))
			_, err := gate.Activate(t.Context(), second.Key)
			require.NoError(t, err)
			time.Sleep(time.Minute)
			assert.Equal(t, 1, w.Seats())
			w.Polar.ClearFaults()
			// Somebody waits for this seat on another computer.
			within(t, time.Hour, func() bool { return w.Seats() == 0 }, "Polar is back")
			assert.Equal(t, 1, w.Polar.Seats(second.ID))
			assert.True(t, gate.Has("export"))
		})
	})
	t.Run("but not one that cannot be", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			w := kit.NewWorld(t)
			gate := w.Activated()
			w.Polar.Rotate(w.Key.ID)
			require.Error(t, gate.Deactivate(t.Context()))
			w.Polar.ForgetRequests()
			run(t, gate)
			time.Sleep(kit.Day)
			assert.LessOrEqual(t, w.Polar.Count(""), 4, "its key is not known any more")
		})
	})
}

// Half of what is left, and half of that, would be a question a millisecond in
// the end.
func TestRunDoesNotAskFasterAndFasterBeforeAKeyExpires(t *testing.T) {
	t.Parallel()
	for _, left := range []time.Duration{20 * time.Second, time.Minute, 3 * time.Minute, 10 * time.Minute, 5 * time.Hour} {
		t.Run("in "+left.String(), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := kit.NewWorld(t, func(k *polartest.LicenseKey) { k.ExpiresAt = time.Now().Add(left) })
				gate := w.Activated()
				run(t, gate)
				w.Polar.ForgetRequests()
				time.Sleep(left - time.Millisecond)
				synctest.Wait()
				assert.True(t, gate.Has("export"), "to the last moment")
				assert.LessOrEqual(t, w.Polar.Count(""), 10)
				last := time.Time{}
				for _, at := range times(w) {
					assert.GreaterOrEqual(t, at.Sub(last), 30*time.Second)
					last = at
				}
				time.Sleep(2 * time.Millisecond)
				assert.False(t, gate.Has("export"), "and no longer")
				before := w.Polar.Count("")
				time.Sleep(10 * time.Minute)
				assert.Equal(t, polargate.ErrExpired, gate.Status().Reason)
				assert.LessOrEqual(t, w.Polar.Count("")-before, 10)
			})
		})
	}
}

// A program that wants a cancellation to bite soon asks often. Its license must
// not flicker between two answers.
func TestRunKeepsAShortFreshnessToo(t *testing.T) {
	t.Parallel()
	for _, fresh := range []time.Duration{10 * time.Second, time.Minute, 70 * time.Second, 5 * time.Minute} {
		t.Run(fresh.String(), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := kit.NewWorld(t)
				w.Config.FreshFor = fresh
				var mu sync.Mutex
				var told []polargate.State
				w.Config.OnChange = func(_, after polargate.Status) {
					mu.Lock()
					defer mu.Unlock()
					told = append(told, after.State)
				}
				gate := w.Activated()
				run(t, gate)
				w.Polar.ForgetRequests()
				time.Sleep(60 * fresh)
				synctest.Wait()
				mu.Lock()
				defer mu.Unlock()
				assert.LessOrEqual(t, len(told), 1, "active once, and from then on: %v", told)
				assert.InDelta(t, 110, w.Polar.Count(""), 15, "between half and six tenths of the freshness")
			})
		})
	}
}

func TestOnChangeReportsWhatRunFoundOut(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := kit.NewWorld(t)
		type change struct{ before, after polargate.Status }
		var mu sync.Mutex
		var told []change
		w.Config.OnChange = func(before, after polargate.Status) {
			mu.Lock()
			defer mu.Unlock()
			told = append(told, change{before, after})
		}
		gate := w.Activated()
		run(t, gate)
		time.Sleep(time.Minute)
		w.Polar.Revoke(w.Key.ID)
		time.Sleep(15 * time.Hour)
		w.Polar.Grant(w.Key.ID)
		time.Sleep(2 * time.Hour)
		w.Polar.SetOffline(true)
		time.Sleep(30 * time.Hour)
		w.Polar.SetOffline(false)
		time.Sleep(time.Hour)
		require.NoError(t, gate.Deactivate(t.Context()))
		time.Sleep(time.Minute)

		mu.Lock()
		defer mu.Unlock()
		var states []polargate.State
		for i, c := range told {
			states = append(states, c.after.State)
			if i > 0 {
				last := told[i-1].after
				assert.Equal(t, last.State, c.before.State, "one begins where the last one ended")
				assert.Equal(t, last.Reason, c.before.Reason)
				assert.Equal(t, last.Features, c.before.Features)
			}
			assert.Equal(t, c.after.OK(), c.after.Has("export"))
			assert.NotEmpty(t, c.after.Message)
			assert.NotEqual(t, [2]any{c.before.State, c.before.Reason}, [2]any{c.after.State, c.after.Reason}, "told of a change only")
		}
		assert.Equal(t, []polargate.State{polargate.Active, polargate.Locked, polargate.Active, polargate.Grace, polargate.Active, polargate.Unlicensed}, states)
		assert.Equal(t, polargate.ErrInactive, told[1].after.Reason)
		assert.Equal(t, polargate.ErrInactive, told[2].before.Reason)
	})
}
