package janitor_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/polargate/polargate"
	"github.com/polargate/polargate/janitor"
	"github.com/polargate/polargate/polartest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// cleaned runs a test with a Polar and a client of a vendor.
func cleaned(t *testing.T, test func(t *testing.T, polar *polartest.Polar, client *polargate.Client)) {
	t.Helper()
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		polar := polartest.New(polartest.Config{Unlimited: true})
		client, err := polargate.NewClient(polargate.ClientConfig{OrganizationID: polar.OrganizationID(),
			AccessToken: polar.AddToken(polartest.Token{}), BaseURL: polar.URL(), HTTPClient: polar.Client()})
		require.NoError(t, err)
		defer client.Close()
		test(t, polar, client)
	})
}

func found(t *testing.T, client *polargate.Client, o janitor.Options) (all []janitor.Leak) {
	t.Helper()
	for leak, err := range janitor.Find(t.Context(), client, o) {
		require.NoError(t, err)
		all = append(all, leak)
	}
	return all
}

func made(installation, fingerprint, app string, at time.Time) polartest.Activation {
	return polartest.Activation{Label: installation, CreatedAt: at, Meta: map[string]any{
		"installation": installation, "fingerprint": fingerprint, "app": app, "attempt": fmt.Sprint(at.UnixNano())}}
}

func TestWhatAKilledProgramLeftIsFoundAndTheActivationInUseStays(t *testing.T) {
	cleaned(t, func(t *testing.T, polar *polartest.Polar, client *polargate.Client) {
		key := polar.AddKey(polartest.LicenseKey{LimitActivations: polartest.Limit(3)})
		store := &polargate.MemoryStore{}
		open := func() *polargate.Gate {
			gate, err := polargate.Open(polargate.Config{OrganizationID: polar.OrganizationID(), App: "inkwell", Store: store,
				Fingerprint: "this computer", BaseURL: polar.URL(), HTTPClient: polar.Client()})
			require.NoError(t, err)
			return gate
		}
		// Twice the answer is lost; the third time it is stored.
		polar.Inject(polartest.Fault{Path: "/activate", Times: 2, Effect: polartest.AnswerLost()})
		for range 2 {
			gate := open()
			_, err := gate.Activate(t.Context(), key.Key)
			require.ErrorIs(t, err, polargate.ErrActivationInDoubt)
			require.NoError(t, gate.Close())
			time.Sleep(time.Minute)
		}
		gate := open()
		defer gate.Close()
		_, err := gate.Activate(t.Context(), key.Key)
		require.NoError(t, err)
		require.Equal(t, 3, polar.Seats(key.ID))

		assert.Empty(t, found(t, client, janitor.Options{}), "they are too young")
		time.Sleep(2 * time.Hour)
		all := found(t, client, janitor.Options{})
		require.Len(t, all, 2)
		require.Equal(t, 3, polar.Seats(key.ID), "looking changes nothing")
		for _, leak := range all {
			assert.Equal(t, janitor.Replaced, leak.Why)
			assert.NotContains(t, leak.String()+fmt.Sprintf("%v", leak), key.Key)
			require.NoError(t, leak.Deactivate(t.Context()))
			require.NoError(t, leak.Deactivate(t.Context()), "again does no harm")
		}
		assert.Equal(t, 1, polar.Seats(key.ID))
		time.Sleep(25 * time.Hour)
		status, err := gate.Check(t.Context())
		require.NoError(t, err)
		assert.Equal(t, polargate.Active, status.State, "the activation in use stays")
		assert.Empty(t, found(t, client, janitor.Options{}))
	})
}

func TestOnlyActivationsOfOneInstallationOnOneComputerReplaceEachOther(t *testing.T) {
	cleaned(t, func(t *testing.T, polar *polartest.Polar, client *polargate.Client) {
		at := polar.Now().Add(-100 * time.Hour)
		hour := func(n int) time.Time { return at.Add(time.Duration(n) * time.Hour) }
		foreign := polartest.Activation{Label: "by hand", CreatedAt: hour(0)}
		key := polar.AddKey(polartest.LicenseKey{LimitActivations: polartest.Limit(20), Activations: []polartest.Activation{
			made("ada", "laptop", "inkwell", hour(1)),
			made("ada", "desk", "inkwell", hour(2)),   // a copied state folder, on another computer
			made("grace", "desk", "inkwell", hour(3)), // another user of that computer
			made("ada", "laptop", "other", hour(4)),   // another program
			made("ada", "laptop", "inkwell", hour(5)), // replaces the first
			foreign, foreign,
		}})
		all := found(t, client, janitor.Options{})
		require.Len(t, all, 1)
		stored, _ := polar.LicenseKey(key.ID)
		assert.Equal(t, stored.Activations[0].ID, all[0].Activation.ID)
		assert.Equal(t, stored.Activations[4].ID, all[0].ReplacedBy)
		assert.Empty(t, found(t, client, janitor.Options{OlderThan: 200 * time.Hour}))
		assert.Empty(t, found(t, client, janitor.Options{Keep: func(k *polargate.LicenseKey, a polargate.Activation) bool { return a.Label == "ada" }}))
		assert.Empty(t, found(t, client, janitor.Options{Keys: polargate.KeyFilter{Statuses: []polargate.KeyStatus{polargate.KeyRevoked}}}))
	})
}

func TestKeysThatNobodyValidatesAnyMoreAreFoundOnlyIfAskedFor(t *testing.T) {
	cleaned(t, func(t *testing.T, polar *polartest.Polar, client *polargate.Client) {
		old := polar.Now().Add(-400 * 24 * time.Hour)
		add := func(validated time.Time) polartest.LicenseKey {
			return polar.AddKey(polartest.LicenseKey{LimitActivations: polartest.Limit(2), CreatedAt: old, LastValidatedAt: validated,
				Activations: []polartest.Activation{made("ada", "laptop", "inkwell", old), {Label: "young", CreatedAt: polar.Now().Add(-24 * time.Hour)}}})
		}
		forgotten := add(old)
		add(polar.Now().Add(-time.Hour))
		never := add(time.Time{})
		polar.AddKey(polartest.LicenseKey{CreatedAt: old}) // without activations
		assert.Empty(t, found(t, client, janitor.Options{}))
		all := found(t, client, janitor.Options{UnusedFor: 365 * 24 * time.Hour})
		require.Len(t, all, 2)
		for _, leak := range all {
			assert.Contains(t, []string{forgotten.ID, never.ID}, leak.LicenseKey.ID)
			assert.Equal(t, janitor.Unused, leak.Why)
			assert.Equal(t, "ada", leak.Activation.Label)
		}
	})
}

func TestAJanitorWithoutATokenOrWithoutAClientSaysSo(t *testing.T) {
	t.Parallel()
	polar := polartest.New(polartest.Config{})
	client, err := polargate.NewClient(polargate.ClientConfig{OrganizationID: polar.OrganizationID(), BaseURL: polar.URL(), HTTPClient: polar.Client()})
	require.NoError(t, err)
	for _, c := range []*polargate.Client{client, nil} {
		n := 0
		for _, err := range janitor.Find(context.Background(), c, janitor.Options{}) {
			var input *polargate.InputError
			require.ErrorAs(t, err, &input)
			n++
		}
		assert.Equal(t, 1, n)
	}
	assert.False(t, strings.Contains(fmt.Sprint(janitor.Options{}), "0x"))
}
