package gate

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/polargate/polargate"
	"github.com/polargate/polargate/polartest"
	"github.com/polargate/polargate/tests/internal/kit"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestIfUnwritableIsAnOrdinaryGateWhereItCanWrite(t *testing.T) {
	t.Parallel()
	for name, store := range map[string]func(*testing.T) polargate.Store{
		"in memory": func(*testing.T) polargate.Store { return &polargate.MemoryStore{} },
		"on disk":   func(t *testing.T) polargate.Store { return polargate.FileStore(filepath.Join(t.TempDir(), "new")) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := kit.NewWorld(t)
				w.Config.Store = store(t)
				log := &kit.Lines{}
				w.Config.Logger = log.Logger()
				gate := w.Activated(ephemeral(polargate.IfUnwritable))
				assert.False(t, gate.Status().Unsaved)
				require.NoError(t, gate.Close())
				assert.Equal(t, 1, w.Seats(), "kept")
				assert.Zero(t, w.Polar.Count(kit.PathDeactivate))
				next := w.Open(ephemeral(polargate.IfUnwritable))
				assert.True(t, next.Has("export"))
				_, err := next.Activate(t.Context(), w.Key.Key)
				require.NoError(t, err)
				assert.Equal(t, 1, w.Polar.Count(kit.PathActivate))
				require.NoError(t, next.Deactivate(t.Context()))
				assert.Zero(t, w.Seats())
				assert.Empty(t, log.String())
			})
		})
	}
}

// unwritable are Stores in which nothing can be kept, and of which it is known
// that nothing is in them.
func unwritable() map[string]func(*testing.T) polargate.Store {
	broken := func(save, lock func(context.Context, string) error) func(*testing.T) polargate.Store {
		return func(*testing.T) polargate.Store {
			s := &kit.BrittleStore{}
			s.Set(nil, save, lock)
			return s
		}
	}
	return map[string]func(*testing.T) polargate.Store{
		"a folder below a file": func(t *testing.T) polargate.Store {
			file := filepath.Join(t.TempDir(), "file")
			require.NoError(t, os.WriteFile(file, []byte("x"), 0o600))
			return polargate.FileStore(filepath.Join(file, "license"))
		},
		"a Store that fails to save":          broken(kit.Fails, nil),
		"a Store that fails to lock":          broken(nil, kit.Fails),
		"a Store that fails to save and lock": broken(kit.Fails, kit.Fails),
	}
}

func TestALicenseThatCannotBeKeptLastsUntilClose(t *testing.T) {
	t.Parallel()
	for name, store := range unwritable() {
		t.Run("in "+name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := kit.NewWorld(t, kit.Limit(1))
				w.Config.Store, w.Config.FreshFor = store(t), time.Hour
				log := &kit.Lines{}
				w.Config.Logger = log.Logger()
				for range 3 {
					gate := w.Open(ephemeral(polargate.IfUnwritable))
					status, err := gate.Activate(t.Context(), w.Key.Key)
					require.NoError(t, err)
					assert.Equal(t, polargate.Active, status.State)
					assert.True(t, gate.Has("export"))
					assert.True(t, status.Unsaved)
					assert.Contains(t, status.Message, polargate.Phrases()["note_unstored"])
					assert.Contains(t, log.String(), "level=WARN")
					assert.NotContains(t, log.String(), w.Key.Key)
					data, err := status.MarshalJSON()
					require.NoError(t, err)
					assert.Contains(t, string(data), `"unsaved":true`)

					// All else works, from memory.
					status, err = gate.Activate(t.Context(), w.Key.Key)
					require.NoError(t, err)
					assert.True(t, status.Unsaved)
					time.Sleep(2 * time.Hour)
					status, err = gate.Check(t.Context())
					require.NoError(t, err)
					assert.Equal(t, polargate.Active, status.State)
					assert.True(t, status.Unsaved)
					_, err = gate.Consume(t.Context(), 1)
					require.NoError(t, err)
					assert.Equal(t, 1, w.Seats())
					require.NoError(t, gate.Close())
					assert.Zero(t, w.Seats())
				}
				assert.Equal(t, 3, w.Polar.Count(kit.PathActivate))
				assert.LessOrEqual(t, strings.Count(log.String(), "\n"), 3*8)
			})
		})
		t.Run("and can be given back before, in "+name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := kit.NewWorld(t)
				w.Config.Store = store(t)
				gate := w.Activated(ephemeral(polargate.IfUnwritable))
				require.NoError(t, gate.Deactivate(t.Context()))
				assert.Zero(t, w.Seats())
				assert.False(t, gate.Has("export"))
				require.NoError(t, gate.Close())
				assert.Equal(t, 1, w.Polar.Count(kit.PathDeactivate))
			})
		})
		t.Run("but without being asked for it is not taken, in "+name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := kit.NewWorld(t)
				w.Config.Store = store(t)
				gate := w.Open()
				status, err := gate.Activate(t.Context(), w.Key.Key)
				var bad *polargate.StoreError
				require.ErrorAs(t, err, &bad)
				assert.Equal(t, polargate.Unlicensed, status.State)
				assert.Zero(t, w.Polar.Count(""), "before anything is asked")
				assert.NotEmpty(t, polargate.Message(err))
				assert.NotContains(t, polargate.Message(err), "Config")
			})
		})
	}
}

// Not parallel: it takes the folder for settings away.
func TestWithoutASettingsFolderNothingIsActivatedByDefault(t *testing.T) {
	for _, variable := range []string{"HOME", "XDG_CONFIG_HOME", "AppData", "LocalAppData", "home"} {
		t.Setenv(variable, "")
	}
	if _, err := os.UserConfigDir(); err == nil {
		t.Skip("this system knows one all the same")
	}
	synctest.Test(t, func(t *testing.T) {
		w := kit.NewWorld(t)
		w.Config.Store = nil
		gate := w.Open()
		_, err := gate.Activate(t.Context(), w.Key.Key)
		var bad *polargate.StoreError
		require.ErrorAs(t, err, &bad)
		assert.Zero(t, w.Polar.Count(""))
		d := gate.Diagnose(t.Context())
		assert.Equal(t, "nowhere", d.Store)
		assert.NotEmpty(t, d.StoreProblem)

		gate = w.Activated(ephemeral(polargate.IfUnwritable))
		assert.True(t, gate.Status().Unsaved)
		run(t, gate)
		time.Sleep(20 * time.Hour)
		assert.True(t, gate.Has("export"))
		require.NoError(t, gate.Close())
		assert.Zero(t, w.Seats())
	})
}

func TestTheStoreThatFillsUpBetweenTwoWritesIsUnwritableToo(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := kit.NewWorld(t)
		store := &kit.BrittleStore{}
		var mu sync.Mutex
		saves := 0
		store.Set(nil, func(context.Context, string) error {
			mu.Lock()
			defer mu.Unlock()
			if saves++; saves > 1 {
				return kit.ErrDisk
			}
			return nil
		}, nil)
		w.Config.Store = store
		gate := w.Open(ephemeral(polargate.IfUnwritable))
		status, err := gate.Activate(t.Context(), w.Key.Key)
		require.NoError(t, err)
		assert.True(t, status.OK())
		assert.True(t, status.Unsaved)
		assert.Equal(t, 1, w.Seats())
		require.NoError(t, gate.Close())
		assert.Zero(t, w.Seats())
	})
}

func TestSeveralAttemptsAtOnceWhereNothingCanBeWritten(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		// load is how long the Store takes to be read, and each time longer.
		load   time.Duration
		stored bool
	}{
		"and nothing is stored":                               {0, false},
		"and nothing is stored, which takes a moment to find": {10 * time.Millisecond, false},
		"and nothing is stored, which takes long to find":     {30 * time.Second, false},
		"beside a stored license":                             {10 * time.Millisecond, true},
		"beside a stored license that takes longer each time": {30 * time.Second, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := kit.NewWorld(t)
				store := &kit.BrittleStore{}
				w.Config.Store = store
				if test.stored {
					require.NoError(t, w.Activated().Close())
				}
				gate := w.Open(ephemeral(polargate.IfUnwritable))
				var loads atomic.Int64
				store.Set(
					func(context.Context, string) error { time.Sleep(time.Duration(loads.Add(1)) * test.load); return nil },
					kit.Fails,
					func(context.Context, string) error { time.Sleep(time.Second); return kit.ErrDisk },
				)
				var keys []polartest.LicenseKey
				for range 4 {
					keys = append(keys, w.Polar.AddKey(polartest.LicenseKey{LimitActivations: polartest.Limit(1), BenefitID: w.Key.BenefitID}))
				}
				var all sync.WaitGroup
				for _, key := range keys {
					all.Go(func() {
						_, err := gate.Activate(t.Context(), key.Key)
						assert.NoError(t, err)
					})
				}
				all.Wait()
				assert.True(t, gate.Has("export"))
				assert.True(t, gate.Status().Unsaved)
				time.Sleep(time.Minute)
				require.NoError(t, gate.Close())
				for _, key := range keys {
					assert.Zero(t, w.Polar.Seats(key.ID))
				}
			})
		})
	}
}

func TestALicenseIsStoredAfterAllWhenThatBecomesPossible(t *testing.T) {
	t.Parallel()
	for name, when := range map[string]func(*testing.T, *polargate.Gate){
		"by Refresh": func(t *testing.T, g *polargate.Gate) { _, err := g.Refresh(t.Context()); require.NoError(t, err) },
		"by Run":     func(t *testing.T, g *polargate.Gate) { run(t, g); time.Sleep(2 * time.Minute) },
		"by Close":   func(t *testing.T, g *polargate.Gate) { require.NoError(t, g.Close()) },
		"by a renewal": func(t *testing.T, g *polargate.Gate) {
			time.Sleep(25 * time.Hour)
			_, err := g.Check(t.Context())
			require.NoError(t, err)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := kit.NewWorld(t)
				store := &kit.BrittleStore{}
				store.Set(nil, kit.Fails, kit.Fails)
				w.Config.Store = store
				gate := w.Activated(ephemeral(polargate.IfUnwritable))
				require.True(t, gate.Status().Unsaved)
				store.Set(nil, nil, nil)
				when(t, gate)
				assert.False(t, gate.Status().Unsaved)
				assert.NotContains(t, gate.Status().Message, "could not be saved")
				require.NoError(t, gate.Close())
				assert.Equal(t, 1, w.Seats(), "kept")
				next := w.Open(ephemeral(polargate.IfUnwritable))
				assert.True(t, next.Has("export"))
				_, err := next.Refresh(t.Context())
				require.NoError(t, err)
				assert.Equal(t, 1, w.Polar.Count(kit.PathActivate))
			})
		})
	}
}

func TestAStoreThatCannotBeReadDoesNotCountAsEmpty(t *testing.T) {
	t.Parallel()
	for name, load := range map[string]func(context.Context, string) error{"fails": kit.Fails, "hangs": kit.Waits} {
		for kind, rest := range map[string]func(context.Context, string) error{"and cannot be written": kit.Fails, "but could be written": nil} {
			t.Run("one that "+name+" "+kind, func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					w := kit.NewWorld(t)
					store := &kit.BrittleStore{}
					w.Config.Store = store
					// A license is in it, of which nothing can be known now.
					require.NoError(t, w.Activated().Close())
					store.Set(load, rest, rest)
					gate := w.Open(ephemeral(polargate.IfUnwritable))
					ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
					defer cancel()
					_, err := gate.Activate(ctx, w.Key.Key)
					require.Error(t, err)
					require.NoError(t, gate.Close())
					assert.Equal(t, 1, w.Polar.Count(kit.PathActivate))
					assert.Equal(t, 1, w.Seats(), "the stored one")
					store.Set(nil, nil, nil)
					next := w.Open()
					assert.True(t, next.Has("export"))
				})
			})
		}
	}
}

func TestALicenseThatAnotherProcessStoredIsNotOverwritten(t *testing.T) {
	t.Parallel()
	for name, when := range map[string]func(*testing.T, *polargate.Gate){
		"by Refresh": func(t *testing.T, g *polargate.Gate) { _, err := g.Refresh(t.Context()); require.NoError(t, err) },
		"by Run":     func(t *testing.T, g *polargate.Gate) { run(t, g); time.Sleep(2 * time.Minute) },
		"by Close":   func(*testing.T, *polargate.Gate) {},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := kit.NewWorld(t)
				second := w.Polar.AddKey(polartest.LicenseKey{LimitActivations: polartest.Limit(1), BenefitID: w.Key.BenefitID})
				store := &kit.BrittleStore{}
				store.Set(nil, kit.Fails, kit.Fails)
				w.Config.Store = store
				gate := w.Activated(ephemeral(polargate.IfUnwritable))
				store.Set(nil, nil, nil)
				other := w.Open()
				_, err := other.Activate(t.Context(), second.Key)
				require.NoError(t, err)
				when(t, gate)
				require.NoError(t, gate.Close())
				assert.Zero(t, w.Seats(), "the one in memory is given back")
				assert.Equal(t, 1, w.Polar.Seats(second.ID), "and the stored one is not")
				_, err = other.Refresh(t.Context())
				require.NoError(t, err)
				next := w.Open()
				assert.Equal(t, second.Key, next.Status().Key.Reveal())
				assert.True(t, next.Has("export"))
			})
		})
	}
}

// The stored license is as good as before: it is not given back by somebody who
// could not write.
func TestAStoredLicenseKeepsItsActivationWhenTheStoreTurnsReadOnly(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := kit.NewWorld(t, kit.Limit(1))
		store := &kit.BrittleStore{}
		w.Config.Store = store
		require.NoError(t, w.Activated().Close())
		store.Set(nil, kit.Fails, kit.Fails)
		gate := w.Open(ephemeral(polargate.IfUnwritable))
		_, err := gate.Activate(t.Context(), w.Key.Key)
		require.NoError(t, err)
		assert.Equal(t, 1, w.Polar.Count(kit.PathActivate), "it goes on with the stored seat")
		require.NoError(t, gate.Close())
		assert.Equal(t, 1, w.Seats())
		next := w.Open()
		_, err = next.Refresh(t.Context())
		require.NoError(t, err)
	})
}

func TestALicenseWhoseRenewalsCannotBeSavedStaysUsable(t *testing.T) {
	t.Parallel()
	for name, break_ := range map[string]func(*kit.BrittleStore){
		"a disk that is full":      func(s *kit.BrittleStore) { s.Set(nil, kit.Fails, nil) },
		"a lock that fails":        func(s *kit.BrittleStore) { s.Set(nil, nil, kit.Fails) },
		"a disk that is read-only": func(s *kit.BrittleStore) { s.Set(nil, kit.Fails, kit.Fails) },
		"a disk that is gone":      func(s *kit.BrittleStore) { s.Set(kit.Fails, kit.Fails, kit.Fails) },
		"a disk that hangs":        func(s *kit.BrittleStore) { s.Set(nil, kit.Waits, nil) },
	} {
		for _, kind := range []polargate.Ephemeral{"", polargate.IfUnwritable} {
			for by, again := range map[string]func(*testing.T, *polargate.Gate){
				"Refresh": func(t *testing.T, g *polargate.Gate) { _, err := g.Refresh(t.Context()); require.NoError(t, err) },
				"Run":     func(t *testing.T, g *polargate.Gate) { run(t, g); time.Sleep(2 * time.Minute) },
			} {
				t.Run(strings.TrimSpace(name+" "+string(kind))+", and is saved by "+by, func(t *testing.T) {
					t.Parallel()
					synctest.Test(t, func(t *testing.T) {
						w := kit.NewWorld(t)
						store := &kit.BrittleStore{}
						w.Config.Store, w.Config.FreshFor = store, time.Hour
						gate := w.Activated(ephemeral(kind))
						assert.False(t, gate.Status().Unsaved)
						break_(store)
						for range 3 {
							time.Sleep(2 * time.Hour)
							status, err := gate.Check(t.Context())
							require.NoError(t, err)
							assert.Equal(t, polargate.Active, status.State)
						}
						status := gate.Status()
						assert.True(t, status.Unsaved)
						assert.Contains(t, status.Message, polargate.Phrases()["note_unsaved"])
						store.Set(nil, nil, nil)
						again(t, gate)
						status = gate.Status()
						assert.False(t, status.Unsaved)
						assert.NotContains(t, status.Message, "could not be saved")
						w.Polar.SetOffline(true)
						next := w.Open()
						assert.Equal(t, status.CheckedAt, next.Status().CheckedAt, "it is in the Store")
						require.NoError(t, gate.Close())
						w.Polar.SetOffline(false)
						assert.Equal(t, 1, w.Seats(), "and the seat is kept")
					})
				})
			}
		}
	}
}

func TestOnChangeTellsThatALicenseIsNotSaved(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := kit.NewWorld(t)
		store := &kit.BrittleStore{}
		w.Config.Store = store
		var mu sync.Mutex
		var told []bool
		w.Config.OnChange = func(before, after polargate.Status) {
			mu.Lock()
			defer mu.Unlock()
			if before.Unsaved != after.Unsaved {
				told = append(told, after.Unsaved)
			}
		}
		gate := w.Activated()
		store.Set(nil, kit.Fails, nil)
		_, err := gate.Refresh(t.Context())
		require.NoError(t, err)
		synctest.Wait()
		store.Set(nil, nil, nil)
		_, err = gate.Refresh(t.Context())
		require.NoError(t, err)
		synctest.Wait()
		mu.Lock()
		defer mu.Unlock()
		assert.Equal(t, []bool{true, false}, told)
	})
}

// errors.Is on what the Store said must lead to its own cause.
func TestTheCauseOfAnUnwritableStoreIsInTheError(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := kit.NewWorld(t)
		store := &kit.BrittleStore{}
		store.Set(nil, kit.Fails, nil)
		w.Config.Store = store
		_, err := w.Open().Activate(t.Context(), w.Key.Key)
		assert.ErrorIs(t, err, kit.ErrDisk)
	})
}
