package servers

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/polargate/polargate"
	"github.com/polargate/polargate/polartest"
	"github.com/polargate/polargate/tests/internal/kit"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const secretKey = "INKWELL-7F3A9C21-SECRET-0D4E"

// sold is a shop that sold a key of pro.
func sold(t *testing.T, change ...func(*polartest.LicenseKey)) (*kit.Shop, polartest.LicenseKey) {
	t.Helper()
	s := kit.NewShop(t)
	key := polartest.LicenseKey{Key: secretKey, BenefitID: kit.ProBenefit, LimitUsage: polartest.Limit(5), LimitActivations: polartest.Limit(2)}
	for _, c := range change {
		c(&key)
	}
	return s, s.Polar.AddKey(key)
}

// keyed is a route for license keys and what it answers to one.
func keyed(customers *polargate.Customers, key string, need ...polargate.Requirement) *httptest.ResponseRecorder {
	return get(customers.LicenseMiddleware("X-License-Key", need...)(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		e, _ := polargate.FromContext(r.Context())
		license, ok := e.License()
		fmt.Fprint(w, ok, " ", license.ID, " ", e.Features())
	})), "/", "X-License-Key", key)
}

func TestALicenseKeyThatIsGrantedIsLetInWithItsEntitlements(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s, key := sold(t)
		customers := s.Open()
		want := "true " + key.ID + " [export pro]"
		assert.Equal(t, want, keyed(customers, secretKey).Body.String())
		assert.Equal(t, want, keyed(customers, `  "`+secretKey+`" `, polargate.Feature("pro"), polargate.Benefit(kit.ProBenefit)).Body.String(), "cleaned as by ParseKey")
		assert.Equal(t, 402, keyed(customers, secretKey, polargate.Feature("gold")).Code)
		e, refusal := customers.DecideLicense(t.Context(), secretKey+"\n", polargate.Feature("pro"))
		require.Nil(t, refusal)
		assert.Equal(t, key.CustomerID, e.CustomerID())
		assert.Empty(t, e.Refused())
		after, _ := s.Polar.LicenseKey(secretKey)
		assert.Zero(t, after.Usage, "it counts for no use")
		assert.Zero(t, s.Polar.Seats(secretKey), "and takes no seat")
		assert.EqualValues(t, 1, after.Validations, "and one validation, however often it came")
	})
}

func TestAKeyMayComeAsABearerToken(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s, _ := sold(t)
		customers := s.Open()
		gate := customers.LicenseMiddleware("authorization")(whoever)
		for _, sent := range []string{"Bearer " + secretKey, "bearer   " + secretKey, secretKey} {
			assert.Equal(t, 200, get(gate, "/", "Authorization", sent).Code, "%.10s", sent)
		}
		for _, sent := range []string{"", "Bearer", "Bearer ", "Basic " + secretKey, "Bearer" + secretKey, "Bearer Basic " + secretKey} {
			w := get(gate, "/", "Authorization", sent)
			assert.Equal(t, 401, w.Code, "%.10s", sent)
			assert.Equal(t, "Bearer", w.Header().Get("WWW-Authenticate"), "as RFC 9110 wants it of a 401")
		}
		gold := customers.LicenseMiddleware("Authorization", polargate.Feature("gold"))(whoever)
		w := get(gold, "/", "Authorization", "Bearer "+secretKey)
		assert.Equal(t, 402, w.Code)
		assert.Empty(t, w.Header().Values("WWW-Authenticate"))
		assert.Equal(t, 401, keyed(customers, "Bearer "+secretKey).Code, "in a header of the program's own, all of it is the key")
	})
}

func TestAnswersSayThatTheyDependOnTheHeaderOfTheKey(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s, _ := sold(t)
		customers := s.Open()
		for key, status := range map[string]int{secretKey: 200, "": 401} {
			w := keyed(customers, key)
			assert.Equal(t, status, w.Code)
			assert.Contains(t, w.Header().Values("Vary"), "X-License-Key")
		}
	})
}

func TestRefusedLicenseKeysCarryTheirReason(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change func(*polartest.LicenseKey)
		status int
		reason polargate.Reason
	}{
		"revoked":              {func(k *polartest.LicenseKey) { k.Status = "revoked" }, 402, polargate.ErrInactive},
		"disabled":             {func(k *polartest.LicenseKey) { k.Status = "disabled" }, 402, polargate.ErrInactive},
		"expired":              {func(k *polartest.LicenseKey) { k.ExpiresAt = time.Date(1999, 12, 31, 0, 0, 0, 0, time.UTC) }, 402, polargate.ErrExpired},
		"of another benefit":   {func(k *polartest.LicenseKey) { k.BenefitID = kit.TeaBenefit }, 402, polargate.ErrWrongBenefit},
		"of another shop":      {func(k *polartest.LicenseKey) { k.OrganizationID = "549c44b7-2e67-4e0e-8a20-17e76c895830" }, 401, polargate.ErrUnknownKey},
		"deleted":              {func(k *polartest.LicenseKey) { k.Deleted = true }, 401, polargate.ErrUnknownKey},
		"in other capitals":    {func(k *polartest.LicenseKey) { k.Key = strings.ToLower(secretKey) }, 401, polargate.ErrUnknownKey},
		"longer by one letter": {func(k *polartest.LicenseKey) { k.Key = secretKey + "X" }, 401, polargate.ErrUnknownKey},
	} {
		t.Run(name, func(t *testing.T) {
			kit.Bubbled(t, func(t *testing.T) {
				s, _ := sold(t, c.change)
				customers := s.Open()
				for range 5 {
					w := keyed(customers, secretKey, polargate.Feature("pro"))
					assert.Equal(t, c.status, w.Code)
					assert.Equal(t, string(c.reason), problemIn(t, w)["reason"])
					assert.NotContains(t, w.Body.String(), "SECRET")
				}
				e, refusal := customers.DecideLicense(t.Context(), secretKey)
				require.NotNil(t, refusal)
				assert.Nil(t, e)
				assert.Equal(t, c.status, refusal.Status)
				assert.Equal(t, c.reason, refusal.Reason)
				assert.Equal(t, 1, s.Asked(), "it is asked about once")
			})
		})
	}
}

func TestWhatCannotBeAKeyIsRefusedWithoutAskingPolar(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s, _ := sold(t)
		customers := s.Open(func(c *polargate.CustomersConfig) { c.OrganizationID = "" })
		for _, key := range []string{"", " ", `""`, "\t", strings.Repeat("K", 513), strings.Repeat("K", 1<<21), "A\x00B", "A\x1bB", "A\nB", "\xff\xfe", "A\x7fB"} {
			w := keyed(customers, key)
			assert.Equal(t, 401, w.Code, "%.10q", key)
			assert.Equal(t, "unknown_key", problemIn(t, w)["reason"])
			_, refusal := customers.DecideLicense(t.Context(), key)
			require.NotNil(t, refusal)
			assert.Equal(t, 401, refusal.Status)
		}
		assert.Equal(t, 401, get(customers.LicenseMiddleware("X-License-Key")(whoever), "/").Code, "no header at all")
		assert.Zero(t, s.Asked())
	})
}

func TestAKeyIsInNoRefusalAndNoLog(t *testing.T) {
	t.Parallel()
	for name, effect := range map[string]polartest.Effect{
		"an echo in a 422": polartest.Body(422, "application/json", `{"error":"RequestValidationError","detail":[{"loc":["body","key"],"msg":"bad `+secretKey+`","type":"x","input":{"key":"`+secretKey+`"}}]}`),
		"an echo in a 404": polartest.Body(404, "application/json", `{"error":"ResourceNotFound","detail":"no `+secretKey+`"}`),
		"an echo in a 400": polartest.Body(400, "application/json", `{"error":"BadRequest","detail":"what is `+secretKey+`"}`),
		"an echo in a 401": polartest.Body(401, "application/json", `{"error":"invalid_token","error_description":"no `+secretKey+`"}`),
		"an echo in a 500": polartest.Body(500, "text/plain", secretKey),
		"an echo in a 200": polartest.Body(200, "application/json", `{"key":"`+secretKey+`"}`),
		"a redirect":       polartest.LoginPage(307),
		"a reset":          polartest.Reset(),
		"a hang":           polartest.Hang(),
		"a cut answer":     polartest.Truncated(),
		"the true answer":  polartest.Delay(time.Second),
		"another key": polartest.Rewrite(func(code int, _ http.Header, b []byte) (int, []byte) {
			return code, bytes.ReplaceAll(b, []byte("-0D4E"), []byte("-0D4F"))
		}),
		"another shop's": polartest.Rewrite(func(code int, _ http.Header, b []byte) (int, []byte) {
			return code, bytes.ReplaceAll(b, []byte(`"organization_id":"`), []byte(`"organization_id":"9`))
		}),
		"revoked in a 200": polartest.Rewrite(func(code int, _ http.Header, b []byte) (int, []byte) {
			return code, bytes.ReplaceAll(b, []byte(`"granted"`), []byte(`"revoked"`))
		}),
		"a word not known": polartest.Rewrite(func(code int, _ http.Header, b []byte) (int, []byte) {
			return code, bytes.ReplaceAll(b, []byte(`"granted"`), []byte(`"paused"`))
		}),
		"an expiry not known": polartest.Rewrite(func(code int, _ http.Header, b []byte) (int, []byte) {
			return code, bytes.ReplaceAll(b, []byte(`"expires_at":null`), []byte(`"expires_at":"soon"`))
		}),
	} {
		t.Run(name, func(t *testing.T) {
			kit.Bubbled(t, func(t *testing.T) {
				s, _ := sold(t)
				s.Polar.Inject(polartest.Fault{Effect: effect})
				customers := s.Open()
				_, refusal := customers.DecideLicense(t.Context(), secretKey, polargate.Feature("gold"))
				require.NotNil(t, refusal)
				w := keyed(customers, secretKey, polargate.Feature("gold"))
				assert.Contains(t, []int{401, 402, 503}, w.Code)
				var logged bytes.Buffer
				slog.New(slog.NewJSONHandler(&logged, nil)).Info("refused", "refusal", *refusal, "error", refusal.Err, "who", refusal.Entitlements)
				slog.New(slog.NewTextHandler(&logged, nil)).Info("refused", "refusal", *refusal, "error", refusal.Err, "who", refusal.Entitlements)
				texts := []string{w.Body.String(), fmt.Sprint(w.Header()), s.Log.String(), logged.String(), fmt.Sprintf("%+v", customers.Stats()), fmt.Sprintf("%v", *refusal), fmt.Sprintf("%+v", *refusal), fmt.Sprintf("%#v", *refusal)}
				for err := refusal.Err; err != nil; err = errors.Unwrap(err) {
					texts = append(texts, err.Error(), fmt.Sprintf("%+v", err), polargate.Message(err))
				}
				for _, text := range texts {
					assert.NotContains(t, text, "7F3A9C21")
					assert.NotContains(t, text, s.Config.AccessToken)
				}
				for _, r := range s.Polar.Requests() {
					assert.NotContains(t, r.Path+r.RawQuery, "7F3A9C21", "nor is it in an address")
				}
			})
		})
	}
}

func TestAFloodOfUnknownKeysStarvesNeitherCustomersNorKnownKeys(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s, _ := sold(t)
		s.Add("usr_new")
		customers := s.Warmed(func(c *polargate.CustomersConfig) {
			c.RequestsPerMinute, c.FreshFor, c.StaleFor = 120, 10*time.Second, -1
		})
		require.Equal(t, 200, keyed(customers, secretKey).Code)
		strangers := 0
		for range 30 {
			for range 200 {
				strangers++
				code := keyed(customers, fmt.Sprint("STRANGER-KEY-", strangers)).Code
				assert.Contains(t, []int{401, 503}, code)
			}
			time.Sleep(11 * time.Second)
			at := time.Now()
			s.Has(customers, kit.Paying, true)
			assert.Equal(t, 200, keyed(customers, secretKey).Code)
			assert.Less(t, time.Since(at), 3*time.Second)
		}
		for i := range 200 {
			keyed(customers, fmt.Sprint("LAST-STRANGER-", i))
		}
		s.Has(customers, "usr_new", true) // customers have a budget of their own
		assert.NotZero(t, customers.Stats().TurnedAway)
		assert.LessOrEqual(t, customers.Stats().CachedUnknown, 2500)
		s.Polar.Revoke(secretKey)
		time.Sleep(11 * time.Second)
		assert.Equal(t, 402, keyed(customers, secretKey).Code, "what is known is asked about in spite of them")
	})
}

// Whoever sends made-up keys fast enough is turned away unasked, and must not be
// let in for it.
func TestAFloodOfMadeUpKeysDoesNotOpenARouteThatFailsOpen(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s, _ := sold(t)
		customers := s.Open(func(c *polargate.CustomersConfig) { c.RequestsPerMinute = 60 })
		handler := customers.Route(polargate.Route{LicenseKey: func(r *http.Request) string { return r.Header.Get("X-License-Key") }, FailOpen: true})(whoever)
		in := 0
		for i := range 200 {
			if get(handler, "/", "X-License-Key", fmt.Sprint("MADE-UP-", i)).Code == 200 {
				in++
			}
		}
		assert.Zero(t, in)
	})
}

func TestAKeyThatAFirewallDoesNotLikeDoesNotOpenARouteThatFailsOpen(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s, _ := sold(t)
		customers := s.Open()
		handler := customers.Route(polargate.Route{LicenseKey: func(r *http.Request) string { return r.Header.Get("X-License-Key") }, FailOpen: true})(whoever)
		require.Equal(t, 200, get(handler, "/", "X-License-Key", secretKey).Code)
		s.Polar.Inject(polartest.Fault{Times: 1, Effect: polartest.ProxyPage(403)})
		assert.Equal(t, 503, get(handler, "/", "X-License-Key", "UNION-SELECT-1").Code, "made up, and Polar is there for all others")
		s.Polar.SetOffline(true)
		assert.Equal(t, 200, get(handler, "/", "X-License-Key", "NEVER-SEEN-KEY-1").Code, "nobody can say")
	})
}

// Who sends a key can have a firewall answer it with a page, so pages open nothing.
func TestWhichFailuresOpenARouteOfKeys(t *testing.T) {
	for name, c := range map[string]struct {
		effect polartest.Effect
		want   int
	}{
		"silence": {polartest.Hang(), 200}, "a server error": {polartest.ServerError(500), 200}, "an answer that is lost": {polartest.AnswerLost(), 200},
		"an answer that breaks off": {polartest.Truncated(), 200}, "a line that drips": {polartest.SlowDrip(time.Second), 200},
		"a page": {polartest.LoginPage(200), 503}, "a redirect": {polartest.LoginPage(302), 503}, "a block": {polartest.ProxyPage(403), 503},
		"no path": {polartest.RouterNotFound(), 503}, "nonsense": {polartest.Garbage(), 503},
	} {
		t.Run(name, func(t *testing.T) {
			kit.Bubbled(t, func(t *testing.T) {
				s, _ := sold(t)
				customers := s.Open()
				s.Polar.Inject(polartest.Fault{Effect: c.effect})
				assert.Equal(t, c.want, get(failsOpen(customers), "/", "X-License-Key", secretKey).Code)
			})
		})
	}
}

func TestOfAKeyThatIsRefusedNoRequirementIsNamed(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s, key := sold(t)
		s.Polar.Revoke(key.ID)
		customers := s.Open()
		_, refusal := customers.DecideLicense(t.Context(), secretKey, polargate.Feature("pro"))
		require.NotNil(t, refusal)
		assert.Equal(t, polargate.ErrInactive, refusal.Reason)
		assert.Equal(t, polargate.Requirement{}, refusal.Required)
		assert.NotContains(t, problemIn(t, keyed(customers, secretKey, polargate.Feature("pro"))), "required")
	})
}

func TestAKeyKeepsWorkingInGraceButNeverPastItsExpiry(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		end := time.Now().Add(10 * time.Hour)
		s, _ := sold(t, func(k *polartest.LicenseKey) { k.ExpiresAt = end })
		customers := s.Open()
		require.Equal(t, 200, keyed(customers, secretKey).Code)
		s.Polar.SetOffline(true)
		time.Sleep(9*time.Hour + 59*time.Minute)
		assert.Equal(t, 200, keyed(customers, secretKey).Code)
		time.Sleep(2 * time.Minute)
		w := keyed(customers, secretKey)
		assert.Equal(t, 402, w.Code)
		assert.Equal(t, "expired", problemIn(t, w)["reason"])
		s.Polar.SetOffline(false)
		s.Polar.Update(secretKey, func(k *polartest.LicenseKey) { k.ExpiresAt = time.Time{} })
		time.Sleep(time.Minute)
		assert.Equal(t, 200, keyed(customers, secretKey).Code, "a renewed key works again")
	})
}

func TestAKeyThatExpiresInManyYearsSurvivesAnOutage(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s, _ := sold(t, func(k *polartest.LicenseKey) { k.ExpiresAt = time.Date(9999, 12, 31, 0, 0, 0, 0, time.UTC) })
		customers := s.Open()
		time.Sleep(time.Second)
		require.Equal(t, 200, keyed(customers, secretKey).Code)
		time.Sleep(2 * time.Hour)
		s.Polar.SetOffline(true)
		assert.Equal(t, 200, keyed(customers, secretKey).Code)
	})
}

func TestAKeyThatIsRevokedOrGrantedAgainIsNoticedInTime(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s, key := sold(t)
		customers := s.Open(func(c *polargate.CustomersConfig) { c.StaleFor = -1 })
		require.Equal(t, 200, keyed(customers, secretKey).Code)
		s.Polar.Revoke(key.ID)
		time.Sleep(5 * time.Minute)
		assert.Equal(t, 402, keyed(customers, secretKey).Code)
		s.Polar.SetOffline(true)
		time.Sleep(29 * time.Second)
		assert.Equal(t, 402, keyed(customers, secretKey).Code)
		time.Sleep(time.Minute)
		assert.NotEqual(t, 200, keyed(customers, secretKey).Code, "cutting the network off brings no refused key back")
		s.Polar.SetOffline(false)
		s.Polar.Grant(key.ID)
		time.Sleep(time.Minute)
		assert.Equal(t, 200, keyed(customers, secretKey).Code)
		soon := s.Polar.AddKey(polartest.LicenseKey{Key: "BOUGHT-A-MOMENT-AGO", BenefitID: kit.ProBenefit, VisibleFrom: time.Now().Add(20 * time.Second)})
		assert.Equal(t, 401, keyed(customers, soon.Key).Code)
		time.Sleep(31 * time.Second)
		assert.Equal(t, 200, keyed(customers, soon.Key).Code)
	})
}

func TestTheOrganizationOfKeysIsFoundOutOnce(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s, _ := sold(t)
		customers := s.Open(func(c *polargate.CustomersConfig) { c.OrganizationID, c.RequestsPerMinute = "", 6000 })
		var group sync.WaitGroup
		for i := range 20 {
			group.Go(func() { keyed(customers, fmt.Sprint("KEY-", i)) })
		}
		for range 200 {
			group.Go(func() { assert.Equal(t, 200, keyed(customers, secretKey).Code) })
		}
		group.Wait()
		assert.Equal(t, 21, s.Polar.Count("/validate"), "one key is asked about once")
		assert.Equal(t, 22, s.Asked())
	})
}

func TestKeysAndCustomersOfTheSameNameNeverMix(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s, _ := sold(t, func(k *polartest.LicenseKey) { k.Key = kit.Paying })
		s.Polar.AddKey(polartest.LicenseKey{Key: "usr_poor", BenefitID: kit.ProBenefit})
		s.Polar.AddCustomer(polartest.Customer{ExternalID: "usr_poor"})
		customers := s.Warmed()
		require.Equal(t, 200, keyed(customers, "usr_poor").Code)
		s.Has(customers, "usr_poor", false)
		s.Polar.Revoke(kit.Paying)
		assert.Equal(t, 402, keyed(customers, kit.Paying).Code)
		s.Has(customers, kit.Paying, true)
	})
}
