package gate

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
	"github.com/polargate/polargate/tests/internal/kit"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// takenElsewhere takes a seat of the world's key as a program would that speaks
// to Polar by itself.
func takenElsewhere(w *kit.World, conditions map[string]any) polargate.ImportedActivation {
	w.T.Helper()
	return takenOf(w, w.Key.Key, conditions)
}

func takenOf(w *kit.World, licenseKey string, conditions map[string]any) polargate.ImportedActivation {
	w.T.Helper()
	client, err := polargate.NewClient(polargate.ClientConfig{
		OrganizationID: w.Polar.OrganizationID(), BaseURL: w.Polar.URL(), HTTPClient: w.Polar.Client(),
	})
	require.NoError(w.T, err)
	key, err := polargate.ParseKey(licenseKey)
	require.NoError(w.T, err)
	activation, err := client.Activate(w.T.Context(), polargate.ActivateRequest{Key: key, Label: "the old program", Conditions: conditions})
	require.NoError(w.T, err)
	w.Polar.ForgetRequests()
	return polargate.ImportedActivation{Key: licenseKey, ActivationID: activation.ID, Conditions: conditions}
}

// live are the ids of the seats that are taken of a key.
func live(w *kit.World, keyID string) (ids []string) {
	key, _ := w.Polar.LicenseKey(keyID)
	for _, a := range key.Activations {
		if !a.Released {
			ids = append(ids, a.ID)
		}
	}
	return ids
}

func TestAnImportedActivationKeepsItsConditions(t *testing.T) {
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
				w := kit.NewWorld(t, kit.Limit(1))
				w.Config.FreshFor = time.Hour
				old := takenElsewhere(w, conditions)
				gate := w.Open()
				status, err := gate.Import(t.Context(), old)
				require.NoError(t, err)
				assert.Equal(t, polargate.Active, status.State)
				assert.Equal(t, w.Key.Key, status.Key.Reveal())
				assert.Equal(t, []string{"export", "sync"}, status.Features)
				assert.True(t, gate.Has("export"))
				assert.False(t, status.Unsaved)
				_, err = gate.Refresh(t.Context())
				require.NoError(t, err)
				require.NoError(t, gate.Close())

				next := w.Open()
				assert.True(t, next.Has("export"), "stored")
				time.Sleep(2 * time.Hour)
				_, err = next.Check(t.Context())
				require.NoError(t, err)
				_, err = next.Consume(t.Context(), 1)
				require.NoError(t, err)
				_, err = next.Activate(t.Context(), w.Key.Key)
				require.NoError(t, err, "Activate goes on with it as well")

				for _, r := range w.Polar.Requests() {
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
				assert.Zero(t, w.Polar.Count(kit.PathActivate), "no seat is taken")
				assert.Equal(t, []string{old.ActivationID}, live(w, w.Key.ID))

				require.NoError(t, next.Deactivate(t.Context()))
				assert.Empty(t, live(w, w.Key.ID), "it is this installation's to give back")
				assert.False(t, next.Has("export"))
			})
		})
	}
	t.Run("and the caller's map may be changed afterwards", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			w := kit.NewWorld(t)
			old := takenElsewhere(w, map[string]any{"hostname": "ada-laptop"})
			gate := w.Open()
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
			w := kit.NewWorld(t)
			old := takenElsewhere(w, nil)
			old.Key = " \"" + old.Key + "\"\n"
			old.ActivationID = strings.ToUpper(old.ActivationID)
			gate := w.Open()
			_, err := gate.Import(t.Context(), old)
			require.NoError(t, err)
			require.NoError(t, gate.Deactivate(t.Context()))
			assert.Empty(t, live(w, w.Key.ID))
		})
	})
}

func TestAnImportThatFailsChangesNoLicenseAndIsKeptOnlyWhereThereIsNone(t *testing.T) {
	t.Parallel()
	type activation = polargate.ImportedActivation
	for name, test := range map[string]struct {
		happens func(*kit.World, *activation)
		want    polargate.Reason
	}{
		"other conditions":       {func(_ *kit.World, a *activation) { a.Conditions = map[string]any{"hostname": "other"} }, polargate.ErrConditionsMismatch},
		"none of the conditions": {func(_ *kit.World, a *activation) { a.Conditions = nil }, polargate.ErrConditionsMismatch},
		"one condition more":     {func(_ *kit.World, a *activation) { a.Conditions = map[string]any{"hostname": "ada", "more": 1} }, polargate.ErrConditionsMismatch},
		"a seat that was released": {func(w *kit.World, a *activation) {
			w.Polar.Update(w.Key.ID, func(k *polartest.LicenseKey) { k.Activations[0].Released = true })
		}, polargate.ErrSeatReleased},
		"a seat that never was":   {func(_ *kit.World, a *activation) { a.ActivationID = "6b43a9a5-8d86-4c5a-9c5e-3a1f9a0b7c11" }, polargate.ErrSeatReleased},
		"an unknown key":          {func(_ *kit.World, a *activation) { a.Key = "POLAR-WHAT-IS-THIS-KEY" }, polargate.ErrUnknownKey},
		"the key in another case": {func(_ *kit.World, a *activation) { a.Key = strings.ToLower(a.Key) + "x" }, polargate.ErrUnknownKey},
		"a key that was rotated":  {func(w *kit.World, _ *activation) { w.Polar.Rotate(w.Key.ID) }, polargate.ErrUnknownKey},
		"a revoked key":           {func(w *kit.World, _ *activation) { w.Polar.Revoke(w.Key.ID) }, polargate.ErrInactive},
		"an expired key":          {func(w *kit.World, _ *activation) { expireAt(w, time.Now()) }, polargate.ErrExpired},
		"another product's key": {func(w *kit.World, _ *activation) {
			w.Polar.Update(w.Key.ID, func(k *polartest.LicenseKey) { k.BenefitID = "6b43a9a5-8d86-4c5a-9c5e-3a1f9a0b7c11" })
		}, polargate.ErrWrongBenefit},
		"no network":             {func(w *kit.World, _ *activation) { w.Polar.SetOffline(true) }, polargate.ErrUnreachable},
		"a login page":           {func(w *kit.World, _ *activation) { w.Inject("", 0, polartest.LoginPage(200)) }, polargate.ErrUnreachable},
		"a redirect":             {func(w *kit.World, _ *activation) { w.Inject("", 0, polartest.LoginPage(302)) }, polargate.ErrUnreachable},
		"a server that fails":    {func(w *kit.World, _ *activation) { w.Inject("", 0, polartest.ServerError(500)) }, polargate.ErrUnreachable},
		"an answer that is lost": {func(w *kit.World, _ *activation) { w.Inject("", 0, polartest.AnswerLost()) }, polargate.ErrUnreachable},
		"an empty object":        {func(w *kit.World, _ *activation) { w.Inject("", 0, polartest.Body(200, applicationJSON, "{}")) }, polargate.ErrUnreachable},
		"the router's 404":       {func(w *kit.World, _ *activation) { w.Inject("", 0, polartest.RouterNotFound()) }, polargate.ErrUnreachable},
		"a pause":                {func(w *kit.World, _ *activation) { w.Inject("", 0, polartest.RateLimited("30")) }, polargate.ErrRateLimited},
		"another seat's answer": {func(w *kit.World, _ *activation) {
			w.Inject("", 0, polartest.Rewrite(func(status int, _ http.Header, body []byte) (int, []byte) {
				return status, []byte(strings.ReplaceAll(string(body), w.Now().Activations[0].ID, "6b43a9a5-8d86-4c5a-9c5e-3a1f9a0b7c11"))
			}))
		}, polargate.ErrUnreachable},
	} {
		for held, hold := range map[string]bool{"nothing is held": false, "a license is held": true} {
			t.Run(name+", while "+held, func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					w := kit.NewWorld(t)
					own := w.Polar.AddKey(polartest.LicenseKey{LimitActivations: polartest.Limit(1), BenefitID: w.Key.BenefitID})
					old := takenElsewhere(w, map[string]any{"hostname": "ada"})
					store := &kit.BrittleStore{}
					w.Config.Store = store
					gate := w.Open()
					if hold {
						_, err := gate.Activate(t.Context(), own.Key)
						require.NoError(t, err)
					}
					before, stored, seat := gate.Status(), store.Contents(), live(w, own.ID)
					kept := !hold && (!test.want.Denial() || test.want == polargate.ErrConditionsMismatch)
					test.happens(w, &old)
					there := live(w, w.Key.ID)
					w.Polar.ForgetRequests()

					status, err := gate.Import(t.Context(), old)
					require.ErrorIs(t, err, test.want)
					assert.NotErrorIs(t, err, polargate.ErrInDoubt)
					assert.Contains(t, err.Error(), "import")
					assert.NotContains(t, err.Error(), old.Key)
					assert.NotEmpty(t, polargate.Message(err))
					if kept {
						assert.Equal(t, polargate.Locked, status.State)
						assert.Equal(t, old.Key, status.Key.Reveal())
						assert.NotEqual(t, stored, store.Contents())
					} else {
						assert.Equal(t, before.State, status.State)
						assert.Equal(t, before.Reason, status.Reason)
						assert.Equal(t, before.Key, status.Key)
						assert.Equal(t, before.CheckedAt, status.CheckedAt)
						assert.Equal(t, stored, store.Contents())
					}
					assert.Equal(t, hold, gate.Has("export"))
					assert.Equal(t, there, live(w, w.Key.ID), "nobody's seat is given back")
					assert.Equal(t, seat, live(w, own.ID))
					assert.Zero(t, w.Polar.Count(kit.PathActivate))
					assert.Zero(t, w.Polar.Count(kit.PathDeactivate))
					if hold {
						w.Polar.ClearFaults()
						w.Polar.SetOffline(false)
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
				w := kit.NewWorld(t)
				gate := w.Activated()
				w.Polar.ForgetRequests()
				status, err := gate.Import(t.Context(), a)
				var wrong *polargate.InputError
				require.ErrorAs(t, err, &wrong)
				assert.NotContains(t, err.Error(), "0123456789")
				assert.Equal(t, polargate.Active, status.State)
				assert.Zero(t, w.Polar.Count(""))
			})
		})
	}
	t.Run("without a context, or on a closed gate", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			w := kit.NewWorld(t)
			old := takenElsewhere(w, nil)
			gate := w.Open()
			var none context.Context
			_, err := gate.Import(none, old)
			var wrong *polargate.InputError
			require.ErrorAs(t, err, &wrong)
			require.NoError(t, gate.Close())
			_, err = gate.Import(t.Context(), old)
			require.ErrorIs(t, err, polargate.ErrClosed)
			assert.Zero(t, w.Polar.Count(""))
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
				w := kit.NewWorld(t)
				own := w.Key
				if !test.same {
					own = w.Polar.AddKey(polartest.LicenseKey{LimitActivations: polartest.Limit(1), BenefitID: w.Key.BenefitID})
				}
				old := takenElsewhere(w, map[string]any{"hostname": "ada"})
				gate := w.Open()
				_, err := gate.Activate(t.Context(), own.Key)
				require.NoError(t, err)
				if test.offline {
					w.Inject(kit.PathDeactivate, 0, polartest.ServerError(500))
				}
				_, err = gate.Import(t.Context(), old)
				require.NoError(t, err)
				synctest.Wait()
				if test.offline {
					assert.Equal(t, 2, len(live(w, w.Key.ID))+len(live(w, own.ID))-map[bool]int{true: 2, false: 0}[test.same])
					require.NoError(t, gate.Close())
					w.Polar.ClearFaults()
					gate = w.Open()
					_, err = gate.Refresh(t.Context())
					require.NoError(t, err)
					synctest.Wait()
				}
				if !test.same {
					assert.Empty(t, live(w, own.ID))
				}
				assert.Equal(t, []string{old.ActivationID}, live(w, w.Key.ID))
				assert.True(t, gate.Has("export"))
				_, err = gate.Refresh(t.Context())
				require.NoError(t, err)
				require.NoError(t, gate.Deactivate(t.Context()))
				assert.Empty(t, live(w, w.Key.ID))
			})
		})
	}
	t.Run("and not if it is the same", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			w := kit.NewWorld(t, kit.Limit(1))
			old := takenElsewhere(w, map[string]any{"hostname": "ada"})
			gate := w.Open()
			for range 3 {
				_, err := gate.Import(t.Context(), old)
				require.NoError(t, err)
				_, err = w.Open().Import(t.Context(), old)
				require.NoError(t, err, "by another process as well")
			}
			_, err := gate.Activate(t.Context(), w.Key.Key)
			require.NoError(t, err)
			assert.Equal(t, []string{old.ActivationID}, live(w, w.Key.ID))
			assert.Zero(t, w.Polar.Count(kit.PathActivate))
			assert.Zero(t, w.Polar.Count(kit.PathDeactivate))
		})
	})
	t.Run("one that waits to be given back is taken up again", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			w := kit.NewWorld(t, kit.Limit(1))
			old := takenElsewhere(w, map[string]any{"hostname": "ada"})
			gate := w.Open()
			_, err := gate.Import(t.Context(), old)
			require.NoError(t, err)
			w.Inject(kit.PathDeactivate, 0, polartest.ServerError(500))
			require.Error(t, gate.Deactivate(t.Context()))
			w.Polar.ClearFaults()
			_, err = gate.Import(t.Context(), old)
			require.NoError(t, err)
			for range 3 {
				time.Sleep(13 * time.Hour)
				_, err = gate.Refresh(t.Context())
				require.NoError(t, err, "and not given back after all")
			}
			assert.Equal(t, []string{old.ActivationID}, live(w, w.Key.ID))
		})
	})
	t.Run("and settles an attempt that was in doubt", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			w := kit.NewWorld(t)
			old := takenElsewhere(w, nil)
			gate := w.Open()
			w.Inject(kit.PathActivate, 1, polartest.Reset())
			_, err := gate.Activate(t.Context(), w.Key.Key)
			require.ErrorIs(t, err, polargate.ErrInDoubt)
			status, err := gate.Import(t.Context(), old)
			require.NoError(t, err)
			assert.Equal(t, polargate.Active, status.State)
			assert.NotErrorIs(t, err, polargate.ErrInDoubt)
		})
	})
}

// The other program's record may be all that is left of the seat.
func TestAnImportThatCannotBeStoredLeavesTheActivationUnchanged(t *testing.T) {
	t.Parallel()
	for name, break_ := range map[string]func(*kit.BrittleStore){
		"the Store fails to save": func(s *kit.BrittleStore) { s.Set(nil, kit.Fails, nil) },
		"the Store fails to lock": func(s *kit.BrittleStore) { s.Set(nil, nil, kit.Fails) },
		"the Store fails to load": func(s *kit.BrittleStore) { s.Set(kit.Fails, nil, nil) },
		"the Store fails at all":  func(s *kit.BrittleStore) { s.Set(kit.Fails, kit.Fails, kit.Fails) },
	} {
		for held, hold := range map[string]bool{"nothing is held": false, "a license is held": true} {
			t.Run(name+", while "+held, func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					w := kit.NewWorld(t)
					own := w.Polar.AddKey(polartest.LicenseKey{LimitActivations: polartest.Limit(1), BenefitID: w.Key.BenefitID})
					old := takenElsewhere(w, map[string]any{"hostname": "ada"})
					store := &kit.BrittleStore{}
					w.Config.Store = store
					gate := w.Open()
					if hold {
						_, err := gate.Activate(t.Context(), own.Key)
						require.NoError(t, err)
					}
					break_(store)
					status, err := gate.Import(t.Context(), old)
					var bad *polargate.StoreError
					require.ErrorAs(t, err, &bad)
					require.ErrorIs(t, err, kit.ErrDisk)
					assert.Equal(t, hold, status.OK())
					assert.Equal(t, hold, gate.Has("export"))
					if hold {
						assert.Equal(t, own.Key, status.Key.Reveal())
						assert.Len(t, live(w, own.ID), 1)
					}
					store.Set(nil, nil, nil)
					require.NoError(t, gate.Close())
					assert.Equal(t, []string{old.ActivationID}, live(w, w.Key.ID))
					assert.Zero(t, w.Polar.Count(kit.PathDeactivate))

					next := w.Open()
					assert.Equal(t, hold, next.Has("export"))
					_, err = next.Import(t.Context(), old)
					require.NoError(t, err, "it can be tried again")
				})
			})
		}
	}
}

func TestAnImportIntoMemoryIsDeactivatedOnClose(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := kit.NewWorld(t)
		old := takenElsewhere(w, map[string]any{"hostname": "ada"})
		gate := w.Open(ephemeral(polargate.ReleaseOnClose))
		_, err := gate.Import(t.Context(), old)
		require.NoError(t, err)
		require.NoError(t, gate.Close())
		assert.Empty(t, live(w, w.Key.ID), "the seat was this installation's own by then")
	})
}

func TestConcurrentImportsAndActivationsUseOneMoreActivationAtMost(t *testing.T) {
	t.Parallel()
	for name, gates := range map[string]int{"of one gate": 1, "of four gates on one store": 4} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := kit.NewWorld(t, kit.Limit(30))
				w.Config.CheckTimeout = time.Minute
				var old []polargate.ImportedActivation
				for range 3 {
					old = append(old, takenElsewhere(w, map[string]any{"hostname": "ada"}))
					time.Sleep(2 * time.Second)
				}
				var all []*polargate.Gate
				for range gates {
					all = append(all, w.Open())
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
							_, err = gate.Activate(ctx, w.Key.Key)
						}
						// Another call may have replaced and freed the seat of this one.
						if err != nil {
							assert.ErrorIs(t, err, polargate.ErrSeatReleased)
						}
					})
				}
				calls.Wait()
				time.Sleep(time.Minute)
				assert.LessOrEqual(t, w.Polar.Count(kit.PathActivate), 1)
				assert.Len(t, live(w, w.Key.ID), 1, "all but the one that is held were given back")
				for _, gate := range all {
					_, err := gate.Refresh(t.Context())
					require.NoError(t, err)
				}
			})
		})
	}
}

func TestAnImportIsFinishedAfterItsCallerGaveUp(t *testing.T) {
	t.Parallel()
	for _, patience := range []time.Duration{0, time.Millisecond, 900 * time.Millisecond, time.Second, 1100 * time.Millisecond} {
		t.Run("after "+patience.String(), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := kit.NewWorld(t)
				old := takenElsewhere(w, map[string]any{"hostname": "ada"})
				own := w.Polar.AddKey(polartest.LicenseKey{LimitActivations: polartest.Limit(1), BenefitID: w.Key.BenefitID})
				gate := w.Open()
				_, err := gate.Activate(t.Context(), own.Key)
				require.NoError(t, err)
				w.Inject("", 0, polartest.Delay(time.Second))
				ctx, cancel := context.WithTimeout(t.Context(), patience)
				defer cancel()
				_, err = gate.Import(ctx, old)
				if err != nil {
					assert.NotErrorIs(t, err, polargate.ErrInDoubt)
				}
				time.Sleep(time.Minute)
				require.NoError(t, gate.Close())
				next := w.Open()
				_, err = next.Refresh(t.Context())
				require.NoError(t, err, "one or the other is held")
				assert.Equal(t, []string{old.ActivationID}, live(w, w.Key.ID), "and no seat that is not this one's was given back")
				if next.Status().Key.Reveal() == own.Key {
					assert.Len(t, live(w, own.ID), 1)
				} else {
					assert.Empty(t, live(w, own.ID))
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
