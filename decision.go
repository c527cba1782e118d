package polargate

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/polargate/polargate/internal/clock"
)

// Decision is what was decided about a customer or a license key; see
// CustomersConfig.OnDecision. It prints, and is written as JSON, without anything that is
// personal: no license key, no e-mail address, no external id.
type Decision struct {
	// At is when it was decided.
	At time.Time
	// Route is Route.Name, or else the pattern of the request; empty outside of routes.
	Route string
	// Customer is who was decided about, as they were named; for a license key, the
	// customer whose key it is. It is nobody if nobody was named or the key is unknown.
	// LicenseKeyID is Polar's id of the key that came with a request; no secret.
	Customer     CustomerRef
	LicenseKeyID string
	// Required is what was required: all of it. It must not be changed.
	Required []Requirement
	// Outcome is what was decided. Status is that of the Refusal; 0 if there was none.
	Outcome Outcome
	Status  int
	// Unmet is what was missing, and Reason why; see Refusal.
	Unmet  Requirement
	Reason Reason
	// Source is where the answer came from by which it was decided: FromMemory, FromStale,
	// FromGrace, FromNetwork, FromOverlay or FromFallback; empty if there was none.
	Source Source

	feature string
}

// Outcome is how a Decision went.
type Outcome string

// The outcomes, as CustomersStats counts them for routes.
const (
	// Allowed: the requirements are met.
	Allowed Outcome = "allowed"
	// Opened: nobody could say, and the Route has FailOpen or a Fallback.
	Opened Outcome = "opened"
	// Unidentified: nobody is signed in, or the id or the license key is unknown (400, 401).
	Unidentified Outcome = "unidentified"
	// Unpaid: something required is missing (402).
	Unpaid Outcome = "unpaid"
	// Undecided: nobody could say (503).
	Undecided Outcome = "undecided"
)

// Where the answer of a Decision came from, beside FromMemory, which is then fresh, and
// FromNetwork, which is Polar or another replica.
const (
	FromStale    Source = "stale"    // memory, older than FreshFor
	FromGrace    Source = "grace"    // memory, older than StaleFor, while Polar can't be asked
	FromOverlay  Source = "overlay"  // CustomersConfig.Overlay gave what Polar's answer lacks
	FromFallback Source = "fallback" // Route.Fallback
)

// Feature names the features that were required, sorted and with commas between them; ""
// if none was.
func (d Decision) Feature() string {
	if d.feature != "" {
		return d.feature
	}
	return featuresIn(d.Required)
}

// featuresIn names the features in requirements.
func featuresIn(required []Requirement) string {
	if len(required) == 1 && required[0].kind == needsFeature {
		return required[0].id
	}
	var names []string
	var add func([]Requirement)
	add = func(of []Requirement) {
		for i := range of {
			if of[i].kind == needsFeature {
				names = append(names, of[i].id)
			}
			add(of[i].of)
		}
	}
	add(required)
	slices.Sort(names)
	return strings.Join(slices.Compact(names), ",")
}

// plain is a Decision without what is personal.
type plain struct {
	At           time.Time `json:"at,omitzero"`
	Route        string    `json:"route,omitempty"`
	CustomerID   string    `json:"customer_id,omitempty"`
	LicenseKeyID string    `json:"license_key_id,omitempty"`
	Required     string    `json:"required"`
	Outcome      Outcome   `json:"outcome"`
	Status       int       `json:"status,omitempty"`
	Unmet        string    `json:"unmet,omitempty"`
	Reason       Reason    `json:"reason,omitempty"`
	Source       Source    `json:"source,omitempty"`
}

func (d Decision) plain() plain {
	p := plain{d.At, d.Route, d.Customer.CustomerID(), d.LicenseKeyID, All(d.Required...).String(), d.Outcome, d.Status, "", d.Reason, d.Source}
	if d.Unmet.kind != 0 {
		p.Unmet = d.Unmet.String()
	}
	return p
}

// MarshalJSON writes what an audit log may keep. Customer.ExternalID is left out, because it
// may be an e-mail address.
func (d Decision) MarshalJSON() ([]byte, error) { return json.Marshal(d.plain()) }

// Format prints the same in one line, whatever the verb.
func (d Decision) Format(f fmt.State, _ rune) {
	p := d.plain()
	fmt.Fprintf(f, "polargate.Decision{Route:%q Customer:%v Required:%q Outcome:%s Status:%d Unmet:%q Reason:%s Source:%s}",
		p.Route, d.Customer, p.Required, p.Outcome, p.Status, p.Unmet, p.Reason, p.Source)
}

// LogValue logs what MarshalJSON writes.
func (d Decision) LogValue() slog.Value {
	p := d.plain()
	attrs := []slog.Attr{slog.String("outcome", string(p.Outcome)), slog.String("required", p.Required)}
	for _, a := range []slog.Attr{
		slog.String("route", p.Route), slog.String("customer_id", p.CustomerID), slog.String("license_key_id", p.LicenseKeyID),
		slog.String("unmet", p.Unmet), slog.String("reason", string(p.Reason)), slog.String("source", string(p.Source)),
	} {
		if a.Value.String() != "" {
			attrs = append(attrs, a)
		}
	}
	return slog.GroupValue(attrs...)
}

// question is what is decided about, as far as OnDecision is to hear of it.
type question struct {
	key            cacheKey
	route, feature string
	seen           glance
}

// glance is what was in memory before a question was asked.
type glance struct {
	found, fresh, stale bool
	at                  clock.Polar
}

// inMemory is the glance of what was found fresh.
var inMemory = glance{found: true, fresh: true}

// source is where an answer came from, given what was in memory before.
func (g glance) source(value *Entitlements, required []Requirement) Source {
	if over := value.overlaid(); over != nil {
		switch {
		case slices.ContainsFunc(over.given, func(o Overlay) bool { return o.Why == fallback }) && over.under == nil && over.failure == nil:
			return FromFallback
		case over.under == nil, value.byOverlay(required):
			return FromOverlay
		}
		value = over.under
	}
	if value == nil {
		return ""
	}
	at := value.state().At()
	switch {
	case g == inMemory, at == 0, g.found && g.fresh && g.at == at:
		return FromMemory
	case !g.found, g.at != at:
		return FromNetwork
	case g.stale:
		return FromStale
	}
	return FromGrace
}
