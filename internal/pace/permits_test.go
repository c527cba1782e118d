package pace

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// exhausted are permits all of which are in use.
func exhausted(t *testing.T) (p *Permits, finish func(Outcome)) {
	t.Helper()
	p = newPermits(nil)
	var held []func(Outcome)
	for range permits {
		done, err := p.Wait(context.Background())
		require.NoError(t, err)
		held = append(held, done)
	}
	return p, func(o Outcome) {
		for _, done := range held {
			done(o)
		}
	}
}

func TestAWaitForAPermitThatTheDeadlineForbidsFailsAtOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p, finish := exhausted(t)
		finish(Answered)
		ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
		defer cancel()
		before := time.Now()
		_, err := p.Wait(ctx)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		var late *LateError
		require.ErrorAs(t, err, &late)
		assert.Equal(t, rest, late.For)
		assert.Equal(t, before, time.Now())
	})
}

func TestACallerThatGivesUpWaitingLeavesItsPlaceToTheNext(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := newPermits(nil)
		var held []func(Outcome)
		for range permits {
			done, err := p.Wait(context.Background())
			require.NoError(t, err)
			held = append(held, done)
		}
		ctx, cancel := context.WithCancel(context.Background())
		gone := make(chan error, 1)
		go func() { _, err := p.Wait(ctx); gone <- err }()
		synctest.Wait()
		served := make(chan time.Time, 1)
		go func() {
			done, err := p.Wait(context.Background())
			assert.NoError(t, err)
			done(Unsent)
			served <- time.Now()
		}()
		synctest.Wait()
		cancel()
		err := <-gone
		require.ErrorIs(t, err, context.Canceled)
		var stopped *StoppedError
		require.ErrorAs(t, err, &stopped)

		began := time.Now()
		held[1](Answered)
		assert.Equal(t, rest, (<-served).Sub(began))
		assert.Empty(t, p.line.waiting)
	})
}

func TestPermitsAreGivenInTheOrderOfArrival(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p, finish := exhausted(t)
		served := make(chan int, 10)
		for i := range 10 {
			go func() {
				done, err := p.Wait(context.Background())
				assert.NoError(t, err)
				served <- i
				done(Answered)
			}()
			synctest.Wait()
		}
		finish(Answered)
		for i := range 10 {
			assert.Equal(t, i, <-served)
			synctest.Wait()
		}
	})
}

func TestACallerBehindOneThatGivesUpGetsItsPermitInTime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p, finish := exhausted(t)
		finish(Answered)
		began := time.Now()
		ctx, cancel := context.WithCancel(context.Background())
		gone, served := make(chan error, 1), make(chan error, 1)
		go func() { _, err := p.Wait(ctx); gone <- err }()
		synctest.Wait()
		go func() { _, err := p.Wait(context.Background()); served <- err }()
		synctest.Wait()
		cancel()
		require.ErrorIs(t, <-gone, context.Canceled)
		require.NoError(t, <-served)
		assert.Equal(t, rest, time.Since(began))
	})
}

func TestAPermitRestsByHowItsRequestEnded(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		how  string
		o    Outcome
		rest time.Duration
	}{
		{"an answer came", Answered, 1050 * time.Millisecond},
		{"it never left", Unsent, 0},
		{"it timed out, and may arrive late", Lost, 5 * time.Second},
	} {
		synctest.Test(t, func(t *testing.T) {
			p := newPermits(nil)
			var done []func(Outcome)
			for range permits {
				d, err := p.Wait(context.Background())
				require.NoError(t, err)
				done = append(done, d)
			}
			for _, d := range done {
				d(test.o)
			}
			began := time.Now()
			_, err := p.Wait(context.Background())
			require.NoError(t, err)
			assert.Equal(t, test.rest, time.Since(began), test.how)
		})
	}
}

func TestTheSoonestPermitIsUsedFirst(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := newPermits(nil)
		var done []func(Outcome)
		for range permits {
			d, err := p.Wait(context.Background())
			require.NoError(t, err)
			done = append(done, d)
		}
		done[0](Lost)
		done[1](Lost)
		done[2](Answered)
		began := time.Now()
		_, err := p.Wait(context.Background())
		require.NoError(t, err)
		assert.Equal(t, rest, time.Since(began))
	})
}

func TestAPauseEndsWaitsForAPermitAtOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p, _ := exhausted(t)
		waited := make(chan error, 3)
		for range 3 {
			go func() { _, err := p.Wait(context.Background()); waited <- err }()
		}
		synctest.Wait()
		began := time.Now()
		p.PauseFor(20 * time.Second)
		for range 3 {
			var paused *PausedError
			require.ErrorAs(t, <-waited, &paused)
			assert.Equal(t, 20*time.Second, paused.For)
		}
		assert.Zero(t, time.Since(began))
	})
}

func TestPermitsThatAreSharedWaitForThoseOfOtherPrograms(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		dir := folder(t.TempDir())
		ours, others := newPermits(&dir), newPermits(&dir)
		var held []func(Outcome)
		for range permits {
			done, err := others.Wait(t.Context())
			require.NoError(t, err)
			defer done(Unsent) // Windows removes no file that is held
			held = append(held, done)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		_, err := ours.Wait(ctx)
		var late *LateError
		require.ErrorAs(t, err, &late)
		assert.Contains(t, late.Error(), "which the programs on this computer share")

		ctx, cancel = context.WithCancel(t.Context())
		time.AfterFunc(50*time.Millisecond, cancel)
		_, err = ours.Wait(ctx)
		var stopped *StoppedError
		require.ErrorAs(t, err, &stopped)
		require.ErrorIs(t, err, context.Canceled)

		held[0](Unsent)
		done, err := ours.Wait(t.Context())
		require.NoError(t, err)
		done(Answered)

		others.PauseFor(time.Minute)
		assert.Equal(t, time.Minute, ours.PauseLeft())
		_, err = ours.Wait(t.Context())
		var paused *PausedError
		require.ErrorAs(t, err, &paused)
		assert.Equal(t, [permits]bool{}, [permits]bool{ours.own[0].inUse, ours.own[1].inUse, ours.own[2].inUse}, "none is lost")
	})
}

func TestWhereNoFilesCanBeSharedAProgramKeepsToTheLimitAlone(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	dir := folder(filepath.Join(file, "folder"))
	p := newPermits(&dir)
	assert.False(t, p.Shared())
	done, err := p.Wait(t.Context())
	require.NoError(t, err)
	done(Answered)
	assert.False(t, p.own[0].ready.IsZero())
}
