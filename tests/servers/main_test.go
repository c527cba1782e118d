package servers

import (
	"os"
	"testing"

	"github.com/polargate/polargate/internal/testprogram"
)

func TestMain(m *testing.M) { os.Exit(testprogram.Main(m, programs)) }
