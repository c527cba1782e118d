package servers

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
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

var paying = polargate.ExternalID(kit.Paying)

// ended waits for a context to end, and gives how long that took and the refusal.
func ended(t *testing.T, ctx context.Context) (time.Duration, *polargate.Refusal) {
	t.Helper()
	at := time.Now()
	select {
	case <-ctx.Done():
	case <-time.After(100 * 24 * time.Hour):
		require.FailNow(t, "it goes on for ever")
	}
	var refusal *polargate.Refusal
	require.ErrorAs(t, context.Cause(ctx), &refusal)
	return time.Since(at), refusal
}

func goesOn(t *testing.T, ctx context.Context) {
	t.Helper()
	synctest.Wait()
	require.NoError(t, ctx.Err(), "because of %v", context.Cause(ctx))
}

func TestAStreamEndsWhenAWebhookSaysThatTheRightHasEnded(t *testing.T) {
	for name, end := range map[string]func(s *kit.Shop){
		"the benefit is revoked":  func(s *kit.Shop) { s.Polar.RevokeBenefit(kit.Paying, kit.ProBenefit) },
		"the customer is deleted": func(s *kit.Shop) { s.Polar.DeleteCustomer(kit.Paying) },
	} {
		t.Run(name, func(t *testing.T) {
			kit.Bubbled(t, func(t *testing.T) {
				s := kit.NewShop(t)
				customers := s.Open(func(c *polargate.CustomersConfig) { c.WebhookSecrets = []string{kit.HookSecret} })
				kit.Receiving(s, customers)
				stays, stop := customers.Watch(t.Context(), polargate.ExternalID("usr_other"))
				defer stop()
				require.Error(t, stays.Err(), "an unknown customer is refused at once")
				s.Add("usr_other")
				kit.Settled(s)
				stays, stop = customers.Watch(t.Context(), polargate.ExternalID("usr_other"), polargate.Feature("pro"))
				defer stop()
				watched, stop := customers.Watch(t.Context(), paying, polargate.Feature("pro"))
				defer stop()
				time.Sleep(time.Minute)
				goesOn(t, watched)
				end(s)
				took, refusal := ended(t, watched)
				assert.Less(t, took, time.Second)
				assert.Equal(t, http.StatusPaymentRequired, refusal.Status)
				assert.ErrorIs(t, watched.Err(), context.Canceled)
				goesOn(t, stays)
			})
		})
	}
}

func TestAStreamOnAnyReplicaEndsByAWebhookToOne(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := kit.NewShop(t)
		all := kit.Fleet(s, 3, polargate.SharedInMemory())
		kit.Receiving(s, all[0])
		var streams []context.Context
		for _, customers := range all {
			watched, stop := customers.Watch(t.Context(), paying, polargate.Feature("pro"))
			defer stop()
			streams = append(streams, watched)
		}
		time.Sleep(time.Second)
		asked := s.Asked()
		s.Polar.RevokeBenefit(kit.Paying, kit.ProBenefit)
		for _, watched := range streams {
			took, _ := ended(t, watched)
			assert.Less(t, took, time.Second)
		}
		assert.Equal(t, asked, s.Asked(), "and Polar isn't asked")
	})
}

func TestWithoutWebhooksAStreamEndsOnceTheAnswerIsOld(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := kit.NewShop(t)
		customers := s.Open()
		watched, stop := customers.Watch(t.Context(), paying, polargate.Feature("pro"))
		defer stop()
		time.Sleep(time.Hour)
		goesOn(t, watched)
		s.Polar.RevokeBenefit(kit.Paying, kit.ProBenefit)
		took, refusal := ended(t, watched)
		assert.LessOrEqual(t, took, 5*time.Minute+10*time.Second, "FreshFor, and what spreads the load")
		assert.Equal(t, polargate.Feature("pro"), refusal.Required)
	})
}

func TestAStreamEndsToTheSecondWhenItsLicenseKeyExpires(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := kit.NewShop(t)
		expires := time.Now().Add(47*time.Minute + 13*time.Second)
		key := s.Polar.AddKey(polartest.LicenseKey{BenefitID: kit.ProBenefit, ExpiresAt: expires})
		customers := s.Open()
		watched, stop := customers.WatchLicense(t.Context(), " "+key.Key+"\n", polargate.Feature("pro"))
		defer stop()
		goesOn(t, watched)
		_, refusal := ended(t, watched)
		assert.WithinDuration(t, expires, time.Now(), time.Second)
		assert.Equal(t, polargate.ErrExpired, refusal.Reason)
	})
}

func TestAStreamOutlivesAnOutageForTheGracePeriodAndNoLonger(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := kit.NewShop(t)
		customers := s.Open(func(c *polargate.CustomersConfig) { c.GracePeriod = 10 * time.Hour })
		watched, stop := customers.Watch(t.Context(), paying, polargate.Feature("pro"))
		defer stop()
		s.Polar.SetOffline(true)
		time.Sleep(9 * time.Hour)
		goesOn(t, watched)
		took, refusal := ended(t, watched)
		assert.InDelta(t, time.Hour, took, float64(2*time.Minute))
		assert.Equal(t, http.StatusServiceUnavailable, refusal.Status)
		assert.Equal(t, polargate.ErrUnreachable, refusal.Reason)
	})
}

func TestAStreamOfACustomerPushedOutOfTheCacheOutlivesAnOutageToo(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := kit.NewShop(t)
		customers := s.Open(func(c *polargate.CustomersConfig) { c.CacheSize = 4; c.GracePeriod = 10 * time.Hour })
		watched, stop := customers.Watch(t.Context(), paying, polargate.Feature("pro"))
		defer stop()
		for i := range 20 {
			s.Add(fmt.Sprint("usr_", i))
			s.Has(customers, fmt.Sprint("usr_", i), true)
		}
		s.Polar.SetOffline(true)
		time.Sleep(9 * time.Hour)
		goesOn(t, watched)
	})
}

func TestAPurchaseDuringAStreamAndARefusalThatIsDoubtedEndNothing(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := kit.NewShop(t)
		customers := s.Open(func(c *polargate.CustomersConfig) { c.WebhookSecrets = []string{kit.HookSecret} })
		kit.Receiving(s, customers)
		watched, stop := customers.Watch(t.Context(), paying, polargate.Any(polargate.Feature("pro"), polargate.Benefit(kit.TeaBenefit)))
		defer stop()
		s.Polar.GrantBenefit(kit.Paying, polartest.Benefit{BenefitID: kit.TeaBenefit})
		kit.Settled(s)
		s.Polar.RevokeBenefit(kit.Paying, kit.ProBenefit)
		kit.Settled(s)
		time.Sleep(time.Hour)
		goesOn(t, watched)
	})
}

func TestTheCauseIsTheCallersIfTheCallerGoesFirst(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := kit.NewShop(t)
		customers := s.Open()
		mine := errors.New("mine")
		ctx, cancel := context.WithCancelCause(t.Context())
		watched, stop := customers.Watch(ctx, paying)
		cancel(mine)
		<-watched.Done()
		require.ErrorIs(t, context.Cause(watched), mine)
		stop()
		stop()
		asked := s.Asked()
		time.Sleep(24 * time.Hour)
		assert.Equal(t, asked, s.Asked(), "nobody watches any longer")
	})
}

func TestStreamsEndWhenTheCustomersAreClosed(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := kit.NewShop(t)
		customers := s.Open()
		watched, stop := customers.Watch(t.Context(), paying)
		defer stop()
		changes := make(chan struct{})
		go func() {
			for range customers.Changes(t.Context(), paying) { //nolint:revive // until it ends
			}
			close(changes)
		}()
		synctest.Wait()
		require.NoError(t, customers.Close())
		_, refusal := ended(t, watched)
		require.ErrorIs(t, refusal, polargate.ErrClosed)
		<-changes
		late, stop := customers.Watch(t.Context(), paying)
		defer stop()
		_, refusal = ended(t, late)
		require.ErrorIs(t, refusal, polargate.ErrClosed)
	})
}

func TestAThousandStreamsOfACustomerShareOneQuestion(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := kit.NewShop(t)
		customers := s.Open()
		var open atomic.Int64
		for range 1000 {
			watched, stop := customers.Watch(t.Context(), paying, polargate.Feature("pro"))
			defer stop()
			open.Add(1)
			context.AfterFunc(watched, func() { open.Add(-1) })
		}
		synctest.Wait()
		asked := s.Asked()
		assert.Equal(t, 1, asked)
		time.Sleep(time.Hour)
		assert.LessOrEqual(t, s.Asked()-asked, 12, "once in FreshFor")
		assert.EqualValues(t, 1000, open.Load())
		s.Polar.RevokeBenefit(kit.Paying, kit.ProBenefit)
		time.Sleep(6 * time.Minute)
		synctest.Wait()
		assert.Zero(t, open.Load())
	})
}

func TestManyWatchedCustomersLeaveTheRequestsToOthers(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := kit.NewShop(t)
		customers := s.Open(func(c *polargate.CustomersConfig) { c.RequestsPerMinute = 60 })
		streams := make([]context.Context, 150)
		for i := range streams {
			id := fmt.Sprint("usr_", i)
			s.Add(id)
			for streams[i] == nil || streams[i].Err() != nil {
				var stop context.CancelFunc
				streams[i], stop = customers.Watch(t.Context(), polargate.ExternalID(id))
				defer stop()
				time.Sleep(time.Second)
			}
		}
		for i := range 60 {
			id := fmt.Sprint("usr_new_", i)
			s.Add(id)
			at := time.Now()
			s.Has(customers, id, true)
			assert.Less(t, time.Since(at), 2*time.Second)
			time.Sleep(10 * time.Second)
		}
		for _, watched := range streams {
			goesOn(t, watched)
		}
	})
}

func TestChangesGivesWhatIsNewAndNothingTwice(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := kit.NewShop(t)
		customers := s.Open(func(c *polargate.CustomersConfig) { c.WebhookSecrets = []string{kit.HookSecret} })
		kit.Receiving(s, customers)
		ctx, cancel := context.WithCancel(t.Context())
		var mu sync.Mutex
		var got []bool
		done := make(chan struct{})
		go func() {
			defer close(done)
			for have, err := range customers.Changes(ctx, paying) {
				assert.NoError(t, err)
				mu.Lock()
				got = append(got, have.Has("pro"))
				mu.Unlock()
			}
		}()
		time.Sleep(time.Hour)
		s.Polar.RevokeBenefit(kit.Paying, kit.ProBenefit)
		kit.Settled(s)
		time.Sleep(time.Hour)
		s.Polar.GrantBenefit(kit.Paying, polartest.Benefit{BenefitID: kit.ProBenefit})
		kit.Settled(s)
		time.Sleep(time.Hour)
		cancel()
		<-done
		assert.Equal(t, []bool{true, false, true}, got)
	})
}

func TestChangesSaysOnceThatNobodyCanSay(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := kit.NewShop(t)
		customers := s.Open(func(c *polargate.CustomersConfig) { c.GracePeriod = time.Hour })
		s.Polar.SetOffline(true)
		time.AfterFunc(3*time.Hour, func() { s.Polar.SetOffline(false) })
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Hour)
		defer cancel()
		var got []error
		for have, err := range customers.Changes(ctx, paying) {
			if err == nil {
				assert.True(t, have.Has("pro"))
			}
			got = append(got, err)
		}
		require.Len(t, got, 2)
		require.ErrorIs(t, got[0], polargate.ErrUnreachable)
		require.NoError(t, got[1])
		for _, err := range customers.Changes(t.Context(), polargate.ExternalID("..")) {
			var input *polargate.InputError
			require.ErrorAs(t, err, &input)
		}
	})
}

// streaming is a server whose route is watched, and gives what a client of a handler read.
func streaming(t *testing.T, route polargate.Route, handler http.HandlerFunc) (s *kit.Shop, ask func() *http.Response) {
	t.Helper()
	s = kit.NewShop(t)
	customers := s.Open(func(c *polargate.CustomersConfig) { c.WebhookSecrets = []string{kit.HookSecret} })
	kit.Receiving(s, customers)
	route.Watch, route.Require = true, []polargate.Requirement{polargate.Feature("pro")}
	route.Customer = func(*http.Request) polargate.CustomerRef { return paying }
	server := httptest.NewServer(customers.Route(route)(handler))
	t.Cleanup(server.Close)
	return s, func() *http.Response {
		answer, err := server.Client().Post(server.URL, "", nil) // which isn't tried again behind our back
		require.NoError(t, err)
		t.Cleanup(func() { _ = answer.Body.Close() })
		return answer
	}
}

func TestAWatchedHandlerHasItsLastWords(t *testing.T) {
	t.Parallel()
	s, ask := streaming(t, polargate.Route{}, func(w http.ResponseWriter, r *http.Request) {
		have, ok := polargate.FromContext(r.Context())
		assert.True(t, ok && have.Has("pro"))
		_, _ = io.WriteString(w, "event: begin\n\n")
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
		var refusal *polargate.Refusal
		if assert.ErrorAs(t, context.Cause(r.Context()), &refusal) {
			_, _ = fmt.Fprintf(w, "event: end\ndata: %d\n\n", refusal.Status)
		}
	})
	answer := ask()
	body := bufio.NewReader(answer.Body)
	line, err := body.ReadString('\n')
	require.NoError(t, err)
	assert.Equal(t, "event: begin\n", line)
	s.Polar.RevokeBenefit(kit.Paying, kit.ProBenefit)
	rest, err := io.ReadAll(body)
	require.NoError(t, err)
	assert.Equal(t, "\nevent: end\ndata: 402\n\n", string(rest))
	assert.Equal(t, http.StatusPaymentRequired, ask().StatusCode)
}

func TestTheConnectionOfAWatchedHandlerThatGoesOnIsEnded(t *testing.T) {
	t.Parallel()
	over := make(chan error, 1)
	s, ask := streaming(t, polargate.Route{}, func(w http.ResponseWriter, _ *http.Request) {
		for { // it doesn't look at its context
			if _, err := io.WriteString(w, "more\n"); err != nil {
				over <- err
				return
			}
			_ = http.NewResponseController(w).Flush()
			time.Sleep(time.Millisecond)
		}
	})
	answer := ask()
	_, err := bufio.NewReader(answer.Body).ReadString('\n')
	require.NoError(t, err)
	s.Polar.RevokeBenefit(kit.Paying, kit.ProBenefit)
	_, err = io.Copy(io.Discard, answer.Body)
	require.Error(t, err)
	require.Error(t, <-over)
}

func TestAHijackedConnectionOfAWatchedRouteIsEnded(t *testing.T) {
	t.Parallel()
	over := make(chan error, 1)
	s, ask := streaming(t, polargate.Route{}, func(w http.ResponseWriter, _ *http.Request) {
		conn, _, err := w.(http.Hijacker).Hijack()
		if !assert.NoError(t, err) {
			return
		}
		_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhello\n")
		_, err = conn.Read(make([]byte, 1)) // as a WebSocket's handler waits for the next message
		over <- err
	})
	answer := ask()
	s.Polar.RevokeBenefit(kit.Paying, kit.ProBenefit)
	_, _ = io.Copy(io.Discard, answer.Body)
	require.ErrorIs(t, <-over, net.ErrClosed)
}

func TestAHandlerThatEndedInTimeLeavesItsConnectionUsable(t *testing.T) {
	t.Parallel()
	calls := 0
	s, ask := streaming(t, polargate.Route{Refuse: func(w http.ResponseWriter, _ *http.Request, _ polargate.Refusal) {
		time.Sleep(time.Second) // longer than the handler had for its last words
		_, _ = io.WriteString(w, "refused")
	}}, func(_ http.ResponseWriter, r *http.Request) {
		if calls++; calls == 1 {
			<-r.Context().Done()
		}
	})
	go func() {
		for s.Polar.Count("/state") == 0 {
			time.Sleep(time.Millisecond)
		}
		s.Polar.RevokeBenefit(kit.Paying, kit.ProBenefit)
	}()
	answer := ask()
	_, err := io.Copy(io.Discard, answer.Body)
	require.NoError(t, err)
	answer = ask()
	body, err := io.ReadAll(answer.Body)
	require.NoError(t, err)
	assert.Equal(t, "refused", string(body))
}

func TestAWatchedRouteThatFailedOpenEndsOncePolarRefuses(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := kit.NewShop(t)
		customers := s.Open()
		s.Polar.SetOffline(true)
		s.Polar.RevokeBenefit(kit.Paying, kit.ProBenefit)
		route := customers.Route(polargate.Route{
			Customer: func(*http.Request) polargate.CustomerRef { return paying },
			Require:  []polargate.Requirement{polargate.Feature("pro")},
			FailOpen: true, Watch: true,
		})
		at := time.Now()
		time.AfterFunc(time.Hour, func() { s.Polar.SetOffline(false) })
		route(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			_, refusal := ended(t, r.Context())
			assert.Equal(t, http.StatusPaymentRequired, refusal.Status)
		})).ServeHTTP(httptest.NewRecorder(), httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", nil))
		assert.InDelta(t, time.Hour, time.Since(at), float64(time.Minute))
	})
}
