package polargate

import (
	"context"
	"errors"
	"math/rand/v2"
	"runtime/debug"
	"slices"
	"time"

	"github.com/polargate/polargate/internal/flight"
	"github.com/polargate/polargate/internal/pace"
)

// When Polar is asked about a license, and what becomes of the answer: Check and Refresh ask
// within a call, and Run in the background.

// Check reports whether the program may run. It answers from memory or from the Store
// while the last answer is fresh, and asks Polar if that answer is older than FreshFor or
// was a refusal, for at most CheckTimeout. If Polar can't be reached, the last granted
// answer counts for the rest of GracePeriod. An answer past half its freshness is renewed
// in the background. A refusal is verified again when it is a second old. What another
// process does, Deactivate included, is noticed at the next Check or Refresh, and within
// a minute under Run.
//
// Nothing in the background, and neither Check nor Refresh nor Run, uses or gives up an
// activation, except to finish what this computer began: an interrupted Move or
// Deactivate. ErrOtherMachine means that the stored license was activated on another
// computer; Move moves it here. A state that is deleted under a running Gate is written
// again: only Deactivate removes a license.
//
// The first Check without a license begins the trial, if Config.Trial offers one.
//
// The error is nil exactly when the program may run; see Status.OK. The Status is valid either way; show its Message. If ctx ends early, the result
// is what is known by then.
func (g *Gate) Check(ctx context.Context) (Status, error) {
	if err := g.enter(ctx); err != nil {
		return g.Status(), err
	}
	g.lookAfter(ctx)
	if status, ok := g.fromMemory(); ok {
		return status, statusError(status, nil)
	}
	status, err := g.fly(ctx, "check", ifStale)
	if status.State == "" {
		// ctx or CheckTimeout ended first: what is known by now decides.
		status = g.Status()
		return status, statusError(status, g.callError("check", err))
	}
	return status, statusError(status, err)
}

// Refresh asks Polar now, however fresh the last answer is, within CheckTimeout. The
// error is nil if Polar answered and the program may run. If Polar couldn't be reached,
// the Status can still be OK, and says nothing of the failure while the last answer is
// fresh: show Message(err). If the program may not run, the error's Reason is that of the
// Status, and errors.Is also finds the failure: Message(err) reports both.
func (g *Gate) Refresh(ctx context.Context) (Status, error) {
	if err := g.enter(ctx); err != nil {
		return g.Status(), err
	}
	status, err := g.fly(ctx, "refresh", always)
	if status.State == "" {
		status = g.Status()
	}
	switch err = g.callError("refresh", err); {
	case !status.OK():
		err = statusError(status, err)
	case status.State == Perpetual && isDenial(err):
		err = nil // Polar answered that the license has ended
	}
	return status, err
}

// fly shares a check between its callers. The Status is empty if the check didn't end in
// time: finishing a move can take longer.
func (g *Gate) fly(ctx context.Context, name string, when occasion) (Status, error) {
	type outcome struct {
		status Status
		err    error
	}
	ctx, cancel := context.WithTimeout(ctx, g.budget.all)
	defer cancel()
	out, err := flight.Do(ctx, &g.flights, name, func(ctx context.Context) (outcome, error) {
		err := g.check(ctx, when)
		return outcome{g.Status(), err}, nil
	})
	if err != nil {
		return Status{}, err
	}
	out.status.Features = slices.Clone(out.status.Features) // each caller's own
	return out.status, out.err
}

// statusError is the error that belongs to a Status: nil if the program may run, cause if
// it has the same reason, and otherwise the reason of the Status together with cause.
func statusError(s Status, cause error) error {
	if s.OK() {
		return nil
	}
	var failed Reason
	if e, ok := errors.AsType[*Error](cause); ok {
		if e.Reason == s.Reason {
			return naming(s.portal, cause)
		}
		failed = e.Reason
	}
	if s.State == Unlicensed && s.Reason != ErrNoLicense && cause == nil {
		cause = ErrNoLicense // which is true as well
	}
	e := s.problem(failed)
	e.Op, e.Err = "check", cause
	return e
}

// occasion is what a check is for.
type occasion int

const (
	ifStale occasion = iota // a fresh answer is enough
	renewal                 // it is fresh, but past half its freshness
	retry                   // only a new answer is enough, but another process may get it
	always
)

// budget is how CheckTimeout is spent. The parts overlap: each is the most that one thing
// may take.
type budget struct {
	// all is for a call of Check or Refresh, and for each change that it makes.
	all time.Duration
	// asking is for everything until Polar's answer has come. The rest of all is for
	// storing the answer.
	asking time.Duration
	// turn is how long to wait while another process asks Polar. Then this one asks, too.
	turn time.Duration
	// reading is for reading the Store: one that hangs leaves time to ask Polar.
	reading time.Duration
	// storing is for what must be stored although the time is over or the caller has left.
	storing time.Duration
}

func budgetOf(checkTimeout time.Duration) budget {
	const storing = 500 * time.Millisecond
	return budget{
		all:     checkTimeout,
		asking:  checkTimeout - min(storing, checkTimeout/10),
		turn:    checkTimeout / 2,
		reading: checkTimeout / 4,
		storing: storing,
	}
}

// fromMemory answers a Check from memory, if the last answer is fresh.
func (g *Gate) fromMemory() (Status, bool) {
	now := g.now()
	g.mu.Lock()
	store := g.look(now)
	s, verdict, checked := g.evaluate(now), g.record.verdict, g.checked
	g.mu.Unlock()
	store.start()
	if !checked || !now.Before(s.freshUntil) {
		return Status{}, false
	}
	if renewable(verdict, s, now) {
		g.renewInBackground()
	}
	status := g.Status()
	status.Source = FromMemory
	return status, true
}

// renewInBackground asks Polar while the caller continues, so that a program in daily use
// never waits. A program that ends at once waits in Close instead: otherwise each of its
// runs would ask, and none would get an answer.
func (g *Gate) renewInBackground() {
	if !g.begin() {
		return
	}
	g.mu.Lock()
	busy := g.renewing
	g.renewing = true
	g.mu.Unlock()
	if busy {
		g.background.Done()
		return
	}
	go func() {
		defer g.background.Done()
		defer func() {
			g.mu.Lock()
			g.renewing = false
			g.mu.Unlock()
			if p := recover(); p != nil {
				g.config.Logger.Error("polargate: a panic was caught; please report it", "op", "renew", "panic", p, "stack", string(debug.Stack()))
			}
		}()
		_ = g.check(g.drainCtx, renewal)
	}()
}

// renewable reports whether an answer that lets the program run is old enough to be renewed.
func renewable(v *verdict, s validity, now time.Time) bool {
	return (s.state == Active || s.state == Perpetual) && now.After(renewalOf(v, s)) && !v.backingOff(now)
}

// renewalOf is when a granted answer is past half its freshness, but never within a minute
// of the answer: shortly before a key expires, half of the rest gets shorter and shorter.
func renewalOf(v *verdict, s validity) time.Time {
	fresh := s.freshUntil.Sub(v.CheckedAt)
	least := time.Duration(0)
	if !v.ExpiresAt.IsZero() && !s.freshUntil.Before(v.ExpiresAt.Add(-v.Skew)) {
		least = min(fresh, leastRenewal)
	}
	return v.CheckedAt.Add(max(fresh/2, least))
}

const leastRenewal = time.Minute

// task is what a check has to do.
type task int

const (
	doNothing        task = iota
	noteTheTime           // store the time, if that is due
	renewSoon             // the same, and ask Polar in the background
	releaseWaiting        // release the activations in the outbox; there is no license
	finishActivation      // finish a move to this computer that was interrupted
	reportDoubt           // the same, but Polar may have given the activation already
	askPolar
)

// planCheck is what a check does about a record that is worth s now. waited is the record
// before the check waited for its turn to ask Polar; nil if it hasn't. planCheck does no I/O.
func planCheck(rec *record, s validity, now time.Time, when occasion, waited *record) task {
	activation, verdict, intent := rec.state.Seat, rec.verdict, rec.state.Intent
	switch {
	case waited != nil && activation == nil:
		return doNothing // another process has deactivated the license
	case waited != nil && when == retry && verdict.since(waited.verdict):
		return doNothing // another process has asked
	case activation == nil && !rec.state.waiting():
		return doNothing
	case activation == nil && when < retry && pace.Within(rec.state.OutboxRetry.Sub(now), outboxPause) > 0:
		return doNothing // releasing failed a moment ago
	case activation == nil:
		return releaseWaiting
	case when >= retry, verdict == nil:
	case when == renewal:
		if !renewable(verdict, s, now) {
			return doNothing // another process has renewed it
		}
	case now.Before(s.freshUntil):
		if renewable(verdict, s, now) {
			return renewSoon
		}
		return noteTheTime
	case (s.state == Grace || s.state == Perpetual || s.state == InTrial) && verdict.backingOff(now):
		return noteTheTime // asking failed a moment ago
	}
	switch {
	case activation.byFile() && verdict == nil:
		return doNothing // a file is needed
	case activation.byFile():
		return noteTheTime
	case activation.State != reactivating:
		return askPolar
	case intent != nil && intent.Key == activation.Key:
		return reportDoubt // another activation could be lost, too: only the user may risk that
	}
	return finishActivation // a check changes no activation otherwise
}

// check does what is due. The error is why Polar granted nothing; it is nil if Polar wasn't
// asked.
func (g *Gate) check(ctx context.Context, when occasion) error {
	ctx, cancel := context.WithTimeout(ctx, g.budget.asking)
	defer cancel()
	rec, todo := g.consider(ctx, when, nil)
	trialErr := g.leaseTrial(ctx, &rec)
	if todo == doNothing {
		return trialErr
	}
	g.leaveMemory(ctx)
	if todo == releaseWaiting {
		return g.flushReleases(ctx)
	}
	// One of several processes asks. The others find its answer in the Store.
	inTurn, cancel := context.WithTimeout(ctx, g.budget.turn)
	defer cancel()
	if unlock, err := g.store.Lock(inTurn, g.name+".check"); err == nil {
		defer unlock()
		before := rec
		rec, todo = g.consider(ctx, when, &before)
	}
	switch todo {
	case finishActivation:
		return g.activate(ctx, newKey(rec.state.Seat.Key), unasked)
	case reportDoubt:
		return &Error{Op: "check", Reason: ErrInDoubt}
	case askPolar:
		return g.askAndSettle(ctx, rec, when)
	}
	return nil
}

// consider reads the stored record, returns what there is to do, and does itself what needs
// neither Polar nor a wait.
func (g *Gate) consider(ctx context.Context, when occasion, waited *record) (record, task) {
	rec := g.reload(ctx)
	if rec.missing {
		g.restore(ctx)
		rec = g.holding()
	}
	if g.beginTrial(ctx, &rec) || g.remind(ctx, &rec) {
		rec = g.holding()
	}
	if g.storeTrial(ctx) {
		rec = g.holding()
	}
	now := g.now()
	g.mu.Lock()
	s := g.evaluate(now)
	g.checked = true
	g.mu.Unlock()
	todo := planCheck(&rec, s, now, when, waited)
	if todo == renewSoon {
		g.renewInBackground()
	}
	if todo == renewSoon || todo == noteTheTime {
		g.storeTime(ctx, rec, now)
		todo = doNothing
	}
	return rec, todo
}

// beginTrial begins the trial if the record has neither a license nor a trial, and reports
// whether it tried to. A trial that can't be stored doesn't begin: it would begin at each start.
func (g *Gate) beginTrial(ctx context.Context, rec *record) bool {
	if g.config.Trial.Days == 0 || g.config.hasLeaseServer() || !rec.mayTry() || g.fallback.inUse() {
		return false
	}
	_, _, err := g.change(ctx, trialStarted{})
	g.update(func() bool {
		if g.around.untried == nil && err == nil {
			return false
		}
		g.around.untried = err
		return true
	})
	return true
}

// remind reminds of the end of the license or trial if that is due, and reports whether it
// did: once a day, by the first run of the program that finds it due.
func (g *Gate) remind(ctx context.Context, rec *record) bool {
	now := g.now()
	g.mu.Lock()
	end := g.evaluate(now).end(rec.verdict)
	due := g.config.remindsOf(end, now) && !sameDay(rec.state.Reminded, now) && !sameDay(g.around.reminded, now)
	g.mu.Unlock()
	if !due {
		return false
	}
	_, effects, err := g.change(ctx, reminded{now})
	if err == nil && len(effects) == 0 {
		return false // another process was faster
	}
	g.update(func() bool {
		g.around.reminded = now
		return true
	})
	return true
}

// storeTime stores the latest time seen, at most once an hour. It shows later whether the
// clock was set back.
func (g *Gate) storeTime(ctx context.Context, rec record, now time.Time) {
	if now.Sub(rec.verdict.HighWater) < clockSlack {
		return
	}
	_, _, _ = g.change(ctx, timeSeen{now})
}

// askAndSettle asks Polar about the activation of a record, and stores the answer.
func (g *Gate) askAndSettle(ctx context.Context, rec record, when occasion) error {
	asked := g.now()
	license, err := g.ask(ctx, rec.state.Seat, newKey(rec.state.Seat.Key), 0)
	if err != nil && when != renewal && errors.Is(ctx.Err(), context.Canceled) {
		return err // the caller has left, which tells nothing about Polar
	}
	g.settle(ctx, rec, license, err, asked)
	if err == nil && rec.state.waiting() {
		_ = g.flushReleases(ctx) // while Polar can be reached
	}
	return err
}

// ask asks Polar about an activation, or the license server for its next lease. After Polar has
// rotated the key, key is the new one.
func (g *Gate) ask(ctx context.Context, s *seat, key Key, increment int64) (*LicenseKey, error) {
	if g.config.hasLeaseServer() && increment == 0 {
		license, err := g.leaseFor(ctx, s, key, 0)
		return license, ofHeld(err, s, key)
	}
	r := ValidateRequest{Key: key, ActivationID: s.ActivationID, IncrementUsage: increment}
	if s.ActivationID != "" {
		r.Conditions = s.conditions()
	}
	license, err := g.client.Validate(ctx, r)
	return license, ofHeld(err, s, key)
}

// ofHeld makes the error about an unknown key say that the key was known when it was activated.
func ofHeld(err error, s *seat, key Key) error {
	if e, ok := err.(*Error); ok && e.Reason == ErrUnknownKey && key.Reveal() == s.Key {
		e.situation = unknownHeld
	}
	return err
}

// settle stores Polar's answer to a question about the record before, asked at that time. It
// doesn't if the activation has changed since, or if a later answer is stored already. It
// stores even if ctx has ended.
func (g *Gate) settle(ctx context.Context, before record, license *LicenseKey, err error, asked time.Time) {
	outcome := answered{of: before.state.Seat, after: before.verdict, asked: asked, at: g.now(), license: license, err: err}
	// The rest of the time, but at least as much as a disk needs.
	left := g.budget.storing
	if deadline, ok := ctx.Deadline(); ok && ctx.Err() == nil {
		left = max(left, time.Until(deadline))
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), left)
	defer cancel()
	_, effects, saveErr := g.change(ctx, outcome)
	if saveErr != nil {
		// The answer counts although it is lost at the next start.
		if !onlyReads(saveErr) {
			g.config.Logger.Warn("polargate: the license state was not saved", "error", saveErr)
		}
		g.saved(saveErr)
		g.update(func() bool {
			rec, effects := g.record.next(outcome, outcome.at, g.rules(g.record))
			if len(effects) == 0 {
				return false
			}
			g.adoptions++
			g.record, g.around.source = rec, FromNetwork
			return true
		})
		return
	}
	if len(effects) > 0 && (license != nil || isDenial(err)) {
		g.update(func() bool {
			g.around.source = FromNetwork
			return true
		})
	}
}

// evaluate is what the record in memory is worth now. g.mu is held.
func (g *Gate) evaluate(now time.Time) validity {
	return g.record.validity(now, &g.config, g.around.underWay)
}

// attempting names the attempt to activate that is under way, "" for none: it is not in
// doubt for as long as it is.
func (g *Gate) attempting(id string) {
	g.update(func() bool {
		g.around.underWay = id
		return true
	})
}

func (g *Gate) accepts(benefitID string) bool { return g.config.accepts(benefitID) }

// How long Run waits between questions. Each wait is spread by half to either side: the
// programs of many users, started by the same outage or update, must not all ask at once.
const (
	// firstRetry follows a question without an answer, and doubles up to lastRetry. So a
	// network that comes up after the program is found soon, and an outage of Polar isn't
	// made worse.
	firstRetry = 5 * time.Second
	lastRetry  = 15 * time.Minute
	// firstAppeal follows a refusal, and doubles up to lastAppeal, which is an hour at most
	// once it is spread. So customers who renew need not restart the program.
	firstAppeal = time.Minute
	lastAppeal  = 40 * time.Minute
	// firstMinute is how long Run keeps trying at firstRetry if there is no network at
	// all: such tries cost nothing.
	firstMinute = time.Minute
)

// Run keeps the license verified for as long as the program runs. It asks Polar when the
// last answer is past half of FreshFor, retries with growing pauses if Polar can't be
// reached or refuses, and finishes pending deactivations. It notices within a minute that
// the computer slept, and what another process did to the license. Start it once, in a
// goroutine of its own, beside a Check at the start:
//
//	go gate.Run(ctx)
//
// It returns nil when ctx ends or the Gate is closed. An error means that it didn't
// start: ErrClosed if the Gate was closed before.
func (g *Gate) Run(ctx context.Context) error {
	if err := g.enter(ctx); err != nil {
		return err
	}
	if !g.begin() {
		return &Error{Op: "run", Reason: ErrClosed}
	}
	defer g.background.Done()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(g.ctx, cancel)()

	r := runner{g: g}
	for {
		wait := r.step(ctx)
		before := g.now()
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-timer.C:
		}
		if g.now().Sub(before) > wait+maxNap {
			r.failures, r.tried, r.failing, r.flushed, r.flushFailures = 0, time.Time{}, time.Time{}, time.Time{}, 0 // the computer slept, and may be on another network now
		}
	}
}

// runner is what Run remembers from one step to the next.
type runner struct {
	g *Gate
	// tried is when Polar was last asked, and pause how long to wait after that.
	tried    time.Time
	pause    time.Duration
	failures int // in a row
	refusals int // in a row
	// failing is since when Polar gives no answer; zero if it does.
	failing time.Time
	// flushed is when releasing the activations in the outbox last failed, flushPause how
	// long to wait after that, and flushFailures how often it failed in a row.
	flushed       time.Time
	flushPause    time.Duration
	flushFailures int
	// spread says where between half and six tenths of its freshness an answer is renewed.
	// It is drawn once for each answer; answer is the time of the last one.
	answer time.Time
	spread float64
}

// step asks Polar if that is due, and says how long to wait before the next step.
func (r *runner) step(ctx context.Context) time.Duration {
	rec := r.g.reload(ctx)
	if rec.missing {
		r.g.restore(ctx)
	}
	if r.g.beginTrial(ctx, &rec) || r.g.remind(ctx, &rec) {
		rec = r.g.holding()
	}
	_ = r.g.leaseTrial(ctx, &rec) // what fails is tried again
	r.g.saveAgain(ctx)
	r.flush(ctx, rec)
	due := r.due(rec)
	if now := r.g.now(); now.Before(due) {
		if rec.verdict != nil {
			brief, cancel := context.WithTimeout(ctx, r.g.budget.all)
			defer cancel()
			r.g.storeTime(brief, rec, now)
		}
		return min(max(due.Sub(now), time.Millisecond), maxNap)
	}
	err := r.g.check(ctx, retry)
	now := r.g.now()
	r.tried = now
	r.g.mu.Lock()
	s, nothing := r.g.evaluate(now), r.g.record.state.Seat == nil
	r.g.mu.Unlock()
	switch {
	case err == nil && (nothing || s.state == Active):
		r.failures, r.refusals, r.pause, r.failing = 0, 0, 0, time.Time{}
	case isDenial(err), err == nil && (s.reason.Denial() || s.reason == ErrNotCovered):
		// Polar refused, or granted a license that is of no use here. This question or that
		// of another process found out.
		r.pause = pace.Jitter(min(firstAppeal<<r.refusals, lastAppeal))
		if e, ok := errors.AsType[*Error](err); ok && e.RetryAfter > 0 {
			r.pause = min(r.pause, pace.Jitter(e.RetryAfter)) // when a place of a pool is free
		}
		r.failures, r.refusals, r.failing = 0, min(r.refusals+1, 10), time.Time{}
	default:
		r.pause = r.afterFailure(err, now)
		if life := r.g.holding().verdict.life(); life > 0 {
			r.pause = min(r.pause, life/8) // the place of a pool is lost with its lease
		}
	}
	return min(max(r.pause, time.Second), maxNap)
}

// afterFailure is how long to wait after a question without an answer.
func (r *runner) afterFailure(err error, now time.Time) time.Duration {
	e, failed := errors.AsType[*Error](err)
	if r.failing.IsZero() || r.failing.After(now) {
		r.failing = now
	}
	if failed && e.Reason == ErrUnreachable && !e.sent && e.StatusCode == 0 && now.Sub(r.failing) < firstMinute {
		return pace.Jitter(firstRetry)
	}
	pause := pace.Jitter(min(firstRetry<<r.failures, lastRetry))
	r.failures = min(r.failures+1, 10)
	if failed {
		pause = max(pause, e.RetryAfter)
	}
	return pause
}

// flush releases the activations in the outbox, if there is a license as well. Without one,
// check does it.
func (r *runner) flush(ctx context.Context, rec record) {
	now := r.g.now()
	if r.flushed.After(now) {
		r.flushed = now
	}
	if rec.state.Seat == nil || !rec.state.waiting() || now.Before(r.flushed.Add(r.flushPause)) {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, r.g.budget.all)
	defer cancel()
	if err := r.g.flushReleases(ctx); err == nil {
		r.flushFailures = 0
		return
	}
	r.flushed, r.flushPause = r.g.now(), pace.Jitter(min(firstAppeal<<r.flushFailures, lastRetry))
	r.flushFailures = min(r.flushFailures+1, 10)
}

// due is when to ask Polar next.
func (r *runner) due(rec record) time.Time {
	now := r.g.now()
	if r.tried.After(now) {
		r.tried = now // the clock was set back
	}
	next := r.tried.Add(r.pause)
	r.g.mu.Lock()
	s := r.g.evaluate(now)
	r.g.mu.Unlock()
	switch {
	case rec.state.Seat.byFile(), rec.state.Seat == nil && !rec.state.waiting():
		return now.Add(maxNap) // there is nothing to ask, but another process may activate
	case rec.state.Seat == nil, rec.verdict == nil, s.state != Active && s.state != Perpetual:
		return next
	}
	if !rec.verdict.CheckedAt.Equal(r.answer) {
		r.answer, r.spread = rec.verdict.CheckedAt, rand.Float64()/5
	}
	half := renewalOf(rec.verdict, s)
	half = half.Add(time.Duration(r.spread * float64(half.Sub(rec.verdict.CheckedAt))))
	if half.After(next) {
		return half
	}
	return next
}
