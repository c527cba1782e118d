package polargate

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/polargate/polargate/internal/machine"
	"github.com/polargate/polargate/polartest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestADiagnosisTellsAWrongClock(t *testing.T) {
	t.Parallel()
	const day = 24 * time.Hour
	for name, test := range map[string]struct {
		ahead   time.Duration
		shows   string
		problem bool
	}{
		"right":                        {0, "right", false},
		"right but for a second":       {time.Second, "right", false},
		"behind, as clocks are":        {-4 * time.Minute, "4m0s behind", false},
		"ahead, as clocks are":         {4 * time.Minute, "4m0s ahead", false},
		"in another zone by hand":      {2 * time.Hour, "2h0m0s ahead", true},
		"days ahead":                   {3 * day, "72h0m0s ahead", true},
		"days behind":                  {-3 * day, "72h0m0s behind", true},
		"years behind":                 {-20 * 365 * day, "175200h0m0s behind", true},
		"years ahead":                  {20 * 365 * day, "175200h0m0s ahead", true},
		"at the beginning of all time": {-30 * 365 * day, "262800h0m0s behind", true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				c := newLaptop(t)
				c.watch.set(test.ahead)
				d := c.gate.Diagnose(t.Context())
				assert.True(t, d.Reached)
				assert.Equal(t, test.ahead, d.ClockAhead)
				assert.Contains(t, d.String(), "\nclock        ")
				assert.Contains(t, d.String(), test.shows)
				assert.Equal(t, test.problem, strings.Contains(strings.Join(d.Problems, "\n"), "clock is "+test.shows), "%v", d.Problems)
				assert.Equal(t, c.watch.now(), d.At)
				c.watch.set(0)
				assert.Equal(t, Active, c.gate.Status().State)
			})
		})
	}
	for name, test := range map[string]struct {
		reached bool
		change  func(*http.Response)
	}{
		"but not where nobody knows the time": {true, func(r *http.Response) { r.Header.Del("Date") }},
		"nor by a date that is none":          {true, func(r *http.Response) { r.Header.Set("Date", "the day after tomorrow") }},
		"nor by the clock of a login page": {false, func(r *http.Response) {
			r.Header.Set("Date", "Thu, 01 Jan 1970 00:00:00 GMT")
			r.Header.Set("Content-Type", "text/html")
			r.Body = http.NoBody
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				c := newLaptop(t)
				c.watch.set(3 * day)
				gate := c.open(func(config *Config) {
					config.HTTPClient = &http.Client{Transport: tripper(func(r *http.Request) (*http.Response, error) {
						resp, err := c.polar.Transport().RoundTrip(r)
						if err == nil {
							test.change(resp)
						}
						return resp, err
					})}
				})
				d := gate.Diagnose(t.Context())
				assert.Equal(t, test.reached, d.Reached)
				assert.Zero(t, d.ClockAhead)
				assert.NotContains(t, strings.Join(d.Problems, "\n"), "This computer's clock is")
				assert.NotContains(t, d.String(), "ahead")
			})
		})
	}
}

func TestADiagnosisTellsWhatStandsForTheComputer(t *testing.T) {
	t.Parallel()
	for want, id := range map[string]string{"machine id": "3d1219c7c4c5404aaa1f6d2a48adfda4", "random": ""} {
		m := machine.Machine{}
		if id != "" {
			m.IDs = []string{id}
		}
		polar := polartest.New(polartest.Config{})
		gate := openGate(t, polar, func(c *Config) { c.machine = func() machine.Machine { return m } })
		d := gate.Diagnose(t.Context())
		assert.Equal(t, want, d.Fingerprint)
		assert.Contains(t, d.String(), "fingerprint  "+want)
		if id != "" {
			assert.NotContains(t, d.String(), id)
		}
		gate = openGate(t, polar, func(c *Config) { c.Fingerprint = "the computer of the tests" })
		d = gate.Diagnose(t.Context())
		assert.Equal(t, "set by the program", d.Fingerprint)
		assert.NotContains(t, d.String(), "the computer of the tests")
	}
}

func TestALookAtAFolderLeavesItAsItWas(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	for _, s := range []FileStore{FileStore(folder), FileStore(filepath.Join(folder, "one")), FileStore(filepath.Join(folder, "one", "two", "three"))} {
		_, err := s.folder().tryWriting()
		require.NoError(t, err)
		entries, err := os.ReadDir(folder)
		require.NoError(t, err)
		assert.Empty(t, entries, "%s", strings.TrimPrefix(string(s), folder))
	}
	kept := FileStore(filepath.Join(folder, "kept"))
	require.NoError(t, os.Mkdir(string(kept), 0o700))
	_, err := kept.folder().tryWriting()
	require.NoError(t, err)
	assert.DirExists(t, string(kept), "and what was there stays")
	file := filepath.Join(folder, "file")
	require.NoError(t, os.WriteFile(file, []byte("x"), 0o600))
	for _, s := range []FileStore{FileStore(filepath.Join(file, "license")), FileStore(file)} {
		_, err := s.folder().tryWriting()
		require.Error(t, err)
	}
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	assert.Equal(t, "x", string(text))
}
