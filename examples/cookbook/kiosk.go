package cookbook

import (
	"context"
	"time"

	"github.com/polargate/polargate"
)

// Kiosk keeps a computer licensed that nobody sits at: a till, a display, a machine. The key
// comes from its setup. show gets the text for the screen, or "" if everything works.
func Kiosk(ctx context.Context, gate *polargate.Gate, key string, show func(text string)) error {
	for {
		status, err := gate.Ensure(ctx, key)
		if err == nil {
			break
		}
		show(status.Message)
		select {
		case <-time.After(time.Minute): // a network that comes up late, or a key that is renewed
		case <-ctx.Done():
			return nil
		}
	}
	show("")
	return gate.Run(ctx) // Config.OnChange tells of what happens later
}

// KioskConfig keeps a kiosk running through a long outage, and shows what changes.
func KioskConfig(config polargate.Config, show func(text string)) polargate.Config {
	config.GracePeriod = 60 * 24 * time.Hour
	config.OnChange = func(_, after polargate.Status) {
		if after.OK() {
			show("")
			return
		}
		show(after.Message)
	}
	return config
}
