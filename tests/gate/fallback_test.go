package gate

import (
	"crypto/ed25519"
	"encoding/json"
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

// lasting is a World whose program was released a day ago, and lets lapsed licenses keep it.
func lasting(t *testing.T, change ...func(*polartest.LicenseKey)) *kit.World {
	t.Helper()
	w := kit.NewWorld(t, change...)
	w.Config.Fallback = polargate.Fallback{Released: time.Now().Add(-kit.Day)}
	return w
}

// dated gives a key an end.
func dated(d time.Duration) func(*polartest.LicenseKey) {
	return func(k *polartest.LicenseKey) { k.ExpiresAt = time.Now().Add(d) }
}

func TestALicenseThatExpiredKeepsTheVersionThatItCovered(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := lasting(t, dated(3*kit.Day))
		gate := w.Activated()
		end := gate.Status().ExpiresAt
		w.Polar.SetOffline(true)
		time.Sleep(3*kit.Day + time.Minute)
		synctest.Wait()
		perpetual := func(g *polargate.Gate) {
			t.Helper()
			assert.True(t, g.Has("export"))
			status, err := g.Check(t.Context())
			require.NoError(t, err)
			assert.Equal(t, polargate.Perpetual, status.State)
			assert.Equal(t, polargate.ErrExpired, status.Reason)
			assert.Equal(t, end, status.CoveredUntil)
			assert.Equal(t, []string{"export", "sync"}, status.Features)
			assert.Equal(t, polargate.ActionRenew, status.Action.Kind)
			kit.Says(t, status.Message, "perpetual")
		}
		perpetual(gate) // by itself, and without a network
		perpetual(w.Open())
		said, err := json.Marshal(gate.Status())
		require.NoError(t, err)
		assert.Contains(t, string(said), `"state":"perpetual","reason":"expired"`)
		assert.Contains(t, string(said), `"covered_until":"`)
		require.NoError(t, gate.Close())
		time.Sleep(2000 * kit.Day)
		perpetual(w.Open()) // for good
		w.Polar.SetOffline(false)
		perpetual(w.Open()) // Polar says that it has expired
		w.Polar.SetOffline(true)
		time.Sleep(2000 * kit.Day)
		perpetual(w.Open())
		assert.Contains(t, w.Open().Diagnose(t.Context()).String(), "covers until")

		newer := func(c *polargate.Config) { c.Fallback.Released = end.Add(time.Second) }
		update := w.Open(newer)
		assert.False(t, update.Has("export"))
		status, err := update.Check(t.Context())
		require.ErrorIs(t, err, polargate.ErrNotCovered)
		assert.Equal(t, polargate.Locked, status.State)
		assert.Equal(t, end, status.CoveredUntil)
		assert.Contains(t, status.Message, end.Local().Format("2 January 2006"), "words that say what it covers")
		assert.Contains(t, polargate.Message(err), status.Message)
		assert.Equal(t, polargate.ActionRenew, status.Action.Kind)
		perpetual(w.Open()) // the version of before still runs

		w.Polar.SetOffline(false)
		expireAt(w, time.Now().Add(365*kit.Day))
		status, err = w.Open(newer).Refresh(t.Context())
		require.NoError(t, err)
		assert.Equal(t, polargate.Active, status.State, "until it is renewed")
		assert.True(t, status.CoveredUntil.IsZero())
	})
}

func TestALicenseWhoseSubscriptionEndedKeepsTheVersionOfItsLastGrant(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := lasting(t)
		gate := w.Activated()
		time.Sleep(10 * kit.Day)
		_, err := gate.Refresh(t.Context())
		require.NoError(t, err)
		last := gate.Status().CheckedAt
		time.Sleep(5 * kit.Day)
		w.Polar.Revoke(w.Key.ID)
		_, err = gate.Refresh(t.Context())
		require.NoError(t, err, "the program may run")
		for _, g := range []*polargate.Gate{gate, w.Open()} {
			status, err := g.Check(t.Context())
			require.NoError(t, err)
			assert.Equal(t, polargate.Perpetual, status.State)
			assert.Equal(t, polargate.ErrInactive, status.Reason)
			assert.Equal(t, last, status.CoveredUntil)
			assert.Equal(t, polargate.ActionEnterKey, status.Action.Kind, "a new subscription has a new key")
		}
		_, err = w.Open(func(c *polargate.Config) { c.Fallback.Released = last.Add(time.Hour) }).Check(t.Context())
		require.ErrorIs(t, err, polargate.ErrNotCovered)
		status, err := w.Open(func(c *polargate.Config) { c.Fallback = polargate.Fallback{} }).Check(t.Context())
		require.ErrorIs(t, err, polargate.ErrInactive, "a program without a fallback")
		assert.Equal(t, polargate.Locked, status.State)

		// Polar is asked once in a while, and not by each start.
		w.Polar.ForgetRequests()
		for range 20 {
			_, err = w.Open().Check(t.Context())
			require.NoError(t, err)
		}
		synctest.Wait()
		assert.Zero(t, w.Polar.Count(""))
		go gate.Run(t.Context())
		time.Sleep(2 * kit.Day)
		asked := w.Polar.Count("")
		assert.Greater(t, asked, 1)
		assert.Less(t, asked, 8)
		w.Polar.Grant(w.Key.ID)
		time.Sleep(kit.Day)
		assert.Equal(t, polargate.Active, gate.Status().State, "a customer who is back need not restart it")
	})
}

func TestALicenseThatWasTakenBackHasNoFallback(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		key    func(*polartest.LicenseKey)
		change func(*polargate.Config)
		take   func(*kit.World, *polargate.Gate)
		want   polargate.Reason
	}{
		"a dated key that is revoked before its end": {key: dated(300 * kit.Day), take: revoke, want: polargate.ErrInactive},
		"a dated key that was revoked, as is heard only after its end": {key: dated(300 * kit.Day), take: func(w *kit.World, g *polargate.Gate) {
			revoke(w, g)
			w.Polar.SetOffline(true)
			time.Sleep(300 * kit.Day)
			w.Polar.SetOffline(false)
		}, want: polargate.ErrInactive},
		"a key that was replaced": {take: func(w *kit.World, _ *polargate.Gate) { w.Polar.Rotate(w.Key.ID) }, want: polargate.ErrUnknownKey},
		"a computer that was deactivated": {take: func(w *kit.World, _ *polargate.Gate) {
			w.Polar.Update(w.Key.ID, func(k *polartest.LicenseKey) { k.Activations[0].Released = true })
		}, want: polargate.ErrSeatReleased},
		"a license that was held too briefly": {change: func(c *polargate.Config) { c.Fallback.After = 21 * kit.Day }, take: revoke, want: polargate.ErrInactive},
		"a license that wasn't verified": {take: func(w *kit.World, _ *polargate.Gate) {
			w.Polar.SetOffline(true)
			time.Sleep(30 * kit.Day)
		}, want: polargate.ErrGraceEnded},
		"a key of a product that this version doesn't accept": {take: func(w *kit.World, g *polargate.Gate) {
			revoke(w, g)
			w.Config.Features = map[string][]string{"22222222-0000-4000-8000-000000000002": {"export"}}
		}, want: polargate.ErrInactive},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				var keys []func(*polartest.LicenseKey)
				if test.key != nil {
					keys = append(keys, test.key)
				}
				w := lasting(t, keys...)
				if test.change != nil {
					test.change(&w.Config)
				}
				gate := w.Activated()
				time.Sleep(20 * kit.Day)
				_, err := gate.Refresh(t.Context())
				require.NoError(t, err)
				test.take(w, gate)
				_, _ = gate.Refresh(t.Context())
				require.NoError(t, gate.Close())
				status, err := w.Open().Check(t.Context())
				require.ErrorIs(t, err, test.want)
				assert.Equal(t, polargate.Locked, status.State)
				assert.False(t, w.Open().Has("export"))
			})
		})
	}
}

func revoke(w *kit.World, _ *polargate.Gate) { w.Polar.Revoke(w.Key.ID) }

func TestALicenseThatIsHeldLongEnoughHasAFallback(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := lasting(t)
		w.Config.Fallback.After = 21 * kit.Day
		gate := w.Activated()
		time.Sleep(22 * kit.Day)
		_, err := gate.Refresh(t.Context())
		require.NoError(t, err)
		w.Polar.Revoke(w.Key.ID)
		status, err := gate.Refresh(t.Context())
		require.NoError(t, err)
		assert.Equal(t, polargate.Perpetual, status.State)
	})
}

// Polar's newest API says what a key was bought with.
func TestWhatPolarSaysOfASubscriptionTellsItsEndFromARefund(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		status string
		held   time.Duration
		want   polargate.State
	}{
		"at the end of what was paid":     {"active", 30 * kit.Day, polargate.Perpetual},
		"in the middle of what was paid":  {"active", 12 * kit.Day, polargate.Locked},
		"at the end of a trial at Polar":  {"trialing", 30 * kit.Day, polargate.Locked},
		"in the middle of such a trial":   {"trialing", 12 * kit.Day, polargate.Locked},
		"some time after what was paid":   {"active", 33 * kit.Day, polargate.Perpetual},
		"a while after nothing was heard": {"active", 90 * kit.Day, polargate.Perpetual},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				paid := time.Now().Add(30 * kit.Day).UTC()
				polar, key, subscription := soldFor(t, polartest.Subscription{Status: test.status, CurrentPeriodEnd: paid})
				config := polargate.Config{
					OrganizationID: polar.OrganizationID(), App: "inkwell", Store: &polargate.MemoryStore{}, Fingerprint: kit.ThisMachine, BaseURL: polar.URL(), HTTPClient: polar.Client(),
					Fallback: polargate.Fallback{Released: time.Now()},
				}
				gate, err := polargate.Open(config)
				require.NoError(t, err)
				defer gate.Close()
				_, err = gate.Activate(t.Context(), key.Key)
				require.NoError(t, err)
				time.Sleep(10 * kit.Day)
				_, err = gate.Refresh(t.Context()) // which validates: an activation doesn't tell
				require.NoError(t, err)
				time.Sleep(test.held - 10*kit.Day)
				polar.CancelSubscription("ada", subscription)
				status, _ := gate.Refresh(t.Context())
				assert.Equal(t, test.want, status.State, status.Reason)
				if test.want == polargate.Perpetual {
					assert.Equal(t, paid, status.CoveredUntil)
				} else {
					assert.Equal(t, polargate.ErrInactive, status.Reason)
				}
			})
		})
	}
}

func TestATrialAtPolarThatEndsOfflineHasNoFallback(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		end := time.Now().Add(7 * kit.Day).UTC()
		polar, key, _ := soldFor(t, polartest.Subscription{Status: "trialing", CancelAtPeriodEnd: true, CurrentPeriodEnd: end, EndsAt: end})
		gate, err := polargate.Open(polargate.Config{
			OrganizationID: polar.OrganizationID(), App: "inkwell", Store: &polargate.MemoryStore{}, Fingerprint: kit.ThisMachine, BaseURL: polar.URL(), HTTPClient: polar.Client(),
			Fallback: polargate.Fallback{Released: time.Now()},
		})
		require.NoError(t, err)
		defer gate.Close()
		_, err = gate.Activate(t.Context(), key.Key)
		require.NoError(t, err)
		time.Sleep(kit.Day)
		_, err = gate.Refresh(t.Context())
		require.NoError(t, err)
		polar.SetOffline(true)
		time.Sleep(7 * kit.Day)
		status, err := gate.Check(t.Context())
		require.ErrorIs(t, err, polargate.ErrExpired)
		assert.Equal(t, polargate.Locked, status.State, "nothing was paid")
	})
}

func TestAFallbackUnlocksNoMoreThanTheLicenseDid(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := lasting(t)
		w.Config.Fallback.Features = []string{"cloud", "export"}
		gate := w.Activated()
		w.Polar.Revoke(w.Key.ID)
		status, err := gate.Refresh(t.Context())
		require.NoError(t, err)
		assert.Equal(t, []string{"export"}, status.Features)
		assert.False(t, gate.Has("cloud"))
	})
}

func TestAClockDoesNotTakeAFallbackAway(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := lasting(t, dated(3*kit.Day))
		var wrong atomic.Int64
		w.Config.Clock = func() time.Time { return time.Now().Add(time.Duration(wrong.Load())) }
		require.NoError(t, w.Activated().Close())
		w.Polar.SetOffline(true)
		time.Sleep(4 * kit.Day)
		gate := w.Open()
		_, err := gate.Check(t.Context())
		require.NoError(t, err)
		require.NoError(t, gate.Close())
		wrong.Store(-int64(100 * kit.Day))
		status, err := w.Open().Check(t.Context())
		require.NoError(t, err)
		assert.Equal(t, polargate.Perpetual, status.State, "it was seen to have ended")
		w.Polar.SetOffline(false)
		status, err = w.Open().Refresh(t.Context())
		require.NoError(t, err)
		assert.Equal(t, polargate.Perpetual, status.State)
		w.Polar.SetOffline(true)
		wrong.Store(int64(5000 * kit.Day))
		status, err = w.Open().Check(t.Context())
		require.NoError(t, err)
		assert.Equal(t, polargate.Perpetual, status.State)
	})
}

func TestAnImportedLicenseThatPolarNeverGrantedHasNoFallback(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := lasting(t, func(k *polartest.LicenseKey) { k.Activations = []polartest.Activation{{}} })
		activation := w.Now().Activations[0]
		w.Polar.Revoke(w.Key.ID)
		w.Polar.SetOffline(true)
		gate := w.Open()
		_, _ = gate.Import(t.Context(), polargate.ImportedActivation{Key: w.Key.Key, ActivationID: activation.ID, CheckedAt: time.Now()})
		assert.Equal(t, polargate.Grace, gate.Status().State)
		w.Polar.SetOffline(false)
		time.Sleep(time.Hour)
		status, err := gate.Refresh(t.Context())
		require.ErrorIs(t, err, polargate.ErrInactive, "what another program says was granted covers nothing")
		assert.Equal(t, polargate.Locked, status.State)
	})
}

func TestAFallbackThatCannotWorkIsRefused(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*polargate.Config){
		"no day":   func(c *polargate.Config) { c.Fallback = polargate.Fallback{Features: []string{"export"}} },
		"two days": func(c *polargate.Config) { c.Released = time.Now().Add(kit.Day) },
		"leases don't say": func(c *polargate.Config) {
			c.Fallback.After, c.LeaseURL, c.LeaseKeys = kit.Day, "https://licenses.example.com/lease", []ed25519.PublicKey{ed25519.NewKeyFromSeed(make([]byte, 32)).Public().(ed25519.PublicKey)}
		},
		"negative":           func(c *polargate.Config) { c.Fallback.After = -1 },
		"a nameless feature": func(c *polargate.Config) { c.Fallback.Features = []string{""} },
	} {
		w := lasting(t)
		change(&w.Config)
		_, err := polargate.Open(w.Config)
		var input *polargate.InputError
		require.ErrorAs(t, err, &input, name)
		assert.Equal(t, "Fallback", input.Field)
	}
	w := lasting(t)
	w.Config.Released, w.Config.Fallback.Released = w.Config.Fallback.Released, time.Time{}
	w.Config.Fallback.Features = []string{"export"}
	w.Open() // Config.Released will do
}
