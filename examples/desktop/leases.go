package main

import (
	"crypto/ed25519"
	"strings"

	"github.com/polargate/polargate/lease"
)

// leaseKeys reads POLARGATE_LEASE_KEYS: public keys as polargate-keygen shows them, separated by
// commas. A product has them built in.
func leaseKeys(text string) ([]ed25519.PublicKey, error) {
	var keys []ed25519.PublicKey
	for part := range strings.SplitSeq(text, ",") {
		if part = strings.TrimSpace(part); part == "" {
			continue
		}
		key, err := lease.ParsePublicKey(part)
		if err != nil {
			return nil, &usageError{"POLARGATE_LEASE_KEYS has what is no public key: give what polargate-keygen shows.", ""}
		}
		keys = append(keys, key)
	}
	return keys, nil
}
