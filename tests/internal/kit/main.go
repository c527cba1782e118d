package kit

import (
	"fmt"
	"os"
	"testing"
)

// Main is for TestMain. It keeps what a user's programs share, in the user's cache folder,
// apart from what the tests share, and removes that afterwards. It returns the exit code.
func Main(m *testing.M) int {
	home, err := os.MkdirTemp("", "polargate-tests-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(home)
	for _, name := range homeVariables {
		if err := os.Setenv(name, home); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	}
	return m.Run()
}

// homeVariables are those by which os.UserCacheDir and os.UserConfigDir find their
// folders, on all systems.
var homeVariables = []string{"HOME", "home", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "LocalAppData", "AppData"}
