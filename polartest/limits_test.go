package polartest_test

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/polargate/polargate/polartest"
)

const portalPath = "/v1/customer-portal/license-keys/"

// reply is the head of an answer.
type reply struct {
	StatusCode    int
	Header        http.Header
	ContentLength int64
}

func answered(r *http.Response) reply { return reply{r.StatusCode, r.Header, r.ContentLength} }

// ask sends a request in process and gives the answer.
func ask(t *testing.T, client *http.Client, method, path, token, body string) (reply, string) {
	t.Helper()
	return askAt(t, client, "https://api.polar.sh", method, path, token, body)
}

func askAt(t *testing.T, client *http.Client, base, method, path, token, body string) (reply, string) {
	t.Helper()
	var reader io.Reader
	if body != "" {
		reader = strings.NewReader(body)
	}
	r, err := http.NewRequestWithContext(t.Context(), method, base+path, reader)
	require.NoError(t, err)
	r.Header.Set("Content-Type", "application/json")
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	response, err := client.Do(r)
	require.NoError(t, err)
	defer func() { _ = response.Body.Close() }()
	text, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	return answered(response), string(text)
}

// asking is the body of a request about a key; more is further fields, with a comma in front.
func asking(k polartest.LicenseKey, more string) string {
	return fmt.Sprintf(`{"key":%q,"organization_id":%q%s}`, k.Key, k.OrganizationID, more)
}

func TestAFourthRequestWithinTheSecondBlocksItsAddressOnEveryPathForAMinute(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := polartest.New(polartest.Config{})
		k := p.AddKey(polartest.LicenseKey{LimitActivations: polartest.Limit(3)})
		token := p.AddToken(polartest.Token{})
		client := p.Client()
		validate := func(token string) reply {
			response, _ := ask(t, client, "POST", portalPath+"validate", token, asking(k, ""))
			return response
		}

		for range 3 {
			assert.Equal(t, 200, validate("").StatusCode)
			time.Sleep(300 * time.Millisecond)
		}
		time.Sleep(100*time.Millisecond - time.Nanosecond) // still in the second that the first one opened
		refused := validate("")
		assert.Equal(t, 429, refused.StatusCode)
		assert.Equal(t, "60", refused.Header.Get("Retry-After"))
		assert.NotContains(t, refused.Header, "Content-Type")
		assert.Zero(t, refused.ContentLength)

		time.Sleep(20500 * time.Millisecond)
		for _, path := range []string{portalPath + "activate", "/v1/license-keys/", "/v1/whatever", "/api/v1/license-keys/"} {
			response, body := ask(t, client, "POST", path, "", "{}")
			assert.Equal(t, 429, response.StatusCode, path)
			assert.Equal(t, "40", response.Header.Get("Retry-After"), path)
			assert.Empty(t, body)
		}
		response, _ := ask(t, client, "GET", "/elsewhere", "", "")
		assert.Equal(t, 404, response.StatusCode, "only /v1 is limited")
		assert.Equal(t, 200, validate(token).StatusCode, "a valid token passes while its address is blocked")

		time.Sleep(39500*time.Millisecond - time.Nanosecond)
		assert.Equal(t, "1", validate("").Header.Get("Retry-After"), "asking while blocked does not extend it")
		time.Sleep(time.Nanosecond)
		assert.Equal(t, 200, validate("").StatusCode)
		assert.Equal(t, 1, p.Seats(k.ID)+1, "nobody got a seat while blocked")
	})
}

func TestWithATokenTheOrganizationIsLimitedAndNotTheAddress(t *testing.T) {
	t.Parallel()
	const get = "/v1/license-keys/"
	for name, test := range map[string]struct {
		sandbox bool
		token   func(*polartest.Polar) string
		passing int
		status  int
	}{
		"production":    {false, func(p *polartest.Polar) string { return p.AddToken(polartest.Token{}) }, 500, 200},
		"sandbox":       {true, func(p *polartest.Polar) string { return p.AddToken(polartest.Token{}) }, 100, 200},
		"unknown token": {false, func(*polartest.Polar) string { return "polar_oat_nobody_knows" }, 60, 401},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				p := polartest.New(polartest.Config{Sandbox: test.sandbox})
				token := test.token(p)
				for range test.passing {
					response, _ := ask(t, p.Client(), "GET", get, token, "")
					require.Equal(t, test.status, response.StatusCode)
				}
				time.Sleep(15 * time.Second)
				response, _ := ask(t, p.Client(), "GET", get, token, "")
				assert.Equal(t, 429, response.StatusCode)
				assert.Equal(t, "45", response.Header.Get("Retry-After"))
				if test.status == 200 {
					response, _ = ask(t, p.Client(), "GET", get, p.AddToken(polartest.Token{}), "")
					assert.Equal(t, 429, response.StatusCode, "all tokens of the organization share the limit")
				}
				response, _ = ask(t, p.Client(), "GET", get, "", "")
				assert.Equal(t, 401, response.StatusCode, "no token, another limit")
				time.Sleep(45 * time.Second)
				response, _ = ask(t, p.Client(), "GET", get, token, "")
				assert.Equal(t, test.status, response.StatusCode)
			})
		})
	}
}

func TestAClockSetBackNeverBlocksForMoreThanAMinute(t *testing.T) {
	t.Parallel()
	p := polartest.New(polartest.Config{})
	now := func() reply {
		response, _ := ask(t, p.Client(), "POST", portalPath+"validate", "", "{}")
		return response
	}
	p.Advance(24 * time.Hour)
	for range 4 {
		now()
	}
	p.Advance(-24 * time.Hour)
	assert.Equal(t, "60", now().Header.Get("Retry-After"))
}

func TestUnlimitedHasNoLimits(t *testing.T) {
	t.Parallel()
	p := polartest.New(polartest.Config{Unlimited: true})
	for range 50 {
		response, _ := ask(t, p.Client(), "POST", portalPath+"validate", "", "{}")
		require.Equal(t, 422, response.StatusCode)
	}
}

// travelTime makes each request take a while, there and back.
type travelTime struct {
	polar       http.RoundTripper
	there, back func() time.Duration
}

func (n travelTime) RoundTrip(r *http.Request) (*http.Response, error) {
	time.Sleep(n.there())
	defer func() { time.Sleep(n.back()) }()
	return n.polar.RoundTrip(r)
}

// These are the four ways to pace requests that were tried on the real server, with the same outcome.
func TestPacingFaresAsItDidOnTheRealServer(t *testing.T) {
	t.Parallel()
	evenly := func(between time.Duration, burst, calls int) func(call func()) {
		return func(call func()) {
			var group sync.WaitGroup
			for i := range calls {
				if i >= burst {
					time.Sleep(between)
				}
				group.Go(call)
			}
			group.Wait()
		}
	}
	for name, test := range map[string]struct {
		pace              func(call func())
		answered, refused int
		firstRefusal      time.Duration
	}{
		"three at once, then three a second": {evenly(time.Second/3, 3, 12), 3, 9, 350 * time.Millisecond},
		"three a second, evenly":             {evenly(time.Second/3, 1, 12), 6, 6, 2 * time.Second},
		"one in flight, two at once, then one each 1.1 s": {func(call func()) {
			next := time.Now()
			for i := range 12 {
				if i >= 2 {
					next = next.Add(1100 * time.Millisecond)
				}
				time.Sleep(time.Until(next))
				call()
			}
		}, 12, 0, 0},
		"three permits, each reusable 1.05 s after its answer": {func(call func()) {
			var group sync.WaitGroup
			for range 3 {
				group.Go(func() {
					for range 10 {
						call()
						time.Sleep(1050 * time.Millisecond)
					}
				})
			}
			group.Wait()
		}, 30, 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				random := rand.New(rand.NewPCG(1, 2)) //nolint:gosec // repeatable on purpose
				var mu sync.Mutex
				calls := 0
				there := func() time.Duration {
					mu.Lock()
					defer mu.Unlock()
					// the fourth, which opens another second, is ten milliseconds late: that is all it takes
					calls++
					if calls == 4 {
						return 15 * time.Millisecond
					}
					return time.Duration(5+random.IntN(5)) * time.Millisecond
				}
				if test.refused == 0 {
					there = func() time.Duration {
						mu.Lock()
						defer mu.Unlock()
						return time.Duration(random.IntN(400)) * time.Millisecond
					}
				}
				p := polartest.New(polartest.Config{})
				client := &http.Client{Transport: travelTime{p.Transport(), there, func() time.Duration { return 10 * time.Millisecond }}}
				start := time.Now()
				var answered, refused int
				var firstRefusal time.Duration
				test.pace(func() {
					response, _ := ask(t, client, "POST", portalPath+"validate", "", "{}")
					mu.Lock()
					defer mu.Unlock()
					if response.StatusCode != http.StatusTooManyRequests {
						answered++
						return
					}
					if refused == 0 {
						firstRefusal = time.Since(start)
					}
					refused++
				})
				assert.Equal(t, test.answered, answered, "answered")
				assert.Equal(t, test.refused, refused, "refused")
				assert.InDelta(t, test.firstRefusal, firstRefusal, float64(50*time.Millisecond)) // virtual time
			})
		})
	}
}
