package servers

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
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

const hookSecret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"

// replica is one of several servers that share what they know. It has a token of its own,
// since replicas of one process and token would share their budget anyway.
func replica(s *kit.Shop, shared polargate.Shared, change ...func(*polargate.CustomersConfig)) *polargate.Customers {
	s.T.Helper()
	return s.Open(append([]func(*polargate.CustomersConfig){func(c *polargate.CustomersConfig) {
		c.Shared, c.AccessToken, c.WebhookSecrets = shared, s.Polar.AddToken(polartest.Token{}), []string{hookSecret}
	}}, change...)...)
}

func fleet(s *kit.Shop, n int, shared polargate.Shared, change ...func(*polargate.CustomersConfig)) (all []*polargate.Customers) {
	s.T.Helper()
	for range n {
		all = append(all, replica(s, shared, change...))
	}
	synctest.Wait()
	return all
}

// receiving has webhooks come to one of the replicas.
func receiving(s *kit.Shop, customers *polargate.Customers) {
	s.Polar.AddEndpoint(polartest.Endpoint{Handler: customers.WebhookHandler(), Secrets: []polartest.Secret{{Text: hookSecret}}})
}

// settled waits until all webhooks are delivered, and what they said is known.
func settled(s *kit.Shop) {
	s.T.Helper()
	require.NoError(s.T, s.Polar.WaitForDeliveries(s.T.Context()))
	time.Sleep(50 * time.Millisecond)
	synctest.Wait()
}

// faultyStore is a Shared that can be away, and can lose hints.
type faultyStore struct {
	polargate.Shared
	away, deaf atomic.Bool
	forgetful  atomic.Bool  // what is put is acknowledged and lost
	slow       atomic.Int64 // how long reading takes, as a time.Duration
	mu         sync.Mutex
	cut        context.CancelFunc // ends listening
	gap        chan struct{}      // closed at the next gap
}

var errAway = errors.New("connection refused")

func (f *faultyStore) setAway(away bool) {
	f.away.Store(away)
	if away {
		f.reconnect()
	}
}

// reconnect ends listening once.
func (f *faultyStore) reconnect() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.cut != nil {
		f.cut()
	}
}

func (f *faultyStore) Lookup(ctx context.Context, q polargate.SharedLookup) (polargate.SharedAnswer, error) {
	if f.away.Load() {
		return polargate.SharedAnswer{}, errAway
	}
	return f.Shared.Lookup(ctx, q)
}

func (f *faultyStore) Get(ctx context.Context, keys ...string) ([]polargate.SharedRecord, error) {
	if f.away.Load() {
		return nil, errAway
	}
	select {
	case <-time.After(time.Duration(f.slow.Load())):
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	return f.Shared.Get(ctx, keys...)
}

func (f *faultyStore) Put(ctx context.Context, holder string, records ...polargate.SharedRecord) ([]polargate.SharedRecord, error) {
	if f.away.Load() {
		return nil, errAway
	}
	if f.forgetful.Load() {
		return nil, nil
	}
	return f.Shared.Put(ctx, holder, records...)
}

func (f *faultyStore) Take(ctx context.Context, b polargate.SharedBudget) (polargate.SharedTurn, error) {
	if f.away.Load() {
		return polargate.SharedTurn{}, errAway
	}
	return f.Shared.Take(ctx, b)
}

func (f *faultyStore) Beat(ctx context.Context, replica string, ttl time.Duration) (int, error) {
	if f.away.Load() {
		return 0, errAway
	}
	return f.Shared.Beat(ctx, replica, ttl)
}

func (f *faultyStore) Swap(ctx context.Context, key, version string, data []byte, ttl time.Duration) (polargate.SharedValue, bool, error) {
	if f.away.Load() {
		return polargate.SharedValue{}, false, errAway
	}
	return f.Shared.Swap(ctx, key, version, data, ttl)
}

func (f *faultyStore) Load(ctx context.Context, key string) (polargate.SharedValue, error) {
	if f.away.Load() {
		return polargate.SharedValue{}, errAway
	}
	return f.Shared.Load(ctx, key)
}

func (f *faultyStore) Listen(ctx context.Context, heard func([]string, bool)) error {
	if f.away.Load() {
		return errAway
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	f.mu.Lock()
	f.cut = cancel
	f.mu.Unlock()
	return f.Shared.Listen(ctx, func(keys []string, gap bool) {
		if f.deaf.Load() {
			return
		}
		heard(keys, gap)
		f.mu.Lock()
		defer f.mu.Unlock()
		if gap && f.gap != nil {
			close(f.gap)
			f.gap = nil
		}
	})
}

func TestOneReplicaAsksAboutAColdCustomerAndAllAreTold(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := kit.NewShop(t)
		s.Polar.Inject(polartest.Fault{Effect: polartest.Delay(time.Second)})
		all := fleet(s, 20, polargate.SharedInMemory())
		var group sync.WaitGroup
		for _, customers := range all {
			for range 20 {
				group.Go(func() { s.Has(customers, kit.Paying, true) })
			}
		}
		group.Wait()
		assert.Equal(t, 1, s.Asked())
		for _, customers := range all {
			s.Has(customers, kit.Paying, true)
		}
		assert.Equal(t, 1, s.Asked())
	})
}

func TestAReplicaThatDiesWhileItAsksKeepsTheOthersWaitingForABoundedTime(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := kit.NewShop(t)
		all := fleet(s, 2, polargate.SharedInMemory())
		s.Polar.Inject(polartest.Fault{Effect: polartest.Hang(), Times: 1})
		go func() { _, _ = all[0].Entitlements(t.Context(), polargate.ExternalID(kit.Paying)) }()
		time.Sleep(time.Millisecond)
		at := time.Now()
		_, err := all[1].Entitlements(t.Context(), polargate.ExternalID(kit.Paying))
		if err != nil {
			time.Sleep(time.Second)
			s.Has(all[1], kit.Paying, true)
		}
		assert.LessOrEqual(t, time.Since(at), 12*time.Second)
	})
}

func TestAWebhookToOneReplicaIsKnownToAll(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := kit.NewShop(t)
		all := fleet(s, 3, polargate.SharedInMemory())
		receiving(s, all[0])
		for _, customers := range all {
			s.Has(customers, kit.Paying, true)
		}
		asked := s.Asked()
		s.Polar.RevokeBenefit(kit.Paying, kit.ProBenefit)
		settled(s)
		for _, customers := range all {
			s.Has(customers, kit.Paying, false)
		}
		s.Polar.GrantBenefit(kit.Paying, polartest.Benefit{BenefitID: kit.ProBenefit})
		settled(s)
		for _, customers := range all {
			s.Has(customers, kit.Paying, true)
		}
		assert.Equal(t, asked, s.Asked(), "and Polar is not asked for it")
	})
}

func TestAPurchaseThatOneReplicaHearsOfEndsTheWaitOnAnother(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := kit.NewShop(t)
		all := fleet(s, 2, polargate.SharedInMemory())
		receiving(s, all[0])
		s.Polar.RevokeBenefit(kit.Paying, kit.ProBenefit)
		settled(s)
		done := make(chan time.Duration)
		go func() {
			at := time.Now()
			_, err := all[1].Await(t.Context(), polargate.ExternalID(kit.Paying), polargate.Feature("pro"))
			assert.NoError(t, err)
			done <- time.Since(at)
		}()
		time.Sleep(4500 * time.Millisecond)
		s.Polar.GrantBenefit(kit.Paying, polartest.Benefit{BenefitID: kit.ProBenefit})
		assert.Less(t, <-done, 4800*time.Millisecond)
	})
}

func TestAfterARestartWithoutPolarWhoWasKnownIsServedForTheRestOfGrace(t *testing.T) {
	t.Parallel()
	for name, open := range map[string]func(t *testing.T) func() polargate.Shared{
		"in memory": func(*testing.T) func() polargate.Shared {
			shared := polargate.SharedInMemory()
			return func() polargate.Shared { return shared }
		},
		"in a file": func(t *testing.T) func() polargate.Shared {
			t.Helper()
			path := filepath.Join(t.TempDir(), "customers.state")
			return func() polargate.Shared { return polargate.SharedFile(path) }
		},
	} {
		t.Run(name, func(t *testing.T) {
			shared := open(t)
			kit.Bubbled(t, func(t *testing.T) {
				s := kit.NewShop(t)
				many := 50
				for i := range many {
					s.Add(fmt.Sprintf("usr_%d", i))
				}
				before := fleet(s, 1, shared(), func(c *polargate.CustomersConfig) { c.RequestsPerMinute = 10_000 })[0]
				for i := range many {
					s.Has(before, fmt.Sprintf("usr_%d", i), true)
				}
				customer, _ := s.Polar.Customer("usr_0")
				require.NoError(t, before.Close())
				s.Polar.SetOffline(true)
				for _, age := range []time.Duration{0, 30 * time.Minute, 24 * time.Hour, 47 * time.Hour} {
					time.Sleep(age)
					after := fleet(s, 1, shared())[0]
					for i := range many {
						s.Has(after, fmt.Sprintf("usr_%d", i), true)
					}
					e, err := after.Entitlements(t.Context(), polargate.CustomerID(customer.ID))
					require.NoError(t, err)
					assert.True(t, e.Has("pro"))
					_, err = after.Entitlements(t.Context(), polargate.ExternalID("usr_new"))
					require.ErrorIs(t, err, polargate.ErrUnreachable)
					require.NoError(t, after.Close())
				}
				time.Sleep(2 * time.Hour)
				_, err := fleet(s, 1, shared())[0].Entitlements(t.Context(), polargate.ExternalID("usr_0"))
				require.ErrorIs(t, err, polargate.ErrUnreachable, "three days after Polar said so")
			})
		})
	}
}

func TestWhatIsYoungerInMemoryIsNotReplacedByAnOlderRecord(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := kit.NewShop(t)
		store := &faultyStore{Shared: polargate.SharedInMemory()}
		customers := fleet(s, 1, store)[0]
		s.Has(customers, kit.Paying, true)
		time.Sleep(time.Minute)
		store.forgetful.Store(true)
		s.Polar.RevokeBenefit(kit.Paying, kit.ProBenefit)
		_, err := customers.Refresh(t.Context(), polargate.ExternalID(kit.Paying))
		require.NoError(t, err)
		s.Has(customers, kit.Paying, false)
		s.Polar.SetOffline(true)
		store.reconnect()
		time.Sleep(5 * time.Second)
		s.Has(customers, kit.Paying, false)
	})
}

func TestWhatWasLearnedWhileTheStoreWasAwayIsSharedWhenItIsBack(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := kit.NewShop(t)
		store := &faultyStore{Shared: polargate.SharedInMemory()}
		customers := fleet(s, 1, store)[0]
		s.Has(customers, kit.Paying, true)
		time.Sleep(time.Minute)
		store.setAway(true)
		s.Polar.RevokeBenefit(kit.Paying, kit.ProBenefit)
		_, err := customers.Refresh(t.Context(), polargate.ExternalID(kit.Paying))
		require.NoError(t, err)
		store.setAway(false)
		s.Polar.SetOffline(true)
		time.Sleep(10 * time.Second)
		s.Has(customers, kit.Paying, false)
		s.Has(fleet(s, 1, store)[0], kit.Paying, false)
	})
}

func TestAfterAGapNothingInMemoryIsTrustedBeforeItIsChecked(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := kit.NewShop(t)
		shared := polargate.SharedInMemory()
		store := &faultyStore{Shared: shared}
		customers, other := fleet(s, 1, store)[0], fleet(s, 1, shared)[0]
		receiving(s, other)
		s.Has(customers, kit.Paying, true)
		store.deaf.Store(true)
		s.Polar.RevokeBenefit(kit.Paying, kit.ProBenefit)
		settled(s)
		s.Has(customers, kit.Paying, true)
		asked := s.Asked()
		store.deaf.Store(false)
		store.slow.Store(int64(100 * time.Millisecond))
		gap := make(chan struct{})
		store.gap = gap
		store.reconnect()
		<-gap
		s.Has(customers, kit.Paying, false)
		assert.Equal(t, asked, s.Asked(), "the store is asked, and not Polar")
		time.Sleep(time.Second)
		before := customers.Stats().Fresh
		known(t, customers, polargate.ExternalID(kit.Paying), true)
		assert.Equal(t, before+1, customers.Stats().Fresh, "and trusted again")
	})
}

func TestAStoreThatIsAwayForHalfAMinuteChangesNothingAndIsMergedAfterwards(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := kit.NewShop(t)
		shared := polargate.SharedInMemory()
		stores := []*faultyStore{{Shared: shared}, {Shared: shared}}
		var all []*polargate.Customers
		for _, store := range stores {
			all = append(all, fleet(s, 1, store)...)
		}
		receiving(s, all[0])
		for _, customers := range all {
			s.Has(customers, kit.Paying, true)
		}
		for _, store := range stores {
			store.setAway(true)
		}
		s.Add("usr_new")
		at := time.Now()
		s.Has(all[1], "usr_new", true)
		assert.LessOrEqual(t, time.Since(at), time.Second, "nobody waits for the store")
		s.Polar.RevokeBenefit(kit.Paying, kit.ProBenefit)
		settled(s)
		s.Has(all[0], kit.Paying, false)
		assert.False(t, all[0].Stats().Shared.Away.IsZero())
		time.Sleep(30 * time.Second)
		for _, store := range stores {
			store.setAway(false)
		}
		time.Sleep(5 * time.Second)
		synctest.Wait()
		s.Polar.SetOffline(true) // so that only what is shared counts
		s.Has(all[1], kit.Paying, false)
		assert.True(t, all[0].Stats().Shared.Away.IsZero())
		assert.Zero(t, all[0].Stats().Shared.Waiting)
	})
}

func TestAllReplicasKeepToOneBudgetOfRequests(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := kit.NewShop(t)
		for i := range 300 {
			s.Add(fmt.Sprintf("usr_%d", i))
		}
		all := fleet(s, 5, polargate.SharedInMemory(), func(c *polargate.CustomersConfig) { c.RequestsPerMinute = 60 })
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
		all := fleet(s, 2, polargate.SharedInMemory())
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
		all := fleet(s.Shop, 3, polargate.SharedInMemory(), func(c *polargate.CustomersConfig) {
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

// delivery is a webhook as a queue would hold it.
func delivery(t *testing.T, s *kit.Shop) (body []byte, header http.Header) {
	t.Helper()
	caught := make(chan struct{}, 1)
	s.Polar.AddEndpoint(polartest.Endpoint{Secrets: []polartest.Secret{{Text: hookSecret}}, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if body == nil {
			body = make([]byte, r.ContentLength)
			_, _ = r.Body.Read(body)
			header = r.Header.Clone()
			caught <- struct{}{}
		}
		w.WriteHeader(http.StatusNoContent)
	})})
	s.Polar.RevokeBenefit(kit.Paying, kit.ProBenefit)
	<-caught
	require.NoError(t, s.Polar.WaitForDeliveries(t.Context()))
	return body, header
}

func TestADeliveryOutOfAQueueIsAppliedOnceByWhicheverReplica(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := kit.NewShop(t)
		all := fleet(s, 2, polargate.SharedInMemory())
		for _, customers := range all {
			s.Has(customers, kit.Paying, true)
		}
		body, header := delivery(t, s)
		time.Sleep(time.Second)
		for _, customers := range all {
			require.NoError(t, customers.Apply(t.Context(), body, header))
			synctest.Wait()
		}
		assert.EqualValues(t, 1, all[0].Stats().Events+all[1].Stats().Events+all[0].Stats().Ignored+all[1].Stats().Ignored)
		assert.EqualValues(t, 1, all[1].Stats().Repeated)
	})
}

func TestADeliveryThatIsNotPolarsIsRefused(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := kit.NewShop(t)
		customers := s.Warmed(func(c *polargate.CustomersConfig) { c.WebhookSecrets = []string{hookSecret} })
		body, header := delivery(t, s)
		unsigned := header.Clone()
		unsigned.Del("Webhook-Signature")
		for name, apply := range map[string]func() error{
			"not signed":      func() error { return customers.Apply(t.Context(), body, unsigned) },
			"changed":         func() error { return customers.Apply(t.Context(), append([]byte(" "), body...), header) },
			"without secrets": func() error { return s.Open().Apply(t.Context(), body, header) },
		} {
			var input *polargate.InputError
			require.ErrorAs(t, apply(), &input, name)
		}
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		require.ErrorIs(t, customers.Apply(ended, body, header), context.Canceled)
		time.Sleep(time.Hour) // in the queue
		require.NoError(t, customers.Apply(t.Context(), body, header))
		time.Sleep(4 * 24 * time.Hour)
		var input *polargate.InputError
		require.ErrorAs(t, customers.Apply(t.Context(), body, header), &input, "it is older than GracePeriod")
	})
}

func TestReplicasOfTwoSecretsUnderstandEachOtherWhileOneIsReplaced(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := kit.NewShop(t)
		shared := polargate.SharedInMemory()
		with := func(secret, other string) *polargate.Customers {
			return replica(s, shared, func(c *polargate.CustomersConfig) { c.Secret, c.OtherSecret = secret, other })
		}
		s.Has(with("old secret of the replicas", ""), kit.Paying, true)
		s.Has(with("old secret of the replicas", "new secret of the replicas"), kit.Paying, true)
		s.Has(with("new secret of the replicas", "old secret of the replicas"), kit.Paying, true)
		assert.Equal(t, 1, s.Asked())
		s.Has(with("another secret altogether", ""), kit.Paying, true)
		assert.Equal(t, 2, s.Asked())
	})
}

func TestABenefitThatComesWithALicenseKeyOutlastsARestartWithoutPolar(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := newKeyShop(t, polartest.LicenseKey{})
		shared := polargate.SharedInMemory()
		before := fleet(s.Shop, 1, shared)[0]
		s.decides(before, 200)
		require.NoError(t, before.Close())
		s.Polar.SetOffline(true)
		time.Sleep(time.Hour)
		s.decides(fleet(s.Shop, 1, shared)[0], 200)
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
		customers := fleet(s, 1, polargate.SharedInMemory())[0]
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
		all := fleet(s, 5, polargate.SharedInMemory(), func(c *polargate.CustomersConfig) { c.RequestsPerMinute = 60 })
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

func TestAWebhookTakesEffectOnAReplicaThatHasNeverAskedPolar(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := kit.NewShop(t)
		s.Config.OrganizationID = "" // is learned from what other replicas know
		all := fleet(s, 2, polargate.SharedInMemory())
		s.Has(all[0], kit.Paying, true)
		s.Has(all[1], kit.Paying, true)
		require.Equal(t, 1, s.Asked())
		receiving(s, all[1])
		s.Polar.RevokeBenefit(kit.Paying, kit.ProBenefit)
		settled(s)
		for _, customers := range all {
			s.Has(customers, kit.Paying, false)
			assert.Zero(t, customers.Stats().Held)
		}
		assert.Equal(t, 1, s.Asked())
	})
}

func TestARefusalIsNotBelievedForLongerOnAnotherReplica(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := kit.NewShop(t)
		s.Polar.AddCustomer(polartest.Customer{ExternalID: "usr_without"})
		all := fleet(s, 2, polargate.SharedInMemory())
		for _, who := range []string{"usr_new", "usr_without"} {
			s.Has(all[0], who, false)
		}
		time.Sleep(20 * time.Second)
		s.Add("usr_new")
		s.Polar.GrantBenefit("usr_without", polartest.Benefit{BenefitID: kit.ProBenefit})
		for _, who := range []string{"usr_new", "usr_without"} {
			_, refusal := all[1].Decide(t.Context(), polargate.ExternalID(who), polargate.Feature("pro"))
			assert.Nil(t, refusal, who)
		}
	})
}

func TestAnUnknownCustomerWhoBoughtDuringAGapIsServedAfterIt(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := kit.NewShop(t)
		shared := polargate.SharedInMemory()
		store := &faultyStore{Shared: shared}
		customers, other := fleet(s, 1, store, func(c *polargate.CustomersConfig) { c.UnknownFor = time.Hour })[0], fleet(s, 1, shared)[0]
		receiving(s, other)
		for range 12 { // long believed by now
			s.Has(customers, "usr_new", false)
			time.Sleep(5 * time.Minute)
		}
		store.deaf.Store(true)
		s.Add("usr_new")
		settled(s)
		asked := s.Asked()
		store.deaf.Store(false)
		gap := make(chan struct{})
		store.gap = gap
		store.reconnect()
		<-gap
		s.Has(customers, "usr_new", true)
		assert.Equal(t, asked, s.Asked(), "the store is asked, and not Polar")
	})
}

func TestAnAnswerIsAsOldAsPolarsClockSaysAndNotTheReplicas(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := kit.NewShop(t)
		s.Polar.Advance(10 * time.Minute) // the replicas' clocks are behind
		shared := polargate.SharedInMemory()
		s.Has(fleet(s, 1, shared)[0], kit.Paying, true)
		time.Sleep(4 * time.Minute)
		late := fleet(s, 1, shared, func(c *polargate.CustomersConfig) { c.StaleFor = -1 })[0]
		s.Has(late, kit.Paying, true)
		require.Equal(t, 1, s.Asked())
		s.Polar.RevokeBenefit(kit.Paying, kit.ProBenefit)
		time.Sleep(11 * time.Minute)
		s.Has(late, kit.Paying, false)
	})
}

func TestWhileOneReplicaTurnsCustomersAwayNoOtherRefreshesWhatItCanServe(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := kit.NewShop(t)
		all := fleet(s, 2, polargate.SharedInMemory(), func(c *polargate.CustomersConfig) { c.RequestsPerMinute = 60 })
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
		all := fleet(s, 2, polargate.SharedInMemory())
		s.Polar.Inject(polartest.Fault{Effect: polartest.RateLimited("30"), Times: 1})
		_, err := all[0].Entitlements(t.Context(), polargate.ExternalID(kit.Paying))
		require.ErrorIs(t, err, polargate.ErrRateLimited)
		synctest.Wait()
		_, err = all[1].Entitlements(t.Context(), polargate.ExternalID("usr_2"))
		require.ErrorIs(t, err, polargate.ErrRateLimited)
		assert.InDelta(t, 30, all[1].Stats().Pause.Seconds(), 1)
	})
}

// spoiltStore is a Shared in which other programs write.
type spoiltStore struct {
	polargate.Shared
	spoil atomic.Pointer[func(polargate.SharedRecord) polargate.SharedRecord]
}

func (s *spoiltStore) change(records ...polargate.SharedRecord) {
	change := s.spoil.Load()
	for i, record := range records {
		if change != nil && record.Key != "" {
			records[i] = (*change)(record)
		}
	}
}

func (s *spoiltStore) Lookup(ctx context.Context, q polargate.SharedLookup) (polargate.SharedAnswer, error) {
	a, err := s.Shared.Lookup(ctx, q)
	one := []polargate.SharedRecord{a.Record}
	s.change(one...)
	a.Record = one[0]
	return a, err
}

func (s *spoiltStore) Get(ctx context.Context, keys ...string) ([]polargate.SharedRecord, error) {
	records, err := s.Shared.Get(ctx, keys...)
	s.change(records...)
	return records, err
}

func TestWhatIsWrongInTheStoreIsLoggedOnceCountedAndDecidesNothing(t *testing.T) {
	t.Parallel()
	for name, spoil := range map[string]func(polargate.SharedRecord) polargate.SharedRecord{
		"another program's text": func(r polargate.SharedRecord) polargate.SharedRecord { r.Data = []byte(`{"pro":true}`); return r },
		"nothing":                func(r polargate.SharedRecord) polargate.SharedRecord { r.Data = nil; return r },
		"half of it":             func(r polargate.SharedRecord) polargate.SharedRecord { r.Data = r.Data[:len(r.Data)/2]; return r },
		"a changed bit": func(r polargate.SharedRecord) polargate.SharedRecord {
			r.Data = append([]byte(nil), r.Data...)
			r.Data[20] ^= 1
			return r
		},
		"a later version": func(r polargate.SharedRecord) polargate.SharedRecord {
			r.Data = append([]byte{2}, r.Data[1:]...)
			return r
		},
		"another time": func(r polargate.SharedRecord) polargate.SharedRecord {
			r.At = polargate.NewFactTime(r.At.Time().Add(time.Hour))
			return r
		},
		"another name": func(r polargate.SharedRecord) polargate.SharedRecord { r.Key = "another" + r.Key[7:]; return r },
	} {
		t.Run(name, func(t *testing.T) {
			kit.Bubbled(t, func(t *testing.T) {
				s := kit.NewShop(t)
				shared := polargate.SharedInMemory()
				s.Add("usr_2")
				before := fleet(s, 1, shared)[0]
				s.Has(before, kit.Paying, true)
				s.Has(before, "usr_2", true)
				store := &spoiltStore{Shared: shared}
				store.spoil.Store(&spoil)
				after := fleet(s, 1, store)[0]
				asked, lines := s.Asked(), strings.Count(s.Log.String(), "the shared store holds something")
				s.Polar.RevokeBenefit(kit.Paying, kit.ProBenefit)
				s.Has(after, kit.Paying, false)
				s.Has(after, "usr_2", true)
				assert.Equal(t, asked+2, s.Asked(), "Polar is asked")
				assert.Positive(t, after.Stats().Shared.Unreadable)
				assert.Equal(t, lines+1, strings.Count(s.Log.String(), "the shared store holds something"))
				s.Has(after, kit.Paying, false)
				assert.Equal(t, asked+2, s.Asked())
			})
		})
	}
}

func TestALicenseKeyThatOneReplicaAskedAboutIsKnownToAllAndOutlastsARestart(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := newKeyShop(t, polartest.LicenseKey{})
		store := polargate.SharedInMemory()
		all := fleet(s.Shop, 20, store)
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
		after := fleet(s.Shop, 1, store)[0]
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
		all := fleet(s.Shop, 3, shared)
		s.Polar.AddEndpoint(polartest.Endpoint{
			Handler: all[0].WebhookHandler(), Secrets: []polartest.Secret{{Text: hookSecret}},
			Events: []string{"customer.state_changed", "benefit_grant.revoked"},
		})
		for _, customers := range all[1:] {
			_, status := statusOnly(customers.DecideLicense(t.Context(), s.key.Key))
			require.Equal(t, 200, status)
		}
		time.Sleep(10 * time.Second)
		s.Polar.RevokeBenefit(keyHolder, desktopBenefit)
		settled(s.Shop)
		all = append(all, fleet(s.Shop, 1, shared)...) // and one that has just started
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
		all := fleet(s.Shop, 2, shared)
		s.Polar.AddEndpoint(polartest.Endpoint{
			Handler: all[0].WebhookHandler(), Secrets: []polartest.Secret{{Text: hookSecret}},
			Events: []string{"customer.state_changed", "benefit_grant.revoked"},
		})
		_, status := statusOnly(all[1].DecideLicense(t.Context(), s.key.Key))
		require.Equal(t, 200, status)
		time.Sleep(10 * time.Second)
		s.Polar.RevokeBenefit(keyHolder, desktopBenefit)
		settled(s.Shop)
		s.Polar.SetOffline(true)
		for i, customers := range append(all, fleet(s.Shop, 1, shared)...) {
			_, status := statusOnly(customers.DecideLicense(t.Context(), s.key.Key))
			assert.Equal(t, 503, status, "replica %d", i)
		}
	})
}

func TestMadeUpLicenseKeysLeaveRequestsToCustomers(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := kit.NewShop(t)
		all := fleet(s, 3, polargate.SharedInMemory(), func(c *polargate.CustomersConfig) { c.RequestsPerMinute = 60 })
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

var opened atomic.Int64 // so that each has a token of its own

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
		store := &faultyStore{Shared: shared}
		dies, other := openFleet(t, 1, o, store)[0], openFleet(t, 1, o, shared)[0]
		ctx, kill := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() { _, _ = dies.Warm(ctx); close(ended) }()
		for o.lists.Load() < 45 {
			time.Sleep(10 * time.Millisecond)
		}
		store.setAway(true) // so that it cannot give up its turn, nor keep it
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
		store.setAway(false)
	})
}

func TestOneReplicaSweepsForAllWhenWebhooksAreSilent(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := kit.NewShop(t)
		s.Add("usr_1")
		all := fleet(s, 3, polargate.SharedInMemory(), func(c *polargate.CustomersConfig) { c.FreshFor, c.SweepAfter = 24*time.Hour, 2*time.Hour })
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
		all := fleet(s, 2, polargate.SharedInMemory(), func(c *polargate.CustomersConfig) { c.FreshFor, c.SweepAfter = 24*time.Hour, 2*time.Hour })
		receiving(s, all[0])
		for i := range 5 {
			time.Sleep(time.Hour)
			for _, customers := range all {
				s.Has(customers, kit.Paying, true)
			}
			s.Add(usr(i))
			settled(s)
		}
		for _, customers := range all {
			assert.Zero(t, customers.Stats().Warm.Walks)
		}
	})
}

func TestWhileNeitherPolarNorAStoreThatHasJustFailedAnswersACustomerWaitsForTheStore(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := kit.NewShop(t)
		shared := polargate.SharedInMemory()
		s.Has(fleet(s, 1, shared)[0], kit.Paying, true)
		s.Polar.SetOffline(true)
		time.Sleep(time.Hour)
		store := &faultyStore{Shared: shared}
		after := fleet(s, 1, store)[0]
		store.setAway(true)
		time.AfterFunc(500*time.Millisecond, func() { store.setAway(false) })
		at := time.Now()
		s.Has(after, kit.Paying, true)
		assert.Less(t, time.Since(at), 3*time.Second)

		gone := fleet(s, 1, store)[0]
		store.setAway(true)
		for range 20 {
			_, _ = gone.Entitlements(t.Context(), polargate.ExternalID(kit.Paying))
			time.Sleep(time.Second)
		}
		at = time.Now()
		_, err := gone.Entitlements(t.Context(), polargate.ExternalID(kit.Paying))
		require.ErrorIs(t, err, polargate.ErrUnreachable)
		assert.Less(t, time.Since(at), time.Second, "a store that has been away for long is not waited for")
	})
}

func TestALicenseKeyThatARestartedReplicaKnowsFromOthersIsAskedAboutInTime(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := newKeyShop(t, polartest.LicenseKey{})
		shared := polargate.SharedInMemory()
		before := fleet(s.Shop, 1, shared)[0]
		s.decides(before, 200)
		require.NoError(t, before.Close())
		time.Sleep(time.Minute)
		after := fleet(s.Shop, 1, shared)[0] // what it learns is older than its own clock
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
