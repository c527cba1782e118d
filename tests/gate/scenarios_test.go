package gate

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
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

// The tests of the scenarios tell what happened to users of programs that did
// this by hand, and hold that it does not happen here.

// scene is a subtest in a bubble of its own, where time costs nothing.
func scene(t *testing.T, name string, play func(t *testing.T)) {
	t.Helper()
	t.Run(name, func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, play)
	})
}

// answerFor is what Polar says to a validation of a key, as bytes: what a proxy
// may have kept, or a user recorded.
func answerFor(t *testing.T, w *kit.World, key string) []byte {
	t.Helper()
	time.Sleep(2 * time.Second) // it is not paced with the Gates' requests
	body := fmt.Sprintf(`{"key":%q,"organization_id":%q}`, key, w.Polar.OrganizationID())
	resp, err := w.Polar.Client().Post(w.Polar.URL()+"/v1/customer-portal"+kit.PathValidate, applicationJSON, strings.NewReader(body))
	require.NoError(t, err)
	defer resp.Body.Close()
	var answer bytes.Buffer
	_, err = answer.ReadFrom(resp.Body)
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, resp.StatusCode)
	time.Sleep(2 * time.Second)
	return answer.Bytes()
}

// asksInTheBackground starts Run, in a bubble, and ends it with the test.
func asksInTheBackground(t *testing.T, gate *polargate.Gate) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	go func() { assert.NoError(t, gate.Run(ctx)) }()
	synctest.Wait()
}

// One program wrote "invalid" into its settings at the first 429, and another
// told its users to free a device.
func TestARateLimitNeitherInvalidatesALicenseNorIsShownAsAnActivationLimit(t *testing.T) {
	t.Parallel()
	scene(t, "a license goes on through the pause and is active after it", func(t *testing.T) {
		w := kit.NewWorld(t)
		gate := w.Activated()
		time.Sleep(25 * time.Hour)
		w.Inject("", 1, polartest.RateLimited("60"))
		status, err := gate.Check(t.Context())
		require.NoError(t, err)
		assert.Equal(t, polargate.Grace, status.State)
		assert.Equal(t, polargate.ErrRateLimited, status.Reason)
		assert.True(t, gate.Has("export"))
		asked := w.Polar.Count("")
		for range 10 {
			next := w.Open()
			status, err = next.Check(t.Context())
			require.NoError(t, err, "nor do the next runs of the program lose it")
			assert.True(t, status.Has("export"))
			require.NoError(t, next.Close())
		}
		assert.Equal(t, asked, w.Polar.Count(""), "or ask in the pause")
		time.Sleep(61 * time.Second)
		status, err = gate.Check(t.Context())
		require.NoError(t, err)
		assert.Equal(t, polargate.Active, status.State)
	})
	scene(t, "a first activation hears of a pause, and not of devices", func(t *testing.T) {
		w := kit.NewWorld(t, kit.Limit(1))
		gate := w.Open()
		w.Inject(kit.PathActivate, 1, polartest.RateLimited("20"))
		_, err := gate.Activate(t.Context(), w.Key.Key)
		require.ErrorIs(t, err, polargate.ErrRateLimited)
		assert.NotErrorIs(t, err, polargate.ErrActivationLimit)
		assert.NotErrorIs(t, err, polargate.ErrActivationInDoubt)
		assert.False(t, kit.ReasonOf(err).Denial())
		assert.Contains(t, polargate.Message(err), "20 seconds")
		assert.NotContains(t, polargate.Message(err), "activation")
		_, err = gate.Activate(t.Context(), w.Key.Key)
		require.ErrorIs(t, err, polargate.ErrRateLimited, "a second click is told the same")
		assert.Equal(t, 1, w.Polar.Count(""), "without asking")
		time.Sleep(20 * time.Second)
		_, err = gate.Activate(t.Context(), w.Key.Key)
		require.NoError(t, err)
		assert.Equal(t, 1, w.Seats())
	})
}

// A hotel's login page locked paying guests out for the whole stay, where it was
// a 403; where it was a 200, it gave everybody the full version.
func TestAWebPageInPolarsPlaceNeitherKillsNorUnlocksALicense(t *testing.T) {
	t.Parallel()
	for name, page := range map[string]polartest.Effect{
		"a 403 of a firewall":            polartest.ProxyPage(403),
		"a 404 of a proxy":               polartest.ProxyPage(404),
		"a login page with 200":          polartest.LoginPage(200),
		"a login page with 511":          polartest.LoginPage(511),
		"a page with 200 that says JSON": polartest.Body(200, applicationJSON, `<!doctype html><html>{"status":"granted"}</html>`),
		"a page with 404 that says JSON": polartest.Body(404, applicationJSON, `<!doctype html><html>{"detail":"Not found"}</html>`),
	} {
		scene(t, name+" kills no license", func(t *testing.T) {
			w := kit.NewWorld(t)
			gate := w.Activated()
			w.Inject("", 0, page)
			for range 3 {
				time.Sleep(30 * time.Hour)
				_, err := gate.Refresh(t.Context())
				assertLeavesAlone(t, err)
				_, err = gate.Check(t.Context())
				require.NoError(t, err)
				assert.True(t, gate.Has("export"))
			}
			w.Polar.ClearFaults()
			time.Sleep(time.Hour)
			status, err := gate.Check(t.Context())
			require.NoError(t, err)
			assert.Equal(t, polargate.Active, status.State)
		})
		scene(t, name+" unlocks nothing", func(t *testing.T) {
			w := kit.NewWorld(t)
			gate := w.Activated()
			w.Polar.Revoke(w.Key.ID)
			_, err := gate.Refresh(t.Context())
			require.ErrorIs(t, err, polargate.ErrInactive)
			w.Inject("", 0, page)
			time.Sleep(time.Hour)
			for _, g := range []*polargate.Gate{gate, w.Open(), w.Open(on(kit.ThisMachine, &polargate.MemoryStore{}))} {
				_, err = g.Check(t.Context())
				require.Error(t, err)
				_, err = g.Refresh(t.Context())
				require.Error(t, err)
				_, err = g.Activate(t.Context(), w.Key.Key)
				require.Error(t, err)
				_, err = g.Consume(t.Context(), 1)
				require.Error(t, err)
				assert.False(t, g.Has("export"))
				assert.False(t, g.Status().OK())
			}
		})
	}
	scene(t, "and who sits behind one is told to log in", func(t *testing.T) {
		w := kit.NewWorld(t)
		w.Inject("", 0, polartest.LoginPage(200))
		_, err := w.Open().Activate(t.Context(), w.Key.Key)
		assert.Contains(t, polargate.Message(err), "Wi-Fi")
		assert.Contains(t, polargate.Message(err), polargate.Phrases()["in_doubt.page.do"])
	})
}

// Some asked only for the status 200; others for a field that was not there and
// read as false. A recorded answer for a friend's key passed as one's own.
func TestA200ThatIsNotAboutThisKeyNeitherUnlocksNorKills(t *testing.T) {
	t.Parallel()
	for name, body := range map[string]string{"{}": `{}`, "null": `null`, "a 200 for another key": "", "a refusal of another key": "revoked"} {
		scene(t, name, func(t *testing.T) {
			w := kit.NewWorld(t)
			friends := w.Polar.AddKey(polartest.LicenseKey{LimitActivations: polartest.Limit(9), BenefitID: w.Key.BenefitID})
			answer := []byte(body)
			if body == "" || body == "revoked" {
				answer = answerFor(t, w, friends.Key)
				if body != "" {
					answer = bytes.ReplaceAll(answer, []byte(`"granted"`), []byte(`"revoked"`))
				}
			}
			lie := polartest.Rewrite(func(int, http.Header, []byte) (int, []byte) { return 200, answer })

			holds := w.Activated()
			w.Inject(kit.PathValidate, 0, lie)
			time.Sleep(25 * time.Hour)
			status, err := holds.Check(t.Context())
			require.NoError(t, err, "a license is not killed")
			assert.Equal(t, polargate.Grace, status.State)
			assert.True(t, holds.Has("export"))

			w.Polar.ClearFaults()
			w.Polar.Revoke(w.Key.ID)
			time.Sleep(time.Hour)
			_, err = holds.Check(t.Context())
			require.ErrorIs(t, err, polargate.ErrInactive)
			w.Inject("", 0, lie)
			time.Sleep(time.Hour)
			_, err = holds.Check(t.Context())
			require.ErrorIs(t, err, polargate.ErrInactive, "and one that was refused not unlocked")
			for _, more := range []bool{false, true} {
				newcomer := w.Open(on(kit.ThisMachine, &polargate.MemoryStore{}), func(c *polargate.Config) {
					c.AllowKeysWithoutSeats = more
					if more {
						c.Ephemeral = polargate.ValidateOnly
					}
				})
				_, err = newcomer.Activate(t.Context(), w.Key.Key)
				require.Error(t, err)
				assert.False(t, newcomer.Has("export"), "nor is one begun")
				assert.Equal(t, polargate.Unlicensed, newcomer.Status().State)
			}
		})
	}
}

// The day an old version of the API was switched off, its router's 404 told ten
// thousand programs that their keys had been revoked.
func TestARouteThatIsGoneDoesNotCountAsARevokedKey(t *testing.T) {
	t.Parallel()
	scene(t, "by a license that is held", func(t *testing.T) {
		w := kit.NewWorld(t)
		gate := w.Activated()
		w.Inject("", 0, polartest.RouterNotFound())
		_, err := gate.Refresh(t.Context())
		assertLeavesAlone(t, err)
		_, err = gate.Consume(t.Context(), 1)
		assertLeavesAlone(t, err)
		time.Sleep(13 * kit.Day)
		status, err := gate.Check(t.Context())
		require.NoError(t, err)
		assert.Equal(t, polargate.Grace, status.State)
		assert.True(t, gate.Has("export"))
	})
	scene(t, "by who activates", func(t *testing.T) {
		w := kit.NewWorld(t)
		gate := w.Open()
		w.Inject(kit.PathActivate, 1, polartest.RouterNotFound())
		_, err := gate.Activate(t.Context(), w.Key.Key)
		assertLeavesAlone(t, err)
		assert.NotContains(t, polargate.Message(err), "typing errors")
		_, err = gate.Activate(t.Context(), w.Key.Key)
		require.NoError(t, err)
		assert.Equal(t, 1, w.Seats())
	})
	scene(t, "nor for a seat that was given back", func(t *testing.T) {
		w := kit.NewWorld(t)
		gate := w.Activated()
		w.Inject("", 0, polartest.RouterNotFound())
		err := gate.Deactivate(t.Context())
		assertLeavesAlone(t, err)
		assert.False(t, gate.Has("export"))
		w.Polar.ClearFaults()
		require.Equal(t, 1, w.Seats())
		require.NoError(t, gate.Deactivate(t.Context()))
		assert.Zero(t, w.Seats())
	})
}

// A card failed, was renewed the same evening, and the customer stayed locked
// out; another had paid for a year more and was stopped on the old date.
func TestARevokedLicenseRecoversAndExpiryIsTheOneOfToday(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		lose, regain func(w *kit.World)
		want         polargate.Reason
	}{
		"revoked, then granted again":   {func(w *kit.World) { w.Polar.Revoke(w.Key.ID) }, func(w *kit.World) { w.Polar.Grant(w.Key.ID) }, polargate.ErrInactive},
		"disabled, then granted again":  {edit(func(k *polartest.LicenseKey) { k.Status = "disabled" }), func(w *kit.World) { w.Polar.Grant(w.Key.ID) }, polargate.ErrInactive},
		"expired, then extended":        {func(w *kit.World) { expireAt(w, w.Polar.Now()) }, func(w *kit.World) { expireAt(w, w.Polar.Now().Add(365*kit.Day)) }, polargate.ErrExpired},
		"expired, then without an end":  {func(w *kit.World) { expireAt(w, w.Polar.Now()) }, func(w *kit.World) { expireAt(w, time.Time{}) }, polargate.ErrExpired},
		"deleted by mistake, then back": {edit(func(k *polartest.LicenseKey) { k.Deleted = true }), edit(func(k *polartest.LicenseKey) { k.Deleted = false }), polargate.ErrUnknownKey},
	} {
		scene(t, name, func(t *testing.T) {
			w := kit.NewWorld(t, kit.Limit(2))
			called, watched := w.Activated(), w.Activated(on("another machine", &polargate.MemoryStore{}))
			asksInTheBackground(t, watched)
			test.lose(w)
			time.Sleep(15 * time.Hour)
			_, err := called.Refresh(t.Context())
			require.ErrorIs(t, err, test.want)
			require.False(t, watched.Has("export"))
			time.Sleep(6 * time.Hour)
			test.regain(w)
			status, err := called.Check(t.Context())
			require.NoError(t, err, "the next Check has it")
			assert.Equal(t, polargate.Active, status.State)
			assert.True(t, w.Now().ExpiresAt.Equal(status.ExpiresAt), "with the expiry of today")
			time.Sleep(2 * time.Hour)
			assert.True(t, watched.Has("export"), "and so has a program that only runs, without a restart")
			assert.Equal(t, 2, w.Seats())
			assert.Equal(t, 2, w.Polar.Count(kit.PathActivate), "nothing had to be activated again")
		})
	}
	for name, extended := range map[string]func() time.Time{
		"extended while it ran":      func() time.Time { return time.Now().Add(30 * kit.Day) },
		"made to last while it ran":  func() time.Time { return time.Time{} },
		"shortened, which counts so": func() time.Time { return time.Now().Add(36 * time.Hour) },
	} {
		scene(t, name, func(t *testing.T) {
			w := kit.NewWorld(t, func(k *polartest.LicenseKey) { k.ExpiresAt = time.Now().Add(3 * kit.Day) })
			gate := w.Activated()
			at := extended()
			expireAt(w, at)
			time.Sleep(25 * time.Hour)
			_, err := gate.Check(t.Context())
			require.NoError(t, err)
			w.Polar.SetOffline(true)
			time.Sleep(4 * kit.Day)
			lasts := at.IsZero() || at.After(time.Now())
			assert.Equal(t, lasts, gate.Has("export"), "offline, past the old date")
			assert.Equal(t, lasts, w.Open().Has("export"))
		})
	}
}

// Revoked on Monday, locked on Monday; on Tuesday the user pulled the cable, and
// the program went back to the last good answer that it had kept.
func TestCuttingTheNetworkDoesNotBringBackARefusedKey(t *testing.T) {
	t.Parallel()
	for why, refuse := range map[string]func(*kit.World){
		"revoked":  func(w *kit.World) { w.Polar.Revoke(w.Key.ID) },
		"disabled": edit(func(k *polartest.LicenseKey) { k.Status = "disabled" }),
		"expired":  func(w *kit.World) { expireAt(w, w.Polar.Now()) },
		"deleted":  edit(func(k *polartest.LicenseKey) { k.Deleted = true }),
		"released": edit(func(k *polartest.LicenseKey) { k.Activations[0].Released = true }),
	} {
		for how, notice := range map[string]func(context.Context, *polargate.Gate){
			"at once":               func(ctx context.Context, g *polargate.Gate) { _, _ = g.Refresh(ctx) },
			"by a count":            func(ctx context.Context, g *polargate.Gate) { _, _ = g.Consume(ctx, 1) },
			"by the check of a day": func(ctx context.Context, g *polargate.Gate) { time.Sleep(25 * time.Hour); _, _ = g.Check(ctx) },
			"by a renewal unasked":  func(ctx context.Context, g *polargate.Gate) { time.Sleep(13 * time.Hour); _, _ = g.Check(ctx) },
			"by Run, with no other": func(ctx context.Context, g *polargate.Gate) {
				go func() { _ = g.Run(ctx) }()
				time.Sleep(25 * time.Hour)
			},
			"by another of its runs": nil,
		} {
			if why != "revoked" && how != "at once" && how != "by another of its runs" {
				continue
			}
			scene(t, why+", noticed "+how, func(t *testing.T) {
				w := kit.NewWorld(t)
				gate := w.Activated()
				refuse(w)
				ctx, cancel := context.WithCancel(t.Context())
				if notice != nil {
					notice(ctx, gate)
				} else {
					_, err := w.Open().Refresh(ctx)
					require.Error(t, err)
					gate = w.Open()
				}
				synctest.Wait()
				cancel()
				require.False(t, gate.Has("export"))
				w.Polar.SetOffline(true)
				for _, later := range []time.Duration{time.Second, time.Hour, kit.Day, 20 * kit.Day} {
					time.Sleep(later)
					for _, g := range []*polargate.Gate{gate, w.Open()} {
						_, err := g.Check(t.Context())
						require.Error(t, err)
						_, err = g.Activate(t.Context(), w.Key.Key)
						require.Error(t, err)
						assert.False(t, g.Has("export"))
						assert.Equal(t, polargate.Locked, g.Status().State)
					}
				}
			})
		}
	}
}

// A line in the hosts file made one program free for ever, since each failed
// check only said "later"; the end date that it knew was not looked at offline.
func TestABlockedNetworkLastsAsLongAsGraceAndNeverPastTheKeysEnd(t *testing.T) {
	t.Parallel()
	for name, block := range map[string]func(*kit.World){
		"by pulling the cable": func(w *kit.World) { w.Polar.SetOffline(true) },
		"by a firewall's page": func(w *kit.World) { w.Inject("", 0, polartest.ProxyPage(403)) },
		"by silence":           func(w *kit.World) { w.Inject("", 0, polartest.Hang()) },
		"by a forged 429":      func(w *kit.World) { w.Inject("", 0, polartest.RateLimited("31536000")) },
		"by a forged 200":      func(w *kit.World) { w.Inject("", 0, polartest.Body(200, applicationJSON, `{"status":"granted"}`)) },
	} {
		for what, test := range map[string]struct {
			expires, ends time.Duration
			want          polargate.Reason
		}{
			"":                       {0, 14 * kit.Day, polargate.ErrGraceEnded},
			", a key of three days":  {3 * kit.Day, 3 * kit.Day, polargate.ErrExpired},
			", a key of eight hours": {8 * time.Hour, 8 * time.Hour, polargate.ErrExpired},
		} {
			scene(t, name+what, func(t *testing.T) {
				w := kit.NewWorld(t, func(k *polartest.LicenseKey) {
					if test.expires > 0 {
						k.ExpiresAt = time.Now().Add(test.expires)
					}
				})
				began := time.Now()
				stays := w.Activated()
				if name != "by pulling the cable" {
					require.NoError(t, stays.Close())
					stays = nil
				}
				block(w)
				for _, at := range []time.Duration{time.Hour, 7 * time.Hour, 9 * time.Hour, 2 * kit.Day, 4 * kit.Day, 13 * kit.Day, 15 * kit.Day, 400 * kit.Day} {
					time.Sleep(time.Until(began.Add(at)))
					starts := w.Open()
					status, err := starts.Check(t.Context())
					assert.Equal(t, at < test.ends, err == nil, "after %s", at)
					assert.Equal(t, at < test.ends, starts.Has("export"), "after %s", at)
					if stays != nil {
						assert.Equal(t, at < test.ends, stays.Has("export"), "after %s, in a program that was never closed", at)
					}
					if at > test.ends {
						assert.Equal(t, polargate.Locked, status.State)
						assert.Equal(t, test.want, status.Reason)
					}
					require.NoError(t, starts.Close())
				}
			})
		}
	}
}

// A program in the login items started before the Wi-Fi was up, failed its one
// check of the day, and was a trial version until the next.
func TestAStartBeforeTheNetworkIsUpCostsNoDay(t *testing.T) {
	t.Parallel()
	for name, away := range map[string]time.Duration{"the day after": 25 * time.Hour, "after holidays that were longer than grace": 30 * kit.Day} {
		scene(t, name, func(t *testing.T) {
			w := kit.NewWorld(t)
			apart := on("another machine", &polargate.MemoryStore{})
			require.NoError(t, w.Activated().Close())
			require.NoError(t, w.Activated(apart).Close())
			time.Sleep(away)
			w.Polar.SetOffline(true)
			asked, watched := w.Open(), w.Open(apart)
			_, err := asked.Check(t.Context())
			assert.Equal(t, away < 14*kit.Day, err == nil)
			asksInTheBackground(t, watched)
			time.Sleep(10 * time.Second)
			w.Polar.SetOffline(false)
			time.Sleep(30 * time.Second)
			assert.Equal(t, polargate.Active, watched.Status().State, "within half a minute, by itself")
			assert.True(t, watched.Has("export"))
			status, err := asked.Check(t.Context())
			require.NoError(t, err)
			assert.Equal(t, polargate.Active, status.State, "and at the next call of Check")
		})
	}
	scene(t, "a first check that failed for good does not keep the next from asking", func(t *testing.T) {
		w := kit.NewWorld(t)
		require.NoError(t, w.Activated().Close())
		time.Sleep(30 * kit.Day)
		w.Polar.SetOffline(true)
		gate := w.Open()
		_, err := gate.Check(t.Context())
		require.ErrorIs(t, err, polargate.ErrGraceEnded)
		w.Polar.SetOffline(false)
		status, err := gate.Check(t.Context())
		require.NoError(t, err)
		assert.Equal(t, polargate.Active, status.State)
	})
	scene(t, "nor does a first activation that failed", func(t *testing.T) {
		w := kit.NewWorld(t)
		gate := w.Open()
		w.Polar.SetOffline(true)
		_, err := gate.Activate(t.Context(), w.Key.Key)
		require.ErrorIs(t, err, polargate.ErrUnreachable)
		w.Polar.SetOffline(false)
		_, err = gate.Activate(t.Context(), w.Key.Key)
		require.NoError(t, err)
		assert.Equal(t, 1, w.Seats())
	})
}

// The answer to activate has the key one level deeper than that to validate. Who
// read both alike found an empty status and refused everybody who paid.
func TestTheKeyInsideTheAnswerOfAnActivationIsTheOneThatIsRead(t *testing.T) {
	t.Parallel()
	scene(t, "a paying user gets in", func(t *testing.T) {
		end := time.Now().Add(100 * kit.Day)
		w := kit.NewWorld(t, func(k *polartest.LicenseKey) { k.ExpiresAt = end })
		var answer map[string]json.RawMessage
		w.Inject(kit.PathActivate, 0, polartest.Rewrite(func(status int, _ http.Header, body []byte) (int, []byte) {
			assert.NoError(t, json.Unmarshal(body, &answer))
			return status, body
		}))
		gate := w.Open()
		status, err := gate.Activate(t.Context(), w.Key.Key)
		require.NoError(t, err)
		for _, field := range []string{"status", "benefit_id", "expires_at", "key"} {
			require.NotContains(t, answer, field, "Polar's answer is the one that this is about")
		}
		assert.Equal(t, polargate.Active, status.State)
		assert.Equal(t, w.Key.BenefitID, status.BenefitID)
		assert.True(t, end.Equal(status.ExpiresAt))
		assert.Equal(t, []string{"export", "sync"}, status.Features)
		assert.Equal(t, 1, w.Polar.Count(""), "and nobody has to ask a second time")

		client, err := polargate.NewClient(polargate.ClientConfig{OrganizationID: w.Polar.OrganizationID(), BaseURL: w.Polar.URL(), HTTPClient: w.Polar.Client()})
		require.NoError(t, err)
		defer client.Close()
		key, err := polargate.ParseKey(w.Key.Key)
		require.NoError(t, err)
		seat, err := client.Activate(t.Context(), polargate.ActivateRequest{Key: key})
		require.NoError(t, err)
		require.NotNil(t, seat.LicenseKey)
		assert.Equal(t, polargate.KeyGranted, seat.LicenseKey.Status)
		assert.Equal(t, w.Key.BenefitID, seat.LicenseKey.BenefitID)
	})
	for name, change := range map[string]func(outer, inner map[string]any){
		"a status outside makes up for none inside": func(outer, inner map[string]any) { maps.Copy(outer, inner); delete(inner, "status") },
		"nor does it hide a refusal inside":         func(outer, inner map[string]any) { maps.Copy(outer, inner); inner["status"] = "revoked" },
		"a foreign benefit inside is foreign":       func(outer, inner map[string]any) { maps.Copy(outer, inner); inner["benefit_id"] = otherBenefit },
	} {
		scene(t, name, func(t *testing.T) {
			w := kit.NewWorld(t)
			w.Inject(kit.PathActivate, 1, alteredWhole(func(m map[string]any) { change(m, m["license_key"].(map[string]any)) }))
			gate := w.Open()
			_, err := gate.Activate(t.Context(), w.Key.Key)
			require.Error(t, err)
			assert.False(t, gate.Has("export"))
			assert.Equal(t, polargate.Unlicensed, gate.Status().State)
		})
	}
}

// "No seats left", said activate; the program then asked validate, which knows
// nothing of devices, was told "granted", and opened up on the eleventh laptop.
func TestAKeyInUseOnTheMaximumNumberOfComputersOpensNoOther(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*polargate.Config){
		"by the defaults":                      func(*polargate.Config) {},
		"where keys without seats are allowed": func(c *polargate.Config) { c.AllowKeysWithoutSeats = true },
		"where seats are given back at exit":   func(c *polargate.Config) { c.Ephemeral = polargate.ReleaseOnClose },
	} {
		scene(t, name, func(t *testing.T) {
			w := kit.NewWorld(t, kit.Limit(1))
			w.Activated(on("another machine", &polargate.MemoryStore{}))
			before := w.Now().Validations
			gate := w.Open(change)
			asksInTheBackground(t, gate)
			for range 3 {
				_, err := gate.Activate(t.Context(), w.Key.Key)
				require.ErrorIs(t, err, polargate.ErrActivationLimit)
				_, err = gate.ActivateWait(t.Context(), w.Key.Key)
				require.ErrorIs(t, err, polargate.ErrActivationLimit)
				_, err = gate.Check(t.Context())
				require.ErrorIs(t, err, polargate.ErrNoLicense)
				_, err = gate.Refresh(t.Context())
				require.ErrorIs(t, err, polargate.ErrNoLicense)
				_, err = gate.Consume(t.Context(), 1)
				require.ErrorIs(t, err, polargate.ErrNoLicense)
				for _, g := range []*polargate.Gate{gate, w.Open(change)} {
					assert.False(t, g.Has("export"))
					assert.Equal(t, polargate.Unlicensed, g.Status().State)
				}
				time.Sleep(3 * time.Hour)
			}
			assert.Equal(t, before, w.Now().Validations, "and Polar was not asked in another way")
			assert.Equal(t, 1, w.Seats())
			w.Polar.Update(w.Key.ID, func(k *polartest.LicenseKey) { k.Activations[0].Released = true })
			_, err := gate.Activate(t.Context(), w.Key.Key)
			require.NoError(t, err, "a seat that was freed is another matter")
		})
	}
}

// The cheap plug-in's key opened the expensive program of the same vendor: the
// benefit was written down at activation, and never looked at again.
func TestAKeyForAnotherProductOfTheVendorUnlocksNothing(t *testing.T) {
	t.Parallel()
	scene(t, "when it is entered", func(t *testing.T) {
		w := kit.NewWorld(t)
		plugIn := w.Polar.AddKey(polartest.LicenseKey{LimitActivations: polartest.Limit(5), BenefitID: otherBenefit})
		gate := w.Open()
		_, err := gate.Activate(t.Context(), plugIn.Key)
		require.ErrorIs(t, err, polargate.ErrWrongBenefit)
		kit.Says(t, polargate.Message(err), "wrong_benefit")
		assert.False(t, gate.Has("export"))
		assert.False(t, w.Open().Has("export"))
		synctest.Wait()
		assert.Zero(t, w.Polar.Seats(plugIn.ID), "and costs no seat")
	})
	scene(t, "in the state of the program that it is for", func(t *testing.T) {
		w := kit.NewWorld(t)
		w.Activated()
		other := w.Open(func(c *polargate.Config) { c.Features = map[string][]string{otherBenefit: {"export"}} })
		assert.False(t, other.Has("export"), "with the same name and the same folder")
		assert.Equal(t, polargate.ErrWrongBenefit, other.Status().Reason)
		_, err := other.Check(t.Context())
		require.ErrorIs(t, err, polargate.ErrWrongBenefit)
		w.Polar.SetOffline(true)
		time.Sleep(kit.Day)
		_, err = other.Check(t.Context())
		require.ErrorIs(t, err, polargate.ErrWrongBenefit)
		_, err = other.Consume(t.Context(), 1)
		require.Error(t, err)
	})
	scene(t, "when the customer changes over to it", func(t *testing.T) {
		w := kit.NewWorld(t)
		gate := w.Activated()
		edit(func(k *polartest.LicenseKey) { k.BenefitID = otherBenefit })(w)
		_, err := gate.Refresh(t.Context())
		require.ErrorIs(t, err, polargate.ErrWrongBenefit)
		w.Polar.SetOffline(true)
		assert.False(t, gate.Has("export"))
		assert.False(t, w.Open().Has("export"))
	})
	scene(t, "and of two that are accepted each unlocks its own", func(t *testing.T) {
		w := kit.NewWorld(t)
		w.Config.Features = map[string][]string{w.Key.BenefitID: {"sync"}, otherBenefit: {"export"}}
		gate := w.Activated()
		assert.Equal(t, []bool{true, false}, []bool{gate.Has("sync"), gate.Has("export")})
		edit(func(k *polartest.LicenseKey) { k.BenefitID = otherBenefit })(w)
		_, err := gate.Refresh(t.Context())
		require.NoError(t, err)
		assert.Equal(t, []bool{false, true}, []bool{gate.Has("sync"), gate.Has("export")})
	})
}

// The organization came from a settings file. Users opened a free account at
// Polar, made themselves a key there, and pointed the program at it.
func TestAUserCannotBringKeysFromAnotherOrganization(t *testing.T) {
	const theirs = "8f7ab6a8-4a51-4bb1-9f0a-6f7f7a0a3c11"
	minted := func(w *kit.World) polartest.LicenseKey {
		return w.Polar.AddKey(polartest.LicenseKey{OrganizationID: theirs, BenefitID: w.Key.BenefitID, LimitActivations: polartest.Limit(9)})
	}
	t.Run("by the environment", func(t *testing.T) {
		for _, name := range []string{"POLAR_ORGANIZATION_ID", "POLAR_ORG_ID", "POLARGATE_ORGANIZATION_ID", "POLARGATE_ORGANIZATION", "ORGANIZATION_ID"} {
			t.Setenv(name, theirs)
		}
		for _, name := range []string{"POLAR_API_URL", "POLAR_BASE_URL", "POLAR_SERVER", "POLARGATE_API_URL", "POLARGATE_BASE_URL"} {
			t.Setenv(name, "https://polar.example")
		}
		synctest.Test(t, func(t *testing.T) {
			w := kit.NewWorld(t)
			_, err := polargate.Open(polargate.Config{App: "inkwell", Store: &polargate.MemoryStore{}})
			var input *polargate.InputError
			require.ErrorAs(t, err, &input)
			assert.Equal(t, "OrganizationID", input.Field, "it is the vendor's to give")
			hosts := map[string]bool{}
			to := w.Polar.Transport()
			gate := w.Open(func(c *polargate.Config) {
				c.HTTPClient = &http.Client{Transport: kit.RoundTripper(func(r *http.Request) (*http.Response, error) {
					hosts[r.URL.Scheme+"://"+r.URL.Host] = true
					return to.RoundTrip(r)
				})}
			})
			_, err = gate.Activate(t.Context(), minted(w).Key)
			require.ErrorIs(t, err, polargate.ErrUnknownKey)
			assert.False(t, gate.Has("export"))
			assert.Equal(t, map[string]bool{w.Polar.URL(): true}, hosts)
			assert.Equal(t, w.Polar.Count(""), w.Asks("", w.Polar.OrganizationID()), "each request names the vendor's")
			assert.Zero(t, w.Asks("", theirs))
		})
	})
	scene(t, "by what answers in Polar's place", func(t *testing.T) {
		w := kit.NewWorld(t)
		w.Inject("", 0, altered(set("organization_id", theirs)))
		gate := w.Open()
		_, err := gate.Activate(t.Context(), w.Key.Key)
		assertLeavesAlone(t, err)
		assert.False(t, gate.Has("export"))
	})
	scene(t, "by a state that was made with it", func(t *testing.T) {
		w := kit.NewWorld(t)
		own, held := &kit.BrittleStore{}, &kit.BrittleStore{}
		own1 := minted(w)
		home := w.Open(func(c *polargate.Config) { c.OrganizationID, c.Store = theirs, own })
		_, err := home.Activate(t.Context(), own1.Key)
		require.NoError(t, err)
		w.Config.Store = held
		require.NoError(t, w.Activated().Close())
		for name := range held.Contents() {
			for _, forged := range own.Contents() {
				require.NoError(t, held.MemoryStore.Save(t.Context(), name, forged))
			}
		}
		gate := w.Open()
		assert.False(t, gate.Has("export"))
		assert.Equal(t, polargate.ErrUnreadableState, gate.Status().Reason)
		_, err = gate.Check(t.Context())
		require.Error(t, err)
	})
}

// A key copied out of a mail brought its quotes and a line break along. It was
// "invalid", said the program, to somebody who had just paid.
func TestAKeyIsTakenAsItWasPastedAndAWrongCaseIsHintedAt(t *testing.T) {
	t.Parallel()
	for name, paste := range map[string]string{
		"with spaces": "  KEY ", "with a line break": "KEY\r\n", "in the middle of lines": "\n\n\tKEY\n", "in quotes": `"KEY"`, "in single quotes": "'KEY'",
		"in curly quotes": "“KEY”", "in back ticks": "`KEY`", "with what cannot be seen": "\ufeff\u200bKEY\u00a0\u200b", "with all of it": " \r\n« \"KEY\" »\u2060\n",
	} {
		scene(t, name, func(t *testing.T) {
			w := kit.NewWorld(t, kit.Limit(1))
			gate := w.Open()
			for range 2 {
				_, err := gate.Activate(t.Context(), strings.ReplaceAll(paste, "KEY", w.Key.Key))
				require.NoError(t, err)
			}
			_, err := gate.Activate(t.Context(), w.Key.Key)
			require.NoError(t, err, "and it is the same key as without")
			assert.Equal(t, 1, w.Seats())
			assert.Equal(t, w.Key.Key, gate.Status().Key.Reveal())
		})
	}
	scene(t, "in lower case it is unknown, and the user is told what to look at", func(t *testing.T) {
		w := kit.NewWorld(t)
		gate := w.Open()
		_, err := gate.Activate(t.Context(), strings.ToLower(w.Key.Key))
		require.ErrorIs(t, err, polargate.ErrUnknownKey)
		kit.Says(t, polargate.Message(err), "unknown_key.do")
		kit.Says(t, err.Error(), "unknown_key.do")
	})
	scene(t, "and with nothing in it the user is told where keys are", func(t *testing.T) {
		w := kit.NewWorld(t)
		for _, nothing := range []string{"", " \n", `""`, "\u200b"} {
			_, err := w.Open().Activate(t.Context(), nothing)
			var input *polargate.InputError
			require.ErrorAs(t, err, &input)
			assert.Contains(t, polargate.Message(err), "email", "%q", input.Problem)
		}
		assert.Zero(t, w.Polar.Count(""))
	})
}

// The purchase was thirty seconds old and its key not yet there. The customer
// read "unknown key", and asked for the money back.
func TestAKeyUsedRightAfterThePurchaseIsWaitedForOrSaidToBeYoung(t *testing.T) {
	t.Parallel()
	for _, lag := range []time.Duration{30 * time.Second, 110 * time.Second} {
		scene(t, "ready after "+lag.String(), func(t *testing.T) {
			w := kit.NewWorld(t, kit.Limit(1), func(k *polartest.LicenseKey) { k.VisibleFrom = time.Now().Add(lag) })
			gate := w.Open()
			_, err := gate.Activate(t.Context(), w.Key.Key)
			require.ErrorIs(t, err, polargate.ErrUnknownKey)
			assert.Contains(t, polargate.Message(err), polargate.Phrases()["unknown_key.do"])
			began := time.Now()
			status, err := gate.ActivateWait(t.Context(), w.Key.Key)
			require.NoError(t, err)
			assert.Equal(t, polargate.Active, status.State)
			assert.LessOrEqual(t, time.Since(began), lag+40*time.Second)
			assert.Equal(t, 1, w.Seats())
			assert.LessOrEqual(t, w.Polar.Count(""), 10, "without hammering")
		})
	}
	scene(t, "and a license that was held meanwhile is none the worse", func(t *testing.T) {
		w := kit.NewWorld(t)
		gate := w.Activated()
		young := w.Polar.AddKey(polartest.LicenseKey{LimitActivations: polartest.Limit(1), BenefitID: w.Key.BenefitID, VisibleFrom: time.Now().Add(time.Minute)})
		_, err := gate.Activate(t.Context(), young.Key)
		require.ErrorIs(t, err, polargate.ErrUnknownKey)
		assert.True(t, gate.Has("export"))
		_, err = gate.ActivateWait(t.Context(), young.Key)
		require.NoError(t, err)
		assert.Equal(t, 1, w.Polar.Seats(young.ID))
	})
}
