package lookup

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

type item struct{ key int }

// spread is a hash under which few keys collide, and crowded one under which most do.
func spread(i *item) uint64  { return uint64(i.key) * 0x9e3779b97f4a7c15 }
func crowded(i *item) uint64 { return uint64(i.key % 5) }

func (i *item) is(other *item) bool { return i.key == other.key }

func TestATableFindsWhatAMapWouldWhateverCollides(t *testing.T) {
	t.Parallel()
	for name, hash := range map[string]func(*item) uint64{"few": spread, "many": crowded} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			table, model, rnd := NewTable(hash), map[int]*item{}, rand.New(rand.NewPCG(1, 2))
			for range 20_000 {
				key := &item{rnd.IntN(200)}
				switch v := model[key.key]; {
				case v == nil:
					table.Insert(key)
					model[key.key] = key
				case rnd.IntN(2) == 0:
					require.False(t, table.Replace(hash(key), key, v), "another value of the same key is not replaced")
					require.True(t, table.Replace(hash(v), v, key))
					model[key.key] = key
				case rnd.IntN(2) == 0:
					require.False(t, table.Remove(hash(key), key), "another value of the same key stays")
					require.True(t, table.Remove(hash(v), v))
					delete(model, key.key)
				}
				require.Equal(t, len(model), table.Len())
				look := &item{rnd.IntN(200)}
				require.Same(t, model[look.key], table.Find(hash(look), look.is))
			}
			assert.LessOrEqual(t, len(table.slots.Load().values), 1024, "places of what was removed are used again")
		})
	}
}

func TestReadersFindWhatStaysWhileATableChanges(t *testing.T) {
	t.Parallel()
	table := NewTable(spread)
	for i := range 100 {
		table.Insert(&item{i})
	}
	var stop atomic.Bool
	var readers sync.WaitGroup
	for range 4 {
		readers.Go(func() {
			for !stop.Load() {
				look := &item{rand.IntN(100)}
				if v := table.Find(spread(look), look.is); v == nil || v.key != look.key {
					t.Errorf("%d was not found", look.key)
					return
				}
			}
		})
	}
	for round := range 50 {
		var others []*item
		for i := range 300 {
			others = append(others, &item{1000*(round+1) + i})
			table.Insert(others[i])
		}
		for _, v := range others {
			table.Remove(spread(v), v)
		}
		for i := range 100 {
			was := &item{i}
			was = table.Find(spread(was), was.is)
			require.True(t, table.Replace(spread(was), was, &item{i}))
		}
	}
	stop.Store(true)
	readers.Wait()
	assert.Equal(t, 100, table.Len())
}

func TestAUseIsNotedOnceInAPeriod(t *testing.T) {
	t.Parallel()
	table, one := NewTable(spread), &item{1}
	table.Insert(one)
	noted := 0
	use := func(now Period, done bool) {
		t.Helper()
		require.Same(t, one, table.Use(spread(one), now, one.is, func(v *item) bool {
			require.Same(t, one, v)
			noted++
			return done
		}))
	}
	use(1, false)
	use(1, true)
	assert.Equal(t, 2, noted, "what could not be noted is tried again")
	use(1, true)
	assert.Equal(t, 2, noted)
	use(2, true)
	use(1, true) // the count of periods starts anew at some time
	assert.Equal(t, 4, noted)
	assert.Nil(t, table.Use(spread(&item{2}), 3, (&item{2}).is, func(*item) bool { noted++; return true }))
	assert.Equal(t, 4, noted)
}

// cached is a cache and what it has dropped.
func cached(t *testing.T, size int) (c *Cache[item], add func(key int), dropped *int) {
	t.Helper()
	c, err := NewCache(size, spread)
	require.NoError(t, err)
	dropped = new(int)
	return c, func(key int) { c.Add(&item{key}, func(*item) { *dropped++ }) }, dropped
}

func (i *item) in(c *Cache[item]) *item { return c.Find(spread(i), i.is) }

func TestACacheKeepsFewMoreThanItsSize(t *testing.T) {
	t.Parallel()
	for _, size := range []int{2, 4, 10, 1000, 10_000} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			t.Parallel()
			c, add, dropped := cached(t, size)
			for i := range 4 * size {
				add(i)
				require.Equal(t, i+1-*dropped, c.Len())
				require.LessOrEqual(t, c.Len(), size+size/12)
				require.NotNil(t, (&item{i}).in(c), "the newest stays")
			}
			assert.GreaterOrEqual(t, c.Len(), size)
		})
	}
}

func TestEntriesUsedOnceDoNotEvictThoseUsedOften(t *testing.T) {
	t.Parallel()
	c, add, _ := cached(t, 1000)
	for i := range 500 {
		add(i)
		require.True(t, c.Touch((&item{i}).in(c)))
	}
	for i := range 10_000 {
		add(1_000_000 + i)
	}
	for i := range 500 {
		require.NotNil(t, (&item{i}).in(c), i)
	}
}

func TestAValueThatWasToGoStaysIfItIsUsed(t *testing.T) {
	t.Parallel()
	c, add, dropped := cached(t, 1000)
	for i := range 1001 {
		add(i)
	}
	gone := (&item{0}).in(c)
	require.NotNil(t, gone, "the search for what is to go has not come to it")
	require.False(t, c.keeps(spread(gone)))
	require.True(t, c.Touch(gone))
	for i := range 5000 {
		add(1_000_000 + i)
	}
	assert.Same(t, gone, (&item{0}).in(c))
	assert.Positive(t, *dropped)
}

func TestWhoIsKeptIsWhomA2QCacheOfHashicorpKeeps(t *testing.T) {
	t.Parallel()
	for _, size := range []int{2, 3, 4, 5, 8, 100, 1000} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			t.Parallel()
			rnd := rand.New(rand.NewPCG(uint64(size), 1))
			kept, err := newTwoQueue(size)
			require.NoError(t, err)
			model, err := lru.New2Q[uint64, struct{}](size)
			require.NoError(t, err)
			often := rand.NewZipf(rnd, 1.1, 1, uint64(4*size))
			for range 20_000 {
				hash := often.Uint64() // crowded: low bits choose the place
				if rnd.IntN(3) == 0 {
					hash = rnd.Uint64N(uint64(4 * size))
				}
				hash <<= 2 * (hash % 2)
				switch rnd.IntN(8) {
				case 0:
					kept.remove(hash)
					model.Remove(hash)
				case 1, 2, 3:
					_, ok := model.Get(hash)
					require.Equal(t, ok, kept.use(hash))
				default:
					kept.add(hash)
					model.Add(hash, struct{}{})
				}
				look := rnd.Uint64N(uint64(4 * size))
				require.Equal(t, model.Contains(look), kept.has(look))
				require.Equal(t, model.Len(), kept.count[recent]+kept.count[frequent])
			}
			for _, hash := range model.Keys() {
				require.True(t, kept.has(hash))
			}
			assert.LessOrEqual(t, len(kept.nodes), size+size/2+2+int(lastList), "the places of what is forgotten are used again")
		})
	}
}

func TestAUseIsNotNotedRatherThanWaitedFor(t *testing.T) {
	t.Parallel()
	c, add, _ := cached(t, 4)
	add(1)
	c.mu.Lock()
	assert.False(t, c.Touch((&item{1}).in(c)))
	c.mu.Unlock()
	assert.True(t, c.Touch((&item{1}).in(c)))
}

func TestWhatWasRemovedCanBeAddedAgain(t *testing.T) {
	t.Parallel()
	c, add, dropped := cached(t, 4)
	add(1)
	old := (&item{1}).in(c)
	c.Remove(old)
	require.Nil(t, (&item{1}).in(c))
	c.Remove(old)
	add(1)
	assert.NotSame(t, old, (&item{1}).in(c))
	assert.Equal(t, 1, c.Len())
	assert.Zero(t, *dropped)
}

func TestACacheNeedsASize(t *testing.T) {
	t.Parallel()
	for _, size := range []int{-1, 0, 1} {
		_, err := NewCache(size, spread)
		assert.Error(t, err, size)
	}
}

func TestLookingUpAllocatesNothing(t *testing.T) {
	c, add, _ := cached(t, 4) // not parallel: allocations of others would count
	add(1)
	look := &item{1}
	assert.Zero(t, testing.AllocsPerRun(100, func() { _ = c.Find(spread(look), func(i *item) bool { return i.key == look.key }) }))
}

func TestACounterLosesNothing(t *testing.T) {
	t.Parallel()
	var c Counter
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 1000 {
				c.Add()
			}
		})
	}
	all.Wait()
	assert.EqualValues(t, 8000, c.Load())
}
