// Desktop is a program that is sold by license key, reduced to what has to do
// with the license.
//
// With nothing set it is a tour against an embedded Polar, which needs no
// account and no network, and ends by itself. With POLAR_ORGANIZATION_ID set it
// is the program:
//
//	desktop activate KEY          take a seat for this computer
//	desktop status [--json] [--refresh]
//	desktop use N                 count N uses against the key
//	desktop deactivate            give the seat back
//	desktop doctor [--json]       a report for a support mail, without secrets
//	desktop serve [--no-browser]  the license page, in the browser
//
// The page can be seen with nothing set, too: desktop serve shows it on the embedded
// Polar, with keys to try.
//
// POLAR_API_URL is another base URL, for a proxy or a test; POLARGATE_DIR the
// folder for the state; POLARGATE_FEATURES the benefits that the program
// accepts and what they unlock, as "benefit=feature,feature;benefit=…". A
// product would build in all of these, the organization above all.
//
// The exit code is of the command: 0 when licensed or done, 2 when locked or
// refused, 3 when there is no license, 4 when it could not be decided or done
// now, and 64 when called wrongly. A refused key does not take away the license
// that is held: status then still is 0.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"

	"github.com/polargate/polargate"
	"github.com/polargate/polargate/examples/internal/setting"
)

const (
	exitOK         = 0
	exitLocked     = 2
	exitUnlicensed = 3
	exitNotNow     = 4
	exitUsage      = 64
)

const usage = `usage:
  desktop activate KEY
  desktop status [--json] [--refresh]
  desktop use N
  desktop deactivate
  desktop doctor [--json]
  desktop serve [--no-browser]
`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	code := run(ctx, os.Args[1:], os.Getenv, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

func run(ctx context.Context, args []string, getenv func(string) string, stdout, stderr io.Writer) int {
	if len(args) > 0 && slices.Contains([]string{"help", "-h", "-help", "--help"}, args[0]) {
		fmt.Fprint(stdout, usage)
		return exitOK
	}
	if getenv("POLAR_ORGANIZATION_ID") == "" {
		if len(args) > 0 && args[0] == "serve" {
			return report(serveDemo(ctx, args[1:], stdout, stderr), stderr)
		}
		if len(args) > 0 {
			fmt.Fprint(stderr, "POLAR_ORGANIZATION_ID is not set. Set it to use the program, or give no arguments for the tour.\n\n", usage)
			return exitUsage
		}
		if err := tour(ctx, stdout); err != nil {
			fmt.Fprintln(stderr, "the tour broke off:", err)
			return 1
		}
		return exitOK
	}
	if len(args) == 0 {
		fmt.Fprint(stderr, usage)
		return exitUsage
	}
	command, ok := map[string]func(context.Context, *polargate.Gate, []string, io.Writer) error{
		"activate":   activate,
		"status":     status,
		"use":        use,
		"deactivate": deactivate,
		"doctor":     doctor,
		"serve":      serve,
	}[args[0]]
	if !ok {
		// What was typed is not repeated: it may be a key.
		fmt.Fprint(stderr, "unknown command\n\n", usage)
		return exitUsage
	}
	features, err := setting.Features(getenv("POLARGATE_FEATURES"))
	if err != nil {
		fmt.Fprintln(stderr, err)
		return exitUsage
	}
	config := polargate.Config{
		OrganizationID: getenv("POLAR_ORGANIZATION_ID"),
		App:            "polargate-desktop-example",
		Version:        "1.0.0",
		Features:       features,
		BaseURL:        getenv("POLAR_API_URL"),
		Logger:         slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: slog.LevelWarn})),
	}
	if dir := getenv("POLARGATE_DIR"); dir != "" {
		config.Store = polargate.FileStore(dir)
	}
	gate, err := polargate.Open(config)
	if err != nil {
		fmt.Fprintln(stderr, err)
		return exitUsage
	}
	defer gate.Close()
	return report(command(ctx, gate, args[1:], stdout), stderr)
}

// report says what went wrong, and gives the exit code.
func report(err error, stderr io.Writer) int {
	switch {
	case err == nil:
		return exitOK
	case errors.Is(err, context.Canceled):
		fmt.Fprintln(stderr, "Interrupted.")
		return exitNotNow
	case errors.Is(err, errUsage):
		fmt.Fprint(stderr, usage)
		return exitUsage
	}
	if _, ok := errors.AsType[*polargate.StoreError](err); ok {
		fmt.Fprintln(stderr, err) // who calls a command line can do something about a folder
	} else {
		fmt.Fprintln(stderr, polargate.Message(err))
	}
	if _, ok := errors.AsType[*statusNote](err); ok {
		return exitOK
	}
	return exitCode(err)
}

// statusNote is a refresh that failed while the license goes on.
type statusNote struct{ error }

func (n *statusNote) Unwrap() error { return n.error }

// errUsage is a command that was called wrongly.
var errUsage = errors.New(strings.TrimSpace(usage))

// exitCode is what an error means to a script.
func exitCode(err error) int {
	var input *polargate.InputError
	var failed *polargate.Error
	switch {
	case errors.Is(err, errUsage), errors.As(err, &input):
		return exitUsage
	case !errors.As(err, &failed):
		return exitNotNow // for instance a folder that cannot be written
	}
	switch r := failed.Reason; {
	case errors.Is(err, polargate.ErrNoLicense), r == polargate.ErrUnreadableState:
		return exitUnlicensed
	case r.Denial(), r == polargate.ErrUsageExceeded, r == polargate.ErrGraceEnded, r == polargate.ErrClockSetBack, r == polargate.ErrOtherMachine:
		return exitLocked
	}
	return exitNotNow
}

func activate(ctx context.Context, gate *polargate.Gate, args []string, out io.Writer) error {
	if len(args) != 1 || strings.HasPrefix(args[0], "-") {
		return errUsage
	}
	status, err := gate.Activate(ctx, args[0])
	if err != nil {
		return err
	}
	describe(out, status)
	return nil
}

func status(ctx context.Context, gate *polargate.Gate, args []string, out io.Writer) error {
	flags := flag.NewFlagSet("status", flag.ContinueOnError)
	asJSON := flags.Bool("json", false, "")
	refresh := flags.Bool("refresh", false, "")
	if err := parse(flags, args); err != nil {
		return err
	}
	ask := gate.Check
	if *refresh {
		ask = gate.Refresh
	}
	status, err := ask(ctx)
	if *asJSON {
		if err := writeJSON(out, status); err != nil {
			return err
		}
	} else {
		describe(out, status)
	}
	if status.OK() && err != nil {
		return &statusNote{err} // could not be refreshed, and is good all the same
	}
	return err
}

func use(ctx context.Context, gate *polargate.Gate, args []string, out io.Writer) error {
	if len(args) != 1 {
		return errUsage
	}
	n, err := strconv.ParseInt(args[0], 10, 64)
	if err != nil {
		return errUsage
	}
	left, err := gate.Consume(ctx, n)
	if err != nil {
		return err
	}
	if left == polargate.Unlimited {
		fmt.Fprintln(out, "Counted. This license has no limit.")
	} else {
		fmt.Fprintln(out, "Counted. Left:", left)
	}
	return nil
}

func deactivate(ctx context.Context, gate *polargate.Gate, args []string, out io.Writer) error {
	if len(args) != 0 {
		return errUsage
	}
	had := !gate.Status().Key.IsZero()
	if err := gate.Deactivate(ctx); err != nil {
		switch {
		case !had || !gate.Status().Key.IsZero():
		case errors.Is(err, polargate.ErrUnknownKey):
			fmt.Fprintln(out, "The license was removed from this computer. Its key has been replaced, so its seat must be freed with the new key or in the customer portal.")
		default:
			fmt.Fprintln(out, "The license was removed from this computer. Its seat could not be given back yet; that is tried again at a later start.")
		}
		return err
	}
	if !had {
		fmt.Fprintln(out, "There is no license on this computer.")
		return nil
	}
	fmt.Fprintln(out, "The license was removed from this computer, and its seat is free.")
	return nil
}

// errFindings is a report that found something wrong, and says so itself.
var errFindings = errors.New("something is wrong: see the problems above")

func doctor(ctx context.Context, gate *polargate.Gate, args []string, out io.Writer) error {
	flags := flag.NewFlagSet("doctor", flag.ContinueOnError)
	asJSON := flags.Bool("json", false, "")
	if err := parse(flags, args); err != nil {
		return err
	}
	report := gate.Diagnose(ctx)
	if *asJSON {
		if err := writeJSON(out, report); err != nil {
			return err
		}
	} else {
		fmt.Fprint(out, report)
	}
	if len(report.Problems) > 0 {
		return errFindings
	}
	return nil
}

func parse(flags *flag.FlagSet, args []string) error {
	flags.SetOutput(io.Discard)
	if err := flags.Parse(args); err != nil || flags.NArg() > 0 {
		return errUsage
	}
	return nil
}

func writeJSON(out io.Writer, v any) error {
	text, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(out, "%s\n", text)
	return err
}

func describe(out io.Writer, s polargate.Status) {
	if s.OK() {
		fmt.Fprintf(out, "%s: %s\n", s.State, s.Message)
	} else {
		fmt.Fprintln(out, s.State) // the error says the rest
	}
	if !s.Key.IsZero() {
		fmt.Fprintln(out, "key:     ", s.Key)
	}
	if len(s.Features) > 0 {
		fmt.Fprintln(out, "features:", strings.Join(s.Features, ", "))
	}
}
