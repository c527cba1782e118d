package servers

import (
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/polargate/polargate"
	"github.com/polargate/polargate/polartest"
	"github.com/polargate/polargate/tests/internal/kit"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestABenefitThatComesWithALicenseKeyOutlastsARestartWithoutPolar(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := newKeyShop(t, polartest.LicenseKey{})
		shared := polargate.SharedInMemory()
		before := kit.Fleet(s.Shop, 1, shared)[0]
		s.decides(before, 200)
		require.NoError(t, before.Close())
		s.Polar.SetOffline(true)
		time.Sleep(time.Hour)
		s.decides(kit.Fleet(s.Shop, 1, shared)[0], 200)
	})
}

func TestALicenseKeyThatOneReplicaAskedAboutIsKnownToAllAndOutlastsARestart(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := newKeyShop(t, polartest.LicenseKey{})
		store := polargate.SharedInMemory()
		all := kit.Fleet(s.Shop, 20, store)
		s.Polar.Inject(polartest.Fault{Effect: polartest.Delay(time.Second)})
		decide := func(customers *polargate.Customers) (*polargate.Entitlements, int) {
			e, refusal := customers.DecideLicense(t.Context(), s.key.Key, polargate.Feature("desktop"))
			return e, statusOf(e, refusal)
		}
		var group sync.WaitGroup
		for _, customers := range all {
			for range 20 {
				group.Go(func() {
					_, status := decide(customers)
					assert.Equal(t, 200, status)
				})
			}
		}
		group.Wait()
		assert.Equal(t, 1, s.Asked())
		for _, customers := range all {
			require.NoError(t, customers.Close())
		}
		s.Polar.SetOffline(true)
		time.Sleep(time.Hour)
		after := kit.Fleet(s.Shop, 1, store)[0]
		e, status := decide(after)
		require.Equal(t, 200, status)
		license, ok := e.License()
		assert.True(t, ok)
		assert.Equal(t, s.key.ID, license.ID)
		assert.Equal(t, s.key.Key, license.Key.Reveal())
		assert.Equal(t, polargate.KeyGranted, license.Status)
		_, status = statusOnly(after.DecideLicense(t.Context(), "INKWELL-UNHEARD-OF"))
		assert.Equal(t, 503, status)
	})
}

func statusOnly(e *polargate.Entitlements, refusal *polargate.Refusal) (*polargate.Entitlements, int) {
	return e, statusOf(e, refusal)
}

func TestAGrantThatIsRevokedEndsItsLicenseKeyOnEveryReplica(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := newKeyShop(t, polartest.LicenseKey{})
		shared := polargate.SharedInMemory()
		all := kit.Fleet(s.Shop, 3, shared)
		s.Polar.AddEndpoint(polartest.Endpoint{
			Handler: all[0].WebhookHandler(), Secrets: []polartest.Secret{{Text: kit.HookSecret}},
			Events: []string{"customer.state_changed", "benefit_grant.revoked"},
		})
		for _, customers := range all[1:] {
			_, status := statusOnly(customers.DecideLicense(t.Context(), s.key.Key))
			require.Equal(t, 200, status)
		}
		time.Sleep(10 * time.Second)
		s.Polar.RevokeBenefit(keyHolder, desktopBenefit)
		kit.Settled(s.Shop)
		all = append(all, kit.Fleet(s.Shop, 1, shared)...) // and one that has just started
		for i, customers := range all {
			_, status := statusOnly(customers.DecideLicense(t.Context(), s.key.Key))
			assert.Equal(t, 402, status, "replica %d", i)
		}
	})
}

func TestAGrantThatIsRevokedDuringAnOutageEndsItsLicenseKeyOnEveryReplica(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := newKeyShop(t, polartest.LicenseKey{})
		shared := polargate.SharedInMemory()
		all := kit.Fleet(s.Shop, 2, shared)
		s.Polar.AddEndpoint(polartest.Endpoint{
			Handler: all[0].WebhookHandler(), Secrets: []polartest.Secret{{Text: kit.HookSecret}},
			Events: []string{"customer.state_changed", "benefit_grant.revoked"},
		})
		_, status := statusOnly(all[1].DecideLicense(t.Context(), s.key.Key))
		require.Equal(t, 200, status)
		time.Sleep(10 * time.Second)
		s.Polar.RevokeBenefit(keyHolder, desktopBenefit)
		kit.Settled(s.Shop)
		s.Polar.SetOffline(true)
		for i, customers := range append(all, kit.Fleet(s.Shop, 1, shared)...) {
			_, status := statusOnly(customers.DecideLicense(t.Context(), s.key.Key))
			assert.Equal(t, 503, status, "replica %d", i)
		}
	})
}

func TestALicenseKeyThatARestartedReplicaKnowsFromOthersIsAskedAboutInTime(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := newKeyShop(t, polartest.LicenseKey{})
		shared := polargate.SharedInMemory()
		before := kit.Fleet(s.Shop, 1, shared)[0]
		s.decides(before, 200)
		require.NoError(t, before.Close())
		time.Sleep(time.Minute)
		after := kit.Fleet(s.Shop, 1, shared)[0] // what it learns is older than its own clock
		asked := s.Asked()
		s.decides(after, 200)
		assert.Equal(t, asked, s.Asked())
		s.Polar.Update(s.key.ID, func(k *polartest.LicenseKey) { k.Status = "disabled" })
		time.Sleep(5*time.Minute + time.Second)
		s.decides(after, 200) // by what is stale
		synctest.Wait()
		s.decides(after, 402)
	})
}
