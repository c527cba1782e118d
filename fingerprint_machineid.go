//go:build linux || windows

package polargate

import "github.com/denisbrodbeck/machineid"

// readMachineID asks for the id of the operating system's installation: a file
// on Linux, a registry value on Windows. Both can be read by every user, so
// that an administrator and a user of one machine get the same.
func readMachineID() string {
	id, err := machineid.ID()
	if err != nil {
		return ""
	}
	return id
}
