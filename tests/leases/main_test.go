// Package leases is about licenses that come as leases: from a vendor's server, over a network
// or in a file.
package leases

import (
	"os"
	"testing"

	"github.com/polargate/polargate/internal/testprogram"
)

// programs are what the test binary can be besides the tests.
var programs = testprogram.Programs{}

func TestMain(m *testing.M) { os.Exit(testprogram.Main(m, programs)) }
