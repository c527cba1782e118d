package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/launchdarkly/go-sdk-common/v3/ldcontext"
	ldclient "github.com/launchdarkly/go-server-sdk/v7"
	"github.com/launchdarkly/go-server-sdk/v7/ldcomponents"
	"github.com/polargate/polargate"
	"github.com/polargate/polargate/polargateredis"
	"github.com/redis/rueidis"
)

// startRedis starts a server on loopback that ends with the test.
func startRedis(tb testing.TB) (addr string, kill func()) {
	tb.Helper()
	program, err := exec.LookPath("redis-server")
	if err != nil {
		tb.Skip("redis-server is not installed, so nothing is measured here: apt-get install redis-server, or brew install redis")
	}
	for range 5 { // another program may take the port
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			tb.Fatal(err)
		}
		addr = l.Addr().String()
		_ = l.Close()
		_, port, _ := net.SplitHostPort(addr)
		folder := tb.TempDir()
		command := exec.Command(program, "--bind", "127.0.0.1", "--port", port, "--dir", folder, "--save", "", "--appendonly", "no", "--logfile", filepath.Join(folder, "log"))
		if err := command.Start(); err != nil {
			tb.Fatal(err)
		}
		kill = sync.OnceFunc(func() { _ = command.Process.Kill(); _ = command.Wait() })
		tb.Cleanup(kill)
		for range 500 {
			if conn, err := net.Dial("tcp", addr); err == nil {
				_ = conn.Close()
				return addr, kill
			}
			time.Sleep(10 * time.Millisecond)
		}
		kill()
	}
	tb.Fatal("redis-server does not start")
	return "", nil
}

// dialRedis is a client that says at once when the server is away.
func dialRedis(tb testing.TB, addr string) rueidis.Client {
	tb.Helper()
	client, err := rueidis.NewClient(rueidis.ClientOption{InitAddress: []string{addr}, DisableRetry: true, ForceSingleClient: true})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(client.Close)
	return client
}

// upstream is the service that knows what customers have: Polar, or LaunchDarkly's.
type upstream struct {
	down  atomic.Bool
	asked atomic.Int64
}

func (u *upstream) RoundTrip(r *http.Request) (*http.Response, error) {
	if u.down.Load() {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: errors.New("connection refused")}
	}
	u.asked.Add(1)
	time.Sleep(20 * time.Millisecond) // as long as an answer takes at least
	return everybody{}.RoundTrip(r)
}

// darkService answers a poll with a flag that these users have.
func darkService(tb testing.TB, u *upstream, users []string) (url string) {
	tb.Helper()
	flag := map[string]any{
		"key": "export", "version": 1, "on": true, "salt": "s", "variations": []bool{true, false}, "offVariation": 1,
		"fallthrough": map[string]int{"variation": 1}, "targets": []map[string]any{{"variation": 0, "values": users}},
	}
	body, err := json.Marshal(map[string]any{"flags": map[string]any{"export": flag}, "segments": map[string]any{}})
	if err != nil {
		tb.Fatal(err)
	}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if u.down.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		u.asked.Add(1)
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(body)
	}))
	tb.Cleanup(s.Close)
	return s.URL
}

// replica is one process of a server.
type replica struct {
	has   func(user string) bool
	close func()
}

// outlives is the age up to which each peer takes what it has for fresh: short, so that a
// test sees what comes after.
const outlives = time.Second

// peers start replicas of a server that all use the Redis at that address.
func peers(tb testing.TB, addr string, u *upstream, users []string) map[string]func() replica {
	dark := darkService(tb, u, users)
	return map[string]func() replica{
		"polargate": func() replica {
			store, err := polargateredis.New(dialRedis(tb, addr), polargateredis.Options{})
			if err != nil {
				tb.Fatal(err)
			}
			customers := manyCustomers(tb, func(c *polargate.CustomersConfig) {
				c.HTTPClient, c.OrganizationID = &http.Client{Transport: u}, organization
				c.Shared, c.Secret, c.FreshFor, c.WebhookSecrets = store, "of all replicas", outlives, []string{hookSecret}
			})
			return replica{func(user string) bool {
				e, err := customers.Entitlements(context.Background(), polargate.ExternalID(user))
				return err == nil && e.Has("export")
			}, func() { _ = customers.Close() }}
		},
		"Redis by hand": func() replica {
			h := &byHand{dialRedis(tb, addr), &http.Client{Transport: u}, outlives, 24 * time.Hour}
			return replica{func(user string) bool {
				ok, err := h.has(context.Background(), user, benefit)
				return ok && err == nil
			}, func() {}}
		},
		"LaunchDarkly with a store": func() replica {
			// The error is that its service is down: it serves what is in the store.
			client, err := ldclient.MakeCustomClient("sdk-key", ldclient.Config{
				DataSource:       ldcomponents.PollingDataSource(),
				DataStore:        ldcomponents.PersistentDataStore(&darkStore{dialRedis(tb, addr)}).CacheTime(outlives),
				ServiceEndpoints: ldcomponents.RelayProxyEndpoints(dark),
				Events:           ldcomponents.NoEvents(), Logging: ldcomponents.NoLogging(), DiagnosticOptOut: true,
			}, 2*time.Second)
			if client == nil {
				tb.Fatal(err)
			}
			return replica{func(user string) bool {
				ok, err := client.BoolVariation("export", ldcontext.New(user), false)
				return ok && err == nil
			}, func() { _ = client.Close() }}
		},
	}
}

// TestReplicasWithAStore is what replicas of a server do with a store that they share: from
// a cold start while the service upstream is down to the loss of the store too.
func TestReplicasWithAStore(t *testing.T) {
	count := 200
	if *whole {
		count = 10_000
	}
	users := make([]string, count)
	for i := range users {
		users[i] = fmt.Sprintf("usr_%d", i)
	}
	for _, name := range []string{"polargate", "Redis by hand", "LaunchDarkly with a store"} {
		t.Run(name, func(t *testing.T) {
			addr, kill := startRedis(t)
			u := &upstream{}
			start := peers(t, addr, u, users)[name]
			served := func(r replica) string {
				n := atomic.Int64{}
				var all sync.WaitGroup
				for part := range 16 {
					all.Go(func() {
						for i := part; i < count; i += 16 {
							if r.has(users[i]) {
								n.Add(1)
							}
						}
					})
				}
				all.Wait()
				return fmt.Sprintf("%.0f %%", 100*float64(n.Load())/float64(count))
			}

			// Twenty replicas are asked ten times each, at once, for one customer.
			var replicas []replica
			for range 20 {
				replicas = append(replicas, start())
			}
			var all sync.WaitGroup
			for _, r := range replicas {
				for range 10 {
					all.Go(func() {
						if !r.has("usr_0") {
							t.Error("usr_0 was refused")
						}
					})
				}
			}
			all.Wait()
			cold := u.asked.Load()
			for _, r := range replicas[1:] {
				r.close()
			}

			if all := served(replicas[0]); all != "100 %" {
				t.Errorf("with everything up, %s were served", all)
			}
			r := replicas[0]
			i := 0
			ask := func() {
				i++
				if !r.has(users[i%10]) { // so few that all are fresh while this is measured
					t.Fatal("refused")
				}
			}
			for range 10 {
				ask()
			}
			began, n := time.Now(), 0
			for ; time.Since(began) < outlives/3; n++ {
				ask()
			}
			each := time.Since(began) / time.Duration(n)
			r.close()

			u.down.Store(true)
			r = start()
			defer r.close()
			restarted := served(r)
			kill()
			time.Sleep(outlives + outlives/2)
			both := served(r)
			if name == "polargate" && (cold != 1 || restarted != "100 %" || both != "100 %") {
				t.Errorf("Polar was asked %d times; with Polar down %s were served, without the store too %s", cold, restarted, both)
			}
			tell("store", name, restarted, both, strconv.FormatInt(cold, 10), strconv.FormatInt(each.Nanoseconds(), 10))
		})
	}
}

// TestAWebhookReachesOtherReplicas measures how long it takes until another replica decides
// by an event that one was told of.
func TestAWebhookReachesOtherReplicas(t *testing.T) {
	addr, _ := startRedis(t)
	open := func() *polargate.Customers {
		store, err := polargateredis.New(dialRedis(t, addr), polargateredis.Options{})
		if err != nil {
			t.Fatal(err)
		}
		c := manyCustomers(t, func(c *polargate.CustomersConfig) {
			c.OrganizationID, c.Shared, c.Secret, c.FreshFor = organization, store, "of all replicas", time.Hour
		})
		t.Cleanup(func() { _ = c.Close() })
		return c
	}
	first, second := open(), open()
	handler := first.WebhookHandler(hookSecret)
	const times = 200
	var took []time.Duration
	for i := range times {
		user := polargate.ExternalID(fmt.Sprintf("usr_%d", i))
		for _, c := range []*polargate.Customers{first, second} {
			if e, err := c.Entitlements(t.Context(), user); err != nil || !e.Has("export") {
				t.Fatal("refused before it was canceled", err)
			}
		}
		began := time.Now()
		cancelOf(t, handler, i)
		for {
			e, err := second.Entitlements(t.Context(), user)
			if err != nil {
				t.Fatal(err)
			}
			if len(e.Benefits()) == 0 {
				break
			}
			if time.Since(began) > 10*time.Second {
				t.Fatal("the cancellation did not arrive")
			}
			time.Sleep(100 * time.Microsecond)
		}
		took = append(took, time.Since(began))
	}
	slices.Sort(took)
	tell("webhook", "p99", fmt.Sprintf("%.1f", took[times*99/100].Seconds()*1000), fmt.Sprintf("%.1f", took[times/2].Seconds()*1000))
}

// cancelOf tells a replica that a customer has nothing any more.
func cancelOf(t *testing.T, handler http.Handler, n int) {
	t.Helper()
	state := stateOf(fmt.Sprintf("usr_%d", n))
	from, to := bytes.Index(state, []byte(`{"benefit_id"`)), bytes.Index(state, []byte(`],"active_meters"`))
	deliver(t, handler, n, slices.Concat(state[:from], state[to:]))
}
