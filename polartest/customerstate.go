package polartest

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/polargate/polargate/polartest/internal/pydantic"
)

// The endpoints of customer state, and what they and the webhooks say of a customer.

// cacheLife is how long Polar answers from its cache when nothing refreshes it.
const cacheLife = time.Hour

func (p *Polar) stateByID(c *call) *answer {
	f := c.pathForm("id")
	id := f.uuid("id")
	if len(f.problems) > 0 {
		return unprocessable(f.problems)
	}
	return p.stateOf(c, p.customersByID[id])
}

func (p *Polar) stateByExternalID(c *call) *answer {
	id := c.parameters["external_id"]
	if strings.ContainsRune(id, 0) {
		return serverError() // the schema lets it pass, the database does not
	}
	return p.stateOf(c, p.customersByExternalID[customerName{c.token.OrganizationID, id}])
}

func (p *Polar) stateOf(c *call, a *account) *answer {
	if a == nil || a.OrganizationID != c.token.OrganizationID || !a.DeletedAt.IsZero() {
		return notFound("Not found")
	}
	if age := c.at.Sub(a.shownAt); p.config.EventuallyConsistent && age >= 0 && age < cacheLife {
		return ok(a.shown)
	}
	state := p.describeState(&a.Customer)
	p.show(a, a.change, state, c.at)
	return ok(state)
}

// show puts a state into the cache, unless a later one is there.
func (p *Polar) show(a *account, change int, state *object, now time.Time) {
	if change >= a.shownOf {
		a.shown, a.shownOf, a.shownAt = state, change, now
	}
}

// describe is the customer as answers carry it, without what belongs to it.
func (c *Customer) describe() *object {
	external := textOrNull(c.ExternalID)
	if !c.DeletedAt.IsZero() {
		external = nil // so that others can have it
	}
	return newObject(
		"id", c.ID,
		"created_at", pydantic.PrintTimeOrNull(c.CreatedAt),
		"modified_at", pydantic.PrintTimeOrNull(c.ModifiedAt),
		"metadata", c.Metadata,
		"external_id", external,
		"email", textOrNull(c.Email),
		"email_verified", false,
		"type", c.Type,
		"name", textOrNull(c.Name),
		"billing_name", textOrNull(c.Name),
		"billing_address", nil,
		"tax_id", nil,
		"locale", nil,
		"organization_id", c.OrganizationID,
		"default_payment_method_id", nil,
		"deleted_at", pydantic.PrintTimeOrNull(c.DeletedAt),
		"first_user_event_at", nil,
		"avatar_url", c.avatar(),
	)
}

// describeState is the customer with all that belongs to it and that Polar shows.
func (p *Polar) describeState(c *Customer) *object {
	subscriptions, benefits, meters := []any{}, []any{}, []any{}
	for i := range c.Subscriptions {
		if s := &c.Subscriptions[i]; s.shown() {
			subscriptions = append(subscriptions, s.describe())
		}
	}
	for i := range c.Benefits {
		if b := &c.Benefits[i]; !b.Revoked {
			benefits = append(benefits, p.describeBenefit(b))
		}
	}
	for _, m := range c.Meters {
		meters = append(meters, newObject(
			"id", m.ID,
			"created_at", pydantic.PrintTimeOrNull(m.CreatedAt),
			"modified_at", pydantic.PrintTimeOrNull(m.ModifiedAt),
			"meter_id", m.MeterID,
			"consumed_units", m.ConsumedUnits,
			"credited_units", m.CreditedUnits,
			"balance", m.Balance()))
	}
	return c.describe().
		Set("active_subscriptions", subscriptions).
		Set("granted_benefits", benefits).
		Set("active_meters", meters)
}

func (s *Subscription) describeMeters() []any {
	meters := []any{}
	for _, m := range s.Meters {
		meters = append(meters, newObject(
			"created_at", pydantic.PrintTimeOrNull(m.CreatedAt),
			"modified_at", pydantic.PrintTimeOrNull(m.ModifiedAt),
			"id", m.ID,
			"consumed_units", m.ConsumedUnits,
			"credited_units", m.CreditedUnits,
			"amount", m.Amount,
			"meter_id", m.MeterID))
	}
	return meters
}

func (s *Subscription) describe() *object {
	return newObject(
		"id", s.ID,
		"created_at", pydantic.PrintTimeOrNull(s.CreatedAt),
		"modified_at", pydantic.PrintTimeOrNull(s.ModifiedAt),
		"custom_field_data", s.CustomFieldData,
		"metadata", s.Metadata,
		"status", s.Status,
		"amount", s.Amount,
		"currency", s.Currency,
		"recurring_interval", s.RecurringInterval,
		"current_period_start", pydantic.PrintTimeOrNull(s.CurrentPeriodStart),
		"current_period_end", pydantic.PrintTimeOrNull(s.CurrentPeriodEnd),
		"trial_start", pydantic.PrintTimeOrNull(s.TrialStart),
		"trial_end", pydantic.PrintTimeOrNull(s.TrialEnd),
		"cancel_at_period_end", s.CancelAtPeriodEnd,
		"canceled_at", pydantic.PrintTimeOrNull(s.CanceledAt),
		"started_at", pydantic.PrintTimeOrNull(s.StartedAt),
		"ends_at", pydantic.PrintTimeOrNull(s.EndsAt),
		"product_id", s.ProductID,
		"discount_id", textOrNull(s.DiscountID),
		"price_id", s.PriceID,
		"meters", s.describeMeters(),
	)
}

// propertyNames is the order in which the schemas of all types have the properties of a grant.
var propertyNames = []string{
	"account_id", "guild_id", "role_id", "repository_owner", "repository_name", "permission", "granted_account_id",
	"files",
	"user_provided_key", "license_key_id", "display_key",
	"invited_email", "channel_id", "channel_name", "invite_id", "invite_url", "connected_team_id",
	"last_credited_meter_id", "last_credited_units", "last_credited_at",
}

// describeProperties are those of a grant. Only the portal and webhooks have the fields of the last
// credit.
func (p *Polar) describeProperties(b *Benefit, everything bool) *object {
	all := cloneTree(b.Properties)
	for name := range all {
		if strings.HasPrefix(name, "last_credited_") && !everything {
			delete(all, name)
		}
	}
	if k := p.byID[b.LicenseKeyID]; k != nil {
		all["license_key_id"], all["display_key"] = k.ID, k.display()
	}
	properties := newObject()
	for _, name := range propertyNames {
		if value, ok := all[name]; ok {
			properties.Set(name, value)
			delete(all, name)
		}
	}
	for _, name := range pydantic.SortedNames(all) {
		properties.Set(name, all[name])
	}
	return properties
}

func (p *Polar) describeBenefit(b *Benefit) *object {
	return newObject(
		"id", b.ID,
		"created_at", pydantic.PrintTimeOrNull(b.CreatedAt),
		"modified_at", pydantic.PrintTimeOrNull(b.ModifiedAt),
		"granted_at", pydantic.PrintTimeOrNull(b.GrantedAt),
		"benefit_id", b.BenefitID,
		"benefit_type", b.Type,
		"benefit_metadata", b.Metadata,
		"properties", p.describeProperties(b, false),
	)
}

func (c *Customer) initial() string {
	for _, s := range []string{c.Name, c.Email} {
		if s != "" {
			_, n := utf8.DecodeRuneInString(s)
			return s[:n]
		}
	}
	return ""
}

func (c *Customer) avatar() any {
	if c.Email == "" {
		return nil
	}
	sum := sha256.Sum256([]byte(strings.ToLower(c.Email)))
	return "https://www.gravatar.com/avatar/" + hex.EncodeToString(sum[:]) + "?d=404"
}
