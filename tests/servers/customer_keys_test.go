package servers

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/polargate/polargate"
	"github.com/polargate/polargate/polartest"
	"github.com/polargate/polargate/tests/internal/kit"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const (
	desktopBenefit = "c0b7da83-9c32-4a89-8a45-494838e9ef56" // comes with a license key
	keyHolder      = "usr_with_a_key"
)

// keyShop is a shop with a customer whose feature desktop comes with a license key, and
// whose feature pro does not.
type keyShop struct {
	*kit.Shop
	key polartest.LicenseKey
}

func newKeyShop(t *testing.T, key polartest.LicenseKey) *keyShop {
	t.Helper()
	s := &keyShop{Shop: kit.NewShop(t)}
	s.Config.Features = map[string][]string{kit.ProBenefit: {"pro"}, desktopBenefit: {"desktop"}}
	s.Add(keyHolder)
	key.BenefitID = desktopBenefit
	s.key = s.grant(keyHolder, key)
	return s
}

// grant gives a customer a license key as Polar does.
func (s *keyShop) grant(external string, key polartest.LicenseKey) polartest.LicenseKey {
	customer, _ := s.Polar.Customer(external)
	key.CustomerID = customer.ID
	key = s.Polar.AddKey(key)
	s.Polar.GrantBenefit(external, polartest.Benefit{LicenseKeyID: key.ID})
	return key
}

// decides asks about the feature that comes with the key, which says what each of the
// ways to ask must say too.
func (s *keyShop) decides(customers *polargate.Customers, want int) {
	s.T.Helper()
	ref := polargate.ExternalID(keyHolder)
	assert.Equal(s.T, want, statusOf(customers.Decide(s.T.Context(), ref, polargate.Feature("desktop"))), "Decide by the feature")
	assert.Equal(s.T, want, statusOf(customers.Decide(s.T.Context(), ref, polargate.Benefit(desktopBenefit))), "Decide by the benefit")
	assert.Equal(s.T, want, statusOf(customers.Decide(s.T.Context(), ref, polargate.All(polargate.Feature("pro"), polargate.Feature("desktop")))), "Decide by all")
	assert.Equal(s.T, 200, statusOf(customers.Decide(s.T.Context(), ref, polargate.Any(polargate.Feature("desktop"), polargate.Feature("pro")))), "Decide by any")
	assert.Equal(s.T, 200, statusOf(customers.Decide(s.T.Context(), ref, polargate.Feature("pro"))), "what comes without a key")
	gated := customers.Middleware(func(*http.Request) polargate.CustomerRef { return ref }, polargate.Feature("desktop"))(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	assert.Equal(s.T, want, get(gated, "/").Code, "the middleware")
	e, err := customers.Entitlements(s.T.Context(), ref)
	if want == 503 {
		require.ErrorIs(s.T, err, polargate.ErrUnreachable)
		return
	}
	require.NoError(s.T, err)
	_, has := e.Benefit(desktopBenefit)
	assert.Equal(s.T, want == 200, has, "Benefit")
	assert.Equal(s.T, want == 200, e.Has("desktop"), "Has")
	assert.True(s.T, e.Has("pro"))
}

func statusOf(_ *polargate.Entitlements, refusal *polargate.Refusal) int {
	if refusal == nil {
		return 200
	}
	return refusal.Status
}

// keyQuestions is how often Polar was asked about keys by their id, or for a list of them.
func (s *keyShop) keyQuestions() (n int) {
	for _, r := range s.Polar.Requests() {
		if strings.HasPrefix(r.Path, "/v1/license-keys/") && r.Method == http.MethodGet {
			n++
		}
	}
	return n
}

func TestABenefitThatComesWithALicenseKeyCountsOnlyWhileTheKeyDoes(t *testing.T) {
	for name, c := range map[string]struct {
		spoil func(k *polartest.LicenseKey)
		want  int
	}{
		"granted":                {func(*polartest.LicenseKey) {}, 200},
		"expires in a year":      {func(k *polartest.LicenseKey) { k.ExpiresAt = time.Now().AddDate(1, 0, 0) }, 200},
		"expired ten months ago": {func(k *polartest.LicenseKey) { k.ExpiresAt = time.Now().AddDate(0, -10, 0) }, 402},
		"expires at this moment": {func(k *polartest.LicenseKey) { k.ExpiresAt = time.Now() }, 402},
		"disabled":               {func(k *polartest.LicenseKey) { k.Status = "disabled" }, 402},
		"revoked":                {func(k *polartest.LicenseKey) { k.Status = "revoked" }, 402},
		"deleted":                {func(k *polartest.LicenseKey) { k.Deleted = true }, 402},
	} {
		t.Run(name, func(t *testing.T) {
			kit.Bubbled(t, func(t *testing.T) {
				s := newKeyShop(t, polartest.LicenseKey{})
				s.Polar.Update(s.key.ID, c.spoil)
				s.decides(s.Open(), c.want)
			})
		})
	}
}

func TestALicenseKeyEndsAtTheSecondOfItsExpiryAlsoInTheCacheAndWhilePolarIsAway(t *testing.T) {
	for name, away := range map[string]bool{"Polar is there": false, "Polar is away": true} {
		t.Run(name, func(t *testing.T) {
			kit.Bubbled(t, func(t *testing.T) {
				s := newKeyShop(t, polartest.LicenseKey{ExpiresAt: time.Now().Add(2 * time.Minute)})
				customers := s.Open(func(c *polargate.CustomersConfig) { c.FreshFor = time.Hour })
				s.decides(customers, 200)
				s.Polar.SetOffline(away)
				time.Sleep(2*time.Minute - time.Second)
				s.decides(customers, 200)
				time.Sleep(time.Second)
				s.decides(customers, 402)
				time.Sleep(time.Hour)
				s.decides(customers, 402)
			})
		})
	}
}

func TestAnExpiryThatWasPutOffIsFoundWhenTheKeyWouldHaveEnded(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := newKeyShop(t, polartest.LicenseKey{ExpiresAt: time.Now().Add(2 * time.Minute)})
		customers := s.Open(func(c *polargate.CustomersConfig) { c.FreshFor = time.Hour })
		s.decides(customers, 200)
		s.Polar.Update(s.key.ID, func(k *polartest.LicenseKey) { k.ExpiresAt = time.Now().AddDate(1, 0, 0) })
		time.Sleep(2 * time.Minute)
		s.decides(customers, 200)
	})
}

func TestAKeyThatWasDisabledIsNoticedWithinFreshFor(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := newKeyShop(t, polartest.LicenseKey{})
		customers := s.Open(func(c *polargate.CustomersConfig) { c.StaleFor = -1 })
		s.decides(customers, 200)
		s.Polar.Update(s.key.ID, func(k *polartest.LicenseKey) { k.Status = "disabled" })
		time.Sleep(5*time.Minute - time.Second)
		s.decides(customers, 200)
		time.Sleep(time.Second)
		s.decides(customers, 402)
		s.Polar.Grant(s.key.ID)
		time.Sleep(30 * time.Second)
		s.decides(customers, 200)
	})
}

func TestACachedLicenseKeyCostsOneRequestForEachFreshFor(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := newKeyShop(t, polartest.LicenseKey{})
		customers := s.Open()
		both := func() {
			s.decides(customers, 200)
			customer, _ := s.Polar.Customer(keyHolder)
			_, err := customers.Entitlements(t.Context(), polargate.CustomerID(customer.ID))
			require.NoError(t, err)
		}
		both()
		assert.Equal(t, 1, s.keyQuestions(), "of both ids of the customer")
		time.Sleep(4 * time.Minute)
		both()
		assert.Equal(t, 1, s.keyQuestions())
		for range 100 {
			s.Has(customers, kit.Paying, true)
		}
		assert.Equal(t, 1, s.keyQuestions(), "who has no such benefit costs none")
	})
}

func TestAThousandRequestsForOneKeyLookItUpOnce(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := newKeyShop(t, polartest.LicenseKey{})
		customers := s.Open()
		s.Polar.Inject(polartest.Fault{Effect: polartest.Delay(time.Second)})
		var group sync.WaitGroup
		for range 1000 {
			group.Go(func() {
				assert.Equal(t, 200, statusOf(customers.Decide(t.Context(), polargate.ExternalID(keyHolder), polargate.Feature("desktop"))))
			})
		}
		group.Wait()
		assert.Equal(t, 1, s.keyQuestions())
	})
}

func TestManyKeysAreReadFromListsAndNotOneByOne(t *testing.T) {
	for name, at := range map[string]func(t *testing.T, n int, ask func(i int)){
		"at once": func(_ *testing.T, n int, ask func(i int)) {
			var group sync.WaitGroup
			for i := range n {
				group.Go(func() { ask(i) })
			}
			group.Wait()
		},
		"one after the other": func(_ *testing.T, n int, ask func(i int)) {
			for i := range n {
				ask(i)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			kit.Bubbled(t, func(t *testing.T) {
				s := newKeyShop(t, polartest.LicenseKey{})
				const n = 250
				for i := range n {
					external := fmt.Sprint("usr_", i)
					s.Polar.AddCustomer(polartest.Customer{ExternalID: external})
					s.grant(external, polartest.LicenseKey{BenefitID: desktopBenefit, Status: map[bool]string{true: "disabled"}[i%10 == 0]})
				}
				customers := s.Open(func(c *polargate.CustomersConfig) { c.RequestsPerMinute = 100_000 })
				at(t, n, func(i int) {
					want := 200
					if i%10 == 0 {
						want = 402
					}
					assert.Equal(t, want, statusOf(customers.Decide(t.Context(), polargate.ExternalID(fmt.Sprint("usr_", i)), polargate.Feature("desktop"))), "%d", i)
				})
				assert.LessOrEqual(t, s.keyQuestions(), 12, "four alone, and three pages of a hundred")
			})
		})
	}
}

func TestOfSeveralKeysOfABenefitOneThatCountsIsEnough(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := newKeyShop(t, polartest.LicenseKey{})
		second := s.grant(keyHolder, polartest.LicenseKey{BenefitID: desktopBenefit, ExpiresAt: time.Now().Add(time.Hour)})
		customers := s.Open()
		s.decides(customers, 200)
		s.Polar.Update(s.key.ID, func(k *polartest.LicenseKey) { k.Status = "disabled" })
		time.Sleep(10 * time.Minute)
		s.decides(customers, 200)
		synctest.Wait()
		e, err := customers.Entitlements(t.Context(), polargate.ExternalID(keyHolder))
		require.NoError(t, err)
		b, _ := e.Benefit(desktopBenefit)
		assert.Equal(t, second.ID, b.LicenseKeyID(), "the one that counts")
		time.Sleep(50 * time.Minute)
		s.decides(customers, 402)
	})
}

func TestATokenWithoutTheKeysScopeIsReportedAndLocksNoCustomerOut(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := newKeyShop(t, polartest.LicenseKey{ExpiresAt: time.Now().AddDate(0, -10, 0)})
		s.Config.AccessToken = s.Polar.AddToken(polartest.Token{Scopes: []string{"customers:read"}})
		customers := s.Open()
		s.Has(customers, kit.Paying, true)
		require.NoError(t, customers.Stats().Misconfigured, "nobody needs that scope yet")
		s.decides(customers, 200)
		require.ErrorIs(t, customers.Stats().Misconfigured, polargate.ErrMisconfigured)
		s.decides(customers, 200)
		assert.Equal(t, 1, s.keyQuestions(), "it is not tried again at once")
		assert.Equal(t, 1, strings.Count(s.Log.String(), "may not read license keys"))
		assert.Contains(t, s.Log.String(), "license_keys:read")
		assert.NotContains(t, s.Log.String(), s.Config.AccessToken)
		s.Polar.AddToken(polartest.Token{Token: s.Config.AccessToken})
		time.Sleep(10 * time.Minute)
		s.decides(customers, 200)
		synctest.Wait()
		s.decides(customers, 402)
		require.NoError(t, customers.Stats().Misconfigured)
	})
}

func TestWhileKeysCannotBeAskedAboutTheLastAnswerCountsForTheGracePeriod(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := newKeyShop(t, polartest.LicenseKey{})
		customers := s.Open()
		s.decides(customers, 200)
		s.Polar.Inject(polartest.Fault{Path: "/v1/license-keys/" + s.key.ID, Effect: polartest.ServerError(500)})
		for range 11 {
			time.Sleep(6 * time.Hour)
			s.decides(customers, 200)
			synctest.Wait()
		}
		time.Sleep(7 * time.Hour)
		s.decides(customers, 503)
		s.Polar.ClearFaults()
		time.Sleep(time.Minute)
		s.decides(customers, 200)
	})
}

func TestAKeyThatWasNeverSeenIsUndecidedWhileItCannotBeAskedAbout(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := newKeyShop(t, polartest.LicenseKey{})
		customers := s.Open()
		s.Polar.Inject(polartest.Fault{Path: "/v1/license-keys/" + s.key.ID, Effect: polartest.ServerError(500)})
		s.decides(customers, 503)
		_, refusal := customers.Decide(t.Context(), polargate.ExternalID(keyHolder), polargate.Feature("desktop"), polargate.Feature("gold"))
		require.NotNil(t, refusal)
		assert.Equal(t, 402, refusal.Status, "whatever the key says")
		s.Polar.ClearFaults()
		time.Sleep(2 * time.Second)
		s.decides(customers, 200)
	})
}

func TestEventsDropTheKeysTheyNameAtOnce(t *testing.T) {
	for name, tell := range map[string]func(s *keyShop){
		"customer.state_changed": func(s *keyShop) {
			s.Polar.UpdateCustomer(keyHolder, func(c *polartest.Customer) { c.Name = "Ada" })
		},
		"benefit_grant.updated": func(s *keyShop) {
			s.Polar.UpdateCustomer(keyHolder, func(c *polartest.Customer) { c.Benefits[1].Metadata = map[string]any{"plan": "max"} })
		},
		"benefit_grant.revoked": func(s *keyShop) { s.Polar.RevokeBenefit(keyHolder, desktopBenefit) },
	} {
		t.Run(name, func(t *testing.T) {
			kit.Bubbled(t, func(t *testing.T) {
				s := newKeyShop(t, polartest.LicenseKey{})
				customers := s.Open(func(c *polargate.CustomersConfig) { c.FreshFor = time.Hour })
				secret := polartest.Secret{Text: "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"}
				s.Polar.AddEndpoint(polartest.Endpoint{Handler: customers.WebhookHandler(secret.Text), Secrets: []polartest.Secret{secret}, Events: []string{name}})
				s.decides(customers, 200)
				require.Equal(t, 200, statusOf(customers.DecideLicense(t.Context(), s.key.Key)))
				time.Sleep(time.Minute)
				s.Polar.Update(s.key.ID, func(k *polartest.LicenseKey) { k.Status = "disabled" })
				s.decides(customers, 200) // no event tells of that
				require.Equal(t, 200, statusOf(customers.DecideLicense(t.Context(), s.key.Key)))
				tell(s)
				require.NoError(t, s.Polar.WaitForDeliveries(t.Context()))
				asked := s.Asked()
				s.decides(customers, 402)
				require.Equal(t, 402, statusOf(customers.DecideLicense(t.Context(), s.key.Key)))
				assert.Equal(t, asked+2, s.Asked(), "the key by its id, and by itself")
				assert.EqualValues(t, 1, customers.Stats().Events)
			})
		})
	}
}

func TestAKeyThatIsGrantedAgainIsKnownAtOnce(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := newKeyShop(t, polartest.LicenseKey{})
		customers := s.Open(func(c *polargate.CustomersConfig) { c.FreshFor, c.UnknownFor = time.Hour, time.Hour })
		secret := polartest.Secret{Text: "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"}
		s.Polar.AddEndpoint(polartest.Endpoint{Handler: customers.WebhookHandler(secret.Text), Secrets: []polartest.Secret{secret}, Events: []string{"customer.state_changed", "benefit_grant.created", "benefit_grant.revoked"}})
		both := func(want int) {
			t.Helper()
			s.decides(customers, want)
			assert.Equal(t, want, statusOf(customers.DecideLicense(t.Context(), s.key.Key)))
		}
		both(200)
		for range 3 {
			time.Sleep(time.Minute)
			s.Polar.RevokeBenefit(keyHolder, desktopBenefit)
			require.NoError(t, s.Polar.WaitForDeliveries(t.Context()))
			both(402)
			time.Sleep(time.Minute)
			s.Polar.GrantBenefit(keyHolder, polartest.Benefit{LicenseKeyID: s.key.ID})
			require.NoError(t, s.Polar.WaitForDeliveries(t.Context()))
			both(200)
		}
	})
}

func TestAKeyWhoseGrantWasRevokedIsNotServedFromMemoryWhilePolarIsAway(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := newKeyShop(t, polartest.LicenseKey{})
		customers := s.Open()
		secret := polartest.Secret{Text: "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"}
		endpoint := s.Polar.AddEndpoint(polartest.Endpoint{Handler: customers.WebhookHandler(secret.Text), Secrets: []polartest.Secret{secret}, Events: []string{"benefit_grant.revoked"}})
		both := func(want int) {
			t.Helper()
			s.decides(customers, want)
			assert.Equal(t, want, statusOf(customers.DecideLicense(t.Context(), s.key.Key)))
		}
		both(200)
		time.Sleep(time.Minute)
		s.Polar.RevokeBenefit(keyHolder, desktopBenefit)
		require.NoError(t, s.Polar.WaitForDeliveries(t.Context()))
		s.Polar.SetOffline(true)
		both(503)
		s.Polar.SetOffline(false)
		time.Sleep(time.Minute)
		s.Polar.GrantBenefit(keyHolder, polartest.Benefit{LicenseKeyID: s.key.ID})
		time.Sleep(5 * time.Minute)
		both(200)

		// The revocation once more, late: what is known is younger.
		late := polartest.Message{ID: "msg_late", Body: s.Polar.Deliveries()[0].Body}
		_, err := s.Polar.Send(endpoint.ID, late)
		require.NoError(t, err)
		s.Polar.SetOffline(true)
		both(200)
	})
}

// The answer left Polar before the event, and comes after it.
func TestAnAnswerAboutAKeyThatWasUnderWayWhenAnEventCameDoesNotCount(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := newKeyShop(t, polartest.LicenseKey{})
		customers := s.Open()
		received(t, s.Shop, customers)
		s.Polar.Inject(polartest.Fault{Path: "/v1/license-keys/" + s.key.ID, Times: 1, Effect: polartest.Delay(2 * time.Second)})
		done := make(chan int)
		go func() {
			done <- statusOf(customers.Decide(t.Context(), polargate.ExternalID(keyHolder), polargate.Feature("desktop")))
		}()
		time.Sleep(time.Second)
		s.Polar.Update(s.key.ID, func(k *polartest.LicenseKey) { k.Status = "disabled" })
		s.Polar.UpdateCustomer(keyHolder, func(c *polartest.Customer) { c.Name = "Ada" })
		require.NoError(t, s.Polar.WaitForDeliveries(t.Context()))
		assert.Equal(t, 402, <-done)
		s.decides(customers, 402)
	})
}

func TestRefreshAsksAboutTheKeyToo(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := newKeyShop(t, polartest.LicenseKey{})
		customers := s.Open()
		s.decides(customers, 200)
		time.Sleep(time.Second)
		s.Polar.Update(s.key.ID, func(k *polartest.LicenseKey) { k.Status = "disabled" })
		e, err := customers.Refresh(t.Context(), polargate.ExternalID(keyHolder))
		require.NoError(t, err)
		assert.False(t, e.Has("desktop"))
	})
}

func TestSpentUnitsAreKeptWhenOnlyTheKeyIsLookedUp(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := newKeyShop(t, polartest.LicenseKey{ExpiresAt: time.Now().Add(time.Minute)})
		customers := s.Open()
		ref := polargate.ExternalID(keyHolder)
		_, ok, err := customers.Spend(t.Context(), ref, kit.CallsMeter, 60)
		require.NoError(t, err)
		require.True(t, ok)
		time.Sleep(time.Minute)
		s.decides(customers, 402)
		e, err := customers.Entitlements(t.Context(), ref)
		require.NoError(t, err)
		m, _ := e.Meter(kit.CallsMeter)
		assert.InDelta(t, 40, m.Balance, 0)
	})
}

func TestPropertiesOfABenefitAreThereAndNotPrinted(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := newKeyShop(t, polartest.LicenseKey{})
		s.Polar.GrantBenefit(keyHolder, polartest.Benefit{BenefitID: kit.TeaBenefit, Type: "slack_shared_channel", Properties: map[string]any{"invited_email": "ada@example.com", "n": 5}})
		e, err := s.Open().Entitlements(t.Context(), polargate.ExternalID(keyHolder))
		require.NoError(t, err)
		desktop, _ := e.Benefit(desktopBenefit)
		assert.Equal(t, s.key.ID, desktop.LicenseKeyID())
		assert.Equal(t, s.key.ID, desktop.Properties()["license_key_id"])
		tea, _ := e.Benefit(kit.TeaBenefit)
		assert.Empty(t, tea.LicenseKeyID())
		assert.Equal(t, "ada@example.com", tea.Properties()["invited_email"])
		assert.Empty(t, polargate.GrantedBenefit{}.Properties())
		assert.Empty(t, polargate.GrantedBenefit{}.Type())
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x"} {
			for _, what := range []any{tea, e.Benefits(), e} {
				assert.NotContains(t, fmt.Sprintf(verb, what), "ada")
			}
		}
	})
}
