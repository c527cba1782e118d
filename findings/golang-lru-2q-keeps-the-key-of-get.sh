#!/usr/bin/env bash
# golang-lru/v2 2.0.7: a look-up in a 2Q cache replaces the stored key.
#
# Guess: Get only reads; the key kept is the one that was given to Add.
# Seen: the first Get of an entry moves it to the frequent list under the key that was
# given to Get. Equal keys can live in different memory: where a server reuses the memory
# of a request (fasthttp, Fiber), the kept key changes with the next request, and the entry
# is lost or found by another name. LRU (lru.Cache) keeps the key of Add.
# For us: cached entries carry a copy of their key, and only that is ever given to the 2Q.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
export GOFLAGS=-mod=mod GOWORK=off
cat >go.mod <<'MOD'
module finding

go 1.26

require github.com/hashicorp/golang-lru/v2 v2.0.7
MOD
cat >main.go <<'GO'
package main

import (
	"fmt"
	"os"
	"strings"
	"unsafe"

	lru "github.com/hashicorp/golang-lru/v2"
)

func main() {
	buffer := []byte("alice")
	view := unsafe.String(&buffer[0], len(buffer)) // what fasthttp hands out

	twoQueue, _ := lru.New2Q[string, int](8)
	plain, _ := lru.New[string, int](8)
	twoQueue.Add(strings.Clone(view), 1)
	plain.Add(strings.Clone(view), 1)
	twoQueue.Get(view)
	plain.Get(view)
	copy(buffer, "mallo") // the next request

	fmt.Println("golang-lru/v2 2.0.7, keys after the memory of the look-up was used again:")
	fmt.Println("  2Q: ", twoQueue.Keys(), "contains alice:", twoQueue.Contains("alice"))
	fmt.Println("  LRU:", plain.Keys(), "contains alice:", plain.Contains("alice"))
	if twoQueue.Keys()[0] != "mallo" || !plain.Contains("alice") {
		fmt.Println("the behaviour has changed")
		os.Exit(1)
	}
}
GO
go run .
