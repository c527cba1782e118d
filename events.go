package polargate

import (
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/polargate/polargate/internal/clock"
)

// notice is a signed event of a type that matters here.
type notice struct {
	kind string
	data fields
	raw  []byte // of data
	// organization is the one the event belongs to; "" if it doesn't say.
	organization string
	// customer is the one the event is about, as in its data.
	customer fields
	// at is when it happened, and sent when this attempt was made, both by Polar's clock;
	// came is when it arrived, by the cache's clock.
	at, sent time.Time
	came     clock.Local
}

// maxHeld bounds the events that wait until the organization is known. If an event is
// pushed out, its customer is looked up at their next request, as everybody is then.
const maxHeld = 100

// takeEvent applies a signed event that was sent at that time. An event that can't be
// read is acknowledged too: it won't be better when it is sent again.
func (c *Customers) takeEvent(body []byte, sent time.Time) {
	n := notice{sent: sent, came: c.cache.now()}
	c.warming.lastEvent.Store(int64(n.came))
	f, err := object(body)
	if err != nil {
		c.unreadable(n, err)
		return
	}
	f.text("type", &n.kind)
	ofGrant := strings.HasPrefix(n.kind, grantEvents)
	if n.kind != "customer.state_changed" && n.kind != "customer.deleted" && !ofGrant {
		c.cache.counts.eventsUnknown.Add(1)
		return
	}
	f.time("timestamp", &n.at)
	n.raw = f["data"]
	if n.data, err = object(n.raw); err != nil {
		c.unreadable(n, err)
		return
	}
	if n.customer = n.data; ofGrant {
		n.customer = nil
		optional(n.data, "customer", &n.customer)
	}
	var organization string
	n.customer.text("organization_id", &organization)
	n.organization, _ = canonicalUUID4(organization)
	if !c.hold(n) {
		c.take(n)
	}
}

// hold keeps an event while the organization isn't known, and reports whether that is so.
// Only Polar's answer to the access token says it: a secret may belong to an endpoint in
// the sandbox.
func (c *Customers) hold(n notice) bool {
	o := &c.organization
	o.Lock()
	if o.id != "" || n.organization == "" {
		o.Unlock()
		return false
	}
	if len(o.held) == maxHeld {
		o.held = slices.Delete(o.held, 0, 1)
	}
	o.held = append(o.held, n)
	ask := !o.asking
	o.asking = true
	o.Unlock()
	who, err := readCustomer(n.customer, "")
	if err == nil {
		c.cache.invalidate(who) // as they may be cached as not known
	}
	if ask {
		c.cache.goBehind(func() {
			if err == nil {
				_, err = c.cache.fetch(c.cache.life, who.ids()[0], unlessFresh)
				_ = c.callError(err) // which logs what is a fault here
			}
			o.Lock()
			o.asking = false
			o.Unlock()
		})
	}
	return true
}

// learn records the organization of the access token, as Polar said it, and applies the
// events that waited for it.
func (c *Customers) learn(organization string) {
	id, ok := canonicalUUID4(organization)
	o := &c.organization
	o.Lock()
	if !ok || o.id != "" {
		o.Unlock()
		return
	}
	held := o.held
	o.id, o.held = id, nil
	o.Unlock()
	for _, n := range held {
		c.take(n)
	}
}

// take applies an event, if it belongs to this organization.
func (c *Customers) take(n notice) {
	ours := c.organizationID()
	if n.organization != "" && n.organization != ours {
		c.cache.counts.eventsRefused.Add(1)
		c.seldom.Warn(c.config.Logger, "foreign event", "polargate: a webhook of another organization was refused: give this handler the secrets of this organization's endpoints alone, not those of the sandbox",
			"type", n.kind, "organization", n.organization, "expected", ours)
		return
	}
	if strings.HasPrefix(n.kind, grantEvents) {
		c.takeGrant(n)
		return
	}
	var value *Entitlements
	var err error
	if n.kind == "customer.deleted" {
		value, err = readDeleted(n.raw, ours)
	} else {
		value, err = readEvent(n.raw, ours, c.config.Features)
	}
	switch {
	case err != nil:
	case n.organization == "":
		err = errors.New("its organization is missing")
	case n.at.IsZero():
		err = errors.New("its time is missing")
	case value.unread&listOfBenefits != 0:
		err = errors.New("its list of granted benefits is missing or no list")
	}
	if err != nil {
		c.unreadable(n, err)
		return
	}
	// An event that couldn't be delivered is sent again for hours. Both times are
	// Polar's. The time of sending is in whole seconds, and no event happened after it.
	at := n.at
	if latest := n.sent.Add(time.Second); at.After(latest) {
		at = latest
	}
	value.at = clock.PolarTime(at)
	c.cache.dropLicenses(value, value.licenseKeyIDs(), true, 0)
	if !c.cache.applyEvent(value, max(0, n.sent.Sub(at))+c.cache.now().Sub(n.came)) {
		c.cache.counts.eventsOld.Add(1)
		return
	}
	c.cache.counts.events.Add(1)
}

// grantEvents are benefit_grant.created, .updated, .revoked and any others.
const grantEvents = "benefit_grant."

// takeGrant drops from the cache the license keys that an event about a grant names. What
// the customer has comes with the customer.state_changed that follows.
func (c *Customers) takeGrant(n notice) {
	var ids []uuid
	for _, name := range []string{"properties", "previous_properties"} {
		var properties fields
		var id string
		optional(n.data, name, &properties)
		properties.text("license_key_id", &id)
		if id, ok := parseUUID(id); ok && !slices.Contains(ids, id) {
			ids = append(ids, id)
		}
	}
	if len(ids) == 0 { // a benefit of another type
		c.cache.counts.eventsUnknown.Add(1)
		return
	}
	who, err := readCustomer(n.customer, c.organizationID())
	if err == nil && n.organization == "" {
		err = errors.New("its organization is missing")
	}
	if err != nil {
		c.unreadable(n, err)
		return
	}
	revoked := clock.Polar(0)
	if n.kind == grantEvents+"revoked" {
		revoked = clock.PolarTime(n.at)
	}
	c.cache.dropLicenses(who, ids, false, revoked)
	c.cache.counts.events.Add(1)
}

// unreadable handles an event that can't be read. If it says whom it is about, that
// customer's next request asks Polar: something is new, and only Polar can say what.
func (c *Customers) unreadable(n notice, err error) {
	c.cache.counts.eventsRefused.Add(1)
	c.seldom.Warn(c.config.Logger, "unreadable event", "polargate: a webhook was signed, but cannot be read", "type", n.kind, "error", err)
	if of, err := readCustomer(n.customer, c.organizationID()); err == nil {
		c.cache.invalidate(of)
	}
}
