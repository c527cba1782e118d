package licensepage

import (
	"os"
	"testing"

	"github.com/polargate/polargate/internal/chromium"
	"github.com/polargate/polargate/internal/testprogram"
)

func TestMain(m *testing.M) {
	testprogram.Overlap()
	os.Exit(chromium.Run(m))
}
