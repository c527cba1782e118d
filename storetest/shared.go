package storetest

import (
	"bytes"
	"context"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/polargate/polargate"
)

// A SharedOption tells the suite more of what can be done to a store.
type SharedOption func(*sharedSuite)

// Replica gives the suite a second connection to the store of an opened Shared, as
// another process would have it. Without it, one Shared plays all replicas.
func Replica(open func(t *testing.T, of polargate.Shared) polargate.Shared) SharedOption {
	return func(s *sharedSuite) { s.replica = open }
}

// Cut makes the store unreachable for that Shared, and for no other, until mend is
// called. Without it, the rules about a store that is away are skipped.
func Cut(cut func(t *testing.T, of polargate.Shared) (mend func())) SharedOption {
	return func(s *sharedSuite) { s.cut = cut }
}

// Spoil puts something into the store that the implementation did not write, in the
// places of the record, the claim, the budget and the value of that key. Without it,
// the rules about wrong bytes are skipped.
func Spoil(spoil func(t *testing.T, of polargate.Shared, key string)) SharedOption {
	return func(s *sharedSuite) { s.spoil = spoil }
}

type sharedSuite struct {
	open    func(*testing.T) polargate.Shared
	replica func(*testing.T, polargate.Shared) polargate.Shared
	cut     func(*testing.T, polargate.Shared) func()
	spoil   func(*testing.T, polargate.Shared, string)
}

// Shared runs what every polargate.Shared must do. open gives an empty store to each
// subtest, and cleans up after it by t.Cleanup.
func Shared(t *testing.T, open func(t *testing.T) polargate.Shared, options ...SharedOption) {
	s := &sharedSuite{open: open, replica: func(_ *testing.T, of polargate.Shared) polargate.Shared { return of }}
	for _, option := range options {
		option(s)
	}
	for _, rule := range []struct {
		name string
		test func(*sharedSuite, *testing.T)
	}{
		{"the younger fact stays, in whatever order they arrive", (*sharedSuite).order},
		{"of facts less than a microsecond apart the younger stays", (*sharedSuite).close},
		{"of facts of the same time all replicas agree on one", (*sharedSuite).sameTime},
		{"a fact that comes twice changes nothing", (*sharedSuite).twice},
		{"many put at once leave the youngest", (*sharedSuite).race},
		{"bytes come back as they were put", (*sharedSuite).bytes},
		{"a batch of a thousand is put and read", (*sharedSuite).batch},
		{"a record ends after its time, whatever the time of the fact", (*sharedSuite).ttl},
		{"what was acknowledged is read at once by every replica, 2,000 times", (*sharedSuite).acknowledged},
		{"one of many who look for the same record may ask", (*sharedSuite).claimOnce},
		{"a claim ends when its holder dies", (*sharedSuite).claimDies},
		{"a claim ends with its holder's record, and with nobody else's", (*sharedSuite).claimPut},
		{"a claim is released by its holder alone", (*sharedSuite).claimRelease},
		{"who finds or waits takes nothing from the budget, and who is refused has no claim", (*sharedSuite).lookupBudget},
		{"a record under another name is found", (*sharedSuite).also},
		{"a record older than asked is asked about, and told", (*sharedSuite).notBefore},
		{"a record that cannot be read is discarded if it is still the same", (*sharedSuite).discard},
		{"a budget is never exceeded by many takers", (*sharedSuite).budget},
		{"a budget comes back after its window and not before", (*sharedSuite).window},
		{"some of a budget can be kept for others", (*sharedSuite).keep},
		{"a pause is known to all, and is not shortened", (*sharedSuite).pause},
		{"replicas that were seen lately are counted", (*sharedSuite).beat},
		{"of many who swap at once each has its turn", (*sharedSuite).swap},
		{"what is to happen once happens once", (*sharedSuite).once},
		{"a value that ended is no longer the version it was", (*sharedSuite).valueEnds},
		{"records, values and budgets of one name are apart", (*sharedSuite).apart},
		{"changes are told to every replica", (*sharedSuite).hints},
		{"a receiver that stalls misses nothing and keeps nobody waiting", (*sharedSuite).stalled},
		{"listening and waiting end with their context", (*sharedSuite).contexts},
		{"a store that is away fails soon, and is told when it is back", (*sharedSuite).away},
		{"wrong bytes in the store are nobody's answer and in nobody's way", (*sharedSuite).wrongBytes},
	} {
		t.Run(rule.name, func(t *testing.T) {
			t.Parallel()
			rule.test(s, t)
		})
	}
}

// base is the time of the facts: one without fractions.
var base = time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)

const long = time.Hour

func record(key string, at time.Time, data string) polargate.SharedRecord {
	return polargate.SharedRecord{Key: key, At: polargate.NewFactTime(at), Data: []byte(data), TTL: long}
}

func put(t *testing.T, s polargate.Shared, records ...polargate.SharedRecord) []polargate.SharedRecord {
	t.Helper()
	younger, err := s.Put(bounded(t), "", records...)
	noError(t, err)
	return younger
}

// holds checks what is stored under a key; "" for nothing.
func holds(t *testing.T, s polargate.Shared, key, data string) {
	t.Helper()
	records, err := s.Get(bounded(t), key)
	noError(t, err)
	switch {
	case data == "" && len(records) == 0:
	case len(records) != 1 || records[0].Key != key || string(records[0].Data) != data:
		t.Fatalf("%s: want %q, got %+v", key, data, records)
	}
}

func (s *sharedSuite) two(t *testing.T) (a, b polargate.Shared) {
	a = s.open(t)
	return a, s.replica(t, a)
}

func (s *sharedSuite) order(t *testing.T) {
	a, b := s.two(t)
	times := []time.Time{base, base.Add(time.Microsecond), base.Add(-7 * time.Minute), base.Add(time.Second), base.Add(time.Second - 1), time.Time{}, base.Add(5 * time.Minute)}
	youngest := -1
	for i, at := range times {
		younger := put(t, []polargate.Shared{a, b}[i%2], record("k", at, strconv.Itoa(i)))
		if youngest < 0 || at.After(times[youngest]) {
			youngest = i
			if len(younger) != 0 {
				t.Fatalf("the youngest fact lost to %+v", younger)
			}
		} else if len(younger) != 1 || younger[0].Key != "k" || string(younger[0].Data) != strconv.Itoa(youngest) || younger[0].At != polargate.NewFactTime(times[youngest]) {
			t.Fatalf("an older fact was told of %+v instead of the fact %d", younger, youngest)
		}
		holds(t, a, "k", strconv.Itoa(youngest))
		holds(t, b, "k", strconv.Itoa(youngest))
	}
}

func (s *sharedSuite) close(t *testing.T) {
	a, b := s.two(t)
	for i, apart := range []time.Duration{1, 10, 100, 999} {
		key := "k" + strconv.Itoa(i)
		put(t, a, record(key, base.Add(apart), "younger"))
		put(t, b, record(key, base, "older"))
		holds(t, b, key, "younger")
		put(t, b, record(key, base.Add(apart+1), "youngest"))
		holds(t, a, key, "youngest")
	}
}

func (s *sharedSuite) sameTime(t *testing.T) {
	a, b := s.two(t)
	// Bytes above 127, of other lengths, and of which one begins like the other.
	facts := []string{"\x00", "a", "ab", "B", "\xc3\xa4", "\xff", "a\x00", ""}
	greatest := "\xff"
	for i, first := range facts {
		for j, second := range facts {
			key := fmt.Sprintf("k%d-%d", i, j)
			put(t, a, record(key, base, first))
			put(t, b, record(key, base, second))
			holds(t, a, key, max(first, second)+"")
		}
	}
	for _, fact := range facts {
		put(t, a, record("all", base, fact))
	}
	holds(t, b, "all", greatest)
}

func (s *sharedSuite) twice(t *testing.T) {
	a, b := s.two(t)
	for range 3 {
		if younger := put(t, a, record("k", base, "same")); len(younger) != 0 {
			t.Fatalf("a fact lost to itself: %+v", younger)
		}
		if younger := put(t, b, record("k", base, "same"), record("k", base, "same")); len(younger) != 0 {
			t.Fatalf("a fact lost to itself: %+v", younger)
		}
	}
	holds(t, a, "k", "same")
}

func (s *sharedSuite) race(t *testing.T) {
	a, b := s.two(t)
	const facts = 200
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			for n := i; n < facts; n += 8 {
				at := (n * 77) % facts
				if _, err := []polargate.Shared{a, b}[i%2].Put(bounded(t), "", record("k", base.Add(time.Duration(at)), strconv.Itoa(at))); err != nil {
					t.Errorf("put: %v", err)
				}
			}
		})
	}
	all.Wait()
	holds(t, a, "k", strconv.Itoa(facts-1))
	holds(t, b, "k", strconv.Itoa(facts-1))
}

func (s *sharedSuite) bytes(t *testing.T) {
	a, b := s.two(t)
	every := make([]byte, 64<<10)
	for i := range every {
		every[i] = byte(i ^ i>>8)
	}
	put(t, a, polargate.SharedRecord{Key: "largest", At: polargate.NewFactTime(base), Data: every, TTL: long})
	records, err := b.Get(bounded(t), "none", "largest")
	noError(t, err)
	if len(records) != 1 || !bytes.Equal(records[0].Data, every) || records[0].At != polargate.NewFactTime(base) {
		t.Fatal("64 KiB of every byte came back changed")
	}
	now, swapped, err := a.Swap(bounded(t), "largest", "", every, long)
	noError(t, err)
	value, err := b.Load(bounded(t), "largest")
	noError(t, err)
	if !swapped || !bytes.Equal(value.Data, every) || value.Version != now.Version || value.Version == "" {
		t.Fatal("a value of 64 KiB of every byte came back changed")
	}
}

func (s *sharedSuite) batch(t *testing.T) {
	a, b := s.two(t)
	var records []polargate.SharedRecord
	var keys []string
	for i := range 1000 {
		key := "key-" + strconv.Itoa(i)
		keys = append(keys, key)
		records = append(records, record(key, base.Add(time.Duration(i)), string(bytes.Repeat([]byte{byte(i)}, 500))))
	}
	put(t, a, record(keys[1], base.Add(time.Hour), "younger"), record(keys[998], base.Add(time.Hour), "younger"))
	younger := put(t, a, records...)
	if len(younger) != 2 {
		t.Fatalf("two of a thousand were younger, told of %d", len(younger))
	}
	read, err := b.Get(bounded(t), keys...)
	noError(t, err)
	if len(read) != 1000 {
		t.Fatalf("read %d of 1,000", len(read))
	}
	for i, r := range read {
		want := string(records[i].Data)
		if i == 1 || i == 998 {
			want = "younger"
		}
		if r.Key != keys[i] || string(r.Data) != want {
			t.Fatalf("record %d is %s", i, r.Key)
		}
	}
}

func (s *sharedSuite) ttl(t *testing.T) {
	a, b := s.two(t)
	for name, at := range map[string]time.Time{"future": base.AddDate(100, 0, 0), "past": base.AddDate(-50, 0, 0)} {
		brief := record(name, at, "brief")
		brief.TTL = 100 * time.Millisecond
		put(t, a, brief)
		put(t, a, record(name+"-long", at, "long"))
		eventually(t, "the record has ended", func() bool {
			records, err := b.Get(bounded(t), name)
			noError(t, err)
			return len(records) == 0
		})
		holds(t, b, name+"-long", "long")
		put(t, b, record(name, base.AddDate(-60, 0, 0), "new"))
		holds(t, a, name, "new")
	}
	brief := record("again", base, "same")
	brief.TTL = time.Second
	put(t, a, brief)
	put(t, b, record("again", base, "same")) // for an hour
	time.Sleep(1100 * time.Millisecond)
	holds(t, a, "again", "same")
}

func (s *sharedSuite) acknowledged(t *testing.T) {
	a, b := s.two(t)
	ctx := bounded(t)
	for i := range 2000 {
		writer, reader := a, b
		if i%3 == 0 {
			writer, reader = b, a
		}
		want := strconv.Itoa(i)
		_, err := writer.Put(ctx, "", record("k", base.Add(time.Duration(i)), want))
		noError(t, err)
		if i%2 == 0 {
			records, err := reader.Get(ctx, "k")
			noError(t, err)
			if len(records) != 1 || string(records[0].Data) != want {
				t.Fatalf("look-up %d is older than what was acknowledged: %+v", i, records)
			}
			continue
		}
		answer, err := reader.Lookup(ctx, polargate.SharedLookup{Key: "k", Holder: "h", ClaimFor: long})
		noError(t, err)
		if !answer.Found || string(answer.Record.Data) != want {
			t.Fatalf("look-up %d is older than what was acknowledged: %+v", i, answer)
		}
	}
}

func ask(t *testing.T, s polargate.Shared, key, holder string, claimFor time.Duration) polargate.SharedAnswer {
	t.Helper()
	answer, err := s.Lookup(bounded(t), polargate.SharedLookup{Key: key, Holder: holder, ClaimFor: claimFor})
	noError(t, err)
	outcomes := 0
	for _, is := range []bool{answer.Found, answer.Claimed, answer.Busy} {
		if is {
			outcomes++
		}
	}
	if outcomes != 1 {
		t.Fatalf("an answer without a budget is one of three, not %+v", answer)
	}
	return answer
}

func (s *sharedSuite) claimOnce(t *testing.T) {
	a, b := s.two(t)
	var claims, busy atomic.Int64
	var all sync.WaitGroup
	for i := range 40 {
		all.Go(func() {
			answer, err := []polargate.Shared{a, b}[i%2].Lookup(bounded(t), polargate.SharedLookup{Key: "cold", Holder: "replica-" + strconv.Itoa(i), ClaimFor: long})
			switch {
			case err != nil:
				t.Errorf("lookup: %v", err)
			case answer.Claimed:
				claims.Add(1)
			case answer.Busy && answer.Wait > 0 && answer.Wait <= long:
				busy.Add(1)
			}
		})
	}
	all.Wait()
	if claims.Load() != 1 || busy.Load() != 39 {
		t.Fatalf("%d of 40 may ask, and %d wait for them", claims.Load(), busy.Load())
	}
}

func (s *sharedSuite) claimDies(t *testing.T) {
	a, b := s.two(t)
	if !ask(t, a, "k", "dies", 300*time.Millisecond).Claimed {
		t.Fatal("nobody had the claim")
	}
	eventually(t, "the claim has ended", func() bool { return ask(t, b, "k", "lives", long).Claimed })
	if answer := ask(t, a, "k", "dies", long); !answer.Busy {
		t.Fatalf("the claim that ended is another's now: %+v", answer)
	}
	noError(t, a.Release(bounded(t), "dies", "k"))
	if !ask(t, a, "k", "third", long).Busy {
		t.Fatal("who lost the claim ended that of the next")
	}
	if !ask(t, b, "k", "lives", long).Claimed {
		t.Fatal("a holder can ask again")
	}
}

func (s *sharedSuite) claimPut(t *testing.T) {
	a, b := s.two(t)
	ask(t, a, "k", "holder", long)
	_, err := b.Put(bounded(t), "other", record("k", base, "old"))
	noError(t, err)
	later := polargate.NewFactTime(base.Add(time.Hour))
	answer, err := b.Lookup(bounded(t), polargate.SharedLookup{Key: "k", NotBefore: later, Holder: "other", ClaimFor: long})
	noError(t, err)
	if !answer.Busy || string(answer.Record.Data) != "old" {
		t.Fatalf("the claim is the holder's still, and the old record is told: %+v", answer)
	}
	_, err = a.Put(bounded(t), "holder", record("k", base.Add(time.Minute), "new"))
	noError(t, err)
	answer, err = b.Lookup(bounded(t), polargate.SharedLookup{Key: "k", NotBefore: later, Holder: "other", ClaimFor: long})
	noError(t, err)
	if !answer.Claimed || string(answer.Record.Data) != "new" {
		t.Fatalf("the holder's record ended the claim: %+v", answer)
	}
	// A record that loses ends the claim, too: its holder has its answer.
	_, err = b.Put(bounded(t), "other", record("k", base, "old"))
	noError(t, err)
	answer, err = a.Lookup(bounded(t), polargate.SharedLookup{Key: "k", NotBefore: later, Holder: "third", ClaimFor: long})
	noError(t, err)
	if !answer.Claimed {
		t.Fatalf("a record that lost ended its holder's claim: %+v", answer)
	}
}

func (s *sharedSuite) claimRelease(t *testing.T) {
	a, b := s.two(t)
	ask(t, a, "k1", "holder", long)
	ask(t, a, "k2", "holder", long)
	noError(t, b.Release(bounded(t), "other", "k1", "k2", "none"))
	if !ask(t, b, "k1", "other", long).Busy {
		t.Fatal("another ended the claim")
	}
	noError(t, b.Release(bounded(t), "holder", "k1", "none"))
	if !ask(t, b, "k1", "other", long).Claimed || !ask(t, b, "k2", "other", long).Busy {
		t.Fatal("the holder released one claim of two")
	}
}

func (s *sharedSuite) lookupBudget(t *testing.T) {
	a, b := s.two(t)
	ctx := bounded(t)
	budget := polargate.SharedBudget{Name: "requests", Limit: 2, Window: long}
	look := func(s polargate.Shared, key, holder string) polargate.SharedAnswer {
		answer, err := s.Lookup(ctx, polargate.SharedLookup{Key: key, Holder: holder, ClaimFor: long, Budget: budget})
		noError(t, err)
		return answer
	}
	put(t, a, record("found", base, "x"))
	if answer := look(a, "found", "h1"); !answer.Found || answer.Turn.Taken {
		t.Fatalf("%+v", answer)
	}
	if answer := look(a, "cold-1", "h1"); !answer.Claimed || !answer.Turn.Taken || answer.Turn.Left != 1 {
		t.Fatalf("%+v", answer)
	}
	if answer := look(b, "cold-1", "h2"); !answer.Busy || answer.Turn.Taken {
		t.Fatalf("%+v", answer)
	}
	if answer := look(b, "cold-2", "h2"); !answer.Claimed || !answer.Turn.Taken || answer.Turn.Left != 0 {
		t.Fatalf("%+v", answer)
	}
	if answer := look(a, "cold-3", "h1"); answer.Found || answer.Claimed || answer.Busy || answer.Turn.Taken || answer.Turn.Wait <= 0 || answer.Turn.Paused {
		t.Fatalf("the budget is used up: %+v", answer)
	}
	if answer := ask(t, b, "cold-3", "h2", long); !answer.Claimed {
		t.Fatalf("who was refused holds no claim: %+v", answer)
	}
	if turn, err := a.Take(ctx, budget); err != nil || turn.Taken {
		t.Fatalf("one budget for both: %+v, %v", turn, err)
	}
}

func (s *sharedSuite) also(t *testing.T) {
	a, b := s.two(t)
	look := func(key string, also ...string) polargate.SharedAnswer {
		answer, err := b.Lookup(bounded(t), polargate.SharedLookup{Key: key, Also: also, Holder: "h", ClaimFor: long})
		noError(t, err)
		return answer
	}
	put(t, a, record("old-name", base, "old"))
	if answer := look("new-name", "none", "old-name"); !answer.Found || answer.Record.Key != "old-name" || string(answer.Record.Data) != "old" {
		t.Fatalf("%+v", answer)
	}
	put(t, a, record("new-name", base.Add(1), "new"))
	if answer := look("new-name", "old-name"); string(answer.Record.Data) != "new" {
		t.Fatalf("%+v", answer)
	}
	put(t, a, record("old-name", base.Add(2), "newest"))
	if answer := look("new-name", "old-name"); string(answer.Record.Data) != "newest" {
		t.Fatalf("%+v", answer)
	}
}

func (s *sharedSuite) notBefore(t *testing.T) {
	a, b := s.two(t)
	put(t, a, record("k", base, "x"))
	look := func(at time.Time) polargate.SharedAnswer {
		answer, err := b.Lookup(bounded(t), polargate.SharedLookup{Key: "k", NotBefore: polargate.NewFactTime(at), Holder: "h", ClaimFor: long})
		noError(t, err)
		return answer
	}
	if answer := look(base); !answer.Found {
		t.Fatalf("%+v", answer)
	}
	if answer := look(base.Add(1)); answer.Found || !answer.Claimed || string(answer.Record.Data) != "x" {
		t.Fatalf("%+v", answer)
	}
}

func (s *sharedSuite) discard(t *testing.T) {
	a, b := s.two(t)
	garbage := record("k", base.AddDate(200, 0, 0), "garbage")
	put(t, a, garbage)
	noError(t, b.Discard(bounded(t), record("k", base.AddDate(200, 0, 0), "other"), record("k", base, "garbage"), record("none", base, "")))
	holds(t, a, "k", "garbage")
	noError(t, b.Discard(bounded(t), garbage))
	holds(t, a, "k", "")
	put(t, b, record("k", base, "good"))
	holds(t, a, "k", "good")
}

func (s *sharedSuite) budget(t *testing.T) {
	a, b := s.two(t)
	budget := polargate.SharedBudget{Name: "requests", Limit: 100, Window: long}
	var taken, refused atomic.Int64
	var all sync.WaitGroup
	for i := range 12 {
		all.Go(func() {
			for n := range 25 {
				mine := budget
				mine.Units = 1 + n%3
				turn, err := []polargate.Shared{a, b}[i%2].Take(bounded(t), mine)
				switch {
				case err != nil:
					t.Errorf("take: %v", err)
				case turn.Taken:
					taken.Add(int64(mine.Units))
				case turn.Wait > 0 && turn.Wait <= long+long/30:
					refused.Add(1)
				default:
					t.Errorf("refused without a time to wait: %+v", turn)
				}
			}
		})
	}
	all.Wait()
	if taken.Load() != 100 {
		t.Fatalf("%d of 100 were taken", taken.Load())
	}
	other := polargate.SharedBudget{Name: "others", Limit: 1, Window: long}
	if turn, err := a.Take(bounded(t), other); err != nil || !turn.Taken {
		t.Fatalf("another budget is its own: %+v, %v", turn, err)
	}
}

func (s *sharedSuite) window(t *testing.T) {
	a, b := s.two(t)
	budget := polargate.SharedBudget{Name: "requests", Limit: 5, Window: 600 * time.Millisecond}
	type grant struct{ began, ended time.Time } // of the call: it was granted in between
	var grants []grant
	for i := 0; len(grants) < 16; i++ {
		began := time.Now()
		turn, err := []polargate.Shared{a, b}[i%2].Take(bounded(t), budget)
		noError(t, err)
		if !turn.Taken {
			if turn.Wait <= 0 || turn.Wait > 2*budget.Window {
				t.Fatalf("refused: %+v", turn)
			}
			time.Sleep(min(turn.Wait, 50*time.Millisecond))
			continue
		}
		grants = append(grants, grant{began, time.Now()})
		// A slow computer only makes these further apart.
		if first := len(grants) - 1 - budget.Limit; first >= 0 {
			if apart := grants[len(grants)-1].ended.Sub(grants[first].began); apart < budget.Window {
				t.Fatalf("six of five were granted within %s", apart)
			}
		}
	}
}

func (s *sharedSuite) keep(t *testing.T) {
	a, b := s.two(t)
	ctx := bounded(t)
	take := func(s polargate.Shared, units, keep int) polargate.SharedTurn {
		turn, err := s.Take(ctx, polargate.SharedBudget{Name: "requests", Limit: 10, Window: long, Units: units, Keep: keep})
		noError(t, err)
		return turn
	}
	if turn := take(a, 6, 4); !turn.Taken || turn.Left != 4 {
		t.Fatalf("%+v", turn)
	}
	if turn := take(b, 1, 4); turn.Taken || turn.Left != 4 {
		t.Fatalf("four are kept: %+v", turn)
	}
	if turn := take(b, 5, 0); turn.Taken || turn.Left != 4 {
		t.Fatalf("all units or none: %+v", turn)
	}
	if turn := take(a, 4, 0); !turn.Taken || turn.Left != 0 {
		t.Fatalf("%+v", turn)
	}
}

func (s *sharedSuite) pause(t *testing.T) {
	a, b := s.two(t)
	ctx := bounded(t)
	budget := polargate.SharedBudget{Name: "requests", Limit: 100, Window: long}
	noError(t, a.Pause(ctx, "requests", long))
	noError(t, b.Pause(ctx, "requests", time.Millisecond))
	turn, err := b.Take(ctx, budget)
	noError(t, err)
	if turn.Taken || !turn.Paused || turn.Wait <= long/2 || turn.Wait > long {
		t.Fatalf("%+v", turn)
	}
	answer, err := b.Lookup(ctx, polargate.SharedLookup{Key: "k", Holder: "h", ClaimFor: long, Budget: budget})
	noError(t, err)
	if answer.Claimed || !answer.Turn.Paused {
		t.Fatalf("%+v", answer)
	}
	budget.Name = "brief"
	noError(t, a.Pause(ctx, "brief", 100*time.Millisecond))
	eventually(t, "the pause is over", func() bool {
		turn, err := b.Take(ctx, budget)
		noError(t, err)
		return turn.Taken
	})
}

func (s *sharedSuite) beat(t *testing.T) {
	a, b := s.two(t)
	beat := func(s polargate.Shared, name string, ttl time.Duration) int {
		n, err := s.Beat(bounded(t), name, ttl)
		noError(t, err)
		return n
	}
	if n := beat(a, "one", long); n != 1 {
		t.Fatalf("one replica counts %d", n)
	}
	if n := beat(b, "two", 300*time.Millisecond); n != 2 {
		t.Fatalf("two replicas count %d", n)
	}
	eventually(t, "the second is forgotten", func() bool { return beat(a, "one", long) == 1 })
}

func (s *sharedSuite) swap(t *testing.T) {
	a, b := s.two(t)
	const each = 40
	var all sync.WaitGroup
	for i := range 6 {
		all.Go(func() {
			mine := []polargate.Shared{a, b}[i%2]
			ctx := bounded(t)
			value, err := mine.Load(ctx, "counter")
			for done := 0; done < each && err == nil; {
				n, _ := strconv.Atoi(string(value.Data))
				var swapped bool
				value, swapped, err = mine.Swap(ctx, "counter", value.Version, []byte(strconv.Itoa(n+1)), long)
				if swapped {
					done++
				}
			}
			if err != nil {
				t.Errorf("swap: %v", err)
			}
		})
	}
	all.Wait()
	value, err := b.Load(bounded(t), "counter")
	noError(t, err)
	if string(value.Data) != strconv.Itoa(6*each) {
		t.Fatalf("counted to %s instead of %d", value.Data, 6*each)
	}
	if now, swapped, err := a.Swap(bounded(t), "counter", "another", []byte("x"), long); err != nil || swapped || now.Version != value.Version {
		t.Fatalf("swapped for another version: %+v, %v", now, err)
	}
	if now, swapped, err := a.Swap(bounded(t), "counter", value.Version, nil, long); err != nil || !swapped || now.Version != "" {
		t.Fatalf("not removed: %+v, %v", now, err)
	}
	if value, err := b.Load(bounded(t), "counter"); err != nil || value.Version != "" || len(value.Data) != 0 {
		t.Fatalf("not removed: %+v, %v", value, err)
	}
}

func (s *sharedSuite) once(t *testing.T) {
	a, b := s.two(t)
	for event := range 5 {
		var first atomic.Int64
		var all sync.WaitGroup
		for i := range 10 {
			all.Go(func() {
				_, swapped, err := []polargate.Shared{a, b}[i%2].Swap(bounded(t), "event-"+strconv.Itoa(event), "", []byte{1}, long)
				if err != nil {
					t.Errorf("swap: %v", err)
				}
				if swapped {
					first.Add(1)
				}
			})
		}
		all.Wait()
		if first.Load() != 1 {
			t.Fatalf("an event was taken in %d times", first.Load())
		}
	}
}

func (s *sharedSuite) valueEnds(t *testing.T) {
	a, b := s.two(t)
	ctx := bounded(t)
	old, swapped, err := a.Swap(ctx, "k", "", []byte("first"), 200*time.Millisecond)
	if err != nil || !swapped {
		t.Fatalf("%+v, %v", old, err)
	}
	eventually(t, "the value has ended", func() bool {
		value, err := b.Load(ctx, "k")
		noError(t, err)
		return value.Version == ""
	})
	if _, swapped, err := a.Swap(ctx, "k", old.Version, []byte("late"), long); err != nil || swapped {
		t.Fatalf("a version that ended was swapped: %v", err)
	}
	if _, swapped, err := b.Swap(ctx, "k", "", []byte("first"), long); err != nil || !swapped {
		t.Fatalf("not made anew: %v", err)
	}
	if _, swapped, err := a.Swap(ctx, "k", old.Version, []byte("late"), long); err != nil || swapped {
		t.Fatalf("the version of an earlier life was swapped: %v", err)
	}
}

func (s *sharedSuite) apart(t *testing.T) {
	a, _ := s.two(t)
	ctx := bounded(t)
	put(t, a, record("same", base, "record"))
	_, swapped, err := a.Swap(ctx, "same", "", []byte("value"), long)
	noError(t, err)
	turn, err := a.Take(ctx, polargate.SharedBudget{Name: "same", Limit: 1, Window: long})
	noError(t, err)
	if !swapped || !turn.Taken {
		t.Fatal("a name was in use by something else")
	}
	noError(t, a.Pause(ctx, "same", long))
	holds(t, a, "same", "record")
	value, err := a.Load(ctx, "same")
	noError(t, err)
	if string(value.Data) != "value" {
		t.Fatalf("%+v", value)
	}
}

// ear listens and keeps what it hears.
type ear struct {
	mu   sync.Mutex
	keys map[string]int
	gaps int
	end  context.CancelFunc
	err  chan error
}

func listen(t *testing.T, s polargate.Shared) *ear {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	e := &ear{keys: map[string]int{}, end: cancel, err: make(chan error, 1)}
	go func() { e.err <- s.Listen(ctx, e.hear) }()
	t.Cleanup(func() { cancel(); <-e.err })
	eventually(t, "listening begins with a gap", func() bool { return e.gapsHeard() > 0 })
	return e
}

func (e *ear) hear(keys []string, gap bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, key := range keys {
		e.keys[key]++
	}
	if gap {
		e.gaps++
	}
}

func (e *ear) gapsHeard() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.gaps
}

// heard reports whether a key was heard, or a gap since there were that many.
func (e *ear) heard(key string, gaps int) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.keys[key] > 0 || e.gaps > gaps
}

func (s *sharedSuite) hints(t *testing.T) {
	a, b := s.two(t)
	ears := []*ear{listen(t, a), listen(t, b)}
	for i, change := range []func(key string) error{
		func(key string) error { return a.Hint(bounded(t), key, "another") },
		func(key string) error { _, err := b.Put(bounded(t), "", record(key, base, "x")); return err },
		func(key string) error {
			_, err := a.Put(bounded(t), "", record("first", base, "x"), record(key, base, "x"))
			return err
		},
	} {
		key := "key-" + strconv.Itoa(i)
		gaps := []int{ears[0].gapsHeard(), ears[1].gapsHeard()}
		noError(t, change(key))
		for n, e := range ears {
			eventually(t, "the change is heard", func() bool { return e.heard(key, gaps[n]) })
		}
	}
}

func (s *sharedSuite) stalled(t *testing.T) {
	a, b := s.two(t)
	ctx, cancel := context.WithCancel(context.Background())
	stalled, goOn := make(chan struct{}), make(chan struct{})
	var first sync.Once
	heard := &ear{keys: map[string]int{}}
	done := make(chan error, 1)
	go func() {
		done <- b.Listen(ctx, func(keys []string, gap bool) {
			first.Do(func() { close(stalled); <-goOn })
			heard.hear(keys, gap)
		})
	}()
	defer func() { cancel(); <-done }()
	<-stalled // in the gap with which listening begins
	quick := listen(t, b)
	for i := range 6000 / 100 { // more than any buffer
		var records []polargate.SharedRecord
		for n := range 100 {
			records = append(records, record(fmt.Sprintf("key-%d-%d", i, n), base, "x"))
		}
		put(t, a, records...) // nobody waits for the receiver
	}
	eventually(t, "another receiver hears meanwhile", func() bool { return quick.heard("key-59-99", 1) })
	close(goOn)
	for i := range 60 {
		for n := range 100 {
			eventually(t, "each key, or a gap for all", func() bool { return heard.heard(fmt.Sprintf("key-%d-%d", i, n), 1) })
		}
	}
}

func (s *sharedSuite) contexts(t *testing.T) {
	a, _ := s.two(t)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	began := make(chan struct{}, 1)
	go func() {
		done <- a.Listen(ctx, func([]string, bool) {
			select {
			case began <- struct{}{}:
			default:
			}
		})
	}()
	<-began
	cancel()
	select {
	case err := <-done:
		if err == nil {
			t.Fatal("Listen returned without an error")
		}
	case <-time.After(soon):
		t.Fatal("Listen went on after its context")
	}
	if _, err := a.Get(ctx, "k"); err == nil {
		t.Fatal("a call with a context that has ended is not made")
	}
	if _, err := a.Put(ctx, "", record("k", base, "x")); err == nil {
		t.Fatal("a call with a context that has ended is not made")
	}
	holds(t, a, "k", "")
}

func (s *sharedSuite) away(t *testing.T) {
	if s.cut == nil {
		t.Skip("this store cannot be cut off")
	}
	a, b := s.two(t)
	put(t, a, record("k", base, "before"))
	e := &ear{keys: map[string]int{}}
	life, end := context.WithCancel(context.Background())
	var listening sync.WaitGroup
	listening.Go(func() {
		for life.Err() == nil { // as who listens must: when it can listen no more, again
			_ = b.Listen(life, e.hear)
			time.Sleep(10 * time.Millisecond)
		}
	})
	defer listening.Wait()
	defer end()
	eventually(t, "listening begins", func() bool { return e.gapsHeard() > 0 })
	mend := s.cut(t, b)
	for name, call := range map[string]func(context.Context) error{
		"Lookup": func(ctx context.Context) error {
			_, err := b.Lookup(ctx, polargate.SharedLookup{Key: "k", Holder: "h", ClaimFor: long})
			return err
		},
		"Get":     func(ctx context.Context) error { _, err := b.Get(ctx, "k"); return err },
		"Put":     func(ctx context.Context) error { _, err := b.Put(ctx, "", record("k", base, "lost")); return err },
		"Discard": func(ctx context.Context) error { return b.Discard(ctx, record("k", base, "x")) },
		"Release": func(ctx context.Context) error { return b.Release(ctx, "h", "k") },
		"Take": func(ctx context.Context) error {
			_, err := b.Take(ctx, polargate.SharedBudget{Name: "n", Limit: 9, Window: long})
			return err
		},
		"Pause": func(ctx context.Context) error { return b.Pause(ctx, "n", time.Second) },
		"Beat":  func(ctx context.Context) error { _, err := b.Beat(ctx, "r", long); return err },
		"Load":  func(ctx context.Context) error { _, err := b.Load(ctx, "k"); return err },
		"Swap":  func(ctx context.Context) error { _, _, err := b.Swap(ctx, "k", "", []byte("x"), long); return err },
		"Hint":  func(ctx context.Context) error { return b.Hint(ctx, "k") },
	} {
		ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
		done := make(chan error, 1)
		go func() { done <- call(ctx) }()
		select {
		case err := <-done:
			if err == nil {
				t.Errorf("%s of a store that is away succeeded", name)
			}
		case <-time.After(soon):
			t.Fatalf("%s outlasted its context", name)
		}
		cancel()
	}
	gaps := e.gapsHeard()
	put(t, a, record("k", base.Add(1), "meanwhile")) // nothing tells b of it
	mend()
	eventually(t, "the store is back", func() bool {
		records, err := b.Get(bounded(t), "k")
		return err == nil && len(records) == 1 && string(records[0].Data) == "meanwhile"
	})
	eventually(t, "the gap is told", func() bool { return e.heard("k", gaps) })
	gaps = e.gapsHeard()
	noError(t, a.Hint(bounded(t), "after"))
	eventually(t, "changes are heard again", func() bool { return e.heard("after", gaps) })
}

func (s *sharedSuite) wrongBytes(t *testing.T) {
	if s.spoil == nil {
		t.Skip("nobody else can write to this store")
	}
	a, b := s.two(t)
	put(t, a, record("good", base, "good"))
	for i := range 8 { // there are several kinds of wrong
		s.wrongBytesAt(t, a, b, "k"+strconv.Itoa(i))
	}
}

func (s *sharedSuite) wrongBytesAt(t *testing.T, a, b polargate.Shared, k string) {
	ctx := bounded(t)
	s.spoil(t, a, k)
	if records, err := b.Get(ctx, k, "good"); err != nil || len(records) > 2 || len(records) == 0 || records[len(records)-1].Key != "good" {
		t.Fatalf("what is beside wrong bytes is read: %+v, %v", records, err)
	}
	if _, err := b.Load(ctx, k); err != nil {
		t.Fatalf("load: %v", err)
	}
	s.spoil(t, a, k)
	if _, err := b.Lookup(ctx, polargate.SharedLookup{Key: k, Holder: "h", ClaimFor: long, Budget: polargate.SharedBudget{Name: k, Limit: 10, Window: long}}); err != nil {
		t.Fatalf("lookup: %v", err)
	}
	if turn, err := b.Take(ctx, polargate.SharedBudget{Name: k, Limit: 10, Window: long}); err != nil || !turn.Taken {
		t.Fatalf("take: %+v, %v", turn, err)
	}
	if n, err := b.Beat(ctx, "r", long); err != nil || n != 1 {
		t.Fatalf("beat: %d, %v", n, err)
	}
	s.spoil(t, a, k)
	if _, err := b.Put(ctx, "h", record(k, base.AddDate(150, 0, 0), "new")); err != nil {
		t.Fatalf("put: %v", err)
	}
	holds(t, a, k, "new")
	s.spoil(t, a, k)
	noError(t, b.Discard(ctx, record(k, base, "x")))
	noError(t, b.Release(ctx, "h", k))
	value, err := b.Load(ctx, k)
	noError(t, err)
	if _, swapped, err := b.Swap(ctx, k, value.Version, []byte("new"), long); err != nil || !swapped {
		t.Fatalf("swap: %v", err)
	}
}
