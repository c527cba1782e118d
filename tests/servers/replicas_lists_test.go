package servers

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
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

// downable is a way to Polar that can be cut.
type downable struct {
	http.RoundTripper
	down atomic.Bool
}

func (d *downable) RoundTrip(r *http.Request) (*http.Response, error) {
	if d.down.Load() {
		return nil, errors.New("connection refused")
	}
	return d.RoundTripper.RoundTrip(r)
}

// openFleet makes replicas that share a store, of an organization that is too big for polartest.
func openFleet(t *testing.T, n int, way http.RoundTripper, shared polargate.Shared) (all []*polargate.Customers) {
	t.Helper()
	for range n {
		customers, err := polargate.NewCustomers(polargate.CustomersConfig{
			AccessToken: fmt.Sprintf("polar_oat_%s_%d", t.Name(), opened.Add(1)), BaseURL: "http://polar.test", HTTPClient: &http.Client{Transport: way},
			Features: map[string][]string{kit.ProBenefit: {"pro"}}, RequestsPerMinute: 300, Shared: shared,
		})
		require.NoError(t, err)
		t.Cleanup(func() { _ = customers.Close() })
		all = append(all, customers)
	}
	synctest.Wait()
	return all
}

func TestOneReplicaReadsTheListsForAllAndWhoeverIsInThemOutlastsARestart(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		o := &bigOrganization{customers: 10_000, grants: 1}
		way := &downable{RoundTripper: o}
		shared := polargate.SharedInMemory()
		all := openFleet(t, 3, way, shared)
		began := time.Now()
		var group sync.WaitGroup
		for _, customers := range all {
			group.Go(func() {
				n, err := customers.Warm(t.Context())
				assert.NoError(t, err)
				assert.Equal(t, 10_000, n)
			})
		}
		group.Wait()
		assert.LessOrEqual(t, time.Since(began), time.Minute)
		pages := o.lists.Load()
		assert.LessOrEqual(t, pages, int64(106))
		served := func(all ...*polargate.Customers) {
			t.Helper()
			for _, customers := range all {
				refused := 0
				for i := range 10_000 {
					e, err := customers.Entitlements(t.Context(), polargate.ExternalID(usr(i)))
					if err != nil || !e.Has("pro") {
						refused++
					}
				}
				assert.Zero(t, refused)
			}
		}
		served(all...)
		late := openFleet(t, 1, way, shared)[0]
		began = time.Now()
		n, err := late.Warm(t.Context())
		require.NoError(t, err)
		assert.Equal(t, 10_000, n)
		assert.Less(t, time.Since(began), time.Second, "the store is warm")
		assert.Zero(t, o.states.Load())
		assert.Equal(t, pages, o.lists.Load())

		for _, customers := range append(all, late) {
			require.NoError(t, customers.Close())
		}
		way.down.Store(true)
		for _, age := range []time.Duration{0, 2 * time.Hour, 48 * time.Hour} {
			time.Sleep(age)
			began = time.Now()
			after := openFleet(t, 1, way, shared)[0]
			served(after)
			assert.Less(t, time.Since(began), 10*time.Second)
			require.NoError(t, after.Close())
		}
	})
}

func TestAnotherReplicaGoesOnReadingWhereTheOneThatDiedStopped(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		o := &bigOrganization{customers: 3_000, grants: 2, meters: 1}
		shared := polargate.SharedInMemory()
		store := &kit.FaultyStore{Shared: shared}
		dies, other := openFleet(t, 1, o, store)[0], openFleet(t, 1, o, shared)[0]
		ctx, kill := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() { _, _ = dies.Warm(ctx); close(ended) }()
		for o.lists.Load() < 45 {
			time.Sleep(10 * time.Millisecond)
		}
		store.SetAway(true) // so that it cannot give up its turn, nor keep it
		kill()
		<-ended
		read := o.lists.Load()
		n, err := other.Warm(t.Context())
		require.NoError(t, err)
		assert.Equal(t, 3_000, n)
		assert.LessOrEqual(t, o.lists.Load()-read, int64(60+30+3*4)-read+6, "only what was left")
		for i := range 3_000 {
			e, err := other.Entitlements(t.Context(), polargate.ExternalID(usr(i)))
			require.NoError(t, err)
			require.Len(t, e.Benefits(), 2)
			require.Len(t, e.Meters(), 1)
		}
		assert.Zero(t, o.states.Load())
		store.SetAway(false)
	})
}

func TestOneReplicaSweepsForAllWhenWebhooksAreSilent(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := kit.NewShop(t)
		s.Add("usr_1")
		all := kit.Fleet(s, 3, polargate.SharedInMemory(), func(c *polargate.CustomersConfig) { c.FreshFor, c.SweepAfter = 24*time.Hour, 2*time.Hour })
		for _, customers := range all {
			s.Has(customers, kit.Paying, true)
			s.Has(customers, "usr_1", true)
			s.Has(customers, "usr_1", true) // out of memory: only what is of use is swept
		}
		s.Polar.RevokeBenefit(kit.Paying, kit.ProBenefit)
		s.Polar.UpdateCustomer("usr_1", func(c *polartest.Customer) { c.Meters = nil })
		s.Polar.RevokeBenefit("usr_1", kit.ProBenefit)
		asked := s.Asked()
		time.Sleep(2*time.Hour + time.Minute)
		lists := s.Asked() - asked
		var walks int64
		for _, customers := range all {
			walks += customers.Stats().Warm.Walks
			s.Has(customers, kit.Paying, false) // who has a meter still
			s.Has(customers, "usr_1", false)    // who is in no list any more
		}
		assert.EqualValues(t, 1, walks)
		assert.LessOrEqual(t, lists, 6)
	})
}

func TestAWebhookToOneReplicaPutsOffTheSweepOfAll(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := kit.NewShop(t)
		all := kit.Fleet(s, 2, polargate.SharedInMemory(), func(c *polargate.CustomersConfig) { c.FreshFor, c.SweepAfter = 24*time.Hour, 2*time.Hour })
		kit.Receiving(s, all[0])
		for i := range 5 {
			time.Sleep(time.Hour)
			for _, customers := range all {
				s.Has(customers, kit.Paying, true)
			}
			s.Add(usr(i))
			kit.Settled(s)
		}
		for _, customers := range all {
			assert.Zero(t, customers.Stats().Warm.Walks)
		}
	})
}
