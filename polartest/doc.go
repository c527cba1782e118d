// Package polartest is a Polar (polar.sh) to test against: license keys, activations, customers and
// their state, webhooks, access tokens, rate limits, faults and a clock, in process and without a
// network.
//
//	polar := polartest.New(polartest.Config{})
//	key := polar.AddKey(polartest.LicenseKey{LimitActivations: polartest.Limit(2)})
//	client := polar.Client() // an *http.Client: any host it calls is this Polar
//	polar.Inject(polartest.Fault{Path: "/activate", Times: 1, Effect: polartest.AnswerLost()})
//	// let the program activate key.Key with client, then look at polar.Seats(key.Key)
//
//	polar.AddEndpoint(polartest.Endpoint{Handler: receiver}) // webhooks go there
//	polar.AddCustomer(polartest.Customer{ExternalID: "usr_1337"})
//	polar.GrantBenefit("usr_1337", polartest.Benefit{BenefitID: pro})
//	err := polar.WaitForDeliveries(ctx)
//	// let the program ask what usr_1337 may do, then polar.RevokeBenefit("usr_1337", pro)
//
// # Ways in
//
// [Polar.Client] and [Polar.Transport] use no sockets and leave no goroutines behind, so that they
// work in a testing/synctest bubble, where a minute of being blocked takes no time. [Polar.Start]
// listens on a loopback port, for programs that bring their own transport. A [Polar] is also a
// [net/http.Handler]. All three may be used at once, from any number of goroutines.
//
// A handler that reads polargate.FromContext needs no Polar at all: [Entitlements] makes the context.
//
// # What a test can do
//
// The dashboard's side: [Polar.AddKey], [Polar.Update], [Polar.Revoke], [Polar.Grant],
// [Polar.Rotate], [Polar.AddToken]; for customers [Polar.AddCustomer], [Polar.UpdateCustomer],
// [Polar.DeleteCustomer], [Polar.GrantBenefit], [Polar.RevokeBenefit], [Polar.Subscribe],
// [Polar.CancelSubscription], [Polar.RestoreSubscription], [Polar.DebitMeter], [Polar.CreditMeter],
// [Polar.AddMember], [Polar.AddSeat], [Polar.AddSession]; for the catalog [Polar.AddOrganization],
// [Polar.AddProduct], [Polar.AddBenefit], [Polar.AddMeter]; for webhooks [Polar.AddEndpoint],
// [Polar.UpdateEndpoint] and [Polar.Emit]. [Polar.Import] takes over what a real organization has, from
// answers of Polar's API. Time: [Polar.Advance], or Config.Now.
//
// What goes wrong: [Polar.Inject] with one of the effects, [Polar.SetOffline], VisibleFrom of a key
// for the lag after a purchase, Config.EventuallyConsistent for states that lag behind; and, for
// receivers of webhooks, [Polar.HoldDeliveries], [Polar.ReleaseDeliveries] in any order, and
// [Polar.Send] for anything that Polar, or an attacker, might post.
//
// What happened: [Polar.Requests], [Polar.Count], [Polar.Seats], [Polar.LicenseKey],
// [Polar.Customer], [Polar.CustomerSeats], [Polar.Events], [Polar.Deliveries], [Polar.Endpoint].
// Config.OnBreach is called for requests that a good client never makes.
//
// # Webhooks
//
// They leave in the background as soon as something happens, and [Polar.WaitForDeliveries] waits for
// all of them. Between deliveries there are no goroutines: a repeat waits in a timer, by this Polar's
// clock, and a test may end before it comes. Only a handler that does not return outlives its
// delivery.
//
// # What it guarantees
//
// It answers as Polar's own server answered when it was recorded, in API version 2026-04: statuses,
// headers, the texts of error and detail, the entries of a 422, every field of a license key and of
// the state of a customer, and how times and numbers are written. The recordings are in testdata, and
// the tests replay them, in process and over a socket; testdata/LEFT_OUT.md lists those that are not.
// It covers, under /v1:
//
//   - license-keys: validate, activate and deactivate, with a token and, under customer-portal, without
//     one; lists, reading, changing and rotating keys, and reading an activation
//   - customers, and their state, by their own ID and by the external one
//   - benefit-grants, benefits and their grants, subscriptions, products, meters and customer-meters
//   - events/ingest; meters count an event 15 seconds after the customer's last one, and at the latest
//     180 minutes after the first
//   - customer-sessions, and with the token of one the customer-portal: license keys, grants, meters,
//     subscriptions, seats
//   - customer-seats and members, for organizations with members and without
//   - webhooks: endpoints, deliveries, and delivering an event again
//
// Webhooks come back to the byte as Polar's own worker sent them: headers, signature and body. What is
// sent when follows the source of Polar's server (commit c6c3645e): an ID that stays and a time and
// signature that are new in each attempt; ten attempts in all, with pauses that double; ten seconds
// for an answer; redirects that count as failures; first attempts in the order of events, repeats that
// overtake; an endpoint that is switched off after ten events in a row that failed. Signatures are
// those of Standard Webhooks, with the key by either of the two rules that Polar has had.
//
// Under parallel requests no limit of activations or usage is ever exceeded, nor left unused. The
// rate limits are Polar's: three requests in one second to the public endpoints together, the second
// opening with the first of them, then a block of one minute on all of /v1; with a token 500 a minute
// for the organization, in the sandbox 100.
//
// # Where that ends
//
//   - Refusals without a recording are written by analogy: wrong values of filters in a list,
//     malformed times in a PATCH beyond the simplest, IDs of customers that are no UUID, and most of what
//     a request to create or change something can get wrong.
//   - Nothing is bought: subscriptions begin by [Polar.Subscribe], or by request if they cost nothing.
//     Periods do not end by themselves. Products are sold by subscription, at fixed prices or by seats.
//   - Webhooks of orders, checkouts, refunds and products are sent by [Polar.Emit] only. Polar gathers
//     changes of a customer that come within seconds into one customer.state_changed, shows states in
//     between, and makes each pause up to a half shorter at random.
//   - A customer's fields that [Customer] does not have are false or null.
//   - Over a socket, a path with a malformed escape is refused by net/http.
//   - Nothing is compressed, and there is no CDN in front. [ProxyPage] plays its error pages.
//   - Retry-After is rounded up.
//   - Over a socket, net/http may repeat a GET on its own when a used connection breaks; requests
//     are recorded as they arrive.
//   - It keeps every request in memory until [Polar.ForgetRequests], license keys included, and every
//     delivery forever: it is for tests and demonstrations, not for production.
package polartest
