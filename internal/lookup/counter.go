package lookup

import (
	"sync/atomic"
	"unsafe"
)

// Counter counts what many goroutines do at once. It is spread over several places in
// memory, since one that all of them write to would cost more than the look-up it counts.
type Counter struct {
	parts [counterParts]struct {
		atomic.Int64
		_ [56]byte // a cache line each
	}
}

const (
	counterBits  = 6
	counterParts = 1 << counterBits
)

// Add adds one. Which place it takes is told by where the caller's stack is, so that a
// goroutine keeps to one place, which mostly is in the cache of its processor.
func (c *Counter) Add() {
	var here byte
	stack := uint64(uintptr(unsafe.Pointer(&here))) >> 11 // stacks have 2 KiB or more
	c.parts[stack*0x9e3779b97f4a7c15>>(64-counterBits)].Add(1)
}

// Load is the count.
func (c *Counter) Load() (n int64) {
	for i := range c.parts {
		n += c.parts[i].Load()
	}
	return n
}
