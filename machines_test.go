package polargate_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/polargate/polargate"
	"github.com/polargate/polargate/polartest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// changesOfSeats are the requests so far that took or released an activation.
func (w *world) changesOfSeats() int {
	return w.polar.Count(pathActivate) + w.polar.Count(pathDeactivate)
}

// unattended is all that a program does without anybody asking for it, for some days.
func unattended(t *testing.T, gates ...*polargate.Gate) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	for _, gate := range gates {
		go func() { _ = gate.Run(ctx) }()
	}
	for range 3 {
		for _, gate := range gates {
			_, _ = gate.Check(t.Context())
			time.Sleep(5 * time.Second)
			_, _ = gate.Refresh(t.Context())
			time.Sleep(5 * time.Second)
		}
		time.Sleep(13 * time.Hour)
	}
}

// An image with an activated program in it was copied three times. Each copy took an
// activation at its first check, and the fourth and the original were locked.
func TestCopiesOfAGoldenImageTakeNoActivationUntilSomebodyAsks(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, limit(3))
		store := &brittleStore{}
		w.config.Store = store
		original := w.activated()
		gates := []*polargate.Gate{original}
		for n := range 4 {
			gates = append(gates, w.open(on(fmt.Sprint("copy ", n), copied(t, store))))
		}
		before := w.changesOfSeats()
		unattended(t, gates...)
		assert.Equal(t, before, w.changesOfSeats(), "nobody entered a key")
		assert.Equal(t, 1, w.seats())
		assert.True(t, original.Has("export"))
		for _, gate := range gates[1:] {
			status, err := gate.Check(t.Context())
			require.ErrorIs(t, err, polargate.ErrOtherMachine)
			assert.Equal(t, polargate.Locked, status.State)
			assert.Equal(t, polargate.ErrOtherMachine, status.Reason)
			assert.Equal(t, w.key.Key, status.Key.Reveal(), "so that it can be activated without being typed")
			assert.Contains(t, status.Message, "on another computer")
			assert.Contains(t, status.Message, "Move it")
			assert.Equal(t, status.Message, polargate.Message(err))
			assert.False(t, gate.Has("export"))
			_, err = gate.Consume(t.Context(), 1)
			require.ErrorIs(t, err, polargate.ErrOtherMachine)
		}
	})
}

// Production's database was restored on the staging machine at night, and its check
// took the activation away from production.
func TestADatabaseRestoredOnStagingLeavesProductionAlone(t *testing.T) {
	t.Parallel()
	for name, prepare := range map[string]func(*testing.T, *world, *polargate.Gate){
		"with its activation": func(*testing.T, *world, *polargate.Gate) {},
		"with a release that was pending when it was copied": func(t *testing.T, w *world, gate *polargate.Gate) {
			w.polar.SetOffline(true)
			require.Error(t, gate.Deactivate(t.Context()))
			w.polar.SetOffline(false)
		},
		"with an activation of another key in doubt": func(t *testing.T, w *world, gate *polargate.Gate) {
			other := w.polar.AddKey(polartest.LicenseKey{LimitActivations: polartest.Limit(1), BenefitID: w.key.BenefitID})
			w.inject(pathActivate, 1, polartest.AnswerLost())
			_, err := gate.Activate(t.Context(), other.Key)
			require.ErrorIs(t, err, polargate.ErrActivationInDoubt)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, limit(2))
				database := &brittleStore{}
				w.config.Store = database
				production := w.activated(on("production", database))
				prepare(t, w, production)
				staging := w.open(on("staging", copied(t, database)))
				if production.Status().State == polargate.Unlicensed {
					_, err := production.Activate(t.Context(), w.key.Key) // takes up its activation again
					require.NoError(t, err)
				}
				before, seats := w.changesOfSeats(), w.seats()
				unattended(t, staging, production)
				assert.Equal(t, before, w.changesOfSeats())
				assert.Equal(t, seats, w.seats())
				assert.True(t, production.Has("export"))
				assert.False(t, staging.Has("export"))
				require.NoError(t, staging.Close())
				assert.Equal(t, seats, w.seats())
			})
		})
	}
}

// A desk and a laptop had one profile, and took the license from each other every
// minute.
func TestTwoComputersThatShareAProfileBothKeepTheirLicense(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, limit(2))
		store := &polargate.MemoryStore{}
		computer := func(name string) func(*polargate.Config) {
			return func(c *polargate.Config) { c.Fingerprint, c.Label, c.Store = name, name, store }
		}
		w.activated(computer("desk"))
		w.activated(computer("laptop"))
		require.Equal(t, 2, w.seats())
		before := w.changesOfSeats()
		for round := range 120 {
			for _, name := range []string{"desk", "laptop"} {
				gate := w.open(computer(name)) // as after a logon
				ask := gate.Check
				if round%3 == 0 {
					ask = gate.Refresh
				}
				status, err := ask(t.Context())
				require.NoError(t, err, "%s, round %d", name, round)
				require.True(t, status.Has("export"))
				require.NoError(t, gate.Close())
				time.Sleep(time.Minute)
			}
			time.Sleep(11 * time.Hour)
		}
		assert.Equal(t, before, w.changesOfSeats())
		assert.Equal(t, 2, w.seats())
		desk := w.open(computer("desk"))
		require.NoError(t, desk.Deactivate(t.Context()))
		assert.Equal(t, polargate.ErrNoLicense, desk.Status().Reason, "what was removed here is not offered again")
		_, err := w.open(computer("laptop")).Refresh(t.Context())
		require.NoError(t, err, "and the other one keeps its own")
	})
}

func TestAnotherKeyOnACopyDoesNotReleaseTheActivationOfTheOriginal(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, limit(1))
		store := &brittleStore{}
		w.config.Store = store
		original := w.activated()
		other := w.polar.AddKey(polartest.LicenseKey{LimitActivations: polartest.Limit(1), BenefitID: w.key.BenefitID})
		copied := w.open(on("a copy", copied(t, store)))
		_, err := copied.Activate(t.Context(), other.Key)
		require.NoError(t, err)
		time.Sleep(5 * time.Second)
		_, err = original.Refresh(t.Context())
		require.NoError(t, err)
		assert.Equal(t, 1, w.seats())
		assert.Equal(t, 1, w.polar.Seats(other.ID))
	})
}

func TestAComputerOfAnotherNameThatEntersTheKeyTakesAnActivationOfItsOwn(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		label string
		seats int
		first error // what the first computer finds then
	}{
		"the same name: it was set up anew":   {"studio", 1, polargate.ErrSeatReleased},
		"another name: it is another machine": {"laptop", 2, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, limit(3))
				store := &brittleStore{}
				w.config.Store = store
				w.config.Label = "studio"
				first := w.activated()
				second := w.open(on("another id", copied(t, store)), func(c *polargate.Config) { c.Label = test.label })
				_, err := second.Activate(t.Context(), w.key.Key)
				require.NoError(t, err)
				assert.Equal(t, test.seats, w.seats())
				time.Sleep(5 * time.Second)
				_, err = first.Refresh(t.Context())
				require.ErrorIs(t, err, test.first)
				time.Sleep(time.Hour)
				_, err = second.Refresh(t.Context())
				require.NoError(t, err)
			})
		})
	}
}

// A cleaner of temporary files took the state away while the program ran, and at the
// next start there was no license.
func TestAStateThatACleanerDeletedUnderARunningProgramIsWrittenAgain(t *testing.T) {
	t.Parallel()
	for name, notice := range map[string]func(*testing.T, *world, *polargate.Gate){
		"by a Check that is answered from memory": func(t *testing.T, _ *world, gate *polargate.Gate) {
			_, err := gate.Check(t.Context())
			require.NoError(t, err)
		},
		"by a renewal behind a Check": func(t *testing.T, _ *world, gate *polargate.Gate) {
			time.Sleep(13 * time.Hour)
			_, err := gate.Check(t.Context())
			require.NoError(t, err)
			synctest.Wait()
		},
		"by the check of the day": func(t *testing.T, _ *world, gate *polargate.Gate) {
			time.Sleep(25 * time.Hour)
			_, err := gate.Check(t.Context())
			require.NoError(t, err)
		},
		"by a Refresh": func(t *testing.T, _ *world, gate *polargate.Gate) {
			_, err := gate.Refresh(t.Context())
			require.NoError(t, err)
		},
		"by a Refresh without a network": func(t *testing.T, w *world, gate *polargate.Gate) {
			w.polar.SetOffline(true)
			_, err := gate.Refresh(t.Context())
			require.ErrorIs(t, err, polargate.ErrUnreachable)
			w.polar.SetOffline(false)
			time.Sleep(time.Minute)
		},
		"by Run, within a minute": func(t *testing.T, _ *world, gate *polargate.Gate) {
			go func() { _ = gate.Run(t.Context()) }()
			time.Sleep(61 * time.Second)
		},
		"by a use that is counted": func(t *testing.T, _ *world, gate *polargate.Gate) {
			_, err := gate.Consume(t.Context(), 1)
			require.NoError(t, err)
		},
		"when the key is entered once more": func(t *testing.T, w *world, gate *polargate.Gate) {
			_, err := gate.Activate(t.Context(), w.key.Key)
			require.NoError(t, err)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				folder := filepath.Join(t.TempDir(), "license")
				w.config.Store = polargate.FileStore(folder)
				gate := w.activated()
				_, err := gate.Check(t.Context())
				require.NoError(t, err)
				time.Sleep(time.Minute)
				require.NoError(t, os.RemoveAll(folder))
				notice(t, w, gate)
				assert.True(t, gate.Has("export"))
				assert.False(t, gate.Status().Unsaved)
				require.NoError(t, gate.Close())
				w.polar.SetOffline(true)
				assert.True(t, w.open().Has("export"), "the next start has it")
				assert.Equal(t, 1, w.seats())
				assert.Equal(t, 1, w.polar.Count(pathActivate))
			})
		})
	}
}

func TestWhatIsWrittenAgainIsWhatWasKnownLastAndNotOnlyAGoodLicense(t *testing.T) {
	t.Parallel()
	deleted := func(t *testing.T, w *world, prepare func(*polargate.Gate)) (*polargate.Gate, string) {
		folder := filepath.Join(t.TempDir(), "license")
		w.config.Store = polargate.FileStore(folder)
		gate := w.activated()
		prepare(gate)
		time.Sleep(time.Minute)
		require.NoError(t, os.RemoveAll(folder))
		return gate, folder
	}
	t.Run("a refusal", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			gate, _ := deleted(t, w, func(g *polargate.Gate) {
				w.polar.Revoke(w.key.ID)
				_, err := g.Refresh(t.Context())
				require.ErrorIs(t, err, polargate.ErrInactive)
			})
			w.polar.SetOffline(true)
			_, err := gate.Check(t.Context())
			require.ErrorIs(t, err, polargate.ErrInactive)
			assert.Equal(t, polargate.ErrInactive, w.open().Status().Reason)
		})
	})
	t.Run("a release that waits", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			gate, _ := deleted(t, w, func(g *polargate.Gate) {
				w.polar.SetOffline(true)
				require.Error(t, g.Deactivate(t.Context()))
			})
			_, err := gate.Refresh(t.Context())
			require.Error(t, err)
			require.NoError(t, gate.Close())
			w.polar.SetOffline(false)
			time.Sleep(time.Hour)
			_, err = w.open().Check(t.Context())
			require.ErrorIs(t, err, polargate.ErrNoLicense)
			assert.Zero(t, w.seats())
		})
	})
	t.Run("a license beside which another process has begun anew", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, limit(1))
			gate, _ := deleted(t, w, func(*polargate.Gate) {})
			_, err := w.open().Activate(t.Context(), w.key.Key)
			require.ErrorIs(t, err, polargate.ErrActivationLimit, "by the activation that was lost with the state")
			time.Sleep(time.Minute)
			_, err = gate.Check(t.Context())
			require.NoError(t, err)
			assert.True(t, gate.Has("export"))
			assert.True(t, w.open().Has("export"))
			assert.Equal(t, 1, w.seats())
		})
	})
	t.Run("but not a license that another process removed on purpose", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			w.config.Store = polargate.FileStore(t.TempDir())
			running := w.activated()
			_, err := running.Check(t.Context())
			require.NoError(t, err)
			require.NoError(t, w.open().Deactivate(t.Context()))
			time.Sleep(time.Minute)
			_, err = running.Check(t.Context())
			require.ErrorIs(t, err, polargate.ErrNoLicense)
			assert.False(t, running.Has("export"))
			assert.False(t, w.open().Has("export"))
		})
	})
	t.Run("and where it cannot be written, it is said and tried again", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			store := &vanishing{}
			w.config.Store = store
			gate := w.activated()
			time.Sleep(time.Minute)
			store.MemoryStore = &brittleStore{}
			store.MemoryStore.set(nil, fails, nil)
			_, err := gate.Refresh(t.Context())
			require.NoError(t, err)
			assert.True(t, gate.Has("export"))
			assert.True(t, gate.Status().Unsaved)
			store.MemoryStore.set(nil, nil, nil)
			time.Sleep(time.Minute)
			_, err = gate.Refresh(t.Context())
			require.NoError(t, err)
			assert.False(t, gate.Status().Unsaved)
			assert.True(t, w.open().Has("export"))
		})
	})
}

// vanishing is a store that can be emptied.
type vanishing struct{ MemoryStore *brittleStore }

func (s *vanishing) now() *brittleStore {
	if s.MemoryStore == nil {
		s.MemoryStore = &brittleStore{}
	}
	return s.MemoryStore
}

func (s *vanishing) Load(ctx context.Context, name string) ([]byte, error) {
	return s.now().Load(ctx, name)
}

func (s *vanishing) Save(ctx context.Context, name string, data []byte) error {
	return s.now().Save(ctx, name, data)
}

func (s *vanishing) Lock(ctx context.Context, name string) (func(), error) {
	return s.now().Lock(ctx, name)
}

func TestEachComputerHasAFileOfItsOwnInASharedFolder(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		folder := t.TempDir()
		w.config.Store = polargate.FileStore(folder)
		var seen []string
		for _, name := range []string{"desk", "laptop"} {
			w.activated(func(c *polargate.Config) { c.Fingerprint, c.Label = name, name })
			files, err := filepath.Glob(filepath.Join(folder, "license-*.sealed"))
			require.NoError(t, err)
			require.Len(t, files, len(seen)+1)
			for _, f := range files {
				assert.Regexp(t, `^license-[0-9a-f]{12}-[0-9a-f]{12}\.sealed$`, filepath.Base(f))
				assert.False(t, strings.Contains(f, name), "the name gives no fingerprint away")
			}
			seen = files
		}
	})
}
