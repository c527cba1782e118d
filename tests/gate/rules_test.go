package gate

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"runtime/debug"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/polargate/polargate"
	"github.com/polargate/polargate/polartest"
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
	claimed            bool   // an import says so, and Polar has granted nothing yet

	since time.Time     // when the verdict came, by the computer's clock
	ends  time.Time     // the key's expiry, by Polar's clock; zero is never
	ahead time.Duration // how far the computer's clock was ahead of Polar's then

	last    grantedLast // what Polar said with its last grant, also after a refusal
	refusal refusal     // what Polar said instead, later

	// times are the ways in which the program may have followed its clock since; the
	// first is that it did not.
	times []timing
}

// grantedLast is what a fallback depends on: a license keeps the versions that came out while
// it lasted. Times are by Polar's clock.
type grantedLast struct {
	at, ends time.Time // both zero if it never granted; ends is zero if no end was known
	benefit  string
}

// refusal is what Polar refuses a license for.
type refusal int

const (
	notRefused refusal = iota
	refusedExpired
	refusedInactive
	refusedOtherwise
)

// lapsed is until when a license that lapsed was covered, at least and at most; ok is false if it
// did not lapse, but was taken back, or counts.
func (b belief) lapsed() (least, most time.Time, ok bool) {
	g := b.last
	switch {
	case g.at.IsZero() || rulesFeatures[g.benefit] == nil || b.seat == "":
		return time.Time{}, time.Time{}, false
	case b.refusal == refusedInactive && g.ends.IsZero():
		return g.at, g.at, true // a key without an end, that Polar ends
	case b.refusal == refusedExpired && g.ends.IsZero():
		return g.at, g.at, true
	case b.refusal == refusedExpired:
		return sooner(g.at, g.ends), later(g.at, g.ends), true
	case b.refusal == notRefused && b.granted && !g.ends.IsZero():
		return g.ends, g.ends, true // by its own date, whatever Polar would say
	}
	return time.Time{}, time.Time{}, false
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
		Detail any      `json:"detail"`
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
		b.last = grantedLast{p.w.polar.Now(), b.ends, l.BenefitID}
		// An import that turns out to be of another product confirms nothing.
		b.claimed = rulesFeatures[l.BenefitID] == nil && slices.ContainsFunc(p.beliefs, func(o belief) bool { return about(o) && o.claimed })
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
				b.order, b.granted, b.refusal = p.w.order, false, refusedOtherwise
				detail, _ := a.Detail.(string)
				switch {
				case strings.Contains(detail, "expired"):
					b.refusal = refusedExpired
				case strings.Contains(detail, "no longer active"), l.Status == "paused":
					b.refusal = refusedInactive
				}
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

// trialFeature is what a trial unlocks, in the worlds that have one.
const trialFeature = "trying"

// judgeTrial holds a trial against what the program believes. w.mu is held.
func (p *program) judgeTrial(status polargate.Status) {
	held := slices.ContainsFunc(p.beliefs, func(b belief) bool { return b.seat != "" && b.machine == p.machine && !b.claimed })
	switch {
	case !p.w.trials || !slices.Equal(status.Features, []string{trialFeature}) || !p.gate.Has(trialFeature):
		p.w.failf("SAFE: %s is in a trial with %v", p.machine, status.Features)
	case p.sure && p.natural && len(p.beliefs) == 1 && (held || p.had && bytes.Equal(p.holds, p.file)):
		p.w.failf("SAFE: %s is in a trial beside or after a license, and believes %+v", p.machine, p.beliefs)
	}
}

// judgeFallback holds a license that has ended, and is worth something, against what the program
// believes, and reports whether it has to be worth something. w.mu is held.
func (p *program) judgeFallback(status polargate.Status) (must bool) {
	mayKeep := func(b belief) bool {
		_, most, ok := b.lapsed()
		return ok && b.machine == p.machine && !p.w.released.After(most.Add(rulesWay)) && slices.Equal(rulesFeatures[b.last.benefit], status.Features)
	}
	if status.State == polargate.Perpetual && (p.w.released.IsZero() || !slices.ContainsFunc(p.beliefs, mayKeep)) {
		p.w.failf("SAFE: %s keeps a version that came out at %s: %s with %v, and believes %+v", p.machine, p.w.released, status.Reason, status.Features, p.beliefs)
	}
	if p.w.released.IsZero() || !p.sure || len(p.beliefs) != 1 || p.beliefs[0].refusal == notRefused || p.beliefs[0].machine != p.machine {
		return false
	}
	least, _, ok := p.beliefs[0].lapsed()
	return ok && !p.w.released.After(least)
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
	in := status.OK() && status.State != polargate.InTrial
	if status.State == polargate.InTrial {
		p.judgeTrial(status)
	}
	keeps := p.judgeFallback(status)
	for _, f := range rulesFeatures[benefitLarge] {
		if has := slices.Contains(status.Features, f); p.gate.Has(f) != has || status.Has(f) != has {
			p.w.failf("%s: Has(%q) is %v, and the status has %v", p.machine, f, p.gate.Has(f), status.Features)
		}
		in = in || p.gate.Has(f)
	}
	right := status.State == polargate.Perpetual || slices.ContainsFunc(p.beliefs, func(b belief) bool {
		return b.may(p.machine, now) && slices.Equal(rulesFeatures[b.benefit], status.Features)
	})
	switch {
	case in && !right:
		p.w.failf("SAFE: %s is let in: %s %s with %v at %s, and believes %+v", p.machine, status.State, status.Reason, status.Features, now, p.beliefs)
	case keeps && aware && status.State != polargate.Perpetual:
		p.w.failf("LIVE: %s keeps no version: %s %s at %s, and believes %+v", p.machine, status.State, status.Reason, now, p.beliefs)
	case !in && aware && p.sure && len(p.beliefs) == 1 && p.beliefs[0].must(p.machine, now):
		p.w.failf("LIVE: %s is kept out: %s %s at %s, and believes %+v", p.machine, status.State, status.Reason, now, p.beliefs)
	}
	if p.w.breach != "" {
		p.w.failf("%s", p.w.breach)
	}
}

// call does something with a program that asks Polar, and judges it.
func (p *program) call(name, key string) { p.callWith(name, key, 0) }

// callWith is call for an import that was verified so long from now.
func (p *program) callWith(name, key string, verified time.Duration) {
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
	case "Ensure":
		live = live && key == w.key && !held && p.nothing() && free
		status, err = p.gate.Ensure(context.Background(), key)
	case "Import":
		a := polargate.ImportedActivation{Key: key, ActivationID: w.elsewhere(p.machine), Conditions: map[string]any{"fingerprint": p.machine}, BenefitID: benefitSmall, CheckedAt: p.now().Add(verified)}
		live = live && key == w.key
		w.mu.Lock()
		st, unread := p.stateIn(p.file)
		p.importing = &importing{a: a, sure: p.natural && len(p.beliefs) == 1 && p.sure && p.file == nil && p.beside[p.names.Earlier] == nil && p.beliefs[0].order == 0 && !p.beliefs[0].inDoubt}
		p.importing.counts = verified <= rulesSlack && (p.file == nil || unread != nil || st.Owner != p.machine || st.Seat == nil && !st.Left && st.Intent == nil && len(st.Outbox) == 0)
		w.mu.Unlock()
		status, err = p.gate.Import(context.Background(), a)
		w.mu.Lock()
		p.importing = nil
		w.mu.Unlock()
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
	if name == "Check" && status.State == polargate.Perpetual {
		live = false // it is asked about as a license that lasts
	}
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
	if name != "Check" && name != "Refresh" && (name != "Ensure" || !held || key != b.key) {
		return
	}
	after := w.seats()
	if !begun && !slices.Equal(before, after) {
		w.failf("SEATS: %s: %s made of %q %q", p.machine, name, before, after)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if p.natural && p.sure && len(p.beliefs) == 1 && p.beliefs[0].seat != "" && p.file == nil && p.beside[p.names.Earlier] == nil {
		w.failf("LOST: %s: after %s the state that was deleted is not there", p.machine, name)
	}
}

// nothing reports whether a program certainly has no license, and none in doubt.
func (p *program) nothing() bool {
	p.w.mu.Lock()
	defer p.w.mu.Unlock()
	if st, err := p.stateIn(p.file); err == nil && st.Intent != nil {
		return false // the other program on this computer began it
	}
	return p.natural && p.sure && len(p.beliefs) == 1 && p.beliefs[0].seat == "" && !p.beliefs[0].inDoubt && p.beside[p.names.Earlier] == nil
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
