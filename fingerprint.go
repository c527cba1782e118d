package polargate

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"runtime"
	"strings"
	"sync"
	"time"
)

// machineIDTimeout bounds the look at the system's machine id: a start must
// not hang on a registry or a tool.
const machineIDTimeout = 2 * time.Second

// machineID is the system's own id for this machine, in lower case, or "" where
// there is none that can be trusted to be this machine's alone. It is read once
// for the life of the process. A failure has no substitute here: host names and
// network addresses change with docks, tunnels and containers.
var machineID = sync.OnceValue(func() string { return askMachineID(readMachineID) })

// askMachineID is machineID with the look at the system left open.
func askMachineID(read func() string) string {
	// Buffered, so that a tool that hangs holds up nobody when it ends.
	answer := make(chan string, 1)
	go func() {
		defer func() {
			if recover() != nil {
				answer <- ""
			}
		}()
		answer <- read()
	}()
	timeout := time.NewTimer(machineIDTimeout)
	defer timeout.Stop()
	select {
	case id := <-answer:
		return wellFormedMachineID(runtime.GOOS, id)
	case <-timeout.C:
		return ""
	}
}

// wellFormedMachineID gives the id in lower case if it has the form that ids
// have on that system, and "" otherwise: for an empty file, for systemd's
// "uninitialized", and for ids of one repeated digit, which images are made with.
func wellFormedMachineID(system, id string) string {
	id = strings.ToLower(strings.TrimSpace(id))
	digits, form := id, "00000000000000000000000000000000"
	if system != "linux" {
		digits, form = strings.ReplaceAll(id, "-", ""), "00000000-0000-0000-0000-000000000000"
	}
	if len(digits) != 32 || strings.Trim(digits, digits[:1]) == "" {
		return ""
	}
	zeros := strings.Map(func(r rune) rune {
		if strings.ContainsRune("0123456789abcdef", r) {
			return '0'
		}
		return r
	}, id)
	if zeros != form {
		return ""
	}
	return id
}

// fingerprint names this machine to Polar. It is a keyed hash, so that two
// vendors cannot tell that they have the same customer, and the machine's id
// stays on the machine. Where the system has no id, a random one that was made
// at the first start stands in.
func fingerprint(organizationID, app, installationID string) string {
	if id := machineID(); id != "" {
		return fingerprintOf("machine", id, organizationID, app)
	}
	return fingerprintOf("installation", installationID, organizationID, app)
}

func fingerprintOf(kind, id, organizationID, app string) string {
	mac := hmac.New(sha256.New, hmacKey([]byte(id)))
	for _, part := range []string{"polargate fingerprint v1", kind, organizationID, app} {
		mac.Write([]byte(part))
		mac.Write([]byte{0})
	}
	return hex.EncodeToString(mac.Sum(nil)[:16])
}
