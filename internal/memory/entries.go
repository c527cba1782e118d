package memory

import (
	"hash/maphash"
	"strings"
	"sync/atomic"
	"unicode/utf8"

	"github.com/polargate/polargate/internal/clock"
	"github.com/polargate/polargate/internal/ledger"
	"github.com/polargate/polargate/internal/lookup"
	"github.com/polargate/polargate/internal/rights"
	"github.com/polargate/polargate/internal/wire"
)

// Key names a customer or a license key. The kind is a field of its own, so
// that no text can be taken for another kind's.
//
// The text of one that a caller names is the caller's memory, which a server such as
// fasthttp uses again for the next request: whatever outlives the call gets a copy.
type Key struct {
	Kind Kind
	ID   string
}

type Kind uint8

const (
	ByPolarID Kind = iota
	ByExternalID
	ByLicenseKey
	// ByMember names a member of a customer. Nothing is cached by it: a member is put together from a customer and a list.
	ByMember
	Kinds
)

// entry is what is cached of one customer or key. A customer is the one in its answer, which
// never becomes another's. What it serves is one immutable answer,
// which is read without a lock and swapped under the lock of the cache; the other fields
// that are not atomic are guarded by that lock.
type entry struct {
	answer     atomic.Pointer[answer]
	refreshing atomic.Bool
	hopeUntil  clock.Seconds // until then an answer that grants nothing new is doubted too
	doubts     uint8         // how many answers in a row refused the same; see settlePause
	checked    uint16        // which of the gaps it was checked after
	// event is the time of the last event that was applied, and answered that of the last
	// answer. told is when the event came, and asked when the question was asked that was
	// answered last.
	event, answered clock.Polar
	told, asked     clock.Local
}

// answer is what an entry serves, and for how long. It is immutable. What each look-up
// reads stands in its first 64 bytes, and it takes 128, so that the processor fetches one line
// of memory for it.
type answer struct {
	// freshUntil: served without asking. staleUntil: served, and asked about in the
	// background. graceUntil: served while Polar cannot be asked.
	freshUntil clock.Local
	// rare is nil in most.
	rare                   *rarities
	value                  rights.State
	staleUntil, graceUntil clock.Local
	// doubtAt: a refusal by this answer has Polar asked again from then on. memoryUntil:
	// served without asking while others are turned away.
	doubtAt, memoryUntil clock.Local
}

// rarities are what few answers have.
type rarities struct {
	// limits are set if rights end with license keys.
	limits *limits
	// failure is that of the last question, if that had no answer.
	failure *failure
	// book has what was spent of the customer's meters; nil if nothing was.
	book *ledger.Book
}

var noRarities rarities

// more is what few answers have; never nil.
func (a *answer) more() *rarities {
	if a.rare == nil {
		return &noRarities
	}
	return a.rare
}

// note changes what few answers have, before anybody else has seen this one.
func (a *answer) note(change func(*rarities)) {
	next := *a.more()
	change(&next)
	a.rare = &next
}

// limits are how long an answer would count but for the license keys in it; when the license
// key expires that it is about; and when the first of the subscriptions in it ends.
type limits struct{ freshUntil, staleUntil, expires, end clock.Local }

// failure is a question without an answer, and when the next is due.
type failure struct {
	outage
	retryAt clock.Local
}

// value is what an entry serves; nil if it is new.
func (e *entry) value() *rights.State {
	if a := e.answer.Load(); a != nil {
		return &a.value
	}
	return nil
}

// change swaps the answer of an entry for a copy with a change. mu is held.
func (c *Cache) change(e *entry, change func(*answer)) *rights.State {
	next := *e.answer.Load()
	change(&next)
	c.known.swap(e, &next)
	return &next.value
}

// before reports whether an event from that time is older than what is cached. An
// answer may have been read a while before it was dated.
func (e *entry) before(when clock.Polar) bool {
	return when < e.event || when < e.answered.Before(ReadTime)
}

// factAt is when what is cached was so, in an order that all replicas agree on: that of the
// answer, or of the event that came after it. mu is held.
func (e *entry) factAt() clock.Polar {
	if e.told > e.asked {
		return max(e.answered, EventAt(e.event, e.answered))
	}
	return e.answered
}

// EventAt is the time of an event as replicas tell each other: after that of an answer which
// it replaces, and in the order of the events.
func EventAt(event, answered clock.Polar) clock.Polar {
	if since := answered.Before(ReadTime); event >= since {
		const squeeze = 1_000_000 // the five seconds before the answer into five microseconds
		return max(event, answered+1+(event-since)/squeeze)
	}
	return event
}

// outdates reports whether what is cached is younger than an answer to a question that was
// asked then: an event came since, or the answer to a later question.
func (e *entry) outdates(value *rights.State, asked clock.Local) bool {
	return e.told > asked && e.event > value.At().Before(ReadTime) || e.asked > asked && e.answered >= value.At()
}

// formerID is the external id that a customer has until a value is set; "" if it does not
// change. mu is held.
func (e *entry) formerID(value *rights.State) string {
	if last := e.value(); last != nil && last.External() != value.External() {
		return last.External()
	}
	return ""
}

// IDsOf are those by which a customer may be asked about.
func IDsOf(s *rights.State) [2]Key {
	return [2]Key{{ByPolarID, s.Customer().String()}, {ByExternalID, s.External()}}
}

// Problem is why Polar can't be asked about an id, and what to call the id; "" if it can.
// Polar can't be reached with an external id that has a slash, however it is escaped; an id
// of dots alone is lost on the way.
func (k Key) Problem() (what, why string) {
	id := k.ID
	if k.Kind == ByPolarID {
		if _, ok := wire.ParseUUID(id); !ok {
			return "customer id", "is not a UUID of version 4: pass it as Polar gave it, or use ExternalID for an id of your own"
		}
		return "", ""
	}
	switch {
	case id == "":
		return "external id", "is empty"
	case len(id) > maxExternalID:
		return "external id", "is longer than 2,000 bytes"
	case id == "." || id == ".." || strings.ContainsAny(id, "/\x00") || !utf8.ValidString(id):
		return "external id", "has a slash or a NUL, is only dots, or isn't text, and Polar can't be asked about it: give the customer another id, or use CustomerID"
	}
	return "", ""
}

// maxExternalID is how long Polar takes an external id.
const maxExternalID = 2000

// askable reports whether Polar can be asked about a customer by this id.
func (k Key) askable() bool {
	_, why := k.Problem()
	return why == ""
}

// Askable are those ids by which customers can be asked about.
func Askable(s *rights.State) (keys []Key) {
	for _, key := range IDsOf(s) {
		if key.askable() {
			keys = append(keys, key)
		}
	}
	return keys
}

// polarKey is the key of a customer by Polar's id.
func (e *entry) polarKey() Key { return Key{ByPolarID, e.value().Customer().String()} }

// knownEntries finds the customers and license keys that Polar knows. A customer has one
// entry, which is found by Polar's id and by the program's own. License keys are kept
// apart, so that a crowd of keys evicts no customer. find takes no lock; everything else
// is done with the lock of the cache held.
type knownEntries struct {
	customers *lookup.Cache[entry]
	// aliases finds what customers are served by the external id in it, without a look at
	// their entries, which lie elsewhere in memory. Not every answer is in it, for an id is
	// one customer's at a time.
	aliases  *lookup.Table[answer]
	licenses *lookup.Cache[licenseEntry]
}

// licenseEntry is the entry of a license key.
type licenseEntry struct {
	entry
	key string
}

var indexSeed = maphash.MakeSeed()

func hashOf(text string) uint64 { return maphash.String(indexSeed, text) }

func hashOfID(id wire.UUID) uint64 { return maphash.Bytes(indexSeed, id[:]) }

func newKnownEntries(size int) (k knownEntries, err error) {
	if k.customers, err = lookup.NewCache(size, func(e *entry) uint64 { return hashOfID(e.value().Customer()) }); err != nil {
		return k, err
	}
	k.aliases = lookup.NewTable(func(a *answer) uint64 { return hashOf(a.value.External()) })
	k.licenses, err = lookup.NewCache(size, func(e *licenseEntry) uint64 { return hashOf(e.key) })
	return k, err
}

// find is the entry under a key and what it serves; nil if there is none.
func (k *knownEntries) find(key Key) (*entry, *answer) {
	var e *entry
	switch key.Kind {
	case ByExternalID:
		e = k.byExternalID(key.ID)
	case ByPolarID:
		if id, ok := wire.ParseUUID(key.ID); ok {
			e = k.byID(id)
		}
	case ByLicenseKey:
		if license := k.license(key.ID); license != nil {
			e = &license.entry
		}
	}
	if e == nil {
		return nil, nil
	}
	return e, e.answer.Load()
}

// use is what is served under a key; nil if there is nothing. Now and then the 2Q cache is
// told that it is in use.
func (k *knownEntries) use(key Key, now clock.Local) *answer {
	period := lookup.Period(1 + now/clock.Local(touchEvery))
	switch key.Kind {
	case ByExternalID:
		return k.aliases.Use(hashOf(key.ID), period,
			func(a *answer) bool { return a.value.External() == key.ID },
			func(a *answer) bool {
				e := k.byID(a.value.Customer())
				return e != nil && k.customers.Touch(e)
			})
	case ByPolarID:
		if id, ok := wire.ParseUUID(key.ID); ok {
			if e := k.customers.Use(hashOfID(id), period, func(e *entry) bool { return e.value().Customer() == id }, k.customers.Touch); e != nil {
				return e.answer.Load()
			}
		}
	case ByLicenseKey:
		if e := k.licenses.Use(hashOf(key.ID), period, func(e *licenseEntry) bool { return e.key == key.ID }, k.licenses.Touch); e != nil {
			return e.answer.Load()
		}
	}
	return nil
}

// swap has an entry serve another answer. If it is found by an external id, the new answer
// must have the same.
func (k *knownEntries) swap(e *entry, next *answer) {
	last := e.answer.Swap(next)
	if last != nil && last.value.External() != "" {
		k.aliases.Replace(hashOf(last.value.External()), last, next)
	}
}

func (k *knownEntries) byID(id wire.UUID) *entry {
	return k.customers.Find(hashOfID(id), func(e *entry) bool { return e.value().Customer() == id })
}

func (k *knownEntries) byExternalID(id string) *entry {
	a := k.aliases.Find(hashOf(id), func(a *answer) bool { return a.value.External() == id })
	if a == nil {
		return nil
	}
	return k.byID(a.value.Customer())
}

func (k *knownEntries) license(key string) *licenseEntry {
	return k.licenses.Find(hashOf(key), func(e *licenseEntry) bool { return e.key == key })
}

// addCustomer makes the entry of a customer who has none. It is found from now on by
// Polar's id, so that it must have an answer.
func (k *knownEntries) addCustomer(e *entry) {
	k.customers.Add(e, func(e *entry) { k.dropAlias(e) })
}

func (k *knownEntries) addLicense(e *licenseEntry) {
	k.licenses.Add(e, func(*licenseEntry) {})
}

// dropAlias has an entry found by Polar's id alone.
func (k *knownEntries) dropAlias(e *entry) {
	if a := e.answer.Load(); a.value.External() != "" {
		k.aliases.Remove(hashOf(a.value.External()), a)
	}
}

// addAlias has an entry found by the external id in its answer, and no other by that.
func (k *knownEntries) addAlias(e *entry) {
	a := e.answer.Load()
	switch other := k.byExternalID(a.value.External()); other {
	case e:
		return
	case nil:
	default:
		k.dropAlias(other)
	}
	k.aliases.Insert(a)
}

func (k *knownEntries) len() int { return k.customers.Len() + k.licenses.Len() }

// Own is the key in memory that nobody else writes to.
func (k Key) Own() Key { return Key{k.Kind, strings.Clone(k.ID)} }
