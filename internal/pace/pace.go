// Package pace makes requests wait for their turn, so that they stay within Polar's
// limits: three permits for the public endpoints, shared with this user's other programs
// through files, and a budget a minute for an access token. It sends nothing, retries
// nothing and sees no other computer behind the same address: a caller who can't go in
// time gets an error that says when to try again.
package pace

import (
	"context"
	"math/rand/v2"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"
)

// Pacer is a limit that requests keep to: Permits for an address, a Budget for a token.
// All its methods can be called at the same time.
type Pacer interface {
	// Wait returns when a request may be sent. The caller then calls done once, with how
	// the request ended. The error is a *PausedError, a *LateError or a *StoppedError.
	Wait(ctx context.Context) (done func(Outcome), err error)
	// PauseFor holds all requests for d. It doesn't shorten a longer pause.
	PauseFor(d time.Duration)
	// PauseLeft is how much of a pause is left; 0 if there is none.
	PauseLeft() time.Duration
}

// Outcome is how a request ended. It decides how soon the next one may go.
type Outcome int

const (
	// Answered: the answer came, so Polar counted the request before now.
	Answered Outcome = iota
	// Unsent: Polar never saw the request.
	Unsent
	// Lost: no answer came. The request may still be on its way, and Polar may count it
	// later than now.
	Lost
)

// MaxPause is the longest pause that is kept. A pause that seems longer began before the clock
// was set back.
const MaxPause = 15 * time.Minute

// PausedError means that Polar asked for a pause, which is not over.
type PausedError struct{ For time.Duration }

func (e *PausedError) Error() string { return "waiting out a pause that Polar asked for" }

// LateError means that the turn would come after the deadline of the caller's context.
type LateError struct {
	Limit string        // the limit, in words
	For   time.Duration // how long until the turn comes; 0 if that is not known
}

func (e *LateError) Error() string {
	return e.Limit + " allows the next one only after the caller's deadline"
}

// Unwrap makes errors.Is find context.DeadlineExceeded.
func (e *LateError) Unwrap() error { return context.DeadlineExceeded }

// StoppedError means that the caller's context ended while the call waited.
type StoppedError struct {
	Limit string        // the limit, in words
	For   time.Duration // how long until the turn would have come; 0 if that is not known
	Err   error         // of the context
}

func (e *StoppedError) Error() string { return "while waiting for " + e.Limit }

// Unwrap makes errors.Is find the error of the context.
func (e *StoppedError) Unwrap() error { return e.Err }

// line is where callers wait, in the order of arrival. Only the first can take a turn, and
// nothing is reserved ahead, so callers who leave take nothing with them. (A rate.Limiter
// doesn't restore all reservations that are cancelled.)
//
// Callers wake each other through channels. Where a test fakes time with
// testing/synctest, all callers of one line have to be in one bubble.
type line struct {
	limit string // in words, for errors

	mu      sync.Mutex // never held while waiting
	waiting []chan struct{}
	paused  time.Time // nobody goes before
}

// unknown is a wait whose length isn't known: wakeFirst ends it.
const unknown time.Duration = -1

// wait returns when the caller is first in the line and reserve has a turn. reserve is
// called with mu held and with how many callers are ahead. It takes a turn and returns 0,
// for the first in the line only, or returns how long the caller will have to wait.
func (l *line) wait(ctx context.Context, reserve func(ahead int) time.Duration) error {
	if err := ctx.Err(); err != nil {
		return &StoppedError{Limit: l.limit, Err: err}
	}
	me := make(chan struct{}, 1)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.waiting = append(l.waiting, me)
	defer l.leave(me)
	for {
		if left := l.pauseLeft(); left > 0 {
			return &PausedError{left}
		}
		ahead := slices.Index(l.waiting, me)
		wait := reserve(ahead)
		if wait == 0 {
			return nil
		}
		if deadline, ok := ctx.Deadline(); ok && wait != unknown && time.Until(deadline) <= wait {
			return &LateError{l.limit, wait}
		}
		l.mu.Unlock()
		var due <-chan time.Time
		if ahead == 0 && wait != unknown {
			due = time.After(wait)
		} // the others are woken when they become the first
		select {
		case <-me:
		case <-due:
		case <-ctx.Done():
		}
		l.mu.Lock()
		if err := ctx.Err(); err != nil {
			return &StoppedError{l.limit, max(wait, 0), err}
		}
	}
}

// leave takes a caller out of the line, and has the next one look. mu is held.
func (l *line) leave(me chan struct{}) {
	i := slices.Index(l.waiting, me)
	l.waiting = slices.Delete(l.waiting, i, i+1)
	if i == 0 {
		l.wakeFirst()
	}
}

// wakeFirst has the first in the line look again. mu is held.
func (l *line) wakeFirst() {
	if len(l.waiting) > 0 {
		wake(l.waiting[0])
	}
}

func wake(waiter chan struct{}) {
	select {
	case waiter <- struct{}{}:
	default: // it was woken already
	}
}

// pauseFor starts a pause, and tells all who wait. mu is held.
func (l *line) pauseFor(d time.Duration) {
	if l.pauseLeft() <= d {
		l.paused = time.Now().Add(d)
	}
	for _, waiter := range l.waiting {
		wake(waiter)
	}
}

// pauseLeft is how much of a pause is left. mu is held.
func (l *line) pauseLeft() time.Duration {
	return max(0, Within(time.Until(l.paused), MaxPause))
}

// Within is a wait, or 0 if it is longer than limit: a wait that is longer than any that is
// ever set means that the clock was set back since.
func Within(wait, limit time.Duration) time.Duration {
	if wait > limit {
		return 0
	}
	return wait
}

// Sleep waits for d, and reports false if ctx ends earlier. If the deadline of ctx is earlier,
// it returns at once.
func Sleep(ctx context.Context, d time.Duration) bool {
	if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) <= d {
		return false
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// Jitter spreads d by a half to either side, so that programs that failed together don't
// come back together.
func Jitter(d time.Duration) time.Duration {
	return d/2 + rand.N(d)
}

// serverName is the server of a base URL, in one spelling.
func serverName(base string) string {
	u, err := url.Parse(base)
	if err != nil {
		return base
	}
	port := u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[u.Scheme]
	}
	return strings.TrimSuffix(strings.ToLower(u.Hostname()), ".") + ":" + port
}
