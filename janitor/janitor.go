// Package janitor finds activations that no computer uses any more, and deactivates them.
//
// Polar counts an activation for each request that succeeds, and doesn't recognize one that
// it gave before. If a program is killed, or loses its connection, after Polar has answered
// and before the answer is stored, it activates again: the first activation stays counted,
// and nobody can use it. Once all are counted, the customer can't activate at all.
//
// Activations say who made them: each has the id of the installation and of the attempt in
// its meta. So two of the same installation on the same computer are one too many, and the
// older is the one that was lost. Find lists those, and changes nothing; Leak.Deactivate
// deactivates one:
//
//	for leak, err := range janitor.Find(ctx, client, janitor.Options{}) {
//		if err != nil { … }
//		fmt.Println(leak)
//		err = leak.Deactivate(ctx) // once you have read what would be deactivated
//	}
//
// Activations that this library didn't make are left alone, unless Options.UnusedFor is set.
// Two installations on one computer are two users of it, and both stay. The client needs an
// access token with the scopes license_keys:read and license_keys:write.
package janitor

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"time"

	"github.com/polargate/polargate"
)

// Options say what counts as not used any more.
type Options struct {
	// Keys chooses the license keys to look through. The zero value is all.
	Keys polargate.KeyFilter
	// OlderThan is the age from which an activation can be a leak: a younger one may belong
	// to an attempt that is still under way. 0 means 1 hour.
	OlderThan time.Duration
	// UnusedFor also finds all activations, whoever made them, of keys that nobody has
	// validated for that long: Polar notes when a key was validated, and not by which
	// computer. Choose more than your programs' GracePeriod, and leave it 0, which finds
	// none, if some of your customers are never online.
	UnusedFor time.Duration
	// Keep, if it isn't nil, keeps what it returns true for.
	Keep func(*polargate.LicenseKey, polargate.Activation) bool
}

// Why is why an activation is taken for unused.
type Why string

// The reasons.
const (
	// Replaced: the same installation has activated again since.
	Replaced Why = "replaced"
	// Unused: nobody has validated the license key for Options.UnusedFor.
	Unused Why = "unused"
)

// Leak is an activation that no computer uses.
type Leak struct {
	// LicenseKey is the license key, and Activation the activation to be deactivated.
	LicenseKey *polargate.LicenseKey
	Activation polargate.Activation
	Why        Why
	// ReplacedBy is the id of the activation that stays; "" if Why is Unused.
	ReplacedBy string

	client *polargate.Client
}

// String tells what it is by its ids, without the license key.
func (l Leak) String() string {
	text := fmt.Sprintf("activation %s of license key %s (%v), made %s: %s", l.Activation.ID, l.LicenseKey.ID, l.LicenseKey.Key,
		l.Activation.CreatedAt.UTC().Format(time.RFC3339), l.Why)
	if l.ReplacedBy != "" {
		text += " by " + l.ReplacedBy
	}
	return text
}

// Deactivate deactivates the activation. One that is gone already is no error.
func (l Leak) Deactivate(ctx context.Context) error {
	err := l.client.Deactivate(ctx, l.LicenseKey.Key, l.Activation.ID)
	if errors.Is(err, polargate.ErrSeatReleased) {
		return nil
	}
	return err
}

// Find looks through license keys for activations that no computer uses. It changes nothing.
// It takes a request for each 100 keys, and one more for each key that can be activated,
// within the client's RequestsPerMinute. An error comes last, with a zero Leak.
func Find(ctx context.Context, client *polargate.Client, o Options) iter.Seq2[Leak, error] {
	o.OlderThan = cmp.Or(o.OlderThan, time.Hour)
	return func(yield func(Leak, error) bool) {
		if client == nil || o.OlderThan < 0 || o.UnusedFor < 0 {
			yield(Leak{}, &polargate.InputError{Field: "janitor", Problem: "needs a client, and durations that aren't negative"})
			return
		}
		for listed, err := range client.LicenseKeys(ctx, o.Keys) {
			if err != nil {
				yield(Leak{}, err)
				return
			}
			if listed.LimitActivations == nil {
				continue // it can't be activated
			}
			key, err := client.LicenseKey(ctx, listed.ID)
			if errors.Is(err, polargate.ErrUnknownKey) {
				continue // deleted since
			}
			if err != nil {
				yield(Leak{}, err)
				return
			}
			for _, leak := range leaks(key, o, time.Now()) {
				leak.client = client
				if !yield(leak, nil) {
					return
				}
			}
		}
	}
}

// installation is who made an activation: one user of one computer, with one program. ok is
// false if that can't be told.
type installation struct{ id, fingerprint, app string }

func installationOf(a polargate.Activation) (i installation, ok bool) {
	text := func(name string) string {
		s, _ := a.Meta[name].(string)
		return s
	}
	i = installation{text("installation"), text("fingerprint"), text("app")}
	return i, i.id != "" && i.fingerprint != "" && text("attempt") != ""
}

// leaks are the activations of a key that no computer uses, the oldest first.
func leaks(key *polargate.LicenseKey, o Options, now time.Time) (found []Leak) {
	all := slices.Clone(key.Activations)
	slices.SortStableFunc(all, func(a, b polargate.Activation) int { return a.CreatedAt.Compare(b.CreatedAt) })
	latest := map[installation]string{}
	for _, a := range all {
		if who, ok := installationOf(a); ok {
			latest[who] = a.ID
		}
	}
	unused := o.UnusedFor > 0 && now.Sub(key.CreatedAt) >= o.UnusedFor && now.Sub(key.LastValidatedAt) >= o.UnusedFor
	for _, a := range all {
		leak := Leak{LicenseKey: key, Activation: a}
		age := now.Sub(a.CreatedAt)
		switch who, ok := installationOf(a); {
		case a.CreatedAt.IsZero() || age < o.OlderThan:
			continue
		case ok && latest[who] != a.ID:
			leak.Why, leak.ReplacedBy = Replaced, latest[who]
		case unused && age >= o.UnusedFor:
			leak.Why = Unused
		default:
			continue
		}
		if o.Keep == nil || !o.Keep(key, a) {
			found = append(found, leak)
		}
	}
	return found
}
