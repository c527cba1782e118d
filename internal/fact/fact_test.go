package fact

import (
	"bytes"
	"compress/flate"
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
			Subscriptions: []Subscription{{"s", "p", "trialing", 1, 2, true, 3}},
			Benefits:      []Benefit{{"b", "custom", "{}", `{"a":1}`}}, Meters: []Meter{{"m", 0.1, 1e15, -0.5, 1_700_000_000_000_000_000}},
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

func TestAPageIsReadAsItWasWritten(t *testing.T) {
	t.Parallel()
	p := Page{Number: 2, Last: 3, Size: 250, Asked: 5, At: 6}
	for i := range 100 {
		p.Rows = append(p.Rows, Row{
			ID: [16]byte{byte(i)}, Owner: [16]byte{1, byte(i)}, Came: int64(i), External: "usr", Deleted: i == 3,
			Benefits: []Benefit{{"850cc3a4-3ed7-4be6-b198-127ec8d33bb9", "custom", `{"tier":"gold"}`, "{}"}}, Products: []string{"p"}, Meters: []Meter{{"m", 1, 2, 1, 0}},
			Subscriptions: []Subscription{{ID: "s", Product: "p", End: 7}},
		})
	}
	data := p.Bytes()
	assert.Less(t, len(data), 8<<10)
	got, err := ParsePage(data)
	require.NoError(t, err)
	p.Version = version
	assert.Equal(t, p, got)
	for _, text := range []string{"", "{}", string(data[:len(data)/2])} {
		_, err := ParsePage([]byte(text))
		require.ErrorIs(t, err, ErrUnreadable)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"v":1,"at":1,"customer":{"known":true,"id":"x","meters":[{"id":"m","balance":1e300}]}}`))
	f.Add([]byte(`{"v":1,"Customer":{"meters":[]}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		fact, err := Parse(data)
		if err != nil {
			return
		}
		again, err := Parse(fact.Bytes())
		require.NoError(t, err)
		assert.Equal(t, string(fact.Bytes()), string(again.Bytes()))
	})
}

func FuzzParsePage(f *testing.F) {
	packed := func(plain []byte) []byte {
		var b bytes.Buffer
		w, _ := flate.NewWriter(&b, flate.BestSpeed) // a level that exists, into memory
		_, _ = w.Write(plain)
		_ = w.Close()
		return b.Bytes()
	}
	f.Add(Page{Number: 1, Rows: []Row{{External: "usr", Meters: []Meter{{ID: "m"}}}}}.Bytes())
	f.Add(packed([]byte(`{"v":1,"rows":[{"ID":[1,2,3],"Came":-1}]}`)))
	f.Add([]byte(`{"v":1}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, data := range [][]byte{data, packed(data)} {
			page, err := ParsePage(data)
			if err != nil {
				require.Equal(t, Page{}, page)
				continue
			}
			again, err := ParsePage(page.Bytes())
			require.NoError(t, err)
			require.Equal(t, page.Bytes(), again.Bytes())
		}
	})
}
