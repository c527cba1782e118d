package lease

import (
	"crypto"
	"crypto/ed25519"
	"errors"
	"strings"
	"time"
)

// Claims are what a lease says. Times are kept in whole seconds: what Sign is given
// is rounded down. The names in brackets are those of docs/lease-format.md, which
// errors use too.
type Claims struct {
	// ID names the lease [id]: 1 to 64 letters, digits, dashes and underscores, never
	// used twice. crypto/rand.Text makes one. Required.
	ID string
	// OrganizationID is the vendor's organization, as Polar writes it [org]. Required.
	OrganizationID string
	// BenefitID is the benefit that the license is of [ben], and LicenseKeyID is the
	// id of the license key, never the key itself [lic]. Both are required, except
	// of a Trial.
	BenefitID, LicenseKeyID string
	// ActivationID is the activation at Polar that the lease stands for [act]; empty
	// if there is none.
	ActivationID string
	// Fingerprint is the computer that the lease is for [fp]: 1 to 500 bytes. Required.
	Fingerprint string
	// Features are what the lease unlocks, beside what the program unlocks for the
	// benefit [feat]: up to 100, of 1 to 100 bytes each. May be empty.
	Features []string
	// Issued is when the lease was signed [iat]. Required. An issuer makes it later
	// than that of the lease before, since it says which of two is the newer one.
	Issued time.Time
	// NotBefore is when it starts [nbf]; zero means at Issued.
	NotBefore time.Time
	// Expires is when it has to be renewed [exp]; zero means never.
	Expires time.Time
	// Grace is how long it counts beyond Expires, for a program that cannot reach
	// the issuer [grace]: at most 10 years. Not of a lease that never expires.
	Grace time.Duration
	// Covers is the newest version of the program that the lease is for, such as
	// "3" or "3.2": with it all that begin so, 3.2.1 too [cov]. Empty means every
	// version.
	Covers string
	// CoversReleased is until when the program's releases are covered, for licenses
	// with so many months of updates [rel]. Zero means every release.
	CoversReleased time.Time
	// Trial marks a lease that was issued without a license key [trial].
	Trial bool
	// Pool and Holder are of a floating lease: the pool that it was taken from
	// [pool], and who holds it [holder]. At most 100 bytes each; may be empty.
	Pool, Holder string
}

// A Lease is a text that Keys.Verify found to be genuine.
type Lease struct {
	Claims
	// KeyID is the KeyID of the key that signed it.
	KeyID string
	// Text is the lease as it was read. It is no secret, but does not belong in a
	// log: it names a customer's license key by id.
	Text string
}

// Ends is when a lease stops counting, grace included; zero means never.
func (c Claims) Ends() time.Time {
	if c.Expires.IsZero() {
		return time.Time{}
	}
	return c.Expires.Add(c.Grace)
}

// RenewAt is when to ask for the next lease: at half of the time between Issued and
// Expires. Zero means never.
func (c Claims) RenewAt() time.Time {
	if c.Expires.IsZero() {
		return time.Time{}
	}
	return c.Issued.Add(c.Expires.Sub(c.Issued) / 2)
}

var leaseSpecs = []spec{
	{"kid", requiredID, maxID},
	{"id", requiredID, maxID},
	{"org", requiredID, maxID},
	{"ben", optionalID, maxID},
	{"lic", optionalID, maxID},
	{"act", optionalID, maxID},
	{"fp", required, maxMachine},
	{"feat", optional, maxWord},
	{"iat", required, 0},
	{"nbf", optional, 0},
	{"exp", optional, 0},
	{"grace", optional, 0},
	{"cov", optionalVersion, maxID},
	{"rel", optional, 0},
	{"trial", optional, 0},
	{"pool", optional, maxWord},
	{"holder", optional, maxWord},
}

func (l *Lease) values() []any {
	return []any{
		&l.KeyID, &l.ID, &l.OrganizationID, &l.BenefitID, &l.LicenseKeyID, &l.ActivationID, &l.Fingerprint, &l.Features,
		&l.Issued, &l.NotBefore, &l.Expires, &l.Grace, &l.Covers, &l.CoversReleased, &l.Trial, &l.Pool, &l.Holder,
	}
}

// contradiction says which claims do not go together; "" if all do.
func (l *Lease) contradiction() string {
	exp, grace := seconds(l.Expires), int64(l.Grace/time.Second)
	switch {
	case !l.Trial && (l.BenefitID == "" || l.LicenseKeyID == ""):
		return "claims ben and lic are missing, and it is no trial"
	case exp == 0 && grace > 0:
		return "claim grace is of no use without exp"
	case exp != 0 && exp <= max(seconds(l.Issued), seconds(l.NotBefore)):
		return "claim exp is not after iat and nbf"
	case exp+grace > maxTime:
		return "claim grace ends after the year 9999"
	}
	return ""
}

// Sign makes a lease. key is usually an ed25519.PrivateKey; a crypto.Signer with an
// Ed25519 key of a hardware module or a cloud's key store will do. Claims that are
// missing, too long or contradict each other are an *Error with ErrMalformed.
//
// Ed25519 is deterministic: the same claims always make the same text. The signature
// is checked before it is handed out, since a faulty signer, or a private key whose
// halves do not belong together, could give the key away by a wrong one.
func Sign(key crypto.Signer, claims Claims) (string, error) {
	public, err := publicOf(key)
	if err != nil {
		return "", err
	}
	l := Lease{Claims: claims, KeyID: KeyID(public)}
	payload, problem := encode(leaseSpecs, l.values())
	if problem == "" {
		problem = l.contradiction()
	}
	if problem != "" {
		return "", malformed(problem)
	}
	message := KindLease.message(payload)
	signature, err := key.Sign(nil, message, crypto.Hash(0))
	if err != nil {
		return "", err
	}
	if !ed25519.Verify(public, message, signature) {
		return "", errors.New("lease: the signer made a signature that does not fit its public key")
	}
	return KindLease.join(payload, signature)
}

// kidBegin is how the payload of a lease begins. The id of the key follows, so that
// it is found without reading JSON whose signature wasn't checked.
const kidBegin = `{"kid":"`

// Verify checks that a text is a lease that one of the keys signed, and reads it.
// Whether it counts here and now is for [Lease.Check] to say. The text has to be
// exact: use [Unarmor] first for what a person pasted or saved.
//
// The errors are an *Error with ErrMalformed, ErrUnsupported, ErrUnknownSigner or
// ErrForged. None of them says anything about a license.
func (k Keys) Verify(text string) (Lease, error) {
	l := Lease{Text: text}
	if err := k.open(&l); err != nil {
		return Lease{}, err
	}
	return l, nil
}

// open reads the text of a lease.
func (k Keys) open(l *Lease) error {
	payload, signature, err := KindLease.split(l.Text)
	if err != nil {
		return err
	}
	id, ok := strings.CutPrefix(string(payload), kidBegin)
	end := strings.IndexByte(id, '"')
	if !ok || end < 0 {
		return malformed("the key is not named first")
	}
	public, err := k.find(id[:end])
	if err != nil {
		return err
	}
	if !ed25519.Verify(public, KindLease.message(string(payload)), signature) {
		return &Error{ErrForged, ""}
	}
	if err := decode(payload, leaseSpecs, l.values()); err != nil {
		return err
	}
	if problem := l.contradiction(); problem != "" {
		return malformed(problem)
	}
	return nil
}
