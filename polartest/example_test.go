package polartest_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"syscall"
	"time"

	"github.com/polargate/polargate/polartest"
)

// activate stands for the program under test: it takes a seat.
func activate(client *http.Client, organization, key string) error {
	body := fmt.Sprintf(`{"key":%q,"organization_id":%q,"label":"laptop"}`, key, organization)
	response, err := client.Post("https://api.polar.sh/v1/customer-portal/license-keys/activate",
		"application/json", strings.NewReader(body))
	if err != nil {
		return err
	}
	defer func() { _ = response.Body.Close() }()
	var answer struct{ Detail string }
	if err := json.NewDecoder(response.Body).Decode(&answer); err != nil {
		return err
	}
	if response.StatusCode != http.StatusOK {
		return errors.New(answer.Detail)
	}
	return nil
}

func Example() {
	polar := polartest.New(polartest.Config{})
	key := polar.AddKey(polartest.LicenseKey{LimitActivations: polartest.Limit(2)})
	client := polar.Client()

	err := activate(client, polar.OrganizationID(), key.Key)
	fmt.Println("first seat:", err)

	polar.Inject(polartest.Fault{Path: "/activate", Times: 1, Effect: polartest.AnswerLost()})
	err = activate(client, polar.OrganizationID(), key.Key)
	fmt.Println("answer lost:", errors.Is(err, syscall.ECONNRESET), "and seats taken:", polar.Seats(key.ID))

	err = activate(client, polar.OrganizationID(), key.Key)
	fmt.Println("third:", err)

	tomorrow := polar.Now().Add(24 * time.Hour)
	polar.Update(key.ID, func(k *polartest.LicenseKey) { k.ExpiresAt = tomorrow })
	polar.Advance(25 * time.Hour)
	err = activate(client, polar.OrganizationID(), key.Key)
	fmt.Println("a day later:", err)
	fmt.Println("requests:", polar.Count("/activate"))

	// Output:
	// first seat: <nil>
	// answer lost: true and seats taken: 2
	// third: License key activation limit already reached
	// a day later: License key has expired.
	// requests: 4
}

// features stands for the program under test: it asks what a user of its own may do.
func features(client *http.Client, token, user string) (names []string, err error) {
	r, err := http.NewRequest(http.MethodGet, "https://api.polar.sh/v1/customers/external/"+url.PathEscape(user)+"/state", http.NoBody)
	if err != nil {
		return nil, err
	}
	r.Header.Set("Authorization", "Bearer "+token)
	response, err := client.Do(r)
	if err != nil {
		return nil, err
	}
	defer func() { _ = response.Body.Close() }()
	var state struct {
		Detail  string
		Granted []struct {
			Metadata struct{ Feature string } `json:"benefit_metadata"`
		} `json:"granted_benefits"`
	}
	if err := json.NewDecoder(response.Body).Decode(&state); err != nil {
		return nil, err
	}
	if response.StatusCode != http.StatusOK {
		return nil, errors.New(state.Detail)
	}
	for _, benefit := range state.Granted {
		names = append(names, benefit.Metadata.Feature)
	}
	return names, nil
}

func ExamplePolar_AddCustomer() {
	polar := polartest.New(polartest.Config{})
	token := polar.AddToken(polartest.Token{})
	customer := polar.AddCustomer(polartest.Customer{ExternalID: "usr_1337"})
	subscription := polar.Subscribe("usr_1337", polartest.Subscription{Amount: 2000},
		polartest.Benefit{Metadata: map[string]any{"feature": "export"}})
	show := func(when string) {
		names, err := features(polar.Client(), token, "usr_1337")
		fmt.Println(when, names, err)
	}
	show("subscribed:")
	polar.CancelSubscription("usr_1337", subscription.ID)
	show("canceled:")
	polar.RestoreSubscription(customer.ID, subscription.ID)
	show("restored:")
	polar.DeleteCustomer("usr_1337")
	show("deleted:")

	// Output:
	// subscribed: [export] <nil>
	// canceled: [] <nil>
	// restored: [export] <nil>
	// deleted: [] Not found
}

func ExamplePolar_AddEndpoint() {
	polar := polartest.New(polartest.Config{})
	handler := func(w http.ResponseWriter, r *http.Request) { // the receiver under test
		if !strings.HasPrefix(r.Header.Get("Webhook-Signature"), "v1,") {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		var event struct{ Type string }
		_ = json.NewDecoder(r.Body).Decode(&event)
		fmt.Println("received:", event.Type)
	}
	endpoint := polar.AddEndpoint(polartest.Endpoint{Handler: http.HandlerFunc(handler)})
	polar.AddCustomer(polartest.Customer{ExternalID: "usr_1337"})
	if err := polar.WaitForDeliveries(context.Background()); err != nil {
		fmt.Println(err)
	}

	first := polar.Deliveries()[0]
	status, err := polar.Send(endpoint.ID, polartest.Message{ID: first.ID, Body: first.Body})
	fmt.Println("once more:", status, err)
	status, err = polar.Send(endpoint.ID, polartest.Message{Body: first.Body, Header: http.Header{"Webhook-Signature": nil}})
	fmt.Println("unsigned:", status, err)

	// Output:
	// received: customer.created
	// received: customer.state_changed
	// received: customer.created
	// once more: 200 <nil>
	// unsigned: 401 <nil>
}

func ExamplePolar_Start() {
	polar := polartest.New(polartest.Config{Unlimited: true})
	server, err := polar.Start()
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = server.Close() }()

	response, err := http.Get(server.URL + "/v1/license-keys/")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = response.Body.Close() }()
	fmt.Println(response.Status, response.Header.Get("WWW-Authenticate"))
	// Output: 401 Unauthorized Bearer realm="polar"
}
