package main

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/polargate/polargate/polartest"
	"github.com/stretchr/testify/require"
)

// FuzzControl sends anything to every path of the control API. Whatever a test in another
// language gets wrong is refused with the reason.
func FuzzControl(f *testing.F) {
	paths := newControl(polartest.New(polartest.Config{}), "").paths
	for i := range paths {
		f.Add(uint8(i), "id", "", []byte(`{}`))
	}
	f.Add(uint8(0), "8d8a7abc-87f9-4fe4-8680-86d3a0c05924", "a=%zz", []byte(`{"email":7,"benefits":[{"benefit_id":null}],"metadata":{"a":1e999}}`))
	f.Add(uint8(9), "\x00%2F", "", []byte(`{"key":"\ud800","limit_activations":-1,"expires_at":"2026-02-30T00:00:00Z"}`))
	f.Add(uint8(20), "", "", []byte(`{"advance":"-1h"}`))
	f.Add(uint8(21), "", "", []byte(`{"effect":"slow_drip","times":-1,"every":"1ns"}`))
	f.Fuzz(func(t *testing.T, which uint8, id, query string, body []byte) {
		p := polartest.New(polartest.Config{})
		p.AddCustomer(polartest.Customer{ExternalID: "id"})
		c := newControl(p, "secret")
		method, path, _ := strings.Cut(c.paths[int(which)%len(c.paths)], " ")
		path, _, _ = strings.Cut(path, " ")
		if before, rest, named := strings.Cut(path, "{"); named {
			_, after, _ := strings.Cut(rest, "}")
			path = before + id + after
		}
		send := func(token string) *httptest.ResponseRecorder {
			r := httptest.NewRequestWithContext(t.Context(), method, "/", strings.NewReader(string(body)))
			r.URL.Path, r.URL.RawQuery = path, query
			r.Header = http.Header{"Authorization": {"Bearer " + token}}
			w := httptest.NewRecorder()
			c.ServeHTTP(w, r)
			return w
		}
		require.Equal(t, 401, send("another").Code)
		w := send("secret")
		require.Less(t, w.Code, 500, w.Body.String())
		if w.Code == 200 || w.Code == 400 {
			require.True(t, json.Valid(w.Body.Bytes()), w.Body.String())
		}
	})
}
