package listing

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const pageSize = 10

// table is a list as a server has it, and as it was.
type table struct {
	rows   []Row[int] // the oldest first
	clock  int64
	past   []map[ID]map[ID]bool // owners' rows, at each page that was read
	before func()               // happens before each page that is read
	failed error
}

func id(n int) ID { return ID{0: byte(n), 1: byte(n >> 8), 2: 1} }

func (l *table) add(row, owner int) {
	l.remove(row)
	l.clock++
	l.rows = append(l.rows, Row[int]{ID: id(row), Owner: id(owner), Came: l.clock, Value: row})
}

func (l *table) remove(row int) {
	l.rows = slices.DeleteFunc(l.rows, func(r Row[int]) bool { return r.ID == id(row) })
}

// note keeps whose rows there are.
func (l *table) note() {
	now := map[ID]map[ID]bool{}
	for _, r := range l.rows {
		if now[r.Owner] == nil {
			now[r.Owner] = map[ID]bool{}
		}
		now[r.Owner][r.ID] = true
	}
	l.past = append(l.past, now)
}

func (l *table) read(_ context.Context, number int) (Page[int], error) {
	if l.before != nil {
		l.before()
	}
	if l.failed != nil {
		return Page[int]{}, l.failed
	}
	l.note()
	size := len(l.rows)
	from := min((number-1)*pageSize, size)
	return Page[int]{Rows: slices.Clone(l.rows[from:min(from+pageSize, size)]), Last: (size + pageSize - 1) / pageSize, Size: size}, nil
}

// all reads the list to its end.
func (l *table) all(t *testing.T) *Walk[int] {
	t.Helper()
	w := New(l.read)
	for range 1000 {
		done, err := w.Step(t.Context(), len(l.past))
		require.NoError(t, err)
		if done {
			return w
		}
	}
	require.Fail(t, "it does not end")
	return nil
}

func TestAListThatDoesNotChangeIsReadOnceWithTwoPagesMore(t *testing.T) {
	t.Parallel()
	for size, want := range map[int]int{0: 1, 1: 1, 10: 1, 11: 4, 100: 12, 105: 13} {
		l := &table{}
		for i := range size {
			l.add(i, i/3)
		}
		w := l.all(t)
		assert.Len(t, l.past, want, "%d rows", size)
		assert.Len(t, w.Owners(), (size+2)/3)
		for _, o := range w.Owners() {
			assert.False(t, o.Changed)
		}
		read, of := w.Pages()
		assert.Equal(t, []int{want, want}, []int{read, of})
		done, err := w.Step(t.Context(), 0)
		assert.True(t, done)
		assert.NoError(t, err)
	}
}

func TestWhatWasReadOfAChangingListIsCompleteOrNamedAsChanged(t *testing.T) {
	t.Parallel()
	whole, changed := 0, 0
	for seed := range uint64(400) {
		rnd := rand.New(rand.NewPCG(seed, 3))
		l := &table{}
		rows := 1 + rnd.IntN(300)
		owner := func(row int) int { return row % (1 + rows/4) } // whose rows lie on several pages
		for i := range rows {
			l.add(i, owner(i))
		}
		l.before = func() {
			for range rnd.IntN(4) {
				switch row := rnd.IntN(rows); rnd.IntN(3) {
				case 0:
					l.remove(row)
				case 1:
					l.add(row, owner(row)) // again, or at another place
				default:
					l.add(rows+rnd.IntN(1000), rnd.IntN(rows))
				}
			}
			if rnd.IntN(30) == 0 {
				for i := range rnd.IntN(rows) {
					l.remove(i)
				}
			}
		}
		w := New(l.read)
		for done := false; !done; {
			var err error
			if done, err = w.Step(t.Context(), len(l.past)); errors.Is(err, ErrMissed) {
				w = New(l.read) // it changed too fast
			} else {
				require.NoError(t, err)
			}
			if len(l.past) > 300 {
				l.before = nil
			}
		}
		end := l.past[len(l.past)-1]
		for who, o := range w.Owners() {
			if o.Changed {
				changed++
				continue
			}
			whole++
			since := l.past[o.Since]
			got := map[ID]bool{}
			for _, r := range o.Rows {
				assert.False(t, got[r.ID], "seed %d: a row is there twice", seed)
				got[r.ID] = true
				assert.True(t, since[who][r.ID], "seed %d: a row that was not there", seed)
			}
			for row := range end[who] {
				assert.True(t, got[row], "seed %d: a row is missing", seed)
			}
		}
		for who := range end {
			assert.NotNil(t, w.Owners()[who], "seed %d: an owner is missing", seed)
		}
	}
	assert.Greater(t, whole, 5000)
	assert.Greater(t, changed, 500)
}

func TestAListOfWhichAllRowsMoveIsReadAgain(t *testing.T) {
	t.Parallel()
	l := &table{}
	for i := range 100 {
		l.add(i, i)
	}
	l.before = func() {
		if len(l.past) == 5 {
			for i := range 100 {
				l.add(i, i)
			}
		}
	}
	w := l.all(t)
	assert.Len(t, w.Owners(), 100)
	assert.Less(t, len(l.past), 30)
}

func TestAnErrorInTheMiddleCostsOnePage(t *testing.T) {
	t.Parallel()
	l := &table{}
	for i := range 100 {
		l.add(i, i)
	}
	w := New(l.read)
	for i := range 5 {
		_, err := w.Step(t.Context(), i)
		require.NoError(t, err)
	}
	read, of := w.Pages()
	assert.Equal(t, []int{5, 12}, []int{read, of})
	l.failed = errors.New("away")
	for range 3 {
		_, err := w.Step(t.Context(), 5)
		require.ErrorIs(t, err, l.failed)
	}
	l.failed = nil
	for done := false; !done; {
		var err error
		done, err = w.Step(t.Context(), 5)
		require.NoError(t, err)
	}
	assert.Len(t, l.past, 12)
	assert.Len(t, w.Owners(), 100)
}

func TestAListInAnotherOrderIsRefused(t *testing.T) {
	t.Parallel()
	l := &table{}
	for i := range 30 {
		l.add(i, i)
	}
	slices.Reverse(l.rows)
	w := New(l.read)
	_, err := w.Step(t.Context(), 0)
	require.ErrorIs(t, err, ErrOrder)
}

func TestAListThatIsSmallerThanItSaysIsRefused(t *testing.T) {
	t.Parallel()
	w := New(func(_ context.Context, number int) (Page[int], error) {
		return Page[int]{Rows: []Row[int]{{ID: id(1)}}, Last: 1, Size: 2}, nil
	})
	_, err := w.Step(t.Context(), 0)
	require.ErrorIs(t, err, ErrMissed)
}

func TestAListThatGrowsFasterThanItIsReadIsGivenUp(t *testing.T) {
	t.Parallel()
	l := &table{}
	n := 0
	l.before = func() {
		for range pageSize / 2 * 3 {
			l.rows = append(l.rows, Row[int]{ID: id(n), Owner: id(n), Came: int64(n)})
			n++
		}
	}
	l.before()
	w := New(l.read)
	for range 100 {
		if _, err := w.Step(t.Context(), 0); err != nil {
			require.ErrorIs(t, err, ErrMissed)
			return
		}
	}
	assert.Fail(t, fmt.Sprint("it does not end: ", len(l.past)))
}

// FuzzWalk reads lists of a server that answers anything.
func FuzzWalk(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte{1, 1, 1, 1, 1, 0})
	f.Add([]byte{3, 2, 5, 9, 1, 2, 2, 1, 1, 5, 9, 0, 0, 7, 7, 7, 200, 100})
	f.Add(slices.Repeat([]byte{2, 4, 2, 1, 1, 1, 2, 2, 2}, 20))
	f.Fuzz(func(t *testing.T, bytes []byte) {
		next := func(below int) int {
			if len(bytes) == 0 {
				return 0
			}
			n := int(bytes[0]) % below
			bytes = bytes[1:]
			return n
		}
		requests := 0
		w := New(func(_ context.Context, number int) (page Page[int], err error) {
			require.Positive(t, number)
			requests++
			page.Last, page.Size = next(20), next(50)
			for range next(4) {
				page.Rows = append(page.Rows, Row[int]{ID: id(next(30)), Owner: id(next(5)), Came: int64(next(100)), Value: requests})
			}
			if next(50) == 49 {
				err = errors.New("no answer")
			}
			return page, err
		})
		for range 2000 {
			done, err := w.Step(t.Context(), requests)
			read, of := w.Pages()
			require.LessOrEqual(t, read, of)
			if errors.Is(err, ErrOrder) || errors.Is(err, ErrMissed) {
				return
			}
			if !done {
				continue
			}
			seen := map[ID]bool{}
			for owner, o := range w.Owners() {
				require.NotEmpty(t, o.Rows)
				for _, row := range o.Rows {
					seen[row.ID] = true
					require.Equal(t, owner, row.Owner)
				}
			}
			read, _ = w.Pages()
			_, err = w.Step(t.Context(), requests)
			require.NoError(t, err)
			again, _ := w.Pages()
			require.Equal(t, read, again, "what is done asks no more")
			return
		}
		require.Fail(t, "it does not end")
	})
}
