package metrics_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"github.com/polargate/polargate"
	"github.com/polargate/polargate/metrics"
	"github.com/polargate/polargate/polartest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const benefit = "850cc3a4-3ed7-4be6-b198-127ec8d33bb9"

// everything are metrics of a program that has customers and a license, with decisions of
// all kinds.
func everything(t *testing.T) *metrics.Metrics {
	t.Helper()
	polar := polartest.New(polartest.Config{Unlimited: true})
	polar.AddCustomer(polartest.Customer{ExternalID: "usr_1", Benefits: []polartest.Benefit{{BenefitID: benefit}}})
	m := metrics.New()
	customers, err := polargate.NewCustomers(polargate.CustomersConfig{
		AccessToken: polar.AddToken(polartest.Token{}), BaseURL: polar.URL(), HTTPClient: polar.Client(),
		Features: map[string][]string{benefit: {"export"}}, Shared: polargate.SharedInMemory(),
	})
	require.NoError(t, err)
	t.Cleanup(func() { _ = customers.Close() })
	gate, err := polargate.Open(polargate.Config{
		OrganizationID: polar.OrganizationID(), BaseURL: polar.URL(), HTTPClient: polar.Client(), Store: &polargate.MemoryStore{}, App: "metrics",
	})
	require.NoError(t, err)
	t.Cleanup(func() { _ = gate.Close() })
	m.Customers("", customers)
	other, err := polargate.NewCustomers(polargate.CustomersConfig{AccessToken: "polar_oat_other"})
	require.NoError(t, err)
	t.Cleanup(func() { _ = other.Close() })
	m.Customers("eu", other)
	m.Gate("", gate)
	route := customers.Route(polargate.Route{
		Name: `say "hi\` + "\n", Customer: func(r *http.Request) polargate.CustomerRef { return polargate.ExternalID(r.Header.Get("X-User")) },
		Require: []polargate.Requirement{polargate.Feature("export")},
	})(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	for _, user := range []string{"usr_1", "usr_1", "usr_2", ""} {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.Header.Set("X-User", user)
		route.ServeHTTP(httptest.NewRecorder(), r)
	}
	customers.Decide(t.Context(), polargate.ExternalID("usr_1"), polargate.Feature("b"), polargate.Feature("a"))
	return m
}

func scrape(t *testing.T, m *metrics.Metrics) string {
	t.Helper()
	w := httptest.NewRecorder()
	m.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	require.Equal(t, http.StatusOK, w.Code)
	return w.Body.String()
}

func promtool(t *testing.T, stdin string, args ...string) string {
	t.Helper()
	if _, err := exec.LookPath("promtool"); err != nil {
		t.Skip("promtool is missing: install it with 'apt-get install prometheus', and this test runs too")
	}
	cmd := exec.Command("promtool", args...)
	cmd.Stdin = strings.NewReader(stdin)
	said, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", said)
	return string(said)
}

func TestPromtoolFindsNothingToSayAboutTheMetrics(t *testing.T) {
	t.Parallel()
	text := scrape(t, everything(t))
	assert.Contains(t, text, `polargate_decisions_total{feature="export",outcome="allowed",route="say \"hi\\\n",source="memory"} 1`)
	assert.Contains(t, text, `polargate_decisions_total{feature="a,b",outcome="unpaid",source="memory"} 1`)
	assert.Contains(t, text, "\npolargate_customers_cached 1\n")
	assert.Contains(t, text, `polargate_customers_cached{name="eu"} 0`)
	assert.Contains(t, text, `polargate_gate_state{state="unlicensed"} 1`)
	assert.Contains(t, text, `polargate_gate_refused{reason="no_license"} 1`)
	assert.NotContains(t, text, "usr_")
	assert.Empty(t, promtool(t, text, "check", "metrics"))
}

func TestEachMetricIsDescribed(t *testing.T) {
	t.Parallel()
	all := everything(t).Gather()
	for i := range all {
		all[i].Samples = nil
	}
	assert.Equal(t, all, metrics.Describe())
}

func TestNoTwoMetricsMeetOnceTheyAreRenamed(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for _, m := range everything(t).Gather() {
		name := m.Prometheus()
		assert.False(t, seen[name], name)
		seen[name] = true
		assert.Regexp(t, `^polargate(\.[a-z0-9_]+)+$`, m.Name)
		assert.False(t, strings.HasSuffix(m.Name, "total"), name)
		labels := map[string]bool{}
		for _, s := range m.Samples {
			assert.False(t, labels[fmt.Sprint(s.Labels)], "%s %v", name, s.Labels)
			labels[fmt.Sprint(s.Labels)] = true
		}
	}
}

func TestOnlyReadingIsAllowed(t *testing.T) {
	t.Parallel()
	w := httptest.NewRecorder()
	metrics.New().ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/metrics", nil))
	assert.Equal(t, http.StatusMethodNotAllowed, w.Code)
}

const dashboard, alerts = "../docs/grafana-polargate.json", "../docs/alerts-polargate.yml"

func TestTheDashboardAndTheAlertsNameMetricsThatExist(t *testing.T) {
	t.Parallel()
	exists := map[string]bool{}
	for _, m := range everything(t).Gather() {
		exists[m.Prometheus()] = true
	}
	for _, file := range []string{dashboard, alerts, "../docs/telemetry.md"} {
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		names := regexp.MustCompile(`polargate_[a-z0-9_]+`).FindAllString(string(text), -1)
		assert.Greater(t, len(names), 10, file)
		for _, name := range names {
			assert.True(t, exists[name], "%s names %s", file, name)
		}
	}
}

func TestPromtoolAcceptsTheAlertsAndTheQueriesOfTheDashboard(t *testing.T) {
	t.Parallel()
	said := promtool(t, "", "check", "rules", alerts)
	assert.Contains(t, said, "SUCCESS")
	rules := "groups:\n- name: dashboard\n  rules:\n"
	for i, panel := range panels(t) {
		for _, target := range panel.Targets {
			rules += fmt.Sprintf("  - record: panel%d:%s\n    expr: %q\n", i, strings.ToLower(target.RefID), strings.ReplaceAll(target.Expr, "$__rate_interval", "5m"))
		}
	}
	file := t.TempDir() + "/rules.yml"
	require.NoError(t, os.WriteFile(file, []byte(rules), 0o600))
	assert.Contains(t, promtool(t, "", "check", "rules", file), "SUCCESS")
}
