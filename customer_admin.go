package polargate

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/polargate/polargate/internal/memory"
	"github.com/polargate/polargate/internal/wire"
)

// What is here is about one customer, and needs an organization access token, or the token
// of a session of the customer: the portal, and the license keys in it.

const (
	opSession    = "make customer session"
	opPortalKeys = "list license keys of a customer"
	opPortalKey  = "license key of a customer"
	opSeats      = "list seats"
	opAssign     = "assign seat"
	opInvitation = "invitation to a seat"
	opResend     = "resend invitation to a seat"
	opRevokeSeat = "revoke seat"
)

// PortalURL is the address of a customer's portal. Whoever has it is signed in there, and it
// names the customer's e-mail address, so that it prints as "****". Reveal gives it, for a
// redirect.
type PortalURL struct{ masked }

// SessionToken is the token of a customer's session. It prints as "****".
type SessionToken struct{ masked }

// ParseSessionToken reads a token, such as the customer_session_token that Polar adds to the
// address of a page of yours.
func ParseSessionToken(text string) (SessionToken, error) {
	text = strings.TrimSpace(text)
	if text == "" || len(text) > maxKeyLen || strings.ContainsFunc(text, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return SessionToken{}, &InputError{"session token", "is empty, or has characters that no token has: pass it as Polar gave it"}
	}
	return SessionToken{mask(text, "****")}, nil
}

// CustomerSession is a session of a customer in Polar's portal. Source: schema
// CustomerSession.
type CustomerSession struct {
	// ID is the session's own, and no secret.
	ID string
	// Token reads what the customer may read; see Client.PortalKeys.
	Token SessionToken
	// URL is that of the portal.
	URL PortalURL
	// ExpiresAt is an hour after the session was made.
	ExpiresAt time.Time
	// CustomerID is Polar's id of the customer; for a member, that of whom they belong to.
	CustomerID string
}

// PortalURL makes a session of a customer and returns the address of their portal, where
// they find their orders, subscriptions and license keys. Redirect the customer there at
// once: the address lasts an hour. returnURL is where the portal's back button leads; it may
// be empty. For a member (see Member), it is the member's own portal; a team has a portal
// for each member only.
//
// ErrUnknownCustomer means that Polar has no such customer, or the customer no such member.
// The access token needs the scope customer_sessions:write.
func (c *Customers) PortalURL(ctx context.Context, customer CustomerRef, returnURL string) (PortalURL, error) {
	if err := c.closedError(opSession); err != nil {
		return PortalURL{}, err
	}
	session, err := c.client.CreateCustomerSession(ctx, customer, returnURL)
	if err != nil {
		return PortalURL{}, err
	}
	return session.URL, nil
}

// CreateCustomerSession makes a session of a customer, like Customers.PortalURL, and returns its
// token as well.
func (c *Client) CreateCustomerSession(ctx context.Context, customer CustomerRef, returnURL string) (*CustomerSession, error) {
	if err := c.checkAdmin(ctx); err != nil {
		return nil, err
	}
	if err := customer.check(); err != nil {
		return nil, err
	}
	body := customer.named("customer_id", "external_customer_id")
	if returnURL != "" {
		if u, err := url.Parse(returnURL); err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" {
			return nil, &InputError{"returnURL", `is not a web address, such as "https://example.com/account"`}
		}
		body["return_url"] = returnURL
	}
	_, member := customer.member()
	if member != "" {
		body["external_member_id"] = member
	}
	var session *CustomerSession
	// A session too many does no harm.
	ask := exchange{op: opSession, path: "/v1/customer-sessions/", body: body, success: http.StatusCreated, secret: customer.secret(), repeatable: true}
	err := c.exchange(ctx, ask, func(body []byte, _ time.Time) (err error) {
		session, err = readSession(body)
		return err
	})
	switch {
	case err != nil:
		return nil, ofCustomer(err)
	case member != "" && strings.HasPrefix(session.Token.Reveal(), customerToken):
		// It would be the portal of the buyer, with everybody's license keys.
		return nil, &Error{Op: opSession, Reason: ErrMisconfigured, situation: serverNoMembers}
	}
	return session, nil
}

// customerToken begins the tokens of sessions that are a customer's own, and no member's.
const customerToken = "polar_cst_"

func readSession(body []byte) (*CustomerSession, error) {
	f, err := wire.Object(body)
	if err != nil {
		return nil, err
	}
	s := &CustomerSession{}
	var token, portal string
	f.Text("id", &s.ID)
	f.Text("token", &token)
	f.Text("customer_portal_url", &portal)
	f.Text("customer_id", &s.CustomerID)
	f.Time("expires_at", &s.ExpiresAt)
	if s.Token, err = ParseSessionToken(token); err != nil {
		return nil, errors.New("a customer session without a token")
	}
	if u, err := url.Parse(portal); err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" {
		return nil, errors.New("a customer session without the address of the portal")
	}
	s.URL = PortalURL{mask(portal, "****")}
	return s, nil
}

// named is the field that names a customer in the body of a request: by Polar's id, or by
// the program's.
func (r CustomerRef) named(byID, byExternal string) map[string]any {
	buyer, _ := r.member()
	if buyer.Kind == memory.ByPolarID {
		return map[string]any{byID: buyer.ID}
	}
	return map[string]any{byExternal: buyer.ID}
}

// ofCustomer says more exactly what a 422 about a customer means: Polar has no such customer
// or member, or a team was asked about without a member.
func ofCustomer(err error) error {
	e, ok := errors.AsType[*Error](err)
	if !ok || e.StatusCode != http.StatusUnprocessableEntity {
		return err
	}
	switch {
	case strings.Contains(e.Detail, "Customer does not exist"):
		e.Reason, e.situation = ErrUnknownCustomer, serverCustomer
	case strings.Contains(e.Detail, "Member does not exist"):
		e.Reason, e.situation = ErrUnknownCustomer, serverMember
	case strings.Contains(e.Detail, "member_id is required"):
		e.situation = serverTeam
	}
	return e
}

// PortalKeys lists the license keys of the customer, or member, whose session it is: those
// made last first, revoked ones too. benefitIDs are the benefits whose keys are wanted; none
// means of any. See Client.LicenseKeys for what a list promises.
//
// The request is authorized by the session, and counts in the customer's own limit at Polar,
// as well as in this Client's. ErrMisconfigured is a session that has ended.
func (c *Client) PortalKeys(ctx context.Context, session SessionToken, benefitIDs ...string) iter.Seq2[*LicenseKey, error] {
	query, err := KeyFilter{BenefitIDs: benefitIDs}.query()
	if err == nil {
		err = checkSession(ctx, session)
	}
	return backwards(ctx, err, func(ctx context.Context, page int) ([]*LicenseKey, int, error) {
		return c.keysPage(ctx, exchange{op: opPortalKeys, path: portalKeys, session: session.masked}, query, page)
	}, func(l *LicenseKey) string { return l.ID })
}

// PortalKey returns a license key of the customer whose session it is. Its activations are
// included if the benefit lets customers manage them in the portal.
func (c *Client) PortalKey(ctx context.Context, session SessionToken, id string) (*LicenseKey, error) {
	if err := checkSession(ctx, session); err != nil {
		return nil, err
	}
	return c.oneKey(ctx, exchange{op: opPortalKey, path: portalKeys, session: session.masked, repeatable: true}, id, "")
}

const portalKeys = "/v1/customer-portal/license-keys/"

func checkSession(ctx context.Context, session SessionToken) error {
	if ctx == nil {
		return errNilContext
	}
	if session.IsZero() {
		return &InputError{"session token", "is missing: make a session with CreateCustomerSession"}
	}
	return nil
}

// SeatStatus is Polar's word for the status of a seat.
type SeatStatus string

// The statuses that Polar has today. A seat is pending while its holder is invited.
const (
	SeatPending SeatStatus = "pending"
	SeatClaimed SeatStatus = "claimed"
	SeatRevoked SeatStatus = "revoked"
)

// Seat is a seat of a subscription: whoever holds it has the benefits of the product. An
// activation of a license key is something else. Source: Polar's server, which publishes
// no schema of it for version 2026-04.
type Seat struct {
	// SubscriptionID or OrderID is what the seat was bought with.
	ID, SubscriptionID, OrderID string
	Status                      SeatStatus
	// Holder names who holds the seat, for Customers: a Member of the buyer, or in an
	// organization without members, a customer of their own. It names nobody if the seat
	// is revoked, or if the member has no external id.
	Holder CustomerRef
	// CustomerID and MemberID are Polar's ids of the holder: with members, CustomerID is
	// the buyer's. Both are empty once the seat is revoked.
	CustomerID, MemberID string
	// Email is where the invitation goes.
	Email Email
	// InvitationExpiresAt is set while the seat is pending.
	InvitationExpiresAt, ClaimedAt, RevokedAt, CreatedAt time.Time
	// Metadata is the program's own, from AssignSeatRequest.
	Metadata map[string]any
}

// Format prints the id and the status of a seat, whatever the verb: who holds it is
// personal.
func (s Seat) Format(f fmt.State, _ rune) {
	fmt.Fprintf(f, "polargate.Seat{ID:%s Status:%s}", s.ID, s.Status)
}

// LogValue logs what Format prints.
func (s Seat) LogValue() slog.Value { return slog.StringValue(fmt.Sprint(s)) }

// UnmarshalJSON reads Polar's form. A field that is missing or has another type is left
// zero.
func (s *Seat) UnmarshalJSON(data []byte) error {
	f, err := wire.Object(data)
	if err != nil {
		return err
	}
	*s = Seat{}
	var status, email string
	f.Text("id", &s.ID)
	f.Text("subscription_id", &s.SubscriptionID)
	f.Text("order_id", &s.OrderID)
	f.Text("status", &status)
	f.Text("customer_id", &s.CustomerID)
	f.Text("member_id", &s.MemberID)
	f.Text("email", &email)
	s.Status, s.Email = SeatStatus(status), newEmail(email)
	f.Time("invitation_token_expires_at", &s.InvitationExpiresAt)
	f.Time("claimed_at", &s.ClaimedAt)
	f.Time("revoked_at", &s.RevokedAt)
	f.Time("created_at", &s.CreatedAt)
	wire.Optional(f, "seat_metadata", &s.Metadata)
	var member wire.Fields
	var buyer, external string
	wire.Optional(f, "member", &member)
	member.Text("customer_id", &buyer)
	member.Text("external_id", &external)
	switch {
	case s.CustomerID == "" || s.Status == SeatRevoked:
	case s.MemberID != "" && wire.SameUUID(buyer, s.CustomerID):
		s.Holder = Member(CustomerID(buyer), external)
	default: // the member is the buyer's, and the customer is not
		s.Holder = CustomerID(s.CustomerID)
	}
	return nil
}

// Seats are the seats of a subscription.
type Seats struct {
	// Seats are those that were ever assigned, revoked ones too.
	Seats []Seat
	// Available can still be assigned, of Total that were bought.
	Available, Total int
}

// AssignSeatRequest says who gets a seat of which subscription. Name the holder by one of
// Email, Customer and ExternalMemberID; a new member gets both Email and ExternalMemberID.
type AssignSeatRequest struct {
	// SubscriptionID is the subscription with seats. Required.
	SubscriptionID string
	// Email is whom to invite.
	Email string
	// Customer is a customer that Polar has already.
	Customer CustomerRef
	// ExternalMemberID is your program's id of a member of the buyer. Set it for a new
	// member too, so that they can be named with Member.
	ExternalMemberID string
	// Claim has the holder get the benefits at once, without an invitation to accept.
	Claim bool
	// Metadata is kept with the seat.
	Metadata map[string]any
}

// Format prints the subscription, whatever the verb: who gets the seat is personal.
func (r AssignSeatRequest) Format(f fmt.State, _ rune) {
	fmt.Fprintf(f, "polargate.AssignSeatRequest{SubscriptionID:%s}", r.SubscriptionID)
}

// LogValue logs what Format prints.
func (r AssignSeatRequest) LogValue() slog.Value { return slog.StringValue(fmt.Sprint(r)) }

// seatRefusals are what refusals of seats mean beside ErrDenied.
var seatRefusals = map[string]Reason{"CustomerNotFound": ErrUnknownCustomer}

// Seats lists the seats of a subscription. The access token needs the scope
// customer_seats:read.
func (c *Client) Seats(ctx context.Context, subscriptionID string) (*Seats, error) {
	if err := c.checkAdmin(ctx); err != nil {
		return nil, err
	}
	id, ok := canonicalUUID4(subscriptionID)
	if !ok {
		return nil, errSubscriptionID
	}
	var seats *Seats
	ask := exchange{op: opSeats, path: "/v1/customer-seats?subscription_id=" + id, repeatable: true, refusals: seatRefusals, most: longestList}
	err := c.exchange(ctx, ask, func(body []byte, _ time.Time) error {
		f, err := wire.Object(body)
		if err != nil {
			return err
		}
		got := &Seats{}
		if err := json.Unmarshal(f["seats"], &got.Seats); err != nil || got.Seats == nil {
			return errors.New("a list without its seats")
		}
		wire.Optional(f, "available_seats", &got.Available)
		wire.Optional(f, "total_seats", &got.Total)
		seats = got
		return nil
	})
	return seats, ofSeat(err)
}

// AssignSeat gives a seat of a subscription to somebody: by an invitation that Polar sends
// them, or with Claim at once. A refusal is ErrDenied, and Error.Code says which:
// "SeatNotAvailable" if all are taken, "SeatAlreadyAssigned" if they hold one. A request is
// sent once: if its answer is lost, the error is ErrInDoubt, and Seats tells.
//
// The access token needs the scope customer_seats:write.
func (c *Client) AssignSeat(ctx context.Context, r AssignSeatRequest) (*Seat, error) {
	if err := c.checkAdmin(ctx); err != nil {
		return nil, err
	}
	id, ok := canonicalUUID4(r.SubscriptionID)
	if !ok {
		return nil, errSubscriptionID
	}
	body := map[string]any{}
	if !r.Customer.IsZero() {
		if err := r.Customer.check(); err != nil {
			return nil, err
		}
		if r.Customer.key.Kind == memory.ByMember {
			return nil, &InputError{"Customer", "is a member: name them by ExternalMemberID"}
		}
		body = r.Customer.named("customer_id", "external_customer_id")
	}
	if r.Email != "" {
		body["email"] = r.Email
	}
	if r.ExternalMemberID != "" {
		body["external_member_id"] = r.ExternalMemberID
	}
	if len(body) == 0 {
		return nil, &InputError{"AssignSeatRequest", "names nobody: set Email, Customer or ExternalMemberID"}
	}
	if err := checkMap("Metadata", r.Metadata); err != nil {
		return nil, err
	}
	if r.Metadata != nil {
		body["metadata"] = r.Metadata
	}
	body["subscription_id"], body["immediate_claim"] = id, r.Claim
	seat, err := c.oneSeat(ctx, exchange{op: opAssign, path: "/v1/customer-seats", body: body, secret: r.Email})
	if e, ok := inDoubt(err).(*Error); ok && e.Reason == ErrInDoubt {
		e.situation = serverSeatInDoubt
		err = e
	}
	return seat, err
}

// ResendSeat sends the invitation to a pending seat again. The access token needs the scope
// customer_seats:write.
func (c *Client) ResendSeat(ctx context.Context, seatID string) (*Seat, error) {
	return c.atSeat(ctx, exchange{op: opResend, method: http.MethodPost}, seatID, "/resend")
}

// RevokeSeat takes a seat from its holder, who loses the benefits. It is free for somebody
// else then. Revoking it again does no harm. The access token needs the scope
// customer_seats:write.
func (c *Client) RevokeSeat(ctx context.Context, seatID string) (*Seat, error) {
	return c.atSeat(ctx, exchange{op: opRevokeSeat, method: http.MethodDelete, repeatable: true}, seatID, "")
}

// SeatInvitation is what somebody who is invited to a seat may know before they accept.
type SeatInvitation struct {
	// ProductID and ProductName are of what the seat is of, and the others of who sells it.
	ProductID, ProductName, OrganizationName, OrganizationSlug string
	// Email is the address of who is invited.
	Email Email
	// CanClaim is whether the invitation can be accepted.
	CanClaim bool
}

// SeatInvitation reads an invitation by its token, which is in the e-mail that Polar sent.
// ErrDenied means that there is no such invitation, or that it has ended or been accepted.
func (c *Client) SeatInvitation(ctx context.Context, token string) (*SeatInvitation, error) {
	if ctx == nil {
		return nil, errNilContext
	}
	if token = strings.TrimSpace(token); token == "" || token == "." || token == ".." || len(token) > maxKeyLen {
		return nil, &InputError{"token", "is no token of an invitation: pass what is in the address in Polar's e-mail"}
	}
	var invitation *SeatInvitation
	ask := exchange{op: opInvitation, path: "/v1/customer-seats/claim/" + url.PathEscape(token), secret: token, repeatable: true, refusals: seatRefusals}
	err := c.exchange(ctx, ask, func(body []byte, _ time.Time) error {
		f, err := wire.Object(body)
		if err != nil {
			return err
		}
		got := &SeatInvitation{}
		var email string
		f.Text("product_id", &got.ProductID)
		f.Text("product_name", &got.ProductName)
		f.Text("organization_name", &got.OrganizationName)
		f.Text("organization_slug", &got.OrganizationSlug)
		f.Text("customer_email", &email)
		wire.Optional(f, "can_claim", &got.CanClaim)
		if got.ProductID == "" {
			return errors.New("an invitation without its product")
		}
		got.Email, invitation = newEmail(email), got
		return nil
	})
	return invitation, ofSeat(err)
}

func (c *Client) atSeat(ctx context.Context, ask exchange, seatID, below string) (*Seat, error) {
	if err := c.checkAdmin(ctx); err != nil {
		return nil, err
	}
	id, ok := canonicalUUID4(seatID)
	if !ok {
		return nil, &InputError{"seatID", "is not a UUID of version 4: pass Seat.ID as Polar gave it"}
	}
	ask.path = "/v1/customer-seats/" + id + below
	return c.oneSeat(ctx, ask)
}

func (c *Client) oneSeat(ctx context.Context, ask exchange) (*Seat, error) {
	ask.refusals = seatRefusals
	var seat *Seat
	err := c.exchange(ctx, ask, func(body []byte, _ time.Time) error {
		var got Seat
		if err := json.Unmarshal(body, &got); err != nil {
			return err
		}
		if got.ID == "" || got.Status == "" {
			return errors.New("a seat without its id or status")
		}
		seat = &got
		return nil
	})
	return seat, ofSeat(err)
}

// ofSeat says of a refusal that what was not found is no license key.
func ofSeat(err error) error {
	e, ok := err.(*Error)
	switch {
	case !ok:
	case e.Reason == ErrUnknownKey:
		e.Reason, e.situation = ErrDenied, serverRefused
	case e.Reason == ErrUnknownCustomer:
		e.situation = serverCustomer
	}
	return err
}

var errSubscriptionID = &InputError{"SubscriptionID", "is not a UUID of version 4: pass it as Polar gave it"}

// AdminHandler tells people who look after customers what is known of one, and how the
// cache is doing, as JSON:
//
//	GET /admin?customer_id=…   the Entitlements, as json.Marshal writes them
//	GET /admin?external_id=…   the same, by your program's id
//	GET /admin                 Stats
//
// allowed says who may see it, and is asked first at each request; everybody else gets 403.
// It must not be nil. Polar is asked as by Entitlements. Nothing is changed, and the answer
// has no license key, token or e-mail address. An external id that is personal ends up in
// logs of addresses: use Polar's id then.
func (c *Customers) AdminHandler(allowed func(*http.Request) bool) http.Handler {
	if allowed == nil {
		panic("polargate: AdminHandler needs a function that says who may see it")
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		header := w.Header()
		header.Set("Cache-Control", "no-store")
		header.Set("X-Content-Type-Options", "nosniff")
		switch {
		case !allowed(r):
			w.WriteHeader(http.StatusForbidden)
			return
		case r.Method != http.MethodGet && r.Method != http.MethodHead:
			header.Set("Allow", "GET, HEAD")
			w.WriteHeader(http.StatusMethodNotAllowed)
			return
		}
		var view any
		var err error
		switch query := r.URL.Query(); {
		case query.Has("customer_id"):
			view, err = c.Entitlements(r.Context(), CustomerID(query.Get("customer_id")))
		case query.Has("external_id"):
			view, err = c.Entitlements(r.Context(), ExternalID(query.Get("external_id")))
		default:
			view = c.adminStats()
		}
		if err != nil {
			_, refusal := c.decide(nil, err, nil)
			WriteRefusal(w, r, *refusal)
			return
		}
		body, err := json.Marshal(view)
		if err != nil {
			c.config.Logger.Error("polargate: an answer of AdminHandler can't be written", "error", err)
			w.WriteHeader(http.StatusInternalServerError)
			return
		}
		header.Set("Content-Type", "application/json")
		if r.Method != http.MethodHead {
			_, _ = w.Write(append(body, '\n'))
		}
	})
}

// adminStats are the Stats with texts for what JSON has no form for.
func (c *Customers) adminStats() any {
	text := func(err error) string {
		if err == nil {
			return ""
		}
		return err.Error()
	}
	type usage struct {
		Waiting int
		Refused int64
		Failing string
	}
	s := c.Stats()
	return struct {
		CustomersStats
		Misconfigured, Pause string
		Usage                usage
	}{s, text(s.Misconfigured), s.Pause.String(), usage{s.Usage.Waiting, s.Usage.Refused, text(s.Usage.Failing)}}
}
