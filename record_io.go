package polargate

import (
	"context"
	"crypto/rand"
	"errors"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/polargate/polargate/internal/machine"
	"github.com/polargate/polargate/internal/seal"
)

// How a Gate reads, locks and writes its record. What a record is, and how it changes, is in
// record.go.

// rules are those of this program, for a record.
func (g *Gate) rules(rec record) rules {
	return rules{fresh: g.config.FreshFor, here: g.fingerprint(&rec.state), accepts: g.accepts, leaseServer: g.config.hasLeaseServer()}
}

// load reads and opens the stored state. A state that can't be opened is set aside and
// counts as absent, unless memory knows better: a disk that fails under a running program
// neither takes its license away nor brings back one that was refused.
func (g *Gate) load(ctx context.Context) record {
	// A Store that hangs leaves time to ask Polar.
	callers := ctx
	ctx, cancel := context.WithTimeout(ctx, g.budget.reading)
	defer cancel()
	known := g.holding()
	known.unread, known.missing = nil, false
	lost := func() record {
		switch {
		case known.state.Seat != nil, known.trying():
			return known
		case errors.Is(known.unread, ErrNoPermission):
			return g.blank(ErrNoPermission)
		}
		return g.blank(ErrUnreadableState)
	}
	// closed is for a state that may be good, but can't be opened because of the host's
	// policy for cryptography.
	closed := func(err error) record {
		g.complain("polargate: the license state cannot be opened", err)
		known.unread = &StoreError{"load", err}
		rec := lost()
		rec.unread = known.unread
		return rec
	}
	var strange *state // stored under this computer's name by another computer
	for i, name := range g.own {
		data, err := g.store.Load(ctx, name)
		switch {
		case errors.Is(err, ErrNotStored) && i == 0 && known.stored && known.worthKeeping():
			known.missing = true
			return known
		case errors.Is(err, ErrNotStored):
			continue
		case err != nil && callers.Err() != nil:
			// The caller has left; that isn't the Store's fault.
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
			// The license wasn't removed, but lost, and another process started over.
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
		rec.state.Trial = known.state.Trial.further(st.Trial)
		if st.Seat != nil && st.Seat.State == reactivating && (said == nil || said.Refused == "") {
			rec.verdict, rec.trouble = nil, ErrOtherMachine
		}
		if rec.verdict != nil && known.state.Seat.same(st.Seat) && known.verdict.newer(rec.verdict) {
			rec.verdict = known.verdict // it couldn't be saved when it came
		}
		if st.Seat == nil && !st.Left {
			rec.others, rec.tried = g.others(ctx, nil)
		}
		return rec
	}
	rec := g.blank("")
	rec.others, rec.tried = g.others(ctx, strange)
	return rec
}

// keepAside saves a state that can't be opened under another name, once, so that it can be
// examined.
func (g *Gate) keepAside(ctx context.Context, name string, data []byte, why error, known record) {
	aside := name + ".corrupt"
	if known.trouble == ErrUnreadableState || !g.complain("polargate: the license state is unreadable and was kept aside as "+aside, why) {
		return // it has been set aside already
	}
	if err := g.store.Save(ctx, aside, data[:min(len(data), maxState)]); err != nil {
		g.config.Logger.Warn("polargate: the unreadable license state couldn't be set aside", "error", err)
	}
}

// complain logs a warning unless it repeats the last one: a program that looks every
// minute must not fill its log.
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

// blank is a record without a license. The installation keeps the id that it has in
// memory.
func (g *Gate) blank(trouble Reason) record {
	id := g.holding().state.InstallationID
	if id == "" {
		id = rand.Text()
	}
	return record{state: state{InstallationID: id}, trouble: trouble}
}

// save seals and stores a record, and takes it into memory. A verdict that can't be opened
// on this computer stays as it is. Memory may have a newer verdict about the activation: a
// check got it after the record was read, and couldn't store it because of the lock. Then
// that one is stored.
func (g *Gate) save(ctx context.Context, rec record, source Source) error {
	known := g.holding()
	if known.state.Seat.same(rec.state.Seat) && known.verdict.newer(rec.verdict) {
		rec.verdict, rec.trouble = known.verdict, known.trouble
	}
	rec.state.Trial = known.state.Trial.further(rec.state.Trial)
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
	if rec.worthKeeping() {
		g.list(ctx)
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
	if rec.state.Seat != nil || rec.state.Trial != nil {
		g.enlist(ctx, rec.state.Seat != nil && known.state.Seat == nil)
	}
	return nil
}

// change loads the record, applies an event to it, and saves it if that changes something,
// with the lock held. was is the record that it found.
func (g *Gate) change(ctx context.Context, e recordEvent) (was record, effects []effect, err error) {
	unlock, err := g.lockSeat(ctx)
	if err != nil {
		return was, nil, err
	}
	defer unlock()
	// Others must not wait for a Store that hangs.
	ctx, cancel := context.WithTimeout(ctx, g.budget.all)
	defer cancel()
	was = g.reload(ctx)
	if was.unread != nil {
		return was, nil, was.unread
	}
	rec, effects := was.next(e, g.now(), g.rules(was))
	if len(effects) == 0 && !was.missing {
		return was, nil, nil
	}
	if was.missing {
		g.config.Logger.Warn("polargate: the license state was deleted from the Store and is written again")
	}
	return was, effects, g.save(ctx, rec, FromDisk)
}

// lockSeat keeps all others from changing the activation: in this Gate, in this process,
// and on this computer.
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

// turnsHere are the locks of this process for folders whose file system has no locks: path
// and name to a chan of one place.
var turnsHere sync.Map

// lockHere stands in for the lock of a file system that has none. It keeps out the other
// Gates of this process that use the same folder.
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

// isLockedOut reports whether a call waits for a lock that another process holds, or gave
// up waiting a moment ago.
func (g *Gate) isLockedOut() bool {
	return g.lockWaits.Load() > 0 || time.Since(time.Unix(0, g.lockedOut.Load())) < time.Second
}

// lockPatience is how long a change waits for another one on this computer. Even one that
// asks Polar several times takes less.
const lockPatience = time.Minute

// lockError is why there was no lock: the caller has left, or another process holds the
// lock for longer than the caller, or lockPatience, allows.
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

// holding is the record in memory.
func (g *Gate) holding() record {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.record
}

// adopt takes a record into memory.
func (g *Gate) adopt(rec record, source Source) {
	g.update(func() bool {
		g.adoptions++
		g.record, g.around.source = rec, source
		return true
	})
}

// reload takes the stored record into memory. If memory changed while the Store was read,
// the record that was read may be the older one, and the Store is read again.
func (g *Gate) reload(ctx context.Context) record {
	for {
		g.mu.Lock()
		before := g.adoptions
		g.mu.Unlock()
		rec := g.load(ctx)
		current := false
		g.update(func() bool {
			if current = g.adoptions == before; current {
				g.adoptions++
				g.record, g.around.source = rec, FromDisk
			}
			return current
		})
		if current {
			return rec
		}
	}
}

// sourceNow is where the record in memory comes from.
func (g *Gate) sourceNow() Source {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.around.source
}

// tags are those of this computer's states. The first is the one to write. There are
// several if the system has several ids.
func (g *Gate) tags() []string {
	if g.config.Fingerprint == "" && g.config.machine().ID() == "" {
		return []string{machine.LocalTag}
	}
	var tags []string
	for _, f := range g.fingerprints(&state{Owner: machine.LocalTag}) {
		tags = append(tags, machine.Tag(f))
	}
	return tags
}

// fingerprints are those under which a state of this computer can have been stored. The
// first is the one in use.
func (g *Gate) fingerprints(st *state) []string {
	if g.config.Fingerprint != "" {
		return []string{g.config.Fingerprint}
	}
	return g.config.machine().Fingerprints(g.client.organizationID, g.config.App, st.InstallationID, st.Owner == "")
}

// fingerprint is the one in use.
func (g *Gate) fingerprint(st *state) string { return g.fingerprints(st)[0] }

// claim reports whether this computer stored a state, and if so, changes it as if it had
// been stored under the fingerprint in use. said is its verdict; nil if there is none, or
// if it doesn't open. An error means that the host doesn't allow opening anything.
func (g *Gate) claim(st *state) (said *verdict, ours bool, err error) {
	var found string
	for _, f := range g.fingerprints(st) {
		var v *verdict
		if st.Seat != nil {
			v, err = g.seal.openVerdict(st.Verdict, st.Seat, f)
			if err != nil && !errors.Is(err, seal.ErrBroken) {
				return nil, false, err
			}
		}
		switch {
		case st.Owner != "":
			ours = st.Owner == f
		case st.Seat != nil:
			ours = st.Seat.Machine == f || v != nil
		default:
			// Only the activations in the outbox tell whose state it is.
			ours = len(st.Outbox) == 0 || slices.ContainsFunc(st.Outbox, func(s seat) bool { return s.Machine == f })
		}
		if ours {
			found, said = f, v
			break
		}
	}
	if !ours {
		return nil, false, nil
	}
	if said != nil && said.Lease != "" {
		// Only the signature of a lease makes it count, not the seal around it.
		if said.proof, err = g.readLease(said.Lease, g.fingerprints(st)); err != nil {
			said = nil
		}
	}
	if t := st.Trial; t != nil && t.Lease != "" {
		tried := *t
		if tried.proof, err = g.readLease(t.Lease, g.fingerprints(st)); err != nil {
			tried.proof = nil
		}
		st.Trial = &tried
	}
	if said != nil && said.Grant != nil && said.Grant.Lease != "" {
		last := *said.Grant
		if last.proof, err = g.readLease(last.Lease, g.fingerprints(st)); err != nil {
			last.Lease = ""
		}
		said.Grant = &last
	}
	here := g.fingerprint(st)
	if st.Seat != nil && st.Seat.Machine == found {
		st.Seat.Machine = here
	}
	for i := range st.Outbox {
		if st.Outbox[i].Machine == found {
			st.Outbox[i].Machine = here
		}
	}
	return said, true, nil
}

// maxMachines bounds how many computers the list names, and maxOthers how many of them are
// read.
const (
	maxMachines = 64
	maxOthers   = 8
)

// machines are the tags on the list, the latest first.
func (g *Gate) machines(ctx context.Context) ([]string, error) {
	data, err := g.store.Load(ctx, g.names.Index)
	if errors.Is(err, ErrNotStored) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	tags, err := g.seal.openIndex(data)
	if err != nil {
		return nil, nil // the list is written anew
	}
	return tags, nil
}

// enlist puts this computer on the list, once in the life of a Gate, and first if it was just
// activated. If that fails, the next save tries again.
func (g *Gate) enlist(ctx context.Context, first bool) {
	g.mu.Lock()
	done := g.enlisted && !first
	g.mu.Unlock()
	if done {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, g.budget.storing)
	defer cancel()
	unlock, err := g.store.Lock(ctx, g.names.Index)
	switch {
	case err == nil:
		defer unlock()
	case !errors.Is(err, errors.ErrUnsupported):
		return
	}
	tags, err := g.machines(ctx)
	if err != nil {
		return
	}
	own := g.tags()[0]
	if at := slices.Index(tags, own); at < 0 || first && at > 0 {
		tags = slices.DeleteFunc(tags, func(tag string) bool { return tag == own })
		tags = append([]string{own}, tags...)
		data, err := g.seal.sealIndex(tags[:min(len(tags), maxMachines)])
		if err != nil || g.store.Save(ctx, g.names.Index, data) != nil {
			return
		}
	}
	g.mu.Lock()
	g.enlisted = true
	g.mu.Unlock()
}

// others are the activations of other computers whose states are in this Store, and the
// trial of theirs of which the most has passed: that of one that has or had a license is
// over. own is the state that another computer stored under this computer's name; nil if
// there is none.
func (g *Gate) others(ctx context.Context, own *state) (found []seat, tried *trial) {
	if g.fallback.inUse() {
		rec := g.holding()
		return rec.others, rec.tried // they are in the Store, which isn't used now
	}
	add := func(st *state) {
		s := st.Seat
		tried = tried.further(st.Trial)
		if s != nil || st.Left {
			tried = tried.further(&trial{Over: true})
		}
		if s == nil || s.State == reactivating || s.State == released || len(found) >= maxOthers ||
			slices.ContainsFunc(found, func(o seat) bool { return o.Key == s.Key && o.ActivationID == s.ActivationID }) {
			return
		}
		found = append(found, *s)
	}
	read := func(name string) *state {
		data, err := g.store.Load(ctx, name)
		if err != nil {
			return nil
		}
		st, err := g.seal.openState(data)
		if err != nil {
			return nil
		}
		if _, ours, err := g.claim(st); ours || err != nil {
			return nil
		}
		return st
	}
	if own != nil {
		add(own)
	}
	tags, _ := g.machines(ctx)
	mine := g.tags()
	for _, tag := range tags[:min(len(tags), maxMachines)] {
		if slices.Contains(mine, tag) {
			continue
		}
		if st := read(g.names.Of(tag)); st != nil {
			add(st)
		}
		if len(found) >= maxOthers {
			return found, tried
		}
	}
	// The state of an earlier build counts until its computer has a state of its own.
	if st := read(g.names.Earlier); st != nil && st.Seat != nil {
		if _, err := g.store.Load(ctx, g.names.Of(machine.Tag(st.Seat.Machine))); errors.Is(err, ErrNotStored) {
			add(st)
		}
	}
	return found, tried
}

// restore writes the state again after it was deleted under the running program.
func (g *Gate) restore(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, g.budget.all)
	defer cancel()
	_, _, _ = g.change(ctx, nil) // a missing state is saved without an event, too
}

const (
	// lookPause is the shortest time between two looks at the Store by Checks that are
	// answered from memory.
	lookPause = time.Second
	// lookPatience is how long a Check waits for such a look.
	lookPatience = 50 * time.Millisecond
)

// lookAfter compares memory with the Store before a Check is answered from memory: changes
// by other processes count, and a missing state is written again. If the Store is slow, the
// look is finished in the background.
func (g *Gate) lookAfter(ctx context.Context) {
	now := g.now()
	g.mu.Lock()
	due := g.checked && g.record.stored && g.record.worthKeeping() && !g.closed && now.Sub(g.looked).Abs() >= lookPause
	if due {
		g.looked = now
		g.background.Add(1)
	}
	g.mu.Unlock()
	if !due {
		return
	}
	done := make(chan struct{})
	go func() {
		defer g.background.Done()
		defer close(done)
		if rec := g.reload(g.drainCtx); rec.missing {
			g.restore(g.drainCtx)
		}
	}()
	wait := time.NewTimer(lookPatience)
	defer wait.Stop()
	select {
	case <-done:
	case <-wait.C:
	case <-ctx.Done():
	}
}
