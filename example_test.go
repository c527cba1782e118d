package polargate_test

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io/fs"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/polargate/polargate"
	"github.com/polargate/polargate/lease"
	"github.com/polargate/polargate/lease/issuer"
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
	// This program isn't activated yet. Enter your license key.
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
	fmt.Println(license.Status, err, "has a known end:", !license.EndsAt().IsZero())

	polar.Revoke(key.ID)
	_, err = client.Validate(ctx, polargate.ValidateRequest{Key: sent})
	fmt.Println(errors.Is(err, polargate.ErrInactive))
	// Output:
	// granted <nil> has a known end: false
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

// What a program says about its license in addition, in the same language as the Gate.
func ExampleGate_Language() {
	polar := polartest.New(polartest.Config{})
	gate, _ := polargate.Open(polargate.Config{
		OrganizationID: polar.OrganizationID(),
		Language:       &polargate.Language{Tag: "de", Time: func(t time.Time) string { return t.Format("2.1.2006") }},
		Links:          polargate.Links{Buy: "https://example.com/kaufen"},
		Label:          "Studio",
		BaseURL:        polar.URL(),
		HTTPClient:     polar.Client(),
		Store:          &polargate.MemoryStore{},
	})
	defer gate.Close()

	fmt.Println("Lizenz für", gate.Label())
	fmt.Println("Kaufen bis", gate.Language().FormatTime(time.Date(2030, 12, 24, 0, 0, 0, 0, time.UTC)), "auf", gate.Links().Buy)
	var english *polargate.Language
	fmt.Println("The sale ends in", english.FormatDuration(71*time.Hour))
	// Output:
	// Lizenz für Studio
	// Kaufen bis 24.12.2030 auf https://example.com/kaufen
	// The sale ends in 3 days
}

// The button beside a message: what it does, and the page that it opens.
func ExampleLinks_ActionFor() {
	polar := polartest.New(polartest.Config{})
	key := polar.AddKey(polartest.LicenseKey{LimitActivations: polartest.Limit(1), Activations: []polartest.Activation{{}}})
	links := polargate.Links{Buy: "https://example.com/buy", Portal: "https://polar.sh/inkwell/portal"}
	gate, _ := polargate.Open(polargate.Config{
		OrganizationID: polar.OrganizationID(),
		Links:          links,
		BaseURL:        polar.URL(),
		HTTPClient:     polar.Client(),
		Store:          &polargate.MemoryStore{},
	})
	defer gate.Close()
	fmt.Println(gate.Status().Action)

	_, err := gate.Activate(context.Background(), key.Key)
	fmt.Println(links.ActionFor(err))
	// Output:
	// {enter_key https://example.com/buy}
	// {portal https://polar.sh/inkwell/portal}
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
	// locked This license key is no longer active. If your subscription has ended, subscribe again and enter the new key. Otherwise, please contact support.
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

// inkwell is a program with its Gate, on a Polar of its own with one key for two
// computers.
func inkwell() (*polartest.Polar, polartest.LicenseKey, *polargate.Gate) {
	polar := polartest.New(polartest.Config{})
	key := polar.AddKey(polartest.LicenseKey{Key: "INKWELL-0000-1111-0A1B2C", LimitActivations: polartest.Limit(2)})
	gate, err := polargate.Open(polargate.Config{
		OrganizationID: polar.OrganizationID(),
		App:            "inkwell",
		Version:        "1.4.2",
		BaseURL:        polar.URL(), // a program leaves these three out
		HTTPClient:     polar.Client(),
		Store:          &polargate.MemoryStore{},
	})
	if err != nil {
		panic(err)
	}
	return polar, key, gate
}

// A key that was bought a moment ago is not known everywhere yet: it is waited for.
func ExampleGate_ActivateWait() {
	_, key, gate := inkwell()
	defer gate.Close()
	status, err := gate.ActivateWait(context.Background(), key.Key)
	fmt.Println(status.OK(), err)
	// Output:
	// true <nil>
}

// Offline, the license is removed from this computer, and its seat is given back as
// soon as Polar can be reached.
func ExampleGate_Deactivate() {
	polar, key, gate := inkwell()
	defer gate.Close()
	ctx := context.Background()
	_, _ = gate.Activate(ctx, key.Key)
	fmt.Println("seats taken:", polar.Seats(key.ID))

	polar.SetOffline(true)
	err := gate.Deactivate(ctx)
	fmt.Println(errors.Is(err, polargate.ErrUnreachable), gate.Status().State, gate.Status().ReleasePending)

	polar.SetOffline(false)
	fmt.Println(gate.Deactivate(ctx), gate.Status().ReleasePending)
	fmt.Println("seats taken:", polar.Seats(key.ID))
	// Output:
	// seats taken: 1
	// true unlicensed true
	// <nil> false
	// seats taken: 0
}

// A program that runs for days keeps its license fresh beside its work.
func ExampleGate_Run() {
	_, key, gate := inkwell()
	ctx, quit := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- gate.Run(ctx) }()

	_, _ = gate.Activate(ctx, key.Key) // and whatever the program does

	quit()
	fmt.Println(<-ended)
	_ = gate.Close()
	// Output:
	// <nil>
}

// An earlier version of the program took a seat by other means. It is gone on with
// under the conditions of then, and no second one is taken.
func ExampleGate_Import() {
	polar, key, gate := inkwell()
	defer gate.Close()
	conditions := map[string]any{"machine": "studio-laptop"}
	polar.Update(key.ID, func(k *polartest.LicenseKey) {
		k.Activations = []polartest.Activation{{ID: "3c2a5f0e-9f0b-4b7e-8d6c-5a1e2f3b4c5d", Conditions: conditions}}
	})

	status, err := gate.Import(context.Background(), polargate.ImportedActivation{
		Key:          key.Key,
		ActivationID: "3c2a5f0e-9f0b-4b7e-8d6c-5a1e2f3b4c5d",
		Conditions:   conditions,
	})
	fmt.Println(status.State, err, polar.Seats(key.ID))
	// Output:
	// active <nil> 1
}

// A service takes its key from the environment. At its next starts it asks Polar nothing that
// Check doesn't ask.
func ExampleGate_Ensure() {
	polar, key, gate := inkwell()
	defer gate.Close()
	ctx := context.Background()
	status, err := gate.Ensure(ctx, key.Key) // os.Getenv("INKWELL_LICENSE_KEY")
	fmt.Println(status.State, err)

	polar.SetOffline(true)
	status, err = gate.Ensure(ctx, key.Key)
	fmt.Println(status.State, err)
	// Output:
	// active <nil>
	// active <nil>
}

// A license for all users of a computer. The installer, or a service, activates it; the
// program of each user only checks.
func ExampleSystemStore() {
	gate, err := polargate.Open(polargate.Config{
		OrganizationID: "34f57e13-8bcb-4481-85b2-a4b55c4ba0b9",
		App:            "inkwell",
		Store:          polargate.SystemStore("inkwell"),
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer gate.Close()
	if _, err = gate.Check(context.Background()); err != nil {
		fmt.Println(polargate.Message(err))
	}
}

// A later version of the program does without this package, and takes the activation along.
func ExampleGate_Export() {
	_, key, gate := inkwell()
	defer gate.Close()
	_, _ = gate.Activate(context.Background(), key.Key)

	kept, err := gate.Export()
	fmt.Println(kept.Key == key.Key, kept.ActivationID == gate.Status().ActivationID, err)
	// Output:
	// true true <nil>
}

// A report for a support mail has neither keys nor names in it.
func ExampleGate_Diagnose() {
	polar, key, gate := inkwell()
	defer gate.Close()
	ctx := context.Background()
	_, _ = gate.Activate(ctx, key.Key)
	fmt.Println(gate.Diagnose(ctx).Reached)

	polar.SetOffline(true)
	report := gate.Diagnose(ctx)
	fmt.Println(report.Reached, report.State, len(report.Problems) > 0)
	// Output:
	// true
	// false active true
}

// A Client takes a seat and gives it back, and leaves it to the program to remember.
// A request that takes one is never sent twice.
func ExampleClient_LicenseKey() {
	polar := polartest.New(polartest.Config{})
	sold := polar.AddKey(polartest.LicenseKey{LimitActivations: polartest.Limit(3)})
	client, err := polargate.NewClient(polargate.ClientConfig{
		OrganizationID: polar.OrganizationID(),
		AccessToken:    polar.AddToken(polartest.Token{}),
		HTTPClient:     polar.Client(),
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	ctx := context.Background()
	key, _ := polargate.ParseKey(sold.Key)
	_, err = client.Activate(ctx, polargate.ActivateRequest{Key: key, Label: "laptop"})
	fmt.Println(err)

	license, err := client.LicenseKey(ctx, sold.ID) // whatever its status
	fmt.Println(license.Status, license.Activations[0].Label, err)
	fmt.Println(license.OrganizationID == client.OrganizationID())
	// Output:
	// <nil>
	// granted laptop <nil>
	// true
}

// A floating license is taken along on a trip.
func ExampleGate_Borrow() {
	private := ed25519.NewKeyFromSeed([]byte("an example, never a key in life!"))
	polar := polartest.New(polartest.Config{})
	sold := polar.AddKey(polartest.LicenseKey{})
	client, err := polargate.NewClient(polargate.ClientConfig{
		OrganizationID: polar.OrganizationID(), AccessToken: polar.AddToken(polartest.Token{}), HTTPClient: polar.Client(),
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	vendor, err := issuer.New(issuer.Config{
		Client: client, Key: private,
		Pools: map[string]issuer.Pool{sold.BenefitID: {Max: 5, Borrow: 72 * time.Hour}},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	server := httptest.NewServer(vendor.Handler())
	defer server.Close()

	gate, err := polargate.Open(polargate.Config{
		OrganizationID: polar.OrganizationID(),
		LeaseKeys:      []ed25519.PublicKey{private.Public().(ed25519.PublicKey)},
		LeaseURL:       server.URL,
		Store:          &polargate.MemoryStore{},
		Fingerprint:    "this computer",
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer gate.Close()
	ctx := context.Background()
	if _, err := gate.Activate(ctx, sold.Key); err != nil {
		fmt.Println(err)
		return
	}
	status, err := gate.Borrow(ctx, 48*time.Hour)
	fmt.Println(status.State, time.Until(status.GraceUntil) > 47*time.Hour, err)
	// Output:
	// active true <nil>
}

// A computer without a network is activated by a file, which the vendor's page makes.
func ExampleGate_ActivateFile() {
	polar := polartest.New(polartest.Config{})
	sold := polar.AddKey(polartest.LicenseKey{LimitActivations: polartest.Limit(1)})
	client, err := polargate.NewClient(polargate.ClientConfig{
		OrganizationID: polar.OrganizationID(), AccessToken: polar.AddToken(polartest.Token{}), HTTPClient: polar.Client(),
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	private := ed25519.NewKeyFromSeed([]byte("an example, never a key in life!"))
	vendor, err := issuer.New(issuer.Config{Client: client, Key: private, Features: map[string][]string{sold.BenefitID: {"export"}}})
	if err != nil {
		fmt.Println(err)
		return
	}

	gate, err := polargate.Open(polargate.Config{
		OrganizationID: polar.OrganizationID(),
		LeaseKeys:      []ed25519.PublicKey{private.Public().(ed25519.PublicKey)}, // from polargate-keygen
		Store:          &polargate.MemoryStore{},
		Fingerprint:    "this computer",
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer gate.Close()
	request, err := gate.OfflineRequest() // to be saved, or shown as a QR code
	if err != nil {
		fmt.Println(err)
		return
	}

	// On the vendor's page, where the customer enters the license key.
	ctx := context.Background()
	asked, err := lease.ParseRequest(request)
	if err != nil {
		fmt.Println(err)
		return
	}
	asked.Key = lease.NewSecret(sold.Key)
	file, err := vendor.Issue(ctx, asked)
	if err != nil {
		fmt.Println(err)
		return
	}

	// Back on the computer without a network.
	status, err := gate.ActivateFile([]byte(lease.Armor(file)))
	fmt.Println(status.State, gate.Has("export"), polar.Seats(sold.ID), err)

	// It is deactivated there, and the receipt frees the activation.
	err = gate.Deactivate(ctx)
	fmt.Println(gate.Has("export"), err)
	text, err := gate.OfflineReceipt()
	if err != nil {
		fmt.Println(err)
		return
	}
	receipt, err := lease.ParseReceipt(text)
	if err != nil {
		fmt.Println(err)
		return
	}
	err = vendor.Release(ctx, receipt)
	fmt.Println(polar.Seats(sold.ID), err)
	// Output:
	// active true 1 <nil>
	// false <nil>
	// 0 <nil>
}

func ExampleClient_Activate() {
	polar := polartest.New(polartest.Config{})
	known := polar.AddKey(polartest.LicenseKey{LimitActivations: polartest.Limit(1), LimitUsage: polartest.Limit(10)})
	client, err := polargate.NewClient(polargate.ClientConfig{OrganizationID: polar.OrganizationID(), BaseURL: polar.URL(), HTTPClient: polar.Client()})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer client.Close()
	ctx := context.Background()
	key, err := polargate.ParseKey(known.Key)
	fmt.Println(key.IsZero(), key.Reveal() == known.Key, err)

	seat, err := client.Activate(ctx, polargate.ActivateRequest{Key: key, Label: "studio-laptop"})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(seat.Label, "has uses left:", seat.LicenseKey.Remaining())

	_, err = client.Activate(ctx, polargate.ActivateRequest{Key: key, Label: "another"})
	var failure *polargate.Error
	fmt.Println(errors.As(err, &failure) && failure.Reason.Denial(), errors.Is(err, polargate.ErrActivationLimit))

	fmt.Println(client.Deactivate(ctx, key, seat.ID))
	// Output:
	// false true <nil>
	// studio-laptop has uses left: 10
	// true true
	// <nil>
}

// E-mail addresses are there for who asks for them, and in no log.
func ExampleEmail() {
	polar := polartest.New(polartest.Config{})
	key := polar.AddKey(polartest.LicenseKey{Customer: polartest.Customer{Email: "ada@example.com"}})
	client, _ := polargate.NewClient(polargate.ClientConfig{OrganizationID: polar.OrganizationID(), BaseURL: polar.URL(), HTTPClient: polar.Client()})
	defer client.Close()
	sent, _ := polargate.ParseKey(key.Key)
	license, _ := client.Validate(context.Background(), polargate.ValidateRequest{Key: sent})

	email := license.Customer.Email
	fmt.Println(email.IsZero(), email, email.Reveal())
	// Output:
	// false **** ada@example.com
}

// A Store can be anything that keeps a few KiB. Here the state of a portable program
// moves from the user's folder to the one beside the program: as bytes, which are
// sealed, and stay of use on the same computer only.
func ExampleFileStore() {
	moveState := func(ctx context.Context, from, to polargate.Store, name string) error {
		unlock, err := from.Lock(ctx, name)
		if err != nil {
			return err
		}
		defer unlock()
		state, err := from.Load(ctx, name)
		if errors.Is(err, polargate.ErrNotStored) {
			return nil // there is nothing to move
		} else if err != nil {
			return err
		}
		return to.Save(ctx, name, state)
	}
	folder, err := os.MkdirTemp("", "inkwell-")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = os.RemoveAll(folder) }()
	ctx := context.Background()
	beside := polargate.FileStore(filepath.Join(folder, "license"))
	fmt.Println(moveState(ctx, &polargate.MemoryStore{}, beside, "state"))
	_, err = beside.Load(ctx, "state")
	fmt.Println(errors.Is(err, polargate.ErrNotStored))
	// Output:
	// <nil>
	// true
}

// A disk moved to a new computer, or the system was set up anew. Nothing is moved
// unasked: the user says so, and need not find the key again.
func ExampleGate_Move() {
	polar := polartest.New(polartest.Config{})
	key := polar.AddKey(polartest.LicenseKey{Key: "INKWELL-0000-1111-0A1B2C", LimitActivations: polartest.Limit(1)})
	disk := &polargate.MemoryStore{}
	open := func(computer string) *polargate.Gate {
		gate, _ := polargate.Open(polargate.Config{
			OrganizationID: polar.OrganizationID(), BaseURL: polar.URL(), HTTPClient: polar.Client(),
			Store: disk, Fingerprint: computer, // a program leaves both out
		})
		return gate
	}
	old := open("the old computer")
	defer old.Close()
	ctx := context.Background()
	_, _ = old.Activate(ctx, key.Key)

	gate := open("the new computer")
	defer gate.Close()
	status, err := gate.Check(ctx)
	fmt.Println(status.State, status.Key, status.Message)
	if errors.Is(err, polargate.ErrOtherMachine) { // and the user chose to move it
		status, err = gate.Move(ctx)
	}
	fmt.Println(status.State, err)
	_, err = old.Refresh(ctx)
	fmt.Println(polargate.Message(err))
	// Output:
	// locked ****-0A1B2C This license belongs to another computer. Move it here, which deactivates the other computer, or activate another license key.
	// active <nil>
	// This computer was deactivated. Activate your license key again to use it on this computer.
}

func ExampleStoreError() {
	// What Activate returns where the license file belongs to somebody else.
	err := error(&polargate.StoreError{Op: "load", Err: fs.ErrPermission})
	switch {
	case errors.Is(err, polargate.ErrNoPermission):
		fmt.Println(polargate.Message(err))
	case errors.Is(err, polargate.ErrBusy):
		fmt.Println("try again in a moment")
	}
	// Output: This program isn't allowed to use its license file. Give your user account access to the file and its folder, then try again.
}

// A trial needs no key and no network. It begins with the first Check.
func ExampleTrial() {
	gate, err := polargate.Open(polargate.Config{
		OrganizationID: "34f57e13-8bcb-4481-85b2-a4b55c4ba0b9",
		App:            "inkwell",
		Store:          &polargate.MemoryStore{},
		Trial:          polargate.Trial{Days: 14, Features: []string{"export"}},
	})
	if err != nil {
		panic(err)
	}
	defer gate.Close()
	status, err := gate.Check(context.Background())
	fmt.Println(status.State, err, gate.Has("export"), gate.Has("sync"))
	fmt.Println(time.Until(status.TrialUntil).Round(24 * time.Hour))
	// Output:
	// trial <nil> true false
	// 336h0m0s
}

// A loop in a goroutine of its own hears of each change.
func ExampleGate_Subscribe() {
	polar := polartest.New(polartest.Config{})
	key := polar.AddKey(polartest.LicenseKey{LimitActivations: polartest.Limit(1)})
	gate, err := polargate.Open(polargate.Config{
		OrganizationID: polar.OrganizationID(), App: "inkwell", Store: &polargate.MemoryStore{},
		BaseURL: polar.URL(), HTTPClient: polar.Client(),
	})
	if err != nil {
		panic(err)
	}
	defer gate.Close()
	licensed := make(chan polargate.Status)
	go func() {
		for status := range gate.Subscribe() {
			if status.OK() {
				licensed <- status
				return
			}
		}
	}()
	if _, err := gate.Activate(context.Background(), key.Key); err != nil {
		panic(err)
	}
	fmt.Println((<-licensed).Message)
	// Output: Licensed.
}
