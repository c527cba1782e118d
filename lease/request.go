package lease

import (
	"crypto/sha256"
	"crypto/subtle"
	"time"
)

// A Request is what a program asks a vendor's server for a lease with.
type Request struct {
	// ID names the request, like Claims.ID [id]. Asking again with the same one is
	// harmless. Required.
	ID string
	// Made is when, by the clock of the computer, which may be wrong [iat]. Required.
	Made time.Time
	// OrganizationID is the vendor's organization, as Polar writes it [org]. Required.
	OrganizationID string
	// Key is the license key [key], of at most 512 bytes. A request without one asks
	// for a trial, or leaves it to the vendor's page to ask for the key.
	Key Secret
	// LeaseID is the ID of the lease that a program renews by itself [lease]. Empty when a
	// person asks, who may also activate the computer.
	LeaseID string
	// Newest is Claims.Issued of the newest lease that the program has seen, as in
	// Want.Newest: what is issued has to be later [last]. Zero if there is none.
	Newest time.Time
	// Fingerprint is that of the computer [fp]: 1 to 500 bytes. Required.
	Fingerprint string
	// ReceiptHash is the [ReceiptHash] of a secret that the program keeps, and shows
	// in the Receipt [rh]. Required.
	ReceiptHash string
	// App and Version name the program [app, ver], and Label is what the customer
	// knows the computer by [label]. At most 100 bytes each; may be empty.
	App, Version, Label string
	// Borrow asks for a floating lease that lasts so long without a renewal
	// [borrow]; zero for the usual time.
	Borrow time.Duration
}

// A Receipt is a program's word that it has deactivated itself on a computer and
// thrown its lease away, so that the activation can be given to another.
//
// It is proven by the secret in it, whose hash was in the request. Not even a person who has
// the license key, the lease and the request can make up that secret, and once it is shown,
// it is good for nothing else.
type Receipt struct {
	// ID names the receipt, like Claims.ID [id]. Required.
	ID string
	// Made is when, by the clock of the computer, which may be wrong [iat]. Required.
	Made time.Time
	// OrganizationID, LeaseID and Fingerprint are those of the lease [org, lease,
	// fp]. Required.
	OrganizationID, LeaseID, Fingerprint string
	// LicenseKeyID and ActivationID are those of the lease [lic, act]; empty if it
	// had none.
	LicenseKeyID, ActivationID string
	// Secret is what Request.ReceiptHash was made of [secret]. Required.
	Secret Secret
}

// ReceiptHash is the hash of a secret as it stands in a request. crypto/rand.Text
// makes good secrets: a new one for each activation.
func ReceiptHash(secret Secret) string {
	sum := sha256.Sum256([]byte("polargate receipt secret v1\x00" + secret.Reveal()))
	return base64url(sum[:])
}

// Proves reports whether the receipt is of the computer whose request had this
// Request.ReceiptHash.
func (d Receipt) Proves(receiptHash string) bool {
	return subtle.ConstantTimeCompare([]byte(ReceiptHash(d.Secret)), []byte(receiptHash)) == 1
}

var requestSpecs = []spec{
	{"id", requiredID, maxID},
	{"iat", required, 0},
	{"org", requiredID, maxID},
	{"key", optional, maxKey},
	{"lease", optionalID, maxID},
	{"last", optional, 0},
	{"fp", required, maxMachine},
	{"rh", requiredID, maxID},
	{"app", optional, maxWord},
	{"ver", optional, maxWord},
	{"label", optional, maxWord},
	{"borrow", optional, 0},
}

func (q *Request) values() []any {
	return []any{
		&q.ID, &q.Made, &q.OrganizationID, &q.Key, &q.LeaseID, &q.Newest, &q.Fingerprint, &q.ReceiptHash,
		&q.App, &q.Version, &q.Label, &q.Borrow,
	}
}

var receiptSpecs = []spec{
	{"id", requiredID, maxID},
	{"iat", required, 0},
	{"org", requiredID, maxID},
	{"lease", requiredID, maxID},
	{"lic", optionalID, maxID},
	{"act", optionalID, maxID},
	{"fp", required, maxMachine},
	{"secret", requiredID, maxID},
}

func (d *Receipt) values() []any {
	return []any{&d.ID, &d.Made, &d.OrganizationID, &d.LeaseID, &d.LicenseKeyID, &d.ActivationID, &d.Fingerprint, &d.Secret}
}

// Encode writes a request. What is missing or too long in it is an *Error with
// ErrMalformed.
func (q Request) Encode() (string, error) { return encodeText(KindRequest, requestSpecs, q.values()) }

// Encode writes a receipt; see [Request.Encode]. Throw the lease away first: the
// receipt says that it is gone.
func (d Receipt) Encode() (string, error) { return encodeText(KindReceipt, receiptSpecs, d.values()) }

// ParseRequest reads a request. Its third part shows only that nothing got lost on
// the way: anybody can make a request. The errors are an *Error with ErrMalformed or
// ErrUnsupported.
func ParseRequest(text string) (Request, error) {
	var q Request
	if err := decodeText(KindRequest, text, requestSpecs, q.values()); err != nil {
		return Request{}, err
	}
	return q, nil
}

// ParseReceipt reads a receipt; see [ParseRequest]. Whether it is believed is for
// [Receipt.Proves] to say.
func ParseReceipt(text string) (Receipt, error) {
	var d Receipt
	if err := decodeText(KindReceipt, text, receiptSpecs, d.values()); err != nil {
		return Receipt{}, err
	}
	return d, nil
}

func encodeText(kind Kind, specs []spec, values []any) (string, error) {
	payload, problem := encode(specs, values)
	if problem != "" {
		return "", malformed(problem)
	}
	sum := sha256.Sum256(kind.message(payload))
	return kind.join(payload, sum[:])
}

func decodeText(kind Kind, text string, specs []spec, values []any) error {
	payload, sum, err := kind.split(text)
	if err != nil {
		return err
	}
	if sha256.Sum256(kind.message(string(payload))) != [sha256.Size]byte(sum) {
		return malformed("its checksum does not fit")
	}
	return decode(payload, specs, values)
}
