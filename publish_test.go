package polargate

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/polargate/polargate/polartest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestAMinuteInWhichNothingChangesBuildsNoStatus(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		polar := polartest.New(polartest.Config{Unlimited: true})
		key := polar.AddKey(polartest.LicenseKey{LimitActivations: polartest.Limit(1)})
		gate := openGate(t, polar, func(c *Config) { c.Features = withExport(key) })
		_, err := gate.Activate(t.Context(), key.Key)
		require.NoError(t, err)
		built := gate.current.Load()
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		assert.Same(t, built, gate.current.Load())
		time.Sleep(24 * time.Hour)
		synctest.Wait()
		assert.NotSame(t, built, gate.current.Load())
		assert.Equal(t, Grace, gate.Status().State)
	})
}

func TestTheStatusOfARecordDependsOnNothingElse(t *testing.T) {
	t.Parallel()
	config := Config{App: "inkwell", Features: map[string][]string{"benefit": {"export"}}}.withDefaults()
	full := errors.New("the disk is full")
	limit := int64(5)
	doubt := &intent{AttemptID: "attempt", Key: "KEY", At: noon}
	license := func(change func(*record)) record {
		rec := holding(seatHere)
		rec.verdict.BenefitID = "benefit"
		if change != nil {
			change(&rec)
		}
		return rec
	}
	type told struct {
		state   State
		reason  Reason
		has     bool
		unsaved bool
		inDoubt bool
		pending bool
	}
	for name, c := range map[string]struct {
		rec    record
		after  time.Duration
		around circumstances
		want   told
	}{
		"fresh":                        {license(nil), time.Hour, circumstances{}, told{state: Active, has: true}},
		"no longer fresh":              {license(nil), 25 * time.Hour, circumstances{}, told{state: Grace, reason: ErrUnreachable, has: true}},
		"grace is over":                {license(nil), 1000 * time.Hour, circumstances{}, told{state: Locked, reason: ErrGraceEnded}},
		"refused":                      {license(func(r *record) { r.verdict.Refused = ErrInactive }), 0, circumstances{}, told{state: Locked, reason: ErrInactive}},
		"of another benefit":           {license(func(r *record) { r.verdict.BenefitID = "other" }), 0, circumstances{}, told{state: Locked, reason: ErrWrongBenefit}},
		"without an answer":            {license(func(r *record) { r.verdict = nil }), 0, circumstances{}, told{state: Locked, reason: ErrUnreachable}},
		"not stored":                   {license(nil), 0, circumstances{unsaved: full}, told{state: Active, has: true, unsaved: true}},
		"with a release that waits":    {license(func(r *record) { r.state.Outbox = []seat{seatThere} }), 0, circumstances{}, told{state: Active, has: true, pending: true}},
		"with a doubt":                 {license(func(r *record) { r.state.Intent = doubt }), 0, circumstances{}, told{state: Active, has: true, inDoubt: true}},
		"with an attempt under way":    {license(func(r *record) { r.state.Intent = doubt }), 0, circumstances{underWay: "attempt"}, told{state: Active, has: true}},
		"nothing":                      {record{}, 0, circumstances{}, told{state: Unlicensed, reason: ErrNoLicense}},
		"nothing but a doubt":          {record{state: state{Intent: doubt}}, 0, circumstances{}, told{state: Unlicensed, reason: ErrInDoubt, inDoubt: true}},
		"nothing but an old doubt":     {record{state: state{Intent: doubt}}, 31 * 24 * time.Hour, circumstances{}, told{state: Unlicensed, reason: ErrNoLicense}},
		"nothing that can be read":     {record{trouble: ErrUnreadableState}, 0, circumstances{}, told{state: Unlicensed, reason: ErrUnreadableState}},
		"the license of another":       {record{others: []seat{seatThere}}, 0, circumstances{}, told{state: Locked, reason: ErrOtherMachine}},
		"the same, removed on purpose": {record{state: state{Left: true}, others: []seat{seatThere}}, 0, circumstances{}, told{state: Unlicensed, reason: ErrNoLicense}},
	} {
		now := noon.Add(c.after)
		got := statusOf(&c.rec, now, &config, c.around)
		_, has := got.features["export"]
		s := got.status
		assert.Equal(t, c.want, told{s.State, s.Reason, has, s.Unsaved, s.InDoubt, s.ReleasePending}, name)
		assert.Equal(t, has, s.Has("export"), name)
		assert.NotEmpty(t, s.Message, name)
		assert.Equal(t, got, statusOf(&c.rec, now, &config, c.around), "%s: the same from the same", name)
	}
	limited := license(func(r *record) { r.verdict.Usage, r.verdict.LimitUsage = 2, &limit })
	status := statusOf(&limited, noon, &config, circumstances{source: FromDisk}).status
	assert.Equal(t, []any{int64(2), int64(5), FromDisk, noon}, []any{status.Usage, status.LimitUsage, status.Source, status.CheckedAt})
}

func TestASnapshotIsReplacedOnlyByOneThatTellsSomethingElse(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		polar := polartest.New(polartest.Config{})
		key := polar.AddKey(polartest.LicenseKey{LimitActivations: polartest.Limit(1)})
		gate := openGate(t, polar, nil)
		_, err := gate.Activate(t.Context(), key.Key)
		require.NoError(t, err)
		_, err = gate.Check(t.Context())
		require.NoError(t, err)
		before := gate.current.Load()
		for range 5 {
			time.Sleep(10 * time.Minute)
			_, err = gate.Check(t.Context())
			require.NoError(t, err)
			gate.update(func() bool { return true })
			assert.Same(t, before, gate.current.Load())
		}
		polar.Revoke(key.ID)
		_, err = gate.Refresh(t.Context())
		require.ErrorIs(t, err, ErrInactive)
		assert.NotSame(t, before, gate.current.Load())
	})
}
