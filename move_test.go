package polargate_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/polargate/polargate"
	"github.com/polargate/polargate/polartest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestTheComputerThatALicenseIsMovedFromSaysSoAndDoesNotTakeItBack(t *testing.T) {
	t.Parallel()
	for _, n := range []int64{1, 5} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, limit(n))
			store := &brittleStore{}
			w.config.Store = store
			original := w.activated()
			moved := w.open(on("the new computer", copied(t, store)))
			status, err := moved.Move(t.Context())
			require.NoError(t, err)
			assert.Equal(t, polargate.Active, status.State)
			assert.True(t, moved.Has("export"))
			assert.Equal(t, 1, w.seats())
			before := w.changesOfSeats()
			unattended(t, original, moved)
			assert.Equal(t, before, w.changesOfSeats())
			assert.Equal(t, polargate.ErrSeatReleased, original.Status().Reason)
			assert.Contains(t, original.Status().Message, "Activate the license key again")
			assert.True(t, moved.Has("export"))
			status, err = moved.Move(t.Context())
			require.NoError(t, err, "once more does nothing")
			assert.Equal(t, polargate.Active, status.State)
			assert.Equal(t, before, w.changesOfSeats())
			_, err = original.Move(t.Context())
			require.ErrorIs(t, err, polargate.ErrSeatReleased, "there is no other license in its store")
		})
	}
}

func TestEachOfThreeCopiesCanMoveTheLicenseAndTheLastOneHasIt(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, limit(1))
		store := &brittleStore{}
		w.config.Store = store
		original := w.activated()
		gates := []*polargate.Gate{original}
		for _, name := range []string{"one", "two", "three"} {
			gates = append(gates, w.open(on(name, copied(t, store))))
		}
		unattended(t, gates...)
		_, err := gates[1].Move(t.Context())
		require.NoError(t, err)
		for _, late := range gates[2:] {
			time.Sleep(time.Minute)
			_, err := late.Move(t.Context())
			require.ErrorIs(t, err, polargate.ErrActivationLimit, "what the copy knows of was moved already")
		}
		unattended(t, gates...)
		assert.Equal(t, 1, w.seats())
		assert.True(t, gates[1].Has("export"))
		assert.Equal(t, polargate.ErrSeatReleased, original.Status().Reason)
	})
}

func TestAMoveThatCannotBeginLeavesBothComputersAsTheyWere(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		fault func(*world, *brittleStore)
		want  error
	}{
		"without a network":                  {func(w *world, _ *brittleStore) { w.polar.SetOffline(true) }, polargate.ErrUnreachable},
		"in a pause":                         {func(w *world, _ *brittleStore) { w.inject("", 1, polartest.RateLimited("5")) }, polargate.ErrRateLimited},
		"with a key that was revoked":        {func(w *world, _ *brittleStore) { w.polar.Revoke(w.key.ID) }, polargate.ErrInactive},
		"when the release does not arrive":   {func(w *world, _ *brittleStore) { w.inject(pathDeactivate, 1, polartest.Reset()) }, polargate.ErrUnreachable},
		"with a folder that cannot be saved": {func(_ *world, s *brittleStore) { s.set(nil, fails, nil) }, errDisk},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, limit(1))
				store := &brittleStore{}
				w.config.Store = store
				original := w.activated()
				disk := copied(t, store)
				moved := w.open(on("the new computer", disk))
				test.fault(w, disk)
				_, err := moved.Move(t.Context())
				require.ErrorIs(t, err, test.want)
				assert.NotEmpty(t, polargate.Message(err))
				assert.Equal(t, polargate.ErrOtherMachine, moved.Status().Reason)
				w.polar.SetOffline(false)
				w.polar.ClearFaults()
				w.polar.Grant(w.key.ID)
				disk.set(nil, nil, nil)
				before := w.changesOfSeats()
				unattended(t, moved)
				assert.Equal(t, before, w.changesOfSeats(), "and nothing is made up for later")
				_, err = original.Refresh(t.Context())
				require.NoError(t, err)
				time.Sleep(time.Minute)
				_, err = moved.Move(t.Context())
				require.NoError(t, err)
				assert.Equal(t, 1, w.seats())
			})
		})
	}
}

func TestACopyDoesNotFinishAMoveThatAnotherComputerBegan(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, limit(2))
		store := &brittleStore{}
		w.config.Store = store
		w.activated()
		disk := copied(t, store)
		began := w.open(on("the new computer", disk))
		w.inject(pathActivate, 1, polartest.RateLimited("5"))
		_, err := began.Move(t.Context())
		require.ErrorIs(t, err, polargate.ErrRateLimited)
		require.Zero(t, w.seats())
		third := w.open(on("a copy of the new computer", copied(t, disk)))
		before := w.changesOfSeats()
		unattended(t, third)
		assert.Equal(t, before, w.changesOfSeats())
		_, err = began.Check(t.Context())
		require.NoError(t, err, "who began it finishes it, with a check")
		assert.Equal(t, 1, w.seats())
	})
}

func TestAKilledMoveIsFinishedWhereverItWasKilled(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		slow    string // the request under way when the program is killed
		inDoubt bool
	}{
		"before anything was asked of Polar": {pathValidate, false},
		"while the release was under way":    {pathDeactivate, false},
		"while the activation was under way": {pathActivate, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, limit(2))
				store := &brittleStore{}
				w.config.Store = store
				w.activated()
				disk := copied(t, store)
				w.inject(test.slow, 1, polartest.Delay(4*time.Second))
				killed := w.open(on("the new computer", disk))
				go func() { _, _ = killed.Move(t.Context()) }()
				time.Sleep(2 * time.Second)
				left := copied(t, disk)
				time.Sleep(time.Minute)
				require.NoError(t, killed.Close())
				next := w.open(on("the new computer", left))
				_, err := next.Check(t.Context())
				switch {
				case test.inDoubt:
					require.ErrorIs(t, err, polargate.ErrInDoubt)
				case test.slow == pathDeactivate:
					require.NoError(t, err)
				default:
					require.ErrorIs(t, err, polargate.ErrOtherMachine, "nothing was begun")
				}
				time.Sleep(time.Minute)
				_, err = next.Move(t.Context())
				if test.slow == pathDeactivate {
					require.NoError(t, err)
				}
				time.Sleep(time.Minute)
				_, err = next.Activate(t.Context(), w.key.Key)
				require.NoError(t, err)
				assert.True(t, next.Has("export"))
			})
		})
	}
}

func TestMoveWithoutALicenseAnywhereSaysThatThereIsNone(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		_, err := w.open().Move(t.Context())
		require.ErrorIs(t, err, polargate.ErrNoLicense)
		for _, kind := range []polargate.Ephemeral{polargate.ReleaseOnClose, polargate.ValidateOnly} {
			_, err = w.open(ephemeral(kind)).Move(t.Context())
			require.ErrorIs(t, err, polargate.ErrNoLicense)
		}
		assert.Zero(t, w.polar.Count(""))
	})
}

func TestAMoveUnderAKeyThatWasReplacedAsksForTheNewOne(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, limit(1))
		require.NoError(t, w.activated().Close())
		next := w.polar.Rotate(w.key.ID)
		gate := w.open(on("the new computer", w.config.Store))
		_, err := gate.Move(t.Context())
		require.ErrorIs(t, err, polargate.ErrUnknownKey)
		assert.Contains(t, polargate.Message(err), "enter the new one")
		time.Sleep(time.Minute)
		_, err = gate.Activate(t.Context(), next)
		require.NoError(t, err)
		assert.Equal(t, 1, w.seats())
	})
}

func TestALicenseWithoutSeatsIsMovedWithoutReleasingAnything(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, withoutSeats)
		w.config.AllowKeysWithoutSeats = true
		original := w.activated()
		gate := w.open(on("the new computer", w.config.Store))
		_, err := gate.Check(t.Context())
		require.ErrorIs(t, err, polargate.ErrOtherMachine)
		_, err = gate.Move(t.Context())
		require.NoError(t, err)
		assert.Zero(t, w.polar.Count(pathDeactivate))
		_, err = original.Refresh(t.Context())
		require.NoError(t, err)
	})
}

// A license for one computer goes back and forth between two that share a profile,
// with one click each time.
func TestALicenseIsMovedBackAndForthInASharedProfile(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, limit(1))
		w.activated(on("desk", w.config.Store))
		for round := range 6 {
			time.Sleep(time.Hour)
			here, there := "laptop", "desk"
			if round%2 == 1 {
				here, there = there, here
			}
			gate := w.open(on(here, w.config.Store))
			_, _ = gate.Refresh(t.Context())
			time.Sleep(time.Minute)
			_, err := gate.Move(t.Context())
			require.NoError(t, err, "round %d", round)
			require.NoError(t, gate.Close())
			time.Sleep(time.Minute)
			_, err = w.open(on(there, w.config.Store)).Refresh(t.Context())
			require.ErrorIs(t, err, polargate.ErrSeatReleased)
			assert.Equal(t, 1, w.seats())
		}
	})
}

func TestAMoveWhoseReleaseWasLostOnTheWayBackCanBeTriedAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, limit(1))
		require.NoError(t, w.activated().Close())
		gate := w.open(on("the new computer", w.config.Store))
		w.inject(pathDeactivate, 1, polartest.AnswerLost())
		_, err := gate.Move(t.Context())
		require.Error(t, err)
		assert.Zero(t, w.seats())
		time.Sleep(time.Minute)
		_, err = gate.Move(t.Context())
		require.NoError(t, err)
		assert.Equal(t, 1, w.seats())
	})
}
