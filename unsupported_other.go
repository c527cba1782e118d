//go:build !unix && !windows

package polargate

import "errors"

var (
	noLocks        = []error{errors.ErrUnsupported}
	forbiddenLocks []error
	noSync         = []error{errors.ErrUnsupported}
	diskFails      []error
)
