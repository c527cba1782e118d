package replicas

import (
	"context"
	"slices"
	"time"

	"github.com/polargate/polargate/internal/census"
	"github.com/polargate/polargate/internal/link"
	"github.com/polargate/polargate/internal/memory"
	"github.com/polargate/polargate/internal/pace"
	"github.com/polargate/polargate/internal/relay"
	"github.com/polargate/polargate/internal/wire"
)

// turnLasts is how long after the last sign of life of the replica that reads the lists
// another one goes on.
const turnLasts = 12 * time.Second

func (r *Replicas) walkName() link.Name { return r.Link.OpenName("hint", "lists were read") }

// relayValues are values as package relay takes them.
type relayValues struct{ link *link.Link }

func (v relayValues) Load(ctx context.Context, name string) (relay.Value, error) {
	is, err := v.link.Load(ctx, v.link.Name("relay", name))
	return relay.Value(is), err
}

func (v relayValues) Swap(ctx context.Context, name, version string, data []byte, ttl time.Duration) (relay.Value, bool, error) {
	is, swapped, err := v.link.Swap(ctx, v.link.Name("relay", name), version, data, ttl)
	return relay.Value(is), swapped, err
}

// LastWalk is the last walk that came to its end; zero if none is known.
func (r *Replicas) LastWalk(ctx context.Context) census.Report {
	data, _ := r.Lists.Result(ctx)
	return census.ReportOf(data)
}

// PublishListed tells other replicas what lists say of customers, and reports whether all of
// it is in the store. One that is slow, since so much comes at once, is waited for.
func (r *Replicas) PublishListed(found map[wire.UUID]census.Customer, leftOut func(wire.UUID) bool) bool {
	var facts []link.Fact
	put := func() bool {
		for len(facts) > 0 {
			younger, err := r.Link.Put(r.Link.Life, facts...)
			r.takeIfOfUse(younger)
			if err == nil {
				facts = facts[:0]
			} else if r.Link.AwayFor() > recallGivesUp || !pace.Sleep(r.Link.Life, recallAgain) {
				return false
			}
		}
		return true
	}
	for id, one := range found {
		if one.Changed || leftOut(id) {
			continue
		}
		facts = append(facts, r.factsOf(memory.News{Value: one.State, Key: memory.IDsOf(one.State)[0], At: one.State.At(), Listed: true})...)
		if len(facts) >= link.PutBatch && !put() {
			return false
		}
	}
	return put()
}

// FinishWalk tells other replicas that the lists have been read.
func (r *Replicas) FinishWalk(ctx context.Context, turn *relay.Turn, w census.Report) {
	w.Began, w.Ended, w.Holder = census.ReportOf(turn.Began()).Began, r.PolarNow(), r.Link.Config.Holder
	ctx = context.WithoutCancel(ctx)
	turn.Finish(ctx, w.Bytes(), r.lasts())
	r.Link.Hint(ctx, r.walkName())
}

// afterWalk takes over what another replica read from Polar's lists, as far as it is about
// customers in memory. Those who had something before, and are in none of the lists, are
// asked about.
func (r *Replicas) afterWalk() {
	last := r.LastWalk(r.Link.Life)
	if last.Began == 0 || last.Holder == r.Link.Config.Holder {
		return
	}
	for keys := range slices.Chunk(r.Cache.All(), link.Batch) {
		if !r.check(r.Link.Life, keys...) {
			return
		}
	}
	age := r.PolarNow().Sub(last.Began) + clockFine
	r.Cache.ExpireUnlisted(r.Cache.Now().After(-age), func(wire.UUID) bool { return false })
}

// clockFine is how exactly Polar's time is known: answers are dated in whole seconds.
const clockFine = 2 * time.Second
