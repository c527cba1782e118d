package polartest

import (
	"reflect"
	"slices"
	"time"

	"github.com/polargate/polargate/polartest/internal/pydantic"
)

// grant is a grant with the customer who has it.
type grant struct {
	*account
	*Benefit
}

// describeGrant is a grant as lists tell it.
func (p *Polar) describeGrant(g grant) *object {
	return p.grantHead(g).
		Set("properties", p.describeProperties(g.Benefit, false)).
		Set("user_id", g.account.ID)
}

// describeGrantEvent is a grant as webhooks tell it.
func (p *Polar) describeGrantEvent(g grant, before *Benefit) *object {
	previous := newObject()
	switch {
	case before != nil:
		previous = p.describeProperties(before, true)
	case g.PreviousProperties != nil:
		was := *g.Benefit
		was.Properties = g.PreviousProperties
		previous = p.describeProperties(&was, true)
	}
	return p.grantHead(g).
		Set("properties", p.describeProperties(g.Benefit, true)).
		Set("previous_properties", previous).
		Set("user_id", g.account.ID)
}

func (g grant) times() (granted, revoked any) {
	if g.Revoked {
		return nil, pydantic.PrintTimeOrNull(g.RevokedAt)
	}
	return pydantic.PrintTimeOrNull(g.GrantedAt), nil
}

func (p *Polar) grantHead(g grant) *object {
	granted, revoked := g.times()
	return newObject(
		"created_at", pydantic.PrintTimeOrNull(g.Benefit.CreatedAt),
		"modified_at", pydantic.PrintTimeOrNull(g.Benefit.ModifiedAt),
		"id", g.Benefit.ID,
		"granted_at", granted,
		"is_granted", !g.Revoked,
		"revoked_at", revoked,
		"is_revoked", g.Revoked,
		"subscription_id", textOrNull(g.SubscriptionID),
		"order_id", textOrNull(g.OrderID),
		"customer_id", g.account.ID,
		"member_id", textOrNull(g.MemberID),
		"benefit_id", g.BenefitID,
		"error", nil,
		"customer", g.account.describe(),
		"member", p.describeMember(g.MemberID),
		"benefit", p.benefitOf(g.OrganizationID, g.Benefit).describe())
}

// describeGrantForPortal is a grant as the portal shows it.
func (p *Polar) describeGrantForPortal(g grant) *object {
	granted, revoked := g.times()
	return newObject(
		"created_at", pydantic.PrintTimeOrNull(g.Benefit.CreatedAt),
		"modified_at", pydantic.PrintTimeOrNull(g.Benefit.ModifiedAt),
		"id", g.Benefit.ID,
		"granted_at", granted,
		"revoked_at", revoked,
		"customer_id", g.account.ID,
		"member_id", textOrNull(g.MemberID),
		"benefit_id", g.BenefitID,
		"subscription_id", textOrNull(g.SubscriptionID),
		"order_id", textOrNull(g.OrderID),
		"is_granted", !g.Revoked,
		"is_revoked", g.Revoked,
		"error", nil,
		"customer", g.describeForPortal(),
		"benefit", p.describeBenefitForPortal(p.benefitOf(g.OrganizationID, g.Benefit)),
		"properties", p.describeProperties(g.Benefit, true))
}

// grants are those of an organization that fit, the newest first.
func (p *Polar) grants(organizationID string, fits func(grant) bool) []grant {
	var found []grant
	for _, a := range p.customers {
		if a.OrganizationID != organizationID {
			continue
		}
		for i := range a.Benefits {
			if g := (grant{a, &a.Benefits[i]}); fits(g) {
				found = append(found, g)
			}
		}
	}
	slices.SortStableFunc(found, func(a, b grant) int { return b.Benefit.CreatedAt.Compare(a.Benefit.CreatedAt) })
	return found
}

func (p *Polar) listGrants(c *call) *answer {
	f := c.queryForm()
	organizations := f.uuids(c, "organization_id")
	customers := f.uuids(c, "customer_id")
	externals := f.texts(c, "external_customer_id")
	isGranted := f.flag("is_granted")
	sorted := sorting(f, c, orders[grant]{
		"created_at": func(a, b grant) int { return a.Benefit.CreatedAt.Compare(b.Benefit.CreatedAt) },
		"granted_at": func(a, b grant) int { return a.GrantedAt.Compare(b.GrantedAt) },
		"revoked_at": func(a, b grant) int { return a.RevokedAt.Compare(b.RevokedAt) },
	})
	return answerPage(f, func() []grant {
		return sorted(p.grants(c.token.OrganizationID, func(g grant) bool {
			return organizations.passes(g.OrganizationID) && customers.passes(g.account.ID) &&
				externals.passes(g.ExternalID) && (isGranted == nil || *isGranted != g.Revoked)
		}))
	}, p.describeGrant)
}

func (p *Polar) listGrantsOfBenefit(c *call) *answer {
	path, f := c.pathForm("id"), c.queryForm()
	id := path.uuid("id")
	isGranted := f.flag("is_granted")
	customers := f.uuids(c, "customer_id")
	members := f.uuids(c, "member_id")
	f.problems = slices.Concat(path.problems, f.problems)
	page := answerPage(f, func() []grant {
		return p.grants(c.token.OrganizationID, func(g grant) bool {
			return g.BenefitID == id && customers.passes(g.account.ID) && members.passes(g.MemberID) &&
				(isGranted == nil || *isGranted != g.Revoked)
		})
	}, p.describeGrant)
	if page.problems == nil && p.addressedBenefit(c, id) == nil && len(p.grants(c.token.OrganizationID, func(g grant) bool { return g.BenefitID == id })) == 0 {
		return notFound("Not found")
	}
	return page
}

// emitGrants makes an event of each grant of a customer that came, changed or ended, for each endpoint
// that names that type.
func (p *Polar) emitGrants(a *account, before *Customer, now time.Time) {
	for i := range a.Benefits {
		b := &a.Benefits[i]
		at := slices.IndexFunc(before.Benefits, func(old Benefit) bool { return old.ID == b.ID })
		var old *Benefit
		kind := "benefit_grant.created"
		if at >= 0 {
			old = &before.Benefits[at]
			kind = "benefit_grant.updated"
		}
		switch {
		case old == nil && b.Revoked, old != nil && reflect.DeepEqual(*old, *b):
			continue
		case b.Revoked && !old.Revoked:
			kind = "benefit_grant.revoked"
		case old != nil && old.Revoked && !b.Revoked:
			kind = "benefit_grant.created" // granted again
		}
		p.emitTo(kind, a.OrganizationID, a, func() *object { return p.describeGrantEvent(grant{a, b}, old) }, Event{At: now})
	}
}
