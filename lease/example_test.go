package lease_test

import (
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/polargate/polargate/lease"
)

// exampleKeys are what polargate-keygen makes: the private one for the vendor's server,
// the public one for the program.
func exampleKeys() (private ed25519.PrivateKey, public string) {
	private = ed25519.NewKeyFromSeed([]byte("an example, never a key in life!"))
	return private, lease.FormatPublicKey(private.Public().(ed25519.PublicKey))
}

func exampleLease(private ed25519.PrivateKey, now time.Time) string {
	text, err := lease.Sign(private, lease.Claims{
		ID:             "NP7DPOGVAGHRKUN4CAZD6Q6SWE",
		OrganizationID: "34f57e13-8bcb-4481-85b2-a4b55c4ba0b9",
		BenefitID:      "b0000000-0000-4000-8000-000000000001",
		LicenseKeyID:   "c0000000-0000-4000-8000-000000000001",
		Fingerprint:    "3f2e1d0c4b5a69788796a5b4c3d2e1f0",
		Features:       []string{"export", "sync"},
		Issued:         now,
		Expires:        now.AddDate(0, 0, 30),
		Grace:          7 * 24 * time.Hour,
	})
	if err != nil {
		panic(err)
	}
	return text
}

// The vendor's server signs, and the program checks.
func Example() {
	private, public := exampleKeys()
	now := time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)
	text := exampleLease(private, now)

	keys, err := lease.NewKeys(lease.MustParsePublicKey(public))
	if err != nil {
		panic(err)
	}
	held, err := keys.Verify(text)
	if err != nil {
		fmt.Println(err) // it is no lease of this vendor
		return
	}
	want := lease.Want{
		OrganizationID: "34f57e13-8bcb-4481-85b2-a4b55c4ba0b9",
		Fingerprint:    "3f2e1d0c4b5a69788796a5b4c3d2e1f0",
	}
	for _, days := range []int{1, 31, 38} {
		standing, err := held.Check(now.AddDate(0, 0, days), want)
		fmt.Println(days, standing, errors.Is(err, lease.ErrExpired))
	}
	fmt.Println("renew from", held.RenewAt().Format(time.DateOnly), "until", held.Ends().Format(time.DateOnly))
	// Output:
	// 1 active false
	// 31 grace false
	// 38  true
	// renew from 2026-12-15 until 2027-01-06
}

// A computer without a network: the request goes out as a file and the lease comes
// back as one. Later, the receipt shows that the computer was deactivated.
func Example_offline() {
	now := time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)

	// The program keeps a secret, and asks.
	secret := lease.NewSecret(rand.Text())
	request, err := lease.Request{
		ID: rand.Text(), Made: now, OrganizationID: "34f57e13-8bcb-4481-85b2-a4b55c4ba0b9",
		Key:         lease.NewSecret("POLAR-1C285B2D-6CE6-4BC7-B8BE-ADB6A7E304DA"),
		Fingerprint: "3f2e1d0c4b5a69788796a5b4c3d2e1f0", ReceiptHash: lease.ReceiptHash(secret),
	}.Encode()
	if err != nil {
		panic(err)
	}
	file := lease.Armor(request)
	fmt.Println(strings.SplitN(file, "\n", 2)[0])

	// The vendor's server reads what was uploaded, activates, and signs.
	text, err := lease.Unarmor([]byte(file), lease.KindRequest)
	if err != nil {
		panic(err)
	}
	asked, err := lease.ParseRequest(text)
	if err != nil {
		panic(err)
	}
	fmt.Println("for", asked.Fingerprint, "with", asked.Key)

	// The program throws its lease away, and shows the secret.
	receipt, err := lease.Receipt{
		ID: rand.Text(), Made: now, OrganizationID: asked.OrganizationID,
		LeaseID: "NP7DPOGVAGHRKUN4CAZD6Q6SWE", Fingerprint: asked.Fingerprint, Secret: secret,
	}.Encode()
	if err != nil {
		panic(err)
	}
	shown, err := lease.ParseReceipt(receipt)
	fmt.Println(shown.Proves(asked.ReceiptHash), err)
	// Output:
	// -----BEGIN POLARGATE ACTIVATION REQUEST-----
	// for 3f2e1d0c4b5a69788796a5b4c3d2e1f0 with ****
	// true <nil>
}

// Two keys are pinned, so that the first can be given up.
func ExampleNewKeys() {
	_, first := exampleKeys()
	next := ed25519.NewKeyFromSeed([]byte("another, that lies in a safe ..."))
	keys, err := lease.NewKeys(lease.MustParsePublicKey(first), next.Public().(ed25519.PublicKey))
	if err != nil {
		panic(err)
	}
	_, err = keys.Verify(exampleLease(next, time.Now()))
	fmt.Println(err)
	stranger := ed25519.NewKeyFromSeed([]byte("nobody's key, as far as we know."))
	_, err = keys.Verify(exampleLease(stranger, time.Now()))
	fmt.Println(err)
	// Output:
	// <nil>
	// lease: it was signed with a key that this program does not know (key adc5de5b943a). Update the program, or ask for a new lease.
}

// A private key comes from a file or the environment, and is never printed.
func ExampleParsePrivateKey() {
	private, public := exampleKeys()
	kept, err := lease.FormatPrivateKey(private)
	if err != nil {
		panic(err)
	}
	key, err := lease.ParsePrivateKey(kept)
	if err != nil {
		panic(err)
	}
	parsed, err := lease.ParsePublicKey(public)
	fmt.Println(key.Public().(ed25519.PublicKey).Equal(parsed), lease.KeyID(parsed), err)
	// Output: true 416fa7a60563 <nil>
}

// Secrets are masked wherever they are printed.
func ExampleSecret() {
	key := lease.NewSecret("POLAR-1C285B2D-6CE6-4BC7-B8BE-ADB6A7E304DA")
	fmt.Println(key, key.IsZero(), len(key.Reveal()))
	// Output: **** false 42
}

// A lease can cover the versions of the program up to a number.
func ExampleClaims_CoversVersion() {
	claims := lease.Claims{Covers: "3.2"}
	fmt.Println(claims.CoversVersion("3.2.99"), claims.CoversVersion("3.10.0"))
	// Output: true false
}
