package polargateotel_test

import (
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/polargate/polargate"
	"github.com/polargate/polargate/polargateotel"
	"github.com/stretchr/testify/require"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
)

// BenchmarkOn measures requests of a cached customer with telemetry beside the same without,
// by turns in one run, since machines differ from second to second. "x-off" is how many times
// as long a request takes: 1.15 at most is wanted.
//
//	go test -run xxx -bench On
func BenchmarkOn(b *testing.B) {
	sample := sdkmetric.NewMeterProvider(sdkmetric.WithReader(sdkmetric.NewManualReader()))
	tracer := sdktrace.NewTracerProvider().Tracer("program")
	for _, one := range []struct {
		name    string
		options polargateotel.Options
		spans   bool
		server  bool
	}{
		{"handler/metrics", polargateotel.Options{MeterProvider: sample}, false, false},
		{"server/metrics", polargateotel.Options{MeterProvider: sample}, false, true},
		{"server/metrics and spans", polargateotel.Options{MeterProvider: sample, Spans: true}, true, true},
	} {
		b.Run(one.name, func(b *testing.B) {
			telemetry, err := polargateotel.New(one.options)
			require.NoError(b, err)
			defer func() { require.NoError(b, telemetry.Close()) }()
			_, off := shop(b, func(*polargate.CustomersConfig) {})
			customers, on := shop(b, func(c *polargate.CustomersConfig) {
				if one.spans {
					c.OnDecision = telemetry.Decided
				}
			})
			telemetry.Customers("", customers)
			traced := func(h http.Handler) http.Handler {
				if !one.spans {
					return h
				}
				return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					ctx, span := tracer.Start(r.Context(), "request")
					defer span.End()
					h.ServeHTTP(w, r.WithContext(ctx))
				})
			}
			ask, requests := func(h http.Handler) func(int) { return inProcess(h) }, 2000
			if one.server {
				ask, requests = func(h http.Handler) func(int) { return overLoopback(b, traced(h)) }, 40
			}
			byTurns(b, requests, ask(off), ask(on))
		})
	}
}

func inProcess(h http.Handler) func(int) {
	r, w := request("usr_1"), httptest.NewRecorder()
	return func(n int) {
		for range n {
			h.ServeHTTP(w, r)
		}
	}
}

func overLoopback(b *testing.B, h http.Handler) func(int) {
	server := httptest.NewServer(h)
	b.Cleanup(server.Close)
	return func(n int) {
		for range n {
			r, err := http.NewRequest(http.MethodGet, server.URL, nil)
			require.NoError(b, err)
			r.Header.Set("X-User", "usr_1")
			answer, err := server.Client().Do(r)
			require.NoError(b, err)
			_ = answer.Body.Close()
		}
	}
}

// byTurns reports the ratio of two ways to do the same: of the fastest of many short turns,
// which a busy machine disturbs least.
func byTurns(b *testing.B, turn int, off, on func(int)) {
	fastest := [2]time.Duration{time.Hour, time.Hour}
	off(turn)
	on(turn)
	for b.Loop() {
		for i, do := range []func(int){off, on} {
			began := time.Now()
			do(turn)
			fastest[i] = min(fastest[i], time.Since(began))
		}
	}
	b.ReportMetric(float64(fastest[1])/float64(fastest[0]), "x-off")
	b.ReportMetric(float64(fastest[0].Nanoseconds())/float64(turn), "ns-off")
	b.ReportMetric(float64(fastest[1].Nanoseconds())/float64(turn), "ns-on")
}
