package cookbook

import (
	"context"
	"os/signal"
	"syscall"
	"time"

	"github.com/polargate/polargate"
)

// JobMain ends the work on SIGTERM, as systems end a job, and still deactivates.
func JobMain(config polargate.Config, key string, work func(context.Context) error) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	return Job(ctx, config, key, work)
}

// Job is for a build job in a container, one of many behind one address: it activates, works,
// and deactivates. Polar accepts three requests a second from an address, so it waits for its
// turn.
func Job(ctx context.Context, config polargate.Config, key string, work func(context.Context) error) error {
	config.Ephemeral = polargate.ReleaseOnClose
	config.WaitForTurn = 10 * time.Minute
	config.ReleaseTimeout = 25 * time.Second // give the container 30 seconds to end
	gate, err := polargate.Open(config)
	if err != nil {
		return err
	}
	defer gate.Close() // os.Exit would skip it
	if _, err := gate.Activate(ctx, key); err != nil {
		return err
	}
	return work(ctx)
}
