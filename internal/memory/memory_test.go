package memory

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"
	"unsafe"

	"github.com/polargate/polargate/internal/clock"
	"github.com/polargate/polargate/internal/ledger"
	"github.com/polargate/polargate/internal/pace"
	"github.com/polargate/polargate/internal/rights"
	"github.com/polargate/polargate/internal/wire"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// idOf is Polar's id of the customer of that number.
func idOf(n int) Key {
	return Key{ByPolarID, fmt.Sprintf("8b4a91e8-8712-4bc8-9e43-%012d", n)}
}

// external is the key of a customer by the program's own id.
func external(id string) Key { return Key{ByExternalID, id} }

// said is what Polar says at a time of the customer of that number.
func said(n int, externalID string, at clock.Polar) *rights.State {
	id, _ := wire.ParseUUID(idOf(n).ID)
	return rights.Of(id, externalID, true, at)
}

func smallCache(t *testing.T) *Cache {
	t.Helper()
	c, err := New(16)
	require.NoError(t, err)
	c.Judge = func(error) Failure { return Failure{Answered: true} }
	c.FreshFor, c.UnknownFor, c.GraceFor = time.Hour, time.Hour, time.Hour
	return c
}

func TestAnAnswerToAnEarlierQuestionDoesNotReplaceThatToALaterOne(t *testing.T) {
	t.Parallel()
	c := smallCache(t)
	c.Store(external("usr_1"), said(1, "usr_1", 200), 20)
	served, _ := c.Store(idOf(1), said(1, "usr_old", 100), 10)
	assert.Equal(t, "usr_1", served.External())
	assert.Nil(t, c.entryOf(external("usr_old")))
	served, _ = c.Store(idOf(1), said(1, "usr_new", 300), 15)
	assert.Equal(t, "usr_new", served.External(), "Polar was slow to answer it, and said something later")
	assert.Nil(t, c.entryOf(external("usr_1")))
	assert.NotNil(t, c.entryOf(external("usr_new")))
}

func TestAnOlderAnswerDoesNotMoveAnExternalIdToAnotherCustomer(t *testing.T) {
	t.Parallel()
	for name, younger := range map[string]func(c *Cache){
		"another customer has it": func(c *Cache) { c.Store(external("usr_1"), said(2, "usr_1", 200), 20) },
		"nobody has it": func(c *Cache) {
			c.Store(external("usr_1"), rights.Of(wire.UUID{}, "", false, 200), 20)
		},
		"an event gave it to another": func(c *Cache) {
			require.True(t, c.ApplyEvent(said(2, "usr_1", 200), 0))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := smallCache(t)
			younger(c)
			before := c.entryOf(external("usr_1")).value()
			c.Store(idOf(1), said(1, "usr_1", 100), 10)
			assert.NotNil(t, c.entryOf(idOf(1)))
			assert.Same(t, before, c.entryOf(external("usr_1")).value())
			c.Store(external("usr_1"), said(1, "usr_1", 300), c.Now().After(1))
			assert.Same(t, c.entryOf(idOf(1)), c.entryOf(external("usr_1")))
		})
	}
}

// Whatever comes in which order, an external id finds the customer whose answer names it,
// or nobody.
func TestAnAliasAlwaysFindsAnAnswerThatNamesIt(t *testing.T) {
	t.Parallel()
	for seed := range uint64(50) {
		rnd, c := rand.New(rand.NewPCG(seed, 5)), smallCache(t)
		for step := range 300 {
			n, name, at := rnd.IntN(40), fmt.Sprint("usr_", rnd.IntN(12)), clock.Polar(rnd.IntN(3000))*1e9
			switch value := said(n, name, at); rnd.IntN(6) {
			case 0:
				c.Store(external(name), value, clock.Local(rnd.IntN(step+1)))
			case 1:
				c.Store(idOf(n), value, clock.Local(rnd.IntN(step+1)))
			case 2:
				c.Store(external(name), rights.Of(wire.UUID{}, "", false, at), clock.Local(rnd.IntN(step+1)))
			case 3:
				c.Store(idOf(n), rights.Of(wire.UUID{}, "", false, at), clock.Local(rnd.IntN(step+1)))
			case 4:
				c.ApplyEvent(value, time.Duration(rnd.IntN(10))*time.Second)
			case 5:
				c.ApplyEvent(rights.Of(value.Customer(), name, false, at), 0)
			}
			require.LessOrEqual(t, c.known.customers.Len(), 17)
			aliases := 0
			for i := range 12 {
				key := external(fmt.Sprint("usr_", i))
				e, a := c.known.find(key)
				if e == nil {
					continue
				}
				aliases++
				require.Equal(t, key.ID, a.value.External())
				require.Same(t, e, c.known.byID(e.value().Customer()), "seed %d, step %d: it is found by Polar's id too", seed, step)
				require.False(t, c.unknown.Contains(key), "seed %d, step %d: no customer is known and unknown", seed, step)
			}
			require.Equal(t, aliases, c.known.aliases.Len(), "seed %d, step %d: no alias is left behind", seed, step)
		}
	}
}

func TestALookUpJustBeforeAnAnswerArrivedDoesNotAskAgain(t *testing.T) {
	t.Parallel()
	cache := smallCache(t)
	cache.Timeout = time.Minute
	keys := pace.ForToken("http://polar.test", "polar_oat_unseen", 300, 300).UnseenKeys()
	for kind := range cache.Unseen {
		cache.Unseen[kind] = keys
	}
	asked := 0
	for _, known := range []bool{true, false} {
		id := fmt.Sprint("usr_", known)
		cache.Ask = func(context.Context, Key) (*rights.State, error) {
			asked++
			return rights.Of(wire.UUID{}, id, known, 0), nil
		}
		key := external(id)
		asked = 0
		for range 2 { // the second as one that had looked before the first was done
			got, err := cache.Renew(t.Context(), key, UnlessFresh)
			require.NoError(t, err)
			assert.Equal(t, known, got.Known())
		}
		assert.Equal(t, 1, asked)
		_, err := cache.Renew(t.Context(), key, InAnyCase)
		require.NoError(t, err)
		assert.Equal(t, 2, asked, "who wants a newer answer gets one")
	}
}

func TestACostIsTakenOffForACustomerWhoWasEvicted(t *testing.T) {
	t.Parallel()
	cache := smallCache(t)
	seen := rights.Of(wire.UUID{}, "", true, 0)
	seen.Grant(rights.Parts{Meters: []rights.Meter{rights.NewMeter("m", 0, 0, 5, 0)}}, nil)
	key := external("usr_gone")
	three := ledger.Of(3)
	book, held := cache.Hold(key, seen, "m", three, ledger.Units{})
	require.True(t, held)
	assert.InDelta(t, 2, seen.WithBalances(book).Meters()[0].Balance, 0)
	assert.InDelta(t, 5, seen.Meters()[0].Balance, 0, "what the caller had seen stays")
	_, held = cache.Hold(key, seen, "m", three, ledger.Units{})
	assert.False(t, held, "what is held stays held without an entry")
	book.Settle("m", three, ledger.Units{}, 0, true)
	_, held = cache.Hold(key, seen, "m", ledger.Of(6), ledger.Units{})
	assert.False(t, held, "there is not so much")
	_, held = cache.Hold(key, seen, "m", ledger.Of(5), ledger.Units{})
	assert.True(t, held)
}

func TestBooksThatAreNotNeededAreSweptOut(t *testing.T) {
	t.Parallel()
	cache := smallCache(t)
	for i := range 10 * fewBooks {
		seen := rights.Of(wire.UUID{1, byte(i), byte(i >> 8)}, "", true, 0)
		seen.Grant(rights.Parts{Meters: []rights.Meter{rights.NewMeter("m", 0, 0, 5, 0)}}, nil)
		book, held := cache.Hold(external("usr_gone"), seen, "m", ledger.Of(3), ledger.Units{})
		require.True(t, held)
		used := ledger.Units{}
		if i < 10 {
			used = ledger.Of(1)
		}
		book.Settle("m", ledger.Of(3), used, cache.PolarNow(), true)
	}
	assert.Less(t, len(cache.books), 2*fewBooks+10)
	for i := range 10 {
		assert.NotNil(t, cache.books[wire.UUID{1, byte(i)}], "something is owed in that")
	}
}

func TestAnAnswerTakesTwoLinesOfMemory(t *testing.T) {
	t.Parallel()
	assert.LessOrEqual(t, unsafe.Sizeof(answer{}), uintptr(128))
	assert.LessOrEqual(t, unsafe.Offsetof(answer{}.value), uintptr(16), "what a look-up reads stands in the first")
}

func TestFreshnessEndsExactlyWhileLookUpsComeOften(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := smallCache(t)
		defer c.Close()
		c.Store(external("usr_1"), said(1, "usr_1", clock.PolarTime(time.Now())), c.Now())
		for _, wait := range []time.Duration{time.Minute, 58*time.Minute + 59*time.Second, time.Second - time.Millisecond} {
			time.Sleep(wait)
			for range 3 { // by now the clock is read from memory
				_, fresh := c.Hit(external("usr_1"))
				require.True(t, fresh)
			}
		}
		time.Sleep(time.Millisecond)
		_, fresh := c.Hit(external("usr_1"))
		assert.False(t, fresh)
	})
}
