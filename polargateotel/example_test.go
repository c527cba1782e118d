package polargateotel_test

import (
	"context"
	"fmt"

	"github.com/polargate/polargate"
	"github.com/polargate/polargate/polargateotel"
	"github.com/polargate/polargate/polartest"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
)

func Example() {
	reader := sdkmetric.NewManualReader() // in a server, an exporter's
	meters := sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader))
	telemetry, err := polargateotel.New(polargateotel.Options{MeterProvider: meters, Spans: true})
	if err != nil {
		panic(err)
	}
	defer telemetry.Close()

	polar := polartest.New(polartest.Config{})
	customers, err := polargate.NewCustomers(polargate.CustomersConfig{
		AccessToken: polar.AddToken(polartest.Token{}), // from the environment, in a server
		OnDecision:  telemetry.Decided,                 // for events on spans
		BaseURL:     polar.URL(),                       // a server leaves these two out
		HTTPClient:  polar.Client(),
	})
	if err != nil {
		panic(err)
	}
	defer customers.Close()
	telemetry.Customers("", customers)
	customers.Decide(context.Background(), polargate.ExternalID("usr_1337"), polargate.Feature("export"))

	var read metricdata.ResourceMetrics
	if err := reader.Collect(context.Background(), &read); err != nil {
		panic(err)
	}
	for _, m := range read.ScopeMetrics[0].Metrics {
		if m.Name == "polargate.decisions" {
			for _, point := range m.Data.(metricdata.Sum[float64]).DataPoints {
				outcome, _ := point.Attributes.Value("outcome")
				fmt.Println(m.Name, outcome.AsString(), point.Value)
			}
		}
	}
	// Output: polargate.decisions unpaid 1
}

// A program with a license tells in which state it is.
func ExampleTelemetry_Gate() {
	telemetry, err := polargateotel.New(polargateotel.Options{MeterProvider: sdkmetric.NewMeterProvider()})
	if err != nil {
		panic(err)
	}
	defer telemetry.Close()
	gate, err := polargate.Open(polargate.Config{OrganizationID: "3ca4b5c6-8f2f-4a59-9f0f-4c3f5f0d9a11", App: "inkwell", Store: &polargate.MemoryStore{}})
	if err != nil {
		panic(err)
	}
	defer gate.Close()
	telemetry.Gate("", gate)
	// Output:
}
