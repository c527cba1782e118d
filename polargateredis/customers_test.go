package polargateredis

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"slices"
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

func TestTwentyReplicasAskOnceAboutACustomerWhomNoneKnows(t *testing.T) {
	fleets(t, func(t *testing.T, s *shop, start func(...func(*settings)) *replica) {
		n := 20
		if strings.Contains(t.Name(), "processes") {
			n = 6
		}
		var all []*replica
		for range n {
			all = append(all, start())
		}
		s.polar.Inject(polartest.Fault{Effect: polartest.Delay(300 * time.Millisecond)})
		// On a computer that is overloaded a store may count as away, and then each replica
		// goes on alone: a try counts in which it did not.
		for try := range 5 {
			s.add(usr(try))
			asked := s.asked()
			var group sync.WaitGroup
			for _, r := range all {
				group.Go(func() {
					var statuses map[int]int
					r.answer(t, "/decide?times=20&customer="+usr(try), &statuses)
					if statuses[200] != 20 {
						t.Errorf("a replica answered %v", statuses)
					}
				})
			}
			group.Wait()
			if s.asked() == asked+1 {
				return
			}
			t.Logf("Polar was asked %d times", s.asked()-asked)
		}
		t.Error("Polar was asked more than once in each of 5 tries")
	})
}

func TestAPurchaseAndACancellationThatOneReplicaHearsOfDecideOnAll(t *testing.T) {
	fleets(t, func(t *testing.T, s *shop, start func(...func(*settings)) *replica) {
		all := []*replica{start(), start(), start()}
		s.receiving(all[0])
		for _, r := range all {
			if r.decides(t, paying) != 200 {
				t.Fatal("a paying customer was refused")
			}
		}
		asked := s.asked()
		for _, change := range []struct {
			make func()
			want int
		}{
			{func() { s.polar.RevokeBenefit(paying, proBenefit) }, 402},
			{func() { s.polar.GrantBenefit(paying, polartest.Benefit{BenefitID: proBenefit}) }, 200},
		} {
			change.make()
			s.delivered()
			for i, r := range all {
				eventually(t, fmt.Sprintf("replica %d decides %d", i, change.want), func() bool {
					_, known := s.polar.Customer(paying)
					return known && r.decides(t, paying) == change.want
				})
			}
		}
		// A refusal may be doubted before it is replaced, once by all of them.
		if more := s.asked() - asked; more > 1 {
			t.Errorf("Polar was asked %d times more", more)
		}
	})
}

// many is how many customers are known before a restart.
const many = 10_000

func TestWhenAllReplicasRestartWhilePolarIsDownNobodyWhoWasKnownIsRefused(t *testing.T) {
	fleets(t, func(t *testing.T, s *shop, start func(...func(*settings)) *replica) {
		began := s.polar.Now().Add(-24 * time.Hour)
		n := many
		if !strings.Contains(t.Name(), "processes that share Redis") {
			n = many / 10
		}
		for i := range n {
			at := began.Add(time.Duration(i) * time.Second)
			s.polar.AddCustomer(polartest.Customer{ExternalID: usr(i), Benefits: []polartest.Benefit{{BenefitID: proBenefit, GrantedAt: at, CreatedAt: at}}})
		}
		quick := func(with *settings) { with.RequestsPerMinute = 100_000 }
		before := start(quick)
		before.answer(t, "/warm", nil)
		before.kill()
		s.offline.Store(true)
		var group sync.WaitGroup
		for range 2 {
			group.Go(func() {
				r, statuses := start(), map[int]int{}
				r.answer(t, fmt.Sprintf("/crowd?first=0&last=%d", n), &statuses)
				if statuses[200] != n {
					t.Errorf("of %d customers: %v", n, statuses)
				}
			})
		}
		group.Wait()
	})
}

func TestRequestsOfEveryKindAndOfAllReplicasAreOneBudget(t *testing.T) {
	fleets(t, func(t *testing.T, s *shop, start func(...func(*settings)) *replica) {
		key := s.polar.AddKey(polartest.LicenseKey{BenefitID: proBenefit})
		var all []*replica
		for range 3 {
			all = append(all, start(func(with *settings) { with.RequestsPerMinute = 60 }))
		}
		var group sync.WaitGroup
		for i, r := range all {
			group.Go(func() { r.answer(t, fmt.Sprintf("/crowd?first=%d&last=%d", 100*i, 100*i+100), nil) })
			group.Go(func() { r.answer(t, "/license?key="+key.Key, nil) })
			group.Go(func() { _ = r.ask(t.Context(), "/warm", nil) })
		}
		group.Wait()
		if asked := s.asked(); asked > 60 || asked < 30 {
			t.Errorf("%d requests within seconds", asked)
		}
	})
}

func TestAPauseThatPolarAsksOneReplicaForHoldsForAll(t *testing.T) {
	fleets(t, func(t *testing.T, s *shop, start func(...func(*settings)) *replica) {
		a, b := start(), start()
		s.polar.Inject(polartest.Fault{Effect: polartest.RateLimited("40"), Times: 1})
		if status := a.decides(t, paying); status != 503 {
			t.Fatalf("the first was answered %d", status)
		}
		next := 0
		eventually(t, "the other replica knows of the pause", func() bool {
			next++
			return b.decides(t, usr(next)) == 503 && b.report(t).Pause > 5*time.Second
		})
		asked := s.asked()
		b.decides(t, "usr_of_the_pause")
		if s.asked() != asked {
			t.Error("Polar was asked during the pause")
		}
	})
}

func TestAReplicaThatIsKilledWhileItAsksIsReplacedByAnother(t *testing.T) {
	t.Parallel()
	for name, share := range map[string]func(*testing.T, *shop){"file": onFile, "Redis": onServer} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newShop(t)
			share(t, s)
			short := func(with *settings) { with.Timeout = time.Second }
			dies, other := s.process(short), s.process(short)
			s.polar.Inject(polartest.Fault{Effect: polartest.Hang(), Times: 1})
			go func() { _ = dies.ask(context.Background(), "/decide?customer="+paying, nil) }()
			eventually(t, "it asks", func() bool { return s.asked() == 1 })
			dies.kill()
			if status := other.decides(t, paying); status != 200 {
				t.Errorf("the other replica decided %d", status)
			}
			if s.asked() > 3 {
				t.Errorf("Polar was asked %d times", s.asked())
			}
		})
	}
}

func TestReplicasThatAreKilledWhileTheyPutHarmNothing(t *testing.T) {
	t.Parallel()
	for name, share := range map[string]func(*testing.T, *shop){"file": onFile, "Redis": onServer} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newShop(t)
			share(t, s)
			s.RequestsPerMinute = 100_000
			const customers = 20
			for i := range customers {
				s.add(usr(i))
			}
			stays := s.process()
			for round := range 6 {
				dies := s.process()
				var group sync.WaitGroup
				for i := range customers {
					if (i+round)%2 == 0 {
						s.polar.RevokeBenefit(usr(i), proBenefit)
					} else if round > 0 {
						s.polar.GrantBenefit(usr(i), polartest.Benefit{BenefitID: proBenefit})
					}
					group.Go(func() { _ = dies.ask(context.Background(), "/refresh?customer="+usr(i), nil) })
				}
				time.Sleep(time.Duration(3*round) * time.Millisecond)
				dies.kill()
				group.Wait()
			}
			for i := range customers { // the answers that are in the store are whole, whoever put them
				stays.answer(t, "/refresh?customer="+usr(i), nil)
				want := 200
				if (i+5)%2 == 0 {
					want = 402
				}
				if status := stays.decides(t, usr(i)); status != want {
					t.Errorf("customer %d was answered %d, not %d", i, status, want)
				}
			}
			if about := stays.report(t); about.Unreadable != 0 {
				t.Errorf("%d records could not be read", about.Unreadable)
			}
		})
	}
}

// ways are replicas that each have a way of their own to the server, which can be cut.
func (s *shop) ways(t *testing.T, addr string, n int, change ...func(*settings)) (all []*replica, ways []*proxy) {
	t.Helper()
	s.onRedis(addr)
	for range n {
		way := newProxy(t, addr)
		ways = append(ways, way)
		all = append(all, s.inProcess(append([]func(*settings){func(with *settings) { with.Redis = way.addr }}, change...)...))
	}
	return all, ways
}

// away is how long the store is away. The rule is about half a minute, which takes the variable.
func away() time.Duration {
	if d, err := time.ParseDuration(os.Getenv("POLARGATE_STORE_AWAY")); err == nil {
		return d
	}
	return 2 * time.Second
}

func TestWhileTheStoreIsAwayReplicasGoOnAndNothingIsLostWhenItIsBack(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	const customers = 30
	for i := range customers {
		s.add(usr(i))
	}
	all, ways := s.ways(t, start(t, "redis-server").addr, 3)
	s.receiving(all[0])
	for _, r := range all {
		var statuses map[int]int
		r.answer(t, fmt.Sprintf("/crowd?first=0&last=%d", customers), &statuses)
		if statuses[200] != customers {
			t.Fatalf("%v", statuses)
		}
	}
	var mends []func()
	for _, way := range ways {
		mends = append(mends, way.sever())
	}
	began := time.Now()
	for i := 0; i < customers; i += 2 {
		s.polar.RevokeBenefit(usr(i), proBenefit)
	}
	s.delivered()
	s.add("usr_new")
	for _, r := range all {
		at := time.Now()
		if status := r.decides(t, "usr_new"); status != 200 {
			t.Errorf("a new customer was answered %d", status)
		}
		if took := time.Since(at); took > 3*time.Second {
			t.Errorf("a new customer waited for %s", took)
		}
	}
	if !all[0].report(t).Away {
		t.Error("the store does not count as away")
	}
	time.Sleep(time.Until(began.Add(away())))
	s.offline.Store(true) // so that only what is shared counts
	for _, mend := range mends {
		mend()
	}
	for i, r := range all {
		eventually(t, fmt.Sprintf("replica %d knows all", i), func() bool {
			var statuses map[int]int
			r.answer(t, fmt.Sprintf("/crowd?first=0&last=%d", customers), &statuses)
			return statuses[402] == customers/2 && statuses[200] == customers/2
		})
		eventually(t, fmt.Sprintf("replica %d has put all", i), func() bool {
			about := r.report(t)
			return !about.Away && about.Waiting == 0 && about.Lost == 0
		})
	}
}

func TestWhileTheStoreIsAwayEachReplicaHasItsShareOfTheBudget(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	all, ways := s.ways(t, start(t, "redis-server").addr, 3, func(with *settings) { with.RequestsPerMinute = 90 })
	for _, r := range all { // what they were told when they started may be less
		eventually(t, "each knows of the others", func() bool { return r.report(t).Replicas == 3 })
	}
	for _, way := range ways {
		defer way.sever()()
	}
	for _, r := range all {
		eventually(t, "the store counts as away", func() bool { r.decides(t, paying); return r.report(t).Away })
	}
	var group sync.WaitGroup
	for i, r := range all {
		group.Go(func() { r.answer(t, fmt.Sprintf("/crowd?first=%d&last=%d", 200*i, 200*i+200), nil) })
	}
	group.Wait()
	// A burst of a fifth of 30, and then 24 in a minute.
	if asked := s.asked(); asked > 45 {
		t.Errorf("%d requests within seconds", asked)
	}
}

var calls = regexp.MustCompile(`cmdstat_(\w+):calls=(\d+)`)

// commands are those that a server was sent, but for what nobody waits for.
func commands(t *testing.T, server *server) map[string]int {
	t.Helper()
	counts := map[string]int{}
	for _, found := range calls.FindAllStringSubmatch(server.do(t, "INFO commandstats"), -1) {
		counts[found[1]], _ = strconv.Atoi(found[2])
	}
	return counts
}

// quietStore is a Store that hears nothing, and gives no signs of life, so that only what is
// asked for is sent.
type quietStore struct{ *Store }

func (quietStore) Listen(ctx context.Context, _ func([]string, bool)) error {
	<-ctx.Done()
	return ctx.Err()
}

func (quietStore) Beat(context.Context, string, time.Duration) (int, error) { return 2, nil }

func TestACustomerWhomAnotherReplicaKnowsIsOneRoundTrip(t *testing.T) {
	t.Parallel()
	server := start(t, "redis-server")
	s := newShop(t)
	s.onRedis(server.addr)
	quiet := func() *replica {
		with := s.with(nil)
		store, end, err := with.store()
		noError(t, err)
		t.Cleanup(end)
		return s.over(with, quietStore{store.(*Store)})
	}
	const customers = 50
	for i := range customers {
		s.add(usr(i))
	}
	first, second := quiet(), quiet()
	for _, r := range []*replica{first, second} { // which also sends the scripts
		r.decides(t, paying)
	}
	round := func(r *replica) int {
		before := commands(t, server)["evalsha"]
		r.answer(t, fmt.Sprintf("/crowd?first=0&last=%d", customers), nil)
		return commands(t, server)["evalsha"] - before
	}
	if n := round(first); n != 2*customers {
		t.Errorf("%d customers whom nobody knew took %d round trips, not a look-up and a put each", customers, n)
	}
	if n := round(second); n != customers {
		t.Errorf("%d customers whom another replica knew took %d round trips", customers, n)
	}
	if n := round(second); n != 0 {
		t.Errorf("%d customers in memory took %d round trips", customers, n)
	}
	if s.asked() != customers+1 {
		t.Errorf("Polar was asked %d times", s.asked())
	}
}

// deliveries makes what Polar's webhooks would deliver, so that a test can have many.
type deliveries struct {
	mu   sync.Mutex
	sent []delivery
}

type delivery struct {
	body   []byte
	header http.Header
}

// collecting has webhooks collected instead of delivered.
func (s *shop) collecting() *deliveries {
	d := &deliveries{}
	s.polar.AddEndpoint(polartest.Endpoint{Secrets: []polartest.Secret{{Text: hookSecret}}, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		d.mu.Lock()
		d.sent = append(d.sent, delivery{body, r.Header.Clone()})
		d.mu.Unlock()
		w.WriteHeader(http.StatusNoContent)
	})})
	return d
}

// toggle changes what the paying customer has, and returns the webhook that tells of it, and
// how replicas are to decide afterwards.
func (s *shop) toggle(d *deliveries, i int) (last delivery, want int) {
	s.t.Helper()
	want = 200
	if i%2 == 0 {
		s.polar.RevokeBenefit(paying, proBenefit)
		want = 402
	} else {
		s.polar.GrantBenefit(paying, polartest.Benefit{BenefitID: proBenefit})
	}
	s.delivered()
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.sent[len(d.sent)-1], want
}

func decide(t testing.TB, customers *polargate.Customers) int {
	t.Helper()
	_, refusal := customers.Decide(t.Context(), polargate.ExternalID(paying), polargate.Feature("pro"))
	if refusal == nil {
		return 200
	}
	return refusal.Status
}

func TestALookUpIsNeverOlderThanWhatWasAcknowledged(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	s.onRedis(start(t, "redis-server").addr)
	s.RequestsPerMinute = 1_000_000
	r := s.inProcess()
	applied := s.collecting()
	decide(t, r.customers)
	var cold *replica
	for i := range 2000 {
		last, want := s.toggle(applied, i)
		noError(t, r.customers.Apply(t.Context(), last.body, last.header))
		if got := decide(t, r.customers); got != want {
			t.Fatalf("change %d: the replica that applied it decided %d", i, got)
		}
		if i%20 == 0 { // one that starts now knows it too
			cold = s.inProcess()
			if got := decide(t, cold.customers); got != want {
				t.Fatalf("change %d: a replica that started then decided %d", i, got)
			}
			cold.kill()
		}
	}
}

func TestAReplicaWhoseSubscriptionIsKilledIsUpToDateAgainAfterwards(t *testing.T) {
	t.Parallel()
	server := start(t, "redis-server")
	s := newShop(t)
	s.onRedis(server.addr)
	a, b := s.inProcess(), s.inProcess()
	applied := s.collecting()
	decide(t, a.customers)
	decide(t, b.customers)
	for i := range 30 {
		last, want := s.toggle(applied, i)
		// The message of this change is published to nobody: in one MULTI with the kill the
		// subscription cannot be back before. What stands in for it is a change of which no
		// hint comes.
		var killed atomic.Bool
		go func() {
			for !killed.Load() {
				_, _ = server.try("CLIENT KILL TYPE pubsub")
			}
		}()
		noError(t, a.customers.Apply(t.Context(), last.body, last.header))
		killed.Store(true)
		eventually(t, "the other replica decides by it", func() bool { return decide(t, b.customers) == want })
	}
}

func TestAServerWithoutMemoryHoldsUpNobodyAndNothingIsLost(t *testing.T) {
	t.Parallel()
	server := start(t, "redis-server")
	s := newShop(t)
	s.onRedis(server.addr)
	a, b := s.inProcess(), s.inProcess()
	applied := s.collecting()
	decide(t, a.customers)
	decide(t, b.customers)
	server.do(t, "CONFIG SET maxmemory 1")
	last, _ := s.toggle(applied, 0)
	noError(t, a.customers.Apply(t.Context(), last.body, last.header))
	if got := decide(t, a.customers); got != 402 {
		t.Errorf("the replica that applied it decided %d", got)
	}
	s.add("usr_2")
	if got := b.decides(t, "usr_2"); got != 200 {
		t.Errorf("a new customer was answered %d", got)
	}
	if !a.report(t).Away {
		t.Error("a server that stores nothing does not count as away")
	}
	server.do(t, "CONFIG SET maxmemory 0")
	eventually(t, "the other replica decides by it", func() bool { return decide(t, b.customers) == 402 })
	eventually(t, "the store is back", func() bool { about := a.report(t); return !about.Away && about.Waiting == 0 && about.Lost == 0 })
}

func TestAServerThatIsKilledOrStandsStillHoldsUpNobody(t *testing.T) {
	t.Parallel()
	for name, stop := range map[string]func(t *testing.T, s *server){
		"killed":       func(t *testing.T, s *server) { t.Helper(); s.kill(t) },
		"stands still": func(t *testing.T, s *server) { t.Helper(); s.do(t, "CLIENT PAUSE 100000 ALL") },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := start(t, "redis-server")
			s := newShop(t)
			s.onRedis(server.addr)
			r := s.inProcess() // its client retries for as long as the context lasts
			for i := range 20 {
				s.add(usr(i))
			}
			decide(t, r.customers)
			stop(t, server)
			for i := range 20 {
				began := time.Now()
				e, err := r.customers.Entitlements(context.Background(), polargate.ExternalID(usr(i)))
				noError(t, err)
				if !e.Has("pro") {
					t.Error("a paying customer was refused")
				}
				if took := time.Since(began); took > 3*time.Second {
					t.Errorf("a request took %s", took)
				}
			}
			if decide(t, r.customers) != 200 {
				t.Error("who is in memory was refused")
			}
		})
	}
}

func TestAReplicaThatHearsNothingForAWhileMissesNothing(t *testing.T) {
	t.Parallel()
	server := start(t, "redis-server")
	s := newShop(t)
	const customers = 200
	for i := range customers {
		s.add(usr(i))
	}
	s.RequestsPerMinute = 100_000
	all, ways := s.ways(t, server.addr, 2)
	s.receiving(all[0])
	for _, r := range all {
		r.answer(t, fmt.Sprintf("/crowd?first=0&last=%d", customers), nil)
	}
	flow := ways[1].stall()
	for i := range customers {
		s.polar.RevokeBenefit(usr(i), proBenefit)
	}
	s.delivered()
	flow()
	eventually(t, "the replica that stalled decides by all of it", func() bool {
		var statuses map[int]int
		all[1].answer(t, fmt.Sprintf("/crowd?first=0&last=%d", customers), &statuses)
		return statuses[402] == customers
	})
}

func TestAFailoverUnderLoadLosesNoChange(t *testing.T) {
	t.Parallel()
	primary, follower, watch := watched(t)
	s := newShop(t)
	s.RequestsPerMinute = 100_000
	const customers = 40
	for i := range customers {
		s.add(usr(i))
	}
	p := prefix()
	one := func() *replica {
		client := dial(t, behindSentinel(watch.addr))
		return s.over(s.with(nil), store(t, client, p))
	}
	all := []*replica{one(), one(), one()}
	s.receiving(all[0])
	crowd := fmt.Sprintf("/crowd?first=0&last=%d", customers)
	for _, r := range all {
		r.answer(t, crowd, nil)
	}
	ctx, stop := context.WithCancel(t.Context())
	var load sync.WaitGroup
	var undecided atomic.Int64
	for _, r := range all {
		load.Go(func() {
			for ctx.Err() == nil {
				var statuses map[int]int
				if r.ask(ctx, crowd, &statuses) == nil {
					undecided.Add(int64(statuses[503]))
				}
			}
		})
	}
	for i := range customers {
		if i == customers/2 {
			primary.kill(t)
		}
		s.polar.RevokeBenefit(usr(i), proBenefit)
		time.Sleep(20 * time.Millisecond)
	}
	s.delivered()
	eventually(t, "the follower took over", func() bool {
		reply, err := follower.try("ROLE")
		return err == nil && strings.Contains(reply, "master")
	})
	for i, r := range all {
		eventually(t, fmt.Sprintf("replica %d decides by all changes", i), func() bool {
			var statuses map[int]int
			r.answer(t, crowd, &statuses)
			return statuses[402] == customers
		})
	}
	stop()
	load.Wait()
	if undecided.Load() != 0 {
		t.Errorf("%d requests could not be decided", undecided.Load())
	}
	s.offline.Store(true)
	late := one()
	var statuses map[int]int
	late.answer(t, crowd, &statuses)
	if statuses[402] != customers {
		t.Errorf("a replica that starts afterwards decides %v", statuses)
	}
}

func TestASecretIsReplacedWhileReplicasRun(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	s.onRedis(start(t, "redis-server").addr)
	with := func(secret, other string) func(*settings) {
		return func(s *settings) { s.Secret, s.OtherSecret = secret, other }
	}
	const old, next = "the old secret of all replicas", "the new secret of all replicas"
	steps := [][]func(*settings){
		{with(old, ""), with(old, "")},
		{with(old, ""), with(old, next)},
		{with(old, next), with(next, old)},
		{with(next, old), with(next, "")},
		{with(next, ""), with(next, "")},
	}
	applied := s.collecting()
	for i, step := range steps {
		all := []*replica{s.inProcess(step[0]), s.inProcess(step[1])}
		for j, r := range all { // both have asked, or know from the other
			decide(t, r.customers)
			last, want := s.toggle(applied, 2*i+j)
			noError(t, r.customers.Apply(t.Context(), last.body, last.header))
			for k, other := range all {
				eventually(t, fmt.Sprintf("step %d: replica %d decides by what %d applied", i, k, j), func() bool { return decide(t, other.customers) == want })
			}
		}
		for _, r := range all {
			if about := r.report(t); about.Unreadable != 0 {
				t.Errorf("step %d: %d records could not be read", i, about.Unreadable)
			}
			r.kill()
		}
	}
}

func TestRecordsOfAnotherProgramAreCountedAndDecideNothing(t *testing.T) {
	t.Parallel()
	server := start(t, "redis-server")
	s := newShop(t)
	s.onRedis(server.addr)
	before := s.inProcess()
	decide(t, before.customers)
	client := dial(t, rueidis.ClientOption{InitAddress: []string{server.addr}})
	head := store(t, client, s.Prefix).head
	keys, err := client.Do(t.Context(), client.B().Keys().Pattern(head+"r:*").Build()).AsStrSlice()
	noError(t, err)
	if len(keys) != 2 {
		t.Fatalf("a customer has the records %q", keys)
	}
	for i, text := range []string{
		"another program's", `{"pro": true}`, "", "9223372036854775806" + "\x01forged by who knows no secret, and long enough", "1764331200000000000\x02of a later version",
	} {
		for _, key := range keys {
			noError(t, client.Do(t.Context(), client.B().Set().Key(key).Value(text).Build()).Error())
		}
		r := s.inProcess()
		if got := decide(t, r.customers); got != 200 {
			t.Errorf("with %q: a paying customer was answered %d", text, got)
		}
		if got := decide(t, before.customers); got != 200 {
			t.Errorf("with %q: a replica that runs answered %d", text, got)
		}
		if about := r.report(t); i > 2 && about.Unreadable == 0 {
			t.Errorf("with %q: nothing was counted", text)
		}
		r.kill()
	}
}

// BenchmarkWebhookToOtherReplicas measures from the arrival of a webhook at one replica until
// another one decides by it.
func BenchmarkWebhookToOtherReplicas(b *testing.B) {
	s := newShop(b)
	s.onRedis(start(b, "redis-server").addr)
	s.RequestsPerMinute = 1_000_000
	var all []*replica
	for range 4 {
		all = append(all, s.inProcess())
	}
	applied := s.collecting()
	for _, r := range all {
		decide(b, r.customers)
	}
	handler := all[0].customers.WebhookHandler()
	var took []time.Duration
	b.ResetTimer()
	for i := range b.N {
		b.StopTimer()
		last, want := s.toggle(applied, i)
		b.StartTimer()
		began := time.Now()
		request := httptest.NewRequest(http.MethodPost, "/webhooks/polar", strings.NewReader(string(last.body)))
		request.Header = last.header
		go handler.ServeHTTP(httptest.NewRecorder(), request)
		var others sync.WaitGroup
		for _, r := range all[1:] {
			others.Go(func() {
				for decide(b, r.customers) != want {
					time.Sleep(50 * time.Microsecond)
				}
			})
		}
		others.Wait()
		took = append(took, time.Since(began))
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "p50-ms")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds())/1000, "p99-ms")
	b.ReportMetric(float64(took[len(took)-1].Microseconds())/1000, "max-ms")
}
