package clock

import (
	"sync/atomic"
	"time"
)

// Coarse is a Local clock for what must be quick. To read the computer's clock takes longer
// than to find a customer in memory. So while the clock is read often, a timer advances it,
// and reading it is reading memory; otherwise it reads the computer's, and no timer runs.
// Its time may be late by Tick, and by as long as the program had no processor for the timer.
type Coarse struct {
	Start time.Time

	advancing atomic.Bool  // a timer runs
	now       atomic.Int64 // the time at the last tick; 0 if no timer runs
	read      atomic.Bool  // since the last tick
	last      atomic.Int64 // when the computer's clock was read last
}

const (
	// Tick is how often the clock advances.
	Tick = 10 * time.Millisecond
	// often is the time between two readings from which on a timer is worth its cost.
	often = Tick / 10
)

// Now is the time, exact or late.
func (c *Coarse) Now() Local {
	now := c.now.Load()
	if now == 0 {
		return c.look()
	}
	if !c.read.Load() { // only the first after a tick writes what all of them read
		c.read.Store(true)
	}
	return Local(now)
}

// Exact is the time by the computer's clock.
func (c *Coarse) Exact() Local { return Since(c.Start) }

// look is the time by the computer's clock. If that was read a moment ago, a timer starts.
func (c *Coarse) look() Local {
	now := c.Exact()
	if last := c.last.Swap(int64(now)); last != 0 && now.Sub(Local(last)) < often && c.advancing.CompareAndSwap(false, true) {
		c.advance(now)
	}
	return now
}

func (c *Coarse) advance(now Local) {
	c.now.Store(int64(now))
	time.AfterFunc(Tick, c.tick) // not Reset: a test may have a clock of its own for each call
}

func (c *Coarse) tick() {
	if c.read.Swap(false) {
		c.advance(c.Exact())
		return
	}
	c.now.Store(0)
	c.advancing.Store(false)
}
