//go:build freebsd || netbsd || openbsd || dragonfly

package polargate

import (
	"os"

	"github.com/denisbrodbeck/machineid"
)

// readMachineID reads /etc/hostid. Without that file machineid would look up a
// tool in PATH, where anybody may have put one, so it is not asked.
func readMachineID() string {
	if _, err := os.Stat("/etc/hostid"); err != nil {
		return ""
	}
	id, err := machineid.ID()
	if err != nil {
		return ""
	}
	return id
}
