package localstore

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/polargate/polargate/internal/link"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestABudgetGivesNoMoreThanItsLimitInAnyWindow(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := InMemory()
		budget := link.Budget{Name: "requests", Limit: 3, Window: time.Minute}
		take := func(units, keep int) link.Turn {
			budget.Units, budget.Keep = units, keep
			turn, err := s.Take(t.Context(), budget)
			require.NoError(t, err)
			return turn
		}
		assert.Equal(t, link.Turn{Taken: true, Left: 2}, take(0, 0), "none means one")
		time.Sleep(30 * time.Second)
		assert.Equal(t, link.Turn{Taken: true, Left: 0}, take(2, 0))
		refused := take(1, 0)
		assert.False(t, refused.Taken)
		assert.Zero(t, refused.Left)
		assert.GreaterOrEqual(t, refused.Wait, 30*time.Second, "until the first one is a minute old")
		assert.LessOrEqual(t, refused.Wait, 30*time.Second+time.Minute/windowParts)
		time.Sleep(refused.Wait)
		assert.False(t, take(1, 1).Taken, "one has to stay for what matters more")
		assert.False(t, take(2, 0).Taken, "two aren't free yet")
		assert.Equal(t, link.Turn{Taken: true, Left: 0}, take(1, 0))
		budget.Name = "of others"
		assert.Equal(t, link.Turn{Taken: true, Left: 2}, take(1, 0), "another name is another budget")
		budget.Name = "requests"
		time.Sleep(2 * time.Minute)
		assert.Equal(t, link.Turn{Taken: true, Left: 0}, take(3, 0), "later, all are free")
		more := take(4, 0)
		assert.False(t, more.Taken)
		assert.Equal(t, time.Minute, more.Wait, "more than there ever are: in a window")
	})
}

func TestAPauseHoldsUpABudgetAndIsOnlyMadeLonger(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := InMemory()
		budget := link.Budget{Name: "requests", Limit: 3, Window: time.Minute}
		require.NoError(t, s.Pause(t.Context(), "requests", time.Minute))
		require.NoError(t, s.Pause(t.Context(), "requests", time.Second))
		turn, err := s.Take(t.Context(), budget)
		require.NoError(t, err)
		assert.Equal(t, link.Turn{Wait: time.Minute, Paused: true}, turn)
		time.Sleep(time.Minute)
		turn, err = s.Take(t.Context(), budget)
		require.NoError(t, err)
		assert.Equal(t, link.Turn{Taken: true, Left: 2}, turn)
	})
}

func TestTheYoungerOfTwoRecordsStays(t *testing.T) {
	t.Parallel()
	noon := time.Date(2026, 11, 29, 12, 0, 0, 0, time.UTC)
	record := func(at time.Duration, data string) link.Record {
		return link.Record{Key: "customer", At: link.NewTime(noon.Add(at)), Data: []byte(data), TTL: time.Hour}
	}
	for name, c := range map[string]struct {
		there, put link.Record
		stays      string
	}{
		"a younger one comes":                     {record(0, "a"), record(time.Second, "b"), "b"},
		"an older one comes":                      {record(0, "a"), record(-time.Second, "b"), "a"},
		"one of the same time, and greater bytes": {record(0, "a"), record(0, "b"), "b"},
		"one of the same time, and smaller bytes": {record(0, "b"), record(0, "a"), "b"},
		"the same comes again":                    {record(0, "a"), record(0, "a"), "a"},
	} {
		s := InMemory()
		_, err := s.Put(t.Context(), "", c.there)
		require.NoError(t, err, name)
		younger, err := s.Put(t.Context(), "", c.put)
		require.NoError(t, err, name)
		assert.Equal(t, c.stays != string(c.put.Data), len(younger) == 1, "%s: whoever put it is told of a younger one", name)
		records, err := s.Get(t.Context(), "customer")
		require.NoError(t, err, name)
		require.Len(t, records, 1, name)
		assert.Equal(t, c.stays, string(records[0].Data), name)
		require.NoError(t, s.Discard(t.Context(), record(time.Hour, "another")), name)
		records, _ = s.Get(t.Context(), "customer")
		assert.Len(t, records, 1, "%s: another than the one that is there isn't discarded", name)
	}
}

func TestWhetherARecordIsGoodEnoughDependsOnItsAge(t *testing.T) {
	t.Parallel()
	s := InMemory()
	noon := time.Date(2026, 11, 29, 12, 0, 0, 0, time.UTC)
	for key, at := range map[string]time.Duration{"new": 0, "old": -time.Hour} {
		_, err := s.Put(t.Context(), "", link.Record{Key: key, At: link.NewTime(noon.Add(at)), Data: []byte(key), TTL: time.Hour})
		require.NoError(t, err)
	}
	for name, c := range map[string]struct {
		key   string
		also  []string
		after time.Duration
		found bool
		data  string
	}{
		"young enough":                        {"new", nil, -time.Minute, true, "new"},
		"of that very time":                   {"new", nil, 0, true, "new"},
		"too old, but there":                  {"old", nil, -time.Minute, false, "old"},
		"the youngest of several names":       {"old", []string{"none", "new"}, -time.Minute, true, "new"},
		"the youngest, whichever comes first": {"new", []string{"old"}, -time.Minute, true, "new"},
		"none":                                {"none", nil, -time.Minute, false, ""},
	} {
		answer, err := s.Lookup(t.Context(), link.Lookup{Key: c.key, Also: c.also, NotBefore: link.NewTime(noon.Add(c.after)), Holder: name, ClaimFor: time.Second})
		require.NoError(t, err, name)
		assert.Equal(t, c.found, answer.Found, name)
		assert.Equal(t, c.data, string(answer.Record.Data), name)
		require.NoError(t, s.Release(t.Context(), name, c.key))
	}
}
