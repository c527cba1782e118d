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
	slots atomic.Pointer[slots[V]]
	hash  func(*V) uint64
	gone  *V  // stands where a value was removed
	taken int // slots that are not empty: with values, or with gone
	live  atomic.Int64
}

// slots are a power of two of places for values. Beside each value stands a mark: a part
// of its hash, and when it was last used. Values lie anywhere in memory, and to fetch one
// takes longer than all the rest of a look-up; the marks lie together, so that they are
// mostly at hand, and a value with another hash is not fetched.
type slots[V any] struct {
	marks  []atomic.Uint32
	values []atomic.Pointer[V]
}

// mark has 16 bits of the hash, and then the Period of the last use.
func mark(hash uint64, used Period) uint32 { return uint32(hash>>48)<<16 | uint32(used) }

// Period is the number of a period of time, in which the uses of a value count once. It
// starts anew after 65,535.
type Period uint16

// leastSlots is the size of a table without values.
const leastSlots = 8

func newSlots[V any](size int) *slots[V] {
	return &slots[V]{make([]atomic.Uint32, size), make([]atomic.Pointer[V], size)}
}

// NewTable makes an empty table. hash gives the hash by which a value was inserted.
func NewTable[V any](hash func(*V) uint64) *Table[V] {
	t := &Table[V]{hash: hash, gone: new(V)}
	t.slots.Store(newSlots[V](leastSlots))
	return t
}

// Find is the value with that hash for which is reports true; nil if there is none.
func (t *Table[V]) Find(hash uint64, is func(*V) bool) *V {
	v, _, _ := t.find(hash, is)
	return v
}

// Use is Find, and calls note if the value was not used in this period yet. Unless note
// reports true, the next use calls it again.
func (t *Table[V]) Use(hash uint64, now Period, is, note func(*V) bool) *V {
	v, at, was := t.find(hash, is)
	if v != nil && Period(was) != now && note(v) {
		at.CompareAndSwap(was, mark(hash, now)) // else another value has taken the place
	}
	return v
}

// find is Find, with the value's mark, and where that is.
func (t *Table[V]) find(hash uint64, is func(*V) bool) (v *V, at *atomic.Uint32, was uint32) {
	s, sought := t.slots.Load(), mark(hash, 0)
	marks, values := s.marks, s.values
	last := uint64(len(values) - 1)
	for i := hash; ; i++ { // there are always empty slots
		v := values[i&last].Load()
		if v == nil {
			return nil, nil, 0
		}
		at := &marks[i&last]
		if was := at.Load(); (was^sought)>>16 == 0 && v != t.gone && is(v) {
			return v, at, was
		}
	}
}

// Insert adds a value that is not in the table.
func (t *Table[V]) Insert(v *V) {
	if (t.taken+1)*8 > len(t.slots.Load().values)*5 {
		t.rebuild()
	}
	if t.slots.Load().put(t.hash(v), v, t.gone) {
		t.taken++
	}
	t.live.Add(1)
}

// put stores a value in the first slot that is free, and reports whether it was empty. The
// mark is stored first, so that whoever sees the value sees its mark.
func (s *slots[V]) put(hash uint64, v, gone *V) bool {
	last := uint64(len(s.values) - 1)
	for i := hash; ; i++ {
		slot := &s.values[i&last]
		if there := slot.Load(); there == nil || there == gone {
			s.marks[i&last].Store(mark(hash, 0))
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
	next := newSlots[V](size)
	t.Each(func(v *V) { next.put(t.hash(v), v, t.gone) })
	t.taken = t.Len()
	t.slots.Store(next)
}

// Replace puts a value in the place of another with the same hash, and reports whether
// that was there.
func (t *Table[V]) Replace(hash uint64, old, v *V) bool {
	slot := t.slotOf(hash, old)
	if slot == nil {
		return false
	}
	slot.Store(v)
	return true
}

// Remove takes out this very value, and reports whether it was there. hash is the one by
// which it was inserted.
func (t *Table[V]) Remove(hash uint64, v *V) bool {
	if !t.Replace(hash, v, t.gone) {
		return false
	}
	t.live.Add(-1)
	return true
}

// slotOf is where this very value stands; nil if it is not in the table.
func (t *Table[V]) slotOf(hash uint64, v *V) *atomic.Pointer[V] {
	values := t.slots.Load().values
	for i := hash; ; i++ {
		switch slot := &values[i&uint64(len(values)-1)]; slot.Load() {
		case nil:
			return nil
		case v:
			return slot
		}
	}
}

// Len is how many values there are. It can be called at any time.
func (t *Table[V]) Len() int { return int(t.live.Load()) }

// Each calls with each value.
func (t *Table[V]) Each(call func(*V)) { t.some(0, len(t.slots.Load().values), call) }

// some calls with the values in so many slots from a place on, and returns the place after
// them.
func (t *Table[V]) some(from, slots int, call func(*V)) int {
	all := t.slots.Load().values
	for range min(slots, len(all)) {
		from++
		if v := all[from&(len(all)-1)].Load(); v != nil && v != t.gone {
			call(v)
		}
	}
	return from
}
