package gate

import (
	"bytes"
	"context"
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

func TestALicenseAgesFromFreshToGraceToLocked(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		fresh, grace       time.Duration // of the Config
		freshUntil, endsAt time.Duration
		expires            time.Duration // of the key; 0: never
		want               polargate.Reason
	}{
		"by the defaults, a day and two weeks":   {0, 0, kit.Day, 14 * kit.Day, 0, polargate.ErrGraceEnded},
		"by times of its own":                    {time.Hour, 3 * time.Hour, time.Hour, 3 * time.Hour, 0, polargate.ErrGraceEnded},
		"with an expiry before the end of grace": {0, 0, kit.Day, 3 * kit.Day, 3 * kit.Day, polargate.ErrExpired},
		"with an expiry while it is fresh":       {0, 0, 6 * time.Hour, 6 * time.Hour, 6 * time.Hour, polargate.ErrExpired},
		"with an expiry long after":              {0, 0, kit.Day, 14 * kit.Day, 100 * kit.Day, polargate.ErrGraceEnded},
		"without grace":                          {2 * time.Hour, -1, 2 * time.Hour, 2 * time.Hour, 0, polargate.ErrGraceEnded},
		"without grace, by any negative number":  {0, -100 * kit.Day, kit.Day, kit.Day, 0, polargate.ErrGraceEnded},
		"with three weeks of grace":              {0, 21 * kit.Day, kit.Day, 21 * kit.Day, 0, polargate.ErrGraceEnded},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := kit.NewWorld(t, func(k *polartest.LicenseKey) {
					if test.expires > 0 {
						k.ExpiresAt = time.Now().Add(test.expires)
					}
				})
				w.Config.FreshFor, w.Config.GracePeriod = test.fresh, test.grace
				began := time.Now()
				watched, asked := w.Activated(), w.Open()
				status := watched.Status()
				assert.Equal(t, time.Now().UTC(), status.CheckedAt)
				w.Polar.SetOffline(true)

				// asked, which does not renew early; watched gets no call of Check at all.
				at := func(d time.Duration) { time.Sleep(time.Until(began.Add(d))); synctest.Wait() }
				at(test.freshUntil - time.Second)
				assert.True(t, watched.Has("export"))
				assert.Equal(t, polargate.Active, watched.Status().State)
				status, err := asked.Check(t.Context())
				require.NoError(t, err)
				assert.Equal(t, polargate.Active, status.State)

				if test.endsAt > test.freshUntil {
					at(test.freshUntil + time.Second)
					assert.True(t, watched.Has("export"))
					status, err = asked.Check(t.Context())
					require.NoError(t, err)
					assert.Equal(t, polargate.Grace, status.State)
					assert.True(t, status.OK())
					assert.Equal(t, []string{"export", "sync"}, status.Features)
					at(test.endsAt - 10*time.Second) // an attempt takes its time
					assert.True(t, watched.Has("export"))
					status, err = asked.Check(t.Context())
					require.NoError(t, err)
					assert.Equal(t, polargate.Grace, status.State)
					if test.expires == 0 || test.expires > test.endsAt {
						assert.Equal(t, began.Add(test.endsAt).UTC(), status.GraceUntil, "grace is counted from the last granted answer")
					}
					next := w.Open()
					assert.True(t, next.Has("export"), "in the next run, from disk, with no call of Check")
				}

				at(test.endsAt + time.Second)
				assert.False(t, watched.Has("export"), "flips by itself")
				assert.Equal(t, polargate.Locked, watched.Status().State)
				assert.Equal(t, test.want, watched.Status().Reason)
				assert.Empty(t, watched.Status().Features)
				assert.False(t, watched.Status().Has("export"))
				status, err = asked.Check(t.Context())
				require.ErrorIs(t, err, test.want)
				assert.Equal(t, polargate.Locked, status.State)
				next := w.Open()
				assert.False(t, next.Has("export"))
				assert.Equal(t, test.want, next.Status().Reason)
				at(test.endsAt + 40*kit.Day)
				assert.False(t, watched.Has("export"))

				w.Polar.SetOffline(false)
				if test.want == polargate.ErrExpired {
					expireAt(w, time.Time{})
				} else if test.expires > 0 {
					expireAt(w, time.Now().Add(kit.Day))
				}
				status, err = asked.Check(t.Context())
				require.NoError(t, err, "and Polar's next grant restores it")
				assert.Equal(t, polargate.Active, status.State)
				_, err = watched.Check(t.Context())
				require.NoError(t, err)
				assert.True(t, watched.Has("export"))
			})
		})
	}
}

func TestFailedAttemptsDoNotStretchGrace(t *testing.T) {
	t.Parallel()
	for name, effect := range map[string]polartest.Effect{"login page": polartest.LoginPage(200), "reset": polartest.Reset(), "500": polartest.ServerError(500), "429": polartest.RateLimited("1")} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := kit.NewWorld(t)
				gate := w.Activated()
				w.Inject("", 0, effect)
				for range 13 {
					time.Sleep(kit.Day)
					_, _ = gate.Check(t.Context())
					_, _ = gate.Refresh(t.Context())
					_, _ = gate.Consume(t.Context(), 1)
					_, _ = gate.Activate(t.Context(), w.Key.Key)
					if gate.Status().Reason == "" {
						require.Equal(t, polargate.Active, gate.Status().State)
					}
					require.True(t, gate.Has("export"))
				}
				time.Sleep(kit.Day + time.Second)
				assert.False(t, gate.Has("export"))
				assert.Equal(t, polargate.ErrGraceEnded, gate.Status().Reason)
			})
		})
	}
}

func TestCheckAsksPolarOnlyWhenItIsDue(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := kit.NewWorld(t)
		gate := w.Activated()
		w.Polar.ForgetRequests()
		for range 200 {
			_, err := gate.Check(t.Context())
			require.NoError(t, err)
		}
		for range 20 {
			next := w.Open()
			status, err := next.Check(t.Context())
			require.NoError(t, err)
			assert.Equal(t, polargate.FromDisk, status.Source)
			require.NoError(t, next.Close())
		}
		synctest.Wait()
		assert.Zero(t, w.Polar.Count(""), "fresh: nobody is asked, in this run or the next")
		time.Sleep(13 * time.Hour)
		status, err := gate.Check(t.Context())
		require.NoError(t, err)
		assert.Equal(t, polargate.Active, status.State)
		synctest.Wait()
		assert.Equal(t, 1, w.Polar.Count(""), "past half its freshness it is renewed behind the caller's back")
		assert.Equal(t, time.Now().UTC(), gate.Status().CheckedAt)
		time.Sleep(11 * time.Hour)
		_, err = gate.Check(t.Context())
		require.NoError(t, err)
		synctest.Wait()
		assert.Equal(t, 1, w.Polar.Count(""))
		time.Sleep(25 * time.Hour)
		status, err = gate.Check(t.Context())
		require.NoError(t, err)
		assert.Equal(t, polargate.FromNetwork, status.Source)
		assert.Equal(t, 2, w.Polar.Count(""))
		assert.True(t, w.Open().Has("export"))
		assert.Equal(t, time.Now().UTC().Add(kit.Day), w.Open().Status().FreshUntil, "and what came is stored")
	})
}

func TestARefusalIsAskedAboutAgainSoon(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := kit.NewWorld(t)
		gate := w.Activated()
		w.Polar.Revoke(w.Key.ID)
		_, err := gate.Refresh(t.Context())
		require.ErrorIs(t, err, polargate.ErrInactive)
		w.Polar.Grant(w.Key.ID)
		time.Sleep(time.Second)
		_, err = w.Open().Check(t.Context())
		require.NoError(t, err)
		_, err = gate.Check(t.Context())
		require.NoError(t, err, "by another Gate's answer or its own")
	})
}

func TestCheckWaitsNoLongerThanItsTimeout(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ timeout, ctx, want time.Duration }{
		"five seconds by default":       {0, time.Hour, 5 * time.Second},
		"what the program wants":        {250 * time.Millisecond, time.Hour, 250 * time.Millisecond},
		"what the caller's context has": {0, 70 * time.Millisecond, 70 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := kit.NewWorld(t)
				w.Config.CheckTimeout = test.timeout
				gate := w.Activated()
				time.Sleep(2 * kit.Day)
				w.Inject("", 0, polartest.Hang())
				ctx, cancel := context.WithTimeout(t.Context(), test.ctx)
				defer cancel()
				for _, call := range []func(context.Context) (polargate.Status, error){gate.Check, gate.Refresh} {
					began := time.Now()
					status, _ := call(ctx)
					assert.LessOrEqual(t, time.Since(began), test.want)
					assert.Equal(t, polargate.Grace, status.State)
					assert.True(t, gate.Has("export"))
				}
			})
		})
	}
	t.Run("an ended context gets what is known", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			w := kit.NewWorld(t)
			gate := w.Activated()
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			status, err := gate.Check(ctx)
			require.NoError(t, err)
			assert.Equal(t, polargate.Active, status.State)
		})
	})
}

func TestTheFirstCheckAfterAFailedOneAsksAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := kit.NewWorld(t)
		gate := w.Activated()
		time.Sleep(2 * kit.Day)
		w.Polar.SetOffline(true)
		_, err := gate.Check(t.Context())
		require.NoError(t, err)
		w.Polar.SetOffline(false)
		time.Sleep(2 * time.Minute)
		status, err := gate.Check(t.Context())
		require.NoError(t, err)
		assert.Equal(t, polargate.Active, status.State, "not a day later")
	})
}

func TestGraceIsHeldUpOnceByANetworkThatHangs(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := kit.NewWorld(t)
		require.NoError(t, w.Activated().Close())
		time.Sleep(2 * kit.Day)
		w.Inject("", 0, polartest.Hang())
		w.Polar.ForgetRequests()
		for run := range 5 {
			gate := w.Open()
			began := time.Now()
			status, err := gate.Check(t.Context())
			require.NoError(t, err)
			assert.Equal(t, polargate.Grace, status.State)
			if took := time.Since(began); run == 0 {
				assert.LessOrEqual(t, took, 5*time.Second)
			} else {
				assert.Zero(t, took, "run %d", run)
			}
			require.NoError(t, gate.Close())
		}
		assert.Equal(t, 1, w.Polar.Count(""), "the first run asked for all of them")
	})
}

func TestACheckThatFinishesAMoveKeepsToCheckTimeout(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := kit.NewWorld(t)
		require.NoError(t, w.Activated().Close())
		w.Inject(kit.PathActivate, 1, polartest.RateLimited("5"))
		gate := w.Open(func(c *polargate.Config) { c.Fingerprint = "a new disk" })
		_, err := gate.Move(t.Context())
		require.Error(t, err)
		time.Sleep(time.Minute)
		w.Inject(kit.PathActivate, 0, polartest.Hang())
		began := time.Now()
		_, err = gate.Check(t.Context())
		require.Error(t, err)
		assert.LessOrEqual(t, time.Since(began), 5*time.Second)
	})
}

func TestTheStateGivesNothingAwayWithoutALicense(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := kit.NewWorld(t)
		gate := w.Open()
		status, err := gate.Check(t.Context())
		require.ErrorIs(t, err, polargate.ErrNoLicense)
		assert.Equal(t, polargate.Unlicensed, status.State)
		assert.Equal(t, polargate.ErrNoLicense, status.Reason)
		assert.NotEmpty(t, status.Message)
		_, err = gate.Refresh(t.Context())
		require.ErrorIs(t, err, polargate.ErrNoLicense)
		_, err = gate.Consume(t.Context(), 1)
		require.ErrorIs(t, err, polargate.ErrNoLicense)
		require.NoError(t, gate.Deactivate(t.Context()))
		assert.False(t, gate.Has("export"))
		assert.False(t, gate.Has(""))
		assert.Zero(t, w.Polar.Count(""))
	})
}

func TestAClockThatGoesBackBuysNoTime(t *testing.T) {
	t.Parallel()
	// Each bubble's clock starts at the same moment: what was stored late in
	// one is from the future in the next.
	for name, test := range map[string]struct {
		ahead time.Duration
		want  polargate.Reason
	}{
		"by ten days":                        {10 * kit.Day, polargate.ErrClockSetBack},
		"by thirty years":                    {30 * 365 * kit.Day, polargate.ErrClockSetBack},
		"by two hours":                       {2 * time.Hour, polargate.ErrClockSetBack},
		"by half an hour, which is no alarm": {30 * time.Minute, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			store := &kit.BrittleStore{}
			var key polartest.LicenseKey
			var organization string
			synctest.Test(t, func(t *testing.T) {
				time.Sleep(test.ahead)
				w := kit.NewWorld(t)
				organization = w.Polar.OrganizationID()
				w.Config.Store = store
				w.Activated()
				key = w.Now()
			})
			stored := store.Contents()
			synctest.Test(t, func(t *testing.T) {
				polar := polartest.New(polartest.Config{OrganizationID: organization})
				polar.AddKey(key)
				memory := &polargate.MemoryStore{}
				for name, data := range stored {
					require.NoError(t, memory.Save(t.Context(), name, data))
				}
				w := &kit.World{T: t, Polar: polar, Key: key, Config: polargate.Config{
					OrganizationID: organization, App: "inkwell", Features: map[string][]string{key.BenefitID: {"export"}},
					BaseURL: polar.URL(), HTTPClient: polar.Client(), Store: memory, Fingerprint: kit.ThisMachine,
				}}
				polar.SetOffline(true)
				gate := w.Open()
				assert.Equal(t, test.want == "", gate.Has("export"))
				assert.Equal(t, test.want, gate.Status().Reason)
				_, err := gate.Check(t.Context())
				if test.want == "" {
					require.NoError(t, err)
					time.Sleep(14*kit.Day + test.ahead + time.Second)
					assert.False(t, gate.Has("export"))
				} else {
					require.ErrorIs(t, err, test.want)
					assert.Equal(t, polargate.Locked, gate.Status().State)
					time.Sleep(30 * time.Minute)
					assert.False(t, gate.Has("export"))
					assert.False(t, w.Open().Has("export"))
				}
				polar.SetOffline(false)
				status, err := gate.Check(t.Context())
				require.NoError(t, err, "a wrong clock locks out nobody who is online")
				assert.Equal(t, polargate.Active, status.State)
				assert.True(t, gate.Has("export"))
				polar.SetOffline(true)
				assert.True(t, w.Open().Has("export"), "and Polar's answer mends the mark")
			})
		})
	}
	t.Run("back to its place, the license is there again", func(t *testing.T) {
		t.Parallel()
		store := &polargate.MemoryStore{}
		polar := polartest.New(polartest.Config{})
		key := polar.AddKey(polartest.LicenseKey{LimitActivations: polartest.Limit(1)})
		config := polargate.Config{
			OrganizationID: polar.OrganizationID(), App: "inkwell", Features: map[string][]string{key.BenefitID: {"export"}},
			BaseURL: polar.URL(), HTTPClient: polar.Client(), Store: store, Fingerprint: kit.ThisMachine,
		}
		gate, err := polargate.Open(config)
		require.NoError(t, err)
		_, err = gate.Activate(t.Context(), key.Key)
		require.NoError(t, err)
		require.NoError(t, gate.Close())
		polar.SetOffline(true)
		synctest.Test(t, func(t *testing.T) {
			away := config
			gone := polartest.New(polartest.Config{})
			gone.SetOffline(true)
			away.HTTPClient, away.BaseURL = gone.Client(), gone.URL()
			gate, err := polargate.Open(away)
			require.NoError(t, err)
			defer gate.Close()
			_, err = gate.Check(t.Context())
			require.ErrorIs(t, err, polargate.ErrClockSetBack)
			assert.False(t, gate.Has("export"))
		})
		gate, err = polargate.Open(config)
		require.NoError(t, err)
		defer gate.Close()
		assert.True(t, gate.Has("export"))
		_, err = gate.Check(t.Context())
		require.NoError(t, err)
	})
}

// stateFile is the one file in a folder that holds a state.
func stateFile(t *testing.T, folder string) string {
	t.Helper()
	all, err := os.ReadDir(folder)
	require.NoError(t, err)
	for _, entry := range all {
		if !strings.HasSuffix(entry.Name(), ".lock") && !strings.Contains(entry.Name(), "corrupt") {
			return filepath.Join(folder, entry.Name())
		}
	}
	require.Fail(t, "no state in the folder")
	return ""
}

func keptAside(t *testing.T, folder string) [][]byte {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(folder, "*.corrupt*"))
	require.NoError(t, err)
	var kept [][]byte
	for _, name := range names {
		if strings.HasSuffix(name, ".lock") {
			continue
		}
		data, err := os.ReadFile(name)
		require.NoError(t, err)
		kept = append(kept, data)
	}
	return kept
}

func TestADamagedStateIsKeptAsideAndReported(t *testing.T) {
	t.Parallel()
	foreign := func(t *testing.T, change func(*kit.World)) []byte {
		w := kit.NewWorld(t)
		folder := t.TempDir()
		w.Config.Store = polargate.FileStore(folder)
		change(w)
		_, err := w.Open().Activate(t.Context(), w.Key.Key)
		require.NoError(t, err)
		data, err := os.ReadFile(stateFile(t, folder))
		require.NoError(t, err)
		return data
	}
	type damage = func(t *testing.T, good []byte) []byte
	for name, damage := range map[string]damage{
		"an empty file":         func(*testing.T, []byte) []byte { return nil },
		"one byte":              func(*testing.T, []byte) []byte { return []byte{0} },
		"half of it":            func(_ *testing.T, good []byte) []byte { return good[:len(good)/2] },
		"all but the last byte": func(_ *testing.T, good []byte) []byte { return good[:len(good)-1] },
		"the first eight bytes": func(_ *testing.T, good []byte) []byte { return good[:8] },
		"the first bit flipped": func(_ *testing.T, good []byte) []byte { good[0] ^= 1; return good },
		"a bit in it flipped":   func(_ *testing.T, good []byte) []byte { good[len(good)/3] ^= 0x10; return good },
		"the last bit flipped":  func(_ *testing.T, good []byte) []byte { good[len(good)-1] ^= 0x80; return good },
		"more at its end":       func(_ *testing.T, good []byte) []byte { return append(good, "more"...) },
		"twice the same":        func(_ *testing.T, good []byte) []byte { return append(good, good...) },
		"plain JSON":            func(*testing.T, []byte) []byte { return []byte(`{"state":"active","features":["export"]}`) },
		"null":                  func(*testing.T, []byte) []byte { return []byte(`null`) },
		"a megabyte of zeros":   func(*testing.T, []byte) []byte { return make([]byte, 1<<20) },
		"thirty megabytes":      func(_ *testing.T, good []byte) []byte { return append(good, make([]byte, 30<<20)...) },
		"binary noise":          func(*testing.T, []byte) []byte { return bytes.Repeat([]byte{0xff, 0x00, 0x7b, 0x0a}, 500) },
		"another program's state": func(t *testing.T, _ []byte) []byte {
			return foreign(t, func(w *kit.World) { w.Config.App = "blotter" })
		},
		"another vendor's state": func(t *testing.T, _ []byte) []byte { return foreign(t, func(*kit.World) {}) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := kit.NewWorld(t)
				folder := t.TempDir()
				w.Config.Store = polargate.FileStore(folder)
				require.NoError(t, w.Activated().Close())
				file := stateFile(t, folder)
				good, err := os.ReadFile(file)
				require.NoError(t, err)
				bad := damage(t, bytes.Clone(good))
				require.NoError(t, os.WriteFile(file, bad, 0o600))

				gate := w.Open()
				assert.False(t, gate.Has("export"))
				status := gate.Status()
				assert.False(t, status.OK())
				assert.Equal(t, polargate.Unlicensed, status.State)
				assert.Equal(t, polargate.ErrUnreadableState, status.Reason)
				assert.NotEmpty(t, status.Message)
				_, err = gate.Check(t.Context())
				require.ErrorIs(t, err, polargate.ErrUnreadableState)
				_, err = gate.Consume(t.Context(), 1)
				require.Error(t, err)

				_, err = gate.Activate(t.Context(), w.Key.Key)
				require.NoError(t, err, "and it is no obstacle")
				assert.True(t, gate.Has("export"))
				assert.True(t, w.Open().Has("export"))
				kept := keptAside(t, folder)
				require.NotEmpty(t, kept, "kept aside")
				if len(bad) > 0 && len(bad) < 1<<20 {
					assert.Contains(t, kept, bad)
				}
			})
		})
	}
}

func TestEveryFlippedBitIsNoticed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := kit.NewWorld(t)
		store := &kit.BrittleStore{}
		w.Config.Store = store
		require.NoError(t, w.Activated().Close())
		w.Polar.SetOffline(true)
		for name, good := range store.Contents() {
			for i := range good {
				bad := bytes.Clone(good)
				bad[i] ^= 1 << (i % 8)
				memory := &polargate.MemoryStore{}
				require.NoError(t, memory.Save(t.Context(), name, bad))
				gate, err := polargate.Open(func() polargate.Config { c := w.Config; c.Store = memory; return c }())
				require.NoError(t, err, "byte %d", i)
				require.False(t, gate.Has("export"), "byte %d of %d", i, len(good))
				require.NoError(t, gate.Close())
			}
		}
	})
}

func TestAnotherSecretOrOrganizationOpensNothing(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*polargate.Config){
		"another secret":       func(c *polargate.Config) { c.Secret = "another" },
		"another organization": func(c *polargate.Config) { c.OrganizationID = "34f57e13-8bcb-4481-85b2-a4b55c4ba0b9" },
		"another program":      func(c *polargate.Config) { c.App = "blotter" },
		"another machine":      func(c *polargate.Config) { c.Fingerprint = "another" },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := kit.NewWorld(t)
				require.NoError(t, w.Activated().Close())
				w.Polar.SetOffline(true)
				gate := w.Open(change)
				assert.False(t, gate.Has("export"))
				_, err := gate.Check(t.Context())
				require.Error(t, err)
				assert.False(t, gate.Has("export"))
			})
		})
	}
}

func TestAStoreThatFailsDoesNotStopTheProgram(t *testing.T) {
	t.Parallel()
	type method = func(context.Context, string) error
	for name, test := range map[string]struct{ load, save, lock method }{
		"loading fails":    {load: kit.Fails},
		"saving fails":     {save: kit.Fails},
		"locking fails":    {lock: kit.Fails},
		"everything fails": {kit.Fails, kit.Fails, kit.Fails},
		"loading hangs":    {load: kit.Waits},
		"saving hangs":     {save: kit.Waits},
		"locking hangs":    {lock: kit.Waits},
		"everything hangs": {kit.Waits, kit.Waits, kit.Waits},
	} {
		t.Run("when nothing is known, "+name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := kit.NewWorld(t)
				store := &kit.BrittleStore{}
				store.Set(test.load, test.save, test.lock)
				w.Config.Store = store
				ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
				defer cancel()
				began := time.Now()
				gate := w.Open()
				assert.LessOrEqual(t, time.Since(began), 10*time.Second, "Open does not hang")
				began = time.Now()
				_, err := gate.Check(ctx)
				require.Error(t, err)
				assert.LessOrEqual(t, time.Since(began), 5*time.Second, "Check takes no longer than CheckTimeout")
				assert.False(t, gate.Has("export"))
				assert.NotEmpty(t, gate.Status().Message)
				ctx, cancel = context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				_, err = gate.Activate(ctx, w.Key.Key)
				require.Error(t, err)
				synctest.Wait()
				assert.Zero(t, w.Seats(), "no seat is taken that could not be kept")
				store.Set(nil, nil, nil)
				_, err = gate.Activate(t.Context(), w.Key.Key)
				require.NoError(t, err)
				assert.Equal(t, 1, w.Seats())
			})
		})
		t.Run("when a license is held, "+name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := kit.NewWorld(t)
				store := &kit.BrittleStore{}
				w.Config.Store = store
				gate := w.Activated()
				store.Set(test.load, test.save, test.lock)
				time.Sleep(25 * time.Hour)
				ctx, cancel := context.WithTimeout(t.Context(), 10000*time.Hour)
				defer cancel()
				began := time.Now()
				status, err := gate.Check(ctx)
				require.NoError(t, err)
				assert.LessOrEqual(t, time.Since(began), 5*time.Second, "Check takes no longer than CheckTimeout")
				assert.True(t, status.OK())
				assert.True(t, gate.Has("export"))
				time.Sleep(20 * kit.Day)
				_, err = gate.Refresh(ctx)
				require.NoError(t, err, "Polar answered")
				assert.True(t, gate.Has("export"))
				w.Polar.Revoke(w.Key.ID)
				_, err = gate.Refresh(ctx)
				require.ErrorIs(t, err, polargate.ErrInactive)
				assert.False(t, gate.Has("export"))
				_, err = gate.Check(ctx)
				require.ErrorIs(t, err, polargate.ErrInactive)
				w.Polar.SetOffline(true)
				_, err = gate.Check(ctx)
				require.ErrorIs(t, err, polargate.ErrInactive, "what the disk still says does not bring it back")
				assert.False(t, gate.Has("export"))
			})
		})
	}
}

func TestAStateThatCannotBeReadForTheMomentIsNotOverwritten(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := kit.NewWorld(t)
		store := &kit.BrittleStore{}
		w.Config.Store = store
		require.NoError(t, w.Activated().Close())
		store.Set(kit.Fails, nil, nil)
		gate := w.Open()
		_, err := gate.Activate(t.Context(), w.Key.Key)
		var stored *polargate.StoreError
		require.ErrorAs(t, err, &stored, "a seat may be in the state that cannot be read")
		assert.Equal(t, "load", stored.Op)
		assert.Equal(t, 1, w.Seats())
		store.Set(nil, nil, nil)
		_, err = gate.Check(t.Context())
		require.NoError(t, err)
		assert.True(t, gate.Has("export"))
		_, err = gate.Activate(t.Context(), w.Key.Key)
		require.NoError(t, err)
		assert.Equal(t, 1, w.Seats())
	})
}

func TestAnAnswerIsNotStoredOverAStateThatCannotBeRead(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := kit.NewWorld(t)
		store := &kit.BrittleStore{}
		w.Config.Store = store
		gate := w.Activated()
		other := w.Polar.AddKey(polartest.LicenseKey{LimitActivations: polartest.Limit(1), BenefitID: w.Key.BenefitID})
		_, err := w.Open().Activate(t.Context(), other.Key)
		require.NoError(t, err, "another process has replaced the key")
		before := store.Contents()
		store.Set(kit.Fails, nil, nil)
		_, _ = gate.Refresh(t.Context())
		var stored *polargate.StoreError
		require.ErrorAs(t, gate.Deactivate(t.Context()), &stored)
		assert.Equal(t, before, store.Contents())
		store.Set(nil, nil, nil)
		time.Sleep(time.Minute)
		_, err = gate.Check(t.Context())
		require.NoError(t, err)
		assert.Equal(t, other.Key, gate.Status().Key.Reveal())
	})
}

func TestAFolderThatCannotBeWritten(t *testing.T) {
	t.Parallel()
	inTheWay := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(inTheWay, []byte("x"), 0o600))
	folders := map[string]string{"where a file is in the way": filepath.Join(inTheWay, "folder"), "that is itself a file": inTheWay, "whose name has a NUL": "a\x00b"}
	if os.Getuid() > 0 {
		locked := filepath.Join(t.TempDir(), "locked")
		require.NoError(t, os.Mkdir(locked, 0o500))
		folders["that is read-only"] = locked
	}
	for name, folder := range folders {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := kit.NewWorld(t)
				w.Config.Store = polargate.FileStore(folder)
				gate := w.Open()
				_, err := gate.Check(t.Context())
				require.Error(t, err)
				_, err = gate.Activate(t.Context(), w.Key.Key)
				var stored *polargate.StoreError
				require.ErrorAs(t, err, &stored)
				assert.Zero(t, w.Polar.Count(""))
			})
		})
	}
}

func TestOnChangeTellsEachChangeOnceAndInOrder(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := kit.NewWorld(t)
		var mu sync.Mutex
		var told []string
		var inside, most int
		var gate *polargate.Gate
		w.Config.OnChange = func(_, s polargate.Status) {
			mu.Lock()
			inside++
			most = max(most, inside)
			told = append(told, strings.TrimSpace(string(s.State)+" "+string(s.Reason)))
			mu.Unlock()
			if g := gate; g != nil {
				g.Has("export")
				_ = g.Status()
			}
			time.Sleep(time.Second)
			mu.Lock()
			inside--
			mu.Unlock()
		}
		gate = w.Open()
		settle := func() { time.Sleep(time.Minute); synctest.Wait() }
		_, err := gate.Activate(t.Context(), w.Key.Key)
		require.NoError(t, err)
		settle()
		for range 5 {
			_, err = gate.Refresh(t.Context())
			require.NoError(t, err)
		}
		w.Polar.Revoke(w.Key.ID)
		_, _ = gate.Refresh(t.Context())
		_, _ = gate.Refresh(t.Context())
		settle()
		w.Polar.Grant(w.Key.ID)
		_, _ = gate.Refresh(t.Context())
		settle()
		w.Polar.SetOffline(true)
		time.Sleep(15 * kit.Day)
		settle()
		w.Polar.SetOffline(false)
		_, err = gate.Check(t.Context())
		require.NoError(t, err)
		settle()
		require.NoError(t, gate.Deactivate(t.Context()))
		settle()
		mu.Lock()
		defer mu.Unlock()
		assert.Equal(t, []string{"active", "locked inactive", "active", "grace unreachable", "locked grace_ended", "active", "unlicensed no_license"}, told)
		assert.Equal(t, 1, most, "one call at a time")
	})
}

func TestOnChangeMayCallTheGate(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := kit.NewWorld(t)
		var gate *polargate.Gate
		called := make(chan error, 20)
		w.Config.OnChange = func(_, s polargate.Status) {
			_, _ = gate.Check(t.Context())
			if s.OK() {
				_, err := gate.Refresh(t.Context())
				called <- err
			}
		}
		gate = w.Open()
		_, err := gate.Activate(t.Context(), w.Key.Key)
		require.NoError(t, err)
		require.NoError(t, <-called)
		w.Polar.Revoke(w.Key.ID)
		_, err = gate.Refresh(t.Context())
		require.ErrorIs(t, err, polargate.ErrInactive)
		require.NoError(t, gate.Close())
	})
}

func TestASnapshotDoesNotChangeAfterwards(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := kit.NewWorld(t)
		gate := w.Activated()
		status := gate.Status()
		status.Features[0] = "everything"
		assert.False(t, gate.Has("everything"))
		assert.True(t, gate.Has("export"))
		assert.Equal(t, []string{"export", "sync"}, gate.Status().Features)
		before := gate.Status()
		w.Config.Features[w.Key.BenefitID][0] = "stolen"
		w.Config.Features[w.Key.BenefitID] = []string{"stolen"}
		_, err := gate.Refresh(t.Context())
		require.NoError(t, err)
		assert.False(t, gate.Has("stolen"), "the Gate has its own copy of what it was told")
		require.NoError(t, gate.Deactivate(t.Context()))
		assert.True(t, before.Has("export"))
		assert.True(t, before.OK())
	})
}

func TestTheMessageAfterGraceNamesWhatPreventsACheck(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		effect polartest.Effect
		advice polargate.Phrase // for a person
		fact   string           // for a developer
	}{
		"a login page":              {polartest.LoginPage(302), "grace_ended.do", "302 Found: a web page came instead"},
		"no Polar":                  {polartest.ServerError(503), "grace_ended.do", "503 Service Unavailable"},
		"a rate limit":              {polartest.RateLimited("30"), "rate_limited.do", "429 Too Many Requests"},
		"a request that is no good": {polartest.Body(422, applicationJSON, `{"error":"RequestValidationError","detail":[{"loc":["body","key"],"msg":"too short"}]}`), "misconfigured.do", "body.key: too short"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := kit.NewWorld(t)
				require.NoError(t, w.Activated().Close())
				time.Sleep(15 * kit.Day)
				w.Inject("", 0, test.effect)
				gate := w.Open()
				status, err := gate.Check(t.Context())
				require.ErrorIs(t, err, polargate.ErrGraceEnded)
				assert.Contains(t, status.Message, polargate.Phrases()["grace_ended"][1:])
				assert.True(t, strings.HasSuffix(status.Message, polargate.Phrases()[test.advice]), status.Message)
				assert.Equal(t, status.Message, polargate.Message(err))
				assert.ErrorContains(t, err, test.fact)
				assert.Equal(t, status.Message, w.Open().Status().Message, "and so in the next run")
			})
		})
	}
}
