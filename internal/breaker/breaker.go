// Package breaker bounds how long a caller waits for something that may hang, and keeps
// callers away from it for a moment after a failure.
//
// It promises that Do returns within the bound even if the work ignores its context. It
// can't end such work; it only limits how much of it is started.
package breaker

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
	"time"
)

// ErrAway means that the work was not tried, because it failed a moment ago.
var ErrAway = errors.New("it failed a moment ago and is left alone")

// ErrSlow means that the work didn't end within the bound.
var ErrSlow = errors.New("no answer within the bound")

// PanicError is a panic of the work.
type PanicError struct {
	Value any
	Stack []byte
}

func (e *PanicError) Error() string { return fmt.Sprintf("panic: %v", e.Value) }

const (
	firstPause = 50 * time.Millisecond
	// maxHanging is how many pieces of work may outlast the bound at a time.
	maxHanging = 64
)

// Breaker guards one thing. The fields must not be changed once it is in use.
type Breaker struct {
	// Bound is how long Do waits at most.
	Bound time.Duration
	// MaxPause is the longest pause after a failure. The first pause is 50 milliseconds,
	// and each further failure doubles it.
	MaxPause time.Duration
	// Fault reports whether an error shows that the thing is failing; nil means each does.
	Fault func(error) bool
	// Back is called when the thing works again after a failure. It must not block.
	Back func()

	mu      sync.Mutex
	failing bool
	pause   time.Duration
	until   time.Time // not tried before
	probing bool      // one caller tries while it fails
	hanging int
	since   time.Time
}

// Away reports since when the thing has been failing; zero if it works.
func (b *Breaker) Away() time.Time {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.failing {
		return time.Time{}
	}
	return b.since
}

// Do does the work unless it has failed a moment ago, and waits for it no longer than
// the bound. While it fails, one caller at a time tries.
func Do[T any](ctx context.Context, b *Breaker, work func(context.Context) (T, error)) (T, error) {
	var none T
	if err := ctx.Err(); err != nil {
		return none, err
	}
	probe, err := b.enter()
	if err != nil {
		return none, err
	}
	type outcome struct {
		value T
		err   error
	}
	bounded, cancel := context.WithTimeout(ctx, b.Bound)
	done := make(chan outcome, 1)
	var piece piece
	go func() {
		var o outcome
		defer cancel()
		defer func() {
			if p := recover(); p != nil {
				o.err = &PanicError{p, debug.Stack()}
			}
			b.end(&piece)
			done <- o
		}()
		o.value, o.err = work(bounded)
	}()
	var o outcome
	select {
	case o = <-done:
	case <-bounded.Done():
		select {
		case o = <-done: // it ended at the same moment
		default:
			b.abandon(&piece)
			o.err = ErrSlow
		}
	}
	if err := ctx.Err(); err != nil && o.err != nil {
		b.forget(probe) // the caller gave up, which proves nothing
		return none, err
	}
	b.note(probe, o.err)
	return o.value, o.err
}

// enter reports whether the work may be tried, and whether it is a probe.
func (b *Breaker) enter() (probe bool, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.hanging >= maxHanging {
		return false, ErrAway
	}
	if b.failing {
		if b.probing || time.Now().Before(b.until) {
			return false, ErrAway
		}
		b.probing, probe = true, true
	}
	return probe, nil
}

// piece is a piece of work. It counts as hanging when its caller no longer waits for it. Any
// number may be under way, as long as the thing answers in time.
type piece struct{ ended, hanging bool }

// end notes that a piece of work has ended.
func (b *Breaker) end(p *piece) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if p.ended = true; p.hanging {
		b.hanging--
	}
}

// abandon notes that the caller no longer waits for a piece of work.
func (b *Breaker) abandon(p *piece) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !p.ended {
		p.hanging = true
		b.hanging++
	}
}

// forget ends a probe without an outcome.
func (b *Breaker) forget(probe bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if probe {
		b.probing = false
	}
}

// note takes in an outcome.
func (b *Breaker) note(probe bool, err error) {
	fault := err != nil && (b.Fault == nil || b.Fault(err))
	b.mu.Lock()
	defer b.mu.Unlock()
	if probe {
		b.probing = false
	}
	switch {
	case fault && b.failing && !probe:
		// The work began before the failure that is already known.
	case fault:
		if !b.failing {
			b.failing, b.since = true, time.Now()
		}
		b.pause = min(max(2*b.pause, firstPause), max(b.MaxPause, firstPause))
		b.until = time.Now().Add(b.pause)
	case probe:
		// Only work that began after the failure can show that it is over.
		b.failing, b.pause = false, 0
		if b.Back != nil {
			go b.Back()
		}
	}
}
