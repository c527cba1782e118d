// Package machine finds the id that the system gave this computer, and makes fingerprints
// that don't reveal it. It accepts only well-formed ids, and takes at most two seconds. It
// doesn't promise that two computers made from one image differ, nor that there is an id.
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

// timeout bounds the search for the id: a registry or a tool that hangs must not hold up the
// start of a program.
const timeout = 2 * time.Second

// foundIDs are the ids as the system's files have them.
type foundIDs struct {
	// candidates are in order of trust. Some systems keep the id in several places, and
	// one of them may be empty, damaged or left over from an image.
	candidates []string
	// earlier is the id that earlier builds used, good or not.
	earlier string
}

// Machine has the ids that a computer's system gave it, in lower case.
type Machine struct {
	// IDs are the well-formed ones. The first is the one in use. A state that was stored
	// under another one belongs to this computer, too.
	IDs []string
	// Hidden: earlier builds found no id on this computer, because they looked only at a
	// bad one. They used the installation's id instead.
	Hidden bool
}

// This is the computer that the program runs on. The system is asked once in the life of the
// process. If it has no id, nothing takes its place: host names and network addresses change
// with docks, tunnels and containers.
func This() Machine {
	once.Do(func() { this = ask(readIDs) })
	return this
}

// A variable that is a function, such as sync.OnceValue makes, would be linked into programs
// that never call it.
var (
	once sync.Once
	this Machine
)

// ID is the id in use, or "" if there is none.
func (m Machine) ID() string {
	if len(m.IDs) > 0 {
		return m.IDs[0]
	}
	return ""
}

// ask is This, with the function that reads the system's ids.
func ask(read func() foundIDs) Machine {
	// Buffered, so that the goroutine of a tool that hangs can end later.
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

// linuxIDs reads the files in which Linux keeps the id, below root. The one of systemd comes
// first: systemd makes a new one for each computer, while the other one may be copied from
// an image. Earlier builds read the other one first, and no more if it was there.
func linuxIDs(root string) foundIDs {
	systemd, _ := os.ReadFile(filepath.Join(root, "etc", "machine-id"))
	dbus, err := os.ReadFile(filepath.Join(root, "var", "lib", "dbus", "machine-id"))
	found := foundIDs{candidates: []string{string(systemd), string(dbus)}, earlier: string(dbus)}
	if err != nil {
		found.earlier = string(systemd)
	}
	return found
}

// bsdIDs reads the file in which the BSDs keep an id, below root. The hardware's id is not
// read, because the tool for it is found by PATH, where anybody may have put another one.
func bsdIDs(root string) foundIDs {
	id, _ := os.ReadFile(filepath.Join(root, "etc", "hostid"))
	return oneID(string(id))
}

// oneID is for a system that keeps its id in one place.
func oneID(id string) foundIDs { return foundIDs{[]string{id}, id} }

// wellFormedID returns the id in lower case if it has the form of that system's ids, and ""
// otherwise: for an empty file, for systemd's "uninitialized", and for ids of one repeated
// digit, which some images have.
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

// Fingerprints identify this computer to Polar. The first is the one in use. Each is a keyed
// hash: two vendors can't tell that they have the same customer, and the id stays on the
// computer. If the system has no id, the random one that was made at the first start takes
// its place. earlier is for a state that an earlier build wrote.
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
