package servers

import (
	"context"
	"fmt"
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

const teamID = "acme"

// teamShop is a shop in which a team has bought seats of pro, and a hundred calls.
type teamShop struct {
	*kit.Shop
	Subscription string
	Team         polargate.CustomerRef
}

func newTeamShop(t *testing.T, members bool) *teamShop {
	t.Helper()
	s := &teamShop{Shop: kit.NewShop(t, func(c *polartest.Config) { c.MemberModel = members }), Team: polargate.ExternalID(teamID)}
	s.Polar.AddBenefit(polartest.CatalogBenefit{ID: kit.ProBenefit})
	product := s.Polar.AddProduct(polartest.Product{Name: "Team", Benefits: []string{kit.ProBenefit},
		Prices: []polartest.Price{{AmountType: "seat_based", Amount: 1000}}})
	s.Polar.AddCustomer(polartest.Customer{ExternalID: teamID, Type: "team", Meters: []polartest.Meter{{MeterID: kit.CallsMeter, CreditedUnits: 100}}})
	s.Subscription = s.Polar.Subscribe(teamID, polartest.Subscription{ProductID: product.ID, Seats: polartest.Limit(60)}).ID
	return s
}

// seat gives a member of the team a seat.
func (s *teamShop) seat(customers *polargate.Customers, member string) *polargate.Seat {
	s.T.Helper()
	seat, err := customers.Client().AssignSeat(s.T.Context(), polargate.AssignSeatRequest{SubscriptionID: s.Subscription,
		Email: member + "@example.com", ExternalMemberID: member, Claim: true})
	require.NoError(s.T, err)
	assert.Equal(s.T, polargate.SeatClaimed, seat.Status)
	return seat
}

func (s *teamShop) holds(customers *polargate.Customers, member string, want bool) {
	s.T.Helper()
	have, err := customers.Entitlements(s.T.Context(), polargate.Member(s.Team, member))
	require.NoError(s.T, err)
	assert.Equal(s.T, want, have.Has("pro"), member)
}

// deliverTo has Polar deliver what concerns seats to the shop's Customers.
func deliverTo(s *teamShop, customers *polargate.Customers) {
	secret := polartest.Secret{Text: "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"}
	s.Polar.AddEndpoint(polartest.Endpoint{Handler: customers.WebhookHandler(secret.Text), Secrets: []polartest.Secret{secret},
		Events: []string{"customer.state_changed", "benefit_grant.created", "benefit_grant.revoked", "customer_seat.claimed", "member.created"}})
}

func TestASeatHolderHasTheBenefitsOfTheirSeatAndNobodyElseHas(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := newTeamShop(t, true)
		customers := s.Open()
		s.seat(customers, "ada")
		seat := s.seat(customers, "grace")
		s.holds(customers, "ada", true)
		s.holds(customers, "grace", true)
		s.holds(customers, "bob", false)
		_, refusal := customers.Decide(t.Context(), polargate.Member(s.Team, "bob"), polargate.Feature("pro"))
		require.NotNil(t, refusal)
		assert.Equal(t, http.StatusPaymentRequired, refusal.Status)

		have, err := customers.Entitlements(t.Context(), polargate.Member(s.Team, "ada"))
		require.NoError(t, err)
		assert.Equal(t, teamID, have.ExternalID(), "it is the buyer that Polar knows")
		assert.Len(t, have.Products(), 1, "the team's subscription")
		// By the ids in Polar's answer, the holder is the same.
		assert.Equal(t, polargate.Member(polargate.CustomerID(have.CustomerID()), "grace"), seat.Holder)
		have, err = customers.Entitlements(t.Context(), seat.Holder)
		require.NoError(t, err)
		assert.True(t, have.Has("pro"))

		before := s.Asked()
		for range 100 {
			s.holds(customers, "ada", true)
		}
		assert.Equal(t, before, s.Asked(), "what is cached is not asked about")
	})
}

func TestATeamOfFiftyIsAskedAboutOnce(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := newTeamShop(t, true)
		customers := s.Open()
		for i := range 50 {
			s.seat(customers, fmt.Sprint("m", i))
		}
		s.Polar.Inject(polartest.Fault{Effect: polartest.Delay(time.Second)})
		before := s.Asked()
		var group sync.WaitGroup
		for i := range 50 {
			for range 4 {
				group.Go(func() { s.holds(customers, fmt.Sprint("m", i), true) })
			}
		}
		group.Wait()
		assert.LessOrEqual(t, s.Asked()-before, 3, "the team's state, and the list of its benefits")
		assert.Equal(t, 1, s.Polar.Count("/v1/benefit-grants/"))
	})
}

func TestASeatThatIsRevokedEndsWithTheWebhookAndTheOthersStay(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := newTeamShop(t, true)
		customers := s.Open()
		seat := s.seat(customers, "ada")
		s.seat(customers, "grace")
		s.holds(customers, "ada", true)
		deliverTo(s, customers)
		_, err := customers.Client().RevokeSeat(t.Context(), seat.ID)
		require.NoError(t, err)
		require.NoError(t, s.Polar.WaitForDeliveries(t.Context()))
		s.Polar.SetOffline(true)
		s.holds(customers, "ada", false)
		s.holds(customers, "grace", true)

		s.Polar.SetOffline(false)
		time.Sleep(2 * time.Minute) // the outage is forgotten
		s.seat(customers, "ada")
		require.NoError(t, s.Polar.WaitForDeliveries(t.Context()))
		s.holds(customers, "ada", true)
	})
}

func TestMembersOutliveAnOutageAndEndWithTheSubscription(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := newTeamShop(t, true)
		customers := s.Open()
		s.seat(customers, "ada")
		s.holds(customers, "ada", true)
		s.Polar.SetOffline(true)
		time.Sleep(24 * time.Hour)
		s.holds(customers, "ada", true)
		_, err := customers.Entitlements(t.Context(), polargate.Member(s.Team, "bob"))
		require.ErrorIs(t, err, polargate.ErrUnreachable, "nothing is known of them")
		s.Polar.SetOffline(false)
		time.Sleep(time.Minute)
		s.holds(customers, "ada", true)
		deliverTo(s, customers)
		s.Polar.CancelSubscription(teamID, s.Subscription)
		require.NoError(t, s.Polar.WaitForDeliveries(t.Context()))
		s.Polar.SetOffline(true)
		s.holds(customers, "ada", false)
	})
}

func TestAnEndedSubscriptionEndsForItsMembersWhilePolarIsAway(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := newTeamShop(t, true)
		customers := s.Open()
		received(t, s.Shop, customers) // of the buyer's state alone
		s.seat(customers, "ada")
		require.NoError(t, s.Polar.WaitForDeliveries(t.Context()))
		s.holds(customers, "ada", true)
		s.Polar.CancelSubscription(teamID, s.Subscription)
		require.NoError(t, s.Polar.WaitForDeliveries(t.Context()))
		s.Polar.SetOffline(true)
		s.holds(customers, "ada", false)
	})
}

func TestNewsOfATeamHasItsMembersAskedAbout(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := newTeamShop(t, true)
		customers := s.Open()
		received(t, s.Shop, customers) // of the buyer's state alone
		seat := s.seat(customers, "ada")
		s.seat(customers, "grace")
		require.NoError(t, s.Polar.WaitForDeliveries(t.Context()))
		s.holds(customers, "ada", true)
		_, err := customers.Client().RevokeSeat(t.Context(), seat.ID)
		require.NoError(t, err)
		require.NoError(t, s.Polar.WaitForDeliveries(t.Context()))
		s.holds(customers, "ada", false)
		s.holds(customers, "grace", true)
	})
}

func TestMadeUpMembersTakeOneRequest(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := newTeamShop(t, true)
		customers := s.Open()
		s.seat(customers, "ada")
		for i := range 100 {
			s.holds(customers, fmt.Sprint("made-up-", i), false)
		}
		s.holds(customers, "ada", true)
		assert.Equal(t, 1, s.Polar.Count("/v1/benefit-grants/"))
	})
}

func TestMembersSpendTheUnitsOfTheirTeam(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := newTeamShop(t, true)
		customers := s.Open()
		s.seat(customers, "ada")
		s.seat(customers, "grace")
		var left []float64
		handler := customers.Route(polargate.Route{
			Customer: func(r *http.Request) polargate.CustomerRef { return polargate.Member(s.Team, r.Header.Get("X-User")) },
			Require:  []polargate.Requirement{polargate.Feature("pro")},
			Spend:    polargate.Cost{MeterID: kit.CallsMeter, Units: 30},
		})(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			have, _ := polargate.FromContext(r.Context())
			assert.True(t, have.Has("pro"))
			meter, _ := have.Meter(kit.CallsMeter)
			left = append(left, meter.Balance)
		}))
		status := func(user string) int {
			r := httptest.NewRequest(http.MethodGet, "/", nil)
			r.Header.Set("X-User", user)
			w := httptest.NewRecorder()
			handler.ServeHTTP(w, r)
			return w.Code
		}
		assert.Equal(t, 200, status("ada"))
		assert.Equal(t, 200, status("grace"))
		assert.Equal(t, 402, status("bob"))
		assert.Equal(t, 401, status(""))
		assert.Equal(t, 200, status("ada"))
		assert.Equal(t, 402, status("grace"), "10 are left")
		assert.Equal(t, []float64{70, 40, 10}, left)
		back, ok, err := customers.Spend(t.Context(), polargate.Member(s.Team, "ada"), kit.CallsMeter, 10)
		require.NoError(t, err)
		assert.True(t, ok)
		back()
	})
}

func TestAwaitWaitsUntilASeatIsClaimed(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := newTeamShop(t, true)
		customers := s.Open()
		s.holds(customers, "ada", false)
		go func() {
			time.Sleep(20 * time.Second)
			s.seat(customers, "ada")
		}()
		have, err := customers.Await(t.Context(), polargate.Member(s.Team, "ada"), polargate.Feature("pro"))
		require.NoError(t, err)
		assert.True(t, have.Has("pro"))
		have, err = customers.Refresh(t.Context(), polargate.Member(s.Team, "ada"))
		require.NoError(t, err)
		assert.True(t, have.Has("pro"))
	})
}

func TestAnOrganizationWithoutMembersIsRecognized(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := newTeamShop(t, false)
		customers := s.Open()
		seat := s.seat(customers, "ada")
		s.holds(customers, "ada", false)
		assert.Contains(t, s.Log.String(), "instead of Member")
		assert.NotContains(t, s.Log.String(), "ada")
		have, err := customers.Entitlements(t.Context(), seat.Holder)
		require.NoError(t, err)
		assert.True(t, have.Has("pro"), "a seat names its holder in either kind of organization")
		assert.NotEqual(t, teamID, have.ExternalID())

		// Polar ignores the member there, and would hand out the portal of the buyer.
		_, err = customers.PortalURL(t.Context(), polargate.Member(s.Team, "ada"), "")
		require.ErrorIs(t, err, polargate.ErrMisconfigured)
		assert.Contains(t, err.Error(), "has no members")
	})
}

func TestATeamThatIsTakenForOneCustomerIsSaidInTheLog(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := newTeamShop(t, true)
		customers := s.Open()
		s.seat(customers, "ada")
		s.seat(customers, "grace")
		s.Has(customers, teamID, true)
		assert.Contains(t, s.Log.String(), "name the holders of seats with Member")
	})
}

func TestALicenseKeyOfASeatThatIsDisabledNoLongerCounts(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := newTeamShop(t, true)
		key := s.Polar.AddBenefit(polartest.CatalogBenefit{Type: "license_keys", Properties: map[string]any{"prefix": "ACME"}})
		product := s.Polar.AddProduct(polartest.Product{Name: "Keys", Benefits: []string{key.ID}, Prices: []polartest.Price{{AmountType: "seat_based", Amount: 1000}}})
		s.Subscription = s.Polar.Subscribe(teamID, polartest.Subscription{ProductID: product.ID, Seats: polartest.Limit(5)}).ID
		customers := s.Open(func(c *polargate.CustomersConfig) { c.Features[key.ID] = []string{"keyed"} })
		s.seat(customers, "ada")
		s.seat(customers, "grace")
		has := func(member string) bool {
			have, err := customers.Entitlements(t.Context(), polargate.Member(s.Team, member))
			require.NoError(t, err)
			return have.Has("keyed")
		}
		assert.True(t, has("ada"))
		assert.True(t, has("grace"))
		have, err := customers.Entitlements(t.Context(), polargate.Member(s.Team, "ada"))
		require.NoError(t, err)
		b, _ := have.Benefit(key.ID)
		_, err = customers.Client().UpdateLicenseKey(t.Context(), b.LicenseKeyID(), polargate.KeyUpdate{Status: polargate.KeyDisabled})
		require.NoError(t, err)
		time.Sleep(2 * time.Hour)
		assert.False(t, has("ada"))
		assert.True(t, has("grace"))
	})
}

func TestATokenThatMayNotReadGrantsSaysSo(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := newTeamShop(t, true)
		s.Config.AccessToken = s.Polar.AddToken(polartest.Token{Scopes: []string{"customers:read"}})
		customers := s.Open()
		_, err := customers.Entitlements(t.Context(), polargate.Member(s.Team, "ada"))
		require.ErrorIs(t, err, polargate.ErrMisconfigured)
		assert.Contains(t, err.Error(), "benefits:read")
		assert.Contains(t, s.Log.String(), "benefits:read")
		require.ErrorIs(t, customers.Stats().Misconfigured, polargate.ErrMisconfigured)
	})
}

func TestMembersWithStrangeIdsAreToldApart(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := newTeamShop(t, true)
		customers := s.Open()
		for i, member := range []string{"a/b", "a:b", "ä b", "..", "%2F"} {
			_, err := customers.Client().AssignSeat(t.Context(), polargate.AssignSeatRequest{SubscriptionID: s.Subscription,
				Email: fmt.Sprintf("m%d@example.com", i), ExternalMemberID: member, Claim: true})
			require.NoError(t, err)
			time.Sleep(3 * time.Second) // the list that was read before is believed for 2 seconds
			s.holds(customers, member, true)
		}
		s.holds(customers, "a", false)
		s.holds(customers, "a%2Fb", false)
		for _, ref := range []polargate.CustomerRef{
			polargate.Member(s.Team, strings.Repeat("x", 501)), polargate.Member(s.Team, "\xff"), polargate.Member(polargate.CustomerID("7"), "ada"),
			polargate.Member(polargate.Member(s.Team, "ada"), "bob"), polargate.Member(s.Team, ""), polargate.Member(polargate.CustomerRef{}, "ada"),
		} {
			_, err := customers.Entitlements(t.Context(), ref)
			var input *polargate.InputError
			require.ErrorAs(t, err, &input)
			_, err = customers.PortalURL(t.Context(), ref, "")
			require.ErrorAs(t, err, &input)
		}
		assert.True(t, polargate.Member(s.Team, "").IsZero())
		assert.True(t, polargate.Member(polargate.CustomerRef{}, "ada").IsZero())
		shown := fmt.Sprintf("%v %+v", polargate.Member(s.Team, "ada@example.com"), polargate.Member(polargate.CustomerID(kit.TeaBenefit), "ada@example.com"))
		assert.NotContains(t, shown, "ada@")
		assert.NotContains(t, shown, teamID)
	})
}

func TestAStreamOfAMemberEndsWithTheirSeat(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := newTeamShop(t, true)
		customers := s.Open()
		deliverTo(s, customers)
		seat := s.seat(customers, "ada")
		s.seat(customers, "grace")
		require.NoError(t, s.Polar.WaitForDeliveries(t.Context()))
		ada, stop := customers.Watch(t.Context(), polargate.Member(s.Team, "ada"), polargate.Feature("pro"))
		defer stop()
		grace, stop := customers.Watch(t.Context(), polargate.Member(s.Team, "grace"), polargate.Feature("pro"))
		defer stop()
		time.Sleep(time.Hour)
		require.NoError(t, ada.Err())
		_, err := customers.Client().RevokeSeat(t.Context(), seat.ID)
		require.NoError(t, err)
		require.NoError(t, s.Polar.WaitForDeliveries(t.Context()))
		time.Sleep(time.Second)
		var refusal *polargate.Refusal
		require.ErrorAs(t, context.Cause(ada), &refusal)
		assert.Equal(t, http.StatusPaymentRequired, refusal.Status)
		require.NoError(t, grace.Err())
	})
}

func TestASeatThatIsRevokedEndsOnEveryReplica(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := newTeamShop(t, true)
		s.Config.Shared = polargate.SharedInMemory()
		one, other := s.Open(), s.Open()
		received(t, s.Shop, one) // webhooks come to one of them
		seat := s.seat(one, "ada")
		s.seat(one, "grace")
		require.NoError(t, s.Polar.WaitForDeliveries(t.Context()))
		time.Sleep(time.Second)
		for _, customers := range []*polargate.Customers{one, other} {
			s.holds(customers, "ada", true)
			s.holds(customers, "grace", true)
		}
		_, err := one.Client().RevokeSeat(t.Context(), seat.ID)
		require.NoError(t, err)
		require.NoError(t, s.Polar.WaitForDeliveries(t.Context()))
		time.Sleep(100 * time.Millisecond)
		for _, customers := range []*polargate.Customers{one, other} {
			s.holds(customers, "ada", false)
			s.holds(customers, "grace", true)
		}
	})
}
