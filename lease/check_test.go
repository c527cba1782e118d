package lease

import (
	mathrand "math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func held(t *testing.T, change func(*Claims)) Lease {
	t.Helper()
	claims := usual()
	if change != nil {
		change(&claims)
	}
	text, err := Sign(vectorKey("first"), claims)
	require.NoError(t, err)
	l, err := pinned(t, "first").Verify(text)
	require.NoError(t, err)
	return l
}

func here() Want {
	return Want{OrganizationID: vectorOrg, Fingerprint: vectorMachine, Version: "3.2.1"}
}

func TestALeaseFromAClockThatIsFiveMinutesAheadCountsAndFromFurtherDoesNot(t *testing.T) {
	t.Parallel()
	l := held(t, nil)
	later := held(t, func(c *Claims) { c.NotBefore = issued.Add(24 * time.Hour) })
	for _, at := range []struct {
		name   string
		ahead  time.Duration
		counts bool
	}{
		{"two seconds", 2 * time.Second, true},
		{"5 minutes", 5 * time.Minute, true},
		{"5 minutes and a nanosecond", 5*time.Minute + 1, false},
		{"an hour", time.Hour, false},
		{"behind by 5 minutes", -5 * time.Minute, true},
		{"behind by an hour", -time.Hour, true},
	} {
		_, err := l.Check(issued.Add(-at.ahead), here())
		_, errLater := later.Check(issued.Add(24*time.Hour-at.ahead), here())
		if at.counts {
			assert.NoError(t, err, at.name)
			assert.NoError(t, errLater, at.name)
		} else {
			assert.ErrorIs(t, err, ErrClockBehind, at.name)
			assert.ErrorIs(t, errLater, ErrNotYet, at.name)
		}
	}
}

func TestNoSkewIsAddedToTheEnd(t *testing.T) {
	t.Parallel()
	l := held(t, nil)
	for at, want := range map[time.Duration]struct {
		standing Standing
		reason   Reason
	}{
		-1:                 {Active, ""},
		0:                  {Grace, ""},
		5 * time.Minute:    {Grace, ""},
		7*24*time.Hour - 1: {Grace, ""},
		7 * 24 * time.Hour: {"", ErrExpired},
	} {
		standing, err := l.Check(l.Expires.Add(at), here())
		assert.Equal(t, want.standing, standing, at)
		if want.reason == "" {
			assert.NoError(t, err, at)
		} else {
			assert.ErrorIs(t, err, want.reason, at)
		}
	}
}

func TestALeaseWithoutAnEndCountsForEver(t *testing.T) {
	t.Parallel()
	l := held(t, func(c *Claims) { c.Expires, c.Grace = time.Time{}, 0 })
	assert.NotContains(t, payloadOf(t, l.Text), `"exp":`, "never is an absent claim, not a huge number")
	standing, err := l.Check(time.Date(9999, 12, 31, 0, 0, 0, 0, time.UTC), here())
	require.NoError(t, err)
	assert.Equal(t, Active, standing)
}

func payloadOf(t *testing.T, text string) string {
	t.Helper()
	payload, _, err := KindLease.split(text)
	require.NoError(t, err)
	return string(payload)
}

// However a clock is set: what counts with it would have counted at the latest time
// that the program has seen.
func TestSettingTheClockBackBuysNoTime(t *testing.T) {
	t.Parallel()
	l := held(t, nil)
	r := mathrand.New(mathrand.NewPCG(3, 4))
	accepted := 0
	for range 20000 {
		seen := issued.Add(time.Duration(r.Int64N(int64(60 * 24 * time.Hour))))
		want := here()
		want.HighWater = seen
		shown := seen.Add(-time.Duration(r.Int64N(int64(2 * time.Hour))))
		standing, err := l.Check(shown, want)
		truly, errTruly := l.Check(seen, here())
		if err != nil {
			continue
		}
		accepted++
		require.NoError(t, errTruly)
		require.Equal(t, truly, standing)
		require.Less(t, seen.Sub(shown), Slack+time.Second, "clocks are compared by the second")
	}
	assert.Greater(t, accepted, 1000)
	_, err := l.Check(issued.Add(time.Hour), Want{OrganizationID: vectorOrg, Fingerprint: vectorMachine, Version: "3.2", HighWater: issued.Add(40 * 24 * time.Hour)})
	assert.ErrorIs(t, err, ErrClockBehind)
}

func TestAClockWithAMonotonicPartIsReadAsACalendarIs(t *testing.T) {
	t.Parallel()
	l := held(t, func(c *Claims) {
		c.Issued, c.Expires, c.Grace = time.Now().Add(-time.Hour), time.Now().Add(time.Hour), 0
	})
	standing, err := l.Check(time.Now(), here())
	require.NoError(t, err)
	assert.Equal(t, Active, standing)
}

func TestAnOlderLeasePutBackIsRefused(t *testing.T) {
	t.Parallel()
	old := held(t, nil)
	young := held(t, func(c *Claims) { c.Issued = issued.Add(time.Second) })
	want := here()
	want.Newest = young.Issued
	_, err := young.Check(issued.Add(time.Hour), want)
	require.NoError(t, err)
	_, err = old.Check(issued.Add(time.Hour), want)
	require.ErrorIs(t, err, ErrOlder)
	// Nor does the newest count, once it was given up.
	want.Newest = young.Issued.Add(time.Second)
	_, err = young.Check(issued.Add(time.Hour), want)
	assert.ErrorIs(t, err, ErrOlder)
}

func TestALeaseOfAnotherComputerOrVendorDoesNotCount(t *testing.T) {
	t.Parallel()
	l := held(t, nil)
	want := here()
	want.Fingerprint = "another"
	_, err := l.Check(issued, want)
	require.ErrorIs(t, err, ErrOtherMachine)
	want = here()
	want.OrganizationID = "another"
	_, err = l.Check(issued, want)
	require.ErrorIs(t, err, ErrWrongOrganization)
	_, err = Lease{}.Check(issued, Want{})
	assert.ErrorIs(t, err, ErrWrongOrganization, "nothing fits nothing")
	_, err = held(t, nil).Check(issued, Want{})
	assert.ErrorIs(t, err, ErrWrongOrganization)
}

func TestVersionsAreComparedByNumberAndAsFarAsTheLeaseNamesThem(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		newest, version string
		covered         bool
	}{
		{"3", "3", true}, {"3", "3.9.9", true}, {"3", "v3.0.0", true}, {"3", "4.0.0", false}, {"3", "2", true},
		{"3.2", "3.10", false}, {"3.10", "3.9", true}, {"3.2", "3", true}, {"3.2.0", "3.2.1", false}, {"3.2.0", "3.2", true},
		{"2026.11", "2026.11.3", true}, {"2026.11", "2026.12", false}, {"0", "0.99", true}, {"0", "1", false},
		{"3", "3.0.0-rc.1", true}, {"3", "4.0.0-rc.1", false}, {"3", "3.1+linux", true}, {"03", "3", true},
		{"3", "", false}, {"3", "v", false}, {"3", "(devel)", false}, {"3", "3.x", false}, {"3", "3..1", false}, {"3", "-3", false},
		{"3", " 3", false}, {"3", "３", false}, {"3", "3.", false}, {"3", "vv3", false}, {"3", strings.Repeat("1.", 40) + "1", false},
		{"18446744073709551616", "18446744073709551617", false}, {"18446744073709551617", "18446744073709551616", true},
	} {
		assert.Equal(t, c.covered, covers(c.newest, c.version), "%q covered by %q", c.version, c.newest)
	}
}

func TestMonthsOfUpdatesAreCountedByTheDayOfRelease(t *testing.T) {
	t.Parallel()
	l := held(t, func(c *Claims) {
		c.Expires, c.Grace, c.Covers, c.CoversReleased = time.Time{}, 0, "", issued.AddDate(1, 0, 0)
	})
	want := here()
	want.Released = issued.AddDate(1, 0, 0)
	_, err := l.Check(issued.AddDate(5, 0, 0), want)
	require.NoError(t, err, "what came out in that year is the customer's for good")
	want.Released = want.Released.Add(time.Second)
	_, err = l.Check(issued.AddDate(5, 0, 0), want)
	require.ErrorIs(t, err, ErrNotCovered)
	assert.ErrorContains(t, err, "2027-11-30")
}
