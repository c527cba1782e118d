package polargate

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/polargate/polargate/internal/clock"
	"github.com/polargate/polargate/internal/ledger"
	"github.com/polargate/polargate/internal/rights"
	"github.com/polargate/polargate/internal/wire"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const (
	teaID   = "32234c6d-03fe-42a8-8a2f-d3d416d0b60a"
	callsID = "aaf2bfea-ac4f-40eb-99ad-de858ccdfd97"
	planID  = "8c499570-3242-437e-a9f5-6fee6cff7593"
	ownID   = "ada.lovelace@example.com"
)

// stateWith is a customer's state with these members over the usual ones.
func stateWith(members string) []byte {
	return fmt.Appendf(nil, `{"id":%q,"external_id":%q,"email":"private@example.com","organization_id":%q,"deleted_at":null,"active_subscriptions":[],"granted_benefits":[],"active_meters":[]%s}`,
		benchCustomer, ownID, testOrganization, members)
}

// readWith reads such a state, which must go well.
func readWith(t testing.TB, members string) *Entitlements {
	t.Helper()
	e, err := readState(stateWith(members), time.Unix(1, 0), ExternalID(ownID), testOrganization, map[string][]string{proID: {"pro"}, teaID: {"tea", "pro"}})
	require.NoError(t, err)
	return (*Entitlements)(e)
}

// everything is a state of somebody who has one of each.
func everything(t testing.TB) *Entitlements {
	t.Helper()
	return readWith(t, `,"granted_benefits":[{"benefit_id":"`+proID+`","benefit_type":"custom","benefit_metadata":{"tier":"gold","n":1}},{"benefit_id":"`+teaID+`"}],
		"active_subscriptions":[{"product_id":"`+planID+`","status":"active"}],
		"active_meters":[{"meter_id":"`+callsID+`","consumed_units":25.5,"credited_units":100,"balance":74.5}]`)
}

func TestEveryRecordedStateIsReadOrRefusedAsPolarMeantIt(t *testing.T) {
	t.Parallel()
	for _, state := range goldenStates(t) {
		read, err := rights.ReadState(state.Response.Body, "", nil)
		e := (*Entitlements)(read)
		if state.Response.Status != 200 {
			require.Error(t, err, "%s: a refusal is no state", state.Name)
			continue
		}
		require.NoError(t, err, state.Name)
		var plain struct {
			ID       string `json:"id"`
			External string `json:"external_id"`
			Benefits []struct {
				ID       string         `json:"benefit_id"`
				Type     string         `json:"benefit_type"`
				Metadata map[string]any `json:"benefit_metadata"`
			} `json:"granted_benefits"`
			Subscriptions []struct {
				ID string `json:"product_id"`
			} `json:"active_subscriptions"`
			Meters []struct {
				ID string `json:"meter_id"`
			} `json:"active_meters"`
		}
		require.NoError(t, json.Unmarshal(state.Response.Body, &plain))
		assert.Equal(t, plain.ID, e.CustomerID(), state.Name)
		assert.Equal(t, plain.External, e.ExternalID(), state.Name)
		benefits := map[string]bool{} // who has seats may have several grants of one benefit
		for _, b := range plain.Benefits {
			benefits[b.ID] = true
		}
		assert.Len(t, e.Benefits(), len(benefits), state.Name)
		assert.Len(t, e.Meters(), len(plain.Meters), state.Name)
		for _, b := range plain.Benefits {
			have, ok := e.Benefit(b.ID)
			require.True(t, ok, state.Name)
			assert.Equal(t, b.Type, have.Type())
			assert.Len(t, have.Metadata(), len(b.Metadata))
		}
		for _, s := range plain.Subscriptions {
			assert.True(t, e.Subscribed(s.ID), state.Name)
		}
		for _, m := range plain.Meters {
			_, ok := e.Meter(m.ID)
			assert.True(t, ok, state.Name)
		}
	}
}

// goldenState is a recorded question about a customer's state.
type goldenState struct {
	Name     string
	Request  struct{ Path string }
	Response struct {
		Status int
		Body   json.RawMessage
	}
}

func goldenStates(t testing.TB) []goldenState {
	t.Helper()
	paths, err := filepath.Glob(filepath.FromSlash("polartest/testdata/golden/state/*.json"))
	require.NoError(t, err)
	require.NotEmpty(t, paths)
	var states []goldenState
	for _, path := range paths {
		data, err := os.ReadFile(path)
		require.NoError(t, err)
		var s goldenState
		require.NoError(t, json.Unmarshal(data, &s), path)
		if strings.Contains(s.Request.Path, "/state") { // and not a list of customers beside it
			states = append(states, s)
		}
	}
	return states
}

func TestStrangeFieldsInAStateDoNotSpoilTheOthers(t *testing.T) {
	t.Parallel()
	pro := `{"benefit_id":"` + proID + `"}`
	for name, members := range map[string]string{
		"a type nobody knows":         `,"granted_benefits":[{"benefit_id":"` + teaID + `","benefit_type":"teleport","beam":[1]},` + pro + `]`,
		"a type that is a number":     `,"granted_benefits":[{"benefit_id":"` + teaID + `","benefit_type":7},` + pro + `]`,
		"metadata of each kind":       `,"granted_benefits":[{"benefit_id":"` + teaID + `","benefit_metadata":[]},{"benefit_id":"` + planID + `","benefit_metadata":"x"},{"benefit_id":"` + callsID + `","benefit_metadata":null},` + pro + `]`,
		"an id that is a number":      `,"granted_benefits":[{"benefit_id":7},{"benefit_id":null},{"benefit_id":""},{},` + pro + `]`,
		"grants that are none":        `,"granted_benefits":[null,7,"x",[],true,` + pro + `]`,
		"subscriptions that are none": `,"granted_benefits":[` + pro + `],"active_subscriptions":[null,7,{},{"product_id":null,"status":null},{"product_id":[]}]`,
		"meters that are none":        `,"granted_benefits":[` + pro + `],"active_meters":[null,7,{},{"meter_id":null},{"meter_id":7,"balance":{}}]`,
		"meters that are no list":     `,"granted_benefits":[` + pro + `],"active_meters":{"a":1}`,
		"subscriptions that are null": `,"granted_benefits":[` + pro + `],"active_subscriptions":null`,
		"subscriptions that are text": `,"granted_benefits":[` + pro + `],"active_subscriptions":"none"`,
		"subscriptions in an object":  `,"granted_benefits":[` + pro + `],"active_subscriptions":{"items":[]}`,
		"both others null":            `,"granted_benefits":[` + pro + `],"active_subscriptions":null,"active_meters":null`,
		"both others of other types":  `,"granted_benefits":[` + pro + `],"active_subscriptions":0,"active_meters":false`,
		"meters that are null":        `,"granted_benefits":[` + pro + `],"active_meters":null`,
		"all else null":               `,"granted_benefits":[` + pro + `],"email":null,"metadata":null,"name":null,"type":null,"created_at":null,"organization_id":null,"deleted_at":null,"tax_id":null`,
		"all else of another type":    `,"granted_benefits":[` + pro + `],"email":7,"metadata":[],"name":{},"type":1.5,"created_at":true,"organization_id":8,"deleted_at":false,"tax_id":"x"`,
		"a member that comes twice":   `,"granted_benefits":[],"granted_benefits":[` + pro + `]`,
		"a field that is new":         `,"granted_benefits":[` + pro + `],"wallet":{"coins":[{}]}`,
		"a benefit in capitals":       `,"granted_benefits":[{"benefit_id":"` + strings.ToUpper(proID) + `"}]`,
		"a benefit without dashes":    `,"granted_benefits":[{"benefit_id":"` + strings.ReplaceAll(proID, "-", "") + `"}]`,
		"bytes that are no text":      ",\"granted_benefits\":[{\"benefit_id\":\"\xff\xfe\",\"benefit_type\":\"\xc3\"}," + pro + "],\"name\":\"\xff\"",
		"half a surrogate":            `,"granted_benefits":[{"benefit_id":"\ud800"},` + pro + `],"name":"\udfff"`,
		"metadata nested deeply":      `,"granted_benefits":[{"benefit_id":"` + teaID + `","benefit_metadata":{"a":` + strings.Repeat(`[`, 5000) + strings.Repeat(`]`, 5000) + `}},` + pro + `]`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := readWith(t, members)
			assert.True(t, e.Known())
			assert.True(t, e.Has("pro"))
			assert.True(t, e.Meets(Benefit(proID)))
			assert.Equal(t, benchCustomer, e.CustomerID())
			for _, b := range e.Benefits() {
				assert.NotEmpty(t, b.ID())
				assert.NotNil(t, b.Metadata())
			}
			assert.Empty(t, e.Products())
			assert.Empty(t, e.Meters())
		})
	}
}

func TestAStateWithoutListsIsNotTakenForACustomerWithoutBenefits(t *testing.T) {
	t.Parallel()
	whole := string(stateWith(""))
	for name, body := range map[string]string{
		"nothing": "", "null": "null", "an empty object": "{}", "a list": "[]", "text": `"x"`, "a page": "<html>", "two objects": whole + whole,
		"half of it":                 whole[:len(whole)/2],
		"no id":                      strings.Replace(whole, `"id"`, `"di"`, 1),
		"an id that is null":         strings.Replace(whole, `"`+benchCustomer+`"`, `null`, 1),
		"an id that is no UUID":      strings.Replace(whole, benchCustomer, "7", 1),
		"a customer and no state":    strings.NewReplacer(`"granted_benefits"`, `"x"`, `"active_subscriptions"`, `"y"`, `"active_meters"`, `"z"`).Replace(whole),
		"lists of which none is one": strings.ReplaceAll(whole, `[]`, `{}`),
		"another organization":       strings.Replace(whole, testOrganization, "549c44b7-2e67-4e0e-8a20-17e76c895830", 1),
		"another external id":        strings.Replace(whole, ownID, "Ada.lovelace@example.com", 1),
		"no external id":             strings.Replace(whole, `"`+ownID+`"`, "null", 1),
		"nested too deeply":          strings.Replace(whole, `"deleted_at"`, `"x":`+strings.Repeat("[", 20_000)+strings.Repeat("]", 20_000)+`,"deleted_at"`, 1),
	} {
		_, err := readState([]byte(body), time.Unix(1, 0), ExternalID(ownID), testOrganization, nil)
		require.Error(t, err, name)
		assert.NotContains(t, err.Error(), "ada", name)
	}
}

func TestADeletedCustomerHasNothingWhateverTheStateLists(t *testing.T) {
	t.Parallel()
	e := readWith(t, `,"deleted_at":"2026-11-22T12:27:18.830022Z","granted_benefits":[{"benefit_id":"`+proID+`"}],"active_subscriptions":[{"product_id":"`+planID+`","status":"active"}]`)
	assert.False(t, e.Known())
	assert.False(t, e.Has("pro"))
	assert.Empty(t, e.Benefits())
	assert.Empty(t, e.Products())
	assert.True(t, e.CheckedAt().IsZero())
}

func TestSubscriptionsCountByTheirStatus(t *testing.T) {
	t.Parallel()
	for status, want := range map[string]bool{
		`"active"`: true, `"trialing"`: true, `"a word not known"`: true, `null`: true, `7`: true,
		`"past_due"`: false, `"unpaid"`: false, `"canceled"`: false, `"incomplete"`: false, `"incomplete_expired"`: false, `"paused"`: false, `"revoked"`: false,
	} {
		e := readWith(t, `,"active_subscriptions":[{"product_id":"`+strings.ToUpper(planID)+`","status":`+status+`},{"product_id":"`+teaID+`","status":"active"},{"product_id":"`+planID+`","status":"past_due"}]`)
		assert.Equal(t, want, e.Subscribed(planID), status)
		assert.Equal(t, want, e.Meets(Product(planID)), status)
		assert.True(t, e.Subscribed(teaID), "the one beside it counts")
	}
}

func TestBalancesAreReadFromNumbersOfEveryForm(t *testing.T) {
	t.Parallel()
	for meter, want := range map[string]MeterBalance{
		`"consumed_units":1e3,"credited_units":2E3,"balance":1.0e+3`:          {Consumed: 1000, Credited: 2000, Balance: 1000},
		`"consumed_units":-0.0,"credited_units":0,"balance":-0.0`:             {Consumed: math.Copysign(0, -1), Balance: math.Copysign(0, -1)},
		`"consumed_units":25.5,"credited_units":100`:                          {Consumed: 25.5, Credited: 100, Balance: 74.5},
		`"consumed_units":25.5,"credited_units":100,"balance":null`:           {Consumed: 25.5, Credited: 100, Balance: 74.5},
		`"consumed_units":25.5,"credited_units":100,"balance":"74"`:           {Consumed: 25.5, Credited: 100, Balance: 74.5},
		`"consumed_units":150,"credited_units":100,"balance":-50.25`:          {Consumed: 150, Credited: 100, Balance: -50.25},
		`"consumed_units":5e-324,"credited_units":9223372036854775807`:        {Consumed: 5e-324, Credited: 9223372036854775807, Balance: 9223372036854775807},
		`"consumed_units":0,"credited_units":10,"balance":1e999`:              {Credited: 10, Balance: 10},
		`"consumed_units":null,"credited_units":null,"balance":null`:          {},
		`"consumed_units":0,"credited_units":1,"balance":1,"balance":2`:       {Credited: 1, Balance: 2},
		`"consumed_units":-1.7e308,"credited_units":1.7e308`:                  {Consumed: -1.7e308, Credited: 1.7e308, Balance: math.MaxFloat64},
		`"consumed_units":1.7e308,"credited_units":-1.7e308`:                  {Consumed: 1.7e308, Credited: -1.7e308, Balance: -math.MaxFloat64},
		`"balance":123456789012345678901234567890123456789012345678901234567`: {Balance: 1.2345678901234568e56},
	} {
		e := readWith(t, `,"active_meters":[{"meter_id":"`+callsID+`",`+meter+`}]`)
		m, ok := e.Meter(callsID)
		require.True(t, ok, meter)
		assert.Equal(t, callsID, m.ID())
		want.id = m.id
		assert.Equal(t, want, m, meter)
		assert.False(t, math.IsNaN(m.Balance), meter)
		assert.Equal(t, want.Balance >= 0, e.Meets(Meter(callsID, 0)), meter)
	}
	for _, number := range []string{"NaN", "Infinity", "-Infinity", "0x10", "01", "1_000", ".5", "+1"} {
		_, err := rights.ReadState(stateWith(`,"active_meters":[{"meter_id":"`+callsID+`","balance":`+number+`}]`), "", nil)
		require.Error(t, err, "%s is no JSON, so the whole is none", number)
	}
}

func TestDuplicatesInAStateCountOnce(t *testing.T) {
	t.Parallel()
	e := readWith(t, `,"granted_benefits":[{"benefit_id":"`+teaID+`","benefit_type":"first"},{"benefit_id":"`+proID+`"},{"benefit_id":"`+strings.ToUpper(teaID)+`","benefit_type":"second"}],
		"active_subscriptions":[{"product_id":"`+planID+`"},{"product_id":"`+strings.ToUpper(planID)+`"}],
		"active_meters":[{"meter_id":"`+callsID+`","balance":5},{"meter_id":"`+strings.ToUpper(callsID)+`","balance":9}]`)
	assert.Equal(t, []string{"pro", "tea"}, e.Features())
	assert.Equal(t, []string{planID}, e.Products())
	require.Len(t, e.Benefits(), 2)
	assert.Equal(t, []string{teaID, proID}, []string{e.Benefits()[0].ID(), e.Benefits()[1].ID()}, "by id")
	assert.Equal(t, "first", e.Benefits()[0].Type())
	require.Len(t, e.Meters(), 1)
	assert.InDelta(t, 5, e.Meters()[0].Balance, 0)
}

func TestTenThousandBenefitsAreReadAndFound(t *testing.T) {
	t.Parallel()
	var grants []string
	for i := range 10_000 {
		grants = append(grants, fmt.Sprintf(`{"benefit_id":"850cc3a4-3ed7-4be6-b198-%012d","benefit_type":"custom"}`, i))
	}
	e := readWith(t, `,"granted_benefits":[`+strings.Join(grants, ",")+`,{"benefit_id":"`+proID+`"}]`)
	assert.Len(t, e.Benefits(), 10_001)
	assert.True(t, e.Has("pro"))
	assert.True(t, e.Meets(Benefit("850cc3a4-3ed7-4be6-b198-000000009999")))
	assert.False(t, e.Meets(Benefit("850cc3a4-3ed7-4be6-b198-000000010000")))
}

func TestMetadataKeepTheirNumbersAndAreTheCallersOwn(t *testing.T) {
	t.Parallel()
	e := readWith(t, `,"granted_benefits":[{"benefit_id":"`+proID+`","benefit_metadata": { "n" : 12345678901234567890, "f":0.1, "t":"é", "deep":{"a":[1]} } }]`)
	b, ok := e.Benefit(proID)
	require.True(t, ok)
	want := map[string]any{"n": json.Number("12345678901234567890"), "f": json.Number("0.1"), "t": "é", "deep": map[string]any{"a": []any{json.Number("1")}}}
	first := b.Metadata()
	assert.Equal(t, want, first)
	first["n"] = 0
	first["deep"].(map[string]any)["a"] = nil
	assert.Equal(t, want, b.Metadata())
}

func TestRequirementsMeanWhatTheySay(t *testing.T) {
	t.Parallel()
	e := everything(t)
	pro, gold := Feature("pro"), Feature("gold")
	for name, c := range map[string]struct {
		need Requirement
		want bool
		text string
	}{
		"the zero value":       {Requirement{}, false, "nothing that can be met"},
		"All of nothing":       {All(), true, "nothing"},
		"Any of nothing":       {Any(), false, "nothing that can be met"},
		"a feature":            {pro, true, "feature pro"},
		"a feature in capital": {Feature("PRO"), false, "feature PRO"},
		"no feature":           {Feature(""), false, "feature "},
		"a benefit":            {Benefit(proID), true, "benefit " + proID},
		"a benefit in capital": {Benefit(strings.ToUpper(proID)), true, "benefit " + proID},
		"a benefit of no id":   {Benefit(""), false, "benefit "},
		"a product":            {Product(planID), true, "product " + planID},
		"a benefit's id":       {Product(proID), false, "product " + proID},
		"what is left":         {Meter(callsID, 74.5), true, "meter " + callsID + " of at least 74.5"},
		"a little more":        {Meter(callsID, 74.50000001), false, "meter " + callsID + " of at least 74.50000001"},
		"less than nothing":    {Meter(strings.ToUpper(callsID), -1), true, "meter " + callsID + " of at least -1"},
		"no number":            {Meter(callsID, math.NaN()), false, "meter " + callsID + " of at least NaN"},
		"no such meter":        {Meter(planID, 0), false, "meter " + planID + " of at least 0"},
		"before the first use": {Meter(planID, -100), true, "meter " + planID + " of at least -100"},
		"both":                 {All(pro, Benefit(teaID)), true, "feature pro and benefit " + teaID},
		"one of both":          {All(pro, gold), false, "feature pro and feature gold"},
		"either":               {Any(gold, pro), true, "one of feature gold, feature pro"},
		"neither":              {Any(gold, Requirement{}), false, "one of feature gold, nothing that can be met"},
		"nested":               {All(pro, Any(gold, All(pro, Any(gold, Product(planID))))), true, "feature pro and one of feature gold, feature pro and one of feature gold, product " + planID},
		"nested in vain":       {Any(All(pro, gold), All(gold, pro)), false, "one of feature pro and feature gold, feature gold and feature pro"},
	} {
		assert.Equal(t, c.want, e.Meets(c.need), name)
		assert.Equal(t, c.text, c.need.String(), name)
		unmet, is := e.Unmet(c.need)
		assert.Equal(t, !c.want, is, name)
		if !is {
			assert.Equal(t, Requirement{}, unmet, name)
		}
		// Nobody has anything but what needs nothing.
		for _, nobody := range []*Entitlements{nil, {}} {
			assert.Equal(t, name == "All of nothing", nobody.Meets(c.need), name)
		}
	}
	unmet, _ := e.Unmet(pro, All(pro, All(gold, Benefit(planID))), Any())
	assert.Equal(t, "feature gold", unmet.String())
}

func TestARequirementDoesNotChangeWithTheSliceItWasMadeOf(t *testing.T) {
	t.Parallel()
	of := []Requirement{Feature("gold")}
	all, either := All(of...), Any(of...)
	of[0] = Feature("pro")
	e := everything(t)
	assert.False(t, e.Meets(all))
	assert.False(t, e.Meets(either))
}

func TestNilEntitlementsAllowNothing(t *testing.T) {
	t.Parallel()
	for _, e := range []*Entitlements{nil, {}} {
		assert.False(t, e.Known())
		assert.False(t, e.Has("") || e.Has("pro"))
		assert.False(t, e.Subscribed("") || e.Subscribed(planID))
		assert.Empty(t, e.CustomerID()+e.ExternalID()+string(e.Refused()))
		assert.True(t, e.CheckedAt().IsZero())
		assert.Empty(t, e.Features())
		assert.Empty(t, e.Benefits())
		assert.Empty(t, e.Products())
		assert.Empty(t, e.Meters())
		none, benefit := e.Benefit("")
		assert.Empty(t, none.ID()+none.Type())
		assert.Equal(t, map[string]any{}, none.Metadata(), "who does not look at ok reads from an empty map")
		empty, meter := e.Meter("")
		assert.Empty(t, empty.ID())
		_, license := e.License()
		assert.False(t, benefit || meter || license)
		_, unmet := e.Unmet()
		assert.False(t, unmet)
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%d", "%x"} {
			assert.NotPanics(t, func() { _ = fmt.Sprintf(verb, e) })
		}
		assert.NotPanics(t, func() { slog.New(slog.DiscardHandler).Info("x", "e", e) })
		assert.NotContains(t, e.LogValue().String(), "PANIC")
	}
}

func TestIdsAreFoundWhateverTheirCapitalsAndFeaturesOnlyAsTheyAre(t *testing.T) {
	t.Parallel()
	e := everything(t)
	for _, spell := range []func(string) string{strings.ToLower, strings.ToUpper} {
		b, ok := e.Benefit(spell(proID))
		assert.True(t, ok)
		assert.Equal(t, proID, b.ID())
		m, ok := e.Meter(spell(callsID))
		assert.True(t, ok)
		assert.Equal(t, callsID, m.ID())
		assert.True(t, e.Subscribed(spell(planID)))
	}
	assert.False(t, e.Has("PRO"))
	_, ok := e.Benefit(proID + " ")
	assert.False(t, ok)
	// Letters that fold to ASCII ones are others: the Kelvin sign is no k.
	odd := readWith(t, `,"granted_benefits":[{"benefit_id":"kilo"}]`)
	_, ok = odd.Benefit("KILO")
	assert.False(t, ok, "what is no UUID is compared as it is")
}

func TestReturnedSlicesAndMapsBelongToTheCaller(t *testing.T) {
	t.Parallel()
	limit, use := int64(3), int64(9)
	license := &LicenseKey{
		ID: "l", Key: newKey("INKWELL-7F3A9C21-SECRET"), BenefitID: proID, Status: KeyGranted, LimitActivations: &limit, LimitUsage: &use,
		Customer:   Customer{BillingAddress: &Address{City: "Paris"}, TaxID: []string{"a", "b"}, Metadata: map[string]any{"a": []any{map[string]any{"b": 1.}}}},
		Activation: &Activation{ID: "x", Meta: map[string]any{"m": 1.}, LicenseKey: &LicenseKey{ID: "inner", LimitUsage: &use}},
	}
	of := (*Entitlements)(ofLicense(license, map[string][]string{proID: {"pro"}}))
	first, ok := of.License()
	require.True(t, ok)
	second, _ := of.License()
	assert.Equal(t, first, second)
	*first.LimitActivations, *first.LimitUsage = 0, 0
	first.Customer.BillingAddress.City = "Rome"
	first.Customer.TaxID[0] = "z"
	first.Customer.Metadata["a"].([]any)[0].(map[string]any)["b"] = 2.
	first.Activation.ID = "y"
	first.Activation.Meta["m"] = 2.
	*first.Activation.LicenseKey.LimitUsage = 0
	third, _ := of.License()
	assert.Equal(t, second, third)
	assert.EqualValues(t, 9, *third.Activation.LicenseKey.LimitUsage)
	assert.Equal(t, map[string]any{"a": []any{map[string]any{"b": 1.}}}, third.Customer.Metadata)

	e, same := everything(t), everything(t)
	e.Features()[0] = "gold"
	e.Products()[0] = "x"
	e.Benefits()[0] = GrantedBenefit{}
	e.Meters()[0].Balance = 1e9
	m, _ := e.Meter(callsID)
	m.Balance = 1e9
	_ = append(e.Features()[:0], "gold")
	slices.Reverse(e.Benefits())
	assert.Equal(t, same, e)
	var book ledger.Book
	book.Open(callsID, ledger.Count{Balance: ledger.Of(1)}, true)
	next := (*Entitlements)(e.state().WithBalances(&book))
	assert.Equal(t, same, e, "spending makes another one")
	assert.True(t, next.Meets(Meter(callsID, 1)))
	assert.False(t, next.Meets(Meter(callsID, 2)))
}

func TestAskingEntitlementsAllocatesNothing(t *testing.T) {
	e := everything(t) // not parallel: allocations of others would count
	need := All(Feature("pro"), Any(Feature("gold"), Benefit(proID)), Product(planID), Meter(callsID, 1))
	unmet := Feature("gold")
	for name, ask := range map[string]func(){
		"Has":             func() { _ = e.Has("pro") && e.Has("gold") },
		"Benefit":         func() { _, _ = e.Benefit(teaID) },
		"Benefit of no":   func() { _, _ = e.Benefit(planID) },
		"Subscribed":      func() { _ = e.Subscribed(planID) },
		"Meter":           func() { _, _ = e.Meter(callsID) },
		"Meets":           func() { _ = e.Meets(need) },
		"Meets not":       func() { _ = e.Meets(unmet) },
		"Known":           func() { _ = e.Known() },
		"ExternalID":      func() { _ = e.ExternalID() },
		"those of nobody": func() { _ = (*Entitlements)(nil).Meets(need) },
	} {
		assert.Zero(t, testing.AllocsPerRun(100, ask), name)
	}
	assert.LessOrEqual(t, testing.AllocsPerRun(100, func() { _ = e.CustomerID() }), 1., "the text is made of 16 bytes")
}

func TestEntitlementsPrintNeitherAnIdOfTheProgramsNorAKeyNorAnAddress(t *testing.T) {
	t.Parallel()
	license := &LicenseKey{ID: "l", Key: newKey("INKWELL-7F3A9C21-SECRET"), BenefitID: proID, CustomerID: benchCustomer, Customer: Customer{ExternalID: ownID, Email: Email{mask("private@example.com", "****")}}}
	for name, e := range map[string]*Entitlements{"a customer's": everything(t), "a key's": (*Entitlements)(ofLicense(license, nil))} {
		var log bytes.Buffer
		slog.New(slog.NewTextHandler(&log, nil)).Info("x", "e", e, "copy", *e, "refusal", Refusal{Status: 402, Entitlements: e, Required: Feature("gold")})
		slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "e", e, "copy", *e, "refusal", Refusal{Status: 402, Entitlements: e, Required: Feature("gold")})
		texts := []string{log.String(), fmt.Sprint(ExternalID(ownID))}
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d", "%T"} {
			texts = append(texts, fmt.Sprintf(verb, e), fmt.Sprintf(verb, *e), fmt.Sprintf(verb, Refusal{Entitlements: e}), fmt.Sprintf(verb, &Refusal{Entitlements: e}),
				fmt.Sprintf(verb, []*Entitlements{e}), fmt.Sprintf(verb, map[string]Entitlements{"a": *e}), fmt.Sprintf(verb, struct{ E Entitlements }{*e}), fmt.Sprintf(verb, e.Benefits()), fmt.Sprintf(verb, e.Meters()))
		}
		encoded, err := json.Marshal(map[string]any{"e": e, "copy": *e, "refusal": Refusal{Entitlements: e}})
		require.NoError(t, err)
		for _, text := range append(texts, string(encoded)) {
			for _, secret := range []string{"lovelace", "7F3A9C21", "private"} {
				assert.NotContains(t, text, secret, name)
			}
		}
		assert.Contains(t, fmt.Sprint(e), benchCustomer, "Polar's id says whose they are")
	}
}

func TestALicenseKeyPrintsItsCustomerByPolarsIdAlone(t *testing.T) {
	t.Parallel()
	l := LicenseKey{ID: "the-license", Status: KeyGranted, Customer: Customer{ID: benchCustomer, ExternalID: "a.lovelace@example.com", Name: "Ada Lovelace", AvatarURL: "https://www.gravatar.com/avatar/lovelace"}}
	var log bytes.Buffer
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "license", l, "pointer", &l, "customer", l.Customer)
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "license", l, "pointer", &l, "customer", l.Customer)
	texts := []string{log.String()}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x"} {
		texts = append(texts, fmt.Sprintf(verb, l), fmt.Sprintf(verb, &l), fmt.Sprintf(verb, l.Customer), fmt.Sprintf(verb, &l.Customer), fmt.Sprintf(verb, []Customer{l.Customer}))
	}
	for _, text := range texts {
		assert.NotContains(t, strings.ToLower(text), "lovelace")
	}
	assert.Contains(t, log.String(), "the-license")
	assert.Contains(t, log.String(), benchCustomer)
}

func TestAnIdThatIsRefusedWhenAskedAboutIsNotServedAfterAnEventEither(t *testing.T) {
	t.Parallel()
	customers := offlineCustomers(t)
	h := customers.WebhookHandler(oldSecret)
	for i, id := range []string{"a/b", "..", "nul\x00", strings.Repeat("x", 3000)} {
		require.Equal(t, 204, answerOf(h, stateChanged(fmt.Sprint("evt_", i), time.Now().Add(time.Duration(i)*time.Millisecond), "usr_1", proID).as(t, id).signedBy(t, []byte(oldSecret))))
		_, err := customers.Entitlements(t.Context(), ExternalID(id))
		var input *InputError
		require.ErrorAs(t, err, &input, "%.10q: always, and not only when it is not cached", id)
		e, err := customers.Entitlements(t.Context(), CustomerID(benchCustomer))
		require.NoError(t, err)
		assert.True(t, e.Has("pro"), "Polar's id works")
	}
}

// as is the event of a customer with another external id.
func (e event) as(t *testing.T, external string) event {
	t.Helper()
	id, err := json.Marshal(external)
	require.NoError(t, err)
	e.body = strings.Replace(e.body, `"usr_1"`, string(id), 1)
	return e
}

func TestAFeatureIsFoundAmongFewAndMany(t *testing.T) {
	t.Parallel()
	for n := range 40 {
		var features []string
		for i := range n {
			features = append(features, fmt.Sprintf("feature-%02d", i))
		}
		e := rights.Of(wire.UUID{}, "", true, 0)
		e.Grant(rights.Parts{Benefits: []rights.Benefit{rights.NewBenefit(proID, "custom", "{}", "{}")}}, map[string][]string{proID: features})
		for i := range n + 1 {
			assert.Equal(t, i < n, e.Has(fmt.Sprintf("feature-%02d", i)), "%d of %d", i, n)
		}
		assert.False(t, e.Has(""))
		assert.False(t, e.Has("feature-0"))
	}
}

// saying is Customers of a Polar that answers with a customer's state whose lists are
// as given, each with its name: `"active_meters":null`.
func saying(t *testing.T, lists *atomic.Pointer[string], change ...func(*CustomersConfig)) *Customers {
	t.Helper()
	return stating(t, func(external string) *http.Response {
		body := fmt.Sprintf(`{"id":%q,"external_id":%q,"organization_id":%q,%s}`, benchCustomer, external, testOrganization, *lists.Load())
		return &http.Response{
			StatusCode: 200, Body: io.NopCloser(strings.NewReader(body)),
			Header: http.Header{"Date": {time.Now().UTC().Format(http.TimeFormat)}, "Content-Type": {"application/json"}},
		}
	}, change...)
}

// In each of the lists something is wrong or right; what must come out is a status for
// each of three requirements: of a feature, a product and a meter.
func TestADecisionNeedsOnlyTheListsThatItLooksInto(t *testing.T) {
	t.Parallel()
	const (
		benefits      = `"granted_benefits":[{"benefit_id":"` + proID + `"}]`
		subscriptions = `"active_subscriptions":[{"product_id":"` + planID + `","status":"active"}]`
		meters        = `"active_meters":[{"meter_id":"` + callsID + `","balance":5}]`
	)
	for name, c := range map[string]struct {
		lists                   []string
		feature, product, meter int
	}{
		"all well":                      {[]string{benefits, subscriptions, meters}, 200, 200, 200},
		"meters null":                   {[]string{benefits, subscriptions, `"active_meters":null`}, 200, 200, 402},
		"subscriptions null":            {[]string{benefits, `"active_subscriptions":null`, meters}, 200, 402, 200},
		"benefits null":                 {[]string{`"granted_benefits":null`, subscriptions, meters}, 402, 200, 200},
		"all null":                      {[]string{`"granted_benefits":null`, `"active_subscriptions":null`, `"active_meters":null`}, 402, 402, 402},
		"meters missing":                {[]string{benefits, subscriptions}, 200, 200, 503},
		"subscriptions missing":         {[]string{benefits, meters}, 200, 503, 200},
		"benefits missing":              {[]string{subscriptions, meters}, 503, 200, 200},
		"meters text":                   {[]string{benefits, subscriptions, `"active_meters":"none"`}, 200, 200, 503},
		"subscriptions an object":       {[]string{benefits, `"active_subscriptions":{"items":[]}`, meters}, 200, 503, 200},
		"benefits a number":             {[]string{`"granted_benefits":1`, subscriptions, meters}, 503, 200, 200},
		"only benefits":                 {[]string{benefits}, 200, 503, 503},
		"only meters":                   {[]string{meters}, 503, 503, 200},
		"none at all":                   {[]string{`"name":"a customer and no state"`}, 503, 503, 503},
		"strange members beside":        {[]string{`"granted_benefits":[7,null,{"benefit_id":[]},{"benefit_id":"` + proID + `","benefit_metadata":7}]`, `"active_subscriptions":["x",{"product_id":"` + planID + `","status":{}}]`, `"active_meters":[[],{"meter_id":"` + callsID + `","balance":5,"credited_units":"many"}]`}, 200, 200, 200},
		"strange members and no others": {[]string{`"granted_benefits":[7]`, `"active_subscriptions":["x"]`, `"active_meters":[[]]`}, 402, 402, 402},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				var lists atomic.Pointer[string]
				text := strings.Join(c.lists, ",")
				lists.Store(&text)
				customers := saying(t, &lists)
				status := func(need ...Requirement) int {
					_, refusal := customers.Decide(t.Context(), ExternalID("usr_1"), need...)
					if refusal == nil {
						return 200
					}
					return refusal.Status
				}
				for range 2 { // by the answer, and out of the cache
					assert.Equal(t, c.feature, status(Feature("pro")), "feature")
					assert.Equal(t, c.feature, status(Benefit(proID)), "benefit")
					assert.Equal(t, c.product, status(Product(planID)), "product")
					assert.Equal(t, c.meter, status(Meter(callsID, 5)), "meter")
					assert.Equal(t, max(c.feature, c.product), status(Feature("pro"), Product(planID)), "feature and product")
					assert.Equal(t, min(c.feature, c.product), status(Any(Product(planID), Feature("pro"))), "feature or product")
				}
			})
		})
	}
}

func TestAnUnreadableListKeepsItsLastContentForTheGracePeriod(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		well := `"granted_benefits":[{"benefit_id":"` + proID + `"}],"active_subscriptions":[{"product_id":"` + planID + `"}],"active_meters":[{"meter_id":"` + callsID + `","balance":5}]`
		broken := `"granted_benefits":[],"active_subscriptions":"none","active_meters":7`
		var lists atomic.Pointer[string]
		lists.Store(&well)
		customers := saying(t, &lists, func(c *CustomersConfig) { c.GracePeriod = time.Hour })
		ref := ExternalID("usr_1")
		_, ok, err := customers.Spend(t.Context(), ref, callsID, 2)
		require.NoError(t, err)
		require.True(t, ok)

		lists.Store(&broken)
		for range 5 {
			time.Sleep(10 * time.Minute)
			e, err := customers.Refresh(t.Context(), ref)
			require.NoError(t, err)
			assert.False(t, e.Has("pro"), "that list can be read, and says so")
			assert.True(t, e.Subscribed(planID))
			m, ok := e.Meter(callsID)
			assert.True(t, ok)
			assert.InDelta(t, 3, m.Balance, 0, "what was spent is not given back")
		}
		time.Sleep(10 * time.Minute)
		e, err := customers.Refresh(t.Context(), ref)
		require.NoError(t, err)
		assert.False(t, e.Subscribed(planID), "the state that it is of is an hour old")
		_, refusal := customers.Decide(t.Context(), ref, Product(planID))
		require.NotNil(t, refusal)
		assert.Equal(t, 503, refusal.Status)
		require.ErrorContains(t, refusal.Err, "active_subscriptions")
		_, ok, err = customers.Spend(t.Context(), ref, callsID, 1)
		assert.False(t, ok)
		require.ErrorIs(t, err, ErrUnreachable, "nobody can say what is left")
	})
}

// FuzzCustomerState reads bodies as the state of a customer.
func FuzzCustomerState(f *testing.F) {
	for _, state := range goldenStates(f) {
		f.Add([]byte(state.Response.Body))
	}
	f.Add(stateWith(`,"granted_benefits":[{"benefit_id":"` + proID + `","benefit_metadata":{"a":[1e999]}}],"active_meters":[{"meter_id":"x","balance":-0.0,"credited_units":1.7e308,"consumed_units":-1.7e308}]`))
	f.Add(stateWith(`,"active_meters":[{"meter_id":"x","credited_units":1.7e308,"consumed_units":-1.7e308}]`))
	f.Add(stateWith(`,"deleted_at":"2026-11-22","metadata":{"__external_id":"x"}`))
	f.Add(stateOf(benchCustomer, "\xff", 3))
	features := map[string][]string{proID: {"pro", "export"}}
	f.Fuzz(func(t *testing.T, body []byte) {
		at := time.Unix(1_800_000_000, 0)
		read, err := rights.ReadState(body, "", features)
		e := (*Entitlements)(read)
		_, errDeleted := rights.ReadDeleted(body, "")
		if err != nil {
			require.Nil(t, e)
			return
		}
		require.NoError(t, errDeleted, "who can be read can be read as deleted")
		require.True(t, isUUID4(e.CustomerID()))
		again, err := readState(body, at, CustomerID(e.CustomerID()), "", features)
		require.NoError(t, err)
		read.SetAt(clock.PolarTime(at))
		require.Equal(t, read, again)
		_, err = readState(body, at, CustomerID(teaID), "", features)
		require.True(t, err != nil || e.CustomerID() == teaID, "an answer about somebody else")
		if e.ExternalID() != "" {
			_, err = readState(body, at, ExternalID(e.ExternalID()+"x"), "", features)
			require.ErrorIs(t, err, rights.ErrForeign)
		}
		if !e.Known() {
			require.Empty(t, e.Features())
			require.Empty(t, e.Benefits())
			require.Empty(t, e.Products())
			require.Empty(t, e.Meters())
			return
		}
		require.Equal(t, e.Has("pro"), e.Meets(Benefit(proID)), "a feature comes with its benefit and not else")
		require.Equal(t, e.Has("pro"), e.Has("export"))
		var ids []string
		for _, b := range e.Benefits() {
			require.NotEmpty(t, b.ID())
			require.NotNil(t, b.Metadata())
			require.True(t, e.Meets(Benefit(b.ID())))
			ids = append(ids, b.ID())
		}
		require.True(t, sortedOnce(ids))
		ids = nil
		for _, m := range e.Meters() {
			require.NotEmpty(t, m.ID())
			require.False(t, math.IsNaN(m.Balance) || math.IsInf(m.Balance, 0))
			require.True(t, e.Meets(Meter(m.ID(), m.Balance)))
			ids = append(ids, m.ID())
		}
		require.True(t, sortedOnce(ids))
		require.True(t, sortedOnce(e.Products()))
		for _, p := range e.Products() {
			require.True(t, e.Meets(Product(p)))
		}
		require.Equal(t, "polargate.Entitlements{Customer:"+e.CustomerID()+"}", fmt.Sprintf("%+v", e))
	})
}

func sortedOnce(ids []string) bool {
	return slices.IsSorted(ids) && len(slices.Compact(slices.Clone(ids))) == len(ids)
}
