//go:build freebsd || netbsd || openbsd || dragonfly

package polargate

// readMachineIDs reads /etc/hostid.
func readMachineIDs() foundIDs { return bsdMachineIDs("/") }
