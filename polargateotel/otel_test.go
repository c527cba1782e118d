package polargateotel_test

import (
	"net/http"
	"net/http/httptest"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/polargate/polargate"
	"github.com/polargate/polargate/metrics"
	"github.com/polargate/polargate/polargateotel"
	"github.com/polargate/polargate/polartest"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/attribute"
	exporter "go.opentelemetry.io/otel/exporters/prometheus"
	"go.opentelemetry.io/otel/metric"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
)

const benefit = "850cc3a4-3ed7-4be6-b198-127ec8d33bb9"

// shop is a server with one customer who has paid, usr_1.
func shop(t testing.TB, change func(*polargate.CustomersConfig)) (*polargate.Customers, http.Handler) {
	t.Helper()
	polar := polartest.New(polartest.Config{Unlimited: true})
	polar.AddCustomer(polartest.Customer{ExternalID: "usr_1", Benefits: []polartest.Benefit{{BenefitID: benefit}}})
	config := polargate.CustomersConfig{
		AccessToken: polar.AddToken(polartest.Token{}), BaseURL: polar.URL(), HTTPClient: polar.Client(),
		Features: map[string][]string{benefit: {"export"}},
	}
	change(&config)
	customers, err := polargate.NewCustomers(config)
	require.NoError(t, err)
	t.Cleanup(func() { _ = customers.Close() })
	route := customers.Route(polargate.Route{
		Name:     "export",
		Customer: func(r *http.Request) polargate.CustomerRef { return polargate.ExternalID(r.Header.Get("X-User")) },
		Require:  []polargate.Requirement{polargate.Feature("export")},
	})
	return customers, route(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
}

func request(user string) *http.Request {
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r.Header.Set("X-User", user)
	return r
}

// scraper exports to Prometheus.
func scraper(t *testing.T) (*sdkmetric.MeterProvider, func() (int, string)) {
	t.Helper()
	registry := prometheus.NewRegistry()
	reader, err := exporter.New(exporter.WithRegisterer(registry))
	require.NoError(t, err)
	provider := sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader))
	t.Cleanup(func() { _ = provider.Shutdown(t.Context()) })
	return provider, func() (int, string) {
		w := httptest.NewRecorder()
		promhttp.HandlerFor(registry, promhttp.HandlerOpts{}).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
		return w.Code, w.Body.String()
	}
}

func TestAScrapeThroughTheExporterHasTheNamesOfPackageMetrics(t *testing.T) {
	t.Parallel()
	provider, scrape := scraper(t)
	telemetry, err := polargateotel.New(polargateotel.Options{MeterProvider: provider})
	require.NoError(t, err)
	customers, route := shop(t, func(*polargate.CustomersConfig) {})
	telemetry.Customers("", customers)
	gate, err := polargate.Open(polargate.Config{OrganizationID: "3ca4b5c6-8f2f-4a59-9f0f-4c3f5f0d9a11", App: "otel", Store: &polargate.MemoryStore{}})
	require.NoError(t, err)
	defer func() { _ = gate.Close() }()
	telemetry.Gate("", gate)
	for _, user := range []string{"usr_1", "usr_1", "usr_2"} {
		route.ServeHTTP(httptest.NewRecorder(), request(user))
	}

	status, text := scrape()
	require.Equal(t, http.StatusOK, status, text)
	var want []string
	for _, m := range metrics.Describe() {
		want = append(want, m.Prometheus())
	}
	var names []string
	for _, m := range regexp.MustCompile(`(?m)^# TYPE (polargate_\S+) `).FindAllStringSubmatch(text, -1) {
		names = append(names, m[1])
	}
	slices.Sort(names)
	slices.Sort(want)
	assert.Equal(t, want, names)
	assert.Regexp(t, `polargate_decisions_total\{feature="export",otel_scope_name="[^"]*",otel_scope_schema_url="",otel_scope_version="",outcome="allowed",route="export",source="memory"\} 1`, text)
	assert.NotContains(t, text, "usr_")
	if _, err := exec.LookPath("promtool"); err == nil {
		cmd := exec.Command("promtool", "check", "metrics")
		cmd.Stdin = strings.NewReader(text)
		said, err := cmd.CombinedOutput()
		assert.NoError(t, err, "%s", said)
	} else {
		t.Log("promtool is missing: install it with 'apt-get install prometheus', and it looks at this too")
	}

	require.NoError(t, telemetry.Close())
	status, text = scrape()
	assert.Equal(t, http.StatusOK, status)
	assert.NotContains(t, text, "polargate_")
}

func TestInstrumentsOfAProgramBesideOursDoNotFailTheScrape(t *testing.T) {
	t.Parallel()
	provider, scrape := scraper(t)
	_, err := polargateotel.New(polargateotel.Options{MeterProvider: provider})
	require.NoError(t, err)
	for _, name := range []string{"decisions", "gate.state", "http.server.requests", "webhooks"} {
		counter, err := provider.Meter("program").Int64Counter(name)
		require.NoError(t, err)
		counter.Add(t.Context(), 1, metric.WithAttributes(attribute.String("route", "/")))
	}
	status, text := scrape()
	require.Equal(t, http.StatusOK, status, text)
}

func TestADecisionIsAnEventOnTheSpanOfItsRequestWithoutTheCustomer(t *testing.T) {
	t.Parallel()
	recorder := tracetest.NewSpanRecorder()
	tracer := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(recorder)).Tracer("program")
	telemetry, err := polargateotel.New(polargateotel.Options{Spans: true})
	require.NoError(t, err)
	_, route := shop(t, func(c *polargate.CustomersConfig) { c.OnDecision = telemetry.Decided })
	for _, user := range []string{"usr_1", "usr_2"} {
		ctx, span := tracer.Start(t.Context(), "GET /export")
		route.ServeHTTP(httptest.NewRecorder(), request(user).WithContext(ctx))
		span.End()
	}
	route.ServeHTTP(httptest.NewRecorder(), request("usr_1")) // without a span
	spans := recorder.Ended()
	require.Len(t, spans, 2)
	var said []string
	for _, span := range spans {
		require.Len(t, span.Events(), 1)
		event := span.Events()[0]
		assert.Equal(t, "polargate.decision", event.Name)
		for _, a := range event.Attributes {
			said = append(said, string(a.Key)+"="+a.Value.String())
		}
	}
	assert.Equal(t, []string{
		"polargate.outcome=allowed", "polargate.route=export", "polargate.feature=export", "polargate.source=network",
		"polargate.outcome=unpaid", "polargate.route=export", "polargate.feature=export", "polargate.source=network", "polargate.unmet=feature export", "polargate.status=402",
	}, said)
	require.NoError(t, telemetry.Close())
}

func TestTheGlobalProviderIsNotEvenLinked(t *testing.T) {
	t.Parallel()
	out, err := exec.Command("go", "list", "-deps", ".").Output()
	require.NoError(t, err)
	assert.NotContains(t, strings.Fields(string(out)), "go.opentelemetry.io/otel")
	assert.NotContains(t, string(out), "go.opentelemetry.io/otel/sdk")
}
