package servers

import (
	"context"
	"fmt"
	"runtime"
	"testing"

	"github.com/polargate/polargate"
	"github.com/polargate/polargate/polartest"
	"github.com/polargate/polargate/tests/internal/kit"
)

// BenchmarkTenThousandStreams opens and closes a stream beside 10,000 others of 1,000
// customers, and reports what each of those costs.
func BenchmarkTenThousandStreams(b *testing.B) {
	polar := polartest.New(polartest.Config{Unlimited: true})
	customers, err := polargate.NewCustomers(polargate.CustomersConfig{
		AccessToken: polar.AddToken(polartest.Token{}), BaseURL: polar.URL(), HTTPClient: polar.Client(),
		Features: map[string][]string{kit.ProBenefit: {"pro"}}, RequestsPerMinute: 1_000_000,
	})
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = customers.Close() }()
	const people, streams = 1000, 10
	refs := make([]polargate.CustomerRef, people)
	for i := range refs {
		id := fmt.Sprint("usr_", i)
		polar.AddCustomer(polartest.Customer{ExternalID: id, Benefits: []polartest.Benefit{{BenefitID: kit.ProBenefit}}})
		refs[i] = polargate.ExternalID(id)
		if _, err := customers.Entitlements(b.Context(), refs[i]); err != nil {
			b.Fatal(err)
		}
	}
	pro := polargate.Feature("pro")
	ctx, cancel := context.WithCancel(b.Context())
	defer cancel()
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	routines := runtime.NumGoroutine()
	for range streams {
		for _, ref := range refs {
			watched, _ := customers.Watch(ctx, ref, pro) //nolint:govet // they end with ctx
			if watched.Err() != nil {
				b.Fatal(context.Cause(watched))
			}
		}
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	routines = runtime.NumGoroutine() - routines
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		_, stop := customers.Watch(ctx, refs[i%people], pro)
		stop()
	}
	b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/(people*streams), "B/stream")
	b.ReportMetric(float64(routines), "goroutines")
}
