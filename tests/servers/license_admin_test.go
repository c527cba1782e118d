package servers

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/polargate/polargate"
	"github.com/polargate/polargate/polartest"
	"github.com/polargate/polargate/tests/internal/kit"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// office is a client with an access token, beside its Polar.
func office(t *testing.T, scopes ...string) (*polartest.Polar, *polargate.Client) {
	t.Helper()
	polar := polartest.New(polartest.Config{Unlimited: true})
	client, err := polargate.NewClient(polargate.ClientConfig{
		OrganizationID: polar.OrganizationID(), AccessToken: polar.AddToken(polartest.Token{Scopes: scopes}),
		BaseURL: polar.URL(), HTTPClient: polar.Client(), RequestsPerMinute: 100_000,
	})
	require.NoError(t, err)
	t.Cleanup(client.Close)
	return polar, client
}

func idsOf(t *testing.T, client *polargate.Client, filter polargate.KeyFilter) (ids []string) {
	t.Helper()
	for key, err := range client.LicenseKeys(t.Context(), filter) {
		require.NoError(t, err)
		ids = append(ids, key.ID)
	}
	return ids
}

func TestLicenseKeysAreListedPageByPageNewestFirst(t *testing.T) {
	t.Parallel()
	polar, client := office(t)
	assert.Empty(t, idsOf(t, client, polargate.KeyFilter{}))
	var made, tea, revoked []string
	for i := range 250 {
		key := polartest.LicenseKey{BenefitID: kit.ProBenefit, CreatedAt: polar.Now().Add(time.Duration(i-300) * time.Minute)}
		if i%50 == 0 {
			key.BenefitID = kit.TeaBenefit
		}
		if i%100 == 7 {
			key.Status = "revoked"
		}
		key = polar.AddKey(key)
		made = append(made, key.ID)
		if key.BenefitID == kit.TeaBenefit {
			tea = append(tea, key.ID)
		}
		if key.Status == "revoked" {
			revoked = append(revoked, key.ID)
		}
	}
	slices.Reverse(made)
	slices.Reverse(tea)
	slices.Reverse(revoked)
	before := polar.Count("")
	assert.Equal(t, made, idsOf(t, client, polargate.KeyFilter{}))
	assert.Equal(t, 4, polar.Count("")-before, "three pages, and the first twice")
	assert.Equal(t, tea, idsOf(t, client, polargate.KeyFilter{BenefitIDs: []string{kit.TeaBenefit}}))
	assert.Equal(t, revoked, idsOf(t, client, polargate.KeyFilter{Statuses: []polargate.KeyStatus{polargate.KeyRevoked}}))
	assert.Len(t, idsOf(t, client, polargate.KeyFilter{Statuses: []polargate.KeyStatus{polargate.KeyRevoked, polargate.KeyGranted}}), 250)

	before = polar.Count("")
	for range client.LicenseKeys(t.Context(), polargate.KeyFilter{}) {
		break
	}
	assert.Equal(t, 2, polar.Count("")-before, "a loop that ends reads no further")
}

func TestALoopThatRevokesEveryGrantedKeyMissesNone(t *testing.T) {
	t.Parallel()
	polar, client := office(t)
	for i := range 230 {
		polar.AddKey(polartest.LicenseKey{CreatedAt: polar.Now().Add(time.Duration(i-300) * time.Minute)})
	}
	granted := polargate.KeyFilter{Statuses: []polargate.KeyStatus{polargate.KeyGranted}}
	n := 0
	for key, err := range client.LicenseKeys(t.Context(), granted) {
		require.NoError(t, err)
		_, err = client.UpdateLicenseKey(t.Context(), key.ID, polargate.KeyUpdate{Status: polargate.KeyRevoked})
		require.NoError(t, err)
		n++
	}
	assert.Equal(t, 230, n)
	assert.Empty(t, idsOf(t, client, granted))
}

func TestKeysThatLeaveOrJoinTheListMeanwhileHideNoOther(t *testing.T) {
	t.Parallel()
	polar, client := office(t)
	var made []string
	for i := range 210 {
		made = append(made, polar.AddKey(polartest.LicenseKey{CreatedAt: polar.Now().Add(time.Duration(i-300) * time.Minute)}).ID)
	}
	var read []string
	for key, err := range client.LicenseKeys(t.Context(), polargate.KeyFilter{Statuses: []polargate.KeyStatus{polargate.KeyGranted}}) {
		require.NoError(t, err)
		if read = append(read, key.ID); len(read)%20 == 0 {
			polar.AddKey(polartest.LicenseKey{})
			polar.Update(made[len(read)/20], func(k *polartest.LicenseKey) { k.Status = "disabled" })
		}
	}
	for i, id := range made {
		if i > 10 {
			assert.Contains(t, read, id)
		}
	}
	slices.Sort(read)
	assert.Len(t, slices.Compact(slices.Clone(read)), len(read), "none comes twice")
}

func TestALicenseKeyIsReadWithItsActivations(t *testing.T) {
	t.Parallel()
	polar, client := office(t)
	key := polar.AddKey(polartest.LicenseKey{Status: "granted", LimitActivations: polartest.Limit(3)})
	typed, err := polargate.ParseKey(key.Key)
	require.NoError(t, err)
	first, err := client.Activate(t.Context(), polargate.ActivateRequest{Key: typed, Label: "Ada's laptop", Meta: map[string]any{"app": "inkwell"}})
	require.NoError(t, err)
	second, err := client.Activate(t.Context(), polargate.ActivateRequest{Key: typed, Label: "Ada's desk"})
	require.NoError(t, err)

	got, err := client.LicenseKey(t.Context(), strings.ToUpper(key.ID))
	require.NoError(t, err)
	require.Len(t, got.Activations, 2)
	assert.Equal(t, second.ID, got.Activations[0].ID)
	assert.Equal(t, "Ada's laptop", got.Activations[1].Label)
	assert.Equal(t, "inkwell", got.Activations[1].Meta["app"])
	assert.Equal(t, typed, got.Key)
	assert.NotContains(t, fmt.Sprintf("%v %+v %#v", got, got, got), key.Key)

	one, err := client.LicenseKeyActivation(t.Context(), key.ID, first.ID)
	require.NoError(t, err)
	assert.Equal(t, first.ID, one.ID)
	assert.Equal(t, typed, one.LicenseKey.Key)
	require.NoError(t, client.Deactivate(t.Context(), typed, first.ID))
	_, err = client.LicenseKeyActivation(t.Context(), key.ID, first.ID)
	require.ErrorIs(t, err, polargate.ErrSeatReleased)

	_, err = client.LicenseKey(t.Context(), kit.ProBenefit)
	require.ErrorIs(t, err, polargate.ErrUnknownKey)
	assert.Contains(t, err.Error(), "no license key with this id")
}

func TestALicenseKeyIsChangedFieldByField(t *testing.T) {
	t.Parallel()
	polar, client := office(t)
	end := time.Date(2031, 4, 5, 6, 7, 8, 900_000_000, time.FixedZone("", 3600))
	key := polar.AddKey(polartest.LicenseKey{LimitActivations: polartest.Limit(3), LimitUsage: polartest.Limit(10), Usage: 4})
	change := func(u polargate.KeyUpdate) *polargate.LicenseKey {
		t.Helper()
		got, err := client.UpdateLicenseKey(t.Context(), key.ID, u)
		require.NoError(t, err)
		assert.Equal(t, key.ID, got.ID)
		return got
	}
	assert.Equal(t, polargate.KeyDisabled, change(polargate.KeyUpdate{Status: polargate.KeyDisabled}).Status)
	assert.Equal(t, polargate.KeyGranted, change(polargate.KeyUpdate{Status: polargate.KeyGranted}).Status)
	got := change(polargate.KeyUpdate{ExpiresAt: &end, LimitActivations: new(int64(5)), LimitUsage: new(int64(7)), Usage: new(int64(0))})
	assert.True(t, end.Equal(got.ExpiresAt), got.ExpiresAt)
	assert.EqualValues(t, 5, *got.LimitActivations)
	assert.EqualValues(t, 7, got.Remaining())
	got = change(polargate.KeyUpdate{ExpiresAt: new(time.Time{}), LimitUsage: new(int64(0))})
	assert.True(t, got.ExpiresAt.IsZero())
	assert.Nil(t, got.LimitUsage)
	assert.EqualValues(t, 5, *got.LimitActivations, "what isn't set stays")
	assert.Equal(t, polargate.KeyGranted, got.Status)

	for field, u := range map[string]polargate.KeyUpdate{
		"KeyUpdate":        {},
		"Status":           {Status: "paused"},
		"Usage":            {Usage: new(int64(-1))},
		"LimitActivations": {LimitActivations: new(int64(1 << 31))},
		"ExpiresAt":        {ExpiresAt: new(time.Date(10_000, 1, 1, 0, 0, 0, 0, time.UTC))},
	} {
		_, err := client.UpdateLicenseKey(t.Context(), key.ID, u)
		var input *polargate.InputError
		require.ErrorAs(t, err, &input, field)
		assert.Equal(t, field, input.Field)
	}
}

func TestARotatedKeyReplacesTheOldOneAndKeepsActivations(t *testing.T) {
	t.Parallel()
	polar, client := office(t)
	key := polar.AddKey(polartest.LicenseKey{LimitActivations: polartest.Limit(3)})
	old, err := polargate.ParseKey(key.Key)
	require.NoError(t, err)
	a, err := client.Activate(t.Context(), polargate.ActivateRequest{Key: old})
	require.NoError(t, err)
	got, err := client.RotateLicenseKey(t.Context(), key.ID)
	require.NoError(t, err)
	assert.NotEqual(t, old, got.Key)
	_, err = client.Validate(t.Context(), polargate.ValidateRequest{Key: old})
	require.ErrorIs(t, err, polargate.ErrUnknownKey)
	_, err = client.Validate(t.Context(), polargate.ValidateRequest{Key: got.Key, ActivationID: a.ID})
	require.NoError(t, err)

	polar.Update(key.ID, func(k *polartest.LicenseKey) { k.Status = "revoked" })
	_, err = client.RotateLicenseKey(t.Context(), key.ID)
	require.ErrorIs(t, err, polargate.ErrInactive)
	var refused *polargate.Error
	require.ErrorAs(t, err, &refused)
	assert.Equal(t, "RotateNotPermitted", refused.Code)
}

func TestARotationWhoseAnswerIsLostIsNotRepeated(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		polar, client := office(t)
		key := polar.AddKey(polartest.LicenseKey{})
		polar.Inject(polartest.Fault{Path: "/rotate", Times: 1, Effect: polartest.AnswerLost()})
		_, err := client.RotateLicenseKey(t.Context(), key.ID)
		require.ErrorIs(t, err, polargate.ErrInDoubt)
		assert.Contains(t, err.Error(), "Get the license key by its id")
		assert.Equal(t, 1, polar.Count("/rotate"))
		got, err := client.LicenseKey(t.Context(), key.ID)
		require.NoError(t, err)
		assert.NotEqual(t, key.Key, got.Key.Reveal())
		synctest.Wait()
	})
}

func TestATokenThatLacksAScopeIsToldWhichOne(t *testing.T) {
	t.Parallel()
	polar, client := office(t, "license_keys:read")
	key := polar.AddKey(polartest.LicenseKey{})
	_, err := client.UpdateLicenseKey(t.Context(), key.ID, polargate.KeyUpdate{Status: polargate.KeyDisabled})
	require.ErrorIs(t, err, polargate.ErrMisconfigured)
	assert.Contains(t, err.Error(), "give it the scope license_keys:write")
	_, client = office(t, "customers:read")
	for _, err := range client.LicenseKeys(t.Context(), polargate.KeyFilter{}) {
		require.ErrorIs(t, err, polargate.ErrMisconfigured)
		assert.Contains(t, err.Error(), "give it the scope license_keys:read")
	}
	// Only what looks like a scope is repeated.
	polar, client = office(t)
	polar.Inject(polartest.Fault{Effect: polartest.Rewrite(func(_ int, h http.Header, _ []byte) (int, []byte) {
		h.Set("WWW-Authenticate", `Bearer scope="<b>x</b>"`)
		h.Set("Content-Type", "application/json")
		return 403, []byte(`{"error":"insufficient_scope","error_description":"no"}`)
	})})
	_, err = client.LicenseKey(t.Context(), key.ID)
	require.ErrorIs(t, err, polargate.ErrMisconfigured)
	assert.NotContains(t, err.Error(), "<b>")
}

func TestWithoutATokenNothingIsAskedThatNeedsOne(t *testing.T) {
	t.Parallel()
	polar := polartest.New(polartest.Config{})
	client, err := polargate.NewClient(polargate.ClientConfig{OrganizationID: polar.OrganizationID(), BaseURL: polar.URL(), HTTPClient: polar.Client()})
	require.NoError(t, err)
	_, err = client.LicenseKey(t.Context(), kit.ProBenefit)
	var input *polargate.InputError
	require.ErrorAs(t, err, &input)
	assert.Equal(t, "AccessToken", input.Field)
	for _, err := range client.LicenseKeys(t.Context(), polargate.KeyFilter{}) {
		require.ErrorAs(t, err, &input)
	}
	assert.Zero(t, polar.Count(""))
}

func TestAFilterThatPolarWouldMisunderstandIsRefused(t *testing.T) {
	t.Parallel()
	polar, client := office(t)
	for field, filter := range map[string]polargate.KeyFilter{
		"BenefitIDs": {BenefitIDs: []string{"pro"}},
		"Statuses":   {Statuses: []polargate.KeyStatus{"expired"}},
	} {
		for _, err := range client.LicenseKeys(t.Context(), filter) {
			var input *polargate.InputError
			require.ErrorAs(t, err, &input)
			assert.Equal(t, field, input.Field)
		}
	}
	assert.Zero(t, polar.Count(""))
}

func TestKeysOfAnotherOrganizationAreNoAnswer(t *testing.T) {
	t.Parallel()
	polar, client := office(t)
	key := polar.AddKey(polartest.LicenseKey{})
	polar.Inject(polartest.Fault{Effect: polartest.Rewrite(func(status int, _ http.Header, body []byte) (int, []byte) {
		return status, []byte(strings.ReplaceAll(string(body), polar.OrganizationID(), kit.TeaBenefit))
	})})
	_, err := client.LicenseKey(t.Context(), key.ID)
	require.ErrorIs(t, err, polargate.ErrUnreachable)
	for _, err := range client.LicenseKeys(t.Context(), polargate.KeyFilter{}) {
		require.ErrorIs(t, err, polargate.ErrUnreachable)
	}
}

func TestAKeyOfACancelledSubscriptionEndsForAServerToo(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := kit.NewShop(t, func(c *polartest.Config) { c.Version = "2027-01" })
		keyed := s.Polar.AddBenefit(polartest.CatalogBenefit{Type: "license_keys", Properties: map[string]any{}})
		product := s.Polar.AddProduct(polartest.Product{Benefits: []string{keyed.ID}})
		end := time.Now().Add(2 * time.Hour)
		s.Polar.Subscribe(kit.Paying, polartest.Subscription{ProductID: product.ID, CancelAtPeriodEnd: true, CurrentPeriodEnd: end, EndsAt: end})
		ada, _ := s.Polar.Customer(kit.Paying)
		var key polartest.LicenseKey
		for _, b := range ada.Benefits {
			if b.LicenseKeyID != "" {
				key, _ = s.Polar.LicenseKey(b.LicenseKeyID)
			}
		}
		shared := polargate.SharedInMemory()
		open := func() *polargate.Customers {
			return s.Open(func(c *polargate.CustomersConfig) { c.Features[keyed.ID], c.Shared = []string{"api"}, shared })
		}
		one, other := open(), open()
		_, refusal := one.DecideLicense(t.Context(), key.Key, polargate.Feature("api"))
		require.Nil(t, refusal)
		s.Polar.SetOffline(true)
		_, refusal = other.DecideLicense(t.Context(), key.Key, polargate.Feature("api"))
		require.Nil(t, refusal, "the other replica has told")
		time.Sleep(2*time.Hour - time.Second)
		for _, customers := range []*polargate.Customers{one, other} {
			_, refusal = customers.DecideLicense(t.Context(), key.Key, polargate.Feature("api"))
			require.Nil(t, refusal)
		}
		time.Sleep(2 * time.Second)
		for _, customers := range []*polargate.Customers{one, other} {
			_, refusal = customers.DecideLicense(t.Context(), key.Key, polargate.Feature("api"))
			require.NotNil(t, refusal)
			assert.Equal(t, polargate.ErrExpired, refusal.Reason)
		}
	})
}
