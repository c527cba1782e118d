package polartest

import (
	"cmp"
	"context"

	"github.com/polargate/polargate/internal/incontext"
	"github.com/polargate/polargate/polartest/internal/pydantic"
)

// An Entitlement is a part of what [Entitlements] puts into a context. Make one with [With],
// [WithBenefit], [WithMeter], [WithSubscription], [As] or [In].
type Entitlement func(*entitlements)

type entitlements struct {
	ctx      context.Context
	customer Customer
	features map[string][]string
}

// Entitlements returns a context in which polargate.FromContext finds a customer who has these
// entitlements, for the test of a handler alone: without a Polar, a cache or a route around it.
//
//	r := httptest.NewRequest("GET", "/export", nil)
//	r = r.WithContext(polartest.Entitlements(polartest.With("export")))
//	handler.ServeHTTP(w, r)
//
// The customer is known, and has no more than what is given. What a handler asks Customers about
// by itself needs a [Polar]. It panics where [Polar.AddCustomer] does.
func Entitlements(of ...Entitlement) context.Context {
	e := &entitlements{ctx: context.Background(), features: map[string][]string{}}
	for _, add := range of {
		add(e)
	}
	polar := New(Config{})
	customer := polar.AddCustomer(e.customer)
	json, err := pydantic.Print(polar.describeState(&customer))
	if err != nil {
		panic("polartest: Entitlements: " + err.Error()) // AddCustomer has printed it already
	}
	return context.WithValue(e.ctx, incontext.Entitlements{}, &incontext.State{JSON: json, Features: e.features, At: polar.Now()})
}

// With gives features, as a benefit that unlocks them.
func With(features ...string) Entitlement {
	return func(e *entitlements) {
		benefit := newUUID()
		e.customer.Benefits = append(e.customer.Benefits, Benefit{BenefitID: benefit})
		e.features[benefit] = features
	}
}

// WithBenefit gives a benefit, which also unlocks these features.
func WithBenefit(b Benefit, features ...string) Entitlement {
	return func(e *entitlements) {
		b.BenefitID = cmp.Or(b.BenefitID, newUUID())
		e.customer.Benefits = append(e.customer.Benefits, b)
		e.features[mustUUID4("WithBenefit", b.BenefitID)] = features
	}
}

// WithMeter gives a meter with what was credited and used of it.
func WithMeter(m Meter) Entitlement {
	return func(e *entitlements) { e.customer.Meters = append(e.customer.Meters, m) }
}

// WithSubscription gives a subscription.
func WithSubscription(s Subscription) Entitlement {
	return func(e *entitlements) { e.customer.Subscriptions = append(e.customer.Subscriptions, s) }
}

// As says who the customer is. Their Subscriptions, Benefits and Meters are in addition to the
// others that are given. Without it, ids are random.
func As(c Customer) Entitlement {
	return func(e *entitlements) {
		c.Subscriptions = append(c.Subscriptions[:len(c.Subscriptions):len(c.Subscriptions)], e.customer.Subscriptions...)
		c.Benefits = append(c.Benefits[:len(c.Benefits):len(c.Benefits)], e.customer.Benefits...)
		c.Meters = append(c.Meters[:len(c.Meters):len(c.Meters)], e.customer.Meters...)
		e.customer = c
	}
}

// In derives the context from another one, such as that of a request, instead of
// context.Background.
func In(ctx context.Context) Entitlement { return func(e *entitlements) { e.ctx = ctx } }
