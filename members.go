package polargate

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/polargate/polargate/internal/clock"
	"github.com/polargate/polargate/internal/flight"
	"github.com/polargate/polargate/internal/memory"
	"github.com/polargate/polargate/internal/rights"
	"github.com/polargate/polargate/internal/wire"
)

// What is here decides for members of a customer, such as the holders of seats. Polar's
// state of the buyer has one grant of a benefit for each seat that is claimed, and doesn't
// say whose it is. Polar's list of the buyer's grants does (seen running, 2026-11-28), so it
// is read once for all members of a buyer, and again when something is new about the buyer.
//
// What a member may use is put together from two caches: the benefits from the list, and
// everything else, such as meters, from the buyer's state. A benefit counts only while the
// buyer's state has it too, so that an ended subscription ends for all members at once.

const opMembers = "benefits of members"

const (
	// mostGrantPages bounds the list of one buyer's grants: 10,000 of them.
	mostGrantPages = 100
	// recentTeams is how many buyers' lists are kept for a moment.
	recentTeams = 256
)

// members are what Customers know of members.
type members struct {
	// cache has the benefits of each member by memberKey. Its entries have no id of
	// Polar's: a hash of that key stands for it.
	cache *memory.Cache
	// news is when something new was heard of a buyer last. A list that was read before
	// then is read again.
	news *lru.Cache[wire.UUID, clock.Local]
	// recent has the list of a buyer that was read last, for a moment: a crowd of members,
	// also of some that don't exist, takes one request.
	recent *lru.Cache[wire.UUID, team]
	// views has what was put together last for a member, by memberKey.
	views *lru.Cache[string, memberView]
	reads flight.Group // of lists, by buyer
	used  atomic.Bool  // somebody has asked about a member
	// advised is that the log has told of Member.
	advised atomic.Bool
}

// memberView is what was put together from these two.
type memberView struct{ buyer, own, all *rights.State }

// memberKey is how the cache finds a member. It is text that an external id can be.
func memberKey(buyer wire.UUID, member string) memory.Key {
	return memory.Key{Kind: memory.ByExternalID, ID: buyer.String() + ":" + url.PathEscape(member)}
}

// startMembers makes the caches of members, beside that of customers.
func (c *Customers) startMembers() (err error) {
	m, config := &c.members, &c.config
	if m.cache, err = newCache(config.CacheSize); err != nil {
		return err
	}
	if m.news, err = lru.New[wire.UUID, clock.Local](config.CacheSize); err != nil {
		return err
	}
	if m.recent, err = lru.New[wire.UUID, team](recentTeams); err != nil {
		return err
	}
	if m.views, err = lru.New[string, memberView](config.CacheSize); err != nil {
		return err
	}
	cache, of := m.cache, c.cache
	cache.Clock.Start, cache.Keys = of.Clock.Start, of.Keys
	cache.FreshFor, cache.StaleFor, cache.GraceFor = of.FreshFor, of.StaleFor, of.GraceFor
	cache.UnknownFor, cache.Timeout = of.UnknownFor, of.Timeout
	cache.Flights.Keep, m.reads.Keep = config.Timeout, config.Timeout
	cache.Ask, cache.Panicked = c.askMember, c.logPanic
	cache.Spare = of.Spare
	of.Heard = m.hear
	return nil
}

// close ends all that is under way.
func (m *members) close() {
	m.cache.Close()
	m.reads.Close()
}

// hear notes that something is new about a buyer: a list that was asked for up to now doesn't
// have it.
func (m *members) hear(buyer wire.UUID) { m.news.Add(buyer, m.cache.Now()+1) }

// hearOfSeat takes in an event about a seat or a member: it says whose, and what they have is
// in the list.
func (m *members) hearOfSeat(event wire.Fields) {
	var seat, member wire.Fields
	wire.Optional(event, "data", &seat)
	wire.Optional(seat, "member", &member)
	for _, of := range []wire.Fields{seat, member} {
		var customer string
		of.Text("customer_id", &customer)
		if buyer, ok := wire.ParseUUID(customer); ok {
			m.hear(buyer)
		}
	}
}

// takeMembersGrant takes in an event about a grant. One that was revoked ends at once, also
// while Polar can't be asked.
func (c *Customers) takeMembersGrant(n notice) {
	of, err := rights.ReadCustomer(n.customer, c.organizationID())
	if err != nil {
		return // which is said elsewhere
	}
	m := &c.members
	m.hear(of.Customer())
	defer c.cache.NoteChanged(of)
	var member wire.Fields
	var external string
	wire.Optional(n.data, "member", &member)
	member.Text("external_id", &external)
	var have rights.Parts
	have.ReadGrant(n.data)
	if n.kind != grantEvents+"revoked" || external == "" || len(have.Benefits) == 0 {
		return
	}
	gone := have.Benefits[0]
	m.cache.Revise(memberKey(of.Customer(), external), clock.PolarTime(n.at), func(s *rights.State) *rights.State {
		return s.WithoutGrant(gone, c.config.Features)
	})
}

// lookMember is look for a member.
func (c *Customers) lookMember(ctx context.Context, key memory.Key) (*rights.State, error) {
	if err := (CustomerRef{key}).check(); err != nil {
		return nil, err
	}
	c.members.used.Store(true)
	buyer, member := CustomerRef{key}.member()
	have, err := c.look(ctx, buyer)
	if err != nil || !have.Known() {
		return have.state(), err
	}
	of := have.state()
	mine := memberKey(of.Customer(), member)
	c.members.outdate(mine, of.Customer())
	own, err := c.members.cache.Lookup(ctx, mine)
	if err != nil {
		return nil, c.callError(err)
	}
	return c.members.view(mine, of, own, c.config.Features), nil
}

// outdate has a member's benefits asked about again if they are older than the last news of
// the buyer.
func (m *members) outdate(key memory.Key, buyer wire.UUID) {
	told, ok := m.news.Peek(buyer)
	if !ok || m.cache.AskedSince(key, told) {
		return
	}
	m.cache.Outdate(key)
}

// view puts together what a member has: the buyer's state, with the member's own benefits.
func (m *members) view(key memory.Key, buyer, own *rights.State, features map[string][]string) *rights.State {
	if v, ok := m.views.Get(key.ID); ok && v.buyer == buyer && v.own == own {
		return v.all
	}
	all := buyer.ForMember(own, features)
	m.views.Add(key.ID, memberView{buyer, own, all})
	return all
}

// recheck is memory.Cache.Recheck for customers and members.
func (c *Customers) recheck(ctx context.Context, key memory.Key, last *rights.State) *rights.State {
	if key.Kind != memory.ByMember {
		return c.cache.Recheck(ctx, key, last)
	}
	buyer, member := CustomerRef{key}.member()
	of, _ := c.cache.Latest(buyer)
	if of == nil {
		return last
	}
	of = c.cache.Recheck(ctx, buyer, of)
	mine := memberKey(of.Customer(), member)
	own, _ := c.members.cache.Latest(mine)
	if own == nil || !of.Known() {
		return last
	}
	return c.members.view(mine, of, c.members.cache.Recheck(ctx, mine, own), c.config.Features)
}

// renew is memory.Cache.Renew, in any case, for customers and members.
func (c *Customers) renew(ctx context.Context, key memory.Key) (*rights.State, error) {
	if key.Kind != memory.ByMember {
		return c.cache.Renew(ctx, key, memory.InAnyCase)
	}
	buyer, member := CustomerRef{key}.member()
	of, err := c.cache.Renew(ctx, buyer, memory.InAnyCase)
	if err != nil || !of.Known() {
		return of, err
	}
	mine := memberKey(of.Customer(), member)
	c.members.recent.Remove(of.Customer())
	own, err := c.members.cache.Renew(ctx, mine, memory.InAnyCase)
	if err != nil {
		return nil, err
	}
	return c.members.view(mine, of, own, c.config.Features), nil
}

// payer is whose meters pay for what somebody uses: a member uses those of the buyer.
func (r CustomerRef) payer() memory.Key {
	buyer, _ := r.member()
	return buyer
}

// watchNews is memory.Cache.Watch for customers and members. News of a member comes as
// news of the buyer.
func (c *Customers) watchNews(key memory.Key, s *memory.Stream, value *rights.State) (leave func()) {
	if key.Kind != memory.ByMember {
		return c.cache.Watch(key, s, value)
	}
	tell := s.Tell
	s.Tell = func(_ *rights.State, err error) {
		var value *rights.State
		if err == nil {
			value, err = c.lookMember(c.cache.Life, key)
		}
		tell(value, err)
	}
	return c.cache.Watch(CustomerRef{key}.payer(), s, nil)
}

// askMember asks Polar about a member, and keeps what it says of the buyer's other members.
func (c *Customers) askMember(ctx context.Context, key memory.Key) (*rights.State, error) {
	id, _, _ := strings.Cut(key.ID, ":")
	buyer, _ := wire.ParseUUID(id)
	told, _ := c.members.news.Peek(buyer)
	all, ok := c.members.recent.Get(buyer)
	ok = ok && c.members.cache.Now() < all.asked.After(memory.FirstPause)
	var err error
	for tries := 0; tries < 2 && (!ok || told > all.asked); tries++ {
		all, err = flight.Do(ctx, &c.members.reads, id, func(ctx context.Context) (team, error) { return c.readTeam(ctx, buyer) })
		if err != nil {
			break
		}
		ok = true
		told, _ = c.members.news.Peek(buyer) // one that was joined may have begun before
	}
	if err != nil {
		if _, ok := errors.AsType[*flight.PanicError](err); !ok && !tokenRefused(err) {
			c.seldom.Warn(c.config.Logger, "members", "polargate: Polar gave no answer about the members of a customer", "error", err)
		}
		c.noteMembers(err)
		return nil, err
	}
	c.noteMembers(nil)
	for other, value := range all.members {
		if other := (memory.Key{Kind: memory.ByExternalID, ID: other}); other != key {
			c.members.cache.Store(other, value, all.asked)
		}
	}
	if own := all.members[key.ID]; own != nil {
		return own, nil
	}
	return rights.Of(wire.UUID{}, "", false, clock.PolarTime(c.client.now())), nil
}

// noteMembers keeps, for Stats, that the token may not read grants, or with nil that it may,
// and says it in the log when it begins.
func (c *Customers) noteMembers(err error) {
	if err != nil && !tokenRefused(err) {
		return
	}
	m := &c.misconfigured
	m.Lock()
	defer m.Unlock()
	if err != nil && m.members == nil {
		c.config.Logger.Error("polargate: the access token may not read who has which benefit, so that members have none: give it the scope benefits:read", "error", err)
	}
	m.members = err
}

// team are the members of a buyer who have benefits, by memberKey, and when Polar was asked.
type team struct {
	members map[string]*rights.State
	asked   clock.Local
}

// readTeam reads the benefits of all members of a buyer.
func (c *Customers) readTeam(ctx context.Context, buyer wire.UUID) (team, error) {
	all := team{map[string]*rights.State{}, c.members.cache.Now()}
	have := map[string][]rights.Benefit{}
	var unnamed, others int
	for page, last := 1, 1; page <= last; page++ {
		path := fmt.Sprintf("/v1/benefit-grants/?customer_id=%s&is_granted=true&limit=100&page=%d&sorting=granted_at&sorting=created_at", buyer, page)
		err := c.client.exchange(ctx, exchange{op: opMembers, path: path, repeatable: true, most: longestList}, func(body []byte, at time.Time) error {
			items, pages, err := readPage(body)
			if err != nil {
				return err
			}
			last = min(pages, mostGrantPages)
			for _, item := range items {
				g, err := readMembersGrant(item, buyer, c.organizationID())
				if err != nil {
					return err
				}
				switch {
				case !g.named:
					unnamed++
					continue
				case g.member == "":
					others++
					continue
				}
				key := memberKey(buyer, g.member).ID
				if all.members[key] == nil {
					all.members[key] = rights.Of(standIn(key), key, true, clock.PolarTime(at))
				}
				have[key] = append(have[key], g.benefit)
			}
			return nil
		})
		c.members.cache.Count(err)
		if err != nil {
			return team{}, err
		}
	}
	for key, value := range all.members {
		value.Grant(rights.Parts{Benefits: have[key]}, c.config.Features)
	}
	c.members.recent.Add(buyer, all)
	c.adviseOnMembers(len(all.members), unnamed, others)
	return all, nil
}

// adviseOnSeats says in the log, once, what to do if a program lets in a whole team by what
// its seat holders have. Two subscriptions that grant the same benefit look like two seats.
func (c *Customers) adviseOnSeats(of *rights.State) {
	if of != nil && of.PerSeat() && !c.members.used.Load() && c.members.advised.CompareAndSwap(false, true) {
		c.config.Logger.Warn("polargate: a customer has a benefit more than once, and whoever is named as that customer may use it: if each is for a seat of a team, name the holders of seats with Member", "customer", of.CustomerID())
	}
}

// awaitMember is Await for a member.
func (c *Customers) awaitMember(ctx context.Context, customer CustomerRef, requirements []Requirement) (*Entitlements, error) {
	buyer, _ := customer.member()
	news := make(chan struct{}, 1)
	defer c.cache.Listen(buyer, news)()
	have, err := c.lookMember(ctx, customer.key)
	value := (*Entitlements)(have)
	for pause := shortestWait; ; pause = min(2*pause, longestWait) {
		e, _ := errors.AsType[*Error](err)
		have := c.overlaid(ctx, customer, value)
		switch {
		case err == nil && have.permits(requirements), c.overlaid(ctx, customer, nil).permits(requirements):
			return have, nil
		case ctx.Err() != nil:
			return have, have.lacking(requirements, ctx.Err(), err)
		case err != nil && (e == nil || tokenRefused(err) || c.cache.Life.Err() != nil):
			return value, c.callError(err)
		}
		wait := pause
		if e != nil {
			wait = max(wait, e.RetryAfter)
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-news:
		case <-c.cache.Life.Done():
		case <-ctx.Done():
		}
		timer.Stop()
		var newer *rights.State
		if newer, err = c.renew(ctx, customer.key); err == nil {
			value = (*Entitlements)(newer)
		}
	}
}

// adviseOnMembers says in the log what to do if a program asks about members where there are
// none.
func (c *Customers) adviseOnMembers(members, unnamed, withoutID int) {
	switch {
	case members > 0:
	case withoutID > 0:
		c.seldom.Warn(c.config.Logger, "members without ids", "polargate: the members of a customer have no external ids, so that none can be named with Member: set them in Polar, or when you assign seats")
	case unnamed > 0:
		c.seldom.Warn(c.config.Logger, "no members", "polargate: a customer's benefits belong to no member: this organization has no members, and each seat holder is a customer of their own. Name them with ExternalID or CustomerID instead of Member")
	default:
		c.seldom.Warn(c.config.Logger, "no seats", "polargate: no member of a customer has a benefit: no seat is claimed, or this organization has no members. If seat holders are customers of their own, name them with ExternalID or CustomerID instead of Member")
	}
}

// standIn is an id for a member that is none of Polar's: a hash in the form of one.
func standIn(key string) (id wire.UUID) {
	sum := sha256.Sum256([]byte(key))
	copy(id[:], sum[:])
	id[6], id[8] = id[6]&0x0f|0x40, id[8]&0x3f|0x80
	return id
}

// membersGrant is an entry in the list of grants.
type membersGrant struct {
	benefit rights.Benefit
	named   bool   // it has a member
	member  string // external id
}

func readMembersGrant(item json.RawMessage, buyer wire.UUID, organizationID string) (g membersGrant, err error) {
	f, err := wire.Object(item)
	if err != nil {
		return g, err
	}
	var customer, member wire.Fields
	wire.Optional(f, "customer", &customer)
	of, err := rights.ReadCustomer(customer, organizationID)
	if err != nil {
		return g, err
	}
	if of.Customer() != buyer {
		return g, rights.ErrForeign
	}
	wire.Optional(f, "member", &member)
	g.named = member != nil
	member.Text("external_id", &g.member)
	var have rights.Parts
	have.ReadGrant(f)
	if len(have.Benefits) == 0 {
		return g, errors.New("a grant without its benefit")
	}
	g.benefit = have.Benefits[0]
	return g, nil
}
