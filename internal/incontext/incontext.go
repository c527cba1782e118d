// Package incontext names what doors put into the context of a handler: routes of HTTP and
// the interceptors of package rpcgate, and package polartest in tests. Only package polargate
// reads it.
package incontext

import (
	"sync"
	"time"
)

type (
	// Entitlements is the key of a *polargate.Entitlements.
	Entitlements struct{}
	// Reservation is the key of a *polargate.Reservation.
	Reservation struct{}
	// Call is the key of a *Called.
	Call struct{}
)

// Called is what a handler is called for, so that its own decisions can be told apart: the
// procedure, and the name of the rule that let the call in.
type Called struct{ Procedure, Rule string }

// State is what package polartest puts under the key Entitlements: a customer as Polar
// writes them, and the features that their benefits unlock. Package polargate reads it when
// it is asked for.
type State struct {
	JSON     []byte
	Features map[string][]string
	At       time.Time

	once sync.Once
	read any
}

// Read is what read makes of the state, once.
func (s *State) Read(read func(*State) any) any {
	s.once.Do(func() { s.read = read(s) })
	return s.read
}
