package tally

import (
	"fmt"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
)

func TestThereAreNoMoreThanAThousandSeriesWhateverTheProgramNames(t *testing.T) {
	t.Parallel()
	all := New()
	for i := range 5000 {
		all.Of(Labels{Route: fmt.Sprint("GET /", i), Outcome: "allowed"}).Count.Add()
	}
	all.Of(Labels{Route: "GET /1", Outcome: "allowed"}).Count.Add()
	all.Of(Labels{Route: "GET /4999", Outcome: "refused"}).Count.Add()
	counts := map[Labels]int64{}
	for _, s := range all.All() {
		counts[s.Labels] = s.Count.Load()
	}
	assert.Len(t, counts, Most+2)
	assert.Equal(t, int64(4000), counts[Labels{Route: Other, Outcome: "allowed"}])
	assert.Equal(t, int64(1), counts[Labels{Route: Other, Outcome: "refused"}])
	assert.Equal(t, int64(2), counts[Labels{Route: "GET /1", Outcome: "allowed"}])
}

func TestEachIsCountedOnceFromManyGoroutines(t *testing.T) {
	t.Parallel()
	all := New()
	var workers sync.WaitGroup
	for range 8 {
		workers.Go(func() {
			for i := range 1000 {
				all.Of(Labels{Route: fmt.Sprint(i % 10)}).Count.Add()
			}
		})
	}
	workers.Wait()
	for _, s := range all.All() {
		assert.Equal(t, int64(800), s.Count.Load())
	}
}

func TestCountingAllocatesNothing(t *testing.T) {
	all, l := New(), Labels{Route: "GET /export", Feature: "export", Outcome: "allowed"}
	assert.Zero(t, testing.AllocsPerRun(1000, func() { all.Of(l).Count.Add() }))
}

func TestALabelInMemoryThatIsUsedAgainStaysWhatItWas(t *testing.T) {
	t.Parallel()
	all, l := New(), Labels{Route: "GET /export"}
	one := all.Of(l)
	assert.Same(t, one, all.Of(Labels{Route: "GET /export"}))
	assert.NotSame(t, one, all.Of(Labels{Route: "GET /import"}))
}
