package gate

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
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

// ephemeral makes a Gate one of that kind.
func ephemeral(kind polargate.Ephemeral) func(*polargate.Config) {
	return func(c *polargate.Config) { c.Ephemeral = kind }
}

// untouchable is a Store that fails the test whatever is done with it.
func untouchable(t *testing.T) polargate.Store {
	s := &kit.BrittleStore{}
	never := func(context.Context, string) error {
		t.Error("the Store was used")
		return nil
	}
	s.Set(never, never, never)
	return s
}

func TestAnUnknownKindOfEphemeralIsRefused(t *testing.T) {
	t.Parallel()
	w := kit.NewWorld(t)
	for _, kind := range []polargate.Ephemeral{"release-on-close", "ReleaseOnClose", "true", " "} {
		w.Config.Ephemeral = kind
		_, err := polargate.Open(w.Config)
		var wrong *polargate.InputError
		require.ErrorAs(t, err, &wrong)
		assert.Equal(t, "Ephemeral", wrong.Field)
	}
}

func TestConsecutiveBuildJobsNeedOneActivation(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := kit.NewWorld(t, kit.Limit(1))
		w.Config.Store = untouchable(t)
		for range 20 {
			gate := w.Open(ephemeral(polargate.ReleaseOnClose))
			status, err := gate.Activate(t.Context(), w.Key.Key)
			require.NoError(t, err)
			assert.Equal(t, polargate.Active, status.State)
			assert.True(t, gate.Has("export"))
			_, err = gate.Check(t.Context())
			require.NoError(t, err)
			assert.Equal(t, 1, w.Seats())
			require.NoError(t, gate.Close())
			assert.Zero(t, w.Seats())
			assert.False(t, gate.Has("export"))
		}
		assert.Equal(t, 20, w.Polar.Count(kit.PathActivate))
	})
}

func TestAnEphemeralGateRemembersNothing(t *testing.T) {
	t.Parallel()
	for _, kind := range []polargate.Ephemeral{polargate.ReleaseOnClose, polargate.ValidateOnly} {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				folder := t.TempDir()
				w := kit.NewWorld(t)
				w.Config.Store = polargate.FileStore(filepath.Join(folder, "license"))
				gate := w.Activated(ephemeral(kind))
				time.Sleep(25 * time.Hour)
				_, err := gate.Refresh(t.Context())
				require.NoError(t, err)
				beside := w.Open(ephemeral(kind))
				assert.Equal(t, polargate.Unlicensed, beside.Status().State, "each has its own memory")
				require.NoError(t, gate.Close())
				next := w.Open(ephemeral(kind))
				_, err = next.Check(t.Context())
				require.ErrorIs(t, err, polargate.ErrNoLicense)
				entries, err := os.ReadDir(folder)
				require.NoError(t, err)
				assert.Empty(t, entries, "nothing is written")
			})
		})
		t.Run(string(kind)+" leaves a stored license alone", func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := kit.NewWorld(t)
				kept := w.Activated()
				gate := w.Activated(ephemeral(kind))
				require.NoError(t, gate.Deactivate(t.Context()))
				require.NoError(t, gate.Close())
				_, err := kept.Refresh(t.Context())
				require.NoError(t, err)
				assert.Equal(t, 1, w.Seats())
			})
		})
	}
}

func TestCloseDeactivatesAnEphemeralGateWhateverHappenedBefore(t *testing.T) {
	t.Parallel()
	for name, before := range map[string]func(*testing.T, *kit.World, *polargate.Gate){
		"nothing": func(*testing.T, *kit.World, *polargate.Gate) {},
		"an attempt with a wrong key": func(t *testing.T, _ *kit.World, g *polargate.Gate) {
			_, err := g.Activate(t.Context(), "NOT-A-KEY-AT-ALL")
			require.Error(t, err)
		},
		"it was revoked": func(t *testing.T, w *kit.World, g *polargate.Gate) {
			w.Polar.Revoke(w.Key.ID)
			_, err := g.Refresh(t.Context())
			require.ErrorIs(t, err, polargate.ErrInactive)
		},
		"it expired": func(t *testing.T, w *kit.World, g *polargate.Gate) {
			expireAt(w, time.Now())
			_, err := g.Refresh(t.Context())
			require.ErrorIs(t, err, polargate.ErrExpired)
		},
		"it was activated twice": func(t *testing.T, w *kit.World, g *polargate.Gate) {
			_, err := g.Activate(t.Context(), w.Key.Key)
			require.NoError(t, err)
		},
		"a day offline": func(_ *testing.T, w *kit.World, _ *polargate.Gate) {
			w.Polar.SetOffline(true)
			time.Sleep(30 * time.Hour)
			w.Polar.SetOffline(false)
		},
		"it was deactivated offline": func(t *testing.T, w *kit.World, g *polargate.Gate) {
			w.Polar.SetOffline(true)
			require.Error(t, g.Deactivate(t.Context()))
			w.Polar.SetOffline(false)
		},
		"another key whose seat could not be given back": func(t *testing.T, w *kit.World, g *polargate.Gate) {
			second := w.Polar.AddKey(polartest.LicenseKey{LimitActivations: polartest.Limit(1), BenefitID: w.Key.BenefitID})
			w.Inject(kit.PathDeactivate, 0, polartest.ServerError(500))
			_, err := g.Activate(t.Context(), second.Key)
			require.NoError(t, err)
			t.Cleanup(func() { assert.Zero(t, w.Polar.Seats(second.ID)) })
			w.Polar.ClearFaults()
		},
		"it was released in the portal": func(_ *testing.T, w *kit.World, _ *polargate.Gate) {
			w.Polar.Update(w.Key.ID, func(k *polartest.LicenseKey) { k.Activations[0].Released = true })
		},
		"Run": func(t *testing.T, _ *kit.World, g *polargate.Gate) { run(t, g); time.Sleep(kit.Day) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := kit.NewWorld(t)
				log := &kit.Lines{}
				w.Config.Logger = log.Logger()
				gate := w.Activated(ephemeral(polargate.ReleaseOnClose))
				before(t, w, gate)
				require.NoError(t, gate.Close())
				assert.Zero(t, w.Seats())
				assert.NotContains(t, log.String(), w.Key.Key)
				before := w.Polar.Count(kit.PathDeactivate)
				require.NoError(t, gate.Close())
				assert.Equal(t, before, w.Polar.Count(kit.PathDeactivate), "a second Close has nothing to do")
			})
		})
	}
}

func TestAFailedBuildJobLeavesNoActivation(t *testing.T) {
	t.Parallel()
	for name, effect := range map[string]polartest.Effect{
		"offline":    polartest.Reset(),
		"login page": polartest.LoginPage(200),
		"pause":      polartest.RateLimited("1"),
		"refusal":    polartest.Body(403, applicationJSON, `{"error":"NotPermitted","detail":"License key activation limit already reached"}`),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := kit.NewWorld(t, kit.Limit(1))
				w.Inject(kit.PathActivate, 1, effect)
				gate := w.Open(ephemeral(polargate.ReleaseOnClose))
				_, err := gate.Activate(t.Context(), w.Key.Key)
				require.Error(t, err)
				time.Sleep(2 * time.Second)
				_, err = gate.Activate(t.Context(), w.Key.Key)
				require.NoError(t, err)
				require.NoError(t, gate.Close())
				assert.Zero(t, w.Seats())
			})
		})
	}
}

// A build job that is cancelled closes its Gate while Activate is under way.
func TestClosingWhileActivatingLeavesNoActivation(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		delay, close time.Duration
		path         string
	}{
		"before the request leaves":      {0, 0, kit.PathActivate},
		"while it is on its way":         {2 * time.Second, time.Second, kit.PathActivate},
		"when its answer comes":          {time.Second, time.Second, kit.PathActivate},
		"while the seat is given back":   {time.Second, 0, kit.PathDeactivate},
		"when Polar takes nearly all of": {4 * time.Second, 500 * time.Millisecond, kit.PathActivate},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := kit.NewWorld(t)
				gate := w.Open(ephemeral(polargate.ReleaseOnClose))
				w.Inject(test.path, 1, polartest.Delay(test.delay))
				var activating sync.WaitGroup
				activating.Go(func() { _, _ = gate.Activate(t.Context(), w.Key.Key) })
				time.Sleep(test.close)
				began := time.Now()
				require.NoError(t, gate.Close())
				assert.LessOrEqual(t, time.Since(began), 5*time.Second)
				activating.Wait()
				synctest.Wait()
				assert.Zero(t, w.Seats())
			})
		})
	}
}

// A deferred Close and one of a signal handler come together in most programs.
func TestConcurrentClosesDeactivateOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := kit.NewWorld(t)
		gate := w.Activated(ephemeral(polargate.ReleaseOnClose))
		w.Inject(kit.PathDeactivate, 1, polartest.ServerError(500))
		var closes sync.WaitGroup
		for range 3 {
			closes.Go(func() {
				assert.NoError(t, gate.Close())
				assert.Zero(t, w.Seats(), "who returns from Close may end the program")
			})
		}
		closes.Wait()
		assert.Zero(t, w.Seats())
	})
}

func TestCloseIsPatientButNotForLong(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		effect polartest.Effect
		times  int
		freed  bool
	}{
		"an error that is over soon": {polartest.ServerError(500), 2, true},
		"a reset":                    {polartest.Reset(), 1, true},
		"a login page":               {polartest.LoginPage(200), 1, true},
		"a short pause":              {polartest.RateLimited("2"), 1, true},
		"a lost answer":              {polartest.AnswerLost(), 1, true},
		"a delay":                    {polartest.Delay(3 * time.Second), 1, true},
		"errors without end":         {polartest.ServerError(500), 0, false},
		"silence":                    {polartest.Hang(), 0, false},
		"a long pause":               {polartest.RateLimited("600"), 1, false},
		"a page without end":         {polartest.SlowDrip(time.Minute), 0, true}, // a 204 has no body
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := kit.NewWorld(t)
				log := &kit.Lines{}
				w.Config.Logger = log.Logger()
				gate := w.Activated(ephemeral(polargate.ReleaseOnClose))
				w.Inject(kit.PathDeactivate, test.times, test.effect)
				began := time.Now()
				require.NoError(t, gate.Close())
				assert.LessOrEqual(t, time.Since(began), 5*time.Second)
				assert.LessOrEqual(t, w.Polar.Count(kit.PathDeactivate), 8)
				if test.freed {
					assert.Zero(t, w.Seats())
					return
				}
				assert.Equal(t, 1, w.Seats())
				assert.Contains(t, log.String(), w.Now().Activations[0].ID, "who runs it can find the seat")
				assert.NotContains(t, log.String(), w.Key.Key)
			})
		})
	}
	t.Run("a network that is gone", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			w := kit.NewWorld(t)
			log := &kit.Lines{}
			w.Config.Logger = log.Logger()
			gate := w.Activated(ephemeral(polargate.ReleaseOnClose))
			w.Polar.SetOffline(true)
			began := time.Now()
			require.NoError(t, gate.Close())
			assert.LessOrEqual(t, time.Since(began), 5*time.Second)
			assert.Contains(t, log.String(), w.Now().Activations[0].ID)
		})
	})
	t.Run("a key that was rotated, whose seat only the new one can give back", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			w := kit.NewWorld(t)
			log := &kit.Lines{}
			w.Config.Logger = log.Logger()
			gate := w.Activated(ephemeral(polargate.ReleaseOnClose))
			w.Polar.Rotate(w.Key.ID)
			require.NoError(t, gate.Close())
			assert.Equal(t, 1, w.Seats())
			assert.Contains(t, log.String(), w.Now().Activations[0].ID, "what is lost is logged")
		})
	})
}

// newFleet is newWorld with a key for n build jobs, at a Polar that puts up with
// clients that exceed its limit: they cannot know of each other.
func newFleet(t *testing.T, n int64) *kit.World {
	t.Helper()
	w := kit.NewWorld(t)
	w.Polar = polartest.New(polartest.Config{})
	w.Key = w.Polar.AddKey(polartest.LicenseKey{LimitActivations: polartest.Limit(n), BenefitID: w.Key.BenefitID})
	w.Config.OrganizationID, w.Config.HTTPClient = w.Polar.OrganizationID(), w.Polar.Client()
	return w
}

// buildJobs are as many computers behind one address, none of which knows of another:
// each has a pace of its own.
func buildJobs(w *kit.World, n int, change ...func(*polargate.Config)) []*polargate.Gate {
	w.T.Helper()
	var jobs []*polargate.Gate
	for i := range n {
		jobs = append(jobs, w.Open(append([]func(*polargate.Config){ephemeral(polargate.ReleaseOnClose), func(c *polargate.Config) {
			c.BaseURL = strings.Replace(w.Polar.URL(), "://", fmt.Sprintf("://job-%d-of-", i), 1) // paces are kept by address, in the whole process
			c.Fingerprint = fmt.Sprint("job ", i)
		}}, change...)...))
	}
	return jobs
}

// atOnce runs a function for each of some gates, and waits for all.
func atOnce(gates []*polargate.Gate, do func(*polargate.Gate)) {
	var all sync.WaitGroup
	for _, gate := range gates {
		all.Go(func() { do(gate) })
	}
	all.Wait()
}

func waitsForTurn(d time.Duration) func(*polargate.Config) {
	return func(c *polargate.Config) { c.WaitForTurn = d }
}

func TestAFleetOfBuildJobsBehindOneAddressIsActivatedAndReleasedInFull(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		jobs int
		wait time.Duration
	}{
		"five jobs":   {5, 2 * time.Minute},
		"twenty jobs": {20, 30 * time.Minute},
	} {
		t.Run(name+", which begin and end together", func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := newFleet(t, int64(test.jobs))
				jobs := buildJobs(w, test.jobs, waitsForTurn(test.wait))
				atOnce(jobs, func(job *polargate.Gate) {
					status, err := job.Activate(t.Context(), w.Key.Key)
					assert.NoError(t, err)
					assert.Equal(t, polargate.Active, status.State)
				})
				assert.Equal(t, test.jobs, w.Seats(), "one each, and none is taken twice")
				atOnce(jobs, func(job *polargate.Gate) { assert.NoError(t, job.Close()) })
				assert.Zero(t, w.Seats(), "no activation is left at Polar")
			})
		})
		t.Run(name+", of different lengths", func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := newFleet(t, int64(test.jobs))
				jobs := buildJobs(w, test.jobs, waitsForTurn(max(test.wait, 10*time.Minute)))
				atOnce(jobs, func(job *polargate.Gate) {
					_, err := job.Activate(t.Context(), w.Key.Key)
					assert.NoError(t, err)
					time.Sleep(rand.N(2 * time.Minute))
					assert.NoError(t, job.Close())
				})
				assert.Zero(t, w.Seats())
			})
		})
	}
}

func TestWithoutWaitForTurnALimitIsSaidAtOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := kit.NewWorld(t)
		w.Inject(kit.PathActivate, 1, polartest.RateLimited("20"))
		gate := w.Open(ephemeral(polargate.ReleaseOnClose))
		began := time.Now()
		_, err := gate.Activate(t.Context(), w.Key.Key)
		require.ErrorIs(t, err, polargate.ErrRateLimited)
		assert.Zero(t, time.Since(began))
	})
}

func TestAnActivationWaitsForItsTurnWithinItsBounds(t *testing.T) {
	t.Parallel()
	for name, activate := range map[string]func(*polargate.Gate, context.Context, string) (polargate.Status, error){
		"Activate": (*polargate.Gate).Activate, "ActivateWait": (*polargate.Gate).ActivateWait,
	} {
		for of, kind := range map[string]polargate.Ephemeral{"": "", " of a build job": polargate.ReleaseOnClose, " that takes no seat": polargate.ValidateOnly} {
			t.Run(name+of+" waits for the end of a pause", func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					w := kit.NewWorld(t)
					path := kit.PathActivate
					if kind == polargate.ValidateOnly {
						path = kit.PathValidate
					}
					w.Inject(path, 2, polartest.RateLimited("30"))
					gate := w.Open(ephemeral(kind), waitsForTurn(5*time.Minute))
					_, err := activate(gate, t.Context(), w.Key.Key)
					require.NoError(t, err)
					assert.Equal(t, 3, w.Polar.Count(path))
					assert.LessOrEqual(t, w.Seats(), 1)
				})
			})
		}
		t.Run(name+" does not wait for a turn that comes too late", func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := kit.NewWorld(t)
				w.Inject(kit.PathActivate, 0, polartest.RateLimited("60"))
				gate := w.Open(waitsForTurn(30 * time.Second))
				began := time.Now()
				_, err := activate(gate, t.Context(), w.Key.Key)
				require.ErrorIs(t, err, polargate.ErrRateLimited)
				assert.Less(t, time.Since(began), 6*time.Second)
				assert.Equal(t, 1, w.Polar.Count(kit.PathActivate))
			})
		})
		t.Run(name+" waits no longer in all than it may", func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := kit.NewWorld(t)
				w.Inject(kit.PathActivate, 0, polartest.RateLimited("20"))
				gate := w.Open(waitsForTurn(90 * time.Second))
				began := time.Now()
				_, err := activate(gate, t.Context(), w.Key.Key)
				require.ErrorIs(t, err, polargate.ErrRateLimited)
				assert.LessOrEqual(t, time.Since(began), 95*time.Second)
				assert.Zero(t, w.Seats())
			})
		})
		t.Run(name+" does not wait beyond the caller's deadline", func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := kit.NewWorld(t)
				w.Inject(kit.PathActivate, 0, polartest.RateLimited("60"))
				gate := w.Open(waitsForTurn(time.Hour))
				ctx, cancel := context.WithTimeout(t.Context(), 40*time.Second)
				defer cancel()
				began := time.Now()
				_, err := activate(gate, ctx, w.Key.Key)
				require.ErrorIs(t, err, polargate.ErrRateLimited)
				var e *polargate.Error
				require.ErrorAs(t, err, &e)
				assert.Equal(t, time.Minute, e.RetryAfter, "it says when to come again, and at once")
				assert.Less(t, time.Since(began), 6*time.Second)
			})
		})
		for how, end := range map[string]func(*polargate.Gate, context.CancelFunc){
			"the caller gives up": func(_ *polargate.Gate, cancel context.CancelFunc) { cancel() },
			"the Gate is closed":  func(g *polargate.Gate, _ context.CancelFunc) { _ = g.Close() },
		} {
			t.Run(name+" ends when "+how, func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					w := kit.NewWorld(t)
					w.Inject(kit.PathActivate, 0, polartest.RateLimited("60"))
					gate := w.Open(ephemeral(polargate.ReleaseOnClose), waitsForTurn(time.Hour))
					ctx, cancel := context.WithCancel(t.Context())
					defer cancel()
					var activating sync.WaitGroup
					activating.Go(func() {
						_, err := activate(gate, ctx, w.Key.Key)
						if ctx.Err() == nil {
							assert.ErrorIs(t, err, polargate.ErrClosed)
							return
						}
						assert.ErrorIs(t, err, context.Canceled)
						assert.ErrorIs(t, err, polargate.ErrRateLimited)
					})
					time.Sleep(20 * time.Second)
					began := time.Now()
					end(gate, cancel)
					activating.Wait()
					assert.Zero(t, time.Since(began))
				})
			})
		}
	}
	t.Run("an answer that was lost is not asked for again", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			w := kit.NewWorld(t)
			w.Inject(kit.PathActivate, 1, polartest.AnswerLost())
			_, err := w.Open(waitsForTurn(time.Hour)).Activate(t.Context(), w.Key.Key)
			require.ErrorIs(t, err, polargate.ErrActivationInDoubt)
			assert.Equal(t, 1, w.Polar.Count(kit.PathActivate))
		})
	})
}

func TestTheFirstActivationsOfAFleetDoNotComeTogether(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newFleet(t, 50)
		w.Polar.SetOffline(true) // so that the limit changes nothing
		began := time.Now()
		var mu sync.Mutex
		seen := map[time.Duration]bool{}
		atOnce(buildJobs(w, 50, waitsForTurn(time.Minute)), func(job *polargate.Gate) {
			_, err := job.Activate(t.Context(), w.Key.Key)
			assert.ErrorIs(t, err, polargate.ErrUnreachable)
			mu.Lock()
			defer mu.Unlock()
			seen[time.Since(began)] = true
			assert.Less(t, time.Since(began), 6*time.Second)
		})
		assert.Greater(t, len(seen), 40)
	})
}

func TestAReleaseIsNotGivenUpBeforeThePauseOfPolarEnds(t *testing.T) {
	t.Parallel()
	t.Run("a pause of a minute", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			w := kit.NewWorld(t)
			log := &kit.Lines{}
			w.Config.Logger = log.Logger()
			gate := w.Activated(ephemeral(polargate.ReleaseOnClose))
			id := w.Now().Activations[0].ID
			w.Inject(kit.PathDeactivate, 1, polartest.RateLimited("60"))
			require.NoError(t, gate.Close())
			assert.Zero(t, w.Seats())
			assert.Contains(t, log.String(), id, "whoever kills the program meanwhile finds it in the log")
			assert.NotContains(t, log.String(), "level=ERROR", "nothing is lost")
			assert.Equal(t, 2, w.Polar.Count(kit.PathDeactivate), "it is not asked for during the pause")
		})
	})
	t.Run("a pause that was asked for before", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			w := kit.NewWorld(t)
			gate := w.Activated(ephemeral(polargate.ReleaseOnClose))
			w.Inject(kit.PathValidate, 1, polartest.RateLimited("60"))
			_, err := gate.Refresh(t.Context())
			require.ErrorIs(t, err, polargate.ErrRateLimited)
			require.NoError(t, gate.Close())
			assert.Zero(t, w.Seats())
		})
	})
	t.Run("as long as ReleaseTimeout says, and then the log has the activation", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			w := kit.NewWorld(t)
			log := &kit.Lines{}
			w.Config.Logger = log.Logger()
			w.Config.ReleaseTimeout = 100 * time.Second
			gate := w.Activated(ephemeral(polargate.ReleaseOnClose))
			w.Inject(kit.PathDeactivate, 0, polartest.RateLimited("40"))
			began := time.Now()
			require.NoError(t, gate.Close())
			assert.LessOrEqual(t, time.Since(began), 100*time.Second)
			assert.Greater(t, time.Since(began), 40*time.Second)
			assert.Equal(t, 1, w.Seats())
			assert.Contains(t, log.String(), "level=ERROR")
			assert.Contains(t, log.String(), w.Now().Activations[0].ID)
			assert.NotContains(t, log.String(), w.Key.Key)
		})
	})
	t.Run("not at all where a system kills soon", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			w := kit.NewWorld(t)
			w.Config.ReleaseTimeout = 2 * time.Second
			gate := w.Activated(ephemeral(polargate.ReleaseOnClose))
			w.Inject(kit.PathDeactivate, 0, polartest.Delay(time.Hour))
			began := time.Now()
			require.NoError(t, gate.Close())
			assert.LessOrEqual(t, time.Since(began), 2*time.Second)
		})
	})
	t.Run("whatever else is wrong has five seconds as ever", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			w := kit.NewWorld(t)
			w.Config.ReleaseTimeout = time.Hour
			gate := w.Activated(ephemeral(polargate.ReleaseOnClose))
			w.Polar.SetOffline(true)
			began := time.Now()
			require.NoError(t, gate.Close())
			assert.LessOrEqual(t, time.Since(began), 5*time.Second)
		})
	})
	t.Run("nor does a program with twenty Gates lose one to its own pace", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			w := kit.NewWorld(t, kit.Limit(20))
			var gates []*polargate.Gate
			for range 20 {
				gates = append(gates, w.Activated(ephemeral(polargate.ReleaseOnClose)))
			}
			atOnce(gates, func(g *polargate.Gate) { assert.NoError(t, g.Close()) })
			assert.Zero(t, w.Seats())
		})
	})
}

func TestWaitsThatCannotBeAreRefused(t *testing.T) {
	t.Parallel()
	w := kit.NewWorld(t)
	for field, change := range map[string]func(*polargate.Config){
		"WaitForTurn":    func(c *polargate.Config) { c.WaitForTurn = -1 },
		"ReleaseTimeout": func(c *polargate.Config) { c.ReleaseTimeout = -1 },
	} {
		config := w.Config
		change(&config)
		_, err := polargate.Open(config)
		var wrong *polargate.InputError
		require.ErrorAs(t, err, &wrong)
		assert.Equal(t, field, wrong.Field)
	}
}

func TestValidateOnlyUsesNoActivation(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*polartest.LicenseKey){
		"of a key of three": kit.Limit(3),
		"of a key of none":  kit.WithoutSeats,
		"of a key of which none is": func(k *polartest.LicenseKey) {
			kit.Limit(1)(k)
			k.Activations = []polartest.Activation{{Label: "another"}}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := kit.NewWorld(t, change)
				w.Config.Store, w.Config.FreshFor = untouchable(t), 2*time.Hour
				before := w.Seats()
				// Any number of computers at once.
				for range 5 {
					gate := w.Open(ephemeral(polargate.ValidateOnly))
					for range 2 {
						status, err := gate.Activate(t.Context(), w.Key.Key)
						require.NoError(t, err)
						assert.Equal(t, polargate.Active, status.State)
					}
					assert.True(t, gate.Has("export"))
				}
				gate := w.Activated(ephemeral(polargate.ValidateOnly))
				run(t, gate)
				time.Sleep(4 * time.Hour)
				_, err := gate.Check(t.Context())
				require.NoError(t, err)
				_, err = gate.Refresh(t.Context())
				require.NoError(t, err)
				_, err = gate.Consume(t.Context(), 1)
				require.NoError(t, err)
				require.NoError(t, gate.Deactivate(t.Context()))
				assert.False(t, gate.Has("export"))
				_, err = gate.Activate(t.Context(), w.Key.Key)
				require.NoError(t, err)
				require.NoError(t, gate.Close())
				assert.Zero(t, w.Polar.Count(kit.PathActivate))
				assert.Zero(t, w.Polar.Count(kit.PathDeactivate))
				assert.Equal(t, before, w.Seats())
			})
		})
	}
	for name, test := range map[string]struct {
		happens func(*kit.World)
		want    polargate.Reason
	}{
		"a revoked key is refused": {func(w *kit.World) { w.Polar.Revoke(w.Key.ID) }, polargate.ErrInactive},
		"an expired one":           {func(w *kit.World) { expireAt(w, time.Now()) }, polargate.ErrExpired},
		"an unknown one":           {func(w *kit.World) { w.Polar.Update(w.Key.ID, func(k *polartest.LicenseKey) { k.Deleted = true }) }, polargate.ErrUnknownKey},
		"one of another benefit": {func(w *kit.World) {
			w.Config.Features = map[string][]string{"6b43a9a5-8d86-4c5a-9c5e-3a1f9a0b7c11": {"export"}}
		}, polargate.ErrWrongBenefit},
		"a login page is no grant":          {inject(polartest.LoginPage(200)), polargate.ErrUnreachable},
		"and no network is none":            {func(w *kit.World) { w.Polar.SetOffline(true) }, polargate.ErrUnreachable},
		"an empty object is none":           {inject(polartest.Body(200, applicationJSON, "{}")), polargate.ErrUnreachable},
		"a lost answer leaves no doubt":     {inject(polartest.AnswerLost()), polargate.ErrUnreachable},
		"a pause is not the limit of seats": {inject(polartest.RateLimited("20")), polargate.ErrRateLimited},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := kit.NewWorld(t)
				test.happens(w)
				gate := w.Open(ephemeral(polargate.ValidateOnly))
				status, err := gate.Activate(t.Context(), w.Key.Key)
				require.ErrorIs(t, err, test.want)
				assert.Equal(t, polargate.Unlicensed, status.State)
				assert.False(t, status.InDoubt)
				assert.False(t, gate.Has("export"))
				assert.Zero(t, w.Polar.Count(kit.PathActivate))
			})
		})
	}
	t.Run("grace and refusals are as ever, in memory", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			w := kit.NewWorld(t)
			w.Config.GracePeriod = 2 * kit.Day
			gate := w.Activated(ephemeral(polargate.ValidateOnly))
			w.Polar.SetOffline(true)
			time.Sleep(25 * time.Hour)
			status, err := gate.Check(t.Context())
			require.NoError(t, err)
			assert.Equal(t, polargate.Grace, status.State)
			time.Sleep(kit.Day)
			_, err = gate.Check(t.Context())
			require.ErrorIs(t, err, polargate.ErrGraceEnded)
			w.Polar.SetOffline(false)
			_, err = gate.Check(t.Context())
			require.NoError(t, err)
			w.Polar.Revoke(w.Key.ID)
			_, err = gate.Refresh(t.Context())
			require.ErrorIs(t, err, polargate.ErrInactive)
			w.Polar.SetOffline(true)
			time.Sleep(time.Minute)
			_, err = gate.Check(t.Context())
			require.ErrorIs(t, err, polargate.ErrInactive, "cutting the network restores nothing")
		})
	})
}

func TestIfUnwritableIsAnOrdinaryGateWhereItCanWrite(t *testing.T) {
	t.Parallel()
	for name, store := range map[string]func(*testing.T) polargate.Store{
		"in memory": func(*testing.T) polargate.Store { return &polargate.MemoryStore{} },
		"on disk":   func(t *testing.T) polargate.Store { return polargate.FileStore(filepath.Join(t.TempDir(), "new")) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := kit.NewWorld(t)
				w.Config.Store = store(t)
				log := &kit.Lines{}
				w.Config.Logger = log.Logger()
				gate := w.Activated(ephemeral(polargate.IfUnwritable))
				assert.False(t, gate.Status().Unsaved)
				require.NoError(t, gate.Close())
				assert.Equal(t, 1, w.Seats(), "kept")
				assert.Zero(t, w.Polar.Count(kit.PathDeactivate))
				next := w.Open(ephemeral(polargate.IfUnwritable))
				assert.True(t, next.Has("export"))
				_, err := next.Activate(t.Context(), w.Key.Key)
				require.NoError(t, err)
				assert.Equal(t, 1, w.Polar.Count(kit.PathActivate))
				require.NoError(t, next.Deactivate(t.Context()))
				assert.Zero(t, w.Seats())
				assert.Empty(t, log.String())
			})
		})
	}
}

// unwritable are Stores in which nothing can be kept, and of which it is known
// that nothing is in them.
func unwritable() map[string]func(*testing.T) polargate.Store {
	broken := func(save, lock func(context.Context, string) error) func(*testing.T) polargate.Store {
		return func(*testing.T) polargate.Store {
			s := &kit.BrittleStore{}
			s.Set(nil, save, lock)
			return s
		}
	}
	return map[string]func(*testing.T) polargate.Store{
		"a folder below a file": func(t *testing.T) polargate.Store {
			file := filepath.Join(t.TempDir(), "file")
			require.NoError(t, os.WriteFile(file, []byte("x"), 0o600))
			return polargate.FileStore(filepath.Join(file, "license"))
		},
		"a Store that fails to save":          broken(kit.Fails, nil),
		"a Store that fails to lock":          broken(nil, kit.Fails),
		"a Store that fails to save and lock": broken(kit.Fails, kit.Fails),
	}
}

func TestALicenseThatCannotBeKeptLastsUntilClose(t *testing.T) {
	t.Parallel()
	for name, store := range unwritable() {
		t.Run("in "+name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := kit.NewWorld(t, kit.Limit(1))
				w.Config.Store, w.Config.FreshFor = store(t), time.Hour
				log := &kit.Lines{}
				w.Config.Logger = log.Logger()
				for range 3 {
					gate := w.Open(ephemeral(polargate.IfUnwritable))
					status, err := gate.Activate(t.Context(), w.Key.Key)
					require.NoError(t, err)
					assert.Equal(t, polargate.Active, status.State)
					assert.True(t, gate.Has("export"))
					assert.True(t, status.Unsaved)
					assert.Contains(t, status.Message, polargate.Phrases()["note_unstored"])
					assert.Contains(t, log.String(), "level=WARN")
					assert.NotContains(t, log.String(), w.Key.Key)
					data, err := status.MarshalJSON()
					require.NoError(t, err)
					assert.Contains(t, string(data), `"unsaved":true`)

					// All else works, from memory.
					status, err = gate.Activate(t.Context(), w.Key.Key)
					require.NoError(t, err)
					assert.True(t, status.Unsaved)
					time.Sleep(2 * time.Hour)
					status, err = gate.Check(t.Context())
					require.NoError(t, err)
					assert.Equal(t, polargate.Active, status.State)
					assert.True(t, status.Unsaved)
					_, err = gate.Consume(t.Context(), 1)
					require.NoError(t, err)
					assert.Equal(t, 1, w.Seats())
					require.NoError(t, gate.Close())
					assert.Zero(t, w.Seats())
				}
				assert.Equal(t, 3, w.Polar.Count(kit.PathActivate))
				assert.LessOrEqual(t, strings.Count(log.String(), "\n"), 3*8)
			})
		})
		t.Run("and can be given back before, in "+name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := kit.NewWorld(t)
				w.Config.Store = store(t)
				gate := w.Activated(ephemeral(polargate.IfUnwritable))
				require.NoError(t, gate.Deactivate(t.Context()))
				assert.Zero(t, w.Seats())
				assert.False(t, gate.Has("export"))
				require.NoError(t, gate.Close())
				assert.Equal(t, 1, w.Polar.Count(kit.PathDeactivate))
			})
		})
		t.Run("but without being asked for it is not taken, in "+name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := kit.NewWorld(t)
				w.Config.Store = store(t)
				gate := w.Open()
				status, err := gate.Activate(t.Context(), w.Key.Key)
				var bad *polargate.StoreError
				require.ErrorAs(t, err, &bad)
				assert.Equal(t, polargate.Unlicensed, status.State)
				assert.Zero(t, w.Polar.Count(""), "before anything is asked")
				assert.NotEmpty(t, polargate.Message(err))
				assert.NotContains(t, polargate.Message(err), "Config")
			})
		})
	}
}

// Not parallel: it takes the folder for settings away.
func TestWithoutASettingsFolderNothingIsActivatedByDefault(t *testing.T) {
	for _, variable := range []string{"HOME", "XDG_CONFIG_HOME", "AppData", "home"} {
		t.Setenv(variable, "")
	}
	if _, err := os.UserConfigDir(); err == nil {
		t.Skip("this system knows one all the same")
	}
	synctest.Test(t, func(t *testing.T) {
		w := kit.NewWorld(t)
		w.Config.Store = nil
		gate := w.Open()
		_, err := gate.Activate(t.Context(), w.Key.Key)
		var bad *polargate.StoreError
		require.ErrorAs(t, err, &bad)
		assert.Zero(t, w.Polar.Count(""))
		d := gate.Diagnose(t.Context())
		assert.Equal(t, "nowhere", d.Store)
		assert.NotEmpty(t, d.StoreProblem)

		gate = w.Activated(ephemeral(polargate.IfUnwritable))
		assert.True(t, gate.Status().Unsaved)
		run(t, gate)
		time.Sleep(20 * time.Hour)
		assert.True(t, gate.Has("export"))
		require.NoError(t, gate.Close())
		assert.Zero(t, w.Seats())
	})
}

func TestTheStoreThatFillsUpBetweenTwoWritesIsUnwritableToo(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := kit.NewWorld(t)
		store := &kit.BrittleStore{}
		var mu sync.Mutex
		saves := 0
		store.Set(nil, func(context.Context, string) error {
			mu.Lock()
			defer mu.Unlock()
			if saves++; saves > 1 {
				return kit.ErrDisk
			}
			return nil
		}, nil)
		w.Config.Store = store
		gate := w.Open(ephemeral(polargate.IfUnwritable))
		status, err := gate.Activate(t.Context(), w.Key.Key)
		require.NoError(t, err)
		assert.True(t, status.OK())
		assert.True(t, status.Unsaved)
		assert.Equal(t, 1, w.Seats())
		require.NoError(t, gate.Close())
		assert.Zero(t, w.Seats())
	})
}

func TestSeveralAttemptsAtOnceWhereNothingCanBeWritten(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		// load is how long the Store takes to be read, and each time longer.
		load   time.Duration
		stored bool
	}{
		"and nothing is stored":                               {0, false},
		"and nothing is stored, which takes a moment to find": {10 * time.Millisecond, false},
		"and nothing is stored, which takes long to find":     {30 * time.Second, false},
		"beside a stored license":                             {10 * time.Millisecond, true},
		"beside a stored license that takes longer each time": {30 * time.Second, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := kit.NewWorld(t)
				store := &kit.BrittleStore{}
				w.Config.Store = store
				if test.stored {
					require.NoError(t, w.Activated().Close())
				}
				gate := w.Open(ephemeral(polargate.IfUnwritable))
				var loads atomic.Int64
				store.Set(
					func(context.Context, string) error { time.Sleep(time.Duration(loads.Add(1)) * test.load); return nil },
					kit.Fails,
					func(context.Context, string) error { time.Sleep(time.Second); return kit.ErrDisk },
				)
				var keys []polartest.LicenseKey
				for range 4 {
					keys = append(keys, w.Polar.AddKey(polartest.LicenseKey{LimitActivations: polartest.Limit(1), BenefitID: w.Key.BenefitID}))
				}
				var all sync.WaitGroup
				for _, key := range keys {
					all.Go(func() {
						_, err := gate.Activate(t.Context(), key.Key)
						assert.NoError(t, err)
					})
				}
				all.Wait()
				assert.True(t, gate.Has("export"))
				assert.True(t, gate.Status().Unsaved)
				time.Sleep(time.Minute)
				require.NoError(t, gate.Close())
				for _, key := range keys {
					assert.Zero(t, w.Polar.Seats(key.ID))
				}
			})
		})
	}
}

func TestALicenseIsStoredAfterAllWhenThatBecomesPossible(t *testing.T) {
	t.Parallel()
	for name, when := range map[string]func(*testing.T, *polargate.Gate){
		"by Refresh": func(t *testing.T, g *polargate.Gate) { _, err := g.Refresh(t.Context()); require.NoError(t, err) },
		"by Run":     func(t *testing.T, g *polargate.Gate) { run(t, g); time.Sleep(2 * time.Minute) },
		"by Close":   func(t *testing.T, g *polargate.Gate) { require.NoError(t, g.Close()) },
		"by a renewal": func(t *testing.T, g *polargate.Gate) {
			time.Sleep(25 * time.Hour)
			_, err := g.Check(t.Context())
			require.NoError(t, err)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := kit.NewWorld(t)
				store := &kit.BrittleStore{}
				store.Set(nil, kit.Fails, kit.Fails)
				w.Config.Store = store
				gate := w.Activated(ephemeral(polargate.IfUnwritable))
				require.True(t, gate.Status().Unsaved)
				store.Set(nil, nil, nil)
				when(t, gate)
				assert.False(t, gate.Status().Unsaved)
				assert.NotContains(t, gate.Status().Message, "could not be saved")
				require.NoError(t, gate.Close())
				assert.Equal(t, 1, w.Seats(), "kept")
				next := w.Open(ephemeral(polargate.IfUnwritable))
				assert.True(t, next.Has("export"))
				_, err := next.Refresh(t.Context())
				require.NoError(t, err)
				assert.Equal(t, 1, w.Polar.Count(kit.PathActivate))
			})
		})
	}
}

func TestAStoreThatCannotBeReadIsNotTakenForEmpty(t *testing.T) {
	t.Parallel()
	for name, load := range map[string]func(context.Context, string) error{"fails": kit.Fails, "hangs": kit.Waits} {
		for kind, rest := range map[string]func(context.Context, string) error{"and cannot be written": kit.Fails, "but could be written": nil} {
			t.Run("one that "+name+" "+kind, func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					w := kit.NewWorld(t)
					store := &kit.BrittleStore{}
					w.Config.Store = store
					// A license is in it, of which nothing can be known now.
					require.NoError(t, w.Activated().Close())
					store.Set(load, rest, rest)
					gate := w.Open(ephemeral(polargate.IfUnwritable))
					ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
					defer cancel()
					_, err := gate.Activate(ctx, w.Key.Key)
					require.Error(t, err)
					require.NoError(t, gate.Close())
					assert.Equal(t, 1, w.Polar.Count(kit.PathActivate))
					assert.Equal(t, 1, w.Seats(), "the stored one")
					store.Set(nil, nil, nil)
					next := w.Open()
					assert.True(t, next.Has("export"))
				})
			})
		}
	}
}

func TestALicenseThatAnotherProcessStoredIsNotOverwritten(t *testing.T) {
	t.Parallel()
	for name, when := range map[string]func(*testing.T, *polargate.Gate){
		"by Refresh": func(t *testing.T, g *polargate.Gate) { _, err := g.Refresh(t.Context()); require.NoError(t, err) },
		"by Run":     func(t *testing.T, g *polargate.Gate) { run(t, g); time.Sleep(2 * time.Minute) },
		"by Close":   func(*testing.T, *polargate.Gate) {},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := kit.NewWorld(t)
				second := w.Polar.AddKey(polartest.LicenseKey{LimitActivations: polartest.Limit(1), BenefitID: w.Key.BenefitID})
				store := &kit.BrittleStore{}
				store.Set(nil, kit.Fails, kit.Fails)
				w.Config.Store = store
				gate := w.Activated(ephemeral(polargate.IfUnwritable))
				store.Set(nil, nil, nil)
				other := w.Open()
				_, err := other.Activate(t.Context(), second.Key)
				require.NoError(t, err)
				when(t, gate)
				require.NoError(t, gate.Close())
				assert.Zero(t, w.Seats(), "the one in memory is given back")
				assert.Equal(t, 1, w.Polar.Seats(second.ID), "and the stored one is not")
				_, err = other.Refresh(t.Context())
				require.NoError(t, err)
				next := w.Open()
				assert.Equal(t, second.Key, next.Status().Key.Reveal())
				assert.True(t, next.Has("export"))
			})
		})
	}
}

// The stored license is as good as before: it is not given back by somebody who
// could not write.
func TestAStoredLicenseKeepsItsActivationWhenTheStoreTurnsReadOnly(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := kit.NewWorld(t, kit.Limit(1))
		store := &kit.BrittleStore{}
		w.Config.Store = store
		require.NoError(t, w.Activated().Close())
		store.Set(nil, kit.Fails, kit.Fails)
		gate := w.Open(ephemeral(polargate.IfUnwritable))
		_, err := gate.Activate(t.Context(), w.Key.Key)
		require.NoError(t, err)
		assert.Equal(t, 1, w.Polar.Count(kit.PathActivate), "it goes on with the stored seat")
		require.NoError(t, gate.Close())
		assert.Equal(t, 1, w.Seats())
		next := w.Open()
		_, err = next.Refresh(t.Context())
		require.NoError(t, err)
	})
}

func TestALicenseWhoseRenewalsCannotBeSavedStaysUsable(t *testing.T) {
	t.Parallel()
	for name, break_ := range map[string]func(*kit.BrittleStore){
		"a disk that is full":      func(s *kit.BrittleStore) { s.Set(nil, kit.Fails, nil) },
		"a lock that fails":        func(s *kit.BrittleStore) { s.Set(nil, nil, kit.Fails) },
		"a disk that is read-only": func(s *kit.BrittleStore) { s.Set(nil, kit.Fails, kit.Fails) },
		"a disk that is gone":      func(s *kit.BrittleStore) { s.Set(kit.Fails, kit.Fails, kit.Fails) },
		"a disk that hangs":        func(s *kit.BrittleStore) { s.Set(nil, kit.Waits, nil) },
	} {
		for _, kind := range []polargate.Ephemeral{"", polargate.IfUnwritable} {
			for by, again := range map[string]func(*testing.T, *polargate.Gate){
				"Refresh": func(t *testing.T, g *polargate.Gate) { _, err := g.Refresh(t.Context()); require.NoError(t, err) },
				"Run":     func(t *testing.T, g *polargate.Gate) { run(t, g); time.Sleep(2 * time.Minute) },
			} {
				t.Run(strings.TrimSpace(name+" "+string(kind))+", and is saved by "+by, func(t *testing.T) {
					t.Parallel()
					synctest.Test(t, func(t *testing.T) {
						w := kit.NewWorld(t)
						store := &kit.BrittleStore{}
						w.Config.Store, w.Config.FreshFor = store, time.Hour
						gate := w.Activated(ephemeral(kind))
						assert.False(t, gate.Status().Unsaved)
						break_(store)
						for range 3 {
							time.Sleep(2 * time.Hour)
							status, err := gate.Check(t.Context())
							require.NoError(t, err)
							assert.Equal(t, polargate.Active, status.State)
						}
						status := gate.Status()
						assert.True(t, status.Unsaved)
						assert.Contains(t, status.Message, polargate.Phrases()["note_unsaved"])
						store.Set(nil, nil, nil)
						again(t, gate)
						status = gate.Status()
						assert.False(t, status.Unsaved)
						assert.NotContains(t, status.Message, "could not be saved")
						w.Polar.SetOffline(true)
						next := w.Open()
						assert.Equal(t, status.CheckedAt, next.Status().CheckedAt, "it is in the Store")
						require.NoError(t, gate.Close())
						w.Polar.SetOffline(false)
						assert.Equal(t, 1, w.Seats(), "and the seat is kept")
					})
				})
			}
		}
	}
}

func TestOnChangeTellsThatALicenseIsNotSaved(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := kit.NewWorld(t)
		store := &kit.BrittleStore{}
		w.Config.Store = store
		var mu sync.Mutex
		var told []bool
		w.Config.OnChange = func(before, after polargate.Status) {
			mu.Lock()
			defer mu.Unlock()
			if before.Unsaved != after.Unsaved {
				told = append(told, after.Unsaved)
			}
		}
		gate := w.Activated()
		store.Set(nil, kit.Fails, nil)
		_, err := gate.Refresh(t.Context())
		require.NoError(t, err)
		synctest.Wait()
		store.Set(nil, nil, nil)
		_, err = gate.Refresh(t.Context())
		require.NoError(t, err)
		synctest.Wait()
		mu.Lock()
		defer mu.Unlock()
		assert.Equal(t, []bool{true, false}, told)
	})
}

// errors.Is on what the Store said must lead to its own cause.
func TestTheCauseOfAnUnwritableStoreIsInTheError(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := kit.NewWorld(t)
		store := &kit.BrittleStore{}
		store.Set(nil, kit.Fails, nil)
		w.Config.Store = store
		_, err := w.Open().Activate(t.Context(), w.Key.Key)
		assert.ErrorIs(t, err, kit.ErrDisk)
	})
}
