// Package relay has one of several processes do a long piece of work, and another one go on
// with it when that process dies. It keeps whose turn it is, the steps that were done, and what
// came of the work, in values that all processes share.
//
// It promises that no two processes take a turn at the same time, as long as whoever has it
// gives a sign of life. It does not end the work of one whose turn was lost, which has to do no
// harm.
package relay

import (
	"context"
	"crypto/rand"
	"fmt"
	"sync"
	"time"
)

// Value is a value that processes share. Version is another with each change, and "" if there
// is none. Data is empty if it cannot be read.
type Value struct {
	Version string
	Data    []byte
}

// Values are values by name. Swap replaces one for a time if its version is the one given, and
// gives the one that is there afterwards.
type Values interface {
	Load(ctx context.Context, name string) (Value, error)
	Swap(ctx context.Context, name, version string, data []byte, ttl time.Duration) (now Value, swapped bool, err error)
}

// Relay is one kind of work. The fields must not be changed once it is in use.
type Relay struct {
	Values Values
	// Name is that of the work, and Holder that of this process.
	Name, Holder string
	// Lasts is how long a turn lasts without a sign of life, and Kept how long steps are
	// of use after the last one.
	Lasts, Kept time.Duration
}

// Turn is the turn to do the work. Its methods are for one goroutine at a time, but for those
// of different tracks.
type Turn struct {
	relay *Relay
	work  string // the name of the piece of work
	began []byte

	end  context.CancelFunc
	done sync.WaitGroup

	mu      sync.Mutex
	version string // of the piece of work
	broken  map[int]bool
}

// Take takes the turn. It is nil if another process has it. An error is that of the values.
// began describes a piece of work that begins now; see Turn.Began.
func (r *Relay) Take(ctx context.Context, began []byte) (*Turn, error) {
	version, taken, err := r.put(ctx, r.Name+" turn", "", []byte(r.Holder), r.Lasts, false)
	if err != nil || !taken {
		return nil, err
	}
	t := &Turn{relay: r, broken: map[int]bool{}}
	if err := t.begin(ctx, began); err != nil {
		_, _, _ = r.Values.Swap(ctx, r.Name+" turn", version, nil, r.Lasts)
		return nil, err
	}
	ctx, t.end = context.WithCancel(context.WithoutCancel(ctx))
	t.done.Go(func() { t.keep(ctx, version) })
	return t, nil
}

// put puts a value in place of one of that version, of one that cannot be read, or of any.
func (r *Relay) put(ctx context.Context, name, version string, data []byte, ttl time.Duration, any bool) (now string, done bool, err error) {
	for range 5 {
		value, swapped, err := r.Values.Swap(ctx, name, version, data, ttl)
		if err != nil || swapped || len(value.Data) > 0 && !any {
			return value.Version, swapped, err
		}
		version = value.Version
	}
	return "", false, nil
}

const nameLength = 26 // of a text that rand.Text makes

// begin finds the piece of work that is to be done, or begins one.
func (t *Turn) begin(ctx context.Context, began []byte) error {
	r := t.relay
	value, err := r.Values.Load(ctx, r.Name+" work")
	if err != nil {
		return err
	}
	if len(value.Data) >= nameLength {
		t.work, t.began, t.version = string(value.Data[:nameLength]), value.Data[nameLength:], value.Version
		return nil
	}
	t.work, t.began = rand.Text(), began
	t.version, _, err = r.put(ctx, r.Name+" work", value.Version, append([]byte(t.work), began...), r.Kept, true)
	return err
}

// Work names the piece of work.
func (t *Turn) Work() string { return t.work }

// Began describes the piece of work as whoever began it did.
func (t *Turn) Began() []byte { return t.began }

// keep gives signs of life until the turn ends.
func (t *Turn) keep(ctx context.Context, version string) {
	r := t.relay
	tick := time.NewTicker(r.Lasts / 4)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			value, swapped, err := r.Values.Swap(ctx, r.Name+" turn", version, []byte(r.Holder), r.Lasts)
			switch {
			case err != nil:
			case swapped:
				version = value.Version
			case value.Version == "": // it ended, and nobody took it
				version = ""
			default:
				return // another process has it
			}
		case <-ctx.Done():
			_, _, _ = r.Values.Swap(context.WithoutCancel(ctx), r.Name+" turn", version, nil, r.Lasts)
			return
		}
	}
}

// step is what a step is called: the n-th on its track.
func (t *Turn) step(track, n int) string {
	return fmt.Sprintf("%s %s %d %d", t.relay.Name, t.work, track, n)
}

// Step is what was noted of a step by whoever did it; nil if it was not done.
func (t *Turn) Step(ctx context.Context, track, n int) []byte {
	value, err := t.relay.Values.Load(ctx, t.step(track, n))
	if err != nil {
		return nil
	}
	return value.Data
}

// Note notes that a step was done. After one that could not be noted, none of that track is.
func (t *Turn) Note(ctx context.Context, track, n int, data []byte) {
	r := t.relay
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.broken[track] {
		return
	}
	_, noted, err := r.put(ctx, t.step(track, n), "", data, r.Kept, true)
	if err != nil || !noted {
		t.broken[track] = true
		return
	}
	version, noted, err := r.put(ctx, r.Name+" work", t.version, append([]byte(t.work), t.began...), r.Kept, false)
	if err == nil && noted {
		t.version = version
	}
}

// Abandon has the work begun anew at the next turn.
func (t *Turn) Abandon(ctx context.Context) {
	t.mu.Lock()
	defer t.mu.Unlock()
	_, _, _ = t.relay.Values.Swap(ctx, t.relay.Name+" work", t.version, nil, t.relay.Kept)
}

// Finish notes what came of the work, for ttl.
func (t *Turn) Finish(ctx context.Context, result []byte, ttl time.Duration) {
	r := t.relay
	_, _, _ = r.put(ctx, r.Name+" result", "", result, ttl, true)
	t.Abandon(ctx)
}

// End ends the turn. What was done is kept for whoever takes the next one.
func (t *Turn) End() {
	t.end()
	t.done.Wait()
}

// Result is what came of the work when it was last finished; nil if that is not known.
func (r *Relay) Result(ctx context.Context) ([]byte, error) {
	value, err := r.Values.Load(ctx, r.Name+" result")
	return value.Data, err
}
