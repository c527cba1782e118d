//go:build unix

package disk

import "syscall"

var (
	// NoLocks is what file systems and servers answer that have no locks: FUSE, 9p,
	// SMB, and NFS without a lock daemon.
	NoLocks = []error{syscall.ENOLCK, syscall.EINVAL, syscall.ENOSYS, syscall.ENOTSUP, syscall.EOPNOTSUPP, syscall.ENOTTY}
	// ForbiddenLocks are refusals of the lock alone, of a file that could be opened:
	// AppArmor and the like grant locks apart from files.
	ForbiddenLocks = []error{syscall.EPERM, syscall.EACCES}
	// NoSync is what file systems answer that cannot be told to write at once.
	NoSync = []error{syscall.EINVAL, syscall.ENOSYS, syscall.ENOTSUP, syscall.EOPNOTSUPP, syscall.ENOTTY}
	// Failures is what a disk answers that has not kept what it was given.
	Failures = []error{syscall.EIO, syscall.ENOSPC, syscall.EDQUOT}
)
