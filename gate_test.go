package polargate

import (
	"context"
	"crypto/fips140"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/polargate/polargate/internal/link"
	"github.com/polargate/polargate/internal/machine"
	"github.com/polargate/polargate/internal/signed"
	"github.com/polargate/polargate/internal/testprogram"
	"github.com/polargate/polargate/polartest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func openGate(t *testing.T, polar *polartest.Polar, change func(*Config)) *Gate {
	t.Helper()
	config := Config{
		OrganizationID: polar.OrganizationID(),
		App:            "inkwell",
		BaseURL:        polar.URL(),
		HTTPClient:     polar.Client(),
		Store:          &MemoryStore{},
	}
	if change != nil {
		change(&config)
	}
	gate, err := Open(config)
	require.NoError(t, err)
	t.Cleanup(func() { _ = gate.Close() })
	return gate
}

// staged is a subtest in a bubble, with a Polar and a key for three activations in it.
func staged(t *testing.T, name string, play func(t *testing.T, polar *polartest.Polar, key polartest.LicenseKey)) {
	t.Helper()
	t.Run(name, func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			polar := polartest.New(polartest.Config{})
			play(t, polar, polar.AddKey(polartest.LicenseKey{LimitActivations: polartest.Limit(3)}))
		})
	})
}

// withExport makes a Gate's one feature come with a key.
func withExport(key polartest.LicenseKey) map[string][]string {
	return map[string][]string{key.BenefitID: {"export"}}
}

func TestAKeyThatWasJustBoughtIsWaitedFor(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		lag      time.Duration
		patience time.Duration // of the caller
		want     Reason
		atMost   time.Duration
	}{
		"a key that is ready is activated at once":     {0, time.Hour, "", 0},
		"one that appears after 30 s is waited for":    {30 * time.Second, time.Hour, "", time.Minute},
		"one that appears after two minutes, too":      {2 * time.Minute, time.Hour, "", purchaseLag},
		"one that never appears is given up":           {24 * time.Hour, time.Hour, ErrUnknownKey, purchaseLag},
		"the caller's context ends the wait before it": {24 * time.Hour, 20 * time.Second, ErrUnknownKey, 20 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				polar := polartest.New(polartest.Config{})
				key := polar.AddKey(polartest.LicenseKey{LimitActivations: polartest.Limit(1), VisibleFrom: time.Now().Add(test.lag)})
				gate := openGate(t, polar, nil)
				ctx, cancel := context.WithTimeout(t.Context(), test.patience)
				defer cancel()
				began := time.Now()
				status, err := gate.ActivateWait(ctx, key.Key)
				assert.LessOrEqual(t, time.Since(began), test.atMost)
				if test.want == "" {
					require.NoError(t, err)
					assert.Equal(t, Active, status.State)
					assert.Equal(t, 1, polar.Seats(key.ID))
					return
				}
				require.ErrorIs(t, err, test.want)
				assert.Contains(t, err.Error(), english["unknown_key.do"])
			})
		})
	}
}

func TestAKeyThatIsRefusedIsNotWaitedFor(t *testing.T) {
	t.Parallel()
	for name, key := range map[string]polartest.LicenseKey{
		"a revoked key":                 {LimitActivations: polartest.Limit(1), Status: "revoked"},
		"one whose seats are all taken": {LimitActivations: polartest.Limit(0)},
		"one that has no seats":         {},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				polar := polartest.New(polartest.Config{})
				gate := openGate(t, polar, nil)
				began := time.Now()
				_, err := gate.ActivateWait(t.Context(), polar.AddKey(key).Key)
				require.True(t, isDenial(err), "%v", err)
				require.NotErrorIs(t, err, ErrUnknownKey)
				assert.Zero(t, time.Since(began))
			})
		})
	}
}

// The state on disk is no better than memory when the disk has failed since.
func TestADiskThatFailsUnderARunningProgramDecidesNothing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		polar := polartest.New(polartest.Config{})
		key := polar.AddKey(polartest.LicenseKey{LimitActivations: polartest.Limit(1)})
		store := &failingStore{Store: &MemoryStore{}}
		gate := openGate(t, polar, func(c *Config) { c.Store = store })
		_, err := gate.Activate(t.Context(), key.Key)
		require.NoError(t, err)

		store.failing = context.DeadlineExceeded
		status, err := gate.Refresh(t.Context())
		require.NoError(t, err)
		assert.Equal(t, Active, status.State)

		polar.Revoke(key.ID)
		_, err = gate.Refresh(t.Context())
		require.ErrorIs(t, err, ErrInactive)
		polar.SetOffline(true)
		// Readable again, but as it was before the refusal.
		store.failing = nil
		store.readOnly = true
		time.Sleep(time.Minute)
		status, err = gate.Check(t.Context())
		require.ErrorIs(t, err, ErrInactive)
		assert.Equal(t, Locked, status.State)
	})
}

type failingStore struct {
	Store
	failing  error
	readOnly bool
}

func (s *failingStore) Load(ctx context.Context, name string) ([]byte, error) {
	if s.failing != nil {
		return nil, s.failing
	}
	return s.Store.Load(ctx, name)
}

func (s *failingStore) Save(ctx context.Context, name string, data []byte) error {
	if s.failing != nil {
		return s.failing
	}
	if s.readOnly {
		return context.Canceled
	}
	return s.Store.Save(ctx, name, data)
}

func TestAnAnswerThatWasLostToACountSaysThatItMayHaveCounted(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		polar := polartest.New(polartest.Config{})
		key := polar.AddKey(polartest.LicenseKey{LimitActivations: polartest.Limit(1), LimitUsage: polartest.Limit(10)})
		gate := openGate(t, polar, nil)
		_, err := gate.Activate(t.Context(), key.Key)
		require.NoError(t, err)
		polar.Inject(polartest.Fault{Times: 1, Effect: polartest.AnswerLost()})
		_, err = gate.Consume(t.Context(), 4)
		require.ErrorIs(t, err, ErrInDoubt)
		assert.Contains(t, err.Error(), english["in_doubt.uses.do"])
		assert.NotContains(t, err.Error(), "activation")
		left, err := gate.Consume(t.Context(), 1)
		require.NoError(t, err)
		assert.Equal(t, int64(5), left)
	})
}

// processes are the programs that the test binary can be.
var processes = testprogram.Programs{
	"hold-lock":       processHoldsLock,
	"count-with-lock": processCountsUnderLock,
	"save-for-ever":   processSavesForEver,
	"works-by-policy": processWorksByPolicy,
	"asks-by-proxy":   processAsksByProxy,
}

func TestMain(m *testing.M) { os.Exit(testprogram.Main(m, processes)) }

func benchGate(b *testing.B, store Store) (*Gate, Config) {
	b.Helper()
	polar := polartest.New(polartest.Config{})
	key := polar.AddKey(polartest.LicenseKey{LimitActivations: polartest.Limit(1)})
	config := Config{
		OrganizationID: polar.OrganizationID(), BaseURL: polar.URL(), HTTPClient: polar.Client(),
		Store: store, Features: map[string][]string{key.BenefitID: {"export", "sync", "share"}},
	}
	gate, err := Open(config)
	if err != nil {
		b.Fatal(err)
	}
	if _, err := gate.Activate(context.Background(), key.Key); err != nil {
		b.Fatal(err)
	}
	return gate, config
}

// BenchmarkHas is the hot path, beside the least that it could be: a load of a
// pointer and a look into a map. The two are to be read from one run.
func BenchmarkHas(b *testing.B) {
	gate, _ := benchGate(b, &MemoryStore{})
	defer gate.Close()
	b.Run("gate", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if !gate.Has("export") {
				b.Fatal("locked")
			}
		}
	})
	b.Run("bare pointer and map", func(b *testing.B) {
		type held struct{ features map[string]struct{} }
		var pointer atomic.Pointer[held]
		pointer.Store(&held{map[string]struct{}{"export": {}, "sync": {}, "share": {}}})
		b.ReportAllocs()
		for b.Loop() {
			if _, ok := pointer.Load().features["export"]; !ok {
				b.Fatal("locked")
			}
		}
	})
}

func BenchmarkCheckFromMemory(b *testing.B) {
	gate, _ := benchGate(b, &MemoryStore{})
	defer gate.Close()
	ctx := context.Background()
	_, _ = gate.Check(ctx)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := gate.Check(ctx); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkColdStart is from nothing to a decision, with a license on disk.
func BenchmarkColdStart(b *testing.B) {
	first, config := benchGate(b, FileStore(b.TempDir()))
	if err := first.Close(); err != nil {
		b.Fatal(err)
	}
	ctx := context.Background()
	b.ReportAllocs()
	for b.Loop() {
		gate, err := Open(config)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := gate.Check(ctx); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		_ = gate.Close()
		b.StartTimer()
	}
}

// GODEBUG=fips140=only has Go's cryptography refuse, partly by panics, what FIPS 140
// does not allow. All of it is done in a process that runs so.
func TestAllWorksWhereOnlyFIPS140CryptographyIsAllowed(t *testing.T) {
	t.Parallel()
	vectors, err := os.ReadFile("testdata/state/v1/granted.sealed")
	require.NoError(t, err)
	for _, mode := range []string{"only", "on", "off"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			folder := t.TempDir()
			require.NoError(t, FileStore(folder).Save(t.Context(), vectorName, vectors))
			cmd := testprogram.Command(t, "works-by-policy", folder, mode)
			cmd.Env = append(cmd.Env, "GODEBUG=fips140="+mode)
			out, err := cmd.Output()
			require.NoError(t, err, "%s", out)
			assert.Contains(t, string(out), "all is well")
		})
	}
}

func processWorksByPolicy(args []string) error {
	folder, mode := args[0], args[1]
	if fips140.Enabled() != (mode != "off") {
		return fmt.Errorf("GODEBUG=fips140=%s has no effect", mode)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	// A state that an earlier version wrote without such a policy.
	old, err := Open(Config{OrganizationID: vectorOrganization, App: vectorApp, Secret: vectorSecret, Fingerprint: vectorMachine, Store: FileStore(folder), BaseURL: "http://127.0.0.1:1",
		Clock: func() time.Time { return time.Date(2026, 11, 20, 9, 31, 0, 0, time.UTC) }})
	if err != nil {
		return err
	}
	if !old.Status().OK() {
		return fmt.Errorf("the state of an earlier version: %s", old.Status().Message)
	}
	_ = old.Close()

	for _, secret := range []string{"", "short"} { // what replicas share
		shared, err := link.New(link.Config{Store: storeOf(SharedInMemory()), Secrets: []string{secret}})
		if err != nil {
			return err
		}
		name := shared.Name("customer", "a")
		if _, err := shared.Put(ctx, link.Fact{Name: name, At: time.Now(), Data: []byte("x"), TTL: time.Hour}); err != nil {
			return err
		}
		if facts, err := shared.Get(ctx, name); err != nil || string(facts[name.Key].Data) != "x" {
			return fmt.Errorf("a record for other replicas: %w", err)
		}
		shared.Close()
	}

	for _, name := range []string{"TLS", "plain"} {
		polar := polartest.New(polartest.Config{})
		key := polar.AddKey(polartest.LicenseKey{LimitActivations: polartest.Limit(1)})
		config := Config{OrganizationID: polar.OrganizationID(), App: "inkwell-" + name, Features: withExport(key), Store: FileStore(folder)}
		if name == "TLS" {
			server := httptest.NewUnstartedServer(polar)
			server.EnableHTTP2 = true
			server.StartTLS()
			defer server.Close()
			config.BaseURL, config.HTTPClient, config.Fingerprint = server.URL, server.Client(), "pc"
		} else {
			server, err := polar.Start()
			if err != nil {
				return err
			}
			defer server.Close()
			config.BaseURL = server.URL
		}
		gate, err := Open(config)
		if err != nil {
			return err
		}
		if _, err := gate.Activate(ctx, key.Key); err != nil {
			return fmt.Errorf("%s: activate: %w", name, err)
		}
		_ = gate.Close()
		again, err := Open(config)
		if err != nil {
			return err
		}
		if !again.Has("export") {
			return fmt.Errorf("%s: opened again: %s", name, again.Status().Message)
		}
		if _, err := again.Check(ctx); err != nil {
			return fmt.Errorf("%s: check: %w", name, err)
		}
		if _, err := again.Refresh(ctx); err != nil {
			return fmt.Errorf("%s: refresh: %w", name, err)
		}
		if d := again.Diagnose(ctx); !d.Reached || len(d.Problems) > 0 {
			return fmt.Errorf("%s: diagnose: %s", name, d)
		}
		if err := again.Deactivate(ctx); err != nil {
			return fmt.Errorf("%s: deactivate: %w", name, err)
		}
		_ = again.Close()
	}
	if again := machine.Fingerprint("installation", "i", "o", "a"); len(again) != 32 {
		return errors.New("no fingerprint of a short id")
	}
	return servesByPolicy(ctx)
}

// servesByPolicy is a server's side of it.
func servesByPolicy(ctx context.Context) error {
	polar := polartest.New(polartest.Config{})
	server, err := polar.Start()
	if err != nil {
		return err
	}
	defer server.Close()
	const export = "22222222-0000-4000-8000-000000000001"
	buyer := polar.AddCustomer(polartest.Customer{ExternalID: "ann"})
	key := polar.AddKey(polartest.LicenseKey{BenefitID: export, CustomerID: buyer.ID})
	customers, err := NewCustomers(CustomersConfig{
		AccessToken: polar.AddToken(polartest.Token{}), OrganizationID: polar.OrganizationID(), BaseURL: server.URL,
		Features: map[string][]string{export: {"export"}},
	})
	if err != nil {
		return err
	}
	defer customers.Close()
	for _, secret := range []string{"x", "whsec_eA==", "whsec_MTIzNDU2Nzg5MA==", "thirteen byte", "fourteen bytes", strings.Repeat("long ", 30)} {
		handler := customers.WebhookHandler(secret)
		for _, signedBy := range signed.KeysOf(secret) {
			body := `{"type":"benefit.created","timestamp":"` + time.Now().UTC().Format(time.RFC3339) + `","data":{}}`
			r := httptest.NewRequest(http.MethodPost, "/webhooks/polar", strings.NewReader(body))
			id, at := rand.Text(), fmt.Sprint(time.Now().Unix())
			r.Header.Set("Webhook-Id", id)
			r.Header.Set("Webhook-Timestamp", at)
			fips140.WithoutEnforcement(func() { // as Polar signs, on another host
				r.Header.Set("Webhook-Signature", signature(signedBy, id, at, body))
			})
			w := httptest.NewRecorder()
			handler.ServeHTTP(w, r)
			if w.Code != http.StatusNoContent {
				return fmt.Errorf("an event signed with a secret of %d bytes: %d", len(secret), w.Code)
			}
		}
	}
	received := make(chan int, 1)
	handler := customers.WebhookHandler("short")
	polar.AddEndpoint(polartest.Endpoint{Secrets: []polartest.Secret{{Text: "short", Raw: true}}, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		recorder := httptest.NewRecorder()
		handler.ServeHTTP(recorder, r)
		w.WriteHeader(recorder.Code)
		received <- recorder.Code
	})})
	polar.GrantBenefit("ann", polartest.Benefit{BenefitID: export})
	select {
	case code := <-received:
		if code != http.StatusNoContent {
			return fmt.Errorf("an event of polartest's: %d", code)
		}
	case <-ctx.Done():
		return errors.New("no event came")
	}
	reached := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) })
	for name, route := range map[string]struct {
		handler http.Handler
		header  string
		value   string
	}{
		"a customer":    {customers.Middleware(func(r *http.Request) CustomerRef { return ExternalID(r.Header.Get("X-User")) }, Feature("export"))(reached), "X-User", "ann"},
		"a license key": {customers.LicenseMiddleware("X-License-Key", Feature("export"))(reached), "X-License-Key", key.Key},
	} {
		r := httptest.NewRequestWithContext(ctx, http.MethodGet, "/", nil)
		r.Header.Set(route.header, route.value)
		w := httptest.NewRecorder()
		route.handler.ServeHTTP(w, r)
		if w.Code != http.StatusTeapot {
			return fmt.Errorf("%s: %d %s", name, w.Code, w.Body)
		}
	}
	fmt.Println("all is well")
	return nil
}
