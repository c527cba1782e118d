package polargate

import "golang.org/x/sys/windows"

var (
	// noLocks is what file systems and network drives answer that have no locks.
	noLocks = []error{windows.ERROR_INVALID_FUNCTION, windows.ERROR_NOT_SUPPORTED, windows.ERROR_CALL_NOT_IMPLEMENTED, windows.ERROR_INVALID_PARAMETER}
	// forbiddenLocks are refusals of the lock alone: none that is known of.
	forbiddenLocks []error
	// noSync is what file systems answer that cannot be told to write at once.
	noSync = []error{windows.ERROR_INVALID_FUNCTION, windows.ERROR_NOT_SUPPORTED, windows.ERROR_CALL_NOT_IMPLEMENTED, windows.ERROR_INVALID_PARAMETER}
	// diskFails is for folders, which are not synced here.
	diskFails []error
)
