package servers

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
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

func TestOneReplicaAsksAboutAColdCustomerAndAllAreTold(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := kit.NewShop(t)
		s.Polar.Inject(polartest.Fault{Effect: polartest.Delay(time.Second)})
		all := kit.Fleet(s, 20, polargate.SharedInMemory())
		var group sync.WaitGroup
		for _, customers := range all {
			for range 20 {
				group.Go(func() { s.Has(customers, kit.Paying, true) })
			}
		}
		group.Wait()
		assert.Equal(t, 1, s.Asked())
		for _, customers := range all {
			s.Has(customers, kit.Paying, true)
		}
		assert.Equal(t, 1, s.Asked())
	})
}

func TestAReplicaThatDiesWhileItAsksKeepsTheOthersWaitingForABoundedTime(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := kit.NewShop(t)
		all := kit.Fleet(s, 2, polargate.SharedInMemory())
		s.Polar.Inject(polartest.Fault{Effect: polartest.Hang(), Times: 1})
		go func() { _, _ = all[0].Entitlements(t.Context(), polargate.ExternalID(kit.Paying)) }()
		time.Sleep(time.Millisecond)
		at := time.Now()
		_, err := all[1].Entitlements(t.Context(), polargate.ExternalID(kit.Paying))
		if err != nil {
			time.Sleep(time.Second)
			s.Has(all[1], kit.Paying, true)
		}
		assert.LessOrEqual(t, time.Since(at), 12*time.Second)
	})
}

func TestAWebhookToOneReplicaIsKnownToAll(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := kit.NewShop(t)
		all := kit.Fleet(s, 3, polargate.SharedInMemory())
		kit.Receiving(s, all[0])
		for _, customers := range all {
			s.Has(customers, kit.Paying, true)
		}
		asked := s.Asked()
		s.Polar.RevokeBenefit(kit.Paying, kit.ProBenefit)
		kit.Settled(s)
		for _, customers := range all {
			s.Has(customers, kit.Paying, false)
		}
		s.Polar.GrantBenefit(kit.Paying, polartest.Benefit{BenefitID: kit.ProBenefit})
		kit.Settled(s)
		for _, customers := range all {
			s.Has(customers, kit.Paying, true)
		}
		assert.Equal(t, asked, s.Asked(), "and Polar is not asked for it")
	})
}

func TestAPurchaseThatOneReplicaHearsOfEndsTheWaitOnAnother(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := kit.NewShop(t)
		all := kit.Fleet(s, 2, polargate.SharedInMemory())
		kit.Receiving(s, all[0])
		s.Polar.RevokeBenefit(kit.Paying, kit.ProBenefit)
		kit.Settled(s)
		done := make(chan time.Duration)
		go func() {
			at := time.Now()
			_, err := all[1].Await(t.Context(), polargate.ExternalID(kit.Paying), polargate.Feature("pro"))
			assert.NoError(t, err)
			done <- time.Since(at)
		}()
		time.Sleep(4500 * time.Millisecond)
		s.Polar.GrantBenefit(kit.Paying, polartest.Benefit{BenefitID: kit.ProBenefit})
		assert.Less(t, <-done, 4800*time.Millisecond)
	})
}

func TestAfterARestartWithoutPolarWhoWasKnownIsServedForTheRestOfGrace(t *testing.T) {
	t.Parallel()
	for name, open := range map[string]func(t *testing.T) func() polargate.Shared{
		"in memory": func(*testing.T) func() polargate.Shared {
			shared := polargate.SharedInMemory()
			return func() polargate.Shared { return shared }
		},
		"in a file": func(t *testing.T) func() polargate.Shared {
			t.Helper()
			path := filepath.Join(t.TempDir(), "customers.state")
			return func() polargate.Shared { return polargate.SharedFile(path) }
		},
	} {
		t.Run(name, func(t *testing.T) {
			shared := open(t)
			kit.Bubbled(t, func(t *testing.T) {
				s := kit.NewShop(t)
				many := 50
				for i := range many {
					s.Add(fmt.Sprintf("usr_%d", i))
				}
				before := kit.Fleet(s, 1, shared(), func(c *polargate.CustomersConfig) { c.RequestsPerMinute = 10_000 })[0]
				for i := range many {
					s.Has(before, fmt.Sprintf("usr_%d", i), true)
				}
				customer, _ := s.Polar.Customer("usr_0")
				require.NoError(t, before.Close())
				s.Polar.SetOffline(true)
				for _, age := range []time.Duration{0, 30 * time.Minute, 24 * time.Hour, 47 * time.Hour} {
					time.Sleep(age)
					after := kit.Fleet(s, 1, shared())[0]
					for i := range many {
						s.Has(after, fmt.Sprintf("usr_%d", i), true)
					}
					e, err := after.Entitlements(t.Context(), polargate.CustomerID(customer.ID))
					require.NoError(t, err)
					assert.True(t, e.Has("pro"))
					_, err = after.Entitlements(t.Context(), polargate.ExternalID("usr_new"))
					require.ErrorIs(t, err, polargate.ErrUnreachable)
					require.NoError(t, after.Close())
				}
				time.Sleep(2 * time.Hour)
				_, err := kit.Fleet(s, 1, shared())[0].Entitlements(t.Context(), polargate.ExternalID("usr_0"))
				require.ErrorIs(t, err, polargate.ErrUnreachable, "three days after Polar said so")
			})
		})
	}
}

// delivery is a webhook as a queue would hold it.
func delivery(t *testing.T, s *kit.Shop) (body []byte, header http.Header) {
	t.Helper()
	caught := make(chan struct{}, 1)
	s.Polar.AddEndpoint(polartest.Endpoint{Secrets: []polartest.Secret{{Text: kit.HookSecret}}, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if body == nil {
			body = make([]byte, r.ContentLength)
			_, _ = r.Body.Read(body)
			header = r.Header.Clone()
			caught <- struct{}{}
		}
		w.WriteHeader(http.StatusNoContent)
	})})
	s.Polar.RevokeBenefit(kit.Paying, kit.ProBenefit)
	<-caught
	require.NoError(t, s.Polar.WaitForDeliveries(t.Context()))
	return body, header
}

func TestADeliveryOutOfAQueueIsAppliedOnceByWhicheverReplica(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := kit.NewShop(t)
		all := kit.Fleet(s, 2, polargate.SharedInMemory())
		for _, customers := range all {
			s.Has(customers, kit.Paying, true)
		}
		body, header := delivery(t, s)
		time.Sleep(time.Second)
		for _, customers := range all {
			require.NoError(t, customers.Apply(t.Context(), body, header))
			synctest.Wait()
		}
		assert.EqualValues(t, 1, all[0].Stats().Events+all[1].Stats().Events+all[0].Stats().Ignored+all[1].Stats().Ignored)
		assert.EqualValues(t, 1, all[1].Stats().Repeated)
	})
}

// A replica that is being stopped may still be given webhooks. It can tell the others nothing.
func TestADeliveryToAClosedReplicaComesAgain(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := kit.NewShop(t)
		all := kit.Fleet(s, 2, polargate.SharedInMemory())
		for _, customers := range all {
			s.Has(customers, kit.Paying, true)
		}
		body, header := delivery(t, s)
		require.NoError(t, all[0].Close())
		require.ErrorIs(t, all[0].Apply(t.Context(), body, header), polargate.ErrClosed)
		w := httptest.NewRecorder()
		r := httptest.NewRequest(http.MethodPost, "/", bytes.NewReader(body))
		r.Header = header.Clone()
		all[0].WebhookHandler().ServeHTTP(w, r)
		assert.Equal(t, http.StatusServiceUnavailable, w.Code, "so that Polar sends it again")
		require.NoError(t, all[1].Apply(t.Context(), body, header))
		assert.EqualValues(t, 1, all[1].Stats().Events+all[1].Stats().Ignored)
		assert.Zero(t, all[1].Stats().Repeated)
	})
}

func TestAQueueMayWriteTheNamesOfHeadersInSmallLetters(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := kit.NewShop(t)
		customers := s.Warmed(func(c *polargate.CustomersConfig) { c.WebhookSecrets = []string{kit.HookSecret} })
		body, header := delivery(t, s)
		small := http.Header{}
		for name, values := range header {
			small[strings.ToLower(name)] = values
		}
		require.NoError(t, customers.Apply(t.Context(), body, small))
		delete(small, "webhook-signature")
		var input *polargate.InputError
		require.ErrorAs(t, customers.Apply(t.Context(), body, small), &input)
	})
}

func TestADeliveryThatIsNotPolarsIsRefused(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := kit.NewShop(t)
		customers := s.Warmed(func(c *polargate.CustomersConfig) { c.WebhookSecrets = []string{kit.HookSecret} })
		body, header := delivery(t, s)
		unsigned := header.Clone()
		unsigned.Del("Webhook-Signature")
		for name, apply := range map[string]func() error{
			"not signed":      func() error { return customers.Apply(t.Context(), body, unsigned) },
			"changed":         func() error { return customers.Apply(t.Context(), append([]byte(" "), body...), header) },
			"without secrets": func() error { return s.Open().Apply(t.Context(), body, header) },
		} {
			var input *polargate.InputError
			require.ErrorAs(t, apply(), &input, name)
		}
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		require.ErrorIs(t, customers.Apply(ended, body, header), context.Canceled)
		time.Sleep(time.Hour) // in the queue
		require.NoError(t, customers.Apply(t.Context(), body, header))
		time.Sleep(4 * 24 * time.Hour)
		var input *polargate.InputError
		require.ErrorAs(t, customers.Apply(t.Context(), body, header), &input, "it is older than GracePeriod")
	})
}

func TestAWebhookTakesEffectOnAReplicaThatHasNeverAskedPolar(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := kit.NewShop(t)
		s.Config.OrganizationID = "" // is learned from what other replicas know
		all := kit.Fleet(s, 2, polargate.SharedInMemory())
		s.Has(all[0], kit.Paying, true)
		s.Has(all[1], kit.Paying, true)
		require.Equal(t, 1, s.Asked())
		kit.Receiving(s, all[1])
		s.Polar.RevokeBenefit(kit.Paying, kit.ProBenefit)
		kit.Settled(s)
		for _, customers := range all {
			s.Has(customers, kit.Paying, false)
			assert.Zero(t, customers.Stats().Held)
		}
		assert.Equal(t, 1, s.Asked())
	})
}

func TestARefusalIsNotBelievedForLongerOnAnotherReplica(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := kit.NewShop(t)
		s.Polar.AddCustomer(polartest.Customer{ExternalID: "usr_without"})
		all := kit.Fleet(s, 2, polargate.SharedInMemory())
		for _, who := range []string{"usr_new", "usr_without"} {
			s.Has(all[0], who, false)
		}
		time.Sleep(20 * time.Second)
		s.Add("usr_new")
		s.Polar.GrantBenefit("usr_without", polartest.Benefit{BenefitID: kit.ProBenefit})
		for _, who := range []string{"usr_new", "usr_without"} {
			_, refusal := all[1].Decide(t.Context(), polargate.ExternalID(who), polargate.Feature("pro"))
			assert.Nil(t, refusal, who)
		}
	})
}

func TestAnAnswerIsAsOldAsPolarsClockSaysAndNotTheReplicas(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := kit.NewShop(t)
		s.Polar.Advance(10 * time.Minute) // the replicas' clocks are behind
		shared := polargate.SharedInMemory()
		s.Has(kit.Fleet(s, 1, shared)[0], kit.Paying, true)
		time.Sleep(4 * time.Minute)
		late := kit.Fleet(s, 1, shared, func(c *polargate.CustomersConfig) { c.StaleFor = -1 })[0]
		s.Has(late, kit.Paying, true)
		require.Equal(t, 1, s.Asked())
		s.Polar.RevokeBenefit(kit.Paying, kit.ProBenefit)
		time.Sleep(11 * time.Minute)
		s.Has(late, kit.Paying, false)
	})
}

var opened atomic.Int64 // so that each has a token of its own
