package bench

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"
	"time"

	"github.com/polargate/polargate"
)

// inTurns is how long each of several functions takes, in nanoseconds. They run in short
// turns, one after the other, and the fastest tenth of a function's turns counts: those in
// which the computer did nothing else. So their ratios can be trusted on a busy one too.
func inTurns(calls, turns int, functions ...func()) []float64 {
	took := make([][]time.Duration, len(functions))
	for range turns {
		for i, f := range functions {
			began := time.Now()
			for range calls {
				f()
			}
			took[i] = append(took[i], time.Since(began))
		}
	}
	ns := make([]float64, len(functions))
	for i := range took {
		slices.Sort(took[i])
		ns[i] = float64(took[i][turns/10].Nanoseconds()) / float64(calls)
	}
	return ns
}

// BenchmarkInTurns compares what is compared elsewhere too, for a computer that is busy.
func BenchmarkInTurns(b *testing.B) {
	next := http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})
	serving := func(handler http.Handler) func() {
		r := httptest.NewRequest(http.MethodGet, "/export", nil)
		r.Header.Set("X-User", "usr_1337")
		w := httptest.NewRecorder()
		return func() { handler.ServeHTTP(w, r) }
	}
	byHand := map[string]*bare{"usr_1337": newBare()}
	hand := serving(guard(func(user string) (any, bool) {
		have, ok := byHand[user]
		if !ok {
			return nil, false
		}
		_, ok = have.features["export"]
		return have, ok
	}, next))
	customers := newCustomers(b)
	gated := serving(customers.Middleware(byHeader, polargate.Feature("export"))(next))
	const alone = "middleware"
	b.Run(alone, func(b *testing.B) {
		var ns []float64
		for b.Loop() {
			ns = inTurns(200, 5000, hand, gated)
		}
		b.ReportMetric(ns[0], "ns/byhand")
		b.ReportMetric(ns[1], "ns/polargate")
		b.ReportMetric(ns[1]/ns[0], "x")
	})
	b.Run("look-up of one", func(b *testing.B) {
		ref := polargate.ExternalID("usr_1337")
		have := newBare()
		m := map[string]*bare{"usr_1337": have}
		var ns []float64
		for b.Loop() {
			ns = inTurns(500, 5000, func() { _, _ = m["usr_1337"].features["export"] }, func() {
				e, err := customers.Entitlements(context.Background(), ref)
				if err != nil || !e.Has("export") {
					b.Fatal(fmt.Sprint("locked: ", err))
				}
			})
		}
		b.ReportMetric(ns[0], "ns/byhand")
		b.ReportMetric(ns[1], "ns/polargate")
	})
}
