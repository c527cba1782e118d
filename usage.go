package polargate

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/polargate/polargate/internal/clock"
	"github.com/polargate/polargate/internal/incontext"
	"github.com/polargate/polargate/internal/ledger"
	"github.com/polargate/polargate/internal/memory"
	"github.com/polargate/polargate/internal/outbox"
	"github.com/polargate/polargate/internal/rights"
	"github.com/polargate/polargate/internal/wire"
)

// Usage is what an event tells Polar about units that were used.
type Usage struct {
	// Name is the event's name, by which Polar's meters find it: 1 to 128 characters.
	// Empty sends no event: then your program tells Polar itself.
	Name string
	// Metadata goes with the event: at most 50 entries, with text, numbers, true or false.
	Metadata map[string]any
	// Property is the entry of Metadata that holds the number of units, which the meter
	// sums up. It is added unless Metadata has it. Empty means "units". A meter that counts
	// events counts one, however many units were used.
	Property string
}

func (u *Usage) check() error {
	if n := utf8.RuneCountInString(u.Name); n > 128 || !utf8.ValidString(u.Name) || strings.ContainsRune(u.Name, 0) {
		return &InputError{"Usage.Name", "is no text, or longer than Polar's 128 characters: use the name that the meter filters by"}
	}
	if n := utf8.RuneCountInString(u.Property); n > 40 || !utf8.ValidString(u.Property) || strings.ContainsRune(u.Property, 0) {
		return &InputError{"Usage.Property", "is no text, or longer than Polar's 40 characters: use the name that the meter sums up"}
	}
	return checkMap("Usage.Metadata", u.Metadata)
}

// Reservation holds units of a customer's meter until Commit or Release. Customers.Reserve
// makes one. Its methods are safe for use by many goroutines, and by nil, which holds
// nothing.
type Reservation struct {
	customers *Customers
	of        *Entitlements // as they were when the units were held
	book      *ledger.Book  // nil for a customer who isn't charged
	joint     *ledger.Joint // nil unless replicas share what they know
	meter     string
	units     ledger.Units
	state     atomic.Int32
	spentAt   clock.Polar // when a Route spent the units, for the time being
}

// A reservation is open until it is settled. One whose units a Route has spent without an
// event can still be settled by the handler: some servers run it after the middleware.
const (
	reservationOpen = iota
	reservationSpent
	reservationSettled
)

// mostUnits is the most that can be spent at once.
const mostUnits = 1e15

// isAmount reports whether so many units can be spent. NaN can't.
func isAmount(units float64) bool { return units > 0 && units <= mostUnits }

var errNoAmount = &InputError{"units", "must be more than 0, and at most 1e15"}

// holdUnits holds units of a customer's meter, as far as requirements let the balance fall. It
// returns nil if there are not so many.
func (c *Customers) holdUnits(ctx context.Context, key memory.Key, value *Entitlements, meter string, units ledger.Units, requirements []Requirement) (*Reservation, error) {
	if value.state().Missing()&rights.ListOfMeters != 0 {
		return nil, unreadable(rights.ListOfMeters)
	}
	meter = value.state().OwnMeterID(meter)
	r := &Reservation{customers: c, of: value, meter: meter, units: units}
	floor, held := ledger.Of(value.overdraft(meter, requirements)), false
	if c.replicas == nil {
		r.book, held = c.cache.Hold(key, value.state(), meter, units, floor)
	} else {
		var err error
		r.book, r.joint = c.cache.OpenBook(key, value.state(), meter), c.usage.joint(value.state().Customer(), meter)
		if held, err = r.joint.Hold(ctx, units, floor); err != nil {
			return nil, &Error{Op: opUsage, Reason: ErrUnreachable, RetryAfter: time.Second, Detail: "the shared store, in which replicas reserve units together, gave no answer", Err: err}
		}
	}
	if !held {
		return nil, nil
	}
	return r, nil
}

// rest is what the customer has, less what is held.
func (r *Reservation) rest() *Entitlements { return (*Entitlements)(r.of.state().WithBalances(r.book)) }

// Release gives the units back. It has no effect after Commit.
func (r *Reservation) Release() {
	switch {
	case r == nil:
	case r.state.CompareAndSwap(reservationOpen, reservationSettled):
		r.settle(ledger.Units{}, 0, true)
	case r.state.CompareAndSwap(reservationSpent, reservationSettled):
		r.undo()
	}
}

// spend takes the units off for the time being, when the handler of a Route has ended that
// sends no event.
func (r *Reservation) spend() {
	r.spentAt = r.customers.cache.PolarNow()
	if r.state.CompareAndSwap(reservationOpen, reservationSpent) {
		r.settle(r.units, r.spentAt, true)
	}
}

// undo takes back what spend did, as far as Polar hasn't counted it.
func (r *Reservation) undo() {
	r.change(func(a *ledger.Account) { a.Undo(r.units, r.spentAt) })
}

var errSettled = &InputError{"reservation", "was committed or released before: reserve anew for more work"}

// Commit says how many units were used, and ends the reservation. More than were reserved
// are taken off as well, so that the balance may fall below zero, and less gives the rest
// back. The event for Polar is stored when Commit returns, and RunUsage sends it; see
// CustomersConfig.UsageFolder. An error means that Polar will not hear of the units, which
// are taken off the balance here all the same; an *InputError means that nothing was done.
func (r *Reservation) Commit(ctx context.Context, used float64, usage Usage) error {
	if !(used >= 0) || used > mostUnits {
		return &InputError{"used", "is not an amount: give the units that were used, or call Release"}
	}
	if err := usage.check(); err != nil {
		return err
	}
	if ctx == nil {
		return errNilContext
	}
	switch {
	case r == nil:
		return errSettled
	case r.state.CompareAndSwap(reservationOpen, reservationSettled):
	case r.state.CompareAndSwap(reservationSpent, reservationSettled):
		r.undo()
		r.units = ledger.Units{} // nothing is held any more
	default:
		return errSettled
	}
	return r.commit(ledger.Cost(used), usage)
}

func (r *Reservation) commit(used ledger.Units, usage Usage) error {
	if r.book == nil {
		return nil
	}
	at := r.customers.cache.PolarNow()
	if usage.Name == "" || !used.Positive() {
		r.settle(used, at, true)
		return nil
	}
	r.settle(used, at, false) // before anybody can say that Polar was told
	err := r.customers.usage.add(r.of, r.meter, used, at, usage)
	if err != nil {
		r.change(func(a *ledger.Account) { a.Told(used, at, at) })
	}
	return err
}

// settle ends the hold. told says that nothing more is going to tell Polar.
func (r *Reservation) settle(used ledger.Units, at clock.Polar, told bool) {
	switch {
	case r.joint != nil:
		r.joint.Settle(r.units, used, at, told)
	case r.book != nil:
		r.book.Settle(r.meter, r.units, used, at, told)
	}
}

// change changes what was spent.
func (r *Reservation) change(change func(*ledger.Account)) {
	if r.joint != nil {
		r.joint.Change(change)
		return
	}
	r.book.Do(r.meter, change)
}

// Spend takes units off a meter in memory, so that requests that come faster than Polar
// counts can't use more than there is. It doesn't tell Polar: your program sends its usage
// events, before or soon after. ok is false if the balance is too low; then nothing was
// taken. giveBack undoes it, once, as far as Polar hasn't counted the units yet; it is never
// nil. A customer has one balance here, by whichever id you name them.
//
// The units stay taken off until Polar has counted them, which it does 15 seconds after the
// customer's last event, and at the latest 180 minutes after the first. Units that Polar
// never counts come back after four hours. Reserve also sends the event.
func (c *Customers) Spend(ctx context.Context, customer CustomerRef, meterID string, units float64) (giveBack func(), ok bool, err error) {
	nothing := func() {}
	if !isAmount(units) {
		return nothing, false, errNoAmount
	}
	value, err := c.Entitlements(ctx, customer)
	if err != nil || !value.Known() {
		return nothing, false, err
	}
	r, err := c.holdUnits(ctx, customer.key, value, usualUUID(meterID), ledger.Cost(units), nil)
	if r == nil {
		return nothing, false, err
	}
	r.spend()
	return r.Release, true, nil
}

// overdraft is how far below zero requirements let a meter go: 0 unless one of them says so.
func (e *Entitlements) overdraft(meter string, requirements []Requirement) float64 {
	limits := overdraftsOf(nil, meter, requirements)
	slices.Sort(limits)
	for _, least := range limits {
		if e.Meets(All(requirements...).supposing(meter, least)) {
			return least
		}
	}
	return 0
}

// overdraftsOf appends the limits below zero that requirements set for a meter.
func overdraftsOf(limits []float64, meter string, requirements []Requirement) []float64 {
	for i := range requirements {
		r := &requirements[i]
		if r.kind == needsMeter && r.id == meter && r.least < 0 {
			limits = append(limits, r.least)
		}
		limits = overdraftsOf(limits, meter, r.of)
	}
	return limits
}

// usageEvents tell Polar what was used.
type usageEvents struct {
	customers *Customers
	box       outbox.Outbox
	turn      chan struct{} // held by RunUsage, and in the end by close
	closing   sync.Once

	mu     sync.Mutex
	joints map[meterOf]*ledger.Joint // with other replicas
}

// meterOf names a customer's meter.
type meterOf struct {
	customer wire.UUID
	meter    string
}

const (
	opUsage = "usage events"
	// usageIDPrefix keeps ids of events apart from those that a program gives: they are one
	// organization's.
	usageIDPrefix = "polargate-"
	// eventsTogether is how many events Polar takes in one request. A thousand take it
	// most of a second, so that a few requests are under way at once.
	eventsTogether, requestsTogether = 1000, 4
	// usageLinger is how long an event waits for others, and usagePause how long the next
	// request waits that isn't full. Polar counts 15 seconds after the last event.
	usageLinger, usagePause = time.Second, 5 * time.Second
	// usageRetry and usageRetryMax are the pauses after a request that failed.
	usageRetry, usageRetryMax = time.Second, time.Minute
	// dateIsShort is how much later it may be at Polar than its answer's date says, which is
	// in whole seconds.
	dateIsShort = time.Second
)

// storedUsage is an event as it waits to be sent. The names are stored, so they stay.
type storedUsage struct {
	ID       string          `json:"id"` // of the event, which Polar counts once
	At       clock.Polar     `json:"at"`
	Customer string          `json:"customer"`
	External string          `json:"external,omitempty"`
	Meter    string          `json:"meter"`
	Units    ledger.Units    `json:"units"`
	Name     string          `json:"name"`
	Metadata json.RawMessage `json:"metadata"`
}

// usageEvent is an event as Polar takes it.
type usageEvent struct {
	Name             string          `json:"name"`
	CustomerID       string          `json:"customer_id,omitempty"`
	ExternalCustomer string          `json:"external_customer_id,omitempty"`
	ExternalID       string          `json:"external_id"`
	Timestamp        string          `json:"timestamp"`
	Metadata         json.RawMessage `json:"metadata"`
}

func (c *Customers) openUsage() error {
	u := &c.usage
	u.customers, u.turn = c, make(chan struct{}, 1)
	u.box = outbox.Outbox{
		Folder: c.config.UsageFolder,
		Most:   eventsTogether, Linger: usageLinger, Between: usagePause, Together: requestsTogether,
		FirstPause: usageRetry, LongestPause: usageRetryMax,
		Send: u.send, Refused: u.refused, Note: u.note, Adopted: u.adopted,
	}
	if c.replicas != nil { // what was spent is in the store
		u.joints = map[meterOf]*ledger.Joint{}
		c.cache.Counted = func(customer wire.UUID, meter string) { u.joint(customer, meter).Look() }
		u.box.Note, u.box.Adopted = nil, nil
		c.replicas.Link.Listen(u.recheck)
	}
	if err := u.box.Open(); err != nil {
		return &InputError{"UsageFolder", "can't be used: " + err.Error()}
	}
	return nil
}

// add stores an event.
func (u *usageEvents) add(of *Entitlements, meter string, used ledger.Units, at clock.Polar, usage Usage) error {
	metadata := make(map[string]any, len(usage.Metadata)+1)
	metadata[cmp.Or(usage.Property, "units")] = used.Float()
	maps.Copy(metadata, usage.Metadata)
	text, err := json.Marshal(metadata)
	if err != nil {
		return &InputError{"Usage.Metadata", "can't be written as JSON"}
	}
	stored, err := json.Marshal(storedUsage{
		ID: usageIDPrefix + rand.Text(), At: at, Customer: of.CustomerID(), External: of.ExternalID(), Meter: meter, Units: used,
		Name: usage.Name, Metadata: text,
	})
	if err == nil {
		err = u.box.Add(stored)
	}
	if err != nil {
		return fmt.Errorf("polargate: a usage event couldn't be stored, so Polar won't hear of it. Check CustomersConfig.UsageFolder, and that RunUsage runs: %w", err)
	}
	return nil
}

// RunUsage sends usage events to Polar, up to a thousand in a request, until ctx ends or
// Customers is closed. Start it once, in a goroutine of its own:
//
//	go customers.RunUsage(ctx)
//
// The access token needs the scope events:write. An event that Polar can't be told of now is
// sent later, with growing pauses. Every event has an id of its own, so that Polar counts it
// once, however often it is sent. One that Polar refuses is kept aside, logged and counted in
// Stats; the others of its request are sent without it. Close sends what is left.
//
// It returns nil when it ends. An error means that it didn't start: ErrClosed if Customers
// was closed before.
func (c *Customers) RunUsage(ctx context.Context) error {
	if ctx == nil {
		return errNilContext
	}
	u := &c.usage
	select {
	case u.turn <- struct{}{}: // otherwise another one is running, and this one waits for it
	case <-ctx.Done():
		return nil
	case <-c.cache.Life.Done():
	}
	if err := c.closedError(opUsage); err != nil {
		return err
	}
	defer func() { <-u.turn }()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(c.cache.Life, cancel)()
	u.box.Run(ctx)
	return nil
}

// close sends what is left, for a while. What can't be sent stays in the folder.
func (u *usageEvents) close(atMost time.Duration) {
	u.closing.Do(func() { u.end(atMost) })
}

func (u *usageEvents) end(atMost time.Duration) {
	u.turn <- struct{}{} // RunUsage has ended
	ctx, cancel := context.WithTimeout(context.Background(), atMost)
	defer cancel()
	if u.box.Stats().Waiting > 0 {
		u.box.Drain(ctx)
	}
	// Polar may have taken all the time, and the store needs some for what Polar was told of.
	storing, stop := context.WithTimeout(context.Background(), atMost)
	defer stop()
	for _, joint := range u.sweepJoints(0) {
		joint.Drain(storing)
	}
	if left := u.box.Stats().Waiting; left > 0 {
		u.customers.config.Logger.Warn("polargate: usage events are left that Polar wasn't told of", "events", left, "lost", u.box.Folder == "")
	}
	if err := u.box.Close(); err != nil {
		u.customers.config.Logger.Warn("polargate: the usage folder couldn't be closed", "error", err)
	}
}

// send tells Polar of events.
func (u *usageEvents) send(ctx context.Context, messages [][]byte) error {
	c := u.customers
	stored := make([]storedUsage, len(messages))
	for i, message := range messages {
		if err := json.Unmarshal(message, &stored[i]); err != nil {
			return &outbox.RefusedError{Bad: []int{i}, Err: errors.New("what was stored is no usage event")}
		}
	}
	turns, end := c.budget.Background()
	err := turns.Wait(ctx, func() bool { return false })
	end()
	if err != nil {
		return err
	}
	by, err := u.ingest(ctx, stored)
	e, ok := errors.AsType[*Error](err)
	if ok && e.StatusCode == http.StatusUnprocessableEntity && !e.date.IsZero() {
		// It may be that the clock here is ahead of Polar's.
		c.cache.NoteTime(clock.PolarTime(e.date))
		if by, err = u.ingest(ctx, stored); err == nil {
			ok = false
		}
		e, ok = errors.AsType[*Error](err)
	}
	c.noteUsage(err)
	switch {
	case err == nil:
		for i := range stored {
			u.told(&stored[i], by)
		}
		return nil
	case ok && e.StatusCode == http.StatusUnprocessableEntity:
		return &outbox.RefusedError{Bad: *cmp.Or(e.places, &[]int{}), Err: err}
	}
	return err
}

// ingest sends events, and tells by when Polar has them.
func (u *usageEvents) ingest(ctx context.Context, stored []storedUsage) (by clock.Polar, err error) {
	c := u.customers
	latest := c.cache.PolarNow().Before(dateIsShort)
	events := make([]usageEvent, len(stored))
	for i, s := range stored {
		events[i] = usageEvent{
			Name: s.Name, ExternalCustomer: s.External, ExternalID: s.ID, Metadata: s.Metadata,
			Timestamp: min(s.At, latest).Time().Format(time.RFC3339Nano),
		}
		if s.External == "" {
			events[i].CustomerID = s.Customer
		}
	}
	ctx, cancel := context.WithTimeout(ctx, attempts*attemptTimeout)
	defer cancel()
	body := map[string]any{"events": events}
	err = c.client.exchange(ctx, exchange{op: opUsage, path: "/v1/events/ingest", body: body, repeatable: true}, func(body []byte, at time.Time) error {
		f, err := wire.Object(body)
		if err != nil {
			return err
		}
		if _, ok := f["inserted"]; !ok {
			return errors.New("no word of what was inserted")
		}
		c.cache.NoteTime(clock.PolarTime(at))
		by = clock.PolarTime(at.Add(dateIsShort))
		return nil
	})
	return by, err
}

// told notes that Polar knows of an event.
func (u *usageEvents) told(s *storedUsage, by clock.Polar) {
	customer, ok := wire.ParseUUID(s.Customer)
	if !ok {
		return
	}
	told := func(a *ledger.Account) { a.Told(s.Units, s.At, by) }
	if u.joints != nil {
		u.joint(customer, s.Meter).Change(told)
	} else if book := u.customers.cache.BookOf(customer); book != nil {
		book.Do(s.Meter, told)
	}
}

// usageLasts is how long the store keeps an account that nobody changes.
const usageLasts = 2 * ledger.Cap

// manyJoints is how many accounts are kept in memory without looking whether they are used.
const manyJoints = 1000

// joint is a customer's account that replicas keep together.
func (u *usageEvents) joint(customer wire.UUID, meter string) *ledger.Joint {
	u.sweepJoints(manyJoints)
	u.mu.Lock()
	defer u.mu.Unlock()
	key := meterOf{customer, meter}
	if j := u.joints[key]; j != nil {
		return j
	}
	key.meter = strings.Clone(meter)
	cache, link := u.customers.cache, u.customers.replicas.Link
	name := link.Name("usage", customer.String()+" "+meter)
	j := &ledger.Joint{
		Load: func(ctx context.Context) (ledger.Stored, error) {
			s, err := link.Load(ctx, name)
			return ledger.Stored(s), err
		},
		Swap: func(ctx context.Context, version string, data []byte) (ledger.Stored, bool, error) {
			s, swapped, err := link.Swap(ctx, name, version, data, usageLasts)
			return ledger.Stored(s), swapped, err
		},
		Holder: link.Config.Holder + "-" + rand.Text()[:8], // another one after it was swept
		Base: func() (count ledger.Count, ok bool) {
			if book := cache.BookOf(customer); book != nil {
				count, ok = book.Base(key.meter)
			}
			return count, ok
		},
		Seen: func(a *ledger.Account) {
			if book := cache.BookOf(customer); book != nil {
				book.Replace(key.meter, a)
			}
		},
		Now:  cache.PolarNow,
		Life: link.Life,
	}
	u.joints[key] = j
	return j
}

// sweepJoints drops accounts that nobody uses if there are more than so many, and gives the
// others.
func (u *usageEvents) sweepJoints(many int) (rest []*ledger.Joint) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if len(u.joints) <= many {
		return nil
	}
	for key, j := range u.joints {
		if j.Idle() {
			delete(u.joints, key)
		} else {
			rest = append(rest, j)
		}
	}
	return rest
}

// recheck stores again what the store may have lost: after a gap, it may be another server, which
// has not all of what the last one had.
func (u *usageEvents) recheck(_ []string, gap bool) {
	if !gap {
		return
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, j := range u.joints {
		j.Recheck()
	}
}

// refused notes that Polar will never take an event. What it was about stays taken off for
// as long as that of any other.
func (u *usageEvents) refused(message []byte, why error) {
	var s storedUsage
	_ = json.Unmarshal(message, &s)
	u.told(&s, u.customers.cache.PolarNow())
	u.customers.config.Logger.Error("polargate: Polar refused a usage event, which is kept aside in UsageFolder", "name", s.Name, "event", s.ID, "error", why)
}

// noteUsage records for Stats that the access token may not send events, or, with nil, that
// it may, and logs what fails.
func (c *Customers) noteUsage(err error) {
	m := &c.misconfigured
	m.Lock()
	m.usage = nil
	if tokenRefused(err) {
		m.usage = err
	}
	m.Unlock()
	if e, ok := errors.AsType[*Error](err); err != nil && !(ok && e.StatusCode == http.StatusUnprocessableEntity) {
		c.seldom.Warn(c.config.Logger, "usage", "polargate: usage events couldn't be sent; they are kept and sent again", "error", err)
	}
}

// openLots are what a customer has spent of a meter and Polar hasn't counted. The names are
// stored, so they stay.
type openLots struct {
	Customer string       `json:"customer"`
	Meter    string       `json:"meter"`
	Lots     []ledger.Lot `json:"lots"`
}

// note is what was spent and told, so that the next process knows of it. What wasn't told is
// in the outbox.
func (u *usageEvents) note() []byte {
	var all []openLots
	u.customers.cache.EachBook(func(customer wire.UUID, book *ledger.Book) {
		book.Each(func(meter string, a *ledger.Account) {
			open := openLots{Customer: customer.String(), Meter: meter}
			for _, lot := range a.Lots {
				if lot.Told.Positive() {
					lot.Untold = ledger.Units{}
					open.Lots = append(open.Lots, lot)
				}
			}
			if len(open.Lots) > 0 {
				all = append(all, open)
			}
		})
	})
	data, err := json.Marshal(all)
	if err != nil {
		panic(err) // it is all texts and numbers
	}
	return data
}

// adopted takes in what a process that ended had spent.
func (u *usageEvents) adopted(note []byte, messages [][]byte) {
	c := u.customers.cache
	var all []openLots
	_ = json.Unmarshal(note, &all)
	for _, open := range all {
		c.Restore(open.Customer, open.Meter, func(a *ledger.Account) { a.Restore(open.Lots) })
	}
	for _, message := range messages {
		var s storedUsage
		if json.Unmarshal(message, &s) == nil {
			c.Restore(s.Customer, s.Meter, func(a *ledger.Account) { a.Spend(s.Units, s.At, false) })
		}
	}
}

// UsageStats say whether usage events reach Polar.
type UsageStats struct {
	// Waiting is how many events Polar doesn't have yet, and Refused how many it refused.
	Waiting int
	Refused int64
	// Failing is why the last request, or storing, failed; nil if it didn't.
	Failing error
}

func (u *usageEvents) stats() UsageStats {
	s := u.box.Stats()
	return UsageStats{Waiting: s.Waiting, Refused: s.Aside, Failing: s.Failing}
}

// ReservationFromContext returns the Reservation of a request that a Route charged by
// Route.Spend. A handler can give the units back with Release, for example before it
// returns an error that is written only after the Route has ended, or Commit what was
// really used. If the Route sends no event, both also work in a handler that runs after the
// Route has ended, as with adaptors to some other servers. In a stream of package rpcgate, it
// is the Reservation of the message that was received last. ok is false if the request isn't
// charged.
func ReservationFromContext(ctx context.Context) (r *Reservation, ok bool) {
	r, _ = ctx.Value(incontext.Reservation{}).(*Reservation)
	return r, r != nil
}
