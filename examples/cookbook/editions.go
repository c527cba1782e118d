// Package cookbook has the Go code of docs/cookbook.md: each file is a recipe, and the tests
// cook it.
package cookbook

import (
	"context"

	"github.com/polargate/polargate"
)

// Basic and Pro are the license key benefits of two products in Polar. An id isn't a secret.
const (
	basic = "0ce2a9f0-5b3e-4f5c-8a6e-2d1f7c9b4e31"
	pro   = "5a2f3f6e-7d0c-4b8e-9c41-6e8d2b7a1f90"
)

// Editions are what each of them unlocks. A key of another product is refused.
var Editions = map[string][]string{
	basic: {"write"},
	pro:   {"write", "export", "sync"},
}

// Edition is what the title bar says. Gate by features, not by editions: a new edition then
// needs one line above, and none elsewhere.
func Edition(s polargate.Status) string {
	switch {
	case !s.OK():
		return "Free"
	case s.Has("sync"):
		return "Pro"
	}
	return "Basic"
}

// Upgrade activates the key of a customer who has bought Pro. It takes Basic's place, whose
// activation Polar then no longer counts. If it fails, Basic stays in use, and the text says so.
func Upgrade(ctx context.Context, gate *polargate.Gate, pasted string) (text string, done bool) {
	status, err := gate.Activate(ctx, pasted)
	if err != nil {
		return gate.Language().Message(err), false
	}
	return status.Message, status.Has("sync")
}
