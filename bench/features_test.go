package bench

import (
	"context"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/launchdarkly/go-sdk-common/v3/ldcontext"
	ldclient "github.com/launchdarkly/go-server-sdk/v7"
	"github.com/launchdarkly/go-server-sdk/v7/ldcomponents"
	"github.com/launchdarkly/go-server-sdk/v7/testhelpers/ldtestdata"
	"github.com/open-feature/go-sdk/openfeature"
	"github.com/open-feature/go-sdk/openfeature/memprovider"
	"github.com/patrickmn/go-cache"
	"github.com/polargate/polargate"
	"github.com/polargate/polargate/polartest"
)

// unlocked are the features that everybody here has.
var unlocked = []string{"export", "sync", "share"}

type bare struct{ features map[string]struct{} }

func newBare() *bare {
	b := &bare{map[string]struct{}{}}
	for _, f := range unlocked {
		b.features[f] = struct{}{}
	}
	return b
}

func newGate(tb testing.TB, features ...string) *polargate.Gate {
	tb.Helper()
	polar := polartest.New(polartest.Config{})
	key := polar.AddKey(polartest.LicenseKey{LimitActivations: polartest.Limit(1)})
	gate, err := polargate.Open(polargate.Config{
		OrganizationID: polar.OrganizationID(), BaseURL: polar.URL(), HTTPClient: polar.Client(),
		Store: &polargate.MemoryStore{}, Features: map[string][]string{key.BenefitID: features},
	})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = gate.Close() })
	if _, err := gate.Activate(context.Background(), key.Key); err != nil {
		tb.Fatal(err)
	}
	return gate
}

func newOpenFeature(tb testing.TB) *openfeature.Client {
	tb.Helper()
	flags := map[string]memprovider.InMemoryFlag{}
	for _, f := range unlocked {
		flags[f] = memprovider.InMemoryFlag{Key: f, State: memprovider.Enabled, DefaultVariant: "on", Variants: map[string]any{"on": true, "off": false}}
	}
	if err := openfeature.SetProviderAndWait(memprovider.NewInMemoryProvider(flags)); err != nil {
		tb.Fatal(err)
	}
	return openfeature.NewDefaultClient()
}

// newLaunchDarkly has no events, which is its evaluation without allocations.
func newLaunchDarkly(tb testing.TB) *ldclient.LDClient {
	tb.Helper()
	data := ldtestdata.DataSource()
	for _, f := range unlocked {
		data.Update(data.Flag(f).BooleanFlag().VariationForAll(true))
	}
	client, err := ldclient.MakeCustomClient("sdk-key", ldclient.Config{
		DataSource: data, Events: ldcomponents.NoEvents(), Logging: ldcomponents.NoLogging(), DiagnosticOptOut: true,
	}, 10*time.Second)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = client.Close() })
	return client
}

func newLRU(tb testing.TB) *lru.Cache[string, *bare] {
	tb.Helper()
	cache, err := lru.New[string, *bare](1000)
	if err != nil {
		tb.Fatal(err)
	}
	cache.Add("usr_1337", newBare())
	return cache
}

// BenchmarkFeature asks whether this installation may use a feature.
func BenchmarkFeature(b *testing.B) {
	run := func(name string, has func() bool) {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if !has() {
					b.Fatal("locked")
				}
			}
		})
	}
	var pointer atomic.Pointer[bare]
	pointer.Store(newBare())
	run("bare pointer and map", func() bool { _, ok := pointer.Load().features["export"]; return ok })
	gate := newGate(b, unlocked...)
	run("polargate", func() bool { return gate.Has("export") })
	timed := cache.New(time.Hour, 0)
	timed.Set("export", true, cache.DefaultExpiration)
	run("go-cache", func() bool { v, ok := timed.Get("export"); return ok && v.(bool) })
	recent := newLRU(b)
	run("golang-lru", func() bool {
		have, ok := recent.Get("usr_1337")
		if !ok {
			return false
		}
		_, ok = have.features["export"]
		return ok
	})
	// A program keeps what is about the installation, and gives it to every question.
	ctx := context.Background()
	flags := newOpenFeature(b)
	nobody := openfeature.NewTargetlessEvaluationContext(nil)
	run("OpenFeature in memory", func() bool { return flags.Boolean(ctx, "export", false, nobody) })
	dark := newLaunchDarkly(b)
	user := ldcontext.New("usr_1337")
	run("LaunchDarkly test data", func() bool { ok, err := dark.BoolVariation("export", user, false); return ok && err == nil })
}

type contextKey struct{}

// guard is what all middlewares here have in common: who it is, and what is told to
// the handler behind.
func guard(has func(user string) (any, bool), next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		have, ok := has(r.Header.Get("X-User"))
		if !ok {
			w.WriteHeader(http.StatusPaymentRequired)
			return
		}
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), contextKey{}, have)))
	})
}

// BenchmarkMiddleware is a request of a customer who is in the cache.
func BenchmarkMiddleware(b *testing.B) {
	next := http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})
	run := func(name string, handler http.Handler) {
		b.Run(name, func(b *testing.B) {
			r := httptest.NewRequest(http.MethodGet, "/export", nil)
			r.Header.Set("X-User", "usr_1337")
			w := httptest.NewRecorder()
			b.ReportAllocs()
			for b.Loop() {
				handler.ServeHTTP(w, r)
			}
			if w.Code != http.StatusOK {
				b.Fatalf("status %d", w.Code)
			}
		})
	}
	byHand := map[string]*bare{"usr_1337": newBare()}
	run("map by hand", guard(func(user string) (any, bool) {
		have, ok := byHand[user]
		if !ok {
			return nil, false
		}
		_, ok = have.features["export"]
		return have, ok
	}, next))
	run("polargate", newCustomers(b).Middleware(byHeader, polargate.Feature("export"))(next))
	timed := cache.New(time.Hour, 0)
	timed.Set("usr_1337", newBare(), cache.DefaultExpiration)
	run("go-cache by hand", guard(func(user string) (any, bool) {
		v, ok := timed.Get(user)
		if !ok {
			return nil, false
		}
		have := v.(*bare)
		_, ok = have.features["export"]
		return have, ok
	}, next))
	recent := newLRU(b)
	run("golang-lru by hand", guard(func(user string) (any, bool) {
		have, ok := recent.Get(user)
		if !ok {
			return nil, false
		}
		_, ok = have.features["export"]
		return have, ok
	}, next))
	// Who asks is part of each question here.
	flags := newOpenFeature(b)
	run("OpenFeature in memory", guard(func(user string) (any, bool) {
		who := openfeature.NewEvaluationContext(user, nil)
		return user, flags.Boolean(context.Background(), "export", false, who)
	}, next))
	dark := newLaunchDarkly(b)
	run("LaunchDarkly test data", guard(func(user string) (any, bool) {
		ok, err := dark.BoolVariation("export", ldcontext.New(user), false)
		return user, ok && err == nil
	}, next))
}

func byHeader(r *http.Request) polargate.CustomerRef {
	return polargate.ExternalID(r.Header.Get("X-User"))
}

// newCustomers knows one customer, who has what is unlocked.
func newCustomers(tb testing.TB) *polargate.Customers {
	tb.Helper()
	polar := polartest.New(polartest.Config{})
	benefit := polar.AddCustomer(polartest.Customer{ExternalID: "usr_1337", Benefits: []polartest.Benefit{{}}}).Benefits[0].BenefitID
	customers, err := polargate.NewCustomers(polargate.CustomersConfig{
		AccessToken: polar.AddToken(polartest.Token{}), BaseURL: polar.URL(), HTTPClient: polar.Client(),
		Features: map[string][]string{benefit: unlocked}, FreshFor: 24 * time.Hour,
	})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = customers.Close() })
	if _, err := customers.Entitlements(context.Background(), polargate.ExternalID("usr_1337")); err != nil {
		tb.Fatal(err)
	}
	return customers
}
