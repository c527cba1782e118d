package polartest

import "testing"

// FuzzRequests sends anything to every endpoint. Nothing may panic.
func FuzzRequests(f *testing.F) {
	f.Add("/v1/customer-portal/license-keys/validate", []byte(`{"key":"POLAR-1","organization_id":"34f57e13-8bcb-4481-85b2-a4b55c4ba0b9","conditions":{"a":1e999},"increment_usage":"1_0"}`))
	f.Add("/v1/customer-portal/license-keys/activate", []byte(`{"key":"POLAR-1","organization_id":"34f57e13-8bcb-4481-85b2-a4b55c4ba0b9","label":"","meta":{"a":1.0}}`))
	f.Add("/v1/license-keys/8d8a7abc-87f9-4fe4-8680-86d3a0c05924", []byte(`{"expires_at":"2030-01-02T03:04:05.123+0200","limit_usage":null,"usage":-3}`))
	f.Add("/v1/customers/external/a/state", []byte(`page=1`))
	f.Add("/v1/customers/external/a\x00\xff %2F/state/", []byte(`{}`))
	f.Add("/v1/customers/8d8a7abc-87f9-4fe4-8680-86d3a0c05924/state", []byte(``))
	f.Fuzz(func(t *testing.T, path string, body []byte) {
		p := New(Config{Unlimited: true, OrganizationID: "34f57e13-8bcb-4481-85b2-a4b55c4ba0b9"})
		p.AddKey(LicenseKey{ID: "8d8a7abc-87f9-4fe4-8680-86d3a0c05924", Key: "POLAR-1", LimitActivations: Limit(1), LimitUsage: Limit(3)})
		p.AddCustomer(Customer{ID: "8d8a7abc-87f9-4fe4-8680-86d3a0c05924", ExternalID: "a", Meters: []Meter{{}}})
		token := p.AddToken(Token{})
		for _, method := range []string{"POST", "PATCH", "GET"} {
			d := p.take(&call{method: method, path: path, rawQuery: string(body), body: body, header: map[string][]string{
				"Content-Type": {"application/json"}, "Authorization": {"Bearer " + token},
			}})
			if s := d.answer.status; s < 200 || s > 599 {
				t.Fatalf("%s %s: status %d", method, path, s)
			}
		}
	})
}
