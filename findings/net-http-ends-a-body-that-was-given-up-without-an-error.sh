#!/usr/bin/env bash
# Go 1.26.8, net/http: a body over HTTP/1.1 and TLS can end without an error when the request's
# context ends while it is read.
#
# Guess: the reader gets the context's error (or its cause), always.
# Seen: of 200 bodies, 10 to 90 end with io.EOF, as if the answer were complete. The client says
# goodbye on the connection; the server's handler, which waits for its client, returns; and
# the end of its answer arrives before the connection is closed. Without TLS, it wasn't seen.
# For us: half an answer was reported as a license server that sends no JSON. Now polargate looks
# at the context if what arrived isn't whole, and reports a cancelled call. It was never
# taken for a verdict. In your own clients, look at ctx.Err() after io.ReadAll.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
export GOWORK=off GOTOOLCHAIN=go1.26.8
cat >go.mod <<'MOD'
module finding

go 1.26
MOD
cat >main.go <<'GO'
package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"runtime"
	"time"
)

const tries = 200

// quiet is how many bodies end without an error, although their context ended.
func quiet(tls bool) (bodies int) {
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, `{"id":`)
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	}))
	if tls {
		server.StartTLS()
	} else {
		server.Start()
	}
	defer server.Close()
	for range tries {
		ctx, cancel := context.WithCancel(context.Background())
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, server.URL, nil)
		if err != nil {
			panic(err)
		}
		answer, err := server.Client().Do(request)
		if err != nil {
			panic(err)
		}
		time.AfterFunc(20*time.Millisecond, cancel)
		body, err := io.ReadAll(answer.Body)
		if err == nil && string(body) == `{"id":` {
			bodies++
		}
		answer.Body.Close()
		cancel()
	}
	return bodies
}

func main() {
	plain, encrypted := quiet(false), quiet(true)
	fmt.Printf("%s, net/http over HTTP/1.1: of %d bodies that were given up, read without an error:\n", runtime.Version(), tries)
	fmt.Println("  without TLS:", plain)
	fmt.Println("  with TLS:   ", encrypted)
	if encrypted == 0 {
		fmt.Println("the behaviour has changed")
		os.Exit(1)
	}
}
GO
go run .
