package machine

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"
)

// Names are the names of a program's states in a Store. Several computers can share a Store,
// as with a roaming profile or a home folder on the network, and a Store can be a copy: of
// a disk image, a backup, a moved disk. So each computer has a state of its own, whose name
// holds its Tag. Index lists the computers that have one, so that a computer without a
// license can tell that another one has.
type Names struct {
	// Earlier is where earlier builds kept the state of whichever computer wrote last.
	// It is read, and never written.
	Earlier string
	// Index is the list of the computers that have a state.
	Index string
}

// NamesFor are the names for a program. They differ by organization and app: programs that
// share a folder must not take each other's state for a damaged one of their own.
func NamesFor(organizationID, app string) Names {
	base := "license-" + short(organizationID+"\x00"+app)
	return Names{Earlier: base + ".sealed", Index: base + ".index"}
}

// Of is the name of the state of the computer with that tag.
func (n Names) Of(tag string) string {
	return strings.TrimSuffix(n.Earlier, ".sealed") + "-" + tag + ".sealed"
}

// LocalTag is the tag of a computer without an id. Its fingerprint is in its state.
const LocalTag = "local"

// Tag is a hash of a computer's fingerprint.
func Tag(fingerprint string) string { return short("polargate state of\x00" + fingerprint) }

// IsTag reports whether a text can be a tag.
func IsTag(tag string) bool {
	return tag != "" && len(tag) <= 16 && strings.Trim(tag, "0123456789abcdefghijklmnopqrstuvwxyz") == ""
}

func short(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:6])
}
