package polartest_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/polargate/polargate/polartest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestEachVersionOfTheAPITellsOfLicenseKeysWhatItsSchemaHas(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		version, header       string
		members, bought, path bool
	}{
		{version: "", header: "", path: true},
		{version: "", header: "2026-10", path: true}, // as recorded
		{version: "", header: "2027-01"},
		{version: "2026-04", header: "", path: true},
		{version: "2026-04", header: "2026-10", members: true, path: true},
		{version: "2026-10", header: "", members: true, path: true},
		{version: "2027-01", header: "", members: true, bought: true, path: true},
		{version: "2027-01", header: "2026-04", path: true},
		{version: "2027-01", header: "2028-01"},
	} {
		p := polartest.New(polartest.Config{Unlimited: true, MemberModel: true, Version: c.version})
		pro := p.AddBenefit(polartest.CatalogBenefit{Type: "license_keys", Properties: map[string]any{}})
		product := p.AddProduct(polartest.Product{Benefits: []string{pro.ID}, Prices: []polartest.Price{{AmountType: "seat_based"}}})
		buyer := p.AddCustomer(polartest.Customer{ExternalID: "acme"})
		end := p.Now().Add(time.Hour).Truncate(time.Second)
		s := p.Subscribe("acme", polartest.Subscription{ProductID: product.ID, Seats: polartest.Limit(2), CancelAtPeriodEnd: true, CurrentPeriodEnd: end, EndsAt: end})
		token := p.AddToken(polartest.Token{})
		send := func(method, path, body string) (int, map[string]any) {
			r, err := http.NewRequest(method, p.URL()+path, strings.NewReader(body))
			require.NoError(t, err)
			r.Header.Set("Authorization", "Bearer "+token)
			r.Header.Set("Content-Type", "application/json")
			if c.header != "" {
				r.Header.Set("Polar-Version", c.header)
			}
			answer, err := p.Client().Do(r)
			require.NoError(t, err)
			defer answer.Body.Close()
			var v map[string]any
			require.NoError(t, json.NewDecoder(answer.Body).Decode(&v))
			if answer.StatusCode < 400 && c.path {
				want := c.header
				if want == "" {
					want = c.version
				}
				if want == "" {
					want = "2026-04"
				}
				assert.Equal(t, want, answer.Header.Get("Polar-Version"))
			}
			return answer.StatusCode, v
		}
		status, _ := send("POST", "/v1/customer-seats", `{"subscription_id":"`+s.ID+`","email":"ada@example.com","external_member_id":"ada","immediate_claim":true}`)
		if !c.path {
			assert.Equal(t, 404, status)
			continue
		}
		customer, _ := p.Customer(buyer.ID)
		k, ok := p.LicenseKey(customer.Benefits[0].LicenseKeyID)
		require.True(t, ok)
		_, listed := send("GET", "/v1/license-keys/", "")
		_, read := send("GET", "/v1/license-keys/"+k.ID, "")
		_, validated := send("POST", "/v1/license-keys/validate", `{"key":"`+k.Key+`","organization_id":"`+k.OrganizationID+`"}`)
		for name, key := range map[string]map[string]any{"list": listed["items"].([]any)[0].(map[string]any), "get": read, "validate": validated} {
			member, has := key["member"]
			assert.Equal(t, c.members, has, "%+v %s", c, name)
			if c.members {
				assert.Equal(t, "ada", member.(map[string]any)["external_id"])
			}
			subscription, has := key["subscription"]
			assert.Equal(t, c.bought && name == "validate", has, "%+v %s", c, name)
			if has {
				assert.Equal(t, end.Format(time.RFC3339), subscription.(map[string]any)["ends_at"])
				assert.Nil(t, key["order"])
			}
		}
	}
}
