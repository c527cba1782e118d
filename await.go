package polargate

import (
	"context"
	"errors"
	"time"

	"github.com/polargate/polargate/internal/flight"
)

// shortestWait and longestWait bound the pause between two requests of Await.
const (
	shortestWait = time.Second
	longestWait  = 10 * time.Second
)

// Await waits until a customer has what is required, and then returns their Entitlements.
// Use it on the page that customers return to from the checkout: Polar grants what they
// bought in the background, seconds after the payment and sometimes minutes.
//
//	ctx, cancel := context.WithTimeout(r.Context(), 15*time.Second)
//	defer cancel()
//	have, err := customers.Await(ctx, customer, polargate.Feature("export"))
//
// If what is in memory meets the requirements, as in Decide, Await returns at once.
// Otherwise it asks Polar now, again after 1 second, and then with pauses that double up
// to 10 seconds, within the request budget. All callers who wait for the same customer
// share the requests. A webhook about the customer ends a pause at once. Without
// requirements, Await waits until Polar knows the customer.
//
// If ctx ends first, the error is a *MissingError that says what the customer still
// lacks, and the Entitlements are the last that Polar reported, or nil if there were
// none. Give ctx a deadline: without one, Await waits for as long as it takes. A
// requirement that nobody could ever meet, and an id that Polar can't be asked about, are
// an *InputError at once. ErrMisconfigured and ErrClosed are returned at once too.
func (c *Customers) Await(ctx context.Context, customer CustomerRef, requirements ...Requirement) (*Entitlements, error) {
	if ctx == nil {
		return nil, errNilContext
	}
	if err := customer.check(); err != nil {
		return nil, err
	}
	if err := All(requirements...).Validate(); err != nil {
		return nil, err
	}
	key := customer.key
	news := make(chan struct{}, 1)
	defer c.cache.listen(key, news)()

	value, sure := c.cache.latest(key)
	pause := shortestWait
	var vain error // why the last question had no answer
	for due := true; ; {
		if sure && value.permits(requirements) {
			return value, nil
		}
		wait := pause
		if due || !c.cache.askedSince(key, c.cache.now().After(-pause/4)) { // else somebody just has
			var answer *Entitlements
			answer, vain = c.cache.fetch(ctx, key, inAnyCase)
			switch e, _ := errors.AsType[*Error](vain); {
			case vain == nil:
				value = answer
			case ctx.Err() != nil:
			case e == nil || tokenRefused(vain) || c.cache.life.Err() != nil:
				return value, c.callError(vain)
			default:
				wait = max(wait, e.RetryAfter)
				if old, err := c.cache.staleOnError(key, vain); err == nil && old.permits(requirements) {
					return old, nil
				}
			}
			if vain == nil && value.permits(requirements) {
				return value, nil
			}
		}
		pause = min(2*pause, longestWait)
		told := false
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-news:
			told, pause = true, shortestWait // the rest of what was bought may follow
		case <-c.cache.life.Done():
			timer.Stop()
			return value, c.callError(flight.ErrClosed)
		case <-ctx.Done():
			timer.Stop()
			return value, value.lacking(requirements, ctx.Err(), vain)
		}
		timer.Stop()
		if newer, known := c.cache.latest(key); newer != nil {
			value, sure = newer, known
		}
		due = told && !sure // it says that something is new, but not what
	}
}

// permits reports whether these are the entitlements of a known customer who meets all
// requirements.
func (e *Entitlements) permits(requirements []Requirement) bool {
	_, unmet := e.Unmet(requirements...)
	return e.Known() && !unmet
}

// lacking is the error of a wait that has ended.
func (e *Entitlements) lacking(requirements []Requirement, ended, vain error) error {
	missing := &MissingError{Err: ended}
	missing.Required, _ = e.Unmet(requirements...)
	if failure, ok := errors.AsType[*Error](vain); ok {
		missing.Err = errors.Join(ended, failure)
	}
	return missing
}

// MissingError says what a customer still lacked when Await gave up waiting.
type MissingError struct {
	// Required is the first unmet requirement. It is the zero Requirement if there was
	// none and Polar didn't know the customer.
	Required Requirement
	// Err is why the wait ended: context.DeadlineExceeded or context.Canceled, joined
	// with an *Error if the last request to Polar failed.
	Err error
}

// Error tells a developer what is missing and what to do. For a person, see Message.
func (e *MissingError) Error() string {
	what := "Polar doesn't know the customer yet"
	if e.Required.kind != 0 {
		what = "the customer doesn't have " + e.Required.String() + " yet"
	}
	return "polargate: await: " + what + " (" + e.Err.Error() + "). Polar grants a purchase seconds to minutes after the payment: show a page that reloads, and check that the product has the benefit."
}

func (e *MissingError) message(l *Language) string { return l.text(phraseMissing) }

// Unwrap returns why the wait ended, for errors.Is and errors.As.
func (e *MissingError) Unwrap() error { return e.Err }
