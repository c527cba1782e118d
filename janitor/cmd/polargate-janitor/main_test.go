package main

import (
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/polargate/polargate/polartest"
	"github.com/stretchr/testify/assert"
)

func TestNothingIsReleasedUnlessThatIsAskedFor(t *testing.T) {
	t.Parallel()
	polar := polartest.New(polartest.Config{Unlimited: true})
	meta := func(attempt string) map[string]any {
		return map[string]any{"installation": "ada", "fingerprint": "laptop", "app": "inkwell", "attempt": attempt}
	}
	key := polar.AddKey(polartest.LicenseKey{LimitActivations: polartest.Limit(3), Activations: []polartest.Activation{
		{CreatedAt: polar.Now().Add(-3 * time.Hour), Meta: meta("1")}, {CreatedAt: polar.Now().Add(-2 * time.Hour), Meta: meta("2")}}})
	server := httptest.NewServer(polar)
	defer server.Close()
	token := polar.AddToken(polartest.Token{})
	env := func(name string) string {
		return map[string]string{"POLAR_ACCESS_TOKEN": token, "POLAR_ORGANIZATION_ID": polar.OrganizationID(), "POLAR_API_URL": server.URL}[name]
	}
	var out, problems strings.Builder
	assert.Zero(t, run(t.Context(), nil, &out, &problems, env), problems.String())
	assert.Contains(t, out.String(), "1 found, 0 deactivated")
	assert.Equal(t, 2, polar.Seats(key.ID))
	assert.Zero(t, run(t.Context(), []string{"-deactivate"}, &out, &problems, env))
	assert.Contains(t, out.String(), "1 found, 1 deactivated")
	assert.Equal(t, 1, polar.Seats(key.ID))
	assert.NotContains(t, out.String(), key.Key)

	assert.Equal(t, 2, run(t.Context(), []string{"-unused", "24h"}, &out, &problems, env))
	assert.Equal(t, 2, run(t.Context(), []string{"more"}, &out, &problems, env))
	assert.Equal(t, 2, run(t.Context(), []string{"-organization", "x"}, &out, &problems, env))
	polar.SetOffline(true)
	assert.Equal(t, 1, run(t.Context(), nil, &out, &problems, func(name string) string {
		if name == "POLAR_ACCESS_TOKEN" {
			return "wrong"
		}
		return env(name)
	}))
	assert.NotContains(t, problems.String(), token)
}
