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
func bubbled(t *testing.T, test func(t *testing.T, polar *polartest.Polar, customers *polargate.Customers), change ...func(*polargate.CustomersConfig)) {
	t.Helper()
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		polar := polartest.New(polartest.Config{Unlimited: true})
		polar.AddCustomer(polartest.Customer{
			ExternalID: "usr_1337",
			Benefits:   []polartest.Benefit{{BenefitID: reportsBenefit}},
			Meters:     []polartest.Meter{{MeterID: pagesMeter, CreditedUnits: 10}},
		})
		config := polargate.CustomersConfig{
			AccessToken: polar.AddToken(polartest.Token{}), OrganizationID: polar.OrganizationID(),
			Features: map[string][]string{reportsBenefit: {"reports"}},
			BaseURL:  polar.URL(), HTTPClient: polar.Client(), Logger: slog.New(slog.DiscardHandler),
		}
		for _, change := range change {
			change(&config)
		}
		customers, err := polargate.NewCustomers(config)
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
			"without a Caller":            {},
			"a procedure without a slash": {Rules: map[string]rpcgate.Rule{"reports.v1.Reports/Render": {}}},
			"a service without a slash":   {Open: []string{"/reports.v1.Reports"}},
			"a method of nothing":         {Open: []string{"//Render"}},
			"open and with a rule":        {Open: []string{procedure}, Rules: map[string]rpcgate.Rule{procedure: {}}},
			"an id that is none":          {Default: &rpcgate.Rule{Require: []polargate.Requirement{polargate.Product("pro")}}},
			"a cost of nothing":           {Default: &rpcgate.Rule{Spend: rpcgate.Cost{MeterID: pagesMeter}}},
			"a cost without a meter":      {Default: &rpcgate.Rule{Spend: rpcgate.Cost{Units: 1}}},
			"a license key that spends":   {ByLicenseKey: true, Default: &rpcgate.Rule{Spend: rpcgate.Cost{MeterID: pagesMeter, Units: 1}}},
		} {
			if name != "without a Caller" {
				config.Caller = somebody
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
			Caller: somebody,
			Rules:  map[string]rpcgate.Rule{service: {Require: []polargate.Requirement{polargate.Feature("none")}}, procedure: {Require: needsReports}},
			Open:   []string{service + "Status"},
		})
		for name, status := range map[string]int{procedure: 0, service + "Status": 0, service + "Render2": 402, "/reports.v2.Reports/Render": 403, "": 403, "Render": 403} {
			_, call, err := gate.Begin(t.Context(), rpcgate.CallInfo{Procedure: name})
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
		gate := rpcgate.New(customers, rpcgate.Config{Caller: somebody, Default: &rpcgate.Rule{Require: needsReports}})
		_, call, err := gate.Begin(t.Context(), rpcgate.CallInfo{Procedure: procedure, ServerStreams: true})
		require.NoError(t, err)
		defer call.Close()
		synctest.Wait()
		before := runtime.NumGoroutine()
		var streams []context.Context
		for range 1000 {
			ctx, call, err := gate.Begin(t.Context(), rpcgate.CallInfo{Procedure: procedure, ServerStreams: true})
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
		gate := rpcgate.New(customers, rpcgate.Config{Caller: somebody, Default: &rule})
		polar.SetOffline(true)
		ctx, call, err := gate.Begin(t.Context(), rpcgate.CallInfo{Procedure: procedure, ServerStreams: true})
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
		gate := rpcgate.New(customers, rpcgate.Config{Caller: somebody, Default: &rpcgate.Rule{FailOpen: true}})
		polar.SetOffline(true)
		ctx, call, err := gate.Begin(t.Context(), rpcgate.CallInfo{Procedure: procedure, ServerStreams: true})
		require.NoError(t, err)
		defer call.Close()
		require.NoError(t, customers.Close())
		time.Sleep(time.Minute)
		assert.ErrorIs(t, context.Cause(ctx), polargate.ErrClosed)
	})
}

func TestLastWordsTakeHalfASecondAndThenTheHandlerIsInterrupted(t *testing.T) {
	bubbled(t, func(t *testing.T, polar *polartest.Polar, customers *polargate.Customers) {
		gate := rpcgate.New(customers, rpcgate.Config{Caller: somebody, Default: &rpcgate.Rule{Require: needsReports}})
		for _, quick := range []bool{true, false} {
			polar.GrantBenefit("usr_1337", polartest.Benefit{BenefitID: reportsBenefit})
			time.Sleep(time.Hour)
			ctx, call, err := gate.Begin(t.Context(), rpcgate.CallInfo{Procedure: procedure, ServerStreams: true})
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
		gate := rpcgate.New(customers, rpcgate.Config{Caller: somebody, Default: &rpcgate.Rule{Require: needsReports}})
		ctx, call, err := gate.Begin(t.Context(), rpcgate.CallInfo{Procedure: procedure, ServerStreams: true})
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
		gate := rpcgate.New(customers, rpcgate.Config{Caller: somebody, Default: &rpcgate.Rule{Require: needsReports}})
		for _, clientStreams := range []bool{true, false} {
			polar.GrantBenefit("usr_1337", polartest.Benefit{BenefitID: reportsBenefit})
			time.Sleep(time.Hour)
			var on connection
			rpcgate.Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				ctx, call, err := gate.Begin(r.Context(), rpcgate.CallInfo{Procedure: procedure, ServerStreams: true, ClientStreams: clientStreams})
				require.NoError(t, err)
				defer call.Close()
				call.InterruptHTTP()
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
			Caller:  func(context.Context) (rpcgate.Caller, error) { return rpcgate.Caller{}, errors.New("session s3cret") },
			Default: &rpcgate.Rule{}, Logger: slog.New(slog.NewTextHandler(&log, nil)),
		})
		for range 5 {
			_, _, err := gate.Begin(t.Context(), rpcgate.CallInfo{Procedure: procedure})
			var refusal *polargate.Refusal
			require.ErrorAs(t, err, &refusal)
			assert.Equal(t, http.StatusServiceUnavailable, refusal.Status)
			assert.NotContains(t, err.Error(), "s3cret")
			assert.EqualError(t, errors.Unwrap(refusal.Err), "session s3cret", "Refusal.Err has it")
		}
		left, cancel := context.WithCancel(t.Context())
		cancel()
		time.Sleep(2 * time.Minute)
		_, _, err := gate.Begin(left, rpcgate.CallInfo{Procedure: procedure})
		require.Error(t, err)
		assert.Equal(t, 1, strings.Count(log.String(), "\n"), log.String())
		assert.NotContains(t, log.String(), "s3cret")
		_, _, err = gate.Begin(t.Context(), rpcgate.CallInfo{Procedure: procedure})
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
			gate := rpcgate.New(customers, rpcgate.Config{Caller: somebody, Logger: slog.New(slog.DiscardHandler), Default: &rpcgate.Rule{
				Spend: rpcgate.Cost{MeterID: pagesMeter, UnitsOf: func(context.Context, any) (float64, error) { return of.units, of.err }},
			}})
			_, call, err := gate.Begin(t.Context(), rpcgate.CallInfo{Procedure: procedure})
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
		gate := rpcgate.New(customers, rpcgate.Config{Caller: somebody, Default: &rpcgate.Rule{Spend: rpcgate.Cost{MeterID: pagesMeter, Units: 4}}})
		for _, one := range []struct {
			err  error
			left float64
		}{{errors.New("out of paper"), 10}, {nil, 6}} {
			ctx, call, err := gate.Begin(t.Context(), rpcgate.CallInfo{Procedure: procedure})
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
			Caller:       func(context.Context) (rpcgate.Caller, error) { return rpcgate.Caller{LicenseKey: key.Key}, nil },
			ByLicenseKey: true, Default: &rpcgate.Rule{FailOpen: true, Fallback: []string{"reports"}},
		})
		polar.SetOffline(true)
		for _, streams := range []bool{true, false} {
			_, _, err := gate.Begin(t.Context(), rpcgate.CallInfo{Procedure: procedure, ServerStreams: streams})
			var refusal *polargate.Refusal
			require.ErrorAs(t, err, &refusal)
			assert.Equal(t, http.StatusServiceUnavailable, refusal.Status)
		}
	})
}

func TestCustomersWithTheFeatureAreNotCharged(t *testing.T) {
	bubbled(t, func(t *testing.T, _ *polartest.Polar, customers *polargate.Customers) {
		gate := rpcgate.New(customers, rpcgate.Config{Caller: somebody, Default: &rpcgate.Rule{
			Require: []polargate.Requirement{polargate.Any(polargate.Feature("reports"), polargate.Meter(pagesMeter, 1))},
			Spend:   rpcgate.Cost{MeterID: pagesMeter, Units: 100},
		}})
		_, call, err := gate.Begin(t.Context(), rpcgate.CallInfo{Procedure: procedure})
		require.NoError(t, err)
		require.NoError(t, call.End(nil))
		have, err := customers.Entitlements(t.Context(), polargate.ExternalID("usr_1337"))
		require.NoError(t, err)
		pages, _ := have.Meter(pagesMeter)
		assert.InDelta(t, 10, pages.Balance, 0)
	})
}

// heard are the decisions that a program was told of.
type heard struct {
	mu  sync.Mutex
	all []string
}

func (h *heard) hear(_ context.Context, d polargate.Decision) {
	h.mu.Lock()
	defer h.mu.Unlock()
	told := strings.TrimPrefix(d.Route, service) + " " + string(d.Outcome)
	if d.Units != 0 {
		told += fmt.Sprint(" ", d.Units)
	}
	h.all = append(h.all, told)
}

// since are those since the last time.
func (h *heard) since() (told []string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	told, h.all = h.all, nil
	return told
}

// auditedShop runs a test in which waiting takes no time, as bubbled does, that hears of decisions.
func auditedShop(t *testing.T, test func(t *testing.T, polar *polartest.Polar, customers *polargate.Customers, h *heard)) {
	t.Helper()
	var h heard
	bubbled(t, func(t *testing.T, polar *polartest.Polar, customers *polargate.Customers) {
		test(t, polar, customers, &h)
	},
		func(c *polargate.CustomersConfig) { c.OnDecision = h.hear })
}

func TestAProgramHearsOfEachCallOnceByItsProcedureAndWithWhatIsHeldForIt(t *testing.T) {
	auditedShop(t, func(t *testing.T, polar *polartest.Polar, customers *polargate.Customers, h *heard) {
		user := "usr_1337"
		byMessage := rpcgate.Cost{MeterID: pagesMeter, UnitsOf: func(_ context.Context, message any) (float64, error) {
			if message.(int) < 0 {
				return 0, &polargate.InputError{}
			}
			return float64(message.(int)), nil
		}}
		gate := rpcgate.New(customers, rpcgate.Config{
			Caller: func(context.Context) (rpcgate.Caller, error) {
				if user == "" {
					return rpcgate.Caller{}, errors.New("no sessions")
				}
				return rpcgate.Caller{Customer: polargate.ExternalID(user)}, nil
			},
			Rules: map[string]rpcgate.Rule{
				service:           {Require: needsReports},
				service + "Print": {Require: needsReports, Spend: rpcgate.Cost{MeterID: pagesMeter, Units: 2}},
				service + "Pages": {Require: needsReports, Spend: byMessage},
				service + "Free":  {Require: []polargate.Requirement{polargate.Any(polargate.Feature("reports"), polargate.Meter(pagesMeter, 1))}, Spend: byMessage},
				service + "Sync":  {Require: []polargate.Requirement{polargate.Feature("sync")}},
				service + "Open":  {Require: needsReports, FailOpen: true, Spend: byMessage},
			},
			Open:   []string{rpcgate.Health},
			Logger: slog.New(slog.DiscardHandler),
		})
		for _, one := range []struct {
			method   string
			streams  bool
			messages []int
			want     []string
		}{
			{"Render", false, nil, []string{"Render allowed"}},
			{"Render", true, nil, []string{"Render allowed"}},
			{"Sync", false, nil, []string{"Sync unpaid"}},
			{"Sync", true, nil, []string{"Sync unpaid"}},
			{"Print", false, nil, []string{"Print allowed 2"}},
			{"Print", true, nil, []string{"Print allowed 2"}},
			{"Pages", false, []int{3}, []string{"Pages allowed 3"}},
			{"Pages", false, []int{0}, []string{"Pages allowed"}},
			{"Pages", false, []int{-1}, []string{"Pages unidentified"}},
			{"Pages", false, []int{99}, []string{"Pages unpaid"}},
			{"Pages", false, nil, []string{"Pages allowed"}},
			{"Pages", true, []int{1, 1, 0}, []string{"Pages allowed"}},
			{"Pages", true, []int{1, 99}, []string{"Pages allowed", "Pages unpaid"}},
			{"Free", false, []int{99}, []string{"Free allowed"}},
			{"Open", false, []int{1}, []string{"Open allowed 1"}},
		} {
			_, call, err := gate.Begin(t.Context(), rpcgate.CallInfo{Procedure: service + one.method, ServerStreams: one.streams})
			for _, message := range one.messages {
				require.NoError(t, err)
				_ = call.Received(message)
			}
			_ = call.End(errors.New("out of paper")) // which gives back
			assert.Equal(t, one.want, h.since(), one)
		}
		_, call, err := gate.Begin(t.Context(), rpcgate.CallInfo{Procedure: rpcgate.Health + "Check"})
		require.NoError(t, err)
		require.NoError(t, call.End(nil))
		assert.Empty(t, h.since(), "anybody may call it")

		ctx, call, err := gate.Begin(t.Context(), rpcgate.CallInfo{Procedure: service + "Render", ServerStreams: true})
		require.NoError(t, err)
		_, refusal := customers.Decide(ctx, polargate.ExternalID(user), polargate.Feature("sync"))
		require.NotNil(t, refusal)
		assert.Equal(t, []string{"Render allowed", "Render unpaid"}, h.since(), "the handler asks for itself")
		polar.RevokeBenefit("usr_1337", reportsBenefit)
		time.Sleep(10 * time.Minute)
		assert.Equal(t, []string{"Render unpaid"}, h.since(), "the stream ends")
		call.Close()
		assert.Empty(t, h.since())

		user = ""
		_, _, err = gate.Begin(t.Context(), rpcgate.CallInfo{Procedure: service + "Render"})
		require.Error(t, err)
		assert.Equal(t, []string{"Render undecided"}, h.since())
		polar.SetOffline(true)
		user = "usr_new"
		_, _, err = gate.Begin(t.Context(), rpcgate.CallInfo{Procedure: service + "Render"})
		require.Error(t, err)
		assert.Equal(t, []string{"Render undecided"}, h.since())
		for _, streams := range []bool{true, false} {
			_, call, err = gate.Begin(t.Context(), rpcgate.CallInfo{Procedure: service + "Open", ServerStreams: streams})
			require.NoError(t, err)
			require.NoError(t, call.Received(5))
			time.Sleep(time.Hour)
			require.NoError(t, call.End(nil))
			assert.Equal(t, []string{"Open failed_open"}, h.since())
		}
	})
}

func TestAProgramHearsOnceOfAStreamWithALicenseKey(t *testing.T) {
	auditedShop(t, func(t *testing.T, polar *polartest.Polar, customers *polargate.Customers, h *heard) {
		key := polar.AddKey(polartest.LicenseKey{BenefitID: reportsBenefit, ExpiresAt: time.Now().Add(time.Hour)})
		gate := rpcgate.New(customers, rpcgate.Config{
			Caller: func(context.Context) (rpcgate.Caller, error) { return rpcgate.Caller{LicenseKey: key.Key}, nil }, ByLicenseKey: true, Default: &rpcgate.Rule{},
		})
		for _, streams := range []bool{true, false} {
			_, call, err := gate.Begin(t.Context(), rpcgate.CallInfo{Procedure: procedure, ServerStreams: streams})
			require.NoError(t, err)
			assert.Equal(t, []string{"Render allowed"}, h.since())
			defer call.Close()
		}
		time.Sleep(time.Hour + time.Second)
		synctest.Wait()
		assert.Equal(t, []string{"Render unpaid"}, h.since(), "the stream ends")
	})
}

func TestCallsAreCountedByTheNameOfTheirRuleSoThatNoClientAddsNames(t *testing.T) {
	bubbled(t, func(t *testing.T, polar *polartest.Polar, customers *polargate.Customers) {
		user := "usr_1337"
		gate := rpcgate.New(customers, rpcgate.Config{
			Caller: func(context.Context) (rpcgate.Caller, error) {
				return rpcgate.Caller{Customer: polargate.ExternalID(user)}, nil
			},
			Rules: map[string]rpcgate.Rule{
				service: {Require: needsReports}, procedure: {Require: needsReports, Spend: rpcgate.Cost{MeterID: pagesMeter, Units: 6}},
			},
			Default: &rpcgate.Rule{FailOpen: true}, Logger: slog.New(slog.DiscardHandler),
		})
		begin := func(procedure string, streams bool) {
			ctx, call, err := gate.Begin(t.Context(), rpcgate.CallInfo{Procedure: procedure, ServerStreams: streams})
			if err == nil {
				customers.Decide(ctx, polargate.ExternalID(user), needsReports...)
			}
			_ = call.End(err)
		}
		assert.Empty(t, customers.Decisions())
		for i := range 5 {
			begin(fmt.Sprint(service, "Made", i), i%2 == 0)
			begin(fmt.Sprint("/made.up.Service", i, "/Call"), i%2 == 0)
		}
		begin(procedure, false)
		begin(procedure, true)
		user = ""
		begin(service+"Made", false)
		polar.SetOffline(true)
		user = "usr_new"
		begin("/made.up.Service/Call", true)
		begin(service+"Made", true)
		counts := map[string]int64{}
		for _, n := range customers.Decisions() {
			counts[n.Route+" "+string(n.Outcome)] += n.Count
		}
		assert.Equal(t, map[string]int64{
			service + " allowed": 10, "default allowed": 10, // also what their handlers ask
			procedure + " allowed": 2, procedure + " unpaid": 1,
			service + " unidentified": 1, "default failed_open": 1, "default undecided": 1, service + " undecided": 1,
		}, counts)
		stats := customers.Stats()
		assert.Equal(t, [4]int64{1, 1, 1, 1}, [4]int64{stats.Unidentified, stats.Unpaid, stats.Undecided, stats.FailedOpen})
	})
}

func TestARulesFallbackLetsCallsPassWhileNobodyCanSay(t *testing.T) {
	auditedShop(t, func(t *testing.T, polar *polartest.Polar, customers *polargate.Customers, h *heard) {
		perCall := rpcgate.Cost{MeterID: pagesMeter, Units: 1}
		gate := rpcgate.New(customers, rpcgate.Config{
			Caller: somebody,
			Rules: map[string]rpcgate.Rule{
				service + "Render": {Require: needsReports, Fallback: []string{"reports"}},
				service + "Print":  {Require: needsReports, Fallback: []string{"reports"}, Spend: perCall},
				service + "Sync":   {Require: []polargate.Requirement{polargate.Feature("sync")}, Fallback: []string{"reports"}},
				service + "Open":   {Require: []polargate.Requirement{polargate.Feature("sync")}, Fallback: []string{"reports"}, FailOpen: true},
			},
			Logger: slog.New(slog.DiscardHandler),
		})
		polar.SetOffline(true)
		for _, streams := range []bool{false, true} {
			for method, has := range map[string]bool{"Render": true, "Print": true, "Open": false} {
				ctx, call, err := gate.Begin(t.Context(), rpcgate.CallInfo{Procedure: service + method, ServerStreams: streams})
				require.NoError(t, err, method)
				have, ok := polargate.FromContext(ctx)
				assert.Equal(t, has, ok, method)
				assert.Equal(t, has, have.Has("reports"), method)
				_, ok = polargate.ReservationFromContext(ctx)
				assert.False(t, ok, "nothing is charged")
				require.NoError(t, call.End(nil))
				assert.Equal(t, []string{method + " failed_open"}, h.since())
			}
			_, _, err := gate.Begin(t.Context(), rpcgate.CallInfo{Procedure: service + "Sync", ServerStreams: streams})
			var refusal *polargate.Refusal
			require.ErrorAs(t, err, &refusal)
			assert.Equal(t, http.StatusServiceUnavailable, refusal.Status)
			assert.Equal(t, []string{"Sync undecided"}, h.since())
		}
		ctx, call, err := gate.Begin(t.Context(), rpcgate.CallInfo{Procedure: service + "Print", ServerStreams: true})
		require.NoError(t, err)
		defer call.Close()
		time.Sleep(time.Hour)
		require.NoError(t, ctx.Err(), "it goes on")
		polar.RevokeBenefit("usr_1337", reportsBenefit)
		polar.SetOffline(false)
		time.Sleep(10 * time.Minute)
		var refusal *polargate.Refusal
		require.ErrorAs(t, call.End(nil), &refusal, "Polar says that there is no right")
		assert.Equal(t, http.StatusPaymentRequired, refusal.Status)
		assert.Equal(t, []string{"Print failed_open", "Print unpaid"}, h.since())
	})
}
