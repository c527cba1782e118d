package servers

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
	"unsafe"

	"github.com/polargate/polargate"
	"github.com/polargate/polargate/polartest"
	"github.com/polargate/polargate/tests/internal/kit"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// requestMemory is where a server such as fasthttp has the texts of a request: in the
// next request they are others.
type requestMemory []byte

func newRequestMemory() requestMemory { return make(requestMemory, 64) }

// text is a string in that memory.
func (m requestMemory) text(s string) string {
	copy(m, s)
	return unsafe.String(&m[0], len(s))
}

func (m requestMemory) endOfRequest() { copy(m, strings.Repeat("#", len(m))) }

// asIn calls with an external id that is gone after the call.
func (m requestMemory) asIn(id string, call func(polargate.CustomerRef)) {
	call(polargate.ExternalID(m.text(id)))
	m.endOfRequest()
}

func TestIdsInMemoryThatIsUsedAgainAreNotMixedUp(t *testing.T) {
	ctx := context.Background()
	for name, call := range map[string]func(customers *polargate.Customers, ref polargate.CustomerRef) (have *polargate.Entitlements){
		"Entitlements": func(c *polargate.Customers, ref polargate.CustomerRef) *polargate.Entitlements {
			e, _ := c.Entitlements(ctx, ref)
			return e
		},
		"Decide": func(c *polargate.Customers, ref polargate.CustomerRef) *polargate.Entitlements {
			e, refusal := c.Decide(ctx, ref, polargate.Feature("pro"))
			if refusal != nil {
				return refusal.Entitlements
			}
			return e
		},
		"Refresh, then Entitlements": func(c *polargate.Customers, ref polargate.CustomerRef) *polargate.Entitlements {
			if c.Stats().Requests < 100 {
				e, _ := c.Refresh(ctx, ref)
				return e
			}
			e, _ := c.Entitlements(ctx, ref)
			return e
		},
		"Spend, then Entitlements": func(c *polargate.Customers, ref polargate.CustomerRef) *polargate.Entitlements {
			_, _, _ = c.Spend(ctx, ref, kit.CallsMeter, 1)
			e, _ := c.Entitlements(ctx, ref)
			return e
		},
		"Middleware": func(c *polargate.Customers, ref polargate.CustomerRef) (have *polargate.Entitlements) {
			gate := c.Route(polargate.Route{
				Customer: func(*http.Request) polargate.CustomerRef { return ref },
				Refuse:   func(_ http.ResponseWriter, _ *http.Request, r polargate.Refusal) { have = r.Entitlements },
			})
			gate(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				have, _ = polargate.FromContext(r.Context())
			})).ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/", nil))
			return have
		},
	} {
		t.Run(name, func(t *testing.T) {
			kit.Bubbled(t, func(t *testing.T) {
				s := kit.NewShop(t)
				customers := s.Open(func(c *polargate.CustomersConfig) { c.RequestsPerMinute = 1_000_000 })
				id := func(i int) string { return fmt.Sprintf("usr_%03d", i) }
				for i := range 100 { // every other one is not known to Polar
					if i%2 == 0 {
						s.Add(id(i))
					}
				}
				memory := newRequestMemory()
				for round := range 4 { // the second look moves an entry to those who come often
					for i := range 100 {
						memory.asIn(id(i), func(ref polargate.CustomerRef) {
							e := call(customers, ref)
							require.NotNil(t, e)
							if i%2 == 0 {
								assert.Equal(t, id(i), e.ExternalID(), "round %d", round)
							} else {
								assert.False(t, e.Known(), "round %d: %s", round, id(i))
							}
						})
					}
				}
				assert.Equal(t, 100, s.Asked(), "each is asked about once")
			})
		})
	}
}

func TestAQuestionThatOutlivesItsRequestIsStillAboutTheSameCustomer(t *testing.T) {
	for name, begin := range map[string]func(t *testing.T, s *kit.Shop, customers *polargate.Customers, memory requestMemory){
		"the caller gave up": func(t *testing.T, _ *kit.Shop, customers *polargate.Customers, memory requestMemory) {
			t.Helper()
			ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
			defer cancel()
			memory.asIn("usr_new", func(ref polargate.CustomerRef) {
				_, err := customers.Entitlements(ctx, ref)
				require.ErrorIs(t, err, context.DeadlineExceeded)
			})
		},
		"the answer was stale": func(t *testing.T, s *kit.Shop, customers *polargate.Customers, memory requestMemory) {
			t.Helper()
			s.Has(customers, "usr_new", true)
			time.Sleep(10 * time.Minute)
			memory.asIn("usr_new", func(ref polargate.CustomerRef) {
				_, err := customers.Entitlements(t.Context(), ref)
				require.NoError(t, err)
			})
		},
	} {
		t.Run(name, func(t *testing.T) {
			kit.Bubbled(t, func(t *testing.T) {
				s := kit.NewShop(t)
				s.Add("usr_new")
				s.Polar.Inject(polartest.Fault{Effect: polartest.Delay(time.Second)})
				customers := s.Open()
				begin(t, s, customers, newRequestMemory())
				time.Sleep(2 * time.Second)
				synctest.Wait()
				asked := s.Asked()
				s.Has(customers, "usr_new", true)
				assert.Equal(t, asked, s.Asked(), "the answer is in memory by now, and fresh")
				assert.Equal(t, 1, customers.Stats().Cached)
				for _, r := range s.Polar.Requests() {
					assert.Contains(t, r.Path, "/usr_new/")
				}
			})
		})
	}
}

func TestARouteKeepsNothingOfTheMemoryItWasMadeFrom(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := kit.NewShop(t)
		of := make([]requestMemory, 5)
		for i := range of {
			of[i] = newRequestMemory()
		}
		customers := s.Open(func(c *polargate.CustomersConfig) {
			c.Features = map[string][]string{kit.ProBenefit: {of[4].text("pro")}}
		})
		gate := customers.Route(polargate.Route{
			Customer:   func(*http.Request) polargate.CustomerRef { return polargate.ExternalID(kit.Paying) },
			Require:    []polargate.Requirement{polargate.Any(polargate.All(polargate.Feature(of[0].text("pro")), polargate.Benefit(of[1].text(kit.ProBenefit))))},
			Spend:      polargate.Cost{MeterID: of[2].text(kit.CallsMeter), Units: 1},
			UpgradeURL: of[3].text("/plans"),
		})
		for _, m := range of {
			m.endOfRequest()
		}
		var have *polargate.Entitlements
		route := gate(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { have, _ = polargate.FromContext(r.Context()) }))
		for _, want := range []int{200, 402} {
			w := httptest.NewRecorder()
			route.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/", nil))
			assert.Equal(t, want, w.Code, w.Body)
			if want == 402 {
				assert.Contains(t, w.Body.String(), "/plans")
				continue
			}
			m, _ := have.Meter(kit.CallsMeter)
			assert.InDelta(t, 99, m.Balance, 0)
			s.Polar.RevokeBenefit(kit.Paying, kit.ProBenefit)
			_, err := customers.Refresh(t.Context(), polargate.ExternalID(kit.Paying))
			require.NoError(t, err)
		}
	})
}

// requestContext is a context that a server uses for its next request, as fasthttp
// does: nobody may look into it once the request has ended.
type requestContext struct {
	context.Context
	ended atomic.Bool
	late  atomic.Int64
}

func (c *requestContext) Value(key any) any {
	if c.ended.Load() {
		c.late.Add(1)
	}
	return c.Context.Value(key)
}

func TestARequestsContextIsNotUsedAfterItHasEnded(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := kit.NewShop(t)
		looked := make(chan struct{})
		s.Config.HTTPClient = &http.Client{Transport: lookingInto{s.Polar.Client().Transport, looked}}
		customers := s.Open()
		ctx := &requestContext{Context: t.Context()}
		impatient, cancel := context.WithTimeout(ctx, time.Millisecond)
		_, err := customers.Entitlements(impatient, polargate.ExternalID(kit.Paying))
		require.ErrorIs(t, err, context.DeadlineExceeded)
		cancel()
		ctx.ended.Store(true)
		close(looked)
		synctest.Wait()
		s.Has(customers, kit.Paying, true)
		assert.Equal(t, 1, s.Asked())
		assert.Zero(t, ctx.late.Load())
	})
}

// lookingInto is a transport that looks for a value in the context of a request, as
// one that traces does, after a while.
type lookingInto struct {
	http.RoundTripper
	wait chan struct{}
}

func (l lookingInto) RoundTrip(r *http.Request) (*http.Response, error) {
	<-l.wait
	_ = r.Context().Value(lookingInto{})
	return l.RoundTripper.RoundTrip(r)
}
