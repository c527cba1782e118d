package polartest

import (
	"cmp"
	"crypto/rand"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/polargate/polargate/polartest/internal/pydantic"
)

// Customer sessions, and the portal of who has one.

// sessionLife is how long a session lasts.
const sessionLife = time.Hour

// Session is a session of a customer, or of a member of one, in the portal.
type Session struct {
	// ID is a UUID of version 4; empty: a random one. Token is the secret. Empty: random, "polar_cst_",
	// or for a member "polar_mst_", and letters.
	ID, Token string
	// CustomerID is the customer. MemberID is the member whose session it is; empty: the customer's own.
	CustomerID, MemberID string
	ReturnURL            string    // empty: null
	CreatedAt            time.Time // now, if zero
	ExpiresAt            time.Time // an hour after CreatedAt, if zero
}

// AddSession adds a session and returns it with everything filled in that was empty. It panics if there
// is no such customer.
func (p *Polar) AddSession(s Session) Session {
	p.mu.Lock()
	defer p.mu.Unlock()
	a := p.findCustomer(s.CustomerID)
	if a == nil {
		panic("polartest: AddSession: there is no customer with the id or external id " + s.CustomerID)
	}
	s.CustomerID = a.ID
	return *p.addSession(s, p.now())
}

func (p *Polar) addSession(s Session, now time.Time) *Session {
	s.ID = mustUUID4("Session.ID", cmp.Or(s.ID, newUUID()))
	if s.Token == "" {
		s.Token = "polar_cst_" + rand.Text() + rand.Text()
		if s.MemberID != "" {
			s.Token = "polar_mst_" + rand.Text() + rand.Text()
		}
	}
	settleTimes(now, &s.CreatedAt)
	settleTimes(s.CreatedAt.Add(sessionLife), &s.ExpiresAt)
	p.sessions[s.Token] = &s
	return &s
}

// validSession is the session whose token was sent, if Polar knows it.
func (p *Polar) validSession(c *call) *Session {
	s := p.sessions[c.bearer()]
	if s == nil || !c.at.Before(s.ExpiresAt) || !p.customersByID[s.CustomerID].DeletedAt.IsZero() {
		return nil
	}
	return s
}

// address is the e-mail address of whose session it is.
func (p *Polar) address(s *Session) string {
	if m := p.member(s.MemberID); m != nil {
		return m.Email
	}
	return p.customersByID[s.CustomerID].Email
}

func (p *Polar) createSession(c *call) *answer {
	f, refusal := c.form()
	if refusal != nil {
		return refusal
	}
	memberID, externalMember := f.uuidOrNull("member_id"), f.textOrNull("external_member_id")
	returnURL := f.textOrNull("return_url")
	const byID, byExternal = "CustomerSessionCustomerIDCreate", "CustomerSessionCustomerExternalIDCreate"
	under := func(branch string, read func(*form) string) (string, []problem) {
		inner := &form{fields: f.fields, place: f.place}
		id := read(inner)
		for i := range inner.problems {
			inner.problems[i].Loc = slices.Insert(slices.Clone(inner.problems[i].Loc), 1, any(branch))
		}
		return id, inner.problems
	}
	customerID, wrongID := under(byID, func(f *form) string { return f.uuid("customer_id") })
	name := "external_customer_id"
	if _, sent := f.fields.Get(name); !sent {
		if _, sent := f.fields.Get("customer_external_id"); sent {
			name = "customer_external_id"
		}
	}
	external, wrongExternal := under(byExternal, func(f *form) string { return f.text(name) })
	switch {
	case len(f.problems) > 0:
		return unprocessable(f.problems)
	case wrongID != nil && wrongExternal != nil:
		return unprocessable(slices.Concat(wrongID, wrongExternal))
	}
	// of the two ways to name a customer, the external ID goes before
	var a *account
	field, asked := "customer_id", customerID
	if wrongExternal == nil {
		field, asked = "external_customer_id", external
		a = p.customersByExternalID[customerName{c.token.OrganizationID, external}]
	} else {
		a = p.ofToken(c, customerID)
	}
	if a == nil {
		return polarInvalid([]any{"body", field}, "Customer does not exist.", asked)
	}

	s := Session{CustomerID: a.ID, ReturnURL: returnURL}
	if p.organization(a.OrganizationID).MemberModel {
		m := p.ownerOf(a.ID)
		if memberID != "" || externalMember != "" {
			i := slices.IndexFunc(p.members, func(m *Member) bool {
				return m.CustomerID == a.ID && (m.ID == memberID || externalMember != "" && m.ExternalID == externalMember)
			})
			switch {
			case i >= 0:
				m = p.members[i]
			case memberID != "":
				return polarInvalid([]any{"body", "member_id"}, "Member does not exist for this customer.", memberID)
			default:
				return polarInvalid([]any{"body", "external_member_id"}, "Member does not exist for this customer.", externalMember)
			}
		} else if a.Type == "team" {
			return polarInvalid([]any{"body", "member_id"}, "member_id is required for team customers.", nil)
		}
		s.MemberID = m.ID
	}
	return jsonAnswer(http.StatusCreated, p.describeSession(p.addSession(s, c.at)))
}

func (p *Polar) describeSession(s *Session) *object {
	a := p.customersByID[s.CustomerID]
	host := "https://polar.sh/"
	if p.config.Sandbox {
		host = "https://sandbox.polar.sh/"
	}
	return newObject(
		"created_at", pydantic.PrintTime(s.CreatedAt),
		"modified_at", nil,
		"id", s.ID,
		"token", s.Token,
		"expires_at", pydantic.PrintTime(s.ExpiresAt),
		"return_url", textOrNull(s.ReturnURL),
		"customer_portal_url", host+p.organization(a.OrganizationID).Slug+"/portal?customer_session_token="+s.Token+
			"&email="+url.QueryEscape(p.address(s)),
		"customer_id", a.ID,
		"customer", a.describe())
}

// Below, c.session is whose portal it is.

func (p *Polar) introspect(c *call) *answer {
	return ok(newObject("expires_at", pydantic.PrintTime(c.session.ExpiresAt), "return_url", textOrNull(c.session.ReturnURL)))
}

func (p *Polar) portalUser(c *call) *answer {
	a := p.customersByID[c.session.CustomerID]
	if m := p.member(c.session.MemberID); m != nil {
		return ok(newObject("type", "member", "name", textOrNull(m.Name), "email", textOrNull(m.Email),
			"customer_id", a.ID, "member_id", m.ID, "role", m.Role))
	}
	return ok(newObject("type", "customer", "name", textOrNull(a.Name), "email", textOrNull(a.Email),
		"customer_id", a.ID, "member_id", nil, "role", nil))
}

func (p *Polar) portalCustomer(c *call) *answer {
	return ok(p.customersByID[c.session.CustomerID].describeForPortal())
}

// describeForPortal is a customer as the portal shows it.
func (c *Customer) describeForPortal() *object {
	return newObject(
		"created_at", pydantic.PrintTimeOrNull(c.CreatedAt),
		"modified_at", pydantic.PrintTimeOrNull(c.ModifiedAt),
		"id", c.ID,
		"email", textOrNull(c.Email),
		"email_verified", false,
		"name", textOrNull(c.Name),
		"billing_name", textOrNull(c.Name),
		"billing_address", nil,
		"tax_id", nil,
		"oauth_accounts", newObject(),
		"default_payment_method_id", nil,
		"type", c.Type,
		"locale", nil)
}

// mine says whether a grant is one that the session sees: of a member those that are for it.
func (c *call) mine(g grant) bool {
	return g.account.ID == c.session.CustomerID && (c.session.MemberID == "" || g.MemberID == c.session.MemberID)
}

func (p *Polar) portalGrants(c *call) *answer {
	f := c.queryForm()
	types := f.texts(c, "type")
	benefits := f.uuids(c, "benefit_id")
	subscriptions := f.uuids(c, "subscription_id")
	return answerPage(f, func() []grant {
		found := p.grants(p.customersByID[c.session.CustomerID].OrganizationID, func(g grant) bool {
			return c.mine(g) && !g.Revoked && !p.benefitOf(g.OrganizationID, g.Benefit).Private &&
				types.passes(g.Benefit.Type) && benefits.passes(g.BenefitID) && subscriptions.passes(g.SubscriptionID)
		})
		slices.SortStableFunc(found, func(a, b grant) int { return a.Benefit.CreatedAt.Compare(b.Benefit.CreatedAt) })
		return found
	}, p.describeGrantForPortal)
}

func (p *Polar) portalMeters(c *call) *answer {
	f := c.queryForm()
	meters := f.uuids(c, "meter_id")
	a := p.customersByID[c.session.CustomerID]
	return answerPage(f, func() []Meter {
		return slices.DeleteFunc(slices.Clone(a.Meters), func(m Meter) bool { return !meters.passes(m.MeterID) })
	}, func(m Meter) *object {
		of := p.meterOf(a.OrganizationID, m)
		return m.describe(a.ID).Set("meter", newObject(
			"created_at", pydantic.PrintTimeOrNull(of.CreatedAt),
			"modified_at", pydantic.PrintTimeOrNull(of.ModifiedAt),
			"id", of.ID,
			"name", of.Name))
	})
}

// portalSees reports whether a session sees a license key: members see those that were granted to them,
// and the owner also sees those that no other member has.
func (p *Polar) portalSees(c *call, k *LicenseKey) bool {
	if p.visible(k, c.at) == nil || k.CustomerID != c.session.CustomerID {
		return false
	}
	m := p.member(c.session.MemberID)
	if m == nil {
		return true
	}
	for i := range p.customersByID[k.CustomerID].Benefits {
		if g := &p.customersByID[k.CustomerID].Benefits[i]; g.LicenseKeyID == k.ID && g.MemberID != "" {
			return g.MemberID == m.ID
		}
	}
	return m.Role == owner
}

func (p *Polar) portalKeys(c *call) *answer {
	f := c.queryForm()
	benefits := f.uuids(c, "benefit_id")
	return answerPage(f, func() []*LicenseKey {
		var found []*LicenseKey
		for _, k := range p.keys {
			if p.portalSees(c, k) && benefits.passes(k.BenefitID) {
				found = append(found, k)
			}
		}
		oldestFirst(found)
		return found
	}, func(k *LicenseKey) *object { return p.describeKey(c, k) })
}

// portalKey is the license key of the path.
func (p *Polar) portalKey(c *call) (*LicenseKey, *answer) {
	f := c.pathForm("id")
	id := f.uuid("id")
	if len(f.problems) > 0 {
		return nil, unprocessable(f.problems)
	}
	k := p.byID[id]
	if k == nil || !p.portalSees(c, k) {
		return nil, notFound("Not found")
	}
	return k, nil
}

// getPortalKey tells the activations only where the benefit lets customers administrate them.
func (p *Polar) getPortalKey(c *call) *answer {
	k, refusal := p.portalKey(c)
	if refusal != nil {
		return refusal
	}
	activations := []any{}
	if b := p.benefit(k.BenefitID); b != nil && b.customersAdministrate() {
		activations = k.describeActivations()
	}
	return ok(p.describeKey(c, k).Set("activations", activations))
}

func (p *Polar) rotatePortalKey(c *call) *answer {
	k, refusal := p.portalKey(c)
	if refusal != nil {
		return refusal
	}
	return p.rotate(c, k)
}

func (p *Polar) portalSubscriptions(c *call) *answer {
	return answerPage(c.queryForm(), func() []subscribed {
		var found []subscribed
		a := p.customersByID[c.session.CustomerID]
		for i := range a.Subscriptions {
			found = append(found, subscribed{a, &a.Subscriptions[i]})
		}
		slices.SortStableFunc(found, func(a, b subscribed) int { return b.StartedAt.Compare(a.StartedAt) })
		return found
	}, func(s subscribed) *object { return p.describeSubscriptionForPortal(s.account, s.Subscription) })
}

// claimedSubscriptions are those in which whose session it is has a seat.
func (p *Polar) claimedSubscriptions(c *call) *answer {
	return answerPage(c.queryForm(), func() []subscribed {
		var found []subscribed
		for _, s := range p.seats {
			mine := s.MemberID == c.session.MemberID && s.MemberID != "" ||
				s.CustomerID == c.session.CustomerID && strings.EqualFold(s.Email, p.address(c.session))
			if a, subscription := p.subscription(s.SubscriptionID); s.Status == claimed && mine && a != nil {
				found = append(found, subscribed{a, subscription})
			}
		}
		return found
	}, func(s subscribed) *object { return p.describeSubscriptionForPortal(s.account, s.Subscription) })
}
