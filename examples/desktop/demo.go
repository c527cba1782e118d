package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"sync/atomic"
	"time"

	"github.com/polargate/polargate"
	"github.com/polargate/polargate/licensepage"
	"github.com/polargate/polargate/polartest"
)

// demo is the program on an embedded Polar, with a key for each kind of outcome,
// and buttons for what happens outside the program.
type demo struct {
	polar   *polartest.Polar
	keys    []string // their ids
	offline atomic.Bool
}

// demoFresh is short, so that nobody has to wait for a day to see a license go stale.
const demoFresh = 15 * time.Second

func serveDemo(ctx context.Context, args []string, out, logs io.Writer) error {
	if _, err := serveFlags(args); err != nil {
		return err // before keys are printed
	}
	d := &demo{polar: polartest.New(polartest.Config{})}
	folder, err := os.MkdirTemp("", "inkwell-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(folder)
	now := time.Now()
	const benefit = "0ce2a9f0-5b3e-4f5c-8a6e-2d1f7c9b4e31"
	for _, k := range []struct {
		about string
		key   polartest.LicenseKey
	}{
		{"for a year, two computers and ten syncs", polartest.LicenseKey{LimitActivations: polartest.Limit(2), LimitUsage: polartest.Limit(10), ExpiresAt: now.AddDate(1, 0, 0)}},
		{"already in use on the maximum number of computers", polartest.LicenseKey{LimitActivations: polartest.Limit(1), Activations: []polartest.Activation{{Label: "another computer"}}}},
		{"just bought: works in half a minute", polartest.LicenseKey{LimitActivations: polartest.Limit(1), VisibleFrom: now.Add(30 * time.Second)}},
		{"expired", polartest.LicenseKey{LimitActivations: polartest.Limit(1), ExpiresAt: now.AddDate(0, 0, -1)}},
		{"for another product", polartest.LicenseKey{LimitActivations: polartest.Limit(1), BenefitID: "5a2f3f6e-7d0c-4b8e-9c41-6e8d2b7a1f90"}},
	} {
		if k.key.BenefitID == "" {
			k.key.BenefitID = benefit
		}
		key := d.polar.AddKey(k.key)
		d.keys = append(d.keys, key.ID)
		fmt.Fprintf(out, "  %s  %s\n", key.Key, k.about)
	}
	fmt.Fprintln(out)
	gate, err := polargate.Open(polargate.Config{
		OrganizationID: d.polar.OrganizationID(),
		App:            "inkwell",
		Version:        "1.4.2",
		Features:       map[string][]string{benefit: {"export", "sync"}},
		BaseURL:        d.polar.URL(),
		HTTPClient:     d.polar.Client(),
		Store:          polargate.FileStore(folder),
		FreshFor:       demoFresh,
		Logger:         slog.New(slog.NewTextHandler(logs, &slog.HandlerOptions{Level: slog.LevelWarn})),
	})
	if err != nil {
		return err
	}
	defer gate.Close()
	return serve(ctx, gate, d, licensepage.Options{}, args, out)
}

// Offline is for the page.
func (d *demo) Offline() bool { return d.offline.Load() }

func (d *demo) press(w http.ResponseWriter, r *http.Request) {
	switch r.PostFormValue("do") {
	case "offline":
		d.offline.Store(true)
	case "online":
		d.offline.Store(false)
	case "revoke":
		for _, id := range d.keys {
			d.polar.Revoke(id)
		}
	case "grant":
		for _, id := range d.keys {
			d.polar.Grant(id)
		}
	}
	d.polar.SetOffline(d.Offline())
	http.Redirect(w, r, "/", http.StatusSeeOther)
}
