package polargate

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
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// moodyShared is a Shared that can be away, slow, or panic.
type moodyShared struct {
	Shared
	calls, lookups atomic.Int64
	away           atomic.Bool
	slow           atomic.Int64 // nanoseconds
	panics         atomic.Bool
	cut            chan struct{} // closed to end listening
	mu             sync.Mutex
}

var errTestAway = errors.New("connection refused")

func newMoodyShared(of Shared) *moodyShared {
	return &moodyShared{Shared: of, cut: make(chan struct{})}
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

func (m *moodyShared) Lookup(ctx context.Context, q SharedLookup) (SharedAnswer, error) {
	m.lookups.Add(1)
	if err := m.mood(ctx); err != nil {
		return SharedAnswer{}, err
	}
	return m.Shared.Lookup(ctx, q)
}

func (m *moodyShared) Get(ctx context.Context, keys ...string) ([]SharedRecord, error) {
	if err := m.mood(ctx); err != nil {
		return nil, err
	}
	return m.Shared.Get(ctx, keys...)
}

func (m *moodyShared) Put(ctx context.Context, holder string, records ...SharedRecord) ([]SharedRecord, error) {
	if err := m.mood(ctx); err != nil {
		return nil, err
	}
	return m.Shared.Put(ctx, holder, records...)
}

func (m *moodyShared) Take(ctx context.Context, b SharedBudget) (SharedTurn, error) {
	if err := m.mood(ctx); err != nil {
		return SharedTurn{}, err
	}
	return m.Shared.Take(ctx, b)
}

func (m *moodyShared) Beat(ctx context.Context, replica string, ttl time.Duration) (int, error) {
	if err := m.mood(ctx); err != nil {
		return 0, err
	}
	return m.Shared.Beat(ctx, replica, ttl)
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
	go func() { done <- m.Shared.Listen(ctx, heard) }()
	select {
	case <-cut:
		cancel()
		<-done
		return errTestAway
	case err := <-done:
		return err
	}
}

func linkTo(t *testing.T, store Shared, change ...func(*sharedLinkConfig)) *sharedLink {
	t.Helper()
	config := sharedLinkConfig{
		Store: store, Purpose: "organization", Secrets: []string{"secret"},
		Budget: SharedBudget{Name: "requests", Limit: 100, Window: time.Minute},
		Bound:  time.Minute, // outside a bubble a busy computer may take long
	}
	for _, c := range change {
		c(&config)
	}
	l, err := newSharedLink(config)
	require.NoError(t, err)
	t.Cleanup(l.close)
	return l
}

// usualBound is for tests in a bubble, where a computer is never busy.
func usualBound(c *sharedLinkConfig) { c.Bound = 0 }

func factAbout(l *sharedLink, id string, at time.Time, data string) sharedFact {
	return sharedFact{Name: l.name("customer", id), At: at, Data: []byte(data), TTL: time.Hour}
}

// known is what a replica finds about somebody; "" for nothing.
func known(t *testing.T, l *sharedLink, id string) string {
	t.Helper()
	name := l.name("customer", id)
	facts, err := l.get(t.Context(), name)
	require.NoError(t, err)
	return string(facts[name.key].Data)
}

var factTime = time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)

func TestOneReplicaAsksForAColdCustomerAndTheOthersWaitForItsRecord(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		store := newMoodyShared(SharedInMemory())
		var asked atomic.Int64
		var all sync.WaitGroup
		for i := range 20 {
			l := linkTo(t, store, usualBound)
			if i%2 == 0 { // the others learn of it without hints
				l.listen(func([]string, bool) {})
			}
			synctest.Wait()
			all.Go(func() {
				name := l.name("customer", "cold")
				ask, err := l.lookup(t.Context(), name, time.Time{}, 0)
				assert.NoError(t, err)
				if ask.Claimed {
					asked.Add(1)
					assert.True(t, ask.Turn.Taken)
					time.Sleep(150 * time.Millisecond) // Polar's answer
					_, err := l.put(t.Context(), factAbout(l, "cold", factTime, "answer"))
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
	store := newMoodyShared(SharedInMemory())
	l := linkTo(t, store)
	_, err := l.put(t.Context(), factAbout(l, "a", factTime, "known"))
	require.NoError(t, err)
	before := store.calls.Load()
	ask, err := l.lookup(t.Context(), l.name("customer", "a"), time.Time{}, 0)
	require.NoError(t, err)
	assert.True(t, ask.Found)
	assert.Equal(t, "known", string(ask.Fact.Data))
	assert.True(t, factTime.Equal(ask.Fact.At))
	cold, err := l.lookup(t.Context(), l.name("customer", "b"), time.Time{}, 0)
	require.NoError(t, err)
	assert.True(t, cold.Claimed && cold.Turn.Taken && !cold.Known)
	assert.EqualValues(t, 2, store.calls.Load()-before)
}

func TestAStoreThatHangsKeepsNobodyLongerThanTheBound(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	hanging := &hangingShared{ctx: ctx}
	l := linkTo(t, hanging, func(c *sharedLinkConfig) { c.Bound = 20 * time.Millisecond })
	var errs []error
	for range 50 {
		_, err := l.lookup(ctx, l.name("customer", "a"), time.Time{}, 0)
		errs = append(errs, err)
	}
	require.ErrorIs(t, errs[0], breaker.ErrSlow)
	assert.ErrorIs(t, errs[49], breaker.ErrAway, "it is left alone after that")
	assert.Less(t, hanging.calls.Load(), int64(20))
	assert.False(t, l.stats().Away.IsZero())
}

// hangingShared heeds no context but the test's.
type hangingShared struct {
	Shared
	calls atomic.Int64
	ctx   context.Context
}

func (h *hangingShared) Lookup(context.Context, SharedLookup) (SharedAnswer, error) {
	h.calls.Add(1)
	<-h.ctx.Done()
	return SharedAnswer{}, h.ctx.Err()
}

func TestASlowStoreIsWaitedForWithinTheBoundOnly(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		store := newMoodyShared(SharedInMemory())
		l := linkTo(t, store, usualBound)
		store.slow.Store(int64(200 * time.Millisecond))
		_, err := l.lookup(t.Context(), l.name("customer", "a"), time.Time{}, 0)
		require.NoError(t, err)
		store.slow.Store(int64(10 * time.Second))
		began := time.Now()
		_, err = l.lookup(t.Context(), l.name("customer", "b"), time.Time{}, 0)
		require.Error(t, err)
		assert.Equal(t, linkBound, time.Since(began))
		for range 1000 { // those who come meanwhile do not wait at all, but for one who tries
			_, err = l.take(t.Context(), 1, 0)
			require.Error(t, err)
		}
		assert.Less(t, time.Since(began), 2*linkBound)
		// Who gives up sooner says nothing about the store.
		store.slow.Store(0)
		time.Sleep(time.Minute)
		_, err = l.take(t.Context(), 1, 0)
		require.NoError(t, err)
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		store.slow.Store(int64(100 * time.Millisecond))
		_, err = l.take(ctx, 1, 0)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		store.slow.Store(0)
		_, err = l.take(t.Context(), 1, 0)
		require.NoError(t, err)
	})
}

func TestAPanicOfAStoreIsAFaultOfTheStoreOnly(t *testing.T) {
	t.Parallel()
	store := newMoodyShared(SharedInMemory())
	l := linkTo(t, store)
	store.panics.Store(true)
	_, err := l.lookup(t.Context(), l.name("customer", "a"), time.Time{}, 0)
	var panicked *breaker.PanicError
	require.ErrorAs(t, err, &panicked)
}

func TestWhatWasLearntWhileTheStoreWasAwayForHalfAMinuteIsMergedWhenItIsBack(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		of := SharedInMemory()
		storeA, storeB := newMoodyShared(of), newMoodyShared(of)
		a, b := linkTo(t, storeA, usualBound), linkTo(t, storeB, usualBound)
		var mu sync.Mutex
		heard, gaps := map[string]bool{}, 0
		b.listen(func(keys []string, gap bool) {
			mu.Lock()
			defer mu.Unlock()
			for _, key := range keys {
				heard[key] = true
			}
			if gap {
				gaps++
			}
		})
		a.listen(func([]string, bool) {})
		synctest.Wait()
		gapsBefore := gaps

		storeA.leave(true)
		storeB.leave(true)
		began := time.Now()
		for i := range 100 { // a webhook each 300 ms, for 30 s
			id := fmt.Sprintf("customer-%d", i)
			_, err := a.put(t.Context(), factAbout(a, id, factTime.Add(time.Duration(i)), "new"))
			require.Error(t, err)
			_, err = a.put(t.Context(), factAbout(a, id, factTime.Add(-time.Hour), "older"))
			require.Error(t, err)
			time.Sleep(300 * time.Millisecond)
		}
		assert.Less(t, time.Since(began), 31*time.Second, "nobody waited for the store")
		assert.Equal(t, 100, a.stats().Waiting)
		storeA.leave(false)
		storeB.leave(false)
		time.Sleep(5 * time.Second)

		for i := range 100 {
			id := fmt.Sprintf("customer-%d", i)
			require.Equal(t, "new", known(t, b, id), id)
			mu.Lock()
			require.True(t, heard[b.name("customer", id).key] || gaps > gapsBefore)
			mu.Unlock()
		}
		assert.Zero(t, a.stats().Waiting)
		assert.True(t, a.stats().Away.IsZero())
		mu.Lock()
		defer mu.Unlock()
		assert.Greater(t, gaps, gapsBefore, "after the store was away everything is to be checked")
	})
}

func TestWhatAServerLostThatFailedRightAfterItAcknowledgedIsPutAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		store := newMoodyShared(SharedInMemory())
		l := linkTo(t, store, usualBound)
		l.listen(func([]string, bool) {})
		synctest.Wait()
		_, err := l.put(t.Context(), factAbout(l, "a", factTime, "acknowledged"))
		require.NoError(t, err)
		require.Equal(t, "acknowledged", known(t, l, "a"))

		// Its replica takes over, and knows nothing of it; the connection was lost.
		store.leave(true)
		store.Shared = SharedInMemory()
		store.leave(false)
		time.Sleep(5 * time.Second)
		require.Equal(t, "acknowledged", known(t, l, "a"))
	})
}

func TestARecordTooLargeToShareKeepsNobodyWaitingForIt(t *testing.T) {
	t.Parallel()
	store := SharedInMemory()
	a, b := linkTo(t, store), linkTo(t, store)
	name := a.name("customer", "large")
	ask, err := a.lookup(t.Context(), name, time.Time{}, 0)
	require.NoError(t, err)
	require.True(t, ask.Claimed)
	_, err = a.put(t.Context(), factAbout(a, "large", factTime, strings.Repeat("x", 40_000)), factAbout(a, "small", factTime, "x"))
	require.NoError(t, err)
	a.work.Wait()
	assert.Equal(t, "x", known(t, b, "small"), "others of the batch are shared")
	ask, err = b.lookup(t.Context(), name, time.Time{}, 0)
	require.NoError(t, err)
	assert.True(t, ask.Claimed)
	assert.EqualValues(t, 1, a.stats().Lost)
	assert.Zero(t, a.stats().Unreadable)
}

func TestAYoungerFactInTheStoreIsToldToWhoPutsAnOlderOne(t *testing.T) {
	t.Parallel()
	store := SharedInMemory()
	a, b := linkTo(t, store), linkTo(t, store)
	_, err := a.put(t.Context(), factAbout(a, "x", factTime.Add(1), "younger"))
	require.NoError(t, err)
	younger, err := b.put(t.Context(), factAbout(b, "x", factTime, "older"))
	require.NoError(t, err)
	require.Len(t, younger, 1)
	assert.Equal(t, "younger", string(younger[0].Data))
	assert.True(t, factTime.Add(1).Equal(younger[0].At))
}

func TestWhoCanWriteToTheStoreCannotLetAnybodyIn(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	store := SharedInMemory()
	var log bytes.Buffer
	l := linkTo(t, store, func(c *sharedLinkConfig) { c.Logger = slog.New(slog.NewTextHandler(&log, nil)) })
	stranger := linkTo(t, store, func(c *sharedLinkConfig) { c.Secrets = []string{"guess"} })
	name := l.name("customer", "victim")
	future := NewFactTime(factTime.AddDate(100, 0, 0))
	_, err := l.put(ctx, factAbout(l, "victim", factTime, "free"), factAbout(l, "payer", factTime, "paid"))
	require.NoError(t, err)
	paid, err := store.Get(ctx, l.name("customer", "payer").key)
	require.NoError(t, err)
	forged, err := stranger.boxes[0].Seal(name.key, string(future), []byte("paid"))
	require.NoError(t, err)
	own, err := store.Get(ctx, name.key)
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
		before := l.stats().Unreadable
		_, err := store.Put(ctx, "", SharedRecord{Key: name.key, At: future, Data: data, TTL: time.Hour})
		require.NoError(t, err)
		ask, err := l.lookup(ctx, name, time.Time{}, 0)
		require.NoError(t, err, what)
		assert.False(t, ask.Found || ask.Known, what)
		assert.True(t, ask.Claimed, "%s: Polar is asked", what)
		assert.Greater(t, l.stats().Unreadable, before, what)
		assert.Empty(t, known(t, l, "victim"), what)
		require.NoError(t, l.release(ctx, name))
		l.work.Wait() // until it is removed
		require.NoError(t, store.Discard(ctx, SharedRecord{Key: name.key, At: future, Data: data}))
	}
	assert.Equal(t, 1, strings.Count(log.String(), "the shared store holds"), "it is said once")
	assert.NotContains(t, log.String(), "victim")
}

func TestGarbageWithATimeInTheFutureIsRemovedAndInNobodysWay(t *testing.T) {
	t.Parallel()
	store := SharedInMemory()
	l := linkTo(t, store)
	name := l.name("customer", "a")
	_, err := store.Put(t.Context(), "", SharedRecord{Key: name.key, At: maxFactTime, Data: []byte("garbage"), TTL: time.Hour})
	require.NoError(t, err)
	ask, err := l.lookup(t.Context(), name, time.Time{}, 0)
	require.NoError(t, err)
	require.True(t, ask.Claimed)
	l.work.Wait()
	_, err = l.put(t.Context(), factAbout(l, "a", factTime, "good"))
	require.NoError(t, err)
	assert.Equal(t, "good", known(t, l, "a"))
}

func TestASecretIsReplacedWithoutForgettingAnybody(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	store := SharedInMemory()
	with := func(secrets ...string) *sharedLink {
		return linkTo(t, store, func(c *sharedLinkConfig) { c.Secrets = secrets })
	}
	old := with("old")
	_, err := old.put(ctx, factAbout(old, "a", factTime, "by the old one"))
	require.NoError(t, err)

	both := with("new", "old")
	ask, err := both.lookup(ctx, both.name("customer", "a"), time.Time{}, 0)
	require.NoError(t, err)
	require.True(t, ask.Found)
	assert.Equal(t, "by the old one", string(ask.Fact.Data))
	assert.Equal(t, "by the old one", known(t, both, "a"))
	_, err = both.put(ctx, factAbout(both, "a", factTime.Add(time.Second), "by the new one"))
	require.NoError(t, err)
	assert.Equal(t, "by the new one", known(t, both, "a"))

	assert.Equal(t, "by the new one", known(t, with("old", "new"), "a"), "who still writes with the old one reads both")
	assert.Equal(t, "by the new one", known(t, with("new"), "a"), "the old one can go")
	assert.Equal(t, "by the old one", known(t, old, "a"))
	assert.Zero(t, both.stats().Unreadable)
}

func TestNeitherKeysNorRecordsInTheStoreTellWhomTheyAreAbout(t *testing.T) {
	t.Parallel()
	store := &writtenShared{Shared: SharedInMemory()}
	l := linkTo(t, store)
	id := "jane.doe@example.com"
	name := l.name("customer", id)
	_, err := l.put(t.Context(), sharedFact{Name: name, At: factTime, Data: []byte(id + " pro"), TTL: time.Hour})
	require.NoError(t, err)
	_, _, err = l.swap(t.Context(), l.name("ledger", id), "", []byte(id), time.Hour)
	require.NoError(t, err)
	require.NotEmpty(t, store.written.String())
	for _, part := range []string{"jane", "doe", "example", "pro", "customer"} {
		assert.NotContains(t, store.written.String(), part)
	}
	for _, other := range []sharedName{l.name("customer", id+"x"), l.name("ledger", id), linkTo(t, store, func(c *sharedLinkConfig) { c.Secrets = nil }).name("customer", id), linkTo(t, store, func(c *sharedLinkConfig) { c.Purpose = "another" }).name("customer", id)} {
		assert.NotEqual(t, name.key, other.key)
	}
}

type writtenShared struct {
	Shared
	written bytes.Buffer
}

func (w *writtenShared) Put(ctx context.Context, holder string, records ...SharedRecord) ([]SharedRecord, error) {
	fmt.Fprintf(&w.written, "%s %s\n", holder, records)
	for _, r := range records {
		w.written.Write(r.Data)
	}
	return w.Shared.Put(ctx, holder, records...)
}

func (w *writtenShared) Swap(ctx context.Context, key, version string, data []byte, ttl time.Duration) (SharedValue, bool, error) {
	fmt.Fprintf(&w.written, "%s %s\n", key, data)
	return w.Shared.Swap(ctx, key, version, data, ttl)
}

func TestALedgerThatCannotBeReadIsBegunAnew(t *testing.T) {
	t.Parallel()
	store := SharedInMemory()
	l := linkTo(t, store)
	name := l.name("ledger", "a")
	_, _, err := store.Swap(t.Context(), name.key, "", []byte("garbage"), time.Hour)
	require.NoError(t, err)
	state, err := l.load(t.Context(), name)
	require.NoError(t, err)
	require.Empty(t, state.Data)
	require.NotEmpty(t, state.Version)
	now, swapped, err := l.swap(t.Context(), name, "", []byte("mine"), time.Hour)
	require.NoError(t, err)
	require.False(t, swapped, "it is there, though nobody can read it")
	now, swapped, err = l.swap(t.Context(), name, now.Version, []byte("mine"), time.Hour)
	require.NoError(t, err)
	require.True(t, swapped)
	state, err = l.load(t.Context(), name)
	require.NoError(t, err)
	assert.Equal(t, sharedState{now.Version, []byte("mine")}, state)
	assert.EqualValues(t, 2, l.stats().Unreadable)
	_, swapped, err = l.swap(t.Context(), name, now.Version, nil, time.Hour)
	require.NoError(t, err)
	require.True(t, swapped)
}

func TestAReplicasShareWhileTheStoreIsAwayIsByTheReplicasThatWereSeenLast(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		store := newMoodyShared(SharedInMemory())
		var links []*sharedLink
		for range 3 {
			l := linkTo(t, store, usualBound)
			l.listen(func([]string, bool) {})
			links = append(links, l)
		}
		assert.GreaterOrEqual(t, links[0].share(300), 100)
		time.Sleep(20 * time.Second)
		store.leave(true)
		time.Sleep(time.Hour)
		for _, l := range links {
			assert.Equal(t, 100, l.share(300))
			assert.Equal(t, 1, l.share(2), "nobody is left without any")
		}
		store.leave(false)
		links[2].close() // and it is forgotten
		time.Sleep(2 * time.Minute)
		assert.Equal(t, 150, links[0].share(300))
	})
}

func TestAPauseThatPolarAskedForIsKnownToEveryReplica(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		store := SharedInMemory()
		a, b := linkTo(t, store, usualBound), linkTo(t, store, usualBound)
		require.NoError(t, a.pause(t.Context(), 24*time.Hour))
		turn, err := b.take(t.Context(), 1, 0)
		require.NoError(t, err)
		assert.True(t, turn.Paused && !turn.Taken)
		assert.Equal(t, maxPause, turn.Wait, "nobody is silenced for days")
		ask, err := b.lookup(t.Context(), b.name("customer", "a"), time.Time{}, 0)
		require.NoError(t, err)
		assert.True(t, !ask.Claimed && ask.Turn.Paused)
		time.Sleep(maxPause)
		turn, err = b.take(t.Context(), 1, 0)
		require.NoError(t, err)
		assert.True(t, turn.Taken)
	})
}

func TestNoMoreRequestsThanTheBudgetLeaveInAnyMinute(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		store := SharedInMemory()
		links := []*sharedLink{linkTo(t, store, usualBound), linkTo(t, store, usualBound), linkTo(t, store, usualBound)}
		var granted []time.Time
		for i := 0; len(granted) < 450; i++ {
			turn, err := links[i%3].take(t.Context(), 1, 0)
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
			again, err := links[0].take(t.Context(), 1, 0)
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
		text := NewFactTime(a)
		require.True(t, text.Valid())
		require.True(t, a.Equal(text.Time()), text)
		for j, b := range times {
			require.Equal(t, i < j, text < NewFactTime(b))
		}
	}
	require.Equal(t, NewFactTime(factTime), NewFactTime(factTime.In(time.FixedZone("", 3600))))
	require.Equal(t, FactTime(strings.Repeat("0", 19)), NewFactTime(time.Time{}))
	require.Equal(t, FactTime(maxFactTime), NewFactTime(time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC)))
	for _, wrong := range []FactTime{"", "1", "000000000000000000a", "00000000000000000000", " 00000000000000000", "-000000000000000001", "9223372036854775808", "9999999999999999999"} {
		require.False(t, wrong.Valid(), wrong)
		require.True(t, wrong.Time().IsZero(), wrong)
	}
}
