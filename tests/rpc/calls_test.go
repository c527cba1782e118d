package rpc

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"connectrpc.com/connect/v2/connecthttp"
	"github.com/polargate/polargate"
	"github.com/polargate/polargate/polargateconnect"
	"github.com/polargate/polargate/polargategrpc"
	"github.com/polargate/polargate/polartest"
	"github.com/polargate/polargate/rpcgate"
	"github.com/polargate/polargate/tests/internal/kit"
	"github.com/polargate/polargate/tests/rpc/reports"
	"github.com/polargate/polargate/tests/rpc/reports/reportsconnectv1"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/health/grpc_health_v1"
)

// door is a server of one library, called by one client.
type door struct {
	name     string
	handlers func() *handlers
	serve    func(t *testing.T, customers *polargate.Customers, s server, h *handlers) (address string)
	call     func(t *testing.T, address string) caller
}

const grpcByHTTP = "gRPC behind net/http called by gRPC"

var doors = []door{
	{"gRPC called by gRPC", newGRPCHandlers, serveGRPC, callGRPC},
	{"gRPC called by Connect as gRPC", newGRPCHandlers, serveGRPC, callConnect(true, connect.WithGRPC())},
	{"gRPC called by Connect 2 as gRPC", newGRPCHandlers, serveGRPC, callConnectV2(true, connecthttp.WithGRPC())},
	{grpcByHTTP, newGRPCHandlers, serveGRPCByHTTP, callGRPC},

	{"Connect called by Connect", newConnectHandlers, serveConnect, callConnect(false)},
	{"Connect called by Connect over HTTP 2", newConnectHandlers, serveConnect, callConnect(true)},
	{"Connect called by Connect in JSON", newConnectHandlers, serveConnect, callConnect(false, connect.WithProtoJSON())},
	{"Connect called by Connect as gRPC-Web", newConnectHandlers, serveConnect, callConnect(false, connect.WithGRPCWeb())},
	{"Connect called by gRPC", newConnectHandlers, serveConnect, callGRPC},
	{"Connect called by Connect 2", newConnectHandlers, serveConnect, callConnectV2(false)},

	{"Connect 2 called by Connect 2", newConnectV2Handlers, serveConnectV2, callConnectV2(false)},
	{"Connect 2 called by Connect 2 over HTTP 2", newConnectV2Handlers, serveConnectV2, callConnectV2(true)},
	{"Connect 2 called by Connect 2 as gRPC-Web", newConnectV2Handlers, serveConnectV2, callConnectV2(false, connecthttp.WithGRPCWeb())},
	{"Connect 2 called by gRPC", newConnectV2Handlers, serveConnectV2, callGRPC},
	{"Connect 2 called by Connect", newConnectV2Handlers, serveConnectV2, callConnect(true)},
}

// each runs a test with each pair of server and client.
func each(t *testing.T, test func(t *testing.T, d door)) {
	t.Helper()
	t.Parallel()
	for _, d := range doors {
		t.Run(d.name, func(t *testing.T) {
			t.Parallel()
			test(t, d)
		})
	}
}

// open serves, and gives a client.
func (d door) open(t *testing.T, customers *polargate.Customers, s server) (caller, *handlers) {
	t.Helper()
	h := d.handlers()
	return d.call(t, d.serve(t, customers, s, h)), h
}

// assertRefused asserts what a client was told.
func assertRefused(t *testing.T, c caller, err error, code rpcgate.Code, reason string) rpcgate.Refused {
	t.Helper()
	require.Error(t, err)
	refused, ok := c.refused(err)
	require.True(t, ok, "%v", err)
	assert.Equal(t, code, refused.Code, "%v", err)
	assert.Equal(t, reason, refused.Reason)
	assert.NotEmpty(t, refused.Message)
	return refused
}

// within is a context for calls that may take long only if something hangs.
func within(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), soon)
	t.Cleanup(cancel)
	return ctx
}

func TestACallIsAnsweredAsItsCustomerDeserves(t *testing.T) {
	each(t, func(t *testing.T, d door) {
		_, customers := shop(t)
		c, _ := d.open(t, customers, server{rules: rules()})
		ctx := within(t)

		report, err := c.as(kit.Paying, "").render(ctx, &reports.Order{})
		require.NoError(t, err)
		assert.Equal(t, kit.Paying, report.GetText(), "the handler finds the Entitlements")

		for _, user := range []string{poor, "usr_unknown"} {
			_, err = c.as(user, "").render(ctx, &reports.Order{})
			refused := assertRefused(t, c, err, rpcgate.PermissionDenied, rpcgate.NotEntitled)
			assert.Equal(t, "feature pro", refused.Required)
			assert.Equal(t, "https://example.com/pricing", refused.UpgradeURL)
			assert.Zero(t, refused.RetryAfter)
		}
		_, err = c.render(ctx, &reports.Order{})
		refused := assertRefused(t, c, err, rpcgate.Unauthenticated, rpcgate.NotSignedIn)
		assert.Empty(t, refused.UpgradeURL)
		_, err = c.as(kit.Paying, "").render(ctx, &reports.Order{Then: "fail"})
		_, ok := c.refused(err)
		assert.False(t, ok, "an error of the handler's own is no refusal: %v", err)
		assert.ErrorContains(t, err, "out of paper")
	})
}

func TestAStreamIsRefusedAsACallIs(t *testing.T) {
	each(t, func(t *testing.T, d door) {
		_, customers := shop(t)
		c, _ := d.open(t, customers, server{rules: rules()})
		ctx := within(t)
		_, err := c.as(poor, "").watch(ctx, &reports.Order{}).rest()
		assertRefused(t, c, err, rpcgate.PermissionDenied, rpcgate.NotEntitled)
		_, err = c.as(poor, "").upload(ctx, &reports.Order{Pages: 1})
		assertRefused(t, c, err, rpcgate.PermissionDenied, rpcgate.NotEntitled)
		if chat := c.as(poor, "").chat(ctx); chat.recv != nil {
			_ = chat.send(&reports.Order{})
			_, err = chat.rest()
			assertRefused(t, c, err, rpcgate.PermissionDenied, rpcgate.NotEntitled)
		}
		texts, err := c.as(kit.Paying, "").watch(ctx, &reports.Order{Then: "end"}).rest()
		require.NoError(t, err)
		assert.Equal(t, []string{kit.Paying}, texts)
		report, err := c.as(kit.Paying, "").upload(ctx, &reports.Order{Pages: 2}, &reports.Order{Pages: 3})
		require.NoError(t, err)
		assert.InDelta(t, 5, report.GetBalance(), 0)
	})
}

func TestAProcedureWithoutARuleIsRefused(t *testing.T) {
	each(t, func(t *testing.T, d door) {
		_, customers := shop(t)
		ctx := within(t)
		c, _ := d.open(t, customers, server{rules: rules()})
		assertRefused(t, c, c.as(kit.Paying, "").forgotten(ctx), rpcgate.PermissionDenied, rpcgate.NoRule)
		c, _ = d.open(t, customers, server{rules: rules(), open: []string{service + "Forgotten"}})
		assert.NoError(t, c.forgotten(ctx), "it is open")
		c, _ = d.open(t, customers, server{rules: rules(), otherwise: &rpcgate.Rule{Require: pro}})
		assert.NoError(t, c.as(kit.Paying, "").forgotten(ctx), "the default rule lets it through")
		assertRefused(t, c, c.as(poor, "").forgotten(ctx), rpcgate.PermissionDenied, rpcgate.NotEntitled)
		c, _ = d.open(t, customers, server{rules: map[string]rpcgate.Rule{service: {Require: pro}}})
		assert.NoError(t, c.as(kit.Paying, "").forgotten(ctx), "the rule of the service does")
	})
}

func TestWhenNobodyCanSayTheClientIsToldWhenToTryAgain(t *testing.T) {
	each(t, func(t *testing.T, d door) {
		s, customers := shop(t)
		ctx := within(t)
		s.Polar.SetOffline(true)
		c, _ := d.open(t, customers, server{rules: rules()})
		_, err := c.as(kit.Paying, "").render(ctx, &reports.Order{})
		refused := assertRefused(t, c, err, rpcgate.Unavailable, rpcgate.Undecided)
		assert.GreaterOrEqual(t, refused.RetryAfter, time.Second)
		assert.Equal(t, polargate.ErrUnreachable, refused.Cause)

		all := rules()
		for name, rule := range all {
			rule.FailOpen = true
			all[name] = rule
		}
		c, _ = d.open(t, customers, server{rules: all})
		report, err := c.as(kit.Paying, "").render(ctx, &reports.Order{})
		require.NoError(t, err, "the rule fails open")
		assert.Empty(t, report.GetText(), "and there are no Entitlements")
		texts, err := c.as(kit.Paying, "").watch(ctx, &reports.Order{Then: "end"}).rest()
		require.NoError(t, err)
		assert.Equal(t, []string{""}, texts)

		c, _ = d.open(t, customers, server{rules: all, fails: errors.New("no session store")})
		_, err = c.as(kit.Paying, "").render(ctx, &reports.Order{})
		refused = assertRefused(t, c, err, rpcgate.Unavailable, rpcgate.Undecided)
		assert.NotContains(t, err.Error()+refused.Message, "no session store", "what the program knows stays there")
	})
}

func TestALicenseKeyComesInTheMetadata(t *testing.T) {
	each(t, func(t *testing.T, d door) {
		s, customers := shop(t)
		ctx := within(t)
		c, _ := d.open(t, customers, server{rules: rules(), byKey: true})
		good := s.Polar.AddKey(polartest.LicenseKey{BenefitID: kit.ProBenefit})
		revoked := s.Polar.AddKey(polartest.LicenseKey{BenefitID: kit.ProBenefit, Status: "revoked"})
		tea := s.Polar.AddKey(polartest.LicenseKey{BenefitID: kit.TeaBenefit})
		_, err := c.as("", good.Key).render(ctx, &reports.Order{})
		require.NoError(t, err)
		_, err = c.as("", revoked.Key).render(ctx, &reports.Order{})
		refused := assertRefused(t, c, err, rpcgate.PermissionDenied, rpcgate.LicenseKeyRefused)
		assert.Equal(t, polargate.ErrInactive, refused.Cause)
		_, err = c.as("", tea.Key).render(ctx, &reports.Order{})
		refused = assertRefused(t, c, err, rpcgate.PermissionDenied, rpcgate.LicenseKeyRefused)
		assert.Equal(t, polargate.ErrWrongBenefit, refused.Cause)
		for _, key := range []string{"", "POLARGATE-00000000-0000-4000-8000-000000000000"} {
			_, err = c.as("", key).render(ctx, &reports.Order{})
			assertRefused(t, c, err, rpcgate.Unauthenticated, rpcgate.LicenseKeyUnknown)
		}
	})
}

func TestAStreamEndsWithTheRefusalWhenTheRightEnds(t *testing.T) {
	each(t, func(t *testing.T, d door) {
		for then, texts := range map[string][]string{
			"":           {kit.Paying},
			"nothing":    {kit.Paying},
			"last words": {kit.Paying, "bye"},
			"own error":  {kit.Paying},
		} {
			t.Run("the handler says "+then, func(t *testing.T) {
				t.Parallel()
				s, customers := shop(t)
				ctx := within(t)
				c, h := d.open(t, customers, server{rules: rules()})
				watching := c.as(kit.Paying, "").watch(ctx, &reports.Order{Then: then})
				<-h.entered
				s.Polar.RevokeBenefit(kit.Paying, kit.ProBenefit)
				got, err := watching.rest()
				assert.Equal(t, texts, got)
				if then == "own error" {
					assert.ErrorContains(t, err, "saved until page 7")
				} else {
					assertRefused(t, c, err, rpcgate.PermissionDenied, rpcgate.NotEntitled)
				}
				cause := <-h.left
				var refusal *polargate.Refusal
				require.ErrorAs(t, cause, &refusal, "the cause of the handler's context")
				assert.Equal(t, polargate.Feature("pro"), refusal.Required)
				refused, ok := h.refused(cause)
				assert.True(t, ok, "which is an error of the library, too: %v", cause)
				assert.Equal(t, rpcgate.PermissionDenied, refused.Code)
			})
		}
	})
}

func TestAHandlerThatWaitsForItsClientIsInterruptedWhenTheRightEnds(t *testing.T) {
	each(t, func(t *testing.T, d door) {
		s, customers := shop(t)
		c, h := d.open(t, customers, server{rules: rules()})
		chat := c.as(kit.Paying, "").chat(within(t))
		if chat.recv == nil {
			t.Skip("this protocol has no stream both ways")
		}
		require.NoError(t, chat.send(&reports.Order{}))
		_, err := chat.recv()
		require.NoError(t, err)
		s.Polar.RevokeBenefit(kit.Paying, kit.ProBenefit)
		_, err = chat.rest()
		assertRefused(t, c, err, rpcgate.PermissionDenied, rpcgate.NotEntitled)
		var refusal *polargate.Refusal
		assert.ErrorAs(t, <-h.left, &refusal)
	})
}

func TestAHandlerThatWritesToAClientThatDoesNotReadIsInterrupted(t *testing.T) {
	each(t, func(t *testing.T, d door) {
		if d.name == grpcByHTTP {
			t.Skip("gRPC's streams by net/http wait for the client")
		}
		s, customers := shop(t)
		c, h := d.open(t, customers, server{rules: rules()})
		watching := c.as(kit.Paying, "").watch(within(t), &reports.Order{Then: "fill"})
		_, err := watching.recv()
		require.NoError(t, err)
		s.Polar.RevokeBenefit(kit.Paying, kit.ProBenefit)
		select {
		case cause := <-h.left:
			var refusal *polargate.Refusal
			assert.ErrorAs(t, cause, &refusal)
		case <-time.After(soon):
			assert.Fail(t, "the handler goes on")
		}
	})
}

func balance(t *testing.T, customers *polargate.Customers) float64 {
	t.Helper()
	have, err := customers.Entitlements(t.Context(), polargate.ExternalID(kit.Paying))
	require.NoError(t, err)
	m, ok := have.Meter(kit.CallsMeter)
	require.True(t, ok)
	return m.Balance
}

func TestACallCostsWhatItsMessageSays(t *testing.T) {
	each(t, func(t *testing.T, d door) {
		_, customers := shop(t)
		ctx := within(t)
		c, _ := d.open(t, customers, server{rules: spending("pages")})
		c = c.as(kit.Paying, "")
		report, err := c.render(ctx, &reports.Order{Pages: 30})
		require.NoError(t, err)
		assert.InDelta(t, 70, report.GetBalance(), 0, "the handler sees what is left")
		_, err = c.render(ctx, &reports.Order{Pages: 71})
		refused := assertRefused(t, c, err, rpcgate.ResourceExhausted, rpcgate.QuotaExceeded)
		assert.Contains(t, refused.Required, "meter "+kit.CallsMeter)
		assert.InDelta(t, 70, balance(t, customers), 0)
		_, err = c.render(ctx, &reports.Order{Pages: 20, Then: "fail"})
		require.Error(t, err)
		assert.InDelta(t, 70, balance(t, customers), 0, "an error gives the units back")
		_, err = c.render(ctx, &reports.Order{Pages: 20, Then: "use less"})
		require.NoError(t, err)
		assert.InDelta(t, 69, balance(t, customers), 0, "the handler has committed what it used")
		_, err = c.render(ctx, &reports.Order{})
		require.NoError(t, err)
		assert.InDelta(t, 69, balance(t, customers), 0, "no pages cost nothing")
		_, err = c.render(ctx, &reports.Order{Pages: -1})
		assertRefused(t, c, err, rpcgate.Unavailable, rpcgate.Undecided)
		_, err = c.render(ctx, &reports.Order{Pages: 10, Then: "panic"})
		require.Error(t, err)
		assert.InDelta(t, 69, balance(t, customers), 0, "a panic gives the units back")
		assert.Equal(t, 2, customers.Stats().Usage.Waiting, "two calls have an event for Polar")
	})
}

func TestEachMessageOfAStreamIsChargedWhenTheHandlerIsDoneWithIt(t *testing.T) {
	each(t, func(t *testing.T, d door) {
		_, customers := shop(t)
		ctx := within(t)
		c, _ := d.open(t, customers, server{rules: spending("pages")})
		c = c.as(kit.Paying, "")
		_, err := c.upload(ctx, &reports.Order{Pages: 10}, &reports.Order{Pages: 5})
		require.NoError(t, err)
		assert.InDelta(t, 85, balance(t, customers), 0)
		_, err = c.upload(ctx, &reports.Order{Pages: 10}, &reports.Order{Pages: 5, Then: "fail"})
		require.Error(t, err)
		assert.InDelta(t, 75, balance(t, customers), 0, "only the message that failed is given back")
		_, err = c.upload(ctx, &reports.Order{Pages: 70}, &reports.Order{Pages: 6})
		assertRefused(t, c, err, rpcgate.ResourceExhausted, rpcgate.QuotaExceeded)
		assert.InDelta(t, 5, balance(t, customers), 0)
		texts, err := c.watch(ctx, &reports.Order{Pages: 2, Then: "end"}).rest()
		require.NoError(t, err)
		assert.Equal(t, []string{kit.Paying}, texts)
		assert.InDelta(t, 3, balance(t, customers), 0)
		chat := c.chat(ctx)
		if chat.recv == nil {
			return
		}
		for _, left := range []float64{2, 1, 0} {
			require.NoError(t, chat.send(&reports.Order{Pages: 1}))
			report, err := chat.recv()
			require.NoError(t, err)
			assert.InDelta(t, left, report.GetBalance(), 0)
		}
		require.NoError(t, chat.send(&reports.Order{Pages: 1}))
		_, err = chat.rest()
		assertRefused(t, c, err, rpcgate.ResourceExhausted, rpcgate.QuotaExceeded)
		assert.InDelta(t, 0, balance(t, customers), 0)
	})
}

func TestACallCostsAFixedAmount(t *testing.T) {
	each(t, func(t *testing.T, d door) {
		_, customers := shop(t)
		ctx := within(t)
		all := rules()
		for name, rule := range all {
			rule.Spend = rpcgate.Cost{MeterID: kit.CallsMeter, Units: 40}
			all[name] = rule
		}
		c, _ := d.open(t, customers, server{rules: all})
		c = c.as(kit.Paying, "")
		report, err := c.render(ctx, &reports.Order{})
		require.NoError(t, err)
		assert.InDelta(t, 60, report.GetBalance(), 0)
		_, err = c.upload(ctx, &reports.Order{}, &reports.Order{}, &reports.Order{})
		require.NoError(t, err)
		assert.InDelta(t, 20, balance(t, customers), 0, "the stream is charged once")
		_, err = c.watch(ctx, &reports.Order{Then: "end"}).rest()
		assertRefused(t, c, err, rpcgate.ResourceExhausted, rpcgate.QuotaExceeded)
		assert.InDelta(t, 20, balance(t, customers), 0)
	})
}

func TestWithoutTheWrappedHandlerAConnectHandlerThatWaitsIsInterruptedAllTheSame(t *testing.T) {
	t.Parallel()
	for _, d := range doors {
		if d.name != "Connect called by Connect over HTTP 2" && d.name != "Connect 2 called by Connect 2 over HTTP 2" {
			continue
		}
		t.Run(d.name, func(t *testing.T) {
			t.Parallel()
			s, customers := shop(t)
			c, h := d.open(t, customers, server{rules: rules(), unwrapped: true})
			chat := c.as(kit.Paying, "").chat(within(t))
			require.NoError(t, chat.send(&reports.Order{}))
			_, err := chat.recv()
			require.NoError(t, err)
			s.Polar.RevokeBenefit(kit.Paying, kit.ProBenefit)
			_, err = chat.rest()
			assertRefused(t, c, err, rpcgate.PermissionDenied, rpcgate.NotEntitled)
			var refusal *polargate.Refusal
			assert.ErrorAs(t, <-h.left, &refusal)
		})
	}
}

func TestAStreamThatIsDecidedOnceGoesOnWhenTheRightEnds(t *testing.T) {
	each(t, func(t *testing.T, d door) {
		s, customers := shop(t)
		c, _ := d.open(t, customers, server{rules: map[string]rpcgate.Rule{service: {Require: pro, DecideOnce: true}}})
		chat := c.as(kit.Paying, "").chat(within(t))
		if chat.recv == nil {
			t.Skip("this protocol has no stream both ways")
		}
		require.NoError(t, chat.send(&reports.Order{}))
		_, err := chat.recv()
		require.NoError(t, err)
		s.Polar.RevokeBenefit(kit.Paying, kit.ProBenefit)
		require.NoError(t, s.Polar.WaitForDeliveries(within(t)))
		require.NoError(t, chat.send(&reports.Order{}))
		_, err = chat.recv()
		require.NoError(t, err)
		chat.close()
		_, err = chat.rest()
		assert.NoError(t, err)
	})
}

// Both are resource_exhausted.
func TestAQuotaIsToldFromAMessageThatIsTooLarge(t *testing.T) {
	each(t, func(t *testing.T, d door) {
		_, customers := shop(t)
		all := rules()
		all[service+"Render"] = rpcgate.Rule{Require: []polargate.Requirement{polargate.Meter(kit.CallsMeter, 101)}}
		c, _ := d.open(t, customers, server{rules: all})
		_, err := c.as(kit.Paying, "").render(within(t), &reports.Order{})
		assert.Equal(t, "resource_exhausted", codeOf(err))
		assertRefused(t, c, err, rpcgate.ResourceExhausted, rpcgate.QuotaExceeded)
		if strings.HasPrefix(d.name, "Connect called") {
			return // its version 1 reads messages of any size unless it is told otherwise
		}
		_, err = c.as(kit.Paying, "").upload(within(t), &reports.Order{Then: strings.Repeat("x", 5<<20)})
		assert.Equal(t, "resource_exhausted", codeOf(err), "%v", err)
		_, ok := c.refused(err)
		assert.False(t, ok)
	})
}

func TestHealthIsOpen(t *testing.T) {
	t.Parallel()
	_, customers := shop(t)
	g := newGRPCServer(customers, server{rules: rules(), open: []string{polargategrpc.Health}}, newGRPCHandlers())
	c := callGRPC(t, serveHTTP(t, g)).(grpcCaller)
	answer, err := grpc_health_v1.NewHealthClient(c.conn).Check(within(t), &grpc_health_v1.HealthCheckRequest{})
	require.NoError(t, err)
	assert.Equal(t, grpc_health_v1.HealthCheckResponse_SERVING, answer.GetStatus())
}

// Connect's clients send calls without side effects as GET, if they are told to.
func TestACallByGETIsRefusedLikeAnyOther(t *testing.T) {
	t.Parallel()
	_, customers := shop(t)
	address := serveConnect(t, customers, server{rules: rules()}, newConnectHandlers())
	client := reportsconnectv1.NewReportsClient(browser(t, false), "http://"+address, connect.WithHTTPGet())
	ask := func(user string) (*connect.Response[reports.Report], error) {
		request := connect.NewRequest(&reports.Order{})
		request.Header().Set("X-User", user)
		response, err := client.Stored(within(t), request)
		assert.Equal(t, "GET", request.HTTPMethod())
		return response, err
	}
	response, err := ask(kit.Paying)
	require.NoError(t, err)
	assert.Equal(t, kit.Paying, response.Msg.GetText())
	_, err = ask(poor)
	refused, ok := polargateconnect.FromError(err)
	require.True(t, ok)
	assert.Equal(t, rpcgate.NotEntitled, refused.Reason)
}
