package polargate

import (
	"context"
	"iter"
	"reflect"
	"runtime/debug"
	"slices"
	"time"
)

// How what a Gate knows becomes what it says: a record becomes a snapshot, which Has and Status
// read until the next one is published, and which Subscribe and OnChange are told of.

// snapshot is a Status, and what Has reads. It never changes.
type snapshot struct {
	status   Status
	features map[string]struct{} // nil unless unlocked
	validity validity            // what the status says
}

// same reports whether two snapshots say the same. Errors of a Store can be of any type,
// so they are never considered the same.
func (s *snapshot) same(t *snapshot) bool {
	return s.validity == t.validity && s.status.store == nil && t.status.store == nil && reflect.DeepEqual(s.status, t.status)
}

// circumstances are what a Status depends on besides the record.
type circumstances struct {
	source   Source
	unsaved  error  // why the record isn't in the Store; nil if it is
	inMemory bool   // the record is kept in memory because the Store can't be written
	underWay string // the attempt that this Gate is making to activate; "" for none
	untried  error  // why a trial couldn't begin; nil if nothing is in its way
	// reminded is when this Gate last reminded of the license's end; zero if never.
	reminded time.Time
}

// statusOf is the snapshot of a record at a moment. It does no I/O, and depends on nothing
// but its arguments.
func statusOf(rec *record, now time.Time, c *Config, around circumstances) *snapshot {
	s := rec.validity(now, c, around.underWay)
	next := &snapshot{validity: s, status: Status{
		State:      s.state,
		Reason:     s.reason,
		FreshUntil: s.freshUntil,
		GraceUntil: s.graceUntil,
		TrialUntil: s.trialUntil,

		CoveredUntil: s.covered,
		Source:       around.source,
		Unsaved:      around.unsaved != nil,
		InDoubt:      rec.inDoubt(now, around.underWay),

		ReleasePending: rec.state.waiting(),
		portal:         c.Links.Portal != "",
		store:          rec.unread,
	}}
	if rec.unread == nil {
		next.status.store = around.unsaved
	}
	if rec.state.Seat != nil {
		next.status.unconfirmed = rec.unconfirmed()
		next.status.Key, next.status.ActivationID = newKey(rec.state.Seat.Key), rec.state.Seat.ActivationID
	} else if rec.elsewhere() {
		next.status.Key = newKey(rec.others[0].Key)
	}
	switch {
	case s.reason == ErrNoLicense && around.untried != nil:
		next.status.explainTrial(around.untried)
	case s.reason == ErrOtherMachine && rec.state.Seat != nil:
		next.status.situation = movingHere
	case rec.elsewhere() && rec.others[0].byFile():
		next.status.situation = fileElsewhere
	case s.reason == ErrSeatReleased && rec.state.Seat.State == seatless:
		next.status.situation = seatNeeded
	case s.reason == ErrActivationLimit && rec.state.Seat.floats():
		next.status.situation = limitPool
	case rec.state.Seat.byFile() && (s.state == Grace || s.reason == ErrGraceEnded):
		next.status.situation = byFile
	}
	if rec.verdict != nil && c.GracePeriod == UnlimitedGrace && s.graceUntil.Equal(rec.verdict.CheckedAt.Add(UnlimitedGrace)) {
		next.status.GraceUntil = time.Time{}
	}
	if rec.verdict != nil {
		next.status.CheckedAt = rec.verdict.CheckedAt
		next.status.ExpiresAt = rec.verdict.ExpiresAt
		next.status.BenefitID = rec.verdict.BenefitID
		next.status.LicenseKeyID, next.status.CustomerID = rec.verdict.LicenseKeyID, rec.verdict.CustomerID
		next.status.subscribed = rec.verdict.Subscribed
		next.status.Seats.Limit = rec.verdict.SeatLimit
		if g := rec.verdict.lastGrant(); s.reason == ErrNotCovered && g != nil && g.proof != nil && !g.proof.CoversVersion(c.Version) {
			next.status.covers = g.proof.Covers
		}
		if !rec.verdict.Provisional {
			next.status.Usage, next.status.LimitUsage = rec.verdict.Usage, Unlimited
		}
		if limit := rec.verdict.LimitUsage; limit != nil {
			next.status.LimitUsage = *limit
		}
	}
	if next.status.OK() {
		next.status.Features = c.trialFeatures(rec.state.Trial)
		switch {
		case s.state == Perpetual:
			next.status.Features = c.fallbackFeatures(rec.verdict)
		case rec.verdict != nil && (s.state != InTrial || rec.verdict.trial()):
			next.status.Features = featuresOf(rec.verdict, c)
		}
		next.features = make(map[string]struct{}, len(next.status.Features))
		for _, feature := range next.status.Features {
			next.features[feature] = struct{}{}
		}
	}
	var failed Reason
	if rec.verdict != nil {
		failed = rec.verdict.LastFailure
		if _, known := english[rec.verdict.Cause]; known { // a later version may have stored another
			next.status.cause = rec.verdict.Cause
		}
	}
	if end := s.end(rec.verdict); c.remindsOf(end, now) && !around.reminded.IsZero() {
		next.status.Reminder, next.status.reminded = true, around.reminded
	}
	next.status.Message = next.status.message(c.Language, failed, around.inMemory)
	next.status.Action = next.status.action(c.Links, failed)
	return next
}

// update changes what is in memory and publishes the result, unless change reports that
// nothing changed. change runs with the lock held. What has to be stored is started after
// the lock was released.
func (g *Gate) update(change func() bool) {
	g.mu.Lock()
	var store write
	if change() {
		store = g.publish(g.now())
	}
	g.mu.Unlock()
	store.start()
}

// publish replaces the last snapshot if it says something else now, and sets the timer for
// the next one. g.mu is held; start the write without it.
func (g *Gate) publish(now time.Time) (store write) {
	if g.closed {
		return nil
	}
	store = g.noteTime(now)
	g.show(now)
	return store
}

// show is publish after the time was noted.
func (g *Gate) show(now time.Time) {
	g.around.inMemory = g.fallback.inUse()
	next, last := statusOf(&g.record, now, &g.config, g.around), g.current.Load()
	if last == nil || !last.same(next) {
		g.current.Store(next)
		if g.news != nil {
			close(g.news)
			g.news = nil
		}
	}
	if last != nil && changed(last.status, next.status) {
		g.notify(last.status, next.status)
	}
	g.arm(next.validity, now)
}

// look publishes if time alone has changed something. It must be cheap: it runs at each
// Check, and each minute on every computer that runs the program. g.mu is held; start the
// write without it.
func (g *Gate) look(now time.Time) (store write) {
	if g.closed {
		return nil
	}
	before := g.record.verdict
	store = g.noteTime(now)
	last, s := g.current.Load(), g.evaluate(now)
	if s == last.validity && g.record.verdict == before && g.record.inDoubt(now, g.around.underWay) == last.status.InDoubt {
		g.arm(s, now)
	} else {
		g.show(now)
	}
	return store
}

// maxNap bounds the wait for the next change. Timers stop while a laptop sleeps, so a
// deadline that passes meanwhile is noticed this long after it wakes up.
const maxNap = time.Minute

// arm sets the timer for the next change by time alone. g.mu is held.
func (g *Gate) arm(s validity, now time.Time) {
	if g.timer != nil {
		g.timer.Stop()
		g.timer = nil
	}
	if !s.changes.IsZero() {
		g.timer = time.AfterFunc(min(max(s.changes.Sub(now), time.Millisecond), maxNap), g.tick)
	}
}

// tick looks at the clock.
func (g *Gate) tick() {
	g.mu.Lock()
	store := g.look(g.now())
	g.mu.Unlock()
	store.start()
}

// noteTime has the trial and the verdict follow the clock and raises the latest time seen, in
// memory. If that has to be stored, it returns the write; start it without the lock. g.mu is
// held.
func (g *Gate) noteTime(now time.Time) write {
	return g.noteTrial(now).and(g.noteVerdict(now))
}

// noteVerdict is noteTime for the verdict. g.mu is held.
func (g *Gate) noteVerdict(now time.Time) write {
	v := g.record.verdict
	if v == nil || v.Refused != "" {
		return nil
	}
	if moved := v.follow(now); moved != v {
		g.record.verdict = moved
	} else if now.Sub(v.HighWater) < clockSlack {
		return nil
	}
	g.record.noteTime(now)
	return g.changeLater(clockFollowed{now})
}

// noteTrial is noteTime for the trial. g.mu is held.
func (g *Gate) noteTrial(now time.Time) write {
	if !g.record.trying() || g.config.Trial.Days == 0 {
		return nil
	}
	before := g.record.state.Trial
	after := before.seen(now)
	if !before.noted(after, g.config.Trial.Days) {
		return nil
	}
	g.record.state.Trial = after
	g.trialMoves++
	g.background.Add(1) // see changeLater
	return func() {
		defer g.background.Done()
		g.storeTrial(g.drainCtx)
	}
}

// storeTrial stores how much of the trial has passed, if that is due, and reports whether it was.
// A check waits for it: in the background alone, it would be too late for a program that ends at
// once, whose trial would then begin anew whenever the clock is set back.
func (g *Gate) storeTrial(ctx context.Context) (due bool) {
	g.mu.Lock()
	moves := g.trialMoves
	due = moves != g.trialStored
	g.mu.Unlock()
	if !due {
		return false
	}
	_, _, _ = g.change(ctx, trialSeen{g.now()})
	g.mu.Lock()
	g.trialStored = moves
	g.mu.Unlock()
	return true
}

// changeLater is a change of the stored record, to be started without the lock. g.mu is held.
func (g *Gate) changeLater(e recordEvent) write {
	g.background.Add(1) // with the lock held, since Close doesn't wait for what is added after it began
	return func() {
		defer g.background.Done()
		_, _, _ = g.change(g.drainCtx, e)
	}
}

// write is work on the Store that was decided on with the lock held; nil for none.
type write func()

// and is both.
func (w write) and(v write) write {
	if w == nil || v == nil {
		if w == nil {
			return v
		}
		return w
	}
	return func() {
		w()
		v()
	}
}

// start does the work in the background.
func (w write) start() {
	if w != nil {
		go w()
	}
}

// Subscribe returns the Status as it changes, for a loop in a goroutine of its own: first the
// current one, then each that differs in any field. It ends when the Gate is closed, or when the
// loop is left.
//
//	go func() {
//		for status := range gate.Subscribe() {
//			// show it
//		}
//	}()
//
// A loop that takes its time holds up nothing: it misses what came in between, and gets the
// latest. What it runs is no part of the user interface's own thread: hand the Status over as
// your toolkit wants it.
func (g *Gate) Subscribe() iter.Seq[Status] {
	return func(yield func(Status) bool) {
		var seen *snapshot
		for {
			g.mu.Lock()
			latest, closed := g.current.Load(), g.closed
			if g.news == nil {
				g.news = make(chan struct{})
			}
			news := g.news
			g.mu.Unlock()
			switch {
			case closed:
				return
			case latest != seen:
				seen = latest
				status := latest.status
				status.Features = slices.Clone(status.Features)
				if !yield(status) {
					return
				}
				continue
			}
			select {
			case <-news:
			case <-g.ctx.Done():
				return
			}
		}
	}
}

// change is what OnChange is told.
type change struct{ before, after Status }

// changed reports whether OnChange is called for the change from a to b.
func changed(a, b Status) bool {
	return a.State != b.State || a.Reason != b.Reason || a.Unsaved != b.Unsaved || a.InDoubt != b.InDoubt || !slices.Equal(a.Features, b.Features) ||
		b.Reminder && !a.reminded.Equal(b.reminded)
}

// notify has OnChange called from its own goroutine, so that OnChange can call the Gate.
// g.mu is held.
func (g *Gate) notify(before, after Status) {
	if g.config.OnChange == nil {
		return
	}
	before.Features, after.Features = slices.Clone(before.Features), slices.Clone(after.Features)
	g.changes = append(g.changes, change{before, after})
	if g.notifying {
		return
	}
	g.notifying = true
	go func() {
		for {
			g.mu.Lock()
			if len(g.changes) == 0 || g.closed {
				g.notifying = false
				g.mu.Unlock()
				return
			}
			next := g.changes[0]
			g.changes = g.changes[1:]
			g.mu.Unlock()
			g.invokeOnChange(next)
		}
	}()
}

// invokeOnChange calls OnChange, and keeps a panic in it from taking the program down.
func (g *Gate) invokeOnChange(c change) {
	defer func() {
		if p := recover(); p != nil {
			g.config.Logger.Error("polargate: OnChange panicked", "panic", p, "stack", string(debug.Stack()))
		}
	}()
	g.config.OnChange(c.before, c.after)
}
