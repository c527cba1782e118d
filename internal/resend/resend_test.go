package resend

import (
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
)

func list() *List { return &List{Bytes: 1000, Records: 100, Safe: 30 * time.Second} }

func record(key string, at int, data string) Record {
	return Record{Key: key, At: strconv.Itoa(1000 + at), Data: []byte(data), TTL: time.Hour}
}

func data(l *List) map[string]string {
	all := map[string]string{}
	for _, r := range l.All() {
		all[r.Key] = string(r.Data)
	}
	return all
}

func TestTheYoungestRecordOfEachKeyIsKept(t *testing.T) {
	t.Parallel()
	l := list()
	l.Add(record("a", 1, "x"), record("b", 5, "x"))
	l.Add(record("a", 2, "y"), record("b", 4, "y"))
	l.Add(record("a", 2, "z"))
	l.Sent(record("a", 1, "x")) // which proves nothing of the younger one
	assert.Equal(t, map[string]string{"a": "z", "b": "x"}, data(l))
	assert.Equal(t, 2, l.Unsent())
}

func TestWhatWasSentIsKeptForAWhileAndWhatWasNotForAsLongAsItIsOfUse(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := list()
		l.Add(record("sent", 1, "x"), record("unsent", 1, "x"))
		l.Sent(record("sent", 1, "x"))
		assert.Equal(t, 1, l.Unsent())
		time.Sleep(29 * time.Second)
		assert.Len(t, l.All(), 2)
		time.Sleep(time.Second)
		assert.Len(t, l.All(), 1)
		time.Sleep(29 * time.Minute)
		assert.Equal(t, 30*time.Minute+30*time.Second, l.All()[0].TTL)
		time.Sleep(31 * time.Minute)
		assert.Empty(t, l.All())
		assert.Zero(t, l.Unsent())
	})
}

func TestWithoutRoomWhatWasSentGoesFirst(t *testing.T) {
	t.Parallel()
	l := list()
	for i := range 90 {
		r := record("sent "+strconv.Itoa(i), 1, "0123456789")
		l.Add(r)
		l.Sent(r)
	}
	lost := 0
	for i := range 100 {
		lost += l.Add(record("unsent "+strconv.Itoa(i), 1, "0123456789"))
	}
	assert.Zero(t, lost)
	assert.Equal(t, 100, l.Unsent())
	assert.Positive(t, l.Add(record("large", 1, string(make([]byte, 500)))), "what is given up is counted")
	assert.LessOrEqual(t, l.size, 1000)
}
