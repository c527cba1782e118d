package polargate

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const (
	stateCustomer = "8b4a91e8-8712-4bc8-9e43-9b5406427b62"
	stateBenefit  = "850cc3a4-3ed7-4be6-b198-127ec8d33bb9"
	stateProduct  = "8c499570-3242-437e-a9f5-6fee6cff7593"
	stateMeter    = "aaf2bfea-ac4f-40eb-99ad-de858ccdfd97"
)

// stateWith is a customer state in which some fields are others; "-" leaves one out.
func stateWith(fields ...string) []byte {
	state := map[string]string{
		"id": `"` + stateCustomer + `"`, "external_id": `"usr_1"`, "organization_id": `"` + testOrganization + `"`, "deleted_at": "null",
		"email":                `"ada@example.com"`,
		"active_subscriptions": `[{"product_id":"` + stateProduct + `","status":"active"}]`,
		"granted_benefits":     `[{"benefit_id":"` + stateBenefit + `","benefit_type":"custom","benefit_metadata":{"tier":"gold","limit":12345678901234567890}}]`,
		"active_meters":        `[{"meter_id":"` + stateMeter + `","consumed_units":25.5,"credited_units":100,"balance":74.5}]`,
	}
	for i := 0; i < len(fields); i += 2 {
		state[fields[i]] = fields[i+1]
	}
	var b strings.Builder
	b.WriteByte('{')
	for name, value := range state {
		if value == "-" {
			continue
		}
		if b.Len() > 1 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, "%q:%s", name, value)
	}
	b.WriteByte('}')
	return []byte(b.String())
}

func stateOfUser(body []byte) (*Entitlements, error) {
	features := map[string][]string{stateBenefit: {"pro", "export"}}
	return readState(body, time.Unix(1, 0), ExternalID("usr_1"), testOrganization, features)
}

func TestAStateIsReadAsFarAsItCanBe(t *testing.T) {
	t.Parallel()
	everything := func(t *testing.T, e *Entitlements) {
		t.Helper()
		assert.Equal(t, []string{"export", "pro"}, e.Features())
		assert.True(t, e.Subscribed(stateProduct))
		m, ok := e.Meter(stateMeter)
		assert.True(t, ok)
		assert.InDelta(t, 74.5, m.Balance, 0)
	}
	many := strings.Builder{}
	for i := range 5000 {
		fmt.Fprintf(&many, `{"benefit_id":"850cc3a4-3ed7-4be6-b198-%012d","benefit_type":"custom"},`, i)
	}
	benefit := `{"benefit_id":"` + stateBenefit + `","benefit_type":"custom"}`
	for name, test := range map[string]struct {
		fields []string
		check  func(t *testing.T, e *Entitlements) // nil: everything is there
	}{
		"as it is":                     {nil, nil},
		"fields of the future":         {[]string{"new_thing", `{"a":[1,{"b":null}]}`, "active_subscriptions", `[{"product_id":"` + stateProduct + `","status":"active","new":1}]`}, nil},
		"an unknown type of benefit":   {[]string{"granted_benefits", `[{"benefit_id":"x","benefit_type":"teleport","properties":7},` + benefit + `]`}, nil},
		"no type of benefit":           {[]string{"granted_benefits", `[{"benefit_id":"` + stateBenefit + `"}]`}, nil},
		"a type that is a number":      {[]string{"granted_benefits", `[{"benefit_id":"` + stateBenefit + `","benefit_type":7}]`}, nil},
		"metadata that is null":        {[]string{"granted_benefits", `[{"benefit_id":"` + stateBenefit + `","benefit_metadata":null}]`}, nil},
		"metadata that is a list":      {[]string{"granted_benefits", `[{"benefit_id":"` + stateBenefit + `","benefit_metadata":[1]}]`}, nil},
		"deep metadata":                {[]string{"granted_benefits", `[{"benefit_id":"` + stateBenefit + `","benefit_metadata":` + strings.Repeat(`{"a":`, 500) + "1" + strings.Repeat("}", 500) + `}]`}, nil},
		"capitals in an id":            {[]string{"granted_benefits", strings.ToUpper(`[{"X":1}]`)[:1] + `{"benefit_id":"` + strings.ToUpper(stateBenefit) + `"}]`}, nil},
		"the same benefit twice":       {[]string{"granted_benefits", "[" + benefit + "," + benefit + "]"}, nil},
		"thousands of benefits":        {[]string{"granted_benefits", "[" + many.String() + benefit + "]"}, nil},
		"a trial":                      {[]string{"active_subscriptions", `[{"product_id":"` + stateProduct + `","status":"trialing"}]`}, nil},
		"a status of the future":       {[]string{"active_subscriptions", `[{"product_id":"` + stateProduct + `","status":"ripening"}]`}, nil},
		"no meters":                    {[]string{"active_meters", "-"}, func(t *testing.T, e *Entitlements) { assert.Empty(t, e.Meters()); assert.True(t, e.Has("pro")) }},
		"meters that are none":         {[]string{"active_meters", `"none"`}, func(t *testing.T, e *Entitlements) { assert.Empty(t, e.Meters()); assert.True(t, e.Has("pro")) }},
		"a meter in other numbers":     {[]string{"active_meters", `[{"meter_id":"` + stateMeter + `","consumed_units":2.55e1,"credited_units":1e2,"balance":7.45e1,"amount":-0.0}]`}, nil},
		"a meter without a balance":    {[]string{"active_meters", `[{"meter_id":"` + stateMeter + `","consumed_units":25.5,"credited_units":100}]`}, nil},
		"a balance that is null":       {[]string{"active_meters", `[{"meter_id":"` + stateMeter + `","consumed_units":25.5,"credited_units":100,"balance":null}]`}, nil},
		"a balance beyond all numbers": {[]string{"active_meters", `[{"meter_id":"` + stateMeter + `","consumed_units":25.5,"credited_units":100,"balance":1e999}]`}, nil},
		"a balance below nothing": {[]string{"active_meters", `[{"meter_id":"` + stateMeter + `","balance":-3}]`}, func(t *testing.T, e *Entitlements) {
			assert.False(t, e.Meets(Meter(stateMeter, 0)))
			assert.True(t, e.Meets(Meter(stateMeter, -3)))
		}},
		"a subscription past due": {[]string{"active_subscriptions", `[{"product_id":"` + stateProduct + `","status":"past_due"}]`}, func(t *testing.T, e *Entitlements) {
			assert.False(t, e.Subscribed(stateProduct))
			assert.True(t, e.Has("pro"))
		}},
		"nothing bought":            {[]string{"granted_benefits", "[]", "active_subscriptions", "[]", "active_meters", "[]"}, func(t *testing.T, e *Entitlements) { assert.True(t, e.Known()); assert.Empty(t, e.Features()) }},
		"entries that are null":     {[]string{"granted_benefits", "[null," + benefit + "]"}, nil},
		"a customer who is deleted": {[]string{"deleted_at", `"2026-01-01T00:00:00Z"`}, func(t *testing.T, e *Entitlements) { assert.False(t, e.Known()); assert.Empty(t, e.Features()) }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e, err := stateOfUser(stateWith(test.fields...))
			require.NoError(t, err)
			assert.Equal(t, stateCustomer, e.CustomerID())
			if test.check == nil {
				test.check = everything
			}
			test.check(t, e)
		})
	}
}

func TestAStateThatSaysNothingOrIsSomebodyElsesIsNotBelieved(t *testing.T) {
	t.Parallel()
	for name, body := range map[string][]byte{
		"nothing":                  nil,
		"null":                     []byte("null"),
		"a list":                   []byte("[]"),
		"an empty object":          []byte("{}"),
		"half":                     stateWith()[:100],
		"no id":                    stateWith("id", "-"),
		"an id that is none":       stateWith("id", `"x"`),
		"an id that is a number":   stateWith("id", "7"),
		"no benefits":              stateWith("granted_benefits", "-"),
		"benefits that are null":   stateWith("granted_benefits", "null"),
		"benefits in an object":    stateWith("granted_benefits", "{}"),
		"no subscriptions":         stateWith("active_subscriptions", "-"),
		"subscriptions of numbers": stateWith("active_subscriptions", "3"),
		"another customer":         stateWith("external_id", `"usr_2"`),
		"no external id":           stateWith("external_id", "null"),
		"another organization":     stateWith("organization_id", `"11111111-1111-4111-8111-111111111111"`),
	} {
		_, err := stateOfUser(body)
		require.Error(t, err, name)
		assert.NotContains(t, err.Error(), "ada@example.com")
	}
}

func TestMetadataOfABenefitAreTheCallersOwn(t *testing.T) {
	t.Parallel()
	e, err := stateOfUser(stateWith())
	require.NoError(t, err)
	b, ok := e.Benefit(stateBenefit)
	require.True(t, ok)
	assert.Equal(t, "custom", b.Type())
	m := b.Metadata()
	assert.Equal(t, map[string]any{"tier": "gold", "limit": json.Number("12345678901234567890")}, m)
	m["tier"] = "mine"
	assert.Equal(t, "gold", b.Metadata()["tier"])
	e.Features()[0] = "mine"
	e.Benefits()[0] = GrantedBenefit{}
	e.Products()[0] = "mine"
	e.Meters()[0].Balance = 1e9
	again, err := stateOfUser(stateWith())
	require.NoError(t, err)
	assert.Equal(t, again, e)
}

func TestNobodyHasNothing(t *testing.T) {
	t.Parallel()
	for _, e := range []*Entitlements{nil, {}} {
		assert.False(t, e.Known())
		assert.False(t, e.Has("pro"))
		assert.False(t, e.Has(""))
		assert.Empty(t, e.CustomerID()+e.ExternalID()+string(e.Refused()))
		assert.Empty(t, e.Features())
		assert.Empty(t, e.Benefits())
		assert.Empty(t, e.Products())
		assert.Empty(t, e.Meters())
		assert.True(t, e.CheckedAt().IsZero())
		_, ok := e.License()
		assert.False(t, ok)
		_, ok = e.Meter("")
		assert.False(t, ok)
		for _, r := range []Requirement{{}, Feature("pro"), Feature(""), Benefit(""), Product(""), Meter("", 0), Meter("", -1), Any()} {
			assert.False(t, e.Meets(r), r)
		}
		assert.True(t, e.Meets(All()))
		assert.NotPanics(t, func() { _ = fmt.Sprintf("%v %+v %#v %s", e, e, e, e) })
	}
}

func TestARequirementKeepsWhatItWasMadeOf(t *testing.T) {
	t.Parallel()
	of := []Requirement{Feature("a"), Feature("b")}
	all, one := All(of...), Any(of...)
	of[0] = Requirement{}
	assert.Equal(t, "feature a and feature b", all.String())
	assert.Equal(t, "one of feature a, feature b", one.String())
	e, err := stateOfUser(stateWith())
	require.NoError(t, err)
	unmet, ok := e.Unmet(All(Feature("pro"), All(Feature("export"), Feature("gold"))))
	assert.True(t, ok)
	assert.Equal(t, "feature gold", unmet.String())
	_, ok = e.Unmet()
	assert.False(t, ok)
}

func TestALookUpOfEntitlementsAllocatesNothing(t *testing.T) {
	e, err := stateOfUser(stateWith())
	require.NoError(t, err)
	need := All(Feature("pro"), Benefit(stateBenefit), Product(stateProduct), Any(Feature("gold"), Meter(stateMeter, 1)))
	assert.Zero(t, testing.AllocsPerRun(100, func() {
		if !e.Has("pro") || !e.Meets(need) || e.Has("gold") {
			t.Error("it has")
		}
		if _, unmet := e.Unmet(need); unmet {
			t.Error("it meets")
		}
		_, _ = e.Benefit(stateBenefit)
		_, _ = e.Meter(stateMeter)
		_ = e.Subscribed(stateProduct)
	}))
}

func TestPrintedEntitlementsNameNobody(t *testing.T) {
	t.Parallel()
	e, err := stateOfUser(stateWith())
	require.NoError(t, err)
	var log bytes.Buffer
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "have", e, "who", ExternalID("usr_1"))
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "have", e, "who", ExternalID("usr_1"))
	text := fmt.Sprintf("%v %+v %#v %s %q %d %x ", e, e, e, e, e, e, e) + fmt.Sprintf("%v %+v %#v", *e, ExternalID("usr_1"), ExternalID("usr_1")) + log.String()
	assert.NotContains(t, text, "usr_1")
	assert.NotContains(t, text, "ada@")
	assert.Contains(t, text, stateCustomer)
}
