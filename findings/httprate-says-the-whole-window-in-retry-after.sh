#!/usr/bin/env bash
# go-chi/httprate 0.16.1: Retry-After is the length of the window, whenever it is asked.
#
# Guess: it says in how many seconds a request will be let in, about as X-RateLimit-Reset beside it does.
# Seen: with three requests per ten seconds, refused three seconds before a window ends, Retry-After is 10 and
# X-RateLimit-Reset is 3 s away; a request is let in after about 5 s, since the window slides. With a window of an hour, a client
# that obeys stays away for an hour even if a minute would do.
# For us: our own Retry-After is the time that is left. For a limit in front of your routes, choose
# a short window, or leave the header out by httprate.WithResponseHeaders.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
export GOFLAGS=-mod=mod GOWORK=off
cat >go.mod <<'MOD'
module finding

go 1.26

require github.com/go-chi/httprate v0.16.1
MOD
cat >main.go <<'GO'
package main

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"strconv"
	"time"

	"github.com/go-chi/httprate"
)

const window = 10 * time.Second

func main() {
	limited := httprate.LimitAll(3, window)(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	ask := func() *httptest.ResponseRecorder {
		answer := httptest.NewRecorder()
		limited.ServeHTTP(answer, httptest.NewRequest(http.MethodGet, "/", nil))
		return answer
	}

	// refused asks until it is refused, and says when the window ends.
	refused := func() (answer *httptest.ResponseRecorder, reset time.Time) {
		for {
			if answer = ask(); answer.Code == http.StatusTooManyRequests {
				seconds, _ := strconv.ParseInt(answer.Header().Get("X-RateLimit-Reset"), 10, 64)
				return answer, time.Unix(seconds, 0)
			}
		}
	}

	_, reset := refused()
	if time.Until(reset) < 5*time.Second {
		time.Sleep(time.Until(reset.Add(3 * time.Second)))
		_, reset = refused()
	}
	time.Sleep(time.Until(reset.Add(-3 * time.Second)))
	answer, reset := refused()
	at := time.Now()
	retry, _ := strconv.Atoi(answer.Header().Get("Retry-After"))
	for ask().Code != http.StatusOK {
		time.Sleep(100 * time.Millisecond)
	}
	waited := time.Since(at)

	fmt.Println("go-chi/httprate 0.16.1, three requests per ten seconds, refused three before the window ends:")
	fmt.Println("  Retry-After:            ", retry, "s")
	fmt.Printf("  X-RateLimit-Reset is in  %.0f s\n", reset.Sub(at).Seconds())
	fmt.Printf("  a request was let in after %.1f s\n", waited.Seconds())
	if retry != 10 || waited > 8*time.Second {
		fmt.Println("the behaviour has changed")
		os.Exit(1)
	}
}
GO
go run .
