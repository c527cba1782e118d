//go:build !unix && !windows

package disk

import "errors"

var (
	NoLocks        = []error{errors.ErrUnsupported}
	ForbiddenLocks []error
	NoSync         = []error{errors.ErrUnsupported}
	Failures       []error
	ReadOnly       []error
	Full           []error
)
