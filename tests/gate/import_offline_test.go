package gate

import (
	"encoding/json"
	"fmt"
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

// importedOffline is a program that took over the old one's activation without a network.
func importedOffline(t *testing.T, w *kit.World, change func(*polargate.ImportedActivation)) (*polargate.Gate, polargate.ImportedActivation) {
	t.Helper()
	old := takenElsewhere(w, map[string]any{"hostname": "ada-laptop"})
	if change != nil {
		change(&old)
	}
	w.Polar.SetOffline(true)
	gate := w.Open()
	_, err := gate.Import(t.Context(), old)
	require.ErrorIs(t, err, polargate.ErrUnreachable)
	return gate, old
}

func TestAnImportWithoutANetworkIsFinishedByWhateverReachesPolarFirst(t *testing.T) {
	t.Parallel()
	for name, finish := range map[string]func(*testing.T, *kit.World, *polargate.Gate){
		"Check": func(t *testing.T, _ *kit.World, gate *polargate.Gate) {
			_, err := gate.Check(t.Context())
			require.NoError(t, err)
		},
		"Run": func(t *testing.T, _ *kit.World, gate *polargate.Gate) {
			go func() { _ = gate.Run(t.Context()) }()
			time.Sleep(time.Minute)
		},
		"Activate": func(t *testing.T, w *kit.World, gate *polargate.Gate) {
			_, err := gate.Activate(t.Context(), w.Key.Key)
			require.NoError(t, err, "the old activation isn't in the way")
		},
		"Activate with the key that replaced it": func(t *testing.T, w *kit.World, gate *polargate.Gate) {
			_, err := gate.Activate(t.Context(), w.Polar.Rotate(w.Key.ID))
			require.NoError(t, err)
		},
	} {
		for _, restarts := range []bool{false, true} {
			t.Run(fmt.Sprint(name, ", restarted: ", restarts), func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					w := kit.NewWorld(t, kit.Limit(1))
					gate, old := importedOffline(t, w, nil)
					assert.Equal(t, old.Key, gate.Status().Key.Reveal())
					assert.Equal(t, polargate.Locked, gate.Status().State, "nothing vouches for it yet")
					assert.NotEqual(t, polargate.ActionEnterKey, gate.Status().Action.Kind, "the key is here already")
					if restarts {
						require.NoError(t, gate.Close())
						gate = w.Open()
						_, err := gate.Check(t.Context())
						require.ErrorIs(t, err, polargate.ErrUnreachable)
					}
					w.Polar.SetOffline(false)
					finish(t, w, gate)
					assert.Equal(t, polargate.Active, gate.Status().State)
					assert.True(t, gate.Has("export"))
					assert.Equal(t, []string{old.ActivationID}, live(w, w.Key.ID), "no other activation is used")
					assert.Zero(t, w.Polar.Count(kit.PathActivate))
				})
			})
		}
	}
}

func TestAnImportWithoutANetworkIsEndedByDeactivate(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := kit.NewWorld(t, kit.Limit(1))
		gate, old := importedOffline(t, w, nil)
		require.ErrorIs(t, gate.Deactivate(t.Context()), polargate.ErrUnreachable)
		assert.True(t, gate.Status().ReleasePending)
		assert.Equal(t, []string{old.ActivationID}, live(w, w.Key.ID))
		require.NoError(t, gate.Close())
		w.Polar.SetOffline(false)
		time.Sleep(2 * time.Minute)
		_, err := w.Open().Check(t.Context())
		require.ErrorIs(t, err, polargate.ErrNoLicense)
		assert.Empty(t, live(w, w.Key.ID))
	})
}

func TestAnImportWhoseConditionsDifferDoesNotBlockTheKeyOfItsUser(t *testing.T) {
	t.Parallel()
	for _, offline := range []bool{false, true} {
		t.Run(fmt.Sprint("offline at first: ", offline), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := kit.NewWorld(t, kit.Limit(1))
				old := takenElsewhere(w, map[string]any{"hostname": "ada-laptop"})
				old.Conditions = map[string]any{"hostname": "a name that it got since"}
				w.Polar.SetOffline(offline)
				gate := w.Open()
				_, err := gate.Import(t.Context(), old)
				require.Error(t, err)
				w.Polar.SetOffline(false)
				status, err := gate.Check(t.Context())
				require.ErrorIs(t, err, polargate.ErrConditionsMismatch)
				assert.Equal(t, polargate.ActionActivate, status.Action.Kind)
				_, err = gate.Activate(t.Context(), status.Key.Reveal())
				require.NoError(t, err)
				assert.Len(t, live(w, w.Key.ID), 1)
				assert.NotContains(t, live(w, w.Key.ID), old.ActivationID)
			})
		})
	}
}

func TestAnImportCountsForTheRestOfTheGracePeriodAtMost(t *testing.T) {
	t.Parallel()
	const grace = 10 * kit.Day
	for name, c := range map[string]struct {
		ago   time.Duration // of the old program's last answer
		lasts time.Duration // from now
		grace time.Duration
	}{
		"just now":                            {0, grace, grace},
		"a week ago":                          {7 * kit.Day, 3 * kit.Day, grace},
		"too long ago":                        {11 * kit.Day, 0, grace},
		"in the future, by a wrong time zone": {-30 * time.Minute, grace, grace},
		"in the future":                       {-2 * time.Hour, 0, grace},
		"in the far future":                   {-1000 * kit.Day, 0, grace},
		"just now, without a grace period":    {0, 0, -1},
		"just now, with a long one":           {0, 30 * kit.Day, 400 * kit.Day},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := kit.NewWorld(t)
				w.Config.GracePeriod = c.grace
				began := time.Now()
				gate, old := importedOffline(t, w, func(a *polargate.ImportedActivation) { a.CheckedAt = began.Add(-c.ago) })
				status := gate.Status()
				assert.Equal(t, c.lasts > 0, status.OK(), "%s %s", status.State, status.Reason)
				assert.Equal(t, c.lasts > 0, gate.Has("export"))
				if c.lasts == 0 {
					return
				}
				assert.Equal(t, polargate.Grace, status.State, "never a fresh answer")
				assert.WithinDuration(t, began.Add(c.lasts), status.GraceUntil, 0)

				time.Sleep(c.lasts - time.Hour)
				old.CheckedAt = time.Now()
				_, err := gate.Import(t.Context(), old)
				require.ErrorIs(t, err, polargate.ErrUnreachable)
				status, err = gate.Check(t.Context())
				require.NoError(t, err)
				assert.WithinDuration(t, began.Add(c.lasts), status.GraceUntil, 0, "importing again doesn't prolong it")
				time.Sleep(time.Hour)
				_, err = gate.Check(t.Context())
				require.ErrorIs(t, err, polargate.ErrGraceEnded)

				// Not even under another name.
				require.Error(t, gate.Deactivate(t.Context()))
				another := polargate.ImportedActivation{Key: "INKWELL-MADE-UP-0001", ActivationID: "6b43a9a5-8d86-4c5a-9c5e-3a1f9a0b7c11", CheckedAt: time.Now()}
				_, err = gate.Import(t.Context(), another)
				require.Error(t, err)
				assert.False(t, gate.Status().OK())
			})
		})
	}
}

func TestAnImportCannotBeProlongedByTheClock(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var wrong atomic.Int64
		w := kit.NewWorld(t)
		w.Config.Clock = func() time.Time { return time.Now().Add(time.Duration(wrong.Load())) }
		gate, _ := importedOffline(t, w, func(a *polargate.ImportedActivation) { a.CheckedAt = time.Now() })
		time.Sleep(13 * kit.Day)
		_, err := gate.Check(t.Context())
		require.NoError(t, err)
		require.NoError(t, gate.Close())
		wrong.Store(int64(-10 * kit.Day))
		_, err = w.Open().Check(t.Context())
		require.ErrorIs(t, err, polargate.ErrClockSetBack)
	})
}

func TestAnImportWithoutANetworkNeitherEndsATrialNorProlongsIt(t *testing.T) {
	t.Parallel()
	trial := []string{"basics", "sync"}
	licensed := []string{"export", "sync"}
	for name, c := range map[string]struct {
		ago   time.Duration                     // how long before the import the old program verified it; 0 if it doesn't know
		then  func(*kit.World, *polargate.Gate) // what happens on the second day
		state polargate.State                   // on the fourth day
		has   []string
		ended polargate.Reason // after the trial
	}{
		"and nobody knows when it was verified": {0, nil, polargate.InTrial, trial, polargate.ErrUnreachable},
		"verified lately":                       {10 * kit.Day, nil, polargate.Grace, licensed, polargate.ErrGraceEnded},
		"verified too long ago":                 {20 * kit.Day, nil, polargate.InTrial, trial, polargate.ErrGraceEnded},
		"and Polar then refuses it": {0, func(w *kit.World, gate *polargate.Gate) {
			w.Polar.Revoke(w.Key.ID)
			w.Polar.SetOffline(false)
			_, err := gate.Refresh(w.T.Context())
			require.ErrorIs(w.T, err, polargate.ErrInactive, "whoever asks is told")
			w.Polar.SetOffline(true)
		}, polargate.InTrial, trial, polargate.ErrInactive},
		"and it is of another product": {0, func(w *kit.World, gate *polargate.Gate) {
			w.Polar.Update(w.Key.ID, func(k *polartest.LicenseKey) { k.BenefitID = "11111111-8d86-4c5a-9c5e-3a1f9a0b7c11" })
			w.Polar.SetOffline(false)
			time.Sleep(time.Minute)
			_, err := gate.Check(w.T.Context())
			require.NoError(w.T, err)
			w.Polar.SetOffline(true)
		}, polargate.InTrial, trial, polargate.ErrWrongBenefit},
		"and it is deactivated": {0, func(w *kit.World, gate *polargate.Gate) {
			require.ErrorIs(w.T, gate.Deactivate(w.T.Context()), polargate.ErrUnreachable)
			assert.True(w.T, gate.Status().ReleasePending)
		}, polargate.InTrial, trial, polargate.ErrTrialEnded},
		"and Polar then grants it": {0, func(w *kit.World, gate *polargate.Gate) {
			w.Polar.SetOffline(false)
			time.Sleep(time.Minute)
			status, err := gate.Check(w.T.Context())
			require.NoError(w.T, err)
			assert.Equal(w.T, polargate.Active, status.State)
			w.Polar.Revoke(w.Key.ID)
			_, err = gate.Refresh(w.T.Context())
			require.ErrorIs(w.T, err, polargate.ErrInactive)
		}, polargate.Locked, nil, polargate.ErrInactive},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := trying(t)
				began := time.Now()
				old := takenElsewhere(w, map[string]any{"hostname": "ada-laptop"})
				if c.ago > 0 {
					old.CheckedAt = began.Add(kit.Day - c.ago)
				}
				w.Polar.SetOffline(true)
				gate := w.Open()
				_, err := gate.Check(t.Context())
				require.NoError(t, err)
				time.Sleep(kit.Day)
				_, err = gate.Import(t.Context(), old)
				require.ErrorIs(t, err, polargate.ErrUnreachable)
				status := gate.Status()
				require.True(t, status.OK())
				assert.Equal(t, old.Key, status.Key.Reveal(), "the program it came from can forget it")
				if c.state == polargate.InTrial {
					assert.Contains(t, status.Message, "We'll verify your license when you're online.")
					assert.Equal(t, polargate.ActionCheck, status.Action.Kind, "the key is here already")
				}
				require.NoError(t, gate.Close())
				gate = w.Open()
				if c.then != nil {
					c.then(w, gate)
				}
				time.Sleep(2 * kit.Day)
				status, err = gate.Check(t.Context())
				assert.Equal(t, c.has != nil, err == nil, "%v", err)
				assert.Equal(t, c.state, status.State)
				assert.Equal(t, c.has, status.Features)
				for _, feature := range []string{"basics", "sync", "export"} {
					assert.Equal(t, status.Has(feature), gate.Has(feature))
				}
				time.Sleep(time.Until(began.Add(14*kit.Day - time.Second)))
				status, _ = gate.Check(t.Context())
				if c.has != nil {
					assert.Equal(t, polargate.InTrial, status.State)
					assert.True(t, began.Add(14*kit.Day).Equal(status.TrialUntil), "%s", status.TrialUntil)
				}
				time.Sleep(2 * time.Second)
				synctest.Wait()
				assert.False(t, gate.Has("sync"), "it ends by itself")
				for _, g := range []*polargate.Gate{gate, w.Open()} {
					status, err = g.Check(t.Context())
					require.ErrorIs(t, err, c.ended)
					assert.Equal(t, c.ended, status.Reason)
					assert.Empty(t, status.Features)
				}
			})
		})
	}
}

func TestAnImportWhoseBenefitIsNotKnownYetCountsUses(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := trying(t)
		gate := w.Open()
		_, err := gate.Check(t.Context())
		require.NoError(t, err)
		old := takenElsewhere(w, nil)
		w.Polar.SetOffline(true)
		_, err = gate.Import(t.Context(), old)
		require.ErrorIs(t, err, polargate.ErrUnreachable)
		w.Polar.SetOffline(false)
		_, err = gate.Consume(t.Context(), 1)
		require.NoError(t, err)
		assert.Equal(t, polargate.Active, gate.Status().State, "Polar has granted it by that")
	})
}

func TestAShortRunDuringATrialIsNotHeldUpByAnImportThatWaits(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := trying(t)
		old := takenElsewhere(w, nil)
		gate := w.Open()
		_, err := gate.Check(t.Context())
		require.NoError(t, err)
		w.Polar.Inject(polartest.Fault{Effect: polartest.Hang()})
		_, err = gate.Import(t.Context(), old)
		require.ErrorIs(t, err, polargate.ErrUnreachable)
		require.NoError(t, gate.Close())
		for times, wait := range []time.Duration{time.Second, time.Minute} {
			time.Sleep(wait)
			w.Polar.ForgetRequests()
			gate := w.Open()
			_, err := gate.Check(t.Context())
			require.NoError(t, err)
			require.NoError(t, gate.Close())
			assert.Equal(t, times, w.Polar.Count(""), "after %s", wait)
		}
	})
}

func TestWhatAnImportUnlocksBeforePolarAnswersDependsOnItsBenefit(t *testing.T) {
	t.Parallel()
	const another = "6b43a9a5-8d86-4c5a-9c5e-3a1f9a0b7c11"
	for name, c := range map[string]struct {
		benefit  func(*kit.World) string
		several  bool
		ok       bool
		features []string
	}{
		"none given, and the program has one": {func(*kit.World) string { return "" }, false, true, []string{"export", "sync"}},
		"none given, and it has several":      {func(*kit.World) string { return "" }, true, true, nil},
		"one of several":                      {func(w *kit.World) string { return w.Key.BenefitID }, true, true, []string{"export", "sync"}},
		"one of another product":              {func(*kit.World) string { return "11111111-8d86-4c5a-9c5e-3a1f9a0b7c11" }, true, false, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := kit.NewWorld(t)
				if c.several {
					w.Config.Features[another] = []string{"more"}
				}
				gate, _ := importedOffline(t, w, func(a *polargate.ImportedActivation) { a.CheckedAt, a.BenefitID = time.Now(), c.benefit(w) })
				assert.Equal(t, c.ok, gate.Status().OK())
				assert.Equal(t, c.features, gate.Status().Features)
				w.Polar.SetOffline(false)
				time.Sleep(time.Minute)
				status, err := gate.Check(t.Context())
				require.NoError(t, err)
				assert.Equal(t, []string{"export", "sync"}, status.Features)
			})
		})
	}
}

func TestTwoProcessesThatImportAtOnceKeepOneActivation(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := kit.NewWorld(t, kit.Limit(1))
		first, old := importedOffline(t, w, nil)
		second := w.Open()
		w.Polar.SetOffline(false)
		done := make(chan error, 3)
		go func() { _, err := second.Import(t.Context(), old); done <- err }()
		go func() { _, err := first.Check(t.Context()); done <- err }()
		go func() { _, err := second.Activate(t.Context(), old.Key); done <- err }()
		for range 3 {
			require.NoError(t, <-done)
		}
		assert.Equal(t, []string{old.ActivationID}, live(w, w.Key.ID))
	})
}

func TestWhatIsExportedCanBeImportedAgain(t *testing.T) {
	t.Parallel()
	for name, conditions := range map[string]map[string]any{
		"its own": nil, "none": {}, "numbers": {"major": 2, "ratio": 0.1, "big": int64(9007199254740993)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := kit.NewWorld(t, kit.Limit(1))
				w.Config.Conditions, w.Config.Label = conditions, "the studio"
				gate := w.Activated()
				exported, err := gate.Export()
				require.NoError(t, err)
				assert.Equal(t, w.Key.Key, exported.Key)
				assert.Equal(t, w.Now().Activations[0].ID, exported.ActivationID)
				assert.Equal(t, "the studio", exported.Label)
				assert.Equal(t, w.Key.BenefitID, exported.BenefitID)
				assert.Equal(t, gate.Status().CheckedAt, exported.CheckedAt)
				text, err := json.Marshal(exported)
				require.NoError(t, err)
				for _, said := range []string{string(text), fmt.Sprintf("%v %+v %#v %s", exported, exported, exported, exported)} {
					assert.NotContains(t, said, w.Key.Key)
				}

				next := w.Open(func(c *polargate.Config) { c.Store, c.Conditions = &polargate.MemoryStore{}, nil })
				_, err = next.Import(t.Context(), exported)
				require.NoError(t, err)
				_, err = next.Refresh(t.Context())
				require.NoError(t, err)
				assert.Equal(t, 1, w.Seats())
				_, err = gate.Refresh(t.Context())
				require.NoError(t, err, "exporting changed nothing here")
			})
		})
	}
}

func TestThereIsNothingToExportWithoutALicense(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := kit.NewWorld(t)
		gate := w.Open()
		_, err := gate.Export()
		require.ErrorIs(t, err, polargate.ErrNoLicense)
		_, err = gate.Activate(t.Context(), w.Key.Key)
		require.NoError(t, err)
		w.Polar.Update(w.Key.ID, func(k *polartest.LicenseKey) { k.Activations[0].Released = true })
		_, err = gate.Check(t.Context())
		require.NoError(t, err)
		require.NoError(t, gate.Deactivate(t.Context()))
		_, err = gate.Export()
		require.ErrorIs(t, err, polargate.ErrNoLicense)
		require.NoError(t, gate.Close())
		_, err = gate.Export()
		require.ErrorIs(t, err, polargate.ErrClosed)
	})
}
