package gate

import (
	"context"
	"net/http"
	"strings"
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

// wristwatch is a clock that can be set while timers go on, or stand still, by the
// bubble's.
type wristwatch struct {
	ahead atomic.Int64
	zone  atomic.Pointer[time.Location]
}

func (w *wristwatch) now() time.Time {
	now := time.Now().UTC().Add(time.Duration(w.ahead.Load()))
	if zone := w.zone.Load(); zone != nil {
		return now.In(zone)
	}
	return now
}

func (w *wristwatch) set(ahead time.Duration) { w.ahead.Store(int64(ahead)) }

// laptop is a program under Run on a computer with a clock of its own.
type laptop struct {
	t     *testing.T
	polar *polartest.Polar
	key   polartest.LicenseKey
	watch *wristwatch
	store *polargate.MemoryStore
	gate  *polargate.Gate
}

func newLaptop(t *testing.T) *laptop {
	t.Helper()
	polar := polartest.New(polartest.Config{OnBreach: func(_ polartest.Request, what string) { t.Error(what) }})
	c := &laptop{
		t: t, polar: polar, watch: &wristwatch{}, store: &polargate.MemoryStore{},
		key: polar.AddKey(polartest.LicenseKey{LimitActivations: polartest.Limit(1)}),
	}
	c.gate = c.open(nil)
	_, err := c.gate.Activate(t.Context(), c.key.Key)
	require.NoError(t, err)
	return c
}

func (c *laptop) open(change func(*polargate.Config)) *polargate.Gate {
	return openGate(c.t, c.polar, func(config *polargate.Config) {
		config.Store, config.Clock, config.Fingerprint = c.store, c.watch.now, "the computer"
		config.Features = map[string][]string{c.key.BenefitID: {"export"}}
		if change != nil {
			change(config)
		}
	})
}

// run starts Run, which ends with the test.
func (c *laptop) run() {
	ctx, cancel := context.WithCancel(c.t.Context())
	c.t.Cleanup(cancel)
	go func() { _ = c.gate.Run(ctx) }()
	synctest.Wait()
}

// sleep lets d pass for the world, while the timers of this computer stand
// still.
func (c *laptop) sleep(d time.Duration) {
	c.watch.set(time.Duration(c.watch.ahead.Load()) + d)
	c.polar.Advance(d)
}

func (c *laptop) within(limit time.Duration, so func() bool, what string) {
	c.t.Helper()
	for began := time.Now(); !so(); time.Sleep(time.Second) {
		require.LessOrEqual(c.t, time.Since(began), limit, what)
	}
}

// A minute, and what a question takes.
const aMinute = 65 * time.Second

func TestASleepOfDaysIsNoticedWithinAMinute(t *testing.T) {
	t.Parallel()
	const day = 24 * time.Hour
	for _, test := range []struct {
		name   string
		before func(*laptop)
		asleep time.Duration
		during func(*laptop)
		check  func(*testing.T, *laptop)
	}{
		{
			name: "a stale answer is renewed", asleep: 3 * day,
			check: func(t *testing.T, c *laptop) {
				c.within(aMinute, func() bool { return c.gate.Status().CheckedAt.After(c.watch.now().Add(-aMinute)) }, "asked")
				assert.Equal(t, polargate.Active, c.gate.Status().State)
			},
		},
		{
			name: "one past half of its freshness, too", asleep: 15 * time.Hour,
			check: func(t *testing.T, c *laptop) {
				c.within(aMinute, func() bool { return c.gate.Status().CheckedAt.After(c.watch.now().Add(-aMinute)) }, "asked")
			},
		},
		{
			name: "a fresh one is not", asleep: 8 * time.Hour,
			check: func(t *testing.T, c *laptop) {
				c.polar.ForgetRequests()
				time.Sleep(10 * time.Minute)
				assert.Zero(t, c.polar.Count(""))
			},
		},
		{
			name: "a license past its grace comes back at once", asleep: 30 * day,
			check: func(t *testing.T, c *laptop) {
				c.within(aMinute, func() bool { return c.gate.Status().CheckedAt.After(c.watch.now().Add(-aMinute)) }, "asked")
				assert.True(t, c.gate.Has("export"))
			},
		},
		{
			name: "without a network it ends, and comes back with it", asleep: 30 * day,
			during: func(c *laptop) { c.polar.SetOffline(true) },
			check: func(t *testing.T, c *laptop) {
				c.within(aMinute, func() bool { return !c.gate.Has("export") }, "grace is over")
				assert.Equal(t, polargate.ErrGraceEnded, c.gate.Status().Reason)
				c.polar.SetOffline(false)
				c.within(20*time.Second, func() bool { return c.gate.Has("export") }, "the network is back")
			},
		},
		{
			name: "an expiry that came meanwhile locks", asleep: 3 * day,
			before: func(c *laptop) {
				c.polar.Update(c.key.ID, func(k *polartest.LicenseKey) { k.ExpiresAt = c.polar.Now().Add(2 * day) })
				_, err := c.gate.Refresh(c.t.Context())
				require.NoError(c.t, err)
			},
			check: func(t *testing.T, c *laptop) {
				c.within(aMinute, func() bool { return c.gate.Status().Reason == polargate.ErrExpired }, "expired")
				assert.False(t, c.gate.Has("export"))
			},
		},
		{
			name: "the pauses of an outage are over", asleep: 8 * time.Hour,
			before: func(c *laptop) {
				c.polar.SetOffline(true)
				time.Sleep(25 * time.Hour) // pauses of a quarter of an hour by now
				require.Equal(c.t, polargate.Grace, c.gate.Status().State)
			},
			during: func(c *laptop) { c.polar.SetOffline(false) }, // another place, another network
			check: func(t *testing.T, c *laptop) {
				c.within(aMinute, func() bool { return c.gate.Status().State == polargate.Active }, "asked")
			},
		},
		{
			name: "and begin anew, for the network wakes later", asleep: 8 * time.Hour,
			before: func(c *laptop) {
				c.polar.SetOffline(true)
				time.Sleep(25 * time.Hour)
			},
			check: func(t *testing.T, c *laptop) {
				time.Sleep(aMinute)
				c.polar.SetOffline(false)
				c.within(aMinute, func() bool { return c.gate.Status().State == polargate.Active }, "the network is back")
			},
		},
		{
			name: "the pauses after refusals are over", asleep: 8 * time.Hour,
			before: func(c *laptop) {
				c.polar.Revoke(c.key.ID)
				_, err := c.gate.Refresh(c.t.Context())
				require.ErrorIs(c.t, err, polargate.ErrInactive)
				time.Sleep(6 * time.Hour) // pauses of an hour by now
			},
			during: func(c *laptop) { c.polar.Grant(c.key.ID) },
			check: func(t *testing.T, c *laptop) {
				c.within(aMinute, func() bool { return c.gate.Has("export") }, "asked")
			},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				c := newLaptop(t)
				c.run()
				time.Sleep(17 * time.Second)
				if test.before != nil {
					test.before(c)
				}
				if test.during != nil {
					test.during(c)
				}
				c.sleep(test.asleep)
				test.check(t, c)
				// And from then on all is as it was.
				c.polar.ForgetRequests()
				time.Sleep(4 * time.Hour)
				assert.LessOrEqual(t, c.polar.Count(""), 20)
			})
		})
	}
}

func TestAClockThatIsSetNeitherHammersNorPutsRunToSleep(t *testing.T) {
	t.Parallel()
	const year = 365 * 24 * time.Hour
	for name, set := range map[string]time.Duration{
		"back by years": -5 * year, "back by half an hour": -30 * time.Minute,
		"ahead by three hours": 3 * time.Hour, "ahead by years": 5 * year,
	} {
		t.Run(name+", and put right again", func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				c := newLaptop(t)
				c.run()
				time.Sleep(3 * time.Hour)
				for _, ahead := range []time.Duration{set, 0, set, 0} {
					c.polar.ForgetRequests()
					c.watch.set(ahead)
					time.Sleep(aMinute)
					assert.Equal(t, polargate.Active, c.gate.Status().State, "online, a wrong clock locks nobody out for more than a minute")
					time.Sleep(time.Hour)
					assert.LessOrEqual(t, c.polar.Count(""), 4, "questions in an hour")
				}
				c.polar.ForgetRequests()
				for range 16 {
					time.Sleep(time.Hour)
					require.True(t, c.gate.Has("export"))
				}
				assert.GreaterOrEqual(t, c.polar.Count(""), 1, "it goes on asking")
				assert.LessOrEqual(t, c.polar.Count(""), 4)
			})
		})
		t.Run(name+", and put right again, all of it offline", func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				c := newLaptop(t)
				c.run()
				time.Sleep(3 * time.Hour)
				c.polar.SetOffline(true)
				c.watch.set(set)
				time.Sleep(6 * time.Hour)
				c.watch.set(0)
				time.Sleep(time.Hour)
				c.polar.SetOffline(false)
				// Within the longest pause of an outage, and sooner if it does
				// not wait for anything.
				c.within(25*time.Minute, func() bool { return c.gate.Status().State == polargate.Active }, "it is back")
				c.polar.ForgetRequests()
				time.Sleep(16 * time.Hour)
				assert.GreaterOrEqual(t, c.polar.Count(""), 1, "it goes on asking")
				assert.LessOrEqual(t, c.polar.Count(""), 4)
			})
		})
	}
	t.Run("to and fro, every hour", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			c := newLaptop(t)
			c.run()
			c.polar.ForgetRequests()
			for i := range 24 {
				c.watch.set(time.Duration(i%3) * 2 * time.Hour)
				time.Sleep(time.Hour)
			}
			assert.LessOrEqual(t, c.polar.Count(""), 60)
			assert.Equal(t, polargate.Active, c.gate.Status().State)
		})
	})
	t.Run("with two processes on one store", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			c := newLaptop(t)
			c.run()
			other := &laptop{t: t, polar: c.polar, key: c.key, watch: c.watch, store: c.store, gate: c.open(nil)}
			other.run()
			time.Sleep(3 * time.Hour)
			for _, ahead := range []time.Duration{5 * year, 0, -5 * year, 0} {
				c.polar.ForgetRequests()
				c.watch.set(ahead)
				time.Sleep(3 * aMinute)
				assert.Equal(t, polargate.Active, c.gate.Status().State)
				assert.Equal(t, polargate.Active, other.gate.Status().State)
				time.Sleep(3 * time.Hour)
				assert.LessOrEqual(t, c.polar.Count(""), 8)
			}
		})
	})
}

func init() { programs["renew-and-panic"] = programRenewsAndPanics }

// programRenewsAndPanics is a program whose transport panics while its license is
// renewed behind its back, where no caller could catch that.
func programRenewsAndPanics([]string) error {
	polar := polartest.New(polartest.Config{})
	key := polar.AddKey(polartest.LicenseKey{LimitActivations: polartest.Limit(1)})
	var panics atomic.Bool
	watch := &wristwatch{}
	gate, err := polargate.Open(polargate.Config{
		OrganizationID: polar.OrganizationID(), App: "inkwell", BaseURL: polar.URL(), Store: &polargate.MemoryStore{}, Fingerprint: "the computer", Clock: watch.now,
		HTTPClient: &http.Client{Transport: kit.RoundTripper(func(r *http.Request) (*http.Response, error) {
			if panics.Load() {
				panic("transport")
			}
			return polar.Transport().RoundTrip(r)
		})},
	})
	if err != nil {
		return err
	}
	ctx := context.Background()
	if _, err := gate.Activate(ctx, key.Key); err != nil {
		return err
	}
	watch.set(13 * time.Hour)
	polar.Advance(13 * time.Hour)
	panics.Store(true)
	if _, err := gate.Check(ctx); err != nil {
		return err
	}
	return gate.Close() // waits for the renewal
}

func TestAPanicInTheBackgroundDoesNotEndTheProgram(t *testing.T) {
	t.Parallel()
	cmd := testprogram.Command(t, "renew-and-panic")
	cmd.Stderr = nil
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%.300s", out)
}

func TestADiagnosisTellsAWrongClock(t *testing.T) {
	t.Parallel()
	const day = 24 * time.Hour
	for name, test := range map[string]struct {
		ahead   time.Duration
		shows   string
		problem bool
	}{
		"right":                        {0, "right", false},
		"right but for a second":       {time.Second, "right", false},
		"behind, as clocks are":        {-4 * time.Minute, "4 minutes behind", false},
		"ahead, as clocks are":         {4 * time.Minute, "4 minutes ahead", false},
		"in another zone by hand":      {2 * time.Hour, "2 hours ahead", true},
		"days ahead":                   {3 * day, "3 days ahead", true},
		"days behind":                  {-3 * day, "3 days behind", true},
		"years behind":                 {-20 * 365 * day, "7300 days behind", true},
		"years ahead":                  {20 * 365 * day, "7300 days ahead", true},
		"at the beginning of all time": {-30 * 365 * day, "10950 days behind", true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				c := newLaptop(t)
				c.watch.set(test.ahead)
				d := c.gate.Diagnose(t.Context())
				assert.True(t, d.Reached)
				assert.Equal(t, test.ahead, d.ClockAhead)
				assert.Contains(t, d.String(), "\nclock        ")
				assert.Contains(t, d.String(), test.shows)
				assert.Equal(t, test.problem, strings.Contains(strings.Join(d.Problems, "\n"), "clock is "+test.shows), "%v", d.Problems)
				assert.Equal(t, c.watch.now(), d.At)
				c.watch.set(0)
				assert.Equal(t, polargate.Active, c.gate.Status().State)
			})
		})
	}
	for name, test := range map[string]struct {
		reached bool
		change  func(*http.Response)
	}{
		"but not where nobody knows the time": {true, func(r *http.Response) { r.Header.Del("Date") }},
		"nor by a date that is none":          {true, func(r *http.Response) { r.Header.Set("Date", "the day after tomorrow") }},
		"nor by the clock of a login page": {false, func(r *http.Response) {
			r.Header.Set("Date", "Thu, 01 Jan 1970 00:00:00 GMT")
			r.Header.Set("Content-Type", "text/html")
			r.Body = http.NoBody
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				c := newLaptop(t)
				c.watch.set(3 * day)
				gate := c.open(func(config *polargate.Config) {
					config.HTTPClient = &http.Client{Transport: kit.RoundTripper(func(r *http.Request) (*http.Response, error) {
						resp, err := c.polar.Transport().RoundTrip(r)
						if err == nil {
							test.change(resp)
						}
						return resp, err
					})}
				})
				d := gate.Diagnose(t.Context())
				assert.Equal(t, test.reached, d.Reached)
				assert.Zero(t, d.ClockAhead)
				assert.NotContains(t, strings.Join(d.Problems, "\n"), "This computer's clock is")
				assert.NotContains(t, d.String(), "ahead")
			})
		})
	}
}
