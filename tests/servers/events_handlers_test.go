package servers

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
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

var handlerSecret = polartest.Secret{Text: "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"}

// subscribed is a shop whose paying customer has a subscription, with an endpoint for events
// of these types that leads to customers.
func subscribed(t *testing.T, customers *polargate.Customers, s *kit.Shop, types ...string) (endpoint polartest.Endpoint, subscriptionID string) {
	t.Helper()
	product := s.Polar.AddProduct(polartest.Product{Name: "Pro"})
	subscriptionID = s.Polar.Subscribe(kit.Paying, polartest.Subscription{ProductID: product.ID}).ID
	return s.Polar.AddEndpoint(polartest.Endpoint{Handler: customers.WebhookHandler(handlerSecret.Text), Secrets: []polartest.Secret{handlerSecret}, Events: types}), subscriptionID
}

func TestAnEventReachesTheFunctionsOfItsTypeOnce(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := kit.NewShop(t)
		customers := s.Open()
		var came []string
		note := func(who string) func(context.Context, polargate.Event) error {
			return func(ctx context.Context, e polargate.Event) error {
				_, ends := ctx.Deadline()
				assert.True(t, ends)
				came = append(came, who+" "+e.Type)
				return nil
			}
		}
		customers.On("subscription.past_due", note("billing"))
		customers.On("subscription.past_due", note("mail"))
		customers.On("*", note("log"))
		endpoint, subscription := subscribed(t, customers, s, "subscription.past_due", "order.refunded")
		s.Polar.Emit(polartest.Event{Type: "subscription.past_due", Subject: subscription, ID: "msg_1"})
		require.NoError(t, s.Polar.WaitForDeliveries(t.Context()))
		s.Polar.Emit(polartest.Event{Type: "order.refunded", Data: []byte(`{"id":"x","customer":{"organization_id":"` + s.Polar.OrganizationID() + `"}}`)})
		require.NoError(t, s.Polar.WaitForDeliveries(t.Context()))
		assert.Equal(t, []string{"billing subscription.past_due", "mail subscription.past_due", "log subscription.past_due", "log order.refunded"}, came)

		first := s.Polar.Deliveries()[0]
		status, err := s.Polar.Send(endpoint.ID, polartest.Message{ID: first.ID, Body: first.Body})
		require.NoError(t, err)
		assert.Equal(t, http.StatusNoContent, status)
		assert.Len(t, came, 4, "the same delivery again")
		assert.EqualValues(t, 1, customers.Stats().Repeated)
	})
}

func TestAFunctionThatFailsIsCalledAgainUntilItSucceeds(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := kit.NewShop(t)
		customers := s.Open()
		calls := 0
		customers.On("subscription.past_due", func(context.Context, polargate.Event) error {
			switch calls++; calls {
			case 1:
				return errors.New("the database is away")
			case 2:
				panic("a fault")
			}
			return nil
		})
		_, subscription := subscribed(t, customers, s, "subscription.past_due")
		s.Polar.Emit(polartest.Event{Type: "subscription.past_due", Subject: subscription})
		require.NoError(t, s.Polar.WaitForDeliveries(t.Context()))
		assert.Equal(t, 3, calls)
		delivery := s.Polar.Deliveries()[0]
		var statuses []int
		for _, a := range delivery.Attempts {
			statuses = append(statuses, a.Status)
		}
		assert.Equal(t, []int{500, 500, 204}, statuses)
		assert.EqualValues(t, 2, customers.Stats().Failed)
		assert.Contains(t, s.Log.String(), "the database is away")
		assert.Contains(t, s.Log.String(), "panicked")
	})
}

func TestTheCacheKnowsOfAnEventBeforeItsFunctionsAreCalled(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := kit.NewShop(t)
		customers := s.Warmed()
		said := 0
		customers.On("customer.state_changed", func(ctx context.Context, e polargate.Event) error {
			said++
			have, err := customers.Entitlements(ctx, e.Customer)
			require.NoError(t, err)
			assert.False(t, have.Has("pro"))
			state, ok := e.Entitlements()
			require.True(t, ok)
			assert.False(t, state.Has("pro"))
			assert.Equal(t, kit.Paying, state.ExternalID())
			_, ok = e.Seat()
			assert.False(t, ok)
			return nil
		})
		received(t, s, customers)
		s.Polar.RevokeBenefit(kit.Paying, kit.ProBenefit)
		require.NoError(t, s.Polar.WaitForDeliveries(t.Context()))
		assert.Equal(t, 1, said)
	})
}

func TestADeliveryThatIsUnderWayIsNotHandledTwiceAndNotLostIfItFails(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := kit.NewShop(t)
		customers := s.Open()
		var calls atomic.Int32
		customers.On("subscription.past_due", func(context.Context, polargate.Event) error {
			time.Sleep(5 * time.Second)
			if calls.Add(1) == 1 {
				return errors.New("in vain")
			}
			return nil
		})
		endpoint, subscription := subscribed(t, customers, s, "subscription.past_due")
		s.Polar.HoldDeliveries()
		s.Polar.Emit(polartest.Event{Type: "subscription.past_due", Subject: subscription})
		m := polartest.Message{ID: s.Polar.Deliveries()[0].ID, Body: s.Polar.Deliveries()[0].Body}
		var statuses [3]int
		var group sync.WaitGroup
		for i := range statuses {
			group.Go(func() {
				time.Sleep(time.Duration(i) * 3 * time.Second)
				statuses[i], _ = s.Polar.Send(endpoint.ID, m)
			})
		}
		group.Wait()
		assert.Equal(t, [3]int{500, 503, 204}, statuses)
		assert.EqualValues(t, 2, calls.Load())
	})
}

func TestReplicasHandleADeliveryOnce(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := kit.NewShop(t)
		s.Config.Shared = polargate.SharedInMemory()
		var calls atomic.Int32
		fails := true
		open := func() *polargate.Customers {
			customers := s.Open()
			customers.On("subscription.past_due", func(context.Context, polargate.Event) error {
				calls.Add(1)
				time.Sleep(5 * time.Second)
				if fails {
					return errors.New("in vain")
				}
				return nil
			})
			return customers
		}
		one, other := open(), open()
		first, subscription := subscribed(t, one, s, "subscription.past_due")
		second := s.Polar.AddEndpoint(polartest.Endpoint{Handler: other.WebhookHandler(handlerSecret.Text), Secrets: []polartest.Secret{handlerSecret}, Events: []string{"none"}})
		s.Polar.HoldDeliveries()
		s.Polar.Emit(polartest.Event{Type: "subscription.past_due", Subject: subscription})
		m := polartest.Message{ID: s.Polar.Deliveries()[0].ID, Body: s.Polar.Deliveries()[0].Body}
		both := func() (a, b int) {
			var group sync.WaitGroup
			group.Go(func() { a, _ = s.Polar.Send(first.ID, m) })
			time.Sleep(time.Second)
			b, _ = s.Polar.Send(second.ID, m)
			group.Wait()
			return a, b
		}
		a, b := both()
		assert.Equal(t, []int{500, 503}, []int{a, b}, "the other replica is at it")
		fails = false
		a, b = both()
		assert.Equal(t, []int{204, 503}, []int{a, b})
		a, b = both()
		assert.Equal(t, []int{204, 204}, []int{a, b}, "it is done")
		assert.EqualValues(t, 2, calls.Load())
		synctest.Wait()
	})
}

func TestEventsOfAnotherOrganizationReachNoFunction(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := kit.NewShop(t)
		customers := s.Open()
		customers.On("*", func(_ context.Context, e polargate.Event) error {
			t.Errorf("%v came", e)
			return nil
		})
		endpoint := s.Polar.AddEndpoint(polartest.Endpoint{Handler: customers.WebhookHandler(handlerSecret.Text), Secrets: []polartest.Secret{handlerSecret}})
		for _, where := range []string{`"organization_id":%q`, `"customer":{"organization_id":%q}`, `"product":{"organization_id":%q}`} {
			body := `{"type":"order.refunded","timestamp":"2026-11-28T16:00:00Z","data":{` + fmt.Sprintf(where, kit.TeaBenefit) + `}}`
			status, err := s.Polar.Send(endpoint.ID, polartest.Message{Body: []byte(body)})
			require.NoError(t, err)
			assert.Equal(t, http.StatusNoContent, status)
		}
	})
}

func TestUntilTheOrganizationIsKnownEventsWait(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := kit.NewShop(t)
		customers := s.Open(func(c *polargate.CustomersConfig) { c.OrganizationID = "" })
		calls := 0
		customers.On("subscription.past_due", func(context.Context, polargate.Event) error { calls++; return nil })
		endpoint, subscription := subscribed(t, customers, s, "subscription.past_due")
		s.Polar.HoldDeliveries()
		s.Polar.Emit(polartest.Event{Type: "subscription.past_due", Subject: subscription})
		m := polartest.Message{ID: s.Polar.Deliveries()[0].ID, Body: s.Polar.Deliveries()[0].Body}
		s.Polar.Inject(polartest.Fault{Effect: polartest.ServerError(500)})
		status, err := s.Polar.Send(endpoint.ID, m)
		require.NoError(t, err)
		assert.Equal(t, http.StatusServiceUnavailable, status)
		s.Polar.ClearFaults()
		time.Sleep(time.Minute)
		status, err = s.Polar.Send(endpoint.ID, m)
		require.NoError(t, err)
		assert.Equal(t, http.StatusNoContent, status)
		assert.Equal(t, 1, calls)
	})
}

func TestApplyReturnsWhatAFunctionReturns(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := kit.NewShop(t)
		customers := s.Open(func(c *polargate.CustomersConfig) { c.WebhookSecrets = []string{handlerSecret.Text} })
		away := errors.New("the database is away")
		var err error = away
		customers.On("subscription.past_due", func(context.Context, polargate.Event) error { return err })
		came := make(chan *http.Request, 1)
		_, subscription := subscribed(t, customers, s, "none")
		s.Polar.AddEndpoint(polartest.Endpoint{Secrets: []polartest.Secret{handlerSecret}, Events: []string{"subscription.past_due"},
			Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				came <- r
			})})
		s.Polar.Emit(polartest.Event{Type: "subscription.past_due", Subject: subscription})
		r := <-came
		header, body := r.Header, s.Polar.Deliveries()[0].Body
		require.ErrorIs(t, customers.Apply(t.Context(), body, header), away)
		err = nil
		require.NoError(t, customers.Apply(t.Context(), body, header))
		err = away
		require.NoError(t, customers.Apply(t.Context(), body, header), "it was done before")
	})
}

func TestRecordedEventsAreReadAsTheyAre(t *testing.T) {
	t.Parallel()
	paths, err := filepath.Glob(filepath.Join("..", "..", "polartest", "testdata", "*", "webhook_deliveries", "*.json"))
	require.NoError(t, err)
	read := map[string]int{}
	for _, path := range paths {
		data, err := os.ReadFile(path)
		require.NoError(t, err)
		var recorded struct {
			Secret   string
			Delivery struct {
				RawBody string `json:"raw_body"`
			}
		}
		require.NoError(t, json.Unmarshal(data, &recorded))
		if recorded.Delivery.RawBody == "" {
			continue
		}
		s := kit.NewShop(t)
		var body struct {
			Data struct {
				Organization string `json:"organization_id"`
				Customer     struct {
					Organization string `json:"organization_id"`
				}
			}
		}
		require.NoError(t, json.Unmarshal([]byte(recorded.Delivery.RawBody), &body))
		customers := s.Open(func(c *polargate.CustomersConfig) {
			for _, organization := range []string{body.Data.Organization, body.Data.Customer.Organization} {
				if organization != "" {
					c.OrganizationID = organization
				}
			}
		})
		came := false
		customers.On("*", func(_ context.Context, e polargate.Event) error {
			came = true
			assert.False(t, e.Customer.IsZero(), path)
			assert.False(t, e.At.IsZero(), path)
			assert.NotContains(t, fmt.Sprintf("%v %+v", e, e), "@")
			assert.True(t, json.Valid(e.Data()))
			if sub, ok := e.Subscription(); ok {
				read["subscription"]++
				assert.NotEmpty(t, sub.ProductID)
				assert.NotEmpty(t, sub.Status)
				assert.False(t, sub.CurrentPeriodEnd.IsZero())
				if e.Type == "subscription.canceled" {
					assert.False(t, sub.EndsAt.IsZero() && sub.EndedAt.IsZero(), path)
				}
			}
			if g, ok := e.Grant(); ok {
				read["grant"]++
				assert.NotEmpty(t, g.Benefit.ID())
				assert.Equal(t, e.Type != "benefit_grant.revoked", g.Granted, path)
			}
			if seat, ok := e.Seat(); ok {
				read["seat"]++
				assert.NotEmpty(t, seat.SubscriptionID)
			}
			if _, ok := e.Entitlements(); ok {
				read["state"]++
			}
			return nil
		})
		endpoint := s.Polar.AddEndpoint(polartest.Endpoint{Handler: customers.WebhookHandler(handlerSecret.Text), Secrets: []polartest.Secret{handlerSecret}})
		status, err := s.Polar.Send(endpoint.ID, polartest.Message{Body: []byte(recorded.Delivery.RawBody)})
		require.NoError(t, err)
		assert.Equal(t, http.StatusNoContent, status, path)
		assert.True(t, came, path)
	}
	for _, kind := range []string{"subscription", "grant", "seat", "state"} {
		assert.NotZero(t, read[kind], kind)
	}
}

func TestOnWithoutATypeOrAFunctionIsAFaultOfTheProgram(t *testing.T) {
	t.Parallel()
	customers := kit.NewShop(t).Open()
	assert.Panics(t, func() { customers.On("", func(context.Context, polargate.Event) error { return nil }) })
	assert.Panics(t, func() { customers.On("*", nil) })
}
