package replicas

import (
	"context"
	"time"

	"github.com/polargate/polargate/internal/clock"
	"github.com/polargate/polargate/internal/link"
	"github.com/polargate/polargate/internal/memory"
	"github.com/polargate/polargate/internal/pace"
)

// Pace has requests wait for the budget of all replicas, and for this one's while the
// store is away.
type Pace struct {
	*pace.Budget
	R *Replicas
}

// Wait waits for a request. While the store is away, this replica has its share of the limit.
func (p *Pace) Wait(ctx context.Context) (done func(pace.Outcome), err error) {
	r := p.R
	done = func(pace.Outcome) {}
	if memory.TakeUnit(ctx) {
		return done, p.Spend()
	}
	switch away, err := r.takeTurn(ctx); {
	case err != nil:
		return nil, err
	case away:
		return p.Budget.Wait(ctx)
	}
	return done, p.Spend()
}

// takeTurn takes a request of the budget of all replicas, in the order of arrival, or reports
// that the store is away.
func (r *Replicas) takeTurn(ctx context.Context) (away bool, err error) {
	select {
	case r.turns <- struct{}{}:
		defer func() { <-r.turns }()
	case <-ctx.Done():
		return false, &pace.StoppedError{Limit: SharedLimit, Err: ctx.Err()}
	}
	for {
		if left := r.Budget.PauseLeft(); left > 0 {
			return false, &pace.PausedError{For: left}
		}
		turn, err := r.Link.Take(ctx, 1, r.keeps(ctx))
		r.noteTurn(turn, err)
		switch deadline, ok := ctx.Deadline(); {
		case ctx.Err() != nil:
			return false, &pace.StoppedError{Limit: SharedLimit, Err: ctx.Err()}
		case err != nil:
			return true, nil
		case turn.Taken:
			return false, nil
		case turn.Paused:
			return false, &pace.PausedError{For: turn.Wait}
		case ok && time.Until(deadline) <= turn.Wait:
			return false, &pace.LateError{Limit: SharedLimit, For: turn.Wait}
		}
		if !pace.Sleep(ctx, max(turn.Wait, time.Millisecond)) {
			return false, &pace.StoppedError{Limit: SharedLimit, For: turn.Wait, Err: ctx.Err()}
		}
	}
}

const SharedLimit = "the limit on requests a minute of all replicas"

// unwaited marks a request that no customer waits for, such as one for a page of a list.
type unwaitedKey struct{}

// Unwaited is a context for requests that no customer waits for.
func Unwaited(ctx context.Context) context.Context {
	return context.WithValue(ctx, unwaitedKey{}, true)
}

// keeps is how many requests a request leaves to others: one that no customer waits for
// leaves a quarter of all.
func (r *Replicas) keeps(ctx context.Context) int {
	if ctx.Value(unwaitedKey{}) != nil {
		return r.Limit / 4
	}
	return 0
}

// PauseFor lets no replica send a request for d.
func (p *Pace) PauseFor(d time.Duration) {
	p.Budget.PauseFor(d)
	p.R.Link.GoBehind(func() { _ = p.R.Link.Pause(p.R.Link.Life, d) })
}

// noteTurn takes over a pause that another replica was asked for. It gives this replica the
// whole limit while the store counts requests, and its share while the store is away.
func (r *Replicas) noteTurn(turn link.Turn, err error) {
	if turn.Paused {
		r.Budget.PauseFor(turn.Wait)
	}
	switch {
	case err == nil:
		r.Budget.SetPerMinute(r.Limit)
	case r.Link.IsAway():
		r.Budget.SetPerMinute(r.Link.Share(r.Limit))
	}
}

// TellShort tells other replicas that customers are turned away for lack of requests, so
// that none refreshes what can be served from memory.
func (r *Replicas) TellShort(now clock.Local) {
	last := r.saidShort.Load()
	if last != 0 && now < clock.Local(last).After(memory.ShortLasts/4) || !r.saidShort.CompareAndSwap(last, int64(now)) {
		return
	}
	r.Link.GoBehind(func() { r.Link.Hint(r.Link.Life, r.shortName()) })
}
