package gate

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/polargate/polargate"
	"github.com/polargate/polargate/internal/testprogram"
	"github.com/polargate/polargate/polartest"
	"github.com/polargate/polargate/tests/internal/kit"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// The scenarios that need another process, a clock that is set, or a look at
// what lies between a request and its answer. The others are tested from outside.

func init() {
	programs["dies-with-the-seat"] = programDiesWithTheSeat
	programs["starts-anywhere"] = programStartsAnywhere
	programs["panics-behind-the-back"] = programPanicsBehindTheBack
}

// staged is a subtest in a bubble with a Polar and a key of three seats in it.
func staged(t *testing.T, name string, play func(t *testing.T, polar *polartest.Polar, key polartest.LicenseKey)) {
	t.Helper()
	t.Run(name, func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			polar := polartest.New(polartest.Config{})
			play(t, polar, polar.AddKey(polartest.LicenseKey{LimitActivations: polartest.Limit(3)}))
		})
	})
}

// withExport makes a Gate's one feature come with a key.
func withExport(key polartest.LicenseKey) map[string][]string {
	return map[string][]string{key.BenefitID: {"export"}}
}

// An impatient double click took two seats. So did the tray icon and the main
// window, which are two programs, and start together after the installation.
func TestADoubleClickOrTwoProgramsAtTheFirstStartUseOneActivation(t *testing.T) {
	t.Parallel()
	for name, leaves := range map[string]bool{"a double click": false, "a click, an impatient cancel, and a click": true} {
		staged(t, name, func(t *testing.T, polar *polartest.Polar, key polartest.LicenseKey) {
			polar.Inject(polartest.Fault{Path: "/activate", Effect: polartest.Delay(2 * time.Second)})
			gate := openGate(t, polar, func(c *polargate.Config) { c.Features = withExport(key) })
			first, cancel := context.WithCancel(t.Context())
			var clicks sync.WaitGroup
			clicks.Go(func() {
				_, err := gate.Activate(first, key.Key)
				assert.Equal(t, leaves, err != nil)
			})
			time.Sleep(200 * time.Millisecond)
			if leaves {
				cancel()
			}
			clicks.Go(func() {
				_, err := gate.Activate(t.Context(), key.Key)
				assert.NoError(t, err)
			})
			clicks.Wait()
			cancel()
			assert.True(t, gate.Has("export"))
			assert.Equal(t, 1, polar.Seats(key.ID))
			assert.Equal(t, 1, polar.Count("/activate"))
		})
	}
	t.Run("two programs", func(t *testing.T) {
		t.Parallel()
		polar, server, key := realPolar(t)
		polar.Inject(polartest.Fault{Path: "/activate", Effect: polartest.Delay(100 * time.Millisecond)})
		state := t.TempDir()
		var programs sync.WaitGroup
		for range 2 {
			cmd := testprogram.Command(t, "activate", server.URL, polar.OrganizationID(), state, key.Key)
			programs.Go(func() { assert.NoError(t, cmd.Run(), "both have a license") })
		}
		programs.Wait()
		assert.Equal(t, 1, polar.Seats(key.ID))
		assert.Equal(t, 1, polar.Count("/activate"))
	})
}

// programDiesWithTheSeat activates, and is killed when Polar's answer is there and
// nobody has looked at it. Its arguments are those of programActivates.
func programDiesWithTheSeat(args []string) error {
	gate, err := polargate.Open(polargate.Config{
		OrganizationID: args[1], App: "inkwell", BaseURL: args[0], Store: polargate.FileStore(args[2]), Fingerprint: args[2],
		HTTPClient: &http.Client{Transport: kit.RoundTripper(func(r *http.Request) (*http.Response, error) {
			_, _ = http.DefaultTransport.RoundTrip(r)
			self, err := os.FindProcess(os.Getpid())
			if err == nil {
				_ = self.Kill()
			}
			select {}
		})},
	})
	if err != nil {
		return err
	}
	_, err = gate.Activate(context.Background(), args[3])
	return err
}

// The user closed the window, or the laptop's battery ended, between Polar's yes
// and the file. The seat was gone, and nothing on the computer knew of it.
func TestAProgramThatEndsDuringAnActivationDoesNotForgetIt(t *testing.T) {
	t.Parallel()
	staged(t, "a caller who leaves has the seat", func(t *testing.T, polar *polartest.Polar, key polartest.LicenseKey) {
		polar.Inject(polartest.Fault{Path: "/activate", Effect: polartest.Delay(3 * time.Second)})
		store := &polargate.MemoryStore{}
		gate := openGate(t, polar, func(c *polargate.Config) { c.Features, c.Store = withExport(key), store })
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := gate.Activate(ctx, key.Key)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		time.Sleep(3 * time.Second)
		assert.True(t, gate.Has("export"))
		assert.Equal(t, 1, polar.Seats(key.ID))
		next := openGate(t, polar, func(c *polargate.Config) { c.Features, c.Store = withExport(key), store })
		assert.True(t, next.Has("export"), "and has stored it")
		assert.False(t, next.Status().InDoubt)
	})
	staged(t, "a program that is closed has it, too", func(t *testing.T, polar *polartest.Polar, key polartest.LicenseKey) {
		polar.Inject(polartest.Fault{Path: "/activate", Effect: polartest.Delay(3 * time.Second)})
		store := &polargate.MemoryStore{}
		gate := openGate(t, polar, func(c *polargate.Config) { c.Store = store })
		go func() { _, _ = gate.Activate(t.Context(), key.Key) }()
		time.Sleep(time.Second)
		require.NoError(t, gate.Close())
		next := openGate(t, polar, func(c *polargate.Config) { c.Features, c.Store = withExport(key), store })
		assert.True(t, next.Has("export"))
		assert.Equal(t, 1, polar.Seats(key.ID))
	})
	t.Run("a program that is killed knows afterwards that a seat may be lost", func(t *testing.T) {
		t.Parallel()
		polar, server, key := realPolar(t)
		polar.Update(key.ID, func(k *polartest.LicenseKey) { k.LimitActivations = polartest.Limit(1) })
		state := t.TempDir()
		cmd := testprogram.Command(t, "dies-with-the-seat", server.URL, polar.OrganizationID(), state, key.Key)
		require.Error(t, cmd.Run())
		require.Equal(t, 1, polar.Seats(key.ID), "Polar has given it")
		lost := polar.Requests()[0]

		gate, err := aProgram([]string{server.URL, polar.OrganizationID(), state})
		require.NoError(t, err)
		t.Cleanup(func() { _ = gate.Close() })
		assert.True(t, gate.Status().InDoubt)
		assert.Equal(t, polargate.ErrInDoubt, gate.Status().Reason)
		kit.Says(t, gate.Status().Message, "in_doubt.here.do")
		_, err = gate.Activate(t.Context(), key.Key)
		require.ErrorIs(t, err, polargate.ErrActivationLimit)
		assert.Contains(t, polargate.Message(err), polargate.Phrases()["activation_limit.earlier.do"], "the user learns who holds the last seat")
		seat, ok := polar.LicenseKey(key.ID)
		require.True(t, ok)
		assert.NotEmpty(t, seat.Activations[0].Meta["installation"], "and the vendor which installation it was")
		assert.Contains(t, string(lost.Body), seat.Activations[0].Meta["attempt"])

		polar.Update(key.ID, func(k *polartest.LicenseKey) { k.Activations[0].Released = true })
		status, err := gate.Activate(t.Context(), key.Key)
		require.NoError(t, err)
		assert.False(t, status.InDoubt)
		seat, _ = polar.LicenseKey(key.ID)
		assert.Equal(t, seat.Activations[0].Meta["installation"], seat.Activations[1].Meta["installation"], "that of the lost one")
	})
}

// A check that was written down in 2038, by a clock with an empty battery, was
// "younger than two weeks" for the next twelve years; with unsigned numbers its
// age was enormous instead. And a clock that was put right by two seconds made
// another program cry thief.
func TestNoClockMakesGraceEndlessAndNoSmallCorrectionAlarms(t *testing.T) {
	t.Parallel()
	const aDay = 24 * time.Hour
	type program struct {
		clock *wristwatch
		polar *polartest.Polar
		open  func() *polargate.Gate
	}
	// licensed is a program that was activated by a clock that was so far ahead,
	// and from then on is offline.
	licensed := func(t *testing.T, polar *polartest.Polar, key polartest.LicenseKey, ahead time.Duration) (*polargate.Gate, program) {
		clock, store := &wristwatch{}, &polargate.MemoryStore{}
		clock.set(ahead)
		p := program{clock, polar, func() *polargate.Gate {
			return openGate(t, polar, func(c *polargate.Config) {
				c.Store, c.Clock, c.Features, c.Fingerprint = store, clock.now, withExport(key), "here"
			})
		}}
		gate := p.open()
		_, err := gate.Activate(t.Context(), key.Key)
		require.NoError(t, err)
		require.True(t, gate.Has("export"))
		polar.SetOffline(true)
		return gate, p
	}
	locked := func(t *testing.T, want polargate.Reason, gates ...*polargate.Gate) {
		t.Helper()
		for _, gate := range gates {
			_, err := gate.Check(t.Context())
			assert.ErrorIs(t, err, want)
			assert.False(t, gate.Has("export"))
			assert.Equal(t, polargate.Locked, gate.Status().State)
		}
	}
	// backOnline is what mends all of it.
	backOnline := func(t *testing.T, p program, gate *polargate.Gate) {
		t.Helper()
		p.polar.SetOffline(false)
		time.Sleep(time.Minute)
		status, err := gate.Check(t.Context())
		require.NoError(t, err, "a clock that is wrong locks out nobody who is online")
		assert.Equal(t, polargate.Active, status.State)
		p.polar.SetOffline(true)
		assert.True(t, p.open().Has("export"))
	}
	for name, ahead := range map[string]time.Duration{"two hours": 2 * time.Hour, "fifteen days": 15 * aDay, "twelve years": 12 * 365 * aDay, "two centuries": 200 * 365 * aDay} {
		staged(t, "an answer kept from a future of "+name, func(t *testing.T, polar *polartest.Polar, key polartest.LicenseKey) {
			gate, p := licensed(t, polar, key, ahead)
			// Polar's answer told how far ahead the clock was: put right, it is believed.
			p.clock.set(0)
			for _, g := range []*polargate.Gate{gate, p.open()} {
				_, err := g.Check(t.Context())
				require.NoError(t, err)
				assert.True(t, g.Has("export"))
			}
			synctest.Wait() // until it is stored that the clock was put right
			p.clock.set(13 * aDay)
			_, err := p.open().Check(t.Context())
			assert.NoError(t, err)
			synctest.Wait()
			p.clock.set(15 * aDay)
			locked(t, polargate.ErrGraceEnded, gate, p.open())
			p.clock.set(-2 * time.Hour)
			locked(t, polargate.ErrClockSetBack, gate, p.open())
			assert.Contains(t, gate.Status().Message, "clock")
			backOnline(t, p, gate)
		})
	}
	staged(t, "a clock that is set back when grace is over", func(t *testing.T, polar *polartest.Polar, key polartest.LicenseKey) {
		gate, p := licensed(t, polar, key, 0)
		for day := range 13 {
			p.clock.set(time.Duration(day) * aDay)
			_, err := gate.Check(t.Context())
			require.NoError(t, err)
		}
		for _, back := range []time.Duration{10 * aDay, aDay, 0, -1000 * aDay} {
			p.clock.set(back)
			locked(t, polargate.ErrClockSetBack, gate, p.open())
		}
		p.clock.set(12*aDay + time.Hour)
		_, err := p.open().Check(t.Context())
		assert.NoError(t, err, "back at its place, what was left is left")
		p.clock.set(15 * aDay)
		locked(t, polargate.ErrGraceEnded, gate, p.open())
		p.clock.set(2 * aDay)
		locked(t, polargate.ErrClockSetBack, gate, p.open())
		backOnline(t, p, gate)
	})
	epoch := time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC) // where a bubble's time begins
	for name, at := range map[string]time.Time{
		"before 1970":       time.Date(1969, 12, 31, 23, 59, 59, 0, time.UTC),
		"in 1901":           time.Date(1901, 12, 13, 20, 45, 52, 0, time.UTC),
		"in 1708":           epoch.Add(-1<<63 + 1),
		"in 2038":           time.Date(2038, 1, 19, 3, 14, 8, 0, time.UTC),
		"in 2106":           time.Date(2106, 2, 7, 6, 28, 16, 0, time.UTC),
		"in 2262, and more": epoch.Add(1<<63 - 1 - int64Year),
	} {
		staged(t, "a clock "+name+" wraps round to nothing", func(t *testing.T, polar *polartest.Polar, key polartest.LicenseKey) {
			gate, p := licensed(t, polar, key, 0)
			require.True(t, epoch.Equal(time.Now()))
			p.clock.set(at.Sub(epoch))
			want := polargate.ErrClockSetBack
			if at.After(epoch) {
				want = polargate.ErrGraceEnded
			}
			locked(t, want, gate, p.open())
			p.clock.set(0)
			backOnline(t, p, gate)
		})
		staged(t, "a license of a clock "+name+" lasts no longer than others", func(t *testing.T, polar *polartest.Polar, key polartest.LicenseKey) {
			gate, p := licensed(t, polar, key, at.Sub(epoch))
			p.clock.set(at.Sub(epoch) + 13*aDay)
			_, err := p.open().Check(t.Context())
			assert.NoError(t, err)
			p.clock.set(at.Sub(epoch) + 15*aDay)
			locked(t, polargate.ErrGraceEnded, gate, p.open())
		})
	}
	for name, correct := range map[string]func(*wristwatch){
		"two seconds back":     func(c *wristwatch) { c.set(-2 * time.Second) },
		"ten minutes back":     func(c *wristwatch) { c.set(-10 * time.Minute) },
		"59 minutes back":      func(c *wristwatch) { c.set(-59 * time.Minute) },
		"ten minutes on":       func(c *wristwatch) { c.set(10 * time.Minute) },
		"on and back":          func(c *wristwatch) { c.set(50 * time.Minute); c.set(0) },
		"a flight to the west": func(c *wristwatch) { c.zone.Store(time.FixedZone("west", -11*3600)) },
		"a flight to the east": func(c *wristwatch) { c.zone.Store(time.FixedZone("east", 14*3600)) },
		"the end of summer, by a zone": func(c *wristwatch) {
			c.zone.Store(time.FixedZone("CEST", 7200))
			c.zone.Store(time.FixedZone("CET", 3600))
		},
	} {
		staged(t, name+" is no alarm", func(t *testing.T, polar *polartest.Polar, key polartest.LicenseKey) {
			gate, p := licensed(t, polar, key, 0)
			correct(p.clock)
			for _, g := range []*polargate.Gate{gate, p.open()} {
				status, err := g.Check(t.Context())
				require.NoError(t, err)
				assert.Equal(t, polargate.Active, status.State)
				assert.True(t, g.Has("export"))
			}
			p.clock.set(13 * aDay)
			_, err := gate.Check(t.Context())
			require.NoError(t, err)
			correct(p.clock)
			p.clock.ahead.Add(int64(14 * aDay))
			p.clock.ahead.Add(int64(time.Hour))
			locked(t, polargate.ErrGraceEnded, gate, p.open())
		})
	}
}

// A second system with another idea of the time zone, or a wrong date for one start,
// locked out for as long a user who had paid and whose clock was right.
func TestAClockThatWasADayAheadForOneStartLocksNoCustomerOut(t *testing.T) {
	t.Parallel()
	const aDay = 24 * time.Hour
	for name, ahead := range map[string]time.Duration{"a day": aDay, "a time zone": 9 * time.Hour, "summer time and more": 2 * time.Hour, "a day and summer time": 25 * time.Hour} {
		for when, running := range map[string]bool{"at one start": false, "while the program runs": true} {
			staged(t, name+", "+when, func(t *testing.T, polar *polartest.Polar, key polartest.LicenseKey) {
				clock, store := &wristwatch{}, &polargate.MemoryStore{}
				open := func() *polargate.Gate {
					return openGate(t, polar, func(c *polargate.Config) {
						c.Store, c.Clock, c.Features, c.Fingerprint = store, clock.now, withExport(key), "here"
					})
				}
				allowed := func(gate *polargate.Gate, want polargate.State) {
					t.Helper()
					assert.Equal(t, want, gate.Status().State, "%s", gate.Status().Message)
					status, err := gate.Check(t.Context())
					require.NoError(t, err)
					assert.True(t, gate.Has("export"))
					assert.Equal(t, want, status.State)
				}
				gate := open()
				_, err := gate.Activate(t.Context(), key.Key)
				require.NoError(t, err)
				polar.SetOffline(true)
				clock.set(3 * aDay) // three days go by
				if !running {
					require.NoError(t, gate.Close())
					gate = open()
				}
				clock.set(3*aDay + ahead)
				_, err = gate.Check(t.Context())
				require.NoError(t, err)
				clock.set(3 * aDay)
				if running {
					time.Sleep(2 * time.Minute)
				} else {
					require.NoError(t, gate.Close())
					gate = open()
				}
				allowed(gate, polargate.Grace)
				assert.WithinDuration(t, time.Now().Add(14*aDay-ahead), gate.Status().GraceUntil, 3*time.Minute, "what the clock was ahead is not given back")
				require.NoError(t, gate.Close())
				gate = open()
				allowed(gate, polargate.Grace)
				clock.set(14*aDay - ahead - time.Hour)
				allowed(open(), polargate.Grace)
				clock.set(14*aDay - ahead + time.Hour)
				_, err = open().Check(t.Context())
				require.ErrorIs(t, err, polargate.ErrGraceEnded)

				polar.SetOffline(false)
				clock.set(4 * aDay)
				status, err := gate.Check(t.Context())
				require.NoError(t, err)
				assert.Equal(t, polargate.Active, status.State, "and Polar's answer settles it at once")
				assert.Equal(t, clock.now().Add(14*aDay), status.GraceUntil)
			})
		}
	}
	staged(t, "further ahead than that: locked offline, with the truth, and at once let in online", func(t *testing.T, polar *polartest.Polar, key polartest.LicenseKey) {
		clock, store := &wristwatch{}, &polargate.MemoryStore{}
		open := func() *polargate.Gate {
			return openGate(t, polar, func(c *polargate.Config) {
				c.Store, c.Clock, c.Features, c.Fingerprint = store, clock.now, withExport(key), "here"
			})
		}
		_, err := open().Activate(t.Context(), key.Key)
		require.NoError(t, err)
		polar.SetOffline(true)
		clock.set(12 * time.Hour)
		first := open()
		clock.set(10 * aDay)
		_, err = first.Check(t.Context())
		require.NoError(t, err)
		require.NoError(t, first.Close())
		clock.set(12 * time.Hour)
		gate := open()
		status, err := gate.Check(t.Context())
		require.ErrorIs(t, err, polargate.ErrClockSetBack)
		assert.Contains(t, status.Message, polargate.Phrases()["clock_set_back.do"])
		assert.Contains(t, gate.Diagnose(t.Context()).String(), polargate.Phrases()["clock_set_back.do"])
		polar.SetOffline(false)
		time.Sleep(time.Minute)
		for _, g := range []*polargate.Gate{gate, open()} { // the answer to one is there for the other
			status, err = g.Check(t.Context())
			require.NoError(t, err, "a verdict that is fresh by this clock is not enough of an answer")
			assert.Equal(t, polargate.Active, status.State)
		}
	})
}

// A program that only ever asked Has, for days, let its user turn the clock back
// to where it started.
func TestAProgramThatIsOnlyLeftRunningKeepsTheMark(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newLaptop(t)
		c.polar.SetOffline(true)
		time.Sleep(10 * 24 * time.Hour)
		require.True(t, c.gate.Has("export"))
		require.NoError(t, c.gate.Close())
		c.watch.set(-9 * 24 * time.Hour)
		next := c.open(nil)
		assert.False(t, next.Has("export"))
		assert.Equal(t, polargate.ErrClockSetBack, next.Status().Reason)
		c.watch.set(0)
		assert.True(t, c.open(nil).Has("export"))
	})
}

const int64Year = 366 * 24 * time.Hour

// programStartsAnywhere is a program that starts, and reports where it stands on
// standard output: its own standing, what became of a try to activate, and how
// many seats that cost.
func programStartsAnywhere([]string) error {
	polar := polartest.New(polartest.Config{})
	key := polar.AddKey(polartest.LicenseKey{LimitActivations: polartest.Limit(1)})
	gate, err := polargate.Open(polargate.Config{OrganizationID: polar.OrganizationID(), BaseURL: polar.URL(), HTTPClient: polar.Client()})
	if err != nil {
		return err
	}
	defer gate.Close()
	status, err := gate.Check(context.Background())
	if !errors.Is(err, polargate.ErrNoLicense) {
		return fmt.Errorf("Check: %w", err)
	}
	_, err = gate.Activate(context.Background(), key.Key)
	var stored *polargate.StoreError
	fmt.Print(string(status.State), " ", errors.As(err, &stored), " ", polar.Seats(key.ID))
	return nil
}

// The power failed while the file was being written, and the program did not
// start any more. Another did not start in a container without a home, nor from
// a stick that was full; and on Windows the virus scanner had the file open.
func TestAProgramStartsWhateverHasBecomeOfItsState(t *testing.T) {
	t.Parallel()
	prepared := func(t *testing.T, polar *polartest.Polar, key polartest.LicenseKey) (path string, open func() *polargate.Gate) {
		folder := t.TempDir()
		open = func() *polargate.Gate {
			return openGate(t, polar, func(c *polargate.Config) { c.Store, c.Features = polargate.FileStore(folder), withExport(key) })
		}
		gate := open()
		_, err := gate.Activate(t.Context(), key.Key)
		require.NoError(t, err)
		require.NoError(t, gate.Close())
		return stateFile(t, folder), open
	}
	staged(t, "half-written by somebody without care", func(t *testing.T, polar *polartest.Polar, key polartest.LicenseKey) {
		path, open := prepared(t, polar, key)
		whole, err := os.ReadFile(path)
		require.NoError(t, err)
		for n := 0; n < len(whole); n += 1 + len(whole)/40 {
			require.NoError(t, os.WriteFile(path, whole[:n], 0o600))
			gate := open()
			assert.Equal(t, polargate.Unlicensed, gate.Status().State)
			assert.Equal(t, polargate.ErrUnreadableState, gate.Status().Reason, "%d bytes", n)
			_, err = gate.Check(t.Context())
			require.ErrorIs(t, err, polargate.ErrUnreadableState)
			require.NoError(t, gate.Close())
		}
		gate := open()
		_, err = gate.Activate(t.Context(), key.Key)
		require.NoError(t, err, "and the key can be entered again")
		assert.True(t, open().Has("export"))
	})
	staged(t, "half-written by us, which leaves the license alone", func(t *testing.T, polar *polartest.Polar, key polartest.LicenseKey) {
		path, open := prepared(t, polar, key)
		whole, err := os.ReadFile(path)
		require.NoError(t, err)
		for i := range 5 {
			require.NoError(t, os.WriteFile(fmt.Sprint(path, ".", i, ".tmp"), whole[:i*20], 0o600))
		}
		gate := open()
		assert.True(t, gate.Has("export"))
		_, err = gate.Refresh(t.Context())
		require.NoError(t, err)
		assert.True(t, open().Has("export"))
	})
	staged(t, "after a crash at any of its writes", func(t *testing.T, polar *polartest.Polar, key polartest.LicenseKey) {
		polar.Update(key.ID, func(k *polartest.LicenseKey) { k.LimitActivations = polartest.Limit(99) })
		for crash := range 4 {
			store := &polargate.MemoryStore{}
			writes := 0
			first := openGate(t, polar, func(c *polargate.Config) {
				c.Features, c.Store = withExport(key), onSave{store, func() error {
					if writes++; writes > crash {
						return errors.New("the power is off")
					}
					return nil
				}}
			})
			_, _ = first.Activate(t.Context(), key.Key)
			next := openGate(t, polar, func(c *polargate.Config) { c.Features, c.Store = withExport(key), store })
			_, _ = next.Check(t.Context())
			_, err := next.Activate(t.Context(), key.Key)
			require.NoError(t, err, "after %d writes", crash)
			assert.True(t, next.Has("export"))
			require.NoError(t, next.Deactivate(t.Context()))
		}
	})
	staged(t, "on a disk that is full, with a license", func(t *testing.T, polar *polartest.Polar, key polartest.LicenseKey) {
		store := &polargate.MemoryStore{}
		first := openGate(t, polar, func(c *polargate.Config) { c.Features, c.Store = withExport(key), store })
		_, err := first.Activate(t.Context(), key.Key)
		require.NoError(t, err)
		for range 5 {
			gate := openGate(t, polar, func(c *polargate.Config) {
				c.Features, c.Store = withExport(key), onSave{store, func() error { return errors.New("no space left on device") }}
			})
			time.Sleep(25 * time.Hour)
			status, err := gate.Check(t.Context())
			require.NoError(t, err)
			assert.Equal(t, polargate.Active, status.State)
			assert.True(t, status.Unsaved)
			assert.Contains(t, status.Message, polargate.Phrases()["note_unsaved"])
			require.NoError(t, gate.Close())
		}
	})
	for name, env := range map[string][]string{
		"without a home":                     {"HOME=", "XDG_CONFIG_HOME=", "AppData=", "LocalAppData=", "USERPROFILE="},
		"with a home that is nowhere":        {"HOME=/dev/null/nowhere", "XDG_CONFIG_HOME=/dev/null/nowhere", "AppData=NUL:\\nowhere", "LocalAppData=NUL:\\nowhere"},
		"with a home that cannot be written": {"HOME=/proc/self", "XDG_CONFIG_HOME=/proc/self/fdinfo", "AppData=NUL:\\", "LocalAppData=NUL:\\"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cmd := testprogram.Command(t, "starts-anywhere")
			cmd.Env = append(cmd.Env, env...)
			out, err := cmd.Output()
			require.NoError(t, err)
			assert.Equal(t, "unlicensed true 0", string(out), "it starts, and takes no seat that it could not keep")
		})
	}
	t.Run("while somebody else has the file open", func(t *testing.T) {
		t.Parallel()
		folder := t.TempDir()
		store := polargate.FileStore(folder)
		require.NoError(t, store.Save(t.Context(), "a", []byte("before")))
		scanner, err := os.Open(filepath.Join(folder, "a"))
		require.NoError(t, err)
		time.AfterFunc(50*time.Millisecond, func() { _ = scanner.Close() })
		require.NoError(t, store.Save(t.Context(), "a", []byte("after")), "on Windows the rename waits for it")
		data, err := store.Load(t.Context(), "a")
		require.NoError(t, err)
		assert.Equal(t, "after", string(data))
	})
}

// onSave is a store that asks before it saves.
type onSave struct {
	polargate.Store
	before func() error
}

func (s onSave) Save(ctx context.Context, name string, data []byte) error {
	if err := s.before(); err != nil {
		return err
	}
	return s.Store.Save(ctx, name, data)
}

// The check of the day was set for four in the afternoon, by a timer. The lid was
// closed at three and opened in the next month, and the timer had an hour to go.
func TestALidThatWasClosedIsNoticedWithinAMinute(t *testing.T) {
	t.Parallel()
	const aDay, aNap = 24 * time.Hour, time.Minute
	// asleep is a licensed program whose clock goes on while its timers stand.
	licensed := func(t *testing.T, polar *polartest.Polar, key polartest.LicenseKey, change func(*polargate.Config)) (gate *polargate.Gate, asleep func(time.Duration)) {
		clock := &wristwatch{}
		gate = openGate(t, polar, func(c *polargate.Config) {
			c.Clock, c.Features = clock.now, withExport(key)
			if change != nil {
				change(c)
			}
		})
		_, err := gate.Activate(t.Context(), key.Key)
		require.NoError(t, err)
		time.Sleep(time.Hour)
		return gate, func(d time.Duration) { clock.ahead.Add(int64(d)) }
	}
	staged(t, "the end of grace", func(t *testing.T, polar *polartest.Polar, key polartest.LicenseKey) {
		gate, asleep := licensed(t, polar, key, nil)
		polar.SetOffline(true)
		asleep(30 * aDay)
		time.Sleep(aNap)
		synctest.Wait()
		assert.False(t, gate.Has("export"), "though nobody called anything")
		assert.Equal(t, polargate.ErrGraceEnded, gate.Status().Reason)
	})
	staged(t, "the end of the key", func(t *testing.T, polar *polartest.Polar, key polartest.LicenseKey) {
		polar.Update(key.ID, func(k *polartest.LicenseKey) { k.ExpiresAt = time.Now().Add(3 * aDay) })
		gate, asleep := licensed(t, polar, key, nil)
		polar.SetOffline(true)
		asleep(4 * aDay)
		time.Sleep(aNap)
		synctest.Wait()
		assert.False(t, gate.Has("export"))
		assert.Equal(t, polargate.ErrExpired, gate.Status().Reason)
	})
	staged(t, "by a call, at once", func(t *testing.T, polar *polartest.Polar, key polartest.LicenseKey) {
		gate, asleep := licensed(t, polar, key, nil)
		polar.SetOffline(true)
		asleep(30 * aDay)
		_, err := gate.Check(t.Context())
		require.ErrorIs(t, err, polargate.ErrGraceEnded)
		assert.False(t, gate.Has("export"))
	})
	staged(t, "and told to OnChange", func(t *testing.T, polar *polartest.Polar, key polartest.LicenseKey) {
		var last atomic.Value
		gate, asleep := licensed(t, polar, key, func(c *polargate.Config) {
			c.OnChange = func(_, after polargate.Status) { last.Store(after.State) }
		})
		polar.SetOffline(true)
		asleep(2 * aDay)
		time.Sleep(aNap)
		synctest.Wait()
		assert.Equal(t, polargate.Grace, last.Load())
		assert.True(t, gate.Has("export"))
	})
	staged(t, "by Run, which asks", func(t *testing.T, polar *polartest.Polar, key polartest.LicenseKey) {
		gate, asleep := licensed(t, polar, key, nil)
		go func() { _ = gate.Run(t.Context()) }()
		time.Sleep(time.Hour)
		before := polar.Count("")
		asleep(30 * aDay)
		time.Sleep(aNap + time.Second)
		synctest.Wait()
		assert.Equal(t, before+1, polar.Count(""))
		assert.Equal(t, polargate.Active, gate.Status().State)
		assert.True(t, gate.Has("export"))
		require.NoError(t, gate.Close())
	})
	staged(t, "by Run, which had given up for a quarter of an hour", func(t *testing.T, polar *polartest.Polar, key polartest.LicenseKey) {
		gate, asleep := licensed(t, polar, key, nil)
		go func() { _ = gate.Run(t.Context()) }()
		polar.SetOffline(true)
		time.Sleep(28 * time.Hour)
		require.Equal(t, polargate.Grace, gate.Status().State)
		polar.SetOffline(false)
		asleep(2 * time.Hour)
		time.Sleep(aNap + time.Second)
		synctest.Wait()
		assert.Equal(t, polargate.Active, gate.Status().State)
		require.NoError(t, gate.Close())
	})
}
