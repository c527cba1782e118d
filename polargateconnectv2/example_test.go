package polargateconnectv2_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"

	"connectrpc.com/connect/v2"
	"connectrpc.com/connect/v2/connecthttp"
	"github.com/polargate/polargate"
	"github.com/polargate/polargate/polargateconnectv2"
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
var render = connect.Spec{Procedure: "/reports.v1.Reports/Render"}

// A server whose calls need a feature and cost pages, and a client that reads why it was
// refused.
func ExampleNew() {
	customers := demo()
	defer customers.Close()
	gate := polargateconnectv2.New(customers, polargateconnectv2.Config{
		// From a session that middleware has checked, in a real server.
		Customer: func(ctx context.Context) (polargate.CustomerRef, error) {
			info, _ := connect.CallInfoForServerContext(ctx)
			if user := info.RequestHeader().Get("x-user"); user != "" {
				return polargate.ExternalID(user), nil
			}
			return polargate.CustomerRef{}, nil
		},
		Rules: map[string]polargateconnectv2.Rule{
			render.Procedure: {
				Require: []polargate.Requirement{polargate.Feature("reports")},
				Spend: polargateconnectv2.Cost{MeterID: pagesMeter, UnitsOf: func(_ context.Context, message any) (float64, error) {
					return float64(message.(*wrapperspb.Int32Value).GetValue()), nil
				}},
			},
		},
		Open: []string{polargateconnectv2.Health},
	})
	server := connect.NewServer(gate.Intercept)
	server.Register(connect.Method{Spec: render, Handler: func(ctx context.Context, _ connect.Spec, stream connect.ServerStream) error {
		var pages wrapperspb.Int32Value
		if err := stream.Receive(&pages); err != nil {
			return err
		}
		have, _ := polargate.FromContext(ctx)
		left, _ := have.Meter(pagesMeter)
		return stream.Send(wrapperspb.String(fmt.Sprint(left.Balance, " pages are left")))
	}})
	mux := http.NewServeMux()
	connecthttp.Mount(mux, server)
	web := httptest.NewServer(gate.Handler(mux))
	defer web.Close()

	client := connect.NewClient(connecthttp.NewTransport(web.Client(), web.URL))
	for _, ask := range []struct {
		user  string
		pages int32
	}{{"usr_1337", 7}, {"usr_1337", 7}, {"usr_7", 1}, {"", 1}} {
		ctx, info := connect.NewClientContext(context.Background())
		info.RequestHeader().Set("x-user", ask.user)
		var answer wrapperspb.StringValue
		err := client.CallUnary(ctx, render, wrapperspb.Int32(ask.pages), &answer)
		if refused, ok := polargateconnectv2.FromError(err); ok {
			fmt.Println(refused.Reason, "-", refused.Message, refused.UpgradeURL)
		} else {
			fmt.Println(answer.GetValue(), err)
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
		return polargateconnectv2.Error(refusal) // nil if it is nil
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
