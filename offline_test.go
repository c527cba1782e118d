package polargate

import (
	"io"
	"math"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const (
	ns   = time.Nanosecond
	hour = time.Hour
	days = 24 * time.Hour
)

// noon is when the verdicts of these tests were given.
var noon = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

func TestWhatAVerdictIsWorthAtAMoment(t *testing.T) {
	t.Parallel()
	granted := verdict{CheckedAt: noon, HighWater: noon}
	with := func(change func(*verdict)) verdict {
		v := granted
		change(&v)
		return v
	}
	expires := func(in time.Duration) verdict {
		return with(func(v *verdict) { v.ExpiresAt = noon.Add(in) })
	}
	marked := func(at time.Duration) verdict {
		return with(func(v *verdict) { v.HighWater = noon.Add(at) })
	}
	refused := func(why Reason) verdict {
		return with(func(v *verdict) { v.Refused = why })
	}
	skewed := func(skew time.Duration) verdict {
		return with(func(v *verdict) { v.ExpiresAt, v.Skew = noon.Add(10*hour), skew })
	}
	const never = time.Duration(math.MinInt64)
	for name, c := range map[string]struct {
		v            verdict
		now          time.Duration // after noon
		fresh, grace time.Duration // 24 hours and 14 days if 0

		state   State
		reason  Reason
		changes time.Duration // after noon
	}{
		"just granted":                  {v: granted, now: 0, state: Active, changes: days},
		"granted an hour ago":           {v: granted, now: hour, state: Active, changes: days},
		"the last nanosecond of fresh":  {v: granted, now: days - ns, state: Active, changes: days},
		"the first nanosecond of grace": {v: granted, now: days, state: Grace, reason: ErrUnreachable, changes: 14 * days},
		"the last nanosecond of grace":  {v: granted, now: 14*days - ns, state: Grace, reason: ErrUnreachable, changes: 14 * days},
		"the first one after grace":     {v: granted, now: 14 * days, state: Locked, reason: ErrGraceEnded, changes: never},
		"a century later":               {v: granted, now: 36500 * days, state: Locked, reason: ErrGraceEnded, changes: never},
		"in grace, Polar having asked for a pause": {
			v:   with(func(v *verdict) { v.LastFailure, v.NextTry = ErrRateLimited, noon.Add(3*days) }),
			now: 2 * days, state: Grace, reason: ErrRateLimited, changes: 14 * days,
		},
		"asked in vain while still fresh": {
			v:   with(func(v *verdict) { v.LastFailure = ErrUnreachable }),
			now: hour, state: Active, changes: days,
		},

		"no grace: the last nanosecond of fresh":       {v: granted, now: days - ns, grace: -1, state: Active, changes: days},
		"no grace: locked with the end of fresh":       {v: granted, now: days, grace: -1, state: Locked, reason: ErrGraceEnded, changes: never},
		"no grace, as negative as can be":              {v: granted, now: days - ns, grace: math.MinInt64, state: Active, changes: days},
		"grace shorter than fresh does not cut it":     {v: granted, now: days - ns, grace: hour, state: Active, changes: days},
		"grace shorter than fresh adds nothing either": {v: granted, now: days, grace: hour, state: Locked, reason: ErrGraceEnded, changes: never},
		"grace as long as fresh adds nothing":          {v: granted, now: days, grace: days, state: Locked, reason: ErrGraceEnded, changes: never},
		"a nanosecond of fresh, at once":               {v: granted, now: 0, fresh: ns, state: Active, changes: ns},
		"a nanosecond of fresh, one later":             {v: granted, now: ns, fresh: ns, state: Grace, reason: ErrUnreachable, changes: 14 * days},
		"fresh for as long as a duration can be":       {v: granted, now: 36500 * days, fresh: math.MaxInt64, state: Active, changes: math.MaxInt64},

		"before its expiry, which ends fresh early":        {v: expires(10 * hour), now: 10*hour - ns, state: Active, changes: 10 * hour},
		"at its expiry, while fresh":                       {v: expires(10 * hour), now: 10 * hour, state: Locked, reason: ErrExpired, changes: never},
		"after its expiry, while fresh":                    {v: expires(10 * hour), now: 11 * hour, state: Locked, reason: ErrExpired, changes: never},
		"before its expiry, which ends grace early":        {v: expires(3 * days), now: 3*days - ns, state: Grace, reason: ErrUnreachable, changes: 3 * days},
		"at its expiry, in grace":                          {v: expires(3 * days), now: 3 * days, state: Locked, reason: ErrExpired, changes: never},
		"expiry with the end of fresh leaves no grace":     {v: expires(days), now: days, state: Locked, reason: ErrExpired, changes: never},
		"expiry with the end of grace is expiry":           {v: expires(14 * days), now: 14 * days, state: Locked, reason: ErrExpired, changes: never},
		"expiry after grace changes nothing in grace":      {v: expires(20 * days), now: 14*days - ns, state: Grace, reason: ErrUnreachable, changes: 14 * days},
		"expiry after grace: grace ended":                  {v: expires(20 * days), now: 14 * days, state: Locked, reason: ErrGraceEnded, changes: never},
		"expiry after grace, and past":                     {v: expires(20 * days), now: 21 * days, state: Locked, reason: ErrExpired, changes: never},
		"granted and expired by our clock from the outset": {v: expires(-hour), now: 0, state: Locked, reason: ErrExpired, changes: never},

		"Polar's clock two hours ahead: before expiry":  {v: skewed(2 * hour), now: 8*hour - ns, state: Active, changes: 8 * hour},
		"Polar's clock two hours ahead: at expiry":      {v: skewed(2 * hour), now: 8 * hour, state: Locked, reason: ErrExpired, changes: never},
		"Polar's clock two hours behind: before expiry": {v: skewed(-2 * hour), now: 12*hour - ns, state: Active, changes: 12 * hour},
		"Polar's clock two hours behind: at expiry":     {v: skewed(-2 * hour), now: 12 * hour, state: Locked, reason: ErrExpired, changes: never},
		"our clock ten years slow": {
			v:   with(func(v *verdict) { v.ExpiresAt, v.Skew = noon.Add(3650*days+hour), 3650*days }),
			now: hour, state: Locked, reason: ErrExpired, changes: never,
		},
		"our clock ten years slow, before expiry": {
			v:   with(func(v *verdict) { v.ExpiresAt, v.Skew = noon.Add(3650*days+hour), 3650*days }),
			now: hour - ns, state: Active, changes: hour,
		},

		"set back by 59m59s, fresh as of the mark":           {v: marked(10 * hour), now: 9*hour + time.Second, state: Active, changes: days},
		"set back by an hour to the nanosecond":              {v: marked(10 * hour), now: 9 * hour, state: Active, changes: days},
		"set back by an hour and a nanosecond":               {v: marked(10 * hour), now: 9*hour - ns, state: Locked, reason: ErrClockSetBack, changes: 9 * hour},
		"set back by an hour and a second":                   {v: marked(10 * hour), now: 9*hour - time.Second, state: Locked, reason: ErrClockSetBack, changes: 9 * hour},
		"set back by ten years":                              {v: marked(10 * hour), now: -3650 * days, state: Locked, reason: ErrClockSetBack, changes: 9 * hour},
		"at the mark":                                        {v: marked(10 * hour), now: 10 * hour, state: Active, changes: days},
		"set back into fresh: in grace as of the mark":       {v: marked(days), now: days - 59*time.Minute - 59*time.Second, state: Grace, reason: ErrUnreachable, changes: 14 * days},
		"set back into fresh by a nanosecond":                {v: marked(days), now: days - ns, state: Grace, reason: ErrUnreachable, changes: 14 * days},
		"set back into fresh by too much":                    {v: marked(days), now: days - hour - ns, state: Locked, reason: ErrClockSetBack, changes: days - hour},
		"set back into grace: ended as of the mark":          {v: marked(14 * days), now: 14*days - hour, state: Locked, reason: ErrGraceEnded, changes: never},
		"set back before expiry: expired as of the mark":     {v: with(func(v *verdict) { v.ExpiresAt, v.HighWater = noon.Add(hour), noon.Add(hour) }), now: hour / 2, state: Locked, reason: ErrExpired, changes: never},
		"set back far before expiry":                         {v: with(func(v *verdict) { v.ExpiresAt, v.HighWater = noon.Add(hour), noon.Add(3*hour) }), now: hour / 2, state: Locked, reason: ErrClockSetBack, changes: 2 * hour},
		"checked in the future: an hour and a nanosecond":    {v: granted, now: -hour - ns, state: Locked, reason: ErrClockSetBack, changes: -hour},
		"checked in the future: an hour":                     {v: granted, now: -hour, state: Active, changes: days},
		"checked a year in the future":                       {v: granted, now: -365 * days, state: Locked, reason: ErrClockSetBack, changes: -hour},
		"without a mark, as if written before there was one": {v: with(func(v *verdict) { v.HighWater = time.Time{} }), now: hour, state: Active, changes: days},
		"checked in the future, with the mark lost":          {v: with(func(v *verdict) { v.HighWater = time.Time{} }), now: -365 * days, state: Locked, reason: ErrClockSetBack, changes: -hour},
		"checked in the future, with a mark before it":       {v: marked(-365 * days), now: -364 * days, state: Locked, reason: ErrClockSetBack, changes: -hour},

		"refused just now":                         {v: refused(ErrInactive), now: 0, state: Locked, reason: ErrInactive, changes: never},
		"refused, and the network cut afterwards":  {v: refused(ErrSeatReleased), now: 7 * days, state: Locked, reason: ErrSeatReleased, changes: never},
		"refused, in what would be the last grace": {v: refused(ErrUnknownKey), now: 14*days - ns, state: Locked, reason: ErrUnknownKey, changes: never},
		"refused a century ago":                    {v: refused(ErrDenied), now: 36500 * days, state: Locked, reason: ErrDenied, changes: never},
		"refused, with an expiry that is to come":  {v: with(func(v *verdict) { v.Refused, v.ExpiresAt = ErrInactive, noon.Add(days) }), now: 0, state: Locked, reason: ErrInactive, changes: never},
		"refused, then asked in vain":              {v: with(func(v *verdict) { v.Refused, v.LastFailure = ErrInactive, ErrUnreachable }), now: hour, state: Locked, reason: ErrInactive, changes: never},
		"refused, and the clock set back a little": {v: refused(ErrInactive), now: -hour, state: Locked, reason: ErrInactive, changes: never},
		"refused, and the clock set back too far":  {v: refused(ErrInactive), now: -hour - ns, state: Locked, reason: ErrClockSetBack, changes: -hour},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			fresh, grace := c.fresh, c.grace
			if fresh == 0 {
				fresh = days
			}
			if grace == 0 {
				grace = 14 * days
			}
			v := c.v
			got := evaluate(&v, noon.Add(c.now), fresh, grace)
			assert.Equal(t, c.state, got.state)
			assert.Equal(t, c.reason, got.reason)
			if c.changes == never {
				assert.True(t, got.changes.IsZero(), "it does not end by itself, but does at %v", got.changes)
			} else {
				assert.Equal(t, noon.Add(c.changes), got.changes)
			}
			assert.Equal(t, c.v, v, "standing changes nothing")
		})
	}
}

func TestHowLongAVerdictIsBelieved(t *testing.T) {
	t.Parallel()
	granted := verdict{CheckedAt: noon, HighWater: noon}
	s := evaluate(&granted, noon, days, 14*days)
	assert.Equal(t, noon.Add(days), s.freshUntil)
	assert.Equal(t, noon.Add(14*days), s.graceUntil)

	s = evaluate(&granted, noon, days, -1)
	assert.Equal(t, noon.Add(days), s.graceUntil, "no grace beyond fresh")

	expiring := granted
	expiring.ExpiresAt = noon.Add(hour)
	s = evaluate(&expiring, noon, days, 14*days)
	assert.Equal(t, noon.Add(hour), s.freshUntil)
	assert.Equal(t, noon.Add(hour), s.graceUntil)

	refused := granted
	refused.Refused = ErrInactive
	s = evaluate(&refused, noon, days, 14*days)
	assert.Equal(t, noon.Add(refusalFresh), s.freshUntil, "who has just renewed is in a hurry")
	assert.True(t, s.graceUntil.IsZero())
	s = evaluate(&refused, noon, time.Second, 14*days)
	assert.Equal(t, noon.Add(time.Second), s.freshUntil, "never longer than a grant would be")

	s = evaluate(&granted, noon.Add(-2*hour), days, 14*days)
	assert.True(t, s.freshUntil.IsZero(), "with the clock set back Polar is asked at once")
	assert.True(t, s.graceUntil.IsZero())
}

func TestEachOutcomeTurnsTheLastVerdictIntoTheNext(t *testing.T) {
	t.Parallel()
	granted := func(answered time.Duration) *LicenseKey {
		return &LicenseKey{BenefitID: "b", answeredAt: noon.Add(answered)}
	}
	paused := &Error{Reason: ErrRateLimited, RetryAfter: 11 * time.Minute}
	for name, c := range map[string]struct {
		last    verdict
		license *LicenseKey
		err     error
		now     time.Duration
		want    verdict
	}{
		"asked in vain: the mark moves, the check does not": {
			verdict{Serial: 1, CheckedAt: noon, HighWater: noon}, nil, &Error{Reason: ErrUnreachable}, 3 * days,
			verdict{Serial: 1, CheckedAt: noon, HighWater: noon.Add(3 * days), Failures: 1, LastFailure: ErrUnreachable, NextTry: noon.Add(3*days + vainFresh)},
		},
		"asked in vain while fresh: the next try is later": {
			verdict{Serial: 1, CheckedAt: noon, HighWater: noon}, nil, &Error{Reason: ErrUnreachable}, hour,
			verdict{Serial: 1, CheckedAt: noon, HighWater: noon.Add(hour), Failures: 1, LastFailure: ErrUnreachable, NextTry: noon.Add(hour + renewPause)},
		},
		"asked in vain by a clock set back: the mark stays": {
			verdict{Serial: 1, CheckedAt: noon, HighWater: noon.Add(5 * days)}, nil, &Error{Reason: ErrUnreachable}, 3 * days,
			verdict{Serial: 1, CheckedAt: noon, HighWater: noon.Add(5 * days), Failures: 1, LastFailure: ErrUnreachable, NextTry: noon.Add(3*days + vainFresh)},
		},
		"asked for a pause: not before it is over": {
			verdict{Serial: 1, CheckedAt: noon, HighWater: noon}, nil, paused, 3 * days,
			verdict{Serial: 1, CheckedAt: noon, HighWater: noon.Add(3 * days), Failures: 1, LastFailure: ErrRateLimited, NextTry: noon.Add(3*days + 11*time.Minute)},
		},
		"granted: a mark from the future is mended": {
			verdict{Serial: 4, CheckedAt: noon, HighWater: noon.Add(300 * days)}, granted(hour), nil, hour,
			verdict{Serial: 5, CheckedAt: noon.Add(hour), HighWater: noon.Add(hour), BenefitID: "b", Grant: &grant{At: noon.Add(hour)}},
		},
		"granted by a clock that is ahead of ours": {
			verdict{Serial: 1, CheckedAt: noon, HighWater: noon}, granted(2 * hour), nil, hour,
			verdict{Serial: 2, CheckedAt: noon.Add(hour), HighWater: noon.Add(hour), BenefitID: "b", Skew: hour, Grant: &grant{At: noon.Add(2 * hour)}},
		},
		"granted by a clock that is a moment behind ours": {
			verdict{Serial: 1, CheckedAt: noon, HighWater: noon}, granted(hour - maxSkew), nil, hour,
			verdict{Serial: 2, CheckedAt: noon.Add(hour), HighWater: noon.Add(hour), BenefitID: "b", Grant: &grant{At: noon.Add(hour)}},
		},
		"refused: what was known of the key stays, and the mark is mended": {
			verdict{Serial: 1, CheckedAt: noon, HighWater: noon.Add(300 * days), BenefitID: "b", ExpiresAt: noon.Add(days), Skew: hour}, nil, &Error{Reason: ErrInactive}, hour,
			verdict{Serial: 2, Refused: ErrInactive, CheckedAt: noon.Add(hour), HighWater: noon.Add(hour), BenefitID: "b", ExpiresAt: noon.Add(days), Skew: hour, Grant: &grant{At: noon.Add(hour), Ends: noon.Add(days), Dated: true}},
		},
		"granted after a refusal": {
			verdict{Serial: 1, Refused: ErrInactive, CheckedAt: noon, HighWater: noon, ExpiresAt: noon.Add(days)}, granted(hour), nil, hour,
			verdict{Serial: 2, CheckedAt: noon.Add(hour), HighWater: noon.Add(hour), BenefitID: "b", Grant: &grant{At: noon.Add(hour)}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			last := c.last
			got := nextVerdict(&last, c.license, c.err, noon.Add(c.now), days)
			require.NotNil(t, got)
			assert.Equal(t, c.want, *got)
			assert.Equal(t, c.last, last, "the last one is left as it was")
		})
	}
	assert.Nil(t, nextVerdict(nil, nil, &Error{Reason: ErrUnreachable}, noon, days), "nothing comes of nothing")
}

func TestAnOutageOfBeforeTheClockWasSetBackIsNotBelieved(t *testing.T) {
	t.Parallel()
	v := verdict{CheckedAt: noon, HighWater: noon.Add(hour), NextTry: noon.Add(hour + vainFresh)}
	assert.True(t, v.backingOff(noon.Add(hour)))
	assert.False(t, v.backingOff(noon.Add(hour+vainFresh)), "it is over")
	assert.False(t, v.backingOff(noon.Add(hour-1)), "the clock was set back")
	v.NextTry = noon.Add(hour + maxPause + 1)
	assert.False(t, v.backingOff(noon.Add(hour)), "no pause is as long as that")
}

func TestTheCountAndNotTheClockTellsWhichAnswerCameLater(t *testing.T) {
	t.Parallel()
	first := &verdict{Serial: 1, CheckedAt: noon.Add(300 * days), HighWater: noon.Add(300 * days)}
	second := &verdict{Serial: 2, CheckedAt: noon, HighWater: noon}
	assert.True(t, second.newer(first), "the clock was put right in between")
	assert.False(t, first.newer(second))
	marked := *second
	marked.HighWater = noon.Add(hour)
	assert.True(t, marked.newer(second), "of one answer, what was seen of the time last")
	assert.False(t, second.newer(&marked))
	failed := *second
	failed.Failures = 1
	assert.True(t, failed.newer(second), "of one answer, at one time, the one with more failures")
	assert.False(t, second.newer(&failed))
	assert.True(t, first.newer(nil))
	assert.False(t, (*verdict)(nil).newer(first))
	assert.False(t, (*verdict)(nil).newer(nil))
}

func TestAFailureNeverMakesAnOldAnswerLookNewer(t *testing.T) {
	t.Parallel()
	granted := &verdict{Serial: 1, CheckedAt: noon, HighWater: noon}
	here := granted // this process can't reach Polar, again and again
	for i := range 5 {
		here = nextVerdict(here, nil, &Error{Reason: ErrUnreachable}, noon.Add(time.Duration(i+1)*time.Minute), days)
	}
	there := nextVerdict(granted, nil, &Error{Reason: ErrInactive}, noon.Add(time.Second), days) // another one was refused
	assert.True(t, there.newer(here), "the refusal counts, although it is older than the failures")
	assert.False(t, here.newer(there))
}

func TestAMarkIsNotMovedBackWithTheClock(t *testing.T) {
	t.Parallel()
	rec := record{verdict: &verdict{CheckedAt: noon, HighWater: noon.Add(hour)}}
	before := rec.verdict
	assert.False(t, rec.noteTime(noon))
	assert.False(t, rec.noteTime(noon.Add(hour)))
	assert.Same(t, before, rec.verdict)
	assert.True(t, rec.noteTime(noon.Add(2*hour)))
	assert.Equal(t, noon.Add(2*hour), rec.verdict.HighWater)
	assert.Equal(t, noon.Add(hour), before.HighWater, "what others hold does not change")
	assert.False(t, new(record).noteTime(noon))
}

// randomVerdict is one that nextVerdict could have made, with a mark that was
// seen at or after it.
func randomVerdict(r *rand.Rand) verdict {
	v := verdict{CheckedAt: noon}
	v.HighWater = noon.Add(time.Duration(r.Int64N(int64(20 * days))))
	switch r.IntN(4) {
	case 0:
		v.HighWater = noon
	case 1:
		v.HighWater = noon.Add(days + time.Duration(r.IntN(3)-1))
	}
	if r.IntN(2) == 0 {
		v.ExpiresAt = noon.Add(time.Duration(r.Int64N(int64(20*days))) - days)
		if r.IntN(2) == 0 {
			v.Skew = time.Duration(r.Int64N(int64(10*days))) - 5*days
		}
	}
	if r.IntN(8) == 0 {
		v.Refused = ErrInactive
	}
	if r.IntN(3) == 0 {
		v.LastFailure = ErrRateLimited
	}
	return v
}

func randomPeriods(r *rand.Rand) (fresh, grace time.Duration) {
	return 1 + time.Duration(r.Int64N(int64(2*days))), time.Duration(r.Int64N(int64(16*days))) - days
}

// rank orders standings by how much they allow.
func rank(s validity) int {
	switch s.state {
	case Active:
		return 2
	case Grace:
		return 1
	}
	return 0
}

func TestAClockSetBackNeverAllowsMoreThanTheTrueTime(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(1, 2))
	allowed := 0
	for range 200_000 {
		v := randomVerdict(r)
		fresh, grace := randomPeriods(r)
		// The last time that was seen is the true time; then the clock is set.
		truth := v.HighWater
		back := time.Duration(r.Int64N(int64(3 * hour)))
		switch r.IntN(4) {
		case 0:
			back = hour + time.Duration(r.IntN(5)-2)
		case 1:
			back = time.Duration(r.Int64N(int64(40 * days)))
		}
		shown := truth.Add(-back)
		with, without := evaluate(&v, shown, fresh, grace), evaluate(&v, truth, fresh, grace)
		if rank(with) > rank(without) {
			t.Fatalf("%+v with fresh %v and grace %v: %v at %v, but %v when set back by %v", v, fresh, grace, without.state, truth, with.state, back)
		}
		if back > hour && rank(with) > 0 {
			t.Fatalf("%+v: %v although set back by %v", v, with.state, back)
		}
		if back <= hour && rank(with) != rank(without) {
			t.Fatalf("%+v: an hour or less must not alarm, but %v became %v for %v", v, without.state, with.state, back)
		}
		if rank(with) > 0 {
			allowed++
		}
	}
	assert.Greater(t, allowed, 1000, "the property was not tried on licenses that run")
}

func TestAVerdictFollowsAClockThatWasADayAheadAndNoFurther(t *testing.T) {
	t.Parallel()
	granted := verdict{Serial: 3, CheckedAt: noon, HighWater: noon, ExpiresAt: noon.Add(20 * days)}
	with := func(change func(*verdict)) verdict { v := granted; change(&v); return v }
	marked := func(d time.Duration) verdict { return with(func(v *verdict) { v.HighWater = noon.Add(d) }) }
	for name, c := range map[string]struct {
		v     verdict
		now   time.Duration
		moved time.Duration // 0: it is left as it was
	}{
		"at the mark":                            {marked(2 * days), 2 * days, 0},
		"after it":                               {marked(2 * days), 3 * days, 0},
		"an hour behind, which is no alarm":      {marked(2 * days), 2*days - hour, 0},
		"more than an hour behind":               {marked(2 * days), 2*days - hour - ns, hour + ns},
		"a day behind":                           {marked(2 * days), days, days},
		"a day behind, at Polar's own time":      {marked(days), 0, days},
		"a day and two hours behind":             {marked(5 * days), 4*days - 2*hour, 26 * hour},
		"more than that behind":                  {marked(5 * days), 4*days - 2*hour - ns, 0},
		"an hour before Polar's own time":        {marked(hour), -hour, 2 * hour},
		"further before Polar's own time":        {marked(hour), -hour - ns, 0},
		"refused":                                {with(func(v *verdict) { v.Refused, v.HighWater = ErrInactive, noon.Add(days) }), 0, 0},
		"ten days ahead, as Polar's clock told":  {with(func(v *verdict) { v.Skew = -10 * days }), -10 * days, 10 * days},
		"ten days ahead, and then used a while":  {with(func(v *verdict) { v.Skew, v.HighWater = -10*days, noon.Add(3*days) }), -7 * days, 10 * days},
		"ten days ahead, and put back too far":   {with(func(v *verdict) { v.Skew = -10 * days }), -10*days - hour - ns, 0},
		"ten days behind, as Polar's clock told": {with(func(v *verdict) { v.Skew = 10 * days }), -2 * hour, 0},
		"a skew as negative as can be":           {with(func(v *verdict) { v.Skew = math.MinInt64 }), -30 * days, 0},
		"a skew as great as can be":              {with(func(v *verdict) { v.Skew, v.HighWater = math.MaxInt64, noon.Add(days) }), 0, 0},
		"without a mark":                         {with(func(v *verdict) { v.HighWater, v.Skew = time.Time{}, -days }), -2 * hour, 2 * hour},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			v := c.v
			got := v.follow(noon.Add(c.now))
			assert.Equal(t, c.v, v, "what others hold does not change")
			if c.moved == 0 {
				assert.Same(t, &v, got)
				return
			}
			assert.Equal(t, v.CheckedAt.Add(-c.moved), got.CheckedAt)
			assert.Equal(t, noon.Add(c.now), got.HighWater)
			assert.True(t, got.answered().Equal(v.answered()), "by Polar's clock it stays where it was")
			assert.False(t, got.replaced(&v), "it is the same answer")
			assert.False(t, got.since(&v))
			assert.True(t, v.newer(got) && got.newer(&v))
			assert.Same(t, got, got.follow(noon.Add(c.now)))
		})
	}
	paused := with(func(v *verdict) { v.HighWater, v.NextTry = noon.Add(days), noon.Add(days+time.Minute) })
	moved := paused.follow(noon.Add(hour))
	assert.False(t, moved.backingOff(noon.Add(hour)), "an outage of before is not believed")
	assert.False(t, moved.since(&paused))
}

// However its user sets the clock, and however often, a program runs offline for no
// longer than the grace period and, for each time that it is set, the hour by which it
// may be wrong without alarm and the hour in which the mark is not stored; nor past the
// key's expiry.
func TestNoSequenceOfSetClocksRunsLongerThanGrace(t *testing.T) {
	t.Parallel()
	const grace, step = 5 * days, 20 * time.Minute
	r := rand.New(rand.NewPCG(7, 8))
	followed, ended := 0, 0
	for range 400 {
		v := &verdict{CheckedAt: noon, HighWater: noon}
		limit := grace
		if r.IntN(2) == 0 {
			limit = time.Duration(1+r.IntN(100)) * hour
			v.ExpiresAt = noon.Add(limit)
		}
		if r.IntN(2) == 0 { // Polar's clock and this one differ
			v.Skew = time.Duration(r.IntN(20)-10) * days
			v.ExpiresAt = v.ExpiresAt.Add(v.Skew)
			if limit == grace {
				v.ExpiresAt = time.Time{}
			}
		}
		rec := record{verdict: v}
		now, ran := noon, time.Duration(0)
		often := 1 + r.IntN(70)
		greedy := r.IntN(2) == 0 // to where it began, again and again
		for i := range 2000 {
			if i%often == often-1 {
				set := time.Duration(r.IntN(60)-30) * hour
				if greedy {
					set = -time.Duration(often) * step
				}
				now = now.Add(set)
				limit += 2 * hour
			}
			now = now.Add(step)
			if moved := rec.verdict.follow(now); moved != rec.verdict {
				rec.verdict = moved
				followed++
			}
			if now.Sub(rec.verdict.HighWater) >= clockSlack {
				rec.noteTime(now)
			}
			if s := evaluate(rec.verdict, now, days, grace); rank(s) > 0 {
				ran += step
			} else if s.reason != ErrClockSetBack {
				ended++
			}
		}
		if ran > limit+hour {
			t.Fatalf("ran for %v, and may for %v", ran, limit)
		}
	}
	assert.Greater(t, followed, 1000)
	assert.Greater(t, ended, 1000)
}

func TestAsTimePassesALicenseOnlyLosesAccess(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(3, 4))
	for range 100_000 {
		v := randomVerdict(r)
		fresh, grace := randomPeriods(r)
		a := v.HighWater.Add(time.Duration(r.Int64N(int64(20 * days))))
		b := a.Add(time.Duration(r.Int64N(int64(20 * days))))
		before, after := evaluate(&v, a, fresh, grace), evaluate(&v, b, fresh, grace)
		if rank(after) > rank(before) {
			t.Fatalf("%+v with fresh %v and grace %v: %v at %v, %v at %v", v, fresh, grace, before.state, a, after.state, b)
		}
		if end := v.CheckedAt.Add(max(fresh, grace)); !b.Before(end) && rank(after) > 0 {
			t.Fatalf("%+v: %v at %v, after the end of all grace at %v", v, after.state, b, end)
		}
		if v.Refused != "" && rank(before) > 0 {
			t.Fatalf("%+v: refused, and %v", v, before.state)
		}
	}
}

func TestAValidityChangesWhenItSaysSoAndNotBefore(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(5, 6))
	tried := 0
	for range 100_000 {
		v := randomVerdict(r)
		fresh, grace := randomPeriods(r)
		now := v.HighWater.Add(time.Duration(r.Int64N(int64(20*days))) - 3*hour)
		s := evaluate(&v, now, fresh, grace)
		if s.changes.IsZero() {
			continue
		}
		tried++
		if !s.changes.After(now) {
			t.Fatalf("%+v: %v at %v changes in the past, at %v", v, s.state, now, s.changes)
		}
		if last := evaluate(&v, s.changes.Add(-ns), fresh, grace); last.state != s.state || last.reason != s.reason {
			t.Fatalf("%+v: %v at %v is %v before it changes", v, s.state, now, last.state)
		}
		if next := evaluate(&v, s.changes, fresh, grace); next.state == s.state && next.reason == s.reason {
			t.Fatalf("%+v: %v at %v is the same after it changed at %v", v, s.state, now, s.changes)
		}
	}
	assert.Greater(t, tried, 1000)
}

// answers is a Polar that gives one answer to everything, and counts.
type answers struct {
	status int
	body   string
	asked  atomic.Int32
}

func (a *answers) RoundTrip(r *http.Request) (*http.Response, error) {
	a.asked.Add(1)
	return &http.Response{
		StatusCode: a.status, Header: http.Header{"Content-Type": {"application/json"}},
		Body: io.NopCloser(strings.NewReader(a.body)), Request: r,
	}, nil
}

// A clock that was ahead and has been put right must not keep a renewed license
// locked: a refusal is believed for seconds, not until the clock has caught up.
func TestARefusalIsNotBelievedLongerForAClockThatWasPutRight(t *testing.T) {
	t.Parallel()
	for _, back := range []time.Duration{time.Minute, 30 * time.Minute, hour} {
		t.Run(back.String(), func(t *testing.T) {
			t.Parallel()
			for name, fromMemory := range map[string]bool{"by a running program": true, "by one that starts": false} {
				t.Run(name, func(t *testing.T) {
					t.Parallel()
					polar := &answers{status: 200, body: fullLicense}
					store := &MemoryStore{}
					config := Config{
						OrganizationID: testOrganization, Fingerprint: "here", Store: store,
						BaseURL:    "http://" + strings.ReplaceAll(t.Name(), "/", "-") + ".invalid",
						HTTPClient: &http.Client{Transport: polar},
					}
					gate, err := Open(config)
					require.NoError(t, err)
					defer func() { _ = gate.Close() }()
					var ahead atomic.Int64
					ahead.Store(int64(back))
					gate.now = func() time.Time { return fullLicenseAt.Add(time.Duration(ahead.Load())) }
					refusedAt := gate.now()
					require.NoError(t, gate.save(t.Context(), record{
						state:   state{InstallationID: "i", Seat: &seat{Key: "ACME-TEST-OK-000001", Machine: "here"}},
						verdict: &verdict{Refused: ErrInactive, CheckedAt: refusedAt, HighWater: refusedAt},
					}, FromDisk))
					if fromMemory {
						_, err = gate.Check(t.Context())
						require.ErrorIs(t, err, ErrInactive)
						require.Zero(t, polar.asked.Load(), "refused a moment ago")
					}

					// The license is renewed, the clock put right, and half a
					// minute passes.
					ahead.Store(int64(refusalFresh) * 2)
					status, err := gate.Check(t.Context())
					require.NoError(t, err)
					assert.Equal(t, Active, status.State)
					assert.NotZero(t, polar.asked.Load())
				})
			}
		})
	}
}

// The program that wrote testdata/state; see its README.
const (
	vectorOrganization = "34f57e13-8bcb-4481-85b2-a4b55c4ba0b9"
	vectorApp          = "inkwell"
	vectorSecret       = "a secret of the program"
	vectorMachine      = "3f2e1d0c4b5a69788796a5b4c3d2e1f0"
	vectorName         = "license-bd198d4cba63.sealed"
)

func TestAnActivationRemembersTheLastFourKeysThatPolarReplaced(t *testing.T) {
	t.Parallel()
	s := seat{Lease: &seatLease{}}
	s.rename("a") // it came in a file
	assert.Equal(t, "a", s.Key)
	assert.Empty(t, s.Former)
	s.rename("a")
	assert.Empty(t, s.Former)
	for _, key := range []string{"b", "c", "d", "e", "f"} {
		s.rename(key)
	}
	assert.Equal(t, []string{"e", "d", "c", "b"}, s.Former)
	s.rename("d")
	assert.Equal(t, "d", s.Key)
	assert.Equal(t, []string{"f", "e", "c", "b"}, s.Former)
	assert.True(t, s.has(newKey("c")))
	assert.False(t, s.has(newKey("a")))
	assert.False(t, (*seat)(nil).has(newKey("a")))
}
