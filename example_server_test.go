package polargate_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"time"

	"github.com/polargate/polargate"
	"github.com/polargate/polargate/polartest"
)

const (
	benefitPro = "850cc3a4-3ed7-4be6-b198-127ec8d33bb9"
	meterCalls = "aaf2bfea-ac4f-40eb-99ad-de858ccdfd97"
)

// demoCustomers is a server's view of a Polar with one customer in it, who has pro
// and a hundred calls.
func demoCustomers() (*polartest.Polar, *polargate.Customers) {
	polar := polartest.New(polartest.Config{})
	polar.AddCustomer(polartest.Customer{
		ExternalID: "usr_1337",
		Benefits:   []polartest.Benefit{{BenefitID: benefitPro}},
		Meters:     []polartest.Meter{{MeterID: meterCalls, CreditedUnits: 100}},
	})
	customers, err := polargate.NewCustomers(polargate.CustomersConfig{
		AccessToken: polar.AddToken(polartest.Token{}), // from the environment, in a server
		Features:    map[string][]string{benefitPro: {"export"}},
		UpgradeURL:  "https://example.com/pricing",
		BaseURL:     polar.URL(), // a server leaves these two out
		HTTPClient:  polar.Client(),
	})
	if err != nil {
		panic(err)
	}
	return polar, customers
}

// signedIn stands for the sessions of a server: whoever can choose this is that
// customer.
func signedIn(r *http.Request) polargate.CustomerRef {
	return polargate.ExternalID(r.Header.Get("X-Demo-User"))
}

func ask(h http.Handler, path string, headers ...string) {
	r := httptest.NewRequest(http.MethodGet, path, nil)
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	fmt.Print(w.Code, " ", w.Body)
}

// Staff have features that they haven't bought, also while Polar can't be reached.
func ExampleCustomersConfig_overlay() {
	polar := polartest.New(polartest.Config{})
	staff := map[string]bool{"usr_ada": true} // read from your database now and then
	customers, err := polargate.NewCustomers(polargate.CustomersConfig{
		AccessToken: polar.AddToken(polartest.Token{}),
		Features:    map[string][]string{benefitPro: {"export"}},
		Overlay: func(_ context.Context, customer polargate.CustomerRef, have *polargate.Entitlements) []polargate.Overlay {
			id := customer.ExternalID()
			if customer.CustomerID() != "" { // named by Polar's id
				id = have.ExternalID()
			}
			if staff[id] {
				return []polargate.Overlay{{Feature: "export", Why: "staff"}}
			}
			return nil
		},
		BaseURL:    polar.URL(),
		HTTPClient: polar.Client(),
	})
	if err != nil {
		panic(err)
	}
	defer customers.Close()
	for _, id := range []string{"usr_ada", "usr_bob"} {
		have, refusal := customers.Decide(context.Background(), polargate.ExternalID(id), polargate.Feature("export"))
		fmt.Println(id, refusal == nil, have.Overlays())
	}
	// Output:
	// usr_ada true [{export 0001-01-01 00:00:00 +0000 UTC staff}]
	// usr_bob false []
}

// Figures about decisions, for a metrics system of your own. Package metrics has them for
// Prometheus.
func ExampleCustomers_Decisions() {
	_, customers := demoCustomers()
	defer customers.Close()
	customers.Decisions() // are counted from now on
	for _, feature := range []string{"export", "import"} {
		customers.Decide(context.Background(), polargate.ExternalID("usr_1337"), polargate.Feature(feature))
	}
	for _, n := range customers.Decisions() {
		fmt.Println(n.Feature, n.Outcome, n.Count)
	}
	// Output:
	// export allowed 1
	// import unpaid 1
}

// An audit log keeps who was let in where, and why not.
func ExampleCustomersConfig_onDecision() {
	polar := polartest.New(polartest.Config{})
	audit := slog.New(slog.NewTextHandler(os.Stdout, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey || a.Key == slog.LevelKey {
			return slog.Attr{} // so that the example prints the same each time
		}
		return a
	}}))
	customers, err := polargate.NewCustomers(polargate.CustomersConfig{
		AccessToken: polar.AddToken(polartest.Token{}),
		OnDecision: func(_ context.Context, d polargate.Decision) {
			audit.Info("decided", "gate", d)
			fmt.Println("feature:", d.Feature(), "outcome:", d.Outcome)
		},
		BaseURL:    polar.URL(),
		HTTPClient: polar.Client(),
	})
	if err != nil {
		panic(err)
	}
	defer customers.Close()
	customers.Decide(context.Background(), polargate.ExternalID("ada@example.com"), polargate.Feature("export"))
	// Output:
	// msg=decided gate.outcome=unpaid gate.requirements="feature export" gate.unmet="feature export" gate.source=network
	// feature: export outcome: unpaid
}

// While Polar can't be reached, and nothing is known of a customer, reading stays open.
func ExampleRoute_fallback() {
	polar, customers := demoCustomers()
	defer customers.Close()
	polar.SetOffline(true)
	read := customers.Route(polargate.Route{
		Customer: signedIn,
		Require:  []polargate.Requirement{polargate.Feature("read")},
		Fallback: []string{"read"},
	})
	ask(read(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		have, _ := polargate.FromContext(r.Context())
		fmt.Fprintln(w, "read:", have.Has("read"), "export:", have.Has("export"))
	})), "/documents", "X-Demo-User", "usr_1337")
	// Output: 200 read: true export: false
}

// A route is for customers who have a feature; the handler finds what else they
// have in the request's context.
func ExampleCustomers_Middleware() {
	_, customers := demoCustomers()
	defer customers.Close()
	export := customers.Middleware(signedIn, polargate.Feature("export"))

	mux := http.NewServeMux()
	mux.Handle("GET /export", export(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		have, _ := polargate.FromContext(r.Context())
		fmt.Fprintln(w, "exported for", have.ExternalID(), have.Features())
	})))

	ask(mux, "/export", "X-Demo-User", "usr_1337")
	ask(mux, "/export", "X-Demo-User", "usr_7")
	ask(mux, "/export")
	// Output:
	// 200 exported for usr_1337 [export]
	// 402 {"type":"about:blank","title":"Payment Required","status":402,"detail":"This needs feature export.","required":"feature export","upgrade_url":"https://example.com/pricing"}
	// 401 {"type":"about:blank","title":"Unauthorized","status":401,"detail":"You aren't signed in. Sign in first."}
}

// The middleware has the form that routers such as chi and gorilla take: give it to
// the Use of a router or of a group of routes.
func ExampleCustomers_Middleware_routers() {
	_, customers := demoCustomers()
	defer customers.Close()
	hello := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "hello") })

	// As chi.Router has it: r.Use(middlewares ...func(http.Handler) http.Handler).
	var used []func(http.Handler) http.Handler
	use := func(middlewares ...func(http.Handler) http.Handler) { used = append(used, middlewares...) }
	use(customers.Middleware(signedIn, polargate.Feature("export")))
	var group http.Handler = hello
	for _, middleware := range used {
		group = middleware(group)
	}
	ask(group, "/", "X-Demo-User", "usr_1337")

	// As mux.Router of gorilla has it: r.Use(mwf ...MiddlewareFunc).
	type MiddlewareFunc func(http.Handler) http.Handler
	var middleware MiddlewareFunc = customers.Middleware(signedIn, polargate.Feature("export"))
	ask(middleware(hello), "/", "X-Demo-User", "usr_1337")
	// Output:
	// 200 hello
	// 200 hello
}

// A sold API takes license keys in a header. They are asked about with the server's
// access token, once for each key and FreshFor.
func ExampleCustomers_LicenseMiddleware() {
	polar, customers := demoCustomers()
	defer customers.Close()
	polar.AddKey(polartest.LicenseKey{Key: "API-0000-1111-0A1B2C", BenefitID: benefitPro})

	keys := customers.LicenseMiddleware("X-License-Key")
	api := keys(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		have, _ := polargate.FromContext(r.Context())
		license, _ := have.License()
		fmt.Fprintln(w, "data for", license.Key)
	}))

	ask(api, "/api/data", "X-License-Key", "API-0000-1111-0A1B2C")
	ask(api, "/api/data", "X-License-Key", "API-0000-1111-FFFFFF")
	// Output:
	// 200 data for ****-0A1B2C
	// 401 {"type":"about:blank","title":"Unauthorized","status":401,"detail":"The license key is missing or unknown. Send a valid one.","reason":"unknown_key"}
}

// The page that a customer comes back to from the checkout waits for Polar to grant
// what was bought, for as long as a person would.
func ExampleCustomers_Await() {
	polar, customers := demoCustomers()
	defer customers.Close()
	polar.AddCustomer(polartest.Customer{ExternalID: "usr_new"})

	welcome := func(customer polargate.CustomerRef, patience time.Duration) {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		have, err := customers.Await(ctx, customer, polargate.Feature("export"))
		var missing *polargate.MissingError
		switch {
		case err == nil:
			fmt.Println("You have", have.Features())
		case errors.As(err, &missing):
			fmt.Println("Still missing:", missing.Required)
			fmt.Println(polargate.Message(err))
		default:
			fmt.Println(polargate.Message(err))
		}
	}
	welcome(polargate.ExternalID("usr_new"), 50*time.Millisecond)

	polar.GrantBenefit("usr_new", polartest.Benefit{BenefitID: benefitPro}) // by Polar, when it has the payment
	welcome(polargate.ExternalID("usr_new"), 15*time.Second)
	// Output:
	// Still missing: feature export
	// Your purchase isn't ready yet. Reload this page in a minute, or contact support if that doesn't help.
	// You have [export]
}

// A call is taken off a meter while the handler runs, and given back if it fails.
// Here the route is open when nobody can say, and the program refuses in words of
// its own.
func ExampleCustomers_Route() {
	_, customers := demoCustomers()
	defer customers.Close()
	metered := customers.Route(polargate.Route{
		Customer: signedIn,
		Spend:    polargate.Cost{MeterID: meterCalls, Units: 60},
		FailOpen: true,
		Refuse: func(w http.ResponseWriter, _ *http.Request, refusal polargate.Refusal) {
			http.Error(w, "no calls are left: "+refusal.UpgradeURL, refusal.Status)
		},
	})
	handler := metered(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		have, _ := polargate.FromContext(r.Context())
		calls, _ := have.Meter(meterCalls)
		fmt.Fprintln(w, calls.Balance, "left")
	}))

	ask(handler, "/", "X-Demo-User", "usr_1337")
	ask(handler, "/", "X-Demo-User", "usr_1337")
	// Output:
	// 200 40 left
	// 402 no calls are left: https://example.com/pricing
}

// The tokens of a language model are counted only when it has answered. More may be used
// than was reserved; then the next request is refused.
func ExampleCustomers_Reserve() {
	polar, customers := demoCustomers()
	defer customers.Close() // sends what is left
	ctx, quit := context.WithCancel(context.Background())
	defer quit()
	go customers.RunUsage(ctx)

	answer := func(tokens float64) {
		r, refusal := customers.Reserve(ctx, polargate.ExternalID("usr_1337"), meterCalls, 60)
		if refusal != nil {
			fmt.Println(refusal.Status, refusal.Required)
			return
		}
		defer r.Release() // has no effect after Commit
		if err := r.Commit(ctx, tokens, polargate.Usage{Name: "tokens", Metadata: map[string]any{"model": "small"}}); err != nil {
			fmt.Println(err)
		}
	}
	answer(30.5)
	answer(80)
	answer(10)
	_ = customers.Close()
	fmt.Println(len(polar.Events()), "events at Polar")
	// Output:
	// 402 meter aaf2bfea-ac4f-40eb-99ad-de858ccdfd97 of at least 60
	// 2 events at Polar
}

// The price of a request depends on its size, and the handler gives the units back if it
// finds what was asked for in its cache.
func ExampleReservationFromContext() {
	_, customers := demoCustomers()
	defer customers.Close()
	handler := customers.Route(polargate.Route{
		Customer: signedIn,
		Spend: polargate.Cost{
			MeterID: meterCalls,
			UnitsOf: func(r *http.Request) (float64, error) { return 0.7 * float64(len(r.URL.Query().Get("q"))), nil },
			Usage:   polargate.Usage{Name: "call"},
		},
	})(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		have, _ := polargate.FromContext(r.Context())
		calls, _ := have.Meter(meterCalls)
		if reserved, ok := polargate.ReservationFromContext(r.Context()); ok && r.URL.Query().Get("q") == "cached" {
			reserved.Release()
		}
		fmt.Fprintln(w, calls.Balance, "left")
	}))

	ask(handler, "/?q=cached", "X-Demo-User", "usr_1337")
	ask(handler, "/?q=something+new", "X-Demo-User", "usr_1337")
	// Output:
	// 200 95.8 left
	// 200 90.9 left
}

// A program whose sessions can be away says so by an error: its customers are asked to
// come back in a moment, and not to sign in again.
func ExampleRoute() {
	_, customers := demoCustomers()
	defer customers.Close()
	down := false
	session := func(r *http.Request) (user string, err error) { // stands for a store of sessions
		if down {
			return "", errors.New("connection refused")
		}
		return r.Header.Get("X-Demo-User"), nil
	}
	export := customers.Route(polargate.Route{
		CustomerOrError: func(r *http.Request) (polargate.CustomerRef, error) {
			user, err := session(r)
			return polargate.ExternalID(user), err // an empty id is nobody
		},
		Require: []polargate.Requirement{polargate.Feature("export")},
	})(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "exported") }))

	ask(export, "/", "X-Demo-User", "usr_1337")
	ask(export, "/")
	down = true
	ask(export, "/", "X-Demo-User", "usr_1337")
	// Output:
	// 200 exported
	// 401 {"type":"about:blank","title":"Unauthorized","status":401,"detail":"You aren't signed in. Sign in first."}
	// 503 {"type":"about:blank","title":"Service Unavailable","status":503,"detail":"We can't check what you may use right now. Try again shortly."}
}

// Polar tells of a cancellation, and it bites at once, although what was cached is
// fresh.
func ExampleCustomers_WebhookHandler() {
	polar, customers := demoCustomers()
	defer customers.Close()
	ctx := context.Background()

	const secret = "whsec_b2xkIGJlYW5z" // from the environment, in a server
	mux := http.NewServeMux()
	mux.Handle("POST /webhooks/polar", customers.WebhookHandler(secret))
	polar.AddEndpoint(polartest.Endpoint{
		Handler: mux,
		URL:     "https://example.com/webhooks/polar",
		Secrets: []polartest.Secret{{Text: secret}},
	})

	have, _ := customers.Entitlements(ctx, polargate.ExternalID("usr_1337"))
	fmt.Println("before:", have.Has("export"))

	polar.RevokeBenefit("usr_1337", benefitPro)
	_ = polar.WaitForDeliveries(ctx)
	have, _ = customers.Entitlements(ctx, polargate.ExternalID("usr_1337"))
	fmt.Println("after:", have.Has("export"))
	// Output:
	// before: true
	// after: false
}

// Ids that come from a configuration can be checked before a route is made of them.
func ExampleRequirement_Validate() {
	need := polargate.Any(polargate.Feature("pro"), polargate.Product("Pro plan"))
	fmt.Println(need.Validate())
	// Output: polargate: Product needs an id that is a UUID of version 4: give it as Polar shows it
}

// For servers that do not speak HTTP there is the decision alone.
func ExampleCustomers_Decide() {
	_, customers := demoCustomers()
	defer customers.Close()
	_, refusal := customers.Decide(context.Background(), polargate.ExternalID("usr_1337"),
		polargate.Feature("export"), polargate.Any(polargate.Feature("sync"), polargate.Meter(meterCalls, 500)))
	fmt.Println(refusal.Status, refusal.Required)
	_, refusal = customers.Decide(context.Background(), polargate.ExternalID("usr_1337"), polargate.Meter(meterCalls, 500))
	fmt.Println(refusal.Detail(), refusal.Required.MeterID() == meterCalls)
	// Output:
	// 402 one of feature sync, meter aaf2bfea-ac4f-40eb-99ad-de858ccdfd97 of at least 500
	// This needs meter aaf2bfea-ac4f-40eb-99ad-de858ccdfd97 of at least 500. true
}

// What is known of a customer is asked without I/O, as often as one likes.
func ExampleEntitlements() {
	polar, customers := demoCustomers()
	defer customers.Close()
	subscription := polar.Subscribe("usr_1337", polartest.Subscription{})
	customer, _ := polar.Customer("usr_1337")
	ctx := context.Background()
	// A customer is the same by either id.
	have, err := customers.Entitlements(ctx, polargate.CustomerID(customer.ID))
	if err != nil {
		fmt.Println(err) // nobody could say: Polar is down and nothing is cached
		return
	}
	fmt.Println(have.Known(), have.CustomerID() == customer.ID, have.CheckedAt().IsZero())
	fmt.Println(have.Has("export"), have.Features())
	for _, benefit := range have.Benefits() {
		fmt.Println(benefit.Type(), benefit.Metadata(), benefit.Properties(), benefit.LicenseKeyID() != "")
	}
	fmt.Println(have.Subscribed(subscription.ProductID), len(have.Products()))

	wanted := polargate.All(polargate.Product(subscription.ProductID), polargate.Meter(meterCalls, 500))
	unmet, _ := have.Unmet(wanted)
	fmt.Println(have.Meets(wanted), unmet)
	// Output:
	// true true false
	// true [export]
	// custom map[] map[] false
	// true 1
	// false meter aaf2bfea-ac4f-40eb-99ad-de858ccdfd97 of at least 500
}

// A license key is decided about without HTTP, too. It comes from the vendor's API,
// where it stands for its holder.
func ExampleCustomers_DecideLicense() {
	polar, customers := demoCustomers()
	defer customers.Close()
	key := polar.AddKey(polartest.LicenseKey{BenefitID: benefitPro})
	ctx := context.Background()

	have, refusal := customers.DecideLicense(ctx, key.Key, polargate.Feature("export"))
	fmt.Println(refusal == nil, have.Refused() == "")

	expired := polar.AddKey(polartest.LicenseKey{BenefitID: benefitPro, ExpiresAt: polar.Now().Add(-1)})
	_, refusal = customers.DecideLicense(ctx, expired.Key)
	fmt.Println(refusal.Status, refusal.Reason == polargate.ErrExpired, refusal.Entitlements.Refused())
	// Output:
	// true true
	// 402 true polargate: this license has expired
}

// A server that starts with an empty cache fills it from Polar's lists, beside its requests.
func ExampleCustomers_Warm() {
	polar, customers := demoCustomers()
	defer customers.Close()
	ctx := context.Background()

	warmed := make(chan struct{})
	go func() {
		defer close(warmed)
		n, err := customers.Warm(ctx) // logs its progress; Stats has it too
		fmt.Println(n, err)
	}()
	<-warmed // a server doesn't wait

	before := polar.Count("/state")
	entitlements, _ := customers.Entitlements(ctx, polargate.ExternalID("usr_1337"))
	fmt.Println(entitlements.Has("export"), polar.Count("/state")-before)
	fmt.Printf("%+v\n", customers.Stats().Warm.Customers)
	// Output:
	// 1 <nil>
	// true 0
	// 1
}

// Figures for a program's metrics are read whenever they are asked for.
func ExampleCustomers_Stats() {
	_, customers := demoCustomers()
	defer customers.Close()
	for range 100 {
		_, _ = customers.Entitlements(context.Background(), polargate.ExternalID("usr_1337"))
	}
	stats := customers.Stats()
	fmt.Println(stats.Requests, stats.Fresh, stats.Cached, stats.Misconfigured)
	// Output:
	// 1 99 1 <nil>
}

// A program decides by itself, and lets the library say it.
func ExampleWriteRefusal() {
	_, customers := demoCustomers()
	defer customers.Close()
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		customer := signedIn(r)
		if customer.IsZero() {
			http.Redirect(w, r, "/login", http.StatusSeeOther)
			return
		}
		if _, refusal := customers.Decide(r.Context(), customer, polargate.Feature("sync")); refusal != nil {
			polargate.WriteRefusal(w, r, *refusal)
			return
		}
		fmt.Fprintln(w, "synced")
	})
	ask(handler, "/", "X-Demo-User", "usr_1337")
	// Output:
	// 402 {"type":"about:blank","title":"Payment Required","status":402,"detail":"This needs feature sync.","required":"feature sync","upgrade_url":"https://example.com/pricing"}
}

// A client with an access token lists license keys, reads one with its activations, changes
// it, and replaces it.
func ExampleClient_LicenseKeys() {
	polar := polartest.New(polartest.Config{})
	sold := polar.AddKey(polartest.LicenseKey{Key: "INKWELL-1B7E2C44-0F2A-4C60-9B3D-2F6C1D0A1B2C", BenefitID: benefitPro, LimitActivations: polartest.Limit(3)})
	client, err := polargate.NewClient(polargate.ClientConfig{
		OrganizationID: polar.OrganizationID(),
		AccessToken:    polar.AddToken(polartest.Token{}), // from the environment
		BaseURL:        polar.URL(),                       // a server leaves these two out
		HTTPClient:     polar.Client(),
	})
	if err != nil {
		panic(err)
	}
	defer client.Close()
	ctx := context.Background()

	granted := polargate.KeyFilter{BenefitIDs: []string{benefitPro}, Statuses: []polargate.KeyStatus{polargate.KeyGranted}}
	for key, err := range client.LicenseKeys(ctx, granted) {
		if err != nil {
			panic(err)
		}
		fmt.Println(key.Key, key.Status)
	}

	typed, _ := polargate.ParseKey(sold.Key)
	activation, _ := client.Activate(ctx, polargate.ActivateRequest{Key: typed, Label: "Ada's laptop"})
	key, _ := client.LicenseKey(ctx, sold.ID)
	for _, a := range key.Activations {
		fmt.Println("activated on", a.Label)
	}
	one, _ := client.LicenseKeyActivation(ctx, sold.ID, activation.ID)
	fmt.Println("the same:", one.ID == key.Activations[0].ID)

	key, _ = client.UpdateLicenseKey(ctx, sold.ID, polargate.KeyUpdate{Status: polargate.KeyDisabled, LimitActivations: new(int64(5))})
	fmt.Println(key.Status, *key.LimitActivations)
	replaced, _ := client.RotateLicenseKey(ctx, sold.ID)
	fmt.Println("a new key:", replaced.Key != key.Key)
	// Output:
	// ****-0A1B2C granted
	// activated on Ada's laptop
	// the same: true
	// disabled 5
	// a new key: true
}

// A stream goes on only as long as its customer has the right to it.
func ExampleCustomers_Watch() {
	polar, customers := demoCustomers()
	defer customers.Close()
	const secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
	polar.AddEndpoint(polartest.Endpoint{Handler: customers.WebhookHandler(secret), Secrets: []polartest.Secret{{Text: secret}}})

	watched, stop := customers.Watch(context.Background(), polargate.ExternalID("usr_1337"), polargate.Feature("export"))
	defer stop()
	fmt.Println("running:", watched.Err() == nil)

	polar.RevokeBenefit("usr_1337", benefitPro)
	<-watched.Done()
	var refusal *polargate.Refusal
	if errors.As(context.Cause(watched), &refusal) {
		fmt.Println("ended:", refusal.Status, refusal.Required)
	}
	// Output:
	// running: true
	// ended: 402 feature export
}

// The same for the holder of a license key.
func ExampleCustomers_WatchLicense() {
	polar, customers := demoCustomers()
	defer customers.Close()
	key := polar.AddKey(polartest.LicenseKey{BenefitID: benefitPro})

	watched, stop := customers.WatchLicense(context.Background(), key.Key, polargate.Feature("export"))
	defer stop()
	fmt.Println("running:", watched.Err() == nil)
	// Output:
	// running: true
}

// A dashboard shows what a customer has, and follows every change.
func ExampleCustomers_Changes() {
	polar, customers := demoCustomers()
	defer customers.Close()
	const secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
	polar.AddEndpoint(polartest.Endpoint{Handler: customers.WebhookHandler(secret), Secrets: []polartest.Secret{{Text: secret}}})

	for have, err := range customers.Changes(context.Background(), polargate.ExternalID("usr_1337")) {
		if err != nil {
			continue // nobody can say at the moment
		}
		fmt.Println("export:", have.Has("export"))
		if !have.Has("export") {
			break
		}
		polar.RevokeBenefit("usr_1337", benefitPro)
	}
	// Output:
	// export: true
	// export: false
}

// A program hears of what happens at Polar, once for each event, after the cache has taken
// it in. If the function fails, Polar sends the event again.
func ExampleCustomers_On() {
	polar, customers := demoCustomers()
	defer customers.Close()
	customers.On("subscription.past_due", func(ctx context.Context, e polargate.Event) error {
		subscription, _ := e.Subscription()
		have, err := customers.Entitlements(ctx, e.Customer)
		if err != nil {
			return err // Polar sends it again
		}
		fmt.Println("remind", have.ExternalID(), "of a subscription that is", subscription.Status)
		return nil
	})
	customers.On("*", func(_ context.Context, e polargate.Event) error {
		_, isGrant := e.Grant()
		_, isSeat := e.Seat()
		_, isState := e.Entitlements()
		fmt.Println(e.Type, isGrant, isSeat, isState, len(e.Data()) > 0)
		return nil
	})

	// Polar, which delivers to the route of the webhook handler.
	product := polar.AddProduct(polartest.Product{Name: "Pro"})
	subscription := polar.Subscribe("usr_1337", polartest.Subscription{ProductID: product.ID, Status: "past_due"})
	secret := polartest.Secret{Text: "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"}
	polar.AddEndpoint(polartest.Endpoint{Handler: customers.WebhookHandler(secret.Text), Secrets: []polartest.Secret{secret},
		Events: []string{"subscription.past_due"}})
	polar.Emit(polartest.Event{Type: "subscription.past_due", Subject: subscription.ID})
	_ = polar.WaitForDeliveries(context.Background())
	// Output:
	// remind usr_1337 of a subscription that is past_due
	// subscription.past_due false false false true
}

// A page of a product says when a trial or a subscription ends. JSON has what a colleague in
// support wants to see.
func ExampleEntitlements_Subscriptions() {
	polar, customers := demoCustomers()
	defer func() { _ = customers.Close() }()
	polar.Subscribe("usr_1337", polartest.Subscription{
		ID: "e0f77b3c-e5b1-4d22-aa47-10b15fa6689d", ProductID: "8c499570-3242-437e-a9f5-6fee6cff7593",
		CancelAtPeriodEnd: true, EndsAt: polar.Now().Add(14 * 24 * time.Hour),
	})
	have, err := customers.Entitlements(context.Background(), polargate.ExternalID("usr_1337"))
	if err != nil {
		fmt.Println(polargate.Message(err))
		return
	}
	for _, s := range have.Subscriptions() {
		if s.CancelAtPeriodEnd {
			fmt.Printf("%s, and ends in %d days\n", s.Status, int(s.EndsAt.Sub(have.CheckedAt()).Round(time.Hour).Hours()/24))
		}
	}
	// Output: active, and ends in 14 days
}

// Only people of your company may see what a customer has.
func ExampleCustomers_AdminHandler() {
	_, customers := demoCustomers()
	defer func() { _ = customers.Close() }()
	admin := customers.AdminHandler(func(r *http.Request) bool {
		return r.Header.Get("X-Demo-User") == "usr_support" // a product looks into its session
	})
	ask(admin, "/admin?external_id=nobody", "X-Demo-User", "usr_support")
	ask(admin, "/admin?external_id=nobody", "X-Demo-User", "usr_1337")
	// Output:
	// 200 {"known":false,"features":[],"benefits":[],"subscriptions":[],"meters":[]}
	// 403
}
