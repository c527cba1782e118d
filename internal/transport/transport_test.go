package transport

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestRequestsUnderWayOverAConnectionThatIsLeftAreNotCutShort(t *testing.T) {
	t.Parallel()
	arrived, answer := make(chan struct{}, 2), make(chan struct{})
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/warm" {
			return
		}
		arrived <- struct{}{}
		select {
		case <-answer:
			_, _ = io.WriteString(w, "late")
		case <-r.Context().Done():
		}
	}))
	server.EnableHTTP2 = true
	server.StartTLS()
	defer server.Close()
	l := New()
	defer l.CloseIdleConnections()
	pool := x509.NewCertPool()
	pool.AddCert(server.Certificate())
	l.Template.TLSClientConfig = &tls.Config{RootCAs: pool}
	l.Renew()
	client := &http.Client{Transport: l}
	get := func(ctx context.Context, path string) (string, error) {
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, server.URL+path, nil)
		require.NoError(t, err)
		resp, err := client.Do(r)
		if err != nil {
			return "", err
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		return string(body), err
	}
	_, err := get(t.Context(), "/warm")
	require.NoError(t, err)
	type result struct {
		body string
		err  error
	}
	patient := make(chan result, 1)
	go func() {
		body, err := get(t.Context(), "/patient")
		patient <- result{body, err}
	}()
	<-arrived
	ctx, cancel := context.WithCancel(t.Context())
	gone := make(chan error, 1)
	go func() { _, err := get(ctx, "/impatient"); gone <- err }()
	<-arrived
	before := l.current.Load()
	cancel()
	require.Error(t, <-gone)
	assert.NotSame(t, before, l.current.Load())
	close(answer)
	got := <-patient
	require.NoError(t, got.err)
	assert.Equal(t, "late", got.body)
}

func TestAProxyVariableWithWhiteSpaceOrQuotesStillNamesItsProxy(t *testing.T) {
	t.Parallel()
	const good = "http://proxy.example:3128"
	for name, test := range map[string]struct {
		env     map[string]string
		address string // that is asked
		want    string // proxy; "" is none
		broken  string // the variable that an error names
	}{
		"none":                        {nil, "https://api.polar.sh", "", ""},
		"white space around it":       {map[string]string{"HTTPS_PROXY": " " + good + " "}, "https://api.polar.sh", good, ""},
		"in lower case":               {map[string]string{"https_proxy": "\t" + good + "\r\n"}, "https://api.polar.sh", good, ""},
		"no scheme":                   {map[string]string{"HTTPS_PROXY": " proxy.example:3128"}, "https://api.polar.sh", good, ""},
		"quotes, as Windows sets it":  {map[string]string{"HTTPS_PROXY": `"` + good + `"`}, "https://api.polar.sh", good, ""},
		"a space that does not break": {map[string]string{"HTTPS_PROXY": "\u00a0" + good + "\ufeff"}, "https://api.polar.sh", good, ""},
		"a password is kept":          {map[string]string{"HTTPS_PROXY": " http://me:s3cret@proxy.example:3128 "}, "https://api.polar.sh", "http://me:s3cret@proxy.example:3128", ""},
		"only white space":            {map[string]string{"HTTPS_PROXY": "  "}, "https://api.polar.sh", "", ""},
		"the first is only space":     {map[string]string{"HTTPS_PROXY": " ", "https_proxy": good}, "https://api.polar.sh", good, ""},
		"for the other scheme":        {map[string]string{"HTTP_PROXY": " " + good}, "https://api.polar.sh", "", ""},
		"plain HTTP":                  {map[string]string{"HTTP_PROXY": " " + good}, "http://api.polar.sh", good, ""},
		"plain HTTP in CGI":           {map[string]string{"HTTP_PROXY": " " + good, "REQUEST_METHOD": "GET"}, "http://api.polar.sh", "", ""},
		"a server of this computer":   {map[string]string{"HTTPS_PROXY": " " + good}, "https://127.0.0.1:8443", "", ""},
		"and by name":                 {map[string]string{"HTTPS_PROXY": " " + good}, "https://localhost:8443", "", ""},
		"an exception":                {map[string]string{"HTTPS_PROXY": " " + good, "NO_PROXY": "other.example, polar.sh"}, "https://api.polar.sh", "", ""},
		"an exception of subdomains":  {map[string]string{"HTTPS_PROXY": " " + good, "no_proxy": ".POLAR.sh"}, "https://api.polar.sh", "", ""},
		"an exception by star":        {map[string]string{"HTTPS_PROXY": " " + good, "NO_PROXY": "*.polar.sh"}, "https://api.polar.sh", "", ""},
		"an exception of everything":  {map[string]string{"HTTPS_PROXY": " " + good, "NO_PROXY": " * "}, "https://api.polar.sh", "", ""},
		"an exception of a network":   {map[string]string{"HTTPS_PROXY": " " + good, "NO_PROXY": "10.0.0.0/8"}, "https://10.1.2.3", "", ""},
		"an exception of its port":    {map[string]string{"HTTPS_PROXY": " " + good, "NO_PROXY": "api.polar.sh:443"}, "https://api.polar.sh", "", ""},
		"an exception of another":     {map[string]string{"HTTPS_PROXY": " " + good, "NO_PROXY": "api.polar.sh:8443,olar.sh,10.0.0.0/8,10.1.2.3"}, "https://api.polar.sh", good, ""},
		"a port that is none":         {map[string]string{"HTTPS_PROXY": "http://me:s3cret@proxy.example:port"}, "https://api.polar.sh", "", "HTTPS_PROXY"},
		"white space inside":          {map[string]string{"https_proxy": "http://me:s3cret@proxy example:3128"}, "https://api.polar.sh", "", "https_proxy"},
		"nothing but a scheme":        {map[string]string{"HTTPS_PROXY": " http:// "}, "https://api.polar.sh", "", "HTTPS_PROXY"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, err := http.NewRequest(http.MethodPost, test.address, nil)
			require.NoError(t, err)
			proxy, err := Proxy(func(name string) string { return test.env[name] })(r)
			if test.broken != "" {
				require.ErrorContains(t, err, test.broken)
				assert.NotContains(t, err.Error(), "s3cret")
				return
			}
			require.NoError(t, err)
			if test.want == "" {
				assert.Nil(t, proxy)
				return
			}
			require.NotNil(t, proxy)
			assert.Equal(t, test.want, proxy.String())
		})
	}
}
