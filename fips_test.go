package polargate

import (
	"context"
	"crypto/fips140"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/polargate/polargate/internal/machine"
	"github.com/polargate/polargate/internal/seal"
	"github.com/polargate/polargate/internal/testprogram"
	"github.com/polargate/polargate/polartest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

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
		link, err := newSharedLink(sharedLinkConfig{Store: SharedInMemory(), Secrets: []string{secret}})
		if err != nil {
			return err
		}
		name := link.name("customer", "a")
		if _, err := link.put(ctx, sharedFact{Name: name, At: time.Now(), Data: []byte("x"), TTL: time.Hour}); err != nil {
			return err
		}
		if facts, err := link.get(ctx, name); err != nil || string(facts[name.key].Data) != "x" {
			return fmt.Errorf("a record for other replicas: %w", err)
		}
		link.close()
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
		for _, signedBy := range webhookKeys(secret) {
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

// signature is what Polar signs an event with.
func signature(key []byte, id, at, body string) string {
	mac := hmac.New(sha256.New, key)
	_, _ = mac.Write([]byte(id + "." + at + "." + body))
	return "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil))
}

// The codes of a short key are those of HMAC, which completes a key itself.
func TestAKeyCompletedByHandSignsTheSame(t *testing.T) {
	t.Parallel()
	for _, n := range []int{0, 1, 13, 14, 32, 63, 64, 65, 200} {
		key := []byte(strings.Repeat("k", n))
		assert.Equal(t, signature(key, "id", "1", "body"), signature(seal.MACKey(key), "id", "1", "body"))
		assert.Len(t, key, n, "the caller's is left as it was")
	}
}

// A state that the host's policy does not let open may be good: it is no damage.
func TestAStateThatPolicyForbidsToOpenIsNeitherDamagedNorWrittenOver(t *testing.T) {
	t.Parallel()
	store := &MemoryStore{}
	gate, err := Open(Config{OrganizationID: testOrganization, Store: store, Fingerprint: "here"})
	require.NoError(t, err)
	defer gate.Close()
	require.NoError(t, store.Save(t.Context(), gate.name, []byte("PGS1 sealed by another policy")))
	gate.seal.err = errors.New("forbidden by policy")
	rec := gate.load(t.Context())
	require.ErrorContains(t, rec.unread, "forbidden by policy")
	assert.Equal(t, ErrUnreadableState, rec.trouble)
	_, err = store.Load(t.Context(), gate.name+".corrupt")
	require.ErrorIs(t, err, ErrNotStored)
	err = gate.change(t.Context(), func(*record) bool { return true })
	var failed *StoreError
	require.ErrorAs(t, err, &failed)
	kept, err := store.Load(t.Context(), gate.name)
	require.NoError(t, err)
	assert.Equal(t, "PGS1 sealed by another policy", string(kept))
	_, err = gate.seal.sealVerdict(&verdict{}, &seat{Key: "k"}, "here")
	require.ErrorContains(t, err, "forbidden by policy")
	_, err = gate.seal.openVerdict(nil, &seat{Key: "k"}, "here")
	require.ErrorContains(t, err, "forbidden by policy")
}
