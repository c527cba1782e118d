// Package clock keeps a server's own time and Polar's apart, so that one is never compared
// with the other. Ages are counted by Local, which cannot be set back; what Polar said is
// put in order by Polar, since Polar's facts arrive late and twice.
package clock

import (
	"math"
	"time"
)

// Local is a time by this computer's monotonic clock: nanoseconds since some start.
type Local int64

// Never is later than any time.
const Never = Local(math.MaxInt64)

// Since is the time now, for a start that has a monotonic reading.
func Since(start time.Time) Local { return Local(time.Since(start)) }

// After is so much later, or Never.
func (t Local) After(d time.Duration) Local {
	if d > 0 && t > Never-Local(d) {
		return Never
	}
	return t + Local(d)
}

// Sub is how much later t is than u.
func (t Local) Sub(u Local) time.Duration { return time.Duration(t - u) }

// Seconds is t in whole seconds.
func (t Local) Seconds() Seconds { return Seconds(t / Local(time.Second)) }

// Seconds is a Local time that need not be exact, in half the memory.
type Seconds uint32

// Polar is a time by Polar's clock: Unix time in nanoseconds.
type Polar int64

// PolarTime is t, which Polar told.
func PolarTime(t time.Time) Polar { return Polar(t.UnixNano()) }

// Time is t in UTC.
func (t Polar) Time() time.Time { return time.Unix(0, int64(t)).UTC() }

// Before is so much earlier.
func (t Polar) Before(d time.Duration) Polar { return t - Polar(d) }

// Sub is how much later t is than u.
func (t Polar) Sub(u Polar) time.Duration { return time.Duration(t - u) }
