package rpcgate_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/polargate/polargate"
	"github.com/polargate/polargate/polartest"
	"github.com/polargate/polargate/rpcgate"
)

const (
	reportsBenefit = "850cc3a4-3ed7-4be6-b198-127ec8d33bb9"
	pagesMeter     = "aaf2bfea-ac4f-40eb-99ad-de858ccdfd97"
)

type userKey struct{}

// demo is a server's view of a Polar with one customer in it, who has reports and ten pages.
func demo() *polargate.Customers {
	polar := polartest.New(polartest.Config{})
	polar.AddCustomer(polartest.Customer{
		ExternalID: "usr_1337",
		Benefits:   []polartest.Benefit{{BenefitID: reportsBenefit}},
		Meters:     []polartest.Meter{{MeterID: pagesMeter, CreditedUnits: 10}},
	})
	customers, err := polargate.NewCustomers(polargate.CustomersConfig{
		AccessToken: polar.AddToken(polartest.Token{}),
		Features:    map[string][]string{reportsBenefit: {"reports"}},
		UpgradeURL:  "https://example.com/pricing",
		BaseURL:     polar.URL(),
		HTTPClient:  polar.Client(),
	})
	if err != nil {
		panic(err)
	}
	return customers
}

// A library without a module of its own is gated by a few lines around its handlers. Here,
// messages come from a slice.
func Example() {
	customers := demo()
	defer customers.Close()
	gate := rpcgate.New(customers, rpcgate.Config{
		Caller: func(ctx context.Context) (rpcgate.Caller, error) {
			user, _ := ctx.Value(userKey{}).(string)
			return rpcgate.Caller{Customer: polargate.ExternalID(user)}, nil
		},
		Rules: map[string]rpcgate.Rule{
			"/reports.v1.Reports/Print": {
				Require: []polargate.Requirement{polargate.Feature("reports")},
				Spend: rpcgate.Cost{MeterID: pagesMeter, UnitsOf: func(_ context.Context, message any) (float64, error) {
					return float64(*message.(*int)), nil
				}},
			},
		},
		Open: []string{rpcgate.Health},
	})

	print := func(ctx context.Context, orders []int) error {
		ctx, call, err := gate.Begin(ctx, rpcgate.CallInfo{Procedure: "/reports.v1.Reports/Print", ServerStreams: true})
		if err != nil {
			return err
		}
		defer call.Close() // after a panic
		call.Interrupt(nil, func() { fmt.Println("the connection is cut") })
		receive := func(message any) error {
			if len(orders) == 0 {
				return io.EOF
			}
			*message.(*int), orders = orders[0], orders[1:]
			return nil
		}
		return call.End(func() error {
			for {
				var pages int
				if err := call.Receive(&pages, receive); errors.Is(err, io.EOF) {
					return nil
				} else if err != nil {
					return err
				}
				have, _ := polargate.FromContext(ctx)
				left, _ := have.Meter(pagesMeter)
				fmt.Println("printed", pages, "and", left.Balance, "are left")
			}
		}())
	}

	ctx := context.WithValue(context.Background(), userKey{}, "usr_1337")
	for _, err := range []error{print(ctx, []int{4, 3, 5}), print(context.Background(), nil)} {
		var refusal *polargate.Refusal
		if errors.As(err, &refusal) {
			refused := rpcgate.Explain(refusal)
			fmt.Println(refused.Code, refused.Reason, refused.Metadata())
		}
	}
	// Output:
	// printed 4 and 6 are left
	// printed 3 and 3 are left
	// 8 QUOTA_EXCEEDED map[required:meter aaf2bfea-ac4f-40eb-99ad-de858ccdfd97 of at least 5 upgrade_url:https://example.com/pricing]
	// 16 NOT_SIGNED_IN map[]
}

// A library that hands over messages instead of a way to receive them charges with Received.
func ExampleCall_Received() {
	customers := demo()
	defer customers.Close()
	gate := rpcgate.New(customers, rpcgate.Config{
		Caller: func(context.Context) (rpcgate.Caller, error) {
			return rpcgate.Caller{Customer: polargate.ExternalID("usr_1337")}, nil
		},
		Default: &rpcgate.Rule{Spend: rpcgate.Cost{MeterID: pagesMeter, UnitsOf: func(_ context.Context, message any) (float64, error) {
			return float64(message.(int)), nil
		}}},
	})
	_, call, err := gate.Begin(context.Background(), rpcgate.CallInfo{Procedure: "/reports.v1.Reports/Print"})
	if err != nil {
		panic(err)
	}
	defer call.Close()
	fmt.Println(call.Received(7))
	fmt.Println(call.End(nil))
	have, _ := customers.Entitlements(context.Background(), polargate.ExternalID("usr_1337"))
	left, _ := have.Meter(pagesMeter)
	fmt.Println(left.Balance)
	// Output:
	// <nil>
	// <nil>
	// 3
}

// What a client reads out of an error's ErrorInfo.
func ExampleRefused_WithMetadata() {
	told := rpcgate.Refused{Code: rpcgate.PermissionDenied, Reason: rpcgate.NotEntitled}
	told = told.WithMetadata(map[string]string{"required": "feature reports", "upgrade_url": "https://example.com/pricing"})
	fmt.Println(told.Required, told.UpgradeURL)
	// Output: feature reports https://example.com/pricing
}

// A library on top of net/http lets the connection interrupt its handlers, and takes license
// keys out of headers.
func ExampleHandler() {
	customers := demo()
	defer customers.Close()
	type headerKey struct{}
	gate := rpcgate.New(customers, rpcgate.Config{
		Caller: func(ctx context.Context) (rpcgate.Caller, error) {
			header, _ := ctx.Value(headerKey{}).(http.Header)
			return rpcgate.Caller{LicenseKey: rpcgate.LicenseKey("Authorization", header.Get("Authorization"))}, nil
		},
		ByLicenseKey: true,
		Default:      &rpcgate.Rule{},
	})
	stream := func(w http.ResponseWriter, r *http.Request) {
		ctx, call, err := gate.Begin(context.WithValue(r.Context(), headerKey{}, r.Header), rpcgate.CallInfo{
			Procedure: r.URL.Path, ClientStreams: true, ServerStreams: true,
		})
		if err != nil {
			http.Error(w, err.Error(), http.StatusForbidden) // or as the protocol has it
			return
		}
		defer call.Close()
		call.InterruptHTTP()
		<-ctx.Done() // or receive messages from r.Body, and send some
		_ = call.End(nil)
	}
	_ = &http.Server{Handler: rpcgate.Handler(http.HandlerFunc(stream))}
}
