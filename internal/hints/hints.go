// Package hints keeps the keys that changed for one receiver until it takes them.
//
// Adding never waits, and no key is lost: the same key twice is one, and more than a
// bound become a gap, which means that anything may have changed.
package hints

import (
	"context"
	"sync"
)

// limit is how many keys are kept. A receiver that is further behind does better to look
// at everything.
const limit = 4096

// Queue is what one receiver has not taken yet. All methods are safe for use by many
// goroutines, but only one should receive.
type Queue struct {
	ready chan struct{} // holds one token while there is something to take

	mu   sync.Mutex
	keys map[string]struct{}
	gap  bool
}

// New makes an empty queue.
func New() *Queue {
	return &Queue{ready: make(chan struct{}, 1), keys: map[string]struct{}{}}
}

// Add notes that keys changed.
func (q *Queue) Add(keys ...string) {
	if len(keys) == 0 {
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.gap {
		return // which says more
	}
	for _, key := range keys {
		q.keys[key] = struct{}{}
	}
	if len(q.keys) > limit {
		q.gap = true
		clear(q.keys)
	}
	q.wake()
}

// Gap notes that changes may have been missed.
func (q *Queue) Gap() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.gap = true
	clear(q.keys)
	q.wake()
}

func (q *Queue) wake() {
	select {
	case q.ready <- struct{}{}:
	default:
	}
}

// Ready has a token when there may be something to take.
func (q *Queue) Ready() <-chan struct{} { return q.ready }

// Take empties the queue. With gap, keys are empty.
func (q *Queue) Take() (keys []string, gap bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for key := range q.keys {
		keys = append(keys, key)
	}
	clear(q.keys)
	gap, q.gap = q.gap, false
	return keys, gap
}

// Deliver hands over what comes, in batches, until ctx ends, and returns why it ended.
func (q *Queue) Deliver(ctx context.Context, heard func(keys []string, gap bool)) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-q.ready:
			if keys, gap := q.Take(); gap || len(keys) > 0 {
				heard(keys, gap)
			}
		}
	}
}
