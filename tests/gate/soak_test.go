package gate

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/polargate/polargate"
	"github.com/polargate/polargate/polartest"
	"github.com/stretchr/testify/require"
)

var (
	soak     = flag.Duration("soak", 0, "how long TestTheGateThroughWeeks goes on; 0 is two rounds")
	soakSeed = flag.Uint64("soak.seed", 1, "the seed of the first round of TestTheGateThroughWeeks")
)

// soakFigures add up over rounds.
type soakFigures struct {
	rounds, decisions, granted, refused, requests, restarts int
	virtual                                                 time.Duration
}

// TestTheGateThroughWeeks lets three programs share a license through a day of what can
// happen to them, twice; with -soak through three weeks, again and again for as long as
// it says. All that counts is known here, so that each decision can be told right from
// wrong.
func TestTheGateThroughWeeks(t *testing.T) {
	t.Parallel()
	long := 21 * 24 * time.Hour
	if *soak == 0 {
		long = 24 * time.Hour
	}
	var figures soakFigures
	var marks []resources
	began, marked := time.Now(), time.Time{}
	for seed := *soakSeed; figures.rounds < 2 || time.Since(began) < *soak; seed++ {
		if problem := weeks(t, seed, long, &figures); problem != "" {
			t.Fatalf("seed %d: %s", seed, problem)
		}
		if *soak > 0 {
			// The sequences of the rules: clocks that are set, files that are edited.
			if problem, trace := play(t, seed, randomSteps(seed)); problem != "" {
				t.Fatalf("rules, seed %d: %s\nafter\n\t%s", seed, problem, strings.Join(trace, "\n\t"))
			}
		}
		if figures.rounds++; figures.rounds > 5 && time.Since(marked) > *soak/100 {
			marks, marked = append(marks, resourcesNow()), time.Now()
		}
	}
	if len(marks) < 10 {
		return
	}
	fifth := len(marks) / 5
	first, last := middleOf(marks[:fifth]), middleOf(marks[len(marks)-fifth:])
	t.Logf("soak of the gate: %d rounds, %d virtual days, %d programs started anew, %d decisions (%d to let in, %d not), none wrong; %d requests; heap %d KiB, then %d; goroutines %d, then %d; files %d, then %d",
		figures.rounds, figures.virtual/(24*time.Hour), figures.restarts, figures.decisions, figures.granted, figures.refused, figures.requests,
		first.heap>>10, last.heap>>10, first.goroutines, last.goroutines, first.files, last.files)
	require.LessOrEqual(t, last.heap, first.heap+first.heap/4+1<<20, "memory grows: %v", marks)
	require.LessOrEqual(t, last.goroutines, first.goroutines, "goroutines stay: %v", marks)
	require.LessOrEqual(t, last.files, first.files, "files stay open: %v", marks)
}

// resources are what a program holds.
type resources struct{ heap, goroutines, files int }

func resourcesNow() resources {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	open, _ := os.ReadDir("/proc/self/fd") // none where there is no such folder
	return resources{int(m.HeapAlloc), runtime.NumGoroutine(), len(open)}
}

func middleOf(marks []resources) resources {
	middle := func(of func(resources) int) int {
		var all []int
		for _, m := range marks {
			all = append(all, of(m))
		}
		slices.Sort(all)
		return all[len(all)/2]
	}
	return resources{
		middle(func(r resources) int { return r.heap }),
		middle(func(r resources) int { return r.goroutines }),
		middle(func(r resources) int { return r.files }),
	}
}

// verdictHeard is what Polar said to one of the programs.
type verdictHeard struct {
	granted bool
	at      time.Time
}

// soakFaults are all that say nothing of the license.
var soakFaults = []func() polartest.Effect{
	func() polartest.Effect { return polartest.LoginPage(200) },
	func() polartest.Effect { return polartest.LoginPage(302) },
	func() polartest.Effect { return polartest.ProxyPage(407) },
	func() polartest.Effect { return polartest.ProxyPage(404) },
	polartest.RouterNotFound,
	func() polartest.Effect { return polartest.ServerError(500) },
	func() polartest.Effect { return polartest.ServerError(503) },
	func() polartest.Effect { return polartest.RateLimited("90") },
	func() polartest.Effect { return polartest.RateLimited("") },
	func() polartest.Effect { return polartest.Body(200, "application/json", `{"status":"ok"}`) },
	polartest.Garbage, polartest.Huge, polartest.Truncated, polartest.Reset, polartest.Close, polartest.Hang, polartest.AnswerLost,
}

// weeks is one round. What it says went wrong; "" is nothing.
func weeks(t *testing.T, seed uint64, long time.Duration, figures *soakFigures) (problem string) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		r := rand.New(rand.NewPCG(seed, 20))
		failf := func(format string, args ...any) {
			if problem == "" {
				problem = fmt.Sprintf(format, args...)
			}
		}
		began := time.Now()
		polar := polartest.New(polartest.Config{OnBreach: func(r polartest.Request, what string) {
			if what != "" && !strings.Contains(what, "rate") {
				failf("%s %s: %s", r.Method, r.Path, what)
			}
		}})
		key := polar.AddKey(polartest.LicenseKey{LimitActivations: polartest.Limit(1)})
		folder, err := os.MkdirTemp("", "polargate-soak-")
		require.NoError(t, err)
		defer os.RemoveAll(folder)

		// What Polar said last to any of the programs, which share what they know.
		var last verdictHeard
		hear := func() {
			for _, q := range polar.Requests() {
				if q.Fault != "" || !strings.HasSuffix(q.Path, "/validate") && !strings.HasSuffix(q.Path, "/activate") {
					continue
				}
				switch q.Status {
				case http.StatusOK:
					last = verdictHeard{true, q.At}
				case http.StatusForbidden, http.StatusNotFound, http.StatusBadRequest:
					last = verdictHeard{false, q.At}
				}
				figures.requests++
			}
			polar.ForgetRequests()
		}
		var gates [3]*polargate.Gate
		var stops [3]func()
		start := func(i int) {
			gate, err := polargate.Open(polargate.Config{
				OrganizationID: polar.OrganizationID(), App: "inkwell", Fingerprint: "the machine of the soak",
				Features: map[string][]string{key.BenefitID: {"export"}}, Store: polargate.FileStore(folder),
				BaseURL: polar.URL(), HTTPClient: polar.Client(),
			})
			require.NoError(t, err)
			ctx, cancel := context.WithCancel(context.Background())
			ended := make(chan struct{})
			go func() { defer close(ended); _ = gate.Run(ctx) }()
			gates[i], stops[i] = gate, func() { cancel(); <-ended; _ = gate.Close() }
		}
		for i := range gates {
			start(i)
		}
		defer func() {
			for _, stop := range stops {
				stop()
			}
		}()
		if _, err := gates[0].Activate(t.Context(), key.Key); err != nil {
			failf("Activate: %v", err)
			return
		}
		offline := false
		judge := func(when string) {
			// Each notices within a minute what another was told, which may be news
			// to it while this waits.
			for hear(); time.Since(last.at) < 2*time.Minute; hear() {
				time.Sleep(2*time.Minute - time.Since(last.at))
			}
			now := time.Now()
			age := now.Sub(last.at)
			if age > rulesGrace-5*time.Minute && age < rulesGrace+5*time.Minute {
				return
			}
			want := last.granted && age < rulesGrace
			for i, gate := range gates {
				s := gate.Status()
				figures.decisions++
				if want {
					figures.granted++
				} else {
					figures.refused++
				}
				if s.OK() != want || gate.Has("export") != want {
					failf("after %v, %s: program %d is %s (%s), the last verdict is %t of %v ago", now.Sub(began), when, i, s.State, s.Reason, last.granted, age)
				}
			}
		}
		for now := time.Since(began); now < long && problem == ""; now = time.Since(began) {
			i := r.IntN(len(gates))
			what := "nothing"
			switch r.IntN(12) {
			case 0, 1:
				offline = !offline
				polar.SetOffline(offline)
				what = fmt.Sprint("offline is ", offline)
			case 2, 3:
				polar.Inject(polartest.Fault{Times: r.IntN(20), Effect: soakFaults[r.IntN(len(soakFaults))]()})
				what = "a fault"
			case 4, 5:
				polar.ClearFaults()
				what = "no fault"
			case 6:
				polar.Revoke(key.ID)
				what = "revoked"
			case 7, 8:
				polar.Grant(key.ID)
				what = "granted"
			case 9:
				stops[i]()
				start(i)
				figures.restarts++
				what = "a program is started anew"
			case 10:
				_, _ = gates[i].Consume(t.Context(), int64(1+r.IntN(3)))
				what = "uses"
			case 11:
				_, _ = gates[i].Refresh(t.Context())
				what = "a refresh"
			}
			time.Sleep(time.Duration(r.Int64N(int64(12 * time.Hour))))
			if r.IntN(60) == 0 {
				polar.SetOffline(true)
				offline, what = true, "a long outage"
				hear()
				end := last.at.Add(rulesGrace)
				time.Sleep(time.Until(end.Add(-time.Duration(r.Int64N(int64(24 * time.Hour))))))
				judge(what)
				time.Sleep(time.Until(end.Add(time.Duration(r.Int64N(int64(time.Hour))))))
			}
			judge(what)
		}
		if problem != "" {
			return
		}
		// Whatever it was: who can reach Polar and has a license is let in.
		polar.ClearFaults()
		polar.SetOffline(false)
		polar.Grant(key.ID)
		time.Sleep(2 * time.Hour) // a pause that Polar asked for is over
		for i, gate := range gates {
			figures.decisions++
			figures.granted++
			if s, err := gate.Refresh(t.Context()); err != nil || !s.OK() || !gate.Has("export") {
				failf("in the end program %d is kept out: %s, %v", i, s.State, err)
			}
		}
		if seats := polar.Seats(key.ID); seats != 1 {
			failf("%d seats are taken", seats)
		}
		if err := gates[0].Deactivate(t.Context()); err != nil || polar.Seats(key.ID) != 0 {
			failf("the seat is not given back: %v", err)
		}
		figures.virtual += time.Since(began)
	})
	return problem
}
