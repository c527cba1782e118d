package polartest

import (
	"cmp"
	"fmt"
	"math"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/polargate/polargate/polartest/internal/pydantic"
)

// Events and what meters count of them. Polar counts the events of a customer some time after the last
// of them came, so that a state read meanwhile does not know of them.

const (
	// countAfter is how long after the last event of a customer they are counted, and countAtLatest how
	// long after the first of them.
	countAfter    = 15 * time.Second
	countAtLatest = 180 * time.Minute

	longestEventName = 128
)

// Usage is an event of usage as Polar keeps it.
type Usage struct {
	ID             string // a UUID of version 4
	OrganizationID string
	// CustomerID or ExternalCustomerID is whose usage it is; an external ID may have no customer yet.
	CustomerID, ExternalCustomerID string
	Name                           string
	ExternalID                     string // empty: none
	Metadata                       map[string]any
	Timestamp                      time.Time // what the sender says, or when it came
	At                             time.Time // when it came, by this Polar's clock
	Counted                        bool      // whether the meters know of it
}

// Events gives copies of all events of usage that were ingested, in order.
func (p *Polar) Events() []Usage {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := make([]Usage, 0, len(p.usage))
	for _, u := range p.usage {
		c := *u
		c.Metadata = cloneTree(u.Metadata)
		out = append(out, c)
	}
	return out
}

func (p *Polar) ingest(c *call) *answer {
	f, refusal := c.form()
	if refusal != nil {
		return refusal
	}
	v, ok0 := f.required("events")
	if !ok0 {
		return unprocessable(f.problems)
	}
	list, isList := v.([]any)
	if !isList {
		f.complain("events", "list_type", "Input should be a valid list", v, nil)
		return unprocessable(f.problems)
	}
	var all []*Usage
	for i, one := range list {
		u, problems := p.readEvent(c, i, one)
		f.problems = append(f.problems, problems...)
		all = append(all, u)
	}
	if len(f.problems) > 0 {
		return unprocessable(f.problems)
	}
	var unknown []any
	for i, u := range all {
		if u.CustomerID != "" && p.ofToken(c, u.CustomerID) == nil {
			unknown = append(unknown, newObject("type", "customer_id", "loc", []any{"body", "events", i, "customer_id"},
				"msg", "Customer not found.", "input", u.CustomerID))
		}
	}
	if unknown != nil {
		return polarInvalidAll(unknown)
	}
	inserted, duplicates := 0, 0
	for _, u := range all {
		if u.ExternalID != "" {
			name := customerName{u.OrganizationID, u.ExternalID}
			if p.usageByExternalID[name] != nil {
				duplicates++
				continue
			}
			p.usageByExternalID[name] = u
		}
		inserted++
		p.usage = append(p.usage, u)
	}
	p.scheduleCount()
	return ok(newObject("inserted", inserted, "duplicates", duplicates))
}

// readEvent reads one event, which is of one of two schemas. A 422 complains of both.
func (p *Polar) readEvent(c *call, i int, v any) (*Usage, []problem) {
	o, isObject := v.(*object)
	branches := []struct{ name, field string }{
		{"EventCreateCustomer", "customer_id"},
		{"EventCreateExternalCustomer", "external_customer_id"},
	}
	var problems []problem
	for _, branch := range branches {
		if !isObject {
			problems = append(problems, newProblem("model_attributes_type", []any{"body", "events", i, branch.name},
				"Input should be a valid dictionary or object to extract fields from", v, nil))
			continue
		}
		f := &form{fields: o, place: "body"}
		u := &Usage{ID: newUUID(), OrganizationID: c.token.OrganizationID, At: c.at, Timestamp: c.at}
		if sent, there := o.Get("timestamp"); there {
			u.Timestamp, _ = f.instant("timestamp", sent)
			if len(f.problems) == 0 && u.Timestamp.After(c.at) {
				f.complain("timestamp", "value_error", "Value error, Timestamp must be in the past.", sent, newObject("error", newObject()))
			}
		}
		u.Name = f.text("name")
		if n := pydantic.CodePoints(u.Name); n > longestEventName {
			f.complain("name", "string_too_long", fmt.Sprintf("String should have at most %d characters", longestEventName), u.Name, newObject("max_length", longestEventName))
		}
		f.uuidOrNull("organization_id")
		u.ExternalID = f.textOrNull("external_id")
		f.textOrNull("parent_id")
		if m := f.entries("metadata"); m != nil {
			u.Metadata = m.Plain()
		}
		if branch.field == "customer_id" {
			u.CustomerID = f.uuid(branch.field)
		} else {
			u.ExternalCustomerID = f.text(branch.field)
		}
		if len(f.problems) == 0 {
			return u, nil
		}
		for _, problem := range f.problems {
			problem.Loc = slices.Insert(slices.Clone(problem.Loc), 1, any("events"), any(i), any(branch.name))
			problems = append(problems, problem)
		}
	}
	return nil, problems
}

// holderOf is the customer whose usage an event is, if there is one by now.
func (p *Polar) holderOf(u *Usage) *account {
	a := p.customersByID[u.CustomerID]
	if u.CustomerID == "" {
		a = p.customersByExternalID[customerName{u.OrganizationID, u.ExternalCustomerID}]
	}
	if a == nil || !a.DeletedAt.IsZero() {
		return nil
	}
	return a
}

// uncounted are the events of each customer that no meter knows of yet, and when they will be counted.
func (p *Polar) uncounted() (events map[*account][]*Usage, due map[*account]time.Time) {
	events, due = map[*account][]*Usage{}, map[*account]time.Time{}
	for _, u := range p.usage[p.countedTo:] {
		if a := p.holderOf(u); a != nil && !u.Counted {
			events[a] = append(events[a], u)
		}
	}
	for a, list := range events {
		first, last := list[0].At, list[len(list)-1].At
		due[a] = last.Add(countAfter)
		if latest := first.Add(countAtLatest); latest.Before(due[a]) {
			due[a] = latest
		}
	}
	return events, due
}

// count brings the meters up to date, as far as it is time to, and says when it is the next time.
func (p *Polar) count(now time.Time) (next time.Time) {
	events, due := p.uncounted()
	for _, a := range p.customers {
		list, ok := events[a]
		switch {
		case !ok:
		case now.Before(due[a]):
			if next.IsZero() || due[a].Before(next) {
				next = due[a]
			}
		default:
			p.countFor(a, list)
		}
	}
	for p.countedTo < len(p.usage) && p.usage[p.countedTo].Counted {
		p.countedTo++
	}
	return next
}

// countFor counts events of a customer, on all meters of the organization that they fit.
func (p *Polar) countFor(a *account, list []*Usage) {
	consumed := map[string]float64{}
	for _, m := range p.catalog.meters {
		if m.OrganizationID != a.OrganizationID {
			continue
		}
		var before, after []*Usage
		for _, u := range p.usage {
			if p.holderOf(u) == a && m.fits(u) { // what isn't counted is in the list
				if after = append(after, u); u.Counted {
					before = append(before, u)
				}
			}
		}
		if len(after) > len(before) {
			consumed[m.ID] = m.aggregate(after) - m.aggregate(before)
		}
	}
	for _, u := range list {
		u.Counted = true
	}
	next := a.clone()
	for _, m := range p.catalog.meters {
		if units, ok := consumed[m.ID]; ok {
			next.book(m.ID, units, 0)
		}
	}
	p.change("count", a, next)
}

// book adds to a meter of a customer, also for the active subscriptions that meter the same.
func (c *Customer) book(meterID string, consumed float64, credited int64) (at int) {
	at = slices.IndexFunc(c.Meters, func(m Meter) bool { return is(m.MeterID, meterID) })
	if at < 0 {
		at = len(c.Meters)
		c.Meters = append(c.Meters, Meter{MeterID: meterID})
	}
	c.Meters[at].ConsumedUnits += consumed
	c.Meters[at].CreditedUnits += credited
	for _, s := range c.Subscriptions {
		for i := range s.Meters {
			if m := &s.Meters[i]; s.shown() && is(m.MeterID, meterID) {
				m.ConsumedUnits += consumed
				m.CreditedUnits += credited
			}
		}
	}
	return at
}

// scheduleCountIfDue is for a clock that does not go with the timer's.
func (p *Polar) scheduleCountIfDue() {
	if p.countTimer != nil {
		p.scheduleCount()
	}
}

// scheduleCount sets the timer that counts when it is time. A timer is no goroutine: a test may end
// before it fires.
func (p *Polar) scheduleCount() {
	if p.countTimer != nil {
		p.countTimer.Stop()
		p.countTimer = nil
	}
	now := p.Now()
	next := p.count(now)
	if next.IsZero() {
		return
	}
	wait := next.Sub(now)
	p.countTimer = time.AfterFunc(max(wait, 100*time.Millisecond), func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.scheduleCount()
	})
}

var aggregations = []string{"count", "sum", "max", "min", "avg", "unique"}

// aggregate is what events come to.
func (m *CatalogMeter) aggregate(events []*Usage) float64 {
	property, _ := m.Aggregation["property"].(string)
	if m.Aggregation["func"] == "count" || len(events) == 0 {
		return float64(len(events))
	}
	seen := map[string]bool{}
	sum, least, most := 0.0, math.Inf(1), math.Inf(-1)
	n := 0
	for _, u := range events {
		v, ok := u.property(property)
		if !ok {
			continue
		}
		seen[fmt.Sprint(v)] = true
		x, isNumber := asFloat(v)
		if !isNumber {
			continue
		}
		n++
		sum, least, most = sum+x, min(least, x), max(most, x)
	}
	switch {
	case m.Aggregation["func"] == "unique":
		return float64(len(seen))
	case n == 0:
		return 0
	}
	switch m.Aggregation["func"] {
	case "max":
		return most
	case "min":
		return least
	case "avg":
		return sum / float64(n)
	}
	return sum
}

func asFloat(v any) (float64, bool) {
	if _, text := v.(string); text {
		return 0, false
	}
	n := pydantic.ExactNumber(v)
	if n == nil {
		return 0, false
	}
	f, _ := n.Float64()
	return f, true
}

// property is a field of an event, as filters and aggregations name it.
func (u *Usage) property(name string) (any, bool) {
	switch name {
	case "name":
		return u.Name, true
	case "source":
		return "user", true
	case "timestamp":
		return u.Timestamp.Unix(), true
	}
	v, ok := u.Metadata[strings.TrimPrefix(name, "metadata.")]
	return v, ok
}

func (m *CatalogMeter) fits(u *Usage) bool { return fits(m.Filter, u) }

// fits applies a filter: clauses, which may be filters themselves, joined by and, or or.
func fits(filter map[string]any, u *Usage) bool {
	clauses, _ := filter["clauses"].([]any)
	either := filter["conjunction"] == "or"
	for _, v := range clauses {
		clause, _ := v.(map[string]any)
		holds := false
		if _, nested := clause["clauses"]; nested {
			holds = fits(clause, u)
		} else {
			holds = holdsFor(clause, u)
		}
		if holds == either {
			return either
		}
	}
	return !either || len(clauses) == 0
}

func holdsFor(clause map[string]any, u *Usage) bool {
	name, _ := clause["property"].(string)
	got, ok := u.property(name)
	if !ok {
		return false
	}
	want := clause["value"]
	a, aNumber := asFloat(got)
	b, bNumber := asFloat(want)
	order := strings.Compare(fmt.Sprint(got), fmt.Sprint(want))
	if aNumber && bNumber {
		order = 0
		if a < b {
			order = -1
		} else if a > b {
			order = 1
		}
	}
	switch clause["operator"] {
	case "eq":
		return order == 0
	case "ne":
		return order != 0
	case "gt":
		return order > 0
	case "gte":
		return order >= 0
	case "lt":
		return order < 0
	case "lte":
		return order <= 0
	case "like":
		return strings.Contains(fmt.Sprint(got), fmt.Sprint(want))
	case "not_like":
		return !strings.Contains(fmt.Sprint(got), fmt.Sprint(want))
	}
	return false
}

func (m *Meter) describe(customerID string) *object {
	return newObject(
		"id", m.ID,
		"created_at", pydantic.PrintTimeOrNull(m.CreatedAt),
		"modified_at", pydantic.PrintTimeOrNull(m.ModifiedAt),
		"customer_id", customerID,
		"meter_id", m.MeterID,
		"consumed_units", m.ConsumedUnits,
		"credited_units", m.CreditedUnits,
		"balance", m.Balance())
}

// metered is a meter with the customer who has it.
type metered struct {
	*account
	*Meter
}

func (p *Polar) describeMetered(m metered) *object {
	return m.Meter.describe(m.account.ID).
		Set("customer", m.account.describe()).
		Set("meter", p.meterOf(m.OrganizationID, *m.Meter).describe())
}

// customerMeters are those of an organization that fit, what changed last first.
func (p *Polar) customerMeters(organizationID string, fits func(metered) bool) []metered {
	var found []metered
	for _, a := range p.customers {
		if a.OrganizationID != organizationID || !a.DeletedAt.IsZero() {
			continue
		}
		for i := range a.Meters {
			if m := (metered{a, &a.Meters[i]}); fits(m) {
				found = append(found, m)
			}
		}
	}
	changed := func(m metered) time.Time {
		if m.Meter.ModifiedAt.IsZero() {
			return m.Meter.CreatedAt
		}
		return m.Meter.ModifiedAt
	}
	slices.SortStableFunc(found, func(a, b metered) int { return changed(b).Compare(changed(a)) })
	return found
}

func (p *Polar) listCustomerMeters(c *call) *answer {
	f := c.queryForm()
	organizations := f.uuids(c, "organization_id")
	customers := f.uuids(c, "customer_id")
	externals := f.texts(c, "external_customer_id")
	meters := f.uuids(c, "meter_id")
	sorted := sorting(f, c, orders[metered]{
		"created_at":  func(a, b metered) int { return a.Meter.CreatedAt.Compare(b.Meter.CreatedAt) },
		"modified_at": func(a, b metered) int { return a.Meter.ModifiedAt.Compare(b.Meter.ModifiedAt) },
		"customer_id": func(a, b metered) int { return cmp.Compare(a.account.ID, b.account.ID) },
		"meter_id":    func(a, b metered) int { return cmp.Compare(a.MeterID, b.MeterID) },
	})
	return answerPage(f, func() []metered {
		return sorted(p.customerMeters(c.token.OrganizationID, func(m metered) bool {
			return organizations.passes(m.OrganizationID) && customers.passes(m.account.ID) &&
				externals.passes(m.ExternalID) && meters.passes(m.MeterID)
		}))
	}, p.describeMetered)
}

func (p *Polar) getCustomerMeter(c *call) *answer {
	f := c.pathForm("id")
	id := f.uuid("id")
	if len(f.problems) > 0 {
		return unprocessable(f.problems)
	}
	found := p.customerMeters(c.token.OrganizationID, func(m metered) bool { return m.Meter.ID == id })
	if len(found) == 0 {
		return notFound("Not found")
	}
	return ok(p.describeMetered(found[0]))
}

// polarInvalid is a 422 about what the database knows, and not the schema.
func polarInvalid(loc []any, message string, input any) *answer {
	return polarInvalidAll([]any{newObject("type", "value_error", "loc", loc, "msg", message, "input", input)})
}

func polarInvalidAll(details []any) *answer {
	return jsonAnswer(http.StatusUnprocessableEntity, newObject("error", "PolarRequestValidationError", "detail", details))
}
