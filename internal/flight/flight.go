// Package flight lets many callers share one piece of work without sharing their contexts.
//
// It wraps singleflight. The work runs in a goroutine of its own, with a context of its own,
// and each caller waits with the caller's context. A panic in the work becomes an error for
// the callers. When the last caller has left, the context of the work ends.
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

// PanicError is a panic in the shared work. It doesn't end the process.
type PanicError struct {
	Value any
	Stack []byte
}

func (e *PanicError) Error() string { return fmt.Sprintf("panic: %v", e.Value) }

// Group shares calls of the same name. The zero value is ready to use.
type Group struct {
	// Keep is the age up to which work continues, and can be joined, after the last caller
	// has left. Set it before the first call. Such work sees no values of a caller's
	// context, because a server may use that context for its next request by then.
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

// Do runs work once for all concurrent callers of the same name, and gives each of them its
// result.
//
// The context of the work has the values of the first caller's context, unless Keep is set.
// It is cancelled by Close, and when the last caller has left and Keep is over. Work that
// must not be cut short from some point on uses context.WithoutCancel.
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
	// With the lock held, this call either starts the work of f, or finds it still running,
	// because f leaves the list when its work ends.
	done := g.group.DoChan(name, func() (any, error) {
		defer g.running.Done()
		defer g.finish(name, f)
		return guard(f.ctx, work)
	})
	g.mu.Unlock()

	select {
	case r := <-done:
		v, _ := r.Val.(T)
		return v, r.Err
	case <-ctx.Done():
		g.abandon(name, f)
		return zero, ctx.Err()
	}
}

// guard runs work such that the callers get an answer even after a panic, or after
// runtime.Goexit, by which a failed test ends its goroutine.
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

// finish takes finished work off the list, before its callers get the result. A caller that
// comes later starts new work instead of getting an old answer.
func (g *Group) finish(name string, f *flight) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.waiting[name] == f {
		delete(g.waiting, name)
		g.group.Forget(name)
	}
	f.cancel()
}

// abandon notes that a caller has left. After the last one, it cancels the work, unless Keep
// lets it continue.
func (g *Group) abandon(name string, f *flight) {
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

// Close refuses new calls, cancels the work under way, and waits for its end.
func (g *Group) Close() {
	g.mu.Lock()
	g.closed = true
	for _, f := range g.waiting {
		f.cancel()
	}
	g.mu.Unlock()
	g.running.Wait()
}
