package disk

import (
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/windows"
)

var (
	// NoLocks are the errors of file systems and network drives without locks.
	NoLocks = []error{windows.ERROR_INVALID_FUNCTION, windows.ERROR_NOT_SUPPORTED, windows.ERROR_CALL_NOT_IMPLEMENTED, windows.ERROR_INVALID_PARAMETER}
	// ForbiddenLocks are refusals to lock a file that could be opened. None is known.
	ForbiddenLocks []error
	// NoSync are the errors of file systems that can't be told to write at once.
	NoSync = []error{windows.ERROR_INVALID_FUNCTION, windows.ERROR_NOT_SUPPORTED, windows.ERROR_CALL_NOT_IMPLEMENTED, windows.ERROR_INVALID_PARAMETER}
	// Failures is empty: it is for folders, which are not synced on Windows.
	Failures []error
	// ReadOnly are the errors of media on which nothing can be written.
	ReadOnly = []error{windows.ERROR_WRITE_PROTECT}
	// Full are the errors of disks without room.
	Full = []error{windows.ERROR_DISK_FULL, windows.ERROR_HANDLE_DISK_FULL, windows.ERROR_DISK_QUOTA_EXCEEDED}
)

// held are the errors about a file that others hold open.
var held = []error{windows.ERROR_SHARING_VIOLATION, windows.ERROR_LOCK_VIOLATION, windows.ERROR_USER_MAPPED_FILE, windows.ERROR_DELETE_PENDING}

// Opening a file is denied for a moment while it is being removed, and for good to users
// without a permission. Renaming is denied while others hold the file that is replaced.
var (
	ofOpening  = []patience{{held, long}, {[]error{windows.ERROR_ACCESS_DENIED}, brief}}
	ofRenaming = []patience{{held, long}, {[]error{windows.ERROR_ACCESS_DENIED}, long}}
)

// open is os.Open, which lets nobody rename or remove the file while it is open.
func open(path string) (*os.File, error) {
	name, err := windows.UTF16PtrFromString(path)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	file, err := windows.CreateFile(name, windows.GENERIC_READ,
		windows.FILE_SHARE_READ|windows.FILE_SHARE_WRITE|windows.FILE_SHARE_DELETE,
		nil, windows.OPEN_EXISTING, windows.FILE_ATTRIBUTE_NORMAL|windows.FILE_FLAG_BACKUP_SEMANTICS, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	return os.NewFile(uintptr(file), path), nil
}

// rename first tries what os.Root does, which is POSIX semantics: only with these is a file
// replaced that others have opened. Not every file system has them, and os.Rename doesn't
// use them. Folders are never replaced.
func rename(from, to string) error {
	if info, err := os.Lstat(to); err == nil && info.IsDir() {
		return &os.LinkError{Op: "rename", Old: from, New: to, Err: windows.ERROR_ALREADY_EXISTS}
	}
	if root, err := os.OpenRoot(filepath.Dir(to)); err == nil {
		err = root.Rename(filepath.Base(from), filepath.Base(to))
		_ = root.Close()
		if err == nil {
			return nil
		}
	}
	return os.Rename(from, to)
}

func unprotect(path string) bool {
	info, err := os.Lstat(path)
	return err == nil && info.Mode().IsRegular() && info.Mode()&0o200 == 0 && os.Chmod(path, 0o600) == nil
}
