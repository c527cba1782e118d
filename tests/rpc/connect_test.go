package rpc

import (
	"context"
	"errors"
	"io"
	"log"
	"net/http"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/polargate/polargate"
	"github.com/polargate/polargate/polargateconnect"
	"github.com/polargate/polargate/rpcgate"
	"github.com/polargate/polargate/tests/rpc/reports"
	"github.com/polargate/polargate/tests/rpc/reports/reportsconnectv1"
	"github.com/stretchr/testify/assert"
)

// connectService has the handlers behind the interfaces that version 1 of Connect generates.
type connectService struct {
	reportsconnectv1.UnimplementedReportsHandler
	*handlers
}

func (s connectService) Render(ctx context.Context, o *connect.Request[reports.Order]) (*connect.Response[reports.Report], error) {
	report, err := s.render(ctx, o.Msg)
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(report), nil
}

func (s connectService) Forgotten(ctx context.Context, o *connect.Request[reports.Order]) (*connect.Response[reports.Report], error) {
	return s.Render(ctx, o)
}

func (s connectService) Stored(ctx context.Context, o *connect.Request[reports.Order]) (*connect.Response[reports.Report], error) {
	return s.Render(ctx, o)
}

func (s connectService) Watch(ctx context.Context, o *connect.Request[reports.Order], stream *connect.ServerStream[reports.Report]) error {
	return s.watch(ctx, o.Msg, stream.Send)
}

func (s connectService) Upload(ctx context.Context, stream *connect.ClientStream[reports.Order]) (*connect.Response[reports.Report], error) {
	report, err := s.upload(ctx, func() (*reports.Order, error) {
		if stream.Receive() {
			return stream.Msg(), nil
		}
		if err := stream.Err(); err != nil {
			return nil, err
		}
		return nil, io.EOF
	})
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(report), nil
}

func (s connectService) Chat(ctx context.Context, stream *connect.BidiStream[reports.Order, reports.Report]) error {
	return s.chat(ctx, stream.Receive, stream.Send)
}

func newConnectHandlers() *handlers {
	return newHandlers(func(text string) error { return connect.NewError(connect.CodeInternal, errors.New(text)) }, polargateconnect.FromError)
}

func (s *server) connectGate(customers *polargate.Customers) *polargateconnect.Gate {
	config := polargateconnect.Config{Rules: s.rules, Default: s.otherwise, Open: s.open, LicenseKey: s.licenseKey()}
	if !s.byKey {
		config.Customer = func(_ context.Context, header http.Header) (polargate.CustomerRef, error) {
			return s.who(header.Get("X-User"))
		}
	}
	return polargateconnect.New(customers, config)
}

func serveConnect(t *testing.T, customers *polargate.Customers, s server, h *handlers) (address string) {
	t.Helper()
	gate := s.connectGate(customers)
	mux := http.NewServeMux()
	mux.Handle(reportsconnectv1.NewReportsHandler(connectService{handlers: h}, connect.WithInterceptors(gate)))
	return serveHTTP(t, s.wrapped(mux, gate.Handler))
}

// wrapped wraps a server's handler, unless it is to be left out.
func (s *server) wrapped(h http.Handler, wrap func(http.Handler) http.Handler) http.Handler {
	if s.unwrapped {
		return h
	}
	return wrap(h)
}

// serveHTTP serves HTTP/1.1 and HTTP/2 without TLS.
func serveHTTP(t *testing.T, handler http.Handler) (address string) {
	t.Helper()
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	web := &http.Server{Handler: handler, Protocols: protocols, ErrorLog: log.New(io.Discard, "", 0), ReadHeaderTimeout: time.Minute}
	listener := listen(t)
	served := make(chan error, 1)
	go func() { served <- web.Serve(listener) }()
	t.Cleanup(func() {
		_ = web.Close()
		assert.ErrorIs(t, <-served, http.ErrServerClosed)
	})
	return listener.Addr().String()
}

// browser is a client that speaks only HTTP/1.1, or only HTTP/2 without TLS.
func browser(t *testing.T, http2 bool) *http.Client {
	t.Helper()
	protocols := new(http.Protocols)
	protocols.SetHTTP1(!http2)
	protocols.SetUnencryptedHTTP2(http2)
	transport := &http.Transport{Protocols: protocols}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

// connectCaller calls by version 1 of Connect.
type connectCaller struct {
	client    reportsconnectv1.ReportsClient
	bidi      bool
	user, key string
}

func callConnect(http2 bool, options ...connect.ClientOption) func(*testing.T, string) caller {
	return func(t *testing.T, address string) caller {
		t.Helper()
		return connectCaller{client: reportsconnectv1.NewReportsClient(browser(t, http2), "http://"+address, options...), bidi: http2}
	}
}

func (c connectCaller) as(user, key string) caller { return connectCaller{c.client, c.bidi, user, key} }

func (c connectCaller) prepare(header http.Header) {
	if c.user != "" {
		header.Set("X-User", c.user)
	}
	if c.key != "" {
		header.Set("X-License-Key", c.key)
	}
}

func (c connectCaller) request(o *reports.Order) *connect.Request[reports.Order] {
	request := connect.NewRequest(o)
	c.prepare(request.Header())
	return request
}

func (c connectCaller) render(ctx context.Context, o *reports.Order) (*reports.Report, error) {
	response, err := c.client.Render(ctx, c.request(o))
	if err != nil {
		return nil, err
	}
	return response.Msg, nil
}

func (c connectCaller) forgotten(ctx context.Context) error {
	_, err := c.client.Forgotten(ctx, c.request(&reports.Order{}))
	return err
}

func (c connectCaller) watch(ctx context.Context, o *reports.Order) stream {
	s, err := c.client.Watch(ctx, c.request(o))
	return stream{recv: func() (*reports.Report, error) {
		if err != nil {
			return nil, err
		}
		if s.Receive() {
			return s.Msg(), nil
		}
		if err := s.Err(); err != nil {
			return nil, err
		}
		return nil, io.EOF
	}}
}

func (c connectCaller) upload(ctx context.Context, orders ...*reports.Order) (*reports.Report, error) {
	s := c.client.Upload(ctx)
	c.prepare(s.RequestHeader())
	for _, o := range orders {
		if err := s.Send(o); err != nil {
			break // what it is, CloseAndReceive says
		}
	}
	response, err := s.CloseAndReceive()
	if err != nil {
		return nil, err
	}
	return response.Msg, nil
}

func (c connectCaller) chat(ctx context.Context) stream {
	if !c.bidi {
		return stream{}
	}
	s := c.client.Chat(ctx)
	c.prepare(s.RequestHeader())
	return stream{s.Send, s.Receive, func() { _ = s.CloseRequest() }}
}

func (c connectCaller) refused(err error) (rpcgate.Refused, bool) {
	return polargateconnect.FromError(err)
}
