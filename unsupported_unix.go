//go:build unix

package polargate

import "syscall"

var (
	// noLocks is what file systems and servers answer that have no locks: FUSE, 9p,
	// SMB, and NFS without a lock daemon.
	noLocks = []error{syscall.ENOLCK, syscall.EINVAL, syscall.ENOSYS, syscall.ENOTSUP, syscall.EOPNOTSUPP, syscall.ENOTTY}
	// forbiddenLocks are refusals of the lock alone, of a file that could be opened:
	// AppArmor and the like grant locks apart from files.
	forbiddenLocks = []error{syscall.EPERM, syscall.EACCES}
	// noSync is what file systems answer that cannot be told to write at once.
	noSync = []error{syscall.EINVAL, syscall.ENOSYS, syscall.ENOTSUP, syscall.EOPNOTSUPP, syscall.ENOTTY}
	// diskFails is what a disk answers that has not kept what it was given.
	diskFails = []error{syscall.EIO, syscall.ENOSPC, syscall.EDQUOT}
)
