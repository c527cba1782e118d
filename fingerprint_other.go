//go:build !(linux || windows || darwin || freebsd || netbsd || openbsd || dragonfly)

package polargate

// readMachineID: this system has no machine id that is known to us.
func readMachineID() string { return "" }
