package polartest_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
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

// Everything that can be between a program and Polar, or go wrong in Polar, is a
// fault. The program under test had better not believe any of it.
func ExamplePolar_Inject() {
	polar := polartest.New(polartest.Config{})
	key := polar.AddKey(polartest.LicenseKey{LimitActivations: polartest.Limit(100)})
	client := polar.Client()
	client.Timeout = 500 * time.Millisecond
	for _, fault := range []struct {
		name   string
		effect polartest.Effect
	}{
		{"late", polartest.Delay(time.Millisecond)},
		{"changed", polartest.Rewrite(func(int, http.Header, []byte) (int, []byte) { return http.StatusTeapot, []byte(`{"detail":"tea"}`) })},
		{"a Wi-Fi's login page", polartest.LoginPage(http.StatusOK)},
		{"a proxy's page", polartest.ProxyPage(http.StatusProxyAuthRequired)},
		{"a path that is gone", polartest.RouterNotFound()},
		{"Polar is ill", polartest.ServerError(http.StatusInternalServerError)},
		{"the rate limit", polartest.RateLimited("60")},
		{"noise", polartest.Garbage()},
		{"without an end", polartest.Huge()},
		{"cut short", polartest.Truncated()},
		{"a byte at a time", polartest.SlowDrip(time.Minute)},
		{"reset", polartest.Reset()},
		{"closed", polartest.Close()},
		{"silent", polartest.Hang()},
		{"anything else", polartest.Body(http.StatusOK, "text/plain", "42")},
	} {
		polar.Inject(polartest.Fault{Effect: fault.effect})
		err := activate(client, polar.OrganizationID(), key.Key)
		fmt.Printf("%s: activated %t, seats %d\n", fault.name, err == nil, polar.Seats(key.ID))
		polar.ClearFaults()
		polar.Advance(time.Minute) // so that the rate limit is of no concern
	}

	// Output:
	// late: activated true, seats 1
	// changed: activated false, seats 2
	// a Wi-Fi's login page: activated false, seats 2
	// a proxy's page: activated false, seats 2
	// a path that is gone: activated false, seats 2
	// Polar is ill: activated false, seats 2
	// the rate limit: activated false, seats 2
	// noise: activated false, seats 2
	// without an end: activated false, seats 2
	// cut short: activated false, seats 3
	// a byte at a time: activated false, seats 4
	// reset: activated false, seats 4
	// closed: activated false, seats 4
	// silent: activated false, seats 4
	// anything else: activated false, seats 4
}

// What the vendor does in Polar's dashboard, a test does with a license key.
func ExamplePolar_AddKey() {
	polar := polartest.New(polartest.Config{})
	key := polar.AddKey(polartest.LicenseKey{LimitActivations: polartest.Limit(1)})
	client := polar.Client()

	polar.Revoke(key.ID)
	fmt.Println("revoked:", activate(client, polar.OrganizationID(), key.Key))
	polar.Grant(key.ID)
	renewed := polar.Rotate(key.ID)
	fmt.Println("the old key:", activate(client, polar.OrganizationID(), key.Key))
	fmt.Println("the new key:", activate(client, polar.OrganizationID(), renewed))
	polar.SetOffline(true)
	fmt.Println("offline:", activate(client, polar.OrganizationID(), renewed) != nil)

	for _, r := range polar.Requests() {
		fmt.Println(r.Method, r.Status)
	}
	polar.ForgetRequests()
	fmt.Println(len(polar.Requests()))

	// Output:
	// revoked: License key is no longer active. This license key can not be activated.
	// the old key: Not found
	// the new key: <nil>
	// offline: true
	// POST 403
	// POST 404
	// POST 200
	// 0
}

// A program's own handler, or a client with a transport of its own, can be given a
// Polar without a socket.
func ExamplePolar_ServeHTTP() {
	polar := polartest.New(polartest.Config{})
	w := httptest.NewRecorder()
	polar.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/v1/license-keys/", http.NoBody))
	fmt.Println(w.Code)

	client := &http.Client{Transport: polar.Transport(), Timeout: time.Second}
	response, err := client.Get("https://api.polar.sh/v1/license-keys/")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = response.Body.Close() }()
	fmt.Println(response.StatusCode)

	// Output:
	// 401
	// 401
}

// Webhooks are held back, and come in the wrong order; a receiver that fails is tried
// again.
func ExamplePolar_HoldDeliveries() {
	polar := polartest.New(polartest.Config{})
	polar.AddCustomer(polartest.Customer{ExternalID: "usr_1337"})
	endpoint := polar.AddEndpoint(polartest.Endpoint{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var event struct {
			Data struct {
				Benefits []struct{} `json:"granted_benefits"`
				Meters   []struct{} `json:"active_meters"`
			}
		}
		_ = json.NewDecoder(r.Body).Decode(&event)
		fmt.Println(len(event.Data.Benefits), "benefits", len(event.Data.Meters), "meters")
		w.WriteHeader(http.StatusAccepted)
	})})
	ctx := context.Background()

	polar.HoldDeliveries()
	benefit := polar.GrantBenefit("usr_1337", polartest.Benefit{})
	polar.RevokeBenefit("usr_1337", benefit.BenefitID)
	meter := polar.CreditMeter("usr_1337", "aaf2bfea-ac4f-40eb-99ad-de858ccdfd97", 100)
	meter = polar.DebitMeter("usr_1337", meter.MeterID, 30)
	fmt.Println(meter.Balance(), "left")
	var ids []string
	for _, d := range polar.Deliveries() {
		ids = append(ids, d.ID)
	}
	slices.Reverse(ids)
	polar.ReleaseDeliveries(ids...)
	fmt.Println(polar.WaitForDeliveries(ctx))

	polar.UpdateEndpoint(endpoint.ID, func(e *polartest.Endpoint) { e.Disabled = true })
	polar.UpdateCustomer("usr_1337", func(c *polartest.Customer) { c.Name = "Ada" }) // and nobody is told
	fmt.Println(polar.WaitForDeliveries(ctx))

	// Output:
	// 70 left
	// 0 benefits 1 meters
	// 0 benefits 1 meters
	// 0 benefits 0 meters
	// 1 benefits 0 meters
	// <nil>
	// <nil>
}
