package polargate_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/polargate/polargate"
	"github.com/polargate/polargate/polartest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// takenElsewhere takes a seat of the world's key as a program would that speaks
// to Polar by itself.
func (w *world) takenElsewhere(conditions map[string]any) polargate.ImportedActivation {
	w.t.Helper()
	return w.takenOf(w.key.Key, conditions)
}

func (w *world) takenOf(licenseKey string, conditions map[string]any) polargate.ImportedActivation {
	w.t.Helper()
	client, err := polargate.NewClient(polargate.ClientConfig{
		OrganizationID: w.polar.OrganizationID(), BaseURL: w.polar.URL(), HTTPClient: w.polar.Client(),
	})
	require.NoError(w.t, err)
	key, err := polargate.ParseKey(licenseKey)
	require.NoError(w.t, err)
	activation, err := client.Activate(w.t.Context(), polargate.ActivateRequest{Key: key, Label: "the old program", Conditions: conditions})
	require.NoError(w.t, err)
	w.polar.ForgetRequests()
	return polargate.ImportedActivation{Key: licenseKey, ActivationID: activation.ID, Conditions: conditions}
}

// live are the ids of the seats that are taken of a key.
func (w *world) live(keyID string) (ids []string) {
	key, _ := w.polar.LicenseKey(keyID)
	for _, a := range key.Activations {
		if !a.Released {
			ids = append(ids, a.ID)
		}
	}
	return ids
}

func TestAnImportedSeatGoesOnUnderItsOwnConditions(t *testing.T) {
	t.Parallel()
	for name, conditions := range map[string]map[string]any{
		"none":                     nil,
		"empty ones":               {},
		"a host name":              {"hostname": "ada-laptop"},
		"numbers":                  {"major": 2, "ratio": 0.1, "big": int64(9007199254740993), "negative": -1},
		"truth values":             {"trial": false, "beta": true},
		"characters of HTML":       {"<fingerprint> & \"more\"": "a<b>&'c'\u2028"},
		"other scripts":            {"Gerät": "Zoë's Büro 日本語 🖋"},
		"one like ours, but other": {"fingerprint": "of another kind"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, limit(1))
				w.config.FreshFor = time.Hour
				old := w.takenElsewhere(conditions)
				gate := w.open()
				status, err := gate.Import(t.Context(), old)
				require.NoError(t, err)
				assert.Equal(t, polargate.Active, status.State)
				assert.Equal(t, w.key.Key, status.Key.Reveal())
				assert.Equal(t, []string{"export", "sync"}, status.Features)
				assert.True(t, gate.Has("export"))
				assert.False(t, status.Unsaved)
				_, err = gate.Refresh(t.Context())
				require.NoError(t, err)
				require.NoError(t, gate.Close())

				next := w.open()
				assert.True(t, next.Has("export"), "stored")
				time.Sleep(2 * time.Hour)
				_, err = next.Check(t.Context())
				require.NoError(t, err)
				_, err = next.Consume(t.Context(), 1)
				require.NoError(t, err)
				_, err = next.Activate(t.Context(), w.key.Key)
				require.NoError(t, err, "Activate goes on with it as well")

				for _, r := range w.polar.Requests() {
					var body struct {
						ActivationID string         `json:"activation_id"`
						Conditions   map[string]any `json:"conditions"`
					}
					decoder := json.NewDecoder(strings.NewReader(string(r.Body)))
					decoder.UseNumber()
					require.NoError(t, decoder.Decode(&body))
					assert.Equal(t, old.ActivationID, body.ActivationID)
					assert.Len(t, body.Conditions, len(conditions))
					for name, value := range conditions {
						assert.Equal(t, fmt.Sprint(value), fmt.Sprint(body.Conditions[name]), "as they were")
					}
				}
				assert.Zero(t, w.polar.Count(pathActivate), "no seat is taken")
				assert.Equal(t, []string{old.ActivationID}, w.live(w.key.ID))

				require.NoError(t, next.Deactivate(t.Context()))
				assert.Empty(t, w.live(w.key.ID), "it is this installation's to give back")
				assert.False(t, next.Has("export"))
			})
		})
	}
	t.Run("and the caller's map may be changed afterwards", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			old := w.takenElsewhere(map[string]any{"hostname": "ada-laptop"})
			gate := w.open()
			_, err := gate.Import(t.Context(), old)
			require.NoError(t, err)
			old.Conditions["hostname"] = "another"
			_, err = gate.Refresh(t.Context())
			require.NoError(t, err)
		})
	})
	t.Run("and the key and the id may be pasted", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			old := w.takenElsewhere(nil)
			old.Key = " \"" + old.Key + "\"\n"
			old.ActivationID = strings.ToUpper(old.ActivationID)
			gate := w.open()
			_, err := gate.Import(t.Context(), old)
			require.NoError(t, err)
			require.NoError(t, gate.Deactivate(t.Context()))
			assert.Empty(t, w.live(w.key.ID))
		})
	})
}

func TestAnImportThatFailsChangesNothing(t *testing.T) {
	t.Parallel()
	type activation = polargate.ImportedActivation
	for name, test := range map[string]struct {
		happens func(*world, *activation)
		want    polargate.Reason
	}{
		"other conditions":       {func(_ *world, a *activation) { a.Conditions = map[string]any{"hostname": "other"} }, polargate.ErrConditionsMismatch},
		"none of the conditions": {func(_ *world, a *activation) { a.Conditions = nil }, polargate.ErrConditionsMismatch},
		"one condition more":     {func(_ *world, a *activation) { a.Conditions = map[string]any{"hostname": "ada", "more": 1} }, polargate.ErrConditionsMismatch},
		"a seat that was released": {func(w *world, a *activation) {
			w.polar.Update(w.key.ID, func(k *polartest.LicenseKey) { k.Activations[0].Released = true })
		}, polargate.ErrSeatReleased},
		"a seat that never was":   {func(_ *world, a *activation) { a.ActivationID = "6b43a9a5-8d86-4c5a-9c5e-3a1f9a0b7c11" }, polargate.ErrSeatReleased},
		"an unknown key":          {func(_ *world, a *activation) { a.Key = "POLAR-WHAT-IS-THIS-KEY" }, polargate.ErrUnknownKey},
		"the key in another case": {func(_ *world, a *activation) { a.Key = strings.ToLower(a.Key) + "x" }, polargate.ErrUnknownKey},
		"a key that was rotated":  {func(w *world, _ *activation) { w.polar.Rotate(w.key.ID) }, polargate.ErrUnknownKey},
		"a revoked key":           {func(w *world, _ *activation) { w.polar.Revoke(w.key.ID) }, polargate.ErrInactive},
		"an expired key":          {func(w *world, _ *activation) { expireAt(w, time.Now()) }, polargate.ErrExpired},
		"another product's key": {func(w *world, _ *activation) {
			w.polar.Update(w.key.ID, func(k *polartest.LicenseKey) { k.BenefitID = "6b43a9a5-8d86-4c5a-9c5e-3a1f9a0b7c11" })
		}, polargate.ErrWrongBenefit},
		"no network":             {func(w *world, _ *activation) { w.polar.SetOffline(true) }, polargate.ErrUnreachable},
		"a login page":           {func(w *world, _ *activation) { w.inject("", 0, polartest.LoginPage(200)) }, polargate.ErrUnreachable},
		"a redirect":             {func(w *world, _ *activation) { w.inject("", 0, polartest.LoginPage(302)) }, polargate.ErrUnreachable},
		"a server that fails":    {func(w *world, _ *activation) { w.inject("", 0, polartest.ServerError(500)) }, polargate.ErrUnreachable},
		"an answer that is lost": {func(w *world, _ *activation) { w.inject("", 0, polartest.AnswerLost()) }, polargate.ErrUnreachable},
		"an empty object":        {func(w *world, _ *activation) { w.inject("", 0, polartest.Body(200, applicationJSON, "{}")) }, polargate.ErrUnreachable},
		"the router's 404":       {func(w *world, _ *activation) { w.inject("", 0, polartest.RouterNotFound()) }, polargate.ErrUnreachable},
		"a pause":                {func(w *world, _ *activation) { w.inject("", 0, polartest.RateLimited("30")) }, polargate.ErrRateLimited},
		"another seat's answer": {func(w *world, _ *activation) {
			w.inject("", 0, polartest.Rewrite(func(status int, _ http.Header, body []byte) (int, []byte) {
				return status, []byte(strings.ReplaceAll(string(body), w.now().Activations[0].ID, "6b43a9a5-8d86-4c5a-9c5e-3a1f9a0b7c11"))
			}))
		}, polargate.ErrUnreachable},
	} {
		for held, hold := range map[string]bool{"nothing is held": false, "a license is held": true} {
			t.Run(name+", while "+held, func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					w := newWorld(t)
					own := w.polar.AddKey(polartest.LicenseKey{LimitActivations: polartest.Limit(1), BenefitID: w.key.BenefitID})
					old := w.takenElsewhere(map[string]any{"hostname": "ada"})
					store := &brittleStore{}
					w.config.Store = store
					gate := w.open()
					if hold {
						_, err := gate.Activate(t.Context(), own.Key)
						require.NoError(t, err)
					}
					before, stored, seat := gate.Status(), store.contents(), w.live(own.ID)
					test.happens(w, &old)
					there := w.live(w.key.ID)
					w.polar.ForgetRequests()

					status, err := gate.Import(t.Context(), old)
					require.ErrorIs(t, err, test.want)
					assert.NotErrorIs(t, err, polargate.ErrInDoubt)
					assert.Contains(t, err.Error(), "import")
					assert.NotContains(t, err.Error(), old.Key)
					assert.NotEmpty(t, polargate.Message(err))
					assert.Equal(t, before.State, status.State)
					assert.Equal(t, before.Reason, status.Reason)
					assert.Equal(t, before.Key, status.Key)
					assert.Equal(t, before.CheckedAt, status.CheckedAt)
					assert.Equal(t, hold, gate.Has("export"))
					assert.Equal(t, stored, store.contents())
					assert.Equal(t, there, w.live(w.key.ID), "nobody's seat is given back")
					assert.Equal(t, seat, w.live(own.ID))
					assert.Zero(t, w.polar.Count(pathActivate))
					assert.Zero(t, w.polar.Count(pathDeactivate))
					if hold {
						w.polar.ClearFaults()
						w.polar.SetOffline(false)
						time.Sleep(time.Minute)
						_, err = gate.Refresh(t.Context())
						require.NoError(t, err)
					}
				})
			})
		}
	}
}

func TestAnImportThatCannotBeRightIsNotSent(t *testing.T) {
	t.Parallel()
	const id = "6b43a9a5-8d86-4c5a-9c5e-3a1f9a0b7c11"
	for name, a := range map[string]polargate.ImportedActivation{
		"nothing":                   {},
		"no key":                    {ActivationID: id},
		"an empty key":              {Key: " \n\"\" ", ActivationID: id},
		"a key that is too long":    {Key: strings.Repeat("K", 513), ActivationID: id},
		"a key that is no text":     {Key: "POLAR-\xff\xfe-KEY-KEY-KEY", ActivationID: id},
		"no id":                     {Key: "POLAR-0123456789-KEY"},
		"an id that is none":        {Key: "POLAR-0123456789-KEY", ActivationID: "seat 1"},
		"an id of another version":  {Key: "POLAR-0123456789-KEY", ActivationID: "6b43a9a5-8d86-1c5a-9c5e-3a1f9a0b7c11"},
		"an id with a space":        {Key: "POLAR-0123456789-KEY", ActivationID: id + " "},
		"a list for a condition":    {Key: "POLAR-0123456789-KEY", ActivationID: id, Conditions: map[string]any{"a": []string{"b"}}},
		"nothing for a condition":   {Key: "POLAR-0123456789-KEY", ActivationID: id, Conditions: map[string]any{"a": nil}},
		"an empty condition":        {Key: "POLAR-0123456789-KEY", ActivationID: id, Conditions: map[string]any{"a": ""}},
		"a condition without name":  {Key: "POLAR-0123456789-KEY", ActivationID: id, Conditions: map[string]any{"": "b"}},
		"a channel for a condition": {Key: "POLAR-0123456789-KEY", ActivationID: id, Conditions: map[string]any{"a": make(chan int)}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				gate := w.activated()
				w.polar.ForgetRequests()
				status, err := gate.Import(t.Context(), a)
				var wrong *polargate.InputError
				require.ErrorAs(t, err, &wrong)
				assert.NotContains(t, err.Error(), "0123456789")
				assert.Equal(t, polargate.Active, status.State)
				assert.Zero(t, w.polar.Count(""))
			})
		})
	}
	t.Run("without a context, or on a closed gate", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			old := w.takenElsewhere(nil)
			gate := w.open()
			var none context.Context
			_, err := gate.Import(none, old)
			var wrong *polargate.InputError
			require.ErrorAs(t, err, &wrong)
			require.NoError(t, gate.Close())
			_, err = gate.Import(t.Context(), old)
			require.ErrorIs(t, err, polargate.ErrClosed)
			assert.Zero(t, w.polar.Count(""))
		})
	})
}

func TestAnImportReplacesTheLicenseThatWasHeld(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		same, offline bool
	}{
		"of another key":  {false, false},
		"of the same key": {true, false},
		"and gives its seat back later if need be":     {false, true},
		"and that of the same key later, too, if need": {true, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				own := w.key
				if !test.same {
					own = w.polar.AddKey(polartest.LicenseKey{LimitActivations: polartest.Limit(1), BenefitID: w.key.BenefitID})
				}
				old := w.takenElsewhere(map[string]any{"hostname": "ada"})
				gate := w.open()
				_, err := gate.Activate(t.Context(), own.Key)
				require.NoError(t, err)
				if test.offline {
					w.inject(pathDeactivate, 0, polartest.ServerError(500))
				}
				_, err = gate.Import(t.Context(), old)
				require.NoError(t, err)
				synctest.Wait()
				if test.offline {
					assert.Equal(t, 2, len(w.live(w.key.ID))+len(w.live(own.ID))-map[bool]int{true: 2, false: 0}[test.same])
					require.NoError(t, gate.Close())
					w.polar.ClearFaults()
					gate = w.open()
					_, err = gate.Refresh(t.Context())
					require.NoError(t, err)
					synctest.Wait()
				}
				if !test.same {
					assert.Empty(t, w.live(own.ID))
				}
				assert.Equal(t, []string{old.ActivationID}, w.live(w.key.ID))
				assert.True(t, gate.Has("export"))
				_, err = gate.Refresh(t.Context())
				require.NoError(t, err)
				require.NoError(t, gate.Deactivate(t.Context()))
				assert.Empty(t, w.live(w.key.ID))
			})
		})
	}
	t.Run("and not if it is the same", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, limit(1))
			old := w.takenElsewhere(map[string]any{"hostname": "ada"})
			gate := w.open()
			for range 3 {
				_, err := gate.Import(t.Context(), old)
				require.NoError(t, err)
				_, err = w.open().Import(t.Context(), old)
				require.NoError(t, err, "by another process as well")
			}
			_, err := gate.Activate(t.Context(), w.key.Key)
			require.NoError(t, err)
			assert.Equal(t, []string{old.ActivationID}, w.live(w.key.ID))
			assert.Zero(t, w.polar.Count(pathActivate))
			assert.Zero(t, w.polar.Count(pathDeactivate))
		})
	})
	t.Run("one that waits to be given back is taken up again", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, limit(1))
			old := w.takenElsewhere(map[string]any{"hostname": "ada"})
			gate := w.open()
			_, err := gate.Import(t.Context(), old)
			require.NoError(t, err)
			w.inject(pathDeactivate, 0, polartest.ServerError(500))
			require.Error(t, gate.Deactivate(t.Context()))
			w.polar.ClearFaults()
			_, err = gate.Import(t.Context(), old)
			require.NoError(t, err)
			for range 3 {
				time.Sleep(13 * time.Hour)
				_, err = gate.Refresh(t.Context())
				require.NoError(t, err, "and not given back after all")
			}
			assert.Equal(t, []string{old.ActivationID}, w.live(w.key.ID))
		})
	})
	t.Run("and settles an attempt that was in doubt", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			old := w.takenElsewhere(nil)
			gate := w.open()
			w.inject(pathActivate, 1, polartest.Reset())
			_, err := gate.Activate(t.Context(), w.key.Key)
			require.ErrorIs(t, err, polargate.ErrInDoubt)
			status, err := gate.Import(t.Context(), old)
			require.NoError(t, err)
			assert.Equal(t, polargate.Active, status.State)
			assert.NotErrorIs(t, err, polargate.ErrInDoubt)
		})
	})
}

// The other program's record may be all that is left of the seat.
func TestAnImportThatCannotBeStoredLeavesTheSeatAlone(t *testing.T) {
	t.Parallel()
	for name, break_ := range map[string]func(*brittleStore){
		"the Store fails to save": func(s *brittleStore) { s.set(nil, fails, nil) },
		"the Store fails to lock": func(s *brittleStore) { s.set(nil, nil, fails) },
		"the Store fails to load": func(s *brittleStore) { s.set(fails, nil, nil) },
		"the Store fails at all":  func(s *brittleStore) { s.set(fails, fails, fails) },
	} {
		for held, hold := range map[string]bool{"nothing is held": false, "a license is held": true} {
			t.Run(name+", while "+held, func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					w := newWorld(t)
					own := w.polar.AddKey(polartest.LicenseKey{LimitActivations: polartest.Limit(1), BenefitID: w.key.BenefitID})
					old := w.takenElsewhere(map[string]any{"hostname": "ada"})
					store := &brittleStore{}
					w.config.Store = store
					gate := w.open()
					if hold {
						_, err := gate.Activate(t.Context(), own.Key)
						require.NoError(t, err)
					}
					break_(store)
					status, err := gate.Import(t.Context(), old)
					var bad *polargate.StoreError
					require.ErrorAs(t, err, &bad)
					require.ErrorIs(t, err, errDisk)
					assert.Equal(t, hold, status.OK())
					assert.Equal(t, hold, gate.Has("export"))
					if hold {
						assert.Equal(t, own.Key, status.Key.Reveal())
						assert.Len(t, w.live(own.ID), 1)
					}
					store.set(nil, nil, nil)
					require.NoError(t, gate.Close())
					assert.Equal(t, []string{old.ActivationID}, w.live(w.key.ID))
					assert.Zero(t, w.polar.Count(pathDeactivate))

					next := w.open()
					assert.Equal(t, hold, next.Has("export"))
					_, err = next.Import(t.Context(), old)
					require.NoError(t, err, "it can be tried again")
				})
			})
		}
	}
}

func TestAnImportIntoMemoryIsGivenBackOnClose(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		old := w.takenElsewhere(map[string]any{"hostname": "ada"})
		gate := w.open(ephemeral(polargate.ReleaseOnClose))
		_, err := gate.Import(t.Context(), old)
		require.NoError(t, err)
		require.NoError(t, gate.Close())
		assert.Empty(t, w.live(w.key.ID), "the seat was this installation's own by then")
	})
}

func TestImportsAndActivationsAtOnceTakeOneSeatMoreAtMost(t *testing.T) {
	t.Parallel()
	for name, gates := range map[string]int{"of one gate": 1, "of four gates on one store": 4} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, limit(30))
				w.config.CheckTimeout = time.Minute
				var old []polargate.ImportedActivation
				for range 3 {
					old = append(old, w.takenElsewhere(map[string]any{"hostname": "ada"}))
					time.Sleep(2 * time.Second)
				}
				var all []*polargate.Gate
				for range gates {
					all = append(all, w.open())
				}
				var calls sync.WaitGroup
				for i := range 20 {
					calls.Go(func() {
						ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
						defer cancel()
						var err error
						if gate := all[i%gates]; i%2 == 0 {
							_, err = gate.Import(ctx, old[i%len(old)])
						} else {
							_, err = gate.Activate(ctx, w.key.Key)
						}
						// Another call may have replaced and freed the seat of this one.
						if err != nil {
							assert.ErrorIs(t, err, polargate.ErrSeatReleased)
						}
					})
				}
				calls.Wait()
				time.Sleep(time.Minute)
				assert.LessOrEqual(t, w.polar.Count(pathActivate), 1)
				assert.Len(t, w.live(w.key.ID), 1, "all but the one that is held were given back")
				for _, gate := range all {
					_, err := gate.Refresh(t.Context())
					require.NoError(t, err)
				}
			})
		})
	}
}

func TestACallerWhoGoesAwayLeavesAnImportWhole(t *testing.T) {
	t.Parallel()
	for _, patience := range []time.Duration{0, time.Millisecond, 900 * time.Millisecond, time.Second, 1100 * time.Millisecond} {
		t.Run("after "+patience.String(), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				old := w.takenElsewhere(map[string]any{"hostname": "ada"})
				own := w.polar.AddKey(polartest.LicenseKey{LimitActivations: polartest.Limit(1), BenefitID: w.key.BenefitID})
				gate := w.open()
				_, err := gate.Activate(t.Context(), own.Key)
				require.NoError(t, err)
				w.inject("", 0, polartest.Delay(time.Second))
				ctx, cancel := context.WithTimeout(t.Context(), patience)
				defer cancel()
				_, err = gate.Import(ctx, old)
				if err != nil {
					assert.NotErrorIs(t, err, polargate.ErrInDoubt)
				}
				time.Sleep(time.Minute)
				require.NoError(t, gate.Close())
				next := w.open()
				_, err = next.Refresh(t.Context())
				require.NoError(t, err, "one or the other is held")
				assert.Equal(t, []string{old.ActivationID}, w.live(w.key.ID), "and no seat that is not this one's was given back")
				if next.Status().Key.Reveal() == own.Key {
					assert.Len(t, w.live(own.ID), 1)
				} else {
					assert.Empty(t, w.live(own.ID))
				}
			})
		})
	}
}

func TestAnImportedActivationPrintsWithoutItsKey(t *testing.T) {
	t.Parallel()
	const key = "POLAR-5A3C0D1E-9B7F-4E2A-8C6D-0F1E2D3C4B5A"
	a := polargate.ImportedActivation{Key: key, ActivationID: "6b43a9a5-8d86-4c5a-9c5e-3a1f9a0b7c11", Conditions: map[string]any{"hostname": "ada"}}
	assert.NotContains(t, fmt.Sprintf("%v %+v %#v %s %q %d %x", a, a, a, a, a, a, a), key)
	secrets{key}.assertPrintsNone(t, "an imported activation", a)
	secrets{key}.assertPrintsNone(t, "its address", &a)
}
