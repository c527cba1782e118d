package main

import (
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/polargate/polargate"
)

// healthz is about this server alone. An outage of Polar or of the shared store is no
// reason to take it out of service: it serves the customers that it has in memory. The
// lines below "ok" are for the person who looks.
func healthz(customers *polargate.Customers) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		s := customers.Stats()
		fmt.Fprintln(w, "ok")
		fmt.Fprintf(w, "customers in memory: %d\n", s.Cached)
		switch {
		case s.Misconfigured != nil:
			fmt.Fprintln(w, "Polar: rejects the access token")
		case s.Pause > 0:
			fmt.Fprintf(w, "Polar: asked for no requests for %s\n", s.Pause.Round(time.Second))
		default:
			fmt.Fprintf(w, "Polar: %d requests, %d without an answer\n", s.Requests, s.Failures)
		}
		switch {
		case s.Shared.Replicas == 0:
			fmt.Fprintln(w, "shared store: none")
		case !s.Shared.Away.IsZero():
			fmt.Fprintf(w, "shared store: away for %s\n", since(s.Shared.Away).Round(time.Second))
		default:
			fmt.Fprintf(w, "shared store: replicas: %d, last change heard of %s ago\n", s.Shared.Replicas, since(s.Shared.LastHint).Round(time.Second))
		}
	}
}

// metrics are the figures that docs/operations.md advises to watch, in the text format
// that Prometheus and others read. A program with a metrics library hands them to that.
func metrics(customers *polargate.Customers) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
		writeMetrics(w, customers.Stats())
	}
}

func writeMetrics(w io.Writer, s polargate.CustomersStats) {
	for _, m := range []struct {
		name, kind, help string
		value            float64
	}{
		{"answers_fresh_total", "counter", "Answers from memory, younger than FreshFor.", float64(s.Fresh)},
		{"answers_stale_total", "counter", "Answers from memory, younger than StaleFor.", float64(s.Stale)},
		{"answers_grace_total", "counter", "Answers from memory while Polar can't be reached.", float64(s.Grace)},
		{"answers_fetched_total", "counter", "Answers that waited for Polar or the shared store.", float64(s.Fetched)},
		{"polar_requests_total", "counter", "Requests to Polar.", float64(s.Requests)},
		{"polar_failures_total", "counter", "Requests to Polar without an answer that counts.", float64(s.Failures)},
		{"polar_turned_away_total", "counter", "Requests to Polar that weren't sent, for lack of budget.", float64(s.TurnedAway)},
		{"polar_pause_seconds", "gauge", "How much longer Polar asked for no requests.", s.Pause.Seconds()},
		{"misconfigured", "gauge", "1 while Polar rejects the access token, or it lacks a scope.", number(s.Misconfigured != nil)},
		{"refused_401_total", "counter", "Requests answered 400 or 401.", float64(s.Unidentified)},
		{"refused_402_total", "counter", "Requests answered 402.", float64(s.Unpaid)},
		{"refused_503_total", "counter", "Requests answered 503.", float64(s.Undecided)},
		{"webhooks_total", "counter", "Webhooks that were applied.", float64(s.Events)},
		{"webhooks_refused_total", "counter", "Webhooks without a valid signature, or of another organization.", float64(s.Refused)},
		{"customers_cached", "gauge", "Customers and license keys in memory.", float64(s.Cached)},
		{"warm_walks_total", "counter", "Complete readings of Polar's lists.", float64(s.Warm.Walks)},
		{"warm_without_room", "gauge", "Customers for whom CacheSize had no room.", float64(s.Warm.NoRoom)},
		{"usage_waiting", "gauge", "Usage events that Polar doesn't have yet.", float64(s.Usage.Waiting)},
		{"usage_refused_total", "counter", "Usage events that Polar refused.", float64(s.Usage.Refused)},
		{"panics_total", "counter", "Panics that were caught.", float64(s.Panics)},
		{"shared_away_seconds", "gauge", "For how long the shared store has been failing.", since(s.Shared.Away).Seconds()},
		{"shared_hint_age_seconds", "gauge", "How long ago the shared store last told of a change.", since(s.Shared.LastHint).Seconds()},
		{"shared_replicas", "gauge", "Replicas that are there, this one included.", float64(s.Shared.Replicas)},
		{"shared_waiting", "gauge", "Records that wait for the shared store to be back.", float64(s.Shared.Waiting)},
		{"shared_lost_total", "counter", "Records that could not be shared.", float64(s.Shared.Lost)},
		{"shared_unreadable_total", "counter", "What was in the shared store and could not be read.", float64(s.Shared.Unreadable)},
	} {
		fmt.Fprintf(w, "# HELP polargate_%s %s\n# TYPE polargate_%s %s\npolargate_%s %g\n", m.name, m.help, m.name, m.kind, m.name, m.value)
	}
}

// since is how long ago that was; 0 for never.
func since(t time.Time) time.Duration {
	if t.IsZero() {
		return 0
	}
	return time.Since(t)
}

func number(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
