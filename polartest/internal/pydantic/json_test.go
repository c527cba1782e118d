package pydantic

import (
	"encoding/json"
	"errors"
	"math/big"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestJSONErrorsAreInPythonsWordsWithPositionsInCharacters(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]SyntaxError{
		`not json`:        {0, "Expecting value"},
		` `:               {1, "Expecting value"},
		`{`:               {1, "Expecting property name enclosed in double quotes"},
		`{"é" 1}`:         {5, "Expecting ':' delimiter"},
		`{"é":}`:          {5, "Expecting value"},
		`{"a":1 "b":2}`:   {7, "Expecting ',' delimiter"},
		`{"a":1,}`:        {6, "Illegal trailing comma before end of object"},
		`[1,]`:            {2, "Illegal trailing comma before end of array"},
		`[1`:              {2, "Expecting ',' delimiter"},
		`[-]`:             {1, "Expecting value"},
		`{} x`:            {3, "Extra data"},
		`01`:              {1, "Extra data"},
		`"a`:              {0, "Unterminated string starting at"},
		`"\`:              {0, "Unterminated string starting at"},
		"\"a\nb\"":        {2, "Invalid control character at"},
		`"\x"`:            {1, `Invalid \escape: `},
		`"\u12"`:          {2, `Invalid \uXXXX escape`},
		"\ufeff[nothing]": {1, "Expecting value"},
	} {
		_, err := Read([]byte(text))
		got, ok := errors.AsType[*SyntaxError](err)
		require.True(t, ok, "%s: %v", text, err)
		assert.Equal(t, want, *got, text)
	}
	for name, text := range map[string]string{
		"not text":        "\"\xff\"",
		"too deep":        strings.Repeat("[", 1_000_000),
		"too many digits": strings.Repeat("9", 5000),
	} {
		_, err := Read([]byte(text))
		require.ErrorIs(t, err, ErrUnreadable, name)
	}
}

func TestJSONIsWrittenAsPythonWritesIt(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		`1.0`: `1.0`, `1`: `1`, `-0.0`: `-0.0`, `1e20`: `1e+20`, `1e15`: `1000000000000000.0`, `0.0001`: `0.0001`, `1e-5`: `1e-05`,
		`"\u00e9\ud83d\ude00\u0001\n\/<"`: "\"é😀\\u0001\\n/<\"",
		`{"b":1,"a":2,"b":3}`:             `{"b":3,"a":2}`,
		`123456789012345678901234567890`:  `123456789012345678901234567890`,
	} {
		v, err := Read([]byte(text))
		require.NoError(t, err, text)
		got, err := Print(v)
		require.NoError(t, err, text)
		assert.Equal(t, want, string(got))
	}
	got, err := Print(map[string]any{"ccc": 1, "b": json.Number("7"), "a": "x"})
	require.NoError(t, err)
	assert.Equal(t, `{"a":"x","b":7,"ccc":1}`, string(got), "the order of jsonb")
	for _, text := range []string{`NaN`, `Infinity`, `-Infinity`, `1e999`, `"\ud800"`, `["\udc00x"]`, "\"\xed\xa0\x80\""} {
		v, err := Read([]byte(text))
		require.NoError(t, err, text)
		_, err = Print(v)
		require.ErrorIs(t, err, ErrUnprintable, text)
	}
}

func TestUUIDsAreReadInTheSpellingsThatPolarTakes(t *testing.T) {
	t.Parallel()
	const id = "34f57e13-8bcb-4481-85b2-a4b55c4ba0b9"
	for _, s := range []string{id, strings.ToUpper(id), strings.ReplaceAll(id, "-", ""), "{" + id + "}", "urn:uuid:" + id} {
		got, problem := UUID(s)
		assert.Empty(t, problem, s)
		assert.Equal(t, id, got)
		assert.True(t, IsVersion4(got))
	}
	for s, want := range map[string]string{
		"": "invalid length: found 0", "abc": "invalid length: found 3", "a-b": "invalid group count: found 2",
		"nope": "invalid character: found `n` at 0", "aé": "invalid character: found `é` at 1",
		id[1:]: "invalid group length in group 0: found 7", id + "0": "invalid group length in group 4: found 13",
	} {
		_, problem := UUID(s)
		assert.Equal(t, want, problem, s)
	}
}

// FuzzReadJSON holds the reader against encoding/json: it reads all that one reads, and beyond that
// only what Python lets through.
func FuzzReadJSON(f *testing.F) {
	for _, seed := range []string{`{"key":"x","n":[1,-2.5e3,true,null]}`, `[1,]`, `"\ud800"`, `"\ud83d\ude00"`, `NaN`, "\xff", "\ufeff{}", `-Infinity`, `1E+2`, `-`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		v, err := Read(body)
		if err != nil {
			if json.Valid(body) && utf8.Valid(body) && !errors.Is(err, ErrUnreadable) {
				t.Fatalf("%q is valid JSON, but: %v", body, err)
			}
			return
		}
		text, err := Print(v)
		if err != nil {
			return // NaN, infinity or a lone surrogate
		}
		if !json.Valid(text) {
			t.Fatalf("%q was written as %q, which is no JSON", body, text)
		}
		again, err := Read(text)
		if err != nil {
			t.Fatalf("%q was written as %q, which cannot be read: %v", body, text, err)
		}
		if n, ok := v.(*big.Int); ok && n.Cmp(again.(*big.Int)) != 0 {
			t.Fatalf("%q became %v", body, again)
		}
	})
}

func FuzzParseUUID(f *testing.F) {
	for _, seed := range []string{"34f57e13-8bcb-4481-85b2-a4b55c4ba0b9", "{}", "urn:uuid:", "--------------------------------", "é"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, s string) {
		id, problem := UUID(s)
		if (problem == "") != (len(id) == 36) {
			t.Fatalf("%q gave %q and %q", s, id, problem)
		}
		if problem == "" {
			if again, problem := UUID(id); again != id || problem != "" {
				t.Fatalf("%q is not stable", id)
			}
		}
	})
}
