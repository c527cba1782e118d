// Package polargategrpc lets calls of a gRPC server through if their customer has paid for
// them.
//
//	gate := polargategrpc.New(customers, polargategrpc.Config{
//		Customer: func(ctx context.Context) (polargate.CustomerRef, error) {
//			return polargate.ExternalID(session.From(ctx).UserID), nil
//		},
//		Rules: map[string]polargategrpc.Rule{
//			"/reports.v1.Reports/":       {Require: []polargate.Requirement{polargate.Feature("reports")}},
//			"/reports.v1.Reports/Render": {Spend: polargategrpc.Cost{MeterID: pages, UnitsOf: pagesOf}},
//		},
//		Open: []string{polargategrpc.Health},
//	})
//	server := grpc.NewServer(gate.ServerOptions()...)
//
// A procedure without a rule is refused. Handlers find what the customer has with
// polargate.FromContext(ctx). The context of a stream ends when the right to it does, and the
// stream ends with the status of the refusal.
//
// # Status codes
//
//	Unauthenticated    nobody is signed in, or the license key is unknown
//	PermissionDenied   something required is missing, the license key is refused, or no rule
//	ResourceExhausted  a meter's balance is too low
//	Unavailable        nobody can say at the moment; RetryInfo says when to try again
//	InvalidArgument    an id that can't be right
//
// Each has an ErrorInfo with the domain "polargate", its reason, what is required and where
// plans are to be found. Clients read it with [FromError]. A message that is too large is
// ResourceExhausted as well, and has no ErrorInfo.
//
// docs/grpc.md has more, also on proxies that answer before a gRPC server does.
package polargategrpc
