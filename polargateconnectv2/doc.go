// Package polargateconnectv2 lets calls of a Connect server through if their customer has paid
// for them, whichever protocol they come by: Connect, gRPC or gRPC-Web. It is for version 2 of
// connectrpc.com/connect; for version 1, use polargateconnect.
//
//	gate := polargateconnectv2.New(customers, polargateconnectv2.Config{
//		Customer: func(ctx context.Context) (polargate.CustomerRef, error) {
//			return polargate.ExternalID(session.From(ctx).UserID), nil
//		},
//		Rules: map[string]polargateconnectv2.Rule{
//			"/reports.v1.Reports/":       {Require: []polargate.Requirement{polargate.Feature("reports")}},
//			"/reports.v1.Reports/Render": {Spend: polargateconnectv2.Cost{MeterID: pages, UnitsOf: pagesOf}},
//		},
//	})
//	server := connect.NewServer(gate.Intercept)
//	reportsv1connect.RegisterReportsHandler(server, service)
//	connecthttp.Mount(mux, server)
//	http.ListenAndServe(address, gate.Handler(mux))
//
// A procedure without a rule is refused. Handlers find what the customer has with
// polargate.FromContext(ctx). The context of a stream ends when the right to it does, and the
// stream ends with the error of the refusal.
//
// # Codes
//
//	unauthenticated     nobody is signed in, or the license key is unknown
//	permission_denied   something required is missing, the license key is refused, or no rule
//	resource_exhausted  a meter's balance is too low
//	unavailable         nobody can say at the moment; RetryInfo says when to try again
//	invalid_argument    an id that can't be right
//
// Each has an ErrorInfo with the domain "polargate", its reason, what is required and where
// plans are to be found. Clients read it with [FromError]. A message that is too large is
// resource_exhausted as well, and has no ErrorInfo.
//
// docs/connect.md has more, also on proxies that answer before the server does.
package polargateconnectv2
