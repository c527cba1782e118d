package rpcgate

import (
	"context"
	"net/http"
	"strings"
	"time"
)

// controlKey is the key of the *http.ResponseController of a call.
type controlKey struct{}

// Handler wraps the handler of an HTTP server whose calls a Gate lets through, so that
// Call.InterruptHTTP finds the connection.
func Handler(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), controlKey{}, http.NewResponseController(w))))
	})
}

// InterruptHTTP is Interrupt for RPC libraries on top of net/http: the handler of a stream is
// interrupted by the deadlines of its connection, or of its stream of HTTP/2. While it reads,
// that is at once, and while it writes, when it has had time for its last words.
//
// It needs Handler around the server's handler. Without it, each wait for a message has a
// goroutine, and nothing interrupts a handler that writes to a client that doesn't read.
func (c *Call) InterruptHTTP() {
	if c == nil {
		return
	}
	control, ok := c.ctx.Value(controlKey{}).(*http.ResponseController)
	if !ok && c.clientStreams {
		return
	}
	past := time.Unix(1, 0)
	soon, late := func() {}, func() {} // it has received its one message
	if c.clientStreams {
		soon = func() { _ = control.SetReadDeadline(past) }
	}
	if ok {
		late = func() { _ = control.SetWriteDeadline(past) }
	}
	c.Interrupt(soon, late)
}

// LicenseKey is the license key that came in a header or in metadata, whose name and value
// these are. In "Authorization", it follows "Bearer ".
func LicenseKey(name, value string) string {
	scheme, key, ok := strings.Cut(value, " ")
	if ok && strings.EqualFold(name, "Authorization") && strings.EqualFold(scheme, "Bearer") {
		return key
	}
	return value
}
