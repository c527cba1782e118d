//go:build unix

package disk

import "syscall"

var (
	// NoLocks are the errors of file systems and servers without locks: FUSE, 9p, SMB, and
	// NFS without a lock daemon.
	NoLocks = []error{syscall.ENOLCK, syscall.EINVAL, syscall.ENOSYS, syscall.ENOTSUP, syscall.EOPNOTSUPP, syscall.ENOTTY}
	// ForbiddenLocks are refusals to lock a file that could be opened: AppArmor and others
	// grant locks separately.
	ForbiddenLocks = []error{syscall.EPERM, syscall.EACCES}
	// NoSync are the errors of file systems that can't be told to write at once.
	NoSync = []error{syscall.EINVAL, syscall.ENOSYS, syscall.ENOTSUP, syscall.EOPNOTSUPP, syscall.ENOTTY}
	// Failures are the errors of a disk that lost what it was given.
	Failures = []error{syscall.EIO, syscall.ENOSPC, syscall.EDQUOT}
	// ReadOnly are the errors of file systems on which nothing can be written.
	ReadOnly = []error{syscall.EROFS}
	// Full are the errors of disks and quotas without room.
	Full = []error{syscall.ENOSPC, syscall.EDQUOT}
)
