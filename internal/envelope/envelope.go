// Package envelope seals records for a store that others can read and write, and makes
// the names under which they are kept.
//
// It promises that what opens was sealed by a holder of the secret, for that name and
// that time, and that neither a name nor a record tells what it is about. It does not
// promise that a record is the last one: an older one, with its older time, can be put
// back. Without a secret it only tells records from garbage.
package envelope

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
)

// MaxPlain is the most that is sealed, in bytes.
const MaxPlain = 32 << 10

// Overhead is how much longer a sealed record is: its version, a nonce and a tag.
const Overhead = 1 + 12 + 16

// version is the first byte of what is sealed. Those up to lastVersion may be a later
// build's; whatever else begins a record is garbage.
const (
	version     = 1
	lastVersion = 15
)

var (
	// ErrUnreadable: these bytes were not sealed by a holder of the secret for that
	// name and time.
	ErrUnreadable = errors.New("a record that cannot be read")
	// ErrVersion: a version of records that this build does not know.
	ErrVersion = errors.New("a record of another version")
	// ErrTooLarge: more than MaxPlain bytes.
	ErrTooLarge = errors.New("too large for a record")
)

// Box seals with one secret. It is safe for use by many goroutines.
type Box struct {
	names, records []byte // keys that others are derived from
}

// New makes a box for one purpose, such as one organization's customers; those of
// another purpose are not readable with it. An empty secret is one that everybody knows.
func New(secret, purpose string) (*Box, error) {
	// Longer than any secret that FIPS 140 forbids for being short.
	root, err := hkdf.Extract(sha256.New, []byte("polargate shared secret\x00"+secret), []byte("polargate shared 1\x00"+purpose))
	if err != nil {
		return nil, err
	}
	var b Box
	if b.names, err = hkdf.Expand(sha256.New, root, "names", sha256.Size); err != nil {
		return nil, err
	}
	if b.records, err = hkdf.Expand(sha256.New, root, "records", sha256.Size); err != nil {
		return nil, err
	}
	return &b, nil
}

// Name is what a thing of that kind and id is called in the store: 32 letters, digits,
// "-" and "_", from which neither can be told without the secret.
func (b *Box) Name(kind, id string) string {
	mac := hmac.New(sha256.New, b.names)
	mac.Write([]byte{byte(len(kind))})
	mac.Write([]byte(kind))
	mac.Write([]byte(id))
	return base64.RawURLEncoding.EncodeToString(mac.Sum(nil)[:24])
}

// Seal closes a record for a name and a time, which are kept beside it in the open.
func (b *Box) Seal(name, at string, plain []byte) ([]byte, error) {
	if len(plain) > MaxPlain {
		return nil, ErrTooLarge
	}
	aead, err := b.aead(name)
	if err != nil {
		return nil, err
	}
	sealed := make([]byte, 1, len(plain)+Overhead)
	sealed[0] = version
	return aead.Seal(sealed, nil, plain, []byte(at)), nil
}

// Open gives what was sealed for a name and a time.
func (b *Box) Open(name, at string, sealed []byte) ([]byte, error) {
	switch {
	case len(sealed) == 0 || len(sealed) > MaxPlain+Overhead:
		return nil, ErrUnreadable
	case sealed[0] > version && sealed[0] <= lastVersion:
		return nil, ErrVersion
	case sealed[0] != version:
		return nil, ErrUnreadable
	}
	aead, err := b.aead(name)
	if err != nil {
		return nil, err
	}
	plain, err := aead.Open(nil, nil, sealed[1:], []byte(at))
	if err != nil {
		return nil, ErrUnreadable
	}
	return plain, nil
}

// aead has a key for each name, so that no key seals more than one thing's records,
// however many there are. It puts a random nonce of its own before what it seals.
func (b *Box) aead(name string) (cipher.AEAD, error) {
	key, err := hkdf.Expand(sha256.New, b.records, "record "+name, 32)
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCMWithRandomNonce(block)
}
