// Package polargate adds license checks and paid-feature gating to Go programs sold
// through Polar (polar.sh): to desktop and command-line programs by their license key,
// and to the routes of a server by what the customer has bought.
//
// # Desktop and command-line programs
//
// A [Gate] answers one question: may the program run on this computer now, and with
// which features?
//
//	gate, err := polargate.Open(polargate.Config{
//		OrganizationID: "…", App: "inkwell", Version: "1.4.2",
//		Features: map[string][]string{"<benefit id>": {"export", "sync"}},
//	})
//	status, err := gate.Check(ctx) // err is nil exactly when the program may run
//
// Without a license, err is [ErrNoLicense] and status.Message tells the user what to do.
// [Gate.Activate] takes the key that the user pastes. [Gate.Has] reports whether a
// feature is unlocked, [Gate.Consume] counts usage, and [Gate.Deactivate] deactivates
// this computer. A program that runs for hours starts [Gate.Run], which keeps the license
// verified:
//
//	go gate.Run(ctx)
//
// If the stored license belongs to another computer, as after a disk was moved or an
// image copied, err is [ErrOtherMachine]. [Gate.Move] moves the license here; nothing
// moves by itself.
//
// Config.Trial lets people try the program for some days without a license, and
// Config.Fallback lets a license that has ended keep the version that was bought.
//
// [Gate.Import] adopts an activation that an earlier version of your program made in
// another way, also offline, and [Gate.Export] is the way back. [Gate.Ensure] is for a key
// from the environment, [SystemStore] for one license of all users of a computer, and
// [Licenses] for several keys in one program. Status.Action is the button that belongs to
// a message, and Config.Links has the pages that it opens. Config.Ephemeral is for build jobs and containers; add Config.WaitForTurn
// if many of them share one address. [Gate.Diagnose] writes a report that a user can
// paste into an email to support.
//
// # A license server of your own
//
// With Config.LeaseURL, licenses come as leases that your server signs (package
// lease/issuer makes one), and a client can't forge them. A computer without a network is
// activated by a file: [Gate.OfflineRequest], [Gate.ActivateFile] and
// [Gate.OfflineReceipt]. [Gate.Borrow] takes a floating license along on a trip.
//
// # Servers
//
// [Customers] answers what a customer may use. It needs an organization access token,
// which never leaves the server:
//
//	customers, err := polargate.NewCustomers(polargate.CustomersConfig{
//		AccessToken: os.Getenv("POLAR_ACCESS_TOKEN"),
//		Features:    map[string][]string{"<benefit id>": {"export"}},
//	})
//	export := customers.Middleware(signedIn, polargate.Feature("export"))
//	mux.Handle("GET /export", export(handler))
//	mux.Handle("POST /webhooks/polar", customers.WebhookHandler(secret))
//
// [Customers.Middleware] lets a request through if its customer meets every
// [Requirement]. The handler finds the customer's [Entitlements] in the request's context
// with [FromContext]. [Customers.LicenseMiddleware] does the same for a license key in a
// header. [Customers.Route] has all options of a route, such as the units of a meter that
// a request costs, or a resolver that can fail. [Customers.Decide] and
// [Customers.Entitlements] are for servers that don't speak HTTP. The modules polargategrpc,
// polargateconnect and polargateconnectv2 have interceptors for gRPC and Connect. [Customers.Await] is
// for the page that customers come back to from the checkout: it waits until Polar has
// granted what they bought. [Customers.Warm] fills the cache after a start, with a
// hundredth of the requests.
//
// Several replicas share what they know if CustomersConfig.Shared is set, to a [SharedFile]
// on one computer or to Redis with the module polargateredis. One of them asks Polar about a
// customer, a webhook to one is known to all, they keep to one request budget, and
// customers are served after a restart while Polar is down. [Customers.Apply] takes
// webhooks that come through a queue.
//
// [Customers.Reserve] holds units of a meter while work is done, [Reservation.Commit] says
// what was used, and [Customers.RunUsage] sends the usage events to Polar. Units stay taken
// off until Polar has counted them, so that nobody uses them twice. docs/usage.md has more.
//
// A team that buys seats has members: [Member] names one wherever a customer is named, and
// the member has the benefits of their own seat. [Customers.PortalURL] sends a customer to
// their portal at Polar. [Customers.On] calls a function of yours for each verified
// webhook, such as a payment that failed.
//
// CustomersConfig.Overlay gives features beside Polar: to staff, in a beta, as a favor.
// CustomersConfig.OnDecision hears of each decision, for an audit log, and
// [Customers.Decisions] counts them. Package metrics writes figures for Prometheus, and the
// module polargateotel gives them to OpenTelemetry; see docs/telemetry.md. The module
// polargateopenfeature answers the flags of OpenFeature.
//
// docs/operations.md covers sizing, webhooks, replicas, the order of middleware, and what
// to watch.
//
// # Low-level client
//
// A [Client] calls Polar's endpoints and stores nothing. Without an access token it
// validates, activates and deactivates license keys. With one, it also lists, changes and
// replaces them, makes sessions of customers, and assigns seats; see [Client.LicenseKeys],
// [Client.CreateCustomerSession] and [Client.AssignSeat]. [Customers.Client] is one that keeps to
// the same request budget. Package janitor finds activations that crashes left behind.
// Package polartest has a Polar that runs inside a test.
//
// # What a Gate guarantees
//
//   - One computer uses one activation, however often Activate is called and from
//     however many goroutines or processes. Intent is persisted before each request.
//     Nothing that runs in the background takes or gives up an activation.
//   - Polar is asked when the last answer is older than Config.FreshFor, for at most
//     Config.CheckTimeout. In between, answers come from memory, or from disk after a
//     restart.
//   - If Polar can't be reached, the last granted answer counts for
//     Config.GracePeriod, but never past the key's own expiry. Setting the clock back
//     gains no time.
//   - Only an answer in Polar's own shape is a verdict. Wi-Fi login pages, error pages
//     of proxies, broken answers and rate limits neither unlock nor lock anything.
//   - No refusal is final: the next granted answer restores the license, with the expiry
//     and benefit that it has then.
//   - All programs of a user that embed this package keep together within Polar's limit
//     of three requests a second without an access token, and wait out the pauses that
//     Polar asks for. They coordinate through a few small files in the user's cache
//     folder.
//   - License keys, tokens and e-mail addresses have types that print masked. Errors and
//     logs don't contain them.
//
// # What Customers guarantees
//
//   - While an answer is fresh, requests are decided from memory. While it is stale, they
//     are decided from memory and a new answer is fetched in the background. During an
//     outage of Polar, the last answer counts for CustomersConfig.GracePeriod.
//   - [Customers.WebhookHandler] applies changes as they happen. Events may come late,
//     twice or out of order.
//   - A subscription that was canceled ends when Polar said that it will, also during an
//     outage. A benefit doesn't: Polar doesn't say which subscription it comes with.
//   - What replicas share decides nothing that Polar didn't say: the younger of two facts
//     wins, by Polar's time. While the store is away, each replica goes on by itself, and
//     no call to it is waited for longer than 300 milliseconds. If Polar can't be reached
//     either, a customer whom only the store can know waits 2 seconds for it at most.
//   - A benefit that comes with a license key counts only while the key does. Polar's
//     customer state doesn't say so; the key is looked up, and its expiry is known in
//     advance.
//   - If Polar can't be reached and nothing is cached, the answer is 503, never 402: nobody
//     is told to pay because something failed.
//   - A refusal is JSON for programs, a small page for people, and a redirect to the
//     upgrade page for browsers.
//
// # What it can't do
//
// A program on its user's computer can be patched, and so can the time and the network
// that it sees. The sealed state can't be edited by hand, and a copy of it doesn't work
// offline on another computer. That doesn't stop a person who takes the program apart.
// docs/threat-model.md has the details, with the test behind each.
//
// # Errors
//
// Every error about a license is an [*Error], and errors.Is finds its [Reason]: denials
// such as [ErrExpired], which Polar decided, and others such as [ErrUnreachable], which
// prove nothing about the license. An [*InputError] is a value that can't be right. A
// [*StoreError] is a state that can't be read or written; errors.Is finds
// [ErrNoPermission] and [ErrBusy] in it. The text of an error tells a developer what to
// do next; [Message] tells a person.
//
// # Compatibility
//
// The package follows semantic versioning. Before 1.0, a minor version may change names.
// Later versions read the state that any version has stored: testdata/state has one of
// each.
package polargate
