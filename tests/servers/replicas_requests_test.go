package servers

import (
	"context"
	"fmt"
	"strings"
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

func TestAllReplicasKeepToOneBudgetOfRequests(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := kit.NewShop(t)
		for i := range 300 {
			s.Add(fmt.Sprintf("usr_%d", i))
		}
		all := kit.Fleet(s, 5, polargate.SharedInMemory(), func(c *polargate.CustomersConfig) { c.RequestsPerMinute = 60 })
		for minute := range 3 {
			var group sync.WaitGroup
			for i := range 100 {
				group.Go(func() {
					_, err := all[i%5].Entitlements(t.Context(), polargate.ExternalID(fmt.Sprintf("usr_%d", 100*minute+i)))
					if err != nil {
						assert.ErrorIs(t, err, polargate.ErrRateLimited)
					}
				})
			}
			group.Wait()
			before := s.Asked()
			assert.LessOrEqual(t, before, 60*(minute+1))
			time.Sleep(62 * time.Second)
		}
		assert.Greater(t, s.Asked(), 60)
		for _, customers := range all {
			assert.Zero(t, customers.Stats().Failures, "what was not asked is no failure of Polar's")
		}
	})
}

func TestAPauseThatPolarAsksOneReplicaForIsKeptByAll(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := kit.NewShop(t)
		s.Add("usr_2")
		all := kit.Fleet(s, 2, polargate.SharedInMemory())
		s.Polar.Inject(polartest.Fault{Effect: polartest.RateLimited("30"), Times: 1})
		_, err := all[0].Entitlements(t.Context(), polargate.ExternalID(kit.Paying))
		require.ErrorIs(t, err, polargate.ErrRateLimited)
		synctest.Wait()
		asked := s.Asked()
		_, err = all[1].Entitlements(t.Context(), polargate.ExternalID("usr_2"))
		require.ErrorIs(t, err, polargate.ErrRateLimited)
		assert.Equal(t, asked, s.Asked())
		assert.Zero(t, all[1].Stats().Failures)
		time.Sleep(31 * time.Second)
		s.Has(all[1], "usr_2", true)
	})
}

func TestRequestsOfEveryKindCountInTheCommonBudget(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := newKeyShop(t, polartest.LicenseKey{})
		for i := range 10 {
			s.Add(usr(i))
			s.grant(usr(i), polartest.LicenseKey{BenefitID: desktopBenefit})
		}
		all := kit.Fleet(s.Shop, 3, polargate.SharedInMemory(), func(c *polargate.CustomersConfig) {
			c.RequestsPerMinute, c.FreshFor, c.StaleFor = 60, time.Millisecond, -1
		})
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute-time.Second)
		defer cancel()
		var group sync.WaitGroup
		for r, customers := range all {
			group.Go(func() {
				for ctx.Err() == nil {
					_, _ = customers.Warm(ctx)
					time.Sleep(100 * time.Millisecond)
				}
			})
			group.Go(func() {
				for i := 0; ctx.Err() == nil; i++ {
					_, _ = customers.DecideLicense(ctx, s.key.Key)
					_, _ = customers.Decide(ctx, polargate.ExternalID(usr((r+i)%10)), polargate.Feature("desktop"))
					time.Sleep(3 * time.Second)
				}
			})
		}
		group.Wait()
		assert.LessOrEqual(t, s.Asked(), 60)
		assert.Greater(t, s.Asked(), 40)
		kinds := map[string]int{}
		for _, r := range s.Polar.Requests() {
			for _, kind := range []string{"/state", "/v1/license-keys/", "/validate", "/v1/benefit-grants/"} {
				if strings.Contains(r.Path, kind) {
					kinds[kind]++
				}
			}
		}
		assert.Len(t, kinds, 4, "%v", kinds)
	})
}

func TestACrowdThatComesAfterADeployIsNotHeldUpByTheLimitOfOneReplica(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := kit.NewShop(t)
		s.Polar.Inject(polartest.Fault{Effect: polartest.Delay(time.Second)})
		const many = 140 // unseen customers leave half of 300
		for i := range many {
			s.Add(fmt.Sprintf("usr_%d", i))
		}
		customers := kit.Fleet(s, 1, polargate.SharedInMemory())[0]
		at := time.Now()
		var group sync.WaitGroup
		for i := range many {
			group.Go(func() { s.Has(customers, fmt.Sprintf("usr_%d", i), true) })
		}
		group.Wait()
		assert.Equal(t, many, s.Asked())
		assert.LessOrEqual(t, time.Since(at), 2*time.Second)
	})
}

func TestAFloodOfUnseenCustomersWastesNoRequests(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := kit.NewShop(t)
		all := kit.Fleet(s, 5, polargate.SharedInMemory(), func(c *polargate.CustomersConfig) { c.RequestsPerMinute = 60 })
		s.Has(all[0], kit.Paying, true)
		var group sync.WaitGroup
		for i := range 200 {
			group.Go(func() {
				_, _ = all[i%5].Entitlements(t.Context(), polargate.ExternalID(fmt.Sprintf("usr_%d", i)))
			})
		}
		group.Wait()
		assert.Equal(t, 30, s.Asked(), "half of them")
		for i := range 30 {
			time.Sleep(time.Second)
			_, err := all[i%5].Refresh(t.Context(), polargate.ExternalID(kit.Paying))
			require.NoError(t, err)
		}
		assert.Equal(t, 60, s.Asked(), "and the other half is there for who was seen before")
	})
}

func TestWhileOneReplicaTurnsCustomersAwayNoOtherRefreshesWhatItCanServe(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := kit.NewShop(t)
		all := kit.Fleet(s, 2, polargate.SharedInMemory(), func(c *polargate.CustomersConfig) { c.RequestsPerMinute = 60 })
		for i := range 10 {
			s.Add(fmt.Sprintf("usr_%d", i))
			s.Has(all[1], fmt.Sprintf("usr_%d", i), true)
		}
		time.Sleep(6 * time.Minute) // they are stale now
		for i := range 40 {
			_, _ = all[0].Entitlements(t.Context(), polargate.ExternalID(fmt.Sprintf("new_%d", i)))
		}
		synctest.Wait()
		asked := s.Asked()
		for i := range 10 {
			s.Has(all[1], fmt.Sprintf("usr_%d", i), true)
		}
		synctest.Wait()
		assert.Equal(t, asked, s.Asked())
		time.Sleep(11 * time.Second)
		s.Has(all[1], "usr_1", true)
		synctest.Wait()
		assert.Equal(t, asked+1, s.Asked(), "but afterwards")
	})
}

func TestAReplicaThatMeetsAPauseSaysForHowLong(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := kit.NewShop(t)
		all := kit.Fleet(s, 2, polargate.SharedInMemory())
		s.Polar.Inject(polartest.Fault{Effect: polartest.RateLimited("30"), Times: 1})
		_, err := all[0].Entitlements(t.Context(), polargate.ExternalID(kit.Paying))
		require.ErrorIs(t, err, polargate.ErrRateLimited)
		synctest.Wait()
		_, err = all[1].Entitlements(t.Context(), polargate.ExternalID("usr_2"))
		require.ErrorIs(t, err, polargate.ErrRateLimited)
		assert.InDelta(t, 30, all[1].Stats().Pause.Seconds(), 1)
	})
}

func TestMadeUpLicenseKeysLeaveRequestsToCustomers(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := kit.NewShop(t)
		all := kit.Fleet(s, 3, polargate.SharedInMemory(), func(c *polargate.CustomersConfig) { c.RequestsPerMinute = 60 })
		s.Has(all[0], kit.Paying, true)
		for i := range 600 {
			_, _ = all[i%3].DecideLicense(t.Context(), fmt.Sprintf("INKWELL-%08d", i))
		}
		assert.LessOrEqual(t, s.Asked(), 31)
		for i := range 29 {
			time.Sleep(time.Second)
			_, err := all[i%3].Refresh(t.Context(), polargate.ExternalID(kit.Paying))
			require.NoError(t, err)
		}
	})
}
