// Package permit lets the programs of one user share a small number of permits
// through files in a folder.
//
// Each permit is a lock file, which the system frees when its holder ends,
// however it ends, and beside it a record that says when the permit may be used
// again. A record that says "in use" while nobody holds the lock is that of a
// holder that was killed. A pause is one more record, for all permits.
package permit

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

// Folder is where a number of permits are shared. It holds nothing open.
type Folder struct {
	// Path of the folder, which is made when it is first needed.
	Path string
	// Permits is how many there are. All who share the folder must agree.
	Permits int
	// LongestRest is how long a permit rests whose holder was killed, and the
	// longest that any rests: a record that says more is of a clock that was
	// turned back, and is not believed.
	LongestRest time.Duration
	// LongestPause is the same for a pause.
	LongestPause time.Duration
	// LongestUse is how long a permit can be in use. One that is held longer is
	// held by a program that was stopped, and is made anew.
	LongestUse time.Duration
}

// PausedError means that nobody may use a permit for that long.
type PausedError struct{ For time.Duration }

func (e *PausedError) Error() string { return fmt.Sprintf("paused for %s", e.For) }

// LateError means that the next permit would come after the deadline of the
// caller's context: in that time, or 0 if that is not known.
type LateError struct{ For time.Duration }

func (e *LateError) Error() string { return "no permit before the deadline" }

// pollEvery is how often somebody looks again who finds that a permit is held; a
// half of it to either side is left to chance.
const pollEvery = 20 * time.Millisecond

// Take waits for a permit, which the caller gives back by calling done, once,
// with the time that it is to rest. Who comes first is not always served first.
// Errors are a *PausedError, a *LateError, that of ctx, or one of the file
// system: then nothing is shared here.
func (f Folder) Take(ctx context.Context) (done func(rest time.Duration), err error) {
	stuck := make([]suspicion, f.Permits)
	for {
		if wait := f.Paused(); wait > 0 {
			return nil, &PausedError{wait}
		}
		wait := f.LongestRest // until the first permit is ready, if all are known
		busy := false
		for i := range f.Permits {
			done, ready, err := f.try(i)
			switch {
			case err != nil:
				return nil, err
			case done != nil:
				return done, nil
			case ready < 0:
				busy = true
				f.replaceStuck(i, &stuck[i])
			default:
				wait = min(wait, ready)
			}
		}
		nap := wait + rand.N(2*time.Millisecond)
		if busy {
			nap = min(nap, pollEvery/2+rand.N(pollEvery))
		} else if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) < wait {
			return nil, &LateError{wait}
		}
		if !sleep(ctx, nap) {
			if err := ctx.Err(); err != nil {
				return nil, err
			}
			return nil, &LateError{}
		}
	}
}

// try takes a permit if it can be had now. Else ready is when it can, or negative
// if somebody holds it.
func (f Folder) try(i int) (done func(rest time.Duration), ready time.Duration, err error) {
	if r := f.read(i); !r.inUse {
		if wait := within(time.Until(r.at), f.LongestRest); wait > 0 {
			return nil, wait, nil
		}
	}
	lock, err := f.tryLock(i)
	if err != nil {
		return nil, 0, err
	}
	if lock == nil {
		return nil, -1, nil
	}
	now := time.Now()
	last := f.read(i) // again, now that nobody else can write it
	if last.inUse {
		// Its holder was killed, and what it sent may be on its way still.
		last = record{false, now.Add(f.LongestRest)}
		err = f.write(i, last)
	}
	if wait := within(last.at.Sub(now), f.LongestRest); err != nil || wait > 0 {
		_ = lock.Close()
		return nil, wait, err
	}
	if err := f.write(i, record{true, now}); err != nil {
		_ = lock.Close()
		return nil, 0, err
	}
	return func(rest time.Duration) {
		_ = f.write(i, record{false, time.Now().Add(rest)})
		_ = lock.Close()
	}, 0, nil
}

// tryLock locks a permit; nil if somebody else holds it.
func (f Folder) tryLock(i int) (*flock.Flock, error) {
	lock, err := f.openLock(f.lockPath(i))
	if err != nil {
		return nil, err
	}
	ok, err := lock.TryLock()
	if err != nil {
		_ = lock.Close()
		return nil, err
	}
	if ok {
		// What was locked may have been replaced a moment before.
		if held, err := lock.Stat(); err == nil {
			if there, err := os.Stat(f.lockPath(i)); err == nil && os.SameFile(held, there) {
				return lock, nil
			}
		}
	}
	_ = lock.Close()
	return nil, nil
}

// openLock is a lock file that belongs to the owner of the folder, as the folder does
// to the owner of what is around it.
func (f Folder) openLock(path string) (*flock.Flock, error) {
	if err := owned.MkdirAll(f.Path, 0o700); err != nil {
		return nil, err
	}
	if err := owned.Touch(path, 0o600); err != nil {
		return nil, err
	}
	return flock.New(path, flock.SetPermissions(0o600), flock.SetFlag(owned.LockFlag())), nil
}

// suspicion is what a waiter has seen of a permit that is held for too long.
type suspicion struct {
	record record
	since  time.Time
}

// replaceStuck makes a new permit of one that a stopped program holds: in use
// for longer than any use takes, and unchanged while this waiter looks on.
func (f Folder) replaceStuck(i int, s *suspicion) {
	now := time.Now()
	r := f.read(i)
	switch {
	case !r.inUse || now.Sub(r.at) < f.LongestUse:
		*s = suspicion{}
	case s.record != r:
		*s = suspicion{r, now}
	case now.Sub(s.since) > time.Second:
		_ = os.Remove(f.lockPath(i))
		*s = suspicion{}
	}
}

// Paused is how much of a pause is left.
func (f Folder) Paused() time.Duration {
	r, _ := readRecord(f.pausePath())
	return max(0, within(time.Until(r.at), f.LongestPause))
}

// Pause keeps all from taking a permit for d. It does not cut a longer pause
// short.
func (f Folder) Pause(d time.Duration) {
	if f.Paused() >= d || owned.MkdirAll(f.Path, 0o700) != nil {
		return
	}
	_ = writeRecord(f.pausePath(), record{false, time.Now().Add(d)})
}

// within is a wait that can have been meant; one that is longer than that is
// none.
func within(wait, limit time.Duration) time.Duration {
	if wait > limit {
		return 0
	}
	return wait
}

// Usable reports why permits cannot be shared here; nil if they can. It takes no
// permit.
func (f Folder) Usable() error {
	lock, err := f.openLock(filepath.Join(f.Path, "try.lock"))
	if err != nil {
		return err
	}
	_, err = lock.TryLock()
	_ = lock.Close()
	if err != nil {
		return err
	}
	// Each file may be another user's: that of a program that the superuser ran.
	for i := range f.Permits {
		for _, path := range []string{f.lockPath(i), f.recordPath(i)} {
			if err := usable(path); err != nil {
				return err
			}
		}
	}
	return usable(f.pausePath())
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

// Sweep removes those of the folders in parent whose names begin with prefix and
// whose permits were not used for that long.
func Sweep(parent, prefix string, unused time.Duration) {
	entries, _ := os.ReadDir(parent)
	for _, entry := range entries {
		path := filepath.Join(parent, entry.Name())
		if !entry.IsDir() || !strings.HasPrefix(entry.Name(), prefix) {
			continue
		}
		// The first permit is the one that is tried first.
		info, err := os.Stat(Folder{Path: path}.recordPath(0))
		if err != nil {
			info, err = entry.Info()
		}
		if err == nil && time.Since(info.ModTime()) > unused {
			_ = os.RemoveAll(path)
		}
	}
}

func (f Folder) lockPath(i int) string {
	return filepath.Join(f.Path, strconv.Itoa(i+1)+".lock")
}

func (f Folder) recordPath(i int) string { return filepath.Join(f.Path, strconv.Itoa(i+1)) }

func (f Folder) pausePath() string { return filepath.Join(f.Path, "pause") }

// record is what a file says: that a permit is in use since then, or that it is
// ready from then on.
type record struct {
	inUse bool
	at    time.Time
}

// read is what is known of a permit. A record that is torn is that of a holder
// that was killed.
func (f Folder) read(i int) record {
	r, err := readRecord(f.recordPath(i))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return record{inUse: true, at: time.Now()}
	}
	return r
}

func (f Folder) write(i int, r record) error { return writeRecord(f.recordPath(i), r) }

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

func parseRecord(text string) (record, error) {
	var word string
	var nanos int64
	if n, err := fmt.Sscanf(text, "%5s %d\n", &word, &nanos); n != 2 || err != nil || nanos < 0 || word != "ready" && word != "inuse" {
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

// sleep waits for d, and reports whether it did: not when ctx ends before.
func sleep(ctx context.Context, d time.Duration) bool {
	if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) <= d {
		return false
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
