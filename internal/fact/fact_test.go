package fact

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestWhatOneReplicaWritesAnotherReads(t *testing.T) {
	t.Parallel()
	limit := int64(3)
	for name, f := range map[string]Fact{
		"a customer": {At: 5, Organization: "o", Customer: &Customer{
			Known: true, ID: "1", External: "usr", Event: true, Doubtful: true, Products: []string{"p"},
			Benefits: []Benefit{{"b", "custom", "{}", `{"a":1}`}}, Meters: []Meter{{"m", 0.1, 1e15, -0.5, 1_700_000_000_000_000_000}},
			Keys: []Key{{"k", true, 9, 8}},
		}},
		"an unknown customer": {At: 5, Customer: &Customer{External: "usr"}},
		"a license key":       {At: 5, License: &License{ID: "l", Status: "granted", LimitUsage: &limit, Expires: 7}},
		"a refused key":       {At: 5, Refused: "expired"},
		"a dropped key":       {At: 5, Dropped: &Dropped{"l", "c", true}},
	} {
		got, err := Parse(f.Bytes())
		require.NoError(t, err, name)
		f.Version = version
		assert.Equal(t, f, got, name)
	}
}

func TestWhatIsNoFactOfThisVersionIsNotRead(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		"", "null", "{}", "[]", `{"v":1}`, `{"v":2,"refused":"expired"}`, `{"v":"1","refused":"expired"}`,
		`{"v":1,"refused":"expired","dropped":{}}`, `{"v":1,"customer":[]}`, `{"v":1,"customer":null}`,
	} {
		_, err := Parse([]byte(text))
		require.ErrorIs(t, err, ErrUnreadable, text)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"v":1,"at":1,"customer":{"known":true,"id":"x","meters":[{"id":"m","balance":1e300}]}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		fact, err := Parse(data)
		if err != nil {
			return
		}
		again, err := Parse(fact.Bytes())
		require.NoError(t, err)
		assert.Equal(t, fact, again)
	})
}
