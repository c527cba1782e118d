package lookup

import "sync/atomic"

// Table finds values by a hash of their key. Find takes no lock and can be called at any
// time; Insert, Remove and Each must not run at the same time as each other. Make one
// with NewTable.
//
// It is a hash table with open addressing. Its slots are read and written atomically, and
// when it is full a new one takes its place at once, so that a reader sees each value that
// was inserted before it began and has not been removed.
type Table[V any] struct {
	slots atomic.Pointer[[]atomic.Pointer[V]] // a power of two of them
	hash  func(*V) uint64
	gone  *V  // stands where a value was removed
	taken int // slots that are not empty: with values, or with gone
	live  atomic.Int64
}

// leastSlots is the size of a table without values.
const leastSlots = 8

// NewTable makes an empty table. hash gives the hash by which a value was inserted.
func NewTable[V any](hash func(*V) uint64) *Table[V] {
	t := &Table[V]{hash: hash, gone: new(V)}
	slots := make([]atomic.Pointer[V], leastSlots)
	t.slots.Store(&slots)
	return t
}

// Find is the value with that hash for which is reports true; nil if there is none.
func (t *Table[V]) Find(hash uint64, is func(*V) bool) *V {
	slots := *t.slots.Load()
	for i := hash; ; i++ { // there are always empty slots
		v := slots[i&uint64(len(slots)-1)].Load()
		if v == nil {
			return nil
		}
		if v != t.gone && is(v) {
			return v
		}
	}
}

// Insert adds a value that is not in the table.
func (t *Table[V]) Insert(v *V) {
	if slots := *t.slots.Load(); (t.taken+1)*8 > len(slots)*5 {
		t.rebuild()
	}
	if put(*t.slots.Load(), t.hash(v), v, t.gone) {
		t.taken++
	}
	t.live.Add(1)
}

// put stores a value in the first slot that is free, and reports whether it was empty.
func put[V any](slots []atomic.Pointer[V], hash uint64, v, gone *V) bool {
	for i := hash; ; i++ {
		slot := &slots[i&uint64(len(slots)-1)]
		if there := slot.Load(); there == nil || there == gone {
			slot.Store(v)
			return there == nil
		}
	}
}

// rebuild makes room for one more value, without the slots of those that are gone.
func (t *Table[V]) rebuild() {
	size := leastSlots
	for size < 2*(t.Len()+1) {
		size *= 2
	}
	next := make([]atomic.Pointer[V], size)
	old := *t.slots.Load()
	for i := range old {
		if v := old[i].Load(); v != nil && v != t.gone {
			put(next, t.hash(v), v, t.gone)
		}
	}
	t.taken = t.Len()
	t.slots.Store(&next)
}

// Remove takes out this very value, and reports whether it was there. hash is the one by
// which it was inserted.
func (t *Table[V]) Remove(hash uint64, v *V) bool {
	slots := *t.slots.Load()
	for i := hash; ; i++ {
		switch slot := &slots[i&uint64(len(slots)-1)]; slot.Load() {
		case nil:
			return false
		case v:
			slot.Store(t.gone)
			t.live.Add(-1)
			return true
		}
	}
}

// Len is how many values there are. It can be called at any time.
func (t *Table[V]) Len() int { return int(t.live.Load()) }

// Each calls with every value.
func (t *Table[V]) Each(call func(*V)) { t.some(0, len(*t.slots.Load()), call) }

// some calls with the values in so many slots from a place on, and returns the place after
// them.
func (t *Table[V]) some(from, slots int, call func(*V)) int {
	all := *t.slots.Load()
	for range min(slots, len(all)) {
		from++
		if v := all[from&(len(all)-1)].Load(); v != nil && v != t.gone {
			call(v)
		}
	}
	return from
}
