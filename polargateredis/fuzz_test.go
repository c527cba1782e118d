package polargateredis

import (
	"testing"
)

// FuzzStored reads what another program may have put under our keys.
func FuzzStored(f *testing.F) {
	f.Add("1795348800000000000data")
	f.Add("9999999999999999999")
	f.Add("QWERTYUIOPASDFGHJKLZXCVBNM")
	f.Add("")
	f.Fuzz(func(t *testing.T, text string) {
		if record, ok := parseRecord("k", text); ok && stored(record) != text {
			t.Fatalf("%q is read as %q", text, stored(record))
		}
		if value := parseValue(text); value.Version != "" && value.Version+string(value.Data) != text {
			t.Fatalf("%q is read as %q and %q", text, value.Version, value.Data)
		} else if value.Version == "" && value.Data != nil {
			t.Fatalf("%q has data without a version", text)
		}
		if tag, _ := hashTag(text); len(text) > 0 && len(tag) > len(text) {
			t.Fatalf("the hash tag of %q is %q", text, tag)
		}
	})
}
