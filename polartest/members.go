package polartest

import (
	"cmp"
	"fmt"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/polargate/polargate/polartest/internal/pydantic"
)

// Member is a person of a customer. Each customer has one from the start, who owns it.
type Member struct {
	// ID is a UUID of version 4; empty: a random one. CustomerID is the customer.
	ID, CustomerID string
	Email          string
	// Name and ExternalID. Empty: null. ExternalID is unique among the members of a customer.
	Name, ExternalID string
	// Role is "owner", "billing_manager" or "member", which is also what empty means.
	Role                  string
	CreatedAt, ModifiedAt time.Time // CreatedAt is now, if zero
}

const owner = "owner"

var roles = []string{owner, "billing_manager", "member"}

// AddMember adds a member to a customer, or replaces the one of that ID, and returns it with everything
// filled in that was empty. A second owner takes the place of the first. It panics if there is no such
// customer.
func (p *Polar) AddMember(m Member) Member {
	p.mu.Lock()
	defer p.mu.Unlock()
	a := p.findCustomer(m.CustomerID)
	if a == nil {
		panic(fmt.Sprintf("polartest: AddMember: there is no customer with the id or external id %q", m.CustomerID))
	}
	if m.Role == owner {
		p.members = slices.DeleteFunc(p.members, func(old *Member) bool {
			return old.CustomerID == a.ID && old.Role == owner && !is(old.ID, m.ID)
		})
	}
	return *p.addMember(a, m, p.now())
}

func (p *Polar) addMember(a *account, m Member, now time.Time) *Member {
	m.ID = mustUUID4("Member.ID", cmp.Or(m.ID, newUUID()))
	m.CustomerID = a.ID
	m.Role = cmp.Or(m.Role, "member")
	if !slices.Contains(roles, m.Role) {
		panic(fmt.Sprintf("polartest: Member.Role %q is not one of %s", m.Role, strings.Join(roles, ", ")))
	}
	settleTimes(now, &m.CreatedAt)
	settleTimes(time.Time{}, &m.ModifiedAt)
	known := p.member(m.ID)
	put(&p.members, &m, func(old *Member) bool { return old.ID == m.ID })
	kind := "member.created"
	if known != nil {
		kind = "member.updated"
	}
	p.emitTo(kind, a.OrganizationID, a, m.describe, Event{At: now})
	return &m
}

func (p *Polar) member(id string) *Member {
	for _, m := range p.members {
		if m.ID == id {
			return m
		}
	}
	return nil
}

// ownerOf is the member who owns a customer.
func (p *Polar) ownerOf(customerID string) *Member {
	for _, m := range p.members {
		if m.CustomerID == customerID && m.Role == owner {
			return m
		}
	}
	return nil
}

// changeMembers gives a new customer its owner, and takes the members of one that is deleted away.
func (p *Polar) changeMembers(a *account, before *Customer, now time.Time) {
	switch {
	case before.ID == "":
		m := a.owner
		m.Role = owner
		if m.Email == "" {
			m.Email, m.Name, m.ExternalID = a.Email, cmp.Or(m.Name, a.Name), cmp.Or(m.ExternalID, a.ExternalID)
		}
		if m.CreatedAt.IsZero() {
			m.CreatedAt = a.CreatedAt
		}
		p.addMember(a, m, now)
	case before.DeletedAt.IsZero() && !a.DeletedAt.IsZero():
		for _, m := range p.members {
			if m.CustomerID == a.ID {
				p.emitTo("member.deleted", a.OrganizationID, a, m.describe, Event{At: now})
			}
		}
		p.members = slices.DeleteFunc(p.members, func(m *Member) bool { return m.CustomerID == a.ID })
	}
}

func (m *Member) describe() *object {
	return newObject(
		"id", m.ID,
		"created_at", pydantic.PrintTimeOrNull(m.CreatedAt),
		"modified_at", pydantic.PrintTimeOrNull(m.ModifiedAt),
		"customer_id", m.CustomerID,
		"email", textOrNull(m.Email),
		"name", textOrNull(m.Name),
		"external_id", textOrNull(m.ExternalID),
		"role", m.Role)
}

// describeMember is the member of that ID, or null.
func (p *Polar) describeMember(id string) any {
	if m := p.member(id); m != nil {
		return m.describe()
	}
	return nil
}

// ofToken finds a customer of the organization whose token was sent.
func (p *Polar) ofToken(c *call, id string) *account {
	a := p.customersByID[id]
	if a == nil || a.OrganizationID != c.token.OrganizationID || !a.DeletedAt.IsZero() {
		return nil
	}
	return a
}

// listMembers lists all that fit, or those of the customer of the path.
func (p *Polar) listMembers(c *call) *answer {
	f := c.queryForm()
	customers := f.uuids(c, "customer_id")
	externals := f.texts(c, "external_customer_id")
	wanted := f.texts(c, "role")
	if len(c.parameters) > 0 {
		a, refusal := p.addressedCustomer(c)
		if refusal != nil {
			return refusal
		}
		customers = filter{a.ID}
	}
	return answerPage(f, func() []*Member {
		var found []*Member
		for _, m := range p.members {
			a := p.ofToken(c, m.CustomerID)
			if a != nil && customers.passes(a.ID) && externals.passes(a.ExternalID) && wanted.passes(m.Role) {
				found = append(found, m)
			}
		}
		slices.SortStableFunc(found, func(a, b *Member) int { return b.CreatedAt.Compare(a.CreatedAt) })
		return found
	}, (*Member).describe)
}

// addressedMember is the member of the path: by its ID, alone or below that of its customer, or by the
// external IDs of both.
func (p *Polar) addressedMember(c *call) (*Member, *answer) {
	name := "id"
	if _, nested := c.parameters["member_id"]; nested {
		name = "member_id"
	}
	external, byExternal := c.parameters["member_external_id"]
	f := c.pathForm(name)
	id := ""
	if !byExternal {
		if id = f.uuid(name); len(f.problems) > 0 {
			return nil, unprocessable(f.problems)
		}
	}
	for _, m := range p.members {
		a := p.ofToken(c, m.CustomerID)
		switch {
		case a == nil:
		case byExternal && (m.ExternalID != external || a.ExternalID != c.parameters["external_id"]):
		case !byExternal && m.ID != id:
		case name == "member_id" && !is(a.ID, c.parameters["id"]):
		default:
			return m, nil
		}
	}
	return nil, notFound("Member not found")
}

func (p *Polar) getMember(c *call) *answer {
	m, refusal := p.addressedMember(c)
	if refusal != nil {
		return refusal
	}
	return ok(m.describe())
}

func (p *Polar) getExternalMember(c *call) *answer {
	f := c.queryForm()
	customerID := f.uuidOrNull("customer_id")
	external, byExternal := f.fields.Get("external_customer_id")
	switch {
	case len(f.problems) > 0:
		return unprocessable(f.problems)
	case customerID == "" && !byExternal:
		return polarInvalidAll([]any{newObject("type", "missing", "loc", []any{"query"},
			"msg", "One of customer_id or external_customer_id must be provided.", "input", nil)})
	case customerID != "" && byExternal:
		return polarInvalid([]any{"query"}, "Only one of customer_id or external_customer_id may be provided.", nil)
	}
	for _, m := range p.members {
		a := p.ofToken(c, m.CustomerID)
		if m.ExternalID == c.parameters["external_id"] && a != nil && (a.ID == customerID || byExternal && a.ExternalID == external) {
			return ok(m.describe())
		}
	}
	return notFound("Member not found")
}

func (p *Polar) createMember(c *call) *answer {
	f, refusal := c.form()
	if refusal != nil {
		return refusal
	}
	var m Member
	if len(c.parameters) == 0 {
		m.CustomerID = f.uuid("customer_id")
	}
	m.Email, m.Name = f.text("email"), f.textOrNull("name")
	m.ExternalID, m.Role = f.textOrNull("external_id"), f.role("role")
	if len(f.problems) > 0 {
		return unprocessable(f.problems)
	}
	a := p.ofToken(c, m.CustomerID)
	if len(c.parameters) > 0 {
		if a, refusal = p.addressedCustomer(c); refusal != nil {
			return refusal
		}
	}
	if a == nil {
		return notFound("Customer not found")
	}
	for _, other := range p.members {
		if other.CustomerID == a.ID && strings.EqualFold(other.Email, m.Email) {
			return jsonAnswer(http.StatusCreated, other.describe()) // Polar gives the one that is there
		}
	}
	return jsonAnswer(http.StatusCreated, p.addMember(a, m, c.at).describe())
}

func (p *Polar) patchMember(c *call) *answer {
	m, refusal := p.addressedMember(c)
	if refusal != nil {
		return refusal
	}
	f, refusal := c.form()
	if refusal != nil {
		return refusal
	}
	next := *m
	if v, sent := f.fields.Get("name"); sent {
		if next.Name = ""; v != nil {
			next.Name = f.text("name")
		}
	}
	if v, sent := f.fields.Get("role"); sent && v != nil {
		next.Role = f.role("role")
	}
	if v, sent := f.fields.Get("external_id"); sent {
		if next.ExternalID = ""; v != nil {
			next.ExternalID = f.text("external_id")
		}
	}
	if len(f.problems) > 0 {
		return unprocessable(f.problems)
	}
	if !reflect.DeepEqual(*m, next) {
		next.ModifiedAt = c.at
		m = p.addMember(p.customersByID[m.CustomerID], next, c.at)
	}
	return ok(m.describe())
}

func (p *Polar) deleteMember(c *call) *answer {
	m, refusal := p.addressedMember(c)
	if refusal != nil {
		return refusal
	}
	a := p.customersByID[m.CustomerID]
	p.members = slices.DeleteFunc(p.members, func(other *Member) bool { return other == m })
	p.emitTo("member.deleted", a.OrganizationID, a, m.describe, Event{At: c.at})
	return &answer{status: http.StatusNoContent, header: jsonHeader()}
}

func (f *form) role(name string) string {
	v, ok := f.fields.Get(name)
	if !ok || v == nil {
		return "member"
	}
	if s, ok := v.(string); ok && slices.Contains(roles, s) {
		return s
	}
	const expected = "'owner', 'billing_manager' or 'member'"
	f.complain(name, "enum", "Input should be "+expected, v, newObject("expected", expected))
	return ""
}

// textOrNull gives "" for null and for a field that is not there.
func (f *form) textOrNull(name string) string {
	if v, ok := f.fields.Get(name); !ok || v == nil {
		return ""
	}
	return f.text(name)
}
