package machine

import (
	"context"
	"os/exec"
	"strings"
)

// readIDs asks the system's registry for the hardware's UUID, as
// machineid does, but by the tool's full path, with no input and no more time
// than it deserves: machineid looks it up in PATH and hands it the program's
// own standard input.
func readIDs() foundIDs {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	out, err := exec.CommandContext(ctx, "/usr/sbin/ioreg", "-rd1", "-c", "IOPlatformExpertDevice").Output()
	if err != nil {
		return foundIDs{}
	}
	_, id, _ := strings.Cut(string(out), `"IOPlatformUUID" = "`)
	id, _, _ = strings.Cut(id, `"`)
	return oneID(id) // its form is looked at by wellFormedID
}
