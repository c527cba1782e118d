package polargate

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"
)

// How Run spaces its questions. Each wait is spread by half to either side, so
// that the programs of many users, started by the same outage or update, do not
// ask at once.
const (
	// firstRetry follows a question without an answer, and doubles up to
	// lastRetry: a network that was not there at the start is found soon, and
	// an outage of Polar is not made worse.
	firstRetry = 5 * time.Second
	lastRetry  = 15 * time.Minute
	// firstAppeal follows a refusal, and doubles up to lastAppeal: who renews
	// need not restart the program.
	firstAppeal = time.Minute
	lastAppeal  = time.Hour
)

// Run keeps the license fresh for as long as the program runs: it asks Polar when
// the last answer is past half of FreshFor, again and again with growing pauses
// when nobody answers or the license is refused, and gives back seats that are
// waiting for it. It notices within a minute that the computer slept, and what
// another process did to the license. Start it once, in a goroutine of its own,
// beside a Check at the start:
//
//	go gate.Run(ctx)
//
// It returns nil when ctx ends or the Gate is closed. An error means that it did
// not start: ErrClosed if the Gate was closed before.
func (g *Gate) Run(ctx context.Context) error {
	if err := g.enter(ctx); err != nil {
		return err
	}
	if !g.begin() {
		return &Error{Op: "run", Reason: ErrClosed}
	}
	defer g.background.Done()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(g.life, cancel)()

	r := runner{g: g}
	for {
		wait := r.step(ctx)
		before := g.now()
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-timer.C:
		}
		if g.now().Sub(before) > wait+maxNap {
			r.failures, r.tried = 0, time.Time{} // the computer slept: another network, maybe
		}
	}
}

// runner is what Run remembers from one step to the next.
type runner struct {
	g *Gate
	// tried is when Polar was last asked, and pause how long not to ask again
	// after that.
	tried    time.Time
	pause    time.Duration
	failures int // in a row
	refusals int // in a row
	// answer is the time of the answer that spread was drawn for: where between
	// its half and six tenths of its freshness it is renewed.
	answer time.Time
	spread float64
}

// step asks Polar if that is due, and says how long to wait before the next step.
func (r *runner) step(ctx context.Context) time.Duration {
	h := r.g.reload(ctx)
	r.g.saveAgain(ctx)
	due := r.due(h)
	if now := r.g.now(); now.Before(due) {
		if h.verdict != nil {
			r.g.moveMark(ctx, h, now)
		}
		return min(max(due.Sub(now), time.Millisecond), maxNap)
	}
	err := r.g.check(ctx, retry)
	r.tried = r.g.now()
	var e *Error
	switch {
	case err == nil:
		r.failures, r.refusals, r.pause = 0, 0, 0
	case isDenial(err):
		r.pause = jitter(min(firstAppeal<<r.refusals, lastAppeal))
		r.failures, r.refusals = 0, min(r.refusals+1, 10)
	default:
		r.pause = jitter(min(firstRetry<<r.failures, lastRetry))
		if errors.As(err, &e) {
			r.pause = max(r.pause, e.RetryAfter)
		}
		r.failures = min(r.failures+1, 10)
	}
	return min(max(r.pause, time.Second), maxNap)
}

// due is when to ask Polar next.
func (r *runner) due(h held) time.Time {
	now := r.g.now()
	if r.tried.After(now) {
		r.tried = now // the clock was set back
	}
	next := r.tried.Add(r.pause)
	r.g.mu.Lock()
	s := r.g.standing(now)
	r.g.mu.Unlock()
	switch {
	case h.state.Seat == nil && !h.state.waiting():
		return now.Add(maxNap) // nothing to ask; another process may activate
	case h.state.Seat == nil, h.verdict == nil, s.state != Active:
		return next
	}
	if !h.verdict.CheckedAt.Equal(r.answer) {
		r.answer, r.spread = h.verdict.CheckedAt, rand.Float64()/5
	}
	half := renewalOf(h.verdict, s)
	half = half.Add(time.Duration(r.spread * float64(half.Sub(h.verdict.CheckedAt))))
	if half.After(next) {
		return half
	}
	return next
}
