// Package incontext names what doors put into the context of a handler: routes of HTTP and
// the interceptors of package rpcgate. Only package polargate reads it.
package incontext

type (
	// Entitlements is the key of a *polargate.Entitlements, or of a function that returns
	// them, for streams, whose balances fall with each message.
	Entitlements struct{}
	// Reservation is the key of a *polargate.Reservation, or of a function that returns it,
	// for streams, whose messages are charged one after the other.
	Reservation struct{}
)
