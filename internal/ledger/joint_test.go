package ledger

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/polargate/polargate/internal/clock"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// store is one value, and can fail before and after it did what it was asked for.
type store struct {
	mu      sync.Mutex
	version int
	data    []byte
	swaps   int
	fail    func() (before, after bool)
}

var errAway = errors.New("connection refused")

func (s *store) enter() (leave func() error, err error) {
	s.mu.Lock()
	before, after := false, false
	if s.fail != nil {
		before, after = s.fail()
	}
	if before {
		s.mu.Unlock()
		return nil, errAway
	}
	return func() error {
		s.mu.Unlock()
		if after {
			return errAway
		}
		return nil
	}, nil
}

func (s *store) now() Stored {
	if s.data == nil {
		return Stored{}
	}
	return Stored{strconv.Itoa(s.version), s.data}
}

func (s *store) load(context.Context) (now Stored, err error) {
	leave, err := s.enter()
	if err != nil {
		return Stored{}, err
	}
	now = s.now()
	return now, leave()
}

func (s *store) swap(_ context.Context, version string, data []byte) (now Stored, swapped bool, err error) {
	leave, err := s.enter()
	if err != nil {
		return Stored{}, false, err
	}
	if s.now().Version == version {
		s.version++
		s.swaps++
		s.data, swapped = data, true
	}
	now = s.now()
	return now, swapped, leave()
}

// changes is how often the account was replaced.
func (s *store) changes() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.swaps
}

func (s *store) set(fail func() (before, after bool)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fail = fail
}

// joined is a replica that shares an account of a hundred units.
func joined(t *testing.T, s *store, name string) *Joint {
	return &Joint{
		Load: s.load, Swap: s.swap, Holder: name, Life: t.Context(), Seen: func(*Account) {},
		Base: func() (Count, bool) { return counted(0, 100, at(0)), true },
		Now:  func() clock.Polar { return clock.PolarTime(time.Now()) },
	}
}

// account is what is in the store.
func account(t *testing.T, s *store) *Account {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	a, err := Read(s.data)
	require.NoError(t, err)
	return a
}

func TestReplicasReserveExactlyWhatThereIs(t *testing.T) {
	t.Parallel()
	s := &store{}
	var group sync.WaitGroup
	var mu sync.Mutex
	served := 0
	for r := range 3 {
		j := joined(t, s, fmt.Sprint("replica ", r))
		for range 200 {
			group.Go(func() {
				ok, err := j.Hold(t.Context(), Of(1), Units{})
				assert.NoError(t, err)
				if ok {
					mu.Lock()
					served++
					mu.Unlock()
					j.Settle(Of(1), Of(1), j.Now(), true)
				}
			})
		}
		defer j.Wait(t.Context())
	}
	group.Wait()
	assert.Equal(t, 100, served)
	assert.Less(t, s.changes(), 400, "changes that come at the same time are stored together")
}

func TestTheHoldsOfAReplicaThatDiedEnd(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &store{}
		dying, living := joined(t, s, "dying"), joined(t, s, "living")
		life, die := context.WithCancel(t.Context())
		dying.Life = life
		hold := func(j *Joint, units float64) bool {
			ok, err := j.Hold(t.Context(), Of(units), Units{})
			require.NoError(t, err)
			return ok
		}
		require.True(t, hold(dying, 70))
		require.True(t, hold(living, 20))
		time.Sleep(10 * time.Minute)
		assert.False(t, hold(living, 11), "as long as it lives, it holds them")
		die()
		time.Sleep(HoldFor / 2)
		assert.False(t, hold(living, 11))
		time.Sleep(HoldFor/2 + time.Second)
		assert.True(t, hold(living, 80))
		living.Settle(Of(100), Units{}, living.Now(), true)
		living.Wait(t.Context())
		assert.InDelta(t, 100, left(account(t, s)), 0)
		assert.True(t, living.Idle())
	})
}

func TestNothingIsReservedWhileTheStoreIsAwayAndNothingSpentIsLost(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &store{}
		j := joined(t, s, "replica")
		ok, err := j.Hold(t.Context(), Of(30), Units{})
		require.True(t, ok && err == nil)
		s.set(func() (bool, bool) { return true, false })
		_, err = j.Hold(t.Context(), Of(1), Units{})
		require.ErrorIs(t, err, errAway)
		j.Settle(Of(30), Of(40), j.Now(), true)
		j.Wait(t.Context())
		assert.False(t, j.Idle())
		time.Sleep(time.Hour)
		s.set(nil)
		time.Sleep(3 * time.Second)
		assert.True(t, j.Idle())
		assert.InDelta(t, 60, left(account(t, s)), 0)
	})
}

func TestAStoreThatWasEmptiedIsFilledFromMemory(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &store{}
		j := joined(t, s, "replica")
		_, _ = j.Hold(t.Context(), Of(60), Units{})
		j.Settle(Of(60), Of(60), j.Now(), true)
		j.Wait(t.Context())
		for _, data := range [][]byte{nil, []byte("garbage")} {
			s.mu.Lock()
			s.data = data
			s.version++
			s.mu.Unlock()
			ok, err := j.Hold(t.Context(), Of(41), Units{})
			require.NoError(t, err)
			assert.False(t, ok)
		}
		ok, err := j.Hold(t.Context(), Of(40), Units{})
		require.NoError(t, err)
		assert.True(t, ok)
	})
}

// The store fails before and after it did what it was asked for. Nothing is served twice,
// and in the end everything that was used is booked once.
func TestWhatAFailedServerHadNotCopiedIsStoredAgainOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &store{}
		a, b := joined(t, s, "a"), joined(t, s, "b")
		spend := func(j *Joint, units float64) {
			ok, err := j.Hold(t.Context(), Of(units), Units{})
			require.NoError(t, err)
			require.True(t, ok)
			j.Settle(Of(units), Of(units), j.Now(), false)
			j.Wait(t.Context())
		}
		spend(a, 1)
		spend(b, 2)
		copied := account(t, s)
		spend(a, 4)
		spend(a, 8)
		spend(b, 16)
		data, err := json.Marshal(copied)
		require.NoError(t, err)
		s.mu.Lock()
		s.data, s.version = data, s.version+100 // the follower takes over
		s.mu.Unlock()
		require.InDelta(t, 97, left(account(t, s)), 0)
		for range 3 {
			a.Recheck()
			b.Recheck()
			synctest.Wait()
			require.InDelta(t, 69, left(account(t, s)), 0)
		}
		spend(b, 32)
		assert.InDelta(t, 37, left(account(t, s)), 0)

		// What was stored long ago was copied long ago: nothing is kept of it.
		time.Sleep(safeAfter)
		swaps := s.changes()
		a.Recheck()
		b.Recheck()
		synctest.Wait()
		assert.Equal(t, swaps, s.changes())
		assert.Empty(t, a.recent)
	})
}

func TestWhoEndsTriesUntilWhatWasUsedIsStored(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &store{}
		j := joined(t, s, "a")
		ok, err := j.Hold(t.Context(), Of(10), Units{})
		require.NoError(t, err)
		require.True(t, ok)
		s.set(func() (before, after bool) { return true, false })
		j.Settle(Of(10), Of(10), j.Now(), true)
		began := time.Now()
		time.AfterFunc(3*time.Second, func() { s.set(nil) })
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		j.Drain(ctx)
		assert.Less(t, time.Since(began), 4*time.Second)
		assert.InDelta(t, 90, left(account(t, s)), 0)
		assert.False(t, account(t, s).held.Positive())

		s.set(func() (before, after bool) { return true, false })
		j.Drain(ctx) // nothing has to be stored
		assert.Less(t, time.Since(began), 4*time.Second)
		j.Settle(Units{}, Of(1), j.Now(), true)
		j.Drain(ctx)
		assert.Equal(t, 5*time.Second, time.Since(began), "it gives up when the caller does")
		s.set(nil)
	})
}

func TestReplicasAgreeWhateverTheStoreDoes(t *testing.T) {
	t.Parallel()
	for seed := range uint64(60) {
		synctest.Test(t, func(t *testing.T) {
			rnd := rand.New(rand.NewPCG(seed, 5))
			var mu sync.Mutex
			random := func(n int) int {
				mu.Lock()
				defer mu.Unlock()
				return rnd.IntN(n)
			}
			s := &store{}
			s.set(func() (bool, bool) { n := random(10); return n == 0, n == 1 })
			spent := Units{}
			var joints []*Joint
			var group sync.WaitGroup
			for r := range 3 {
				j := joined(t, s, fmt.Sprint("replica ", r))
				joints = append(joints, j)
				for range 20 {
					group.Go(func() {
						for range 5 {
							time.Sleep(time.Duration(random(30_000)) * time.Millisecond)
							units := Of(float64(1 + random(9)))
							ctx, cancel := context.WithTimeout(t.Context(), time.Duration(1+random(2000))*time.Millisecond)
							ok, _ := j.Hold(ctx, units, Units{})
							cancel()
							if !ok {
								continue
							}
							time.Sleep(time.Duration(random(90_000)) * time.Millisecond)
							used := Units{}
							if random(3) > 0 {
								used = units
							}
							mu.Lock()
							spent = spent.Plus(used)
							mu.Unlock()
							j.Settle(units, used, j.Now(), true)
						}
					})
				}
			}
			group.Wait()
			s.set(nil)
			for _, j := range joints {
				j.Wait(t.Context())
			}
			time.Sleep(5 * time.Second)
			for _, j := range joints {
				assert.True(t, j.Idle(), "seed %d", seed)
			}
			a := account(t, s)
			require.False(t, Of(100).Less(spent), "seed %d: more was served than there is", seed)
			require.Equal(t, Of(100).Minus(spent), a.Left(), "seed %d", seed)
		})
	}
}

func TestWhatWasUsedIsBookedBeforeOthersReserveInTheSameStep(t *testing.T) {
	t.Parallel()
	a := &Account{Base: counted(0, 10, at(0)), Counted: true}
	hold := &change{units: Of(1)}
	hold.apply = func(a *Account) bool {
		hold.granted = a.Hold("replica", hold.units, Units{})
		return hold.granted
	}
	settle := &change{lasting: true, frees: Of(10), apply: func(a *Account) bool {
		a.Spend(Of(10), at(0), true)
		return true
	}}
	assert.True(t, a.applied([]*change{hold, settle}))
	assert.False(t, hold.granted, "its ten units are used, and not free")
}
