package polartest

import (
	"bytes"
	"cmp"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/polargate/polargate/polartest/internal/pydantic"
)

// What Polar does with webhooks, as its own server has it (commit c6c3645e), read and not recorded.
const (
	// mostAttempts is how often an event is sent before it counts as failed. The pauses between them
	// double from 4 s to 1,024 s. Polar shortens each by up to a half at random; here they are whole, so
	// that tests know when.
	mostAttempts = 10
	firstPause   = 4 * time.Second
	longestPause = 20 * time.Minute

	// answerTime is how long an endpoint has for its answer.
	answerTime = 10 * time.Second

	// mostFailures is how many events in a row fail before the endpoint is switched off.
	mostFailures = 10
)

const stateChanged = "customer.state_changed"

// Endpoint is where this Polar delivers webhooks to: customer.created, customer.updated,
// customer.deleted and customer.state_changed of its organization, and where they are asked for, those
// of types subscription, benefit_grant, benefit, customer_seat and member.
type Endpoint struct {
	// ID and OrganizationID are UUIDs of version 4. Empty: see [Polar.AddEndpoint] and [Config].
	ID, OrganizationID string
	// URL is posted to over the network, or is the address that the Handler sees in the request. Only
	// with a Handler it may be empty, which is https://receiver.example/webhooks/polar.
	URL string
	// Handler, if not nil, is called in process instead, in a goroutine of its own, so that it works
	// in a testing/synctest bubble. If it panics, the delivery fails.
	Handler http.Handler
	// Secrets sign the deliveries, each with a signature of its own. Polar has one; two are a program
	// that moves from one secret to the next. Empty: one is made, as Polar makes them today.
	Secrets []Secret
	// Events are the types that are wanted. Empty: all of type customer, and no others.
	Events []string
	// Disabled endpoints get nothing, and what happens meanwhile is lost for them. Polar itself
	// switches an endpoint off after ten events in a row that failed, each after ten attempts, and
	// forgets what is still on its way there. [Polar.UpdateEndpoint] switches it on again; unless an
	// event succeeds then, the next to fail switches it off at once.
	Disabled bool
	// Failures is how many events in a row have failed of late. It is for reading only.
	Failures int
	// CreatedAt is now, if zero. A zero ModifiedAt is null.
	CreatedAt, ModifiedAt time.Time
}

// Secret is what an endpoint's deliveries are signed with.
type Secret struct {
	// Text is what Polar's dashboard shows. Empty: random, "whsec_" and more.
	Text string
	// Raw makes the bytes of the whole text the key, prefix included, as Polar does it for secrets
	// made before 2026-09-08 and for those that are anybody's own text. False: the key is what the
	// text after "whsec_" says in base64, as Standard Webhooks have it and Polar for later ones.
	Raw bool
}

// Delivery is one event on its way to one endpoint.
type Delivery struct {
	// ID is the webhook-id, the same in each attempt.
	ID         string
	EndpointID string
	// Type is "customer.state_changed" and so on.
	Type       string
	CustomerID string
	// At is when it happened, which is also the timestamp in Body, by this Polar's clock. Only this
	// tells which of two states is the newer one: the webhook-timestamp is of the attempt, and attempts
	// overtake each other.
	At   time.Time
	Body []byte
	// Status is "pending", "held", "delivered", "failed", or "skipped" if the endpoint was switched
	// off meanwhile.
	Status   string
	Attempts []Attempt
}

// The statuses of a delivery.
const (
	pending   = "pending"
	held      = "held"
	delivered = "delivered"
	failed    = "failed"
	skipped   = "skipped"
)

// Attempt is one try to deliver.
type Attempt struct {
	ID     string    // a UUID of version 4
	At     time.Time // by this Polar's clock; in whole seconds it is the webhook-timestamp
	Status int       // what the endpoint answered; 0 if nothing
	Err    error     // why there was no answer
}

// Message is what [Polar.Send] posts. Its zero value is a body that is empty, signed as it should be.
type Message struct {
	// ID is the webhook-id. Empty: a new one.
	ID string
	// Timestamp is the webhook-timestamp. Zero: now, by this Polar's clock.
	Timestamp time.Time
	Body      []byte
	// Secrets sign it. Empty: those of the endpoint.
	Secrets []Secret
	// Header is set over what Polar would send, and a name without values leaves that one out.
	Header http.Header
}

// webhooks is guarded by the mutex of its Polar.
type webhooks struct {
	endpoints []*endpoint
	events    []*event // all, in order
	holding   bool
	pending   int           // events of that status
	settled   chan struct{} // if not nil, closed as soon as none is pending
}

type endpoint struct {
	Endpoint
	queue   []*event // not tried yet
	working bool     // a goroutine works through the queue
}

type event struct {
	Delivery
	endpoint *endpoint
	customer *account
	change   int     // of the customer
	state    *object // of the customer, if the event has it
	released bool    // although others are held
	trying   bool    // is being sent right now
	due      time.Time
	timer    *time.Timer // if not nil, the event waits to be tried again
}

// AddEndpoint adds an endpoint for webhooks and returns it with everything filled in that was empty.
// It gets the events from then on. It panics if there is neither URL nor Handler, or a secret
// is not base64 and not Raw.
func (p *Polar) AddEndpoint(e Endpoint) Endpoint {
	e = e.clone()
	e.ID = cmp.Or(e.ID, newUUID())
	e.settle(p.config.OrganizationID, p.now())
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.endpoint(e.ID) != nil {
		panic("polartest: AddEndpoint: the endpoint of id " + e.ID + " is there already")
	}
	p.webhooks.endpoints = append(p.webhooks.endpoints, &endpoint{Endpoint: e})
	return e.clone()
}

// Endpoint gives a copy of the endpoint with that ID.
func (p *Polar) Endpoint(id string) (Endpoint, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	e := p.endpoint(id)
	if e == nil {
		return Endpoint{}, false
	}
	c := e.clone()
	c.Failures = p.failures(e)
	return c, true
}

// UpdateEndpoint edits an endpoint: switches it off or on, or changes its secrets. change gets a copy
// and must not call the Polar. False: no such endpoint.
func (p *Polar) UpdateEndpoint(id string, change func(*Endpoint)) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	e := p.endpoint(id)
	if e == nil {
		return false
	}
	next := e.clone()
	change(&next)
	next.ID, next.Failures = e.ID, 0
	next.settle(p.config.OrganizationID, e.CreatedAt)
	e.Endpoint = next.clone()
	if e.Disabled {
		p.skip(e)
	}
	return true
}

// Deliveries gives copies of all deliveries, in the order in which things happened.
func (p *Polar) Deliveries() []Delivery {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := make([]Delivery, 0, len(p.webhooks.events))
	for _, ev := range p.webhooks.events {
		d := ev.Delivery
		d.Body = bytes.Clone(d.Body)
		d.Attempts = slices.Clone(d.Attempts)
		out = append(out, d)
	}
	return out
}

// WaitForDeliveries waits until no delivery is pending: each has been delivered, or has failed for
// good, or is held. Repeats come when this Polar's clock says so: in a testing/synctest bubble that
// takes no time, and elsewhere [Polar.Advance] brings them forward. The error is the context's cause.
func (p *Polar) WaitForDeliveries(ctx context.Context) error {
	for {
		p.mu.Lock()
		w := &p.webhooks
		if w.pending == 0 {
			p.mu.Unlock()
			return nil
		}
		if w.settled == nil {
			w.settled = make(chan struct{})
		}
		settled := w.settled
		p.mu.Unlock()
		select {
		case <-settled:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// HoldDeliveries keeps back all deliveries from now on, repeats too, until [Polar.ReleaseDeliveries].
func (p *Polar) HoldDeliveries() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.webhooks.holding = true
}

// ReleaseDeliveries sends held deliveries on their way in the order of the IDs given, whatever came
// first, and still holds the others. Without IDs it releases all, in the order in which things
// happened, and holds no more. It panics if there is no held delivery of such an ID.
func (p *Polar) ReleaseDeliveries(ids ...string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(ids) == 0 {
		p.webhooks.holding = false
		for _, ev := range p.webhooks.events {
			if ev.Status == held {
				p.enqueue(ev)
			}
		}
		return
	}
	for _, id := range ids {
		i := slices.IndexFunc(p.webhooks.events, func(ev *event) bool { return ev.ID == id && ev.Status == held })
		if i < 0 {
			panic(fmt.Sprintf("polartest: ReleaseDeliveries: there is no held delivery with the id %q", id))
		}
		ev := p.webhooks.events[i]
		ev.released = true
		p.enqueue(ev)
	}
}

// Send posts a message to an endpoint once, now, and gives what was answered, or why nothing was. It
// is for what tests of a receiver want to see sent: a delivery once more, under the same ID; one with
// an old timestamp; one of an unknown type, or about another organization, by a change of the body of
// a true one; one signed with another secret; bytes that are no JSON, or very many. It
// appears nowhere else, and changes nothing at this Polar. It panics if there is no such endpoint.
func (p *Polar) Send(endpointID string, m Message) (status int, err error) {
	p.mu.Lock()
	e := p.endpoint(endpointID)
	if e == nil {
		p.mu.Unlock()
		panic(fmt.Sprintf("polartest: Send: there is no endpoint with the id %q", endpointID))
	}
	c := e.clone()
	p.mu.Unlock()
	m.Secrets = slices.Clone(m.Secrets)
	for i := range m.Secrets {
		m.Secrets[i].settle()
	}
	return p.post(c, m)
}

func (e *Endpoint) clone() Endpoint {
	c := *e
	c.Secrets = slices.Clone(e.Secrets)
	c.Events = slices.Clone(e.Events)
	return c
}

// settle makes an endpoint that a test wrote by hand one that Polar could have.
func (e *Endpoint) settle(organizationID string, now time.Time) {
	settleTimes(now, &e.CreatedAt)
	settleTimes(time.Time{}, &e.ModifiedAt)
	e.ID = mustUUID4("Endpoint.ID", e.ID)
	e.OrganizationID = mustUUID4("Endpoint.OrganizationID", cmp.Or(e.OrganizationID, organizationID))
	if e.URL == "" && e.Handler == nil {
		panic("polartest: an endpoint has neither a URL nor a Handler")
	}
	if u, err := url.Parse(e.URL); err != nil || e.URL != "" && u.Host == "" {
		panic(fmt.Sprintf("polartest: Endpoint.URL %q is not a URL with a host", e.URL))
	}
	if len(e.Secrets) == 0 {
		e.Secrets = []Secret{{}}
	}
	for i := range e.Secrets {
		e.Secrets[i].settle()
	}
}

const secretPrefix = "whsec_"

func (s *Secret) settle() {
	if s.Text == "" {
		if s.Raw {
			s.Text = secretPrefix + rand.Text() + rand.Text()
		} else {
			key := make([]byte, 32)
			rand.Read(key)
			s.Text = secretPrefix + base64.StdEncoding.EncodeToString(key)
		}
	}
	if _, err := s.key(); err != nil {
		panic("polartest: a secret is not base64 after " + secretPrefix + ": Raw takes any text")
	}
}

func (s *Secret) key() ([]byte, error) {
	if s.Raw {
		return []byte(s.Text), nil
	}
	return base64.StdEncoding.DecodeString(strings.TrimPrefix(s.Text, secretPrefix))
}

// sign is the value of webhook-signature.
func sign(secrets []Secret, id, timestamp string, body []byte) string {
	var signatures []string
	for _, s := range secrets {
		key, _ := s.key() // was looked at when it was set
		if len(key) < sha256.BlockSize {
			// As HMAC completes it: with a short key hmac.New panics where FIPS 140 is enforced.
			key = append(key, make([]byte, sha256.BlockSize-len(key))...)
		}
		mac := hmac.New(sha256.New, key)
		mac.Write([]byte(id + "." + timestamp + "."))
		mac.Write(body)
		signatures = append(signatures, "v1,"+base64.StdEncoding.EncodeToString(mac.Sum(nil)))
	}
	return strings.Join(signatures, " ")
}

// header is what goes with a message.
func (m *Message) header(secrets []Secret) http.Header {
	timestamp := strconv.FormatInt(m.Timestamp.Unix(), 10)
	h := http.Header{
		"User-Agent":        {"polar.sh webhooks"},
		"Content-Type":      {"application/json"},
		"Webhook-Id":        {m.ID},
		"Webhook-Timestamp": {timestamp},
		"Webhook-Signature": {sign(secrets, m.ID, timestamp, m.Body)},
	}
	for name, values := range m.Header {
		if len(values) == 0 {
			h.Del(name)
			continue
		}
		h[http.CanonicalHeaderKey(name)] = slices.Clone(values)
	}
	return h
}

// All below runs with the mutex held, but for work, attempt and retry, which take it.

func (p *Polar) endpoint(id string) *endpoint {
	for _, e := range p.webhooks.endpoints {
		if is(e.ID, id) {
			return e
		}
	}
	return nil
}

// emit makes an event of a customer for each endpoint that wants it.
func (p *Polar) emit(kind string, a *account, now time.Time) {
	p.emitTo(kind, a.OrganizationID, a, func() *object {
		if kind == stateChanged {
			return p.describeState(&a.Customer)
		}
		return a.describe()
	}, Event{At: now})
}

func (e *endpoint) wants(kind, organizationID string) bool {
	if e.Disabled || e.OrganizationID != organizationID {
		return false
	}
	if len(e.Events) == 0 {
		return strings.HasPrefix(kind, "customer.")
	}
	return slices.Contains(e.Events, kind)
}

// send makes an event and sends it on its way.
func (p *Polar) send(told Event, e *endpoint, a *account, state, data *object) (id string) {
	body, _ := pydantic.Print(newObject("type", told.Type, "timestamp", pydantic.PrintTime(told.At), "data", data)) // change has tried it
	ev := &event{
		Delivery: Delivery{ID: cmp.Or(told.ID, newUUID()), EndpointID: e.ID, Type: told.Type, At: told.At, Body: body},
		endpoint: e, customer: a, state: state,
	}
	if a != nil {
		ev.CustomerID, ev.change = a.ID, a.change
	}
	p.webhooks.events = append(p.webhooks.events, ev)
	p.enqueue(ev)
	return ev.ID
}

// enqueue sends an event on its way. Polar sends the events of an endpoint one after the other, until
// each has been tried once; repeats don't wait for others.
func (p *Polar) enqueue(ev *event) {
	ev.Status = pending
	p.webhooks.pending++
	if p.hold(ev) {
		return
	}
	e := ev.endpoint
	e.queue = append(e.queue, ev)
	if !e.working {
		e.working = true
		go p.work(e)
	}
}

func (p *Polar) work(e *endpoint) {
	for {
		p.mu.Lock()
		if len(e.queue) == 0 {
			e.working = false
			p.mu.Unlock()
			return
		}
		ev := e.queue[0]
		e.queue = e.queue[1:]
		p.mu.Unlock()
		p.attempt(ev)
	}
}

// finish gives a pending event the status in which it stays.
func (p *Polar) finish(ev *event, status string) {
	if ev.timer != nil {
		ev.timer.Stop()
		ev.timer = nil
	}
	ev.Status = status
	w := &p.webhooks
	if w.pending--; w.pending == 0 && w.settled != nil {
		close(w.settled)
		w.settled = nil
	}
}

// hold keeps an event back if it is not to leave now.
func (p *Polar) hold(ev *event) bool {
	if !p.webhooks.holding || ev.released {
		return false
	}
	p.finish(ev, held)
	return true
}

// skip forgets what is on its way to an endpoint that is switched off.
func (p *Polar) skip(e *endpoint) {
	for _, ev := range p.webhooks.events {
		switch {
		case ev.endpoint != e:
		case ev.Status == held:
			ev.Status = skipped
		case ev.Status == pending && !ev.trying:
			p.finish(ev, skipped)
		}
	}
}

// failures counts the events that failed since the last that did not, in the order in which they
// happened; those that are still tried count for nothing.
func (p *Polar) failures(e *endpoint) int {
	n := 0
	for _, ev := range slices.Backward(p.webhooks.events) {
		if ev.endpoint != e {
			continue
		}
		if ev.Status == delivered {
			break
		}
		if ev.Status == failed {
			n++
		}
	}
	return n
}

// attempt tries to deliver an event, and says what becomes of it.
func (p *Polar) attempt(ev *event) {
	p.mu.Lock()
	if ev.Status != pending || p.hold(ev) {
		p.mu.Unlock()
		return
	}
	ev.trying = true
	e := ev.endpoint.clone()
	at := p.Now()
	if ev.state != nil && ev.customer != nil {
		p.show(ev.customer, ev.change, ev.state, at)
	}
	m := Message{ID: ev.ID, Timestamp: at, Body: ev.Body}
	p.mu.Unlock()

	status, err := p.post(e, m)

	p.mu.Lock()
	defer p.mu.Unlock()
	ev.trying = false
	ev.Attempts = append(ev.Attempts, Attempt{ID: newUUID(), At: at, Status: status, Err: err})
	switch {
	case err == nil && status >= 200 && status < 300:
		p.finish(ev, delivered)
	case ev.endpoint.Disabled:
		p.finish(ev, skipped)
	case len(ev.Attempts) < mostAttempts:
		ev.due = p.Now().Add(min(firstPause<<(len(ev.Attempts)-1), longestPause))
		p.schedule(ev, 0)
	default:
		p.finish(ev, failed)
		if p.failures(ev.endpoint) >= mostFailures {
			ev.endpoint.Disabled = true
			p.skip(ev.endpoint)
		}
	}
}

// schedule sets the timer of an event that is to be tried again. A timer is no goroutine: a test may
// end before it fires.
func (p *Polar) schedule(ev *event, atLeast time.Duration) {
	if ev.timer != nil {
		ev.timer.Stop()
	}
	ev.timer = time.AfterFunc(max(ev.due.Sub(p.Now()), atLeast), func() { p.retry(ev) })
}

func (p *Polar) retry(ev *event) {
	p.mu.Lock()
	if ev.timer == nil { // another call was faster
		p.mu.Unlock()
		return
	}
	if p.Now().Before(ev.due) { // this Polar's clock is slower than the timer's, or stands still
		p.schedule(ev, 100*time.Millisecond)
		p.mu.Unlock()
		return
	}
	ev.timer.Stop()
	ev.timer = nil
	p.mu.Unlock()
	p.attempt(ev)
}

// reschedule is for a clock that was set.
func (p *Polar) reschedule() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, ev := range p.webhooks.events {
		if ev.timer != nil {
			p.schedule(ev, 0)
		}
	}
}
