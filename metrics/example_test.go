package metrics_test

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"regexp"

	"github.com/polargate/polargate"
	"github.com/polargate/polargate/metrics"
	"github.com/polargate/polargate/polartest"
)

func Example() {
	polar := polartest.New(polartest.Config{})
	m := metrics.New()
	customers, err := polargate.NewCustomers(polargate.CustomersConfig{
		AccessToken: polar.AddToken(polartest.Token{}), // from the environment, in a server
		BaseURL:     polar.URL(),                       // a server leaves these two out
		HTTPClient:  polar.Client(),
	})
	if err != nil {
		panic(err)
	}
	defer customers.Close()
	m.Customers("", customers)

	mux := http.NewServeMux()
	mux.Handle("GET /metrics", m)
	customers.Decide(context.Background(), polargate.ExternalID("usr_1337"), polargate.Feature("export"))

	w := httptest.NewRecorder()
	mux.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	fmt.Println(regexp.MustCompile(`polargate_decisions_total\{.*`).FindString(w.Body.String()))
	for _, figure := range metrics.Describe() {
		if figure.Name == "polargate.shared.away" {
			fmt.Println(figure.Prometheus()+":", figure.Help)
		}
	}
	// Output:
	// polargate_decisions_total{feature="export",outcome="unpaid",source="network"} 1
	// polargate_shared_away_seconds: For how long the shared store has been failing.
}

// A program without a server writes the state of its license into a file that a collector
// reads.
func ExampleMetrics_Gate() {
	gate, err := polargate.Open(polargate.Config{OrganizationID: "3ca4b5c6-8f2f-4a59-9f0f-4c3f5f0d9a11", App: "inkwell", Store: &polargate.MemoryStore{}})
	if err != nil {
		panic(err)
	}
	defer gate.Close()
	m := metrics.New()
	m.Gate("", gate)
	var file bytes.Buffer
	if _, err := m.WriteTo(&file); err != nil {
		panic(err)
	}
	fmt.Println(regexp.MustCompile(`polargate_gate_state.*1\n`).FindString(file.String()))
	for _, one := range m.Gather() {
		if one.Name == "polargate.gate.unsaved" {
			fmt.Println(one.Prometheus(), one.Samples[0].Value)
		}
	}
	// Output:
	// polargate_gate_state{state="unlicensed"} 1
	//
	// polargate_gate_unsaved 0
}
