package servers

import (
	"fmt"
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

func TestAnOutageInWhichPolarIsSilentHoldsUpAKnownCustomerOnce(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := kit.NewShop(t)
		const other = "usr_other"
		s.Add(other)
		customers := s.Warmed()
		s.Has(customers, other, true)
		time.Sleep(2 * time.Hour)
		s.Polar.Inject(polartest.Fault{Effect: polartest.Hang()})
		at := time.Now()
		s.Has(customers, kit.Paying, true)
		assert.Equal(t, 5*time.Second, time.Since(at), "the first to notice waits")
		at = time.Now()
		s.Has(customers, other, true)
		for range 600 {
			s.Has(customers, kit.Paying, true)
			time.Sleep(time.Second)
		}
		assert.Equal(t, 10*time.Minute, time.Since(at), "nobody else does")
		assert.LessOrEqual(t, customers.Stats().Requests, int64(85), "nor is Polar asked again and again")

		s.Polar.RevokeBenefit(kit.Paying, kit.ProBenefit)
		s.Polar.RevokeBenefit(other, kit.ProBenefit)
		s.Polar.ClearFaults()
		time.Sleep(15 * time.Second)
		s.Has(customers, kit.Paying, true) // and Polar is asked behind that
		time.Sleep(time.Second)
		s.Has(customers, kit.Paying, false)
		s.Has(customers, other, false) // it is long ago that somebody asked about them in vain
	})
}

func TestNewCustomersDoNotWaitForAServerThatHasJustNotAnswered(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := kit.NewShop(t)
		customers := s.Open()
		s.Polar.SetOffline(true)
		for _, external := range []string{"usr_1", "usr_2", "usr_3"} {
			_, err := customers.Entitlements(t.Context(), polargate.ExternalID(external))
			require.ErrorIs(t, err, polargate.ErrUnreachable)
		}
		assert.EqualValues(t, 1, customers.Stats().Requests)
		s.Polar.SetOffline(false)
		time.Sleep(time.Second)
		s.Has(customers, kit.Paying, true)
	})
}

func TestAnIdThatAFirewallBlocksDoesNotAffectOthers(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := kit.NewShop(t)
		customers := s.Open()
		s.Polar.Inject(polartest.Fault{Path: "/usr_select_from/state", Effect: polartest.ProxyPage(403)})
		_, err := customers.Entitlements(t.Context(), polargate.ExternalID("usr_select_from"))
		require.ErrorIs(t, err, polargate.ErrUnreachable)
		s.Has(customers, kit.Paying, true)
	})
}

func TestTwoCustomersWithTheSameTextAsIdAreNotMixedUp(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := kit.NewShop(t)
		one := s.Polar.AddCustomer(polartest.Customer{ExternalID: "usr_one"})
		other := s.Polar.AddCustomer(polartest.Customer{ExternalID: one.ID})
		customers := s.Open()
		s.Polar.Inject(polartest.Fault{Effect: polartest.Delay(time.Second)})
		var group sync.WaitGroup
		for ref, want := range map[polargate.CustomerRef]string{polargate.CustomerID(one.ID): one.ID, polargate.ExternalID(one.ID): other.ID} {
			group.Go(func() {
				e, err := customers.Entitlements(t.Context(), ref)
				if assert.NoError(t, err) {
					assert.Equal(t, want, e.CustomerID())
				}
			})
		}
		synctest.Wait()
		group.Wait()
		assert.EqualValues(t, 2, customers.Stats().Requests)
	})
}

func TestACustomerOutOfGraceDoesNotWaitForAServerThatHasJustNotAnswered(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := kit.NewShop(t)
		customers := s.Warmed(func(c *polargate.CustomersConfig) { c.GracePeriod = time.Hour })
		s.Polar.Inject(polartest.Fault{Effect: polartest.Hang()})
		time.Sleep(2 * time.Hour)
		at := time.Now()
		for range 3 {
			_, err := customers.Entitlements(t.Context(), polargate.ExternalID(kit.Paying))
			require.ErrorIs(t, err, polargate.ErrUnreachable)
		}
		assert.Equal(t, 5*time.Second, time.Since(at), "the first to notice waits, nobody else does")
		s.Polar.ClearFaults()
		time.Sleep(time.Second)
		s.Has(customers, kit.Paying, true)
	})
}

func TestAKeyThatIsKnownButCannotBeCheckedIsAskedAboutOnceASecond(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s, key := sold(t)
		customers := s.Open(func(c *polargate.CustomersConfig) { c.StaleFor = -1 })
		require.Equal(t, 200, keyed(customers, secretKey).Code)
		s.Polar.Revoke(key.ID)
		time.Sleep(6 * time.Minute)
		require.Equal(t, 402, keyed(customers, secretKey).Code)
		time.Sleep(time.Minute)
		asked := s.Asked()
		s.Polar.Inject(polartest.Fault{Effect: polartest.ProxyPage(403)}) // about this key alone, for all one knows
		at := time.Now()
		for range 1000 {
			require.Equal(t, 503, keyed(customers, secretKey).Code)
			time.Sleep(10 * time.Millisecond)
		}
		assert.LessOrEqual(t, s.Asked()-asked, 1+int(time.Since(at).Seconds()))
	})
}

func TestALineThatDripsHoldsUpOneCustomerAndNotAll(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := kit.NewShop(t)
		customers := s.Warmed()
		for i := range 20 {
			s.Add(fmt.Sprint("usr_", i))
			s.Has(customers, fmt.Sprint("usr_", i), true)
		}
		time.Sleep(2 * time.Hour)
		s.Polar.Inject(polartest.Fault{Effect: polartest.SlowDrip(time.Second)})
		s.Has(customers, kit.Paying, true)
		at := time.Now()
		for i := range 20 {
			s.Has(customers, fmt.Sprint("usr_", i), true)
		}
		assert.Zero(t, time.Since(at))
	})
}

func TestACustomerForWhomPolarFailsDoesNotAffectKnownOnes(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := kit.NewShop(t)
		customers := s.Warmed(func(c *polargate.CustomersConfig) { c.FreshFor, c.StaleFor, c.GracePeriod = time.Second, -1, -1 })
		s.Polar.Inject(polartest.Fault{Path: "/usr_bad/state", Effect: polartest.ServerError(500)})
		stop := make(chan struct{})
		var group sync.WaitGroup
		for range 4 {
			time.Sleep(time.Second / 4)
			group.Go(func() {
				for {
					select {
					case <-stop:
						return
					case <-time.After(100 * time.Millisecond):
						_, _ = customers.Entitlements(t.Context(), polargate.ExternalID("usr_bad"))
					}
				}
			})
		}
		for range 600 {
			time.Sleep(100 * time.Millisecond)
			s.Has(customers, kit.Paying, true)
		}
		close(stop)
		group.Wait()
	})
}
