package census

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const (
	organization = "34f57e13-8bcb-4481-85b2-a4b55c4ba0b9"
	customer     = `"customer":{"id":"8d8a7abc-87f9-4fe4-8680-86d3a0c05924","external_id":"usr","organization_id":"` + organization + `"}`
	grant        = `{"id":"b0000000-0000-4000-8000-000000000001","granted_at":"2026-11-22T12:00:00Z","benefit_id":"pro","benefit":{"type":"custom"},` + customer + `}`
)

func TestAPageIsBelievedAsAWholeOrNotAtAll(t *testing.T) {
	t.Parallel()
	page := func(items string) string {
		return `{"items":[` + items + `],"pagination":{"total_count":7,"max_page":3}}`
	}
	for name, c := range map[string]struct {
		body         string
		rows         int
		broken, fail bool
	}{
		"a grant":                                {page(grant), 1, false, false},
		"an empty page":                          {page(""), 0, false, false},
		"no JSON":                                {"<html>", 0, false, true},
		"no entries":                             {`{"pagination":{"total_count":0,"max_page":0}}`, 0, false, true},
		"entries that are null":                  {`{"items":null,"pagination":{"total_count":0,"max_page":0}}`, 0, false, true},
		"no number of pages":                     {`{"items":[],"pagination":{"total_count":0}}`, 0, false, true},
		"a number that can't be":                 {`{"items":[],"pagination":{"total_count":-1,"max_page":1}}`, 0, false, true},
		"an entry that is none":                  {page(grant + `,7`), 1, true, false},
		"an entry without a customer":            {page(`{"id":"b0000000-0000-4000-8000-000000000001","granted_at":"2026-11-22T12:00:00Z"}`), 0, true, false},
		"an entry without a time":                {page(`{"id":"b0000000-0000-4000-8000-000000000001",` + customer + `}`), 0, true, false},
		"an entry without an id":                 {page(`{"granted_at":"2026-11-22T12:00:00Z",` + customer + `}`), 0, true, false},
		"an entry of a customer of another shop": {page(fmt.Sprintf(`{"id":"b0000000-0000-4000-8000-000000000001","granted_at":"2026-11-22T12:00:00Z","customer":{"id":"8d8a7abc-87f9-4fe4-8680-86d3a0c05924","organization_id":%q}}`, "549c44b7-2e67-4e0e-8a20-17e76c895830")), 0, true, false},
	} {
		got, of, broken, err := Lists[0].Page([]byte(c.body), organization)
		assert.Equal(t, c.fail, err != nil, "%s: %v", name, err)
		assert.Equal(t, c.broken, broken != nil, "%s: %v", name, broken)
		assert.Len(t, got.Rows, c.rows, name)
		if c.rows > 0 && !c.broken {
			assert.Equal(t, organization, of, "%s: the organization is learned from it", name)
			assert.Equal(t, []any{3, 7}, []any{got.Last, got.Size}, name)
		}
	}
}

func TestEachListTellsItsOwnPartOfWhatACustomerHas(t *testing.T) {
	t.Parallel()
	for i, c := range []struct {
		entry                             string
		benefits, products, meters, times int
	}{
		{grant, 1, 0, 0, 1},
		{`{"id":"b0000000-0000-4000-8000-000000000002","started_at":"2026-11-22T12:00:00Z","product_id":"p","status":"active",` + customer + `}`, 0, 1, 0, 1},
		{`{"id":"b0000000-0000-4000-8000-000000000003","created_at":"2026-11-22T12:00:00Z","meter_id":"m","credited_units":7,` + customer + `}`, 0, 0, 1, 1},
	} {
		list := &Lists[i]
		page, _, broken, err := list.Page([]byte(`{"items":[`+c.entry+`],"pagination":{"total_count":1,"max_page":1}}`), organization)
		require.NoError(t, err, list.name)
		require.NoError(t, broken, list.name)
		have := page.Rows[0].Value.have
		assert.Equal(t, []int{c.benefits, c.products, c.meters}, []int{len(have.Benefits), len(have.Products()), len(have.Meters)}, list.name)
		assert.Equal(t, "usr", page.Rows[0].Value.external, list.name)
		for j := range Lists { // by the time of its own list alone
			if j != i {
				_, _, broken, _ = Lists[j].Page([]byte(`{"items":[`+c.entry+`],"pagination":{"total_count":1,"max_page":1}}`), organization)
				assert.Error(t, broken, "%s is no entry of %s", list.name, Lists[j].name)
			}
		}
	}
}

func TestASubscriptionThatGivesNoRightIsReadForItsPlaceInTheListAlone(t *testing.T) {
	t.Parallel()
	page, _, broken, err := Lists[1].Page([]byte(`{"items":[{"id":"b0000000-0000-4000-8000-000000000002","started_at":"2026-11-22T12:00:00Z","product_id":"p","status":"past_due",`+customer+`}],"pagination":{"total_count":1,"max_page":1}}`), organization)
	require.NoError(t, err)
	require.NoError(t, broken)
	require.Len(t, page.Rows, 1)
	assert.Empty(t, page.Rows[0].Value.have.Products())
}

func TestAReportOfAWalkThatCannotBeReadIsNone(t *testing.T) {
	t.Parallel()
	report := Report{Began: 5, Ended: 7, Holder: "replica", Customers: 3, LeftOut: 1, NoRoom: 2}
	assert.Equal(t, report, ReportOf(report.Bytes()))
	assert.Zero(t, ReportOf([]byte(`{"Began":"yesterday"}`)))
	assert.Zero(t, ReportOf(nil))
}
