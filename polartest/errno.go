//go:build !plan9

package polartest

import (
	"os"
	"syscall"
)

// What the system says of a connection that is reset, and of a network that is not there.
var (
	errReset       error = os.NewSyscallError("read", syscall.ECONNRESET)
	errUnreachable error = os.NewSyscallError("connect", syscall.ENETUNREACH)
)
