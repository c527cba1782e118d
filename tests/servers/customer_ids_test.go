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

// polarID is Polar's id of a customer of the shop.
func polarID(t *testing.T, s *kit.Shop, external string) polargate.CustomerRef {
	t.Helper()
	customer, ok := s.Polar.Customer(external)
	require.True(t, ok)
	return polargate.CustomerID(customer.ID)
}

// rename gives a customer another external id at Polar.
func rename(t *testing.T, s *kit.Shop, from, to string) {
	t.Helper()
	require.True(t, s.Polar.UpdateCustomer(from, func(c *polartest.Customer) { c.ExternalID = to }))
}

// known asserts whether a customer is known, and returns their Entitlements.
func known(t *testing.T, customers *polargate.Customers, ref polargate.CustomerRef, want bool) *polargate.Entitlements {
	t.Helper()
	e, err := customers.Entitlements(t.Context(), ref)
	require.NoError(t, err)
	assert.Equal(t, want, e.Known(), "%v", ref)
	return e
}

func TestACustomerIsAskedAboutOnceWhicheverIdNamesThem(t *testing.T) {
	for name, first := range map[string]bool{"the program's first": true, "Polar's first": false} {
		t.Run(name, func(t *testing.T) {
			kit.Bubbled(t, func(t *testing.T) {
				s := kit.NewShop(t)
				customers := s.Open()
				refs := []polargate.CustomerRef{polarID(t, s, kit.Paying), polargate.ExternalID(kit.Paying)}
				if first {
					refs[0], refs[1] = refs[1], refs[0]
				}
				for _, ref := range refs {
					assert.True(t, known(t, customers, ref, true).Has("pro"))
				}
				assert.Equal(t, 1, s.Asked())
				assert.Equal(t, 1, customers.Stats().Cached)
			})
		})
	}
}

func TestABalanceIsOneWhicheverIdSpends(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := kit.NewShop(t)
		customers := s.Open()
		refs := []polargate.CustomerRef{polargate.ExternalID(kit.Paying), polarID(t, s, kit.Paying)}
		for i, left := range []float64{40, 10} {
			_, ok, err := customers.Spend(t.Context(), refs[i], kit.CallsMeter, []float64{60, 30}[i])
			require.NoError(t, err)
			require.True(t, ok)
			for _, ref := range refs {
				m, _ := known(t, customers, ref, true).Meter(kit.CallsMeter)
				assert.InDelta(t, left, m.Balance, 0)
			}
		}
		_, ok, err := customers.Spend(t.Context(), refs[0], kit.CallsMeter, 11)
		require.NoError(t, err)
		assert.False(t, ok)
	})
}

func TestAnExternalIdThatMovedIsItsNewCustomers(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := kit.NewShop(t)
		customers := s.Warmed()
		before := polarID(t, s, kit.Paying)
		s.Polar.AddCustomer(polartest.Customer{ExternalID: "usr_heir", Benefits: []polartest.Benefit{{BenefitID: kit.TeaBenefit}}})
		heir := polarID(t, s, "usr_heir")
		known(t, customers, heir, true)
		rename(t, s, kit.Paying, "usr_former")
		rename(t, s, "usr_heir", kit.Paying)
		e, err := customers.Refresh(t.Context(), polargate.ExternalID(kit.Paying))
		require.NoError(t, err)
		for _, e := range []*polargate.Entitlements{e, known(t, customers, polargate.ExternalID(kit.Paying), true), known(t, customers, heir, true)} {
			assert.False(t, e.Has("pro"))
			assert.True(t, e.Meets(polargate.Benefit(kit.TeaBenefit)))
		}
		assert.True(t, known(t, customers, before, true).Has("pro"), "by Polar's id the former one is who they were")
		_, err = customers.Refresh(t.Context(), before)
		require.NoError(t, err)
		asked := s.Asked()
		assert.True(t, known(t, customers, polargate.ExternalID("usr_former"), true).Has("pro"))
		assert.False(t, known(t, customers, polargate.ExternalID(kit.Paying), true).Has("pro"), "and has not taken the id back")
		assert.Equal(t, asked, s.Asked())
	})
}

func TestACustomerWhoseExternalIdIsGoneIsStillFoundByPolarsId(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := kit.NewShop(t)
		customers := s.Warmed()
		id := polarID(t, s, kit.Paying)
		rename(t, s, kit.Paying, "usr_new")
		_, err := customers.Refresh(t.Context(), polargate.ExternalID(kit.Paying))
		require.NoError(t, err)
		known(t, customers, polargate.ExternalID(kit.Paying), false)
		assert.True(t, known(t, customers, id, true).Has("pro"), "from memory")
		asked := s.Asked()
		known(t, customers, polargate.ExternalID(kit.Paying), false)
		assert.Equal(t, asked, s.Asked())
		assert.Equal(t, 1, customers.Stats().CachedUnknown)
	})
}

func TestACustomerWhomPolarHasNoMoreIsUnknownByEachId(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := kit.NewShop(t)
		customers := s.Warmed()
		id := polarID(t, s, kit.Paying)
		s.Polar.DeleteCustomer(kit.Paying)
		_, err := customers.Refresh(t.Context(), id)
		require.NoError(t, err)
		known(t, customers, id, false)
		known(t, customers, polargate.ExternalID(kit.Paying), false)
		time.Sleep(time.Minute)
		s.Add(kit.Paying)
		s.Has(customers, kit.Paying, true)
		known(t, customers, id, false)
	})
}

func TestACustomerWhoIsFoundByOneIdIsNoLongerUnknownByTheOther(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := kit.NewShop(t)
		customers := s.Open(func(c *polargate.CustomersConfig) { c.UnknownFor = time.Hour })
		for range 20 {
			known(t, customers, polargate.ExternalID("usr_late"), false)
			time.Sleep(time.Minute)
		}
		s.Add("usr_late")
		known(t, customers, polarID(t, s, "usr_late"), true)
		asked := s.Asked()
		s.Has(customers, "usr_late", true)
		assert.Equal(t, asked, s.Asked())
		assert.Zero(t, customers.Stats().CachedUnknown)
	})
}

func TestAnEventWithANewExternalIdEndsTheOldOne(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := kit.NewShop(t)
		customers := s.Warmed()
		received(t, s, customers)
		rename(t, s, kit.Paying, "usr_new")
		s.Polar.GrantBenefit("usr_new", polartest.Benefit{BenefitID: kit.TeaBenefit})
		require.NoError(t, s.Polar.WaitForDeliveries(t.Context()))
		asked := s.Asked()
		s.Has(customers, "usr_new", true)
		assert.Equal(t, asked, s.Asked())
		known(t, customers, polargate.ExternalID(kit.Paying), false)
		assert.Equal(t, asked+1, s.Asked())
		assert.Equal(t, 1, customers.Stats().Cached)
	})
}

func TestAnEventAboutADeletedCustomerLeavesTheExternalIdToItsNewOne(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := kit.NewShop(t)
		customers := s.Warmed()
		old := polarID(t, s, kit.Paying)
		received(t, s, customers)
		s.Polar.HoldDeliveries()
		s.Polar.DeleteCustomer(kit.Paying)
		s.Add(kit.Paying)
		time.Sleep(10 * time.Minute)
		_, err := customers.Refresh(t.Context(), polargate.ExternalID(kit.Paying))
		require.NoError(t, err)
		s.Polar.ReleaseDeliveries()
		require.NoError(t, s.Polar.WaitForDeliveries(t.Context()))
		s.Has(customers, kit.Paying, true)
		known(t, customers, old, false)
	})
}
