package polartest

import (
	"math"
	"time"
)

// The limits as the real server was seen to apply them: a counter that opens with the first request
// and is thrown away when its time is over, and for the public endpoints a block that shuts the
// caller out of everything.
const (
	publicRequests = 3
	publicWindow   = time.Second
	publicBlock    = time.Minute

	unknownTokenRequests  = 60
	tokenRequests         = 500
	sandboxTokenRequests  = 100
	authenticatedInterval = time.Minute
)

type limiter struct {
	windows map[limitKey]window
	blocked map[string]time.Time // until when, by caller
}

type limitKey struct{ zone, caller string }

type window struct {
	opened   time.Time
	requests int
}

// rule is a limit of requests per window; over it, the caller is blocked for a time, or, without
// one, until the window is over.
type rule struct {
	zone     string
	requests int
	window   time.Duration
	block    time.Duration
}

// admit counts a request and says whether it may pass; if not, after how many seconds to come again.
func (l *limiter) admit(now time.Time, caller string, r rule) (retryAfter int, ok bool) {
	if until, blocked := l.blocked[caller]; blocked {
		if left := min(until.Sub(now), publicBlock); left > 0 { // no more than a block, should the clock be set back
			return seconds(left), false
		}
		delete(l.blocked, caller)
	}
	if l.windows == nil {
		l.windows = make(map[limitKey]window)
		l.blocked = make(map[string]time.Time)
	}
	key := limitKey{r.zone, caller}
	w := l.windows[key]
	if age := now.Sub(w.opened); age < 0 || age >= r.window {
		w = window{opened: now}
	}
	w.requests++
	l.windows[key] = w
	switch {
	case w.requests <= r.requests:
		return 0, true
	case r.block > 0:
		l.blocked[caller] = now.Add(r.block)
		return seconds(r.block), false
	default:
		return seconds(w.opened.Add(r.window).Sub(now)), false
	}
}

// seconds rounds up, so that who waits as long as it was told is let through.
func seconds(d time.Duration) int { return int(math.Ceil(d.Seconds())) }
