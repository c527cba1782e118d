package lookup

import "errors"

// twoQueue says which hashes are to be kept: a crowd that comes once does not push out those
// that come often. It decides as the 2Q cache of hashicorp/golang-lru does, which a test
// compares it with, and takes a third of the memory, in which the garbage collector has
// nothing to follow. It is not safe for use by several goroutines.
//
// A hash is in one of three lists: recent has those that came once, and frequent those that
// came again. gone remembers who left recent: if they come back, they are frequent.
type twoQueue struct {
	size, mostRecent, mostGone int

	// Nodes are named by their places. The first ones are the ends of the lists: after
	// an end comes the newest of its list, and before it the oldest.
	nodes []node
	lists []list // of the node at the same place
	count [lastList]int
	free  uint32 // the first of the unused nodes, which are a list by next; 0 if there are none
	// index finds nodes by hash: a hash table with open addressing, in which 0 is empty.
	index []uint32
	used  int // of index
}

type node struct {
	hash       uint64
	prev, next uint32
}

type list uint8

const (
	recent list = iota
	frequent
	gone
	lastList
)

func newTwoQueue(size int) (*twoQueue, error) {
	if size < 2 {
		return nil, errors.New("a cache needs a size of at least 2")
	}
	q := &twoQueue{size: size, mostRecent: size / 4, mostGone: size / 2, index: make([]uint32, leastSlots)}
	for end := range uint32(lastList) {
		q.nodes = append(q.nodes, node{prev: end, next: end})
		q.lists = append(q.lists, list(end))
	}
	return q, nil
}

// has reports whether a hash is to be kept.
func (q *twoQueue) has(hash uint64) bool {
	at, _ := q.find(hash)
	return at != 0 && q.lists[at] != gone
}

// use notes that a hash came again, and reports whether it was to be kept.
func (q *twoQueue) use(hash uint64) bool {
	at, _ := q.find(hash)
	if at == 0 || q.lists[at] == gone {
		return false
	}
	q.move(at, frequent)
	return true
}

// add has a hash kept. Another may have to go for it.
func (q *twoQueue) add(hash uint64) {
	at, _ := q.find(hash)
	switch {
	case at == 0:
		q.makeRoom(false)
		q.insert(hash, recent)
	case q.lists[at] == gone:
		q.makeRoom(true)
		if at, _ = q.find(hash); at == 0 { // it was the oldest of those that are gone
			q.insert(hash, frequent)
			return
		}
		q.move(at, frequent)
	default:
		q.move(at, frequent)
	}
}

// remove forgets a hash.
func (q *twoQueue) remove(hash uint64) {
	if at, slot := q.find(hash); at != 0 {
		q.drop(at, slot)
	}
}

// makeRoom lets the least wanted go if there is no place for one more. back is that this one
// is gone and comes back.
func (q *twoQueue) makeRoom(back bool) {
	n := q.count[recent]
	switch {
	case n+q.count[frequent] < q.size:
	case n > 0 && (n > q.mostRecent || n == q.mostRecent && !back):
		q.move(q.nodes[recent].prev, gone)
		if q.count[gone] > q.mostGone {
			q.dropOldest(gone)
		}
	default:
		q.dropOldest(frequent)
	}
}

func (q *twoQueue) dropOldest(of list) { q.remove(q.nodes[q.nodes[of].prev].hash) }

// move makes a node the newest of a list.
func (q *twoQueue) move(at uint32, to list) {
	q.unlink(at)
	q.link(at, to)
}

func (q *twoQueue) link(at uint32, to list) {
	end := uint32(to)
	next := q.nodes[end].next
	q.nodes[at].prev, q.nodes[at].next = end, next
	q.nodes[end].next, q.nodes[next].prev = at, at
	q.lists[at] = to
	q.count[to]++
}

func (q *twoQueue) unlink(at uint32) {
	n := q.nodes[at]
	q.nodes[n.prev].next, q.nodes[n.next].prev = n.next, n.prev
	q.count[q.lists[at]]--
}

// insert adds the node of a hash that has none.
func (q *twoQueue) insert(hash uint64, to list) {
	at := q.free
	if at == 0 {
		at = uint32(len(q.nodes))
		q.nodes, q.lists = append(q.nodes, node{}), append(q.lists, to)
	} else {
		q.free = q.nodes[at].next
	}
	q.nodes[at].hash = hash
	q.link(at, to)
	if q.used++; q.used*4 > len(q.index)*3 {
		q.grow()
	}
	q.put(at)
}

// drop takes away a node, which stands at that place of the index.
func (q *twoQueue) drop(at uint32, slot int) {
	q.unlink(at)
	q.nodes[at] = node{next: q.free}
	q.free = at
	q.used--
	// Those after it move up, so that they are found where a search for them looks.
	last := len(q.index) - 1
	q.index[slot] = 0
	for next := (slot + 1) & last; q.index[next] != 0; next = (next + 1) & last {
		home := int(q.nodes[q.index[next]].hash) & last
		if (next-home)&last >= (next-slot)&last {
			q.index[slot], q.index[next] = q.index[next], 0
			slot = next
		}
	}
}

// find is the node of a hash, and where it stands in the index; 0 if there is none.
func (q *twoQueue) find(hash uint64) (at uint32, slot int) {
	last := len(q.index) - 1
	for slot = int(hash) & last; q.index[slot] != 0; slot = (slot + 1) & last {
		if at := q.index[slot]; q.nodes[at].hash == hash {
			return at, slot
		}
	}
	return 0, 0
}

// put writes a node into the index, which has room.
func (q *twoQueue) put(at uint32) {
	last := len(q.index) - 1
	slot := int(q.nodes[at].hash) & last
	for q.index[slot] != 0 {
		slot = (slot + 1) & last
	}
	q.index[slot] = at
}

func (q *twoQueue) grow() {
	old := q.index
	q.index = make([]uint32, 2*len(old))
	for _, at := range old {
		if at != 0 {
			q.put(at)
		}
	}
}
