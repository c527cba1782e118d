package signed

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// FuzzBy looks for headers by which an event counts that its secret has not signed.
func FuzzBy(f *testing.F) {
	f.Add("own words", "evt_1", "1795000000", "v1,AAAA v2,BBBB", []byte(`{}`))
	f.Add("whsec_AAECAwQ=", "", "-1", "v1,", []byte{})
	f.Add(" ", "a.b", "1795000000.5", strings.Repeat("v1,AA== ", 20), []byte("x"))
	f.Fuzz(func(t *testing.T, secret, id, timestamp, signatures string, body []byte) {
		now := time.Unix(1_795_000_000, 0)
		what := Check(id, timestamp, signatures, now, Tolerance)
		if id == "" || timestamp == "" || signatures == "" {
			require.NotEmpty(t, what)
		}
		keys := KeysOf(secret)
		require.Equal(t, strings.TrimSpace(secret) == "", len(keys) == 0)
		forged := By(keys, id, timestamp, signatures, body)
		signature := func(key []byte) string {
			mac := hmac.New(sha256.New, key)
			mac.Write([]byte(id + "." + timestamp + "." + string(body)))
			return base64.StdEncoding.EncodeToString(mac.Sum(nil))
		}
		right := false
		for _, key := range keys {
			right = right || strings.Contains(signatures, signature(key))
			require.True(t, By(keys, id, timestamp, "v1,"+signature(key), body), "each key that a secret may stand for")
			require.False(t, By(nil, id, timestamp, "v1,"+signature(key), body), "without a secret nothing is signed")
		}
		require.False(t, forged && !right, "forged")
	})
}
