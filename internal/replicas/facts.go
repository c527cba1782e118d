package replicas

import (
	"errors"
	"time"

	"github.com/polargate/polargate/internal/clock"
	"github.com/polargate/polargate/internal/fact"
	"github.com/polargate/polargate/internal/keyring"
	"github.com/polargate/polargate/internal/link"
	"github.com/polargate/polargate/internal/memory"
	"github.com/polargate/polargate/internal/rights"
	"github.com/polargate/polargate/internal/wire"
)

// factOf writes what Polar said; nil if it is of no use to other replicas.
func (r *Replicas) factOf(n memory.News) []byte {
	v := n.Value
	f := fact.Fact{At: v.At(), Organization: r.Organization()}
	if n.Key.Kind == memory.ByLicenseKey && !n.Event {
		return r.licenseFact(f, v)
	}
	c := &fact.Customer{Known: v.Known(), Event: n.Event, Doubtful: n.Doubtful, Listed: n.Listed, External: v.External()}
	f.Customer = c
	if v.Customer() != (wire.UUID{}) {
		c.ID = v.Customer().String()
	}
	switch {
	case v.Known() || n.Event:
	case n.Key.Kind == memory.ByPolarID:
		c.ID = n.Key.ID
	default:
		c.External = n.Key.ID
	}
	if v.HasKeys() {
		for _, k := range r.Cache.Keys.Facts(v.LicenseKeyIDs(), r.PolarNow()) {
			c.Keys = append(c.Keys, fact.Key{ID: k.ID.String(), Granted: k.Granted, Expires: k.Expires, At: k.At})
		}
	}
	c.Benefits, c.Products, c.Meters = fact.BenefitsOf(v.Grants()), v.Products(), fact.MetersOf(v.Meters())
	c.Subscriptions = fact.SubscriptionsOf(v.Subscriptions())
	return f.Bytes()
}

// licenseFact writes what Polar said of a license key. Whether a benefit is one that this
// program accepts is its own matter.
func (r *Replicas) licenseFact(f fact.Fact, v *rights.State) []byte {
	if v.At() == 0 || v.Refusal() == r.WrongBenefit {
		return nil
	}
	if f.License = r.License(v); f.License == nil {
		f.Refused = v.Refusal()
	}
	return f.Bytes()
}

// newsOfLicense is what a fact says of a license key.
func (r *Replicas) newsOfLicense(f fact.Fact, at clock.Polar, key memory.Key) memory.News {
	n := memory.News{Value: rights.Refused(f.Refused, f.At), Key: key, At: at, Shared: true}
	if f.License != nil {
		n.Value = r.StateOf(f.License, key.ID, f.At)
	}
	return n
}

var errOtherOrganization = errors.New("a fact about another organization")

// parse reads a record, and learns from it what it says beside its fact: the organization,
// and that Polar's clock is past its time.
func (r *Replicas) parse(shared link.Fact) (f fact.Fact, at clock.Polar, err error) {
	if f, err = fact.Parse(shared.Data); err != nil {
		return f, 0, err
	}
	switch ours := r.Organization(); {
	case f.Organization == "" || f.Organization == ours:
	case ours != "":
		return f, 0, errOtherOrganization
	default:
		r.Learn(f.Organization)
	}
	at = clock.PolarTime(shared.At)
	r.Cache.NoteLater(at)
	return f, at, nil
}

// newsOf is what a fact says of a customer, and of license keys.
func (r *Replicas) newsOf(f fact.Fact, at clock.Polar) (n memory.News, err error) {
	c := f.Customer
	n = memory.News{At: at, Event: c.Event, Doubtful: c.Doubtful, Listed: c.Listed, Shared: true}
	id, ok := wire.ParseUUID(c.ID)
	switch {
	case c.ID != "" && !ok:
		return n, fact.ErrUnreadable
	case !c.Known && !c.Event:
		n.Key = memory.Key{Kind: memory.ByExternalID, ID: c.External}
		if c.ID != "" {
			n.Key = memory.Key{Kind: memory.ByPolarID, ID: c.ID}
		}
		n.Value = rights.Of(wire.UUID{}, "", false, f.At)
		return n, nil
	case !ok:
		return n, fact.ErrUnreadable
	}
	n.Value = rights.Of(id, c.External, c.Known, f.At)
	n.Value.Grant(fact.PartsOf(c.Benefits, c.Products, c.Subscriptions, c.Meters), r.Features)
	return n, nil
}

// name is what the record of a customer or a license key is called.
func (r *Replicas) name(key memory.Key) link.Name {
	return r.Link.Name([memory.Kinds]string{"customer", "external id", "license key"}[key.Kind], key.ID)
}

// droppedName is what the record is called that says that an event told of a license key.
func (r *Replicas) droppedName(license string) link.Name { return r.Link.Name("license", license) }

// adopt has the cache take in a record that was read, if it says something younger. key is
// that of a record about a license key, which doesn't tell it; otherwise it may be empty.
func (r *Replicas) adopt(shared link.Fact, key memory.Key) {
	f, at, err := r.parse(shared)
	if err == nil {
		err = r.take(f, at, key)
	}
	if err != nil {
		r.Link.CannotRead("a record", err)
	}
}

// take has the cache take in a fact of that time.
func (r *Replicas) take(f fact.Fact, at clock.Polar, key memory.Key) error {
	switch {
	case f.Dropped != nil:
		return r.drop(f.Dropped, at)
	case f.Customer != nil:
		n, err := r.newsOf(f, at)
		if err != nil {
			return err
		}
		r.learnKeys(f.Customer.Keys)
		r.Cache.Adopt(n, r.age(n))
	case key.Kind == memory.ByLicenseKey: // otherwise nobody has asked for it
		n := r.newsOfLicense(f, at, key)
		r.Cache.Adopt(n, r.age(n))
	}
	return nil
}

// learnKeys takes in what another replica knows of license keys.
func (r *Replicas) learnKeys(keys []fact.Key) {
	var known []keyring.Fact
	for _, k := range keys {
		if id, ok := wire.ParseUUID(k.ID); ok {
			known = append(known, keyring.Fact{ID: id, Granted: k.Granted, Expires: k.Expires, At: k.At})
		}
	}
	if len(known) > 0 {
		r.Cache.Keys.Learn(known, r.PolarNow())
	}
}

func (r *Replicas) age(n memory.News) time.Duration { return max(0, r.PolarNow().Sub(n.Value.At())) }

// drop has a license key asked about again of which an event told, unless the answer is
// from well after the event.
func (r *Replicas) drop(d *fact.Dropped, at clock.Polar) error {
	id, ok := wire.ParseUUID(d.License)
	customer, _ := wire.ParseUUID(d.Customer)
	if !ok {
		return fact.ErrUnreadable
	}
	if !r.Cache.AnsweredBefore(id, at.Before(-memory.ReadTime)) {
		return nil
	}
	revoked := clock.Polar(0)
	if d.Revoked {
		revoked = at
	}
	r.Cache.DropLicenses(rights.Of(customer, "", false, 0), []wire.UUID{id}, false, revoked)
	return nil
}

// PublishDrop tells other replicas of an event about license keys of a customer.
func (r *Replicas) PublishDrop(customer wire.UUID, ids []wire.UUID, at clock.Polar, revoked bool) {
	var facts []link.Fact
	for _, id := range ids {
		f := fact.Fact{At: at, Organization: r.Organization(), Dropped: &fact.Dropped{License: id.String(), Customer: customer.String(), Revoked: revoked}}
		facts = append(facts, link.Fact{Name: r.droppedName(id.String()), At: at.Time(), Data: f.Bytes(), TTL: r.lasts()})
	}
	_, _ = r.Link.Put(r.Link.Life, facts...)
}

// lasts is how long what Polar said can be of use.
func (r *Replicas) lasts() time.Duration {
	c := r.Cache
	return max(c.FreshFor, c.StaleFor, c.GraceFor, c.UnknownFor, time.Millisecond)
}

// Publish puts what Polar said of a customer, under all their ids, or of a license key. That
// ends the claim to ask.
func (r *Replicas) Publish(n memory.News) {
	facts := r.factsOf(n)
	if facts == nil {
		_ = r.Link.Release(r.Link.Life, r.name(n.Key))
		return
	}
	younger, _ := r.Link.Put(r.Link.Life, facts...)
	for _, shared := range younger {
		f, _, err := r.parse(shared)
		if err == nil && n.Event && f.Customer != nil && !f.Customer.Event && n.Value.At() >= f.At.Before(memory.ReadTime) {
			// An answer of just before the event came, which replaces it; see eventAt.
			if at := memory.EventAt(n.Value.At(), f.At); at > n.At {
				n.At = at
				r.Publish(n)
			}
			return
		}
		r.adopt(shared, n.Key)
	}
}

// factsOf are the records for what Polar said; nil if none is of use to others.
func (r *Replicas) factsOf(n memory.News) (facts []link.Fact) {
	data := r.factOf(n)
	if data == nil {
		return nil
	}
	at, brief := n.At.Time(), max(r.Cache.UnknownFor, time.Millisecond)
	switch {
	case n.Key.Kind == memory.ByLicenseKey && n.Value.Known():
		return []link.Fact{{Name: r.name(n.Key), At: at, Data: data, TTL: r.lasts()}}
	case n.Value.Known() || n.Event:
		for _, key := range memory.Askable(n.Value) {
			facts = append(facts, link.Fact{Name: r.name(key), At: at, Data: data, TTL: r.lasts()})
		}
	default:
		facts = append(facts, link.Fact{Name: r.name(n.Key), At: at, Data: data, TTL: brief})
	}
	if n.Former != "" {
		gone := memory.News{Value: rights.Of(wire.UUID{}, "", false, n.Value.At()), Key: memory.Key{Kind: memory.ByExternalID, ID: n.Former}}
		facts = append(facts, link.Fact{Name: r.name(gone.Key), At: at, Data: r.factOf(gone), TTL: brief})
	}
	return facts
}
