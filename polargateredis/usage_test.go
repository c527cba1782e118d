package polargateredis

import (
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/polargate/polargate"
	"github.com/polargate/polargate/polartest"
	"github.com/redis/rueidis"
)

const callsMeter = "aaf2bfea-ac4f-40eb-99ad-de858ccdfd97"

func TestReplicasOnRedisServeExactlyWhatThereIs(t *testing.T) {
	t.Parallel()
	server := start(t, "redis-server")
	polar := polartest.New(polartest.Config{Unlimited: true})
	polar.AddCustomer(polartest.Customer{ExternalID: "usr_1337", Meters: []polartest.Meter{{MeterID: callsMeter, CreditedUnits: 100}}})
	customer, at := polargate.ExternalID("usr_1337"), prefix()
	var served, undecided atomic.Int64
	var ready, group sync.WaitGroup
	began := make(chan struct{})
	ready.Add(3)
	for range 3 {
		customers, err := polargate.NewCustomers(polargate.CustomersConfig{
			AccessToken: polar.AddToken(polartest.Token{}), OrganizationID: polar.OrganizationID(), BaseURL: polar.URL(), HTTPClient: polar.Client(),
			Shared: store(t, dial(t, rueidis.ClientOption{InitAddress: []string{server.addr}}), at),
		})
		noError(t, err)
		t.Cleanup(func() { noError(t, customers.Close()) })
		_, err = customers.Entitlements(t.Context(), customer)
		noError(t, err)
		go func() { _ = customers.RunUsage(t.Context()) }()
		ready.Done()
		for range 200 {
			group.Go(func() {
				<-began
				for {
					r, refusal := customers.Reserve(t.Context(), customer, callsMeter, 1)
					switch {
					case refusal == nil:
						served.Add(1)
						if err := r.Commit(t.Context(), 1, polargate.Usage{Name: "call"}); err != nil {
							t.Error(err)
						}
						return
					case refusal.Status == 402:
						return
					}
					undecided.Add(1) // a busy machine
					time.Sleep(50 * time.Millisecond)
				}
			})
		}
	}
	ready.Wait()
	close(began)
	group.Wait()
	if served.Load() != 100 {
		t.Errorf("%d of 100 units were served", served.Load())
	}
	eventually(t, "Polar knows of all", func() bool { return len(polar.Events()) == 100 })
	t.Log(undecided.Load(), "could not be decided at once")
}
