package polargate

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
)

func TestWhatACheckDoesAboutARecord(t *testing.T) {
	t.Parallel()
	const fresh, grace = 24 * time.Hour, 14 * 24 * time.Hour
	failedAt := func(after time.Duration) func(*record) {
		return func(r *record) {
			r.verdict.NextTry, r.verdict.HighWater = noon.Add(after+30*time.Second), noon.Add(after)
		}
	}
	refused := func(r *record) { r.verdict.Refused = ErrInactive }
	license := holding(seatHere)
	of := func(rec record, change func(*record)) record {
		if rec.verdict != nil {
			v := *rec.verdict
			rec.verdict = &v
		}
		if change != nil {
			change(&rec)
		}
		return rec
	}
	none := record{state: state{InstallationID: "i"}}
	waiting := record{state: state{InstallationID: "i", Outbox: []seat{seatHere}}}
	postponed := waiting
	postponed.state.OutboxRetry = noon.Add(30 * time.Second)
	moving := record{state: state{InstallationID: "i", Seat: seatHere.is(reactivating)}, trouble: ErrOtherMachine}
	doubtful := moving
	doubtful.state.Intent = &intent{AttemptID: "attempt", Key: "KEY", At: noon}
	elsewhere := moving
	elsewhere.state.Intent = &intent{AttemptID: "attempt", Key: "OTHER", At: noon}
	asked := of(license, func(r *record) { r.verdict.CheckedAt = noon.Add(time.Hour) })
	for name, c := range map[string]struct {
		rec    record
		after  time.Duration
		when   occasion
		waited *record
		want   task
	}{
		"no license":                                    {none, 0, always, nil, doNothing},
		"an activation waits to be released":            {waiting, 0, ifStale, nil, releaseWaiting},
		"releasing it failed a moment ago":              {postponed, 0, ifStale, nil, doNothing},
		"that failed, and the user asks for it":         {postponed, 0, always, nil, releaseWaiting},
		"that failed more than a pause ago":             {postponed, time.Hour, ifStale, nil, releaseWaiting},
		"no answer yet":                                 {of(license, func(r *record) { r.verdict = nil }), 0, ifStale, nil, askPolar},
		"a fresh answer":                                {license, time.Hour, ifStale, nil, noteTheTime},
		"a fresh answer, and the user asks":             {license, time.Hour, always, nil, askPolar},
		"a fresh answer, and Run asks":                  {license, time.Hour, retry, nil, askPolar},
		"an answer past half its freshness":             {license, 13 * time.Hour, ifStale, nil, renewSoon},
		"the same, where renewing failed a moment ago":  {of(license, failedAt(13*time.Hour)), 13 * time.Hour, ifStale, nil, noteTheTime},
		"a renewal that is due":                         {license, 13 * time.Hour, renewal, nil, askPolar},
		"a renewal that another process has made":       {license, time.Hour, renewal, nil, doNothing},
		"an answer that is no longer fresh":             {license, 25 * time.Hour, ifStale, nil, askPolar},
		"the same, where asking failed a moment ago":    {of(license, failedAt(25*time.Hour)), 25 * time.Hour, ifStale, nil, noteTheTime},
		"that failed, but the user asks":                {of(license, failedAt(25*time.Hour)), 25 * time.Hour, always, nil, askPolar},
		"grace is over, and asking failed":              {of(license, failedAt(1000*time.Hour)), 1000 * time.Hour, ifStale, nil, askPolar},
		"refused a moment ago":                          {of(license, refused), 0, ifStale, nil, noteTheTime},
		"refused more than a second ago":                {of(license, refused), 2 * time.Second, ifStale, nil, askPolar},
		"an activation that broke off":                  {moving, 0, ifStale, nil, finishActivation},
		"one that broke off, with its answer lost":      {doubtful, 0, ifStale, nil, reportDoubt},
		"one that broke off, beside another doubt":      {elsewhere, 0, ifStale, nil, finishActivation},
		"deactivated while this check waited":           {none, 0, ifStale, &license, doNothing},
		"deactivated meanwhile, and not yet released":   {waiting, 0, always, &license, doNothing},
		"another process asked while this check waited": {asked, 2 * time.Hour, retry, &license, doNothing},
		"the same, and the user asks":                   {asked, 2 * time.Hour, always, &license, askPolar},
		"nobody asked while this check waited":          {license, 25 * time.Hour, retry, &license, askPolar},
	} {
		now := noon.Add(c.after)
		var s validity
		if c.rec.verdict != nil {
			s = evaluate(c.rec.verdict, now, fresh, grace)
		}
		assert.Equal(t, c.want, planCheck(&c.rec, s, now, c.when, c.waited), name)
	}
}

func TestTheTimeOfACheckIsSharedOut(t *testing.T) {
	t.Parallel()
	assert.Equal(t, budget{all: 5 * time.Second, asking: 4500 * time.Millisecond, turn: 2500 * time.Millisecond, reading: 1250 * time.Millisecond, storing: 500 * time.Millisecond}, budgetOf(5*time.Second))
	for _, timeout := range []time.Duration{time.Millisecond, time.Second, time.Minute} {
		b := budgetOf(timeout)
		assert.Equal(t, timeout, b.all)
		assert.Less(t, b.asking, b.all, "an answer that comes late can be stored")
		assert.GreaterOrEqual(t, b.asking, timeout*9/10)
		assert.Less(t, b.reading+b.turn, b.asking, "a Store that hangs, and another process, leave time to ask Polar")
		assert.Positive(t, b.reading)
		assert.GreaterOrEqual(t, b.storing, 500*time.Millisecond, "a disk needs that, however short the timeout")
	}
}
