package polartest_test

import (
	"encoding/json"
	"io"
	"net/http"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/polargate/polargate/polartest"
)

// The recorded webhooks were sent by Polar's own worker. Each is sent again from what its body tells
// of: headers, signature and body come back to the byte.

type recordedDelivery struct {
	Headers  map[string]string `json:"headers"`
	RawBody  string            `json:"raw_body"`
	Answered int               `json:"answered"`
}

type recordedDeliveries struct {
	Secret     string             `json:"secret"`
	Delivery   *recordedDelivery  `json:"delivery"`
	Deliveries []recordedDelivery `json:"deliveries"`
}

// subject is what an event tells of, as far as all of them do.
type subject struct {
	ID             string `json:"id"`
	OrganizationID string `json:"organization_id"`
	CustomerID     string `json:"customer_id"`
	SubscriptionID string `json:"subscription_id"`
	Customer       struct {
		OrganizationID string `json:"organization_id"`
	} `json:"customer"`
	Member struct {
		CustomerID string `json:"customer_id"`
	} `json:"member"`
}

func TestRecordedWebhooksAreSentAgainToTheByte(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/golden/webhook_deliveries/*.json")
	require.NoError(t, err)
	var passed, sequences atomic.Int64
	t.Run("replay", func(t *testing.T) {
		for _, file := range files {
			t.Run(strings.TrimSuffix(filepath.Base(file), ".json"), func(t *testing.T) {
				t.Parallel()
				var recorded recordedDeliveries
				readFile(t, file, &recorded)
				all := recorded.Deliveries
				if recorded.Delivery != nil {
					all = append(all, *recorded.Delivery)
				} else {
					sequences.Add(1)
				}
				sendAgain(t, recorded.Secret, all)
				if !t.Failed() {
					passed.Add(int64(len(all)))
				}
			})
		}
	})
	t.Logf("%d deliveries passed, %d sequences among them", passed.Load(), sequences.Load())
	assert.EqualValues(t, 40, passed.Load())
	assert.EqualValues(t, 2, sequences.Load())
}

// received is a webhook as it arrived.
type received struct {
	header http.Header
	body   string
}

func sendAgain(t *testing.T, secret string, all []recordedDelivery) {
	var clock, answer atomic.Int64
	arrived := make(chan received, 1)
	p := polartest.New(polartest.Config{Now: func() time.Time { return time.Unix(clock.Load(), 0) }})
	handler := func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		assert.NoError(t, err)
		r.Header.Set("Content-Length", strconv.FormatInt(r.ContentLength, 10))
		arrived <- received{r.Header, string(body)}
		w.WriteHeader(int(answer.Load()))
	}
	sent := map[string]bool{}
	holding := false
	for _, d := range all {
		at, err := strconv.ParseInt(d.Headers["webhook-timestamp"], 10, 64)
		require.NoError(t, err)
		clock.Store(at)
		answer.Store(int64(d.Answered))
		p.Advance(0) // what is to be repeated by then
		id := d.Headers["webhook-id"]
		if holding {
			require.NoError(t, p.WaitForDeliveries(t.Context()))
		}
		if !sent[id] {
			tell(t, p, d.RawBody, id, secret, handler)
			sent[id] = true
		}
		if holding {
			p.ReleaseDeliveries(id)
		}
		got := <-arrived
		assert.Equal(t, d.RawBody, got.body)
		for name, value := range d.Headers {
			assert.Equal(t, value, got.header.Get(name), name)
		}
		if d.Answered >= 300 { // the repeat is to come after what is sent meanwhile
			require.Eventually(t, func() bool {
				all := p.Deliveries()
				return len(all[len(all)-1].Attempts) == 1
			}, time.Minute, time.Millisecond)
			p.HoldDeliveries()
			holding = true
		}
	}
}

// tell lets a Polar know what the body of a webhook tells of, and send it.
func tell(t *testing.T, p *polartest.Polar, raw, id, secret string, handler http.HandlerFunc) {
	t.Helper()
	var event struct {
		Type      string          `json:"type"`
		Timestamp time.Time       `json:"timestamp"`
		Data      json.RawMessage `json:"data"`
	}
	decode(t, []byte(raw), &event)
	var about subject
	decode(t, event.Data, &about)
	organization := about.OrganizationID
	if organization == "" {
		organization = about.Customer.OrganizationID
	}
	if organization == "" { // of a member, or a seat: it tells only of IDs
		organization = p.OrganizationID()
		buyer := about.CustomerID
		if about.Member.CustomerID != "" {
			buyer = about.Member.CustomerID
		}
		p.AddCustomer(polartest.Customer{ID: buyer, Type: "team"})
		if about.SubscriptionID != "" {
			p.Subscribe(buyer, polartest.Subscription{ID: about.SubscriptionID, Seats: polartest.Limit(3)})
		}
	}
	require.NoError(t, p.Import(event.Data))
	if _, there := p.Endpoint("00000000-0000-4000-8000-000000000001"); !there {
		p.AddEndpoint(polartest.Endpoint{
			ID: "00000000-0000-4000-8000-000000000001", OrganizationID: organization,
			Events: []string{event.Type, "customer.deleted", "customer.state_changed"}, Handler: handler,
			Secrets: []polartest.Secret{{Text: secret, Raw: true}},
		})
	}
	require.Equal(t, []string{id}, p.Emit(polartest.Event{Type: event.Type, Subject: about.ID, ID: id, At: event.Timestamp}))
}
