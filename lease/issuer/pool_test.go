package issuer

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"fmt"
	mathrand "math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

var start = time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)

func TestAPlaceIsFreeTwoHeartbeatsAfterItsHolderCrashed(t *testing.T) {
	t.Parallel()
	pool := Pool{Max: 1, Heartbeat: time.Minute, Borrow: time.Hour}
	var a account
	_, err := a.place(a.now(start), pool, HeldLease{Pool: "p", Fingerprint: "crashed"}, 0)
	require.NoError(t, err)
	free, err := a.place(a.now(start.Add(time.Minute)), pool, HeldLease{Pool: "p", Fingerprint: "next"}, 0)
	require.ErrorIs(t, err, errPoolFull)
	assert.Equal(t, start.Add(2*time.Minute), free)
	_, err = a.place(a.now(start.Add(2*time.Minute-1)), pool, HeldLease{Pool: "p", Fingerprint: "next"}, 0)
	require.ErrorIs(t, err, errPoolFull)
	_, err = a.place(a.now(start.Add(2*time.Minute)), pool, HeldLease{Pool: "p", Fingerprint: "next"}, 0)
	require.NoError(t, err)
	assert.Nil(t, a.find("crashed"))
}

func TestAHolderWhoRenewsKeepsThePlace(t *testing.T) {
	t.Parallel()
	pool := Pool{Max: 1, Heartbeat: time.Minute}
	var a account
	issued := time.Time{}
	for beat := range 10 {
		now := start.Add(time.Duration(beat) * time.Minute)
		_, err := a.place(a.now(now), pool, HeldLease{Pool: "p", Fingerprint: "holder"}, 0)
		require.NoError(t, err)
		held := a.find("holder")
		require.Len(t, a.Held, 1)
		assert.Equal(t, now.Add(2*time.Minute), held.Ends)
		assert.True(t, held.Issued.After(issued))
		issued = held.Issued
		_, err = a.place(a.now(now), pool, HeldLease{Pool: "p", Fingerprint: "other"}, 0)
		require.ErrorIs(t, err, errPoolFull)
	}
}

func TestAPlaceCanBeTakenAlongForNoLongerThanThePoolAllows(t *testing.T) {
	t.Parallel()
	pool := Pool{Max: 1, Heartbeat: time.Minute, Borrow: 72 * time.Hour}
	for asked, lasts := range map[time.Duration]time.Duration{
		0: 2 * time.Minute, time.Minute: 2 * time.Minute, 24 * time.Hour: 24 * time.Hour, 1000 * time.Hour: 72 * time.Hour,
	} {
		var a account
		_, err := a.place(a.now(start), pool, HeldLease{Pool: "p", Fingerprint: "traveller"}, asked)
		require.NoError(t, err)
		assert.Equal(t, start.Add(lasts), a.find("traveller").Ends, asked)
		assert.Equal(t, asked >= 24*time.Hour, a.find("traveller").Borrowed)
	}
	var a account
	a.ExpiresAt = start.Add(time.Hour)
	_, err := a.place(a.now(start), pool, HeldLease{Pool: "p", Fingerprint: "traveller"}, 24*time.Hour)
	require.NoError(t, err)
	assert.Equal(t, start.Add(time.Hour), a.find("traveller").Ends, "not beyond the license key")
}

// Who borrows a place, asks for a usual lease, and puts the borrowed one back, has no
// more than the one place.
func TestABorrowedPlaceStaysTakenUntilItsLeaseEndsOrIsGivenBack(t *testing.T) {
	t.Parallel()
	pool := Pool{Max: 1, Heartbeat: time.Minute, Borrow: 72 * time.Hour}
	var a account
	_, err := a.place(a.now(start), pool, HeldLease{Pool: "p", Fingerprint: "traveller"}, 24*time.Hour)
	require.NoError(t, err)
	_, err = a.place(a.now(start.Add(time.Minute)), pool, HeldLease{Pool: "p", Fingerprint: "traveller", LeaseID: "usual"}, 0)
	require.NoError(t, err)
	assert.Equal(t, start.Add(24*time.Hour), a.find("traveller").Ends)
	assert.True(t, a.find("traveller").Borrowed)
	_, err = a.place(a.now(start.Add(time.Hour)), pool, HeldLease{Pool: "p", Fingerprint: "other"}, 0)
	require.ErrorIs(t, err, errPoolFull)
	a.release("traveller", true)
	_, err = a.place(a.now(start.Add(time.Hour)), pool, HeldLease{Pool: "p", Fingerprint: "other"}, 0)
	require.NoError(t, err)
}

func TestAClockThatIsSetBackGivesNoPlaceAwayTwice(t *testing.T) {
	t.Parallel()
	pool := Pool{Max: 1, Heartbeat: time.Minute}
	var a account
	_, err := a.place(a.now(start.Add(time.Hour)), pool, HeldLease{Pool: "p", Fingerprint: "holder"}, 0)
	require.NoError(t, err)
	_, err = a.place(a.now(start), pool, HeldLease{Pool: "p", Fingerprint: "other"}, 0)
	require.ErrorIs(t, err, errPoolFull)
	_, err = a.place(a.now(start), pool, HeldLease{Pool: "p", Fingerprint: "holder"}, 0)
	require.NoError(t, err)
	assert.Equal(t, start.Add(time.Hour+2*time.Minute), a.find("holder").Ends)
	assert.Equal(t, start.Add(time.Hour), a.now(start), "the time of an account never goes back")
}

func TestAskingManyTimesASecondDoesNotRunAheadOfTheClock(t *testing.T) {
	t.Parallel()
	pool := Pool{Max: 2, Heartbeat: time.Second}
	var a account
	for i := range 1000 {
		now := start.Add(time.Duration(i) * time.Millisecond)
		_, err := a.place(a.now(now), pool, HeldLease{Pool: "p", Fingerprint: "eager", RequestID: fmt.Sprint(i)}, 0)
		require.NoError(t, err)
		require.LessOrEqual(t, a.find("eager").Issued.Sub(now), time.Duration(0))
	}
}

// The model: every lease that was ever issued counts until it ends, or until its
// holder gives it back. Crashed holders give nothing back.
func TestThereAreNeverMoreHoldersThanPlacesAndNoPlaceIsLost(t *testing.T) {
	t.Parallel()
	for seed := range uint64(200) {
		r := mathrand.New(mathrand.NewPCG(seed, 7))
		pool := Pool{Max: 1 + r.IntN(5), Heartbeat: time.Duration(1+r.IntN(90)) * time.Second, Borrow: time.Duration(r.IntN(3)) * time.Hour}
		var a account
		until := map[string]time.Time{}
		newest := map[string]time.Time{}
		clock, seen := start, a.now(start)
		for step := range 400 {
			clock = clock.Add(time.Duration(r.Int64N(int64(pool.Heartbeat))))
			if r.IntN(20) == 0 {
				clock = clock.Add(-time.Duration(r.IntN(3600)) * time.Second)
			}
			if clock.Truncate(time.Second).After(seen) {
				seen = clock.Truncate(time.Second)
			}
			for who, ends := range until {
				if !seen.Before(ends) {
					delete(until, who)
				}
			}
			now := a.now(clock)
			require.Equal(t, seen, now)
			who := fmt.Sprint(r.IntN(12))
			if r.IntN(6) == 0 {
				a.release(who, true)
				delete(until, who)
				continue
			}
			var borrow time.Duration
			if r.IntN(5) == 0 {
				borrow = time.Duration(r.IntN(5)) * time.Hour
			}
			_, has := until[who]
			free, err := a.place(now, pool, HeldLease{Pool: "p", Fingerprint: who, LeaseID: fmt.Sprint(step)}, borrow)
			if err == nil {
				held := a.find(who)
				require.True(t, held.Issued.After(newest[who]) || held.LeaseID != fmt.Sprint(step), "seed %d step %d: order", seed, step)
				if held.LeaseID == fmt.Sprint(step) {
					newest[who] = held.Issued
				}
				until[who] = held.Ends // its older leases do not count any more, see lease.Want.Newest
			}
			if has || len(until) < pool.Max {
				require.NoError(t, err, "seed %d step %d: a place is lost", seed, step)
			}
			require.LessOrEqual(t, len(until), pool.Max, "seed %d step %d", seed, step)
			if err != nil {
				require.True(t, free.After(seen), "seed %d step %d: it is free already", seed, step)
			}
		}
	}
}

func TestAnAccountOfAnySizeThatFitsIsReadAsItWasWritten(t *testing.T) {
	t.Parallel()
	for _, computers := range []int{0, 1, 100, 200, 300} {
		var a account
		for i := range computers {
			a.Held = append(a.Held, HeldLease{
				LeaseID: rand.Text(), RequestID: rand.Text(), Fingerprint: rand.Text() + rand.Text(), Label: fmt.Sprint("computer-", i),
				ActivationID: "b0000000-0000-4000-8000-000000000001", ReceiptHash: rand.Text() + rand.Text(), Issued: start, Expires: start, Ends: start,
			})
		}
		data, err := json.Marshal(a)
		require.NoError(t, err)
		packed, err := pack(data)
		require.NoError(t, err, "%d computers", computers)
		assert.LessOrEqual(t, len(packed), maxShared)
		again, err := unpack(packed)
		require.NoError(t, err)
		assert.Equal(t, data, again)
	}
	_, err := pack(bytes.Repeat([]byte(rand.Text()+rand.Text()+rand.Text()), 4000)[:200_000])
	require.NoError(t, err)
	noise := make([]byte, 2*maxShared)
	_, _ = rand.Read(noise)
	_, err = pack(noise)
	require.ErrorContains(t, err, "use Config.Store")
	for _, broken := range []string{"", "x", "z", "znothing"} {
		_, err := unpack([]byte(broken))
		assert.Error(t, err, "%q", broken)
	}
}
