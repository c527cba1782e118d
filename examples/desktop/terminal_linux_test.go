package main

import (
	"fmt"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/polargate/polargate/polartest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// screen is a terminal with the program in it.
type screen struct {
	t        *testing.T
	keyboard *os.File
	terminal *os.File
	mu       sync.Mutex
	shown    strings.Builder
	ended    chan int
}

// show runs the program in a terminal.
func (i *installation) show(args ...string) *screen {
	i.t.Helper()
	keyboard, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		i.t.Skip("there are no pseudo terminals here:", err)
	}
	require.NoError(i.t, unix.IoctlSetPointerInt(int(keyboard.Fd()), unix.TIOCSPTLCK, 0))
	n, err := unix.IoctlGetInt(int(keyboard.Fd()), unix.TIOCGPTN)
	require.NoError(i.t, err)
	terminal, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|syscall.O_NOCTTY, 0)
	require.NoError(i.t, err)
	s := &screen{t: i.t, keyboard: keyboard, terminal: terminal, ended: make(chan int, 1)}
	i.t.Cleanup(func() { _, _ = keyboard.Close(), terminal.Close() })
	go func() {
		buffer := make([]byte, 4096)
		for {
			n, err := keyboard.Read(buffer)
			s.mu.Lock()
			s.shown.Write(buffer[:n])
			s.mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	cmd, _, _ := i.command(args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = terminal, terminal, terminal
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	require.NoError(i.t, cmd.Start())
	i.t.Cleanup(func() { _ = cmd.Process.Kill() })
	go func() {
		_ = cmd.Wait()
		s.ended <- cmd.ProcessState.ExitCode()
	}()
	return s
}

func (s *screen) text() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.shown.String()
}

func (s *screen) sees(text string) {
	s.t.Helper()
	require.Eventually(s.t, func() bool { return strings.Contains(s.text(), text) }, 20*time.Second, 5*time.Millisecond, "%q", text)
}

func (s *screen) types(text string) {
	s.t.Helper()
	_, err := s.keyboard.WriteString(text)
	require.NoError(s.t, err)
}

func (s *screen) ends(code int) {
	s.t.Helper()
	select {
	case got := <-s.ended:
		require.Equal(s.t, code, got, s.text())
	case <-time.After(20 * time.Second):
		s.t.Fatal("it does not end: ", s.text())
	}
}

// echoes reports whether the terminal shows what is typed.
func (s *screen) echoes() bool {
	state, err := unix.IoctlGetTermios(int(s.terminal.Fd()), unix.TCGETS)
	require.NoError(s.t, err)
	return state.Lflag&unix.ECHO != 0
}

func TestAKeyIsTypedWithoutBeingShown(t *testing.T) {
	t.Parallel()
	i := install(t, polartest.LicenseKey{LimitActivations: polartest.Limit(1)})
	i.env["TERM"] = "xterm"
	s := i.show("activate")
	s.sees("License key")
	require.Eventually(t, func() bool { return !s.echoes() }, 20*time.Second, time.Millisecond)
	s.types(i.key.Key + "\n")
	s.ends(exitOK)
	s.sees("\x1b[32mactive\x1b[0m")
	assert.NotContains(t, s.text(), i.key.Key)
	assert.True(t, s.echoes(), "the terminal is as it was")
	assert.Equal(t, 1, i.polar.Seats(i.key.ID))

	i.env["NO_COLOR"] = "1"
	s = i.show("status")
	s.ends(exitOK)
	s.sees("license:     active")
	assert.NotContains(t, s.text(), "\x1b[3")
}

func TestCtrlCAtThePromptLeavesTheTerminalAsItWas(t *testing.T) {
	t.Parallel()
	i := install(t, polartest.LicenseKey{LimitActivations: polartest.Limit(1)})
	s := i.show("activate")
	s.sees("License key")
	require.Eventually(t, func() bool { return !s.echoes() }, 20*time.Second, time.Millisecond)
	s.types("INKW\x03")
	s.ends(exitNotNow)
	assert.True(t, s.echoes())
	assert.NotContains(t, s.text(), "INKW")
	assert.Empty(t, i.polar.Requests())
}

func TestALongWaitShowsProgressOnATerminal(t *testing.T) {
	t.Parallel()
	i := install(t, polartest.LicenseKey{LimitActivations: polartest.Limit(1)})
	i.env["TERM"] = "xterm"
	i.polar.Inject(polartest.Fault{Path: "/activate", Times: 1, Effect: polartest.Delay(3 * time.Second)})
	s := i.show("activate", i.key.Key)
	s.sees("Activating… 1 s")
	s.ends(exitOK)
	s.sees("active")
	shown := s.text()
	assert.Greater(t, strings.Index(shown, "license:"), strings.LastIndex(shown, "\x1b[K"), "it is taken away before the answer")
}
