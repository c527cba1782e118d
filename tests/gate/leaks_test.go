package gate

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/polargate/polargate"
	"github.com/polargate/polargate/polartest"
	"github.com/polargate/polargate/tests/internal/kit"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// secrets are texts that must not come out anywhere.
type secrets []string

// assertNone fails if text has one of the secrets in it, as it is, in another
// case, escaped, in hexadecimal, as a list of bytes, or in base64.
func (all secrets) assertNone(t *testing.T, text, where string) {
	t.Helper()
	lower := strings.ToLower(text)
	for _, secret := range all {
		for form, leak := range map[string]string{
			"but its end":   secret[:len(secret)-7],
			"hexadecimal":   hex.EncodeToString([]byte(secret)),
			"spaced hex":    fmt.Sprintf("% x", secret),
			"bytes":         strings.Trim(fmt.Sprint([]byte(secret)), "[]"),
			"Go's bytes":    strings.TrimSuffix(strings.TrimPrefix(fmt.Sprintf("%#v", []byte(secret)), "[]byte{"), "}"),
			"query-escaped": url.QueryEscape(secret),
			"base64":        base64.RawStdEncoding.EncodeToString([]byte(secret))[:len(secret)],
		} {
			if at := strings.Index(lower, strings.ToLower(leak)); at >= 0 {
				assert.Fail(t, "a secret came out", "%s, %s: …%s", where, form, lower[max(0, at-200):min(len(lower), at+len(leak)+50)])
				return
			}
		}
	}
}

var verbs = []string{"%v", "%+v", "%#v", "%q", "%s", "%x", "%X", "%d", "%+q", "%#q", "% x", "%#x", "%T", "%t", "%f", "%c", "%U", "%10v", "%.3s", "%-80s"}

// assertPrintsNone prints a value in every way that a program logs with.
func (all secrets) assertPrintsNone(t *testing.T, what string, value any) {
	t.Helper()
	var out bytes.Buffer
	loggers := []*slog.Logger{slog.New(slog.NewTextHandler(&out, nil)), slog.New(slog.NewJSONHandler(&out, nil))}
	for _, v := range []any{value, []any{value}, map[string]any{"value": value}, &struct{ V any }{value}} {
		for _, verb := range verbs {
			fmt.Fprintf(&out, "by %s: ", verb[1:])
			fmt.Fprintf(&out, verb+"\n", v)
		}
		fmt.Fprintln(&out, "by Println:", v)
		for _, logger := range loggers {
			logger.With("value", v).WithGroup("group").Error("by slog", "again", v, slog.Group("deep", "value", v))
		}
		data, err := json.Marshal(v)
		fmt.Fprintf(&out, "by JSON: %s %v\n", data, err)
	}
	if err, ok := value.(error); ok {
		for e := range chain(err) {
			fmt.Fprintf(&out, "in its chain: %s %+v %#v\n", e.Error(), e, e)
		}
	}
	all.assertNone(t, out.String(), what)
}

func chain(err error) map[error]bool {
	seen := map[error]bool{}
	var walk func(error)
	walk = func(e error) {
		if e == nil {
			return
		}
		func() {
			defer func() { _ = recover() }() // not every error can be compared
			seen[e] = true
		}()
		if one := errors.Unwrap(e); one != nil {
			walk(one)
		}
		if several, ok := e.(interface{ Unwrap() []error }); ok {
			for _, inner := range several.Unwrap() {
				walk(inner)
			}
		}
	}
	walk(err)
	return seen
}

const (
	theSecret = "hush-hush-5ecret-of-the-vendor"
	theToken  = "polar_oat_TheT0kenOfTheServerThatNobodySees"
	theEmail  = "ada.lovelace@analytical-engine.example"
)

func TestNothingThatIsPrintedHasASecretInIt(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := kit.NewWorld(t, func(k *polartest.LicenseKey) { k.Customer.Email, k.Customer.Name = theEmail, "Ada" })
		token := w.Polar.AddToken(polartest.Token{Token: theToken})
		all := secrets{w.Key.Key, token, theEmail, theSecret}
		w.Config.Secret = theSecret
		gate := w.Activated()
		all.assertPrintsNone(t, "Config", w.Config)
		all.assertPrintsNone(t, "*Config", &w.Config)
		all.assertPrintsNone(t, "*Gate", gate)
		status := gate.Status()
		all.assertPrintsNone(t, "Status", status)
		all.assertPrintsNone(t, "*Status", &status)

		key, err := polargate.ParseKey(w.Key.Key)
		require.NoError(t, err)
		all.assertPrintsNone(t, "Key", key)
		all.assertPrintsNone(t, "*Key", &key)
		all.assertPrintsNone(t, "Keys", []polargate.Key{key})
		all.assertPrintsNone(t, "a map by Key", map[polargate.Key]string{key: "x"})
		text, err := key.MarshalText()
		require.NoError(t, err)
		all.assertNone(t, string(text), "MarshalText")

		config := polargate.ClientConfig{OrganizationID: w.Polar.OrganizationID(), AccessToken: token, BaseURL: w.Polar.URL(), HTTPClient: w.Polar.Client()}
		client, err := polargate.NewClient(config)
		require.NoError(t, err)
		defer client.Close()
		all.assertPrintsNone(t, "ClientConfig", config)
		all.assertPrintsNone(t, "*ClientConfig", &config)
		all.assertPrintsNone(t, "*Client", client)
		request := polargate.ActivateRequest{Key: key, Label: "laptop", Conditions: map[string]any{"a": 1}, Meta: map[string]any{"b": 2}}
		all.assertPrintsNone(t, "ActivateRequest", request)
		all.assertPrintsNone(t, "*ActivateRequest", &request)
		seat, err := client.Activate(t.Context(), request)
		require.NoError(t, err)
		require.NotNil(t, seat.LicenseKey)
		require.Equal(t, w.Key.Key, seat.LicenseKey.Key.Reveal())
		all.assertPrintsNone(t, "*Activation", seat)
		all.assertPrintsNone(t, "Activation", *seat)
		question := polargate.ValidateRequest{Key: key, ActivationID: seat.ID, Conditions: map[string]any{"a": 1}}
		all.assertPrintsNone(t, "ValidateRequest", question)
		all.assertPrintsNone(t, "*ValidateRequest", &question)
		license, err := client.Validate(t.Context(), question)
		require.NoError(t, err)
		require.Equal(t, w.Key.Key, license.Key.Reveal())
		require.Equal(t, theEmail, license.Customer.Email.Reveal())
		all.assertPrintsNone(t, "*LicenseKey", license)
		all.assertPrintsNone(t, "LicenseKey", *license)
		all.assertPrintsNone(t, "Customer", license.Customer)
		all.assertPrintsNone(t, "Email", license.Customer.Email)
		all.assertPrintsNone(t, "*Email", &license.Customer.Email)
	})
}

func TestAShortKeyShowsNothingAtAll(t *testing.T) {
	t.Parallel()
	for _, short := range []string{"x", "ABC123", "SHORT-KEY-00001"} {
		key, err := polargate.ParseKey(short)
		require.NoError(t, err)
		assert.Equal(t, "****", key.String())
		for _, verb := range []string{"%v", "%+v", "%#v", "%q", "%s", "%x"} {
			assert.NotContains(t, fmt.Sprintf(verb, key), short)
		}
	}
}

// echoes are answers of a server that says back what it was told.
func echoes(secret string) map[string]polartest.Effect {
	body := func(status int, kind, text string) polartest.Effect {
		quoted, err := json.Marshal(secret)
		if err != nil {
			panic(err)
		}
		return polartest.Body(status, kind, strings.NewReplacer("KEY", strings.Trim(string(quoted), `"`)).Replace(text))
	}
	return map[string]polartest.Effect{
		"in the detail of a refusal":            body(404, applicationJSON, `{"error":"ResourceNotFound","detail":"License key KEY has expired."}`),
		"in a detail, twice and alone":          body(403, applicationJSON, `{"error":"NotPermitted","detail":"KEY KEY"}`),
		"in the detail of a bad request":        body(400, applicationJSON, `{"error":"BadRequest","detail":"License key KEY only has 7 more usages."}`),
		"in a detail, in small letters":         body(404, applicationJSON, strings.ToLower(`{"ERROR":"x","DETAIL":"`)+strings.ToLower(secret)+`"}`),
		"in a refusal's detail, small letters":  body(404, applicationJSON, `{"error":"ResourceNotFound","detail":"no `+strings.ToLower(secret)+`"}`),
		"in a detail, at the cut":               body(404, applicationJSON, `{"error":"ResourceNotFound","detail":"`+strings.Repeat("z", 185)+` KEY"}`),
		"in a detail, escaped for an address":   body(404, applicationJSON, `{"error":"ResourceNotFound","detail":"`+url.QueryEscape(secret)+`"}`),
		"in the input of a 422":                 body(422, applicationJSON, `{"error":"RequestValidationError","detail":[{"loc":["body","key"],"msg":"bad","type":"x","input":"KEY"}]}`),
		"in the msg and loc of a 422":           body(422, applicationJSON, `{"error":"RequestValidationError","detail":[{"loc":["body","KEY"],"msg":"KEY is bad","type":"KEY","input":{"key":"KEY"}}]}`),
		"in the description of a 401":           body(401, applicationJSON, `{"error":"invalid_token","error_description":"not KEY"}`),
		"in the error of a 401":                 body(401, applicationJSON, `{"error":"KEY","error_description":"x"}`),
		"in the description of a missing scope": body(403, applicationJSON, `{"error":"insufficient_scope","error_description":"KEY","scope":"KEY"}`),
		"in the error of a 404":                 body(404, applicationJSON, `{"error":"KEY","detail":"KEY"}`),
		"in a web page with 200":                body(200, "text/html", `<title>KEY</title>`),
		"in a web page with 404":                body(404, "text/html", `<p>KEY</p>`),
		"in plain text with 500":                body(500, "text/plain", `KEY`),
		"in the type of the content":            body(200, "text/KEY; charset=KEY", `KEY`),
		"in JSON that is none":                  body(200, applicationJSON, `{"key":KEY}`),
		"in JSON that is a text":                body(200, applicationJSON, `"KEY"`),
		"in the wrong fields":                   body(200, applicationJSON, `{"id":"KEY","key":{"KEY":1},"status":"KEY","organization_id":"KEY","benefit_id":"KEY","expires_at":"KEY"}`),
		"in a status of tomorrow":               altered(set("status", secret)),
		"in an expiry":                          altered(set("expires_at", secret)),
		"in the headers": polartest.Rewrite(func(_ int, h http.Header, _ []byte) (int, []byte) {
			for _, name := range []string{"Location", "Retry-After", "Www-Authenticate", "X-Request-Id", "Date", "Server", "Set-Cookie"} {
				h.Set(name, secret)
			}
			return 302, nil
		}),
		"in the pause of a 429": polartest.RateLimited(secret),
		"in the address of a redirect": polartest.Rewrite(func(_ int, h http.Header, _ []byte) (int, []byte) {
			h.Set("Location", "https://elsewhere.example/?key="+url.QueryEscape(secret))
			return 307, nil
		}),
		"in an address that is none": polartest.Rewrite(func(_ int, h http.Header, _ []byte) (int, []byte) {
			h.Set("Location", "http://%zz/"+secret)
			return 302, nil
		}),
	}
}

func TestAServerThatEchoesGivesNothingAway(t *testing.T) {
	t.Parallel()
	for _, who := range []string{"the key", "the e-mail address", "the token"} {
		for name := range echoes("x") {
			t.Run(who+" "+name, func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					w := kit.NewWorld(t, func(k *polartest.LicenseKey) { k.Customer.Email = theEmail })
					token := w.Polar.AddToken(polartest.Token{Token: theToken})
					said := map[string]string{"the key": w.Key.Key, "the e-mail address": theEmail, "the token": token}[who]
					all := secrets{w.Key.Key, theEmail, token}
					var log kit.Lines
					w.Config.Logger = log.Logger()

					config := polargate.ClientConfig{OrganizationID: w.Polar.OrganizationID(), BaseURL: w.Polar.URL(), HTTPClient: w.Polar.Client(), Logger: w.Config.Logger}
					if who == "the token" {
						config.AccessToken = token
					}
					client, err := polargate.NewClient(config)
					require.NoError(t, err)
					defer client.Close()
					key, err := polargate.ParseKey(w.Key.Key)
					require.NoError(t, err)
					gate := w.Activated()
					w.Inject("", 0, echoes(said)[name])

					check := func(what string, err error) {
						t.Helper()
						require.Error(t, err, what)
						all.assertPrintsNone(t, what, err)
						var e *polargate.Error
						if errors.As(err, &e) {
							all.assertPrintsNone(t, what+" as *Error", *e)
						}
						time.Sleep(5 * time.Minute)
					}
					_, err = client.Validate(t.Context(), polargate.ValidateRequest{Key: key, ActivationID: w.Now().Activations[0].ID})
					check("Client.Validate", err)
					_, err = client.Activate(t.Context(), polargate.ActivateRequest{Key: key})
					check("Client.Activate", err)
					if err = client.Deactivate(t.Context(), key, otherBenefit); err != nil {
						check("Client.Deactivate", err)
					}
					if who != "the token" {
						_, err = gate.Consume(t.Context(), 1)
						check("Consume", err)
						status, err := gate.Refresh(t.Context())
						check("Refresh", err)
						all.assertPrintsNone(t, "Status", status)
						_, err = w.Open(func(c *polargate.Config) { c.Store = &polargate.MemoryStore{} }).Activate(t.Context(), w.Key.Key)
						check("Activate", err)
						if err = gate.Deactivate(t.Context()); err != nil {
							check("Deactivate", err)
						}
						all.assertPrintsNone(t, "Status", gate.Status())
					}
					all.assertNone(t, log.String(), "the log")
				})
			})
		}
	}
}

func TestTheErrorsAndTheLogOfAWholeLifeKeepTheSecrets(t *testing.T) {
	t.Parallel()
	effects := map[string]polartest.Effect{"nothing wrong": polartest.Delay(0)}
	for name, test := range proveNothing {
		if !strings.HasPrefix(name, "a 200 with ") { // of which one stands for all
			effects[name] = test.effect
		}
	}
	effects["a 200 with no status"] = proveNothing["a 200 with no status"].effect
	for name, effect := range effects {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := kit.NewWorld(t, kit.Usage(3), func(k *polartest.LicenseKey) { k.Customer.Email = theEmail })
				second := w.Polar.AddKey(polartest.LicenseKey{LimitActivations: polartest.Limit(1), BenefitID: w.Key.BenefitID})
				foreign := w.Polar.AddKey(polartest.LicenseKey{LimitActivations: polartest.Limit(1), BenefitID: otherBenefit})
				all := secrets{w.Key.Key, second.Key, foreign.Key, theEmail, theSecret}
				var log kit.Lines
				store := &kit.BrittleStore{}
				w.Config.Logger, w.Config.Secret, w.Config.Store = log.Logger(), theSecret, store
				w.Config.OnChange = func(_, s polargate.Status) { all.assertNone(t, fmt.Sprintf("%+v %#v %s", s, s, s.Message), "OnChange") }
				ctx, cancel := context.WithTimeout(t.Context(), 100*kit.Day)
				defer cancel()
				said := func(what string, err error) {
					t.Helper()
					for e := range chain(err) {
						all.assertNone(t, fmt.Sprintf("%v %+v %#v %q", e, e, e, e), what)
					}
				}
				live := func(gate *polargate.Gate) {
					for _, key := range []string{w.Key.Key, second.Key, foreign.Key, "no-such-" + second.Key, w.Key.Key} {
						_, err := gate.Activate(ctx, key)
						said("Activate", err)
						_, err = gate.Refresh(ctx)
						said("Refresh", err)
						_, err = gate.Consume(ctx, 2)
						said("Consume", err)
						_, err = gate.Check(ctx)
						said("Check", err)
						all.assertNone(t, fmt.Sprintf("%v %+v %#v", gate.Status(), gate.Status(), gate.Status()), "Status")
						time.Sleep(2 * time.Minute)
					}
				}
				gate := w.Open()
				w.Inject("", 0, effect)
				live(gate)
				said("Deactivate", gate.Deactivate(ctx))
				w.Polar.ClearFaults()
				time.Sleep(time.Hour)
				live(gate)
				w.Inject("", 0, effect)
				live(gate)
				store.Set(kit.Fails, kit.Fails, kit.Fails)
				live(gate)
				store.Set(nil, nil, nil)
				w.Polar.ClearFaults()
				time.Sleep(time.Hour)
				w.Polar.Revoke(w.Key.ID)
				_, err := gate.Refresh(ctx)
				said("Refresh", err)
				for state := range store.Contents() {
					require.NoError(t, store.Save(ctx, state, []byte("damaged "+w.Key.Key)))
				}
				_, err = w.Open().Check(ctx)
				said("Check", err)
				require.NoError(t, gate.Close())
				_, err = gate.Check(ctx)
				said("Check", err)
				all.assertNone(t, log.String(), "the log")
				for name := range store.Contents() {
					all.assertNone(t, name, "a name in the store")
				}
			})
		})
	}
}

func TestTheStateHasNoSecretInPlainSight(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := kit.NewWorld(t, func(k *polartest.LicenseKey) { k.Customer.Email = theEmail })
		store := &kit.BrittleStore{}
		w.Config.Store, w.Config.Secret = store, theSecret
		gate := w.Activated()
		_, err := gate.Refresh(t.Context())
		require.NoError(t, err)
		states := store.Contents()
		require.NotEmpty(t, states)
		for name, data := range states {
			secrets{w.Key.Key, theEmail, theSecret, kit.ThisMachine, w.Key.BenefitID, w.Now().Activations[0].ID}.assertNone(t, string(data), name)
		}
	})
}
