package relay

import (
	"context"
	"errors"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// table is Values in memory, which can be away.
type table struct {
	mu     sync.Mutex
	last   int
	values map[string]Value
	ends   map[string]time.Time
	away   atomic.Bool
}

var errAway = errors.New("away")

func newTable() *table { return &table{values: map[string]Value{}, ends: map[string]time.Time{}} }

func (m *table) Load(_ context.Context, name string) (Value, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.away.Load() {
		return Value{}, errAway
	}
	if !m.ends[name].After(time.Now()) {
		return Value{}, nil
	}
	return m.values[name], nil
}

func (m *table) Swap(ctx context.Context, name, version string, data []byte, ttl time.Duration) (Value, bool, error) {
	is, err := m.Load(ctx, name)
	m.mu.Lock()
	defer m.mu.Unlock()
	if err != nil || is.Version != version {
		return is, false, err
	}
	if len(data) == 0 {
		delete(m.values, name)
		delete(m.ends, name)
		return Value{}, true, nil
	}
	m.last++
	m.values[name], m.ends[name] = Value{strconv.Itoa(m.last), data}, time.Now().Add(ttl)
	return m.values[name], true, nil
}

func (m *table) relay(holder string) *Relay {
	return &Relay{Values: m, Name: "lists", Holder: holder, Lasts: 12 * time.Second, Kept: 10 * time.Minute}
}

func take(t *testing.T, r *Relay) *Turn {
	t.Helper()
	turn, err := r.Take(t.Context(), []byte(r.Holder))
	require.NoError(t, err)
	return turn
}

func TestOneHasTheTurnAtATime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		values := newTable()
		a := take(t, values.relay("a"))
		require.NotNil(t, a)
		for range 100 {
			time.Sleep(time.Second)
			require.Nil(t, take(t, values.relay("b")), "a gives signs of life")
		}
		a.End()
		b := take(t, values.relay("b"))
		require.NotNil(t, b)
		b.End()
	})
}

func TestWhoeverComesNextGoesOnWhereTheDeadOneStopped(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		values := newTable()
		a := take(t, values.relay("a"))
		a.Note(t.Context(), 0, 0, []byte("first"))
		a.Note(t.Context(), 1, 0, []byte("other track"))
		a.end() // what is left of one that is killed is its turn, for a while
		a.done.Wait()
		_, _, _ = values.Swap(t.Context(), "lists turn", "", []byte("a"), 12*time.Second)
		require.Nil(t, take(t, values.relay("b")))
		time.Sleep(12 * time.Second)
		b := take(t, values.relay("b"))
		require.NotNil(t, b)
		assert.Equal(t, "a", string(b.Began()))
		assert.Equal(t, "first", string(b.Step(t.Context(), 0, 0)))
		assert.Equal(t, "other track", string(b.Step(t.Context(), 1, 0)))
		assert.Nil(t, b.Step(t.Context(), 0, 1))
		b.Note(t.Context(), 0, 1, []byte("second"))
		result, err := values.relay("c").Result(t.Context())
		require.NoError(t, err)
		assert.Nil(t, result)
		b.Finish(t.Context(), []byte("done"), time.Hour)
		b.End()
		result, err = values.relay("c").Result(t.Context())
		require.NoError(t, err)
		assert.Equal(t, "done", string(result))
		c := take(t, values.relay("c"))
		assert.Equal(t, "c", string(c.Began()), "another piece of work")
		assert.Nil(t, c.Step(t.Context(), 0, 0))
		c.End()
	})
}

func TestStepsAreOfUseForAWhileAfterTheLastOne(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		values := newTable()
		a := take(t, values.relay("a"))
		for n := range 5 {
			a.Note(t.Context(), 0, n, []byte{1})
			time.Sleep(9 * time.Minute)
		}
		a.End()
		b := take(t, values.relay("b"))
		assert.Equal(t, "a", string(b.Began()))
		b.End()
		time.Sleep(10 * time.Minute)
		c := take(t, values.relay("c"))
		assert.Equal(t, "c", string(c.Began()))
		c.Abandon(t.Context())
		c.End()
		d := take(t, values.relay("d"))
		assert.Equal(t, "d", string(d.Began()))
		d.End()
	})
}

func TestWhatCannotBeReadIsReplaced(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		values := newTable()
		for _, name := range []string{"lists turn", "lists work", "lists result"} {
			values.values[name], values.ends[name] = Value{Version: "x"}, time.Now().Add(time.Hour)
		}
		a := take(t, values.relay("a"))
		require.NotNil(t, a)
		a.Note(t.Context(), 0, 0, []byte("first"))
		assert.Equal(t, "first", string(a.Step(t.Context(), 0, 0)))
		a.Finish(t.Context(), []byte("done"), time.Hour)
		a.End()
		result, _ := values.relay("b").Result(t.Context())
		assert.Equal(t, "done", string(result))
	})
}

func TestWhileValuesAreAwayNothingIsNotedAfterwardsEither(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		values := newTable()
		a := take(t, values.relay("a"))
		a.Note(t.Context(), 0, 0, []byte("first"))
		values.away.Store(true)
		a.Note(t.Context(), 0, 1, []byte("lost"))
		_, err := values.relay("b").Take(t.Context(), nil)
		require.ErrorIs(t, err, errAway)
		time.Sleep(time.Minute)
		values.away.Store(false)
		a.Note(t.Context(), 0, 2, []byte("third"))
		a.Note(t.Context(), 1, 0, []byte("other track"))
		assert.Nil(t, a.Step(t.Context(), 0, 2), "there is a hole before it")
		assert.NotNil(t, a.Step(t.Context(), 1, 0))
		a.End()
	})
}
