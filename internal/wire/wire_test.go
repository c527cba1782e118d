package wire

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestAUUIDOfVersion4HasOneForm(t *testing.T) {
	t.Parallel()
	const id = "34f57e13-8bcb-4481-85b2-a4b55c4ba0b9"
	for name, c := range map[string]struct {
		given string
		ok    bool
	}{
		"the usual form":                       {id, true},
		"capitals":                             {strings.ToUpper(id), true},
		"without dashes":                       {strings.ReplaceAll(id, "-", ""), true},
		"capitals without dashes":              {strings.ToUpper(strings.ReplaceAll(id, "-", "")), true},
		"nothing":                              {"", false},
		"a space before it":                    {" " + id, false},
		"a line break after it":                {id + "\n", false},
		"braces around it":                     {"{" + id + "}", false},
		"as a URN":                             {"urn:uuid:" + id, false},
		"a digit short":                        {id[:35], false},
		"a digit more":                         {id + "0", false},
		"a digit that is none":                 {"34f57e13-8bcb-4481-85b2-a4b55c4ba0bg", false},
		"a dash in the wrong place":            {"34f57e138-bcb-4481-85b2-a4b55c4ba0b9", false},
		"dashes at the end":                    {strings.ReplaceAll(id, "-", "") + "----", false},
		"some dashes only":                     {"34f57e138bcb-4481-85b2-a4b55c4ba0b9", false},
		"a digit for a dash":                   {"34f57e1308bcb-4481-85b2-a4b55c4ba0b", false},
		"32 characters with dashes":            {"34f57e13-8bcb-4481-85b2-a4b55c4b", false},
		"version 1":                            {"34f57e13-8bcb-1481-85b2-a4b55c4ba0b9", false},
		"version 7":                            {"34f57e13-8bcb-7481-85b2-a4b55c4ba0b9", false},
		"the nil UUID":                         {"00000000-0000-0000-0000-000000000000", false},
		"all ones":                             {"ffffffff-ffff-ffff-ffff-ffffffffffff", false},
		"a variant that is not the standard's": {"34f57e13-8bcb-4481-c5b2-a4b55c4ba0b9", false},
		"the lowest variant":                   {"34f57e13-8bcb-4481-75b2-a4b55c4ba0b9", false},
		"full-width digits":                    {"３４f57e13-8bcb-4481-85b2-a4b55c4b", false},
		"36 bytes of fewer letters":            {"34f57e13-8bcb-4481-85b2-a4b55c4ba0é", false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, ok := CanonicalUUID4(c.given)
			require.Equal(t, c.ok, ok)
			if !c.ok {
				assert.Empty(t, got)
				assert.Equal(t, c.given, NormalUUID(c.given), "what is no UUID stays as it is")
				assert.False(t, SameUUID(c.given, id))
				return
			}
			assert.Equal(t, id, got)
			assert.True(t, SameUUID(c.given, id))
			assert.True(t, SameUUID(id, c.given))
		})
	}
	for _, variant := range "89abAB" {
		_, ok := CanonicalUUID4("34f57e13-8bcb-4481-" + string(variant) + "5b2-a4b55c4ba0b9")
		assert.True(t, ok, "variant %c", variant)
	}
	assert.True(t, SameUUID("no id", "no id"))
	assert.False(t, SameUUID("no id", "No id"))
	assert.False(t, SameUUID(id, "44f57e13-8bcb-4481-85b2-a4b55c4ba0b9"))
}

func TestTimesAreReadInTheFormsThatPolarWrites(t *testing.T) {
	t.Parallel()
	utc := func(nanos int) time.Time { return time.Date(2030, 1, 2, 3, 4, 5, nanos, time.UTC) }
	for name, c := range map[string]struct {
		raw  string
		want time.Time
	}{
		"UTC with six digits of fraction":   {`"2030-01-02T03:04:05.123456Z"`, utc(123456000)},
		"UTC without a fraction":            {`"2030-01-02T03:04:05Z"`, utc(0)},
		"nanoseconds":                       {`"2030-01-02T03:04:05.123456789Z"`, utc(123456789)},
		"UTC as an offset":                  {`"2030-01-02T03:04:05+00:00"`, utc(0)},
		"another zone":                      {`"2030-01-02T05:34:05+02:30"`, utc(0)},
		"another zone on the day before":    {`"2030-01-01T19:04:05-08:00"`, utc(0)},
		"no zone, which is UTC":             {`"2030-01-02T03:04:05"`, utc(0)},
		"no zone with a fraction":           {`"2030-01-02T03:04:05.5"`, utc(500000000)},
		"a bare date, which is midnight":    {`"2030-01-02"`, time.Date(2030, 1, 2, 0, 0, 0, 0, time.UTC)},
		"a leap day":                        {`"2028-02-29T00:00:00Z"`, time.Date(2028, 2, 29, 0, 0, 0, 0, time.UTC)},
		"an escaped text":                   {`"2030\u002d01-02T03:04:05Z"`, utc(0)},
		"the last moment that Python knows": {`"9999-12-31T23:59:59.999999Z"`, time.Date(9999, 12, 31, 23, 59, 59, 999999000, time.UTC)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := ParseTime(json.RawMessage(c.raw))
			require.NoError(t, err)
			assert.Equal(t, c.want, got)
			assert.Equal(t, time.UTC, got.Location())
		})
	}
	for name, raw := range map[string]string{
		"nothing":               ``,
		"a number":              `1893553445`,
		"true":                  `true`,
		"an object":             `{}`,
		"a list":                `["2030-01-02"]`,
		"an empty text":         `""`,
		"a word":                `"never"`,
		"a 13th month":          `"2030-13-01T00:00:00Z"`,
		"a 30th of February":    `"2030-02-30"`,
		"a year of five digits": `"12030-01-02T03:04:05Z"`,
		"a day in another form": `"02/01/2030"`,
		"text after it":         `"2030-01-02T03:04:05Z, or so"`,
		"broken JSON":           `"2030-01-02`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := ParseTime(json.RawMessage(raw))
			require.Error(t, err)
			assert.True(t, got.IsZero())
			if len(raw) > 4 {
				assert.NotContains(t, err.Error(), strings.Trim(raw, `"`))
			}
		})
	}
}
