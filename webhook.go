package polargate

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/polargate/polargate/internal/seal"
)

// Polar signs webhooks according to the Standard Webhooks specification, version v1.
const (
	webhookTolerance = 5 * time.Minute
	// maxEvent bounds a body. A customer state with hundreds of benefits takes
	// 200 KiB.
	maxEvent = 1 << 20
	// maxSignatures bounds how many signatures are checked: one for each secret that is
	// valid at a time.
	maxSignatures = 10
	maxEventID    = 256
	// bodyTime is how long a body may take to arrive.
	bodyTime = 5 * time.Second
	// rememberedEvents suffice for the tolerance: 30 a second for 5 minutes.
	rememberedEvents = 10_000
)

// seenEvents are the ids of events that were applied.
type seenEvents = *lru.Cache[string, struct{}]

func newSeenEvents() seenEvents {
	c, err := lru.New[string, struct{}](rememberedEvents)
	if err != nil {
		panic(err) // the size is positive, which is all that it asks
	}
	return c
}

// WebhookHandler receives Polar's webhooks, so that purchases and cancellations take
// effect at once. The state in a customer.state_changed goes into the cache, and a
// customer.deleted ends what the customer had. License keys that a customer.state_changed
// or a benefit_grant.created, .updated or .revoked names are looked up before they are
// used again. Polar sends nothing when a key is rotated or disabled, or when its expiry
// is edited. Subscribe the endpoint to these types; others are acknowledged and ignored.
//
// secrets are the endpoint's signing secret as Polar shows it, and, while you replace it,
// the old one too; white space around them doesn't matter. Both ways in which Polar makes
// a key of a secret are understood: until September 2026 from its bytes, and since then
// from the base64 after "whsec_". An event is refused if no signature matches, or if it
// was signed more than 5 minutes ago or ahead. An event that was seen before is
// acknowledged and has no effect, and so is one older than another event applied for the
// customer. An event that can't be read is acknowledged, and Polar is asked at the
// customer's next request.
//
// An event of an organization other than the access token's is acknowledged, counts as
// Refused, is logged, and has no effect: an endpoint of the sandbox may lead here too. If
// CustomersConfig.OrganizationID is empty, the organization is that of the first state or
// license key that Polar answers; events that arrive earlier are kept, and Polar is
// asked.
//
// The handler answers 204, or else 400, 401, 405 or 413, in well under a second: Polar
// disables an endpoint after ten failures in a row. A body of more than 1 MiB is refused,
// and so is one that takes longer than 5 seconds to arrive. The body must not have been
// read by an earlier handler: that is answered 500, and the log says so. Without a secret
// that isn't empty, every event is refused, and the log says so. Each kind of refusal is
// logged once a minute, with the number of those left out.
//
// Without secrets, CustomersConfig.WebhookSecrets are used.
func (c *Customers) WebhookHandler(secrets ...string) http.Handler {
	if len(secrets) == 0 {
		secrets = c.config.WebhookSecrets
	}
	keys := allWebhookKeys(secrets)
	if len(keys) == 0 {
		c.config.Logger.Error("polargate: a webhook handler without a secret refuses every event: pass the endpoint's secret from Polar")
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "no-store")
		if r.Method != http.MethodPost {
			w.Header().Set("Allow", http.MethodPost)
			w.WriteHeader(http.StatusMethodNotAllowed)
			return
		}
		if r.Body == nil { // of a request that was made by hand
			c.refuseEvent(w, http.StatusBadRequest, "it has no body")
			return
		}
		// If that can't be set, the server's own limits are all there is.
		control := http.NewResponseController(w)
		_ = control.SetReadDeadline(time.Now().Add(bodyTime))
		id, sent := r.Header.Get("Webhook-Id"), r.Header.Get("Webhook-Timestamp")
		signatures := r.Header.Get("Webhook-Signature")
		if problem := checkWebhook(id, sent, signatures, time.Now(), webhookTolerance); problem != "" {
			c.refuseEvent(w, http.StatusUnauthorized, problem)
			return
		}
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxEvent))
		if problem, status := bodyProblem(r, body, err); problem != "" {
			c.refuseEvent(w, status, problem)
			return
		}
		_ = control.SetReadDeadline(time.Time{})
		if !signedWith(keys, id, sent, signatures, body) {
			problem := "no signature fits; if that goes on, the secret is not that of the endpoint"
			if len(body) == 0 {
				problem = "its body is empty: none was sent, or a handler before this one has read it"
			}
			c.refuseEvent(w, http.StatusUnauthorized, problem)
			return
		}
		c.deliver(id, sent, body)
		w.WriteHeader(http.StatusNoContent)
	})
}

// deliver applies an event that was verified, once for all replicas.
func (c *Customers) deliver(id, sent string, body []byte) {
	again, _ := c.seen.ContainsOrAdd(strings.Clone(id), struct{}{})
	r := c.cache.replicas
	if again || r != nil && !r.firstTime(id) {
		c.cache.counts.eventsTwice.Add(1)
		return
	}
	seconds, _ := strconv.ParseInt(sent, 10, 64) // as was verified
	c.takeEvent(body, time.Unix(seconds, 0))
	if r != nil { // not before: if this process ends meanwhile, Polar sends it again
		r.noteApplied(id, max(c.config.GracePeriod, 2*webhookTolerance))
	}
}

// Apply takes in a delivery of Polar's webhooks that came by other means than HTTP, such as
// a queue: the body as it was sent, and the headers that begin with "Webhook-". It verifies
// the signature with CustomersConfig.WebhookSecrets, and does what WebhookHandler does.
//
// A delivery may have waited for as long as GracePeriod, since one that is older than what
// is known has no effect. One that was seen before, or has nothing of interest, is no error.
// One that is not signed, or signed by another secret, is an *InputError, and must not be
// tried again. Any other error is of ctx.
func (c *Customers) Apply(ctx context.Context, rawBody []byte, header http.Header) error {
	if ctx == nil {
		return errNilContext
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	id, sent, signatures := header.Get("Webhook-Id"), header.Get("Webhook-Timestamp"), header.Get("Webhook-Signature")
	problem := checkWebhook(id, sent, signatures, time.Now(), max(webhookTolerance, c.config.GracePeriod))
	switch keys := allWebhookKeys(c.config.WebhookSecrets); {
	case problem != "":
	case len(keys) == 0:
		problem = "cannot be verified: set CustomersConfig.WebhookSecrets to the endpoint's secret from Polar"
	case len(rawBody) > maxEvent:
		problem = "is longer than 1 MiB"
	case !signedWith(keys, id, sent, signatures, rawBody):
		problem = "has no signature that fits: give the body as it was sent, and the secret of the endpoint"
	}
	if problem != "" {
		c.cache.counts.eventsRefused.Add(1)
		return &InputError{"delivery", strings.TrimPrefix(problem, "it ")}
	}
	c.deliver(id, sent, rawBody)
	return nil
}

// allWebhookKeys are the keys that secrets may stand for.
func allWebhookKeys(secrets []string) (keys [][]byte) {
	for _, secret := range secrets {
		keys = append(keys, webhookKeys(secret)...)
	}
	return keys
}

func (c *Customers) refuseEvent(w http.ResponseWriter, status int, problem string) {
	c.cache.counts.eventsRefused.Add(1)
	c.seldom.Warn(c.config.Logger, problem, "polargate: a webhook was refused", "because", problem)
	w.WriteHeader(status)
}

// bodyProblem is what is wrong with a body, and the status that says so; "" if nothing
// is. If an earlier handler has read all or part of the body, that is a mistake of this
// server, not of its secret.
func bodyProblem(r *http.Request, body []byte, err error) (string, int) {
	const readBefore = "its body, or a part of it, was read or changed by a handler before this one: let WebhookHandler have the body as it was sent"
	if tooLong, ok := errors.AsType[*http.MaxBytesError](err); ok {
		if tooLong.Limit < maxEvent {
			return "its body is longer than a handler before this one allows", http.StatusRequestEntityTooLarge
		}
		return "its body is longer than 1 MiB", http.StatusRequestEntityTooLarge
	}
	switch {
	case errors.Is(err, http.ErrBodyReadAfterClose):
		return readBefore, http.StatusInternalServerError
	case errors.Is(err, os.ErrDeadlineExceeded):
		return "its body took longer than 5 seconds to arrive", http.StatusBadRequest
	case err != nil:
		return "its body broke off", http.StatusBadRequest
	case r.ContentLength > 0 && int64(len(body)) != r.ContentLength:
		return readBefore, http.StatusInternalServerError // else the end would have come unexpectedly
	}
	return "", 0
}

// webhookKeys are the keys that a secret may stand for.
func webhookKeys(secret string) [][]byte {
	secret = strings.TrimSpace(secret) // a file that a secret comes from ends with a line break
	if secret == "" {
		return nil
	}
	keys := [][]byte{[]byte(secret)}
	if text, ok := strings.CutPrefix(secret, "whsec_"); ok {
		for _, encoding := range []*base64.Encoding{base64.StdEncoding, base64.RawStdEncoding} {
			if key, err := encoding.DecodeString(text); err == nil && len(key) > 0 {
				keys = append(keys, key)
			}
		}
	}
	return keys
}

// checkWebhook reports what is wrong with the headers of an event; "" if nothing.
func checkWebhook(id, timestamp, signatures string, now time.Time, oldest time.Duration) string {
	if id == "" || len(id) > maxEventID || timestamp == "" || signatures == "" {
		return "it is not signed"
	}
	seconds, err := strconv.ParseInt(timestamp, 10, 64)
	if err != nil {
		return "its time cannot be read"
	}
	if age := now.Unix() - seconds; age > int64(oldest/time.Second) || age < -int64(webhookTolerance/time.Second) {
		return "it was signed more than 5 minutes ago or ahead; if that goes on, this computer's clock is wrong"
	}
	return ""
}

// signedWith reports whether an event is signed with one of the keys.
func signedWith(keys [][]byte, id, timestamp, signatures string, body []byte) bool {
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
