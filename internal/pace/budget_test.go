package pace

import (
	"context"
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// spent is a Budget with nothing left for now.
func spent(b *Budget) *Budget {
	for b.limiter.Allow() {
	}
	return b
}

func TestOfSeveralBudgetsForATokenTheLastThatWasSetCounts(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		set  []int
		want int
	}{
		"none":               {[]int{0, 0}, 300},
		"less":               {[]int{0, 60}, 60},
		"less, and none":     {[]int{60, 0}, 60},
		"less, and more":     {[]int{60, 200}, 200},
		"more, and less":     {[]int{1200, 60, 0}, 60},
		"the default, again": {[]int{60, 300}, 300},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				var b *Budget
				for _, perMinute := range c.set {
					b = ForToken("https://api.example.test", t.Name(), perMinute, 300)
				}
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute-1)
				defer cancel()
				n := 0
				for ; ; n++ {
					if _, err := b.Wait(ctx); err != nil {
						break
					}
				}
				assert.LessOrEqual(t, n, c.want)
				assert.Greater(t, n, c.want*4/5)
			})
		})
	}
}

func TestCallersGetRequestsOfABudgetInTheOrderOfArrival(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := spent(newBudget(60))
		order := make(chan int, 20)
		for i := range cap(order) {
			go func() {
				_, err := b.Wait(t.Context())
				assert.NoError(t, err)
				order <- i
			}()
			time.Sleep(time.Millisecond)
		}
		began := time.Now()
		for i := range cap(order) {
			assert.Equal(t, i, <-order)
		}
		assert.InDelta(t, 20/0.8, time.Since(began).Seconds(), 0.1, "and as soon as can be")

		// The first gives up before its turn, and the next has not noticed yet.
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(1210*time.Millisecond, cancel)
		go func() { _, _ = b.Wait(ctx) }()
		for i := range 2 {
			time.Sleep(time.Duration(1+i*1270) * time.Millisecond)
			go func() {
				_, err := b.Wait(t.Context())
				assert.NoError(t, err)
				order <- i
			}()
		}
		assert.Equal(t, 0, <-order)
		assert.Equal(t, 1, <-order)
	})
}

func TestABudgetHoldsForCallersThatComeAndGoAtRandom(t *testing.T) {
	t.Parallel()
	for seed := range uint64(15) {
		synctest.Test(t, func(t *testing.T) {
			rnd := rand.New(rand.NewPCG(seed, 7))
			perMinute := 5 + rnd.IntN(300)
			b := newBudget(perMinute)
			type passage struct {
				who int
				at  time.Time
			}
			var mu sync.Mutex
			var passed []passage
			var group sync.WaitGroup
			for who := range 400 {
				ctx, leave := context.WithCancel(t.Context())
				switch who % 4 {
				case 0:
					ctx, leave = context.WithTimeout(t.Context(), time.Duration(rnd.IntN(9000))*time.Millisecond)
				case 1:
					time.AfterFunc(time.Duration(rnd.IntN(7000))*time.Millisecond, leave)
				}
				group.Go(func() {
					defer leave()
					_, err := b.Wait(ctx)
					mu.Lock()
					defer mu.Unlock()
					if err == nil {
						passed = append(passed, passage{who, time.Now()})
					} else {
						assert.Less(t, who%4, 2, "the others are let through")
					}
				})
				time.Sleep(time.Duration(1+rnd.IntN(400)) * time.Millisecond)
			}
			group.Wait()
			for i, p := range passed {
				minute := 0
				for _, later := range passed[i:] {
					if later.at.Sub(p.at) < time.Minute {
						minute++
					}
					assert.False(t, later.who < p.who && later.at.After(p.at), "seed %d: %d before %d", seed, p.who, later.who)
				}
				assert.LessOrEqual(t, minute, perMinute, "seed %d", seed)
			}
			assert.Empty(t, b.line.waiting)
		})
	}
}

func TestACallerDoesNotWaitForOthersWhoGaveUp(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := spent(newBudget(300))
		ctx, leave := context.WithCancel(t.Context())
		for range 30 {
			go func() { _, _ = b.Wait(ctx) }()
			time.Sleep(time.Microsecond)
		}
		began := time.Now()
		time.AfterFunc(100*time.Millisecond, leave)
		_, err := b.Wait(t.Context())
		require.NoError(t, err)
		assert.LessOrEqual(t, time.Since(began), 260*time.Millisecond, "four a second are let through")
	})
}

func TestCallersThatGiveUpLeaveTheBudgetWhole(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := spent(newBudget(300))
		var group sync.WaitGroup
		for range 200 { // requests of which nobody waits for the answer
			ctx, cancel := context.WithCancel(t.Context())
			time.AfterFunc(time.Second, cancel)
			group.Go(func() { _, _ = b.Wait(ctx) })
			time.Sleep(time.Millisecond)
		}
		group.Wait()
		began := time.Now()
		_, err := b.Wait(t.Context())
		require.NoError(t, err)
		assert.LessOrEqual(t, time.Since(began), time.Second/4)
		assert.Empty(t, b.line.waiting)
	})
}

func TestNoMinuteSeesMoreRequestsThanItsBudget(t *testing.T) {
	t.Parallel()
	for _, perMinute := range []int{1, 5, 60, 300} {
		synctest.Test(t, func(t *testing.T) {
			b := newBudget(perMinute)
			ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
			defer cancel()
			var at []time.Time
			for {
				done, err := b.Wait(ctx)
				if err != nil {
					require.ErrorIs(t, err, context.DeadlineExceeded)
					break
				}
				at = append(at, time.Now())
				done(Answered)
			}
			most := 0
			for i := range at {
				n := 0
				for _, other := range at[i:] {
					if other.Sub(at[i]) < time.Minute {
						n++
					}
				}
				most = max(most, n)
			}
			assert.LessOrEqual(t, most, perMinute)
			assert.GreaterOrEqual(t, len(at), 3*perMinute, "five minutes' worth, less the burst kept back")
		})
	}
}

func TestAWaitForABudgetThatTheDeadlineForbidsFailsAtOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBudget(1)
		_, err := b.Wait(context.Background())
		require.NoError(t, err)
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		before := time.Now()
		_, err = b.Wait(ctx)
		var late *LateError
		require.ErrorAs(t, err, &late)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		assert.Equal(t, time.Minute, late.For)
		assert.Equal(t, before, time.Now())

		b.PauseFor(10 * time.Second)
		_, err = b.Wait(context.Background())
		var paused *PausedError
		require.ErrorAs(t, err, &paused)
		assert.Equal(t, 10*time.Second, paused.For)
		assert.Equal(t, before, time.Now(), "nor does it wait first to say so")
	})
}

func TestAPauseEndsWaitsForABudgetAtOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBudget(1)
		_, err := b.Wait(context.Background())
		require.NoError(t, err)
		waited := make(chan error, 1)
		go func() { _, err := b.Wait(context.Background()); waited <- err }()
		synctest.Wait()
		began := time.Now()
		b.PauseFor(10 * time.Minute)
		var paused *PausedError
		require.ErrorAs(t, <-waited, &paused)
		assert.Equal(t, began, time.Now())
	})
}

func TestACallerBehindOthersFailsAtOnceWhenItsTurnIsAfterTheDeadline(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := spent(newBudget(75)) // one a second
		for range 3 {
			go func() { _, _ = b.Wait(t.Context()) }()
		}
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), 3900*time.Millisecond)
		defer cancel()
		began := time.Now()
		_, err := b.Wait(ctx)
		var late *LateError
		require.ErrorAs(t, err, &late)
		assert.Equal(t, 4*time.Second, late.For)
		assert.Equal(t, began, time.Now())
	})
}

func TestACallerThatGivesUpIsToldWhenItsTurnWouldHaveCome(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := spent(newBudget(75))
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(500*time.Millisecond, cancel)
		_, err := b.Wait(ctx)
		require.ErrorIs(t, err, context.Canceled)
		var stopped *StoppedError
		require.ErrorAs(t, err, &stopped)
		assert.Equal(t, time.Second, stopped.For)
	})
}

func TestALargerBudgetAppliesToCallersAlreadyWaiting(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := spent(newBudget(1))
		began := time.Now()
		time.AfterFunc(time.Second, func() { b.SetPerMinute(300) })
		_, err := b.Wait(t.Context())
		require.NoError(t, err)
		assert.Less(t, time.Since(began), 1300*time.Millisecond, "not after a minute")
	})
}

func TestNothingOfATokenIsKeptWhenItsBudgetIsGone(t *testing.T) {
	t.Parallel()
	var names [][sha256.Size]byte
	synctest.Test(t, func(t *testing.T) {
		for i := range 500 {
			token := fmt.Sprintf("polar_oat_kept_%d_%d", i, rand.Uint64())
			names = append(names, tokenName("http://polar.test", token))
			b := ForToken("http://polar.test", token, 0, 300)
			if i%2 == 0 { // was used
				_, err := b.Wait(t.Context())
				require.NoError(t, err)
			}
			if i%50 == 0 { // was asked for a pause
				b.PauseFor(5 * time.Minute)
			}
		}
		time.Sleep(5*time.Minute + time.Second) // and is as good as new again
	})
	assert.Eventually(t, func() bool {
		runtime.GC()
		tokens.Lock()
		defer tokens.Unlock()
		return !slices.ContainsFunc(names, func(name [sha256.Size]byte) bool { _, kept := tokens.inUse[name]; return kept })
	}, time.Minute, time.Millisecond)
}

func TestRequestsAreSpareOnlyBesideThoseThatOthersWaitFor(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBudget(60) // a burst of 12
		assert.True(t, b.Spare(0))
		assert.True(t, b.Spare(11))
		assert.False(t, b.Spare(12), "the others take them all")
		spent(b)
		for range 2 {
			go func() { _, _ = b.Wait(t.Context()) }()
		}
		synctest.Wait()
		assert.False(t, b.Spare(0), "two wait")
		time.Sleep(3750 * time.Millisecond) // 3 more
		synctest.Wait()
		assert.True(t, b.Spare(0), "of which one is left")
		assert.False(t, b.Spare(1))
	})
}

// goes counts how many requests of a Background go in a time.
func goes(t *testing.T, b *Budget, urgent bool, d time.Duration) int {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	defer cancel()
	background, end := b.Background()
	defer end()
	for n := 0; ; n++ {
		if background.Wait(ctx, func() bool { return urgent }) != nil {
			return n
		}
		if _, err := b.Wait(ctx); err != nil {
			return n
		}
	}
}

func TestABackgroundTakesOnlyUnusedRequests(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		n := goes(t, newBudget(300), false, time.Minute-1)
		assert.GreaterOrEqual(t, n, 250)
		assert.LessOrEqual(t, n, 300)
	})
}

func TestABackgroundLeavesRequestsForNewCustomers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBudget(300)
		done := make(chan int)
		go func() { done <- goes(t, b, false, time.Minute-1) }()
		unseen := b.UnseenCustomers()
		for range 5 * 59 / 2 { // of four that come in a second
			time.Sleep(time.Second * 2 / 5)
			end, ok := unseen.Begin()
			require.True(t, ok)
			began := time.Now()
			_, err := b.Wait(t.Context())
			require.NoError(t, err)
			end()
			assert.Equal(t, began, time.Now(), "and they do not wait")
		}
		assert.GreaterOrEqual(t, <-done, 75)
	})
}

func TestABackgroundHasAShareWhenAllRequestsAreWanted(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := spent(newBudget(300))
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		for range 2 { // callers who have something to ask again at once
			go func() {
				for {
					if _, err := b.Wait(ctx); err != nil {
						return
					}
				}
			}()
		}
		n := goes(t, b, false, time.Minute)
		assert.GreaterOrEqual(t, n, 40)
		assert.LessOrEqual(t, n, 75)
	})
}

func TestABackgroundThatServesQuickestTakesAllButTheShareOfUnseenCustomers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBudget(300)
		done := make(chan int)
		go func() { done <- goes(t, b, true, time.Minute-1) }()
		unseen, asked := b.UnseenCustomers(), 0
		for range 59 * 50 {
			time.Sleep(20 * time.Millisecond)
			if end, ok := unseen.Begin(); ok {
				_, err := b.Wait(t.Context())
				require.NoError(t, err)
				end()
				asked++
			}
		}
		assert.GreaterOrEqual(t, <-done, 205)
		assert.GreaterOrEqual(t, asked, 60, "a quarter")
	})
}

func TestABackgroundWaitsForAPauseAndNoLongerThanItsContext(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBudget(300)
		background, end := b.Background()
		defer end()
		b.PauseFor(10 * time.Second)
		began := time.Now()
		require.NoError(t, background.Wait(t.Context(), func() bool { return false }))
		assert.Equal(t, 10*time.Second, time.Since(began))
		b.PauseFor(time.Minute)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		require.ErrorIs(t, background.Wait(ctx, func() bool { return false }), context.DeadlineExceeded)
	})
}

func TestARequestThatAnotherLimitLetGoIsTakenFromWhatThereIs(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBudget(60)
		for range 1000 {
			require.NoError(t, b.Spend())
		}
		assert.False(t, b.Spare(0))
		began := time.Now()
		_, err := b.Wait(t.Context())
		require.NoError(t, err)
		assert.InDelta(t, 1/0.8, time.Since(began).Seconds(), 0.1, "and is not paid for later")
		b.PauseFor(time.Minute)
		var paused *PausedError
		require.ErrorAs(t, b.Spend(), &paused)
	})
}
