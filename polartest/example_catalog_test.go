package polartest_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/polargate/polargate/polartest"
)

// call stands for a program that uses Polar's API, and gives a field of the answer.
func call(polar *polartest.Polar, token, method, path, body, field string) any {
	r, err := http.NewRequest(method, "https://api.polar.sh"+path, strings.NewReader(body))
	if err != nil {
		return err
	}
	r.Header.Set("Authorization", "Bearer "+token)
	r.Header.Set("Content-Type", "application/json")
	response, err := polar.Client().Do(r)
	if err != nil {
		return err
	}
	defer func() { _ = response.Body.Close() }()
	var answer map[string]any
	if err := json.NewDecoder(response.Body).Decode(&answer); err != nil {
		return err
	}
	if field == "total" {
		return answer["pagination"].(map[string]any)["total_count"]
	}
	return answer[field]
}

func ExamplePolar_AddProduct() {
	polar := polartest.New(polartest.Config{})
	token := polar.AddToken(polartest.Token{})
	polar.AddOrganization(polartest.Organization{Name: "Acme", Slug: "acme", MemberModel: true})
	key := polar.AddBenefit(polartest.CatalogBenefit{Type: "license_keys", Properties: map[string]any{
		"prefix": "ACME", "activations": map[string]any{"limit": 3, "enable_customer_admin": true},
	}})
	team := polar.AddProduct(polartest.Product{
		Name: "Team", Benefits: []string{key.ID}, Prices: []polartest.Price{{AmountType: "seat_based", Amount: 1000}},
	})
	buyer := polar.AddCustomer(polartest.Customer{ExternalID: "team-1", Type: "team"})
	subscription := polar.Subscribe("team-1", polartest.Subscription{ProductID: team.ID, Seats: polartest.Limit(2)})
	dev := polar.AddMember(polartest.Member{CustomerID: buyer.ID, Email: "dev@example.com", ExternalID: "dev-1"})

	seat := fmt.Sprintf(`{"subscription_id":%q,"external_member_id":"dev-1","immediate_claim":true}`, subscription.ID)
	fmt.Println("assigned:", call(polar, token, "POST", "/v1/customer-seats", seat, "status"))
	for _, s := range polar.CustomerSeats(subscription.ID) {
		fmt.Println("for the member:", s.MemberID == dev.ID)
	}
	session := polar.AddSession(polartest.Session{CustomerID: "team-1", MemberID: dev.ID})
	fmt.Println("keys of the member:", call(polar, session.Token, "GET", "/v1/customer-portal/license-keys/", "", "total"))
	fmt.Println("grants of the buyer:", call(polar, token, "GET", "/v1/benefit-grants/?is_granted=true", "", "total"))

	polar.AddSeat(polartest.CustomerSeat{SubscriptionID: subscription.ID, Email: "second@example.com"})
	fmt.Println("a third:", call(polar, token, "POST", "/v1/customer-seats",
		fmt.Sprintf(`{"subscription_id":%q,"email":"third@example.com"}`, subscription.ID), "error"))

	// Output:
	// assigned: claimed
	// for the member: true
	// keys of the member: 1
	// grants of the buyer: 1
	// a third: SeatNotAvailable
}

func ExamplePolar_AddMeter() {
	polar := polartest.New(polartest.Config{})
	token := polar.AddToken(polartest.Token{})
	meter := polar.AddMeter(polartest.CatalogMeter{Name: "API calls", EventName: "api.call"})
	polar.AddCustomer(polartest.Customer{ExternalID: "usr_1337"})
	polar.CreditMeter("usr_1337", meter.ID, 100)

	event := `{"events":[{"name":"api.call","external_customer_id":"usr_1337","external_id":"request-1"}]}`
	fmt.Println("sent:", call(polar, token, "POST", "/v1/events/ingest", event, "inserted"))
	fmt.Println("sent again:", call(polar, token, "POST", "/v1/events/ingest", event, "inserted"))
	show := func(when string) {
		c, _ := polar.Customer("usr_1337")
		fmt.Println(when, c.Meters[0].Balance(), "counted:", polar.Events()[0].Counted)
	}
	show("at once:")
	polar.Advance(15 * time.Second)
	show("15 seconds after the last event:")

	// Output:
	// sent: 1
	// sent again: 0
	// at once: 100 counted: false
	// 15 seconds after the last event: 99 counted: true
}

func ExamplePolar_Import() {
	polar := polartest.New(polartest.Config{})
	// what a real organization answered to GET /v1/subscriptions/, shortened
	err := polar.Import([]byte(`{"items": [{
		"id": "bd90d5ab-bd28-475d-9434-63422e79d850", "status": "active", "current_period_start": "2026-11-28T16:18:53Z",
		"customer_id": "0b4daf0b-30eb-4e0b-9ee4-a33a445b9fcf", "product_id": "dc11a5a5-71b1-4b1e-ab30-63dff05cab1f",
		"customer": {"id": "0b4daf0b-30eb-4e0b-9ee4-a33a445b9fcf", "external_id": "user-1", "email": "a1@example.com", "email_verified": false}
	}]}`))
	c, _ := polar.Customer("user-1")
	fmt.Println(c.Email, c.Subscriptions[0].Status, err)
	// Output: a1@example.com active <nil>
}

func ExamplePolar_Emit() {
	polar := polartest.New(polartest.Config{})
	polar.AddEndpoint(polartest.Endpoint{
		Events: []string{"subscription.cycled"},
		Handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			var event struct{ Type string }
			_ = json.NewDecoder(r.Body).Decode(&event)
			fmt.Println("received:", event.Type)
		}),
	})
	polar.AddCustomer(polartest.Customer{ExternalID: "usr_1337"})
	subscription := polar.Subscribe("usr_1337", polartest.Subscription{Amount: 2000})
	polar.Emit(polartest.Event{Type: "subscription.cycled", Subject: subscription.ID})
	if err := polar.WaitForDeliveries(context.Background()); err != nil {
		fmt.Println(err)
	}
	// Output: received: subscription.cycled
}
