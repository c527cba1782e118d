package polargateconnect_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"

	"connectrpc.com/connect"
	"github.com/polargate/polargate"
	"github.com/polargate/polargate/polargateconnect"
	"github.com/polargate/polargate/polartest"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

const (
	reportsBenefit = "850cc3a4-3ed7-4be6-b198-127ec8d33bb9"
	pagesMeter     = "aaf2bfea-ac4f-40eb-99ad-de858ccdfd97"
)

func demo() *polargate.Customers {
	polar := polartest.New(polartest.Config{})
	polar.AddCustomer(polartest.Customer{
		ExternalID: "usr_1337",
		Benefits:   []polartest.Benefit{{BenefitID: reportsBenefit}},
		Meters:     []polartest.Meter{{MeterID: pagesMeter, CreditedUnits: 10}},
	})
	customers, err := polargate.NewCustomers(polargate.CustomersConfig{
		AccessToken: polar.AddToken(polartest.Token{}), // from the environment, in a server
		Features:    map[string][]string{reportsBenefit: {"reports"}},
		UpgradeURL:  "https://example.com/pricing",
		BaseURL:     polar.URL(), // a server leaves these two out
		HTTPClient:  polar.Client(),
	})
	if err != nil {
		panic(err)
	}
	return customers
}

// render stands for the method of a generated service.
const render = "/reports.v1.Reports/Render"

// A server whose calls need a feature and cost pages, and a client that reads why it was
// refused.
func ExampleNew() {
	customers := demo()
	defer customers.Close()
	gate := polargateconnect.New(customers, polargateconnect.Config{
		// From a session that middleware has checked, in a real server.
		Customer: func(_ context.Context, header http.Header) (polargate.CustomerRef, error) {
			if user := header.Get("X-User"); user != "" {
				return polargate.ExternalID(user), nil
			}
			return polargate.CustomerRef{}, nil
		},
		Rules: map[string]polargateconnect.Rule{
			render: {
				Require: []polargate.Requirement{polargate.Feature("reports")},
				Spend: polargateconnect.Cost{MeterID: pagesMeter, UnitsOf: func(_ context.Context, message any) (float64, error) {
					return float64(message.(*wrapperspb.Int32Value).GetValue()), nil
				}},
			},
		},
		Open: []string{polargateconnect.Health},
	})
	mux := http.NewServeMux()
	mux.Handle(render, connect.NewUnaryHandler(render,
		func(ctx context.Context, pages *connect.Request[wrapperspb.Int32Value]) (*connect.Response[wrapperspb.StringValue], error) {
			have, _ := polargate.FromContext(ctx)
			left, _ := have.Meter(pagesMeter)
			return connect.NewResponse(wrapperspb.String(fmt.Sprint(left.Balance, " pages are left"))), nil
		}, connect.WithInterceptors(gate)))
	server := httptest.NewServer(gate.Handler(mux))
	defer server.Close()

	client := connect.NewClient[wrapperspb.Int32Value, wrapperspb.StringValue](server.Client(), server.URL+render)
	for _, ask := range []struct {
		user  string
		pages int32
	}{{"usr_1337", 7}, {"usr_1337", 7}, {"usr_7", 1}, {"", 1}} {
		request := connect.NewRequest(wrapperspb.Int32(ask.pages))
		request.Header().Set("X-User", ask.user)
		response, err := client.CallUnary(context.Background(), request)
		if refused, ok := polargateconnect.FromError(err); ok {
			fmt.Println(refused.Reason, "-", refused.Message, refused.UpgradeURL)
		} else {
			fmt.Println(response.Msg.GetValue(), err)
		}
	}
	// Output:
	// 3 pages are left <nil>
	// QUOTA_EXCEEDED - This needs meter aaf2bfea-ac4f-40eb-99ad-de858ccdfd97 of at least 7. https://example.com/pricing
	// NOT_ENTITLED - This needs feature reports. https://example.com/pricing
	// NOT_SIGNED_IN - You aren't signed in. Sign in first.
}

// A handler that decides for itself returns the refusal with its code.
func ExampleError() {
	customers := demo()
	defer customers.Close()
	handle := func(ctx context.Context, user string) error {
		_, refusal := customers.Decide(ctx, polargate.ExternalID(user), polargate.Feature("reports"))
		return polargateconnect.Error(refusal) // nil if it is nil
	}
	fmt.Println(handle(context.Background(), "usr_1337"))
	err := handle(context.Background(), "usr_7")
	fmt.Println(err)
	var refusal *polargate.Refusal
	fmt.Println(errors.As(err, &refusal), refusal.Status)
	// Output:
	// <nil>
	// permission_denied: This needs feature reports.
	// true 402
}
