package servers

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strconv"
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

const plan = "8c499570-3242-437e-a9f5-6fee6cff7593" // a product

// bigOrganization is a Polar with many customers of whom each has the same, and who are
// not kept anywhere: polartest would sort ten thousand of them for each page.
type bigOrganization struct {
	customers, grants, meters, subscriptions int // the last three of each customer
	lists, states                            atomic.Int64
}

var grantOf = []string{kit.ProBenefit, kit.TeaBenefit, "d0b99bc4-a459-43d2-b039-8ca2c1f87e10"}

func (o *bigOrganization) customer(i int) string {
	return fmt.Sprintf(`"id":"00000000-0000-4000-8000-%012d","external_id":"usr_%d","email":"usr_%d@example.com","organization_id":"34f57e13-8bcb-4481-85b2-a4b55c4ba0b9","deleted_at":null`, i, i, i)
}

func (o *bigOrganization) RoundTrip(r *http.Request) (*http.Response, error) {
	var body bytes.Buffer
	each, entry := 0, ""
	switch r.URL.Path {
	case "/v1/benefit-grants/":
		each, entry = o.grants, `,"benefit_id":"%[2]s","benefit":{"type":"custom","metadata":{}},"properties":{}`
	case "/v1/subscriptions/":
		each, entry = o.subscriptions, `,"status":"active","product_id":"`+plan+`"`
	case "/v1/customer-meters/":
		each, entry = o.meters, `,"meter_id":"`+kit.CallsMeter+`","consumed_units":1.0,"credited_units":100,"balance":99.0`
	default:
		o.states.Add(1)
		i, _ := strconv.Atoi(strings.TrimSuffix(strings.TrimPrefix(r.URL.Path, "/v1/customers/external/usr_"), "/state"))
		fmt.Fprintf(&body, `{%s,"granted_benefits":[{"benefit_id":"%s","benefit_type":"custom"}],"active_subscriptions":[],"active_meters":[]}`, o.customer(i), kit.ProBenefit)
		return answer(r, &body), nil
	}
	o.lists.Add(1)
	page, _ := strconv.Atoi(r.URL.Query().Get("page"))
	size := o.customers * each
	body.WriteString(`{"items":[`)
	for n := (page - 1) * 100; n < min(page*100, size); n++ {
		i, kind := n%o.customers, n/o.customers // so that what one has is on several pages
		at := time.Date(2026, 1, 1, 0, 0, n, 0, time.UTC).Format(time.RFC3339)
		if n%100 > 0 {
			body.WriteByte(',')
		}
		fmt.Fprintf(&body, `{"id":"%08d-0000-4000-9000-000000000000","granted_at":"%[2]s","started_at":"%[2]s","created_at":"%[2]s","customer":{%[3]s}`, n, at, o.customer(i))
		body.WriteString(strings.ReplaceAll(entry, "%[2]s", grantOf[kind]) + "}")
	}
	fmt.Fprintf(&body, `],"pagination":{"total_count":%d,"max_page":%d}}`, size, (size+99)/100)
	return answer(r, &body), nil
}

func answer(r *http.Request, body *bytes.Buffer) *http.Response {
	return &http.Response{StatusCode: 200, Request: r, Body: io.NopCloser(body),
		Header: http.Header{"Content-Type": {"application/json"}, "Date": {time.Now().UTC().Format(http.TimeFormat)}}}
}

func (o *bigOrganization) open(t *testing.T) *polargate.Customers {
	t.Helper()
	customers, err := polargate.NewCustomers(polargate.CustomersConfig{
		AccessToken: "polar_oat_" + t.Name(), BaseURL: "http://polar.test", HTTPClient: &http.Client{Transport: o},
		Features: map[string][]string{kit.ProBenefit: {"pro"}}, RequestsPerMinute: 300,
	})
	require.NoError(t, err)
	t.Cleanup(func() { _ = customers.Close() })
	return customers
}

func TestTenThousandCustomersAreInTheCacheSoonAfterAColdStart(t *testing.T) {
	for name, c := range map[string]struct {
		of     *bigOrganization
		within time.Duration
	}{
		"a grant each": {&bigOrganization{customers: 10_000, grants: 1}, time.Minute},
		"three grants, a meter and a subscription each": {&bigOrganization{customers: 10_000, grants: 3, meters: 1, subscriptions: 1}, 150 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			kit.Bubbled(t, func(t *testing.T) {
				customers := c.of.open(t)
				began := time.Now()
				n, err := customers.Warm(t.Context())
				require.NoError(t, err)
				assert.Equal(t, 10_000, n)
				assert.LessOrEqual(t, time.Since(began), c.within)
				t.Log(time.Since(began), c.of.lists.Load(), "pages")
				for i := range 10_000 {
					e, err := customers.Entitlements(t.Context(), polargate.ExternalID(usr(i)))
					require.NoError(t, err)
					require.True(t, e.Has("pro"))
					require.Len(t, e.Benefits(), c.of.grants)
					require.Len(t, e.Meters(), c.of.meters)
					require.Equal(t, c.of.subscriptions == 1, e.Subscribed(plan))
				}
				assert.Zero(t, c.of.states.Load())
			})
		})
	}
}

func TestTenThousandCustomersWhoAllComeAtOnceAreServedWithinAMinute(t *testing.T) {
	for name, subscriptions := range map[string]int{"a grant each": 0, "a grant and a subscription each": 1} {
		t.Run(name, func(t *testing.T) {
			kit.Bubbled(t, func(t *testing.T) {
				o := &bigOrganization{customers: 10_000, grants: 1, subscriptions: subscriptions}
				customers := o.open(t)
				warmed := make(chan error)
				go func() { _, err := customers.Warm(t.Context()); warmed <- err }()
				synctest.Wait() // it is called before the server listens
				began := time.Now()
				waiting := make([]int, o.customers)
				for i := range waiting {
					waiting[i] = i
				}
				asked := int64(0)
				for len(waiting) > o.customers/100 {
					asked = o.states.Load()
					left := waiting[:0]
					for _, i := range waiting {
						ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
						if _, err := customers.Entitlements(ctx, polargate.ExternalID(usr(i))); err != nil {
							left = append(left, i)
						}
						cancel()
					}
					waiting = left
					time.Sleep(2 * time.Second)
				}
				assert.LessOrEqual(t, time.Since(began), time.Minute)
				t.Log(time.Since(began), o.lists.Load(), "pages", o.states.Load(), "states")
				assert.GreaterOrEqual(t, asked, int64(30), "some were asked about meanwhile")
				require.NoError(t, <-warmed)
			})
		})
	}
}

func TestCustomersWhoComeWhileListsAreReadDoNotWait(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		o := &bigOrganization{customers: 10_000, grants: 1, subscriptions: 1}
		customers := o.open(t)
		warmed := make(chan error, 1)
		go func() { _, err := customers.Warm(t.Context()); warmed <- err }()
		for i := 0; len(warmed) == 0; i++ {
			time.Sleep(500 * time.Millisecond)
			began := time.Now()
			_, err := customers.Entitlements(t.Context(), polargate.ExternalID(usr(i)))
			require.NoError(t, err)
			require.Equal(t, began, time.Now())
		}
		require.NoError(t, <-warmed)
		assert.GreaterOrEqual(t, o.states.Load(), int64(50))
	})
}

// crowd adds customers with pro and tea, usr_0, usr_1 and so on. Their grants of pro are
// older than all of tea.
func crowd(s *kit.Shop, n int) {
	began := s.Polar.Now().Add(-24 * time.Hour)
	for i := range n {
		pro, tea := began.Add(time.Duration(i)*time.Second), began.Add(time.Duration(n+i)*time.Second)
		s.Polar.AddCustomer(polartest.Customer{ExternalID: usr(i), Benefits: []polartest.Benefit{
			{BenefitID: kit.ProBenefit, GrantedAt: pro, CreatedAt: pro}, {BenefitID: kit.TeaBenefit, GrantedAt: tea, CreatedAt: tea}}})
	}
}

func usr(i int) string { return fmt.Sprint("usr_", i) }

// paged has something happen before each page of a list, which counts from 1.
func paged(s *kit.Shop, before func(page int)) {
	way, pages, turn := s.Polar.Transport(), 0, make(chan struct{}, 1)
	s.Config.HTTPClient = &http.Client{Transport: kit.RoundTripper(func(r *http.Request) (*http.Response, error) {
		if r.URL.Query().Has("sorting") {
			turn <- struct{}{}
			pages++
			before(pages)
			<-turn
		}
		return way.RoundTrip(r)
	})}
}

func warm(t *testing.T, customers *polargate.Customers) int {
	t.Helper()
	n, err := customers.Warm(t.Context())
	require.NoError(t, err)
	return n
}

func TestNobodyIsRefusedByHalfAStateWhenGrantsComeAndGoWhileListsAreRead(t *testing.T) {
	t.Parallel()
	for seed := range uint64(8) {
		synctest.Test(t, func(t *testing.T) {
			rnd := rand.New(rand.NewPCG(seed, 14))
			s := kit.NewShop(t)
			const n = 250
			crowd(s, n)
			had := map[string]map[string]bool{} // at some time since lists are read
			note := func(i int) {
				c, _ := s.Polar.Customer(usr(i))
				for _, b := range c.Benefits {
					if !b.Revoked {
						had[usr(i)][b.BenefitID] = true
					}
				}
			}
			for i := range n {
				had[usr(i)] = map[string]bool{}
				note(i)
			}
			paged(s, func(int) {
				time.Sleep(time.Second)
				for range rnd.IntN(12) {
					i := rnd.IntN(n)
					c, _ := s.Polar.Customer(usr(i))
					b := c.Benefits[rnd.IntN(len(c.Benefits))]
					if b.Revoked {
						s.Polar.UpdateCustomer(usr(i), func(c *polartest.Customer) {
							for j := range c.Benefits {
								if c.Benefits[j].ID == b.ID {
									c.Benefits[j].Revoked, c.Benefits[j].GrantedAt = false, s.Polar.Now()
								}
							}
						})
					} else {
						s.Polar.RevokeBenefit(usr(i), b.BenefitID)
					}
					note(i)
				}
			})
			customers := s.Open()
			warmed := warm(t, customers)
			assert.Greater(t, warmed, n/2)
			asked := s.Asked()
			for i := range n {
				e, err := customers.Entitlements(t.Context(), polargate.ExternalID(usr(i)))
				require.NoError(t, err)
				now, _ := s.Polar.Customer(usr(i))
				for _, b := range now.Benefits {
					_, has := e.Benefit(b.BenefitID)
					if has {
						assert.True(t, had[usr(i)][b.BenefitID], "seed %d: never granted", seed)
					} else {
						assert.True(t, b.Revoked, "seed %d: refused, and has it", seed)
					}
				}
			}
			assert.Less(t, s.Asked()-asked, n/2)
		})
	}
}

func TestWhatWasHeardWhileListsWereReadStays(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := kit.NewShop(t)
		crowd(s, 250)
		secret := polartest.Secret{Text: "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"}
		var customers *polargate.Customers
		paged(s, func(page int) {
			time.Sleep(2 * time.Second)
			if page != 8 { // all entries of tea have been read, and none of pro
				return
			}
			s.Polar.RevokeBenefit(usr(0), kit.TeaBenefit)
			s.Polar.RevokeBenefit(usr(1), kit.TeaBenefit)
			s.Polar.DeleteCustomer(usr(2))
			_, err := customers.Refresh(t.Context(), polargate.ExternalID(usr(1)))
			require.NoError(t, err)
			_, err = customers.Entitlements(t.Context(), polargate.ExternalID(usr(2)))
			require.NoError(t, err)
		})
		customers = s.Open()
		s.Polar.AddEndpoint(polartest.Endpoint{Handler: customers.WebhookHandler(secret.Text), Secrets: []polartest.Secret{secret}})
		warm(t, customers)
		s.Polar.SetOffline(true) // so that only what is in memory can answer
		for i := range 2 {
			e, err := customers.Entitlements(t.Context(), polargate.ExternalID(usr(i)))
			require.NoError(t, err)
			_, tea := e.Benefit(kit.TeaBenefit)
			assert.False(t, tea, "usr_%d", i)
			assert.True(t, e.Has("pro"))
		}
		e, err := customers.Entitlements(t.Context(), polargate.ExternalID(usr(2)))
		require.NoError(t, err)
		assert.False(t, e.Known())
		assert.False(t, e.Has("pro"))
	})
}

func TestACustomerWhoChangesWhileListsAreReadIsAskedAbout(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := kit.NewShop(t)
		crowd(s, 250)
		paged(s, func(page int) {
			time.Sleep(time.Second)
			if page == 8 { // a change of plan
				s.Polar.RevokeBenefit(usr(0), kit.TeaBenefit)
				s.Polar.GrantBenefit(usr(0), polartest.Benefit{BenefitID: "d0b99bc4-a459-43d2-b039-8ca2c1f87e10"})
			}
		})
		customers := s.Open()
		assert.Equal(t, 250, warm(t, customers))
		assert.Equal(t, 1, customers.Stats().Warm.LeftOut)
		asked := s.Asked()
		e, err := customers.Entitlements(t.Context(), polargate.ExternalID(usr(0)))
		require.NoError(t, err)
		_, tea := e.Benefit(kit.TeaBenefit)
		assert.False(t, tea)
		assert.Equal(t, asked+1, s.Asked())
	})
}

func TestACustomerOfWhomAnEventCannotBeReadWhileListsAreReadIsAskedAbout(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := kit.NewShop(t)
		crowd(s, 250)
		const secret = "a text that is the key itself"
		var handler http.Handler
		paged(s, func(page int) {
			time.Sleep(time.Second)
			if page != 8 {
				return
			}
			c, _ := s.Polar.Customer(usr(0))
			body := fmt.Sprintf(`{"type":"customer.state_changed","timestamp":%q,"data":{"id":%q,"external_id":"usr_0","organization_id":%q,"granted_benefits":7}}`,
				time.Now().UTC().Format(time.RFC3339), c.ID, s.Polar.OrganizationID())
			at := fmt.Sprint(time.Now().Unix())
			mac := hmac.New(sha256.New, []byte(secret))
			mac.Write([]byte("msg_1." + at + "." + body))
			r := httptest.NewRequest(http.MethodPost, "/", strings.NewReader(body))
			r.Header.Set("Webhook-Id", "msg_1")
			r.Header.Set("Webhook-Timestamp", at)
			r.Header.Set("Webhook-Signature", "v1,"+base64.StdEncoding.EncodeToString(mac.Sum(nil)))
			w := httptest.NewRecorder()
			handler.ServeHTTP(w, r)
			require.Less(t, w.Code, 300)
		})
		customers := s.Open()
		handler = customers.WebhookHandler(secret)
		assert.Equal(t, 250, warm(t, customers))
		asked := s.Asked()
		s.Has(customers, usr(0), true)
		assert.Equal(t, asked+1, s.Asked())
	})
}

func TestWarmGoesOnWhereItsContextEnded(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := kit.NewShop(t)
		crowd(s, 500)
		s.Polar.Inject(polartest.Fault{Effect: polartest.Delay(time.Second)})
		customers := s.Open()
		for range 3 {
			ctx, cancel := context.WithTimeout(t.Context(), 3500*time.Millisecond)
			n, err := customers.Warm(ctx)
			cancel()
			require.ErrorIs(t, err, context.DeadlineExceeded)
			assert.Zero(t, n)
			stats := customers.Stats().Warm
			assert.False(t, stats.Running)
			assert.Less(t, stats.Pages, stats.TotalPages)
			assert.Zero(t, customers.Stats().Cached, "nothing of half a walk is used")
		}
		assert.Equal(t, 501, warm(t, customers))
		assert.LessOrEqual(t, s.Asked(), 12+1+1+3+2, "a page more for each time at most")
	})
}

func TestWarmBeginsAnewAfterAWhile(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := kit.NewShop(t)
		crowd(s, 500)
		s.Polar.Inject(polartest.Fault{Effect: polartest.Delay(time.Second)})
		customers := s.Open()
		ctx, cancel := context.WithTimeout(t.Context(), 8*time.Second)
		defer cancel()
		_, err := customers.Warm(ctx)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		time.Sleep(time.Hour)
		for i := range 500 {
			s.Polar.RevokeBenefit(usr(i), kit.TeaBenefit)
		}
		warm(t, customers)
		e, err := customers.Entitlements(t.Context(), polargate.ExternalID(usr(499)))
		require.NoError(t, err)
		assert.True(t, e.Has("pro"))
		assert.Len(t, e.Benefits(), 1)
	})
}

func TestWarmWaitsOutFaultsInTheMiddle(t *testing.T) {
	for name, c := range map[string]struct {
		effect polartest.Effect
		takes  time.Duration // at least
	}{
		"429":                       {polartest.RateLimited("40"), 40 * time.Second},
		"500":                       {polartest.ServerError(500), time.Second / 2},
		"silence":                   {polartest.Hang(), 10 * time.Second},
		"a page of a proxy":         {polartest.ProxyPage(502), time.Second / 2},
		"a login page":              {polartest.LoginPage(200), time.Second / 2},
		"an answer that breaks off": {polartest.Truncated(), 0},
	} {
		t.Run(name, func(t *testing.T) {
			kit.Bubbled(t, func(t *testing.T) {
				s := kit.NewShop(t)
				crowd(s, 500)
				customers := s.Open()
				s.Polar.Inject(polartest.Fault{Skip: 5, Times: 4, Effect: c.effect})
				began := time.Now()
				assert.Equal(t, 501, warm(t, customers))
				assert.GreaterOrEqual(t, time.Since(began), c.takes)
				s.Has(customers, usr(499), true)
				assert.LessOrEqual(t, s.Asked(), 12+1+1+3+4, "no page is read twice for it")
			})
		})
	}
}

func TestATokenThatMayNotReadListsSaysSoAndCustomersAreAskedAboutOneByOne(t *testing.T) {
	all := []string{"customers:read", "license_keys:read", "benefits:read", "subscriptions:read", "customer_meters:read"}
	for _, lacking := range all[2:] {
		t.Run(lacking, func(t *testing.T) {
			kit.Bubbled(t, func(t *testing.T) {
				s := kit.NewShop(t)
				var scopes []string
				for _, scope := range all {
					if scope != lacking {
						scopes = append(scopes, scope)
					}
				}
				s.Config.AccessToken = s.Polar.AddToken(polartest.Token{Scopes: scopes})
				crowd(s, 250)
				customers := s.Open()
				s.Polar.Inject(polartest.Fault{Effect: polartest.Delay(time.Second)})
				n, err := customers.Warm(t.Context())
				s.Polar.ClearFaults()
				require.ErrorIs(t, err, polargate.ErrMisconfigured)
				assert.Contains(t, err.Error(), lacking)
				assert.Contains(t, err.Error(), "one by one")
				assert.Zero(t, n)
				assert.LessOrEqual(t, s.Asked(), 3+2, "the other two lists may be a page further by then, and are read no more")
				require.ErrorIs(t, customers.Stats().Misconfigured, polargate.ErrMisconfigured)
				assert.Contains(t, s.Log.String(), "may not read Polar's lists")
				_, err = customers.Warm(t.Context())
				require.ErrorIs(t, err, polargate.ErrMisconfigured)
				assert.Equal(t, 1, strings.Count(s.Log.String(), "may not read Polar's lists"))
				s.Has(customers, kit.Paying, true)
				s.Has(customers, usr(7), true)
			})
		})
	}
}

func TestACustomerWhoIsInNoListIsAskedAboutAndNotRefused(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := kit.NewShop(t)
		s.Polar.AddCustomer(polartest.Customer{ExternalID: "usr_new"})
		customers := s.Open()
		assert.Equal(t, 1, warm(t, customers))
		s.Polar.GrantBenefit("usr_new", polartest.Benefit{BenefitID: kit.ProBenefit})
		s.Has(customers, "usr_new", true)
		s.Polar.SetOffline(true)
		_, err := customers.Entitlements(t.Context(), polargate.ExternalID("usr_other"))
		require.ErrorIs(t, err, polargate.ErrUnreachable, "as without Warm")
	})
}

func TestARefusalByTheListsIsDoubtedAtOnce(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := kit.NewShop(t)
		s.Polar.AddCustomer(polartest.Customer{ExternalID: "usr_tea", Benefits: []polartest.Benefit{{BenefitID: kit.TeaBenefit}}})
		customers := s.Open()
		warm(t, customers)
		s.Polar.GrantBenefit("usr_tea", polartest.Benefit{BenefitID: kit.ProBenefit})
		asked := s.Asked()
		e, refusal := customers.Decide(t.Context(), polargate.ExternalID("usr_tea"), polargate.Feature("pro"))
		assert.Nil(t, refusal)
		assert.True(t, e.Has("pro"))
		assert.Equal(t, asked+1, s.Asked())
	})
}

func TestWhatListsSayIsAsOldAsTheirPages(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := kit.NewShop(t)
		crowd(s, 500)
		s.Polar.Inject(polartest.Fault{Path: "/v1/benefit-grants/", Effect: polartest.Delay(9 * time.Second)})
		customers := s.Open(func(c *polargate.CustomersConfig) { c.FreshFor, c.StaleFor = 3*time.Minute, -1 })
		began := time.Now()
		warm(t, customers)
		require.Greater(t, time.Since(began), 100*time.Second)
		asked := s.Asked()
		time.Sleep(210*time.Second - time.Since(began))
		s.Has(customers, usr(0), true) // whose tea was read a minute after it began
		assert.Equal(t, asked, s.Asked())
		s.Has(customers, usr(499), true) // at once
		assert.Equal(t, asked+1, s.Asked())
		time.Sleep(40 * time.Second)
		s.Has(customers, usr(0), true)
		assert.Equal(t, asked+2, s.Asked())
	})
}

func TestTwoCallsOfWarmReadListsOnce(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := kit.NewShop(t)
		crowd(s, 250)
		s.Polar.Inject(polartest.Fault{Effect: polartest.Delay(time.Second)})
		customers := s.Open()
		var group sync.WaitGroup
		for range 3 {
			group.Go(func() { assert.Equal(t, 251, warm(t, customers)) })
		}
		group.Wait()
		assert.Equal(t, int64(1), customers.Stats().Warm.Walks)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, err := customers.Warm(ctx)
		require.ErrorIs(t, err, context.Canceled)
	})
}

func TestCloseEndsWarm(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := kit.NewShop(t)
		s.Polar.Inject(polartest.Fault{Effect: polartest.Hang()})
		customers := s.Open()
		time.AfterFunc(time.Second, func() { _ = customers.Close() })
		_, err := customers.Warm(context.Background())
		require.ErrorIs(t, err, polargate.ErrClosed)
		_, err = customers.Warm(context.Background())
		require.ErrorIs(t, err, polargate.ErrClosed)
		var wrong *polargate.InputError
		var noContext context.Context
		_, err = customers.Warm(noContext)
		require.ErrorAs(t, err, &wrong)
	})
}

func TestWarmEvictsNobody(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := kit.NewShop(t)
		crowd(s, 250)
		customers := s.Warmed(func(c *polargate.CustomersConfig) { c.CacheSize = 100 })
		assert.Equal(t, 100, warm(t, customers))
		stats := customers.Stats()
		assert.Equal(t, 100, stats.Cached)
		assert.Equal(t, 151, stats.Warm.NoRoom)
		assert.Contains(t, s.Log.String(), "CacheSize")
		asked := s.Asked()
		s.Has(customers, kit.Paying, true)
		assert.Equal(t, asked, s.Asked())
	})
}

func TestWarmTellsHowItGetsOn(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := kit.NewShop(t)
		crowd(s, 500)
		s.Polar.Inject(polartest.Fault{Effect: polartest.Delay(8 * time.Second)})
		customers := s.Open()
		done := make(chan int)
		go func() { done <- warm(t, customers) }()
		time.Sleep(41 * time.Second)
		stats := customers.Stats().Warm
		assert.True(t, stats.Running)
		assert.Equal(t, 5+1+1, stats.Pages)
		assert.Equal(t, 13+1+1, stats.TotalPages)
		assert.Zero(t, stats.Customers)
		<-done
		stats = customers.Stats().Warm
		assert.Equal(t, polargate.WarmStats{Pages: 15, TotalPages: 15, Customers: 501, Walks: 1, EndedAt: stats.EndedAt}, stats)
		assert.WithinDuration(t, time.Now(), stats.EndedAt, time.Second)
		assert.Equal(t, 15, s.Asked())
		assert.EqualValues(t, 15, customers.Stats().Requests)
		for _, want := range []string{"pages_read=6 pages=15", "customers=501"} {
			assert.Contains(t, s.Log.String(), want)
		}
		assert.NotContains(t, s.Log.String(), "usr_")
	})
}

func TestListsThatCannotBeReadChangeNothing(t *testing.T) {
	entry := func(customer string) string {
		return `{"items":[{"id":"11111111-1111-4111-8111-111111111111","granted_at":"2026-01-01T00:00:00Z","customer":` + customer + `}],"pagination":{"total_count":1,"max_page":1}}`
	}
	for name, body := range map[string]string{
		"an entry without a customer":         entry(`null`),
		"an entry of another organization":    entry(`{"id":"11111111-1111-4111-8111-111111111111","organization_id":"22222222-2222-4222-8222-222222222222"}`),
		"an entry that is no object":          `{"items":[7],"pagination":{"total_count":1,"max_page":1}}`,
		"an entry without its time":           strings.Replace(entry(`{"id":"11111111-1111-4111-8111-111111111111"}`), `"2026-01-01T00:00:00Z"`, `null`, 1),
		"a list that lacks entries":           `{"items":[],"pagination":{"total_count":1,"max_page":1}}`,
		"a list in another order than it was": strings.Replace(entry(`{"id":"11111111-1111-4111-8111-111111111111"}`), `"items":[`, `"items":[{"id":"33333333-3333-4333-8333-333333333333","granted_at":"2026-02-01T00:00:00Z","customer":{"id":"11111111-1111-4111-8111-111111111111"}},`, 1),
	} {
		t.Run(name, func(t *testing.T) {
			kit.Bubbled(t, func(t *testing.T) {
				s := kit.NewShop(t)
				way := s.Polar.Transport()
				s.Config.HTTPClient = &http.Client{Transport: kit.RoundTripper(func(r *http.Request) (*http.Response, error) {
					if r.URL.Path == "/v1/benefit-grants/" {
						return answer(r, bytes.NewBufferString(body)), nil
					}
					return way.RoundTrip(r)
				})}
				customers := s.Open()
				n, err := customers.Warm(t.Context())
				require.ErrorIs(t, err, polargate.ErrUnreachable)
				assert.Contains(t, err.Error(), "one by one")
				if strings.HasPrefix(name, "an entry") {
					assert.Contains(t, err.Error(), "Polar's list of benefit grants")
				}
				assert.Zero(t, n)
				assert.Zero(t, customers.Stats().Cached)
				s.Has(customers, kit.Paying, true)
			})
		})
	}
}

func TestLicenseKeysOfManyCustomersAreReadByListsToo(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := newKeyShop(t, polartest.LicenseKey{})
		for i := range 120 {
			s.Add(usr(i))
			s.grant(usr(i), polartest.LicenseKey{BenefitID: desktopBenefit, ExpiresAt: s.Polar.Now().Add(time.Duration(i%2*2-1) * time.Hour)})
		}
		customers := s.Open()
		assert.Equal(t, 122, warm(t, customers))
		asked := s.Asked()
		for i := range 120 {
			e, err := customers.Entitlements(t.Context(), polargate.ExternalID(usr(i)))
			require.NoError(t, err)
			assert.Equal(t, i%2 == 1, e.Has("desktop"), "half of the keys have expired")
			assert.True(t, e.Has("pro"))
		}
		s.decides(customers, 200)
		assert.Equal(t, asked, s.Asked())
	})
}

func TestUnitsThatWereSpentWhileListsWereReadStaySpent(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := kit.NewShop(t)
		crowd(s, 250)
		var customers *polargate.Customers
		paged(s, func(page int) {
			time.Sleep(time.Second)
			if page == 6 {
				_, ok, err := customers.Spend(t.Context(), polargate.ExternalID(kit.Paying), kit.CallsMeter, 90)
				require.NoError(t, err)
				require.True(t, ok)
			}
		})
		customers = s.Warmed()
		warm(t, customers)
		e, err := customers.Entitlements(t.Context(), polargate.ExternalID(kit.Paying))
		require.NoError(t, err)
		m, _ := e.Meter(kit.CallsMeter)
		assert.Equal(t, 10.0, m.Balance)
	})
}

// silent is a shop that relies on webhooks, and gets none.
func silent(t *testing.T, change ...func(*polargate.CustomersConfig)) (*kit.Shop, *polargate.Customers) {
	s := kit.NewShop(t)
	return s, s.Warmed(append([]func(*polargate.CustomersConfig){func(c *polargate.CustomersConfig) {
		c.FreshFor, c.SweepAfter = 24*time.Hour, 2*time.Hour
	}}, change...)...)
}

func TestListsAreReadWhenWebhooksAreSilent(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s, customers := silent(t)
		s.Add("usr_1")
		s.Has(customers, "usr_1", true)
		s.Polar.RevokeBenefit(kit.Paying, kit.ProBenefit)
		s.Polar.UpdateCustomer("usr_1", func(c *polartest.Customer) { c.Meters = nil })
		s.Polar.RevokeBenefit("usr_1", kit.ProBenefit)
		time.Sleep(2*time.Hour - time.Second)
		s.Has(customers, kit.Paying, true)
		time.Sleep(time.Minute)
		asked := s.Asked()
		s.Has(customers, kit.Paying, false) // who has a meter still
		assert.LessOrEqual(t, s.Asked(), asked+1)
		s.Has(customers, "usr_1", false) // who is in no list any more
		s.Has(customers, kit.Paying, false)
		s.Has(customers, kit.Paying, false)
		time.Sleep(2 * time.Hour)
		assert.EqualValues(t, 2, customers.Stats().Warm.Walks)
		time.Sleep(20 * time.Hour)
		assert.EqualValues(t, 2, customers.Stats().Warm.Walks, "nobody came")
		s.Has(customers, kit.Paying, false)
		_ = customers.Close()
		time.Sleep(5 * time.Hour)
		assert.EqualValues(t, 2, customers.Stats().Warm.Walks)
	})
}

func TestListsAreNotReadWhileWebhooksCome(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s, customers := silent(t)
		secret := polartest.Secret{Text: "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"}
		s.Polar.AddEndpoint(polartest.Endpoint{Handler: customers.WebhookHandler(secret.Text), Secrets: []polartest.Secret{secret}})
		for i := range 5 {
			time.Sleep(time.Hour)
			s.Has(customers, kit.Paying, true)
			s.Add(usr(i))
			require.NoError(t, s.Polar.WaitForDeliveries(t.Context()))
		}
		assert.Zero(t, customers.Stats().Warm.Walks)
		time.Sleep(2*time.Hour + time.Minute)
		assert.EqualValues(t, 1, customers.Stats().Warm.Walks)
	})
}

func TestListsAreReadUnaskedOnlyWhereAnswersAreBelievedForLonger(t *testing.T) {
	for name, change := range map[string]func(*polargate.CustomersConfig){
		"answers are asked for again before": func(c *polargate.CustomersConfig) { c.FreshFor = 2 * time.Hour },
		"never":                              func(c *polargate.CustomersConfig) { c.SweepAfter = -1 },
	} {
		t.Run(name, func(t *testing.T) {
			kit.Bubbled(t, func(t *testing.T) {
				s, customers := silent(t, change)
				time.Sleep(20 * time.Hour)
				assert.Zero(t, customers.Stats().Warm)
				assert.Equal(t, 1, s.Asked())
			})
		})
	}
}

func TestASweepThatFailsIsSaidAndTriedAgain(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := kit.NewShop(t)
		s.Config.AccessToken = s.Polar.AddToken(polartest.Token{Scopes: []string{"customers:read"}})
		customers := s.Warmed(func(c *polargate.CustomersConfig) { c.FreshFor = 24 * time.Hour })
		for range 5 {
			time.Sleep(time.Hour + time.Second)
			s.Has(customers, kit.Paying, true)
		}
		assert.Contains(t, s.Log.String(), "webhooks are silent")
		assert.LessOrEqual(t, s.Asked(), 1+5*3)
		assert.GreaterOrEqual(t, s.Asked(), 1+4)
		s.Has(customers, kit.Paying, true)
	})
}
