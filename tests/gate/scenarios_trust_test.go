package gate

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/polargate/polargate"
	"github.com/polargate/polargate/polartest"
	"github.com/polargate/polargate/tests/internal/kit"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// The license was a line of JSON, and "free" a word that can be typed over. The
// one that was signed brought the key to check the signature with along.
func TestAStateThatWasEditedOrForgedIsNoLicense(t *testing.T) {
	t.Parallel()
	prepare := func(t *testing.T) (*kit.World, string, []byte) {
		w := kit.NewWorld(t, kit.Limit(1))
		folder := t.TempDir()
		w.Config.Store = polargate.FileStore(folder)
		w.Config.Secret = "built into the program"
		require.NoError(t, w.Activated().Close())
		w.Polar.SetOffline(true)
		require.True(t, w.Open().Has("export"))
		path := stateFile(t, folder)
		data, err := os.ReadFile(path)
		require.NoError(t, err)
		return w, path, data
	}
	opensNothing := func(t *testing.T, w *kit.World, name string) {
		gate := w.Open()
		assert.False(t, gate.Has("export"), name)
		_, err := gate.Check(t.Context())
		require.Error(t, err, name)
		assert.False(t, gate.Status().OK(), name)
		require.NoError(t, gate.Close())
	}
	scene(t, "there is nothing in it to read or to edit", func(t *testing.T) {
		w, _, data := prepare(t)
		assert.False(t, json.Valid(data))
		for _, word := range []string{w.Key.Key, w.Key.BenefitID, w.Key.OrganizationID, kit.ThisMachine, "granted", "checked_at", "expires", "BEGIN", "export"} {
			assert.NotContains(t, string(data), word)
		}
	})
	scene(t, "a byte that was changed anywhere", func(t *testing.T) {
		w, path, data := prepare(t)
		for i := 0; i < len(data); i += 13 {
			edited := bytes.Clone(data)
			edited[i] ^= 1
			require.NoError(t, os.WriteFile(path, edited, 0o600))
			opensNothing(t, w, fmt.Sprint("byte ", i))
		}
		require.NoError(t, os.WriteFile(path, data, 0o600))
		assert.True(t, w.Open().Has("export"), "as it was, it is good")
	})
	scene(t, "JSON, in its place or beside it", func(t *testing.T) {
		w, path, _ := prepare(t)
		pro := `{"state":"active","status":"granted","plan":"pro","features":["export"],"benefit_id":"` + w.Key.BenefitID + `","expires_at":null,"grace_until":"2999-01-01T00:00:00Z"}`
		require.NoError(t, os.WriteFile(path, []byte(pro), 0o600))
		opensNothing(t, w, "in its place")
		require.NoError(t, os.Remove(path))
		for _, name := range []string{"license.json", "state.json", "config.json", "license"} {
			require.NoError(t, os.WriteFile(filepath.Join(filepath.Dir(path), name), []byte(pro), 0o600))
		}
		opensNothing(t, w, "beside it")
	})
	for name, change := range map[string]func(*polargate.Config){
		"one made by this library under another secret":    func(c *polargate.Config) { c.Secret = "of a forger" },
		"one made without a secret":                        func(c *polargate.Config) { c.Secret = "" },
		"one made by a program of another name":            func(c *polargate.Config) { c.App = "quill" },
		"one made on another machine, where it was bought": func(c *polargate.Config) { c.Fingerprint = "another machine" },
	} {
		scene(t, name, func(t *testing.T) {
			w, path, _ := prepare(t)
			w.Polar.SetOffline(false)
			edit(func(k *polartest.LicenseKey) { k.LimitActivations = polartest.Limit(9) })(w)
			folder := t.TempDir()
			forger := w.Open(change, func(c *polargate.Config) { c.Store = polargate.FileStore(folder) })
			_, err := forger.Activate(t.Context(), w.Key.Key)
			require.NoError(t, err)
			forged, err := os.ReadFile(stateFile(t, folder))
			require.NoError(t, err)
			w.Polar.SetOffline(true)
			require.NoError(t, os.WriteFile(path, forged, 0o600))
			opensNothing(t, w, name)
		})
	}
}

// One library left a goroutine per check; one hung for ever when it was called
// after its end; one set a timeout on http.DefaultClient for the whole program;
// and one held its only mutex while it waited for the network.
func TestAGateLeavesTheProgramAsItFoundIt(t *testing.T) {
	t.Parallel()
	scene(t, "no goroutine is left after Close, whatever was under way", func(t *testing.T) {
		w := kit.NewWorld(t)
		w.Config.Store = polargate.FileStore(t.TempDir())
		w.Config.OnChange = func(_, _ polargate.Status) {}
		gate := w.Activated()
		w.Inject("", 0, polartest.Hang())
		time.Sleep(13 * time.Hour)
		var calls sync.WaitGroup
		for _, call := range everyCall(gate, w.Key.Key) {
			calls.Go(func() { _ = call(t.Context()) })
		}
		time.Sleep(time.Second)
		began := time.Now()
		require.NoError(t, gate.Close())
		assert.LessOrEqual(t, time.Since(began), 6*time.Second)
		calls.Wait()
		synctest.Wait()
		stacks := make([]byte, 1<<20)
		stacks = stacks[:runtime.Stack(stacks, true)]
		for stack := range strings.SplitSeq(string(stacks), "\n\n") {
			if inThisBubble(t, stack) && !strings.Contains(stack, "TestAGateLeavesTheProgramAsItFoundIt") {
				assert.Fail(t, "still running", stack)
			}
		}
	})
	scene(t, "calls after Close come back at once", func(t *testing.T) {
		w := kit.NewWorld(t)
		gate := w.Activated()
		require.NoError(t, gate.Close())
		asked := w.Polar.Count("")
		for name, call := range everyCall(gate, w.Key.Key) {
			began := time.Now()
			assert.ErrorIs(t, call(t.Context()), polargate.ErrClosed, name)
			assert.Zero(t, time.Since(began), name)
		}
		assert.False(t, gate.Has("export"))
		assert.Equal(t, asked, w.Polar.Count(""))
		require.NoError(t, gate.Close())
	})
	scene(t, "the program's own client is as it was", func(t *testing.T) {
		w := kit.NewWorld(t)
		own, before := w.Polar.Client(), *w.Polar.Client()
		standard, transport := *http.DefaultClient, http.DefaultTransport
		w.Config.HTTPClient = own
		gate := w.Activated()
		_, err := gate.Refresh(t.Context())
		require.NoError(t, err)
		require.NoError(t, gate.Close())
		assert.Equal(t, before, *own)
		assert.Equal(t, standard, *http.DefaultClient)
		assert.Same(t, transport, http.DefaultTransport)
	})
	scene(t, "nobody waits for the network but who asks it", func(t *testing.T) {
		w := kit.NewWorld(t)
		gate, second := w.Activated(), w.Open()
		w.Inject("", 0, polartest.Hang())
		go func() { _, _ = gate.Activate(t.Context(), "POLAR-ANOTHER-KEY-OF-SOMEBODY") }()
		go func() { _, _ = gate.Refresh(t.Context()) }()
		go func() { _, _ = second.Refresh(t.Context()) }()
		time.Sleep(time.Second)
		began := time.Now()
		for _, g := range []*polargate.Gate{gate, second, w.Open()} {
			assert.True(t, g.Has("export"))
			assert.True(t, g.Status().OK())
			_, err := g.Check(t.Context())
			assert.NoError(t, err)
		}
		assert.Zero(t, time.Since(began))
	})
}

// everyCall is all that can be asked of a Gate that could make it wait.
func everyCall(gate *polargate.Gate, key string) map[string]func(context.Context) error {
	return map[string]func(context.Context) error{
		"Check":        func(ctx context.Context) error { _, err := gate.Check(ctx); return err },
		"Refresh":      func(ctx context.Context) error { _, err := gate.Refresh(ctx); return err },
		"Activate":     func(ctx context.Context) error { _, err := gate.Activate(ctx, key); return err },
		"ActivateWait": func(ctx context.Context) error { _, err := gate.ActivateWait(ctx, key); return err },
		"Consume":      func(ctx context.Context) error { _, err := gate.Consume(ctx, 1); return err },
		"Deactivate":   gate.Deactivate,
		"Run":          gate.Run,
		"Import": func(ctx context.Context) error {
			_, err := gate.Import(ctx, polargate.ImportedActivation{Key: key, ActivationID: otherBenefit})
			return err
		},
	}
}

// Keys stood in the access logs of a proxy, since they were asked for with GET;
// in bug reports, since errors held whole bodies; and Polar's own 422 repeats
// what it was sent.
func TestTheKeyIsInNoAddressNoErrorAndNoLog(t *testing.T) {
	t.Parallel()
	effects := echoes("KEY")
	effects["not at all"] = polartest.Delay(0)
	for name := range effects {
		scene(t, "echoed "+name, func(t *testing.T) {
			w := kit.NewWorld(t)
			var log kit.Lines
			w.Config.Logger = log.Logger()
			gate := w.Open()
			secret := secrets{w.Key.Key}
			if effect, ok := echoes(w.Key.Key)[name]; ok {
				w.Inject("", 3, effect)
			}
			for range 2 {
				for what, call := range everyCall(gate, w.Key.Key) {
					ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
					if err := call(ctx); err != nil {
						secret.assertNone(t, fmt.Sprintf("%v %+v %#v", err, err, err)+polargate.Message(err), what)
						for cause := range chain(err) {
							secret.assertNone(t, fmt.Sprintf("%+v", cause), what)
						}
					}
					cancel()
					status, err := json.Marshal(gate.Status())
					require.NoError(t, err)
					secret.assertNone(t, string(status)+fmt.Sprintf("%+v %#v", gate.Status(), gate.Status()), what)
				}
			}
			secret.assertNone(t, gate.Diagnose(t.Context()).String(), "a report to support")
			require.NoError(t, gate.Close())
			secret.assertNone(t, log.String(), "the log")
			require.NotEmpty(t, w.Polar.Requests())
			for _, r := range w.Polar.Requests() {
				assert.Equal(t, http.MethodPost, r.Method)
				secret.assertNone(t, r.Path+"?"+r.RawQuery+fmt.Sprint(r.Header), "what an access log has")
			}
		})
	}
	t.Run("echoed by what does not even speak HTTP", func(t *testing.T) {
		t.Parallel()
		const key = "POLAR-00000000-0000-4000-8000-000000000000"
		var log kit.Lines
		gate, err := polargate.Open(polargate.Config{OrganizationID: otherBenefit, BaseURL: echoServer(t), Store: &polargate.MemoryStore{}, Fingerprint: kit.ThisMachine, Logger: log.Logger()})
		require.NoError(t, err)
		t.Cleanup(func() { _ = gate.Close() })
		_, err = gate.Activate(t.Context(), key)
		require.ErrorContains(t, err, "malformed HTTP response", "net/http quotes what it cannot read")
		secret := secrets{key}
		secret.assertNone(t, fmt.Sprintf("%v %+v %#v", err, err, err), "the error")
		for cause := range chain(err) {
			secret.assertNone(t, fmt.Sprintf("%v %+v %#v", cause, cause, cause), "a cause")
		}
		secret.assertNone(t, log.String(), "the log")
	})
}

// echoServer says back the body that it is sent, as something that is no HTTP.
func echoServer(t *testing.T) string {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		said, err := io.ReadAll(r.Body)
		assert.NoError(t, err)
		conn, _, err := rw.(http.Hijacker).Hijack()
		if assert.NoError(t, err) {
			// Without a space it is quoted whole.
			_, _ = conn.Write(append(bytes.ReplaceAll(said, []byte(" "), nil), "\r\n\r\n"...))
			_ = conn.Close()
		}
	}))
	t.Cleanup(server.Close)
	return server.URL
}

// A login page answered with 307, and net/http sent the same body, key and all,
// to the host that it named.
func TestARedirectTakesTheKeyToNoOtherHost(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var strayed []string
	elsewhere := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		strayed = append(strayed, r.Method+" "+r.URL.String())
	}))
	t.Cleanup(elsewhere.Close)
	key, err := polargate.ParseKey("POLAR-00000000-0000-4000-8000-000000000000")
	require.NoError(t, err)
	eager := func() *http.Client {
		return &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return nil }, Transport: &http.Transport{}}
	}
	for _, status := range []int{301, 302, 303, 307, 308} {
		for name, client := range map[string]func() *http.Client{"of a client of ours": func() *http.Client { return nil }, "of one that would follow": eager} {
			t.Run(fmt.Sprint(status, " ", name), func(t *testing.T) {
				t.Parallel()
				leads := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
					http.Redirect(rw, r, elsewhere.URL+r.URL.Path+"?from=here", status)
				}))
				t.Cleanup(leads.Close)
				config := polargate.ClientConfig{OrganizationID: otherBenefit, BaseURL: leads.URL, HTTPClient: client(), AccessToken: theToken}
				with, err := polargate.NewClient(config)
				require.NoError(t, err)
				defer with.Close()
				_, err = with.Validate(t.Context(), polargate.ValidateRequest{Key: key})
				assertLeavesAlone(t, err)
				gate, err := polargate.Open(polargate.Config{OrganizationID: otherBenefit, BaseURL: leads.URL, HTTPClient: client(), Store: &polargate.MemoryStore{}, Fingerprint: kit.ThisMachine})
				require.NoError(t, err)
				_, err = gate.Activate(t.Context(), key.Reveal())
				assertLeavesAlone(t, err)
				assert.NotErrorIs(t, err, polargate.ErrActivationInDoubt, "no seat was taken by a redirect")
				require.NoError(t, gate.Close())
				mu.Lock()
				defer mu.Unlock()
				assert.Empty(t, strayed)
			})
		}
	}
}
