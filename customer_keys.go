package polargate

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/polargate/polargate/internal/clock"
	"github.com/polargate/polargate/internal/fact"
)

// What is here keeps a benefit of the type license_keys from outliving its license key.
// Polar leaves the grant in the customer's state when the key expires or is disabled, and
// sends no webhook (seen running, 2026-11-28), so the key itself is asked about.

const (
	licenseKeys = "license_keys" // the type of benefit

	// keyWorkers is how many questions about license keys are under way at once.
	keyWorkers = 4
	// fewKeys is how many keys of a benefit are asked about one by one. Who needs more
	// needs more still, as after a start, and lists are read: 100 keys a request.
	fewKeys = 4
	// scopeAgain is how long it is believed that the token may not read license keys.
	scopeAgain = time.Minute
)

// keyedGrants are the grants of a customer some of which come with a license key. They are
// immutable, as the Entitlements are that have them.
type keyedGrants struct {
	all      []GrantedBenefit // as Polar's state has them: of a benefit there may be several
	ids      []uuid           // of the license keys; zero where there is none, or none is named
	features map[string][]string

	// due is when a key is to be asked about, and flips when what counts changes by
	// itself, both by the clock of the cache. urgent is that nothing can be served
	// until due keys were asked about.
	due, flips clock.Local
	urgent     bool
	// open are the grants of which nobody could say whether they count, and why is that.
	open []GrantedBenefit
	why  error
}

// keyedGrantsOf notes which of the grants of a state come with a license key; nil if none.
func keyedGrantsOf(grants []GrantedBenefit, features map[string][]string) *keyedGrants {
	var ids []uuid
	for i, g := range grants {
		id, ok := parseUUID(g.LicenseKeyID())
		if !ok || g.Type() != licenseKeys {
			continue // another id cannot be asked about: Polar's word counts
		}
		if ids == nil {
			ids = make([]uuid, len(grants))
		}
		ids[i] = id
	}
	if ids == nil {
		return nil
	}
	return &keyedGrants{all: slices.Clone(grants), ids: ids, features: features, flips: clock.Never}
}

// keys are the grants of e, if some come with a license key; nil if none.
func (e *Entitlements) keys() *keyedGrants { return e.particulars().keys }

// licenseKeyIDs are those of the license keys that the grants come with.
func (e *Entitlements) licenseKeyIDs() []uuid {
	if e.keys() == nil {
		return nil
	}
	return slices.DeleteFunc(slices.Clone(e.keys().ids), func(id uuid) bool { return id == uuid{} })
}

// grants are the benefits as Polar's state has them, in order, whether their license
// keys count or not.
func (e *Entitlements) grants() []GrantedBenefit {
	if e.keys() == nil {
		return e.Benefits()
	}
	all := slices.Clone(e.keys().all)
	slices.SortFunc(all, func(a, b GrantedBenefit) int {
		return cmp.Or(strings.Compare(a.ID(), b.ID()), strings.Compare(a.LicenseKeyID(), b.LicenseKeyID()))
	})
	return all
}

// awaitsKeys reports whether nothing can be served before license keys were asked about.
func (e *Entitlements) awaitsKeys(now clock.Local) bool {
	keys := e.keys()
	return keys != nil && keys.urgent && now >= keys.due
}

// undecidedKeys is why it is not known of some license key whether it counts; nil if
// it is known of all.
func (e *Entitlements) undecidedKeys() error {
	keys := e.keys()
	if keys == nil || len(keys.open) == 0 {
		return nil
	}
	return keys.why
}

// supposingKeys is e if the license keys of which nothing is known counted.
func (e *Entitlements) supposingKeys() *Entitlements {
	if e.undecidedKeys() == nil {
		return e
	}
	next := *e
	next.setRights(e.rights().unlocking(slices.Concat(e.Benefits(), e.keys().open), e.keys().features))
	return &next
}

// keyFact is what is known of a license key. Times are those of the cache.
type keyFact struct {
	known   bool // else a question failed, and nothing is known
	granted bool
	expires clock.Local // never, if it does not
	asked   clock.Local
	at      clock.Polar // of the answer
	retryAt clock.Local // after a failure
	err     error       // of that
	// question and dropped are the turns at which it was asked about last, and at which
	// an event told of it; see keyring.turns.
	question, dropped int64
}

// keyring keeps what Polar said of license keys, for customers whose benefits come with
// them. Its lock is taken within that of the cache, and never the other way round.
type keyring struct {
	fresh, dead, last time.Duration // how long a fact is believed; how long a refusal; and at most
	timeout           time.Duration
	now               func() clock.Local
	life              context.Context
	behind            func(func())
	one               func(ctx context.Context, id uuid) (keyAnswer, error)
	page              func(ctx context.Context, benefit string, page int) (keyPage, error)
	noteScope         func(error) // called with each answer: nil, or that the token lacks the scope

	mu           sync.Mutex
	known        *lru.TwoQueueCache[uuid, keyFact]
	pending      map[uuid]*keyLook
	queue        []*keyLook
	working      int
	turns        int64               // counts questions and events, to tell which was first
	walks        map[string]*keyWalk // by benefit
	refusedUntil clock.Local         // the token lacks the scope
}

// keyAnswer is Polar's answer about a key; the zero value is of one that it does not know.
type keyAnswer struct {
	id      uuid
	granted bool
	left    time.Duration // until it expires, from the answer on
	expires bool
	at      clock.Polar
}

type keyPage struct {
	keys []keyAnswer
	last int // page
}

// keyLook is a question about a key that somebody waits for.
type keyLook struct {
	id      uuid
	benefit string
	done    chan struct{}
	dropped bool // an event told of the key since it began
	counted bool // in its keyWalk
}

// keyWalk is how far the list of a benefit's keys has been read.
type keyWalk struct {
	began        clock.Local
	wanted, read int // keys that had to be asked about, and pages
	last         int // page; 0 if that is not known
	reading      bool
}

func newKeyring(size int) (*keyring, error) {
	facts, err := lru.New2Q[uuid, keyFact](size)
	return &keyring{known: facts, pending: map[uuid]*keyLook{}, walks: map[string]*keyWalk{}}, err
}

// keyStanding is what is known of a key now: whether it counts, or that this is open;
// when it is to be asked about, and whether nothing can be served before; and when that
// changes by itself.
type keyStanding struct {
	counts, open, urgent bool
	due, flips           clock.Local
	why                  error
}

// standing is called with the lock held.
func (r *keyring) standing(id uuid, now clock.Local) keyStanding {
	f, _ := r.known.Peek(id)
	ends := f.asked.After(r.last)
	switch {
	case (!f.known || now >= ends) && now < r.refusedUntil:
		return keyStanding{counts: true, due: r.refusedUntil, flips: clock.Never}
	case !f.known || now >= ends:
		return keyStanding{open: true, urgent: true, due: f.retryAt, flips: clock.Never, why: f.err}
	}
	s := keyStanding{counts: f.granted && now < f.expires, due: f.asked.After(r.fresh), flips: ends}
	switch {
	case s.counts:
		s.flips = min(ends, f.expires)
	case f.granted && f.asked < f.expires: // it has just expired, if nobody has put that off
		s.due, s.urgent = f.expires, true
	default: // who has just renewed it is in a hurry
		s.due, s.urgent = f.asked.After(r.dead), true
	}
	if f.dropped > f.question {
		s.due, s.urgent = 0, true
	}
	if s.due = max(s.due, f.retryAt); now < r.refusedUntil {
		s.due = max(s.due, r.refusedUntil)
	}
	return s
}

// compose is a value with those benefits alone whose keys count.
func (r *keyring) compose(value *Entitlements, now clock.Local) *Entitlements {
	if r == nil || value.keys() == nil {
		return value
	}
	next, keys := *value, *value.keys()
	keys.due, keys.flips, keys.urgent, keys.open, keys.why = clock.Never, clock.Never, false, nil, nil
	counting := make([]GrantedBenefit, 0, len(keys.all))
	r.mu.Lock()
	defer r.mu.Unlock()
	for i, g := range keys.all {
		if keys.ids[i] == (uuid{}) {
			counting = append(counting, g)
			continue
		}
		s := r.standing(keys.ids[i], now)
		keys.due, keys.flips = min(keys.due, s.due), min(keys.flips, s.flips)
		switch {
		case s.open:
			keys.open = append(keys.open, g)
			keys.why = s.why
		case s.counts:
			counting = append(counting, g)
		}
		keys.urgent = keys.urgent || s.urgent
	}
	if keys.open != nil && keys.why == nil {
		keys.why = &Error{Op: opKey, Reason: ErrUnreachable, Detail: "a license key of the customer has not been looked up yet"}
	}
	next.setRights(value.rights().unlocking(counting, keys.features))
	next.note(func(own *particulars) { own.keys = &keys })
	return &next
}

// lookUp asks Polar about the keys of a value that are due, or were asked about before
// then, and waits for the answers. Whatever fails is in what is known of the keys.
func (r *keyring) lookUp(ctx context.Context, value *Entitlements, before clock.Local) {
	for range 2 { // the first answer may be to a question of before an event
		var waits []*keyLook
		r.mu.Lock()
		now := r.now()
		for i, id := range value.keys().ids {
			if id == (uuid{}) {
				continue
			}
			f, _ := r.known.Peek(id)
			if s := r.standing(id, now); s.due > now && (f.asked >= before || f.retryAt > now || r.refusedUntil > now) {
				continue
			}
			look := r.pending[id]
			if look == nil {
				look = &keyLook{id: id, benefit: value.keys().all[i].ID(), done: make(chan struct{})}
				r.pending[id] = look
				r.queue = append(r.queue, look)
			}
			waits = append(waits, look)
		}
		r.mu.Unlock()
		r.help()
		if len(waits) == 0 {
			return
		}
		for _, look := range waits {
			select {
			case <-look.done:
			case <-ctx.Done():
				return
			}
		}
	}
}

// help has enough at work for what is in the queue.
func (r *keyring) help() {
	r.mu.Lock()
	more := min(len(r.queue), keyWorkers-r.working)
	r.working += max(more, 0)
	r.mu.Unlock()
	for range more {
		r.behind(r.work)
	}
}

// work answers questions until there are none.
func (r *keyring) work() {
	for {
		switch batch, page := r.take(); {
		case len(batch) == 0:
			return
		case page:
			r.readPage(batch)
		default:
			r.askOne(batch[0])
		}
	}
}

// take takes from the queue the next question; or if a page of the list pays, all about
// keys of that benefit. What a page that is being read may answer waits for that. Without
// any, the worker is done.
func (r *keyring) take() (batch []*keyLook, page bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	next := slices.IndexFunc(r.queue, func(look *keyLook) bool { return !r.walk(look.benefit).reading })
	if next < 0 {
		r.working--
		return nil, false
	}
	benefit := r.queue[next].benefit
	w := r.walk(benefit)
	wanted := w.wanted
	for _, look := range r.queue {
		if look.benefit == benefit && !look.counted {
			wanted++
		}
	}
	page = w.pays(wanted) && isUUID(benefit)
	w.reading = page
	r.queue = slices.DeleteFunc(r.queue, func(look *keyLook) bool {
		if look.benefit != benefit || !page && batch != nil {
			return false
		}
		if !look.counted {
			look.counted = true
			w.wanted++
		}
		batch = append(batch, look)
		return true
	})
	return batch, page
}

// walk is how far the keys of a benefit have been read since the last were. mu is held.
func (r *keyring) walk(benefit string) *keyWalk {
	w := r.walks[benefit]
	if w == nil || !w.reading && r.now() >= w.began.After(r.fresh) {
		w = &keyWalk{began: r.now()}
		r.walks[benefit] = w
	}
	return w
}

func isUUID(id string) bool { _, ok := canonicalUUID4(id); return ok }

// pays reports whether the next page of a benefit's keys is worth its request: no more
// pages are read than keys had to be asked about.
func (w *keyWalk) pays(wanted int) bool {
	return wanted > fewKeys && w.read < wanted && (w.last == 0 || w.read < w.last)
}

// readPage reads the next page of keys of a benefit, and puts those questions back into
// the queue that it did not answer.
func (r *keyring) readPage(batch []*keyLook) {
	benefit := batch[0].benefit
	r.mu.Lock()
	w := r.walk(benefit)
	w.read++
	r.turns++
	page, asked, question := w.read, r.now(), r.turns
	r.mu.Unlock()
	ctx, cancel := context.WithTimeout(r.life, r.timeout)
	defer cancel()
	got, err := r.page(ctx, benefit, page)
	r.answered(err)
	defer r.help()
	r.mu.Lock()
	defer r.mu.Unlock()
	w.reading = false
	w.last = max(got.last, 1)
	e, isError := errors.AsType[*Error](err)
	switch {
	case err == nil:
	case isError && e.StatusCode == http.StatusOK: // too long, or not to be read: the next is no better
		w.last = w.read
	default:
		w.last = w.read
		for _, look := range batch {
			r.failed(look, err)
		}
	}
	for _, key := range got.keys {
		r.store(key.id, key, asked, question)
	}
	for _, look := range batch {
		if r.pending[look.id] == look {
			r.queue = append(r.queue, look)
		}
	}
}

// askOne asks about a key alone.
func (r *keyring) askOne(look *keyLook) {
	r.mu.Lock()
	r.turns++
	asked, question, answered := r.now(), r.turns, r.pending[look.id] != look
	r.mu.Unlock()
	if answered { // by a page that was read for others
		return
	}
	ctx, cancel := context.WithTimeout(r.life, r.timeout)
	defer cancel()
	got, err := r.one(ctx, look.id)
	r.answered(err)
	r.mu.Lock()
	defer r.mu.Unlock()
	if err != nil {
		r.failed(look, err)
		return
	}
	r.store(look.id, got, asked, question)
}

// answered notes whether the token may read license keys.
func (r *keyring) answered(err error) {
	lacking := lacksScope(err)
	if err != nil && !lacking {
		return
	}
	r.mu.Lock()
	r.refusedUntil = 0
	if lacking {
		r.refusedUntil = r.now().After(scopeAgain)
	}
	r.mu.Unlock()
	r.noteScope(err)
}

func lacksScope(err error) bool {
	e, ok := errors.AsType[*Error](err)
	return ok && e.Reason == ErrMisconfigured && e.StatusCode == http.StatusForbidden
}

// store keeps the answer to a question that was asked then. mu is held.
func (r *keyring) store(id uuid, key keyAnswer, asked clock.Local, question int64) {
	old, _ := r.known.Peek(id)
	f := keyFact{known: true, granted: key.granted, expires: clock.Never, asked: asked, at: key.at, question: question, dropped: old.dropped}
	if key.expires {
		f.expires = r.now().After(key.left)
	}
	if look := r.pending[id]; look != nil {
		if look.dropped {
			f.dropped = question + 1
		}
		r.settle(look)
	}
	if old.question <= question {
		r.known.Add(id, f)
	}
}

// failed keeps what was known before, and puts off the next question. mu is held.
func (r *keyring) failed(look *keyLook, err error) {
	f, _ := r.known.Peek(look.id)
	pause := outageMemory // somebody waits
	if f.known {
		pause = retryStale
	}
	if e, ok := errors.AsType[*Error](err); ok {
		pause = max(pause, e.RetryAfter)
	}
	f.retryAt, f.err = r.now().After(pause), err
	r.known.Add(look.id, f)
	r.settle(look)
}

// settle tells those who wait. mu is held.
func (r *keyring) settle(look *keyLook) {
	delete(r.pending, look.id)
	close(look.done)
}

// drop has keys asked about before they count for anything again. If nobody answers, the
// last answer counts, unless a grant was revoked at a later time; 0 is that none was.
func (r *keyring) drop(ids []uuid, revoked clock.Polar) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, id := range ids {
		r.turns++
		if f, ok := r.known.Peek(id); ok {
			f.dropped, f.retryAt = r.turns, 0
			f.known = f.known && revoked <= f.at
			r.known.Add(id, f)
		}
		if look := r.pending[id]; look != nil {
			look.dropped = true
		}
	}
}

// answeredBefore reports whether Polar said before then what is known of a key.
func (r *keyring) answeredBefore(id uuid, then clock.Polar) bool {
	if r == nil {
		return false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	f, ok := r.known.Peek(id)
	return ok && f.at < then
}

// facts are what is known of keys, now by Polar's clock.
func (r *keyring) facts(ids []uuid, now clock.Polar) (known []fact.Key) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, id := range ids {
		f, ok := r.known.Peek(id)
		if !ok || !f.known || f.dropped > f.question {
			continue
		}
		key := fact.Key{ID: id.String(), Granted: f.granted, At: f.at}
		if f.expires != clock.Never {
			key.Expires = now.Before(r.now().Sub(f.expires))
		}
		known = append(known, key)
	}
	return known
}

// learn takes in what another replica knows of keys, where that is younger.
func (r *keyring) learn(keys []fact.Key, now clock.Polar) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, key := range keys {
		id, ok := parseUUID(key.ID)
		f, _ := r.known.Peek(id)
		if !ok || f.known && f.at >= key.At {
			continue
		}
		f.known, f.granted, f.at, f.expires = true, key.Granted, key.At, clock.Never
		f.asked = r.now().After(-max(0, now.Sub(key.At)))
		if key.Expires != 0 {
			f.expires = r.now().After(key.Expires.Sub(now))
		}
		r.known.Add(id, f)
	}
}

// licenseKey asks Polar about a license key by its id. One that it does not know is the
// zero answer, and no error.
func (c *Client) licenseKey(ctx context.Context, id uuid, organizationID string) (keyAnswer, error) {
	var key keyAnswer
	err := c.exchange(ctx, exchange{op: opKey, path: "/v1/license-keys/" + id.String(), repeatable: true}, func(body []byte, at time.Time) (err error) {
		if key, err = readKey(body, organizationID, at); err == nil && key.id != id {
			err = errForeignAnswer
		}
		return err
	})
	if isNotFound(err) {
		return keyAnswer{}, nil
	}
	return key, err
}

// readKey reads of a license key whether it counts.
func readKey(body []byte, organizationID string, at time.Time) (keyAnswer, error) {
	var l LicenseKey
	if err := json.Unmarshal(body, &l); err != nil {
		return keyAnswer{}, err
	}
	id, ok := parseUUID(l.ID)
	if !ok || organizationID != "" && !sameUUID(l.OrganizationID, organizationID) {
		return keyAnswer{}, errForeignAnswer
	}
	key := keyAnswer{id: id, granted: l.Status == KeyGranted, expires: !l.ExpiresAt.IsZero(), at: clock.PolarTime(at)}
	if key.expires {
		key.left = l.ExpiresAt.Sub(at)
	}
	return key, nil
}

// keysOf reads a page of a benefit's license keys, without those that were revoked, of
// which there are more and more. Polar ignores a filter by customer, and has none by id.
func (c *Client) keysOf(ctx context.Context, benefit, organizationID string, page int) (keyPage, error) {
	var got keyPage
	path := fmt.Sprintf("/v1/license-keys/?benefit_id=%s&status=granted&status=disabled&limit=%d&page=%d", benefit, keysOnPage, page)
	err := c.exchange(ctx, exchange{op: opList, path: path, repeatable: true}, func(body []byte, at time.Time) error {
		f, err := object(body)
		if err != nil {
			return err
		}
		var items []json.RawMessage
		if err := json.Unmarshal(f["items"], &items); err != nil || items == nil {
			return errors.New("a list of license keys without its items")
		}
		got = keyPage{}
		for _, item := range items {
			if key, err := readKey(item, organizationID, at); err == nil { // others are asked about alone
				got.keys = append(got.keys, key)
			}
		}
		var pagination fields
		optional(f, "pagination", &pagination)
		optional(pagination, "max_page", &got.last)
		return nil
	})
	return got, err
}

// bind connects the keyring with Polar and with the cache.
func (c *Customers) bindKeys() error {
	keys, err := newKeyring(c.config.CacheSize)
	if err != nil {
		return err
	}
	cache := c.cache
	keys.fresh, keys.dead = cache.freshFor, min(cache.freshFor, cache.unknownFor)
	keys.last = max(cache.freshFor, cache.staleFor, cache.graceFor)
	keys.timeout, keys.now, keys.life, keys.behind = cache.timeout, cache.now, cache.life, cache.goBehind
	keys.noteScope = c.noteKeyScope
	count := func(err error) {
		cache.count(err)
		if err != nil && !lacksScope(err) {
			c.seldom.Warn(c.config.Logger, "license key", "polargate: Polar could not say whether a customer's license key counts", "error", err)
		}
	}
	keys.one = func(ctx context.Context, id uuid) (keyAnswer, error) {
		key, err := c.client.licenseKey(ctx, id, c.organizationID())
		count(err)
		return key, err
	}
	keys.page = func(ctx context.Context, benefit string, page int) (keyPage, error) {
		got, err := c.client.keysOf(ctx, benefit, c.organizationID(), page)
		count(err)
		return got, err
	}
	cache.keys = keys
	return nil
}

// noteKeyScope keeps, for Stats, that the token may not read license keys, or with nil
// that it may, and says it in the log when it begins.
func (c *Customers) noteKeyScope(err error) {
	m := &c.misconfigured
	m.Lock()
	defer m.Unlock()
	if err != nil && m.scope == nil {
		c.config.Logger.Error("polargate: the access token may not read license keys, so benefits count even if their key expired or was disabled: give the token the scope license_keys:read", "error", err)
	}
	m.scope = err
}

// Properties are what Polar keeps with the grant, which depends on the type: for
// "license_keys" the license_key_id and a masked display_key. Others may be personal, such
// as an account's id or an invited e-mail address. It is a new map at each call; numbers
// are json.Number. Source: granted_benefits[].properties of Polar's customer state.
func (b GrantedBenefit) Properties() map[string]any { return readMap(b.properties) }

// LicenseKeyID is the id of the license key that came with a benefit of the type
// "license_keys"; "" for others. It is no secret: the key itself is not told here.
func (b GrantedBenefit) LicenseKeyID() string {
	if !strings.Contains(b.properties, "license_key_id") {
		return ""
	}
	var id string
	f, _ := object([]byte(b.properties))
	f.text("license_key_id", &id)
	return id
}

// Format prints a benefit by its id and type, whatever the verb: properties may be
// personal.
func (b GrantedBenefit) Format(f fmt.State, _ rune) {
	fmt.Fprintf(f, "polargate.GrantedBenefit{ID:%s Type:%s}", b.ID(), b.Type())
}

// LogValue logs what Format prints.
func (b GrantedBenefit) LogValue() slog.Value { return slog.StringValue(fmt.Sprint(b)) }

// readMap reads an object, as a map of its own.
func readMap(text string) map[string]any {
	m := map[string]any{}
	d := json.NewDecoder(strings.NewReader(text))
	d.UseNumber()
	if d.Decode(&m) != nil || m == nil {
		return map[string]any{}
	}
	return m
}
