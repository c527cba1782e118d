package polargate

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"
)

// helperVariable, when set, makes the test binary one of the processes that a
// test is about, instead of the tests.
const helperVariable = "POLARGATE_TEST_PROCESS"

// processes are the programs that the test binary can be. Each ends with an
// error or without; its arguments are those that it was started with.
var processes = map[string]func(args []string) error{
	"hold-lock":       processHoldsLock,
	"count-with-lock": processCountsUnderLock,
	"save-for-ever":   processSavesForEver,
	"works-by-policy": processWorksByPolicy,
	"asks-by-proxy":   processAsksByProxy,
}

func TestMain(m *testing.M) {
	name, isProcess := os.LookupEnv(helperVariable)
	if !isProcess {
		os.Exit(runTests(m))
	}
	run, ok := processes[name]
	if !ok {
		fmt.Fprintln(os.Stderr, "no such process:", name)
		os.Exit(64)
	}
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// runTests keeps what programs of a user share away from those that the user of
// the tests has.
func runTests(m *testing.M) int {
	cache, err := os.MkdirTemp("", "polargate-cache-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(cache)
	for _, name := range cacheVariables {
		_ = os.Setenv(name, cache)
	}
	return m.Run()
}

// cacheVariables are those by which os.UserCacheDir finds the folder, on the
// systems where only that hangs on them. On the others it is the user's own.
var cacheVariables = []string{"XDG_CACHE_HOME", "LocalAppData"}

// process makes the command that runs one of processes. What it says on
// standard error goes to that of the tests.
func process(t *testing.T, name string, args ...string) *exec.Cmd {
	t.Helper()
	switch runtime.GOOS {
	case "js", "wasip1", "ios":
		t.Skip("programs cannot start programs here")
	}
	self, err := os.Executable()
	require.NoError(t, err)
	cmd := exec.Command(self, args...)
	cmd.Env = append(os.Environ(), helperVariable+"="+name)
	cmd.Stderr = os.Stderr
	return cmd
}
