package gate

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/polargate/polargate/polartest"
)

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
	{3, func(w *rulesWorld, c *computer, s step) {
		if p := c.running(s.b); p != nil {
			p.call("Ensure", pick(s.a, w.key, w.key, w.key, pick(s.c, w.keys...)))
		}
	}},
	{4, func(w *rulesWorld, c *computer, s step) {
		if p := c.running(s.b); p != nil {
			p.callWith("Import", w.key, pick(s.a, -time.Minute, -3*24*time.Hour, -13*24*time.Hour, -15*24*time.Hour, 30*time.Minute, 2*time.Hour, 1000*24*time.Hour))
		}
	}},
}

// elsewhere is an activation of the key that an earlier program made on a computer.
func (w *rulesWorld) elsewhere(machine string) string {
	id := fmt.Sprintf("5ca1ab1e-0000-4000-8000-%012d", len(w.trace))
	w.polar.Update(w.id, func(k *polartest.LicenseKey) {
		k.Activations = append(k.Activations, polartest.Activation{ID: id, Conditions: map[string]any{"fingerprint": machine}})
		*k.LimitActivations++
	})
	return id
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
		c.file, c.natural, c.had = data, false, false
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
