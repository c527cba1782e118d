package polargate_test

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
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestManyClicksTakeOneSeat(t *testing.T) {
	t.Parallel()
	for name, gates := range map[string]int{"of one gate": 1, "of five gates on one store": 5} {
		for kind, store := range map[string]func(*testing.T) polargate.Store{
			"in memory": func(*testing.T) polargate.Store { return &polargate.MemoryStore{} },
			"on disk":   func(t *testing.T) polargate.Store { return polargate.FileStore(t.TempDir()) },
		} {
			t.Run(name+" "+kind, func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					w := newWorld(t)
					w.config.Store = store(t)
					var all []*polargate.Gate
					for range gates {
						all = append(all, w.open())
					}
					var clicks sync.WaitGroup
					for i := range 50 {
						clicks.Go(func() {
							status, err := all[i%gates].Activate(t.Context(), w.key.Key)
							assert.NoError(t, err)
							assert.Equal(t, polargate.Active, status.State)
						})
					}
					clicks.Wait()
					assert.Equal(t, 1, w.seats())
					assert.Equal(t, 1, w.polar.Count(pathActivate))
					for _, gate := range all {
						assert.True(t, gate.Has("export"))
					}
				})
			})
		}
	}
}

func TestASecondActivateOfTheSameKeyGoesOnWithItsSeat(t *testing.T) {
	t.Parallel()
	for name, again := range map[string]func(*world, *polargate.Gate) *polargate.Gate{
		"in the same run":            func(_ *world, g *polargate.Gate) *polargate.Gate { return g },
		"in the next run":            func(w *world, g *polargate.Gate) *polargate.Gate { _ = g.Close(); return w.open() },
		"in another program's place": func(w *world, _ *polargate.Gate) *polargate.Gate { return w.open() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, limit(1))
				gate := again(w, w.activated())
				for range 3 {
					status, err := gate.Activate(t.Context(), "  "+w.key.Key+"\n")
					require.NoError(t, err)
					assert.Equal(t, polargate.Active, status.State)
				}
				assert.Equal(t, 1, w.seats())
				assert.Equal(t, 1, w.polar.Count(pathActivate))
			})
		})
	}
}

func TestAKeyOfOneSeatCanBeEnteredAgain(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*testing.T, *world, *polargate.Gate){
		"after it was given back": func(t *testing.T, _ *world, g *polargate.Gate) { require.NoError(t, g.Deactivate(t.Context())) },
		"after its seat was released in the portal": func(t *testing.T, w *world, g *polargate.Gate) {
			w.polar.Update(w.key.ID, func(k *polartest.LicenseKey) { k.Activations[0].Released = true })
			_, err := g.Refresh(t.Context())
			require.ErrorIs(t, err, polargate.ErrSeatReleased)
		},
		"after its seat was released and nobody noticed": func(_ *testing.T, w *world, _ *polargate.Gate) {
			w.polar.Update(w.key.ID, func(k *polartest.LicenseKey) { k.Activations[0].Released = true })
		},
		"after it was refused and granted": func(t *testing.T, w *world, g *polargate.Gate) {
			w.polar.Revoke(w.key.ID)
			_, err := g.Refresh(t.Context())
			require.ErrorIs(t, err, polargate.ErrInactive)
			w.polar.Grant(w.key.ID)
		},
		"after a week offline": func(_ *testing.T, w *world, _ *polargate.Gate) {
			w.polar.SetOffline(true)
			time.Sleep(7 * day)
			w.polar.SetOffline(false)
		},
		"after its conditions went another way": func(_ *testing.T, w *world, _ *polargate.Gate) {
			w.polar.Update(w.key.ID, func(k *polartest.LicenseKey) { k.Activations[0].Conditions = map[string]any{"fingerprint": "other"} })
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, limit(1))
				gate := w.activated()
				change(t, w, gate)
				for range 2 {
					status, err := gate.Activate(t.Context(), w.key.Key)
					require.NoError(t, err)
					assert.Equal(t, polargate.Active, status.State)
				}
				assert.Equal(t, 1, w.seats())
				assert.True(t, gate.Has("export"))
			})
		})
	}
}

func TestAnotherKeyTakesThePlaceAndTheOldSeatIsGivenBack(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, limit(1))
		second := w.polar.AddKey(polartest.LicenseKey{LimitActivations: polartest.Limit(1), BenefitID: w.key.BenefitID})
		gate := w.activated()
		for range 2 {
			_, err := gate.Activate(t.Context(), second.Key)
			require.NoError(t, err)
			synctest.Wait()
			assert.Equal(t, 0, w.seats())
			assert.Equal(t, 1, w.polar.Seats(second.ID))
			_, err = gate.Activate(t.Context(), w.key.Key)
			require.NoError(t, err)
			synctest.Wait()
			assert.Equal(t, 1, w.seats())
			assert.Equal(t, 0, w.polar.Seats(second.ID))
		}
	})
}

func TestTheOldSeatIsGivenBackLaterIfItCannotBeNow(t *testing.T) {
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
				w := newWorld(t, limit(1))
				second := w.polar.AddKey(polartest.LicenseKey{LimitActivations: polartest.Limit(1), BenefitID: w.key.BenefitID})
				gate := w.activated()
				w.inject(pathDeactivate, 0, effect)
				status, err := gate.Activate(t.Context(), second.Key)
				require.NoError(t, err, "the new key is good")
				assert.Equal(t, polargate.Active, status.State)
				assert.Equal(t, 1, w.polar.Seats(second.ID))
				require.NoError(t, gate.Close())
				w.polar.ClearFaults()
				next := w.open()
				for range 3 {
					time.Sleep(25 * time.Hour)
					_, err = next.Check(t.Context())
					require.NoError(t, err)
					synctest.Wait()
				}
				assert.Zero(t, w.seats(), "a later run gave the old seat back")
				assert.Equal(t, 1, w.polar.Seats(second.ID))
				assert.True(t, next.Has("export"))
			})
		})
	}
}

func TestARotatedKeyKeepsItsSeat(t *testing.T) {
	t.Parallel()
	for name, refused := range map[string]bool{"before anybody asked": false, "after the old one was refused": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, limit(1))
				gate := w.activated()
				rotated := w.polar.Rotate(w.key.ID)
				if refused {
					_, err := gate.Refresh(t.Context())
					require.ErrorIs(t, err, polargate.ErrUnknownKey)
					assert.False(t, gate.Has("export"))
				}
				status, err := gate.Activate(t.Context(), rotated)
				require.NoError(t, err)
				assert.Equal(t, polargate.Active, status.State)
				assert.Equal(t, 1, w.seats())
				assert.Equal(t, 1, w.polar.Count(pathActivate), "adopted, not taken anew")
				assert.True(t, strings.HasSuffix(rotated, strings.TrimPrefix(status.Key.String(), "****-")))
				_, err = gate.Refresh(t.Context())
				require.NoError(t, err)
				_, err = w.open().Refresh(t.Context())
				require.NoError(t, err)
				require.NoError(t, gate.Deactivate(t.Context()))
				assert.Zero(t, w.seats())
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
				w := newWorld(t)
				gate := w.open()
				w.inject(pathActivate, 1, effect)
				status, err := gate.Activate(t.Context(), w.key.Key)
				require.ErrorIs(t, err, polargate.ErrActivationInDoubt)
				assert.Equal(t, polargate.Unlicensed, status.State)
				assert.Equal(t, 1, w.polar.Count(pathActivate), "not sent again")
				assert.Equal(t, 1, w.seats())
				assert.True(t, status.InDoubt)
				require.NoError(t, gate.Close())

				next := w.open()
				assert.True(t, next.Status().InDoubt, "in the next run too")
				_, err = next.Check(t.Context())
				require.Error(t, err)
				assert.Equal(t, 1, w.polar.Count(pathActivate), "and Check takes no seat")
				status, err = next.Activate(t.Context(), w.key.Key)
				require.NoError(t, err)
				assert.Equal(t, polargate.Active, status.State)
				assert.False(t, status.InDoubt, "that is settled")
				assert.Equal(t, 2, w.seats())
			})
		})
	}
}

func TestWhatWasSurelyNotCarriedOutIsNotInDoubt(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		gate := w.open()
		w.polar.SetOffline(true)
		_, err := gate.Activate(t.Context(), w.key.Key)
		require.ErrorIs(t, err, polargate.ErrUnreachable)
		assert.NotErrorIs(t, err, polargate.ErrActivationInDoubt)
		w.polar.SetOffline(false)
		w.inject("", 1, polartest.RateLimited("20"))
		_, err = gate.Activate(t.Context(), w.key.Key)
		require.ErrorIs(t, err, polargate.ErrRateLimited)
		time.Sleep(time.Minute)
		_, err = gate.Activate(t.Context(), w.key.Key)
		require.NoError(t, err)
		assert.Equal(t, 1, w.seats())
	})
}

func TestTheIntentIsStoredBeforeTheRequestLeaves(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		store := &brittleStore{}
		w.config.Store = store
		var saves atomic.Int64
		store.set(nil, func(context.Context, string) error { saves.Add(1); return nil }, nil)
		transport := w.polar.Transport()
		var before, after int64
		w.config.HTTPClient = &http.Client{Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
			if strings.HasSuffix(r.URL.Path, pathActivate) {
				before = saves.Load()
			}
			return transport.RoundTrip(r)
		})}
		gate := w.activated()
		after = saves.Load()
		assert.Positive(t, before, "written ahead")
		assert.Greater(t, after, before, "and the activation right after")
		assert.True(t, gate.Has("export"))
		for name, data := range store.contents() {
			assert.Regexp(t, `^[a-z0-9.-]+$`, name)
			assert.NotContains(t, string(data), w.key.Key)
			assert.LessOrEqual(t, len(data), 64<<10)
		}
	})
}

func TestNoSeatIsTakenThatCannotBeKept(t *testing.T) {
	t.Parallel()
	t.Run("nothing can be saved", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			store := &brittleStore{}
			w.config.Store = store
			gate := w.open()
			store.set(nil, fails, nil)
			status, err := gate.Activate(t.Context(), w.key.Key)
			var stored *polargate.StoreError
			require.ErrorAs(t, err, &stored)
			assert.Equal(t, "save", stored.Op)
			assert.ErrorIs(t, err, errDisk)
			assert.Equal(t, polargate.Unlicensed, status.State)
			assert.Zero(t, w.polar.Count(""), "nothing was asked for")
		})
	})
	t.Run("the lock cannot be had", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			store := &brittleStore{}
			w.config.Store = store
			gate := w.open()
			store.set(nil, nil, fails)
			_, err := gate.Activate(t.Context(), w.key.Key)
			var stored *polargate.StoreError
			require.ErrorAs(t, err, &stored)
			assert.Equal(t, "lock", stored.Op)
			assert.Zero(t, w.polar.Count(pathActivate))
		})
	})
	t.Run("a store that cannot be shared does without the lock", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			store := &brittleStore{}
			w.config.Store = store
			store.set(nil, nil, func(context.Context, string) error { return errors.ErrUnsupported })
			gate := w.open()
			var clicks sync.WaitGroup
			for range 20 {
				clicks.Go(func() {
					_, err := gate.Activate(t.Context(), w.key.Key)
					assert.NoError(t, err)
				})
			}
			clicks.Wait()
			assert.Equal(t, 1, w.seats())
		})
	})
	t.Run("the disk fails between the intent and the activation", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			store := &brittleStore{}
			w.config.Store = store
			store.set(nil, func(context.Context, string) error {
				if w.polar.Count(pathActivate) > 0 {
					return errDisk
				}
				return nil
			}, nil)
			gate := w.open()
			_, err := gate.Activate(t.Context(), w.key.Key)
			require.Error(t, err)
			var stored *polargate.StoreError
			assert.ErrorAs(t, err, &stored)
			synctest.Wait()
			assert.Equal(t, 1, w.polar.Count(pathActivate))
			assert.Zero(t, w.seats(), "the seat was given back")
			assert.False(t, gate.Has("export"))
			store.set(nil, nil, nil)
			_, err = gate.Activate(t.Context(), w.key.Key)
			require.NoError(t, err)
			assert.Equal(t, 1, w.seats())
		})
	})
	t.Run("the disk fails while a held license is replaced", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			second := w.polar.AddKey(polartest.LicenseKey{LimitActivations: polartest.Limit(1), BenefitID: w.key.BenefitID})
			store := &brittleStore{}
			w.config.Store = store
			gate := w.activated()
			w.polar.ForgetRequests()
			store.set(nil, func(context.Context, string) error {
				if w.polar.Count(pathActivate) > 0 {
					return errDisk
				}
				return nil
			}, nil)
			_, err := gate.Activate(t.Context(), second.Key)
			require.Error(t, err)
			synctest.Wait()
			assert.Zero(t, w.polar.Seats(second.ID))
			assert.Equal(t, 1, w.seats())
			assert.True(t, gate.Has("export"))
			store.set(nil, nil, nil)
			_, err = w.open().Refresh(t.Context())
			require.NoError(t, err, "the held license is as it was")
		})
	})
}

func TestAWrongBenefitGivesItsSeatBack(t *testing.T) {
	t.Parallel()
	for name, first := range map[string]bool{"when nothing is held": false, "and leaves the held license alone": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				foreign := w.polar.AddKey(polartest.LicenseKey{LimitActivations: polartest.Limit(2), BenefitID: otherBenefit})
				gate := w.open()
				if first {
					_, err := gate.Activate(t.Context(), w.key.Key)
					require.NoError(t, err)
				}
				before := gate.Status()
				_, err := gate.Activate(t.Context(), foreign.Key)
				require.ErrorIs(t, err, polargate.ErrWrongBenefit)
				synctest.Wait()
				assert.Zero(t, w.polar.Seats(foreign.ID))
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
			w := newWorld(t)
			foreign := w.polar.AddKey(polartest.LicenseKey{LimitActivations: polartest.Limit(2), BenefitID: otherBenefit})
			gate := w.open()
			w.inject(pathDeactivate, 0, polartest.ServerError(503))
			_, err := gate.Activate(t.Context(), foreign.Key)
			require.ErrorIs(t, err, polargate.ErrWrongBenefit)
			w.polar.ClearFaults()
			time.Sleep(time.Hour)
			_, err = w.open().Check(t.Context())
			require.ErrorIs(t, err, polargate.ErrNoLicense)
			synctest.Wait()
			assert.Zero(t, w.polar.Seats(foreign.ID))
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
		"a key without seats": {change: withoutSeats},
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
				w := newWorld(t)
				second := polartest.LicenseKey{LimitActivations: polartest.Limit(2), BenefitID: w.key.BenefitID}
				if test.change != nil {
					test.change(&second)
				}
				second = w.polar.AddKey(second)
				gate := w.activated()
				before := gate.Status()
				if test.change == nil {
					w.inject(pathActivate, 1, test.effect)
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
				assert.Equal(t, 1, w.seats())
				assert.True(t, w.open().Has("export"))
				time.Sleep(2 * time.Minute)
				_, err = gate.Refresh(t.Context())
				require.NoError(t, err)
				assert.Equal(t, 1, w.seats())
			})
		})
	}
}

func TestACallerWhoLeavesDoesNotLoseTheSeat(t *testing.T) {
	t.Parallel()
	for name, after := range map[string]time.Duration{"while the request is on its way": 300 * time.Millisecond, "at once": 0} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, limit(1))
				gate := w.open()
				w.inject(pathActivate, 1, polartest.Delay(3*time.Second))
				ctx, cancel := context.WithTimeout(t.Context(), after)
				defer cancel()
				began := time.Now()
				_, err := gate.Activate(ctx, w.key.Key)
				require.Error(t, err)
				assert.LessOrEqual(t, time.Since(began), after, "the caller does not wait longer")
				time.Sleep(time.Minute)
				assert.Equal(t, w.seats() == 1, gate.Has("export"), "what Polar did is known here")
				assert.Equal(t, w.seats() == 1, w.open().Has("export"), "and on disk")
				if after > 0 {
					assert.Equal(t, 1, w.seats())
					assert.Equal(t, polargate.Active, gate.Status().State)
				}
				_, err = gate.Activate(t.Context(), w.key.Key)
				require.NoError(t, err)
				assert.Equal(t, 1, w.seats())
				assert.Equal(t, 1, w.polar.Count(pathActivate))
			})
		})
	}
}

func TestASecondCallerOutlivesTheFirst(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, limit(1))
		gate := w.open()
		w.inject(pathActivate, 1, polartest.Delay(3*time.Second))
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		var both sync.WaitGroup
		both.Go(func() {
			_, err := gate.Activate(ctx, w.key.Key)
			assert.Error(t, err)
		})
		both.Go(func() {
			time.Sleep(500 * time.Millisecond)
			status, err := gate.Activate(t.Context(), w.key.Key)
			assert.NoError(t, err)
			assert.Equal(t, polargate.Active, status.State)
		})
		both.Wait()
		assert.Equal(t, 1, w.seats())
	})
}

func TestCloseInTheMiddleOfAnActivationLosesNothing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, limit(1))
		gate := w.open()
		w.inject(pathActivate, 1, polartest.Delay(2*time.Second))
		var click sync.WaitGroup
		click.Go(func() { _, _ = gate.Activate(t.Context(), w.key.Key) })
		time.Sleep(time.Second)
		began := time.Now()
		require.NoError(t, gate.Close())
		assert.LessOrEqual(t, time.Since(began), 5*time.Second)
		click.Wait()
		require.Equal(t, 1, w.seats())
		next := w.open()
		status, err := next.Activate(t.Context(), w.key.Key)
		require.NoError(t, err, "Close waits for the work of the Gate, so its outcome is stored")
		assert.Equal(t, polargate.Active, status.State)
		assert.Equal(t, 1, w.seats())
	})
}

func TestKeysWithoutSeats(t *testing.T) {
	t.Parallel()
	t.Run("are refused as they are", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, withoutSeats)
			gate := w.open()
			_, err := gate.Activate(t.Context(), w.key.Key)
			require.ErrorIs(t, err, polargate.ErrActivationsUnsupported)
			assert.False(t, gate.Has("export"))
			_, err = gate.Check(t.Context())
			require.Error(t, err)
		})
	})
	t.Run("live a whole life where the program accepts them", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, withoutSeats, usage(10))
			w.config.AllowKeysWithoutSeats = true
			gate := w.activated()
			assert.True(t, gate.Has("export"))
			left, err := gate.Consume(t.Context(), 4)
			require.NoError(t, err)
			assert.Equal(t, int64(6), left)
			_, err = gate.Activate(t.Context(), w.key.Key)
			require.NoError(t, err)
			time.Sleep(25 * time.Hour)
			_, err = gate.Check(t.Context())
			require.NoError(t, err)
			w.polar.SetOffline(true)
			assert.True(t, w.open().Has("export"))
			w.polar.SetOffline(false)
			w.polar.Revoke(w.key.ID)
			_, err = gate.Refresh(t.Context())
			require.ErrorIs(t, err, polargate.ErrInactive)
			w.polar.Grant(w.key.ID)
			_, err = gate.Refresh(t.Context())
			require.NoError(t, err)
			require.NoError(t, gate.Deactivate(t.Context()))
			assert.False(t, gate.Has("export"))
			assert.Zero(t, w.polar.Count(pathDeactivate))
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
				w := newWorld(t, withoutSeats, func(k *polartest.LicenseKey) { k.ExpiresAt = time.Time{} }, change)
				w.config.AllowKeysWithoutSeats = true
				if reason == polargate.ErrWrongBenefit {
					w.config.Features = map[string][]string{otherBenefit: {"export"}}
				}
				gate := w.open()
				_, err := gate.Activate(t.Context(), w.key.Key)
				require.ErrorIs(t, err, reason)
				assert.False(t, gate.Has("export"))
			})
		}
	})
	t.Run("do not open a way around a full key", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, func(k *polartest.LicenseKey) {
				k.LimitActivations, k.Activations = polartest.Limit(1), []polartest.Activation{{Label: "other"}}
			})
			w.config.AllowKeysWithoutSeats = true
			gate := w.open()
			_, err := gate.Activate(t.Context(), w.key.Key)
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
			w := newWorld(t)
			w.config.AllowKeysWithoutSeats = true
			free := w.polar.AddKey(polartest.LicenseKey{BenefitID: w.key.BenefitID})
			gate := w.activated()
			_, err := gate.Activate(t.Context(), free.Key)
			require.NoError(t, err)
			synctest.Wait()
			assert.Zero(t, w.seats())
		})
	})
}

func TestAKeyThatWasJustBoughtIsUnknownAndTheErrorSaysToWait(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, func(k *polartest.LicenseKey) { k.VisibleFrom = time.Now().Add(90 * time.Second) })
		gate := w.open()
		_, err := gate.Activate(t.Context(), w.key.Key)
		require.ErrorIs(t, err, polargate.ErrUnknownKey)
		assert.Contains(t, err.Error(), "minute")
		status, err := gate.ActivateWait(t.Context(), w.key.Key)
		require.NoError(t, err)
		assert.Equal(t, polargate.Active, status.State)
		assert.Equal(t, 1, w.seats())
	})
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, func(k *polartest.LicenseKey) { k.Status = "revoked" })
		began := time.Now()
		_, err := w.open().ActivateWait(t.Context(), w.key.Key)
		require.ErrorIs(t, err, polargate.ErrInactive)
		assert.Less(t, time.Since(began), 5*time.Second, "a refusal that waiting cannot change is said at once")
	})
}

func TestAnotherMachineMovesTheSeat(t *testing.T) {
	t.Parallel()
	elsewhere := func(c *polargate.Config) { c.Fingerprint = "another machine" }
	t.Run("by Move", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, limit(1))
			require.NoError(t, w.activated().Close())
			moved := w.open(elsewhere)
			status, err := moved.Move(t.Context())
			require.NoError(t, err)
			assert.Equal(t, polargate.Active, status.State)
			assert.Equal(t, 1, w.seats())
			assert.Equal(t, 1, w.polar.Count(pathDeactivate))
			assert.Equal(t, 2, w.polar.Count(pathActivate))
			_, err = moved.Refresh(t.Context())
			require.NoError(t, err)
		})
	})
	t.Run("by Activate", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, limit(1))
			require.NoError(t, w.activated().Close())
			moved := w.open(elsewhere)
			_, err := moved.Activate(t.Context(), w.key.Key)
			require.NoError(t, err)
			assert.Equal(t, 1, w.seats())
			assert.True(t, moved.Has("export"))
		})
	})
	t.Run("not offline, where it is locked", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, limit(1))
			require.NoError(t, w.activated().Close())
			w.polar.SetOffline(true)
			copied := w.open(elsewhere)
			assert.False(t, copied.Has("export"))
			assert.Equal(t, polargate.Locked, copied.Status().State)
			assert.Equal(t, polargate.ErrOtherMachine, copied.Status().Reason)
			_, err := copied.Check(t.Context())
			require.ErrorIs(t, err, polargate.ErrOtherMachine)
			home := w.open()
			assert.True(t, home.Has("export"), "and the machine that it belongs to has it still")
		})
	})
	t.Run("and can remove it there, which deactivates nobody", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, limit(1))
			require.NoError(t, w.activated().Close())
			moved := w.open(elsewhere)
			require.NoError(t, moved.Deactivate(t.Context()))
			assert.Equal(t, 1, w.seats(), "it is the other machine's")
			assert.Equal(t, polargate.Unlicensed, moved.Status().State)
			assert.Equal(t, polargate.ErrNoLicense, w.open(elsewhere).Status().Reason, "and it is not offered again")
			_, err := w.open().Refresh(t.Context())
			require.NoError(t, err)
			_, err = moved.Move(t.Context())
			require.NoError(t, err, "but can be moved all the same")
			require.NoError(t, moved.Deactivate(t.Context()))
			assert.Zero(t, w.seats())
		})
	})
	t.Run("and a lost answer in between costs no license", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, limit(1))
			require.NoError(t, w.activated().Close())
			w.inject(pathActivate, 1, polartest.Reset())
			moved := w.open(elsewhere)
			_, err := moved.Move(t.Context())
			require.ErrorIs(t, err, polargate.ErrActivationInDoubt)
			assert.False(t, moved.Has("export"))
			time.Sleep(time.Hour)
			_, err = moved.Activate(t.Context(), w.key.Key)
			require.NoError(t, err)
			assert.Equal(t, 1, w.seats())
		})
	})
}

func TestConditionsOfAnUpgradeDoNotLockOutTheOld(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, limit(1))
		require.NoError(t, w.activated().Close())
		upgraded := w.open(func(c *polargate.Config) {
			c.Version = "2.0.0"
			c.Label = "another name"
			c.Conditions = map[string]any{"fingerprint": thisMachine, "major": 2}
		})
		_, err := upgraded.Refresh(t.Context())
		require.NoError(t, err)
		_, err = upgraded.Activate(t.Context(), w.key.Key)
		require.NoError(t, err)
		assert.Equal(t, 1, w.seats())
		assert.Equal(t, 1, w.polar.Count(pathActivate))
	})
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		gate := w.activated(func(c *polargate.Config) { c.Conditions = map[string]any{} })
		assert.Empty(t, w.now().Activations[0].Conditions, "empty but not nil binds it to nothing")
		_, err := gate.Refresh(t.Context())
		require.NoError(t, err)
	})
}

func TestAnActivationTellsTheVendorWhoTookIt(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.activated(func(c *polargate.Config) { c.Label = "the laptop\x00\nof Ada " + strings.Repeat("é", 400) })
		seat := w.now().Activations[0]
		assert.LessOrEqual(t, len([]rune(seat.Label)), 255)
		assert.Contains(t, seat.Label, "the laptop")
		assert.Equal(t, map[string]any{"fingerprint": thisMachine}, seat.Conditions)
		meta, err := json.Marshal(seat.Meta)
		require.NoError(t, err)
		assert.Contains(t, string(meta), "inkwell")
		assert.Contains(t, string(meta), "1.4.2")
		assert.NotContains(t, string(meta), w.key.Key)
		assert.ElementsMatch(t, []string{"installation", "fingerprint", "attempt", "app", "version", "os"}, slices.Collect(maps.Keys(seat.Meta)))
	})
}
