package machine

import (
	"context"
	"os/exec"
	"strings"
)

// readIDs asks the system's registry for the hardware's UUID. It calls the tool by its full
// path, without input and with a timeout. Package machineid finds it by PATH, and passes it
// the program's standard input.
func readIDs() foundIDs {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	out, err := exec.CommandContext(ctx, "/usr/sbin/ioreg", "-rd1", "-c", "IOPlatformExpertDevice").Output()
	if err != nil {
		return foundIDs{}
	}
	_, id, _ := strings.Cut(string(out), `"IOPlatformUUID" = "`)
	id, _, _ = strings.Cut(id, `"`)
	return oneID(id) // wellFormedID checks its form
}
