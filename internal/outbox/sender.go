package outbox

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/polargate/polargate/internal/pace"
)

// RefusedError says that a batch was refused because of some messages in it.
type RefusedError struct {
	// Bad are the places in the batch of those messages; empty if that is not known.
	Bad []int
	Err error
}

func (e *RefusedError) Error() string { return e.Err.Error() }

// Unwrap makes errors.Is and errors.As find the cause.
func (e *RefusedError) Unwrap() error { return e.Err }

// Outbox keeps messages and sends them. Its fields must not be changed after Open. All
// methods are safe for use by many goroutines.
type Outbox struct {
	// Folder is where messages are kept; "" keeps them in memory. Several processes can
	// share a folder.
	Folder string
	// Most is how many messages are in a batch at most. A batch that is not full waits for
	// Linger, and begins no sooner than Between after the last that wasn't full.
	Most            int
	Linger, Between time.Duration
	// Together is how many batches are under way at once.
	Together int
	// FirstPause and LongestPause are how long to wait after a batch that failed, first and
	// at most.
	FirstPause, LongestPause time.Duration
	// Send sends a batch. A *RefusedError says that some messages can never be sent; any
	// other error, that the batch is to be sent again.
	Send func(ctx context.Context, messages [][]byte) error
	// Sent is told which messages were accepted, and Refused which one never will be, and
	// why. Those are kept aside, in the file "refused" of Folder.
	Sent    func(messages [][]byte)
	Refused func(message []byte, why error)
	// Note gives what is to be kept with the messages that are not done, each time that
	// changes; nil keeps nothing.
	Note func() []byte
	// Adopted is told of the note and the messages that are not done of a process that
	// ended.
	Adopted func(note []byte, messages [][]byte)

	mu      sync.Mutex
	own     *box
	others  []*box
	wake    chan struct{}
	failing error
	aside   int64
	changed bool // since the last save
	closed  bool
}

const (
	syncEvery  = time.Second
	adoptEvery = time.Minute
	// readAhead is how many messages of a process that ended are told at once.
	readAhead = 10_000
)

// Open makes the outbox ready to keep messages, and takes over those of a process that ended.
func (o *Outbox) Open() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.wake = make(chan struct{}, 1)
	own, err := newBox(o.Folder)
	if err != nil {
		return err
	}
	o.own = own
	o.adopt()
	return nil
}

// adopt takes over the boxes of processes that ended. mu is held.
func (o *Outbox) adopt() {
	for _, b := range abandoned(o.Folder) {
		messages := b.peek()
		if len(messages) > 0 || len(b.note) > 0 {
			if o.Adopted != nil {
				o.Adopted(b.note, messages)
			}
			o.changed = true // that is this process's to keep now
		}
		if waiting, _ := b.left(); waiting == 0 {
			_ = b.close(true)
			continue
		}
		o.others = append(o.others, b)
		o.nudge()
	}
}

// peek is what waits in a box that was just opened, as far as that fits in memory.
func (b *box) peek() (messages [][]byte) {
	for _, s := range b.segments {
		at := int64(0)
		if s.number == b.next.Segment {
			at = b.next.Offset
		}
		for len(messages) < readAhead {
			message, err := s.message(at)
			if err != nil {
				break
			}
			messages = append(messages, message)
			at += frameHead + int64(len(message))
		}
	}
	return messages
}

// nudge wakes whoever sends.
func (o *Outbox) nudge() {
	select {
	case o.wake <- struct{}{}:
	default:
	}
}

// Add stores a message. When it returns without an error, the message will be sent.
func (o *Outbox) Add(message []byte) error {
	if err := o.own.add(message); err != nil {
		return err
	}
	o.nudge()
	return nil
}

// Stats are how an outbox is doing.
type Stats struct {
	Waiting int   // messages that were not accepted yet
	Aside   int64 // those that were refused
	Failing error // why the last batch failed; nil if it didn't
}

// Stats returns how it is doing.
func (o *Outbox) Stats() Stats {
	o.mu.Lock()
	defer o.mu.Unlock()
	s := Stats{Aside: o.aside, Failing: o.failing}
	for _, b := range o.boxes() {
		waiting, out := b.left()
		s.Waiting += waiting + out
	}
	return s
}

func (o *Outbox) boxes() []*box { return append(slices.Clone(o.others), o.own) }

// take hands out a batch: first of those that were left behind.
func (o *Outbox) take(most int) *batch {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, b := range o.boxes() {
		if t := b.take(most); t != nil {
			return t
		}
	}
	return nil
}

// waiting is how many messages can be handed out.
func (o *Outbox) waiting() (n int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, b := range o.boxes() {
		w, _ := b.left()
		n += w
	}
	return n
}

// Run sends messages until ctx ends. Only one Run is to be under way.
func (o *Outbox) Run(ctx context.Context) {
	var group sync.WaitGroup
	defer group.Wait()
	group.Go(func() { o.look(ctx) })
	slots := make(chan struct{}, o.Together)
	var lastPart time.Time
	for {
		n := o.waiting()
		if n == 0 {
			select {
			case <-o.wake:
				continue
			case <-ctx.Done():
				return
			}
		}
		if n < o.Most {
			o.collect(ctx, max(o.Linger, o.Between-time.Since(lastPart)))
			if o.waiting() < o.Most { // else it has become a full batch meanwhile
				lastPart = time.Now()
			}
		}
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
			return
		}
		t := o.take(o.Most)
		if t == nil {
			<-slots
			continue
		}
		group.Go(func() {
			defer func() { <-slots }()
			o.deliver(ctx, t)
		})
	}
}

// collect waits until there are enough messages for a full batch, but no longer than d.
func (o *Outbox) collect(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
			return
		case <-ctx.Done():
			return
		case <-o.wake:
			if o.waiting() >= o.Most {
				return
			}
		}
	}
}

// look has the disk keep what was added, and takes over what other processes left.
func (o *Outbox) look(ctx context.Context) {
	adopted := time.Now()
	for pace.Sleep(ctx, syncEvery) {
		o.settle()
		if time.Since(adopted) >= adoptEvery {
			adopted = time.Now()
			o.mu.Lock()
			o.adopt()
			o.mu.Unlock()
		}
	}
	o.settle()
}

// settle keeps up to where messages are done.
func (o *Outbox) settle() {
	o.mu.Lock()
	own, others, changed := o.own, o.others, o.changed
	o.changed = false
	o.mu.Unlock()
	err := own.sync()
	if changed {
		var note []byte
		if o.Note != nil && o.Folder != "" {
			note = o.Note()
		}
		err = errors.Join(err, own.save(note))
		for _, b := range others {
			err = errors.Join(err, b.save(nil))
		}
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if err != nil {
		o.failing, o.changed = err, true
	}
	o.others = slices.DeleteFunc(slices.Clone(o.others), func(b *box) bool {
		waiting, out := b.left()
		if waiting+out > 0 {
			return false
		}
		_ = b.close(true)
		return true
	})
}

// deliver sends a batch until it is done, or ctx ends. What is refused is kept aside, and the
// rest goes again.
func (o *Outbox) deliver(ctx context.Context, t *batch) {
	pause := o.FirstPause
	for parts := [][][]byte{t.messages}; len(parts) > 0; {
		part := parts[0]
		err := o.Send(ctx, part)
		var refused *RefusedError
		switch {
		case err == nil:
			parts, pause = parts[1:], o.FirstPause
			o.noteFailing(nil)
			if o.Sent != nil {
				o.Sent(part)
			}
		case errors.As(err, &refused):
			parts = append(o.split(part, refused), parts[1:]...)
		default:
			if ctx.Err() == nil {
				o.noteFailing(err)
			}
			if !pace.Sleep(ctx, pace.Jitter(pause)) {
				t.giveBack()
				return
			}
			pause = min(2*pause, o.LongestPause)
		}
	}
	o.mu.Lock()
	o.changed = true
	o.mu.Unlock()
	t.finish()
}

// split is what is left to be sent of a part that was refused.
func (o *Outbox) split(part [][]byte, refused *RefusedError) (parts [][][]byte) {
	if len(part) == 1 {
		o.keepAside(part[0], refused.Err)
		return nil
	}
	var rest [][]byte
	for i, message := range part {
		if slices.Contains(refused.Bad, i) {
			o.keepAside(message, refused.Err)
		} else {
			rest = append(rest, message)
		}
	}
	switch {
	case len(rest) == 0:
		return nil
	case len(rest) < len(part):
		return [][][]byte{rest}
	}
	half := len(part) / 2
	return [][][]byte{part[:half], part[half:]}
}

// keepAside stores a message that was refused, for a person to look at.
func (o *Outbox) keepAside(message []byte, why error) {
	o.mu.Lock()
	o.aside++
	if o.Folder != "" {
		if f, err := os.OpenFile(filepath.Join(o.Folder, "refused"), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600); err == nil {
			_, err = f.Write(append(slices.Clone(message), '\n'))
			o.failing = errors.Join(err, f.Close())
		} else {
			o.failing = err
		}
	}
	o.mu.Unlock()
	if o.Refused != nil {
		o.Refused(message, why)
	}
}

func (o *Outbox) noteFailing(err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.failing = err
}

// Drain sends what waits, without waiting for more, until nothing is left or ctx ends. No Run
// may be under way.
func (o *Outbox) Drain(ctx context.Context) {
	var group sync.WaitGroup
	for range max(o.Together, 1) {
		group.Go(func() {
			for ctx.Err() == nil {
				t := o.take(o.Most)
				if t == nil {
					return
				}
				o.deliver(ctx, t)
			}
		})
	}
	group.Wait()
	o.settle()
}

// Close ends the outbox. What was not sent stays in the folder, for the next process.
func (o *Outbox) Close() error {
	o.settle()
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed {
		return nil
	}
	o.closed = true
	waiting, out := o.own.left()
	empty := waiting+out == 0
	err := o.own.close(empty && o.Note == nil)
	for _, b := range o.others {
		err = errors.Join(err, b.close(false))
	}
	return err
}
