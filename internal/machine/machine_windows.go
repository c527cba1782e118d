package machine

import "github.com/denisbrodbeck/machineid"

// readIDs asks the registry for the id of the operating system's installation. All users can
// read it, so an administrator and a user of one computer get the same id.
func readIDs() foundIDs {
	id, err := machineid.ID()
	if err != nil {
		return foundIDs{}
	}
	return oneID(id)
}
