package issuer

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"time"

	"github.com/polargate/polargate/lease"
)

// A Trial is a license without a license key, for each computer once. A computer is known by its
// fingerprint, so whoever changes that has another one.
type Trial struct {
	// Days is how long it lasts, in days of 24 hours from the first request of a computer: at
	// most 3653. 0 means no trials.
	Days int
	// Features are what its lease names.
	Features []string
}

const (
	maxTrial = 3653
	// trialsPerMinute is how many computers that were never seen get a trial. Somebody who
	// makes up computers must not fill the Store.
	trialsPerMinute = 300
)

// tried is what the Store keeps of the trial of a computer.
type tried struct {
	Fingerprint string    `json:"fingerprint"`
	Began       time.Time `json:"began"`
	RequestID   string    `json:"request_id"`
	LeaseID     string    `json:"lease_id"`
	Issued      time.Time `json:"issued"` // of the newest lease
	Seen        time.Time `json:"seen"`   // the latest time by the issuer's clock
}

// trial answers a request for the trial of a computer: with its first lease, or with one that
// ends when that does.
func (s *Issuer) trial(ctx context.Context, q lease.Request, about About) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, issueTime)
	defer cancel()
	sum := sha256.Sum256([]byte("polargate issuer trial\x00" + q.Fingerprint))
	name := "trial-" + hex.EncodeToString(sum[:16])
	lasts := time.Duration(s.config.Trial.Days) * 24 * time.Hour
	var t tried
	err := s.book.change(ctx, name, func(data []byte) ([]byte, error) {
		t = tried{}
		if len(data) > 0 && json.Unmarshal(data, &t) != nil {
			return nil, unavailable(errors.New("what is stored of a trial cannot be read"))
		}
		now := later(time.Unix(s.config.clock().Unix(), 0).UTC(), t.Seen)
		if t.Began.IsZero() {
			if !s.trials.Allow() {
				return nil, &Error{Reason: ErrUnavailable, RetryAfter: time.Minute, Err: errors.New("too many trials of computers that were never seen before")}
			}
			t = tried{Fingerprint: q.Fingerprint, Began: now}
		}
		t.Seen = now
		issued := now
		switch {
		case t.RequestID == q.ID: // asked again: the answer may have been lost
			issued = t.Issued
		default:
			if !q.Newest.IsZero() {
				issued = later(issued, q.Newest.Add(time.Second))
			}
			if !t.Issued.IsZero() {
				issued = later(issued, t.Issued.Add(time.Second))
			}
			if issued.Sub(now) > lease.Skew {
				return nil, &Error{Reason: ErrClockAhead}
			}
			t.RequestID, t.LeaseID = q.ID, rand.Text()
		}
		t.Issued = issued
		if later(now, issued).Before(t.Began.Add(lasts)) {
			return json.Marshal(t)
		}
		return nil, &Error{Reason: ErrTrialEnded}
	})
	if err != nil {
		return "", unavailable(err)
	}
	claims := lease.Claims{
		ID: t.LeaseID, OrganizationID: s.config.OrganizationID, Fingerprint: q.Fingerprint, Features: s.config.Trial.Features,
		Issued: t.Issued, Expires: t.Began.Add(lasts), Trial: true,
	}
	if s.config.Claims != nil {
		whole := claims
		if err := s.config.Claims(ctx, about, &claims); err != nil {
			return "", &Error{Reason: ErrRefused, Err: err}
		}
		// Its features can be changed, and its end made earlier: nothing else.
		features, expires := claims.Features, claims.Expires
		claims = whole
		claims.Features = features
		if !expires.IsZero() {
			claims.Expires = earlier(whole.Expires, expires)
		}
	}
	text, err := lease.Sign(s.config.Key, claims)
	if err != nil {
		return "", unavailable(err)
	}
	s.config.Logger.InfoContext(ctx, "trial issued", "lease_request", q.ID, "lease_id", t.LeaseID, "fingerprint", q.Fingerprint, "began", t.Began, "expires", claims.Expires)
	return text, nil
}
