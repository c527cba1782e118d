package polartest

import (
	"cmp"
	"crypto/rand"
	"encoding/base64"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/polargate/polargate/polartest/internal/pydantic"
)

// CustomerSeat is a seat of a subscription, in Polar's words: who has it gets the benefits. An
// activation of a license key is something else.
type CustomerSeat struct {
	// ID and SubscriptionID are UUIDs of version 4. An empty ID is a random one.
	ID, SubscriptionID string
	// Status is "pending", which is an invitation, "claimed" or "revoked". Empty: "claimed".
	Status string
	// CustomerID is who holds the seat: in an organization with members the buyer, and without them a
	// customer for each holder. MemberID is the buyer's member. Both stay here when a seat is revoked.
	CustomerID, MemberID string
	Email                string
	Metadata             map[string]any
	// InvitationToken claims a seat that is pending. Empty: a random one.
	InvitationToken       string
	InvitationExpiresAt   time.Time // a day after CreatedAt, if zero and the seat is pending
	ClaimedAt, RevokedAt  time.Time
	CreatedAt, ModifiedAt time.Time // CreatedAt is now, if zero
}

// The statuses of a seat, besides pending and revoked.
const claimed = "claimed"

const invitationLife = 24 * time.Hour

// AddSeat adds a seat of a subscription as it stands, or replaces the one of that ID, and returns it
// with everything filled in that was empty. It grants nothing and sends nothing; requests to Polar do.
// It panics if there is no such subscription.
func (p *Polar) AddSeat(seat CustomerSeat) CustomerSeat {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.addSeat(seat).clone()
}

func (p *Polar) addSeat(seat CustomerSeat) *CustomerSeat {
	now := p.now()
	s := seat.clone()
	s.ID = mustUUID4("CustomerSeat.ID", cmp.Or(s.ID, newUUID()))
	a, subscription := p.subscription(strings.ToLower(s.SubscriptionID))
	if a == nil {
		panic("polartest: AddSeat: there is no subscription with the id " + seat.SubscriptionID)
	}
	s.SubscriptionID = subscription.ID
	s.Status = cmp.Or(s.Status, claimed)
	if s.CustomerID == "" {
		s.CustomerID = a.ID
	}
	s.Metadata = settled(s.Metadata)
	settleTimes(now, &s.CreatedAt)
	if s.Status == pending {
		s.InvitationToken = cmp.Or(s.InvitationToken, randomInvitation())
		settleTimes(s.CreatedAt.Add(invitationLife), &s.InvitationExpiresAt)
	}
	settleTimes(time.Time{}, &s.InvitationExpiresAt, &s.ClaimedAt, &s.RevokedAt, &s.ModifiedAt)
	put(&p.seats, &s, func(old *CustomerSeat) bool { return old.ID == s.ID })
	return &s
}

// CustomerSeats gives copies of the seats of a subscription, revoked ones included.
func (p *Polar) CustomerSeats(subscriptionID string) []CustomerSeat {
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []CustomerSeat
	for _, s := range p.seats {
		if is(s.SubscriptionID, subscriptionID) {
			out = append(out, s.clone())
		}
	}
	return out
}

func (s *CustomerSeat) clone() CustomerSeat {
	c := *s
	c.Metadata = maps.Clone(s.Metadata)
	return c
}

func randomInvitation() string {
	b := make([]byte, 32)
	rand.Read(b)
	return base64.RawURLEncoding.EncodeToString(b)
}

// describeSeat leaves out the holder of a revoked seat, unless the seat is being left right now.
func (p *Polar) describeSeat(s *CustomerSeat, leaving bool) *object {
	customer, member, email := textOrNull(s.CustomerID), textOrNull(s.MemberID), textOrNull(s.Email)
	person, address := p.describeMember(s.MemberID), email
	if s.Status == revoked {
		customer, member, email = nil, nil, nil
		if !leaving {
			person, address = nil, nil
		}
	}
	return newObject(
		"created_at", pydantic.PrintTimeOrNull(s.CreatedAt),
		"modified_at", pydantic.PrintTimeOrNull(s.ModifiedAt),
		"id", s.ID,
		"subscription_id", s.SubscriptionID,
		"order_id", nil,
		"status", s.Status,
		"customer_id", customer,
		"member_id", member,
		"member", person,
		"email", email,
		"customer_email", address,
		"invitation_token_expires_at", pydantic.PrintTimeOrNull(s.InvitationExpiresAt),
		"claimed_at", pydantic.PrintTimeOrNull(s.ClaimedAt),
		"revoked_at", pydantic.PrintTimeOrNull(s.RevokedAt),
		"seat_metadata", s.Metadata)
}

// seatsOf are the seats of a subscription as the database gives them: what was changed last comes last.
func (p *Polar) seatsOf(subscriptionID string) (all []*CustomerSeat, taken int64) {
	for _, s := range p.seats {
		if s.SubscriptionID == subscriptionID {
			all = append(all, s)
			if s.Status != revoked {
				taken++
			}
		}
	}
	written := func(s *CustomerSeat) time.Time {
		if s.ModifiedAt.IsZero() {
			return s.CreatedAt
		}
		return s.ModifiedAt
	}
	slices.SortStableFunc(all, func(a, b *CustomerSeat) int { return written(a).Compare(written(b)) })
	return all, taken
}

// soldBySeats is the subscription that a request for seats names, with how many there are.
func (p *Polar) soldBySeats(c *call, f *form) (*account, *Subscription, int64, *answer) {
	id := f.uuidOrNull("subscription_id")
	switch {
	case len(f.problems) > 0:
		return nil, nil, 0, unprocessable(f.problems)
	case id == "":
		return nil, nil, 0, refuse(http.StatusBadRequest, "BadRequest", "Either subscription_id or order_id must be provided")
	}
	a, s := p.subscription(id)
	if a == nil || c.token != nil && a.OrganizationID != c.token.OrganizationID {
		return nil, nil, 0, notFound("Subscription not found")
	}
	return a, s, limitOf(s.Seats), nil
}

func (p *Polar) listSeats(c *call) *answer {
	_, s, total, refusal := p.soldBySeats(c, c.queryForm())
	if refusal != nil {
		return refusal
	}
	all, taken := p.seatsOf(s.ID)
	seats := []any{}
	for _, seat := range all {
		seats = append(seats, p.describeSeat(seat, false))
	}
	return ok(newObject("seats", seats, "available_seats", max(0, total-taken), "total_seats", total))
}

func (p *Polar) assignSeat(c *call) *answer {
	f, refusal := c.form()
	if refusal != nil {
		return refusal
	}
	email := f.textOrNull("email")
	external, customerID := f.textOrNull("external_customer_id"), f.uuidOrNull("customer_id")
	externalMember, memberID := f.textOrNull("external_member_id"), f.uuidOrNull("member_id")
	metadata := newObject()
	if v, sent := f.fields.Get("metadata"); sent && v != nil {
		metadata = f.entries("metadata")
	}
	immediate := false
	if v, sent := f.fields.Get("immediate_claim"); sent {
		immediate, _ = v.(bool)
	}
	buyer, subscription, total, refusal := p.soldBySeats(c, f)
	if refusal != nil {
		return refusal
	}
	all, taken := p.seatsOf(subscription.ID)
	if taken >= total {
		return refuse(http.StatusBadRequest, "SeatNotAvailable", "No available seats for "+subscription.ID)
	}

	// who it is for
	members := p.organization(buyer.OrganizationID).MemberModel
	var holder *account
	var member *Member
	for _, m := range p.members {
		if m.CustomerID == buyer.ID && (is(m.ID, memberID) || externalMember != "" && m.ExternalID == externalMember) {
			member = m
		}
	}
	switch {
	case member != nil:
		email = member.Email
	case external != "" || customerID != "":
		if holder = p.ofToken(c, customerID); external != "" {
			holder = p.customersByExternalID[customerName{c.token.OrganizationID, external}]
		}
		if holder == nil {
			return refuse(http.StatusNotFound, "CustomerNotFound", "Customer not found: "+cmp.Or(external, customerID))
		}
		email = holder.Email
	}
	if email == "" {
		return refuse(http.StatusBadRequest, "InvalidSeatAssignmentRequest", "Exactly one of email, external_customer_id, or customer_id must be provided")
	}
	for _, s := range all {
		if s.Status != revoked && strings.EqualFold(s.Email, email) {
			return refuse(http.StatusBadRequest, "SeatAlreadyAssigned", "Seat already assigned to customer "+cmp.Or(f.textOrNull("email"), external, customerID, externalMember, memberID))
		}
	}
	for _, m := range p.members {
		if member == nil && m.CustomerID == buyer.ID && strings.EqualFold(m.Email, email) {
			member = m
		}
	}
	if member == nil {
		member = p.addMember(buyer, Member{Email: email, ExternalID: externalMember}, c.at)
	}
	if members {
		holder = buyer
	} else if holder == nil {
		if holder = p.customersByEmail[customerName{buyer.OrganizationID, strings.ToLower(email)}]; holder == nil {
			holder = p.addCustomer("assignSeat", Customer{OrganizationID: buyer.OrganizationID, Email: email}, Member{})
		}
	}

	seat := &CustomerSeat{ID: newUUID(), CreatedAt: c.at}
	if i := slices.IndexFunc(all, func(s *CustomerSeat) bool { return s.Status == revoked }); i >= 0 {
		seat = all[i] // a seat that became free
		*seat = CustomerSeat{ID: seat.ID, CreatedAt: seat.CreatedAt, ModifiedAt: c.at}
	} else {
		p.seats = append(p.seats, seat)
	}
	seat.SubscriptionID, seat.Status, seat.Metadata = subscription.ID, pending, metadata.Plain()
	seat.CustomerID, seat.MemberID, seat.Email = holder.ID, member.ID, email
	if immediate {
		p.claim(seat, c.at)
		return ok(p.describeSeat(seat, false))
	}
	seat.InvitationToken, seat.InvitationExpiresAt = randomInvitation(), c.at.Add(invitationLife)
	p.emitSeat("customer_seat.assigned", seat, c.at)
	return ok(p.describeSeat(seat, false))
}

func (p *Polar) emitSeat(kind string, s *CustomerSeat, now time.Time) {
	a, _ := p.subscription(s.SubscriptionID)
	p.emitTo(kind, a.OrganizationID, a, func() *object { return p.describeSeat(s, true) }, Event{At: now})
}

// claim gives the holder of a seat the benefits of the product.
func (p *Polar) claim(s *CustomerSeat, now time.Time) {
	s.Status, s.ClaimedAt, s.InvitationToken = claimed, now, ""
	p.emitSeat("customer_seat.claimed", s, now)
	p.grantSeat(s, true)
}

// grantSeat grants what comes with a seat, or revokes it.
func (p *Polar) grantSeat(s *CustomerSeat, granted bool) {
	holder := p.customersByID[s.CustomerID]
	buyer, subscription := p.subscription(s.SubscriptionID)
	if holder == nil || buyer == nil {
		return
	}
	member := ""
	if p.organization(holder.OrganizationID).MemberModel {
		member = s.MemberID
	}
	next := holder.clone()
	if granted {
		p.grantProduct(&next, subscription, p.productOf(buyer, subscription), member)
	} else {
		p.revokeOf(&next, func(b *Benefit) bool { return b.SubscriptionID == subscription.ID && b.MemberID == member })
	}
	p.change("grantSeat", holder, next)
}

// invited is the seat of an invitation.
func (p *Polar) invited(token string, now time.Time) *CustomerSeat {
	for _, s := range p.seats {
		if s.Status == pending && s.InvitationToken == token && token != "" && now.Before(s.InvitationExpiresAt) {
			return s
		}
	}
	return nil
}

const badInvitation = "Invalid or expired invitation token"

func (p *Polar) claimInfo(c *call) *answer {
	s := p.invited(c.parameters["invitation_token"], c.at)
	if s == nil {
		return notFound(badInvitation)
	}
	a, subscription := p.subscription(s.SubscriptionID)
	d, o := p.productOf(a, subscription), p.organization(a.OrganizationID)
	return ok(newObject(
		"product_name", d.Name,
		"product_id", d.ID,
		"organization_name", o.Name,
		"organization_slug", o.Slug,
		"customer_email", s.Email,
		"can_claim", true))
}

func (p *Polar) claimSeat(c *call) *answer {
	f, refusal := c.form()
	if refusal != nil {
		return refusal
	}
	token := f.text("invitation_token")
	if len(f.problems) > 0 {
		return unprocessable(f.problems)
	}
	s := p.invited(token, c.at)
	if s == nil {
		return refuse(http.StatusBadRequest, "InvalidInvitationToken", badInvitation)
	}
	s.ModifiedAt = c.at
	p.claim(s, c.at)
	session := p.addSession(Session{CustomerID: s.CustomerID, MemberID: s.MemberID}, c.at)
	return ok(newObject("seat", p.describeSeat(s, false), "customer_session_token", session.Token))
}

// addressedSeat is the seat of the path.
func (p *Polar) addressedSeat(c *call) (*CustomerSeat, *answer) {
	f := c.pathForm("id")
	id := f.uuid("id")
	if len(f.problems) > 0 {
		return nil, unprocessable(f.problems)
	}
	for _, s := range p.seats {
		if a, _ := p.subscription(s.SubscriptionID); s.ID == id && a != nil && a.OrganizationID == c.token.OrganizationID {
			return s, nil
		}
	}
	return nil, notFound("Seat not found")
}

func (p *Polar) revokeSeat(c *call) *answer {
	s, refusal := p.addressedSeat(c)
	if refusal != nil {
		return refusal
	}
	p.leave(s, c.at)
	return ok(p.describeSeat(s, true))
}

// leave revokes a seat and what came with it. Polar does that again for one that is revoked already.
func (p *Polar) leave(s *CustomerSeat, now time.Time) {
	s.Status, s.RevokedAt, s.ModifiedAt, s.InvitationToken = revoked, now, now, ""
	p.emitSeat("customer_seat.revoked", s, now)
	p.grantSeat(s, false)
}

// leaveEnded revokes the seats of subscriptions that have ended.
func (p *Polar) leaveEnded(a *account, before *Customer, now time.Time) {
	if p.quiet {
		return
	}
	var ended []string
	for i := range a.Subscriptions {
		s := &a.Subscriptions[i]
		if s.Status == canceled && slices.ContainsFunc(before.Subscriptions, func(old Subscription) bool { return old.ID == s.ID && old.Status != canceled }) {
			ended = append(ended, s.ID)
		}
	}
	for _, s := range slices.Clone(p.seats) {
		if s.Status != revoked && slices.Contains(ended, s.SubscriptionID) {
			p.leave(s, now)
		}
	}
}

// resendSeat sends the e-mail of an invitation again, which is not played; the token stays.
func (p *Polar) resendSeat(c *call) *answer {
	s, refusal := p.addressedSeat(c)
	if refusal != nil {
		return refusal
	}
	if s.Status != pending {
		return refuse(http.StatusBadRequest, "SeatNotPending", "Seat is not in pending status")
	}
	return ok(p.describeSeat(s, false))
}
