package frameworks

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/gofiber/fiber/v3"
	"github.com/gofiber/fiber/v3/middleware/adaptor"
	"github.com/polargate/polargate"
	"github.com/polargate/polargate/polartest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Fiber's adaptor copies the values of the request's context by the form of the structs
// that context.WithValue makes.
func TestAFiberHandlerBehindTheAdaptedMiddlewareFindsTheEntitlements(t *testing.T) {
	t.Parallel()
	polar := polartest.New(polartest.Config{Unlimited: true})
	polar.AddCustomer(polartest.Customer{ExternalID: someone(0), Benefits: []polartest.Benefit{{BenefitID: benefit}}})
	customers, err := polargate.NewCustomers(polargate.CustomersConfig{
		AccessToken: polar.AddToken(polartest.Token{}), BaseURL: polar.URL(), HTTPClient: polar.Client(), Features: map[string][]string{benefit: {"pro"}},
	})
	require.NoError(t, err)
	t.Cleanup(func() { _ = customers.Close() })
	signedIn := func(r *http.Request) polargate.CustomerRef { return polargate.ExternalID(r.Header.Get("X-User")) }

	app := fiber.New()
	app.Use(adaptor.HTTPMiddleware(customers.Middleware(signedIn, polargate.Feature("pro"))))
	for path, contextOf := range map[string]func(fiber.Ctx) context.Context{
		"/ctx":     func(c fiber.Ctx) context.Context { return c },
		"/request": func(c fiber.Ctx) context.Context { return c.RequestCtx() },
	} {
		app.Get(path, func(c fiber.Ctx) error {
			have, ok := polargate.FromContext(contextOf(c))
			if !ok {
				return c.SendString("nobody")
			}
			return c.SendString(have.ExternalID())
		})
	}
	for _, path := range []string{"/ctx", "/request"} {
		for range 3 { // cold, then from memory
			r := httptest.NewRequest(http.MethodGet, path, nil)
			r.Header.Set("X-User", someone(0))
			response, err := app.Test(r)
			require.NoError(t, err)
			text, err := io.ReadAll(response.Body)
			require.NoError(t, err)
			_ = response.Body.Close()
			assert.Equal(t, someone(0), string(text))
		}
		response, err := app.Test(httptest.NewRequest(http.MethodGet, path, nil))
		require.NoError(t, err)
		_ = response.Body.Close()
		assert.Equal(t, http.StatusUnauthorized, response.StatusCode)
	}
}

// Behind the adapted middleware, Fiber's handler runs when the middleware has ended.
func TestAFiberHandlerGivesUnitsBackOrCommitsWhatWasUsed(t *testing.T) {
	t.Parallel()
	const meter = "aaf2bfea-ac4f-40eb-99ad-de858ccdfd97"
	polar := polartest.New(polartest.Config{Unlimited: true})
	polar.AddCustomer(polartest.Customer{ExternalID: someone(0), Meters: []polartest.Meter{{MeterID: meter, CreditedUnits: 100}}})
	customers, err := polargate.NewCustomers(polargate.CustomersConfig{AccessToken: polar.AddToken(polartest.Token{}), BaseURL: polar.URL(), HTTPClient: polar.Client()})
	require.NoError(t, err)
	t.Cleanup(func() { _ = customers.Close() })
	spending := customers.Route(polargate.Route{
		Customer: func(*http.Request) polargate.CustomerRef { return polargate.ExternalID(someone(0)) },
		Spend:    polargate.Cost{MeterID: meter, Units: 10},
	})

	app := fiber.New()
	app.Use(adaptor.HTTPMiddleware(spending))
	app.Get("/ok", func(fiber.Ctx) error { return nil })
	app.Get("/fails", func(c fiber.Ctx) error {
		reserved, ok := polargate.ReservationFromContext(c)
		assert.True(t, ok)
		reserved.Release()
		reserved.Release()
		return fiber.ErrBadGateway
	})
	app.Get("/more", func(c fiber.Ctx) error {
		reserved, _ := polargate.ReservationFromContext(c)
		return reserved.Commit(c, 25, polargate.Usage{Name: "call"})
	})
	left := 100.0
	for _, ask := range []struct {
		path         string
		status, cost int
	}{{"/ok", 200, 10}, {"/fails", 502, 0}, {"/more", 200, 25}, {"/ok", 200, 10}} {
		response, err := app.Test(httptest.NewRequest(http.MethodGet, ask.path, nil))
		require.NoError(t, err)
		_ = response.Body.Close()
		assert.Equal(t, ask.status, response.StatusCode, ask.path)
		left -= float64(ask.cost)
		have, err := customers.Entitlements(t.Context(), polargate.ExternalID(someone(0)))
		require.NoError(t, err)
		m, _ := have.Meter(meter)
		assert.InDelta(t, left, m.Balance, 0, ask.path)
	}
	assert.Equal(t, 1, customers.Stats().Usage.Waiting)
}
