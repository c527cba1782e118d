package polargategrpc

import (
	"context"
	"errors"
	"log/slog"
	"strings"

	"github.com/polargate/polargate"
	"github.com/polargate/polargate/rpcgate"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"
)

// Rule says who may call a procedure, and what it costs.
type Rule = rpcgate.Rule

// Cost is an amount of a meter.
type Cost = rpcgate.Cost

// Services that tell about a server, for Config.Open.
const (
	Health            = rpcgate.Health
	Reflection        = rpcgate.Reflection
	ReflectionV1Alpha = rpcgate.ReflectionV1Alpha
)

// Config says who may call what. Exactly one of Customer and LicenseKey must be set.
type Config struct {
	// Customer names the customer who calls, from what an interceptor further out has
	// verified and put into the context, or from the peer's certificate. Metadata is what
	// the client says: whoever can choose the id is that customer. The zero CustomerRef
	// means that nobody is signed in. An error means that the program couldn't find out:
	// the call is refused as unavailable, and the error is logged by its types only.
	Customer func(ctx context.Context) (polargate.CustomerRef, error)
	// LicenseKey is the name of the metadata in which clients send a license key, such as
	// "x-license-key". In "authorization", the key follows "Bearer ".
	LicenseKey string
	// Rules has the rules by procedure, as the constants of generated code name it
	// ("/package.Service/Method"), or by service ("/package.Service/"). The rule of a
	// procedure goes before that of its service.
	Rules map[string]Rule
	// Default is the rule of all other procedures. With nil, nobody may call them.
	Default *Rule
	// Open lists the procedures and services that anybody may call, such as Health.
	Open []string
	// Logger gets what your program should mend. Nil means that nothing is logged.
	Logger *slog.Logger
}

// Gate has the interceptors of a server. Its methods are safe for use by many goroutines.
type Gate struct{ rules *rpcgate.Gate }

// New makes a Gate. It panics if not exactly one of Customer and LicenseKey is set, or if a
// name, an id, a feature or a cost can't be right: these are mistakes in the program, and its
// first start shows them.
func New(customers *polargate.Customers, config Config) *Gate {
	if (config.Customer == nil) == (config.LicenseKey == "") {
		panic("polargategrpc: a Config needs exactly one of Customer and LicenseKey")
	}
	who := func(ctx context.Context) (rpcgate.Caller, error) {
		customer, err := config.Customer(ctx)
		return rpcgate.Caller{Customer: customer}, err
	}
	if name := strings.ToLower(config.LicenseKey); name != "" {
		who = func(ctx context.Context) (rpcgate.Caller, error) {
			return rpcgate.Caller{LicenseKey: licenseKey(ctx, name)}, nil
		}
	}
	return &Gate{rpcgate.New(customers, rpcgate.Config{
		Caller: who, ByLicenseKey: config.LicenseKey != "", Rules: config.Rules, Default: config.Default, Open: config.Open,
		Error: Error, Canceled: canceled, Logger: config.Logger,
	})}
}

// licenseKey is the license key that came in the metadata of a call.
func licenseKey(ctx context.Context, name string) string {
	values := metadata.ValueFromIncomingContext(ctx, name)
	if len(values) == 0 {
		return ""
	}
	return rpcgate.LicenseKey(name, values[0])
}

// canceled reports whether a handler ended because its context did.
func canceled(err error) bool { return status.Code(err) == codes.Canceled }

// ServerOptions has both interceptors. Those of options before it are further out, and those
// after it further in: put what finds out who calls before it.
func (g *Gate) ServerOptions() []grpc.ServerOption {
	return []grpc.ServerOption{grpc.ChainUnaryInterceptor(g.Unary), grpc.ChainStreamInterceptor(g.Stream)}
}

// Unary is a grpc.UnaryServerInterceptor.
func (g *Gate) Unary(ctx context.Context, request any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	ctx, call, err := g.rules.Begin(ctx, rpcgate.CallInfo{Procedure: info.FullMethod})
	if err != nil {
		return nil, err
	}
	if call == nil {
		response, err := handler(ctx, request)
		if err != nil {
			err = told(err)
		}
		return response, err
	}
	defer call.Close()
	if err := call.Received(request); err != nil {
		return nil, err
	}
	response, err := handler(ctx, request)
	return response, call.End(told(err))
}

// Stream is a grpc.StreamServerInterceptor.
//
// If the server is behind net/http (grpc.Server.ServeHTTP), a handler that writes to a client
// that doesn't read isn't interrupted when the right ends, before the client or the
// http.Server ends the connection.
func (g *Gate) Stream(server any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	ctx, call, err := g.rules.Begin(stream.Context(), rpcgate.CallInfo{
		Procedure: info.FullMethod, ClientStreams: info.IsClientStream, ServerStreams: info.IsServerStream,
	})
	if err != nil {
		return err
	}
	defer call.Close()
	if status, ok := grpc.ServerTransportStreamFromContext(ctx).(statusWriter); ok {
		call.Interrupt(nil, func() { go interrupt(ctx, status) }) // net/http may let it wait
	}
	return call.End(told(handler(server, &gatedStream{stream, ctx, call, stream.RecvMsg})))
}

// statusWriter is what the streams of this version of gRPC can do beside what their interface
// has: end while the handler waits for its client. If another version's can't, each wait has a
// goroutine of its own instead.
type statusWriter interface {
	WriteStatus(*status.Status) error
}

// interrupt ends a stream whose handler doesn't look at its context.
func interrupt(ctx context.Context, stream statusWriter) {
	if refused, ok := status.FromError(context.Cause(ctx)); ok {
		_ = stream.WriteStatus(refused) // which fails if the client has left
	}
}

// gatedStream is a stream with the handler's context, that charges for messages.
type gatedStream struct {
	grpc.ServerStream
	ctx     context.Context
	call    *rpcgate.Call
	receive func(any) error
}

func (s *gatedStream) Context() context.Context { return s.ctx }

func (s *gatedStream) RecvMsg(message any) error { return s.call.Receive(message, s.receive) }

// told makes a status of a refusal that a handler returned, as from Customers.Reserve.
func told(err error) error {
	if err == nil {
		return nil
	}
	if _, ok := errors.AsType[*refusedError](err); ok {
		return err
	}
	if refusal, ok := errors.AsType[*polargate.Refusal](err); ok && refusal != nil {
		return Error(refusal)
	}
	return err
}

// refusedError is a refusal with its status.
type refusedError struct {
	refusal *polargate.Refusal
	status  *status.Status
}

func (e *refusedError) Error() string { return e.status.Err().Error() }

// GRPCStatus is what gRPC sends.
func (e *refusedError) GRPCStatus() *status.Status { return e.status }

func (e *refusedError) Unwrap() error { return e.refusal }

// Error is the error of a refusal, with its status. Handlers return it if Customers.Reserve or
// Customers.Decide refuses; the interceptors do the same with a *polargate.Refusal. It is also the cause of a
// stream's context whose right has ended. It wraps the refusal. Nil if the refusal is nil.
func Error(refusal *polargate.Refusal) error {
	if refusal == nil {
		return nil
	}
	told := rpcgate.Explain(refusal)
	plain := status.New(codes.Code(told.Code), told.Message)
	info := &errdetails.ErrorInfo{Reason: told.Reason, Domain: rpcgate.Domain, Metadata: told.Metadata()}
	detailed, err := plain.WithDetails(info)
	if told.RetryAfter > 0 {
		detailed, err = plain.WithDetails(info, &errdetails.RetryInfo{RetryDelay: durationpb.New(told.RetryAfter)})
	}
	if err != nil {
		detailed = plain // it is all text
	}
	return &refusedError{refusal, detailed}
}

// FromError reads a refusal out of the error of a call, on the client. ok is false for an
// error that comes from elsewhere, such as a proxy, or a message that is too large.
func FromError(err error) (refused rpcgate.Refused, ok bool) {
	s, isStatus := status.FromError(err)
	if err == nil || !isStatus {
		return refused, false
	}
	for _, detail := range s.Details() {
		switch detail := detail.(type) {
		case *errdetails.ErrorInfo:
			if ok = ok || detail.GetDomain() == rpcgate.Domain; detail.GetDomain() == rpcgate.Domain {
				refused.Reason = detail.GetReason()
				refused = refused.WithMetadata(detail.GetMetadata())
			}
		case *errdetails.RetryInfo:
			refused.RetryAfter = max(0, detail.GetRetryDelay().AsDuration())
		}
	}
	if !ok {
		return rpcgate.Refused{}, false
	}
	refused.Code, refused.Message = rpcgate.Code(s.Code()), s.Message()
	return refused, true
}
