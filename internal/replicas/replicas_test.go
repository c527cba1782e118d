package replicas

import (
	"testing"
	"time"

	"github.com/polargate/polargate/internal/clock"
	"github.com/polargate/polargate/internal/fact"
	"github.com/polargate/polargate/internal/memory"
	"github.com/polargate/polargate/internal/rights"
	"github.com/polargate/polargate/internal/wire"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const (
	organization = "34f57e13-8bcb-4481-85b2-a4b55c4ba0b9"
	ann          = "8d8a7abc-87f9-4fe4-8680-86d3a0c05924"
	pro          = "850cc3a4-3ed7-4be6-b198-127ec8d33bb9"
)

var at = clock.PolarTime(time.Date(2026, 11, 29, 12, 0, 0, 0, time.UTC))

// replica is one whose program has features of its own.
func replica(features map[string][]string) *Replicas {
	return &Replicas{
		Features: features, Organization: func() string { return organization }, WrongBenefit: "wrong_benefit",
		License: func(*rights.State) *fact.License { return nil },
	}
}

func TestWhatAReplicaTellsIsWhatAnotherHearsByItsOwnFeatures(t *testing.T) {
	t.Parallel()
	state, err := rights.ReadState([]byte(`{"id":"`+ann+`","external_id":"usr_ann","granted_benefits":[{"benefit_id":"`+pro+`","benefit_metadata":{"seats":5}}],
		"active_subscriptions":[{"id":"b0000000-0000-4000-8000-000000000001","product_id":"monthly","status":"trialing"}],
		"active_meters":[{"meter_id":"calls","credited_units":10,"consumed_units":2.5}]}`), "", map[string][]string{pro: {"export"}})
	require.NoError(t, err)
	state.SetAt(at)
	for _, flags := range []memory.News{{}, {Event: true, Doubtful: true}, {Listed: true}} {
		n := flags
		n.Value, n.Key, n.At = state, memory.Key{Kind: memory.ByExternalID, ID: "usr_ann"}, at
		f, err := fact.Parse(replica(nil).factOf(n))
		require.NoError(t, err)
		assert.Equal(t, organization, f.Organization)
		heard, err := replica(map[string][]string{pro: {"sync"}}).newsOf(f, at)
		require.NoError(t, err)
		assert.Equal(t, ann, heard.Value.CustomerID())
		assert.Equal(t, "usr_ann", heard.Value.External())
		assert.Equal(t, []string{"sync"}, heard.Value.Features(), "what a benefit unlocks is each program's own matter")
		assert.Equal(t, state.Benefits(), heard.Value.Benefits())
		assert.Equal(t, state.Subscriptions(), heard.Value.Subscriptions())
		assert.Equal(t, state.Meters(), heard.Value.Meters())
		assert.Equal(t, at, heard.Value.At())
		assert.Equal(t, []bool{n.Event, n.Doubtful, n.Listed, true}, []bool{heard.Event, heard.Doubtful, heard.Listed, heard.Shared})
	}
}

func TestThatACustomerIsUnknownIsToldUnderTheIdThatWasAskedAbout(t *testing.T) {
	t.Parallel()
	for _, key := range []memory.Key{{Kind: memory.ByExternalID, ID: "usr_none"}, {Kind: memory.ByPolarID, ID: ann}} {
		f, err := fact.Parse(replica(nil).factOf(memory.News{Key: key, Value: rights.Of(wire.UUID{}, "", false, at)}))
		require.NoError(t, err)
		heard, err := replica(nil).newsOf(f, at)
		require.NoError(t, err)
		assert.Equal(t, key, heard.Key)
		assert.False(t, heard.Value.Known())
	}
}

func TestAFactThatCannotBeAboutACustomerIsNotBelieved(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]fact.Customer{
		"an id that is none":             {ID: "7", Known: true},
		"a known customer without an id": {Known: true, External: "usr_ann"},
		"an event about nobody":          {Event: true},
		"an unknown one with no id":      {ID: "ann"},
	} {
		_, err := replica(nil).newsOf(fact.Fact{At: at, Customer: &c}, at)
		assert.ErrorIs(t, err, fact.ErrUnreadable, name)
	}
}

func TestWhyALicenseKeyIsRefusedIsToldUnlessItIsThisProgramsOwnReason(t *testing.T) {
	t.Parallel()
	r := replica(nil)
	for name, c := range map[string]struct {
		state *rights.State
		want  string
	}{
		"expired":                               {rights.Refused("expired", at), "expired"},
		"of a benefit that isn't accepted here": {rights.Refused("wrong_benefit", at), ""},
		"at a time that isn't known":            {rights.Refused("expired", 0), ""},
	} {
		data := r.factOf(memory.News{Key: memory.Key{Kind: memory.ByLicenseKey, ID: "KEY"}, Value: c.state})
		if c.want == "" {
			assert.Nil(t, data, name)
			continue
		}
		f, err := fact.Parse(data)
		require.NoError(t, err, name)
		assert.Equal(t, c.want, f.Refused, name)
		assert.Equal(t, c.want, r.newsOfLicense(f, at, memory.Key{Kind: memory.ByLicenseKey, ID: "KEY"}).Value.Refusal(), name)
		assert.NotContains(t, string(data), "KEY", name)
	}
}
