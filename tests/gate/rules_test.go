package gate

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math"
	"math/rand/v2"
	"net/http"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/polargate/polargate"
	"github.com/polargate/polargate/polartest"
	"github.com/polargate/polargate/tests/internal/kit"
)

var (
	rulesSequences = flag.Int("rules.sequences", 250, "how many random sequences the test of the rules plays")
	rulesSeed      = flag.Uint64("rules.seed", 1, "the seed of the first of -rules.sequences; the others follow it")
)

// Two things must hold after every step of every sequence. Safe: who is let in
// has a license that this program was told of, by Polar or by its own file, and
// which still counts. Live: who has a license is let in, and as soon as Polar
// can be asked, whatever came before.
func TestNoSequenceOfEventsLetsTheUnlicensedInOrKeepsTheLicensedOut(t *testing.T) {
	t.Parallel()
	for seed := *rulesSeed; seed < *rulesSeed+uint64(*rulesSequences); seed++ {
		steps := randomSteps(seed)
		problem, _ := play(t, seed, steps)
		if problem == "" {
			continue
		}
		steps = fewest(steps, func(fewer []step) bool { p, _ := play(t, seed, fewer); return p != "" })
		for range 5 { // pauses between retries are random, and so may be the end
			if p, trace := play(t, seed, steps); p != "" {
				t.Fatalf("seed %d: %s\nafter\n\t%s", seed, p, strings.Join(trace, "\n\t"))
			}
		}
		t.Fatalf("seed %d: %s\n(not always, and never again with fewer steps)", seed, problem)
	}
}

// The rules, as the documents give them.

const (
	rulesFresh = 24 * time.Hour
	rulesGrace = 14 * 24 * time.Hour
	rulesSlack = time.Hour      // how far a clock may be behind without alarm, and how late its marks may be
	rulesDay   = 26 * time.Hour // how far a clock may be behind and be followed
	rulesSkew  = 5 * time.Minute
	rulesPause = 15 * time.Minute
	rulesVain  = 30 * time.Second // how long an outage is believed
	rulesWay   = 10 * time.Second // how long an answer may be under way
)

// belief is what a program may believe of its license. It is made of what came
// over the wire, and goes from program to program through the stored state.
type belief struct {
	order   int // of the verdict, among all that came over any wire; 0 is none
	granted bool
	benefit string

	key, seat, machine string // which seat the verdict is about; "" once it was given back
	inDoubt            bool   // an activation got no answer

	since time.Time     // when the verdict came, by the computer's clock
	ends  time.Time     // the key's expiry, by Polar's clock; zero is never
	ahead time.Duration // how far the computer's clock was ahead of Polar's then

	// times are the ways in which the program may have followed its clock since; the
	// first is that it did not.
	times []timing
}

// timing is how a program may count the time since a verdict.
type timing struct {
	// least and most are how far it moved the verdict back with the clock.
	least, most time.Duration
	// The mark, the highest time seen since the verdict came, or since the clock was
	// followed, lies between them: not every look at the clock is stored.
	low, high time.Time
}

// like reports whether two of them need no telling apart.
func (w timing) like(o timing) bool {
	return (w.least-o.least).Abs() <= 2*rulesSlack && (w.most-o.most).Abs() <= 2*rulesSlack &&
		w.low.Sub(o.low).Abs() <= 2*rulesSlack && w.high.Sub(o.high).Abs() <= 2*rulesSlack
}

// withTiming is a list, which is not changed, and one more if it is not there.
func withTiming(all []timing, w timing) []timing {
	for i, o := range all {
		if o == w {
			return all
		}
		if i > 0 && o.like(w) {
			all = slices.Clone(all)
			all[i] = timing{min(o.least, w.least), max(o.most, w.most), sooner(o.low, w.low), later(o.high, w.high)}
			return all
		}
	}
	return append(slices.Clip(all), w)
}

// expiry is when the key expires by the computer's clock. Below rulesSkew
// either clock may be the one that counts.
func (b belief) expiry() (least, most time.Time) {
	corrected := b.ends.Add(b.ahead)
	switch {
	case b.ends.IsZero():
		never := b.since.Add(rulesGrace)
		return never, never
	case b.ahead == 0:
		return b.ends, b.ends.Add(rulesWay) // a late answer looks like a clock that is ahead
	case b.ahead.Abs() > rulesSkew+rulesWay:
		return corrected, corrected.Add(rulesWay)
	case b.ahead < 0:
		return corrected, b.ends.Add(rulesWay)
	}
	return b.ends, corrected.Add(rulesWay)
}

func (b belief) counts(machine string, now, mark, expiry time.Time, moved time.Duration) bool {
	if !b.granted || b.machine != machine || rulesFeatures[b.benefit] == nil || mark.Sub(now) > rulesSlack {
		return false
	}
	if now.Before(mark) {
		now = mark
	}
	return now.Before(b.since.Add(rulesGrace-moved)) && now.Before(expiry.Add(-moved))
}

// may and must say whether the program may be let in, and whether it has to be.
func (b belief) may(machine string, now time.Time) bool {
	_, most := b.expiry()
	return slices.ContainsFunc(b.times, func(w timing) bool { return b.counts(machine, now, w.low, most, w.least) })
}

func (b belief) must(machine string, now time.Time) bool {
	least, _ := b.expiry()
	return len(b.times) > 0 && !slices.ContainsFunc(b.times, func(w timing) bool { return !b.counts(machine, now, w.high, least, w.most) })
}

func (b *belief) see(now time.Time) {
	var moved []timing
	times := slices.Clone(b.times)
	for i, w := range times {
		least, most := w.low.Sub(now), w.high.Sub(now)
		// By Polar's clock the verdict is from since less ahead, give or take.
		honest := !now.Before(b.since.Add(-b.ahead - rulesSlack - rulesWay - rulesSkew))
		explained := max(rulesDay, rulesSlack+b.ahead-w.least+rulesWay+rulesSkew)
		if honest && most > rulesSlack && least <= explained {
			moved = append(moved, timing{w.least + max(least, rulesSlack), w.most + most, now, now})
		}
		times[i].low, times[i].high = later(w.low, now.Add(-rulesSlack)), later(w.high, now)
	}
	for _, w := range moved {
		times = withTiming(times, w)
	}
	b.times = times
}

// raise has the marks be at least as late as another's that counts alike.
func (b *belief) raise(o belief, high bool) {
	b.times = slices.Clone(b.times)
	for i := range b.times {
		w := &b.times[i]
		for _, other := range o.times {
			if other.least == w.least && other.most == w.most {
				w.low = later(w.low, other.low)
				if high {
					w.high = later(w.high, other.high)
				}
			}
		}
	}
}

// learn makes of what a program believes and of what it reads in its file what
// it believes then: the later verdict, with what was seen of the time by either.
// After tampering it may be any of them.
func learn(own, read []belief, natural bool) []belief {
	if !natural || len(own) > 1 || len(read) > 1 {
		all := slices.Clone(own)
		for _, b := range read {
			i := slices.IndexFunc(all, func(o belief) bool { return o.order == b.order && o.granted == b.granted })
			if i < 0 {
				all = append(all, b)
			} else {
				for _, w := range b.times {
					all[i].times = withTiming(all[i].times, w)
				}
			}
		}
		return all
	}
	a, b := own[0], read[0]
	switch {
	case a.order > b.order:
		return []belief{a}
	case a.order == b.order:
		c := b
		b.raise(a, true)
		a.raise(c, true)
		for _, w := range a.times[min(1, len(a.times)):] {
			b.times = withTiming(b.times, w)
		}
	}
	return []belief{b}
}

func sooner(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// The benefits of the vendor, of which this program accepts two.
const (
	benefitSmall   = "11111111-0000-4000-8000-000000000001"
	benefitLarge   = "11111111-0000-4000-8000-000000000002"
	benefitForeign = "11111111-0000-4000-8000-000000000003"
)

var rulesFeatures = map[string][]string{benefitSmall: {"export"}, benefitLarge: {"cloud", "export", "sync"}}

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

	faulty  bool      // something is in the way of Polar, or may be
	jumps   int       // how often a clock was set, or the computers slept
	jumped  time.Time // when it was the last time
	trace   []string
	problem string

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
	p.file, p.natural = bytes.Clone(data), p.sure
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

// hear takes down what an answer says of the license.
func (p *program) hear(path string, asked []byte, status int, answer []byte, pause time.Duration) {
	type license struct {
		ID             string     `json:"id"`
		Key            string     `json:"key"`
		OrganizationID string     `json:"organization_id"`
		BenefitID      string     `json:"benefit_id"`
		Status         string     `json:"status"`
		ExpiresAt      *time.Time `json:"expires_at"`
	}
	var q struct {
		Key          string `json:"key"`
		ActivationID string `json:"activation_id"`
	}
	var a struct {
		license
		Error  string   `json:"error"`
		Nested *license `json:"license_key"`
	}
	_ = json.Unmarshal(asked, &q)
	if json.Unmarshal(answer, &a) != nil {
		a.license, a.Nested, a.Error = license{}, nil, ""
	}
	l, seat := a.license, q.ActivationID
	activate := strings.HasSuffix(path, "/activate")
	if activate && a.Nested != nil {
		l, seat = *a.Nested, a.ID
	}
	now := p.now()
	truth, _ := p.w.polar.LicenseKey(p.w.id)

	p.w.mu.Lock()
	defer p.w.mu.Unlock()
	p.w.order++
	if status == 429 {
		p.w.paused = time.Now().Add(pause)
	}
	about := func(b belief) bool { return b.seat != "" && b.seat == seat && b.key == q.Key }
	refused := l.ID == p.w.id && l.Key == q.Key && l.Status == "paused" ||
		status == 404 && a.Error == "ResourceNotFound" || status == 403 && a.Error == "NotPermitted" || status == 400 && a.Error == "BadRequest"
	switch {
	case status == 200 && l.ID == p.w.id && l.Key == q.Key && l.OrganizationID == p.w.polar.OrganizationID() && l.Status == "granted":
		i := slices.IndexFunc(truth.Activations, func(o polartest.Activation) bool { return o.ID == seat })
		if i < 0 || truth.Activations[i].Conditions["fingerprint"] != p.machine {
			return // it is about the key alone, or about a seat of another computer
		}
		if rulesFeatures[l.BenefitID] == nil && !slices.ContainsFunc(p.beliefs, about) {
			return // a refusal, but not of the license that is held
		}
		b := belief{order: p.w.order, granted: true, benefit: l.BenefitID, key: q.Key, seat: seat, machine: p.machine, since: now, times: []timing{{low: now, high: now}}}
		if l.ExpiresAt != nil {
			b.ends = *l.ExpiresAt
		}
		b.ahead = time.Duration(p.wrong.Load())
		p.beliefs, p.sure = []belief{b}, true
	case strings.HasSuffix(path, "/validate") && !refused:
		p.vain, p.rests, p.restsTruly = now, now, p.w.now()
	case activate && !refused:
		for i := range p.beliefs {
			p.beliefs[i].inDoubt = true
		}
	case refused && strings.HasSuffix(path, "/validate"), status == 204:
		for i, b := range p.beliefs {
			if about(b) {
				b.order, b.granted = p.w.order, false
				if status == 204 {
					b.key, b.seat = "", ""
				}
				p.beliefs[i] = b
			}
		}
	}
}

// play lets a world go through steps, and says what went wrong.
func play(t *testing.T, seed uint64, steps []step) (problem string, trace []string) {
	t.Helper()
	w := &rulesWorld{known: map[string][]belief{"": {{}}}}
	defer func() {
		if r := recover(); r != nil {
			problem, trace = fmt.Sprintf("panic: %v\n%s", r, debug.Stack()), w.trace
		}
	}()
	synctest.Test(t, func(t *testing.T) {
		defer func() {
			if r := recover(); r != nil {
				w.failf("panic: %v\n%s", r, debug.Stack())
			}
			for _, c := range w.computers {
				for i := range c.programs {
					c.close(i)
				}
			}
		}()
		w.begin(seed)
		for _, s := range steps {
			if s.do(w); w.problem != "" {
				return
			}
		}
		w.finale()
	})
	return w.problem, w.trace
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
	gate, err := polargate.Open(polargate.Config{
		OrganizationID: c.w.polar.OrganizationID(), App: "inkwell", Label: "a computer",
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

// judge holds what a program does against what it believes.
func (p *program) judge() {
	synctest.Wait()
	now := p.now()
	status := p.gate.Status()
	aware := p.looked == p.w.jumps
	if !aware && time.Since(p.w.jumped) <= time.Minute+time.Second {
		return // it need not have noticed yet
	}
	p.w.mu.Lock()
	defer p.w.mu.Unlock()
	in := status.OK()
	for _, f := range rulesFeatures[benefitLarge] {
		if has := slices.Contains(status.Features, f); p.gate.Has(f) != has || status.Has(f) != has {
			p.w.failf("%s: Has(%q) is %v, and the status has %v", p.machine, f, p.gate.Has(f), status.Features)
		}
		in = in || p.gate.Has(f)
	}
	right := slices.ContainsFunc(p.beliefs, func(b belief) bool {
		return b.may(p.machine, now) && slices.Equal(rulesFeatures[b.benefit], status.Features)
	})
	switch {
	case in && !right:
		p.w.failf("SAFE: %s is let in: %s %s with %v at %s, and believes %+v", p.machine, status.State, status.Reason, status.Features, now, p.beliefs)
	case !in && aware && p.sure && len(p.beliefs) == 1 && p.beliefs[0].must(p.machine, now):
		p.w.failf("LIVE: %s is kept out: %s %s at %s, and believes %+v", p.machine, status.State, status.Reason, now, p.beliefs)
	}
	if p.w.breach != "" {
		p.w.failf("%s", p.w.breach)
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
	return unfinished(p.holds) || unfinished(file)
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

// call does something with a program that asks Polar, and judges it.
func (p *program) call(name, key string) {
	w := p.w
	b, held := p.held()
	before, begun := w.seats(), p.begun()
	k, _ := w.polar.LicenseKey(w.id)
	free := int64(w.polar.Seats(w.id)) < *k.LimitActivations
	live := !w.faulty && w.good()
	var status polargate.Status
	var err error
	w.mu.Lock()
	p.vain = time.Time{}
	order := w.order
	w.mu.Unlock()
	switch name {
	case "Check":
		// To a clock that was set to that very moment it is a moment ago.
		rests := p.now().Sub(p.rests)
		live = live && (rests < 0 || rests >= rulesVain)
		live = live && held && b.machine == p.machine
		status, err = p.gate.Check(context.Background())
		if status.OK() != (err == nil) {
			w.failf("Check says %s and %v", status.State, err)
		}
	case "Refresh":
		live = live && held && b.machine == p.machine
		status, err = p.gate.Refresh(context.Background())
	case "Move":
		theirs, there := p.theirs()
		taken := slices.Contains(before, theirs.seat)
		live = live && there && theirs.key == w.key && (taken || free)
		status, err = p.gate.Move(context.Background())
	case "Activate":
		live = live && key == w.key && (held || free)
		status, err = p.gate.Activate(context.Background(), key)
	case "Deactivate":
		live = false
		w.mu.Lock()
		w.order++
		p.beliefs, p.sure = []belief{{order: w.order}}, true
		w.mu.Unlock()
		err = p.gate.Deactivate(context.Background())
		status = p.gate.Status()
	}
	p.looked = w.jumps
	if name == "Check" && status.State == polargate.Grace && p.w.now().Sub(p.restsTruly) < rulesVain {
		live = false // asked in vain a moment ago, by a clock that was set back since
	}
	w.sayf("%s: %s: %s %s %v, %v", p.machine, name, status.State, status.Reason, status.Features, err)
	synctest.Wait()
	if name == "Check" || name == "Refresh" {
		p.askedInVain()
	}
	p.stored(order)
	if name == "Check" || name == "Refresh" || live {
		p.judge()
	}
	if live && (status.State != polargate.Active || err != nil && name != "Check" || name != "Check" && !slices.Equal(status.Features, rulesFeatures[k.BenefitID])) {
		w.failf("LIVE: %s: %s at %s: %s %s %v, %v", p.machine, name, p.now(), status.State, status.Reason, status.Features, err)
	}
	said, jsonErr := json.Marshal(status)
	w.secretive(fmt.Sprintf("%s %v %v %+v %v %s", said, jsonErr, err, err, status, polargate.Message(err)))
	time.Sleep(6 * time.Second) // for what goes on behind the caller's back
	p.judge()
	if name != "Check" && name != "Refresh" {
		return
	}
	if after := w.seats(); !begun && !slices.Equal(before, after) {
		w.failf("SEATS: %s: %s made of %q %q", p.machine, name, before, after)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if p.natural && p.sure && len(p.beliefs) == 1 && p.beliefs[0].seat != "" && p.file == nil && p.beside[p.names.Earlier] == nil {
		w.failf("LOST: %s: after %s the state that was deleted is not there", p.machine, name)
	}
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

// finale puts everything right but the clocks and the files, and lets everybody in.
func (w *rulesWorld) finale() {
	w.heal()
	w.polar.Update(w.id, func(k *polartest.LicenseKey) {
		k.Status, k.BenefitID, k.ExpiresAt = "granted", benefitLarge, time.Time{}
		k.LimitActivations = polartest.Limit(int64(len(k.Activations) + 4))
	})
	w.sayf("all is well at Polar")
	for _, c := range w.computers {
		if c.programs[0] == nil {
			c.open(0)
		}
		if p := c.programs[0]; p != nil {
			p.call("Refresh", "")
			p.call("Activate", w.key)
			p.call("Check", "")
		}
	}
	w.secretive(w.log.String())
}

func (w *rulesWorld) heal() {
	w.polar.ClearFaults()
	w.polar.SetOffline(false)
	time.Sleep(rulesPause + time.Minute)
	w.faulty = false
	w.sayf("the network is well")
}

// step is one event, with the numbers that decide its details.
type step struct{ kind, a, b, c int }

func randomSteps(seed uint64) []step {
	r := rand.New(rand.NewPCG(seed, 0))
	var total int
	for _, k := range kinds {
		total += k.weight
	}
	steps := []step{{kind: activation}} // most sequences are of no use without a license
	for range 30 + r.IntN(20) {
		n, kind := r.IntN(total), 0
		for n >= kinds[kind].weight {
			n -= kinds[kind].weight
			kind++
		}
		steps = append(steps, step{kind, r.IntN(1 << 16), r.IntN(1 << 16), r.IntN(1 << 16)})
	}
	return steps
}

func (s step) do(w *rulesWorld) {
	c := w.computers[0]
	if s.c%5 == 0 {
		c = w.computers[1]
	}
	kinds[s.kind].do(w, c, s)
	for _, c := range w.computers {
		for _, p := range c.programs {
			if p != nil {
				p.judge()
			}
		}
	}
}

func pick[T any](n int, of ...T) T { return of[n%len(of)] }

// running is one of the programs on a computer, which is started if there is none.
func (c *computer) running(n int) *program {
	for i := range c.programs {
		if p := c.programs[(n+i)%len(c.programs)]; p != nil {
			return p
		}
	}
	c.open(0)
	return c.programs[0]
}

func (c *computer) closeAll() {
	for i := range c.programs {
		c.close(i)
	}
}

func (w *rulesWorld) jump() { w.jumps, w.jumped = w.jumps+1, time.Now() }

// sleepOver lets time pass, as for a computer that is shut: timers stand still.
func (w *rulesWorld) sleepOver(d time.Duration) {
	w.asleep.Add(int64(d))
	w.jump()
}

// edges are the moments at which something changes by itself, by a computer's clock.
func (c *computer) edges() []time.Time {
	c.w.mu.Lock()
	defer c.w.mu.Unlock()
	all := c.w.known[string(c.file)]
	for _, p := range c.programs {
		if p != nil {
			all = append(slices.Clone(all), p.beliefs...)
		}
	}
	var edges []time.Time
	for _, b := range all {
		if b.granted {
			edges = append(edges, b.since.Add(-rulesSlack), b.since.Add(-b.ahead-rulesSlack))
			for _, w := range b.times {
				since := b.since.Add(-w.most)
				edges = append(edges, since.Add(rulesFresh), since.Add(rulesFresh/2), since.Add(rulesGrace), w.high.Add(-rulesSlack), w.high.Add(-rulesDay))
				if least, _ := b.expiry(); !b.ends.IsZero() {
					edges = append(edges, least.Add(-w.most))
				}
			}
		}
	}
	return edges
}

var second = []time.Duration{-time.Second, 0, time.Second}

// activation is the kind of step that activates the key.
const activation = 0

var kinds = []struct {
	weight int
	do     func(w *rulesWorld, c *computer, s step)
}{
	activation: {5, func(w *rulesWorld, c *computer, s step) {
		key := w.key
		if s.a%4 == 3 {
			key = pick(s.c, w.keys...)
		}
		if p := c.running(s.b); p != nil {
			p.call("Activate", key)
		}
	}},
	{12, func(_ *rulesWorld, c *computer, s step) {
		if p := c.running(s.a); p != nil {
			p.call("Check", "")
		}
	}},
	{6, func(_ *rulesWorld, c *computer, s step) {
		if p := c.running(s.a); p != nil {
			p.call("Refresh", "")
		}
	}},
	{2, func(_ *rulesWorld, c *computer, s step) {
		if p := c.running(s.a); p != nil {
			p.call("Deactivate", "")
		}
	}},
	{4, func(_ *rulesWorld, c *computer, s step) {
		if p := c.running(s.a); p != nil {
			p.call("Move", "")
		}
	}},
	{5, func(w *rulesWorld, _ *computer, s step) {
		d := pick(s.a, time.Second, 5*time.Second, 31*time.Second, 61*time.Second, 11*time.Minute)
		w.sayf("%v pass", d)
		time.Sleep(d)
	}},
	{6, func(w *rulesWorld, _ *computer, s step) {
		d := pick(s.a, time.Hour, 5*time.Hour, 13*time.Hour, 25*time.Hour, 3*24*time.Hour, 7*24*time.Hour, 15*24*time.Hour, 40*24*time.Hour)
		w.sayf("%v pass", d)
		w.sleepOver(d)
		if s.b%2 == 0 {
			time.Sleep(62 * time.Second)
		}
	}},
	{10, func(w *rulesWorld, c *computer, s step) { // to a moment that matters, or close by
		edges := c.edges()
		if len(edges) == 0 {
			return
		}
		d := pick(s.a, edges...).Add(pick(s.b, second...)).Sub(c.now())
		switch {
		case d <= 0 && s.b%2 == 0:
			c.wrong.Add(int64(d))
			w.jump()
			w.sayf("%s: the clock goes back by %v to %s", c.machine, -d, c.now())
		case d > 2*time.Minute:
			w.sleepOver(d - 2*time.Minute)
			time.Sleep(2 * time.Minute)
			w.sayf("%v pass, until %s on %s", d, c.now(), c.machine)
		case d > 0:
			time.Sleep(d)
			w.sayf("%v pass, until %s on %s", d, c.now(), c.machine)
		}
	}},
	{6, func(w *rulesWorld, c *computer, s step) {
		d := pick(s.a, 2*time.Minute, 4*time.Minute, 30*time.Minute, time.Hour-time.Second, time.Hour, time.Hour+time.Second, 5*time.Hour, 3*24*time.Hour, 13*24*time.Hour, 2*365*24*time.Hour)
		if s.b%2 == 0 {
			d = -d
		}
		c.wrong.Add(int64(d))
		w.jump()
		w.sayf("%s: the clock is set by %v to %s", c.machine, d, c.now())
	}},
	{3, func(w *rulesWorld, c *computer, _ step) {
		c.wrong.Store(0)
		w.jump()
		w.sayf("%s: the clock is right, %s", c.machine, c.now())
	}},
	{10, (*rulesWorld).vendor},
	{8, (*rulesWorld).fault},
	{6, func(w *rulesWorld, _ *computer, _ step) { w.heal() }},
	{4, func(w *rulesWorld, _ *computer, _ step) {
		w.polar.SetOffline(true)
		w.faulty = true
		w.sayf("the network is gone")
	}},
	{8, func(w *rulesWorld, c *computer, s step) {
		c.closeAll()
		w.sayf("%s: restart", c.machine)
		if s.a%4 > 0 {
			c.open(0)
		}
		if p := c.programs[0]; p != nil && s.a%4 > 1 {
			p.call("Check", "")
		}
	}},
	{3, func(w *rulesWorld, c *computer, _ step) {
		if c.programs[1] != nil {
			c.close(1)
			w.sayf("%s: the second program ends", c.machine)
			return
		}
		c.open(1)
		w.sayf("%s: a second program", c.machine)
	}},
	{5, (*rulesWorld).tamper},
}

// vendor is what happens at Polar.
func (w *rulesWorld) vendor(_ *computer, s step) {
	now := w.polar.Now()
	var what string
	rotate := false
	w.polar.Update(w.id, func(k *polartest.LicenseKey) {
		switch s.a % 14 {
		case 0:
			what, k.Status = "revoked", "revoked"
		case 1:
			what, k.Status = "disabled", "disabled"
		case 2, 3, 4:
			what, k.Status = "granted", "granted"
		case 5:
			what, k.ExpiresAt = "expired", now.Add(-time.Second)
		case 6, 7:
			d := pick(s.b, 90*time.Second, 4*time.Minute, time.Hour, 20*time.Hour, 3*24*time.Hour, 30*24*time.Hour)
			what, k.ExpiresAt = fmt.Sprint("expires in ", d), now.Add(d).Truncate(time.Second)
		case 8:
			what, k.ExpiresAt = "does not expire", time.Time{}
		case 9:
			what = "a seat is released"
			if n := len(k.Activations); n > 0 {
				k.Activations[s.b%n].Released = true
			}
		case 10:
			what, rotate = "rotated", k.Status != "revoked"
		case 11:
			what, k.BenefitID = "of another benefit", pick(s.b, benefitForeign, benefitSmall, benefitLarge)
		case 12:
			what, k.BenefitID = "of the large benefit", benefitLarge
		case 13:
			what, k.Status, k.BenefitID, k.ExpiresAt = "good again", "granted", benefitSmall, time.Time{}
		}
	})
	if rotate {
		w.key = w.polar.Rotate(w.id)
		w.keys = append(w.keys, w.key)
	}
	w.sayf("the key is now: %s", what)
}

func (w *rulesWorld) fault(_ *computer, s step) {
	changed := func(change func(map[string]any)) polartest.Effect {
		return polartest.Rewrite(func(status int, header http.Header, body []byte) (int, []byte) {
			var m map[string]any
			if status != 200 || json.Unmarshal(body, &m) != nil {
				return status, body
			}
			change(m)
			if nested, ok := m["license_key"].(map[string]any); ok {
				change(nested)
			}
			if m["status"] != "paused" { // that is an answer, though of Polar's future
				header.Set(struck, "yes")
			}
			body, _ = json.Marshal(m)
			return status, body
		})
	}
	page := func(status int, body string) polartest.Effect {
		return polartest.Body(status, "application/json", body)
	}
	faults := []struct {
		name   string
		effect polartest.Effect
	}{
		{"a login page", polartest.LoginPage(200)},
		{"a login page with 511", polartest.LoginPage(511)},
		{"a redirect to a login page", polartest.LoginPage(302)},
		{"a page with 403", polartest.ProxyPage(403)},
		{"a page with 404", polartest.ProxyPage(404)},
		{"a page with 407", polartest.ProxyPage(407)},
		{"a page with 502", polartest.ProxyPage(502)},
		{"no such path", polartest.RouterNotFound()},
		{"a pause", polartest.RateLimited("")},
		{"a short pause", polartest.RateLimited("2")},
		{"a pause without end", polartest.RateLimited("99999999")},
		{"500", polartest.ServerError(500)},
		{"503", polartest.ServerError(503)},
		{"garbage", polartest.Garbage()},
		{"{}", page(200, "{}")},
		{"null", page(200, "null")},
		{"401", page(401, `{"error":"Unauthorized","detail":"Unauthorized"}`)},
		{"422", page(422, `{"error":"RequestValidationError","detail":[]}`)},
		{"403 in another shape", page(403, `{"error":"Blocked","detail":"by policy"}`)},
		{"a reset", polartest.Reset()},
		{"a close", polartest.Close()},
		{"a lost answer", polartest.AnswerLost()},
		{"half an answer", polartest.Truncated()},
		{"silence", polartest.Hang()},
		{"a late answer", polartest.Delay(3 * time.Second)},
		{"a very late answer", polartest.Delay(8 * time.Second)},
		{"another key", changed(func(m map[string]any) { m["key"] = "POLAR-another" })},
		{"another organization", changed(func(m map[string]any) { m["organization_id"] = benefitForeign })},
		{"no benefit", changed(func(m map[string]any) { delete(m, "benefit_id") })},
		{"a status of the future", changed(func(m map[string]any) { m["status"] = "paused" })},
		{"no status", changed(func(m map[string]any) { delete(m, "status") })},
	}
	f := pick(s.a, faults...)
	path := pick(s.b, "", "", "/validate", "/activate", "/activate", "/deactivate")
	times := pick(s.c, 0, 0, 1, 2)
	w.polar.Inject(polartest.Fault{Path: path, Times: times, Effect: f.effect})
	w.faulty = true
	w.sayf("in Polar's place: %s, at %q, %d times", f.name, path, times)
}

// tamper does to the file what a user can.
func (w *rulesWorld) tamper(c *computer, s step) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(c.file) == 0 {
		return
	}
	other := c.other()
	put := func(c *computer, data []byte, what string) {
		c.file, c.natural = data, false
		w.sayf("%s: the file is %s", c.machine, what)
	}
	switch data := bytes.Clone(c.file); s.a % 13 {
	case 0:
		data[s.b%len(data)] ^= 1 << (s.a % 8)
		put(c, data, "flipped in a bit")
	case 1:
		put(c, data[:s.b%len(data)], "cut off")
	case 2:
		put(c, []byte(strings.Repeat("foreign", 1+s.b%100)), "foreign")
	case 3:
		// One program that runs knows what was in it.
		natural := c.natural && (c.programs[0] == nil) != (c.programs[1] == nil)
		put(c, nil, "deleted")
		c.natural = natural
	case 4, 5:
		c.copies = append(c.copies, data)
		w.sayf("%s: the file is copied", c.machine)
	case 6, 7:
		if len(c.copies) > 0 {
			put(c, bytes.Clone(pick(s.b, c.copies...)), "an old copy")
		}
	case 8:
		put(other, data, "one of the other computer")
	case 9:
		if c.programs[0] == nil && c.programs[1] == nil {
			c.beside[c.names.Earlier], c.file = data, nil
			w.sayf("%s: the file is where an earlier build kept it", c.machine)
		}
	default:
		// As a backup or a disk image is; half the time there is a state already.
		maps.Copy(other.beside, map[string][]byte{c.names.Of(c.machine): data, c.names.Index: bytes.Clone(c.beside[c.names.Index])})
		w.sayf("%s: the folder is that of the other computer", other.machine)
	}
}

// fewest takes away what a failure does not need.
func fewest(steps []step, fails func([]step) bool) []step {
	for size := len(steps); size > 0; size /= 2 {
		for at := 0; at+size <= len(steps); {
			if fewer := slices.Delete(slices.Clone(steps), at, at+size); fails(fewer) {
				steps = fewer
			} else {
				at += size
			}
		}
	}
	return steps
}
