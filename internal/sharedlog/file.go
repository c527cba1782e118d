package sharedlog

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/polargate/polargate/internal/disk"
)

// The file is a header, and after it one frame for each item that was put, in their
// order. A frame ends the one before it with the same kind and key.
//
//	header   8 bytes "PGSHARE" and the version, 16 bytes that are new in each file
//	frame    4 bytes mark, 4 bytes CRC-32C of all that follows, 4 bytes length of it,
//	         1 byte kind, 8 bytes at, 8 bytes until, 2 bytes length of the key,
//	         2 bytes length of the head, key, head, data
//
// Numbers are big-endian. A process that appends holds a lock. One that reads doesn't, and
// takes an incomplete frame for the end of the file. If a writer was killed, the next one cuts
// off its incomplete frame.
const (
	magic      = "PGSHARE"
	version    = '1'
	headerSize = 8 + 16
	mark       = 0xF5C4B7A1
	frameSize  = 12 // before what the checksum is of
	fixedSize  = 1 + 8 + 8 + 2 + 2
	// maxBody bounds what is read as one frame.
	maxBody = 1 << 20
	// compactFrom is the size from which a file is written anew once more than half
	// of it has ended.
	compactFrom = 1 << 20
	// maxLive bounds the file: beyond it, what ends first goes first.
	maxLive = 1 << 30
	// lockEvery is how often a lock that is held is tried again.
	lockEvery = time.Millisecond
)

var order = binary.BigEndian

// castagnoli is the table of the checksums. A variable would be linked into programs that have
// no such file.
func castagnoli() *crc32.Table { return crc32.MakeTable(crc32.Castagnoli) }

// file is what is known of the file.
type file struct {
	seen       fs.FileInfo // as of the last look
	generation [16]byte
	end        int64 // after the last whole frame that was read
	loaded     bool  // it was read before, so that news can be told
	damaged    bool  // to be written anew
	compactAt  int64 // not before it is that large
	unreadable atomic.Int64
	limit      int64 // instead of maxLive, in tests
}

// Unreadable is how many bytes could not be read and were skipped.
func (l *Log) Unreadable() int64 { return l.file.unreadable.Load() }

func (l *Log) viewFile(look func(*Tx) error) error {
	f, whole, err := l.catchUp(false)
	if err == nil && !whole {
		// Another process may be writing, or was killed while it wrote, or the file was
		// damaged. If no process is writing, it can be mended now.
		if f != nil {
			_ = f.Close()
		}
		f, err = l.mend()
	}
	if err != nil {
		return err
	}
	tx := l.begin()
	tx.read = l.reader(&f)
	defer func() {
		if f != nil {
			_ = f.Close()
		}
	}()
	return look(tx)
}

// mend reads the file as a writer does if no other process is writing, and else leaves
// it as it is.
func (l *Log) mend() (*os.File, error) {
	locked, err := l.lock.TryLock()
	switch {
	case withoutLocks(err):
	case err != nil || !locked:
		return nil, nil // what can be read is read
	default:
		defer func() { _ = l.lock.Unlock() }()
	}
	f, _, err := l.catchUp(true)
	if err != nil {
		return nil, nil
	}
	return f, nil
}

// reader reads an item's data. It opens the file if that is still to be done.
func (l *Log) reader(f **os.File) func(keyOf, place) []byte {
	return func(k keyOf, p place) []byte {
		if *f == nil {
			opened, err := l.openKnown()
			if err != nil {
				return nil
			}
			*f = opened
		}
		frame := make([]byte, p.size)
		if _, err := (*f).ReadAt(frame, p.off); err != nil {
			return nil
		}
		e, ok := parse(frame)
		if !ok || e.kind != k.kind || string(e.key) != k.key {
			l.file.unreadable.Add(int64(p.size))
			l.file.damaged = true
			return nil
		}
		return e.data
	}
}

// openKnown opens the file if it is still the one that was read.
func (l *Log) openKnown() (*os.File, error) {
	f, err := disk.Open(l.path)
	if err != nil {
		return nil, err
	}
	var header [headerSize]byte
	if _, err := f.ReadAt(header[:], 0); err != nil || !bytes.Equal(header[8:], l.file.generation[:]) {
		_ = f.Close()
		return nil, errors.Join(err, fs.ErrNotExist)
	}
	return f, nil
}

func (l *Log) updateFile(ctx context.Context, change func(*Tx) error) error {
	if err := os.MkdirAll(filepath.Dir(l.path), 0o700); err != nil {
		return err
	}
	_, err := l.lock.TryLockContext(ctx, lockEvery)
	if err == nil {
		defer func() { _ = l.lock.Unlock() }()
	} else if !withoutLocks(err) {
		return err
	}
	f, _, err := l.catchUp(true)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	tx := l.begin()
	tx.read = l.reader(&f)
	if err := change(tx); err != nil {
		return err
	}
	if err := l.append(f, tx.puts); err != nil {
		return err
	}
	l.prune(tx.Now)
	if l.file.damaged || l.file.end > max(compactFrom, l.file.compactAt) && l.file.end > 2*l.live || l.live > l.most() {
		if err := l.compact(f, tx.Now); err != nil {
			l.file.compactAt = 2 * l.file.end // the file is as good as before
		}
	}
	return nil
}

// withoutLocks reports whether the system has no file locks at all, so that no other
// process shares the file. A file system that has none is an error: others may share it.
func withoutLocks(err error) bool {
	failure, ok := errors.AsType[*fs.PathError](err)
	return ok && failure.Err == errors.ErrUnsupported
}

func (l *Log) most() int64 {
	if l.file.limit != 0 {
		return l.file.limit
	}
	return maxLive
}

// append writes frames at the end, with one call.
func (l *Log) append(f *os.File, puts []put) error {
	if len(puts) == 0 {
		return nil
	}
	var frames []byte
	places := make([]place, len(puts))
	for i, p := range puts {
		from := len(frames)
		var err error
		if frames, err = appendFrame(frames, p); err != nil {
			return err
		}
		places[i] = place{at: p.item.At, until: p.item.Until, head: p.item.Head, off: l.file.end + int64(from), size: int32(len(frames) - from)}
	}
	if _, err := f.WriteAt(frames, l.file.end); err != nil {
		_ = f.Truncate(l.file.end) // or the next writer does
		return err
	}
	l.file.end += int64(len(frames))
	l.file.seen, _ = f.Stat()
	for i, p := range puts {
		l.apply(p.keyOf, places[i])
	}
	return nil
}

// apply notes an item that is in the file.
func (l *Log) apply(k keyOf, p place) {
	if p.until == 0 {
		l.remove(k)
	} else {
		l.set(k, p)
	}
	if l.file.loaded {
		l.changed(k)
	}
}

func appendFrame(b []byte, p put) ([]byte, error) {
	length := fixedSize + len(p.key) + len(p.item.Head) + len(p.item.Data)
	if length > maxBody || len(p.key) > math.MaxUint16 || len(p.item.Head) > math.MaxUint16 {
		return nil, errors.New("an item is too large")
	}
	from := len(b)
	b = order.AppendUint32(b, mark)
	b = order.AppendUint32(b, 0)
	b = order.AppendUint32(b, uint32(length))
	b = append(b, p.kind)
	b = order.AppendUint64(b, uint64(p.item.At))
	b = order.AppendUint64(b, uint64(p.item.Until))
	b = order.AppendUint16(b, uint16(len(p.key)))
	b = order.AppendUint16(b, uint16(len(p.item.Head)))
	b = append(b, p.key...)
	b = append(b, p.item.Head...)
	b = append(b, p.item.Data...)
	order.PutUint32(b[from+4:], crc32.Checksum(b[from+8:], castagnoli()))
	return b, nil
}

// frame is what one says. Its texts are parts of the bytes it was read from.
type frame struct {
	kind            byte
	at, until       int64
	key, head, data []byte
}

// frameLength is the length of the frame that b begins with, or 0 if none does.
func frameLength(b []byte) int {
	if len(b) < frameSize || order.Uint32(b) != mark {
		return 0
	}
	length := order.Uint32(b[8:])
	if length < fixedSize || length > maxBody {
		return 0
	}
	return frameSize + int(length)
}

// parse reads the frame that b begins with.
func parse(b []byte) (f frame, ok bool) {
	size := frameLength(b)
	if size == 0 || len(b) < size || crc32.Checksum(b[8:size], castagnoli()) != order.Uint32(b[4:]) {
		return frame{}, false
	}
	body := b[frameSize:size]
	keyLength, headLength := int(order.Uint16(body[17:])), int(order.Uint16(body[19:]))
	if fixedSize+keyLength+headLength > len(body) {
		return frame{}, false
	}
	f = frame{kind: body[0], at: int64(order.Uint64(body[1:])), until: int64(order.Uint64(body[9:]))}
	rest := body[fixedSize:]
	f.key, f.head, f.data = rest[:keyLength], rest[keyLength:keyLength+headLength], rest[keyLength+headLength:]
	return f, true
}

// catchUp reads what was appended since the last look. With the lock held it makes the
// file if there is none, cuts off what is not whole at its end, and opens it for
// writing. Without, the file is nil if there is nothing new, and whole tells whether
// all of it could be read.
func (l *Log) catchUp(locked bool) (f *os.File, whole bool, err error) {
	if !locked {
		now, err := os.Stat(l.path)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			l.forget(l.file.seen != nil)
			l.file.loaded = true
			return nil, true, nil
		case err != nil:
			return nil, false, err
		case l.unchanged(now):
			return nil, true, nil
		}
	}
	f, err = l.open(locked)
	if err != nil {
		return nil, false, err
	}
	defer func() {
		if err != nil {
			_ = f.Close()
			f = nil
		}
	}()
	now, err := f.Stat()
	if err != nil {
		return f, false, err
	}
	if l.unchanged(now) {
		return f, true, nil
	}
	var header [headerSize]byte
	if n, err := f.ReadAt(header[:], 0); n < headerSize || string(header[:8]) != magic+string(version) {
		if err != nil && !errors.Is(err, io.EOF) {
			return f, false, err
		}
		if !locked {
			return f, false, nil
		}
		if f, err = l.makeHeader(f, header[:n]); err != nil {
			return f, false, err
		}
		if now, err = f.Stat(); err != nil {
			return f, false, err
		}
		copy(header[8:], l.file.generation[:])
	}
	if !bytes.Equal(header[8:], l.file.generation[:]) || now.Size() < l.file.end || l.file.end < headerSize {
		l.forget(l.file.loaded)
		copy(l.file.generation[:], header[8:])
		l.file.end = headerSize
	}
	size := now.Size()
	if err := l.scan(f, size); err != nil {
		return f, false, err
	}
	whole = l.file.end == size
	if locked && !whole {
		if err := l.heal(f, size); err != nil {
			return f, false, err
		}
		whole = true
	}
	l.file.loaded = true
	if l.file.seen, err = f.Stat(); err != nil {
		return f, false, err
	}
	return f, whole, nil
}

// unchanged reports whether all of that file was read already. Its time counts as well,
// since a number of a file that is gone is soon another file's.
func (l *Log) unchanged(now fs.FileInfo) bool {
	seen := l.file.seen
	return seen != nil && os.SameFile(seen, now) && now.Size() == l.file.end && now.ModTime().Equal(seen.ModTime())
}

func (l *Log) open(locked bool) (*os.File, error) {
	if !locked {
		return disk.Open(l.path)
	}
	return disk.OpenFile(l.path, os.O_RDWR|os.O_CREATE, 0o600)
}

// forget begins anew with another file. What changes by that is not told one by one.
func (l *Log) forget(tell bool) {
	l.items, l.live = map[byte]map[string]place{}, 0
	l.file.seen, l.file.end, l.file.generation = nil, 0, [16]byte{}
	if tell {
		l.missed()
	}
	l.file.loaded = false
}

// makeHeader writes the header of an empty file. A file of another kind is set aside, because it
// may be worth keeping.
func (l *Log) makeHeader(f *os.File, found []byte) (*os.File, error) {
	if len(found) >= 8 && string(found[:7]) == magic && found[7] != version {
		return f, fmt.Errorf("%s was written by another version of this library: use that version, or another file", l.path)
	}
	begun := append([]byte(magic), version)
	if len(found) > 0 && !bytes.HasPrefix(begun, found) && !bytes.HasPrefix(found, begun) {
		if info, err := f.Stat(); err == nil {
			l.file.unreadable.Add(info.Size())
		}
		_ = f.Close()
		if err := disk.Rename(l.path, l.path+".corrupt"); err != nil {
			return f, err
		}
		var err error
		if f, err = l.open(true); err != nil {
			return f, err
		}
	}
	if err := f.Truncate(0); err != nil {
		return f, err
	}
	l.forget(len(l.items) > 0)
	header, generation := newHeader()
	if _, err := f.WriteAt(header, 0); err != nil {
		return f, err
	}
	l.file.generation = generation
	return f, nil
}

func newHeader() (header []byte, generation [16]byte) {
	_, _ = rand.Read(generation[:])
	header = append(append([]byte(magic), version), generation[:]...)
	return header, generation
}

// scan applies whole frames from the end of what was read to a size of the file, or to
// the first that is not whole.
func (l *Log) scan(f io.ReaderAt, size int64) error {
	buffer := make([]byte, min(size-l.file.end, maxBody+frameSize))
	for l.file.end < size {
		part := buffer[:min(size-l.file.end, int64(len(buffer)))]
		n, err := f.ReadAt(part, l.file.end)
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		part = part[:n]
		used := 0
		for {
			frame, ok := parse(part[used:])
			if !ok {
				break
			}
			length := frameLength(part[used:])
			l.apply(keyOf{frame.kind, string(frame.key)}, place{
				at: frame.at, until: frame.until, head: string(frame.head), off: l.file.end + int64(used), size: int32(length),
			})
			used += length
		}
		l.file.end += int64(used)
		if used == 0 {
			return nil
		}
	}
	return nil
}

// heal skips bytes that are no frame, or cuts them off if no frame follows. The lock is held,
// so no process is writing them.
func (l *Log) heal(f *os.File, size int64) error {
	for l.file.end < size {
		next, err := l.nextFrame(f, l.file.end+1, size)
		if err != nil {
			return err
		}
		if next < 0 { // a process was killed while it wrote
			return f.Truncate(l.file.end)
		}
		l.file.unreadable.Add(next - l.file.end)
		l.file.damaged = true
		l.file.end = next
		if err := l.scan(f, size); err != nil {
			return err
		}
	}
	return nil
}

// nextFrame finds a whole frame from there on; it is negative if there is none.
func (l *Log) nextFrame(f io.ReaderAt, from, size int64) (int64, error) {
	var sign [4]byte
	order.PutUint32(sign[:], mark)
	buffer := make([]byte, 1<<20)
	for from < size {
		n, err := f.ReadAt(buffer[:min(int64(len(buffer)), size-from)], from)
		if err != nil && !errors.Is(err, io.EOF) {
			return 0, err
		}
		part := buffer[:n]
		for at := 0; ; at++ {
			i := bytes.Index(part[at:], sign[:])
			if i < 0 {
				break
			}
			at += i
			head := make([]byte, frameSize)
			if _, err := f.ReadAt(head, from+int64(at)); err != nil {
				break
			}
			length := frameLength(head)
			if length == 0 || from+int64(at+length) > size {
				continue
			}
			whole := make([]byte, length)
			if _, err := f.ReadAt(whole, from+int64(at)); err == nil {
				if _, ok := parse(whole); ok {
					return from + int64(at), nil
				}
			}
		}
		from += int64(max(1, n-len(sign)+1))
		if n < len(sign) {
			break
		}
	}
	return -1, nil
}

// compact writes what has not ended into a new file, which takes the place of the old.
// The lock is held. Other processes see that it is another file and read it anew.
func (l *Log) compact(f *os.File, now int64) (err error) {
	type kept struct {
		keyOf
		place
	}
	var all []kept
	for kind, items := range l.items {
		for key, p := range items {
			if now < p.until {
				all = append(all, kept{keyOf{kind, key}, p})
			}
		}
	}
	if l.live > l.most() { // make room for a while
		slices.SortFunc(all, func(a, b kept) int { return -order64(a.until, b.until) })
		for room, i := l.most()/2, 0; i < len(all); i++ {
			if room -= int64(all[i].size); room < 0 {
				all = all[:i]
				break
			}
		}
	}
	slices.SortFunc(all, func(a, b kept) int { return order64(a.off, b.off) })

	sweep(l.path)
	temp, err := os.CreateTemp(filepath.Dir(l.path), filepath.Base(l.path)+".*.tmp") // with mode 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = temp.Close()
			_ = os.Remove(temp.Name())
		}
	}()
	header, generation := newHeader()
	pending, end := header, int64(len(header))
	items, live := map[byte]map[string]place{}, int64(0)
	for _, k := range all {
		at := len(pending)
		pending = append(pending, make([]byte, k.size)...)
		if _, err := f.ReadAt(pending[at:], k.off); err != nil {
			return err
		}
		if _, ok := parse(pending[at:]); !ok {
			l.file.unreadable.Add(int64(k.size))
			pending = pending[:at]
			continue
		}
		k.off = end
		end += int64(k.size)
		live += int64(k.size)
		if items[k.kind] == nil {
			items[k.kind] = make(map[string]place, len(l.items[k.kind]))
		}
		items[k.kind][k.key] = k.place
		if len(pending) > 1<<20 {
			if _, err := temp.Write(pending); err != nil {
				return err
			}
			pending = pending[:0]
		}
	}
	if _, err := temp.Write(pending); err != nil {
		return err
	}
	if err := temp.Sync(); err != nil {
		return err
	}
	seen, err := temp.Stat()
	if err != nil {
		return err
	}
	if err := temp.Close(); err != nil {
		return err
	}
	// Windows replaces no file that this process has open for writing.
	_ = f.Close()
	if err := disk.Rename(temp.Name(), l.path); err != nil {
		return err
	}
	syncFolder(filepath.Dir(l.path))
	if again, err := os.Stat(l.path); err == nil {
		seen = again
	}
	l.items, l.live = items, live
	l.file.seen, l.file.generation, l.file.end, l.file.damaged = seen, generation, end, false
	l.file.compactAt = 0
	return nil
}

func order64(a, b int64) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// syncFolder makes a rename last, where the system can.
func syncFolder(path string) {
	if runtime.GOOS == "windows" {
		return
	}
	if folder, err := os.Open(path); err == nil {
		_ = folder.Sync()
		_ = folder.Close()
	}
}

// sweep removes incomplete files that a crash left. The lock is held, so no process is writing.
func sweep(path string) {
	folder, base := filepath.Split(path)
	entries, _ := os.ReadDir(filepath.Clean(folder + "."))
	for _, entry := range entries {
		if strings.HasPrefix(entry.Name(), base+".") && strings.HasSuffix(entry.Name(), ".tmp") {
			_ = os.Remove(filepath.Join(folder, entry.Name()))
		}
	}
}
