// Package signed checks that a webhook is Polar's: its signature by the Standard Webhooks
// specification, version v1, under each of the three keys that a secret may stand for. It
// doesn't read what the webhook says, nor remember which came before.
package signed

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/polargate/polargate/internal/seal"
)

// Keys are the keys that secrets may stand for.
func Keys(secrets []string) (keys [][]byte) {
	for _, secret := range secrets {
		keys = append(keys, KeysOf(secret)...)
	}
	return keys
}

// KeysOf are the keys that a secret may stand for.
func KeysOf(secret string) [][]byte {
	secret = strings.TrimSpace(secret) // a file that a secret comes from ends with a line break
	if secret == "" {
		return nil
	}
	keys := [][]byte{[]byte(secret)}
	// Standard Webhooks libraries take a secret without the prefix too, and so does Polar's
	// own since version 1.0 of its SDK.
	text := strings.TrimPrefix(secret, "whsec_")
	for _, encoding := range []*base64.Encoding{base64.StdEncoding, base64.RawStdEncoding} {
		if key, err := encoding.DecodeString(text); err == nil && len(key) > 0 {
			keys = append(keys, key)
		}
	}
	return keys
}

// Check reports what is wrong with the headers of an event; "" if nothing.
func Check(id, timestamp, signatures string, now time.Time, oldest time.Duration) string {
	if id == "" || len(id) > MaxEventID || timestamp == "" || signatures == "" {
		return "it is not signed"
	}
	seconds, err := strconv.ParseInt(timestamp, 10, 64)
	if err != nil {
		return "its time cannot be read"
	}
	if age := now.Unix() - seconds; age > int64(oldest/time.Second) || age < -int64(Tolerance/time.Second) {
		if oldest > Tolerance {
			return "it was signed longer ago than GracePeriod, or more than 5 minutes ahead; if that goes on, this computer's clock is wrong"
		}
		return "it was signed more than 5 minutes ago or ahead; if that goes on, this computer's clock is wrong"
	}
	return ""
}

// By reports whether an event is signed with one of the keys.
func By(keys [][]byte, id, timestamp, signatures string, body []byte) bool {
	var given [][]byte
	for part := range strings.SplitSeq(signatures, " ") {
		text, ok := strings.CutPrefix(part, "v1,")
		if !ok {
			continue // of a version that is not known here
		}
		if mac, err := base64.StdEncoding.DecodeString(text); err == nil && len(given) < maxSignatures {
			given = append(given, mac)
		}
	}
	fits := false
	for _, key := range keys {
		mac := hmac.New(sha256.New, seal.MACKey(key))
		_, _ = io.WriteString(mac, id+"."+timestamp+".")
		_, _ = mac.Write(body)
		want := mac.Sum(nil)
		for _, have := range given {
			if hmac.Equal(want, have) {
				fits = true
			}
		}
	}
	return fits
}

const (
	// Tolerance is how long ago or ahead an event may have been signed.
	Tolerance = 5 * time.Minute
	// maxSignatures bounds how many signatures are checked: one for each secret that is
	// valid at a time.
	maxSignatures = 10
	MaxEventID    = 256
)
