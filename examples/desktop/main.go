// Desktop is a program that is sold by license key, reduced to what has to do
// with the license.
//
// With nothing set it is a tour against an embedded Polar, which needs no
// account and no network, and ends by itself. With POLAR_ORGANIZATION_ID set it
// is the program:
//
//	desktop activate [--wait] [KEY]  take a seat for this computer
//	desktop status [--refresh]       where the license stands
//	desktop use N                    count N uses against the key
//	desktop deactivate               give the seat back
//	desktop doctor                   a report for a support mail, without secrets
//	desktop serve [--no-browser]     the license page, in the browser
//
// Without a KEY, activate asks for it, or reads it from standard input. Each command
// but serve takes --json, and then prints one object: of doctor the report, of all
// others the status of the license after it, with "remaining" for use, and with
// "error", an object of "reason" and "message", if it failed.
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
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"slices"

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

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	context.AfterFunc(ctx, stop) // a second Ctrl-C does not wait
	code := run(ctx, os.Args[1:], os.Getenv, newConsole(os.Stdin, os.Stdout, os.Stderr, os.Getenv))
	stop()
	os.Exit(code)
}

func run(ctx context.Context, args []string, getenv func(string) string, c *console) int {
	name := ""
	if len(args) > 0 {
		name, args = args[0], args[1:]
	}
	switch {
	case name == "help" || isHelp(name):
		about := ""
		if len(args) > 0 {
			about = args[0]
		}
		fmt.Fprint(c.out, help(about))
		return exitOK
	case slices.ContainsFunc(args, isHelp):
		fmt.Fprint(c.out, help(name))
		return exitOK
	case name == "" && getenv("POLAR_ORGANIZATION_ID") == "":
		if err := tour(ctx, c.out); err != nil {
			fmt.Fprintln(c.err, "the tour broke off:", err)
			return 1
		}
		return exitOK
	case name == "serve" && getenv("POLAR_ORGANIZATION_ID") == "":
		return c.report(serveDemo(ctx, args, c))
	case getenv("POLAR_ORGANIZATION_ID") == "":
		fmt.Fprint(c.err, "POLAR_ORGANIZATION_ID is not set. Set it to use the program, or give no arguments for the tour.\n\n", help(""))
		return exitUsage
	}
	known := commands()
	i := slices.IndexFunc(known, func(c command) bool { return c.name == name })
	if i < 0 {
		// What was typed is not repeated: it may be a key.
		fmt.Fprint(c.err, "unknown command\n\n", help(""))
		return exitUsage
	}
	gate, err := openGate(getenv, c.err)
	if err != nil {
		fmt.Fprintln(c.err, err)
		return exitUsage
	}
	defer gate.Close()
	return c.report(known[i].run(ctx, gate, args, c))
}

func openGate(getenv func(string) string, logs io.Writer) (*polargate.Gate, error) {
	features, err := setting.Features(getenv("POLARGATE_FEATURES"))
	if err != nil {
		return nil, err
	}
	config := polargate.Config{
		OrganizationID: getenv("POLAR_ORGANIZATION_ID"),
		App:            "polargate-desktop-example",
		Version:        "1.0.0",
		Features:       features,
		BaseURL:        getenv("POLAR_API_URL"),
		Logger:         slog.New(slog.NewTextHandler(logs, &slog.HandlerOptions{Level: slog.LevelWarn})),
	}
	if dir := getenv("POLARGATE_DIR"); dir != "" {
		config.Store = polargate.FileStore(dir)
	}
	return polargate.Open(config)
}

// report says what went wrong, and gives the exit code.
func (c *console) report(err error) int {
	note, isNote := errors.AsType[*statusNote](err)
	switch {
	case err == nil:
		return exitOK
	case errors.Is(err, context.Canceled):
		fmt.Fprintln(c.err, "Interrupted.")
		return exitNotNow
	case errors.Is(err, errUsage):
		fmt.Fprint(c.err, help(""))
		return exitUsage
	case isNote:
		fmt.Fprintln(c.err, polargate.Message(note.error))
		return exitOK
	}
	fmt.Fprintln(c.err, words(err))
	return exitCode(err)
}

// words are what a person is told of an error.
func words(err error) string {
	if store, ok := errors.AsType[*polargate.StoreError](err); ok {
		return store.Error() // who calls a command line can do something about a folder
	}
	return polargate.Message(err)
}

// statusNote is a refresh that failed while the license goes on.
type statusNote struct{ error }

func (n *statusNote) Unwrap() error { return n.error }

// errUsage is a command that was called wrongly.
var errUsage = errors.New("called wrongly: see desktop help")

// exitCode is what an error means to a script.
func exitCode(err error) int {
	var input *polargate.InputError
	var failed *polargate.Error
	switch {
	case errors.As(err, &input):
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
