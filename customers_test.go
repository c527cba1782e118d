package polargate

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"runtime"
	"sync/atomic"
	"testing"
	"time"
	"unique"

	"github.com/polargate/polargate/internal/link"
	"github.com/polargate/polargate/internal/memory"
	"github.com/polargate/polargate/internal/rights"
	"github.com/stretchr/testify/require"
)

const benchCustomer = "8b4a91e8-8712-4bc8-9e43-9b5406427b62"

// stateOf is a customer state with a number of benefits, as Polar writes it.
func stateOf(id, external string, benefits int) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, `{"id":%q,"external_id":%q,"organization_id":%q,"deleted_at":null,"active_subscriptions":[{"product_id":"8c499570-3242-437e-a9f5-6fee6cff7593","status":"active"}],"active_meters":[{"meter_id":"aaf2bfea-ac4f-40eb-99ad-de858ccdfd97","consumed_units":25.5,"credited_units":100,"balance":74.5}],"granted_benefits":[`, id, external, testOrganization)
	for i := range benefits {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, `{"benefit_id":"850cc3a4-3ed7-4be6-b198-127ec8d3%04d","benefit_type":"custom","benefit_metadata":{"tier":"gold","n":%d}}`, i, i)
	}
	b.WriteString(`]}`)
	return b.Bytes()
}

func benchFeatures() map[string][]string {
	features := map[string][]string{}
	for i := range 10 {
		features[fmt.Sprintf("850cc3a4-3ed7-4be6-b198-127ec8d3%04d", i)] = []string{fmt.Sprintf("feature-%d", i)}
	}
	return features
}

// benchCustomers has one customer in its cache, with ten benefits.
func benchCustomers(b *testing.B) *Customers {
	b.Helper()
	customers, err := NewCustomers(CustomersConfig{
		AccessToken: "polar_oat_bench", Features: benchFeatures(),
		HTTPClient: &http.Client{Transport: oneAnswer(func() *http.Response {
			return &http.Response{StatusCode: 200, ProtoMajor: 1, ProtoMinor: 1, Header: http.Header{"Content-Type": {"application/json"}}, Body: io.NopCloser(bytes.NewReader(stateOf(benchCustomer, "usr_1337", 10)))}
		})},
	})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = customers.Close() })
	if _, err := customers.Entitlements(context.Background(), ExternalID("usr_1337")); err != nil {
		b.Fatal(err)
	}
	return customers
}

// byHand is what a program would write: a map of customers, and who it is in the
// request's context.
func byHand(features map[string]map[string]struct{}, next http.Handler) http.Handler {
	type key struct{}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		have := features[r.Header.Get("X-User")]
		if _, ok := have["feature-7"]; !ok {
			w.WriteHeader(http.StatusPaymentRequired)
			return
		}
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), key{}, have)))
	})
}

// BenchmarkMiddleware is a request of a cached customer, beside the same by hand.
func BenchmarkMiddleware(b *testing.B) {
	next := http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})
	customers := benchCustomers(b)
	mine := map[string]struct{}{}
	for _, f := range benchFeatures() {
		mine[f[0]] = struct{}{}
	}
	for name, handler := range map[string]http.Handler{
		"polargate": customers.Middleware(func(r *http.Request) CustomerRef { return ExternalID(r.Header.Get("X-User")) }, Feature("feature-7"))(next),
		"by hand":   byHand(map[string]map[string]struct{}{"usr_1337": mine}, next),
	} {
		b.Run(name, func(b *testing.B) {
			r := httptest.NewRequest(http.MethodGet, "/export", nil)
			r.Header.Set("X-User", "usr_1337")
			w := httptest.NewRecorder()
			b.ReportAllocs()
			for b.Loop() {
				handler.ServeHTTP(w, r)
			}
		})
	}
}

// BenchmarkEntitlements is a look-up in what is known of a customer.
func BenchmarkEntitlements(b *testing.B) {
	state, err := rights.ReadState(stateOf(benchCustomer, "usr_1337", 10), "", benchFeatures())
	if err != nil {
		b.Fatal(err)
	}
	e := (*Entitlements)(state)
	all := All(Feature("feature-7"), Benefit("850cc3a4-3ed7-4be6-b198-127ec8d30003"), Meter("aaf2bfea-ac4f-40eb-99ad-de858ccdfd97", 1))
	b.Run("Has", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if !e.Has("feature-7") {
				b.Fatal("locked")
			}
		}
	})
	b.Run("Meets three", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if !e.Meets(all) {
				b.Fatal("locked")
			}
		}
	})
}

// BenchmarkCustomerMemory is what one more customer with ten benefits takes in the
// cache.
func BenchmarkCustomerMemory(b *testing.B) {
	const customers = 20_000
	features := benchFeatures()
	for b.Loop() {
		cache, err := memory.New(2 * customers)
		if err != nil {
			b.Fatal(err)
		}
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		for i := range customers {
			id := fmt.Sprintf("8b4a91e8-8712-4bc8-9e43-%012d", i)
			e, err := rights.ReadState(stateOf(id, fmt.Sprintf("usr_%d", i), 10), "", features)
			if err != nil {
				b.Fatal(err)
			}
			cache.Store(memory.Key{Kind: memory.ByExternalID, ID: e.External()}, e, 0)
		}
		runtime.GC()
		runtime.ReadMemStats(&after)
		b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/customers, "B/customer")
		runtime.KeepAlive(cache)
	}
	runtime.KeepAlive(unique.Make(""))
}

// BenchmarkLookup is a look-up among 100,000 customers in the cache, by one goroutine
// and by eight at once. The ids come one after the other, as those of requests are at
// hand, and the customers lie anywhere in memory.
func BenchmarkLookup(b *testing.B) {
	const known = 100_000
	customers, err := NewCustomers(CustomersConfig{AccessToken: "polar_oat_bench", Features: benchFeatures(), CacheSize: known, FreshFor: 24 * time.Hour})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = customers.Close() })
	refs := make([]CustomerRef, known)
	for i := range refs {
		refs[i] = ExternalID(fmt.Sprintf("usr_%d", i))
	}
	for _, i := range rand.Perm(known) {
		e, err := rights.ReadState(stateOf(fmt.Sprintf("8b4a91e8-8712-4bc8-9e43-%012d", i), refs[i].key.ID, 10), "", benchFeatures())
		if err != nil {
			b.Fatal(err)
		}
		customers.cache.Store(refs[i].key, e, 0)
	}
	for _, ref := range refs { // the first use of each costs more
		if _, err := customers.Entitlements(context.Background(), ref); err != nil {
			b.Fatal(err)
		}
	}
	for _, goroutines := range []int{1, 8} {
		b.Run(fmt.Sprintf("goroutines=%d", goroutines), func(b *testing.B) {
			defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(min(goroutines, runtime.NumCPU())))
			var workers atomic.Int64
			b.SetParallelism(max(1, goroutines/runtime.GOMAXPROCS(0)))
			runtime.GC()
			b.ReportAllocs()
			b.ResetTimer()
			b.RunParallel(func(pb *testing.PB) {
				for i := int(workers.Add(1)) * 9973; pb.Next(); i++ {
					if e, err := customers.Entitlements(context.Background(), refs[i%known]); err != nil || !e.Has("feature-7") {
						b.Error("locked", err)
						return
					}
				}
			})
		})
	}
}

// BenchmarkServer is a server on loopback under as many clients as there are
// processors, with the middleware and without.
func BenchmarkServer(b *testing.B) {
	next := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "exported") })
	customers := benchCustomers(b)
	gate := customers.Middleware(func(r *http.Request) CustomerRef { return ExternalID(r.Header.Get("X-User")) }, Feature("feature-7"))
	for _, server := range []struct {
		name    string
		handler http.Handler
	}{{"without", next}, {"with", gate(next)}} {
		b.Run(server.name, func(b *testing.B) {
			s := httptest.NewServer(server.handler)
			defer s.Close()
			client := s.Client()
			client.Transport.(*http.Transport).MaxIdleConnsPerHost = 64
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					r, _ := http.NewRequest(http.MethodGet, s.URL, nil)
					r.Header.Set("X-User", "usr_1337")
					resp, err := client.Do(r)
					if err != nil {
						b.Error(err)
						return
					}
					_, _ = io.Copy(io.Discard, resp.Body)
					_ = resp.Body.Close()
					if resp.StatusCode != http.StatusOK {
						b.Errorf("status %d", resp.StatusCode)
						return
					}
				}
			})
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "req/s")
		})
	}
}

// FuzzRecordsOfReplicas has another build of the program, which has the secret, put anything
// into the store that replicas share.
func FuzzRecordsOfReplicas(f *testing.F) {
	const org, id = testOrganization, "8d8a7abc-87f9-4fe4-8680-86d3a0c05924"
	for _, text := range []string{
		`{"v":1,"at":1795348800000000000,"org":"` + org + `","customer":{"known":true,"id":"` + id + `","external":"usr","benefits":[{"id":"` + proID + `","metadata":"{\"a\":1}","properties":"{"}],"products":["p",""],"subscriptions":[{"product":"p","end":-9223372036854775808}],"meters":[{"id":"m","balance":1.7e308,"counted":-1}],"keys":[{"id":"` + id + `","granted":true,"at":9223372036854775807}]}}`,
		`{"v":1,"at":-1,"customer":{"id":"` + id + `"}}`,
		`{"v":1,"at":0,"customer":{"known":true,"event":true,"doubtful":true,"id":"x"}}`,
		`{"v":1,"at":5,"org":"another","customer":{"external":"\ud800"}}`,
		`{"v":1,"at":9223372036854775807,"license":{"id":"","status":"granted","benefit":"` + proID + `","usage":-1,"expires":-1,"ends":1}}`,
		`{"v":1,"refused":"no such word"}`, `{"v":1,"dropped":{"license":"` + id + `","revoked":true}}`, `{"v":2}`, ``,
	} {
		f.Add([]byte(text), int64(1_795_348_800_000_000_000))
	}
	f.Fuzz(func(t *testing.T, data []byte, at int64) {
		store := SharedInMemory()
		customers := offlineCustomers(t, func(c *CustomersConfig) {
			c.Shared, c.Secret, c.Timeout, c.CacheSize = store, "a secret of twenty bytes and more", time.Millisecond, 8
		})
		r := customers.replicas.Link
		for _, name := range []link.Name{r.Name("customer", id), r.Name("external id", "usr"), r.Name("license key", "INKWELL-KEY"), r.Name("license", id)} {
			if _, err := r.Put(t.Context(), link.Fact{Name: name, At: time.Unix(0, at), Data: data, TTL: time.Hour}); err != nil {
				return // a busy computer, or more than a record takes
			}
		}
		for _, ref := range []CustomerRef{CustomerID(id), ExternalID("usr")} {
			e, err := customers.Entitlements(t.Context(), ref)
			if err != nil {
				continue
			}
			_, err = json.Marshal(e)
			require.NoError(t, err)
			require.Equal(t, e.Known() && e.Has("pro"), e.Meets(Feature("pro")))
			for _, m := range e.Meters() {
				_ = e.Meets(Meter(m.ID(), 1))
			}
			_, _, _ = customers.Spend(t.Context(), ref, "m", 1) // which Polar can't be told of
		}
		if e, refusal := customers.DecideLicense(t.Context(), "INKWELL-KEY", Feature("pro")); refusal == nil {
			require.True(t, e.Has("pro"))
		}
		require.Zero(t, customers.Stats().Panics)
	})
}
