// Package outbox keeps messages until they were sent, in a folder or in memory, and sends
// them in batches.
//
// It promises that a message which was added is sent until it was accepted or refused, in
// the order in which it came, also after its process was killed: by the next one that uses
// the folder. It doesn't promise that a message is sent only once, so each needs an id of
// its own. After a power failure the last second may be missing. What is only in memory ends
// with the process.
package outbox

import (
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/gofrs/flock"
	"github.com/polargate/polargate/internal/disk"
)

// A box is a folder of segments, which are numbered files of frames, and a state, which says
// up to where messages are done. A frame is 4 bytes length, 4 bytes CRC-32C, and a message.
const (
	frameHead   = 8
	segmentEnd  = ".log"
	stateName   = "state"
	lockName    = "lock"
	boxPrefix   = "box-"
	maxMessage  = 1 << 20
	segmentSize = 8 << 20
	// memorySize bounds what waits in memory.
	memorySize = 48 << 20
)

// castagnoli is the table of the checksums. A variable would be linked into programs that have
// no outbox.
func castagnoli() *crc32.Table { return crc32.MakeTable(crc32.Castagnoli) }

// ErrFull means that too much waits in memory.
var ErrFull = errors.New("too many messages wait in memory")

// errClosed means that a box was closed.
var errClosed = errors.New("the outbox is closed")

// place is where a frame begins.
type place struct {
	Segment uint64 `json:"segment"`
	Offset  int64  `json:"offset"`
}

// segment is one file, or a piece of memory.
type segment struct {
	number uint64
	file   *os.File
	data   []byte
	size   int64
}

func (s *segment) read(p []byte, at int64) error {
	if s.file == nil {
		if at+int64(len(p)) > int64(len(s.data)) {
			return io.ErrUnexpectedEOF
		}
		copy(p, s.data[at:])
		return nil
	}
	_, err := s.file.ReadAt(p, at)
	return err
}

// message reads the one at a place.
func (s *segment) message(at int64) ([]byte, error) {
	var head [frameHead]byte
	if at+frameHead > s.size {
		return nil, io.ErrUnexpectedEOF
	}
	if err := s.read(head[:], at); err != nil {
		return nil, err
	}
	length := int64(binary.BigEndian.Uint32(head[:]))
	if length > maxMessage || at+frameHead+length > s.size {
		return nil, io.ErrUnexpectedEOF
	}
	message := make([]byte, length)
	if err := s.read(message, at+frameHead); err != nil {
		return nil, err
	}
	if crc32.Checksum(message, castagnoli()) != binary.BigEndian.Uint32(head[4:]) {
		return nil, errors.New("a message is damaged")
	}
	return message, nil
}

// box is one process's messages. All methods are safe for use by many goroutines.
type box struct {
	dir  string // "" is in memory
	lock *flock.Flock
	// damaged is how many bytes could not be read when it was opened.
	damaged int64
	note    []byte // what was kept beside the state

	mu       sync.Mutex
	segments []*segment // oldest first; the last is written to
	next     place      // of the next message to hand out
	done     place      // all before it are done
	out      []*batch   // handed out, in order
	returned []*batch   // to be handed out again
	waiting  int        // neither handed out nor done
	held     int64      // bytes in memory
	unsynced []*os.File
	closed   bool
}

// batch is some messages that follow one another.
type batch struct {
	box      *box
	messages [][]byte
	from, to place
	done     bool
}

// newBox makes a box of its own in a folder, or in memory if that is "".
func newBox(folder string) (*box, error) {
	if folder == "" {
		b := &box{}
		b.begin(1)
		return b, nil
	}
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return nil, err
	}
	for {
		dir := filepath.Join(folder, boxPrefix+strings.ToLower(rand.Text()))
		if err := os.Mkdir(dir, 0o700); err != nil {
			return nil, err
		}
		if b, err := openBox(dir); b != nil || err != nil {
			return b, err
		}
	}
}

// abandoned opens the boxes in a folder that no process has.
func abandoned(folder string) (boxes []*box) {
	if folder == "" {
		return nil
	}
	entries, _ := os.ReadDir(folder)
	for _, entry := range entries {
		if entry.IsDir() && strings.HasPrefix(entry.Name(), boxPrefix) {
			if b, err := openBox(filepath.Join(folder, entry.Name())); b != nil && err == nil {
				boxes = append(boxes, b)
			}
		}
	}
	return boxes
}

// openBox opens a box; nil if another process has it.
func openBox(dir string) (b *box, err error) {
	b = &box{dir: dir, lock: flock.New(filepath.Join(dir, lockName), flock.SetPermissions(0o600))}
	locked, err := b.lock.TryLock()
	switch {
	case errors.Is(err, fs.ErrNotExist), err == nil && !locked:
		return nil, nil
	case errors.Is(err, errors.ErrUnsupported): // one process alone
	case err != nil:
		return nil, err
	}
	defer func() {
		if err != nil || b == nil {
			_ = b.unlock()
		}
	}()
	if _, err := os.Stat(filepath.Join(dir, lockName)); err != nil {
		_ = b.lock.Unlock()
		return nil, nil // whoever had it has removed it
	}
	if err := b.load(); err != nil {
		_ = b.unlock()
		return nil, err
	}
	return b, nil
}

func (b *box) unlock() error {
	if b == nil || b.lock == nil {
		return nil
	}
	return b.lock.Unlock()
}

// state is what is kept of a box beside its messages.
type state struct {
	Done place           `json:"done"`
	Note json.RawMessage `json:"note,omitempty"`
}

func (b *box) load() error {
	var kept state
	if data, err := os.ReadFile(filepath.Join(b.dir, stateName)); err == nil {
		if json.Unmarshal(data, &kept) != nil {
			kept = state{} // everything is sent again, which does no harm
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	b.note = kept.Note
	entries, err := os.ReadDir(b.dir)
	if err != nil {
		return err
	}
	var numbers []uint64
	for _, entry := range entries {
		if n, ok := strings.CutSuffix(entry.Name(), segmentEnd); ok {
			if number, err := strconv.ParseUint(n, 10, 64); err == nil {
				numbers = append(numbers, number)
			}
		}
	}
	slices.Sort(numbers)
	last := kept.Done.Segment
	for _, number := range numbers {
		last = max(last, number)
		path := b.path(number)
		if number < kept.Done.Segment {
			_ = os.Remove(path)
			continue
		}
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			return err
		}
		s := &segment{number: number, file: f}
		b.segments = append(b.segments, s)
		info, err := f.Stat()
		if err != nil {
			return err
		}
		s.size = info.Size()
		from := int64(0)
		if number == kept.Done.Segment {
			from = kept.Done.Offset
		}
		whole, messages := s.scan(min(from, s.size))
		b.waiting += messages
		if whole < s.size { // its process was killed while it wrote, or the disk has lost something
			b.damaged += s.size - whole
			s.size = whole
		}
	}
	if len(b.segments) > 0 {
		b.next = place{b.segments[0].number, 0}
		if b.next.Segment == kept.Done.Segment {
			b.next.Offset = min(kept.Done.Offset, b.segments[0].size)
		}
	}
	b.begin(last + 1)
	if b.next == (place{}) {
		b.next = place{last + 1, 0}
	}
	b.done = b.next
	return nil
}

// scan finds the end of what can be read, and counts the messages after a place.
func (s *segment) scan(from int64) (end int64, messages int) {
	for end = from; ; messages++ {
		message, err := s.message(end)
		if err != nil {
			return end, messages
		}
		end += frameHead + int64(len(message))
	}
}

func (b *box) path(number uint64) string {
	return filepath.Join(b.dir, fmt.Sprintf("%012d%s", number, segmentEnd))
}

// begin has a new segment written to. Its file is made with the first message.
func (b *box) begin(number uint64) {
	b.segments = append(b.segments, &segment{number: number})
	if b.next == (place{}) && b.dir == "" {
		b.next, b.done = place{number, 0}, place{number, 0}
	}
}

// add stores a message.
func (b *box) add(message []byte) error {
	if len(message) > maxMessage {
		return fmt.Errorf("a message of %d bytes is too large", len(message))
	}
	frame := make([]byte, frameHead+len(message))
	binary.BigEndian.PutUint32(frame, uint32(len(message)))
	binary.BigEndian.PutUint32(frame[4:], crc32.Checksum(message, castagnoli()))
	copy(frame[frameHead:], message)
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return errClosed
	}
	s := b.segments[len(b.segments)-1]
	if s.size > 0 && s.size+int64(len(frame)) > segmentSize {
		b.begin(s.number + 1)
		s = b.segments[len(b.segments)-1]
	}
	if err := b.write(s, frame); err != nil {
		return err
	}
	s.size += int64(len(frame))
	b.waiting++
	return nil
}

func (b *box) write(s *segment, frame []byte) error {
	if b.dir == "" {
		if b.held+int64(len(frame)) > memorySize {
			return ErrFull
		}
		b.held += int64(len(frame))
		s.data = append(s.data, frame...)
		return nil
	}
	if s.file == nil {
		f, err := os.OpenFile(b.path(s.number), os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			return err
		}
		s.file = f
	}
	if _, err := s.file.WriteAt(frame, s.size); err != nil {
		_ = s.file.Truncate(s.size)
		return err
	}
	if n := len(b.unsynced); n == 0 || b.unsynced[n-1] != s.file {
		b.unsynced = append(b.unsynced, s.file)
	}
	return nil
}

// take hands out the next messages, at most so many; nil if there are none.
func (b *box) take(most int) *batch {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.returned) > 0 {
		again := b.returned[0]
		b.returned = b.returned[1:]
		b.waiting -= len(again.messages)
		return again
	}
	t := &batch{box: b, from: b.next}
	size := 0
	for len(t.messages) < most && size < maxMessage {
		s := b.segmentOf(b.next.Segment)
		if s == nil {
			break
		}
		if b.next.Offset >= s.size {
			if s == b.segments[len(b.segments)-1] {
				break
			}
			b.next = place{b.segments[slices.Index(b.segments, s)+1].number, 0}
			continue
		}
		message, err := s.message(b.next.Offset)
		if err != nil { // it could be read when it was written: what follows in this file can't be found
			b.damaged += s.size - b.next.Offset
			b.next.Offset = s.size
			continue
		}
		b.next.Offset += frameHead + int64(len(message))
		t.messages = append(t.messages, message)
		size += len(message)
	}
	t.to = b.next
	if len(t.messages) == 0 {
		return nil
	}
	b.waiting -= len(t.messages)
	b.out = append(b.out, t)
	return t
}

func (b *box) segmentOf(number uint64) *segment {
	for _, s := range b.segments {
		if s.number == number {
			return s
		}
	}
	return nil
}

// finish notes that a batch is done.
func (t *batch) finish() {
	b := t.box
	b.mu.Lock()
	defer b.mu.Unlock()
	t.done, t.messages = true, nil
	for len(b.out) > 0 && b.out[0].done {
		b.done = b.out[0].to
		b.out = b.out[1:]
	}
	for b.dir == "" && len(b.segments) > 1 && b.segments[0].number < b.done.Segment {
		b.held -= b.segments[0].size
		b.segments = b.segments[1:]
	}
	if s := b.segments[0]; b.dir == "" && len(b.segments) == 1 && b.done.Segment == s.number && b.done.Offset == s.size && s.size > 0 {
		b.held -= s.size // all of it is done: begin anew
		b.segments[0] = &segment{number: s.number + 1}
		b.next, b.done = place{s.number + 1, 0}, place{s.number + 1, 0}
	}
}

// giveBack has a batch handed out again.
func (t *batch) giveBack() {
	b := t.box
	b.mu.Lock()
	defer b.mu.Unlock()
	b.returned = append(b.returned, t)
	b.waiting += len(t.messages)
}

// save stores up to where messages are done, with a note, and removes what is not needed.
func (b *box) save(note []byte) error {
	if b.dir == "" {
		return nil
	}
	b.mu.Lock()
	done := b.done
	b.mu.Unlock()
	data, err := json.Marshal(state{done, note})
	if err != nil {
		return err
	}
	if err := replace(filepath.Join(b.dir, stateName), data); err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for len(b.segments) > 1 && b.segments[0].number < done.Segment {
		s := b.segments[0]
		if s.file != nil {
			_ = s.file.Close()
			_ = os.Remove(b.path(s.number))
		}
		b.segments = b.segments[1:]
	}
	return nil
}

// replace writes a file anew, as a whole or not at all.
func replace(path string, data []byte) error {
	temp, err := os.OpenFile(path+".tmp", os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = temp.Write(data)
	if err = errors.Join(err, temp.Sync(), temp.Close()); err != nil {
		return err
	}
	return disk.Rename(path+".tmp", path)
}

// sync has the disk keep what was added.
func (b *box) sync() error {
	b.mu.Lock()
	files := b.unsynced
	b.unsynced = nil
	b.mu.Unlock()
	var failed error
	for _, f := range files {
		if err := f.Sync(); !errors.Is(err, os.ErrClosed) { // else it is done, or synced by close
			failed = errors.Join(failed, err)
		}
	}
	return failed
}

// left is how many messages wait, and how many are handed out.
func (b *box) left() (waiting, out int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, t := range b.out {
		if !t.done {
			out += len(t.messages)
		}
	}
	for _, t := range b.returned {
		out -= len(t.messages)
	}
	return b.waiting, out
}

// close leaves the box to another process, or removes it if there is nothing in it.
func (b *box) close(remove bool) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return nil
	}
	b.closed = true
	var err error
	for _, s := range b.segments {
		if s.file != nil {
			err = errors.Join(err, s.file.Sync(), s.file.Close())
		}
	}
	if remove && b.dir != "" {
		for _, s := range b.segments {
			_ = os.Remove(b.path(s.number))
		}
		_ = os.Remove(filepath.Join(b.dir, stateName))
		_ = os.Remove(filepath.Join(b.dir, stateName+".tmp"))
		_ = os.Remove(filepath.Join(b.dir, lockName))
		_ = os.Remove(b.dir)
	}
	err = errors.Join(err, b.unlock())
	if remove && b.dir != "" && runtime.GOOS == "windows" {
		// No file that is open is removed there. If another process has the lock by now, it
		// finds the box empty and removes it.
		_ = os.Remove(filepath.Join(b.dir, lockName))
		_ = os.Remove(b.dir)
	}
	return err
}
