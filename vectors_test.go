package polargate

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// The program that wrote testdata/state; see its README.
const (
	vectorOrganization = "34f57e13-8bcb-4481-85b2-a4b55c4ba0b9"
	vectorApp          = "inkwell"
	vectorSecret       = "a secret of the program"
	vectorMachine      = "3f2e1d0c4b5a69788796a5b4c3d2e1f0"
	vectorName         = "license-bd198d4cba63.sealed"
)

func TestStatesThatEarlierVersionsWroteOpen(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/state/v*/*.sealed")
	require.NoError(t, err)
	require.Len(t, files, 10)
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
			var v *lastVerdict
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

func TestAGateGoesOnWithAStateThatAnEarlierVersionWrote(t *testing.T) {
	t.Parallel()
	written := time.Date(2026, 11, 20, 9, 30, 0, 0, time.UTC)
	for name, want := range map[string]struct {
		state  State
		reason Reason
	}{
		"granted":     {Active, ""},
		"vain":        {Grace, ErrRateLimited}, // the mark of that state is a day ahead
		"refused":     {Locked, ErrInactive},
		"in-doubt":    {Unlicensed, ErrInDoubt},
		"replacing":   {Active, ""},
		"only-outbox": {Unlicensed, ErrNoLicense},
		"seatless":    {Locked, ErrActivationsUnsupported},
		"released":    {Locked, ErrSeatReleased},
		"moving":      {Locked, ErrOtherMachine},
		"no-license":  {Unlicensed, ErrNoLicense},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			sealed, err := os.ReadFile("testdata/state/v1/" + name + ".sealed")
			require.NoError(t, err)
			config := Config{
				OrganizationID: vectorOrganization, App: vectorApp, Secret: vectorSecret, Fingerprint: vectorMachine,
				Store: FileStore(t.TempDir()), Clock: func() time.Time { return written.Add(time.Minute) },
			}
			require.NoError(t, config.Store.Save(t.Context(), vectorName, sealed))
			gate, err := Open(config)
			require.NoError(t, err)
			defer gate.Close()
			assert.Equal(t, want.state, gate.Status().State)
			assert.Equal(t, want.reason, gate.Status().Reason)
			assert.Equal(t, name == "in-doubt" || name == "replacing", gate.Status().InDoubt)
		})
	}
}
