//go:build unix

package leases

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/polargate/polargate"
	"github.com/polargate/polargate/lease"
	"github.com/polargate/polargate/lease/issuer"
	"github.com/polargate/polargate/polartest"
)

var soak = flag.Duration("soak", 0, "how long TestFiftyFloatingComputersUnderFaults goes on; 0 skips it")

// borrowed is how long a computer can take its place along.
const borrowed = 6 * time.Second

func init() { programs["soaked-issuer"] = programThatIsSoaked }

// soakedReport is what a license server's process holds.
type soakedReport struct{ Heap, Goroutines, Files int }

// programThatIsSoaked is a license server that can be started anew within its process, from what
// it has stored, and tells what the process holds.
func programThatIsSoaked(args []string) error {
	var task serverTask
	if err := json.Unmarshal([]byte(args[0]), &task); err != nil {
		return err
	}
	var serving atomic.Pointer[http.Handler]
	open := func() error {
		client, err := polargate.NewClient(polargate.ClientConfig{
			OrganizationID: task.Organization, AccessToken: task.Token, BaseURL: task.PolarURL, RequestsPerMinute: 60_000,
		})
		if err != nil {
			return err
		}
		server, err := issuer.New(issuer.Config{
			Client: client, Key: signing, PerAddress: 1_000_000, Recheck: time.Second, Store: polargate.FileStore(task.Folder),
			Pools: map[string]issuer.Pool{task.Benefit: {Max: places, Heartbeat: heartbeat, Borrow: borrowed}},
		})
		if err != nil {
			return err
		}
		handler := server.Handler()
		serving.Store(&handler)
		return nil
	}
	if err := open(); err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/lease", func(w http.ResponseWriter, r *http.Request) { (*serving.Load()).ServeHTTP(w, r) })
	mux.HandleFunc("/restart", func(w http.ResponseWriter, _ *http.Request) {
		if err := open(); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
		}
	})
	mux.HandleFunc("/report", func(w http.ResponseWriter, _ *http.Request) {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		files, _ := os.ReadDir("/proc/self/fd") // none where there is no such folder
		_ = json.NewEncoder(w).Encode(soakedReport{int(m.HeapAlloc), runtime.NumGoroutine(), len(files)})
	})
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Println(listener.Addr())
	return http.Serve(listener, mux)
}

// holders knows the leases of all computers. It is given what they note.
type holders struct {
	t  *testing.T
	mu sync.Mutex
	// spans are those of the last seconds.
	spans                       map[string][]span
	leases, kept, returned, max int
}

// writer takes what a computer notes.
func (h *holders) writer(name string) io.Writer { return journal{h, name} }

type journal struct {
	of   *holders
	name string
}

func (j journal) Write(line []byte) (int, error) {
	h, word := j.of, strings.Fields(string(line))
	h.mu.Lock()
	defer h.mu.Unlock()
	if word[0] == "D" { // all that it had is void
		at, err := strconv.ParseInt(word[1], 10, 64)
		for i := range h.spans[j.name] {
			h.spans[j.name][i].to = min(h.spans[j.name][i].to, at)
		}
		h.returned++
		return len(line), err
	}
	held, err := pinned().Verify(word[2])
	if err != nil || held.Fingerprint != j.name {
		h.t.Errorf("%s noted the lease of %s: %v", j.name, held.Fingerprint, err)
		return 0, err
	}
	lasts := held.Ends().Sub(held.Issued)
	if lasts > borrowed+heartbeat {
		h.t.Errorf("a lease lasts %s", lasts)
	}
	if h.leases++; lasts > 2*heartbeat {
		h.kept++
	}
	h.spans[j.name] = append(h.spans[j.name], span{held.Issued.Unix(), held.Ends().Unix()})
	return len(line), nil
}

// check counts the holders of each second until then, and forgets those.
func (h *holders) check(until int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	var moments []int64
	for _, all := range h.spans {
		for _, s := range all {
			moments = append(moments, s.from)
		}
	}
	slices.Sort(moments)
	for _, at := range slices.Compact(moments) {
		var names []string
		for name, all := range h.spans {
			if at <= until && slices.ContainsFunc(all, func(s span) bool { return s.from <= at && at < s.to }) {
				names = append(names, name)
			}
		}
		if h.max = max(h.max, len(names)); len(names) > places {
			h.t.Errorf("%d computers held a place at %s: %v", len(names), time.Unix(at, 0).UTC(), names)
		}
	}
	for name, all := range h.spans {
		h.spans[name] = slices.DeleteFunc(all, func(s span) bool { return s.to <= until })
	}
}

// TestFiftyFloatingComputersUnderFaults lets fifty computers share a license for five, with two
// license servers over one folder, while connections break or say nothing, servers stand still, are
// killed and started anew, Polar fails, clocks are apart, and programs end without a word. At no
// moment by the servers' clock do more than five leases count, and a place that nobody uses is
// free after two heartbeats, or when what was borrowed ends. It needs the flag -soak.
func TestFiftyFloatingComputersUnderFaults(t *testing.T) {
	if *soak == 0 {
		t.Skip("it takes minutes: go test ./tests/leases -run TestFiftyFloatingComputersUnderFaults -soak 10m -v")
	}
	f := newFleet(t, func(s *serverTask, folder string) { s.Folder = filepath.Join(folder, "state") })
	servers := [2]*exec.Cmd{f.startSoaked(0), f.startSoaked(1)}
	known := &holders{t: t, spans: map[string][]span{}}
	ctx, stop := context.WithCancel(t.Context())
	var all sync.WaitGroup
	var programsRun, refused atomic.Int64
	var still sync.RWMutex // locked while no computer runs
	for i := range computers {
		name := fmt.Sprint("computer-", i)
		ahead := time.Duration(0)
		switch i % 5 {
		case 0:
			ahead = mathrand.N(2*time.Second) - time.Second
		case 1:
			ahead = -mathrand.N(10 * time.Minute)
		case 2:
			ahead = mathrand.N(10 * time.Minute)
		}
		all.Go(func() {
			for ctx.Err() == nil {
				programsRun.Add(1)
				// A program that begins knows nothing of the one that was killed.
				c := floater{
					clientTask: clientTask{URL: f.network.url(), Organization: f.task.Organization, Key: f.key.Key, Computer: name},
					journal:    known.writer(name), secret: lease.NewSecret(rand.Text()), ahead: ahead, borrow: borrowed,
				}
				for life := time.Now().Add(mathrand.N(30 * time.Second)); time.Now().Before(life) && ctx.Err() == nil; {
					still.RLock()
					wait, err := c.beat()
					still.RUnlock()
					if err != nil {
						refused.Add(1)
						wait = time.Duration(200+mathrand.IntN(600)) * time.Millisecond
					}
					select {
					case <-time.After(wait):
					case <-ctx.Done():
					}
				}
			}
		})
	}
	f.network.faulty.Store(true)
	f.network.silent.Store(true)
	faults := map[string]int{}
	var marks []soakedReport
	began := time.Now()
	for marked, freed := began, began; time.Since(began) < *soak && !t.Failed(); time.Sleep(mathrand.N(500 * time.Millisecond)) {
		i := mathrand.IntN(len(servers))
		what := ""
		switch mathrand.IntN(8) {
		case 0:
			what = "a server is killed"
			_ = servers[1].Process.Kill() // the other one is measured
			_ = servers[1].Wait()
			servers[1] = f.startSoaked(1)
		case 1:
			what = "a server is started anew"
			require.NoError(t, f.askServer(0, "/restart", nil))
		case 2:
			what = "a server stands still"
			_ = servers[i].Process.Signal(syscall.SIGSTOP)
			time.Sleep(mathrand.N(3 * time.Second))
			_ = servers[i].Process.Signal(syscall.SIGCONT)
		case 3:
			what = "Polar is away"
			f.polar.SetOffline(true)
			time.Sleep(mathrand.N(3 * time.Second))
			f.polar.SetOffline(false)
		default:
			what = "Polar fails"
			f.polar.Inject(polartest.Fault{Times: mathrand.IntN(5), Effect: []func() polartest.Effect{
				func() polartest.Effect { return polartest.ServerError(500) },
				func() polartest.Effect { return polartest.RateLimited("1") },
				func() polartest.Effect { return polartest.LoginPage(200) },
				polartest.RouterNotFound, polartest.Garbage, polartest.Truncated, polartest.Hang, polartest.Reset, polartest.Close, polartest.AnswerLost,
			}[mathrand.IntN(10)]()})
			time.Sleep(mathrand.N(2 * time.Second))
			f.polar.ClearFaults()
		}
		faults[what]++
		f.polar.ForgetRequests()
		known.check(time.Now().Add(-30 * time.Second).Unix())
		if time.Since(marked) > *soak/100 {
			var mark soakedReport
			require.NoError(t, f.askServer(0, "/report", &mark))
			marks, marked = append(marks, mark), time.Now()
		}
		if time.Since(freed) > time.Minute {
			still.Lock() // all that run are killed, as far as the servers can tell
			f.quietly(func() { f.checkPlacesAreFree(known) })
			still.Unlock()
			freed = time.Now()
		}
	}
	stop()
	all.Wait()
	f.quietly(func() { f.checkPlacesAreFree(known) })
	known.check(time.Now().Add(time.Hour).Unix())
	if t.Failed() {
		return
	}
	require.NotZero(t, known.leases, "nobody got a lease: nothing was tested")
	t.Logf("soak of the issuer: %v, %d programs on %d computers, %d leases, %d of them borrowed, %d given back, %d requests in vain, at most %d at once of %d; faults: %v",
		time.Since(began).Round(time.Second), programsRun.Load(), computers, known.leases, known.kept, known.returned, refused.Load(), known.max, places, faults)
	if len(marks) < 10 {
		return
	}
	fifth := len(marks) / 5
	middle := func(of []soakedReport, what func(soakedReport) int) int {
		var all []int
		for _, m := range of {
			all = append(all, what(m))
		}
		slices.Sort(all)
		return all[len(all)/2]
	}
	for _, m := range []struct {
		name  string
		what  func(soakedReport) int
		slack int
	}{
		{"bytes of heap", func(m soakedReport) int { return m.Heap }, 1 << 20},
		{"goroutines", func(m soakedReport) int { return m.Goroutines }, 20},
		{"files", func(m soakedReport) int { return m.Files }, 20},
	} {
		early, late := middle(marks[fifth:2*fifth], m.what), middle(marks[len(marks)-fifth:], m.what)
		t.Logf("%s: %d, then %d", m.name, early, late)
		require.LessOrEqual(t, late, early+early/10+m.slack, "%s grow", m.name)
	}
}

func (f *fleet) startSoaked(i int) *exec.Cmd { return f.startProgram("soaked-issuer", i) }

// askServer asks a license server directly.
func (f *fleet) askServer(i int, path string, v any) error {
	f.network.mu.Lock()
	address := f.network.routes[i]
	f.network.mu.Unlock()
	resp, err := http.Get("http://" + address + path)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	switch {
	case err != nil:
		return err
	case resp.StatusCode != http.StatusOK:
		return fmt.Errorf("%s: %s", resp.Status, body)
	case v == nil:
		return nil
	}
	return json.Unmarshal(body, v)
}

// quietly does something while nothing fails between the computers and the servers.
func (f *fleet) quietly(do func()) {
	f.network.faulty.Store(false)
	f.network.silent.Store(false)
	do()
	f.network.faulty.Store(true)
	f.network.silent.Store(true)
}

// checkPlacesAreFree has other computers take all places. By the time that the servers tell them
// to wait, each place is free after two heartbeats at most, or when what was borrowed ends.
func (f *fleet) checkPlacesAreFree(known *holders) {
	for i := range places {
		name := fmt.Sprint("fresh-", i)
		c := floater{
			clientTask: clientTask{URL: f.network.url(), Organization: f.task.Organization, Key: f.key.Key, Computer: name},
			journal:    known.writer(name), secret: lease.NewSecret(rand.Text()),
		}
		var waited time.Duration
		for tries := 0; ; tries++ {
			q := lease.Request{
				ID: rand.Text(), Made: time.Now(), OrganizationID: c.Organization, Key: lease.NewSecret(c.Key), Fingerprint: c.Computer,
				ReceiptHash: lease.ReceiptHash(c.secret),
			}
			text, err := q.Encode()
			require.NoError(f.t, err)
			answer, wait, err := post(c.URL, text)
			if err == nil {
				require.NoError(f.t, c.note("L", answer))
				break
			}
			if !strings.Contains(err.Error(), "pool_full") && tries < 100 {
				time.Sleep(200 * time.Millisecond) // of a server that is busy with what was asked before
				continue
			}
			require.ErrorContains(f.t, err, "pool_full")
			require.Positive(f.t, wait)
			waited += time.Duration(wait) * time.Second
			require.LessOrEqual(f.t, waited, borrowed+2*heartbeat+places*time.Second, "a place was lost")
			time.Sleep(time.Duration(wait) * time.Second)
		}
	}
}
