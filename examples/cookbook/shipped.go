package cookbook

import (
	"context"
	"fmt"
	"io"

	"github.com/polargate/polargate"
)

// polarURL is empty in the program that you ship, which then asks Polar. A test builds or starts
// it with another one: go build -ldflags "-X main.polarURL=http://127.0.0.1:8080". An environment
// variable in its place would let a user bring a Polar of their own.
var polarURL string

// Main is the program. It says on its output whether it is licensed, and returns its exit code.
func Main(ctx context.Context, organization string, store polargate.Store, args []string, out io.Writer) int {
	gate, err := polargate.Open(polargate.Config{OrganizationID: organization, App: "inkwell", BaseURL: polarURL, Store: store})
	if err != nil {
		fmt.Fprintln(out, err)
		return 64
	}
	defer gate.Close()
	check := gate.Check
	if len(args) == 2 && args[0] == "activate" {
		check = func(ctx context.Context) (polargate.Status, error) { return gate.Activate(ctx, args[1]) }
	}
	status, err := check(ctx)
	fmt.Fprintln(out, status.Message)
	if err != nil {
		return 2
	}
	return 0
}
