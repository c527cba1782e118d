package issuer_test

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"net/http"
	"time"

	"github.com/polargate/polargate"
	"github.com/polargate/polargate/lease"
	"github.com/polargate/polargate/lease/issuer"
	"github.com/polargate/polargate/polartest"
)

// A vendor's server: programs post their requests to it, and get leases.
func Example() {
	polar := polartest.New(polartest.Config{})
	client, err := polargate.NewClient(polargate.ClientConfig{
		OrganizationID: polar.OrganizationID(), AccessToken: polar.AddToken(polartest.Token{}), HTTPClient: polar.Client(),
	})
	if err != nil {
		panic(err)
	}
	sold := polar.AddKey(polartest.LicenseKey{LimitActivations: polartest.Limit(1)})

	server, err := issuer.New(issuer.Config{
		Client: client,
		Key:    ed25519.NewKeyFromSeed([]byte("an example, never a key in life!")),
		For:    30 * 24 * time.Hour,
	})
	if err != nil {
		panic(err)
	}
	mux := http.NewServeMux()
	mux.Handle("POST /lease", server.Handler())

	// What the Handler does with a request, and with a receipt.
	ctx := context.Background()
	secret := lease.NewSecret("of the program")
	text, err := server.Issue(ctx, lease.Request{
		ID: "Q1", Made: time.Now(), OrganizationID: polar.OrganizationID(), Key: lease.NewSecret(sold.Key),
		Fingerprint: "3f2e1d0c4b5a69788796a5b4c3d2e1f0", ReceiptHash: lease.ReceiptHash(secret),
	})
	fmt.Println(text[:3], polar.Seats(sold.ID), err)

	held, err := server.Leases(ctx, sold.ID)
	fmt.Println(len(held), held[0].Expires.Sub(held[0].Issued), err)

	err = server.Release(ctx, lease.Receipt{
		OrganizationID: polar.OrganizationID(), LicenseKeyID: sold.ID, LeaseID: held[0].LeaseID,
		Fingerprint: held[0].Fingerprint, Secret: secret,
	})
	fmt.Println(polar.Seats(sold.ID), err)

	fmt.Println(server.End(ctx, sold.ID, held[0].Fingerprint)) // ended already
	// Output:
	// v1. 1 <nil>
	// 1 720h0m0s <nil>
	// 0 <nil>
	// <nil>
}
