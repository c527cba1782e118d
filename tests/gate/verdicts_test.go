package gate

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/polargate/polargate"
	"github.com/polargate/polargate/polartest"
	"github.com/polargate/polargate/tests/internal/kit"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const applicationJSON = "application/json"

// proveNothing are answers that are not Polar's verdict, and what they are
// reported as when a validation gets them.
var proveNothing = map[string]struct {
	effect polartest.Effect
	reason polargate.Reason
}{
	"a Wi-Fi login page with 200":              {polartest.LoginPage(200), polargate.ErrUnreachable},
	"a Wi-Fi login page with 511":              {polartest.LoginPage(511), polargate.ErrUnreachable},
	"a redirect to a login page, 302":          {polartest.LoginPage(302), polargate.ErrUnreachable},
	"a redirect to a login page, 303":          {polartest.LoginPage(303), polargate.ErrUnreachable},
	"a redirect to a login page, 307":          {polartest.LoginPage(307), polargate.ErrUnreachable},
	"a redirect to a login page, 308":          {polartest.LoginPage(308), polargate.ErrUnreachable},
	"a firewall's 403 page":                    {polartest.ProxyPage(403), polargate.ErrUnreachable},
	"a proxy's 404 page":                       {polartest.ProxyPage(404), polargate.ErrUnreachable},
	"a proxy's 400 page":                       {polartest.ProxyPage(400), polargate.ErrUnreachable},
	"a proxy's 407 page":                       {polartest.ProxyPage(407), polargate.ErrUnreachable},
	"a proxy's 502 page":                       {polartest.ProxyPage(502), polargate.ErrUnreachable},
	"a proxy's 504 page":                       {polartest.ProxyPage(504), polargate.ErrUnreachable},
	"the router's 404":                         {polartest.RouterNotFound(), polargate.ErrUnreachable},
	"a 429 that names a pause":                 {polartest.RateLimited("30"), polargate.ErrRateLimited},
	"a 429 that names none":                    {polartest.RateLimited(""), polargate.ErrRateLimited},
	"a 429 with nonsense for a pause":          {polartest.RateLimited("soon, -1"), polargate.ErrRateLimited},
	"a 500":                                    {polartest.ServerError(500), polargate.ErrUnreachable},
	"a 503":                                    {polartest.ServerError(503), polargate.ErrUnreachable},
	"silence":                                  {polartest.Hang(), polargate.ErrUnreachable},
	"a byte each ten seconds":                  {polartest.SlowDrip(10 * time.Second), polargate.ErrUnreachable},
	"the true answer a minute late":            {polartest.Delay(time.Minute), polargate.ErrUnreachable},
	"a reset connection":                       {polartest.Reset(), polargate.ErrUnreachable},
	"a closed connection":                      {polartest.Close(), polargate.ErrUnreachable},
	"a lost answer":                            {polartest.AnswerLost(), polargate.ErrUnreachable},
	"half an answer":                           {polartest.Truncated(), polargate.ErrUnreachable},
	"bytes that are no JSON":                   {polartest.Garbage(), polargate.ErrUnreachable},
	"32 MiB":                                   {polartest.Huge(), polargate.ErrUnreachable},
	"200 {}":                                   {polartest.Body(200, applicationJSON, `{}`), polargate.ErrUnreachable},
	"200 null":                                 {polartest.Body(200, applicationJSON, `null`), polargate.ErrUnreachable},
	"200 []":                                   {polartest.Body(200, applicationJSON, `[]`), polargate.ErrUnreachable},
	"200 true":                                 {polartest.Body(200, applicationJSON, `true`), polargate.ErrUnreachable},
	"200 and an empty body":                    {polartest.Body(200, applicationJSON, ``), polargate.ErrUnreachable},
	"200 and an empty body of no type":         {polartest.Body(200, "", ``), polargate.ErrUnreachable},
	"200 and only a status":                    {polartest.Body(200, applicationJSON, `{"status":"granted"}`), polargate.ErrUnreachable},
	"200 and only a status that is no grant":   {polartest.Body(200, applicationJSON, `{"status":"revoked"}`), polargate.ErrUnreachable},
	"200 with a refusal in it":                 {polartest.Body(200, applicationJSON, `{"error":"ResourceNotFound","detail":"License key has expired."}`), polargate.ErrUnreachable},
	"204":                                      {polartest.Body(204, "", ``), polargate.ErrUnreachable},
	"500 with a refusal in it":                 {polartest.Body(500, applicationJSON, `{"error":"ResourceNotFound","detail":"Not found"}`), polargate.ErrUnreachable},
	"404 {}":                                   {polartest.Body(404, applicationJSON, `{}`), polargate.ErrUnreachable},
	"404 null":                                 {polartest.Body(404, applicationJSON, `null`), polargate.ErrUnreachable},
	"404 and an empty body":                    {polartest.Body(404, applicationJSON, ``), polargate.ErrUnreachable},
	"404 with a detail and no error":           {polartest.Body(404, applicationJSON, `{"detail":"License key has expired."}`), polargate.ErrUnreachable},
	"404 with an error that is not Polar's":    {polartest.Body(404, applicationJSON, `{"error":"not_found","detail":"Not found"}`), polargate.ErrUnreachable},
	"404 with an error of another type":        {polartest.Body(404, applicationJSON, `{"error":{"code":"ResourceNotFound"},"detail":"Not found"}`), polargate.ErrUnreachable},
	"404 with half a refusal":                  {polartest.Body(404, applicationJSON, `{"error":"ResourceNotFound","detail":"License key has ex`), polargate.ErrUnreachable},
	"404 with a refusal in a list":             {polartest.Body(404, applicationJSON, `[{"error":"ResourceNotFound","detail":"Not found"}]`), polargate.ErrUnreachable},
	"404 HTML that quotes a refusal":           {polartest.Body(404, "text/html", `<p>{"error":"ResourceNotFound","detail":"Not found"}</p>`), polargate.ErrUnreachable},
	"403 with an error that is not Polar's":    {polartest.Body(403, applicationJSON, `{"error":"Forbidden","detail":"License key has expired."}`), polargate.ErrUnreachable},
	"403 and an empty body":                    {polartest.Body(403, "", ``), polargate.ErrUnreachable},
	"the router's 405":                         {polartest.Body(405, applicationJSON, `{"detail":"Method Not Allowed"}`), polargate.ErrUnreachable},
	"410":                                      {polartest.Body(410, applicationJSON, `{"error":"ResourceNotFound","detail":"Not found"}`), polargate.ErrUnreachable},
	"401 of no authorization":                  {polartest.Body(401, applicationJSON, `{"error":"Unauthorized","detail":"Unauthorized"}`), polargate.ErrMisconfigured},
	"401 of a bad token":                       {polartest.Body(401, applicationJSON, `{"error":"invalid_token","error_description":"The access token provided is expired."}`), polargate.ErrMisconfigured},
	"403 of a missing scope":                   {polartest.Body(403, applicationJSON, `{"error":"insufficient_scope","error_description":"More privileges."}`), polargate.ErrMisconfigured},
	"422":                                      {polartest.Body(422, applicationJSON, `{"error":"RequestValidationError","detail":[{"loc":["body","key"],"msg":"Field required","type":"missing","input":{}}]}`), polargate.ErrMisconfigured},
	"a 200 that is broken off and goes on":     {polartest.Rewrite(func(status int, _ http.Header, body []byte) (int, []byte) { return status, append(body, "<html>"...) }), polargate.ErrUnreachable},
	"a 200 of a server error page's status":    {polartest.Rewrite(func(_ int, _ http.Header, body []byte) (int, []byte) { return 502, body }), polargate.ErrUnreachable},
	"a 200 for another key":                    {altered(set("key", "POLAR-00000000-0000-4000-8000-000000000000")), polargate.ErrUnreachable},
	"a 200 for another organization":           {altered(set("organization_id", "8f7ab6a8-4a51-4bb1-9f0a-6f7f7a0a3c11")), polargate.ErrUnreachable},
	"a refusal for another key":                {altered(set("key", "POLAR-00000000-0000-4000-8000-000000000000"), set("status", "revoked")), polargate.ErrUnreachable},
	"a refusal for another organization":       {altered(set("organization_id", "8f7ab6a8-4a51-4bb1-9f0a-6f7f7a0a3c11"), set("status", "revoked")), polargate.ErrUnreachable},
	"an expiry in words":                       {altered(set("expires_at", "next Tuesday")), polargate.ErrUnreachable},
	"an expiry that is a number":               {altered(set("expires_at", int64(4102444800))), polargate.ErrUnreachable},
	"an expiry that is an object":              {altered(set("expires_at", map[string]any{})), polargate.ErrUnreachable},
	"a benefit for which nobody has an answer": {altered(set("benefit_id", []any{})), polargate.ErrUnreachable},
}

func init() {
	for _, field := range []string{"id", "key", "organization_id", "benefit_id", "status"} {
		for name, change := range map[string]func(map[string]any){
			"no %s":                 func(m map[string]any) { delete(m, field) },
			"null for %s":           set(field, nil),
			"a number for %s":       set(field, 7),
			"an object for %s":      set(field, map[string]any{"is": "granted"}),
			"a list with it for %s": func(m map[string]any) { m[field] = []any{m[field]} },
			"true for %s":           set(field, true),
			"an empty text for %s":  set(field, ""),
		} {
			test := proveNothing["200 {}"]
			test.effect = altered(change)
			proveNothing["a 200 with "+fmt.Sprintf(name, field)] = test
		}
	}
}

func set(field string, value any) func(map[string]any) {
	return func(m map[string]any) { m[field] = value }
}

// altered is the true answer with its license key changed: that of a
// validation itself, or the one inside the answer of an activation.
func altered(changes ...func(map[string]any)) polartest.Effect {
	return alteredWhole(func(m map[string]any) {
		if inner, ok := m["license_key"].(map[string]any); ok {
			m = inner
		}
		for _, change := range changes {
			change(m)
		}
	})
}

// alteredWhole is the true answer with its outermost object changed.
func alteredWhole(change func(map[string]any)) polartest.Effect {
	return polartest.Rewrite(func(status int, _ http.Header, body []byte) (int, []byte) {
		var m map[string]any
		if status != 200 || json.Unmarshal(body, &m) != nil {
			return status, body
		}
		change(m)
		changed, err := json.Marshal(m)
		if err != nil {
			panic(err)
		}
		return status, changed
	})
}

func assertLeavesAlone(t *testing.T, err error) {
	t.Helper()
	require.Error(t, err)
	reason := kit.ReasonOf(err)
	assert.NotEmpty(t, reason, "%T is no *Error", err)
	assert.False(t, reason.Denial(), "%q is a denial", string(reason))
	assert.ErrorIs(t, err, reason)
}

func TestAnswersThatProveNothingNeitherLockNorUnlock(t *testing.T) {
	t.Parallel()
	for name, test := range proveNothing {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			t.Run("a stale license goes on in grace after Check", func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					w := kit.NewWorld(t)
					gate := w.Activated()
					time.Sleep(25 * time.Hour)
					w.Inject("", 0, test.effect)
					began := time.Now()
					status, err := gate.Check(t.Context())
					require.NoError(t, err)
					assert.LessOrEqual(t, time.Since(began), 5*time.Second)
					assert.Equal(t, polargate.Grace, status.State)
					assert.Equal(t, test.reason, status.Reason)
					assert.True(t, gate.Has("export"))
					assert.True(t, w.Open().Has("export"), "and so in the next run")

					w.Polar.ClearFaults()
					time.Sleep(5 * time.Minute)
					status, err = gate.Check(t.Context())
					require.NoError(t, err)
					assert.Equal(t, polargate.Active, status.State)
				})
			})
			t.Run("a fresh license stays active after Refresh, which says what came", func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					w := kit.NewWorld(t)
					gate := w.Activated()
					before := gate.Status()
					time.Sleep(time.Hour)
					w.Inject("", 0, test.effect)
					began := time.Now()
					status, err := gate.Refresh(t.Context())
					assert.LessOrEqual(t, time.Since(began), 5*time.Second)
					assertLeavesAlone(t, err)
					assert.ErrorIs(t, err, test.reason)
					assert.Equal(t, polargate.Active, status.State)
					assert.Equal(t, before.CheckedAt, status.CheckedAt)
					assert.Equal(t, before.GraceUntil, status.GraceUntil)
					assert.True(t, gate.Has("export"))
				})
			})
			t.Run("a locked license stays locked", func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					w := kit.NewWorld(t)
					gate := w.Activated()
					w.Polar.Revoke(w.Key.ID)
					status, err := gate.Refresh(t.Context())
					require.ErrorIs(t, err, polargate.ErrInactive)
					require.Equal(t, polargate.Locked, status.State)
					w.Polar.Grant(w.Key.ID)
					time.Sleep(time.Hour)
					w.Inject("", 0, test.effect)
					status, err = gate.Refresh(t.Context())
					require.Error(t, err)
					assert.Equal(t, polargate.Locked, status.State)
					assert.Equal(t, polargate.ErrInactive, status.Reason)
					assert.False(t, gate.Has("export"))
					_, err = gate.Check(t.Context())
					require.Error(t, err)
					assert.False(t, gate.Has("export"))
					assert.False(t, w.Open().Has("export"), "nor in the next run")
				})
			})
			t.Run("a first activation gives nothing and can be made again", func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					w := kit.NewWorld(t)
					gate := w.Open()
					w.Inject(kit.PathActivate, 0, test.effect)
					ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
					defer cancel()
					status, err := gate.Activate(ctx, w.Key.Key)
					assertLeavesAlone(t, err)
					assert.Equal(t, polargate.Unlicensed, status.State)
					assert.False(t, gate.Has("export"))
					synctest.Wait()
					assert.Equal(t, 1, w.Polar.Count(kit.PathActivate), "never sent twice")
					if w.Seats() > 0 {
						assert.ErrorIs(t, err, polargate.ErrActivationInDoubt, "a seat was taken")
					}
					w.Polar.ClearFaults()
					time.Sleep(5 * time.Minute)
					status, err = gate.Activate(t.Context(), w.Key.Key)
					require.NoError(t, err)
					assert.Equal(t, polargate.Active, status.State)
					assert.True(t, gate.Has("export"))
					assert.LessOrEqual(t, w.Seats(), 2)
				})
			})
			t.Run("a use is counted at most once, and nobody claims that it was not", func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					w := kit.NewWorld(t, kit.Usage(10))
					gate := w.Activated()
					w.Inject("", 0, test.effect)
					ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
					defer cancel()
					_, err := gate.Consume(ctx, 3)
					assertLeavesAlone(t, err)
					assert.True(t, gate.Has("export"))
					assert.Equal(t, polargate.Active, gate.Status().State)
					assert.LessOrEqual(t, w.Asks(kit.PathValidate, `"increment_usage":3`), 1, "never sent twice")
					if w.Now().Usage > 0 {
						assert.Equal(t, int64(3), w.Now().Usage)
						assert.ErrorIs(t, err, polargate.ErrInDoubt)
					}
				})
			})
		})
	}
}

func TestMissingPartsOfAnActivationAreNotMadeUp(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(map[string]any){
		"no license key in it":       func(m map[string]any) { delete(m, "license_key") },
		"null for the license key":   set("license_key", nil),
		"a text for the license key": set("license_key", "granted"),
		"a list for the license key": set("license_key", []any{}),
		"the license key's fields above": func(m map[string]any) {
			inner, _ := m["license_key"].(map[string]any)
			maps.Copy(m, inner)
			delete(m, "license_key")
		},
		"no id of the activation":      func(m map[string]any) { delete(m, "id") },
		"null for the activation's id": set("id", nil),
		"a number for the id":          set("id", 12),
		"an empty id":                  set("id", ""),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := kit.NewWorld(t)
				gate := w.Open()
				w.Inject(kit.PathActivate, 1, alteredWhole(change))
				status, err := gate.Activate(t.Context(), w.Key.Key)
				require.Error(t, err)
				assert.Equal(t, polargate.Unlicensed, status.State)
				assert.False(t, gate.Has("export"))
				if w.Seats() > 0 {
					require.ErrorIs(t, err, polargate.ErrActivationInDoubt)
				}
				_, err = gate.Activate(t.Context(), w.Key.Key)
				require.NoError(t, err)
				assert.LessOrEqual(t, w.Seats(), 2)
			})
		})
	}
}

func TestAnAnswerAboutAnotherActivationProvesNothing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := kit.NewWorld(t)
		gate := w.Activated()
		time.Sleep(25 * time.Hour)
		w.Inject(kit.PathValidate, 0, altered(set("activation", map[string]any{"id": "8f7ab6a8-4a51-4bb1-9f0a-6f7f7a0a3c11"})))
		status, err := gate.Check(t.Context())
		require.NoError(t, err)
		assert.Equal(t, polargate.Grace, status.State)
	})
}

func TestFieldsThatNoVerdictRestsOnMayChange(t *testing.T) {
	t.Parallel()
	all := func(value any) func(map[string]any) {
		return func(m map[string]any) {
			for field := range m {
				switch field {
				case "id", "key", "organization_id", "benefit_id", "status", "expires_at", "license_key":
				default:
					m[field] = value
				}
			}
		}
	}
	changes := map[string]func(map[string]any){
		"fields that nobody knows": func(m map[string]any) {
			m["verdict"], m["valid"], m["granted"], m["Status"], m["STATUS"] = "revoked", false, false, "revoked", "revoked"
		},
		"all others gone": func(m map[string]any) {
			for field := range m {
				switch field {
				case "id", "key", "organization_id", "benefit_id", "status":
				default:
					delete(m, field)
				}
			}
		},
		"all others null":                all(nil),
		"all others texts":               all("twelve"),
		"all others empty texts":         all(""),
		"all others numbers":             all(-1.5e300),
		"all others lists":               all([]any{1, "x", nil}),
		"all others objects":             all(map[string]any{"a": map[string]any{"b": 1}}),
		"an activation that is a text":   set("activation", "here"),
		"a null activation":              set("activation", nil),
		"an activation without its id":   set("activation", map[string]any{"label": "laptop"}),
		"all others booleans":            all(true),
		"a customer that is a text":      set("customer", "Ada"),
		"no expiry":                      func(m map[string]any) { delete(m, "expires_at") },
		"a null expiry":                  set("expires_at", nil),
		"an expiry in another zone":      set("expires_at", "2999-01-01T00:00:00+05:30"),
		"an expiry with nanoseconds":     set("expires_at", "2999-01-01T00:00:00.123456789Z"),
		"deeply nested things":           func(m map[string]any) { m["x"] = json.RawMessage(strings.Repeat("[", 500) + strings.Repeat("]", 500)) },
		"a number beyond all bounds":     func(m map[string]any) { m["usage"] = json.RawMessage("1" + strings.Repeat("0", 400)) },
		"a hundred thousand more fields": func(m map[string]any) { m["x"] = strings.Repeat("x", 100_000) },
	}
	for name, change := range changes {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := kit.NewWorld(t)
				w.Inject("", 0, altered(change))
				gate := w.Open()
				status, err := gate.Activate(t.Context(), w.Key.Key)
				require.NoError(t, err)
				assert.Equal(t, polargate.Active, status.State)
				assert.Equal(t, []string{"export", "sync"}, status.Features)
				status, err = gate.Refresh(t.Context())
				require.NoError(t, err)
				assert.Equal(t, polargate.Active, status.State)
				time.Sleep(30 * time.Hour)
				status, err = gate.Check(t.Context())
				require.NoError(t, err)
				assert.Equal(t, polargate.Active, status.State)
				_, err = gate.Consume(t.Context(), 1)
				require.NoError(t, err)
				assert.Equal(t, int64(1), w.Now().Usage)
				require.NoError(t, gate.Deactivate(t.Context()))
				assert.Zero(t, w.Seats())
			})
		})
	}
}

// refusals are what Polar can come to say of a license in use, and how it
// takes that back.
var refusals = map[string]struct {
	make, undo func(*kit.World)
	reason     polargate.Reason
}{
	"a revoked key":                      {func(w *kit.World) { w.Polar.Revoke(w.Key.ID) }, func(w *kit.World) { w.Polar.Grant(w.Key.ID) }, polargate.ErrInactive},
	"a disabled key":                     {edit(func(k *polartest.LicenseKey) { k.Status = "disabled" }), func(w *kit.World) { w.Polar.Grant(w.Key.ID) }, polargate.ErrInactive},
	"a deleted key":                      {edit(func(k *polartest.LicenseKey) { k.Deleted = true }), edit(func(k *polartest.LicenseKey) { k.Deleted = false }), polargate.ErrUnknownKey},
	"a released seat":                    {edit(func(k *polartest.LicenseKey) { k.Activations[0].Released = true }), edit(func(k *polartest.LicenseKey) { k.Activations[0].Released = false }), polargate.ErrSeatReleased},
	"other conditions":                   {edit(func(k *polartest.LicenseKey) { k.Activations[0].Conditions["edition"] = "gold" }), edit(func(k *polartest.LicenseKey) { delete(k.Activations[0].Conditions, "edition") }), polargate.ErrConditionsMismatch},
	"another benefit":                    {edit(func(k *polartest.LicenseKey) { k.BenefitID = otherBenefit }), func(w *kit.World) { edit(func(k *polartest.LicenseKey) { k.BenefitID = w.Key.BenefitID })(w) }, polargate.ErrWrongBenefit},
	"an expired key":                     {func(w *kit.World) { expireAt(w, time.Now().Add(-time.Second)) }, func(w *kit.World) { expireAt(w, time.Now().Add(1000*kit.Day)) }, polargate.ErrExpired},
	"an expired key, now":                {func(w *kit.World) { expireAt(w, time.Now()) }, func(w *kit.World) { expireAt(w, time.Time{}) }, polargate.ErrExpired},
	"a status of tomorrow in a 200":      {inject(altered(set("status", "suspended"))), clearFaults, polargate.ErrInactive},
	"a status in capitals in a 200":      {inject(altered(set("status", "GRANTED"))), clearFaults, polargate.ErrInactive},
	"an expiry that is past in a 200":    {inject(altered(set("expires_at", "1999-12-31T23:59:59Z"))), clearFaults, polargate.ErrExpired},
	"a benefit of no program in a 200":   {inject(altered(set("benefit_id", otherBenefit))), clearFaults, polargate.ErrWrongBenefit},
	"a refusal in words of tomorrow":     {inject(polartest.Body(404, applicationJSON, `{"error":"ResourceNotFound","detail":"License key sleeps today."}`)), clearFaults, polargate.ErrDenied},
	"a 403 refusal in words of tomorrow": {inject(polartest.Body(403, applicationJSON, `{"error":"NotPermitted","detail":"License key sleeps today."}`)), clearFaults, polargate.ErrDenied},
	"a 400 refusal in words of tomorrow": {inject(polartest.Body(400, applicationJSON, `{"error":"BadRequest","detail":"License key sleeps today."}`)), clearFaults, polargate.ErrDenied},
	"a refusal with more fields":         {inject(polartest.Body(404, applicationJSON+"; charset=utf-8", `{"type":"x","error":"ResourceNotFound","detail":"License key is no longer active.","trace":{"id":1}}`)), clearFaults, polargate.ErrInactive},
}

const otherBenefit = "7f1d7c1e-6f0e-4a3e-8e58-0d2f9f4f2b6a"

func edit(change func(*polartest.LicenseKey)) func(*kit.World) {
	return func(w *kit.World) { w.Polar.Update(w.Key.ID, change) }
}

func expireAt(w *kit.World, at time.Time) {
	w.Polar.Update(w.Key.ID, func(k *polartest.LicenseKey) { k.ExpiresAt = at })
}

func inject(effect polartest.Effect) func(*kit.World) {
	return func(w *kit.World) { w.Inject(kit.PathValidate, 0, effect) }
}

func clearFaults(w *kit.World) { w.Polar.ClearFaults() }

func TestARefusalLocksUntilPolarGrantsAgain(t *testing.T) {
	t.Parallel()
	calls := map[string]func(context.Context, *polargate.Gate) error{
		"by Check":   func(ctx context.Context, g *polargate.Gate) error { _, err := g.Check(ctx); return err },
		"by Refresh": func(ctx context.Context, g *polargate.Gate) error { _, err := g.Refresh(ctx); return err },
		"by Consume": func(ctx context.Context, g *polargate.Gate) error { _, err := g.Consume(ctx, 1); return err },
	}
	for name, test := range refusals {
		for how, call := range calls {
			t.Run(name+" "+how, func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					w := kit.NewWorld(t)
					gate := w.Activated()
					time.Sleep(25 * time.Hour)
					test.make(w)
					err := call(t.Context(), gate)
					require.ErrorIs(t, err, test.reason)
					assert.True(t, kit.ReasonOf(err).Denial())
					status := gate.Status()
					assert.Equal(t, polargate.Locked, status.State)
					assert.Equal(t, test.reason, status.Reason)
					assert.Equal(t, time.Now().UTC(), status.CheckedAt.UTC())
					assert.Empty(t, status.Features)
					assert.NotEmpty(t, status.Message)
					assert.False(t, gate.Has("export"))
					var e *polargate.Error
					require.ErrorAs(t, err, &e)
					if e.StatusCode >= 400 {
						assert.Zero(t, w.Now().Usage, "nothing is counted by an answer that refuses")
					}

					w.Polar.SetOffline(true)
					_, err = gate.Check(t.Context())
					require.ErrorIs(t, err, test.reason, "with the cable pulled it stays locked")
					assert.False(t, gate.Has("export"))
					next := w.Open()
					assert.False(t, next.Has("export"), "and in the next run")
					_, err = next.Check(t.Context())
					require.ErrorIs(t, err, test.reason)

					w.Polar.SetOffline(false)
					test.undo(w)
					time.Sleep(time.Minute)
					status, err = gate.Check(t.Context())
					require.NoError(t, err)
					assert.Equal(t, polargate.Active, status.State)
					assert.Empty(t, status.Reason)
					assert.True(t, gate.Has("export"))
					assert.True(t, w.Now().ExpiresAt.Equal(status.ExpiresAt), "the expiry is the one of now")
					assert.Equal(t, 1, w.Seats())
				})
			})
		}
	}
}

func TestTheTextOfAnUnknownRefusalIsKept(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := kit.NewWorld(t)
		gate := w.Activated()
		w.Inject(kit.PathValidate, 0, polartest.Body(404, applicationJSON, `{"error":"ResourceNotFound","detail":"License key sleeps\u0000\u001b[31m today. `+strings.Repeat("z", 5000)+`"}`))
		_, err := gate.Refresh(t.Context())
		var e *polargate.Error
		require.ErrorAs(t, err, &e)
		assert.Contains(t, e.Detail, "License key sleeps")
		assert.LessOrEqual(t, len([]rune(e.Detail)), 200)
		assert.NotContains(t, err.Error(), "\x1b")
		assert.NotContains(t, err.Error(), "\x00")
		assert.Equal(t, 404, e.StatusCode)
	})
}

func TestARefusedActivationSaysWhyAndGivesNothing(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		change func(*polartest.LicenseKey)
		reason polargate.Reason
	}{
		"a revoked key":          {func(k *polartest.LicenseKey) { k.Status = "revoked" }, polargate.ErrInactive},
		"a disabled key":         {func(k *polartest.LicenseKey) { k.Status = "disabled" }, polargate.ErrInactive},
		"a deleted key":          {func(k *polartest.LicenseKey) { k.Deleted = true }, polargate.ErrUnknownKey},
		"an expired key":         {func(k *polartest.LicenseKey) { k.ExpiresAt = time.Now().Add(-time.Hour) }, polargate.ErrExpired},
		"a key without seats":    {kit.WithoutSeats, polargate.ErrActivationsUnsupported},
		"a key with seats of 0":  {kit.Limit(0), polargate.ErrActivationsUnsupported},
		"a key of other benefit": {func(k *polartest.LicenseKey) { k.BenefitID = otherBenefit }, polargate.ErrWrongBenefit},
		"a key whose seats are gone": {func(k *polartest.LicenseKey) {
			k.LimitActivations, k.Activations = polartest.Limit(1), []polartest.Activation{{Label: "another computer"}}
		}, polargate.ErrActivationLimit},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := kit.NewWorld(t, test.change)
				w.Config.Features = map[string][]string{"11111111-1111-4111-8111-111111111111": {"sync"}, w.Key.BenefitID: {"export"}}
				delete(w.Config.Features, otherBenefit)
				gate := w.Open()
				seats := w.Seats()
				status, err := gate.Activate(t.Context(), w.Key.Key)
				require.ErrorIs(t, err, test.reason)
				assert.Equal(t, polargate.Unlicensed, status.State)
				assert.False(t, gate.Has("export"))
				synctest.Wait()
				assert.Equal(t, seats, w.Seats())
				_, err = gate.Check(t.Context())
				require.Error(t, err, "and plain validation does not let it in by the back door")
				assert.False(t, gate.Has("export"))
				assert.False(t, w.Open().Has("export"))
			})
		})
	}
}

func TestAKeyOfTwoOrganizationsIsUnknownInTheOther(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := kit.NewWorld(t)
		foreign := w.Polar.AddKey(polartest.LicenseKey{OrganizationID: "8f7ab6a8-4a51-4bb1-9f0a-6f7f7a0a3c11", LimitActivations: polartest.Limit(3), BenefitID: w.Key.BenefitID})
		_, err := w.Open().Activate(t.Context(), foreign.Key)
		require.ErrorIs(t, err, polargate.ErrUnknownKey)
		assert.Zero(t, w.Polar.Seats(foreign.ID))
	})
}

func TestTooFewUsesRefuseTheCallAndNotTheLicense(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := kit.NewWorld(t, kit.Usage(10))
		gate := w.Activated()
		left, err := gate.Consume(t.Context(), 7)
		require.NoError(t, err)
		assert.Equal(t, int64(3), left)
		_, err = gate.Consume(t.Context(), 4)
		require.ErrorIs(t, err, polargate.ErrUsageExceeded)
		assert.False(t, kit.ReasonOf(err).Denial())
		assert.Equal(t, polargate.Active, gate.Status().State)
		assert.True(t, gate.Has("export"))
		assert.Equal(t, int64(7), w.Now().Usage)
		left, err = gate.Consume(t.Context(), 3)
		require.NoError(t, err)
		assert.Zero(t, left)
		status, err := gate.Refresh(t.Context())
		require.NoError(t, err, "a key that is used up is still a license")
		assert.Equal(t, polargate.Active, status.State)
	})
	synctest.Test(t, func(t *testing.T) {
		w := kit.NewWorld(t)
		left, err := w.Activated().Consume(t.Context(), 7)
		require.NoError(t, err)
		assert.Equal(t, polargate.Unlimited, left)
	})
}

func TestExpiryAndBenefitAreThoseThatPolarHasNow(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := kit.NewWorld(t, func(k *polartest.LicenseKey) { k.ExpiresAt = time.Now().Add(10 * kit.Day) })
		w.Config.Features[otherBenefit] = []string{"print"}
		gate := w.Activated()
		assert.True(t, gate.Status().ExpiresAt.Equal(time.Now().Add(10*kit.Day)))
		expireAt(w, time.Now().Add(20*kit.Day))
		w.Polar.Update(w.Key.ID, func(k *polartest.LicenseKey) { k.BenefitID = otherBenefit })
		status, err := gate.Refresh(t.Context())
		require.NoError(t, err)
		assert.True(t, status.ExpiresAt.Equal(time.Now().Add(20*kit.Day)))
		assert.Equal(t, otherBenefit, status.BenefitID)
		assert.Equal(t, []string{"print"}, status.Features)
		assert.True(t, gate.Has("print"))
		assert.False(t, gate.Has("export"))
		expireAt(w, time.Time{})
		status, err = gate.Refresh(t.Context())
		require.NoError(t, err)
		assert.True(t, status.ExpiresAt.IsZero())
	})
}

func TestAPauseIsKeptByEverybodyAndThenOver(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		header         string
		silent, atMost time.Duration
	}{
		"a pause of 30 s":               {"30", 30 * time.Second, 2 * time.Minute},
		"a pause that is not named":     {"", time.Second, 5 * time.Minute},
		"a pause that is nonsense":      {"a while", time.Second, 5 * time.Minute},
		"a pause in the past":           {"-30", 0, 5 * time.Minute},
		"a pause that goes on for ever": {"999999999999999999999", 30 * time.Second, kit.Day},
		"a pause of thirty years":       {"946080000", 30 * time.Second, kit.Day},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := kit.NewWorld(t)
				gate := w.Activated()
				other := w.Open()
				w.Inject("", 1, polartest.RateLimited(test.header))
				w.Polar.ForgetRequests()
				_, err := gate.Refresh(t.Context())
				require.ErrorIs(t, err, polargate.ErrRateLimited)
				var e *polargate.Error
				require.ErrorAs(t, err, &e)
				if test.silent > 0 {
					assert.Positive(t, e.RetryAfter)
					ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
					defer cancel()
					began := time.Now()
					_, err = other.Refresh(ctx)
					require.Error(t, err)
					assert.ErrorIs(t, err, polargate.ErrRateLimited)
					assert.LessOrEqual(t, time.Since(began), 100*time.Millisecond, "nobody sleeps past its own deadline")
				}
				began := time.Now()
				for {
					status, err := other.Refresh(t.Context())
					if err == nil {
						assert.Equal(t, polargate.Active, status.State)
						break
					}
					time.Sleep(time.Second)
					require.LessOrEqual(t, time.Since(began), test.atMost)
				}
				assert.GreaterOrEqual(t, time.Since(began)+time.Second, test.silent)
				assert.Equal(t, 2, w.Polar.Count(""), "nobody asked in the pause")
			})
		})
	}
}

func TestNoRedirectIsFollowed(t *testing.T) {
	t.Parallel()
	for _, status := range []int{302, 303, 307, 308} {
		t.Run(fmt.Sprint(status), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := kit.NewWorld(t)
				follows := w.Polar.Client()
				asked := 0
				follows.CheckRedirect = func(*http.Request, []*http.Request) error { asked++; return nil }
				w.Config.HTTPClient = follows
				gate := w.Activated()
				sent := w.Polar.Count("")
				w.Inject("", 0, polartest.LoginPage(status))
				_, err := gate.Refresh(t.Context())
				require.ErrorIs(t, err, polargate.ErrUnreachable)
				_, err = gate.Consume(t.Context(), 1)
				require.Error(t, err)
				_ = gate.Deactivate(t.Context())
				_, err = gate.Activate(t.Context(), w.Key.Key)
				require.Error(t, err)
				for _, r := range w.Polar.Requests()[sent:] {
					assert.Equal(t, "LoginPage", r.Fault, "%s %s went where the redirect led", r.Method, r.Path)
				}
				assert.Zero(t, asked)
				require.NotNil(t, follows.CheckRedirect, "the program's own client is not changed")
			})
		})
	}
}

func TestTheKeyReachesNoOtherHost(t *testing.T) {
	t.Parallel()
	var strayed atomic.Int64
	elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { strayed.Add(1) }))
	t.Cleanup(elsewhere.Close)
	for _, status := range []int{301, 302, 303, 307, 308} {
		t.Run(fmt.Sprint(status), func(t *testing.T) {
			t.Parallel()
			var asked atomic.Int64
			redirects := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
				asked.Add(1)
				http.Redirect(rw, r, elsewhere.URL+r.URL.Path, status)
			}))
			t.Cleanup(redirects.Close)
			gate, err := polargate.Open(polargate.Config{
				OrganizationID: "34f57e13-8bcb-4481-85b2-a4b55c4ba0b9", BaseURL: redirects.URL,
				Store: &polargate.MemoryStore{}, Fingerprint: kit.ThisMachine,
			})
			require.NoError(t, err)
			t.Cleanup(func() { _ = gate.Close() })
			_, err = gate.Activate(t.Context(), "POLAR-00000000-0000-4000-8000-000000000000")
			assertLeavesAlone(t, err)
			assert.Equal(t, int64(1), asked.Load())
			assert.Zero(t, strayed.Load())
		})
	}
}

func TestTheKeyIsInNoAddressAndNoHeader(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := kit.NewWorld(t)
		gate := w.Activated()
		_, err := gate.Refresh(t.Context())
		require.NoError(t, err)
		_, err = gate.Consume(t.Context(), 1)
		require.NoError(t, err)
		require.NoError(t, gate.Deactivate(t.Context()))
		require.GreaterOrEqual(t, w.Polar.Count(""), 4)
		for _, r := range w.Polar.Requests() {
			assert.Contains(t, string(r.Body), w.Key.Key)
			assert.NotContains(t, r.Path+r.RawQuery+fmt.Sprint(r.Header), w.Key.Key)
			assert.Empty(t, r.Header.Get("Polar-Version"))
			assert.Empty(t, r.Header.Get("Authorization"))
			assert.Contains(t, r.Header.Get("User-Agent"), "inkwell")
		}
	})
}

func TestTheSecondQuestionAfterNotFoundMayStayUnanswered(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := kit.NewWorld(t)
		gate := w.Activated()
		w.Polar.Update(w.Key.ID, func(k *polartest.LicenseKey) { k.Activations[0].Released = true })
		w.Polar.Inject(polartest.Fault{Path: kit.PathValidate, Skip: 1, Effect: polartest.LoginPage(200)})
		status, err := gate.Refresh(t.Context())
		require.Error(t, err)
		assert.Equal(t, polargate.Locked, status.State, "Polar itself said Not found to the first")
		assert.True(t, kit.ReasonOf(err).Denial())
		assert.False(t, gate.Has("export"))
	})
}
