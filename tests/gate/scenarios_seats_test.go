package gate

import (
	"context"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
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

// refusedForSeats is how often Polar said that no seat is left.
func refusedForSeats(w *kit.World) int {
	n := 0
	for _, r := range w.Polar.Requests() {
		if strings.HasSuffix(r.Path, kit.PathActivate) && r.Status == http.StatusForbidden {
			n++
		}
	}
	return n
}

// released frees the seats of the world's key as the customer portal does.
func released(w *kit.World) {
	w.Polar.Update(w.Key.ID, func(k *polartest.LicenseKey) {
		for i := range k.Activations {
			k.Activations[i].Released = true
		}
	})
}

// "Reactivate" took one seat more at each click, since it never gave the old one
// back. The third customer of the day to write to support had clicked it thrice.
func TestActivatingRepeatedlyUsesOneActivation(t *testing.T) {
	t.Parallel()
	enter := func(t *testing.T, w *kit.World, g *polargate.Gate) {
		_, err := g.Activate(t.Context(), w.Key.Key)
		require.NoError(t, err)
	}
	for name, again := range map[string]func(t *testing.T, w *kit.World, round int){
		"with the same key": func(t *testing.T, w *kit.World, _ int) { enter(t, w, w.Open()) },
		"after giving it back": func(t *testing.T, w *kit.World, _ int) {
			g := w.Open()
			require.NoError(t, g.Deactivate(t.Context()))
			enter(t, w, g)
		},
		"after it was freed in the portal": func(t *testing.T, w *kit.World, _ int) { released(w); enter(t, w, w.Open()) },
		"after the portal, and a check": func(t *testing.T, w *kit.World, _ int) {
			released(w)
			g := w.Open()
			_, err := g.Refresh(t.Context())
			require.ErrorIs(t, err, polargate.ErrSeatReleased)
			enter(t, w, g)
		},
		"after it was removed offline": func(t *testing.T, w *kit.World, _ int) {
			w.Polar.SetOffline(true)
			g := w.Open()
			require.Error(t, g.Deactivate(t.Context()))
			require.NoError(t, g.Close())
			w.Polar.SetOffline(false)
			enter(t, w, w.Open())
		},
		"on a system that was set up anew": func(t *testing.T, w *kit.World, round int) {
			w.Config.Fingerprint = kit.ThisMachine + strings.Repeat("'", round)
			enter(t, w, w.Open())
		},
		"after a time with another key": func(t *testing.T, w *kit.World, _ int) {
			other := w.Polar.AddKey(polartest.LicenseKey{LimitActivations: polartest.Limit(1), BenefitID: w.Key.BenefitID})
			g := w.Open()
			_, err := g.Activate(t.Context(), other.Key)
			require.NoError(t, err)
			enter(t, w, g)
			assert.Zero(t, w.Polar.Seats(other.ID))
		},
		"after it was revoked and granted": func(t *testing.T, w *kit.World, _ int) {
			w.Polar.Revoke(w.Key.ID)
			_, err := w.Open().Refresh(t.Context())
			require.ErrorIs(t, err, polargate.ErrInactive)
			w.Polar.Grant(w.Key.ID)
			enter(t, w, w.Open())
		},
		"with conditions of its own": func(t *testing.T, w *kit.World, round int) {
			w.Config.Conditions = map[string]any{"round": round}
			enter(t, w, w.Open())
		},
	} {
		scene(t, name, func(t *testing.T) {
			w := kit.NewWorld(t)
			enter(t, w, w.Open())
			for round := range 6 {
				again(t, w, round)
				synctest.Wait()
				require.Equal(t, 1, w.Seats(), "round %d", round)
				assert.True(t, w.Open().Has("export"))
			}
			assert.Zero(t, refusedForSeats(w))
		})
	}
}

// With a key for one computer the order counts: who asks for the new seat before
// the old one is free is refused, by the seat that he holds himself.
func TestAKeyForOneComputerIsNeverInItsOwnWay(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(t *testing.T, w *kit.World){
		"entered again as it is":   func(*testing.T, *kit.World) {},
		"when the machine changed": func(_ *testing.T, w *kit.World) { w.Config.Fingerprint = "a new mainboard" },
		"when the program changed": func(_ *testing.T, w *kit.World) { w.Config.Version, w.Config.Label = "2.0.0", "another name" },
		"when conditions changed":  func(_ *testing.T, w *kit.World) { w.Config.Conditions = map[string]any{"major": 2} },
		"when both of them changed": func(_ *testing.T, w *kit.World) {
			w.Config.Fingerprint, w.Config.Conditions = "new", map[string]any{"n": 2}
		},
		"when the key was rotated": func(_ *testing.T, w *kit.World) { w.Key.Key = w.Polar.Rotate(w.Key.ID) },
		"when it was rotated, and the machine changed": func(_ *testing.T, w *kit.World) {
			w.Key.Key, w.Config.Fingerprint = w.Polar.Rotate(w.Key.ID), "a new mainboard"
		},
		"when the release of its seat was lost": func(t *testing.T, w *kit.World) {
			w.Inject(kit.PathDeactivate, 1, polartest.Reset())
			require.Error(t, w.Open().Deactivate(t.Context()))
		},
		"when the answer to its release was lost": func(t *testing.T, w *kit.World) {
			w.Inject(kit.PathDeactivate, 1, polartest.AnswerLost())
			require.Error(t, w.Open().Deactivate(t.Context()))
		},
		"when another key was there in between, and the network away": func(t *testing.T, w *kit.World) {
			other := w.Polar.AddKey(polartest.LicenseKey{LimitActivations: polartest.Limit(1), BenefitID: w.Key.BenefitID})
			w.Inject(kit.PathDeactivate, 1, polartest.Reset())
			_, err := w.Open().Activate(t.Context(), other.Key)
			require.NoError(t, err)
		},
	} {
		scene(t, name, func(t *testing.T) {
			w := kit.NewWorld(t, kit.Limit(1))
			require.NoError(t, w.Activated().Close())
			change(t, w)
			for range 3 {
				gate := w.Open()
				_, err := gate.Activate(t.Context(), w.Key.Key)
				require.NoError(t, err)
				assert.True(t, gate.Has("export"))
				require.NoError(t, gate.Close())
			}
			synctest.Wait()
			assert.Equal(t, 1, w.Seats())
			assert.Zero(t, refusedForSeats(w))
		})
	}
}

// The disk was full. Polar had given the seat, the program could not write it
// down, and said "try again" until no seat was left.
func TestAnActivationThatCannotBeStoredIsDeactivated(t *testing.T) {
	t.Parallel()
	// once makes w's requests to activate do something before the answer arrives.
	once := func(w *kit.World, do func()) {
		to := w.Polar.Transport()
		w.Config.HTTPClient = &http.Client{Transport: kit.RoundTripper(func(r *http.Request) (*http.Response, error) {
			resp, err := to.RoundTrip(r)
			if strings.HasSuffix(r.URL.Path, kit.PathActivate) {
				do()
			}
			return resp, err
		})}
	}
	scene(t, "when the store says no", func(t *testing.T) {
		w := kit.NewWorld(t)
		store := &kit.BrittleStore{}
		w.Config.Store = store
		once(w, func() { store.Set(nil, kit.Fails, nil) })
		gate := w.Open()
		for range 5 {
			store.Set(nil, nil, nil)
			_, err := gate.Activate(t.Context(), w.Key.Key)
			require.ErrorIs(t, err, kit.ErrDisk)
			assert.Contains(t, polargate.Message(err), "disk")
			assert.Zero(t, w.Seats())
			assert.False(t, gate.Has("export"))
		}
	})
	scene(t, "when the folder is gone for a file", func(t *testing.T) {
		if runtime.GOOS == "windows" {
			t.Skip("nobody can remove a folder there while a file in it is locked")
		}
		w := kit.NewWorld(t, kit.Limit(1))
		folder := filepath.Join(t.TempDir(), "state")
		w.Config.Store = polargate.FileStore(folder)
		once(w, func() {
			assert.NoError(t, os.RemoveAll(folder))
			assert.NoError(t, os.WriteFile(folder, nil, 0o600))
		})
		gate := w.Open()
		_, err := gate.Activate(t.Context(), w.Key.Key)
		var stored *polargate.StoreError
		require.ErrorAs(t, err, &stored)
		assert.Zero(t, w.Seats())
		require.NoError(t, os.Remove(folder))
		w.Config.HTTPClient = w.Polar.Client()
		_, err = w.Open().Activate(t.Context(), w.Key.Key)
		require.NoError(t, err)
		assert.Equal(t, 1, w.Seats())
	})
	scene(t, "and when it cannot even be given back, nobody says that all is well", func(t *testing.T) {
		w := kit.NewWorld(t)
		store, log := &kit.BrittleStore{}, &kit.Lines{}
		w.Config.Store, w.Config.Logger = store, log.Logger()
		once(w, func() { store.Set(nil, kit.Fails, nil) })
		w.Inject(kit.PathDeactivate, 0, polartest.Reset())
		gate := w.Open()
		status, err := gate.Activate(t.Context(), w.Key.Key)
		require.ErrorIs(t, err, kit.ErrDisk)
		assert.False(t, gate.Has("export"))
		assert.True(t, status.InDoubt)
		assert.Contains(t, log.String(), w.Now().Activations[0].ID, "the vendor can find the seat by the log")
		store.Set(nil, nil, nil)
		next := w.Open()
		assert.True(t, next.Status().InDoubt, "in the next run too")
	})
}

// The vendor rotated a key that had leaked. The new one took a second seat; the
// first was to be given back under the old key, and the 404 was taken for a yes.
func TestARotatedKeyKeepsItsActivationAndTheOldKeyDeactivatesNothing(t *testing.T) {
	t.Parallel()
	scene(t, "the new key takes no second seat, and gives the one back", func(t *testing.T) {
		w := kit.NewWorld(t)
		gate := w.Activated()
		fresh := w.Polar.Rotate(w.Key.ID)
		_, err := gate.Refresh(t.Context())
		require.ErrorIs(t, err, polargate.ErrUnknownKey)
		assert.Contains(t, polargate.Message(err), polargate.Phrases()["unknown_key.held.do"])
		for range 2 {
			_, err = gate.Activate(t.Context(), fresh)
			require.NoError(t, err)
			synctest.Wait()
			assert.Equal(t, 1, w.Seats())
			assert.Equal(t, 1, w.Polar.Count(kit.PathActivate))
		}
		require.NoError(t, w.Open().Deactivate(t.Context()))
		assert.Zero(t, w.Seats())
	})
	scene(t, "a release under the dead key is not said to have worked", func(t *testing.T) {
		w := kit.NewWorld(t)
		gate := w.Activated()
		fresh := w.Polar.Rotate(w.Key.ID)
		err := gate.Deactivate(t.Context())
		require.ErrorIs(t, err, polargate.ErrUnknownKey)
		assert.NotEmpty(t, polargate.Message(err))
		assert.Equal(t, polargate.Unlicensed, gate.Status().State)
		require.Equal(t, 1, w.Seats())
		require.NoError(t, gate.Close())

		next := w.Open()
		_, err = next.Activate(t.Context(), fresh)
		require.NoError(t, err)
		assert.Equal(t, 1, w.Seats(), "the new key takes up the seat that was left")
		require.NoError(t, next.Deactivate(t.Context()))
		assert.Zero(t, w.Seats())
	})
	scene(t, "rotated thrice in between, it is the same seat still", func(t *testing.T) {
		w := kit.NewWorld(t, kit.Limit(1))
		gate := w.Activated()
		var last string
		for range 3 {
			last = w.Polar.Rotate(w.Key.ID)
		}
		_, err := gate.Activate(t.Context(), last)
		require.NoError(t, err)
		assert.Equal(t, 1, w.Polar.Count(kit.PathActivate))
	})
}

// "Remove license" on a plane deleted the file, and the seat was never seen
// again. Elsewhere the seat had been freed in the portal, and the program would
// not let go of the license until the release that could not work had worked.
func TestALicenseCanBeRemovedOfflineAndIsDeactivatedLater(t *testing.T) {
	t.Parallel()
	for name, later := range map[string]func(t *testing.T, w *kit.World, gate *polargate.Gate){
		"by the next Check": func(t *testing.T, _ *kit.World, g *polargate.Gate) { _, _ = g.Check(t.Context()) },
		"by Run": func(t *testing.T, _ *kit.World, g *polargate.Gate) {
			asksInTheBackground(t, g)
			time.Sleep(20 * time.Minute)
		},
		"by a Check after months": func(t *testing.T, _ *kit.World, g *polargate.Gate) {
			time.Sleep(100 * kit.Day)
			_, _ = g.Check(t.Context())
		},
		"by the next key that is entered": func(t *testing.T, w *kit.World, g *polargate.Gate) {
			other := w.Polar.AddKey(polartest.LicenseKey{LimitActivations: polartest.Limit(1), BenefitID: w.Key.BenefitID})
			_, err := g.Activate(t.Context(), other.Key)
			require.NoError(t, err)
			synctest.Wait()
		},
		"by asking once more": func(t *testing.T, _ *kit.World, g *polargate.Gate) { require.NoError(t, g.Deactivate(t.Context())) },
	} {
		for where, restart := range map[string]bool{"in the same run": false, "in the next run": true} {
			scene(t, "offline, "+name+" "+where, func(t *testing.T) {
				w := kit.NewWorld(t)
				gate := w.Activated()
				w.Polar.SetOffline(true)
				err := gate.Deactivate(t.Context())
				require.ErrorIs(t, err, polargate.ErrUnreachable, "it is said that the seat is still taken")
				assert.False(t, gate.Has("export"), "but access ends now")
				assert.Equal(t, polargate.Unlicensed, gate.Status().State)
				assert.True(t, gate.Status().Key.IsZero())
				if restart {
					require.NoError(t, gate.Close())
					gate = w.Open()
					assert.False(t, gate.Has("export"))
				}
				require.Equal(t, 1, w.Seats())
				w.Polar.SetOffline(false)
				time.Sleep(2 * time.Minute)
				later(t, w, gate)
				assert.Zero(t, w.Seats())
			})
		}
	}
	for name, gone := range map[string]func(*kit.World){
		"its seat was freed in the portal": released,
		"the key was deleted":              edit(func(k *polartest.LicenseKey) { k.Deleted = true }),
		"the key was revoked":              func(w *kit.World) { w.Polar.Revoke(w.Key.ID) },
	} {
		scene(t, name, func(t *testing.T) {
			w := kit.NewWorld(t)
			gate := w.Activated()
			gone(w)
			err := gate.Deactivate(t.Context())
			if w.Now().Deleted {
				require.ErrorIs(t, err, polargate.ErrUnknownKey)
			} else {
				require.NoError(t, err)
			}
			for _, g := range []*polargate.Gate{gate, w.Open()} {
				assert.False(t, g.Has("export"))
				assert.Equal(t, polargate.Unlicensed, g.Status().State, "nothing is in the way of removing it here")
			}
			asked := w.Polar.Count("")
			require.NoError(t, w.Open().Close())
			for range 5 {
				time.Sleep(kit.Day)
				_, err = gate.Check(t.Context())
				require.ErrorIs(t, err, polargate.ErrNoLicense)
			}
			assert.Equal(t, asked, w.Polar.Count(""), "and what cannot work is not tried for ever")
		})
	}
}

// The HTTP library that one program used repeats a POST after a 504. Each of its
// three tries had reached Polar, and each had taken a seat.
func TestAnActivationIsSentOnceWhateverAGatewaySays(t *testing.T) {
	t.Parallel()
	page := func(status int) polartest.Effect {
		return polartest.Rewrite(func(_ int, h http.Header, _ []byte) (int, []byte) {
			h.Set("Content-Type", "text/html")
			h.Set("Retry-After", "1")
			return status, []byte("<h1>Gateway</h1>")
		})
	}
	for name, effect := range map[string]polartest.Effect{
		"504": page(504), "502": page(502), "500": page(500), "503 with a Retry-After": page(503),
		"a lost answer": polartest.AnswerLost(), "half an answer": polartest.Truncated(), "silence": polartest.Delay(time.Minute),
	} {
		scene(t, name, func(t *testing.T) {
			w := kit.NewWorld(t)
			gate := w.Open()
			asksInTheBackground(t, gate)
			w.Inject(kit.PathActivate, 0, effect)
			status, err := gate.Activate(t.Context(), w.Key.Key)
			require.ErrorIs(t, err, polargate.ErrActivationInDoubt)
			assert.True(t, status.InDoubt)
			assert.NotEmpty(t, polargate.Message(err))
			_, err = gate.ActivateWait(t.Context(), "POLAR-0F0F0F0F-OF-SOMEBODY-ELSE")
			require.Error(t, err)
			require.NoError(t, gate.Close())
			next := w.Open()
			asksInTheBackground(t, next)
			for range 4 {
				time.Sleep(6 * time.Hour)
				_, err = next.Check(t.Context())
				require.Error(t, err)
			}
			synctest.Wait()
			assert.Equal(t, 1, w.Asks(kit.PathActivate, w.Key.Key))
			assert.Equal(t, 1, w.Seats())
			for _, r := range w.Polar.Requests() {
				assert.Empty(t, r.Header.Get("Idempotency-Key")+r.Header.Get("X-Idempotency-Key"), "net/http repeats what has one")
			}
		})
	}
	// Over a connection that was used before, net/http repeats by itself what it
	// believes to be safe.
	for name, effect := range map[string]polartest.Effect{"a connection that is reset, by net/http": polartest.AnswerLost(), "one that is closed, by net/http": polartest.Close()} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			polar := polartest.New(polartest.Config{})
			key := polar.AddKey(polartest.LicenseKey{LimitActivations: polartest.Limit(9)})
			server, err := polar.Start()
			require.NoError(t, err)
			t.Cleanup(func() { _ = server.Close() })
			client, err := polargate.NewClient(polargate.ClientConfig{OrganizationID: polar.OrganizationID(), BaseURL: server.URL})
			require.NoError(t, err)
			t.Cleanup(client.Close)
			parsed, err := polargate.ParseKey(key.Key)
			require.NoError(t, err)
			_, err = client.Validate(t.Context(), polargate.ValidateRequest{Key: parsed})
			require.NoError(t, err)
			polar.Inject(polartest.Fault{Path: kit.PathActivate, Effect: effect})
			_, err = client.Activate(t.Context(), polargate.ActivateRequest{Key: parsed, Conditions: map[string]any{"n": 1}})
			require.ErrorIs(t, err, polargate.ErrActivationInDoubt)
			assert.Equal(t, 1, polar.Count(kit.PathActivate))
			assert.LessOrEqual(t, polar.Seats(key.ID), 1)
		})
	}
}

// Version 2 added the screen's size to the conditions. Polar compares them as a
// whole, and on the morning of the update every customer was locked out.
func TestConditionsThatGrowInAnUpgradeLockNoCustomerOut(t *testing.T) {
	t.Parallel()
	versions := map[string]map[string]any{
		"none, and then some":         nil,
		"a key more":                  {"fingerprint": kit.ThisMachine},
		"a value of another type":     {"fingerprint": kit.ThisMachine, "major": 1.0, "beta": false, "build": 12345678},
		"some, where there were none": {},
	}
	later := []map[string]any{
		{"fingerprint": kit.ThisMachine, "major": 2, "screen": "1920x1080"},
		{"major": "2"},
		{},
	}
	for name, first := range versions {
		scene(t, name, func(t *testing.T) {
			w := kit.NewWorld(t, kit.Limit(2), kit.Usage(100))
			w.Config.Conditions = first
			require.NoError(t, w.Activated().Close())
			before := w.Now().Activations[0].Conditions
			for i, conditions := range later {
				w.Config.Version, w.Config.Conditions = "2.0."+string(rune('0'+i)), conditions
				time.Sleep(25 * time.Hour)
				gate := w.Open()
				for what, call := range map[string]func(context.Context) error{
					"Check":    func(ctx context.Context) error { _, err := gate.Check(ctx); return err },
					"Refresh":  func(ctx context.Context) error { _, err := gate.Refresh(ctx); return err },
					"Consume":  func(ctx context.Context) error { _, err := gate.Consume(ctx, 1); return err },
					"Activate": func(ctx context.Context) error { _, err := gate.Activate(ctx, w.Key.Key); return err },
				} {
					require.NoError(t, call(t.Context()), what)
					assert.True(t, gate.Has("export"), what)
				}
				require.NoError(t, gate.Close())
			}
			assert.Equal(t, 1, w.Seats())
			assert.Equal(t, 1, w.Polar.Count(kit.PathActivate))
			assert.Equal(t, before, w.Now().Activations[0].Conditions)

			w.Config.Conditions = later[0]
			other := w.Activated(on("another machine", &polargate.MemoryStore{}))
			assert.Contains(t, w.Now().Activations[1].Conditions, "screen", "who comes new is bound by the new ones")
			_, err := other.Refresh(t.Context())
			require.NoError(t, err)
			require.NoError(t, w.Open().Deactivate(t.Context()))
			assert.Equal(t, 1, w.Seats(), "and the old seat can be given back")
		})
	}
}
