// Package localstore is a store for replicas on one computer, in a file or in memory. It keeps
// the contract of package link; where the bytes lie and how a crash is survived is the matter
// of package sharedlog.
package localstore

import (
	"bytes"
	"context"
	"crypto/rand"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/polargate/polargate/internal/hints"
	"github.com/polargate/polargate/internal/link"
	"github.com/polargate/polargate/internal/sharedlog"
)

// Open is a store in the file of that path. If refuse is set, every call fails with it.
func Open(path string, refuse error) *Store {
	s := &Store{log: sharedlog.Open(path), refuse: refuse}
	return s.connected()
}

// InMemory is a store that ends with the process.
func InMemory() *Store {
	s := &Store{log: sharedlog.InMemory()}
	return s.connected()
}

// Store is a link.Store on one computer.
type Store struct {
	log *sharedlog.Log
	// refuse fails every call, if it is set.
	refuse error

	mu        sync.Mutex
	listeners map[*hints.Queue]struct{}
}

// Kinds of items in the log.
const (
	kindRecord = 'r' // Head is the time of the fact
	kindClaim  = 'c' // Head is the holder
	kindUnits  = 'u' // of a budget in one part of its window; Head is which part and how many
	kindPause  = 'p'
	kindBeat   = 'b'
	kindValue  = 'v' // Head is the version
	kindHint   = 'h'
)

const (
	// windowParts is into how many parts a budget's window is divided.
	windowParts = 60
	// clockBack is how far this computer's clock may be set back without a thing that
	// was begun since being taken for one of a clock that was wrong.
	clockBack = time.Second
	// hintPoll is how often other processes' changes are looked for.
	hintPoll = 20 * time.Millisecond
)

func (s *Store) connected() *Store {
	s.listeners = map[*hints.Queue]struct{}{}
	s.log.Changed = func(kind byte, key string) {
		if kind == kindRecord || kind == kindHint {
			s.tell(func(q *hints.Queue) { q.Add(key) })
		}
	}
	s.log.Missed = func() { s.tell((*hints.Queue).Gap) }
	return s
}

func (s *Store) tell(what func(*hints.Queue)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for q := range s.listeners {
		what(q)
	}
}

// Unreadable is how many bytes of the file could not be read and were skipped.
func (s *Store) Unreadable() int64 { return s.log.Unreadable() }

func (s *Store) view(ctx context.Context, look func(*sharedlog.Tx)) error {
	if s.refuse != nil {
		return s.refuse
	}
	return s.log.View(ctx, func(tx *sharedlog.Tx) error { look(tx); return nil })
}

func (s *Store) update(ctx context.Context, change func(*sharedlog.Tx)) error {
	if s.refuse != nil {
		return s.refuse
	}
	return s.log.Update(ctx, func(tx *sharedlog.Tx) error { change(tx); return nil })
}

func readRecord(tx *sharedlog.Tx, key string) (link.Record, bool) {
	item, ok := tx.Read(kindRecord, key)
	at := link.Time(item.Head)
	if !ok || !at.Valid() {
		return link.Record{}, false
	}
	return link.Record{Key: key, At: at, Data: item.Data}, true
}

// compareRecords orders the facts about one customer. It is negative if a is older.
func compareRecords(a, b link.Record) int {
	if order := strings.Compare(string(a.At), string(b.At)); order != 0 {
		return order
	}
	return bytes.Compare(a.Data, b.Data)
}

// lookup is what can be answered without taking anything.
func answerFrom(q link.Lookup, tx *sharedlog.Tx) (a link.Answer) {
	for _, key := range append([]string{q.Key}, q.Also...) {
		if record, ok := readRecord(tx, key); ok && (a.Record.Key == "" || compareRecords(a.Record, record) < 0) {
			a.Record = record
		}
	}
	a.Found = a.Record.Key != "" && a.Record.At >= q.NotBefore
	return a
}

func (s *Store) Lookup(ctx context.Context, q link.Lookup) (a link.Answer, err error) {
	// Most find what they look for, and keep nobody from writing.
	err = s.view(ctx, func(tx *sharedlog.Tx) { a = answerFrom(q, tx) })
	if err != nil || a.Found {
		return a, err
	}
	err = s.update(ctx, func(tx *sharedlog.Tx) {
		if a = answerFrom(q, tx); a.Found {
			return
		}
		if claim, ok := running(tx, kindClaim, q.Key); ok && claim.Head != q.Holder {
			a.Busy, a.Wait = true, time.Duration(claim.Until-tx.Now)
			return
		}
		if q.Budget.Limit > 0 {
			if a.Turn = take(tx, q.Budget); !a.Turn.Taken {
				return
			}
		}
		tx.Put(kindClaim, q.Key, lasting(tx, q.Holder, q.ClaimFor))
		a.Claimed = true
	})
	return a, err
}

func lasting(tx *sharedlog.Tx, head string, d time.Duration) sharedlog.Item {
	return sharedlog.Item{At: tx.Now, Until: tx.Now + int64(d), Head: head}
}

// running is an item that ends by itself, if it has not. One that begins in the future
// is of a clock that was set back since, and would not end for long.
func running(tx *sharedlog.Tx, kind byte, key string) (sharedlog.Item, bool) {
	item, ok := tx.Peek(kind, key)
	return item, ok && item.At <= tx.Now+int64(clockBack)
}

func (s *Store) Get(ctx context.Context, keys ...string) (records []link.Record, err error) {
	err = s.view(ctx, func(tx *sharedlog.Tx) {
		for _, key := range keys {
			if record, ok := readRecord(tx, key); ok {
				records = append(records, record)
			}
		}
	})
	return records, err
}

func (s *Store) Put(ctx context.Context, holder string, records ...link.Record) (younger []link.Record, err error) {
	err = s.update(ctx, func(tx *sharedlog.Tx) {
		for _, record := range records {
			stored, ok := readRecord(tx, record.Key)
			order := 1
			if ok {
				order = compareRecords(record, stored)
			}
			switch {
			case order > 0, order == 0 && endsLater(tx, record):
				item := lasting(tx, string(record.At), record.TTL)
				item.Data = record.Data
				tx.Put(kindRecord, record.Key, item)
			case order < 0:
				younger = append(younger, stored)
			}
			endClaim(tx, holder, record.Key)
		}
	})
	return younger, err
}

// endsLater reports whether it is worth storing a record again for the sake of its TTL:
// not for less than a sixteenth of it, so that what is put again and again costs nothing.
func endsLater(tx *sharedlog.Tx, record link.Record) bool {
	item, _ := tx.Peek(kindRecord, record.Key)
	return time.Duration(tx.Now-item.Until)+record.TTL > record.TTL/16
}

func endClaim(tx *sharedlog.Tx, holder, key string) {
	if claim, ok := tx.Peek(kindClaim, key); ok && claim.Head == holder {
		tx.Remove(kindClaim, key)
	}
}

func (s *Store) Discard(ctx context.Context, records ...link.Record) error {
	return s.update(ctx, func(tx *sharedlog.Tx) {
		for _, record := range records {
			if stored, ok := readRecord(tx, record.Key); ok && compareRecords(stored, record) == 0 {
				tx.Remove(kindRecord, record.Key)
			}
		}
	})
}

func (s *Store) Release(ctx context.Context, holder string, keys ...string) error {
	return s.update(ctx, func(tx *sharedlog.Tx) {
		for _, key := range keys {
			endClaim(tx, holder, key)
		}
	})
}

func (s *Store) Take(ctx context.Context, b link.Budget) (turn link.Turn, err error) {
	err = s.update(ctx, func(tx *sharedlog.Tx) { turn = take(tx, b) })
	return turn, err
}

// take counts units by the part of the window in which they were taken, in a ring of
// one part more than a window has: any window lies within that many.
func take(tx *sharedlog.Tx, b link.Budget) link.Turn {
	if pause, ok := running(tx, kindPause, b.Name); ok {
		return link.Turn{Wait: time.Duration(pause.Until - tx.Now), Paused: true}
	}
	units := max(b.Units, 1)
	length := max(int64(b.Window)/windowParts, 1)
	part := tx.Now / length
	slot := func(part int64) string { return b.Name + "/" + strconv.FormatInt(part%(windowParts+1), 10) }
	// Parts of the future are of a clock that was set back, and count for as long.
	counts, used := map[int64]int{}, 0
	for i := range int64(windowParts + 1) {
		item, ok := tx.Peek(kindUnits, slot(i))
		at, count, split := strings.Cut(item.Head, " ")
		if !ok || !split {
			continue
		}
		when, err1 := strconv.ParseInt(at, 10, 64)
		n, err2 := strconv.Atoi(count)
		if err1 == nil && err2 == nil && n > 0 && part-windowParts <= when && when <= part+windowParts {
			counts[when] = n
			used += n
		}
	}
	if free := b.Limit - used; free-units-b.Keep < 0 {
		turn := link.Turn{Left: max(free, 0), Wait: b.Window}
		parts := make([]int64, 0, len(counts))
		for when := range counts {
			parts = append(parts, when)
		}
		slices.Sort(parts)
		for _, when := range parts {
			if free += counts[when]; free-units-b.Keep >= 0 {
				turn.Wait = time.Duration((when+windowParts+1)*length - tx.Now)
				break
			}
		}
		return turn
	}
	head := strconv.FormatInt(part, 10) + " " + strconv.Itoa(counts[part]+units)
	tx.Put(kindUnits, slot(part), lasting(tx, head, 3*b.Window))
	return link.Turn{Taken: true, Left: b.Limit - used - units}
}

func (s *Store) Pause(ctx context.Context, budget string, d time.Duration) error {
	return s.update(ctx, func(tx *sharedlog.Tx) {
		if pause, ok := running(tx, kindPause, budget); !ok || pause.Until < tx.Now+int64(d) {
			tx.Put(kindPause, budget, lasting(tx, "", d))
		}
	})
}

func (s *Store) Beat(ctx context.Context, replica string, ttl time.Duration) (replicas int, err error) {
	err = s.update(ctx, func(tx *sharedlog.Tx) {
		tx.Put(kindBeat, replica, lasting(tx, "", ttl))
		replicas = 1
		tx.Each(kindBeat, func(name string, item sharedlog.Item) {
			if name != replica && item.At <= tx.Now+int64(clockBack) {
				replicas++
			}
		})
	})
	return replicas, err
}

func readValue(tx *sharedlog.Tx, key string) link.Value {
	item, ok := tx.Read(kindValue, key)
	if !ok {
		return link.Value{}
	}
	return link.Value{Version: item.Head, Data: item.Data}
}

func (s *Store) Load(ctx context.Context, key string) (value link.Value, err error) {
	err = s.view(ctx, func(tx *sharedlog.Tx) { value = readValue(tx, key) })
	return value, err
}

func (s *Store) Swap(ctx context.Context, key, version string, data []byte, ttl time.Duration) (now link.Value, swapped bool, err error) {
	err = s.update(ctx, func(tx *sharedlog.Tx) {
		if now = readValue(tx, key); now.Version != version {
			return
		}
		swapped, now = true, link.Value{}
		if len(data) == 0 {
			tx.Remove(kindValue, key)
			return
		}
		now = link.Value{Version: rand.Text(), Data: data}
		item := lasting(tx, now.Version, ttl)
		item.Data = data
		tx.Put(kindValue, key, item)
	})
	if err != nil {
		return link.Value{}, false, err
	}
	return now, swapped, nil
}

func (s *Store) Hint(ctx context.Context, keys ...string) error {
	return s.update(ctx, func(tx *sharedlog.Tx) {
		for _, key := range keys {
			tx.Put(kindHint, key, lasting(tx, "", time.Second))
		}
	})
}

func (s *Store) Listen(ctx context.Context, heard func(keys []string, gap bool)) error {
	q := hints.New()
	s.mu.Lock()
	s.listeners[q] = struct{}{}
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.listeners, q)
	}()
	if err := s.view(ctx, func(*sharedlog.Tx) {}); err != nil {
		return err
	}
	q.Gap()
	if s.log.IsMemory() {
		return q.Deliver(ctx, heard)
	}
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	go func() {
		tick := time.NewTicker(hintPoll)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				if err := s.log.Poll(ctx); err != nil {
					end(err)
					return
				}
			}
		}
	}()
	_ = q.Deliver(ctx, heard)
	return context.Cause(ctx)
}
