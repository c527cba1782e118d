// Package owned makes files and folders that belong to the owner of the folder they
// are in. A program that the superuser runs once with another user's home would
// otherwise leave files there that lock this user out. For everybody else, and where
// files have no such owners, it does what package os does.
//
// Only what was made here changes hands, through its open file, so that no link can
// make it something else.
package owned

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
)

// MkdirAll is os.MkdirAll, with the folders that it makes.
func MkdirAll(path string, perm fs.FileMode) error {
	if !privileged() {
		return os.MkdirAll(path, perm)
	}
	var missing []string
	for folder := filepath.Clean(path); folder != filepath.Dir(folder); folder = filepath.Dir(folder) {
		if _, err := os.Stat(folder); err == nil {
			break
		}
		missing = append(missing, folder)
	}
	for _, folder := range slices.Backward(missing) {
		if err := os.Mkdir(folder, perm); err != nil {
			break // os.MkdirAll says why, or finds that somebody else was faster
		}
		if f, err := os.OpenFile(folder, os.O_RDONLY|onlyFolder|noFollow, 0); err == nil {
			give(f, filepath.Dir(folder))
			_ = f.Close()
		}
	}
	return os.MkdirAll(path, perm)
}

// OpenFile is os.OpenFile, with the file that it makes. It does not follow a link at
// the end of path for the superuser: whoever owns the folder could have put it there.
func OpenFile(path string, flag int, perm fs.FileMode) (*os.File, error) {
	if !privileged() || flag&os.O_CREATE == 0 {
		return os.OpenFile(path, flag|LinkFlag(), perm)
	}
	f, err := os.OpenFile(path, flag|os.O_EXCL, perm)
	if errors.Is(err, fs.ErrExist) {
		return os.OpenFile(path, flag|noFollow, perm)
	}
	if err == nil {
		give(f, filepath.Dir(path))
	}
	return f, err
}

// LinkFlag is what keeps the superuser from opening what a link points to; 0 for
// everybody else.
func LinkFlag() int {
	if privileged() {
		return noFollow
	}
	return 0
}

// Touch makes an empty file if there is none.
func Touch(path string, perm fs.FileMode) error {
	f, err := OpenFile(path, LockFlag(), perm)
	if err != nil {
		return err
	}
	return f.Close()
}

// LockFlag is with what a file is opened, and made, to be locked.
func LockFlag() int {
	flag := os.O_CREATE | LinkFlag()
	switch runtime.GOOS {
	case "aix", "solaris", "illumos":
		flag |= os.O_RDWR // only files that can be written are locked there
	}
	return flag
}

// Keep gives a new file the owner of the file at path, which it is about to replace;
// if there is none, or if it is the superuser's, that of the folder. A failure is not
// reported: the file is good, if not for everybody.
func Keep(f *os.File, path string) {
	if !privileged() {
		return
	}
	if info, err := os.Lstat(path); err == nil && !OfRoot(info) {
		giveAs(f, info)
		return
	}
	give(f, filepath.Dir(path))
}

// give gives a new file the owner of a folder.
func give(f *os.File, folder string) {
	if info, err := os.Stat(folder); err == nil && !OfRoot(info) {
		giveAs(f, info)
	}
}

// Whose is the owner of a file as it is told to people. Names of users are not.
type Whose string

const (
	// Unknown: the system does not tell, or not in a way that is known here.
	Unknown Whose = ""
	// Own: it belongs to the user who runs this program.
	Own Whose = "this user"
	// Root: it belongs to the superuser.
	Root Whose = "root"
	// Others: it belongs to another user.
	Others Whose = "another user"
)
