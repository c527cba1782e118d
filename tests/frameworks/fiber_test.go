package frameworks

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"testing"

	"github.com/gofiber/fiber/v3"
	"github.com/gofiber/fiber/v3/middleware/adaptor"
	"github.com/polargate/polargate"
	"github.com/polargate/polargate/polartest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const benefit = "850cc3a4-3ed7-4be6-b198-127ec8d33bb9"

// someone is the external id of a customer; those with an even number pay.
func someone(i int) string { return fmt.Sprintf("usr_%03d", i) }

// native gates a route in a handler of Fiber's own. The header that c.Get returns is
// in memory that the next request is read into.
func native(customers *polargate.Customers) fiber.Handler {
	return func(c fiber.Ctx) error {
		have, refusal := customers.Decide(c, polargate.ExternalID(c.Get("X-User")), polargate.Feature("pro"))
		if refusal != nil {
			return c.SendStatus(refusal.Status)
		}
		return c.SendString(have.ExternalID())
	}
}

// adapted gates it with the middleware for net/http.
func adapted(customers *polargate.Customers) fiber.Handler {
	signedIn := func(r *http.Request) polargate.CustomerRef { return polargate.ExternalID(r.Header.Get("X-User")) }
	pro := customers.Middleware(signedIn, polargate.Feature("pro"))
	return adaptor.HTTPHandler(pro(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		have, _ := polargate.FromContext(r.Context())
		_, _ = io.WriteString(w, have.ExternalID())
	})))
}

func TestEveryCustomerOfAFiberServerIsTakenForThemselves(t *testing.T) {
	t.Parallel()
	const people, requests, connections = 400, 2000, 4
	for name, handler := range map[string]func(*polargate.Customers) fiber.Handler{"a handler of Fiber's": native, "the net/http adaptor": adapted} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			polar := polartest.New(polartest.Config{Unlimited: true})
			for i := range people {
				c := polartest.Customer{ExternalID: someone(i), Benefits: []polartest.Benefit{{BenefitID: benefit}}}
				if i%2 != 0 {
					c.Benefits = nil
				}
				polar.AddCustomer(c)
			}
			customers, err := polargate.NewCustomers(polargate.CustomersConfig{
				AccessToken: polar.AddToken(polartest.Token{}), BaseURL: polar.URL(), HTTPClient: polar.Client(),
				Features: map[string][]string{benefit: {"pro"}}, RequestsPerMinute: 1_000_000,
			})
			require.NoError(t, err)
			t.Cleanup(func() { _ = customers.Close() })

			app := fiber.New()
			app.Get("/pro", handler(customers))
			listener, err := net.Listen("tcp", "127.0.0.1:0")
			require.NoError(t, err)
			served := make(chan error, 1)
			go func() { served <- app.Listener(listener, fiber.ListenConfig{DisableStartupMessage: true}) }()
			t.Cleanup(func() {
				assert.NoError(t, app.Shutdown())
				assert.NoError(t, <-served)
			})

			var group sync.WaitGroup
			for connection := range connections {
				transport := &http.Transport{MaxConnsPerHost: 1} // which is kept alive
				t.Cleanup(transport.CloseIdleConnections)
				group.Go(func() {
					for n := range requests / connections {
						who := (n*connections + connection) * 7 % people
						r, err := http.NewRequest(http.MethodGet, "http://"+listener.Addr().String()+"/pro", nil)
						if !assert.NoError(t, err) {
							return
						}
						r.Header.Set("X-User", someone(who))
						answer, err := transport.RoundTrip(r)
						if !assert.NoError(t, err) {
							return
						}
						body, err := io.ReadAll(answer.Body)
						assert.NoError(t, err)
						assert.NoError(t, answer.Body.Close())
						if who%2 == 0 {
							assert.Equal(t, "200 "+someone(who), fmt.Sprint(answer.StatusCode, " ", string(body)))
						} else {
							assert.Equal(t, 402, answer.StatusCode, "%s pays nothing", someone(who))
						}
					}
				})
			}
			group.Wait()
			assert.LessOrEqual(t, polar.Count(""), 3*people, "Polar is asked about a customer, and not about each request")
		})
	}
}
