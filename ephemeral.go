package polargate

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"sync"
	"syscall"
	"time"
)

// How a license is kept where nothing can be stored, and given up when the program ends.

// memoryFallback is a Store that can switch to memory, and back.
type memoryFallback struct {
	Store
	memory MemoryStore

	mu     sync.Mutex // never held across I/O
	active bool
	// found is the state that was stored when memory took over, under any of its names;
	// nil if there was none.
	found []byte
	// was is the state that was stored then under the name that is written; nil if there
	// was none. A state that another process has stored since is not overwritten.
	was []byte
}

func (r *memoryFallback) now() Store {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.active {
		return &r.memory
	}
	return r.Store
}

func (r *memoryFallback) Load(ctx context.Context, name string) ([]byte, error) {
	return r.now().Load(ctx, name)
}

func (r *memoryFallback) Save(ctx context.Context, name string, data []byte) error {
	return r.now().Save(ctx, name, data)
}

func (r *memoryFallback) Lock(ctx context.Context, name string) (func(), error) {
	return r.now().Lock(ctx, name)
}

func (r *memoryFallback) inUse() bool { return r != nil && r.now() != r.Store }

// enter switches to memory, with the state that is stored, and reports whether it did. It
// doesn't if the state can't be read. names are where a state can be; the first is the one
// that is written.
func (r *memoryFallback) enter(ctx context.Context, names []string) bool {
	var data []byte
	var name string
	for _, name = range names {
		var err error
		data, err = r.Store.Load(ctx, name)
		nothing := errors.Is(err, ErrNotStored) || errors.Is(err, syscall.ENOTDIR) // nothing can be below a file
		if err != nil && !nothing || len(data) > maxState {
			return false
		}
		if err == nil {
			break
		}
		data = nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.active {
		return true // another call switched already, and may have changed the state since
	}
	if data != nil {
		_ = r.memory.Save(ctx, name, data)
	}
	r.active, r.found = true, data
	if name == names[0] {
		r.was = data
	}
	return true
}

// leave writes the state in memory to the Store, and reports whether the Store is used from
// now on.
func (r *memoryFallback) leave(ctx context.Context, name string) bool {
	unlock, err := r.Store.Lock(ctx, name)
	switch {
	case err == nil:
		defer unlock()
	case !errors.Is(err, errors.ErrUnsupported):
		return false
	}
	there, err := r.Store.Load(ctx, name)
	if err != nil && !errors.Is(err, ErrNotStored) || !bytes.Equal(there, r.was) {
		return false
	}
	data, err := r.memory.Load(ctx, name)
	if err != nil || r.Store.Save(ctx, name, data) != nil {
		return false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.active, r.was, r.found = false, nil, nil
	return true
}

// useMemory switches to memory after an error of the Store, if the program wants that. It
// reports whether to try again.
func (g *Gate) useMemory(ctx context.Context, err error) bool {
	if g.fallback.inUse() {
		return true // another call has just switched
	}
	if g.fallback == nil || ctx.Err() != nil || errors.Is(err, context.DeadlineExceeded) {
		return false
	}
	brief, cancel := context.WithTimeout(ctx, g.budget.reading)
	defer cancel()
	if !g.fallback.enter(brief, g.own) {
		return false
	}
	g.config.Logger.Warn("polargate: the license state can't be written and is kept in memory; Close deactivates it", "error", err)
	g.saved(err)
	return true
}

// leaveMemory tries to store what is only in memory, and to use the Store again.
func (g *Gate) leaveMemory(ctx context.Context) {
	if !g.fallback.inUse() {
		return
	}
	unlock, err := g.lockSeat(ctx)
	if err != nil {
		return
	}
	defer unlock()
	if g.fallback.leave(ctx, g.name) {
		g.mu.Lock()
		g.enlisted = false // on the list in the Store
		g.mu.Unlock()
		g.config.Logger.Info("polargate: the license state was stored after all")
		g.saved(nil)
	}
}

// saveAgain tries to store a license that couldn't be stored earlier.
func (g *Gate) saveAgain(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, g.budget.all)
	defer cancel()
	g.leaveMemory(ctx)
	g.mu.Lock()
	due := g.around.unsaved != nil && g.record.state.Seat != nil && !g.fallback.inUse()
	g.mu.Unlock()
	if due {
		_, _, _ = g.change(ctx, unsaved{})
	}
}

// saved notes whether the record in memory is in the Store.
func (g *Gate) saved(err error) {
	if onlyReads(err) {
		return // somebody else saves it
	}
	g.update(func() bool {
		if err == nil && g.fallback.inUse() || (g.around.unsaved == nil) == (err == nil) {
			return false // it is only in memory, or nothing changed
		}
		g.around.unsaved = err
		return true
	})
}

// releaseSeats releases, when an ephemeral Gate is closed, the activations that are only in
// memory. Those that can't be released are lost, and the log says so. began is when Close
// was called.
func (g *Gate) releaseSeats(began time.Time) {
	ctx, cancel := context.WithDeadline(context.Background(), began.Add(closeWait))
	defer cancel()
	g.leaveMemory(ctx)
	if g.config.Ephemeral != ReleaseOnClose && !g.fallback.inUse() {
		return
	}
	rec := g.holding()
	seats := rec.state.Outbox
	if s := rec.state.Seat; s != nil && s.held() {
		seats = append(slices.Clip(seats), *s)
	}
	if g.fallback.inUse() && len(g.fallback.found) > 0 {
		// The activation that is stored stays in use.
		if st, err := g.seal.openState(g.fallback.found); err == nil && st.Seat != nil {
			kept := seats[:0:0]
			for _, s := range seats {
				if s.ActivationID != st.Seat.ActivationID {
					kept = append(kept, s)
				}
			}
			seats = kept
		}
	}
	left := release{patience: closeWait - time.Since(began), turns: turns{left: g.config.ReleaseTimeout - time.Since(began)}}
	for _, s := range seats {
		if err := g.release(&s, &left); err != nil {
			g.config.Logger.Error("polargate: an activation couldn't be deactivated and stays in use: deactivate it by its id, in Polar or with an access token", "activation", s.ActivationID, "error", err)
		}
	}
}

// release is how much time is left to release activations: patience for failures of all
// kinds, and turns for waits because of Polar's limit on requests.
type release struct {
	patience time.Duration
	turns    turns
}

// release releases an activation. It tries again while there is time.
func (g *Gate) release(s *seat, left *release) error {
	for pause := 250 * time.Millisecond; ; {
		err := g.tryRelease(s, left)
		if err == nil || errors.Is(err, ErrUnknownKey) {
			return err
		}
		if wait, ok := left.turns.next(err, left.turns.left); ok {
			// If the program is killed now, the log has the activation that stays in use.
			if wait > closeWait {
				g.config.Logger.Warn("polargate: an activation will be deactivated as soon as Polar's request limit allows", "activation", s.ActivationID, "wait", wait.Round(time.Second))
			}
			time.Sleep(wait)
			continue
		}
		if errors.Is(err, ErrRateLimited) || min(left.patience, left.turns.left) <= pause {
			return err
		}
		time.Sleep(pause)
		left.patience -= pause
		left.turns.left -= pause
		pause *= 2
	}
}

// nextLook is how soon to try again if it isn't known how long the wait will be.
const nextLook = 100 * time.Millisecond

// tryRelease is one try. Waiting for its turn doesn't count as a failure.
func (g *Gate) tryRelease(s *seat, left *release) error {
	began := time.Now()
	ctx, cancel := context.WithTimeout(context.Background(), min(max(left.patience, 0), left.turns.left))
	defer cancel()
	err := g.free(ctx, s)
	took := time.Since(began)
	left.turns.left -= took
	e, _ := errors.AsType[*Error](err)
	if e == nil || e.Reason != ErrRateLimited {
		left.patience -= took
		return err
	}
	// Its turn didn't come in this time, because other programs on this computer are ahead.
	next := *e
	next.RetryAfter = max(e.RetryAfter, nextLook)
	return &next
}
