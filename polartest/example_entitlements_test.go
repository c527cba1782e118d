package polartest_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"

	"github.com/polargate/polargate"
	"github.com/polargate/polargate/polartest"
)

// A handler is tested by itself: no Polar, no route around it.
func ExampleEntitlements() {
	const calls = "aaf2bfea-ac4f-40eb-99ad-de858ccdfd97"
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		have, _ := polargate.FromContext(r.Context())
		left, _ := have.Meter(calls)
		fmt.Fprintln(w, have.ExternalID(), have.Features(), have.Has("sync"), left.Balance)
	})

	r := httptest.NewRequest(http.MethodGet, "/export", nil)
	r = r.WithContext(polartest.Entitlements(
		polartest.With("export", "print"),
		polartest.WithMeter(polartest.Meter{MeterID: calls, CreditedUnits: 100, ConsumedUnits: 58}),
		polartest.As(polartest.Customer{ExternalID: "usr_1337"}),
		polartest.In(r.Context()),
	))
	w := httptest.NewRecorder()
	handler.ServeHTTP(w, r)
	fmt.Print(w.Body)
	// Output: usr_1337 [export print] false 42
}

// Benefits bring what the vendor wrote on them, and subscriptions their product.
func ExampleWithBenefit() {
	const theme, pro = "850cc3a4-3ed7-4be6-b198-127ec8d33bb9", "32234c6d-03fe-42a8-8a2f-d3d416d0b60a"
	ctx := polartest.Entitlements(
		polartest.WithBenefit(polartest.Benefit{BenefitID: theme, Metadata: map[string]any{"color": "teal"}}, "themes"),
		polartest.WithSubscription(polartest.Subscription{ProductID: pro}),
	)
	have, _ := polargate.FromContext(ctx)
	benefit, _ := have.Benefit(theme)
	fmt.Println(have.Known(), have.Has("themes"), benefit.Metadata(), have.Subscribed(pro))
	// Output: true true map[color:teal] true
}
