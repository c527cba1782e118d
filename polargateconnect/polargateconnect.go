package polargateconnect

import (
	"context"
	"errors"
	"log/slog"
	"net/http"

	"connectrpc.com/connect"
	"github.com/polargate/polargate"
	"github.com/polargate/polargate/rpcgate"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/protobuf/proto"
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
	// Customer names the customer who calls, from what HTTP middleware or an interceptor
	// further out has verified and put into the context. A header is what the client says:
	// whoever can choose the id is that customer. The zero CustomerRef means that nobody
	// is signed in. An error means that the program couldn't find out: the call is refused
	// as unavailable, and the error is logged by its types only.
	Customer func(ctx context.Context, header http.Header) (polargate.CustomerRef, error)
	// LicenseKey is the name of the header in which clients send a license key, such as
	// "X-License-Key". In "Authorization", the key follows "Bearer ".
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

// Gate is a connect.Interceptor for servers. Its methods are safe for use by many goroutines.
type Gate struct{ rules *rpcgate.Gate }

var _ connect.Interceptor = (*Gate)(nil)

// New makes a Gate. It panics if not exactly one of Customer and LicenseKey is set, or if a
// name, an id, a feature or a cost can't be right: these are mistakes in the program, and its
// first start shows them.
func New(customers *polargate.Customers, config Config) *Gate {
	if (config.Customer == nil) == (config.LicenseKey == "") {
		panic("polargateconnect: a Config needs exactly one of Customer and LicenseKey")
	}
	who := func(ctx context.Context) (rpcgate.Caller, error) {
		customer, err := config.Customer(ctx, headerOf(ctx))
		return rpcgate.Caller{Customer: customer}, err
	}
	if name := http.CanonicalHeaderKey(config.LicenseKey); name != "" {
		who = func(ctx context.Context) (rpcgate.Caller, error) {
			return rpcgate.Caller{LicenseKey: rpcgate.LicenseKey(name, headerOf(ctx).Get(name))}, nil
		}
	}
	return &Gate{rpcgate.New(customers, rpcgate.Config{
		Caller: who, ByLicenseKey: config.LicenseKey != "", Rules: config.Rules, Default: config.Default, Open: config.Open,
		Error: Error, Canceled: canceled, Logger: config.Logger,
	})}
}

// headerKey is the key of the http.Header of a stream. Connect puts it into the context only
// further in.
type headerKey struct{}

func headerOf(ctx context.Context) http.Header {
	if header, ok := ctx.Value(headerKey{}).(http.Header); ok {
		return header
	}
	if info, ok := connect.CallInfoForHandlerContext(ctx); ok {
		return info.RequestHeader()
	}
	return nil
}

// canceled reports whether a handler ended because its context did.
func canceled(err error) bool { return connect.CodeOf(err) == connect.CodeCanceled }

// WrapUnary is for connect.WithInterceptors.
func (g *Gate) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, request connect.AnyRequest) (connect.AnyResponse, error) {
		if request.Spec().IsClient {
			return next(ctx, request)
		}
		ctx, call, err := g.rules.Begin(ctx, rpcgate.CallInfo{Procedure: request.Spec().Procedure})
		if err != nil {
			return nil, err
		}
		defer call.Close()
		if err := call.Received(request.Any()); err != nil {
			return nil, err
		}
		response, err := next(ctx, request)
		if err = call.End(told(err)); err != nil {
			return nil, err
		}
		return response, nil
	}
}

// WrapStreamingClient leaves clients as they are.
func (g *Gate) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return next
}

// WrapStreamingHandler is for connect.WithInterceptors.
func (g *Gate) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return func(ctx context.Context, conn connect.StreamingHandlerConn) error {
		spec := conn.Spec()
		ctx, call, err := g.rules.Begin(context.WithValue(ctx, headerKey{}, conn.RequestHeader()), rpcgate.CallInfo{
			Procedure:     spec.Procedure,
			ClientStreams: spec.StreamType&connect.StreamTypeClient != 0, ServerStreams: spec.StreamType&connect.StreamTypeServer != 0,
		})
		if err != nil {
			return err
		}
		if call == nil {
			return told(next(ctx, conn))
		}
		defer call.Close()
		call.InterruptHTTP()
		return call.End(told(next(ctx, &gatedConn{conn, call, conn.Receive})))
	}
}

// Handler wraps the handler of an HTTP server, so that streams can be interrupted whose
// handler waits for its client when the right to the stream has ended: such a wait needs no
// goroutine of its own then, and ends also if it is for a client that doesn't read.
//
// Put it inside middleware that replaces the http.ResponseWriter by one without Unwrap.
func (g *Gate) Handler(next http.Handler) http.Handler {
	return rpcgate.Handler(next)
}

// gatedConn is a stream that charges for messages.
type gatedConn struct {
	connect.StreamingHandlerConn
	call    *rpcgate.Call
	receive func(any) error
}

func (c *gatedConn) Receive(message any) error { return c.call.Receive(message, c.receive) }

// told makes an error with a code of a refusal that a handler returned, as from
// Customers.Reserve.
func told(err error) error {
	if err == nil {
		return nil
	}
	if _, ok := errors.AsType[*connect.Error](err); ok {
		return err
	}
	if refusal, ok := errors.AsType[*polargate.Refusal](err); ok && refusal != nil {
		return Error(refusal)
	}
	return err
}

// sentence is a refusal with the text that clients are told.
type sentence struct {
	*polargate.Refusal
	text string
}

func (s sentence) Error() string { return s.text }

func (s sentence) Unwrap() error { return s.Refusal }

// Error is the error of a refusal: a *connect.Error with its code and details, that wraps the
// refusal. Handlers return it if Customers.Reserve or Customers.Decide refuses; the interceptor
// does the same with a *polargate.Refusal. It is also the cause of a stream's context whose
// right has ended. Nil if the refusal is nil.
func Error(refusal *polargate.Refusal) error {
	if refusal == nil {
		return nil
	}
	told := rpcgate.Explain(refusal)
	e := connect.NewError(connect.Code(told.Code), sentence{refusal, told.Message})
	details := []proto.Message{&errdetails.ErrorInfo{Reason: told.Reason, Domain: rpcgate.Domain, Metadata: told.Metadata()}}
	if told.RetryAfter > 0 {
		details = append(details, &errdetails.RetryInfo{RetryDelay: durationpb.New(told.RetryAfter)})
	}
	for _, message := range details {
		if detail, err := connect.NewErrorDetail(message); err == nil {
			e.AddDetail(detail)
		}
	}
	return e
}

// FromError reads a refusal out of the error of a call, on the client. ok is false for an
// error that comes from elsewhere, such as a proxy, or a message that is too large.
func FromError(err error) (refused rpcgate.Refused, ok bool) {
	e, isConnect := errors.AsType[*connect.Error](err)
	if !isConnect {
		return refused, false
	}
	for _, sent := range e.Details() {
		message, err := sent.Value()
		if err != nil {
			continue
		}
		switch detail := message.(type) {
		case *errdetails.ErrorInfo:
			if detail.GetDomain() == rpcgate.Domain {
				ok, refused.Reason = true, detail.GetReason()
				refused = refused.WithMetadata(detail.GetMetadata())
			}
		case *errdetails.RetryInfo:
			refused.RetryAfter = max(0, detail.GetRetryDelay().AsDuration())
		}
	}
	if !ok {
		return rpcgate.Refused{}, false
	}
	refused.Code, refused.Message = rpcgate.Code(e.Code()), e.Message()
	return refused, true
}
