package polargateredis

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/polargate/polargate"
	"github.com/polargate/polargate/polartest"
	"github.com/redis/rueidis"
)

// A replica is a server that asks Polar about customers, in this process or in one of its
// own. Both answer the same requests.

const (
	proBenefit = "850cc3a4-3ed7-4be6-b198-127ec8d33bb9"
	hookSecret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
	paying     = "usr_paying"

	// replicaVariable makes the test binary a replica. It has the replica's settings.
	replicaVariable = "POLARGATE_TEST_REPLICA"
)

// settings are those of a replica. One of Redis and File says what it shares.
type settings struct {
	Redis, Prefix, File         string
	Polar, Organization, Token  string
	Secret, OtherSecret         string
	RequestsPerMinute           int
	FreshFor, StaleFor, Timeout time.Duration
}

func TestMain(m *testing.M) {
	for variable, run := range programs {
		if text, is := os.LookupEnv(variable); is {
			if err := run(text); err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(1)
			}
			os.Exit(0)
		}
	}
	os.Exit(m.Run())
}

// programs are what the test binary is instead, by the variable that has their settings.
var programs = map[string]func(settings string) error{replicaVariable: runReplica}

// runReplica is the program: it prints its address, and ends with its standard input.
func runReplica(text string) error {
	var s settings
	if err := json.Unmarshal([]byte(text), &s); err != nil {
		return err
	}
	store, end, err := s.store()
	if err != nil {
		return err
	}
	defer end()
	customers, err := s.open(store)
	if err != nil {
		return err
	}
	defer customers.Close()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Println("http://" + listener.Addr().String())
	go func() { _ = http.Serve(listener, answers(customers)) }()
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

func (s settings) store() (store polargate.Shared, end func(), err error) {
	if s.File != "" {
		return polargate.SharedFile(s.File), func() {}, nil
	}
	client, err := rueidis.NewClient(rueidis.ClientOption{InitAddress: []string{s.Redis}, DisableCache: true})
	if err != nil {
		return nil, nil, err
	}
	store, err = New(client, Options{Prefix: s.Prefix})
	return store, client.Close, err
}

func (s settings) open(store polargate.Shared) (*polargate.Customers, error) {
	return polargate.NewCustomers(polargate.CustomersConfig{
		AccessToken: s.Token, OrganizationID: s.Organization, BaseURL: s.Polar, Features: map[string][]string{proBenefit: {"pro"}},
		RequestsPerMinute: s.RequestsPerMinute, FreshFor: s.FreshFor, StaleFor: s.StaleFor, Timeout: s.Timeout,
		Shared: store, Secret: s.Secret, OtherSecret: s.OtherSecret, WebhookSecrets: []string{hookSecret},
	})
}

// report is what a replica tells of itself.
type report struct {
	Requests, Failures, Events, Repeated, Lost, Unreadable int64
	Waiting, Replicas                                      int
	Away                                                   bool
	Pause                                                  time.Duration
}

// answers are a replica's: /decide?customer=…&times=n asks for a feature, n times at once, and
// answers how often each status came; /license?key=… asks about a license key.
func answers(customers *polargate.Customers) http.Handler {
	mux := http.NewServeMux()
	count := func(w http.ResponseWriter, r *http.Request, decide func() *polargate.Refusal) {
		times, _ := strconv.Atoi(r.URL.Query().Get("times"))
		var mu sync.Mutex
		statuses := map[int]int{}
		var group sync.WaitGroup
		for range max(times, 1) {
			group.Go(func() {
				status := http.StatusOK
				if refusal := decide(); refusal != nil {
					status = refusal.Status
				}
				mu.Lock()
				defer mu.Unlock()
				statuses[status]++
			})
		}
		group.Wait()
		_ = json.NewEncoder(w).Encode(statuses)
	}
	mux.HandleFunc("/decide", func(w http.ResponseWriter, r *http.Request) {
		count(w, r, func() *polargate.Refusal {
			_, refusal := customers.Decide(r.Context(), polargate.ExternalID(r.URL.Query().Get("customer")), polargate.Feature("pro"))
			return refusal
		})
	})
	mux.HandleFunc("/license", func(w http.ResponseWriter, r *http.Request) {
		count(w, r, func() *polargate.Refusal {
			_, refusal := customers.DecideLicense(r.Context(), r.URL.Query().Get("key"))
			return refusal
		})
	})
	mux.HandleFunc("/crowd", func(w http.ResponseWriter, r *http.Request) { // from the first to the last
		first, _ := strconv.Atoi(r.URL.Query().Get("first"))
		last, _ := strconv.Atoi(r.URL.Query().Get("last"))
		statuses := map[int]int{}
		for i := first; i < last; i++ {
			status := http.StatusOK
			if _, refusal := customers.Decide(r.Context(), polargate.ExternalID(usr(i)), polargate.Feature("pro")); refusal != nil {
				status = refusal.Status
			}
			statuses[status]++
		}
		_ = json.NewEncoder(w).Encode(statuses)
	})
	mux.HandleFunc("/refresh", func(w http.ResponseWriter, r *http.Request) {
		if _, err := customers.Refresh(r.Context(), polargate.ExternalID(r.URL.Query().Get("customer"))); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
		}
	})
	mux.HandleFunc("/warm", func(w http.ResponseWriter, r *http.Request) {
		n, err := customers.Warm(r.Context())
		if err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		_ = json.NewEncoder(w).Encode(n)
	})
	mux.HandleFunc("/report", func(w http.ResponseWriter, _ *http.Request) {
		s := customers.Stats()
		_ = json.NewEncoder(w).Encode(report{
			Requests: s.Requests, Failures: s.Failures, Events: s.Events, Repeated: s.Repeated, Lost: s.Shared.Lost, Unreadable: s.Shared.Unreadable,
			Waiting: s.Shared.Waiting, Replicas: s.Shared.Replicas, Away: !s.Shared.Away.IsZero(), Pause: s.Pause,
		})
	})
	mux.Handle("/webhooks/polar", customers.WebhookHandler())
	return mux
}

func usr(i int) string { return "usr_" + strconv.Itoa(i) }

// replica is one that runs.
type replica struct {
	url       string
	customers *polargate.Customers // nil in a process of its own
	kill      func()               // at once, without any goodbye
}

// answer asks a replica and reads what it answers into v, unless that is nil.
func (r *replica) answer(t testing.TB, path string, v any) {
	t.Helper()
	noError(t, r.ask(t.Context(), path, v))
}

func (r *replica) ask(ctx context.Context, path string, v any) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, r.url+path, nil)
	if err != nil {
		return err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	switch {
	case err != nil:
		return err
	case response.StatusCode != http.StatusOK:
		return errors.New(string(body))
	case v == nil:
		return nil
	}
	return json.Unmarshal(body, v)
}

// decides reports how a replica decides about a customer.
func (r *replica) decides(t testing.TB, customer string) (status int) {
	t.Helper()
	var statuses map[int]int
	r.answer(t, "/decide?customer="+customer, &statuses)
	for status := range statuses {
		return status
	}
	return 0
}

func (r *replica) report(t testing.TB) (about report) {
	t.Helper()
	r.answer(t, "/report", &about)
	return about
}

// shop is a Polar on loopback, with a paying customer.
type shop struct {
	t     testing.TB
	polar *polartest.Polar
	settings
	offline atomic.Bool
}

func newShop(t testing.TB) *shop {
	t.Helper()
	s := &shop{t: t, polar: polartest.New(polartest.Config{Unlimited: true})}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if s.offline.Load() { // as one that is down
			if conn, _, err := http.NewResponseController(w).Hijack(); err == nil {
				_ = conn.Close()
			}
			return
		}
		s.polar.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	s.settings = settings{Polar: server.URL, Organization: s.polar.OrganizationID(), Secret: "what all replicas have", Timeout: 5 * time.Second}
	s.add(paying)
	return s
}

func (s *shop) add(external string) {
	s.polar.AddCustomer(polartest.Customer{ExternalID: external, Benefits: []polartest.Benefit{{BenefitID: proBenefit}}})
}

func (s *shop) asked() int { return s.polar.Count("") }

// onRedis has replicas share a server.
func (s *shop) onRedis(addr string) { s.Redis, s.Prefix = addr, prefix() }

// inProcess starts a replica in this process. It has a token of its own: replicas of one
// process and token would share a budget anyway.
func (s *shop) inProcess(change ...func(*settings)) *replica {
	s.t.Helper()
	with := s.with(change)
	store, end, err := with.store()
	noError(s.t, err)
	s.t.Cleanup(end)
	return s.over(with, store)
}

// over starts a replica in this process that has that store.
func (s *shop) over(with settings, store polargate.Shared) *replica {
	s.t.Helper()
	customers, err := with.open(store)
	noError(s.t, err)
	server := httptest.NewServer(answers(customers))
	end := sync.OnceFunc(func() { server.Close(); _ = customers.Close() })
	s.t.Cleanup(end)
	return &replica{url: server.URL, customers: customers, kill: end}
}

func (s *shop) with(change []func(*settings)) settings {
	with := s.settings
	with.Token = s.polar.AddToken(polartest.Token{})
	for _, c := range change {
		c(&with)
	}
	return with
}

// process starts a replica in a process of its own.
func (s *shop) process(change ...func(*settings)) *replica {
	s.t.Helper()
	self, err := os.Executable()
	noError(s.t, err)
	with, err := json.Marshal(s.with(change))
	noError(s.t, err)
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), replicaVariable+"="+string(with))
	cmd.Stderr = os.Stderr
	_, err = cmd.StdinPipe() // which ends with this process
	noError(s.t, err)
	out, err := cmd.StdoutPipe()
	noError(s.t, err)
	noError(s.t, cmd.Start())
	kill := sync.OnceFunc(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	s.t.Cleanup(kill)
	line := make([]byte, 64)
	n, err := out.Read(line)
	noError(s.t, err)
	return &replica{url: strings.TrimSpace(string(line[:n])), kill: kill}
}

// receiving has webhooks come to a replica.
func (s *shop) receiving(r *replica) {
	s.polar.AddEndpoint(polartest.Endpoint{URL: r.url + "/webhooks/polar", Secrets: []polartest.Secret{{Text: hookSecret}}})
}

// delivered waits until all webhooks were.
func (s *shop) delivered() {
	s.t.Helper()
	noError(s.t, s.polar.WaitForDeliveries(s.t.Context()))
}

// fleets are the ways in which replicas share what they know.
func fleets(t *testing.T, test func(t *testing.T, s *shop, start func(change ...func(*settings)) *replica)) {
	t.Parallel()
	for _, way := range []struct {
		name      string
		share     func(t *testing.T, s *shop)
		processes bool
	}{
		{"goroutines that share a file", onFile, false},
		{"processes that share a file", onFile, true},
		{"goroutines that share Redis", onServer, false},
		{"processes that share Redis", onServer, true},
	} {
		t.Run(way.name, func(t *testing.T) {
			t.Parallel()
			s := newShop(t)
			way.share(t, s)
			if way.processes {
				test(t, s, s.process)
			} else {
				test(t, s, s.inProcess)
			}
		})
	}
	t.Run("goroutines that share memory", func(t *testing.T) {
		t.Parallel()
		s := newShop(t)
		shared := polargate.SharedInMemory()
		test(t, s, func(change ...func(*settings)) *replica { return s.over(s.with(change), shared) })
	})
}

func onFile(t *testing.T, s *shop) { s.File = t.TempDir() + "/customers.state" }

func onServer(t *testing.T, s *shop) { s.onRedis(start(t, "redis-server").addr) }
