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
