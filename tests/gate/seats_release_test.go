package gate

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/polargate/polargate"
	"github.com/polargate/polargate/polartest"
	"github.com/polargate/polargate/tests/internal/kit"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestDeactivateEndsTheActivation(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*kit.World){
		"of a good key":     func(*kit.World) {},
		"of a revoked key":  func(w *kit.World) { w.Polar.Revoke(w.Key.ID) },
		"of an expired key": func(w *kit.World) { expireAt(w, time.Now()) },
		"that was released in the portal": func(w *kit.World) {
			w.Polar.Update(w.Key.ID, func(k *polartest.LicenseKey) { k.Activations[0].Released = true })
		},
		"of a deleted key": func(w *kit.World) { w.Polar.Update(w.Key.ID, func(k *polartest.LicenseKey) { k.Deleted = true }) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := kit.NewWorld(t)
				gate := w.Activated()
				change(w)
				err := gate.Deactivate(t.Context())
				if w.Now().Deleted {
					// It could have been rotated, and hold the seat by its new name.
					require.ErrorIs(t, err, polargate.ErrUnknownKey)
				} else {
					require.NoError(t, err)
					assert.Zero(t, w.Seats())
				}
				assert.Equal(t, polargate.Unlicensed, gate.Status().State)
				assert.True(t, gate.Status().Key.IsZero())
				assert.False(t, gate.Has("export"))
				sent := w.Polar.Count("")
				require.NoError(t, gate.Deactivate(t.Context()), "twice is harmless")
				_, err = gate.Check(t.Context())
				require.ErrorIs(t, err, polargate.ErrNoLicense)
				next := w.Open()
				_, err = next.Check(t.Context())
				require.ErrorIs(t, err, polargate.ErrNoLicense)
				require.NoError(t, next.Deactivate(t.Context()))
				assert.Equal(t, sent, w.Polar.Count(""), "nothing is left to ask")
			})
		})
	}
}

func TestDeactivateOfflineIsMadeGoodLater(t *testing.T) {
	t.Parallel()
	later := map[string]func(*testing.T, *kit.World, *polargate.Gate){
		"by Check": func(t *testing.T, _ *kit.World, g *polargate.Gate) {
			_, err := g.Check(t.Context())
			require.ErrorIs(t, err, polargate.ErrNoLicense)
		},
		"by Deactivate": func(t *testing.T, _ *kit.World, g *polargate.Gate) { require.NoError(t, g.Deactivate(t.Context())) },
		"by Activate of the same key": func(t *testing.T, w *kit.World, g *polargate.Gate) {
			_, err := g.Activate(t.Context(), w.Key.Key)
			require.NoError(t, err)
			require.NoError(t, g.Deactivate(t.Context()))
		},
	}
	for name, call := range later {
		for when, again := range map[string]func(*kit.World, *polargate.Gate) *polargate.Gate{
			"in this run":     func(_ *kit.World, g *polargate.Gate) *polargate.Gate { return g },
			"in the next run": func(w *kit.World, g *polargate.Gate) *polargate.Gate { _ = g.Close(); return w.Open() },
		} {
			t.Run(name+" "+when, func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					w := kit.NewWorld(t, kit.Limit(1))
					w.Config.Store = polargate.FileStore(t.TempDir())
					gate := w.Activated()
					w.Polar.SetOffline(true)
					err := gate.Deactivate(t.Context())
					require.ErrorIs(t, err, polargate.ErrUnreachable)
					assert.False(t, gate.Has("export"), "access ends now")
					assert.Equal(t, polargate.Unlicensed, gate.Status().State)
					_, err = gate.Check(t.Context())
					require.ErrorIs(t, err, polargate.ErrNoLicense)
					assert.Equal(t, 1, w.Seats())
					gate = again(w, gate)
					assert.False(t, gate.Has("export"))
					w.Polar.SetOffline(false)
					time.Sleep(10 * time.Minute)
					call(t, w, gate)
					synctest.Wait()
					assert.Zero(t, w.Seats())
				})
			})
		}
	}
}

func TestDeactivateThatFailsOnTheWireIsMadeGoodLater(t *testing.T) {
	t.Parallel()
	for name, test := range proveNothing {
		if name == "204" {
			continue // which is how Polar says that it is done
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := kit.NewWorld(t, kit.Limit(1))
				gate := w.Activated()
				w.Inject("", 0, test.effect)
				ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
				defer cancel()
				err := gate.Deactivate(ctx)
				if w.Seats() > 0 {
					require.Error(t, err, "the seat is still taken")
				}
				assert.False(t, gate.Has("export"))
				w.Polar.ClearFaults()
				for range 2 {
					time.Sleep(time.Hour)
					_, err = gate.Check(t.Context())
					require.ErrorIs(t, err, polargate.ErrNoLicense)
					synctest.Wait()
				}
				assert.Zero(t, w.Seats())
			})
		})
	}
}

func TestAnOutageDuringPendingDeactivationsLosesNone(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := kit.NewWorld(t)
		gate := w.Activated()
		w.Inject(kit.PathDeactivate, 0, polartest.ServerError(503))
		var others []polartest.LicenseKey
		for range 2 {
			key := w.Polar.AddKey(polartest.LicenseKey{LimitActivations: polartest.Limit(1), BenefitID: w.Key.BenefitID})
			_, err := gate.Activate(t.Context(), key.Key)
			require.NoError(t, err)
			others = append(others, key)
		}
		require.Equal(t, 2, w.Seats()+w.Polar.Seats(others[0].ID), "both wait to be given back")
		w.Polar.ClearFaults()
		time.Sleep(time.Hour)
		_, err := gate.Refresh(t.Context())
		require.NoError(t, err)
		assert.Zero(t, w.Seats()+w.Polar.Seats(others[0].ID))
		assert.Equal(t, 1, w.Polar.Seats(others[1].ID), "the one that is held")
	})
}

func TestCheckRetriesAPendingDeactivationOnceAMinute(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := kit.NewWorld(t)
		gate := w.Activated()
		w.Inject(kit.PathDeactivate, 0, polartest.ServerError(503))
		require.ErrorIs(t, gate.Deactivate(t.Context()), polargate.ErrUnreachable)
		for minute := range 3 {
			for range 10 {
				_, err := gate.Check(t.Context())
				require.ErrorIs(t, err, polargate.ErrNoLicense)
			}
			assert.Equal(t, 1+minute, w.Polar.Count(kit.PathDeactivate))
			time.Sleep(time.Minute)
		}
	})
}
