package polargate

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/require"
)

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
