package polargate_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"

	"github.com/polargate/polargate"
	"github.com/polargate/polargate/polartest"
)

// soldBySeats is a Polar in which a team has bought two seats of a product with a benefit.
func soldBySeats() (polar *polartest.Polar, subscriptionID string) {
	polar = polartest.New(polartest.Config{MemberModel: true})
	pro := polar.AddBenefit(polartest.CatalogBenefit{ID: benefitPro})
	product := polar.AddProduct(polartest.Product{Name: "Inkwell for teams", Benefits: []string{pro.ID},
		Prices: []polartest.Price{{AmountType: "seat_based", Amount: 1000}}})
	polar.AddCustomer(polartest.Customer{ExternalID: "acme", Type: "team"})
	return polar, polar.Subscribe("acme", polartest.Subscription{ProductID: product.ID, Seats: polartest.Limit(2)}).ID
}

// A seat is assigned to a member of a team, who then may use what the team has bought. Who
// holds no seat may not.
func ExampleMember() {
	polar, subscription := soldBySeats()
	customers, err := polargate.NewCustomers(polargate.CustomersConfig{
		AccessToken: polar.AddToken(polartest.Token{}), // from the environment, in a server
		Features:    map[string][]string{benefitPro: {"export"}},
		BaseURL:     polar.URL(), // a server leaves these two out
		HTTPClient:  polar.Client(),
	})
	if err != nil {
		panic(err)
	}
	defer customers.Close()
	ctx, client := context.Background(), customers.Client()

	ada, err := client.AssignSeat(ctx, polargate.AssignSeatRequest{SubscriptionID: subscription,
		Email: "ada@example.com", ExternalMemberID: "ada", Claim: true})
	if err != nil {
		panic(err)
	}
	bob, _ := client.AssignSeat(ctx, polargate.AssignSeatRequest{SubscriptionID: subscription, Email: "bob@example.com", ExternalMemberID: "bob"})
	_, err = client.ResendSeat(ctx, bob.ID)
	fmt.Println("ada's is", ada.Status, "and bob's", bob.Status, err)

	acme := polargate.ExternalID("acme")
	for _, member := range []string{"ada", "bob"} {
		have, _ := customers.Entitlements(ctx, polargate.Member(acme, member))
		fmt.Println(member, "may export:", have.Has("export"))
	}

	client.RevokeSeat(ctx, bob.ID)
	seats, _ := client.Seats(ctx, subscription)
	fmt.Println(seats.Available, "of", seats.Total, "seats available")
	// Output:
	// ada's is claimed and bob's pending <nil>
	// ada may export: true
	// bob may export: false
	// 1 of 2 seats available
}

// Somebody who follows the link in an invitation sees what they are invited to.
func ExampleClient_SeatInvitation() {
	polar, subscription := soldBySeats()
	client, _ := polargate.NewClient(polargate.ClientConfig{OrganizationID: polar.OrganizationID(),
		AccessToken: polar.AddToken(polartest.Token{}), BaseURL: polar.URL(), HTTPClient: polar.Client()})
	defer client.Close()
	ctx := context.Background()
	_, _ = client.AssignSeat(ctx, polargate.AssignSeatRequest{SubscriptionID: subscription, Email: "ada@example.com"})

	token := polar.CustomerSeats(subscription)[0].InvitationToken // from Polar's e-mail
	invitation, err := client.SeatInvitation(ctx, token)
	fmt.Println(invitation.ProductName, invitation.CanClaim, invitation.Email, err)
	// Output:
	// Inkwell for teams true **** <nil>
}

// A customer is sent to their portal. The address never shows in a log.
func ExampleCustomers_PortalURL() {
	_, customers := demoCustomers()
	defer customers.Close()
	portal := func(w http.ResponseWriter, r *http.Request) {
		url, err := customers.PortalURL(r.Context(), signedIn(r), "https://example.com/account")
		if err != nil {
			http.Error(w, polargate.Message(err), http.StatusBadGateway)
			return
		}
		fmt.Println("to", url)
		http.Redirect(w, r, url.Reveal(), http.StatusSeeOther)
	}

	r := httptest.NewRequest(http.MethodGet, "/portal", nil)
	r.Header.Set("X-Demo-User", "usr_1337")
	w := httptest.NewRecorder()
	portal(w, r)
	fmt.Println(w.Code, strings.HasPrefix(w.Header().Get("Location"), "https://polar.sh/"))
	// Output:
	// to ****
	// 303 true
}

// With the token of a session, a program reads what that customer may read.
func ExampleClient_PortalKeys() {
	polar := polartest.New(polartest.Config{})
	ada := polar.AddCustomer(polartest.Customer{ExternalID: "usr_1337", Email: "ada@example.com"})
	polar.AddKey(polartest.LicenseKey{Key: "INKWELL-1B7E2C44-0F2A-4C60-9B3D-2F6C1D0A1B2C", CustomerID: ada.ID})
	client, _ := polargate.NewClient(polargate.ClientConfig{OrganizationID: polar.OrganizationID(),
		AccessToken: polar.AddToken(polartest.Token{}), BaseURL: polar.URL(), HTTPClient: polar.Client()})
	defer client.Close()
	ctx := context.Background()

	made, err := client.CreateCustomerSession(ctx, polargate.ExternalID("usr_1337"), "")
	if err != nil {
		panic(err)
	}
	session, _ := polargate.ParseSessionToken(made.Token.Reveal()) // from another service, say
	for key, err := range client.PortalKeys(ctx, session) {
		one, _ := client.PortalKey(ctx, session, key.ID)
		fmt.Println(key.Key, one.Status, err)
	}
	// Output:
	// ****-0A1B2C granted <nil>
}
