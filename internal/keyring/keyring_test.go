package keyring

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/polargate/polargate/internal/clock"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const benefit = "850cc3a4-3ed7-4be6-b198-127ec8d33bb9"

// polar answers questions about keys, each after 100 milliseconds.
type polar struct {
	mu      sync.Mutex
	granted map[ID]bool
	left    time.Duration // until keys expire; 0 if they don't
	err     error
	ones    int
	pages   int
}

func (p *polar) answer(id ID) Answer {
	return Answer{ID: id, Granted: p.granted[id], Expires: p.left != 0, Left: p.left, At: clock.PolarTime(time.Now())}
}

func (p *polar) one(_ context.Context, id ID) (Answer, error) {
	p.mu.Lock()
	p.ones++
	answer, err := p.answer(id), p.err
	p.mu.Unlock()
	time.Sleep(100 * time.Millisecond)
	return answer, err
}

func (p *polar) page(context.Context, string, int) (Page, error) {
	p.mu.Lock()
	p.pages++
	page, err := Page{Last: 1}, p.err
	for id := range p.granted {
		page.Keys = append(page.Keys, p.answer(id))
	}
	p.mu.Unlock()
	time.Sleep(100 * time.Millisecond)
	return page, err
}

var errLacking = errors.New("the token lacks the scope")

// ring is one that asks p, and the clock that it goes by.
func ring(t *testing.T, p *polar) (r *Ring, now func() clock.Local) {
	t.Helper()
	start := time.Now()
	now = func() clock.Local { return clock.Since(start) }
	r, err := New(100, Config{
		Fresh: 5 * time.Minute, Dead: 30 * time.Second, Last: time.Hour, Timeout: time.Second, RetryStale: 5 * time.Second, RetryOpen: time.Second,
		Now: now, Life: t.Context(), Behind: func(do func()) { go do() }, One: p.one, Page: p.page,
		Judge:    func(err error) Failure { return Failure{Lacking: errors.Is(err, errLacking)} },
		Answered: func(error) {},
	})
	require.NoError(t, err)
	return r, now
}

func ids(n int) (all []ID, benefits []string) {
	for i := range n {
		all, benefits = append(all, ID{1, byte(i)}), append(benefits, benefit)
	}
	return all, benefits
}

func TestAKeyIsAskedAboutOnceForAllWhoWait(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		some, benefits := ids(2)
		p := &polar{granted: map[ID]bool{some[0]: true}}
		r, now := ring(t, p)
		open := r.Standings(append(some, ID{}), now())
		assert.True(t, open[0].Open && open[0].Urgent)
		assert.Zero(t, open[2])
		var group sync.WaitGroup
		for range 10 {
			group.Go(func() { r.LookUp(t.Context(), some, benefits, 0) })
		}
		group.Wait()
		assert.Equal(t, 2, p.ones)
		is := r.Standings(some, now())
		assert.True(t, is[0].Counts && !is[0].Urgent)
		assert.False(t, is[1].Counts)
		time.Sleep(31 * time.Second)
		r.LookUp(t.Context(), some, benefits, 0)
		assert.Equal(t, 3, p.ones, "a refusal is believed for less long")
		time.Sleep(5 * time.Minute)
		r.LookUp(t.Context(), some, benefits, 0)
		assert.Equal(t, 5, p.ones)
	})
}

func TestManyKeysOfABenefitAreReadByAPage(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		some, benefits := ids(50)
		p := &polar{granted: map[ID]bool{}}
		for _, id := range some {
			p.granted[id] = true
		}
		r, now := ring(t, p)
		r.LookUp(t.Context(), some, benefits, 0)
		assert.Equal(t, 1, p.pages)
		assert.LessOrEqual(t, p.ones, Few)
		for _, s := range r.Standings(some, now()) {
			assert.True(t, s.Counts)
		}
		without, _ := ring(t, p)
		without.LookUp(t.Context(), some[:20], make([]string, 20), 0)
		assert.Equal(t, 1, p.pages, "a benefit without a list has no pages")
		synctest.Wait()
	})
}

func TestAnAnswerToAQuestionFromBeforeAnEventDoesNotCountAsOneFromAfterIt(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		some, benefits := ids(1)
		p := &polar{granted: map[ID]bool{some[0]: true}}
		r, now := ring(t, p)
		go func() {
			time.Sleep(50 * time.Millisecond)
			p.mu.Lock()
			p.granted[some[0]] = false
			p.mu.Unlock()
			r.Drop(some, clock.PolarTime(time.Now()))
		}()
		r.LookUp(t.Context(), some, benefits, 0)
		assert.Equal(t, 2, p.ones)
		assert.False(t, r.Standings(some, now())[0].Counts)
	})
}

func TestWhileNobodyCanBeAskedTheLastAnswerCountsForAWhile(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		some, benefits := ids(1)
		p := &polar{granted: map[ID]bool{some[0]: true}}
		r, now := ring(t, p)
		r.LookUp(t.Context(), some, benefits, 0)
		p.err = errors.New("down")
		time.Sleep(10 * time.Minute)
		for range 20 {
			r.LookUp(t.Context(), some, benefits, 0)
		}
		assert.Equal(t, 2, p.ones, "a failure is believed for a moment")
		assert.True(t, r.Standings(some, now())[0].Counts)
		time.Sleep(50 * time.Minute)
		assert.True(t, r.Standings(some, now())[0].Open)
		r.LookUp(t.Context(), some, benefits, 0)
		assert.Equal(t, p.err, r.Standings(some, now())[0].Why)
		r.Drop(some, clock.PolarTime(time.Now()))
		assert.True(t, r.Standings(some, now())[0].Open, "a revoked grant does not outlast an outage")
	})
}

func TestWithATokenThatMayNotReadKeysAllCount(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		some, benefits := ids(1)
		p := &polar{granted: map[ID]bool{}, err: errLacking}
		r, now := ring(t, p)
		r.LookUp(t.Context(), some, benefits, 0)
		assert.True(t, r.Standings(some, now())[0].Counts)
		r.LookUp(t.Context(), some, benefits, 0)
		assert.Equal(t, 1, p.ones)
		p.err = nil
		time.Sleep(lackingAgain)
		r.LookUp(t.Context(), some, benefits, 0)
		assert.False(t, r.Standings(some, now())[0].Counts)
	})
}

func TestAKeyExpiresByItself(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		some, benefits := ids(1)
		p := &polar{granted: map[ID]bool{some[0]: true}, left: time.Minute}
		r, now := ring(t, p)
		r.LookUp(t.Context(), some, benefits, 0)
		is := r.Standings(some, now())[0]
		assert.True(t, is.Counts)
		assert.InDelta(t, time.Minute, is.Flips.Sub(now()), float64(200*time.Millisecond))
		time.Sleep(time.Minute)
		is = r.Standings(some, now())[0]
		assert.True(t, !is.Counts && is.Urgent, "and is asked about, since it may have been renewed")
	})
}

func TestWhatAnotherProcessKnowsIsTakenOverIfItIsYounger(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		some, benefits := ids(2)
		p := &polar{granted: map[ID]bool{some[0]: true}, left: time.Hour}
		r, _ := ring(t, p)
		r.LookUp(t.Context(), some[:1], benefits[:1], 0)
		time.Sleep(time.Minute)
		polarNow := clock.PolarTime(time.Now())
		facts := r.Facts(some, polarNow)
		require.Len(t, facts, 1)
		assert.InDelta(t, time.Hour-time.Minute, facts[0].Expires.Sub(polarNow), float64(time.Second))
		assert.True(t, r.AnsweredBefore(some[0], polarNow))
		assert.False(t, r.AnsweredBefore(some[1], polarNow))

		other, now := ring(t, &polar{})
		other.Learn(facts, polarNow)
		is := other.Standings(some[:1], now())[0]
		assert.True(t, is.Counts)
		assert.InDelta(t, 4*time.Minute, is.Due.Sub(now()), float64(time.Second), "it is as old as it was there")
		facts[0].Granted, facts[0].At = false, facts[0].At-1
		other.Learn(facts, polarNow)
		assert.True(t, other.Standings(some[:1], now())[0].Counts)
	})
}
