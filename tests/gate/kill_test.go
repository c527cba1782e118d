package gate

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/polargate/polargate"
	"github.com/polargate/polargate/polartest"
	"github.com/polargate/polargate/tests/internal/kit"
	"github.com/stretchr/testify/require"
)

// taken is a seat at Polar.
type taken struct{ key, attempt string }

// seats are those that are taken at Polar, by the id of the activation.
func (in *installation) seats() map[string]taken {
	all := map[string]taken{}
	for _, key := range in.keys {
		k, _ := in.polar.LicenseKey(key)
		for _, a := range k.Activations {
			if !a.Released {
				attempt, _ := a.Meta["attempt"].(string)
				all[a.ID] = taken{key, attempt}
			}
		}
	}
	return all
}

// left is what a program that is started now finds.
type left struct {
	stored kit.State // under this machine's name
	status polargate.Status
	now    standsFor
	lost   []string // seats at Polar that no license and no outbox accounts for
}

// open makes a Gate in the process of the tests, which asks nobody.
func (in *installation) open(store polargate.Store) (*polargate.Gate, error) {
	config := in.use.config(store)
	config.BaseURL, config.HTTPClient = in.polar.URL(), in.polar.Client()
	return polargate.Open(config)
}

// look opens a state with a Gate of its own and holds it to Polar's books,
// which were read before and after the state was.
func (in *installation) look(files map[string]string, before, after map[string]taken) (l left, faults []string) {
	fault := func(format string, args ...any) { faults = append(faults, fmt.Sprintf(format, args...)) }
	store := &polargate.MemoryStore{}
	for name, data := range files {
		_ = store.Save(context.Background(), name, []byte(data))
	}
	gate, err := in.open(store)
	if err != nil {
		fault("it does not open: %v", err)
		return l, faults
	}
	defer gate.Close()
	l.status = gate.Status()
	l.now.ok = gate.Has("export")
	l.now.key = l.status.Key.Reveal()
	accounted := map[string]bool{}
	for name, data := range files {
		if strings.HasSuffix(name, ".index") {
			if _, err := kit.OpenIndex(in.use.config(nil), []byte(data)); err != nil {
				fault("the list of machines is damaged: %d bytes", len(data))
			}
			continue
		}
		st, err := kit.OpenState(in.use.config(nil), []byte(data))
		if err != nil {
			fault("the state is damaged: %d bytes", len(data))
			return l, faults
		}
		if name == in.name {
			l.stored = st
		}
		for _, s := range st.Outbox {
			accounted[s.ActivationID] = true
		}
		if st.Seat != nil {
			accounted[st.Seat.ActivationID] = true
		}
	}
	if in.use.Trial > 0 && l.status.State == polargate.InTrial && l.stored.Seat == nil {
		return l, faults // which unlocks no feature
	}
	if l.now.ok != l.status.OK() {
		fault("Has says %t and the status %v", l.now.ok, l.status.State)
	}

	if s := l.stored.Seat; s != nil {
		_, was := before[s.ActivationID]
		_, is := after[s.ActivationID]
		if l.now.ok && !was && !is {
			fault("there is access without a seat at Polar")
		}
	}
	for id := range after {
		if _, was := before[id]; was && !accounted[id] && !in.lost[id] && !in.foreign[id] {
			l.lost = append(l.lost, id)
		}
	}
	if len(l.lost) > 1 {
		fault("%d seats are lost", len(l.lost))
	}
	for _, id := range l.lost {
		i := l.stored.Intent
		if i == nil || i.AttemptID != after[id].attempt || i.Key != after[id].key || !l.status.InDoubt {
			fault("a seat is lost and not reported")
		}
	}
	if l.now.key == "" {
		reason := polargate.ErrNoLicense
		if l.status.InDoubt {
			reason = polargate.ErrInDoubt
		}
		if l.status.State != polargate.Unlicensed || l.status.Reason != reason {
			fault("without a license there is %v, %q, and in doubt is %t", l.status.State, string(l.status.Reason), l.status.InDoubt)
		}
	}
	if l.status.InDoubt != (l.stored.Intent != nil) {
		fault("in doubt is %t", l.status.InDoubt)
	}
	return l, faults
}

// watch looks at the state while a process is at work: what it finds is what a
// kill at that very moment would have left. It also tells the target of files
// that appear.
func (in *installation) watch(v *killTarget) (stop func()) {
	done := make(chan struct{})
	files := v != nil && v.when.after == onFile
	closely := files || v != nil && v.when.after == onChange
	var over sync.WaitGroup
	over.Go(func() {
		pause := time.Millisecond
		switch {
		case runtime.GOOS == "windows":
			pause = 5 * time.Millisecond // a file that is open all the time is never replaced there
		case closely:
			pause = 20 * time.Microsecond
		}
		seen := map[string]bool{}
		var last map[string]string
		first, books := true, ""
		for {
			before := in.seats()
			data, err := in.stored()
			after := in.seats()
			var entries []os.DirEntry
			if files {
				entries, _ = os.ReadDir(in.use.Folder)
			}
			for _, e := range entries {
				if strings.HasSuffix(e.Name(), ".tmp") && !seen[e.Name()] {
					seen[e.Name()] = true
					if !first {
						v.saw(onFile, nil)
					}
				}
			}
			changed := err == nil && !maps.Equal(data, last)
			if now := fmt.Sprint(before, after); err == nil && (changed || now != books) {
				books = now
				_, faults := in.look(data, before, after)
				in.tally.watched(faults)
				for _, f := range faults {
					in.complainf("a kill at some moment would leave this: %s", f)
				}
			}
			if changed {
				last = data
				if !first && v != nil {
					v.saw(onChange, nil)
				}
			}
			first = false
			select {
			case <-done:
				return
			case <-time.After(pause):
			}
		}
	})
	return func() { close(done); over.Wait() }
}

// audit is what the installation comes to now, with nobody at work. Seats that
// are lost count as such from here on.
func (in *installation) audit(when string) left {
	data, err := in.stored()
	require.NoError(in.t, err)
	books := in.seats()
	l, faults := in.look(data, books, books)
	// With the files themselves, too.
	gate, err := in.open(polargate.FileStore(in.use.Folder))
	if err != nil {
		in.complainf("%s: it does not open: %v", when, err)
		return l
	}
	defer gate.Close()
	if s := gate.Status(); s.State != l.status.State || s.Reason != l.status.Reason {
		faults = append(faults, fmt.Sprintf("the file gives %v, %q and its bytes %v, %q", s.State, string(s.Reason), l.status.State, string(l.status.Reason)))
	}
	if entries, _ := os.ReadDir(in.use.Folder); slices.ContainsFunc(entries, func(e os.DirEntry) bool { return strings.HasSuffix(e.Name(), ".corrupt") }) {
		faults = append(faults, "a state was taken for a damaged one")
	}
	in.tellf("%s: %v %q, in doubt: %t, waiting: %d, seats at Polar: %d, lost: %d and %d before",
		when, l.status.State, string(l.status.Reason), l.status.InDoubt, len(l.stored.Outbox), len(books), len(l.lost), len(in.lost))
	for _, f := range faults {
		in.complainf("%s: %s", when, f)
	}
	in.tally.audited(faults)
	for _, id := range l.lost {
		in.lost[id] = true
	}
	if s := l.stored.Seat; s != nil {
		delete(in.foreign, s.ActivationID)
	}
	return l
}

// earlier is an activation that an earlier version of the program made by itself, to import.
func (in *installation) earlier(key string) string {
	id := fmt.Sprintf("5ca1ab1e-0000-4000-8000-%012d", len(in.story))
	in.foreign[id] = true
	k, _ := in.polar.LicenseKey(key)
	in.polar.Update(k.ID, func(k *polartest.LicenseKey) { k.Activations = append(k.Activations, polartest.Activation{ID: id}) })
	return "import " + key + " " + id
}

// after is what a call that succeeds makes of a license.
func (in *installation) after(l left, now standsFor, call string) standsFor {
	what, key, _ := strings.Cut(call, " ")
	key, _, _ = strings.Cut(key, " ")
	switch i := l.stored.Intent; {
	case what == "export":
		return now
	case what == "activate", what == "ensure", what == "import":
		return standsFor{key, true}
	case what == "deactivate", now.key == "":
		return standsFor{}
	case what == "move":
		return standsFor{now.key, true}
	case l.elsewhere() && now == l.now:
		return now // nothing is moved unasked
	case now.key == in.revoked:
		return standsFor{now.key, false}
	case !now.ok && i != nil && i.Key == now.key:
		return now // a move to another machine that is in doubt is not repeated unasked
	}
	return standsFor{now.key, true}
}

// killAndLook lets a process make calls, kills it at some moment, and looks at
// what is left.
func (in *installation) killAndLook() left {
	calls, kind := in.anyCalls(in.audit("so far"))
	l := in.audit("before")
	when := anyKillMoment(calls, kind)
	in.tellf("a program on %s is to do %q", in.use.Machine, calls)
	begun, over, where := in.kill(calls, when)

	// Either side of the call that was under way is right.
	now := l.now
	for _, call := range calls[:over] {
		now = in.after(l, now, call)
	}
	right := []standsFor{now}
	if begun > over {
		right = append(right, in.after(l, now, calls[over]))
	}
	killed := in.audit("after the kill")
	if !slices.Contains(right, killed.now) {
		in.complainf("access is wrong: it is %+v, which is none of %+v", killed.now, right)
		in.tally.wrong()
	}
	in.tally.killed(where, kind, len(killed.lost) > 0, killed.status.InDoubt && l.intent() != killed.intent())
	return killed
}

// elsewhere reports whether there is no license here, but one of another machine.
func (l left) elsewhere() bool {
	return l.status.Reason == polargate.ErrOtherMachine && l.stored.Seat == nil
}

// intent is the attempt that is in doubt; "" if none is.
func (l left) intent() string {
	if l.stored.Intent == nil {
		return ""
	}
	return l.stored.Intent.AttemptID
}

// anyCalls picks calls that make sense for a license.
func (in *installation) anyCalls(l left) (calls []string, kind string) {
	one, other := "activate "+in.keys[0], "activate "+in.keys[1]
	if rand.IntN(2) == 0 || l.now.key == in.keys[1] {
		one, other = other, one
	}
	chain := func(more ...string) ([]string, string) {
		return more[:2+rand.IntN(len(more)-1)], "a chain of them"
	}
	if rand.IntN(6) == 0 {
		return []string{in.earlier(one[len("activate "):])}, "import"
	}
	if !l.now.ok {
		switch n := rand.IntN(10); {
		case n < 3 && l.status.Reason == polargate.ErrNoLicense:
			return []string{"ensure " + in.keys[0]}, "ensure"
		case n < 6:
			return []string{one}, "activate"
		case n < 7 && l.now.key != "":
			return []string{"deactivate"}, "deactivate"
		default:
			return chain(one, "refresh", other, "deactivate", one)
		}
	}
	switch rand.IntN(8) {
	case 0, 1:
		return []string{"deactivate"}, "deactivate"
	case 2:
		return []string{"refresh"}, "refresh"
	case 3:
		in.tellf("Polar revokes the key")
		in.polar.Revoke(l.now.key)
		in.revoked = l.now.key
		return []string{"refresh"}, "refresh of a revoked key"
	case 4:
		in.comeTo(in.moves + 1)
		return []string{"move"}, "move to another machine"
	case 5, 6:
		return []string{other}, "replace"
	}
	return chain("refresh", other, "export", "deactivate", one, "refresh")
}

// goOn lets a process that nobody kills make calls, and holds each to what it
// should come to and to the time that it may take.
func (in *installation) goOn(l left, calls ...string) left {
	in.tellf("the next program is to do %q", calls)
	in.mu.Lock()
	in.requests = 0
	in.mu.Unlock()
	stop := in.watch(nil)
	now := l.now
	over := 0
	exported := ""
	_, wait := in.start(calls, false, func(w licenseWord) {
		if !w.Ended {
			return
		}
		over++
		now = in.after(l, now, calls[w.Call])
		if w.OK != now.ok {
			in.complainf("%s: OK is %t, and should be %t: %s", calls[w.Call], w.OK, now.ok, w.Err)
			in.tally.wrong()
		}
		if failed := w.Err != ""; failed != (calls[w.Call] == "refresh" && !now.ok) {
			in.complainf("%s: the error is %q", calls[w.Call], w.Err)
		}
		exported = max(exported, w.Exported)
		// A request waits for its turn and for Polar. The permit of the program
		// that was killed may rest for some seconds, but there are others.
		in.mu.Lock()
		n := in.requests
		in.requests = 0
		in.mu.Unlock()
		most := time.Duration(n)*(2*serverDelay+permitRests) + busySlack
		if w.Took > most {
			in.complainf("%s took %v with %d requests, and should take %v at most", calls[w.Call], w.Took, n, most)
		}
		in.tally.took(w.Took, n)
	})
	err := wait()
	stop()
	in.settle()
	if err != nil || over != len(calls) {
		in.complainf("the process ended with %v after %d of %d calls", err, over, len(calls))
	}
	next := in.audit("after that")
	if next.now != now {
		in.complainf("access is wrong: it is %+v and not %+v", next.now, now)
		in.tally.wrong()
	}
	if len(next.lost) > 0 {
		in.complainf("a seat is lost without a kill")
	}
	if s := next.stored.Seat; exported != "" && (s == nil || s.ActivationID != exported) {
		in.complainf("the activation that was exported is %q, and not that of the license", exported)
	}
	if !now.ok && now.key != "" {
		return next // a refused license, or a move in doubt: nothing can be said of seats
	}
	if slices.ContainsFunc(next.stored.Outbox, func(s kit.StoredSeat) bool { return !s.Stranded }) {
		in.complainf("seats still wait to be given back")
	}
	want := len(in.lost) + len(in.foreign)
	if now.key != "" {
		want++
	}
	if got := len(in.seats()); got != want {
		in.complainf("%d seats are taken at Polar, and should be %d", got, want)
	}
	return next
}

// live goes through some kills, and ends.
func (in *installation) live(kills int) {
	for range kills {
		in.passTime()
		l := in.killAndLook()
		switch {
		case in.revoked != "":
			refused := in.goOn(l, "refresh")
			if refused.status.State != polargate.Locked || refused.status.Reason != polargate.ErrInactive {
				in.complainf("a revoked key gives %v, %q", refused.status.State, string(refused.status.Reason))
				in.tally.wrong()
			}
			in.tellf("Polar grants the key again")
			in.polar.Grant(in.revoked)
			in.revoked = ""
			in.goOn(refused, "refresh")
		case l.elsewhere():
			in.goOn(in.goOn(l, "refresh"), "move")
		case l.now.key == "" && rand.IntN(3) > 0:
			in.goOn(l, "activate "+in.keys[0])
		case l.now.key != "" && rand.IntN(3) == 0:
			in.goOn(l, "activate "+l.now.key)
		case l.now.ok && rand.IntN(4) == 0:
			in.goOn(l, "deactivate")
		case l.now.ok:
			in.goOn(l, "refresh", "export")
		default:
			in.goOn(l, "refresh")
		}
	}
	in.passTime()
	l := in.audit("in the end")
	key := in.keys[rand.IntN(2)]
	if i := l.stored.Intent; i != nil {
		key = i.Key // which settles the doubt; another key leaves it
	}
	l = in.goOn(l, "activate "+key)
	if l.status.InDoubt {
		in.complainf("the license is there, and still in doubt")
	}
	l = in.goOn(l, "deactivate", "refresh")
	if l.status.State != polargate.Unlicensed || l.status.Reason != polargate.ErrNoLicense {
		in.complainf("in the end there is %v, %q", l.status.State, string(l.status.Reason))
	}
}

// killTally counts what happened, over all installations.
type killTally struct {
	mu      sync.Mutex
	strikes [struckPhases]killCounts
	kinds   map[string]killCounts
	looks   int
	damaged int // states that did not open, after a kill or while one was watched
	silent  int // seats lost without a word
	access  int // cases of access that was wrong
	longest time.Duration
	asked   int // the requests of the longest call
}

// killCounts is what came of kills: a seat that is in doubt, or the report of a
// doubt where Polar has given no seat.
type killCounts struct{ kills, lost, vain int }

func (s *killCounts) add(lost, vain bool) {
	s.kills++
	if lost {
		s.lost++
	}
	if vain {
		s.vain++
	}
}

func (y *killTally) killed(where killPhase, kind string, lost, doubt bool) {
	y.mu.Lock()
	defer y.mu.Unlock()
	y.strikes[where].add(lost, doubt && !lost)
	s := y.kinds[kind]
	s.add(lost, doubt && !lost)
	y.kinds[kind] = s
}

func (y *killTally) watched(faults []string) {
	y.mu.Lock()
	y.looks++
	y.mu.Unlock()
	y.audited(faults)
}

func (y *killTally) audited(faults []string) {
	y.mu.Lock()
	defer y.mu.Unlock()
	for _, f := range faults {
		switch {
		case strings.Contains(f, "damaged"):
			y.damaged++
		case strings.Contains(f, "lost"):
			y.silent++
		case strings.Contains(f, "access"):
			y.access++
		}
	}
}

func (y *killTally) wrong() {
	y.mu.Lock()
	defer y.mu.Unlock()
	y.access++
}

func (y *killTally) took(d time.Duration, requests int) {
	y.mu.Lock()
	defer y.mu.Unlock()
	if d > y.longest {
		y.longest, y.asked = d, requests
	}
}

func (y *killTally) String() string {
	var b strings.Builder
	b.WriteByte('\n')
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	var sum killCounts
	line := func(name string, s killCounts) { fmt.Fprintf(w, "%s\t%d\t%d\t%d\n", name, s.kills, s.lost, s.vain) }
	fmt.Fprintln(w, "killed\tkills\ta seat in doubt, reported\treported, but no seat taken")
	for p, s := range y.strikes {
		line(killPhase(p).String(), s)
		sum.kills, sum.lost, sum.vain = sum.kills+s.kills, sum.lost+s.lost, sum.vain+s.vain
	}
	line("in all", sum)
	for _, kind := range slices.Sorted(maps.Keys(y.kinds)) {
		line("during: "+kind, y.kinds[kind])
	}
	_ = w.Flush()
	fmt.Fprintf(&b, "seats lost unreported %d, damaged states %d, wrong access %d\n", y.silent, y.damaged, y.access)
	fmt.Fprintf(&b, "states looked at while programs were at work %d\n", y.looks)
	fmt.Fprintf(&b, "longest call after a kill %v, with %d requests\n", y.longest.Round(time.Millisecond), y.asked)
	return b.String()
}

func TestAKilledProgramKeepsItsLicenseAndReportsEveryLostActivation(t *testing.T) {
	t.Parallel()
	y := &killTally{kinds: map[string]killCounts{}}
	lives := make(chan int)
	var all sync.WaitGroup
	for range livesAtOnce {
		all.Go(func() {
			for kills := range lives {
				t.Run("an installation", func(t *testing.T) { newInstallation(t, y).live(kills) })
			}
		})
	}
	for left := *killCount; left > 0; left -= killsPerLife {
		lives <- min(left, killsPerLife)
	}
	close(lives)
	all.Wait()
	t.Log(y)
}

func TestATrialThatWasKilledAtItsBeginningBeginsOnce(t *testing.T) {
	t.Parallel()
	for range max(2, *killCount/6) {
		in := newInstallation(t, &killTally{kinds: map[string]killCounts{}})
		in.use.Trial = 14
		begun := func() (until time.Time) {
			gate, err := in.open(polargate.FileStore(in.use.Folder))
			require.NoError(t, err)
			defer gate.Close()
			status := gate.Status()
			if status.State != polargate.InTrial && (status.State != polargate.Unlicensed || status.Reason != polargate.ErrNoLicense) {
				in.complainf("a kill left %s %s", status.State, status.Reason)
			}
			return status.TrialUntil
		}
		first := time.Now()
		when := killMoment{after: []killEvent{onStart, onCall, onFile, onChange, onEnd}[rand.IntN(5)], nth: 1, delay: rand.N(time.Millisecond)}
		in.kill([]string{"check"}, when)
		left := begun()
		cmd, wait := in.start([]string{"check"}, false, func(w licenseWord) {
			if w.Err != "" {
				in.complainf("the trial doesn't begin: %s", w.Err)
			}
		})
		require.NoError(t, wait(), "%v", cmd)
		until := begun()
		if left.IsZero() {
			left = until
		}
		if !until.Equal(left) || until.Before(first.Add(14*24*time.Hour)) {
			in.complainf("the trial ends at %s, and did at %s after the kill", until, left)
		}
		require.Empty(t, in.seats())
	}
}
