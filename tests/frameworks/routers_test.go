package frameworks

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/go-chi/chi/v5"
	"github.com/go-chi/chi/v5/middleware"
	"github.com/gofiber/fiber/v3"
	"github.com/gofiber/fiber/v3/middleware/adaptor"
	"github.com/gofiber/fiber/v3/middleware/recover"
	echo4 "github.com/labstack/echo/v4"
	echo4middleware "github.com/labstack/echo/v4/middleware"
	"github.com/labstack/echo/v5"
	echomiddleware "github.com/labstack/echo/v5/middleware"
	"github.com/polargate/polargate"
	"github.com/polargate/polargate/polartest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const meter = "aaf2bfea-ac4f-40eb-99ad-de858ccdfd97"

// door is a framework with one gated route, POST /act, whose handler does what the header X-Act
// says, in the ways of its framework.
type door struct {
	name string
	// serve serves the route until the test ends.
	serve func(t *testing.T, route func(http.Handler) http.Handler) (address string)
	// late is whether the framework writes the answer to an error after a Route has ended.
	late bool
	// after is whether the handler runs after a Route has ended.
	after bool
}

// doors are the frameworks, as docs/frameworks.md shows them.
var doors = []door{
	{name: "net/http", serve: serveMux},
	{name: "chi", serve: serveChi},
	{name: "gin", serve: serveGin},
	{name: "echo", serve: serveEcho},
	{name: "echo 4", serve: serveEcho4},
	{name: "echo without answered", serve: serveEchoLate, late: true},
	{name: "Fiber", serve: serveFiber, late: true, after: true},
}

func serveHandler(t *testing.T, h http.Handler) string {
	t.Helper()
	server := httptest.NewUnstartedServer(h)
	server.Config.ErrorLog = nil
	server.Start()
	t.Cleanup(server.Close)
	return server.URL
}

// act is what the handlers for net/http do.
func act(w http.ResponseWriter, r *http.Request) {
	have, _ := polargate.FromContext(r.Context())
	switch r.Header.Get("X-Act") {
	case "fail":
		http.Error(w, "out of paper", http.StatusBadGateway)
	case "release and fail":
		release(r.Context())
		http.Error(w, "out of paper", http.StatusBadGateway)
	case "fail without a body":
		w.WriteHeader(http.StatusBadGateway)
	case "panic":
		panic(http.ErrAbortHandler)
	case "read":
		var order struct{ Pages int }
		_ = json.NewDecoder(r.Body).Decode(&order)
		fmt.Fprint(w, order.Pages)
	case "stream":
		stream(r.Context(), w)
	case "hijack":
		hijack(w)
	default:
		fmt.Fprint(w, have.ExternalID())
	}
}

// release gives the units of a request back, before an error is returned that is answered only
// when the Route has ended.
func release(ctx context.Context) {
	if held, ok := polargate.ReservationFromContext(ctx); ok {
		held.Release()
	}
}

// stream sends a line, and one more when the right has ended.
func stream(ctx context.Context, w http.ResponseWriter) {
	fmt.Fprintln(w, "begun")
	_ = http.NewResponseController(w).Flush()
	<-ctx.Done()
	if refusal, ok := errors.AsType[*polargate.Refusal](context.Cause(ctx)); ok {
		fmt.Fprintln(w, "ended", refusal.Status)
	}
}

// hijack takes the connection over, as WebSockets do, and leaves it to itself.
func hijack(w http.ResponseWriter) {
	_, buffered, err := http.NewResponseController(w).Hijack()
	if err == nil {
		_, _ = buffered.WriteString("HTTP/1.1 101 Switching Protocols\r\n\r\n")
		_ = buffered.Flush()
		_, _ = buffered.ReadByte() // blocks until somebody closes
	}
}

func serveMux(t *testing.T, route func(http.Handler) http.Handler) string {
	mux := http.NewServeMux()
	mux.Handle("POST /act", route(http.HandlerFunc(act)))
	return serveHandler(t, mux)
}

func serveChi(t *testing.T, route func(http.Handler) http.Handler) string {
	router := chi.NewRouter()
	router.Use(middleware.Recoverer)
	router.With(route).Post("/act", act)
	return serveHandler(t, router)
}

func serveGin(t *testing.T, route func(http.Handler) http.Handler) string {
	router := gin.New()
	router.Use(gin.CustomRecoveryWithWriter(nil, func(c *gin.Context, _ any) { c.AbortWithStatus(http.StatusInternalServerError) }))
	router.POST("/act", gated(route), func(c *gin.Context) {
		have, _ := polargate.FromContext(c.Request.Context())
		switch c.GetHeader("X-Act") {
		case "fail":
			c.JSON(http.StatusBadGateway, gin.H{"error": "out of paper"})
		case "release and fail":
			release(c.Request.Context())
			_ = c.AbortWithError(http.StatusBadGateway, io.ErrUnexpectedEOF)
		case "fail without a body":
			c.Status(http.StatusBadGateway)
		case "panic":
			panic("the printer burns")
		case "read":
			var order struct{ Pages int }
			_ = c.ShouldBindJSON(&order)
			c.String(http.StatusOK, "%d", order.Pages)
		case "stream":
			stream(c.Request.Context(), c.Writer)
		case "hijack":
			hijack(c.Writer)
		default:
			c.String(http.StatusOK, have.ExternalID())
		}
	})
	return serveHandler(t, router)
}

func serveEcho(t *testing.T, route func(http.Handler) http.Handler) string {
	app := echo.New()
	app.Use(echomiddleware.Recover())
	app.POST("/act", actEcho, echo.WrapMiddleware(route), answered)
	return serveHandler(t, app)
}

func serveEchoLate(t *testing.T, route func(http.Handler) http.Handler) string {
	app := echo.New()
	app.Use(echomiddleware.Recover())
	app.POST("/act", actEcho, echo.WrapMiddleware(route))
	return serveHandler(t, app)
}

func actEcho(c *echo.Context) error {
	have, _ := polargate.FromContext(c.Request().Context())
	switch c.Request().Header.Get("X-Act") {
	case "fail":
		return echo.NewHTTPError(http.StatusBadGateway, "out of paper")
	case "release and fail":
		release(c.Request().Context())
		return echo.NewHTTPError(http.StatusBadGateway, "out of paper")
	case "fail without a body":
		return c.NoContent(http.StatusBadGateway)
	case "panic":
		panic("the printer burns")
	case "read":
		var order struct{ Pages int }
		if err := c.Bind(&order); err != nil {
			return err
		}
		return c.String(http.StatusOK, fmt.Sprint(order.Pages))
	case "stream":
		stream(c.Request().Context(), c.Response())
		return nil
	case "hijack":
		hijack(c.Response())
		return nil
	}
	return c.String(http.StatusOK, have.ExternalID())
}

func serveEcho4(t *testing.T, route func(http.Handler) http.Handler) string {
	app := echo4.New()
	app.Use(echo4middleware.RecoverWithConfig(echo4middleware.RecoverConfig{DisablePrintStack: true}))
	app.POST("/act", func(c echo4.Context) error {
		have, _ := polargate.FromContext(c.Request().Context())
		switch c.Request().Header.Get("X-Act") {
		case "fail":
			return echo4.NewHTTPError(http.StatusBadGateway, "out of paper")
		case "release and fail":
			release(c.Request().Context())
			return echo4.NewHTTPError(http.StatusBadGateway, "out of paper")
		case "fail without a body":
			return c.NoContent(http.StatusBadGateway)
		case "panic":
			panic("the printer burns")
		case "read":
			var order struct{ Pages int }
			if err := c.Bind(&order); err != nil {
				return err
			}
			return c.String(http.StatusOK, fmt.Sprint(order.Pages))
		case "stream":
			stream(c.Request().Context(), c.Response())
			return nil
		case "hijack":
			hijack(c.Response())
			return nil
		}
		return c.String(http.StatusOK, have.ExternalID())
	}, echo4.WrapMiddleware(route), answered4)
	return serveHandler(t, app)
}

func serveFiber(t *testing.T, route func(http.Handler) http.Handler) string {
	app := fiber.New()
	app.Use(recover.New())
	app.Use(adaptor.HTTPMiddleware(route))
	app.Post("/act", func(c fiber.Ctx) error {
		have, _ := polargate.FromContext(c)
		switch c.Get("X-Act") {
		case "fail":
			return fiber.NewError(fiber.StatusBadGateway, "out of paper")
		case "release and fail":
			release(c)
			return fiber.NewError(fiber.StatusBadGateway, "out of paper")
		case "fail without a body":
			return c.SendStatus(fiber.StatusBadGateway)
		case "panic":
			panic("the printer burns")
		case "read":
			var order struct{ Pages int }
			if err := c.Bind().JSON(&order); err != nil {
				return err
			}
			return c.SendString(fmt.Sprint(order.Pages))
		}
		return c.SendString(have.ExternalID())
	})
	return listenFiber(t, app)
}

func listenFiber(t *testing.T, app *fiber.App) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	served := make(chan error, 1)
	go func() { served <- app.Listener(listener, fiber.ListenConfig{DisableStartupMessage: true}) }()
	t.Cleanup(func() {
		assert.NoError(t, app.Shutdown())
		assert.NoError(t, <-served)
	})
	return "http://" + listener.Addr().String()
}

// shop is a Polar with a customer who has pro and a hundred units, and one who has nothing.
func shop(t *testing.T) (*polartest.Polar, *polargate.Customers) {
	t.Helper()
	polar := polartest.New(polartest.Config{Unlimited: true})
	polar.AddCustomer(polartest.Customer{
		ExternalID: someone(0), Benefits: []polartest.Benefit{{BenefitID: benefit}},
		Meters: []polartest.Meter{{MeterID: meter, CreditedUnits: 100}},
	})
	polar.AddCustomer(polartest.Customer{ExternalID: someone(1)})
	const secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
	customers, err := polargate.NewCustomers(polargate.CustomersConfig{
		AccessToken: polar.AddToken(polartest.Token{}), OrganizationID: polar.OrganizationID(), BaseURL: polar.URL(), HTTPClient: polar.Client(),
		Features: map[string][]string{benefit: {"pro"}}, WebhookSecrets: []string{secret},
	})
	require.NoError(t, err)
	t.Cleanup(func() { _ = customers.Close() })
	polar.AddEndpoint(polartest.Endpoint{Handler: customers.WebhookHandler(), Secrets: []polartest.Secret{{Text: secret}}})
	return polar, customers
}

func signedIn(r *http.Request) polargate.CustomerRef {
	if user := r.Header.Get("X-User"); user != "" {
		return polargate.ExternalID(user)
	}
	return polargate.CustomerRef{}
}

// ask posts to the route of a door.
func ask(t *testing.T, address, user, act, body string) *http.Response {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, address+"/act", strings.NewReader(body))
	require.NoError(t, err)
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("X-Act", act)
	if user != "" {
		r.Header.Set("X-User", user)
	}
	transport := &http.Transport{DisableKeepAlives: true}
	response, err := transport.RoundTrip(r)
	if act == "panic" && err != nil {
		return nil // net/http breaks the connection off
	}
	require.NoError(t, err)
	t.Cleanup(func() { _ = response.Body.Close() })
	return response
}

func textOf(t *testing.T, response *http.Response) string {
	t.Helper()
	text, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	return string(text)
}

func each(t *testing.T, test func(t *testing.T, d door)) {
	t.Helper()
	t.Parallel()
	for _, d := range doors {
		t.Run(d.name, func(t *testing.T) {
			t.Parallel()
			test(t, d)
		})
	}
}

func TestMiddlewareInsideAFrameworkLetsCustomersThroughAndRefusesOthers(t *testing.T) {
	each(t, func(t *testing.T, d door) {
		_, customers := shop(t)
		address := d.serve(t, customers.Middleware(signedIn, polargate.Feature("pro")))
		for range 2 { // cold, then from memory
			response := ask(t, address, someone(0), "", "")
			assert.Equal(t, http.StatusOK, response.StatusCode)
			assert.Equal(t, someone(0), textOf(t, response), "the handler finds the Entitlements")
			response = ask(t, address, someone(1), "", "")
			assert.Equal(t, http.StatusPaymentRequired, response.StatusCode)
			assert.Contains(t, textOf(t, response), `"required":"feature pro"`)
			assert.Equal(t, "application/problem+json", response.Header.Get("Content-Type"))
			assert.Equal(t, http.StatusUnauthorized, ask(t, address, "", "", "").StatusCode)
		}
	})
}

func balance(t *testing.T, customers *polargate.Customers) float64 {
	t.Helper()
	have, err := customers.Entitlements(t.Context(), polargate.ExternalID(someone(0)))
	require.NoError(t, err)
	m, _ := have.Meter(meter)
	return m.Balance
}

func TestAnErrorInsideAFrameworkGivesUnitsBackUnlessItIsAnsweredTooLate(t *testing.T) {
	each(t, func(t *testing.T, d door) {
		_, customers := shop(t)
		address := d.serve(t, customers.Route(polargate.Route{Customer: signedIn, Spend: polargate.Cost{MeterID: meter, Units: 10}}))
		left := 100.0
		for _, one := range []struct {
			act    string
			status int
			cost   float64
		}{{"", 200, 10}, {"fail", 502, 0}, {"fail without a body", 502, 0}, {"release and fail", 502, 0}, {"panic", 500, 0}} {
			response := ask(t, address, someone(0), one.act, "")
			if response != nil {
				assert.Equal(t, one.status, response.StatusCode, one.act)
			}
			if d.after && one.act != "release and fail" || d.late && one.act == "fail" {
				one.cost = 10
			}
			left -= one.cost
			assert.InDelta(t, left, balance(t, customers), 0, "after: %s", one.act)
		}
	})
}

func TestABodyThatPricesARequestIsReadAgainByTheHandler(t *testing.T) {
	each(t, func(t *testing.T, d door) {
		_, customers := shop(t)
		address := d.serve(t, customers.Route(polargate.Route{Customer: signedIn, Spend: polargate.Cost{MeterID: meter, UnitsOf: pagesOf}}))
		response := ask(t, address, someone(0), "read", `{"pages": 7}`)
		assert.Equal(t, "7", textOf(t, response))
		assert.InDelta(t, 93, balance(t, customers), 0)
	})
}

// pagesOf prices a request by its body, and puts the body back.
func pagesOf(r *http.Request) (float64, error) {
	body, err := io.ReadAll(http.MaxBytesReader(nil, r.Body, 1<<20))
	if err != nil {
		return 0, err
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	var order struct{ Pages float64 }
	if err := json.Unmarshal(body, &order); err != nil {
		return 0, &polargate.InputError{Field: "body", Problem: "is no order"}
	}
	return order.Pages, nil
}

func TestAStreamInsideAFrameworkEndsWithTheRight(t *testing.T) {
	each(t, func(t *testing.T, d door) {
		if d.after {
			t.Skip("its handler runs when the Route has ended")
		}
		polar, customers := shop(t)
		address := d.serve(t, customers.Route(polargate.Route{Customer: signedIn, Require: []polargate.Requirement{polargate.Feature("pro")}, Watch: true}))
		response := ask(t, address, someone(0), "stream", "")
		lines := bufio.NewScanner(response.Body)
		require.True(t, lines.Scan())
		assert.Equal(t, "begun", lines.Text())
		polar.RevokeBenefit(someone(0), benefit)
		require.True(t, lines.Scan(), "%v", lines.Err())
		assert.Equal(t, "ended 402", lines.Text())
		assert.False(t, lines.Scan())
	})
}

func TestAConnectionThatAFrameworkHandedOverIsClosedWhenTheRightEnds(t *testing.T) {
	each(t, func(t *testing.T, d door) {
		if d.after {
			t.Skip("its handler runs when the Route has ended")
		}
		polar, customers := shop(t)
		address := d.serve(t, customers.Route(polargate.Route{Customer: signedIn, Require: []polargate.Requirement{polargate.Feature("pro")}, Watch: true}))
		conn, err := net.Dial("tcp", strings.TrimPrefix(address, "http://"))
		require.NoError(t, err)
		defer conn.Close()
		_, err = fmt.Fprintf(conn, "POST /act HTTP/1.1\r\nHost: localhost\r\nX-User: %s\r\nX-Act: hijack\r\nContent-Length: 0\r\n\r\n", someone(0))
		require.NoError(t, err)
		lines := bufio.NewReader(conn)
		line, err := lines.ReadString('\n')
		require.NoError(t, err)
		assert.Contains(t, line, "101")
		polar.RevokeBenefit(someone(0), benefit)
		require.NoError(t, conn.SetReadDeadline(time.Now().Add(20*time.Second)))
		_, err = io.ReadAll(lines)
		assert.NoError(t, err, "it is closed in good time")
	})
}

// Fiber writes a stream when its handler has returned, so nothing of the request may be used.
func TestAStreamOfFibersEndsWithTheRightByWatch(t *testing.T) {
	t.Parallel()
	polar, customers := shop(t)
	app := fiber.New()
	app.Use(adaptor.HTTPMiddleware(customers.Middleware(signedIn, polargate.Feature("pro"))))
	app.Post("/act", func(c fiber.Ctx) error {
		have, _ := polargate.FromContext(c)
		customer := polargate.ExternalID(have.ExternalID())
		return c.SendStreamWriter(func(w *bufio.Writer) {
			watched, stop := customers.Watch(context.Background(), customer, polargate.Feature("pro"))
			defer stop()
			fmt.Fprintln(w, "begun")
			_ = w.Flush()
			<-watched.Done()
			fmt.Fprintln(w, context.Cause(watched))
		})
	})
	response := ask(t, listenFiber(t, app), someone(0), "", "")
	lines := bufio.NewScanner(response.Body)
	require.True(t, lines.Scan())
	polar.RevokeBenefit(someone(0), benefit)
	require.True(t, lines.Scan(), "%v", lines.Err())
	assert.Equal(t, "polargate: refused with 402: This needs feature pro", lines.Text())
}

// chi's Timeout writes its 504 when the handler has returned.
func TestATimeoutOfChiBelongsInsideTheRoute(t *testing.T) {
	t.Parallel()
	for inside, left := range map[bool]float64{true: 100, false: 90} {
		_, customers := shop(t)
		route := customers.Route(polargate.Route{Customer: signedIn, Spend: polargate.Cost{MeterID: meter, Units: 10}})
		slow := func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }
		router, order := chi.NewRouter(), []func(http.Handler) http.Handler{middleware.Timeout(50 * time.Millisecond), route}
		if inside {
			order[0], order[1] = order[1], order[0]
		}
		router.With(order...).Post("/act", slow)
		response := ask(t, serveHandler(t, router), someone(0), "", "")
		assert.Equal(t, http.StatusGatewayTimeout, response.StatusCode)
		assert.InDelta(t, left, balance(t, customers), 0)
	}
}

func TestTheContextOfGinItselfHasTheEntitlementsIfItIsToldToLook(t *testing.T) {
	t.Parallel()
	for _, fallback := range []bool{true, false} {
		_, customers := shop(t)
		router := gin.New()
		router.ContextWithFallback = fallback
		router.POST("/act", gated(customers.Middleware(signedIn)), func(c *gin.Context) {
			_, ok := polargate.FromContext(c)
			c.String(http.StatusOK, "%t", ok)
		})
		response := ask(t, serveHandler(t, router), someone(0), "", "")
		assert.Equal(t, fmt.Sprint(fallback), textOf(t, response))
	}
}

func TestMain(m *testing.M) {
	gin.SetMode(gin.ReleaseMode)
	m.Run()
}
