package janitor_test

import (
	"context"
	"fmt"
	"time"

	"github.com/polargate/polargate"
	"github.com/polargate/polargate/janitor"
	"github.com/polargate/polargate/polartest"
)

// A program was killed twice before it could store its activation. What it left is found,
// and deactivated once that was asked for.
func Example() {
	polar := polartest.New(polartest.Config{})
	attempt := func(id string, ago time.Duration) polartest.Activation {
		return polartest.Activation{Label: "Ada's laptop", CreatedAt: polar.Now().Add(-ago), Meta: map[string]any{
			"installation": "JB2Q5", "fingerprint": "f00d", "app": "inkwell", "attempt": id}}
	}
	key := polar.AddKey(polartest.LicenseKey{LimitActivations: polartest.Limit(3), Activations: []polartest.Activation{
		attempt("first", 9*time.Hour), attempt("second", 8*time.Hour), attempt("third", 7*time.Hour)}})
	client, err := polargate.NewClient(polargate.ClientConfig{
		OrganizationID: polar.OrganizationID(),
		AccessToken:    polar.AddToken(polartest.Token{}), // from the environment
		BaseURL:        polar.URL(),                       // leave these two out
		HTTPClient:     polar.Client(),
	})
	if err != nil {
		panic(err)
	}
	defer client.Close()
	ctx := context.Background()

	for _, dry := range []bool{true, false} {
		for leak, err := range janitor.Find(ctx, client, janitor.Options{}) {
			if err != nil {
				panic(err)
			}
			fmt.Println(leak.Why, "on", leak.Activation.Label, leak.String() != "")
			if !dry {
				err = leak.Deactivate(ctx)
			}
		}
		fmt.Println(polar.Seats(key.ID), "activations")
	}
	// Output:
	// replaced on Ada's laptop true
	// replaced on Ada's laptop true
	// 3 activations
	// replaced on Ada's laptop true
	// replaced on Ada's laptop true
	// 1 activations
}
