package pace

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/gofrs/flock"
	"github.com/polargate/polargate/internal/owned"
)

// SharedDir is a folder through which programs share a number of permits. Each permit is
// a lock file, which the system unlocks when its holder ends in any way, and a record beside
// it that says when the permit may be used again. If the record says "in use" but the lock is
// free, the holder was killed. A pause is one more record, for all permits. A SharedDir holds
// no file open.
type SharedDir struct {
	// Path of the folder, which is made when it is first needed.
	Path string
	// Permits is how many there are. All programs that share the folder must agree.
	Permits int
	// LongestRest is the longest rest of a permit, and the rest of one whose holder was
	// killed. A record of a longer one was written before the clock was set back, and is
	// ignored.
	LongestRest time.Duration
	// LongestPause is the same for a pause.
	LongestPause time.Duration
	// LongestUse is how long a permit can be in use. If a suspended program holds one for
	// longer, the permit is replaced.
	LongestUse time.Duration

	remove func(string) error // replaces os.Remove in tests
}

// pollEvery is how often a caller looks again at a permit that is held, give or take a half:
// files don't report changes.
const pollEvery = 20 * time.Millisecond

// Take waits for a permit, which the caller returns by calling done, once, with the time
// for which it has to rest. Callers are not always served in the order of arrival. The error
// is a *PausedError, a *LateError, that of ctx, or one of the file system, which means that
// nothing can be shared here.
func (dir SharedDir) Take(ctx context.Context) (done func(rest time.Duration), err error) {
	held := make([]stuck, dir.Permits)
	for {
		if wait := dir.Paused(); wait > 0 {
			return nil, &PausedError{wait}
		}
		wait := dir.LongestRest // until the first permit is ready, if all are known
		busy := false
		for i := range dir.Permits {
			done, ready, err := dir.try(i)
			switch {
			case err != nil:
				return nil, err
			case done != nil:
				return done, nil
			case ready < 0:
				busy = true
				dir.replaceStuck(i, &held[i])
			default:
				wait = min(wait, ready)
			}
		}
		nap := wait + rand.N(2*time.Millisecond)
		if busy {
			nap = min(nap, pollEvery/2+rand.N(pollEvery))
		} else if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) < wait {
			return nil, &LateError{For: wait}
		}
		if !Sleep(ctx, nap) {
			if err := ctx.Err(); err != nil {
				return nil, err
			}
			return nil, &LateError{}
		}
	}
}

// try takes a permit if it is free now. Otherwise, ready is how long until it will be, or
// negative if another caller holds it.
func (dir SharedDir) try(i int) (done func(rest time.Duration), ready time.Duration, err error) {
	if r := dir.read(i); !r.inUse {
		if wait := Within(time.Until(r.at), dir.LongestRest); wait > 0 {
			return nil, wait, nil
		}
	}
	lock, err := dir.tryLock(i)
	if err != nil {
		return nil, 0, err
	}
	if lock == nil {
		return nil, -1, nil
	}
	now := time.Now()
	last := dir.read(i) // again, now that no other caller can write it
	if last.inUse {
		// Its holder was killed, and a request of that may still be on its way.
		last = record{false, now.Add(dir.LongestRest)}
		err = dir.write(i, last)
	}
	if wait := Within(last.at.Sub(now), dir.LongestRest); err != nil || wait > 0 {
		_ = lock.Close()
		return nil, wait, err
	}
	if err := dir.write(i, record{true, now}); err != nil {
		_ = lock.Close()
		return nil, 0, err
	}
	return func(rest time.Duration) {
		_ = dir.write(i, record{false, time.Now().Add(rest)})
		_ = lock.Close()
	}, 0, nil
}

// tryLock locks a permit. It returns nil if another caller holds it.
func (dir SharedDir) tryLock(i int) (*flock.Flock, error) {
	lock, err := dir.openLock(dir.lockPath(i, dir.lastLock(i)))
	if err != nil {
		return nil, err
	}
	ok, err := lock.TryLock()
	if err != nil {
		_ = lock.Close()
		return nil, err
	}
	if ok {
		// The file that was locked may have been replaced a moment before.
		if held, err := lock.Stat(); err == nil {
			if there, err := os.Stat(dir.lockPath(i, dir.lastLock(i))); err == nil && os.SameFile(held, there) {
				return lock, nil
			}
		}
	}
	_ = lock.Close()
	return nil, nil
}

// openLock makes a lock file if there is none. It belongs to the owner of the folder, and the
// folder to the owner of the one around it.
func (dir SharedDir) openLock(path string) (*flock.Flock, error) {
	if err := owned.MkdirAll(dir.Path, 0o700); err != nil {
		return nil, err
	}
	if err := owned.Touch(path, 0o600); err != nil {
		return nil, err
	}
	return flock.New(path, flock.SetPermissions(0o600), flock.SetFlag(owned.LockFlag())), nil
}

// stuck is what a caller has seen of a permit that is held for too long.
type stuck struct {
	record record
	lock   int // number of the lock file
	since  time.Time
}

// replaceStuck replaces a permit that a suspended program holds: one that is in use for longer
// than any use takes, and unchanged while this caller watches.
func (dir SharedDir) replaceStuck(i int, seen *stuck) {
	now := time.Now()
	r, lock := dir.read(i), dir.lastLock(i)
	switch {
	case !r.inUse || now.Sub(r.at) < dir.LongestUse:
		*seen = stuck{}
	case seen.record != r || seen.lock != lock:
		*seen = stuck{r, lock, now}
	case now.Sub(seen.since) > time.Second:
		dir.replaceLock(i, lock)
		*seen = stuck{}
	}
}

// replaceLock has the permit use another lock file. Windows doesn't remove an open file, so
// the next one has a new name there.
func (dir SharedDir) replaceLock(i, lock int) {
	remove := dir.remove
	if remove == nil {
		remove = os.Remove
	}
	if remove(dir.lockPath(i, lock)) == nil {
		return
	}
	_ = owned.Touch(dir.lockPath(i, lock+1), 0o600)
}

// lastLock is the number of the lock file that a permit uses: the last of a row.
func (dir SharedDir) lastLock(i int) (lock int) {
	for {
		if _, err := os.Stat(dir.lockPath(i, lock+1)); err != nil {
			return lock
		}
		lock++
	}
}

// Paused is how much of a pause is left.
func (dir SharedDir) Paused() time.Duration {
	r, _ := readRecord(dir.pausePath())
	return max(0, Within(time.Until(r.at), dir.LongestPause))
}

// Pause holds all permits for d. It doesn't shorten a longer pause.
func (dir SharedDir) Pause(d time.Duration) {
	if dir.Paused() >= d || owned.MkdirAll(dir.Path, 0o700) != nil {
		return
	}
	_ = writeRecord(dir.pausePath(), record{false, time.Now().Add(d)})
}

// Usable reports why permits can't be shared here; nil if they can. It takes no permit.
func (dir SharedDir) Usable() error {
	lock, err := dir.openLock(filepath.Join(dir.Path, "try.lock"))
	if err != nil {
		return err
	}
	_, err = lock.TryLock()
	_ = lock.Close()
	if err != nil {
		return err
	}
	// A file may belong to another user, if the superuser ran a program.
	for i := range dir.Permits {
		for _, path := range []string{dir.lockPath(i, dir.lastLock(i)), dir.recordPath(i)} {
			if err := usable(path); err != nil {
				return err
			}
		}
	}
	return usable(dir.pausePath())
}

func usable(path string) error {
	file, err := owned.OpenFile(path, os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return file.Close()
}

// sweep removes the folders in parent whose names begin with prefix and whose permits
// were not used for that long.
func sweep(parent, prefix string, unused time.Duration) {
	entries, _ := os.ReadDir(parent)
	for _, entry := range entries {
		path := filepath.Join(parent, entry.Name())
		if !entry.IsDir() || !strings.HasPrefix(entry.Name(), prefix) {
			continue
		}
		// The first permit is the one that is tried first.
		info, err := os.Stat(SharedDir{Path: path}.recordPath(0))
		if err != nil {
			info, err = entry.Info()
		}
		if err == nil && time.Since(info.ModTime()) > unused {
			removeFolder(path)
		}
	}
}

// removeFolder removes a folder that has only files. os.RemoveAll would do too, and is not
// linked for anything else.
func removeFolder(path string) {
	files, _ := os.ReadDir(path)
	for _, file := range files {
		_ = os.Remove(filepath.Join(path, file.Name()))
	}
	_ = os.Remove(path)
}

// lockPath is a lock file of a permit: 1.lock, or 1-2.lock if it is not the first.
func (dir SharedDir) lockPath(i, lock int) string {
	name := strconv.Itoa(i + 1)
	if lock > 0 {
		name += "-" + strconv.Itoa(lock+1)
	}
	return filepath.Join(dir.Path, name+".lock")
}

func (dir SharedDir) recordPath(i int) string { return filepath.Join(dir.Path, strconv.Itoa(i+1)) }

func (dir SharedDir) pausePath() string { return filepath.Join(dir.Path, "pause") }

// record is the content of a file: since when a permit is in use, or when it is ready again.
type record struct {
	inUse bool
	at    time.Time
}

// read reads the record of a permit. If it is torn, its holder was killed.
func (dir SharedDir) read(i int) record {
	r, err := readRecord(dir.recordPath(i))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return record{inUse: true, at: time.Now()}
	}
	return r
}

func (dir SharedDir) write(i int, r record) error { return writeRecord(dir.recordPath(i), r) }

// A record has one length, and is written over the last one: "ready" or "inuse"
// and nanoseconds since 1970.
const recordFormat = "%s %019d\n"

var errTorn = errors.New("not a record")

func readRecord(path string) (record, error) {
	file, err := os.Open(path)
	if err != nil {
		return record{}, err
	}
	defer file.Close()
	text, err := io.ReadAll(io.LimitReader(file, 64))
	if err != nil {
		return record{}, err
	}
	return parseRecord(string(text))
}

// parseRecord needs no fmt.Sscanf, which would make each program 65 kB larger.
func parseRecord(text string) (record, error) {
	word, rest, _ := strings.Cut(text, " ")
	digits, _, _ := strings.Cut(rest, "\n")
	nanos, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || nanos < 0 || word != "ready" && word != "inuse" {
		return record{}, errTorn
	}
	return record{word == "inuse", time.Unix(0, nanos)}, nil
}

func writeRecord(path string, r record) error {
	word := "ready"
	if r.inUse {
		word = "inuse"
	}
	file, err := owned.OpenFile(path, os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	_, err = file.WriteAt(fmt.Appendf(nil, recordFormat, word, max(0, r.at.UnixNano())), 0)
	return errors.Join(err, file.Close())
}
