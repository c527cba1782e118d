package gate

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
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

// trying is a World whose program has a trial of two weeks.
func trying(t *testing.T) *kit.World {
	t.Helper()
	w := kit.NewWorld(t)
	w.Config.Trial = polargate.Trial{Days: 14, Features: []string{"sync", "basics"}}
	return w
}

func TestATrialBeginsWithTheFirstCheckAndLastsItsDaysWithoutANetwork(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := trying(t)
		w.Polar.SetOffline(true)
		gate := w.Open()
		assert.Equal(t, polargate.ErrNoLicense, gate.Status().Reason, "opening a Gate begins nothing")
		time.Sleep(kit.Day)
		began := time.Now()
		status, err := gate.Check(t.Context())
		require.NoError(t, err)
		assert.Equal(t, polargate.InTrial, status.State)
		assert.Empty(t, status.Reason)
		assert.True(t, began.Add(14*kit.Day).Equal(status.TrialUntil), status.TrialUntil)
		assert.Equal(t, []string{"basics", "sync"}, status.Features)
		assert.True(t, gate.Has("sync"))
		assert.False(t, gate.Has("export"), "which only a license unlocks")
		assert.True(t, status.OK())
		assert.Equal(t, polargate.ActionEnterKey, status.Action.Kind)
		said, err := json.Marshal(status)
		require.NoError(t, err)
		assert.Contains(t, string(said), `"state":"trial","reason":""`)
		assert.Contains(t, string(said), `"trial_until":"`)

		time.Sleep(14*kit.Day - time.Second)
		assert.True(t, gate.Has("sync"))
		next := w.Open()
		assert.True(t, next.Has("sync"), "from disk, with no call of Check")
		status, err = next.Check(t.Context())
		require.NoError(t, err)
		assert.True(t, began.Add(14*kit.Day).Equal(status.TrialUntil), "it began once")
		time.Sleep(2 * time.Second)
		synctest.Wait()
		assert.False(t, gate.Has("sync"), "it ends by itself")
		for _, g := range []*polargate.Gate{gate, next, w.Open()} {
			status, err = g.Check(t.Context())
			require.ErrorIs(t, err, polargate.ErrTrialEnded)
			require.ErrorIs(t, err, polargate.ErrNoLicense, "which is true as well")
			assert.Equal(t, polargate.Unlicensed, status.State)
			assert.Equal(t, polargate.ErrTrialEnded, status.Reason)
			assert.True(t, began.Add(14*kit.Day).Equal(status.TrialUntil), "when it ended")
			kit.Says(t, status.Message, "trial_ended")
			assert.Equal(t, status.Message, polargate.Message(err))
			assert.Empty(t, status.Features)
		}
		assert.Zero(t, w.Polar.Count(""), "nobody was asked")
	})
}

func TestRunBeginsATrialAsCheckDoes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := trying(t)
		gate := w.Open()
		go gate.Run(t.Context())
		synctest.Wait()
		assert.Equal(t, polargate.InTrial, gate.Status().State)
	})
}

func TestALicenseEndsATrialForGood(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := trying(t)
		gate := w.Open()
		_, err := gate.Check(t.Context())
		require.NoError(t, err)
		_, err = gate.Activate(t.Context(), "INKWELL-MISTYPED")
		require.ErrorIs(t, err, polargate.ErrUnknownKey)
		assert.Equal(t, polargate.InTrial, gate.Status().State, "a key that isn't good changes nothing")
		w.Inject(kit.PathActivate, 1, polartest.AnswerLost())
		time.Sleep(time.Minute)
		_, err = gate.Activate(t.Context(), w.Key.Key)
		require.ErrorIs(t, err, polargate.ErrActivationInDoubt)
		assert.Equal(t, polargate.InTrial, gate.Status().State)
		assert.True(t, gate.Status().InDoubt)
		status, err := gate.Activate(t.Context(), w.Key.Key)
		require.NoError(t, err)
		assert.Equal(t, polargate.Active, status.State)
		assert.True(t, status.TrialUntil.IsZero())
		assert.Equal(t, int64(3), status.Seats.Limit)
		assert.False(t, gate.Has("basics"), "which is of the trial alone")

		w.Polar.Revoke(w.Key.ID)
		status, _ = gate.Refresh(t.Context())
		assert.Equal(t, polargate.Locked, status.State, "a license that ends leaves no trial behind")
		require.NoError(t, gate.Deactivate(t.Context()))
		for _, g := range []*polargate.Gate{gate, w.Open()} {
			status, err = g.Check(t.Context())
			require.ErrorIs(t, err, polargate.ErrNoLicense)
			assert.Equal(t, polargate.ErrNoLicense, status.Reason)
		}
	})
}

func TestWhoHadALicenseGetsNoTrial(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := trying(t)
		gate := w.Activated(func(c *polargate.Config) { c.Trial = polargate.Trial{} })
		require.NoError(t, gate.Deactivate(t.Context()))
		require.NoError(t, gate.Close())
		_, err := w.Open().Check(t.Context())
		require.ErrorIs(t, err, polargate.ErrNoLicense, "an update that offers trials")
	})
}

func TestAClockThatIsSetBackDoesNotProlongATrial(t *testing.T) {
	t.Parallel()
	for name, back := range map[string]time.Duration{"by half an hour": time.Hour / 2, "by two hours": 2 * time.Hour, "by ten days": 10 * kit.Day, "by years": 3000 * kit.Day} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := trying(t)
				var wrong atomic.Int64
				w.Config.Clock = func() time.Time { return time.Now().Add(time.Duration(wrong.Load())) }
				gate := w.Open()
				_, err := gate.Check(t.Context())
				require.NoError(t, err)
				time.Sleep(12 * kit.Day)
				status, err := gate.Check(t.Context())
				require.NoError(t, err)
				synctest.Wait()
				wrong.Store(-int64(back))
				for _, g := range []*polargate.Gate{gate, w.Open()} {
					status, err = g.Check(t.Context())
					require.NoError(t, err, "and takes none of it away")
					left := status.TrialUntil.Sub(w.Config.Clock())
					assert.LessOrEqual(t, left, 2*kit.Day+time.Hour)
					assert.GreaterOrEqual(t, left, 2*kit.Day)
				}
				time.Sleep(2*kit.Day + time.Hour + time.Second)
				for _, g := range []*polargate.Gate{gate, w.Open()} {
					_, err = g.Check(t.Context())
					require.ErrorIs(t, err, polargate.ErrTrialEnded)
				}
				wrong.Store(-int64(20 * kit.Day))
				for _, g := range []*polargate.Gate{gate, w.Open()} {
					_, err = g.Check(t.Context())
					require.ErrorIs(t, err, polargate.ErrTrialEnded, "one that ended doesn't begin again")
				}
			})
		})
	}
}

func TestACopyOfATrialIsNoNewOne(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := trying(t)
		w.Config.Trial.Days = 2
		store := &kit.BrittleStore{}
		w.Config.Store = store
		status, err := w.Open().Check(t.Context())
		require.NoError(t, err)
		until := status.TrialUntil
		time.Sleep(30 * time.Hour)
		elsewhere := func(c *polargate.Config) { c.Fingerprint = "another computer with the same folder" }
		copied := w.Open(elsewhere)
		assert.False(t, copied.Has("sync"), "the trial of another computer doesn't count here by itself")
		status, err = copied.Check(t.Context())
		require.NoError(t, err)
		assert.Equal(t, until, status.TrialUntil)
		status, err = w.Open().Check(t.Context())
		require.NoError(t, err)
		assert.Equal(t, until, status.TrialUntil, "the first one is as it was")

		// A license on the first computer ends only its own.
		_, err = w.Open().Activate(t.Context(), w.Key.Key)
		require.NoError(t, err)
		status, err = w.Open(elsewhere).Check(t.Context())
		require.NoError(t, err)
		assert.Equal(t, polargate.InTrial, status.State)
		time.Sleep(kit.Day)
		status, err = w.Open(elsewhere).Check(t.Context())
		require.ErrorIs(t, err, polargate.ErrOtherMachine, "then, the license in the same folder can be moved")
		assert.Equal(t, w.Key.Key, status.Key.Reveal())
		_, err = w.Open(func(c *polargate.Config) { c.Fingerprint = "a third computer" }).Check(t.Context())
		require.ErrorIs(t, err, polargate.ErrOtherMachine, "and a third one doesn't try")
	})
}

func TestATrialThatCannotBeStoredDoesNotBegin(t *testing.T) {
	t.Parallel()
	for name, set := range map[string]func(*kit.BrittleStore){
		"the disk is full":        func(s *kit.BrittleStore) { s.Set(nil, kit.Fails, nil) },
		"the disk can't be read":  func(s *kit.BrittleStore) { s.Set(kit.Fails, nil, nil) },
		"the lock can't be taken": func(s *kit.BrittleStore) { s.Set(nil, nil, kit.Fails) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := trying(t)
				store := &kit.BrittleStore{}
				w.Config.Store = store
				set(store)
				gate := w.Open()
				status, err := gate.Check(t.Context())
				require.Error(t, err)
				assert.Equal(t, polargate.Unlicensed, status.State)
				assert.False(t, gate.Has("sync"))
				if name != "the disk can't be read" {
					kit.Says(t, status.Message, "no_license.trial")
				}
				time.Sleep(kit.Day)
				store.Set(nil, nil, nil)
				status, err = gate.Check(t.Context())
				require.NoError(t, err)
				assert.True(t, time.Now().Add(14*kit.Day).Equal(status.TrialUntil), "not a day less")
				assert.Contains(t, status.Message, "Trial until")

				store.Set(kit.Fails, kit.Fails, kit.Fails)
				time.Sleep(kit.Day)
				_, err = gate.Check(t.Context())
				require.NoError(t, err, "a disk that fails later takes nothing away")
			})
		})
	}
}

func TestATrialThatWasDeletedUnderARunningProgramIsWrittenAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := trying(t)
		gate := w.Open()
		status, err := gate.Check(t.Context())
		require.NoError(t, err)
		until := status.TrialUntil
		time.Sleep(3 * time.Hour)
		store := &polargate.MemoryStore{}
		fresh := w.Open(func(c *polargate.Config) { c.Store = store })
		status, err = fresh.Check(t.Context())
		require.NoError(t, err)
		assert.Equal(t, until.Add(3*time.Hour), status.TrialUntil, "a new folder is a new installation")
		folder := t.TempDir()
		clear := func() {
			synctest.Wait() // until nothing is being saved
			files, err := os.ReadDir(folder)
			require.NoError(t, err)
			for _, f := range files {
				if err := os.Remove(filepath.Join(folder, f.Name())); !strings.HasSuffix(f.Name(), ".lock") {
					require.NoError(t, err) // a lock that a program has just now stays on Windows
				}
			}
		}
		program := func(c *polargate.Config) { c.Store = polargate.FileStore(folder) }
		running := w.Open(program)
		status, err = running.Check(t.Context())
		require.NoError(t, err)
		until = status.TrialUntil
		clear()
		time.Sleep(3 * time.Hour)
		_, err = running.Check(t.Context())
		require.NoError(t, err)
		status, err = w.Open(program).Check(t.Context())
		require.NoError(t, err)
		assert.Equal(t, until, status.TrialUntil)

		// Another process that began anew doesn't win.
		clear()
		_, err = w.Open(program).Check(t.Context())
		require.NoError(t, err)
		time.Sleep(2 * time.Hour)
		for range 2 {
			status, err = running.Check(t.Context())
			require.NoError(t, err)
			assert.Equal(t, until, status.TrialUntil)
			synctest.Wait()
		}
		time.Sleep(2 * time.Hour)
		status, err = w.Open(program).Check(t.Context())
		require.NoError(t, err)
		assert.Equal(t, until, status.TrialUntil)
	})
}

func TestAnUpdateCanChangeHowLongATrialLasts(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := trying(t)
		_, err := w.Open().Check(t.Context())
		require.NoError(t, err)
		time.Sleep(20 * kit.Day)
		_, err = w.Open().Check(t.Context())
		require.ErrorIs(t, err, polargate.ErrTrialEnded)
		w.Config.Trial.Days = 30
		status, err := w.Open().Check(t.Context())
		require.NoError(t, err)
		assert.Equal(t, polargate.InTrial, status.State)
		w.Config.Trial = polargate.Trial{}
		_, err = w.Open().Check(t.Context())
		require.ErrorIs(t, err, polargate.ErrNoLicense)
		assert.NotErrorIs(t, err, polargate.ErrTrialEnded)
	})
}

func TestATrialThatCannotWorkIsRefused(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*polargate.Config){
		"negative":             func(c *polargate.Config) { c.Trial.Days = -1 },
		"without an end":       func(c *polargate.Config) { c.Trial.Days = 3654 },
		"a nameless feature":   func(c *polargate.Config) { c.Trial.Features = []string{""} },
		"nothing is kept":      func(c *polargate.Config) { c.Ephemeral = polargate.ReleaseOnClose },
		"nothing is activated": func(c *polargate.Config) { c.Ephemeral = polargate.ValidateOnly },
	} {
		w := trying(t)
		change(&w.Config)
		_, err := polargate.Open(w.Config)
		var input *polargate.InputError
		require.ErrorAs(t, err, &input, name)
		assert.Equal(t, "Trial", input.Field)
	}
}

func TestADiagnosisTellsOfATrial(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := trying(t)
		gate := w.Open()
		status, err := gate.Check(t.Context())
		require.NoError(t, err)
		d := gate.Diagnose(t.Context())
		assert.Equal(t, status.TrialUntil, d.TrialUntil)
		assert.Empty(t, d.Problems)
		assert.Contains(t, d.String(), "trial until  "+status.TrialUntil.Format(time.RFC3339))
	})
}

// tried is what a program knows of the trial of a computer, in the test below.
type tried struct {
	passed time.Duration
	mark   time.Time
}

// Whatever somebody does with clocks, restarts, a second computer in the same folder, keys that
// are no good and imports that Polar doesn't confirm: a trial lasts its days. It lasts no longer, but for the hour by which a
// clock may be wrong, and no shorter, unless a clock was ahead.
func TestNoSequenceOfEventsProlongsATrialOrCutsItShort(t *testing.T) {
	t.Parallel()
	for seed := range uint64(*rulesSequences / 10) {
		synctest.Test(t, func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, 17))
			upTo := func(d time.Duration) time.Duration { return time.Duration(r.Int64N(int64(d))) }
			w := trying(t)
			w.Config.Trial.Days = 2 // a program that runs looks at its clock each minute
			var wrong atomic.Int64
			w.Config.Clock = func() time.Time { return time.Now().Add(time.Duration(wrong.Load())) }
			gates := map[string]*polargate.Gate{}
			known := map[string]tried{}
			licensed := map[string]bool{}
			// An hour at each turn of a clock, and at each end of a program, since the time is
			// stored hourly.
			var slack time.Duration
			check := func(machine string) {
				if gates[machine] == nil {
					gates[machine] = w.Open(func(c *polargate.Config) { c.Fingerprint = machine })
				}
				now := w.Config.Clock()
				k, ok := known[machine]
				for _, other := range known {
					if !ok && other.passed >= k.passed {
						k = other
					}
				}
				switch {
				case k.mark.IsZero(), now.Before(k.mark.Add(-time.Hour)):
					k.mark = now
				case now.After(k.mark):
					k.passed, k.mark = k.passed+now.Sub(k.mark), now
				}
				known[machine] = k
				status, _ := gates[machine].Check(t.Context())
				synctest.Wait()
				in := status.State == polargate.InTrial
				switch {
				case in && licensed[machine]:
					t.Fatalf("seed %d: a trial beside or after a license", seed)
				case in && k.passed > 2*kit.Day+slack:
					t.Fatalf("seed %d: in a trial of 2 days after %s", seed, k.passed)
				case !in && len(licensed) == 0 && k.passed < 2*kit.Day-slack:
					t.Fatalf("seed %d: no trial after %s of 2 days: %s %s", seed, k.passed, status.State, status.Reason)
				case in != slices.Equal(status.Features, []string{"basics", "sync"}):
					t.Fatalf("seed %d: %s with %v", seed, status.State, status.Features)
				}
			}
			check("one")
			for range 25 {
				machine := []string{"one", "two"}[r.IntN(2)]
				gate := gates[machine]
				switch what := r.IntN(11); {
				case what < 3:
					time.Sleep(upTo(9 * time.Hour))
				case what < 5:
					time.Sleep(upTo(2 * time.Hour))
				case what == 5:
					wrong.Add(-int64(upTo(kit.Day)))
					slack += 2 * time.Hour
				case what == 6:
					wrong.Add(int64(upTo(4 * time.Hour)))
				case what == 7 && gate != nil:
					require.NoError(t, gate.Close())
					delete(gates, machine)
					slack += 2 * time.Hour
				case what == 8 && gate != nil:
					_, err := gate.Activate(t.Context(), "INKWELL-MISTYPED")
					require.Error(t, err)
					time.Sleep(time.Minute)
				case what == 10 && gate != nil && len(known) == 2 && !licensed[machine]: // with none, a computer doesn't begin one beside another's key
					w.Polar.SetOffline(true)
					_, err := gate.Import(t.Context(), polargate.ImportedActivation{Key: w.Key.Key, ActivationID: "6b43a9a5-8d86-4c5a-9c5e-3a1f9a0b7c11"})
					require.Error(t, err)
					if r.IntN(2) == 0 {
						check(machine)
						require.ErrorIs(t, gate.Deactivate(t.Context()), polargate.ErrUnreachable)
					}
					w.Polar.SetOffline(false)
				case what == 9 && gate != nil && r.IntN(3) == 0:
					_, err := gate.Activate(t.Context(), w.Key.Key)
					require.NoError(t, err)
					licensed[machine] = true
					if r.IntN(2) == 0 {
						require.NoError(t, gate.Deactivate(t.Context()))
					}
				}
				for _, running := range slices.Sorted(maps.Keys(gates)) {
					check(running)
				}
				check(machine)
			}
		})
	}
}

func TestAStoreThatFailsForATrialIsSaidToADeveloperToo(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := trying(t)
		store := &kit.BrittleStore{}
		store.Set(nil, kit.Fails, nil)
		w.Config.Store = store
		_, err := w.Open().Check(t.Context())
		require.ErrorIs(t, err, polargate.ErrNoLicense)
		assert.True(t, errors.Is(err, kit.ErrDisk), err)
	})
}

func TestNoTrialBeginsBesideAStateThatCannotBeRead(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := trying(t)
		folder := polargate.FileStore(t.TempDir())
		w.Config.Store = folder
		gate := w.Open()
		_, err := gate.Check(t.Context())
		require.NoError(t, err)
		require.NoError(t, gate.Close())
		name := kit.NamesOf(w.Config.OrganizationID, w.Config.App).Of(kit.ThisMachine)
		data, err := folder.Load(t.Context(), name)
		require.NoError(t, err)
		data[len(data)/2] ^= 1
		require.NoError(t, folder.Save(t.Context(), name, data))
		for range 2 {
			status, err := w.Open().Check(t.Context())
			require.ErrorIs(t, err, polargate.ErrUnreadableState)
			assert.Equal(t, polargate.Unlicensed, status.State)
		}
	})
}

func TestATrialThatEndedStaysSoByAClockThatIsSetBackAMinute(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := trying(t)
		w.Config.Trial.Days = 1
		var wrong atomic.Int64
		w.Config.Clock = func() time.Time { return time.Now().Add(time.Duration(wrong.Load())) }
		gate := w.Open()
		_, err := gate.Check(t.Context())
		require.NoError(t, err)
		require.NoError(t, gate.Close())
		time.Sleep(90 * time.Minute) // so that it doesn't end at an hour at which the time is stored anyway
		gate = w.Open()
		time.Sleep(kit.Day - 90*time.Minute + time.Second)
		synctest.Wait()
		wrong.Store(-int64(time.Minute))
		for _, g := range []*polargate.Gate{gate, w.Open()} {
			_, err := g.Check(t.Context())
			require.ErrorIs(t, err, polargate.ErrTrialEnded)
		}
	})
}

// killable is a Store that takes a second to write. A program that is killed writes no more.
type killable struct {
	polargate.Store
	killed atomic.Bool
}

func (s *killable) Save(ctx context.Context, name string, data []byte) error {
	time.Sleep(time.Second)
	if s.killed.Load() {
		return errors.New("killed")
	}
	return s.Store.Save(ctx, name, data)
}

func TestATrialOfAProgramThatEndsAtOnceIsNotProlongedByTheClock(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := trying(t)
		w.Polar.SetOffline(true)
		disk := w.Config.Store
		began := time.Now()
		clock := began
		w.Config.Clock = func() time.Time { return clock }
		run := func(at time.Time) (polargate.Status, error) {
			store := &killable{Store: disk}
			w.Config.Store, clock = store, at
			gate := w.Open()
			status, err := gate.Check(t.Context())
			store.killed.Store(true) // os.Exit, right after Check
			_ = gate.Close()
			return status, err
		}
		_, err := run(began)
		require.NoError(t, err)
		_, err = run(began.Add(13 * kit.Day))
		require.NoError(t, err)
		status, err := run(began)
		require.NoError(t, err)
		assert.True(t, began.Add(kit.Day).Equal(status.TrialUntil), "13 days have passed: %v", status.TrialUntil)
		_, err = run(began.Add(2 * kit.Day))
		require.ErrorIs(t, err, polargate.ErrTrialEnded)
		_, err = run(began.Add(-kit.Day))
		require.ErrorIs(t, err, polargate.ErrTrialEnded, "which was stored before Check returned")
	})
}
