package gate

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/polargate/polargate"
	"github.com/polargate/polargate/polartest"
	"github.com/polargate/polargate/tests/internal/kit"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestTheComputerThatALicenseIsMovedFromSaysSoAndDoesNotTakeItBack(t *testing.T) {
	t.Parallel()
	for _, n := range []int64{1, 5} {
		synctest.Test(t, func(t *testing.T) {
			w := kit.NewWorld(t, kit.Limit(n))
			store := &kit.BrittleStore{}
			w.Config.Store = store
			original := w.Activated()
			moved := w.Open(on("the new computer", copied(t, store)))
			status, err := moved.Move(t.Context())
			require.NoError(t, err)
			assert.Equal(t, polargate.Active, status.State)
			assert.True(t, moved.Has("export"))
			assert.Equal(t, 1, w.Seats())
			before := changesOfSeats(w)
			unattended(t, original, moved)
			assert.Equal(t, before, changesOfSeats(w))
			assert.Equal(t, polargate.ErrSeatReleased, original.Status().Reason)
			assert.Contains(t, original.Status().Message, polargate.Phrases()["seat_released.do"])
			assert.True(t, moved.Has("export"))
			status, err = moved.Move(t.Context())
			require.NoError(t, err, "once more does nothing")
			assert.Equal(t, polargate.Active, status.State)
			assert.Equal(t, before, changesOfSeats(w))
			_, err = original.Move(t.Context())
			require.ErrorIs(t, err, polargate.ErrSeatReleased, "there is no other license in its store")
		})
	}
}

func TestEachOfThreeCopiesCanMoveTheLicenseAndTheLastOneHasIt(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := kit.NewWorld(t, kit.Limit(1))
		store := &kit.BrittleStore{}
		w.Config.Store = store
		original := w.Activated()
		gates := []*polargate.Gate{original}
		for _, name := range []string{"one", "two", "three"} {
			gates = append(gates, w.Open(on(name, copied(t, store))))
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
		assert.Equal(t, 1, w.Seats())
		assert.True(t, gates[1].Has("export"))
		assert.Equal(t, polargate.ErrSeatReleased, original.Status().Reason)
	})
}

func TestAMoveThatCannotBeginLeavesBothComputersAsTheyWere(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		fault func(*kit.World, *kit.BrittleStore)
		want  error
	}{
		"without a network":                  {func(w *kit.World, _ *kit.BrittleStore) { w.Polar.SetOffline(true) }, polargate.ErrUnreachable},
		"in a pause":                         {func(w *kit.World, _ *kit.BrittleStore) { w.Inject("", 1, polartest.RateLimited("5")) }, polargate.ErrRateLimited},
		"with a key that was revoked":        {func(w *kit.World, _ *kit.BrittleStore) { w.Polar.Revoke(w.Key.ID) }, polargate.ErrInactive},
		"when the release does not arrive":   {func(w *kit.World, _ *kit.BrittleStore) { w.Inject(kit.PathDeactivate, 1, polartest.Reset()) }, polargate.ErrUnreachable},
		"with a folder that cannot be saved": {func(_ *kit.World, s *kit.BrittleStore) { s.Set(nil, kit.Fails, nil) }, kit.ErrDisk},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := kit.NewWorld(t, kit.Limit(1))
				store := &kit.BrittleStore{}
				w.Config.Store = store
				original := w.Activated()
				disk := copied(t, store)
				moved := w.Open(on("the new computer", disk))
				test.fault(w, disk)
				_, err := moved.Move(t.Context())
				require.ErrorIs(t, err, test.want)
				assert.NotEmpty(t, polargate.Message(err))
				assert.Equal(t, polargate.ErrOtherMachine, moved.Status().Reason)
				w.Polar.SetOffline(false)
				w.Polar.ClearFaults()
				w.Polar.Grant(w.Key.ID)
				disk.Set(nil, nil, nil)
				before := changesOfSeats(w)
				unattended(t, moved)
				assert.Equal(t, before, changesOfSeats(w), "and nothing is made up for later")
				_, err = original.Refresh(t.Context())
				require.NoError(t, err)
				time.Sleep(time.Minute)
				_, err = moved.Move(t.Context())
				require.NoError(t, err)
				assert.Equal(t, 1, w.Seats())
			})
		})
	}
}

func TestACopyDoesNotFinishAMoveThatAnotherComputerBegan(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := kit.NewWorld(t, kit.Limit(2))
		store := &kit.BrittleStore{}
		w.Config.Store = store
		w.Activated()
		disk := copied(t, store)
		began := w.Open(on("the new computer", disk))
		w.Inject(kit.PathActivate, 1, polartest.RateLimited("5"))
		_, err := began.Move(t.Context())
		require.ErrorIs(t, err, polargate.ErrRateLimited)
		require.Zero(t, w.Seats())
		third := w.Open(on("a copy of the new computer", copied(t, disk)))
		before := changesOfSeats(w)
		unattended(t, third)
		assert.Equal(t, before, changesOfSeats(w))
		_, err = began.Check(t.Context())
		require.NoError(t, err, "who began it finishes it, with a check")
		assert.Equal(t, 1, w.Seats())
	})
}

func TestAKilledMoveIsFinishedWhereverItWasKilled(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		slow    string // the request under way when the program is killed
		inDoubt bool
	}{
		"before anything was asked of Polar": {kit.PathValidate, false},
		"while the release was under way":    {kit.PathDeactivate, false},
		"while the activation was under way": {kit.PathActivate, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := kit.NewWorld(t, kit.Limit(2))
				store := &kit.BrittleStore{}
				w.Config.Store = store
				w.Activated()
				disk := copied(t, store)
				w.Inject(test.slow, 1, polartest.Delay(4*time.Second))
				killed := w.Open(on("the new computer", disk))
				go func() { _, _ = killed.Move(t.Context()) }()
				time.Sleep(2 * time.Second)
				left := copied(t, disk)
				time.Sleep(time.Minute)
				require.NoError(t, killed.Close())
				next := w.Open(on("the new computer", left))
				_, err := next.Check(t.Context())
				switch {
				case test.inDoubt:
					require.ErrorIs(t, err, polargate.ErrInDoubt)
				case test.slow == kit.PathDeactivate:
					require.NoError(t, err)
				default:
					require.ErrorIs(t, err, polargate.ErrOtherMachine, "nothing was begun")
				}
				time.Sleep(time.Minute)
				_, err = next.Move(t.Context())
				if test.slow == kit.PathDeactivate {
					require.NoError(t, err)
				}
				time.Sleep(time.Minute)
				_, err = next.Activate(t.Context(), w.Key.Key)
				require.NoError(t, err)
				assert.True(t, next.Has("export"))
			})
		})
	}
}

func TestMoveWithoutALicenseAnywhereSaysThatThereIsNone(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := kit.NewWorld(t)
		_, err := w.Open().Move(t.Context())
		require.ErrorIs(t, err, polargate.ErrNoLicense)
		for _, kind := range []polargate.Ephemeral{polargate.ReleaseOnClose, polargate.ValidateOnly} {
			_, err = w.Open(ephemeral(kind)).Move(t.Context())
			require.ErrorIs(t, err, polargate.ErrNoLicense)
		}
		assert.Zero(t, w.Polar.Count(""))
	})
}

func TestAMoveUnderAKeyThatWasReplacedAsksForTheNewOne(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := kit.NewWorld(t, kit.Limit(1))
		require.NoError(t, w.Activated().Close())
		next := w.Polar.Rotate(w.Key.ID)
		gate := w.Open(on("the new computer", w.Config.Store))
		_, err := gate.Move(t.Context())
		require.ErrorIs(t, err, polargate.ErrUnknownKey)
		assert.Contains(t, polargate.Message(err), polargate.Phrases()["unknown_key.held.do"])
		time.Sleep(time.Minute)
		_, err = gate.Activate(t.Context(), next)
		require.NoError(t, err)
		assert.Equal(t, 1, w.Seats())
	})
}

func TestALicenseWithoutActivationsMovesWithoutDeactivating(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := kit.NewWorld(t, kit.WithoutSeats)
		w.Config.AllowKeysWithoutSeats = true
		original := w.Activated()
		gate := w.Open(on("the new computer", w.Config.Store))
		_, err := gate.Check(t.Context())
		require.ErrorIs(t, err, polargate.ErrOtherMachine)
		_, err = gate.Move(t.Context())
		require.NoError(t, err)
		assert.Zero(t, w.Polar.Count(kit.PathDeactivate))
		_, err = original.Refresh(t.Context())
		require.NoError(t, err)
	})
}

// A license for one computer goes back and forth between two that share a profile,
// with one click each time.
func TestALicenseIsMovedBackAndForthInASharedProfile(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := kit.NewWorld(t, kit.Limit(1))
		w.Activated(on("desk", w.Config.Store))
		for round := range 6 {
			time.Sleep(time.Hour)
			here, there := "laptop", "desk"
			if round%2 == 1 {
				here, there = there, here
			}
			gate := w.Open(on(here, w.Config.Store))
			_, _ = gate.Refresh(t.Context())
			time.Sleep(time.Minute)
			_, err := gate.Move(t.Context())
			require.NoError(t, err, "round %d", round)
			require.NoError(t, gate.Close())
			time.Sleep(time.Minute)
			_, err = w.Open(on(there, w.Config.Store)).Refresh(t.Context())
			require.ErrorIs(t, err, polargate.ErrSeatReleased)
			assert.Equal(t, 1, w.Seats())
		}
	})
}

func TestAMoveWhoseReleaseWasLostOnTheWayBackCanBeTriedAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := kit.NewWorld(t, kit.Limit(1))
		require.NoError(t, w.Activated().Close())
		gate := w.Open(on("the new computer", w.Config.Store))
		w.Inject(kit.PathDeactivate, 1, polartest.AnswerLost())
		_, err := gate.Move(t.Context())
		require.Error(t, err)
		assert.Zero(t, w.Seats())
		time.Sleep(time.Minute)
		_, err = gate.Move(t.Context())
		require.NoError(t, err)
		assert.Equal(t, 1, w.Seats())
	})
}
