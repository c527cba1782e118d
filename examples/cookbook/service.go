package cookbook

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/polargate/polargate"
)

// OpenService is for a program that systemd runs. One activation serves the computer, whatever
// user asks, and it is kept in the folder that StateDirectory= makes.
func OpenService(config polargate.Config) (*polargate.Gate, error) {
	config.Store = polargate.SystemStore(config.App)
	config.Logger = slog.Default()
	return polargate.Open(config)
}

// ServiceKey is the license key that LoadCredential= hands to the service. Other programs can't
// see it, as they could in Environment=.
func ServiceKey() (string, error) {
	text, err := os.ReadFile(filepath.Join(os.Getenv("CREDENTIALS_DIRECTORY"), "license-key"))
	return strings.TrimSpace(string(text)), err
}

// StartService makes sure that the key is in use, and keeps it verified until ctx ends. After a
// restart it asks nobody if it has the key already, so a computer that boots offline works.
func StartService(ctx context.Context, gate *polargate.Gate, key string) error {
	status, err := gate.Ensure(ctx, key)
	if err != nil {
		return err // systemd logs it and, with Restart=on-failure, tries again
	}
	slog.Info("licensed", "state", status.State, "features", status.Features)
	return gate.Run(ctx)
}
