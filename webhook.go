package polargate

import (
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/polargate/polargate/internal/clock"
	"github.com/polargate/polargate/internal/memory"
	"github.com/polargate/polargate/internal/rights"
	"github.com/polargate/polargate/internal/signed"
	"github.com/polargate/polargate/internal/wire"
)

const (
	// maxEvent bounds a body. A customer state with hundreds of benefits takes
	// 200 KiB.
	maxEvent = 1 << 20
	// bodyTime is how long a body may take to arrive.
	bodyTime = 5 * time.Second
	// rememberedEvents suffice for the tolerance: 30 a second for 5 minutes.
	rememberedEvents = 10_000
)

// seenEvents are the ids of events that were applied.
type seenEvents = *lru.Cache[string, struct{}]

func newSeenEvents() seenEvents {
	c, err := lru.New[string, struct{}](rememberedEvents)
	if err != nil {
		panic(err) // the size is positive, which is all that it asks
	}
	return c
}

// WebhookHandler receives Polar's webhooks, so that purchases and cancellations take
// effect at once. The state in a customer.state_changed goes into the cache, and a
// customer.deleted ends what the customer had. License keys that a customer.state_changed
// or a benefit_grant.created, .updated or .revoked names are looked up before they are
// used again. Polar sends nothing when a key is rotated or disabled, or when its expiry
// is edited. Subscribe the endpoint to these types; others are acknowledged and ignored.
//
// secrets are the endpoint's signing secret as Polar shows it, and, while you replace it,
// the old one too; white space around them doesn't matter. All three ways in which a key is
// made of a secret are understood: its bytes, as Polar did until September 2026, the
// base64 after "whsec_", as since then, and base64 without that prefix. An event is refused if no signature matches, or if it
// was signed more than 5 minutes ago or ahead. An event that was seen before is
// acknowledged and has no effect, and so is one older than another event applied for the
// customer. An event that can't be read is acknowledged, and Polar is asked at the
// customer's next request.
//
// An event of an organization other than the access token's is acknowledged, counts as
// Refused, is logged, and has no effect: an endpoint of the sandbox may lead here too. If
// CustomersConfig.OrganizationID is empty, the organization is that of the first state or
// license key that Polar answers; events that arrive earlier are kept, and Polar is
// asked.
//
// Functions given to On are called for events of all types. Without them, the handler answers
// 204, or else 400, 401, 405 or 413, in well under a second: Polar disables an endpoint after ten failures in a row. A body of more than 1 MiB is refused,
// and so is one that takes longer than 5 seconds to arrive. The body must not have been
// read by an earlier handler: that is answered 500, and the log says so. Without a secret
// that isn't empty, every event is refused, and the log says so. Each kind of refusal is
// logged once a minute, with the number of those left out.
//
// Without secrets, CustomersConfig.WebhookSecrets are used.
func (c *Customers) WebhookHandler(secrets ...string) http.Handler {
	if len(secrets) == 0 {
		secrets = c.config.WebhookSecrets
	}
	keys := signed.Keys(secrets)
	if len(keys) == 0 {
		c.config.Logger.Error("polargate: this webhook handler has no secret and refuses every event: pass the endpoint's secret from Polar")
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "no-store")
		if r.Method != http.MethodPost {
			w.Header().Set("Allow", http.MethodPost)
			w.WriteHeader(http.StatusMethodNotAllowed)
			return
		}
		if r.Body == nil { // of a request that was made by hand
			c.refuseEvent(w, http.StatusBadRequest, "it has no body")
			return
		}
		// If that can't be set, the server's own limits are all there is.
		control := http.NewResponseController(w)
		_ = control.SetReadDeadline(time.Now().Add(bodyTime))
		id, sent := r.Header.Get("Webhook-Id"), r.Header.Get("Webhook-Timestamp")
		signatures := r.Header.Get("Webhook-Signature")
		if problem := signed.Check(id, sent, signatures, time.Now(), signed.Tolerance); problem != "" {
			c.refuseEvent(w, http.StatusUnauthorized, problem)
			return
		}
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxEvent))
		if problem, status := bodyProblem(r, body, err); problem != "" {
			c.refuseEvent(w, status, problem)
			return
		}
		_ = control.SetReadDeadline(time.Time{})
		if !signed.By(keys, id, sent, signatures, body) {
			problem := "no signature fits; if that goes on, the secret is not that of the endpoint"
			if len(body) == 0 {
				problem = "its body is empty: none was sent, or a handler before this one has read it"
			}
			c.refuseEvent(w, http.StatusUnauthorized, problem)
			return
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), handlerTime)
		defer cancel()
		w.WriteHeader(eventStatus(c.deliver(ctx, id, sent, body)))
	})
}

// deliver applies an event that was verified, once for all replicas, and calls the functions
// that the program has given to On.
//
// Customers that are closed tell no other replica, so the event has to come again.
func (c *Customers) deliver(ctx context.Context, id, sent string, body []byte) error {
	if err := c.closedError("webhook"); err != nil {
		return err
	}
	id = strings.Clone(id)
	if handled, err := c.handle(ctx, id, sent, body); handled {
		return err
	}
	again, _ := c.seen.ContainsOrAdd(id, struct{}{})
	r := c.replicas
	if again || r != nil && !r.FirstTime(id) {
		c.counts.eventsTwice.Add(1)
		return nil
	}
	c.takeIn(sent, body)
	c.noteSeen(id)
	return nil
}

// takeIn takes in an event that was sent then, as was verified.
func (c *Customers) takeIn(sent string, body []byte) {
	seconds, _ := strconv.ParseInt(sent, 10, 64)
	c.takeEvent(body, time.Unix(seconds, 0))
}

// noteSeen notes that an event was applied. It is called afterwards: if this process ends
// meanwhile, Polar sends the event again.
func (c *Customers) noteSeen(id string) {
	c.seen.Add(id, struct{}{})
	if r := c.replicas; r != nil {
		r.NoteApplied(id, max(c.config.GracePeriod, 2*signed.Tolerance))
	}
}

// Apply takes in a delivery of Polar's webhooks that came by other means than HTTP, such as
// a queue: the body as it was sent, and the headers that begin with "Webhook-", in capital or
// small letters. It verifies the signature with CustomersConfig.WebhookSecrets, and does what WebhookHandler does.
//
// A delivery may have waited for as long as GracePeriod, since one that is older than what
// is known has no effect. One that was seen before, or has nothing of interest, is no error.
// One that is not signed, or signed by another secret, is an *InputError, and must not be
// tried again. Any other error is of ctx, of a function given to On, or ErrClosed, and the
// delivery is to be tried again.
func (c *Customers) Apply(ctx context.Context, rawBody []byte, header http.Header) error {
	if ctx == nil {
		return errNilContext
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	id, sent, signatures := ofQueue(header, "Webhook-Id"), ofQueue(header, "Webhook-Timestamp"), ofQueue(header, "Webhook-Signature")
	problem := signed.Check(id, sent, signatures, time.Now(), max(signed.Tolerance, c.config.GracePeriod))
	switch keys := signed.Keys(c.config.WebhookSecrets); {
	case problem != "":
	case len(keys) == 0:
		problem = "cannot be verified: set CustomersConfig.WebhookSecrets to the endpoint's secret from Polar"
	case len(rawBody) > maxEvent:
		problem = "is longer than 1 MiB"
	case !signed.By(keys, id, sent, signatures, rawBody):
		problem = "has no signature that fits: give the body as it was sent, and the secret of the endpoint"
	}
	if problem != "" {
		c.counts.eventsRefused.Add(1)
		return &InputError{"delivery", strings.TrimPrefix(problem, "it ")}
	}
	return c.deliver(ctx, id, sent, rawBody)
}

// ofQueue is the first value of a header. A queue may have written its name in small letters, as
// HTTP/2 does.
func ofQueue(header http.Header, name string) string {
	if value := header.Get(name); value != "" {
		return value
	}
	for written, values := range header {
		if len(values) > 0 && strings.EqualFold(written, name) {
			return values[0]
		}
	}
	return ""
}

func (c *Customers) refuseEvent(w http.ResponseWriter, status int, problem string) {
	c.counts.eventsRefused.Add(1)
	c.seldom.Warn(c.config.Logger, problem, "polargate: a webhook was refused", "because", problem)
	w.WriteHeader(status)
}

// bodyProblem is what is wrong with a body, and the status that says so; "" if nothing
// is. If an earlier handler has read all or part of the body, that is a mistake of this
// server, not of its secret.
func bodyProblem(r *http.Request, body []byte, err error) (string, int) {
	const readBefore = "its body, or a part of it, was read or changed by a handler before this one: let WebhookHandler have the body as it was sent"
	if tooLong, ok := errors.AsType[*http.MaxBytesError](err); ok {
		if tooLong.Limit < maxEvent {
			return "its body is longer than a handler before this one allows", http.StatusRequestEntityTooLarge
		}
		return "its body is longer than 1 MiB", http.StatusRequestEntityTooLarge
	}
	switch {
	case errors.Is(err, http.ErrBodyReadAfterClose):
		return readBefore, http.StatusInternalServerError
	case errors.Is(err, os.ErrDeadlineExceeded):
		return "its body took longer than 5 seconds to arrive", http.StatusBadRequest
	case err != nil:
		return "its body broke off", http.StatusBadRequest
	case r.ContentLength > 0 && int64(len(body)) != r.ContentLength:
		return readBefore, http.StatusInternalServerError // else the end would have come unexpectedly
	}
	return "", 0
}

// notice is a signed event of a type that matters here.
type notice struct {
	kind string
	data wire.Fields
	raw  []byte // of data
	// organization is the one the event belongs to; "" if it doesn't say.
	organization string
	// customer is the one the event is about, as in its data.
	customer wire.Fields
	// at is when it happened, and sent when this attempt was made, both by Polar's clock;
	// came is when it arrived, by the cache's clock.
	at, sent time.Time
	came     clock.Local
}

// maxHeld bounds the events that wait until the organization is known. If an event is
// pushed out, its customer is looked up at their next request, as everybody is then.
const maxHeld = 100

// takeEvent applies a signed event that was sent at that time. An event that can't be
// read is acknowledged too: it won't be better when it is sent again.
func (c *Customers) takeEvent(body []byte, sent time.Time) {
	n := notice{sent: sent, came: c.cache.Now()}
	c.warming.lastEvent.Store(int64(n.came))
	f, err := wire.Object(body)
	if err != nil {
		c.unreadable(n, err)
		return
	}
	f.Text("type", &n.kind)
	ofGrant := strings.HasPrefix(n.kind, grantEvents)
	if n.kind != "customer.state_changed" && n.kind != "customer.deleted" && !ofGrant {
		c.counts.eventsUnknown.Add(1)
		if strings.HasPrefix(n.kind, "member.") || strings.HasPrefix(n.kind, "customer_seat.") {
			c.members.hearOfSeat(f)
		}
		return
	}
	f.Time("timestamp", &n.at)
	n.raw = f["data"]
	if n.data, err = wire.Object(n.raw); err != nil {
		c.unreadable(n, err)
		return
	}
	if n.customer = n.data; ofGrant {
		n.customer = nil
		wire.Optional(n.data, "customer", &n.customer)
	}
	var organization string
	n.customer.Text("organization_id", &organization)
	n.organization, _ = canonicalUUID4(organization)
	if !c.hold(n) {
		c.take(n)
	}
}

// hold keeps an event while the organization isn't known, and reports whether that is so.
// Only Polar's answer to the access token says it: a secret may belong to an endpoint in
// the sandbox.
func (c *Customers) hold(n notice) bool {
	o := &c.organization
	o.Lock()
	if o.id != "" || n.organization == "" {
		o.Unlock()
		return false
	}
	if len(o.held) == maxHeld {
		o.held = slices.Delete(o.held, 0, 1)
	}
	o.held = append(o.held, n)
	ask := !o.asking
	o.asking = true
	o.Unlock()
	who, err := rights.ReadCustomer(n.customer, "")
	if err == nil {
		c.cache.Invalidate(who) // as they may be cached as not known
	}
	if ask {
		c.cache.GoBehind(func() {
			if err == nil {
				_, err = c.cache.Fetch(c.cache.Life, memory.IDsOf(who)[0], memory.UnlessFresh)
				_ = c.callError(err) // which logs what is a fault here
			}
			o.Lock()
			o.asking = false
			o.Unlock()
		})
	}
	return true
}

// learn records the organization of the access token, as Polar said it, and applies the
// events that waited for it.
func (c *Customers) learn(organization string) {
	id, ok := canonicalUUID4(organization)
	o := &c.organization
	o.Lock()
	if !ok || o.id != "" {
		o.Unlock()
		return
	}
	held := o.held
	o.id, o.held = id, nil
	o.Unlock()
	for _, n := range held {
		c.take(n)
	}
}

// take applies an event, if it belongs to this organization.
func (c *Customers) take(n notice) {
	ours := c.organizationID()
	if n.organization != "" && n.organization != ours {
		c.counts.eventsRefused.Add(1)
		c.seldom.Warn(c.config.Logger, "foreign event", "polargate: a webhook of another organization was refused: give this handler the secrets of this organization's endpoints alone, not those of the sandbox",
			"type", n.kind, "organization", n.organization, "expected", ours)
		return
	}
	if strings.HasPrefix(n.kind, grantEvents) {
		c.takeGrant(n)
		return
	}
	var value *rights.State
	var err error
	if n.kind == "customer.deleted" {
		value, err = rights.ReadDeleted(n.raw, ours)
	} else {
		value, err = rights.ReadState(n.raw, ours, c.config.Features)
	}
	switch {
	case err != nil:
	case n.organization == "":
		err = errors.New("its organization is missing")
	case n.at.IsZero():
		err = errors.New("its time is missing")
	case value.Unread()&rights.ListOfBenefits != 0:
		err = errors.New("its list of granted benefits is missing or no list")
	}
	if err != nil {
		c.unreadable(n, err)
		return
	}
	// An event that couldn't be delivered is sent again for hours. Both times are
	// Polar's. The time of sending is in whole seconds, and no event happened after it.
	at := n.at
	if latest := n.sent.Add(time.Second); at.After(latest) {
		at = latest
	}
	value.SetAt(clock.PolarTime(at))
	c.cache.DropLicenses(value, value.LicenseKeyIDs(), true, 0)
	if !c.cache.ApplyEvent(value, max(0, n.sent.Sub(at))+c.cache.Now().Sub(n.came)) {
		c.counts.eventsOld.Add(1)
		return
	}
	c.counts.events.Add(1)
}

// grantEvents are benefit_grant.created, .updated, .revoked and any others.
const grantEvents = "benefit_grant."

// takeGrant drops from the cache the license keys that an event about a grant names. What
// the customer has comes with the customer.state_changed that follows.
func (c *Customers) takeGrant(n notice) {
	c.takeMembersGrant(n)
	var ids []wire.UUID
	for _, name := range []string{"properties", "previous_properties"} {
		var properties wire.Fields
		var id string
		wire.Optional(n.data, name, &properties)
		properties.Text("license_key_id", &id)
		if id, ok := wire.ParseUUID(id); ok && !slices.Contains(ids, id) {
			ids = append(ids, id)
		}
	}
	if len(ids) == 0 { // a benefit of another type
		c.counts.eventsUnknown.Add(1)
		return
	}
	who, err := rights.ReadCustomer(n.customer, c.organizationID())
	if err == nil && n.organization == "" {
		err = errors.New("its organization is missing")
	}
	if err != nil {
		c.unreadable(n, err)
		return
	}
	revoked := clock.Polar(0)
	if n.kind == grantEvents+"revoked" {
		revoked = clock.PolarTime(n.at)
	}
	c.cache.DropLicenses(who, ids, false, revoked)
	if r := c.replicas; r != nil && !n.at.IsZero() {
		r.PublishDrop(who.Customer(), ids, clock.PolarTime(n.at), revoked != 0)
	}
	c.counts.events.Add(1)
}

// unreadable handles an event that can't be read. If it says whom it is about, that
// customer's next request asks Polar: something is new, and only Polar can say what.
func (c *Customers) unreadable(n notice, err error) {
	c.counts.eventsRefused.Add(1)
	c.seldom.Warn(c.config.Logger, "unreadable event", "polargate: a webhook was signed, but cannot be read", "type", n.kind, "error", err)
	if of, err := rights.ReadCustomer(n.customer, c.organizationID()); err == nil {
		c.leaveOut(of.Customer())
		c.cache.Invalidate(of)
	}
}
