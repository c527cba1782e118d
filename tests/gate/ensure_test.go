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

func TestAConfiguredKeyIsActivatedOnceAndAsksNothingAfterwards(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := kit.NewWorld(t, kit.Limit(1))
		gate := w.Open()
		status, err := gate.Ensure(t.Context(), " "+w.Key.Key+"\n")
		require.NoError(t, err)
		assert.Equal(t, polargate.Active, status.State)
		require.NoError(t, gate.Close())

		w.Polar.ForgetRequests()
		for range 5 {
			next := w.Open()
			_, err = next.Ensure(t.Context(), w.Key.Key)
			require.NoError(t, err)
			require.NoError(t, next.Close())
		}
		assert.Empty(t, w.Polar.Requests(), "the license has this key already")

		w.Polar.SetOffline(true)
		time.Sleep(3 * kit.Day)
		status, err = w.Open().Ensure(t.Context(), w.Key.Key)
		require.NoError(t, err)
		assert.Equal(t, polargate.Grace, status.State)
		assert.Equal(t, 1, w.Seats())
	})
}

func TestAnotherConfiguredKeyReplacesTheLicenseOnceItIsAccepted(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := kit.NewWorld(t, kit.Limit(1))
		other := w.Polar.AddKey(polartest.LicenseKey{BenefitID: w.Key.BenefitID, LimitActivations: polartest.Limit(1)})
		gate := w.Activated()

		w.Polar.SetOffline(true)
		status, err := gate.Ensure(t.Context(), other.Key)
		require.NoError(t, err, "the license in use stays until the new key can be tried")
		assert.Equal(t, w.Key.Key, status.Key.Reveal())

		w.Polar.SetOffline(false)
		_, err = gate.Ensure(t.Context(), "INKWELL-MISTYPED-0001")
		require.ErrorIs(t, err, polargate.ErrUnknownKey, "a refusal isn't hidden")
		assert.True(t, gate.Status().OK())

		status, err = gate.Ensure(t.Context(), other.Key)
		require.NoError(t, err)
		assert.Equal(t, other.Key, status.Key.Reveal())
		assert.Zero(t, w.Seats())
		assert.Equal(t, 1, w.Polar.Seats(other.ID))
	})
}

func TestAConfiguredKeyThatPolarReplacedCountsAsTheNewOneOnceThatIsActivated(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := kit.NewWorld(t, kit.Limit(1))
		gate := w.Activated()
		rotated := w.Polar.Rotate(w.Key.ID)
		_, err := gate.Activate(t.Context(), rotated)
		require.NoError(t, err)
		require.NoError(t, gate.Close())
		w.Polar.ForgetRequests()
		for _, key := range []string{w.Key.Key, rotated} {
			next := w.Open()
			_, err = next.Ensure(t.Context(), key)
			require.NoError(t, err)
			assert.Equal(t, rotated, next.Status().Key.Reveal())
			require.NoError(t, next.Close())
		}
		assert.Empty(t, w.Polar.Requests())
		assert.Equal(t, 1, w.Seats())
	})
}

func TestAConfiguredKeyDoesNotUndoADeactivationAtPolar(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := kit.NewWorld(t)
		gate := w.Activated()
		w.Polar.Update(w.Key.ID, func(k *polartest.LicenseKey) { k.Activations[0].Released = true })
		_, err := gate.Refresh(t.Context())
		require.ErrorIs(t, err, polargate.ErrSeatReleased)
		for range 3 {
			time.Sleep(time.Hour)
			_, err = gate.Ensure(t.Context(), w.Key.Key)
			require.ErrorIs(t, err, polargate.ErrSeatReleased)
		}
		assert.Zero(t, w.Seats())
	})
}

func TestAConfiguredKeyThatIsInDoubtUsesOneMoreActivationInAnHourAtMost(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := kit.NewWorld(t, kit.Limit(10))
		w.Inject(kit.PathActivate, 0, polartest.AnswerLost())
		began := time.Now()
		for time.Since(began) < 3*time.Hour {
			gate := w.Open()
			_, err := gate.Ensure(t.Context(), w.Key.Key)
			require.ErrorIs(t, err, polargate.ErrInDoubt)
			require.NoError(t, gate.Close())
			time.Sleep(time.Minute)
		}
		assert.Equal(t, 3, w.Seats())
		w.Polar.ClearFaults()
		_, err := w.Open().Ensure(t.Context(), w.Key.Key)
		require.NoError(t, err)
	})
}

func TestManyProcessesThatAreGivenTheSameKeyUseOneActivation(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := kit.NewWorld(t, kit.Limit(2))
		w.Config.WaitForTurn = time.Hour
		done := make(chan error)
		for range 8 {
			gate := w.Open()
			go func() { _, err := gate.Ensure(t.Context(), w.Key.Key); done <- err }()
		}
		for range 8 {
			require.NoError(t, <-done)
		}
		assert.Equal(t, 1, w.Seats())
	})
}

func TestAConfiguredKeyThatIsEmptyOrCameTooLateSaysSo(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := kit.NewWorld(t)
		gate := w.Open()
		_, err := gate.Ensure(t.Context(), "")
		var input *polargate.InputError
		require.ErrorAs(t, err, &input)
		require.NoError(t, gate.Close())
		_, err = gate.Ensure(t.Context(), w.Key.Key)
		require.ErrorIs(t, err, polargate.ErrClosed)
	})
}
