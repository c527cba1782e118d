package cookbook

import (
	"time"

	"github.com/polargate/polargate"
)

// Release is a version that the update server offers.
type Release struct {
	Version  string
	Released time.Time
}

// MayInstall reports whether a customer's license covers a release, before it is downloaded: a
// license that has ended covers what came out until then. Config.Fallback decides the same in
// the version that was installed. For everybody else, the page of Config.Links.Renew helps.
func MayInstall(s polargate.Status, r Release) bool {
	switch s.State {
	case polargate.Active, polargate.Grace:
		return s.ExpiresAt.IsZero() || r.Released.Before(s.ExpiresAt)
	case polargate.Perpetual:
		return !r.Released.After(s.CoveredUntil)
	}
	return false
}
