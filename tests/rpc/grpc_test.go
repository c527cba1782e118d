package rpc

import (
	"context"
	"testing"

	"github.com/polargate/polargate"
	"github.com/polargate/polargate/polargategrpc"
	"github.com/polargate/polargate/rpcgate"
	"github.com/polargate/polargate/tests/rpc/reports"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// grpcService has the handlers behind the interfaces that gRPC generates.
type grpcService struct {
	reports.UnimplementedReportsServer
	*handlers
}

func (s grpcService) Render(ctx context.Context, o *reports.Order) (*reports.Report, error) {
	return s.render(ctx, o)
}

func (s grpcService) Forgotten(ctx context.Context, o *reports.Order) (*reports.Report, error) {
	return s.render(ctx, o)
}

func (s grpcService) Watch(o *reports.Order, stream grpc.ServerStreamingServer[reports.Report]) error {
	return s.watch(stream.Context(), o, stream.Send)
}

func (s grpcService) Upload(stream grpc.ClientStreamingServer[reports.Order, reports.Report]) error {
	report, err := s.upload(stream.Context(), stream.Recv)
	if err != nil {
		return err
	}
	return stream.SendAndClose(report)
}

func (s grpcService) Chat(stream grpc.BidiStreamingServer[reports.Order, reports.Report]) error {
	return s.chat(stream.Context(), stream.Recv, stream.Send)
}

func newGRPCHandlers() *handlers {
	return newHandlers(func(text string) error { return status.Error(codes.Internal, text) }, polargategrpc.FromError)
}

// recovered makes an error of a panic, so that the server goes on.
func recovered(ctx context.Context, request any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (response any, err error) {
	defer func() {
		if recover() != nil {
			err = status.Error(codes.Internal, "recovered")
		}
	}()
	return handler(ctx, request)
}

func (s *server) grpcGate(customers *polargate.Customers) *polargategrpc.Gate {
	config := polargategrpc.Config{Rules: s.rules, Default: s.otherwise, Open: s.open, LicenseKey: s.licenseKey()}
	if !s.byKey {
		config.Customer = func(ctx context.Context) (polargate.CustomerRef, error) {
			var user string
			if values := metadata.ValueFromIncomingContext(ctx, "x-user"); len(values) > 0 {
				user = values[0]
			}
			return s.who(user)
		}
	}
	return polargategrpc.New(customers, config)
}

func newGRPCServer(customers *polargate.Customers, s server, h *handlers) *grpc.Server {
	options := append([]grpc.ServerOption{grpc.ChainUnaryInterceptor(recovered)}, s.grpcGate(customers).ServerOptions()...)
	g := grpc.NewServer(options...)
	reports.RegisterReportsServer(g, grpcService{handlers: h})
	grpc_health_v1.RegisterHealthServer(g, health.NewServer())
	return g
}

// serveGRPCByHTTP serves gRPC by the HTTP/2 of net/http.
func serveGRPCByHTTP(t *testing.T, customers *polargate.Customers, s server, h *handlers) (address string) {
	t.Helper()
	return serveHTTP(t, newGRPCServer(customers, s, h))
}

func serveGRPC(t *testing.T, customers *polargate.Customers, s server, h *handlers) (address string) {
	t.Helper()
	g := newGRPCServer(customers, s, h)
	listener := listen(t)
	served := make(chan error, 1)
	go func() { served <- g.Serve(listener) }()
	t.Cleanup(func() {
		g.Stop()
		assert.NoError(t, <-served)
	})
	return listener.Addr().String()
}

// grpcCaller calls by grpc-go.
type grpcCaller struct {
	conn      *grpc.ClientConn
	user, key string
}

func callGRPC(t *testing.T, address string) caller {
	t.Helper()
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	return grpcCaller{conn: conn}
}

func (c grpcCaller) as(user, key string) caller { return grpcCaller{c.conn, user, key} }

func (c grpcCaller) prepare(ctx context.Context) (context.Context, reports.ReportsClient) {
	if c.user != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, "x-user", c.user)
	}
	if c.key != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, "x-license-key", c.key)
	}
	return ctx, reports.NewReportsClient(c.conn)
}

func (c grpcCaller) render(ctx context.Context, o *reports.Order) (*reports.Report, error) {
	ctx, client := c.prepare(ctx)
	return client.Render(ctx, o)
}

func (c grpcCaller) forgotten(ctx context.Context) error {
	ctx, client := c.prepare(ctx)
	_, err := client.Forgotten(ctx, &reports.Order{})
	return err
}

func (c grpcCaller) watch(ctx context.Context, o *reports.Order) stream {
	ctx, client := c.prepare(ctx)
	s, err := client.Watch(ctx, o)
	if err != nil {
		return stream{recv: func() (*reports.Report, error) { return nil, err }}
	}
	return stream{recv: s.Recv}
}

func (c grpcCaller) upload(ctx context.Context, orders ...*reports.Order) (*reports.Report, error) {
	ctx, client := c.prepare(ctx)
	s, err := client.Upload(ctx)
	if err != nil {
		return nil, err
	}
	for _, o := range orders {
		if err := s.Send(o); err != nil {
			break // what it is, CloseAndRecv says
		}
	}
	return s.CloseAndRecv()
}

func (c grpcCaller) chat(ctx context.Context) stream {
	ctx, client := c.prepare(ctx)
	s, err := client.Chat(ctx)
	if err != nil {
		return stream{send: func(*reports.Order) error { return err }, recv: func() (*reports.Report, error) { return nil, err }}
	}
	return stream{s.Send, s.Recv, func() { _ = s.CloseSend() }}
}

func (c grpcCaller) refused(err error) (rpcgate.Refused, bool) { return polargategrpc.FromError(err) }
