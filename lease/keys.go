package lease

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"strings"
)

// KeyID is the short name by which a lease says who signed it: the first 6 bytes of
// the SHA-256 of the public key, as 12 hexadecimal digits. It only tells keys apart;
// nothing is believed because of it.
func KeyID(public ed25519.PublicKey) string {
	sum := sha256.Sum256(public)
	return hex.EncodeToString(sum[:keyIDSize/2])
}

const keyIDSize = 12

// Keys are the public keys that a program accepts leases of. The zero value accepts
// none.
type Keys struct{ pinned []ed25519.PublicKey }

// NewKeys pins public keys: usually two, the one in use and the one that comes after
// it, and 8 at most. It refuses what is no public key, and those few keys for which
// anybody can make a signature, such as one of 32 zero bytes.
func NewKeys(public ...ed25519.PublicKey) (Keys, error) {
	if len(public) > 8 {
		return Keys{}, errors.New("lease: more than 8 keys: pin the one in use and the one that comes after it")
	}
	var keys Keys
	for _, key := range public {
		if !usable(key) {
			return Keys{}, errNotPublic
		}
		keys.pinned = append(keys.pinned, bytes.Clone(key))
	}
	return keys, nil
}

// find gives the key of an id that a lease names.
func (k Keys) find(id string) (ed25519.PublicKey, error) {
	for _, key := range k.pinned {
		if KeyID(key) == id {
			return key, nil
		}
	}
	if len(id) != keyIDSize || strings.Trim(id, "0123456789abcdef") != "" {
		return nil, malformed("the key is not named by 12 hexadecimal digits")
	}
	return nil, &Error{ErrUnknownSigner, "key " + id}
}

var errNotPublic = errors.New("lease: not an Ed25519 public key: use the one that polargate-keygen shows")

// usable reports whether a key is one, and none of those for which anybody can make
// signatures: the points of small order.
func usable(key ed25519.PublicKey) bool {
	if len(key) != ed25519.PublicKeySize {
		return false
	}
	for _, y := range smallOrder {
		if y[:31] == string(key[:31]) && y[31] == key[31]&0x7f { // the top bit is the sign of x
			return false
		}
	}
	return true
}

// smallOrder has the y of the points of orders 1, 2, 4 and 8, and the two of these
// that can be written a second way.
var smallOrder = [...]string{
	"\x01" + zeros31,
	"\xec" + ones30 + "\x7f",
	"\x00" + zeros31,
	"\x26\xe8\x95\x8f\xc2\xb2\x27\xb0\x45\xc3\xf4\x89\xf2\xef\x98\xf0\xd5\xdf\xac\x05\xd3\xc6\x33\x39\xb1\x38\x02\x88\x6d\x53\xfc\x05",
	"\xc7\x17\x6a\x70\x3d\x4d\xd8\x4f\xba\x3c\x0b\x76\x0d\x10\x67\x0f\x2a\x20\x53\xfa\x2c\x39\xcc\xc6\x4e\xc7\xfd\x77\x92\xac\x03\x7a",
	"\xed" + ones30 + "\x7f",
	"\xee" + ones30 + "\x7f",
}

const (
	zeros31 = "\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
	ones30  = "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"
)

// ParsePublicKey reads a public key as polargate-keygen shows it: 43 characters of
// base64url. Space around it does not count.
func ParsePublicKey(text string) (ed25519.PublicKey, error) {
	key := ed25519.PublicKey(unbase64(strings.TrimSpace(text)))
	if !usable(key) {
		return nil, errNotPublic
	}
	return key, nil
}

// MustParsePublicKey is ParsePublicKey for keys that are built into a program. It
// panics if the text is no key.
func MustParsePublicKey(text string) ed25519.PublicKey {
	key, err := ParsePublicKey(text)
	if err != nil {
		panic(err)
	}
	return key
}

// FormatPublicKey writes a public key as ParsePublicKey reads it.
func FormatPublicKey(public ed25519.PublicKey) string {
	return base64url(public)
}

// ParsePrivateKey reads a private key from a file or a variable of the environment:
// PKCS #8, in PEM, in PEM whose line breaks were written as \n, or the base64 of the
// PEM alone. That is what polargate-keygen and "openssl genpkey -algorithm ed25519"
// write. Errors never repeat what was read.
func ParsePrivateKey(text string) (ed25519.PrivateKey, error) {
	text = strings.TrimSpace(strings.ReplaceAll(text, `\n`, "\n"))
	var der []byte
	if block, rest := pem.Decode([]byte(text)); block != nil {
		if block.Type != "PRIVATE KEY" || len(strings.TrimSpace(string(rest))) > 0 {
			return nil, errNotPrivate
		}
		der = block.Bytes
	} else {
		var err error
		if der, err = base64.StdEncoding.DecodeString(text); err != nil {
			return nil, errNotPrivate
		}
	}
	parsed, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, errNotPrivate
	}
	key, ok := parsed.(ed25519.PrivateKey)
	if !ok {
		return nil, errNotPrivate
	}
	return key, nil
}

var errNotPrivate = errors.New("lease: not an Ed25519 private key in PKCS #8: make one with polargate-keygen")

// FormatPrivateKey writes a private key as PKCS #8 in PEM.
func FormatPrivateKey(private ed25519.PrivateKey) (string, error) {
	if len(private) != ed25519.PrivateKeySize {
		return "", errNotPrivate
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return "", errNotPrivate
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})), nil
}

// publicOf gives the public half of what is to sign.
func publicOf(key crypto.Signer) (ed25519.PublicKey, error) {
	if private, ok := key.(ed25519.PrivateKey); key == nil || ok && len(private) != ed25519.PrivateKeySize {
		return nil, errNotPrivate
	}
	public, ok := key.Public().(ed25519.PublicKey)
	if !ok || !usable(public) {
		return nil, errNotPrivate
	}
	return public, nil
}
