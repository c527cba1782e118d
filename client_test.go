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
	"sync"
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
func TestRecordedAnswersAreReadAsWhatPolarMeant(t *testing.T) {
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

// seen records what a client sent, and answers by a handler.
type seen struct {
	mu       sync.Mutex
	requests []*http.Request
	bodies   []string
	answer   func(n int, r *http.Request) (*http.Response, error)
}

func (s *seen) RoundTrip(r *http.Request) (*http.Response, error) {
	body, _ := io.ReadAll(r.Body)
	s.mu.Lock()
	s.requests = append(s.requests, r)
	s.bodies = append(s.bodies, string(body))
	n := len(s.requests)
	s.mu.Unlock()
	return s.answer(n, r)
}

func (s *seen) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.requests)
}

func response(status int, body string) *http.Response {
	return &http.Response{StatusCode: status, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(body))}
}

const testOrganization = "34f57e13-8bcb-4481-85b2-a4b55c4ba0b9"

func seenClient(t *testing.T, s *seen, config ClientConfig) *Client {
	t.Helper()
	config.OrganizationID = testOrganization
	config.BaseURL = polartest.New(polartest.Config{}).URL()
	config.HTTPClient = &http.Client{Transport: s}
	client, err := NewClient(config)
	require.NoError(t, err)
	return client
}

func TestARequestSaysWhoAsksAndNothingThatAgesBadly(t *testing.T) {
	t.Parallel()
	s := &seen{answer: func(int, *http.Request) (*http.Response, error) {
		return response(404, `{"error":"ResourceNotFound","detail":"Not found"}`), nil
	}}
	client := seenClient(t, s, ClientConfig{App: "ink well", Version: "1.4.2"})
	_, err := client.Validate(t.Context(), ValidateRequest{Key: newKey("ACME-KEY"), Conditions: map[string]any{"n": 1}})
	require.ErrorIs(t, err, ErrUnknownKey)
	require.Equal(t, 1, s.count())
	r := s.requests[0]
	assert.Equal(t, http.MethodPost, r.Method)
	assert.Equal(t, "/v1/customer-portal/license-keys/validate", r.URL.Path)
	assert.Empty(t, r.URL.RawQuery, "no key in a URL")
	assert.Equal(t, int64(len(s.bodies[0])), r.ContentLength)
	assert.Empty(t, r.TransferEncoding)
	assert.Regexp(t, `^ink-well/1\.4\.2 polargate(/\S+)? \([a-z0-9]+; [a-z0-9]+\)$`, r.Header.Get("User-Agent"))
	assert.Equal(t, "application/json", r.Header.Get("Content-Type"))
	assert.Empty(t, r.Header.Get("Authorization"))
	assert.Empty(t, r.Header.Get("Polar-Version"), "a version that Polar drops one day would be a 404 for ever")
	assert.JSONEq(t, `{"key":"ACME-KEY","organization_id":"`+testOrganization+`","conditions":{"n":1}}`, s.bodies[0],
		"what is not asked is left out: null is a 422 for maps")
}

func TestWithATokenTheServersEndpointsAreAsked(t *testing.T) {
	t.Parallel()
	polar := polartest.New(polartest.Config{})
	key := polar.AddKey(polartest.LicenseKey{LimitActivations: polartest.Limit(1)})
	client, err := NewClient(ClientConfig{
		OrganizationID: polar.OrganizationID(), BaseURL: polar.URL(), HTTPClient: polar.Client(),
		AccessToken: polar.AddToken(polartest.Token{}),
	})
	require.NoError(t, err)
	k := newKey(key.Key)
	a, err := client.Activate(t.Context(), ActivateRequest{Key: k, Label: "server"})
	require.NoError(t, err)
	license, err := client.Validate(t.Context(), ValidateRequest{Key: k, ActivationID: a.ID})
	require.NoError(t, err)
	require.NotNil(t, license.Activation)
	assert.Equal(t, "server", license.Activation.Label)
	require.NoError(t, client.Deactivate(t.Context(), k, a.ID))
	require.ErrorIs(t, client.Deactivate(t.Context(), k, a.ID), ErrSeatReleased)
	for _, r := range polar.Requests() {
		assert.True(t, strings.HasPrefix(r.Path, "/v1/license-keys/"), r.Path)
	}
	// Far more than 3 a second: the pace is that of tokens.
	for range 20 {
		_, err := client.Validate(t.Context(), ValidateRequest{Key: k})
		require.NoError(t, err)
	}
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

func TestAnActivationThatCannotHaveLeftIsNotInDoubt(t *testing.T) {
	t.Parallel()
	nowhere := response(302, "")
	nowhere.Header.Set("Location", "http://%zz/")
	for name, answer := range map[string]*http.Response{
		"a redirect":        response(302, ""),
		"one to nowhere":    nowhere,
		"a proxy's refusal": response(403, "<html>"),
		"proxy login":       response(407, "<html>"),
		"network login":     response(511, "<html>"),
		"a pause":           response(429, ""),
		"the router":        response(404, `{"detail":"Not Found"}`),
		"a malformed field": response(422, `{"error":"RequestValidationError","detail":[{"loc":["body"],"msg":"no"}]}`),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			client := seenClient(t, &seen{answer: func(int, *http.Request) (*http.Response, error) { return answer, nil }}, ClientConfig{})
			_, err := client.Activate(t.Context(), ActivateRequest{Key: newKey("ACME-KEY")})
			require.Error(t, err)
			require.NotErrorIs(t, err, ErrInDoubt)
		})
	}
	t.Run("nobody listens", func(t *testing.T) {
		t.Parallel()
		server := httptest.NewServer(http.NotFoundHandler())
		server.Close()
		client, err := NewClient(ClientConfig{OrganizationID: testOrganization, BaseURL: server.URL})
		require.NoError(t, err)
		defer client.Close()
		_, err = client.Activate(t.Context(), ActivateRequest{Key: newKey("ACME-KEY")})
		require.ErrorIs(t, err, ErrUnreachable)
		require.NotErrorIs(t, err, ErrInDoubt)
	})
	t.Run("the certificate is not trusted", func(t *testing.T) {
		t.Parallel()
		server := httptest.NewTLSServer(http.NotFoundHandler())
		server.Config.ErrorLog = nil
		defer server.Close()
		client, err := NewClient(ClientConfig{OrganizationID: testOrganization, BaseURL: server.URL})
		require.NoError(t, err)
		defer client.Close()
		_, err = client.Activate(t.Context(), ActivateRequest{Key: newKey("ACME-KEY")})
		require.ErrorIs(t, err, ErrUnreachable)
		require.NotErrorIs(t, err, ErrInDoubt)
	})
}

func TestACallersClientIsNeitherChangedNorLedAstray(t *testing.T) {
	t.Parallel()
	var elsewhere int
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { elsewhere++ }))
	defer other.Close()
	redirecting := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, other.URL, http.StatusTemporaryRedirect)
	}))
	defer redirecting.Close()
	given := &http.Client{Timeout: 7 * time.Second}
	client, err := NewClient(ClientConfig{OrganizationID: testOrganization, BaseURL: redirecting.URL + "/", HTTPClient: given})
	require.NoError(t, err)
	_, err = client.Validate(t.Context(), ValidateRequest{Key: newKey("ACME-KEY")})
	require.ErrorIs(t, err, ErrUnreachable)
	assert.Zero(t, elsewhere, "a redirect would carry the key away")
	assert.Nil(t, given.CheckRedirect)
	assert.Nil(t, given.Transport)
	assert.Equal(t, 7*time.Second, client.http.Timeout)
}

func TestAnAnswerIsReadUpToItsLimitOnly(t *testing.T) {
	t.Parallel()
	for _, extra := range []int{0, 1} {
		polar := polartest.New(polartest.Config{})
		key := polar.AddKey(polartest.LicenseKey{})
		polar.Inject(polartest.Fault{Effect: polartest.Rewrite(func(status int, _ http.Header, body []byte) (int, []byte) {
			// White space is still JSON.
			return status, append(body, bytes.Repeat([]byte(" "), maxAnswer+extra-len(body))...)
		})})
		client := testClient(t, polar, polar.Transport())
		_, err := client.Validate(t.Context(), ValidateRequest{Key: newKey(key.Key)})
		if extra == 0 {
			require.NoError(t, err)
		} else {
			require.ErrorIs(t, err, ErrUnreachable)
			require.ErrorIs(t, err, errTooLong)
		}
	}
}

// spaces is a body of white space that counts how much of it was read.
type spaces struct{ left, read int }

func (s *spaces) Read(p []byte) (int, error) {
	n := min(len(p), s.left)
	if n == 0 {
		return 0, io.EOF
	}
	s.left, s.read = s.left-n, s.read+n
	return copy(p, bytes.Repeat([]byte(" "), n)), nil
}

func TestAnAnswerThatGoesOnAndOnIsNotReadToItsEnd(t *testing.T) {
	t.Parallel()
	body := &spaces{left: 8 * maxAnswer}
	client := seenClient(t, &seen{answer: func(int, *http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: 200, Header: http.Header{}, Body: io.NopCloser(body)}, nil
	}}, ClientConfig{})
	_, err := client.Validate(t.Context(), ValidateRequest{Key: newKey("ACME-KEY")})
	require.ErrorIs(t, err, errTooLong)
	assert.LessOrEqual(t, body.read, maxAnswer+1)
}

func TestAClockThatIsWrongDoesNotMakeAGrantedKeyLookExpired(t *testing.T) {
	t.Parallel()
	polar := polartest.New(polartest.Config{})
	key := polar.AddKey(polartest.LicenseKey{ExpiresAt: time.Now().Add(time.Hour)})
	client := testClient(t, polar, polar.Transport())
	client.now = func() time.Time { return time.Now().AddDate(3, 0, 0) }
	license, err := client.Validate(t.Context(), ValidateRequest{Key: newKey(key.Key)})
	require.NoError(t, err)
	assert.WithinDuration(t, time.Now(), license.answeredAt, time.Minute)
}

func TestOurOwnTransportHonoursTheProxyOfTheEnvironment(t *testing.T) {
	t.Parallel()
	client, err := NewClient(ClientConfig{OrganizationID: testOrganization})
	require.NoError(t, err)
	defer client.Close()
	require.NotNil(t, client.own)
	assert.NotNil(t, client.own.template.Proxy)
	assert.NotSame(t, http.DefaultTransport, client.own.current.Load())
}

func TestATransportThatGivesNothingIsAnOutage(t *testing.T) {
	t.Parallel()
	client := seenClient(t, &seen{answer: func(int, *http.Request) (*http.Response, error) { return nil, nil }}, ClientConfig{})
	_, err := client.Activate(t.Context(), ActivateRequest{Key: newKey("ACME-KEY")})
	require.ErrorIs(t, err, ErrInDoubt)
}

func TestATransportThatPanicsIsAnOutage(t *testing.T) {
	t.Parallel()
	client := seenClient(t, &seen{answer: func(int, *http.Request) (*http.Response, error) { panic("transport") }}, ClientConfig{})
	_, err := client.Validate(t.Context(), ValidateRequest{Key: newKey("ACME-KEY")})
	require.ErrorIs(t, err, ErrUnreachable)
	_, err = client.Activate(t.Context(), ActivateRequest{Key: newKey("ACME-KEY")})
	require.ErrorIs(t, err, ErrInDoubt, "it may have been sent before")
}

func TestAKeyThatIsNoTextIsNotSent(t *testing.T) {
	t.Parallel()
	s := &seen{}
	var key Key
	require.NoError(t, key.UnmarshalText([]byte("ACME-\xff\xfe")))
	_, err := seenClient(t, s, ClientConfig{}).Validate(t.Context(), ValidateRequest{Key: key})
	var input *InputError
	require.ErrorAs(t, err, &input)
	assert.Zero(t, s.count())
}

func TestARetryThatOurOwnPaceForbidsDoesNotHideWhyTheFirstTryFailed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &seen{answer: func(int, *http.Request) (*http.Response, error) { return response(503, ""), nil }}
		client := seenClient(t, s, ClientConfig{})
		for range permits - 1 {
			done, err := client.pace.start(t.Context())
			require.NoError(t, err)
			done(outcomeAnswered)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 900*time.Millisecond)
		defer cancel()
		_, err := client.Validate(ctx, ValidateRequest{Key: newKey("ACME-KEY")})
		require.ErrorIs(t, err, ErrUnreachable)
		require.NotErrorIs(t, err, ErrRateLimited)
		assert.Equal(t, 1, s.count(), "the next permit would come too late")
	})
}
