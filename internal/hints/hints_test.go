package hints

import (
	"context"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestKeysAreCollectedOnceEachUntilTheyAreTaken(t *testing.T) {
	t.Parallel()
	q := New()
	q.Add()
	select {
	case <-q.Ready():
		t.Fatal("there is nothing to take")
	default:
	}
	q.Add("a", "b")
	q.Add("a")
	<-q.Ready()
	keys, gap := q.Take()
	require.ElementsMatch(t, []string{"a", "b"}, keys)
	require.False(t, gap)
	keys, gap = q.Take()
	require.Empty(t, keys)
	require.False(t, gap)
}

func TestMoreKeysThanAreKeptBecomeAGapAndNoneIsDropped(t *testing.T) {
	t.Parallel()
	q := New()
	for i := range limit + 1 {
		q.Add(strconv.Itoa(i))
	}
	require.Empty(t, q.keys, "memory is bounded")
	q.Add("later")
	keys, gap := q.Take()
	require.Empty(t, keys)
	require.True(t, gap)
	q.Add("later")
	keys, gap = q.Take()
	require.Equal(t, []string{"later"}, keys)
	require.False(t, gap)
	q.Add("a")
	q.Gap()
	keys, gap = q.Take()
	require.Empty(t, keys)
	require.True(t, gap)
}

func TestDeliveringEndsWithItsContext(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	q := New()
	q.Add("a")
	err := q.Deliver(ctx, func(keys []string, gap bool) {
		require.Equal(t, []string{"a"}, keys)
		cancel()
	})
	require.ErrorIs(t, err, context.Canceled)
}
