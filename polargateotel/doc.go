// Package polargateotel gives the figures and decisions of a program to OpenTelemetry: metrics
// by observable instruments, and decisions as events on spans. It uses the provider that it
// is given, never the global one.
//
//	telemetry, err := polargateotel.New(polargateotel.Options{MeterProvider: meters, Spans: true})
//	customers, err := polargate.NewCustomers(polargate.CustomersConfig{…, OnDecision: telemetry.Decided})
//	telemetry.Customers("", customers)
//
// OnDecision is needed for Spans alone.
//
// The metrics are those of package metrics, under the same names once they are exported to
// Prometheus. Their names begin with "polargate.": no other instrument may have one that
// does, because two that meet after renaming fail the whole scrape.
package polargateotel
