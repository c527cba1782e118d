package polargate_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/polargate/polargate"
	"github.com/polargate/polargate/polartest"
)

// A program opens its Gate, finds that there is no license yet, and lets the
// user enter a key.
func Example() {
	polar := polartest.New(polartest.Config{}) // a program has none of this
	key := polar.AddKey(polartest.LicenseKey{Key: "INKWELL-0000-1111-0A1B2C", LimitActivations: polartest.Limit(2)})

	gate, err := polargate.Open(polargate.Config{
		OrganizationID: polar.OrganizationID(),
		App:            "inkwell",
		Version:        "1.4.2",
		Features:       map[string][]string{key.BenefitID: {"export", "sync"}},
		BaseURL:        polar.URL(),              // a program leaves these three out:
		HTTPClient:     polar.Client(),           // Polar itself, the network
		Store:          &polargate.MemoryStore{}, // and the user's settings folder
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer gate.Close()

	ctx := context.Background()
	status, err := gate.Check(ctx)
	if errors.Is(err, polargate.ErrNoLicense) {
		fmt.Println(status.Message)
		status, err = gate.Activate(ctx, " INKWELL-0000-1111-0A1B2C\n")
	}
	if err != nil {
		fmt.Println(polargate.Message(err))
		return
	}
	fmt.Println(status.State, status.Key, status.Features, gate.Has("export"))
	// Output:
	// No license key has been activated. Enter your license key.
	// active ****-0A1B2C [export sync] true
}

// Uses are counted against the key's limit at Polar.
func ExampleGate_Consume() {
	polar := polartest.New(polartest.Config{})
	key := polar.AddKey(polartest.LicenseKey{LimitActivations: polartest.Limit(1), LimitUsage: polartest.Limit(10)})
	gate, _ := polargate.Open(polargate.Config{
		OrganizationID: polar.OrganizationID(),
		BaseURL:        polar.URL(),
		HTTPClient:     polar.Client(),
		Store:          &polargate.MemoryStore{},
	})
	defer gate.Close()
	ctx := context.Background()
	_, _ = gate.Activate(ctx, key.Key)

	left, err := gate.Consume(ctx, 8)
	fmt.Println(left, err)
	_, err = gate.Consume(ctx, 5)
	fmt.Println(errors.Is(err, polargate.ErrUsageExceeded), gate.Status().State)
	// Output:
	// 2 <nil>
	// true active
}

// With an access token, a Client asks on a server's behalf and keeps nothing.
func ExampleClient_Validate() {
	polar := polartest.New(polartest.Config{})
	key := polar.AddKey(polartest.LicenseKey{})
	client, err := polargate.NewClient(polargate.ClientConfig{
		OrganizationID: polar.OrganizationID(),
		AccessToken:    polar.AddToken(polartest.Token{}), // from the environment, in a server
		BaseURL:        polar.URL(),
		HTTPClient:     polar.Client(),
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	ctx := context.Background()
	sent, _ := polargate.ParseKey(key.Key) // from a header, in a server
	license, err := client.Validate(ctx, polargate.ValidateRequest{Key: sent})
	fmt.Println(license.Status, err)

	polar.Revoke(key.ID)
	_, err = client.Validate(ctx, polargate.ValidateRequest{Key: sent})
	fmt.Println(errors.Is(err, polargate.ErrInactive))
	// Output:
	// granted <nil>
	// true
}

// A program tells its users about the license in their language.
func ExampleLanguage() {
	german := &polargate.Language{Phrases: map[polargate.Phrase]string{
		"expired":    "diese Lizenz ist abgelaufen",
		"expired.do": "Verlängern Sie sie, und prüfen Sie dann erneut.",
	}}
	polar := polartest.New(polartest.Config{})
	key := polar.AddKey(polartest.LicenseKey{LimitActivations: polartest.Limit(1), ExpiresAt: polar.Now().Add(-time.Hour)})
	gate, _ := polargate.Open(polargate.Config{
		OrganizationID: polar.OrganizationID(),
		Language:       german,
		BaseURL:        polar.URL(),
		HTTPClient:     polar.Client(),
		Store:          &polargate.MemoryStore{},
	})
	defer gate.Close()

	_, err := gate.Activate(context.Background(), key.Key)
	fmt.Println(german.Message(err))
	// Output:
	// Diese Lizenz ist abgelaufen. Verlängern Sie sie, und prüfen Sie dann erneut.
}

// A test lets weeks pass without a network in no time, inside a bubble of
// testing/synctest: see TestALicenseLastsThroughTwoWeeksOffline beside this
// example for the whole of it.
func ExampleGate_Check() {
	polar := polartest.New(polartest.Config{})
	key := polar.AddKey(polartest.LicenseKey{LimitActivations: polartest.Limit(1)})
	gate, _ := polargate.Open(polargate.Config{
		OrganizationID: polar.OrganizationID(),
		BaseURL:        polar.URL(),
		HTTPClient:     polar.Client(),
		Store:          &polargate.MemoryStore{},
	})
	defer gate.Close()
	ctx := context.Background()
	_, _ = gate.Activate(ctx, key.Key)

	polar.SetOffline(true) // the answer of a moment ago still counts
	status, err := gate.Check(ctx)
	fmt.Println(status.State, err)

	polar.SetOffline(false)
	polar.Revoke(key.ID)
	status, err = gate.Refresh(ctx)
	fmt.Println(status.State, polargate.Message(err))
	// Output:
	// active <nil>
	// locked This license key is no longer active. The license was revoked or disabled. Renew the subscription, or ask the vendor.
}

func TestALicenseLastsThroughTwoWeeksOffline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		polar := polartest.New(polartest.Config{})
		key := polar.AddKey(polartest.LicenseKey{LimitActivations: polartest.Limit(1)})
		gate, err := polargate.Open(polargate.Config{
			OrganizationID: polar.OrganizationID(),
			BaseURL:        polar.URL(),
			HTTPClient:     polar.Client(),
			Store:          &polargate.MemoryStore{},
		})
		if err != nil {
			t.Fatal(err)
		}
		defer gate.Close()
		if _, err := gate.Activate(t.Context(), key.Key); err != nil {
			t.Fatal(err)
		}
		polar.SetOffline(true)
		time.Sleep(13 * 24 * time.Hour)
		if status, err := gate.Check(t.Context()); status.State != polargate.Grace || err != nil {
			t.Fatal(status.State, err)
		}
		time.Sleep(24 * time.Hour)
		if _, err := gate.Check(t.Context()); !errors.Is(err, polargate.ErrGraceEnded) {
			t.Fatal(err)
		}
	})
}
