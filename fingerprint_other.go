//go:build !(linux || windows || darwin || freebsd || netbsd || openbsd || dragonfly)

package polargate

// readMachineIDs: this system has no machine id that is known to us.
func readMachineIDs() foundIDs { return foundIDs{} }
