// Package seal encrypts bytes so that only a holder of the key can read or change them, and
// recognizes what it sealed. It knows nothing of what the bytes mean, and can't protect them
// from a person who finds the key in the program.
package seal

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"errors"
)

// ErrBroken is the error for bytes that were sealed under another key or not at all.
var ErrBroken = errors.New("damaged, of another program, or of a newer version")

// Key derives a key from a secret by HKDF, a different one for each info. It fails if the
// host's policy for cryptography forbids it.
func Key(secret []byte, info string) ([]byte, error) {
	return hkdf.Key(sha256.New, secret, nil, info, 32)
}

// Seal encrypts bytes by AES-256-GCM. The result begins with magic, which names the
// format and its version, and a random nonce. It opens only with the same bound.
func Seal(key []byte, magic, bound string, plain []byte) ([]byte, error) {
	aead, err := gcm(key)
	if err != nil {
		return nil, err
	}
	out := append(make([]byte, 0, len(magic)+len(plain)+aead.Overhead()), magic...)
	return aead.Seal(out, nil, plain, []byte(magic+bound)), nil
}

// Open decrypts what Seal made with the same key, magic and bound, and fails with
// ErrBroken for everything else.
func Open(key []byte, magic, bound string, sealed []byte) ([]byte, error) {
	aead, err := gcm(key)
	if err != nil {
		return nil, err
	}
	if len(sealed) < len(magic) || string(sealed[:len(magic)]) != magic {
		return nil, ErrBroken
	}
	plain, err := aead.Open(nil, nil, sealed[len(magic):], []byte(magic+bound))
	if err != nil {
		return nil, ErrBroken
	}
	return plain, nil
}

// gcm begins what it seals with a random nonce of its own. FIPS 140 forbids a nonce that the
// caller chose.
func gcm(key []byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCMWithRandomNonce(block)
}

// MACKey completes a key with zeros up to a block, as HMAC itself does, so the codes are the
// same. With GODEBUG=fips140=only, hmac.New panics if a key is shorter than 14 bytes, and
// the vendor chooses the length of a webhook secret.
func MACKey(key []byte) []byte {
	if len(key) >= sha256.BlockSize {
		return key
	}
	return append(make([]byte, 0, sha256.BlockSize), key...)[:sha256.BlockSize]
}
