package lease

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"flag"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unicode/utf16"

	"github.com/stretchr/testify/require"
)

// A new version of a format gets new files; those that are there stay as they are.
var makeVectors = flag.Bool("make-vectors", false, "write the vector files that do not exist yet")

// The shapes of the files, which docs/lease-format.md describes.
type (
	vectorFile struct {
		About   string            `json:"about"`
		Keys    map[string]string `json:"keys,omitempty"` // name → public key
		Vectors []vector          `json:"vectors"`
	}
	vector struct {
		Name   string          `json:"name"`
		Pinned []string        `json:"pinned,omitempty"` // names of keys
		Text   string          `json:"text"`
		Result string          `json:"result"` // "ok" or a Reason
		Claims json.RawMessage `json:"claims,omitempty"`
		Checks []vectorCheck   `json:"checks,omitempty"`
	}
	vectorCheck struct {
		Name         string `json:"name"`
		Now          int64  `json:"now"`
		Organization string `json:"organization"`
		Fingerprint  string `json:"fingerprint"`
		Version      string `json:"version,omitempty"`
		Released     int64  `json:"released,omitempty"`
		HighWater    int64  `json:"high_water,omitempty"`
		Newest       int64  `json:"newest,omitempty"`
		Result       string `json:"result"` // a Standing or a Reason
	}
	armorVector struct {
		Name   string `json:"name"`
		Kind   string `json:"kind"`
		Data   string `json:"data"` // base64
		Result string `json:"result"`
		Text   string `json:"text,omitempty"`
	}
	armorFile struct {
		About   string        `json:"about"`
		Vectors []armorVector `json:"vectors"`
	}
)

// vectorKey is a private key that everybody can make, for vectors and tests.
func vectorKey(name string) ed25519.PrivateKey {
	seed := sha256.Sum256([]byte("polargate test vector key " + name))
	return ed25519.NewKeyFromSeed(seed[:])
}

func vectorKID(name string) string { return KeyID(vectorKey(name).Public().(ed25519.PublicKey)) }

func vectorPub(name string) string {
	return FormatPublicKey(vectorKey(name).Public().(ed25519.PublicKey))
}

// forged is a text of any payload, signed by key over any domain.
func forged(kind, domain, payload, key string) string {
	signature := ed25519.Sign(vectorKey(key), []byte(domain+payload))
	return kind + "." + b64(payload) + "." + b64(string(signature))
}

func b64(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }

const (
	leaseDomain   = "polargate lease v1\x00"
	requestDomain = "polargate request v1\x00"
	receiptDomain = "polargate receipt v1\x00"

	vectorOrg     = "34f57e13-8bcb-4481-85b2-a4b55c4ba0b9"
	vectorMachine = "3f2e1d0c4b5a69788796a5b4c3d2e1f0"
	vectorIssued  = 1796000000 // 2026-11-30
	day           = 24 * 60 * 60
)

// summed is a text of any payload with its checksum.
func summed(kind, domain, payload string) string {
	sum := sha256.Sum256([]byte(domain + payload))
	return kind + "." + b64(payload) + "." + b64(string(sum[:]))
}

// basic are claims that are enough, after the kid.
const basic = `"id":"L1","org":"` + vectorOrg + `","ben":"b0000000-0000-4000-8000-000000000001","lic":"c0000000-0000-4000-8000-000000000001","fp":"` + vectorMachine + `","iat":1796000000`

func good(more string) string { return `{"kid":"` + vectorKID("first") + `",` + basic + more + `}` }

// payloadWith puts features where they belong, before the time of issue.
func payloadWith(more string) string {
	if strings.HasPrefix(more, `,"feat"`) {
		return strings.Replace(good(""), `,"iat"`, more+`,"iat"`, 1)
	}
	return good(more)
}

func TestVectorsAreWrittenOnceForAVersion(t *testing.T) {
	if !*makeVectors {
		t.Skip("only with -make-vectors")
	}
	write := func(name string, content any) {
		path := filepath.Join("testdata", name)
		if _, err := os.Stat(path); err == nil {
			t.Logf("%s stays as it is", path)
			return
		}
		var b bytes.Buffer
		enc := json.NewEncoder(&b)
		enc.SetEscapeHTML(false)
		enc.SetIndent("", " ")
		require.NoError(t, enc.Encode(content))
		require.NoError(t, os.WriteFile(path, b.Bytes(), 0o644))
	}
	write("v1.json", leaseVectors(t))
	write("r1.json", summedVectors(t, "r1"))
	write("d1.json", summedVectors(t, "d1"))
	write("armor.json", armorVectors())
}

func vectorPublics(names ...string) map[string]string {
	m := map[string]string{}
	for _, name := range names {
		m[name] = vectorPub(name)
	}
	return m
}

type vectorList struct{ all []vector }

func (l *vectorList) bad(name, text string, reason Reason) {
	l.all = append(l.all, vector{Name: name, Text: text, Result: string(reason)})
}

func (l *vectorList) good(name, text, claims string, checks ...vectorCheck) {
	l.all = append(l.all, vector{Name: name, Text: text, Result: "ok", Claims: json.RawMessage(claims), Checks: checks})
}

func leaseVectors(t *testing.T) vectorFile {
	var l vectorList
	sign := func(payload string) string { return forged("v1", leaseDomain, payload, "first") }

	// What is taken.
	at := func(name string, now int64, result string, change ...func(*vectorCheck)) vectorCheck {
		c := vectorCheck{Name: name, Now: now, Organization: vectorOrg, Fingerprint: vectorMachine, Version: "3.2.1", Result: result}
		for _, f := range change {
			f(&c)
		}
		return c
	}
	with := func(change func(*vectorCheck)) func(*vectorCheck) { return change }
	const iat, exp, ends = vectorIssued, vectorIssued + 30*day, vectorIssued + 37*day
	l.good("only what is required", sign(good("")), good(""),
		at("at once", iat, "active"),
		at("in the year 9999", 253402300799, "active"),
		at("another organization", iat, "wrong_organization", with(func(c *vectorCheck) { c.Organization = "34f57e13-8bcb-4481-85b2-a4b55c4ba0b8" })),
		at("the organization in capitals", iat, "wrong_organization", with(func(c *vectorCheck) { c.Organization = strings.ToUpper(vectorOrg) })),
		at("no organization", iat, "wrong_organization", with(func(c *vectorCheck) { c.Organization = "" })),
		at("another computer", iat, "other_machine", with(func(c *vectorCheck) { c.Fingerprint = "3f2e1d0c4b5a69788796a5b4c3d2e1f1" })),
		at("no fingerprint", iat, "other_machine", with(func(c *vectorCheck) { c.Fingerprint = "" })),
		at("no version of the program", iat, "active", with(func(c *vectorCheck) { c.Version = "" })),
	)
	full := strings.Replace(good(`,"nbf":1796000000,"exp":1798592000,"grace":604800,"cov":"3.2","pool":"studio","holder":"Zoë 🙂"`),
		`"fp":"`+vectorMachine+`"`, `"act":"d0000000-0000-4000-8000-000000000001","fp":"`+vectorMachine+`","feat":["export","sync","größe \"L\\XL\""]`, 1)
	l.good("every claim of a floating license", sign(full), full,
		at("5 minutes before it was issued", iat-300, "active"),
		at("more than 5 minutes before it was issued", iat-301, "clock_behind"),
		at("a second before it expires", exp-1, "active"),
		at("when it expires", exp, "grace"),
		at("a second before its grace ends", ends-1, "grace"),
		at("when its grace ends", ends, "expired"),
		at("a century later", iat+36525*day, "expired"),
		at("a clock an hour behind the high-water mark", iat+day, "active", with(func(c *vectorCheck) { c.HighWater = iat + day + 3600 })),
		at("a clock more than an hour behind it", iat+day, "clock_behind", with(func(c *vectorCheck) { c.HighWater = iat + day + 3601 })),
		at("the high-water mark is used as the time", exp-1800, "grace", with(func(c *vectorCheck) { c.HighWater = exp })),
		at("and cannot bring an expired lease back", ends-1, "expired", with(func(c *vectorCheck) { c.HighWater = ends })),
		at("a high-water mark in the past", exp, "grace", with(func(c *vectorCheck) { c.HighWater = iat })),
		at("the newest lease is this one", iat, "active", with(func(c *vectorCheck) { c.Newest = iat })),
		at("a newer lease was seen", iat, "older", with(func(c *vectorCheck) { c.Newest = iat + 1 })),
		at("an older lease was seen", iat, "active", with(func(c *vectorCheck) { c.Newest = iat - 1 })),
		at("the version that is covered", iat, "active", with(func(c *vectorCheck) { c.Version = "3.2" })),
		at("a later patch of it", iat, "active", with(func(c *vectorCheck) { c.Version = "3.2.99" })),
		at("an earlier version", iat, "active", with(func(c *vectorCheck) { c.Version = "3.1.9" })),
		at("a shorter version", iat, "active", with(func(c *vectorCheck) { c.Version = "3" })),
		at("a newer version", iat, "not_covered", with(func(c *vectorCheck) { c.Version = "3.3" })),
		at("a newer version by value and not by spelling", iat, "not_covered", with(func(c *vectorCheck) { c.Version = "3.10" })),
		at("a version that only looks newer", iat, "active", with(func(c *vectorCheck) { c.Version = "03.002.7" })),
		at("a version with a v and a preview", iat, "active", with(func(c *vectorCheck) { c.Version = "v3.2.1-beta.1+build.7" })),
		at("a preview of a newer version", iat, "not_covered", with(func(c *vectorCheck) { c.Version = "v3.3.0-beta.1" })),
		at("a version beyond any integer", iat, "not_covered", with(func(c *vectorCheck) { c.Version = "3.99999999999999999999999999" })),
		at("no version", iat, "not_covered", with(func(c *vectorCheck) { c.Version = "" })),
		at("a version without numbers", iat, "not_covered", with(func(c *vectorCheck) { c.Version = "(devel)" })),
		at("expired and not covered: expired", ends, "expired", with(func(c *vectorCheck) { c.Version = "4" })),
		at("clock behind and older: older", iat-301, "older", with(func(c *vectorCheck) { c.Newest = iat + 1 })),
	)
	later := good(`,"nbf":1796100000,"exp":1798592000`)
	l.good("one that starts later", sign(later), later,
		at("5 minutes before it starts", 1796100000-300, "active"),
		at("more than 5 minutes before it starts", 1796100000-301, "not_yet"),
		at("without grace it ends when it expires", exp, "expired"),
		at("a second before that", exp-1, "active"),
	)
	released := good(`,"rel":1796000000`)
	l.good("one for releases of a year", sign(released), released,
		at("released that day", iat, "active", with(func(c *vectorCheck) { c.Released = 1796000000 })),
		at("released later", iat, "not_covered", with(func(c *vectorCheck) { c.Released = 1796000001 })),
		at("no day of release", iat, "not_covered"),
	)
	trial := `{"kid":"` + vectorKID("first") + `","id":"L2","org":"` + vectorOrg + `","fp":"` + vectorMachine + `","iat":1796000000,"exp":1798592000,"trial":true}`
	l.good("a trial, which has no license key", sign(trial), trial, at("at once", iat, "active"))
	for name, more := range ordered(
		"the last second of the year 9999", `,"exp":253402300799`,
		"the longest grace", `,"exp":1798592000,"grace":315619200`,
		"escapes", `,"holder":"\"\\"`,
		"what other writers escape", `,"holder":"/<>&'é🙂�"`,
		"a holder of 100 bytes", `,"holder":"`+strings.Repeat("x", 100)+`"`,
		"100 features", `,"feat":["a"`+strings.Repeat(`,"a"`, 99)+`]`,
	) {
		l.good(name, sign(payloadWith(more)), payloadWith(more))
	}
	second := strings.Replace(good(""), vectorKID("first"), vectorKID("second"), 1)
	l.good("signed with the second pinned key", forged("v1", leaseDomain, second, "second"), second, at("at once", iat, "active"))

	// What is signed right, and still refused.
	for name, payload := range ordered(
		"a name twice", good(`,"exp":1798592000,"exp":1798592000`),
		"a name twice, with two values", good(`,"exp":1798592000,"exp":1798592001`),
		"kid twice", good(`,"kid":"`+vectorKID("second")+`"`),
		"a name with a capital", good(`,"Exp":1798592000`),
		"a name in both cases", good(`,"exp":1798592000,"EXP":1798592001`),
		"a name with a long s", good(`,"graſe":1`),
		"a name with a Kelvin sign", good(`,"\u212Aid":1`),
		"a name with an escape", good(`,"\u0065xp":1798592000`),
		"a claim that is not known", good(`,"future":"x"`),
		"claims in another order", good(`,"holder":"x","pool":"y"`),
		"features behind the time of issue", good(`,"feat":["export"]`),
		"a space between tokens", good(`, "exp":1798592000`),
		"a line break between tokens", good(",\n\"exp\":1798592000"),
		"a space in front", " "+good(""),
		"a space behind", good("")+" ",
		"bytes behind the object", good("")+"x",
		"a second object", good("")+good(""),
		"a NUL behind the object", good("")+"\x00",
		"a byte order mark", "\ufeff"+good(""),
		"an array", "["+good("")+"]",
		"kid that is not first", `{`+basic+`,"kid":"`+vectorKID("first")+`"}`,
		"no kid", `{`+basic+`}`,
		"a kid in capitals", strings.Replace(good(""), vectorKID("first"), strings.ToUpper(vectorKID("first")), 1),
		"a kid that goes on", strings.Replace(good(""), vectorKID("first"), vectorKID("first")+"0", 1),
		"an empty kid", strings.Replace(good(""), vectorKID("first"), "", 1),
		"a kid that does not end", `{"kid":"`+vectorKID("first"),
		"nothing", "",
		"an object that does not end", strings.TrimSuffix(good(""), "}"),
		"a comma behind the last member", good(`,`),
		"no comma", good(`"exp":1798592000`),
		"no value", good(`,"exp":`),
		"nested without end", good(`,"feat":`+strings.Repeat("[", 500)),
		"nested where nothing is", strings.Replace(good(""), `"L1"`, `{"a":"L1"}`, 1),
		"null", good(`,"exp":null`),
		"a trial that is none", good(`,"trial":false`),
		"true as a text", good(`,"trial":"true"`),
		"true as a number", good(`,"trial":1`),
		"true in capitals", good(`,"trial":True`),
		"a time as a text", good(`,"exp":"1798592000"`),
		"a time with a fraction", good(`,"exp":1798592000.0`),
		"a time with an exponent", good(`,"exp":1798592e3`),
		"a time with a plus", good(`,"exp":+1798592000`),
		"a time with a leading zero", good(`,"exp":01798592000`),
		"a negative time", good(`,"exp":-1`),
		"a time of zero", good(`,"exp":0`),
		"a time of minus zero", good(`,"exp":-0`),
		"a time beyond the year 9999", good(`,"exp":253402300800`),
		"a time of the largest int64", good(`,"exp":9223372036854775807`),
		"a time beyond int64", good(`,"exp":99999999999999999999999999`),
		"a time beyond a double", good(`,"exp":1e400`),
		"not a number", good(`,"exp":NaN`),
		"grace that goes beyond the year 9999", good(`,"exp":253402300799,"grace":1`),
		"grace without an end", good(`,"grace":604800`),
		"grace of zero", good(`,"exp":1798592000,"grace":0`),
		"negative grace", good(`,"exp":1798592000,"grace":-1`),
		"grace of more than 10 years", good(`,"exp":1798592000,"grace":315619201`),
		"grace that comes round again in nanoseconds", good(`,"exp":1798592000,"grace":18446744074`),
		"expires when it was issued", good(`,"exp":1796000000`),
		"expires when it starts", good(`,"nbf":1798592000,"exp":1798592000`),
		"an id as a number", strings.Replace(good(""), `"L1"`, `1`, 1),
		"an id with a space", strings.Replace(good(""), `"L1"`, `"L 1"`, 1),
		"an id with a letter of another script", strings.Replace(good(""), `"L1"`, `"Lа"`, 1),
		"an id of 65 characters", strings.Replace(good(""), `"L1"`, `"`+strings.Repeat("x", 65)+`"`, 1),
		"an empty text", good(`,"holder":""`),
		"a text of 101 bytes", good(`,"holder":"`+strings.Repeat("x", 101)+`"`),
		"a text of 99 characters and 101 bytes", good(`,"holder":"éé`+strings.Repeat("x", 97)+`"`),
		"a text that does not end", good(`,"holder":"x`),
		"a text in single quotes", good(`,"holder":'x'`),
		"a NUL by an escape", good(`,"holder":"a\u0000b"`),
		"a line break by an escape", good(`,"holder":"a\nb"`),
		"a line break", good(",\"holder\":\"a\nb\""),
		"a line separator", good(",\"holder\":\"a\u2028b\""),
		"a DEL", good(",\"holder\":\"a\x7fb\""),
		"a control character of two bytes", good(",\"holder\":\"a\u0085b\""),
		"an escape of a letter", good(`,"holder":"\u0041"`),
		"an escape of a slash", good(`,"holder":"\/"`),
		"an escape of a character outside the first plane", good(`,"holder":"\ud83d\ude42"`),
		"an escape that is not known", good(`,"holder":"\x41"`),
		"half a pair", good(`,"holder":"\ud83d"`),
		"a pair the wrong way round", good(`,"holder":"\ude42\ud83d"`),
		"broken UTF-8", good(",\"holder\":\"a\xffb\""),
		"UTF-8 that is longer than it needs to be", good(",\"holder\":\"a\xc0\xafb\""),
		"half a pair in UTF-8", good(",\"holder\":\"a\xed\xa0\xbdb\""),
		"features that are a text", payloadWith(`,"feat":"export"`),
		"features that are numbers", payloadWith(`,"feat":[1]`),
		"no features in a list", payloadWith(`,"feat":[]`),
		"a feature without a name", payloadWith(`,"feat":["export",""]`),
		"only a feature without a name", payloadWith(`,"feat":[""]`),
		"a feature that is null", payloadWith(`,"feat":["export",null]`),
		"101 features", payloadWith(`,"feat":["a"`+strings.Repeat(`,"a"`, 100)+`]`),
		"a feature of 101 bytes", payloadWith(`,"feat":["`+strings.Repeat("x", 101)+`"]`),
		"a list that does not end", payloadWith(`,"feat":["export"`),
		"a list with a comma too many", payloadWith(`,"feat":["export",]`),
		"a version without numbers", good(`,"cov":"next"`),
		"a version with an empty number", good(`,"cov":"3..2"`),
		"a version with a v", good(`,"cov":"v3"`),
		"a version with a preview", good(`,"cov":"3.0-beta"`),
		"a version with digits of another script", good(`,"cov":"３"`),
		"a fingerprint of 501 bytes", strings.Replace(good(""), vectorMachine, strings.Repeat("x", 501), 1),
		"no id", strings.Replace(good(""), `"id":"L1",`, ``, 1),
		"no organization", strings.Replace(good(""), `"org":"`+vectorOrg+`",`, ``, 1),
		"no fingerprint", strings.Replace(good(""), `"fp":"`+vectorMachine+`",`, ``, 1),
		"no time of issue", strings.Replace(good(""), `,"iat":1796000000`, ``, 1),
		"no benefit and no trial", strings.Replace(good(""), `"ben":"b0000000-0000-4000-8000-000000000001",`, ``, 1),
		"no license key and no trial", strings.Replace(good(""), `"lic":"c0000000-0000-4000-8000-000000000001",`, ``, 1),
	) {
		l.bad(name, sign(payload), ErrMalformed)
	}

	// What is not signed, or not with a pinned key.
	text := sign(good(""))
	begin, rest, _ := strings.Cut(text, ".")
	payload, signature, _ := strings.Cut(rest, ".")
	raw, err := base64.RawURLEncoding.DecodeString(signature)
	require.NoError(t, err)
	l.bad("signed with a key that is not pinned", forged("v1", leaseDomain, strings.Replace(good(""), vectorKID("first"), vectorKID("stranger"), 1), "stranger"), ErrUnknownSigner)
	l.bad("signed with a key that is not pinned, under the id of one that is", forged("v1", leaseDomain, good(""), "stranger"), ErrForged)
	l.bad("signed with one pinned key under the id of the other", forged("v1", leaseDomain, good(""), "second"), ErrForged)
	l.bad("signed as a request", forged("v1", requestDomain, good(""), "first"), ErrForged)
	l.bad("signed without a domain", forged("v1", "", good(""), "first"), ErrForged)
	l.bad("the signature of another lease", begin+"."+payload+"."+strings.Split(sign(good(`,"holder":"x"`)), ".")[2], ErrForged)
	l.bad("an edited payload", begin+"."+b64(strings.Replace(good(""), "L1", "L2", 1))+"."+signature, ErrForged)
	l.bad("an edited payload that is no JSON any more", begin+"."+b64(strings.Replace(good(""), "L1", "\xff\"", 1))+"."+signature, ErrForged)
	l.bad("a signature of zeros", begin+"."+payload+"."+b64(strings.Repeat("\x00", 64)), ErrForged)
	for _, i := range []int{0, 31, 32, 63} {
		other := slices.Clone(raw)
		other[i] ^= 1
		l.bad(fmt.Sprintf("bit 0 of byte %d of the signature flipped", i), begin+"."+payload+"."+b64(string(other)), ErrForged)
	}
	l.bad("a signature whose second half was added the order of the group", begin+"."+payload+"."+b64(string(addOrder(raw))), ErrForged)

	// What is not in the form of a lease.
	for name, text := range ordered(
		"an empty text", "",
		"a word", "lease",
		"only the version", "v1",
		"only dots", "..",
		"space in front", " "+text,
		"a line break behind", text+"\n",
		"a line break inside the payload", text[:20]+"\n"+text[20:],
		"a carriage return inside the signature", text[:len(text)-10]+"\r"+text[len(text)-10:],
		"a capital V", "V"+text[1:],
		"no version", rest,
		"no signature", begin+"."+payload,
		"an empty signature", begin+"."+payload+".",
		"an empty payload", begin+".."+signature,
		"a fourth part", text+".x",
		"a fourth, empty part", text+".",
		"a padded signature", text+"==",
		"a padded payload", begin+"."+base64.URLEncoding.EncodeToString([]byte(good(`,"holder":"ab"`)))+"."+signature,
		"the other base64", strings.NewReplacer("-", "+", "_", "/").Replace(sign(good(`,"holder":"??>>~~~???"`))),
		"base64 with bits that do not count in the payload", nonCanonical(begin, b64(good(`,"holder":"ab"`)), strings.Split(sign(good(`,"holder":"ab"`)), ".")[2], 1),
		"base64 with bits that do not count in the signature", nonCanonical(begin, payload, signature, 2),
		"a signature of 63 bytes", begin+"."+payload+"."+b64(string(raw[:63])),
		"a signature of 65 bytes", begin+"."+payload+"."+b64(string(raw)+"x"),
		"2049 bytes", tooLong(2049),
		"a request", summed("r1", requestDomain, request("")),
		"a receipt", summed("d1", receiptDomain, receipt("")),
		"letters that are no base64", begin+"."+"é"+payload[2:]+"."+signature,
	) {
		l.bad(name, text, ErrMalformed)
	}
	l.bad("version 1 in another way", "v01"+text[2:], ErrUnsupported)
	l.bad("version 2", "v2"+text[2:], ErrUnsupported)
	l.bad("version 10", "v10"+text[2:], ErrUnsupported)
	l.bad("version 2 of something quite different", "v2.x", ErrUnsupported)
	for i := range l.all {
		l.all[i].Pinned = []string{"first", "second"}
	}
	l.all = append(l.all, vector{Name: "no key is pinned", Text: text, Result: string(ErrUnknownSigner)})
	return vectorFile{
		About:   "Leases of version 1, good and bad. Every implementation must agree on each. See docs/lease-format.md. Never written anew.",
		Keys:    vectorPublics("first", "second", "stranger"),
		Vectors: l.all,
	}
}

const vectorSecret = "QWERTYUIOPASDFGHJKLZXCVBNM"

func request(more string) string {
	return `{"id":"Q1","iat":1796000000,"org":"` + vectorOrg + `","fp":"` + vectorMachine + `","rh":"` + ReceiptHash(NewSecret(vectorSecret)) + `"` + more + `}`
}

func receipt(more string) string {
	return `{"id":"D1","iat":1796000000,"org":"` + vectorOrg + `","lease":"L1"` + more + `,"fp":"` + vectorMachine + `","secret":"` + vectorSecret + `"}`
}

func summedVectors(t *testing.T, kind string) vectorFile {
	var l vectorList
	plain, domain, required := request, requestDomain, []string{"id", "iat", "org", "fp", "rh"}
	full := strings.NewReplacer(
		`,"fp"`, `,"key":"POLAR-1C285B2D-6CE6-4BC7-B8BE-ADB6A7E304DA","lease":"L1","last":1795000000,"fp"`,
		`}`, `,"app":"inkwell","ver":"3.2.1","label":"Zoë's <laptop>","borrow":604800}`,
	).Replace(request(""))
	other, about := summed("d1", receiptDomain, receipt("")), "Requests"
	if kind == "d1" {
		plain, domain, required = receipt, receiptDomain, []string{"id", "iat", "org", "lease", "fp", "secret"}
		full = receipt(`,"lic":"c0000000-0000-4000-8000-000000000001","act":"d0000000-0000-4000-8000-000000000001"`)
		other, about = summed("r1", requestDomain, request("")), "Receipts"
	}
	sum := func(payload string) string { return summed(kind, domain, payload) }
	l.good("only what is required", sum(plain("")), plain(""))
	l.good("every claim", sum(full), full)
	var members map[string]json.RawMessage
	require.NoError(t, json.Unmarshal([]byte(plain("")), &members))
	for _, name := range required {
		member := `"` + name + `":` + string(members[name])
		without := strings.Replace(strings.Replace(plain(""), ","+member, "", 1), member+",", "", 1)
		l.bad("no "+name, sum(without), ErrMalformed)
	}
	for name, payload := range ordered(
		"a claim that is not known", strings.Replace(plain(""), `}`, `,"future":1}`, 1),
		"a name twice", strings.Replace(plain(""), `"iat":1796000000`, `"iat":1796000000,"iat":1796000000`, 1),
		"a name with a capital", strings.Replace(plain(""), `"fp"`, `"FP"`, 1),
		"claims in another order", strings.Replace(plain(""), `1","iat":1796000000`, `1"`, 1)[:len(plain(""))-len(`,"iat":1796000000`)-1]+`,"iat":1796000000}`,
		"a space between tokens", strings.Replace(plain(""), `,`, `, `, 1),
		"bytes behind the object", plain("")+"x",
		"null", strings.Replace(plain(""), `1796000000`, `null`, 1),
		"a control character", strings.Replace(plain(""), vectorMachine, `a\u0007b`, 1),
		"broken UTF-8", strings.Replace(plain(""), vectorMachine, "a\xffb", 1),
		"a time of zero", strings.Replace(plain(""), "1796000000", "0", 1),
		"a time beyond the year 9999", strings.Replace(plain(""), "1796000000", "253402300800", 1),
		"an id with a dot", strings.Replace(plain(""), vectorOrg, "a.b", 1),
	) {
		l.bad(name, sum(payload), ErrMalformed)
	}
	if kind == "r1" {
		for name, payload := range ordered(
			"a key of 513 bytes", strings.Replace(plain(""), `,"fp"`, `,"key":"`+strings.Repeat("k", 513)+`","fp"`, 1),
			"an empty key", strings.Replace(plain(""), `,"fp"`, `,"key":"","fp"`, 1),
			"a label of 101 bytes", plain(`,"label":"`+strings.Repeat("k", 101)+`"`),
			"borrowing for no time", plain(`,"borrow":0`),
			"borrowing for more than 10 years", plain(`,"borrow":315619201`),
			"a newest lease of no time", strings.Replace(plain(""), `,"fp"`, `,"last":0,"fp"`, 1),
		) {
			l.bad(name, sum(payload), ErrMalformed)
		}
	}
	text := sum(plain(""))
	begin, rest, _ := strings.Cut(text, ".")
	payload, checksum, _ := strings.Cut(rest, ".")
	for name, text := range ordered(
		"an edited payload", begin+"."+b64(strings.Replace(plain(""), vectorMachine, "other", 1))+"."+checksum,
		"the checksum of another kind", summed(kind, leaseDomain, plain("")),
		"the checksum without a domain", summed(kind, "", plain("")),
		"an edited checksum", begin+"."+payload+"."+b64(strings.Repeat("\x00", 32)),
		"a signature for a checksum", forged(kind, domain, plain(""), "first"),
		"an empty text", "",
		"a lease", forged("v1", leaseDomain, good(""), "first"),
		"the other of the two", other,
		"a line break behind", text+"\n",
		"a padded checksum", text+"=",
		"a fourth part", text+".x",
		"no checksum", begin+"."+payload,
		"base64 with bits that do not count in the checksum", nonCanonical(begin, payload, checksum, 2),
	) {
		l.bad(name, text, ErrMalformed)
	}
	l.bad("version 2", kind[:1]+"2."+rest, ErrUnsupported)
	return vectorFile{
		About:   about + " of version 1, good and bad. Every implementation must agree on each. See docs/lease-format.md. Never written anew.",
		Vectors: l.all,
	}
}

func armorVectors() armorFile {
	text := forged("v1", leaseDomain, good(`,"holder":"-----"`), "first")
	other := forged("v1", leaseDomain, good(""), "first")
	question := summed("r1", requestDomain, request(""))
	utf16le := func(s string, bom string, order func(uint16) []byte) string {
		b := []byte(bom)
		for _, u := range utf16.Encode([]rune(s)) {
			b = append(b, order(u)...)
		}
		return string(b)
	}
	little := func(u uint16) []byte { return []byte{byte(u), byte(u >> 8)} }
	big := func(u uint16) []byte { return []byte{byte(u >> 8), byte(u)} }
	quoted := "> " + strings.ReplaceAll(strings.TrimSuffix(Armor(text), "\n"), "\n", "\n> ") + "\n"
	var all []armorVector
	add := func(name, data, result, kind string) {
		v := armorVector{Name: name, Kind: kind, Data: base64.StdEncoding.EncodeToString([]byte(data)), Result: "ok", Text: result}
		if result == "" {
			v.Result = string(ErrMalformed)
		}
		all = append(all, v)
	}
	add("armored", Armor(text), text, "v1")
	add("bare", text, text, "v1")
	add("bare, with space around it", "\n\t "+text+"\r\n\r\n", text, "v1")
	add("bare, wrapped by a mail program", text[:70]+"\r\n"+text[70:140]+" \n "+text[140:], text, "v1")
	add("bare, with characters that nobody sees", "\ufeff\u200b"+text[:50]+"\u00ad\u2028"+text[50:]+"\u00a0", text, "v1")
	add("with line ends of Windows", strings.ReplaceAll(Armor(text), "\n", "\r\n"), text, "v1")
	add("in a mail", "Hello,\n\nhere is your license:\n\n"+Armor(text)+"\nSave it as license.txt -- and open it.\n", text, "v1")
	add("in a reply", "Thanks!\n\nOn Monday, you wrote:\n"+quoted, text, "v1")
	add("all in one line", strings.ReplaceAll(Armor(text), "\n", " "), text, "v1")
	add("in UTF-16, little end first", utf16le(Armor(text), "\xff\xfe", little), text, "v1")
	add("in UTF-16, big end first", utf16le(Armor(text), "\xfe\xff", big), text, "v1")
	add("the same twice", Armor(text)+quoted, text, "v1")
	add("two of them", Armor(text)+Armor(other), "", "v1")
	add("a lease beside the request for it", Armor(question)+Armor(text), text, "v1")
	add("the request beside the lease", Armor(question)+Armor(text), question, "r1")
	add("another kind", Armor(question), "", "v1")
	add("without its last line", strings.Split(Armor(text), "-----END")[0], "", "v1")
	add("an empty file", "", "", "v1")
	add("only space", " \n\t", "", "v1")
	add("an armored nothing", "-----BEGIN POLARGATE LEASE-----\n-----END POLARGATE LEASE-----\n", "", "v1")
	add("another program's armor around it", "-----BEGIN PGP MESSAGE-----\n"+text, "-----BEGINPGPMESSAGE-----"+text, "v1")
	add("an edited text comes out as it is", strings.Replace(Armor(text), "-----\n", "-----\n!", 1), "!"+text, "v1")
	add("armor of another version of this", "-----BEGIN POLARGATE LICENSE-----\nv9.x.x\n-----END POLARGATE LICENSE-----\n", "", "v1")
	return armorFile{About: "What people save and paste, and what is to be found in it. See docs/lease-format.md. Never written anew.", Vectors: all}
}

// addOrder adds the order of Ed25519's group to the second half of a signature. To
// careless verifiers it is the same signature.
func addOrder(signature []byte) []byte {
	order, _ := new(big.Int).SetString("7237005577332262213973186563042994240857116359379907606001950938285454250989", 10)
	s := slices.Clone(signature[32:])
	slices.Reverse(s)
	sum := new(big.Int).Add(new(big.Int).SetBytes(s), order).FillBytes(make([]byte, 32))
	slices.Reverse(sum)
	return append(slices.Clone(signature[:32]), sum...)
}

// nonCanonical sets a bit of the last character of a part that stands for no byte.
func nonCanonical(begin, payload, signature string, part int) string {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	parts := []string{begin, payload, signature}
	last := parts[part][len(parts[part])-1]
	if len(parts[part])%4 == 0 {
		panic("every bit of it counts")
	}
	parts[part] = parts[part][:len(parts[part])-1] + string(alphabet[strings.IndexByte(alphabet, last)|1])
	return strings.Join(parts, ".")
}

// tooLong is a lease of that many bytes or one more that would be good otherwise.
func tooLong(size int) string {
	for fill := 1; ; fill++ {
		text := forged("v1", leaseDomain, payloadWith(`,"feat":["`+strings.Repeat("x", fill)+`"]`), "first")
		if len(text) >= size {
			return text
		}
	}
}

// ordered goes through names and values as they are written.
func ordered(pairs ...string) func(func(string, string) bool) {
	return func(yield func(string, string) bool) {
		for i := 0; i < len(pairs); i += 2 {
			if !yield(pairs[i], pairs[i+1]) {
				return
			}
		}
	}
}
