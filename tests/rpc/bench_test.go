package rpc

import (
	"bytes"
	"context"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	connectv2 "connectrpc.com/connect/v2"
	"github.com/polargate/polargate"
	"github.com/polargate/polargate/polargateconnect"
	"github.com/polargate/polargate/polargateconnectv2"
	"github.com/polargate/polargate/polargategrpc"
	"github.com/polargate/polargate/polartest"
	"github.com/polargate/polargate/rpcgate"
	"github.com/polargate/polargate/tests/internal/kit"
	"github.com/polargate/polargate/tests/rpc/reports"
	"github.com/polargate/polargate/tests/rpc/reports/reportsconnectv1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// byHand is what a program writes that knows its customers by heart: a map under a lock.
type byHand struct {
	needs    map[string]string // by procedure
	mu       sync.RWMutex
	features map[string]map[string]bool // by customer
}

type haveKey struct{}

// admit gives the context for the handler, or what is wrong.
func (b *byHand) admit(ctx context.Context, procedure, user string) (inner context.Context, wrong string) {
	need, ok := b.needs[procedure]
	if !ok {
		return nil, "no rule"
	}
	if user == "" {
		return nil, "sign in"
	}
	b.mu.RLock()
	have := b.features[user]
	b.mu.RUnlock()
	if !have[need] {
		return nil, "upgrade"
	}
	return context.WithValue(ctx, haveKey{}, have), ""
}

func newByHand() *byHand {
	return &byHand{
		needs:    map[string]string{service + "Render": "pro"},
		features: map[string]map[string]bool{kit.Paying: {"pro": true}},
	}
}

func (b *byHand) grpc(ctx context.Context, request any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	ctx, wrong := b.admit(ctx, info.FullMethod, grpcUser(ctx))
	if wrong != "" {
		return nil, status.Error(codes.PermissionDenied, wrong)
	}
	return handler(ctx, request)
}

func grpcUser(ctx context.Context) string {
	if values := metadata.ValueFromIncomingContext(ctx, "x-user"); len(values) > 0 {
		return values[0]
	}
	return ""
}

func (b *byHand) connect(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, request connect.AnyRequest) (connect.AnyResponse, error) {
		ctx, wrong := b.admit(ctx, request.Spec().Procedure, request.Header().Get("X-User"))
		if wrong != "" {
			return nil, connect.NewError(connect.CodePermissionDenied, nil)
		}
		return next(ctx, request)
	}
}

func (b *byHand) connectV2(next connectv2.ServerFunc) connectv2.ServerFunc {
	return func(ctx context.Context, spec connectv2.Spec, stream connectv2.ServerStream) error {
		info, _ := connectv2.CallInfoForServerContext(ctx)
		ctx, wrong := b.admit(ctx, spec.Procedure, info.RequestHeader().Get("x-user"))
		if wrong != "" {
			return connectv2.NewError(connectv2.CodePermissionDenied, wrong)
		}
		return next(ctx, spec, stream)
	}
}

// warm are Customers that know the paying one.
func warm(b *testing.B) *polargate.Customers {
	b.Helper()
	polar := polartest.New(polartest.Config{Unlimited: true})
	polar.AddCustomer(polartest.Customer{ExternalID: kit.Paying, Benefits: []polartest.Benefit{{BenefitID: kit.ProBenefit}}})
	customers, err := polargate.NewCustomers(polargate.CustomersConfig{
		AccessToken: polar.AddToken(polartest.Token{}), Features: map[string][]string{kit.ProBenefit: {"pro"}},
		BaseURL: polar.URL(), HTTPClient: polar.Client(),
	})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = customers.Close() })
	if have, err := customers.Entitlements(b.Context(), polargate.ExternalID(kit.Paying)); err != nil || !have.Has("pro") {
		b.Fatal(err)
	}
	return customers
}

func benchRules() map[string]rpcgate.Rule {
	return map[string]rpcgate.Rule{service + "Render": {Require: pro}}
}

// pair measures two ways in turns, many times, and reports what the middle turn took of each, and
// how often as much the first took as the second. A busy computer slows both.
func pair(b *testing.B, together int, ours, hand func() error) {
	b.Helper()
	run := func(f func() error) time.Duration {
		began := time.Now()
		for range together {
			if err := f(); err != nil {
				b.Fatal(err)
			}
		}
		return time.Since(began)
	}
	var first, second, ratios []float64
	for turn := 0; b.Loop(); turn++ {
		var a, z time.Duration
		if turn%2 == 0 {
			a, z = run(ours), run(hand)
		} else {
			z = run(hand)
			a = run(ours)
		}
		first, second = append(first, float64(a)/float64(together)), append(second, float64(z)/float64(together))
		ratios = append(ratios, float64(a)/float64(z))
	}
	for unit, of := range map[string][]float64{"ours-ns": first, "hand-ns": second, "ratio": ratios} {
		slices.Sort(of)
		b.ReportMetric(of[len(of)/2], unit)
	}
	b.ReportMetric(0, "ns/op")
}

// What an interceptor adds to a call for a customer who is known, beside one by hand: by
// itself, and as a client sees it over loopback.
func BenchmarkAnInterceptorBesideOneByHand(b *testing.B) {
	b.Run("gRPC alone", func(b *testing.B) {
		gate := polargategrpc.New(warm(b), polargategrpc.Config{Rules: benchRules(), Customer: grpcCustomer})
		ctx := metadata.NewIncomingContext(context.Background(), metadata.Pairs("x-user", kit.Paying))
		info := &grpc.UnaryServerInfo{FullMethod: service + "Render"}
		handler := func(context.Context, any) (any, error) { return nil, nil }
		call := func(intercept grpc.UnaryServerInterceptor) func() error {
			return func() error { _, err := intercept(ctx, nil, info, handler); return err }
		}
		pair(b, 1000, call(gate.Unary), call(newByHand().grpc))
	})
	b.Run("gRPC over loopback", func(b *testing.B) {
		gate := polargategrpc.New(warm(b), polargategrpc.Config{Rules: benchRules(), Customer: grpcCustomer})
		call := func(intercept grpc.UnaryServerInterceptor) func() error {
			server := grpc.NewServer(grpc.UnaryInterceptor(intercept))
			reports.RegisterReportsServer(server, rendering{})
			listener := listen(b)
			go server.Serve(listener)
			b.Cleanup(server.Stop)
			conn, err := grpc.NewClient(listener.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
			if err != nil {
				b.Fatal(err)
			}
			b.Cleanup(func() { _ = conn.Close() })
			client, ctx := reports.NewReportsClient(conn), metadata.AppendToOutgoingContext(context.Background(), "x-user", kit.Paying)
			return func() error { _, err := client.Render(ctx, &reports.Order{}); return err }
		}
		pair(b, 20, call(gate.Unary), call(newByHand().grpc))
	})
	b.Run("Connect in process", func(b *testing.B) {
		gate := polargateconnect.New(warm(b), polargateconnect.Config{Rules: benchRules(), Customer: headerCustomer})
		body, err := proto.Marshal(&reports.Order{Pages: 1})
		if err != nil {
			b.Fatal(err)
		}
		call := func(interceptor connect.Interceptor) func() error {
			_, handler := reportsconnectv1.NewReportsHandler(connectRendering{}, connect.WithInterceptors(interceptor))
			return func() error {
				r := httptest.NewRequest(http.MethodPost, service+"Render", bytes.NewReader(body))
				r.Header.Set("Content-Type", "application/proto")
				r.Header.Set("X-User", kit.Paying)
				w := httptest.NewRecorder()
				if handler.ServeHTTP(w, r); w.Code != http.StatusOK {
					b.Fatal(w.Code)
				}
				return nil
			}
		}
		pair(b, 200, call(gate), call(connect.UnaryInterceptorFunc(newByHand().connect)))
	})
	b.Run("Connect over loopback", func(b *testing.B) {
		gate := polargateconnect.New(warm(b), polargateconnect.Config{Rules: benchRules(), Customer: headerCustomer})
		call := func(interceptor connect.Interceptor) func() error {
			mux := http.NewServeMux()
			mux.Handle(reportsconnectv1.NewReportsHandler(connectRendering{}, connect.WithInterceptors(interceptor)))
			server := httptest.NewServer(mux)
			b.Cleanup(server.Close)
			client := reportsconnectv1.NewReportsClient(server.Client(), server.URL)
			return func() error {
				request := connect.NewRequest(&reports.Order{})
				request.Header().Set("X-User", kit.Paying)
				_, err := client.Render(context.Background(), request)
				return err
			}
		}
		pair(b, 20, call(gate), call(connect.UnaryInterceptorFunc(newByHand().connect)))
	})
	b.Run("Connect 2 alone", func(b *testing.B) {
		gate := polargateconnectv2.New(warm(b), polargateconnectv2.Config{Rules: benchRules(), Customer: func(ctx context.Context) (polargate.CustomerRef, error) {
			info, _ := connectv2.CallInfoForServerContext(ctx)
			return ref(info.RequestHeader().Get("x-user")), nil
		}})
		call := func(intercept connectv2.ServerInterceptor) func() error {
			server := connectv2.NewServer(intercept)
			server.Register(connectv2.Method{
				Spec:    connectv2.Spec{Procedure: service + "Render"},
				Handler: func(context.Context, connectv2.Spec, connectv2.ServerStream) error { return nil },
			})
			var info connectv2.CallInfo
			info.RequestHeader().Set("x-user", kit.Paying)
			return func() error { return server.Call(context.Background(), service+"Render", &info, nil) }
		}
		pair(b, 1000, call(gate.Intercept), call(newByHand().connectV2))
	})
}

func ref(user string) polargate.CustomerRef {
	if user == "" {
		return polargate.CustomerRef{}
	}
	return polargate.ExternalID(user)
}

func grpcCustomer(ctx context.Context) (polargate.CustomerRef, error) { return ref(grpcUser(ctx)), nil }

func headerCustomer(_ context.Context, header http.Header) (polargate.CustomerRef, error) {
	return ref(header.Get("X-User")), nil
}

// rendering and connectRendering do nothing.
type rendering struct {
	reports.UnimplementedReportsServer
}

func (rendering) Render(context.Context, *reports.Order) (*reports.Report, error) {
	return &reports.Report{}, nil
}

type connectRendering struct {
	reportsconnectv1.UnimplementedReportsHandler
}

func (connectRendering) Render(context.Context, *connect.Request[reports.Order]) (*connect.Response[reports.Report], error) {
	return connect.NewResponse(&reports.Report{}), nil
}
