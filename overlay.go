package polargate

import (
	"slices"
	"time"

	"github.com/polargate/polargate/internal/rights"
)

// Overlay is a feature that a program gives a customer beside what Polar says; see
// CustomersConfig.Overlay.
type Overlay struct {
	// Feature is what is given. An Overlay without one gives nothing.
	Feature string
	// Until is when it ends. The zero time means that it doesn't end by itself.
	Until time.Time
	// Why tells people who look after customers why there is an Overlay, such as "staff" or
	// "beta". It is in the JSON of Entitlements, so it must not be personal.
	Why string
}

// overlaid is what a program gives a customer beside what Polar says. It is immutable.
type overlaid struct {
	given []Overlay
	// under is what Polar says; nil if nothing. failure is then why not, and nil for what
	// nobody was asked about.
	under   *Entitlements
	failure error
}

// fallback is the Why of an Overlay that stands for Route.Fallback.
const fallback = "fallback"

// overlaid is what is given beside e; nil if nothing is.
func (e *Entitlements) overlaid() *overlaid {
	over, _ := e.state().Beside().(*overlaid)
	return over
}

// Overlays are the features that CustomersConfig.Overlay gave when these Entitlements were
// asked for, until when, and why. During an outage, those of Route.Fallback are among them,
// with the Why "fallback". The slice is the caller's own.
func (e *Entitlements) Overlays() []Overlay {
	if over := e.overlaid(); over != nil {
		return append([]Overlay(nil), over.given...)
	}
	return nil
}

// overlays reports whether a feature is given beside what Polar says.
func (e *Entitlements) overlays(feature string) bool {
	over := e.overlaid()
	if over == nil {
		return false
	}
	for i := range over.given {
		if over.given[i].Feature == feature {
			return true
		}
	}
	return false
}

// sameOverlays reports whether the same is given beside two answers.
func (e *Entitlements) sameOverlays(other *Entitlements) bool {
	return slices.EqualFunc(e.Overlays(), other.Overlays(), func(a, b Overlay) bool {
		return a.Feature == b.Feature && a.Why == b.Why && a.Until.Equal(b.Until)
	})
}

// bare is what Polar says; nil if nothing.
func (e *Entitlements) bare() *Entitlements {
	if over := e.overlaid(); over != nil {
		return over.under
	}
	return e
}

// byOverlay reports whether requirements are met that would not be without the overlay.
func (e *Entitlements) byOverlay(requirements []Requirement) bool {
	if e.overlaid() == nil {
		return false
	}
	_, unmet := e.Unmet(requirements...)
	_, without := e.bare().Unmet(requirements...)
	return !unmet && without
}

// over is e with what is given beside it. e may be nil.
func (e *Entitlements) over(given []Overlay, failure error) *Entitlements {
	return (*Entitlements)(rights.WithBeside(e.state(), overlaid{given, e, failure}))
}

// counts reports whether an overlay gives anything now.
func (o *Overlay) counts(now time.Time) bool {
	return o.Feature != "" && (o.Until.IsZero() || o.Until.After(now))
}

// counting are those overlays that give anything now, in memory of their own.
func counting(given []Overlay, now time.Time) (left []Overlay) {
	for i := range given {
		if given[i].counts(now) {
			left = append(left, given[i])
		}
	}
	return left
}

// nextOverlayEnd is when the first overlay ends; the zero time if none does.
func (e *Entitlements) nextOverlayEnd() (next time.Time) {
	if over := e.overlaid(); over != nil {
		for _, o := range over.given {
			if !o.Until.IsZero() && (next.IsZero() || o.Until.Before(next)) {
				next = o.Until
			}
		}
	}
	return next
}

// overlayEnds tells when an overlay ends; never if none does. Call stop afterwards.
func (e *Entitlements) overlayEnds() (ends <-chan time.Time, stop func() bool) {
	at := e.nextOverlayEnd()
	if at.IsZero() {
		return nil, func() bool { return false }
	}
	timer := time.NewTimer(untilEnd(at))
	return timer.C, timer.Stop
}

// untilEnd is how long it takes until then, but never so short that a clock which was set
// back keeps a program busy.
func untilEnd(at time.Time) time.Duration { return max(time.Until(at), time.Millisecond) }
