package localstore

import (
	"testing"
	"time"

	"github.com/polargate/polargate/internal/link"
	"github.com/polargate/polargate/internal/sharedlog"
	"github.com/stretchr/testify/require"
)

// FuzzItems has another program put anything where items of a store are.
func FuzzItems(f *testing.F) {
	f.Add("1700000000000000000", []byte("data"), int64(0), 10)
	f.Add("29133333 7", []byte{}, int64(0), 10)
	f.Add("29133333 9223372036854775807", []byte{1}, int64(time.Hour), 1)
	f.Add("-1 -1", []byte{}, int64(-1), 3)
	f.Add("replica", []byte{}, int64(1)<<62, 0)
	f.Fuzz(func(t *testing.T, head string, data []byte, ahead int64, limit int) {
		limit &= 1<<20 - 1
		s := InMemory()
		err := s.update(t.Context(), func(tx *sharedlog.Tx) {
			item := sharedlog.Item{At: tx.Now + ahead, Until: tx.Now + int64(time.Hour), Head: head, Data: data}
			for _, kind := range []byte{kindRecord, kindClaim, kindPause, kindBeat, kindValue, kindHint} {
				tx.Put(kind, "k", item)
			}
			for _, slot := range []string{"k/0", "k/1", "k/30", "k/60"} {
				tx.Put(kindUnits, slot, item)
			}
		})
		require.NoError(t, err)
		ctx := t.Context()

		budget := link.Budget{Name: "k", Limit: limit, Window: time.Minute}
		turn, err := s.Take(ctx, budget)
		require.NoError(t, err)
		require.GreaterOrEqual(t, turn.Left, 0)
		require.LessOrEqual(t, turn.Left, limit)
		require.False(t, turn.Taken && limit == 0, "more than the limit")
		if !turn.Taken {
			require.Positive(t, turn.Wait)
			require.LessOrEqual(t, turn.Wait, time.Hour)
		}

		a, err := s.Lookup(ctx, link.Lookup{Key: "k", Holder: "us", ClaimFor: time.Second})
		require.NoError(t, err)
		require.True(t, a.Found || a.Claimed || a.Busy, "whoever asks is told what to do")
		if a.Found {
			require.True(t, a.Record.At.Valid())
		}
		record := link.Record{Key: "k", At: link.NewTime(time.Now()), Data: []byte("ours"), TTL: time.Hour}
		younger, err := s.Put(ctx, "us", record)
		require.NoError(t, err)
		got, err := s.Get(ctx, "k")
		require.NoError(t, err)
		require.Len(t, got, 1)
		require.Equal(t, len(younger) == 0, string(got[0].Data) == "ours", "the younger stays, and whoever is older is told")

		value, err := s.Load(ctx, "k")
		require.NoError(t, err)
		_, swapped, err := s.Swap(ctx, "k", value.Version, []byte("new"), time.Hour)
		require.NoError(t, err)
		require.True(t, swapped, "a value of anybody can be replaced")
		replicas, err := s.Beat(ctx, "us", time.Minute)
		require.NoError(t, err)
		require.LessOrEqual(t, replicas, 2)
		require.NoError(t, s.Pause(ctx, "k", time.Second))
		require.NoError(t, s.Release(ctx, "us", "k"))
	})
}
