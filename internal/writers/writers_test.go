package writers

import (
	"bufio"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestOnlyARequestThatIdentifiesNobodyIsAPreflight(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change func(*http.Request)
		want   bool
	}{
		"as browsers send it":          {func(*http.Request) {}, true},
		"with a cookie":                {func(r *http.Request) { r.Header.Set("Cookie", "session=1") }, false},
		"with a token":                 {func(r *http.Request) { r.Header.Set("Authorization", "Bearer x") }, false},
		"with a token for a proxy":     {func(r *http.Request) { r.Header.Set("Proxy-Authorization", "Basic x") }, false},
		"with a body":                  {func(r *http.Request) { r.ContentLength = 1 }, false},
		"with a body of any length":    {func(r *http.Request) { r.ContentLength = -1 }, false},
		"with another method":          {func(r *http.Request) { r.Method = http.MethodGet }, false},
		"without an origin":            {func(r *http.Request) { r.Header.Del("Origin") }, false},
		"that asks for no method":      {func(r *http.Request) { r.Header.Del("Access-Control-Request-Method") }, false},
		"with headers it wants to set": {func(r *http.Request) { r.Header.Set("Access-Control-Request-Headers", "authorization") }, true},
	} {
		r := httptest.NewRequest(http.MethodOptions, "/", nil)
		r.Header.Set("Origin", "https://example.com")
		r.Header.Set("Access-Control-Request-Method", http.MethodPost)
		c.change(r)
		assert.Equal(t, c.want, IsPreflight(r), name)
	}
}

func TestThePreflightOfAHandlerGivesNothingAwayButItsPolicy(t *testing.T) {
	t.Parallel()
	w := httptest.NewRecorder()
	ServePreflight(w, httptest.NewRequest(http.MethodOptions, "/", nil), http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Access-Control-Allow-Origin", "*")
		w.Header().Set("Vary", "Origin")
		w.Header().Set("X-Paid-For", "secret")
		w.WriteHeader(http.StatusEarlyHints)
		n, err := w.Write([]byte("what was paid for"))
		assert.Equal(t, 17, n)
		assert.NoError(t, err)
		w.Header().Set("Access-Control-Max-Age", "too late")
		w.WriteHeader(http.StatusTeapot)
	}))
	assert.Equal(t, http.StatusOK, w.Code)
	assert.Empty(t, w.Body.String())
	assert.Equal(t, http.Header{"Access-Control-Allow-Origin": {"*"}, "Vary": {"Origin"}}, w.Result().Header)
}

func TestTheStatusThatIsSeenIsTheOneThatIsSent(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		answer func(*Status)
		want   int
	}{
		"nothing":                  {func(*Status) {}, 0},
		"a body":                   {func(w *Status) { _, _ = w.Write([]byte("x")) }, 200},
		"a status, then another":   {func(w *Status) { w.WriteHeader(402); w.WriteHeader(200) }, 402},
		"a body, then a status":    {func(w *Status) { _, _ = w.Write(nil); w.WriteHeader(500) }, 200},
		"hints, then a status":     {func(w *Status) { w.WriteHeader(103); w.WriteHeader(404) }, 404},
		"another protocol":         {func(w *Status) { w.WriteHeader(101) }, 101},
		"a flush":                  {func(w *Status) { w.Flush() }, 200},
		"an empty file, and a 404": {func(w *Status) { _, _ = w.ReadFrom(strings.NewReader("")); w.WriteHeader(404) }, 404},
		"a file":                   {func(w *Status) { _, _ = w.ReadFrom(strings.NewReader("x")) }, 200},
	} {
		w := &Status{ResponseWriter: httptest.NewRecorder()}
		c.answer(w)
		assert.Equal(t, c.want, w.Sent, name)
	}
	unable := &Status{ResponseWriter: struct{ http.ResponseWriter }{httptest.NewRecorder()}}
	require.ErrorIs(t, unable.FlushError(), http.ErrNotSupported)
	assert.Zero(t, unable.Sent, "what can't be flushed wasn't sent")
}

// wire is a writer whose connection can be taken over, or be cut by its deadlines.
type wire struct {
	http.ResponseWriter
	conn net.Conn

	mu   sync.Mutex
	cuts []string
}

func (w *wire) Hijack() (net.Conn, *bufio.ReadWriter, error) { return w.conn, nil, nil }
func (w *wire) SetReadDeadline(time.Time) error              { return w.note("read") }
func (w *wire) SetWriteDeadline(time.Time) error             { return w.note("write") }

func (w *wire) note(what string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.cuts = append(w.cuts, what)
	return nil
}

func (w *wire) cut() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.cuts)
}

func TestAConnectionIsCutAfterItsLastWordsUnlessItServesAnotherRequestByThen(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		hijack  bool
		handled bool
		cut     []string
		closed  bool
	}{
		"an answer":                        {cut: []string{"read", "write"}},
		"a connection that was taken over": {hijack: true, closed: true},
		"a handler that has ended by then": {handled: true},
		"the same, of a taken connection":  {hijack: true, handled: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				ours, theirs := net.Pipe()
				defer theirs.Close()
				inner := &wire{ResponseWriter: httptest.NewRecorder(), conn: ours}
				w := &Watched{Status: Status{ResponseWriter: inner}}
				if c.hijack {
					conn, _, err := w.Hijack()
					require.NoError(t, err)
					assert.Equal(t, ours, conn)
				}
				w.CutSoon()
				time.Sleep(connectionEnds - time.Millisecond)
				synctest.Wait()
				assert.Empty(t, inner.cut(), "it has half a second")
				if c.handled {
					w.Handled()
				}
				time.Sleep(time.Hour)
				synctest.Wait()
				assert.Equal(t, c.cut, inner.cut())
				assert.Equal(t, c.closed, ours.SetDeadline(time.Time{}) != nil)
				w.Handled()
				w.CutSoon()
				time.Sleep(time.Hour)
				synctest.Wait()
				assert.Equal(t, c.cut, inner.cut(), "once")
				_ = ours.Close()
			})
		})
	}
}
