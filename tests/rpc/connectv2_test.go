package rpc

import (
	"context"
	"net/http"
	"testing"

	"connectrpc.com/connect/v2"
	"connectrpc.com/connect/v2/connecthttp"
	"github.com/polargate/polargate"
	"github.com/polargate/polargate/polargateconnectv2"
	"github.com/polargate/polargate/rpcgate"
	"github.com/polargate/polargate/tests/rpc/reports"
	"github.com/polargate/polargate/tests/rpc/reports/reportsconnectv2"
)

// connectV2Service has the handlers behind the interfaces that version 2 of Connect generates.
type connectV2Service struct {
	reportsconnectv2.UnimplementedReportsHandler
	*handlers
}

func (s connectV2Service) Render(ctx context.Context, o *reports.Order) (*reports.Report, error) {
	return s.render(ctx, o)
}

func (s connectV2Service) Forgotten(ctx context.Context, o *reports.Order) (*reports.Report, error) {
	return s.render(ctx, o)
}

func (s connectV2Service) Stored(ctx context.Context, o *reports.Order) (*reports.Report, error) {
	return s.render(ctx, o)
}

func (s connectV2Service) Watch(ctx context.Context, o *reports.Order, stream reportsconnectv2.ReportsWatchServerStream) error {
	return s.watch(ctx, o, stream.Send)
}

func (s connectV2Service) Upload(ctx context.Context, stream reportsconnectv2.ReportsUploadServerStream) (*reports.Report, error) {
	return s.upload(ctx, stream.Receive)
}

func (s connectV2Service) Chat(ctx context.Context, stream reportsconnectv2.ReportsChatServerStream) error {
	return s.chat(ctx, stream.Receive, stream.Send)
}

func newConnectV2Handlers() *handlers {
	return newHandlers(func(text string) error { return connect.NewError(connect.CodeInternal, text) }, polargateconnectv2.FromError)
}

func (s *server) connectV2Gate(customers *polargate.Customers) *polargateconnectv2.Gate {
	config := polargateconnectv2.Config{Rules: s.rules, Default: s.otherwise, Open: s.open, LicenseKey: s.licenseKey()}
	if !s.byKey {
		config.Customer = func(ctx context.Context) (polargate.CustomerRef, error) {
			info, _ := connect.CallInfoForServerContext(ctx)
			return s.who(info.RequestHeader().Get("x-user"))
		}
	}
	return polargateconnectv2.New(customers, config)
}

func serveConnectV2(t *testing.T, customers *polargate.Customers, s server, h *handlers) (address string) {
	t.Helper()
	gate := s.connectV2Gate(customers)
	server := connect.NewServer(gate.Intercept)
	reportsconnectv2.RegisterReportsHandler(server, connectV2Service{handlers: h})
	mux := http.NewServeMux()
	connecthttp.Mount(mux, server)
	return serveHTTP(t, s.wrapped(mux, gate.Handler))
}

// connectV2Caller calls by version 2 of Connect.
type connectV2Caller struct {
	client    reportsconnectv2.ReportsClient
	bidi      bool
	user, key string
}

func callConnectV2(http2 bool, options ...connecthttp.Option) func(*testing.T, string) caller {
	return func(t *testing.T, address string) caller {
		t.Helper()
		client := connect.NewClient(connecthttp.NewTransport(browser(t, http2), "http://"+address, options...))
		return connectV2Caller{client: reportsconnectv2.NewReportsClient(client), bidi: http2}
	}
}

func (c connectV2Caller) as(user, key string) caller {
	return connectV2Caller{c.client, c.bidi, user, key}
}

func (c connectV2Caller) prepare(ctx context.Context) context.Context {
	ctx, info := connect.NewClientContext(ctx)
	if c.user != "" {
		info.RequestHeader().Set("x-user", c.user)
	}
	if c.key != "" {
		info.RequestHeader().Set("x-license-key", c.key)
	}
	return ctx
}

func (c connectV2Caller) render(ctx context.Context, o *reports.Order) (*reports.Report, error) {
	return c.client.Render(c.prepare(ctx), o)
}

func (c connectV2Caller) forgotten(ctx context.Context) error {
	_, err := c.client.Forgotten(c.prepare(ctx), &reports.Order{})
	return err
}

func (c connectV2Caller) watch(ctx context.Context, o *reports.Order) stream {
	s, err := c.client.Watch(c.prepare(ctx), o)
	if err != nil {
		return stream{recv: func() (*reports.Report, error) { return nil, err }}
	}
	return stream{recv: s.Receive}
}

func (c connectV2Caller) upload(ctx context.Context, orders ...*reports.Order) (*reports.Report, error) {
	s, err := c.client.Upload(c.prepare(ctx))
	if err != nil {
		return nil, err
	}
	for _, o := range orders {
		if err := s.Send(o); err != nil {
			break // what it is, CloseAndReceive says
		}
	}
	return s.CloseAndReceive()
}

func (c connectV2Caller) chat(ctx context.Context) stream {
	if !c.bidi {
		return stream{}
	}
	s, err := c.client.Chat(c.prepare(ctx))
	if err != nil {
		return stream{send: func(*reports.Order) error { return err }, recv: func() (*reports.Report, error) { return nil, err }}
	}
	return stream{s.Send, s.Receive, func() { _ = s.CloseSend() }}
}

func (c connectV2Caller) refused(err error) (rpcgate.Refused, bool) {
	return polargateconnectv2.FromError(err)
}
