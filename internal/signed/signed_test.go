package signed

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
)

func TestASecretStandsForItsTextAndForWhatItEncodes(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		secret string
		want   []string
	}{
		"nothing":                                 {" \n", nil},
		"a text that encodes nothing":             {"not base64!", []string{"not base64!"}},
		"one of a Standard Webhooks library":      {"whsec_c2VjcmV0cw==", []string{"whsec_c2VjcmV0cw==", "secrets"}},
		"the same without its prefix":             {"c2VjcmV0cw==", []string{"c2VjcmV0cw==", "secrets"}},
		"the same without padding":                {"whsec_c2VjcmV0cw", []string{"whsec_c2VjcmV0cw", "secrets"}},
		"with the line break of the file it's in": {"polar_whs_x\n", []string{"polar_whs_x"}},
	} {
		var keys []string
		for _, key := range KeysOf(c.secret) {
			keys = append(keys, string(key))
		}
		assert.Equal(t, c.want, keys, name)
	}
	assert.Len(t, Keys([]string{"one!", "whsec_c2VjcmV0cw=="}), 3, "those of all secrets")
}

func TestAnEventWhoseHeadersCannotBeRightIsNotLookedAt(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 29, 12, 0, 0, 0, time.UTC)
	at := func(d time.Duration) string { return strconv.FormatInt(now.Add(d).Unix(), 10) }
	for name, c := range map[string]struct {
		id, timestamp, signatures string
		oldest                    time.Duration
		want                      string
	}{
		"right":                           {"id", at(0), "v1,x", Tolerance, ""},
		"as old as it may be":             {"id", at(-Tolerance), "v1,x", Tolerance, ""},
		"as far ahead as it may be":       {"id", at(Tolerance), "v1,x", Tolerance, ""},
		"too old":                         {"id", at(-Tolerance - time.Second), "v1,x", Tolerance, "more than 5 minutes ago"},
		"too far ahead":                   {"id", at(Tolerance + time.Second), "v1,x", Tolerance, "ahead"},
		"old, where old events are taken": {"id", at(-time.Hour), "v1,x", 2 * time.Hour, ""},
		"too old for that, too":           {"id", at(-3 * time.Hour), "v1,x", 2 * time.Hour, "longer ago than GracePeriod"},
		"ahead, where old ones are taken": {"id", at(time.Hour), "v1,x", 2 * time.Hour, "5 minutes ahead"},
		"without an id":                   {"", at(0), "v1,x", Tolerance, "not signed"},
		"with a very long id":             {strings.Repeat("i", MaxEventID+1), at(0), "v1,x", Tolerance, "not signed"},
		"without a time":                  {"id", "", "v1,x", Tolerance, "not signed"},
		"with a time that is none":        {"id", "today", "v1,x", Tolerance, "its time cannot be read"},
		"without a signature":             {"id", at(0), "", Tolerance, "not signed"},
	} {
		got := Check(c.id, c.timestamp, c.signatures, now, c.oldest)
		assert.Contains(t, got, c.want, name)
		assert.Equal(t, c.want == "", got == "", name)
	}
}

func TestAnEventCountsIfOneOfItsSignaturesFitsOneOfTheKeys(t *testing.T) {
	t.Parallel()
	signature := func(key, id, timestamp, body string) string {
		mac := hmac.New(sha256.New, []byte(key))
		mac.Write([]byte(id + "." + timestamp + "." + body))
		return "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil))
	}
	keys := [][]byte{[]byte("the secret of last year"), []byte("the secret of today")}
	good := signature("the secret of today", "id", "7", "body")
	others := strings.Repeat("v1,AAAA ", maxSignatures)
	for name, c := range map[string]struct {
		signatures, id, timestamp, body string
		want                            bool
	}{
		"signed with one key":             {good, "id", "7", "body", true},
		"signed with the other":           {signature("the secret of last year", "id", "7", "body"), "id", "7", "body", true},
		"beside signatures of others":     {"v1,AAAA v2,x " + good, "id", "7", "body", true},
		"behind more than are looked at":  {others + good, "id", "7", "body", false},
		"signed with an unknown key":      {signature("another secret", "id", "7", "body"), "id", "7", "body", false},
		"with another id":                 {good, "di", "7", "body", false},
		"with another time":               {good, "id", "8", "body", false},
		"with another body":               {good, "id", "7", "body ", false},
		"of a version that isn't known":   {"v1a" + good[2:], "id", "7", "body", false},
		"with a signature that is cut":    {good[:len(good)-4], "id", "7", "body", false},
		"with parts moved over the point": {signature("the secret of today", "id.7", "", "body"), "id", "7", "body", false},
		"without a signature":             {"", "id", "7", "body", false},
	} {
		assert.Equal(t, c.want, By(keys, c.id, c.timestamp, c.signatures, []byte(c.body)), name)
	}
	assert.False(t, By(nil, "id", "7", good, []byte("body")), "without a key nothing is signed")
}
