package polargate

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/polargate/polargate/internal/clock"
	"github.com/polargate/polargate/internal/fact"
	"github.com/polargate/polargate/internal/flight"
	"github.com/polargate/polargate/internal/keyring"
	"github.com/polargate/polargate/internal/link"
	"github.com/polargate/polargate/internal/memory"
	"github.com/polargate/polargate/internal/pace"
	"github.com/polargate/polargate/internal/relay"
	"github.com/polargate/polargate/internal/rights"
	"github.com/polargate/polargate/internal/wire"
)

// replicas connects the cache with those of other replicas, through a Shared. Memory stays
// the first level: the store is asked before Polar is, and told what Polar said. Whatever
// fails here leaves the cache as it is without other replicas.
//
// A record holds a customer's state as Polar told it, under the name of each id that the
// customer is asked about by, so that either is one round trip; or Polar's answer about a
// license key that came with a request, under the name of the key. That an event told of a
// license key is a record under the name of its id.
type replicas struct {
	link     *link.Link
	cache    *memory.Cache
	features map[string][]string
	budget   *pace.Budget // of this replica alone
	limit    int          // of all replicas, a minute
	flights  flight.Group

	// lists is whose turn it is to read Polar's lists.
	lists relay.Relay
	// eventHeard is called when a replica has told of a webhook, and listsRead when one has
	// read Polar's lists.
	eventHeard, listsRead func()
	// organization is the one of the access token, "" until it is known, and learn is told
	// of it.
	organization func() string
	learn        func(string)

	turns     chan struct{} // has room for whoever asks the store for a request
	checking  sync.Mutex    // held while everything in memory is checked
	saidShort atomic.Int64  // a clock.Local: when others were told that requests are short
}

// sharedPace has requests wait for the budget of all replicas, and for this one's while the
// store is away.
type sharedPace struct {
	*pace.Budget
	r *replicas
}

// Wait waits for a request. While the store is away, this replica has its share of the limit.
func (p *sharedPace) Wait(ctx context.Context) (done func(pace.Outcome), err error) {
	r := p.r
	done = func(pace.Outcome) {}
	if memory.TakeUnit(ctx) {
		return done, p.Spend()
	}
	switch away, err := r.takeTurn(ctx); {
	case err != nil:
		return nil, err
	case away:
		return p.Budget.Wait(ctx)
	}
	return done, p.Spend()
}

// takeTurn takes a request of the budget of all replicas, in the order of arrival, or reports
// that the store is away.
func (r *replicas) takeTurn(ctx context.Context) (away bool, err error) {
	select {
	case r.turns <- struct{}{}:
		defer func() { <-r.turns }()
	case <-ctx.Done():
		return false, &pace.StoppedError{Limit: sharedLimit, Err: ctx.Err()}
	}
	for {
		if left := r.budget.PauseLeft(); left > 0 {
			return false, &pace.PausedError{For: left}
		}
		turn, err := r.link.Take(ctx, 1, r.keeps(ctx))
		r.noteTurn(turn, err)
		switch deadline, ok := ctx.Deadline(); {
		case ctx.Err() != nil:
			return false, &pace.StoppedError{Limit: sharedLimit, Err: ctx.Err()}
		case err != nil:
			return true, nil
		case turn.Taken:
			return false, nil
		case turn.Paused:
			return false, &pace.PausedError{For: turn.Wait}
		case ok && time.Until(deadline) <= turn.Wait:
			return false, &pace.LateError{Limit: sharedLimit, For: turn.Wait}
		}
		if !pace.Sleep(ctx, max(turn.Wait, time.Millisecond)) {
			return false, &pace.StoppedError{Limit: sharedLimit, For: turn.Wait, Err: ctx.Err()}
		}
	}
}

const sharedLimit = "the limit on requests a minute of all replicas"

// unwaited marks a request that no customer waits for, such as one for a page of a list.
type unwaited struct{}

// keeps is how many requests a request leaves to others: one that no customer waits for
// leaves a quarter of all.
func (r *replicas) keeps(ctx context.Context) int {
	if ctx.Value(unwaited{}) != nil {
		return r.limit / 4
	}
	return 0
}

// PauseFor lets no replica send a request for d.
func (p *sharedPace) PauseFor(d time.Duration) {
	p.Budget.PauseFor(d)
	p.r.link.GoBehind(func() { _ = p.r.link.Pause(p.r.link.Life, d) })
}

// noteTurn takes over a pause that another replica was asked for. It gives this replica the
// whole limit while the store counts requests, and its share while the store is away.
func (r *replicas) noteTurn(turn link.Turn, err error) {
	if turn.Paused {
		r.budget.PauseFor(turn.Wait)
	}
	switch {
	case err == nil:
		r.budget.SetPerMinute(r.limit)
	case r.link.IsAway():
		r.budget.SetPerMinute(r.link.Share(r.limit))
	}
}

// TellShort tells other replicas that customers are turned away for lack of requests, so
// that none refreshes what can be served from memory.
func (r *replicas) TellShort(now clock.Local) {
	last := r.saidShort.Load()
	if last != 0 && now < clock.Local(last).After(memory.ShortLasts/4) || !r.saidShort.CompareAndSwap(last, int64(now)) {
		return
	}
	r.link.GoBehind(func() { r.link.Hint(r.link.Life, r.shortName()) })
}

func (r *replicas) shortName() link.Name { return r.link.OpenName("hint", "requests are short") }

func (r *replicas) walkName() link.Name { return r.link.OpenName("hint", "lists were read") }

// factOf writes what Polar said; nil if it is of no use to other replicas.
func (r *replicas) factOf(n memory.News) []byte {
	v := n.Value
	f := fact.Fact{At: v.At(), Organization: r.organization()}
	if n.Key.Kind == memory.ByLicenseKey && !n.Event {
		return licenseFact(f, v)
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
		for _, k := range r.cache.Keys.Facts(v.LicenseKeyIDs(), r.polarNow()) {
			c.Keys = append(c.Keys, fact.Key{ID: k.ID.String(), Granted: k.Granted, Expires: k.Expires, At: k.At})
		}
	}
	c.Benefits, c.Products, c.Meters = benefitFacts(v.Grants()), v.Products(), meterFacts(v.Meters())
	c.Subscriptions = subscriptionFacts(v.Subscriptions())
	return f.Bytes()
}

func benefitFacts(grants []rights.Benefit) (facts []fact.Benefit) {
	for _, g := range grants {
		facts = append(facts, fact.Benefit{ID: g.ID(), Type: g.Type(), Metadata: g.Metadata(), Properties: g.Properties()})
	}
	return facts
}

func meterFacts(meters []rights.Meter) (facts []fact.Meter) {
	for _, m := range meters {
		facts = append(facts, fact.Meter{ID: m.ID(), Consumed: m.Consumed, Credited: m.Credited, Balance: m.Balance, Counted: m.Counted})
	}
	return facts
}

func subscriptionFacts(all []rights.Subscription) (facts []fact.Subscription) {
	for _, s := range all {
		facts = append(facts, fact.Subscription{
			ID: s.ID, Product: s.ProductID, Status: s.Status, Trial: rights.PolarTime(s.TrialEnd), Paid: rights.PolarTime(s.CurrentPeriodEnd),
			Canceled: s.CancelAtPeriodEnd, End: rights.PolarTime(s.EndsAt),
		})
	}
	return facts
}

// partsOf are the parts of a state that facts tell of.
func partsOf(benefits []fact.Benefit, products []string, subscriptions []fact.Subscription, meters []fact.Meter) (have rights.Parts) {
	for _, b := range benefits {
		have.Benefits = append(have.Benefits, rights.NewBenefit(b.ID, b.Type, b.Metadata, b.Properties))
	}
	have.AddProducts(products)
	for _, s := range subscriptions {
		have.Subscriptions = append(have.Subscriptions, rights.Subscription{
			ID: s.ID, ProductID: s.Product, Status: s.Status, TrialEnd: rights.TimeOf(s.Trial),
			CurrentPeriodEnd: rights.TimeOf(s.Paid), CancelAtPeriodEnd: s.Canceled, EndsAt: rights.TimeOf(s.End),
		})
	}
	for _, m := range meters {
		have.Meters = append(have.Meters, rights.NewMeter(m.ID, m.Consumed, m.Credited, m.Balance, m.Counted))
	}
	return have
}

// licenseFact writes what Polar said of a license key. Whether a benefit is one that this
// program accepts is its own matter.
func licenseFact(f fact.Fact, v *rights.State) []byte {
	switch l := (*Entitlements)(v).license(); {
	case v.At() == 0 || v.Refusal() == string(ErrWrongBenefit):
		return nil
	case l == nil:
		f.Refused = v.Refusal()
	default:
		f.License = &fact.License{
			ID: l.ID, Organization: l.OrganizationID, Benefit: l.BenefitID, Customer: l.CustomerID, External: l.Customer.ExternalID,
			Display: l.DisplayKey, Status: string(l.Status), LimitActivations: l.LimitActivations, Usage: l.Usage, LimitUsage: l.LimitUsage,
			Validations: l.Validations, LastValidated: rights.PolarTime(l.LastValidatedAt), Expires: rights.PolarTime(l.ExpiresAt),
			Created: rights.PolarTime(l.CreatedAt), Modified: rights.PolarTime(l.ModifiedAt),
		}
		if ends := l.EndsAt(); l.Subscription != nil && ends != l.ExpiresAt {
			f.License.Ends = rights.PolarTime(ends)
		}
	}
	return f.Bytes()
}

var errOtherOrganization = errors.New("a fact about another organization")

// parse reads a record, and learns from it what it says beside its fact: the organization,
// and that Polar's clock is past its time.
func (r *replicas) parse(shared link.Fact) (f fact.Fact, at clock.Polar, err error) {
	if f, err = fact.Parse(shared.Data); err != nil {
		return f, 0, err
	}
	switch ours := r.organization(); {
	case f.Organization == "" || f.Organization == ours:
	case ours != "":
		return f, 0, errOtherOrganization
	default:
		r.learn(f.Organization)
	}
	at = clock.PolarTime(shared.At)
	r.cache.NoteLater(at)
	return f, at, nil
}

// newsOf is what a fact says of a customer, and of license keys.
func (r *replicas) newsOf(f fact.Fact, at clock.Polar) (n memory.News, err error) {
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
	n.Value.Grant(partsOf(c.Benefits, c.Products, c.Subscriptions, c.Meters), r.features)
	return n, nil
}

// newsOfLicense is what a fact says of a license key.
func (r *replicas) newsOfLicense(f fact.Fact, at clock.Polar, key memory.Key) memory.News {
	n := memory.News{Value: refusedKey(Reason(f.Refused)), Key: key, At: at, Shared: true}
	if l := f.License; l != nil {
		license := &LicenseKey{
			ID: l.ID, OrganizationID: l.Organization, BenefitID: l.Benefit, CustomerID: l.Customer,
			Key: newKey(key.ID), DisplayKey: l.Display, Status: KeyStatus(l.Status),
			LimitActivations: l.LimitActivations, Usage: l.Usage, LimitUsage: l.LimitUsage,
			Validations: l.Validations, LastValidatedAt: rights.TimeOf(l.LastValidated), ExpiresAt: rights.TimeOf(l.Expires),
			CreatedAt: rights.TimeOf(l.Created), ModifiedAt: rights.TimeOf(l.Modified), answeredAt: f.At.Time(),
		}
		if l.Ends != 0 { // which is all that replicas need of it
			license.Subscription = &KeySubscription{EndsAt: rights.TimeOf(l.Ends)}
		}
		license.Customer.ID, license.Customer.OrganizationID, license.Customer.ExternalID = l.Customer, l.Organization, l.External
		n.Value = ofLicense(license, r.features)
		if len(r.features) > 0 && !hasFeatures(r.features, l.Benefit) {
			n.Value = refusedKey(ErrWrongBenefit)
		}
	}
	n.Value.SetAt(f.At)
	return n
}

// name is what the record of a customer or a license key is called.
func (r *replicas) name(key memory.Key) link.Name {
	return r.link.Name([memory.Kinds]string{"customer", "external id", "license key"}[key.Kind], key.ID)
}

// droppedName is what the record is called that says that an event told of a license key.
func (r *replicas) droppedName(license string) link.Name { return r.link.Name("license", license) }

// polarNow is the time by Polar's clock.
func (r *replicas) polarNow() clock.Polar { return r.cache.PolarNow() }

// adopt has the cache take in a record that was read, if it says something younger. key is
// that of a record about a license key, which doesn't tell it; otherwise it may be empty.
func (r *replicas) adopt(shared link.Fact, key memory.Key) {
	f, at, err := r.parse(shared)
	if err == nil {
		err = r.take(f, at, key)
	}
	if err != nil {
		r.link.CannotRead("a record", err)
	}
}

// take has the cache take in a fact of that time.
func (r *replicas) take(f fact.Fact, at clock.Polar, key memory.Key) error {
	switch {
	case f.Dropped != nil:
		return r.drop(f.Dropped, at)
	case f.Customer != nil:
		n, err := r.newsOf(f, at)
		if err != nil {
			return err
		}
		r.learnKeys(f.Customer.Keys)
		r.cache.Adopt(n, r.age(n))
	case key.Kind == memory.ByLicenseKey: // otherwise nobody has asked for it
		n := r.newsOfLicense(f, at, key)
		r.cache.Adopt(n, r.age(n))
	}
	return nil
}

// learnKeys takes in what another replica knows of license keys.
func (r *replicas) learnKeys(keys []fact.Key) {
	var known []keyring.Fact
	for _, k := range keys {
		if id, ok := wire.ParseUUID(k.ID); ok {
			known = append(known, keyring.Fact{ID: id, Granted: k.Granted, Expires: k.Expires, At: k.At})
		}
	}
	if len(known) > 0 {
		r.cache.Keys.Learn(known, r.polarNow())
	}
}

func (r *replicas) age(n memory.News) time.Duration { return max(0, r.polarNow().Sub(n.Value.At())) }

// drop has a license key asked about again of which an event told, unless the answer is
// from well after the event.
func (r *replicas) drop(d *fact.Dropped, at clock.Polar) error {
	id, ok := wire.ParseUUID(d.License)
	customer, _ := wire.ParseUUID(d.Customer)
	if !ok {
		return fact.ErrUnreadable
	}
	if !r.cache.AnsweredBefore(id, at.Before(-memory.ReadTime)) {
		return nil
	}
	revoked := clock.Polar(0)
	if d.Revoked {
		revoked = at
	}
	r.cache.DropLicenses(rights.Of(customer, "", false, 0), []wire.UUID{id}, false, revoked)
	return nil
}

// publishDrop tells other replicas of an event about license keys of a customer.
func (r *replicas) publishDrop(customer wire.UUID, ids []wire.UUID, at clock.Polar, revoked bool) {
	var facts []link.Fact
	for _, id := range ids {
		f := fact.Fact{At: at, Organization: r.organization(), Dropped: &fact.Dropped{License: id.String(), Customer: customer.String(), Revoked: revoked}}
		facts = append(facts, link.Fact{Name: r.droppedName(id.String()), At: at.Time(), Data: f.Bytes(), TTL: r.lasts()})
	}
	_, _ = r.link.Put(r.link.Life, facts...)
}

// lasts is how long what Polar said can be of use.
func (r *replicas) lasts() time.Duration {
	c := r.cache
	return max(c.FreshFor, c.StaleFor, c.GraceFor, c.UnknownFor, time.Millisecond)
}

// Publish puts what Polar said of a customer, under all their ids, or of a license key. That
// ends the claim to ask.
func (r *replicas) Publish(n memory.News) {
	facts := r.factsOf(n)
	if facts == nil {
		_ = r.link.Release(r.link.Life, r.name(n.Key))
		return
	}
	younger, _ := r.link.Put(r.link.Life, facts...)
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
func (r *replicas) factsOf(n memory.News) (facts []link.Fact) {
	data := r.factOf(n)
	if data == nil {
		return nil
	}
	at, brief := n.At.Time(), max(r.cache.UnknownFor, time.Millisecond)
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

// Seek looks for what other replicas know of a customer or license key, which the cache takes
// in, and asks for leave to ask Polar. enough is that there is no need to. An error means that
// there is no leave, for lack of requests.
func (r *replicas) Seek(ctx context.Context, key memory.Key, when memory.Urgency) (l memory.Leave, enough bool, err error) {
	c := r.cache
	notBefore, seen := c.NotBefore(key, when)
	keep := 0
	if !seen { // others may be waiting who are not new
		keep = r.limit / 2
		if key.Kind == memory.ByLicenseKey {
			if end, ok := c.BeginUnseen(key.Kind); !ok {
				keep = r.limit // anybody can make up keys: only what others know is looked for
			} else {
				defer end()
			}
		}
	}
	name := r.name(key)
	var ask link.Ask
	for again := false; ; again = true {
		ask, err = r.link.Lookup(ctx, name, notBefore.Time(), keep)
		r.noteTurn(ask.Turn, err)
		if err != nil {
			return l, false, nil // this replica goes on alone
		}
		if ask.Known {
			r.adopt(ask.Fact, key)
			r.checkDropped(ctx, key)
		}
		if !ask.Found {
			break
		}
		if c.IsFresh(key) {
			return l, true, nil
		}
		if again {
			return l, false, nil
		}
		// It is of another version, or Polar is to be asked all the same.
		notBefore = clock.PolarTime(ask.Fact.At) + 1
	}
	if !ask.Claimed && !ask.Busy && ask.Known && keep == r.limit/2 && !ask.Turn.Paused {
		if turn, err := r.link.Take(ctx, 1, 0); err == nil && turn.Taken {
			ask.Busy, ask.Claimed = false, true // without a claim, which does no harm
		}
	}
	switch {
	case ask.Claimed:
		l.Unit = &memory.Unit{}
		l.End = func() { _ = r.link.Release(r.link.Life, name) }
	case ask.Busy: // whoever asks has not got an answer in time
	case keep == r.limit:
		return l, false, c.TooMany()
	default:
		return l, false, refusedTurn(ask.Turn)
	}
	l.Behind = ask.Known && when == memory.UnlessFresh && ask.Claimed && c.ServesMeanwhile(key)
	return l, false, nil
}

// refusedTurn is that the budget of all replicas has no request.
func refusedTurn(turn link.Turn) error {
	e := &Error{Op: opEntitlements, Reason: ErrRateLimited, RetryAfter: max(turn.Wait, time.Second), Detail: sharedLimit + " is used up", unasked: true}
	if turn.Paused {
		e.Detail, e.heldBack, e.unasked = "waiting out a pause that Polar asked for", true, false
	}
	return e
}

// CheckFirst checks what is in memory under a key, if it was not checked since the last gap.
func (r *replicas) CheckFirst(key memory.Key) {
	if r.cache.IsChecked(key) {
		return
	}
	gap := r.cache.Gap()
	r.once(context.Background(), "check ", key, func(key memory.Key) { r.check(r.link.Life, key) })
	r.cache.NoteChecked(gap, key)
}

// Recall has the cache take in what other replicas know of a customer or license key, while
// Polar cannot be asked. There is nothing else to serve, so it doesn't give up a store at
// once that has just failed, as one does that is busy.
func (r *replicas) Recall(ctx context.Context, key memory.Key) {
	r.once(ctx, "recall ", key, func(key memory.Key) {
		patience, cancel := context.WithTimeout(r.link.Life, recallPatience)
		defer cancel()
		for !r.check(patience, key) && r.link.AwayFor() < recallGivesUp && pace.Sleep(patience, recallAgain) {
		}
	})
}

const (
	// recallPatience is how long a customer whom only the store can know waits for it, and
	// recallAgain the pause between two tries. A store that has been away for recallGivesUp
	// is not waited for.
	recallPatience, recallAgain, recallGivesUp = 2 * time.Second, 25 * time.Millisecond, 5 * time.Second
)

// once does something about a key once for all who want it at the same time.
func (r *replicas) once(ctx context.Context, what string, key memory.Key, do func(memory.Key)) {
	key = key.Own()
	_, _ = flight.Do(ctx, &r.flights, what+string('0'+rune(key.Kind))+key.ID, func(context.Context) (struct{}, error) {
		do(key)
		return struct{}{}, nil
	})
}

// check has the cache take in what there is about some customers and license keys, and
// reports whether that could be read.
func (r *replicas) check(ctx context.Context, keys ...memory.Key) bool {
	names, of := make([]link.Name, len(keys)), make(map[string]memory.Key, len(keys))
	for i, key := range keys {
		names[i] = r.name(key)
		of[names[i].Key] = key
	}
	facts, err := r.link.Get(ctx, names...)
	for name, shared := range facts {
		r.adopt(shared, of[name])
	}
	return err == nil && r.checkDropped(ctx, keys...)
}

// checkDropped has license keys asked about again if an event told of them, and reports
// whether that could be read.
func (r *replicas) checkDropped(ctx context.Context, keys ...memory.Key) bool {
	var names []link.Name
	for _, key := range keys {
		if id := r.cache.LicenseOf(key); id != "" {
			names = append(names, r.droppedName(id))
		}
	}
	if len(names) == 0 {
		return true
	}
	facts, err := r.link.Get(ctx, names...)
	for _, shared := range facts {
		r.adopt(shared, memory.Key{})
	}
	return err == nil
}

// heard takes in what other replicas told of.
func (r *replicas) heard(keys []string, gap bool) {
	if gap {
		r.distrust()
	}
	var names []link.Name
	short, walked := r.shortName().Key, r.walkName().Key
	for _, key := range keys {
		switch key {
		case short:
			r.cache.NoteShort(r.cache.Now())
		case walked:
			r.link.GoBehind(r.listsRead)
		default:
			names = append(names, link.Name{Key: key})
		}
	}
	if len(names) == 0 {
		return
	}
	facts, err := r.link.Get(r.link.Life, names...)
	r.takeIfOfUse(slices.Collect(maps.Values(facts)))
	if err != nil && !r.link.IsAway() { // otherwise there is a gap when it is back
		r.distrust()
	}
}

// takeIfOfUse takes in what is about customers in memory, or about those whom somebody waits
// for.
func (r *replicas) takeIfOfUse(facts []link.Fact) {
	for _, shared := range facts {
		f, at, err := r.parse(shared)
		if err == nil && f.Customer != nil {
			if f.Customer.Event {
				r.eventHeard()
			}
			if n, err := r.newsOf(f, at); err == nil && !r.cache.Concerns(n) {
				continue
			}
		}
		if err == nil {
			err = r.take(f, at, memory.Key{})
		}
		if err != nil {
			r.link.CannotRead("a record", err)
		}
	}
}

// distrust has nothing in memory be fresh until it is checked, which begins now.
func (r *replicas) distrust() {
	r.cache.DistrustAll()
	r.link.GoBehind(r.checkAll)
}

// checkAll checks everything in memory after a gap. Until that is done, nothing is trusted
// as fresh that has not been checked.
func (r *replicas) checkAll() {
	r.checking.Lock()
	defer r.checking.Unlock()
	gap := r.cache.Gap()
	for keys := range slices.Chunk(r.cache.Unchecked(), link.Batch) {
		if !r.check(r.link.Life, keys...) {
			break // the store is away again, and another gap follows when it is back
		}
		r.cache.NoteChecked(gap, keys...)
	}
	r.cache.Trust(gap)
}

// sweep compares everything in memory with the store now and then, in case that a hint was
// lost without a gap. What is fresh for less long is looked up in time anyway.
func (r *replicas) sweep() {
	if r.cache.FreshFor <= sweepEvery {
		return
	}
	for pace.Sleep(r.link.Life, pace.Jitter(sweepEvery)) {
		for keys := range slices.Chunk(r.cache.All(), link.Batch) {
			if !r.check(r.link.Life, keys...) || !pace.Sleep(r.link.Life, sweepRest) {
				break
			}
		}
	}
}

const (
	// sweepEvery is how long a hint that was lost without a trace can matter, about.
	sweepEvery = 5 * time.Minute
	// sweepRest is the pause after each batch, so that a sweep is no load.
	sweepRest = 50 * time.Millisecond
)

// firstTime reports whether no replica has applied a webhook of that id.
func (r *replicas) firstTime(id string) bool {
	state, err := r.link.Load(r.link.Life, r.link.Name("webhook", id))
	return err != nil || state.Version == "" || len(state.Data) == 0
}

// noteApplied notes that a webhook was applied.
func (r *replicas) noteApplied(id string, within time.Duration) {
	_, _, _ = r.link.Swap(r.link.Life, r.link.Name("webhook", id), "", []byte{1}, within)
}

// claimEvent has this replica alone call the functions of a webhook of that id, until done is
// called. ok is false if another replica is at it. While the store
// is away, each replica calls them for the deliveries that come to it.
func (r *replicas) claimEvent(id string) (done func(), ok bool) {
	name := r.link.Name("event", id)
	claim, swapped, err := r.link.Swap(r.link.Life, name, "", []byte{1}, eventClaim)
	if err != nil {
		return func() {}, true
	}
	return func() { _, _, _ = r.link.Swap(r.link.Life, name, claim.Version, nil, 0) }, swapped
}

// eventClaim is how long the claim to an event lasts if its replica dies: longer than its
// functions may take.
const eventClaim = 20 * time.Second

// relayValues are values as package relay takes them.
type relayValues struct{ link *link.Link }

func (v relayValues) Load(ctx context.Context, name string) (relay.Value, error) {
	is, err := v.link.Load(ctx, v.link.Name("relay", name))
	return relay.Value(is), err
}

func (v relayValues) Swap(ctx context.Context, name, version string, data []byte, ttl time.Duration) (relay.Value, bool, error) {
	is, swapped, err := v.link.Swap(ctx, v.link.Name("relay", name), version, data, ttl)
	return relay.Value(is), swapped, err
}
