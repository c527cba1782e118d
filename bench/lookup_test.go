package bench

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/polargate/polargate"
)

// locked is how a cached customer was found before November 2026, and how most programs
// do it: a 2Q cache, whose Get moves what it finds under an exclusive lock.
type locked struct {
	cache *lru.TwoQueueCache[string, *lockedEntry]
	start time.Time
	hits  atomic.Int64
}

type lockedEntry struct {
	value      atomic.Pointer[bareList]
	freshUntil atomic.Int64
}

type bareList struct{ features []string }

func newLocked(tb testing.TB, customers int) *locked {
	tb.Helper()
	cache, err := lru.New2Q[string, *lockedEntry](customers)
	if err != nil {
		tb.Fatal(err)
	}
	return &locked{cache: cache, start: time.Now()}
}

func (l *locked) add(id string) {
	e := &lockedEntry{}
	e.value.Store(&bareList{append([]string(nil), unlocked...)})
	e.freshUntil.Store(int64(24 * time.Hour))
	l.cache.Add(strings.Clone(id), e) // as the id of a request is in memory of its own
}

func (l *locked) has(id, feature string) bool {
	e, ok := l.cache.Get(id)
	if !ok || int64(time.Since(l.start)) >= e.freshUntil.Load() {
		return false
	}
	l.hits.Add(1)
	for _, f := range e.value.Load().features {
		if f == feature {
			return true
		}
	}
	return false
}

// lookupsInATurn is how many look-ups are timed together.
const lookupsInATurn = 256

// fewest has how long turns took.
type fewest struct {
	mu   sync.Mutex
	took []time.Duration
}

func (f *fewest) add(took []time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.took = append(f.took, took...)
}

// tenth is how many nanoseconds a turn took that was faster than nine of ten: one in which the
// computer did nothing else.
func (f *fewest) tenth() float64 {
	if len(f.took) == 0 {
		return 0
	}
	slices.Sort(f.took)
	return float64(f.took[len(f.took)/10])
}

// BenchmarkLookup finds one of 100,000 cached customers, by one goroutine and by up to eight
// at once. The ids come one after the other, as those of requests are at hand, and the
// customers lie anywhere in memory.
func BenchmarkLookup(b *testing.B) {
	for _, of := range lookups(b, 100_000) {
		for _, goroutines := range []int{1, 2, 4, 8} {
			b.Run(fmt.Sprintf("%s/goroutines=%d", of.name, goroutines), func(b *testing.B) {
				lookup(b, of, goroutines)
			})
		}
	}
}

var sizes = flag.Int("sizes", 1_000, "the most customers among whom BenchmarkSizes looks up; the report asks for a million")

// BenchmarkSizes finds one of a thousand, a hundred thousand and a million cached customers, by
// eight goroutines at once.
func BenchmarkSizes(b *testing.B) {
	for _, many := range []int{1_000, 100_000, 1_000_000} {
		if many > *sizes {
			continue
		}
		for _, of := range lookups(b, many) {
			b.Run(fmt.Sprintf("%s/customers=%d", of.name, many), func(b *testing.B) { lookup(b, of, 8) })
		}
	}
}

// finder is a way to find out what a customer has.
type finder struct {
	name string
	ids  []string
	has  func(id string) bool
}

// lookups are the ways that are compared, each with so many customers.
func lookups(b *testing.B, many int) []finder {
	ids := make([]string, many)
	for i := range ids {
		ids[i] = fmt.Sprintf("usr_%d", i)
	}
	order := rand.Perm(many)
	customers := manyCustomers(b, func(c *polargate.CustomersConfig) { c.CacheSize, c.FreshFor = many, 24*time.Hour })
	b.Cleanup(func() { _ = customers.Close() })
	peer := newLocked(b, many)
	// The least that a program could do: nothing goes, and nothing has an age.
	var lock sync.RWMutex
	byHand := map[string]*bareList{}
	var synced sync.Map
	for _, i := range order {
		if _, err := customers.Entitlements(context.Background(), polargate.ExternalID(ids[i])); err != nil {
			b.Fatal(err)
		}
		peer.add(ids[i])
		id := strings.Clone(ids[i])
		byHand[id] = &bareList{append([]string(nil), unlocked...)}
		synced.Store(strings.Clone(id), byHand[id])
	}
	all := []finder{
		{"polargate", ids, func(id string) bool {
			e, err := customers.Entitlements(context.Background(), polargate.ExternalID(id))
			return err == nil && e.Has("export")
		}},
		{"2Q with a lock", ids, func(id string) bool { return peer.has(id, "export") }},
		{"map with a lock", ids, func(id string) bool {
			lock.RLock()
			have := byHand[id]
			lock.RUnlock()
			return have != nil && slices.Contains(have.features, "export")
		}},
		{"sync.Map", ids, func(id string) bool {
			have, ok := synced.Load(id)
			return ok && slices.Contains(have.(*bareList).features, "export")
		}},
	}
	for _, of := range all {
		for _, id := range ids { // the first use of each costs more
			if !of.has(id) {
				b.Fatal("locked")
			}
		}
	}
	return all
}

// lookup measures one way, with so many goroutines at once.
func lookup(b *testing.B, of finder, goroutines int) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(min(goroutines, runtime.NumCPU())))
	var workers atomic.Int64
	b.SetParallelism(max(1, goroutines/runtime.GOMAXPROCS(0)))
	runtime.GC()
	b.ReportAllocs()
	b.ResetTimer()
	var turns fewest
	b.RunParallel(func(pb *testing.PB) {
		took := make([]time.Duration, 0, 1<<16)
		began := time.Now()
		for i := int(workers.Add(1)) * 9973; pb.Next(); i++ {
			if !of.has(of.ids[i%len(of.ids)]) {
				b.Error("locked")
				return
			}
			if i%lookupsInATurn == 0 {
				now := time.Now()
				took, began = append(took, now.Sub(began)), now
			}
		}
		turns.add(took)
	})
	b.ReportMetric(turns.tenth()/lookupsInATurn/float64(runtime.GOMAXPROCS(0)), "ns/undisturbed")
}
