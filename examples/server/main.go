// Server is a small web service sold through Polar, reduced to deciding which customer
// may use what.
//
// With nothing set, it starts an embedded Polar with a few customers, listens on
// 127.0.0.1:8080 and prints what to try. With POLAR_ACCESS_TOKEN set, it asks the real
// Polar. SIGTERM or Ctrl-C ends it after the requests in progress.
//
//	GET  /                a page: the customer who is signed in, and what they may use
//	GET  /free            for everybody
//	GET  /pro             for customers with the feature "pro"
//	GET  /meter           uses one unit of a meter, if there is one
//	GET  /return          the page that the checkout sends customers back to
//	GET  /api/data        for license keys in the header X-License-Key
//	POST /webhooks/polar  Polar's webhooks
//	GET  /healthz         for a load balancer
//	GET  /metrics         what to alert on
//
// ADDR is the address to listen on. POLAR_API_URL is another base URL, for a proxy or a
// test. POLAR_WEBHOOK_SECRET is the secret of the webhook endpoint; while you replace it,
// give both, separated by a comma. POLARGATE_FEATURES lists the features that benefits
// unlock, as "benefit=feature,feature;benefit=…". POLARGATE_METER is the id of the meter.
//
// Several replicas share what they know if REDIS_URL names a Redis or Valkey, or, on one
// computer, POLARGATE_SHARED_FILE a file. POLARGATE_SHARED_SECRET seals what is in there;
// while you replace it, give the one that seals first and the other after a comma.
// "go run ./examples/server -replicas 3" shows three of them at work, and ends by itself.
//
// A product has sessions. This example trusts the header X-Demo-User, which names a
// customer by external id. Don't copy that part.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/polargate/polargate"
	"github.com/polargate/polargate/examples/internal/setting"
	"github.com/polargate/polargate/metrics"
)

// usage is printed if the arguments can't be right.
const usage = `usage: server [-replicas N]

With -replicas N it starts N replicas of itself, 2 to 9, and an embedded Polar, shows what
they know together, and ends. Without it, it serves. Set it up with environment variables:

  POLAR_ACCESS_TOKEN       the organization access token; without it, an embedded Polar
  POLAR_ORGANIZATION_ID    the organization of the token; otherwise learned from Polar
  POLAR_WEBHOOK_SECRET     the secret of the webhook endpoint; old,new while you replace it
  POLARGATE_FEATURES       what benefits unlock: benefit=feature,feature;benefit=…
  POLARGATE_METER          the id of the meter that /meter uses
  POLARGATE_REQUESTS       how many requests a minute Polar may be sent, by all replicas
  POLAR_API_URL            another base URL, for a proxy or a test
  ADDR                     the address to listen on; default 127.0.0.1:8080

What replicas share, if they are to share anything:

  REDIS_URL                a Redis or Valkey: redis://user:password@host:6379/0
  POLARGATE_REDIS_PREFIX   begins the keys there; default ` + defaultPrefix + `
  POLARGATE_SHARED_FILE    a file instead, for the replicas of one computer
  POLARGATE_SHARED_SECRET  seals what is shared; new,old while you replace it
`

func main() {
	flags := flag.NewFlagSet("server", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	replicas := flags.Int("replicas", 0, "")
	child := flags.Bool("child", false, "") // a replica that -replicas starts
	err := flags.Parse(os.Args[1:])
	if err != nil || flags.NArg() > 0 || *replicas != 0 && (*replicas < 2 || *replicas > 9) {
		fmt.Fprint(os.Stderr, usage)
		os.Exit(2)
	}
	signals := []os.Signal{os.Interrupt, syscall.SIGTERM}
	if *child {
		signal.Ignore(os.Interrupt) // Ctrl-C is for the program that started this one
		signals = signals[1:]
	}
	ctx, stop := signal.NotifyContext(context.Background(), signals...)
	context.AfterFunc(ctx, stop) // a second Ctrl-C ends the program at once
	switch {
	case *replicas > 0:
		err = showReplicas(ctx, *replicas, os.Getenv, os.Stdout)
	case *child:
		err = run(untilInputEnds(ctx), os.Getenv, os.Stdout, os.Stderr)
	default:
		err = run(ctx, os.Getenv, os.Stdout, os.Stderr)
	}
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// drain is how long requests in progress may take once the server is told to end.
const drain = 10 * time.Second

func run(ctx context.Context, getenv func(string) string, stdout, stderr io.Writer) error {
	features, err := setting.Features(getenv("POLARGATE_FEATURES"))
	if err != nil {
		return err
	}
	s := settings{
		customers: polargate.CustomersConfig{
			AccessToken:    getenv("POLAR_ACCESS_TOKEN"),
			OrganizationID: getenv("POLAR_ORGANIZATION_ID"),
			BaseURL:        getenv("POLAR_API_URL"),
			Features:       features,
			App:            "polargate-server-example",
			Version:        "1.0.0",
			UpgradeURL:     "/#plans",
			Logger:         slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: slog.LevelWarn})),
		},
		meter: strings.TrimSpace(getenv("POLARGATE_METER")),
	}
	if s.meter != "" {
		if err := polargate.Meter(s.meter, 1).Validate(); err != nil {
			return fmt.Errorf("POLARGATE_METER: %w", err)
		}
	}
	if text := getenv("POLARGATE_REQUESTS"); text != "" {
		if s.customers.RequestsPerMinute, err = strconv.Atoi(text); err != nil || s.customers.RequestsPerMinute < 1 {
			return errors.New("POLARGATE_REQUESTS must be a number of requests a minute, such as 300")
		}
	}
	if s.customers.AccessToken == "" {
		for _, name := range []string{"POLAR_API_URL", "POLAR_ORGANIZATION_ID", "POLAR_WEBHOOK_SECRET", "POLARGATE_FEATURES", "POLARGATE_METER"} {
			if getenv(name) != "" {
				return fmt.Errorf("%s is set, but POLAR_ACCESS_TOKEN is not: set it too, or neither for an embedded Polar", name)
			}
		}
	}
	for secret := range strings.SplitSeq(getenv("POLAR_WEBHOOK_SECRET"), ",") {
		if secret = strings.TrimSpace(secret); secret != "" {
			s.secrets = append(s.secrets, secret)
		}
	}
	closeStore, err := share(&s.customers, getenv)
	if err != nil {
		return err
	}
	defer closeStore()
	listener, err := net.Listen("tcp", cmp.Or(getenv("ADDR"), "127.0.0.1:8080"))
	if err != nil {
		return fmt.Errorf("cannot listen: %w (set ADDR to another address, such as 127.0.0.1:8081, or 127.0.0.1:0 for any free port)", err)
	}
	url := address(listener)
	if s.customers.AccessToken == "" {
		if s.demo, err = newDemo(&s); err != nil {
			return err
		}
		defer s.demo.close()
		s.demo.sendWebhooksTo(url)
	}
	handler, customers, err := newServer(s)
	if err != nil {
		return err
	}
	defer func() { _ = customers.Close() }()

	server := &http.Server{Handler: handler, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 8 * time.Second, IdleTimeout: time.Minute}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(listener) }()
	fmt.Fprintf(stdout, "Listening on %s\n", url)
	if s.demo != nil {
		s.demo.introduce(stdout, url)
	}
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	fmt.Fprintln(stdout, "Ending after the requests in progress.")
	patient, cancel := context.WithTimeout(context.Background(), drain)
	defer cancel()
	if err := server.Shutdown(patient); err != nil {
		return fmt.Errorf("some requests were cut short: %w", err)
	}
	if err := <-ended; !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// address is where a browser on this computer finds the server.
func address(listener net.Listener) string {
	if a, ok := listener.Addr().(*net.TCPAddr); ok && a.IP.IsUnspecified() {
		return fmt.Sprintf("http://localhost:%d", a.Port)
	}
	return "http://" + listener.Addr().String()
}

// settings are what the server is started with.
type settings struct {
	customers polargate.CustomersConfig
	secrets   []string
	meter     string // "" for none
	demo      *demo  // nil with a real Polar
}

func newServer(s settings) (http.Handler, *polargate.Customers, error) {
	customers, err := polargate.NewCustomers(s.customers)
	if err != nil {
		return nil, nil, err
	}
	pro := customers.Middleware(signedIn, polargate.Feature("pro"))
	keys := customers.LicenseMiddleware("X-License-Key")

	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", page{customers, s}.show)
	mux.HandleFunc("GET /free", free)
	mux.Handle("GET /pro", pro(http.HandlerFunc(onlyPro)))
	if s.meter == "" {
		mux.HandleFunc("GET /meter", noMeter)
	} else {
		metered := customers.Route(polargate.Route{
			Customer: signedIn,
			Require:  []polargate.Requirement{polargate.Meter(s.meter, 1)},
			Spend:    polargate.Cost{MeterID: s.meter, Units: 1},
		})
		mux.Handle("GET /meter", metered(useMeter(s.meter)))
	}
	mux.HandleFunc("GET /return", returned(customers))
	mux.Handle("GET /api/data", keys(http.HandlerFunc(data)))
	mux.Handle("POST /webhooks/polar", customers.WebhookHandler(s.secrets...))
	mux.HandleFunc("GET /healthz", healthz(customers))
	figures := metrics.New()
	figures.Customers("", customers)
	mux.Handle("GET /metrics", figures) // a product has it on an address of its own
	if s.demo != nil {
		// Forms of other sites cannot cancel anything here.
		safe := http.NewCrossOriginProtection()
		mux.Handle("POST /demo/", safe.Handler(s.demo.routes()))
	}
	return mux, customers, nil
}

// signedIn names the customer who sent a request. A product looks into its session here.
func signedIn(r *http.Request) polargate.CustomerRef { return polargate.ExternalID(userOf(r)) }

// userOf is the user that a request claims to come from, by a header or by the cookie
// that the page sets.
func userOf(r *http.Request) string {
	if user := r.Header.Get("X-Demo-User"); user != "" {
		return user
	}
	if cookie, err := r.Cookie(userCookie); err == nil {
		return cookie.Value
	}
	return ""
}

const userCookie = "demo-user"

func free(w http.ResponseWriter, _ *http.Request) {
	fmt.Fprintln(w, "This is for everybody.")
}

func onlyPro(w http.ResponseWriter, r *http.Request) {
	have, _ := polargate.FromContext(r.Context())
	fmt.Fprintf(w, "This is for customers with the feature pro. You have: %s.\n", strings.Join(have.Features(), ", "))
}

func useMeter(meter string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		have, _ := polargate.FromContext(r.Context())
		balance, _ := have.Meter(meter)
		// A product sends its usage event to Polar here.
		fmt.Fprintf(w, "You used one unit. Left: %g.\n", balance.Balance)
	}
}

func noMeter(w http.ResponseWriter, _ *http.Request) {
	http.Error(w, "This server has no meter: POLARGATE_METER isn't set.", http.StatusNotFound)
}

func data(w http.ResponseWriter, r *http.Request) {
	have, _ := polargate.FromContext(r.Context())
	key, _ := have.License()
	w.Header().Set("Content-Type", "application/json")
	fmt.Fprintf(w, "{\"data\": [1, 2, 3], \"key\": %q}\n", key.Key) // prints masked
}

// pageTime is how long a person waits for a page.
const pageTime = 10 * time.Second

// returned is the page that Polar's checkout sends a customer back to (its success URL).
// Polar grants what was bought a moment later, so the page waits for that.
func returned(customers *polargate.Customers) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "no-store")
		if signedIn(r).IsZero() {
			http.Error(w, "You aren't signed in. Sign in first.", http.StatusUnauthorized)
			return
		}
		ctx, cancel := context.WithTimeout(r.Context(), pageTime)
		defer cancel()
		_, err := customers.Await(ctx, signedIn(r), polargate.Feature("pro"))
		var missing *polargate.MissingError
		switch {
		case err == nil:
			http.Redirect(w, r, "/", http.StatusSeeOther)
		case errors.As(err, &missing):
			w.Header().Set("Refresh", "5") // the browser asks again
			w.WriteHeader(http.StatusAccepted)
			fmt.Fprintln(w, polargate.Message(err))
		default:
			http.Error(w, polargate.Message(err), http.StatusServiceUnavailable)
		}
	}
}
