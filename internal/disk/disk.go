// Package disk evens out how systems treat files: it lists the errors by which a file system
// says that it can't do something that others can, and opens and renames files that other
// programs hold open or that are protected against writing. The lists may be incomplete: an
// error that is in none can still mean that.
package disk

import (
	"errors"
	"io/fs"
	"math/rand/v2"
	"os"
	"slices"
	"time"
)

// Open opens a file for reading. It doesn't keep others from renaming or removing the file
// meanwhile, and waits for a moment if they hold it.
func Open(path string) (f *os.File, err error) {
	err = patiently(ofOpening, func() error { f, err = open(path); return err })
	return f, err
}

// OpenFile is os.OpenFile. It waits for a moment if others hold the file, and takes the
// attribute "read-only" off it.
func OpenFile(path string, flag int, perm fs.FileMode) (f *os.File, err error) {
	err = patiently(ofOpening, func() error {
		return unprotected(path, func() error { f, err = os.OpenFile(path, flag, perm); return err })
	})
	return f, err
}

// Rename is os.Rename within a folder. It replaces a file that others have opened if they
// allow that, as Open does, and waits for them otherwise. The attribute "read-only" doesn't
// protect the file that is replaced.
func Rename(from, to string) error {
	return patiently(ofRenaming, func() error {
		return unprotected(to, func() error { return rename(from, to) })
	})
}

// Unprotect takes the attribute "read-only" of Windows off a file, and reports whether it
// had it. File managers and backups set it.
func Unprotect(path string) bool { return unprotect(path) }

func unprotected(path string, do func() error) error {
	err := do()
	if errors.Is(err, fs.ErrPermission) && unprotect(path) {
		err = do()
	}
	return err
}

// patience is how long something is tried again if it fails with one of these errors.
type patience struct {
	of    []error
	lasts time.Duration
}

// long is for what only means that somebody holds a file, brief for what can also be a
// refusal for good, so that nobody waits for nothing.
const (
	long  = 2 * time.Second
	brief = 250 * time.Millisecond
)

// patiently tries again what others prevent who hold a file open for a moment: virus
// scanners, indexers, other copies of the program. If they come back every few
// milliseconds, pauses that grow would meet them again and again. So the pauses stay short,
// and differ.
func patiently(with []patience, do func() error) error {
	start := time.Now()
	for {
		err := do()
		if err == nil || !slices.ContainsFunc(with, func(p patience) bool {
			return time.Since(start) < p.lasts && slices.ContainsFunc(p.of, func(e error) bool { return errors.Is(err, e) })
		}) {
			return err
		}
		time.Sleep(2*time.Millisecond + rand.N(8*time.Millisecond))
	}
}
