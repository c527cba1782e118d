package main

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
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

// session is a command at a terminal.
type session struct {
	t             *testing.T
	cmd           *exec.Cmd
	master, slave *os.File // the end of the person, and that of the program
	modes         unix.Termios
	copied        chan struct{}

	mu      sync.Mutex
	printed bytes.Buffer
}

// Write takes what the program prints.
func (s *session) Write(text []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.printed.Write(text)
}

func (s *session) output() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.printed.String()
}

// at starts a command at a terminal. The terminal is not the controlling one: the end
// of the program would reset it, and hide what the program left behind.
func (i *installation) at(args ...string) *session {
	i.t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		i.t.Skip("there are no pseudo terminals here:", err)
	}
	i.t.Cleanup(func() { _ = master.Close() })
	require.NoError(i.t, unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0))
	number, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	require.NoError(i.t, err)
	slave, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		i.t.Skip("pseudo terminals cannot be opened here:", err)
	}
	i.t.Cleanup(func() { _ = slave.Close() })

	s := &session{t: i.t, master: master, slave: slave, copied: make(chan struct{})}
	s.modes = s.currentModes()
	require.NotZero(i.t, s.modes.Lflag&unix.ECHO, "a terminal begins with echo")
	for name, value := range map[string]string{"TERM": "xterm", "NO_COLOR": ""} {
		if _, set := i.env[name]; !set {
			i.env[name] = value
		}
	}
	s.cmd, _, _ = i.command(args...)
	s.cmd.Stdin, s.cmd.Stdout, s.cmd.Stderr = slave, slave, slave
	require.NoError(i.t, s.cmd.Start())
	i.t.Cleanup(func() { _ = s.cmd.Process.Kill(); _ = s.cmd.Wait() })
	go func() {
		defer close(s.copied)
		_, _ = io.Copy(s, master) // ends with an error when nobody has the other end any more
	}()
	return s
}

func (s *session) currentModes() unix.Termios {
	s.t.Helper()
	modes, err := unix.IoctlGetTermios(int(s.slave.Fd()), unix.TCGETS)
	require.NoError(s.t, err)
	return *modes
}

func (s *session) types(text string) {
	s.t.Helper()
	_, err := s.master.WriteString(text)
	require.NoError(s.t, err)
}

// waitsFor waits until something was printed.
func (s *session) waitsFor(text string) {
	s.t.Helper()
	require.Eventually(s.t, func() bool { return strings.Contains(s.output(), text) }, time.Minute, 5*time.Millisecond,
		"%q was expected", text)
}

// ends waits for the end of the program and returns all that it printed.
func (s *session) ends(code int) string {
	s.t.Helper()
	ended := make(chan struct{})
	go func() { _ = s.cmd.Wait(); close(ended) }()
	select {
	case <-ended:
	case <-time.After(time.Minute):
		s.t.Fatalf("it does not end, and has printed %q", s.output())
	}
	assert.Equal(s.t, s.modes, s.currentModes(), "the terminal is as it was")
	_ = s.slave.Close()
	<-s.copied
	require.Equal(s.t, code, s.cmd.ProcessState.ExitCode(), "%q", s.output())
	return s.output()
}

// hold keeps Polar's answers back until release is called.
func (i *installation) hold() (release func()) {
	free := make(chan struct{})
	release = sync.OnceFunc(func() { close(free) })
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		<-free
		i.polar.ServeHTTP(w, r)
	}))
	i.t.Cleanup(func() { release(); front.Close() })
	i.env["POLAR_API_URL"] = front.URL
	return release
}

func TestAKeyThatIsTypedIsNotShown(t *testing.T) {
	t.Parallel()
	i := install(t, polartest.LicenseKey{LimitActivations: polartest.Limit(1)})
	for _, args := range [][]string{{"activate"}, {"activate", "-"}, {"activate", "--wait"}} {
		s := i.at(args...)
		s.waitsFor("License key: ")
		assert.Zero(t, s.currentModes().Lflag&unix.ECHO)
		s.types(i.key.Key + "x\x7f\r") // with a mistake that is corrected
		printed := s.ends(exitOK)
		assert.NotContains(t, printed, i.key.Key[:8])
		lines := screen(printed)
		assert.Equal(t, "License key:", lines[0])
		assert.Equal(t, "State          active", lines[1])
		i.expect(exitOK, "deactivate")
	}
}

func TestTheKeyIsAskedForBesideTheAnswerInJSON(t *testing.T) {
	t.Parallel()
	i := install(t, polartest.LicenseKey{LimitActivations: polartest.Limit(1)})
	s := i.at("activate", "--json")
	s.waitsFor("License key: ")
	s.types("\r")
	printed := s.ends(exitUsage)
	assert.Contains(t, printed, `"reason": "input"`)
	assert.Contains(t, printed, "The license key is empty")
}

func TestGivingUpAtThePromptPutsTheTerminalBack(t *testing.T) {
	t.Parallel()
	i := install(t, polartest.LicenseKey{LimitActivations: polartest.Limit(1)})
	for name, giveUp := range map[string]func(*session){
		"Ctrl-C":               func(s *session) { s.types("half a ke\x03") },
		"Ctrl-D":               func(s *session) { s.types("\x04") },
		"an interrupt":         func(s *session) { _ = s.cmd.Process.Signal(os.Interrupt) },
		"the end of a session": func(s *session) { _ = s.cmd.Process.Signal(syscall.SIGTERM) },
	} {
		s := i.at("activate")
		s.waitsFor("License key: ")
		require.NotEqual(t, s.modes, s.currentModes())
		giveUp(s)
		assert.Equal(t, []string{"License key:", "Interrupted."}, screen(s.ends(exitNotNow)), name)
	}
	assert.Empty(t, i.polar.Requests())
}

func TestAStatusHasColoursOnATerminalThatWantsThem(t *testing.T) {
	t.Parallel()
	i := install(t, polartest.LicenseKey{LimitActivations: polartest.Limit(1)})
	i.expect(exitOK, "activate", i.key.Key)
	plain := i.expect(exitOK, "status").stdout
	assert.NotContains(t, plain, "\x1b")
	for _, x := range []struct {
		term, noColor string
		colored       bool
	}{
		{"xterm", "", true},
		{"xterm", "1", false},
		{"dumb", "", false},
		{"", "", false},
	} {
		i.env["TERM"], i.env["NO_COLOR"] = x.term, x.noColor
		printed := strings.ReplaceAll(i.at("status").ends(exitOK), "\r\n", "\n")
		if x.colored {
			assert.Contains(t, printed, "\x1b[32mactive\x1b[0m")
		} else {
			assert.NotContains(t, printed, "\x1b", "%+v", x)
		}
		assert.Equal(t, plain, withoutColor(printed), "the words are the same")
	}
}

func TestALongWaitIsShownOnATerminalAndLeavesNoTrace(t *testing.T) {
	t.Parallel()
	i := install(t, polartest.LicenseKey{LimitActivations: polartest.Limit(1)})
	release := i.hold()
	s := i.at("activate", i.key.Key)
	s.waitsFor("Contacting the license server… 0:")
	release()
	lines := screen(s.ends(exitOK))
	assert.Equal(t, "State          active", lines[0])
	assert.NotContains(t, strings.Join(lines, "\n"), "Asking")
}

func TestADumbTerminalShowsNoWait(t *testing.T) {
	t.Parallel()
	i := install(t, polartest.LicenseKey{LimitActivations: polartest.Limit(1)})
	i.env["TERM"] = "dumb"
	release := i.hold()
	s := i.at("activate", i.key.Key)
	time.Sleep(2 * time.Second) // by then another terminal has been told
	release()
	assert.True(t, strings.HasPrefix(s.ends(exitOK), "State "))
}

func TestAPurchaseIsWaitedForWithTheTimeLeft(t *testing.T) {
	t.Parallel()
	i := install(t, polartest.LicenseKey{LimitActivations: polartest.Limit(1), VisibleFrom: time.Now().Add(time.Hour)})
	s := i.at("activate", "--wait", i.key.Key)
	s.waitsFor(" left")
	assert.Regexp(t, `Waiting for your purchase… [12]:\d\d left`, s.output())
	i.polar.Update(i.key.ID, func(k *polartest.LicenseKey) { k.VisibleFrom = time.Time{} })
	lines := screen(s.ends(exitOK))
	assert.Equal(t, "State          active", lines[0])
	assert.Equal(t, 1, i.polar.Seats(i.key.ID))
}

func TestAWaitThatIsInterruptedLeavesNoTraceEither(t *testing.T) {
	t.Parallel()
	i := install(t, polartest.LicenseKey{LimitActivations: polartest.Limit(1), VisibleFrom: time.Now().Add(time.Hour)})
	s := i.at("activate", "--wait", i.key.Key)
	s.waitsFor(" left")
	require.NoError(t, s.cmd.Process.Signal(os.Interrupt))
	assert.Equal(t, []string{"Interrupted."}, screen(s.ends(exitNotNow)))
}
