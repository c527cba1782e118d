package metrics

import (
	"slices"
	"strings"
	"time"

	"github.com/polargate/polargate"
)

// Metric is one figure, with a sample for each combination of its labels.
type Metric struct {
	// Name is as OpenTelemetry has it: polargate.answers.fresh.
	Name string
	// Help says what it is. Unit is "s" for seconds, or empty.
	Help, Unit string
	// Counter is for what only grows.
	Counter bool
	Samples []Sample
}

// Sample is a value with its labels.
type Sample struct {
	// Labels are sorted by name.
	Labels []Label
	Value  float64
}

// Label tells a sample from others of its metric.
type Label struct {
	// Name and Value say what it is about, such as the route.
	Name, Value string
}

// Prometheus is the name as Prometheus has it: polargate_answers_fresh_total. It is also what
// OpenTelemetry's exporter for Prometheus makes of Name and Unit.
func (m Metric) Prometheus() string {
	name := strings.ReplaceAll(m.Name, ".", "_")
	if m.Unit == "s" {
		name += "_seconds"
	}
	if m.Counter {
		name += "_total"
	}
	return name
}

// families are metrics while they are gathered.
type families struct {
	now time.Time
	all []Metric
}

func (f *families) put(m Metric, samples ...Sample) {
	m.Name = "polargate." + m.Name
	i := slices.IndexFunc(f.all, func(other Metric) bool { return other.Name == m.Name })
	if i < 0 {
		i, f.all = len(f.all), append(f.all, m)
	}
	f.all[i].Samples = append(f.all[i].Samples, samples...)
}

// sorted are the metrics by name.
func (f *families) sorted() []Metric {
	slices.SortFunc(f.all, func(a, b Metric) int { return strings.Compare(a.Name, b.Name) })
	return f.all
}

// sample is a value with labels, of which those without a value are left out.
func sample(value float64, labels ...Label) Sample {
	labels = slices.DeleteFunc(labels, func(l Label) bool { return l.Value == "" })
	slices.SortFunc(labels, func(a, b Label) int { return strings.Compare(a.Name, b.Name) })
	return Sample{labels, value}
}

func (f *families) decisions(name string, counts []polargate.DecisionCount) {
	samples := make([]Sample, len(counts))
	for i, n := range counts {
		samples[i] = sample(float64(n.Count), Label{"name", name}, Label{"route", n.Route}, Label{"feature", n.Feature},
			Label{"outcome", string(n.Outcome)}, Label{"source", string(n.Source)}, Label{"reason", string(n.Reason)})
	}
	f.put(Metric{Name: "decisions", Help: "Decisions about customers and license keys.", Counter: true}, samples...)
}

func (f *families) customers(name string, s polargate.CustomersStats) {
	for _, m := range []struct {
		name, help string
		value      float64
		counter    bool
		unit       string
	}{
		{"answers.fresh", "Answers from memory, younger than FreshFor.", float64(s.Fresh), true, ""},
		{"answers.stale", "Answers from memory, younger than StaleFor.", float64(s.Stale), true, ""},
		{"answers.grace", "Answers from memory while Polar can't be reached.", float64(s.Grace), true, ""},
		{"answers.fetched", "Answers that waited for Polar or the shared store.", float64(s.Fetched), true, ""},
		{"answers.unknown", "Answers from memory about customers and keys that Polar doesn't know.", float64(s.Unknown), true, ""},
		{"polar.requests", "Requests to Polar.", float64(s.Requests), true, ""},
		{"polar.failures", "Requests to Polar without an answer that counts.", float64(s.Failures), true, ""},
		{"polar.turned_away", "Requests to Polar that weren't sent, for lack of budget.", float64(s.TurnedAway), true, ""},
		{"polar.pause", "How much longer Polar asked for no requests.", s.Pause.Seconds(), false, "s"},
		{"misconfigured", "1 while Polar rejects the access token, or it lacks a scope.", number(s.Misconfigured != nil), false, ""},
		{"refused_401", "Requests and RPC calls refused as 400 or 401.", float64(s.Unidentified), true, ""},
		{"refused_402", "Requests and RPC calls refused as 402.", float64(s.Unpaid), true, ""},
		{"refused_503", "Requests and RPC calls refused as 503.", float64(s.Undecided), true, ""},
		{"failed_open", "Requests and RPC calls that passed because of FailOpen or Fallback.", float64(s.FailedOpen), true, ""},
		{"webhooks", "Webhooks that were applied.", float64(s.Events), true, ""},
		{"webhooks.refused", "Webhooks without a valid signature, or of another organization.", float64(s.Refused), true, ""},
		{"webhooks.without_effect", "Webhooks that were older, repeated, or of a type that doesn't matter.", float64(s.Outdated + s.Repeated + s.Ignored), true, ""},
		{"webhooks.failed", "Webhooks for which a function given to On failed.", float64(s.Failed), true, ""},
		{"webhooks.held", "Webhooks that wait until the organization is known.", float64(s.Held), false, ""},
		{"customers.cached", "Customers and license keys in memory.", float64(s.Cached), false, ""},
		{"customers.unknown_cached", "Unknown customers and license keys in memory.", float64(s.CachedUnknown), false, ""},
		{"warm.walks", "Complete readings of Polar's lists.", float64(s.Warm.Walks), true, ""},
		{"warm.without_room", "Customers for whom CacheSize had no room.", float64(s.Warm.NoRoom), false, ""},
		{"usage.waiting", "Usage events that Polar doesn't have yet.", float64(s.Usage.Waiting), false, ""},
		{"usage.refused", "Usage events that Polar refused.", float64(s.Usage.Refused), true, ""},
		{"usage.failing", "1 while usage events can't be sent or stored.", number(s.Usage.Failing != nil), false, ""},
		{"panics", "Panics that were caught.", float64(s.Panics), true, ""},
		{"shared.away", "For how long the shared store has been failing.", f.since(s.Shared.Away), false, "s"},
		{"shared.hint_age", "How long ago the shared store last told of a change.", f.since(s.Shared.LastHint), false, "s"},
		{"shared.replicas", "Replicas that are there, this one included.", float64(s.Shared.Replicas), false, ""},
		{"shared.waiting", "Records that wait for the shared store to be back.", float64(s.Shared.Waiting), false, ""},
		{"shared.lost", "Records that could not be shared.", float64(s.Shared.Lost), true, ""},
		{"shared.unreadable", "What was in the shared store and could not be read.", float64(s.Shared.Unreadable), true, ""},
	} {
		f.put(Metric{Name: m.name, Help: m.help, Unit: m.unit, Counter: m.counter}, sample(m.value, Label{"name", name}))
	}
}

func (f *families) gate(name string, s polargate.Status) {
	of := Label{"name", name}
	var states []Sample
	for _, state := range []polargate.State{polargate.Active, polargate.Grace, polargate.Locked, polargate.Unlicensed} {
		states = append(states, sample(number(s.State == state), of, Label{"state", string(state)}))
	}
	f.put(Metric{Name: "gate.state", Help: "1 for the state that the license is in."}, states...)
	f.put(Metric{Name: "gate.refused", Help: "1, with the reason, while the license is not active."}, sample(number(s.Reason != ""), of, Label{"reason", string(s.Reason)}))
	f.put(Metric{Name: "gate.unsaved", Help: "1 while the license can't be saved."}, sample(number(s.Unsaved), of))
	for _, at := range []struct {
		name, help string
		when       time.Time
	}{
		{"gate.checked.timestamp", "When Polar last verified the license, in seconds since 1970; 0 for never.", s.CheckedAt},
		{"gate.grace_until.timestamp", "Until when the license counts without Polar, in seconds since 1970; 0 if it doesn't.", s.GraceUntil},
		{"gate.expires.timestamp", "When the license expires, in seconds since 1970; 0 for never.", s.ExpiresAt},
	} {
		value := 0.0
		if !at.when.IsZero() {
			value = float64(at.when.UnixMilli()) / 1000
		}
		f.put(Metric{Name: at.name, Help: at.help, Unit: "s"}, sample(value, of))
	}
}

// since is how many seconds ago that was; 0 for never.
func (f *families) since(t time.Time) float64 {
	if t.IsZero() {
		return 0
	}
	return max(f.now.Sub(t).Seconds(), 0)
}

func number(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
