package rpc

import (
	"context"
	"log"
	"net/http"
	"testing"

	"connectrpc.com/connect"
	connectv2 "connectrpc.com/connect/v2"
	"connectrpc.com/connect/v2/connecthttp"
	"github.com/polargate/polargate"
	"github.com/polargate/polargate/polargateconnect"
	"github.com/polargate/polargate/polargateconnectv2"
	"github.com/polargate/polargate/polargategrpc"
	"github.com/polargate/polargate/tests/internal/kit"
	"github.com/polargate/polargate/tests/rpc/reports"
	"github.com/polargate/polargate/tests/rpc/reports/reportsconnectv1"
	"github.com/polargate/polargate/tests/rpc/reports/reportsconnectv2"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
)

// The code that docs/grpc.md and docs/connect.md show is an excerpt of this file.

const pages = kit.CallsMeter

type sessionKey struct{}

// fromSession stands for a function of a program that checks the session of a call.
func fromSession(ctx context.Context) (polargate.CustomerRef, error) {
	if user := metadata.ValueFromIncomingContext(ctx, "x-user"); len(user) == 1 {
		return polargate.ExternalID(user[0]), nil
	}
	return polargate.CustomerRef{}, nil
}

func signedIn(ctx context.Context) (polargate.CustomerRef, error) {
	if user, ok := ctx.Value(sessionKey{}).(string); ok {
		return polargate.ExternalID(user), nil
	}
	return polargate.CustomerRef{}, nil
}

func pagesOf(_ context.Context, message any) (float64, error) {
	return float64(message.(*reports.Order).GetPages()), nil
}

func pageGRPC(customers *polargate.Customers, service reports.ReportsServer) *grpc.Server {
	gate := polargategrpc.New(customers, polargategrpc.Config{
		Customer: fromSession, // func(context.Context) (polargate.CustomerRef, error)
		Rules: map[string]polargategrpc.Rule{
			"/reports.v1.Reports/": {
				Require: []polargate.Requirement{polargate.Feature("export")},
			},
			reports.Reports_Render_FullMethodName: {
				Require: []polargate.Requirement{polargate.Feature("export")},
				Spend:   polargategrpc.Cost{MeterID: pages, UnitsOf: pagesOf, Usage: polargate.Usage{Name: "pages"}},
			},
		},
		Open: []string{polargategrpc.Health, polargategrpc.Reflection},
	})
	server := grpc.NewServer(gate.ServerOptions()...)
	reports.RegisterReportsServer(server, service)
	return server
}

func byCertificate(ctx context.Context) (polargate.CustomerRef, error) {
	from, _ := peer.FromContext(ctx)
	tls, ok := from.AuthInfo.(credentials.TLSInfo)
	if !ok || len(tls.State.VerifiedChains) == 0 {
		return polargate.CustomerRef{}, nil // nobody is signed in
	}
	return polargate.ExternalID(tls.State.VerifiedChains[0][0].Subject.CommonName), nil
}

func byLicenseKey(customers *polargate.Customers) *polargategrpc.Gate {
	return polargategrpc.New(customers, polargategrpc.Config{
		LicenseKey: "x-license-key",
		Default:    &polargategrpc.Rule{Require: []polargate.Requirement{polargate.Feature("api")}},
	})
}

type printer struct {
	reports.UnimplementedReportsServer
}

func print(*reports.Order) (printed float64, err error) { return 2, nil }

func (printer) Render(ctx context.Context, order *reports.Order) (*reports.Report, error) {
	printed, err := print(order)
	if err != nil {
		return nil, err // gives the units back
	}
	if held, ok := polargate.ReservationFromContext(ctx); ok {
		err = held.Commit(ctx, printed, polargate.Usage{Name: "pages"})
	}
	return &reports.Report{}, err
}

func (printer) Watch(order *reports.Order, stream grpc.ServerStreamingServer[reports.Report]) error {
	for {
		select {
		case <-stream.Context().Done():
			return context.Cause(stream.Context()) // the refusal, with its status
		case report := <-news:
			if err := stream.Send(report); err != nil {
				return err
			}
		}
	}
}

var news = make(chan *reports.Report)

func explain(err error) {
	if refused, ok := polargategrpc.FromError(err); ok {
		log.Println(refused.Reason, refused.Message, refused.UpgradeURL, refused.RetryAfter)
	}
}

func pageConnect(customers *polargate.Customers, service reportsconnectv1.ReportsHandler) http.Handler {
	gate := polargateconnect.New(customers, polargateconnect.Config{
		Customer: func(ctx context.Context, _ http.Header) (polargate.CustomerRef, error) {
			return signedIn(ctx) // what middleware has checked
		},
		Rules: map[string]polargateconnect.Rule{
			"/reports.v1.Reports/": {
				Require: []polargate.Requirement{polargate.Feature("export")},
			},
			reportsconnectv1.ReportsRenderProcedure: {
				Require: []polargate.Requirement{polargate.Feature("export")},
				Spend:   polargateconnect.Cost{MeterID: pages, UnitsOf: pagesOf, Usage: polargate.Usage{Name: "pages"}},
			},
		},
		Open: []string{polargateconnect.Health, polargateconnect.Reflection},
	})
	mux := http.NewServeMux()
	mux.Handle(reportsconnectv1.NewReportsHandler(service, connect.WithInterceptors(gate)))
	handler := signInHTTP(gate.Handler(mux)) // the handler of the http.Server
	return handler
}

func pageConnectV2(customers *polargate.Customers, service reportsconnectv2.ReportsHandler) http.Handler {
	gate := polargateconnectv2.New(customers, polargateconnectv2.Config{
		Customer: signedIn,
		Rules: map[string]polargateconnectv2.Rule{
			"/reports.v1.Reports/": {Require: []polargate.Requirement{polargate.Feature("export")}},
		},
	})
	server := connectv2.NewServer(gate.Intercept)
	reportsconnectv2.RegisterReportsHandler(server, service)
	mux := http.NewServeMux()
	connecthttp.Mount(mux, server)
	return signInHTTP(gate.Handler(mux))
}

// signInHTTP stands for middleware that checks a session.
func signInHTTP(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if user := r.Header.Get("X-User"); user != "" {
			r = r.WithContext(context.WithValue(r.Context(), sessionKey{}, user))
		}
		next.ServeHTTP(w, r)
	})
}

func TestTheServersThatThePagesShowLetThePayingCustomerThrough(t *testing.T) {
	t.Parallel()
	_, customers := shop(t)
	h := newConnectHandlers()
	for name, address := range map[string]string{
		"gRPC":      serveHTTP(t, pageGRPC(customers, grpcService{handlers: h})),
		"Connect":   serveHTTP(t, pageConnect(customers, connectService{handlers: h})),
		"Connect 2": serveHTTP(t, pageConnectV2(customers, connectV2Service{handlers: h})),
	} {
		c := callGRPC(t, address)
		report, err := c.as(kit.Paying, "").render(within(t), &reports.Order{Pages: 3})
		require.NoError(t, err, name)
		assert.Equal(t, kit.Paying, report.GetText())
		_, err = c.as(poor, "").render(within(t), &reports.Order{Pages: 3})
		refused, ok := c.refused(err)
		assert.True(t, ok, name)
		assert.Equal(t, "feature export", refused.Required)
		explain(err)
	}
	assert.InDelta(t, 94, balance(t, customers), 0, "two of them sell pages")

	c := callGRPC(t, serveHTTP(t, pageGRPC(customers, printer{}))).as(kit.Paying, "")
	_, err := c.render(within(t), &reports.Order{Pages: 50})
	require.NoError(t, err)
	assert.InDelta(t, 92, balance(t, customers), 0, "two pages were printed")
	go func() { news <- &reports.Report{Text: "printed"} }()
	report, err := c.watch(within(t), &reports.Order{}).recv()
	require.NoError(t, err)
	assert.Equal(t, "printed", report.GetText())
	held := byLicenseKey(customers)
	assert.NotNil(t, held.ServerOptions())
	customer, err := byCertificate(peer.NewContext(t.Context(), &peer.Peer{}))
	require.NoError(t, err)
	assert.True(t, customer.IsZero())
}
