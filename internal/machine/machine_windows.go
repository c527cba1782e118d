package machine

import "github.com/denisbrodbeck/machineid"

// readIDs asks the registry for the id of the operating system's
// installation. It can be read by every user, so that an administrator and a user of
// one machine get the same.
func readIDs() foundIDs {
	id, err := machineid.ID()
	if err != nil {
		return foundIDs{}
	}
	return oneID(id)
}
