package gate

import (
	"context"
	"os"
	"path/filepath"
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
