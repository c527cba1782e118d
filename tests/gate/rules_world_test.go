package gate

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/polargate/polargate"
	"github.com/polargate/polargate/polartest"
	"github.com/polargate/polargate/tests/internal/kit"
)

// rulesWorld is Polar with one license key, and two computers.
type rulesWorld struct {
	polar  *polartest.Polar
	id     string
	key    string   // as it is now
	full   string   // another key, all of whose seats are taken
	keys   []string // as it ever was
	asleep atomic.Int64
	log    bytes.Buffer
	logger *slog.Logger

	trials bool // programs offer a trial
	// released is when the version of the programs came out, if they have a fallback; or zero.
	released time.Time
	faulty   bool      // something is in the way of Polar, or may be
	jumps    int       // how often a clock was set, or the computers slept
	jumped   time.Time // when it was the last time
	trace    []string
	problem  string

	mu        sync.Mutex // guards what programs write behind the test's back
	order     int
	breach    string
	paused    time.Time           // nobody asks before
	known     map[string][]belief // by the bytes that a program stored
	computers [2]*computer
}

type computer struct {
	w       *rulesWorld
	machine string
	wrong   atomic.Int64 // how far its clock is ahead
	names   kit.StateNames
	file    []byte            // the state of its own; nil: none
	beside  map[string][]byte // what else is in its Store, by name: the list of machines, and what was copied
	had     bool              // a license was stored in the file, and nobody tampered with it since
	natural bool              // the file is as a program left it that nobody had tampered with
	copies  [][]byte
	locks   polargate.MemoryStore
	rests   time.Time // when a question got no verdict last, by its clock
	// restsTruly is the same by the clock that nobody sets.
	restsTruly time.Time
	programs   [2]*program
}

func (c *computer) now() time.Time { return c.w.now().Add(time.Duration(c.wrong.Load())) }

// now is the time as it is.
func (w *rulesWorld) now() time.Time {
	return time.Now().UTC().Round(0).Add(time.Duration(w.asleep.Load()))
}

// program is a Gate, and all that it hears: it is its Store and its network.
type program struct {
	*computer
	gate    *polargate.Gate
	beliefs []belief  // more than one if any of them may be what it goes by
	sure    bool      // it has to go by them
	opened  bool      // its file was read
	vain    time.Time // when a question got no verdict, by the computer's clock
	holds   []byte    // the state that it loaded or saved last
	looked  int       // as jumps was when it certainly looked at the clock
	// importing is the activation of another program that is being taken over; nil for none.
	importing *importing
}

// importing is what a program may believe of another program's activation before Polar says
// anything of it.
type importing struct {
	a      polargate.ImportedActivation
	counts bool // until then
	sure   bool // it has to
}

func (p *program) clock() time.Time {
	now := p.now()
	p.w.mu.Lock()
	defer p.w.mu.Unlock()
	for i := range p.beliefs {
		if b := &p.beliefs[i]; b.machine == p.machine {
			b.see(now) // another machine's verdict does not open here
		}
	}
	return now
}

func (p *program) Load(_ context.Context, name string) ([]byte, error) {
	p.w.mu.Lock()
	defer p.w.mu.Unlock()
	data := p.file
	if name != p.names.Of(p.machine) {
		data = p.beside[name]
		if name != p.names.Earlier || data == nil {
			if data == nil {
				return nil, polargate.ErrNotStored
			}
			return bytes.Clone(data), nil
		}
	}
	read, known := p.w.known[string(data)]
	switch {
	case data == nil && p.opened && p.natural:
		// Deleted under the running program, which knows what it held.
	case !p.opened:
		p.beliefs, p.sure = []belief{{}}, known
		if known {
			p.beliefs = slices.Clone(read)
		}
	case known:
		newer := read[0].order >= p.beliefs[0].order
		p.beliefs = learn(p.beliefs, read, p.natural)
		p.sure = len(p.beliefs) == 1 && p.natural && (p.sure || newer)
	default:
		p.sure = false
	}
	p.opened = true
	if data == nil {
		return nil, polargate.ErrNotStored
	}
	if _, err := p.stateIn(data); err == nil {
		p.holds = bytes.Clone(data)
	}
	return bytes.Clone(data), nil
}

func (p *program) Save(_ context.Context, name string, data []byte) error {
	p.w.mu.Lock()
	defer p.w.mu.Unlock()
	if name != p.names.Of(p.machine) {
		p.beside[name] = bytes.Clone(data)
		return nil
	}
	if st, err := p.stateIn(data); err == nil && p.importing != nil && st.Seat != nil && st.Seat.ActivationID == p.importing.a.ActivationID && p.beliefs[0].seat != st.Seat.ActivationID {
		p.w.order++
		now := p.now()
		p.beliefs = []belief{{
			order: p.w.order, granted: p.importing.counts, benefit: p.importing.a.BenefitID, key: p.importing.a.Key, seat: st.Seat.ActivationID,
			machine: p.machine, since: sooner(p.importing.a.CheckedAt, now), claimed: true, times: []timing{{low: now, high: now}},
		}}
		if p.sure = p.importing.sure; !p.sure {
			not := p.beliefs[0]
			not.granted = false
			p.beliefs = append(p.beliefs, not)
		}
	}
	p.file, p.natural = bytes.Clone(data), p.sure
	p.had = p.had || p.sure && slices.ContainsFunc(p.beliefs, func(b belief) bool { return b.seat != "" && b.machine == p.machine && !b.claimed })
	p.holds = p.file
	p.w.known[string(data)] = slices.Clone(p.beliefs)
	return nil
}

func (p *program) Lock(ctx context.Context, name string) (func(), error) {
	return p.locks.Lock(ctx, name)
}

// struck marks an answer that somebody tampered with.
const struck = "X-Struck"

func (p *program) RoundTrip(r *http.Request) (*http.Response, error) {
	asked, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	p.w.mu.Lock()
	if time.Now().Before(p.w.paused) {
		p.w.breach = r.URL.Path + ": asked in a pause"
	}
	p.w.mu.Unlock()
	again := r.Clone(r.Context())
	again.Body = io.NopCloser(bytes.NewReader(asked))
	resp, err := p.w.polar.Transport().RoundTrip(again)
	if err != nil {
		p.hear(r.URL.Path, asked, 0, nil, 0)
		return nil, err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil || resp.Header.Get(struck) != "" {
		p.hear(r.URL.Path, asked, 0, nil, 0)
	} else {
		pause, err := time.ParseDuration(resp.Header.Get("Retry-After") + "s")
		if err != nil {
			pause = time.Minute
		}
		p.hear(r.URL.Path, asked, resp.StatusCode, answer, min(pause, rulesPause))
	}
	resp.Body = io.NopCloser(io.MultiReader(bytes.NewReader(answer), failing{err}))
	return resp, nil
}

// failing is the end of a body, for what reason ever.
type failing struct{ err error }

func (f failing) Read([]byte) (int, error) {
	if f.err != nil {
		return 0, f.err
	}
	return 0, io.EOF
}

func (w *rulesWorld) begin(seed uint64) {
	w.logger = slog.New(slog.NewTextHandler(&w.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	w.polar = polartest.New(polartest.Config{
		Now: func() time.Time { return time.Now().Add(time.Duration(w.asleep.Load())) },
		OnBreach: func(r polartest.Request, what string) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.breach = r.Path + ": " + what
		},
	})
	w.trials = seed%2 == 1
	if seed%3 > 0 {
		w.released = w.polar.Now().Add(pick(int(seed/3), -time.Hour, 3*24*time.Hour, 20*24*time.Hour))
	}
	key := w.polar.AddKey(polartest.LicenseKey{BenefitID: benefitSmall, LimitActivations: polartest.Limit(1 + int64(seed%4))})
	w.full = w.polar.AddKey(polartest.LicenseKey{BenefitID: benefitLarge, LimitActivations: polartest.Limit(1), Activations: []polartest.Activation{{}}}).Key
	w.id, w.key, w.keys = key.ID, key.Key, []string{key.Key, w.full}
	for i := range w.computers {
		w.computers[i] = &computer{
			w: w, machine: fmt.Sprint("machine ", i), natural: true,
			names: kit.NamesOf(w.polar.OrganizationID(), "inkwell"), beside: map[string][]byte{},
		}
	}
	w.computers[0].open(0)
}

func (w *rulesWorld) sayf(format string, args ...any) {
	w.trace = append(w.trace, fmt.Sprintf(format, args...))
}

func (w *rulesWorld) failf(format string, args ...any) {
	if w.problem == "" {
		w.problem = fmt.Sprintf(format, args...)
	}
}

func (c *computer) open(i int) {
	p := &program{computer: c}
	var trial polargate.Trial
	if c.w.trials {
		trial = polargate.Trial{Days: 2, Features: []string{trialFeature}}
	}
	gate, err := polargate.Open(polargate.Config{
		OrganizationID: c.w.polar.OrganizationID(), App: "inkwell", Label: "a computer", Trial: trial, Fallback: polargate.Fallback{Released: c.w.released},
		Features: rulesFeatures, Fingerprint: c.machine, Store: p, Logger: c.w.logger,
		BaseURL: c.w.polar.URL(), HTTPClient: &http.Client{Transport: p}, Clock: p.clock,
	})
	if err != nil {
		c.w.failf("Open: %v", err)
		return
	}
	p.gate, p.looked = gate, c.w.jumps
	c.programs[i] = p
	p.judge()
}

func (c *computer) close(i int) {
	if p := c.programs[i]; p != nil {
		_ = p.gate.Close()
		p.stored(math.MaxInt)
	}
	c.programs[i] = nil
}

// askedInVain is after a check, which stores when it asked in vain.
func (p *program) askedInVain() {
	p.w.mu.Lock()
	defer p.w.mu.Unlock()
	for i := range p.beliefs {
		times := slices.Clone(p.beliefs[i].times)
		for j := range times {
			times[j].low = later(times[j].low, p.vain)
		}
		p.beliefs[i].times = times
	}
}

// stored is when the mark has to be in the file, for the next run, and with it a
// verdict after the one of that order.
func (p *program) stored(order int) {
	p.w.mu.Lock()
	defer p.w.mu.Unlock()
	in := p.w.known[string(p.file)]
	if p.file == nil || !p.natural || len(in) != 1 || len(p.beliefs) != 1 {
		return
	}
	switch own := p.beliefs[0]; {
	case own.order > order:
		in[0] = own
	case own.order == in[0].order && own.machine == p.machine:
		in[0].raise(own, false)
	}
}

// good reports whether Polar would grant the key, now and for a while.
func (w *rulesWorld) good() bool {
	k, _ := w.polar.LicenseKey(w.id)
	return k.Status == "granted" && rulesFeatures[k.BenefitID] != nil && (k.ExpiresAt.IsZero() || k.ExpiresAt.After(w.polar.Now().Add(time.Minute)))
}

// held reports whether the file on a computer has a seat under the key as it is
// now, which Polar has, too.
func (c *computer) held() (b belief, ok bool) {
	k, _ := c.w.polar.LicenseKey(c.w.id)
	c.w.mu.Lock()
	defer c.w.mu.Unlock()
	all := c.w.known[string(c.file)]
	if !c.natural || len(all) != 1 {
		return belief{}, false
	}
	b = all[0]
	return b, b.key == k.Key && slices.ContainsFunc(k.Activations, func(a polartest.Activation) bool { return a.ID == b.seat && !a.Released })
}

// theirs is what the other computer's state says that lies beside a computer's own,
// which says that there is no license here.
func (c *computer) theirs() (b belief, ok bool) {
	other := c.other()
	c.w.mu.Lock()
	defer c.w.mu.Unlock()
	own, known := c.w.known[string(c.file)]
	all := c.w.known[string(c.beside[c.names.Of(other.machine)])]
	if !known || !c.natural || len(own) != 1 || own[0].seat != "" || own[0].inDoubt || len(all) != 1 || all[0].machine != other.machine || c.beside[c.names.Index] == nil {
		return belief{}, false
	}
	return all[0], all[0].seat != ""
}

func (c *computer) other() *computer {
	if c == c.w.computers[0] {
		return c.w.computers[1]
	}
	return c.w.computers[0]
}

// begun reports whether this computer has begun something with seats that is not
// finished yet.
func (p *program) begun() bool {
	unfinished := func(data []byte) bool {
		st, err := p.stateIn(data)
		return err == nil && (len(st.Outbox) > 0 || st.Seat != nil && st.Seat.Moving)
	}
	p.w.mu.Lock()
	file := bytes.Clone(p.file)
	if file == nil {
		file = bytes.Clone(p.beside[p.names.Earlier])
	}
	p.w.mu.Unlock()
	return unfinished(file) || slices.ContainsFunc(p.programs[:], func(p *program) bool { return p != nil && unfinished(p.holds) })
}

// stateIn is what the bytes of a state say.
func (c *computer) stateIn(data []byte) (kit.State, error) {
	return kit.OpenState(polargate.Config{OrganizationID: c.w.polar.OrganizationID(), App: "inkwell"}, data)
}

// seats are those that are taken.
func (w *rulesWorld) seats() []string {
	var taken []string
	k, _ := w.polar.LicenseKey(w.id)
	for _, a := range k.Activations {
		if !a.Released {
			taken = append(taken, a.ID)
		}
	}
	return taken
}

func (w *rulesWorld) secretive(text string) {
	for _, key := range w.keys {
		if strings.Contains(text, key) {
			w.failf("the key is in %s", text)
		}
	}
	if strings.Contains(text, "a panic was caught") {
		w.failf("%s", text)
	}
}

func (w *rulesWorld) heal() {
	w.polar.ClearFaults()
	w.polar.SetOffline(false)
	time.Sleep(rulesPause + time.Minute)
	w.faulty = false
	w.sayf("the network is well")
}
