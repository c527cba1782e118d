package polargate

import (
	"context"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/polargate/polargate/internal/machine"
	"github.com/polargate/polargate/polartest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const (
	systemdID = "3d1219c7c4c5404aaa1f6d2a48adfda4"
	dbusID    = "10112233445566778899aabbccddeeff"
)

// putEarlier stores what a Gate holds in the place and the form of earlier builds.
func putEarlier(t *testing.T, from *Gate, store Store, change func(*state)) {
	t.Helper()
	rec := from.holding()
	st := rec.state
	st.Owner = ""
	if st.Seat != nil {
		s := *st.Seat
		s.Label = ""
		st.Seat = &s
	}
	if rec.verdict != nil {
		sealed, err := from.seal.sealVerdict(rec.verdict, st.Seat, from.fingerprint(&rec.state))
		require.NoError(t, err)
		st.Verdict = sealed
	}
	change(&st)
	data, err := from.seal.sealState(&st)
	require.NoError(t, err)
	require.NoError(t, store.Save(t.Context(), from.names.Earlier, data))
}

// earlierBuild is a license that an earlier build stored on a computer.
func earlierBuild(t *testing.T, polar *polartest.Polar, key polartest.LicenseKey, change func(*state)) *MemoryStore {
	t.Helper()
	first := openGate(t, polar, func(c *Config) { c.Fingerprint, c.Features = "the computer", withExport(key) })
	_, err := first.Activate(t.Context(), key.Key)
	require.NoError(t, err)
	store := &MemoryStore{}
	putEarlier(t, first, store, change)
	return store
}

func changesOfSeats(polar *polartest.Polar) int {
	return polar.Count("/activate") + polar.Count("/deactivate")
}

func TestALicenseStoredByAnEarlierBuildWorksOnItsComputerOnly(t *testing.T) {
	t.Parallel()
	open := func(t *testing.T, polar *polartest.Polar, key polartest.LicenseKey, computer string, store Store) *Gate {
		return openGate(t, polar, func(c *Config) { c.Fingerprint, c.Features, c.Store = computer, withExport(key), store })
	}
	staged(t, "it counts at once, offline too, and is carried over", func(t *testing.T, polar *polartest.Polar, key polartest.LicenseKey) {
		store := earlierBuild(t, polar, key, func(*state) {})
		polar.SetOffline(true)
		gate := open(t, polar, key, "the computer", store)
		assert.True(t, gate.Has("export"))
		before, err := store.Load(t.Context(), gate.names.Earlier)
		require.NoError(t, err)
		polar.SetOffline(false)
		changes := changesOfSeats(polar)
		_, err = gate.Refresh(t.Context())
		require.NoError(t, err)
		_, err = store.Load(t.Context(), gate.name)
		require.NoError(t, err, "under a name of its own from here on")
		after, err := store.Load(t.Context(), gate.names.Earlier)
		require.NoError(t, err)
		assert.Equal(t, before, after, "which a program of the earlier build that still runs does not notice")
		require.NoError(t, store.Save(t.Context(), gate.names.Earlier, []byte("not read any more")))
		polar.SetOffline(true)
		assert.True(t, open(t, polar, key, "the computer", store).Has("export"))
		assert.Equal(t, changes, changesOfSeats(polar))
	})
	staged(t, "another computer leaves it to its owner", func(t *testing.T, polar *polartest.Polar, key polartest.LicenseKey) {
		store := earlierBuild(t, polar, key, func(*state) {})
		other := open(t, polar, key, "another computer", store)
		before, err := store.Load(t.Context(), other.names.Earlier)
		require.NoError(t, err)
		changes := changesOfSeats(polar)
		for range 3 {
			_, err = other.Check(t.Context())
			require.ErrorIs(t, err, ErrOtherMachine)
			_, err = other.Refresh(t.Context())
			require.ErrorIs(t, err, ErrOtherMachine)
			time.Sleep(25 * time.Hour)
		}
		after, err := store.Load(t.Context(), other.names.Earlier)
		require.NoError(t, err)
		assert.Equal(t, before, after)
		assert.Equal(t, changes, changesOfSeats(polar))
		owner := open(t, polar, key, "the computer", store)
		_, err = owner.Refresh(t.Context())
		require.NoError(t, err)
		_, err = other.Move(t.Context())
		require.NoError(t, err)
		assert.Equal(t, 1, polar.Seats(key.ID))
	})
	staged(t, "what waits to be released is released by who stored it", func(t *testing.T, polar *polartest.Polar, key polartest.LicenseKey) {
		store := earlierBuild(t, polar, key, func(st *state) {
			st.Outbox, st.Seat, st.Verdict = []seat{*st.Seat}, nil, nil
		})
		other := open(t, polar, key, "another computer", store)
		_, err := other.Refresh(t.Context())
		require.ErrorIs(t, err, ErrNoLicense)
		assert.False(t, other.Status().ReleasePending)
		assert.Equal(t, 1, polar.Seats(key.ID))
		owner := open(t, polar, key, "the computer", store)
		assert.True(t, owner.Status().ReleasePending)
		_, err = owner.Refresh(t.Context())
		require.ErrorIs(t, err, ErrNoLicense)
		assert.Zero(t, polar.Seats(key.ID))
	})
	staged(t, "once its owner removed it, nobody is offered it", func(t *testing.T, polar *polartest.Polar, key polartest.LicenseKey) {
		store := earlierBuild(t, polar, key, func(*state) {})
		require.NoError(t, open(t, polar, key, "the computer", store).Deactivate(t.Context()))
		assert.Equal(t, ErrNoLicense, open(t, polar, key, "the computer", store).Status().Reason)
		assert.Equal(t, ErrNoLicense, open(t, polar, key, "another computer", store).Status().Reason)
	})
	staged(t, "where it cannot be written, it goes on and keeps its activation", func(t *testing.T, polar *polartest.Polar, key polartest.LicenseKey) {
		store := earlierBuild(t, polar, key, func(*state) {})
		gate := openGate(t, polar, func(c *Config) {
			c.Fingerprint, c.Features, c.Store, c.Ephemeral = "the computer", withExport(key), readOnly{store}, IfUnwritable
		})
		_, err := gate.Activate(t.Context(), key.Key)
		require.NoError(t, err)
		assert.True(t, gate.Status().Unsaved)
		require.NoError(t, gate.Close())
		assert.Equal(t, 1, polar.Seats(key.ID), "which is stored, where the earlier build put it")
	})
}

// readOnly is a Store that nothing can be saved in.
type readOnly struct{ Store }

func (readOnly) Save(context.Context, string, []byte) error { return os.ErrPermission }

func inBubble(play func(*testing.T)) func(*testing.T) {
	return func(t *testing.T) { synctest.Test(t, play) }
}

func TestAStateOpensUnderEitherIDOfItsMachine(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		was, is machine.Machine
		earlier bool // the state is in the form of earlier builds
		want    bool
	}{
		"an earlier build went by the other file":             {machine.Machine{IDs: []string{dbusID}}, machine.Machine{IDs: []string{systemdID, dbusID}}, true, true},
		"the first file was empty then":                       {machine.Machine{IDs: []string{dbusID}}, machine.Machine{IDs: []string{systemdID, dbusID}}, false, true},
		"the other file is gone now":                          {machine.Machine{IDs: []string{systemdID, dbusID}}, machine.Machine{IDs: []string{systemdID}}, false, true},
		"an earlier build found none behind an empty file":    {machine.Machine{}, machine.Machine{IDs: []string{systemdID}, Hidden: true}, true, true},
		"another machine":                                     {machine.Machine{IDs: []string{systemdID}}, machine.Machine{IDs: []string{dbusID}}, false, false},
		"another machine, and an earlier build":               {machine.Machine{IDs: []string{systemdID}}, machine.Machine{IDs: []string{dbusID}}, true, false},
		"an image without an id, of which a copy has one":     {machine.Machine{}, machine.Machine{IDs: []string{systemdID}}, false, false},
		"the same, and an earlier build":                      {machine.Machine{}, machine.Machine{IDs: []string{systemdID}}, true, false},
		"the id could not be read this time":                  {machine.Machine{IDs: []string{systemdID}}, machine.Machine{}, false, false},
		"a machine without an id, which has none either way":  {machine.Machine{}, machine.Machine{}, false, true},
		"a machine without an id, and a state of before that": {machine.Machine{}, machine.Machine{}, true, true},
	} {
		t.Run(name, inBubble(func(t *testing.T) {
			polar := polartest.New(polartest.Config{Unlimited: true})
			key := polar.AddKey(polartest.LicenseKey{LimitActivations: polartest.Limit(3)})
			open := func(on machine.Machine, store Store) *Gate {
				return openGate(t, polar, func(c *Config) {
					c.Features, c.Store, c.machine = withExport(key), store, func() machine.Machine { return on }
				})
			}
			store := &MemoryStore{}
			gate := open(test.was, store)
			_, err := gate.Activate(t.Context(), key.Key)
			require.NoError(t, err)
			if test.earlier {
				store = &MemoryStore{}
				putEarlier(t, gate, store, func(*state) {})
			}
			changes := changesOfSeats(polar)
			gate = open(test.is, store)
			assert.Equal(t, test.want, gate.Has("export"))
			_, err = gate.Refresh(t.Context())
			if test.want {
				require.NoError(t, err)
				require.NoError(t, gate.Close())
				_, err := store.Load(t.Context(), gate.name)
				require.NoError(t, err, "it is carried over")
			} else {
				require.ErrorIs(t, err, ErrOtherMachine)
			}
			assert.Equal(t, changes, changesOfSeats(polar), "nothing moves by itself")
			if len(test.is.IDs) > 0 && test.want {
				on := machine.Machine{IDs: test.is.IDs[:1]}
				assert.True(t, open(on, store).Has("export"), "under the id to go by")
			}
		}))
	}
}

func TestAListOfMachinesThatIsDamagedIsMadeAnew(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		polar := polartest.New(polartest.Config{Unlimited: true})
		key := polar.AddKey(polartest.LicenseKey{LimitActivations: polartest.Limit(1)})
		store := &MemoryStore{}
		open := func(computer string) *Gate {
			return openGate(t, polar, func(c *Config) { c.Fingerprint, c.Features, c.Store = computer, withExport(key), store })
		}
		first := open("one")
		_, err := first.Activate(t.Context(), key.Key)
		require.NoError(t, err)
		good, err := store.Load(t.Context(), first.names.Index)
		require.NoError(t, err)
		for name, bad := range map[string][]byte{"empty": {}, "nonsense": []byte("nonsense"), "flipped": append(slices.Clone(good[:len(good)-1]), good[len(good)-1]^1)} {
			require.NoError(t, store.Save(t.Context(), first.names.Index, bad), name)
			assert.True(t, open("one").Has("export"), "%s: a machine's own state does not hang on it", name)
			assert.Equal(t, ErrNoLicense, open("two").Status().Reason, name)
			_, err = open("one").Refresh(t.Context())
			require.NoError(t, err)
			assert.Equal(t, ErrOtherMachine, open("two").Status().Reason, name)
		}
		for name, tags := range map[string][]string{"a path": {"../../etc/passwd"}, "capitals": {"ABC"}, "too long": {strings.Repeat("a", 17)}, "nothing": {""}} {
			data, err := first.seal.sealIndex(tags)
			require.NoError(t, err)
			_, err = first.seal.openIndex(data)
			require.Error(t, err, name)
		}
	})
}

func TestManyComputersOfOneProfileKeepTheirLicenses(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		polar := polartest.New(polartest.Config{Unlimited: true})
		key := polar.AddKey(polartest.LicenseKey{LimitActivations: polartest.Limit(200)})
		store := &MemoryStore{}
		open := func(n int) *Gate {
			return openGate(t, polar, func(c *Config) {
				c.Label = strings.Repeat("x", n+1)
				c.Fingerprint, c.Features, c.Store = c.Label, withExport(key), store
			})
		}
		for n := range maxMachines + 10 {
			gate := open(n)
			_, err := gate.Activate(t.Context(), key.Key)
			require.NoError(t, err)
			require.NoError(t, gate.Close())
		}
		for n := range maxMachines + 10 {
			gate := open(n)
			assert.True(t, gate.Has("export"))
			require.NoError(t, gate.Close())
		}
		gate := open(150)
		tags, err := gate.machines(t.Context())
		require.NoError(t, err)
		assert.Len(t, tags, maxMachines)
		assert.Len(t, gate.holding().others, maxOthers)
		assert.Equal(t, maxMachines+10, polar.Seats(key.ID))
	})
}

// A Store that keeps everything under one name cannot tell machines apart; what
// the state says of itself can.
func TestAStateUnderAnothersNameIsNotTakenForItsOwn(t *testing.T) {
	t.Parallel()
	staged(t, "renamed by hand", func(t *testing.T, polar *polartest.Polar, key polartest.LicenseKey) {
		store := &MemoryStore{}
		open := func(computer string, store Store) *Gate {
			return openGate(t, polar, func(c *Config) { c.Fingerprint, c.Features, c.Store = computer, withExport(key), store })
		}
		first := open("one", store)
		_, err := first.Activate(t.Context(), key.Key)
		require.NoError(t, err)
		data, err := store.Load(t.Context(), first.name)
		require.NoError(t, err)
		there := &MemoryStore{}
		second := open("two", there)
		require.NoError(t, there.Save(context.Background(), second.name, data))
		changes := changesOfSeats(polar)
		_, err = second.Refresh(t.Context())
		require.ErrorIs(t, err, ErrOtherMachine)
		assert.False(t, second.Has("export"))
		assert.Equal(t, changes, changesOfSeats(polar))
		_, err = second.Move(t.Context())
		require.NoError(t, err)
		assert.Equal(t, 1, polar.Seats(key.ID))
	})
}
