package polartest

import (
	"net/http"
	"slices"
	"strings"
	"time"
)

// The endpoints of customers, but for their state.

func (p *Polar) listCustomers(c *call) *answer {
	f := c.queryForm()
	organizations := f.uuids(c, "organization_id")
	emails := f.texts(c, "email")
	query := strings.ToLower(strings.Join(f.texts(c, "query"), ""))
	return answerPage(f, func() []*account {
		var found []*account
		for _, a := range p.customers {
			matches := len(emails) == 0 || slices.ContainsFunc(emails, func(s string) bool { return strings.EqualFold(s, a.Email) })
			if p.ofToken(c, a.ID) != nil && organizations.passes(a.OrganizationID) && matches &&
				(strings.Contains(strings.ToLower(a.Email), query) || strings.Contains(strings.ToLower(a.Name), query) || strings.HasPrefix(strings.ToLower(a.ExternalID), query)) {
				found = append(found, a)
			}
		}
		slices.SortStableFunc(found, func(a, b *account) int { return b.CreatedAt.Compare(a.CreatedAt) })
		return found
	}, func(a *account) *object { return a.describe() })
}

// addressedCustomer is the customer of the path, by its own ID or by the external one.
func (p *Polar) addressedCustomer(c *call) (*account, *answer) {
	if external, ok := c.parameters["external_id"]; ok {
		if strings.ContainsRune(external, 0) {
			return nil, serverError()
		}
		if a := p.customersByExternalID[customerName{c.token.OrganizationID, external}]; a != nil {
			return a, nil
		}
		return nil, notFound("Not found")
	}
	f := c.pathForm("id")
	id := f.uuid("id")
	if len(f.problems) > 0 {
		return nil, unprocessable(f.problems)
	}
	if a := p.ofToken(c, id); a != nil {
		return a, nil
	}
	return nil, notFound("Not found")
}

func (p *Polar) getCustomer(c *call) *answer {
	a, refusal := p.addressedCustomer(c)
	if refusal != nil {
		return refusal
	}
	return ok(a.describe())
}

// taken is the refusal of what another customer has.
func (p *Polar) taken(c *call, next *Customer, self *account) *answer {
	if a := p.customersByExternalID[next.byExternalID()]; next.ExternalID != "" && a != nil && a != self {
		return polarInvalid([]any{"body", "external_id"}, "A customer with this external ID already exists.", next.ExternalID)
	}
	if a := p.customersByEmail[next.byEmail()]; next.Email != "" && a != nil && a != self {
		return polarInvalid([]any{"body", "email"}, "A customer with this email address already exists.", next.Email)
	}
	return nil
}

func (p *Polar) createCustomer(c *call) *answer {
	f, refusal := c.form()
	if refusal != nil {
		return refusal
	}
	next := Customer{OrganizationID: c.token.OrganizationID, ExternalID: f.textOrNull("external_id"), Name: f.textOrNull("name"), Type: f.textOrNull("type")}
	if next.Type == "team" {
		next.Email = f.textOrNull("email")
	} else {
		next.Email = f.text("email")
	}
	if v, sent := f.fields.Get("metadata"); sent && v != nil {
		if m := f.entries("metadata"); m != nil {
			next.Metadata = m.Plain()
		}
	}
	var first Member
	if v, sent := f.fields.Get("owner"); sent && v != nil {
		if o, isObject := v.(*object); isObject {
			inner := &form{fields: o, place: f.place}
			first = Member{Email: inner.textOrNull("email"), Name: inner.textOrNull("name"), ExternalID: inner.textOrNull("external_id")}
		}
	}
	switch {
	case len(f.problems) > 0:
		return unprocessable(f.problems)
	case next.Type != "" && next.Type != "individual" && next.Type != "team":
		const expected = "'individual' or 'team'"
		return unprocessable([]problem{newProblem("enum", []any{"body", "type"}, "Input should be "+expected, next.Type, newObject("expected", expected))})
	}
	if refusal := p.taken(c, &next, nil); refusal != nil {
		return refusal
	}
	return jsonAnswer(http.StatusCreated, p.addCustomer("createCustomer", next, first).describe())
}

// patchCustomer changes what is sent. An external ID can be set, but not changed.
func (p *Polar) patchCustomer(c *call) *answer {
	a, refusal := p.addressedCustomer(c)
	if refusal != nil {
		return refusal
	}
	f, refusal := c.form()
	if refusal != nil {
		return refusal
	}
	next := a.clone()
	if v, sent := f.fields.Get("email"); sent && v != nil {
		next.Email = f.text("email")
	}
	if _, sent := f.fields.Get("name"); sent {
		next.Name = f.textOrNull("name")
	}
	if v, sent := f.fields.Get("metadata"); sent && v != nil {
		if m := f.entries("metadata"); m != nil {
			next.Metadata = m.Plain()
		}
	}
	external, sent := f.fields.Get("external_id")
	if sent && external != nil {
		next.ExternalID = f.text("external_id")
	}
	if len(f.problems) > 0 {
		return unprocessable(f.problems)
	}
	if sent && a.ExternalID != "" && next.ExternalID != a.ExternalID {
		return polarInvalid([]any{"body", "external_id"}, "Customer external ID cannot be updated.", next.ExternalID)
	}
	if refusal := p.taken(c, &next, a); refusal != nil {
		return refusal
	}
	p.change("patchCustomer", a, next)
	return ok(a.describe())
}

func (p *Polar) removeCustomer(c *call) *answer {
	a, refusal := p.addressedCustomer(c)
	if refusal != nil {
		return refusal
	}
	next := a.clone()
	p.deleteCustomer(&next, c.at)
	p.change("removeCustomer", a, next)
	return &answer{status: http.StatusNoContent, header: jsonHeader()}
}

// deleteCustomer is what becomes of a customer that is deleted.
func (p *Polar) deleteCustomer(c *Customer, now time.Time) {
	settleTimes(now, &c.DeletedAt)
	for i := range c.Subscriptions {
		if s := &c.Subscriptions[i]; s.shown() || s.Status == "past_due" {
			s.cancel(now)
		}
	}
	p.revokeOf(c, func(*Benefit) bool { return true })
}
