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

// Ephemeral says how a Gate uses activations where nothing is kept: in a build job, in a
// container, on a read-only system.
type Ephemeral string

const (
	// ReleaseOnClose keeps everything in memory: Activate activates, and Close
	// deactivates. A process that is killed, or ends without Close, leaves its activation
	// in use: call Close on SIGTERM too, and see Config.ReleaseTimeout for how long it
	// may take. For many jobs behind one address, set Config.WaitForTurn.
	ReleaseOnClose Ephemeral = "release_on_close"
	// ValidateOnly keeps everything in memory and uses no activation: Activate only asks
	// whether the key is granted. Any number of computers can use a key that way,
	// whatever its activation limit: for example in a program that knows by other means
	// that it runs in a build job.
	ValidateOnly Ephemeral = "validate_only"
	// IfUnwritable is ReleaseOnClose, but only if Activate finds that the Store can't be
	// written. Status.Unsaved then says so, and the license is stored after all if that
	// becomes possible before the Gate is closed.
	IfUnwritable Ephemeral = "if_unwritable"
)

// memoryFallback is a Store that goes over to memory when told to.
type memoryFallback struct {
	Store
	memory MemoryStore

	mu     sync.Mutex // never held across I/O
	active bool
	// found is the state that was stored when memory took over, under whatever name;
	// nil for none.
	found []byte
	// was is what the Store held when memory took over; nil for nothing. A
	// state that somebody else has stored since is not written over.
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

// enter goes over to memory with what is stored, and reports whether it did: not
// when it cannot be known what that is. names are where a state can be; the first
// is the one that is written.
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
		return true // somebody else was faster, and may have changed it since
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

// leave writes to the Store what is in memory, and reports whether that is in it
// from here on.
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

// useMemory answers a Store that cannot be written, if the program wants that,
// by going over to memory. It reports whether to try again.
func (g *Gate) useMemory(ctx context.Context, err error) bool {
	if g.fallback.inUse() {
		return true // since a moment ago
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

// leaveMemory tries to store what is in memory only.
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
		g.enlisted = false // in the Store
		g.mu.Unlock()
		g.config.Logger.Info("polargate: the license state was stored after all")
		g.saved(nil)
	}
}

// saveAgain tries to store what could not be stored when it was new.
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

// saved notes whether what is known is in the Store.
func (g *Gate) saved(err error) {
	g.update(func() bool {
		if err == nil && g.fallback.inUse() || (g.around.unsaved == nil) == (err == nil) {
			return false // it went to memory, or is no news
		}
		g.around.unsaved = err
		return true
	})
}

// releaseSeats gives back, at the end of an ephemeral Gate, what is in memory
// only. What cannot be given back is lost, and the log says so. Close began at that
// time.
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
		// The seat that is stored stays held by what is stored.
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

// release is what is left of the time to give seats back: for troubles of all kinds,
// and for waiting until Polar's limit on requests lets one through.
type release struct {
	patience time.Duration
	turns    turns
}

// release gives a seat back, again and again while there is time for it.
func (g *Gate) release(s *seat, left *release) error {
	for pause := 250 * time.Millisecond; ; {
		err := g.tryRelease(s, left)
		if err == nil || errors.Is(err, ErrUnknownKey) {
			return err
		}
		if wait, ok := left.turns.next(err, left.turns.left); ok {
			// Who ends the program now finds here what it leaves behind.
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

// nextLook is how soon to try again when it is not known when our turn comes.
const nextLook = 100 * time.Millisecond

// tryRelease is one try. What it waits for its turn is no loss of patience.
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
	// It was not its turn in this time: others of this computer are ahead.
	next := *e
	next.RetryAfter = max(e.RetryAfter, nextLook)
	return &next
}
