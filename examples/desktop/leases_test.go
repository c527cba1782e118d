package main

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestPublicKeysThatAreNoneAreExplained(t *testing.T) {
	t.Parallel()
	_, err := leaseKeys("nonsense")
	assert.ErrorContains(t, err, "POLARGATE_LEASE_KEYS")
	keys, err := leaseKeys("")
	require.NoError(t, err)
	assert.Empty(t, keys)
	keys, err = leaseKeys(" ixBTL-8pw23Lo0GXWuH7XJnJ5vuz2CRwZZdMaxlAW30, ixBTL-8pw23Lo0GXWuH7XJnJ5vuz2CRwZZdMaxlAW30")
	require.NoError(t, err)
	assert.Len(t, keys, 2)
}
