package polargate

import (
	"context"
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"net/http"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/polargate/polargate/polartest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/time/rate"
)

// jitterTransport delays each request on its way there and back by up to max.
type jitterTransport struct {
	to  http.RoundTripper
	max time.Duration
	mu  *sync.Mutex
	rng *rand.Rand
}

func withJitter(to http.RoundTripper, longest time.Duration, seed uint64) jitterTransport {
	return jitterTransport{to, longest, &sync.Mutex{}, rand.New(rand.NewPCG(seed, seed))}
}

func (j jitterTransport) delay() time.Duration {
	if j.max == 0 {
		return 0
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	return time.Duration(j.rng.Int64N(int64(j.max)))
}

func (j jitterTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	time.Sleep(j.delay())
	resp, err := j.to.RoundTrip(r)
	time.Sleep(j.delay())
	return resp, err
}

func testClient(t *testing.T, polar *polartest.Polar, transport http.RoundTripper) *Client {
	t.Helper()
	client, err := NewClient(ClientConfig{
		OrganizationID: polar.OrganizationID(),
		BaseURL:        polar.URL(),
		HTTPClient:     &http.Client{Transport: transport},
	})
	require.NoError(t, err)
	return client
}

func countStatus(polar *polartest.Polar, status int) int {
	n := 0
	for _, r := range polar.Requests() {
		if r.Status == status {
			n++
		}
	}
	return n
}

func TestThePacerIsNeverRefusedWhateverTheNetworkDelays(t *testing.T) {
	t.Parallel()
	for name, longest := range map[string]time.Duration{
		"no delay":       0,
		"a fast network": 50 * time.Millisecond,
		"a slow one":     800 * time.Millisecond,
		"a wild one":     4 * time.Second,
	} {
		for seed := range uint64(5) {
			synctest.Test(t, func(t *testing.T) {
				polar := polartest.New(polartest.Config{})
				key := polar.AddKey(polartest.LicenseKey{})
				k, err := ParseKey(key.Key)
				require.NoError(t, err)
				// Two clients: the limit counts the address, not the client.
				clients := []*Client{
					testClient(t, polar, withJitter(polar.Transport(), longest, seed)),
					testClient(t, polar, withJitter(polar.Transport(), longest, seed+100)),
				}
				const calls = 60
				began := time.Now()
				var group sync.WaitGroup
				for i := range calls {
					group.Go(func() {
						_, err := clients[i%2].Validate(context.Background(), ValidateRequest{Key: k})
						assert.NoError(t, err, name)
					})
				}
				group.Wait()
				assert.Equal(t, calls, countStatus(polar, 200), name)
				assert.Zero(t, countStatus(polar, 429), name)
				if longest == 0 {
					// 60 calls by three permits in turn: 19 rests, and no more.
					assert.Equal(t, 19*rest, time.Since(began))
				}
			})
		}
	}
}

// bucketTransport paces with a token bucket, as one would at first thought.
type bucketTransport struct {
	to      http.RoundTripper
	limiter *rate.Limiter
}

func (b bucketTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	if err := b.limiter.Wait(r.Context()); err != nil {
		return nil, err
	}
	return b.to.RoundTrip(r)
}

func TestATokenBucketOfThreeWouldBeBlockedWithinASecond(t *testing.T) {
	t.Parallel()
	for name, limiter := range map[string]*rate.Limiter{
		"rate 3 burst 3": rate.NewLimiter(3, 3),
		"rate 3 burst 1": rate.NewLimiter(3, 1),
	} {
		synctest.Test(t, func(t *testing.T) {
			polar := polartest.New(polartest.Config{})
			key := polar.AddKey(polartest.LicenseKey{})
			// Plain HTTP, as the pacer is what is being compared with.
			client := &http.Client{Transport: bucketTransport{withJitter(polar.Transport(), 200*time.Millisecond, 1), limiter}}
			began := time.Now()
			refused := atomic.Int64{}
			refused.Store(-1)
			var group sync.WaitGroup
			for range 12 {
				group.Go(func() {
					resp, err := client.Post(polar.URL()+"/v1/customer-portal/license-keys/validate", "application/json",
						jsonBody(t, map[string]any{"key": key.Key, "organization_id": polar.OrganizationID()}))
					if assert.NoError(t, err) {
						resp.Body.Close()
						if resp.StatusCode == 429 {
							refused.CompareAndSwap(-1, int64(time.Since(began)))
						}
					}
				})
			}
			group.Wait()
			assert.NotZero(t, countStatus(polar, 429), name)
			if name == "rate 3 burst 3" {
				assert.Less(t, time.Duration(refused.Load()), time.Second, name)
			}
		})
	}
}

func TestAfterA429NobodyAsksBeforeThePauseIsOver(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		polar := polartest.New(polartest.Config{})
		key := polar.AddKey(polartest.LicenseKey{})
		k, err := ParseKey(key.Key)
		require.NoError(t, err)
		client, other := testClient(t, polar, polar.Transport()), testClient(t, polar, polar.Transport())
		polar.Inject(polartest.Fault{Times: 1, Effect: polartest.RateLimited("42")})

		_, err = client.Validate(context.Background(), ValidateRequest{Key: k})
		var failed *Error
		require.ErrorAs(t, err, &failed)
		assert.Equal(t, ErrRateLimited, failed.Reason)
		assert.Equal(t, 42*time.Second, failed.RetryAfter)
		assert.Contains(t, err.Error(), "Try again in 42s")
		assert.Equal(t, 1, polar.Count("/validate"), "a 429 is not retried")

		time.Sleep(41 * time.Second)
		before := time.Now()
		_, err = other.Validate(context.Background(), ValidateRequest{Key: k})
		require.ErrorAs(t, err, &failed)
		assert.Equal(t, ErrRateLimited, failed.Reason)
		assert.Equal(t, time.Second, failed.RetryAfter)
		assert.Equal(t, before, time.Now(), "the pause is reported, not slept through")
		assert.Equal(t, 1, polar.Count("/validate"))

		time.Sleep(time.Second)
		_, err = other.Validate(context.Background(), ValidateRequest{Key: k})
		require.NoError(t, err)
	})
}

func TestRetryAfterIsReadInBothFormsAndCapped(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	for header, want := range map[string]time.Duration{
		"":                              time.Minute,
		"3":                             3 * time.Second,
		" 60 ":                          time.Minute,
		"0":                             time.Second,
		"-5":                            defaultPause,
		"soon":                          defaultPause,
		"999999999":                     maxPause,
		"99999999999999999999":          defaultPause,
		"Sun, 22 Nov 2026 12:01:30 GMT": 90 * time.Second,
		"Sun, 22 Nov 2020 12:01:30 GMT": time.Second,
		"Sun, 22 Nov 2099 12:01:30 GMT": maxPause,
	} {
		assert.Equal(t, want, retryAfter(header, now), "%q", header)
	}
}

func TestAWaitThatTheDeadlineForbidsFailsAtOnceAndIsNoOutage(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := &pacer{}
		for range permits {
			done, err := p.start(context.Background())
			require.NoError(t, err)
			done(outcomeAnswered)
		}
		ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
		defer cancel()
		before := time.Now()
		_, err := p.start(ctx)
		require.ErrorIs(t, err, ErrRateLimited)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.NotErrorIs(t, err, ErrUnreachable)
		var failed *Error
		require.ErrorAs(t, err, &failed)
		assert.Equal(t, rest, failed.RetryAfter)
		assert.Equal(t, before, time.Now())
	})
}

func TestAWaiterThatGivesUpLeavesItsPlaceToTheNext(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := &pacer{}
		var held []func(outcome)
		for range permits {
			done, err := p.start(context.Background())
			require.NoError(t, err)
			held = append(held, done)
		}
		ctx, cancel := context.WithCancel(context.Background())
		gone := make(chan error, 1)
		go func() { _, err := p.start(ctx); gone <- err }()
		synctest.Wait()
		served := make(chan time.Time, 1)
		go func() {
			done, err := p.start(context.Background())
			assert.NoError(t, err)
			done(outcomeUnsent)
			served <- time.Now()
		}()
		synctest.Wait()
		cancel()
		err := <-gone
		require.ErrorIs(t, err, context.Canceled)
		require.ErrorIs(t, err, ErrRateLimited)

		began := time.Now()
		held[1](outcomeAnswered)
		assert.Equal(t, rest, (<-served).Sub(began))
		assert.Empty(t, p.queue)
	})
}

// exhausted is a pacer all of whose permits are in use.
func exhausted(t *testing.T) (p *pacer, finish func(outcome)) {
	t.Helper()
	p = &pacer{}
	var held []func(outcome)
	for range permits {
		done, err := p.start(context.Background())
		require.NoError(t, err)
		held = append(held, done)
	}
	return p, func(o outcome) {
		for _, done := range held {
			done(o)
		}
	}
}

func TestWhoWaitsIsServedInTheOrderOfArrival(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p, finish := exhausted(t)
		served := make(chan int, 10)
		for i := range 10 {
			go func() {
				done, err := p.start(context.Background())
				assert.NoError(t, err)
				served <- i
				done(outcomeAnswered)
			}()
			synctest.Wait()
		}
		finish(outcomeAnswered)
		for i := range 10 {
			assert.Equal(t, i, <-served)
			synctest.Wait()
		}
	})
}

func TestWhoWaitsBehindSomebodyWhoGivesUpIsServedInTime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p, finish := exhausted(t)
		finish(outcomeAnswered)
		began := time.Now()
		ctx, cancel := context.WithCancel(context.Background())
		gone, served := make(chan error, 1), make(chan error, 1)
		go func() { _, err := p.start(ctx); gone <- err }()
		synctest.Wait()
		go func() { _, err := p.start(context.Background()); served <- err }()
		synctest.Wait()
		cancel()
		require.ErrorIs(t, <-gone, context.Canceled)
		require.NoError(t, <-served)
		assert.Equal(t, rest, time.Since(began))
	})
}

func TestAClockThatWasFarAheadSilencesNobody(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		far := time.Now().Add(1000 * time.Hour)
		p := &pacer{paused: far}
		for i := range p.own {
			p.own[i].ready = far
		}
		m := newMinuteLimit(300)
		m.paused = far
		for _, limit := range []pacing{p, m} {
			_, err := limit.start(context.Background())
			require.NoError(t, err)
		}
		assert.Zero(t, p.pausing())
		assert.Zero(t, m.pauseLeft())
	})
}

func TestAPermitRestsByHowItsRequestEnded(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		how  string
		o    outcome
		rest time.Duration
	}{
		{"an answer came", outcomeAnswered, rest},
		{"it never left", outcomeUnsent, 0},
		{"it timed out, and may arrive late", outcomeLost, lostRest},
	} {
		synctest.Test(t, func(t *testing.T) {
			p := &pacer{}
			var done []func(outcome)
			for range permits {
				d, err := p.start(context.Background())
				require.NoError(t, err)
				done = append(done, d)
			}
			for _, d := range done {
				d(test.o)
			}
			began := time.Now()
			_, err := p.start(context.Background())
			require.NoError(t, err)
			assert.Equal(t, test.rest, time.Since(began), test.how)
		})
	}
}

func TestTheSoonestPermitIsUsedFirst(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := &pacer{}
		var done []func(outcome)
		for range permits {
			d, err := p.start(context.Background())
			require.NoError(t, err)
			done = append(done, d)
		}
		done[0](outcomeLost)
		done[1](outcomeLost)
		done[2](outcomeAnswered)
		began := time.Now()
		_, err := p.start(context.Background())
		require.NoError(t, err)
		assert.Equal(t, rest, time.Since(began))
	})
}

func TestRequestsInTheOutageOfATimeoutRestLonger(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		polar := polartest.New(polartest.Config{})
		key := polar.AddKey(polartest.LicenseKey{})
		k, err := ParseKey(key.Key)
		require.NoError(t, err)
		client := testClient(t, polar, polar.Transport())
		polar.Inject(polartest.Fault{Effect: polartest.Hang()})
		for range permits {
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			_, err := client.Validate(ctx, ValidateRequest{Key: k})
			require.ErrorIs(t, err, ErrUnreachable)
			require.ErrorIs(t, err, context.DeadlineExceeded)
			cancel()
		}
		polar.ClearFaults()
		// The first of the three was lost two seconds ago.
		began := time.Now()
		_, err = client.Validate(context.Background(), ValidateRequest{Key: k})
		require.NoError(t, err)
		assert.Equal(t, lostRest-2*time.Second, time.Since(began))
	})
}

func TestClientsOfOneServerShareAPacerAndOthersDoNot(t *testing.T) {
	t.Parallel()
	assert.Same(t, publicPacer("http://one.example.test"), publicPacer("http://ONE.example.test/polar"))
	assert.Same(t, publicPacer("https://api.example.test"), publicPacer("https://api.example.test.:443"))
	assert.NotSame(t, publicPacer("http://one.example.test"), publicPacer("http://two.example.test"))
	one := tokenLimit("https://api.example.test", "one", 0, 300)
	assert.Same(t, one, tokenLimit("https://api.example.test", "one", 0, 300))
	assert.Same(t, one, tokenLimit("https://API.example.test:443/", "one", 0, 300), "the same server")
	assert.NotSame(t, one, tokenLimit("https://api.example.test", "two", 0, 300))
	assert.NotSame(t, one, tokenLimit("https://other.example.test", "one", 0, 300))
}

func TestOfSeveralAllowancesOfATokenTheLastThatWasSetCounts(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		set  []int
		want int
	}{
		"none":               {[]int{0, 0}, 300},
		"less":               {[]int{0, 60}, 60},
		"less, and none":     {[]int{60, 0}, 60},
		"less, and more":     {[]int{60, 200}, 200},
		"more, and less":     {[]int{1200, 60, 0}, 60},
		"the default, again": {[]int{60, 300}, 300},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				var m *minuteLimit
				for _, perMinute := range c.set {
					m = tokenLimit("https://api.example.test", t.Name(), perMinute, 300)
				}
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute-1)
				defer cancel()
				n := 0
				for ; ; n++ {
					if _, err := m.start(ctx); err != nil {
						break
					}
				}
				assert.LessOrEqual(t, n, c.want)
				assert.Greater(t, n, c.want*4/5)
			})
		})
	}
}

func TestWhoWaitsForATokensLimitIsLetThroughInOrder(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := newMinuteLimit(60)
		for m.limiter.Allow() {
		}
		order := make(chan int, 20)
		for i := range cap(order) {
			go func() {
				_, err := m.start(t.Context())
				assert.NoError(t, err)
				order <- i
			}()
			time.Sleep(time.Millisecond)
		}
		began := time.Now()
		for i := range cap(order) {
			assert.Equal(t, i, <-order)
		}
		assert.InDelta(t, 20/0.8, time.Since(began).Seconds(), 0.1, "and as soon as can be")

		// The first gives up before its turn, and the next has not noticed yet.
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(1210*time.Millisecond, cancel)
		go func() { _, _ = m.start(ctx) }()
		for i := range 2 {
			time.Sleep(time.Duration(1+i*1270) * time.Millisecond)
			go func() {
				_, err := m.start(t.Context())
				assert.NoError(t, err)
				order <- i
			}()
		}
		assert.Equal(t, 0, <-order)
		assert.Equal(t, 1, <-order)
	})
}

func TestATokensLimitHoldsForThoseWhoComeAndGoAtRandom(t *testing.T) {
	t.Parallel()
	for seed := range uint64(15) {
		synctest.Test(t, func(t *testing.T) {
			rnd := rand.New(rand.NewPCG(seed, 7))
			perMinute := 5 + rnd.IntN(300)
			m := newMinuteLimit(perMinute)
			type passage struct {
				who int
				at  time.Time
			}
			var mu sync.Mutex
			var passed []passage
			var group sync.WaitGroup
			for who := range 400 {
				ctx, leave := context.WithCancel(t.Context())
				switch who % 4 {
				case 0:
					ctx, leave = context.WithTimeout(t.Context(), time.Duration(rnd.IntN(9000))*time.Millisecond)
				case 1:
					time.AfterFunc(time.Duration(rnd.IntN(7000))*time.Millisecond, leave)
				}
				group.Go(func() {
					defer leave()
					_, err := m.start(ctx)
					mu.Lock()
					defer mu.Unlock()
					if err == nil {
						passed = append(passed, passage{who, time.Now()})
					} else {
						assert.Less(t, who%4, 2, "the patient are let through")
					}
				})
				time.Sleep(time.Duration(1+rnd.IntN(400)) * time.Millisecond)
			}
			group.Wait()
			for i, p := range passed {
				minute := 0
				for _, later := range passed[i:] {
					if later.at.Sub(p.at) < time.Minute {
						minute++
					}
					assert.False(t, later.who < p.who && later.at.After(p.at), "seed %d: %d before %d", seed, p.who, later.who)
				}
				assert.LessOrEqual(t, minute, perMinute, "seed %d", seed)
			}
			assert.Empty(t, m.line)
		})
	}
}

func TestWhoIsLeftInALineDoesNotWaitForThoseWhoHaveGone(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := newMinuteLimit(300)
		for m.limiter.Allow() {
		}
		ctx, leave := context.WithCancel(t.Context())
		for range 30 {
			go func() { _, _ = m.start(ctx) }()
			time.Sleep(time.Microsecond)
		}
		began := time.Now()
		time.AfterFunc(100*time.Millisecond, leave)
		_, err := m.start(t.Context())
		require.NoError(t, err)
		assert.LessOrEqual(t, time.Since(began), 400*time.Millisecond, "four a second are let through")
	})
}

func TestWhoGivesUpWaitingForATokensLimitLeavesNoDebt(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := newMinuteLimit(300)
		for m.limiter.Allow() {
		}
		var group sync.WaitGroup
		for range 200 { // requests of which nobody waits for the answer
			ctx, cancel := context.WithCancel(t.Context())
			time.AfterFunc(time.Second, cancel)
			group.Go(func() { _, _ = m.start(ctx) })
			time.Sleep(time.Millisecond)
		}
		group.Wait()
		began := time.Now()
		_, err := m.start(t.Context())
		require.NoError(t, err)
		assert.LessOrEqual(t, time.Since(began), time.Second/4)
		assert.Empty(t, m.line)
	})
}

func TestWhoHasGivenUpAlreadyTakesNothingOfALimit(t *testing.T) {
	t.Parallel()
	customers := offlineCustomers(t)
	m := customers.client.pace.(*minuteLimit)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	before := m.limiter.Tokens()
	for range 20 {
		_, err := customers.client.customerState(ctx, ExternalID("usr_1"), testOrganization, nil, nil)
		require.ErrorIs(t, err, context.Canceled)
	}
	assert.GreaterOrEqual(t, m.limiter.Tokens(), before)
}

func TestAMinuteOfATokenNeverSeesMoreThanItsAllowance(t *testing.T) {
	t.Parallel()
	for _, perMinute := range []int{1, 5, 60, 300} {
		synctest.Test(t, func(t *testing.T) {
			m := newMinuteLimit(perMinute)
			ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
			defer cancel()
			var at []time.Time
			for {
				done, err := m.start(ctx)
				if err != nil {
					require.ErrorIs(t, err, ErrRateLimited)
					break
				}
				at = append(at, time.Now())
				done(outcomeAnswered)
			}
			most := 0
			for i := range at {
				n := 0
				for _, other := range at[i:] {
					if other.Sub(at[i]) < time.Minute {
						n++
					}
				}
				most = max(most, n)
			}
			assert.LessOrEqual(t, most, perMinute)
			assert.GreaterOrEqual(t, len(at), 3*perMinute, "five minutes' worth, less the burst kept back")
		})
	}
}

func TestATokensLimitFailsAtOnceWhenTheDeadlineIsNearer(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := newMinuteLimit(1)
		_, err := m.start(context.Background())
		require.NoError(t, err)
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		before := time.Now()
		_, err = m.start(ctx)
		require.ErrorIs(t, err, ErrRateLimited)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		assert.Equal(t, before, time.Now())

		m.pauseFor(10 * time.Second)
		var failed *Error
		_, err = m.start(context.Background())
		require.ErrorAs(t, err, &failed)
		assert.Equal(t, 10*time.Second, failed.RetryAfter)
		assert.Equal(t, before, time.Now(), "nor does it wait first to say so")
	})
}

func TestTheSandboxIsAskedLessOften(t *testing.T) {
	t.Parallel()
	assert.Equal(t, 100, defaultPerMinute(Sandbox, ""))
	assert.Equal(t, 300, defaultPerMinute(Production, ""))
	assert.Equal(t, 300, defaultPerMinute("", ""))
	assert.Equal(t, 300, defaultPerMinute(Sandbox, "https://polar.example.com"), "a server of one's own")
}

func TestAPauseReachesThoseWhoAreWaitingAlready(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := newMinuteLimit(1)
		_, err := m.start(context.Background())
		require.NoError(t, err)
		waited := make(chan error, 1)
		go func() { _, err := m.start(context.Background()); waited <- err }()
		synctest.Wait()
		m.pauseFor(10 * time.Minute)
		require.ErrorIs(t, <-waited, ErrRateLimited)
	})
}

func TestAPauseReachesAllWhoWaitForAPermitAtOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p, _ := exhausted(t)
		waited := make(chan error, 3)
		for range 3 {
			go func() { _, err := p.start(context.Background()); waited <- err }()
		}
		synctest.Wait()
		began := time.Now()
		p.pauseFor(20 * time.Second)
		for range 3 {
			require.ErrorIs(t, <-waited, ErrRateLimited)
		}
		assert.Zero(t, time.Since(began))
	})
}

func TestAShorterPauseDoesNotCutALongerOneShort(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p, m := &pacer{}, newMinuteLimit(300)
		for _, limit := range []pacing{p, m} {
			limit.pauseFor(time.Minute)
			limit.pauseFor(time.Second)
			time.Sleep(2 * time.Second)
			var failed *Error
			_, err := limit.start(context.Background())
			require.ErrorAs(t, err, &failed)
			assert.Equal(t, 58*time.Second, failed.RetryAfter)
			time.Sleep(58 * time.Second)
			done, err := limit.start(context.Background())
			require.NoError(t, err)
			done(outcomeAnswered)
		}
	})
}

// limitsOf counts the limits that are kept for these tokens.
func limitsOf(tokens ...string) (n int) {
	tokenLimits.Lock()
	defer tokenLimits.Unlock()
	for _, token := range tokens {
		if _, ok := tokenLimits.inUse[sha256.Sum256([]byte("polar.test:80\x00"+token))]; ok {
			n++
		}
	}
	return n
}

func TestNothingOfATokenIsKeptAfterItsLastClientIsClosed(t *testing.T) {
	t.Parallel()
	var tokens []string
	synctest.Test(t, func(t *testing.T) {
		for i := range 500 {
			token := fmt.Sprintf("polar_oat_kept_%d_%d", i, rand.Uint64())
			tokens = append(tokens, token)
			client, err := NewClient(ClientConfig{OrganizationID: testOrganization, AccessToken: token, BaseURL: "http://polar.test"})
			require.NoError(t, err)
			if i%2 == 0 { // has asked
				_, err := client.pace.start(t.Context())
				require.NoError(t, err)
			}
			if i%50 == 0 { // was asked for a pause
				client.pace.pauseFor(5 * time.Minute)
			}
			client.Close()
		}
		time.Sleep(5*time.Minute + time.Second) // and as good as new again
	})
	assert.Eventually(t, func() bool {
		runtime.GC()
		return limitsOf(tokens...) == 0
	}, time.Minute, time.Millisecond)
}

func TestALimitIsKeptWhileAnotherClientHasItsToken(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		config := ClientConfig{OrganizationID: testOrganization, AccessToken: fmt.Sprint("polar_oat_shared_", rand.Uint64()), BaseURL: "http://polar.test"}
		open := func() *Client {
			client, err := NewClient(config)
			require.NoError(t, err)
			return client
		}
		one, other := open(), open()
		one.pace.pauseFor(10 * time.Minute)
		one.Close()
		runtime.GC()
		assert.Same(t, one.pace, other.pace)
		_, err := open().pace.start(t.Context())
		require.ErrorIs(t, err, ErrRateLimited, "the pause is everybody's")
		other.Close()
	})
}

func TestWhoClosesAClientAndMakesAnotherGetsNoSecondAllowance(t *testing.T) {
	t.Parallel()
	for name, spend := range map[string]func(t *testing.T, client *Client){
		"of requests": func(t *testing.T, client *Client) {
			for client.pace.(*minuteLimit).limiter.Tokens() >= 1 {
				_, err := client.pace.start(t.Context())
				require.NoError(t, err)
			}
		},
		"during a pause": func(_ *testing.T, client *Client) { client.pace.pauseFor(2 * time.Minute) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				config := ClientConfig{OrganizationID: testOrganization, AccessToken: fmt.Sprint("polar_oat_again_", rand.Uint64()), BaseURL: "http://polar.test"}
				client, err := NewClient(config)
				require.NoError(t, err)
				spend(t, client)
				client.Close()
				client = nil
				for range 3 {
					runtime.GC()
				}
				client, err = NewClient(config)
				require.NoError(t, err)
				ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
				defer cancel()
				_, err = client.pace.start(ctx)
				require.ErrorIs(t, err, ErrRateLimited)
			})
		})
	}
}
