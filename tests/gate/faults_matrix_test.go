package gate

import (
	"encoding/json"
	"errors"
	"flag"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/polargate/polargate"
	"github.com/polargate/polargate/polartest"
	"github.com/polargate/polargate/tests/internal/kit"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

var updateFaults = flag.Bool("update-faults", false, "write docs/faults.md anew instead of comparing with it")

// matrixFault is a row of the matrix: something that is wrong from the moment before
// the operation until after it.
type matrixFault struct {
	name string // in plain words
	by   string // how polartest makes it
	// effect strikes all requests, or as many as times says.
	effect polartest.Effect
	times  int
	// strike is for what is no Effect.
	strike func(*stage)
	// pooled is whether connections are kept between requests.
	pooled bool
}

var matrixFaults = []matrixFault{
	{name: noFault, strike: func(*stage) {}},
	{name: "no network", by: `SetOffline(true)`, strike: func(s *stage) { s.polar.SetOffline(true) }},
	{name: "a Wi-Fi login page", by: `LoginPage(200)`, effect: polartest.LoginPage(200)},
	{name: "a redirect to a login page", by: `LoginPage(302)`, effect: polartest.LoginPage(302)},
	{name: "a redirect that keeps the method", by: `LoginPage(307)`, effect: polartest.LoginPage(307)},
	{name: "a login page with status 511", by: `LoginPage(511)`, effect: polartest.LoginPage(511)},
	{name: "a firewall's 403 page", by: `ProxyPage(403)`, effect: polartest.ProxyPage(403)},
	{name: "a proxy's 404 page", by: `ProxyPage(404)`, effect: polartest.ProxyPage(404)},
	{name: "a proxy that asks for a password", by: `ProxyPage(407)`, effect: polartest.ProxyPage(407)},
	{name: "a gateway's 502 page", by: `ProxyPage(502)`, effect: polartest.ProxyPage(502)},
	{name: "a path that no longer exists", by: `RouterNotFound()`, effect: polartest.RouterNotFound()},
	{name: "429 for half a minute", by: `RateLimited("30")`, effect: polartest.RateLimited("30")},
	{name: "429 without Retry-After", by: `RateLimited("")`, effect: polartest.RateLimited("")},
	{name: "429 for a day", by: `RateLimited("86400")`, effect: polartest.RateLimited("86400")},
	{name: "Polar's rate limit is reached", by: "more requests than Polar accepts", strike: (*stage).reachTheLimit},
	{name: "a pause that is already known", by: "a 429 to another request", strike: (*stage).meetAPause},
	{name: "Polar fails", by: `ServerError(500)`, effect: polartest.ServerError(500)},
	{name: "Polar is overloaded", by: `ServerError(503)`, effect: polartest.ServerError(503)},
	{name: "Polar fails once", by: `ServerError(500)`, effect: polartest.ServerError(500), times: 1},
	{name: "no answer", by: `Hang()`, effect: polartest.Hang()},
	{name: "no answer, once", by: `Hang()`, effect: polartest.Hang(), times: 1},
	{name: "a slow connection", by: `SlowDrip(time.Millisecond)`, effect: polartest.SlowDrip(time.Millisecond)},
	{name: "one byte per second", by: `SlowDrip(time.Second)`, effect: polartest.SlowDrip(time.Second)},
	{name: "an answer after 2 seconds", by: `Delay(2 * time.Second)`, effect: polartest.Delay(2 * time.Second)},
	{name: "an answer after a minute", by: `Delay(time.Minute)`, effect: polartest.Delay(time.Minute)},
	{name: "connections are reset", by: `Reset()`, effect: polartest.Reset()},
	{name: "a connection is reset once", by: `Reset()`, effect: polartest.Reset(), times: 1},
	{name: "connections are closed", by: `Close()`, effect: polartest.Close()},
	{name: "answers are lost", by: `AnswerLost()`, effect: polartest.AnswerLost()},
	{name: "an answer is lost once", by: `AnswerLost()`, effect: polartest.AnswerLost(), times: 1},
	{name: "half an answer", by: `Truncated()`, effect: polartest.Truncated()},
	{name: "not JSON", by: `Garbage()`, effect: polartest.Garbage()},
	{name: "32 MiB", by: `Huge()`, effect: polartest.Huge()},
	{name: "200 with `{}`", by: "Body(200, …)", effect: polartest.Body(200, applicationJSON, `{}`)},
	{name: "Polar calls the request malformed", by: "Body(422, …)", effect: polartest.Body(422, applicationJSON,
		`{"error":"RequestValidationError","detail":[{"loc":["body","key"],"msg":"Field required","type":"missing"}]}`)},
	{name: "Polar rejects the token", by: "Body(401, …)", effect: polartest.Body(401, applicationJSON,
		`{"error":"invalid_token","error_description":"The access token provided is expired."}`)},
	{name: "the token lacks a scope", by: "Body(403, …)", effect: polartest.Body(403, applicationJSON,
		`{"error":"insufficient_scope","error_description":"The request requires higher privileges."}`)},
	{name: "Polar's own “Not found”", by: "Body(404, …)", effect: polartest.Body(404, applicationJSON,
		`{"error":"ResourceNotFound","detail":"Not found"}`)},
	{name: "the answer of another organization", by: "Rewrite(…)", effect: polartest.Rewrite(ofAnotherOrganization)},
	{name: "an answer followed by HTML", by: "Rewrite(…)", effect: polartest.Rewrite(withHTMLBehind)},
}

const noFault = "no fault"

// constructor is the function of polartest that makes the effect. That it is this one
// is seen when the fault is played.
func (f matrixFault) constructor() string {
	name, _, _ := strings.Cut(f.by, "(")
	return name
}

func ofAnotherOrganization(status int, _ http.Header, body []byte) (int, []byte) {
	var m map[string]any
	if json.Unmarshal(body, &m) != nil {
		return status, body
	}
	for _, part := range []any{m, m["license_key"]} {
		if part, ok := part.(map[string]any); ok && part["organization_id"] != nil {
			part["organization_id"] = "8f7ab6a8-4a51-4bb1-9f0a-6f7f7a0a3c11"
		}
	}
	changed, err := json.Marshal(m)
	if err != nil {
		panic(err)
	}
	return status, changed
}

func withHTMLBehind(status int, _ http.Header, body []byte) (int, []byte) {
	if len(body) == 0 {
		return status, body // there is none to a 204
	}
	return status, append(slices.Clone(body), "<script src=\"//ads.example\"></script>"...)
}

// stage is where a cell is played: a Polar, and a gate or a server that asks it.
type stage struct {
	t         *testing.T
	polar     *polartest.Polar
	transport http.RoundTripper // counts
	requests  atomic.Int64      // sent, or tried to be
	began     time.Time         // the operation, whose wait counts from here on
	overLimit atomic.Bool       // the rate limit is gone over on purpose
	world     *kit.World        // for gates
	token     string            // of a server; "" for gates
	customers *polargate.Customers
	pooled    *pooled     // connections to Polar; nil if each request has one of its own
	store     *shakyStore // of replicas
	// answer is what is heard from a license server; nil lets it speak for itself.
	answer atomic.Pointer[func(r *http.Request, real func() *http.Response) (*http.Response, error)]
}

func newStage(t *testing.T, f matrixFault) *stage {
	s := &stage{t: t}
	s.polar = polartest.New(polartest.Config{Sandbox: true, OnBreach: func(r polartest.Request, what string) {
		if !s.overLimit.Load() {
			t.Errorf("%s %s: %s", r.Method, r.Path, what)
		}
	}})
	carry := s.polar.Transport()
	if f.pooled {
		s.pooled = newPooled(s)
		carry = s.pooled
	}
	s.transport = kit.RoundTripper(func(r *http.Request) (*http.Response, error) {
		s.requests.Add(1)
		time.Sleep(time.Millisecond) // no network is without, and what goes on behind comes after what returns
		return carry.RoundTrip(r)
	})
	return s
}

// reachTheLimit is done by somebody else behind the same address, or with the same
// token: three requests in a second and one more, or the sandbox's 100 in a minute.
func (s *stage) reachTheLimit() {
	s.overLimit.Store(true)
	method, path, times := http.MethodPost, "/v1/customer-portal/license-keys/validate", 4
	if s.token != "" {
		method, path, times = http.MethodGet, "/v1/customers/external/usr_none/state", 100
	}
	for range times {
		r, err := http.NewRequestWithContext(s.t.Context(), method, s.polar.URL()+path, strings.NewReader("{}"))
		require.NoError(s.t, err)
		if s.token != "" {
			r.Header.Set("Authorization", "Bearer "+s.token)
		}
		response, err := s.polar.Client().Do(r)
		require.NoError(s.t, err)
		require.NoError(s.t, response.Body.Close())
	}
}

func (s *stage) meetAPause() {
	s.polar.Inject(polartest.Fault{Times: 1, Effect: polartest.RateLimited("60")})
	client, err := polargate.NewClient(polargate.ClientConfig{
		OrganizationID: s.polar.OrganizationID(), BaseURL: s.polar.URL(), HTTPClient: s.polar.Client(), AccessToken: s.token,
	})
	require.NoError(s.t, err)
	key, err := polargate.ParseKey("POLAR-00000000-0000-4000-8000-000000000000")
	require.NoError(s.t, err)
	_, err = client.Validate(s.t.Context(), polargate.ValidateRequest{Key: key})
	require.ErrorIs(s.t, err, polargate.ErrRateLimited)
}

// gates makes a stage for gates: one key with three seats and ten uses.
func (s *stage) gates() *kit.World {
	key := s.polar.AddKey(polartest.LicenseKey{LimitActivations: polartest.Limit(3), LimitUsage: polartest.Limit(10)})
	s.world = &kit.World{T: s.t, Polar: s.polar, Key: key, Config: polargate.Config{
		OrganizationID: s.polar.OrganizationID(),
		App:            "inkwell",
		Label:          "the computer of the tests",
		Features:       map[string][]string{key.BenefitID: {"export"}},
		BaseURL:        s.polar.URL(),
		HTTPClient:     &http.Client{Transport: s.transport},
		Store:          &polargate.MemoryStore{},
		Fingerprint:    kit.ThisMachine,
	}}
	return s.world
}

// server makes a stage for a server, with a customer and a license key in its cache
// for as long as age says.
func (s *stage) server(age time.Duration) *stage {
	customer := polartest.Customer{ExternalID: kit.Paying, Benefits: []polartest.Benefit{{BenefitID: kit.ProBenefit}}}
	s.polar.AddCustomer(customer)
	customer.ExternalID = "usr_never_seen"
	s.polar.AddCustomer(customer)
	s.polar.AddCustomer(polartest.Customer{ExternalID: "usr_buying"})
	for _, key := range []string{knownKey, newKey} {
		s.polar.AddKey(polartest.LicenseKey{Key: key, BenefitID: kit.ProBenefit})
	}
	s.token = s.polar.AddToken(polartest.Token{})
	var err error
	s.customers, err = polargate.NewCustomers(polargate.CustomersConfig{
		AccessToken:    s.token,
		OrganizationID: s.polar.OrganizationID(),
		Features:       map[string][]string{kit.ProBenefit: {"pro"}},
		BaseURL:        s.polar.URL(),
		HTTPClient:     &http.Client{Transport: s.transport},
	})
	require.NoError(s.t, err)
	s.t.Cleanup(func() { _ = s.customers.Close() })
	for _, ask := range []act{s.asCustomer(kit.Paying), s.asCustomer("usr_buying"), s.withKey(knownKey)} {
		_, _ = ask()
	}
	time.Sleep(age)
	return s
}

const (
	knownKey = "POLAR-11111111-1111-4111-8111-111111111111"
	newKey   = "POLAR-22222222-2222-4222-8222-222222222222"
)

// act is an operation, which can be done again.
type act func() (verdict string, err error)

func ofGate(gate *polargate.Gate, do func() error) act {
	return func() (string, error) {
		err := do()
		return inWords(gate.Status()), err
	}
}

func inWords(s polargate.Status) string {
	if s.State == polargate.Grace {
		return "grace: " + string(s.Reason)
	}
	return string(s.State)
}

func activating(s *stage, gate *polargate.Gate, key string) act {
	return ofGate(gate, func() error { _, err := gate.Activate(s.t.Context(), key); return err })
}

func checking(s *stage, gate *polargate.Gate) act {
	return ofGate(gate, func() error { _, err := gate.Check(s.t.Context()); return err })
}

// licensed is the next run of a program that asked Polar that long ago.
func (s *stage) licensed(age time.Duration) *polargate.Gate {
	w := s.gates()
	require.NoError(s.t, w.Activated().Close())
	time.Sleep(age)
	return w.Open()
}

func (s *stage) asked(route polargate.Route, header, value string) act {
	var refused error
	route.Require = []polargate.Requirement{polargate.Feature("pro")}
	route.Refuse = func(w http.ResponseWriter, r *http.Request, refusal polargate.Refusal) {
		if refused = refusal.Err; refused == nil && refusal.Reason != "" {
			refused = refusal.Reason
		}
		polargate.WriteRefusal(w, r, refusal)
	}
	handler := s.customers.Route(route)(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	return func() (string, error) {
		refused = nil
		r := httptest.NewRequestWithContext(s.t.Context(), http.MethodGet, "/", nil)
		r.Header.Set(header, value)
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, r)
		return strconv.Itoa(w.Code), refused
	}
}

func (s *stage) asCustomer(external string) act {
	return s.asked(polargate.Route{Customer: func(*http.Request) polargate.CustomerRef { return polargate.ExternalID(external) }}, "X-User", external)
}

func (s *stage) withKey(key string) act {
	return s.asked(polargate.Route{LicenseKey: func(r *http.Request) string { return r.Header.Get("X-Key") }}, "X-Key", key)
}

// matrixOperation is a table of the matrix.
type matrixOperation struct {
	name, about string
	// against is whose faults it is played with: Polar's if it is empty.
	against string
	// counted is what is counted at Polar beside the requests.
	counted string
	count   func(*stage) int
	// prepare sets the stage, before the fault.
	prepare func(*stage) act
}

const (
	seatsTaken  = "Activations"
	usesCounted = "Uses"
	unitsTold   = "Units"

	theStore  = "the store that replicas share"
	theIssuer = "a license server"
)

// faults are those that an operation is played with. The first is none.
func (o matrixOperation) faults() []matrixFault {
	switch o.against {
	case theStore:
		return slices.Concat(matrixFaults[:1], storeFaults)
	case theIssuer:
		return slices.Concat(matrixFaults[:1], issuerFaults)
	}
	return slices.Concat(matrixFaults, connectionFaults)
}

// operations are all tables of the matrix.
func operations() []matrixOperation {
	return slices.Concat(matrixOperations, storeOperations, issuerOperations)
}

func countSeats(s *stage) int { return s.world.Seats() }
func countUses(s *stage) int  { return int(s.world.Now().Usage) }

var matrixOperations = []matrixOperation{
	{name: "Open", about: "The stored license was verified 25 hours ago, so it is stale. Open does not ask Polar.",
		prepare: func(s *stage) act {
			require.NoError(s.t, s.licensed(25*time.Hour).Close())
			return func() (string, error) {
				gate, err := polargate.Open(s.world.Config)
				require.NoError(s.t, err)
				defer gate.Close()
				return inWords(gate.Status()), nil
			}
		}},
	{name: "Check, with nothing stored", about: "There is nothing to verify.",
		prepare: func(s *stage) act { return checking(s, s.gates().Open()) }},
	{name: "Check, with a fresh license", about: "An earlier run of the program verified the license an hour ago.",
		prepare: func(s *stage) act { return checking(s, s.licensed(time.Hour)) }},
	{name: "Check, with a license past half its freshness",
		about:   "The license was verified 13 hours ago. Check answers from the store and asks Polar in the background.",
		prepare: func(s *stage) act { return checking(s, s.licensed(13*time.Hour)) }},
	{name: "Check, with a stale license", about: "The license was verified 25 hours ago.",
		prepare: func(s *stage) act { return checking(s, s.licensed(25*time.Hour)) }},
	{name: "Check, with a license whose grace is over",
		about:   "The license was verified 15 days ago. Only Polar can let the program run now.",
		prepare: func(s *stage) act { return checking(s, s.licensed(15*kit.Day)) }},
	{name: "Refresh", about: "The license was verified an hour ago.",
		prepare: func(s *stage) act {
			gate := s.licensed(time.Hour)
			return ofGate(gate, func() error { _, err := gate.Refresh(s.t.Context()); return err })
		}},
	{name: "Activate", about: "Nothing is stored, and the key allows three activations.", counted: seatsTaken, count: countSeats,
		prepare: func(s *stage) act {
			w := s.gates()
			return activating(s, w.Open(), w.Key.Key)
		}},
	{name: "Activate, with the key in use", about: "The activation is used again.",
		counted: seatsTaken, count: countSeats,
		prepare: func(s *stage) act { return activating(s, s.licensed(time.Hour), s.world.Key.Key) }},
	{name: "Activate, with a key other than the one in use",
		about:   "The license in use must survive any failure. Activations are those of both keys.",
		counted: seatsTaken,
		count: func(s *stage) int {
			return s.world.Seats() + s.polar.Seats(newKey)
		},
		prepare: func(s *stage) act {
			gate := s.licensed(time.Hour)
			s.polar.AddKey(polartest.LicenseKey{Key: newKey, BenefitID: s.world.Key.BenefitID, LimitActivations: polartest.Limit(3)})
			return activating(s, gate, newKey)
		}},
	{name: "Deactivate", about: "Access ends here at once. The activation ends when Polar can be reached.",
		counted: seatsTaken, count: countSeats,
		prepare: func(s *stage) act {
			gate := s.licensed(time.Hour)
			return ofGate(gate, func() error { return gate.Deactivate(s.t.Context()) })
		}},
	{name: "Consume", about: "One of ten uses is counted.", counted: usesCounted, count: countUses,
		prepare: func(s *stage) act {
			gate := s.licensed(time.Hour)
			return ofGate(gate, func() error { _, err := gate.Consume(s.t.Context(), 1); return err })
		}},
	{name: "Middleware, for a customer who is known and stale",
		about:   "Polar was asked 10 minutes ago. The answer comes from the cache, and Polar is asked in the background.",
		prepare: func(s *stage) act { return s.server(10 * time.Minute).asCustomer(kit.Paying) }},
	{name: "Middleware, for a customer who was last seen 2 hours ago",
		about:   "Polar is asked first. If Polar can't be reached, the last answer counts.",
		prepare: func(s *stage) act { return s.server(2 * time.Hour).asCustomer(kit.Paying) }},
	{name: "Middleware, for the same customer 10 seconds later",
		about: "The second request while the fault lasts. The wait is that of this request, and the requests are those of both.",
		prepare: func(s *stage) act {
			ask := s.server(2 * time.Hour).asCustomer(kit.Paying)
			return func() (string, error) {
				_, _ = ask()
				time.Sleep(10 * time.Second)
				s.began = time.Now()
				return ask()
			}
		}},
	{name: "Middleware, for a customer who was never seen", about: "Polar has to be asked.",
		prepare: func(s *stage) act { return s.server(10 * time.Minute).asCustomer("usr_never_seen") }},
	{name: "LicenseMiddleware, for a key that is known and stale", about: "As for a customer.",
		prepare: func(s *stage) act { return s.server(10 * time.Minute).withKey(knownKey) }},
	{name: "LicenseMiddleware, for a key that was last seen 2 hours ago", about: "As for a customer.",
		prepare: func(s *stage) act { return s.server(2 * time.Hour).withKey(knownKey) }},
	{name: "LicenseMiddleware, for a key that was never seen", about: "As for a customer.",
		prepare: func(s *stage) act { return s.server(10 * time.Minute).withKey(newKey) }},
	{name: "WebhookHandler, with a purchase",
		about: "The customer was refused a minute ago, then buys. The verdict is the answer to Polar's delivery, " +
			"then the answer to the customer's next request.",
		prepare: func(s *stage) act {
			s.server(time.Minute)
			var answered atomic.Int64
			const secret = "own words"
			handler := s.customers.WebhookHandler(secret)
			s.polar.AddEndpoint(polartest.Endpoint{
				Secrets: []polartest.Secret{{Text: secret, Raw: true}}, Events: []string{"customer.state_changed"},
				Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					recorder := httptest.NewRecorder()
					handler.ServeHTTP(recorder, r)
					w.WriteHeader(recorder.Code)
					answered.Store(int64(recorder.Code))
				}),
			})
			next := s.asCustomer("usr_buying")
			return func() (string, error) {
				if c, _ := s.polar.Customer("usr_buying"); len(c.Benefits) == 0 {
					s.polar.GrantBenefit("usr_buying", polartest.Benefit{BenefitID: kit.ProBenefit})
				}
				synctest.Wait()
				verdict := "not delivered"
				if status := answered.Load(); status != 0 {
					verdict = strconv.FormatInt(status, 10)
				}
				then, err := next()
				return verdict + ", then " + then, err
			}
		}},
}

// play is one cell: the operation while the fault lasts.
func (o matrixOperation) play(t *testing.T, f matrixFault) cell {
	t.Helper()
	s := newStage(t, f)
	do := o.prepare(s)
	if f.strike != nil {
		f.strike(s)
	} else {
		s.polar.Inject(polartest.Fault{Times: f.times, Effect: f.effect})
	}
	s.requests.Store(0)
	s.began = time.Now()
	verdict, err := do()
	c := cell{verdict: verdict, err: kindOf(err), wait: roundWait(time.Since(s.began))}
	time.Sleep(30 * time.Second) // for what goes on behind the caller's back
	c.requests = int(s.requests.Load())
	if o.count != nil {
		c.counted = o.count(s)
	}
	for _, r := range s.polar.Requests() {
		if f.strike == nil && r.Fault != "" && r.Fault != f.constructor() {
			t.Errorf("%s is made by %s, and said to be by %s", f.name, r.Fault, f.constructor())
		}
	}

	s.polar.ClearFaults()
	s.polar.SetOffline(false)
	s.answer.Store(nil)
	if s.store != nil {
		s.store.mend()
	}
	time.Sleep(16 * time.Minute) // longer than any pause
	verdict, err = do()
	time.Sleep(30 * time.Second)
	c.again, c.later = verdict+", "+kindOf(err), 0
	if o.count != nil {
		c.later = o.count(s)
	} else if s.world != nil && s.world.Seats() > 1 {
		t.Errorf("%s: %s: there are %d seats", f.name, o.name, s.world.Seats())
	}
	return c
}

// kindOf is an error in a word.
func kindOf(err error) string {
	var store *polargate.StoreError
	var input *polargate.InputError
	var reason polargate.Reason
	switch {
	case err == nil:
		return none
	case errors.As(err, &store):
		return "StoreError"
	case errors.As(err, &input):
		return "InputError"
	case kit.ReasonOf(err) != "":
		return string(kit.ReasonOf(err))
	case errors.As(err, &reason):
		return string(reason)
	}
	return err.Error()
}

const none = "–"

func TestFaultMatrix(t *testing.T) {
	t.Parallel()
	played := matrix{}
	var mu sync.Mutex
	t.Run("play", func(t *testing.T) {
		for _, o := range operations() {
			t.Run(o.name, func(t *testing.T) {
				t.Parallel()
				for _, f := range o.faults() {
					synctest.Test(t, func(t *testing.T) {
						c := o.play(t, f)
						mu.Lock()
						defer mu.Unlock()
						played.set(o.name, f.name, c)
					})
				}
				mu.Lock()
				defer mu.Unlock()
				for _, f := range o.faults() {
					assert.Equal(t, played[o.name][noFault].again, played[o.name][f.name].again, "when %q is over", f.name)
				}
			})
		}
	})
	if t.Failed() {
		return
	}
	if *updateFaults {
		require.NoError(t, os.WriteFile(faultsPage, []byte(played.page()), 0o644))
		return
	}
	page, err := os.ReadFile(faultsPage)
	require.NoError(t, err)
	for _, change := range compareMatrices(string(page), played) {
		t.Error(change)
	}
}
