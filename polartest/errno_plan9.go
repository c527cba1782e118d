package polartest

import "errors"

// Plan 9 has words for errors, not numbers.
var (
	errReset       = errors.New("read: connection reset by peer")
	errUnreachable = errors.New("connect: network is unreachable")
)
