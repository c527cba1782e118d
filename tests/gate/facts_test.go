package gate

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/polargate/polargate"
	"github.com/polargate/polargate/polartest"
	"github.com/polargate/polargate/tests/internal/kit"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestALicenseThatIsLockedStaysSoWhenItCannotBeAskedAboutAndBothFactsAreSaid(t *testing.T) {
	t.Parallel()
	for name, lock := range map[string]struct {
		how  func(*testing.T, *kit.World, *polargate.Gate)
		want polargate.Reason
		says polargate.Phrase
	}{
		"revoked": {func(t *testing.T, w *kit.World, gate *polargate.Gate) {
			w.Polar.Revoke(w.Key.ID)
			_, err := gate.Refresh(t.Context())
			require.Equal(t, polargate.ErrInactive, kit.ReasonOf(err))
		}, polargate.ErrInactive, "inactive"},
		"replaced": {func(t *testing.T, w *kit.World, gate *polargate.Gate) {
			w.Polar.Rotate(w.Key.ID)
			_, err := gate.Refresh(t.Context())
			require.Equal(t, polargate.ErrUnknownKey, kit.ReasonOf(err))
		}, polargate.ErrUnknownKey, "unknown_key.held"},
		"expired while offline": {func(_ *testing.T, w *kit.World, gate *polargate.Gate) {
			expireAt(w, time.Now().Add(kit.Day))
			_, _ = gate.Refresh(context.Background())
			time.Sleep(2 * kit.Day)
		}, polargate.ErrExpired, "expired"},
		"beyond grace": {func(_ *testing.T, w *kit.World, _ *polargate.Gate) {
			time.Sleep(20 * kit.Day)
		}, polargate.ErrGraceEnded, ""},
	} {
		for fault, strike := range map[string]struct {
			how  func(*kit.World)
			want polargate.Reason
			says string
		}{
			"no network":   {func(w *kit.World) { w.Polar.SetOffline(true) }, polargate.ErrUnreachable, "just now: the license server couldn't be reached"},
			"a login page": {injectAll(polartest.LoginPage(200)), polargate.ErrUnreachable, polargate.Phrases()["unreachable.page.do"]},
			"a pause":      {injectAll(polartest.RateLimited("40")), polargate.ErrRateLimited, "just now: too many requests. Try again in 40 seconds."},
		} {
			t.Run(name+", and then "+fault, func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					w := kit.NewWorld(t)
					gate := w.Activated()
					lock.how(t, w, gate)
					time.Sleep(2 * time.Second)
					strike.how(w)
					status, err := gate.Refresh(t.Context())
					assert.Equal(t, polargate.Locked, status.State)
					assert.Equal(t, lock.want, status.Reason)
					assert.Equal(t, lock.want, kit.ReasonOf(err), "what is known of the license decides")
					require.ErrorIs(t, err, strike.want, "and the failure can be found")
					said := []error{err}
					if fault != "a login page" { // which leaves a use in doubt
						_, useErr := gate.Consume(t.Context(), 1)
						assert.Equal(t, lock.want, kit.ReasonOf(useErr))
						require.ErrorIs(t, useErr, strike.want)
						said = append(said, useErr)
					}
					if lock.says != "" {
						for _, err := range said {
							assert.Contains(t, polargate.Message(err), polargate.Phrases()[lock.says+".do"])
						}
						assert.Contains(t, polargate.Message(err), strike.says)
					}
					assert.NotContains(t, status.Message, "just now", "a status is of the license")
				})
			})
		}
	}
}

func TestWithoutALicenseTheReasonIsNoLicenseAlsoWhenDeactivatingFails(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := kit.NewWorld(t)
		gate := w.Activated()
		w.Polar.SetOffline(true)
		require.Error(t, gate.Deactivate(t.Context()))
		_, err := gate.Refresh(t.Context())
		assert.Equal(t, polargate.ErrNoLicense, kit.ReasonOf(err))
		require.ErrorIs(t, err, polargate.ErrUnreachable)
		assert.Contains(t, polargate.Message(err), polargate.Phrases()["no_license.do"]+" We couldn't recheck it just now: "+polargate.Phrases()["unreachable"])
	})
}

func TestARefreshThatFailsWhileTheLicenseIsGoodIsTheFailure(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := kit.NewWorld(t)
		gate := w.Activated()
		w.Polar.SetOffline(true)
		status, err := gate.Refresh(t.Context())
		assert.True(t, status.OK())
		assert.Equal(t, polargate.ErrUnreachable, kit.ReasonOf(err))
	})
}

func TestAUseWhoseAnswerIsLostStaysInDoubtWhateverTheLicenseIs(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := kit.NewWorld(t, kit.Usage(10))
		gate := w.Activated()
		w.Polar.Revoke(w.Key.ID)
		_, err := gate.Refresh(t.Context())
		require.Error(t, err)
		w.Polar.Grant(w.Key.ID)
		w.Inject(kit.PathValidate, 0, polartest.AnswerLost())
		_, err = gate.Consume(t.Context(), 1)
		assert.Equal(t, polargate.ErrInDoubt, kit.ReasonOf(err))
	})
}

func TestAnErrorAboutAnEnteredKeySaysThatTheCurrentLicenseIsUnchanged(t *testing.T) {
	t.Parallel()
	const stays = " Your current license is unchanged."
	for name, test := range map[string]struct {
		change func(*polartest.LicenseKey)
		effect polartest.Effect
		key    string // instead of that of a license
		reason polargate.Reason
		says   string
	}{
		"unknown":             {key: "INKWELL-MISTYPED-0001", reason: polargate.ErrUnknownKey, says: "The license server doesn't recognize that key."},
		"revoked":             {change: func(k *polartest.LicenseKey) { k.Status = "revoked" }, reason: polargate.ErrInactive, says: "That key is no longer active."},
		"expired":             {change: func(k *polartest.LicenseKey) { k.ExpiresAt = time.Now().Add(-1) }, reason: polargate.ErrExpired, says: "That key has expired."},
		"of another product":  {change: func(k *polartest.LicenseKey) { k.BenefitID = otherBenefit }, reason: polargate.ErrWrongBenefit, says: "That key is for another product."},
		"without activations": {change: kit.WithoutSeats, reason: polargate.ErrActivationsUnsupported, says: "That key isn't set up for activation."},
		"full": {change: func(k *polartest.LicenseKey) {
			k.LimitActivations, k.Activations = polartest.Limit(1), []polartest.Activation{{Label: "other"}}
		}, reason: polargate.ErrActivationLimit, says: "That key is already in use on the maximum number of computers."},
		"refused without words": {effect: polartest.Body(403, applicationJSON, `{"error":"NotPermitted","detail":"No."}`), reason: polargate.ErrDenied, says: "The license server rejected that key."},
		"not reached":           {effect: polartest.ProxyPage(407), reason: polargate.ErrUnreachable, says: "That key couldn't be activated: "},
		"in a pause":            {effect: polartest.RateLimited("40"), reason: polargate.ErrRateLimited, says: "That key couldn't be activated: too many requests. Try again in 40 seconds."},
		"malformed at Polar":    {effect: polartest.Body(422, applicationJSON, `{"error":"RequestValidationError","detail":[{"loc":["body","key"],"msg":"Field required","type":"missing"}]}`), reason: polargate.ErrMisconfigured, says: "That key couldn't be activated: "},
		"in doubt":              {effect: polartest.AnswerLost(), reason: polargate.ErrInDoubt, says: "We couldn't confirm the activation of that key."},
		"empty":                 {key: " ", says: "That key is empty"},
	} {
		for held, prepare := range map[string]func(*kit.World, *polargate.Gate){
			"beside a good license": func(*kit.World, *polargate.Gate) {},
			"beside one that is locked": func(w *kit.World, gate *polargate.Gate) {
				w.Polar.Revoke(w.Key.ID)
				_, _ = gate.Refresh(w.T.Context())
			},
		} {
			t.Run(name+" "+held, func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					w := kit.NewWorld(t)
					gate := w.Activated()
					prepare(w, gate)
					before := gate.Status()
					other := polartest.LicenseKey{LimitActivations: polartest.Limit(2), BenefitID: w.Key.BenefitID}
					if test.change != nil {
						test.change(&other)
					}
					key := w.Polar.AddKey(other).Key
					if test.key != "" {
						key = test.key
					}
					if test.key == "" && test.change == nil {
						w.Inject(kit.PathActivate, 0, test.effect)
					}
					status, err := gate.Activate(t.Context(), key)
					require.Error(t, err)
					assert.Equal(t, test.reason, kit.ReasonOf(err))
					if test.reason == "" {
						var input *polargate.InputError
						require.ErrorAs(t, err, &input)
					}
					said := polargate.Message(err)
					assert.Contains(t, said, test.says)
					assert.Regexp(t, `[.]`+stays+`$`, said)
					assert.NotContains(t, said, "this license", "which one?")
					assert.Equal(t, before.State, status.State)
					assert.Equal(t, before.Key, status.Key)
					assert.Equal(t, before.Reason, status.Reason)

					// Where there is no license, there is nothing else that could be meant.
					w.Config.Store = &polargate.MemoryStore{}
					_, err = w.Open().Activate(t.Context(), key)
					assert.NotContains(t, polargate.Message(err), "current license")
				})
			})
		}
	}
	t.Run("and so does a state that cannot be saved", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			w := kit.NewWorld(t)
			store := &kit.BrittleStore{}
			w.Config.Store = store
			gate := w.Activated()
			store.Set(nil, kit.Fails, nil)
			_, err := gate.Activate(t.Context(), w.Polar.AddKey(polartest.LicenseKey{LimitActivations: polartest.Limit(1), BenefitID: w.Key.BenefitID}).Key)
			var stored *polargate.StoreError
			require.ErrorAs(t, err, &stored)
			assert.Regexp(t, stays+`$`, polargate.Message(err))
		})
	})
	t.Run("but not one about the license's own key", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			w := kit.NewWorld(t)
			gate := w.Activated()
			w.Polar.Revoke(w.Key.ID)
			status, err := gate.Activate(t.Context(), w.Key.Key)
			require.ErrorIs(t, err, polargate.ErrInactive)
			assert.Equal(t, status.Message, polargate.Message(err))
		})
	})
	t.Run("nor what a caller who gives up is told", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			w := kit.NewWorld(t)
			gate := w.Activated()
			w.Inject(kit.PathActivate, 0, polartest.Delay(8*time.Second))
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			other := w.Polar.AddKey(polartest.LicenseKey{LimitActivations: polartest.Limit(1), BenefitID: w.Key.BenefitID})
			_, err := gate.Activate(ctx, other.Key)
			require.True(t, errors.Is(err, context.DeadlineExceeded))
			assert.NotContains(t, polargate.Message(err), "unchanged", "the request is finished in the background")
			time.Sleep(time.Minute)
		})
	})
}
