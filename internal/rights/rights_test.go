package rights

import (
	"fmt"
	"testing"
	"time"

	"github.com/polargate/polargate/internal/clock"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const (
	organization = "34f57e13-8bcb-4481-85b2-a4b55c4ba0b9"
	ann          = "8d8a7abc-87f9-4fe4-8680-86d3a0c05924"
	pro          = "850cc3a4-3ed7-4be6-b198-127ec8d33bb9"
	tea          = "32234c6d-03fe-42a8-8a2f-d3d416d0b60a"
)

var noon = time.Date(2026, 11, 29, 12, 0, 0, 0, time.UTC)

// stateOf is a state of Ann's that Polar gave at a time, with these lists.
func stateOf(t *testing.T, lists string, features map[string][]string) *State {
	t.Helper()
	s, err := ReadState([]byte(`{"id":"`+ann+`","external_id":"usr_ann","organization_id":"`+organization+`"`+lists+`}`), organization, features)
	require.NoError(t, err)
	s.SetAt(clock.PolarTime(noon))
	return s
}

func TestABenefitUnlocksItsOwnFeaturesOrElseThoseOfAnyBenefit(t *testing.T) {
	t.Parallel()
	grants := func(ids ...string) (list string) {
		for i, id := range ids {
			list += fmt.Sprintf(`%s{"benefit_id":%q}`, [2]string{"", ","}[min(i, 1)], id)
		}
		return `,"granted_benefits":[` + list + `]`
	}
	for name, c := range map[string]struct {
		lists    string
		features map[string][]string
		want     []string
	}{
		"of its own":                           {grants(pro), map[string][]string{pro: {"export", "sync"}}, []string{"export", "sync"}},
		"of another benefit":                   {grants(tea), map[string][]string{pro: {"export"}}, nil},
		"of any benefit":                       {grants(tea), map[string][]string{pro: {"export"}, AnyBenefit: {"open"}}, []string{"open"}},
		"of two benefits, each once":           {grants(tea, pro), map[string][]string{pro: {"export", "open"}, tea: {"open"}}, []string{"export", "open"}},
		"of a benefit with its id in capitals": {grants("850CC3A4-3ED7-4BE6-B198-127EC8D33BB9"), map[string][]string{pro: {"export"}}, []string{"export"}},
		"without a benefit":                    {grants(), map[string][]string{AnyBenefit: {"open"}}, nil},
		"without any features":                 {grants(pro), nil, nil},
	} {
		assert.Equal(t, c.want, stateOf(t, c.lists, c.features).Features(), name)
	}
}

func TestAFeatureIsFoundAmongFewAndAmongMany(t *testing.T) {
	t.Parallel()
	for _, n := range []int{1, 16, 17, 100} {
		var names []string
		for i := range n {
			names = append(names, fmt.Sprintf("feature %03d", i))
		}
		s := stateOf(t, `,"granted_benefits":[{"benefit_id":"`+pro+`"}]`, map[string][]string{pro: names})
		for _, name := range names {
			assert.True(t, s.Has(name))
		}
		assert.False(t, s.Has("feature"), n)
		assert.False(t, s.Has(""), n)
	}
	assert.False(t, (*State)(nil).Has("feature"), "of no customer")
}

func TestAStateWithoutItsCustomerOrAllOfItsListsIsNone(t *testing.T) {
	t.Parallel()
	for name, body := range map[string]string{
		"no JSON":           `<html>`,
		"no customer":       `{"granted_benefits":[]}`,
		"another shop's":    `{"id":"` + ann + `","organization_id":"549c44b7-2e67-4e0e-8a20-17e76c895830","granted_benefits":[]}`,
		"none of the lists": `{"id":"` + ann + `"}`,
		"lists that aren't": `{"id":"` + ann + `","granted_benefits":7,"active_subscriptions":"x","active_meters":{}}`,
	} {
		_, err := ReadState([]byte(body), organization, nil)
		assert.Error(t, err, name)
	}
	s := stateOf(t, `,"granted_benefits":[]`, nil)
	assert.Equal(t, []string{"active_subscriptions", "active_meters"}, s.Missing().Names(), "one list is enough, and the others are missing")
	deleted := stateOf(t, `,"deleted_at":"2026-11-29T11:00:00Z","granted_benefits":[{"benefit_id":"`+pro+`"}]`, map[string][]string{pro: {"export"}})
	assert.False(t, deleted.Known(), "a customer who was deleted has nothing")
	assert.Empty(t, deleted.Features())
}

func TestAListThatCannotBeReadIsTakenFromAnEarlierStateThatIsYoungEnough(t *testing.T) {
	t.Parallel()
	features := map[string][]string{pro: {"export"}}
	earlier := stateOf(t, `,"granted_benefits":[{"benefit_id":"`+pro+`"}],"active_subscriptions":[{"product_id":"p","status":"active"}],"active_meters":[]`, features)
	later := func(age time.Duration) *State {
		s := stateOf(t, `,"active_subscriptions":[],"active_meters":[]`, features)
		s.SetAt(clock.PolarTime(noon.Add(age)))
		return s
	}
	for name, c := range map[string]struct {
		earlier *State
		age     time.Duration
		want    bool
	}{
		"young enough":        {earlier, time.Hour, true},
		"too old":             {earlier, 2 * time.Hour, false},
		"none":                {nil, time.Hour, false},
		"of another customer": {Of([16]byte{1}, "usr_bob", true, clock.PolarTime(noon)), time.Hour, false},
	} {
		s := later(c.age).Completed(c.earlier, 2*time.Hour)
		assert.Equal(t, c.want, s.Has("export"), name)
		assert.Equal(t, !c.want, s.Missing() == ListOfBenefits, name)
		assert.Empty(t, s.Products(), "%s: what can be read is not borrowed", name)
	}
	borrowed := later(time.Hour).Completed(earlier, 2*time.Hour)
	again := later(150*time.Minute).Completed(borrowed, 2*time.Hour)
	assert.False(t, again.Has("export"), "what was borrowed isn't borrowed again for longer")
}

func TestASubscriptionThatHasEndedGivesNoProductAndOneThatPolarStillGivesDoes(t *testing.T) {
	t.Parallel()
	s := stateOf(t, `,"active_subscriptions":[
		{"id":"b0000000-0000-4000-8000-000000000001","product_id":"monthly","status":"active","ends_at":"2026-11-29T13:00:00Z"},
		{"id":"b0000000-0000-4000-8000-000000000002","product_id":"canceled","status":"active","cancel_at_period_end":true,"current_period_end":"2026-11-29T14:00:00Z"},
		{"id":"b0000000-0000-4000-8000-000000000003","product_id":"late","status":"active","ends_at":"2026-11-29T11:00:00Z"},
		{"id":"b0000000-0000-4000-8000-000000000004","product_id":"unpaid","status":"past_due"},
		{"id":"b0000000-0000-4000-8000-000000000005","product_id":"new","status":"of the future"}]`, nil)
	for after, want := range map[time.Duration][]string{
		0:              {"canceled", "late", "monthly", "new"},
		time.Hour:      {"canceled", "late", "new"},
		2 * time.Hour:  {"late", "new"},
		99 * time.Hour: {"late", "new"},
	} {
		assert.Equal(t, want, s.EndedBy(clock.PolarTime(noon.Add(after))).Products(), after)
	}
	assert.Equal(t, clock.PolarTime(noon.Add(time.Hour)), s.NextEnd())
}

func TestOneOfSeveralGrantsOfABenefitCanGo(t *testing.T) {
	t.Parallel()
	const keyed = `{"benefit_id":"` + pro + `","benefit_type":"license_keys","properties":{"license_key_id":"c0000000-0000-4000-8000-00000000000%d"}}`
	features := map[string][]string{pro: {"export"}, tea: {"tea"}}
	s := stateOf(t, `,"granted_benefits":[`+fmt.Sprintf(keyed, 1)+`,`+fmt.Sprintf(keyed, 2)+`,{"benefit_id":"`+tea+`"}]`, features)
	assert.True(t, s.PerSeat(), "the same benefit twice, as for two seats")
	ofKey := func(s *State, key string) Benefit {
		for _, b := range s.Grants() {
			if b.LicenseKeyID() == key {
				return b
			}
		}
		require.FailNow(t, "no grant with "+key)
		return Benefit{}
	}
	one := s.WithoutGrant(ofKey(s, "c0000000-0000-4000-8000-000000000001"), features)
	assert.Equal(t, []string{"export", "tea"}, one.Features(), "the other key is left")
	assert.False(t, one.PerSeat())
	none := one.WithoutGrant(ofKey(one, "c0000000-0000-4000-8000-000000000002"), features)
	assert.Equal(t, []string{"tea"}, none.Features())
	assert.True(t, s.AllowsTheSame(stateOf(t, `,"granted_benefits":[{"benefit_id":"`+tea+`"},`+fmt.Sprintf(keyed, 2)+`,`+fmt.Sprintf(keyed, 1)+`]`, features)), "in whichever order Polar lists them")
}
