package clock

import (
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
)

func newCoarse() *Coarse { return &Coarse{Start: time.Now().Add(-time.Hour)} }

func TestAClockThatIsReadSeldomIsExactAndHasNoTimer(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCoarse()
		for range 100 {
			time.Sleep(often + 1)
			assert.Equal(t, c.Exact(), c.Now())
			assert.False(t, c.advancing.Load())
		}
	})
}

func TestAClockThatIsReadOftenIsLateByATickAtMost(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCoarse()
		var last Local
		for range 1000 {
			now := c.Now()
			late := c.Exact().Sub(now)
			assert.True(t, late >= 0 && late <= Tick, late)
			assert.GreaterOrEqual(t, now, last, "it does not go back")
			last = now
			time.Sleep(often / 3)
		}
		assert.True(t, c.advancing.Load())
	})
}

func TestAfterAPauseAClockIsExactAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCoarse()
		for range 3 {
			for range 10 {
				c.Now()
			}
			assert.True(t, c.advancing.Load())
			time.Sleep(time.Hour)
			assert.False(t, c.advancing.Load(), "nobody reads it")
			assert.Equal(t, c.Exact(), c.Now())
		}
	})
}

func TestManyReadersStartOneTimer(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCoarse()
		var all sync.WaitGroup
		for range 8 {
			all.Go(func() {
				for range 100 {
					late := c.Exact().Sub(c.Now())
					assert.LessOrEqual(t, late, Tick)
					time.Sleep(time.Millisecond / 7)
				}
			})
		}
		all.Wait()
		time.Sleep(2 * Tick)
		assert.False(t, c.advancing.Load())
	})
}
