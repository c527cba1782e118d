//go:build freebsd || netbsd || openbsd || dragonfly

package machine

// readIDs reads /etc/hostid.
func readIDs() foundIDs { return bsdIDs("/") }
