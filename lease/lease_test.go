package lease

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"io"
	mathrand "math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

var issued = time.Unix(vectorIssued, 0).UTC()

// usual are the claims of a lease as a shop has them.
func usual() Claims {
	return Claims{
		ID: "QWERTYUIOPASDFGHJKLZXCVBNM", OrganizationID: vectorOrg,
		BenefitID: "b0000000-0000-4000-8000-000000000001", LicenseKeyID: "c0000000-0000-4000-8000-000000000001",
		ActivationID: "d0000000-0000-4000-8000-000000000001", Fingerprint: vectorMachine,
		Features: []string{"export", "sync", "cloud", "teams", "api", "sso", "audit-log", "plugins", "themes", "priority"},
		Issued:   issued, Expires: issued.Add(30 * 24 * time.Hour), Grace: 7 * 24 * time.Hour, Covers: "3.2",
	}
}

func pinned(t testing.TB, names ...string) Keys {
	t.Helper()
	var public []ed25519.PublicKey
	for _, name := range names {
		public = append(public, vectorKey(name).Public().(ed25519.PublicKey))
	}
	keys, err := NewKeys(public...)
	require.NoError(t, err)
	return keys
}

func TestALeaseWithTenFeaturesHasAtMost700Bytes(t *testing.T) {
	t.Parallel()
	text, err := Sign(vectorKey("first"), usual())
	require.NoError(t, err)
	assert.LessOrEqual(t, len(text), 700)
	t.Logf("%d bytes; armored %d", len(text), len(Armor(text)))
}

// randomClaims are claims that Sign has to take.
func randomClaims(r *mathrand.Rand) Claims {
	id := func() string {
		b := make([]byte, 1+r.IntN(40))
		for i := range b {
			b[i] = "abcXYZ019-_"[r.IntN(11)]
		}
		return string(b)
	}
	word := func() string {
		var b strings.Builder
		for range 1 + r.IntN(12) {
			b.WriteRune([]rune(`aZ09 "\/<>&'{}[]:,é漢🙂�` + "\u00ad\u00a0")[r.IntN(24)])
		}
		return b.String()
	}
	when := func() time.Time { return time.Unix(1+r.Int64N(maxTime/2), 0).UTC() }
	maybe := func() bool { return r.IntN(2) == 0 }
	c := Claims{ID: id(), OrganizationID: id(), Fingerprint: word(), Issued: when(), Trial: maybe()}
	if !c.Trial || maybe() {
		c.BenefitID, c.LicenseKeyID = id(), id()
	}
	if maybe() {
		c.ActivationID, c.Pool, c.Holder = id(), word(), word()
	}
	for range r.IntN(12) {
		c.Features = append(c.Features, word())
	}
	if maybe() {
		c.NotBefore = when()
	}
	if maybe() {
		later := c.Issued
		if c.NotBefore.After(later) {
			later = c.NotBefore
		}
		c.Expires = later.Add(time.Duration(1+r.IntN(1e9)) * time.Second)
		c.Grace = time.Duration(r.IntN(1e8)) * time.Second
	}
	if maybe() {
		c.Covers, c.CoversReleased = "0.10.2", when()
	}
	return c
}

func TestWhatIsSignedIsReadBackAsItWas(t *testing.T) {
	t.Parallel()
	r := mathrand.New(mathrand.NewPCG(1, 2))
	keys := pinned(t, "first")
	for range 2000 {
		claims := randomClaims(r)
		text, err := Sign(vectorKey("first"), claims)
		require.NoError(t, err, "%+v", claims)
		held, err := keys.Verify(text)
		require.NoError(t, err, "%+v", claims)
		require.Equal(t, claims, held.Claims)
		again, err := Sign(vectorKey("first"), held.Claims)
		require.NoError(t, err)
		require.Equal(t, text, again, "the same claims make the same text")
		back, err := Unarmor([]byte(Armor(text)), KindLease)
		require.NoError(t, err)
		require.Equal(t, text, back)
	}
}

func TestTimesAreRoundedDownToTheSecond(t *testing.T) {
	t.Parallel()
	claims := usual()
	zone := time.FixedZone("", 3*3600)
	claims.Issued = issued.Add(999 * time.Millisecond).In(zone)
	claims.Expires = claims.Expires.Add(time.Nanosecond)
	claims.Grace += 900 * time.Millisecond
	text, err := Sign(vectorKey("first"), claims)
	require.NoError(t, err)
	held, err := pinned(t, "first").Verify(text)
	require.NoError(t, err)
	assert.Equal(t, usual(), held.Claims)
}

func TestAWholeLifeOfALease(t *testing.T) {
	t.Parallel()
	claims := usual()
	assert.Equal(t, issued.Add(15*24*time.Hour), claims.RenewAt(), "half of it")
	assert.Equal(t, issued.Add(37*24*time.Hour), claims.Ends())
	claims.Expires = time.Time{}
	assert.True(t, claims.RenewAt().IsZero())
	assert.True(t, claims.Ends().IsZero())
}

func TestClaimsThatNobodyCouldReadAreNotSigned(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*Claims){
		"no id":                       func(c *Claims) { c.ID = "" },
		"an id with a dot":            func(c *Claims) { c.ID = "a.b" },
		"a long id":                   func(c *Claims) { c.ActivationID = strings.Repeat("x", 65) },
		"no organization":             func(c *Claims) { c.OrganizationID = "" },
		"no benefit":                  func(c *Claims) { c.BenefitID = "" },
		"no license key":              func(c *Claims) { c.LicenseKeyID = "" },
		"no fingerprint":              func(c *Claims) { c.Fingerprint = "" },
		"a fingerprint with a NUL":    func(c *Claims) { c.Fingerprint = "a\x00" },
		"a fingerprint of 501 bytes":  func(c *Claims) { c.Fingerprint = strings.Repeat("x", 501) },
		"no time of issue":            func(c *Claims) { c.Issued = time.Time{} },
		"issued before 1970":          func(c *Claims) { c.Issued = time.Unix(-1, 0) },
		"issued in 1970, at the zero": func(c *Claims) { c.Issued = time.Unix(0, 0) },
		"expires before it starts":    func(c *Claims) { c.NotBefore = c.Expires },
		"expires within a second":     func(c *Claims) { c.Expires = c.Issued.Add(999 * time.Millisecond) },
		"never as the end of time":    func(c *Claims) { c.Expires = time.Unix(1<<62, 0) },
		"the year 10000":              func(c *Claims) { c.Expires = time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC) },
		"grace into the year 10000":   func(c *Claims) { c.Expires = time.Date(9999, 12, 31, 0, 0, 0, 0, time.UTC) },
		"negative grace":              func(c *Claims) { c.Grace = -time.Second },
		"grace for 11 years":          func(c *Claims) { c.Grace = 11 * 366 * 24 * time.Hour },
		"grace without an end":        func(c *Claims) { c.Expires = time.Time{} },
		"a version of words":          func(c *Claims) { c.Covers = "latest" },
		"an old release":              func(c *Claims) { c.CoversReleased = time.Unix(-1, 0) },
		"a feature without a name":    func(c *Claims) { c.Features = []string{""} },
		"a long feature":              func(c *Claims) { c.Features = []string{strings.Repeat("x", 101)} },
		"a feature of two lines":      func(c *Claims) { c.Features = []string{"a\nb"} },
		"broken UTF-8":                func(c *Claims) { c.Holder = "\xff" },
		"half a pair":                 func(c *Claims) { c.Pool = "\xed\xa0\xbd" },
		"101 features":                func(c *Claims) { c.Features = make([]string, 101) },
		"more than 2048 bytes":        func(c *Claims) { c.Features = strings.Split(strings.Repeat(strings.Repeat("x", 30)+" ", 60), " ")[:60] },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			claims := usual()
			change(&claims)
			text, err := Sign(vectorKey("first"), claims)
			assert.ErrorIs(t, err, ErrMalformed)
			assert.Empty(t, text)
		})
	}
}

func TestEveryChangedOrMissingByteOfALeaseIsNoticed(t *testing.T) {
	t.Parallel()
	keys := pinned(t, "first", "second")
	text, err := Sign(vectorKey("first"), usual())
	require.NoError(t, err)
	for i := range text {
		_, err := keys.Verify(text[:i])
		require.Error(t, err, "cut off after %d bytes", i)
		_, err = keys.Verify(text[:i] + text[i+1:])
		require.Error(t, err, "byte %d left out", i)
		for _, c := range []byte{text[i] ^ 1, text[i] ^ 4, 'A', '_', '.', 0, ' '} {
			if c == text[i] {
				continue
			}
			_, err = keys.Verify(text[:i] + string(rune(c)) + text[i+1:])
			require.Error(t, err, "byte %d is %q", i, c)
		}
	}
}

func TestBothPinnedKeysAreGoodAndAStolenOneIsNotOnceItIsUnpinned(t *testing.T) {
	t.Parallel()
	old, err := Sign(vectorKey("first"), usual())
	require.NoError(t, err)
	young, err := Sign(vectorKey("second"), usual())
	require.NoError(t, err)
	before, after := pinned(t, "first", "second"), pinned(t, "second", "third")
	for _, text := range []string{old, young} {
		_, err := before.Verify(text)
		require.NoError(t, err)
	}
	_, err = after.Verify(young)
	require.NoError(t, err)
	_, err = after.Verify(old)
	assert.ErrorIs(t, err, ErrUnknownSigner)
	assert.ErrorContains(t, err, KeyID(vectorKey("first").Public().(ed25519.PublicKey)), "support wants to know which")
}

// odd is a signer in another place, with something wrong about it.
type odd struct {
	public    crypto.PublicKey
	signature []byte
	err       error
}

func (o odd) Public() crypto.PublicKey { return o.public }

func (o odd) Sign(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) { return o.signature, o.err }

// remote is a signer as a key store in a cloud is one.
type remote struct{ ed25519.PrivateKey }

func TestAnySignerWithAnEd25519KeySignsAndAWrongSignatureIsNotHandedOut(t *testing.T) {
	t.Parallel()
	first := vectorKey("first").Public()
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	crossed := append(vectorKey("first")[:32:32], vectorKey("second")[32:]...)
	for name, signer := range map[string]crypto.Signer{
		"nothing":                         nil,
		"another curve":                   ec,
		"a key that is too short":         ed25519.PrivateKey{1, 2, 3},
		"no key":                          ed25519.PrivateKey(nil),
		"halves of two keys":              crossed,
		"a signer that is away":           odd{first, nil, io.ErrUnexpectedEOF},
		"a signer that says nothing":      odd{first, nil, nil},
		"a signer that says nonsense":     odd{first, make([]byte, 64), nil},
		"a signer with a key of zeros":    odd{make(ed25519.PublicKey, 32), make([]byte, 64), nil},
		"a signer with half a public key": odd{first.(ed25519.PublicKey)[:16], make([]byte, 64), nil},
	} {
		text, err := Sign(signer, usual())
		assert.Error(t, err, name)
		assert.Empty(t, text, name)
	}
	there, err := Sign(remote{vectorKey("first")}, usual())
	require.NoError(t, err)
	here, err := Sign(vectorKey("first"), usual())
	require.NoError(t, err)
	assert.Equal(t, here, there)
}

func TestEveryReasonSaysWhatIsTheMatterAndWhatToDo(t *testing.T) {
	t.Parallel()
	for _, r := range []Reason{
		ErrMalformed, ErrUnsupported, ErrUnknownSigner, ErrForged, ErrWrongOrganization, ErrOtherMachine,
		ErrOlder, ErrClockBehind, ErrNotYet, ErrExpired, ErrNotCovered,
	} {
		what, do := r.words()
		assert.NotEqual(t, string(r), what)
		assert.NotEmpty(t, do, r)
		err := error(&Error{r, "a detail"})
		assert.ErrorIs(t, err, r)
		assert.Contains(t, err.Error(), r.Error())
		assert.Contains(t, err.Error(), "(a detail). "+do)
	}
	assert.Equal(t, "lease: strange", Reason("strange").Error())
}

// FuzzPayload signs whatever it is given. What is taken must be JSON that reads the
// same to the standard library, and must survive being signed again.
func FuzzPayload(f *testing.F) {
	var file vectorFile
	readVectors(f, "v1.json", &file)
	for _, v := range file.Vectors {
		if payload, _, err := KindLease.split(v.Text); err == nil {
			f.Add(bytes.TrimPrefix(payload, []byte(kidBegin+vectorKID("first")+`"`)))
		}
	}
	keys := pinned(f, "first")
	f.Fuzz(func(t *testing.T, rest []byte) {
		payload := kidBegin + vectorKID("first") + `"` + string(rest)
		text := forged("v1", leaseDomain, payload, "first")
		held, err := keys.Verify(text)
		if err != nil {
			assert.Equal(t, Lease{}, held)
			return
		}
		var other struct {
			ID, Org, Ben, Lic, Act, Fp, Cov, Pool, Holder string
			Feat                                          []string
			Iat, Nbf, Exp, Grace, Rel                     int64
			Trial                                         bool
		}
		require.NoError(t, json.Unmarshal([]byte(payload), &other), "%q", payload)
		assert.Equal(t, other.ID, held.ID)
		assert.Equal(t, other.Org, held.OrganizationID)
		assert.Equal(t, other.Ben, held.BenefitID)
		assert.Equal(t, other.Lic, held.LicenseKeyID)
		assert.Equal(t, other.Act, held.ActivationID)
		assert.Equal(t, other.Fp, held.Fingerprint)
		assert.Equal(t, other.Cov, held.Covers)
		assert.Equal(t, other.Pool, held.Pool)
		assert.Equal(t, other.Holder, held.Holder)
		assert.Equal(t, other.Feat, held.Features)
		assert.Equal(t, []int64{other.Iat, other.Nbf, other.Exp, other.Grace, other.Rel},
			[]int64{seconds(held.Issued), seconds(held.NotBefore), seconds(held.Expires), int64(held.Grace / time.Second), seconds(held.CoversReleased)})
		assert.Equal(t, other.Trial, held.Trial)

		again, err := Sign(vectorKey("first"), held.Claims)
		require.NoError(t, err)
		assert.Equal(t, text, again, "there is one way to write it")
	})
}

// FuzzText reads whatever it is given as each kind of text. Nothing is signed, so
// nothing but what a key of the vectors signed is ever taken.
func FuzzText(f *testing.F) {
	taken := map[string]bool{}
	var file vectorFile
	for _, name := range []string{"v1.json", "r1.json", "d1.json"} {
		readVectors(f, name, &file)
		for _, v := range file.Vectors {
			f.Add(v.Text)
			taken[v.Text] = taken[v.Text] || v.Result == "ok"
		}
	}
	keys := pinned(f, "first", "second")
	f.Fuzz(func(t *testing.T, text string) {
		_, err1 := keys.Verify(text)
		_, err2 := ParseRequest(text)
		_, err3 := ParseReceipt(text)
		if err1 == nil && !taken[text] {
			t.Fatalf("a text that nobody signed is taken: %q", text)
		}
		for _, err := range []error{err1, err2, err3} {
			if err != nil {
				_ = err.(*Error)
			}
		}
	})
}

func BenchmarkVerifyAndCheck(b *testing.B) {
	keys := pinned(b, "second", "first")
	text, err := Sign(vectorKey("first"), usual())
	require.NoError(b, err)
	want := Want{OrganizationID: vectorOrg, Fingerprint: vectorMachine, Version: "3.2.1", HighWater: issued, Newest: issued}
	b.ReportAllocs()
	for b.Loop() {
		held, err := keys.Verify(text)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := held.Check(issued.Add(time.Hour), want); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(len(text)), "bytes/lease")
}

// BenchmarkBareSignature is what no check can do without, on the computer that the
// other benchmarks run on.
func BenchmarkBareSignature(b *testing.B) {
	text, err := Sign(vectorKey("first"), usual())
	require.NoError(b, err)
	payload, signature, err := KindLease.split(text)
	require.NoError(b, err)
	message := KindLease.message(string(payload))
	public := vectorKey("first").Public().(ed25519.PublicKey)
	for b.Loop() {
		if !ed25519.Verify(public, message, signature) {
			b.Fatal("it does not fit")
		}
	}
}

func BenchmarkCheck(b *testing.B) {
	text, err := Sign(vectorKey("first"), usual())
	require.NoError(b, err)
	held, err := pinned(b, "first").Verify(text)
	require.NoError(b, err)
	want := Want{OrganizationID: vectorOrg, Fingerprint: vectorMachine, Version: "3.2.1", HighWater: issued, Newest: issued}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := held.Check(issued.Add(time.Hour), want); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkSign(b *testing.B) {
	claims, key := usual(), vectorKey("first")
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Sign(key, claims); err != nil {
			b.Fatal(err)
		}
	}
}
