package servers

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/polargate/polargate"
	"github.com/polargate/polargate/tests/internal/kit"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestWhatIsYoungerInMemoryIsNotReplacedByAnOlderRecord(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := kit.NewShop(t)
		store := &kit.FaultyStore{Shared: polargate.SharedInMemory()}
		customers := kit.Fleet(s, 1, store)[0]
		s.Has(customers, kit.Paying, true)
		time.Sleep(time.Minute)
		store.Forgetful.Store(true)
		s.Polar.RevokeBenefit(kit.Paying, kit.ProBenefit)
		_, err := customers.Refresh(t.Context(), polargate.ExternalID(kit.Paying))
		require.NoError(t, err)
		s.Has(customers, kit.Paying, false)
		s.Polar.SetOffline(true)
		store.Reconnect()
		time.Sleep(5 * time.Second)
		s.Has(customers, kit.Paying, false)
	})
}

func TestWhatWasLearnedWhileTheStoreWasAwayIsSharedWhenItIsBack(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := kit.NewShop(t)
		store := &kit.FaultyStore{Shared: polargate.SharedInMemory()}
		customers := kit.Fleet(s, 1, store)[0]
		s.Has(customers, kit.Paying, true)
		time.Sleep(time.Minute)
		store.SetAway(true)
		s.Polar.RevokeBenefit(kit.Paying, kit.ProBenefit)
		_, err := customers.Refresh(t.Context(), polargate.ExternalID(kit.Paying))
		require.NoError(t, err)
		store.SetAway(false)
		s.Polar.SetOffline(true)
		time.Sleep(10 * time.Second)
		s.Has(customers, kit.Paying, false)
		s.Has(kit.Fleet(s, 1, store)[0], kit.Paying, false)
	})
}

func TestAfterAGapNothingInMemoryIsTrustedBeforeItIsChecked(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := kit.NewShop(t)
		shared := polargate.SharedInMemory()
		store := &kit.FaultyStore{Shared: shared}
		customers, other := kit.Fleet(s, 1, store)[0], kit.Fleet(s, 1, shared)[0]
		kit.Receiving(s, other)
		s.Has(customers, kit.Paying, true)
		store.Deaf.Store(true)
		s.Polar.RevokeBenefit(kit.Paying, kit.ProBenefit)
		kit.Settled(s)
		s.Has(customers, kit.Paying, true)
		asked := s.Asked()
		store.Deaf.Store(false)
		store.Slow.Store(int64(100 * time.Millisecond))
		gap := make(chan struct{})
		store.Gapped = gap
		store.Reconnect()
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
		stores := []*kit.FaultyStore{{Shared: shared}, {Shared: shared}}
		var all []*polargate.Customers
		for _, store := range stores {
			all = append(all, kit.Fleet(s, 1, store)...)
		}
		kit.Receiving(s, all[0])
		for _, customers := range all {
			s.Has(customers, kit.Paying, true)
		}
		for _, store := range stores {
			store.SetAway(true)
		}
		s.Add("usr_new")
		at := time.Now()
		s.Has(all[1], "usr_new", true)
		assert.LessOrEqual(t, time.Since(at), time.Second, "nobody waits for the store")
		s.Polar.RevokeBenefit(kit.Paying, kit.ProBenefit)
		kit.Settled(s)
		s.Has(all[0], kit.Paying, false)
		assert.False(t, all[0].Stats().Shared.Away.IsZero())
		time.Sleep(30 * time.Second)
		for _, store := range stores {
			store.SetAway(false)
		}
		time.Sleep(5 * time.Second)
		synctest.Wait()
		s.Polar.SetOffline(true) // so that only what is shared counts
		s.Has(all[1], kit.Paying, false)
		assert.True(t, all[0].Stats().Shared.Away.IsZero())
		assert.Zero(t, all[0].Stats().Shared.Waiting)
	})
}

func TestReplicasOfTwoSecretsUnderstandEachOtherWhileOneIsReplaced(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := kit.NewShop(t)
		shared := polargate.SharedInMemory()
		with := func(secret, other string) *polargate.Customers {
			return kit.Replica(s, shared, func(c *polargate.CustomersConfig) { c.Secret, c.OtherSecret = secret, other })
		}
		s.Has(with("old secret of the replicas", ""), kit.Paying, true)
		s.Has(with("old secret of the replicas", "new secret of the replicas"), kit.Paying, true)
		s.Has(with("new secret of the replicas", "old secret of the replicas"), kit.Paying, true)
		assert.Equal(t, 1, s.Asked())
		s.Has(with("another secret altogether", ""), kit.Paying, true)
		assert.Equal(t, 2, s.Asked())
	})
}

func TestAnUnknownCustomerWhoBoughtDuringAGapIsServedAfterIt(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := kit.NewShop(t)
		shared := polargate.SharedInMemory()
		store := &kit.FaultyStore{Shared: shared}
		customers, other := kit.Fleet(s, 1, store, func(c *polargate.CustomersConfig) { c.UnknownFor = time.Hour })[0], kit.Fleet(s, 1, shared)[0]
		kit.Receiving(s, other)
		for range 12 { // long believed by now
			s.Has(customers, "usr_new", false)
			time.Sleep(5 * time.Minute)
		}
		store.Deaf.Store(true)
		s.Add("usr_new")
		kit.Settled(s)
		asked := s.Asked()
		store.Deaf.Store(false)
		gap := make(chan struct{})
		store.Gapped = gap
		store.Reconnect()
		<-gap
		s.Has(customers, "usr_new", true)
		assert.Equal(t, asked, s.Asked(), "the store is asked, and not Polar")
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
				before := kit.Fleet(s, 1, shared)[0]
				s.Has(before, kit.Paying, true)
				s.Has(before, "usr_2", true)
				store := &spoiltStore{Shared: shared}
				store.spoil.Store(&spoil)
				after := kit.Fleet(s, 1, store)[0]
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

func TestWhileNeitherPolarNorAStoreThatHasJustFailedAnswersACustomerWaitsForTheStore(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := kit.NewShop(t)
		shared := polargate.SharedInMemory()
		s.Has(kit.Fleet(s, 1, shared)[0], kit.Paying, true)
		s.Polar.SetOffline(true)
		time.Sleep(time.Hour)
		store := &kit.FaultyStore{Shared: shared}
		after := kit.Fleet(s, 1, store)[0]
		store.SetAway(true)
		time.AfterFunc(500*time.Millisecond, func() { store.SetAway(false) })
		at := time.Now()
		s.Has(after, kit.Paying, true)
		assert.Less(t, time.Since(at), 3*time.Second)

		gone := kit.Fleet(s, 1, store)[0]
		store.SetAway(true)
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
