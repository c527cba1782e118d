package bench

import (
	"context"
	"fmt"
	"runtime"
	"runtime/metrics"
	"sync"
	"testing"
	"time"

	"github.com/polargate/polargate"
)

// idleGC is how often the runtime collects garbage in a program that makes none.
const idleGC = 2 * time.Minute

// TestGarbageCollectionOfAFullCache measures what the garbage collector takes to look through a
// cache, and for how long the program stands still. It measures time, and so expects nothing
// of it.
func TestGarbageCollectionOfAFullCache(t *testing.T) {
	count := 10_000
	if *whole {
		count = 1_000_000
	}
	customers := manyCustomers(t, func(c *polargate.CustomersConfig) { c.CacheSize, c.FreshFor = count, 24*time.Hour })
	defer customers.Close()
	var filling sync.WaitGroup
	for part := range 4 {
		filling.Go(func() {
			for i := part; i < count; i += 4 {
				if _, err := customers.Entitlements(context.Background(), polargate.ExternalID(fmt.Sprintf("usr_%d", i))); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	filling.Wait()
	// On one processor a pause is as long as what is done in it, and not as long as a busy
	// computer takes to stop what runs on the others.
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	runtime.GC()
	const cycles = 20
	cpuBefore, pausesBefore := collector()
	for range cycles {
		runtime.GC()
	}
	cpu, pauses := collector()
	each := (cpu - cpuBefore) / cycles
	var all, seen uint64
	for i := range pauses.Counts {
		pauses.Counts[i] -= pausesBefore.Counts[i]
		all += pauses.Counts[i]
	}
	var half, most, longest float64 // ms
	for i, n := range pauses.Counts {
		if n == 0 {
			continue
		}
		longest = 1000 * pauses.Buckets[i]
		if seen*2 < all {
			half = longest
		}
		if seen*10 < all*9 {
			most = longest
		}
		seen += n
	}
	idle := 100 * each / idleGC.Seconds()
	tell("garbage", fmt.Sprint(count), fmt.Sprintf("%.2f s", each), fmt.Sprintf("%.2f %%", idle),
		fmt.Sprintf("%.3f", half), fmt.Sprintf("%.3f", most), fmt.Sprintf("%.3f", longest))
	t.Logf("%d customers: %.3f s of processor a cycle, %.2f %% of one core while idle; of %d pauses, half took at most %.3f ms, nine of ten %.3f ms, and the longest %.3f ms",
		count, each, idle, all, half, most, longest)
	runtime.KeepAlive(customers)
}

// collector is how many seconds of processor time the garbage collector has had, and how long
// the program stood still for it.
func collector() (cpu float64, pauses *metrics.Float64Histogram) {
	read := []metrics.Sample{{Name: "/cpu/classes/gc/total:cpu-seconds"}, {Name: "/sched/pauses/total/gc:seconds"}}
	metrics.Read(read)
	cpu = read[0].Value.Float64()
	h := *read[1].Value.Float64Histogram()
	h.Counts = append([]uint64(nil), h.Counts...)
	return cpu, &h
}
