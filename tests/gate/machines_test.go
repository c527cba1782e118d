package gate

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
	"github.com/polargate/polargate/tests/internal/kit"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// changesOfSeats are the requests so far that took or released an activation.
func changesOfSeats(w *kit.World) int {
	return w.Polar.Count(kit.PathActivate) + w.Polar.Count(kit.PathDeactivate)
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
func TestCopiesOfADiskImageUseNoActivationUntilAUserAsks(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := kit.NewWorld(t, kit.Limit(3))
		store := &kit.BrittleStore{}
		w.Config.Store = store
		original := w.Activated()
		gates := []*polargate.Gate{original}
		for n := range 4 {
			gates = append(gates, w.Open(on(fmt.Sprint("copy ", n), copied(t, store))))
		}
		before := changesOfSeats(w)
		unattended(t, gates...)
		assert.Equal(t, before, changesOfSeats(w), "nobody entered a key")
		assert.Equal(t, 1, w.Seats())
		assert.True(t, original.Has("export"))
		for _, gate := range gates[1:] {
			status, err := gate.Check(t.Context())
			require.ErrorIs(t, err, polargate.ErrOtherMachine)
			assert.Equal(t, polargate.Locked, status.State)
			assert.Equal(t, polargate.ErrOtherMachine, status.Reason)
			assert.Equal(t, w.Key.Key, status.Key.Reveal(), "so that it can be activated without being typed")
			assert.Contains(t, status.Message, polargate.Phrases()["other_machine"][1:])
			assert.Contains(t, status.Message, polargate.Phrases()["other_machine.do"])
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
	for name, prepare := range map[string]func(*testing.T, *kit.World, *polargate.Gate){
		"with its activation": func(*testing.T, *kit.World, *polargate.Gate) {},
		"with a release that was pending when it was copied": func(t *testing.T, w *kit.World, gate *polargate.Gate) {
			w.Polar.SetOffline(true)
			require.Error(t, gate.Deactivate(t.Context()))
			w.Polar.SetOffline(false)
		},
		"with an activation of another key in doubt": func(t *testing.T, w *kit.World, gate *polargate.Gate) {
			other := w.Polar.AddKey(polartest.LicenseKey{LimitActivations: polartest.Limit(1), BenefitID: w.Key.BenefitID})
			w.Inject(kit.PathActivate, 1, polartest.AnswerLost())
			_, err := gate.Activate(t.Context(), other.Key)
			require.ErrorIs(t, err, polargate.ErrActivationInDoubt)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := kit.NewWorld(t, kit.Limit(2))
				database := &kit.BrittleStore{}
				w.Config.Store = database
				production := w.Activated(on("production", database))
				prepare(t, w, production)
				staging := w.Open(on("staging", copied(t, database)))
				if production.Status().State == polargate.Unlicensed {
					_, err := production.Activate(t.Context(), w.Key.Key) // takes up its activation again
					require.NoError(t, err)
				}
				before, seats := changesOfSeats(w), w.Seats()
				unattended(t, staging, production)
				assert.Equal(t, before, changesOfSeats(w))
				assert.Equal(t, seats, w.Seats())
				assert.True(t, production.Has("export"))
				assert.False(t, staging.Has("export"))
				require.NoError(t, staging.Close())
				assert.Equal(t, seats, w.Seats())
			})
		})
	}
}

// A desk and a laptop had one profile, and took the license from each other every
// minute.
func TestTwoComputersThatShareAProfileBothKeepTheirLicense(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := kit.NewWorld(t, kit.Limit(2))
		store := &polargate.MemoryStore{}
		computer := func(name string) func(*polargate.Config) {
			return func(c *polargate.Config) { c.Fingerprint, c.Label, c.Store = name, name, store }
		}
		w.Activated(computer("desk"))
		w.Activated(computer("laptop"))
		require.Equal(t, 2, w.Seats())
		before := changesOfSeats(w)
		for round := range 45 { // three weeks
			for _, name := range []string{"desk", "laptop"} {
				gate := w.Open(computer(name)) // as after a logon
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
		assert.Equal(t, before, changesOfSeats(w))
		assert.Equal(t, 2, w.Seats())
		desk := w.Open(computer("desk"))
		require.NoError(t, desk.Deactivate(t.Context()))
		assert.Equal(t, polargate.ErrNoLicense, desk.Status().Reason, "what was removed here is not offered again")
		_, err := w.Open(computer("laptop")).Refresh(t.Context())
		require.NoError(t, err, "and the other one keeps its own")
	})
}

func TestAnotherKeyOnACopyDoesNotReleaseTheActivationOfTheOriginal(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := kit.NewWorld(t, kit.Limit(1))
		store := &kit.BrittleStore{}
		w.Config.Store = store
		original := w.Activated()
		other := w.Polar.AddKey(polartest.LicenseKey{LimitActivations: polartest.Limit(1), BenefitID: w.Key.BenefitID})
		copied := w.Open(on("a copy", copied(t, store)))
		_, err := copied.Activate(t.Context(), other.Key)
		require.NoError(t, err)
		time.Sleep(5 * time.Second)
		_, err = original.Refresh(t.Context())
		require.NoError(t, err)
		assert.Equal(t, 1, w.Seats())
		assert.Equal(t, 1, w.Polar.Seats(other.ID))
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
				w := kit.NewWorld(t, kit.Limit(3))
				store := &kit.BrittleStore{}
				w.Config.Store = store
				w.Config.Label = "studio"
				first := w.Activated()
				second := w.Open(on("another id", copied(t, store)), func(c *polargate.Config) { c.Label = test.label })
				_, err := second.Activate(t.Context(), w.Key.Key)
				require.NoError(t, err)
				assert.Equal(t, test.seats, w.Seats())
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
	for name, notice := range map[string]func(*testing.T, *kit.World, *polargate.Gate){
		"by a Check that is answered from memory": func(t *testing.T, _ *kit.World, gate *polargate.Gate) {
			_, err := gate.Check(t.Context())
			require.NoError(t, err)
		},
		"by a renewal behind a Check": func(t *testing.T, _ *kit.World, gate *polargate.Gate) {
			time.Sleep(13 * time.Hour)
			_, err := gate.Check(t.Context())
			require.NoError(t, err)
			synctest.Wait()
		},
		"by the check of the day": func(t *testing.T, _ *kit.World, gate *polargate.Gate) {
			time.Sleep(25 * time.Hour)
			_, err := gate.Check(t.Context())
			require.NoError(t, err)
		},
		"by a Refresh": func(t *testing.T, _ *kit.World, gate *polargate.Gate) {
			_, err := gate.Refresh(t.Context())
			require.NoError(t, err)
		},
		"by a Refresh without a network": func(t *testing.T, w *kit.World, gate *polargate.Gate) {
			w.Polar.SetOffline(true)
			_, err := gate.Refresh(t.Context())
			require.ErrorIs(t, err, polargate.ErrUnreachable)
			w.Polar.SetOffline(false)
			time.Sleep(time.Minute)
		},
		"by Run, within a minute": func(t *testing.T, _ *kit.World, gate *polargate.Gate) {
			go func() { _ = gate.Run(t.Context()) }()
			time.Sleep(61 * time.Second)
		},
		"by a use that is counted": func(t *testing.T, _ *kit.World, gate *polargate.Gate) {
			_, err := gate.Consume(t.Context(), 1)
			require.NoError(t, err)
		},
		"when the key is entered once more": func(t *testing.T, w *kit.World, gate *polargate.Gate) {
			_, err := gate.Activate(t.Context(), w.Key.Key)
			require.NoError(t, err)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := kit.NewWorld(t)
				folder := filepath.Join(t.TempDir(), "license")
				w.Config.Store = polargate.FileStore(folder)
				gate := w.Activated()
				_, err := gate.Check(t.Context())
				require.NoError(t, err)
				time.Sleep(time.Minute)
				require.NoError(t, os.RemoveAll(folder))
				notice(t, w, gate)
				assert.True(t, gate.Has("export"))
				assert.False(t, gate.Status().Unsaved)
				require.NoError(t, gate.Close())
				w.Polar.SetOffline(true)
				assert.True(t, w.Open().Has("export"), "the next start has it")
				assert.Equal(t, 1, w.Seats())
				assert.Equal(t, 1, w.Polar.Count(kit.PathActivate))
			})
		})
	}
}

func TestALostStateIsWrittenAgainWhateverItSaid(t *testing.T) {
	t.Parallel()
	deleted := func(t *testing.T, w *kit.World, prepare func(*polargate.Gate)) (*polargate.Gate, string) {
		folder := filepath.Join(t.TempDir(), "license")
		w.Config.Store = polargate.FileStore(folder)
		gate := w.Activated()
		prepare(gate)
		time.Sleep(time.Minute)
		require.NoError(t, os.RemoveAll(folder))
		return gate, folder
	}
	t.Run("a refusal", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			w := kit.NewWorld(t)
			gate, _ := deleted(t, w, func(g *polargate.Gate) {
				w.Polar.Revoke(w.Key.ID)
				_, err := g.Refresh(t.Context())
				require.ErrorIs(t, err, polargate.ErrInactive)
			})
			w.Polar.SetOffline(true)
			_, err := gate.Check(t.Context())
			require.ErrorIs(t, err, polargate.ErrInactive)
			assert.Equal(t, polargate.ErrInactive, w.Open().Status().Reason)
		})
	})
	t.Run("a release that waits", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			w := kit.NewWorld(t)
			gate, _ := deleted(t, w, func(g *polargate.Gate) {
				w.Polar.SetOffline(true)
				require.Error(t, g.Deactivate(t.Context()))
			})
			_, err := gate.Refresh(t.Context())
			require.Error(t, err)
			require.NoError(t, gate.Close())
			w.Polar.SetOffline(false)
			time.Sleep(time.Hour)
			_, err = w.Open().Check(t.Context())
			require.ErrorIs(t, err, polargate.ErrNoLicense)
			assert.Zero(t, w.Seats())
		})
	})
	t.Run("a license beside which another process has begun anew", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			w := kit.NewWorld(t, kit.Limit(1))
			gate, _ := deleted(t, w, func(*polargate.Gate) {})
			_, err := w.Open().Activate(t.Context(), w.Key.Key)
			require.ErrorIs(t, err, polargate.ErrActivationLimit, "by the activation that was lost with the state")
			time.Sleep(time.Minute)
			_, err = gate.Check(t.Context())
			require.NoError(t, err)
			assert.True(t, gate.Has("export"))
			assert.True(t, w.Open().Has("export"))
			assert.Equal(t, 1, w.Seats())
		})
	})
	t.Run("but not a license that another process removed on purpose", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			w := kit.NewWorld(t)
			w.Config.Store = polargate.FileStore(t.TempDir())
			running := w.Activated()
			_, err := running.Check(t.Context())
			require.NoError(t, err)
			require.NoError(t, w.Open().Deactivate(t.Context()))
			time.Sleep(time.Minute)
			_, err = running.Check(t.Context())
			require.ErrorIs(t, err, polargate.ErrNoLicense)
			assert.False(t, running.Has("export"))
			assert.False(t, w.Open().Has("export"))
		})
	})
	t.Run("and where it cannot be written, it is said and tried again", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			w := kit.NewWorld(t)
			store := &vanishing{}
			w.Config.Store = store
			gate := w.Activated()
			time.Sleep(time.Minute)
			store.MemoryStore = &kit.BrittleStore{}
			store.MemoryStore.Set(nil, kit.Fails, nil)
			_, err := gate.Refresh(t.Context())
			require.NoError(t, err)
			assert.True(t, gate.Has("export"))
			assert.True(t, gate.Status().Unsaved)
			store.MemoryStore.Set(nil, nil, nil)
			time.Sleep(time.Minute)
			_, err = gate.Refresh(t.Context())
			require.NoError(t, err)
			assert.False(t, gate.Status().Unsaved)
			assert.True(t, w.Open().Has("export"))
		})
	})
}

// vanishing is a store that can be emptied.
type vanishing struct{ MemoryStore *kit.BrittleStore }

func (s *vanishing) now() *kit.BrittleStore {
	if s.MemoryStore == nil {
		s.MemoryStore = &kit.BrittleStore{}
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
		w := kit.NewWorld(t)
		folder := t.TempDir()
		w.Config.Store = polargate.FileStore(folder)
		var seen []string
		for _, name := range []string{"desk", "laptop"} {
			w.Activated(func(c *polargate.Config) { c.Fingerprint, c.Label = name, name })
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
