package gate

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
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

// everything is all that a Diagnosis says, in each of its forms.
func everything(t *testing.T, d polargate.Diagnosis) string {
	t.Helper()
	data, err := json.MarshalIndent(d, "", " ")
	require.NoError(t, err)
	return d.String() + "\n" + string(data) + "\n" + strings.Join(d.Problems, "\n") + fmt.Sprintf("\n%v\n%+v\n%#v", d, d, d)
}

func gateKeyTail(w *kit.World) string {
	key, err := polargate.ParseKey(w.Key.Key)
	require.NoError(w.T, err)
	return key.String()
}

func TestADiagnosisSaysWhereTheLicenseStands(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		prepare func(*testing.T, *kit.World) *polargate.Gate
		state   polargate.State
		reason  polargate.Reason
		shows   []string
		check   func(*testing.T, *kit.World, polargate.Diagnosis)
	}{
		"no license": {
			prepare: func(_ *testing.T, w *kit.World) *polargate.Gate { return w.Open() },
			state:   polargate.Unlicensed, reason: polargate.ErrNoLicense,
			shows: []string{"unlicensed, no_license", "Enter your license key"},
			check: func(t *testing.T, _ *kit.World, d polargate.Diagnosis) {
				assert.Zero(t, d.SinceChecked)
				assert.True(t, d.GraceUntil.IsZero())
				assert.Len(t, d.Problems, 1)
			},
		},
		"an active one": {
			prepare: func(_ *testing.T, w *kit.World) *polargate.Gate {
				gate := w.Activated()
				time.Sleep(3 * time.Hour)
				return gate
			},
			state: polargate.Active,
			shows: []string{"license      active\n", "checked      3 hours ago", "none found", "clock        right", "inkwell 1.4.2"},
			check: func(t *testing.T, w *kit.World, d polargate.Diagnosis) {
				assert.True(t, d.Reached)
				assert.Empty(t, d.Problems)
				assert.Equal(t, 3*time.Hour, d.SinceChecked)
				assert.Equal(t, time.Now().UTC(), d.At)
				assert.False(t, d.GraceUntil.IsZero())
				assert.Zero(t, d.Pause)
				assert.Zero(t, d.ClockAhead)
				activation := w.Now().Activations[0]
				assert.Equal(t, gateKeyTail(w), d.Key)
				assert.Equal(t, activation.ID, d.ActivationID)
				assert.Equal(t, activation.Meta["installation"], d.InstallationID)
				for _, id := range []string{d.Key, d.ActivationID, d.InstallationID} {
					assert.Contains(t, d.String(), id)
				}
			},
		},
		"one in grace": {
			prepare: func(t *testing.T, w *kit.World) *polargate.Gate {
				gate := w.Activated()
				w.Polar.SetOffline(true)
				time.Sleep(3 * kit.Day)
				_, err := gate.Check(t.Context())
				require.NoError(t, err)
				return gate
			},
			state: polargate.Grace, reason: polargate.ErrUnreachable,
			shows: []string{"grace, unreachable", "grace until", "3 days ago"},
		},
		"one that is revoked": {
			prepare: func(t *testing.T, w *kit.World) *polargate.Gate {
				gate := w.Activated()
				w.Polar.Revoke(w.Key.ID)
				_, err := gate.Refresh(t.Context())
				require.Error(t, err)
				return gate
			},
			state: polargate.Locked, reason: polargate.ErrInactive,
			shows: []string{"locked, inactive", polargate.Phrases()["inactive.do"]},
			check: func(t *testing.T, _ *kit.World, d polargate.Diagnosis) { assert.True(t, d.Reached) },
		},
		"one that will expire": {
			prepare: func(_ *testing.T, w *kit.World) *polargate.Gate {
				expireAt(w, time.Now().Add(30*kit.Day))
				return w.Activated()
			},
			state: polargate.Active,
			shows: []string{"expires"},
			check: func(t *testing.T, w *kit.World, d polargate.Diagnosis) {
				assert.Equal(t, w.Now().ExpiresAt.UTC(), d.ExpiresAt.UTC())
			},
		},
		"one whose grace is over": {
			prepare: func(_ *testing.T, w *kit.World) *polargate.Gate {
				w.Config.GracePeriod = 2 * kit.Day
				gate := w.Activated()
				w.Polar.SetOffline(true)
				time.Sleep(3 * kit.Day)
				return gate
			},
			state: polargate.Locked, reason: polargate.ErrGraceEnded,
			shows: []string{"locked, grace_ended"},
		},
		"one that could not be saved": {
			prepare: func(t *testing.T, w *kit.World) *polargate.Gate {
				store := &kit.BrittleStore{}
				w.Config.Store = store
				gate := w.Activated()
				store.Set(nil, kit.Fails, nil)
				_, err := gate.Refresh(t.Context())
				require.NoError(t, err)
				return gate
			},
			state: polargate.Active,
			shows: []string{"active, not saved", "a place of the program's own"},
			check: func(t *testing.T, _ *kit.World, d polargate.Diagnosis) { assert.True(t, d.Unsaved) },
		},
		"an activation in doubt": {
			prepare: func(t *testing.T, w *kit.World) *polargate.Gate {
				gate := w.Open()
				w.Inject(kit.PathActivate, 1, polartest.AnswerLost())
				_, err := gate.Activate(t.Context(), w.Key.Key)
				require.ErrorIs(t, err, polargate.ErrInDoubt)
				return gate
			},
			state: polargate.Unlicensed, reason: polargate.ErrInDoubt,
			shows: []string{"in doubt"},
			check: func(t *testing.T, _ *kit.World, d polargate.Diagnosis) { assert.True(t, d.InDoubt) },
		},
		"a seat that waits": {
			prepare: func(t *testing.T, w *kit.World) *polargate.Gate {
				gate := w.Activated()
				w.Inject(kit.PathDeactivate, 0, polartest.ServerError(500))
				require.Error(t, gate.Deactivate(t.Context()))
				return gate
			},
			state: polargate.Unlicensed, reason: polargate.ErrNoLicense,
			shows: []string{"to release   1"},
			check: func(t *testing.T, _ *kit.World, d polargate.Diagnosis) { assert.Equal(t, 1, d.SeatsToRelease) },
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := kit.NewWorld(t)
				gate := test.prepare(t, w)
				d := gate.Diagnose(t.Context())
				assert.Equal(t, test.state, d.State)
				assert.Equal(t, test.reason, d.Reason)
				for _, text := range test.shows {
					assert.Contains(t, d.String(), text)
				}
				if test.check != nil {
					test.check(t, w, d)
				}
				data, err := json.Marshal(d)
				require.NoError(t, err)
				var read map[string]any
				require.NoError(t, json.Unmarshal(data, &read))
				assert.Equal(t, string(test.state), read["state"])
				assert.IsType(t, []any{}, read["problems"], "a list, if empty")
				secrets{w.Key.Key}.assertNone(t, everything(t, d), "the report")
			})
		})
	}
}

func TestADiagnosisNamesWhatKeepsPolarFromBeingReached(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		prepare func(*kit.World)
		shows   string
		most    int // requests
	}{
		"a login page":         {injectAll(polartest.LoginPage(200)), "web page", 1},
		"one that redirects":   {injectAll(polartest.LoginPage(302)), "", 1},
		"one with status 511":  {injectAll(polartest.LoginPage(511)), "web page", 1},
		"a firewall":           {injectAll(polartest.ProxyPage(403)), "web page", 1},
		"a proxy without word": {injectAll(polartest.ProxyPage(407)), "web page", 1},
		"a gateway":            {injectAll(polartest.ProxyPage(502)), "", 3},
		"a server that fails":  {injectAll(polartest.ServerError(500)), "", 3},
		"no network":           {func(w *kit.World) { w.Polar.SetOffline(true) }, "couldn't be reached", 0},
		"connections cut":      {injectAll(polartest.Reset()), "", 3},
		"silence":              {injectAll(polartest.Hang()), "in time", 1},
		"a page that drips":    {injectAll(polartest.SlowDrip(time.Second)), "", 1},
		"garbage":              {injectAll(polartest.Garbage()), "", 1},
		"a page without end":   {injectAll(polartest.Huge()), "", 1},
		"a grant of any key":   {injectAll(polartest.Body(200, applicationJSON, `{"id":"x","status":"granted"}`)), "", 1},
		"a route that is gone": {injectAll(polartest.RouterNotFound()), "", 1},
		"a pause":              {injectAll(polartest.RateLimited("40")), "limit", 1},
		"a name that does not resolve": {func(w *kit.World) {
			w.Config.HTTPClient = &http.Client{Transport: kit.RoundTripper(func(r *http.Request) (*http.Response, error) {
				return nil, &net.DNSError{Err: "no such host", Name: r.URL.Hostname(), IsNotFound: true}
			})}
		}, "no such host", 0},
		"a certificate that nobody trusts": {func(w *kit.World) {
			w.Config.HTTPClient = &http.Client{Transport: kit.RoundTripper(func(*http.Request) (*http.Response, error) {
				return nil, x509.UnknownAuthorityError{}
			})}
		}, "certificate", 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := kit.NewWorld(t)
				w.Activated()
				w.Polar.ForgetRequests()
				test.prepare(w)
				gate := w.Open()
				began := time.Now()
				d := gate.Diagnose(t.Context())
				assert.LessOrEqual(t, time.Since(began), 5*time.Second, "CheckTimeout")
				assert.False(t, d.Reached)
				assert.NotEmpty(t, d.Answer)
				assert.Contains(t, strings.ToLower(d.Answer), test.shows)
				require.NotEmpty(t, d.Problems)
				assert.Contains(t, d.String(), d.Problems[0])
				assert.NotContains(t, d.String(), "clock ", "nothing is known of it")
				assert.Equal(t, polargate.Active, d.State, "and it says nothing of the license")
				assert.LessOrEqual(t, w.Polar.Count(""), test.most)
				secrets{w.Key.Key}.assertNone(t, everything(t, d), "the report")
			})
		})
	}
	t.Run("for no longer than the program's own timeout, or the caller's", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			w := kit.NewWorld(t)
			w.Config.CheckTimeout = 700 * time.Millisecond
			w.Inject("", 0, polartest.Hang())
			gate := w.Open()
			began := time.Now()
			gate.Diagnose(t.Context())
			assert.LessOrEqual(t, time.Since(began), 700*time.Millisecond)
			ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
			defer cancel()
			began = time.Now()
			d := gate.Diagnose(ctx)
			assert.LessOrEqual(t, time.Since(began), 50*time.Millisecond)
			assert.False(t, d.Reached)
			d = gate.Diagnose(ctx)
			assert.False(t, d.Reached)
			assert.NotEmpty(t, d.Problems)
		})
	})
	t.Run("the pause that its own question met", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			w := kit.NewWorld(t)
			w.Inject("", 1, polartest.RateLimited("40"))
			d := w.Open().Diagnose(t.Context())
			assert.Equal(t, 40*time.Second, d.Pause)
			assert.Contains(t, d.String(), "for another 40 seconds")
		})
	})
	t.Run("a pause that was met before, without asking again", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			w := kit.NewWorld(t)
			gate := w.Activated()
			w.Inject("", 1, polartest.RateLimited("40"))
			_, err := gate.Refresh(t.Context())
			require.ErrorIs(t, err, polargate.ErrRateLimited)
			time.Sleep(10 * time.Second)
			w.Polar.ForgetRequests()
			d := gate.Diagnose(t.Context())
			assert.Zero(t, w.Polar.Count(""))
			assert.Equal(t, 30*time.Second, d.Pause)
			assert.False(t, d.Reached)
			assert.Contains(t, d.String(), "for another 30 seconds")
		})
	})
}

func injectAll(effect polartest.Effect) func(*kit.World) {
	return func(w *kit.World) { w.Inject("", 0, effect) }
}

func TestADiagnosisSendsOneRequestWithAMadeUpKey(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := kit.NewWorld(t)
		gate := w.Activated()
		w.Polar.ForgetRequests()
		// More than Polar takes in a second: newWorld fails at a fourth.
		var all sync.WaitGroup
		for range 6 {
			all.Go(func() { assert.True(t, gate.Diagnose(t.Context()).Reached) })
		}
		all.Wait()
		for range 4 {
			assert.True(t, gate.Diagnose(t.Context()).Reached)
		}
		requests := w.Polar.Requests()
		require.Len(t, requests, 10)
		asked := map[string]bool{}
		for _, r := range requests {
			assert.True(t, strings.HasSuffix(r.Path, kit.PathValidate))
			assert.NotContains(t, string(r.Body), w.Key.Key)
			assert.NotContains(t, string(r.Body), "activation_id")
			asked[string(r.Body)] = true
		}
		assert.Len(t, asked, 10, "a key that nobody can have made")
		assert.Equal(t, int64(0), w.Now().Validations)
	})
}

// files are all files and folders below a folder, with what is in them.
func files(t *testing.T, root string) map[string]string {
	t.Helper()
	all := map[string]string{}
	require.NoError(t, filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || path == root {
			return err
		}
		all[path] = "a folder"
		if !entry.IsDir() {
			data, err := os.ReadFile(path)
			require.NoError(t, err)
			all[path] = string(data)
		}
		return nil
	}))
	return all
}

func TestADiagnosisChangesNothing(t *testing.T) {
	t.Parallel()
	for name, prepare := range map[string]func(*testing.T, *kit.World) *polargate.Gate{
		"without a license": func(_ *testing.T, w *kit.World) *polargate.Gate { return w.Open() },
		"with one":          func(_ *testing.T, w *kit.World) *polargate.Gate { return w.Activated() },
		"with one that is stale": func(_ *testing.T, w *kit.World) *polargate.Gate {
			g := w.Activated()
			time.Sleep(3*kit.Day + 10*time.Minute)
			return g
		},
		"with one that is revoked": func(_ *testing.T, w *kit.World) *polargate.Gate {
			g := w.Activated()
			w.Polar.Revoke(w.Key.ID)
			return g
		},
		"with a seat that waits": func(t *testing.T, w *kit.World) *polargate.Gate {
			gate := w.Activated()
			w.Polar.SetOffline(true)
			require.Error(t, gate.Deactivate(t.Context()))
			w.Polar.SetOffline(false)
			return gate
		},
		"with a damaged state": func(t *testing.T, w *kit.World) *polargate.Gate {
			require.NoError(t, w.Activated().Close())
			folder := string(w.Config.Store.(polargate.FileStore))
			for path := range files(t, folder) {
				require.NoError(t, os.WriteFile(path, []byte("damaged"), 0o600))
			}
			return w.Open()
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				folder := t.TempDir()
				w := kit.NewWorld(t)
				w.Config.Store = polargate.FileStore(filepath.Join(folder, "inkwell", "license"))
				gate := prepare(t, w)
				synctest.Wait()
				before, there, seats := gate.Status(), files(t, folder), w.Seats()
				d := gate.Diagnose(t.Context())
				synctest.Wait()
				assert.Empty(t, d.StoreProblem)
				assert.Equal(t, there, files(t, folder), "no file and no folder is left")
				assert.Equal(t, before, gate.Status())
				assert.Equal(t, seats, w.Seats())
				assert.Equal(t, before.Reason, d.Reason)
			})
		})
	}
}

func TestADiagnosisFindsAStoreThatCannotBeWritten(t *testing.T) {
	t.Parallel()
	t.Run("a folder below a file", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "file")
			require.NoError(t, os.WriteFile(file, []byte("x"), 0o600))
			for _, kind := range []polargate.Ephemeral{"", polargate.IfUnwritable} {
				w := kit.NewWorld(t)
				w.Config.Store = polargate.FileStore(filepath.Join(file, "license"))
				d := w.Open(ephemeral(kind)).Diagnose(t.Context())
				assert.NotEmpty(t, d.StoreProblem)
				assert.Contains(t, d.Store, "license")
				kit.Says(t, strings.Join(d.Problems, "\n"), "store")
				assert.True(t, d.Reached, "the rest is looked at all the same")
			}
		})
	})
	t.Run("and says where else it is kept", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			w := kit.NewWorld(t)
			for what, store := range map[string]polargate.Store{
				"memory":                       &polargate.MemoryStore{},
				"a place of the program's own": &kit.BrittleStore{},
			} {
				w.Config.Store = store
				d := w.Open().Diagnose(t.Context())
				assert.Equal(t, what, d.Store)
				assert.Empty(t, d.StoreProblem)
			}
			d := w.Open(ephemeral(polargate.ReleaseOnClose)).Diagnose(t.Context())
			assert.Equal(t, "memory", d.Store)
		})
	})
}

// Not parallel: it changes who the user is.
func TestADiagnosisContainsNoPersonalData(t *testing.T) {
	const user, computer, password = "ada-lovelace", "ada-laptop-of-the-vendor", "pa55:word-of-the-proxy"
	home := filepath.Join(t.TempDir(), user)
	t.Setenv("HOME", home)
	t.Setenv("USERPROFILE", home)
	t.Setenv("USER", user)
	t.Setenv("LOGNAME", user)
	t.Setenv("USERNAME", user)
	t.Setenv("XDG_CONFIG_HOME", "")
	host, err := os.Hostname()
	require.NoError(t, err)
	withProxy := func(proxy func(*http.Request) (*url.URL, error)) func(*kit.World) {
		return func(w *kit.World) {
			w.Config.HTTPClient = &http.Client{Transport: &http.Transport{Proxy: proxy, DialContext: func(_ context.Context, network, to string) (net.Conn, error) {
				return nil, &net.OpError{Op: "dial", Net: network, Err: &net.DNSError{Err: "no such host", Name: to}}
			}}}
		}
	}
	says := func(err error) func(*kit.World) {
		return func(w *kit.World) {
			w.Config.HTTPClient = &http.Client{Transport: kit.RoundTripper(func(r *http.Request) (*http.Response, error) { return nil, err })}
		}
	}
	quotes := func(format string) func(*kit.World) {
		return func(w *kit.World) {
			w.Config.HTTPClient = &http.Client{Transport: kit.RoundTripper(func(r *http.Request) (*http.Response, error) {
				body := make([]byte, r.ContentLength)
				_, _ = r.Body.Read(body)
				return nil, fmt.Errorf(format, user+" "+theEmail+" "+home+" "+string(body))
			})}
		}
	}
	for name, prepare := range map[string]func(*kit.World){
		"all is well":                     func(*kit.World) {},
		"in the folder for settings":      func(w *kit.World) { w.Config.Store = nil },
		"in a folder that is elsewhere":   func(w *kit.World) { w.Config.Store = polargate.FileStore(filepath.Join(t.TempDir(), user, "x")) },
		"in a folder named by an address": func(w *kit.World) { w.Config.Store = polargate.FileStore(filepath.Join(t.TempDir(), theEmail)) },
		"in a folder named by computer":   func(w *kit.World) { w.Config.Store = polargate.FileStore(filepath.Join(t.TempDir(), host+"-share")) },
		"in capitals": func(w *kit.World) {
			w.Config.Store = polargate.FileStore(filepath.Join(t.TempDir(), strings.ToUpper(user)))
		},
		"in a folder that cannot be":       func(w *kit.World) { w.Config.Store = polargate.FileStore(belowFile(t, filepath.Join(home, ".config"))) },
		"a refusal that echoes":            injectAll(polartest.Body(404, applicationJSON, `{"error":"ResourceNotFound","detail":"`+user+` `+theEmail+` `+home+`"}`)),
		"a fault that echoes":              injectAll(polartest.Body(422, applicationJSON, `{"error":"RequestValidationError","detail":[{"loc":["body","key"],"msg":"`+user+` `+theEmail+`","type":"value_error","input":"`+home+`"}]}`)),
		"a page that echoes":               injectAll(polartest.Body(502, "text/html", "<html>"+user+" "+theEmail+" "+home)),
		"a type that echoes":               injectAll(polartest.Body(200, "text/"+user, user)),
		"an answer that is quoted":         quotes("malformed HTTP response %q"),
		"an answer that is quoted plainly": quotes("malformed HTTP status %s"),
		"a file that is missing":           says(&fs.PathError{Op: "open", Path: filepath.Join(home, "proxy.pac"), Err: fs.ErrNotExist}),
		"a computer that is not found":     says(&net.DNSError{Err: "no such host", Name: host}),
		"a proxy with a password":          withProxy(http.ProxyURL(&url.URL{Scheme: "http", User: url.UserPassword(user, password), Host: "proxy.example.com:3128"})),
		"a proxy whose address is wrong": withProxy(func(*http.Request) (*url.URL, error) {
			_, err := url.Parse("http://" + strings.Join([]string{user, password}, ":") + "@proxy.example.com: 3128")
			return nil, err
		}),
		"a proxy whose address is quoted": withProxy(func(*http.Request) (*url.URL, error) {
			return nil, fmt.Errorf("invalid proxy address %q", "http://"+user+":"+password+"@proxy.example.com:3128")
		}),
		"a proxy named by its user": withProxy(http.ProxyURL(&url.URL{Scheme: "http", Host: user + ".invalid:1"})),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := kit.NewWorld(t, func(k *polartest.LicenseKey) { k.Customer = polartest.Customer{Email: theEmail, Name: user} })
				w.Config.Store = polargate.FileStore(filepath.Join(home, ".config", "inkwell"))
				w.Config.Label = computer
				require.NoError(t, w.Activated().Close())
				prepare(w)
				gate := w.Open()
				d := gate.Diagnose(t.Context())
				require.NoError(t, gate.Close())
				text := strings.ToLower(everything(t, d))
				for _, random := range []string{d.InstallationID, d.ActivationID} { // which may have a short name in them by chance
					text = strings.ReplaceAll(text, strings.ToLower(random), "")
				}
				for what, secret := range map[string]string{
					"the license key": w.Key.Key, "an address": theEmail, "the user": user, "the home folder": home, "where it is": filepath.Dir(home),
					"the computer": computer, "the password": password, "part of the password": password[:4], "and the rest of it": password[5:], "the host": host,
					"the customer": w.Key.CustomerID, "the machine": kit.ThisMachine,
				} {
					assert.NotContains(t, text, strings.ToLower(secret), what)
				}
				assert.NotEmpty(t, d.Store)
				if strings.HasPrefix(name, "a proxy with") {
					assert.Equal(t, "proxy.example.com:3128", d.Proxy)
				}
			})
		})
	}
}

// belowFile is a path that cannot be a folder.
func belowFile(t *testing.T, path string) string {
	t.Helper()
	require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o700))
	file := path + ".file"
	require.NoError(t, os.WriteFile(file, []byte("x"), 0o600))
	return filepath.Join(file, "license")
}

func TestADiagnosisTellsTheProxy(t *testing.T) {
	t.Parallel()
	for want, transport := range map[string]http.RoundTripper{
		"none":                           &http.Transport{},
		"proxy.example.com:3128":         &http.Transport{Proxy: http.ProxyURL(&url.URL{Scheme: "http", Host: "proxy.example.com:3128"})},
		"unknown":                        kit.RoundTripper(nil),
		"an address that cannot be read": &http.Transport{Proxy: func(*http.Request) (*url.URL, error) { return nil, errors.New("no") }},
	} {
		w := kit.NewWorld(t)
		w.Config.HTTPClient = &http.Client{Transport: transport}
		ctx, cancel := context.WithCancel(t.Context())
		cancel() // it is looked at, and nobody is asked
		d := w.Open().Diagnose(ctx)
		assert.Equal(t, want, d.Proxy)
		assert.Contains(t, d.String(), want)
	}
}

func TestADiagnosisOfAClosedGateIsNoPanic(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := kit.NewWorld(t)
		gate := w.Activated()
		require.NoError(t, gate.Close())
		assert.NotPanics(t, func() {
			d := gate.Diagnose(t.Context())
			assert.Equal(t, polargate.Locked, d.State)
			assert.Equal(t, polargate.ErrClosed, d.Reason)
			assert.NotEmpty(t, d.String())
			var none context.Context
			d = gate.Diagnose(none)
			assert.NotEmpty(t, d.String())
			assert.NotEmpty(t, polargate.Diagnosis{}.String())
		})
		assert.Equal(t, 1, w.Seats())
	})
}

func TestAPanicBelowTheLibraryComesOutOfNoCall(t *testing.T) {
	t.Parallel()
	for name, call := range map[string]func(*testing.T, *kit.World, *polargate.Gate){
		"Check":      func(t *testing.T, _ *kit.World, g *polargate.Gate) { _, _ = g.Check(t.Context()) },
		"Refresh":    func(t *testing.T, _ *kit.World, g *polargate.Gate) { _, _ = g.Refresh(t.Context()) },
		"Consume":    func(t *testing.T, _ *kit.World, g *polargate.Gate) { _, _ = g.Consume(t.Context(), 1) },
		"Activate":   func(t *testing.T, w *kit.World, g *polargate.Gate) { _, _ = g.Activate(t.Context(), w.Key.Key) },
		"Deactivate": func(t *testing.T, _ *kit.World, g *polargate.Gate) { _ = g.Deactivate(t.Context()) },
		"Diagnose":   func(t *testing.T, _ *kit.World, g *polargate.Gate) { _ = g.Diagnose(t.Context()).String() },
		"Import": func(t *testing.T, w *kit.World, g *polargate.Gate) {
			_, _ = g.Import(t.Context(), polargate.ImportedActivation{Key: w.Key.Key, ActivationID: w.Now().Activations[0].ID})
		},
		"Close": func(_ *testing.T, _ *kit.World, g *polargate.Gate) { _ = g.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := kit.NewWorld(t)
				next := w.Polar.Transport()
				panics := false
				w.Config.HTTPClient = &http.Client{Transport: kit.RoundTripper(func(r *http.Request) (*http.Response, error) {
					if panics {
						panic("transport")
					}
					return next.RoundTrip(r)
				})}
				gate := w.Activated(ephemeral(polargate.ReleaseOnClose))
				time.Sleep(25 * time.Hour)
				caught := func(f func()) (p any) {
					defer func() { p = recover() }()
					f()
					return nil
				}
				panics = true
				assert.Nil(t, caught(func() { call(t, w, gate) }), "what came out")
				panics = false
				assert.Nil(t, caught(func() { _ = gate.Close() }), "nor is anything left locked")
			})
		})
	}
}
