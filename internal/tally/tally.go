// Package tally counts what was decided, by labels. It promises that the number of combinations
// is bounded and that counting takes no lock and allocates nothing once a combination was seen. It
// doesn't know what the labels mean.
package tally

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/polargate/polargate/internal/lookup"
)

// Labels tell series apart.
type Labels struct{ Route, Feature, Outcome, Source, Reason string }

// Most is how many combinations there are, and Other the route of what comes after them, which
// adds a few.
const (
	Most  = 1000
	Other = "other"
)

// Series counts one combination. Its labels are in memory that nobody else writes to.
type Series struct {
	Labels
	Count *lookup.Counter
}

// Tally counts. Make one with New.
type Tally struct {
	mu     sync.Mutex
	series atomic.Pointer[map[Labels]*Series]
	// recent are places to look first.
	recent [256]atomic.Pointer[Series]
}

// New makes an empty Tally.
func New() *Tally {
	t := &Tally{}
	t.series.Store(&map[Labels]*Series{})
	return t
}

// Of is the series that counts these labels.
func (t *Tally) Of(l Labels) *Series {
	place := &t.recent[l.place()]
	if last := place.Load(); last != nil && last.Labels == l {
		return last
	}
	found := t.find(l)
	place.Store(found)
	return found
}

// place is where a series is looked for first. Two in one place only cost a look into the map.
func (l *Labels) place() uint8 {
	place := uint8(len(l.Route)*31 + len(l.Feature)*7 + len(l.Outcome)*3 + len(l.Source) + len(l.Reason)*5)
	if n := len(l.Route); n > 0 {
		place += l.Route[n-1] * 17
	}
	if n := len(l.Feature); n > 0 {
		place += l.Feature[n-1] * 13
	}
	return place
}

func (t *Tally) find(l Labels) *Series {
	if one := (*t.series.Load())[l]; one != nil {
		return one
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	series := *t.series.Load()
	if one := series[l]; one != nil {
		return one
	}
	l = Labels{strings.Clone(l.Route), strings.Clone(l.Feature), l.Outcome, l.Source, l.Reason}
	one, stored := &Series{l, &lookup.Counter{}}, l
	if len(series) >= Most {
		stored.Route, stored.Feature = Other, ""
		if rest := series[stored]; rest != nil {
			return &Series{l, rest.Count} // it is looked for under its own labels again
		}
	}
	next := maps.Clone(series)
	next[stored] = &Series{stored, one.Count}
	t.series.Store(&next)
	return one
}

// All are the series, in the order of their labels.
func (t *Tally) All() []*Series {
	return slices.SortedFunc(maps.Values(*t.series.Load()), func(a, b *Series) int {
		return cmp.Or(strings.Compare(a.Route, b.Route), strings.Compare(a.Feature, b.Feature), strings.Compare(a.Outcome, b.Outcome),
			strings.Compare(a.Source, b.Source), strings.Compare(a.Reason, b.Reason))
	})
}
