package polargate

import (
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
)

var (
	seatHere  = seat{Key: "KEY", ActivationID: "a", Machine: "here"}
	seatThere = seat{Key: "KEY", ActivationID: "b", Machine: "there"}
	granted   = &LicenseKey{BenefitID: "benefit"}
	theRules  = rules{fresh: time.Hour, here: "here", accepts: func(benefitID string) bool { return benefitID == "benefit" }}
)

func holding(s seat, outbox ...seat) record {
	return record{state: state{InstallationID: "i", Seat: &s, Outbox: outbox}, verdict: &verdict{Serial: 7, CheckedAt: noon, HighWater: noon}}
}

func TestAnAnswerJudgesAnActivationOfBefore(t *testing.T) {
	t.Parallel()
	other := &LicenseKey{BenefitID: "another"}
	unreachable := &Error{Reason: ErrUnreachable}
	for name, c := range map[string]struct {
		of      candidate
		license *LicenseKey
		err     error
		want    finding
	}{
		"granted here":                               {candidate{seat: seatHere, same: true, current: true}, granted, nil, foundGood},
		"granted here, from the outbox":              {candidate{seat: seatHere, same: true}, granted, nil, foundGood},
		"granted here, under a new key":              {candidate{seat: seatHere}, granted, nil, foundGood},
		"granted elsewhere, under a new key":         {candidate{seat: seatThere}, granted, nil, foundElsewhere},
		"granted, of another benefit":                {candidate{seat: seatHere, same: true, current: true}, other, nil, foundForeign},
		"the one at hand is released":                {candidate{seat: seatHere, same: true, current: true}, nil, &Error{Reason: ErrSeatReleased}, foundReleasedHere},
		"one that waits is released":                 {candidate{seat: seatHere, same: true}, nil, &Error{Reason: ErrSeatReleased}, foundReleased},
		"not of this key":                            {candidate{seat: seatHere, current: true}, nil, &Error{Reason: ErrSeatReleased}, foundAnother},
		"under other conditions":                     {candidate{seat: seatHere, same: true, current: true}, nil, &Error{Reason: ErrConditionsMismatch}, foundAnother},
		"refused for good":                           {candidate{seat: seatHere, same: true, current: true}, nil, &Error{Reason: ErrInactive}, foundRefused},
		"refused, and the key could not be asked of": {candidate{seat: seatHere}, nil, &Error{Reason: ErrDenied, Err: unreachable}, foundOnlyThis},
		"nobody answered":                            {candidate{seat: seatHere, same: true, current: true}, nil, unreachable, foundUnclear},
	} {
		assert.Equal(t, c.want, judge(c.of, c.license, c.err, theRules), name)
	}
}

func TestCandidatesAreTheActivationsOfBeforeThatMayDoForAKey(t *testing.T) {
	t.Parallel()
	key := newKey("KEY")
	old := seat{Key: "OLD", ActivationID: "c", Machine: "here"}
	oldThere := seat{Key: "OLD", ActivationID: "d", Machine: "there"}
	ids := func(all []candidate) (ids []string) {
		for _, c := range all {
			ids = append(ids, c.seat.ActivationID)
		}
		return ids
	}
	for name, c := range map[string]struct {
		rec  record
		want []string
	}{
		"nothing":                        {record{}, nil},
		"the one at hand":                {holding(seatHere), []string{"a"}},
		"that of this key before others": {holding(old, seatHere), []string{"a", "c"}},
		"one of this key that was activated elsewhere":  {holding(seatThere), nil},
		"one of another key, elsewhere: it may be ours": {holding(oldThere), []string{"d"}},
		"a key without activations":                     {holding(seat{Key: "KEY", Machine: "here", State: seatless}), nil},
		"one that was released":                         {holding(*seatHere.is(released)), []string{"a"}},
		"one that is to be activated again":             {holding(*seatHere.is(reactivating)), nil},
		"no more than three":                            {holding(old, oldThere, old, oldThere, seatHere), []string{"a", "c", "d"}},
	} {
		assert.Equal(t, c.want, ids(candidates(c.rec, key, "here")), name)
	}
}

func TestARecordAfterAnEvent(t *testing.T) {
	t.Parallel()
	attempt := intent{AttemptID: "attempt", Key: "KEY", At: noon}
	earlier := &intent{AttemptID: "earlier", Key: "OTHER", At: noon}
	denied := &Error{Reason: ErrInactive}
	later := seat{Key: "KEY", ActivationID: "c", Machine: "here"}
	none := record{state: state{InstallationID: "i"}}
	ids := func(seats []seat) (ids []string) {
		for _, s := range seats {
			ids = append(ids, s.ActivationID)
		}
		return ids
	}
	withIntent := func(rec record, i *intent) record { rec.state.Intent = i; return rec }
	type after struct {
		seat    string // its id; "" for none
		state   seatState
		outbox  []string
		intent  string
		left    bool
		refused Reason
		trouble Reason
		effects []effect
	}
	both := []effect{storing, releasing}
	for name, c := range map[string]struct {
		rec  record
		what recordEvent
		want after
	}{
		"removed":                            {holding(seatHere), removed{}, after{"", 0, []string{"a"}, "", true, "", "", both}},
		"removed, without activations":       {holding(seat{Key: "KEY", State: seatless}), removed{}, after{"", 0, nil, "", true, "", "", both[:1]}},
		"removed, and there was nothing":     {none, removed{}, after{}},
		"begun":                              {none, begun{attempt}, after{"", 0, nil, "attempt", false, "", "", both[:1]}},
		"abandoned":                          {withIntent(none, &attempt), abandoned{}, after{"", 0, nil, "", false, "", "", both[:1]}},
		"abandoned, after an earlier doubt":  {withIntent(none, &attempt), abandoned{earlier}, after{"", 0, nil, "earlier", false, "", "", both[:1]}},
		"in doubt":                           {withIntent(holding(seatHere), &attempt), doubted{}, after{"a", activated, nil, "attempt", false, "", "", both[:1]}},
		"in doubt, in the middle of a move":  {withIntent(holding(*seatHere.is(reactivating)), &attempt), doubted{}, after{"a", released, nil, "attempt", false, ErrSeatReleased, "", both[:1]}},
		"settled":                            {withIntent(none, &attempt), settled{&later, granted}, after{"c", activated, nil, "", false, "", "", both[:1]}},
		"settled, beside another doubt":      {withIntent(none, earlier), settled{&later, granted}, after{"c", activated, nil, "earlier", false, "", "", both[:1]}},
		"settled, in the place of another":   {holding(seatHere), settled{&later, granted}, after{"c", activated, []string{"a"}, "", false, "", "", both}},
		"settled, with the one that waited":  {holding(seatHere, later), settled{&later, granted}, after{"c", activated, []string{"a"}, "", false, "", "", both}},
		"settled again":                      {holding(seatHere), settled{&seatHere, granted}, after{"a", activated, nil, "", false, "", "", both[:1]}},
		"turned down":                        {holding(seatHere), turnedDown{denied, nil}, after{"a", activated, nil, "", false, "", "", both[:1]}},
		"turned down, in a move":             {holding(*seatHere.is(reactivating)), turnedDown{denied, nil}, after{"a", reactivating, nil, "", false, ErrInactive, "", both[:1]}},
		"turned down, with one that is left": {none, turnedDown{denied, &later}, after{"", 0, []string{"c"}, "", false, "", "", both}},
		"vacating another machine":           {none, vacating{seatThere}, after{"b", reactivating, []string{"b"}, "", false, "", ErrOtherMachine, both}},
		"vacating, with one of its own":      {holding(seatHere), vacating{seatThere}, after{"a", activated, []string{"b"}, "", false, "", "", both}},
		"cleared, of the one at hand":        {holding(seatThere), cleared{seatThere}, after{"b", reactivating, nil, "", false, "", ErrOtherMachine, both[:1]}},
		"cleared, of one that waits":         {holding(seatHere, seatThere), cleared{seatThere}, after{"a", activated, nil, "", false, "", "", both[:1]}},
		"found released":                     {holding(seatHere), judged{candidate{seat: seatHere, same: true, current: true}, foundReleasedHere, nil, &Error{Reason: ErrSeatReleased}}, after{"a", released, nil, "", false, ErrSeatReleased, "", both[:1]}},
		"found refused":                      {holding(seatHere), judged{candidate{seat: seatHere, same: true, current: true}, foundRefused, nil, denied}, after{"a", activated, nil, "", false, ErrInactive, "", both[:1]}},
		"another key is refused":             {holding(seatHere), judged{candidate{seat: seatHere, current: true}, foundRefused, nil, denied}, after{"a", activated, nil, "", false, "", "", nil}},
		"nobody answers about it":            {holding(seatHere), judged{candidate{seat: seatHere, same: true, current: true}, foundUnclear, nil, &Error{Reason: ErrUnreachable}}, after{"a", activated, nil, "", false, "", "", nil}},
		"released, and one is left":          {holding(seatHere, seatThere, later), flushed{[]seat{later}, true}, after{"a", activated, []string{"c"}, "", false, "", "", both}},
		"refused":                            {holding(seatHere), answered{of: &seatHere, asked: noon, at: noon, err: denied}, after{"a", activated, nil, "", false, ErrInactive, "", both[:1]}},
		"an answer about another":            {holding(seatHere), answered{of: &seatThere, at: noon, err: denied}, after{"a", activated, nil, "", false, "", "", nil}},
		"nothing new to store":               {none, unsaved{}, after{}},
		"no event":                           {holding(seatHere), nil, after{"a", activated, nil, "", false, "", "", nil}},
	} {
		before := c.rec
		outbox := ids(before.state.Outbox)
		rec, effects := c.rec.next(c.what, noon.Add(time.Minute), theRules)
		got := after{outbox: ids(rec.state.Outbox), left: rec.state.Left, trouble: rec.trouble, effects: effects}
		if s := rec.state.Seat; s != nil {
			got.seat, got.state = s.ActivationID, s.State
		}
		if rec.state.Intent != nil {
			got.intent = rec.state.Intent.AttemptID
		}
		if rec.verdict != nil {
			got.refused = rec.verdict.Refused
		}
		assert.Equal(t, c.want, got, name)
		assert.Equal(t, before, c.rec, "%s: the record before stays as it is", name)
		assert.Equal(t, outbox, ids(before.state.Outbox), "%s: and what it holds", name)
	}
}

func TestAnAnswerThatCameAfterALaterOneChangesNothing(t *testing.T) {
	t.Parallel()
	rec := holding(seatHere)
	asked := noon.Add(-time.Minute)
	_, effects := rec.next(answered{of: &seatHere, after: nil, asked: asked, at: noon, license: granted}, noon, theRules)
	assert.Empty(t, effects)
	next, effects := rec.next(answered{of: &seatHere, after: rec.verdict, asked: asked, at: noon, license: granted}, noon, theRules)
	assert.Equal(t, []effect{storing}, effects)
	assert.Equal(t, uint64(8), next.verdict.Serial)
	late, effects := next.next(answered{of: &seatHere, after: rec.verdict, asked: noon.Add(time.Minute), at: noon.Add(2 * time.Minute), err: &Error{Reason: ErrInactive}}, noon, theRules)
	assert.Equal(t, []effect{storing}, effects, "an answer to a later question counts, though another one was stored meanwhile")
	assert.Equal(t, ErrInactive, late.verdict.Refused)
}

func TestTheProblemOfAKeyIsItsOwn(t *testing.T) {
	t.Parallel()
	cause := errors.New("no answer")
	assert.Equal(t, cause, judged{finding: foundOnlyThis, err: &Error{Reason: ErrDenied, Err: cause}}.problem())
	assert.ErrorIs(t, judged{finding: foundForeign, license: granted}.problem(), ErrWrongBenefit)
	assert.ErrorIs(t, judged{finding: foundRefused, err: &Error{Reason: ErrInactive}}.problem(), ErrInactive)
}
