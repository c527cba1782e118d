// Package writers has the http.ResponseWriters that a route puts between a server and a handler:
// to see the status of an answer, to answer a preflight, and to end a connection whose right
// has ended. They decide nothing.
package writers

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"
)

// IsPreflight reports whether a browser asks with this request whether a page of another
// origin may send one. Browsers send nothing with it that identifies a user, and no body.
// A request with either is no preflight and must pass the gate; otherwise people who are
// signed in could make a handler run that they haven't paid for.
func IsPreflight(r *http.Request) bool {
	for _, name := range []string{"Cookie", "Authorization", "Proxy-Authorization"} {
		if r.Header.Get(name) != "" {
			return false
		}
	}
	return r.Method == http.MethodOptions && r.ContentLength == 0 &&
		r.Header.Get("Origin") != "" && r.Header.Get("Access-Control-Request-Method") != ""
}

type preflight struct {
	w      http.ResponseWriter
	header http.Header
	begun  bool
}

func (p *preflight) Header() http.Header { return p.header }

func (p *preflight) Write(b []byte) (int, error) {
	p.WriteHeader(http.StatusOK)
	return len(b), nil
}

func (p *preflight) WriteHeader(status int) {
	if p.begun || status < 200 {
		return
	}
	p.begun = true
	for name, values := range p.header {
		if strings.HasPrefix(name, "Access-Control-") || name == "Vary" || name == "Allow" {
			p.w.Header()[name] = values
		}
	}
	p.w.WriteHeader(status)
}

// Flush is for handlers that expect it.
func (p *preflight) Flush() { p.WriteHeader(http.StatusOK) }

// Status sees the status of an answer.
type Status struct {
	http.ResponseWriter
	Sent int
}

func (w *Status) WriteHeader(status int) {
	if status >= 200 || status == http.StatusSwitchingProtocols {
		w.begin(status)
	}
	w.ResponseWriter.WriteHeader(status)
}

// begin records the status that is sent; later ones have no effect.
func (w *Status) begin(status int) {
	if w.Sent == 0 {
		w.Sent = status
	}
}

func (w *Status) Write(p []byte) (int, error) {
	w.begin(http.StatusOK)
	return w.ResponseWriter.Write(p)
}

// Flush is for handlers that stream. http.ResponseController finds everything else
// through Unwrap.
func (w *Status) Flush() { _ = w.FlushError() }

// FlushError flushes as http.ResponseController does, also if the writer further out only
// unwraps to one that can.
func (w *Status) FlushError() error {
	err := http.NewResponseController(w.ResponseWriter).Flush()
	if !errors.Is(err, http.ErrNotSupported) {
		w.begin(http.StatusOK)
	}
	return err
}

// ReadFrom lets a writer further out send a file without reading it, if it can.
func (w *Status) ReadFrom(from io.Reader) (int64, error) {
	n, err := io.Copy(w.ResponseWriter, from)
	if n > 0 { // else nothing was sent, and an error may follow
		w.begin(http.StatusOK)
	}
	return n, err
}

// Hijack is for handlers that don't use http.ResponseController.
func (w *Status) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return http.NewResponseController(w.ResponseWriter).Hijack()
}

func (w *Status) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// ServePreflight lets the handler answer a preflight, and sends only what a preflight is
// about: a handler that doesn't check the method would give away what is behind the gate.
func ServePreflight(w http.ResponseWriter, r *http.Request, next http.Handler) {
	answer := &preflight{w: w, header: w.Header().Clone()}
	next.ServeHTTP(answer, r)
	answer.WriteHeader(http.StatusOK)
}

// connectionEnds is how long a handler whose right has ended has for its last words.
const connectionEnds = 500 * time.Millisecond

// Watched is the answer to a request whose connection ends when the right to it
// does.
type Watched struct {
	Status
	mu       sync.Mutex
	hijacked net.Conn
	cut      *time.Timer
	ended    bool // the connection ended, or the handler did
}

// Hijack is for WebSockets.
func (w *Watched) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, buffered, err := w.Status.Hijack()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.hijacked = conn
	return conn, buffered, err
}

// CutSoon ends the connection after the handler had time for its last words.
func (w *Watched) CutSoon() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.ended {
		w.cut = time.AfterFunc(connectionEnds, w.cutNow)
	}
}

func (w *Watched) cutNow() {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case w.ended: // the connection serves another request by now
	case w.hijacked != nil:
		_ = w.hijacked.Close()
	default:
		control, past := http.NewResponseController(w.ResponseWriter), time.Unix(1, 0)
		_ = control.SetReadDeadline(past)
		_ = control.SetWriteDeadline(past)
	}
	w.ended = true
}

// Handled notes that the handler has ended.
func (w *Watched) Handled() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ended = true
	if w.cut != nil {
		w.cut.Stop()
	}
}
