package polartest

import (
	"fmt"
	"math"
	"math/big"
	"slices"
	"time"

	"github.com/polargate/polargate/polartest/internal/pydantic"
)

// The endpoints of license keys. Each gets a request that is well-formed in shape and allowed, runs
// with the mutex held, and gives an answer.

// visible finds a key as requests see it.
func (p *Polar) visible(k *LicenseKey, now time.Time) *LicenseKey {
	if k == nil || k.Deleted || now.Before(k.VisibleFrom) {
		return nil
	}
	return k
}

// asked is the license key that the body of a request speaks of. A token sees its own organization's.
func (c *call) asked(p *Polar, organizationID, key string) *LicenseKey {
	if c.token != nil && c.token.OrganizationID != organizationID {
		return nil
	}
	return p.visible(p.byKey[keyName{organizationID, key}], c.at)
}

// addressed is the license key of the path.
func (c *call) addressed(p *Polar, id string) *LicenseKey {
	k := p.visible(p.byID[id], c.at)
	if k == nil || k.OrganizationID != c.token.OrganizationID {
		return nil
	}
	return k
}

// expired takes the very moment of expiry for expired, without tolerance.
func (k *LicenseKey) expired(now time.Time) bool {
	return !k.ExpiresAt.IsZero() && !now.Before(k.ExpiresAt)
}

func (k *LicenseKey) activation(id string) *Activation {
	for i := range k.Activations {
		if a := &k.Activations[i]; a.ID == id && !a.Released {
			return a
		}
	}
	return nil
}

func (p *Polar) validate(c *call) *answer {
	f, refusal := c.form()
	if refusal != nil {
		return refusal
	}
	key := f.text("key")
	organizationID := f.uuid("organization_id")
	activationID := f.uuidOrNull("activation_id")
	benefitID := f.uuidOrNull("benefit_id")
	customerID := f.uuidOrNull("customer_id")
	var increment *big.Int
	if v, ok := f.fields.Get("increment_usage"); ok && v != nil {
		increment = f.integer("increment_usage", v, bound{"ge", 0})
	}
	conditions := f.entries("conditions")
	if len(f.problems) > 0 {
		return unprocessable(f.problems)
	}

	k := c.asked(p, organizationID, key)
	if k == nil {
		return notFound("Not found")
	}
	if k.Status != granted {
		return notFound("License key is no longer active.")
	}
	if k.expired(c.at) {
		return notFound("License key has expired.")
	}
	var activation any
	if activationID != "" {
		a := k.activation(activationID)
		if a == nil {
			return notFound("Not found")
		}
		if len(a.Conditions) > 0 && !pydantic.EqualConditions(a.Conditions, conditions.Plain()) {
			return notFound("License key does not match required conditions")
		}
		activation = k.describeActivation(a)
	}
	if benefitID != "" && benefitID != k.BenefitID {
		return notFound("License key does not match given benefit.")
	}
	if customerID != "" && customerID != k.CustomerID {
		return notFound("License key does not match given user.")
	}
	usage := big.NewInt(k.Usage)
	if increment != nil {
		if left := limitOf(k.LimitUsage) - k.Usage; k.LimitUsage != nil && increment.Sign() > 0 && increment.Cmp(big.NewInt(left)) > 0 {
			return refuse(400, "BadRequest", fmt.Sprintf("License key only has %d more usages.", left))
		}
		usage.Add(usage, increment)
	}
	if usage.Cmp(big.NewInt(math.MaxInt32)) > 0 {
		return serverError() // the column is a 32-bit integer
	}
	k.Usage = usage.Int64()
	k.Validations++
	k.LastValidatedAt = c.at
	k.ModifiedAt = c.at
	return ok(p.describeValidated(c, k).Set("activation", activation))
}

func (p *Polar) activate(c *call) *answer {
	f, refusal := c.form()
	if refusal != nil {
		return refusal
	}
	key := f.text("key")
	organizationID := f.uuid("organization_id")
	label := f.text("label")
	conditions := f.entries("conditions")
	meta := f.entries("meta")
	if len(f.problems) > 0 {
		return unprocessable(f.problems)
	}

	k := c.asked(p, organizationID, key)
	switch {
	case k == nil:
		return notFound("Not found")
	case k.Status != granted:
		return refuse(403, "NotPermitted", "License key is no longer active. This license key can not be activated.")
	case k.expired(c.at):
		return refuse(403, "NotPermitted", "License key has expired.")
	case limitOf(k.LimitActivations) == 0:
		return refuse(403, "NotPermitted", "This license key does not support activations. Use the /validate endpoint instead to check license validity.")
	case int64(k.seats()) >= *k.LimitActivations:
		return refuse(403, "NotPermitted", "License key activation limit already reached")
	}
	if _, err := pydantic.Print([]any{conditions, meta}); err != nil {
		return serverError() // NaN and infinity pass the schema, not the database
	}
	k.Activations = append(k.Activations, Activation{
		ID: newUUID(), Label: label, Conditions: conditions.Plain(), Meta: meta.Plain(), CreatedAt: c.at,
	})
	a := &k.Activations[len(k.Activations)-1]
	// in this one answer meta comes back in the order in which it was sent
	return ok(k.describeActivation(a).Set("meta", meta).Set("license_key", p.describeKey(c, k)))
}

func (p *Polar) deactivate(c *call) *answer {
	f, refusal := c.form()
	if refusal != nil {
		return refusal
	}
	key := f.text("key")
	organizationID := f.uuid("organization_id")
	activationID := f.uuid("activation_id")
	if len(f.problems) > 0 {
		return unprocessable(f.problems)
	}
	k := c.asked(p, organizationID, key)
	if k == nil {
		return notFound("Not found")
	}
	a := k.activation(activationID)
	if a == nil {
		return notFound("Not found")
	}
	a.Released = true
	return &answer{status: 204, header: jsonHeader()}
}

func (p *Polar) listKeys(c *call) *answer {
	f := c.queryForm()
	organizations := f.uuids(c, "organization_id")
	benefits := f.uuids(c, "benefit_id")
	const enum = "str-enum[LicenseKeyStatus]"
	wanted := f.several(c, "status", enum, (*form).status, func(v any) problem { return unlikeStatus(v) })
	return answerPage(f, func() []*LicenseKey {
		var found []*LicenseKey
		for _, k := range p.keys {
			if c.addressed(p, k.ID) != nil && organizations.passes(k.OrganizationID) && benefits.passes(k.BenefitID) && wanted.passes(k.Status) {
				found = append(found, k)
			}
		}
		oldestFirst(found)
		return found
	}, func(k *LicenseKey) *object { return p.describeKey(c, k) })
}

func oldestFirst(keys []*LicenseKey) {
	slices.SortStableFunc(keys, func(a, b *LicenseKey) int { return a.CreatedAt.Compare(b.CreatedAt) })
}

func (p *Polar) getKey(c *call) *answer {
	f := c.pathForm("id")
	id := f.uuid("id")
	if len(f.problems) > 0 {
		return unprocessable(f.problems)
	}
	k := c.addressed(p, id)
	if k == nil {
		return notFound("Not found")
	}
	return ok(p.describeKey(c, k).Set("activations", k.describeActivations()))
}

// describeActivations are those that are live, the newest first.
func (k *LicenseKey) describeActivations() []any {
	live := []any{}
	for i := len(k.Activations) - 1; i >= 0; i-- {
		if a := &k.Activations[i]; !a.Released {
			live = append(live, k.describeActivation(a))
		}
	}
	return live
}

func (p *Polar) getActivation(c *call) *answer {
	f := c.pathForm("id", "activation_id")
	id, activationID := f.uuid("id"), f.uuid("activation_id")
	if len(f.problems) > 0 {
		return unprocessable(f.problems)
	}
	k := c.addressed(p, id)
	if k == nil {
		return notFound("Not found")
	}
	a := k.activation(activationID)
	if a == nil {
		return notFound("Not found")
	}
	return ok(k.describeActivation(a).Set("license_key", p.describeKey(c, k)))
}

func (p *Polar) patchKey(c *call) *answer {
	f := c.pathForm("id")
	id := f.uuid("id")
	body, refusal := c.form()
	if body == nil {
		if refusal.problems != nil {
			return unprocessable(append(f.problems, refusal.problems...))
		}
		return refusal
	}
	const lowest, highest = math.MinInt32, math.MaxInt32
	var next LicenseKey
	status, statusSent := body.fields.Get("status")
	if statusSent && status != nil {
		next.Status = body.status("status", status)
	}
	usage, usageSent := body.fields.Get("usage")
	var newUsage *big.Int
	if usageSent {
		newUsage = body.integer("usage", usage, bound{"le", highest}, bound{"ge", lowest})
	}
	limit := func(name string) (sent bool, limit *int64) {
		v, sent := body.fields.Get(name)
		if sent && v != nil {
			if n := body.integer(name, v, bound{"le", highest}, bound{"ge", lowest}, bound{"gt", 0}); n != nil {
				limit = new(n.Int64())
			}
		}
		return sent, limit
	}
	activationsSent, newActivations := limit("limit_activations")
	usagesSent, newUsages := limit("limit_usage")
	expires, expiresSent := body.fields.Get("expires_at")
	var echo string
	if expiresSent && expires != nil {
		next.ExpiresAt, echo = body.instant("expires_at", expires)
	}
	if problems := slices.Concat(f.problems, body.problems); len(problems) > 0 {
		return unprocessable(problems)
	}
	k := c.addressed(p, id)
	if k == nil {
		return notFound("Not found")
	}
	if statusSent && status == nil {
		return serverError() // the schema lets null pass, the database does not
	}

	before := *k
	if statusSent {
		k.Status = next.Status
	}
	if usageSent {
		k.Usage = newUsage.Int64()
	}
	if activationsSent {
		k.LimitActivations = newActivations
	}
	if usagesSent {
		k.LimitUsage = newUsages
	}
	if expiresSent {
		k.ExpiresAt = next.ExpiresAt
	}
	if before.Status != k.Status || before.Usage != k.Usage || !before.ExpiresAt.Equal(k.ExpiresAt) ||
		!sameLimit(before.LimitActivations, k.LimitActivations) || !sameLimit(before.LimitUsage, k.LimitUsage) {
		k.ModifiedAt = c.at
	}
	description := p.describeKey(c, k)
	if echo != "" {
		description.Set("expires_at", echo)
	}
	return ok(description)
}

func (p *Polar) rotateKey(c *call) *answer {
	f := c.pathForm("id")
	id := f.uuid("id")
	if len(f.problems) > 0 {
		return unprocessable(f.problems)
	}
	k := c.addressed(p, id)
	if k == nil {
		return notFound("Not found")
	}
	return p.rotate(c, k)
}

func (p *Polar) rotate(c *call, k *LicenseKey) *answer {
	if k.Status == revoked {
		return refuse(400, "RotateNotPermitted",
			"License key cannot be rotated in its current status. Current status: revoked. Allowed statuses: disabled, granted.")
	}
	next := k.clone()
	next.Key = randomKey(k.Prefix)
	next.ModifiedAt = c.at
	p.replace(k, next)
	return ok(p.describeKey(c, k))
}

func limitOf(limit *int64) int64 {
	if limit == nil {
		return 0
	}
	return *limit
}

func sameLimit(a, b *int64) bool {
	return (a == nil) == (b == nil) && limitOf(a) == limitOf(b)
}

// grantOf is the grant that a license key came with; nil if there is none.
func (p *Polar) grantOf(k *LicenseKey) (a *account, g *Benefit) {
	if a = p.customersByID[k.CustomerID]; a == nil {
		return nil, nil
	}
	if at := slices.IndexFunc(a.Benefits, func(b Benefit) bool { return b.LicenseKeyID == k.ID }); at >= 0 {
		return a, &a.Benefits[at]
	}
	return a, nil
}

// describeKey is the license key as a version of the API has it.
func (p *Polar) describeKey(c *call, k *LicenseKey) *object {
	o := k.describe()
	if c.version < withMembers || p.config.Version == "" {
		return o
	}
	var memberID, member any
	if _, g := p.grantOf(k); g != nil {
		if m := p.member(g.MemberID); m != nil {
			memberID, member = m.ID, newObject("id", m.ID, "email", m.Email, "external_id", textOrNull(m.ExternalID))
		}
	}
	return o.Set("member_id", memberID).Set("member", member)
}

// describeValidated is the license key as a validation tells it: in the latest version with what it
// was bought with.
func (p *Polar) describeValidated(c *call, k *LicenseKey) *object {
	o := p.describeKey(c, k)
	if c.version < withPeriods {
		return o
	}
	var subscriptionID, subscription, orderID, order any
	if a, g := p.grantOf(k); g != nil {
		if at := slices.IndexFunc(a.Subscriptions, func(s Subscription) bool { return s.ID == g.SubscriptionID }); at >= 0 {
			s := &a.Subscriptions[at]
			subscriptionID, subscription = s.ID, newObject(
				"id", s.ID,
				"status", s.Status,
				"current_period_start", pydantic.PrintTimeOrNull(s.CurrentPeriodStart),
				"current_period_end", pydantic.PrintTimeOrNull(s.CurrentPeriodEnd),
				"cancel_at_period_end", s.CancelAtPeriodEnd,
				"ends_at", pydantic.PrintTimeOrNull(s.EndsAt))
		}
		if g.OrderID != "" {
			orderID, order = g.OrderID, newObject("id", g.OrderID, "created_at", pydantic.PrintTimeOrNull(g.CreatedAt), "status", "paid", "paid", true)
		}
	}
	return o.Set("subscription_id", subscriptionID).Set("subscription", subscription).Set("order_id", orderID).Set("order", order)
}

// describe is the license key as answers carry it, fields outside Polar's published schema included.
func (k *LicenseKey) describe() *object {
	return newObject(
		"id", k.ID,
		"created_at", pydantic.PrintTimeOrNull(k.CreatedAt),
		"modified_at", pydantic.PrintTimeOrNull(k.ModifiedAt),
		"organization_id", k.OrganizationID,
		"user_id", k.CustomerID,
		"customer_id", k.CustomerID,
		"user", newObject(
			"id", k.CustomerID,
			"email", textOrNull(k.Customer.Email),
			"public_name", k.Customer.initial(),
			"avatar_url", k.Customer.avatar()),
		"customer", k.Customer.describe(),
		"benefit_id", k.BenefitID,
		"key", k.Key,
		"display_key", k.display(),
		"status", k.Status,
		"limit_activations", limitOrNull(k.LimitActivations),
		"usage", k.Usage,
		"limit_usage", limitOrNull(k.LimitUsage),
		"validations", k.Validations,
		"last_validated_at", pydantic.PrintTimeOrNull(k.LastValidatedAt),
		"expires_at", pydantic.PrintTimeOrNull(k.ExpiresAt),
	)
}

// describeActivation leaves the conditions out: Polar never tells them.
func (k *LicenseKey) describeActivation(a *Activation) *object {
	return newObject(
		"id", a.ID,
		"license_key_id", k.ID,
		"label", a.Label,
		"meta", a.Meta,
		"created_at", pydantic.PrintTimeOrNull(a.CreatedAt),
		"modified_at", nil,
	)
}

// display is as much of a key as others may see.
func (k *LicenseKey) display() string { return "****-" + lastCharacters(k.Key, 6) }

func textOrNull(s string) any {
	if s == "" {
		return nil
	}
	return s
}

func limitOrNull(limit *int64) any {
	if limit == nil {
		return nil
	}
	return *limit
}

func lastCharacters(s string, n int) string {
	r := []rune(s)
	return string(r[max(0, len(r)-n):])
}
