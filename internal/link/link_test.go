package link_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/polargate/polargate/internal/breaker"
	"github.com/polargate/polargate/internal/link"
	"github.com/polargate/polargate/internal/localstore"
	"github.com/polargate/polargate/internal/pace"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// moodyShared is a link.Store that can be away, slow, or panic.
type moodyShared struct {
	link.Store
	calls, lookups atomic.Int64
	away           atomic.Bool
	slow           atomic.Int64 // nanoseconds
	panics         atomic.Bool
	cut            chan struct{} // closed to end listening
	mu             sync.Mutex
}

var errTestAway = errors.New("connection refused")

func newMoodyShared(of link.Store) *moodyShared {
	return &moodyShared{Store: of, cut: make(chan struct{})}
}

func (m *moodyShared) mood(ctx context.Context) error {
	m.calls.Add(1)
	switch {
	case m.panics.Load():
		panic("a store with a fault")
	case m.away.Load():
		return errTestAway
	}
	if d := time.Duration(m.slow.Load()); d > 0 {
		select {
		case <-time.After(d):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// leave has the store be away, and come back.
func (m *moodyShared) leave(away bool) {
	m.away.Store(away)
	if away {
		m.mu.Lock()
		defer m.mu.Unlock()
		close(m.cut)
		m.cut = make(chan struct{})
	}
}

func (m *moodyShared) Lookup(ctx context.Context, q link.Lookup) (link.Answer, error) {
	m.lookups.Add(1)
	if err := m.mood(ctx); err != nil {
		return link.Answer{}, err
	}
	return m.Store.Lookup(ctx, q)
}

func (m *moodyShared) Get(ctx context.Context, keys ...string) ([]link.Record, error) {
	if err := m.mood(ctx); err != nil {
		return nil, err
	}
	return m.Store.Get(ctx, keys...)
}

func (m *moodyShared) Put(ctx context.Context, holder string, records ...link.Record) ([]link.Record, error) {
	if err := m.mood(ctx); err != nil {
		return nil, err
	}
	return m.Store.Put(ctx, holder, records...)
}

func (m *moodyShared) Take(ctx context.Context, b link.Budget) (link.Turn, error) {
	if err := m.mood(ctx); err != nil {
		return link.Turn{}, err
	}
	return m.Store.Take(ctx, b)
}

func (m *moodyShared) Beat(ctx context.Context, replica string, ttl time.Duration) (int, error) {
	if err := m.mood(ctx); err != nil {
		return 0, err
	}
	return m.Store.Beat(ctx, replica, ttl)
}

func (m *moodyShared) Listen(ctx context.Context, heard func([]string, bool)) error {
	m.mu.Lock()
	cut := m.cut
	m.mu.Unlock()
	if m.away.Load() {
		return errTestAway
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- m.Store.Listen(ctx, heard) }()
	select {
	case <-cut:
		cancel()
		<-done
		return errTestAway
	case err := <-done:
		return err
	}
}

func linkTo(t *testing.T, store link.Store, change ...func(*link.Config)) *link.Link {
	t.Helper()
	config := link.Config{
		Store: store, Purpose: "organization", Secrets: []string{"secret"},
		Budget: link.Budget{Name: "requests", Limit: 100, Window: time.Minute},
		Bound:  time.Minute, // outside a bubble a busy computer may take long
	}
	for _, c := range change {
		c(&config)
	}
	l, err := link.New(config)
	require.NoError(t, err)
	t.Cleanup(l.Close)
	return l
}

// usualBound is for tests in a bubble, where a computer is never busy.
func usualBound(c *link.Config) { c.Bound = 0 }

func factAbout(l *link.Link, id string, at time.Time, data string) link.Fact {
	return link.Fact{Name: l.Name("customer", id), At: at, Data: []byte(data), TTL: time.Hour}
}

// known is what a replica finds about somebody; "" for nothing.
func known(t *testing.T, l *link.Link, id string) string {
	t.Helper()
	name := l.Name("customer", id)
	facts, err := l.Get(t.Context(), name)
	require.NoError(t, err)
	return string(facts[name.Key].Data)
}

var factTime = time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)

func TestOneReplicaAsksForAColdCustomerAndTheOthersWaitForItsRecord(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		store := newMoodyShared(localstore.InMemory())
		var asked atomic.Int64
		var all sync.WaitGroup
		for i := range 20 {
			l := linkTo(t, store, usualBound)
			if i%2 == 0 { // the others learn of it without hints
				l.Listen(func([]string, bool) {})
			}
			synctest.Wait()
			all.Go(func() {
				name := l.Name("customer", "cold")
				ask, err := l.Lookup(t.Context(), name, time.Time{}, 0)
				assert.NoError(t, err)
				if ask.Claimed {
					asked.Add(1)
					assert.True(t, ask.Turn.Taken)
					time.Sleep(150 * time.Millisecond) // Polar's answer
					_, err := l.Put(t.Context(), factAbout(l, "cold", factTime, "answer"))
					assert.NoError(t, err)
					return
				}
				assert.True(t, ask.Found)
				assert.Equal(t, "answer", string(ask.Fact.Data))
			})
		}
		all.Wait()
		assert.EqualValues(t, 1, asked.Load())
		assert.Less(t, store.lookups.Load(), int64(100), "waiting is no storm")
	})
}

func TestACustomerWhomTheStoreKnowsTakesOneRoundTrip(t *testing.T) {
	t.Parallel()
	store := newMoodyShared(localstore.InMemory())
	l := linkTo(t, store)
	_, err := l.Put(t.Context(), factAbout(l, "a", factTime, "known"))
	require.NoError(t, err)
	before := store.calls.Load()
	ask, err := l.Lookup(t.Context(), l.Name("customer", "a"), time.Time{}, 0)
	require.NoError(t, err)
	assert.True(t, ask.Found)
	assert.Equal(t, "known", string(ask.Fact.Data))
	assert.True(t, factTime.Equal(ask.Fact.At))
	cold, err := l.Lookup(t.Context(), l.Name("customer", "b"), time.Time{}, 0)
	require.NoError(t, err)
	assert.True(t, cold.Claimed && cold.Turn.Taken && !cold.Known)
	assert.EqualValues(t, 2, store.calls.Load()-before)
}

func TestAStoreThatHangsKeepsNobodyLongerThanTheBound(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	hanging := &hangingShared{ctx: ctx}
	l := linkTo(t, hanging, func(c *link.Config) { c.Bound = 20 * time.Millisecond })
	var errs []error
	for range 50 {
		_, err := l.Lookup(ctx, l.Name("customer", "a"), time.Time{}, 0)
		errs = append(errs, err)
	}
	require.ErrorIs(t, errs[0], breaker.ErrSlow)
	assert.ErrorIs(t, errs[49], breaker.ErrAway, "it is left alone after that")
	assert.Less(t, hanging.calls.Load(), int64(20))
	assert.False(t, l.Stats().Away.IsZero())
}

// hangingShared heeds no context but the test's.
type hangingShared struct {
	link.Store
	calls atomic.Int64
	ctx   context.Context
}

func (h *hangingShared) Lookup(context.Context, link.Lookup) (link.Answer, error) {
	h.calls.Add(1)
	<-h.ctx.Done()
	return link.Answer{}, h.ctx.Err()
}

func TestASlowStoreIsWaitedForWithinTheBoundOnly(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		store := newMoodyShared(localstore.InMemory())
		l := linkTo(t, store, usualBound)
		store.slow.Store(int64(200 * time.Millisecond))
		_, err := l.Lookup(t.Context(), l.Name("customer", "a"), time.Time{}, 0)
		require.NoError(t, err)
		store.slow.Store(int64(10 * time.Second))
		began := time.Now()
		_, err = l.Lookup(t.Context(), l.Name("customer", "b"), time.Time{}, 0)
		require.Error(t, err)
		assert.Equal(t, link.Bound, time.Since(began))
		for range 1000 { // those who come meanwhile do not wait at all, but for one who tries
			_, err = l.Take(t.Context(), 1, 0)
			require.Error(t, err)
		}
		assert.Less(t, time.Since(began), 2*link.Bound)
		// Who gives up sooner says nothing about the store.
		store.slow.Store(0)
		time.Sleep(time.Minute)
		_, err = l.Take(t.Context(), 1, 0)
		require.NoError(t, err)
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		store.slow.Store(int64(100 * time.Millisecond))
		_, err = l.Take(ctx, 1, 0)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		store.slow.Store(0)
		_, err = l.Take(t.Context(), 1, 0)
		require.NoError(t, err)
	})
}

func TestAPanicOfAStoreIsAFaultOfTheStoreOnly(t *testing.T) {
	t.Parallel()
	store := newMoodyShared(localstore.InMemory())
	l := linkTo(t, store)
	store.panics.Store(true)
	_, err := l.Lookup(t.Context(), l.Name("customer", "a"), time.Time{}, 0)
	var panicked *breaker.PanicError
	require.ErrorAs(t, err, &panicked)
}

func TestWhatWasLearntWhileTheStoreWasAwayForHalfAMinuteIsMergedWhenItIsBack(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		of := localstore.InMemory()
		storeA, storeB := newMoodyShared(of), newMoodyShared(of)
		a, b := linkTo(t, storeA, usualBound), linkTo(t, storeB, usualBound)
		var mu sync.Mutex
		heard, gaps := map[string]bool{}, 0
		b.Listen(func(keys []string, gap bool) {
			mu.Lock()
			defer mu.Unlock()
			for _, key := range keys {
				heard[key] = true
			}
			if gap {
				gaps++
			}
		})
		a.Listen(func([]string, bool) {})
		synctest.Wait()
		gapsBefore := gaps

		storeA.leave(true)
		storeB.leave(true)
		began := time.Now()
		for i := range 100 { // a webhook each 300 ms, for 30 s
			id := fmt.Sprintf("customer-%d", i)
			_, err := a.Put(t.Context(), factAbout(a, id, factTime.Add(time.Duration(i)), "new"))
			require.Error(t, err)
			_, err = a.Put(t.Context(), factAbout(a, id, factTime.Add(-time.Hour), "older"))
			require.Error(t, err)
			time.Sleep(300 * time.Millisecond)
		}
		assert.Less(t, time.Since(began), 31*time.Second, "nobody waited for the store")
		assert.Equal(t, 100, a.Stats().Waiting)
		storeA.leave(false)
		storeB.leave(false)
		time.Sleep(5 * time.Second)

		for i := range 100 {
			id := fmt.Sprintf("customer-%d", i)
			require.Equal(t, "new", known(t, b, id), id)
			mu.Lock()
			require.True(t, heard[b.Name("customer", id).Key] || gaps > gapsBefore)
			mu.Unlock()
		}
		assert.Zero(t, a.Stats().Waiting)
		assert.True(t, a.Stats().Away.IsZero())
		mu.Lock()
		defer mu.Unlock()
		assert.Greater(t, gaps, gapsBefore, "after the store was away everything is to be checked")
	})
}

func TestWhatAServerLostThatFailedRightAfterItAcknowledgedIsPutAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		store := newMoodyShared(localstore.InMemory())
		l := linkTo(t, store, usualBound)
		l.Listen(func([]string, bool) {})
		synctest.Wait()
		_, err := l.Put(t.Context(), factAbout(l, "a", factTime, "acknowledged"))
		require.NoError(t, err)
		require.Equal(t, "acknowledged", known(t, l, "a"))

		// Its replica takes over, and knows nothing of it; the connection was lost.
		store.leave(true)
		store.Store = localstore.InMemory()
		store.leave(false)
		time.Sleep(5 * time.Second)
		require.Equal(t, "acknowledged", known(t, l, "a"))
	})
}

func TestARecordTooLargeToShareKeepsNobodyWaitingForIt(t *testing.T) {
	t.Parallel()
	store := localstore.InMemory()
	a, b := linkTo(t, store), linkTo(t, store)
	name := a.Name("customer", "large")
	ask, err := a.Lookup(t.Context(), name, time.Time{}, 0)
	require.NoError(t, err)
	require.True(t, ask.Claimed)
	_, err = a.Put(t.Context(), factAbout(a, "large", factTime, strings.Repeat("x", 40_000)), factAbout(a, "small", factTime, "x"))
	require.NoError(t, err)
	a.Settle()
	assert.Equal(t, "x", known(t, b, "small"), "others of the batch are shared")
	ask, err = b.Lookup(t.Context(), name, time.Time{}, 0)
	require.NoError(t, err)
	assert.True(t, ask.Claimed)
	assert.EqualValues(t, 1, a.Stats().Lost)
	assert.Zero(t, a.Stats().Unreadable)
}

func TestAYoungerFactInTheStoreIsToldToWhoPutsAnOlderOne(t *testing.T) {
	t.Parallel()
	store := localstore.InMemory()
	a, b := linkTo(t, store), linkTo(t, store)
	_, err := a.Put(t.Context(), factAbout(a, "x", factTime.Add(1), "younger"))
	require.NoError(t, err)
	younger, err := b.Put(t.Context(), factAbout(b, "x", factTime, "older"))
	require.NoError(t, err)
	require.Len(t, younger, 1)
	assert.Equal(t, "younger", string(younger[0].Data))
	assert.True(t, factTime.Add(1).Equal(younger[0].At))
}

func TestWhoCanWriteToTheStoreCannotLetAnybodyIn(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	store := localstore.InMemory()
	var log bytes.Buffer
	l := linkTo(t, store, func(c *link.Config) { c.Logger = slog.New(slog.NewTextHandler(&log, nil)) })
	stranger := linkTo(t, store, func(c *link.Config) { c.Secrets = []string{"guess"} })
	name := l.Name("customer", "victim")
	future := link.NewTime(factTime.AddDate(100, 0, 0))
	_, err := l.Put(ctx, factAbout(l, "victim", factTime, "free"), factAbout(l, "payer", factTime, "paid"))
	require.NoError(t, err)
	paid, err := store.Get(ctx, l.Name("customer", "payer").Key)
	require.NoError(t, err)
	forged, err := stranger.Seal(name.Key, string(future), []byte("paid"))
	require.NoError(t, err)
	own, err := store.Get(ctx, name.Key)
	require.NoError(t, err)

	for what, data := range map[string][]byte{
		"sealed with a guessed secret":   forged,
		"another customer's record":      paid[0].Data,
		"their own record, dated later":  own[0].Data,
		"garbage":                        []byte("paid"),
		"nothing":                        nil,
		"a record of the next version":   append([]byte{2}, forged[1:]...),
		"a record that was cut off":      own[0].Data[:len(own[0].Data)-1],
		"a record of another time still": append(bytes.Clone(own[0].Data), 0),
	} {
		before := l.Stats().Unreadable
		_, err := store.Put(ctx, "", link.Record{Key: name.Key, At: future, Data: data, TTL: time.Hour})
		require.NoError(t, err)
		ask, err := l.Lookup(ctx, name, time.Time{}, 0)
		require.NoError(t, err, what)
		assert.False(t, ask.Found || ask.Known, what)
		assert.True(t, ask.Claimed, "%s: Polar is asked", what)
		assert.Greater(t, l.Stats().Unreadable, before, what)
		assert.Empty(t, known(t, l, "victim"), what)
		require.NoError(t, l.Release(ctx, name))
		l.Settle() // until it is removed
		require.NoError(t, store.Discard(ctx, link.Record{Key: name.Key, At: future, Data: data}))
	}
	assert.Equal(t, 1, strings.Count(log.String(), "the shared store holds"), "it is said once")
	assert.NotContains(t, log.String(), "victim")
}

func TestGarbageWithATimeInTheFutureIsRemovedAndInNobodysWay(t *testing.T) {
	t.Parallel()
	store := localstore.InMemory()
	l := linkTo(t, store)
	name := l.Name("customer", "a")
	_, err := store.Put(t.Context(), "", link.Record{Key: name.Key, At: link.Latest, Data: []byte("garbage"), TTL: time.Hour})
	require.NoError(t, err)
	ask, err := l.Lookup(t.Context(), name, time.Time{}, 0)
	require.NoError(t, err)
	require.True(t, ask.Claimed)
	l.Settle()
	_, err = l.Put(t.Context(), factAbout(l, "a", factTime, "good"))
	require.NoError(t, err)
	assert.Equal(t, "good", known(t, l, "a"))
}

func TestASecretIsReplacedWithoutForgettingAnybody(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	store := localstore.InMemory()
	with := func(secrets ...string) *link.Link {
		return linkTo(t, store, func(c *link.Config) { c.Secrets = secrets })
	}
	old := with("old")
	_, err := old.Put(ctx, factAbout(old, "a", factTime, "by the old one"))
	require.NoError(t, err)

	both := with("new", "old")
	ask, err := both.Lookup(ctx, both.Name("customer", "a"), time.Time{}, 0)
	require.NoError(t, err)
	require.True(t, ask.Found)
	assert.Equal(t, "by the old one", string(ask.Fact.Data))
	assert.Equal(t, "by the old one", known(t, both, "a"))
	_, err = both.Put(ctx, factAbout(both, "a", factTime.Add(time.Second), "by the new one"))
	require.NoError(t, err)
	assert.Equal(t, "by the new one", known(t, both, "a"))

	assert.Equal(t, "by the new one", known(t, with("old", "new"), "a"), "who still writes with the old one reads both")
	assert.Equal(t, "by the new one", known(t, with("new"), "a"), "the old one can go")
	assert.Equal(t, "by the old one", known(t, old, "a"))
	assert.Zero(t, both.Stats().Unreadable)
}

func TestNeitherKeysNorRecordsInTheStoreTellWhomTheyAreAbout(t *testing.T) {
	t.Parallel()
	store := &writtenShared{Store: localstore.InMemory()}
	l := linkTo(t, store)
	id := "jane.doe@example.com"
	name := l.Name("customer", id)
	_, err := l.Put(t.Context(), link.Fact{Name: name, At: factTime, Data: []byte(id + " pro"), TTL: time.Hour})
	require.NoError(t, err)
	_, _, err = l.Swap(t.Context(), l.Name("ledger", id), "", []byte(id), time.Hour)
	require.NoError(t, err)
	require.NotEmpty(t, store.written.String())
	for _, part := range []string{"jane", "doe", "example", "pro", "customer"} {
		assert.NotContains(t, store.written.String(), part)
	}
	for _, other := range []link.Name{l.Name("customer", id+"x"), l.Name("ledger", id), linkTo(t, store, func(c *link.Config) { c.Secrets = nil }).Name("customer", id), linkTo(t, store, func(c *link.Config) { c.Purpose = "another" }).Name("customer", id)} {
		assert.NotEqual(t, name.Key, other.Key)
	}
}

type writtenShared struct {
	link.Store
	written bytes.Buffer
}

func (w *writtenShared) Put(ctx context.Context, holder string, records ...link.Record) ([]link.Record, error) {
	fmt.Fprintf(&w.written, "%s %s\n", holder, records)
	for _, r := range records {
		w.written.Write(r.Data)
	}
	return w.Store.Put(ctx, holder, records...)
}

func (w *writtenShared) Swap(ctx context.Context, key, version string, data []byte, ttl time.Duration) (link.Value, bool, error) {
	fmt.Fprintf(&w.written, "%s %s\n", key, data)
	return w.Store.Swap(ctx, key, version, data, ttl)
}

func TestALedgerThatCannotBeReadIsBegunAnew(t *testing.T) {
	t.Parallel()
	store := localstore.InMemory()
	l := linkTo(t, store)
	name := l.Name("ledger", "a")
	_, _, err := store.Swap(t.Context(), name.Key, "", []byte("garbage"), time.Hour)
	require.NoError(t, err)
	state, err := l.Load(t.Context(), name)
	require.NoError(t, err)
	require.Empty(t, state.Data)
	require.NotEmpty(t, state.Version)
	now, swapped, err := l.Swap(t.Context(), name, "", []byte("mine"), time.Hour)
	require.NoError(t, err)
	require.False(t, swapped, "it is there, though nobody can read it")
	now, swapped, err = l.Swap(t.Context(), name, now.Version, []byte("mine"), time.Hour)
	require.NoError(t, err)
	require.True(t, swapped)
	state, err = l.Load(t.Context(), name)
	require.NoError(t, err)
	assert.Equal(t, link.State{Version: now.Version, Data: []byte("mine")}, state)
	assert.EqualValues(t, 2, l.Stats().Unreadable)
	_, swapped, err = l.Swap(t.Context(), name, now.Version, nil, time.Hour)
	require.NoError(t, err)
	require.True(t, swapped)
}

func TestAReplicasShareWhileTheStoreIsAwayIsByTheReplicasThatWereSeenLast(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		store := newMoodyShared(localstore.InMemory())
		var links []*link.Link
		for range 3 {
			l := linkTo(t, store, usualBound)
			l.Listen(func([]string, bool) {})
			links = append(links, l)
		}
		assert.GreaterOrEqual(t, links[0].Share(300), 100)
		time.Sleep(20 * time.Second)
		store.leave(true)
		time.Sleep(time.Hour)
		for _, l := range links {
			assert.Equal(t, 100, l.Share(300))
			assert.Equal(t, 1, l.Share(2), "nobody is left without any")
		}
		store.leave(false)
		links[2].Close() // and it is forgotten
		time.Sleep(2 * time.Minute)
		assert.Equal(t, 150, links[0].Share(300))
	})
}

func TestAPauseThatPolarAskedForIsKnownToEveryReplica(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		store := localstore.InMemory()
		a, b := linkTo(t, store, usualBound), linkTo(t, store, usualBound)
		require.NoError(t, a.Pause(t.Context(), 24*time.Hour))
		turn, err := b.Take(t.Context(), 1, 0)
		require.NoError(t, err)
		assert.True(t, turn.Paused && !turn.Taken)
		assert.Equal(t, pace.MaxPause, turn.Wait, "nobody is silenced for days")
		ask, err := b.Lookup(t.Context(), b.Name("customer", "a"), time.Time{}, 0)
		require.NoError(t, err)
		assert.True(t, !ask.Claimed && ask.Turn.Paused)
		time.Sleep(pace.MaxPause)
		turn, err = b.Take(t.Context(), 1, 0)
		require.NoError(t, err)
		assert.True(t, turn.Taken)
	})
}

func TestNoMoreRequestsThanTheBudgetLeaveInAnyMinute(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		store := localstore.InMemory()
		links := []*link.Link{linkTo(t, store, usualBound), linkTo(t, store, usualBound), linkTo(t, store, usualBound)}
		var granted []time.Time
		for i := 0; len(granted) < 450; i++ {
			turn, err := links[i%3].Take(t.Context(), 1, 0)
			require.NoError(t, err)
			if turn.Taken {
				granted = append(granted, time.Now())
				time.Sleep(time.Duration(i%7) * 50 * time.Millisecond)
				continue
			}
			require.Positive(t, turn.Wait)
			require.LessOrEqual(t, turn.Wait, 61*time.Second)
			if turn.Wait > 7*time.Second { // some are impatient
				time.Sleep(7 * time.Second)
				continue
			}
			time.Sleep(turn.Wait)
			again, err := links[0].Take(t.Context(), 1, 0)
			require.NoError(t, err)
			require.True(t, again.Taken, "after the wait there is one")
			granted = append(granted, time.Now())
		}
		for i := 100; i < len(granted); i++ {
			require.GreaterOrEqual(t, granted[i].Sub(granted[i-100]), time.Minute)
		}
	})
}

func TestTimesOfFactsCompareAsTextAsTheyDoAsTimes(t *testing.T) {
	t.Parallel()
	times := []time.Time{
		time.Unix(0, 0), time.Unix(0, 1), time.Unix(1, 0),
		factTime.Add(-time.Second), factTime, factTime.Add(1), factTime.Add(999), factTime.Add(time.Microsecond),
		factTime.AddDate(100, 0, 0),
	}
	for i, a := range times {
		text := link.NewTime(a)
		require.True(t, text.Valid())
		require.True(t, a.Equal(text.Time()), text)
		for j, b := range times {
			require.Equal(t, i < j, text < link.NewTime(b))
		}
	}
	require.Equal(t, link.NewTime(factTime), link.NewTime(factTime.In(time.FixedZone("", 3600))))
	require.Equal(t, link.Time(strings.Repeat("0", 19)), link.NewTime(time.Time{}))
	require.Equal(t, link.Time(link.Latest), link.NewTime(time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC)))
	for _, wrong := range []link.Time{"", "1", "000000000000000000a", "00000000000000000000", " 00000000000000000", "-000000000000000001", "9223372036854775808", "9999999999999999999"} {
		require.False(t, wrong.Valid(), wrong)
		require.True(t, wrong.Time().IsZero(), wrong)
	}
}
