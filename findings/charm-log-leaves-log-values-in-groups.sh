#!/usr/bin/env bash
# charmbracelet/log 1.0.0 as a handler of log/slog: LogValue isn't called.
#
# Guess: as slog's own handlers, it prints what LogValue returns, in groups as well.
# Seen: the value itself is printed, by its String or Error method or by reflection: in a group,
# by With, and at the top. A group is printed as one attribute, g="[k=…]". tint 1.2.1 calls it.
# For us: our types print the same by LogValue and by Format, so no key, token or address
# shows; a Decision is one text instead of attributes. Tests log all of them through such a handler.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
export GOFLAGS=-mod=mod GOWORK=off
cat >go.mod <<'MOD'
module finding

go 1.26

require (
	github.com/charmbracelet/log v1.0.0
	github.com/lmittmann/tint v1.2.1
)
MOD
cat >main.go <<'GO'
package main

import (
	"bytes"
	"fmt"
	"log/slog"
	"os"
	"strings"

	charm "github.com/charmbracelet/log"
	"github.com/lmittmann/tint"
)

type plan string

func (plan) LogValue() slog.Value { return slog.StringValue("by-LogValue") }

func main() {
	changed := false
	for _, h := range []struct {
		name    string
		calls   bool
		handler func(*bytes.Buffer) slog.Handler
	}{
		{"log/slog", true, func(b *bytes.Buffer) slog.Handler { return slog.NewTextHandler(b, nil) }},
		{"tint 1.2.1", true, func(b *bytes.Buffer) slog.Handler { return tint.NewHandler(b, &tint.Options{NoColor: true}) }},
		{"charmbracelet/log 1.0.0", false, func(b *bytes.Buffer) slog.Handler { return charm.New(b) }},
	} {
		var out bytes.Buffer
		l := slog.New(h.handler(&out))
		l.Info("top", "k", plan("itself"))
		l.Info("group", slog.Group("g", slog.Any("k", plan("itself"))))
		l.With("k", plan("itself")).Info("with")
		fmt.Printf("%s:\n%s", h.name, out.String())
		called := strings.Count(out.String(), "by-LogValue")
		changed = changed || h.calls && called != 3 || !h.calls && called != 0
	}
	if changed {
		fmt.Println("the behaviour has changed")
		os.Exit(1)
	}
}
GO
go run .
