package polartest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/polargate/polargate/polartest/internal/pydantic"
)

// loopback is the client address of every request over Transport.
const loopback = "127.0.0.1"

// Transport connects to this Polar without sockets and without goroutines, whatever host the URL
// names, so that it works inside a testing/synctest bubble: waiting, as in [Delay], is on the
// bubble's clock. It gives errors like those of net/http's own transport, and heeds the request's
// context. It does not follow redirects, decompress, or repeat requests.
func (p *Polar) Transport() http.RoundTripper { return transport{p} }

// Client is a new client with that [Polar.Transport] and without a timeout.
func (p *Polar) Client() *http.Client { return &http.Client{Transport: p.Transport()} }

// URL is a base URL for use with [Polar.Client]: of this Polar alone, so that a client that paces its
// requests by server does not wait for what other tests ask of other Polars. It leads nowhere else.
func (p *Polar) URL() string { return p.url }

type transport struct{ polar *Polar }

func (t transport) RoundTrip(r *http.Request) (*http.Response, error) {
	c, err := receive(r)
	if err != nil {
		return nil, err
	}
	return t.polar.take(c).respond(r)
}

// receive makes of a request what would arrive at a server.
func receive(r *http.Request) (*call, error) {
	body := r.Body
	if body == nil {
		body = http.NoBody
	}
	defer func() { _ = body.Close() }()
	if r.URL == nil || r.URL.Host == "" {
		return nil, errors.New("polartest: no host in request URL")
	}
	if err := r.Context().Err(); err != nil {
		return nil, context.Cause(r.Context())
	}
	c := &call{
		method: r.Method, scheme: r.URL.Scheme, host: r.Host,
		path: r.URL.Path, rawQuery: r.URL.RawQuery,
		header:    r.Header.Clone(),
		client:    loopback,
		oversized: r.ContentLength > largestBody,
	}
	if c.method == "" {
		c.method = http.MethodGet
	}
	if c.host == "" {
		c.host = r.URL.Host
	}
	if r.URL.Opaque != "" { // sent as it is, malformed escapes too
		path := r.URL.Opaque
		if rest, ok := strings.CutPrefix(path, "//"); ok {
			_, rest, _ = strings.Cut(rest, "/")
			path = "/" + rest
		}
		c.path = unquoted(path)
	}
	if c.path == "" {
		c.path = "/"
	}
	if c.header == nil {
		c.header = http.Header{}
	}
	var err error
	var sent int64
	if c.oversized {
		sent, err = io.Copy(io.Discard, body)
	} else {
		c.body, err = io.ReadAll(body)
		sent = int64(len(c.body))
	}
	if err != nil {
		return nil, err
	}
	switch {
	case r.ContentLength > 0 && sent != r.ContentLength:
		return nil, fmt.Errorf("polartest: ContentLength=%d with Body length %d", r.ContentLength, sent)
	case r.ContentLength <= 0 && sent > 0 || len(r.TransferEncoding) > 0 && r.TransferEncoding[0] == "chunked":
		c.unmeasured, c.body = true, nil // net/http sends a body of unknown length in chunks
	}
	return c, nil
}

// unquoted decodes a path as Polar does: what is no escape stays as it is.
func unquoted(path string) string {
	var b strings.Builder
	for i := 0; i < len(path); i++ {
		if path[i] == '%' && i+2 < len(path) && pydantic.IsHexDigit(path[i+1]) && pydantic.IsHexDigit(path[i+2]) {
			n, _ := strconv.ParseUint(path[i+1:i+3], 16, 8)
			b.WriteByte(byte(n))
			i += 2
			continue
		}
		b.WriteByte(path[i])
	}
	return b.String()
}

// respond hands over a delivery as net/http's transport would.
func (d delivery) respond(r *http.Request) (*http.Response, error) {
	ctx := r.Context()
	if d.travel.hang {
		<-ctx.Done()
	}
	if d.travel.delay > 0 {
		pause(ctx, nil, d.travel.delay)
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	switch {
	case d.travel.cut == cutConnect:
		return nil, &net.OpError{Op: "dial", Net: "tcp", Addr: address(r), Err: errUnreachable}
	case d.travel.cut == cutReset:
		return nil, &net.OpError{Op: "read", Net: "tcp", Addr: address(r), Err: errReset}
	case d.travel.cut == cutClose, d.travel.cut == cutHalf && len(d.answer.body) == 0:
		return nil, io.EOF
	}
	a := d.answer
	response := &http.Response{
		Status:     strconv.Itoa(a.status) + " " + http.StatusText(a.status),
		StatusCode: a.status,
		Proto:      "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header:        a.header,
		ContentLength: int64(len(a.body)),
		Body:          http.NoBody,
		Request:       r,
	}
	body := &wire{ctx: ctx, closed: make(chan struct{}), drip: d.travel.drip, rest: bytes.NewReader(a.body), end: io.EOF}
	switch {
	case d.travel.huge:
		response.ContentLength = -1
		response.TransferEncoding = []string{"chunked"}
		body.rest = newHugeReader()
	case a.status != http.StatusNoContent:
		response.Header.Set("Content-Length", strconv.Itoa(len(a.body)))
	}
	if d.travel.cut == cutHalf {
		body.rest = bytes.NewReader(a.body[:len(a.body)/2])
		body.end = io.ErrUnexpectedEOF
	}
	if r.Method != http.MethodHead && response.ContentLength != 0 {
		response.Body = body
	}
	return response, nil
}

func address(r *http.Request) net.Addr { return hostAddress(r.URL.Host) }

// hostAddress is the other end of a connection that never was.
type hostAddress string

func (hostAddress) Network() string  { return "tcp" }
func (a hostAddress) String() string { return string(a) }

// pause waits, or less if the context ends or closed is.
func pause(ctx context.Context, closed <-chan struct{}, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	case <-closed:
	}
}

// wire is a response's body on its way.
type wire struct {
	ctx    context.Context
	drip   time.Duration
	rest   io.Reader
	end    error // after rest
	once   sync.Once
	closed chan struct{}
}

var errClosedBody = errors.New("polartest: read on closed response body")

func (w *wire) Read(b []byte) (int, error) {
	if w.drip > 0 && len(b) > 0 {
		pause(w.ctx, w.closed, w.drip)
		b = b[:1]
	}
	select {
	case <-w.closed:
		return 0, errClosedBody
	default:
	}
	if w.ctx.Err() != nil {
		return 0, context.Cause(w.ctx)
	}
	n, err := w.rest.Read(b)
	if err == io.EOF {
		err = w.end
	}
	return n, err
}

func (w *wire) Close() error {
	w.once.Do(func() { close(w.closed) })
	return nil
}

// newHugeReader makes the body of Huge without ever holding it.
func newHugeReader() io.Reader {
	return io.LimitReader(io.MultiReader(bytes.NewReader([]byte(hugeStart)), endless{}), hugeBody)
}

type endless struct{}

func (endless) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = 'A'
	}
	return len(b), nil
}
