// Package storetest holds what every polargate.Shared and every polargate.Store must do,
// as suites that the test of an implementation calls:
//
//	func TestMySharedKeepsItsContract(t *testing.T) {
//		storetest.Shared(t, func(t *testing.T) polargate.Shared { return open(t) })
//	}
//
// Each rule is a subtest, all of which run in parallel on stores of their own.
package storetest

import (
	"context"
	"testing"
	"time"
)

// soon is how long a test waits for what must happen, on a busy computer.
const soon = 20 * time.Second

// eventually waits until something has happened.
func eventually(t *testing.T, what string, happened func() bool) {
	t.Helper()
	for deadline := time.Now().Add(soon); !happened(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("did not happen within %s: %s", soon, what)
		}
	}
}

// bounded is a context for one test.
func bounded(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 3*soon)
	t.Cleanup(cancel)
	return ctx
}

func noError(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("unexpected error: %v", err)
	}
}
