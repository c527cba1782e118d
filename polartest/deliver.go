package polartest

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
)

const (
	defaultEndpointURL = "https://receiver.example/webhooks/polar"

	// readAnswer is how much is read of what an endpoint has to say, of which only the status counts.
	readAnswer = 64 << 10
)

var errNoAnswer = errors.New("polartest: the handler ended without an answer")

// post sends a message once. What an endpoint answers in time is a status, redirects too, since Polar
// does not follow them; all else is an error.
func (p *Polar) post(e Endpoint, m Message) (status int, err error) {
	m.ID = cmp.Or(m.ID, newUUID())
	if m.Timestamp.IsZero() {
		m.Timestamp = p.Now()
	}
	secrets := m.Secrets
	if len(secrets) == 0 {
		secrets = e.Secrets
	}
	ctx, cancel := context.WithTimeout(context.Background(), answerTime)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, cmp.Or(e.URL, defaultEndpointURL), bytes.NewReader(m.Body))
	if err != nil {
		return 0, err
	}
	r.Header = m.header(secrets)

	p.mu.Lock()
	offline := p.offline
	p.mu.Unlock()
	switch {
	case offline:
		return 0, &net.OpError{Op: "dial", Net: "tcp", Addr: address(r), Err: errUnreachable}
	case e.Handler != nil:
		return callHandler(e.Handler, r)
	}
	// a RoundTripper follows no redirects, and nothing of this connection outlives the answer
	response, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(r)
	if err != nil {
		return 0, err
	}
	defer func() { _ = response.Body.Close() }()
	if _, err := io.CopyN(io.Discard, response.Body, readAnswer); err != nil && !errors.Is(err, io.EOF) {
		return 0, err
	}
	return response.StatusCode, nil
}

// callHandler does what a server would: it ends the request's context when Polar has lost patience,
// and survives a panic.
func callHandler(handler http.Handler, r *http.Request) (status int, err error) {
	r.RequestURI = r.URL.RequestURI()
	r.RemoteAddr = net.JoinHostPort(loopback, "443")
	w := &statusWriter{header: http.Header{}}
	done := make(chan error, 1)
	go func() {
		err := errNoAnswer // which stays if the goroutine is ended, as by t.FailNow
		defer func() {
			if v := recover(); v != nil {
				err = fmt.Errorf("polartest: the handler panicked: %v", v)
			}
			done <- err
		}()
		handler.ServeHTTP(w, r)
		err = nil
	}()
	select {
	case err := <-done:
		if err != nil {
			return 0, err
		}
		return cmp.Or(w.status, http.StatusOK), nil
	case <-r.Context().Done():
		return 0, context.Cause(r.Context())
	}
}

// statusWriter keeps the status of an answer and nothing else.
type statusWriter struct {
	header http.Header
	status int
}

func (w *statusWriter) Header() http.Header { return w.header }

func (w *statusWriter) WriteHeader(status int) {
	if w.status == 0 && status >= http.StatusOK { // below that, the answer is still to come
		w.status = status
	}
}

func (w *statusWriter) Write(b []byte) (int, error) {
	w.WriteHeader(http.StatusOK)
	return len(b), nil
}
