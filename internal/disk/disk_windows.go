package disk

import "golang.org/x/sys/windows"

var (
	// NoLocks are the errors of file systems and network drives without locks.
	NoLocks = []error{windows.ERROR_INVALID_FUNCTION, windows.ERROR_NOT_SUPPORTED, windows.ERROR_CALL_NOT_IMPLEMENTED, windows.ERROR_INVALID_PARAMETER}
	// ForbiddenLocks are refusals to lock a file that could be opened. None is known.
	ForbiddenLocks []error
	// NoSync are the errors of file systems that can't be told to write at once.
	NoSync = []error{windows.ERROR_INVALID_FUNCTION, windows.ERROR_NOT_SUPPORTED, windows.ERROR_CALL_NOT_IMPLEMENTED, windows.ERROR_INVALID_PARAMETER}
	// Failures is empty: it is for folders, which are not synced on Windows.
	Failures []error
)
