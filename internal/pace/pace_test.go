package pace

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestAClockThatWasFarAheadDoesNotBlockRequests(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		far := time.Now().Add(1000 * time.Hour)
		p := newPermits(nil)
		p.line.paused = far
		for i := range p.own {
			p.own[i].ready = far
		}
		b := newBudget(300)
		b.line.paused = far
		for _, limit := range []Pacer{p, b} {
			_, err := limit.Wait(context.Background())
			require.NoError(t, err)
		}
		assert.Zero(t, p.PauseLeft())
		assert.Zero(t, b.PauseLeft())
	})
}

func TestClientsOfOneServerShareItsLimitsAndOthersDoNot(t *testing.T) {
	t.Parallel()
	address := func(base string) *Permits { return ForAddress(base, 10*time.Second) }
	assert.Same(t, address("http://one.example.test"), address("http://ONE.example.test/polar"))
	assert.Same(t, address("https://api.example.test"), address("https://api.example.test.:443"))
	assert.NotSame(t, address("http://one.example.test"), address("http://two.example.test"))
	one := ForToken("https://api.example.test", "one", 0, 300)
	assert.Same(t, one, ForToken("https://api.example.test", "one", 0, 300))
	assert.Same(t, one, ForToken("https://API.example.test:443/", "one", 0, 300), "the same server")
	assert.NotSame(t, one, ForToken("https://api.example.test", "two", 0, 300))
	assert.NotSame(t, one, ForToken("https://other.example.test", "one", 0, 300))
}

func TestAShorterPauseDoesNotCutALongerOneShort(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		for _, limit := range []Pacer{newPermits(nil), newBudget(300)} {
			limit.PauseFor(time.Minute)
			limit.PauseFor(time.Second)
			time.Sleep(2 * time.Second)
			_, err := limit.Wait(context.Background())
			var paused *PausedError
			require.ErrorAs(t, err, &paused)
			assert.Equal(t, 58*time.Second, paused.For)
			time.Sleep(58 * time.Second)
			done, err := limit.Wait(context.Background())
			require.NoError(t, err)
			done(Answered)
		}
	})
}

func TestACallThatWasCancelledBeforeTakesNoTurn(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		for limit, turns := range map[Pacer]int{newPermits(nil): permits, newBudget(60): 12} {
			for range 20 {
				_, err := limit.Wait(ctx)
				var stopped *StoppedError
				require.ErrorAs(t, err, &stopped)
				require.ErrorIs(t, err, context.Canceled)
			}
			began := time.Now()
			for range turns {
				_, err := limit.Wait(t.Context())
				require.NoError(t, err)
			}
			assert.Equal(t, began, time.Now())
		}
	})
}
