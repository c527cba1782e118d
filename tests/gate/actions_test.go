package gate

import (
	"encoding/json"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/polargate/polargate"
	"github.com/polargate/polargate/polartest"
	"github.com/polargate/polargate/tests/internal/kit"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

var vendorPages = polargate.Links{
	Buy: "https://example.com/buy", Renew: "https://example.com/renew",
	Portal: "https://example.com/portal", Support: "mailto:help@example.com",
}

func page(kind polargate.ActionKind, url string) polargate.Action {
	return polargate.Action{Kind: kind, URL: url}
}

func TestTheButtonFitsWhatHappenedToTheLicense(t *testing.T) {
	t.Parallel()
	type action = polargate.Action
	for name, c := range map[string]struct {
		happens func(*kit.World, *polargate.Gate)
		want    action
	}{
		"nothing":   {func(*kit.World, *polargate.Gate) {}, action{}},
		"an outage": {func(w *kit.World, _ *polargate.Gate) { w.Polar.SetOffline(true); time.Sleep(2 * kit.Day) }, action{Kind: polargate.ActionCheck}},
		"an outage for too long": {func(w *kit.World, _ *polargate.Gate) { w.Polar.SetOffline(true); time.Sleep(20 * kit.Day) },
			action{Kind: polargate.ActionCheck}},
		"a program that is refused": {func(w *kit.World, _ *polargate.Gate) {
			time.Sleep(2 * kit.Day)
			w.Inject("", 0, polartest.Body(401, applicationJSON, `{"error":"Unauthorized","detail":"Unauthorized"}`))
		}, page(polargate.ActionSupport, vendorPages.Support)},
		"the end of the subscription": {func(w *kit.World, _ *polargate.Gate) { w.Polar.Revoke(w.Key.ID) },
			page(polargate.ActionEnterKey, vendorPages.Renew)},
		"the end of a dated key": {func(w *kit.World, _ *polargate.Gate) { expireAt(w, time.Now()) },
			page(polargate.ActionRenew, vendorPages.Renew)},
		"a deactivation in the portal": {func(w *kit.World, _ *polargate.Gate) {
			w.Polar.Update(w.Key.ID, func(k *polartest.LicenseKey) { k.Activations[0].Released = true })
		}, action{Kind: polargate.ActionActivate}},
		"a rotated key": {func(w *kit.World, _ *polargate.Gate) { w.Polar.Rotate(w.Key.ID) },
			page(polargate.ActionEnterKey, vendorPages.Buy)},
		"another product": {func(w *kit.World, _ *polargate.Gate) {
			w.Polar.Update(w.Key.ID, func(k *polartest.LicenseKey) { k.BenefitID = "6b43a9a5-8d86-4c5a-9c5e-3a1f9a0b7c11" })
		}, page(polargate.ActionEnterKey, vendorPages.Buy)},
		"no license any more": {func(w *kit.World, gate *polargate.Gate) { _ = gate.Deactivate(w.T.Context()) },
			page(polargate.ActionEnterKey, vendorPages.Buy)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := kit.NewWorld(t, kit.Limit(1))
				w.Config.Links = vendorPages
				gate := w.Activated()
				c.happens(w, gate)
				status, _ := gate.Refresh(t.Context())
				assert.Equal(t, c.want, status.Action, "%s %s", status.State, status.Reason)
			})
		})
	}
}

func TestTheButtonBesideAnErrorFitsTheError(t *testing.T) {
	t.Parallel()
	type action = polargate.Action
	for err, want := range map[error]action{
		polargate.ErrActivationLimit:               page(polargate.ActionPortal, vendorPages.Portal),
		polargate.ErrUsageExceeded:                 page(polargate.ActionBuy, vendorPages.Buy),
		polargate.ErrOtherMachine:                  {Kind: polargate.ActionMove},
		polargate.ErrBadLease:                      {Kind: polargate.ActionLoadFile},
		polargate.ErrDenied:                        page(polargate.ActionSupport, vendorPages.Support),
		polargate.ErrClosed:                        {},
		assert.AnError:                             {},
		&polargate.StoreError{Err: assert.AnError}: {},
	} {
		assert.Equal(t, want, vendorPages.ActionFor(err), "%v", err)
	}
	assert.Equal(t, action{}, vendorPages.ActionFor(nil))
	assert.Equal(t, action{Kind: polargate.ActionSupport}, polargate.Links{}.ActionFor(polargate.ErrActivationLimit), "no portal is known")
}

func TestAStatusNamesTheActivationTheKeyAndTheCustomerForSupport(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := kit.NewWorld(t)
		gate := w.Activated()
		check := func(s polargate.Status) {
			t.Helper()
			assert.Equal(t, w.Now().Activations[0].ID, s.ActivationID)
			assert.Equal(t, w.Key.ID, s.LicenseKeyID)
			assert.NotEmpty(t, s.CustomerID)
			assert.Equal(t, w.Now().Customer.ID, s.CustomerID)
		}
		check(gate.Status())
		require.NoError(t, gate.Close())

		w.Polar.SetOffline(true)
		next := w.Open()
		check(next.Status())
		var said struct {
			ActivationID string             `json:"activation_id"`
			LicenseKeyID string             `json:"license_key_id"`
			CustomerID   string             `json:"customer_id"`
			Action       *map[string]string `json:"action"`
		}
		text, err := json.Marshal(next.Status())
		require.NoError(t, err)
		require.NoError(t, json.Unmarshal(text, &said))
		assert.Equal(t, w.Key.ID, said.LicenseKeyID)
		assert.Equal(t, w.Now().Customer.ID, said.CustomerID)
		assert.Equal(t, w.Now().Activations[0].ID, said.ActivationID)
		assert.Nil(t, said.Action)

		w.Polar.SetOffline(false)
		w.Polar.Revoke(w.Key.ID)
		status, _ := next.Refresh(t.Context())
		check(status)
	})
}

func TestALinkThatIsNoAddressIsRejected(t *testing.T) {
	t.Parallel()
	for _, bad := range []string{"example.com/buy", "javascript:alert(1)", "https://", "mailto:", "file:///etc/passwd", "%", "//example.com"} {
		for field, links := range map[string]polargate.Links{
			"Links.Buy": {Buy: bad}, "Links.Renew": {Renew: bad}, "Links.Portal": {Portal: bad}, "Links.Support": {Support: bad},
		} {
			w := kit.NewWorld(t)
			w.Config.Links = links
			_, err := polargate.Open(w.Config)
			var input *polargate.InputError
			if assert.ErrorAs(t, err, &input, "%s", bad) {
				assert.Equal(t, field, input.Field)
			}
		}
	}
}

func TestThePortalIsNamedOnlyIfCustomersCanDeactivateThere(t *testing.T) {
	t.Parallel()
	for _, portal := range []string{"", vendorPages.Portal} {
		synctest.Test(t, func(t *testing.T) {
			w := kit.NewWorld(t, kit.Limit(1), func(k *polartest.LicenseKey) { k.Activations = []polartest.Activation{{}} })
			w.Config.Links.Portal = portal
			gate := w.Open()
			_, full := gate.Activate(t.Context(), w.Key.Key)
			require.ErrorIs(t, full, polargate.ErrActivationLimit)
			w.Inject(kit.PathActivate, 1, polartest.AnswerLost())
			_, doubt := gate.Activate(t.Context(), w.Key.Key)
			require.ErrorIs(t, doubt, polargate.ErrInDoubt)
			status, check := gate.Check(t.Context())
			require.ErrorIs(t, check, polargate.ErrInDoubt)
			_, ensure := gate.Ensure(t.Context(), w.Key.Key)
			require.ErrorIs(t, ensure, polargate.ErrInDoubt)
			for _, text := range []string{polargate.Message(full), full.Error(), polargate.Message(doubt), status.Message, polargate.Message(check), polargate.Message(ensure)} {
				assert.Equal(t, portal != "", strings.Contains(text, "customer portal"), text)
			}
		})
	}
}

func TestAnyBenefitUnlocksItsFeaturesBesideThoseOfTheBenefit(t *testing.T) {
	t.Parallel()
	const another = "6b43a9a5-8d86-4c5a-9c5e-3a1f9a0b7c11"
	synctest.Test(t, func(t *testing.T) {
		w := kit.NewWorld(t)
		w.Config.Features = map[string][]string{polargate.AnyBenefit: {"open", "export"}, w.Key.BenefitID: {"sync", "export"}}
		gate := w.Activated()
		assert.Equal(t, []string{"export", "open", "sync"}, gate.Status().Features)
		w.Polar.Update(w.Key.ID, func(k *polartest.LicenseKey) { k.BenefitID = another })
		status, err := gate.Refresh(t.Context())
		require.NoError(t, err)
		assert.Equal(t, []string{"export", "open"}, status.Features)
		assert.False(t, gate.Has("sync"))
	})
	w := kit.NewWorld(t)
	w.Config.Features = map[string][]string{polargate.AnyBenefit: {""}}
	_, err := polargate.Open(w.Config)
	var input *polargate.InputError
	require.ErrorAs(t, err, &input)
}

func TestAGracePeriodWithoutAnEndLastsForDecadesAndNamesNoDate(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := kit.NewWorld(t)
		w.Config.GracePeriod = polargate.UnlimitedGrace
		gate := w.Activated()
		w.Polar.SetOffline(true)
		require.NoError(t, gate.Close())
		time.Sleep(30 * 365 * kit.Day)
		status, err := w.Open().Check(t.Context())
		require.NoError(t, err)
		assert.Equal(t, polargate.Grace, status.State)
		assert.True(t, status.GraceUntil.IsZero())
		assert.Equal(t, polargate.Phrases()["grace.unlimited"], status.Message)
	})
	synctest.Test(t, func(t *testing.T) {
		w := kit.NewWorld(t)
		w.Config.GracePeriod = polargate.UnlimitedGrace
		end := time.Now().Add(10 * kit.Day)
		expireAt(w, end)
		gate := w.Activated()
		w.Polar.SetOffline(true)
		time.Sleep(5 * kit.Day)
		status, err := gate.Check(t.Context())
		require.NoError(t, err)
		assert.True(t, end.Equal(status.GraceUntil), "a key with an end has one")
		time.Sleep(6 * kit.Day)
		_, err = gate.Check(t.Context())
		require.ErrorIs(t, err, polargate.ErrExpired)
	})
}
