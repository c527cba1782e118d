package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/polargate/polargate"
)

const usageMeter = "aaf2bfea-ac4f-40eb-99ad-de858ccdfd97"

// metering is a Polar on a loopback port at which every customer has a meter, and that counts
// the events that it is told of.
type metering struct {
	*httptest.Server
	balance          atomic.Int64
	requests, events atomic.Int64
}

func newMetering(tb testing.TB) *metering {
	m := &metering{}
	m.balance.Store(1_000_000_000)
	m.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		if r.Method == http.MethodGet {
			state := bytes.Replace(stateOf("usr_1"), []byte(`"active_meters":[]`), fmt.Appendf(nil, `"active_meters":[{"meter_id":%q,"consumed_units":0,"credited_units":%[2]d,"balance":%[2]d}]`, usageMeter, m.balance.Load()), 1)
			_, _ = w.Write(state)
			return
		}
		var sent struct{ Events []json.RawMessage }
		if err := json.NewDecoder(r.Body).Decode(&sent); err != nil {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		m.requests.Add(1)
		m.events.Add(int64(len(sent.Events)))
		_, _ = fmt.Fprintf(w, `{"inserted":%d,"duplicates":0}`, len(sent.Events))
	}))
	tb.Cleanup(m.Close)
	return m
}

func (m *metering) customers(tb testing.TB, change func(*polargate.CustomersConfig)) *polargate.Customers {
	tb.Helper()
	config := polargate.CustomersConfig{AccessToken: "polar_oat_usage", BaseURL: m.URL, FreshFor: time.Hour}
	change(&config)
	customers, err := polargate.NewCustomers(config)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = customers.Close() })
	if _, err := customers.Entitlements(context.Background(), polargate.ExternalID("usr_1")); err != nil {
		tb.Fatal(err)
	}
	return customers
}

// BenchmarkReserveAndCommit holds units and books what was used, without a store and without
// an event.
func BenchmarkReserveAndCommit(b *testing.B) {
	customers := newMetering(b).customers(b, func(*polargate.CustomersConfig) {})
	ctx, customer := context.Background(), polargate.ExternalID("usr_1")
	b.ReportAllocs()
	for b.Loop() {
		r, refusal := customers.Reserve(ctx, customer, usageMeter, 2)
		if refusal != nil {
			b.Fatal(refusal)
		}
		if err := r.Commit(ctx, 0.7, polargate.Usage{}); err != nil {
			b.Fatal(err)
		}
	}
}

// TestABurstIsServedWhatThereIs sends 600 requests at once to three replicas that share a store,
// for a customer who has 100 units left.
func TestABurstIsServedWhatThereIs(t *testing.T) {
	polar, shared := newMetering(t), polargate.SharedInMemory()
	polar.balance.Store(100)
	var sold atomic.Int64
	var group sync.WaitGroup
	start := make(chan struct{})
	for range 3 {
		customers := polar.customers(t, func(c *polargate.CustomersConfig) {
			c.Shared, c.OrganizationID, c.Secret, c.UsageFolder = shared, organization, "a secret that only a benchmark has", t.TempDir()
		})
		for range 200 {
			group.Go(func() {
				<-start
				for {
					r, refusal := customers.Reserve(t.Context(), polargate.ExternalID("usr_1"), usageMeter, 1)
					if refusal != nil && refusal.Status == http.StatusServiceUnavailable { // a busy machine
						time.Sleep(10 * time.Millisecond)
						continue
					}
					if refusal == nil && r.Commit(t.Context(), 1, polargate.Usage{Name: "call"}) == nil {
						sold.Add(1)
					}
					return
				}
			})
		}
	}
	close(start)
	group.Wait()
	if sold.Load() != 100 {
		t.Errorf("%d were served", sold.Load())
	}
	tell("burst", "sold", fmt.Sprint(sold.Load()))
}

// TestUsageThroughTheOutbox sends events through a folder, in batches, and beside that one
// request for each event, as a handler does that sends its own. It tells requests, time and
// the most memory that was in use.
func TestUsageThroughTheOutbox(t *testing.T) {
	events := 10_000
	if *whole {
		events = 100_000
	}
	ctx := t.Context()
	usage := polargate.Usage{Name: "tokens", Metadata: map[string]any{"model": "small", "route": "/v1/complete"}}

	polar := newMetering(t)
	customers := polar.customers(t, func(c *polargate.CustomersConfig) { c.UsageFolder = t.TempDir() })
	var running sync.WaitGroup
	sending, stop := context.WithCancel(ctx)
	running.Go(func() { _ = customers.RunUsage(sending) })
	most := watchMemory(sending, &running)
	began := time.Now()
	for i := range events {
		r, refusal := customers.Reserve(ctx, polargate.ExternalID("usr_1"), usageMeter, 500)
		if refusal != nil {
			t.Fatal(refusal)
		}
		if err := r.Commit(ctx, float64(i%500), usage); err != nil {
			t.Fatal(err)
		}
	}
	committed := time.Since(began)
	want := int64(events - events/500) // nothing used is no event
	for polar.events.Load() < want {
		time.Sleep(10 * time.Millisecond)
	}
	took := time.Since(began)
	stop()
	running.Wait()
	t.Logf("outbox: %d events, committed in %.1f s, at Polar after %.1f s, %d requests of 300 a minute, at most %d MiB in use",
		want, committed.Seconds(), took.Seconds(), polar.requests.Load(), most.Load()>>20)
	if *whole && (took > time.Minute || most.Load() > 64<<20) {
		t.Error("more than a minute, or than 64 MiB")
	}

	naive := newMetering(t)
	began = time.Now()
	var group sync.WaitGroup
	next := atomic.Int64{}
	for range 2 * runtime.GOMAXPROCS(0) {
		group.Go(func() {
			for next.Add(1) <= int64(events) {
				body, _ := json.Marshal(map[string]any{"events": []any{map[string]any{"name": "tokens", "external_customer_id": "usr_1", "metadata": usage.Metadata}}})
				resp, err := naive.Client().Post(naive.URL+"/v1/events/ingest", "application/json", bytes.NewReader(body))
				if err != nil {
					t.Error(err)
					return
				}
				_, _ = io.Copy(io.Discard, resp.Body)
				_ = resp.Body.Close()
			}
		})
	}
	group.Wait()
	t.Logf("one request for each event: %d events, %.1f s if Polar had no limit, %d requests, which are %d minutes at 300 a minute",
		naive.events.Load(), time.Since(began).Seconds(), naive.requests.Load(), naive.requests.Load()/300)
}

// watchMemory tells the most memory that was in use.
func watchMemory(ctx context.Context, running *sync.WaitGroup) *atomic.Int64 {
	runtime.GC()
	most := &atomic.Int64{}
	running.Go(func() {
		for ctx.Err() == nil {
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			most.Store(max(most.Load(), int64(m.HeapInuse+m.StackInuse)))
			time.Sleep(20 * time.Millisecond)
		}
	})
	return most
}
