package polargate_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/polargate/polargate"
	"github.com/polargate/polargate/polartest"
)

// Two processes on one computer share a file, and what is in it outlasts both.
func ExampleSharedFile() {
	folder, err := os.MkdirTemp("", "inkwell-")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(folder)
	path := filepath.Join(folder, "customers.state")
	first, second := polargate.SharedFile(path), polargate.SharedFile(path)

	ctx := context.Background()
	at := time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)
	_, err = first.Put(ctx, "", polargate.SharedRecord{Key: "customer", At: polargate.NewFactTime(at), Data: []byte("pro"), TTL: time.Hour})
	if err != nil {
		panic(err)
	}
	// An older fact comes later, and changes nothing.
	younger, err := second.Put(ctx, "", polargate.SharedRecord{Key: "customer", At: polargate.NewFactTime(at.Add(-time.Microsecond)), Data: []byte("free"), TTL: time.Hour})
	if err != nil {
		panic(err)
	}
	fmt.Println(string(younger[0].Data), younger[0].At.Valid(), younger[0].At.Time().Format(time.TimeOnly))
	// Output: pro true 12:00:00
}

// One of several replicas asks Polar about a customer whom none of them knows.
func ExampleSharedInMemory() {
	store := polargate.SharedInMemory()
	look := func(replica string) {
		answer, err := store.Lookup(context.Background(), polargate.SharedLookup{
			Key: "customer", Holder: replica, ClaimFor: 10 * time.Second,
			Budget: polargate.SharedBudget{Name: "requests", Limit: 300, Window: time.Minute},
		})
		if err != nil {
			panic(err)
		}
		switch {
		case answer.Found:
			fmt.Println(replica, "has the record:", string(answer.Record.Data))
		case answer.Claimed:
			fmt.Println(replica, "asks Polar;", answer.Turn.Left, "requests are left this minute")
		case answer.Busy:
			fmt.Println(replica, "waits")
		default:
			fmt.Println(replica, "is over the budget")
		}
	}
	look("replica 1")
	look("replica 2")
	_, _ = store.Put(context.Background(), "replica 1", polargate.SharedRecord{Key: "customer", At: polargate.NewFactTime(time.Now()), Data: []byte("pro"), TTL: time.Hour})
	look("replica 2")
	// Output:
	// replica 1 asks Polar; 299 requests are left this minute
	// replica 2 waits
	// replica 2 has the record: pro
}

// Two replicas share what Polar said: the second one serves a customer whom only the first has
// asked about, while Polar can't be reached. A webhook that comes by a queue is applied by
// whichever replica takes it, and decides on all.
func ExampleCustomers_Apply() {
	polar := polartest.New(polartest.Config{})
	pro := polar.AddCustomer(polartest.Customer{ExternalID: "usr_1337", Benefits: []polartest.Benefit{{}}}).Benefits[0].BenefitID
	const secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
	store := polargate.SharedInMemory() // polargateredis.New or SharedFile in a program
	replica := func() *polargate.Customers {
		customers, err := polargate.NewCustomers(polargate.CustomersConfig{
			AccessToken: polar.AddToken(polartest.Token{}), OrganizationID: polar.OrganizationID(),
			BaseURL: polar.URL(), HTTPClient: polar.Client(),
			Features: map[string][]string{pro: {"pro"}},
			Shared:   store, Secret: "of all replicas", WebhookSecrets: []string{secret},
		})
		if err != nil {
			panic(err)
		}
		return customers
	}
	ctx, user := context.Background(), polargate.ExternalID("usr_1337")
	first, second := replica(), replica()
	defer first.Close()
	defer second.Close()
	if _, err := first.Entitlements(ctx, user); err != nil {
		panic(err)
	}
	polar.SetOffline(true)
	have, err := second.Entitlements(ctx, user)
	fmt.Println(have.Has("pro"), err)
	polar.SetOffline(false)

	// The endpoint puts each delivery into a queue: the body as it came, and its headers.
	type delivery struct {
		body   []byte
		header http.Header
	}
	queue := make(chan delivery, 10)
	polar.AddEndpoint(polartest.Endpoint{Secrets: []polartest.Secret{{Text: secret}}, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		queue <- delivery{body, r.Header.Clone()}
		w.WriteHeader(http.StatusNoContent)
	})})
	polar.RevokeBenefit("usr_1337", pro)
	if err := polar.WaitForDeliveries(ctx); err != nil {
		panic(err)
	}
	close(queue)
	for d := range queue {
		if err := second.Apply(ctx, d.body, d.header); err != nil {
			panic(err)
		}
	}
	have, err = second.Entitlements(ctx, user)
	fmt.Println(have.Has("pro"), err)

	// What isn't signed is refused, as it is by HTTP.
	fmt.Println(second.Apply(ctx, []byte(`{"type": "customer.state_changed"}`), http.Header{"Webhook-Id": {"msg_1"}}))
	// Output:
	// true <nil>
	// false <nil>
	// polargate: delivery is not signed
}
