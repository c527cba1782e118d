package transport

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestATraceOfTheProgramsOwnGoesOn(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer server.Close()
	var seen []string
	ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{
		GetConn:      func(string) { seen = append(seen, "wanted") },
		GotConn:      func(httptrace.GotConnInfo) { seen = append(seen, "got") },
		WroteRequest: func(httptrace.WroteRequestInfo) { seen = append(seen, "wrote") },
	})
	var wire Trace
	r, err := http.NewRequestWithContext(wire.Watch(ctx), http.MethodGet, server.URL, nil)
	require.NoError(t, err)
	own := New()
	defer own.CloseIdleConnections()
	resp, err := own.RoundTrip(r)
	require.NoError(t, err)
	_, _ = io.Copy(io.Discard, resp.Body)
	require.NoError(t, resp.Body.Close())
	assert.Equal(t, []string{"wanted", "got", "wrote"}, seen)
	assert.False(t, wire.NeverSent(errors.New("lost")), "it had a connection")
}

func TestWithoutAConnectionARequestWasNeverSent(t *testing.T) {
	t.Parallel()
	var wire Trace
	r, err := http.NewRequestWithContext(wire.Watch(t.Context()), http.MethodGet, "http://127.0.0.1:1", nil)
	require.NoError(t, err)
	own := New()
	resp, err := own.RoundTrip(r)
	if err == nil {
		_ = resp.Body.Close()
	}
	require.Error(t, err)
	assert.True(t, wire.NeverSent(errors.New("an error that says nothing")))
}

func TestTheCauseIsFoundWhereverItIsInAnError(t *testing.T) {
	t.Parallel()
	refused := &net.OpError{Op: "dial", Err: errors.New("connection refused")}
	for name, test := range map[string]struct {
		err  error
		want Cause
	}{
		"alone":                     {refused, Refused},
		"wrapped":                   {fmt.Errorf("once: %w", fmt.Errorf("twice: %w", refused)), Refused},
		"one of several":            {errors.Join(errors.New("first"), fmt.Errorf("second: %w", refused)), Refused},
		"a certificate of tomorrow": {fmt.Errorf("tls: %w", x509.CertificateInvalidError{Reason: x509.Expired}), Clock},
		"a certificate of nobody":   {fmt.Errorf("tls: %w", x509.UnknownAuthorityError{}), Intercepted},
		"canceled":                  {fmt.Errorf("once: %w", context.Canceled), Canceled},
		"too late":                  {&net.OpError{Op: "read", Err: context.DeadlineExceeded}, Timeout},
		"nothing known":             {errors.New("odd"), Unknown},
	} {
		assert.Equal(t, test.want, CauseOf(test.err), name)
	}
}
