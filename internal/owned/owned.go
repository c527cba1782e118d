// Package owned makes files and folders that belong to the owner of the folder they are in.
// Otherwise, a program that the superuser runs once with another user's home would leave
// files there that lock this user out. For other users, and on systems where files have no
// such owners, it does what package os does.
//
// It changes the owner only of what it made itself, and through the open file, so that a
// link can't redirect the change.
package owned

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
)

// MkdirAll is os.MkdirAll. The folders that it makes get the owner of the folder around them.
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
			break // os.MkdirAll says why, or finds that another process was faster
		}
		if f, err := os.OpenFile(folder, os.O_RDONLY|onlyFolder|noFollow, 0); err == nil {
			give(f, filepath.Dir(folder))
			_ = f.Close()
		}
	}
	return os.MkdirAll(path, perm)
}

// Permit gives a folder permissions, whatever this user's mask took away when it was made. It
// doesn't follow a link.
func Permit(folder string, perm fs.FileMode) error {
	if runtime.GOOS == "windows" {
		return nil // a folder has the rights of the one around it
	}
	f, err := os.OpenFile(folder, os.O_RDONLY|onlyFolder|noFollow, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Chmod(perm)
}

// OpenFile is os.OpenFile. A file that it makes gets the owner of its folder. For the
// superuser, it doesn't follow a link at the end of path, which the folder's owner may have
// put there.
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

// LinkFlag is the flag that keeps the superuser from opening what a link points to; 0 for
// other users.
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

// LockFlag has the flags for opening, or making, a file to lock.
func LockFlag() int {
	flag := os.O_CREATE | LinkFlag()
	switch runtime.GOOS {
	case "aix", "solaris", "illumos":
		flag |= os.O_RDWR // only files that can be written are locked there
	}
	return flag
}

// Keep gives a new file the owner of the file at path, which it is about to replace. If there
// is none, or if it is the superuser's, the new file gets the owner of the folder. A failure
// isn't reported, because the file can be used anyway.
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

// Whose is the owner of a file, for reports. They don't contain the names of users.
type Whose string

const (
	// Unknown: the system doesn't tell, or not in a way that this package knows.
	Unknown Whose = ""
	// Own: it belongs to the user who runs this program.
	Own Whose = "this user"
	// Root: it belongs to the superuser.
	Root Whose = "root"
	// Others: it belongs to another user.
	Others Whose = "another user"
)
