package polargateredis

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/polargate/polargate"
	"github.com/polargate/polargate/storetest"
	"github.com/redis/rueidis"
)

var base = time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)

func record(key string, at time.Time, data string) polargate.SharedRecord {
	return polargate.SharedRecord{Key: key, At: polargate.NewFactTime(at), Data: []byte(data), TTL: time.Hour}
}

var prefixes atomic.Int64

// prefix is one that nothing else uses.
func prefix() string { return fmt.Sprintf("inkwell%d:", prefixes.Add(1)) }

// suite runs storetest.Shared against a server, each Store with a way of its own to it.
func suite(t *testing.T, addr string) {
	type way struct {
		*proxy
		prefix string
	}
	var ways sync.Map // of a Store
	open := func(t *testing.T, prefix string) polargate.Shared {
		p := newProxy(t, addr)
		s := store(t, dial(t, rueidis.ClientOption{InitAddress: []string{p.addr}, ForceSingleClient: true}), prefix)
		ways.Store(s, way{p, prefix})
		return s
	}
	wayOf := func(s polargate.Shared) way {
		w, _ := ways.Load(s)
		return w.(way)
	}
	storetest.Shared(t,
		func(t *testing.T) polargate.Shared { return open(t, prefix()) },
		storetest.Replica(func(t *testing.T, of polargate.Shared) polargate.Shared { return open(t, wayOf(of).prefix) }),
		storetest.Cut(func(_ *testing.T, of polargate.Shared) func() { return wayOf(of).sever() }),
		storetest.Spoil(spoil),
	)
}

// spoil puts other types, and texts of another program, where a key's things are.
func spoil(t *testing.T, of polargate.Shared, key string) {
	t.Helper()
	s := of.(*Store)
	do := func(command ...string) {
		noError(t, s.client.Do(t.Context(), s.client.B().Arbitrary(command[0]).Keys(command[1]).Args(command[2:]...).Build()).Error())
	}
	for i, name := range []string{s.record(key), s.claim(key), s.value(key), s.units(key), s.paused(key), s.replicas()} {
		do("DEL", name)
		switch kind := int(spoilt.Add(1)) + i; kind % 7 {
		case 0:
			do("LPUSH", name, "another program's")
		case 1:
			do("HSET", name, "1", "99999999999999999999 99999999999999999999", "x", "y", "z", "1 2 3")
		case 2:
			do("SADD", name, "another program's")
		case 3:
			do("SET", name, "another program's")
		case 4:
			do("SET", name, "")
		case 5:
			do("SET", name, "99999999999999999999")
		case 6:
			do("SET", name, `{"json": true, "and": "longer than a version is"}`)
		}
	}
}

// spoilt counts, so that each place sees each kind.
var spoilt atomic.Int64

func TestRedisKeepsTheContract(t *testing.T) {
	t.Parallel()
	suite(t, start(t, "redis-server").addr)
}

func TestValkeyKeepsTheContract(t *testing.T) {
	t.Parallel()
	suite(t, start(t, "valkey-server").addr)
}

func TestAClusterKeepsTheContract(t *testing.T) {
	t.Parallel()
	nodes := startCluster(t, "redis-server")
	var addresses []string
	for _, node := range nodes {
		addresses = append(addresses, node.addr)
	}
	client := func(t *testing.T) rueidis.Client {
		// A program whose client reads from replicas where it can.
		return dial(t, rueidis.ClientOption{InitAddress: addresses, SendToReplicas: func(cmd rueidis.Completed) bool { return cmd.IsReadOnly() }})
	}
	var stores sync.Map // prefix of each
	open := func(t *testing.T, prefix string) polargate.Shared {
		s := store(t, client(t), prefix)
		stores.Store(s, prefix)
		return s
	}
	storetest.Shared(t,
		func(t *testing.T) polargate.Shared { return open(t, prefix()) },
		storetest.Replica(func(t *testing.T, of polargate.Shared) polargate.Shared {
			p, _ := stores.Load(of)
			return open(t, p.(string))
		}),
		storetest.Spoil(spoil),
	)
	if t.Failed() {
		return
	}
	t.Run("keys of several programs are spread over the nodes", func(t *testing.T) {
		seen := map[string]bool{}
		for i := range 30 {
			s := store(t, client(t), fmt.Sprintf("program-%d:", i))
			_, err := s.Put(t.Context(), "", record("k", base, "x"))
			noError(t, err)
		}
		for i, node := range nodes {
			if strings.Contains(node.do(t, "DBSIZE"), ":0\r") {
				t.Errorf("node %d has no keys", i)
			}
			seen[node.addr] = true
		}
	})
}

func TestAKilledSubscriberHearsOfTheGapInWhichAMessageWasPublished(t *testing.T) {
	t.Parallel()
	server := start(t, "redis-server")
	p := prefix()
	s := store(t, dial(t, rueidis.ClientOption{InitAddress: []string{server.addr}}), p)
	e := listen(t, s)
	for i := range 20 {
		key := "lost-" + strconv.Itoa(i)
		gaps := e.gapsHeard()
		// In one MULTI, or the client is often back before the message.
		reply := server.do(t, "MULTI", "CLIENT KILL TYPE pubsub", "PUBLISH "+s.channel()+" "+key, "EXEC")
		if !strings.Contains(reply, ":0\r\n") {
			t.Fatalf("somebody heard the message: %q", reply)
		}
		eventually(t, "the gap is told", func() bool { return e.gapsHeard() > gaps })
		if e.heard(key) {
			t.Fatal("nobody can have heard this")
		}
		after := "heard-" + strconv.Itoa(i)
		server.do(t, "PUBLISH "+s.channel()+" "+after)
		eventually(t, "messages are heard again", func() bool { return e.heard(after) })
	}
}

func TestAServerWithoutMemoryIsAwayAndTellsNobodyOfWhatItDidNotStore(t *testing.T) {
	t.Parallel()
	server := start(t, "redis-server")
	s := store(t, dial(t, rueidis.ClientOption{InitAddress: []string{server.addr}}), prefix())
	_, err := s.Put(t.Context(), "", record("known", base, "x"))
	noError(t, err)
	e := listen(t, s)
	eventually(t, "the script is there", func() bool {
		_, err := s.Put(t.Context(), "", record("known", base, "x"))
		return err == nil
	})
	server.do(t, "CONFIG SET maxmemory 1")

	_, err = s.Put(t.Context(), "", record("known", base.Add(time.Second), "y"), record("new", base, "y"))
	if err == nil || !strings.Contains(err.Error(), "OOM") {
		t.Fatalf("a server without memory stored it: %v", err)
	}
	answer, err := s.Lookup(t.Context(), polargate.SharedLookup{Key: "new", Holder: "h", ClaimFor: time.Second})
	if err == nil {
		t.Fatalf("a claim that is not stored is none: %+v", answer)
	}
	if turn, err := s.Take(t.Context(), polargate.SharedBudget{Name: "n", Limit: 10, Window: time.Minute}); err == nil {
		t.Fatalf("a unit that is not counted is not taken: %+v", turn)
	}
	answer, err = s.Lookup(t.Context(), polargate.SharedLookup{Key: "known", Holder: "h", ClaimFor: time.Second})
	if err != nil || !answer.Found || string(answer.Record.Data) != "x" {
		t.Fatalf("who is known can be read: %+v, %v", answer, err)
	}
	noError(t, s.Hint(t.Context(), "published")) // this works without memory
	eventually(t, "a hint is heard", func() bool { return e.heard("published") })
	if e.heard("new") {
		t.Fatal("a record that was not stored was told of")
	}
	server.do(t, "CONFIG SET maxmemory 0")
	_, err = s.Put(t.Context(), "", record("new", base, "y"))
	noError(t, err)
}

func TestAKilledServerKeepsNobodyWhoHasNoDeadline(t *testing.T) {
	t.Parallel()
	server := start(t, "redis-server")
	// The program's own client retries for as long as its context lasts.
	s, err := New(dial(t, rueidis.ClientOption{InitAddress: []string{server.addr}}), Options{Prefix: prefix(), Timeout: 200 * time.Millisecond})
	noError(t, err)
	_, err = s.Get(context.Background(), "k")
	noError(t, err)
	server.kill(t)
	done := make(chan error, 3)
	go func() { _, err := s.Get(context.Background(), "k"); done <- err }()
	go func() { _, err := s.Put(context.Background(), "", record("k", base, "x")); done <- err }()
	go func() { done <- s.Hint(context.Background(), "k") }()
	for range 3 {
		select {
		case err := <-done:
			if err == nil {
				t.Error("a killed server answered")
			}
		case <-time.After(soon):
			t.Fatal("a call waits for a killed server")
		}
	}
}

func TestAServerThatStandsStillKeepsNobodyLongerThanTheBound(t *testing.T) {
	t.Parallel()
	server := start(t, "redis-server")
	s, err := New(dial(t, rueidis.ClientOption{InitAddress: []string{server.addr}}), Options{Prefix: prefix(), Timeout: 100 * time.Millisecond})
	noError(t, err)
	_, err = s.Put(t.Context(), "", record("k", base, "x"))
	noError(t, err)
	server.do(t, "CLIENT PAUSE 100000 ALL")
	if _, err := s.Get(context.Background(), "k"); err == nil {
		t.Fatal("a server that stands still answered")
	}
	if _, err := s.Put(context.Background(), "", record("k", base, "x")); err == nil {
		t.Fatal("a server that stands still answered")
	}
}

func TestAServerThatForgotTheScriptsIsToldThemAgain(t *testing.T) {
	t.Parallel()
	server := start(t, "redis-server")
	s := store(t, dial(t, rueidis.ClientOption{InitAddress: []string{server.addr}}), prefix())
	for i := range 3 {
		_, err := s.Put(t.Context(), "", record("k", base.Add(time.Duration(i)), strconv.Itoa(i)))
		noError(t, err)
		records, err := s.Get(t.Context(), "k")
		noError(t, err)
		if len(records) != 1 || string(records[0].Data) != strconv.Itoa(i) {
			t.Fatalf("%+v", records)
		}
		server.do(t, "SCRIPT FLUSH")
	}
}

// countingClient counts what is sent.
type countingClient struct {
	rueidis.Client
	sent atomic.Int64
}

func (c *countingClient) Do(ctx context.Context, cmd rueidis.Completed) rueidis.RedisResult {
	c.sent.Add(1)
	return c.Client.Do(ctx, cmd)
}

func (c *countingClient) DoMulti(ctx context.Context, multi ...rueidis.Completed) []rueidis.RedisResult {
	c.sent.Add(1)
	return c.Client.DoMulti(ctx, multi...)
}

func TestAColdCustomerCostsOneRoundTrip(t *testing.T) {
	t.Parallel()
	server := start(t, "redis-server")
	client := &countingClient{Client: dial(t, rueidis.ClientOption{InitAddress: []string{server.addr}})}
	s := store(t, client, prefix())
	look := func(key string) polargate.SharedAnswer {
		answer, err := s.Lookup(t.Context(), polargate.SharedLookup{
			Key: key, Also: []string{"other-" + key}, Holder: "h", ClaimFor: time.Minute,
			Budget: polargate.SharedBudget{Name: "requests", Limit: 300, Window: time.Minute},
		})
		noError(t, err)
		return answer
	}
	look("first") // which also sends the script
	before := client.sent.Load()
	if answer := look("cold"); !answer.Claimed || !answer.Turn.Taken || answer.Turn.Left != 298 {
		t.Fatalf("%+v", answer)
	}
	_, err := s.Put(t.Context(), "h", record("cold", base, "x"))
	noError(t, err)
	before++ // Put
	before++ // its script
	if answer := look("cold"); !answer.Found {
		t.Fatalf("%+v", answer)
	}
	if sent := client.sent.Load() - before; sent != 2 {
		t.Fatalf("two look-ups took %d round trips", sent)
	}
}

// watched starts a primary and a replica of it, and a sentinel that has the replica take over.
func watched(t *testing.T) (primary, replica, watch *server) {
	t.Helper()
	primary = start(t, "redis-server")
	_, port, _ := strings.Cut(primary.addr, ":")
	replica = start(t, "redis-server", "replicaof 127.0.0.1 "+port, "repl-diskless-sync-delay 0")
	eventually(t, "the replica follows", func() bool {
		reply, err := replica.try("INFO replication")
		return err == nil && strings.Contains(reply, "master_link_status:up")
	})
	watch = sentinel(t, "redis-server", primary)
	eventually(t, "the sentinel knows the replica", func() bool {
		reply, err := watch.try("SENTINEL MASTER main")
		return err == nil && strings.Contains(reply, "num-slaves\r\n$1\r\n1\r\n")
	})
	return primary, replica, watch
}

func TestOnePrimaryIsKilledUnderLoadAndNothingWrongIsDecided(t *testing.T) {
	t.Parallel()
	primary, replica, watch := watched(t)

	p := prefix()
	client := func() rueidis.Client {
		return dial(t, behindSentinel(watch.addr))
	}
	writer, reader := store(t, client(), p), store(t, client(), p)
	ears := []*ear{listen(t, writer), listen(t, reader)}

	const customers = 40
	youngest := make([]atomic.Int64, customers) // what was told of each, by who wrote it
	key := func(i int) string { return "customer-" + strconv.Itoa(i) }
	ctx, stop := context.WithCancel(t.Context())
	var load sync.WaitGroup
	var writes, failures, wrong atomic.Int64
	for range 4 {
		load.Go(func() {
			for ctx.Err() == nil {
				i := rand.N(customers)
				n := youngest[i].Add(1)
				call, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
				_, err := writer.Put(call, "", record(key(i), base.Add(time.Duration(n)), key(i)+" "+strconv.FormatInt(n, 10)))
				cancel()
				writes.Add(1)
				if err != nil {
					failures.Add(1)
					time.Sleep(5 * time.Millisecond)
				}
			}
		})
		load.Go(func() {
			for ctx.Err() == nil {
				i := rand.N(customers)
				call, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
				records, err := reader.Get(call, key(i))
				cancel()
				if err != nil {
					time.Sleep(5 * time.Millisecond)
				}
				for _, r := range records { // whole, the customer's own, and as old as it says
					name, number, _ := strings.Cut(string(r.Data), " ")
					n, err := strconv.ParseInt(number, 10, 64)
					if name != key(i) || err != nil || r.At != polargate.NewFactTime(base.Add(time.Duration(n))) || n > youngest[i].Load() {
						wrong.Add(1)
					}
				}
			}
		})
	}
	eventually(t, "there is load", func() bool { return writes.Load() > 200 })
	gaps := []int{ears[0].gapsHeard(), ears[1].gapsHeard()}
	primary.kill(t)
	eventually(t, "the replica took over", func() bool {
		reply, err := replica.try("ROLE")
		return err == nil && strings.Contains(reply, "master")
	})
	before := writes.Load()
	eventually(t, "there is load again", func() bool { return writes.Load() > before+200 })
	stop()
	load.Wait()
	if failures.Load() == 0 {
		t.Error("no call failed: the server was not killed under load")
	}
	if wrong.Load() != 0 {
		t.Errorf("%d records were wrong", wrong.Load())
	}
	for i, e := range ears {
		eventually(t, "the gap is told", func() bool { return e.gapsHeard() > gaps[i] })
	}
	// After a gap, what was put lately is put again, as Customers do.
	for i := range customers {
		n := youngest[i].Load()
		eventually(t, "the store is back", func() bool {
			_, err := writer.Put(t.Context(), "", record(key(i), base.Add(time.Duration(n)), key(i)+" "+strconv.FormatInt(n, 10)))
			return err == nil
		})
		records, err := reader.Get(t.Context(), key(i))
		noError(t, err)
		if len(records) != 1 || string(records[0].Data) != key(i)+" "+strconv.FormatInt(n, 10) {
			t.Fatalf("%s is %+v, not the youngest fact %d", key(i), records, n)
		}
	}
}

func TestAChangeIsHeardByOtherReplicasWithinMilliseconds(t *testing.T) {
	t.Parallel()
	server := start(t, "redis-server")
	p := prefix()
	a := store(t, dial(t, rueidis.ClientOption{InitAddress: []string{server.addr}}), p)
	b := store(t, dial(t, rueidis.ClientOption{InitAddress: []string{server.addr}}), p)
	heard := make(chan string, 1000)
	ctx, cancel := context.WithCancel(t.Context())
	var listening sync.WaitGroup
	listening.Go(func() {
		_ = b.Listen(ctx, func(keys []string, gap bool) {
			if gap {
				heard <- ""
			}
			for _, key := range keys {
				heard <- key
			}
		})
	})
	defer listening.Wait()
	defer cancel()
	<-heard
	var took []time.Duration
	for i := range 200 {
		key := "k" + strconv.Itoa(i)
		began := time.Now()
		_, err := a.Put(t.Context(), "", record(key, base, "x"))
		noError(t, err)
		if got := <-heard; got != key {
			t.Fatalf("heard %q", got)
		}
		took = append(took, time.Since(began))
	}
	slices.Sort(took)
	t.Logf("from Put to another replica: median %s, 99 of 100 within %s", took[100], took[197])
}

func TestKeysBeginWithThePrefixAndAreInOneSlot(t *testing.T) {
	t.Parallel()
	for given, want := range map[string]string{
		"":                  "polargate:{polargate}:",
		"inkwell:":          "inkwell:{inkwell}:",
		"inkwell":           "inkwell{inkwell}:",
		":":                 ":{polargate}:",
		"{tenant}:":         "{tenant}:",
		"apps:{tenant}-x:":  "apps:{tenant}-x:",
		"a{b":               "",
		"{}x":               "",
		"}":                 "",
		"inkwell:staging:1": "inkwell:staging:1{inkwell:staging:1}:",
	} {
		s, err := New(&countingClient{}, Options{Prefix: given})
		if want == "" {
			if err == nil {
				t.Errorf("%q was taken", given)
			}
			continue
		}
		noError(t, err)
		tags := map[string]bool{}
		for _, key := range []string{s.record("k}{"), s.claim("k"), s.value("{k}"), s.units("b"), s.paused("b"), s.replicas()} {
			tag, _ := hashTag(key)
			tags[tag] = true
			if !strings.HasPrefix(key, want) {
				t.Errorf("%q: %q", given, key)
			}
		}
		if len(tags) != 1 || tags[""] {
			t.Errorf("%q: keys have the tags %v", given, tags)
		}
	}
	if _, err := New(nil, Options{}); err == nil {
		t.Error("nil was taken for a client")
	}
	if _, err := New(&countingClient{}, Options{Timeout: -1}); err == nil {
		t.Error("a negative timeout was taken")
	}
}

func BenchmarkLookup(b *testing.B) {
	server := start(b, "redis-server")
	s := store(b, dial(b, rueidis.ClientOption{InitAddress: []string{server.addr}}), prefix())
	_, err := s.Put(b.Context(), "", record("k", base, strings.Repeat("x", 1000)))
	noError(b, err)
	for b.Loop() {
		if _, err := s.Lookup(b.Context(), polargate.SharedLookup{Key: "k", Holder: "h", ClaimFor: time.Minute}); err != nil {
			b.Fatal(err)
		}
	}
}
