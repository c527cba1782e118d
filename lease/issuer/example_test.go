package issuer_test

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
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

// A page of your own, for customers whose computers have no network.
func ExampleIssuer_RetryAfter() {
	polar := polartest.New(polartest.Config{})
	client, err := polargate.NewClient(polargate.ClientConfig{
		OrganizationID: polar.OrganizationID(), AccessToken: polar.AddToken(polartest.Token{}), HTTPClient: polar.Client(),
	})
	if err != nil {
		panic(err)
	}
	server, err := issuer.New(issuer.Config{Client: client, Key: ed25519.NewKeyFromSeed([]byte("an example, never a key in life!"))})
	if err != nil {
		panic(err)
	}
	page := func(w http.ResponseWriter, r *http.Request) {
		if wait := server.RetryAfter(r); wait > 0 {
			http.Error(w, "Too many requests. Try again in a minute.", http.StatusTooManyRequests)
			return
		}
		text, err := lease.Unarmor([]byte(r.PostFormValue("request")), lease.KindRequest)
		if err != nil {
			fmt.Fprintln(w, "Paste the whole request.")
			return
		}
		request, err := lease.ParseRequest(text)
		if err != nil {
			fmt.Fprintln(w, "Paste the whole request.")
			return
		}
		request.Key = lease.NewSecret(r.PostFormValue("key")) // which the computer may not have
		issued, err := server.Issue(r.Context(), request)
		if err != nil {
			text, _, _ := strings.Cut(issuer.Message(err), ". ") // all of it, on a page
			fmt.Fprintln(w, text)
			return
		}
		fmt.Fprint(w, lease.Armor(issued))
	}

	request, err := lease.Request{
		ID: "Q1", Made: time.Now(), OrganizationID: polar.OrganizationID(), Fingerprint: "3f2e1d0c", ReceiptHash: lease.ReceiptHash(lease.NewSecret("s")),
	}.Encode()
	if err != nil {
		panic(err)
	}
	for _, key := range []string{"POLAR-NO-SUCH-KEY", polar.AddKey(polartest.LicenseKey{LimitActivations: polartest.Limit(1)}).Key} {
		form := url.Values{"request": {lease.Armor(request)}, "key": {key}}
		r := httptest.NewRequest(http.MethodPost, "/offline", strings.NewReader(form.Encode()))
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		w := httptest.NewRecorder()
		page(w, r)
		line, _, _ := strings.Cut(w.Body.String(), "\n")
		fmt.Println(line)
	}
	// Output:
	// The license server doesn't recognize this license key
	// -----BEGIN POLARGATE LEASE-----
}
