// Package watch looks again at what many streams depend on, such as a customer. All streams
// of one key share a timer and a re-check, and none has a goroutine. It doesn't know what a
// re-check is, nor when a stream ends: the program says both.
package watch

import (
	"sync"
	"sync/atomic"
	"time"
)

// Group is the streams of many keys. Its zero value isn't usable: use New.
type Group[Key comparable, Stream any] struct {
	recheck func(Key, []*Stream)
	next    func(Key) time.Duration
	keys    atomic.Int64 // how many are watched, for who looks without the lock
	work    sync.WaitGroup

	mu     sync.Mutex
	closed bool
	of     map[Key]*watched[Key, Stream]
}

// watched is one key with its streams. The lock of the group guards it.
type watched[Key comparable, Stream any] struct {
	key     Key
	streams map[*Stream]struct{}
	timer   *time.Timer
	busy    bool // a re-check is in progress
	again   bool // another has to follow it
}

// New makes a group. recheck looks again at the streams of a key, never twice at the same
// time for one key. next is how long after a re-check, or after the first stream has
// joined, the next is due; it must not use the group.
func New[Key comparable, Stream any](recheck func(Key, []*Stream), next func(Key) time.Duration) *Group[Key, Stream] {
	return &Group[Key, Stream]{recheck: recheck, next: next, of: map[Key]*watched[Key, Stream]{}}
}

// Join adds a stream until leave is called, which may happen more than once. It reports
// false if the group is closed.
func (g *Group[Key, Stream]) Join(key Key, s *Stream) (leave func(), ok bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return func() {}, false
	}
	one := g.of[key]
	if one == nil {
		one = &watched[Key, Stream]{key: key, streams: map[*Stream]struct{}{}}
		one.timer = time.AfterFunc(g.next(key), func() { g.run(one) })
		g.of[key] = one
		g.keys.Add(1)
	}
	one.streams[s] = struct{}{}
	return func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		delete(one.streams, s)
		if len(one.streams) == 0 && g.of[key] == one {
			one.timer.Stop()
			delete(g.of, key)
			g.keys.Add(-1)
		}
	}, true
}

// Any reports whether there are streams at all. It takes no lock.
func (g *Group[Key, Stream]) Any() bool { return g.keys.Load() > 0 }

// Has reports whether there are streams of a key.
func (g *Group[Key, Stream]) Has(key Key) bool {
	if !g.Any() {
		return false
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.of[key] != nil
}

// Changed has keys looked at again now, those of them that have streams. It waits for no
// re-check.
func (g *Group[Key, Stream]) Changed(keys ...Key) {
	if !g.Any() {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, key := range keys {
		switch one := g.of[key]; {
		case one == nil || g.closed:
		case one.busy:
			one.again = true
		default:
			one.timer.Reset(0)
		}
	}
}

// run looks again at the streams of a key, in the goroutine of its timer.
func (g *Group[Key, Stream]) run(one *watched[Key, Stream]) {
	streams, ok := g.begin(one)
	if !ok {
		return
	}
	defer g.work.Done()
	defer g.finish(one)
	g.recheck(one.key, streams)
}

func (g *Group[Key, Stream]) begin(one *watched[Key, Stream]) (streams []*Stream, ok bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if one.busy || g.closed || g.of[one.key] != one {
		one.again = true
		return nil, false
	}
	one.busy, one.again = true, false
	g.work.Add(1)
	streams = make([]*Stream, 0, len(one.streams))
	for s := range one.streams {
		streams = append(streams, s)
	}
	return streams, true
}

func (g *Group[Key, Stream]) finish(one *watched[Key, Stream]) {
	g.mu.Lock()
	defer g.mu.Unlock()
	one.busy = false
	switch {
	case g.closed || g.of[one.key] != one:
	case one.again:
		one.timer.Reset(0)
	default:
		one.timer.Reset(g.next(one.key))
	}
}

// Close ends all re-checks, waits for those in progress, and gives the streams that there
// still are.
func (g *Group[Key, Stream]) Close() (left []*Stream) {
	g.mu.Lock()
	g.closed = true
	for _, one := range g.of {
		one.timer.Stop()
		for s := range one.streams {
			left = append(left, s)
		}
	}
	g.mu.Unlock()
	g.work.Wait()
	return left
}
