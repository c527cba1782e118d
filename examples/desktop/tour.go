package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/polargate/polargate"
	"github.com/polargate/polargate/polartest"
)

// freshFor is short, so that the tour doesn't take a day to show a license that goes
// stale.
const freshFor = time.Second

// tour walks through the life of a license against an embedded Polar, without a network.
// It leaves nothing behind.
func tour(ctx context.Context, out io.Writer) (err error) {
	say := func(format string, args ...any) { fmt.Fprintf(out, format+"\n", args...) }

	polar := polartest.New(polartest.Config{})
	key := polar.AddKey(polartest.LicenseKey{LimitActivations: polartest.Limit(1), LimitUsage: polartest.Limit(10)})
	folder, err := os.MkdirTemp("", "inkwell-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(folder)

	config := polargate.Config{
		OrganizationID: polar.OrganizationID(),
		App:            "inkwell",
		Version:        "1.4.2",
		Features:       map[string][]string{key.BenefitID: {"export", "sync"}},
		BaseURL:        polar.URL(),
		HTTPClient:     polar.Client(),
		Store:          polargate.FileStore(folder),
		FreshFor:       freshFor,
	}
	gate, err := polargate.Open(config)
	if err != nil {
		return err
	}
	defer func() { gate.Close() }()
	show := func(s polargate.Status) {
		say("   %s: %s", s.State, s.Message)
		say("   can export: %v; activations at Polar: %d", gate.Has("export"), polar.Seats(key.ID))
	}
	// expect fails the tour if something else happens than it says.
	expect := func(s polargate.Status, err error, want polargate.State, reason polargate.Reason) error {
		show(s)
		if s.State != want || s.Reason != reason {
			return fmt.Errorf("expected %s (%s), found %s (%s): %w", want, string(reason), s.State, string(s.Reason), err)
		}
		return nil
	}

	say("1. You start the program for the first time. Nothing is stored, so Polar isn't asked.")
	status, err := gate.Check(ctx)
	if err := expect(status, err, polargate.Unlicensed, polargate.ErrNoLicense); err != nil {
		return err
	}

	say("2. You paste the key, with quotes and a line break around it.")
	status, err = gate.Activate(ctx, " \""+key.Key+"\"\n")
	if err := expect(status, err, polargate.Active, ""); err != nil {
		return err
	}
	say("   the key prints as %v", status.Key)

	say("3. You click Activate again. That takes no second activation.")
	status, err = gate.Activate(ctx, key.Key)
	if err := expect(status, err, polargate.Active, ""); err != nil {
		return err
	}

	say("4. You restart the program. The answer on disk is still fresh, so Polar isn't asked.")
	if err := gate.Close(); err != nil {
		return err
	}
	asked := len(polar.Requests())
	if gate, err = polargate.Open(config); err != nil {
		return err
	}
	status, err = gate.Check(ctx)
	if err := expect(status, err, polargate.Active, ""); err != nil {
		return err
	}
	say("   answered from %s; requests to Polar: %d", status.Source, len(polar.Requests())-asked)

	say("5. The program counts three uses.")
	left, err := gate.Consume(ctx, 3)
	if err != nil {
		return err
	}
	say("   left: %d of 10", left)

	say("6. You go offline, and the answer goes stale. The grace period starts.")
	polar.SetOffline(true)
	if err := wait(ctx, freshFor+200*time.Millisecond); err != nil {
		return err
	}
	status, err = gate.Check(ctx)
	if err := expect(status, err, polargate.Grace, polargate.ErrUnreachable); err != nil {
		return err
	}

	say("7. You're online again.")
	polar.SetOffline(false)
	status, err = gate.Refresh(ctx)
	if err := expect(status, err, polargate.Active, ""); err != nil {
		return err
	}

	say("8. Your subscription ends, and Polar revokes the key.")
	polar.Revoke(key.ID)
	status, err = gate.Refresh(ctx)
	if err := expect(status, err, polargate.Locked, polargate.ErrInactive); err != nil {
		return err
	}
	if !errors.Is(err, polargate.ErrInactive) {
		return fmt.Errorf("expected an inactive key, found %w", err)
	}

	say("9. You renew it, and the license works again.")
	polar.Grant(key.ID)
	status, err = gate.Refresh(ctx)
	if err := expect(status, err, polargate.Active, ""); err != nil {
		return err
	}

	say("10. You deactivate this computer, to use the key on another one.")
	if err := gate.Deactivate(ctx); err != nil {
		return err
	}
	status, err = gate.Check(ctx)
	if err := expect(status, err, polargate.Unlicensed, polargate.ErrNoLicense); err != nil {
		return err
	}
	if seats := polar.Seats(key.ID); seats != 0 {
		return fmt.Errorf("expected no activation to be left, found %d", seats)
	}

	say("11. On another computer, somebody tries the program first. A trial needs neither a key nor a network.")
	config.Store, config.Trial = polargate.FileStore(folder+"/trial"), polargate.Trial{Days: 14, Features: []string{"export"}}
	trial, err := polargate.Open(config)
	if err != nil {
		return err
	}
	defer trial.Close()
	status, err = trial.Check(ctx)
	say("   %s: %s", status.State, status.Message)
	say("   can export: %v; can sync: %v", trial.Has("export"), trial.Has("sync"))
	if status.State != polargate.InTrial {
		return fmt.Errorf("expected a trial, found %s (%s): %w", status.State, status.Reason, err)
	}
	return nil
}

func wait(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
