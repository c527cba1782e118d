package polargategrpc_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/polargate/polargate"
	"github.com/polargate/polargate/polargategrpc"
	"github.com/polargate/polargate/polartest"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
)

const reportsBenefit = "850cc3a4-3ed7-4be6-b198-127ec8d33bb9"

func demo() *polargate.Customers {
	polar := polartest.New(polartest.Config{})
	polar.AddCustomer(polartest.Customer{ExternalID: "usr_1337", Benefits: []polartest.Benefit{{BenefitID: reportsBenefit}}})
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

// A server whose calls need a feature, and a client that reads why it was refused. The health
// service stands for one of your own.
func ExampleNew() {
	customers := demo()
	defer customers.Close()
	gate := polargategrpc.New(customers, polargategrpc.Config{
		// From a session that an interceptor further out has checked, in a real server.
		Customer: func(ctx context.Context) (polargate.CustomerRef, error) {
			if user := metadata.ValueFromIncomingContext(ctx, "x-user"); len(user) == 1 {
				return polargate.ExternalID(user[0]), nil
			}
			return polargate.CustomerRef{}, nil
		},
		Rules: map[string]polargategrpc.Rule{
			grpc_health_v1.Health_Check_FullMethodName: {Require: []polargate.Requirement{polargate.Feature("reports")}},
		},
		Open: []string{polargategrpc.Reflection},
	})
	server := grpc.NewServer(gate.ServerOptions()...)
	grpc_health_v1.RegisterHealthServer(server, health.NewServer())
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	go server.Serve(listener)
	defer server.Stop()

	conn, err := grpc.NewClient(listener.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		panic(err)
	}
	defer conn.Close()
	client := grpc_health_v1.NewHealthClient(conn)
	for _, user := range []string{"usr_1337", "usr_7"} {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		ctx = metadata.AppendToOutgoingContext(ctx, "x-user", user)
		answer, err := client.Check(ctx, &grpc_health_v1.HealthCheckRequest{})
		cancel()
		if refused, ok := polargategrpc.FromError(err); ok {
			fmt.Println(refused.Reason, "-", refused.Message, refused.UpgradeURL)
		} else {
			fmt.Println(answer.GetStatus(), err)
		}
	}
	// Output:
	// SERVING <nil>
	// NOT_ENTITLED - This needs feature reports. https://example.com/pricing
}

// The interceptors alone, for a server that has others.
func ExampleGate_Unary() {
	customers := demo()
	defer customers.Close()
	gate := polargategrpc.New(customers, polargategrpc.Config{LicenseKey: "x-license-key", Default: &polargategrpc.Rule{}})
	signIn := func(ctx context.Context, request any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
		return handler(ctx, request) // checks a session
	}
	grpc.NewServer(
		grpc.ChainUnaryInterceptor(signIn, gate.Unary), // from the outside in
		grpc.ChainStreamInterceptor(gate.Stream),
	)
	// Output:
}

// A handler that decides for itself returns the refusal with its status.
func ExampleError() {
	customers := demo()
	defer customers.Close()
	render := func(ctx context.Context, user string) error {
		_, refusal := customers.Decide(ctx, polargate.ExternalID(user), polargate.Feature("reports"))
		return polargategrpc.Error(refusal) // nil if it is nil
	}
	fmt.Println(render(context.Background(), "usr_1337"))
	err := render(context.Background(), "usr_7")
	fmt.Println(err)
	var refusal *polargate.Refusal
	fmt.Println(errors.As(err, &refusal), refusal.Status)
	// Output:
	// <nil>
	// rpc error: code = PermissionDenied desc = This needs feature reports.
	// true 402
}
