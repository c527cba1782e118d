// Package polargate gates what is sold through Polar (polar.sh): an installed
// program by its license key, and a server's routes by what the customer has
// bought.
//
// # Installed programs
//
// A [Gate] answers one question: may the program run here and now, and with which
// features?
//
//	gate, err := polargate.Open(polargate.Config{
//		OrganizationID: "…", App: "inkwell", Version: "1.4.2",
//		Features: map[string][]string{"<benefit id>": {"export", "sync"}},
//	})
//	status, err := gate.Check(ctx) // err is nil exactly when the program may run
//
// When there is no license yet, err is [ErrNoLicense] and status.Message says
// so to the user; [Gate.Activate] takes the key that the user pastes.
// [Gate.Has] tells, on the hot path, whether a feature is unlocked,
// [Gate.Consume] counts usage, and [Gate.Deactivate] gives the seat back. A
// program that runs for hours or days starts [Gate.Run] beside it, which keeps
// the license fresh:
//
//	go gate.Run(ctx)
//
// A license of another computer, as on a disk that moved or in a copy of an image,
// is [ErrOtherMachine]. [Gate.Move] takes it here; nothing moves by itself.
//
// [Gate.Import] goes on with an activation that an earlier version of the program
// made by other means, Config.Ephemeral is for build jobs and containers (with
// Config.WaitForTurn where many are behind one address), and
// [Gate.Diagnose] makes a report that a user can paste into a support mail.
//
// # What a Gate does
//
//   - It takes one seat for an installation, however often Activate is called
//     and from however many goroutines or processes. What it is about to do is
//     stored before it is done. Nothing that runs unasked takes or releases one.
//   - It asks Polar when the last answer is older than Config.FreshFor, and for
//     no longer than Config.CheckTimeout. In between it answers from memory or
//     from disk, in the next run of the program as well.
//   - When Polar cannot be reached, the last granted answer counts for
//     Config.GracePeriod, but never past the key's own expiry, and a clock that
//     is set back buys no time.
//   - Only an answer in Polar's own shape is a verdict. The login page of a
//     Wi-Fi, a proxy's error page, a broken or empty answer, a rate limit: none
//     of them unlocks or locks anything.
//   - A refusal is never final: the next granted answer restores the license,
//     with expiry and benefit as they are then.
//   - All programs of a user that embed this package together keep to Polar's
//     limit of three requests a second for programs without an access token, and
//     to the pauses that Polar asks for, through a few small files in the user's
//     cache folder.
//   - License keys, tokens and e-mail addresses have types that print masked.
//     Errors and logs do not carry them.
//
// # Servers
//
// [Customers] answers what a customer may use. It needs an organization access
// token, which never leaves the server:
//
//	customers, err := polargate.NewCustomers(polargate.CustomersConfig{
//		AccessToken: os.Getenv("POLAR_ACCESS_TOKEN"),
//		Features:    map[string][]string{"<benefit id>": {"export"}},
//	})
//	export := customers.Middleware(signedIn, polargate.Feature("export"))
//	mux.Handle("GET /export", export(handler))
//	mux.Handle("POST /webhooks/polar", customers.WebhookHandler(secret))
//
// [Customers.Middleware] lets those through who meet its [Requirement]s, and puts
// their [Entitlements] into the request's context, where [FromContext] finds them.
// [Customers.LicenseMiddleware] does so for license keys in a header, and
// [Customers.Route] has all that can be said of a route, for instance what it
// spends of a meter. [Customers.Decide] and [Customers.Entitlements] are for what
// does not speak HTTP. [Customers.Await] is for the page that a customer comes back to
// from the checkout: it waits until Polar has granted what was bought.
//
// Answers come from a cache: at once while they are fresh, at once and with a new
// one fetched behind while they are stale, and for days while Polar cannot be
// reached. [Customers.WebhookHandler] brings changes into it as they happen. A benefit
// that comes with a license key counts only while the key does, which Polar's customer
// state does not tell: the key is looked up, and its expiry known in advance.
// Customers whom nobody can say anything of are answered 503, and not told to pay.
// A refusal is JSON for programs and a small page for people; a browser is sent to the
// upgrade page. docs/operations.md has sizing, webhooks, replicas, the order of middleware
// and what to watch.
//
// # What it cannot do
//
// A program that runs on its user's machine can be patched, and so can the time
// and the network it sees. The sealed state keeps an editor from making a
// license, and another machine from using a copied one offline. It does not
// stop somebody who takes the program apart. docs/threat-model.md has it at length,
// with the test that shows each.
//
// # Errors
//
// Every error that concerns a license is an [*Error], and errors.Is tells its
// [Reason]: denials such as [ErrExpired], which Polar said, and others such as
// [ErrUnreachable], which prove nothing. An [*InputError] is a value that cannot
// be right, an [*StoreError] a state that cannot be read or written; errors.Is tells
// [ErrNoPermission] and [ErrBusy] among those. Their texts
// say what to do next, to a developer; [Message] says it to a person.
//
// # Without either
//
// A [Client] speaks to the three license key endpoints and keeps nothing. Package
// polartest has a Polar that runs inside a test.
//
// # Compatibility
//
// The package follows semantic versioning; before 1.0, a minor version may
// change names. A state written by any version stays readable by later ones:
// testdata/state has one of each.
package polargate
