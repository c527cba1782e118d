package polargate

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"reflect"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/polargate/polargate/internal/flight"
	"github.com/polargate/polargate/internal/machine"
	"github.com/polargate/polargate/internal/pace"
	"github.com/polargate/polargate/lease"
)

// Gate is the license of a program on one computer. It knows the key and the activation,
// asks Polar when that is due, keeps the answer, and reports at any moment which features
// are unlocked. All methods are safe for use by many goroutines. Open makes one; the zero
// value can't be used.
type Gate struct {
	config    Config
	budget    budget
	client    *Client
	leaseKeys lease.Keys
	store     Store
	fallback  *memoryFallback // is store, if it is one
	name      string          // of this computer's state in store
	own       []string        // names that this computer's state can have; the first is name
	names     machine.Names
	seal      sealer
	listSeal  sealer // of the list of names
	now       func() time.Time

	current  atomic.Pointer[snapshot] // what Has reads; never nil
	flights  flight.Group
	begun    atomic.Bool   // an Activate has waited for its turn
	seatTurn chan struct{} // held while the activation is changed, also while Polar is asked

	// lockWaits counts the calls that wait for the Store's lock. lockedOut is when one of
	// them last gave up, in nanoseconds since 1970.
	lockWaits atomic.Int32
	lockedOut atomic.Int64

	// ctx ends with Close. drainCtx ends later: it is for requests that must not be cut
	// short.
	ctx, drainCtx       context.Context
	cancel, cancelDrain context.CancelFunc
	background          sync.WaitGroup
	ended               chan struct{} // closed when Close is done

	mu       sync.Mutex // guards what follows; never held across I/O
	closed   bool
	checked  bool // a Check has read the Store; until then, memory doesn't answer one
	record   record
	around   circumstances
	renewing bool // a renewal is under way
	// trialAsked is when the license server was last asked for a trial.
	trialAsked time.Time
	enlisted   bool      // this computer is on the list of those with a state
	inList     bool      // this license is on the list of those with a name
	looked     time.Time // when a Check from memory last looked at the Store
	// adoptions counts how often another record was taken into memory.
	adoptions int
	timer     *time.Timer
	complaint string   // the last one logged about the Store
	changes   []change // OnChange hasn't been called for them yet
	// news is closed when another snapshot is published; nil if no loop waits for one.
	news      chan struct{}
	notifying bool
}

// change is what OnChange is told.
type change struct{ before, after Status }

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

// Open makes a Gate and reads the stored state, without asking Polar. From then on, Has
// works with what was last known. A configuration that can't work is an *InputError. A
// state that is missing, damaged or out of reach doesn't fail the start; the Status says
// so.
func Open(config Config) (*Gate, error) {
	config = config.withDefaults()
	if err := config.validate(); err != nil {
		return nil, err
	}
	client, err := newPublicClient(ClientConfig{
		OrganizationID: config.OrganizationID,
		App:            config.App,
		Version:        config.Version,
		Server:         config.Server,
		BaseURL:        config.BaseURL,
		HTTPClient:     config.HTTPClient,
		Logger:         config.Logger,
	})
	if err != nil {
		return nil, err
	}
	leaseKeys, err := lease.NewKeys(config.LeaseKeys...)
	if err != nil {
		return nil, errBadLeaseKeys
	}
	g := &Gate{
		leaseKeys: leaseKeys,
		config:    config,
		budget:    budgetOf(config.CheckTimeout),
		client:    client,
		store:     &recoveringStore{of: config.Store, log: config.Logger},
		names:     machine.NamesFor(client.organizationID, scope(config.App, config.Name)),
		seal:      newSealer(client.organizationID, scope(config.App, config.Name), config.Secret),
		listSeal:  newSealer(client.organizationID, config.App, config.Secret),
		now:       config.Clock,
		seatTurn:  make(chan struct{}, 1),
		ended:     make(chan struct{}),
	}
	client.now = config.Clock
	for _, tag := range g.tags() {
		g.own = append(g.own, g.names.Of(tag))
	}
	g.own = append(g.own, g.names.Earlier)
	g.name = g.own[0]
	if config.Ephemeral == IfUnwritable {
		g.fallback = &memoryFallback{Store: g.store}
		g.store = g.fallback
	}
	if none, ok := config.Store.(noStore); ok {
		config.Logger.Warn("polargate: there is no folder for the license state", "error", none.err)
		g.around.unsaved = none.err
	}
	g.config.Secret = "" // the seal has it now; nothing that is printed does
	g.ctx, g.cancel = context.WithCancel(context.Background())
	g.drainCtx, g.cancelDrain = context.WithCancel(context.Background())
	g.reload(g.ctx)
	return g, nil
}

// Format prints that it is a Gate, its program, and nothing of the license, whatever the
// verb.
func (g *Gate) Format(f fmt.State, _ rune) { fmt.Fprintf(f, "polargate.Gate{App:%s}", g.config.App) }

// LogValue logs what Format prints.
func (g *Gate) LogValue() slog.Value { return slog.StringValue(fmt.Sprint(g)) }

// closeWait is how long Close waits for requests whose answers must not be lost.
const closeWait = 5 * time.Second

// Language is a copy of Config.Language, for what a program says in addition; nil means
// English.
func (g *Gate) Language() *Language { return g.config.Language.copied() }

// Links are Config.Links.
func (g *Gate) Links() Links { return g.config.Links }

// Label is the name under which customers find this computer in the list of their
// activations: Config.Label, the computer's name, or a neutral word and a short id. A page
// that asks for a key can say that it is sent.
func (g *Gate) Label() string {
	rec := g.holding()
	return g.label(&rec.state)
}

// Close ends all work of the Gate and waits for it, for at most 5 seconds. Calls in
// progress return; later calls fail with ErrClosed, and Has reports nothing. The license
// stays stored. An Ephemeral Gate deactivates within the same 5 seconds; if that fails,
// the log names the activation, so that the vendor can deactivate it. If Polar's limit on
// requests is in the way, Close waits for its end, within Config.ReleaseTimeout. It waits
// longer only for a Store that ignores its context, and doesn't wait for a call of
// OnChange. Close can be called again, and always returns nil.
func (g *Gate) Close() error {
	g.mu.Lock()
	first := !g.closed
	g.closed = true
	if g.timer != nil {
		g.timer.Stop()
	}
	g.current.Store(&snapshot{status: Status{State: Locked, Reason: ErrClosed, Message: g.config.Language.Message(ErrClosed)}})
	g.mu.Unlock()
	if !first {
		<-g.ended
		return nil
	}
	defer close(g.ended)
	g.cancel()
	began := time.Now()
	impatient := time.AfterFunc(closeWait, g.cancelDrain)
	g.flights.Close()
	g.background.Wait()
	impatient.Stop()
	g.releaseSeats(began)
	g.cancelDrain()
	g.client.Close()
	return nil
}

// Has reports whether a feature is unlocked now. It does no I/O, takes no lock and
// allocates nothing. Check need not be called first: a stored license counts from Open
// on.
func (g *Gate) Has(feature string) bool {
	_, ok := g.current.Load().features[feature]
	return ok
}

// Status returns the current Status of the license, from memory.
func (g *Gate) Status() Status {
	s := g.current.Load().status
	s.Features = slices.Clone(s.Features)
	return s
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

// occasion is what a check is for.
type occasion int

const (
	ifStale occasion = iota // a fresh answer is enough
	renewal                 // it is fresh, but past half its freshness
	retry                   // only a new answer is enough, but another process may get it
	always
)

// enter refuses calls without a context, and those after Close.
func (g *Gate) enter(ctx context.Context) error {
	if ctx == nil {
		return errNilContext
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return &Error{Op: "gate", Reason: ErrClosed}
	}
	return nil
}

// callError explains an error that didn't come from Polar, but from a context, a Gate that
// was closed, or a panic.
func (g *Gate) callError(op string, err error) error {
	panicked, hasPanicked := errors.AsType[*flight.PanicError](err)
	switch {
	case errors.Is(err, flight.ErrClosed), err == context.Canceled && g.ctx.Err() != nil:
		return &Error{Op: op, Reason: ErrClosed}
	case hasPanicked:
		g.config.Logger.Error("polargate: a panic was caught; please report it", "op", op, "panic", panicked.Value, "stack", string(panicked.Stack))
		return &Error{Op: op, Reason: ErrUnreachable, Detail: "a fault in the program: see its log"}
	case err == context.DeadlineExceeded && g.isLockedOut():
		return &Error{Op: op, Reason: ErrBusy, Err: err}
	case err == context.Canceled, err == context.DeadlineExceeded:
		return &Error{Op: op, Reason: ErrUnreachable, Err: err, situation: callEnded}
	}
	return naming(g.config.Links.Portal != "", err)
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

// begin registers work that Close waits for, and reports false if the Gate is closed. After
// true, call g.background.Done at the end of the work.
func (g *Gate) begin() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.closed {
		g.background.Add(1)
	}
	return !g.closed
}

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
	case (s.state == Grace || s.state == Perpetual) && verdict.backingOff(now):
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

// storeTime stores the latest time seen, at most once an hour. It shows later whether the
// clock was set back.
func (g *Gate) storeTime(ctx context.Context, rec record, now time.Time) {
	if now.Sub(rec.verdict.HighWater) < clockSlack {
		return
	}
	_, _, _ = g.change(ctx, timeSeen{now})
}

// noteTime has the verdict follow the clock and raises the latest time seen, in memory. If
// that has to be stored, it returns the write; start it without the lock. g.mu is held.
func (g *Gate) noteTime(now time.Time) write {
	if g.record.trying() && g.config.Trial.Days > 0 {
		return g.noteTrial(now)
	}
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

// noteTrial is noteTime during a trial. g.mu is held.
func (g *Gate) noteTrial(now time.Time) write {
	before := g.record.state.Trial
	after := before.seen(now)
	if !before.noted(after, g.config.Trial.Days) {
		return nil
	}
	g.record.state.Trial = after
	return g.changeLater(trialSeen{now})
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

// start does the work in the background.
func (w write) start() {
	if w != nil {
		go w()
	}
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
		next.status.Usage, next.status.LimitUsage = rec.verdict.Usage, Unlimited
		if limit := rec.verdict.LimitUsage; limit != nil {
			next.status.LimitUsage = *limit
		}
	}
	if next.status.OK() {
		next.status.Features = c.trialFeatures(rec.state.Trial)
		switch {
		case s.state == Perpetual:
			next.status.Features = c.fallbackFeatures(rec.verdict)
		case rec.verdict != nil:
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

// maxNap bounds the wait for the next change. Timers stop while a laptop sleeps, so a
// deadline that passes meanwhile is noticed this long after it wakes up.
const maxNap = time.Minute

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
