package lease

import (
	"strings"
	"time"
)

// Clocks are allowed to differ by these.
const (
	// Skew is how far in the future a lease may have been issued, or may start:
	// the issuer's clock may be ahead of this one.
	Skew = 5 * time.Minute
	// Slack is how far a clock may be behind a time that it has shown before:
	// corrections happen. Meanwhile the later time counts.
	Slack = time.Hour
)

// Standing is how a lease counts.
type Standing string

// How a lease counts. The empty Standing is that of one that does not.
const (
	// Active: before Expires.
	Active Standing = "active"
	// Grace: past Expires, and within Claims.Grace.
	Grace Standing = "grace"
)

// Want is what a lease must fit, and what the program remembers.
type Want struct {
	// OrganizationID is the vendor's organization, as Polar writes it. Required:
	// no lease fits an empty one.
	OrganizationID string
	// Fingerprint is that of this computer. Required: no lease fits an empty one.
	Fingerprint string
	// Version of the program, such as "3.2.0" or "v3.2.0-beta.1"; only asked for by
	// leases with Claims.Covers, and none of them covers a version without a number.
	Version string
	// Released is when this version of the program was released; only asked for by
	// leases with Claims.CoversReleased, and none of them covers a zero time.
	Released time.Time
	// HighWater is the latest time that the program has seen; zero if it remembers
	// none.
	HighWater time.Time
	// Newest is Claims.Issued of the newest lease that the program has seen. After a
	// deactivation it is a second more, so that the lease cannot be put back. Zero
	// if it remembers none.
	Newest time.Time
}

// Check says how a lease counts for this program, on this computer, at this time.
// The error is nil exactly when it counts; otherwise it is an *Error with
// ErrWrongOrganization, ErrOtherMachine, ErrOlder, ErrClockBehind, ErrNotYet,
// ErrExpired or ErrNotCovered, the first that applies in this order.
func (l Lease) Check(now time.Time, want Want) (Standing, error) {
	// Whole seconds of a wall clock, as the claims are; absent ones are 0.
	at, high := now.Unix(), seconds(want.HighWater)
	issued, expires := seconds(l.Issued), seconds(l.Expires)
	starts, covered, released := max(issued, seconds(l.NotBefore)), seconds(l.CoversReleased), seconds(want.Released)
	var reason Reason
	var detail string
	var when int64
	switch {
	case l.OrganizationID == "" || l.OrganizationID != want.OrganizationID:
		reason = ErrWrongOrganization
	case l.Fingerprint != want.Fingerprint:
		reason = ErrOtherMachine
	case issued < seconds(want.Newest):
		reason, detail, when = ErrOlder, "issued ", issued
	case high-at > int64(Slack/time.Second):
		reason, detail, when = ErrClockBehind, "it has been ", high
	case issued-at > int64(Skew/time.Second):
		reason, detail, when = ErrClockBehind, "the lease was issued ", issued
	case starts-max(at, high) > int64(Skew/time.Second):
		reason, detail, when = ErrNotYet, "it starts ", starts
	case expires != 0 && max(at, high) >= seconds(l.Ends()):
		reason, detail, when = ErrExpired, "it ended ", seconds(l.Ends())
	case !l.CoversVersion(want.Version):
		reason, detail = ErrNotCovered, "it covers versions up to "+l.Covers
	case covered != 0 && (released == 0 || released > covered):
		reason, detail, when = ErrNotCovered, "it covers versions released until ", covered
	case expires != 0 && max(at, high) >= expires:
		return Grace, nil
	default:
		return Active, nil
	}
	if when != 0 {
		detail += time.Unix(when, 0).UTC().Format(time.RFC3339)
	}
	return "", &Error{reason, detail}
}

// CoversVersion reports whether the lease covers a version of the program by its number: every
// one, if it has no Covers. It says nothing of CoversReleased.
func (c Claims) CoversVersion(version string) bool {
	return c.Covers == "" || covers(c.Covers, version)
}

// covers reports whether a version is not newer than the newest covered one, of
// which only the numbers that it has are compared.
func covers(newest, version string) bool {
	limit, have := parseVersion(newest), parseVersion(release(version))
	if limit == nil || have == nil {
		return false
	}
	for i, n := range limit {
		m := "0"
		if i < len(have) {
			m = have[i]
		}
		if m != n {
			return len(m) < len(n) || len(m) == len(n) && m < n
		}
	}
	return true
}

// release takes a "v" off a version, and what follows its numbers: a release that is
// being prepared is counted as the release.
func release(version string) string {
	version = strings.TrimPrefix(version, "v")
	if end := strings.IndexAny(version, "-+"); end >= 0 {
		version = version[:end]
	}
	return version
}

// parseVersion gives the numbers of a version, as digits without leading zeros; nil
// if it has something else in it.
func parseVersion(version string) []string {
	if len(version) > maxID {
		return nil
	}
	numbers := strings.Split(version, ".")
	for i, n := range numbers {
		if n == "" || strings.Trim(n, "0123456789") != "" {
			return nil
		}
		if n = strings.TrimLeft(n, "0"); n == "" {
			n = "0"
		}
		numbers[i] = n
	}
	return numbers
}
