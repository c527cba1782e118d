package toolkits

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	tea "github.com/charmbracelet/bubbletea"
	"github.com/polargate/polargate"
	"github.com/polargate/polargate/polartest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestTheRecipesOfTheDocumentAreThoseThatAreCompiledHere(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile(filepath.Join("..", "..", "docs", "desktop.md"))
	require.NoError(t, err)
	source, err := os.ReadFile("recipes.go")
	require.NoError(t, err)
	_, section, ok := strings.Cut(string(page), "## Changes, reminders and your user interface")
	require.True(t, ok)
	section, _, _ = strings.Cut(section, "\n## ")
	blocks := strings.Split(section, "```")
	recipes := 0
	for i := 1; i < len(blocks); i += 2 {
		code, isGo := strings.CutPrefix(blocks[i], "go\n")
		if isGo && strings.Contains(code, "Subscribe") {
			recipes++
			assert.Contains(t, string(source), code)
		}
	}
	assert.Equal(t, 3, recipes)
}

func opened(t *testing.T) (*polargate.Gate, polartest.LicenseKey) {
	t.Helper()
	polar := polartest.New(polartest.Config{})
	key := polar.AddKey(polartest.LicenseKey{LimitActivations: polartest.Limit(1)})
	gate, err := polargate.Open(polargate.Config{
		OrganizationID: polar.OrganizationID(), App: "inkwell", Store: &polargate.MemoryStore{}, Fingerprint: "here", BaseURL: polar.URL(), HTTPClient: polar.Client(),
	})
	require.NoError(t, err)
	t.Cleanup(func() { _ = gate.Close() })
	return gate, key
}

// model activates a key when it hears that there is no license, and quits when there is one.
type model struct {
	gate    *polargate.Gate
	key     string
	heard   []polargate.State
	problem string
}

func (m model) Init() tea.Cmd { return nil }
func (m model) View() string  { return "" }

func (m model) Update(msg tea.Msg) (tea.Model, tea.Cmd) {
	switch msg := msg.(type) {
	case licenseMsg:
		m.heard = append(m.heard, msg.State)
		if msg.State == polargate.Unlicensed {
			return m, activate(m.gate, m.key)
		}
		return m, tea.Quit
	case activatedMsg:
		m.problem = msg.problem
	}
	return m, nil
}

func TestABubbleTeaProgramHearsOfItsLicenseInItsOwnLoop(t *testing.T) {
	t.Parallel()
	gate, key := opened(t)
	var screen bytes.Buffer
	end, err := runBubbleTea(gate, model{gate: gate, key: key.Key}, tea.WithInput(nil), tea.WithOutput(&screen), tea.WithoutSignalHandler())
	require.NoError(t, err)
	m := end.(model)
	assert.Equal(t, polargate.Unlicensed, m.heard[0])
	assert.Equal(t, polargate.Active, m.heard[len(m.heard)-1])
	assert.Empty(t, m.problem)
}

func TestTheOtherRecipesHandTheStatusOver(t *testing.T) {
	gate, key := opened(t)
	shown := make(chan string, 100)
	note := func(text string) { shown <- text }
	fyne.Do = func(f func()) { f() }
	runtime.EventsEmit = func(_ context.Context, name string, data ...any) {
		note(name + string(data[0].(polargate.Status).State))
	}
	showInFyne(gate, textFunc(note))
	(&app{gate}).startup(t.Context())
	_, err := gate.Activate(t.Context(), key.Key)
	require.NoError(t, err)
	for wanted := map[string]bool{"licenseactive": true, "Licensed.": true}; len(wanted) > 0; {
		delete(wanted, <-shown)
	}
}

type textFunc func(text string)

func (f textFunc) SetText(text string) { f(text) }
