//go:build !plan9

package polartest

import (
	"os"
	"syscall"
)

// The errors of the system for a connection that is reset, and for a missing network.
var (
	errReset       error = os.NewSyscallError("read", syscall.ECONNRESET)
	errUnreachable error = os.NewSyscallError("connect", syscall.ENETUNREACH)
)
