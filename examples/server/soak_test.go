package main

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/polargate/polargate/polartest"
	"github.com/stretchr/testify/require"
)

var soak = flag.Duration("soak", 0, "how long TestTheServerUnderLoad goes on; 0 is two seconds, or more on a busy machine")

// ledger is what the server was told of one customer, and took in.
type ledger struct {
	mu      sync.Mutex
	changed time.Time // when Polar last changed it
	at      time.Time // of the youngest event that the server took in
	pro     bool      // as that says
	version int       // counts changes and events
}

// sure reports whether the last that happened was told, and so what the server has to
// say, whatever older events come behind.
func (l *ledger) sure() (version int, pro, sure bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.version, l.pro, !l.at.Before(l.changed)
}

// TestTheServerUnderLoad is some seconds of clients, faults, cancellations and webhooks
// that come late, twice and in the wrong order; with -soak as long as it says. Whoever
// is known is served right through all of it, and nobody else is.
func TestTheServerUnderLoad(t *testing.T) {
	t.Parallel()
	s := openShop(t)
	benefit := s.customer.Benefits[0].BenefitID
	p := s.serve()
	s.polar.UpdateEndpoint(s.endpoint.ID, func(e *polartest.Endpoint) { e.Disabled = true })

	books := map[string]*ledger{}
	var users []string
	for i := range 20 {
		user := fmt.Sprintf("soak_%d", i)
		users = append(users, user)
		books[user] = &ledger{}
		s.polar.AddCustomer(polartest.Customer{ExternalID: user})
	}
	// The post office is between Polar and the server.
	var lost, twice atomic.Int64
	post := func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil || rand.IntN(10) == 0 {
			lost.Add(1)
			w.WriteHeader(http.StatusBadGateway) // it is sent again, and comes late
			return
		}
		time.Sleep(time.Duration(rand.IntN(50)) * time.Millisecond)
		times := 1
		if rand.IntN(5) == 0 {
			times = 2
			twice.Add(1)
		}
		for range times {
			forward, err := http.NewRequestWithContext(r.Context(), http.MethodPost, p.url+"/webhooks/polar", bytes.NewReader(body))
			if err != nil {
				t.Error(err)
				return
			}
			forward.Header = r.Header.Clone()
			answer, err := p.client.Do(forward)
			if err != nil {
				w.WriteHeader(http.StatusBadGateway)
				return
			}
			_ = answer.Body.Close()
			if answer.StatusCode != http.StatusNoContent {
				t.Errorf("an event was answered %d", answer.StatusCode)
			}
		}
		var event struct {
			Type      string
			Timestamp time.Time
			Data      struct {
				External string     `json:"external_id"`
				Benefits []struct{} `json:"granted_benefits"`
			}
		}
		if err := json.Unmarshal(body, &event); err != nil {
			t.Error(err)
		}
		if l := books[event.Data.External]; l != nil && event.Type == "customer.state_changed" {
			l.mu.Lock()
			l.version++
			if !event.Timestamp.Before(l.at) {
				l.at, l.pro = event.Timestamp, len(event.Data.Benefits) > 0
			}
			l.mu.Unlock()
		}
		w.WriteHeader(http.StatusAccepted)
	}
	s.polar.AddEndpoint(polartest.Endpoint{Handler: http.HandlerFunc(post), Secrets: []polartest.Secret{{Text: s.secret}}})
	change := func(user string) {
		l := books[user]
		l.mu.Lock()
		l.changed = s.polar.Now()
		l.version++
		l.mu.Unlock()
		customer, _ := s.polar.Customer(user)
		if slices.ContainsFunc(customer.Benefits, func(b polartest.Benefit) bool { return !b.Revoked }) {
			s.polar.RevokeBenefit(user, benefit)
		} else {
			s.polar.GrantBenefit(user, polartest.Benefit{BenefitID: benefit})
		}
	}
	for _, user := range users {
		change(user)
	}
	require.Equal(t, http.StatusOK, p.do("GET", "/api/data", "X-License-Key: "+s.key.Key).status)

	long := max(*soak, 2*time.Second)
	end := time.Now().Add(long)
	var judged, unsure, strangers, unavailable, faults, changes atomic.Int64
	// On a busy machine two seconds may pass before anything was judged.
	goesOn := func() bool {
		return time.Now().Before(end) || (judged.Load() < 50 || strangers.Load() < 10) && time.Now().Before(end.Add(patience))
	}
	var work sync.WaitGroup
	every := func(pause time.Duration, do func()) {
		work.Go(func() {
			for goesOn() && !t.Failed() {
				do()
				time.Sleep(time.Duration(rand.Int64N(int64(2 * pause))))
			}
		})
	}
	ask := func(path string, headers ...string) int {
		a, err := p.try("GET", path, headers...)
		if err != nil {
			t.Errorf("%s: %v", path, err)
		}
		return a.status
	}
	for range 4 {
		every(2*time.Millisecond, func() {
			user := users[rand.IntN(len(users))]
			version, pro, sure := books[user].sure()
			status := ask("/pro", "X-Demo-User: "+user)
			if after, _, _ := books[user].sure(); !sure || after != version {
				unsure.Add(1) // something is under way: either is right
				return
			}
			judged.Add(1)
			if want := map[bool]int{true: http.StatusOK, false: http.StatusPaymentRequired}[pro]; status != want {
				t.Errorf("%s was answered %d and not %d, after %d events", user, status, want, version)
			}
		})
	}
	every(20*time.Millisecond, func() {
		strangers.Add(3)
		switch status := ask("/pro", "X-Demo-User: stranger_"+strconv.Itoa(rand.Int())); status {
		case http.StatusPaymentRequired:
		case http.StatusServiceUnavailable:
			unavailable.Add(1)
		default:
			t.Errorf("a stranger was answered %d", status)
		}
		if status := ask("/api/data", fmt.Sprintf("X-License-Key: POLAR-%X", rand.Uint64())); status == http.StatusOK {
			t.Error("a key that nobody has sold was let in")
		}
		if status := ask("/api/data", "X-License-Key: "+s.key.Key); status != http.StatusOK {
			t.Errorf("a key that is granted was answered %d", status)
		}
	})
	every(max(long/1000, 20*time.Millisecond), func() {
		settled := 0
		for _, user := range users {
			if _, _, sure := books[user].sure(); sure {
				settled++
			}
		}
		if settled <= len(users)/2 {
			return // the events of a busy machine are slow: some have to arrive, for something to be judged
		}
		changes.Add(1)
		change(users[rand.IntN(len(users))])
	})
	every(max(long/300, 50*time.Millisecond), func() {
		faults.Add(1)
		s.polar.ClearFaults()
		s.polar.SetOffline(false)
		s.polar.ForgetRequests()
		switch effects := []polartest.Effect{
			polartest.ServerError(500), polartest.ServerError(503), polartest.Garbage(), polartest.LoginPage(200), polartest.ProxyPage(404),
			polartest.RouterNotFound(), polartest.RateLimited("2"), polartest.Delay(300 * time.Millisecond), polartest.Hang(), polartest.Truncated(), polartest.Reset(),
		}; rand.IntN(4) {
		case 0:
			s.polar.SetOffline(true)
		case 1:
		default:
			s.polar.Inject(polartest.Fault{Effect: effects[rand.IntN(len(effects))]})
		}
	})
	var memory, files []int
	every(max(long/200, 100*time.Millisecond), func() {
		if m, f, ok := p.holds(); ok && time.Until(end) < long*4/5 { // the caches are full by then
			memory, files = append(memory, m), append(files, f)
		}
	})
	work.Wait()
	s.polar.ClearFaults()
	s.polar.SetOffline(false)

	if !t.Failed() {
		require.Positive(t, judged.Load())
		require.Positive(t, strangers.Load())
	}
	if *soak == 0 || len(memory) < 10 {
		return
	}
	fifth := len(memory) / 5
	m0, m1 := middle(memory[:fifth]), middle(memory[len(memory)-fifth:])
	f0, f1 := middle(files[:fifth]), middle(files[len(files)-fifth:])
	t.Logf("soak of the server: %v, %d decisions about customers, none wrong, %d more while something was under way; %d strangers, %d of them told to wait; %d changes, %d events lost and sent again, %d sent twice; %d faults; memory %d KiB, then %d; files %d, then %d",
		long, judged.Load(), unsure.Load(), strangers.Load(), unavailable.Load(), changes.Load(), lost.Load(), twice.Load(), faults.Load(), m0, m1, f0, f1)
	require.LessOrEqual(t, m1, m0+m0/3+4<<10, "memory grows: %v", memory)
	require.LessOrEqual(t, f1, f0+8, "files stay open: %v", files)
}

func middle(all []int) int {
	all = slices.Sorted(slices.Values(all))
	return all[len(all)/2]
}

// holds is how much memory the process has, in KiB, and how many open files; where the
// system tells.
func (p *process) holds() (memory, files int, ok bool) {
	folder := fmt.Sprintf("/proc/%d/", p.cmd.Process.Pid)
	status, err := os.ReadFile(folder + "status")
	if err != nil {
		return 0, 0, false
	}
	open, err := os.ReadDir(folder + "fd")
	if err != nil {
		return 0, 0, false
	}
	_, text, _ := strings.Cut(string(status), "VmRSS:")
	text, _, _ = strings.Cut(text, "kB")
	memory, err = strconv.Atoi(strings.TrimSpace(text))
	return memory, len(open), err == nil
}
