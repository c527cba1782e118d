package polargate

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/polargate/polargate/internal/machine"
)

// Licenses are the licenses of one program that takes several keys: of themes, plug-ins and
// add-ons, or of the users of one installation. Each has a name, and a Gate with that
// Config.Name. A key that is activated under two names uses two activations. All methods are
// safe for use by many goroutines. OpenLicenses makes them.
type Licenses struct {
	config Config
	open   atomic.Pointer[[]*Gate] // sorted by name; what Has reads

	mu      sync.Mutex
	closed  bool
	changed chan struct{} // closed when a Gate was opened
}

// NamedStatus is the Status of one of several licenses.
type NamedStatus struct {
	// Name is the Config.Name of its Gate.
	Name string
	// Status is that of the Gate.
	Status Status
}

// OpenLicenses opens a Gate for each name, like Open. The empty name is the license that the
// program has without names. All Gates have the same configuration, except for the Name, so
// each accepts the keys of all: depend on Has, because Status.OK also holds for the key of a
// plug-in. A Trial belongs to the empty name alone. Config.OnChange is called for each of
// them: look at Status.Key to tell them apart, or call List.
func OpenLicenses(config Config, names ...string) (*Licenses, error) {
	l := &Licenses{config: config, changed: make(chan struct{})}
	l.open.Store(&[]*Gate{})
	for _, name := range names {
		if _, err := l.Gate(name); err != nil {
			_ = l.Close()
			return nil, err
		}
	}
	return l, nil
}

// Gate returns the Gate of that name, and opens it at the first call. Its errors are those of
// Open. Don't close it; Close closes all.
func (l *Licenses) Gate(name string) (*Gate, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, &Error{Op: "gate", Reason: ErrClosed}
	}
	gates := *l.open.Load()
	at, found := slices.BinarySearchFunc(gates, name, func(g *Gate, name string) int { return strings.Compare(g.config.Name, name) })
	if found {
		return gates[at], nil
	}
	g, err := Open(l.named(name))
	if err != nil {
		return nil, err
	}
	gates = slices.Insert(slices.Clone(gates), at, g)
	l.open.Store(&gates)
	close(l.changed)
	l.changed = make(chan struct{})
	return g, nil
}

// named is the configuration of a Gate.
func (l *Licenses) named(name string) Config {
	config := l.config
	config.Name = name
	if name != "" {
		config.Trial = Trial{}
	}
	return config
}

// Has reports whether any of the licenses unlocks a feature. Like Gate.Has, it does no I/O,
// takes no lock and allocates nothing.
func (l *Licenses) Has(feature string) bool {
	for _, g := range *l.open.Load() {
		if g.Has(feature) {
			return true
		}
	}
	return false
}

// List returns the Status of each open license, sorted by name, from memory.
func (l *Licenses) List() []NamedStatus {
	var all []NamedStatus
	for _, g := range *l.open.Load() {
		all = append(all, NamedStatus{g.config.Name, g.Status()})
	}
	return all
}

// Check calls Check of each open Gate, all at once, and returns what List does then. It also
// finishes the pending deactivations of licenses that aren't open, such as those of a plug-in
// that was removed while the computer was offline.
func (l *Licenses) Check(ctx context.Context) []NamedStatus {
	if ctx == nil {
		return l.List()
	}
	var calls sync.WaitGroup
	for _, g := range *l.open.Load() {
		calls.Go(func() { _, _ = g.Check(ctx) })
	}
	calls.Wait()
	l.drain(ctx)
	return l.List()
}

// drainEvery is how often Run looks for pending deactivations of licenses that aren't open.
const drainEvery = 15 * time.Minute

// Run calls Run of each Gate, also of those that are opened later, and finishes the pending
// deactivations of licenses that aren't open. It returns nil when ctx ends or the Licenses are
// closed. An error means that it didn't start: ErrClosed if they were closed before.
func (l *Licenses) Run(ctx context.Context) error {
	if ctx == nil {
		return errNilContext
	}
	ctx, cancel := context.WithCancel(ctx)
	var calls sync.WaitGroup
	defer calls.Wait()
	defer cancel()
	running := map[*Gate]bool{}
	for first := true; ; first = false {
		l.mu.Lock()
		closed, changed := l.closed, l.changed
		l.mu.Unlock()
		switch {
		case closed && first:
			return &Error{Op: "run", Reason: ErrClosed}
		case closed:
			return nil
		}
		for _, g := range *l.open.Load() {
			if !running[g] {
				running[g] = true
				calls.Go(func() { _ = g.Run(ctx) })
			}
		}
		l.drain(ctx)
		timer := time.NewTimer(drainEvery)
		select {
		case <-changed:
		case <-timer.C:
		case <-ctx.Done():
		}
		timer.Stop()
		if ctx.Err() != nil {
			return nil
		}
	}
}

// Close closes all Gates at once, as Gate.Close does. It always returns nil.
func (l *Licenses) Close() error {
	l.mu.Lock()
	if !l.closed {
		l.closed = true
		close(l.changed)
	}
	l.mu.Unlock()
	var calls sync.WaitGroup
	for _, g := range *l.open.Load() {
		calls.Go(func() { _ = g.Close() })
	}
	calls.Wait()
	return nil
}

// Format prints which licenses are open, and nothing of them, whatever the verb.
func (l *Licenses) Format(f fmt.State, _ rune) {
	fmt.Fprintf(f, "polargate.Licenses{App:%s Open:%d}", l.config.App, len(*l.open.Load()))
}

// LogValue logs what Format prints.
func (l *Licenses) LogValue() slog.Value { return slog.StringValue(fmt.Sprint(l)) }

// drain releases what waits in the outboxes of licenses that nobody has open, and takes those
// that have nothing to keep off the list.
func (l *Licenses) drain(ctx context.Context) {
	gates := *l.open.Load()
	if len(gates) == 0 {
		return
	}
	names, err := gates[0].listed(ctx)
	if err != nil {
		return
	}
	for _, name := range names {
		if slices.ContainsFunc(gates, func(g *Gate) bool { return g.config.Name == name }) || ctx.Err() != nil {
			continue
		}
		config := l.named(name)
		config.OnChange = nil
		config.Store = gates[0].config.Store
		g, err := Open(config)
		if err != nil {
			continue
		}
		if rec := g.holding(); rec.state.waiting() {
			brief, cancel := context.WithTimeout(ctx, g.budget.all)
			_ = g.flushReleases(brief)
			cancel()
		}
		g.unlist(ctx)
		_ = g.Close()
	}
}

// The names of the licenses that have something stored are on a list, one for each computer,
// since a Store can't be asked for them.

// maxNamed bounds how many licenses the list names.
const maxNamed = 256

// scope is what the name of a state and its seal depend on: an app, or one license of it.
func scope(app, name string) string {
	if name == "" {
		return app
	}
	return app + "\x00license\x00" + name
}

// listName is where the list is stored.
func (g *Gate) listName() string {
	return strings.TrimSuffix(machine.NamesFor(g.client.organizationID, g.config.App).Of(g.tags()[0]), ".sealed") + ".names"
}

// listed are the names on the list.
func (g *Gate) listed(ctx context.Context) ([]string, error) {
	data, err := g.store.Load(ctx, g.listName())
	if errors.Is(err, ErrNotStored) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	names, err := g.listSeal.openNames(data)
	if err != nil {
		return nil, nil // the list is written anew
	}
	return names, nil
}

// changeList changes the list, if change returns another one.
func (g *Gate) changeList(ctx context.Context, change func([]string) []string) error {
	ctx, cancel := context.WithTimeout(ctx, g.budget.storing)
	defer cancel()
	unlock, err := g.store.Lock(ctx, g.listName())
	switch {
	case err == nil:
		defer unlock()
	case !errors.Is(err, errors.ErrUnsupported):
		return err
	}
	names, err := g.listed(ctx)
	if err != nil {
		return err
	}
	next := change(slices.Clone(names))
	if slices.Equal(names, next) {
		return nil
	}
	data, err := g.listSeal.sealNames(next)
	if err != nil {
		return err
	}
	return g.store.Save(ctx, g.listName(), data)
}

// list puts the license on the list before something is stored of it, once in the life of a
// Gate. The license without a name needs no list.
func (g *Gate) list(ctx context.Context) {
	g.mu.Lock()
	done := g.inList || g.config.Name == ""
	g.mu.Unlock()
	if done {
		return
	}
	err := g.changeList(ctx, func(names []string) []string {
		if slices.Contains(names, g.config.Name) {
			return names
		}
		names = append([]string{g.config.Name}, names...)
		return names[:min(len(names), maxNamed)]
	})
	g.mu.Lock()
	g.inList = err == nil
	g.mu.Unlock()
}

// unlist takes the license off the list, if nothing of it is worth keeping. It holds the
// license's lock, so that nobody stores something of it meanwhile.
func (g *Gate) unlist(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, g.budget.storing)
	defer cancel()
	unlock, err := g.lockSeat(ctx)
	if err != nil {
		return
	}
	defer unlock()
	if rec := g.reload(ctx); rec.unread != nil || rec.worthKeeping() || rec.trouble != "" {
		return
	}
	_ = g.changeList(ctx, func(names []string) []string {
		return slices.DeleteFunc(names, func(n string) bool { return n == g.config.Name })
	})
}
