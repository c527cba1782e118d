package kit

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing/synctest"
	"time"

	"github.com/polargate/polargate"
	"github.com/polargate/polargate/polartest"
	"github.com/stretchr/testify/require"
)

// HookSecret signs webhooks to a replica.
const HookSecret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"

// Replica is one of several servers that share what they know. It has a token of its own,
// since replicas of one process and token would share their budget anyway.
func Replica(s *Shop, shared polargate.Shared, change ...func(*polargate.CustomersConfig)) *polargate.Customers {
	s.T.Helper()
	return s.Open(append([]func(*polargate.CustomersConfig){func(c *polargate.CustomersConfig) {
		c.Shared, c.AccessToken, c.WebhookSecrets = shared, s.Polar.AddToken(polartest.Token{}), []string{HookSecret}
	}}, change...)...)
}

// Fleet are so many replicas of one program.
func Fleet(s *Shop, n int, shared polargate.Shared, change ...func(*polargate.CustomersConfig)) (all []*polargate.Customers) {
	s.T.Helper()
	for range n {
		all = append(all, Replica(s, shared, change...))
	}
	synctest.Wait()
	return all
}

// Receiving has webhooks come to one of the replicas.
func Receiving(s *Shop, customers *polargate.Customers) {
	s.Polar.AddEndpoint(polartest.Endpoint{Handler: customers.WebhookHandler(), Secrets: []polartest.Secret{{Text: HookSecret}}})
}

// Settled waits until all webhooks are delivered, and what they said is known.
func Settled(s *Shop) {
	s.T.Helper()
	require.NoError(s.T, s.Polar.WaitForDeliveries(s.T.Context()))
	time.Sleep(50 * time.Millisecond)
	synctest.Wait()
}

// FaultyStore is a Shared that can be away, and can lose hints.
type FaultyStore struct {
	polargate.Shared
	Away, Deaf atomic.Bool
	Forgetful  atomic.Bool  // what is put is acknowledged and lost
	Slow       atomic.Int64 // how long reading takes, as a time.Duration
	mu         sync.Mutex
	cut        context.CancelFunc // ends listening
	Gapped     chan struct{}      // closed at the next gap
}

// ErrAway is what a store says that is away.
var ErrAway = errors.New("connection refused")

// SetAway has the store be away, or back.
func (f *FaultyStore) SetAway(away bool) {
	f.Away.Store(away)
	if away {
		f.Reconnect()
	}
}

// Reconnect ends listening once.
func (f *FaultyStore) Reconnect() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.cut != nil {
		f.cut()
	}
}

func (f *FaultyStore) Lookup(ctx context.Context, q polargate.SharedLookup) (polargate.SharedAnswer, error) {
	if f.Away.Load() {
		return polargate.SharedAnswer{}, ErrAway
	}
	return f.Shared.Lookup(ctx, q)
}

func (f *FaultyStore) Get(ctx context.Context, keys ...string) ([]polargate.SharedRecord, error) {
	if f.Away.Load() {
		return nil, ErrAway
	}
	select {
	case <-time.After(time.Duration(f.Slow.Load())):
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	return f.Shared.Get(ctx, keys...)
}

func (f *FaultyStore) Put(ctx context.Context, holder string, records ...polargate.SharedRecord) ([]polargate.SharedRecord, error) {
	if f.Away.Load() {
		return nil, ErrAway
	}
	if f.Forgetful.Load() {
		return nil, nil
	}
	return f.Shared.Put(ctx, holder, records...)
}

func (f *FaultyStore) Take(ctx context.Context, b polargate.SharedBudget) (polargate.SharedTurn, error) {
	if f.Away.Load() {
		return polargate.SharedTurn{}, ErrAway
	}
	return f.Shared.Take(ctx, b)
}

func (f *FaultyStore) Beat(ctx context.Context, replica string, ttl time.Duration) (int, error) {
	if f.Away.Load() {
		return 0, ErrAway
	}
	return f.Shared.Beat(ctx, replica, ttl)
}

func (f *FaultyStore) Swap(ctx context.Context, key, version string, data []byte, ttl time.Duration) (polargate.SharedValue, bool, error) {
	if f.Away.Load() {
		return polargate.SharedValue{}, false, ErrAway
	}
	return f.Shared.Swap(ctx, key, version, data, ttl)
}

func (f *FaultyStore) Load(ctx context.Context, key string) (polargate.SharedValue, error) {
	if f.Away.Load() {
		return polargate.SharedValue{}, ErrAway
	}
	return f.Shared.Load(ctx, key)
}

func (f *FaultyStore) Listen(ctx context.Context, heard func([]string, bool)) error {
	if f.Away.Load() {
		return ErrAway
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	f.mu.Lock()
	f.cut = cancel
	f.mu.Unlock()
	return f.Shared.Listen(ctx, func(keys []string, gap bool) {
		if f.Deaf.Load() {
			return
		}
		heard(keys, gap)
		f.mu.Lock()
		defer f.mu.Unlock()
		if gap && f.Gapped != nil {
			close(f.Gapped)
			f.Gapped = nil
		}
	})
}
