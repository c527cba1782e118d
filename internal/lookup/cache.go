// Package lookup keeps values in memory such that looking one up takes no lock.
//
// Cache is bounded: beside a Table it has a 2Q cache of hashes, in which a crowd that comes
// once does not push out what is used often. The 2Q cache is told of a
// use by Touch, which the caller calls now and then and not at each use: when Use says so.
// It says who is to go; those leave the table a little later, while others are added, so
// that up to a few percent more than the size may be found. Neither type knows of keys: values are found
// by a 64-bit hash and a comparison of the caller's.
package lookup

import "sync"

// Cache is a Table of bounded size. Find and Touch can be called at any time; Add and
// Remove must not run at the same time as each other.
type Cache[V any] struct {
	*Table[V]
	size int
	mu   sync.Mutex // guards kept
	// kept says which values are to stay, by hash: two values of the same hash have one
	// place in it, which at worst drops one of them early.
	kept  *twoQueue
	swept int // the place up to which the table was searched for values to drop
}

// sweep is how many slots are searched when a value is added to a full cache. Each such
// time one more value is to go, so that with 1/sweep of the slots waiting, which have two
// to four times as many as there are values, as many go as come.
const sweep = 64

// NewCache makes a cache of at least 2 values. hash gives the hash of a value's key, which
// must not change.
func NewCache[V any](size int, hash func(*V) uint64) (*Cache[V], error) {
	kept, err := newTwoQueue(size)
	return &Cache[V]{Table: NewTable(hash), size: size, kept: kept}, err
}

// Add adds a value whose key is not in the cache, and calls dropped with those that had to
// go, which are not found any more.
func (c *Cache[V]) Add(v *V, dropped func(*V)) {
	c.mu.Lock()
	c.kept.add(c.hash(v))
	c.mu.Unlock()
	c.Insert(v)
	if c.Len() <= c.size {
		return
	}
	c.swept = c.some(c.swept, sweep, func(v *V) {
		if hash := c.hash(v); !c.keeps(hash) && c.Table.Remove(hash, v) {
			dropped(v)
		}
	})
}

func (c *Cache[V]) keeps(hash uint64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.kept.has(hash)
}

// Touch notes a use of a value that was found. It does not wait while another use is noted:
// it reports whether it was done. A value that was to go stays.
func (c *Cache[V]) Touch(v *V) bool {
	if !c.mu.TryLock() {
		return false
	}
	defer c.mu.Unlock()
	if hash := c.hash(v); !c.kept.use(hash) {
		c.kept.add(hash)
	}
	return true
}

// Remove takes out a value. Another with the same key can be added then.
func (c *Cache[V]) Remove(v *V) {
	if hash := c.hash(v); c.Table.Remove(hash, v) {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.kept.remove(hash)
	}
}
