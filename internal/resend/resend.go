// Package resend keeps records that have to be sent again when a store is back: those that
// could not be sent for as long as they are of use, and those that could for a while, since a
// server that fails may lose what it has just acknowledged.
//
// It promises to forget no record that was never sent as long as there is room, and not to
// use more memory than it may. It sends nothing itself. A List is safe for use by many
// goroutines.
package resend

import (
	"cmp"
	"sync"
	"time"
)

// Record is a record of which the youngest by its key is kept.
type Record struct {
	Key  string
	At   string // younger ones are greater, by strings.Compare
	Data []byte // decides between records of the same time
	TTL  time.Duration
}

// Compare is negative if a is older than b.
func Compare(a, b Record) int {
	return cmp.Or(cmp.Compare(a.At, b.At), cmp.Compare(string(a.Data), string(b.Data)))
}

// List is what is kept. The fields must not be changed once it is in use.
type List struct {
	// Bytes is how much of Data is kept at most, and Records how many records.
	Bytes, Records int
	// Safe is how long a record is kept that was sent.
	Safe time.Duration

	mu    sync.Mutex
	kept  map[string]entry
	size  int
	clean time.Time // when to look next for what need not be kept
}

type entry struct {
	Record
	until, ends time.Time // no longer kept, and no longer of use
	sent        bool
}

// Add keeps records that are to be sent, and reports how many were given up for lack of room.
func (l *List) Add(records ...Record) (lost int) { return l.keep(false, records) }

// Sent notes that records were acknowledged, and reports how many others were given up.
func (l *List) Sent(records ...Record) (lost int) { return l.keep(true, records) }

func (l *List) keep(sent bool, records []Record) (lost int) {
	now := time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.kept == nil {
		l.kept = map[string]entry{}
	}
	for _, r := range records {
		e, ok := l.kept[r.Key]
		order := Compare(e.Record, r)
		switch {
		case ok && order > 0:
			continue
		case !ok || order < 0:
			l.size += len(r.Data) - len(e.Data)
			e = entry{Record: r, ends: now.Add(r.TTL)}
			e.until = e.ends
		}
		if sent && !e.sent {
			e.sent, e.until = true, now.Add(min(l.Safe, r.TTL))
		}
		l.kept[r.Key] = e
	}
	if now.After(l.clean) || l.full() {
		l.clean = now.Add(l.Safe)
		for key, e := range l.kept {
			if e.sent && l.full() || !e.until.After(now) {
				l.drop(key)
			}
		}
	}
	for key := range l.kept {
		if !l.full() {
			break
		}
		l.drop(key)
		lost++
	}
	return lost
}

func (l *List) full() bool { return l.size > l.Bytes || len(l.kept) > l.Records }

func (l *List) drop(key string) {
	l.size -= len(l.kept[key].Data)
	delete(l.kept, key)
}

// All are the records that are kept, each with what is left of its time.
func (l *List) All() (records []Record) {
	now := time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	for key, e := range l.kept {
		if !e.until.After(now) {
			l.drop(key)
			continue
		}
		if e.TTL = e.ends.Sub(now); e.TTL >= time.Millisecond {
			records = append(records, e.Record)
		}
	}
	return records
}

// Unsent is how many records were not acknowledged yet.
func (l *List) Unsent() (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, e := range l.kept {
		if !e.sent {
			n++
		}
	}
	return n
}
