package breaker

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

var errBroken = errors.New("broken")

func TestAfterAFailureOneTriesAtATimeUntilItWorks(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var tries, backs atomic.Int64
		b := &Breaker{Bound: time.Second, MaxPause: 2 * time.Second, Back: func() { backs.Add(1) }}
		broken := true
		try := func() error {
			_, err := Do(t.Context(), b, func(context.Context) (int, error) {
				tries.Add(1)
				if broken {
					return 0, errBroken
				}
				return 1, nil
			})
			return err
		}
		require.True(t, b.Away().IsZero())
		began := time.Now()
		require.ErrorIs(t, try(), errBroken)
		for time.Since(began) < time.Minute {
			_ = try()
			time.Sleep(5 * time.Millisecond)
		}
		require.Less(t, tries.Load(), int64(45), "a minute of failures is tried every two seconds")
		require.Greater(t, tries.Load(), int64(25))
		require.Equal(t, began, b.Away())
		broken = false
		require.Eventually(t, func() bool { return try() == nil }, 3*time.Second, 5*time.Millisecond)
		synctest.Wait()
		require.EqualValues(t, 1, backs.Load())
		require.True(t, b.Away().IsZero())
		require.NoError(t, try())
		require.EqualValues(t, 1, backs.Load())
	})
}

func TestWhoWaitsForAProbeIsTurnedAwayAtOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := &Breaker{Bound: time.Second, MaxPause: time.Second}
		_, err := Do(t.Context(), b, func(context.Context) (int, error) { return 0, errBroken })
		require.ErrorIs(t, err, errBroken)
		time.Sleep(firstPause)
		goOn := make(chan struct{})
		probed := make(chan error)
		go func() {
			_, err := Do(t.Context(), b, func(context.Context) (int, error) { <-goOn; return 1, nil })
			probed <- err
		}()
		synctest.Wait()
		_, err = Do(t.Context(), b, func(context.Context) (int, error) { return 1, nil })
		require.ErrorIs(t, err, ErrAway)
		close(goOn)
		require.NoError(t, <-probed)
		_, err = Do(t.Context(), b, func(context.Context) (int, error) { return 1, nil })
		require.NoError(t, err)
	})
}

func TestWorkThatNeverEndsIsLeftAloneAndIsNotPiledUp(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		b := &Breaker{Bound: 100 * time.Millisecond, MaxPause: time.Second}
		var hanging atomic.Int64
		began := time.Now()
		for time.Since(began) < time.Hour {
			before := time.Now()
			_, err := Do(t.Context(), b, func(context.Context) (int, error) {
				hanging.Add(1)
				<-ctx.Done()
				return 0, nil
			})
			require.Error(t, err)
			require.LessOrEqual(t, time.Since(before), b.Bound)
			time.Sleep(50 * time.Millisecond)
		}
		require.EqualValues(t, maxHanging, hanging.Load())
		cancel()
		synctest.Wait()
		_, err := Do(t.Context(), b, func(context.Context) (int, error) { return 1, nil })
		require.NoError(t, err)
	})
}

func TestManyCallsAtOnceAreAllMadeIfTheyAreAnsweredInTime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := &Breaker{Bound: time.Second, MaxPause: time.Second}
		var group sync.WaitGroup
		for range 20 * maxHanging {
			group.Go(func() {
				_, err := Do(t.Context(), b, func(context.Context) (int, error) { time.Sleep(100 * time.Millisecond); return 1, nil })
				assert.NoError(t, err)
			})
		}
		group.Wait()
	})
}

func TestACallerWhoGivesUpProvesNothing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := &Breaker{Bound: time.Minute, MaxPause: time.Second}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := Do(ctx, b, func(ctx context.Context) (int, error) { <-ctx.Done(); return 0, ctx.Err() })
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.True(t, b.Away().IsZero())
		_, err = Do(ctx, b, func(context.Context) (int, error) { t.Error("tried"); return 0, nil })
		require.ErrorIs(t, err, context.DeadlineExceeded)
	})
}

func TestAnErrorThatIsNoFaultAndAPanicThatIs(t *testing.T) {
	t.Parallel()
	b := &Breaker{Bound: time.Minute, MaxPause: time.Second, Fault: func(err error) bool { return !errors.Is(err, errBroken) }}
	_, err := Do(t.Context(), b, func(context.Context) (int, error) { return 0, errBroken })
	require.ErrorIs(t, err, errBroken)
	require.True(t, b.Away().IsZero())
	_, err = Do(t.Context(), b, func(context.Context) (int, error) { panic("oh") })
	var panicked *PanicError
	require.ErrorAs(t, err, &panicked)
	require.Equal(t, "panic: oh", err.Error())
	require.NotEmpty(t, panicked.Stack)
	require.False(t, b.Away().IsZero())
}
