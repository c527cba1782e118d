package lookup

import (
	"math/rand/v2"
	"sync/atomic"
)

// Counter counts what many goroutines do at once. It is spread over several places in
// memory, since one that all of them write to would cost more than the look-up it counts.
type Counter struct {
	parts [16]struct {
		atomic.Int64
		_ [56]byte // a cache line each
	}
}

// Add adds one.
func (c *Counter) Add() { c.parts[rand.Uint32()%uint32(len(c.parts))].Add(1) }

// Load is the count.
func (c *Counter) Load() (n int64) {
	for i := range c.parts {
		n += c.parts[i].Load()
	}
	return n
}
