package polargate

import (
	"context"
	"crypto/rand"
	"errors"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/polargate/polargate/internal/seal"
)

// record is the stored state, opened.
type record struct {
	state   state
	verdict *verdict // nil: there is none, or it does not open here
	trouble Reason   // why something that should be there is not
	// loaded is the verdict that was there when this was read.
	loaded *verdict
	// others are the seats of other machines, where this one has none.
	others []seat
	// stored: it was read or saved under this machine's name.
	stored bool
	// missing: it was, and is not there any more. Only Deactivate removes a
	// license, and stores that it did; a state that is missing was lost, and is
	// written again.
	missing bool
	// unread is set when the Store failed to load. What it holds is then not
	// known, and not to be written over.
	unread error
}

// noteTime notes a time that was seen, and reports whether it is the latest.
func (rec *record) noteTime(now time.Time) bool {
	if rec.verdict == nil || !now.After(rec.verdict.HighWater) {
		return false
	}
	v := *rec.verdict
	v.HighWater = now
	rec.verdict = &v
	return true
}

// load reads and opens the stored state. What cannot be read is kept aside and
// counts as absent, unless memory knows better: a disk that fails under a
// running program does not take its license, nor give back one that was refused.
func (g *Gate) load(ctx context.Context) record {
	// A Store that hangs leaves time to ask Polar.
	callers := ctx
	ctx, cancel := context.WithTimeout(ctx, g.config.CheckTimeout/4)
	defer cancel()
	known := g.holding()
	known.unread, known.loaded, known.missing = nil, known.verdict, false
	lost := func() record {
		switch {
		case known.state.Seat != nil:
			return known
		case errors.Is(known.unread, ErrNoPermission):
			return g.blank(ErrNoPermission)
		}
		return g.blank(ErrUnreadableState)
	}
	// closed is for a state that may be good, where the host's policy for
	// cryptography keeps it from being opened.
	closed := func(err error) record {
		g.complain("polargate: the license state cannot be opened", err)
		known.unread = &StoreError{"load", err}
		rec := lost()
		rec.unread = known.unread
		return rec
	}
	var strange *state // is under this machine's name, and not its own
	for i, name := range g.own {
		data, err := g.store.Load(ctx, name)
		switch {
		case errors.Is(err, ErrNotStored) && i == 0 && known.stored && known.worthKeeping():
			known.missing = true
			return known
		case errors.Is(err, ErrNotStored):
			continue
		case err != nil && callers.Err() != nil:
			// Nobody waits any more; it says nothing of the Store.
			known.unread = &StoreError{"load", err}
			return known
		case err != nil:
			g.complain("polargate: the license state cannot be read", err)
			known.unread = &StoreError{"load", err}
			rec := lost()
			rec.unread = known.unread
			return rec
		}
		st, err := g.seal.openState(data)
		if err != nil && !errors.Is(err, seal.ErrBroken) {
			return closed(err)
		}
		if err != nil {
			g.keepAside(ctx, name, data, err, known)
			return lost()
		}
		g.complain("", nil)
		said, ours, err := g.claim(st)
		if err != nil {
			return closed(err)
		}
		if !ours {
			if i == 0 {
				strange = st
			}
			continue
		}
		if s := known.state.Seat; i == 0 && st.Seat == nil && !st.Left && known.stored && s != nil && s.State != reactivating {
			// Nobody removed it: it was lost, and another process has begun anew.
			known.missing = true
			known.state.Outbox = slices.Clone(known.state.Outbox)
			for _, o := range st.Outbox {
				if !slices.ContainsFunc(known.state.Outbox, func(k seat) bool { return k.ActivationID == o.ActivationID }) {
					known.state.Outbox = append(known.state.Outbox, o)
				}
			}
			if st.Intent != nil {
				known.state.Intent = st.Intent
			}
			return known
		}
		rec := record{state: *st, verdict: said, stored: i == 0}
		if st.Seat != nil && st.Seat.State == reactivating && (said == nil || said.Refused == "") {
			rec.verdict, rec.trouble = nil, ErrOtherMachine
		}
		if rec.verdict != nil && known.state.Seat.same(st.Seat) && known.verdict.newer(rec.verdict) {
			rec.verdict = known.verdict // could not be saved when it came
		}
		rec.loaded = rec.verdict
		if st.Seat == nil && !st.Left {
			rec.others = g.others(ctx, nil)
		}
		return rec
	}
	rec := g.blank("")
	rec.others = g.others(ctx, strange)
	return rec
}

// worthKeeping reports whether something would be lost with the state.
func (rec *record) worthKeeping() bool {
	return rec.state.Seat != nil || len(rec.state.Outbox) > 0 || rec.state.Intent != nil
}

// keepAside saves what cannot be opened, once, for whoever can make something of it.
func (g *Gate) keepAside(ctx context.Context, name string, data []byte, why error, known record) {
	aside := name + ".corrupt"
	if known.trouble == ErrUnreadableState || !g.complain("polargate: the license state is unreadable and was kept aside as "+aside, why) {
		return // was seen to before
	}
	if err := g.store.Save(ctx, aside, data[:min(len(data), maxState)]); err != nil {
		g.config.Logger.Warn("polargate: the unreadable license state was not kept aside", "error", err)
	}
}

// complain logs a warning that is another than the last one: a program that looks
// every minute must not fill a log with the same.
func (g *Gate) complain(text string, err error) (said bool) {
	line := text
	if err != nil {
		line += err.Error()
	}
	g.mu.Lock()
	known := g.complaint == line
	g.complaint = line
	g.mu.Unlock()
	if text != "" && !known {
		g.config.Logger.Warn(text, "error", err)
	}
	return !known
}

// blank is a state without a license. If it was made before without being
// saved, the installation keeps the id that it was given then.
func (g *Gate) blank(trouble Reason) record {
	id := g.holding().state.InstallationID
	if id == "" {
		id = rand.Text()
	}
	return record{state: state{InstallationID: id}, trouble: trouble}
}

// save seals and stores a state, and adopts it. A sealed verdict that does not
// open here stays as it is. An answer to a check that came since the state was
// read, and is in memory because the seat was locked, is stored with it.
func (g *Gate) save(ctx context.Context, rec record, source Source) error {
	known := g.holding()
	if known.verdict != nil && known.verdict != rec.loaded && known.state.Seat.same(rec.state.Seat) {
		if rec.verdict == rec.loaded || rec.verdict != nil && known.verdict.newer(rec.verdict) {
			rec.verdict, rec.trouble = known.verdict, known.trouble
		}
	}
	rec.state.Owner = g.fingerprint(&rec.state)
	switch {
	case rec.state.Seat == nil:
		rec.state.Verdict = nil
	case rec.verdict != nil:
		sealed, err := g.seal.sealVerdict(rec.verdict, rec.state.Seat, g.fingerprint(&rec.state))
		if err != nil {
			return &StoreError{"save", err}
		}
		rec.state.Verdict = sealed
	}
	data, err := g.seal.sealState(&rec.state)
	if err != nil {
		return &StoreError{"save", err}
	}
	err = g.store.Save(ctx, g.name, data)
	if !errors.Is(ctx.Err(), context.Canceled) {
		g.saved(err)
	}
	if err != nil {
		return &StoreError{"save", err}
	}
	rec.stored, rec.missing = true, false
	g.adopt(rec, source)
	if rec.state.Seat != nil {
		g.enlist(ctx)
	}
	return nil
}

// change loads the state, lets f change it, and saves it if f says so, while
// nobody else on this machine can.
func (g *Gate) change(ctx context.Context, f func(*record) bool) error {
	unlock, err := g.lockSeat(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	// The others do not wait for a Store that hangs.
	ctx, cancel := context.WithTimeout(ctx, g.config.CheckTimeout)
	defer cancel()
	rec := g.reload(ctx)
	if rec.unread != nil {
		return rec.unread
	}
	if !f(&rec) && !rec.missing {
		return nil
	}
	if rec.missing {
		g.config.Logger.Warn("polargate: the license state was taken out of the Store and is written again")
	}
	return g.save(ctx, rec, FromDisk)
}

// lockSeat keeps out all others that would change the seat: in this Gate, in
// this process, and on this machine.
func (g *Gate) lockSeat(ctx context.Context) (unlock func(), err error) {
	patient, cancel := context.WithTimeout(ctx, lockPatience)
	defer cancel()
	select {
	case g.seatTurn <- struct{}{}:
	case <-patient.Done():
		return nil, lockError(ctx, errBusyHere)
	}
	g.lockWaits.Add(1)
	defer g.lockWaits.Add(-1)
	release, err := g.store.Lock(patient, g.name)
	if errors.Is(err, errors.ErrUnsupported) {
		release, err = g.lockHere(patient)
	}
	if err != nil {
		if patient.Err() != nil {
			g.lockedOut.Store(time.Now().UnixNano())
		}
		<-g.seatTurn
		return nil, lockError(ctx, err)
	}
	return func() { release(); <-g.seatTurn }, nil
}

// turnsHere are the locks of this process in folders whose file system has none: path
// and name to a chan of one place.
var turnsHere sync.Map

// lockHere keeps out the other Gates of this process that have the same folder, where
// the file system has no locks to keep out everybody.
func (g *Gate) lockHere(ctx context.Context) (unlock func(), err error) {
	store, ok := g.config.Store.(interface{ folder() folder })
	if !ok {
		return func() {}, nil
	}
	path := store.folder().path(g.name)
	if whole, err := filepath.Abs(path); err == nil {
		path = whole
	}
	known, _ := turnsHere.LoadOrStore(path, make(chan struct{}, 1))
	turn := known.(chan struct{})
	select {
	case turn <- struct{}{}:
		return func() { <-turn }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// isLockedOut reports whether a call waits for somebody else's lock, or did a moment
// ago: one that its caller has just given up.
func (g *Gate) isLockedOut() bool {
	return g.lockWaits.Load() > 0 || time.Since(time.Unix(0, g.lockedOut.Load())) < time.Second
}

// lockPatience is how long a change waits for another one that is under way on
// this machine: one that asks Polar several times takes less.
const lockPatience = time.Minute

// lockError is why there was no lock: the caller, if they have left, or somebody else,
// who was busy for longer than the caller waits, or than patience lasts.
func lockError(ctx context.Context, err error) error {
	switch {
	case errors.Is(ctx.Err(), context.Canceled):
		return ctx.Err()
	case ctx.Err() != nil && errors.Is(err, errBusyHere):
		return &Error{Op: opLock, Reason: ErrBusy, Err: ctx.Err(), situation: busyHere}
	case ctx.Err() != nil:
		return &Error{Op: opLock, Reason: ErrBusy, Err: ctx.Err()}
	}
	return &StoreError{opLock, err}
}

func (g *Gate) holding() record {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.record
}

// adopt makes a state the one in memory.
func (g *Gate) adopt(rec record, source Source) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.adoptions++
	g.record, g.source = rec, source
	g.publish(g.now())
}

// reload makes what is stored the state in memory. If another state was adopted
// while it was being read, that one may be newer, and it is read again.
func (g *Gate) reload(ctx context.Context) record {
	for {
		g.mu.Lock()
		before := g.adoptions
		g.mu.Unlock()
		rec := g.load(ctx)
		g.mu.Lock()
		if g.adoptions == before {
			g.adoptions++
			g.record, g.source = rec, FromDisk
			g.publish(g.now())
			g.mu.Unlock()
			return rec
		}
		g.mu.Unlock()
	}
}

func (g *Gate) sourceNow() Source {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.source
}
