package gate

import (
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/polargate/polargate"
	"github.com/polargate/polargate/polartest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

var placeholder = regexp.MustCompile(`\{[a-z]*\}`)

func TestEveryPhraseCanBeTranslatedAndIsUsed(t *testing.T) {
	t.Parallel()
	english := polargate.Phrases()
	for name, text := range english {
		assert.NotEmpty(t, text, name)
		assert.Regexp(t, `^[a-z_]+(\.[a-z_]+)*$`, string(name))
		if strings.HasSuffix(string(name), ".do") {
			assert.Regexp(t, `^[A-Z].*\.$`, text, "what to do is a whole sentence")
		}
		for _, p := range placeholder.FindAllString(text, -1) {
			assert.Contains(t, []string{"{until}", "{wait}", "{file}", "{what}", "{do}", "{field}", "{problem}", "{scope}", "{place}", "{char}", "{n}", "{time}", "{clock}", "{version}"}, p, name)
		}
	}
	for _, reason := range []polargate.Reason{
		polargate.ErrUnknownKey, polargate.ErrInactive, polargate.ErrExpired, polargate.ErrSeatReleased, polargate.ErrConditionsMismatch,
		polargate.ErrWrongBenefit, polargate.ErrWrongCustomer, polargate.ErrActivationLimit, polargate.ErrActivationsUnsupported,
		polargate.ErrUsageExceeded, polargate.ErrDenied, polargate.ErrUnreachable, polargate.ErrRateLimited, polargate.ErrMisconfigured,
		polargate.ErrInDoubt, polargate.ErrGraceEnded, polargate.ErrClockSetBack, polargate.ErrOtherMachine, polargate.ErrUnreadableState,
		polargate.ErrNoPermission, polargate.ErrBusy, polargate.ErrNoLicense, polargate.ErrClosed,
	} {
		what, do := polargate.Phrase(reason), polargate.Phrase(reason)+".do"
		require.Contains(t, english, what)
		require.Contains(t, english, do)
		german := &polargate.Language{Phrases: map[polargate.Phrase]string{what: "was ist", do: "Was tun."}}
		assert.Equal(t, "Was ist. Was tun.", german.Message(&polargate.Error{Op: "check", Reason: reason}), reason)
		delete(english, what)
	}
	assert.Contains(t, polargate.Phrases(), polargate.Phrase("expired"), "the table is the caller's own")
}

func TestAProgramSpeaksTheLanguageOfItsUser(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		polar := polartest.New(polartest.Config{Unlimited: true})
		key := polar.AddKey(polartest.LicenseKey{LimitActivations: polartest.Limit(1), ExpiresAt: time.Now().AddDate(0, 1, 0)})
		german := &polargate.Language{
			Phrases: map[polargate.Phrase]string{
				"no_license":           "kein Lizenzschlüssel wurde aktiviert",
				"no_license.do":        "Geben Sie Ihren Schlüssel ein.",
				"active_until":         "Lizenziert bis {until}.",
				"grace":                "Lizenziert, aber {what}. {do} Ohne Antwort gilt die Lizenz bis {until}.",
				"unreachable":          "der Lizenzserver war nicht zu erreichen",
				"unreachable.do":       "Prüfen Sie die Verbindung.",
				"license_key_input":    "So sieht kein Lizenzschlüssel aus.",
				"refused":              "{what}! {do}",
				"note_release_pending": "Die Aktivierung wird noch zurückgegeben.",
			},
			Time: func(at time.Time) string { return at.UTC().Format("02.01.2006") },
		}
		gate, err := polargate.Open(polargate.Config{
			OrganizationID: polar.OrganizationID(), BaseURL: polar.URL(), HTTPClient: polar.Client(), Store: &polargate.MemoryStore{},
			Language: german,
		})
		require.NoError(t, err)
		defer gate.Close()
		german.Phrases["active_until"] = "changed too late"

		status, err := gate.Check(t.Context())
		assert.Equal(t, "Kein Lizenzschlüssel wurde aktiviert! Geben Sie Ihren Schlüssel ein.", status.Message)
		assert.Equal(t, status.Message, german.Message(err))
		_, err = gate.Activate(t.Context(), "")
		assert.Equal(t, "So sieht kein Lizenzschlüssel aus.", german.Message(err))

		status, err = gate.Activate(t.Context(), key.Key)
		require.NoError(t, err)
		assert.Equal(t, "Lizenziert bis 01.02.2000.", status.Message)
		polar.SetOffline(true)
		time.Sleep(25 * time.Hour)
		status, err = gate.Check(t.Context())
		require.NoError(t, err)
		assert.Equal(t, "Lizenziert, aber der Lizenzserver war nicht zu erreichen. Prüfen Sie die Verbindung. Ohne Antwort gilt die Lizenz bis 15.01.2000.", status.Message)

		require.Error(t, gate.Deactivate(t.Context()))
		status = gate.Status()
		assert.Contains(t, status.Message, "Die Aktivierung wird noch zurückgegeben.")
		assert.True(t, status.ReleasePending)
		polar.SetOffline(false)
		time.Sleep(2 * time.Minute)
		status, _ = gate.Check(t.Context())
		assert.False(t, status.ReleasePending)
		assert.Zero(t, polar.Seats(key.ID))
	})
}

func TestAPhraseThatDoesNotExistIsATypingError(t *testing.T) {
	t.Parallel()
	polar := polartest.New(polartest.Config{})
	_, err := polargate.Open(polargate.Config{
		OrganizationID: polar.OrganizationID(), Store: &polargate.MemoryStore{},
		Language: &polargate.Language{Phrases: map[polargate.Phrase]string{"expierd": "…"}},
	})
	var input *polargate.InputError
	require.ErrorAs(t, err, &input)
	assert.Equal(t, "Language", input.Field)
}

func TestAStatusShowsTheUsesOfTheKeyAsPolarSaidLast(t *testing.T) {
	t.Parallel()
	polar := polartest.New(polartest.Config{Unlimited: true})
	store := &polargate.MemoryStore{}
	open := func() *polargate.Gate {
		gate, err := polargate.Open(polargate.Config{
			OrganizationID: polar.OrganizationID(), BaseURL: polar.URL(), HTTPClient: polar.Client(), Store: store,
		})
		require.NoError(t, err)
		return gate
	}
	limited := polar.AddKey(polartest.LicenseKey{LimitActivations: polartest.Limit(1), LimitUsage: polartest.Limit(10), Usage: 3})
	free := polar.AddKey(polartest.LicenseKey{LimitActivations: polartest.Limit(1)})

	gate := open()
	assert.Zero(t, gate.Status().LimitUsage, "nothing is known")
	status, err := gate.Activate(t.Context(), limited.Key)
	require.NoError(t, err)
	assert.Equal(t, []int64{3, 10}, []int64{status.Usage, status.LimitUsage})
	_, err = gate.Consume(t.Context(), 4)
	require.NoError(t, err)
	assert.EqualValues(t, 7, gate.Status().Usage)
	require.NoError(t, gate.Close())

	gate = open()
	defer gate.Close()
	assert.EqualValues(t, 7, gate.Status().Usage, "it is stored")
	text, err := gate.Status().MarshalJSON()
	require.NoError(t, err)
	assert.Contains(t, string(text), `"usage":7,"limit_usage":10`)

	status, err = gate.Activate(t.Context(), free.Key)
	require.NoError(t, err)
	assert.Equal(t, polargate.Unlimited, status.LimitUsage)
	text, err = status.MarshalJSON()
	require.NoError(t, err)
	assert.NotContains(t, string(text), "usage")
}
