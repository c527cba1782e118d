package servers

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/textproto"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"github.com/polargate/polargate"
	"github.com/polargate/polargate/polartest"
	"github.com/polargate/polargate/tests/internal/kit"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// balanceOf is what is left of the paying customer's calls.
func balanceOf(t *testing.T, customers *polargate.Customers) float64 {
	t.Helper()
	e, err := customers.Entitlements(t.Context(), polargate.ExternalID(kit.Paying))
	require.NoError(t, err)
	m, ok := e.Meter(kit.CallsMeter)
	require.True(t, ok)
	return m.Balance
}

func TestUnitsComeBackAfterAPanicOrA5xxAndAfterNothingElse(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := kit.NewShop(t)
		customers := s.Warmed(func(c *polargate.CustomersConfig) { c.FreshFor = time.Hour })
		code := func(codes ...int) http.HandlerFunc {
			return func(w http.ResponseWriter, _ *http.Request) {
				for _, c := range codes {
					w.WriteHeader(c)
				}
			}
		}
		for name, c := range map[string]struct {
			handler http.HandlerFunc
			taken   float64
		}{
			"200":           {code(200), 10},
			"nothing":       {func(http.ResponseWriter, *http.Request) {}, 10},
			"text":          {func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "hello") }, 10},
			"204":           {code(204), 10},
			"301":           {code(301), 10},
			"400":           {code(400), 10},
			"404":           {code(404), 10},
			"499":           {code(499), 10},
			"500":           {code(500), 0},
			"503":           {code(503), 0},
			"599":           {code(599), 0},
			"hints and 200": {code(103, 103, 200), 10},
			"hints and 500": {code(103, 500), 0},
			"500 and 200":   {code(500, 200), 0},
			"200 and 500":   {code(200, 500), 10},
			"a 5xx after the answer has begun, which is not sent any more": {func(w http.ResponseWriter, _ *http.Request) {
				fmt.Fprint(w, "all that was paid for")
				w.WriteHeader(500)
			}, 10},
			"a 5xx after an empty flush": {func(w http.ResponseWriter, _ *http.Request) {
				w.(http.Flusher).Flush()
				w.WriteHeader(502)
			}, 10},
			"a 5xx after a flush by the controller": {func(w http.ResponseWriter, _ *http.Request) {
				_ = http.NewResponseController(w).Flush()
				w.WriteHeader(502)
			}, 10},
			"a 5xx after a copy": {func(w http.ResponseWriter, _ *http.Request) {
				_, _ = io.Copy(w, struct{ io.Reader }{strings.NewReader("a file")})
				w.WriteHeader(500)
			}, 10},
			"http.Error":         {func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "", 500) }, 0},
			"a panic":            {func(http.ResponseWriter, *http.Request) { panic("on fire") }, 0},
			"a panic after text": {func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "half"); panic("on fire") }, 0},
			"an abort":           {func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, 0},
		} {
			before := balanceOf(t, customers)
			handler := customers.Route(polargate.Route{Customer: always(kit.Paying), Spend: polargate.Cost{MeterID: strings.ToUpper(kit.CallsMeter), Units: 10}})(
				http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					e, _ := polargate.FromContext(r.Context())
					m, _ := e.Meter(kit.CallsMeter)
					assert.InDelta(t, before-10, m.Balance, 0, "%s: what the handler sees is after the cost", name)
					c.handler(w, r)
				}))
			func() {
				defer func() {
					caught := recover()
					assert.Equal(t, strings.Contains(name, "panic") || name == "an abort", caught != nil, "%s: a panic goes on its way", name)
				}()
				get(handler, "/")
			}()
			assert.InDelta(t, before-c.taken, balanceOf(t, customers), 0, name)
			forgotten(t, customers) // the next one begins with a full meter
		}
	})
}

// forgotten waits until what was spent, and Polar was never told of, is forgotten.
func forgotten(t *testing.T, customers *polargate.Customers) {
	t.Helper()
	time.Sleep(5 * time.Hour)
	_, err := customers.Refresh(t.Context(), polargate.ExternalID(kit.Paying))
	require.NoError(t, err)
}

func TestAHandlerThatEndsItsGoroutineGivesTheUnitsBack(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		customers := kit.NewShop(t).Warmed()
		handler := customers.Route(polargate.Route{Customer: always(kit.Paying), Spend: polargate.Cost{MeterID: kit.CallsMeter, Units: 10}})(
			http.HandlerFunc(func(http.ResponseWriter, *http.Request) { runtime.Goexit() }))
		var group sync.WaitGroup
		group.Go(func() { get(handler, "/") })
		group.Wait()
		assert.InDelta(t, 100, balanceOf(t, customers), 0)
	})
}

// A handler that has not ended may not have told Polar yet.
func TestUnitsOfARequestInProgressStayTakenOffWhateverPolarSays(t *testing.T) {
	for name, news := range map[string]func(t *testing.T, s *kit.Shop, customers *polargate.Customers){
		"an answer": func(t *testing.T, _ *kit.Shop, customers *polargate.Customers) {
			_, err := customers.Refresh(t.Context(), polargate.ExternalID(kit.Paying))
			require.NoError(t, err)
		},
		"an event": func(t *testing.T, s *kit.Shop, customers *polargate.Customers) {
			before := customers.Stats().Events
			s.Polar.UpdateCustomer(kit.Paying, func(c *polartest.Customer) { c.Name = time.Now().String() })
			require.NoError(t, s.Polar.WaitForDeliveries(t.Context()))
			require.Greater(t, customers.Stats().Events, before)
		},
	} {
		for _, status := range []int{200, 500} {
			t.Run(fmt.Sprintf("%s, then %d", name, status), func(t *testing.T) {
				kit.Bubbled(t, func(t *testing.T) {
					s := kit.NewShop(t)
					customers := s.Warmed(func(c *polargate.CustomersConfig) { c.FreshFor = time.Hour })
					received(t, s, customers)
					goOn := make(chan bool)
					slow := customers.Route(polargate.Route{Customer: always(kit.Paying), Spend: polargate.Cost{MeterID: kit.CallsMeter, Units: 60}})(
						http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
							<-goOn
							w.WriteHeader(status)
						}))
					var group sync.WaitGroup
					group.Go(func() { assert.Equal(t, status, get(slow, "/").Code) })
					synctest.Wait()
					for range 3 {
						time.Sleep(10 * time.Second)
						news(t, s, customers)
						assert.InDelta(t, 40, balanceOf(t, customers), 0)
						assert.Equal(t, 402, get(slow, "/").Code, "not twice")
					}
					close(goOn)
					group.Wait()
					left := map[int]float64{200: 40, 500: 100}[status]
					assert.InDelta(t, left, balanceOf(t, customers), 0)
					time.Sleep(3 * time.Hour)
					news(t, s, customers)
					assert.InDelta(t, left, balanceOf(t, customers), 0, "Polar may still count it")
					forgotten(t, customers)
					assert.InDelta(t, 100, balanceOf(t, customers), 0, "Polar was told of none")
				})
			})
		}
	}
}

func TestARouteThatSpendsLetsInExactlyAsManyAsAreLeft(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		customers := kit.NewShop(t).Open()
		handler := customers.Route(polargate.Route{Customer: always(kit.Paying), Spend: polargate.Cost{MeterID: kit.CallsMeter, Units: 7}})(whoever)
		var in, out atomic.Int64
		var group sync.WaitGroup
		for range 100 {
			group.Go(func() {
				switch w := get(handler, "/"); w.Code {
				case 200:
					in.Add(1)
				case 402:
					out.Add(1)
				default:
					t.Errorf("status %d", w.Code)
				}
			})
		}
		group.Wait()
		assert.EqualValues(t, 14, in.Load())
		assert.EqualValues(t, 86, out.Load())
		assert.InDelta(t, 2, balanceOf(t, customers), 0)
		rest := customers.Route(polargate.Route{Customer: always(kit.Paying), Spend: polargate.Cost{MeterID: kit.CallsMeter, Units: 2}})(whoever)
		assert.Equal(t, 200, get(rest, "/").Code, "the very last units can be spent")
		assert.Equal(t, 402, get(rest, "/").Code)
	})
}

func TestAHandlerBehindASpendCanStream(t *testing.T) {
	t.Parallel()
	s := kit.NewShop(t)
	customers := s.Open(func(c *polargate.CustomersConfig) { c.FreshFor = time.Hour })
	spend := customers.Route(polargate.Route{Customer: always(kit.Paying), Spend: polargate.Cost{MeterID: kit.CallsMeter, Units: 1}})
	goOn := make(chan struct{})
	mux := http.NewServeMux()
	mux.Handle("GET /flusher", spend(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintln(w, "first")
		w.(http.Flusher).Flush()
		<-goOn
		fmt.Fprintln(w, "second")
	})))
	mux.Handle("GET /controller", spend(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		control := http.NewResponseController(w)
		assert.NoError(t, control.SetReadDeadline(time.Time{}))
		assert.NoError(t, control.SetWriteDeadline(time.Time{}))
		assert.NoError(t, control.EnableFullDuplex())
		fmt.Fprintln(w, "first")
		assert.NoError(t, control.Flush())
		<-goOn
		fmt.Fprintln(w, "second")
	})))
	mux.Handle("GET /hints", spend(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Link", "</style.css>; rel=preload")
		w.WriteHeader(http.StatusEarlyHints)
		w.WriteHeader(http.StatusAccepted)
	})))
	mux.Handle("GET /hijack", spend(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		conn, buffer, err := http.NewResponseController(w).Hijack()
		if assert.NoError(t, err) {
			_, _ = buffer.WriteString("HTTP/1.1 299 Mine\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi")
			_ = buffer.Flush()
			_ = conn.Close()
		}
	})))
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)

	for _, path := range []string{"/flusher", "/controller"} {
		response, err := server.Client().Get(server.URL + path)
		require.NoError(t, err)
		lines := bufio.NewReader(response.Body)
		first, err := lines.ReadString('\n')
		require.NoError(t, err)
		assert.Equal(t, "first\n", first, "it is here while the handler still waits")
		goOn <- struct{}{}
		rest, err := io.ReadAll(lines)
		require.NoError(t, err)
		assert.Equal(t, "second\n", string(rest))
		_ = response.Body.Close()
	}

	var hints []int
	r, err := http.NewRequest(http.MethodGet, server.URL+"/hints", http.NoBody)
	require.NoError(t, err)
	r = r.WithContext(httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{
		Got1xxResponse: func(code int, _ textproto.MIMEHeader) error { hints = append(hints, code); return nil },
	}))
	response, err := server.Client().Do(r)
	require.NoError(t, err)
	_ = response.Body.Close()
	assert.Equal(t, []int{103}, hints)
	assert.Equal(t, 202, response.StatusCode)

	response, err = server.Client().Get(server.URL + "/hijack")
	require.NoError(t, err)
	_ = response.Body.Close()
	assert.Equal(t, 299, response.StatusCode)
	assert.InDelta(t, 96, balanceOf(t, customers), 0, "each of the four was an answer")
}

func TestACustomerIsChargedOnlyIfTheMeterLetThemIn(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := kit.NewShop(t)
		const unlimited, out, both, limited, missing = "usr_unlimited", "usr_out", "usr_both", "usr_limited", "usr_without_meters"
		free, pro := polartest.Benefit{BenefitID: kit.TeaBenefit}, polartest.Benefit{BenefitID: kit.ProBenefit}
		for user, c := range map[string]polartest.Customer{
			unlimited: {Benefits: []polartest.Benefit{free}, Meters: []polartest.Meter{{MeterID: kit.CallsMeter, CreditedUnits: 0}}},
			both:      {Benefits: []polartest.Benefit{free, pro}, Meters: []polartest.Meter{{MeterID: kit.CallsMeter, CreditedUnits: 10}}},
			limited:   {Benefits: []polartest.Benefit{pro}, Meters: []polartest.Meter{{MeterID: kit.CallsMeter, CreditedUnits: 10}}},
			out:       {Benefits: []polartest.Benefit{pro}, Meters: []polartest.Meter{{MeterID: kit.CallsMeter, CreditedUnits: 0}}},
			missing:   {Benefits: []polartest.Benefit{free}},
		} {
			c.ExternalID = user
			s.Polar.AddCustomer(c)
		}
		customers := s.Open(func(c *polargate.CustomersConfig) {
			c.FreshFor = time.Hour
			c.Features = map[string][]string{kit.TeaBenefit: {"unlimited"}, kit.ProBenefit: {"pro"}}
		})
		unlimitedPlan, feature, calls := polargate.Feature("unlimited"), polargate.Feature("pro"), polargate.Meter(kit.CallsMeter, 1)
		otherMeter := polargate.Meter(kit.TeaBenefit, -1)
		const charged, let, refused = "charged", "let in for nothing", "refused"
		for name, c := range map[string]struct {
			need []polargate.Requirement
			want map[string]string
		}{
			"a plan without a limit, or units": {[]polargate.Requirement{polargate.Any(unlimitedPlan, calls)},
				map[string]string{unlimited: let, both: let, limited: charged, out: refused, missing: let}},
			"the other way around": {[]polargate.Requirement{polargate.Any(polargate.Meter(strings.ToUpper(kit.CallsMeter), 1), polargate.Benefit(kit.TeaBenefit))},
				map[string]string{unlimited: let, both: let, limited: charged, out: refused, missing: let}},
			"a plan, and one of these": {[]polargate.Requirement{feature, polargate.Any(unlimitedPlan, calls)},
				map[string]string{unlimited: refused, both: let, limited: charged, out: refused, missing: refused}},
			"deep inside": {[]polargate.Requirement{polargate.All(polargate.Any(polargate.All(feature, polargate.Any(calls)), polargate.All(unlimitedPlan)))},
				map[string]string{unlimited: let, both: let, limited: charged, out: refused, missing: let}},
			"units in each branch": {[]polargate.Requirement{polargate.Any(polargate.All(unlimitedPlan, calls), polargate.All(feature, calls))},
				map[string]string{unlimited: refused, both: charged, limited: charged, out: refused, missing: refused}},
			"units beside a plan": {[]polargate.Requirement{polargate.Any(unlimitedPlan, calls), calls},
				map[string]string{unlimited: refused, both: charged, limited: charged, out: refused, missing: refused}},
			"a meter that may be empty": {[]polargate.Requirement{polargate.Any(unlimitedPlan, polargate.Meter(kit.CallsMeter, 0))},
				map[string]string{unlimited: let, both: let, limited: charged, out: refused, missing: let}},
			"no word of the meter": {[]polargate.Requirement{polargate.Any(unlimitedPlan, feature)},
				map[string]string{unlimited: refused, both: charged, limited: charged, out: refused, missing: refused}},
			"another meter": {[]polargate.Requirement{polargate.Any(unlimitedPlan, feature, otherMeter)},
				map[string]string{unlimited: refused, both: charged, limited: charged, out: refused, missing: refused}},
			"nothing": {nil,
				map[string]string{unlimited: refused, both: charged, limited: charged, out: refused, missing: refused}},
		} {
			handler := customers.Route(polargate.Route{Customer: byHeader, Require: c.need, Spend: polargate.Cost{MeterID: strings.ToUpper(kit.CallsMeter), Units: 1}})(
				http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					e, ok := polargate.FromContext(r.Context())
					assert.True(t, ok)
					m, _ := e.Meter(kit.CallsMeter)
					fmt.Fprint(w, m.Balance)
				}))
			for user, want := range c.want {
				for range 2 { // cold or changed, then from memory
					time.Sleep(5 * time.Hour) // until what was spent is forgotten
					before, err := customers.Refresh(t.Context(), polargate.ExternalID(user))
					require.NoError(t, err)
					had, _ := before.Meter(kit.CallsMeter)
					w := get(handler, "/", "X-User", user)
					after, err := customers.Entitlements(t.Context(), polargate.ExternalID(user))
					require.NoError(t, err)
					has, _ := after.Meter(kit.CallsMeter)
					got := refused
					switch {
					case w.Code == 200 && has.Balance == had.Balance-1:
						got = charged
					case w.Code == 200 && has.Balance == had.Balance:
						got = let
					}
					assert.Equal(t, want, got, "%s: %s", name, user)
					if w.Code == 200 {
						assert.Equal(t, fmt.Sprint(has.Balance), w.Body.String(), "%s: %s: what the handler sees", name, user)
					} else {
						assert.Equal(t, 402, w.Code)
					}
				}
			}
		}
	})
}

// wrapped is the writer of a middleware further out that has all it knows behind
// Unwrap, as net/http recommends.
type wrapped struct{ inner http.ResponseWriter }

func (w wrapped) Header() http.Header { return w.inner.Header() }

func (w wrapped) Write(p []byte) (int, error) { return w.inner.Write(p) }

func (w wrapped) WriteHeader(code int) { w.inner.WriteHeader(code) }

func (w wrapped) Unwrap() http.ResponseWriter { return w.inner }

// sink is net/http's writer, as far as it can take a file from the system, and
// tells when it did.
type sink struct {
	*httptest.ResponseRecorder
	taken int64
}

func (s *sink) ReadFrom(src io.Reader) (int64, error) {
	n, err := io.Copy(s.ResponseRecorder, src)
	s.taken += n
	return n, err
}

// deaf is a writer that cannot be flushed, as http.TimeoutHandler's.
type deaf struct{ http.ResponseWriter }

func TestASpendingRouteKeepsTheAbilitiesOfTheResponseWriter(t *testing.T) {
	t.Parallel()
	customers := kit.NewShop(t).Open()
	serve := func(w http.ResponseWriter, handler http.HandlerFunc) {
		customers.Route(polargate.Route{Customer: always(kit.Paying), Spend: polargate.Cost{MeterID: kit.CallsMeter, Units: 1}})(handler).
			ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/", nil))
	}
	t.Run("a flush goes through a writer that only unwraps", func(t *testing.T) {
		t.Parallel()
		for _, flush := range []func(http.ResponseWriter){
			func(w http.ResponseWriter) { assert.NoError(t, http.NewResponseController(w).Flush()) },
			func(w http.ResponseWriter) { w.(http.Flusher).Flush() },
		} {
			recorder := httptest.NewRecorder()
			serve(wrapped{recorder}, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "x"); flush(w) })
			assert.True(t, recorder.Flushed)
		}
	})
	t.Run("a writer that cannot flush says so", func(t *testing.T) {
		t.Parallel()
		serve(struct{ http.ResponseWriter }{deaf{httptest.NewRecorder()}}, func(w http.ResponseWriter, _ *http.Request) {
			require.ErrorIs(t, http.NewResponseController(w).Flush(), errors.ErrUnsupported)
			assert.NotPanics(t, func() { w.(http.Flusher).Flush() })
		})
	})
	t.Run("a file can be sent by the system", func(t *testing.T) {
		t.Parallel()
		w := &sink{ResponseRecorder: httptest.NewRecorder()}
		serve(w, func(w http.ResponseWriter, _ *http.Request) {
			n, err := io.Copy(w, struct{ io.Reader }{strings.NewReader("a large file")})
			assert.NoError(t, err)
			assert.EqualValues(t, 12, n)
		})
		assert.EqualValues(t, 12, w.taken)
		assert.Equal(t, "a large file", w.Body.String())
	})
	t.Run("units come back when the file cannot be read and the handler says so", func(t *testing.T) {
		t.Parallel()
		customers := kit.NewShop(t).Warmed()
		server := httptest.NewServer(customers.Route(polargate.Route{Customer: always(kit.Paying), Spend: polargate.Cost{MeterID: kit.CallsMeter, Units: 1}})(
			http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				if _, err := io.Copy(w, struct{ io.Reader }{iotest.ErrReader(io.ErrUnexpectedEOF)}); err != nil {
					http.Error(w, "the disk is gone", http.StatusBadGateway)
				}
			})))
		defer server.Close()
		resp, err := http.Get(server.URL)
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		require.Equal(t, 502, resp.StatusCode)
		assert.InDelta(t, 100, balanceOf(t, customers), 0)
	})
	t.Run("a writer that takes no file gets its bytes", func(t *testing.T) {
		t.Parallel()
		recorder := httptest.NewRecorder()
		serve(wrapped{recorder}, func(w http.ResponseWriter, _ *http.Request) {
			_, err := io.Copy(w, struct{ io.Reader }{strings.NewReader("a large file")})
			assert.NoError(t, err)
		})
		assert.Equal(t, "a large file", recorder.Body.String())
	})
	t.Run("a handler of the old kind can take the connection over", func(t *testing.T) {
		t.Parallel()
		server := httptest.NewServer(customers.Route(polargate.Route{Customer: always(kit.Paying), Spend: polargate.Cost{MeterID: kit.CallsMeter, Units: 1}})(
			http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				conn, _, err := w.(http.Hijacker).Hijack()
				if assert.NoError(t, err) {
					fmt.Fprint(conn, "HTTP/1.1 418 I'm a teapot\r\nConnection: close\r\n\r\n")
					assert.NoError(t, conn.Close())
				}
			})))
		defer server.Close()
		resp, err := http.Get(server.URL)
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		assert.Equal(t, 418, resp.StatusCode)
	})
	t.Run("a connection that cannot be taken over says so", func(t *testing.T) {
		t.Parallel()
		serve(httptest.NewRecorder(), func(w http.ResponseWriter, _ *http.Request) {
			_, _, err := w.(http.Hijacker).Hijack()
			require.ErrorIs(t, err, errors.ErrUnsupported)
		})
	})
	t.Run("a route that does not spend passes the writer on as it is", func(t *testing.T) {
		t.Parallel()
		recorder := httptest.NewRecorder()
		customers.Middleware(always(kit.Paying))(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			assert.Same(t, recorder, w)
		})).ServeHTTP(recorder, httptest.NewRequest(http.MethodGet, "/", nil))
	})
}

func TestAPanickingResolverChargesNothingAndAffectsNoOtherRequest(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		customers := kit.NewShop(t).Warmed()
		handler := customers.Route(polargate.Route{Spend: polargate.Cost{MeterID: kit.CallsMeter, Units: 1}, Customer: func(r *http.Request) polargate.CustomerRef {
			if r.Header.Get("X-User") == "boom" {
				panic("no session")
			}
			return byHeader(r)
		}})(whoever)
		assert.PanicsWithValue(t, "no session", func() { get(handler, "/", "X-User", "boom") }, "it is the program's own, for its server to catch")
		assert.InDelta(t, 100, balanceOf(t, customers), 0)
		assert.Equal(t, kit.Paying, get(handler, "/", "X-User", kit.Paying).Body.String())
	})
}

func TestSpendingAtTheSameTimeNeverExceedsTheBalance(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := kit.NewShop(t)
		customers := s.Open()
		var taken atomic.Int64
		var group sync.WaitGroup
		for range 300 {
			group.Go(func() {
				_, ok, err := customers.Spend(t.Context(), polargate.ExternalID(kit.Paying), strings.ToUpper(kit.CallsMeter), 3)
				assert.NoError(t, err)
				if ok {
					taken.Add(3)
				}
			})
		}
		group.Wait()
		assert.EqualValues(t, 99, taken.Load())
		e, err := customers.Entitlements(t.Context(), polargate.ExternalID(kit.Paying))
		require.NoError(t, err)
		m, ok := e.Meter(kit.CallsMeter)
		require.True(t, ok)
		assert.InDelta(t, 1, m.Balance, 0)
		assert.False(t, e.Meets(polargate.Meter(kit.CallsMeter, 1.5)))
		// Polar counts a part of it, and then the rest.
		for _, units := range []float64{89.5, 9.5} {
			time.Sleep(time.Minute)
			s.Polar.DebitMeter(kit.Paying, kit.CallsMeter, units)
			e, err = customers.Refresh(t.Context(), polargate.ExternalID(kit.Paying))
			require.NoError(t, err)
			m, _ = e.Meter(kit.CallsMeter)
			assert.InDelta(t, 1, m.Balance, 0)
		}
	})
}

func TestUnitsAreGivenBackOnceAndNotAfterANewAnswer(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := kit.NewShop(t)
		customers := s.Open()
		ref := polargate.ExternalID(kit.Paying)
		balance := func() float64 {
			e, err := customers.Entitlements(t.Context(), ref)
			require.NoError(t, err)
			m, _ := e.Meter(kit.CallsMeter)
			return m.Balance
		}
		giveBack, ok, err := customers.Spend(t.Context(), ref, kit.CallsMeter, 0.25)
		require.NoError(t, err)
		require.True(t, ok)
		assert.InDelta(t, 99.75, balance(), 0)
		giveBack()
		giveBack()
		assert.InDelta(t, 100, balance(), 0)
		old, ok, err := customers.Spend(t.Context(), ref, kit.CallsMeter, 40)
		require.NoError(t, err)
		require.True(t, ok)
		s.Polar.DebitMeter(kit.Paying, kit.CallsMeter, 90)
		_, err = customers.Refresh(t.Context(), ref)
		require.NoError(t, err)
		assert.InDelta(t, 10, balance(), 0)
		old()
		assert.InDelta(t, 10, balance(), 0, "Polar's new answer counts")
		for _, units := range []float64{0, -1, math.NaN(), math.Inf(1), math.Inf(-1), math.MaxFloat64} {
			none, ok, err := customers.Spend(t.Context(), ref, kit.CallsMeter, units)
			_, isInput := errors.AsType[*polargate.InputError](err)
			assert.True(t, isInput && !ok, "%v", units)
			none()
		}
		for _, meter := range []string{"", kit.ProBenefit, "x"} {
			none, ok, err := customers.Spend(t.Context(), ref, meter, 1)
			require.NoError(t, err)
			assert.False(t, ok)
			none()
		}
		none, ok, err := customers.Spend(t.Context(), ref, kit.CallsMeter, 10.000001)
		require.NoError(t, err)
		assert.False(t, ok)
		none()
		assert.InDelta(t, 10, balance(), 0)
	})
}

func TestUnitsStaySpentUntilPolarHasCountedThem(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := kit.NewShop(t)
		customers := s.Warmed()
		ref := polargate.ExternalID(kit.Paying)
		spend := func(units float64) func() {
			giveBack, ok, err := customers.Spend(t.Context(), ref, kit.CallsMeter, units)
			require.NoError(t, err)
			require.True(t, ok)
			return giveBack
		}
		spend(10)
		time.Sleep(6 * time.Minute)
		s.Polar.Inject(polartest.Fault{Times: 1, Effect: polartest.Delay(2 * time.Second)})
		s.Has(customers, kit.Paying, true) // by a stale answer, and Polar is asked behind it
		time.Sleep(time.Second)
		given, kept, later := spend(20), spend(30), spend(7)
		given()
		assert.InDelta(t, 100-10-30-7, balanceOf(t, customers), 0)
		time.Sleep(2 * time.Second)
		assert.InDelta(t, 100-10-30-7, balanceOf(t, customers), 0, "Polar has counted nothing")
		kept()
		kept()
		assert.InDelta(t, 100-10-7, balanceOf(t, customers), 0, "it can still be given back")
		time.Sleep(time.Minute)
		s.Polar.DebitMeter(kit.Paying, kit.CallsMeter, 12)
		_, err := customers.Refresh(t.Context(), ref)
		require.NoError(t, err)
		assert.InDelta(t, 83, balanceOf(t, customers), 0, "12 of it are counted now, and nothing is taken off twice")
		later()
		assert.InDelta(t, 88, balanceOf(t, customers), 0, "what Polar hasn't counted can still be given back")
		time.Sleep(6 * time.Minute)
		s.Polar.SetOffline(true)
		s.Has(customers, kit.Paying, true)
		synctest.Wait()
		assert.InDelta(t, 88, balanceOf(t, customers), 0)
	})
}

func TestALateEventDoesNotRestoreSpentUnits(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := kit.NewShop(t)
		customers := s.Warmed(func(c *polargate.CustomersConfig) { c.FreshFor = time.Hour })
		received(t, s, customers)
		time.Sleep(10 * time.Second)
		s.Polar.HoldDeliveries()
		s.Polar.GrantBenefit(kit.Paying, polartest.Benefit{BenefitID: kit.TeaBenefit}) // the event says that 100 are left
		time.Sleep(time.Second)
		late, spent := s.Polar.Deliveries(), 0
		spendAll := func() {
			for {
				_, ok, err := customers.Spend(t.Context(), polargate.ExternalID(kit.Paying), kit.CallsMeter, 10)
				require.NoError(t, err)
				if !ok {
					return
				}
				s.Polar.DebitMeter(kit.Paying, kit.CallsMeter, 10) // the program tells Polar
				spent += 10
			}
		}
		spendAll()
		require.Equal(t, 100, spent)
		time.Sleep(20 * time.Minute)
		s.Polar.ReleaseDeliveries(late[len(late)-1].ID)
		require.NoError(t, s.Polar.WaitForDeliveries(t.Context()))
		s.Polar.SetOffline(true)
		spendAll()
		s.Polar.SetOffline(false)
		time.Sleep(time.Minute)
		spendAll()
		assert.Equal(t, 100, spent)
		s.Has(customers, kit.Paying, true)
	})
}
