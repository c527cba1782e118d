package gate

import (
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"testing"
	"testing/synctest"

	"github.com/polargate/polargate"
	"github.com/polargate/polargate/polartest"
	"github.com/polargate/polargate/tests/internal/kit"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestAnActivationCarriesWhatTheProgramAddsToItsMeta(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := kit.NewWorld(t)
		w.Config.Meta = map[string]any{"edition": "studio", "build": 7, "beta": true}
		gate := w.Open()
		w.Config.Meta["edition"] = "changed afterwards"
		_, err := gate.Activate(t.Context(), w.Key.Key)
		require.NoError(t, err)
		meta := w.Now().Activations[0].Meta
		assert.Equal(t, "studio", meta["edition"])
		assert.Equal(t, "7", fmt.Sprint(meta["build"]))
		assert.Equal(t, true, meta["beta"])
		for _, own := range []string{"installation", "fingerprint", "attempt", "app", "version", "os"} {
			assert.NotEmpty(t, meta[own], own)
		}
	})
}

func TestMetaThatPolarWouldRefuseOrTheGateSetsItselfIsRejected(t *testing.T) {
	t.Parallel()
	many := map[string]any{}
	for i := range 45 {
		many[fmt.Sprint("n", i)] = i
	}
	for name, meta := range map[string]map[string]any{
		"a name of the Gate's": {"fingerprint": "mine"}, "too many": many, "a list": {"a": []string{"b"}}, "nothing": {"a": nil}, "an empty text": {"a": ""},
	} {
		w := kit.NewWorld(t)
		w.Config.Meta = meta
		_, err := polargate.Open(w.Config)
		var input *polargate.InputError
		if assert.ErrorAs(t, err, &input, name) {
			assert.Equal(t, "Meta", input.Field)
		}
	}
}

func TestANeutralLabelTellsComputersApartWithoutNamingThem(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := kit.NewWorld(t)
		w.Config.NeutralLabel = true
		for _, machine := range []string{"one", "another"} {
			gate := w.Open(func(c *polargate.Config) { c.Fingerprint, c.Store = machine, &polargate.MemoryStore{} })
			_, err := gate.Activate(t.Context(), w.Key.Key)
			require.NoError(t, err)
		}
		labels := []string{w.Now().Activations[0].Label, w.Now().Activations[1].Label}
		assert.NotEqual(t, labels[0], labels[1])
		for _, label := range labels {
			assert.Regexp(t, regexp.MustCompile(`^Computer [0-9A-F]{6}$`), label)
		}

		// It is the same for the same computer, and a label of the program's own wins.
		gate := w.Open(func(c *polargate.Config) { c.Fingerprint, c.Store = "one", &polargate.MemoryStore{} })
		_, err := gate.Activate(t.Context(), w.Key.Key)
		require.NoError(t, err)
		assert.Equal(t, labels[0], w.Now().Activations[2].Label)
		w.Polar.Update(w.Key.ID, func(k *polartest.LicenseKey) { *k.LimitActivations++ })
		gate = w.Open(func(c *polargate.Config) { c.Fingerprint, c.Label = "a third", "the studio" })
		_, err = gate.Activate(t.Context(), w.Key.Key)
		require.NoError(t, err)
		assert.Equal(t, "the studio", w.Now().Activations[3].Label)
	})
}

func TestAnActivationSendsWhatThePrivacyPageListsAndNothingElse(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := kit.NewWorld(t)
		w.Config.Label = "ada-laptop"
		gate := w.Activated()
		_, err := gate.Refresh(t.Context())
		require.NoError(t, err)
		_, err = gate.Consume(t.Context(), 1)
		require.NoError(t, err)
		require.NoError(t, gate.Deactivate(t.Context()))
		page, err := os.ReadFile("../../docs/privacy.md")
		require.NoError(t, err)
		for _, r := range w.Polar.Requests() {
			var body map[string]any
			require.NoError(t, json.Unmarshal(r.Body, &body))
			for name, value := range body {
				assert.Contains(t, []string{"key", "organization_id", "activation_id", "conditions", "label", "meta", "increment_usage"}, name, "%s", r.Path)
				if name == "meta" {
					for own := range value.(map[string]any) {
						assert.Contains(t, string(page), own)
					}
				}
			}
			for name := range r.Header {
				assert.Contains(t, []string{"Accept", "Accept-Encoding", "Content-Length", "Content-Type", "User-Agent"}, name)
			}
		}
	})
}
