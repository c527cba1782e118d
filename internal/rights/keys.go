package rights

import (
	"cmp"
	"slices"
	"strings"

	"github.com/polargate/polargate/internal/clock"
	"github.com/polargate/polargate/internal/keyring"
	"github.com/polargate/polargate/internal/wire"
)

// What is here keeps a benefit of the type license_keys from outliving its license key.
// Polar leaves the grant in the customer's state when the key expires or is disabled, and
// sends no webhook (seen running, 2026-11-28), so the key itself is asked about.

// keyedGrants are the grants of a customer some of which come with a license key. They are
// immutable, as the states are that have them.
type keyedGrants struct {
	all      []Benefit   // as Polar's state has them: of a benefit there may be several
	ids      []wire.UUID // of the license keys; zero where there is none, or none is named
	features map[string][]string

	// due is when a key is to be asked about, and flips when what counts changes by
	// itself, both by the clock of the cache. urgent is that nothing can be served
	// until due keys were asked about.
	due, flips clock.Local
	urgent     bool
	// open are the grants of which nobody could say whether they count, and why is that.
	open []Benefit
	why  error
}

// keyedGrantsOf notes which of the grants of a state come with a license key; nil if none.
func keyedGrantsOf(grants []Benefit, features map[string][]string) *keyedGrants {
	var ids []wire.UUID
	for i, g := range grants {
		id, ok := wire.ParseUUID(g.LicenseKeyID())
		if !ok || g.Type() != LicenseKeys {
			continue // another id cannot be asked about: Polar's word counts
		}
		if ids == nil {
			ids = make([]wire.UUID, len(grants))
		}
		ids[i] = id
	}
	if ids == nil {
		return nil
	}
	return &keyedGrants{all: slices.Clone(grants), ids: ids, features: features, flips: clock.Never}
}

// keys are the grants of s, if some come with a license key; nil if none.
func (s *State) keys() *keyedGrants { return s.particulars().keys }

// HasKeys reports whether a grant comes with a license key.
func (s *State) HasKeys() bool { return s.keys() != nil }

// KeyedGrants calls see with each grant, and the license key that it comes with; zero if with
// none. It sees nothing unless HasKeys.
func (s *State) KeyedGrants(see func(b Benefit, key wire.UUID)) {
	if k := s.keys(); k != nil {
		for i, g := range k.all {
			see(g, k.ids[i])
		}
	}
}

// LicenseKeyIDs are those of the license keys that the grants come with.
func (s *State) LicenseKeyIDs() []wire.UUID {
	if s.keys() == nil {
		return nil
	}
	return slices.DeleteFunc(slices.Clone(s.keys().ids), func(id wire.UUID) bool { return id == wire.UUID{} })
}

// Grants are the benefits as Polar's state has them, in order, whether their license keys
// count or not.
func (s *State) Grants() []Benefit {
	if s.keys() == nil {
		return s.Benefits()
	}
	all := slices.Clone(s.keys().all)
	slices.SortFunc(all, func(a, b Benefit) int {
		return cmp.Or(strings.Compare(a.ID(), b.ID()), strings.Compare(a.LicenseKeyID(), b.LicenseKeyID()))
	})
	return all
}

// KeysChange is when license keys are to be asked about, and when what counts changes by
// itself. urgent is that nothing can be served after due until keys were asked about. ok is
// false if no grant comes with a license key.
func (s *State) KeysChange() (due, flips clock.Local, urgent, ok bool) {
	k := s.keys()
	if k == nil {
		return 0, 0, false, false
	}
	return k.due, k.flips, k.urgent, true
}

// AwaitsKeys reports whether nothing can be served before license keys were asked about.
func (s *State) AwaitsKeys(now clock.Local) bool {
	keys := s.keys()
	return keys != nil && keys.urgent && now >= keys.due
}

// UndecidedKeys is why it is not known of some license key whether it counts; nil if it is
// known of all.
func (s *State) UndecidedKeys() error {
	keys := s.keys()
	if keys == nil || len(keys.open) == 0 {
		return nil
	}
	return keys.why
}

// SupposingKeys is s if the license keys of which nothing is known counted.
func (s *State) SupposingKeys() *State {
	if s.UndecidedKeys() == nil {
		return s
	}
	next := *s
	next.set(s.parts().unlocking(slices.Concat(s.Benefits(), s.keys().open), s.keys().features))
	return &next
}

// ByKeys is s with those benefits alone whose license keys count, by a ring. unasked is the
// error that says that a key has not been asked about yet.
func (s *State) ByKeys(ring *keyring.Ring, now clock.Local, unasked func() error) *State {
	if ring == nil || s.keys() == nil {
		return s
	}
	next, keys := *s, *s.keys()
	keys.due, keys.flips, keys.urgent, keys.open, keys.why = clock.Never, clock.Never, false, nil, nil
	counting := make([]Benefit, 0, len(keys.all))
	standings := ring.Standings(keys.ids, now)
	for i, g := range keys.all {
		if keys.ids[i] == (wire.UUID{}) {
			counting = append(counting, g)
			continue
		}
		is := standings[i]
		keys.due, keys.flips = min(keys.due, is.Due), min(keys.flips, is.Flips)
		switch {
		case is.Open:
			keys.open = append(keys.open, g)
			keys.why = is.Why
		case is.Counts:
			counting = append(counting, g)
		}
		keys.urgent = keys.urgent || is.Urgent
	}
	if keys.open != nil && keys.why == nil {
		keys.why = unasked()
	}
	next.set(s.parts().unlocking(counting, keys.features))
	next.note(func(own *particulars) { own.keys = &keys })
	return &next
}
