package polargateopenfeature_test

import (
	"context"
	"fmt"

	"github.com/open-feature/go-sdk/openfeature"
	"github.com/open-feature/go-sdk/openfeature/isolated"
	"github.com/polargate/polargate"
	"github.com/polargate/polargate/polargateopenfeature"
	"github.com/polargate/polargate/polartest"
)

func Example() {
	const benefitPro, meterCalls = "850cc3a4-3ed7-4be6-b198-127ec8d33bb9", "aaf2bfea-ac4f-40eb-99ad-de858ccdfd97"
	polar := polartest.New(polartest.Config{})
	polar.AddCustomer(polartest.Customer{
		ExternalID: "usr_1337",
		Benefits:   []polartest.Benefit{{BenefitID: benefitPro}},
		Meters:     []polartest.Meter{{MeterID: meterCalls, CreditedUnits: 100}},
	})
	customers, err := polargate.NewCustomers(polargate.CustomersConfig{
		AccessToken: polar.AddToken(polartest.Token{}), // from the environment, in a server
		Features:    map[string][]string{benefitPro: {"export"}},
		BaseURL:     polar.URL(), // a server leaves these two out
		HTTPClient:  polar.Client(),
	})
	if err != nil {
		panic(err)
	}
	defer customers.Close()

	provider, err := polargateopenfeature.New(customers, polargateopenfeature.Options{
		Features: []string{"export"},
		Meters:   map[string]string{"calls_left": meterCalls},
	})
	if err != nil {
		panic(err)
	}
	ctx, flags := context.Background(), isolated.NewAPI() // or the functions of package openfeature
	if err := flags.SetProviderAndWait(ctx, provider); err != nil {
		panic(err)
	}
	client := flags.NewClient()
	for _, id := range []string{"usr_1337", "usr_2"} {
		user := openfeature.NewEvaluationContext(id, nil)
		export, _ := client.BooleanValueDetails(ctx, "export", false, user)
		left, _ := client.IntValue(ctx, "calls_left", 0, user)
		fmt.Println(export.Value, export.Variant, left)
	}
	// Output:
	// true granted 100
	// false unknown_customer 0
}

// As docs/openfeature.md shows it, with the functions of package openfeature.
func Example_functions() {
	const benefitID, meterID = "850cc3a4-3ed7-4be6-b198-127ec8d33bb9", "aaf2bfea-ac4f-40eb-99ad-de858ccdfd97"
	polar := polartest.New(polartest.Config{})
	polar.AddCustomer(polartest.Customer{ExternalID: "usr_1337", Benefits: []polartest.Benefit{{BenefitID: benefitID}}})
	customers, err := polargate.NewCustomers(polargate.CustomersConfig{
		AccessToken: polar.AddToken(polartest.Token{}), Features: map[string][]string{benefitID: {"export"}},
		BaseURL: polar.URL(), HTTPClient: polar.Client(),
	})
	if err != nil {
		panic(err)
	}
	defer customers.Close()
	ctx := context.Background()

	provider, err := polargateopenfeature.New(customers, polargateopenfeature.Options{
		Features: []string{"export"},                       // booleans
		Meters:   map[string]string{"calls_left": meterID}, // integers and floats: what is left
		Benefits: map[string]string{"theme": benefitID},    // objects: metadata of the benefit in Polar
	})
	if err != nil {
		panic(err)
	}
	err = openfeature.SetProviderAndWait(provider)
	if err != nil {
		panic(err)
	}

	export, err := openfeature.NewDefaultClient().BooleanValue(ctx, "export", false, openfeature.NewEvaluationContext("usr_1337", nil))
	fmt.Println(export, err)
	// Output: true <nil>
}

// A program with a license answers by that. Events need Config.OnChange.
func ExampleNewGate() {
	var provider *polargateopenfeature.Provider
	gate, err := polargate.Open(polargate.Config{
		OrganizationID: "3ca4b5c6-8f2f-4a59-9f0f-4c3f5f0d9a11", App: "inkwell", Store: &polargate.MemoryStore{},
		OnChange: func(before, after polargate.Status) { provider.GateChanged(before, after) },
	})
	if err != nil {
		panic(err)
	}
	defer gate.Close()
	if provider, err = polargateopenfeature.NewGate(gate, polargateopenfeature.Options{Features: []string{"export"}}); err != nil {
		panic(err)
	}
	_ = provider.Init(openfeature.EvaluationContext{}) // as openfeature.SetProvider does
	defer provider.Shutdown()
	export := provider.BooleanEvaluation(context.Background(), "export", false, nil)
	fmt.Println(provider.Metadata().Name, export.Value, export.Variant, len(provider.Hooks()), len(provider.EventChannel()))
	// Output: polargate false no_license 0 0
}

// Follow sends PROVIDER_CONFIGURATION_CHANGED for a customer, such as the one whose page is open.
func ExampleProvider_Follow() {
	polar := polartest.New(polartest.Config{})
	customers, err := polargate.NewCustomers(polargate.CustomersConfig{AccessToken: polar.AddToken(polartest.Token{}), BaseURL: polar.URL(), HTTPClient: polar.Client()})
	if err != nil {
		panic(err)
	}
	defer customers.Close()
	provider, err := polargateopenfeature.New(customers, polargateopenfeature.Options{
		Meters:   map[string]string{"calls_left": "aaf2bfea-ac4f-40eb-99ad-de858ccdfd97"},
		Benefits: map[string]string{"theme": "32234c6d-03fe-42a8-8a2f-d3d416d0b60a"},
	})
	if err != nil {
		panic(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	go func() { _ = provider.Follow(ctx, polargate.ExternalID("usr_1337")) }()
	cancel()

	user := openfeature.FlattenedContext{openfeature.TargetingKey: "usr_1337"}
	left := provider.FloatEvaluation(context.Background(), "calls_left", 0, user)
	whole := provider.IntEvaluation(context.Background(), "calls_left", 0, user)
	theme := provider.ObjectEvaluation(context.Background(), "theme", nil, user)
	text := provider.StringEvaluation(context.Background(), "theme", "light", user)
	fmt.Println(left.Value, whole.Value, theme.Value, theme.Variant, text.Value, text.Error())
	// Output: 0 0 map[] unknown_customer light TYPE_MISMATCH: the flag is an object
}
