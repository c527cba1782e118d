package leases

import (
	"bytes"
	"crypto/ed25519"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/polargate/polargate"
	"github.com/polargate/polargate/lease"
	"github.com/polargate/polargate/lease/issuer"
	"github.com/polargate/polargate/polartest"
	"github.com/polargate/polargate/tests/internal/kit"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestAComputerWithoutANetworkIsActivatedRenewedAndDeactivatedByFiles(t *testing.T) {
	inTime(t, nil, func(t *testing.T, v *vendor) {
		gate := v.Open(v.withoutNetwork)
		request, err := gate.OfflineRequest()
		require.NoError(t, err)
		assert.Less(t, len(request), 700, "it fits a QR code")
		again, err := gate.OfflineRequest()
		require.NoError(t, err)
		assert.Equal(t, request, again, "until it is answered")
		require.NoError(t, gate.Close())

		gate = v.Open(v.withoutNetwork) // the file took days
		time.Sleep(2 * kit.Day)
		again, err = gate.OfflineRequest()
		require.NoError(t, err)
		assert.Equal(t, request, again)
		file := v.page(request)
		status, err := gate.ActivateFile([]byte("Dear customer,\r\n\r\n> " + strings.ReplaceAll(lease.Armor(file), "\n", "\r\n> ")))
		require.NoError(t, err)
		assert.Equal(t, polargate.Active, status.State)
		assert.Equal(t, []string{"export", "print", "sync"}, status.Features)
		assert.True(t, status.Key.IsZero())
		assert.Equal(t, 1, v.Seats())
		before := status
		status, err = gate.ActivateFile([]byte(file))
		require.NoError(t, err, "again does no harm")
		assert.Equal(t, before.GraceUntil, status.GraceUntil)

		// It ages as its times say, and nobody is asked.
		time.Sleep(30*kit.Day + time.Minute)
		status, err = gate.Check(t.Context())
		require.NoError(t, err)
		assert.Equal(t, polargate.Grace, status.State)
		assert.Contains(t, status.Message, "Load a new one before")
		_, err = gate.Refresh(t.Context())
		require.NoError(t, err)
		_, err = gate.Consume(t.Context(), 1)
		require.ErrorIs(t, err, polargate.ErrUnreachable)
		assert.Contains(t, polargate.Message(err), "from a file")

		next, err := gate.OfflineRequest()
		require.NoError(t, err)
		assert.NotEqual(t, request, next)
		v.load(gate)
		assert.Equal(t, 1, v.Seats())
		time.Sleep(37 * kit.Day)
		status, err = gate.Check(t.Context())
		require.ErrorIs(t, err, polargate.ErrGraceEnded)
		assert.Contains(t, status.Message, "Make a new request")
		v.load(gate)

		require.NoError(t, gate.Deactivate(t.Context()))
		assert.Equal(t, polargate.Unlicensed, gate.Status().State)
		assert.False(t, gate.Status().ReleasePending, "this computer can't do more")
		assert.Equal(t, 1, v.Seats())
		for range 2 {
			receipt, err := gate.OfflineReceipt()
			require.NoError(t, err)
			text, err := lease.Unarmor([]byte(lease.Armor(receipt)), lease.KindReceipt)
			require.NoError(t, err)
			parsed, err := lease.ParseReceipt(text)
			require.NoError(t, err)
			require.NoError(t, v.server.Release(t.Context(), parsed))
			assert.Zero(t, v.Seats())
		}
		_, err = v.tryPage(request)
		require.ErrorIs(t, err, issuer.ErrRequestUsed, "a request that lies about somewhere")
		v.load(gate)
		assert.Equal(t, 1, v.Seats())
	})
}

func TestALicenseOfAFileIsGoneOnWithOverTheNetworkAndTheOtherWayRound(t *testing.T) {
	inTime(t, nil, func(t *testing.T, v *vendor) {
		gate := v.loaded()
		require.NoError(t, gate.Close())
		time.Sleep(time.Hour)
		online := v.Open()
		assert.True(t, online.Has("export"), "the file counts here, too")
		_, err := online.Activate(t.Context(), v.Key.Key)
		require.NoError(t, err)
		assert.Equal(t, v.Key.Key, online.Status().Key.Reveal())
		assert.Equal(t, 1, v.Seats())
		require.NoError(t, online.Close())
		time.Sleep(time.Hour)
		offline := v.Open(v.withoutNetwork)
		v.load(offline)
		assert.Equal(t, v.Key.Key, offline.Status().Key.Reveal(), "the key is known still")
		assert.Equal(t, 1, v.Seats())
	})
}

func TestAnotherLicenseByFileGivesTheOneBeforeUp(t *testing.T) {
	inTime(t, nil, func(t *testing.T, v *vendor) {
		gate := v.Activated()
		other := v.Polar.AddKey(polartest.LicenseKey{BenefitID: v.Key.BenefitID, LimitActivations: polartest.Limit(1)})
		first := v.Key
		v.Key.Key = other.Key
		time.Sleep(time.Hour)
		v.load(gate)
		assert.Equal(t, 1, v.Polar.Seats(other.ID))
		assert.Zero(t, v.Polar.Seats(first.ID))
	})
}

// What a lease protects against, a line each in docs/threat-model.md.

func TestALeaseThatIsCopiedToAnotherComputerDoesNotCountThere(t *testing.T) {
	inTime(t, nil, func(t *testing.T, v *vendor) {
		gate := v.Open(v.withoutNetwork)
		file := v.load(gate)
		another := func(c *polargate.Config) { c.Fingerprint, c.Label = "another computer", "another" }

		copied := v.Open(v.withoutNetwork, another) // with the whole state folder
		assert.False(t, copied.Has("export"))
		assert.Equal(t, polargate.ErrOtherMachine, copied.Status().Reason)
		_, err := copied.Move(t.Context())
		require.ErrorIs(t, err, polargate.ErrOtherMachine)
		_, err = copied.ActivateFile([]byte(file))
		require.ErrorIs(t, err, polargate.ErrOtherMachine)
		assert.Contains(t, polargate.Message(err), "for another computer")
		assert.False(t, copied.Has("export"))

		empty := v.Open(v.withoutNetwork, another, func(c *polargate.Config) { c.Store = &polargate.MemoryStore{} })
		_, err = empty.ActivateFile([]byte(file))
		require.ErrorIs(t, err, polargate.ErrOtherMachine)
		assert.Equal(t, polargate.Unlicensed, empty.Status().State)
		assert.True(t, gate.Has("export"))
	})
}

func TestALeaseThatIsEditedAnywhereDoesNotCount(t *testing.T) {
	inTime(t, nil, func(t *testing.T, v *vendor) {
		gate := v.Open(v.withoutNetwork)
		request, err := gate.OfflineRequest()
		require.NoError(t, err)
		file := v.page(request)
		for i := 0; i < len(file); i += 7 {
			edited := []byte(file)
			edited[i] ^= 1
			if strings.EqualFold(string(edited), file) && string(edited) == file {
				continue
			}
			_, err := gate.ActivateFile(edited)
			require.Error(t, err, "byte %d", i)
			require.Equal(t, polargate.ErrBadLease, kit.ReasonOf(err), "byte %d: %v", i, err)
			require.Equal(t, polargate.Unlicensed, gate.Status().State)
		}
		for _, useless := range []string{"", file[:200], file + file, request, lease.Armor(request), "{}"} {
			_, err := gate.ActivateFile([]byte(useless))
			require.ErrorIs(t, err, polargate.ErrBadLease)
		}
		_, err = gate.ActivateFile([]byte(file))
		require.NoError(t, err)
	})
}

func TestAClockThatIsSetBackBuysALeaseNoTime(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		back time.Duration
		want polargate.State
	}{
		"by less than an hour": {50 * time.Minute, polargate.Locked}, // the later time counts
		"by ten days":          {10 * kit.Day, polargate.Locked},
		"by forty days":        {40 * kit.Day, polargate.Locked},
		"not at all":           {0, polargate.Locked},
	} {
		t.Run(name, func(t *testing.T) {
			inTime(t, nil, func(t *testing.T, v *vendor) {
				var back atomic.Int64 // background work reads the clock, too
				v.Config.Clock = func() time.Time { return time.Now().Add(-time.Duration(back.Load())) }
				gate := v.Open(v.withoutNetwork)
				file := v.load(gate)
				time.Sleep(36 * kit.Day)
				_, err := gate.Check(t.Context())
				require.NoError(t, err)
				time.Sleep(kit.Day)
				_, err = gate.Check(t.Context())
				require.ErrorIs(t, err, polargate.ErrGraceEnded)
				back.Store(int64(c.back))
				status, _ := gate.Check(t.Context())
				assert.Equal(t, c.want, status.State)
				_, err = gate.ActivateFile([]byte(file))
				if err == nil {
					assert.Equal(t, polargate.Locked, gate.Status().State, "the same file again changes nothing")
				}
				require.NoError(t, gate.Close())
				next := v.Open(v.withoutNetwork)
				status, _ = next.Check(t.Context())
				assert.Equal(t, polargate.Locked, status.State, "in the next run: %s", status.Reason)
			})
		})
	}
}

// The two clocks are never quite equal: five minutes are no forgery, by rule.
func TestALeaseCountsIfTheComputersClockIsFiveMinutesOff(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		off  time.Duration
		want polargate.Reason
	}{
		"two seconds behind":               {-2 * time.Second, ""},
		"five minutes behind":              {-5 * time.Minute, ""},
		"five minutes and a second behind": {-5*time.Minute - time.Second, polargate.ErrClockSetBack},
		"a day behind":                     {-kit.Day, polargate.ErrClockSetBack},
		"five minutes ahead":               {5 * time.Minute, ""},
		"twenty days ahead":                {20 * kit.Day, ""},
		"forty days ahead":                 {40 * kit.Day, polargate.ErrExpired},
	} {
		t.Run(name, func(t *testing.T) {
			inTime(t, nil, func(t *testing.T, v *vendor) {
				v.Config.Clock = func() time.Time { return time.Now().Add(c.off) }
				gate := v.Open(v.withoutNetwork)
				request, err := gate.OfflineRequest()
				require.NoError(t, err)
				_, err = gate.ActivateFile([]byte(v.page(request)))
				assert.Equal(t, c.want, kit.ReasonOf(err), "%v", err)
				if c.want == "" {
					assert.True(t, gate.Has("export"))
				}
			})
		})
	}
}

// Over the network the server's own time is known, so that a wrong clock locks nobody out.
func TestALeaseOverTheNetworkCountsWhateverTheClockShows(t *testing.T) {
	t.Parallel()
	for name, off := range map[string]time.Duration{
		"a year behind": -365 * kit.Day, "a day behind": -kit.Day, "ten minutes behind": -10 * time.Minute, "a day ahead": kit.Day, "ten days ahead": 10 * kit.Day,
	} {
		t.Run(name, func(t *testing.T) {
			inTime(t, nil, func(t *testing.T, v *vendor) {
				v.Config.Clock = func() time.Time { return time.Now().Add(off) }
				gate := v.Activated()
				time.Sleep(20 * kit.Day)
				_, err := gate.Check(t.Context())
				require.NoError(t, err)
				v.says(away)
				time.Sleep(50 * kit.Day)
				_, err = gate.Check(t.Context())
				require.ErrorIs(t, err, polargate.ErrGraceEnded)
			})
		})
	}
}

// Whoever keeps leases back and hands them to the program a month later gains a day.
func TestALeaseThatWasKeptBackIsNotStretchedByMoreThanADay(t *testing.T) {
	inTime(t, nil, func(t *testing.T, v *vendor) {
		gate := v.Activated()
		time.Sleep(time.Minute)
		kept := ""
		v.says(func(_ *http.Request, real func() *http.Response) (*http.Response, error) {
			body, err := io.ReadAll(real().Body)
			require.NoError(t, err)
			kept = string(body)
			return nil, io.ErrUnexpectedEOF
		})
		_, err := gate.Refresh(t.Context())
		require.Error(t, err)
		time.Sleep(36 * kit.Day)
		v.says(always(200, "text/plain", kept))
		_, err = gate.Refresh(t.Context())
		require.NoError(t, err)
		v.says(away)
		time.Sleep(3 * kit.Day)
		_, err = gate.Check(t.Context())
		require.ErrorIs(t, err, polargate.ErrGraceEnded)
	})
}

func TestAFloatingLeaseCountsIfTheClockIsADayOff(t *testing.T) {
	t.Parallel()
	for _, off := range []time.Duration{-kit.Day, kit.Day} {
		t.Run(off.String(), func(t *testing.T) {
			inTime(t, pool(1), func(t *testing.T, v *vendor) {
				v.Config.Clock = func() time.Time { return time.Now().Add(off) }
				gate := v.Activated()
				v.says(away)
				time.Sleep(119 * time.Second)
				assert.True(t, gate.Has("export"))
				time.Sleep(time.Minute)
				assert.False(t, gate.Has("export"))
			})
		})
	}
}

func TestAnOlderLeaseCannotBePutBack(t *testing.T) {
	inTime(t, nil, func(t *testing.T, v *vendor) {
		gate := v.Open(v.withoutNetwork)
		older := v.load(gate)
		time.Sleep(kit.Day)
		newer := v.load(gate)
		until := gate.Status().GraceUntil
		_, err := gate.ActivateFile([]byte(older))
		require.ErrorIs(t, err, polargate.ErrBadLease)
		assert.Contains(t, polargate.Message(err), "replaced by a newer one")
		assert.Equal(t, until, gate.Status().GraceUntil)

		require.NoError(t, gate.Deactivate(t.Context()))
		for _, file := range []string{older, newer} {
			_, err = gate.ActivateFile([]byte(file))
			require.ErrorIs(t, err, polargate.ErrBadLease, "a license that was given up")
		}
		require.NoError(t, gate.Close())
		next := v.Open(v.withoutNetwork)
		_, err = next.ActivateFile([]byte(newer))
		require.ErrorIs(t, err, polargate.ErrBadLease, "nor in the next run")
	})
}

func TestALeaseCannotBePutBackAfterARefusal(t *testing.T) {
	inTime(t, nil, func(t *testing.T, v *vendor) {
		gate, file := v.Open(), ""
		v.says(func(_ *http.Request, real func() *http.Response) (*http.Response, error) {
			answer := real()
			body, err := io.ReadAll(answer.Body)
			require.NoError(t, err)
			file = string(body) // as somebody between the two can read it
			return always(200, "text/plain", file)(nil, nil)
		})
		_, err := gate.Activate(t.Context(), v.Key.Key)
		require.NoError(t, err)
		v.says(nil)
		v.Polar.Revoke(v.Key.ID)
		_, err = gate.Refresh(t.Context())
		require.ErrorIs(t, err, polargate.ErrInactive)
		_, err = gate.ActivateFile([]byte(file))
		require.ErrorIs(t, err, polargate.ErrBadLease)
		assert.Equal(t, polargate.Locked, gate.Status().State)
	})
}

// Who puts a whole folder back, or deletes it, gets what the lease in it still has.
func TestAFolderThatIsPutBackGainsNoMoreThanTheLifeOfItsLease(t *testing.T) {
	inTime(t, nil, func(t *testing.T, v *vendor) {
		folder := t.TempDir()
		v.Config.Store = polargate.FileStore(folder)
		gate := v.loaded()
		backup := filepath.Join(t.TempDir(), "backup")
		require.NoError(t, os.CopyFS(backup, os.DirFS(folder)))
		require.NoError(t, gate.Deactivate(t.Context()))
		require.NoError(t, gate.Close())
		require.NoError(t, os.RemoveAll(folder))
		require.NoError(t, os.CopyFS(folder, os.DirFS(backup)))
		back := v.Open(v.withoutNetwork)
		assert.True(t, back.Has("export"))
		time.Sleep(37 * kit.Day)
		_, err := back.Check(t.Context())
		require.ErrorIs(t, err, polargate.ErrGraceEnded)
	})
}

func TestAKeyThatPolarRevokedEndsWithItsLease(t *testing.T) {
	inTime(t, nil, func(t *testing.T, v *vendor) {
		gate := v.loaded()
		v.Polar.Revoke(v.Key.ID)
		time.Sleep(36 * kit.Day)
		_, err := gate.Check(t.Context())
		require.NoError(t, err, "bounded by the life of the lease")
		request, err := gate.OfflineRequest()
		require.NoError(t, err)
		_, err = v.tryPage(request)
		require.ErrorIs(t, err, polargate.ErrInactive)
		time.Sleep(kit.Day)
		_, err = gate.Check(t.Context())
		require.ErrorIs(t, err, polargate.ErrGraceEnded)
	})
}

func TestASigningKeyThatWasStolenIsReplacedByItsSuccessor(t *testing.T) {
	inTime(t, nil, func(t *testing.T, v *vendor) {
		gate := v.Activated() // pins the first and the second key
		v.config.Key = privateKey(2)
		v.restart()
		time.Sleep(16 * kit.Day)
		status, err := gate.Refresh(t.Context())
		require.NoError(t, err, "a program that is out there takes the successor")
		assert.Equal(t, polargate.Active, status.State)
		require.NoError(t, gate.Close())

		// The update pins the second and a third, and doesn't know the stolen one any more.
		v.Config.LeaseKeys = []ed25519.PublicKey{public(privateKey(2)), public(privateKey(3))}
		updated := v.Open()
		assert.True(t, updated.Has("export"))
		time.Sleep(time.Hour)
		_, err = updated.ActivateFile([]byte(signed(v, privateKey(1), lease.Claims{})))
		require.ErrorIs(t, err, polargate.ErrBadLease)
		assert.Contains(t, polargate.Message(err), "another version of this program")
		_, err = updated.ActivateFile([]byte(signed(v, privateKey(3), lease.Claims{})))
		require.NoError(t, err)
	})
}

// A program that knows how states are sealed can seal whatever it wants.
func TestAStateWithALeaseOfAnUnknownKeyIsNoLicense(t *testing.T) {
	inTime(t, nil, func(t *testing.T, v *vendor) {
		forger := v.Open(v.withoutNetwork, func(c *polargate.Config) { c.LeaseKeys = []ed25519.PublicKey{public(privateKey(66))} })
		_, err := forger.ActivateFile([]byte(signed(v, privateKey(66), lease.Claims{})))
		require.NoError(t, err)
		require.NoError(t, forger.Close())
		gate := v.Open(v.withoutNetwork)
		status, err := gate.Check(t.Context())
		require.ErrorIs(t, err, polargate.ErrBadLease)
		assert.Equal(t, polargate.Locked, status.State)
		assert.False(t, gate.Has("export"))
		v.load(gate)
	})
}

func TestALicenseFileOfAnotherProductIsRefused(t *testing.T) {
	inTime(t, func(c *issuer.Config) { c.Features = nil }, func(t *testing.T, v *vendor) {
		gate := v.Open(v.withoutNetwork)
		other := v.Polar.AddKey(polartest.LicenseKey{LimitActivations: polartest.Limit(1)})
		v.Key.Key = other.Key
		request, err := gate.OfflineRequest()
		require.NoError(t, err)
		_, err = gate.ActivateFile([]byte(v.page(request)))
		require.ErrorIs(t, err, polargate.ErrWrongBenefit)
		assert.Equal(t, polargate.Unlicensed, gate.Status().State)
	})
}

func TestATrialInAFileNeedsNoLicenseKey(t *testing.T) {
	inTime(t, nil, func(t *testing.T, v *vendor) {
		text, err := lease.Sign(privateKey(1), lease.Claims{
			ID: "T1", OrganizationID: v.Polar.OrganizationID(), Fingerprint: kit.ThisMachine, Features: []string{"export"},
			Issued: time.Now(), Expires: time.Now().Add(14 * kit.Day), Trial: true,
		})
		require.NoError(t, err)
		gate := v.Open(v.withoutNetwork)
		status, err := gate.ActivateFile([]byte(text))
		require.NoError(t, err)
		assert.Equal(t, polargate.InTrial, status.State)
		assert.True(t, time.Now().Add(14*kit.Day).Equal(status.TrialUntil), status.TrialUntil)
		assert.Equal(t, []string{"export"}, status.Features)
		time.Sleep(14*kit.Day + time.Minute)
		synctest.Wait()
		assert.False(t, gate.Has("export"))
		status, err = gate.Check(t.Context())
		require.ErrorIs(t, err, polargate.ErrTrialEnded)
		assert.Equal(t, polargate.Unlicensed, status.State)
	})
}

func TestWhatIsStoredAndLoggedOfALeaseTellsNoSecret(t *testing.T) {
	inTime(t, nil, func(t *testing.T, v *vendor) {
		folder := t.TempDir()
		v.Config.Store = polargate.FileStore(folder)
		gate := v.Activated()
		file := v.load(gate)
		_, refused := gate.ActivateFile([]byte(file[:300]))
		require.Error(t, refused)
		files, err := os.ReadDir(folder)
		require.NoError(t, err)
		for _, f := range files {
			data, err := os.ReadFile(filepath.Join(folder, f.Name()))
			require.NoError(t, err)
			for _, secret := range []string{v.Key.Key, file, file[:100]} {
				assert.False(t, bytes.Contains(data, []byte(secret)), f.Name())
				assert.NotContains(t, v.log.String(), secret)
				assert.NotContains(t, refused.Error(), secret)
			}
		}
	})
}
