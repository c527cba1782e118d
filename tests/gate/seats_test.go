package gate

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"net/http"
	"slices"
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

func TestManyClicksUseOneActivation(t *testing.T) {
	t.Parallel()
	for name, gates := range map[string]int{"of one gate": 1, "of five gates on one store": 5} {
		for kind, store := range map[string]func(*testing.T) polargate.Store{
			"in memory": func(*testing.T) polargate.Store { return &polargate.MemoryStore{} },
			"on disk":   func(t *testing.T) polargate.Store { return polargate.FileStore(t.TempDir()) },
		} {
			t.Run(name+" "+kind, func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					w := kit.NewWorld(t)
					w.Config.Store = store(t)
					var all []*polargate.Gate
					for range gates {
						all = append(all, w.Open())
					}
					var clicks sync.WaitGroup
					for i := range 50 {
						clicks.Go(func() {
							status, err := all[i%gates].Activate(t.Context(), w.Key.Key)
							assert.NoError(t, err)
							assert.Equal(t, polargate.Active, status.State)
						})
					}
					clicks.Wait()
					assert.Equal(t, 1, w.Seats())
					assert.Equal(t, 1, w.Polar.Count(kit.PathActivate))
					for _, gate := range all {
						assert.True(t, gate.Has("export"))
					}
				})
			})
		}
	}
}

func TestActivatingTheSameKeyAgainUsesTheSameActivation(t *testing.T) {
	t.Parallel()
	for name, again := range map[string]func(*kit.World, *polargate.Gate) *polargate.Gate{
		"in the same run":            func(_ *kit.World, g *polargate.Gate) *polargate.Gate { return g },
		"in the next run":            func(w *kit.World, g *polargate.Gate) *polargate.Gate { _ = g.Close(); return w.Open() },
		"in another program's place": func(w *kit.World, _ *polargate.Gate) *polargate.Gate { return w.Open() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := kit.NewWorld(t, kit.Limit(1))
				gate := again(w, w.Activated())
				for range 3 {
					status, err := gate.Activate(t.Context(), "  "+w.Key.Key+"\n")
					require.NoError(t, err)
					assert.Equal(t, polargate.Active, status.State)
				}
				assert.Equal(t, 1, w.Seats())
				assert.Equal(t, 1, w.Polar.Count(kit.PathActivate))
			})
		})
	}
}

func TestAKeyForOneComputerCanBeEnteredAgain(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*testing.T, *kit.World, *polargate.Gate){
		"after it was given back": func(t *testing.T, _ *kit.World, g *polargate.Gate) { require.NoError(t, g.Deactivate(t.Context())) },
		"after its seat was released in the portal": func(t *testing.T, w *kit.World, g *polargate.Gate) {
			w.Polar.Update(w.Key.ID, func(k *polartest.LicenseKey) { k.Activations[0].Released = true })
			_, err := g.Refresh(t.Context())
			require.ErrorIs(t, err, polargate.ErrSeatReleased)
		},
		"after its seat was released and nobody noticed": func(_ *testing.T, w *kit.World, _ *polargate.Gate) {
			w.Polar.Update(w.Key.ID, func(k *polartest.LicenseKey) { k.Activations[0].Released = true })
		},
		"after it was refused and granted": func(t *testing.T, w *kit.World, g *polargate.Gate) {
			w.Polar.Revoke(w.Key.ID)
			_, err := g.Refresh(t.Context())
			require.ErrorIs(t, err, polargate.ErrInactive)
			w.Polar.Grant(w.Key.ID)
		},
		"after a week offline": func(_ *testing.T, w *kit.World, _ *polargate.Gate) {
			w.Polar.SetOffline(true)
			time.Sleep(7 * kit.Day)
			w.Polar.SetOffline(false)
		},
		"after its conditions went another way": func(_ *testing.T, w *kit.World, _ *polargate.Gate) {
			w.Polar.Update(w.Key.ID, func(k *polartest.LicenseKey) { k.Activations[0].Conditions = map[string]any{"fingerprint": "other"} })
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := kit.NewWorld(t, kit.Limit(1))
				gate := w.Activated()
				change(t, w, gate)
				for range 2 {
					status, err := gate.Activate(t.Context(), w.Key.Key)
					require.NoError(t, err)
					assert.Equal(t, polargate.Active, status.State)
				}
				assert.Equal(t, 1, w.Seats())
				assert.True(t, gate.Has("export"))
			})
		})
	}
}

func TestAnotherKeyReplacesTheFirstAndItsActivationEnds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := kit.NewWorld(t, kit.Limit(1))
		second := w.Polar.AddKey(polartest.LicenseKey{LimitActivations: polartest.Limit(1), BenefitID: w.Key.BenefitID})
		gate := w.Activated()
		for range 2 {
			_, err := gate.Activate(t.Context(), second.Key)
			require.NoError(t, err)
			synctest.Wait()
			assert.Equal(t, 0, w.Seats())
			assert.Equal(t, 1, w.Polar.Seats(second.ID))
			_, err = gate.Activate(t.Context(), w.Key.Key)
			require.NoError(t, err)
			synctest.Wait()
			assert.Equal(t, 1, w.Seats())
			assert.Equal(t, 0, w.Polar.Seats(second.ID))
		}
	})
}

func TestAReplacedActivationIsDeactivatedLaterIfItCannotBeNow(t *testing.T) {
	t.Parallel()
	for name, effect := range map[string]polartest.Effect{
		"reset":            polartest.Reset(),
		"login page":       polartest.LoginPage(200),
		"server error":     polartest.ServerError(500),
		"pause":            polartest.RateLimited("5"),
		"answer lost":      polartest.AnswerLost(),
		"silence":          polartest.Hang(),
		"bad token":        polartest.Body(401, applicationJSON, `{"error":"invalid_token","error_description":"x"}`),
		"200 in its place": polartest.Body(200, applicationJSON, `{}`),
		"router's 404":     polartest.RouterNotFound(),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := kit.NewWorld(t, kit.Limit(1))
				second := w.Polar.AddKey(polartest.LicenseKey{LimitActivations: polartest.Limit(1), BenefitID: w.Key.BenefitID})
				gate := w.Activated()
				w.Inject(kit.PathDeactivate, 0, effect)
				status, err := gate.Activate(t.Context(), second.Key)
				require.NoError(t, err, "the new key is good")
				assert.Equal(t, polargate.Active, status.State)
				assert.Equal(t, 1, w.Polar.Seats(second.ID))
				require.NoError(t, gate.Close())
				w.Polar.ClearFaults()
				next := w.Open()
				for range 3 {
					time.Sleep(25 * time.Hour)
					_, err = next.Check(t.Context())
					require.NoError(t, err)
					synctest.Wait()
				}
				assert.Zero(t, w.Seats(), "a later run gave the old seat back")
				assert.Equal(t, 1, w.Polar.Seats(second.ID))
				assert.True(t, next.Has("export"))
			})
		})
	}
}

func TestARotatedKeyKeepsItsActivation(t *testing.T) {
	t.Parallel()
	for name, refused := range map[string]bool{"before anybody asked": false, "after the old one was refused": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := kit.NewWorld(t, kit.Limit(1))
				gate := w.Activated()
				rotated := w.Polar.Rotate(w.Key.ID)
				if refused {
					_, err := gate.Refresh(t.Context())
					require.ErrorIs(t, err, polargate.ErrUnknownKey)
					assert.False(t, gate.Has("export"))
				}
				status, err := gate.Activate(t.Context(), rotated)
				require.NoError(t, err)
				assert.Equal(t, polargate.Active, status.State)
				assert.Equal(t, 1, w.Seats())
				assert.Equal(t, 1, w.Polar.Count(kit.PathActivate), "adopted, not taken anew")
				assert.True(t, strings.HasSuffix(rotated, strings.TrimPrefix(status.Key.String(), "****-")))
				_, err = gate.Refresh(t.Context())
				require.NoError(t, err)
				_, err = w.Open().Refresh(t.Context())
				require.NoError(t, err)
				require.NoError(t, gate.Deactivate(t.Context()))
				assert.Zero(t, w.Seats())
			})
		})
	}
}

func TestALostAnswerIsInDoubtAndCanBeTriedAgain(t *testing.T) {
	t.Parallel()
	for name, effect := range map[string]polartest.Effect{"reset": polartest.AnswerLost(), "broken off": polartest.Truncated(), "a byte a second": polartest.SlowDrip(time.Second)} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := kit.NewWorld(t)
				gate := w.Open()
				w.Inject(kit.PathActivate, 1, effect)
				status, err := gate.Activate(t.Context(), w.Key.Key)
				require.ErrorIs(t, err, polargate.ErrActivationInDoubt)
				assert.Equal(t, polargate.Unlicensed, status.State)
				assert.Equal(t, 1, w.Polar.Count(kit.PathActivate), "not sent again")
				assert.Equal(t, 1, w.Seats())
				assert.True(t, status.InDoubt)
				require.NoError(t, gate.Close())

				next := w.Open()
				assert.True(t, next.Status().InDoubt, "in the next run too")
				_, err = next.Check(t.Context())
				require.Error(t, err)
				assert.Equal(t, 1, w.Polar.Count(kit.PathActivate), "and Check takes no seat")
				status, err = next.Activate(t.Context(), w.Key.Key)
				require.NoError(t, err)
				assert.Equal(t, polargate.Active, status.State)
				assert.False(t, status.InDoubt, "that is settled")
				assert.Equal(t, 2, w.Seats())
			})
		})
	}
}

func TestARequestThatCertainlyHadNoEffectIsNotInDoubt(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := kit.NewWorld(t)
		gate := w.Open()
		w.Polar.SetOffline(true)
		_, err := gate.Activate(t.Context(), w.Key.Key)
		require.ErrorIs(t, err, polargate.ErrUnreachable)
		assert.NotErrorIs(t, err, polargate.ErrActivationInDoubt)
		w.Polar.SetOffline(false)
		w.Inject("", 1, polartest.RateLimited("20"))
		_, err = gate.Activate(t.Context(), w.Key.Key)
		require.ErrorIs(t, err, polargate.ErrRateLimited)
		time.Sleep(time.Minute)
		_, err = gate.Activate(t.Context(), w.Key.Key)
		require.NoError(t, err)
		assert.Equal(t, 1, w.Seats())
	})
}

func TestTheIntentIsStoredBeforeTheRequestLeaves(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := kit.NewWorld(t)
		store := &kit.BrittleStore{}
		w.Config.Store = store
		var saves atomic.Int64
		store.Set(nil, func(context.Context, string) error { saves.Add(1); return nil }, nil)
		transport := w.Polar.Transport()
		var before, after int64
		w.Config.HTTPClient = &http.Client{Transport: kit.RoundTripper(func(r *http.Request) (*http.Response, error) {
			if strings.HasSuffix(r.URL.Path, kit.PathActivate) {
				before = saves.Load()
			}
			return transport.RoundTrip(r)
		})}
		gate := w.Activated()
		after = saves.Load()
		assert.Positive(t, before, "written ahead")
		assert.Greater(t, after, before, "and the activation right after")
		assert.True(t, gate.Has("export"))
		for name, data := range store.Contents() {
			assert.Regexp(t, `^[a-z0-9.-]+$`, name)
			assert.NotContains(t, string(data), w.Key.Key)
			assert.LessOrEqual(t, len(data), 64<<10)
		}
	})
}

func TestNoActivationIsUsedThatCannotBeStored(t *testing.T) {
	t.Parallel()
	t.Run("nothing can be saved", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			w := kit.NewWorld(t)
			store := &kit.BrittleStore{}
			w.Config.Store = store
			gate := w.Open()
			store.Set(nil, kit.Fails, nil)
			status, err := gate.Activate(t.Context(), w.Key.Key)
			var stored *polargate.StoreError
			require.ErrorAs(t, err, &stored)
			assert.Equal(t, "save", stored.Op)
			assert.ErrorIs(t, err, kit.ErrDisk)
			assert.Equal(t, polargate.Unlicensed, status.State)
			assert.Zero(t, w.Polar.Count(""), "nothing was asked for")
		})
	})
	t.Run("the lock cannot be had", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			w := kit.NewWorld(t)
			store := &kit.BrittleStore{}
			w.Config.Store = store
			gate := w.Open()
			store.Set(nil, nil, kit.Fails)
			_, err := gate.Activate(t.Context(), w.Key.Key)
			var stored *polargate.StoreError
			require.ErrorAs(t, err, &stored)
			assert.Equal(t, "lock", stored.Op)
			assert.Zero(t, w.Polar.Count(kit.PathActivate))
		})
	})
	t.Run("a store that cannot be shared does without the lock", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			w := kit.NewWorld(t)
			store := &kit.BrittleStore{}
			w.Config.Store = store
			store.Set(nil, nil, func(context.Context, string) error { return errors.ErrUnsupported })
			gate := w.Open()
			var clicks sync.WaitGroup
			for range 20 {
				clicks.Go(func() {
					_, err := gate.Activate(t.Context(), w.Key.Key)
					assert.NoError(t, err)
				})
			}
			clicks.Wait()
			assert.Equal(t, 1, w.Seats())
		})
	})
	t.Run("the disk fails between the intent and the activation", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			w := kit.NewWorld(t)
			store := &kit.BrittleStore{}
			w.Config.Store = store
			store.Set(nil, func(context.Context, string) error {
				if w.Polar.Count(kit.PathActivate) > 0 {
					return kit.ErrDisk
				}
				return nil
			}, nil)
			gate := w.Open()
			_, err := gate.Activate(t.Context(), w.Key.Key)
			require.Error(t, err)
			var stored *polargate.StoreError
			assert.ErrorAs(t, err, &stored)
			synctest.Wait()
			assert.Equal(t, 1, w.Polar.Count(kit.PathActivate))
			assert.Zero(t, w.Seats(), "the seat was given back")
			assert.False(t, gate.Has("export"))
			store.Set(nil, nil, nil)
			_, err = gate.Activate(t.Context(), w.Key.Key)
			require.NoError(t, err)
			assert.Equal(t, 1, w.Seats())
		})
	})
	t.Run("the disk fails while a held license is replaced", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			w := kit.NewWorld(t)
			second := w.Polar.AddKey(polartest.LicenseKey{LimitActivations: polartest.Limit(1), BenefitID: w.Key.BenefitID})
			store := &kit.BrittleStore{}
			w.Config.Store = store
			gate := w.Activated()
			w.Polar.ForgetRequests()
			store.Set(nil, func(context.Context, string) error {
				if w.Polar.Count(kit.PathActivate) > 0 {
					return kit.ErrDisk
				}
				return nil
			}, nil)
			_, err := gate.Activate(t.Context(), second.Key)
			require.Error(t, err)
			synctest.Wait()
			assert.Zero(t, w.Polar.Seats(second.ID))
			assert.Equal(t, 1, w.Seats())
			assert.True(t, gate.Has("export"))
			store.Set(nil, nil, nil)
			_, err = w.Open().Refresh(t.Context())
			require.NoError(t, err, "the held license is as it was")
		})
	})
}

func TestAKeyOfAnotherProductIsDeactivatedAgain(t *testing.T) {
	t.Parallel()
	for name, first := range map[string]bool{"when nothing is held": false, "and leaves the held license alone": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := kit.NewWorld(t)
				foreign := w.Polar.AddKey(polartest.LicenseKey{LimitActivations: polartest.Limit(2), BenefitID: otherBenefit})
				gate := w.Open()
				if first {
					_, err := gate.Activate(t.Context(), w.Key.Key)
					require.NoError(t, err)
				}
				before := gate.Status()
				_, err := gate.Activate(t.Context(), foreign.Key)
				require.ErrorIs(t, err, polargate.ErrWrongBenefit)
				synctest.Wait()
				assert.Zero(t, w.Polar.Seats(foreign.ID))
				assert.Equal(t, first, gate.Has("export"))
				assert.Equal(t, before.State, gate.Status().State)
				assert.Equal(t, before.Key, gate.Status().Key)
				if first {
					_, err = gate.Refresh(t.Context())
					require.NoError(t, err)
				}
			})
		})
	}
	t.Run("later if it cannot be now", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			w := kit.NewWorld(t)
			foreign := w.Polar.AddKey(polartest.LicenseKey{LimitActivations: polartest.Limit(2), BenefitID: otherBenefit})
			gate := w.Open()
			w.Inject(kit.PathDeactivate, 0, polartest.ServerError(503))
			_, err := gate.Activate(t.Context(), foreign.Key)
			require.ErrorIs(t, err, polargate.ErrWrongBenefit)
			w.Polar.ClearFaults()
			time.Sleep(time.Hour)
			_, err = w.Open().Check(t.Context())
			require.ErrorIs(t, err, polargate.ErrNoLicense)
			synctest.Wait()
			assert.Zero(t, w.Polar.Seats(foreign.ID))
		})
	})
}

func TestAFailedActivateNeverHarmsTheHeldLicense(t *testing.T) {
	t.Parallel()
	type attempt struct {
		change func(*polartest.LicenseKey)
		effect polartest.Effect
	}
	attempts := map[string]attempt{
		"a revoked key":       {change: func(k *polartest.LicenseKey) { k.Status = "revoked" }},
		"an expired key":      {change: func(k *polartest.LicenseKey) { k.ExpiresAt = time.Now().Add(-1) }},
		"an unknown key":      {change: func(k *polartest.LicenseKey) { k.Deleted = true }},
		"a key without seats": {change: kit.WithoutSeats},
		"a key that is full": {change: func(k *polartest.LicenseKey) {
			k.LimitActivations, k.Activations = polartest.Limit(1), []polartest.Activation{{Label: "other"}}
		}},
		"a refusal in words of tomorrow": {effect: polartest.Body(403, applicationJSON, `{"error":"NotPermitted","detail":"No."}`)},
	}
	for name, test := range proveNothing {
		attempts[name] = attempt{effect: test.effect}
	}
	for name, test := range attempts {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := kit.NewWorld(t)
				second := polartest.LicenseKey{LimitActivations: polartest.Limit(2), BenefitID: w.Key.BenefitID}
				if test.change != nil {
					test.change(&second)
				}
				second = w.Polar.AddKey(second)
				gate := w.Activated()
				before := gate.Status()
				if test.change == nil {
					w.Inject(kit.PathActivate, 1, test.effect)
				}
				ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
				defer cancel()
				_, err := gate.Activate(ctx, second.Key)
				require.Error(t, err)
				after := gate.Status()
				assert.Equal(t, polargate.Active, after.State)
				assert.Equal(t, before.Key, after.Key)
				assert.Equal(t, before.GraceUntil, after.GraceUntil)
				assert.Equal(t, errors.Is(err, polargate.ErrActivationInDoubt), after.InDoubt)
				assert.True(t, gate.Has("export"))
				assert.Equal(t, 1, w.Seats())
				assert.True(t, w.Open().Has("export"))
				time.Sleep(2 * time.Minute)
				_, err = gate.Refresh(t.Context())
				require.NoError(t, err)
				assert.Equal(t, 1, w.Seats())
			})
		})
	}
}

func TestACallerWhoGivesUpDoesNotLoseTheActivation(t *testing.T) {
	t.Parallel()
	for name, after := range map[string]time.Duration{"while the request is on its way": 300 * time.Millisecond, "at once": 0} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := kit.NewWorld(t, kit.Limit(1))
				gate := w.Open()
				w.Inject(kit.PathActivate, 1, polartest.Delay(3*time.Second))
				ctx, cancel := context.WithTimeout(t.Context(), after)
				defer cancel()
				began := time.Now()
				_, err := gate.Activate(ctx, w.Key.Key)
				require.Error(t, err)
				assert.LessOrEqual(t, time.Since(began), after, "the caller does not wait longer")
				time.Sleep(time.Minute)
				assert.Equal(t, w.Seats() == 1, gate.Has("export"), "what Polar did is known here")
				assert.Equal(t, w.Seats() == 1, w.Open().Has("export"), "and on disk")
				if after > 0 {
					assert.Equal(t, 1, w.Seats())
					assert.Equal(t, polargate.Active, gate.Status().State)
				}
				_, err = gate.Activate(t.Context(), w.Key.Key)
				require.NoError(t, err)
				assert.Equal(t, 1, w.Seats())
				assert.Equal(t, 1, w.Polar.Count(kit.PathActivate))
			})
		})
	}
}

func TestASecondCallerOutlivesTheFirst(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := kit.NewWorld(t, kit.Limit(1))
		gate := w.Open()
		w.Inject(kit.PathActivate, 1, polartest.Delay(3*time.Second))
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		var both sync.WaitGroup
		both.Go(func() {
			_, err := gate.Activate(ctx, w.Key.Key)
			assert.Error(t, err)
		})
		both.Go(func() {
			time.Sleep(500 * time.Millisecond)
			status, err := gate.Activate(t.Context(), w.Key.Key)
			assert.NoError(t, err)
			assert.Equal(t, polargate.Active, status.State)
		})
		both.Wait()
		assert.Equal(t, 1, w.Seats())
	})
}

func TestCloseInTheMiddleOfAnActivationLosesNothing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := kit.NewWorld(t, kit.Limit(1))
		gate := w.Open()
		w.Inject(kit.PathActivate, 1, polartest.Delay(2*time.Second))
		var click sync.WaitGroup
		click.Go(func() { _, _ = gate.Activate(t.Context(), w.Key.Key) })
		time.Sleep(time.Second)
		began := time.Now()
		require.NoError(t, gate.Close())
		assert.LessOrEqual(t, time.Since(began), 5*time.Second)
		click.Wait()
		require.Equal(t, 1, w.Seats())
		next := w.Open()
		status, err := next.Activate(t.Context(), w.Key.Key)
		require.NoError(t, err, "Close waits for the work of the Gate, so its outcome is stored")
		assert.Equal(t, polargate.Active, status.State)
		assert.Equal(t, 1, w.Seats())
	})
}

func TestKeysWithoutActivationsAreRefusedUnlessAllowed(t *testing.T) {
	t.Parallel()
	t.Run("are refused as they are", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			w := kit.NewWorld(t, kit.WithoutSeats)
			gate := w.Open()
			_, err := gate.Activate(t.Context(), w.Key.Key)
			require.ErrorIs(t, err, polargate.ErrActivationsUnsupported)
			assert.False(t, gate.Has("export"))
			_, err = gate.Check(t.Context())
			require.Error(t, err)
		})
	})
	t.Run("live a whole life where the program accepts them", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			w := kit.NewWorld(t, kit.WithoutSeats, kit.Usage(10))
			w.Config.AllowKeysWithoutSeats = true
			gate := w.Activated()
			assert.True(t, gate.Has("export"))
			left, err := gate.Consume(t.Context(), 4)
			require.NoError(t, err)
			assert.Equal(t, int64(6), left)
			_, err = gate.Activate(t.Context(), w.Key.Key)
			require.NoError(t, err)
			time.Sleep(25 * time.Hour)
			_, err = gate.Check(t.Context())
			require.NoError(t, err)
			w.Polar.SetOffline(true)
			assert.True(t, w.Open().Has("export"))
			w.Polar.SetOffline(false)
			w.Polar.Revoke(w.Key.ID)
			_, err = gate.Refresh(t.Context())
			require.ErrorIs(t, err, polargate.ErrInactive)
			w.Polar.Grant(w.Key.ID)
			_, err = gate.Refresh(t.Context())
			require.NoError(t, err)
			require.NoError(t, gate.Deactivate(t.Context()))
			assert.False(t, gate.Has("export"))
			assert.Zero(t, w.Polar.Count(kit.PathDeactivate))
		})
	})
	t.Run("are refused for their benefit, expiry and status all the same", func(t *testing.T) {
		t.Parallel()
		for reason, change := range map[polargate.Reason]func(*polartest.LicenseKey){
			polargate.ErrWrongBenefit: func(*polartest.LicenseKey) {},
			polargate.ErrExpired:      func(k *polartest.LicenseKey) { k.ExpiresAt = time.Now() },
			polargate.ErrInactive:     func(k *polartest.LicenseKey) { k.Status = "revoked" },
		} {
			synctest.Test(t, func(t *testing.T) {
				w := kit.NewWorld(t, kit.WithoutSeats, func(k *polartest.LicenseKey) { k.ExpiresAt = time.Time{} }, change)
				w.Config.AllowKeysWithoutSeats = true
				if reason == polargate.ErrWrongBenefit {
					w.Config.Features = map[string][]string{otherBenefit: {"export"}}
				}
				gate := w.Open()
				_, err := gate.Activate(t.Context(), w.Key.Key)
				require.ErrorIs(t, err, reason)
				assert.False(t, gate.Has("export"))
			})
		}
	})
	t.Run("do not open a way around a full key", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			w := kit.NewWorld(t, func(k *polartest.LicenseKey) {
				k.LimitActivations, k.Activations = polartest.Limit(1), []polartest.Activation{{Label: "other"}}
			})
			w.Config.AllowKeysWithoutSeats = true
			gate := w.Open()
			_, err := gate.Activate(t.Context(), w.Key.Key)
			require.ErrorIs(t, err, polargate.ErrActivationLimit)
			assert.False(t, gate.Has("export"))
			_, err = gate.Check(t.Context())
			require.Error(t, err)
			assert.False(t, gate.Has("export"))
		})
	})
	t.Run("replace a seat and give it back", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			w := kit.NewWorld(t)
			w.Config.AllowKeysWithoutSeats = true
			free := w.Polar.AddKey(polartest.LicenseKey{BenefitID: w.Key.BenefitID})
			gate := w.Activated()
			_, err := gate.Activate(t.Context(), free.Key)
			require.NoError(t, err)
			synctest.Wait()
			assert.Zero(t, w.Seats())
		})
	})
}

func TestAKeyThatWasJustBoughtIsUnknownAndTheErrorSaysToWait(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := kit.NewWorld(t, func(k *polartest.LicenseKey) { k.VisibleFrom = time.Now().Add(90 * time.Second) })
		gate := w.Open()
		_, err := gate.Activate(t.Context(), w.Key.Key)
		require.ErrorIs(t, err, polargate.ErrUnknownKey)
		assert.Contains(t, err.Error(), "minute")
		status, err := gate.ActivateWait(t.Context(), w.Key.Key)
		require.NoError(t, err)
		assert.Equal(t, polargate.Active, status.State)
		assert.Equal(t, 1, w.Seats())
	})
	synctest.Test(t, func(t *testing.T) {
		w := kit.NewWorld(t, func(k *polartest.LicenseKey) { k.Status = "revoked" })
		began := time.Now()
		_, err := w.Open().ActivateWait(t.Context(), w.Key.Key)
		require.ErrorIs(t, err, polargate.ErrInactive)
		assert.Less(t, time.Since(began), 5*time.Second, "a refusal that waiting cannot change is said at once")
	})
}

func TestMovingToAnotherComputerMovesTheActivation(t *testing.T) {
	t.Parallel()
	elsewhere := func(c *polargate.Config) { c.Fingerprint = "another machine" }
	t.Run("by Move", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			w := kit.NewWorld(t, kit.Limit(1))
			require.NoError(t, w.Activated().Close())
			moved := w.Open(elsewhere)
			status, err := moved.Move(t.Context())
			require.NoError(t, err)
			assert.Equal(t, polargate.Active, status.State)
			assert.Equal(t, 1, w.Seats())
			assert.Equal(t, 1, w.Polar.Count(kit.PathDeactivate))
			assert.Equal(t, 2, w.Polar.Count(kit.PathActivate))
			_, err = moved.Refresh(t.Context())
			require.NoError(t, err)
		})
	})
	t.Run("by Activate", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			w := kit.NewWorld(t, kit.Limit(1))
			require.NoError(t, w.Activated().Close())
			moved := w.Open(elsewhere)
			_, err := moved.Activate(t.Context(), w.Key.Key)
			require.NoError(t, err)
			assert.Equal(t, 1, w.Seats())
			assert.True(t, moved.Has("export"))
		})
	})
	t.Run("not offline, where it is locked", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			w := kit.NewWorld(t, kit.Limit(1))
			require.NoError(t, w.Activated().Close())
			w.Polar.SetOffline(true)
			copied := w.Open(elsewhere)
			assert.False(t, copied.Has("export"))
			assert.Equal(t, polargate.Locked, copied.Status().State)
			assert.Equal(t, polargate.ErrOtherMachine, copied.Status().Reason)
			_, err := copied.Check(t.Context())
			require.ErrorIs(t, err, polargate.ErrOtherMachine)
			home := w.Open()
			assert.True(t, home.Has("export"), "and the machine that it belongs to has it still")
		})
	})
	t.Run("and can remove it there, which deactivates nobody", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			w := kit.NewWorld(t, kit.Limit(1))
			require.NoError(t, w.Activated().Close())
			moved := w.Open(elsewhere)
			require.NoError(t, moved.Deactivate(t.Context()))
			assert.Equal(t, 1, w.Seats(), "it is the other machine's")
			assert.Equal(t, polargate.Unlicensed, moved.Status().State)
			assert.Equal(t, polargate.ErrNoLicense, w.Open(elsewhere).Status().Reason, "and it is not offered again")
			_, err := w.Open().Refresh(t.Context())
			require.NoError(t, err)
			_, err = moved.Move(t.Context())
			require.NoError(t, err, "but can be moved all the same")
			require.NoError(t, moved.Deactivate(t.Context()))
			assert.Zero(t, w.Seats())
		})
	})
	t.Run("and a lost answer in between costs no license", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			w := kit.NewWorld(t, kit.Limit(1))
			require.NoError(t, w.Activated().Close())
			w.Inject(kit.PathActivate, 1, polartest.Reset())
			moved := w.Open(elsewhere)
			_, err := moved.Move(t.Context())
			require.ErrorIs(t, err, polargate.ErrActivationInDoubt)
			assert.False(t, moved.Has("export"))
			time.Sleep(time.Hour)
			_, err = moved.Activate(t.Context(), w.Key.Key)
			require.NoError(t, err)
			assert.Equal(t, 1, w.Seats())
		})
	})
}

func TestConditionsOfAnUpgradeDoNotLockOutTheOld(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := kit.NewWorld(t, kit.Limit(1))
		require.NoError(t, w.Activated().Close())
		upgraded := w.Open(func(c *polargate.Config) {
			c.Version = "2.0.0"
			c.Label = "another name"
			c.Conditions = map[string]any{"fingerprint": kit.ThisMachine, "major": 2}
		})
		_, err := upgraded.Refresh(t.Context())
		require.NoError(t, err)
		_, err = upgraded.Activate(t.Context(), w.Key.Key)
		require.NoError(t, err)
		assert.Equal(t, 1, w.Seats())
		assert.Equal(t, 1, w.Polar.Count(kit.PathActivate))
	})
	synctest.Test(t, func(t *testing.T) {
		w := kit.NewWorld(t)
		gate := w.Activated(func(c *polargate.Config) { c.Conditions = map[string]any{} })
		assert.Empty(t, w.Now().Activations[0].Conditions, "empty but not nil binds it to nothing")
		_, err := gate.Refresh(t.Context())
		require.NoError(t, err)
	})
}

func TestAnActivationsMetaNamesTheProgramAndComputer(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := kit.NewWorld(t)
		w.Activated(func(c *polargate.Config) { c.Label = "the laptop\x00\nof Ada " + strings.Repeat("é", 400) })
		seat := w.Now().Activations[0]
		assert.LessOrEqual(t, len([]rune(seat.Label)), 255)
		assert.Contains(t, seat.Label, "the laptop")
		assert.Equal(t, map[string]any{"fingerprint": kit.ThisMachine}, seat.Conditions)
		meta, err := json.Marshal(seat.Meta)
		require.NoError(t, err)
		assert.Contains(t, string(meta), "inkwell")
		assert.Contains(t, string(meta), "1.4.2")
		assert.NotContains(t, string(meta), w.Key.Key)
		assert.ElementsMatch(t, []string{"installation", "fingerprint", "attempt", "app", "version", "os"}, slices.Collect(maps.Keys(seat.Meta)))
	})
}
