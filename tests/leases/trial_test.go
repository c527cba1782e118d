package leases

import (
	"context"
	"crypto/ed25519"
	"errors"
	"net/http"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/polargate/polargate"
	"github.com/polargate/polargate/lease"
	"github.com/polargate/polargate/lease/issuer"
	"github.com/polargate/polargate/tests/internal/kit"
)

// trials has the license server give trials of ten days, and the program ask for them.
func trials(t *testing.T, test func(t *testing.T, v *vendor)) {
	t.Helper()
	inTime(t, func(c *issuer.Config) { c.Trial = issuer.Trial{Days: 10, Features: []string{"print"}} }, func(t *testing.T, v *vendor) {
		v.Config.Trial = polargate.Trial{Days: 14, Features: []string{"export"}}
		test(t, v)
	})
}

func TestALicenseServerGivesEachComputerOneTrial(t *testing.T) {
	trials(t, func(t *testing.T, v *vendor) {
		began := time.Now()
		gate := v.Open()
		status, err := gate.Check(t.Context())
		require.NoError(t, err)
		assert.Equal(t, polargate.InTrial, status.State)
		assert.WithinDuration(t, began.Add(10*kit.Day), status.TrialUntil, time.Second, "the server says how long")
		assert.Equal(t, []string{"export", "print"}, status.Features)
		assert.Equal(t, 1, v.questions())
		v.says(away)
		time.Sleep(9 * kit.Day)
		for _, g := range []*polargate.Gate{gate, v.Open()} {
			_, err = g.Check(t.Context())
			require.NoError(t, err, "it needs the server once")
		}
		assert.Equal(t, 1, v.questions())

		// Deleting the state, or reinstalling the system, brings no more time.
		v.says(nil)
		anew := func(c *polargate.Config) { c.Store = &polargate.MemoryStore{} }
		status, err = v.Open(anew).Check(t.Context())
		require.NoError(t, err)
		assert.WithinDuration(t, began.Add(10*kit.Day), status.TrialUntil, time.Second)
		time.Sleep(kit.Day + time.Minute)
		synctest.Wait()
		assert.False(t, gate.Has("print"))
		_, err = gate.Check(t.Context())
		require.ErrorIs(t, err, polargate.ErrTrialEnded)
		asked := v.questions()
		store := &polargate.MemoryStore{}
		for range 3 {
			status, err = v.Open(func(c *polargate.Config) { c.Store = store }).Check(t.Context())
			require.ErrorIs(t, err, polargate.ErrTrialEnded)
			assert.Equal(t, polargate.Unlicensed, status.State)
			kit.Says(t, status.Message, "trial_ended")
		}
		assert.Equal(t, asked+1, v.questions(), "a refusal is remembered")

		status, err = v.Open(anew, func(c *polargate.Config) { c.Fingerprint = "another computer" }).Check(t.Context())
		require.NoError(t, err)
		assert.Equal(t, polargate.InTrial, status.State, "which has its own")
	})
}

func TestATrialOfALicenseServerHasToBeSigned(t *testing.T) {
	trials(t, func(t *testing.T, v *vendor) {
		// A state that counts without a license server could have been sealed by anybody.
		unsigned := v.Open(func(c *polargate.Config) { c.LeaseURL = "" })
		_, err := unsigned.Check(t.Context())
		require.NoError(t, err)
		require.NoError(t, unsigned.Close())
		v.says(away)
		gate := v.Open()
		assert.False(t, gate.Has("export"))
		status, err := gate.Check(t.Context())
		require.Error(t, err)
		assert.Equal(t, polargate.Unlicensed, status.State)
		v.says(nil)
		time.Sleep(time.Minute)
		_, err = gate.Check(t.Context())
		require.NoError(t, err)
		require.NoError(t, gate.Close())

		_, err = v.Open(func(c *polargate.Config) {
			c.LeaseKeys = []ed25519.PublicKey{public(privateKey(9))}
		}).Check(t.Context())
		require.Error(t, err, "nor one of a key that isn't pinned")
		copied := v.Open(func(c *polargate.Config) { c.Fingerprint = "another computer with the same folder" })
		assert.False(t, copied.Has("export"), "nor that of another computer")
	})
}

func TestATrialThatTheLicenseServerCannotGiveYetSaysSo(t *testing.T) {
	trials(t, func(t *testing.T, v *vendor) {
		v.says(away)
		gate := v.Open()
		status, err := gate.Check(t.Context())
		require.ErrorIs(t, err, polargate.ErrNoLicense)
		require.ErrorIs(t, err, polargate.ErrUnreachable)
		kit.Says(t, status.Message, "no_license.trial_offline")
		assert.Equal(t, status.Message, polargate.Message(err))
		asked := v.questions()
		_, err = gate.Check(t.Context())
		require.Error(t, err)
		assert.Equal(t, asked, v.questions(), "it isn't asked again at once")
		v.says(nil)
		go gate.Run(t.Context())
		time.Sleep(2 * time.Minute)
		assert.Equal(t, polargate.InTrial, gate.Status().State, "Run asks again")

		refused := v.Open(func(c *polargate.Config) { c.Store, c.Fingerprint = &polargate.MemoryStore{}, "refused" })
		v.says(always(http.StatusOK, "text/plain", "a login page"))
		_, err = refused.Check(t.Context())
		require.ErrorIs(t, err, polargate.ErrUnreachable, "what isn't a lease neither begins nor ends a trial")
	})
}

func TestALicenseEndsATrialOfALicenseServer(t *testing.T) {
	trials(t, func(t *testing.T, v *vendor) {
		gate := v.Open()
		_, err := gate.Check(t.Context())
		require.NoError(t, err)
		status, err := gate.Activate(t.Context(), v.Key.Key)
		require.NoError(t, err)
		assert.Equal(t, polargate.Active, status.State)
		require.NoError(t, gate.Deactivate(t.Context()))
		asked := v.questions()
		_, err = gate.Check(t.Context())
		require.ErrorIs(t, err, polargate.ErrNoLicense)
		assert.NotErrorIs(t, err, polargate.ErrTrialEnded)
		assert.Equal(t, asked, v.questions())
	})
}

func TestAClockThatIsSetBackDoesNotProlongATrialOfALicenseServer(t *testing.T) {
	trials(t, func(t *testing.T, v *vendor) {
		var wrong atomic.Int64
		v.Config.Clock = func() time.Time { return time.Now().Add(time.Duration(wrong.Load())) }
		wrong.Store(int64(3 * time.Hour)) // and one that is wrong from the beginning loses nothing
		status, err := v.Open().Check(t.Context())
		require.NoError(t, err)
		assert.WithinDuration(t, time.Now().Add(10*kit.Day+3*time.Hour), status.TrialUntil, time.Second)
		time.Sleep(8 * kit.Day)
		_, err = v.Open().Check(t.Context())
		require.NoError(t, err)
		wrong.Store(-int64(100 * kit.Day))
		status, err = v.Open().Check(t.Context())
		require.NoError(t, err)
		assert.WithinDuration(t, v.Config.Clock().Add(2*kit.Day), status.TrialUntil, time.Hour)
		time.Sleep(2*kit.Day + time.Hour)
		_, err = v.Open().Check(t.Context())
		require.ErrorIs(t, err, polargate.ErrTrialEnded)
	})
}

func TestATrialThatIsAskedForTwiceIsOne(t *testing.T) {
	trials(t, func(t *testing.T, v *vendor) {
		v.says(lost)
		_, err := v.Open().Check(t.Context())
		require.Error(t, err)
		v.says(nil)
		time.Sleep(kit.Day)
		status, err := v.Open().Check(t.Context())
		require.NoError(t, err)
		assert.WithinDuration(t, time.Now().Add(9*kit.Day), status.TrialUntil, time.Minute, "the lost answer began it")
	})
}

func TestTheVendorHasAWordInEachTrial(t *testing.T) {
	inTime(t, func(c *issuer.Config) {
		c.Trial = issuer.Trial{Days: 10, Features: []string{"print"}}
		c.Claims = func(_ context.Context, about issuer.About, claims *lease.Claims) error {
			if about.Version == "0.9" {
				return errors.New("too old")
			}
			claims.Expires, claims.Features, claims.Fingerprint = claims.Expires.Add(-5*kit.Day), []string{"sync"}, "everybody's"
			return nil
		}
	}, func(t *testing.T, v *vendor) {
		v.Config.Trial.Days = 1
		_, err := v.Open(func(c *polargate.Config) { c.Version = "0.9" }).Check(t.Context())
		require.ErrorIs(t, err, polargate.ErrNoLicense)
		time.Sleep(time.Minute)
		status, err := v.Open().Check(t.Context())
		require.NoError(t, err)
		assert.WithinDuration(t, time.Now().Add(5*kit.Day), status.TrialUntil, 2*time.Minute)
		assert.Equal(t, []string{"sync"}, status.Features)
	})
}

func TestALicenseServerWithoutTrialsGivesNone(t *testing.T) {
	inTime(t, nil, func(t *testing.T, v *vendor) {
		v.Config.Trial.Days = 14
		status, err := v.Open().Check(t.Context())
		require.ErrorIs(t, err, polargate.ErrNoLicense)
		assert.Equal(t, polargate.Unlicensed, status.State)
		bad := v.config
		bad.Trial.Days = -1
		_, err = issuer.New(bad)
		require.Error(t, err)
	})
}
