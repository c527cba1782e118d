package polargate

import (
	"context"
	"errors"
	"iter"
	"net/http"
	"sync"
	"time"

	"github.com/polargate/polargate/internal/flight"
	"github.com/polargate/polargate/internal/memory"
	"github.com/polargate/polargate/internal/rights"
	"github.com/polargate/polargate/internal/writers"
)

// Watch returns a context that ends when a customer no longer meets requirements, for
// work that runs for long: streams, WebSockets, jobs.
//
//	watched, stop := customers.Watch(ctx, customer, polargate.Feature("export"))
//	defer stop()
//	...
//	var refusal *polargate.Refusal
//	if errors.As(context.Cause(watched), &refusal) { // the right has ended
//
// It decides as Decide does, which may ask Polar. If the customer isn't let in, the
// context has ended when Watch returns. Later, it ends
//   - when a webhook, to this replica or another, says that the right has ended,
//   - when a license key, a right or an Overlay expires whose end is known,
//   - without webhooks, when Polar is asked again, at latest after FreshFor and StaleFor,
//   - with a 503 Refusal, if Polar couldn't be asked for as long as GracePeriod.
//
// context.Cause is then the *Refusal. If ctx ends first, the cause is that of ctx. If the
// Customers are closed, the Refusal's Err is an *Error with ErrClosed.
//
// Call stop when the work is over; more than once does no harm. All who watch the same
// customer share the requests to Polar, and none needs a goroutine. The zero CustomerRef
// is refused with 401.
func (c *Customers) Watch(ctx context.Context, customer CustomerRef, requirements ...Requirement) (watched context.Context, stop context.CancelFunc) {
	if ctx == nil {
		panic("polargate: Watch needs a context")
	}
	value, refusal := c.Decide(ctx, customer, requirements...)
	return c.watch(ctx, &question{key: customer.key}, value, refusal, requirements, false)
}

// WatchLicense is Watch for a license key. The key is cleaned as by ParseKey.
func (c *Customers) WatchLicense(ctx context.Context, licenseKey string, requirements ...Requirement) (watched context.Context, stop context.CancelFunc) {
	if ctx == nil {
		panic("polargate: WatchLicense needs a context")
	}
	value, refusal := c.DecideLicense(ctx, licenseKey, requirements...)
	return c.watch(ctx, &question{key: licenseCacheKey(licenseKey)}, value, refusal, requirements, false)
}

// licenseCacheKey is the name in the cache of a license key as a person typed it.
func licenseCacheKey(licenseKey string) memory.Key {
	key, err := ParseKey(licenseKey)
	if err != nil {
		return memory.Key{Kind: memory.ByLicenseKey}
	}
	return memory.Key{Kind: memory.ByLicenseKey, ID: key.Reveal()}
}

// watch watches a customer or license key about which was just decided, by value, unless
// they were refused. failOpen goes on while nobody can say.
func (c *Customers) watch(ctx context.Context, q *question, value *Entitlements, refusal *Refusal, requirements []Requirement, failOpen bool) (watched context.Context, stop context.CancelFunc) {
	watched, end := context.WithCancelCause(ctx)
	if refusal != nil {
		end(refusal)
		return watched, func() {}
	}
	key := q.key.Own()
	requirements = ownRequirements(requirements)
	route, site := q.route, q.site
	var overlays alarm
	tell := func(value *Entitlements, err error) {
		have, refusal := c.decideWatched(ctx, key, value, c.callError(err), requirements)
		if refusal != nil && refusal.Status == http.StatusServiceUnavailable && failOpen && c.cache.Life.Err() == nil {
			return
		}
		if refusal != nil && watched.Err() == nil {
			end(refusal)
			c.tell(ctx, &question{key: key, route: route, site: site, seen: inMemory}, requirements, nil, refusal, false)
		}
		overlays.set(have)
	}
	overlays.ring = func() { tell(c.look(c.cache.Life, key)) }
	overlays.set(value)
	leave := c.watchNews(key, &memory.Stream{Tell: func(have *rights.State, err error) { tell((*Entitlements)(have), err) }}, value.bare().state())
	detach := context.AfterFunc(ctx, func() {
		overlays.stop()
		leave()
	})
	return watched, func() {
		detach()
		overlays.stop()
		leave()
		end(context.Canceled)
	}
}

// Changes gives the Entitlements of a customer: at once, and then each time that they
// change. Changes that come faster than the loop's body are given as one.
//
//	for have, err := range customers.Changes(ctx, customer) {
//		if err != nil { ... } // nobody can say at the moment; the loop goes on
//
// The loop ends when ctx does or the Customers are closed, or after an *InputError for an
// id that Polar can't be asked about. An error is given once until there are Entitlements
// again. Polar is asked as for Watch.
func (c *Customers) Changes(ctx context.Context, customer CustomerRef) iter.Seq2[*Entitlements, error] {
	return func(yield func(*Entitlements, error) bool) {
		if ctx == nil {
			yield(nil, errNilContext)
			return
		}
		if err := customer.check(); err != nil {
			yield(nil, err)
			return
		}
		key := customer.key.Own()
		news := make(chan struct{}, 1)
		defer c.watchNews(key, &memory.Stream{Tell: func(*rights.State, error) {
			select {
			case news <- struct{}{}:
			default: // the loop has not taken the last news yet
			}
		}}, nil)()
		var last *Entitlements
		failed := false
		for ctx.Err() == nil && c.cache.Life.Err() == nil {
			value, err := c.Entitlements(ctx, customer)
			switch {
			case ctx.Err() != nil || c.cache.Life.Err() != nil:
				return
			case err != nil && !failed, err == nil && (failed || last == nil || !last.saysTheSame(value)):
				if failed = err != nil; !failed {
					last = value
				}
				if !yield(value, err) {
					return
				}
			}
			ends, stop := value.overlayEnds()
			select {
			case <-news:
			case <-ends:
			case <-ctx.Done():
			case <-c.cache.Life.Done():
			}
			stop()
		}
	}
}

// alarm rings when an overlay ends of somebody who is watched.
type alarm struct {
	ring func()

	mu      sync.Mutex
	timer   *time.Timer
	stopped bool
}

// set has it ring when the first overlay in value ends. value may be nil.
func (a *alarm) set(value *Entitlements) {
	at := value.nextOverlayEnd()
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case a.stopped || at.IsZero() && a.timer == nil:
	case at.IsZero():
		a.timer.Stop()
	case a.timer == nil:
		a.timer = time.AfterFunc(untilEnd(at), a.ring)
	default:
		a.timer.Reset(untilEnd(at))
	}
}

func (a *alarm) stop() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.stopped = true
	if a.timer != nil {
		a.timer.Stop()
	}
}

// decideWatched decides about a stream, which ends with the refusal. An answer of late may be
// doubted, as any refusal is.
func (c *Customers) decideWatched(ctx context.Context, key memory.Key, value *Entitlements, err error, required []Requirement) (*Entitlements, *Refusal) {
	if key.Kind == memory.ByLicenseKey {
		return c.decideLicense(ctx, value, err, required)
	}
	return c.decideCustomer(ctx, key, value, err, required)
}

// serveWatched serves a request with a context that ends when the right to it does, and
// ends the connection of a handler that doesn't. charged is whether it costs what the
// route spends.
func (c *Customers) serveWatched(w http.ResponseWriter, r *http.Request, next http.Handler, route *Route, q *question, value *Entitlements, charged bool) {
	ctx, stop := c.watch(r.Context(), q, value, nil, route.Require, c.staysOpen(r.Context(), route, CustomerRef{q.key}))
	defer stop()
	watched := &writers.Watched{Status: writers.Status{ResponseWriter: w}}
	defer watched.Handled()
	defer context.AfterFunc(ctx, func() {
		if _, refused := context.Cause(ctx).(*Refusal); refused {
			watched.CutSoon()
		}
	})()
	inner := r.WithContext(ctx)
	defer bringBack(r, inner, ctx)
	if charged {
		c.serveSpending(watched, inner, next, route, q, value)
	} else {
		serve(watched, inner, next, value)
	}
}

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
// requirement that no customer can ever meet, and an id that Polar can't be asked about, are
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
	if key.Kind == memory.ByMember {
		return c.awaitMember(ctx, customer, requirements)
	}
	news := make(chan struct{}, 1)
	defer c.cache.Listen(key, news)()

	latest, sure := c.cache.Latest(key)
	value := (*Entitlements)(latest)
	pause := shortestWait
	over := func(value *Entitlements) *Entitlements { return c.overlaid(ctx, customer, value) }
	var failed error // why the last question had no answer
	for due := true; ; {
		if have := over(value); have.permits(requirements) && (sure || over(nil).permits(requirements)) {
			return have, nil
		}
		wait := pause
		if due || !c.cache.AskedSince(key, c.cache.Now().After(-pause/4)) { // otherwise another caller just did
			var answer *rights.State
			answer, failed = c.cache.Fetch(ctx, key, memory.InAnyCase)
			switch e, _ := errors.AsType[*Error](failed); {
			case failed == nil:
				value = (*Entitlements)(answer)
			case ctx.Err() != nil:
			case e == nil || tokenRefused(failed) || c.cache.Life.Err() != nil:
				return value, c.callError(failed)
			default:
				wait = max(wait, e.RetryAfter)
				if old, err := c.cache.StaleOnError(key, failed); err == nil {
					if have := over((*Entitlements)(old)); have.permits(requirements) {
						return have, nil
					}
				}
			}
			if have := over(value); failed == nil && have.permits(requirements) {
				return have, nil
			}
		}
		pause = min(2*pause, longestWait)
		told := false
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-news:
			told, pause = true, shortestWait // more of the purchase may follow
		case <-c.cache.Life.Done():
			timer.Stop()
			return value, c.callError(flight.ErrClosed)
		case <-ctx.Done():
			timer.Stop()
			have := over(value)
			return have, have.lacking(requirements, ctx.Err(), failed)
		}
		timer.Stop()
		if newer, known := c.cache.Latest(key); newer != nil {
			value, sure = (*Entitlements)(newer), known
		}
		due = told && !sure // something changed, but it isn't known what
	}
}
