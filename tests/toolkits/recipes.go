// Package toolkits has the recipes of docs/desktop.md for toolkits of user interfaces. What a
// Gate calls runs in its own goroutines, and a toolkit wants to be called in its own.
package toolkits

import (
	"context"

	tea "github.com/charmbracelet/bubbletea"
	"github.com/polargate/polargate"
)

// Bubble Tea.

type licenseMsg polargate.Status

func runBubbleTea(gate *polargate.Gate, m tea.Model, options ...tea.ProgramOption) (tea.Model, error) {
	program := tea.NewProgram(m, options...)
	go func() {
		for status := range gate.Subscribe() {
			program.Send(licenseMsg(status)) // Update gets it in the program's own loop
		}
	}()
	return program.Run()
}

// An activation asks the license server: do it in a command, so that the screen stays alive.
func activate(gate *polargate.Gate, key string) tea.Cmd {
	return func() tea.Msg {
		status, err := gate.Activate(context.Background(), key)
		return activatedMsg{status, polargate.Message(err)}
	}
}

type activatedMsg struct {
	status  polargate.Status
	problem string
}

// Fyne and Wails need cgo and a display, so they aren't compiled here: fyne and runtime are
// what the recipes use of them.

type label interface{ SetText(text string) }

var fyne struct{ Do func(f func()) }

func showInFyne(gate *polargate.Gate, license label) {
	go func() {
		for status := range gate.Subscribe() {
			fyne.Do(func() { license.SetText(status.Message) }) // on Fyne's own thread
		}
	}()
}

var runtime struct {
	EventsEmit func(ctx context.Context, name string, data ...any)
}

type app struct{ gate *polargate.Gate }

// startup is for options.App.OnStartup of Wails.
func (a *app) startup(ctx context.Context) {
	go func() {
		for status := range a.gate.Subscribe() {
			runtime.EventsEmit(ctx, "license", status) // its JSON has the key masked
		}
	}()
}
