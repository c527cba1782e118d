package polargateconnectv2

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"strings"

	"connectrpc.com/connect/v2"
	"connectrpc.com/connect/v2/connectproto"
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
	// further out has verified and put into the context. Headers, which
	// connect.CallInfoForServerContext has, are what the client says: whoever can choose
	// the id is that customer. The zero CustomerRef means that nobody is signed in. An error
	// means that the program couldn't find out: the call is refused as unavailable, and the
	// error is logged by its types only.
	Customer func(ctx context.Context) (polargate.CustomerRef, error)
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

// Gate has the interceptor of a server. Its methods are safe for use by many goroutines.
type Gate struct{ rules *rpcgate.Gate }

var _ connect.ServerInterceptor = (*Gate)(nil).Intercept

// New makes a Gate. It panics if not exactly one of Customer and LicenseKey is set, or if a
// name, an id, a feature or a cost can't be right: these are mistakes in the program, and its
// first start shows them.
func New(customers *polargate.Customers, config Config) *Gate {
	if (config.Customer == nil) == (config.LicenseKey == "") {
		panic("polargateconnectv2: a Config needs exactly one of Customer and LicenseKey")
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

// licenseKey is the license key that came in a header of a call.
func licenseKey(ctx context.Context, name string) string {
	info, ok := connect.CallInfoForServerContext(ctx)
	if !ok {
		return ""
	}
	return rpcgate.LicenseKey(name, info.RequestHeader().Get(name))
}

// canceled reports whether a handler ended because its context did.
func canceled(err error) bool { return connect.CodeOf(err) == connect.CodeCanceled }

// Intercept is a connect.ServerInterceptor, for calls and streams.
func (g *Gate) Intercept(next connect.ServerFunc) connect.ServerFunc {
	return func(ctx context.Context, spec connect.Spec, stream connect.ServerStream) error {
		ctx, call, err := g.rules.Begin(ctx, rpcgate.CallInfo{
			Procedure:     spec.Procedure,
			ClientStreams: spec.StreamType&connect.StreamTypeClient != 0, ServerStreams: spec.StreamType&connect.StreamTypeServer != 0,
		})
		if err != nil {
			return err
		}
		if call == nil {
			return told(next(ctx, spec, stream))
		}
		defer call.Close()
		call.InterruptHTTP()
		return call.End(told(next(ctx, spec, &gatedStream{stream, call, stream.Receive})))
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

// gatedStream is a stream that charges for messages.
type gatedStream struct {
	connect.ServerStream
	call    *rpcgate.Call
	receive func(any) error
}

func (s *gatedStream) Receive(message any) error { return s.call.Receive(message, s.receive) }

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

// Error is the error of a refusal: a *connect.Error with its code and details, that wraps the
// refusal. Handlers return it if Customers.Reserve or Customers.Decide refuses; the interceptor
// does the same with a *polargate.Refusal. It is also the cause of a stream's context whose
// right has ended. Nil if the refusal is nil.
func Error(refusal *polargate.Refusal) error {
	if refusal == nil {
		return nil
	}
	told := rpcgate.Explain(refusal)
	e := connect.NewError(connect.Code(told.Code), told.Message).WithCause(refusal)
	details := []proto.Message{&errdetails.ErrorInfo{Reason: told.Reason, Domain: rpcgate.Domain, Metadata: told.Metadata()}}
	if told.RetryAfter > 0 {
		details = append(details, &errdetails.RetryInfo{RetryDelay: durationpb.New(told.RetryAfter)})
	}
	for _, message := range details {
		if detail, err := connectproto.NewErrorDetail(message); err == nil {
			e = e.WithDetail(detail)
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
		message, err := connectproto.UnmarshalErrorDetail(sent)
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
