package disk

import "golang.org/x/sys/windows"

var (
	// NoLocks is what file systems and network drives answer that have no locks.
	NoLocks = []error{windows.ERROR_INVALID_FUNCTION, windows.ERROR_NOT_SUPPORTED, windows.ERROR_CALL_NOT_IMPLEMENTED, windows.ERROR_INVALID_PARAMETER}
	// ForbiddenLocks are refusals of the lock alone: none that is known of.
	ForbiddenLocks []error
	// NoSync is what file systems answer that cannot be told to write at once.
	NoSync = []error{windows.ERROR_INVALID_FUNCTION, windows.ERROR_NOT_SUPPORTED, windows.ERROR_CALL_NOT_IMPLEMENTED, windows.ERROR_INVALID_PARAMETER}
	// Failures is for folders, which are not synced here.
	Failures []error
)
