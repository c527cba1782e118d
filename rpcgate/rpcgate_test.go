package rpcgate_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/polargate/polargate"
	"github.com/polargate/polargate/polartest"
	"github.com/polargate/polargate/rpcgate"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const (
	procedure = "/reports.v1.Reports/Render"
	service   = "/reports.v1.Reports/"
)

var needsReports = []polargate.Requirement{polargate.Feature("reports")}

// bubbled runs a parallel test in which waiting takes no time, with a customer who has reports
// and ten pages, and a license key.
func bubbled(t *testing.T, test func(t *testing.T, polar *polartest.Polar, customers *polargate.Customers)) {
	t.Helper()
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		polar := polartest.New(polartest.Config{Unlimited: true})
		polar.AddCustomer(polartest.Customer{
			ExternalID: "usr_1337",
			Benefits:   []polartest.Benefit{{BenefitID: reportsBenefit}},
			Meters:     []polartest.Meter{{MeterID: pagesMeter, CreditedUnits: 10}},
		})
		customers, err := polargate.NewCustomers(polargate.CustomersConfig{
			AccessToken: polar.AddToken(polartest.Token{}), OrganizationID: polar.OrganizationID(),
			Features: map[string][]string{reportsBenefit: {"reports"}},
			BaseURL:  polar.URL(), HTTPClient: polar.Client(), Logger: slog.New(slog.DiscardHandler),
		})
		require.NoError(t, err)
		defer customers.Close()
		test(t, polar, customers)
	})
}

func somebody(context.Context) (rpcgate.Caller, error) {
	return rpcgate.Caller{Customer: polargate.ExternalID("usr_1337")}, nil
}

func TestMistakesInRulesShowAtTheFirstStart(t *testing.T) {
	bubbled(t, func(t *testing.T, _ *polartest.Polar, customers *polargate.Customers) {
		for name, config := range map[string]rpcgate.Config{
			"without Who":                 {},
			"a procedure without a slash": {Rules: map[string]rpcgate.Rule{"reports.v1.Reports/Render": {}}},
			"a service without a slash":   {Open: []string{"/reports.v1.Reports"}},
			"a method of nothing":         {Open: []string{"//Render"}},
			"open and with a rule":        {Open: []string{procedure}, Rules: map[string]rpcgate.Rule{procedure: {}}},
			"an id that is none":          {Default: &rpcgate.Rule{Require: []polargate.Requirement{polargate.Product("pro")}}},
			"a cost of nothing":           {Default: &rpcgate.Rule{Spend: rpcgate.Cost{MeterID: pagesMeter}}},
			"a cost without a meter":      {Default: &rpcgate.Rule{Spend: rpcgate.Cost{Units: 1}}},
			"a license key that spends":   {ByLicenseKey: true, Default: &rpcgate.Rule{Spend: rpcgate.Cost{MeterID: pagesMeter, Units: 1}}},
		} {
			if name != "without Who" {
				config.Who = somebody
			}
			assert.Panics(t, func() { rpcgate.New(customers, config) }, name)
		}
	})
}

func TestACallerIsPrintedWithoutTheLicenseKey(t *testing.T) {
	t.Parallel()
	caller := rpcgate.Caller{LicenseKey: "POLAR-SECRET", Customer: polargate.ExternalID("ada@example.com")}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x"} {
		text := fmt.Sprintf(verb, caller)
		assert.NotContains(t, text, "SECRET")
		assert.NotContains(t, text, "ada")
		assert.Contains(t, text, "LicenseKey:true")
	}
	assert.Equal(t, fmt.Sprint(caller), caller.LogValue().String())
}

func TestTheRuleOfAProcedureGoesBeforeThatOfItsService(t *testing.T) {
	bubbled(t, func(t *testing.T, _ *polartest.Polar, customers *polargate.Customers) {
		gate := rpcgate.New(customers, rpcgate.Config{
			Who:   somebody,
			Rules: map[string]rpcgate.Rule{service: {Require: []polargate.Requirement{polargate.Feature("none")}}, procedure: {Require: needsReports}},
			Open:  []string{service + "Status"},
		})
		for name, status := range map[string]int{procedure: 0, service + "Status": 0, service + "Render2": 402, "/reports.v2.Reports/Render": 403, "": 403, "Render": 403} {
			_, call, err := gate.Begin(t.Context(), name, false)
			call.Close()
			if status == 0 {
				assert.NoError(t, err, name)
				continue
			}
			var refusal *polargate.Refusal
			require.ErrorAs(t, err, &refusal, name)
			assert.Equal(t, status, refusal.Status, name)
		}
	})
}

func TestManyStreamsNeedNoGoroutines(t *testing.T) {
	bubbled(t, func(t *testing.T, polar *polartest.Polar, customers *polargate.Customers) {
		gate := rpcgate.New(customers, rpcgate.Config{Who: somebody, Default: &rpcgate.Rule{Require: needsReports}})
		_, call, err := gate.Begin(t.Context(), procedure, true)
		require.NoError(t, err)
		defer call.Close()
		synctest.Wait()
		before := runtime.NumGoroutine()
		var streams []context.Context
		for range 1000 {
			ctx, call, err := gate.Begin(t.Context(), procedure, true)
			require.NoError(t, err)
			defer call.Close()
			streams = append(streams, ctx)
		}
		synctest.Wait()
		assert.Less(t, runtime.NumGoroutine()-before, 500, "other tests have some")
		polar.RevokeBenefit("usr_1337", reportsBenefit)
		time.Sleep(6 * time.Minute) // no webhooks
		synctest.Wait()
		for _, ctx := range streams {
			var refusal *polargate.Refusal
			require.ErrorAs(t, context.Cause(ctx), &refusal)
		}
	})
}

func TestAStreamThatFailedOpenEndsWhenSomebodyCanSayThatThereIsNoRight(t *testing.T) {
	bubbled(t, func(t *testing.T, polar *polartest.Polar, customers *polargate.Customers) {
		rule := rpcgate.Rule{Require: needsReports, FailOpen: true, Spend: rpcgate.Cost{MeterID: pagesMeter, Units: 1}}
		gate := rpcgate.New(customers, rpcgate.Config{Who: somebody, Default: &rule})
		polar.SetOffline(true)
		ctx, call, err := gate.Begin(t.Context(), procedure, true)
		require.NoError(t, err)
		defer call.Close()
		_, ok := polargate.FromContext(ctx)
		assert.False(t, ok)
		_, ok = polargate.ReservationFromContext(ctx)
		assert.False(t, ok, "nothing is charged")
		time.Sleep(time.Hour)
		require.NoError(t, ctx.Err())
		polar.RevokeBenefit("usr_1337", reportsBenefit)
		polar.SetOffline(false)
		time.Sleep(10 * time.Minute)
		require.Error(t, ctx.Err())
		var refusal *polargate.Refusal
		require.ErrorAs(t, call.End(nil), &refusal)
		assert.Equal(t, http.StatusPaymentRequired, refusal.Status)
	})
}

func TestAStreamThatFailedOpenGoesOnUntilTheCustomersAreClosed(t *testing.T) {
	bubbled(t, func(t *testing.T, polar *polartest.Polar, customers *polargate.Customers) {
		gate := rpcgate.New(customers, rpcgate.Config{Who: somebody, Default: &rpcgate.Rule{FailOpen: true}})
		polar.SetOffline(true)
		ctx, call, err := gate.Begin(t.Context(), procedure, true)
		require.NoError(t, err)
		defer call.Close()
		require.NoError(t, customers.Close())
		time.Sleep(time.Minute)
		assert.ErrorIs(t, context.Cause(ctx), polargate.ErrClosed)
	})
}

func TestLastWordsTakeHalfASecondAndThenTheHandlerIsInterrupted(t *testing.T) {
	bubbled(t, func(t *testing.T, polar *polartest.Polar, customers *polargate.Customers) {
		gate := rpcgate.New(customers, rpcgate.Config{Who: somebody, Default: &rpcgate.Rule{Require: needsReports}})
		for _, quick := range []bool{true, false} {
			polar.GrantBenefit("usr_1337", polartest.Benefit{BenefitID: reportsBenefit})
			time.Sleep(time.Hour)
			ctx, call, err := gate.Begin(t.Context(), procedure, true)
			require.NoError(t, err)
			var soon, late time.Time
			call.Interrupt(func() { soon = time.Now() }, func() { late = time.Now() })
			polar.RevokeBenefit("usr_1337", reportsBenefit)
			<-ctx.Done()
			ended := time.Now()
			if quick {
				time.Sleep(100 * time.Millisecond)
				call.Close()
			}
			time.Sleep(time.Minute)
			synctest.Wait()
			call.Close()
			assert.Equal(t, ended, soon)
			if quick {
				assert.Zero(t, late, "the handler has returned")
			} else {
				assert.Equal(t, 500*time.Millisecond, late.Sub(ended))
			}
		}
	})
}

func TestARightThatEndsBeforeTheHandlerBeginsInterruptsItAllTheSame(t *testing.T) {
	bubbled(t, func(t *testing.T, polar *polartest.Polar, customers *polargate.Customers) {
		gate := rpcgate.New(customers, rpcgate.Config{Who: somebody, Default: &rpcgate.Rule{Require: needsReports}})
		ctx, call, err := gate.Begin(t.Context(), procedure, true)
		require.NoError(t, err)
		defer call.Close()
		polar.RevokeBenefit("usr_1337", reportsBenefit)
		<-ctx.Done()
		soon, late := false, false
		call.Interrupt(func() { soon = true }, func() { late = true })
		time.Sleep(time.Second)
		synctest.Wait()
		assert.True(t, soon)
		assert.True(t, late)
	})
}

// connection is an http.ResponseWriter whose deadlines can be set.
type connection struct {
	http.ResponseWriter
	read, written time.Time // when they were set
}

func (c *connection) SetReadDeadline(time.Time) error {
	c.read = time.Now()
	return nil
}

func (c *connection) SetWriteDeadline(time.Time) error {
	c.written = time.Now()
	return nil
}

func TestTheDeadlinesOfAConnectionInterruptAHandlerThatReadsAtOnceAndOneThatWritesLater(t *testing.T) {
	bubbled(t, func(t *testing.T, polar *polartest.Polar, customers *polargate.Customers) {
		gate := rpcgate.New(customers, rpcgate.Config{Who: somebody, Default: &rpcgate.Rule{Require: needsReports}})
		for _, clientStreams := range []bool{true, false} {
			polar.GrantBenefit("usr_1337", polartest.Benefit{BenefitID: reportsBenefit})
			time.Sleep(time.Hour)
			var on connection
			rpcgate.Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				ctx, call, err := gate.Begin(r.Context(), procedure, true)
				require.NoError(t, err)
				defer call.Close()
				call.InterruptHTTP(clientStreams)
				polar.RevokeBenefit("usr_1337", reportsBenefit)
				<-ctx.Done()
				ended := time.Now()
				time.Sleep(time.Second)
				synctest.Wait()
				if clientStreams {
					assert.Equal(t, ended, on.read)
				} else {
					assert.Zero(t, on.read, "it has received its one message")
				}
				assert.Equal(t, 500*time.Millisecond, on.written.Sub(ended))
			})).ServeHTTP(&on, httptest.NewRequestWithContext(t.Context(), http.MethodPost, procedure, nil))
		}
	})
}

func TestALicenseKeyFollowsBearerInAuthorizationAlone(t *testing.T) {
	t.Parallel()
	for _, one := range [][3]string{
		{"Authorization", "Bearer POLAR-1", "POLAR-1"},
		{"authorization", "bearer POLAR-1", "POLAR-1"},
		{"authorization", "POLAR-1", "POLAR-1"},
		{"Authorization", "Basic POLAR-1", "Basic POLAR-1"},
		{"X-License-Key", "Bearer POLAR-1", "Bearer POLAR-1"},
		{"X-License-Key", "", ""},
	} {
		assert.Equal(t, one[2], rpcgate.LicenseKey(one[0], one[1]), one)
	}
}

func TestWhatAProgramCouldNotFindOutIsLoggedOnceAMinuteWithoutItsText(t *testing.T) {
	bubbled(t, func(t *testing.T, _ *polartest.Polar, customers *polargate.Customers) {
		var log strings.Builder
		gate := rpcgate.New(customers, rpcgate.Config{
			Who:     func(context.Context) (rpcgate.Caller, error) { return rpcgate.Caller{}, errors.New("session s3cret") },
			Default: &rpcgate.Rule{}, Logger: slog.New(slog.NewTextHandler(&log, nil)),
		})
		for range 5 {
			_, _, err := gate.Begin(t.Context(), procedure, false)
			var refusal *polargate.Refusal
			require.ErrorAs(t, err, &refusal)
			assert.Equal(t, http.StatusServiceUnavailable, refusal.Status)
			assert.NotContains(t, err.Error(), "s3cret")
			assert.EqualError(t, errors.Unwrap(refusal.Err), "session s3cret", "Refusal.Err has it")
		}
		left, cancel := context.WithCancel(t.Context())
		cancel()
		time.Sleep(2 * time.Minute)
		_, _, err := gate.Begin(left, procedure, false)
		require.Error(t, err)
		assert.Equal(t, 1, strings.Count(log.String(), "\n"), log.String())
		assert.NotContains(t, log.String(), "s3cret")
		_, _, err = gate.Begin(t.Context(), procedure, false)
		require.Error(t, err)
		assert.Equal(t, 2, strings.Count(log.String(), "\n"))
	})
}

func TestAMessageThatCannotBePricedIsNotSold(t *testing.T) {
	bubbled(t, func(t *testing.T, _ *polartest.Polar, customers *polargate.Customers) {
		for name, of := range map[string]struct {
			units  float64
			err    error
			status int
		}{
			"a mistake of the client": {err: &polargate.InputError{}, status: 400},
			"a fault of the program":  {err: errors.New("no price list"), status: 503},
			"a negative price":        {units: -1, status: 503},
			"more than there is":      {units: 11, status: 402},
			"more than there can be":  {units: 1e300, status: 400},
		} {
			gate := rpcgate.New(customers, rpcgate.Config{Who: somebody, Logger: slog.New(slog.DiscardHandler), Default: &rpcgate.Rule{
				Spend: rpcgate.Cost{MeterID: pagesMeter, UnitsOf: func(context.Context, any) (float64, error) { return of.units, of.err }},
			}})
			_, call, err := gate.Begin(t.Context(), procedure, false)
			require.NoError(t, err)
			var refusal *polargate.Refusal
			require.ErrorAs(t, call.Received("a message"), &refusal, name)
			assert.Equal(t, of.status, refusal.Status, name)
			call.Close()
		}
		have, err := customers.Entitlements(t.Context(), polargate.ExternalID("usr_1337"))
		require.NoError(t, err)
		pages, _ := have.Meter(pagesMeter)
		assert.InDelta(t, 10, pages.Balance, 0)
	})
}

func TestAnErrorGivesBackWhatACallHolds(t *testing.T) {
	bubbled(t, func(t *testing.T, _ *polartest.Polar, customers *polargate.Customers) {
		gate := rpcgate.New(customers, rpcgate.Config{Who: somebody, Default: &rpcgate.Rule{Spend: rpcgate.Cost{MeterID: pagesMeter, Units: 4}}})
		for _, one := range []struct {
			err  error
			left float64
		}{{errors.New("out of paper"), 10}, {nil, 6}} {
			ctx, call, err := gate.Begin(t.Context(), procedure, false)
			require.NoError(t, err)
			have, _ := polargate.FromContext(ctx)
			pages, _ := have.Meter(pagesMeter)
			assert.InDelta(t, 6, pages.Balance, 0, "the handler sees what is left")
			assert.Equal(t, one.err, call.End(one.err))
			have, err = customers.Entitlements(t.Context(), polargate.ExternalID("usr_1337"))
			require.NoError(t, err)
			pages, _ = have.Meter(pagesMeter)
			assert.InDelta(t, one.left, pages.Balance, 0)
		}
	})
}

func TestALicenseKeyNeverFailsOpen(t *testing.T) {
	bubbled(t, func(t *testing.T, polar *polartest.Polar, customers *polargate.Customers) {
		key := polar.AddKey(polartest.LicenseKey{})
		gate := rpcgate.New(customers, rpcgate.Config{
			Who:          func(context.Context) (rpcgate.Caller, error) { return rpcgate.Caller{LicenseKey: key.Key}, nil },
			ByLicenseKey: true, Default: &rpcgate.Rule{FailOpen: true},
		})
		polar.SetOffline(true)
		for _, streams := range []bool{true, false} {
			_, _, err := gate.Begin(t.Context(), procedure, streams)
			var refusal *polargate.Refusal
			require.ErrorAs(t, err, &refusal)
			assert.Equal(t, http.StatusServiceUnavailable, refusal.Status)
		}
	})
}

func TestCustomersWithTheFeatureAreNotCharged(t *testing.T) {
	bubbled(t, func(t *testing.T, _ *polartest.Polar, customers *polargate.Customers) {
		gate := rpcgate.New(customers, rpcgate.Config{Who: somebody, Default: &rpcgate.Rule{
			Require: []polargate.Requirement{polargate.Any(polargate.Feature("reports"), polargate.Meter(pagesMeter, 1))},
			Spend:   rpcgate.Cost{MeterID: pagesMeter, Units: 100},
		}})
		_, call, err := gate.Begin(t.Context(), procedure, false)
		require.NoError(t, err)
		require.NoError(t, call.End(nil))
		have, err := customers.Entitlements(t.Context(), polargate.ExternalID("usr_1337"))
		require.NoError(t, err)
		pages, _ := have.Meter(pagesMeter)
		assert.InDelta(t, 10, pages.Balance, 0)
	})
}

func TestAProgramHearsOfEachDecisionOnceAndByTheProcedure(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		polar := polartest.New(polartest.Config{Unlimited: true})
		polar.AddCustomer(polartest.Customer{
			ExternalID: "usr_1337",
			Benefits:   []polartest.Benefit{{BenefitID: reportsBenefit}},
			Meters:     []polartest.Meter{{MeterID: pagesMeter, CreditedUnits: 10}},
		})
		var mu sync.Mutex
		var heard []string
		customers, err := polargate.NewCustomers(polargate.CustomersConfig{
			AccessToken: polar.AddToken(polartest.Token{}), BaseURL: polar.URL(), HTTPClient: polar.Client(),
			Features: map[string][]string{reportsBenefit: {"reports"}}, Logger: slog.New(slog.DiscardHandler),
			OnDecision: func(_ context.Context, d polargate.Decision) {
				mu.Lock()
				defer mu.Unlock()
				heard = append(heard, d.Route+" "+string(d.Outcome))
			},
		})
		require.NoError(t, err)
		defer customers.Close()
		assertHeard := func(want ...string) {
			t.Helper()
			mu.Lock()
			defer mu.Unlock()
			assert.Equal(t, want, heard)
			heard = nil
		}
		user := "usr_1337"
		gate := rpcgate.New(customers, rpcgate.Config{
			Who: func(context.Context) (rpcgate.Caller, error) {
				return rpcgate.Caller{Customer: polargate.ExternalID(user)}, nil
			},
			Rules: map[string]rpcgate.Rule{
				service:           {Require: needsReports},
				service + "Print": {Require: needsReports, Spend: rpcgate.Cost{MeterID: pagesMeter, Units: 6}},
				service + "Sync":  {Require: []polargate.Requirement{polargate.Feature("sync")}},
				service + "Open":  {Require: needsReports, FailOpen: true},
			},
			Logger: slog.New(slog.DiscardHandler),
		})
		begin := func(method string, streams bool) *rpcgate.Call {
			_, call, _ := gate.Begin(t.Context(), service+method, streams)
			return call
		}
		begin("Render", false).Close()
		assertHeard(service + "Render allowed")
		begin("Sync", false).Close()
		assertHeard(service + "Sync unpaid")
		begin("Sync", true).Close()
		assertHeard(service + "Sync unpaid")
		call := begin("Print", false)
		assertHeard(service + "Print allowed")
		begin("Print", false).Close()
		assertHeard(service + "Print unpaid")
		call.Close()

		call = begin("Render", true)
		assertHeard(service + "Render allowed")
		polar.RevokeBenefit("usr_1337", reportsBenefit)
		time.Sleep(10 * time.Minute)
		assertHeard(service + "Render unpaid")
		call.Close()

		polar.SetOffline(true)
		user = "usr_new"
		begin("Open", false).Close()
		assertHeard(service + "Open failed_open")
		begin("Render", false).Close()
		assertHeard(service + "Render undecided")
	})
}
