package leases

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/polargate/polargate"
	"github.com/polargate/polargate/lease"
	"github.com/polargate/polargate/lease/issuer"
	"github.com/polargate/polargate/polartest"
	"github.com/polargate/polargate/tests/internal/kit"
)

var tokenOfVendor = polartest.Token{}

// inTime runs a test in time that passes at once.
func inTime(t *testing.T, change func(*issuer.Config), test func(t *testing.T, v *vendor)) {
	t.Helper()
	t.Parallel()
	synctest.Test(t, func(t *testing.T) { test(t, newVendor(t, change)) })
}

func TestALicenseServerActivatesAComputerInsteadOfPolar(t *testing.T) {
	inTime(t, nil, func(t *testing.T, v *vendor) {
		gate := v.Activated()
		status := gate.Status()
		assert.Equal(t, []string{"export", "print", "sync"}, status.Features, "those of the program and of the lease")
		assert.Equal(t, time.Now().Add(30*kit.Day).UTC(), status.FreshUntil.UTC())
		assert.Equal(t, time.Now().Add(37*kit.Day).UTC(), status.GraceUntil.UTC())
		assert.Equal(t, v.Key.Key, status.Key.Reveal())
		assert.Equal(t, 1, v.Seats())
		for _, r := range v.Polar.Requests() {
			assert.NotContains(t, r.Path, "customer-portal", "the program itself asks Polar nothing")
		}
		asked := v.questions()
		for range 3 {
			next := v.Open()
			assert.True(t, next.Has("print"), "from disk")
			_, err := next.Activate(t.Context(), v.Key.Key)
			require.NoError(t, err)
		}
		assert.Equal(t, 1, v.Seats())
		assert.Equal(t, asked+3, v.questions())
		assert.NotContains(t, v.log.String(), v.Key.Key)
	})
}

func TestALeaseIsRenewedAtHalfItsLife(t *testing.T) {
	inTime(t, nil, func(t *testing.T, v *vendor) {
		gate := v.Activated()
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		go func() { _ = gate.Run(ctx) }()
		asked := v.questions()
		time.Sleep(14 * kit.Day)
		synctest.Wait()
		assert.Equal(t, asked, v.questions())
		time.Sleep(5 * kit.Day)
		synctest.Wait()
		assert.Equal(t, asked+1, v.questions())
		assert.Greater(t, time.Until(gate.Status().FreshUntil), 25*kit.Day)
		time.Sleep(20 * kit.Day)
		synctest.Wait()
		assert.Equal(t, polargate.Active, gate.Status().State)
		assert.Less(t, v.questions(), asked+4)
		assert.Equal(t, 1, v.Seats())
	})
}

func TestALicenseServerThatIsAwayNeitherLocksNorUnlocks(t *testing.T) {
	t.Parallel()
	var other lease.Claims
	answers := map[string]func(v *vendor) func(*http.Request, func() *http.Response) (*http.Response, error){
		"no server":                  func(*vendor) func(*http.Request, func() *http.Response) (*http.Response, error) { return away },
		"a broken connection":        func(*vendor) func(*http.Request, func() *http.Response) (*http.Response, error) { return lost },
		"a web page":                 fixed(200, "text/html; charset=utf-8", "<title>Wi-Fi</title>"),
		"a web page of errors":       fixed(403, "text/html", "<title>Forbidden</title>"),
		"a gateway":                  fixed(502, "text/plain", "bad gateway"),
		"a problem of somebody else": fixed(403, "application/problem+json", `{"title":"Forbidden","status":403}`),
		"a refusal without a status": fixed(200, "application/problem+json", `{"reason":"inactive"}`),
		"an outage of the server":    fixed(503, "application/problem+json", `{"reason":"unavailable"}`),
		"a refusal with an outage":   fixed(503, "application/problem+json", `{"reason":"inactive"}`),
		"a busy server":              fixed(429, "application/problem+json", `{"reason":"rate_limited"}`),
		"an empty answer":            fixed(200, "text/plain", ""),
		"no lease":                   fixed(200, "text/plain", "v1.e30.AAAA"),
		"a lease of another key": func(v *vendor) func(*http.Request, func() *http.Response) (*http.Response, error) {
			return fixed(200, "text/plain", signed(v, privateKey(9), other))(v)
		},
		"a lease for another computer": func(v *vendor) func(*http.Request, func() *http.Response) (*http.Response, error) {
			claims := other
			claims.Fingerprint = "another computer"
			return fixed(200, "text/plain", signed(v, privateKey(1), claims))(v)
		},
		"a lease of another vendor": func(v *vendor) func(*http.Request, func() *http.Response) (*http.Response, error) {
			claims := other
			claims.OrganizationID = "34f57e13-8bcb-4481-85b2-a4b55c4ba0b9"
			return fixed(200, "text/plain", signed(v, privateKey(1), claims))(v)
		},
	}
	for name, answer := range answers {
		t.Run(name, func(t *testing.T) {
			inTime(t, nil, func(t *testing.T, v *vendor) {
				licensed := v.Activated()
				time.Sleep(20 * kit.Day)
				v.says(answer(v))
				status, err := licensed.Refresh(t.Context())
				require.Error(t, err)
				assert.False(t, kit.ReasonOf(err).Denial(), "%v", err)
				assert.Equal(t, polargate.Active, status.State)
				time.Sleep(16 * kit.Day)
				status, err = licensed.Check(t.Context())
				require.NoError(t, err)
				assert.Equal(t, polargate.Grace, status.State)
				time.Sleep(2 * kit.Day)
				status, err = licensed.Check(t.Context())
				require.Error(t, err)
				assert.Equal(t, polargate.Locked, status.State)
				assert.Equal(t, polargate.ErrGraceEnded, status.Reason)

				fresh := v.Open(func(c *polargate.Config) { c.Store = &polargate.MemoryStore{} })
				status, err = fresh.Activate(t.Context(), v.Key.Key)
				require.Error(t, err)
				assert.NotContains(t, err.Error(), v.Key.Key)
				assert.Equal(t, polargate.Unlicensed, status.State)
				assert.False(t, fresh.Has("export"))

				v.says(nil)
				status, err = licensed.Check(t.Context())
				require.NoError(t, err)
				assert.Equal(t, polargate.Active, status.State)
				_, err = fresh.Activate(t.Context(), v.Key.Key)
				require.NoError(t, err)
				assert.Equal(t, 1, v.Seats(), "both are this computer")
				assert.NotContains(t, v.log.String(), v.Key.Key)
			})
		})
	}
}

// A refusal that comes with an outage is the outage's, and a refusal of Polar's own comes with
// the status that the issuer gives it.
func TestAFailingLicenseServerRefusesNothing(t *testing.T) {
	inTime(t, nil, func(t *testing.T, v *vendor) {
		gate := v.Activated()
		for _, status := range []int{200, 400, 404, 409, 500, 503} {
			v.says(always(status, "application/problem+json", `{"reason":"inactive"}`))
			_, err := gate.Refresh(t.Context())
			require.ErrorIs(t, err, polargate.ErrUnreachable, "%d", status)
			require.True(t, gate.Has("export"), "%d", status)
			time.Sleep(time.Minute)
		}
		for _, status := range []int{402, 403} {
			v.says(always(status, "application/problem+json", `{"reason":"inactive"}`))
			_, err := gate.Refresh(t.Context())
			require.ErrorIs(t, err, polargate.ErrInactive, "%d", status)
		}
	})
}

func fixed(status int, contentType, body string) func(*vendor) func(*http.Request, func() *http.Response) (*http.Response, error) {
	return func(*vendor) func(*http.Request, func() *http.Response) (*http.Response, error) {
		return always(status, contentType, body)
	}
}

// signed is a lease for this computer, except for what claims says.
func signed(v *vendor, key ed25519.PrivateKey, claims lease.Claims) string {
	v.T.Helper()
	if claims.Fingerprint == "" {
		claims.Fingerprint = kit.ThisMachine
	}
	if claims.OrganizationID == "" {
		claims.OrganizationID = v.Polar.OrganizationID()
	}
	if claims.Issued.IsZero() {
		claims.Issued = time.Now()
	}
	if claims.Expires.IsZero() {
		claims.Expires = claims.Issued.Add(30 * kit.Day)
	}
	claims.ID, claims.BenefitID, claims.LicenseKeyID = "L"+fmt.Sprint(claims.Issued.Unix()), v.Key.BenefitID, v.Key.ID
	text, err := lease.Sign(key, claims)
	require.NoError(v.T, err)
	return text
}

func TestARefusalAtTheLicenseServerLocksUntilPolarGrantsAgain(t *testing.T) {
	inTime(t, nil, func(t *testing.T, v *vendor) {
		gate := v.Activated()
		v.Polar.Revoke(v.Key.ID)
		time.Sleep(time.Minute)
		assert.True(t, gate.Has("export"), "nobody has asked yet")
		status, err := gate.Refresh(t.Context())
		require.ErrorIs(t, err, polargate.ErrInactive)
		assert.Equal(t, polargate.Locked, status.State)
		v.says(away)
		time.Sleep(time.Minute)
		status, _ = gate.Check(t.Context())
		assert.Equal(t, polargate.ErrInactive, status.Reason, "cutting the network after a refusal does not help")
		v.says(nil)
		v.Polar.Update(v.Key.ID, func(k *polartest.LicenseKey) { k.Status = "granted" })
		time.Sleep(time.Minute)
		status, err = gate.Check(t.Context())
		require.NoError(t, err)
		assert.Equal(t, polargate.Active, status.State)
		assert.Equal(t, 1, v.Seats())
	})
}

func TestAComputerThatTheCustomerDeactivatedIsNotActivatedUnasked(t *testing.T) {
	inTime(t, nil, func(t *testing.T, v *vendor) {
		gate := v.Activated()
		v.Polar.Update(v.Key.ID, func(k *polartest.LicenseKey) { k.Activations[0].Released = true })
		time.Sleep(16 * kit.Day)
		status, err := gate.Refresh(t.Context())
		require.ErrorIs(t, err, polargate.ErrSeatReleased)
		assert.Equal(t, polargate.Locked, status.State)
		assert.Zero(t, v.Seats())
		time.Sleep(time.Hour)
		_, err = gate.Check(t.Context())
		require.Error(t, err)
		assert.Zero(t, v.Seats())
		status, err = gate.Activate(t.Context(), v.Key.Key)
		require.NoError(t, err, "a person may")
		assert.Equal(t, polargate.Active, status.State)
		assert.Equal(t, 1, v.Seats())
	})
}

func TestALicenseFromBeforeTheLicenseServerIsTakenOver(t *testing.T) {
	inTime(t, nil, func(t *testing.T, v *vendor) {
		before := v.Activated(func(c *polargate.Config) { c.LeaseURL, c.LeaseKeys = "", nil })
		require.NoError(t, before.Close())
		v.says(away)
		after := v.Open()
		status, err := after.Check(t.Context())
		require.Error(t, err)
		assert.Equal(t, polargate.Locked, status.State, "what the program sealed itself proves nothing any more")
		v.says(nil)
		status, err = after.Check(t.Context())
		require.NoError(t, err)
		assert.Equal(t, polargate.Active, status.State)
		assert.True(t, after.Has("print"))
		assert.Equal(t, 1, v.Seats())
	})
}

func TestAnActivationWhoseAnswerWasLostIsNotMadeTwice(t *testing.T) {
	inTime(t, nil, func(t *testing.T, v *vendor) {
		gate := v.Open()
		v.says(lost)
		_, err := gate.Activate(t.Context(), v.Key.Key)
		require.ErrorIs(t, err, polargate.ErrUnreachable)
		assert.Equal(t, 1, v.Seats())
		v.says(nil)
		_, err = gate.Activate(t.Context(), v.Key.Key)
		require.NoError(t, err)
		assert.Equal(t, 1, v.Seats())
		assert.False(t, gate.Status().InDoubt)
	})
}

func TestDeactivatingGivesTheLeaseBackNowOrWhenTheServerIsThere(t *testing.T) {
	inTime(t, nil, func(t *testing.T, v *vendor) {
		gate := v.Activated()
		require.NoError(t, gate.Deactivate(t.Context()))
		assert.Zero(t, v.Seats())
		_, err := gate.Activate(t.Context(), v.Key.Key)
		require.NoError(t, err)

		v.says(away)
		require.ErrorIs(t, gate.Deactivate(t.Context()), polargate.ErrUnreachable)
		status := gate.Status()
		assert.Equal(t, polargate.Unlicensed, status.State)
		assert.True(t, status.ReleasePending)
		assert.Equal(t, 1, v.Seats())
		time.Sleep(2 * time.Minute)
		v.says(nil)
		_, _ = gate.Check(t.Context())
		assert.Zero(t, v.Seats())
		assert.False(t, gate.Status().ReleasePending)
	})
}

// The license server has lost what it knew: Polar itself ends the activation.
func TestAnActivationThatTheLicenseServerForgotIsEndedAtPolar(t *testing.T) {
	inTime(t, nil, func(t *testing.T, v *vendor) {
		gate := v.Activated()
		v.config.Store = nil
		v.restart()
		require.NoError(t, gate.Deactivate(t.Context()))
		assert.Zero(t, v.Seats())
	})
}

func TestALicenseMovesToAnotherComputerThroughTheLicenseServer(t *testing.T) {
	inTime(t, nil, func(t *testing.T, v *vendor) {
		first := v.Activated()
		second := v.Open(func(c *polargate.Config) { c.Fingerprint, c.Label = "another computer", "another" })
		status, err := second.Check(t.Context())
		require.ErrorIs(t, err, polargate.ErrOtherMachine)
		assert.False(t, second.Has("export"), "a lease that was copied")
		assert.Equal(t, polargate.Locked, status.State)
		status, err = second.Move(t.Context())
		require.NoError(t, err)
		assert.Equal(t, polargate.Active, status.State)
		assert.Equal(t, 1, v.Seats())
		time.Sleep(16 * kit.Day)
		_, err = first.Refresh(t.Context())
		require.ErrorIs(t, err, polargate.ErrSeatReleased)
		assert.Equal(t, 1, v.Seats())
	})
}

func TestUsesAreCountedAtPolarAndTheLeaseStays(t *testing.T) {
	inTime(t, nil, func(t *testing.T, v *vendor) {
		v.Polar.Update(v.Key.ID, func(k *polartest.LicenseKey) { k.LimitUsage = polartest.Limit(10) })
		gate := v.Activated()
		left, err := gate.Consume(t.Context(), 3)
		require.NoError(t, err)
		assert.EqualValues(t, 7, left)
		status := gate.Status()
		assert.EqualValues(t, 3, status.Usage)
		assert.Equal(t, time.Now().Add(37*kit.Day).UTC(), status.GraceUntil.UTC())
		assert.True(t, gate.Has("print"))
	})
}

func TestAGateOfABuildJobGivesItsLeaseBackAtTheEnd(t *testing.T) {
	inTime(t, nil, func(t *testing.T, v *vendor) {
		job := v.Activated(func(c *polargate.Config) { c.Ephemeral, c.Store = polargate.ReleaseOnClose, nil })
		assert.Equal(t, 1, v.Seats())
		require.NoError(t, job.Close())
		assert.Zero(t, v.Seats())
	})
}

func pool(most int) func(*issuer.Config) {
	return func(c *issuer.Config) {
		c.Pools = map[string]issuer.Pool{}
		for benefit := range c.Features {
			c.Pools[benefit] = issuer.Pool{Max: most, Heartbeat: time.Minute}
		}
	}
}

func TestAFloatingLicenseIsKeptByHeartbeatsAndFreeTwoAfterACrash(t *testing.T) {
	inTime(t, pool(1), func(t *testing.T, v *vendor) {
		first := v.Activated()
		ctx, crash := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { _ = first.Run(ctx) })
		second := v.Open(func(c *polargate.Config) {
			c.Fingerprint, c.Label, c.Store = "another computer", "another", &polargate.MemoryStore{}
		})
		for range 10 {
			time.Sleep(time.Minute)
			_, err := second.Activate(t.Context(), v.Key.Key)
			require.ErrorIs(t, err, polargate.ErrActivationLimit)
			assert.Contains(t, polargate.Message(err), "right now")
			require.True(t, first.Has("export"))
		}
		crash()
		running.Wait()
		time.Sleep(2 * time.Minute)
		_, err := second.Activate(t.Context(), v.Key.Key)
		require.NoError(t, err)
		synctest.Wait()
		assert.False(t, first.Has("export"))
		assert.True(t, second.Has("export"))
		require.NoError(t, second.Deactivate(t.Context()))
		_, err = first.Check(t.Context())
		require.NoError(t, err, "the place was given back at once")
	})
}

func TestAFloatingLicenseThatLostItsPlaceComesBackWhenOneIsFree(t *testing.T) {
	inTime(t, pool(1), func(t *testing.T, v *vendor) {
		late := v.Activated()
		time.Sleep(3 * time.Minute) // a lid that was closed
		quick := v.Open(func(c *polargate.Config) {
			c.Fingerprint, c.Label, c.Store = "another computer", "another", &polargate.MemoryStore{}
		})
		_, err := quick.Activate(t.Context(), v.Key.Key)
		require.NoError(t, err)
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		go func() { _ = quick.Run(ctx) }()
		go func() { _ = late.Run(ctx) }()
		time.Sleep(3 * time.Hour)
		synctest.Wait()
		status := late.Status()
		assert.Equal(t, polargate.ErrActivationLimit, status.Reason)
		assert.Contains(t, status.Message, "Close the program on one of them")
		require.True(t, quick.Has("export"))
		require.NoError(t, quick.Deactivate(t.Context()))
		time.Sleep(4 * time.Minute)
		synctest.Wait()
		assert.True(t, late.Has("export"))
	})
}

func TestAWebPageInsteadOfTheLicenseServerReleasesNothing(t *testing.T) {
	inTime(t, nil, func(t *testing.T, v *vendor) {
		gate := v.Activated()
		v.says(always(200, "text/html", "<title>Wi-Fi</title>"))
		require.ErrorIs(t, gate.Deactivate(t.Context()), polargate.ErrUnreachable)
		assert.True(t, gate.Status().ReleasePending)
		assert.Equal(t, 1, v.Seats())
		v.says(nil)
		time.Sleep(2 * time.Minute)
		_, _ = gate.Check(t.Context())
		assert.Zero(t, v.Seats())
	})
}

func TestAFloatingLicenseIsBorrowedForATripAndGivenBack(t *testing.T) {
	inTime(t, func(c *issuer.Config) {
		pool(1)(c)
		for benefit, p := range c.Pools {
			p.Borrow = 3 * kit.Day
			c.Pools[benefit] = p
		}
	}, func(t *testing.T, v *vendor) {
		traveller := v.Open()
		_, err := traveller.Borrow(t.Context(), kit.Day)
		require.ErrorIs(t, err, polargate.ErrNoLicense)
		_, err = traveller.Activate(t.Context(), v.Key.Key)
		require.NoError(t, err)
		time.Sleep(time.Second)
		status, err := traveller.Borrow(t.Context(), 10*kit.Day)
		require.NoError(t, err)
		assert.Equal(t, time.Now().Add(3*kit.Day).UTC(), status.GraceUntil.UTC(), "as long as the pool allows")

		v.says(away)
		time.Sleep(2 * kit.Day)
		_, err = traveller.Check(t.Context())
		require.NoError(t, err)
		v.says(nil)
		other := v.Open(func(c *polargate.Config) {
			c.Fingerprint, c.Label, c.Store = "another computer", "another", &polargate.MemoryStore{}
		})
		_, err = other.Activate(t.Context(), v.Key.Key)
		require.ErrorIs(t, err, polargate.ErrActivationLimit)
		require.NoError(t, traveller.Deactivate(t.Context()))
		_, err = other.Activate(t.Context(), v.Key.Key)
		require.NoError(t, err, "given back early")

		_, err = other.Borrow(t.Context(), 0)
		require.Error(t, err)
		_, err = v.Open(v.withoutNetwork).Borrow(t.Context(), time.Hour)
		require.ErrorContains(t, err, "LeaseURL")
	})
}

// A renewal that fails now and then doesn't cost a floating license its place.
func TestAFloatingLicenseSurvivesAnOutageOfLessThanAHeartbeat(t *testing.T) {
	inTime(t, pool(1), func(t *testing.T, v *vendor) {
		gate := v.Activated()
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		go func() { _ = gate.Run(ctx) }()
		for range 5 {
			time.Sleep(50 * time.Second)
			v.says(away)
			time.Sleep(40 * time.Second)
			v.says(nil)
			time.Sleep(2 * time.Minute)
			synctest.Wait()
			require.Equal(t, polargate.Active, gate.Status().State)
		}
	})
}

type reading func([]byte) (int, error)

func (r reading) Read(p []byte) (int, error) { return r(p) }

// Over HTTP/1.1 and TLS, a body that was given up at times ends as if it were complete.
func TestALeaseThatWasBrokenOffIsAskedForAgain(t *testing.T) {
	inTime(t, nil, func(t *testing.T, v *vendor) {
		v.says(func(r *http.Request, real func() *http.Response) (*http.Response, error) {
			v.says(nil)
			answer := real()
			text, err := io.ReadAll(answer.Body)
			require.NoError(t, err)
			half := strings.NewReader(string(text[:len(text)/2]))
			answer.Body = io.NopCloser(reading(func(p []byte) (int, error) {
				<-r.Context().Done()
				return half.Read(p)
			}))
			return answer, nil
		})
		gate := v.Open(func(c *polargate.Config) { c.CheckTimeout = 5 * time.Minute })
		status, err := gate.Activate(t.Context(), v.Key.Key)
		require.NoError(t, err)
		assert.Equal(t, polargate.Active, status.State)
		assert.Equal(t, 2, v.questions())
	})
}

// Otherwise Activate would succeed, and the license be locked.
func TestALeaseThatHasEndedActivatesNothing(t *testing.T) {
	inTime(t, nil, func(t *testing.T, v *vendor) {
		long := time.Now()
		v.says(func(*http.Request, func() *http.Response) (*http.Response, error) {
			return always(200, "text/plain", signed(v, privateKey(1), lease.Claims{Issued: long}))(nil, nil)
		})
		time.Sleep(40 * kit.Day)
		gate := v.Open()
		status, err := gate.Activate(t.Context(), v.Key.Key)
		require.ErrorIs(t, err, polargate.ErrUnreachable)
		assert.Equal(t, polargate.Unlicensed, status.State)
		assert.Contains(t, polargate.Message(err), "date and time")
		v.says(nil)
		status, err = gate.Activate(t.Context(), v.Key.Key)
		require.NoError(t, err)
		assert.Equal(t, polargate.Active, status.State)
	})
}

func TestALeaseThatDoesNotCoverThisVersionSaysSo(t *testing.T) {
	inTime(t, func(c *issuer.Config) {
		c.Claims = func(_ context.Context, _ issuer.About, claims *lease.Claims) error {
			claims.Covers = "1.4"
			return nil
		}
	}, func(t *testing.T, v *vendor) {
		old := v.Activated()
		require.NoError(t, old.Close())
		updated := v.Open(func(c *polargate.Config) { c.Version = "1.5.0" })
		status, err := updated.Check(t.Context())
		require.ErrorIs(t, err, polargate.ErrNotCovered)
		assert.Equal(t, polargate.Locked, status.State)
		assert.Contains(t, status.Message, "includes versions up to 1.4")
		back := v.Open()
		status, err = back.Check(t.Context())
		require.NoError(t, err)
		assert.Equal(t, polargate.Active, status.State)
	})
}

func TestConfigurationsOfLeasesThatCannotWorkAreRefused(t *testing.T) {
	t.Parallel()
	for field, change := range map[string]func(*polargate.Config){
		"LeaseKeys": func(c *polargate.Config) { c.LeaseKeys = nil },
		"LeaseURL":  func(c *polargate.Config) { c.LeaseURL = "licenses.example.com" },
		"Ephemeral": func(c *polargate.Config) { c.Ephemeral = polargate.ValidateOnly },
	} {
		config := polargate.Config{
			OrganizationID: "34f57e13-8bcb-4481-85b2-a4b55c4ba0b9", Store: &polargate.MemoryStore{},
			LeaseKeys: []ed25519.PublicKey{public(privateKey(1))}, LeaseURL: licenseServer,
		}
		change(&config)
		_, err := polargate.Open(config)
		var input *polargate.InputError
		require.ErrorAs(t, err, &input)
		assert.Equal(t, field, input.Field)
	}
	_, err := polargate.Open(polargate.Config{
		OrganizationID: "34f57e13-8bcb-4481-85b2-a4b55c4ba0b9", Store: &polargate.MemoryStore{}, LeaseKeys: []ed25519.PublicKey{make([]byte, 32)},
	})
	require.ErrorContains(t, err, "LeaseKeys")
	gate, err := polargate.Open(polargate.Config{OrganizationID: "34f57e13-8bcb-4481-85b2-a4b55c4ba0b9", Store: &polargate.MemoryStore{}})
	require.NoError(t, err)
	defer gate.Close()
	_, err = gate.OfflineRequest()
	require.ErrorContains(t, err, "LeaseKeys")
	_, err = gate.ActivateFile(nil)
	require.ErrorContains(t, err, "LeaseKeys")
	_, err = gate.OfflineReceipt()
	require.ErrorContains(t, err, "LeaseKeys")
}

func TestARedirectOfTheLicenseServerIsNotFollowed(t *testing.T) {
	inTime(t, nil, func(t *testing.T, v *vendor) {
		gate := v.Open()
		v.says(func(r *http.Request, _ func() *http.Response) (*http.Response, error) {
			require.Equal(t, licenseServer, r.URL.String())
			w := httptest.NewRecorder()
			http.Redirect(w, r, "https://elsewhere.example.com/", http.StatusTemporaryRedirect)
			return w.Result(), nil
		})
		_, err := gate.Activate(t.Context(), v.Key.Key)
		require.ErrorIs(t, err, polargate.ErrUnreachable)
		assert.False(t, strings.Contains(err.Error(), "elsewhere"))
	})
}

func TestALicenseOfALicenseServerThatLapsedKeepsWhatItsLastLeaseCovers(t *testing.T) {
	for name, test := range map[string]struct {
		covers   string    // of the lease
		released time.Time // until when the lease covers releases; zero: it doesn't say
	}{
		"all that came out while it was issued": {"", time.Time{}},
		"this version, by its number":           {"1", time.Time{}},
		"this version, by its day":              {"", time.Date(2001, 1, 1, 0, 0, 0, 0, time.UTC)},
	} {
		t.Run(name, func(t *testing.T) {
			inTime(t, func(c *issuer.Config) {
				c.Claims = func(_ context.Context, _ issuer.About, claims *lease.Claims) error {
					claims.Covers, claims.CoversReleased = test.covers, test.released
					return nil
				}
			}, func(t *testing.T, v *vendor) {
				v.Config.Fallback.Released = time.Now().Add(-kit.Day)
				gate := v.Activated()
				issued := time.Now()
				time.Sleep(3 * kit.Day)
				v.Polar.Revoke(v.Key.ID)
				_, _ = gate.Refresh(t.Context())
				require.NoError(t, gate.Close())
				v.says(away)
				gate = v.Open()
				status, err := gate.Check(t.Context())
				require.NoError(t, err)
				assert.Equal(t, polargate.Perpetual, status.State)
				assert.Equal(t, []string{"export", "print", "sync"}, status.Features)
				until := issued
				if !test.released.IsZero() {
					until = test.released
				}
				assert.WithinDuration(t, until, status.CoveredUntil, time.Second)
				require.NoError(t, gate.Close())

				status, err = v.Open(func(c *polargate.Config) { c.Fallback.Released = until.Add(kit.Day) }).Check(t.Context())
				require.ErrorIs(t, err, polargate.ErrNotCovered)
				assert.Contains(t, status.Message, until.Local().Format("2 January 2006"))
				if test.covers != "" {
					status, err = v.Open(func(c *polargate.Config) { c.Version = "2.0.0" }).Check(t.Context())
					require.ErrorIs(t, err, polargate.ErrNotCovered)
					kit.Says(t, status.Message, "not_covered.version.do")
				}
				// A lease of a key that isn't pinned shows nothing.
				_, err = v.Open(func(c *polargate.Config) { c.LeaseKeys = []ed25519.PublicKey{public(privateKey(9))} }).Check(t.Context())
				require.ErrorIs(t, err, polargate.ErrInactive)
			})
		})
	}
}

func TestALicenseFromBeforeTheLicenseServerHasNoFallback(t *testing.T) {
	inTime(t, nil, func(t *testing.T, v *vendor) {
		v.Config.Fallback.Released = time.Now().Add(-kit.Day)
		before := v.Open(func(c *polargate.Config) { c.LeaseURL = "" })
		_, err := before.Activate(t.Context(), v.Key.Key)
		require.NoError(t, err)
		v.Polar.Revoke(v.Key.ID)
		status, _ := before.Refresh(t.Context())
		assert.Equal(t, polargate.Perpetual, status.State)
		require.NoError(t, before.Close())
		_, err = v.Open().Check(t.Context())
		require.ErrorIs(t, err, polargate.ErrInactive, "a state can be sealed by whoever takes the program apart")
	})
}
