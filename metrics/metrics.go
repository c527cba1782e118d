package metrics

import (
	"context"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"github.com/polargate/polargate"
)

// Metrics collect the figures of one program. Its methods are safe for use by many
// goroutines. Make one with New.
type Metrics struct {
	mu      sync.Mutex
	sources []func(*families)
	series  atomic.Pointer[map[labels]*counted]
	recent  [256]atomic.Pointer[counted]
}

// labels are those of decisions.
type labels struct {
	route, feature string
	outcome        polargate.Outcome
	source         polargate.Source
	reason         polargate.Reason
}

// counted is a series. Its labels are in memory that nobody else writes to.
type counted struct {
	labels
	n *atomic.Int64
}

// mostSeries bounds how many combinations of labels decisions have; other is the route of
// what comes after them.
const (
	mostSeries = 1000
	other      = "other"
)

// New makes Metrics with nothing in them.
func New() *Metrics {
	m := &Metrics{}
	m.series.Store(&map[labels]*counted{})
	return m
}

// Customers adds the figures of Customers.Stats. name tells several apart in one program; it
// becomes the label "name". With one, leave it empty.
func (m *Metrics) Customers(name string, c *polargate.Customers) {
	m.add(func(all *families) { all.customers(name, c.Stats()) })
}

// Gate adds the state of the license of this installation. name is as for Customers.
func (m *Metrics) Gate(name string, g *polargate.Gate) {
	m.add(func(all *families) { all.gate(name, g.Status()) })
}

func (m *Metrics) add(source func(*families)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.sources = append(m.sources, source)
}

// Decided counts a decision, as CustomersConfig.OnDecision. It takes no lock and allocates
// nothing once a combination of labels was seen.
func (m *Metrics) Decided(_ context.Context, d polargate.Decision) {
	key := labels{d.Route, d.Feature(), d.Outcome, d.Source, d.Reason}
	place := &m.recent[key.place()]
	last := place.Load()
	if last == nil || last.labels != key {
		last = m.find(key)
		place.Store(last)
	}
	last.n.Add(1)
}

// place is where a series is looked for first. Two in one place only cost a look into the map.
func (l *labels) place() uint8 {
	place := uint8(len(l.route)*31 + len(l.feature)*7 + len(l.outcome)*3 + len(l.source) + len(l.reason)*5)
	if n := len(l.route); n > 0 {
		place += l.route[n-1] * 17
	}
	if n := len(l.feature); n > 0 {
		place += l.feature[n-1] * 13
	}
	return place
}

// find is the series of these labels, a new one if there is none.
func (m *Metrics) find(key labels) *counted {
	if one := (*m.series.Load())[key]; one != nil {
		return one
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	series := *m.series.Load()
	if one := series[key]; one != nil {
		return one
	}
	key = key.own()
	one := &counted{key, new(atomic.Int64)}
	if len(series) >= mostSeries {
		key.route, key.feature = other, ""
		if rest := series[key]; rest != nil {
			one.n = rest.n
			return one // it is looked for under its own labels again
		}
	}
	next := maps.Clone(series)
	next[key] = &counted{key, one.n}
	m.series.Store(&next)
	return one
}

// Gather returns all metrics as of now, each with its samples.
func (m *Metrics) Gather() []Metric {
	all := &families{now: time.Now()}
	all.decisions(*m.series.Load())
	m.mu.Lock()
	sources := m.sources[:len(m.sources):len(m.sources)]
	m.mu.Unlock()
	for _, source := range sources {
		source(all)
	}
	return all.sorted()
}
