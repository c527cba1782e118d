package gate

import (
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/polargate/polargate"
	"github.com/polargate/polargate/polartest"
	"github.com/polargate/polargate/tests/internal/kit"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// These run on each system that docs/platforms.md names: see .ci/platforms.

// wholeLife activates, checks, starts again, deactivates and starts again.
func wholeLife(t *testing.T, w *kit.World) {
	gate := w.Activated()
	status, err := gate.Refresh(t.Context())
	require.NoError(t, err)
	assert.Equal(t, polargate.Active, status.State)
	assert.False(t, status.Unsaved)
	require.NoError(t, gate.Close())

	asked := len(w.Polar.Requests())
	again := w.Open()
	assert.True(t, again.Has("export"), "from disk, before anybody is asked")
	status, err = again.Check(t.Context())
	require.NoError(t, err)
	assert.True(t, status.OK())
	assert.Len(t, w.Polar.Requests(), asked)
	assert.Equal(t, 1, w.Seats())
	require.NoError(t, again.Deactivate(t.Context()))
	assert.Zero(t, w.Seats())
	require.NoError(t, again.Close())

	assert.Equal(t, polargate.Unlicensed, w.Open().Status().State)
}

func TestALicenseIsActivatedCheckedFoundAgainAndDeactivated(t *testing.T) {
	t.Parallel()
	w := kit.NewWorld(t)
	w.Config.Store = polargate.FileStore(filepath.Join(t.TempDir(), "license"))
	wholeLife(t, w)
}

func TestALicenseIsActivatedCheckedFoundAgainAndDeactivatedInTheYear2040(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(time.Until(time.Date(2040, 2, 29, 12, 0, 0, 0, time.UTC)))
		end := time.Now().AddDate(1, 0, 0)
		w := kit.NewWorld(t, func(k *polartest.LicenseKey) { k.ExpiresAt = end })
		w.Config.Store = polargate.FileStore(filepath.Join(t.TempDir(), "license"))
		w.Config.GracePeriod = 2 * kit.Day
		wholeLife(t, w)
		gate := w.Activated()
		assert.Equal(t, end.UTC(), gate.Status().ExpiresAt)
		w.Polar.SetOffline(true)
		time.Sleep(36 * time.Hour)
		status, err := gate.Check(t.Context())
		require.NoError(t, err)
		assert.Equal(t, polargate.Grace, status.State)
		time.Sleep(kit.Day)
		status, err = gate.Check(t.Context())
		require.ErrorIs(t, err, polargate.ErrGraceEnded)
		assert.Equal(t, polargate.Locked, status.State)
	})
}

func TestWhereNothingAtAllCanBeWrittenALicenseLastsUntilTheProgramEnds(t *testing.T) {
	t.Parallel()
	if _, err := os.UserConfigDir(); err == nil {
		t.Skip("this user has a folder for settings: .ci/platforms runs this where there is nothing but the program")
	}
	w := kit.NewWorld(t)
	w.Config.Store, w.Config.Fingerprint = nil, ""
	w.Config.Ephemeral = polargate.IfUnwritable
	gate := w.Activated()
	assert.True(t, gate.Has("export"))
	assert.True(t, gate.Status().Unsaved)
	status, err := gate.Refresh(t.Context())
	require.NoError(t, err)
	assert.True(t, status.OK())
	require.NoError(t, gate.Close())
	assert.Zero(t, w.Seats(), "deactivated when the program ended")

	w.Config.Ephemeral = ""
	next := w.Open()
	assert.Equal(t, polargate.Unlicensed, next.Status().State)
	_, err = next.Activate(t.Context(), w.Key.Key)
	require.Error(t, err)
	assert.Zero(t, w.Seats())
	assert.False(t, next.Has("export"))
}
