// Package listing reads a list of many pages while it changes, such that what was read is
// known to be complete. It promises to miss no row that was in the list from beginning to
// end, and to name the owners of rows that came meanwhile. It sends nothing and keeps no time.
//
// Pages of such a list are cut by number, so that a row that leaves moves those behind it
// forward, and one that comes pushes those behind it back: a reader from the front misses
// rows. This is why the list has to be sorted by when its rows came into it, the oldest
// first, and is read from its last page to its first. A row that comes, comes at the end
// and moves nothing. One that leaves brings rows forward that were read already, and they
// are read again. Then the pages with the rows that came meanwhile are read in the same
// way, until there are none.
package listing

import (
	"cmp"
	"context"
	"errors"
	"math"
	"slices"
)

// ID is a row's or an owner's.
type ID = [16]byte

// Row is an entry of a list.
type Row[V any] struct {
	ID, Owner ID
	Came      int64 // when it came into the list: the list is sorted by that
	Value     V
}

// Page is one page of a list.
type Page[V any] struct {
	Rows []Row[V]
	Last int // the number of the last page; 0 if the list is empty
	Size int // how many rows the list has
}

// Owner is what was read of one owner. Unless Changed, all Rows were in the list when the
// first of them was read, and no row of theirs was in it at the end that is not in Rows.
type Owner[V any] struct {
	Rows []Row[V] // each once, as it was read last
	// Since is the mark of the first page with a row of theirs; see Walk.Step.
	Since int
	// Changed: rows of theirs came while the list was read. They may have lost others that
	// are in Rows.
	Changed bool
}

// unknown is when no row came.
const unknown = math.MinInt64

// mostPasses is how often the end of a list is read, because rows came meanwhile.
const mostPasses = 10

var (
	// ErrOrder: the list is not sorted as it has to be.
	ErrOrder = errors.New("the list is not in the order that was asked for")
	// ErrMissed: rows were missed all the same, or come faster than they are read.
	ErrMissed = errors.New("the list changes faster than it can be read")
)

// Walk reads one list. Make one with New. Its methods must not be called at the same time.
type Walk[V any] struct {
	read   func(ctx context.Context, page int) (Page[V], error)
	owners map[ID]*Owner[V]
	seen   map[ID]sight // rows

	begun    bool
	next     int   // page to read
	pass     int   // 0 is the first, in which all is read
	requests int   // in this pass
	ends     int   // how often the end was looked for in this pass
	newest   int64 // when the newest row came that there was as the first pass began
	pages    int   // that were read
	done     bool
}

// sight is when a row came that was read, and the pass in which it was read first since.
type sight struct {
	came int64
	pass int
}

// New makes a Walk over the list whose pages read gives, counted from 1. Of a page past
// the end, Rows are empty.
func New[V any](read func(ctx context.Context, page int) (Page[V], error)) *Walk[V] {
	return &Walk[V]{read: read, owners: map[ID]*Owner[V]{}, seen: map[ID]sight{}, newest: unknown}
}

// Step reads one page, and reports whether the list has been read. After an error of read
// it can be called again, and goes on. mark is the time of the page, in the caller's
// units, for Owner.Since.
func (w *Walk[V]) Step(ctx context.Context, mark int) (done bool, err error) {
	if w.done {
		return true, nil
	}
	number := max(w.next, 1)
	page, err := w.read(ctx, number)
	if err != nil {
		return false, err
	}
	w.pages++
	if !slices.IsSortedFunc(page.Rows, func(a, b Row[V]) int { return cmp.Compare(a.Came, b.Came) }) {
		return false, ErrOrder
	}
	w.begun = true
	if w.requests == 0 && page.Last > number { // a pass begins at the end
		w.next = page.Last
		w.ends++
		return false, w.tooFast(w.ends)
	}
	met := w.take(page.Rows, mark)
	w.requests++
	switch {
	case number > 1 && !met:
		w.next = number - 1
		return false, nil
	case w.requests > 1: // rows may have come since the first of them
		w.pass++
		w.next, w.requests, w.ends = page.Last, 0, 0
		return false, w.tooFast(w.pass)
	case len(w.seen) < page.Size:
		return false, ErrMissed
	}
	w.done = true
	return true, nil
}

func (w *Walk[V]) tooFast(times int) error {
	if times > mostPasses {
		return ErrMissed
	}
	return nil
}

// take takes in the rows of a page, and reports whether the pass has met what was read
// before it: then all that is older was, too.
func (w *Walk[V]) take(rows []Row[V], mark int) (met bool) {
	if n := len(rows); n > 0 && w.newest == unknown {
		w.newest = rows[n-1].Came
	}
	for i, row := range rows {
		then, again := w.seen[row.ID]
		same := again && then.came == row.Came
		if !same {
			w.seen[row.ID] = sight{row.Came, w.pass}
		}
		met = met || i == 0 && same && then.pass < w.pass
		came := !same && (again || w.pass > 0 || row.Came > w.newest)
		o := w.owners[row.Owner]
		if o == nil {
			o = &Owner[V]{Since: mark}
			w.owners[row.Owner] = o
		}
		o.Changed = o.Changed || came
		if again {
			if at := slices.IndexFunc(o.Rows, func(r Row[V]) bool { return r.ID == row.ID }); at >= 0 {
				o.Rows[at] = row
				continue
			}
		}
		o.Rows = append(o.Rows, row)
	}
	return met
}

// Owners are what was read, by owner, once Step has reported that it is done.
func (w *Walk[V]) Owners() map[ID]*Owner[V] { return w.owners }

// Pages are how many pages have been read, and how many that will be if nothing changes.
func (w *Walk[V]) Pages() (read, of int) {
	switch {
	case w.done || !w.begun:
		return w.pages, w.pages
	case w.pass == 0:
		return w.pages, w.pages + w.next + 1
	}
	return w.pages, w.pages + 1
}
