package metrics

import (
	"sync"
	"time"

	"github.com/polargate/polargate"
)

// Metrics collect the figures of one program. Its methods are safe for use by many
// goroutines. Make one with New.
type Metrics struct {
	mu      sync.Mutex
	sources []func(*families)
}

// New makes Metrics with nothing in them.
func New() *Metrics { return &Metrics{} }

// Customers adds the figures of Customers.Stats and Customers.Decisions. name tells several apart in one program; it
// becomes the label "name". With one, leave it empty.
func (m *Metrics) Customers(name string, c *polargate.Customers) {
	c.Decisions() // are counted from now on
	m.add(func(all *families) {
		all.customers(name, c.Stats())
		all.decisions(name, c.Decisions())
	})
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

// Describe returns all metrics that there can be, without samples.
func Describe() []Metric {
	all := &families{}
	all.decisions("", nil)
	all.customers("", polargate.CustomersStats{})
	all.gate("", polargate.Status{})
	for i := range all.all {
		all.all[i].Samples = nil
	}
	return all.sorted()
}

// Gather returns all metrics as of now, each with its samples.
func (m *Metrics) Gather() []Metric {
	all := &families{now: time.Now()}
	m.mu.Lock()
	sources := m.sources[:len(m.sources):len(m.sources)]
	m.mu.Unlock()
	for _, source := range sources {
		source(all)
	}
	return all.sorted()
}
