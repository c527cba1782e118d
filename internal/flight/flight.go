// Package flight lets many callers share one piece of work without sharing
// their contexts.
//
// It wraps singleflight: the work runs in its own goroutine under its own
// context, each caller waits under the caller's context, a panic in the work
// becomes an error for the callers, and work that nobody waits for any more is
// told so through its context.
package flight

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"

	"time"

	"golang.org/x/sync/singleflight"
)

// ErrClosed is returned once the group has been closed.
var ErrClosed = errors.New("flight: closed")

// A PanicError is a panic in the shared work, kept from taking the process down.
type PanicError struct {
	Value any
	Stack []byte
}

func (e *PanicError) Error() string { return fmt.Sprintf("panic: %v", e.Value) }

// Group shares calls of the same name. The zero value is ready to use.
type Group struct {
	// Keep is the age up to which work goes on, and is joined, when every caller has
	// gone. It is set before the first call. Such work sees no values of a caller's
	// context: a server may use that for its next request by then.
	Keep time.Duration

	mu      sync.Mutex // guards what follows; never held while work runs
	group   singleflight.Group
	waiting map[string]*flight
	closed  bool
	running sync.WaitGroup
}

type flight struct {
	callers int
	began   time.Time
	ctx     context.Context
	cancel  context.CancelFunc
}

// Do runs work once for all concurrent callers of the same name and gives each
// of them its result.
//
// The context that work gets carries the values of the first caller's context, unless
// Keep is set. It is cancelled when every caller has gone and Keep is over, and by Close. Work
// that must not be cut short any more detaches itself with context.WithoutCancel.
func Do[T any](ctx context.Context, g *Group, name string, work func(context.Context) (T, error)) (T, error) {
	var zero T
	if err := ctx.Err(); err != nil {
		return zero, err
	}
	g.mu.Lock()
	if g.closed {
		g.mu.Unlock()
		return zero, ErrClosed
	}
	f := g.waiting[name]
	if f == nil {
		f = &flight{began: time.Now()}
		parent := context.Background()
		if g.Keep == 0 {
			parent = context.WithoutCancel(ctx)
		}
		f.ctx, f.cancel = context.WithCancel(parent)
		if g.waiting == nil {
			g.waiting = make(map[string]*flight)
		}
		g.waiting[name] = f
		g.running.Add(1)
	}
	f.callers++
	// Joined under the lock: either this call starts the work of f, or the
	// work of f is still running, for f is taken off the list when it ends.
	done := g.group.DoChan(name, func() (any, error) {
		defer g.running.Done()
		defer g.land(name, f)
		return guard(f.ctx, work)
	})
	g.mu.Unlock()

	select {
	case r := <-done:
		v, _ := r.Val.(T)
		return v, r.Err
	case <-ctx.Done():
		g.leave(name, f)
		return zero, ctx.Err()
	}
}

// guard runs work where neither a panic nor runtime.Goexit, with which a failed
// test ends its goroutine, can keep the callers from an answer.
func guard[T any](ctx context.Context, work func(context.Context) (T, error)) (v T, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		returned := false
		defer func() {
			if returned {
				return
			}
			p := recover()
			if p == nil {
				p = "the goroutine ended"
			}
			err = &PanicError{Value: p, Stack: debug.Stack()}
		}()
		v, err = work(ctx)
		returned = true
	}()
	<-done
	return v, err
}

// land takes finished work off the list, before its callers get the result.
// Who comes after that starts anew instead of being handed an old answer.
func (g *Group) land(name string, f *flight) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.waiting[name] == f {
		delete(g.waiting, name)
		g.group.Forget(name)
	}
	f.cancel()
}

// leave counts a caller out, and cancels the work when that was the last one and the
// work is not to be kept.
func (g *Group) leave(name string, f *flight) {
	g.mu.Lock()
	defer g.mu.Unlock()
	f.callers--
	if f.callers > 0 || time.Since(f.began) < g.Keep {
		return
	}
	if g.waiting[name] == f {
		delete(g.waiting, name)
		g.group.Forget(name)
	}
	f.cancel()
}

// Close refuses new calls, cancels the work under way and waits until it has
// ended.
func (g *Group) Close() {
	g.mu.Lock()
	g.closed = true
	for _, f := range g.waiting {
		f.cancel()
	}
	g.mu.Unlock()
	g.running.Wait()
}
