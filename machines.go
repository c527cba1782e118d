package polargate

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/polargate/polargate/internal/flight"
	"github.com/polargate/polargate/internal/seal"
)

// A Store can be shared by several machines, as a roaming profile or a home on the
// network is, and can be a copy: of a golden image, a backup, a moved disk. So the
// state is kept per machine, under a name that holds a hash of its fingerprint. A
// list beside the states says which machines have one, so that a machine without a
// state of its own can tell that there is a license of another one.

// stateNames are where states are kept in the Store.
type stateNames struct {
	// earlier is where builds before this one kept the state of whatever machine
	// wrote last. It is read, and never written.
	earlier string
	// index names the machines that have a state.
	index string
}

func (c Config) stateNames(organizationID string) stateNames {
	// Programs that share a folder must not take each other's state for a damaged
	// one of their own.
	sum := sha256.Sum256([]byte(organizationID + "\x00" + c.App))
	base := "license-" + hex.EncodeToString(sum[:6])
	return stateNames{earlier: base + ".sealed", index: base + ".index"}
}

// of is the name of a machine's state.
func (n stateNames) of(tag string) string {
	return strings.TrimSuffix(n.earlier, ".sealed") + "-" + tag + ".sealed"
}

// noMachineTag is for a machine without an id, whose fingerprint is in its state.
const noMachineTag = "local"

func machineTag(fingerprint string) string {
	sum := sha256.Sum256([]byte("polargate state of\x00" + fingerprint))
	return hex.EncodeToString(sum[:6])
}

// tags are those of this machine's states, the one to write first. There are more
// than one where the system has more than one id.
func (g *Gate) tags() []string {
	if g.config.Fingerprint == "" && g.config.machine().ID() == "" {
		return []string{noMachineTag}
	}
	var tags []string
	for _, f := range g.fingerprints(&state{Owner: noMachineTag}) {
		tags = append(tags, machineTag(f))
	}
	return tags
}

// fingerprints are those that a state of this machine can have been stored under,
// the one to go by first.
func (g *Gate) fingerprints(st *state) []string {
	if g.config.Fingerprint != "" {
		return []string{g.config.Fingerprint}
	}
	return g.config.machine().Fingerprints(g.client.organizationID, g.config.App, st.InstallationID, st.Owner == "")
}

// fingerprint is the one to go by.
func (g *Gate) fingerprint(st *state) string { return g.fingerprints(st)[0] }

// claim reports whether this machine stored a state, and makes it one that it
// stored under the fingerprint to go by. said is nil if there is no verdict that
// opens. An error means that the host lets nothing be opened.
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
			// What waits to be given back is all that tells whose it is.
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

// maxMachines bounds how many machines the list names, and maxOthers how many of
// them are looked at.
const (
	maxMachines = 64
	maxOthers   = 8
)

// machines are the tags on the list, of the machine that joined last first.
func (g *Gate) machines(ctx context.Context) ([]string, error) {
	data, err := g.store.Load(ctx, g.names.index)
	if errors.Is(err, ErrNotStored) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	tags, err := g.seal.openIndex(data)
	if err != nil {
		return nil, nil // it is made anew
	}
	return tags, nil
}

// enlist puts this machine on the list, once in the life of a Gate. A failure is
// made good at the next save.
func (g *Gate) enlist(ctx context.Context) {
	g.mu.Lock()
	done := g.enlisted
	g.mu.Unlock()
	if done {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, g.budget.storing)
	defer cancel()
	unlock, err := g.store.Lock(ctx, g.names.index)
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
	if own := g.tags()[0]; !slices.Contains(tags, own) {
		tags = append([]string{own}, tags...)
		data, err := g.seal.sealIndex(tags[:min(len(tags), maxMachines)])
		if err != nil || g.store.Save(ctx, g.names.index, data) != nil {
			return
		}
	}
	g.mu.Lock()
	g.enlisted = true
	g.mu.Unlock()
}

// others are the seats of other machines whose states are in this Store. own is
// what lies under this machine's name and is not its own; nil if there is none.
func (g *Gate) others(ctx context.Context, own *state) []seat {
	if g.fallback.inUse() {
		return g.holding().others // they are in the Store, which this Gate has left
	}
	var found []seat
	add := func(st *state) {
		s := st.Seat
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
		if st := read(g.names.of(tag)); st != nil {
			add(st)
		}
		if len(found) >= maxOthers {
			return found
		}
	}
	// What an earlier build stored counts until its machine has a state of its own.
	if st := read(g.names.earlier); st != nil && st.Seat != nil {
		if _, err := g.store.Load(ctx, g.names.of(machineTag(st.Seat.Machine))); errors.Is(err, ErrNotStored) {
			add(st)
		}
	}
	return found
}

// usedToBeHere reports whether the seat of another machine is, for all that can be
// guessed, that of this computer before its system was set up anew: the computer
// has the same name. Two computers that share a profile have different ones. A
// wrong guess costs one of them a click, so a guess will do for somebody who has
// just entered the key; nothing is ever moved unasked.
func (g *Gate) usedToBeHere(s seat) bool { return s.Label == "" || s.Label == g.config.Label }

// elsewhere looks, among the seats of other machines, for one of this license that
// is still held, under a key that may be newer than the seat's. A nil error without
// a seat means that there is none.
func (g *Gate) elsewhere(ctx context.Context, others []seat, key Key) (*seat, error) {
	for _, s := range others[:min(len(others), maxCandidates)] {
		if !s.held() {
			continue // a key without activations
		}
		_, err := g.askInTime(ctx, &s, key)
		switch {
		case err == nil:
			s.Key = key.Reveal()
			return &s, nil
		case errors.Is(err, ErrSeatReleased), errors.Is(err, ErrConditionsMismatch):
		default:
			return nil, err
		}
	}
	return nil, nil
}

// Move moves the license of another computer to this one, without entering its key: the
// other computer's activation is ended, and this computer is activated. Use it if the
// Status has the reason ErrOtherMachine, which means that the stored license was
// activated on another computer: a disk was moved, a backup restored, or a system
// reinstalled. Nothing moves unless Move or Activate is called; until then, a copy, for
// example of a disk image, leaves the original alone. If several computers share a Store,
// Move moves the license of the one that was activated last.
//
// At its next check, the other computer finds that it was deactivated, reports
// ErrSeatReleased, and doesn't take the activation back.
//
// Errors are those of Activate, and any failure before the other activation ends leaves
// both computers unchanged. If a move is interrupted later, because the program was
// killed or Polar couldn't be reached, a later Check finishes it. If this computer has a
// license of its own, there is nothing to move. If there is no license at all, the error
// is ErrNoLicense.
func (g *Gate) Move(ctx context.Context) (Status, error) {
	if err := g.enter(ctx); err != nil {
		return g.Status(), err
	}
	err := g.inTurn(ctx, &turns{left: g.config.WaitForTurn}, func() error {
		_, err := flight.Do(ctx, &g.flights, opMove, func(ctx context.Context) (struct{}, error) {
			return struct{}{}, g.withSeat(ctx, g.move)
		})
		return g.callError(opMove, err)
	})
	status := g.Status()
	if err == nil {
		err = statusError(status, nil)
	}
	return status, err
}

// move is Move with the seat locked.
func (g *Gate) move(ctx context.Context, rec record) error {
	if s := rec.state.Seat; s != nil {
		switch {
		case s.State == reactivating:
			return g.attempt(ctx, rec, newKey(s.Key), unasked) // finishes it
		case s.State != released && (rec.verdict == nil || rec.verdict.Refused != ErrSeatReleased):
			return nil
		}
	}
	if len(rec.others) == 0 {
		rec.others = g.others(ctx, nil) // they are looked up only where they count unasked
	}
	if len(rec.others) == 0 {
		if rec.state.Seat != nil {
			return nil // released; its status says so
		}
		reason := rec.trouble
		if reason == "" {
			reason = ErrNoLicense
		}
		return &Error{Op: opMove, Reason: reason}
	}
	return g.attempt(ctx, rec, newKey(rec.others[0].Key), moving)
}

// vacate releases the seat that another machine has, so that this one can take
// another. That it is about to is stored first: what was begun is finished later if
// it breaks off. If the seat could not be released, h is as it was.
func (g *Gate) vacate(ctx context.Context, rec *record, other *seat) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	before := *rec
	// The caller may go: what is begun is seen through.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*questionTime)
	defer cancel()
	defer context.AfterFunc(g.drainCtx, cancel)()
	*rec, _ = rec.next(vacating{*other}, g.now(), g.rules(*rec))
	err := g.saveOrFallBack(ctx, *rec, FromDisk)
	if err == nil {
		err = g.free(ctx, other)
	}
	if err != nil {
		// What was stored of it is taken back.
		ctx, cancel := g.lastMoment(ctx)
		defer cancel()
		*rec = before
		if saveErr := g.save(ctx, *rec, FromDisk); saveErr != nil {
			g.config.Logger.Warn("polargate: the license state was not saved", "error", saveErr)
		}
		return err
	}
	rec.state.Outbox = slices.Clone(before.state.Outbox)
	return nil
}

// restore writes again what was taken out of the Store under the running program.
func (g *Gate) restore(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, g.budget.all)
	defer cancel()
	_, _, _ = g.change(ctx, nil) // a state that is missing is saved in any case
}

const (
	// lookPause is how long a Check that is answered from memory does not look
	// at what is stored, after one that did.
	lookPause = time.Second
	// lookPatience is how long it waits for that.
	lookPatience = 50 * time.Millisecond
)

// lookAfter keeps memory and what is stored the same before a Check is answered from
// memory: what another process did counts, and what is missing is written again. If
// it takes long, it goes on behind the caller's back.
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
