#!/usr/bin/env bash
# failsafe-go 0.9.8 (failsafehttp): a date in Retry-After is not waited for.
#
# Guess: the retry policy of failsafehttp, which waits for "Retry-After: 2", waits for a date two
# seconds ahead as well; RFC 9110 has both forms.
# Seen: only a number of seconds counts. After a date, the request is repeated at once, as if the
# header were absent, until the attempts are used up. hashicorp/go-retryablehttp 0.7.8, and got
# 16.1.0, ky 2.1.0 and axios-retry 4.5.0 on Node, wait for both.
# For us: our 429 and 503 say Retry-After in seconds, never as a date. From Polar and from
# proxies, polargate itself reads both.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
export GOFLAGS=-mod=mod GOWORK=off
cat >go.mod <<'MOD'
module finding

go 1.26

require github.com/failsafe-go/failsafe-go v0.9.8
MOD
cat >main.go <<'GO'
package main

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"time"

	"github.com/failsafe-go/failsafe-go/failsafehttp"
)

// waited is how long the client waits after a first answer with this header.
func waited(status int, retryAfter func() string) time.Duration {
	var asked []time.Time
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if asked = append(asked, time.Now()); len(asked) == 1 {
			w.Header().Set("Retry-After", retryAfter())
			w.WriteHeader(status)
		}
	}))
	client := &http.Client{Transport: failsafehttp.NewRoundTripper(nil, failsafehttp.NewRetryPolicyBuilder().Build())}
	answer, err := client.Get(server.URL)
	if err != nil {
		panic(err)
	}
	answer.Body.Close()
	server.Close()
	return asked[1].Sub(asked[0])
}

func main() {
	fmt.Println("failsafe-go 0.9.8, the wait between the first request and the second:")
	changed := false
	for _, status := range []int{http.StatusTooManyRequests, http.StatusServiceUnavailable} {
		number := waited(status, func() string { return "4" })
		date := waited(status, func() string { return time.Now().Add(5 * time.Second).UTC().Format(http.TimeFormat) })
		fmt.Printf("  %d: 4.0 s by number: %.1f s; 4 to 5 s by date: %.1f s\n", status, number.Seconds(), date.Seconds())
		changed = changed || number < 3*time.Second || date > 3*time.Second
	}
	if changed {
		fmt.Println("the behaviour has changed")
		os.Exit(1)
	}
}
GO
go run .
