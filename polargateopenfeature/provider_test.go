package polargateopenfeature_test

import (
	"context"
	"math"
	"testing"
	"testing/synctest"
	"time"

	"github.com/open-feature/go-sdk/openfeature"
	"github.com/open-feature/go-sdk/openfeature/isolated"
	"github.com/open-feature/go-sdk/openfeature/memprovider"
	"github.com/open-feature/go-sdk/openfeature/multi"
	"github.com/polargate/polargate"
	"github.com/polargate/polargate/polargateopenfeature"
	"github.com/polargate/polargate/polartest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const (
	pro   = "850cc3a4-3ed7-4be6-b198-127ec8d33bb9"
	theme = "32234c6d-03fe-42a8-8a2f-d3d416d0b60a"
	calls = "aaf2bfea-ac4f-40eb-99ad-de858ccdfd97"
)

var options = polargateopenfeature.Options{
	Features: []string{"export", "sync"},
	Meters:   map[string]string{"calls_left": calls},
	Benefits: map[string]string{"theme": theme},
}

// shop is a Polar with a customer, usr_1, who has export, a theme and 99.5 calls.
func shop(t testing.TB, change ...func(*polargate.CustomersConfig)) (*polartest.Polar, *polargate.Customers) {
	t.Helper()
	polar := polartest.New(polartest.Config{Unlimited: true})
	polar.AddCustomer(polartest.Customer{
		ExternalID: "usr_1",
		Benefits:   []polartest.Benefit{{BenefitID: pro}, {BenefitID: theme, Metadata: map[string]any{"color": "teal", "size": 3, "ratio": 1.5, "dark": true}}},
		Meters:     []polartest.Meter{{MeterID: calls, CreditedUnits: 100, ConsumedUnits: 0.5}},
	})
	config := polargate.CustomersConfig{
		AccessToken: polar.AddToken(polartest.Token{}), BaseURL: polar.URL(), HTTPClient: polar.Client(),
		Features: map[string][]string{pro: {"export"}},
	}
	for _, c := range change {
		c(&config)
	}
	customers, err := polargate.NewCustomers(config)
	require.NoError(t, err)
	t.Cleanup(func() { _ = customers.Close() })
	return polar, customers
}

func provide(t testing.TB, customers *polargate.Customers) *polargateopenfeature.Provider {
	t.Helper()
	provider, err := polargateopenfeature.New(customers, options)
	require.NoError(t, err)
	return provider
}

// client asks a provider through the SDK.
func client(t testing.TB, provider openfeature.FeatureProvider) *openfeature.Client {
	t.Helper()
	api := isolated.NewAPI()
	require.NoError(t, api.SetProviderAndWait(t.Context(), provider))
	return api.NewClient()
}

func user(id string) openfeature.EvaluationContext { return openfeature.NewEvaluationContext(id, nil) }

func TestFlagsOfEachTypeAnswerWhatACustomerHas(t *testing.T) {
	t.Parallel()
	_, customers := shop(t)
	c := client(t, provide(t, customers))
	for range 2 { // from Polar, and from memory
		on, err := c.BooleanValueDetails(t.Context(), "export", false, user("usr_1"))
		require.NoError(t, err)
		assert.True(t, on.Value)
		assert.Equal(t, openfeature.TargetingMatchReason, on.Reason)
		assert.Equal(t, polargateopenfeature.Granted, on.Variant)
		f, err := c.FloatValue(t.Context(), "calls_left", -1, user("usr_1"))
		require.NoError(t, err)
		assert.InDelta(t, 99.5, f, 0)
		i, err := c.IntValue(t.Context(), "calls_left", -1, user("usr_1"))
		require.NoError(t, err)
		assert.Equal(t, int64(99), i)
		o, err := c.ObjectValue(t.Context(), "theme", nil, user("usr_1"))
		require.NoError(t, err)
		assert.Equal(t, map[string]any{"color": "teal", "size": int64(3), "ratio": 1.5, "dark": true}, o)
	}
}

func TestAFlagIsOnForAnyBenefitIfItsFeatureComesWithAny(t *testing.T) {
	t.Parallel()
	_, customers := shop(t, func(c *polargate.CustomersConfig) {
		c.Features = map[string][]string{polargate.AnyBenefit: {"sync"}, pro: {"export"}}
	})
	c := client(t, provide(t, customers))
	for flag, want := range map[string]bool{"sync": true, "export": true} {
		on, err := c.BooleanValue(t.Context(), flag, false, user("usr_1"))
		require.NoError(t, err)
		assert.Equal(t, want, on, flag)
	}
	_, customers = shop(t, func(c *polargate.CustomersConfig) {
		c.Features = map[string][]string{polargate.AnyBenefit: {"sync"}, "6b43a9a5-8d86-4c5a-9c5e-3a1f9a0b7c11": {"export"}}
	})
	c = client(t, provide(t, customers))
	for flag, want := range map[string]bool{"sync": true, "export": false} {
		on, err := c.BooleanValue(t.Context(), flag, !want, user("usr_1"))
		require.NoError(t, err)
		assert.Equal(t, want, on, flag)
	}
}

func TestADenialIsAValueWithAVariantAndNoError(t *testing.T) {
	t.Parallel()
	polar, customers := shop(t)
	polar.AddCustomer(polartest.Customer{ExternalID: "usr_2"})
	c := client(t, provide(t, customers))
	for id, variant := range map[string]string{"usr_2": polargateopenfeature.Denied, "usr_3": polargateopenfeature.UnknownCustomer} {
		on, err := c.BooleanValueDetails(t.Context(), "export", true, user(id))
		require.NoError(t, err)
		assert.False(t, on.Value)
		assert.Equal(t, variant, on.Variant)
		assert.Equal(t, openfeature.TargetingMatchReason, on.Reason)
		f, err := c.FloatValueDetails(t.Context(), "calls_left", 7, user(id))
		require.NoError(t, err)
		assert.Zero(t, f.Value)
		assert.Equal(t, variant, f.Variant)
		o, err := c.ObjectValueDetails(t.Context(), "theme", "none", user(id))
		require.NoError(t, err)
		assert.Equal(t, map[string]any{}, o.Value)
		assert.Equal(t, variant, o.Variant)
	}
}

func TestAMultiProviderDoesNotTurnOurNoIntoAnothersYes(t *testing.T) {
	t.Parallel()
	_, customers := shop(t)
	other := memprovider.NewInMemoryProvider(map[string]memprovider.InMemoryFlag{
		"sync":  {State: memprovider.Enabled, DefaultVariant: "on", Variants: map[string]any{"on": true}},
		"other": {State: memprovider.Enabled, DefaultVariant: "on", Variants: map[string]any{"on": true}},
	})
	both, err := multi.NewProvider(multi.StrategyFirstMatch, multi.WithProvider("polargate", provide(t, customers)), multi.WithProvider("other", other))
	require.NoError(t, err)
	c := client(t, both)
	on, err := c.BooleanValue(t.Context(), "sync", true, user("usr_1"))
	require.NoError(t, err)
	assert.False(t, on)
	on, err = c.BooleanValue(t.Context(), "other", false, user("usr_1"))
	require.NoError(t, err)
	assert.True(t, on, "FLAG_NOT_FOUND goes on to the next")
}

func TestWhatCannotBeAnsweredIsAnErrorOfTheSpecification(t *testing.T) {
	t.Parallel()
	polar, customers := shop(t)
	provider := provide(t, customers)
	c := client(t, provider)
	is := func(code openfeature.ErrorCode, detail openfeature.ResolutionDetail) {
		t.Helper()
		assert.Equal(t, code, detail.ErrorCode)
		assert.Equal(t, openfeature.ErrorReason, detail.Reason)
	}
	on, err := c.BooleanValueDetails(t.Context(), "exprot", true, user("usr_1"))
	require.Error(t, err)
	assert.True(t, on.Value)
	is(openfeature.FlagNotFoundCode, on.ResolutionDetail)
	on, _ = c.BooleanValueDetails(t.Context(), "calls_left", true, user("usr_1"))
	is(openfeature.TypeMismatchCode, on.ResolutionDetail)
	text, _ := c.StringValueDetails(t.Context(), "export", "?", user("usr_1"))
	is(openfeature.TypeMismatchCode, text.ResolutionDetail)
	text, _ = c.StringValueDetails(t.Context(), "what", "?", user("usr_1"))
	is(openfeature.FlagNotFoundCode, text.ResolutionDetail)
	assert.Equal(t, "?", text.Value)
	for _, nobody := range []openfeature.EvaluationContext{user(""), openfeature.NewTargetlessEvaluationContext(nil)} {
		on, _ = c.BooleanValueDetails(t.Context(), "export", true, nobody)
		is(openfeature.TargetingKeyMissingCode, on.ResolutionDetail)
		i, _ := c.IntValueDetails(t.Context(), "calls_left", 3, nobody)
		is(openfeature.TargetingKeyMissingCode, i.ResolutionDetail)
		assert.Equal(t, int64(3), i.Value)
	}
	on, _ = c.BooleanValueDetails(t.Context(), "export", true, user("a/b"))
	is(openfeature.InvalidContextCode, on.ResolutionDetail)

	polar.SetOffline(true)
	on, _ = c.BooleanValueDetails(t.Context(), "export", true, user("ada@example.com"))
	is(openfeature.GeneralCode, on.ResolutionDetail)
	assert.True(t, on.Value, "the default is the program's choice for an outage")
	assert.NotContains(t, on.ErrorMessage, "ada")
	o, _ := c.ObjectValueDetails(t.Context(), "theme", "default", user("usr_9"))
	is(openfeature.GeneralCode, o.ResolutionDetail)
	assert.Equal(t, "default", o.Value)
	require.NoError(t, customers.Close())
	on, _ = c.BooleanValueDetails(t.Context(), "export", true, user("usr_8"))
	is(openfeature.ProviderNotReadyCode, on.ResolutionDetail)
}

func TestTheProviderIsReadyAtOnceWhilePolarHangs(t *testing.T) {
	t.Parallel()
	polar, customers := shop(t)
	polar.Inject(polartest.Fault{Effect: polartest.Hang()})
	client(t, provide(t, customers))
	assert.Zero(t, polar.Count(""), "nobody was asked")
}

func TestAfterShutdownOldClientsAreToldThatTheProviderIsNotReady(t *testing.T) {
	t.Parallel()
	_, customers := shop(t)
	provider := provide(t, customers)
	api := isolated.NewAPI()
	require.NoError(t, api.SetProviderAndWait(t.Context(), provider))
	old := api.NewClient()
	require.NoError(t, api.Shutdown(t.Context()))
	on, err := old.BooleanValueDetails(t.Context(), "export", true, user("usr_1"))
	require.Error(t, err)
	assert.Equal(t, openfeature.ProviderNotReadyCode, on.ErrorCode)
	direct := provider.IntEvaluation(t.Context(), "calls_left", 5, openfeature.FlattenedContext{"targetingKey": "usr_1"})
	assert.Equal(t, openfeature.ProviderNotReadyCode, direct.ResolutionDetail().ErrorCode)
	assert.Equal(t, int64(5), direct.Value)
	have, err := customers.Entitlements(t.Context(), polargate.ExternalID("usr_1"))
	require.NoError(t, err, "the Customers are the program's, and stay open")
	assert.True(t, have.Has("export"))
	require.NoError(t, provider.Init(openfeature.EvaluationContext{}))
	assert.True(t, provider.BooleanEvaluation(t.Context(), "export", false, openfeature.FlattenedContext{"targetingKey": "usr_1"}).Value, "it can be set again")
}

func TestAChangeIsAnEventWithItsFlagsASequenceAndPolarsTime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		polar, customers := shop(t)
		provider := provide(t, customers)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- provider.Follow(ctx, polargate.ExternalID("usr_1")) }()
		synctest.Wait()
		next := func() openfeature.Event {
			t.Helper()
			synctest.Wait()
			select {
			case e := <-provider.EventChannel():
				return e
			default:
				require.FailNow(t, "no event")
				panic("")
			}
		}
		refresh := func() {
			time.Sleep(time.Minute)
			_, err := customers.Refresh(t.Context(), polargate.ExternalID("usr_1"))
			require.NoError(t, err)
		}
		polar.RevokeBenefit("usr_1", pro)
		polar.DebitMeter("usr_1", calls, 10)
		refresh()
		e := next()
		assert.Equal(t, openfeature.ProviderConfigChange, e.EventType)
		assert.Equal(t, []string{"calls_left", "export"}, e.FlagChanges)
		assert.Equal(t, int64(1), e.EventMetadata["sequence"])
		assert.WithinDuration(t, time.Now(), e.EventMetadata["polarTime"].(time.Time), time.Second)
		assert.NotEmpty(t, e.EventMetadata["customerId"])
		polar.RevokeBenefit("usr_1", theme)
		refresh()
		e = next()
		assert.Equal(t, []string{"theme"}, e.FlagChanges)
		assert.Equal(t, int64(2), e.EventMetadata["sequence"])
		refresh() // nothing has changed
		synctest.Wait()
		assert.Empty(t, provider.EventChannel())

		provider.Shutdown()
		polar.GrantBenefit("usr_1", polartest.Benefit{BenefitID: pro})
		refresh()
		synctest.Wait()
		assert.Empty(t, provider.EventChannel())
		cancel()
		require.NoError(t, <-done)
	})
	_, customers := shop(t)
	require.Error(t, provide(t, customers).Follow(t.Context(), polargate.ExternalID("a/b")))
}

func TestTheLicenseOfAnInstallationAnswersWithoutATargetingKey(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		polar := polartest.New(polartest.Config{Unlimited: true})
		key := polar.AddKey(polartest.LicenseKey{BenefitID: pro, LimitActivations: polartest.Limit(1)})
		var provider *polargateopenfeature.Provider
		gate, err := polargate.Open(polargate.Config{
			OrganizationID: polar.OrganizationID(), BaseURL: polar.URL(), HTTPClient: polar.Client(), Store: &polargate.MemoryStore{}, App: "inkwell",
			Features: map[string][]string{pro: {"export"}}, GracePeriod: 10 * 24 * time.Hour,
			OnChange: func(before, after polargate.Status) { provider.GateChanged(before, after) },
		})
		require.NoError(t, err)
		defer func() { _ = gate.Close() }()
		provider, err = polargateopenfeature.NewGate(gate, polargateopenfeature.Options{Features: []string{"export", "sync"}})
		require.NoError(t, err)
		export := func() openfeature.BoolResolutionDetail {
			return provider.BooleanEvaluation(t.Context(), "export", true, nil)
		}
		assert.False(t, export().Value)
		assert.Equal(t, string(polargate.ErrNoLicense), export().Variant)
		_, err = gate.Activate(t.Context(), key.Key)
		require.NoError(t, err)
		assert.True(t, export().Value)
		assert.Equal(t, openfeature.StaticReason, export().Reason)
		assert.Equal(t, polargateopenfeature.Denied, provider.BooleanEvaluation(t.Context(), "sync", true, nil).Variant)
		synctest.Wait()
		e := <-provider.EventChannel()
		assert.Equal(t, []string{"export"}, e.FlagChanges)
		assert.Equal(t, int64(1), e.EventMetadata["sequence"])

		polar.SetOffline(true)
		time.Sleep(5 * 24 * time.Hour)
		_, _ = gate.Check(t.Context())
		assert.True(t, export().Value)
		assert.Equal(t, openfeature.Reason("STALE"), export().Reason)
		assert.Equal(t, openfeature.FlagNotFoundCode, provider.FloatEvaluation(t.Context(), "calls", 1, nil).ResolutionDetail().ErrorCode)
		require.Error(t, provider.Follow(t.Context(), polargate.ExternalID("usr_1")))
	})
}

func TestOptionsThatCannotBeRightAreErrors(t *testing.T) {
	t.Parallel()
	_, customers := shop(t)
	for what, o := range map[string]polargateopenfeature.Options{
		"no flags":     {},
		"no name":      {Features: []string{""}},
		"two meanings": {Features: []string{"calls"}, Meters: map[string]string{"calls": calls}},
		"a bad meter":  {Meters: map[string]string{"calls": "calls"}},
		"a bad id":     {Benefits: map[string]string{"theme": "theme"}},
	} {
		_, err := polargateopenfeature.New(customers, o)
		require.Error(t, err, what)
	}
	_, err := polargateopenfeature.New(nil, options)
	require.Error(t, err)
	_, err = polargateopenfeature.NewGate(nil, options)
	require.Error(t, err)
}

func TestAProgramMayNameTheCustomerInAnotherWay(t *testing.T) {
	t.Parallel()
	polar, customers := shop(t)
	known, _ := polar.Customer("usr_1")
	id := known.ID
	o := options
	o.Customer = func(of openfeature.FlattenedContext) polargate.CustomerRef {
		id, _ := of["polar"].(string)
		return polargate.CustomerID(id)
	}
	provider, err := polargateopenfeature.New(customers, o)
	require.NoError(t, err)
	on, err := client(t, provider).BooleanValue(t.Context(), "export", false, openfeature.NewTargetlessEvaluationContext(map[string]any{"polar": id}))
	require.NoError(t, err)
	assert.True(t, on)
}

func TestABalanceBeyondWholeNumbersIsTheLargestOne(t *testing.T) {
	t.Parallel()
	polar, customers := shop(t)
	polar.AddCustomer(polartest.Customer{ExternalID: "usr_rich", Meters: []polartest.Meter{{MeterID: calls, CreditedUnits: math.MaxInt64}}})
	polar.AddCustomer(polartest.Customer{ExternalID: "usr_debt", Meters: []polartest.Meter{{MeterID: calls, ConsumedUnits: 0.5}}})
	c := client(t, provide(t, customers))
	rich, err := c.IntValue(t.Context(), "calls_left", 0, user("usr_rich"))
	require.NoError(t, err)
	assert.Greater(t, rich, int64(math.MaxInt64/2))
	debt, err := c.IntValue(t.Context(), "calls_left", 0, user("usr_debt"))
	require.NoError(t, err)
	assert.Equal(t, int64(-1), debt, "a part of a unit is none")
}
