package watch

import (
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
)

type stream struct{ looked atomic.Int64 }

func look(_ string, streams []*stream) {
	for _, s := range streams {
		s.looked.Add(1)
	}
}

func everyMinute(string) time.Duration { return time.Minute }

func TestStreamsOfAKeyAreLookedAtTogetherUntilTheyLeave(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var rounds atomic.Int64
		g := New(func(key string, streams []*stream) { rounds.Add(1); look(key, streams) }, everyMinute)
		var a, b, other stream
		leaveA, _ := g.Join("k", &a)
		leaveB, _ := g.Join("k", &b)
		time.Sleep(90 * time.Second)
		assert.EqualValues(t, 1, rounds.Load())
		leaveA()
		leaveA()
		g.Changed("k", "nobody")
		synctest.Wait()
		assert.EqualValues(t, 1, a.looked.Load())
		assert.EqualValues(t, 2, b.looked.Load())
		leaveB()
		assert.False(t, g.Any())
		assert.False(t, g.Has("k"))
		g.Changed("k")
		time.Sleep(time.Hour)
		assert.EqualValues(t, 2, rounds.Load())
		leave, _ := g.Join("k", &other)
		defer leave()
		assert.True(t, g.Has("k"))
		leaveB() // of a time that is over
		assert.True(t, g.Has("k"))
	})
}

func TestAChangeDuringARecheckIsFollowedByAnother(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var s stream
		var atOnce, most atomic.Int64
		g := New(func(key string, streams []*stream) {
			most.Store(max(most.Load(), atOnce.Add(1)))
			time.Sleep(time.Second)
			look(key, streams)
			atOnce.Add(-1)
		}, everyMinute)
		leave, _ := g.Join("k", &s)
		g.Changed("k")
		time.Sleep(100 * time.Millisecond)
		for range 100 {
			g.Changed("k")
		}
		time.Sleep(10 * time.Second)
		assert.EqualValues(t, 2, s.looked.Load())
		assert.EqualValues(t, 1, most.Load())
		g.Changed("k")
		time.Sleep(100 * time.Millisecond)
		leave() // during the re-check
		time.Sleep(time.Hour)
		assert.EqualValues(t, 3, s.looked.Load())
	})
}

func TestCloseWaitsForRechecksAndGivesWhatIsLeft(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := New(func(key string, streams []*stream) { time.Sleep(time.Second); look(key, streams) }, everyMinute)
		var a, b stream
		leave, _ := g.Join("a", &a)
		_, _ = g.Join("b", &b)
		g.Changed("a")
		time.Sleep(time.Millisecond)
		assert.ElementsMatch(t, []*stream{&a, &b}, g.Close())
		assert.EqualValues(t, 1, a.looked.Load())
		leave()
		g.Changed("b")
		time.Sleep(time.Hour)
		assert.Zero(t, b.looked.Load())
		_, ok := g.Join("c", &a)
		assert.False(t, ok)
	})
}
