package polargate

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/polargate/polargate/internal/machine"
	"github.com/polargate/polargate/internal/seal"
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
func TestAStateUnderAnotherComputersNameIsNotUsed(t *testing.T) {
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

var testSeat = seat{Key: pastedKey, ActivationID: "11111111-2222-4333-8444-555555555555", Machine: "here", Conditions: json.RawMessage(`{"fingerprint":"f","n":1.0,"big":12345678901234567890}`)}

func testState() *state {
	copied := testSeat
	return &state{
		InstallationID: "INSTALLATION",
		Seat:           &copied,
		Intent:         &intent{AttemptID: "a", Key: pastedKey, At: noon},
		Outbox:         []seat{{Key: "OLD-KEY", ActivationID: "22222222-2222-4333-8444-555555555555"}},
		Verdict:        []byte{0, 1, 2, 255},
	}
}

func testVerdict() *verdict {
	return &verdict{
		CheckedAt: noon, BenefitID: "b", ExpiresAt: noon.Add(days), Skew: -hour, HighWater: noon.Add(ns),
		LastFailure: ErrRateLimited, NextTry: noon.Add(time.Minute),
	}
}

func TestASealedStateOpensUnchanged(t *testing.T) {
	t.Parallel()
	s := newSealer("org", "app", "secret")
	for name, st := range map[string]*state{
		"everything":             testState(),
		"no more than is needed": {InstallationID: "i"},
		"a key without seats":    {InstallationID: "i", Seat: &seat{Key: "k"}},
		"only an outbox":         {InstallationID: "i", Outbox: []seat{testSeat, testSeat}},
	} {
		sealed, err := s.sealState(st)
		require.NoError(t, err, name)
		opened, err := newSealer("org", "app", "secret").openState(sealed)
		require.NoError(t, err, name)
		assert.Equal(t, st, opened, name)
	}
	for name, v := range map[string]*verdict{
		"everything":  testVerdict(),
		"a refusal":   {Refused: ErrInactive, CheckedAt: noon, HighWater: noon},
		"no expiry":   {CheckedAt: noon, HighWater: noon},
		"a long past": {CheckedAt: time.Time{}, HighWater: noon},
	} {
		sealed, err := s.sealVerdict(v, &testSeat, "here")
		require.NoError(t, err, name)
		opened, err := s.openVerdict(sealed, &testSeat, "here")
		require.NoError(t, err, name)
		assert.Equal(t, v, opened, name)
	}
}

func TestASealedStateIsUnreadable(t *testing.T) {
	t.Parallel()
	s := newSealer("org", "app", "secret")
	sealed, err := s.sealState(testState())
	require.NoError(t, err)
	for _, text := range []string{pastedKey, testSeat.ActivationID, "OLD-KEY", "INSTALLATION", "fingerprint", "installation_id"} {
		assert.NotContains(t, string(sealed), text)
	}
	assert.True(t, bytes.HasPrefix(sealed, []byte("PGS1")))
	again, err := s.sealState(testState())
	require.NoError(t, err)
	assert.NotEqual(t, sealed, again, "each seal has a nonce of its own")
	assert.Equal(t, []byte("PGV1"), mustSealVerdict(t, s)[:4])
}

func mustSealVerdict(t *testing.T, s sealer) []byte {
	t.Helper()
	sealed, err := s.sealVerdict(testVerdict(), &testSeat, "here")
	require.NoError(t, err)
	return sealed
}

func TestASealThatWasTouchedDoesNotOpen(t *testing.T) {
	t.Parallel()
	s := newSealer("org", "app", "secret")
	sealedState, err := s.sealState(testState())
	require.NoError(t, err)
	for name, c := range map[string]struct {
		sealed []byte
		open   func([]byte) (any, error)
	}{
		"state": {sealedState, func(data []byte) (any, error) {
			st, err := s.openState(data)
			if st == nil {
				return nil, err
			}
			return st, err
		}},
		"verdict": {mustSealVerdict(t, s), func(data []byte) (any, error) {
			v, err := s.openVerdict(data, &testSeat, "here")
			if v == nil {
				return nil, err
			}
			return v, err
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := c.open(c.sealed)
			require.NoError(t, err)
			broken := func(data []byte, how string) {
				opened, err := c.open(data)
				if err == nil || opened != nil {
					t.Fatalf("%s opened as %+v", how, opened)
				}
				require.ErrorIs(t, err, seal.ErrBroken, how)
			}
			for i := range c.sealed {
				for bit := range 8 {
					data := bytes.Clone(c.sealed)
					data[i] ^= 1 << bit
					broken(data, fmt.Sprintf("with bit %d of byte %d flipped it", bit, i))
				}
				broken(c.sealed[:i], fmt.Sprintf("cut to %d bytes it", i))
				broken(c.sealed[i+1:], fmt.Sprintf("without its first %d bytes it", i+1))
			}
			broken(nil, "nothing")
			broken(append(bytes.Clone(c.sealed), 0), "with a byte more it")
			broken(append(bytes.Clone(c.sealed), c.sealed...), "twice in a row it")
			broken(make([]byte, len(c.sealed)), "all zero it")
			broken(append(bytes.Clone(c.sealed), make([]byte, maxState)...), "with a mebibyte more it")
			broken([]byte(`{"installation_id":"i","seat":{"key":"k"}}`), "plain JSON")
		})
	}
}

func mustVerdictKey(t testing.TB, s sealer) []byte {
	t.Helper()
	key, err := s.verdictKey("here")
	require.NoError(t, err)
	return key
}

func TestASealOfAnotherProgramDoesNotOpen(t *testing.T) {
	t.Parallel()
	s := newSealer("org", "app", "secret")
	sealed, err := s.sealState(testState())
	require.NoError(t, err)
	verdict := mustSealVerdict(t, s)
	for name, other := range map[string]sealer{
		"another organization":            newSealer("other", "app", "secret"),
		"another app":                     newSealer("org", "other", "secret"),
		"another secret":                  newSealer("org", "app", "other"),
		"no secret":                       newSealer("org", "app", ""),
		"nothing the same":                newSealer("", "", ""),
		"the parts run together":          newSealer("orgapp", "", "secret"),
		"the parts cut elsewhere":         newSealer("or", "gapp", "secret"),
		"the secret as part of the app":   newSealer("org", "appsecret", ""),
		"organization and app turned":     newSealer("app", "org", "secret"),
		"the same in capitals":            newSealer("ORG", "app", "secret"),
		"the verdict's key for the state": {key: mustVerdictKey(t, s)},
	} {
		_, err := other.openState(sealed)
		require.ErrorIs(t, err, seal.ErrBroken, name)
		_, err = other.openVerdict(verdict, &testSeat, "here")
		require.ErrorIs(t, err, seal.ErrBroken, name)
	}
	_, err = s.openState(verdict)
	require.ErrorIs(t, err, seal.ErrBroken, "a verdict is no state")
	_, err = s.openVerdict(sealed, &testSeat, "here")
	require.ErrorIs(t, err, seal.ErrBroken, "a state is no verdict")
}

func TestAVerdictOpensOnlyOnItsComputerAndForItsActivation(t *testing.T) {
	t.Parallel()
	s := newSealer("org", "app", "")
	sealed := mustSealVerdict(t, s)
	for name, c := range map[string]struct {
		of          seat
		fingerprint string
	}{
		"another machine":           {testSeat, "there"},
		"no machine":                {testSeat, ""},
		"the machine in capitals":   {testSeat, "HERE"},
		"another key":               {seat{Key: "OTHER", ActivationID: testSeat.ActivationID}, "here"},
		"another activation":        {seat{Key: testSeat.Key, ActivationID: "22222222-2222-4333-8444-555555555555"}, "here"},
		"no activation":             {seat{Key: testSeat.Key}, "here"},
		"the parts run together":    {seat{Key: testSeat.Key + testSeat.ActivationID}, "here"},
		"key and activation turned": {seat{Key: testSeat.ActivationID, ActivationID: testSeat.Key}, "here"},
	} {
		v, err := s.openVerdict(sealed, &c.of, c.fingerprint)
		require.ErrorIs(t, err, seal.ErrBroken, name)
		require.Nil(t, v, name)
	}
	// The outer seal opens wherever the file ends up, so that the seat can be
	// given back.
	st := testState()
	st.Verdict = sealed
	file, err := s.sealState(st)
	require.NoError(t, err)
	opened, err := s.openState(file)
	require.NoError(t, err)
	assert.Equal(t, testSeat, *opened.Seat)
}

func TestAVerdictCopiedToAnotherActivationDoesNotCount(t *testing.T) {
	t.Parallel()
	// Who has taken the program apart can open the outer seal; the verdict of
	// a paid key must not serve an unpaid one for that.
	config := Config{OrganizationID: testOrganization, Fingerprint: "here", Store: &MemoryStore{}}
	gate, err := Open(config)
	require.NoError(t, err)
	defer func() { _ = gate.Close() }()
	now := gate.now()
	verdict, err := gate.seal.sealVerdict(&verdict{CheckedAt: now, HighWater: now}, &testSeat, "here")
	require.NoError(t, err)
	for name, c := range map[string]struct {
		of    seat
		state State
	}{
		"beside its own seat": {testSeat, Active},
		"beside another one":  {seat{Key: "UNPAID", ActivationID: testSeat.ActivationID, Machine: "here"}, Locked},
	} {
		sealed, err := gate.seal.sealState(&state{InstallationID: "i", Seat: &c.of, Verdict: verdict})
		require.NoError(t, err)
		require.NoError(t, config.Store.Save(t.Context(), gate.name, sealed))
		second, err := Open(config)
		require.NoError(t, err)
		assert.Equal(t, c.state, second.Status().State, name)
		require.NoError(t, second.Close())
	}
}

func TestAnIncompleteSealedStateDoesNotOpen(t *testing.T) {
	t.Parallel()
	s := newSealer("org", "app", "")
	for name, plain := range map[string]string{
		"null":                       `null`,
		"an empty object":            `{}`,
		"a list":                     `[]`,
		"not JSON":                   `installation`,
		"nothing":                    ``,
		"no installation":            `{"seat":{"key":"k"}}`,
		"a seat without a key":       `{"installation_id":"i","seat":{"activation_id":"a"}}`,
		"an empty seat":              `{"installation_id":"i","seat":{}}`,
		"a seat that is a text":      `{"installation_id":"i","seat":"k"}`,
		"an outbox that is no list":  `{"installation_id":"i","outbox":{"key":"k"}}`,
		"a verdict that is no bytes": `{"installation_id":"i","verdict":"%%"}`,
		"two of them":                `{"installation_id":"i"}{"installation_id":"i"}`,
	} {
		sealed := sealPlain(s, plain)
		st, err := s.openState(sealed)
		require.ErrorIs(t, err, seal.ErrBroken, name)
		require.Nil(t, st, name)
	}
	st, err := s.openState(sealPlain(s, `{"installation_id":"i","from_a_newer_version":{"a":1}}`))
	require.NoError(t, err, "members that are not known do no harm")
	assert.Equal(t, "i", st.InstallationID)
}

// sealPlain seals bytes that need not be what this version would write as a
// state, under a nonce of zeros.
func sealPlain(s sealer, plain string) []byte {
	return sealBytes(s.key, stateMagic, "", []byte(plain))
}

func sealBytes(key []byte, magic, bound string, plain []byte) []byte {
	block, err := aes.NewCipher(key)
	if err != nil {
		panic(err)
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		panic(err)
	}
	out := append([]byte(magic), make([]byte, aead.NonceSize())...)
	return aead.Seal(out, out[len(magic):], plain, []byte(magic+bound))
}

func TestAStateThatIsTooLongToOpenIsNotSealed(t *testing.T) {
	t.Parallel()
	s := newSealer("org", "app", "")
	st := &state{InstallationID: "i", Seat: &seat{Key: "k", Conditions: json.RawMessage(`{"a":"` + strings.Repeat("x", maxState) + `"}`)}}
	sealed, err := s.sealState(st)
	if err != nil {
		return
	}
	_, err = s.openState(sealed)
	assert.NoError(t, err, "what was saved without an error must open again")
}

func FuzzOpenState(f *testing.F) {
	s := newSealer("org", "app", "secret")
	// The same bytes in every process that takes part in fuzzing.
	plain, err := json.Marshal(testState())
	require.NoError(f, err)
	sealed := sealPlain(s, string(plain))
	plain, err = json.Marshal(testVerdict())
	require.NoError(f, err)
	sealedVerdict := sealBytes(mustVerdictKey(f, s), verdictMagic, testSeat.Key+"\x00"+testSeat.ActivationID, plain)
	_, err = s.openState(sealed)
	require.NoError(f, err)
	_, err = s.openVerdict(sealedVerdict, &testSeat, "here")
	require.NoError(f, err)
	f.Add(sealed)
	f.Add(sealedVerdict)
	f.Add(sealed[:16])
	f.Add([]byte("PGS1"))
	f.Add([]byte("PGS2"))
	f.Add([]byte{})
	f.Add([]byte(`{"installation_id":"i","seat":{"key":"k","conditions":{"a":1}},"outbox":[{"key":"k"}],"intent":{"attempt_id":"a","key":"k","at":"2026-11-22T12:00:00Z"},"verdict":"UEdWMQ=="}`))
	f.Add([]byte(`{"installation_id":"i","seat":{"key":"k","conditions":[]}}`))
	f.Add([]byte(`{"checked_at":"2026-11-22T12:00:00Z","mark":"2026-11-22T12:00:00Z","skew":-9223372036854775808,"expires_at":"0001-01-01T00:00:00Z"}`))
	f.Add([]byte(`null`))
	f.Fuzz(func(t *testing.T, data []byte) {
		// Bytes as somebody left them in the file.
		if st, err := s.openState(data); err == nil {
			require.Equal(t, sealed, data, "forged")
			require.Equal(t, testState(), st)
		}
		if _, err := s.openVerdict(data, &testSeat, "here"); err == nil {
			require.Equal(t, sealedVerdict, data, "forged")
		}
		// The same as the content of a seal that holds.
		if st, err := s.openState(sealPlain(s, string(data))); err == nil {
			require.NotEmpty(t, st.InstallationID)
			if st.Seat != nil {
				require.NotEmpty(t, st.Seat.Key)
				_ = st.Seat.conditions()
				_, err := s.openVerdict(st.Verdict, st.Seat, "here")
				require.Error(t, err)
			}
			again, err := s.sealState(st)
			require.NoError(t, err)
			_, err = s.openState(again)
			require.NoError(t, err)
		}
		var v verdict
		if json.Unmarshal(data, &v) == nil {
			got := evaluate(&v, noon, days, 14*days)
			require.Contains(t, []State{Active, Grace, Locked}, got.state)
			if v.Refused != "" {
				require.Equal(t, Locked, got.state)
			}
		}
	})
}

func TestStatesThatEarlierVersionsWroteOpen(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/state/v*/*.sealed")
	require.NoError(t, err)
	require.Len(t, files, 14)
	s := newSealer(vectorOrganization, vectorApp, vectorSecret)
	for _, file := range files {
		t.Run(file, func(t *testing.T) {
			t.Parallel()
			sealed, err := os.ReadFile(file)
			require.NoError(t, err)
			text, err := os.ReadFile(strings.TrimSuffix(file, ".sealed") + ".json")
			require.NoError(t, err)
			var want struct {
				State   json.RawMessage
				Verdict json.RawMessage
			}
			require.NoError(t, json.Unmarshal(text, &want))

			st, err := s.openState(sealed)
			require.NoError(t, err)
			var v *verdict
			if st.Verdict != nil {
				v, err = s.openVerdict(st.Verdict, st.Seat, vectorMachine)
				require.NoError(t, err)
			}
			st.Verdict = nil
			opened, err := json.Marshal(st)
			require.NoError(t, err)
			assert.JSONEq(t, string(want.State), string(opened))
			opened, err = json.Marshal(v)
			require.NoError(t, err)
			assert.JSONEq(t, string(want.Verdict), string(opened))
		})
	}
}

func TestAGateReadsTheStateOfEveryEarlierVersion(t *testing.T) {
	t.Parallel()
	written := time.Date(2026, 11, 20, 9, 30, 0, 0, time.UTC)
	for name, want := range map[string]struct {
		state  State
		reason Reason
	}{
		"v1/granted":     {Active, ""},
		"v1/vain":        {Grace, ErrRateLimited}, // the mark of that state is a day ahead
		"v1/refused":     {Locked, ErrInactive},
		"v1/in-doubt":    {Unlicensed, ErrInDoubt},
		"v1/replacing":   {Active, ""},
		"v1/only-outbox": {Unlicensed, ErrNoLicense},
		"v1/seatless":    {Locked, ErrActivationsUnsupported},
		"v1/released":    {Locked, ErrSeatReleased},
		"v1/moving":      {Locked, ErrOtherMachine},
		"v1/no-license":  {Unlicensed, ErrNoLicense},
		"v1.1/granted":   {Active, ""},
		"v1.1/imported":  {Grace, ErrUnreachable},
		"v1.1/trial":     {InTrial, ""},
		"v1.1/lapsed":    {Perpetual, ErrInactive},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			sealed, err := os.ReadFile("testdata/state/" + name + ".sealed")
			require.NoError(t, err)
			config := Config{
				OrganizationID: vectorOrganization, App: vectorApp, Secret: vectorSecret, Fingerprint: vectorMachine,
				Store: FileStore(t.TempDir()), Clock: func() time.Time { return written.Add(time.Minute) },
				Trial: Trial{Days: 14}, Fallback: Fallback{Released: written.Add(-days)},
			}
			require.NoError(t, config.Store.Save(t.Context(), vectorName, sealed))
			gate, err := Open(config)
			require.NoError(t, err)
			defer gate.Close()
			assert.Equal(t, want.state, gate.Status().State)
			assert.Equal(t, want.reason, gate.Status().Reason)
			assert.Equal(t, name == "v1/in-doubt" || name == "v1/replacing", gate.Status().InDoubt)
		})
	}
}

func TestEachStateOfASeatIsStoredInTheWordsOfTheFirstVersion(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]seatState{
		`{"key":"k"}`:                                 activated,
		`{"key":"k","seatless":true}`:                 seatless,
		`{"key":"k","moving":true}`:                   reactivating,
		`{"key":"k","gone":true}`:                     released,
		`{"key":"k","stranded":true}`:                 unreleasable,
		`{"key":"k","activation_id":"a","gone":true}`: released,
	} {
		var s seat
		require.NoError(t, json.Unmarshal([]byte(text), &s))
		assert.Equal(t, want, s.State, text)
		again, err := json.Marshal(s)
		require.NoError(t, err)
		assert.JSONEq(t, text, string(again))
		again, err = json.Marshal(&state{InstallationID: "i", Seat: &s, Outbox: []seat{s}})
		require.NoError(t, err)
		assert.JSONEq(t, `{"installation_id":"i","seat":`+text+`,"outbox":[`+text+`]}`, string(again))
	}
}

// A state that the host's policy does not let open may be good: it is no damage.
func TestAStateThatPolicyForbidsToOpenIsNeitherDamagedNorWrittenOver(t *testing.T) {
	t.Parallel()
	store := &MemoryStore{}
	gate, err := Open(Config{OrganizationID: testOrganization, Store: store, Fingerprint: "here"})
	require.NoError(t, err)
	defer gate.Close()
	require.NoError(t, store.Save(t.Context(), gate.name, []byte("PGS1 sealed by another policy")))
	gate.seal.err = errors.New("forbidden by policy")
	rec := gate.load(t.Context())
	require.ErrorContains(t, rec.unread, "forbidden by policy")
	assert.Equal(t, ErrUnreadableState, rec.trouble)
	_, err = store.Load(t.Context(), gate.name+".corrupt")
	require.ErrorIs(t, err, ErrNotStored)
	_, _, err = gate.change(t.Context(), unsaved{})
	var failed *StoreError
	require.ErrorAs(t, err, &failed)
	kept, err := store.Load(t.Context(), gate.name)
	require.NoError(t, err)
	assert.Equal(t, "PGS1 sealed by another policy", string(kept))
	_, err = gate.seal.sealVerdict(&verdict{}, &seat{Key: "k"}, "here")
	require.ErrorContains(t, err, "forbidden by policy")
	_, err = gate.seal.openVerdict(nil, &seat{Key: "k"}, "here")
	require.ErrorContains(t, err, "forbidden by policy")
}

// FuzzOpenNames reads the list of the licenses of a program that takes several keys.
func FuzzOpenNames(f *testing.F) {
	s := newSealer("org", "app", "secret")
	// The same bytes in every process that takes part in fuzzing.
	sealed := sealBytes(s.key, namesMagic, "", []byte(`["theme","plug-in\u0000é"]`))
	_, err := s.openNames(sealed)
	require.NoError(f, err)
	f.Add(sealed)
	f.Add(sealed[:len(sealed)/2])
	f.Add([]byte(`["theme",""]`))
	f.Add([]byte(`{"a":null}`))
	f.Add([]byte(`[7]`))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, data []byte) {
		if _, err := s.openNames(data); err == nil {
			require.Equal(t, sealed, data, "forged")
		}
		names, err := s.openNames(sealBytes(s.key, namesMagic, "", data))
		if err != nil {
			return
		}
		again, err := s.sealNames(names)
		require.NoError(t, err)
		opened, err := s.openNames(again)
		require.NoError(t, err)
		require.Equal(t, names, opened)
	})
}
