package servers

import (
	"testing"
	"time"

	"github.com/polargate/polargate"
	"github.com/polargate/polargate/polartest"
	"github.com/polargate/polargate/tests/internal/kit"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// received is a shop with an endpoint that leads to its Customers.
func received(t *testing.T, s *kit.Shop, customers *polargate.Customers) polartest.Endpoint {
	t.Helper()
	secret := polartest.Secret{Text: "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"}
	return s.Polar.AddEndpoint(polartest.Endpoint{Handler: customers.WebhookHandler(secret.Text), Secrets: []polartest.Secret{secret}})
}

func TestACancellationTakesEffectAtOnceForBothIds(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := kit.NewShop(t)
		subscribed := s.Polar.Subscribe(kit.Paying, polartest.Subscription{}, polartest.Benefit{BenefitID: kit.TeaBenefit})
		customers := s.Warmed()
		received(t, s, customers)
		customer, _ := s.Polar.Customer(kit.Paying)
		both := []polargate.CustomerRef{polargate.ExternalID(kit.Paying), polargate.CustomerID(customer.ID)}
		check := func(want bool) {
			t.Helper()
			for _, ref := range both {
				e, err := customers.Entitlements(t.Context(), ref)
				require.NoError(t, err)
				assert.Equal(t, want, e.Meets(polargate.Benefit(kit.TeaBenefit)))
				assert.Equal(t, want, e.Subscribed(subscribed.ProductID))
			}
		}
		check(true)
		before := s.Asked()
		time.Sleep(time.Second)
		s.Polar.CancelSubscription(kit.Paying, subscribed.ID)
		require.NoError(t, s.Polar.WaitForDeliveries(t.Context()))
		check(false)
		time.Sleep(time.Second)
		s.Polar.RestoreSubscription(kit.Paying, subscribed.ID)
		require.NoError(t, s.Polar.WaitForDeliveries(t.Context()))
		check(true)
		assert.Equal(t, before, s.Asked(), "all of that came by webhook")
		time.Sleep(time.Second)
		s.Polar.DeleteCustomer(kit.Paying)
		require.NoError(t, s.Polar.WaitForDeliveries(t.Context()))
		check(false)
		e, err := customers.Entitlements(t.Context(), both[0])
		require.NoError(t, err)
		assert.False(t, e.Known())
		assert.LessOrEqual(t, s.Asked(), before+1, "Polar does not say whose external id is free now, and it may be somebody else's already")
	})
}

func TestDeliveriesOutOfOrderAndTwiceEndInTheYoungestState(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := kit.NewShop(t)
		customers := s.Warmed()
		endpoint := received(t, s, customers)
		s.Polar.HoldDeliveries()
		for range 4 {
			time.Sleep(time.Second)
			s.Polar.RevokeBenefit(kit.Paying, kit.ProBenefit)
			time.Sleep(time.Second)
			s.Polar.GrantBenefit(kit.Paying, polartest.Benefit{BenefitID: kit.ProBenefit})
		}
		time.Sleep(time.Second)
		s.Polar.RevokeBenefit(kit.Paying, kit.ProBenefit)
		all := s.Polar.Deliveries()
		require.NotEmpty(t, all)
		for i := len(all) - 1; i >= 0; i-- {
			s.Polar.ReleaseDeliveries(all[i].ID)
			require.NoError(t, s.Polar.WaitForDeliveries(t.Context()))
			s.Has(customers, kit.Paying, false)
		}
		for _, d := range all {
			for _, id := range []string{d.ID, "msg_other_" + d.ID} {
				status, err := s.Polar.Send(endpoint.ID, polartest.Message{ID: id, Body: d.Body})
				require.NoError(t, err)
				assert.Equal(t, 204, status)
				s.Has(customers, kit.Paying, false)
			}
		}
		stats := customers.Stats()
		assert.NotZero(t, stats.Outdated)
		assert.NotZero(t, stats.Repeated)
	})
}

func TestAFetchUnderWayWhenAWebhookArrivesDoesNotOverwriteIt(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := kit.NewShop(t)
		customers := s.Open()
		received(t, s, customers)
		// The true answer of now, which arrives in two seconds.
		s.Polar.Inject(polartest.Fault{Times: 1, Effect: polartest.Delay(2 * time.Second)})
		done := make(chan struct{})
		go func() {
			defer close(done)
			e, err := customers.Entitlements(t.Context(), polargate.ExternalID(kit.Paying))
			assert.NoError(t, err)
			assert.False(t, e.Has("pro"), "who waited is told what is true by then")
		}()
		time.Sleep(time.Second)
		s.Polar.RevokeBenefit(kit.Paying, kit.ProBenefit)
		require.NoError(t, s.Polar.WaitForDeliveries(t.Context()))
		s.Has(customers, kit.Paying, false)
		<-done
		s.Has(customers, kit.Paying, false)
		assert.Equal(t, 1, s.Asked())
	})
}

// A delivery that failed for hours comes with a new signature, and after a restart
// no younger event is remembered: only the answer that was fetched since is.
func TestAnEventFromBeforeTheLastAnswerDoesNotOverwriteIt(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := kit.NewShop(t)
		customers := s.Open()
		received(t, s, customers)
		s.Polar.HoldDeliveries()
		s.Polar.GrantBenefit(kit.Paying, polartest.Benefit{BenefitID: kit.TeaBenefit})
		old := s.Polar.Deliveries()
		time.Sleep(3 * time.Hour)
		s.Polar.RevokeBenefit(kit.Paying, kit.ProBenefit)
		s.Polar.RevokeBenefit(kit.Paying, kit.TeaBenefit)
		s.Has(customers, kit.Paying, false)
		for _, d := range old {
			s.Polar.ReleaseDeliveries(d.ID)
		}
		require.NoError(t, s.Polar.WaitForDeliveries(t.Context()))
		s.Polar.SetOffline(true) // so that only what is remembered counts
		s.Has(customers, kit.Paying, false)
	})
}

// After a restart nothing else is known of that customer.
func TestAnEventThatIsHoursOldIsNotFresh(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := kit.NewShop(t)
		received(t, s, s.Open())
		s.Polar.HoldDeliveries()
		s.Polar.GrantBenefit(kit.Paying, polartest.Benefit{BenefitID: kit.TeaBenefit})
		old := s.Polar.Deliveries()
		time.Sleep(3 * time.Hour)
		s.Polar.RevokeBenefit(kit.Paying, kit.ProBenefit)
		customers := s.Open(func(c *polargate.CustomersConfig) { c.FreshFor = 24 * time.Hour })
		endpoint := received(t, s, customers)
		again := polartest.Message{ID: "msg_again", Body: old[len(old)-1].Body}
		status, err := s.Polar.Send(endpoint.ID, again)
		require.NoError(t, err)
		require.Equal(t, 204, status)
		assert.EqualValues(t, 1, customers.Stats().Events)
		s.Has(customers, kit.Paying, false)
		assert.Equal(t, 1, s.Asked())
	})
}

func TestAnEventThatIsHoursOldStillHelpsInAnOutage(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := kit.NewShop(t)
		received(t, s, s.Open())
		s.Polar.HoldDeliveries()
		s.Polar.GrantBenefit(kit.Paying, polartest.Benefit{BenefitID: kit.TeaBenefit})
		old := s.Polar.Deliveries()
		time.Sleep(3 * time.Hour)
		customers := s.Open()
		_, err := s.Polar.Send(received(t, s, customers).ID, polartest.Message{ID: "msg_again", Body: old[len(old)-1].Body})
		require.NoError(t, err)
		s.Polar.SetOffline(true)
		time.Sleep(69*time.Hour - time.Second)
		s.Has(customers, kit.Paying, true)
		time.Sleep(time.Second)
		_, err = customers.Entitlements(t.Context(), polargate.ExternalID(kit.Paying))
		require.ErrorIs(t, err, polargate.ErrUnreachable, "three days after the event")
	})
}

// behindOneID is a cache that is told of a revocation after Polar's own id of the
// customer was asked about, and before the program's id was.
func behindOneID(t *testing.T, s *kit.Shop) *polargate.Customers {
	t.Helper()
	customers := s.Warmed(func(c *polargate.CustomersConfig) { c.FreshFor = time.Hour })
	received(t, s, customers)
	customer, _ := s.Polar.Customer(kit.Paying)
	time.Sleep(time.Minute)
	s.Polar.HoldDeliveries()
	s.Polar.RevokeBenefit(kit.Paying, kit.ProBenefit)
	time.Sleep(10 * time.Second)
	e, err := customers.Refresh(t.Context(), polargate.CustomerID(customer.ID)) // a page for the staff
	require.NoError(t, err)
	require.False(t, e.Has("pro"))
	s.Polar.ReleaseDeliveries()
	require.NoError(t, s.Polar.WaitForDeliveries(t.Context()))
	return customers
}

func TestAnEventThatOneIdIsAheadOfHasTheOtherAsked(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := kit.NewShop(t)
		customers := behindOneID(t, s)
		assert.EqualValues(t, 1, customers.Stats().Outdated)
		s.Has(customers, kit.Paying, false)
		asked := s.Asked()
		s.Has(customers, kit.Paying, false)
		assert.Equal(t, asked, s.Asked(), "once")
	})
}

func TestAnEventThatOneIdIsAheadOfIsNewsForTheOther(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := kit.NewShop(t)
		customers := behindOneID(t, s)
		s.Polar.SetOffline(true)
		s.Has(customers, kit.Paying, false)
		time.Sleep(48 * time.Hour)
		s.Has(customers, kit.Paying, false)
	})
}

func TestAnEventThatIsOlderThanA404HasPolarAsked(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := kit.NewShop(t)
		customers := s.Open(func(c *polargate.CustomersConfig) { c.FreshFor = time.Hour })
		received(t, s, customers)
		s.Polar.HoldDeliveries()
		s.Polar.GrantBenefit(kit.Paying, polartest.Benefit{BenefitID: kit.TeaBenefit})
		late := s.Polar.Deliveries()
		time.Sleep(30 * time.Second)
		s.Polar.DeleteCustomer(kit.Paying)
		time.Sleep(30 * time.Second)
		s.Has(customers, kit.Paying, false)
		asked := s.Asked()
		for _, d := range late {
			s.Polar.ReleaseDeliveries(d.ID)
		}
		require.NoError(t, s.Polar.WaitForDeliveries(t.Context()))
		s.Polar.SetOffline(true)
		_, err := customers.Entitlements(t.Context(), polargate.ExternalID(kit.Paying))
		require.ErrorIs(t, err, polargate.ErrUnreachable, "the event decides nothing")
		time.Sleep(time.Second)
		s.Polar.SetOffline(false)
		s.Has(customers, kit.Paying, false)
		assert.Equal(t, asked+1, s.Asked())
	})
}

// Polar answers out of a cache of its own for a while.
func TestAnEventThatCorrectsAnAnswerFromPolarsCacheIsNotLost(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := kit.NewShop(t, func(c *polartest.Config) { c.EventuallyConsistent = true })
		customers := s.Warmed(func(c *polargate.CustomersConfig) { c.FreshFor, c.StaleFor = time.Minute, -1 })
		received(t, s, customers)
		s.Polar.HoldDeliveries()
		time.Sleep(time.Minute)
		s.Polar.RevokeBenefit(kit.Paying, kit.ProBenefit)
		time.Sleep(8 * time.Second)
		s.Has(customers, kit.Paying, true)
		time.Sleep(2 * time.Second)
		s.Polar.ReleaseDeliveries()
		require.NoError(t, s.Polar.WaitForDeliveries(t.Context()))
		s.Has(customers, kit.Paying, false)
	})
}

func TestDeletingACustomerDoesNotAffectAnotherWithTheSameExternalId(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := kit.NewShop(t)
		customers := s.Warmed()
		received(t, s, customers)
		s.Polar.HoldDeliveries()
		time.Sleep(time.Second)
		s.Polar.DeleteCustomer(kit.Paying)
		late := s.Polar.Deliveries()
		time.Sleep(time.Second)
		s.Add(kit.Paying)
		for _, d := range s.Polar.Deliveries()[len(late):] {
			s.Polar.ReleaseDeliveries(d.ID)
		}
		require.NoError(t, s.Polar.WaitForDeliveries(t.Context()))
		s.Has(customers, kit.Paying, true)
		for _, d := range late {
			s.Polar.ReleaseDeliveries(d.ID)
		}
		require.NoError(t, s.Polar.WaitForDeliveries(t.Context()))
		s.Has(customers, kit.Paying, true)
	})
}

// Only a deleted customer's id is in its metadata. Of one who lives, metadata are
// the vendor's, and nobody's id.
func TestMetadataOfALiveCustomerNamesNoOtherCustomer(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := kit.NewShop(t)
		customers := s.Warmed()
		received(t, s, customers)
		time.Sleep(time.Second)
		s.Polar.AddCustomer(polartest.Customer{Metadata: map[string]any{"__external_id": kit.Paying}})
		require.NoError(t, s.Polar.WaitForDeliveries(t.Context()))
		s.Has(customers, kit.Paying, true)
	})
}
