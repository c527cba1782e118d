package ledger

import (
	"encoding/json"
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/polargate/polargate/internal/clock"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestAmountsAddUpAsDecimalsDo(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		have, cost float64
		serves     int
	}{
		"7 at 0.7":          {7, 0.7, 10},
		"1 at 0.05":         {1, 0.05, 20},
		"1 at 0.1":          {1, 0.1, 10},
		"0.3 at 0.1":        {0.3, 0.1, 3},
		"100 at 33.34":      {100, 33.34, 2},
		"1 at a millionth":  {1, 0.000001, 1_000_000},
		"Polar's own float": {0.1 + 0.2, 0.3, 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := Account{Base: Count{Balance: Of(c.have)}, Counted: true}
			served := 0
			for a.Hold("", Cost(c.cost), Units{}) {
				served++
			}
			assert.Equal(t, c.serves, served)
		})
	}
}

func TestAnAmountIsItsFloatAgain(t *testing.T) {
	t.Parallel()
	for _, x := range []float64{0, 0.1, 0.7, 4.35, -0.1, -2.5, 99.75, 4.9, 1e6 + 0.000001, 123456789.125, -1e12, 1 << 50} {
		assert.InDelta(t, x, Of(x).Float(), 0)
		assert.InDelta(t, -x, Units{}.Minus(Of(x)).Float(), 0)
	}
	assert.Equal(t, Units{}, Of(math.NaN()))
	assert.Equal(t, Of(math.Inf(1)), Of(1e300).Plus(Of(1e300)))
	assert.Equal(t, Of(math.Inf(-1)), Of(-1e300).Minus(Of(1e300)))
	assert.True(t, Cost(1e-300).Positive(), "nothing that costs is free")
	assert.InDelta(t, 1e300, Round(1e300), 0)
	assert.InDelta(t, 4.9, Round(4.9000000000000004), 0)
}

func FuzzAmountsInJSON(f *testing.F) {
	f.Add([]byte(`[1,5]`))
	f.Add([]byte(`[-1,999999999]`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var u, again Units
		if json.Unmarshal(data, &u) != nil {
			return
		}
		text, err := json.Marshal(u)
		require.NoError(t, err)
		require.NoError(t, json.Unmarshal(text, &again))
		require.Equal(t, u, again)
		require.Equal(t, u, u.Plus(Of(1)).Minus(Of(1)).carried(), "unless it is at its bound: %v", u)
	})
}

// at is a time some seconds into a test.
func at(seconds float64) clock.Polar {
	return clock.PolarTime(time.Date(2026, 11, 28, 0, 0, 0, 0, time.UTC)) + clock.Polar(seconds*float64(time.Second))
}

func counted(consumed, balance float64, when clock.Polar) Count {
	return Count{Of(consumed), Of(balance), when}
}

func left(a *Account) float64 { return a.Left().Float() }

func TestWhatPolarWasToldOfIsNotTakenOffForEverIfNobodyKnowsThat(t *testing.T) {
	t.Parallel()
	a := &Account{Base: counted(0, 100, at(0)), Counted: true}
	a.Spend(Of(10), at(1), false)
	a.Expire(at(Lost.Seconds()))
	assert.InDelta(t, 90, left(a), 0, "Polar may have been away all the time")
	a.Expire(at(Lost.Seconds() + 2))
	assert.InDelta(t, 100, left(a), 0)
}

func TestWhatWasSpentIsForgottenOnlyWhenPolarHasCountedIt(t *testing.T) {
	t.Parallel()
	a := &Account{Base: counted(0, 100, at(0)), Counted: true}
	require.True(t, a.Hold("", Of(60), Units{}))
	assert.InDelta(t, 40, left(a), 0)
	a.Observe(counted(0, 100, at(1)))
	assert.InDelta(t, 40, left(a), 0, "a hold survives any state")
	a.Release("", Of(60))
	a.Spend(Of(70), at(2), false)
	assert.InDelta(t, 30, left(a), 0, "more than was held")
	a.Observe(counted(0, 100, at(3)))
	assert.InDelta(t, 30, left(a), 0)
	a.Observe(counted(50, 50, at(4)))
	assert.InDelta(t, -20, left(a), 0, "somebody else's 50: Polar had not been told of ours")
	a.Told(Of(70), at(2), at(5))
	a.Observe(counted(60, 40, at(4.5)))
	assert.InDelta(t, -30, left(a), 0, "Polar was told later than it counted")
	a.Observe(counted(90, 10, at(20)))
	assert.InDelta(t, -30, left(a), 0, "30 of ours")
	a.Observe(counted(130, -30, at(40)))
	assert.InDelta(t, -30, left(a), 0, "the rest")
	a.Observe(counted(0, 100, at(39)))
	assert.InDelta(t, -30, left(a), 0, "an older count changes nothing")
	a.Spend(Of(7), at(50), true)
	a.Spend(Of(2), at(61), true)
	a.Observe(counted(0, 100, at(60)))
	assert.InDelta(t, 98, left(a), 0, "a period has begun, and what was spent before counts for the last one")
	a.Observe(counted(2, 98, at(80)))
	assert.InDelta(t, 98, left(a), 0)
	assert.False(t, a.Owes())
}

func TestWhatIsNeverCountedIsForgottenAfterACap(t *testing.T) {
	t.Parallel()
	a := &Account{Base: counted(0, 100, at(0)), Counted: true}
	a.Spend(Of(10), at(1), true)
	a.Spend(Of(5), at(1), false)
	a.HoldOf("another").Until = at(60)
	require.True(t, a.Hold("another", Of(20), Units{}))
	a.Expire(at(59))
	assert.InDelta(t, 65, left(a), 0)
	a.Expire(at(60))
	assert.InDelta(t, 85, left(a), 0, "the hold has ended")
	a.Expire(at(Cap.Seconds()))
	assert.InDelta(t, 85, left(a), 0)
	a.Expire(at(Cap.Seconds() + 2))
	assert.InDelta(t, 95, left(a), 0, "what Polar hasn't been told of stays")
	a.Undo(Of(3), at(1))
	assert.InDelta(t, 95, left(a), 0, "what is waiting to be reported can't be undone")
}

func TestAnAccountStaysSmallAndExact(t *testing.T) {
	t.Parallel()
	a := &Account{Base: counted(0, 1e6, at(0)), Counted: true}
	for i := range 20_000 {
		a.Spend(Of(1), at(float64(i)), i%2 == 0)
	}
	assert.LessOrEqual(t, len(a.Lots), mostLots)
	assert.InDelta(t, 980_000, left(a), 0)
	data, err := json.Marshal(a)
	require.NoError(t, err)
	assert.Less(t, len(data), 64<<10)
	b, err := Read(data)
	require.NoError(t, err)
	assert.Equal(t, a, b)
	for i := range 20_000 {
		b.Told(Of(1), at(float64(i)), at(20_000))
	}
	b.Observe(counted(20_000, 980_000, at(20_001)))
	assert.False(t, b.Owes())
	assert.True(t, a.Owes(), "a copy shares nothing")
}

// event is usage as a model of Polar knows it.
type event struct {
	units   float64
	arrived clock.Polar
	counted bool
}

// polar is a model of Polar for one customer's meter: it counts 15 seconds after the last
// event, at the latest 180 minutes after the first, and then everything that arrived.
type polar struct {
	events             []*event
	consumed, credited float64
	modified           clock.Polar
}

func (p *polar) open() (open []*event) {
	for _, e := range p.events {
		if !e.counted {
			open = append(open, e)
		}
	}
	return open
}

// recount counts everything that arrived by then.
func (p *polar) recount(now clock.Polar) {
	for _, e := range p.open() {
		p.consumed += e.units
		e.counted = true
	}
	p.modified = now
}

func (p *polar) until(now clock.Polar) {
	open := p.open()
	if len(open) == 0 {
		return
	}
	due := min(open[len(open)-1].arrived+clock.Polar(15*time.Second), open[0].arrived+clock.Polar(180*time.Minute))
	if due <= now {
		p.recount(due)
	}
}

func (p *polar) state() Count { return counted(p.consumed, p.credited-p.consumed, p.modified) }

// Whatever comes in between, what is left here is never more than what is left in truth, and
// once everybody is quiet it is exactly what Polar says.
func TestALedgerAgreesWithAModelOfPolarWhateverComesInBetween(t *testing.T) {
	t.Parallel()
	for seed := range uint64(400) {
		rnd := rand.New(rand.NewPCG(seed, 7))
		p := &polar{credited: 1000, modified: at(0)}
		a := &Account{Base: p.state(), Counted: true}
		type usage struct {
			units    float64
			used     clock.Polar
			sent     *event
			answered clock.Polar // when the answer came, and was known here
			known    bool
		}
		var ours []*usage
		var old []Count
		holds, now := 0.0, at(0)
		truth := func() float64 {
			rest := p.credited - p.consumed - holds
			for _, u := range ours {
				if u.sent == nil || !u.sent.counted {
					rest -= u.units
				}
			}
			return rest
		}
		// Some play for long, so that Polar counts by its latest time.
		busy := seed%3 == 0
		for step := range 400 {
			pause := time.Duration(rnd.IntN(12_000)) * time.Millisecond
			if !busy && rnd.IntN(4) == 0 {
				pause = time.Duration(rnd.IntN(90)) * time.Second
			}
			if busy {
				pause *= 4
			}
			for end := now + clock.Polar(pause); now < end; now += clock.Polar(min(time.Second, end.Sub(now))) {
				p.until(now)
			}
			p.until(now)
			if busy { // others keep Polar from counting
				p.events = append(p.events, &event{units: 0, arrived: now})
			}
			switch n := rnd.IntN(20); {
			case n < 6: // a reservation, or its end
				units := float64(1 + rnd.IntN(9))
				if holds > 0 && rnd.IntN(2) == 0 {
					a.Release("", Of(holds))
					used := float64(rnd.IntN(15))
					a.Spend(Of(used), now, false)
					holds = 0
					if used > 0 {
						ours = append(ours, &usage{units: used, used: now})
					}
				} else if a.Hold("", Of(units), Units{}) {
					holds += units
				}
			case n < 11: // a batch is sent; some of it was sent before
				for _, u := range ours {
					if u.sent == nil && rnd.IntN(4) > 0 {
						u.sent = &event{units: u.units, arrived: now}
						u.answered = now + clock.Polar(time.Second)
						p.events = append(p.events, u.sent)
					}
				}
			case n < 13: // answers that were late
				for _, u := range ours {
					if u.sent != nil && !u.known && u.answered <= now {
						a.Told(Of(u.units), u.used, u.answered)
						u.known = true
					}
				}
			case n == 13: // somebody else uses the meter, or gives usage back
				p.events = append(p.events, &event{units: float64(rnd.IntN(30) - 5), arrived: now})
			case n == 14 && rnd.IntN(10) == 0: // a new cycle
				p.recount(now)
				p.consumed, p.credited = 0, 1000
			case n == 15 && rnd.IntN(3) == 0: // credit is granted or taken back
				p.recount(now)
				p.credited += float64(rnd.IntN(200) - 100)
			case n == 16 && len(old) > 0: // a state that is late
				a.Observe(old[rnd.IntN(len(old))])
			default:
				a.Observe(p.state())
				a.Expire(now)
				old = append(old, p.state())
				require.LessOrEqual(t, left(a), truth(), "seed %d, step %d", seed, step)
			}
		}
		// Everybody is quiet.
		a.Release("", Of(holds))
		holds = 0
		for _, u := range ours {
			if u.sent == nil {
				u.sent = &event{units: u.units, arrived: now}
				p.events = append(p.events, u.sent)
			}
			if !u.known {
				a.Told(Of(u.units), u.used, now+clock.Polar(time.Second))
			}
		}
		now += clock.Polar(20 * time.Second)
		p.until(now)
		require.Empty(t, p.open())
		a.Observe(p.state())
		a.Expire(now)
		require.LessOrEqual(t, left(a), truth(), "seed %d", seed)
		now += clock.Polar(Cap)
		a.Expire(now)
		require.InDelta(t, p.credited-p.consumed, left(a), 0, "seed %d", seed)
	}
}

// With nobody else on the meter, nothing that Polar counted is charged twice.
func TestALedgerIsExactAsSoonAsPolarHasCounted(t *testing.T) {
	t.Parallel()
	for seed := range uint64(100) {
		rnd := rand.New(rand.NewPCG(seed, 11))
		p := &polar{credited: 5000, modified: at(0)}
		a := &Account{Base: p.state(), Counted: true}
		now := at(0)
		for range 200 {
			units := Of(float64(1+rnd.IntN(9)) / 10)
			a.Spend(units, now, false)
			p.events = append(p.events, &event{units: units.Float(), arrived: now})
			a.Told(units, now, now+clock.Polar(time.Second))
			for range rnd.IntN(30) {
				now += clock.Polar(time.Second)
				p.until(now)
			}
			if rnd.IntN(3) == 0 {
				a.Observe(p.state())
			}
			if len(p.open()) == 0 {
				a.Observe(p.state())
				require.InDelta(t, p.credited-p.consumed, left(a), 1e-6, "seed %d", seed)
			}
		}
	}
}

func TestABookHasOneAccountForEachMeter(t *testing.T) {
	t.Parallel()
	var b Book
	assert.True(t, b.Open("calls", counted(0, 10, at(0)), true))
	assert.True(t, b.Open("calls", counted(0, 99, at(0)), true))
	assert.True(t, b.Open("bytes", Count{}, false))
	assert.Equal(t, []string{"calls", "bytes"}, b.Meters())
	assert.False(t, b.SpentLately())
	assert.Equal(t, Held, b.Hold("calls", Of(4), Units{}, at(1)))
	assert.Equal(t, Short, b.Hold("calls", Of(7), Units{}, at(1)))
	assert.Equal(t, Short, b.Hold("bytes", Of(1), Units{}, at(1)))
	assert.Equal(t, Held, b.Hold("bytes", Of(1), Of(-1), at(1)), "as far as an overdraft allows")
	assert.Equal(t, Gone, b.Hold("unknown", Of(1), Of(-1), at(1)))
	assert.False(t, b.Retire(at(1)), "something is held")
	assert.True(t, b.SpentLately())
	assert.True(t, b.Changed())
	balances := map[string]float64{}
	b.Shown()
	b.Balances(func(meter string, left Units) { balances[meter] = left.Float() })
	assert.Equal(t, map[string]float64{"calls": 6, "bytes": -1}, balances)
	assert.False(t, b.Changed())
	b.Settle("calls", Of(4), Of(2.5), at(2), true)
	b.Settle("bytes", Of(1), Units{}, at(2), true)
	assert.True(t, b.Observe("calls", counted(2.5, 7.5, at(9)), at(9)))
	assert.False(t, b.Observe("calls", counted(0, 10, at(8)), at(9)))
	var meters []string
	b.Each(func(meter string, a *Account) {
		if a.Owes() {
			meters = append(meters, meter)
		}
	})
	assert.Empty(t, meters)
	b.Answered()
	assert.False(t, b.SpentLately())
	assert.True(t, b.Retire(at(10)))
	assert.Equal(t, Gone, b.Hold("calls", Of(1), Units{}, at(10)), "nobody looks into a retired book again")
	assert.False(t, b.Open("more", Count{}, false))
}

func TestAHoldThatIsRefusedForUsageOfLongAgoIsTriedAgain(t *testing.T) {
	t.Parallel()
	var b Book
	b.Open("calls", counted(0, 10, at(0)), true)
	require.Equal(t, Held, b.Hold("calls", Of(10), Units{}, at(0)))
	b.Settle("calls", Of(10), Of(10), at(0), true)
	assert.Equal(t, Short, b.Hold("calls", Of(1), Units{}, at(60)))
	assert.Equal(t, Held, b.Hold("calls", Of(1), Units{}, at(Cap.Seconds()+1)))
}

func BenchmarkHoldAndSettle(b *testing.B) {
	var book Book
	book.Open("calls", counted(0, 1e12, at(0)), true)
	b.ReportAllocs()
	for b.Loop() {
		book.Hold("calls", Of(0.7), Units{}, at(1))
		book.Settle("calls", Of(0.7), Of(0.6), at(1), true)
	}
}

// FuzzAccount reads accounts out of a store, and goes on with them.
func FuzzAccount(f *testing.F) {
	f.Add([]byte(`{"base":{"consumed":[1,0],"balance":[100,500000000],"at":5},"counted":true,"lots":[{"from":1,"to":2,"untold":[3,0],"told":[0,1],"by":9}],"holds":[{"holder":"a","units":[7,0],"until":60000000000,"step":3}]}`), int64(7), int64(1))
	f.Add([]byte(`{"lots":[{"from":9,"to":1,"untold":[-3,0]}],"holds":[{"units":[1152921504606846976,0]},{"units":[1152921504606846976,0]}]}`), int64(-1), int64(9))
	f.Add([]byte(`null`), int64(1), int64(0))
	f.Add([]byte(`{"base":{"balance":[1152921504606846977,0]}}`), int64(1), int64(0))
	f.Fuzz(func(t *testing.T, data []byte, units, at int64) {
		a, err := Read(data)
		if err != nil {
			return
		}
		written, err := json.Marshal(a)
		require.NoError(t, err)
		b, err := Read(written)
		require.NoError(t, err)
		require.Equal(t, a.Left(), b.Left(), "it is the same when it is read again")

		want, now := Of(float64(units)/8), clock.Polar(at)
		left := a.Left()
		if granted := a.Hold("us", want, Units{}); granted {
			require.False(t, left.Minus(want).Less(Units{}), "more is held than is left")
		} else {
			require.Equal(t, left, a.Left(), "a refusal takes nothing")
		}
		a.Release("us", want)
		a.Spend(want, now, at%2 == 0)
		a.Told(want, now, now)
		a.Undo(want, now)
		a.Observe(Count{Consumed: want, Balance: want, At: now})
		a.Restore(b.Lots)
		a.Expire(now)
		_, err = json.Marshal(a)
		require.NoError(t, err)
	})
}
