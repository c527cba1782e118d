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

// soldFor is a Polar of the newest version with a license key of a subscription.
func soldFor(t *testing.T, s polartest.Subscription) (polar *polartest.Polar, key polartest.LicenseKey, subscriptionID string) {
	t.Helper()
	polar = polartest.New(polartest.Config{Version: "2027-01"})
	pro := polar.AddBenefit(polartest.CatalogBenefit{Type: "license_keys", Properties: map[string]any{"activations": map[string]any{"limit": 3}}})
	s.ProductID = polar.AddProduct(polartest.Product{Benefits: []string{pro.ID}}).ID
	ada := polar.AddCustomer(polartest.Customer{ExternalID: "ada"})
	subscriptionID = polar.Subscribe("ada", s).ID
	ada, _ = polar.Customer(ada.ID)
	require.Len(t, ada.Benefits, 1)
	key, _ = polar.LicenseKey(ada.Benefits[0].LicenseKeyID)
	return polar, key, subscriptionID
}

func TestALicenseEndsOfflineWhenItsCancelledSubscriptionDoes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		end := time.Now().Add(50 * time.Hour)
		polar, key, _ := soldFor(t, polartest.Subscription{CancelAtPeriodEnd: true, CurrentPeriodEnd: end, EndsAt: end})
		gate, err := polargate.Open(polargate.Config{OrganizationID: polar.OrganizationID(), App: "inkwell", Store: &polargate.MemoryStore{}, Fingerprint: kit.ThisMachine, BaseURL: polar.URL(), HTTPClient: polar.Client()})
		require.NoError(t, err)
		defer gate.Close()
		_, err = gate.Activate(t.Context(), key.Key)
		require.NoError(t, err)
		time.Sleep(25 * time.Hour)
		status, err := gate.Check(t.Context()) // which validates: an activation doesn't tell
		require.NoError(t, err)
		assert.True(t, end.Equal(status.ExpiresAt), status.ExpiresAt)
		polar.SetOffline(true)
		time.Sleep(25*time.Hour - time.Second)
		status, _ = gate.Check(t.Context())
		assert.Equal(t, polargate.Grace, status.State)
		assert.False(t, status.GraceUntil.After(end), "grace doesn't outlive it")
		time.Sleep(2 * time.Second)
		status, err = gate.Check(t.Context())
		require.ErrorIs(t, err, polargate.ErrExpired)
		assert.Equal(t, polargate.Locked, status.State)
		assert.Equal(t, polargate.ActionEnterKey, status.Action.Kind, "a new subscription has a new key")
		kit.Says(t, status.Message, "expired.subscription.do")
		kit.Says(t, polargate.Message(err), "expired.subscription.do")
		assert.Equal(t, status.Action, polargate.Links{}.ActionFor(err))

		// What was renewed meanwhile goes on, and Polar's word counts more than the date.
		polar.SetOffline(false)
		status, err = gate.Check(t.Context())
		require.NoError(t, err, "Polar hasn't revoked it yet")
		assert.Equal(t, polargate.Active, status.State)
		assert.True(t, status.ExpiresAt.IsZero())
	})
}

func TestALicenseOfASubscriptionThatRenewsHasNoEnd(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		polar, key, _ := soldFor(t, polartest.Subscription{CurrentPeriodEnd: time.Now().Add(50 * time.Hour)})
		gate, err := polargate.Open(polargate.Config{OrganizationID: polar.OrganizationID(), App: "inkwell", Store: &polargate.MemoryStore{}, Fingerprint: kit.ThisMachine, BaseURL: polar.URL(), HTTPClient: polar.Client()})
		require.NoError(t, err)
		defer gate.Close()
		status, err := gate.Activate(t.Context(), key.Key)
		require.NoError(t, err)
		assert.True(t, status.ExpiresAt.IsZero())
		time.Sleep(25 * time.Hour)
		status, err = gate.Check(t.Context()) // which validates: an activation doesn't tell
		require.NoError(t, err)
		assert.True(t, status.ExpiresAt.IsZero())
		polar.SetOffline(true)
		time.Sleep(60 * time.Hour)
		status, err = gate.Check(t.Context())
		require.NoError(t, err)
		assert.Equal(t, polargate.Grace, status.State)
	})
}

func TestALicenseKeyTellsWhatItWasBoughtWith(t *testing.T) {
	t.Parallel()
	end := time.Now().Add(50 * time.Hour).UTC().Truncate(time.Second)
	polar, key, subscription := soldFor(t, polartest.Subscription{CancelAtPeriodEnd: true, CurrentPeriodEnd: end, EndsAt: end})
	client, err := polargate.NewClient(polargate.ClientConfig{OrganizationID: polar.OrganizationID(), BaseURL: polar.URL(), HTTPClient: polar.Client()})
	require.NoError(t, err)
	typed, err := polargate.ParseKey(key.Key)
	require.NoError(t, err)
	got, err := client.Validate(t.Context(), polargate.ValidateRequest{Key: typed})
	require.NoError(t, err)
	require.NotNil(t, got.Subscription)
	assert.Equal(t, subscription, got.Subscription.ID)
	assert.True(t, got.Subscription.CancelAtPeriodEnd)
	assert.Equal(t, end, got.EndsAt())
	assert.Nil(t, got.Order)
	assert.Nil(t, got.Member)
}
