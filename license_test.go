package polargate

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/polargate/polargate/polartest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func jsonBody(t *testing.T, v any) io.Reader {
	t.Helper()
	data, err := json.Marshal(v)
	require.NoError(t, err)
	return bytes.NewReader(data)
}

// recorded is an exchange with a real Polar server.
type recorded struct {
	Request struct {
		Method string         `json:"method"`
		Path   string         `json:"path"`
		Body   map[string]any `json:"body"`
	} `json:"request"`
	Response struct {
		Status  int               `json:"status"`
		Headers map[string]string `json:"headers"`
		Body    json.RawMessage   `json:"body"`
	} `json:"response"`
}

func readRecorded(t *testing.T, path string) recorded {
	t.Helper()
	data, err := os.ReadFile(path)
	require.NoError(t, err)
	var r recorded
	require.NoError(t, json.Unmarshal(data, &r))
	return r
}

// answering is a server that gives a recorded answer to everything.
type answering struct{ r recorded }

func (a answering) RoundTrip(req *http.Request) (*http.Response, error) {
	rec := httptest.NewRecorder()
	for name, value := range a.r.Response.Headers {
		rec.Header().Set(name, value)
	}
	rec.WriteHeader(a.r.Response.Status)
	if string(a.r.Response.Body) != "null" {
		_, _ = rec.Write(a.r.Response.Body)
	}
	resp := rec.Result()
	resp.Request = req
	return resp, nil
}

// A refusal that Polar really gave is read as what it meant.
func TestRecordedAnswersBecomeTheVerdictsThatPolarMeant(t *testing.T) {
	t.Parallel()
	for file, want := range map[string]Reason{
		"validate/ok.json":                             "",
		"validate/ok_activation_conditions.json":       "",
		"validate/ok_noact_nolimits.json":              "",
		"validate/ok_key_unicode.json":                 "",
		"validate/ok_short_key.json":                   "",
		"validate/ok_expires_in_future.json":           "",
		"validate/unknown_key.json":                    ErrUnknownKey,
		"validate/unknown_org.json":                    ErrUnknownKey,
		"validate/lowercase_key.json":                  ErrUnknownKey,
		"validate/activation_unknown.json":             ErrUnknownKey,
		"validate/revoked.json":                        ErrInactive,
		"validate/disabled.json":                       ErrInactive,
		"validate/expired.json":                        ErrExpired,
		"validate/conditions_mismatch_different.json":  ErrConditionsMismatch,
		"validate/wrong_benefit_id.json":               ErrWrongBenefit,
		"validate/wrong_customer_id.json":              ErrWrongCustomer,
		"validate/increment_usage_over_limit.json":     ErrUsageExceeded,
		"validate/portal_with_bad_token.json":          ErrMisconfigured,
		"validate/org_malformed.json":                  ErrMisconfigured,
		"validate/both_missing.json":                   ErrMisconfigured,
		"validate/increment_usage_int64_overflow.json": ErrUnreachable,
		"validate/key_invalid_utf8.json":               ErrUnreachable,
		"validate/no_v1.json":                          ErrUnreachable,
		"validate/put_405.json":                        ErrUnreachable,
		"validate/trailing_slash.json":                 ErrUnreachable,
		"validate/body_over_10MiB.json":                ErrUnreachable,
		"validate/get_405.json":                        ErrMisconfigured,
		"activate/ok.json":                             "",
		"activate/ok_conditions_meta.json":             "",
		"activate/full.json":                           ErrActivationLimit,
		"activate/limit_reached.json":                  ErrActivationLimit,
		"activate/unsupported_null.json":               ErrActivationsUnsupported,
		"activate/revoked.json":                        ErrInactive,
		"activate/expired.json":                        ErrExpired,
		"activate/unknown_key.json":                    ErrUnknownKey,
		"activate/label_null.json":                     ErrMisconfigured,
		"activate/chunked_no_content_length.json":      ErrUnreachable,
		"deactivate/ok.json":                           "",
		"deactivate/again.json":                        ErrSeatReleased,
		"deactivate/unknown_key.json":                  ErrSeatReleased,
		"deactivate/activation_missing.json":           ErrMisconfigured,
	} {
		t.Run(file, func(t *testing.T) {
			t.Parallel()
			r := readRecorded(t, filepath.Join("polartest", "testdata", "golden", filepath.FromSlash(file)))
			synctest.Test(t, func(t *testing.T) { // for the pauses between retries
				text, _ := r.Request.Body["key"].(string)
				if text == "" {
					text = "ACME-TEST-OK-000001"
				}
				organization, _ := r.Request.Body["organization_id"].(string)
				if _, ok := canonicalUUID4(organization); !ok {
					organization = "34f57e13-8bcb-4481-85b2-a4b55c4ba0b9"
				}
				client, err := NewClient(ClientConfig{
					OrganizationID: organization,
					BaseURL:        polartest.New(polartest.Config{}).URL(),
					HTTPClient:     &http.Client{Transport: answering{r}},
				})
				require.NoError(t, err)
				key := newKey(text)
				switch folder, _, _ := strings.Cut(file, "/"); folder {
				case "validate":
					_, err = client.Validate(t.Context(), ValidateRequest{Key: key})
				case "activate":
					var a *Activation
					a, err = client.Activate(t.Context(), ActivateRequest{Key: key})
					if err == nil {
						assert.Equal(t, KeyGranted, a.LicenseKey.Status)
						assert.NotEmpty(t, a.LicenseKey.BenefitID)
					}
				case "deactivate":
					err = client.Deactivate(t.Context(), key, "601867b5-095f-4a2b-901c-0bb193a20652")
				}
				if want == "" {
					require.NoError(t, err)
					return
				}
				require.ErrorIs(t, err, want)
				assert.NotContains(t, err.Error(), text)
			})
		})
	}
}

func TestALicenseKeyIsLookedUpByItsIDWhateverItsStatus(t *testing.T) {
	t.Parallel()
	polar := polartest.New(polartest.Config{})
	key := polar.AddKey(polartest.LicenseKey{LimitActivations: polartest.Limit(2)})
	config := ClientConfig{
		OrganizationID: polar.OrganizationID(), BaseURL: polar.URL(), HTTPClient: polar.Client(),
		AccessToken: polar.AddToken(polartest.Token{}),
	}
	client, err := NewClient(config)
	require.NoError(t, err)
	for _, label := range []string{"older", "newer"} {
		_, err := client.Activate(t.Context(), ActivateRequest{Key: newKey(key.Key), Label: label, Meta: map[string]any{"fingerprint": label}})
		require.NoError(t, err)
	}
	polar.Revoke(key.ID)
	license, err := client.LicenseKey(t.Context(), strings.ToUpper(key.ID))
	require.NoError(t, err)
	assert.Equal(t, key.Key, license.Key.Reveal())
	assert.Equal(t, KeyRevoked, license.Status)
	require.Len(t, license.Activations, 2)
	assert.Equal(t, "newer", license.Activations[0].Label)
	assert.Equal(t, "older", license.Activations[1].Meta["fingerprint"])
	clone := license.clone()
	clone.Activations[0].Meta["fingerprint"] = "changed"
	assert.Equal(t, "newer", license.Activations[0].Meta["fingerprint"])

	_, err = client.LicenseKey(t.Context(), "8d8a7abc-87f9-4fe4-8680-86d3a0c05924")
	require.ErrorIs(t, err, ErrUnknownKey)
	asked := len(polar.Requests())
	for field, try := range map[string]func() (*LicenseKey, error){
		"id": func() (*LicenseKey, error) { return client.LicenseKey(t.Context(), "../customers") },
		"AccessToken": func() (*LicenseKey, error) {
			c := *client
			c.token = masked{}
			return c.LicenseKey(t.Context(), key.ID)
		},
	} {
		_, err := try()
		input, ok := errors.AsType[*InputError](err)
		require.True(t, ok, "%s: %v", field, err)
		assert.Equal(t, field, input.Field)
	}
	assert.Len(t, polar.Requests(), asked)

	// Another organization's token may see its own keys; those of ours are asked for.
	config.OrganizationID = "34f57e13-8bcb-4481-85b2-a4b55c4ba0b9"
	stranger, err := NewClient(config)
	require.NoError(t, err)
	_, err = stranger.LicenseKey(t.Context(), key.ID)
	require.ErrorIs(t, err, ErrUnreachable, "the answer is about another organization")
}

func TestOnlyAQuestionThatMayBeAskedTwiceIsRepeated(t *testing.T) {
	t.Parallel()
	key := newKey("ACME-KEY")
	granted := `{"id":"8d8a7abc-87f9-4fe4-8680-86d3a0c05924","key":"ACME-KEY","organization_id":"` + testOrganization + `","benefit_id":"850cc3a4-3ed7-4be6-b198-127ec8d33bb9","status":"granted"}`
	gateway := func(int, *http.Request) (*http.Response, error) { return response(502, "<html>"), nil }
	for name, test := range map[string]struct {
		ask    func(context.Context, *Client) error
		answer func(n int, r *http.Request) (*http.Response, error)
		sent   int
		want   Reason
	}{
		"validate is tried three times": {
			func(ctx context.Context, c *Client) error {
				_, err := c.Validate(ctx, ValidateRequest{Key: key})
				return err
			}, gateway, 3, ErrUnreachable,
		},
		"validate succeeds at the third try": {
			func(ctx context.Context, c *Client) error {
				_, err := c.Validate(ctx, ValidateRequest{Key: key})
				return err
			}, func(n int, r *http.Request) (*http.Response, error) {
				if n < 3 {
					return nil, io.ErrUnexpectedEOF
				}
				return response(200, granted), nil
			}, 3, "",
		},
		"counting usage is not repeated": {
			func(ctx context.Context, c *Client) error {
				_, err := c.Validate(ctx, ValidateRequest{Key: key, IncrementUsage: 1})
				return err
			}, gateway, 1, ErrUnreachable,
		},
		"activate is not repeated": {
			func(ctx context.Context, c *Client) error {
				_, err := c.Activate(ctx, ActivateRequest{Key: key})
				return err
			}, gateway, 1, ErrInDoubt,
		},
		"a denial is not repeated": {
			func(ctx context.Context, c *Client) error {
				_, err := c.Validate(ctx, ValidateRequest{Key: key})
				return err
			}, func(int, *http.Request) (*http.Response, error) {
				return response(404, `{"error":"ResourceNotFound","detail":"License key has expired."}`), nil
			}, 1, ErrExpired,
		},
		"a login page is not repeated": {
			func(ctx context.Context, c *Client) error {
				_, err := c.Validate(ctx, ValidateRequest{Key: key})
				return err
			}, func(int, *http.Request) (*http.Response, error) { return response(200, "<html>log in</html>"), nil }, 1, ErrUnreachable,
		},
		"a login page with a status of its own is not repeated": {
			func(ctx context.Context, c *Client) error {
				_, err := c.Validate(ctx, ValidateRequest{Key: key})
				return err
			}, func(int, *http.Request) (*http.Response, error) { return response(511, "<html>log in</html>"), nil }, 1, ErrUnreachable,
		},
		"a network that is not there is not looked for again": {
			func(ctx context.Context, c *Client) error {
				_, err := c.Validate(ctx, ValidateRequest{Key: key})
				return err
			}, func(int, *http.Request) (*http.Response, error) {
				return nil, &net.OpError{Op: "dial", Err: errors.New("network is unreachable")}
			}, 1, ErrUnreachable,
		},
		"no retry is begun that the context has no time for": {
			func(ctx context.Context, c *Client) error {
				ctx, cancel := context.WithTimeout(ctx, 20*time.Millisecond)
				defer cancel()
				_, err := c.Validate(ctx, ValidateRequest{Key: key})
				return err
			}, gateway, 1, ErrUnreachable,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s := &seen{answer: test.answer}
				began := time.Now()
				err := test.ask(context.Background(), seenClient(t, s, ClientConfig{}))
				assert.Equal(t, test.sent, s.count())
				assert.Less(t, time.Since(began), 5*time.Second)
				if test.want == "" {
					require.NoError(t, err)
				} else {
					require.ErrorIs(t, err, test.want)
				}
			})
		})
	}
}
