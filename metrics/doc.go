// Package metrics tells how the gates and customers of a program are doing, to Prometheus
// and whatever reads its text format, without a dependency.
//
//	m := metrics.New()
//	customers, err := polargate.NewCustomers(polargate.CustomersConfig{…})
//	m.Customers("", customers)
//	mux.Handle("GET /metrics", m)
//
// What each figure means is in docs/telemetry.md, with a dashboard and alerts. The module
// polargateotel gives the same figures to OpenTelemetry, under the same names.
//
// Nothing that a caller of your program chooses becomes a label: no customer, key or address. The
// labels of decisions are routes and features, which your program names, and Polargate's own
// words. Should a program take these from its callers all the same, there are about a
// thousand series at most; what comes after them is counted under the route "other".
//
// Put the handler on an address that only your own systems reach.
package metrics
