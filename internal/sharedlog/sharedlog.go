// Package sharedlog keeps small items under keys in a file that several processes of one
// computer share, or in memory.
//
// It promises that an update sees all updates before it, and is kept as a whole or not at all,
// even if its process is killed in the middle of it, and that unreadable bytes are skipped and
// counted. It doesn't promise that the last moments survive a power failure. It doesn't work
// across computers, because the locks and sizes of network file systems can't be relied on.
package sharedlog

import (
	"context"
	"time"

	"github.com/gofrs/flock"
)

// Item is what is kept under a key.
type Item struct {
	// At and Until are when it was put and when it ends, in nanoseconds since 1970 by
	// this computer's clock.
	At, Until int64
	// Head is short and kept in memory; Data is read when it is asked for.
	Head string
	Data []byte
}

// place is where an item is.
type place struct {
	at, until int64
	head      string
	off       int64  // of its frame in the file
	size      int32  // of its frame
	data      []byte // if there is no file
}

type keyOf struct {
	kind byte
	key  string
}

// Log is a file or a memory. All methods are safe for use by many goroutines.
type Log struct {
	// Changed is called for each item that was put here or, after the file was first read,
	// by another process. Missed is called if some may have been missed. Neither may block
	// or use the Log. Set them before its first use.
	Changed func(kind byte, key string)
	Missed  func()

	path string        // empty for a memory
	turn chan struct{} // holds a token while what follows is in use
	lock *flock.Flock

	items     map[byte]map[string]place
	live      int64 // bytes of the frames of items
	nextPrune int64
	file      file
}

// InMemory makes a Log that ends with the process.
func InMemory() *Log { return newLog("") }

// Open makes a Log in a file, which is made when something is first put. Nothing is
// read or held open before or between calls.
func Open(path string) *Log {
	l := newLog(path)
	l.lock = flock.New(path+".lock", flock.SetPermissions(0o600))
	return l
}

func newLog(path string) *Log {
	return &Log{path: path, turn: make(chan struct{}, 1), items: map[byte]map[string]place{}}
}

// enter waits for the turn in this process.
func (l *Log) enter(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	select {
	case l.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (l *Log) exit() { <-l.turn }

// View looks at what was put until now, here and elsewhere. Putting has no effect.
func (l *Log) View(ctx context.Context, look func(*Tx) error) error {
	if err := l.enter(ctx); err != nil {
		return err
	}
	defer l.exit()
	if l.path == "" {
		return look(l.begin())
	}
	return l.viewFile(look)
}

// Update looks and puts, alone among all who share the file. If change fails nothing
// was put.
func (l *Log) Update(ctx context.Context, change func(*Tx) error) error {
	if err := l.enter(ctx); err != nil {
		return err
	}
	defer l.exit()
	if l.path != "" {
		return l.updateFile(ctx, change)
	}
	tx := l.begin()
	if err := change(tx); err != nil {
		return err
	}
	for _, put := range tx.puts {
		item := put.item
		l.set(put.keyOf, place{at: item.At, until: item.Until, head: item.Head, data: item.Data, size: int32(len(item.Data))})
		l.changed(put.keyOf)
	}
	l.prune(tx.Now)
	return nil
}

// Poll looks whether something was put elsewhere.
func (l *Log) Poll(ctx context.Context) error {
	return l.View(ctx, func(*Tx) error { return nil })
}

func (l *Log) begin() *Tx {
	return &Tx{Now: time.Now().UnixNano(), log: l}
}

func (l *Log) set(k keyOf, p place) {
	items := l.items[k.kind]
	if items == nil {
		items = map[string]place{}
		l.items[k.kind] = items
	}
	l.live += int64(p.size) - int64(items[k.key].size)
	items[k.key] = p
}

func (l *Log) remove(k keyOf) {
	l.live -= int64(l.items[k.kind][k.key].size)
	delete(l.items[k.kind], k.key)
}

func (l *Log) changed(k keyOf) {
	if l.Changed != nil {
		l.Changed(k.kind, k.key)
	}
}

func (l *Log) missed() {
	if l.Missed != nil {
		l.Missed()
	}
}

// prune drops what has ended, now and then.
func (l *Log) prune(now int64) {
	if now < l.nextPrune && l.nextPrune-now <= int64(time.Minute) {
		return
	}
	l.nextPrune = now + int64(time.Minute)
	for kind, items := range l.items {
		for key, p := range items {
			if now >= p.until {
				l.remove(keyOf{kind, key})
			}
		}
	}
}

// Tx is one look at the items.
type Tx struct {
	Now int64 // nanoseconds since 1970

	log  *Log
	read func(keyOf, place) []byte // from the file
	puts []put
	last map[keyOf]int // of puts, by key
}

type put struct {
	keyOf
	item Item
}

// Peek gives an item that has not ended, without its data.
func (t *Tx) Peek(kind byte, key string) (Item, bool) {
	item, _, ok := t.find(kind, key)
	item.Data = nil
	return item, ok
}

// Read gives an item that has not ended.
func (t *Tx) Read(kind byte, key string) (Item, bool) {
	item, p, ok := t.find(kind, key)
	if ok && p != nil {
		if item.Data = p.data; t.read != nil {
			item.Data = t.read(keyOf{kind, key}, *p)
			ok = item.Data != nil
		}
	}
	return item, ok
}

// find gives an item, and its place unless it was put in this very look.
func (t *Tx) find(kind byte, key string) (Item, *place, bool) {
	if i, ok := t.last[keyOf{kind, key}]; ok {
		item := t.puts[i].item
		return item, nil, t.Now < item.Until
	}
	p, ok := t.log.items[kind][key]
	if !ok || t.Now >= p.until {
		return Item{}, nil, false
	}
	return Item{At: p.at, Until: p.until, Head: p.head}, &p, true
}

// Put replaces an item. What it is given must not be changed afterwards.
func (t *Tx) Put(kind byte, key string, item Item) {
	k := keyOf{kind, key}
	if t.last == nil {
		t.last = map[keyOf]int{}
	}
	t.last[k] = len(t.puts)
	t.puts = append(t.puts, put{k, item})
}

// Remove ends an item.
func (t *Tx) Remove(kind byte, key string) {
	t.Put(kind, key, Item{At: t.Now, Until: 0})
}

// Each goes through the items of a kind that have not ended, without their data, and
// without what was put in this very look.
func (t *Tx) Each(kind byte, see func(key string, item Item)) {
	for key, p := range t.log.items[kind] {
		if t.Now < p.until {
			see(key, Item{At: p.at, Until: p.until, Head: p.head})
		}
	}
}

// IsMemory reports whether there is no file.
func (l *Log) IsMemory() bool { return l.path == "" }
