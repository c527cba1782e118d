// Package intern keeps one copy of values that are equal, for as long as anybody uses it.
//
// Unlike package unique it takes values that cannot be compared by ==, such as structs with
// slices. It promises to save memory, and not that equal values are always the same one:
// of two that come with one hash but are not equal, one is not shared.
package intern

import (
	"runtime"
	"sync"
	"weak"
)

// Pool shares values. The zero value is ready to use, and safe for use by many goroutines.
// It keeps no value alive.
type Pool[V any] struct {
	mu     sync.Mutex
	values map[uint64]weak.Pointer[V]
}

// Share gives a value that is equal to v: one that was given before, or else v itself, which
// must not be changed any more. Equal values come with equal hashes.
func (p *Pool[V]) Share(hash uint64, v *V, equal func(a, b *V) bool) *V {
	p.mu.Lock()
	defer p.mu.Unlock()
	if there := p.values[hash].Value(); there != nil {
		if equal(there, v) {
			return there
		}
		return v
	}
	if p.values == nil {
		p.values = map[uint64]weak.Pointer[V]{}
	}
	p.values[hash] = weak.Make(v)
	runtime.AddCleanup(v, p.forget, hash)
	return v
}

// forget drops the place of a value that nobody uses any more.
func (p *Pool[V]) forget(hash uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.values[hash].Value() == nil { // else another has taken it
		delete(p.values, hash)
	}
}

// Len is how many values are shared.
func (p *Pool[V]) Len() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.values)
}
