package polargate

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/polargate/polargate/internal/flight"
	"github.com/polargate/polargate/internal/machine"
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
	// trialMoves counts how often the trial in memory got ahead of the stored one, and
	// trialStored how many of these are stored.
	trialMoves, trialStored int

	timer     *time.Timer
	complaint string   // the last one logged about the Store
	changes   []change // OnChange hasn't been called for them yet
	// news is closed when another snapshot is published; nil if no loop waits for one.
	news      chan struct{}
	notifying bool
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

// closeWait is how long Close waits for requests whose answers must not be lost.
const closeWait = 5 * time.Second

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
