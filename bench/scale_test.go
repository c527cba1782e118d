package bench

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/polargate/polargate"
	"github.com/polargate/polargate/polartest"
	webhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
)

const (
	organization = "34f57e13-8bcb-4481-85b2-a4b55c4ba0b9"
	benefit      = "850cc3a4-3ed7-4be6-b198-127ec8d33bb9"
)

// stateOf is a customer as Polar describes one who has bought.
func stateOf(external string) []byte {
	var n int
	_, _ = fmt.Sscanf(external, "usr_%d", &n)
	return fmt.Appendf(nil, `{"id":"8b4a91e8-8712-4bc8-9e43-%012d","external_id":%q,"organization_id":%q,"deleted_at":null,"active_subscriptions":[],"granted_benefits":[{"benefit_id":%q,"benefit_type":"custom","benefit_metadata":{}}],"active_meters":[]}`, n, external, organization, benefit)
}

// everybody is a Polar at which every customer has bought.
type everybody struct{}

func (everybody) RoundTrip(r *http.Request) (*http.Response, error) {
	external, err := url.PathUnescape(path.Base(strings.TrimSuffix(r.URL.EscapedPath(), "/state")))
	if err != nil {
		return nil, err
	}
	return &http.Response{
		StatusCode: http.StatusOK, ProtoMajor: 1, ProtoMinor: 1, Request: r,
		Header: http.Header{"Content-Type": {"application/json"}, "Date": {time.Now().UTC().Format(http.TimeFormat)}},
		Body:   io.NopCloser(bytes.NewReader(stateOf(external))),
	}, nil
}

func manyCustomers(tb testing.TB, change func(*polargate.CustomersConfig)) *polargate.Customers {
	tb.Helper()
	config := polargate.CustomersConfig{
		AccessToken: "polar_oat_bench", HTTPClient: &http.Client{Transport: everybody{}},
		Features: map[string][]string{benefit: unlocked}, RequestsPerMinute: 1e9,
	}
	change(&config)
	customers, err := polargate.NewCustomers(config)
	if err != nil {
		tb.Fatal(err)
	}
	return customers
}

// TestZipfTraffic sends the requests of many customers, few of whom come often,
// through a cache that holds a tenth of them or all, and counts what Polar is asked.
func TestZipfTraffic(t *testing.T) {
	customers, requests := 10_000, 50_000
	if *whole {
		customers, requests = 1_000_000, 1_000_000
	}
	const perSecond = 100
	day := 24 * time.Hour
	for _, x := range []struct {
		name        string
		cached      int // of the customers, one in so many
		fresh       time.Duration
		webhooks    bool
		perMinute   int
		atMostAsked float64 // of all requests
	}{
		{"5 minutes (the default), no webhooks", 10, 0, false, 1e9, 1},
		{"1 hour, no webhooks", 10, time.Hour, false, 1e9, 1},
		{"1 hour, webhooks", 10, time.Hour, true, 1e9, 1},
		{"24 hours, webhooks", 10, day, true, 1e9, 1},
		{"24 hours, webhooks, a cache for all", 1, day, true, 1e9, 1},
		{"24 hours, webhooks, within 300 a minute", 10, day, true, 300, .05},
	} {
		synctest.Test(t, func(t *testing.T) {
			c := manyCustomers(t, func(config *polargate.CustomersConfig) {
				config.CacheSize, config.FreshFor, config.RequestsPerMinute = customers/x.cached, x.fresh, x.perMinute
				config.StaleFor = max(day, 2*x.fresh)
			})
			defer func() { _ = c.Close() }()
			handler := c.WebhookHandler(hookSecret)
			seed := rand.New(rand.NewPCG(1, 2))
			who := rand.NewZipf(seed, 1.1, 1, uint64(customers-1))
			turnedAway, first := 0, c.Stats()
			for i := range 2 * requests {
				if i == requests { // by now the cache is warm
					turnedAway, first = 0, c.Stats()
				}
				if _, err := c.Entitlements(t.Context(), polargate.ExternalID(fmt.Sprintf("usr_%d", who.Uint64()))); err != nil {
					turnedAway++
				}
				time.Sleep(time.Second / perSecond)
				if x.webhooks && i%(10*perSecond) == 0 { // nine thousand changes a day
					notify(t, handler, i, fmt.Sprintf("usr_%d", seed.IntN(customers)))
				}
			}
			synctest.Wait()
			last := c.Stats()
			asked := float64(last.Requests-first.Requests) / float64(requests)
			if asked > x.atMostAsked {
				t.Errorf("%s: Polar was asked %.3f times a request", x.name, asked)
			}
			tell("zipf", x.name, fmt.Sprintf("%.0f", asked*1e6), fmt.Sprintf("%.0f", asked*perSecond*60),
				fmt.Sprintf("%.2f %%", 100*float64(turnedAway)/float64(requests)))
		})
	}
}

const hookSecret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"

func notify(t *testing.T, handler http.Handler, n int, external string) {
	t.Helper()
	deliver(t, handler, n, stateOf(external))
}

// deliver sends a webhook that a customer's state has changed.
func deliver(t *testing.T, handler http.Handler, n int, state []byte) {
	t.Helper()
	now := time.Now()
	body := fmt.Appendf(nil, `{"type":"customer.state_changed","timestamp":%q,"data":%s}`, now.UTC().Format(time.RFC3339Nano), state)
	signer, err := webhooks.NewWebhook(hookSecret)
	if err != nil {
		t.Fatal(err)
	}
	id := fmt.Sprintf("evt_%d", n)
	signature, err := signer.Sign(id, now, body)
	if err != nil {
		t.Fatal(err)
	}
	r := httptest.NewRequest(http.MethodPost, "/webhooks/polar", bytes.NewReader(body))
	r.Header.Set("Webhook-Id", id)
	r.Header.Set("Webhook-Timestamp", fmt.Sprint(now.Unix()))
	r.Header.Set("Webhook-Signature", signature)
	w := httptest.NewRecorder()
	handler.ServeHTTP(w, r)
	if w.Code/100 != 2 {
		t.Fatalf("the webhook was answered %d", w.Code)
	}
}

// TestGrowth measures how the pieces grow with what is in them. It measures time, and
// so expects nothing of it.
func TestGrowth(t *testing.T) {
	largest := 1000
	if *whole {
		largest = 1_000_000
	}
	for n := 1; n <= largest; n *= 10 {
		features := make([]string, n)
		for i := range features {
			features[i] = fmt.Sprintf("feature-%07d", i)
		}
		polar := polartest.New(polartest.Config{})
		key := polar.AddKey(polartest.LicenseKey{LimitActivations: polartest.Limit(1)})
		config := polargate.Config{
			OrganizationID: polar.OrganizationID(), BaseURL: polar.URL(), HTTPClient: polar.Client(),
			Store: &polargate.MemoryStore{}, Features: map[string][]string{key.BenefitID: features},
		}
		first := opened(t, config)
		if _, err := first.Activate(t.Context(), key.Key); err != nil {
			t.Fatal(err)
		}
		_ = first.Close()
		var gate *polargate.Gate
		open := once(func() {
			gate = opened(t, config)
			if _, err := gate.Check(t.Context()); err != nil {
				t.Fatal(err)
			}
		})
		i := 0
		has := often(func() {
			i++
			if !gate.Has(features[i*7919%n]) {
				t.Fatal("locked")
			}
		})
		_ = gate.Close()

		before := heap()
		customers := manyCustomers(t, func(c *polargate.CustomersConfig) {
			c.CacheSize, c.FreshFor = max(2*n, 4), 24*time.Hour
		})
		ids := make([]string, n)
		for i := range ids {
			ids[i] = fmt.Sprintf("usr_%d", i)
		}
		var filling sync.WaitGroup
		for part := range 4 {
			filling.Go(func() {
				for i := part; i < n; i += 4 {
					if _, err := customers.Entitlements(context.Background(), polargate.ExternalID(ids[i])); err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
		filling.Wait()
		each := float64(heap()-before) / float64(n)
		hit := often(func() {
			i++
			e, err := customers.Entitlements(context.Background(), polargate.ExternalID(ids[i*7919%n]))
			if err != nil || !e.Has("export") {
				t.Fatal("refused")
			}
		})
		_ = customers.Close()
		runtime.KeepAlive(ids)
		// Of 300 a minute a fifth is the burst. What is left is for customers who were
		// never seen, if nobody else needs it.
		meeting := time.Duration(float64(n) / 240 * float64(time.Minute)).Round(time.Second)
		tell("growth", fmt.Sprint(n), duration(open), fmt.Sprintf("%.0f ns", has), fmt.Sprintf("%.0f ns", hit), fmt.Sprintf("%.0f B", each), spoken(meeting))
	}
}

func opened(t *testing.T, config polargate.Config) *polargate.Gate {
	t.Helper()
	gate, err := polargate.Open(config)
	if err != nil {
		t.Fatal(err)
	}
	return gate
}

func heap() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

func once(f func()) time.Duration {
	began := time.Now()
	f()
	return time.Since(began)
}

// often is how many nanoseconds something takes that is done often.
func often(f func()) float64 {
	const times = 200_000
	return float64(once(func() {
		for range times {
			f()
		}
	}).Nanoseconds()) / times
}

func duration(d time.Duration) string {
	if d < 10*time.Millisecond {
		return fmt.Sprintf("%.2f ms", d.Seconds()*1000)
	}
	return fmt.Sprintf("%.0f ms", d.Seconds()*1000)
}
