// Package census is what Polar's lists say of all customers together, 100 entries a request,
// where a question is about one. It reads pages, puts together what they say of each customer,
// and relays them to another replica that goes on. Package listing says why what is read is
// complete although the lists change meanwhile.
package census

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/polargate/polargate/internal/clock"
	"github.com/polargate/polargate/internal/fact"
	"github.com/polargate/polargate/internal/listing"
	"github.com/polargate/polargate/internal/memory"
	"github.com/polargate/polargate/internal/relay"
	"github.com/polargate/polargate/internal/rights"
	"github.com/polargate/polargate/internal/wire"
)

// Kept is how long pages that were read are of use to the next walk.
const Kept = 10 * time.Minute

// List is one of Polar's lists of what customers have.
type List struct {
	name string
	// Path is that of the list, sorted by when its entries came into it, and cameAt the
	// field that has that time. What comes after the time in sorting keeps those of the same
	// time in one order, page after page. Source: Polar's server, which takes all of these.
	Path, cameAt string
	read         func(entry wire.Fields, have *rights.Parts)
}

var Lists = [...]List{
	{"benefit grants", "/v1/benefit-grants/?is_granted=true&sorting=granted_at&sorting=created_at", "granted_at", func(g wire.Fields, have *rights.Parts) { have.ReadGrant(g) }},
	// Subscriptions that can become active again are read too, so that none comes
	// back into the list at its old place.
	{"subscriptions", "/v1/subscriptions/?status=active&status=trialing&status=past_due&status=unpaid&status=paused&sorting=started_at&sorting=customer&sorting=product", "started_at",
		func(s wire.Fields, have *rights.Parts) { have.ReadSubscription(s) }},
	{"meters of customers", "/v1/customer-meters/?sorting=created_at&sorting=customer_id&sorting=meter_id", "created_at",
		func(m wire.Fields, have *rights.Parts) { have.ReadMeter(m) }},
}

// Entry is an entry of a list.
type Entry struct {
	external string
	deleted  bool // the customer
	have     rights.Parts
}

// Walk is how far Polar's lists have been read.
type Walk struct {
	Work     string // what it is called among replicas; "" if it is this one's own
	Began    clock.Local
	ReadLast clock.Local // when the last page came; guarded by warming.mu
	Lists    [len(Lists)]One
	// LeftOut are customers of whom something is new that could not be read; guarded by
	// warming.mu.
	LeftOut map[wire.UUID]bool
}

// One is how far one list has been read. One goroutine at a time works on it.
type One struct {
	*listing.Walk[Entry]
	Times []PageTime // those that were read
	// Told is the next page if another replica has read it, and note tells of one that
	// this replica has read.
	Told *fact.Page
	Note func(fact.Page)
	// Count and total are what Pages gives; guarded by warming.mu.
	Count, Total int
}

// PageTime is when a page was asked for, and when Polar answered.
type PageTime struct {
	Asked clock.Local
	At    clock.Polar
}

// Customer is a customer as the lists have them: their state, when the first page
// with it was asked for, or that they changed meanwhile.
type Customer struct {
	State   *rights.State
	Asked   clock.Local
	Changed bool
}

// Customers puts together what the lists say of each customer.
func (walk *Walk) Customers(features map[string][]string) map[wire.UUID]Customer {
	type gathered struct {
		Customer
		have rights.Parts
	}
	all := map[wire.UUID]*gathered{}
	for i := range walk.Lists {
		l := &walk.Lists[i]
		for owner, o := range l.Owners() {
			page := l.Times[o.Since]
			g := all[owner]
			if g == nil {
				g = &gathered{Customer: Customer{
					State: rights.Of(owner, o.Rows[0].Value.external, true, page.At), Asked: page.Asked}}
				all[owner] = g
			}
			g.Changed = g.Changed || o.Changed
			g.Asked = min(g.Asked, page.Asked)
			g.State.SetAt(min(g.State.At(), page.At))
			for _, row := range o.Rows {
				entry := row.Value
				g.Changed = g.Changed || entry.deleted || entry.external != g.State.External()
				g.have.Add(entry.have)
			}
		}
	}
	found := make(map[wire.UUID]Customer, len(all))
	for id, g := range all {
		if !g.Changed {
			g.State.Grant(g.have, features)
		}
		found[id] = g.Customer
	}
	return found
}

// Page reads a page. organization is the one that it names. err is that it is no page, and
// broken that an entry in it cannot be read.
func (list *List) Page(body []byte, organizationID string) (page listing.Page[Entry], organization string, broken, err error) {
	f, err := wire.Object(body)
	if err != nil {
		return page, "", nil, err
	}
	var entries []json.RawMessage
	var pages wire.Fields
	size, last := -1, -1
	wire.Optional(f, "pagination", &pages)
	wire.Optional(pages, "total_count", &size)
	wire.Optional(pages, "max_page", &last)
	if json.Unmarshal(f["items"], &entries) != nil || entries == nil || size < 0 || last < 0 {
		return page, "", nil, errors.New("a list without its entries or pages")
	}
	page = listing.Page[Entry]{Last: last, Size: size}
	for _, entry := range entries {
		row, of, err := list.row(entry, organizationID)
		if err != nil {
			return page, organization, fmt.Errorf("an entry in Polar's list of %s cannot be read: %w", list.name, err), nil
		}
		page.Rows, organization = append(page.Rows, row), of
	}
	return page, organization, nil, nil
}

// row reads an entry. Without its customer and time nothing in the list would be certain.
func (list *List) row(entry json.RawMessage, organizationID string) (row listing.Row[Entry], organization string, err error) {
	f, err := wire.Object(entry)
	if err != nil {
		return row, "", err
	}
	var id string
	var came, deleted time.Time
	var customer wire.Fields
	f.Text("id", &id)
	f.Time(list.cameAt, &came)
	wire.Optional(f, "customer", &customer)
	of, err := rights.ReadCustomer(customer, organizationID)
	if err != nil {
		return row, "", err
	}
	entryID, ok := wire.ParseUUID(id)
	if !ok || came.IsZero() {
		return row, "", fmt.Errorf("id or %s is missing", list.cameAt)
	}
	customer.Text("organization_id", &organization)
	customer.Time("deleted_at", &deleted)
	row = listing.Row[Entry]{ID: entryID, Owner: of.Customer(), Came: came.UnixNano()}
	row.Value.external, row.Value.deleted = of.External(), !deleted.IsZero()
	list.read(f, &row.Value.have)
	return row, organization, nil
}

// Report is a walk through Polar's lists as replicas tell each other. Times are Polar's.
type Report struct {
	Began                      clock.Polar
	Ended                      clock.Polar
	Holder                     string
	Customers, LeftOut, NoRoom int
}

func (w Report) Bytes() []byte {
	data, _ := json.Marshal(w) // it is all numbers and text
	return data
}

// ReportOf is the zero walkOf if that cannot be read.
func ReportOf(data []byte) (w Report) {
	if json.Unmarshal(data, &w) != nil {
		return Report{}
	}
	return w
}

// Relay connects a walk with those who go on if this replica dies.
func (walk *Walk) Relay(ctx context.Context, turn *relay.Turn, c *memory.Cache) {
	walk.Work = turn.Work()
	if began := ReportOf(turn.Began()).Began; began != 0 {
		walk.Began = min(walk.Began, c.Now().After(-max(0, c.PolarNow().Sub(began))))
	}
	for i := range walk.Lists {
		l := &walk.Lists[i]
		l.Note = func(page fact.Page) {
			page.Asked = c.PolarNow().Before(c.Now().Sub(l.Times[len(l.Times)-1].Asked))
			turn.Note(ctx, i, len(l.Times)-1, page.Bytes())
		}
	}
}

// Replay has a walk take in the pages of a list that another replica has read.
func (l *One) Replay(ctx context.Context, turn *relay.Turn, list int, c *memory.Cache, progress func()) {
	for done := false; !done; progress() {
		page, err := fact.ParsePage(turn.Step(ctx, list, len(l.Times)))
		if err != nil {
			return // there is none
		}
		page.Asked = min(page.Asked, c.PolarNow())
		l.Told = &page
		done, err = l.Step(ctx, len(l.Times))
		l.Told = nil
		if err != nil {
			return
		}
	}
}

var errOtherPage = errors.New("another replica has read another page here")

// ReadTold takes in a page that another replica has read.
func (l *One) ReadTold(c *memory.Cache, number int, told *fact.Page) (page listing.Page[Entry], err error) {
	if told.Number != number {
		return page, errOtherPage
	}
	l.Times = append(l.Times, PageTime{c.Now().After(-c.PolarNow().Sub(told.Asked)), told.At})
	page = listing.Page[Entry]{Last: told.Last, Size: told.Size}
	for _, row := range told.Rows {
		page.Rows = append(page.Rows, listing.Row[Entry]{
			ID: row.ID, Owner: row.Owner, Came: row.Came,
			Value: Entry{external: row.External, deleted: row.Deleted, have: fact.PartsOf(row.Benefits, row.Products, row.Subscriptions, row.Meters)},
		})
	}
	return page, nil
}

// FactOf is a page as other replicas are told of it.
func FactOf(page listing.Page[Entry], number int, at clock.Polar) fact.Page {
	f := fact.Page{Number: number, Last: page.Last, Size: page.Size, At: at}
	for _, row := range page.Rows {
		f.Rows = append(f.Rows, fact.Row{
			ID: row.ID, Owner: row.Owner, Came: row.Came, External: row.Value.external, Deleted: row.Value.deleted,
			Benefits: fact.BenefitsOf(row.Value.have.Benefits), Products: row.Value.have.Products(), Meters: fact.MetersOf(row.Value.have.Meters),
			Subscriptions: fact.SubscriptionsOf(row.Value.have.Subscriptions),
		})
	}
	return f
}
