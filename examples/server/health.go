package main

import (
	"fmt"
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

// since is how long ago that was; 0 for never.
func since(t time.Time) time.Duration {
	if t.IsZero() {
		return 0
	}
	return time.Since(t)
}
