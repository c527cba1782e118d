#!/usr/bin/env bash
# go.opentelemetry.io/otel/sdk/metric 1.47.0: of one instrument, 2,000 series are exported, and
# which ones is decided anew at each collection.
#
# Guess: an observable counter with 2,500 sets of attributes exports 2,500 points, unless a
# limit was asked for.
# Seen: 1,999, and one with otel.metric.overflow=true that has the sum of the rest. For observable
# instruments, the first to be observed are kept, each time: if the order changes, series disappear
# and others come, and the sum jumps down, which Prometheus takes for a restart. The overflow of
# a gauge is the one that was observed last.
# For us: a Customers has at most a thousand and a few combinations of labels, always in the same
# order. Several in one program add up: give the provider WithCardinalityLimit. docs/telemetry.md
# says so.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
export GOFLAGS=-mod=mod GOWORK=off
cat >go.mod <<'MOD'
module finding

go 1.26

require go.opentelemetry.io/otel/sdk/metric v1.47.0
MOD
cat >main.go <<'GO'
package main

import (
	"context"
	"fmt"
	"os"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	sdk "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
)

const series = 2500

// collected are the points of a counter that observes its series in this order.
func collected(order func(i int) int, options ...sdk.Option) (points int, first, last bool, rest float64) {
	reader := sdk.NewManualReader()
	meter := sdk.NewMeterProvider(append(options, sdk.WithReader(reader))...).Meter("finding")
	_, err := meter.Float64ObservableCounter("decisions", metric.WithFloat64Callback(func(_ context.Context, o metric.Float64Observer) error {
		for i := range series {
			o.Observe(1, metric.WithAttributes(attribute.Int("n", order(i))))
		}
		return nil
	}))
	if err != nil {
		panic(err)
	}
	var all metricdata.ResourceMetrics
	if err := reader.Collect(context.Background(), &all); err != nil {
		panic(err)
	}
	sum := all.ScopeMetrics[0].Metrics[0].Data.(metricdata.Sum[float64])
	for _, p := range sum.DataPoints {
		if _, overflow := p.Attributes.Value("otel.metric.overflow"); overflow {
			rest = p.Value
			continue
		}
		n, _ := p.Attributes.Value("n")
		first, last = first || n.AsInt64() == 0, last || n.AsInt64() == series-1
	}
	return len(sum.DataPoints), first, last, rest
}

func main() {
	up, down := func(i int) int { return i }, func(i int) int { return series - 1 - i }
	fmt.Println("otel/sdk/metric 1.47.0, an observable counter with 2,500 series of 1:")
	points, first, last, rest := collected(up)
	fmt.Printf("  first to last: %d points, overflow %.0f, has the first: %v, has the last: %v\n", points, rest, first, last)
	changed := points != 2000 || rest != 501 || !first || last
	points, first, last, rest = collected(down)
	fmt.Printf("  last to first: %d points, overflow %.0f, has the first: %v, has the last: %v\n", points, rest, first, last)
	changed = changed || points != 2000 || rest != 501 || first || !last
	points, _, _, rest = collected(up, sdk.WithCardinalityLimit(10_000))
	fmt.Printf("  WithCardinalityLimit(10_000): %d points, overflow %.0f\n", points, rest)
	if changed || points != series || rest != 0 {
		fmt.Println("the behaviour has changed")
		os.Exit(1)
	}
}
GO
go run .
