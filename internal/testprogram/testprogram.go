// Package testprogram lets a test binary be the programs that its tests start: each runs in a
// process of its own, without a second build. It is for tests only.
package testprogram

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"
)

// Variable, if set, names the program that the test binary is, instead of running the tests.
const Variable = "POLARGATE_TEST_PROGRAM"

// emulator, if set, names the program that runs test binaries of another processor.
const emulator = "POLARGATE_TEST_EMULATOR"

// Programs are the programs that a test binary can be, by name. Each gets the arguments that
// it was started with.
type Programs map[string]func(args []string) error

// Main is for TestMain: it runs a program, if the test binary was started as one, or else the
// tests, and returns the exit code. The tests get cache and settings folders of their own,
// which are removed afterwards, or none if nothing can be written anywhere.
func Main(m *testing.M, programs Programs) int {
	if name, is := os.LookupEnv(Variable); is {
		program, ok := programs[name]
		if !ok {
			fmt.Fprintln(os.Stderr, "no such program:", name)
			return 64
		}
		if err := program(os.Args[1:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		return 0
	}
	home, err := os.MkdirTemp("", "polargate-tests-")
	if err != nil {
		fmt.Fprintln(os.Stderr, "without a folder for temporary files:", err)
	}
	defer os.RemoveAll(home)
	for _, name := range homeVariables {
		if err := os.Setenv(name, home); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	}
	Overlap()
	return m.Run()
}

// Overlap lets more tests run in parallel than there are processors, because many of them wait
// for programs, browsers and pauses in real time. Call it before m.Run; the flag -parallel
// still overrides it. It also lets garbage grow further before it is collected, unless GOGC
// says how far: the tests keep little and throw much away, and collecting it took a quarter
// of their time.
func Overlap() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(400)
	}
	if err := flag.Set("test.parallel", strconv.Itoa(6*runtime.GOMAXPROCS(0))); err != nil {
		panic(err)
	}
}

// homeVariables are those by which os.UserCacheDir and os.UserConfigDir find their
// folders, on all systems.
var homeVariables = []string{"HOME", "home", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "LocalAppData", "AppData"}

// Command makes the command that runs one of Main's programs. Its standard error is that of
// the tests.
func Command(t *testing.T, name string, args ...string) *exec.Cmd {
	t.Helper()
	switch runtime.GOOS {
	case "js", "wasip1", "ios":
		t.Skip("programs cannot start programs here")
	}
	self, err := os.Executable()
	require.NoError(t, err)
	cmd := exec.Command(self, args...)
	if runs := os.Getenv(emulator); runs != "" {
		cmd = exec.Command(runs, append([]string{self}, args...)...)
	}
	cmd.Env = append(os.Environ(), Variable+"="+name)
	cmd.Stderr = os.Stderr
	return cmd
}

// WithHome gives a program a home, and in it a cache folder, of its own.
func WithHome(cmd *exec.Cmd, folder string) *exec.Cmd {
	for _, name := range homeVariables {
		cmd.Env = append(cmd.Env, name+"="+folder)
	}
	return cmd
}
