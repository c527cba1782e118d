// Package keyring keeps what Polar said of license keys that benefits come with, and asks
// about those that are due: one by one, or by pages of a list where many are wanted.
//
// It promises that a key is asked about once for all who wait for it, and that an answer to a
// question from before an event does not count as one from after it. It sends nothing itself,
// and doesn't know whose keys they are.
package keyring

import (
	"context"
	"slices"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/polargate/polargate/internal/clock"
	"github.com/polargate/polargate/internal/wire"
)

// ID is a license key's.
type ID = wire.UUID

const (
	// workers is how many questions are under way at once.
	workers = 4
	// Few is how many keys of a benefit are asked about one by one. Whoever needs more
	// needs more still, as after a start, and lists are read: 100 keys a request.
	Few = 4
	// lackingAgain is how long it is believed that the token may not read keys.
	lackingAgain = time.Minute
)

// state is what is known of a license key. Times are those of the cache.
type state struct {
	known   bool // else a question failed, and nothing is known
	granted bool
	expires clock.Local // never, if it does not
	asked   clock.Local
	at      clock.Polar // of the answer
	retryAt clock.Local // after a failure
	err     error       // of that
	// question and dropped are the turns at which it was asked about last, and at which
	// an event told of it; see Ring.turns.
	question, dropped int64
}

// Config is how a Ring asks, and for how long it believes the answers.
type Config struct {
	// Fresh is how long an answer is believed, Dead a refusal, and Last how long an answer
	// counts at most while nobody can be asked.
	Fresh, Dead, Last time.Duration
	// Timeout bounds a question.
	Timeout time.Duration
	// RetryStale is how long a failure is believed of a key of which something is known, and
	// RetryOpen of one of which nothing is.
	RetryStale, RetryOpen time.Duration
	Now                   func() clock.Local
	// Life ends all questions, and Behind does something that nobody waits for.
	Life   context.Context
	Behind func(func())
	// One asks about a key alone, and Page for a page of the keys of a benefit.
	One  func(context.Context, ID) (Answer, error)
	Page func(ctx context.Context, benefit string, page int) (Page, error)
	// Judge says what an error means, nil too.
	Judge func(error) Failure
	// Answered is called with each answer: nil, or that the token may not read keys.
	Answered func(error)
}

// Failure is what an error means.
type Failure struct {
	// Lacking: the token may not read keys. Unreadable: the answer came, but is of no use, and
	// neither is the next.
	Lacking, Unreadable bool
	// RetryAfter is when to ask again, if somebody said so.
	RetryAfter time.Duration
}

// Ring keeps what is known of license keys. All methods are safe for use by many goroutines.
type Ring struct {
	config Config

	mu           sync.Mutex
	known        *lru.TwoQueueCache[ID, state]
	pending      map[ID]*look
	queue        []*look
	working      int
	turns        int64            // counts questions and events, to tell which was first
	walks        map[string]*walk // by benefit
	refusedUntil clock.Local      // the token may not read keys
}

// Answer is Polar's answer about a key; the zero value is of one that it does not know.
type Answer struct {
	ID      ID
	Granted bool
	Left    time.Duration // until it expires, from the answer on
	Expires bool
	At      clock.Polar
}

// Page is a page of the keys of a benefit.
type Page struct {
	Keys []Answer
	Last int // the number of the last page
}

// look is a question about a key that somebody waits for.
type look struct {
	id      ID
	benefit string
	done    chan struct{}
	dropped bool // an event told of the key since it began
	counted bool // in its walk
}

// walk is how far the list of a benefit's keys has been read.
type walk struct {
	began        clock.Local
	wanted, read int // keys that had to be asked about, and pages
	last         int // page; 0 if that is not known
	reading      bool
}

// New makes a Ring for so many keys.
func New(size int, config Config) (*Ring, error) {
	known, err := lru.New2Q[ID, state](size)
	return &Ring{config: config, known: known, pending: map[ID]*look{}, walks: map[string]*walk{}}, err
}

// Standing is what is known of a key now.
type Standing struct {
	// Counts: benefits that come with it count. Open: that is not known, for the reason Why
	// if somebody was asked.
	Counts, Open bool
	Why          error
	// Due is when it is to be asked about, and Flips when what counts changes by itself.
	// Urgent: nothing can be served from Due on before it was asked about.
	Due, Flips clock.Local
	Urgent     bool
}

// standing is called with the lock held.
func (r *Ring) standing(id ID, now clock.Local) Standing {
	f, _ := r.known.Peek(id)
	ends := f.asked.After(r.config.Last)
	switch {
	case (!f.known || now >= ends) && now < r.refusedUntil:
		return Standing{Counts: true, Due: r.refusedUntil, Flips: clock.Never}
	case !f.known || now >= ends:
		return Standing{Open: true, Urgent: true, Due: f.retryAt, Flips: clock.Never, Why: f.err}
	}
	s := Standing{Counts: f.granted && now < f.expires, Due: f.asked.After(r.config.Fresh), Flips: ends}
	switch {
	case s.Counts:
		s.Flips = min(ends, f.expires)
	case f.granted && f.asked < f.expires: // it has just expired, if nobody has put that off
		s.Due, s.Urgent = f.expires, true
	default: // who has just renewed it is in a hurry
		s.Due, s.Urgent = f.asked.After(r.config.Dead), true
	}
	if f.dropped > f.question {
		s.Due, s.Urgent = 0, true
	}
	if s.Due = max(s.Due, f.retryAt); now < r.refusedUntil {
		s.Due = max(s.Due, r.refusedUntil)
	}
	return s
}

// Standings are what is known of keys now, in their order; of the zero ID there is nothing.
func (r *Ring) Standings(ids []ID, now clock.Local) []Standing {
	all := make([]Standing, len(ids))
	r.mu.Lock()
	defer r.mu.Unlock()
	for i, id := range ids {
		if id != (ID{}) {
			all[i] = r.standing(id, now)
		}
	}
	return all
}

// LookUp asks Polar about the keys that are due, or were asked about before then, and waits
// for the answers. benefits are those that the keys come with, "" for one that has no list.
// Whatever fails is in what is
// known of the keys.
func (r *Ring) LookUp(ctx context.Context, ids []ID, benefits []string, before clock.Local) {
	for range 2 { // the first answer may be to a question of before an event
		var waits []*look
		r.mu.Lock()
		now := r.config.Now()
		for i, id := range ids {
			if id == (ID{}) {
				continue
			}
			f, _ := r.known.Peek(id)
			if s := r.standing(id, now); s.Due > now && (f.asked >= before || f.retryAt > now || r.refusedUntil > now) {
				continue
			}
			l := r.pending[id]
			if l == nil {
				l = &look{id: id, benefit: benefits[i], done: make(chan struct{})}
				r.pending[id] = l
				r.queue = append(r.queue, l)
			}
			waits = append(waits, l)
		}
		r.mu.Unlock()
		r.help()
		if len(waits) == 0 {
			return
		}
		for _, l := range waits {
			select {
			case <-l.done:
			case <-ctx.Done():
				return
			}
		}
	}
}

// help has enough at work for what is in the queue.
func (r *Ring) help() {
	r.mu.Lock()
	more := min(len(r.queue), workers-r.working)
	r.working += max(more, 0)
	r.mu.Unlock()
	for range more {
		r.config.Behind(r.work)
	}
}

// work answers questions until there are none.
func (r *Ring) work() {
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
func (r *Ring) take() (batch []*look, page bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	next := slices.IndexFunc(r.queue, func(look *look) bool { return !r.walk(look.benefit).reading })
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
	page = w.pays(wanted) && benefit != ""
	w.reading = page
	r.queue = slices.DeleteFunc(r.queue, func(look *look) bool {
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
func (r *Ring) walk(benefit string) *walk {
	w := r.walks[benefit]
	if w == nil || !w.reading && r.config.Now() >= w.began.After(r.config.Fresh) {
		w = &walk{began: r.config.Now()}
		r.walks[benefit] = w
	}
	return w
}

// pays reports whether the next page of a benefit's keys is worth its request: no more
// pages are read than keys had to be asked about.
func (w *walk) pays(wanted int) bool {
	return wanted > Few && w.read < wanted && (w.last == 0 || w.read < w.last)
}

// readPage reads the next page of keys of a benefit, and puts those questions back into
// the queue that it did not answer.
func (r *Ring) readPage(batch []*look) {
	benefit := batch[0].benefit
	r.mu.Lock()
	w := r.walk(benefit)
	w.read++
	r.turns++
	page, asked, question := w.read, r.config.Now(), r.turns
	r.mu.Unlock()
	ctx, cancel := context.WithTimeout(r.config.Life, r.config.Timeout)
	defer cancel()
	got, err := r.config.Page(ctx, benefit, page)
	r.answered(err)
	defer r.help()
	r.mu.Lock()
	defer r.mu.Unlock()
	w.reading = false
	w.last = max(got.Last, 1)
	switch {
	case err == nil:
	case r.config.Judge(err).Unreadable:
		w.last = w.read
	default:
		w.last = w.read
		for _, look := range batch {
			r.failed(look, err)
		}
	}
	for _, key := range got.Keys {
		r.store(key.ID, key, asked, question)
	}
	for _, look := range batch {
		if r.pending[look.id] == look {
			r.queue = append(r.queue, look)
		}
	}
}

// askOne asks about a key alone.
func (r *Ring) askOne(look *look) {
	r.mu.Lock()
	r.turns++
	asked, question, answered := r.config.Now(), r.turns, r.pending[look.id] != look
	r.mu.Unlock()
	if answered { // by a page that was read for others
		return
	}
	ctx, cancel := context.WithTimeout(r.config.Life, r.config.Timeout)
	defer cancel()
	got, err := r.config.One(ctx, look.id)
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
func (r *Ring) answered(err error) {
	lacking := r.config.Judge(err).Lacking
	if err != nil && !lacking {
		return
	}
	r.mu.Lock()
	r.refusedUntil = 0
	if lacking {
		r.refusedUntil = r.config.Now().After(lackingAgain)
	}
	r.mu.Unlock()
	r.config.Answered(err)
}

// store keeps the answer to a question that was asked then. mu is held.
func (r *Ring) store(id ID, key Answer, asked clock.Local, question int64) {
	old, _ := r.known.Peek(id)
	f := state{known: true, granted: key.Granted, expires: clock.Never, asked: asked, at: key.At, question: question, dropped: old.dropped}
	if key.Expires {
		f.expires = r.config.Now().After(key.Left)
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
func (r *Ring) failed(look *look, err error) {
	f, _ := r.known.Peek(look.id)
	pause := r.config.RetryOpen // somebody waits
	if f.known {
		pause = r.config.RetryStale
	}
	f.retryAt, f.err = r.config.Now().After(max(pause, r.config.Judge(err).RetryAfter)), err
	r.known.Add(look.id, f)
	r.settle(look)
}

// settle tells those who wait. mu is held.
func (r *Ring) settle(look *look) {
	delete(r.pending, look.id)
	close(look.done)
}

// Drop has keys asked about before they count for anything again. If nobody answers, the
// last answer counts, unless a grant was revoked at a later time; 0 is that none was.
func (r *Ring) Drop(ids []ID, revoked clock.Polar) {
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

// AnsweredBefore reports whether Polar said before then what is known of a key.
func (r *Ring) AnsweredBefore(id ID, then clock.Polar) bool {
	if r == nil {
		return false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	f, ok := r.known.Peek(id)
	return ok && f.at < then
}

// Fact is what is known of a key, as processes tell each other. Times are Polar's.
type Fact struct {
	ID      ID
	Granted bool
	Expires clock.Polar // 0 if it does not
	At      clock.Polar
}

// Facts are what is known of keys, now by Polar's clock.
func (r *Ring) Facts(ids []ID, now clock.Polar) (known []Fact) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, id := range ids {
		f, ok := r.known.Peek(id)
		if !ok || !f.known || f.dropped > f.question {
			continue
		}
		key := Fact{ID: id, Granted: f.granted, At: f.at}
		if f.expires != clock.Never {
			key.Expires = now.Before(r.config.Now().Sub(f.expires))
		}
		known = append(known, key)
	}
	return known
}

// Learn takes in what another replica knows of keys, where that is younger.
func (r *Ring) Learn(keys []Fact, now clock.Polar) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, key := range keys {
		f, _ := r.known.Peek(key.ID)
		if f.known && f.at >= key.At {
			continue
		}
		f.known, f.granted, f.at, f.expires = true, key.Granted, key.At, clock.Never
		f.asked = r.config.Now().After(-max(0, now.Sub(key.At)))
		if key.Expires != 0 {
			f.expires = r.config.Now().After(key.Expires.Sub(now))
		}
		r.known.Add(key.ID, f)
	}
}

// ReadListed reads a page of a benefit's keys, whoever's they are.
func (r *Ring) ReadListed(ctx context.Context, benefit string, number int) (last int, err error) {
	r.mu.Lock()
	r.turns++
	asked, question := r.config.Now(), r.turns
	r.mu.Unlock()
	page, err := r.config.Page(ctx, benefit, number)
	r.answered(err)
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, key := range page.Keys {
		r.store(key.ID, key, asked, question)
	}
	return page.Last, err
}
