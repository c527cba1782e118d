package cookbook

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/polargate/polargate"
)

// Uninstall is what the uninstaller calls before it removes files: "inkwell uninstall". It
// deactivates the computer, so that the customer can use the key on another one. An uninstaller
// must not fail for lack of a network, so it only says what remains to be done.
func Uninstall(ctx context.Context, gate *polargate.Gate, out io.Writer) {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	err := gate.Deactivate(ctx)
	switch portal := gate.Links().Portal; {
	case err == nil:
	case portal != "":
		fmt.Fprintln(out, "This computer couldn't be deactivated. Deactivate it here, to use your license key on another one:", portal)
	default:
		fmt.Fprintln(out, "This computer couldn't be deactivated. Please contact support, to use your license key on another one.")
	}
}
