//go:build unix

package polargateredis

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/polargate/polargate"
	"github.com/redis/rueidis"
)

// The replicas of the soak run in a process of their own, so that what it holds is theirs alone.

const fleetVariable = "POLARGATE_TEST_FLEET"

func init() { programs[fleetVariable] = runFleet }

// fleetTask is what that process is started with.
type fleetTask struct {
	Polar, Organization, Sentinel, Prefix, Folder string
	Tokens                                        []string // one for each replica
}

// What the replicas of the soak believe, and for how long: short, so that every age comes up.
const (
	soakFreshFor, soakStaleFor, soakGrace = 10 * time.Second, 15 * time.Second, 45 * time.Second
	soakTimeout                           = 5 * time.Second
)

// decided is how a replica decided about a customer.
type decided struct {
	Began, Ended time.Time
	Status       int
	At           time.Time // when Polar said what it was decided by
	Life         int64     // of the replica: counts its restarts
	// Grace is that the replica served somebody in grace meanwhile, maybe this customer.
	Grace bool
}

// sold is what became of a reservation.
type sold struct {
	Status int
	// Taken is what was sold and held of the customer's meter, by all replicas, when this was
	// reserved, and Sold what was used of it.
	Taken, Sold int64
	Err         string
}

// soakReport is what the process tells of itself, and each replica.
type soakReport struct {
	Heap, Goroutines, Files int
	Replicas                []soakReplica
}

type soakReplica struct {
	Away, Behind                bool // the store is away; the replica has something to store
	UsageWaiting                int
	UsageRefused, Panics        int64
	Lost, Unreadable            int64
	Requests, Failures, Refused int64
}

// fleetReplica is one of them, which is started anew now and then.
type fleetReplica struct {
	task  fleetTask
	index int

	life      sync.RWMutex // locked while it is started anew
	lives     int64
	client    rueidis.Client
	customers *polargate.Customers
	stopUsage func()
	conns     *ways
}

func (r *fleetReplica) start() error {
	option := behindSentinel(r.task.Sentinel)
	option.DialCtxFn, option.ConnWriteTimeout = r.conns.dial, 2*time.Second // also how long a connection may be silent
	// Or they are most of the heap.
	option.ReadBufferEachConn, option.WriteBufferEachConn, option.RingScaleEachConn = 16<<10, 16<<10, 6
	client, err := rueidis.NewClient(option)
	switch {
	case err == nil:
		if r.client != nil {
			r.client.Close()
		}
		r.client = client
	case r.client == nil:
		return err
	} // the store is away: the last client finds it when it is back
	shared, err := New(r.client, Options{Prefix: r.task.Prefix})
	if err != nil {
		return err
	}
	r.customers, err = polargate.NewCustomers(polargate.CustomersConfig{
		AccessToken: r.task.Tokens[r.index], OrganizationID: r.task.Organization, BaseURL: r.task.Polar,
		Features: map[string][]string{proBenefit: {"pro"}}, RequestsPerMinute: 1_000_000,
		FreshFor: soakFreshFor, StaleFor: soakStaleFor, GracePeriod: soakGrace, UnknownFor: 2 * time.Second, Timeout: soakTimeout,
		Shared: shared, Secret: "what all replicas have", WebhookSecrets: []string{hookSecret},
		UsageFolder: filepath.Join(r.task.Folder, strconv.Itoa(r.index)),
	})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { defer close(ended); _ = r.customers.RunUsage(ctx) }()
	r.stopUsage = func() { cancel(); <-ended }
	r.lives++
	return nil
}

// restart starts a replica anew, once it reaches the store: otherwise it would take along what was
// used meanwhile, as docs/usage.md says.
func (r *fleetReplica) restart(probe string) error {
	for end := time.Now().Add(soon); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		reservation, refusal := r.customers.Reserve(context.Background(), polargate.ExternalID(probe), callsMeter, 1)
		if refusal == nil {
			reservation.Release()
		}
		if refusal == nil || refusal.Status == http.StatusPaymentRequired && r.customers.Stats().Shared.Away.IsZero() {
			break
		}
	}
	r.life.Lock()
	defer r.life.Unlock()
	r.stopUsage()
	if err := r.customers.Close(); err != nil {
		return err
	}
	return r.start()
}

func (r *fleetReplica) decide(ctx context.Context, customer string) (d decided) {
	r.life.RLock()
	defer r.life.RUnlock()
	before := r.customers.Stats().Grace
	d.Began, d.Status = time.Now(), http.StatusOK
	e, refusal := r.customers.Decide(ctx, polargate.ExternalID(customer), polargate.Feature("pro"))
	if refusal != nil {
		d.Status, e = refusal.Status, refusal.Entitlements
	}
	if e != nil {
		d.At = e.CheckedAt()
	}
	d.Ended, d.Life, d.Grace = time.Now(), r.lives, r.customers.Stats().Grace != before
	return d
}

// till is what has been sold, and is held, of a customer's meter: never more than the ledger has.
type till struct {
	taken atomic.Int64
	sold  atomic.Int64
}

func (r *fleetReplica) sell(ctx context.Context, t *till, customer string, units, used int64, hold time.Duration) (s sold) {
	r.life.RLock()
	defer r.life.RUnlock()
	reservation, refusal := r.customers.Reserve(ctx, polargate.ExternalID(customer), callsMeter, float64(units))
	if refusal != nil {
		return sold{Status: refusal.Status}
	}
	s = sold{Status: http.StatusOK, Taken: t.taken.Add(units), Sold: used}
	time.Sleep(hold)
	t.taken.Add(used - units) // before it is free for others
	if used == 0 {
		reservation.Release()
		return s
	}
	t.sold.Add(used)
	if err := reservation.Commit(ctx, float64(used), polargate.Usage{Name: "call"}); err != nil {
		s.Err = err.Error()
	}
	return s
}

// setClock sets the clock of a replica ahead or back. What that changes is by how much Polar's is
// ahead of it, until Polar's next answer.
func (r *fleetReplica) setClock(by time.Duration) {
	r.life.RLock()
	defer r.life.RUnlock()
	ahead := reflect.ValueOf(r.customers).Elem().FieldByName("cache").Elem().FieldByName("ahead")
	(*atomic.Int64)(unsafe.Pointer(ahead.UnsafeAddr())).Add(int64(by))
}

// ways are a replica's connections to the store.
type ways struct {
	mu   sync.Mutex
	open map[*way]struct{}
}

// way is a connection that can die in silence: what is sent is lost, and nothing comes.
type way struct {
	net.Conn
	of     *ways
	dead   chan struct{}
	once   sync.Once
	closed atomic.Bool
}

func (w *ways) dial(ctx context.Context, addr string, dialer *net.Dialer, _ *tls.Config) (net.Conn, error) {
	conn, err := dialer.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	one := &way{Conn: conn, of: w, dead: make(chan struct{})}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.open[one] = struct{}{}
	return one, nil
}

// die has all connections die in silence.
func (w *ways) die() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for one := range w.open {
		one.once.Do(func() { close(one.dead) })
	}
}

func (w *way) Write(b []byte) (int, error) {
	select {
	case <-w.dead:
		if w.closed.Load() {
			return 0, net.ErrClosed
		}
		return len(b), nil
	default:
		return w.Conn.Write(b)
	}
}

func (w *way) Read(b []byte) (int, error) {
	for {
		n, err := w.Conn.Read(b)
		select {
		case <-w.dead:
			if err != nil {
				return 0, err // it was closed here, or its deadline is over
			}
		default:
			return n, err
		}
	}
}

func (w *way) Close() error {
	w.closed.Store(true)
	w.of.mu.Lock()
	delete(w.of.open, w)
	w.of.mu.Unlock()
	return w.Conn.Close()
}

// runFleet is the program: it prints its address, and ends with its standard input.
func runFleet(text string) error {
	var task fleetTask
	if err := json.Unmarshal([]byte(text), &task); err != nil {
		return err
	}
	var all []*fleetReplica
	for i := range task.Tokens {
		r := &fleetReplica{task: task, index: i, conns: &ways{open: map[*way]struct{}{}}}
		if err := r.start(); err != nil {
			return err
		}
		all = append(all, r)
	}
	var tills sync.Map
	mux := http.NewServeMux()
	handle := func(pattern string, answer func(r *fleetReplica, q *http.Request, get func(name string) int64) (any, error)) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, q *http.Request) {
			get := func(name string) int64 {
				n, _ := strconv.ParseInt(q.URL.Query().Get(name), 10, 64)
				return n
			}
			v, err := answer(all[get("replica")], q, get)
			if err != nil {
				http.Error(w, err.Error(), http.StatusInternalServerError)
				return
			}
			_ = json.NewEncoder(w).Encode(v)
		})
	}
	handle("/decide", func(r *fleetReplica, q *http.Request, _ func(string) int64) (any, error) {
		return r.decide(q.Context(), q.URL.Query().Get("customer")), nil
	})
	handle("/sell", func(r *fleetReplica, q *http.Request, get func(string) int64) (any, error) {
		customer := q.URL.Query().Get("customer")
		t, _ := tills.LoadOrStore(customer, &till{})
		return r.sell(q.Context(), t.(*till), customer, get("units"), get("used"), time.Duration(get("hold"))), nil
	})
	handle("/sold", func(_ *fleetReplica, q *http.Request, _ func(string) int64) (any, error) {
		t, _ := tills.LoadOrStore(q.URL.Query().Get("customer"), &till{})
		return t.(*till).sold.Load(), nil
	})
	handle("/restart", func(r *fleetReplica, q *http.Request, _ func(string) int64) (any, error) {
		return nil, r.restart(q.URL.Query().Get("customer"))
	})
	handle("/clock", func(r *fleetReplica, _ *http.Request, get func(string) int64) (any, error) {
		r.setClock(time.Duration(get("by")))
		return nil, nil
	})
	handle("/deaden", func(r *fleetReplica, _ *http.Request, _ func(string) int64) (any, error) {
		r.conns.die()
		return nil, nil
	})
	handle("/report", func(*fleetReplica, *http.Request, func(string) int64) (any, error) { return reportOf(all), nil })
	mux.HandleFunc("/webhooks/{replica}", func(w http.ResponseWriter, q *http.Request) {
		i, _ := strconv.Atoi(q.PathValue("replica"))
		r := all[i]
		r.life.RLock()
		defer r.life.RUnlock()
		r.customers.WebhookHandler().ServeHTTP(w, q)
	})
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Println("http://" + listener.Addr().String())
	go func() { _ = http.Serve(listener, mux) }()
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

func reportOf(all []*fleetReplica) (s soakReport) {
	for _, r := range all {
		r.life.RLock()
		stats := r.customers.Stats()
		s.Replicas = append(s.Replicas, soakReplica{
			Away: !stats.Shared.Away.IsZero(), Behind: stats.Shared.Waiting > 0, UsageWaiting: stats.Usage.Waiting, UsageRefused: stats.Usage.Refused,
			Panics: stats.Panics, Lost: stats.Shared.Lost, Unreadable: stats.Shared.Unreadable,
			Requests: stats.Requests, Failures: stats.Failures, Refused: stats.Refused,
		})
		r.life.RUnlock()
	}
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	open, _ := os.ReadDir("/proc/self/fd") // none where there is no such folder
	s.Heap, s.Goroutines, s.Files = int(m.HeapAlloc), runtime.NumGoroutine(), len(open)
	return s
}
