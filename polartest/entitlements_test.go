package polartest_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/polargate/polargate"
	"github.com/polargate/polargate/polartest"
)

func TestAHandlerSeesTheEntitlementsOfItsTestAndBehindARouteThoseOfTheRoute(t *testing.T) {
	t.Parallel()
	type key struct{}
	ctx := polartest.Entitlements(polartest.With("sync"), polartest.In(context.WithValue(t.Context(), key{}, 1)))
	if ctx.Value(key{}) != 1 {
		t.Error("the context isn't derived from the one given")
	}
	have, ok := polargate.FromContext(ctx)
	again, _ := polargate.FromContext(ctx)
	if !ok || have != again || !have.Known() || have.CustomerID() == "" || time.Since(have.CheckedAt()) > time.Minute {
		t.Errorf("not a customer as a route finds one: %v", have)
	}
	if nobody, ok := polargate.FromContext(t.Context()); ok || nobody != nil {
		t.Error("entitlements out of nothing")
	}

	polar := polartest.New(polartest.Config{})
	polar.SetOffline(true)
	customers, err := polargate.NewCustomers(polargate.CustomersConfig{AccessToken: polar.AddToken(polartest.Token{}), BaseURL: polar.URL(), HTTPClient: polar.Client()})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = customers.Close() }()
	open := customers.Route(polargate.Route{
		Customer: func(*http.Request) polargate.CustomerRef { return polargate.ExternalID("usr_1") },
		Require:  []polargate.Requirement{polargate.Feature("sync")}, FailOpen: true,
	})
	open(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if _, ok := polargate.FromContext(r.Context()); ok {
			t.Error("a route that fails open hides what is around it")
		}
	})).ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/", nil).WithContext(ctx))
}
