package servers

import (
	"os"
	"testing"

	"github.com/polargate/polargate/tests/internal/kit"
)

func TestMain(m *testing.M) { os.Exit(kit.Main(m, nil)) }
