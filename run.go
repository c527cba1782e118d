package polargate

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/polargate/polargate/internal/pace"
)

// How long Run waits between questions. Each wait is spread by half to either side: the
// programs of many users, started by the same outage or update, must not all ask at once.
const (
	// firstRetry follows a question without an answer, and doubles up to lastRetry. So a
	// network that comes up after the program is found soon, and an outage of Polar isn't
	// made worse.
	firstRetry = 5 * time.Second
	lastRetry  = 15 * time.Minute
	// firstAppeal follows a refusal, and doubles up to lastAppeal, which is an hour at most
	// once it is spread. So customers who renew need not restart the program.
	firstAppeal = time.Minute
	lastAppeal  = 40 * time.Minute
	// firstMinute is how long Run keeps trying at firstRetry if there is no network at
	// all: such tries cost nothing.
	firstMinute = time.Minute
)

// Run keeps the license verified for as long as the program runs. It asks Polar when the
// last answer is past half of FreshFor, retries with growing pauses if Polar can't be
// reached or refuses, and finishes pending deactivations. It notices within a minute that
// the computer slept, and what another process did to the license. Start it once, in a
// goroutine of its own, beside a Check at the start:
//
//	go gate.Run(ctx)
//
// It returns nil when ctx ends or the Gate is closed. An error means that it didn't
// start: ErrClosed if the Gate was closed before.
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
	defer context.AfterFunc(g.ctx, cancel)()

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
			r.failures, r.tried, r.failing, r.flushed, r.flushFailures = 0, time.Time{}, time.Time{}, time.Time{}, 0 // the computer slept, and may be on another network now
		}
	}
}

// runner is what Run remembers from one step to the next.
type runner struct {
	g *Gate
	// tried is when Polar was last asked, and pause how long to wait after that.
	tried    time.Time
	pause    time.Duration
	failures int // in a row
	refusals int // in a row
	// failing is since when Polar gives no answer; zero if it does.
	failing time.Time
	// flushed is when releasing the activations in the outbox last failed, flushPause how
	// long to wait after that, and flushFailures how often it failed in a row.
	flushed       time.Time
	flushPause    time.Duration
	flushFailures int
	// spread says where between half and six tenths of its freshness an answer is renewed.
	// It is drawn once for each answer; answer is the time of the last one.
	answer time.Time
	spread float64
}

// step asks Polar if that is due, and says how long to wait before the next step.
func (r *runner) step(ctx context.Context) time.Duration {
	rec := r.g.reload(ctx)
	if rec.missing {
		r.g.restore(ctx)
	}
	if r.g.beginTrial(ctx, &rec) || r.g.remind(ctx, &rec) {
		rec = r.g.holding()
	}
	_ = r.g.leaseTrial(ctx, &rec) // what fails is tried again
	r.g.saveAgain(ctx)
	r.flush(ctx, rec)
	due := r.due(rec)
	if now := r.g.now(); now.Before(due) {
		if rec.verdict != nil {
			brief, cancel := context.WithTimeout(ctx, r.g.budget.all)
			defer cancel()
			r.g.storeTime(brief, rec, now)
		}
		return min(max(due.Sub(now), time.Millisecond), maxNap)
	}
	err := r.g.check(ctx, retry)
	now := r.g.now()
	r.tried = now
	r.g.mu.Lock()
	s, nothing := r.g.evaluate(now), r.g.record.state.Seat == nil
	r.g.mu.Unlock()
	switch {
	case err == nil && (nothing || s.state == Active):
		r.failures, r.refusals, r.pause, r.failing = 0, 0, 0, time.Time{}
	case isDenial(err), err == nil && (s.reason.Denial() || s.reason == ErrNotCovered):
		// Polar refused, or granted a license that is of no use here. This question or that
		// of another process found out.
		r.pause = pace.Jitter(min(firstAppeal<<r.refusals, lastAppeal))
		if e, ok := errors.AsType[*Error](err); ok && e.RetryAfter > 0 {
			r.pause = min(r.pause, pace.Jitter(e.RetryAfter)) // when a place of a pool is free
		}
		r.failures, r.refusals, r.failing = 0, min(r.refusals+1, 10), time.Time{}
	default:
		r.pause = r.afterFailure(err, now)
		if life := r.g.holding().verdict.life(); life > 0 {
			r.pause = min(r.pause, life/8) // the place of a pool is lost with its lease
		}
	}
	return min(max(r.pause, time.Second), maxNap)
}

// afterFailure is how long to wait after a question without an answer.
func (r *runner) afterFailure(err error, now time.Time) time.Duration {
	e, failed := errors.AsType[*Error](err)
	if r.failing.IsZero() || r.failing.After(now) {
		r.failing = now
	}
	if failed && e.Reason == ErrUnreachable && !e.sent && e.StatusCode == 0 && now.Sub(r.failing) < firstMinute {
		return pace.Jitter(firstRetry)
	}
	pause := pace.Jitter(min(firstRetry<<r.failures, lastRetry))
	r.failures = min(r.failures+1, 10)
	if failed {
		pause = max(pause, e.RetryAfter)
	}
	return pause
}

// flush releases the activations in the outbox, if there is a license as well. Without one,
// check does it.
func (r *runner) flush(ctx context.Context, rec record) {
	now := r.g.now()
	if r.flushed.After(now) {
		r.flushed = now
	}
	if rec.state.Seat == nil || !rec.state.waiting() || now.Before(r.flushed.Add(r.flushPause)) {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, r.g.budget.all)
	defer cancel()
	if err := r.g.flushReleases(ctx); err == nil {
		r.flushFailures = 0
		return
	}
	r.flushed, r.flushPause = r.g.now(), pace.Jitter(min(firstAppeal<<r.flushFailures, lastRetry))
	r.flushFailures = min(r.flushFailures+1, 10)
}

// due is when to ask Polar next.
func (r *runner) due(rec record) time.Time {
	now := r.g.now()
	if r.tried.After(now) {
		r.tried = now // the clock was set back
	}
	next := r.tried.Add(r.pause)
	r.g.mu.Lock()
	s := r.g.evaluate(now)
	r.g.mu.Unlock()
	switch {
	case rec.state.Seat.byFile(), rec.state.Seat == nil && !rec.state.waiting():
		return now.Add(maxNap) // there is nothing to ask, but another process may activate
	case rec.state.Seat == nil, rec.verdict == nil, s.state != Active && s.state != Perpetual:
		return next
	}
	if !rec.verdict.CheckedAt.Equal(r.answer) {
		r.answer, r.spread = rec.verdict.CheckedAt, rand.Float64()/5
	}
	half := renewalOf(rec.verdict, s)
	half = half.Add(time.Duration(r.spread * float64(half.Sub(rec.verdict.CheckedAt))))
	if half.After(next) {
		return half
	}
	return next
}
