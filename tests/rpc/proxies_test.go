package rpc

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"

	"connectrpc.com/connect"
	"connectrpc.com/connect/v2/connecthttp"
	"github.com/polargate/polargate"
	"github.com/polargate/polargate/rpcgate"
	"github.com/polargate/polargate/tests/rpc/reports"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/status"

	connectv2 "connectrpc.com/connect/v2"
)

// callers are one client of each kind.
var callers = map[string]func(*testing.T, string) caller{
	"gRPC":                    callGRPC,
	"Connect":                 callConnect(false),
	"Connect as gRPC":         callConnect(true, connect.WithGRPC()),
	"Connect as gRPC-Web":     callConnect(false, connect.WithGRPCWeb()),
	"Connect 2":               callConnectV2(false),
	"Connect 2 as gRPC":       callConnectV2(true, connecthttp.WithGRPC()),
	"Connect 2 as gRPC-Web":   callConnectV2(false, connecthttp.WithGRPCWeb()),
	"Connect over HTTP 2":     callConnect(true),
	"Connect in JSON":         callConnect(false, connect.WithProtoJSON()),
	"Connect 2 over HTTP 2":   callConnectV2(true),
	"Connect 2 in JSON, HTTP": callConnectV2(false, connecthttp.WithProtoJSON()),
}

// codeOf is the name of an error's code, whichever library made the error.
func codeOf(err error) string {
	if e, ok := status.FromError(err); ok {
		return snake(e.Code().String())
	}
	if code := connect.CodeOf(err); code != connect.CodeUnknown {
		return code.String()
	}
	return connectv2.CodeOf(err).String()
}

// snake writes PermissionDenied as permission_denied.
func snake(camel string) string {
	var b strings.Builder
	for i, r := range camel {
		if i > 0 && r >= 'A' && r <= 'Z' {
			b.WriteByte('_')
		}
		b.WriteRune(r)
	}
	return strings.ToLower(b.String())
}

// What the pages say of proxies, and of Route in front of RPC handlers, which answers in the
// same way.
func TestAClientMisreadsStatusesOfHTTPThatAProxyAnswers(t *testing.T) {
	t.Parallel()
	for answered, code := range map[int]string{
		http.StatusPaymentRequired:    "unknown",
		http.StatusTooManyRequests:    "unavailable",
		http.StatusForbidden:          "permission_denied",
		http.StatusUnauthorized:       "unauthenticated",
		http.StatusServiceUnavailable: "unavailable",
	} {
		address := serveHTTP(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", "30")
			w.WriteHeader(answered)
		}))
		for name, call := range callers {
			t.Run(fmt.Sprint(answered, " to ", name), func(t *testing.T) {
				t.Parallel()
				c := call(t, address)
				for _, ask := range []func(context.Context) error{
					func(ctx context.Context) error { _, err := c.render(ctx, &reports.Order{}); return err },
					func(ctx context.Context) error { _, err := c.watch(ctx, &reports.Order{}).rest(); return err },
				} {
					err := ask(within(t))
					require.Error(t, err)
					assert.Equal(t, code, codeOf(err), "%v", err)
					_, ok := c.refused(err)
					assert.False(t, ok, "and it can't be told from other errors")
				}
			})
		}
	}
}

func TestARouteInFrontOfAnRPCHandlerIsMisreadByClients(t *testing.T) {
	t.Parallel()
	_, customers := shop(t)
	gate := (&server{rules: rules(), otherwise: &rpcgate.Rule{}}).connectV2Gate(customers)
	route := customers.Route(polargate.Route{
		Customer: func(r *http.Request) polargate.CustomerRef { return polargate.ExternalID(r.Header.Get("X-User")) },
		Require:  pro,
	})
	address := serveHTTP(t, route(gate.Handler(http.NotFoundHandler())))
	for name, call := range callers {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := call(t, address)
			_, err := c.as(poor, "").render(within(t), &reports.Order{})
			assert.Equal(t, "unknown", codeOf(err), "it is a bare 402")
		})
	}
}

// The proxy has a budget of its own: the first call passes, others get 429.
func TestARefusalPassesAProxyThatLeavesItAlone(t *testing.T) {
	t.Parallel()
	_, customers := shop(t)
	h := newConnectHandlers()
	address := serveConnect(t, customers, server{rules: rules()}, h)
	proxy := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: address})
	proxy.Transport = browser(t, true).Transport
	proxy.FlushInterval = -1
	var passed atomic.Int32
	front := serveHTTP(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if passed.Add(1) > 1 {
			w.WriteHeader(http.StatusTooManyRequests)
			return
		}
		proxy.ServeHTTP(w, r)
	}))
	c := callGRPC(t, front).as(poor, "")
	_, err := c.render(within(t), &reports.Order{})
	refused := assertRefused(t, c, err, rpcgate.PermissionDenied, rpcgate.NotEntitled)
	assert.Equal(t, "https://example.com/pricing", refused.UpgradeURL)
	_, err = c.render(within(t), &reports.Order{})
	assert.Equal(t, "unavailable", codeOf(err), "the proxy's own answer")
	_, ok := c.refused(err)
	assert.False(t, ok)
}
