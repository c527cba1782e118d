package polargate_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/polargate/polargate"
	"github.com/polargate/polargate/polartest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// copied is a store with what another one holds now.
func copied(t *testing.T, from *brittleStore) *brittleStore {
	t.Helper()
	to := &brittleStore{}
	for name, data := range from.contents() {
		require.NoError(t, to.Save(t.Context(), name, data))
	}
	return to
}

func on(machine string, store polargate.Store) func(*polargate.Config) {
	return func(c *polargate.Config) { c.Fingerprint, c.Store = machine, store }
}

func TestACopiedOutboxIsWorthOneSeat(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, limit(1))
		store := &brittleStore{}
		w.config.Store = store
		gate := w.activated()
		w.polar.SetOffline(true)
		require.Error(t, gate.Deactivate(t.Context()))
		w.polar.SetOffline(false)
		var gates []*polargate.Gate
		for _, machine := range []string{"two", "three", "four"} {
			g := w.open(on(machine, copied(t, store)))
			time.Sleep(5 * time.Second)
			if _, err := g.Activate(t.Context(), w.key.Key); err != nil {
				require.ErrorIs(t, err, polargate.ErrActivationLimit)
			}
			gates = append(gates, g)
		}
		running := 0
		for _, g := range gates {
			time.Sleep(10 * time.Second)
			if _, err := g.Refresh(t.Context()); err == nil {
				running++
			}
		}
		assert.LessOrEqual(t, running, 1)
		assert.Equal(t, 1, w.seats())
	})
}

func TestASeatOnItsWayBackIsNotTakenUpAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, limit(1))
		gate := w.activated()
		w.polar.Inject(polartest.Fault{Path: pathDeactivate, Times: 1, Effect: polartest.Delay(3 * time.Second)})
		given := make(chan error, 1)
		go func() { given <- gate.Deactivate(t.Context()) }()
		time.Sleep(100 * time.Millisecond)
		assert.False(t, gate.Has("export"), "access ends before Polar answers")
		_, err := gate.Activate(t.Context(), w.key.Key)
		require.NoError(t, err)
		require.NoError(t, <-given)
		time.Sleep(5 * time.Second)
		_, err = gate.Refresh(t.Context())
		require.NoError(t, err)
		assert.Equal(t, 1, w.seats())
	})
}

func TestADenialThatCameWhileTheSeatWasBeingChangedIsKept(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		other := w.polar.AddKey(polartest.LicenseKey{LimitActivations: polartest.Limit(1), BenefitID: w.key.BenefitID})
		gate := w.activated()
		w.polar.Inject(polartest.Fault{Path: pathActivate, Effect: polartest.Delay(8 * time.Second)})
		w.polar.Update(other.ID, func(k *polartest.LicenseKey) {
			k.Activations = append(k.Activations, polartest.Activation{Label: "elsewhere"})
		})
		changed := make(chan error, 1)
		go func() { _, err := gate.Activate(t.Context(), other.Key); changed <- err }()
		time.Sleep(2 * time.Second)
		w.polar.Revoke(w.key.ID)
		_, err := gate.Refresh(t.Context())
		require.ErrorIs(t, err, polargate.ErrInactive)
		require.ErrorIs(t, <-changed, polargate.ErrActivationLimit)
		assert.Equal(t, polargate.ErrInactive, gate.Status().Reason)
		w.polar.SetOffline(true)
		assert.Equal(t, polargate.ErrInactive, w.open().Status().Reason, "nor does the next run bring it back")
	})
}

func TestAStoreWithoutLocksStillGetsOneChangeAtATime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		store := &brittleStore{}
		store.set(nil, nil, func(context.Context, string) error { return errors.ErrUnsupported })
		w.config.Store = store
		other := w.polar.AddKey(polartest.LicenseKey{LimitActivations: polartest.Limit(1), BenefitID: w.key.BenefitID})
		w.inject(pathActivate, 0, polartest.Delay(time.Second))
		gate := w.open()
		var clicks sync.WaitGroup
		for _, key := range []string{w.key.Key, other.Key} {
			clicks.Go(func() {
				_, err := gate.Activate(t.Context(), key)
				assert.NoError(t, err)
			})
		}
		clicks.Wait()
		assert.Equal(t, polargate.Active, gate.Status().State)
		assert.Equal(t, 1, w.seats()+w.polar.Seats(other.ID), "the one that is held; the other was given back")
	})
}

func TestAnAnswerThatWasOvertakenIsNotBelieved(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		gate := w.activated()
		time.Sleep(time.Minute)
		w.inject(pathValidate, 1, polartest.Delay(3*time.Second))
		go func() { _, _ = gate.Refresh(t.Context()) }()
		time.Sleep(time.Second)
		w.polar.Revoke(w.key.ID)
		_, err := gate.Consume(t.Context(), 1)
		require.ErrorIs(t, err, polargate.ErrInactive)
		time.Sleep(time.Minute)
		assert.Equal(t, polargate.ErrInactive, gate.Status().Reason, "what Refresh was told is older")
		w.polar.SetOffline(true)
		assert.Equal(t, polargate.ErrInactive, w.open().Status().Reason)
	})
}

func TestASeatThatWaitsUnderARotatedKeyIsTakenUpUnderTheNewOne(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, limit(1))
		gate := w.activated()
		w.polar.SetOffline(true)
		require.ErrorIs(t, gate.Deactivate(t.Context()), polargate.ErrUnreachable)
		w.polar.SetOffline(false)
		next := w.polar.Rotate(w.key.ID)
		time.Sleep(time.Hour)
		_, err := gate.Check(t.Context()) // tries to give it back, with a key that is dead
		require.ErrorIs(t, err, polargate.ErrNoLicense)
		assert.Equal(t, 1, w.seats())
		time.Sleep(time.Hour)
		_, err = gate.Activate(t.Context(), next)
		require.NoError(t, err)
		assert.Equal(t, 1, w.seats())
		assert.Equal(t, 1, w.polar.Count(pathActivate))
		require.NoError(t, gate.Deactivate(t.Context()))
		assert.Zero(t, w.seats())
	})
}

func TestASeatUnderARotatedKeyIsNotSaidToBeFree(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, limit(1))
		gate := w.activated()
		next := w.polar.Rotate(w.key.ID)
		require.ErrorIs(t, gate.Deactivate(t.Context()), polargate.ErrUnknownKey)
		assert.Equal(t, polargate.Unlicensed, gate.Status().State)
		assert.Equal(t, 1, w.seats())
		require.NoError(t, gate.Deactivate(t.Context()), "there is nothing more that this key can do")
		_, err := gate.Activate(t.Context(), next)
		require.NoError(t, err)
		assert.Equal(t, 1, w.seats())
	})
}

func TestATypingErrorOnACopyFreesNobodysSeat(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, limit(1))
		store := &brittleStore{}
		w.config.Store = store
		first := w.activated()
		second := w.open(on("two", copied(t, store)))
		_, err := second.Activate(t.Context(), w.key.Key+"X")
		require.ErrorIs(t, err, polargate.ErrUnknownKey)
		assert.Equal(t, polargate.ErrOtherMachine, second.Status().Reason)
		_, err = first.Refresh(t.Context())
		require.NoError(t, err)
		assert.Equal(t, 1, w.seats())
	})
}

func TestAMoveThatFailsHalfWayIsFinishedByALaterCheck(t *testing.T) {
	t.Parallel()
	for name, effect := range map[string]polartest.Effect{
		"a pause":         polartest.RateLimited("5"),
		"a proxy's error": polartest.ProxyPage(403),
		"a login page":    polartest.LoginPage(302),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, limit(1))
				store := &brittleStore{}
				w.config.Store = store
				w.activated()
				moved := w.open(on("a new system", copied(t, store)))
				w.inject(pathActivate, 1, effect)
				status, err := moved.Move(t.Context())
				require.Error(t, err)
				assert.Equal(t, polargate.Locked, status.State)
				assert.Equal(t, polargate.ErrOtherMachine, status.Reason)
				assert.Contains(t, status.Message, "still being moved")
				assert.Zero(t, w.seats())
				time.Sleep(time.Hour)
				_, err = moved.Check(t.Context())
				require.NoError(t, err)
				assert.Equal(t, 1, w.seats())
			})
		})
	}
	t.Run("but not when a seat may have been lost", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, limit(9))
			store := &brittleStore{}
			w.config.Store = store
			w.activated()
			moved := w.open(on("a new system", copied(t, store)))
			w.inject(pathActivate, 0, polartest.AnswerLost())
			_, err := moved.Move(t.Context())
			require.ErrorIs(t, err, polargate.ErrActivationInDoubt)
			for range 5 {
				_, err := moved.Check(t.Context())
				require.Error(t, err)
				time.Sleep(time.Hour)
			}
			assert.Equal(t, 1, w.seats(), "a seat that nobody knows of, and no more of them")
			assert.Equal(t, polargate.ErrSeatReleased, moved.Status().Reason)
			w.polar.ClearFaults()
			_, err = moved.Activate(t.Context(), w.key.Key)
			require.NoError(t, err)
		})
	})
}

func TestShortRunsPastHalfFreshnessAskOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		require.NoError(t, w.activated().Close())
		time.Sleep(13 * time.Hour)
		before := w.polar.Count(pathValidate)
		for range 20 {
			gate := w.open()
			_, err := gate.Check(t.Context())
			require.NoError(t, err)
			require.NoError(t, gate.Close())
		}
		assert.Equal(t, before+1, w.polar.Count(pathValidate))
	})
}

func TestShortRunsAreHeldUpOnceByANetworkThatHangs(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		require.NoError(t, w.activated().Close())
		time.Sleep(13 * time.Hour)
		w.inject("", 0, polartest.Hang())
		began := time.Now()
		for range 20 {
			gate := w.open()
			_, err := gate.Check(t.Context())
			require.NoError(t, err)
			require.NoError(t, gate.Close())
		}
		assert.LessOrEqual(t, time.Since(began), 6*time.Second)
	})
}

func TestManyChecksPastHalfFreshnessRenewOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		gate := w.activated()
		time.Sleep(13 * time.Hour)
		before := w.polar.Count(pathValidate)
		w.inject("", 0, polartest.Hang())
		for range 1000 {
			_, err := gate.Check(t.Context())
			require.NoError(t, err)
		}
		time.Sleep(time.Minute)
		assert.Equal(t, before+1, w.polar.Count(pathValidate))
	})
}

func TestCloseDoesNotWaitForASaveThatHangs(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, limit(1))
		store := &brittleStore{}
		w.config.Store = store
		w.activated()
		gate := w.open()
		w.polar.Update(w.key.ID, func(k *polartest.LicenseKey) { k.Activations[0].Released = true })
		w.inject(pathActivate, 0, polartest.Delay(2*time.Second))
		done := make(chan struct{})
		go func() { _, _ = gate.Activate(t.Context(), w.key.Key); close(done) }()
		time.Sleep(time.Second)
		store.set(nil, waits, nil)
		began := time.Now()
		require.NoError(t, gate.Close())
		assert.LessOrEqual(t, time.Since(began), 10*time.Second)
		<-done
	})
}

func TestDeactivateRemovesTheLicenseForACallerInAHurryToo(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, limit(1))
		gate := w.activated()
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		require.Error(t, gate.Deactivate(ctx), "the seat is not given back yet")
		assert.Equal(t, polargate.Unlicensed, gate.Status().State)
		assert.False(t, gate.Has("export"))
		require.NoError(t, gate.Deactivate(t.Context()))
		assert.Zero(t, w.seats())
	})
}

func TestGoingBackToAnEarlierKeyTakesUpItsSeat(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, limit(1))
		other := w.polar.AddKey(polartest.LicenseKey{LimitActivations: polartest.Limit(1), BenefitID: w.key.BenefitID})
		gate := w.activated()
		w.inject(pathDeactivate, 1, polartest.Reset())
		_, err := gate.Activate(t.Context(), other.Key)
		require.NoError(t, err)
		assert.Equal(t, 1, w.seats(), "could not be given back")
		time.Sleep(10 * time.Second)
		_, err = gate.Activate(t.Context(), w.key.Key)
		require.NoError(t, err)
		assert.Equal(t, 1, w.seats())
		assert.Zero(t, w.polar.Seats(other.ID))
	})
}

func TestAGoodKeyIsNotRefusedBecauseAnAnswerWasLost(t *testing.T) {
	t.Parallel()
	for name, effect := range map[string]polartest.Effect{
		"a pause": polartest.RateLimited("60"), "a login page": polartest.LoginPage(200), "a hang": polartest.Hang(),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				other := w.polar.AddKey(polartest.LicenseKey{LimitActivations: polartest.Limit(1), BenefitID: w.key.BenefitID})
				gate := w.activated()
				w.polar.Inject(polartest.Fault{Path: pathValidate, Skip: 1, Effect: effect})
				_, err := gate.Activate(t.Context(), other.Key)
				require.Error(t, err)
				assert.False(t, reasonOf(err).Denial(), "%v", err)
				assert.Equal(t, polargate.Active, gate.Status().State)
			})
		})
	}
}

func TestASeatThatComesWithARefusalIsGivenBack(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(map[string]any){
		"revoked in the same answer": func(m map[string]any) { m["status"] = "revoked" },
		"expired in the same answer": func(m map[string]any) { m["expires_at"] = "1999-01-01T00:00:00Z" },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				w.inject(pathActivate, 1, altered(func(m map[string]any) {
					if nested, ok := m["license_key"].(map[string]any); ok {
						change(nested)
					} else {
						change(m)
					}
				}))
				gate := w.open()
				_, err := gate.Activate(t.Context(), w.key.Key)
				require.Error(t, err)
				assert.True(t, reasonOf(err).Denial(), "%v", err)
				assert.Zero(t, w.seats())
				assert.Equal(t, 1, w.polar.Count(pathDeactivate))
			})
		})
	}
}

func TestALicenseOfAForeignBenefitIsNeitherAskedAboutInALoopNorUsedUp(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, usage(10))
		gate := w.activated()
		w.polar.Update(w.key.ID, func(k *polartest.LicenseKey) { k.BenefitID = otherBenefit })
		_, err := gate.Refresh(t.Context())
		require.ErrorIs(t, err, polargate.ErrWrongBenefit)
		before := w.polar.Count("")
		for range 10 {
			_, err := gate.Check(t.Context())
			require.ErrorIs(t, err, polargate.ErrWrongBenefit)
		}
		_, err = gate.Consume(t.Context(), 5)
		require.ErrorIs(t, err, polargate.ErrWrongBenefit)
		assert.Equal(t, before, w.polar.Count(""))
		assert.Zero(t, w.now().Usage)
	})
}

func TestEachCallerHasFeaturesOfItsOwn(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		gate := w.activated()
		for range 2 {
			for _, ask := range []func(context.Context) (polargate.Status, error){gate.Check, gate.Refresh} {
				status, err := ask(t.Context())
				require.NoError(t, err)
				require.Equal(t, []string{"export", "sync"}, status.Features)
				status.Features[0] = "changed"
			}
		}
		assert.True(t, gate.Has("export"))
	})
}

func TestAKeyThatGetsSeatsTakesOneAtTheNextActivate(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, withoutSeats)
		w.config.AllowKeysWithoutSeats = true
		gate := w.activated()
		assert.Zero(t, w.seats())
		_, err := gate.Activate(t.Context(), w.key.Key)
		require.NoError(t, err)
		assert.Zero(t, w.seats())
		w.polar.Update(w.key.ID, func(k *polartest.LicenseKey) { k.LimitActivations = polartest.Limit(1) })
		_, err = gate.Activate(t.Context(), w.key.Key)
		require.NoError(t, err)
		assert.Equal(t, 1, w.seats())
		require.NoError(t, gate.Deactivate(t.Context()))
		assert.Zero(t, w.seats())
	})
}

func TestADenialThatCameWhileANewKeyIsAskedAboutIsKept(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		other := w.polar.AddKey(polartest.LicenseKey{LimitActivations: polartest.Limit(1), BenefitID: w.key.BenefitID, Activations: []polartest.Activation{{Label: "elsewhere"}}})
		gate := w.activated()
		w.inject(pathValidate, 1, polartest.Delay(9*time.Second))
		done := make(chan error, 1)
		go func() { _, err := gate.Activate(t.Context(), other.Key); done <- err }()
		time.Sleep(time.Second)
		w.polar.Revoke(w.key.ID)
		_, err := gate.Refresh(t.Context())
		require.ErrorIs(t, err, polargate.ErrInactive)
		require.ErrorIs(t, <-done, polargate.ErrActivationLimit)
		assert.Equal(t, polargate.ErrInactive, gate.Status().Reason)
		w.polar.SetOffline(true)
		assert.Equal(t, polargate.ErrInactive, w.open().Status().Reason)
	})
}

func TestADenialThatCameWhileASeatIsGivenBackIsKept(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		next := w.polar.AddKey(polartest.LicenseKey{LimitActivations: polartest.Limit(1), BenefitID: w.key.BenefitID})
		gate := w.activated()
		w.inject(pathDeactivate, 1, polartest.ServerError(503))
		_, err := gate.Activate(t.Context(), next.Key)
		require.NoError(t, err)
		require.Equal(t, 1, w.seats(), "the old key's, to be given back")
		time.Sleep(time.Hour)
		// Deactivate would forget the license, so a check has to do it.
		w.inject(pathDeactivate, 1, polartest.Delay(9*time.Second))
		go func() { _, _ = gate.Refresh(t.Context()) }()
		time.Sleep(2 * time.Second)
		w.polar.Revoke(next.ID)
		_, err = gate.Consume(t.Context(), 1)
		require.ErrorIs(t, err, polargate.ErrInactive)
		time.Sleep(time.Minute)
		assert.Equal(t, polargate.ErrInactive, gate.Status().Reason)
		assert.Zero(t, w.seats())
		w.polar.SetOffline(true)
		assert.Equal(t, polargate.ErrInactive, w.open().Status().Reason)
	})
}

func TestAMoveThatMayHaveLostASeatIsNotRepeatedUnasked(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, limit(9))
		store := &brittleStore{}
		w.config.Store = store
		w.activated()
		// The program is killed while the move's activation is under way: what is
		// stored is what was stored before the answer.
		moving := copied(t, store)
		w.inject(pathActivate, 1, polartest.Delay(5*time.Second))
		killed := w.open(on("a new system", moving))
		go func() { _, _ = killed.Move(t.Context()) }()
		time.Sleep(2 * time.Second)
		left := copied(t, moving)
		time.Sleep(time.Minute)
		seats := w.seats()
		for range 4 {
			_, err := w.open(on("a new system", left)).Check(t.Context())
			require.ErrorIs(t, err, polargate.ErrInDoubt)
			time.Sleep(time.Hour)
		}
		assert.Equal(t, seats, w.seats())
		_, err := w.open(on("a new system", left)).Activate(t.Context(), w.key.Key)
		require.NoError(t, err)
	})
}

func TestAMachineAndAKeyThatBothChangedKeepToOneSeat(t *testing.T) {
	t.Parallel()
	for _, n := range []int64{1, 9} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, limit(n))
			store := &brittleStore{}
			w.config.Store = store
			w.activated()
			next := w.polar.Rotate(w.key.ID)
			moved := on("a new system", copied(t, store))
			gate := w.open(moved)
			_, err := gate.Check(t.Context())
			require.Error(t, err)
			time.Sleep(time.Minute)
			_, err = gate.Activate(t.Context(), next)
			require.NoError(t, err)
			assert.Equal(t, 1, w.seats())
			assert.Equal(t, "a new system", w.now().Activations[len(w.now().Activations)-1].Conditions["fingerprint"])
			assert.True(t, w.open(moved).Has("export"), "and it is this machine's")
			require.NoError(t, gate.Deactivate(t.Context()))
			assert.Zero(t, w.seats())
		})
	}
}

func TestNoSeatIsFreedThatCouldNotBeReplaced(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, limit(1))
		store := &brittleStore{}
		w.config.Store = store
		first := w.activated()
		readOnly := copied(t, store)
		readOnly.set(nil, fails, nil)
		_, err := w.open(on("two", readOnly)).Activate(t.Context(), w.key.Key)
		var failed *polargate.StoreError
		require.ErrorAs(t, err, &failed)
		assert.Equal(t, 1, w.seats())
		_, err = first.Refresh(t.Context())
		require.NoError(t, err)
	})
}

func TestAReleaseThatCannotBeStoredIsHeededAllTheSame(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, limit(1))
		store := &brittleStore{}
		w.config.Store = store
		gate := w.activated()
		w.polar.Update(w.key.ID, func(k *polartest.LicenseKey) { k.Activations[0].Released = true })
		store.set(nil, fails, nil)
		_, err := gate.Activate(t.Context(), w.key.Key)
		var failed *polargate.StoreError
		require.ErrorAs(t, err, &failed)
		assert.False(t, gate.Has("export"))
		assert.Zero(t, w.seats())
	})
}

func TestAStoreThatStoresAndReportsAFailureLeavesNoLicenseWithoutASeat(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, limit(1))
		store := &lateStore{failAt: 2}
		w.config.Store = store
		gate := w.open()
		_, err := gate.Activate(t.Context(), w.key.Key)
		var failed *polargate.StoreError
		require.ErrorAs(t, err, &failed)
		assert.Zero(t, w.seats())
		assert.False(t, gate.Has("export"))
		w.polar.SetOffline(true)
		assert.False(t, w.open().Has("export"))
	})
}

// lateStore stores what it is given and then reports a failure, once.
type lateStore struct {
	polargate.MemoryStore
	saves, failAt int
}

func (s *lateStore) Save(ctx context.Context, name string, data []byte) error {
	if err := s.MemoryStore.Save(ctx, name, data); err != nil {
		return err
	}
	if s.saves++; s.saves == s.failAt {
		return context.DeadlineExceeded
	}
	return nil
}

func TestAMoveThatIsRefusedSaysWhy(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, limit(1))
		store := &brittleStore{}
		w.config.Store = store
		w.activated()
		w.polar.Revoke(w.key.ID)
		gate := w.open(on("a new system", copied(t, store)))
		_, err := gate.Move(t.Context())
		require.ErrorIs(t, err, polargate.ErrInactive)
		assert.Equal(t, polargate.ErrOtherMachine, gate.Status().Reason, "and nothing was begun")
		assert.Equal(t, 1, w.seats())
		w.polar.Grant(w.key.ID)
		time.Sleep(time.Minute)
		_, err = gate.Move(t.Context())
		require.NoError(t, err)
		assert.Equal(t, 1, w.seats())
	})
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, limit(1))
		store := &brittleStore{}
		w.config.Store = store
		w.activated()
		gate := w.open(on("a new system", copied(t, store)))
		w.inject(pathActivate, 1, polartest.RateLimited("5"))
		_, err := gate.Move(t.Context())
		require.ErrorIs(t, err, polargate.ErrRateLimited)
		w.polar.Revoke(w.key.ID)
		time.Sleep(time.Minute)
		_, err = gate.Check(t.Context())
		require.ErrorIs(t, err, polargate.ErrInactive, "in the middle of it, too")
		assert.Equal(t, polargate.ErrInactive, gate.Status().Reason)
		before := w.polar.Count("")
		for range 10 {
			_, err := gate.Check(t.Context())
			require.ErrorIs(t, err, polargate.ErrInactive)
		}
		assert.Equal(t, before, w.polar.Count(""))
		w.polar.Grant(w.key.ID)
		time.Sleep(time.Minute)
		_, err = gate.Check(t.Context())
		require.NoError(t, err)
		assert.Equal(t, 1, w.seats())
	})
}

func TestAKeyThatGotALimitDoesNotGoOnWithoutASeat(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, withoutSeats)
		w.config.AllowKeysWithoutSeats = true
		gate := w.activated()
		w.polar.Update(w.key.ID, func(k *polartest.LicenseKey) {
			k.LimitActivations = polartest.Limit(1)
			k.Activations = append(k.Activations, polartest.Activation{Label: "elsewhere"})
		})
		for range 3 {
			_, err := gate.Refresh(t.Context())
			require.ErrorIs(t, err, polargate.ErrSeatReleased)
			assert.Contains(t, polargate.Message(err), "now has to be activated")
			assert.Contains(t, gate.Status().Message, "now has to be activated")
			assert.False(t, gate.Has("export"))
			assert.False(t, w.open().Has("export"), "and it is remembered")
			w.polar.Update(w.key.ID, func(k *polartest.LicenseKey) { k.Activations[0].Released = true })
			time.Sleep(time.Minute)
		}
		assert.Zero(t, w.polar.Count(pathActivate)-1, "no check takes an activation")
		_, err := gate.Activate(t.Context(), w.key.Key)
		require.NoError(t, err)
		assert.Equal(t, 1, w.seats())
	})
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, withoutSeats)
		w.config.AllowKeysWithoutSeats = true
		gate := w.activated()
		w.polar.Update(w.key.ID, func(k *polartest.LicenseKey) { k.LimitActivations = polartest.Limit(1) })
		_, err := gate.Refresh(t.Context())
		require.ErrorIs(t, err, polargate.ErrSeatReleased)
		w.polar.Update(w.key.ID, func(k *polartest.LicenseKey) { k.LimitActivations = nil })
		time.Sleep(time.Minute)
		_, err = gate.Check(t.Context())
		require.NoError(t, err, "a limit that was a mistake costs nobody a click")
	})
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, withoutSeats)
		w.config.AllowKeysWithoutSeats = true
		w.activated()
		w.config.AllowKeysWithoutSeats = false
		_, err := w.open().Refresh(t.Context())
		require.ErrorIs(t, err, polargate.ErrActivationsUnsupported)
	})
}

func TestADoubtAboutOneKeyOutlastsTheUseOfAnother(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		gate := w.activated()
		other := w.polar.AddKey(polartest.LicenseKey{LimitActivations: polartest.Limit(1), BenefitID: w.key.BenefitID})
		w.inject(pathActivate, 1, polartest.AnswerLost())
		_, err := gate.Activate(t.Context(), other.Key)
		require.ErrorIs(t, err, polargate.ErrActivationInDoubt)
		assert.True(t, gate.Status().InDoubt)
		status, err := gate.Activate(t.Context(), w.key.Key)
		require.NoError(t, err)
		assert.True(t, status.InDoubt, "the other key's seat may be lost as ever")
		assert.Contains(t, status.Message, "cut short")
		third := w.polar.AddKey(polartest.LicenseKey{LimitActivations: polartest.Limit(1), BenefitID: w.key.BenefitID})
		status, err = gate.Activate(t.Context(), third.Key)
		require.NoError(t, err)
		assert.True(t, status.InDoubt)

		_, err = gate.Activate(t.Context(), other.Key)
		require.ErrorIs(t, err, polargate.ErrActivationLimit)
		assert.Contains(t, polargate.Message(err), "An earlier attempt from this computer")
		w.polar.Update(other.ID, func(k *polartest.LicenseKey) { k.LimitActivations = polartest.Limit(2) })
		status, err = gate.Activate(t.Context(), other.Key)
		require.NoError(t, err)
		assert.False(t, status.InDoubt)
	})
}

func TestAnActivationOnASilentNetworkDoesNotHoldTheSeatForHalfAMinute(t *testing.T) {
	t.Parallel()
	another := func(w *world) string {
		return w.polar.AddKey(polartest.LicenseKey{BenefitID: w.key.BenefitID, LimitActivations: polartest.Limit(3)}).Key
	}
	for name, test := range map[string]struct {
		gate func(*world) *polargate.Gate
		key  func(*world) string
	}{
		"with the key that is active here": {func(w *world) *polargate.Gate { return w.activated() }, func(w *world) string { return w.key.Key }},
		"with another key":                 {func(w *world) *polargate.Gate { return w.activated() }, another},
		"that takes no seat":               {func(w *world) *polargate.Gate { return w.open(ephemeral(polargate.ValidateOnly)) }, another},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				gate, key := test.gate(w), test.key(w)
				before := gate.Status().State
				w.inject("", 0, polartest.Hang())
				began := time.Now()
				_, err := gate.Activate(t.Context(), key)
				require.ErrorIs(t, err, polargate.ErrUnreachable)
				assert.LessOrEqual(t, time.Since(began), 15*time.Second)
				assert.Equal(t, before, gate.Status().State)

				w.polar.ClearFaults()
				w.inject("", 1, polartest.Hang())
				_, err = gate.Activate(t.Context(), key)
				require.NoError(t, err, "one request that hangs is survived")
				assert.Equal(t, polargate.Active, gate.Status().State)
			})
		})
	}
	t.Run("nor a release, when nobody says whether the key is known", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			gate := w.activated()
			w.polar.Update(w.key.ID, func(k *polartest.LicenseKey) { k.Activations[0].Released = true })
			w.inject(pathValidate, 0, polartest.Hang())
			began := time.Now()
			require.ErrorIs(t, gate.Deactivate(t.Context()), polargate.ErrUnreachable)
			assert.LessOrEqual(t, time.Since(began), 15*time.Second)
		})
	})
}
