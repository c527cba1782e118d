package gate

import (
	"context"
	"errors"
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

// copied is a store with what another one holds now.
func copied(t *testing.T, from *kit.BrittleStore) *kit.BrittleStore {
	t.Helper()
	to := &kit.BrittleStore{}
	for name, data := range from.Contents() {
		require.NoError(t, to.Save(t.Context(), name, data))
	}
	return to
}

func on(machine string, store polargate.Store) func(*polargate.Config) {
	return func(c *polargate.Config) { c.Fingerprint, c.Store = machine, store }
}

func TestACopiedOutboxDeactivatesOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := kit.NewWorld(t, kit.Limit(1))
		store := &kit.BrittleStore{}
		w.Config.Store = store
		gate := w.Activated()
		w.Polar.SetOffline(true)
		require.Error(t, gate.Deactivate(t.Context()))
		w.Polar.SetOffline(false)
		var gates []*polargate.Gate
		for _, machine := range []string{"two", "three", "four"} {
			g := w.Open(on(machine, copied(t, store)))
			time.Sleep(5 * time.Second)
			if _, err := g.Activate(t.Context(), w.Key.Key); err != nil {
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
		assert.Equal(t, 1, w.Seats())
	})
}

func TestAnActivationBeingDeactivatedIsNotUsedAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := kit.NewWorld(t, kit.Limit(1))
		gate := w.Activated()
		w.Polar.Inject(polartest.Fault{Path: kit.PathDeactivate, Times: 1, Effect: polartest.Delay(3 * time.Second)})
		given := make(chan error, 1)
		go func() { given <- gate.Deactivate(t.Context()) }()
		time.Sleep(100 * time.Millisecond)
		assert.False(t, gate.Has("export"), "access ends before Polar answers")
		_, err := gate.Activate(t.Context(), w.Key.Key)
		require.NoError(t, err)
		require.NoError(t, <-given)
		time.Sleep(5 * time.Second)
		_, err = gate.Refresh(t.Context())
		require.NoError(t, err)
		assert.Equal(t, 1, w.Seats())
	})
}

func TestADenialThatArrivesDuringAnActivationIsKept(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := kit.NewWorld(t)
		other := w.Polar.AddKey(polartest.LicenseKey{LimitActivations: polartest.Limit(1), BenefitID: w.Key.BenefitID})
		gate := w.Activated()
		w.Polar.Inject(polartest.Fault{Path: kit.PathActivate, Effect: polartest.Delay(8 * time.Second)})
		w.Polar.Update(other.ID, func(k *polartest.LicenseKey) {
			k.Activations = append(k.Activations, polartest.Activation{Label: "elsewhere"})
		})
		changed := make(chan error, 1)
		go func() { _, err := gate.Activate(t.Context(), other.Key); changed <- err }()
		time.Sleep(2 * time.Second)
		w.Polar.Revoke(w.Key.ID)
		_, err := gate.Refresh(t.Context())
		require.ErrorIs(t, err, polargate.ErrInactive)
		require.ErrorIs(t, <-changed, polargate.ErrActivationLimit)
		assert.Equal(t, polargate.ErrInactive, gate.Status().Reason)
		w.Polar.SetOffline(true)
		assert.Equal(t, polargate.ErrInactive, w.Open().Status().Reason, "nor does the next run bring it back")
	})
}

func TestAStoreWithoutLocksStillGetsOneChangeAtATime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := kit.NewWorld(t)
		store := &kit.BrittleStore{}
		store.Set(nil, nil, func(context.Context, string) error { return errors.ErrUnsupported })
		w.Config.Store = store
		other := w.Polar.AddKey(polartest.LicenseKey{LimitActivations: polartest.Limit(1), BenefitID: w.Key.BenefitID})
		w.Inject(kit.PathActivate, 0, polartest.Delay(time.Second))
		gate := w.Open()
		var clicks sync.WaitGroup
		for _, key := range []string{w.Key.Key, other.Key} {
			clicks.Go(func() {
				_, err := gate.Activate(t.Context(), key)
				assert.NoError(t, err)
			})
		}
		clicks.Wait()
		assert.Equal(t, polargate.Active, gate.Status().State)
		assert.Equal(t, 1, w.Seats()+w.Polar.Seats(other.ID), "the one that is held; the other was given back")
	})
}

func TestAnAnswerThatWasOvertakenIsNotBelieved(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := kit.NewWorld(t)
		gate := w.Activated()
		time.Sleep(time.Minute)
		w.Inject(kit.PathValidate, 1, polartest.Delay(3*time.Second))
		go func() { _, _ = gate.Refresh(t.Context()) }()
		time.Sleep(time.Second)
		w.Polar.Revoke(w.Key.ID)
		_, err := gate.Consume(t.Context(), 1)
		require.ErrorIs(t, err, polargate.ErrInactive)
		time.Sleep(time.Minute)
		assert.Equal(t, polargate.ErrInactive, gate.Status().Reason, "what Refresh was told is older")
		w.Polar.SetOffline(true)
		assert.Equal(t, polargate.ErrInactive, w.Open().Status().Reason)
	})
}

func TestAPendingActivationUnderARotatedKeyIsUsedUnderTheNewKey(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := kit.NewWorld(t, kit.Limit(1))
		gate := w.Activated()
		w.Polar.SetOffline(true)
		require.ErrorIs(t, gate.Deactivate(t.Context()), polargate.ErrUnreachable)
		w.Polar.SetOffline(false)
		next := w.Polar.Rotate(w.Key.ID)
		time.Sleep(time.Hour)
		_, err := gate.Check(t.Context()) // tries to give it back, with a key that is dead
		require.ErrorIs(t, err, polargate.ErrNoLicense)
		assert.Equal(t, 1, w.Seats())
		time.Sleep(time.Hour)
		_, err = gate.Activate(t.Context(), next)
		require.NoError(t, err)
		assert.Equal(t, 1, w.Seats())
		assert.Equal(t, 1, w.Polar.Count(kit.PathActivate))
		require.NoError(t, gate.Deactivate(t.Context()))
		assert.Zero(t, w.Seats())
	})
}

func TestDeactivatingUnderARotatedKeyIsNotReportedAsDone(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := kit.NewWorld(t, kit.Limit(1))
		gate := w.Activated()
		next := w.Polar.Rotate(w.Key.ID)
		require.ErrorIs(t, gate.Deactivate(t.Context()), polargate.ErrUnknownKey)
		assert.Equal(t, polargate.Unlicensed, gate.Status().State)
		assert.Equal(t, 1, w.Seats())
		require.NoError(t, gate.Deactivate(t.Context()), "there is nothing more that this key can do")
		_, err := gate.Activate(t.Context(), next)
		require.NoError(t, err)
		assert.Equal(t, 1, w.Seats())
	})
}

func TestAMistypedKeyOnACopyDeactivatesNothing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := kit.NewWorld(t, kit.Limit(1))
		store := &kit.BrittleStore{}
		w.Config.Store = store
		first := w.Activated()
		second := w.Open(on("two", copied(t, store)))
		_, err := second.Activate(t.Context(), w.Key.Key+"X")
		require.ErrorIs(t, err, polargate.ErrUnknownKey)
		assert.Equal(t, polargate.ErrOtherMachine, second.Status().Reason)
		_, err = first.Refresh(t.Context())
		require.NoError(t, err)
		assert.Equal(t, 1, w.Seats())
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
				w := kit.NewWorld(t, kit.Limit(1))
				store := &kit.BrittleStore{}
				w.Config.Store = store
				w.Activated()
				moved := w.Open(on("a new system", copied(t, store)))
				w.Inject(kit.PathActivate, 1, effect)
				status, err := moved.Move(t.Context())
				require.Error(t, err)
				assert.Equal(t, polargate.Locked, status.State)
				assert.Equal(t, polargate.ErrOtherMachine, status.Reason)
				kit.Says(t, status.Message, "other_machine.moving")
				assert.Zero(t, w.Seats())
				time.Sleep(time.Hour)
				_, err = moved.Check(t.Context())
				require.NoError(t, err)
				assert.Equal(t, 1, w.Seats())
			})
		})
	}
	t.Run("but not when a seat may have been lost", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			w := kit.NewWorld(t, kit.Limit(9))
			store := &kit.BrittleStore{}
			w.Config.Store = store
			w.Activated()
			moved := w.Open(on("a new system", copied(t, store)))
			w.Inject(kit.PathActivate, 0, polartest.AnswerLost())
			_, err := moved.Move(t.Context())
			require.ErrorIs(t, err, polargate.ErrActivationInDoubt)
			for range 5 {
				_, err := moved.Check(t.Context())
				require.Error(t, err)
				time.Sleep(time.Hour)
			}
			assert.Equal(t, 1, w.Seats(), "a seat that nobody knows of, and no more of them")
			assert.Equal(t, polargate.ErrSeatReleased, moved.Status().Reason)
			w.Polar.ClearFaults()
			_, err = moved.Activate(t.Context(), w.Key.Key)
			require.NoError(t, err)
		})
	})
}

func TestShortRunsPastHalfFreshnessAskOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := kit.NewWorld(t)
		require.NoError(t, w.Activated().Close())
		time.Sleep(13 * time.Hour)
		before := w.Polar.Count(kit.PathValidate)
		for range 20 {
			gate := w.Open()
			_, err := gate.Check(t.Context())
			require.NoError(t, err)
			require.NoError(t, gate.Close())
		}
		assert.Equal(t, before+1, w.Polar.Count(kit.PathValidate))
	})
}

func TestShortRunsAreHeldUpOnceByANetworkThatHangs(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := kit.NewWorld(t)
		require.NoError(t, w.Activated().Close())
		time.Sleep(13 * time.Hour)
		w.Inject("", 0, polartest.Hang())
		began := time.Now()
		for range 20 {
			gate := w.Open()
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
		w := kit.NewWorld(t)
		gate := w.Activated()
		time.Sleep(13 * time.Hour)
		before := w.Polar.Count(kit.PathValidate)
		w.Inject("", 0, polartest.Hang())
		for range 1000 {
			_, err := gate.Check(t.Context())
			require.NoError(t, err)
		}
		time.Sleep(time.Minute)
		assert.Equal(t, before+1, w.Polar.Count(kit.PathValidate))
	})
}

func TestCloseDoesNotWaitForASaveThatHangs(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := kit.NewWorld(t, kit.Limit(1))
		store := &kit.BrittleStore{}
		w.Config.Store = store
		w.Activated()
		gate := w.Open()
		w.Polar.Update(w.Key.ID, func(k *polartest.LicenseKey) { k.Activations[0].Released = true })
		w.Inject(kit.PathActivate, 0, polartest.Delay(2*time.Second))
		done := make(chan struct{})
		go func() { _, _ = gate.Activate(t.Context(), w.Key.Key); close(done) }()
		time.Sleep(time.Second)
		store.Set(nil, kit.Waits, nil)
		began := time.Now()
		require.NoError(t, gate.Close())
		assert.LessOrEqual(t, time.Since(began), 10*time.Second)
		<-done
	})
}

func TestDeactivateRemovesTheLicenseForACallerInAHurryToo(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := kit.NewWorld(t, kit.Limit(1))
		gate := w.Activated()
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		require.Error(t, gate.Deactivate(ctx), "the seat is not given back yet")
		assert.Equal(t, polargate.Unlicensed, gate.Status().State)
		assert.False(t, gate.Has("export"))
		require.NoError(t, gate.Deactivate(t.Context()))
		assert.Zero(t, w.Seats())
	})
}

func TestReturningToAnEarlierKeyUsesItsActivation(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := kit.NewWorld(t, kit.Limit(1))
		other := w.Polar.AddKey(polartest.LicenseKey{LimitActivations: polartest.Limit(1), BenefitID: w.Key.BenefitID})
		gate := w.Activated()
		w.Inject(kit.PathDeactivate, 1, polartest.Reset())
		_, err := gate.Activate(t.Context(), other.Key)
		require.NoError(t, err)
		assert.Equal(t, 1, w.Seats(), "could not be given back")
		time.Sleep(10 * time.Second)
		_, err = gate.Activate(t.Context(), w.Key.Key)
		require.NoError(t, err)
		assert.Equal(t, 1, w.Seats())
		assert.Zero(t, w.Polar.Seats(other.ID))
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
				w := kit.NewWorld(t)
				other := w.Polar.AddKey(polartest.LicenseKey{LimitActivations: polartest.Limit(1), BenefitID: w.Key.BenefitID})
				gate := w.Activated()
				w.Polar.Inject(polartest.Fault{Path: kit.PathValidate, Skip: 1, Effect: effect})
				_, err := gate.Activate(t.Context(), other.Key)
				require.Error(t, err)
				assert.False(t, kit.ReasonOf(err).Denial(), "%v", err)
				assert.Equal(t, polargate.Active, gate.Status().State)
			})
		})
	}
}

func TestAnActivationThatComesWithARefusalIsDeactivated(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(map[string]any){
		"revoked in the same answer": func(m map[string]any) { m["status"] = "revoked" },
		"expired in the same answer": func(m map[string]any) { m["expires_at"] = "1999-01-01T00:00:00Z" },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := kit.NewWorld(t)
				w.Inject(kit.PathActivate, 1, altered(func(m map[string]any) {
					if nested, ok := m["license_key"].(map[string]any); ok {
						change(nested)
					} else {
						change(m)
					}
				}))
				gate := w.Open()
				_, err := gate.Activate(t.Context(), w.Key.Key)
				require.Error(t, err)
				assert.True(t, kit.ReasonOf(err).Denial(), "%v", err)
				assert.Zero(t, w.Seats())
				assert.Equal(t, 1, w.Polar.Count(kit.PathDeactivate))
			})
		})
	}
}

func TestALicenseOfAForeignBenefitIsNeitherAskedAboutInALoopNorUsedUp(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := kit.NewWorld(t, kit.Usage(10))
		gate := w.Activated()
		w.Polar.Update(w.Key.ID, func(k *polartest.LicenseKey) { k.BenefitID = otherBenefit })
		_, err := gate.Refresh(t.Context())
		require.ErrorIs(t, err, polargate.ErrWrongBenefit)
		before := w.Polar.Count("")
		for range 10 {
			_, err := gate.Check(t.Context())
			require.ErrorIs(t, err, polargate.ErrWrongBenefit)
		}
		_, err = gate.Consume(t.Context(), 5)
		require.ErrorIs(t, err, polargate.ErrWrongBenefit)
		assert.Equal(t, before, w.Polar.Count(""))
		assert.Zero(t, w.Now().Usage)
	})
}

func TestEachCallerHasFeaturesOfItsOwn(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := kit.NewWorld(t)
		gate := w.Activated()
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

func TestAKeyThatGetsALimitUsesAnActivationAtTheNextActivate(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := kit.NewWorld(t, kit.WithoutSeats)
		w.Config.AllowKeysWithoutSeats = true
		gate := w.Activated()
		assert.Zero(t, w.Seats())
		_, err := gate.Activate(t.Context(), w.Key.Key)
		require.NoError(t, err)
		assert.Zero(t, w.Seats())
		w.Polar.Update(w.Key.ID, func(k *polartest.LicenseKey) { k.LimitActivations = polartest.Limit(1) })
		_, err = gate.Activate(t.Context(), w.Key.Key)
		require.NoError(t, err)
		assert.Equal(t, 1, w.Seats())
		require.NoError(t, gate.Deactivate(t.Context()))
		assert.Zero(t, w.Seats())
	})
}

func TestADenialThatCameWhileANewKeyIsAskedAboutIsKept(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := kit.NewWorld(t)
		other := w.Polar.AddKey(polartest.LicenseKey{LimitActivations: polartest.Limit(1), BenefitID: w.Key.BenefitID, Activations: []polartest.Activation{{Label: "elsewhere"}}})
		gate := w.Activated()
		w.Inject(kit.PathValidate, 1, polartest.Delay(9*time.Second))
		done := make(chan error, 1)
		go func() { _, err := gate.Activate(t.Context(), other.Key); done <- err }()
		time.Sleep(time.Second)
		w.Polar.Revoke(w.Key.ID)
		_, err := gate.Refresh(t.Context())
		require.ErrorIs(t, err, polargate.ErrInactive)
		require.ErrorIs(t, <-done, polargate.ErrActivationLimit)
		assert.Equal(t, polargate.ErrInactive, gate.Status().Reason)
		w.Polar.SetOffline(true)
		assert.Equal(t, polargate.ErrInactive, w.Open().Status().Reason)
	})
}

func TestADenialThatArrivesDuringADeactivationIsKept(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := kit.NewWorld(t)
		next := w.Polar.AddKey(polartest.LicenseKey{LimitActivations: polartest.Limit(1), BenefitID: w.Key.BenefitID})
		gate := w.Activated()
		w.Inject(kit.PathDeactivate, 1, polartest.ServerError(503))
		_, err := gate.Activate(t.Context(), next.Key)
		require.NoError(t, err)
		require.Equal(t, 1, w.Seats(), "the old key's, to be given back")
		time.Sleep(time.Hour)
		// Deactivate would forget the license, so a check has to do it.
		w.Inject(kit.PathDeactivate, 1, polartest.Delay(9*time.Second))
		go func() { _, _ = gate.Refresh(t.Context()) }()
		time.Sleep(2 * time.Second)
		w.Polar.Revoke(next.ID)
		_, err = gate.Consume(t.Context(), 1)
		require.ErrorIs(t, err, polargate.ErrInactive)
		time.Sleep(time.Minute)
		assert.Equal(t, polargate.ErrInactive, gate.Status().Reason)
		assert.Zero(t, w.Seats())
		w.Polar.SetOffline(true)
		assert.Equal(t, polargate.ErrInactive, w.Open().Status().Reason)
	})
}

func TestAMoveInDoubtIsNotRepeatedInTheBackground(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := kit.NewWorld(t, kit.Limit(9))
		store := &kit.BrittleStore{}
		w.Config.Store = store
		w.Activated()
		// The program is killed while the move's activation is under way: what is
		// stored is what was stored before the answer.
		moving := copied(t, store)
		w.Inject(kit.PathActivate, 1, polartest.Delay(5*time.Second))
		killed := w.Open(on("a new system", moving))
		go func() { _, _ = killed.Move(t.Context()) }()
		time.Sleep(2 * time.Second)
		left := copied(t, moving)
		time.Sleep(time.Minute)
		seats := w.Seats()
		for range 4 {
			_, err := w.Open(on("a new system", left)).Check(t.Context())
			require.ErrorIs(t, err, polargate.ErrInDoubt)
			time.Sleep(time.Hour)
		}
		assert.Equal(t, seats, w.Seats())
		_, err := w.Open(on("a new system", left)).Activate(t.Context(), w.Key.Key)
		require.NoError(t, err)
	})
}

func TestAComputerAndAKeyThatBothChangedUseOneActivation(t *testing.T) {
	t.Parallel()
	for _, n := range []int64{1, 9} {
		synctest.Test(t, func(t *testing.T) {
			w := kit.NewWorld(t, kit.Limit(n))
			store := &kit.BrittleStore{}
			w.Config.Store = store
			w.Activated()
			next := w.Polar.Rotate(w.Key.ID)
			moved := on("a new system", copied(t, store))
			gate := w.Open(moved)
			_, err := gate.Check(t.Context())
			require.Error(t, err)
			time.Sleep(time.Minute)
			_, err = gate.Activate(t.Context(), next)
			require.NoError(t, err)
			assert.Equal(t, 1, w.Seats())
			assert.Equal(t, "a new system", w.Now().Activations[len(w.Now().Activations)-1].Conditions["fingerprint"])
			assert.True(t, w.Open(moved).Has("export"), "and it is this machine's")
			require.NoError(t, gate.Deactivate(t.Context()))
			assert.Zero(t, w.Seats())
		})
	}
}

func TestNoActivationIsGivenUpThatCouldNotBeReplaced(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := kit.NewWorld(t, kit.Limit(1))
		store := &kit.BrittleStore{}
		w.Config.Store = store
		first := w.Activated()
		readOnly := copied(t, store)
		readOnly.Set(nil, kit.Fails, nil)
		_, err := w.Open(on("two", readOnly)).Activate(t.Context(), w.Key.Key)
		var failed *polargate.StoreError
		require.ErrorAs(t, err, &failed)
		assert.Equal(t, 1, w.Seats())
		_, err = first.Refresh(t.Context())
		require.NoError(t, err)
	})
}

func TestAReleaseThatCannotBeStoredIsHeededAllTheSame(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := kit.NewWorld(t, kit.Limit(1))
		store := &kit.BrittleStore{}
		w.Config.Store = store
		gate := w.Activated()
		w.Polar.Update(w.Key.ID, func(k *polartest.LicenseKey) { k.Activations[0].Released = true })
		store.Set(nil, kit.Fails, nil)
		_, err := gate.Activate(t.Context(), w.Key.Key)
		var failed *polargate.StoreError
		require.ErrorAs(t, err, &failed)
		assert.False(t, gate.Has("export"))
		assert.Zero(t, w.Seats())
	})
}

func TestAStoreThatWronglyReportsAFailureLeavesNoLicenseWithoutAnActivation(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := kit.NewWorld(t, kit.Limit(1))
		store := &lateStore{failAt: 2}
		w.Config.Store = store
		gate := w.Open()
		_, err := gate.Activate(t.Context(), w.Key.Key)
		var failed *polargate.StoreError
		require.ErrorAs(t, err, &failed)
		assert.Zero(t, w.Seats())
		assert.False(t, gate.Has("export"))
		w.Polar.SetOffline(true)
		assert.False(t, w.Open().Has("export"))
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
		w := kit.NewWorld(t, kit.Limit(1))
		store := &kit.BrittleStore{}
		w.Config.Store = store
		w.Activated()
		w.Polar.Revoke(w.Key.ID)
		gate := w.Open(on("a new system", copied(t, store)))
		_, err := gate.Move(t.Context())
		require.ErrorIs(t, err, polargate.ErrInactive)
		assert.Equal(t, polargate.ErrOtherMachine, gate.Status().Reason, "and nothing was begun")
		assert.Equal(t, 1, w.Seats())
		w.Polar.Grant(w.Key.ID)
		time.Sleep(time.Minute)
		_, err = gate.Move(t.Context())
		require.NoError(t, err)
		assert.Equal(t, 1, w.Seats())
	})
	synctest.Test(t, func(t *testing.T) {
		w := kit.NewWorld(t, kit.Limit(1))
		store := &kit.BrittleStore{}
		w.Config.Store = store
		w.Activated()
		gate := w.Open(on("a new system", copied(t, store)))
		w.Inject(kit.PathActivate, 1, polartest.RateLimited("5"))
		_, err := gate.Move(t.Context())
		require.ErrorIs(t, err, polargate.ErrRateLimited)
		w.Polar.Revoke(w.Key.ID)
		time.Sleep(time.Minute)
		_, err = gate.Check(t.Context())
		require.ErrorIs(t, err, polargate.ErrInactive, "in the middle of it, too")
		assert.Equal(t, polargate.ErrInactive, gate.Status().Reason)
		before := w.Polar.Count("")
		for range 10 {
			_, err := gate.Check(t.Context())
			require.ErrorIs(t, err, polargate.ErrInactive)
		}
		assert.Equal(t, before, w.Polar.Count(""))
		w.Polar.Grant(w.Key.ID)
		time.Sleep(time.Minute)
		_, err = gate.Check(t.Context())
		require.NoError(t, err)
		assert.Equal(t, 1, w.Seats())
	})
}

func TestAKeyThatGotALimitNeedsAnActivation(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := kit.NewWorld(t, kit.WithoutSeats)
		w.Config.AllowKeysWithoutSeats = true
		gate := w.Activated()
		w.Polar.Update(w.Key.ID, func(k *polartest.LicenseKey) {
			k.LimitActivations = polartest.Limit(1)
			k.Activations = append(k.Activations, polartest.Activation{Label: "elsewhere"})
		})
		for range 3 {
			_, err := gate.Refresh(t.Context())
			require.ErrorIs(t, err, polargate.ErrSeatReleased)
			kit.Says(t, polargate.Message(err), "seat_released.needed")
			kit.Says(t, gate.Status().Message, "seat_released.needed")
			assert.False(t, gate.Has("export"))
			assert.False(t, w.Open().Has("export"), "and it is remembered")
			w.Polar.Update(w.Key.ID, func(k *polartest.LicenseKey) { k.Activations[0].Released = true })
			time.Sleep(time.Minute)
		}
		assert.Zero(t, w.Polar.Count(kit.PathActivate)-1, "no check takes an activation")
		_, err := gate.Activate(t.Context(), w.Key.Key)
		require.NoError(t, err)
		assert.Equal(t, 1, w.Seats())
	})
	synctest.Test(t, func(t *testing.T) {
		w := kit.NewWorld(t, kit.WithoutSeats)
		w.Config.AllowKeysWithoutSeats = true
		gate := w.Activated()
		w.Polar.Update(w.Key.ID, func(k *polartest.LicenseKey) { k.LimitActivations = polartest.Limit(1) })
		_, err := gate.Refresh(t.Context())
		require.ErrorIs(t, err, polargate.ErrSeatReleased)
		w.Polar.Update(w.Key.ID, func(k *polartest.LicenseKey) { k.LimitActivations = nil })
		time.Sleep(time.Minute)
		_, err = gate.Check(t.Context())
		require.NoError(t, err, "a limit that was a mistake costs nobody a click")
	})
	synctest.Test(t, func(t *testing.T) {
		w := kit.NewWorld(t, kit.WithoutSeats)
		w.Config.AllowKeysWithoutSeats = true
		w.Activated()
		w.Config.AllowKeysWithoutSeats = false
		_, err := w.Open().Refresh(t.Context())
		require.ErrorIs(t, err, polargate.ErrActivationsUnsupported)
	})
}

func TestADoubtAboutOneKeyOutlastsTheUseOfAnother(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := kit.NewWorld(t)
		gate := w.Activated()
		other := w.Polar.AddKey(polartest.LicenseKey{LimitActivations: polartest.Limit(1), BenefitID: w.Key.BenefitID})
		w.Inject(kit.PathActivate, 1, polartest.AnswerLost())
		_, err := gate.Activate(t.Context(), other.Key)
		require.ErrorIs(t, err, polargate.ErrActivationInDoubt)
		assert.True(t, gate.Status().InDoubt)
		status, err := gate.Activate(t.Context(), w.Key.Key)
		require.NoError(t, err)
		assert.True(t, status.InDoubt, "the other key's seat may be lost as ever")
		assert.Contains(t, status.Message, polargate.Phrases()["note_in_doubt"])
		third := w.Polar.AddKey(polartest.LicenseKey{LimitActivations: polartest.Limit(1), BenefitID: w.Key.BenefitID})
		status, err = gate.Activate(t.Context(), third.Key)
		require.NoError(t, err)
		assert.True(t, status.InDoubt)

		_, err = gate.Activate(t.Context(), other.Key)
		require.ErrorIs(t, err, polargate.ErrActivationLimit)
		assert.Contains(t, polargate.Message(err), polargate.Phrases()["activation_limit.earlier.do"])
		w.Polar.Update(other.ID, func(k *polartest.LicenseKey) { k.LimitActivations = polartest.Limit(2) })
		status, err = gate.Activate(t.Context(), other.Key)
		require.NoError(t, err)
		assert.False(t, status.InDoubt)
	})
}

func TestAnActivationOnASilentNetworkDoesNotHoldTheLockForHalfAMinute(t *testing.T) {
	t.Parallel()
	another := func(w *kit.World) string {
		return w.Polar.AddKey(polartest.LicenseKey{BenefitID: w.Key.BenefitID, LimitActivations: polartest.Limit(3)}).Key
	}
	for name, test := range map[string]struct {
		gate func(*kit.World) *polargate.Gate
		key  func(*kit.World) string
	}{
		"with the key that is active here": {func(w *kit.World) *polargate.Gate { return w.Activated() }, func(w *kit.World) string { return w.Key.Key }},
		"with another key":                 {func(w *kit.World) *polargate.Gate { return w.Activated() }, another},
		"that takes no seat":               {func(w *kit.World) *polargate.Gate { return w.Open(ephemeral(polargate.ValidateOnly)) }, another},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := kit.NewWorld(t)
				gate, key := test.gate(w), test.key(w)
				before := gate.Status().State
				w.Inject("", 0, polartest.Hang())
				began := time.Now()
				_, err := gate.Activate(t.Context(), key)
				require.ErrorIs(t, err, polargate.ErrUnreachable)
				assert.LessOrEqual(t, time.Since(began), 15*time.Second)
				assert.Equal(t, before, gate.Status().State)

				w.Polar.ClearFaults()
				w.Inject("", 1, polartest.Hang())
				_, err = gate.Activate(t.Context(), key)
				require.NoError(t, err, "one request that hangs is survived")
				assert.Equal(t, polargate.Active, gate.Status().State)
			})
		})
	}
	t.Run("nor a release, when nobody says whether the key is known", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			w := kit.NewWorld(t)
			gate := w.Activated()
			w.Polar.Update(w.Key.ID, func(k *polartest.LicenseKey) { k.Activations[0].Released = true })
			w.Inject(kit.PathValidate, 0, polartest.Hang())
			began := time.Now()
			require.ErrorIs(t, gate.Deactivate(t.Context()), polargate.ErrUnreachable)
			assert.LessOrEqual(t, time.Since(began), 15*time.Second)
		})
	})
}
