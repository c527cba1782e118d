// Package bench measures polargate beside its peers: the same work, on the same
// machine, in the same run. It is a module of its own, so that nobody who embeds
// polargate inherits the peers.
//
//	go test -bench . ./...     the figures alone
//	go run ./report            the same several times, the sizes of programs and
//	                           what is said of faults, written to docs/benchmarks.md
//
// It needs the standard tools of Go, and the network once, to fetch the peers.
package bench
