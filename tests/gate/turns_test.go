package gate

import (
	"context"
	"fmt"
	"math/rand/v2"
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
