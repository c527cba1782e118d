package bench

import (
	"context"
	"fmt"
	"net/http"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/polargate/polargate"
)

// counted is a store that counts what it is asked.
type counted struct {
	polargate.Shared
	calls, lookups, reads, writes, hints atomic.Int64
}

func (c *counted) Lookup(ctx context.Context, q polargate.SharedLookup) (polargate.SharedAnswer, error) {
	c.calls.Add(1)
	c.lookups.Add(1)
	return c.Shared.Lookup(ctx, q)
}

func (c *counted) Get(ctx context.Context, keys ...string) ([]polargate.SharedRecord, error) {
	c.calls.Add(1)
	c.reads.Add(int64(len(keys)))
	return c.Shared.Get(ctx, keys...)
}

func (c *counted) Put(ctx context.Context, holder string, records ...polargate.SharedRecord) ([]polargate.SharedRecord, error) {
	c.calls.Add(1)
	c.writes.Add(int64(len(records)))
	return c.Shared.Put(ctx, holder, records...)
}

func (c *counted) Take(ctx context.Context, b polargate.SharedBudget) (polargate.SharedTurn, error) {
	c.calls.Add(1)
	return c.Shared.Take(ctx, b)
}

func (c *counted) Beat(ctx context.Context, replica string, ttl time.Duration) (int, error) {
	c.calls.Add(1)
	return c.Shared.Beat(ctx, replica, ttl)
}

func (c *counted) Swap(ctx context.Context, key, version string, data []byte, ttl time.Duration) (polargate.SharedValue, bool, error) {
	c.calls.Add(1)
	return c.Shared.Swap(ctx, key, version, data, ttl)
}

func (c *counted) Load(ctx context.Context, key string) (polargate.SharedValue, error) {
	c.calls.Add(1)
	return c.Shared.Load(ctx, key)
}

func (c *counted) Listen(ctx context.Context, heard func(keys []string, gap bool)) error {
	return c.Shared.Listen(ctx, func(keys []string, gap bool) {
		c.hints.Add(int64(len(keys)))
		heard(keys, gap)
	})
}

func (c *counted) reset() {
	for _, n := range []*atomic.Int64{&c.calls, &c.lookups, &c.reads, &c.writes, &c.hints} {
		n.Store(0)
	}
}

// TestFleet counts what replicas that share a store ask the store and Polar, from one to a
// thousand: while they are idle, when customers come to all of them, and for each change.
// docs/scaling.md goes on from there on paper.
func TestFleet(t *testing.T) {
	sizes := []int{1, 10, 100}
	if *whole {
		sizes = append(sizes, 1000)
	}
	const people, changes = 50, 20
	for _, size := range sizes {
		synctest.Test(t, func(t *testing.T) {
			o := &organizationOf{customers: people, grants: 1}
			store := &counted{Shared: polargate.SharedInMemory()}
			var replicas []*polargate.Customers
			for range size {
				replicas = append(replicas, manyCustomers(t, func(c *polargate.CustomersConfig) {
					c.HTTPClient, c.RequestsPerMinute = &http.Client{Transport: o}, 300
					c.Shared, c.OrganizationID, c.Secret = store, organization, "a secret of a fleet that only a benchmark has"
					c.Features = map[string][]string{benefit: unlocked, granted[1]: {"another"}}
					c.FreshFor, c.CacheSize = 24*time.Hour, people
				}))
				time.Sleep(time.Second) // they are started one after the other
			}
			time.Sleep(time.Minute)
			synctest.Wait()

			store.reset()
			time.Sleep(time.Hour)
			idle := store.calls.Load()

			store.reset()
			asked := o.requests.Load()
			for i := range people {
				for _, r := range replicas {
					if _, err := r.Entitlements(t.Context(), polargate.ExternalID(fmt.Sprintf("usr_%d", i))); err != nil {
						t.Fatal(err)
					}
				}
			}
			synctest.Wait()
			asked = o.requests.Load() - asked
			lookups := store.lookups.Load()
			if asked != people {
				t.Errorf("%d replicas asked Polar %d times about %d customers", size, asked, people)
			}

			store.reset()
			handler := replicas[0].WebhookHandler(hookSecret)
			for i := range changes {
				deliver(t, handler, size*1000+i, fmt.Appendf(nil, `{"id":"8b4a91e8-8712-4bc8-9e43-%012d","external_id":"usr_%d","organization_id":%q,"deleted_at":null,"active_subscriptions":[],"granted_benefits":[{"benefit_id":%q,"benefit_type":"custom"}],"active_meters":[]}`, i, i, organization, granted[1]))
				time.Sleep(time.Second)
			}
			synctest.Wait()
			for i := range changes {
				e, err := replicas[size-1].Entitlements(t.Context(), polargate.ExternalID(fmt.Sprintf("usr_%d", i)))
				if err != nil || !e.Has("another") {
					t.Errorf("%d replicas: the change did not reach the last one", size)
				}
			}
			per := func(n int64, of int) string { return fmt.Sprintf("%.1f", float64(n)/float64(of)) }
			tell("fleet", fmt.Sprint(size),
				per(idle, size*60), per(lookups, size*people), per(asked, people),
				per(store.writes.Load(), changes), per(store.hints.Load(), changes), per(store.reads.Load(), changes))
			t.Logf("%d replicas: idle %s calls a minute each; a customer on all: %s look-ups each, %s questions to Polar; a change: %s writes, %s hints, %s reads",
				size, per(idle, size*60), per(lookups, size*people), per(asked, people), per(store.writes.Load(), changes), per(store.hints.Load(), changes), per(store.reads.Load(), changes))
			for _, r := range replicas {
				_ = r.Close()
			}
		})
	}
}
