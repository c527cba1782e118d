package flight

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// result is what a call of Do gave.
type result struct {
	value string
	err   error
}

// call starts a Do and gives its result when it comes.
func call(ctx context.Context, g *Group, name string, work func(context.Context) (string, error)) <-chan result {
	done := make(chan result, 1)
	go func() {
		value, err := Do(ctx, g, name, work)
		done <- result{value, err}
	}()
	return done
}

// landing is work that takes a second, unless its context ends before.
func landing(runs *atomic.Int32) func(context.Context) (string, error) {
	return func(ctx context.Context) (string, error) {
		n := runs.Add(1)
		select {
		case <-time.After(time.Second):
			return fmt.Sprint("run ", n), nil
		case <-ctx.Done():
			return "", ctx.Err()
		}
	}
}

func pending(t *testing.T, done <-chan result) {
	t.Helper()
	select {
	case r := <-done:
		t.Fatalf("came back early, with %+v", r)
	default:
	}
}

func TestCallersOfOneNameShareOneRun(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var g Group
		var runs atomic.Int32
		var calls []<-chan result
		for range 100 {
			calls = append(calls, call(t.Context(), &g, "a", landing(&runs)))
		}
		time.Sleep(time.Second / 2)
		for range 100 {
			calls = append(calls, call(t.Context(), &g, "a", landing(&runs)))
		}
		for _, c := range calls {
			assert.Equal(t, result{"run 1", nil}, <-c)
		}
		assert.Equal(t, int32(1), runs.Load())
	})
}

func TestCallsOneAfterTheOtherRunEachTime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var g Group
		var runs atomic.Int32
		for n := range 3 {
			value, err := Do(t.Context(), &g, "a", landing(&runs))
			require.NoError(t, err)
			assert.Equal(t, fmt.Sprint("run ", n+1), value, "an old answer was handed out")
		}
	})
}

func TestNamesDoNotWaitForEachOther(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var g Group
		start := time.Now()
		var calls []<-chan result
		for n := range 50 {
			calls = append(calls, call(t.Context(), &g, fmt.Sprint(n), func(context.Context) (string, error) {
				time.Sleep(time.Second)
				return fmt.Sprint(n), nil
			}))
		}
		for n, c := range calls {
			assert.Equal(t, result{fmt.Sprint(n), nil}, <-c)
		}
		assert.Equal(t, time.Second, time.Since(start))
	})
}

func TestAnErrorIsGivenToAllCallersAsItIs(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var g Group
		failed := errors.New("failed")
		work := func(context.Context) (string, error) {
			time.Sleep(time.Second)
			return "in part", failed
		}
		a, b := call(t.Context(), &g, "a", work), call(t.Context(), &g, "a", work)
		assert.Equal(t, result{"in part", failed}, <-a)
		assert.Equal(t, result{"in part", failed}, <-b)
	})
}

func TestAResultMayBeNothing(t *testing.T) {
	t.Parallel()
	var g Group
	pointer, err := Do(t.Context(), &g, "pointer", func(context.Context) (*int, error) { return nil, nil })
	require.NoError(t, err)
	assert.Nil(t, pointer)
	failure, err := Do(t.Context(), &g, "error", func(context.Context) (error, error) { return nil, nil })
	require.NoError(t, err)
	assert.NoError(t, failure)
}

func TestACallerThatLeavesDoesNotCancelTheOthers(t *testing.T) {
	t.Parallel()
	for name, leaver := range map[string]int{"the first, who started the work": 0, "one in the middle": 1, "the last that came": 2} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				var g Group
				var runs atomic.Int32
				var calls [3]<-chan result
				var leave [3]context.CancelFunc
				for i := range calls {
					var ctx context.Context
					ctx, leave[i] = context.WithCancel(t.Context())
					defer leave[i]()
					calls[i] = call(ctx, &g, "a", landing(&runs))
					synctest.Wait()
				}
				leave[leaver]()
				synctest.Wait()
				assert.Equal(t, result{"", context.Canceled}, <-calls[leaver], "who leaves is not held up")
				stayed := slices.Delete(calls[:], leaver, leaver+1)
				for _, c := range stayed {
					pending(t, c)
				}
				for _, c := range stayed {
					assert.Equal(t, result{"run 1", nil}, <-c)
				}
				assert.Equal(t, int32(1), runs.Load())
			})
		})
	}
}

func TestACallersDeadlineIsTheCallersAlone(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var g Group
		var runs atomic.Int32
		hasty, cancel := context.WithTimeout(t.Context(), time.Second/4)
		defer cancel()
		start := time.Now()
		first := call(hasty, &g, "a", landing(&runs))
		synctest.Wait()
		second := call(t.Context(), &g, "a", landing(&runs))
		assert.Equal(t, result{"", context.DeadlineExceeded}, <-first)
		assert.Equal(t, time.Second/4, time.Since(start))
		assert.Equal(t, result{"run 1", nil}, <-second)
		assert.Equal(t, time.Second, time.Since(start))
	})
}

func TestTheLastCallerThatLeavesCancelsTheWork(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var g Group
		var cancelled atomic.Bool
		work := func(ctx context.Context) (string, error) {
			<-ctx.Done()
			cancelled.Store(true)
			return "", ctx.Err()
		}
		first, leaveFirst := context.WithCancel(t.Context())
		defer leaveFirst()
		second, leaveSecond := context.WithCancel(t.Context())
		defer leaveSecond()
		a, b := call(first, &g, "a", work), call(second, &g, "a", work)
		synctest.Wait()
		leaveFirst()
		synctest.Wait()
		assert.Equal(t, result{"", context.Canceled}, <-a)
		assert.False(t, cancelled.Load(), "somebody still waits")
		leaveSecond()
		synctest.Wait()
		assert.Equal(t, result{"", context.Canceled}, <-b)
		assert.True(t, cancelled.Load(), "nobody waits any more")
	})
}

func TestACallerAfterAllOthersHaveLeftGetsFreshWork(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var g Group
		var runs atomic.Int32
		// Work that takes its time to notice that nobody waits.
		work := func(ctx context.Context) (string, error) {
			n := runs.Add(1)
			if n > 1 {
				time.Sleep(time.Second)
				return fmt.Sprint("run ", n), ctx.Err()
			}
			<-ctx.Done()
			time.Sleep(time.Minute)
			return "", ctx.Err()
		}
		ctx, leave := context.WithCancel(t.Context())
		defer leave()
		gone := call(ctx, &g, "a", work)
		synctest.Wait()
		leave()
		require.Equal(t, result{"", context.Canceled}, <-gone)

		start := time.Now()
		joiner := call(t.Context(), &g, "a", work)
		synctest.Wait()
		another := call(t.Context(), &g, "a", work)
		assert.Equal(t, result{"run 2", nil}, <-joiner, "not the Canceled of the work that was abandoned")
		assert.Equal(t, result{"run 2", nil}, <-another, "the new work is shared in its turn")
		assert.Equal(t, time.Second, time.Since(start), "nor is it waited for")

		// The old work ends while newer work is under way, and must not take
		// that off the list.
		time.Sleep(time.Minute - 3*time.Second/2)
		late := call(t.Context(), &g, "a", work)
		time.Sleep(time.Second * 3 / 4)
		later := call(t.Context(), &g, "a", work)
		assert.Equal(t, result{"run 3", nil}, <-late)
		assert.Equal(t, result{"run 3", nil}, <-later)
		assert.Equal(t, int32(3), runs.Load())
	})
}

func TestLingeringWorkContinuesWithoutCallersAndCanBeJoined(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := Group{Keep: 2 * time.Minute}
		var runs atomic.Int32
		work := func(ctx context.Context) (string, error) {
			runs.Add(1)
			time.Sleep(time.Minute)
			return "done", ctx.Err()
		}
		ctx, leave := context.WithCancel(t.Context())
		gone := call(ctx, &g, "a", work)
		synctest.Wait()
		leave()
		require.Equal(t, result{"", context.Canceled}, <-gone)
		time.Sleep(time.Second)
		assert.Equal(t, result{"done", nil}, <-call(t.Context(), &g, "a", work))
		assert.EqualValues(t, 1, runs.Load())
		assert.Equal(t, result{"done", nil}, <-call(t.Context(), &g, "a", work))
		assert.EqualValues(t, 2, runs.Load(), "what has ended is not joined")
	})
}

func TestWorkThatHangsIsNotKeptForever(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := Group{Keep: time.Minute}
		var runs atomic.Int32
		free := make(chan struct{})
		patient := func(d time.Duration) result {
			ctx, leave := context.WithTimeout(t.Context(), d)
			defer leave()
			return <-call(ctx, &g, "a", func(context.Context) (string, error) {
				if runs.Add(1) == 1 {
					<-free // whatever its context says
				}
				return "done", nil
			})
		}
		assert.Equal(t, result{"", context.DeadlineExceeded}, patient(time.Minute-1))
		assert.Equal(t, result{"", context.DeadlineExceeded}, patient(1))
		assert.Equal(t, result{"done", nil}, patient(1), "whoever comes then starts anew")
		close(free)
	})
}

func TestAContextThatHasEndedStartsNothing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var g Group
		var runs atomic.Int32
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, err := Do(ctx, &g, "a", landing(&runs))
		require.ErrorIs(t, err, context.Canceled)
		assert.Zero(t, runs.Load())

		// Nor does it count as somebody who leaves.
		running := call(t.Context(), &g, "a", landing(&runs))
		synctest.Wait()
		_, err = Do(ctx, &g, "a", landing(&runs))
		require.ErrorIs(t, err, context.Canceled)
		assert.Equal(t, result{"run 1", nil}, <-running)
	})
}

func TestAPanicIsAnErrorForAllCallers(t *testing.T) {
	t.Parallel()
	for name, value := range map[string]any{"of a text": "boom", "of an error": errors.New("boom"), "of nil": nil} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				var g Group
				work := func(context.Context) (string, error) {
					time.Sleep(time.Second)
					panic(value)
				}
				calls := []<-chan result{call(t.Context(), &g, "a", work), call(t.Context(), &g, "a", work)}
				for _, c := range calls {
					r := <-c
					assert.Empty(t, r.value)
					var panicked *PanicError
					require.ErrorAs(t, r.err, &panicked)
					if value != nil {
						assert.Equal(t, value, panicked.Value)
						assert.Equal(t, "panic: boom", panicked.Error())
					}
					assert.Contains(t, string(panicked.Stack), "flight_test.go", "where it happened")
				}
				var runs atomic.Int32
				value, err := Do(t.Context(), &g, "a", landing(&runs))
				require.NoError(t, err, "the name is free again")
				assert.Equal(t, "run 1", value)
				g.Close()
			})
		})
	}
}

// As a test does that fails inside a transport or a store of its own.
func TestWorkThatExitsItsGoroutineBlocksNoCaller(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var g Group
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		work := func(context.Context) (string, error) {
			time.Sleep(time.Second)
			runtime.Goexit()
			return "", nil
		}
		a, b := call(ctx, &g, "a", work), call(ctx, &g, "a", work)
		for _, c := range []<-chan result{a, b} {
			r := <-c
			require.Error(t, r.err)
			assert.NotErrorIs(t, r.err, context.DeadlineExceeded, "it was waited for although it had ended")
		}
		g.Close()
	})
}

type contextKey struct{}

func TestWorkSeesTheValuesButNotTheEndOfTheFirstCallersContext(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var g Group
		work := func(ctx context.Context) (string, error) {
			_, limited := ctx.Deadline()
			assert.False(t, limited, "the first caller's deadline is not the work's")
			time.Sleep(time.Second)
			value, _ := ctx.Value(contextKey{}).(string)
			return value, ctx.Err()
		}
		first, cancel := context.WithTimeout(context.WithValue(t.Context(), contextKey{}, "of the first"), time.Second/2)
		defer cancel()
		a := call(first, &g, "a", work)
		synctest.Wait()
		b := call(context.WithValue(t.Context(), contextKey{}, "of the second"), &g, "a", work)
		assert.Equal(t, result{"", context.DeadlineExceeded}, <-a)
		assert.Equal(t, result{"of the first", nil}, <-b)
	})
}

func TestWorkThatIsKeptSeesNothingOfACallersContext(t *testing.T) {
	t.Parallel()
	g := Group{Keep: time.Minute}
	value, err := Do(context.WithValue(t.Context(), contextKey{}, "of a request"), &g, "a", func(ctx context.Context) (any, error) {
		return ctx.Value(contextKey{}), ctx.Err()
	})
	require.NoError(t, err)
	assert.Nil(t, value, "it may outlive the request")
}

func TestWorksContextEndsWithTheWork(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var g Group
		var kept context.Context
		_, err := Do(t.Context(), &g, "a", func(ctx context.Context) (string, error) {
			kept = ctx
			return "", ctx.Err()
		})
		require.NoError(t, err)
		assert.ErrorIs(t, kept.Err(), context.Canceled, "nothing is left that waits for it")
	})
}

func TestCloseCancelsWaitsAndRefuses(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var g Group
		var ended atomic.Int32
		slow := func(ctx context.Context) (string, error) {
			<-ctx.Done()
			time.Sleep(time.Minute) // to put things in order
			ended.Add(1)
			return "", ctx.Err()
		}
		a, b := call(t.Context(), &g, "a", slow), call(t.Context(), &g, "b", slow)
		// Work that was abandoned is waited for as well.
		ctx, leave := context.WithCancel(t.Context())
		c := call(ctx, &g, "c", slow)
		synctest.Wait()
		leave()
		<-c

		start := time.Now()
		var closers sync.WaitGroup
		for range 3 {
			closers.Go(func() {
				g.Close()
				assert.Equal(t, int32(3), ended.Load(), "Close returned before the work")
			})
		}
		synctest.Wait()
		_, err := Do(t.Context(), &g, "d", slow)
		require.ErrorIs(t, err, ErrClosed, "while closing")
		_, err = Do(t.Context(), &g, "a", slow)
		require.ErrorIs(t, err, ErrClosed, "nor can anybody join")
		assert.Zero(t, time.Since(start))
		closers.Wait()
		assert.Equal(t, time.Minute, time.Since(start))
		assert.ErrorIs(t, (<-a).err, context.Canceled)
		assert.ErrorIs(t, (<-b).err, context.Canceled)

		_, err = Do(t.Context(), &g, "a", slow)
		require.ErrorIs(t, err, ErrClosed, "after closing")
		g.Close()
	})
}

func TestWorkThatDetachesItselfIsFinishedBeforeCloseReturns(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var g Group
		saved := false
		a := call(t.Context(), &g, "a", func(ctx context.Context) (string, error) {
			hard := context.WithoutCancel(ctx)
			time.Sleep(time.Second)
			saved = hard.Err() == nil
			return "done", nil
		})
		synctest.Wait()
		g.Close()
		assert.True(t, saved)
		assert.Equal(t, result{"done", nil}, <-a)
	})
}

func TestAGroupThatWasNeverUsedCloses(t *testing.T) {
	t.Parallel()
	var g Group
	g.Close()
	_, err := Do(t.Context(), &g, "a", func(context.Context) (int, error) { return 1, nil })
	require.ErrorIs(t, err, ErrClosed)
}

// Whatever callers come and go: who stays gets a result of work that ran while
// they waited, and nobody gets the Canceled of somebody else.
func TestManyCallersComeAndGo(t *testing.T) {
	t.Parallel()
	var g Group
	var running, runs [4]atomic.Int32
	var callers sync.WaitGroup
	for caller := range 32 {
		callers.Go(func() {
			for round := range 200 {
				name := (caller + round) % len(running)
				ctx, cancel := context.WithCancel(t.Context())
				impatient := (caller+round)%3 == 0
				if impatient {
					go cancel()
				}
				before := runs[name].Load()
				value, err := Do(ctx, &g, fmt.Sprint(name), func(ctx context.Context) (int32, error) {
					// Abandoned work may overlap with fresh work; shared work
					// does not.
					if running[name].Add(1) > 1 {
						runtime.Gosched()
					}
					defer running[name].Add(-1)
					runtime.Gosched()
					if err := ctx.Err(); err != nil {
						return 0, err
					}
					return runs[name].Add(1), nil
				})
				switch {
				case impatient && err != nil:
					assert.ErrorIs(t, err, context.Canceled)
				case assert.NoError(t, err, "who stays is not told Canceled"):
					assert.Positive(t, value)
					assert.GreaterOrEqual(t, value, before, "an old answer was handed out")
				}
				cancel()
			}
		})
	}
	callers.Wait()
	g.Close()
	for name := range running {
		assert.Zero(t, running[name].Load())
		assert.Positive(t, runs[name].Load())
	}
	assert.Empty(t, g.waiting)
}

func TestCloseAmongManyCallers(t *testing.T) {
	t.Parallel()
	for range 50 {
		var g Group
		var callers sync.WaitGroup
		var running atomic.Int32
		var closed atomic.Bool
		for caller := range 16 {
			callers.Go(func() {
				for {
					_, err := Do(t.Context(), &g, fmt.Sprint(caller%3), func(context.Context) (int, error) {
						running.Add(1)
						defer running.Add(-1)
						assert.False(t, closed.Load(), "work began after Close had returned")
						runtime.Gosched()
						return 0, nil
					})
					if errors.Is(err, ErrClosed) {
						return
					}
					assert.NoError(t, err)
				}
			})
		}
		runtime.Gosched()
		g.Close()
		closed.Store(true)
		assert.Zero(t, running.Load())
		callers.Wait()
	}
}
