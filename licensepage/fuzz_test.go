package licensepage

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/polargate/polargate"
	"github.com/stretchr/testify/require"
)

// FuzzLinks opens the license page by links of any website.
func FuzzLinks(f *testing.F) {
	f.Add("inkwell://activate?key=INKWELL-1C285B2D-6CE6-4BC7-B8BE-ADB6A7E304DA")
	f.Add("inkwell:activate?key=%3Cscript%3Ealert(1)%3C/script%3E&key=b")
	f.Add("inkwell:///a/../activate/?key=%00%ff")
	f.Add("inkwell://deactivate?key=POLAR-1")
	f.Add("http://[::1%25eth0]:namedport/activate?key=a")
	f.Add("activate?key=" + strings.Repeat("A", 5000))
	f.Add("\x00 %zz")
	f.Fuzz(func(t *testing.T, link string) {
		page := shown(&pretended{status: polargate.Status{State: polargate.Unlicensed}})
		defer page.Close()
		err := page.Ask(link)
		asked := page.asked.key
		require.Equal(t, err == nil, asked != "", "a question is asked or an error returned")
		if u, bad := url.Parse(strings.TrimSpace(link)); bad == nil && len(u.Query().Get("key")) > 12 && err != nil {
			require.NotContains(t, err.Error(), u.Query().Get("key"))
		}
		get := func(path, query string) *httptest.ResponseRecorder {
			r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "http://127.0.0.1/", nil)
			r.URL.Path, r.URL.RawQuery = path, query
			w := httptest.NewRecorder()
			page.ServeHTTP(w, r)
			require.Less(t, w.Code, 500)
			return w
		}
		w := get("/", "")
		require.Equal(t, 200, w.Code)
		require.NotContains(t, w.Body.String(), "<script>alert", "what a link says is no code on the page")
		get("/activate", link)
		require.Equal(t, polargate.Unlicensed, page.license.Status().State, "nothing is activated unasked")
	})
}
