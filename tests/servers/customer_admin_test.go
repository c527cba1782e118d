package servers

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/polargate/polargate"
	"github.com/polargate/polargate/polartest"
	"github.com/polargate/polargate/tests/internal/kit"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestACustomerGetsTheAddressOfTheirPortal(t *testing.T) {
	t.Parallel()
	s := kit.NewShop(t)
	ada := s.Polar.AddCustomer(polartest.Customer{ExternalID: "usr_ada", Email: "ada@example.com"})
	customers := s.Open()
	for _, ref := range []polargate.CustomerRef{polargate.ExternalID("usr_ada"), polargate.CustomerID(ada.ID)} {
		portal, err := customers.PortalURL(t.Context(), ref, "https://example.com/account")
		require.NoError(t, err)
		u, err := url.Parse(portal.Reveal())
		require.NoError(t, err)
		assert.Equal(t, "ada@example.com", u.Query().Get("email"))
		token := u.Query().Get("customer_session_token")
		assert.NotEmpty(t, token)

		var log strings.Builder
		slog.New(slog.NewTextHandler(&log, nil)).Info("to", "portal", portal)
		inJSON, err := json.Marshal(map[string]any{"portal": portal})
		require.NoError(t, err)
		shown := fmt.Sprintf("%v %+v %#v %s %q", portal, portal, portal, portal, portal) + log.String() + string(inJSON)
		assert.NotContains(t, shown, token)
		assert.NotContains(t, shown, "ada")
	}
	requests := s.Polar.Requests()
	assert.Contains(t, string(requests[len(requests)-1].Body), `"return_url":"https://example.com/account"`)
}

func TestAPortalOfAMemberIsTheMembersOwn(t *testing.T) {
	t.Parallel()
	s := newTeamShop(t, true)
	customers := s.Open()
	s.seat(customers, "ada")
	portal, err := customers.PortalURL(t.Context(), polargate.Member(s.Team, "ada"), "")
	require.NoError(t, err)
	assert.Contains(t, portal.Reveal(), url.QueryEscape("ada@example.com"))
	assert.Contains(t, portal.Reveal(), "polar_mst_")

	for ref, reason := range map[polargate.CustomerRef]polargate.Reason{
		polargate.Member(s.Team, "nobody"):       polargate.ErrUnknownCustomer,
		polargate.ExternalID("usr_nobody"):       polargate.ErrUnknownCustomer,
		polargate.CustomerID(kit.TeaBenefit):     polargate.ErrUnknownCustomer,
		s.Team:                                   polargate.ErrMisconfigured,
		polargate.Member(s.Team, "nobody at al"): polargate.ErrUnknownCustomer,
	} {
		_, err := customers.PortalURL(t.Context(), ref, "")
		require.ErrorIs(t, err, reason)
		assert.NotContains(t, err.Error(), "nobody")
	}
	_, err = customers.PortalURL(t.Context(), s.Team, "")
	assert.Contains(t, err.Error(), "polargate.Member")
}

func TestAReturnAddressThatIsNoneIsRefused(t *testing.T) {
	t.Parallel()
	s := kit.NewShop(t)
	customers := s.Open()
	for _, address := range []string{"/account", "javascript:alert(1)", "ftp://example.com", "https://", "%"} {
		_, err := customers.PortalURL(t.Context(), polargate.ExternalID(kit.Paying), address)
		var input *polargate.InputError
		require.ErrorAs(t, err, &input, address)
		assert.Equal(t, "returnURL", input.Field)
	}
	assert.Zero(t, s.Asked())
}

func TestASessionReadsTheLicenseKeysOfItsCustomerAlone(t *testing.T) {
	t.Parallel()
	polar, client := office(t)
	ada := polar.AddCustomer(polartest.Customer{ExternalID: "usr_ada", Email: "ada@example.com"})
	first := polar.AddKey(polartest.LicenseKey{CustomerID: ada.ID, BenefitID: kit.ProBenefit, CreatedAt: polar.Now().Add(-time.Hour)})
	second := polar.AddKey(polartest.LicenseKey{CustomerID: ada.ID, BenefitID: kit.TeaBenefit, Status: "revoked"})
	other := polar.AddKey(polartest.LicenseKey{BenefitID: kit.ProBenefit})
	session, err := client.CreateCustomerSession(t.Context(), polargate.ExternalID("usr_ada"), "")
	require.NoError(t, err)
	assert.Equal(t, ada.ID, session.CustomerID)
	assert.WithinDuration(t, polar.Now().Add(time.Hour), session.ExpiresAt, time.Minute)
	list := func(benefits ...string) (ids []string) {
		for key, err := range client.PortalKeys(t.Context(), session.Token, benefits...) {
			require.NoError(t, err)
			ids = append(ids, key.ID)
		}
		return ids
	}
	assert.Equal(t, []string{second.ID, first.ID}, list())
	assert.Equal(t, []string{first.ID}, list(kit.ProBenefit))
	key, err := client.PortalKey(t.Context(), session.Token, first.ID)
	require.NoError(t, err)
	assert.Equal(t, first.Key, key.Key.Reveal())
	_, err = client.PortalKey(t.Context(), session.Token, other.ID)
	require.ErrorIs(t, err, polargate.ErrUnknownKey)

	assert.NotContains(t, fmt.Sprintf("%v %+v %#v", session, session, *session), session.Token.Reveal())
}

func TestASessionThatHasEndedIsNotTakenForABadAccessToken(t *testing.T) {
	t.Parallel()
	_, client := office(t)
	token, err := polargate.ParseSessionToken(" polar_cst_ended\n")
	require.NoError(t, err)
	for _, err := range client.PortalKeys(t.Context(), token) {
		require.ErrorIs(t, err, polargate.ErrMisconfigured)
		assert.Contains(t, err.Error(), "session has ended")
		assert.NotContains(t, err.Error(), "polar_cst_ended")
	}
	for _, bad := range []string{"", "  ", "a b", "tökén", strings.Repeat("x", 600)} {
		_, err := polargate.ParseSessionToken(bad)
		assert.Error(t, err)
	}
	var none polargate.SessionToken
	for _, err := range client.PortalKeys(t.Context(), none) {
		var input *polargate.InputError
		require.ErrorAs(t, err, &input)
	}
}

func TestSeatsAreAssignedListedAndRevoked(t *testing.T) {
	t.Parallel()
	s := newTeamShop(t, true)
	customers := s.Open()
	client := customers.Client()
	invited, err := client.AssignSeat(t.Context(), polargate.AssignSeatRequest{SubscriptionID: s.Subscription, Email: "bob@example.com", Metadata: map[string]any{"desk": "4"}})
	require.NoError(t, err)
	assert.Equal(t, polargate.SeatPending, invited.Status)
	assert.Equal(t, "4", invited.Metadata["desk"])
	assert.Equal(t, "bob@example.com", invited.Email.Reveal())
	assert.True(t, invited.Holder.IsZero(), "they have no external id")
	assert.False(t, invited.InvitationExpiresAt.IsZero())
	ada := s.seat(customers, "ada")
	again, err := client.ResendSeat(t.Context(), invited.ID)
	require.NoError(t, err)
	assert.Equal(t, invited.ID, again.ID)

	seats, err := client.Seats(t.Context(), s.Subscription)
	require.NoError(t, err)
	assert.Equal(t, []int{58, 60, 2}, []int{seats.Available, seats.Total, len(seats.Seats)})
	assert.NotContains(t, fmt.Sprintf("%v %+v", *seats, seats), "example.com")
	gone, err := client.RevokeSeat(t.Context(), ada.ID)
	require.NoError(t, err)
	assert.Equal(t, polargate.SeatRevoked, gone.Status)
	assert.True(t, gone.Holder.IsZero())

	var refused *polargate.Error
	_, err = client.ResendSeat(t.Context(), ada.ID)
	require.ErrorAs(t, err, &refused)
	assert.Equal(t, "SeatNotPending", refused.Code)
	_, err = client.AssignSeat(t.Context(), polargate.AssignSeatRequest{SubscriptionID: s.Subscription, Email: "bob@example.com"})
	require.ErrorAs(t, err, &refused)
	assert.Equal(t, "SeatAlreadyAssigned", refused.Code)
	assert.ErrorIs(t, err, polargate.ErrDenied)
	_, err = client.AssignSeat(t.Context(), polargate.AssignSeatRequest{SubscriptionID: s.Subscription, Customer: polargate.ExternalID("usr_nobody")})
	require.ErrorIs(t, err, polargate.ErrUnknownCustomer)
	_, err = client.Seats(t.Context(), kit.TeaBenefit)
	require.ErrorIs(t, err, polargate.ErrDenied)
	_, err = client.SeatInvitation(t.Context(), "made-up-token")
	require.ErrorIs(t, err, polargate.ErrDenied)
	assert.NotContains(t, err.Error(), "made-up-token")

	for field, r := range map[string]polargate.AssignSeatRequest{
		"SubscriptionID":    {Email: "bob@example.com"},
		"AssignSeatRequest": {SubscriptionID: s.Subscription},
		"Customer":          {SubscriptionID: s.Subscription, Customer: polargate.Member(s.Team, "ada")},
		"Metadata":          {SubscriptionID: s.Subscription, Email: "bob@example.com", Metadata: map[string]any{"x": []string{"y"}}},
	} {
		_, err := client.AssignSeat(t.Context(), r)
		var input *polargate.InputError
		require.ErrorAs(t, err, &input, field)
		assert.Equal(t, field, input.Field)
	}
}

func TestASeatWhoseAnswerIsLostIsNotAssignedTwice(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := newTeamShop(t, true)
		customers := s.Open()
		s.Polar.Inject(polartest.Fault{Path: "/v1/customer-seats", Times: 1, Effect: polartest.AnswerLost()})
		_, err := customers.Client().AssignSeat(t.Context(), polargate.AssignSeatRequest{SubscriptionID: s.Subscription, Email: "ada@example.com"})
		require.ErrorIs(t, err, polargate.ErrInDoubt)
		assert.Contains(t, err.Error(), "List the seats")
		assert.Equal(t, 1, s.Polar.Count("/v1/customer-seats"))
	})
}

func TestAClientOfCustomersCountsInTheirBudgetAndSaysWhatItNeeds(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := kit.NewShop(t)
		customers := s.Open(func(c *polargate.CustomersConfig) { c.RequestsPerMinute, c.OrganizationID = 60, "" })
		began := time.Now()
		for range 90 {
			_, err := customers.PortalURL(t.Context(), polargate.ExternalID(kit.Paying), "")
			require.NoError(t, err)
		}
		assert.Greater(t, time.Since(began), 20*time.Second)
		key, err := polargate.ParseKey("INKWELL-0001")
		require.NoError(t, err)
		_, err = customers.Client().Validate(t.Context(), polargate.ValidateRequest{Key: key})
		var input *polargate.InputError
		require.ErrorAs(t, err, &input)
		assert.Equal(t, "OrganizationID", input.Field)
	})
}

func TestWhatIsNoSessionIsNoAnswer(t *testing.T) {
	t.Parallel()
	s := kit.NewShop(t)
	customers := s.Open(func(c *polargate.CustomersConfig) { c.Timeout = time.Second })
	for _, body := range []string{`{}`, `{"token":"polar_cst_x","customer_portal_url":"javascript:alert(1)"}`, `{"customer_portal_url":"https://polar.sh/"}`, `[]`} {
		s.Polar.ClearFaults()
		s.Polar.Inject(polartest.Fault{Effect: polartest.Body(http.StatusCreated, "application/json", body)})
		_, err := customers.PortalURL(t.Context(), polargate.ExternalID(kit.Paying), "")
		require.ErrorIs(t, err, polargate.ErrUnreachable, body)
	}
}
