package servers

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"net/http/httptest"
	"os"
	"reflect"
	"strings"
	"testing"
	"unsafe"

	"github.com/polargate/polargate"
	"github.com/polargate/polargate/tests/internal/kit"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// recovering is a middleware that answers a panic with 500.
func recovering(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			if recover() != nil {
				w.WriteHeader(http.StatusInternalServerError)
			}
		}()
		next.ServeHTTP(w, r)
	})
}

// upload is a form with a file, and its type.
func upload(t *testing.T) (io.Reader, string) {
	t.Helper()
	var body bytes.Buffer
	form := multipart.NewWriter(&body)
	require.NoError(t, form.WriteField("name", "Ada"))
	file, err := form.CreateFormFile("file", "large.bin")
	require.NoError(t, err)
	_, err = file.Write(bytes.Repeat([]byte("x"), 64<<10))
	require.NoError(t, err)
	require.NoError(t, form.Close())
	return &body, form.FormDataContentType()
}

// onDisk reads the form of an upload, of which almost nothing may stay in memory, and
// says in which temporary file the upload is.
func onDisk(t *testing.T, r *http.Request) string {
	t.Helper()
	if !assert.NoError(t, r.ParseMultipartForm(1)) {
		return ""
	}
	file, err := r.MultipartForm.File["file"][0].Open()
	if !assert.NoError(t, err) {
		return ""
	}
	defer func() { assert.NoError(t, file.Close()) }()
	temporary, ok := file.(*os.File)
	if !assert.True(t, ok, "the upload is larger than what is kept in memory") {
		return ""
	}
	return temporary.Name()
}

func TestTheServerRemovesTheFilesOfAnUploadThatAHandlerBehindARouteRead(t *testing.T) {
	t.Parallel()
	s, _ := sold(t)
	customers := s.Warmed()
	spending := customers.Route(polargate.Route{Customer: always(kit.Paying), Spend: polargate.Cost{MeterID: kit.CallsMeter, Units: 0.01}})
	plain := customers.Middleware(always(kit.Paying))
	away := kit.NewShop(t)
	away.Polar.SetOffline(true)
	open := away.Open().Route(polargate.Route{Customer: always(kit.Paying), FailOpen: true})
	for name, c := range map[string]struct {
		gate  func(http.Handler) http.Handler
		after func(http.ResponseWriter, *http.Request)
		http2 bool
	}{
		"for customers":                       {gate: plain},
		"that spends":                         {gate: spending},
		"for license keys":                    {gate: customers.LicenseMiddleware("X-License-Key")},
		"that fails open":                     {gate: open},
		"inside another":                      {gate: func(h http.Handler) http.Handler { return plain(spending(h)) }},
		"by HTTP/2":                           {gate: plain, http2: true},
		"that spends, by HTTP/2":              {gate: spending, http2: true},
		"that panics, by HTTP/2":              {gate: spending, http2: true, after: func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }},
		"that panics, and is caught":          {gate: func(h http.Handler) http.Handler { return recovering(spending(h)) }, after: func(http.ResponseWriter, *http.Request) { panic("on fire") }},
		"that streams":                        {gate: spending, after: func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "data: 1\n\n"); w.(http.Flusher).Flush() }},
		"with a context of the handler's own": {gate: plain, after: func(_ http.ResponseWriter, r *http.Request) { *r = *r.WithContext(context.WithoutCancel(r.Context())) }},
		"with a mux behind it": {gate: func(h http.Handler) http.Handler {
			mux := http.NewServeMux()
			mux.Handle("/{any...}", h)
			return plain(mux)
		}},
		"whose resolver has read the form too": {gate: customers.Middleware(func(r *http.Request) polargate.CustomerRef { onDisk(t, r); return polargate.ExternalID(kit.Paying) })},
		"that refuses after reading the form": {gate: func(h http.Handler) http.Handler {
			return customers.Middleware(func(r *http.Request) polargate.CustomerRef {
				h.ServeHTTP(httptest.NewRecorder(), r)
				return polargate.CustomerRef{}
			})(http.NotFoundHandler())
		}},
	} {
		t.Run("a route "+name, func(t *testing.T) {
			t.Parallel()
			var stored string
			server := httptest.NewUnstartedServer(c.gate(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				stored = onDisk(t, r)
				assert.FileExists(t, stored)
				if c.after != nil {
					c.after(w, r)
				}
			})))
			server.EnableHTTP2 = c.http2
			if c.http2 {
				server.StartTLS()
			} else {
				server.Start()
			}
			defer server.Close()
			body, kind := upload(t)
			r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, server.URL, body)
			require.NoError(t, err)
			r.Header.Set("Content-Type", kind)
			r.Header.Set("X-License-Key", secretKey)
			if response, err := server.Client().Do(r); err == nil {
				assert.Equal(t, c.http2, response.ProtoMajor == 2)
				_, _ = io.Copy(io.Discard, response.Body)
				_ = response.Body.Close()
			}
			server.Close() // waits until the server is done with the request
			require.NotEmpty(t, stored, "the handler ran")
			assert.NoFileExists(t, stored)
		})
	}
}

func TestOuterMiddlewareSeesWhatAHandlerSetsOnItsRequest(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		customers := kit.NewShop(t).Warmed()
		plain := customers.Middleware(always(kit.Paying))
		for name, gate := range map[string]func(http.Handler) http.Handler{
			"a route":            plain,
			"a route that costs": customers.Route(polargate.Route{Customer: always(kit.Paying), Spend: polargate.Cost{MeterID: kit.CallsMeter, Units: 1}}),
			"two routes":         func(h http.Handler) http.Handler { return plain(plain(h)) },
		} {
			mux := http.NewServeMux()
			mux.HandleFunc("POST /users/{user}/files/{rest...}", func(http.ResponseWriter, *http.Request) {})
			r := httptest.NewRequest(http.MethodPost, "/users/ada/files/a/b", nil)
			gate(mux).ServeHTTP(httptest.NewRecorder(), r)
			assert.Equal(t, "POST /users/{user}/files/{rest...}", r.Pattern, name)
			assert.Equal(t, "ada", r.PathValue("user"), name)
			assert.Equal(t, "a/b", r.PathValue("rest"), name)

			body := io.NopCloser(strings.NewReader("read again"))
			own := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				assert.NoError(t, r.ParseForm())
				r.SetPathValue("user", "brook")
				r.Method, r.Host, r.RemoteAddr, r.Body = http.MethodDelete, "example.org", "192.0.2.7:1", body
				r.Header = http.Header{"X-Request-Id": {"7"}}
				r.URL = r.URL.JoinPath("further")
				if w.Header().Get("X-Fails") != "" {
					panic("on fire")
				}
			})
			for _, fails := range []string{"", "yes"} {
				r = httptest.NewRequest(http.MethodPost, "/users?a=1", strings.NewReader("b=2"))
				r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
				w := httptest.NewRecorder()
				w.Header().Set("X-Fails", fails)
				recovering(gate(own)).ServeHTTP(w, r)
				assert.Equal(t, "brook", r.PathValue("user"), name)
				assert.Equal(t, "1", r.Form.Get("a"), name)
				assert.Equal(t, "2", r.PostForm.Get("b"), name)
				assert.Equal(t, []string{"DELETE", "example.org", "192.0.2.7:1", "/users/further", "7"}, []string{r.Method, r.Host, r.RemoteAddr, r.URL.Path, r.Header.Get("X-Request-Id")}, name)
				assert.Equal(t, body, r.Body, name)
			}
		}
	})
}

func TestOnlyTheEntitlementsStayBehindARoute(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		type key struct{}
		gate := kit.NewShop(t).Warmed().Middleware(always(kit.Paying))
		outer := context.WithValue(t.Context(), key{}, "from outside")
		r := httptest.NewRequestWithContext(outer, http.MethodGet, "/", nil)
		gate(whoever).ServeHTTP(httptest.NewRecorder(), r)
		assert.Equal(t, outer, r.Context(), "the context is the one that came in")

		gate(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			*r = *r.WithContext(context.WithValue(r.Context(), key{}, "from inside")) // for those further out to find
		})).ServeHTTP(httptest.NewRecorder(), r)
		assert.Equal(t, "from inside", r.Context().Value(key{}))
	})
}

// adapted copies the values of a context as the adaptors of fasthttp and Fiber do: from
// the structs that context.WithValue makes, by the names of their fields.
func adapted(ctx any, into map[any]any) {
	of := reflect.ValueOf(ctx)
	if of.Kind() != reflect.Pointer || of.Elem().Kind() != reflect.Struct {
		return
	}
	var key any
	for i := range of.Elem().NumField() {
		name, field := of.Elem().Type().Field(i).Name, of.Elem().Field(i)
		field = reflect.NewAt(field.Type(), unsafe.Pointer(field.UnsafeAddr())).Elem()
		switch {
		case name == "Context":
			adapted(field.Interface(), into)
		case name == "key":
			key = field.Interface()
		case name == "val" && key != nil:
			into[key] = field.Interface()
		default:
			key = nil
		}
	}
}

// carried is a context of another kind of server, with values that were copied into it.
type carried struct {
	context.Context
	values map[any]any
}

func (c carried) Value(key any) any { return c.values[key] }

func TestAdaptorsThatCopyAContextsValuesFindTheEntitlements(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		type before struct{}
		type after struct{}
		s, _ := sold(t)
		customers := s.Warmed()
		var found carried
		handler := http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			ctx, cancel := context.WithCancel(context.WithValue(r.Context(), after{}, "inside"))
			cancel()
			found = carried{context.Background(), map[any]any{}}
			adapted(ctx, found.values)
		})
		for name, gate := range map[string]func(http.Handler) http.Handler{
			"a customer": customers.Middleware(always(kit.Paying)),
			"a cost":     customers.Route(polargate.Route{Customer: always(kit.Paying), Spend: polargate.Cost{MeterID: kit.CallsMeter, Units: 1}}),
			"a key":      customers.LicenseMiddleware("X-License-Key"),
			"a cold one": s.Open().Middleware(always(kit.Paying)),
			"two of them": func(h http.Handler) http.Handler {
				return customers.LicenseMiddleware("X-License-Key")(customers.Middleware(always(kit.Paying))(h))
			},
		} {
			r := httptest.NewRequestWithContext(context.WithValue(t.Context(), before{}, "outside"), http.MethodGet, "/", nil)
			r.Header.Set("X-License-Key", secretKey)
			gate(handler).ServeHTTP(httptest.NewRecorder(), r)
			e, ok := polargate.FromContext(found)
			if assert.True(t, ok, name) {
				assert.True(t, e.Has("export"), name)
				_, byKey := e.License()
				assert.Equal(t, name == "a key", byKey, "%s: the innermost route's", name)
			}
			assert.Equal(t, []any{"outside", "inside"}, []any{found.values[before{}], found.values[after{}]}, name)
		}
		s.Polar.SetOffline(true)
		open := customers.Route(polargate.Route{Customer: always("usr_new"), FailOpen: true})
		get(customers.Middleware(always(kit.Paying))(open(handler)), "/")
		_, ok := polargate.FromContext(found)
		assert.False(t, ok, "nor are those of a route further out copied")
	})
}

func TestALetInRequestOfACachedCustomerCostsTwoAllocations(t *testing.T) {
	s := kit.NewShop(t) // not parallel: allocations of others would count
	customers := s.Warmed()
	handler := customers.Middleware(byHeader, polargate.Feature("pro"))(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r.Header.Set("X-User", kit.Paying)
	w := httptest.NewRecorder()
	assert.LessOrEqual(t, testing.AllocsPerRun(1000, func() { handler.ServeHTTP(w, r) }), 2.)
}
