// Package fact is the form in which replicas tell each other what Polar said of a customer
// or a license key.
//
// It promises that what Parse returns was written by Bytes of a build that means the same by
// it. It does not seal anything, knows no order of facts, and does not check what the texts in
// them say.
package fact

import (
	"encoding/json"
	"errors"

	"github.com/polargate/polargate/internal/clock"
)

// version is that of the form; another is not read.
const version = 1

// Fact is what a record says. Exactly one of Customer, License, Refused and Dropped is set.
type Fact struct {
	Version int `json:"v"`
	// At is Polar's time. That of the record may be a little later, for the order.
	At clock.Polar `json:"at"`
	// Organization is the one whose customer or license key this is; "" if that is unknown.
	Organization string `json:"org,omitempty"`

	Customer *Customer `json:"customer,omitempty"`
	// License is a license key that Polar granted, without the key itself.
	License *License `json:"license,omitempty"`
	// Refused is why Polar refused a license key.
	Refused string `json:"refused,omitempty"`
	// Dropped has a license key asked about again.
	Dropped *Dropped `json:"dropped,omitempty"`
}

// Customer is a customer's state.
type Customer struct {
	// Known is whether Polar has this customer. An unknown one is named by the id that was
	// asked about.
	Known    bool   `json:"known"`
	ID       string `json:"id,omitempty"` // Polar's
	External string `json:"external,omitempty"`
	// Event says that a webhook told of this state, and Doubtful that Polar must be asked
	// all the same, because the webhook was late or could not be read in full.
	Event    bool `json:"event,omitempty"`
	Doubtful bool `json:"doubtful,omitempty"`
	// Listed says that it was read from lists, which changed meanwhile: Polar is asked
	// before anybody is refused.
	Listed bool `json:"listed,omitempty"`

	Benefits []Benefit `json:"benefits,omitempty"`
	Products []string  `json:"products,omitempty"`
	// Subscriptions are what is known of those that make the products.
	Subscriptions []Subscription `json:"subscriptions,omitempty"`

	Meters []Meter `json:"meters,omitempty"`
	Keys   []Key   `json:"keys,omitempty"`
}

// Benefit is a benefit that is granted. Metadata and Properties are JSON.
type Benefit struct {
	ID         string `json:"id"`
	Type       string `json:"type,omitempty"`
	Metadata   string `json:"metadata,omitempty"`
	Properties string `json:"properties,omitempty"`
}

// Subscription is one that is active or trialing. A time is 0 if it is not known.
type Subscription struct {
	ID       string      `json:"id,omitempty"`
	Product  string      `json:"product"`
	Status   string      `json:"status,omitempty"`
	Trial    clock.Polar `json:"trial,omitempty"` // when it ends
	Paid     clock.Polar `json:"paid,omitempty"`  // until then
	Canceled bool        `json:"canceled,omitempty"`
	End      clock.Polar `json:"end,omitempty"` // for good
}

// Meter is the state of a meter.
type Meter struct {
	ID       string  `json:"id"`
	Consumed float64 `json:"consumed"`
	Credited float64 `json:"credited"`
	Balance  float64 `json:"balance"`
	// Counted is when Polar counted; 0 if it didn't say.
	Counted clock.Polar `json:"counted,omitempty"`
}

// Key is whether a license key counts that comes with a benefit.
type Key struct {
	ID      string      `json:"id"`
	Granted bool        `json:"granted,omitempty"`
	Expires clock.Polar `json:"expires,omitempty"` // 0 if it does not
	At      clock.Polar `json:"at"`
}

// License is what a program may need to know of a license key, without what is personal.
type License struct {
	ID               string      `json:"id"`
	Organization     string      `json:"org"`
	Benefit          string      `json:"benefit"`
	Customer         string      `json:"customer,omitempty"`
	External         string      `json:"external,omitempty"` // the customer's external id
	Display          string      `json:"display,omitempty"`
	Status           string      `json:"status"`
	LimitActivations *int64      `json:"limit_activations,omitempty"`
	Usage            int64       `json:"usage,omitempty"`
	LimitUsage       *int64      `json:"limit_usage,omitempty"`
	Validations      int64       `json:"validations,omitempty"`
	LastValidated    clock.Polar `json:"validated,omitempty"`
	Expires          clock.Polar `json:"expires,omitempty"` // 0 if it does not
	Ends             clock.Polar `json:"ends,omitempty"`    // the subscription, if that is known to
	Created          clock.Polar `json:"created,omitempty"`
	Modified         clock.Polar `json:"modified,omitempty"`
}

// Dropped is an event about a license key, of the time of the fact.
type Dropped struct {
	License  string `json:"license"`
	Customer string `json:"customer"`
	// Revoked is whether its grant was revoked.
	Revoked bool `json:"revoked,omitempty"`
}

// ErrUnreadable means that these bytes are no fact of this version.
var ErrUnreadable = errors.New("no fact of this version")

// Bytes writes a fact.
func (f Fact) Bytes() []byte {
	f.Version = version
	data, err := json.Marshal(f)
	if err != nil {
		panic(err) // only numbers that are not finite could fail, and JSON has none to give
	}
	return data
}

// Parse reads a fact.
func Parse(data []byte) (f Fact, err error) {
	if err := json.Unmarshal(data, &f); err != nil || f.Version != version {
		return Fact{}, ErrUnreadable
	}
	n := 0
	for _, is := range []bool{f.Customer != nil, f.License != nil, f.Refused != "", f.Dropped != nil} {
		if is {
			n++
		}
	}
	if n != 1 {
		return Fact{}, ErrUnreadable
	}
	return f, nil
}
