package memory

import (
	"math/rand/v2"
	"time"

	"github.com/polargate/polargate/internal/clock"
	"github.com/polargate/polargate/internal/flight"
	"github.com/polargate/polargate/internal/rights"
)

// Listen has a channel told of each event about a customer, until stop is called.
func (c *Cache) Listen(key Key, news chan struct{}) (stop func()) {
	key = key.Own()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.waiting == nil {
		c.waiting = map[Key]map[chan struct{}]struct{}{}
	}
	if c.waiting[key] == nil {
		c.waiting[key] = map[chan struct{}]struct{}{}
	}
	c.waiting[key][news] = struct{}{}
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if delete(c.waiting[key], news); len(c.waiting[key]) == 0 {
			delete(c.waiting, key)
		}
	}
}

// announce tells those who wait for news of a customer. mu is held.
func (c *Cache) announce(customer *rights.State) {
	c.NoteChanged(customer)
	for _, key := range IDsOf(customer) {
		for news := range c.waiting[key] {
			select {
			case news <- struct{}{}:
			default: // has not taken the last news yet
			}
		}
	}
}

// NoteChanged has those who watch a customer look again.
func (c *Cache) NoteChanged(customer *rights.State, other ...Key) {
	if c.watches.Any() {
		ids := IDsOf(customer)
		c.watches.Changed(append(other, ids[:]...)...)
	}
}

// Stream is somebody who watches a customer or license key.
type Stream struct {
	// Tell gets what is known now, or why nobody can say.
	Tell  func(*rights.State, error)
	until clock.Local // how long the last answer may be served while nobody can say
}

// Watch adds a stream that began with value; leave takes it away again, and may be called
// more than once.
func (c *Cache) Watch(key Key, s *Stream, value *rights.State) (leave func()) {
	_, a := c.known.find(key)
	if a != nil {
		s.until = a.graceUntil
	}
	leave, ok := c.watches.Join(key, s)
	_, now := c.known.find(key)
	switch {
	case !ok:
		s.Tell(nil, flight.ErrClosed)
	case a == nil, a != now, &a.value != value:
		c.watches.Changed(key) // there was news since
	}
	return leave
}

// recheckWatched tells the streams of a customer or license key what is known now.
func (c *Cache) recheckWatched(key Key, streams []*Stream) {
	value, err := c.Lookup(c.Life, key)
	c.notePanic(key, err)
	if c.Life.Err() != nil {
		return // close tells them
	}
	_, a := c.known.find(key)
	now := c.Now()
	for _, s := range streams {
		if a != nil {
			s.until = a.graceUntil
		}
		if err == nil || now >= s.until { // else it was evicted, and nobody can say
			s.Tell(value, err)
		}
	}
}

// nextWatch is when to look again at somebody who is watched: when what is in memory is no
// longer fresh, which is at a known end at the latest.
func (c *Cache) nextWatch(key Key) time.Duration {
	e := c.entryOf(key)
	if e == nil { // evicted, or nobody could say
		return watchUnknown/2 + rand.N(watchUnknown)
	}
	a, now := e.answer.Load(), c.Now()
	switch left := a.freshUntil.Sub(now); {
	case left <= 0: // asked about in the background, or nobody can be asked
		again := watchAgain/2 + rand.N(watchAgain)
		if a.more().limits != nil && a.more().limits.end > now {
			again = min(again, a.more().limits.end.Sub(now))
		}
		return again
	case a.more().limits != nil: // it ends then, and not a moment later
		return left
	default:
		return left + rand.N(watchSpread)
	}
}
