// Package machine finds the id that the system has given this computer, and makes
// fingerprints of it that tell nothing of the id. It takes only an id that has the form
// of one, within two seconds; it does not promise that two computers made from one image
// differ, nor that there is an id at all.
package machine

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/polargate/polargate/internal/seal"
)

// timeout bounds the look at the system's machine id: a start must
// not hang on a registry or a tool.
const timeout = 2 * time.Second

// foundIDs is what a system says of the machine's id, as it stands in its files.
type foundIDs struct {
	// candidates are in order of trust. Some systems keep the id in several
	// places, and one of them may be empty, damaged or left over from an image.
	candidates []string
	// earlier is the one that builds before this one went by, good or not.
	earlier string
}

// Machine is what is known of a computer: the ids that its system gave it, in lower
// case, where they can be trusted to be this computer's alone.
type Machine struct {
	// IDs are the good ones. The first names the machine; a state that was
	// stored under another of them is this machine's, too.
	IDs []string
	// Hidden: earlier builds found no id here, since they looked at a bad one only,
	// and went by the id of the installation instead.
	Hidden bool
}

// This is the computer that the program runs on. It is looked at once for the life of
// the process. A failure has no substitute here: host names and network addresses
// change with docks, tunnels and containers.
var This = sync.OnceValue(func() Machine { return ask(readIDs) })

// ID is the id to go by, or "" if there is none.
func (m Machine) ID() string {
	if len(m.IDs) > 0 {
		return m.IDs[0]
	}
	return ""
}

// ask is This with the look at the system left open.
func ask(read func() foundIDs) Machine {
	// Buffered, so that a tool that hangs holds up nobody when it ends.
	answer := make(chan foundIDs, 1)
	go func() {
		defer func() {
			if recover() != nil {
				answer <- foundIDs{}
			}
		}()
		answer <- read()
	}()
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	select {
	case found := <-answer:
		return wellFormed(runtime.GOOS, found)
	case <-timer.C:
		return Machine{}
	}
}

// wellFormed keeps the candidates that have the form of an id on that system.
func wellFormed(system string, found foundIDs) Machine {
	var m Machine
	for _, candidate := range found.candidates {
		if id := wellFormedID(system, candidate); id != "" && !slices.Contains(m.IDs, id) {
			m.IDs = append(m.IDs, id)
		}
	}
	m.Hidden = len(m.IDs) > 0 && wellFormedID(system, found.earlier) == ""
	return m
}

// linuxIDs reads the files in which Linux keeps the id, below root. That of
// systemd comes first: it is made anew for each machine, while the other may be a
// copy that an image brought along. Earlier builds read the other one first, and
// never looked further if it was there.
func linuxIDs(root string) foundIDs {
	systemd, _ := os.ReadFile(filepath.Join(root, "etc", "machine-id"))
	dbus, err := os.ReadFile(filepath.Join(root, "var", "lib", "dbus", "machine-id"))
	found := foundIDs{candidates: []string{string(systemd), string(dbus)}, earlier: string(dbus)}
	if err != nil {
		found.earlier = string(systemd)
	}
	return found
}

// bsdIDs reads the one file in which the BSDs keep an id, below root. The
// tool that tells the hardware's is looked up in PATH, where anybody may have put
// one, so it is not asked.
func bsdIDs(root string) foundIDs {
	id, _ := os.ReadFile(filepath.Join(root, "etc", "hostid"))
	return oneID(string(id))
}

// oneID is for a system that keeps its id in one place.
func oneID(id string) foundIDs { return foundIDs{[]string{id}, id} }

// wellFormedID gives the id in lower case if it has the form that ids
// have on that system, and "" otherwise: for an empty file, for systemd's
// "uninitialized", and for ids of one repeated digit, which images are made with.
func wellFormedID(system, id string) string {
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

// Fingerprints name this machine to Polar, the one to go by first. Each is a keyed
// hash, so that two vendors cannot tell that they have the same customer, and the
// machine's id stays on the machine. Where the system has no id, a random one that
// was made at the first start stands in. earlier is for a state that a build before
// this one wrote.
func (m Machine) Fingerprints(organizationID, app, installationID string, earlier bool) []string {
	var all []string
	for _, id := range m.IDs {
		all = append(all, Fingerprint("machine", id, organizationID, app))
	}
	if len(all) == 0 || earlier && m.Hidden {
		all = append(all, Fingerprint("installation", installationID, organizationID, app))
	}
	return all
}

// Fingerprint is the keyed hash of one id of a kind, for one program of a vendor.
func Fingerprint(kind, id, organizationID, app string) string {
	mac := hmac.New(sha256.New, seal.MACKey([]byte(id)))
	for _, part := range []string{"polargate fingerprint v1", kind, organizationID, app} {
		mac.Write([]byte(part))
		mac.Write([]byte{0})
	}
	return hex.EncodeToString(mac.Sum(nil)[:16])
}
