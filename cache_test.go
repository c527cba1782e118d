package polargate

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"
	"unsafe"

	"github.com/polargate/polargate/internal/clock"
	"github.com/polargate/polargate/internal/rights"
	"github.com/polargate/polargate/internal/wire"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// idOf is Polar's id of the customer of that number.
func idOf(n int) CustomerRef { return CustomerID(fmt.Sprintf("8b4a91e8-8712-4bc8-9e43-%012d", n)) }

// said is what Polar says at a time of the customer of that number.
func said(n int, external string, at clock.Polar) *rights.State {
	id, _ := wire.ParseUUID(idOf(n).key.id)
	return rights.Of(id, external, true, at)
}

func smallCache(t *testing.T) *entitlementCache {
	t.Helper()
	c, err := newEntitlementCache(16)
	require.NoError(t, err)
	c.freshFor, c.unknownFor, c.graceFor = time.Hour, time.Hour, time.Hour
	return c
}

func TestAnAnswerToAnEarlierQuestionDoesNotReplaceThatToALaterOne(t *testing.T) {
	t.Parallel()
	c := smallCache(t)
	c.store(ExternalID("usr_1").key, said(1, "usr_1", 200), 20)
	served, _ := c.store(idOf(1).key, said(1, "usr_old", 100), 10)
	assert.Equal(t, "usr_1", served.External())
	assert.Nil(t, c.entryOf(ExternalID("usr_old").key))
	served, _ = c.store(idOf(1).key, said(1, "usr_new", 300), 15)
	assert.Equal(t, "usr_new", served.External(), "Polar was slow to answer it, and said something later")
	assert.Nil(t, c.entryOf(ExternalID("usr_1").key))
	assert.NotNil(t, c.entryOf(ExternalID("usr_new").key))
}

func TestAnOlderAnswerDoesNotMoveAnExternalIdToAnotherCustomer(t *testing.T) {
	t.Parallel()
	for name, younger := range map[string]func(c *entitlementCache){
		"another customer has it": func(c *entitlementCache) { c.store(ExternalID("usr_1").key, said(2, "usr_1", 200), 20) },
		"nobody has it": func(c *entitlementCache) {
			c.store(ExternalID("usr_1").key, rights.Of(wire.UUID{}, "", false, 200), 20)
		},
		"an event gave it to another": func(c *entitlementCache) {
			require.True(t, c.applyEvent(said(2, "usr_1", 200), 0))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := smallCache(t)
			younger(c)
			before := c.entryOf(ExternalID("usr_1").key).value()
			c.store(idOf(1).key, said(1, "usr_1", 100), 10)
			assert.NotNil(t, c.entryOf(idOf(1).key))
			assert.Same(t, before, c.entryOf(ExternalID("usr_1").key).value())
			c.store(ExternalID("usr_1").key, said(1, "usr_1", 300), c.now().After(1))
			assert.Same(t, c.entryOf(idOf(1).key), c.entryOf(ExternalID("usr_1").key))
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
			n, external, at := rnd.IntN(40), fmt.Sprint("usr_", rnd.IntN(12)), clock.Polar(rnd.IntN(3000))*1e9
			switch value := said(n, external, at); rnd.IntN(6) {
			case 0:
				c.store(ExternalID(external).key, value, clock.Local(rnd.IntN(step+1)))
			case 1:
				c.store(idOf(n).key, value, clock.Local(rnd.IntN(step+1)))
			case 2:
				c.store(ExternalID(external).key, rights.Of(wire.UUID{}, "", false, at), clock.Local(rnd.IntN(step+1)))
			case 3:
				c.store(idOf(n).key, rights.Of(wire.UUID{}, "", false, at), clock.Local(rnd.IntN(step+1)))
			case 4:
				c.applyEvent(value, time.Duration(rnd.IntN(10))*time.Second)
			case 5:
				c.applyEvent(rights.Of(value.Customer(), external, false, at), 0)
			}
			require.LessOrEqual(t, c.known.customers.Len(), 17)
			aliases := 0
			for i := range 12 {
				key := ExternalID(fmt.Sprint("usr_", i)).key
				e, a := c.known.find(key)
				if e == nil {
					continue
				}
				aliases++
				require.Equal(t, key.id, a.value.External())
				require.Same(t, e, c.known.byID(e.value().Customer()), "seed %d, step %d: it is found by Polar's id too", seed, step)
				require.False(t, c.unknown.Contains(key), "seed %d, step %d: no customer is known and unknown", seed, step)
			}
			require.Equal(t, aliases, c.known.aliases.Len(), "seed %d, step %d: no alias is left behind", seed, step)
		}
	}
}

func TestAnAnswerTakesTwoLinesOfMemory(t *testing.T) {
	t.Parallel()
	assert.LessOrEqual(t, unsafe.Sizeof(answer{}), uintptr(128))
	assert.LessOrEqual(t, unsafe.Offsetof(answer{}.value), uintptr(16), "what a look-up reads stands in the first")
}
