// Package door lets package rpcgate decide about calls as a Route does about requests. It promises
// that no other program can: this package is internal, and all that passes through it is a value
// whose methods package rpcgate knows. It knows neither customers nor calls.
package door

import "net/http"

// Procedure takes the place of a handler behind a Route. The Route doesn't serve it, and sets
// Door, which decides by the Route.
type Procedure struct{ Door any }

// ServeHTTP is not called.
func (*Procedure) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	w.WriteHeader(http.StatusNotImplemented)
}
