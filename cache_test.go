package polargate

import (
	"testing"
	"time"

	"github.com/polargate/polargate/internal/fact"
	"github.com/polargate/polargate/internal/rights"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestWhatReplicasTellOfALicenseKeyHoldsNeitherTheKeyNorWhatIsPersonal(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)
	limit := int64(5)
	license := &LicenseKey{
		ID: "508176f7-065a-4b5d-b524-4e9c8a11ed63", OrganizationID: testOrganization, CustomerID: benchCustomer,
		BenefitID: "850cc3a4-3ed7-4be6-b198-127ec8d33bb9", Key: newKey("INKWELL-1C285B2D-6CE6-4BC7-B8BE-ADB6A7E304DA"),
		DisplayKey: "****-E304DA", Status: KeyGranted, LimitActivations: &limit, Usage: 3, LimitUsage: &limit, Validations: 4,
		LastValidatedAt: at, ExpiresAt: at.Add(time.Hour), CreatedAt: at, ModifiedAt: at, answeredAt: at,
		Customer: Customer{
			ID: benchCustomer, OrganizationID: testOrganization, ExternalID: "usr_1337", Email: newEmail("ada@example.com"), Name: "Ada Lovelace",
			BillingAddress: &Address{Line1: "12 St James's Square"}, Metadata: map[string]any{"note": "VIP"}, AvatarURL: "https://example.com/ada.png",
		},
	}
	data := fact.Fact{At: rights.PolarTime(at), License: licenseFact(ofLicense(license, nil))}.Bytes()
	for _, secret := range []string{"1C285B2D", "ada", "Ada", "James", "VIP"} {
		assert.NotContains(t, string(data), secret)
	}

	f, err := fact.Parse(data)
	require.NoError(t, err)
	c := &Customers{config: CustomersConfig{Features: map[string][]string{license.BenefitID: {"pro"}}}}
	got := c.stateOfLicenseFact(f.License, license.Key.Reveal(), f.At)
	assert.True(t, got.Has("pro"))
	read, ok := (*Entitlements)(got).License()
	require.True(t, ok)
	want := license.clone()
	want.Customer = Customer{ID: benchCustomer, OrganizationID: testOrganization, ExternalID: "usr_1337"}
	assert.Equal(t, want, read)

	c.config.Features = map[string][]string{"32234c6d-03fe-42a8-8a2f-d3d416d0b60a": {"other"}}
	got = c.stateOfLicenseFact(f.License, license.Key.Reveal(), f.At)
	assert.False(t, got.Known(), "each build decides which benefits it accepts")
}
