package polartest

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"

	"github.com/polargate/polargate/polartest/internal/pydantic"
)

// newUUID makes a random UUID of version 4.
func newUUID() string {
	var b [16]byte
	rand.Read(b[:])
	b[6] = b[6]&0x0f | 0x40
	b[8] = b[8]&0x3f | 0x80
	return pydantic.Dashed(hex.EncodeToString(b[:]))
}

// mustUUID4 is for identifiers that a test chose itself: Polar takes nothing but UUIDs of version 4
// in requests, so that any other would show up later, as a 422 that is hard to understand.
func mustUUID4(what, s string) string {
	id, problem := pydantic.UUID(s)
	if problem != "" || !pydantic.IsVersion4(id) {
		panic(fmt.Sprintf("polartest: %s %q is not a UUID of version 4, and Polar takes no other", what, s))
	}
	return id
}
