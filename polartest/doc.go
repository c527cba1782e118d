// Package polartest is a Polar (polar.sh) to test against: license keys, activations, access tokens,
// rate limits, faults and a clock, in process and without a network.
//
//	polar := polartest.New(polartest.Config{})
//	key := polar.AddKey(polartest.LicenseKey{LimitActivations: polartest.Limit(2)})
//	client := polar.Client() // an *http.Client: any host it calls is this Polar
//	polar.Inject(polartest.Fault{Path: "/activate", Times: 1, Effect: polartest.AnswerLost()})
//	// let the program activate key.Key with client, then look at polar.Seats(key.Key)
//
// # Ways in
//
// [Polar.Client] and [Polar.Transport] use no sockets and leave no goroutines behind, so that they
// work in a testing/synctest bubble, where a minute of being blocked takes no time. [Polar.Start]
// listens on a loopback port, for programs that bring their own transport. A [Polar] is also an
// [net/http.Handler]. All three may be used at once, from any number of goroutines.
//
// # What a test can do
//
// The dashboard's side: [Polar.AddKey], [Polar.Update], [Polar.Revoke], [Polar.Grant],
// [Polar.Rotate], [Polar.AddToken]. Time: [Polar.Advance], or Config.Now. What goes wrong:
// [Polar.Inject] with one of the effects, [Polar.SetOffline], and VisibleFrom of a key for the lag
// after a purchase. What happened: [Polar.Requests], [Polar.Count], [Polar.Seats],
// [Polar.LicenseKey]. Config.OnBreach is told of requests that a good client never makes.
//
// # What it guarantees
//
// It answers as Polar's own server answered when it was recorded, in API version 2026-04: statuses,
// headers, the texts of error and detail, the entries of a 422, every field of a license key and how
// times and numbers are written. The recordings are in testdata, and the tests replay them, in
// process and over a socket; testdata/LEFT_OUT.md lists those that are not. It covers, with the
// prefixes /v1/customer-portal (no token) and /v1 (with one):
//
//   - POST license-keys/validate, activate and deactivate
//
// and with a token only:
//
//   - GET /v1/license-keys/, by benefit_id, status, page and limit
//   - GET and PATCH /v1/license-keys/{id}, POST /v1/license-keys/{id}/rotate
//   - GET /v1/license-keys/{id}/activations/{activation_id}
//
// Under parallel requests no limit of activations or usage is ever exceeded, nor left unused. The
// rate limits are Polar's: three requests in one second to the public endpoints together, the second
// opening with the first of them, then a block of one minute on all of /v1; with a token 500 a minute
// for the organization, in the sandbox 100.
//
// # Where that ends
//
//   - Customer state, the customer portal and webhooks are not played. The first two check the token
//     and then answer with the 404 of the router, as Polar does for a path that it does not have.
//   - Refusals that nobody recorded are written by analogy: wrong values of filters in a list, and
//     malformed times in a PATCH beyond the simplest.
//   - Nothing is compressed, and there is no CDN in front. [ProxyPage] plays its error pages.
//   - Retry-After is rounded up.
//   - Over a socket, net/http may repeat a GET on its own when a used connection breaks; requests
//     are recorded as they arrive.
//   - It keeps every request in memory until [Polar.ForgetRequests], license keys included: it is for
//     tests and demonstrations, not for production.
package polartest
