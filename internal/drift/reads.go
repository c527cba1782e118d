package main

// calls are the operations that the library calls or polartest plays, of those that Polar's
// schema of version 2026-04 publishes.
var calls = []string{
	"GET /v1/customer-portal/license-keys/",
	"GET /v1/customer-portal/license-keys/{id}",
	"POST /v1/customer-portal/license-keys/validate",
	"POST /v1/customer-portal/license-keys/activate",
	"POST /v1/customer-portal/license-keys/deactivate",
	"GET /v1/license-keys/",
	"GET /v1/license-keys/{id}",
	"PATCH /v1/license-keys/{id}",
	"GET /v1/license-keys/{id}/activations/{activation_id}",
	"POST /v1/license-keys/validate",
	"POST /v1/license-keys/activate",
	"POST /v1/license-keys/deactivate",
	"GET /v1/customers/{id}/state",
	"GET /v1/customers/external/{external_id}/state",
	"POST /v1/customer-sessions/",
	"POST /v1/events/ingest",
}

// events are the bodies of webhooks that the library reads.
var events = []string{"WebhookCustomerStateChangedPayload"}

var (
	ofKey      = []string{"id", "key", "organization_id", "benefit_id", "status", "customer_id", "display_key", "limit_activations", "usage", "limit_usage", "validations", "last_validated_at", "expires_at", "created_at", "modified_at", "customer"}
	ofSeat     = []string{"id", "license_key_id", "label", "meta", "created_at", "modified_at"}
	ofCustomer = []string{"id", "external_id", "organization_id", "deleted_at", "metadata", "granted_benefits", "active_subscriptions", "active_meters"}
)

// reads are the fields that the library reads, by type.
var reads = map[string][]string{
	"LicenseKeyRead":                     ofKey,
	"ValidatedLicenseKey":                append([]string{"activation"}, ofKey...),
	"LicenseKeyWithActivations":          append([]string{"activations"}, ofKey...),
	"LicenseKeyActivationBase":           ofSeat,
	"LicenseKeyActivationRead":           append([]string{"license_key"}, ofSeat...),
	"LicenseKeyCustomer":                 {"id", "organization_id", "external_id", "email", "email_verified", "type", "name", "billing_name", "billing_address", "tax_id", "locale", "default_payment_method_id", "avatar_url", "metadata", "created_at", "modified_at", "deleted_at", "first_user_event_at"},
	"Address":                            {"line1", "line2", "postal_code", "city", "state", "country"},
	"CustomerStateIndividual":            ofCustomer,
	"CustomerStateTeam":                  ofCustomer,
	"CustomerStateBenefitGrant":          {"benefit_id", "benefit_type", "benefit_metadata", "properties"},
	"BenefitGrantLicenseKeysProperties":  {"license_key_id", "display_key"},
	"CustomerStateSubscription":          {"product_id", "status"},
	"CustomerStateMeter":                 {"meter_id", "consumed_units", "credited_units", "balance"},
	"CustomerSession":                    {"id", "token", "customer_portal_url", "customer_id", "expires_at"},
	"ListResource_LicenseKeyRead_":       {"items", "pagination"},
	"Pagination":                         {"max_page", "total_count"},
	"EventsIngestResponse":               {"inserted", "duplicates"},
	"WebhookCustomerStateChangedPayload": {"type", "timestamp", "data"},
	"ResourceNotFound":                   {"error", "detail"},
	"NotPermitted":                       {"error", "detail"},
	"Unauthorized":                       {"error", "detail"},
	"HTTPValidationError":                {"detail"},
	"ValidationError":                    {"loc", "msg"},
}

// needs are those of them without which an answer proves nothing.
var needs = map[string][]string{
	"LicenseKeyRead":                     ofKey[:5],
	"ValidatedLicenseKey":                ofKey[:5],
	"LicenseKeyWithActivations":          ofKey[:5],
	"LicenseKeyActivationRead":           {"id", "license_key"},
	"CustomerStateIndividual":            {"id", "granted_benefits", "active_subscriptions", "active_meters"},
	"CustomerStateTeam":                  {"id", "granted_benefits", "active_subscriptions", "active_meters"},
	"CustomerStateBenefitGrant":          {"benefit_id"},
	"CustomerSession":                    {"token", "customer_portal_url"},
	"ListResource_LicenseKeyRead_":       {"items", "pagination"},
	"WebhookCustomerStateChangedPayload": {"type", "timestamp", "data"},
}
