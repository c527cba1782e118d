package gate

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing/synctest"
	"time"

	"github.com/polargate/polargate"
	"github.com/polargate/polargate/lease"
	"github.com/polargate/polargate/lease/issuer"
	"github.com/polargate/polargate/polartest"
	"github.com/polargate/polargate/tests/internal/kit"
	"github.com/stretchr/testify/require"
)

// Faults of what a program asks beside Polar: the store that replicas share, and a license
// server. And the connections to Polar, which are kept between requests.

// Connections.

// pooled are connections to a Polar that a transport keeps, without a network: each is a pipe.
type pooled struct {
	*http.Transport
	server *http.Server
	mu     sync.Mutex
	open   []*pipeEnd
}

func newPooled(s *stage) *pooled {
	p := &pooled{server: &http.Server{Handler: s.polar, ReadHeaderTimeout: time.Hour}}
	dialed := pipes{make(chan net.Conn), make(chan struct{})}
	p.Transport = &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		here, there := net.Pipe()
		select {
		case dialed.conns <- there:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		end := &pipeEnd{Conn: here, ended: make(chan struct{})}
		p.mu.Lock()
		defer p.mu.Unlock()
		p.open = append(p.open, end)
		return end, nil
	}}
	var serving sync.WaitGroup
	serving.Go(func() { _ = p.server.Serve(dialed) })
	s.t.Cleanup(func() {
		p.CloseIdleConnections()
		_ = p.server.Close()
		serving.Wait()
	})
	return p
}

// pipes is a listener for pipes.
type pipes struct {
	conns  chan net.Conn
	closed chan struct{}
}

func (p pipes) Accept() (net.Conn, error) {
	select {
	case conn := <-p.conns:
		return conn, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p pipes) Close() error   { close(p.closed); return nil }
func (p pipes) Addr() net.Addr { return &net.UnixAddr{} }

// pipeEnd is the client's end of a connection.
type pipeEnd struct {
	net.Conn
	silent, closing atomic.Bool
	once            sync.Once
	ended           chan struct{} // the server closes it
}

// Write sends bytes that never arrive if the other end is gone.
func (c *pipeEnd) Write(b []byte) (int, error) {
	switch {
	case c.closing.Load():
		c.once.Do(func() { _ = c.Conn.SetReadDeadline(time.Now()); close(c.ended) })
	case !c.silent.Load():
		return c.Conn.Write(b)
	}
	return len(b), nil
}

func (c *pipeEnd) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	select {
	case <-c.ended:
		return 0, io.EOF
	default:
		return n, err
	}
}

// eachConnection makes sure that there is a connection, and does something to all.
func (s *stage) eachConnection(do func(*pipeEnd)) {
	r, err := http.NewRequestWithContext(s.t.Context(), http.MethodGet, s.polar.URL()+"/", nil)
	require.NoError(s.t, err)
	s.overLimit.Store(true) // there is no such path, which is as good
	response, err := s.pooled.RoundTrip(r)
	s.overLimit.Store(false)
	require.NoError(s.t, err)
	_, err = io.Copy(io.Discard, response.Body)
	require.NoError(s.t, err)
	require.NoError(s.t, response.Body.Close())
	synctest.Wait()
	s.pooled.mu.Lock()
	defer s.pooled.mu.Unlock()
	for _, c := range s.pooled.open {
		do(c)
	}
}

var connectionFaults = []matrixFault{
	{name: "a kept connection has died without a sign", by: "requests over connections that were open before vanish", pooled: true,
		strike: func(s *stage) { s.eachConnection(func(c *pipeEnd) { c.silent.Store(true) }) }},
	{name: "the server has closed the connections", by: "connections that were open before are closed", pooled: true,
		strike: func(s *stage) { s.eachConnection(func(c *pipeEnd) { _ = c.Close() }) }},
	{name: "the server closes a kept connection as it is used", by: "connections that were open before end with the next request", pooled: true,
		strike: func(s *stage) { s.eachConnection(func(c *pipeEnd) { c.closing.Store(true) }) }},
}

// The store.

// shakyStore is a Shared to which something can be done.
type shakyStore struct {
	polargate.Shared
	// meets fails a call, or holds it up. writes is whether it changes something, and hint
	// whether it tells the others.
	meets atomic.Pointer[func(ctx context.Context, writes, hint bool) error]
	// holds changes what is read.
	holds atomic.Pointer[func([]byte) []byte]
	// other is there in place of Shared from then on.
	other atomic.Pointer[polargate.Shared]
	mu    sync.Mutex
	cut   context.CancelFunc
}

func (s *shakyStore) set(meets func(ctx context.Context, writes, hint bool) error) {
	s.meets.Store(&meets)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cut != nil {
		s.cut()
	}
}

func (s *shakyStore) change(holds func([]byte) []byte) { s.holds.Store(&holds) }

func (s *shakyStore) mend() {
	s.meets.Store(nil)
	s.holds.Store(nil)
}

func (s *shakyStore) inner() polargate.Shared {
	if other := s.other.Load(); other != nil {
		return *other
	}
	return s.Shared
}

func (s *shakyStore) call(ctx context.Context, writes, hint bool) error {
	if meets := s.meets.Load(); meets != nil {
		return (*meets)(ctx, writes, hint)
	}
	return nil
}

func (s *shakyStore) read(data []byte) []byte {
	if holds := s.holds.Load(); holds != nil && len(data) > 0 {
		return (*holds)(data)
	}
	return data
}

func (s *shakyStore) Lookup(ctx context.Context, q polargate.SharedLookup) (a polargate.SharedAnswer, err error) {
	if err := s.call(ctx, true, false); errors.Is(err, errNoRoom) { // nothing can be claimed, but there may be a record
		if records, err := s.inner().Get(ctx, q.Key); err == nil && len(records) > 0 && records[0].At >= q.NotBefore {
			return polargate.SharedAnswer{Record: records[0], Found: true}, nil
		}
		return a, err
	} else if err != nil {
		return a, err
	}
	a, err = s.inner().Lookup(ctx, q)
	a.Record.Data = s.read(a.Record.Data)
	return a, err
}

func (s *shakyStore) Get(ctx context.Context, keys ...string) ([]polargate.SharedRecord, error) {
	if err := s.call(ctx, false, false); err != nil {
		return nil, err
	}
	records, err := s.inner().Get(ctx, keys...)
	for i := range records {
		records[i].Data = s.read(records[i].Data)
	}
	return records, err
}

func (s *shakyStore) Put(ctx context.Context, holder string, records ...polargate.SharedRecord) ([]polargate.SharedRecord, error) {
	if err := s.call(ctx, true, false); err != nil {
		return nil, err
	}
	return s.inner().Put(ctx, holder, records...)
}

func (s *shakyStore) Discard(ctx context.Context, records ...polargate.SharedRecord) error {
	if err := s.call(ctx, true, false); err != nil {
		return err
	}
	return s.inner().Discard(ctx, records...)
}

func (s *shakyStore) Release(ctx context.Context, holder string, keys ...string) error {
	if err := s.call(ctx, true, false); err != nil {
		return err
	}
	return s.inner().Release(ctx, holder, keys...)
}

func (s *shakyStore) Take(ctx context.Context, b polargate.SharedBudget) (polargate.SharedTurn, error) {
	if err := s.call(ctx, true, false); err != nil {
		return polargate.SharedTurn{}, err
	}
	return s.inner().Take(ctx, b)
}

func (s *shakyStore) Pause(ctx context.Context, budget string, d time.Duration) error {
	if err := s.call(ctx, true, false); err != nil {
		return err
	}
	return s.inner().Pause(ctx, budget, d)
}

func (s *shakyStore) Beat(ctx context.Context, replica string, ttl time.Duration) (int, error) {
	if err := s.call(ctx, true, false); err != nil {
		return 0, err
	}
	return s.inner().Beat(ctx, replica, ttl)
}

func (s *shakyStore) Load(ctx context.Context, key string) (polargate.SharedValue, error) {
	if err := s.call(ctx, false, false); err != nil {
		return polargate.SharedValue{}, err
	}
	value, err := s.inner().Load(ctx, key)
	value.Data = s.read(value.Data)
	return value, err
}

func (s *shakyStore) Swap(ctx context.Context, key, version string, data []byte, ttl time.Duration) (polargate.SharedValue, bool, error) {
	if err := s.call(ctx, true, false); err != nil {
		return polargate.SharedValue{}, false, err
	}
	value, swapped, err := s.inner().Swap(ctx, key, version, data, ttl)
	if !swapped {
		value.Data = s.read(value.Data)
	}
	return value, swapped, err
}

func (s *shakyStore) Hint(ctx context.Context, keys ...string) error {
	if err := s.call(ctx, true, true); err != nil {
		return err
	}
	return s.inner().Hint(ctx, keys...)
}

func (s *shakyStore) Listen(ctx context.Context, heard func([]string, bool)) error {
	if err := s.call(ctx, false, true); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s.mu.Lock()
	s.cut = cancel
	s.mu.Unlock()
	return s.inner().Listen(ctx, heard)
}

// takes is how long a store takes for each call.
func takes(d time.Duration) func(context.Context, bool, bool) error {
	return func(ctx context.Context, _, _ bool) error {
		select {
		case <-time.After(d):
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

var errNoRoom = errors.New("OOM command not allowed when used memory is above maxmemory")

var storeFaults = []matrixFault{
	{name: "the store can't be reached", by: "every call fails",
		strike: func(s *stage) { s.store.set(func(context.Context, bool, bool) error { return kit.ErrAway }) }},
	{name: "the store is slow", by: "every call takes 0.2 seconds", strike: func(s *stage) { s.store.set(takes(200 * time.Millisecond)) }},
	{name: "the store doesn't answer", by: "no call returns before its context ends", strike: func(s *stage) { s.store.set(takes(kit.Day)) }},
	{name: "the store can't be written to", by: "what changes something fails, while reading and hints work",
		strike: func(s *stage) {
			s.store.set(func(_ context.Context, writes, hint bool) error {
				if writes && !hint {
					return errNoRoom
				}
				return nil
			})
		}},
	{name: "the store has garbage", by: "what is read is random bytes",
		strike: func(s *stage) {
			s.store.change(func(b []byte) []byte { return bytes.Repeat([]byte{0xA5, 0}, len(b)/2) })
		}},
	{name: "another program writes under our keys", by: "what is read is JSON of another program",
		strike: func(s *stage) { s.store.change(func([]byte) []byte { return []byte(`{"pro":true,"balance":1e9}`) }) }},
	{name: "records of another version", by: "what is read begins with the number of a later version",
		strike: func(s *stage) { s.store.change(func(b []byte) []byte { return append([]byte{2}, b[1:]...) }) }},
	{name: "the other replicas have another secret", by: "the store has only what was written with another secret",
		strike: func(s *stage) {
			store := polargate.SharedInMemory()
			s.store.other.Store(&store)
			other := s.replica(store, "another secret of replicas")
			_, _ = other.Entitlements(s.t.Context(), polargate.ExternalID(kit.Paying))
		}},
}

// replica is a server that shares what it knows.
func (s *stage) replica(store polargate.Shared, secret string) *polargate.Customers {
	customers, err := polargate.NewCustomers(polargate.CustomersConfig{
		AccessToken:    s.polar.AddToken(polartest.Token{}),
		OrganizationID: s.polar.OrganizationID(),
		Features:       map[string][]string{kit.ProBenefit: {"pro"}},
		BaseURL:        s.polar.URL(),
		HTTPClient:     &http.Client{Transport: s.transport},
		Shared:         store, Secret: secret,
	})
	require.NoError(s.t, err)
	s.t.Cleanup(func() { _ = customers.Close() })
	synctest.Wait()
	return customers
}

const replicasSecret = "the secret of the replicas"

// replicas makes a stage of two replicas, and gives the other one. The other asked Polar
// about the customers ten seconds ago. The store of this one is shaky.
func (s *stage) replicas() (other *polargate.Customers) {
	s.polar.AddMeter(polartest.CatalogMeter{
		ID: kit.CallsMeter, Name: "Calls",
		Filter:      map[string]any{"conjunction": "and", "clauses": []any{map[string]any{"property": "name", "operator": "eq", "value": "call"}}},
		Aggregation: map[string]any{"func": "sum", "property": "units"},
	})
	paying := polartest.Customer{
		ExternalID: kit.Paying, Benefits: []polartest.Benefit{{BenefitID: kit.ProBenefit}},
		Meters: []polartest.Meter{{MeterID: kit.CallsMeter, CreditedUnits: 100}},
	}
	s.polar.AddCustomer(paying)
	paying.ExternalID = "usr_never_seen"
	s.polar.AddCustomer(paying)
	s.polar.AddCustomer(polartest.Customer{ExternalID: "usr_buying"})
	shared := polargate.SharedInMemory()
	other = s.replica(shared, replicasSecret)
	_, err := other.Entitlements(s.t.Context(), polargate.ExternalID(kit.Paying))
	require.NoError(s.t, err)
	time.Sleep(10 * time.Second)
	s.store = &shakyStore{Shared: shared}
	s.customers = s.replica(s.store, replicasSecret)
	return other
}

func countUnits(s *stage) (units int) {
	for _, event := range s.polar.Events() {
		n, err := strconv.ParseFloat(fmt.Sprint(event.Metadata["units"]), 64)
		require.NoError(s.t, err)
		units += int(n)
	}
	return units
}

var storeOperations = []matrixOperation{
	{name: "Shared: a customer whom another replica has asked about", against: theStore,
		about:   "This replica has never seen the customer. Another one asked Polar ten seconds ago.",
		prepare: func(s *stage) act { s.replicas(); return s.asCustomer(kit.Paying) }},
	{name: "Shared: the same customer, while Polar can't be reached", against: theStore,
		about: "As after a restart during an outage: only the store knows the customer.",
		prepare: func(s *stage) act {
			s.replicas()
			s.polar.SetOffline(true)
			return s.asCustomer(kit.Paying)
		}},
	{name: "Shared: a customer whom no replica knows", against: theStore,
		about:   "Polar has to be asked, in the budget of all replicas.",
		prepare: func(s *stage) act { s.replicas(); return s.asCustomer("usr_never_seen") }},
	{name: "Shared: a purchase that another replica hears of", against: theStore,
		about: "The customer was refused a minute ago, then buys. The webhook comes to the other replica, whose store works. " +
			"The verdict is that of the customer's next request to this replica, a tenth of a second later.",
		prepare: func(s *stage) act {
			other := s.replicas()
			next := s.asCustomer("usr_buying")
			_, _ = next()
			time.Sleep(time.Minute)
			const secret = "own words"
			s.polar.AddEndpoint(polartest.Endpoint{
				Secrets: []polartest.Secret{{Text: secret, Raw: true}}, Events: []string{"customer.state_changed"},
				Handler: other.WebhookHandler(secret),
			})
			return func() (string, error) {
				if c, _ := s.polar.Customer("usr_buying"); len(c.Benefits) == 0 {
					s.polar.GrantBenefit("usr_buying", polartest.Benefit{BenefitID: kit.ProBenefit})
				}
				time.Sleep(time.Second / 10)
				s.began = time.Now()
				return next()
			}
		}},
	{name: "Shared: a request that spends from a meter", against: theStore, counted: unitsTold, count: countUnits,
		about: "Two of the customer's hundred units are spent, and reserved with the other replicas before. Units are those that Polar was told of.",
		prepare: func(s *stage) act {
			s.replicas()
			_, err := s.customers.Entitlements(s.t.Context(), polargate.ExternalID(kit.Paying))
			require.NoError(s.t, err)
			ctx, cancel := context.WithCancel(s.t.Context())
			var sending sync.WaitGroup
			sending.Go(func() { _ = s.customers.RunUsage(ctx) })
			s.t.Cleanup(func() { cancel(); sending.Wait() })
			return s.asked(polargate.Route{
				Customer: func(*http.Request) polargate.CustomerRef { return polargate.ExternalID(kit.Paying) },
				Spend:    polargate.Cost{MeterID: kit.CallsMeter, Units: 2, Usage: polargate.Usage{Name: "call", Property: "units"}},
			}, "X-User", kit.Paying)
		}},
}

// The license server.

const licenseServer = "licenses.example.com"

var issuerFaults = []matrixFault{
	{name: "the license server can't be reached", by: "connections are refused",
		strike: answered(func(*stage, *http.Request, func() *http.Response) (*http.Response, error) {
			return nil, &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}
		})},
	{name: "it doesn't answer", by: "no answer comes before the request's context ends",
		strike: answered(func(_ *stage, r *http.Request, _ func() *http.Response) (*http.Response, error) {
			<-r.Context().Done()
			return nil, r.Context().Err()
		})},
	{name: "its answers are lost", by: "connections end before the answer",
		strike: answered(func(_ *stage, _ *http.Request, real func() *http.Response) (*http.Response, error) {
			_ = real()
			return nil, io.ErrUnexpectedEOF
		})},
	{name: "its answers are garbage", by: "status 200 or 204 with other text", strike: says(0, "text/plain", "v1.bm8gbGVhc2U.AAAA")},
	{name: "a login page in its place", by: "status 200 with a web page", strike: says(200, "text/html", "<html>Welcome to the hotel</html>")},
	{name: "it fails", by: "status 500 with a problem report", strike: says(500, "application/problem+json", `{"reason":"unknown_key"}`)},
	{name: "it asks for a pause", by: "status 429 with Retry-After", strike: says(429, "application/problem+json", `{"reason":"rate_limited"}`)},
	{name: "leases are signed by somebody else", by: "a lease of a key that the program doesn't know", strike: signs(9, 0)},
	{name: "leases are too old", by: "a lease that ended 10 days ago", strike: signs(1, -40*kit.Day)},
	{name: "it can't reach Polar", by: "`SetOffline(true)`", strike: func(s *stage) { s.polar.SetOffline(true) }},
	{name: "it refuses the license key", by: "status 402 with a problem report", strike: says(402, "application/problem+json", `{"reason":"inactive"}`)},
}

func answered(answer func(s *stage, r *http.Request, real func() *http.Response) (*http.Response, error)) func(*stage) {
	return func(s *stage) {
		s.answer.Store(new(func(r *http.Request, real func() *http.Response) (*http.Response, error) { return answer(s, r, real) }))
	}
}

// says is a fixed answer. A status of 0 is the one of a good answer.
func says(status int, media, body string) func(*stage) {
	return answered(func(_ *stage, _ *http.Request, real func() *http.Response) (*http.Response, error) {
		response := &http.Response{StatusCode: status, Header: http.Header{"Content-Type": {media}}, Body: io.NopCloser(strings.NewReader(body))}
		if status == 0 {
			response.StatusCode = http.StatusOK
		}
		return response, nil
	})
}

// signs answers with leases of the key of that number, of that long ago.
func signs(number byte, ago time.Duration) func(*stage) {
	return answered(func(s *stage, _ *http.Request, _ func() *http.Response) (*http.Response, error) {
		issued := time.Now().Add(ago)
		text, err := lease.Sign(ed25519.NewKeyFromSeed(bytes.Repeat([]byte{number}, ed25519.SeedSize)), lease.Claims{
			ID: "L0", OrganizationID: s.polar.OrganizationID(), Fingerprint: kit.ThisMachine, LicenseKeyID: s.world.Key.ID, BenefitID: s.world.Key.BenefitID,
			Issued: issued, Expires: issued.Add(30 * kit.Day),
		})
		require.NoError(s.t, err)
		return &http.Response{StatusCode: http.StatusOK, Header: http.Header{"Content-Type": {"text/plain"}}, Body: io.NopCloser(strings.NewReader(text))}, nil
	})
}

// leased makes a stage for gates whose vendor has a license server.
func (s *stage) leased() *kit.World {
	w := s.gates()
	client, err := polargate.NewClient(polargate.ClientConfig{
		OrganizationID: s.polar.OrganizationID(), AccessToken: s.polar.AddToken(polartest.Token{}), BaseURL: s.polar.URL(), HTTPClient: s.polar.Client(),
	})
	require.NoError(s.t, err)
	private := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{1}, ed25519.SeedSize))
	server, err := issuer.New(issuer.Config{Client: client, Key: private, Store: &polargate.MemoryStore{}})
	require.NoError(s.t, err)
	w.Config.LeaseKeys = []ed25519.PublicKey{private.Public().(ed25519.PublicKey)}
	w.Config.LeaseURL = "https://" + licenseServer + "/"
	w.Config.HTTPClient = &http.Client{Transport: kit.RoundTripper(func(r *http.Request) (*http.Response, error) {
		if r.URL.Host != licenseServer {
			return s.transport.RoundTrip(r)
		}
		s.requests.Add(1)
		time.Sleep(time.Millisecond)
		real := func() *http.Response {
			w := httptest.NewRecorder()
			server.Handler().ServeHTTP(w, r)
			return w.Result()
		}
		if answer := s.answer.Load(); answer != nil {
			return (*answer)(r, real)
		}
		return real(), nil
	})}
	return w
}

// leasedFor is the next run of a program that got its lease so long ago.
func (s *stage) leasedFor(age time.Duration) *polargate.Gate {
	w := s.leased()
	require.NoError(s.t, w.Activated().Close())
	time.Sleep(age)
	return w.Open()
}

var issuerOperations = []matrixOperation{
	{name: "License server: Check, with a lease past half its life", against: theIssuer,
		about:   "The lease is 20 of its 30 days old. Check answers from it, and asks for the next one in the background.",
		prepare: func(s *stage) act { return checking(s, s.leasedFor(20*kit.Day)) }},
	{name: "License server: Check, with a lease that has ended", against: theIssuer,
		about:   "The lease is 36 days old: in the grace period of a week.",
		prepare: func(s *stage) act { return checking(s, s.leasedFor(36*kit.Day)) }},
	{name: "License server: Check, with a lease whose grace is over", against: theIssuer,
		about:   "The lease is 45 days old. Only the license server can let the program run now.",
		prepare: func(s *stage) act { return checking(s, s.leasedFor(45*kit.Day)) }},
	{name: "License server: Refresh", against: theIssuer, about: "The lease is a day old.",
		prepare: func(s *stage) act {
			gate := s.leasedFor(kit.Day)
			return ofGate(gate, func() error { _, err := gate.Refresh(s.t.Context()); return err })
		}},
	{name: "License server: Activate", against: theIssuer, about: "Nothing is stored, and the key allows three activations.",
		counted: seatsTaken, count: countSeats,
		prepare: func(s *stage) act {
			w := s.leased()
			return activating(s, w.Open(), w.Key.Key)
		}},
	{name: "License server: Deactivate", against: theIssuer, about: "Access ends here at once. The activation ends when the license server can be reached.",
		counted: seatsTaken, count: countSeats,
		prepare: func(s *stage) act {
			gate := s.leasedFor(kit.Day)
			return ofGate(gate, func() error { return gate.Deactivate(s.t.Context()) })
		}},
}
